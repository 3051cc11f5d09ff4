//! What is sent for a segment: a pure function of its bytes, the offsets that count, and two limits.
//!
//! # Guarantees
//! - The same segment, offsets and limits give the same batches, so that a resumed restore finds the boundaries of the first.
//! - Records keep key, value, headers, order and timestamp; offsets are numbered without holes from the first one.
//! - A batch goes as it is wherever it can. Decoded and encoded anew are those that straddle a cut, that have holes
//!   (compaction) or that carry append time (a producer cannot set it: it becomes the create time of each record).
//! - Plain neighbours of one leader epoch are joined up to [`Limits::join`]: brokers pay per batch. Nothing is decoded for it,
//!   two varints per record are rewritten.
//! - Batches without records and control batches are left out.
//!
//! # Assumptions
//! - The segment's bytes are those that its name's CRC was made of; each batch's own CRC is checked here all the same.

use std::collections::VecDeque;

use bytes::Bytes;
use kafka_backup_shared::archive::batch::{self, Batch, BatchError, HEADER_LEN};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::join::{JOIN_MAX, Joined, Offsets};
use kafka_backup_shared::archive::record::{self, Record, RecordError, decode};

use crate::kafka::ProducerId;

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Joined batches.
    pub(super) join: usize,
    /// Encoded anew; the target's `max.message.bytes`.
    pub(super) encode: usize,
}

impl Limits {
    /// The limits for a topic.
    pub(super) fn new(max_message_bytes: u32) -> Self {
        let encode = max_message_bytes as usize;
        Self {
            join: JOIN_MAX.min(encode),
            encode,
        }
    }
}

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
        let crc = crc32c::crc32c(&header[CRC.end..]);
        let crc = crc32c::crc32c_append(crc, &self.payload);
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

/// Walks what is sent for one segment.
#[derive(Clone, Debug)]
pub(super) struct Outgoings {
    segment: Bytes,
    position: usize,
    range: OffsetRange,
    limits: Limits,
    ready: VecDeque<Outgoing>,
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

impl Outgoings {
    /// The batches of `segment` for the records at the offsets of `range`.
    pub(super) fn new(segment: Bytes, range: OffsetRange, limits: Limits) -> Self {
        Self {
            segment,
            position: 0,
            range,
            limits,
            ready: VecDeque::new(),
        }
    }

    fn fate(&self, batch: &Batch<'_>) -> Fate {
        let outside =
            batch.end_offset() <= self.range.start || batch.base_offset() >= self.range.end;
        if outside || batch.record_count() == 0 || batch.is_control() {
            return Fate::Skipped;
        }
        let cut = batch.base_offset() < self.range.start || batch.end_offset() > self.range.end;
        let holes = batch.last_offset_delta() + 1 != batch.record_count();
        if cut || holes || batch.is_log_append_time() {
            return Fate::Encoded;
        }
        match batch.codec_id() {
            0 => Fate::Joinable,
            _ => Fate::Verbatim,
        }
    }

    /// The next source batch that counts; `position` is then behind it.
    fn next_batch(&mut self) -> Result<Option<(usize, Fate)>, SegmentError> {
        loop {
            let at = self.position;
            let rest = &self.segment[at..];
            let Some(batch) = Batch::first(rest)? else {
                return match rest.len() {
                    0 => Ok(None),
                    bytes => Err(SegmentError::Trailing { bytes }),
                };
            };
            batch.verify_crc()?;
            self.position += batch.bytes().len();
            match self.fate(&batch) {
                Fate::Skipped => {}
                fate @ (Fate::Joinable | Fate::Verbatim | Fate::Encoded) => {
                    return Ok(Some((at, fate)));
                }
            }
        }
    }

    fn advance(&mut self) -> Result<Option<Outgoing>, SegmentError> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Ok(Some(ready));
            }
            let Some((at, fate)) = self.next_batch()? else {
                return Ok(None);
            };
            let source = self.segment.slice(at..self.position);
            match fate {
                Fate::Joinable => return self.join(source).map(Some),
                Fate::Verbatim => return Ok(Some(verbatim(&source))),
                Fate::Encoded => self.ready = encode_anew(&source, self.range, self.limits)?,
                Fate::Skipped => {}
            }
        }
    }

    /// Joins `first` with the joinable batches behind it, as many as fit.
    fn join(&mut self, first: Bytes) -> Result<Outgoing, SegmentError> {
        let mut joining: Option<Joining> = None;
        while let Some(next) = Batch::first(&self.segment[self.position..])? {
            let head = whole(&first);
            let size = joining
                .as_ref()
                .map_or(first.len(), |joining| joining.joined.size());
            let fits = next.bytes().len() + size <= self.limits.join;
            let alike =
                next.leader_epoch() == head.leader_epoch() && self.fate(&next) == Fate::Joinable;
            if !fits || !alike {
                break;
            }
            next.verify_crc()?;
            let joining = joining.get_or_insert_with(|| Joining::new(&head));
            if !joining.push(&next, self.limits.join)? {
                break;
            }
            self.position += next.bytes().len();
        }
        // One batch alone is not copied.
        Ok(match joining.filter(|joining| joining.runs.len() > 1) {
            Some(joining) => joining.build(),
            None => verbatim(&first),
        })
    }
}

impl Iterator for Outgoings {
    type Item = Result<Outgoing, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.advance().transpose();
        if matches!(item, Some(Err(_))) {
            // Nothing after an error can be relied on.
            self.position = self.segment.len();
            self.ready.clear();
        }
        item
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
struct Joining {
    joined: Joined,
    runs: Vec<SourceRun>,
    source_bytes: u64,
}

impl Joining {
    fn new(first: &Batch<'_>) -> Self {
        Self {
            joined: Joined::new(first, first.payload().to_vec(), Offsets::Renumbered),
            runs: vec![run_of(first)],
            source_bytes: first.bytes().len() as u64,
        }
    }

    /// Appends the records of `next`; `false`, and nothing appended, when the result would be larger than `limit`.
    fn push(&mut self, next: &Batch<'_>, limit: usize) -> Result<bool, SegmentError> {
        let base_offset = next.base_offset();
        let pushed = self.joined.push(next, next.payload(), limit);
        let pushed = pushed.map_err(|source| SegmentError::Records {
            base_offset,
            source,
        })?;
        if pushed {
            self.runs.push(run_of(next));
            self.source_bytes += next.bytes().len() as u64;
        }
        Ok(pushed)
    }

    fn build(self) -> Outgoing {
        let header = self.joined.header(self.joined.payload().len());
        Outgoing {
            header: portable_header(&header),
            payload: self.joined.into_payload().into(),
            runs: self.runs,
            source_bytes: self.source_bytes,
            append_time: false,
        }
    }
}

/// Decodes a batch, leaves out the records outside `range`, and encodes the rest with its own codec.
fn encode_anew(
    source: &Bytes,
    range: OffsetRange,
    limits: Limits,
) -> Result<VecDeque<Outgoing>, SegmentError> {
    let batch = whole(source);
    let base_offset = batch.base_offset();
    let records_error = |source| SegmentError::Records {
        base_offset,
        source,
    };
    let codec = Codec::from_id(batch.codec_id()).ok_or(RecordError::Codec {
        id: batch.codec_id(),
    });
    let codec = codec.map_err(records_error)?;
    let mut records = decode(&batch).map_err(records_error)?;
    records.retain(|record| (range.start..range.end).contains(&record.offset));
    let covered = OffsetRange {
        start: batch.base_offset().max(range.start),
        end: batch.end_offset().min(range.end),
    };
    let mut ready = VecDeque::new();
    let sizes = source.len() as u64;
    encode_part(&records, covered, codec, limits, &mut ready).map_err(|error| match error {
        PartError::Encode(source) => records_error(RecordError::Decompress(source)),
        PartError::TooLarge { offset, size } => SegmentError::TooLarge {
            offset,
            size,
            limit: limits.encode,
        },
    })?;
    if let Some(first) = ready.front_mut() {
        // Bytes are counted once, whatever became of the batch.
        first.source_bytes = sizes;
    }
    for outgoing in &mut ready {
        outgoing.append_time = batch.is_log_append_time();
    }
    Ok(ready)
}

enum PartError {
    Encode(std::io::Error),
    TooLarge { offset: i64, size: usize },
}

/// Encodes records that cover `covered`, in halves where they come out too large.
fn encode_part(
    records: &[Record],
    covered: OffsetRange,
    codec: Codec,
    limits: Limits,
    ready: &mut VecDeque<Outgoing>,
) -> Result<(), PartError> {
    let Some(first) = records.first() else {
        return Ok(());
    };
    let bytes = record::encode(records, codec).map_err(PartError::Encode)?;
    if bytes.len() > limits.encode {
        let (left, right) = records.split_at(records.len() / 2);
        let (Some(_), Some(middle)) = (left.first(), right.first()) else {
            return Err(PartError::TooLarge {
                offset: first.offset,
                size: bytes.len(),
            });
        };
        let (start, end, middle) = (covered.start, covered.end, middle.offset);
        encode_part(
            left,
            OffsetRange { start, end: middle },
            codec,
            limits,
            ready,
        )?;
        return encode_part(
            right,
            OffsetRange { start: middle, end },
            codec,
            limits,
            ready,
        );
    }
    let bytes = Bytes::from(bytes);
    ready.push_back(Outgoing {
        header: portable_header(&bytes),
        payload: bytes.slice(HEADER_LEN..),
        runs: vec![SourceRun {
            range: covered,
            records: records.len() as u64,
        }],
        source_bytes: 0,
        append_time: false,
    });
    Ok(())
}

#[cfg(test)]
#[path = "batches_test.rs"]
mod tests;
