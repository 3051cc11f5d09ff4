//! What is sent for a segment: a pure function of its bytes, of what of it counts, and of how it is to be sent.
//!
//! # Guarantees
//! - The same segment, section and choice give the same batches, so that a resumed restore finds the boundaries of the first.
//! - Records keep key, value, headers, order and timestamp; offsets are numbered without holes from the first one.
//! - A batch goes as it is wherever it can. Decoded and encoded anew are those that straddle a cut of offsets or time, that have
//!   holes (compaction), that the target would find too large, that carry append time (a producer cannot set it: it becomes the
//!   create time of each record), and all whose records are dealt out by key or get headers.
//! - Neighbours of one leader epoch and codec are joined up to [`Limits::join`]: brokers pay per batch. Plain ones are not
//!   decoded for it, two varints per record are rewritten; compressed ones are joined where they are encoded anew anyway.
//! - Batches without records and control batches are left out.
//!
//! # Assumptions
//! - The segment's bytes are those that its name's CRC was made of; each batch's own CRC is checked here all the same.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use kafka_backup_shared::archive::batch::{self, Batch, BatchError, HEADER_LEN};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::join::{Joined, Offsets};
use kafka_backup_shared::archive::record::{self, Record, RecordError, decode};

use super::choice::{Choice, Section};
use super::parts::{Next, Parts};
use crate::buffers::Buffers;
use crate::kafka::ProducerId;

/// Source offsets and the records in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceRun {
    /// Which offsets.
    pub(super) range: OffsetRange,
    /// Records in them; fewer than offsets where there are holes.
    pub(super) records: u64,
}

/// A batch that is ready but for its producer, sequence and CRC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    header: [u8; HEADER_LEN],
    payload: Bytes,
    /// The source batches that it is made of.
    pub(super) runs: Vec<SourceRun>,
    /// Bytes of those source batches.
    pub(super) source_bytes: u64,
    /// Whether append times became create times.
    pub(super) append_time: bool,
}

impl Outgoing {
    /// Number of records.
    pub(super) fn records(&self) -> u64 {
        self.runs.iter().map(|run| run.records).sum()
    }

    /// Bytes as they are sent.
    pub(super) fn size(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// The batch as it is sent, in two pieces.
    pub(super) fn seal(&self, producer: ProducerId, base_sequence: i32) -> [Bytes; 2] {
        const CRC: std::ops::Range<usize> = 17..21;
        let mut header = self.header;
        batch::set_producer(&mut header, producer.id, producer.epoch, base_sequence);
        let crc = crc::of(&header[CRC.end..]);
        let crc = crc::append(crc, &self.payload);
        header[CRC].copy_from_slice(&crc.to_be_bytes());
        [Bytes::copy_from_slice(&header), self.payload.clone()]
    }
}

/// The sequence number of a partition's record, which wraps as Kafka's does.
pub(super) fn sequence(records_done: u64) -> i32 {
    const WRAP: u64 = 1 << 31;
    i32::try_from(records_done % WRAP).expect("it is below 2^31")
}

/// A segment that cannot be read as record batches.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// A batch is not one.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A batch does not hold the records that it announces.
    #[error("the batch at offset {base_offset} cannot be decoded")]
    Records {
        /// The batch's base offset.
        base_offset: i64,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The last batch is not whole.
    #[error("{bytes} bytes after the last whole batch")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// A record cannot be encoded small enough.
    #[error(
        "the record at offset {offset} makes a batch of {size} bytes, the target takes at most {limit} (max.message.bytes)"
    )]
    TooLarge {
        /// Offset of the record.
        offset: i64,
        /// Bytes of a batch with it alone.
        size: usize,
        /// The target's limit.
        limit: usize,
    },
}

/// Walks what is sent for one segment, which is fed in parts.
#[derive(Clone, Debug)]
pub(super) struct Outgoings {
    parts: Parts,
    section: Section,
    choice: Arc<Choice>,
    /// A batch that could not be taken yet, with what becomes of it.
    peeked: Option<(Bytes, Fate)>,
    pending: Option<Pending>,
    ready: VecDeque<Outgoing>,
    buffers: Buffers,
}

/// What may still grow.
#[derive(Clone, Debug)]
enum Pending {
    Joined(Joining),
    Gathered(Gathered),
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A batch that is sent.
    Send(Box<Outgoing>),
    /// Another part must be fed first.
    More,
    /// Nothing: the segment is at its end.
    End,
}

/// What becomes of a source batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing of it counts.
    Skipped,
    /// It goes as it is, and may be joined with others like it.
    Joinable,
    /// It goes as it is.
    Verbatim,
    /// It is decoded.
    Encoded,
}

/// How much of a batch lies within the bounds of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    All,
    Some,
    Nothing,
}

fn records_error(batch: &Batch<'_>) -> impl Fn(RecordError) -> SegmentError {
    let base_offset = batch.base_offset();
    move |source| SegmentError::Records {
        base_offset,
        source,
    }
}

/// A record of `batch` that has no readable key, value or headers.
fn malformed(batch: &Batch<'_>, record: &Record) -> SegmentError {
    let index = i32::try_from(record.offset - batch.base_offset()).unwrap_or(i32::MAX);
    records_error(batch)(RecordError::Malformed { index })
}

fn inside(batch: &Batch<'_>, choice: &Choice) -> Result<Inside, SegmentError> {
    let time = &choice.time;
    let newest = batch.max_timestamp();
    let whole = |is_inside| match is_inside {
        true => Inside::All,
        false => Inside::Nothing,
    };
    if batch.is_log_append_time() {
        return Ok(whole(time.contains(newest)));
    }
    // Only the newest timestamp stands in the header.
    if time.start_ms.is_some_and(|start| newest < start) {
        return Ok(Inside::Nothing);
    }
    if time.start_ms.is_none() && time.contains(newest) {
        return Ok(Inside::All);
    }
    let records = decode(batch).map_err(records_error(batch))?;
    let count = records
        .iter()
        .filter(|r| time.contains(r.timestamp))
        .count();
    Ok(match count {
        0 => Inside::Nothing,
        count if count == records.len() => Inside::All,
        _ => Inside::Some,
    })
}

fn fate(batch: &Batch<'_>, range: OffsetRange, choice: &Choice) -> Result<Fate, SegmentError> {
    let outside = batch.end_offset() <= range.start || batch.base_offset() >= range.end;
    if outside || batch.record_count() == 0 || batch.is_control() {
        return Ok(Fate::Skipped);
    }
    let cut = batch.base_offset() < range.start || batch.end_offset() > range.end;
    let holes = batch.last_offset_delta() + 1 != batch.record_count();
    let large = batch.bytes().len() > choice.limits.encode;
    let changed = cut || holes || large || batch.is_log_append_time() || choice.looks_at_records();
    Ok(match inside(batch, choice)? {
        Inside::Nothing => Fate::Skipped,
        Inside::All if !changed && batch.codec_id() == 0 => Fate::Joinable,
        Inside::All if !changed => Fate::Verbatim,
        Inside::All | Inside::Some => Fate::Encoded,
    })
}

/// The records of a batch that count, as they are in the source.
fn chosen(
    batch: &Batch<'_>,
    source: i32,
    range: OffsetRange,
    choice: &Choice,
) -> Result<Vec<(i32, Record)>, SegmentError> {
    let records = decode(batch).map_err(records_error(batch))?;
    let counts = |record: &Record| {
        (range.start..range.end).contains(&record.offset) && choice.time.contains(record.timestamp)
    };
    let placed = records.into_iter().filter(counts).map(|mut record| {
        let unreadable = || malformed(batch, &record);
        let target = choice.target_of(&record, source).ok_or_else(unreadable)?;
        if let Some(provenance) = &choice.provenance {
            record.body = provenance.add_to(&record, source).ok_or_else(unreadable)?;
        }
        Ok((target, record))
    });
    placed.collect()
}

/// Counts the records that a segment adds to each target partition: those of [`Choice::by_key`], else the only one.
#[derive(Debug)]
pub(super) struct Counter<'a> {
    parts: Parts,
    source: i32,
    range: OffsetRange,
    choice: &'a Choice,
    counts: Vec<u64>,
}

impl<'a> Counter<'a> {
    /// Counts the records of source partition `source` at the offsets of `range`.
    pub(super) fn new(source: i32, range: OffsetRange, choice: &'a Choice) -> Self {
        Self {
            parts: Parts::default(),
            source,
            range,
            choice,
            counts: vec![0; choice.by_key.unwrap_or(1) as usize],
        }
    }

    /// Takes the next part of the segment.
    ///
    /// # Errors
    /// As of [`Outgoings`]; also a record that will be too large for the target.
    pub(super) fn feed(&mut self, part: Bytes, is_last: bool) -> Result<(), SegmentError> {
        self.parts.feed(part, is_last);
        while let Next::Batch(bytes) = self.parts.next()? {
            self.add(&whole(&bytes))?;
        }
        Ok(())
    }

    fn add(&mut self, batch: &Batch<'_>) -> Result<(), SegmentError> {
        let choice = self.choice;
        match fate(batch, self.range, choice)? {
            Fate::Skipped => {}
            Fate::Joinable | Fate::Verbatim => {
                self.counts[0] += u64::from(batch.record_count().unsigned_abs());
            }
            Fate::Encoded => {
                let codec = codec_of(batch)?;
                for (target, record) in chosen(batch, self.source, self.range, choice)? {
                    check_fits(&record, codec, batch, choice)?;
                    let place = choice.by_key.map_or(0, |_| target as usize);
                    self.counts[place] += 1;
                }
            }
        }
        Ok(())
    }

    /// What was counted.
    pub(super) fn counts(self) -> Vec<u64> {
        self.counts
    }
}

/// The same of a segment that is there as one.
pub(super) fn count(
    segment: Bytes,
    source: i32,
    range: OffsetRange,
    choice: &Choice,
) -> Result<Vec<u64>, SegmentError> {
    let mut counter = Counter::new(source, range, choice);
    counter.feed(segment, true)?;
    Ok(counter.counts())
}

/// Bytes of a record beside its body: length, attributes and deltas, at their longest.
const RECORD_OVERHEAD: usize = 32;

/// The largest batch that `plain` bytes of records can become: codecs may add a little to what they cannot make smaller.
fn largest_batch(plain: usize) -> usize {
    HEADER_LEN + plain + plain / 100 + 64
}

fn check_fits(
    record: &Record,
    codec: Codec,
    batch: &Batch<'_>,
    choice: &Choice,
) -> Result<(), SegmentError> {
    let limit = choice.limits.encode;
    if largest_batch(record.body.len() + RECORD_OVERHEAD) <= limit {
        return Ok(());
    }
    let encoded = record::encode(std::slice::from_ref(record), codec)
        .map_err(|source| records_error(batch)(RecordError::Decompress(source)))?;
    match encoded.len() <= limit {
        true => Ok(()),
        false => Err(SegmentError::TooLarge {
            offset: record.offset,
            size: encoded.len(),
            limit,
        }),
    }
}

fn codec_of(batch: &Batch<'_>) -> Result<Codec, SegmentError> {
    let id = batch.codec_id();
    Codec::from_id(id).ok_or_else(|| records_error(batch)(RecordError::Codec { id }))
}

impl Outgoings {
    /// The batches for the records of `section`, of a segment that is fed.
    pub(super) fn new(section: Section, choice: Arc<Choice>, buffers: Buffers) -> Self {
        Self {
            parts: Parts::default(),
            section,
            choice,
            peeked: None,
            pending: None,
            ready: VecDeque::new(),
            buffers,
        }
    }

    /// Takes the next part of the segment.
    pub(super) fn feed(&mut self, part: Bytes, is_last: bool) {
        self.parts.feed(part, is_last);
    }

    /// What comes next. Nothing after an error can be relied on.
    pub(super) fn step(&mut self) -> Result<Step, SegmentError> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(Step::Send(Box::new(ready)));
            }
            let (source, fate) = match self.peeked.take() {
                Some(peeked) => peeked,
                None => match self.parts.next()? {
                    Next::Batch(source) => {
                        let fate = fate(&whole(&source), self.section.range, &self.choice)?;
                        (source, fate)
                    }
                    Next::More => return Ok(Step::More),
                    Next::End if self.pending.is_some() => {
                        self.flush()?;
                        continue;
                    }
                    Next::End => return Ok(Step::End),
                },
            };
            let taken = match fate {
                Fate::Skipped => true,
                Fate::Verbatim if self.pending.is_none() => {
                    self.ready.push_back(verbatim(&source));
                    true
                }
                Fate::Verbatim => false,
                Fate::Joinable => self.join(&source)?,
                Fate::Encoded => self.gather(&source)?,
            };
            if !taken {
                // What is pending goes first.
                self.flush()?;
                self.peeked = Some((source, fate));
            }
        }
    }

    fn flush(&mut self) -> Result<(), SegmentError> {
        match self.pending.take() {
            None => {}
            Some(Pending::Joined(joining)) => self.ready.push_back(joining.build(&self.buffers)),
            Some(Pending::Gathered(gathered)) => self.ready = gathered.encode(&self.choice)?,
        }
        Ok(())
    }

    /// Joins a batch with those that are pending; false where it does not go with them.
    fn join(&mut self, source: &Bytes) -> Result<bool, SegmentError> {
        match &mut self.pending {
            None => {
                self.pending = Some(Pending::Joined(Joining::new(source)));
                Ok(true)
            }
            Some(Pending::Joined(joining)) => {
                joining.push(source, self.choice.limits.join, &self.buffers)
            }
            Some(Pending::Gathered(_)) => Ok(false),
        }
    }

    /// Adds a batch's records to those that are encoded together; false where they do not go with them.
    fn gather(&mut self, source: &Bytes) -> Result<bool, SegmentError> {
        let batch = whole(source);
        let section = self.section;
        let chosen = chosen(&batch, section.source, section.range, &self.choice)?;
        let ours = |(target, record)| {
            (self.choice.by_key.is_none() || target == section.target).then_some(record)
        };
        let records: Vec<Record> = chosen.into_iter().filter_map(ours).collect();
        if records.is_empty() {
            return Ok(true);
        }
        let next = Gathered::new(&batch, records, section.range)?;
        match &mut self.pending {
            None => {
                self.pending = Some(Pending::Gathered(next));
                Ok(true)
            }
            Some(Pending::Gathered(gathered)) => {
                let takes = gathered.takes(&next, self.choice.limits.join);
                if takes {
                    gathered.append(next);
                }
                Ok(takes)
            }
            Some(Pending::Joined(_)) => Ok(false),
        }
    }
}

/// Of a segment that was fed to its end.
impl Iterator for Outgoings {
    type Item = Result<Outgoing, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(Step::Send(outgoing)) => Some(Ok(*outgoing)),
            Ok(Step::More | Step::End) => None,
            Err(error) => {
                // Nothing after an error can be relied on.
                *self = Self::new(self.section, self.choice.clone(), self.buffers.clone());
                Some(Err(error))
            }
        }
    }
}

/// A batch that was walked before.
fn whole(source: &Bytes) -> Batch<'_> {
    Batch::first(source)
        .ok()
        .flatten()
        .expect("it was a whole batch when it was cut out")
}

fn run_of(batch: &Batch<'_>) -> SourceRun {
    SourceRun {
        range: OffsetRange {
            start: batch.base_offset(),
            end: batch.end_offset(),
        },
        records: u64::from(batch.record_count().unsigned_abs()),
    }
}

/// The header of a batch with what belongs to the source's log taken out.
fn portable_header(bytes: &[u8]) -> [u8; HEADER_LEN] {
    const LEADER_EPOCH: std::ops::Range<usize> = 12..16;
    let mut header = [0; HEADER_LEN];
    header.copy_from_slice(&bytes[..HEADER_LEN]);
    let attributes = i16::from_be_bytes([header[21], header[22]]);
    batch::set_base_offset(&mut header, 0);
    batch::set_attributes(&mut header, batch::portable_attributes(attributes));
    header[LEADER_EPOCH].copy_from_slice(&(-1i32).to_be_bytes());
    header
}

fn verbatim(source: &Bytes) -> Outgoing {
    Outgoing {
        header: portable_header(source),
        payload: source.slice(HEADER_LEN..),
        runs: vec![run_of(&whole(source))],
        source_bytes: source.len() as u64,
        append_time: false,
    }
}

/// Plain batches behind one another under one header.
#[derive(Clone, Debug)]
struct Joining {
    batches: Joinable,
    leader_epoch: i32,
    runs: Vec<SourceRun>,
    source_bytes: u64,
}

/// One batch alone is not copied; the part that it lies in is not kept for it once it is.
#[derive(Clone, Debug)]
enum Joinable {
    One(Bytes),
    Several(Joined),
}

impl Joining {
    fn new(first: &Bytes) -> Self {
        let head = whole(first);
        Self {
            leader_epoch: head.leader_epoch(),
            runs: vec![run_of(&head)],
            source_bytes: first.len() as u64,
            batches: Joinable::One(first.clone()),
        }
    }

    /// Appends the records of `next`; `false`, and nothing appended, when they are of another leader epoch or the result would be
    /// larger than `limit`.
    fn push(
        &mut self,
        next: &Bytes,
        limit: usize,
        buffers: &Buffers,
    ) -> Result<bool, SegmentError> {
        let next = whole(next);
        let size = match &self.batches {
            Joinable::One(first) => first.len(),
            Joinable::Several(joined) => joined.size(),
        };
        if size + next.bytes().len() > limit || self.leader_epoch != next.leader_epoch() {
            return Ok(false);
        }
        if let Joinable::One(first) = &self.batches {
            let head = whole(first);
            // Its final size at once: growing would copy it again and again, and end with twice the room.
            let mut plain = buffers.take(limit);
            plain.extend_from_slice(head.payload());
            self.batches = Joinable::Several(Joined::new(&head, plain, Offsets::Renumbered));
        }
        let Joinable::Several(joined) = &mut self.batches else {
            return Ok(false);
        };
        let pushed = joined.push(&next, next.payload(), limit);
        let pushed = pushed.map_err(records_error(&next))?;
        if pushed {
            self.runs.push(run_of(&next));
            self.source_bytes += next.bytes().len() as u64;
        }
        Ok(pushed)
    }

    fn build(self, buffers: &Buffers) -> Outgoing {
        let joined = match self.batches {
            Joinable::One(first) => return verbatim(&first),
            Joinable::Several(joined) => joined,
        };
        let header = joined.header(joined.payload().len());
        Outgoing {
            header: portable_header(&header),
            payload: buffers.lend(joined.into_payload()),
            runs: self.runs,
            source_bytes: self.source_bytes,
            append_time: false,
        }
    }
}

/// Records of neighbouring batches that are encoded together.
#[derive(Clone, Debug)]
struct Gathered {
    codec: Codec,
    leader_epoch: i32,
    append_time: bool,
    records: Vec<Record>,
    /// The source offsets that they come from, a range for each batch.
    covered: Vec<OffsetRange>,
    /// Bytes of the records before compression, at most.
    size: usize,
    source_bytes: u64,
}

impl Gathered {
    /// `records` of `batch` at offsets of `range`.
    fn new(
        batch: &Batch<'_>,
        records: Vec<Record>,
        range: OffsetRange,
    ) -> Result<Self, SegmentError> {
        let size = records.iter().map(|r| r.body.len() + RECORD_OVERHEAD);
        let (bytes, all) = (batch.bytes().len() as u64, batch.record_count() as u64);
        Ok(Self {
            codec: codec_of(batch)?,
            leader_epoch: batch.leader_epoch(),
            append_time: batch.is_log_append_time(),
            size: size.sum(),
            // In proportion: other records of the batch may go elsewhere.
            source_bytes: bytes * records.len() as u64 / all.max(1),
            covered: vec![OffsetRange {
                start: batch.base_offset().max(range.start),
                end: batch.end_offset().min(range.end),
            }],
            records,
        })
    }

    fn takes(&self, next: &Self, limit: usize) -> bool {
        let alike = self.codec == next.codec
            && self.leader_epoch == next.leader_epoch
            && self.append_time == next.append_time;
        alike && largest_batch(self.size + next.size) <= limit
    }

    fn append(&mut self, next: Self) {
        self.records.extend(next.records);
        self.covered.extend(next.covered);
        self.size += next.size;
        self.source_bytes += next.source_bytes;
    }

    /// Encodes the records with their own codec.
    fn encode(self, choice: &Choice) -> Result<VecDeque<Outgoing>, SegmentError> {
        let mut ready = VecDeque::new();
        let limit = choice.limits.encode;
        encode_part(&self.records, &self.covered, self.codec, limit, &mut ready)?;
        if let Some(first) = ready.front_mut() {
            // Bytes are counted once, whatever became of the batches.
            first.source_bytes = self.source_bytes;
        }
        for outgoing in &mut ready {
            outgoing.append_time = self.append_time;
        }
        Ok(ready)
    }
}

/// Encodes records that cover `covered`, in halves where they come out larger than `limit`.
fn encode_part(
    records: &[Record],
    covered: &[OffsetRange],
    codec: Codec,
    limit: usize,
    ready: &mut VecDeque<Outgoing>,
) -> Result<(), SegmentError> {
    let Some(first) = records.first() else {
        return Ok(());
    };
    let bytes = record::encode(records, codec).map_err(|source| SegmentError::Records {
        base_offset: first.offset,
        source: RecordError::Decompress(source),
    })?;
    if bytes.len() > limit {
        let (left, right) = records.split_at(records.len() / 2);
        let (Some(_), Some(middle)) = (left.first(), right.first()) else {
            return Err(SegmentError::TooLarge {
                offset: first.offset,
                size: bytes.len(),
                limit,
            });
        };
        let (before, after) = split(covered, middle.offset);
        encode_part(left, &before, codec, limit, ready)?;
        return encode_part(right, &after, codec, limit, ready);
    }
    let bytes = Bytes::from(bytes);
    let runs = covered.iter().map(|range| {
        let below = |offset| records.partition_point(|record| record.offset < offset);
        SourceRun {
            range: *range,
            records: (below(range.end) - below(range.start)) as u64,
        }
    });
    ready.push_back(Outgoing {
        header: portable_header(&bytes),
        payload: bytes.slice(HEADER_LEN..),
        runs: runs.collect(),
        source_bytes: 0,
        append_time: false,
    });
    Ok(())
}

/// Ranges below and from `offset` on.
fn split(ranges: &[OffsetRange], offset: i64) -> (Vec<OffsetRange>, Vec<OffsetRange>) {
    let clip = |start: i64, end: i64| {
        let clipped = ranges.iter().map(|range| OffsetRange {
            start: range.start.max(start),
            end: range.end.min(end),
        });
        clipped.filter(|range| !range.is_empty()).collect()
    };
    (clip(i64::MIN, offset), clip(offset, i64::MAX))
}

#[cfg(test)]
#[path = "batches_test.rs"]
mod tests;
