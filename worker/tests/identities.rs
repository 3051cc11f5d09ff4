//! The identities that a platform gives its pods: the worker's program in an environment as the platform makes it, with small
//! servers in place of the platform's own that give out credentials. Those of S3 are taken by a real server of the lab; without
//! a session token, as no server here takes one of somebody else. Needs
//! `KAFKA_BACKUP_LAB_SOURCE` and `KAFKA_BACKUP_LAB_VERSITYGW`, which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod backup_support;
mod gcs_emulator;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::routing::any;
use backup_support::{bootstrap, create_topic, fill, name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a server was asked, and the status that it answers with.
#[derive(Default)]
struct Asked {
    refuses: bool,
    seen: Vec<String>,
}

type Shared = Arc<Mutex<Asked>>;

/// A pod: its files and its variables.
struct Pod {
    folder: tempfile::TempDir,
    variables: Vec<(&'static str, String)>,
    topic: String,
    storage: Value,
}

impl Pod {
    async fn new(storage: Value) -> Self {
        let topic = name("identity");
        create_topic(&topic, 1, &[]).await;
        fill(&topic, 1, 20, 100).await;
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
            topic,
            storage,
        }
    }

    /// A file with a token that the platform has put there.
    fn token(&self, content: &str) -> String {
        let path = self.folder.path().join("token");
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn secret(&self, secret: &str, key: &str, content: &[u8]) {
        let folder = self.folder.path().join("secrets").join(secret);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(key), content).unwrap();
    }

    async fn call(&self, verb: &'static str) -> Output {
        let file = self.folder.path().join("object.yaml");
        let object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup",
            "metadata": {"name": "orders", "namespace": "shop"},
            "spec": {
                "kafkaCluster": {"bootstrapServers": bootstrap().split(',').collect::<Vec<_>>()},
                "topics": [self.topic], "storage": self.storage,
            },
        });
        std::fs::write(&file, object.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_kafka-backup-worker"));
        command
            .args([verb, "-f"])
            .arg(&file)
            .arg("--secrets-dir")
            .arg(self.folder.path().join("secrets"));
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        backup_support::blocking(move || command.output().unwrap()).await
    }

    /// A backup is made, and is there.
    async fn backs_up(&self) {
        let output = self.call("run").await;
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        let output = self.call("list").await;
        let text = said(&output);
        assert!(
            text.contains("shop/orders") && text.contains("complete"),
            "{text}"
        );
    }
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

/// Endpoint, bucket, access key and secret key of versitygw.
fn versitygw() -> [String; 4] {
    let lab =
        std::env::var("KAFKA_BACKUP_LAB_VERSITYGW").expect("run these tests by `cargo lab test`");
    let parts: Vec<String> = lab.split(',').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

fn s3(endpoint: &str, bucket: &str) -> Value {
    json!({"storageType": "s3", "s3": {
        "bucket": bucket, "endpoint": endpoint, "pathStyle": true, "allowHttp": true,
        "prefix": format!("identities/{}", uuid::Uuid::new_v4()),
    }})
}

/// An hour from now.
fn expiration() -> String {
    (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string()
}

/// A certificate for 127.0.0.1 that vouches for itself, and its key.
fn certificate(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    // Without Debian's own configuration, which makes it a CA's.
    let config = "[req]\ndistinguished_name = name\nprompt = no\nx509_extensions = ends\n[name]\nCN = sts\n[ends]\nsubjectAltName = IP:127.0.0.1\nbasicConstraints = critical, CA:FALSE\n";
    std::fs::write(folder.join("sts.cnf"), config).unwrap();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-config", "sts.cnf", "-nodes", "-days", "2"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
    (read("cert.pem"), read("key.pem"))
}

/// The one call of AWS' Security Token Service that pods make, over TLS as the client insists.
async fn sts(asked: Shared, certificate: &[u8], key: &[u8], keys: [String; 2]) -> String {
    // As main does; a second test finds it installed.
    drop(rustls::crypto::ring::default_provider().install_default());
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let line = String::from_utf8_lossy(&request)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            let (status, body) = {
                let mut asked = asked.lock().unwrap();
                asked.seen.push(line);
                match asked.refuses {
                    true => ("403 Forbidden", "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>".to_owned()),
                    false => ("200 OK", format!(
                        "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken></SessionToken><Expiration>{}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>",
                        keys[0], keys[1], expiration()
                    )),
                }
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
    });
    format!("https://{address}")
}

#[tokio::test(flavor = "multi_thread")]
async fn eks_service_accounts_have_a_role() {
    let [endpoint, bucket, access_key, secret_key] = versitygw();
    let mut pod = Pod::new(s3(&endpoint, &bucket)).await;
    let asked = Shared::default();
    let (certificate, key) = certificate(pod.folder.path());
    let sts = sts(asked.clone(), &certificate, &key, [access_key, secret_key]).await;
    pod.storage["s3"]["caSecret"] = json!({"name": "ca"});
    pod.secret("ca", "ca.crt", &certificate);
    let role = "arn:aws:iam::111122223333:role/archivist";
    pod.variables = vec![
        ("AWS_ROLE_ARN", role.into()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", pod.token("projected-token")),
        ("AWS_ENDPOINT_URL_STS", sts),
        ("AWS_REGION", "us-east-1".into()),
    ];
    pod.backs_up().await;
    for line in &asked.lock().unwrap().seen {
        let wanted = [
            "Action=AssumeRoleWithWebIdentity",
            "WebIdentityToken=projected-token",
            "RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Farchivist",
        ];
        assert!(wanted.iter().all(|wanted| line.contains(wanted)), "{line}");
    }
    // The role does not trust this service account: said as it is, at once, and without the token.
    asked.lock().unwrap().refuses = true;
    let output = pod.call("run").await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(77), "{text}");
    assert!(
        text.contains("Not authorized to perform sts:AssumeRoleWithWebIdentity"),
        "{text}"
    );
    assert!(!text.contains("projected-token"), "{text}");
}

/// Serves `answer` to every request; what was asked is its headers' `authorization` and its body.
async fn serve(asked: Shared, answer: fn(&Request) -> (StatusCode, String)) -> String {
    async fn answered(
        State((asked, answer)): State<(Shared, fn(&Request) -> (StatusCode, String))>,
        request: Request,
    ) -> (StatusCode, String) {
        let answer = answer(&request);
        let path = request.uri().path().to_owned();
        let authorization = request.headers().get("authorization");
        let authorization = authorization
            .map_or("", |value| value.to_str().unwrap())
            .to_owned();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20)
            .await
            .unwrap();
        let body = String::from_utf8_lossy(&body).into_owned();
        asked
            .lock()
            .unwrap()
            .seen
            .push(format!("{path} {authorization} {body}"));
        answer
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new()
        .fallback(any(answered))
        .with_state((asked, answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn eks_pod_identity_comes_from_the_agent() {
    let [endpoint, bucket, ..] = versitygw();
    let mut pod = Pod::new(s3(&endpoint, &bucket)).await;
    let asked = Shared::default();
    let agent = serve(asked.clone(), |_| {
        let [_, _, access_key, secret_key] = versitygw();
        let credentials = json!({
            "AccessKeyId": access_key, "SecretAccessKey": secret_key, "Token": "",
            "Expiration": expiration(),
        });
        (StatusCode::OK, credentials.to_string())
    })
    .await;
    pod.variables = vec![
        (
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            format!("{agent}/v1/credentials"),
        ),
        (
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            pod.token("pod-token"),
        ),
    ];
    pod.backs_up().await;
    let seen = asked.lock().unwrap().seen.clone();
    assert!(!seen.is_empty());
    for line in seen {
        assert_eq!(line, "/v1/credentials pod-token ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gke_workload_identity_comes_from_the_metadata_server() {
    let bucket = json!({
        "bucket": gcs_emulator::BUCKET, "endpoint": gcs_emulator::serve().await, "prefix": "identities",
    });
    let mut pod = Pod::new(json!({"storageType": "gcs", "gcs": bucket})).await;
    let asked = Shared::default();
    let metadata = serve(asked.clone(), |request| {
        let asks = request.headers().get("metadata-flavor");
        if asks.is_none_or(|flavor| flavor != "Google") {
            return (StatusCode::FORBIDDEN, String::new());
        }
        // The claims {"iss": "backup@lab.iam.gserviceaccount.com"}.
        let token = "h.eyJpc3MiOiJiYWNrdXBAbGFiLmlhbS5nc2VydmljZWFjY291bnQuY29tIn0.s";
        let answer = json!({"access_token": token, "expires_in": 3600, "token_type": "Bearer"});
        (StatusCode::OK, answer.to_string())
    })
    .await;
    pod.variables = vec![("GCE_METADATA_HOST", metadata.replace("http://", ""))];
    pod.backs_up().await;
    let seen = asked.lock().unwrap().seen.clone();
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    assert!(
        !seen.is_empty() && seen.iter().all(|line| line.starts_with(path)),
        "{seen:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn aks_workload_identity_exchanges_the_projected_token() {
    let asked = Shared::default();
    let blobs = serve(Shared::default(), |request| {
        let token = request.headers().get("authorization");
        match token.is_some_and(|token| token == "Bearer access-token") {
            true if request.method() == Method::GET => {
                let listing = "<EnumerationResults><Blobs/><NextMarker/></EnumerationResults>";
                (StatusCode::OK, listing.to_owned())
            }
            true => (StatusCode::NOT_FOUND, String::new()),
            false => (StatusCode::FORBIDDEN, String::new()),
        }
    })
    .await;
    let entra = serve(asked.clone(), |request| match request.uri().path() {
        "/the-tenant/oauth2/v2.0/token" => {
            let token =
                json!({"access_token": "access-token", "expires_in": 3600, "token_type": "Bearer"});
            (StatusCode::OK, token.to_string())
        }
        _ => (StatusCode::NOT_FOUND, String::new()),
    })
    .await;
    let container = json!({
        "accountName": "backups", "container": "kafka", "endpoint": blobs, "useWorkloadIdentity": true,
    });
    let mut pod = Pod::new(json!({"storageType": "azure", "azure": container})).await;
    pod.variables = vec![
        ("AZURE_CLIENT_ID", "the-client".into()),
        ("AZURE_TENANT_ID", "the-tenant".into()),
        // As the webhook writes it.
        ("AZURE_AUTHORITY_HOST", format!("{entra}/")),
        ("AZURE_FEDERATED_TOKEN_FILE", pod.token("projected-token")),
    ];
    let output = pod.call("list").await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let seen = asked.lock().unwrap().seen.clone();
    let wanted = ["client_assertion=projected-token", "client_id=the-client"];
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(
        wanted.iter().all(|wanted| seen[0].contains(wanted)),
        "{seen:?}"
    );
}
