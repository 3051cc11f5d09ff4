//! The parts that several kinds share.
//!
//! These are the structs that a user writes in a custom resource, that the API server checks (schema and CEL), that a plan
//! carries and that the worker reads: one definition, so that no field can get lost on the way.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archive::codec::Codec;
pub use crate::cluster::{
    CaSecret, KafkaCluster, OAuth, SaslMechanism, SaslSecret, SecurityProtocol, TlsSecret,
};
pub use crate::offset_spec::{
    CarryOver, CarryOverStrategy, MappingConfigMap, OffsetStrategy, RestoreRef, RestoreSnapshot,
    SnapshotConfigMap, SnapshotOperation, SnapshotPlace, SnapshotStorage, SnapshotStorageType,
    SnapshotVerify, is_dns_label,
};
pub use crate::pod_template::{PodTemplate, PodVolume};
pub use crate::restore_spec::{
    IfTopicNotEmpty, Pitr, Repartition, RestoreFrom, TimeRange, TopicConfig,
};
pub use crate::storage::{
    AzureCredentialsSecret, AzureSasTokenSecret, AzureServicePrincipalSecret, AzureStorage,
    EncryptionType, GcsCredentialsSecret, GcsStorage, PvcStorage, S3CredentialsSecret, S3Storage,
    ServerSideEncryption, Storage, StorageType,
};

/// What happens when a topic that is named literally does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MissingTopics {
    /// The run fails before it writes anything.
    #[default]
    Fail,
    /// The others are taken; the missing ones are named as warnings.
    Ignore,
}

/// The codec of stored records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Compression {
    /// Whatever the broker has, batch by batch.
    #[default]
    Source,
    /// zstd.
    Zstd,
    /// lz4.
    Lz4,
    /// gzip.
    Gzip,
    /// snappy.
    Snappy,
    /// Not compressed.
    None,
}

impl Compression {
    /// The codec that records are encoded with; none where they stay as they are.
    pub fn codec(self) -> Option<Codec> {
        match self {
            Self::Source => None,
            Self::Zstd => Some(Codec::Zstd),
            Self::Lz4 => Some(Codec::Lz4),
            Self::Gzip => Some(Codec::Gzip),
            Self::Snappy => Some(Codec::Snappy),
            Self::None => Some(Codec::None),
        }
    }

    /// The highest level; none where the codec has no levels.
    pub fn max_level(self) -> Option<u8> {
        match self {
            Self::Zstd => Some(22),
            Self::Gzip => Some(9),
            Self::Source | Self::Lz4 | Self::Snappy | Self::None => None,
        }
    }
}

/// How fast a run may go, over all its partitions together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.bytesPerSecond) || has(self.recordsPerSecond)").message("rateLimit needs bytesPerSecond or recordsPerSecond")
)]
pub struct RateLimit {
    /// Bytes of record batches, compressed as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub bytes_per_second: Option<u64>,
    /// Records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000_000i64))]
    pub records_per_second: Option<u64>,
}

/// Settings of the Job that makes a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSettings {
    /// Failed pods after which the run has failed; where it is left out, 3 for backups and restores (a later pod goes on where an
    /// earlier one stopped), 0 for the offset kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub backoff_limit: Option<i32>,
    /// Seconds after which the run has failed, however far it got.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds within which the run's first pod must have started; 600 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub start_deadline_seconds: Option<i64>,
    /// Seconds that the finished Job is kept, from the moment it is accounted; 86400 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
}

impl JobSettings {
    /// Seconds within which the run's first pod must have started.
    pub fn start_deadline_seconds(&self) -> i64 {
        self.start_deadline_seconds.unwrap_or(600)
    }

    /// Seconds that an accounted Job is kept.
    pub fn ttl_seconds_after_finished(&self) -> i32 {
        self.ttl_seconds_after_finished.unwrap_or(86_400)
    }
}

/// Which runs stay in the archive: those within every limit that is given, and always the newest complete one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.backups) || has(self.maxAge)").message("retention needs backups, maxAge or both")
)]
pub struct Retention {
    /// Complete runs that stay; older ones go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100000))]
    pub backups: Option<u32>,
    /// Runs that began longer ago go: a number of hours, days or weeks, as in 12h, 30d or 8w.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[1-9][0-9]{0,4}[hdw]$"))]
    pub max_age: Option<String>,
    /// Deletes nothing; the report of each run says what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// Hours of an age as in `12h`, `30d` or `8w`.
pub fn parse_age_hours(text: &str) -> Option<u32> {
    let (number, hours) = [('h', 1), ('d', 24), ('w', 7 * 24)]
        .into_iter()
        .find_map(|(unit, hours)| Some((text.strip_suffix(unit)?, hours)))?;
    let plain =
        number.len() <= 5 && !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    number
        .parse::<u32>()
        .ok()
        .filter(|_| plain)
        .map(|number| number * hours)
}
