//! What becomes of committed offsets: the spec parts of the offset kinds and of a restore. Part of [`crate::spec`].
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::SpecError;
use crate::storage::{AzureStorage, GcsStorage, PvcStorage, S3Storage, Storage, StorageType};

/// Where a reset moves committed offsets to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OffsetStrategy {
    /// The log start offset of each partition.
    Earliest,
    /// The high watermark of each partition.
    Latest,
    /// The first record at or after a time; the high watermark where there is none.
    Timestamp,
    /// One offset for every partition, moved into what the partition has.
    Offset,
    /// The record that follows the one that the group has read last at the source, found by the headers that a restore adds
    /// (`includeOriginalOffsetHeader`); the offsets that the group has now are taken for the source's.
    HeaderBased,
    /// Offsets of a ConfigMap.
    FromMapping,
    /// What the groups had committed when the backup was made that a restore has written, in the restored topics.
    FromRestore,
}

impl OffsetStrategy {
    /// All strategies.
    pub const ALL: [Self; 7] = [
        Self::Earliest,
        Self::Latest,
        Self::Timestamp,
        Self::Offset,
        Self::HeaderBased,
        Self::FromMapping,
        Self::FromRestore,
    ];

    /// The value of the `strategy` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Earliest => "earliest",
            Self::Latest => "latest",
            Self::Timestamp => "timestamp",
            Self::Offset => "offset",
            Self::HeaderBased => "header_based",
            Self::FromMapping => "from_mapping",
            Self::FromRestore => "from_restore",
        }
    }
}

/// Where a restore moves the groups' offsets to that it carries over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CarryOverStrategy {
    /// What the groups had committed when the backup was made, in the restored topics.
    #[default]
    FromBackup,
    /// The log start offset of each target partition.
    Earliest,
    /// The high watermark of each target partition.
    Latest,
    /// The first record at or after a time.
    Timestamp,
    /// One offset for every partition, moved into what the partition has.
    Offset,
    /// What the groups had committed when the backup was made, found by the headers that the restore has added.
    HeaderBased,
}

/// What an offset kind does with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotOperation {
    /// Takes one.
    Snapshot,
    /// Gives the groups back what they had committed then.
    Rollback,
    /// Tells whether they have it.
    Verify,
    /// Deletes it.
    Delete,
}

impl SnapshotOperation {
    /// The word in specs, columns and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Rollback => "rollback",
            Self::Verify => "verify",
            Self::Delete => "delete",
        }
    }
}

/// The places in which a snapshot can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SnapshotStorageType {
    /// Amazon S3 or a server that speaks its protocol.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// A volume: in a Job a PersistentVolumeClaim, at a terminal a folder.
    Pvc,
    /// A ConfigMap in the namespace of the object.
    ConfigMap,
}

/// Where a snapshot of committed offsets is kept: exactly the block that `storageType` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.storageType == 's3') == has(self.s3)").message("storage.s3 must be given exactly when storageType is s3"),
    validation = Rule::new("(self.storageType == 'azure') == has(self.azure)").message("storage.azure must be given exactly when storageType is azure"),
    validation = Rule::new("(self.storageType == 'gcs') == has(self.gcs)").message("storage.gcs must be given exactly when storageType is gcs"),
    validation = Rule::new("(self.storageType == 'pvc') == has(self.pvc)").message("storage.pvc must be given exactly when storageType is pvc"),
    validation = Rule::new("(self.storageType == 'configMap') == has(self.configMap)").message("storage.configMap must be given exactly when storageType is configMap")
)]
pub struct SnapshotStorage {
    /// Which of the blocks below is given.
    pub storage_type: SnapshotStorageType,
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
    /// A ConfigMap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<SnapshotConfigMap>,
}

/// A ConfigMap in the namespace of the object. The controller makes it; it outlives the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotConfigMap {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Where a snapshot is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "camelCase")]
pub enum SnapshotPlace {
    /// In an object store.
    Store {
        /// Which.
        storage: Storage,
    },
    /// In a ConfigMap of the object's namespace.
    ConfigMap {
        /// Its name.
        name: String,
    },
}

impl SnapshotStorage {
    /// Where that is.
    ///
    /// # Errors
    /// The field that cannot be obeyed.
    pub fn place(&self) -> Result<SnapshotPlace, SpecError> {
        let storage_type = match (self.storage_type, &self.config_map) {
            (SnapshotStorageType::ConfigMap, Some(config_map)) => {
                let blocks = [
                    ("s3", self.s3.is_some()),
                    ("azure", self.azure.is_some()),
                    ("gcs", self.gcs.is_some()),
                    ("pvc", self.pvc.is_some()),
                ];
                if let Some((found, _)) = blocks.iter().find(|(_, given)| *given) {
                    let expected = "exactly the block spec.storage.configMap, as storageType says";
                    return Err(SpecError::new("spec.storage", expected, *found));
                }
                if !is_object_name(&config_map.name) {
                    return Err(SpecError::new(
                        "spec.storage.configMap.name",
                        "1 to 253 of a-z 0-9 - . (a DNS name)",
                        format!("{:?}", config_map.name),
                    ));
                }
                return Ok(SnapshotPlace::ConfigMap {
                    name: config_map.name.clone(),
                });
            }
            (SnapshotStorageType::ConfigMap, None) => {
                let expected = "exactly the block spec.storage.configMap, as storageType says";
                return Err(SpecError::new("spec.storage", expected, "none"));
            }
            (_, Some(_)) => {
                let expected = "no block but the one that storageType names";
                return Err(SpecError::new("spec.storage", expected, "configMap"));
            }
            (SnapshotStorageType::S3, None) => StorageType::S3,
            (SnapshotStorageType::Azure, None) => StorageType::Azure,
            (SnapshotStorageType::Gcs, None) => StorageType::Gcs,
            (SnapshotStorageType::Pvc, None) => StorageType::Pvc,
        };
        let storage = Storage {
            storage_type,
            s3: self.s3.clone(),
            azure: self.azure.clone(),
            gcs: self.gcs.clone(),
            pvc: self.pvc.clone(),
        };
        storage.check()?;
        Ok(SnapshotPlace::Store { storage })
    }
}

fn is_object_name(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(is_dns_label)
}

/// Whether `text` is a DNS label (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// A key of a ConfigMap in the namespace of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MappingConfigMap {
    /// Name of the ConfigMap.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it that holds the offsets as JSON: `{"groups": {group: {topic: {partition: offset}}}}`.
    #[serde(default = "mapping_key")]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

fn mapping_key() -> String {
    "offsets.json".into()
}

/// A KafkaRestore of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// What `verify` holds against a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotVerify {
    /// Also metadata, and offsets that are committed now and were not then; else only the offsets that are in the snapshot.
    #[serde(default)]
    pub strict: bool,
}

/// Consumer groups that a restore carries over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.strategy == 'timestamp') == (has(self.timestamp) || has(self.timestampMillis))").message("timestamp or timestampMillis must be given exactly when strategy is timestamp"),
    validation = Rule::new("!(has(self.timestamp) && has(self.timestampMillis))").message("offsetReset takes timestamp or timestampMillis, not both"),
    validation = Rule::new("(self.strategy == 'offset') == has(self.offset)").message("offset must be given exactly when strategy is offset"),
    validation = Rule::new("!has(self.sourceCluster) || self.strategy == 'headerBased'").message("sourceCluster is for strategy headerBased"),
)]
pub struct CarryOver {
    /// Whether groups are carried over.
    #[serde(default)]
    pub enabled: bool,
    /// Ids and globs (`*`, `?`) of groups of the backup; all of them where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub consumer_groups: Option<Vec<String>>,
    /// Where their offsets go.
    #[serde(default)]
    pub strategy: CarryOverStrategy,
    /// The time of strategy `timestamp`, as in 2026-01-02T03:04:05Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: Option<String>,
    /// The same in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timestamp_millis: Option<i64>,
    /// The offset of strategy `offset`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub offset: Option<i64>,
    /// Strategy `headerBased`: only records count whose `x-source-cluster` is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub source_cluster: Option<String>,
}

/// The snapshot that a restore takes of the target's groups before it changes anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreSnapshot {
    /// Whether one is taken.
    #[serde(default)]
    pub enabled: bool,
    /// Its id; made from the restore's uid where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub snapshot_id: Option<String>,
}
