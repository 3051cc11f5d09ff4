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

use super::offset_reset::GroupResult;
use crate::spec::{
    CarryOver, IfTopicNotEmpty, JobSettings, KafkaCluster, MissingTopics, Pitr, PodTemplate,
    RateLimit, Repartition, RestoreFrom, RestoreSnapshot, Storage, TopicConfig,
};
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
    printcolumn(
        name = "Backup",
        type_ = "string",
        json_path = ".status.columns.backup"
    ),
    printcolumn(
        name = "Percent",
        type_ = "string",
        json_path = ".status.columns.percent"
    ),
    printcolumn(
        name = "Records",
        type_ = "string",
        json_path = ".status.columns.records"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("the spec of a KafkaRestore cannot be changed; create another one"),
    validation = Rule::new("has(self.backupRef) ? !(has(self.backupId) || has(self.storage) || has(self.archive)) : (has(self.backupId) && has(self.storage))").message("say which backup by backupId with storage, or by backupRef alone"),
    validation = Rule::new("!has(self.partitionMapping) || self.repartition != 'ByKey'").message("partitionMapping and repartition ByKey exclude each other: both say where records go"),
    validation = Rule::new("!(has(self.rollback) && self.rollback.enabled) || (has(self.offsetReset) && self.offsetReset.enabled)").message("rollback is for the groups of offsetReset, which is not enabled"),
    validation = Rule::new("!has(self.defaultReplicationFactor) || self.createTopics").message("defaultReplicationFactor is for topics that the restore creates, and createTopics is false"),
)]
pub struct KafkaRestoreSpec {
    /// Run id of the backup, or `latest` for the newest complete run; beside `storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 300))]
    pub backup_id: Option<String>,
    /// A KafkaBackup of the same namespace whose archive is restored, in place of `backupId` and `storage`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_ref: Option<BackupRef>,
    /// `<namespace>/<name>` of the KafkaBackup that made the archive; needed where several archives under the prefix hold that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9.-]+/[a-z0-9.-]+$"))]
    pub archive: Option<String>,
    /// Where the archive is kept; it must be writable: the restore keeps its own plan and offset map there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
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
    /// Partitions in the target cluster, by source topic: source partition to target partition, as in `orders: {"0": 3}`; others
    /// keep their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition_mapping: BTreeMap<String, BTreeMap<String, i32>>,
    /// What happens when a target topic has another number of partitions than its source.
    #[serde(default)]
    pub repartition: Repartition,
    /// Where the restore begins: at what the source still had when it was backed up, or at what the archive has.
    #[serde(default)]
    pub from: RestoreFrom,
    /// Only records with timestamps in a range (point in time).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pitr: Option<Pitr>,
    /// Whether each record gets headers that tell where it comes from (`x-original-topic`, `x-original-partition`,
    /// `x-original-offset`, `x-original-timestamp`, `x-source-cluster`); left out, as the backup's `includeOffsetHeaders` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_original_offset_header: Option<bool>,
    /// Whether target topics that do not exist are created; where it is false, they are refused.
    #[serde(default = "create_topics")]
    pub create_topics: bool,
    /// Replicas of created topics; left out, as many as the source had, and no more than there are brokers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub default_replication_factor: Option<i16>,
    /// Whose configs created topics have when the data is in. What would expire restored records is held back and told.
    #[serde(default)]
    pub topic_config: TopicConfig,
    /// What happens when a target topic has records.
    #[serde(default)]
    pub if_topic_not_empty: IfTopicNotEmpty,
    /// Consumer groups of the backup that go on in the target, once the data is in. One with live members is refused before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_reset: Option<CarryOver>,
    /// A snapshot of what these groups have committed in the target, taken into `storage` before anything changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RestoreSnapshot>,
    /// How fast the restore may write to the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Reads everything, writes nothing, and tells what would be written.
    #[serde(default)]
    pub dry_run: bool,
    /// Settings of the Job that makes the run.
    #[serde(default)]
    pub job: JobSettings,
    /// Resources of the worker's container; the controller's defaults where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Additions to the Job's pod.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// A KafkaBackup of the same namespace, and one of its runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Run id, or `latest` for the newest complete run.
    #[serde(default = "latest")]
    #[schemars(length(min = 1, max = 300))]
    pub backup_id: String,
}

fn latest() -> String {
    "latest".into()
}

fn create_topics() -> bool {
    true
}

/// One restored topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredTopic {
    /// Name in the target cluster.
    pub name: String,
    /// Records in it that came from the backup.
    pub records: u64,
}

/// What became of the groups that a restore carries over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CarryOverStatus {
    /// Groups whose offsets were committed.
    pub groups_reset: u64,
    /// Groups for which that failed.
    pub groups_failed: u64,
    /// Per group, those that failed first; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<GroupResult>,
}

/// The columns of `kubectl get`, each with something in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestoreColumns {
    /// Which backup: its run id, or the KafkaBackup and the run.
    pub backup: String,
    /// Percent that is done, `-` before it is known.
    pub percent: String,
    /// Records in the target so far.
    pub records: String,
}

/// What has become of a KafkaRestore.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaRestoreStatus {
    /// The life of its runs.
    #[serde(flatten)]
    pub life: Life,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<RestoreColumns>,
    /// When the first run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the restore was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Run id of the backup that was read: of `latest`, which one that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// Records in the target so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_records: Option<u64>,
    /// Bytes of record batches in the target so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_bytes: Option<u64>,
    /// Percent of the planned records that are in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Per topic, when the restore is complete; at most 100. Of a dry run, what would be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restored_topics: Vec<RestoredTopic>,
    /// What became of the groups that are carried over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset_reset_status: Option<CarryOverStatus>,
    /// Id of the snapshot of the target's groups, once it is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_snapshot_id: Option<String>,
    /// Value of the retry annotation that was obeyed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_retry: Option<String>,
    /// Finished runs, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_history: Vec<FinishedRun>,
}
