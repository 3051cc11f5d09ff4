//! Configs of restored topics: while data is written, afterwards, and what an existing topic must not have.
//!
//! # Guarantees
//! - While it is written to, a created topic takes every record of the source and expires none.
//! - Afterwards it has the source's values, or the target cluster's defaults where that is asked for, except those that would
//!   expire restored records at once: these are *held*, and the user is told with the command that ends it.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use kafka_backup_shared::archive::chain::Link;
use kafka_backup_shared::archive::manifest::TopicDescription;
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::spec::TopicConfig;

use crate::kafka::{ConfigEntry, ConfigSource};

/// Kafka's number of a value that is the topic's own, as [`TopicDescription::configs`] has it.
const OWN: i8 = 1;

/// A batch above this would not fit into a broker's default `socket.request.max.bytes`.
const LOAD_MAX_MESSAGE_BYTES: u64 = 100 << 20;

/// Kafka's default of `max.message.bytes`.
const DEFAULT_MAX_MESSAGE_BYTES: u64 = 1_048_588;

pub(super) const CLEANUP_POLICY: &str = "cleanup.policy";
pub(super) const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const MIN_INSYNC_REPLICAS: &str = "min.insync.replicas";
const RETENTION_BYTES: &str = "retention.bytes";
const RETENTION_MS: &str = "retention.ms";
const SEGMENT_BYTES: &str = "segment.bytes";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const TIMESTAMP_BEFORE: &str = "message.timestamp.before.max.ms";
const TIMESTAMP_AFTER: &str = "message.timestamp.after.max.ms";

/// What retention and timestamp limits are judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct History {
    /// The smallest of the segments' largest timestamps, in ms: retention deletes whole segments by it. `None` without timestamps.
    pub(super) oldest_ms: Option<i64>,
    /// The largest timestamp, in ms.
    pub(super) newest_ms: Option<i64>,
    /// Bytes of all segments.
    pub(super) bytes: u64,
}

impl History {
    /// The history that `links` tell.
    pub(super) fn new<'a>(links: impl IntoIterator<Item = &'a Link>, bytes: u64) -> Self {
        let stamps: Vec<i64> = links
            .into_iter()
            .filter(|link| link.name.records > 0 && link.name.max_timestamp >= 0)
            .map(|link| link.name.max_timestamp)
            .collect();
        Self {
            oldest_ms: stamps.iter().copied().min(),
            newest_ms: stamps.iter().copied().max(),
            bytes,
        }
    }

    fn outlives(&self, retention_ms: i64, now: Timestamp) -> bool {
        let expires_ms = self
            .oldest_ms
            .map(|oldest| oldest.saturating_add(retention_ms));
        retention_ms < 0 || expires_ms.is_none_or(|ms| ms > now.as_millisecond())
    }

    fn fits(&self, retention_bytes: i64) -> bool {
        u64::try_from(retention_bytes).is_ok_and(|limit| self.bytes <= limit) || retention_bytes < 0
    }
}

/// Configs that a topic is created with.
pub(super) fn at_creation(
    source: &TopicDescription,
    replication_factor: i32,
) -> BTreeMap<String, String> {
    let max_message_bytes = LOAD_MAX_MESSAGE_BYTES.max(source_max_message_bytes(source));
    // The target's default may ask for more replicas than the topic gets, and then nothing could be written.
    let min_insync = number(source, MIN_INSYNC_REPLICAS).unwrap_or(1);
    let min_insync = min_insync.clamp(1, i64::from(replication_factor.max(1)));
    [
        (CLEANUP_POLICY, "delete".to_owned()),
        ("compression.type", "producer".to_owned()),
        (MAX_MESSAGE_BYTES, max_message_bytes.to_string()),
        (TIMESTAMP_AFTER, i64::MAX.to_string()),
        (TIMESTAMP_BEFORE, i64::MAX.to_string()),
        (TIMESTAMP_TYPE, "CreateTime".to_owned()),
        (MIN_INSYNC_REPLICAS, min_insync.to_string()),
        (RETENTION_BYTES, "-1".to_owned()),
        (RETENTION_MS, "-1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// What a created topic gets when the data is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Finals {
    /// Given to it: a value of its own, or `None` for the cluster's default.
    pub(super) set: BTreeMap<String, Option<String>>,
    /// Not given to it: restored records would expire.
    pub(super) held: BTreeMap<String, String>,
}

impl Finals {
    /// Takes back what [`at_creation`] gave for the time of writing, where nothing else was said.
    fn reset_the_rest(&mut self, created_with: &BTreeMap<String, String>) {
        for name in created_with.keys() {
            if !self.held.contains_key(name) {
                self.set.entry(name.clone()).or_insert(None);
            }
        }
    }

    /// Gives `name` the value that decides about the life of records, unless they would not outlive it.
    fn set_or_hold(
        &mut self,
        name: &str,
        value: &str,
        given: Option<String>,
        history: &History,
        now: Timestamp,
    ) {
        let stays = match value.parse() {
            Ok(limit) if name == RETENTION_MS => history.outlives(limit, now),
            Ok(limit) => history.fits(limit),
            // What cannot be understood is not to take effect unseen.
            Err(_) => false,
        };
        match stays {
            true => {
                self.set.insert(name.into(), given);
            }
            false => {
                self.set.remove(name);
                self.held.insert(name.into(), value.into());
            }
        }
    }
}

/// The source's values as far as the target may have them.
pub(super) fn finals(
    source: &TopicDescription,
    history: &History,
    replication_factor: i32,
    now: Timestamp,
) -> Finals {
    let mut finals = Finals::default();
    let own = source
        .configs
        .iter()
        .filter(|(_, value)| value.source == OWN);
    for (name, value) in own {
        // Which replicas are throttled is a matter of one cluster's broker ids.
        if name.ends_with(".throttled.replicas") {
            continue;
        }
        if let Some(value) = &value.value {
            finals.set.insert(name.clone(), Some(value.clone()));
        }
    }
    let wanted = number(source, MIN_INSYNC_REPLICAS)
        .filter(|_| finals.set.contains_key(MIN_INSYNC_REPLICAS));
    if wanted.is_some_and(|wanted| wanted > i64::from(replication_factor)) {
        let most = replication_factor.to_string();
        finals.set.insert(MIN_INSYNC_REPLICAS.into(), Some(most));
    }
    // What decides about the life of records is taken from the source also where it is only its cluster's default.
    let policy = text(source, CLEANUP_POLICY).unwrap_or("delete");
    finals
        .set
        .insert(CLEANUP_POLICY.into(), Some(policy.into()));
    for name in [RETENTION_MS, RETENTION_BYTES] {
        match text(source, name) {
            Some(value) if policy.contains("delete") => {
                finals.set_or_hold(name, value, Some(value.into()), history, now);
            }
            Some(value) => {
                finals.set.insert(name.into(), Some(value.into()));
            }
            // Unlimited, as it was created: the target's default might expire records.
            None => {
                finals.set.insert(name.into(), Some("-1".into()));
            }
        }
    }
    finals.reset_the_rest(&at_creation(source, replication_factor));
    finals
}

/// The target cluster's defaults, of which `defaults` tells the values.
pub(super) fn default_finals(
    source: &TopicDescription,
    defaults: &HashMap<String, String>,
    history: &History,
    replication_factor: i32,
    now: Timestamp,
) -> Finals {
    let mut finals = Finals::default();
    // Unseen, a default might expire everything.
    let unknown = || "unknown".to_owned();
    let of = |name: &str| defaults.get(name).cloned().unwrap_or_else(unknown);
    if of(CLEANUP_POLICY) != "compact" {
        for name in [RETENTION_MS, RETENTION_BYTES] {
            finals.set_or_hold(name, &of(name), None, history, now);
        }
    }
    finals.reset_the_rest(&at_creation(source, replication_factor));
    finals
}

/// Values that differ from the source's, for the user.
pub(super) fn notes(
    target: &str,
    source: &TopicDescription,
    final_configs: &BTreeMap<String, Option<String>>,
) -> Vec<String> {
    let wanted = source
        .configs
        .get(MIN_INSYNC_REPLICAS)
        .filter(|value| value.source == OWN);
    let wanted = wanted.and_then(|value| value.value.as_ref());
    let set = final_configs.get(MIN_INSYNC_REPLICAS);
    match (wanted, set.and_then(Option::as_ref)) {
        (Some(wanted), Some(set)) if wanted != set => vec![format!(
            "topic {target}: {MIN_INSYNC_REPLICAS} is {set} instead of {wanted}, because the target has no more replicas"
        )],
        _ => Vec::new(),
    }
}

/// Whether the source keeps only the newest value of each key.
pub(super) fn is_compacted(source: &TopicDescription) -> bool {
    text(source, CLEANUP_POLICY).is_some_and(|policy| policy.contains("compact"))
}

/// Whether records of the source have append times.
pub(super) fn has_append_time(source: &TopicDescription) -> bool {
    text(source, TIMESTAMP_TYPE) == Some("LogAppendTime")
}

/// Tells the user what is held, and how it ends.
pub(super) fn held_warning(
    target: &str,
    name: &str,
    value: &str,
    whose: TopicConfig,
    bootstrap_servers: &[String],
) -> String {
    let (whose, change) = match whose {
        TopicConfig::Source => ("source's", format!("--add-config {name}={value}")),
        TopicConfig::Target => ("target's default", format!("--delete-config {name}")),
    };
    format!(
        "topic {target}: the {whose} {name}={value} would expire restored records and is not set; to end that: \
         kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {target} {change}",
        bootstrap_servers.join(",")
    )
}

/// Whether an existing topic is as [`at_creation`] makes it: an earlier attempt of a restore did.
pub(super) fn is_ours(target: &[ConfigEntry], created_with: &BTreeMap<String, String>) -> bool {
    let own: BTreeMap<&str, &str> = target
        .iter()
        .filter(|entry| entry.source == ConfigSource::Topic)
        .map(|entry| {
            (
                entry.name.as_str(),
                entry.value.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    let ours = created_with
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    own == ours.collect()
}

/// Bytes of the largest batch that an existing topic takes.
pub(super) fn max_message_bytes(target: &[ConfigEntry]) -> u32 {
    let number = |name| value(target, name).and_then(|value| value.parse::<u32>().ok());
    let message = number(MAX_MESSAGE_BYTES).unwrap_or(DEFAULT_MAX_MESSAGE_BYTES as u32);
    message.min(number(SEGMENT_BYTES).unwrap_or(u32::MAX))
}

/// Checks that an existing topic takes every record of the source and expires none.
///
/// # Errors
/// The first config that does not, with the values that would do.
pub(super) fn check_existing(
    topic: &str,
    target: &[ConfigEntry],
    source: &TopicDescription,
    history: &History,
    now: Timestamp,
) -> Result<(), SpecError> {
    let refuse = |name: &str, expected: String| {
        let found = value(target, name).unwrap_or_default();
        Err(SpecError::new(
            format!("target topic {topic}"),
            format!("{name} {expected}"),
            found,
        ))
    };
    let int = |name| value(target, name).and_then(|value| value.parse::<i64>().ok());
    let now_ms = now.as_millisecond();
    if value(target, TIMESTAMP_TYPE) == Some("LogAppendTime") {
        return refuse(
            TIMESTAMP_TYPE,
            "CreateTime (timestamps would be lost)".into(),
        );
    }
    let ahead = history.newest_ms.map_or(0, |ms| ms.saturating_sub(now_ms));
    if int(TIMESTAMP_AFTER).is_some_and(|limit| ahead > limit) {
        return refuse(
            TIMESTAMP_AFTER,
            format!("of at least {ahead} (the backup has such timestamps)"),
        );
    }
    let behind = history.oldest_ms.map_or(0, |ms| now_ms.saturating_sub(ms));
    if int(TIMESTAMP_BEFORE).is_some_and(|limit| behind > limit) {
        return refuse(
            TIMESTAMP_BEFORE,
            format!("of more than {behind} (the backup has such timestamps)"),
        );
    }
    let policy = value(target, CLEANUP_POLICY).unwrap_or("delete");
    let source_policy = text(source, CLEANUP_POLICY).unwrap_or("delete");
    if policy.contains("compact") && !source_policy.contains("compact") {
        return refuse(
            CLEANUP_POLICY,
            "without compact, as the source has it (records without key would be refused)".into(),
        );
    }
    if policy.contains("delete") {
        if int(RETENTION_MS).is_some_and(|ms| !history.outlives(ms, now)) {
            return refuse(
                RETENTION_MS,
                format!("of more than {behind}, or -1 (restored records would expire)"),
            );
        }
        if int(RETENTION_BYTES).is_some_and(|bytes| !history.fits(bytes)) {
            let bytes = history.bytes;
            return refuse(
                RETENTION_BYTES,
                format!("of at least {bytes}, or -1 (restored records would expire)"),
            );
        }
    }
    Ok(())
}

/// Whether batches of the source may be larger than the target takes.
pub(super) fn may_be_too_large(source: &TopicDescription, max_message_bytes: u32) -> bool {
    u64::from(max_message_bytes) < source_max_message_bytes(source)
}

fn source_max_message_bytes(source: &TopicDescription) -> u64 {
    let value = number(source, MAX_MESSAGE_BYTES).and_then(|value| u64::try_from(value).ok());
    value.unwrap_or(DEFAULT_MAX_MESSAGE_BYTES)
}

fn text<'a>(source: &'a TopicDescription, name: &str) -> Option<&'a str> {
    source.configs.get(name)?.value.as_deref()
}

fn number(source: &TopicDescription, name: &str) -> Option<i64> {
    text(source, name)?.parse().ok()
}

/// The effective value of a config.
pub(super) fn value<'a>(target: &'a [ConfigEntry], name: &str) -> Option<&'a str> {
    let found = target.iter().find(|entry| entry.name == name)?;
    found.value.as_deref()
}

/// The value of a config that the topic itself has.
pub(super) fn own_value<'a>(target: &'a [ConfigEntry], name: &str) -> Option<&'a str> {
    let own = |entry: &&ConfigEntry| entry.name == name && entry.source == ConfigSource::Topic;
    target.iter().find(own)?.value.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::layout::TopicId;
    use kafka_backup_shared::archive::manifest::ConfigValue;

    const DAY_MS: i64 = 86_400_000;

    fn now() -> Timestamp {
        Timestamp::from_millisecond(100 * DAY_MS).unwrap()
    }

    fn source(configs: &[(&str, &str, i8)]) -> TopicDescription {
        let value = |value: &str, source| ConfigValue {
            value: Some(value.into()),
            source,
        };
        TopicDescription {
            topic_id: TopicId([1; 16]),
            replication_factor: 3,
            configs: configs
                .iter()
                .map(|(name, v, s)| ((*name).into(), value(v, *s)))
                .collect(),
        }
    }

    fn history(days_old: i64, bytes: u64) -> History {
        let oldest = Some((100 - days_old) * DAY_MS);
        History {
            oldest_ms: oldest,
            newest_ms: oldest,
            bytes,
        }
    }

    fn target(configs: &[(&str, &str)]) -> Vec<ConfigEntry> {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).into(),
            value: Some((*value).into()),
            source: ConfigSource::Topic,
            sensitive: false,
            read_only: false,
        };
        configs.iter().map(entry).collect()
    }

    /// Values of the topic's own that are set.
    fn own(finals: &Finals) -> Vec<(&str, &str)> {
        let own = finals.set.iter();
        own.filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
            .collect()
    }

    fn pairs(map: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
        map.iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect()
    }

    #[test]
    fn values_of_the_topic_are_set_and_defaults_are_not() {
        let source = source(&[
            ("cleanup.policy", "compact", 1),
            ("compression.type", "zstd", 1),
            ("segment.ms", "1000", 5),
            ("leader.replication.throttled.replicas", "*", 1),
        ]);
        let finals = finals(&source, &history(1, 1), 3, now());
        assert_eq!(
            own(&finals),
            [
                ("cleanup.policy", "compact"),
                ("compression.type", "zstd"),
                ("retention.bytes", "-1"),
                ("retention.ms", "-1")
            ]
        );
        assert_eq!(finals.set["max.message.bytes"], None, "the default again");
        assert!(finals.held.is_empty());
    }

    #[test]
    fn retention_that_would_expire_records_is_held() {
        let source = source(&[
            ("retention.ms", "604800000", 5),
            ("retention.bytes", "1000", 1),
        ]);
        let young = finals(&source, &history(6, 1000), 3, now());
        assert!(young.held.is_empty());
        assert_eq!(young.set["retention.ms"].as_deref(), Some("604800000"));
        assert_eq!(young.set["retention.bytes"].as_deref(), Some("1000"));
        let old = finals(&source, &history(7, 1001), 3, now());
        assert_eq!(
            pairs(&old.held),
            [("retention.bytes", "1000"), ("retention.ms", "604800000")]
        );
        assert_eq!(own(&old), [("cleanup.policy", "delete")]);
        assert!(!old.set.contains_key("retention.ms"), "it stays unlimited");
    }

    #[test]
    fn retention_of_a_compacted_topic_expires_nothing() {
        let source = source(&[("retention.ms", "1", 5), ("cleanup.policy", "compact", 1)]);
        assert!(finals(&source, &history(50, 1), 3, now()).held.is_empty());
    }

    #[test]
    fn fewer_replicas_lower_min_insync_and_it_is_told() {
        let source = source(&[("min.insync.replicas", "2", 1)]);
        let finals = finals(&source, &history(0, 1), 1, now());
        assert_eq!(finals.set["min.insync.replicas"].as_deref(), Some("1"));
        assert_eq!(notes("t", &source, &finals.set).len(), 1);
        assert_eq!(at_creation(&source, 1)["min.insync.replicas"], "1");
        assert_eq!(at_creation(&source, 3)["min.insync.replicas"], "2");
    }

    #[test]
    fn defaults_of_the_target_are_given_unless_they_expire_records() {
        let source = source(&[("retention.ms", "5", 1), ("segment.ms", "7", 1)]);
        let defaults = |policy: &str, retention_ms: &str| {
            HashMap::from([
                ("cleanup.policy".to_owned(), policy.to_owned()),
                ("retention.ms".to_owned(), retention_ms.to_owned()),
                ("retention.bytes".to_owned(), "-1".to_owned()),
            ])
        };
        let finals = |policy, ms, days| {
            default_finals(&source, &defaults(policy, ms), &history(days, 1), 1, now())
        };
        let young = finals("delete", "604800000", 6);
        assert!(young.held.is_empty() && own(&young).is_empty(), "{young:?}");
        assert_eq!(young.set["retention.ms"], None);
        assert_eq!(young.set["cleanup.policy"], None);
        assert!(!young.set.contains_key("segment.ms"), "it was never set");
        let old = finals("delete", "604800000", 7);
        assert_eq!(pairs(&old.held), [("retention.ms", "604800000")]);
        assert!(!old.set.contains_key("retention.ms"), "it stays unlimited");
        assert!(finals("compact", "1", 7).held.is_empty());
        let unseen = default_finals(&source, &HashMap::new(), &history(0, 1), 1, now());
        assert_eq!(unseen.held.len(), 2, "{unseen:?}");
    }

    #[test]
    fn an_existing_topic_that_would_lose_records_is_refused() {
        let source = source(&[
            ("cleanup.policy", "delete", 5),
            ("max.message.bytes", "2000000", 5),
        ]);
        let good = [("max.message.bytes", "2000000"), ("retention.ms", "-1")];
        assert_eq!(
            check_existing("t", &target(&good), &source, &history(9, 10), now()),
            Ok(())
        );
        for (bad, value) in [
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "1000"),
            ("cleanup.policy", "compact"),
            ("retention.ms", "604800000"),
            ("retention.bytes", "9"),
        ] {
            let mut configs = vec![(bad, value)];
            configs.extend(good);
            let error = check_existing("t", &target(&configs), &source, &history(9, 10), now())
                .unwrap_err();
            assert_eq!(error.found, value, "{error}");
        }
        let ahead = [
            ("message.timestamp.after.max.ms", "3600000"),
            good[0],
            good[1],
        ];
        assert!(check_existing("t", &target(&ahead), &source, &history(-1, 10), now()).is_err());
        assert!(check_existing("t", &target(&ahead), &source, &history(0, 10), now()).is_ok());
    }

    #[test]
    fn the_smaller_of_batch_and_segment_limits_what_fits() {
        let source = source(&[("max.message.bytes", "2000000", 5)]);
        let takes = |configs: &[(&str, &str)]| max_message_bytes(&target(configs));
        assert!(!may_be_too_large(
            &source,
            takes(&[("max.message.bytes", "2000000")])
        ));
        assert!(may_be_too_large(
            &source,
            takes(&[("max.message.bytes", "1999999")])
        ));
        let segment = [
            ("max.message.bytes", "2000000"),
            ("segment.bytes", "1999999"),
        ];
        assert!(may_be_too_large(&source, takes(&segment)));
    }

    #[test]
    fn only_a_topic_exactly_as_created_is_ours() {
        let created = at_creation(&source(&[]), 1);
        let mut same: Vec<(&str, &str)> = pairs(&created);
        assert!(is_ours(&target(&same), &created));
        same.push(("segment.ms", "5"));
        assert!(!is_ours(&target(&same), &created));
    }
}
