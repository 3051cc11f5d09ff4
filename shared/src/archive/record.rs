//! Records inside a batch, decoded only where a feature forces it: cut ranges, append times, holes of compaction, joins.
//!
//! A record (KIP-82, `DefaultRecord`) is: length varint, attributes i8, timestamp delta varlong, offset delta varint, key
//! length varint (-1 null) and key, value likewise, header count varint, then key and value of each header. Varints are zigzag.

use std::io;

use super::batch::{self, Batch};
use super::codec::Codec;

/// Bytes that a batch may decode to: more than producers put into one, less than a bomb would take.
pub const DECODED_MAX: usize = 256 << 20;

/// A record of a batch; what stands between its deltas and its end is kept as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Offset in the source partition.
    pub offset: i64,
    /// Timestamp in ms: its own, or the batch's append time.
    pub timestamp: i64,
    /// Key, value and headers as they are encoded.
    pub body: Vec<u8>,
}

/// Bytes that are not the records that their batch announces.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The codec is unknown.
    #[error("unknown compression codec {id}")]
    Codec {
        /// Its number.
        id: u8,
    },
    /// The payload does not decompress.
    #[error("failed to decompress records")]
    Decompress(#[source] io::Error),
    /// A varint, length or count is wrong.
    #[error("malformed record {index}")]
    Malformed {
        /// Place in the batch.
        index: i32,
    },
}

/// Decodes the records of a batch.
///
/// # Errors
/// [`RecordError`] when the payload is not `record_count` records.
pub fn decode(batch: &Batch<'_>) -> Result<Vec<Record>, RecordError> {
    let id = batch.codec_id();
    let codec = Codec::from_id(id).ok_or(RecordError::Codec { id })?;
    let payload = codec
        .decompress(batch.payload(), DECODED_MAX)
        .map_err(RecordError::Decompress)?;
    let mut records = Vec::new();
    let mut rest = &payload[..];
    for index in 0..batch.record_count() {
        let record = decode_one(batch, &mut rest).ok_or(RecordError::Malformed { index })?;
        records.push(record);
    }
    if !rest.is_empty() {
        return Err(RecordError::Malformed {
            index: batch.record_count(),
        });
    }
    Ok(records)
}

fn decode_one(batch: &Batch<'_>, rest: &mut &[u8]) -> Option<Record> {
    let length = usize::try_from(read_varint(rest)?).ok()?;
    let mut record = rest.get(..length)?;
    *rest = &rest[length..];
    let (_attributes, tail) = record.split_first()?;
    record = tail;
    let timestamp_delta = read_varint(&mut record)?;
    let offset_delta = read_varint(&mut record)?;
    let timestamp = if batch.is_log_append_time() {
        batch.max_timestamp()
    } else {
        batch.base_timestamp().wrapping_add(timestamp_delta)
    };
    Some(Record {
        offset: batch.base_offset().checked_add(offset_delta)?,
        timestamp,
        body: record.to_vec(),
    })
}

/// Encodes records into one batch: create time, offsets numbered from 0 without holes, sealed.
///
/// # Errors
/// As [`Codec::compress`].
pub fn encode(records: &[Record], codec: Codec) -> io::Result<Vec<u8>> {
    let base_timestamp = records.first().map_or(-1, |record| record.timestamp);
    let max_timestamp = records
        .iter()
        .map(|record| record.timestamp)
        .max()
        .unwrap_or(-1);
    let mut payload = Vec::with_capacity(records.iter().map(|record| record.body.len() + 16).sum());
    for (index, record) in records.iter().enumerate() {
        let delta = record.timestamp.wrapping_sub(base_timestamp);
        write_record(&mut payload, delta, index as i64, &record.body);
    }
    let payload = codec.compress(&payload)?;
    let count = i32::try_from(records.len()).map_err(io::Error::other)?;
    Ok(batch::build(
        codec.id(),
        base_timestamp,
        max_timestamp,
        count,
        &payload,
    ))
}

/// Appends one record with its length and deltas.
pub fn write_record(out: &mut Vec<u8>, timestamp_delta: i64, offset_delta: i64, body: &[u8]) {
    let mut deltas = Vec::with_capacity(21);
    deltas.push(0);
    write_varint(&mut deltas, timestamp_delta);
    write_varint(&mut deltas, offset_delta);
    write_varint(out, (deltas.len() + body.len()) as i64);
    out.extend_from_slice(&deltas);
    out.extend_from_slice(body);
}

/// Takes a zigzag varint off the front; `None` where there is none within 10 bytes.
pub fn read_varint(data: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (index, byte) in data.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index as u32);
        if byte & 0x80 == 0 {
            *data = &data[index + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Appends a zigzag varint.
pub fn write_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let record = (any::<i64>(), prop::collection::vec(any::<u8>(), 0..60));
        prop::collection::vec(record, 1..40).prop_map(|all| {
            all.into_iter()
                .enumerate()
                .map(|(index, (timestamp, body))| Record {
                    offset: index as i64,
                    timestamp,
                    body,
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn varints_round_trip(value in any::<i64>()) {
            let mut out = Vec::new();
            write_varint(&mut out, value);
            let mut rest = &out[..];
            prop_assert_eq!(read_varint(&mut rest), Some(value));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn records_round_trip_in_every_codec(records in records(), codec in 0u8..5) {
            let codec = Codec::from_id(codec).unwrap();
            let bytes = encode(&records, codec).unwrap();
            let batch = Batch::first(&bytes).unwrap().unwrap();
            batch.verify_crc().unwrap();
            prop_assert_eq!(batch.record_count() as usize, records.len());
            prop_assert_eq!(batch.end_offset(), records.len() as i64);
            prop_assert_eq!(decode(&batch).unwrap(), records);
        }

        #[test]
        fn garbage_is_an_error_and_never_a_panic(payload in prop::collection::vec(any::<u8>(), 0..80), codec in 0u8..8, count in 0..9i32) {
            let bytes = batch::build(codec, 0, 0, count.max(1), &payload);
            let batch = Batch::first(&bytes).unwrap().unwrap();
            let _outcome = decode(&batch);
        }
    }

    #[test]
    fn append_time_holds_for_every_record() {
        let mut bytes = encode(
            &[Record {
                offset: 0,
                timestamp: 5,
                body: vec![1],
            }],
            Codec::None,
        )
        .unwrap();
        batch::set_attributes(&mut bytes, 0x08);
        bytes[35..43].copy_from_slice(&99i64.to_be_bytes());
        let batch = Batch::first(&bytes).unwrap().unwrap();
        assert_eq!(decode(&batch).unwrap()[0].timestamp, 99);
    }
}
