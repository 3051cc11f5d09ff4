//! Amazon S3 and servers that speak its protocol. Create-only is `If-None-Match: *`, a conditional update `If-Match`.

use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::spec::{EncryptionType, S3Storage, ServerSideEncryption};
use object_store::Certificate;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};

use super::StoreError;
use super::open::{Http, Places, client};

/// An endpoint without a region of its own is asked with this one, as every S3 server takes it.
const DEFAULT_REGION: &str = "us-east-1";

/// What messages call it.
pub(super) fn place(s3: &S3Storage) -> String {
    match &s3.endpoint {
        Some(endpoint) => format!("bucket {} at {endpoint}", s3.bucket),
        None => format!("bucket {}", s3.bucket),
    }
}

pub(super) fn build(s3: &S3Storage, places: &Places) -> Result<AmazonS3, StoreError> {
    let http = if s3.allow_http {
        Http::Allowed
    } else {
        Http::Refused
    };
    let (mut options, once) = client(http);
    if let Some(secret) = &s3.ca_secret {
        let text = places.secret(&secret.name, &secret.ca_key)?;
        let found = Certificate::from_pem_bundle(text.as_bytes());
        let found = found.ok().filter(|certificates| !certificates.is_empty());
        let certificates = found.ok_or_else(|| StoreError::Spec {
            field: "spec.storage.s3.caSecret",
            problem: format!(
                "key {:?} of Secret {:?} must hold one or more certificates (PEM)",
                secret.ca_key, secret.name
            ),
        })?;
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    let mut builder = match &s3.credentials_secret {
        Some(secret) => {
            let read = |key: &str| places.secret(&secret.name, key);
            let builder = AmazonS3Builder::new()
                .with_access_key_id(read(&secret.access_key_key)?)
                .with_secret_access_key(read(&secret.secret_key_key)?);
            match &secret.session_token_key {
                Some(key) => builder.with_token(read(key)?),
                None => builder,
            }
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
    builder = match &s3.server_side_encryption {
        None => builder,
        Some(ServerSideEncryption {
            kind: EncryptionType::Kms,
            kms_key_id: Some(key),
        }) => builder.with_sse_kms_encryption(key),
        Some(_) => {
            let key = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>();
            let key = key.expect("object_store has this setting");
            builder.with_config(key, "AES256")
        }
    };
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

#[cfg(test)]
#[path = "s3_test.rs"]
mod server_tests;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn s3(extra: serde_json::Value) -> S3Storage {
        let mut value = json!({"bucket": "backups"});
        let fields = value.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
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
