//! How a [`Storage`] of a spec becomes a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::spec::{PvcStorage, S3Storage, Storage, StorageType};
use object_store::aws::{AmazonS3, AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, RetryConfig};

use super::folder::Folder;
use super::{Store, StoreError};

/// Where the machine keeps what a spec only names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Secrets as `<secrets_dir>/<secret name>/<key>`.
    pub secrets_dir: PathBuf,
    /// Where the claim of a `pvc` storage is mounted; at a terminal any folder.
    pub volume_dir: Option<PathBuf>,
}

/// An endpoint without a region of its own is asked with this one, as every S3 server takes it.
const DEFAULT_REGION: &str = "us-east-1";

pub(super) fn open(storage: &Storage, places: &Places) -> Result<Store, StoreError> {
    match storage.storage_type {
        StorageType::S3 => open_s3(required("spec.storage.s3", &storage.s3)?, places),
        StorageType::Pvc => open_pvc(required("spec.storage.pvc", &storage.pvc)?, places),
    }
}

fn required<'a, T>(field: &'static str, block: &'a Option<T>) -> Result<&'a T, StoreError> {
    block.as_ref().ok_or_else(|| StoreError::Spec {
        field,
        problem: "must be given, as storageType says".into(),
    })
}

fn open_s3(s3: &S3Storage, places: &Places) -> Result<Store, StoreError> {
    let store = build_s3(s3, places)?;
    let place = match &s3.endpoint {
        Some(endpoint) => format!("bucket {} at {endpoint}", s3.bucket),
        None => format!("bucket {}", s3.bucket),
    };
    Store::new(Arc::new(store), &place, s3.prefix.as_deref())
}

fn build_s3(s3: &S3Storage, places: &Places) -> Result<AmazonS3, StoreError> {
    // Time-outs depend on the size of what is moved and repetition on what is known about the outcome: both are decided by
    // `Store`, so that the client does one attempt without a limit of its own.
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let options = ClientOptions::new()
        .with_allow_http(s3.allow_http)
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10));
    let mut builder = match &s3.credentials_secret {
        Some(secret) => {
            let read = |key: &str| read_secret(&places.secrets_dir, &secret.name, key);
            let mut builder = AmazonS3Builder::new()
                .with_access_key_id(read(&secret.access_key_key)?)
                .with_secret_access_key(read(&secret.secret_key_key)?);
            if let Some(key) = &secret.session_token_key {
                builder = builder.with_token(read(key)?);
            }
            builder
        }
        // Environment, web identity (IRSA), container role (pod identity), instance role.
        None => AmazonS3Builder::from_env(),
    };
    builder = builder
        .with_bucket_name(&s3.bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_virtual_hosted_style_request(!s3.path_style)
        .with_client_options(options)
        .with_retry(once)
        // TLS proves the payload already; without it the signature does, at the price of a SHA-256.
        .with_unsigned_payload(!s3.allow_http);
    if let Some(endpoint) = &s3.endpoint {
        builder = builder.with_endpoint(endpoint_url(endpoint, s3));
    }
    if let Some(region) = s3
        .region
        .as_deref()
        .or(s3.endpoint.as_ref().map(|_| DEFAULT_REGION))
    {
        builder = builder.with_region(region);
    }
    builder.build().map_err(|error| StoreError::Spec {
        field: "spec.storage.s3",
        problem: error_chain(&error),
    })
}

/// With virtual hosts the bucket is part of the endpoint's host name.
fn endpoint_url(endpoint: &str, s3: &S3Storage) -> String {
    let endpoint = endpoint.trim_end_matches('/');
    match endpoint.split_once("://") {
        Some((scheme, host)) if !s3.path_style => format!("{scheme}://{}.{host}", s3.bucket),
        Some(_) | None => endpoint.to_owned(),
    }
}

fn read_secret(secrets_dir: &Path, secret: &str, key: &str) -> Result<String, StoreError> {
    let path = secrets_dir.join(secret).join(key);
    let text = std::fs::read_to_string(&path).map_err(|source| StoreError::Secret {
        secret: secret.into(),
        key: key.into(),
        path,
        source,
    })?;
    // Editors and `echo` leave a line end that is no part of a key.
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn open_pvc(pvc: &PvcStorage, places: &Places) -> Result<Store, StoreError> {
    let volume = places.volume_dir.as_deref().ok_or_else(|| StoreError::Spec {
        field: "spec.storage.pvc",
        problem: format!(
            "the volume of claim {:?} is mounted in a Job only; at a terminal name a folder in its place",
            pvc.claim_name
        ),
    })?;
    // The volume must be there; a sub path is ours to make.
    let metadata = std::fs::metadata(volume).map_err(|source| StoreError::Folder {
        path: volume.into(),
        source,
    })?;
    if !metadata.is_dir() {
        let source = std::io::ErrorKind::NotADirectory.into();
        return Err(StoreError::Folder {
            path: volume.into(),
            source,
        });
    }
    let folder = match &pvc.sub_path {
        Some(sub_path) => volume.join(sub_path),
        None => volume.to_owned(),
    };
    open_folder(&folder)
}

/// A folder, made where it is missing.
pub(super) fn open_folder(folder: &Path) -> Result<Store, StoreError> {
    let failed = |source| StoreError::Folder {
        path: folder.into(),
        source,
    };
    std::fs::create_dir_all(folder).map_err(failed)?;
    let files = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let probed = Folder::probe(folder).map_err(failed)?;
    let place = format!("folder {}", folder.display());
    Ok(Store::new(Arc::new(files.with_fsync(true)), &place, None)?.in_folder(probed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::report::Fault;
    use serde_json::json;

    fn storage(value: serde_json::Value) -> Storage {
        serde_json::from_value(value).unwrap()
    }

    fn s3(extra: serde_json::Value) -> S3Storage {
        let mut value = json!({"bucket": "backups"});
        value
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_missing_secret_is_named_with_its_key() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("s3-keys")).unwrap();
        std::fs::write(folder.path().join("s3-keys/accessKey"), "a\n").unwrap();
        let places = Places {
            secrets_dir: folder.path().into(),
            volume_dir: None,
        };
        let storage = storage(json!({
            "storageType": "s3", "s3": {"bucket": "backups", "credentialsSecret": {"name": "s3-keys"}}
        }));
        let error = Store::open(&storage, &places).unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        let text = error.to_string();
        assert!(
            text.contains("\"s3-keys\"") && text.contains("\"secretKey\""),
            "{text}"
        );
    }

    #[test]
    fn a_missing_volume_is_the_users_to_mend() {
        let places = Places {
            secrets_dir: "/".into(),
            volume_dir: Some("/nowhere/volume".into()),
        };
        let storage = storage(json!({"storageType": "pvc", "pvc": {"claimName": "c"}}));
        let error = Store::open(&storage, &places).unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        assert!(error.to_string().contains("/nowhere/volume"), "{error}");
        let none = Places {
            secrets_dir: "/".into(),
            volume_dir: None,
        };
        assert!(
            Store::open(&storage, &none)
                .unwrap_err()
                .to_string()
                .contains("\"c\"")
        );
    }

    #[test]
    fn virtual_hosts_have_the_bucket_in_their_name() {
        let cases = [
            (json!({"pathStyle": true}), "https://s3.example:9000"),
            (json!({}), "https://backups.s3.example:9000"),
        ];
        for (extra, expected) in cases {
            assert_eq!(
                endpoint_url("https://s3.example:9000/", &s3(extra)),
                expected
            );
        }
    }
}
