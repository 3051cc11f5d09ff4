//! How records are brought back: the spec parts of a restore. Part of [`crate::spec`].
#![allow(
    unreachable_pub,
    reason = "KubeSchema repeats the struct in a private scope"
)]

use std::fmt::{self, Display};

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where a restore begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RestoreFrom {
    /// At the source's log start offset of that run: what the source had then.
    #[default]
    LogStart,
    /// At the oldest record that the archive has, also where the source had deleted it before that run.
    ArchiveStart,
}

/// What happens when a target topic has another number of partitions than its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Repartition {
    /// The restore is refused before it writes anything.
    #[default]
    Refuse,
    /// Records go where Kafka's own producer would put their key among the target's partitions; those without a key, to their
    /// source partition modulo that number.
    ByKey,
}

/// What happens when a target topic has records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum IfTopicNotEmpty {
    /// The restore is refused before it writes anything.
    #[default]
    Refuse,
    /// Restored records come behind those that are there. Nothing else may write to the topic meanwhile.
    Append,
    /// The records that are there are deleted first.
    Purge,
}

/// Whose configs a topic has that a restore creates, once the data is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TopicConfig {
    /// The source topic's.
    #[default]
    Source,
    /// The target cluster's defaults.
    Target,
}

/// Restores only records with timestamps in a range; both bounds belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.enabled || has(self.timestamp) || has(self.timestampMillis) || has(self.startTimestamp) || has(self.startTimestampMillis)").message("pitr needs timestamp, timestampMillis, startTimestamp or startTimestampMillis"),
    validation = Rule::new("!(has(self.timestamp) && has(self.timestampMillis))").message("pitr takes timestamp or timestampMillis, not both"),
    validation = Rule::new("!(has(self.startTimestamp) && has(self.startTimestampMillis))").message("pitr takes startTimestamp or startTimestampMillis, not both"),
)]
pub struct Pitr {
    /// Whether the range is obeyed.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// The newest time, as in 2026-01-02T03:04:05Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: Option<String>,
    /// The newest time in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timestamp_millis: Option<i64>,
    /// The oldest time, as in 2026-01-02T03:04:05Z; records without a timestamp (-1) are older than any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub start_timestamp: Option<String>,
    /// The oldest time in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub start_timestamp_millis: Option<i64>,
}

fn enabled() -> bool {
    true
}

/// Timestamps of records, in ms since 1970, both bounds included. Records without a timestamp (-1) are older than any bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TimeRange {
    /// The oldest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<i64>,
    /// The newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_ms: Option<i64>,
}

impl TimeRange {
    /// Whether there is no bound.
    pub fn is_unbounded(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a timestamp lies in it.
    pub fn contains(&self, timestamp_ms: i64) -> bool {
        self.start_ms.is_none_or(|start| timestamp_ms >= start)
            && self.end_ms.is_none_or(|end| timestamp_ms <= end)
    }
}

impl Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |ms: i64| match Timestamp::from_millisecond(ms) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{ms} ms"),
        };
        match (self.start_ms, self.end_ms) {
            (None, None) => f.write_str("of any time"),
            (None, Some(end)) => write!(f, "up to {}", time(end)),
            (Some(start), None) => write!(f, "from {}", time(start)),
            (Some(start), Some(end)) => write!(f, "from {} to {}", time(start), time(end)),
        }
    }
}
