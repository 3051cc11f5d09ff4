use super::*;
use crate::restore::choice::{Choice, Limits};
use kafka_backup_shared::archive::batch;
use kafka_backup_shared::archive::chain::{Link, OffsetRange};
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::layout::SegmentName;
use kafka_backup_shared::archive::record::{Record, encode};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::TimeRange;

const PER_BATCH: i64 = 3;
const BATCHES: i64 = 4;
const PER_SEGMENT: i64 = PER_BATCH * BATCHES;
const BASE: i64 = 1000;

/// Segments of compressed batches, so that each source batch is sent as one.
fn segments(count: i64) -> Vec<Bytes> {
    let segment = |segment: i64| {
        let mut bytes = Vec::new();
        for batch in 0..BATCHES {
            let base = segment * PER_SEGMENT + batch * PER_BATCH;
            let record = |n| Record {
                offset: n,
                timestamp: 5,
                body: vec![1, 1, 0],
            };
            let records: Vec<Record> = (0..PER_BATCH).map(record).collect();
            let mut one = encode(&records, Codec::Lz4).unwrap();
            batch::set_base_offset(&mut one, base);
            bytes.extend_from_slice(&one);
        }
        bytes.into()
    };
    (0..count).map(segment).collect()
}

fn unit(count: i64) -> Arc<Unit> {
    unit_of(&segments(count))
}

/// A unit of these segments, which are named as if they held what they should.
fn unit_of(segments: &[Bytes]) -> Arc<Unit> {
    let count = segments.len() as i64;
    let piece = |segment: i64| {
        let bytes = &segments[segment as usize];
        let range = OffsetRange {
            start: segment * PER_SEGMENT,
            end: (segment + 1) * PER_SEGMENT,
        };
        let (start, end) = (range.start, range.end);
        let records = PER_SEGMENT as u64;
        let name = SegmentName {
            start,
            end,
            leader_epoch: 0,
            records,
            max_timestamp: 5,
            crc32c: crc32c::crc32c(bytes),
        };
        Piece {
            partition: 0,
            link: Link { name, range },
            key: format!("segment-{segment}"),
            size: bytes.len() as u64,
        }
    };
    Arc::new(Unit {
        source: "s".into(),
        target: "t".into(),
        target_id: uuid::Uuid::nil(),
        partition: 0,
        base_offset: BASE,
        records: (count * PER_SEGMENT) as u64,
        choice: Arc::new(Choice {
            limits: Limits::new(1 << 20),
            time: TimeRange::default(),
            by_key: None,
            provenance: None,
        }),
        pieces: (0..count).map(piece).collect(),
    })
}

fn stream(count: i64, done: u64, mapped: &[&str]) -> Stream {
    let mapped = mapped.iter().map(|key| (*key).to_owned()).collect();
    Stream::new(unit(count), done, Arc::new(mapped), Buffers::default())
}

/// Gives the stream every segment it asks for; tells which.
fn load(stream: &mut Stream, segments: &[Bytes]) -> Vec<usize> {
    let mut loaded = Vec::new();
    while let Some(load) = stream.next_load(false) {
        let range = load.range.start as usize..load.range.end as usize;
        stream.loaded(Loaded {
            index: load.index,
            bytes: segments[load.index].slice(range),
            is_last: load.is_last,
            room: None,
        });
        loaded.push(load.index);
    }
    loaded
}

fn send(stream: &mut Stream) -> Vec<Ready> {
    let mut sent = Vec::new();
    while stream.may_send() {
        match stream.next_batch().unwrap() {
            Some(ready) => sent.push(ready),
            None => break,
        }
    }
    sent
}

fn accept(stream: &mut Stream, ready: &Ready) {
    stream
        .answered(ready, Ok(BASE + offset(ready.first)))
        .unwrap();
}

/// Runs to the end; gives the first record of each batch sent, the segments read and the segments mapped.
fn run(stream: &mut Stream, segments: &[Bytes]) -> (Vec<u64>, Vec<usize>, Vec<usize>) {
    let (mut firsts, mut read, mut mapped) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        read.extend(load(stream, segments));
        let sent = send(stream);
        for ready in &sent {
            accept(stream, ready);
            firsts.push(ready.first);
        }
        while let Some(found) = stream.next_mapped() {
            mapped.push(found.index);
        }
        if stream.is_complete() {
            return (firsts, read, mapped);
        }
    }
}

#[test]
fn one_batch_is_in_flight_until_the_first_is_acknowledged() {
    let segments = segments(3);
    let mut stream = stream(3, 0, &[]);
    load(&mut stream, &segments);
    let first = send(&mut stream);
    assert_eq!(first.len(), 1);
    accept(&mut stream, &first[0]);
    load(&mut stream, &segments);
    assert_eq!(
        send(&mut stream).len(),
        WINDOW as usize,
        "beyond the end of the first segment"
    );
}

#[test]
fn all_is_sent_once_in_order_and_mapped() {
    let (firsts, read, mapped) = run(&mut stream(2, 0, &[]), &segments(2));
    assert_eq!(firsts, [0, 3, 6, 9, 12, 15, 18, 21]);
    assert_eq!((read, mapped), (vec![0, 1], vec![0, 1]));
}

#[test]
fn a_resumed_stream_sends_the_rest_and_maps_what_is_missing() {
    let segments = segments(4);
    // Two segments and a batch are in the target; the map of the second segment was not stored.
    let (firsts, read, mapped) = run(&mut stream(4, 27, &["segment-0"]), &segments);
    assert_eq!(firsts, [27, 30, 33, 36, 39, 42, 45]);
    assert_eq!((read, mapped), (vec![1, 2, 3], vec![1, 2, 3]));
    let all = ["segment-0", "segment-1", "segment-2", "segment-3"];
    assert_eq!(
        run(&mut stream(4, 48, &all), &segments),
        (vec![], vec![], vec![])
    );
}

#[test]
fn a_log_end_inside_a_batch_is_not_ours() {
    let mut stream = stream(2, 4, &[]);
    load(&mut stream, &segments(2));
    let error = stream.next_batch().unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.to_string().contains("4 records"), "{error}");
}

#[test]
fn another_base_offset_is_not_ours() {
    let mut stream = stream(1, 0, &[]);
    load(&mut stream, &segments(1));
    let sent = send(&mut stream);
    let error = stream.answered(&sent[0], Ok(BASE + 1)).unwrap_err();
    assert!(matches!(error, RestoreError::Foreign { .. }));
}

#[test]
fn behind_an_uncertain_batch_nothing_is_sent_or_counted() {
    let segments = segments(2);
    let mut stream = stream(2, 0, &[]);
    load(&mut stream, &segments);
    let first = send(&mut stream);
    accept(&mut stream, &first[0]);
    let more = send(&mut stream);
    stream.answered(&more[0], Err("timed out".into())).unwrap();
    accept(&mut stream, &more[1]);
    assert!(!stream.may_send());
    assert!(stream.next_load(false).is_none());
    assert_eq!((stream.acknowledged(), stream.in_flight()), (3, 1));
    assert_eq!(stream.trouble(), Some("timed out"));
    assert!(!stream.is_complete());
}

#[test]
fn a_segment_with_other_records_than_its_name_says_is_damage() {
    let mut segments = segments(1);
    let batch = segments[0].len() / BATCHES as usize;
    segments[0] = segments[0].slice(..3 * batch);
    let mut stream = Stream::new(
        unit_of(&segments),
        0,
        Default::default(),
        Buffers::default(),
    );
    load(&mut stream, &segments);
    let error = loop {
        match stream.next_batch() {
            Ok(Some(ready)) => accept(&mut stream, &ready),
            Ok(None) => unreachable!("it ends with an error"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.to_string().contains("expected 12 records"), "{error}");
}

#[test]
fn a_segment_comes_in_parts_and_memory_goes_with_the_answers() {
    // Batches that lie across several parts.
    let batch = |n: i64| {
        let record = |offset| Record {
            offset,
            timestamp: 5,
            body: [&[1, 1][..], &vec![0; 600_000]].concat(),
        };
        let mut one = encode(&(0..PER_BATCH).map(record).collect::<Vec<_>>(), Codec::None).unwrap();
        batch::set_base_offset(&mut one, n * PER_BATCH);
        one
    };
    let segments = [Bytes::from(
        (0..BATCHES).flat_map(batch).collect::<Vec<u8>>(),
    )];
    let mut stream = Stream::new(
        unit_of(&segments),
        0,
        Default::default(),
        Buffers::default(),
    );
    let (mut parts, mut in_flight) = (0, VecDeque::new());
    loop {
        parts += load(&mut stream, &segments).len();
        in_flight.extend(send(&mut stream));
        let held = stream.held.len();
        if let Some(ready) = in_flight.pop_front() {
            accept(&mut stream, &ready);
        }
        assert!(held <= HELD + 1, "{held}");
        while stream.next_mapped().is_some() {}
        if stream.is_complete() {
            break;
        }
    }
    let expected = segments[0].len().div_ceil(PART);
    assert_eq!(
        (parts, stream.acknowledged()),
        (expected, PER_SEGMENT as u64)
    );
    stream.let_go();
    assert!(stream.held.is_empty());
}

#[test]
fn a_segment_that_has_changed_since_it_was_checked_is_damage() {
    let segments = segments(1);
    let unit = unit_of(&segments);
    let mut changed = segments[0].to_vec();
    // The base offset of the last batch is in no CRC but the object's.
    let last = changed.len() / BATCHES as usize * (BATCHES as usize - 1);
    changed[last + 7] += 1;
    let changed = [Bytes::from(changed)];
    let mut stream = Stream::new(unit, 0, Default::default(), Buffers::default());
    let error = loop {
        load(&mut stream, &changed);
        match stream.next_batch() {
            Ok(Some(ready)) => accept(&mut stream, &ready),
            Ok(None) => {}
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("CRC-32C"), "{error}");
}

/// Segments of more than two parts, in small batches that are joined.
fn long_segments(count: i64) -> Vec<Bytes> {
    let segment = |segment: i64| {
        let mut bytes = Vec::new();
        for offset in 0..PER_SEGMENT {
            let body = [&[1, 1][..], &[7; 100 << 10]].concat();
            let record = Record {
                offset: 0,
                timestamp: 5,
                body,
            };
            let mut one = encode(&[record], Codec::None).unwrap();
            batch::set_base_offset(&mut one, segment * PER_SEGMENT + offset);
            bytes.extend_from_slice(&one);
        }
        bytes.into()
    };
    (0..count).map(segment).collect()
}

#[test]
fn streams_that_share_less_memory_than_they_could_use_all_end() {
    let segments = long_segments(3);
    assert!(segments[0].len() > 2 * PART);
    let unit = unit_of(&segments);
    let rooms = Arc::new(tokio::sync::Semaphore::new(2));
    let new = || Stream::new(unit.clone(), 0, Default::default(), Buffers::default());
    let mut streams: Vec<Stream> = std::iter::repeat_with(new).take(5).collect();
    let mut waiting = VecDeque::new();
    for turn in 0.. {
        assert!(turn < 1000, "{} requests wait", waiting.len());
        for (number, stream) in streams.iter_mut().enumerate() {
            if let Some(load) = stream.next_load(rooms.available_permits() == 0) {
                waiting.push_back((number, load));
            }
        }
        // The oldest gets room first, as of tokio's semaphore.
        waiting.retain(|(number, load): &(usize, Load)| {
            let room = match load.needs_room {
                true => match rooms.clone().try_acquire_owned() {
                    Ok(room) => Some(room),
                    Err(_) => return true,
                },
                false => None,
            };
            let range = load.range.start as usize..load.range.end as usize;
            streams[*number].loaded(Loaded {
                index: load.index,
                bytes: segments[load.index].slice(range),
                is_last: load.is_last,
                room,
            });
            false
        });
        for stream in &mut streams {
            for ready in send(stream) {
                accept(stream, &ready);
            }
            while stream.next_mapped().is_some() {}
        }
        if streams.iter().all(Stream::is_complete) {
            assert_eq!(rooms.available_permits(), 2);
            return;
        }
    }
}
