//! `KafkaRestore`: writes what a backup run captured into topics of a Kafka cluster.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{JobSettings, KafkaCluster, MissingTopics, Storage};
use crate::status::{FinishedRun, Life};

/// What to restore, from where, to where. It cannot be changed once created.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kafka-backup.dev",
    version = "v1alpha1",
    kind = "KafkaRestore",
    plural = "kafkarestores",
    shortname = "kr",
    category = "kafka-backup",
    namespaced,
    status = "KafkaRestoreStatus",
    derive = "PartialEq",
    doc = "Writes what a backup run captured into topics of a Kafka cluster, each record once and in order.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Backup", type_ = "string", json_path = ".spec.backupId"),
    printcolumn(name = "Percent", type_ = "integer", json_path = ".status.percent"),
    printcolumn(
        name = "Records",
        type_ = "integer",
        json_path = ".status.restoredRecords"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("the spec of a KafkaRestore cannot be changed; create another one"))]
pub struct KafkaRestoreSpec {
    /// Run id of the backup, or `latest` for the newest complete run.
    #[schemars(length(min = 1, max = 300))]
    pub backup_id: String,
    /// `<namespace>/<name>` of the KafkaBackup that made the archive; needed where several archives under the prefix hold that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9.-]+/[a-z0-9.-]+$"))]
    pub archive: Option<String>,
    /// Where the archive is kept; it must be writable: the restore keeps its own plan and offset map there.
    pub storage: Storage,
    /// The cluster to write to.
    pub target_cluster: KafkaCluster,
    /// Topics of the backup by name or by glob (`*`, `?`).
    #[schemars(length(min = 1))]
    pub topics: Vec<String>,
    /// Names and globs that are left out of what `topics` matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_topics: Vec<String>,
    /// What happens when a topic that is named literally is not in the backup.
    #[serde(default)]
    pub missing_topics: MissingTopics,
    /// Names in the target cluster: source topic to target topic; others keep their name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topic_mapping: BTreeMap<String, String>,
    /// Settings of the Job that makes the run.
    #[serde(default)]
    pub job: JobSettings,
    /// Resources of the worker's container; the controller's defaults where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// One restored topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredTopic {
    /// Name in the target cluster.
    pub name: String,
    /// Records in it that came from the backup.
    pub records: u64,
}

/// What has become of a KafkaRestore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaRestoreStatus {
    /// The life of its runs.
    #[serde(flatten)]
    pub life: Life,
    /// When the first run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the restore was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Records in the target so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_records: Option<u64>,
    /// Bytes of record batches in the target so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_bytes: Option<u64>,
    /// Percent of the planned records that are in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Per topic, when the restore is complete; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restored_topics: Vec<RestoredTopic>,
    /// Value of the retry annotation that was obeyed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_retry: Option<String>,
    /// Finished runs, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_history: Vec<FinishedRun>,
}
