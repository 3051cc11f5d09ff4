use super::super::choice::Limits;
use super::*;
use kafka_backup_shared::archive::join::JOIN_MAX;
use kafka_backup_shared::spec::TimeRange;
use proptest::prelude::*;

const PRODUCER: ProducerId = ProducerId { id: 77, epoch: 3 };
const WIDE: OffsetRange = OffsetRange {
    start: 0,
    end: i64::MAX,
};

fn body(text: &str) -> Vec<u8> {
    // A null key, a value, no headers.
    let mut body = vec![1];
    record::write_varint(&mut body, text.len() as i64);
    body.extend_from_slice(text.as_bytes());
    body.push(0);
    body
}

/// A source batch: record offsets relative to its base, and what its header says.
#[derive(Clone, Debug)]
struct Source {
    gap: i64,
    /// Distance of each record to the one before it; above 1 where the cleaner took records out.
    steps: Vec<i64>,
    tail: i64,
    timestamps: Vec<i64>,
    codec: u8,
    epoch: i32,
    append_time: bool,
    control: bool,
    length: usize,
}

/// The segment, and its records as a consumer of the source would see them.
fn segment(sources: &[Source]) -> (Bytes, Vec<Record>) {
    let (mut bytes, mut seen, mut at) = (Vec::new(), Vec::new(), 0i64);
    for source in sources {
        let base = at + source.gap;
        let mut offset = base - 1;
        let mut payload = Vec::new();
        let base_timestamp = source.timestamps.first().copied().unwrap_or(-1);
        let max_timestamp = source.timestamps[..source.steps.len()]
            .iter()
            .copied()
            .max()
            .unwrap_or(-1);
        for (step, timestamp) in source.steps.iter().zip(&source.timestamps) {
            offset += step;
            let body = body(&format!("{offset}").repeat(source.length));
            record::write_record(
                &mut payload,
                timestamp.wrapping_sub(base_timestamp),
                offset - base,
                &body,
            );
            let timestamp = if source.append_time {
                max_timestamp
            } else {
                *timestamp
            };
            if !source.control {
                seen.push(Record {
                    offset,
                    timestamp,
                    body,
                });
            }
        }
        let payload = Codec::from_id(source.codec)
            .unwrap()
            .compress(&payload)
            .unwrap();
        let count = source.steps.len() as i32;
        let mut batch = batch::build(source.codec, base_timestamp, max_timestamp, count, &payload);
        let last_offset_delta = (offset - base).max(0) + source.tail;
        batch[23..27].copy_from_slice(&(last_offset_delta as i32).to_be_bytes());
        batch[12..16].copy_from_slice(&source.epoch.to_be_bytes());
        let attributes = i16::from(source.codec)
            | if source.append_time { 0x08 } else { 0 }
            | if source.control { 0x20 } else { 0 }
            | 0x10;
        batch::set_attributes(&mut batch, attributes);
        batch::set_base_offset(&mut batch, base);
        batch::set_producer(&mut batch, 5, 6, 7);
        batch::seal(&mut batch);
        bytes.extend_from_slice(&batch);
        at = base + last_offset_delta + 1;
    }
    (bytes.into(), seen)
}

fn plain(timestamps: &[i64]) -> Source {
    Source {
        gap: 0,
        steps: vec![1; timestamps.len()],
        tail: 0,
        timestamps: timestamps.to_vec(),
        codec: 0,
        epoch: 4,
        append_time: false,
        control: false,
        length: 1,
    }
}

fn limits(join: usize) -> Limits {
    Limits {
        join,
        encode: 1 << 20,
    }
}

fn choice(limits: Limits) -> Choice {
    Choice {
        limits,
        time: TimeRange::default(),
        by_key: None,
        provenance: None,
    }
}

fn outgoings(segment: Bytes, range: OffsetRange, choice: &Choice) -> Outgoings {
    let section = Section {
        source: 0,
        range,
        target: 0,
    };
    let mut outgoings = Outgoings::new(section, Arc::new(choice.clone()), Buffers::default());
    outgoings.feed(segment, true);
    outgoings
}

fn sent(segment: &Bytes, range: OffsetRange, limits: Limits) -> Vec<Outgoing> {
    outgoings(segment.clone(), range, &choice(limits))
        .collect::<Result<_, _>>()
        .unwrap()
}

/// What a broker would have stored, numbered from 0.
fn received(outgoings: &[Outgoing]) -> Vec<Record> {
    let mut records = Vec::new();
    for outgoing in outgoings {
        let bytes = outgoing.seal(PRODUCER, 9).concat();
        assert_eq!(bytes.len(), outgoing.size());
        let batch = Batch::first(&bytes).unwrap().unwrap();
        batch.verify_crc().unwrap();
        assert_eq!(batch.bytes().len(), bytes.len());
        assert_eq!((batch.base_offset(), batch.leader_epoch()), (0, -1));
        assert_eq!(
            (
                batch.producer_id(),
                batch.producer_epoch(),
                batch.base_sequence()
            ),
            (77, 3, 9)
        );
        assert_eq!(
            batch.attributes(),
            i16::from(batch.codec_id()),
            "only the codec is kept"
        );
        assert_eq!(
            batch.last_offset_delta() + 1,
            batch.record_count(),
            "brokers refuse holes"
        );
        assert_eq!(
            outgoing.records(),
            u64::from(batch.record_count().unsigned_abs())
        );
        let decoded = decode(&batch).unwrap();
        assert!(
            decoded
                .iter()
                .enumerate()
                .all(|(index, record)| record.offset == index as i64)
        );
        assert_eq!(
            decoded.iter().map(|r| r.timestamp).max(),
            Some(batch.max_timestamp())
        );
        let base = records.len() as i64;
        records.extend(decoded.into_iter().map(|r| Record {
            offset: base + r.offset,
            ..r
        }));
    }
    records
}

fn renumbered(records: &[Record]) -> Vec<Record> {
    let number = |(index, record): (usize, &Record)| Record {
        offset: index as i64,
        ..record.clone()
    };
    records.iter().enumerate().map(number).collect()
}

fn within(records: &[Record], range: OffsetRange) -> Vec<Record> {
    let inside = |record: &&Record| (range.start..range.end).contains(&record.offset);
    records.iter().filter(inside).cloned().collect()
}

#[test]
fn a_compressed_batch_keeps_its_payload() {
    let source = Source {
        codec: 4,
        ..plain(&[10, 20])
    };
    let (bytes, records) = segment(&[source]);
    let out = sent(&bytes, WIDE, limits(JOIN_MAX));
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].seal(PRODUCER, 9)[1], bytes.slice(HEADER_LEN..));
    assert_eq!(received(&out), renumbered(&records));
}

#[test]
fn plain_neighbours_of_one_epoch_are_joined() {
    let (bytes, records) = segment(&[plain(&[10, 20]), plain(&[5, 5_000_000]), plain(&[-1])]);
    let out = sent(&bytes, WIDE, limits(JOIN_MAX));
    assert_eq!(out.iter().map(Outgoing::records).collect::<Vec<_>>(), [5]);
    assert_eq!(received(&out), renumbered(&records));
    assert_eq!(out[0].source_bytes, bytes.len() as u64);
}

#[test]
fn epochs_codecs_and_sizes_part_batches() {
    let other_epoch = Source {
        epoch: 5,
        ..plain(&[1])
    };
    let (bytes, _) = segment(&[
        plain(&[1]),
        plain(&[1]),
        other_epoch.clone(),
        other_epoch.clone(),
    ]);
    assert_eq!(
        sent(&bytes, WIDE, limits(JOIN_MAX))
            .iter()
            .map(Outgoing::records)
            .collect::<Vec<_>>(),
        [2, 2]
    );
    let lz4 = Source {
        codec: 3,
        ..plain(&[1])
    };
    let (bytes, _) = segment(&[plain(&[1]), lz4, plain(&[1])]);
    assert_eq!(sent(&bytes, WIDE, limits(JOIN_MAX)).len(), 3);
    let (bytes, _) = segment(&vec![plain(&[1]); 9]);
    let three = sent(
        &bytes,
        WIDE,
        limits(HEADER_LEN + 3 * (bytes.len() / 9 - HEADER_LEN) + HEADER_LEN),
    );
    assert!(three.len() > 1 && three.len() < 9, "{}", three.len());
}

#[test]
fn append_time_becomes_create_time_and_is_told() {
    let source = Source {
        append_time: true,
        codec: 1,
        ..plain(&[10, 99, 20])
    };
    let (bytes, records) = segment(&[source]);
    let out = sent(&bytes, WIDE, limits(JOIN_MAX));
    assert!(out[0].append_time);
    assert!(received(&out).iter().all(|record| record.timestamp == 99));
    assert_eq!(received(&out), renumbered(&records));
}

#[test]
fn holes_are_closed_and_remembered() {
    let source = Source {
        gap: 7,
        steps: vec![3, 1, 5],
        tail: 2,
        codec: 3,
        ..plain(&[1, 2, 3])
    };
    let (bytes, records) = segment(&[source]);
    let out = sent(&bytes, WIDE, limits(JOIN_MAX));
    assert_eq!(received(&out), renumbered(&records));
    assert_eq!(
        out[0].runs,
        [SourceRun {
            range: OffsetRange { start: 7, end: 18 },
            records: 3
        }]
    );
}

#[test]
fn a_batch_that_grew_too_large_is_halved() {
    let source = Source {
        append_time: true,
        length: 50,
        ..plain(&[1; 40])
    };
    let (bytes, records) = segment(&[source]);
    let limits = Limits {
        join: 500,
        encode: 500,
    };
    let out = sent(&bytes, WIDE, limits);
    assert!(out.len() > 4 && out.iter().all(|o| o.size() <= 500));
    assert_eq!(received(&out), renumbered(&records));
    assert_eq!(
        out.iter().map(|o| o.source_bytes).sum::<u64>(),
        bytes.len() as u64
    );
    let small = Limits {
        join: 100,
        encode: 100,
    };
    let error = outgoings(bytes, WIDE, &choice(small))
        .find_map(Result::err)
        .unwrap();
    assert!(
        matches!(
            error,
            SegmentError::TooLarge {
                offset: 0,
                limit: 100,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn damage_is_an_error_and_the_end() {
    let (bytes, _) = segment(&[
        plain(&[1, 2]),
        Source {
            epoch: 9,
            ..plain(&[3])
        },
    ]);
    let mut cut = outgoings(
        bytes.slice(..bytes.len() - 1),
        WIDE,
        &choice(limits(JOIN_MAX)),
    );
    assert!(matches!(
        cut.next(),
        Some(Err(SegmentError::Trailing { .. }))
    ));
    assert!(cut.next().is_none());
    let mut flipped = bytes.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let error = outgoings(flipped.into(), WIDE, &choice(limits(JOIN_MAX))).find_map(Result::err);
    assert!(matches!(
        error,
        Some(SegmentError::Batch(BatchError::Crc { .. }))
    ));
}

#[test]
fn sequences_wrap_as_kafkas_do() {
    assert_eq!(sequence(0), 0);
    assert_eq!(sequence((1 << 31) - 1), i32::MAX);
    assert_eq!(sequence(1 << 31), 0);
    assert_eq!(sequence((1 << 33) + 5), 5);
}

fn sources() -> impl Strategy<Value = Vec<Source>> {
    let timestamp = prop_oneof![Just(-1), 0..2_000_000_000_000i64, any::<i64>()];
    let source = (
        (
            0..4i64,
            prop::collection::vec(prop_oneof![9 => Just(1i64), 1 => 1..5i64], 0..8),
            0..3i64,
        ),
        prop::collection::vec(timestamp, 8),
        (prop_oneof![3 => Just(0u8), 1 => 0u8..5], 0..2i32),
        (
            prop::bool::weighted(0.1),
            prop::bool::weighted(0.05),
            1usize..20,
        ),
    )
        .prop_map(
            |((gap, steps, tail), timestamps, (codec, epoch), (append_time, control, length))| {
                Source {
                    gap,
                    // Most batches are dense, as they are in topics that are not compacted.
                    tail: if steps.len() % 2 == 0 { 0 } else { tail },
                    steps,
                    timestamps,
                    codec,
                    epoch,
                    append_time,
                    control,
                    length,
                }
            },
        );
    prop::collection::vec(source, 0..12)
}

proptest! {
    #[test]
    fn what_is_sent_is_exactly_the_records_of_the_range(
        sources in sources(), start in 0..40i64, length in 0..80i64, join in 61usize..2000,
    ) {
        let (bytes, records) = segment(&sources);
        let range = OffsetRange { start, end: start + length };
        let limits = limits(join);
        let out = sent(&bytes, range, limits);
        let expected = within(&records, range);
        prop_assert_eq!(received(&out), renumbered(&expected));
        // The runs tell where each source offset went.
        let mut index = 0;
        let mut end = i64::MIN;
        for run in out.iter().flat_map(|outgoing| &outgoing.runs) {
            prop_assert!(run.range.start >= end && run.records > 0);
            end = run.range.end;
            prop_assert!(run.range.start >= range.start && end <= range.end);
            for record in &expected[index..index + run.records as usize] {
                prop_assert!((run.range.start..end).contains(&record.offset));
            }
            index += run.records as usize;
        }
        prop_assert_eq!(index, expected.len());
        for outgoing in &out {
            prop_assert!(outgoing.runs.len() == 1 || outgoing.size() <= join);
        }
        prop_assert_eq!(sent(&bytes, range, limits), out);
    }

    #[test]
    fn bytes_that_are_no_segment_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _outcome: Vec<_> = outgoings(bytes.into(), WIDE, &choice(limits(1000))).collect();
    }
}
