//! What a server sees of the settings that have no other effect here.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::*;
use crate::store::{Created, Store};
use kafka_backup_shared::report::Fault;

/// What is asked, and the key id that is taken.
#[derive(Default)]
struct Seen {
    taken: String,
    refused: u32,
    puts: Vec<(Option<String>, Option<String>)>,
}

type Shared = Arc<Mutex<Seen>>;

/// Lists nothing, has nothing, takes everything.
async fn answer(State(seen): State<Shared>, request: Request) -> impl IntoResponse {
    let (status, text) = decided(&mut seen.lock().unwrap(), &request);
    (status, [("etag", "\"1\"")], text)
}

fn decided(seen: &mut Seen, request: &Request) -> (StatusCode, &'static str) {
    let header = |name: &str| {
        let value = request.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let signed = header("authorization").unwrap_or_default();
    if !signed.contains(&format!("Credential={}/", seen.taken)) {
        seen.refused += 1;
        let text = "<Error><Code>InvalidAccessKeyId</Code></Error>";
        return (StatusCode::FORBIDDEN, text);
    }
    let query = request.uri().query().unwrap_or_default();
    match *request.method() {
        Method::GET if query.contains("list-type") => (StatusCode::OK, "<ListBucketResult/>"),
        Method::PUT => {
            seen.puts.push((
                header("x-amz-server-side-encryption"),
                header("x-amz-server-side-encryption-aws-kms-key-id"),
            ));
            (StatusCode::OK, "")
        }
        _ => (StatusCode::NOT_FOUND, ""),
    }
}

async fn server() -> (Shared, String) {
    let seen = Shared::default();
    seen.lock().unwrap().taken = "old".to_owned();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (seen, address)
}

fn write(folder: &Path, key: &str, text: &str) {
    std::fs::create_dir_all(folder.join("keys")).unwrap();
    std::fs::write(folder.join("keys").join(key), text).unwrap();
}

fn opened(address: &str, folder: &Path, extra: Value) -> Result<Store, StoreError> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut block = json!({
        "bucket": "backups", "endpoint": address, "allowHttp": true, "pathStyle": true,
        "credentialsSecret": {"name": "keys"},
    });
    let fields = block.as_object_mut().unwrap();
    fields.extend(extra.as_object().unwrap().clone());
    let places = Places {
        secrets_dir: folder.into(),
        volume_dir: None,
    };
    let storage = json!({"storageType": "s3", "s3": block});
    Store::open(&serde_json::from_value(storage).unwrap(), &places)
}

#[tokio::test]
async fn encryption_is_asked_for_as_the_spec_says() {
    let (seen, address) = server().await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "accessKey", "old");
    write(folder.path(), "secretKey", "s");
    for (extra, kind, key) in [
        (json!({}), None, None),
        (
            json!({"serverSideEncryption": {"type": "AES256"}}),
            Some("AES256"),
            None,
        ),
        (
            json!({"serverSideEncryption": {"type": "aws:kms", "kmsKeyId": "alias/k"}}),
            Some("aws:kms"),
            Some("alias/k"),
        ),
    ] {
        let store = opened(&address, folder.path(), extra).unwrap();
        assert_eq!(store.create("a", "x".into()).await.unwrap(), Created::New);
        let put = seen.lock().unwrap().puts.pop().unwrap();
        assert_eq!((put.0.as_deref(), put.1.as_deref()), (kind, key));
    }
}

#[tokio::test]
async fn keys_are_read_anew_and_waited_for_once_they_were_taken() {
    let (seen, address) = server().await;
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "accessKey", "wrong");
    write(folder.path(), "secretKey", "s");
    // Refused at first sight: final.
    let store = opened(&address, folder.path(), json!({})).unwrap();
    let error = store.check_readable().await.unwrap_err();
    assert_eq!(
        (error.fault(), seen.lock().unwrap().refused),
        (Fault::Denied, 1)
    );
    // Taken; then the server's key changes, and the Secret a moment later.
    write(folder.path(), "accessKey", "old");
    store.check_readable().await.unwrap();
    seen.lock().unwrap().taken = "new".to_owned();
    let creating = store.create("a", "x".into());
    let rotating = async {
        while seen.lock().unwrap().refused < 3 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        write(folder.path(), "accessKey", "new");
    };
    let (created, ()) = tokio::join!(creating, rotating);
    assert_eq!(created.unwrap(), Created::New);
    // Who may not delete is told so at once.
    seen.lock().unwrap().taken = "newer".to_owned();
    let error = store.delete(&["a".to_owned()]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Denied);
}

#[test]
fn a_ca_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (key, text) in [("accessKey", "k"), ("secretKey", "s"), ("ca.crt", "no pem")] {
        write(folder.path(), key, text);
    }
    let error = opened(
        "https://s3",
        folder.path(),
        json!({"caSecret": {"name": "keys"}}),
    );
    let error = error.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let text = error.to_string();
    assert!(
        text.contains("caSecret") && text.contains("\"ca.crt\""),
        "{text}"
    );
}
