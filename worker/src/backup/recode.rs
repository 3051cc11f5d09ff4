//! Batches in another codec: small neighbours joined, and compressed.
//!
//! # Guarantees
//! - Records keep offset, timestamp, key, value and headers; a batch keeps its leader epoch, its timestamp type and whether it
//!   was of a transaction. What belonged to its producer (id, epoch, sequence) is gone, since several stand behind one header.
//! - Joined are neighbours of one leader epoch, one timestamp type and, where that is append time, one append time: up to
//!   [`JOIN_MAX`] before compression, and below the topic's `max.message.bytes`.
//! - A batch that would grow beyond `max.message.bytes` by the codec stays as it is: it must fit into a topic again.
//! - A batch that is joined with none and has the codec already stays as it is, unless a level is asked for.
//!
//! # Assumptions
//! - CRCs were checked, and what is not kept was filtered out. It computes: call it where that blocks nobody.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use kafka_backup_shared::archive::batch::{self, Batch, HEADER_LEN};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::codec::{Codec, Compressor};
use kafka_backup_shared::archive::join::{JOIN_MAX, Joined, Offsets};
use kafka_backup_shared::archive::record::{DECODED_MAX, RecordError};

use super::segment::records_within;

/// Records that a batch announces and does not hold.
#[derive(Debug, thiserror::Error)]
#[error("the record batch at offset {base_offset} cannot be encoded anew")]
pub(super) struct RecodeError {
    base_offset: i64,
    #[source]
    source: RecordError,
}

impl RecodeError {
    fn at(batch: &Batch<'_>) -> impl Fn(RecordError) -> Self + use<> {
        let base_offset = batch.base_offset();
        move |source| Self {
            base_offset,
            source,
        }
    }
}

/// How records are stored when not as the source has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Encoding {
    pub(super) codec: Codec,
    pub(super) level: Option<u8>,
}

/// A batch as it is stored, with what a segment's name needs of it.
#[derive(Debug)]
pub(super) struct Recoded {
    pub(super) bytes: Vec<u8>,
    /// Offset after the last one that it covers.
    pub(super) end: i64,
    pub(super) leader_epoch: i32,
    /// Records within the range that is captured.
    pub(super) records: u64,
    pub(super) max_timestamp: i64,
}

/// Encodes the batches of one partition, in order.
#[derive(Debug)]
pub(super) struct Recoder {
    encoding: Encoding,
    join: usize,
    max_message_bytes: usize,
    compressor: Compressor,
    pending: Option<Pending>,
    /// Room for records that are joined, used again and again.
    room: Vec<u8>,
    /// Room for the batch that is given back, likewise.
    spare: Vec<u8>,
}

/// Batches that the next one may be joined with.
#[derive(Debug)]
struct Pending {
    /// The first as the source has it.
    first: Bytes,
    /// All of them, once there was a second to try.
    joined: Option<Joined>,
    batches: usize,
    /// All records are within the range.
    whole: bool,
    end: i64,
    records: u64,
    max_timestamp: i64,
}

impl Recoder {
    /// What one takes beside the batches that it gives back: records joined and compressed, the codec's tables, and what the
    /// allocator keeps for the threads that it computes on. Measured: the process takes so much more than without.
    pub(super) const MEMORY: usize = 11 * JOIN_MAX;

    pub(super) fn new(encoding: Encoding, max_message_bytes: usize) -> std::io::Result<Self> {
        let compressor = Compressor::new(encoding.codec, encoding.level)?;
        // What cannot be compressed grows a little.
        let slack = max_message_bytes / 256 + 64;
        Ok(Self {
            encoding,
            join: JOIN_MAX.min(max_message_bytes.saturating_sub(slack)),
            max_message_bytes,
            compressor,
            pending: None,
            room: Vec::new(),
            spare: Vec::new(),
        })
    }

    /// Takes the memory of a batch back that is no longer needed. Allocated by one thread and freed by another, it would stay
    /// with the process many times over.
    pub(super) fn reuse(&mut self, recoded: Recoded) {
        self.spare = recoded.bytes;
    }

    /// Whether batches wait to be joined with the next ones.
    pub(super) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Takes batches of an answer until one is ready to be stored, and tells how many it took.
    ///
    /// # Errors
    /// A batch does not hold the records that it announces.
    pub(super) fn take(
        &mut self,
        answer: &Bytes,
        batches: &[Range<usize>],
        range: OffsetRange,
    ) -> Result<(usize, Option<Recoded>), RecodeError> {
        for (index, at) in batches.iter().enumerate() {
            if let Some(ready) = self.push(answer.slice(at.clone()), range)? {
                return Ok((index + 1, Some(ready)));
            }
        }
        Ok((batches.len(), None))
    }

    fn push(&mut self, source: Bytes, range: OffsetRange) -> Result<Option<Recoded>, RecodeError> {
        let next = whole(&source);
        let within = next.base_offset() >= range.start && next.end_offset() <= range.end;
        let records = records_within(&next, range).map_err(RecodeError::at(&next))?;
        if let Some(pending) = self.pending.as_mut().filter(|_| within)
            && pending.join(&next, self.join, &mut self.room)?
        {
            pending.records += records;
            return Ok(None);
        }
        let ready = self.finish()?;
        self.pending = Some(Pending {
            whole: within,
            joined: None,
            batches: 1,
            end: next.end_offset(),
            records,
            max_timestamp: next.max_timestamp(),
            first: source,
        });
        Ok(ready)
    }

    /// Ends what waits for more.
    pub(super) fn finish(&mut self) -> Result<Option<Recoded>, RecodeError> {
        let Some(pending) = self.pending.take() else {
            return Ok(None);
        };
        let first = whole(&pending.first);
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        match &pending.joined {
            Some(joined) if pending.batches > 1 => {
                let payload = self.compressor.compress(joined.payload());
                let payload = payload
                    .map_err(RecordError::Decompress)
                    .map_err(RecodeError::at(&first))?;
                let header = joined.header(payload.len());
                seal(&mut bytes, header, payload, self.encoding.codec);
            }
            // Its records are decompressed already where they were tried with others.
            joined => {
                let plain = joined.as_ref().map(Joined::payload);
                self.encode_alone(&mut bytes, &first, plain)?;
            }
        }
        let leader_epoch = first.leader_epoch();
        if let Some(joined) = pending.joined {
            self.room = joined.into_payload();
        }
        Ok(Some(Recoded {
            bytes,
            end: pending.end,
            leader_epoch,
            records: pending.records,
            max_timestamp: pending.max_timestamp,
        }))
    }

    fn encode_alone(
        &mut self,
        out: &mut Vec<u8>,
        batch: &Batch<'_>,
        plain: Option<&[u8]>,
    ) -> Result<(), RecodeError> {
        let codec = self.encoding.codec;
        if batch.codec_id() == codec.id() && self.encoding.level.is_none() {
            out.extend_from_slice(batch.bytes());
            return Ok(());
        }
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&batch.bytes()[..HEADER_LEN]);
        let plain = match plain {
            Some(plain) => Cow::Borrowed(plain),
            None => decompressed(batch)?,
        };
        let payload = self.compressor.compress(&plain);
        let payload = payload
            .map_err(RecordError::Decompress)
            .map_err(RecodeError::at(batch))?;
        let size = HEADER_LEN + payload.len();
        if size > self.max_message_bytes.max(batch.bytes().len()) {
            out.extend_from_slice(batch.bytes());
            return Ok(());
        }
        batch::set_records(
            &mut header,
            payload.len(),
            batch.last_offset_delta(),
            batch.max_timestamp(),
            batch.record_count(),
        );
        seal(out, header, payload, codec);
        Ok(())
    }
}

impl Pending {
    /// Takes the next batch in, if the two belong under one header.
    fn join(
        &mut self,
        next: &Batch<'_>,
        limit: usize,
        room: &mut Vec<u8>,
    ) -> Result<bool, RecodeError> {
        let first = whole(&self.first);
        let size = self
            .joined
            .as_ref()
            .map_or(first.bytes().len(), Joined::size);
        // No codec makes records larger than they are, to speak of.
        let fits = size + next.payload().len() <= limit;
        if !self.whole || !fits || !alike(&first, next) {
            return Ok(false);
        }
        let joined = match &mut self.joined {
            Some(joined) => joined,
            None => {
                let mut plain = std::mem::take(room);
                plain.clear();
                plain.reserve(limit);
                plain.extend_from_slice(&decompressed(&first)?);
                self.joined
                    .insert(Joined::new(&first, plain, Offsets::Kept))
            }
        };
        let plain = decompressed(next)?;
        let pushed = joined.push(next, &plain, limit);
        let pushed = pushed.map_err(RecodeError::at(next))?;
        if pushed {
            self.batches += 1;
            self.end = next.end_offset();
            self.max_timestamp = self.max_timestamp.max(next.max_timestamp());
        }
        Ok(pushed)
    }
}

/// Whether two batches may stand behind one header.
fn alike(a: &Batch<'_>, b: &Batch<'_>) -> bool {
    let lasting = |batch: &Batch<'_>| batch::lasting_attributes(batch.attributes());
    a.leader_epoch() == b.leader_epoch()
        && lasting(a) == lasting(b)
        && (!a.is_log_append_time() || a.max_timestamp() == b.max_timestamp())
}

fn decompressed<'a>(batch: &Batch<'a>) -> Result<Cow<'a, [u8]>, RecodeError> {
    let id = batch.codec_id();
    let codec = Codec::from_id(id).ok_or(RecordError::Codec { id });
    let codec = codec.map_err(RecodeError::at(batch))?;
    if codec == Codec::None {
        return Ok(Cow::Borrowed(batch.payload()));
    }
    let plain = codec.decompress(batch.payload(), DECODED_MAX);
    let plain = plain.map_err(RecordError::Decompress);
    Ok(Cow::Owned(plain.map_err(RecodeError::at(batch))?))
}

/// Writes a batch to `bytes`, which is empty.
fn seal(bytes: &mut Vec<u8>, header: [u8; HEADER_LEN], payload: &[u8], codec: Codec) {
    // In steps, so that batches of about the same size find it large enough.
    bytes.reserve_exact((HEADER_LEN + payload.len()).next_multiple_of(64 << 10));
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(payload);
    let attributes = batch::lasting_attributes(i16::from_be_bytes([header[21], header[22]]));
    batch::set_attributes(bytes, attributes | i16::from(codec.id()));
    batch::set_producer(bytes, -1, -1, -1);
    batch::seal(bytes);
}

/// A batch that was walked before.
fn whole(source: &Bytes) -> Batch<'_> {
    Batch::first(source)
        .ok()
        .flatten()
        .expect("it was a whole batch when it was cut out")
}

#[cfg(test)]
#[path = "recode_test.rs"]
mod tests;
