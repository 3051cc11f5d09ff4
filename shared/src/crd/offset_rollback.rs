//! `KafkaOffsetRollback`: takes, gives back, checks or deletes a snapshot of committed offsets.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::offset_reset::GroupResult;
use crate::spec::{
    JobSettings, KafkaCluster, PodTemplate, SnapshotOperation, SnapshotStorage, SnapshotVerify,
};
use crate::status::{FinishedRun, Life};

/// Which snapshot, and what is done with it. It cannot be changed once created.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kafka-backup.dev",
    version = "v1alpha1",
    kind = "KafkaOffsetRollback",
    plural = "kafkaoffsetrollbacks",
    shortname = "korb",
    category = "kafka-backup",
    namespaced,
    status = "KafkaOffsetRollbackStatus",
    derive = "PartialEq",
    doc = "Takes, gives back, checks or deletes a snapshot of the committed offsets of consumer groups.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Operation", type_ = "string", json_path = ".spec.operation"),
    printcolumn(name = "Snapshot", type_ = "string", json_path = ".spec.snapshotId"),
    printcolumn(
        name = "Groups",
        type_ = "string",
        json_path = ".status.columns.groups"
    ),
    printcolumn(
        name = "Matched",
        type_ = "string",
        json_path = ".status.columns.matched"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self == oldSelf").message("the spec of a KafkaOffsetRollback cannot be changed; create another one"),
    validation = Rule::new("self.operation != 'snapshot' || has(self.consumerGroups)").message("operation snapshot needs consumerGroups"),
    validation = Rule::new("self.operation != 'delete' || !has(self.consumerGroups)").message("operation delete takes the whole snapshot: no consumerGroups"),
    validation = Rule::new("self.operation == 'verify' || !has(self.verify)").message("verify is for operation verify; a rollback always verifies strictly"),
    validation = Rule::new("self.operation == 'rollback' || !self.force").message("force is for operation rollback"),
    validation = Rule::new("self.operation != 'verify' || !self.dryRun").message("operation verify changes nothing: no dryRun"),
)]
pub struct KafkaOffsetRollbackSpec {
    /// The cluster of the groups.
    pub kafka_cluster: KafkaCluster,
    /// What is done.
    pub operation: SnapshotOperation,
    /// Id of the snapshot.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"))]
    pub snapshot_id: String,
    /// Groups by id or by glob (`*`, `?`); all of the snapshot where it is left out, which `snapshot` does not allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub consumer_groups: Option<Vec<String>>,
    /// Where the snapshot is kept; a ConfigMap with the snapshot's id as its name where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<SnapshotStorage>,
    /// What operation `verify` compares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<SnapshotVerify>,
    /// Rolls back although a topic was deleted and created again since the snapshot, or the cluster is another one.
    #[serde(default)]
    pub force: bool,
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

/// What is in a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotData {
    /// Number of groups.
    pub groups: u64,
    /// Number of committed offsets, over all groups.
    pub total_partitions: u64,
    /// When it was taken.
    pub timestamp: Time,
}

/// Whether groups have what the snapshot has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationResult {
    /// Whether they do.
    pub matched: bool,
    /// Where they do not; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// The columns of `kubectl get`, each with something in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OffsetRollbackColumns {
    /// Groups of the snapshot that were taken, given back or compared; `-` before it is known.
    pub groups: String,
    /// Whether they have what the snapshot has.
    pub matched: String,
}

/// What has become of a KafkaOffsetRollback.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaOffsetRollbackStatus {
    /// The life of its runs.
    #[serde(flatten)]
    pub life: Life,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<OffsetRollbackColumns>,
    /// What was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<SnapshotOperation>,
    /// Id of the snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
    /// What is in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_data: Option<SnapshotData>,
    /// Of `verify` and `rollback`: whether the groups have what it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification_result: Option<VerificationResult>,
    /// Per group, those that failed first; at most 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<GroupResult>,
    /// Finished runs, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_history: Vec<FinishedRun>,
}
