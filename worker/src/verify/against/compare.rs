//! What a target partition should hold against what it holds: pure, one record at a time.
//!
//! # Guarantees
//! - Every expected record is found equal, or is told, or is one that compaction may have taken: a tombstone, or a record
//!   whose key an expected record further on has.
//! - Memory is a bounded list of differences and, for a compacted partition, 16 bytes and their share of a hash map for each key whose
//!   newest record so far is missing: at most one entry per key.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use kafka_backup_shared::archive::chain::OffsetRange;
use serde::Serialize;

use super::fields::Fields;
use crate::reader::{Header, Read};

/// Differences of a partition that are listed; the others are counted.
pub(super) const LISTED: usize = 20;
/// Bytes of a field that are shown.
const SHOWN: usize = 40;
/// Equal bytes that are shown before those that differ.
const BEFORE: usize = 8;

/// In what archive and target differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Field {
    /// A topic as a whole.
    Topic,
    /// The id of a topic.
    TopicId,
    /// An object of the archive that cannot be read.
    Segment,
    /// Where the log begins.
    LogStart,
    /// Where the log ends.
    LogEnd,
    /// A record batch of the target that cannot be read.
    Batch,
    /// A record that is missing, or should not be there.
    Record,
    /// The key.
    Key,
    /// The value.
    Value,
    /// The headers.
    Headers,
    /// The timestamp.
    Timestamp,
}

/// A difference between archive and target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The target topic.
    pub topic: String,
    /// The target partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
    /// Where in the target partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<i64>,
    /// In what.
    pub field: Field,
    /// What the archive says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What is there, shortened.
    pub found: String,
    /// Key of the object of the archive that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

/// Whether the broker may have removed records of keys that came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cleaning {
    /// `cleanup.policy` contains `compact`.
    Compacts,
    /// It does not.
    Keeps,
}

/// A target partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Its topic.
    pub(super) topic: Arc<str>,
    /// Its number.
    pub(super) partition: i32,
    /// Offset of the first restored record.
    pub(super) base_offset: i64,
    /// Number of restored records.
    pub(super) records: u64,
    /// What the log has.
    pub(super) log: OffsetRange,
    /// What the broker may have removed.
    pub(super) cleaning: Cleaning,
}

impl Target {
    /// Offsets of all restored records.
    pub(super) fn restored(&self) -> OffsetRange {
        let records = i64::try_from(self.records).unwrap_or(i64::MAX);
        OffsetRange {
            start: self.base_offset,
            end: self.base_offset.saturating_add(records),
        }
    }

    /// Offsets of those that the log may have.
    pub(super) fn readable(&self) -> OffsetRange {
        let restored = self.restored();
        OffsetRange {
            start: restored.start.max(self.log.start),
            end: restored.end.min(self.log.end),
        }
    }
}

/// A record as an independent reader has it.
pub(super) trait FoundRecord {
    /// Its offset.
    fn offset(&self) -> i64;
    /// Milliseconds; -1 for none.
    fn timestamp(&self) -> i64;
    /// `None` is null.
    fn key(&self) -> Option<&[u8]>;
    /// `None` is null.
    fn value(&self) -> Option<&[u8]>;
    /// In order; `None` where the reader cannot give a key.
    fn headers(&self) -> Option<Vec<Header<'_>>>;
}

impl FoundRecord for Read<'_> {
    fn offset(&self) -> i64 {
        self.offset()
    }

    fn timestamp(&self) -> i64 {
        self.timestamp()
    }

    fn key(&self) -> Option<&[u8]> {
        self.key()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value()
    }

    fn headers(&self) -> Option<Vec<Header<'_>>> {
        self.headers().collect()
    }
}

/// Which side goes on to its next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The two stood at the same offset.
    Both,
    /// The expected one is not there, or need not be.
    Expected,
    /// The one that was found stands before the expected one.
    Found,
}

/// What was counted in a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Records that were compared, field by field.
    pub(super) compared: u64,
    /// Records that compaction has taken, as it may.
    pub(super) compacted: u64,
    /// Compared records whose headers rdkafka cannot give, and which were compared without.
    pub(super) headers_not_compared: u64,
    /// Differences, listed or not.
    pub(super) problems: u64,
}

/// The comparison of one partition.
#[derive(Debug)]
pub(super) struct Comparison {
    target: Target,
    counts: Counts,
    differences: Vec<Difference>,
    /// Neighbours that are missing, not told yet.
    missing: Option<OffsetRange>,
    /// Offsets whose expected records are not known.
    unknown: Vec<OffsetRange>,
    /// Missing records of a compacted partition, by the hash of their key: excused when the key comes again.
    pending: HashMap<u64, i64>,
    hasher: RandomState,
}

impl Comparison {
    /// Compares `target`; its log start and log end are looked at here.
    pub(super) fn new(target: Target) -> Self {
        let restored = target.restored();
        let log = target.log;
        let mut comparison = Self {
            target,
            counts: Counts::default(),
            differences: Vec::new(),
            missing: None,
            unknown: Vec::new(),
            pending: HashMap::new(),
            hasher: RandomState::new(),
        };
        comparison.told_gone(restored.start, restored.end.min(log.start));
        if log.end != restored.end {
            let at = restored.end.min(log.end);
            let (expected, found) = (restored.end.to_string(), log.end.to_string());
            comparison.differs(at, Field::LogEnd, Some(expected), found);
        }
        comparison
    }

    /// What is compared.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// Compares the next expected record with the next one that was found; `None`: there is none any more.
    pub(super) fn step(
        &mut self,
        offset: i64,
        timestamp: i64,
        fields: &Fields<'_>,
        found: Option<&impl FoundRecord>,
    ) -> Next {
        let log = self.target.log;
        let here = found.filter(|found| found.offset() <= offset);
        if let Some(earlier) = here.filter(|found| found.offset() < offset) {
            self.unexpected(earlier);
            return Next::Found;
        }
        self.supersede(fields);
        match here {
            Some(found) => {
                self.compare(timestamp, fields, found);
                Next::Both
            }
            // Log start and log end were told as such.
            None if offset < log.start || offset >= log.end => Next::Expected,
            None => {
                self.lacks(offset, fields);
                Next::Expected
            }
        }
    }

    /// A record that the reader had left when nothing more is expected before `offset`.
    pub(super) fn unexpected(&mut self, found: &impl FoundRecord) {
        let offset = found.offset();
        let is_known = |range: &OffsetRange| (range.start..range.end).contains(&offset);
        if self.unknown.iter().any(is_known) {
            return;
        }
        let key = shortened(found.key(), 0);
        self.differs(
            offset,
            Field::Record,
            Some("none".into()),
            format!("a record with key {key}"),
        );
    }

    /// What should stand at `offsets` is not known, since an object of the archive cannot be read.
    pub(super) fn cannot_read(&mut self, object: &str, reason: String, offsets: OffsetRange) {
        self.tell_missing();
        self.unknown.push(offsets);
        let reason = match offsets.is_empty() {
            true => reason,
            false => {
                let OffsetRange { start, end } = offsets;
                format!("{reason}; offsets {start} to {end} of the target were not compared")
            }
        };
        self.tell(Difference {
            object: Some(object.to_owned()),
            ..self.difference(offsets.start, Field::Segment, None, reason)
        });
    }

    /// The reader cannot read the batch at `offset` of the target, and nothing behind it.
    pub(super) fn cannot_fetch(&mut self, offset: i64, reason: &str) {
        let expected = Some("a batch that is whole".into());
        let found = format!("{reason}; records from here on were not compared");
        self.tell_missing();
        self.target.log.end = offset;
        self.differs(offset, Field::Batch, expected, found);
    }

    /// The plan and the segments do not agree.
    pub(super) fn miscounted(&mut self, object: &str, expected: u64, found: u64) {
        let restored = self.target.restored();
        self.tell(Difference {
            object: Some(object.to_owned()),
            ..self.difference(
                restored.start,
                Field::Segment,
                Some(format!("{expected} records")),
                format!("{found} records"),
            )
        });
    }

    /// The log start has moved to `start` while offset `at` was next.
    pub(super) fn log_start_moved(&mut self, at: i64, start: i64) {
        self.target.log.start = self.target.log.start.max(start);
        self.told_gone(at, start.min(self.target.restored().end));
    }

    /// What was found.
    pub(super) fn finish(mut self) -> (Counts, Vec<Difference>) {
        let mut lost: Vec<i64> = self.pending.drain().map(|(_, offset)| offset).collect();
        lost.sort_unstable();
        self.tell_missing();
        for offset in lost {
            self.miss(offset);
        }
        self.tell_missing();
        // Where nothing is left out, they are told in the order of the log.
        self.differences.sort_by_key(|difference| difference.offset);
        (self.counts, self.differences)
    }

    /// Excuses the missing record before which has the same key.
    fn supersede(&mut self, fields: &Fields<'_>) {
        if self.pending.is_empty() {
            return;
        }
        if let Some(key) = fields.key
            && self.pending.remove(&self.hasher.hash_one(key)).is_some()
        {
            self.counts.compacted += 1;
        }
    }

    fn lacks(&mut self, offset: i64, fields: &Fields<'_>) {
        match (self.target.cleaning, fields.key, fields.value) {
            (Cleaning::Compacts, Some(_), None) => self.counts.compacted += 1,
            (Cleaning::Compacts, Some(key), Some(_)) => {
                self.pending.insert(self.hasher.hash_one(key), offset);
            }
            // The cleaner takes records without key too, but nothing stands for them afterwards.
            (Cleaning::Compacts, None, _) | (Cleaning::Keeps, _, _) => self.miss(offset),
        }
    }

    fn miss(&mut self, offset: i64) {
        match &mut self.missing {
            Some(range) if range.end == offset => range.end += 1,
            Some(_) | None => {
                self.tell_missing();
                self.missing = Some(OffsetRange {
                    start: offset,
                    end: offset + 1,
                });
            }
        }
    }

    fn tell_missing(&mut self) {
        let Some(OffsetRange { start, end }) = self.missing.take() else {
            return;
        };
        let expected = match end - start {
            1 => "a record".to_owned(),
            records => format!("{records} records, at offsets {start} to {end}"),
        };
        self.differs(start, Field::Record, Some(expected), "none".into());
    }

    fn told_gone(&mut self, from: i64, to: i64) {
        if from >= to {
            return;
        }
        let expected = format!("records at offsets {from} to {to}");
        let found = format!("a log that begins at {}", self.target.log.start);
        self.differs(from, Field::LogStart, Some(expected), found);
    }

    fn compare(&mut self, timestamp: i64, fields: &Fields<'_>, found: &impl FoundRecord) {
        self.counts.compared += 1;
        let offset = found.offset();
        for (field, expected, found) in [
            (Field::Key, fields.key, found.key()),
            (Field::Value, fields.value, found.value()),
        ] {
            if expected != found {
                let at = first_difference(expected, found);
                let expected = shortened(expected, at);
                self.differs(offset, field, Some(expected), shortened(found, at));
            }
        }
        if timestamp != found.timestamp() {
            let (expected, found) = (timestamp.to_string(), found.timestamp().to_string());
            self.differs(offset, Field::Timestamp, Some(expected), found);
        }
        if !fields.has_readable_headers() {
            self.counts.headers_not_compared += 1;
            return;
        }
        let Some(headers) = found.headers() else {
            let found = "a header key that is not UTF-8".to_owned();
            let expected = header(fields.headers.first());
            return self.differs(offset, Field::Headers, Some(expected), found);
        };
        let longer = fields.headers.len().max(headers.len());
        if let Some(at) = (0..longer).find(|at| fields.headers.get(*at) != headers.get(*at)) {
            let numbered = |one| format!("{} as number {}", header(one), at + 1);
            let (expected, found) = (fields.headers.get(at), headers.get(at));
            self.differs(
                offset,
                Field::Headers,
                Some(numbered(expected)),
                numbered(found),
            );
        }
    }

    fn difference(
        &self,
        offset: i64,
        field: Field,
        expected: Option<String>,
        found: String,
    ) -> Difference {
        Difference {
            topic: self.target.topic.to_string(),
            partition: Some(self.target.partition),
            offset: Some(offset),
            field,
            expected,
            found,
            object: None,
        }
    }

    fn differs(&mut self, offset: i64, field: Field, expected: Option<String>, found: String) {
        self.tell(self.difference(offset, field, expected, found));
    }

    fn tell(&mut self, difference: Difference) {
        self.counts.problems += 1;
        if self.differences.len() < LISTED {
            self.differences.push(difference);
        }
    }
}

/// The first byte in which two fields differ; where one is null, the first.
fn first_difference(one: Option<&[u8]>, other: Option<&[u8]>) -> usize {
    let (Some(one), Some(other)) = (one, other) else {
        return 0;
    };
    let same = one
        .iter()
        .zip(other)
        .take_while(|(one, other)| one == other);
    same.count()
}

/// Bytes as text, from a little before `at` on.
fn shortened(bytes: Option<&[u8]>, at: usize) -> String {
    let Some(bytes) = bytes else {
        return "null".into();
    };
    if bytes.len() <= SHOWN {
        return format!("\"{}\"", bytes.escape_ascii());
    }
    let start = at.saturating_sub(BEFORE).min(bytes.len());
    let end = bytes.len().min(start + SHOWN);
    let before = if start > 0 { "..." } else { "" };
    let after = if end < bytes.len() { "..." } else { "" };
    let shown = bytes[start..end].escape_ascii();
    format!(
        "{before}\"{shown}\"{after} (byte {start} on, of {})",
        bytes.len()
    )
}

fn header(header: Option<&Header<'_>>) -> String {
    match header {
        None => "none".into(),
        Some((key, value)) => format!("{}={}", shortened(Some(key), 0), shortened(*value, 0)),
    }
}

#[cfg(test)]
#[path = "compare_test.rs"]
mod tests;
