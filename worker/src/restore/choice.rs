//! Which records of a partition are sent, to which target partition, and with which headers: pure functions of a record.
//!
//! # Guarantees
//! - A record with a key goes where Kafka's own producers put it: `Utils.toPositive(Utils.murmur2(key)) % partitions`
//!   (`BuiltInPartitioner.partitionForKey`). One without a key goes to its source partition modulo that number.
//! - Added headers come last and leave those that are there as they are.

use std::sync::Arc;

use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::join::JOIN_MAX;
use kafka_backup_shared::archive::record::{Record, read_varint, write_varint};
use kafka_backup_shared::spec::TimeRange;

/// Header with the name of the source topic.
pub(crate) const ORIGINAL_TOPIC: &str = "x-original-topic";
/// Header with the number of the source partition, in decimal digits.
pub(crate) const ORIGINAL_PARTITION: &str = "x-original-partition";
/// Header with the source offset, in decimal digits.
pub(crate) const ORIGINAL_OFFSET: &str = "x-original-offset";
/// Header with the source timestamp: milliseconds, in decimal digits; -1 for none.
const ORIGINAL_TIMESTAMP: &str = "x-original-timestamp";
/// Header with the name of the source cluster.
pub(crate) const SOURCE_CLUSTER: &str = "x-source-cluster";

/// How large a batch may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Joined batches.
    pub(super) join: usize,
    /// Any batch; the target's `max.message.bytes`.
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

/// Which records of a topic are sent, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// How large batches may become.
    pub(super) limits: Limits,
    /// Which timestamps.
    pub(super) time: TimeRange,
    /// Number of target partitions among which records are dealt out by key; `None`: a source partition is one target partition.
    pub(super) by_key: Option<u32>,
    /// Headers that each record gets.
    pub(super) provenance: Option<Provenance>,
}

/// What headers tell of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Provenance {
    /// Name of the source cluster.
    pub(crate) cluster: Arc<str>,
    /// Name of the source topic.
    pub(crate) topic: Arc<str>,
}

/// Part of a source partition on its way into a target partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// The source partition.
    pub(super) source: i32,
    /// The source offsets that count.
    pub(super) range: OffsetRange,
    /// The target partition.
    pub(super) target: i32,
}

impl Choice {
    /// Whether records may be left out or changed although their offsets count.
    pub(super) fn looks_at_records(&self) -> bool {
        self.by_key.is_some() || self.provenance.is_some()
    }

    /// Target partition of a record that source partition `source` had.
    ///
    /// `None`: its key cannot be read.
    pub(super) fn target_of(&self, record: &Record, source: i32) -> Option<i32> {
        let Some(partitions) = self.by_key else {
            return Some(source);
        };
        let mut body = &record.body[..];
        let number = match usize::try_from(read_varint(&mut body)?) {
            Ok(length) => murmur2(body.get(..length)?) & 0x7fff_ffff,
            // -1 is null.
            Err(_) => source.unsigned_abs(),
        };
        i32::try_from(number % partitions.max(1)).ok()
    }
}

impl Provenance {
    /// The record's key, value and headers with ours behind them; `None` where they cannot be read.
    pub(crate) fn add_to(&self, record: &Record, partition: i32) -> Option<Vec<u8>> {
        let mut rest = &record.body[..];
        for _ in ["key", "value"] {
            if let Ok(length) = usize::try_from(read_varint(&mut rest)?) {
                rest = rest.get(length..)?;
            }
        }
        let before = record.body.len() - rest.len();
        let count = read_varint(&mut rest)?;
        let headers: [(&str, &str); 5] = [
            (ORIGINAL_TOPIC, &self.topic),
            (ORIGINAL_PARTITION, &partition.to_string()),
            (ORIGINAL_OFFSET, &record.offset.to_string()),
            (ORIGINAL_TIMESTAMP, &record.timestamp.to_string()),
            (SOURCE_CLUSTER, &self.cluster),
        ];
        let mut body = Vec::with_capacity(record.body.len() + 400);
        body.extend_from_slice(&record.body[..before]);
        write_varint(&mut body, count.checked_add(headers.len() as i64)?);
        body.extend_from_slice(rest);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            write_varint(&mut body, text.len() as i64);
            body.extend_from_slice(text.as_bytes());
        }
        Some(body)
    }
}

/// Kafka's hash of a key (`org.apache.kafka.common.utils.Utils.murmur2`), a MurmurHash2 of 32 bits.
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&[u8]>, headers: &[u8]) -> Record {
        let mut body = Vec::new();
        write_varint(&mut body, key.map_or(-1, |key| key.len() as i64));
        body.extend_from_slice(key.unwrap_or_default());
        write_varint(&mut body, -1);
        body.extend_from_slice(headers);
        Record {
            offset: 41,
            timestamp: -1,
            body,
        }
    }

    fn by_key(partitions: u32) -> Choice {
        Choice {
            limits: Limits::new(1),
            time: TimeRange::default(),
            by_key: Some(partitions),
            provenance: None,
        }
    }

    /// The values of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn the_hash_is_kafkas() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            (
                "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8",
                -58_897_971,
            ),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_record_without_key_keeps_to_its_partition() {
        let choice = by_key(3);
        assert_eq!(choice.target_of(&record(None, &[0]), 7), Some(1));
        let empty = choice.target_of(&record(Some(b""), &[0]), 7);
        assert_eq!(empty, Some(((murmur2(b"") & 0x7fff_ffff) % 3) as i32));
        let foobar = choice.target_of(&record(Some(b"foobar"), &[0]), 7);
        assert_eq!(foobar, Some((-790_332_482i32 & 0x7fff_ffff) % 3));
        let cut = Record {
            body: vec![20],
            ..record(None, &[])
        };
        assert_eq!(choice.target_of(&cut, 7), None);
    }

    #[test]
    fn our_headers_come_last() {
        let provenance = Provenance {
            cluster: "lab".into(),
            topic: "t".into(),
        };
        // One header: the key "h", a null value.
        let record = record(Some(b"k"), &[2, 2, b'h', 1]);
        let body = provenance.add_to(&record, 5).unwrap();
        let (before, after) = body.split_at(3);
        assert_eq!(before, [2, b'k', 1]);
        assert_eq!(after[..4], [12, 2, b'h', 1]);
        let ours: Vec<u8> = [
            ("x-original-topic", "t"),
            ("x-original-partition", "5"),
            ("x-original-offset", "41"),
            ("x-original-timestamp", "-1"),
            ("x-source-cluster", "lab"),
        ]
        .iter()
        .flat_map(|(name, value)| {
            let mut bytes = vec![name.len() as u8 * 2];
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(value.len() as u8 * 2);
            bytes.extend_from_slice(value.as_bytes());
            bytes
        })
        .collect();
        assert_eq!(after[4..], ours);
    }
}
