//! What is read from Secrets, and what is refused.

use std::path::Path;

use kafka_backup_shared::spec::KafkaCluster;
use serde_json::{Value, json};

use super::librdkafka::public_pem;
use super::*;

fn security(folder: &Path, fields: Value) -> Security {
    let mut value = json!({"bootstrapServers": ["a:9092"]});
    let object = value.as_object_mut().unwrap();
    object.extend(fields.as_object().unwrap().clone());
    let cluster: KafkaCluster = serde_json::from_value(value).unwrap();
    cluster.check("spec.kafkaCluster").unwrap();
    Security::new(&cluster, folder)
}

fn secrets(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn a_certificate() -> String {
    let all = public_pem();
    let end = "-----END CERTIFICATE-----\n";
    all[..all.find(end).unwrap() + end.len()].to_owned()
}

#[test]
fn the_public_cas_are_there_for_both_clients() {
    let ca = Pem {
        secret: String::new(),
        key: String::new(),
        text: public_pem(),
    };
    let count = ca.certificates().unwrap().len();
    assert!(count > 100, "{count}");
    assert_eq!(public_roots().len(), count);
}

#[test]
fn a_secret_that_lacks_something_is_named() {
    let folder = secrets(&[
        ("half/tls.crt", &a_certificate()),
        ("empty/other", "x"),
        ("broken/ca.crt", "no pem"),
        ("key/tls.crt", &a_certificate()),
        ("key/tls.key", "no pem"),
    ]);
    let tls = |name: &str| json!({"securityProtocol": "SSL", "tlsSecret": {"name": name}});
    let named =
        json!({"securityProtocol": "SSL", "tlsSecret": {"name": "empty", "certKey": "x.crt"}});
    let ca = json!({"securityProtocol": "SSL", "caSecret": {"name": "empty"}});
    for (fields, told) in [
        (tls("half"), vec!["\"half\"", "\"tls.crt\"", "\"tls.key\""]),
        (tls("empty"), vec!["\"empty\"", "ca.crt, tls.crt, tls.key"]),
        (tls("missing"), vec!["\"missing\""]),
        (
            tls("broken"),
            vec!["\"broken\"", "\"ca.crt\"", "certificates"],
        ),
        (tls("key"), vec!["\"key\"", "\"tls.key\"", "private key"]),
        (named, vec!["\"empty\"", "\"x.crt\""]),
        (ca, vec!["\"empty\"", "\"ca.crt\""]),
    ] {
        let error = security(folder.path(), fields.clone()).tls();
        let error = error.expect_err(&fields.to_string());
        assert_eq!(error.fault(), Fault::Spec);
        let text = crate::kafka::error::chain(&error);
        for word in told {
            assert!(text.contains(word), "{fields}: {text}");
        }
    }
}

#[test]
fn a_ca_is_taken_from_where_it_is_and_read_anew() {
    let folder = secrets(&[("tls/ca.crt", &a_certificate()), ("ca/other", "no pem")]);
    let fields = json!({"securityProtocol": "SSL", "tlsSecret": {"name": "tls"}});
    let security = security(folder.path(), fields);
    let first = security.tls().unwrap().unwrap();
    let again = security.tls().unwrap().unwrap();
    assert!(Arc::ptr_eq(&first, &again), "sessions can be resumed");
    assert!(
        security.trusted().contains("\"tls\""),
        "{}",
        security.trusted()
    );
    std::fs::write(folder.path().join("tls/ca.crt"), public_pem()).unwrap();
    let rotated = security.tls().unwrap().unwrap();
    assert!(!Arc::ptr_eq(&first, &rotated));
}

#[tokio::test]
async fn credentials_are_read_anew_and_not_shown() {
    let folder = secrets(&[("user/username", "alice\n"), ("user/password", "canary")]);
    let sasl = json!({"name": "user", "mechanism": "SCRAM-SHA-512"});
    let fields = json!({"securityProtocol": "SASL_PLAINTEXT", "saslSecret": sasl});
    let security = security(folder.path(), fields);
    let password = |credentials: Option<Credentials>| match credentials {
        Some(Credentials::Scram {
            username, password, ..
        }) => {
            assert_eq!(username, "alice");
            password
        }
        other => panic!("{other:?}"),
    };
    let first = security.credentials().await.unwrap();
    assert!(!format!("{first:?} {security:?}").contains("canary"));
    assert_eq!(password(first), "canary");
    std::fs::write(folder.path().join("user/password"), "another").unwrap();
    assert_eq!(password(security.credentials().await.unwrap()), "another");
    std::fs::remove_file(folder.path().join("user/password")).unwrap();
    let error = security.credentials().await.unwrap_err().to_string();
    assert!(
        error.contains("\"password\"") && error.contains("\"user\""),
        "{error}"
    );
}

#[tokio::test]
async fn rdkafka_gets_the_same() {
    let folder = secrets(&[
        ("user/username", "alice"),
        ("user/password", "secret"),
        ("tls/ca.crt", "ca"),
        ("tls/tls.crt", "certificate"),
        ("tls/tls.key", "key"),
    ]);
    let fields = json!({
        "securityProtocol": "SASL_SSL", "tlsSecret": {"name": "tls"},
        "saslSecret": {"name": "user", "mechanism": "PLAIN"},
    });
    let mut config = rdkafka::ClientConfig::new();
    security(folder.path(), fields)
        .configure(&mut config)
        .await
        .unwrap();
    for (name, value) in [
        ("security.protocol", "sasl_ssl"),
        ("ssl.ca.pem", "ca"),
        ("ssl.certificate.pem", "certificate"),
        ("ssl.key.pem", "key"),
        ("sasl.mechanism", "PLAIN"),
        ("sasl.username", "alice"),
        ("sasl.password", "secret"),
    ] {
        assert_eq!(config.get(name), Some(value), "{name}");
    }
}
