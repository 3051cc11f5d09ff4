//! Where an archive is kept.
//!
//! # Guarantees
//! - A [`Storage`] that [`Storage::check`] takes has exactly the block that its type names, and each field of it can be obeyed.
//! - Secrets are only named: nothing here holds a credential.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cluster::CaSecret;
use crate::plan::SpecError;

/// The kinds of object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StorageType {
    /// Amazon S3 or a server that speaks its protocol, conditional writes included.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// A volume: in a Job a PersistentVolumeClaim, at a terminal a folder.
    Pvc,
}

/// Where an archive is kept: exactly the block that `storageType` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.storageType == 's3') == has(self.s3)").message("storage.s3 must be given exactly when storageType is s3"),
    validation = Rule::new("(self.storageType == 'azure') == has(self.azure)").message("storage.azure must be given exactly when storageType is azure"),
    validation = Rule::new("(self.storageType == 'gcs') == has(self.gcs)").message("storage.gcs must be given exactly when storageType is gcs"),
    validation = Rule::new("(self.storageType == 'pvc') == has(self.pvc)").message("storage.pvc must be given exactly when storageType is pvc")
)]
pub struct Storage {
    /// Which of the blocks below is given.
    pub storage_type: StorageType,
    /// An S3 bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Storage>,
    /// A container of an Azure storage account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureStorage>,
    /// A bucket of Google Cloud Storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsStorage>,
    /// A PersistentVolumeClaim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pvc: Option<PvcStorage>,
}

/// An S3 bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3Storage {
    /// The bucket; it must exist.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// The region; `us-east-1` where it is left out and an endpoint is given, else what the platform's environment says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Key prefix below which archives are kept, without slashes at its ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[^/].*[^/]$|^[^/]$"))]
    pub prefix: Option<String>,
    /// URL of a server other than Amazon's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"))]
    pub endpoint: Option<String>,
    /// Bucket in the path instead of the host name, as most servers other than Amazon's want it.
    #[serde(default)]
    pub path_style: bool,
    /// Permits an endpoint without TLS.
    #[serde(default)]
    pub allow_http: bool,
    /// The CA of the server's certificate, where it is none of the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret: Option<CaSecret>,
    /// How the store encrypts what it keeps; left out, as the bucket says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// Keys of the store; left out, the platform's identity is used (environment, IRSA, instance role).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<S3CredentialsSecret>,
}

/// How an S3 store encrypts objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'aws:kms') == has(self.kmsKeyId)").message("serverSideEncryption.kmsKeyId must be given exactly when type is aws:kms")
)]
pub struct ServerSideEncryption {
    /// Which keys: the store's own, or one of a key management service.
    #[serde(rename = "type")]
    pub kind: EncryptionType,
    /// Id or ARN of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub kms_key_id: Option<String>,
}

/// Ways of server-side encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionType {
    /// Keys of the store (SSE-S3).
    #[serde(rename = "AES256")]
    Aes256,
    /// A key of the key management service (SSE-KMS).
    #[serde(rename = "aws:kms")]
    Kms,
}

/// A Secret with S3 keys, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3CredentialsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the access key id.
    #[serde(default = "access_key")]
    pub access_key_key: String,
    /// Key in it that holds the secret access key.
    #[serde(default = "secret_key")]
    pub secret_key_key: String,
    /// Key in it that holds a session token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_token_key: Option<String>,
}

fn access_key() -> String {
    "accessKey".into()
}

fn secret_key() -> String {
    "secretKey".into()
}

/// A container of an Azure storage account.
///
/// The account proves who asks by its key, by a shared access signature, by a service principal or by a workload identity. With
/// none of them the platform's identity is used: at a terminal `AZURE_*` variables, in a pod the node's managed identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.credentialsSecret), has(self.sasTokenSecret), has(self.servicePrincipalSecret), self.useWorkloadIdentity].filter(given, given).size() <= 1").message("at most one of credentialsSecret, sasTokenSecret, servicePrincipalSecret and useWorkloadIdentity may be given")
)]
pub struct AzureStorage {
    /// Name of the storage account.
    #[schemars(regex(pattern = r"^[a-z0-9]{3,24}$"))]
    pub account_name: String,
    /// The container; it must exist.
    #[schemars(length(min = 3, max = 63))]
    pub container: String,
    /// Key prefix below which archives are kept, without slashes at its ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[^/].*[^/]$|^[^/]$"))]
    pub prefix: Option<String>,
    /// URL of the account where it is not `https://<accountName>.blob.core.windows.net`: another cloud, a private endpoint, or an
    /// emulator, which has the account in the path (`http://azurite:10000/devstoreaccount1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"))]
    pub endpoint: Option<String>,
    /// Takes the pod's Microsoft Entra workload identity: the pod is labelled `azure.workload.identity/use: "true"`, the cluster
    /// must have the workload identity webhook, and the pod's service account must be annotated with a client id.
    #[serde(default)]
    pub use_workload_identity: bool,
    /// A key of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<AzureCredentialsSecret>,
    /// A shared access signature that permits to list, read, add, create, write and delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sas_token_secret: Option<AzureSasTokenSecret>,
    /// A service principal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_principal_secret: Option<AzureServicePrincipalSecret>,
}

/// A Secret with a key of a storage account, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureCredentialsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the account's key.
    #[serde(default = "azure_account_key")]
    pub account_key_key: String,
}

/// A Secret with a shared access signature, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureSasTokenSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the token, as the portal shows it.
    #[serde(default = "azure_sas_token")]
    pub sas_token_key: String,
}

/// A Secret with a service principal, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AzureServicePrincipalSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the application's (client) id.
    #[serde(default = "azure_client_id")]
    pub client_id_key: String,
    /// Key in it that holds the directory's (tenant) id.
    #[serde(default = "azure_tenant_id")]
    pub tenant_id_key: String,
    /// Key in it that holds the client secret.
    #[serde(default = "azure_client_secret")]
    pub client_secret_key: String,
}

fn azure_account_key() -> String {
    "AZURE_STORAGE_KEY".into()
}

fn azure_sas_token() -> String {
    "AZURE_SAS_TOKEN".into()
}

fn azure_client_id() -> String {
    "AZURE_CLIENT_ID".into()
}

fn azure_tenant_id() -> String {
    "AZURE_TENANT_ID".into()
}

fn azure_client_secret() -> String {
    "AZURE_CLIENT_SECRET".into()
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsStorage {
    /// The bucket; it must exist.
    #[schemars(length(min = 3, max = 222))]
    pub bucket: String,
    /// Key prefix below which archives are kept, without slashes at its ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[^/].*[^/]$|^[^/]$"))]
    pub prefix: Option<String>,
    /// URL of a server other than `https://storage.googleapis.com`: a private endpoint or an emulator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^https?://"))]
    pub endpoint: Option<String>,
    /// Key of a service account; left out, the platform's identity is used: in GKE the workload identity of the pod's service
    /// account, at a terminal the application default credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<GcsCredentialsSecret>,
}

/// A Secret with the key of a service account, in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GcsCredentialsSecret {
    /// Name of the Secret.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Key in it that holds the JSON that Google made.
    #[serde(default = "gcs_credentials")]
    pub key: String,
}

fn gcs_credentials() -> String {
    "credentials.json".into()
}

/// A PersistentVolumeClaim in the namespace of the object, mounted into the Job's pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PvcStorage {
    /// Name of the claim.
    #[schemars(length(min = 1))]
    pub claim_name: String,
    /// Folder in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[^/].*[^/]$|^[^/]$"))]
    pub sub_path: Option<String>,
}

impl Storage {
    /// Names of the Secrets that the worker needs as files `<secrets dir>/<secret name>/<key>`.
    pub fn secret_names(&self) -> Vec<&str> {
        let s3 = self.s3.iter().flat_map(|s3| &s3.credentials_secret);
        let key = self.azure.iter().flat_map(|a| &a.credentials_secret);
        let sas = self.azure.iter().flat_map(|a| &a.sas_token_secret);
        let principal = self.azure.iter().flat_map(|a| &a.service_principal_secret);
        let gcs = self.gcs.iter().flat_map(|gcs| &gcs.credentials_secret);
        let ca = self.s3.iter().flat_map(|s3| &s3.ca_secret);
        s3.map(|secret| secret.name.as_str())
            .chain(ca.map(|secret| secret.name.as_str()))
            .chain(key.map(|secret| secret.name.as_str()))
            .chain(sas.map(|secret| secret.name.as_str()))
            .chain(principal.map(|secret| secret.name.as_str()))
            .chain(gcs.map(|secret| secret.name.as_str()))
            .collect()
    }

    /// Checks what the object alone can tell.
    ///
    /// # Errors
    /// The field that cannot be obeyed.
    pub fn check(&self) -> Result<(), SpecError> {
        let blocks = [
            (StorageType::S3, "s3", self.s3.is_some()),
            (StorageType::Azure, "azure", self.azure.is_some()),
            (StorageType::Gcs, "gcs", self.gcs.is_some()),
            (StorageType::Pvc, "pvc", self.pvc.is_some()),
        ];
        let wrong =
            |(kind, _, given): &(StorageType, &str, bool)| (*kind == self.storage_type) != *given;
        if blocks.iter().any(wrong) {
            let names = |wanted: &dyn Fn(&(StorageType, &str, bool)) -> bool| {
                let names: Vec<&str> = blocks.iter().filter(|b| wanted(b)).map(|b| b.1).collect();
                names.join(" and ")
            };
            let found = names(&|block| block.2);
            return Err(SpecError::new(
                "spec.storage",
                format!(
                    "exactly the block spec.storage.{}, as storageType says",
                    names(&|block| block.0 == self.storage_type)
                ),
                if found.is_empty() { "none" } else { &found },
            ));
        }
        if let Some(s3) = &self.s3 {
            check_s3(s3)?;
        }
        if let Some(azure) = &self.azure {
            check_azure(azure)?;
        }
        if let Some(gcs) = &self.gcs {
            check_folder("spec.storage.gcs.prefix", gcs.prefix.as_deref())?;
            check_url("spec.storage.gcs.endpoint", gcs.endpoint.as_deref())?;
        }
        if let Some(pvc) = &self.pvc {
            check_folder("spec.storage.pvc.subPath", pvc.sub_path.as_deref())?;
        }
        Ok(())
    }
}

fn check_s3(s3: &S3Storage) -> Result<(), SpecError> {
    check_folder("spec.storage.s3.prefix", s3.prefix.as_deref())?;
    check_url("spec.storage.s3.endpoint", s3.endpoint.as_deref())?;
    if let Some(encryption) = &s3.server_side_encryption {
        let by_key = encryption.kind == EncryptionType::Kms;
        if by_key != encryption.kms_key_id.is_some() {
            return Err(SpecError::new(
                "spec.storage.s3.serverSideEncryption.kmsKeyId",
                "a key exactly when type is aws:kms",
                if by_key { "none" } else { "one beside AES256" },
            ));
        }
    }
    match s3.endpoint.as_deref() {
        Some(endpoint) if endpoint.starts_with("http://") && !s3.allow_http => Err(SpecError::new(
            "spec.storage.s3.endpoint",
            "https, or allowHttp: true",
            format!("{endpoint:?}"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn check_azure(azure: &AzureStorage) -> Result<(), SpecError> {
    let account = &azure.account_name;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !(3..=24).contains(&account.len()) || !account.bytes().all(plain) {
        return Err(SpecError::new(
            "spec.storage.azure.accountName",
            "3 to 24 of a-z and 0-9",
            format!("{account:?}"),
        ));
    }
    check_folder("spec.storage.azure.prefix", azure.prefix.as_deref())?;
    check_url("spec.storage.azure.endpoint", azure.endpoint.as_deref())?;
    let identities = [
        ("credentialsSecret", azure.credentials_secret.is_some()),
        ("sasTokenSecret", azure.sas_token_secret.is_some()),
        (
            "servicePrincipalSecret",
            azure.service_principal_secret.is_some(),
        ),
        ("useWorkloadIdentity", azure.use_workload_identity),
    ];
    let given = identities.iter().filter(|(_, given)| *given);
    let given: Vec<&str> = given.map(|(name, _)| *name).collect();
    if given.len() > 1 {
        return Err(SpecError::new(
            "spec.storage.azure",
            "at most one of credentialsSecret, sasTokenSecret, servicePrincipalSecret and useWorkloadIdentity",
            given.join(" and "),
        ));
    }
    Ok(())
}

fn check_url(field: &str, url: Option<&str>) -> Result<(), SpecError> {
    match url {
        Some(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
            Err(SpecError::new(
                field,
                "a URL that begins with https:// or http://",
                format!("{url:?}"),
            ))
        }
        Some(_) | None => Ok(()),
    }
}

fn check_folder(field: &str, folder: Option<&str>) -> Result<(), SpecError> {
    let Some(folder) = folder else { return Ok(()) };
    let plain = folder
        .split('/')
        .all(|part| !matches!(part, "" | "." | ".."));
    if plain {
        return Ok(());
    }
    Err(SpecError::new(
        field,
        "a path without leading, trailing or double slashes and without . or ..",
        format!("{folder:?}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn storage(value: Value) -> Storage {
        serde_json::from_value(value).unwrap()
    }

    fn azure(extra: Value) -> Value {
        let mut block = json!({"accountName": "backups", "container": "kafka"});
        let fields = block.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        json!({"storageType": "azure", "azure": block})
    }

    fn gcs(extra: Value) -> Value {
        let mut block = json!({"bucket": "backups"});
        let fields = block.as_object_mut().unwrap();
        fields.extend(extra.as_object().unwrap().clone());
        json!({"storageType": "gcs", "gcs": block})
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        let secret = json!({"name": "keys"});
        let cases = [
            (json!({"storageType": "gcs"}), "spec.storage"),
            (
                json!({"storageType": "s3", "s3": {"bucket": "b", "serverSideEncryption": {"type": "aws:kms"}}}),
                "spec.storage.s3.serverSideEncryption.kmsKeyId",
            ),
            (
                json!({"storageType": "s3", "s3": {"bucket": "b", "serverSideEncryption": {"type": "AES256", "kmsKeyId": "k"}}}),
                "spec.storage.s3.serverSideEncryption.kmsKeyId",
            ),
            (
                json!({"storageType": "gcs", "azure": {"accountName": "abc", "container": "abc"}}),
                "spec.storage",
            ),
            (
                json!({"storageType": "s3", "s3": {"bucket": "b"}, "pvc": {"claimName": "c"}}),
                "spec.storage",
            ),
            (
                azure(json!({"accountName": "Back-ups"})),
                "spec.storage.azure.accountName",
            ),
            (azure(json!({"prefix": "/x"})), "spec.storage.azure.prefix"),
            (
                azure(json!({"endpoint": "backups.blob"})),
                "spec.storage.azure.endpoint",
            ),
            (
                azure(json!({"credentialsSecret": secret, "sasTokenSecret": secret})),
                "spec.storage.azure",
            ),
            (
                azure(json!({"servicePrincipalSecret": secret, "useWorkloadIdentity": true})),
                "spec.storage.azure",
            ),
            (gcs(json!({"prefix": "a//b"})), "spec.storage.gcs.prefix"),
            (
                gcs(json!({"endpoint": "gs://b"})),
                "spec.storage.gcs.endpoint",
            ),
        ];
        for (value, field) in cases {
            let error = storage(value.clone())
                .check()
                .expect_err(&value.to_string());
            assert_eq!(error.field, field, "{value}: {error}");
        }
    }

    #[test]
    fn each_way_to_prove_who_asks_is_taken_and_its_secret_named() {
        let secret = json!({"name": "keys"});
        let cases = [
            (azure(json!({})), &[][..]),
            (azure(json!({"useWorkloadIdentity": true})), &[]),
            (azure(json!({"credentialsSecret": secret})), &["keys"]),
            (azure(json!({"sasTokenSecret": secret})), &["keys"]),
            (azure(json!({"servicePrincipalSecret": secret})), &["keys"]),
            (gcs(json!({})), &[]),
            (gcs(json!({"credentialsSecret": secret})), &["keys"]),
        ];
        for (value, secrets) in cases {
            let storage = storage(value.clone());
            storage.check().unwrap_or_else(|e| panic!("{value}: {e}"));
            assert_eq!(storage.secret_names(), secrets, "{value}");
        }
    }
}
