//! `KafkaOffsetReset`: moves the committed offsets of consumer groups.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use k8s_openapi::api::core::v1::ResourceRequirements;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spec::{
    JobSettings, KafkaCluster, MappingConfigMap, OffsetStrategy, PodTemplate, RestoreRef,
    SnapshotStorage,
};
use crate::status::{FinishedRun, Life};

/// Which groups, and where to. It cannot be changed once created.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kafka-backup.dev",
    version = "v1alpha1",
    kind = "KafkaOffsetReset",
    plural = "kafkaoffsetresets",
    shortname = "kor",
    category = "kafka-backup",
    namespaced,
    status = "KafkaOffsetResetStatus",
    derive = "PartialEq",
    doc = "Moves the committed offsets of consumer groups, after a snapshot that brings them back.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Strategy", type_ = "string", json_path = ".spec.strategy"),
    printcolumn(name = "Reset", type_ = "string", json_path = ".status.columns.reset"),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = ".status.columns.failed"
    ),
    printcolumn(
        name = "Snapshot",
        type_ = "string",
        json_path = ".status.columns.snapshot"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("the spec of a KafkaOffsetReset cannot be changed; create another one"),
    validation = Rule::new("(self.strategy == 'timestamp') == (has(self.timestamp) || has(self.timestampMillis))").message("timestamp or timestampMillis must be given exactly when strategy is timestamp"),
    validation = Rule::new("!(has(self.timestamp) && has(self.timestampMillis))").message("give timestamp or timestampMillis, not both"),
    validation = Rule::new("(self.strategy == 'offset') == has(self.offset)").message("offset must be given exactly when strategy is offset"),
    validation = Rule::new("(self.strategy == 'fromMapping') == has(self.mappingConfigMap)").message("mappingConfigMap must be given exactly when strategy is fromMapping"),
    validation = Rule::new("(self.strategy == 'fromRestore') == has(self.restoreRef)").message("restoreRef must be given exactly when strategy is fromRestore"),
    validation = Rule::new("self.strategy == 'headerBased' || !(has(self.sourceCluster) || self.scanAllPartitions)").message("sourceCluster and scanAllPartitions are for strategy headerBased"),
    validation = Rule::new("self.createSnapshot || !(has(self.snapshotId) || has(self.storage))").message("snapshotId and storage are for the snapshot, and createSnapshot is false"),
)]
pub struct KafkaOffsetResetSpec {
    /// The cluster of the groups.
    pub kafka_cluster: KafkaCluster,
    /// Groups by id or by glob (`*`, `?`). One that is named by its id must have committed offsets on the topics, or get them from
    /// the mapping or the restore.
    #[schemars(length(min = 1))]
    pub consumer_groups: Vec<String>,
    /// Topics by name or by glob; all that a group has committed offsets for where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub topics: Option<Vec<String>>,
    /// Where the offsets go.
    pub strategy: OffsetStrategy,
    /// The time of strategy `timestamp`, as in 2026-01-02T03:04:05Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: Option<String>,
    /// The same in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timestamp_millis: Option<i64>,
    /// The offset of strategy `offset`; where a partition does not have it, its nearest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub offset: Option<i64>,
    /// Strategy `headerBased`: only records count whose `x-source-cluster` is this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub source_cluster: Option<String>,
    /// Strategy `headerBased`: records may be in another partition than at the source, so that all of a topic are read.
    #[serde(default)]
    pub scan_all_partitions: bool,
    /// The offsets of strategy `fromMapping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapping_config_map: Option<MappingConfigMap>,
    /// The restore of strategy `fromRestore`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore_ref: Option<RestoreRef>,
    /// Whether what the groups have now is kept before anything changes, for a KafkaOffsetRollback.
    #[serde(default = "create_snapshot")]
    pub create_snapshot: bool,
    /// Id of the snapshot; made from the run's id where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub snapshot_id: Option<String>,
    /// Where the snapshot is kept; a ConfigMap with the snapshot's id as its name where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<SnapshotStorage>,
    /// Groups that are changed at the same time.
    #[serde(default = "parallelism")]
    #[schemars(range(min = 1, max = 64))]
    pub parallelism: u16,
    /// Changes nothing, and tells what would be.
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

fn create_snapshot() -> bool {
    true
}

fn parallelism() -> u16 {
    8
}

/// What became of a consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum GroupStatus {
    /// Its offsets are where they should be.
    Completed,
    /// They are not, or not all.
    Failed,
    /// They would be: nothing was changed.
    Planned,
}

/// A consumer group and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupResult {
    /// Id of the group.
    pub group: String,
    /// What became of it.
    pub status: GroupStatus,
    /// Partitions whose committed offset changed.
    pub partitions_reset: u64,
    /// Why it failed, or what a user should know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The columns of `kubectl get`, each with something in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OffsetResetColumns {
    /// Groups that were reset, `-` before it is known.
    pub reset: String,
    /// Groups that were not.
    pub failed: String,
    /// Id of the snapshot.
    pub snapshot: String,
}

/// What has become of a KafkaOffsetReset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaOffsetResetStatus {
    /// The life of its runs.
    #[serde(flatten)]
    pub life: Life,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<OffsetResetColumns>,
    /// Groups whose offsets were reset, or, in a dry run, would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_reset: Option<u64>,
    /// Groups for which that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups_failed: Option<u64>,
    /// Id of the snapshot that was taken before, once it is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// Per group, those that failed first; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<GroupResult>,
    /// Finished runs, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_history: Vec<FinishedRun>,
}
