//! A real S3 server. Needs `KAFKA_BACKUP_LAB_S3` (`endpoint,bucket,access key,secret key`), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod store_conformance;

use std::path::Path;

use bytes::Bytes;
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::{S3CredentialsSecret, S3Storage, Storage, StorageType};
use kafka_backup_worker::store::{Created, Places, PutPayload, Store, StoreError, Updated};
use store_conformance::conforms;

/// The lab's bucket below a prefix of its own, with keys in files as the kubelet mounts a Secret.
struct Bucket {
    secrets: tempfile::TempDir,
    storage: S3Storage,
}

impl Bucket {
    fn new() -> Self {
        // As main does; a second test finds it installed.
        drop(rustls::crypto::ring::default_provider().install_default());
        let lab = std::env::var("KAFKA_BACKUP_LAB_S3")
            .expect("KAFKA_BACKUP_LAB_S3 is not set: run these tests by `cargo lab test`");
        let [endpoint, bucket, access_key, secret_key] = lab
            .split(',')
            .collect::<Vec<_>>()
            .try_into()
            .expect("endpoint,bucket,access key,secret key");
        let secrets = tempfile::tempdir().unwrap();
        let secret = secrets.path().join("s3-keys");
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("accessKey"), access_key).unwrap();
        std::fs::write(secret.join("secretKey"), format!("{secret_key}\n")).unwrap();
        let storage = S3Storage {
            bucket: bucket.into(),
            region: None,
            prefix: Some(format!("store-test/{}", uuid::Uuid::new_v4())),
            endpoint: Some(endpoint.into()),
            path_style: true,
            allow_http: true,
            credentials_secret: Some(S3CredentialsSecret {
                name: "s3-keys".into(),
                access_key_key: "accessKey".into(),
                secret_key_key: "secretKey".into(),
                session_token_key: None,
            }),
        };
        Self { secrets, storage }
    }

    fn open(&self) -> Result<Store, StoreError> {
        let storage = Storage {
            storage_type: StorageType::S3,
            s3: Some(self.storage.clone()),
            pvc: None,
        };
        Store::open(
            &storage,
            &Places {
                secrets_dir: self.secrets.path().into(),
                volume_dir: None,
            },
        )
    }

    fn secret(&self) -> std::path::PathBuf {
        Path::new(self.secrets.path()).join("s3-keys/secretKey")
    }
}

#[tokio::test]
async fn a_bucket_keeps_the_promises() {
    conforms(Bucket::new().open().unwrap()).await;
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let store = Bucket::new().open().unwrap();
    let writers: Vec<_> = (0..8u8)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(
                async move { store.create("k", Bytes::from(vec![i; 1000])).await.unwrap() },
            )
        })
        .collect();
    let mut winners = 0;
    for writer in writers {
        winners += usize::from(writer.await.unwrap() == Created::New);
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_missing_bucket_is_the_users_to_mend() {
    let mut bucket = Bucket::new();
    bucket.storage.bucket = "no-such-bucket".into();
    let error = bucket.open().unwrap().check().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec, "{}", error_chain(&error));
    assert!(
        error_chain(&error).contains("no-such-bucket"),
        "{}",
        error_chain(&error)
    );
}

#[tokio::test]
async fn wrong_keys_are_denied() {
    let bucket = Bucket::new();
    std::fs::write(bucket.secret(), "wrong").unwrap();
    let error = bucket.open().unwrap().check().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Denied, "{}", error_chain(&error));
}

#[tokio::test]
async fn a_large_segment_is_stored_and_read() {
    let store = Bucket::new().open().unwrap();
    let content = Bytes::from(vec![7; 20 << 20]);
    store
        .create_segment("large", content.clone().into())
        .await
        .unwrap();
    assert_eq!(store.get("large").await.unwrap(), Some(content));
}
