//! Google Cloud Storage by its XML API. Create-only is `x-goog-if-generation-match: 0`, a conditional update the same header with the
//! generation that was seen.

use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::spec::GcsStorage;
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};

use super::StoreError;
use super::open::{Http, Places, client};

/// What messages call it.
pub(super) fn place(gcs: &GcsStorage) -> String {
    match &gcs.endpoint {
        Some(endpoint) => format!("bucket {} at {endpoint}", gcs.bucket),
        None => format!("bucket {}", gcs.bucket),
    }
}

pub(super) fn build(gcs: &GcsStorage, places: &Places) -> Result<GoogleCloudStorage, StoreError> {
    let (options, once) = client(Http::of(gcs.endpoint.as_deref()));
    let mut builder = match &gcs.credentials_secret {
        Some(secret) => {
            let key = places.secret(&secret.name, &secret.key)?;
            GoogleCloudStorageBuilder::new().with_service_account_key(key)
        }
        // Variables and files of the environment, else the machine's metadata server (workload identity).
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder
        .with_bucket_name(&gcs.bucket)
        .with_client_options(options)
        .with_retry(once);
    if let Some(endpoint) = &gcs.endpoint {
        builder = builder.with_base_url(endpoint.trim_end_matches('/'));
    }
    builder.build().map_err(|error| StoreError::Spec {
        field: "spec.storage.gcs",
        problem: match &gcs.credentials_secret {
            Some(secret) => format!(
                "expected the JSON key of a service account as key {:?} of Secret {:?}: {}",
                secret.key,
                secret.name,
                error_chain(&error)
            ),
            None => error_chain(&error),
        },
    })
}
