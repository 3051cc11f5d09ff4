//! What a restore keeps in the archive: `purge.json`, `plan.json`, `lease.json`, `done.json`, the pieces of its offset map, and the
//! consumer groups that it has carried over.
//!
//! # Guarantees
//! - `plan.json` is created once, before the first record is written; every later attempt follows it.
//! - The offset map consists of one immutable piece per restored segment; together they tell where each source offset went.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::chain::OffsetRange;
use super::layout::{SegmentName, TopicId};
use crate::crd::GroupResult;
use crate::plan::{RestoreRequest, RunRef};
use crate::report::{RetentionHeld, TopicReport};

/// `plan.json`: what was decided before the first record was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreDecision {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// Whose run it is.
    pub run: RunRef,
    /// When it was decided.
    pub start_time: Timestamp,
    /// Run id of the backup.
    pub backup_id: String,
    /// What was asked for.
    pub request: RestoreRequest,
    /// Name of the source in the headers that each record gets; `None`: it gets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<String>,
    /// Id of the target cluster.
    pub target_cluster_id: String,
    /// Producer id of every batch; idempotence is only the second line behind the base offset rule.
    pub producer_id: i64,
    /// Its epoch.
    pub producer_epoch: i16,
    /// The topics, by source name.
    pub topics: BTreeMap<String, RestoredTopicDecision>,
    /// Topics of which the archive has lost something, by source name, with the reason: nothing is written of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<String, String>,
}

/// A topic in a [`RestoreDecision`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoredTopicDecision {
    /// Id of the source topic: its segments stand below it.
    pub source_topic_id: TopicId,
    /// Name in the target cluster.
    pub target: String,
    /// Id in the target cluster: a topic that was deleted and created again is another one.
    pub target_topic_id: TopicId,
    /// Largest batch that the target takes, in bytes.
    pub max_message_bytes: u32,
    /// Configs to give the topic when the data is in, null for the cluster's default; `None`: the topic was there before, and its
    /// configs are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_configs: Option<BTreeMap<String, Option<String>>>,
    /// Configs that the topic should have and does not get, because they would expire restored records.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_configs: BTreeMap<String, String>,
    /// Source partitions that are read, sorted by number.
    pub sources: Vec<SourcePartition>,
    /// Target partitions that are written, sorted by number.
    pub partitions: Vec<TargetPartition>,
    /// Partitions that the target has, where records are dealt out among them by their keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_key: Option<u32>,
}

/// A partition that is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourcePartition {
    /// Its number.
    pub partition: i32,
    /// Source offsets that are restored.
    pub range: OffsetRange,
    /// Records at those offsets that are restored.
    pub records: u64,
    /// Bytes of record batches that hold them, in proportion where a segment counts in part.
    pub bytes: u64,
    /// Generation in which the segments stand.
    pub generation: String,
    /// The pinned segments, sorted by start.
    pub segments: Vec<SegmentName>,
}

/// A partition that is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetPartition {
    /// Its number.
    pub partition: i32,
    /// Offset of the first restored record.
    pub base_offset: i64,
    /// Records that will be there: the log end must come out at `base_offset + records`.
    pub records: u64,
    /// The source partitions that it takes records from, one after another.
    pub sources: Vec<i32>,
}

/// `purge.json`: what a purge changes for its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Purge {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// `cleanup.policy` of target topics before the purge; null where it was the cluster's default.
    pub policies: BTreeMap<String, Option<String>>,
}

/// `lease.json`: who is at work. Updated conditionally; a successor waits until it has run out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// Random id of the worker process.
    pub holder: String,
    /// When it was renewed last, by the holder's clock.
    pub renewed: Timestamp,
    /// Seconds after which it has run out unless renewed.
    pub duration_secs: u32,
}

/// `done.json`: the restore is complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// When it was complete.
    pub completion_time: Timestamp,
    /// Records in the target.
    pub records: u64,
    /// Bytes of record batches that were restored.
    pub bytes: u64,
    /// Offset ranges that the backup could not capture.
    #[serde(default)]
    pub gaps: u64,
    /// What a user should know although the restore succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Per topic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicReport>,
    /// What retention does not have yet.
    #[serde(default, skip_serializing_if = "RetentionHeld::is_nothing")]
    pub retention_held: RetentionHeld,
}

/// `groups/<ms>.json`: consumer groups whose offsets an attempt has committed. Their members may have gone on since: a later attempt
/// leaves them alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CarriedOver {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// When the attempt ended.
    pub completion_time: Timestamp,
    /// The groups.
    pub groups: Vec<GroupResult>,
}

/// Where the records of one restored segment went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetPiece {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// Partition of the target topic.
    pub target_partition: i32,
    /// Source batches in order, equal runs coalesced.
    pub runs: Vec<OffsetRun>,
}

/// Source offsets `[start, end)` whose `records` records stand from `target` on in the target.
///
/// Where `records` equals `end - start` each offset maps to `target + (offset - start)`; where it is smaller the range has
/// holes (compaction), and the exact place takes decoding one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetRun {
    /// First source offset.
    pub start: i64,
    /// The source offset after the last one.
    pub end: i64,
    /// Records in the range.
    pub records: u64,
    /// Offset in the target of the first of them.
    pub target: i64,
}

impl OffsetPiece {
    /// Adds the next source batch; it joins the run before it where both are without holes and adjacent on both sides.
    pub fn push(&mut self, next: OffsetRun) {
        let dense = |run: &OffsetRun| (run.end - run.start) as u64 == run.records;
        if let Some(last) = self.runs.last_mut() {
            let adjacent =
                last.end == next.start && last.target + last.records as i64 == next.target;
            if adjacent && dense(last) && dense(&next) {
                last.end = next.end;
                last.records += next.records;
                return;
            }
        }
        self.runs.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_dense_batches_are_one_run() {
        let mut piece = OffsetPiece {
            format_version: 1,
            target_partition: 0,
            runs: vec![],
        };
        let run = |start, end, records, target| OffsetRun {
            start,
            end,
            records,
            target,
        };
        for batch in [
            run(10, 15, 5, 0),
            run(15, 20, 5, 5),
            run(25, 30, 5, 10),
            run(30, 40, 3, 15),
            run(40, 41, 1, 18),
        ] {
            piece.push(batch);
        }
        assert_eq!(
            piece.runs,
            [
                run(10, 20, 10, 0),
                run(25, 30, 5, 10),
                run(30, 40, 3, 15),
                run(40, 41, 1, 18)
            ]
        );
    }
}
