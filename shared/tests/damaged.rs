//! 10,000 damaged segments, manifests and keys, always the same ones: each is refused by name or read as it was, nothing panics, and
//! no announced size is believed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::io::Write;

use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::batch::{self, Batch, Batches, HEADER_LEN, LENGTH_PREFIX};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId};
use kafka_backup_shared::archive::manifest::{
    ConfigValue, Gap, GapReason, PinnedPartition, TopicDescription, TopicPart, from_json,
    from_json_zst, to_json, to_json_zst,
};
use kafka_backup_shared::archive::record::{self, DECODED_MAX, Record};
use kafka_backup_shared::plan::ArchiveName;

/// Of each kind.
const CASES: u64 = 2500;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Bytes with something wrong.
    fn damage(&mut self, good: &[u8]) -> Vec<u8> {
        let mut bytes = good.to_vec();
        let at = self.below(bytes.len());
        let length = self.below((bytes.len() - at).min(40)) + 1;
        match self.below(7) {
            0 => bytes[at] ^= 1 << (self.next() % 8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let again = bytes[at..at + length].to_vec();
                drop(bytes.splice(at..at, again));
            }
            4 => bytes[at..at + length].fill_with(|| self.next() as u8),
            5 => bytes[at..at + length].fill(0xff),
            // Where a batch begins and where a number does: as large as it can be.
            _ => drop(bytes.splice(0..8.min(bytes.len()), i64::MAX.to_be_bytes())),
        }
        bytes
    }
}

fn good_batches() -> Vec<Vec<u8>> {
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let mut base = 0;
    let batches = codecs.iter().cycle().take(10).map(|codec| {
        let records: Vec<Record> = (0..7)
            .map(|offset| {
                // key, value, no headers
                let mut body = Vec::new();
                record::write_varint(&mut body, 3);
                body.extend_from_slice(b"key");
                record::write_varint(&mut body, 50);
                body.extend(std::iter::repeat_n(offset as u8, 50));
                record::write_varint(&mut body, 0);
                Record {
                    offset,
                    timestamp: 1_700_000_000_000 + offset,
                    body,
                }
            })
            .collect();
        let mut bytes = record::encode(&records, *codec).unwrap();
        batch::set_base_offset(&mut bytes, base);
        base += 7;
        bytes
    });
    batches.collect()
}

/// What the CRC of a batch covers.
fn covered(batch: &[u8]) -> &[u8] {
    &batch[21..]
}

#[test]
fn a_damaged_segment_is_an_error_or_as_it_was() {
    let mut random = Random(1);
    let batches = good_batches();
    let good = batches.concat();
    let (mut refused, mut read) = (0, 0);
    for case in 0..CASES {
        let damaged = random.damage(&good);
        for batch in Batches::new(&damaged) {
            match batch.and_then(|batch| batch.verify_crc().map(|()| batch)) {
                Ok(batch) => {
                    assert!(batch.end_offset() > batch.base_offset());
                    let same = |good: &Vec<u8>| covered(good) == covered(batch.bytes());
                    assert!(batches.iter().any(same), "case {case}");
                    assert_eq!(record::decode(&batch).unwrap().len(), 7, "case {case}");
                    read += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("offset"), "{error}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 500 && read > 5000, "{refused} {read}");
}

/// As if somebody had meant it: the CRC is right.
#[test]
fn a_sealed_batch_of_nonsense_is_refused() {
    let mut random = Random(2);
    let batches = good_batches();
    let mut refused = 0;
    for _ in 0..CASES {
        let which = random.below(batches.len());
        let mut bytes = random.damage(&batches[which]);
        if bytes.len() < HEADER_LEN {
            continue;
        }
        let length = (bytes.len() - LENGTH_PREFIX) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[16] = 2;
        if random.below(4) == 0 {
            bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        }
        batch::seal(&mut bytes);
        let Ok(Some(batch)) = Batch::first(&bytes) else {
            refused += 1;
            continue;
        };
        batch.verify_crc().unwrap();
        refused += u64::from(record::decode(&batch).is_err());
    }
    assert!(refused > CASES / 3, "{refused}");
}

fn part() -> TopicPart {
    let segment = |start: i64| SegmentName {
        start,
        end: start + 100,
        leader_epoch: 3,
        records: 100,
        max_timestamp: 1_700_000_000_000 + start,
        crc32c: (start as u32).wrapping_mul(2_654_435_761),
    };
    let value = ConfigValue {
        value: Some("delete".into()),
        source: 5,
    };
    let partition = |partition| PinnedPartition {
        partition,
        log_start: 10,
        end: 1990,
        high_watermark: 2000,
        generation: "orders-20260102-030405".into(),
        segments: (0..20).map(|n| segment(n * 100)).collect(),
        gaps: vec![Gap {
            range: OffsetRange { start: 3, end: 10 },
            reason: GapReason::LogStartMoved,
        }],
    };
    TopicPart {
        format_version: FORMAT_VERSION,
        topic: "orders".into(),
        description: TopicDescription {
            topic_id: TopicId([7; 16]),
            replication_factor: 3,
            configs: BTreeMap::from([("cleanup.policy".into(), value)]),
        },
        partitions: (0..4).map(partition).collect(),
    }
}

#[test]
fn a_damaged_part_or_manifest_is_named() {
    const KEY: &str = "shop/orders/runs/r/orders.json";
    let mut random = Random(3);
    let good = part();
    let (json, packed) = (to_json(&good), to_json_zst(&good));
    let (mut refused, mut other) = (0, 0);
    for case in 0..CASES {
        let read = match case % 2 {
            0 => from_json::<TopicPart>(KEY, &random.damage(&json)),
            _ => from_json_zst::<TopicPart>(KEY, &random.damage(&packed)),
        };
        match read {
            Ok(part) => {
                // A digit may be another one; what it says must still be something that can be asked.
                other += u64::from(part != good);
                for partition in &part.partitions {
                    for link in partition.links() {
                        assert!(!link.range.is_empty());
                    }
                }
            }
            Err(error) => {
                assert!(error.to_string().contains(KEY), "{error}");
                refused += 1;
            }
        }
    }
    assert!(refused > CASES / 2 && other > 0, "{refused} {other}");
}

#[test]
fn a_damaged_key_names_nothing_else() {
    let mut random = Random(4);
    let layout = Layout::new(&ArchiveName {
        namespace: "shop".into(),
        name: "orders".into(),
    });
    let chain = ChainKey {
        topic: "größe.1".into(),
        topic_id: TopicId([0xab; 16]),
        partition: 3,
        generation: "orders-20260102-030405".into(),
    };
    let name = part().partitions[0].segments[4];
    let good = layout.segment(&chain, &name);
    let mut refused = 0;
    for _ in 0..CASES {
        let damaged = random.damage(good.as_bytes());
        let damaged = String::from_utf8_lossy(&damaged);
        match layout.parse_segment(&damaged) {
            Ok((chain, name)) => assert_eq!(layout.segment(&chain, &name), damaged),
            Err(error) => {
                assert_eq!(error.key, damaged);
                refused += 1;
            }
        }
        drop(layout.parse_run(&damaged));
    }
    assert!(refused > CASES / 2, "{refused}");
}

#[test]
fn a_bomb_takes_no_more_memory_than_its_limit() {
    let zeros = vec![0u8; 1 << 20];
    let count = DECODED_MAX / zeros.len() + 10;
    let mut packed = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..count {
        packed.write_all(&zeros).unwrap();
    }
    let packed = packed.finish().unwrap();
    let error = from_json_zst::<TopicPart>("a/part", &packed).unwrap_err();
    assert!(error.to_string().contains("a/part"), "{error}");

    let gzip = Codec::Gzip.compress(&zeros).unwrap().repeat(count);
    // A block that announces 200 MB, which are below the limit.
    let mut snappy = vec![0x80, 0x84, 0xaf, 0x5f];
    snappy.extend_from_slice(&[0; 20]);
    let mut xerial = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    xerial.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    let cases = [
        (Codec::Zstd, packed),
        (Codec::Gzip, gzip),
        (Codec::Snappy, snappy),
        (Codec::Snappy, xerial),
        (Codec::Lz4, vec![0x04, 0x22, 0x4d, 0x18, 0x7c, 0xff, 0xff]),
    ];
    for (codec, payload) in cases {
        let bytes = batch::build(codec.id(), 0, 0, i32::MAX, &payload);
        let batch = Batch::first(&bytes).unwrap().unwrap();
        let error = record::decode(&batch).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .unwrap();
    let peak = peak.parse::<usize>().unwrap() << 10;
    // A buffer that grows is there twice for a moment.
    assert!(peak < 3 * DECODED_MAX, "{} MiB", peak >> 20);
}
