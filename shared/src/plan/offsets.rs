//! The plans of the offset kinds.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::restore::{Source, bound, source};
use super::{ArchiveName, Plan, Referenced, RunRef, SpecError, namespace, run_ref};
use crate::archive::crc;
use crate::crd::{KafkaOffsetReset, KafkaOffsetRollback};
use crate::selector::{GroupSelector, Selector};
use crate::spec::{
    KafkaCluster, OffsetStrategy, SnapshotOperation, SnapshotPlace, SnapshotStorage, Storage,
    is_dns_label,
};

/// Change committed offsets, or what is kept of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetsPlan {
    /// Whose run it is.
    pub run: RunRef,
    /// The cluster of the groups.
    pub cluster: KafkaCluster,
    /// What is done.
    pub task: OffsetsTask,
    /// Nothing is changed.
    #[serde(default)]
    pub dry_run: bool,
}

/// What is done with committed offsets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "camelCase")]
pub enum OffsetsTask {
    /// They are moved.
    Reset(ResetTask),
    /// They are kept.
    #[serde(rename_all = "camelCase")]
    Snapshot {
        /// Ids and globs of groups.
        groups: Vec<String>,
        /// Where.
        snapshot: SnapshotRef,
    },
    /// Groups get back what they had.
    #[serde(rename_all = "camelCase")]
    Rollback {
        /// Ids and globs of groups; `None`: all of the snapshot.
        groups: Option<Vec<String>>,
        /// What they had.
        snapshot: SnapshotRef,
        /// Also where cluster or topic are not the snapshot's.
        force: bool,
    },
    /// It is told whether groups have what they had.
    #[serde(rename_all = "camelCase")]
    Verify {
        /// Ids and globs of groups; `None`: all of the snapshot.
        groups: Option<Vec<String>>,
        /// What they had.
        snapshot: SnapshotRef,
        /// Also metadata, and offsets that were not there.
        strict: bool,
    },
    /// The snapshot is deleted.
    #[serde(rename_all = "camelCase")]
    Delete {
        /// Which.
        snapshot: SnapshotRef,
    },
}

/// Which offsets are moved, and where to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResetTask {
    /// Ids and globs of groups.
    pub groups: Vec<String>,
    /// Names and globs of topics; `None`: every one that a group has committed offsets for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
    /// Where to.
    pub to: OffsetTarget,
    /// Where is kept what they were; `None`: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotRef>,
    /// Groups that are changed at the same time.
    pub parallelism: u16,
}

/// Where committed offsets are moved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "strategy", rename_all = "camelCase")]
pub enum OffsetTarget {
    /// The log start offset.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record at or after a time; the high watermark where there is none.
    Timestamp {
        /// Milliseconds since 1970.
        ms: i64,
    },
    /// One offset, moved into what the partition has.
    Offset {
        /// It.
        offset: i64,
    },
    /// By the headers that a restore has added to each record; the groups' offsets are taken for the source's.
    #[serde(rename_all = "camelCase")]
    HeaderBased {
        /// Only records of this source count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source_cluster: Option<String>,
        /// Records may be in other partitions than at the source.
        scan_all_partitions: bool,
    },
    /// Offsets of a [`Mapping`].
    FromMapping {
        /// The ConfigMap's name.
        name: String,
        /// The key in it.
        key: String,
    },
    /// The offset map of a restore.
    FromRestore {
        /// UID of the restore, or, at a terminal, its name or `<namespace>.<name>`.
        restore: String,
        /// Where its archive is kept.
        storage: Storage,
        /// Which archive; found by the restore where it is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        archive: Option<ArchiveName>,
    },
}

impl OffsetTarget {
    /// The strategy.
    pub fn strategy(&self) -> OffsetStrategy {
        match self {
            Self::Earliest => OffsetStrategy::Earliest,
            Self::Latest => OffsetStrategy::Latest,
            Self::Timestamp { .. } => OffsetStrategy::Timestamp,
            Self::Offset { .. } => OffsetStrategy::Offset,
            Self::HeaderBased { .. } => OffsetStrategy::HeaderBased,
            Self::FromMapping { .. } => OffsetStrategy::FromMapping,
            Self::FromRestore { .. } => OffsetStrategy::FromRestore,
        }
    }
}

/// A snapshot of committed offsets, by id and place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotRef {
    /// A DNS label.
    pub id: String,
    /// Where it is kept.
    pub place: SnapshotPlace,
}

/// Offsets that a user has written: group, topic, partition, offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// By group, topic and partition.
    pub groups: BTreeMap<String, BTreeMap<String, BTreeMap<i32, i64>>>,
}

impl Mapping {
    /// Reads a mapping; `object` is where it comes from.
    ///
    /// # Errors
    /// It is not JSON of that shape, or has a negative partition or offset.
    pub fn from_json(object: &str, json: &[u8]) -> Result<Self, SpecError> {
        let expected = r#"JSON as {"groups": {group: {topic: {partition: offset}}}}"#;
        let mapping: Self = serde_json::from_slice(json)
            .map_err(|error| SpecError::new(object, expected, error.to_string()))?;
        for (group, topics) in &mapping.groups {
            for (topic, partitions) in topics {
                let wrong = partitions
                    .iter()
                    .find(|(partition, offset)| **partition < 0 || **offset < 0);
                if let Some((partition, offset)) = wrong {
                    return Err(SpecError::new(
                        format!("{object}: groups.{group}.{topic}"),
                        "partitions and offsets from 0",
                        format!("{partition}: {offset}"),
                    ));
                }
            }
        }
        Ok(mapping)
    }
}

impl OffsetsTask {
    /// The snapshot that it makes or uses.
    pub fn snapshot(&self) -> Option<&SnapshotRef> {
        match self {
            Self::Reset(task) => task.snapshot.as_ref(),
            Self::Snapshot { snapshot, .. }
            | Self::Rollback { snapshot, .. }
            | Self::Verify { snapshot, .. }
            | Self::Delete { snapshot } => Some(snapshot),
        }
    }

    /// Whether it needs a snapshot that exists already.
    pub fn reads_snapshot(&self) -> bool {
        matches!(self, Self::Rollback { .. } | Self::Verify { .. })
    }

    /// The ConfigMap and the key in it that holds a [`Mapping`].
    pub fn mapping(&self) -> Option<(&str, &str)> {
        match self {
            Self::Reset(ResetTask {
                to: OffsetTarget::FromMapping { name, key },
                ..
            }) => Some((name, key)),
            Self::Reset(_)
            | Self::Snapshot { .. }
            | Self::Rollback { .. }
            | Self::Verify { .. }
            | Self::Delete { .. } => None,
        }
    }

    /// The stores that it uses.
    pub fn storages(&self) -> impl Iterator<Item = &Storage> {
        let archive = match self {
            Self::Reset(ResetTask {
                to: OffsetTarget::FromRestore { storage, .. },
                ..
            }) => Some(storage),
            Self::Reset(_)
            | Self::Snapshot { .. }
            | Self::Rollback { .. }
            | Self::Verify { .. }
            | Self::Delete { .. } => None,
        };
        let snapshot = self.snapshot().and_then(|snapshot| match &snapshot.place {
            SnapshotPlace::Store { storage } => Some(storage),
            SnapshotPlace::ConfigMap { .. } => None,
        });
        archive.into_iter().chain(snapshot)
    }
}

/// The plan of a KafkaOffsetReset.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn offset_reset(
    object: &KafkaOffsetReset,
    referenced: &Referenced,
    run: &str,
) -> Result<Plan, SpecError> {
    let spec = &object.spec;
    spec.kafka_cluster.check("spec.kafkaCluster")?;
    check_groups(&spec.consumer_groups)?;
    if let Some(topics) = &spec.topics {
        Selector::parse("spec.topics", topics)?;
        if topics.is_empty() {
            let expected = "at least one name or glob, or no list for all";
            return Err(SpecError::new("spec.topics", expected, "an empty list"));
        }
    }
    spec.pod_template.check()?;
    let to = target(object, referenced)?;
    let snapshot = reset_snapshot(object, run)?;
    if snapshot.is_none() && matches!(to, OffsetTarget::HeaderBased { .. }) {
        return Err(SpecError::new(
            "spec.createSnapshot",
            "true with strategy headerBased: a second attempt would take for the source's offsets what the first has committed",
            "false",
        ));
    }
    let task = OffsetsTask::Reset(ResetTask {
        groups: spec.consumer_groups.clone(),
        topics: spec.topics.clone(),
        to,
        snapshot,
        parallelism: spec.parallelism,
    });
    check_volumes(&task)?;
    Ok(Plan::Offsets(OffsetsPlan {
        run: run_ref("KafkaOffsetReset", object, run),
        cluster: spec.kafka_cluster.clone(),
        task,
        dry_run: spec.dry_run,
    }))
}

/// The snapshot that run `run` of a KafkaOffsetReset takes; `None`: it takes none.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn reset_snapshot(
    object: &KafkaOffsetReset,
    run: &str,
) -> Result<Option<SnapshotRef>, SpecError> {
    let spec = &object.spec;
    if spec.create_snapshot {
        let id = spec.snapshot_id.clone();
        let id = id.unwrap_or_else(|| default_snapshot_id(run));
        return snapshot_ref(id, spec.storage.as_ref()).map(Some);
    }
    if spec.snapshot_id.is_some() || spec.storage.is_some() {
        return Err(SpecError::new(
            "spec.createSnapshot",
            "true, for snapshotId and storage are for the snapshot",
            "false",
        ));
    }
    Ok(None)
}

/// The snapshot of a KafkaOffsetRollback.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn rollback_snapshot(object: &KafkaOffsetRollback) -> Result<SnapshotRef, SpecError> {
    let spec = &object.spec;
    snapshot_ref(spec.snapshot_id.clone(), spec.storage.as_ref())
}

/// The plan of a KafkaOffsetRollback.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn offset_rollback(object: &KafkaOffsetRollback, run: &str) -> Result<Plan, SpecError> {
    let spec = &object.spec;
    spec.kafka_cluster.check("spec.kafkaCluster")?;
    if let Some(groups) = &spec.consumer_groups {
        check_groups(groups)?;
    }
    spec.pod_template.check()?;
    let operation = spec.operation;
    let refuse = |field: &str, expected: &str| {
        Err(SpecError::new(
            format!("spec.{field}"),
            expected,
            format!("it beside operation {}", operation.as_str()),
        ))
    };
    if spec.verify.is_some() && operation != SnapshotOperation::Verify {
        return refuse(
            "verify",
            "operation verify; a rollback always verifies strictly",
        );
    }
    if spec.force && operation != SnapshotOperation::Rollback {
        return refuse("force", "operation rollback");
    }
    if spec.dry_run && operation == SnapshotOperation::Verify {
        return refuse("dryRun", "an operation that changes something");
    }
    let snapshot = rollback_snapshot(object)?;
    let groups = spec.consumer_groups.clone();
    let task = match (operation, groups) {
        (SnapshotOperation::Snapshot, Some(groups)) => OffsetsTask::Snapshot { groups, snapshot },
        (SnapshotOperation::Snapshot, None) => {
            return Err(SpecError::new(
                "spec.consumerGroups",
                "ids or globs of the groups whose offsets are kept",
                "nothing",
            ));
        }
        (SnapshotOperation::Rollback, groups) => OffsetsTask::Rollback {
            groups,
            snapshot,
            force: spec.force,
        },
        (SnapshotOperation::Verify, groups) => OffsetsTask::Verify {
            groups,
            snapshot,
            strict: spec.verify.unwrap_or_default().strict,
        },
        (SnapshotOperation::Delete, None) => OffsetsTask::Delete { snapshot },
        (SnapshotOperation::Delete, Some(_)) => {
            return refuse("consumerGroups", "none: the whole snapshot is deleted");
        }
    };
    Ok(Plan::Offsets(OffsetsPlan {
        run: run_ref("KafkaOffsetRollback", object, run),
        cluster: spec.kafka_cluster.clone(),
        task,
        dry_run: spec.dry_run,
    }))
}

fn check_groups(groups: &[String]) -> Result<(), SpecError> {
    GroupSelector::parse("spec.consumerGroups", groups)?;
    match groups.is_empty() {
        true => Err(SpecError::new(
            "spec.consumerGroups",
            "at least one id or glob",
            "an empty list",
        )),
        false => Ok(()),
    }
}

/// Refuses what stands beside a strategy that does not use it, and wants what it does use.
fn target(object: &KafkaOffsetReset, referenced: &Referenced) -> Result<OffsetTarget, SpecError> {
    let spec = &object.spec;
    let strategy = spec.strategy;
    let times = spec.timestamp.is_some() || spec.timestamp_millis.is_some();
    let details = [
        ("timestamp", times, OffsetStrategy::Timestamp),
        ("offset", spec.offset.is_some(), OffsetStrategy::Offset),
        (
            "sourceCluster",
            spec.source_cluster.is_some(),
            OffsetStrategy::HeaderBased,
        ),
        (
            "scanAllPartitions",
            spec.scan_all_partitions,
            OffsetStrategy::HeaderBased,
        ),
        (
            "mappingConfigMap",
            spec.mapping_config_map.is_some(),
            OffsetStrategy::FromMapping,
        ),
        (
            "restoreRef",
            spec.restore_ref.is_some(),
            OffsetStrategy::FromRestore,
        ),
    ];
    let stray = details
        .iter()
        .find(|(_, given, of)| *given && *of != strategy);
    if let Some((field, _, of)) = stray {
        return Err(SpecError::new(
            format!("spec.{field}"),
            format!("strategy {} beside it", word(*of)),
            format!("strategy {}", word(strategy)),
        ));
    }
    let missing = |field: &str, expected: &str| {
        let found = format!("nothing, with strategy {}", word(strategy));
        SpecError::new(format!("spec.{field}"), expected, found)
    };
    Ok(match strategy {
        OffsetStrategy::Earliest => OffsetTarget::Earliest,
        OffsetStrategy::Latest => OffsetTarget::Latest,
        OffsetStrategy::Timestamp => {
            let (text, millis) = (spec.timestamp.as_ref(), spec.timestamp_millis);
            OffsetTarget::Timestamp {
                ms: first_ms("spec.timestamp", text, millis)?
                    .ok_or_else(|| missing("timestamp", "a time"))?,
            }
        }
        OffsetStrategy::Offset => {
            let expected = "an offset from 0";
            let offset = spec.offset.ok_or_else(|| missing("offset", expected))?;
            if offset < 0 {
                return Err(SpecError::new("spec.offset", expected, offset.to_string()));
            }
            OffsetTarget::Offset { offset }
        }
        OffsetStrategy::HeaderBased => OffsetTarget::HeaderBased {
            source_cluster: spec.source_cluster.clone(),
            scan_all_partitions: spec.scan_all_partitions,
        },
        OffsetStrategy::FromMapping => {
            let map = spec.mapping_config_map.as_ref();
            let map = map.ok_or_else(|| missing("mappingConfigMap", "a ConfigMap with offsets"))?;
            OffsetTarget::FromMapping {
                name: map.name.clone(),
                key: map.key.clone(),
            }
        }
        OffsetStrategy::FromRestore => from_restore(object, referenced)?,
    })
}

fn from_restore(
    object: &KafkaOffsetReset,
    referenced: &Referenced,
) -> Result<OffsetTarget, SpecError> {
    let Some(reference) = &object.spec.restore_ref else {
        return Err(SpecError::new(
            "spec.restoreRef",
            "a KafkaRestore",
            "nothing, with strategy fromRestore",
        ));
    };
    // A reference never leaves the namespace, as that of a restore.
    let own = namespace(object);
    let found = referenced
        .restore
        .as_ref()
        .filter(|restore| namespace(*restore) == own && restore.name_any() == reference.name);
    let Some(restore) = found else {
        return Err(SpecError::new(
            "spec.restoreRef.name",
            format!(
                "a KafkaRestore of namespace {own} in the cluster, or, by hand, in the same file"
            ),
            format!("{:?}, which does not exist", reference.name),
        ));
    };
    let Source {
        archive, storage, ..
    } = source(restore, referenced).map_err(|error| {
        SpecError::new(
            "spec.restoreRef.name",
            "a KafkaRestore whose archive is known",
            format!("{:?}, with {error}", reference.name),
        )
    })?;
    storage.check()?;
    Ok(OffsetTarget::FromRestore {
        restore: run_ref("KafkaRestore", restore, "").uid,
        storage,
        archive,
    })
}

/// The first whole millisecond of what a user has written.
pub(super) fn first_ms(
    field: &str,
    text: Option<&String>,
    millis: Option<i64>,
) -> Result<Option<i64>, SpecError> {
    bound(field, text, millis, |time: Timestamp| {
        time.as_millisecond() + i64::from(time.subsec_nanosecond() % 1_000_000 > 0)
    })
}

fn word(strategy: OffsetStrategy) -> String {
    match serde_json::to_value(strategy) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => unreachable!("a strategy is a word"),
    }
}

/// The snapshot `id` at the place that `storage` names.
///
/// # Errors
/// The id is no DNS label, or the storage cannot be obeyed.
fn snapshot_ref(id: String, storage: Option<&SnapshotStorage>) -> Result<SnapshotRef, SpecError> {
    check_snapshot_id("spec.snapshotId", &id)?;
    let place = match storage {
        Some(storage) => storage.place()?,
        None => SnapshotPlace::ConfigMap { name: id.clone() },
    };
    Ok(SnapshotRef { id, place })
}

/// Checks an id that a user has given.
pub(super) fn check_snapshot_id(field: &str, id: &str) -> Result<(), SpecError> {
    match is_dns_label(id) {
        true => Ok(()),
        false => Err(SpecError::new(
            field,
            "1 to 63 of a-z 0-9 - (a DNS label)",
            format!("{id:?}"),
        )),
    }
}

/// The id of the snapshot of a run that names none: the run's own where it is a DNS label; else as much of it as fits, and a
/// checksum of the whole.
pub fn default_snapshot_id(run: &str) -> String {
    if is_dns_label(run) {
        return run.to_owned();
    }
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let start: String = run.chars().map(plain).take(40).collect();
    let sum = crc::of(run.as_bytes());
    let start = match start.trim_matches('-') {
        "" => "snapshot",
        start => start,
    };
    format!("{start}-{sum:08x}")
}

/// A pod has one place for a volume.
fn check_volumes(task: &OffsetsTask) -> Result<(), SpecError> {
    let mut claims = task.storages().filter_map(|storage| storage.pvc.as_ref());
    let (first, second) = (claims.next(), claims.next());
    match (first, second) {
        (Some(first), Some(second)) if first != second => Err(SpecError::new(
            "spec.storage.pvc",
            format!(
                "the claim and folder of the restore's archive ({}), or another kind of storage",
                first.claim_name
            ),
            &second.claim_name,
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "offsets_test.rs"]
mod tests;
