//! Record batches of magic 2, read and patched in place without decoding their records.
//!
//! Layout (Kafka's `DefaultRecordBatch`): base offset i64, length i32, partition leader epoch i32, magic i8, CRC-32C u32 of
//! everything after it, attributes i16, last offset delta i32, base timestamp i64, max timestamp i64, producer id i64, producer
//! epoch i16, base sequence i32, record count i32, records.
//!
//! # Assumptions
//! - A header's base timestamp says nothing about time: where the delete horizon bit is set it is the horizon. Use the max timestamp.

use super::crc;

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Bytes of a batch that its length field does not count.
pub const LENGTH_PREFIX: usize = 12;

const CRC_START: usize = 17;
/// Where what the CRC covers begins.
pub const CRC_COVERED: usize = 21;
const ATTR_CODEC: i16 = 0x07;
const ATTR_LOG_APPEND_TIME: i16 = 0x08;
const ATTR_TRANSACTIONAL: i16 = 0x10;
const ATTR_CONTROL: i16 = 0x20;
const ATTR_DELETE_HORIZON: i16 = 0x40;

/// Bytes that are not a record batch of magic 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Message formats 0 and 1 (before Kafka 0.11) are not supported.
    #[error(
        "record batch at offset {base_offset} has the message format {magic}, only 2 is supported"
    )]
    OldFormat {
        /// Offset that the batch gives itself.
        base_offset: i64,
        /// Its magic.
        magic: u8,
    },
    /// A length or count that cannot be.
    #[error("record batch at offset {base_offset} is malformed: {reason}")]
    Malformed {
        /// Offset that the batch gives itself.
        base_offset: i64,
        /// What is wrong.
        reason: &'static str,
    },
    /// The bytes are not those that the producer checksummed.
    #[error(
        "record batch at offset {base_offset} has CRC {found:08x}, its header says {expected:08x}"
    )]
    Crc {
        /// Offset that the batch gives itself.
        base_offset: i64,
        /// The header's CRC-32C.
        expected: u32,
        /// The bytes' CRC-32C.
        found: u32,
    },
}

/// One whole record batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a>(&'a [u8]);

macro_rules! header_fields {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $at:literal;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> $type {
            let mut bytes = [0; size_of::<$type>()];
            bytes.copy_from_slice(&self.0[$at..$at + size_of::<$type>()]);
            <$type>::from_be_bytes(bytes)
        })*
    };
}

impl<'a> Batch<'a> {
    header_fields! {
        /// Offset of the first record when the batch was written; compaction may have removed that record.
        base_offset: i64 = 0;
        /// Epoch of the leader that appended the batch.
        leader_epoch: i32 = 12;
        /// CRC-32C in the header.
        crc: u32 = 17;
        /// Codec, timestamp type, transactional, control, delete horizon.
        attributes: i16 = 21;
        /// Last offset minus base offset.
        last_offset_delta: i32 = 23;
        /// What record timestamps are relative to.
        base_timestamp: i64 = 27;
        /// Largest timestamp of the batch; the append time where the timestamp type says so.
        max_timestamp: i64 = 35;
        /// Producer id, -1 without one.
        producer_id: i64 = 43;
        /// Producer epoch.
        producer_epoch: i16 = 51;
        /// Sequence of the first record.
        base_sequence: i32 = 53;
        /// Number of records in the batch.
        record_count: i32 = 57;
    }

    /// The batch at the start of `data`; `None` where `data` ends before the batch does (a Fetch answer may end in a part of one).
    ///
    /// # Errors
    /// [`BatchError`] when it is no batch of magic 2.
    pub fn first(data: &'a [u8]) -> Result<Option<Self>, BatchError> {
        let header = Self::header(data)?;
        Ok(header.and_then(|(_, length)| data.get(..length).map(Self)))
    }

    /// The header at the start of `data`, good only for its fields, and the length of the whole batch; `None` where `data` ends
    /// before the header does.
    ///
    /// # Errors
    /// [`BatchError`] when it is no batch of magic 2.
    pub fn header(data: &'a [u8]) -> Result<Option<(Self, usize)>, BatchError> {
        // Magic stands at the same place in every message format.
        let Some(head) = data.get(..CRC_START) else {
            return Ok(None);
        };
        let base_offset = i64::from_be_bytes(head[..8].try_into().expect("8 bytes"));
        let length = i32::from_be_bytes(head[8..12].try_into().expect("4 bytes"));
        let magic = head[16];
        if magic != 2 {
            return Err(BatchError::OldFormat { base_offset, magic });
        }
        let malformed = |reason| BatchError::Malformed {
            base_offset,
            reason,
        };
        let length =
            usize::try_from(length).map_err(|_| malformed("negative length"))? + LENGTH_PREFIX;
        if length < HEADER_LEN {
            return Err(malformed("shorter than its header"));
        }
        let Some(bytes) = data.get(..HEADER_LEN) else {
            return Ok(None);
        };
        let header = Self(bytes);
        if header.record_count() < 0 || header.last_offset_delta() < 0 {
            return Err(malformed("negative record count or last offset delta"));
        }
        // The end is at most one above the last offset.
        let last = base_offset.checked_add(i64::from(header.last_offset_delta()));
        if base_offset < 0 || last.is_none_or(|last| last == i64::MAX) {
            return Err(malformed("offsets out of range"));
        }
        Ok(Some((header, length)))
    }

    /// The bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The records, encoded with [`codec_id`](Self::codec_id).
    pub fn payload(&self) -> &'a [u8] {
        &self.0[HEADER_LEN..]
    }

    /// Offset after the last one that the batch covers.
    pub fn end_offset(&self) -> i64 {
        self.base_offset() + i64::from(self.last_offset_delta()) + 1
    }

    /// Kafka's number of the compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec_id(&self) -> u8 {
        (self.attributes() & ATTR_CODEC) as u8
    }

    /// Whether the max timestamp is the append time and holds for every record.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes() & ATTR_LOG_APPEND_TIME != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes() & ATTR_TRANSACTIONAL != 0
    }

    /// Whether it holds a commit or abort marker instead of records.
    pub fn is_control(&self) -> bool {
        self.attributes() & ATTR_CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon.
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes() & ATTR_DELETE_HORIZON != 0
    }

    /// Checks the CRC.
    ///
    /// # Errors
    /// [`BatchError::Crc`].
    pub fn verify_crc(&self) -> Result<(), BatchError> {
        let found = crc::of(&self.0[CRC_COVERED..]);
        if found == self.crc() {
            return Ok(());
        }
        Err(BatchError::Crc {
            base_offset: self.base_offset(),
            expected: self.crc(),
            found,
        })
    }
}

/// Walks whole batches; ends before a partial one at the end.
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    data: &'a [u8],
    position: usize,
}

impl<'a> Batches<'a> {
    /// Walks `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, position: 0 }
    }

    /// Bytes walked so far: where the next batch begins, or where a partial one does.
    pub fn position(&self) -> usize {
        self.position
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        match Batch::first(&self.data[self.position..]).transpose()? {
            Ok(batch) => {
                self.position += batch.bytes().len();
                Some(Ok(batch))
            }
            Err(error) => {
                self.position = self.data.len();
                Some(Err(error))
            }
        }
    }
}

/// Sets the base offset; not covered by the CRC. Brokers want 0 in a Produce request.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) {
    batch[..8].copy_from_slice(&base_offset.to_be_bytes());
}

/// Sets the attributes. [`seal`] afterwards.
pub fn set_attributes(batch: &mut [u8], attributes: i16) {
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
}

/// Sets who produced the batch and its place in the producer's sequence. [`seal`] afterwards.
pub fn set_producer(batch: &mut [u8], id: i64, epoch: i16, base_sequence: i32) {
    batch[43..51].copy_from_slice(&id.to_be_bytes());
    batch[51..53].copy_from_slice(&epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&base_sequence.to_be_bytes());
}

/// Sets what a header says of the records behind it: bytes of the payload, last offset minus base offset, largest timestamp,
/// count. [`seal`] afterwards.
///
/// # Panics
/// The payload has 2 GiB or more.
pub fn set_records(
    header: &mut [u8],
    payload_len: usize,
    last_offset_delta: i32,
    max_timestamp: i64,
    record_count: i32,
) {
    let length = i32::try_from(HEADER_LEN - LENGTH_PREFIX + payload_len)
        .expect("a batch is far below 2 GiB");
    header[8..12].copy_from_slice(&length.to_be_bytes());
    header[23..27].copy_from_slice(&last_offset_delta.to_be_bytes());
    header[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    header[57..61].copy_from_slice(&record_count.to_be_bytes());
}

/// Writes the CRC of a batch that was changed.
pub fn seal(batch: &mut [u8]) {
    let crc = crc::of(&batch[CRC_COVERED..]);
    batch[CRC_START..CRC_COVERED].copy_from_slice(&crc.to_be_bytes());
}

/// The attributes that a batch keeps when it is written elsewhere: its codec. Timestamp type, transaction, control and delete
/// horizon belong to the log it came from.
pub fn portable_attributes(attributes: i16) -> i16 {
    attributes & ATTR_CODEC
}

/// The attributes that records keep when they are encoded with another codec in the same log: timestamp type and
/// transactional. Batches that differ in them are not joined.
pub fn lasting_attributes(attributes: i16) -> i16 {
    attributes & (ATTR_LOG_APPEND_TIME | ATTR_TRANSACTIONAL)
}

/// A batch header for `payload` of `record_count` records, numbered from 0 without holes, sealed.
///
/// Producer id, epoch and sequence are -1, the leader epoch too.
pub fn build(
    codec_id: u8,
    base_timestamp: i64,
    max_timestamp: i64,
    record_count: i32,
    payload: &[u8],
) -> Vec<u8> {
    let mut batch = Vec::with_capacity(HEADER_LEN + payload.len());
    let length = i32::try_from(HEADER_LEN - LENGTH_PREFIX + payload.len())
        .expect("a batch is far below 2 GiB");
    batch.extend_from_slice(&0i64.to_be_bytes());
    batch.extend_from_slice(&length.to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&i16::from(codec_id).to_be_bytes());
    batch.extend_from_slice(&(record_count - 1).to_be_bytes());
    batch.extend_from_slice(&base_timestamp.to_be_bytes());
    batch.extend_from_slice(&max_timestamp.to_be_bytes());
    batch.extend_from_slice(&(-1i64).to_be_bytes());
    batch.extend_from_slice(&(-1i16).to_be_bytes());
    batch.extend_from_slice(&(-1i32).to_be_bytes());
    batch.extend_from_slice(&record_count.to_be_bytes());
    batch.extend_from_slice(payload);
    seal(&mut batch);
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut data = Vec::new();
        for (base, payload) in [(0, &b"aa"[..]), (5, b""), (7, b"cccc")] {
            let mut batch = build(0, 10, 20, 2, payload);
            set_base_offset(&mut batch, base);
            data.extend_from_slice(&batch);
        }
        data
    }

    #[test]
    fn batches_are_walked_up_to_a_partial_one() {
        let data = three();
        for cut in 0..=data.len() {
            let mut walk = Batches::new(&data[..cut]);
            let offsets: Vec<i64> = walk.by_ref().map(|b| b.unwrap().base_offset()).collect();
            let whole = [63, 61, 65]
                .iter()
                .scan(0, |sum, n| {
                    *sum += n;
                    Some(*sum)
                })
                .filter(|end| *end <= cut)
                .count();
            assert_eq!(offsets, [0, 5, 7][..whole], "cut at {cut}");
        }
    }

    #[test]
    fn header_fields_read_back() {
        let mut data = build(4, 10, 20, 2, b"xyz");
        set_base_offset(&mut data, 100);
        set_producer(&mut data, 7, 8, 9);
        seal(&mut data);
        let batch = Batch::first(&data).unwrap().unwrap();
        assert_eq!(
            (
                batch.base_offset(),
                batch.end_offset(),
                batch.record_count()
            ),
            (100, 102, 2)
        );
        assert_eq!(
            (
                batch.producer_id(),
                batch.producer_epoch(),
                batch.base_sequence()
            ),
            (7, 8, 9)
        );
        assert_eq!(
            (batch.codec_id(), batch.max_timestamp(), batch.payload()),
            (4, 20, &b"xyz"[..])
        );
        batch.verify_crc().unwrap();
    }

    #[test]
    fn a_flipped_bit_fails_the_crc() {
        let mut data = build(0, 10, 20, 2, b"xyz");
        for at in CRC_COVERED..data.len() {
            if (23..27).contains(&at) || (57..61).contains(&at) {
                continue; // a negative count is refused before the CRC
            }
            data[at] ^= 0x80;
            let error = Batch::first(&data)
                .unwrap()
                .unwrap()
                .verify_crc()
                .unwrap_err();
            assert!(matches!(error, BatchError::Crc { .. }), "byte {at}");
            data[at] ^= 0x80;
        }
    }

    #[test]
    fn old_formats_are_named() {
        let mut data = build(0, 10, 20, 2, b"xyz");
        data[16] = 1;
        assert!(matches!(
            Batch::first(&data),
            Err(BatchError::OldFormat { magic: 1, .. })
        ));
    }
}
