//! What one run must do.
//!
//! # Guarantees
//! - [`backup`], [`restore`], [`offset_reset`] and [`offset_rollback`] are pure: the controller and the worker's command line make the same plan from the same object.
//! - A plan holds everything that the run needs; it is frozen into the Job, so that later changes of the object do not reach a running worker.
//! - What a plan is made from has been checked: a plan never fails for a reason that its object alone could have told.

mod offsets;
mod restore;

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::archive::retention::Policy;
use crate::crd::{KafkaBackup, KafkaRestore};
use crate::selector::{GroupSelector, Selector, is_internal};
use crate::spec::{
    self, Compression, KafkaCluster, MissingTopics, RateLimit, Storage, parse_age_hours,
};

pub use offsets::{
    Mapping, OffsetTarget, OffsetsPlan, OffsetsTask, ResetTask, SnapshotRef, default_snapshot_id,
    offset_reset, offset_rollback, reset_snapshot, rollback_snapshot,
};
pub use restore::{
    CarriedGroups, CarryOverTarget, PartitionMove, RestorePlan, RestoreRequest, restore,
};

/// The largest plan, in bytes of JSON, that fits into a Job's annotation beside everything else (annotations hold 256 KiB together).
pub const PLAN_MAX: usize = 200 * 1024;

/// What an object refers to, as far as it exists.
#[derive(Clone, Debug, Default)]
pub struct Referenced {
    /// The KafkaBackup that it or its restore refers to.
    pub backup: Option<KafkaBackup>,
    /// The KafkaRestore.
    pub restore: Option<KafkaRestore>,
}

/// Whose run it is: the identity in Job names, labels, keys, metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunRef {
    /// `KafkaBackup`, `KafkaRestore`, `KafkaOffsetReset` or `KafkaOffsetRollback`.
    pub kind: String,
    /// Namespace of the object.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// UID of the object.
    pub uid: String,
    /// Run id, see [`run_id`].
    pub run: String,
}

impl RunRef {
    /// A fixed one, for tests and documentation.
    pub fn example() -> Self {
        Self {
            kind: "KafkaBackup".into(),
            namespace: "default".into(),
            name: "orders".into(),
            uid: "00000000-0000-0000-0000-000000000001".into(),
            run: "orders-20260102-030405".into(),
        }
    }
}

/// The id of a run: `<name>-<YYYYMMDD-HHMMSS>` in UTC.
pub fn run_id(name: &str, at: Timestamp) -> String {
    format!("{name}-{}", at.strftime("%Y%m%d-%H%M%S"))
}

/// Whose archive: the KafkaBackup's namespace and name, which are its folders in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArchiveName {
    /// Namespace of the KafkaBackup.
    pub namespace: String,
    /// Name of the KafkaBackup.
    pub name: String,
}

impl fmt::Display for ArchiveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which records a consumer, and a backup, gets to see (KIP-98).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum IsolationLevel {
    /// Up to the last stable offset, without aborted transactions.
    #[default]
    #[serde(rename = "read_committed")]
    ReadCommitted,
    /// Up to the high watermark, everything.
    #[serde(rename = "read_uncommitted")]
    ReadUncommitted,
}

/// How long and how large a segment may grow before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SegmentLimits {
    /// Seconds since the segment's first batch was fetched.
    pub checkpoint_interval_secs: u32,
    /// Bytes of record batches.
    pub segment_max_bytes: u32,
}

impl SegmentLimits {
    /// 30 s.
    pub fn default_checkpoint_interval_secs() -> u32 {
        30
    }

    /// 16 MiB.
    pub fn default_segment_max_bytes() -> u32 {
        16 << 20
    }
}

/// Which topics are meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Topics {
    /// Names and globs that are taken.
    pub include: Vec<String>,
    /// Names and globs that are left out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What happens when a literal name does not exist.
    #[serde(default)]
    pub missing: MissingTopics,
}

/// Copy topics into an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupPlan {
    /// Whose run it is.
    pub run: RunRef,
    /// Which archive is written.
    pub archive: ArchiveName,
    /// The cluster to copy from.
    pub cluster: KafkaCluster,
    /// Where the archive is kept.
    pub storage: Storage,
    /// Which topics.
    pub topics: Topics,
    /// Ids and globs of consumer groups; `None`: every one with offsets on the topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer_groups: Option<Vec<String>>,
    /// Name of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster_id: Option<String>,
    /// Which records.
    pub isolation_level: IsolationLevel,
    /// When segments are stored.
    pub segments: SegmentLimits,
    /// The codec of what is stored.
    #[serde(default)]
    pub compression: Compression,
    /// Its level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compression_level: Option<u8>,
    /// How fast it may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// What goes when the run is complete; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// What a restore does that says nothing of headers with the source's offsets.
    #[serde(default)]
    pub include_offset_headers: bool,
}

/// What goes when a run is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Which runs stay.
    pub policy: Policy,
    /// Only tells what would go.
    pub dry_run: bool,
}

/// What one run must do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "camelCase")]
pub enum Plan {
    /// Copy topics into an archive.
    Backup(BackupPlan),
    /// Write what a run captured into topics.
    Restore(RestorePlan),
    /// Change committed offsets of consumer groups, or what is kept of them.
    Offsets(OffsetsPlan),
}

impl Plan {
    /// Whose run it is.
    pub fn run(&self) -> &RunRef {
        match self {
            Self::Backup(plan) => &plan.run,
            Self::Restore(plan) => &plan.run,
            Self::Offsets(plan) => &plan.run,
        }
    }

    /// The stores it uses.
    pub fn storages(&self) -> Vec<&Storage> {
        match self {
            Self::Backup(plan) => vec![&plan.storage],
            Self::Restore(plan) => vec![&plan.storage],
            Self::Offsets(plan) => plan.task.storages().collect(),
        }
    }

    /// The cluster that the run is about.
    pub fn cluster(&self) -> &KafkaCluster {
        match self {
            Self::Backup(plan) => &plan.cluster,
            Self::Restore(plan) => &plan.cluster,
            Self::Offsets(plan) => &plan.cluster,
        }
    }

    /// Names of the Secrets that the run needs as files `<secrets dir>/<secret name>/<key>`.
    pub fn secret_names(&self) -> BTreeSet<&str> {
        let storages = self.storages().into_iter();
        storages
            .flat_map(Storage::secret_names)
            .chain(self.cluster().secret_names())
            .collect()
    }

    /// As it travels in a Job.
    ///
    /// # Errors
    /// [`SpecError`] when it is larger than [`PLAN_MAX`].
    pub fn to_json(&self) -> Result<String, SpecError> {
        let json = serde_json::to_string(self).expect("a plan has only string keys");
        if json.len() > PLAN_MAX {
            return Err(SpecError::new(
                "spec",
                format!(
                    "a plan of at most {PLAN_MAX} bytes (globs instead of long lists of names)"
                ),
                format!("{} bytes", json.len()),
            ));
        }
        Ok(json)
    }
}

/// A field that cannot be obeyed as it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct SpecError {
    /// Path of the field.
    pub field: String,
    /// What would be right.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl SpecError {
    /// An error at `field`.
    pub fn new(
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }
}

/// The plan of one run of a KafkaBackup.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn backup(object: &KafkaBackup, run: &str) -> Result<Plan, SpecError> {
    let spec = &object.spec;
    spec.kafka_cluster.check("spec.kafkaCluster")?;
    check_topics(&spec.topics, &spec.exclude_topics)?;
    if let Some(groups) = &spec.consumer_groups {
        GroupSelector::parse("spec.consumerGroups", groups)?;
    }
    spec.storage.check()?;
    check_level(spec.compression, spec.compression_level)?;
    spec.pod_template.check()?;
    if let Some(limit) = &spec.rate_limit {
        check_rate_limit(limit)?;
    }
    let run = run_ref("KafkaBackup", object, run);
    Ok(Plan::Backup(BackupPlan {
        archive: ArchiveName {
            namespace: run.namespace.clone(),
            name: run.name.clone(),
        },
        run,
        cluster: spec.kafka_cluster.clone(),
        storage: spec.storage.clone(),
        topics: Topics {
            include: spec.topics.clone(),
            exclude: spec.exclude_topics.clone(),
            missing: spec.missing_topics,
        },
        consumer_groups: spec.consumer_groups.clone(),
        source_cluster_id: spec.source_cluster_id.clone(),
        isolation_level: spec.isolation_level,
        segments: SegmentLimits {
            checkpoint_interval_secs: spec.checkpoint_interval_secs,
            segment_max_bytes: spec.segment_max_bytes,
        },
        retention: spec.retention.as_ref().map(retention).transpose()?,
        include_offset_headers: spec.include_offset_headers,
        compression: spec.compression,
        compression_level: spec.compression_level,
        rate_limit: spec.rate_limit,
    }))
}

fn retention(spec: &spec::Retention) -> Result<Retention, SpecError> {
    let limit = |field: &str, expected: &str, found: &dyn fmt::Display| {
        SpecError::new(
            format!("spec.retention{field}"),
            expected,
            found.to_string(),
        )
    };
    if spec.backups.is_none() && spec.max_age.is_none() {
        return Err(limit("", "backups, maxAge or both", &"neither"));
    }
    if spec.backups == Some(0) {
        return Err(limit(".backups", "at least 1", &0));
    }
    let hours = |age: &String| {
        let wrong = || {
            limit(
                ".maxAge",
                "hours, days or weeks, as in 12h, 30d or 8w",
                &format!("{age:?}"),
            )
        };
        parse_age_hours(age).ok_or_else(wrong)
    };
    Ok(Retention {
        policy: Policy {
            backups: spec.backups,
            max_age_hours: spec.max_age.as_ref().map(hours).transpose()?,
        },
        dry_run: spec.dry_run,
    })
}

/// Identity of a run of `object`. An object that the API server has not seen (a file at a terminal) has no UID: its
/// namespace and name stand in, so that two runs of the same file meet each other's work.
/// Its namespace: objects in files may have none, and are applied to this one.
pub(crate) fn namespace(object: &impl ResourceExt) -> String {
    object.namespace().unwrap_or_else(|| "default".into())
}

fn run_ref(kind: &str, object: &impl ResourceExt, run: &str) -> RunRef {
    let namespace = namespace(object);
    let name = object.name_any();
    let uid = object
        .uid()
        .unwrap_or_else(|| format!("{namespace}.{name}"));
    RunRef {
        kind: kind.into(),
        namespace,
        name,
        uid,
        run: run.into(),
    }
}

fn check_topics(include: &[String], exclude: &[String]) -> Result<(), SpecError> {
    Selector::parse("spec.topics", include)?;
    if include.is_empty() {
        return Err(SpecError::new(
            "spec.topics",
            "at least one name or glob",
            "an empty list",
        ));
    }
    if let Some(internal) = include.iter().find(|topic| is_internal(topic)) {
        return Err(SpecError::new(
            "spec.topics",
            "names that do not begin with __ (those topics are internal to Kafka)",
            format!("{internal:?}"),
        ));
    }
    Selector::parse("spec.excludeTopics", exclude)?;
    Ok(())
}

/// Whether a broker would take `name` as a topic's (`org.apache.kafka.common.internals.Topic`).
pub fn is_topic_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 249
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn check_level(compression: Compression, level: Option<u8>) -> Result<(), SpecError> {
    let Some(level) = level else { return Ok(()) };
    let Some(max) = compression.max_level() else {
        return Err(SpecError::new(
            "spec.compressionLevel",
            "compression zstd or gzip beside it: the others have no levels",
            format!("{level} with {compression:?}"),
        ));
    };
    if (1..=max).contains(&level) {
        return Ok(());
    }
    Err(SpecError::new(
        "spec.compressionLevel",
        format!("1 to {max} with {compression:?}"),
        level.to_string(),
    ))
}

fn check_rate_limit(limit: &RateLimit) -> Result<(), SpecError> {
    if limit.bytes_per_second.is_some() || limit.records_per_second.is_some() {
        return Ok(());
    }
    Err(SpecError::new(
        "spec.rateLimit",
        "bytesPerSecond, recordsPerSecond or both",
        "neither",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn example() -> serde_json::Value {
        json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup",
            "metadata": {"name": "orders", "namespace": "shop", "uid": "u"},
            "spec": {
                "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
                "topics": ["orders*"],
                "storage": {"storageType": "s3", "s3": {"bucket": "backups"}},
            }
        })
    }

    fn plan_of(object: serde_json::Value) -> Result<Plan, SpecError> {
        backup(&serde_json::from_value(object).unwrap(), "orders-1")
    }

    #[test]
    fn a_plan_survives_the_way_to_the_worker() {
        let plan = plan_of(example()).unwrap();
        let read: Plan = serde_json::from_str(&plan.to_json().unwrap()).unwrap();
        assert_eq!(read, plan);
        assert_eq!(plan.run().namespace, "shop");
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        let cases = [
            (
                "/spec/kafkaCluster/bootstrapServers",
                json!([]),
                "spec.kafkaCluster.bootstrapServers",
            ),
            (
                "/spec/kafkaCluster/bootstrapServers",
                json!(["kafka"]),
                "spec.kafkaCluster.bootstrapServers",
            ),
            (
                "/spec/kafkaCluster/bootstrapServers",
                json!(["kafka:0"]),
                "spec.kafkaCluster.bootstrapServers",
            ),
            ("/spec/topics", json!([]), "spec.topics"),
            ("/spec/topics", json!(["__consumer_offsets"]), "spec.topics"),
            ("/spec/topics", json!(["a b"]), "spec.topics"),
            (
                "/spec/consumerGroups",
                json!(["a", ""]),
                "spec.consumerGroups",
            ),
            ("/spec/storage/storageType", json!("pvc"), "spec.storage"),
            (
                "/spec/storage/s3",
                json!({"bucket": "b", "prefix": "/x"}),
                "spec.storage.s3.prefix",
            ),
            (
                "/spec/storage/s3",
                json!({"bucket": "b", "prefix": "x/../y"}),
                "spec.storage.s3.prefix",
            ),
            (
                "/spec/storage/s3",
                json!({"bucket": "b", "endpoint": "http://s3"}),
                "spec.storage.s3.endpoint",
            ),
        ];
        for (pointer, value, field) in cases {
            let mut object = example();
            object["spec"]["consumerGroups"] = json!([]);
            *object.pointer_mut(pointer).unwrap() = value.clone();
            let error = plan_of(object).expect_err(&format!("{pointer} = {value}"));
            assert_eq!(error.field, field, "{pointer} = {value}: {error}");
        }
    }

    #[test]
    fn ages_are_hours_days_or_weeks() {
        let retention_of = |retention: serde_json::Value| {
            let mut object = example();
            object["spec"]["retention"] = retention;
            match plan_of(object)? {
                Plan::Backup(plan) => Ok::<_, SpecError>(plan.retention),
                Plan::Restore(_) | Plan::Offsets(_) => unreachable!("it is a KafkaBackup"),
            }
        };
        for (age, hours) in [
            ("12h", 12),
            ("30d", 720),
            ("8w", 1344),
            ("99999w", 16_799_832),
        ] {
            let retention = retention_of(json!({"maxAge": age, "backups": 2}))
                .unwrap()
                .unwrap();
            let policy = Policy {
                backups: Some(2),
                max_age_hours: Some(hours),
            };
            assert_eq!(
                retention,
                Retention {
                    policy,
                    dry_run: false
                },
                "{age}"
            );
        }
        for (wrong, field) in [
            (json!({}), "spec.retention"),
            (json!({"dryRun": true}), "spec.retention"),
            (json!({"backups": 0}), "spec.retention.backups"),
            (json!({"maxAge": "0d"}), "spec.retention.maxAge"),
            (json!({"maxAge": "30"}), "spec.retention.maxAge"),
            (json!({"maxAge": "-1d"}), "spec.retention.maxAge"),
            (json!({"maxAge": "100000d"}), "spec.retention.maxAge"),
            (json!({"maxAge": "1m"}), "spec.retention.maxAge"),
            (json!({"maxAge": ""}), "spec.retention.maxAge"),
        ] {
            assert_eq!(
                retention_of(wrong.clone()).unwrap_err().field,
                field,
                "{wrong}"
            );
        }
        assert_eq!(
            plan_of(example())
                .map(|plan| matches!(plan, Plan::Backup(plan) if plan.retention.is_none())),
            Ok(true)
        );
    }

    #[test]
    fn a_level_belongs_to_a_codec_that_has_levels() {
        let with = |compression: &str, level: u8| {
            let mut object = example();
            object["spec"]["compression"] = json!(compression);
            object["spec"]["compressionLevel"] = json!(level);
            plan_of(object).map(drop).map_err(|error| error.field)
        };
        let refused = Err("spec.compressionLevel".to_owned());
        for (compression, level) in [("zstd", 1), ("zstd", 22), ("gzip", 9)] {
            assert_eq!(with(compression, level), Ok(()), "{compression} {level}");
        }
        for (compression, level) in [
            ("zstd", 23),
            ("zstd", 0),
            ("gzip", 10),
            ("lz4", 1),
            ("snappy", 1),
            ("none", 1),
            ("source", 1),
        ] {
            assert_eq!(with(compression, level), refused, "{compression} {level}");
        }
    }

    #[test]
    fn a_rate_limit_limits_something() {
        let mut object = example();
        object["spec"]["rateLimit"] = json!({});
        assert_eq!(plan_of(object.clone()).unwrap_err().field, "spec.rateLimit");
        object["spec"]["rateLimit"] = json!({"recordsPerSecond": 5});
        let Plan::Backup(plan) = plan_of(object).unwrap() else {
            panic!("a backup");
        };
        let limit = plan.rate_limit.unwrap();
        assert_eq!(
            (limit.bytes_per_second, limit.records_per_second),
            (None, Some(5))
        );
    }

    #[test]
    fn run_ids_are_utc_to_the_second() {
        let at = "2026-01-02T03:04:05.999Z".parse().unwrap();
        assert_eq!(run_id("orders", at), "orders-20260102-030405");
    }

    #[test]
    fn too_large_a_plan_is_refused() {
        let mut object = example();
        object["spec"]["topics"] = (0..20_000).map(|i| format!("topic-{i:08}")).collect();
        assert_eq!(
            plan_of(object).unwrap().to_json().unwrap_err().field,
            "spec"
        );
    }
}
