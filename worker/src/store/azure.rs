//! Azure Blob Storage. Create-only is `If-None-Match: *`, a conditional update `If-Match`.

use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::spec::AzureStorage;
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};

use super::StoreError;
use super::open::{Http, Places, client};

/// What messages call it.
pub(super) fn place(azure: &AzureStorage) -> String {
    let (container, account) = (&azure.container, &azure.account_name);
    match &azure.endpoint {
        Some(endpoint) => format!("container {container} of account {account} at {endpoint}"),
        None => format!("container {container} of account {account}"),
    }
}

pub(super) fn build(azure: &AzureStorage, places: &Places) -> Result<MicrosoftAzure, StoreError> {
    let (options, once) = client(Http::of(azure.endpoint.as_deref()));
    let mut builder = identified(azure, places)?
        .with_account(&azure.account_name)
        .with_container_name(&azure.container)
        .with_client_options(options)
        .with_retry(once);
    if let Some(endpoint) = &azure.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    builder.build().map_err(|error| StoreError::Spec {
        field: "spec.storage.azure",
        problem: match azure.use_workload_identity {
            false => error_chain(&error),
            true => format!(
                "useWorkloadIdentity needs AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE in the environment, which \
                 the cluster's workload identity webhook sets for a service account with a client id: {}",
                error_chain(&error)
            ),
        },
    })
}

/// A builder that knows who asks, and nothing else.
fn identified(azure: &AzureStorage, places: &Places) -> Result<MicrosoftAzureBuilder, StoreError> {
    let named = MicrosoftAzureBuilder::new();
    if let Some(secret) = &azure.credentials_secret {
        let key = places.secret(&secret.name, &secret.account_key_key)?;
        return Ok(named.with_access_key(key));
    }
    if let Some(secret) = &azure.sas_token_secret {
        let token = places.secret(&secret.name, &secret.sas_token_key)?;
        return Ok(named.with_config(AzureConfigKey::SasKey, token));
    }
    if let Some(secret) = &azure.service_principal_secret {
        let read = |key: &str| places.secret(&secret.name, key);
        return Ok(named.with_client_secret_authorization(
            read(&secret.client_id_key)?,
            read(&secret.client_secret_key)?,
            read(&secret.tenant_id_key)?,
        ));
    }
    let mut platform = MicrosoftAzureBuilder::from_env();
    // AKS' webhook writes it with a slash at its end, to which the client adds another.
    if let Some(host) = platform.get_config_value(&AzureConfigKey::AuthorityHost) {
        platform = platform.with_authority_host(host.trim_end_matches('/'));
    }
    Ok(match azure.use_workload_identity {
        true => platform.with_credential_type("workload_identity"),
        // Variables of the environment, else the machine's managed identity.
        false => platform,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::report::Fault;
    use serde_json::{Value, json};

    fn opened(extra: Value, files: &[(&str, &str)]) -> Result<MicrosoftAzure, StoreError> {
        let secrets = tempfile::tempdir().unwrap();
        std::fs::create_dir(secrets.path().join("keys")).unwrap();
        for (key, content) in files {
            std::fs::write(secrets.path().join("keys").join(key), content).unwrap();
        }
        let mut block = json!({"accountName": "backups", "container": "kafka"});
        let fields = block.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        let places = Places {
            secrets_dir: secrets.path().into(),
            volume_dir: None,
        };
        // As main does; a second test finds it installed.
        drop(rustls::crypto::ring::default_provider().install_default());
        build(&serde_json::from_value(block).unwrap(), &places)
    }

    #[test]
    fn each_identity_reads_its_own_keys() {
        let cases = [
            (
                json!({"credentialsSecret": {"name": "keys"}}),
                &[("AZURE_STORAGE_KEY", "a2V5\n")][..],
            ),
            (
                json!({"sasTokenSecret": {"name": "keys"}}),
                &[("AZURE_SAS_TOKEN", "?sv=2022-11-02&sig=a%3D")],
            ),
            (
                json!({"servicePrincipalSecret": {"name": "keys"}}),
                &[
                    ("AZURE_CLIENT_ID", "c"),
                    ("AZURE_TENANT_ID", "t"),
                    ("AZURE_CLIENT_SECRET", "s"),
                ],
            ),
        ];
        for (block, files) in cases {
            opened(block.clone(), files).unwrap();
            for (key, _) in files {
                let rest: Vec<(&str, &str)> =
                    files.iter().copied().filter(|(k, _)| k != key).collect();
                let error = opened(block.clone(), &rest).unwrap_err();
                assert_eq!(error.fault(), Fault::Spec);
                assert!(error.to_string().contains(key), "{error}");
            }
        }
    }

    #[test]
    fn a_key_that_is_none_is_told_without_being_shown() {
        let files = [("AZURE_STORAGE_KEY", "not base64!")];
        let error = opened(json!({"credentialsSecret": {"name": "keys"}}), &files).unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        assert!(!error.to_string().contains("base64!"), "{error}");
    }

    #[test]
    fn a_workload_identity_that_nobody_gave_is_told() {
        let error = opened(json!({"useWorkloadIdentity": true}), &[]).unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        let text = error.to_string();
        assert!(text.contains("AZURE_FEDERATED_TOKEN_FILE"), "{text}");
    }
}
