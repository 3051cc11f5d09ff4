use super::*;
use kafka_backup_shared::archive::batch::Batches;
use kafka_backup_shared::archive::record::{self, Record, decode};
use proptest::prelude::*;

const EVERYTHING: OffsetRange = OffsetRange {
    start: 0,
    end: i64::MAX,
};
const CODECS: [Codec; 5] = [
    Codec::None,
    Codec::Gzip,
    Codec::Snappy,
    Codec::Lz4,
    Codec::Zstd,
];
const APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const DELETE_HORIZON: i16 = 0x40;

/// A source batch: records at offsets from `base` on, `step` apart, and one offset more without a record.
#[derive(Clone, Debug)]
struct Source {
    base: i64,
    step: i64,
    timestamps: Vec<i64>,
    value: usize,
    codec: Codec,
    attributes: i16,
    epoch: i32,
}

impl Source {
    fn one(base: i64) -> Self {
        Self {
            base,
            step: 1,
            timestamps: vec![1000 + base],
            value: 100,
            codec: Codec::None,
            attributes: 0,
            epoch: 3,
        }
    }

    fn end(&self) -> i64 {
        self.base + self.timestamps.len() as i64 * self.step
    }

    fn build(&self) -> Vec<u8> {
        let records: Vec<Record> = self
            .timestamps
            .iter()
            .enumerate()
            .map(|(index, timestamp)| {
                let mut body = vec![1];
                record::write_varint(&mut body, self.value as i64);
                body.extend((0..self.value).map(|i| (i as i64 + self.base) as u8));
                body.push(0);
                Record {
                    offset: index as i64 * self.step,
                    timestamp: *timestamp,
                    body,
                }
            })
            .collect();
        let base_timestamp = self.timestamps[0];
        let mut payload = Vec::new();
        for record in &records {
            let delta = record.timestamp - base_timestamp;
            record::write_record(&mut payload, delta, record.offset, &record.body);
        }
        let payload = self.codec.compress(&payload).unwrap();
        let max = self.timestamps.iter().copied().max().unwrap();
        let count = records.len() as i32;
        let mut bytes = batch::build(self.codec.id(), base_timestamp, max, count, &payload);
        let delta = (self.end() - 1 - self.base) as i32;
        batch::set_records(&mut bytes, payload.len(), delta, max, count);
        batch::set_attributes(&mut bytes, self.attributes | i16::from(self.codec.id()));
        batch::set_producer(&mut bytes, 77, 1, 5);
        batch::set_base_offset(&mut bytes, self.base);
        bytes[12..16].copy_from_slice(&self.epoch.to_be_bytes());
        batch::seal(&mut bytes);
        bytes
    }
}

fn recode(
    sources: &[Source],
    codec: Codec,
    level: Option<u8>,
    range: OffsetRange,
    max_message_bytes: usize,
) -> Vec<Recoded> {
    let mut answer = Vec::new();
    let mut places = Vec::new();
    for source in sources {
        let at = answer.len();
        answer.extend_from_slice(&source.build());
        places.push(at..answer.len());
    }
    let answer = Bytes::from(answer);
    let mut recoder = Recoder::new(Encoding { codec, level }, max_message_bytes).unwrap();
    let (mut next, mut all) = (0, Vec::new());
    while next < places.len() {
        let (count, ready) = recoder.take(&answer, &places[next..], range).unwrap();
        next += count;
        all.extend(ready);
    }
    all.extend(recoder.finish().unwrap());
    assert!(!recoder.is_pending());
    all
}

fn recode_all(sources: &[Source], codec: Codec) -> Vec<Recoded> {
    recode(sources, codec, None, EVERYTHING, 1 << 20)
}

fn records_of(bytes: &[u8]) -> Vec<Record> {
    let mut records = Vec::new();
    for batch in Batches::new(bytes) {
        let batch = batch.unwrap();
        batch.verify_crc().unwrap();
        records.extend(decode(&batch).unwrap());
    }
    records
}

fn joined(bytes: &[Recoded]) -> Vec<u8> {
    bytes.iter().flat_map(|r| r.bytes.clone()).collect()
}

fn sources() -> impl Strategy<Value = Vec<Source>> {
    let source = (
        (0..3i64, 1..4i64, 0..CODECS.len(), 0..4usize),
        prop::collection::vec(-1..2_000_000_000_000i64, 1..6),
        prop::sample::select(vec![0, 1, 100, 3000, 70_000]),
        prop::sample::select(vec![
            0,
            APPEND_TIME,
            TRANSACTIONAL,
            DELETE_HORIZON,
            APPEND_TIME | TRANSACTIONAL,
        ]),
    );
    prop::collection::vec(source, 1..30).prop_map(|all| {
        let (mut base, mut epoch) = (0, 0);
        all.into_iter()
            .map(
                |((gap, step, codec, rise), timestamps, value, attributes)| {
                    base += gap;
                    epoch += i32::from(rise == 0);
                    let source = Source {
                        base,
                        step,
                        timestamps,
                        value,
                        codec: CODECS[codec],
                        attributes,
                        epoch,
                    };
                    base = source.end();
                    source
                },
            )
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_record_stays_what_and_where_it_is(sources in sources(), codec in 0..CODECS.len()) {
        let codec = CODECS[codec];
        let recoded = recode_all(&sources, codec);
        let before: Vec<u8> = sources.iter().flat_map(Source::build).collect();
        prop_assert_eq!(records_of(&joined(&recoded)), records_of(&before));

        let mut rest = &sources[..];
        for recoded in &recoded {
            let batch = Batch::first(&recoded.bytes).unwrap().unwrap();
            prop_assert_eq!(batch.codec_id(), codec.id());
            prop_assert_eq!(recoded.records, batch.record_count() as u64);
            prop_assert_eq!(recoded.max_timestamp, batch.max_timestamp());
            prop_assert_eq!((recoded.end, recoded.leader_epoch), (batch.end_offset(), batch.leader_epoch()));
            let count = rest.iter().take_while(|source| source.end() <= recoded.end).count();
            let (own, others) = rest.split_at(count);
            rest = others;
            prop_assert_eq!(batch.base_offset(), own[0].base);
            for source in own {
                prop_assert_eq!(source.epoch, batch.leader_epoch());
                let kept = batch::lasting_attributes(batch.attributes());
                prop_assert_eq!(batch::lasting_attributes(source.attributes), kept);
            }
        }
        prop_assert!(rest.is_empty());
    }
}

#[test]
fn single_records_are_joined_up_to_the_limit() {
    let sources: Vec<Source> = (0..6000).map(Source::one).collect();
    let recoded = recode_all(&sources, Codec::Zstd);
    assert_eq!(recoded.len(), 2, "6000 records of some 110 bytes");
    let plain = recode_all(&sources, Codec::None);
    assert!(plain.iter().all(|recoded| recoded.bytes.len() <= JOIN_MAX));
    assert!(joined(&recoded).len() * 20 < joined(&plain).len());
    // Nothing is joined beyond what the topic takes.
    let small = recode(&sources, Codec::None, None, EVERYTHING, 10_000);
    assert!(small.len() > 60 && small.iter().all(|recoded| recoded.bytes.len() <= 10_000));
}

#[test]
fn append_times_are_never_mixed() {
    let at = |base: i64, time: i64| Source {
        timestamps: vec![time],
        attributes: APPEND_TIME,
        ..Source::one(base)
    };
    let recoded = recode_all(&[at(0, 5), at(1, 5), at(2, 6)], Codec::Lz4);
    let counts: Vec<u64> = recoded.iter().map(|recoded| recoded.records).collect();
    assert_eq!(counts, [2, 1]);
}

#[test]
fn what_lies_across_the_range_is_counted_and_stays_alone() {
    let long = Source {
        timestamps: (0..10).collect(),
        ..Source::one(0)
    };
    let sources = [long, Source::one(10), Source::one(11), Source::one(12)];
    let range = OffsetRange { start: 7, end: 13 };
    let recoded = recode(&sources, Codec::Zstd, None, range, 1 << 20);
    let counts: Vec<u64> = recoded.iter().map(|recoded| recoded.records).collect();
    assert_eq!(counts, [3, 3]);
    assert_eq!(records_of(&recoded[0].bytes).len(), 10);
}

#[test]
fn a_batch_stays_as_it_is_where_nothing_is_gained() {
    let large = Source {
        value: 400_000,
        codec: Codec::Zstd,
        ..Source::one(0)
    };
    let bytes = large.build();
    // It has the codec; a level that is asked for is obeyed all the same.
    assert_eq!(
        joined(&recode_all(std::slice::from_ref(&large), Codec::Zstd)),
        bytes
    );
    let level = recode(
        std::slice::from_ref(&large),
        Codec::Zstd,
        Some(19),
        EVERYTHING,
        1 << 20,
    );
    assert_ne!(joined(&level), bytes);
    // Decompressed it would not fit into its topic any more.
    let plain = recode(
        std::slice::from_ref(&large),
        Codec::None,
        None,
        EVERYTHING,
        100_000,
    );
    assert_eq!(joined(&plain), bytes);
    assert_ne!(joined(&recode_all(&[large], Codec::None)), bytes);
}

#[test]
fn records_that_are_not_there_are_named() {
    let mut bytes = Source::one(40).build();
    let length = bytes.len();
    batch::set_records(&mut bytes, length - HEADER_LEN, 1, 5, 2);
    batch::seal(&mut bytes);
    let answer = Bytes::from([Source::one(39).build(), bytes].concat());
    let encoding = Encoding {
        codec: Codec::Zstd,
        level: None,
    };
    let mut recoder = Recoder::new(encoding, 1 << 20).unwrap();
    let taken = recoder.take(&answer, &[0..length, length..2 * length], EVERYTHING);
    let error = taken.unwrap_err();
    assert!(error.to_string().contains("offset 40"), "{error}");
}
