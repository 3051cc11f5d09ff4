//! A segment while it is being filled, and where one ends and the next begins.
//!
//! # Guarantees
//! - Segments of a range tile it: each starts where the one before it ended, the last one ends exactly at the range's end.
//! - Batches that are passed stay as they were fetched, by reference; what is not kept (control, aborted, empty) leaves only its offsets.
//! - A segment is closed before a batch that would take it above its limit; a batch above the limit has one of its own.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_backup_shared::archive::batch::Batch;
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::layout::SegmentName;
use kafka_backup_shared::archive::record::{self, RecordError};
use tokio::time::Instant;

use super::budget::{Budget, Reservation};
use super::recode::Recoded;
use crate::buffers::Buffers;

/// The segment that a partition is writing to.
#[derive(Debug)]
pub(super) struct OpenSegment {
    start: i64,
    /// Where the next batch is expected.
    position: i64,
    leader_epoch: i32,
    records: u64,
    max_timestamp: i64,
    crc: u32,
    bytes: usize,
    runs: Vec<Run>,
    packed: Vec<Packed>,
    /// Keeps the budget of the buffers that the slices are in.
    buffers: Vec<Arc<Reservation>>,
    opened: Option<Instant>,
}

/// Kept batches that stand next to each other in one answer.
#[derive(Debug)]
struct Run {
    answer: Bytes,
    from: usize,
    to: usize,
}

/// Batches that were encoded anew: pieces of one size, whatever the batches'.
#[derive(Debug)]
struct Packed {
    bytes: Vec<u8>,
    buffers: Buffers,
    budget: Arc<Reservation>,
}

/// Size of such a piece.
pub(super) const PACKED_BYTES: usize = 512 << 10;

impl Packed {
    fn new(buffers: &Buffers, budget: &Budget) -> Self {
        Self {
            bytes: buffers.take(PACKED_BYTES),
            buffers: buffers.clone(),
            budget: Arc::new(budget.add(PACKED_BYTES)),
        }
    }

    fn room(&self) -> usize {
        PACKED_BYTES - self.bytes.len()
    }
}

/// A batch that is kept: where it stands in which answer, and the budget of that answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept<'a> {
    pub(super) answer: &'a Bytes,
    pub(super) at: usize,
    pub(super) buffer: &'a Arc<Reservation>,
}

/// A whole segment.
#[derive(Debug)]
pub(super) struct ClosedSegment {
    pub(super) name: SegmentName,
    pub(super) bytes: usize,
    pub(super) slices: Vec<Bytes>,
    pub(super) buffers: Vec<Arc<Reservation>>,
}

impl OpenSegment {
    pub(super) fn new(start: i64) -> Self {
        Self {
            start,
            position: start,
            leader_epoch: -1,
            records: 0,
            max_timestamp: -1,
            crc: 0,
            bytes: 0,
            runs: Vec::new(),
            packed: Vec::new(),
            buffers: Vec::new(),
            opened: None,
        }
    }

    /// Whether a batch of this size belongs to the next segment.
    pub(super) fn is_full_for(&self, batch: usize, limit: usize) -> bool {
        self.bytes > 0 && self.bytes + batch > limit
    }

    /// Its first offset.
    pub(super) fn start(&self) -> i64 {
        self.start
    }

    /// Whether it covers any offset yet.
    pub(super) fn has_progress(&self) -> bool {
        self.position > self.start
    }

    /// Bytes of batches in it.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// When it has to be closed, however small: so that an interruption costs no more than this.
    pub(super) fn deadline(&self, interval: Duration) -> Option<Instant> {
        self.opened.map(|opened| opened + interval)
    }

    /// Passes over a batch, keeping it or not. Where the batch begins before the segment or reaches beyond `end`, the end of
    /// what is to be covered, the records inside are counted by decoding.
    ///
    /// # Errors
    /// A batch across a boundary cannot be decoded.
    pub(super) fn pass(
        &mut self,
        batch: &Batch<'_>,
        kept: Option<Kept<'_>>,
        end: i64,
    ) -> Result<(), RecordError> {
        self.begin();
        if let Some(kept) = kept {
            self.records += records_within(
                batch,
                OffsetRange {
                    start: self.start,
                    end,
                },
            )?;
            self.max_timestamp = self.max_timestamp.max(batch.max_timestamp());
            self.crc = crc::append(self.crc, batch.bytes());
            self.bytes += batch.bytes().len();
            self.keep(kept, batch.bytes().len());
        }
        self.leader_epoch = self.leader_epoch.max(batch.leader_epoch());
        self.position = batch.end_offset().min(end);
        Ok(())
    }

    /// Takes a batch that was encoded anew into memory of its own. It covers all offsets up to its end.
    pub(super) fn append(
        &mut self,
        recoded: &Recoded,
        end: i64,
        buffers: &Buffers,
        budget: &Budget,
    ) {
        self.records += recoded.records;
        self.max_timestamp = self.max_timestamp.max(recoded.max_timestamp);
        self.crc = crc::append(self.crc, &recoded.bytes);
        self.bytes += recoded.bytes.len();
        let mut rest = &recoded.bytes[..];
        while !rest.is_empty() {
            let packed = match self.packed.last_mut().filter(|packed| packed.room() > 0) {
                Some(packed) => packed,
                None => {
                    self.packed.push(Packed::new(buffers, budget));
                    continue;
                }
            };
            let (fits, others) = rest.split_at(rest.len().min(packed.room()));
            packed.bytes.extend_from_slice(fits);
            rest = others;
        }
        self.pass_to(recoded.end.min(end), recoded.leader_epoch);
    }

    /// From now on its time runs.
    pub(super) fn begin(&mut self) {
        self.opened.get_or_insert_with(Instant::now);
    }

    /// Passes over offsets without anything to keep, or of which all is kept.
    pub(super) fn pass_to(&mut self, end: i64, leader_epoch: i32) {
        self.begin();
        self.position = self.position.max(end);
        self.leader_epoch = self.leader_epoch.max(leader_epoch);
    }

    fn keep(&mut self, kept: Kept<'_>, length: usize) {
        let to = kept.at + length;
        match self.runs.last_mut() {
            Some(run) if run.answer.as_ptr() == kept.answer.as_ptr() && run.to == kept.at => {
                run.to = to
            }
            Some(_) | None => self.runs.push(Run {
                answer: kept.answer.clone(),
                from: kept.at,
                to,
            }),
        }
        if !self
            .buffers
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, kept.buffer))
        {
            self.buffers.push(kept.buffer.clone());
        }
    }

    /// Ends it at `end` and begins the next one there.
    pub(super) fn close_at(&mut self, end: i64) -> ClosedSegment {
        let mut whole = std::mem::replace(self, Self::new(end));
        let kept = whole.runs.into_iter();
        let kept = kept.map(|run| run.answer.slice(run.from..run.to));
        let mut slices: Vec<Bytes> = kept.collect();
        for packed in whole.packed {
            slices.push(packed.buffers.lend(packed.bytes));
            whole.buffers.push(packed.budget);
        }
        ClosedSegment {
            name: SegmentName {
                start: whole.start,
                end,
                leader_epoch: whole.leader_epoch,
                records: whole.records,
                max_timestamp: whole.max_timestamp,
                crc32c: whole.crc,
            },
            bytes: whole.bytes,
            slices,
            buffers: whole.buffers,
        }
    }

    /// Ends it where it is.
    pub(super) fn close(&mut self) -> ClosedSegment {
        self.close_at(self.position)
    }
}

/// Records of the batch with an offset in `range`.
pub(super) fn records_within(batch: &Batch<'_>, range: OffsetRange) -> Result<u64, RecordError> {
    let whole = u64::try_from(batch.record_count()).unwrap_or(0);
    if batch.base_offset() >= range.start && batch.end_offset() <= range.end {
        return Ok(whole);
    }
    let records = record::decode(batch)?;
    let within = records
        .iter()
        .filter(|record| (range.start..range.end).contains(&record.offset));
    Ok(within.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::batch::{self, Batches};
    use kafka_backup_shared::archive::codec::Codec;
    use kafka_backup_shared::archive::record::Record;

    fn answer(batches: &[(i64, i64)]) -> Bytes {
        let mut data = Vec::new();
        for (base, count) in batches {
            let records: Vec<_> = (0..*count)
                .map(|offset| Record {
                    offset,
                    timestamp: 10 + base,
                    body: vec![1, 1, 0],
                })
                .collect();
            let mut bytes = record::encode(&records, Codec::None).unwrap();
            batch::set_base_offset(&mut bytes, *base);
            data.extend_from_slice(&bytes);
        }
        data.into()
    }

    /// Passes over an answer, keeping the batches that `keep` says, and closes at the range's end.
    fn cut(
        batches: &[(i64, i64)],
        keep: impl Fn(i64) -> bool,
        range: (i64, i64),
        limit: usize,
    ) -> Vec<ClosedSegment> {
        let answer = answer(batches);
        let buffer = Arc::new(Budget::new(1 << 20).try_reserve(answer.len()).unwrap());
        let range = OffsetRange {
            start: range.0,
            end: range.1,
        };
        let mut open = OpenSegment::new(range.start);
        let mut closed = Vec::new();
        let mut walk = Batches::new(&answer);
        loop {
            let at = walk.position();
            let Some(batch) = walk.next() else { break };
            let batch = batch.unwrap();
            if open.is_full_for(batch.bytes().len(), limit) {
                closed.push(open.close());
            }
            let kept = keep(batch.base_offset()).then_some(Kept {
                answer: &answer,
                at,
                buffer: &buffer,
            });
            open.pass(&batch, kept, range.end).unwrap();
        }
        closed.push(open.close_at(range.end));
        closed
    }

    #[test]
    fn segments_tile_their_range() {
        let batches = [(0, 5), (5, 5), (12, 3), (15, 5), (20, 1)];
        for limit in [1, 100, 200, 10_000] {
            let closed = cut(&batches, |_| true, (0, 30), limit);
            assert_eq!(closed[0].name.start, 0);
            assert_eq!(closed.last().unwrap().name.end, 30);
            for pair in closed.windows(2) {
                assert_eq!(pair[0].name.end, pair[1].name.start);
            }
            let stored: Vec<u8> = closed.iter().flat_map(|c| c.slices.concat()).collect();
            assert_eq!(stored, answer(&batches), "limit {limit}");
            for segment in &closed {
                assert_eq!(
                    segment.name.crc32c,
                    crc32c::crc32c(&segment.slices.concat())
                );
                assert_eq!(segment.bytes, segment.slices.concat().len());
            }
        }
        assert_eq!(cut(&batches, |_| true, (0, 30), 1).len(), 5);
        assert_eq!(cut(&batches, |_| true, (0, 30), 10_000).len(), 1);
    }

    #[test]
    fn what_is_not_kept_leaves_its_offsets() {
        let closed = cut(
            &[(0, 5), (5, 5), (10, 5)],
            |base| base == 5,
            (0, 15),
            10_000,
        );
        let name = closed[0].name;
        assert_eq!(
            (name.start, name.end, name.records, name.max_timestamp),
            (0, 15, 5, 15)
        );
        let nothing = cut(&[(0, 5)], |_| false, (0, 5), 10_000);
        let name = nothing[0].name;
        assert_eq!(
            (
                name.start,
                name.end,
                name.records,
                name.max_timestamp,
                name.crc32c
            ),
            (0, 5, 0, -1, 0)
        );
        assert!(nothing[0].slices.is_empty());
    }

    #[test]
    fn records_outside_the_range_are_not_counted() {
        // the log starts inside the first batch
        let closed = cut(&[(0, 10), (10, 10)], |_| true, (7, 20), 10_000);
        assert_eq!((closed[0].name.start, closed[0].name.records), (7, 13));
    }

    #[test]
    fn neighbours_are_stored_as_one_slice() {
        assert_eq!(
            cut(&[(0, 5), (5, 5), (10, 5)], |_| true, (0, 15), 10_000)[0]
                .slices
                .len(),
            1
        );
        assert_eq!(
            cut(
                &[(0, 5), (5, 5), (10, 5)],
                |base| base != 5,
                (0, 15),
                10_000
            )[0]
            .slices
            .len(),
            2
        );
    }
}
