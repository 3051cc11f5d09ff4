//! How a [`Storage`] of a spec becomes a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::spec::{PvcStorage, Storage, StorageType};
use object_store::local::LocalFileSystem;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::folder::Folder;
use super::rotating::Rotating;
use super::{Store, StoreError, azure, gcs, s3};
use crate::secrets;

/// Where the machine keeps what a spec only names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Secrets as `<secrets_dir>/<secret name>/<key>`.
    pub secrets_dir: PathBuf,
    /// Where the claim of a `pvc` storage is mounted; at a terminal any folder.
    pub volume_dir: Option<PathBuf>,
}

pub(super) fn open(storage: &Storage, places: &Places) -> Result<Store, StoreError> {
    let (place, prefix) = match storage.storage_type {
        StorageType::S3 => {
            let s3 = required("spec.storage.s3", &storage.s3)?;
            (s3::place(s3), &s3.prefix)
        }
        StorageType::Azure => {
            let azure = required("spec.storage.azure", &storage.azure)?;
            (azure::place(azure), &azure.prefix)
        }
        StorageType::Gcs => {
            let gcs = required("spec.storage.gcs", &storage.gcs)?;
            (gcs::place(gcs), &gcs.prefix)
        }
        StorageType::Pvc => {
            return open_pvc(required("spec.storage.pvc", &storage.pvc)?, places);
        }
    };
    let folders: Vec<PathBuf> = storage
        .secret_names()
        .into_iter()
        .map(|secret| places.secrets_dir.join(secret))
        .collect();
    if folders.is_empty() {
        return Store::new(client_of(storage, places)?, &place, prefix.as_deref());
    }
    let (storage, places) = (storage.clone(), places.clone());
    let open = Box::new(move || client_of(&storage, &places));
    let store = Rotating::new(folders, open)?;
    Ok(Store::new(Arc::new(store), &place, prefix.as_deref())?.rotated())
}

/// The client of a bucket or container, with the Secrets as they are.
fn client_of(storage: &Storage, places: &Places) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(match (&storage.s3, &storage.azure, &storage.gcs) {
        (Some(s3), ..) => Arc::new(s3::build(s3, places)?),
        (_, Some(azure), _) => Arc::new(azure::build(azure, places)?),
        (.., Some(gcs)) => Arc::new(gcs::build(gcs, places)?),
        (None, None, None) => unreachable!("a volume is opened otherwise"),
    })
}

fn required<'a, T>(field: &'static str, block: &'a Option<T>) -> Result<&'a T, StoreError> {
    block.as_ref().ok_or_else(|| StoreError::Spec {
        field,
        problem: "must be given, as storageType says".into(),
    })
}

/// Whether an endpoint is spoken to without TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Http {
    Allowed,
    Refused,
}

impl Http {
    /// Allowed where the endpoint says so itself.
    pub(super) fn of(endpoint: Option<&str>) -> Self {
        match endpoint {
            Some(endpoint) if endpoint.starts_with("http://") => Self::Allowed,
            Some(_) | None => Self::Refused,
        }
    }
}

/// How every client asks. Time-outs depend on the size of what is moved and repetition on what is known about the outcome: both
/// are decided by `Store`, so that a client makes one attempt without a limit of its own.
pub(super) fn client(http: Http) -> (ClientOptions, RetryConfig) {
    let options = ClientOptions::new()
        .with_allow_http(http == Http::Allowed)
        .with_timeout_disabled()
        .with_connect_timeout(Duration::from_secs(10));
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    (options, once)
}

impl Places {
    /// The content of one key of a Secret.
    pub(super) fn secret(&self, secret: &str, key: &str) -> Result<String, StoreError> {
        Ok(secrets::read(&self.secrets_dir, secret, key)?)
    }
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
    // Where it exists this does nothing, also on a file system that is mounted read-only.
    std::fs::create_dir_all(folder).map_err(failed)?;
    let files = LocalFileSystem::new_with_prefix(folder)
        .map_err(|error| failed(std::io::Error::other(error)))?;
    let place = format!("folder {}", folder.display());
    Ok(Store::new(Arc::new(files), &place, None)?.in_folder(Folder::new(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::report::Fault;
    use serde_json::json;

    fn storage(value: serde_json::Value) -> Storage {
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
}
