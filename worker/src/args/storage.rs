//! The flags that say which store.

use std::path::PathBuf;

use clap::Args;

/// Each names a store; one of them is given.
pub(super) const STORES: [&str; 4] = ["folder", "s3_bucket", "azure_container", "gcs_bucket"];

/// What is said of one kind of store, and of no other.
const DETAILS: [(&str, &[&str]); 3] = [
    (
        "s3_bucket",
        &[
            "s3_prefix",
            "s3_region",
            "s3_endpoint",
            "s3_path_style",
            "s3_allow_http",
            "s3_credentials_secret",
            "s3_ca_secret",
            "s3_sse",
            "s3_kms_key_id",
        ],
    ),
    (
        "azure_container",
        &[
            "azure_account_name",
            "azure_prefix",
            "azure_endpoint",
            "azure_use_workload_identity",
            "azure_credentials_secret",
            "azure_sas_token_secret",
            "azure_service_principal_secret",
        ],
    ),
    (
        "gcs_bucket",
        &["gcs_prefix", "gcs_endpoint", "gcs_credentials_secret"],
    ),
];

/// What must not stand beside `store`. clap forgives that what a detail requires is missing where something else excludes it, so
/// that details are excluded by name.
pub(super) fn details_of_other_stores(store: &str) -> Vec<&'static str> {
    let others = DETAILS.iter().filter(|(other, _)| *other != store);
    others.flat_map(|(_, details)| *details).copied().collect()
}

/// Which store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Store")]
pub struct StorageArgs {
    /// A folder, which must exist.
    #[arg(long, value_name = "DIR", conflicts_with_all = details_of_other_stores("folder"))]
    pub folder: Option<PathBuf>,
    /// An S3 bucket, which must exist.
    #[arg(long, value_name = "BUCKET", conflicts_with_all = details_of_other_stores("s3_bucket"))]
    pub s3_bucket: Option<String>,
    /// Key prefix in the bucket.
    #[arg(long, value_name = "PREFIX", requires = "s3_bucket")]
    pub s3_prefix: Option<String>,
    /// Region of the bucket.
    #[arg(long, value_name = "REGION", requires = "s3_bucket")]
    pub s3_region: Option<String>,
    /// URL of a server other than Amazon's.
    #[arg(long, value_name = "URL", requires = "s3_bucket")]
    pub s3_endpoint: Option<String>,
    /// Bucket in the path instead of the host name, as most servers other than Amazon's want it.
    #[arg(long, requires = "s3_bucket")]
    pub s3_path_style: bool,
    /// Permit an endpoint without TLS.
    #[arg(long, requires = "s3_bucket")]
    pub s3_allow_http: bool,
    /// Name of a Secret, a folder below --secrets-dir, with the files accessKey and secretKey; left out, the environment
    /// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY ...) or the machine's identity is used.
    #[arg(long, value_name = "NAME", requires = "s3_bucket")]
    pub s3_credentials_secret: Option<String>,
    /// Name of a Secret with the CA of the server's certificate as the file ca.crt.
    #[arg(long, value_name = "NAME", requires = "s3_bucket")]
    pub s3_ca_secret: Option<String>,
    /// How the store encrypts what it keeps: AES256 or aws:kms.
    #[arg(long, value_name = "TYPE", requires = "s3_bucket")]
    pub s3_sse: Option<String>,
    /// Id or ARN of the key of aws:kms.
    #[arg(long, value_name = "KEY", requires = "s3_sse")]
    pub s3_kms_key_id: Option<String>,
    /// A container of an Azure storage account, which must exist.
    #[arg(long, value_name = "CONTAINER", requires = "azure_account_name", conflicts_with_all = details_of_other_stores("azure_container"))]
    pub azure_container: Option<String>,
    /// The storage account.
    #[arg(long, value_name = "ACCOUNT", requires = "azure_container")]
    pub azure_account_name: Option<String>,
    /// Key prefix in the container.
    #[arg(long, value_name = "PREFIX", requires = "azure_container")]
    pub azure_prefix: Option<String>,
    /// URL of the account where it is not https://ACCOUNT.blob.core.windows.net.
    #[arg(long, value_name = "URL", requires = "azure_container")]
    pub azure_endpoint: Option<String>,
    /// Take the workload identity of the environment (AZURE_CLIENT_ID, AZURE_TENANT_ID, AZURE_FEDERATED_TOKEN_FILE).
    #[arg(long, requires = "azure_container")]
    pub azure_use_workload_identity: bool,
    /// Name of a Secret, a folder below --secrets-dir, with the file AZURE_STORAGE_KEY; with none of the three Secrets, the
    /// environment (AZURE_STORAGE_ACCOUNT_KEY ...) or the machine's identity is used.
    #[arg(long, value_name = "NAME", requires = "azure_container")]
    pub azure_credentials_secret: Option<String>,
    /// Name of a Secret with the file AZURE_SAS_TOKEN.
    #[arg(long, value_name = "NAME", requires = "azure_container")]
    pub azure_sas_token_secret: Option<String>,
    /// Name of a Secret with the files AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET.
    #[arg(long, value_name = "NAME", requires = "azure_container")]
    pub azure_service_principal_secret: Option<String>,
    /// A bucket of Google Cloud Storage, which must exist.
    #[arg(long, value_name = "BUCKET", conflicts_with_all = details_of_other_stores("gcs_bucket"))]
    pub gcs_bucket: Option<String>,
    /// Key prefix in the bucket.
    #[arg(long, value_name = "PREFIX", requires = "gcs_bucket")]
    pub gcs_prefix: Option<String>,
    /// URL of a server other than Google's.
    #[arg(long, value_name = "URL", requires = "gcs_bucket")]
    pub gcs_endpoint: Option<String>,
    /// Name of a Secret, a folder below --secrets-dir, with the key of a service account as the file credentials.json; left out,
    /// the environment (GOOGLE_APPLICATION_CREDENTIALS ...) or the machine's identity is used.
    #[arg(long, value_name = "NAME", requires = "gcs_bucket")]
    pub gcs_credentials_secret: Option<String>,
}
