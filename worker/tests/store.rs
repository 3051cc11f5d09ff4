//! The stores: what they promise is tried on each. Needs what `cargo lab test` sets: `KAFKA_BACKUP_LAB_S3` and
//! `KAFKA_BACKUP_LAB_VERSITYGW` (`endpoint,bucket,access key,secret key`) for two S3 servers, `KAFKA_BACKUP_LAB_AZURE`
//! (`endpoint,account,container,key,SAS token`) for Azurite. Google's is an emulator of ours.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod gcs_emulator;
mod store_conformance;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::Storage;
use kafka_backup_worker::store::{Created, Places, PutPayload, Store, Updated};
use serde_json::{Value, json};
use store_conformance::{conforms, large_segments_are_whole, listings_have_more_than_a_page};

/// A storage block, and its credentials in files as the kubelet mounts a Secret.
struct Lab {
    secrets: tempfile::TempDir,
    kind: &'static str,
    block: Value,
    /// Files of the Secret `keys`: right, and wrong.
    right: Vec<(&'static str, String)>,
    wrong: Vec<(&'static str, String)>,
    /// More keys than one page of a listing has.
    many: usize,
}

impl Lab {
    fn new(kind: &'static str, block: Value) -> Self {
        // As main does; a second test finds it installed.
        drop(rustls::crypto::ring::default_provider().install_default());
        let secrets = tempfile::tempdir().unwrap();
        std::fs::create_dir(secrets.path().join("keys")).unwrap();
        let mut lab = Self {
            secrets,
            kind,
            block,
            right: Vec::new(),
            wrong: Vec::new(),
            many: 1005,
        };
        lab.block["prefix"] = json!(format!("store-test/{}", uuid::Uuid::new_v4()));
        lab
    }

    fn open(&self) -> Store {
        self.with_keys(&self.right)
    }

    fn write(&self, files: &[(&str, String)]) {
        let folder = self.secrets.path().join("keys");
        for (key, content) in files {
            std::fs::write(folder.join(key), format!("{content}\n")).unwrap();
        }
    }

    fn with_keys(&self, files: &[(&str, String)]) -> Store {
        let folder = Path::new(self.secrets.path());
        self.write(files);
        let storage: Storage = serde_json::from_value(json!({
            "storageType": self.kind, self.kind: self.block
        }))
        .unwrap();
        storage.check().unwrap();
        let places = Places {
            secrets_dir: folder.into(),
            volume_dir: None,
        };
        Store::open(&storage, &places).unwrap()
    }
}

/// The parts of a variable that `cargo lab test` sets.
fn parts<const N: usize>(variable: &str) -> [String; N] {
    let lab = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run these tests by `cargo lab test`"));
    let parts: Vec<String> = lab.split(',').map(str::to_owned).collect();
    parts.try_into().expect(variable)
}

fn s3(variable: &str) -> Lab {
    let [endpoint, bucket, access_key, secret_key] = parts(variable);
    let mut lab = Lab::new(
        "s3",
        json!({
            "bucket": bucket, "endpoint": endpoint, "pathStyle": true, "allowHttp": true,
            "credentialsSecret": {"name": "keys"}
        }),
    );
    lab.right = vec![("accessKey", access_key), ("secretKey", secret_key)];
    lab.wrong = vec![("secretKey", "wrong".into())];
    lab
}

async fn seaweedfs() -> Lab {
    s3("KAFKA_BACKUP_LAB_S3")
}

async fn versitygw() -> Lab {
    s3("KAFKA_BACKUP_LAB_VERSITYGW")
}

async fn azurite() -> Lab {
    let [endpoint, account, container, key, _] = parts("KAFKA_BACKUP_LAB_AZURE");
    let mut lab = Lab::new(
        "azure",
        json!({
            "accountName": account, "container": container, "endpoint": endpoint,
            "credentialsSecret": {"name": "keys"}
        }),
    );
    lab.right = vec![("AZURE_STORAGE_KEY", key)];
    lab.wrong = vec![("AZURE_STORAGE_KEY", "d3Jvbmc=".into())];
    lab.many = 5005;
    lab
}

async fn gcs() -> Lab {
    let mut lab = Lab::new(
        "gcs",
        json!({
            "bucket": gcs_emulator::BUCKET, "endpoint": gcs_emulator::serve().await,
            "credentialsSecret": {"name": "keys"}
        }),
    );
    let openssl = Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-quiet"])
        .output()
        .unwrap();
    assert!(openssl.status.success(), "{openssl:?}");
    let private_key = String::from_utf8(openssl.stdout).unwrap();
    let key = |email: &str| {
        let key = json!({
            "type": "service_account", "client_email": email, "private_key_id": "k",
            "private_key": private_key,
        });
        vec![("credentials.json", key.to_string())]
    };
    lab.right = key(gcs_emulator::ACCOUNT);
    lab.wrong = key("somebody@lab.iam.gserviceaccount.com");
    lab
}

async fn a_missing_bucket_is_the_users_to_mend(mut lab: Lab) {
    let field = match lab.kind {
        "azure" => "container",
        _ => "bucket",
    };
    lab.block[field] = json!("no-such-bucket");
    let store = lab.open();
    let error = store.check().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec, "{}", error_chain(&error));
    let text = error_chain(&error);
    assert!(text.contains("no-such-bucket"), "{text}");
    let error = store.get("k").await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec, "{}", error_chain(&error));
}

/// The keys are exchanged while the store is used; its files follow a moment later.
async fn keys_are_read_anew(lab: Lab) {
    let store = lab.open();
    store.check().await.unwrap();
    lab.write(&lab.wrong);
    let mut late = Box::pin(store.create("late", "v".into()));
    let still = tokio::time::timeout(Duration::from_secs(2), &mut late).await;
    assert!(still.is_err(), "{still:?}");
    lab.write(&lab.right);
    assert_eq!(late.await.unwrap(), Created::New);
    // What is no key is not gone on without.
    for (key, _) in &lab.right {
        std::fs::remove_file(lab.secrets.path().join("keys").join(key)).unwrap();
    }
    // Other requests wait for the files to come.
    let error = store.delete(&["late".into()]).await.unwrap_err();
    let text = error_chain(&error);
    assert_eq!(error.fault(), Fault::Denied, "{text}");
    assert!(
        text.contains("\"keys\"") && text.contains(lab.right[0].0),
        "{text}"
    );
    lab.write(&lab.right);
    assert_eq!(store.get("late").await.unwrap().as_deref(), Some(&b"v"[..]));
}

/// Refusal is never absence, whatever is asked.
async fn wrong_keys_are_denied(lab: Lab) {
    assert_eq!(
        lab.open().create("k", "v".into()).await.unwrap(),
        Created::New
    );
    let store = lab.with_keys(&lab.wrong);
    let errors = [
        store.check().await.unwrap_err(),
        store.get("k").await.unwrap_err(),
        store.get("absent").await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.list("", |_, _| Some(())).await.unwrap_err(),
        store.list_dirs("").await.unwrap_err(),
        store.create("new", "v".into()).await.unwrap_err(),
        store.delete(&["k".into()]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.fault(), Fault::Denied, "{}", error_chain(&error));
    }
}

macro_rules! on_each {
    ($($server:ident),*) => {$(
        mod $server {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn keeps_the_promises() {
                conforms(super::$server().await.open()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn listings_have_more_than_a_page() {
                let lab = super::$server().await;
                super::listings_have_more_than_a_page(&lab.open(), lab.many).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_missing_bucket_is_the_users_to_mend() {
                super::a_missing_bucket_is_the_users_to_mend(super::$server().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn wrong_keys_are_denied() {
                super::wrong_keys_are_denied(super::$server().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn keys_are_read_anew() {
                super::keys_are_read_anew(super::$server().await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn segments_of_more_than_100_mib_are_whole() {
                large_segments_are_whole(&super::$server().await.open(), 120 << 20).await;
            }
        }
    )*};
}

on_each!(seaweedfs, versitygw, azurite, gcs);

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_access_signature_opens_a_container() {
    let [_, _, _, _, token] = parts("KAFKA_BACKUP_LAB_AZURE");
    let mut lab = azurite().await;
    lab.block["credentialsSecret"] = Value::Null;
    lab.block["sasTokenSecret"] = json!({"name": "keys"});
    let store = lab.with_keys(&[("AZURE_SAS_TOKEN", token)]);
    store.check().await.unwrap();
    assert_eq!(store.list_dirs("").await.unwrap(), Vec::<String>::new());
}
