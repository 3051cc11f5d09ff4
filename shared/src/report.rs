//! How a run ended.
//!
//! # Guarantees
//! - A [`Fault`] decides five things at once: whether the run is retried, the exit code, the Job's pod failure rule, the
//!   condition's reason and the severity when several things went wrong.
//! - [`Report::to_termination_message`] never exceeds [`TERMINATION_MESSAGE_MAX`] bytes and always stays valid JSON.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::crd::{GroupResult, GroupStatus};
use crate::plan::RunRef;

/// Bytes of a termination message that survive: the kubelet cuts all containers of a pod to 12 KiB together.
pub const TERMINATION_MESSAGE_MAX: usize = 2048;

/// Why a run did not succeed. Ordered by severity: of many failures in one run the greatest one names the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The pod was told to stop before the run was complete (SIGTERM: eviction, preemption, deletion).
    Interrupted,
    /// Something that may work later did not: broker down, time-out, 5xx, disk full.
    Unavailable,
    /// The object asks for something that cannot be: no topic matches, backup not found, target not empty.
    Spec,
    /// Credentials or permissions were refused.
    Denied,
    /// Data is not what it was when it was written: CRC mismatch, unknown format version.
    Corrupt,
    /// An invariant of ours is broken.
    Bug,
}

impl Fault {
    /// All faults, from the least to the most severe.
    pub const ALL: [Self; 6] = [
        Self::Interrupted,
        Self::Unavailable,
        Self::Spec,
        Self::Denied,
        Self::Corrupt,
        Self::Bug,
    ];

    /// The worker's exit code: `sysexits.h` where it has a word for it, 128 + SIGTERM for an interruption.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Spec => 64,
            Self::Corrupt => 65,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::Denied => 77,
            Self::Interrupted => 143,
        }
    }

    /// The fault that an exit code stands for; `None` for 0 and for codes that the worker does not use.
    pub fn from_exit_code(code: i32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|fault| i32::from(fault.exit_code()) == code)
    }

    /// Whether another pod of the same Job may succeed where this one failed.
    pub fn is_retried(self) -> bool {
        match self {
            Self::Unavailable | Self::Interrupted => true,
            Self::Spec | Self::Denied | Self::Corrupt | Self::Bug => false,
        }
    }

    /// The reason in conditions, history and Events (CamelCase, as Kubernetes writes them).
    pub fn reason(self) -> &'static str {
        match self {
            Self::Spec => "InvalidSpec",
            Self::Denied => "AccessDenied",
            Self::Corrupt => "DataCorrupt",
            Self::Unavailable => "Unavailable",
            Self::Interrupted => "Interrupted",
            Self::Bug => "InternalError",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "camelCase")]
pub enum Outcome {
    /// Everything the plan asks for is done and durable.
    Success,
    /// It is not; what is durable stays and a later attempt goes on from there.
    #[serde(rename_all = "camelCase")]
    Failure {
        /// The most severe fault of the run.
        fault: Fault,
        /// What failed, expected and found, in one line that a user can act on.
        message: String,
    },
}

/// What one topic contributed to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TopicReport {
    /// The topic; in a restore the target topic.
    pub topic: String,
    /// Number of partitions.
    pub partitions: u32,
    /// Records that this run added.
    pub records: u64,
    /// Bytes of record batches that this run added.
    pub bytes: u64,
}

/// What retention did after a run, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionReport {
    /// Nothing was done: the counts are of what would be.
    pub dry_run: bool,
    /// Objects that were marked: what may go a day later.
    pub marked: Removal,
    /// Objects that were deleted: they were marked before.
    pub deleted: Removal,
    /// Merged tiles that were written.
    pub merged: u64,
}

/// Objects that go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Removal {
    /// Ids of whole runs among them; empty in the short form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub runs: Vec<String>,
    /// Number of objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What open transactions kept from being captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldBack {
    /// Offsets between the last stable offset and the high watermark, over all partitions.
    pub offsets: u64,
    /// Partitions whose last stable offset has not moved since the complete run before, although records came.
    #[serde(default)]
    pub stuck_partitions: u64,
    /// The first [`HeldBack::NAMED`] of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stuck: Vec<StuckPartition>,
}

/// A partition that an open transaction holds since an earlier run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StuckPartition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// Where the open transaction begins: what is captured ends there.
    pub last_stable_offset: i64,
    /// Where the partition ends.
    pub high_watermark: i64,
}

impl HeldBack {
    /// Partitions that are named: as many as fit into a short report.
    pub const NAMED: usize = 3;

    /// Whether nothing was held back.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a partition that is stuck.
    pub fn add_stuck(&mut self, partition: StuckPartition) {
        self.stuck_partitions += 1;
        if self.stuck.len() < Self::NAMED {
            self.stuck.push(partition);
        }
    }

    /// What a user should know of partitions that are stuck; `None` where none is.
    pub fn warning(&self) -> Option<String> {
        if self.stuck_partitions == 0 {
            return None;
        }
        let mut named: Vec<String> = self
            .stuck
            .iter()
            .map(|stuck| {
                format!(
                    "topic {} partition {} at offset {} ({} offsets wait behind it)",
                    stuck.topic,
                    stuck.partition,
                    stuck.last_stable_offset,
                    stuck.high_watermark - stuck.last_stable_offset
                )
            })
            .collect();
        let more = self.stuck_partitions - self.stuck.len() as u64;
        if more > 0 {
            named.push(format!("{more} more partitions"));
        }
        Some(format!(
            "an open transaction has held back the capture since the run before: {}; see kafka-transactions.sh find-hanging",
            named.join(", ")
        ))
    }
}

/// Topics of a restore whose retention is not the one that they should have, since it would expire restored records at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionHeld {
    /// How many topics.
    pub topics: u64,
    /// The first one, what it lacks, and the command that gives it to it.
    pub example: String,
}

/// What a restore would write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DryRun {
    /// Number of target topics.
    pub topics: u64,
    /// Records.
    pub records: u64,
    /// Bytes of the record batches that hold them.
    pub bytes: u64,
    /// Consumer groups that would be carried over.
    #[serde(default)]
    pub groups: u64,
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "dry run: {} records ({} bytes) would be written to {} topics, and nothing was",
            self.records, self.bytes, self.topics
        )?;
        match self.groups {
            0 => Ok(()),
            groups => write!(f, "; {groups} consumer groups would be carried over"),
        }
    }
}

/// What an offset kind did, or a restore with the groups that it carries over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetsReport {
    /// What was done.
    #[serde(default)]
    pub deed: OffsetsDeed,
    /// Nothing was changed: everything below would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Groups that are as they should be.
    pub groups_done: u64,
    /// Groups that are not.
    pub groups_failed: u64,
    /// Partitions whose committed offset changed, or was kept, over all groups.
    pub partitions: u64,
    /// The snapshot that was taken or used, once it is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotSummary>,
    /// Whether groups have what the snapshot has, where that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// Per group, those that failed first; shortened in the short form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupResult>,
    /// Per group, topic and partition; empty in the short form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<OffsetChange>,
}

/// What was done with committed offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OffsetsDeed {
    /// They were moved, or given back.
    #[default]
    Changed,
    /// A snapshot was taken.
    Kept,
    /// They were compared with a snapshot.
    Compared,
    /// The snapshot was deleted.
    Deleted,
}

/// A snapshot of committed offsets, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotSummary {
    /// Its id.
    pub id: String,
    /// Groups in it.
    pub groups: u64,
    /// Committed offsets in it.
    pub partitions: u64,
    /// When it was taken.
    pub time: Timestamp,
}

/// Whether groups have what a snapshot has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Whether they do.
    pub matched: bool,
    /// How many places differ.
    pub difference_count: u64,
    /// The first of them in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<String>,
}

/// A committed offset before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OffsetChange {
    /// Id of the group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// What was committed; `None`: nothing.
    pub old: Option<i64>,
    /// What is committed now; `None`: nothing.
    pub new: Option<i64>,
    /// Records of which offsets lie between what was committed and the high watermark; `None` where one of the two is not there.
    pub lag_before: Option<i64>,
    /// The same for what is committed now.
    pub lag_after: Option<i64>,
    /// Why the new one is not quite what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl OffsetsReport {
    /// Groups that are named in a short report.
    const SHORT: usize = 5;

    /// In one line, for a status and at the end of a run.
    pub fn line(&self) -> String {
        let counted = |number: u64, noun: &str| {
            format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
        };
        let failed = match self.groups_failed {
            0 => String::new(),
            failed => format!(", {} failed", counted(failed, "group")),
        };
        let offsets = counted(self.partitions, "offset");
        let groups = counted(self.groups_done, "group");
        let text = match (self.deed, self.dry_run) {
            (OffsetsDeed::Changed, false) => format!("{offsets} of {groups} changed"),
            (OffsetsDeed::Changed, true) => {
                format!("dry run: {offsets} of {groups} would change, and nothing did")
            }
            (OffsetsDeed::Kept, false) => format!("{offsets} of {groups} are kept"),
            (OffsetsDeed::Kept, true) => {
                format!("dry run: {offsets} of {groups} would be kept, and nothing was")
            }
            (OffsetsDeed::Compared, _) => format!("{groups} compared with the snapshot"),
            (OffsetsDeed::Deleted, false) => "the snapshot is deleted".to_owned(),
            (OffsetsDeed::Deleted, true) => {
                "dry run: the snapshot would be deleted, and was not".to_owned()
            }
        };
        text + &failed
    }

    fn shorten(&mut self) {
        self.changes.clear();
        self.groups
            .sort_by_key(|result| result.status != GroupStatus::Failed);
        self.groups.truncate(Self::SHORT);
        if let Some(verification) = &mut self.verification {
            verification.differences.truncate(Self::SHORT);
        }
    }

    /// Takes the last detail away; false where there is none left.
    fn pop(&mut self) -> bool {
        let differences = self
            .verification
            .as_mut()
            .map(|found| &mut found.differences);
        self.groups.pop().is_some() || differences.is_some_and(|all| all.pop().is_some())
    }
}

impl RetentionHeld {
    /// Whether no topic is concerned.
    pub fn is_nothing(&self) -> bool {
        self.topics == 0
    }

    /// What a user should know; `None` where no topic is concerned.
    pub fn message(&self) -> Option<String> {
        let more = match self.topics {
            0 => return None,
            1 => String::new(),
            topics => format!(" (and {} more topics)", topics - 1),
        };
        Some(format!("{}{more}", self.example))
    }
}

/// The outcome of a run with its counts; what the worker hands to the controller and prints at a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Whose run it was.
    pub run: RunRef,
    /// Success or failure.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// When this attempt began.
    pub start_time: Timestamp,
    /// When this attempt ended.
    pub completion_time: Timestamp,
    /// Backup: records that this run's manifest has beyond its base run's, whichever attempt stored them. Restore: records in the target.
    pub records: u64,
    /// The same for bytes of record batches.
    pub bytes: u64,
    /// Offset ranges that are missing for good: gone from the source before they were captured.
    #[serde(default)]
    pub gaps: u64,
    /// Backup: those of them that no run before had found.
    #[serde(default)]
    pub new_gaps: u64,
    /// Backup: offsets by which the source was ahead of the archive at the end, over all partitions; `None` where a partition did
    /// not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// What retention did when the run was complete; `None` without retention, and where it failed, which is a warning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionReport>,
    /// Backup: what open transactions kept from being captured.
    #[serde(default, skip_serializing_if = "HeldBack::is_nothing")]
    pub held_back: HeldBack,
    /// Restore: topics whose retention is held.
    #[serde(default, skip_serializing_if = "RetentionHeld::is_nothing")]
    pub retention_held: RetentionHeld,
    /// Restore: run id of the backup that it read; `None` of one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_id: Option<String>,
    /// Restore: what would be written. Nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<DryRun>,
    /// Offset kinds, and restores that carry groups over: what became of committed offsets, also of a run that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offsets: Option<OffsetsReport>,
    /// What a user should know although the run succeeded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Per topic, of a dry run what would be; empty in the short form.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topics: Vec<TopicReport>,
}

impl Report {
    /// The fault of a failed run.
    pub fn fault(&self) -> Option<Fault> {
        match &self.outcome {
            Outcome::Success => None,
            Outcome::Failure { fault, .. } => Some(*fault),
        }
    }

    /// Exit code of the worker for this report: 0 only for success.
    pub fn exit_code(&self) -> u8 {
        self.fault().map_or(0, Fault::exit_code)
    }

    /// The short form for the termination log: topics, run ids, changes of offsets and most groups left out, then warnings, stuck
    /// partitions, groups and the message shortened until it fits.
    pub fn to_termination_message(&self) -> String {
        let mut short = self.clone();
        short.topics.clear();
        if let Some(retention) = &mut short.retention {
            retention.marked.runs.clear();
            retention.deleted.runs.clear();
        }
        if let Some(offsets) = &mut short.offsets {
            offsets.shorten();
        }
        loop {
            let json = serde_json::to_string(&short).expect("a report has only string keys");
            if json.len() <= TERMINATION_MESSAGE_MAX {
                return json;
            }
            let excess = json.len() - TERMINATION_MESSAGE_MAX;
            if short.warnings.pop().is_some() {
                continue;
            }
            if short.held_back.stuck.pop().is_some() {
                continue;
            }
            if short.offsets.as_mut().is_some_and(OffsetsReport::pop) {
                continue;
            }
            if !short.retention_held.example.is_empty() {
                shorten(&mut short.retention_held.example, excess);
                continue;
            }
            match &mut short.outcome {
                Outcome::Failure { message, .. } if !message.is_empty() => shorten(message, excess),
                Outcome::Failure { .. } | Outcome::Success => return json,
            }
        }
    }

    /// Reads a termination message; `None` where it is not one of ours (a pod that was killed leaves none).
    pub fn from_termination_message(message: &str) -> Option<Self> {
        serde_json::from_str(message.trim()).ok()
    }
}

/// Takes at least `excess` bytes off the end, at a character boundary, and marks the cut.
fn shorten(message: &mut String, excess: usize) {
    let mut keep = message.len().saturating_sub(excess + '…'.len_utf8() + 1);
    while !message.is_char_boundary(keep) {
        keep -= 1;
    }
    message.truncate(keep);
    if keep > 0 {
        message.push('…');
    }
}

/// Joins an error with its sources, outermost first: `a: b: c`.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stuck(topic: &str) -> StuckPartition {
        StuckPartition {
            topic: topic.into(),
            partition: 3,
            last_stable_offset: 10,
            high_watermark: 25,
        }
    }

    #[test]
    fn stuck_partitions_are_named_and_the_rest_is_counted() {
        let mut held = HeldBack::default();
        assert!(held.is_nothing() && held.warning().is_none());
        for _ in 0..5 {
            held.add_stuck(stuck("orders"));
        }
        let warning = held.warning().unwrap();
        assert_eq!(
            warning
                .matches("topic orders partition 3 at offset 10 (15 offsets wait behind it)")
                .count(),
            3
        );
        assert!(warning.contains("2 more partitions"), "{warning}");
    }

    fn failed(message: String) -> Report {
        Report {
            run: RunRef::example(),
            outcome: Outcome::Failure {
                fault: Fault::Denied,
                message,
            },
            start_time: Timestamp::UNIX_EPOCH,
            completion_time: Timestamp::UNIX_EPOCH,
            records: 1,
            bytes: 2,
            gaps: 0,
            new_gaps: 0,
            lag: Some(3),
            retention: None,
            held_back: HeldBack {
                stuck_partitions: 9,
                stuck: vec![stuck(&"t".repeat(249)); 3],
                ..HeldBack::default()
            },
            retention_held: RetentionHeld {
                topics: 3,
                example: "x".repeat(400),
            },
            backup_id: None,
            dry_run: None,
            offsets: Some(OffsetsReport {
                groups_failed: 200,
                groups: vec![
                    GroupResult {
                        group: "g".repeat(300),
                        status: GroupStatus::Failed,
                        partitions_reset: 0,
                        message: Some("m".repeat(300)),
                    };
                    200
                ],
                verification: Some(Verification {
                    difference_count: 9,
                    differences: vec!["d".repeat(300); 9],
                    ..Verification::default()
                }),
                ..OffsetsReport::default()
            }),
            warnings: vec!["w".repeat(500); 9],
            topics: vec![TopicReport {
                topic: "t".into(),
                partitions: 1,
                records: 1,
                bytes: 2,
            }],
        }
    }

    #[test]
    fn the_most_severe_fault_is_the_greatest() {
        assert_eq!(
            Fault::ALL.into_iter().max(),
            Some(Fault::Bug),
            "Bug must win"
        );
        assert!(Fault::Corrupt > Fault::Denied && Fault::Denied > Fault::Spec);
        assert!(Fault::Spec > Fault::Unavailable && Fault::Unavailable > Fault::Interrupted);
    }

    #[test]
    fn exit_codes_are_distinct_and_read_back() {
        for fault in Fault::ALL {
            assert_eq!(Fault::from_exit_code(fault.exit_code().into()), Some(fault));
        }
        assert_eq!(Fault::from_exit_code(0), None);
        assert_eq!(Fault::from_exit_code(137), None);
    }

    #[test]
    fn a_report_of_an_older_worker_knows_no_lag_and_no_new_gaps() {
        let mut old = serde_json::to_value(failed("no".into())).unwrap();
        let fields = old.as_object_mut().unwrap();
        assert!(fields.remove("lag").is_some() && fields.remove("newGaps").is_some());
        let read = Report::from_termination_message(&old.to_string()).unwrap();
        assert_eq!((read.lag, read.new_gaps), (None, 0));
    }

    #[test]
    fn termination_message_fits_and_reads_back() {
        for length in [0, 10, 1500, 2048, 100_000] {
            for letter in ["x", "ä", "\"", "\u{1F980}"] {
                let report = failed(letter.repeat(length));
                let message = report.to_termination_message();
                assert!(
                    message.len() <= TERMINATION_MESSAGE_MAX,
                    "{}",
                    message.len()
                );
                let read = Report::from_termination_message(&message).expect("valid JSON");
                assert_eq!(read.fault(), Some(Fault::Denied));
                assert_eq!((read.records, read.bytes), (1, 2));
                assert_eq!(read.offsets.map(|offsets| offsets.groups_failed), Some(200));
            }
        }
    }
}
