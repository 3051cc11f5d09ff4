//! Neighbouring batches under one header: brokers pay per batch, and codecs find more in 500 KB than in one record.
//!
//! # Guarantees
//! - Order, keys, values, headers and timestamps stay as they are. No record is decoded: two varints of each are rewritten.
//!
//! # Assumptions
//! - Who joins has looked: same leader epoch, same timestamp type, and where that is append time the same one.

use super::batch::{self, Batch, HEADER_LEN};
use super::record::{RecordError, read_varint, write_varint};

/// Bytes up to which batches are joined, before compression.
pub const JOIN_MAX: usize = 512 << 10;

/// What becomes of the offsets of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offsets {
    /// They stay, holes between batches too.
    Kept,
    /// Numbered from 0 without holes; for batches that have none themselves.
    Renumbered,
}

/// Batches behind one another, not compressed.
#[derive(Clone, Debug)]
pub struct Joined {
    header: [u8; HEADER_LEN],
    offsets: Offsets,
    base_offset: i64,
    last_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    records: i32,
    payload: Vec<u8>,
}

impl Joined {
    /// Begins with one batch, whose records are `plain` when they are decompressed.
    pub fn new(first: &Batch<'_>, plain: Vec<u8>, offsets: Offsets) -> Self {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&first.bytes()[..HEADER_LEN]);
        Self {
            header,
            offsets,
            base_offset: first.base_offset(),
            last_offset_delta: first.last_offset_delta(),
            base_timestamp: first.base_timestamp(),
            max_timestamp: first.max_timestamp(),
            records: first.record_count(),
            payload: plain,
        }
    }

    /// Bytes of the batch as it stands, not compressed.
    pub fn size(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Appends the records of `next`, which are `plain` when they are decompressed; `false`, and nothing appended, when the
    /// result would be larger than `limit`.
    ///
    /// # Errors
    /// `plain` is not what `next` announces.
    pub fn push(
        &mut self,
        next: &Batch<'_>,
        plain: &[u8],
        limit: usize,
    ) -> Result<bool, RecordError> {
        let Some(records) = self.records.checked_add(next.record_count()) else {
            return Ok(false);
        };
        let offset_shift = match self.offsets {
            Offsets::Renumbered => i64::from(self.records),
            Offsets::Kept => next.base_offset() - self.base_offset,
        };
        let last = i64::from(next.last_offset_delta()) + offset_shift;
        let Ok(last_offset_delta) = i32::try_from(last) else {
            return Ok(false);
        };
        let timestamp_shift = next.base_timestamp().wrapping_sub(self.base_timestamp);
        let length = self.payload.len();
        append_shifted(
            &mut self.payload,
            next.record_count(),
            plain,
            timestamp_shift,
            offset_shift,
        )?;
        if self.size() > limit {
            self.payload.truncate(length);
            return Ok(false);
        }
        self.records = records;
        self.last_offset_delta = last_offset_delta;
        self.max_timestamp = self.max_timestamp.max(next.max_timestamp());
        Ok(true)
    }

    /// The records, not compressed.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The records, not compressed.
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// The first batch's header for all records, which take `payload_len` bytes; without a right CRC.
    pub fn header(&self, payload_len: usize) -> [u8; HEADER_LEN] {
        let mut header = self.header;
        batch::set_records(
            &mut header,
            payload_len,
            self.last_offset_delta,
            self.max_timestamp,
            self.records,
        );
        header
    }
}

/// Copies plain records with their two deltas moved; key, value and headers are not looked at.
fn append_shifted(
    out: &mut Vec<u8>,
    count: i32,
    mut rest: &[u8],
    timestamp_shift: i64,
    offset_shift: i64,
) -> Result<(), RecordError> {
    out.reserve(rest.len() + 8 * count.unsigned_abs() as usize);
    let mut deltas = Vec::with_capacity(21);
    for index in 0..count {
        let malformed = || RecordError::Malformed { index };
        let length = read_varint(&mut rest).ok_or_else(malformed)?;
        let length = usize::try_from(length).map_err(|_| malformed())?;
        let record = rest.get(..length).ok_or_else(malformed)?;
        rest = &rest[length..];
        let (attributes, mut record) = record.split_first().ok_or_else(malformed)?;
        let timestamp_delta = read_varint(&mut record).ok_or_else(malformed)?;
        let offset_delta = read_varint(&mut record).ok_or_else(malformed)?;
        deltas.clear();
        deltas.push(*attributes);
        write_varint(&mut deltas, timestamp_delta.wrapping_add(timestamp_shift));
        write_varint(&mut deltas, offset_delta.wrapping_add(offset_shift));
        write_varint(out, (deltas.len() + record.len()) as i64);
        out.extend_from_slice(&deltas);
        out.extend_from_slice(record);
    }
    if !rest.is_empty() {
        return Err(RecordError::Malformed { index: count });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::codec::Codec;
    use crate::archive::record::{self, Record};

    /// A batch of records at `offsets`, the first of which is the base, ending at `end`.
    fn batch(offsets: &[i64], end: i64, timestamp: i64) -> Vec<u8> {
        let base = offsets[0];
        let mut payload = Vec::new();
        for offset in offsets {
            record::write_record(&mut payload, *offset - base, *offset - base, &[1, 1, 0]);
        }
        let count = offsets.len() as i32;
        let max = timestamp + offsets[offsets.len() - 1] - base;
        let mut bytes = batch::build(0, timestamp, max, count, &payload);
        batch::set_records(
            &mut bytes,
            payload.len(),
            (end - 1 - base) as i32,
            max,
            count,
        );
        batch::set_base_offset(&mut bytes, base);
        batch::seal(&mut bytes);
        bytes
    }

    fn join(batches: &[Vec<u8>], offsets: Offsets, limit: usize) -> (usize, Vec<u8>) {
        let first = Batch::first(&batches[0]).unwrap().unwrap();
        let mut joined = Joined::new(&first, first.payload().to_vec(), offsets);
        let mut count = 1;
        for next in &batches[1..] {
            let next = Batch::first(next).unwrap().unwrap();
            if !joined.push(&next, next.payload(), limit).unwrap() {
                break;
            }
            count += 1;
        }
        let mut bytes = [&joined.header(joined.payload().len())[..], joined.payload()].concat();
        batch::seal(&mut bytes);
        (count, bytes)
    }

    fn records(bytes: &[u8]) -> Vec<(i64, i64)> {
        let batch = Batch::first(bytes).unwrap().unwrap();
        batch.verify_crc().unwrap();
        let records: Vec<Record> = record::decode(&batch).unwrap();
        records.iter().map(|r| (r.offset, r.timestamp)).collect()
    }

    #[test]
    fn offsets_and_times_stay_across_holes() {
        let batches = [
            batch(&[5, 7], 9, 1000),
            batch(&[20], 21, -1),
            batch(&[21, 22], 30, 5_000_000_000_000),
        ];
        let (count, bytes) = join(&batches, Offsets::Kept, JOIN_MAX);
        assert_eq!(count, 3);
        let separately: Vec<_> = batches.iter().flat_map(|bytes| records(bytes)).collect();
        assert_eq!(records(&bytes), separately);
        let batch = Batch::first(&bytes).unwrap().unwrap();
        assert_eq!(
            (
                batch.base_offset(),
                batch.end_offset(),
                batch.record_count()
            ),
            (5, 30, 5)
        );
        assert_eq!(batch.max_timestamp(), 5_000_000_000_001);
    }

    #[test]
    fn what_does_not_fit_is_not_joined() {
        let batches = [batch(&[0], 1, 0), batch(&[1], 2, 0), batch(&[2], 3, 0)];
        let two = join(&batches[..2], Offsets::Kept, JOIN_MAX).1.len();
        assert_eq!(join(&batches, Offsets::Kept, two).0, 2);
        // Offsets too far apart for one header.
        let far = [batch(&[0], 1, 0), batch(&[1 << 31], (1 << 31) + 1, 0)];
        assert_eq!(join(&far, Offsets::Kept, JOIN_MAX).0, 1);
        assert_eq!(join(&far, Offsets::Renumbered, JOIN_MAX).0, 2);
    }

    #[test]
    fn records_that_are_not_announced_are_an_error() {
        let bytes = batch(&[0], 1, 0);
        let first = Batch::first(&bytes).unwrap().unwrap();
        let plain = Codec::None.decompress(first.payload(), 100).unwrap();
        let mut joined = Joined::new(&first, plain.clone(), Offsets::Kept);
        let long = [&plain[..], &[0]].concat();
        assert!(joined.push(&first, &long, JOIN_MAX).is_err());
        assert!(joined.push(&first, &plain[1..], JOIN_MAX).is_err());
    }
}
