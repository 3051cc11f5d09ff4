//! `KafkaBackup`: copies topics of a Kafka cluster into an archive, once or by schedule.
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::plan::{IsolationLevel, SegmentLimits};
use crate::schedule::admission;
use crate::spec::{
    Compression, JobSettings, KafkaCluster, MissingTopics, PodTemplate, RateLimit, Retention,
    Storage,
};
use crate::status::{FinishedRun, Life};

/// What to back up, from where, to where, and when.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "kafka-backup.dev",
    version = "v1alpha1",
    kind = "KafkaBackup",
    plural = "kafkabackups",
    shortname = "kb",
    category = "kafka-backup",
    namespaced,
    status = "KafkaBackupStatus",
    derive = "PartialEq",
    doc = "Copies topics of a Kafka cluster into an archive in an object store, once or by schedule.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(
        name = "Schedule",
        type_ = "string",
        json_path = ".status.columns.schedule"
    ),
    printcolumn(
        name = "Last Backup",
        type_ = "string",
        json_path = ".status.columns.lastBackup"
    ),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.columns.next"),
    printcolumn(
        name = "New Records",
        type_ = "string",
        json_path = ".status.columns.records"
    ),
    printcolumn(
        name = "Size",
        type_ = "string",
        json_path = ".status.columns.size",
        priority = "1"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.compressionLevel) || (self.compression == 'zstd' && self.compressionLevel <= 22) || (self.compression == 'gzip' && self.compressionLevel <= 9)").message("compressionLevel is 1 to 22 with compression zstd and 1 to 9 with gzip; the others have none"),
    validation = Rule::new("has(self.schedule) || !(has(self.timeZone) || has(self.startingDeadlineSeconds) || has(self.jitterSeconds))").message("timeZone, startingDeadlineSeconds and jitterSeconds belong to a schedule, and there is none"),
    validation = Rule::new("has(self.schedule) || self.concurrencyPolicy == 'Forbid'").message("concurrencyPolicy belongs to a schedule, and there is none")
)]
pub struct KafkaBackupSpec {
    /// Five-field cron line, as a Kubernetes CronJob reads it (7 is Sunday, too); left out, one run is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(
        validation = Rule::new(admission::line()).message("schedule is five fields (minute hour day-of-month month day-of-week), as in '0 2 * * *', or @hourly, @daily, @weekly, @monthly or @yearly"),
        validation = Rule::new(admission::date()).message("the schedule names a date that does not exist, it would never be due")
    )]
    pub schedule: Option<String>,
    /// Time zone of the schedule by its IANA name, as in Europe/Berlin; left out, UTC. Hours that are named one by one: a
    /// local time that is skipped when clocks are set runs at the change, one that happens twice runs once. A wildcard, range
    /// or step in the hour field: every instant counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 64),
        regex(pattern = r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$")
    )]
    #[x_kube(validation = Rule::new("self != 'Local'").message("Local is no time zone; name one, as in Europe/Berlin"))]
    pub time_zone: Option<String>,
    /// Holds the schedule: no run is started until it is false again, and the ticks meanwhile are not made up for.
    #[serde(default)]
    pub suspend: bool,
    /// What a tick does that comes while a run is going on.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,
    /// Seconds after a tick within which its run may still be started, where it could not be in time; left out, however late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31536000))]
    pub starting_deadline_seconds: Option<u32>,
    /// Runs begin this many seconds after their tick at most, always by the same number for one object, so that many objects
    /// with one schedule do not begin at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 86400))]
    pub jitter_seconds: Option<u32>,
    /// The cluster to copy from.
    pub kafka_cluster: KafkaCluster,
    /// Topics by name or by glob (`*`, `?`); internal topics (`__*`) are never taken.
    #[schemars(length(min = 1))]
    #[x_kube(validation = Rule::new("self.all(t, !t.startsWith('__'))").message("topics that begin with __ are internal to Kafka and are not backed up"))]
    pub topics: Vec<String>,
    /// Names and globs that are left out of what `topics` matches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_topics: Vec<String>,
    /// What happens when a topic that is named literally does not exist, or one that is meant may not be described.
    #[serde(default)]
    pub missing_topics: MissingTopics,
    /// Consumer groups, by id or by glob (`*`, `?`), whose committed offsets on the topics are saved with each run; left out,
    /// every group that has some; an empty list, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.all(g, g.size() > 0)").message("a consumer group's id is not empty"))]
    pub consumer_groups: Option<Vec<String>>,
    /// Name of the source for people; left out, its cluster id. Runs on a cluster with another id are refused, unless the
    /// archive was made under the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub source_cluster_id: Option<String>,
    /// Where the archive is kept.
    pub storage: Storage,
    /// Whether records of open and aborted transactions are copied.
    #[serde(default)]
    pub isolation_level: IsolationLevel,
    /// How records are stored: `source` keeps every record batch as the broker has it; with any other, small batches that stand
    /// next to each other are joined and encoded with it, which changes no record.
    #[serde(default)]
    pub compression: Compression,
    /// How hard is compressed: 1 to 22 with zstd, 1 to 9 with gzip; 1 and 6 where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 22))]
    pub compression_level: Option<u8>,
    /// How fast a run may read from the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Seconds after which an open segment is stored even if it is small.
    #[serde(default = "SegmentLimits::default_checkpoint_interval_secs")]
    #[schemars(range(min = 1, max = 3600))]
    pub checkpoint_interval_secs: u32,
    /// Size at which a segment is stored; it closes earlier when the worker's memory budget needs it.
    #[serde(default = "SegmentLimits::default_segment_max_bytes")]
    #[schemars(range(min = 65536, max = 1073741824))]
    pub segment_max_bytes: u32,
    /// What a restore does that says nothing of `includeOriginalOffsetHeader`.
    #[serde(default)]
    pub include_offset_headers: bool,
    /// Which runs stay in the archive; left out, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Finished Jobs of successful runs that are kept.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub successful_runs_history_limit: u32,
    /// Finished Jobs of failed runs that are kept.
    #[serde(default = "default_history_limit")]
    #[schemars(range(min = 0, max = 100))]
    pub failed_runs_history_limit: u32,
    /// Settings of the Job that makes a run.
    #[serde(default)]
    pub job: JobSettings,
    /// Resources of the worker's container; the controller's defaults where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Additions to the Job's pod.
    #[serde(default)]
    pub pod_template: PodTemplate,
}

/// What a tick does that comes while a run is going on. Two runs of one archive at a time would be pointless: there is no Allow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConcurrencyPolicy {
    /// It is missed, and counted as such.
    #[default]
    Forbid,
    /// The run that is going on is ended, and counted as failed; that of the tick begins.
    Replace,
}

fn default_history_limit() -> u32 {
    3
}

/// The columns of `kubectl get`, each with something in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupColumns {
    /// The cron line and its zone; `once` without one.
    pub schedule: String,
    /// When the newest successful run ended; `never` before the first.
    pub last_backup: String,
    /// When the next run begins; `suspended`, or `-` where none is planned.
    pub next: String,
    /// Records that the newest successful run added.
    pub records: String,
    /// Bytes that it added.
    pub size: String,
}

/// What has become of a KafkaBackup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaBackupStatus {
    /// The life of its runs.
    #[serde(flatten)]
    pub life: Life,
    /// What `kubectl get` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<BackupColumns>,
    /// Run id of the newest successful run; what a restore names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_id: Option<String>,
    /// When that run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_time: Option<Time>,
    /// Bytes that it added to the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_size: Option<u64>,
    /// Records that it added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_records: Option<u64>,
    /// Offsets that open transactions kept it from capturing: high watermark minus last stable offset, over all partitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_held_back: Option<u64>,
    /// Offsets by which the source was ahead of the archive when that run ended, over all partitions, where all of them told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup_lag: Option<u64>,
    /// The newest tick of the schedule that was decided upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Time>,
    /// When the next run begins: the next tick, and this object's share of `jitterSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_scheduled_time: Option<Time>,
    /// Ticks count from here: creation, un-suspending, a change of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_from: Option<Time>,
    /// The schedule that `scheduleFrom` belongs to; a different one in the spec starts counting anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_schedule: Option<String>,
    /// The time zone that it was read in, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_time_zone: Option<String>,
    /// Value of the trigger annotation that was obeyed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_trigger: Option<String>,
    /// Ticks that were never run, because a run was going on or the controller was away.
    #[serde(default)]
    pub missed_runs: u64,
    /// Finished runs, newest last, as many as the history limits keep.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backup_history: Vec<FinishedRun>,
}
