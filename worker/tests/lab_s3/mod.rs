//! The S3 server of the lab, which `KAFKA_BACKUP_LAB_S3` names: `endpoint,bucket,access key,secret key`.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part"
)]

use std::sync::Arc;

use kafka_backup_shared::spec::Storage;
use kafka_backup_worker::store::{Places, Store};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::prefix::PrefixStore;
use serde_json::json;

/// The parts of a variable that `cargo lab test` sets.
pub fn parts<const N: usize>(variable: &str) -> [String; N] {
    let lab = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: run these tests by `cargo lab test`"));
    let parts: Vec<String> = lab.split(',').map(str::to_owned).collect();
    parts.try_into().expect(variable)
}

/// A place of its own in the bucket: as a worker opens it, and its objects without our rules, to be looked at and damaged.
pub fn open() -> (Store, Arc<dyn ObjectStore>) {
    // As main does; a second test finds it installed.
    drop(rustls::crypto::ring::default_provider().install_default());
    let [endpoint, bucket, access_key, secret_key] = parts("KAFKA_BACKUP_LAB_S3");
    let prefix = format!("archive-test/{}", uuid::Uuid::new_v4());
    // It stays: the store reads its keys anew for each request.
    let secrets = tempfile::tempdir().unwrap().keep();
    std::fs::create_dir(secrets.join("keys")).unwrap();
    for (key, content) in [("accessKey", &access_key), ("secretKey", &secret_key)] {
        std::fs::write(secrets.join("keys").join(key), content).unwrap();
    }
    let storage: Storage = serde_json::from_value(json!({
        "storageType": "s3",
        "s3": {
            "bucket": bucket, "endpoint": endpoint, "pathStyle": true, "allowHttp": true, "prefix": prefix,
            "credentialsSecret": {"name": "keys"}
        }
    }))
    .unwrap();
    let places = Places {
        secrets_dir: secrets,
        volume_dir: None,
    };
    let store = Store::open(&storage, &places).unwrap();
    let bucket = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_access_key_id(access_key)
        .with_secret_access_key(secret_key)
        .with_region("us-east-1")
        .with_allow_http(true)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .build()
        .unwrap();
    (store, Arc::new(PrefixStore::new(bucket, prefix)))
}
