//! What a run set out to do, and what makes it up: `archive.json`, `begin.json`, topic parts, `manifest.json`, `partial.json`.
//!
//! # Guarantees
//! - `begin.json` fixes a run for all its attempts: consumer groups, ends, log starts, generations.
//! - The manifest is the commit point: a run is complete when, and only when, its manifest exists.
//! - A manifest pins every segment of every topic, directly or through the part of an earlier run; nothing that is written
//!   later changes a finished run.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::chain::{Link, OffsetRange, chain};
use super::codec::Codec;
use super::groups::GroupsPart;
use super::layout::{SegmentName, TopicId};
use super::{FORMAT_VERSION, FormatError};
use crate::plan::{IsolationLevel, RunRef};
use crate::report::{Fault, HeldBack};

/// `archive.json`: what the archive is a copy of. Created by the first run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveInfo {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Id of the source cluster; runs on another cluster are refused.
    pub cluster_id: String,
    /// Name of the source, where one was given: runs under the same name are taken whatever the cluster's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster_id: Option<String>,
}

/// A topic config value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigValue {
    /// The effective value; `None` where the broker keeps it secret.
    pub value: Option<String>,
    /// Kafka's `ConfigSource` number: 1 the topic's own, 4 static broker config, 5 default.
    pub source: i8,
}

/// What a topic is beside its records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicDescription {
    /// Id of the topic.
    pub topic_id: TopicId,
    /// Replicas of a partition.
    pub replication_factor: i16,
    /// Effective configs.
    pub configs: BTreeMap<String, ConfigValue>,
}

/// `begin.json`: created before anything else of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begin {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose run it is.
    pub run: RunRef,
    /// When it was fixed.
    pub start_time: Timestamp,
    /// Id of the source cluster.
    pub cluster_id: String,
    /// Name of the source, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster_id: Option<String>,
    /// Which records are captured.
    pub isolation_level: IsolationLevel,
    /// The newest complete run before this one.
    pub base: Option<String>,
    /// The topics that go on from where a partial run after the base has ended, with its id; the others go on from the base.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partial_bases: BTreeMap<String, String>,
    /// The topics of the run.
    pub topics: BTreeMap<String, BeginTopic>,
    /// Literal names that do not exist in the source cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_topics: Vec<String>,
    /// Whether globs were matched against what the principal may describe only: it is not known whether there is more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_visible: bool,
    /// Topics that are meant but whose offsets could not be learnt, with the reason: the run can only end partial.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
    /// What that means, for those of `failed` that no later attempt can heal either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub final_faults: BTreeMap<String, Fault>,
    /// The consumer groups, captured before the ends; `None` where none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsPart>,
    /// What [`Manifest::include_offset_headers`] will say.
    #[serde(default)]
    pub include_offset_headers: bool,
}

/// A topic in a [`Begin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BeginTopic {
    /// What the topic is.
    #[serde(flatten)]
    pub description: TopicDescription,
    /// Its partitions, sorted by number.
    pub partitions: Vec<BeginPartition>,
}

/// A partition in a [`Begin`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BeginPartition {
    /// Its number.
    pub partition: i32,
    /// Log start offset of the source.
    pub log_start: i64,
    /// Where the run ends: last stable offset or high watermark, as the isolation level says.
    pub end: i64,
    /// High watermark of the source.
    pub high_watermark: i64,
    /// Epoch of the leader that told these; while it is the same nothing can have been truncated. -1 where it is not known.
    #[serde(default = "unknown_epoch")]
    pub leader_epoch: i32,
    /// Generation that the run continues or opens.
    pub generation: String,
}

fn unknown_epoch() -> i32 {
    -1
}

/// Offsets that are missing for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// Which offsets.
    #[serde(flatten)]
    pub range: OffsetRange,
    /// Why.
    pub reason: GapReason,
}

/// Why offsets are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GapReason {
    /// The source's log start had passed them before they were captured: retention, or records were deleted.
    LogStartMoved,
}

/// `topics/<topic>/part.json.zst` of a run: the pinned segments of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicPart {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// The topic.
    pub topic: String,
    /// What the topic is.
    #[serde(flatten)]
    pub description: TopicDescription,
    /// Its partitions, sorted by number.
    pub partitions: Vec<PinnedPartition>,
}

impl TopicPart {
    /// A partition, if it is of that generation.
    pub fn pinned(&self, partition: i32, generation: &str) -> Option<&PinnedPartition> {
        let is_it = |pinned: &&PinnedPartition| {
            pinned.partition == partition && pinned.generation == generation
        };
        self.partitions.iter().find(is_it)
    }
}

/// A partition in a [`TopicPart`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PinnedPartition {
    /// Its number.
    pub partition: i32,
    /// Log start offset of the source at the run; records below it are older than the source's log was.
    pub log_start: i64,
    /// Offset up to which the run captured.
    pub end: i64,
    /// High watermark of the source at the run.
    pub high_watermark: i64,
    /// Generation in which the segments stand.
    pub generation: String,
    /// The chain, sorted by start; see [`super::chain`].
    pub segments: Vec<SegmentName>,
    /// Offsets that are missing for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<Gap>,
}

impl Begin {
    /// The run that a topic goes on from.
    pub fn base_of(&self, topic: &str) -> Option<&str> {
        let base = self.partial_bases.get(topic).or(self.base.as_ref());
        base.map(String::as_str)
    }

    /// All runs that it goes on from.
    pub fn bases(&self) -> BTreeSet<String> {
        let partial = self.partial_bases.values();
        partial.chain(&self.base).cloned().collect()
    }
}

impl PinnedPartition {
    /// The segments with the offsets for which they count, up to the partition's end.
    pub fn links(&self) -> Vec<Link> {
        let mut links = chain(self.segments.clone());
        for link in &mut links {
            link.range.end = link.range.end.min(self.end);
        }
        links.retain(|link| !link.range.is_empty());
        links
    }

    /// Records in the pinned segments.
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|name| name.records).sum()
    }
}

/// `manifest.json`, or `partial.json` when some topics failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// See [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose run it is.
    pub run: RunRef,
    /// When the run was fixed.
    pub start_time: Timestamp,
    /// When it was complete.
    pub completion_time: Timestamp,
    /// Id of the source cluster.
    pub cluster_id: String,
    /// Name of the source, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_cluster_id: Option<String>,
    /// Which records were captured.
    pub isolation_level: IsolationLevel,
    /// The newest complete run before this one.
    pub base: Option<String>,
    /// Records in segments that the base does not pin.
    pub records: u64,
    /// Bytes of those segments.
    pub bytes: u64,
    /// The complete topics.
    pub topics: BTreeMap<String, ManifestTopic>,
    /// Topics that could not be captured, with the reason; empty in `manifest.json`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
    /// Literal names that do not exist in the source cluster.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing_topics: Vec<String>,
    /// See [`Begin::only_visible`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_visible: bool,
    /// The consumer groups; `None` where none was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<GroupsPart>,
    /// What open transactions held back.
    #[serde(default, skip_serializing_if = "HeldBack::is_nothing")]
    pub held_back: HeldBack,
    /// Whether a restore that says nothing of it adds headers with the source's offsets.
    #[serde(default)]
    pub include_offset_headers: bool,
}

/// A complete topic in a [`Manifest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestTopic {
    /// Run id whose folder holds the topic's part: this run's, or an earlier one's where nothing has changed since.
    pub part: String,
    /// Id of the topic.
    pub topic_id: TopicId,
    /// Number of partitions.
    pub partitions: u32,
    /// Records in all pinned segments.
    pub records: u64,
    /// Bytes of all pinned segments.
    pub bytes: u64,
    /// Records that this run added.
    pub added_records: u64,
    /// Bytes that this run added.
    pub added_bytes: u64,
    /// Number of gaps.
    #[serde(default)]
    pub gaps: u64,
    /// Gaps that this run found.
    #[serde(default)]
    pub added_gaps: u64,
}

/// Reads a versioned JSON object.
///
/// # Errors
/// [`FormatError`], naming the object.
pub fn from_json<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T, FormatError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        format_version: u32,
    }
    let damaged = |error: serde_json::Error| FormatError::Damaged {
        object: object.into(),
        reason: error.to_string(),
    };
    // The version first: a newer format may not parse as ours.
    let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
    if version.format_version > FORMAT_VERSION {
        return Err(FormatError::TooNew {
            object: object.into(),
            found: version.format_version,
        });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// Reads a versioned JSON object that is compressed with zstd.
///
/// # Errors
/// [`FormatError`], naming the object.
pub fn from_json_zst<T: DeserializeOwned>(object: &str, bytes: &[u8]) -> Result<T, FormatError> {
    // What we write compresses to a tenth, seldom to a fiftieth.
    let limit = bytes.len().saturating_mul(200).saturating_add(16 << 20);
    let json = Codec::Zstd
        .decompress(bytes, limit)
        .map_err(|error| FormatError::Damaged {
            object: object.into(),
            reason: error.to_string(),
        })?;
    from_json(object, &json)
}

/// Writes an object, readable by people.
pub fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec_pretty(value).expect("formats have only string keys")
}

/// Writes an object, compressed.
pub fn to_json_zst<T: Serialize>(value: &T) -> Vec<u8> {
    let json = serde_json::to_vec(value).expect("formats have only string keys");
    zstd::stream::encode_all(&json[..], zstd::DEFAULT_COMPRESSION_LEVEL)
        .expect("memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let error = from_json::<ArchiveInfo>(
            "a/archive.json",
            br#"{"formatVersion": 2, "shape": "unknown"}"#,
        )
        .unwrap_err();
        assert_eq!(
            error,
            FormatError::TooNew {
                object: "a/archive.json".into(),
                found: 2
            }
        );
    }

    #[test]
    fn a_damaged_object_is_named() {
        for bytes in [&b""[..], b"{}", br#"{"formatVersion": 1}"#, b"\xff"] {
            let error = from_json::<ArchiveInfo>("a/archive.json", bytes).unwrap_err();
            assert!(error.to_string().contains("a/archive.json"), "{error}");
        }
        assert!(from_json_zst::<TopicPart>("p", b"not zstd").is_err());
    }

    #[test]
    fn a_part_round_trips() {
        let part = TopicPart {
            format_version: FORMAT_VERSION,
            topic: "t".into(),
            description: TopicDescription {
                topic_id: TopicId([7; 16]),
                replication_factor: 3,
                configs: BTreeMap::from([(
                    "cleanup.policy".into(),
                    ConfigValue {
                        value: Some("delete".into()),
                        source: 5,
                    },
                )]),
            },
            partitions: vec![PinnedPartition {
                partition: 0,
                log_start: 5,
                end: 20,
                high_watermark: 22,
                generation: "g".into(),
                segments: vec![SegmentName {
                    start: 5,
                    end: 25,
                    leader_epoch: 0,
                    records: 20,
                    max_timestamp: 1,
                    crc32c: 9,
                }],
                gaps: vec![Gap {
                    range: OffsetRange { start: 3, end: 5 },
                    reason: GapReason::LogStartMoved,
                }],
            }],
        };
        assert_eq!(
            from_json_zst::<TopicPart>("p", &to_json_zst(&part)),
            Ok(part.clone())
        );
        assert_eq!(
            part.partitions[0].links()[0].range,
            OffsetRange { start: 5, end: 20 }
        );
    }
}
