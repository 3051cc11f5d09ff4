//! The plan of a KafkaRestore.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::offsets::{OffsetTarget, check_snapshot_id, default_snapshot_id, first_ms};
use super::{
    ArchiveName, Plan, Referenced, RunRef, SpecError, Topics, check_rate_limit, check_topics,
    is_topic_name, namespace, run_ref,
};
use crate::crd::KafkaRestore;
use crate::selector::{GroupSelector, is_internal};
use crate::spec::{
    CarryOver, CarryOverStrategy, IfTopicNotEmpty, KafkaCluster, Pitr, RateLimit, Repartition,
    RestoreFrom, Storage, TimeRange, TopicConfig,
};

/// Write what a run captured into topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestorePlan {
    /// Whose run it is.
    pub run: RunRef,
    /// Where the archive is kept.
    pub storage: Storage,
    /// The cluster to write to.
    pub cluster: KafkaCluster,
    /// What is restored, and how.
    pub request: RestoreRequest,
    /// Which consumer groups go on in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<CarriedGroups>,
    /// How fast it may go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// Nothing is written.
    #[serde(default)]
    pub dry_run: bool,
}

/// Consumer groups of the backup that go on in the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CarriedGroups {
    /// Ids and globs; `None`: all of the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
    /// Where their offsets go.
    pub to: CarryOverTarget,
    /// The snapshot of what they had in the target, kept beside the archive; `None`: none is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_id: Option<String>,
}

/// Where the offsets of carried groups go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CarryOverTarget {
    /// What they had committed when the backup was made, by the restore's offset map.
    FromBackup,
    /// The same by the headers of the restored records.
    #[serde(rename_all = "camelCase")]
    HeaderBased {
        /// Only records of this source count.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        source_cluster: Option<String>,
    },
    /// Whatever they had: one of the targets that need no offset of the source.
    Plain(OffsetTarget),
}

/// What is restored, and how: all that later attempts of a restore must have in common with the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreRequest {
    /// Run id of the backup, or `latest`.
    pub backup_id: String,
    /// Which archive is read; found by the run id where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<ArchiveName>,
    /// Which topics of the backup.
    pub topics: Topics,
    /// Source topic to target topic; others keep their name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topic_mapping: BTreeMap<String, String>,
    /// By source topic, partitions that get another number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partition_mapping: BTreeMap<String, Vec<PartitionMove>>,
    /// What happens when partitions do not fit.
    #[serde(default)]
    pub repartition: Repartition,
    /// Where it begins.
    #[serde(default)]
    pub from: RestoreFrom,
    /// Which timestamps.
    #[serde(default, skip_serializing_if = "TimeRange::is_unbounded")]
    pub time: TimeRange,
    /// Whether records get headers that tell where they come from; `None`: as the backup says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_original_offset_header: Option<bool>,
    /// Whether missing target topics are created.
    pub create_topics: bool,
    /// Replicas of created topics.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_replication_factor: Option<i16>,
    /// Whose configs created topics get.
    #[serde(default)]
    pub topic_config: TopicConfig,
    /// What happens to target topics with records.
    #[serde(default)]
    pub if_topic_not_empty: IfTopicNotEmpty,
}

/// A partition that gets another number in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionMove {
    /// In the source.
    pub source: i32,
    /// In the target.
    pub target: i32,
}

impl RestoreRequest {
    /// The run that means the newest complete one.
    pub const LATEST: &str = "latest";

    /// A request for `topics` of a run, everything else as a spec that says nothing more.
    pub fn new(backup_id: impl Into<String>, topics: Topics) -> Self {
        Self {
            backup_id: backup_id.into(),
            archive: None,
            topics,
            topic_mapping: BTreeMap::new(),
            partition_mapping: BTreeMap::new(),
            repartition: Repartition::default(),
            from: RestoreFrom::default(),
            time: TimeRange::default(),
            include_original_offset_header: None,
            create_topics: true,
            default_replication_factor: None,
            topic_config: TopicConfig::default(),
            if_topic_not_empty: IfTopicNotEmpty::default(),
        }
    }

    /// Name of the target topic of `source`.
    pub fn target<'a>(&'a self, source: &'a str) -> &'a str {
        self.topic_mapping
            .get(source)
            .map_or(source, String::as_str)
    }

    /// Checks that a later attempt asks for the same as `self`, the first one, which read run `backup_id`.
    ///
    /// # Errors
    /// The first field that differs.
    pub fn check_same(&self, later: &Self, backup_id: &str) -> Result<(), SpecError> {
        let fields = |request: &Self| match serde_json::to_value(request) {
            Ok(Value::Object(fields)) => fields,
            Ok(_) | Err(_) => unreachable!("a request is a struct with string keys"),
        };
        let (decided, mut now) = (fields(self), fields(later));
        if later.backup_id == backup_id {
            // Whoever knows by now which run it is may say so.
            now.insert("backupId".into(), decided["backupId"].clone());
        }
        let names: BTreeSet<&String> = decided.keys().chain(now.keys()).collect();
        let differs = names
            .into_iter()
            .find(|name| decided.get(*name) != now.get(*name));
        let Some(field) = differs else {
            return Ok(());
        };
        let said = |fields: &serde_json::Map<String, Value>| match fields.get(field) {
            Some(value) => value.to_string(),
            None => "nothing".to_owned(),
        };
        Err(SpecError::new(
            format!("spec.{field}"),
            format!(
                "{}, as this restore has begun with (another one needs another name)",
                said(&decided)
            ),
            said(&now),
        ))
    }
}

/// The plan of a KafkaRestore, and of the KafkaBackup that its `backupRef` names.
///
/// # Errors
/// [`SpecError`] names the field that cannot be obeyed.
pub fn restore(
    object: &KafkaRestore,
    referenced: &Referenced,
    run: &str,
) -> Result<Plan, SpecError> {
    let spec = &object.spec;
    let source = source(object, referenced)?;
    spec.target_cluster.check("spec.targetCluster")?;
    check_topics(&spec.topics, &spec.exclude_topics)?;
    source.storage.check()?;
    check_mapping(&spec.topic_mapping)?;
    spec.pod_template.check()?;
    if let Some(limit) = &spec.rate_limit {
        check_rate_limit(limit)?;
    }
    let partition_mapping = partition_mapping(&spec.partition_mapping)?;
    if !partition_mapping.is_empty() && spec.repartition == Repartition::ByKey {
        return Err(SpecError::new(
            "spec.partitionMapping",
            "none beside repartition ByKey, which says itself where records go",
            "both",
        ));
    }
    if !spec.create_topics && spec.default_replication_factor.is_some() {
        return Err(SpecError::new(
            "spec.defaultReplicationFactor",
            "none where createTopics is false",
            "both",
        ));
    }
    Ok(Plan::Restore(RestorePlan {
        run: run_ref("KafkaRestore", object, run),
        storage: source.storage,
        cluster: spec.target_cluster.clone(),
        request: RestoreRequest {
            backup_id: source.backup_id,
            archive: source.archive,
            topics: Topics {
                include: spec.topics.clone(),
                exclude: spec.exclude_topics.clone(),
                missing: spec.missing_topics,
            },
            topic_mapping: spec.topic_mapping.clone(),
            partition_mapping,
            repartition: spec.repartition,
            from: spec.from,
            time: spec
                .pitr
                .as_ref()
                .map_or(Ok(TimeRange::default()), time_range)?,
            include_original_offset_header: spec.include_original_offset_header,
            create_topics: spec.create_topics,
            default_replication_factor: spec.default_replication_factor,
            topic_config: spec.topic_config,
            if_topic_not_empty: spec.if_topic_not_empty,
        },
        groups: carried_groups(object)?,
        rate_limit: spec.rate_limit,
        dry_run: spec.dry_run,
    }))
}

fn carried_groups(object: &KafkaRestore) -> Result<Option<CarriedGroups>, SpecError> {
    let spec = &object.spec;
    let snapshot = spec.rollback.as_ref().filter(|rollback| rollback.enabled);
    let Some(carry) = spec.offset_reset.as_ref().filter(|carry| carry.enabled) else {
        return match snapshot {
            None => Ok(None),
            Some(_) => Err(SpecError::new(
                "spec.rollback",
                "offsetReset enabled beside it: the snapshot is of its groups",
                "it alone",
            )),
        };
    };
    if let Some(groups) = &carry.consumer_groups {
        GroupSelector::parse("spec.offsetReset.consumerGroups", groups)?;
        if groups.is_empty() {
            return Err(SpecError::new(
                "spec.offsetReset.consumerGroups",
                "at least one id or glob, or no list for all",
                "an empty list",
            ));
        }
    }
    let snapshot_id = snapshot.map(|snapshot| {
        let id = snapshot.snapshot_id.clone();
        // The same for all runs of the restore: what a later one would find may be half changed.
        id.unwrap_or_else(|| {
            let uid = run_ref("KafkaRestore", object, "").uid;
            default_snapshot_id(&format!("restore-{uid}"))
        })
    });
    if let Some(id) = &snapshot_id {
        check_snapshot_id("spec.rollback.snapshotId", id)?;
    }
    let to = carry_over_target(carry)?;
    if spec.repartition == Repartition::ByKey && to == CarryOverTarget::FromBackup {
        return Err(SpecError::new(
            "spec.offsetReset.strategy",
            "headerBased, earliest, latest, timestamp or offset beside repartition ByKey, which deals out the records of a partition",
            "fromBackup",
        ));
    }
    let headers = spec.include_original_offset_header == Some(false);
    if headers && matches!(to, CarryOverTarget::HeaderBased { .. }) {
        return Err(SpecError::new(
            "spec.offsetReset.strategy",
            "another one where includeOriginalOffsetHeader is false",
            "headerBased",
        ));
    }
    Ok(Some(CarriedGroups {
        groups: carry.consumer_groups.clone(),
        to,
        snapshot_id,
    }))
}

fn carry_over_target(carry: &CarryOver) -> Result<CarryOverTarget, SpecError> {
    let strategy = carry.strategy;
    let times = carry.timestamp.is_some() || carry.timestamp_millis.is_some();
    let details = [
        ("timestamp", times, CarryOverStrategy::Timestamp),
        ("offset", carry.offset.is_some(), CarryOverStrategy::Offset),
        (
            "sourceCluster",
            carry.source_cluster.is_some(),
            CarryOverStrategy::HeaderBased,
        ),
    ];
    let mut stray = details
        .iter()
        .filter(|(_, given, of)| *given && *of != strategy);
    if let Some((field, _, of)) = stray.next() {
        return Err(SpecError::new(
            format!("spec.offsetReset.{field}"),
            format!("strategy {of:?} beside it"),
            format!("{strategy:?}"),
        ));
    }
    let missing = |field: &str, expected: &str| {
        SpecError::new(format!("spec.offsetReset.{field}"), expected, "nothing")
    };
    Ok(match strategy {
        CarryOverStrategy::FromBackup => CarryOverTarget::FromBackup,
        CarryOverStrategy::HeaderBased => CarryOverTarget::HeaderBased {
            source_cluster: carry.source_cluster.clone(),
        },
        CarryOverStrategy::Earliest => CarryOverTarget::Plain(OffsetTarget::Earliest),
        CarryOverStrategy::Latest => CarryOverTarget::Plain(OffsetTarget::Latest),
        CarryOverStrategy::Timestamp => {
            let (text, millis) = (carry.timestamp.as_ref(), carry.timestamp_millis);
            let ms = first_ms("spec.offsetReset.timestamp", text, millis)?;
            let ms = ms.ok_or_else(|| missing("timestamp", "a time"))?;
            CarryOverTarget::Plain(OffsetTarget::Timestamp { ms })
        }
        CarryOverStrategy::Offset => {
            let offset = carry.offset.filter(|offset| *offset >= 0);
            let offset = offset.ok_or_else(|| missing("offset", "an offset from 0"))?;
            CarryOverTarget::Plain(OffsetTarget::Offset { offset })
        }
    })
}

/// Which run of which archive is restored.
pub(super) struct Source {
    pub(super) backup_id: String,
    pub(super) archive: Option<ArchiveName>,
    pub(super) storage: Storage,
}

pub(super) fn source(object: &KafkaRestore, referenced: &Referenced) -> Result<Source, SpecError> {
    let spec = &object.spec;
    let nothing =
        |field: &str, expected: &str| SpecError::new(format!("spec.{field}"), expected, "nothing");
    let Some(reference) = &spec.backup_ref else {
        let one = "a run id or latest, or backupRef in place of backupId and storage";
        return Ok(Source {
            backup_id: spec
                .backup_id
                .clone()
                .ok_or_else(|| nothing("backupId", one))?,
            archive: spec.archive.as_deref().map(parse_archive).transpose()?,
            storage: spec
                .storage
                .clone()
                .ok_or_else(|| nothing("storage", "where the archive is kept"))?,
        });
    };
    let beside = [
        ("backupId", spec.backup_id.is_some()),
        ("storage", spec.storage.is_some()),
        ("archive", spec.archive.is_some()),
    ];
    if let Some((field, _)) = beside.iter().find(|(_, is_there)| *is_there) {
        return Err(SpecError::new(
            format!("spec.{field}"),
            "nothing beside backupRef, which says it",
            "both",
        ));
    }
    // A reference never leaves the namespace: whoever may create restores here may read what is backed up here.
    let own = namespace(object);
    let found = referenced
        .backup
        .as_ref()
        .filter(|backup| namespace(*backup) == own && backup.name_any() == reference.name);
    let Some(backup) = found else {
        return Err(SpecError::new(
            "spec.backupRef.name",
            format!(
                "a KafkaBackup of namespace {own} in the cluster, or, by hand, in the same file"
            ),
            format!("{:?}, which does not exist", reference.name),
        ));
    };
    let backed_up = run_ref("KafkaBackup", backup, "");
    Ok(Source {
        backup_id: reference.backup_id.clone(),
        archive: Some(ArchiveName {
            namespace: backed_up.namespace,
            name: backed_up.name,
        }),
        storage: backup.spec.storage.clone(),
    })
}

fn parse_archive(text: &str) -> Result<ArchiveName, SpecError> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ArchiveName {
            namespace: namespace.into(),
            name: name.into(),
        }),
        Some(_) | None => Err(SpecError::new(
            "spec.archive",
            "<namespace>/<name> of a KafkaBackup",
            format!("{text:?}"),
        )),
    }
}

fn check_mapping(mapping: &BTreeMap<String, String>) -> Result<(), SpecError> {
    let mut targets = BTreeSet::new();
    for (source, target) in mapping {
        let field = format!("spec.topicMapping.{source}");
        if !is_topic_name(target) || is_internal(target) {
            return Err(SpecError::new(
                field,
                "a topic name: 1 to 249 of a-z A-Z 0-9 . _ -, not beginning with __",
                format!("{target:?}"),
            ));
        }
        if !targets.insert(target) {
            return Err(SpecError::new(
                field,
                "a target topic that no other source topic is mapped to",
                format!("{target:?}"),
            ));
        }
    }
    Ok(())
}

/// The largest number that a partition may get: brokers are not asked for more partitions by a slip of a key.
const PARTITION_MAX: i32 = 99_999;

fn partition_mapping(
    mapping: &BTreeMap<String, BTreeMap<String, i32>>,
) -> Result<BTreeMap<String, Vec<PartitionMove>>, SpecError> {
    let mut moves = BTreeMap::new();
    for (topic, partitions) in mapping {
        let mut of_topic = Vec::new();
        let mut taken = BTreeSet::new();
        for (source, target) in partitions {
            let field = || format!("spec.partitionMapping.{topic}.{source}");
            let number = source
                .parse()
                .ok()
                .filter(|number: &i32| *number >= 0 && number.to_string() == *source);
            let Some(number) = number else {
                return Err(SpecError::new(
                    format!("spec.partitionMapping.{topic}"),
                    "numbers of source partitions as keys",
                    format!("{source:?}"),
                ));
            };
            if !(0..=PARTITION_MAX).contains(target) {
                let expected = format!("a partition from 0 to {PARTITION_MAX}");
                return Err(SpecError::new(field(), expected, target.to_string()));
            }
            if !taken.insert(*target) {
                let expected = "a target partition that no other source partition is mapped to";
                return Err(SpecError::new(field(), expected, target.to_string()));
            }
            of_topic.push(PartitionMove {
                source: number,
                target: *target,
            });
        }
        of_topic.sort();
        if !of_topic.is_empty() {
            moves.insert(topic.clone(), of_topic);
        }
    }
    Ok(moves)
}

/// Record timestamps are whole milliseconds: the range is that of the milliseconds that lie within the bounds.
fn time_range(pitr: &Pitr) -> Result<TimeRange, SpecError> {
    if !pitr.enabled {
        return Ok(TimeRange::default());
    }
    let end = bound(
        "spec.pitr.timestamp",
        pitr.timestamp.as_ref(),
        pitr.timestamp_millis,
        Timestamp::as_millisecond,
    )?;
    let start = bound(
        "spec.pitr.startTimestamp",
        pitr.start_timestamp.as_ref(),
        pitr.start_timestamp_millis,
        |time| time.as_millisecond() + i64::from(time.subsec_nanosecond() % 1_000_000 > 0),
    )?;
    let range = TimeRange {
        start_ms: start,
        end_ms: end,
    };
    if range.is_unbounded() {
        return Err(SpecError::new(
            "spec.pitr",
            "timestamp, timestampMillis, startTimestamp or startTimestampMillis",
            "none of them",
        ));
    }
    match (start, end) {
        (Some(start), Some(end)) if start > end => Err(SpecError::new(
            "spec.pitr",
            "a start that is not after the end",
            range.to_string(),
        )),
        _ => Ok(range),
    }
}

/// The milliseconds of a time that is given as text in `field` or in milliseconds in `<field>Millis`.
pub(super) fn bound(
    field: &str,
    text: Option<&String>,
    millis: Option<i64>,
    to_ms: impl Fn(Timestamp) -> i64,
) -> Result<Option<i64>, SpecError> {
    match (text, millis) {
        (Some(_), Some(_)) => {
            let name = field.rsplit('.').next().unwrap_or(field);
            let expected = format!("{name} or {name}Millis");
            Err(SpecError::new(field, expected, "both"))
        }
        (None, Some(ms)) if ms < 0 => Err(SpecError::new(
            format!("{field}Millis"),
            "milliseconds since 1970",
            ms.to_string(),
        )),
        (None, millis) => Ok(millis),
        (Some(text), None) => {
            let parsed: Result<Timestamp, _> = text.parse();
            let parsed = parsed.ok().map(to_ms).filter(|ms| *ms >= 0);
            let expected = "a time since 1970, as in 2026-01-02T03:04:05Z";
            parsed
                .map(Some)
                .ok_or_else(|| SpecError::new(field, expected, format!("{text:?}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(fields: &Value) -> KafkaRestore {
        let mut object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaRestore",
            "metadata": {"name": "back", "namespace": "shop", "uid": "u"},
            "spec": {
                "backupId": "latest", "topics": ["*"],
                "targetCluster": {"bootstrapServers": ["kafka:9092"]},
                "storage": {"storageType": "s3", "s3": {"bucket": "backups"}},
            }
        });
        for (name, value) in fields.as_object().unwrap() {
            object["spec"][name] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn request(fields: &Value) -> Result<RestoreRequest, SpecError> {
        let plan = restore(&object(fields), &Referenced::default(), "back-1")?;
        let read: Plan = serde_json::from_str(&plan.to_json()?).unwrap();
        assert_eq!(read, plan, "it survives the way to the worker");
        match plan {
            Plan::Restore(plan) => Ok(plan.request),
            Plan::Backup(_) | Plan::Offsets(_) => unreachable!("it is a KafkaRestore"),
        }
    }

    fn carried(fields: &Value) -> Result<Option<CarriedGroups>, SpecError> {
        let Plan::Restore(plan) = restore(&object(fields), &Referenced::default(), "back-1")?
        else {
            unreachable!("it is a KafkaRestore");
        };
        Ok(plan.groups)
    }

    #[test]
    fn groups_are_carried_over_where_that_is_enabled() {
        let with = |reset: Value| carried(&json!({"offsetReset": reset})).unwrap();
        assert_eq!(carried(&json!({})).unwrap(), None);
        assert_eq!(with(json!({"enabled": false})), None);
        let all = with(json!({"enabled": true})).unwrap();
        assert_eq!(
            (all.groups, all.to, all.snapshot_id),
            (None, CarryOverTarget::FromBackup, None)
        );
        let cases = [
            (
                json!({"strategy": "earliest"}),
                CarryOverTarget::Plain(OffsetTarget::Earliest),
            ),
            (
                json!({"strategy": "latest"}),
                CarryOverTarget::Plain(OffsetTarget::Latest),
            ),
            (
                json!({"strategy": "timestamp", "timestampMillis": 7}),
                CarryOverTarget::Plain(OffsetTarget::Timestamp { ms: 7 }),
            ),
            (
                json!({"strategy": "offset", "offset": 7}),
                CarryOverTarget::Plain(OffsetTarget::Offset { offset: 7 }),
            ),
            (
                json!({"strategy": "headerBased", "sourceCluster": "a"}),
                CarryOverTarget::HeaderBased {
                    source_cluster: Some("a".into()),
                },
            ),
        ];
        for (mut fields, to) in cases {
            fields["enabled"] = json!(true);
            assert_eq!(with(fields.clone()).unwrap().to, to, "{fields}");
        }
    }

    #[test]
    fn the_snapshot_of_a_restore_has_one_id_for_all_its_runs() {
        let reset = json!({"enabled": true});
        let id = |rollback: Value| {
            let fields = json!({"offsetReset": reset, "rollback": rollback});
            carried(&fields).unwrap().unwrap().snapshot_id
        };
        assert_eq!(id(json!({"enabled": true})).as_deref(), Some("restore-u"));
        assert_eq!(
            id(json!({"enabled": true, "snapshotId": "s"})).as_deref(),
            Some("s")
        );
        assert_eq!(id(json!({"enabled": false})), None);
    }

    #[test]
    fn groups_that_cannot_be_carried_over_are_refused() {
        let enabled = json!({"enabled": true});
        for (fields, field) in [
            (json!({"rollback": enabled}), "spec.rollback"),
            (
                json!({"offsetReset": {"enabled": true, "consumerGroups": []}}),
                "spec.offsetReset.consumerGroups",
            ),
            (
                json!({"offsetReset": {"enabled": true, "strategy": "timestamp"}}),
                "spec.offsetReset.timestamp",
            ),
            (
                json!({"offsetReset": {"enabled": true, "strategy": "offset"}}),
                "spec.offsetReset.offset",
            ),
            (
                json!({"offsetReset": {"enabled": true, "offset": 1}}),
                "spec.offsetReset.offset",
            ),
            (
                json!({"offsetReset": {"enabled": true, "sourceCluster": "a"}}),
                "spec.offsetReset.sourceCluster",
            ),
            (
                json!({"offsetReset": enabled, "rollback": {"enabled": true, "snapshotId": "A"}}),
                "spec.rollback.snapshotId",
            ),
            (
                json!({"offsetReset": enabled, "repartition": "ByKey"}),
                "spec.offsetReset.strategy",
            ),
            (
                json!({"offsetReset": {"enabled": true, "strategy": "headerBased"}, "includeOriginalOffsetHeader": false}),
                "spec.offsetReset.strategy",
            ),
        ] {
            let error = carried(&fields).expect_err(&fields.to_string());
            assert_eq!(error.field, field, "{fields}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_obeyed_is_named() {
        for (fields, field) in [
            (
                json!({"topicMapping": {"a": "x", "b": "x"}}),
                "spec.topicMapping.b",
            ),
            (json!({"topicMapping": {"a": "a b"}}), "spec.topicMapping.a"),
            (
                json!({"partitionMapping": {"a": {"x": 1}}}),
                "spec.partitionMapping.a",
            ),
            (
                json!({"partitionMapping": {"a": {"01": 1}}}),
                "spec.partitionMapping.a",
            ),
            (
                json!({"partitionMapping": {"a": {"-1": 1}}}),
                "spec.partitionMapping.a",
            ),
            (
                json!({"partitionMapping": {"a": {"0": -1}}}),
                "spec.partitionMapping.a.0",
            ),
            (
                json!({"partitionMapping": {"a": {"0": 2, "1": 2}}}),
                "spec.partitionMapping.a.1",
            ),
            (
                json!({"partitionMapping": {"a": {"0": 2}}, "repartition": "ByKey"}),
                "spec.partitionMapping",
            ),
            (
                json!({"createTopics": false, "defaultReplicationFactor": 2}),
                "spec.defaultReplicationFactor",
            ),
            (json!({"rateLimit": {}}), "spec.rateLimit"),
            (json!({"backupRef": {"name": "orders"}}), "spec.backupId"),
            (
                json!({"backupRef": {"name": "orders"}, "backupId": null}),
                "spec.storage",
            ),
            (
                json!({"backupRef": {"name": "orders"}, "backupId": null, "storage": null}),
                "spec.backupRef.name",
            ),
            (json!({"backupId": null}), "spec.backupId"),
            (json!({"storage": null}), "spec.storage"),
            (json!({"pitr": {}}), "spec.pitr"),
            (
                json!({"pitr": {"timestamp": "yesterday"}}),
                "spec.pitr.timestamp",
            ),
            (
                json!({"pitr": {"timestamp": "1969-12-31T00:00:00Z"}}),
                "spec.pitr.timestamp",
            ),
            (
                json!({"pitr": {"timestamp": "2026-01-01T00:00:00Z", "timestampMillis": 5}}),
                "spec.pitr.timestamp",
            ),
            (
                json!({"pitr": {"startTimestampMillis": -1}}),
                "spec.pitr.startTimestampMillis",
            ),
            (
                json!({"pitr": {"startTimestampMillis": 6, "timestampMillis": 5}}),
                "spec.pitr",
            ),
            (json!({"archive": "orders"}), "spec.archive"),
        ] {
            assert_eq!(request(&fields).unwrap_err().field, field, "{fields}");
        }
    }

    #[test]
    fn bounds_are_the_milliseconds_within() {
        let time = |fields: Value| request(&json!({"pitr": fields})).unwrap().time;
        let range = |start_ms, end_ms| TimeRange { start_ms, end_ms };
        assert_eq!(
            time(
                json!({"timestamp": "1970-01-01T00:00:01.0009Z", "startTimestamp": "1970-01-01T00:00:00.5001Z"})
            ),
            range(Some(501), Some(1000))
        );
        assert_eq!(
            time(json!({"timestamp": "1970-01-01T01:00:00+01:00"})),
            range(None, Some(0))
        );
        assert_eq!(
            time(json!({"startTimestampMillis": 7, "timestampMillis": 7})),
            range(Some(7), Some(7))
        );
        assert_eq!(
            time(json!({"enabled": false, "timestampMillis": 7})),
            range(None, None)
        );
        let only = range(Some(0), Some(7));
        assert_eq!(
            [-1, 0, 7, 8].map(|ms| only.contains(ms)),
            [false, true, true, false]
        );
        assert!(
            range(None, Some(0)).contains(-1),
            "no timestamp is older than any bound"
        );
    }

    #[test]
    fn partitions_are_moved_by_number() {
        let request = request(&json!({"partitionMapping": {"a": {"10": 0, "2": 1}, "b": {}}}));
        let moves = [(2, 1), (10, 0)].map(|(source, target)| PartitionMove { source, target });
        assert_eq!(
            request.unwrap().partition_mapping,
            BTreeMap::from([("a".to_owned(), moves.to_vec())])
        );
    }

    #[test]
    fn a_later_attempt_asks_for_the_same() {
        let first = request(&json!({})).unwrap();
        assert_eq!(first.check_same(&first, "orders-1"), Ok(()));
        let named = request(&json!({"backupId": "orders-1"})).unwrap();
        assert_eq!(first.check_same(&named, "orders-1"), Ok(()));
        for (fields, field) in [
            (json!({"backupId": "orders-2"}), "spec.backupId"),
            (json!({"pitr": {"timestampMillis": 5}}), "spec.time"),
            (json!({"topicMapping": {"a": "b"}}), "spec.topicMapping"),
            (json!({"ifTopicNotEmpty": "Append"}), "spec.ifTopicNotEmpty"),
        ] {
            let error = first.check_same(&request(&fields).unwrap(), "orders-1");
            assert_eq!(error.unwrap_err().field, field, "{fields}");
        }
    }
}
