use super::*;
use kafka_backup_shared::archive::record::{Record, read_varint};
use proptest::prelude::*;

use crate::restore::Provenance;

type OwnedHeader = Option<(Vec<u8>, Option<Vec<u8>>)>;

const CLUSTER: &str = "lab";
const TOPIC: &str = "orders";

fn question(placement: Placement, committed: &[(i32, &[i64])]) -> Question {
    Question {
        source_cluster: Some(CLUSTER.into()),
        source_topic: TOPIC.into(),
        target_topic: "orders-back".into(),
        placement,
        committed: committed
            .iter()
            .map(|(source, offsets)| (*source, offsets.iter().copied().collect()))
            .collect(),
    }
}

fn header(name: &str, value: &str) -> OwnedHeader {
    Some((name.into(), Some(value.into())))
}

fn ours(partition: i32, offset: i64) -> Vec<OwnedHeader> {
    vec![
        header(ORIGINAL_TOPIC, TOPIC),
        header(ORIGINAL_PARTITION, &partition.to_string()),
        header(ORIGINAL_OFFSET, &offset.to_string()),
        header(SOURCE_CLUSTER, CLUSTER),
    ]
}

fn read_origin(headers: &[OwnedHeader], question: &Question) -> Option<Origin> {
    let headers = headers.iter().map(|header| {
        let (key, value) = header.as_ref()?;
        Some((&key[..], value.as_deref()))
    });
    origin(headers, question)
}

fn from(partition: i32, offset: i64) -> Option<Origin> {
    Some(Origin { partition, offset })
}

mod headers_of_a_record {
    use super::*;

    fn told(headers: &[OwnedHeader]) -> Option<Origin> {
        read_origin(headers, &question(Placement::AnyPartition, &[]))
    }

    fn with(more: OwnedHeader) -> Vec<OwnedHeader> {
        let mut headers = ours(3, 41);
        headers.push(more);
        headers
    }

    #[test]
    fn are_read_as_a_restore_writes_them() {
        let provenance = Provenance {
            cluster: CLUSTER.into(),
            topic: TOPIC.into(),
        };
        // A null key and value, and a header whose key is not UTF-8.
        let record = Record {
            offset: 41,
            timestamp: -1,
            body: vec![1, 1, 2, 2, 0xff, 1],
        };
        let body = provenance.add_to(&record, 3).unwrap();
        // Behind key, value and the number of headers.
        let mut rest = &body[3..];
        let mut take = || {
            let length = usize::try_from(read_varint(&mut rest).unwrap()).ok()?;
            let (taken, others) = rest.split_at(length);
            rest = others;
            Some(taken.to_vec())
        };
        let headers: Vec<OwnedHeader> = (0..6)
            .map(|_| {
                let key = take().unwrap();
                Some((key, take()))
            })
            .collect();
        assert_eq!(told(&headers), from(3, 41), "{headers:?}");
    }

    #[test]
    fn that_stand_several_times_count_by_the_last_one_readable_or_not() {
        assert_eq!(told(&ours(3, 41)), from(3, 41));
        let twice = [ours(7, 8), ours(3, 41)].concat();
        assert_eq!(
            told(&twice),
            from(3, 41),
            "a record that was restored twice"
        );
        assert_eq!(told(&with(header(ORIGINAL_OFFSET, "42"))), from(3, 42));
        for last in [
            header(ORIGINAL_OFFSET, "x"),
            Some((ORIGINAL_OFFSET.into(), None)),
            header(ORIGINAL_TOPIC, "payments"),
            header(SOURCE_CLUSTER, "other"),
        ] {
            assert_eq!(told(&with(last.clone())), None, "{last:?}");
        }
        assert_eq!(told(&with(None)), from(3, 41), "one that cannot be read");
        assert_eq!(told(&with(header("x", "y"))), from(3, 41));
    }

    #[test]
    fn that_are_no_numbers_tell_nothing() {
        for garbage in [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x1",
            "1.0",
            "1e3",
            "\u{0661}",
            "9223372036854775808",
        ] {
            let offset = with(header(ORIGINAL_OFFSET, garbage));
            assert_eq!(told(&offset), None, "{garbage:?}");
            let partition = with(header(ORIGINAL_PARTITION, garbage));
            assert_eq!(told(&partition), None, "{garbage:?}");
        }
        let not_utf8 = Some((ORIGINAL_OFFSET.into(), Some(vec![0xff])));
        assert_eq!(told(&with(not_utf8)), None);
        let largest = header(ORIGINAL_OFFSET, &i64::MAX.to_string());
        assert_eq!(told(&with(largest)), from(3, i64::MAX));
        assert_eq!(told(&with(header(ORIGINAL_PARTITION, "2147483648"))), None);
    }

    #[test]
    fn must_all_be_there_but_for_a_cluster_that_nobody_asks_for() {
        assert_eq!(told(&[]), None);
        for missing in 0..4 {
            let mut headers = ours(3, 41);
            headers.remove(missing);
            assert_eq!(told(&headers), None, "{headers:?}");
        }
        let any = Question {
            source_cluster: None,
            ..question(Placement::AnyPartition, &[])
        };
        assert_eq!(read_origin(&ours(3, 41)[..3], &any), from(3, 41));
        let other = with(header(SOURCE_CLUSTER, "other"));
        assert_eq!(read_origin(&other, &any), from(3, 41));
    }
}

/// A record of a made-up log.
#[derive(Clone, Debug)]
struct Made {
    offset: i64,
    headers: Vec<OwnedHeader>,
    /// Of a transaction that was aborted, or, behind the last stable offset, is open.
    is_hidden: bool,
}

/// A log in memory.
struct MadeLog {
    question: Question,
    records: Vec<Made>,
    log: Log,
    /// What the log becomes: after so many further steps.
    changes: VecDeque<(usize, Log)>,
    isolation: IsolationLevel,
    next: i64,
    steps: usize,
    seeks: usize,
}

impl MadeLog {
    fn new(question: &Question, records: Vec<Made>, log: Log) -> Self {
        Self {
            question: question.clone(),
            records,
            log,
            changes: VecDeque::new(),
            isolation: IsolationLevel::ReadCommitted,
            next: 0,
            steps: 0,
            seeks: 0,
        }
    }

    /// One record of source partition 0 at each offset below `end`, all stable.
    fn plain(question: &Question, end: i64) -> Self {
        let made = |offset| Made {
            offset,
            headers: ours(0, offset),
            is_hidden: false,
        };
        Self::new(question, (0..end).map(made).collect(), whole(0, end))
    }

    fn scan(&mut self, partition: i32) -> Result<PartitionAnswer, SearchError> {
        let (scan, log) = (Scan::new(&self.question, partition), self.log);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let progress = Progress::default();
        progress.plan_more(log.offsets());
        let answer = runtime
            .unwrap()
            .block_on(scan_partition(self, scan, log, &progress));
        if answer.is_ok() {
            let (done, planned) = progress.done_of_planned();
            assert_eq!(done, planned);
        }
        answer
    }
}

impl Partition for MadeLog {
    async fn log(&mut self) -> Result<Log, SearchError> {
        Ok(self.log)
    }

    async fn seek(&mut self, offset: i64, isolation: IsolationLevel) -> Result<(), SearchError> {
        self.seeks += 1;
        (self.next, self.isolation) = (offset, isolation);
        Ok(())
    }

    async fn next(&mut self) -> Result<Step, SearchError> {
        if let Some((steps, log)) = self.changes.front_mut() {
            if *steps == 0 {
                self.log = *log;
                self.changes.pop_front();
            } else {
                *steps -= 1;
            }
        }
        if self.next < self.log.start || self.next > self.log.end {
            return Ok(Step::OutOfRange);
        }
        let committed = self.isolation == IsolationLevel::ReadCommitted;
        let end = if committed {
            self.log.stable
        } else {
            self.log.end
        };
        let next = self.records.iter().find(|record| {
            record.offset >= self.next && record.offset < end && !(committed && record.is_hidden)
        });
        let Some(record) = next else {
            return Ok(Step::End);
        };
        self.steps += 1;
        self.next = record.offset + 1;
        Ok(Step::Record {
            offset: record.offset,
            origin: read_origin(&record.headers, &self.question),
            bytes: 1,
        })
    }

    fn moves(&self, log: &Log) -> SearchError {
        SearchError::LogMoves {
            topic: self.question.target_topic.clone(),
            partition: 0,
            log: OffsetRange {
                start: log.start,
                end: log.end,
            },
        }
    }
}

fn whole(start: i64, end: i64) -> Log {
    Log {
        start,
        stable: end,
        end,
    }
}

fn found(answer: &PartitionAnswer) -> Vec<(i64, Option<i64>)> {
    let all = answer.sources.values().flat_map(|source| &source.found);
    all.map(|(committed, at)| (*committed, *at)).collect()
}

#[test]
fn a_partition_is_left_when_all_is_found_and_read_to_the_end_when_something_is_not() {
    let asked = question(Placement::AnyPartition, &[(0, &[1, 3])]);
    let mut log = MadeLog::plain(&asked, 100);
    let answer = log.scan(0).unwrap();
    assert_eq!(found(&answer), [(1, Some(1)), (3, Some(3))]);
    assert_eq!((log.steps, answer.records, answer.log.end), (4, 4, 100));

    // Source partition 1 is nowhere, which only the end can tell.
    let asked = question(Placement::AnyPartition, &[(0, &[1]), (1, &[])]);
    let mut log = MadeLog::plain(&asked, 100);
    let answer = log.scan(0).unwrap();
    assert_eq!(log.steps, 100);
    assert!(answer.sources[&0].seen && !answer.sources[&1].seen);

    // In its own partition nobody asks for it.
    let asked = question(Placement::SamePartition, &[(0, &[1]), (1, &[7])]);
    let mut log = MadeLog::plain(&asked, 100);
    assert_eq!(log.scan(0).unwrap().sources.len(), 1);
    assert_eq!(log.steps, 2);
}

#[test]
fn a_partition_of_which_nothing_is_asked_or_that_is_empty_is_not_read() {
    let nothing = question(Placement::AnyPartition, &[]);
    let mut log = MadeLog::plain(&nothing, 9);
    assert_eq!(log.scan(0).unwrap().log.end, 9);
    assert_eq!(log.seeks, 0);

    let asked = question(Placement::AnyPartition, &[(0, &[1])]);
    let mut log = MadeLog::new(&asked, vec![], whole(5, 5));
    let answer = log.scan(0).unwrap();
    assert_eq!((log.seeks, found(&answer)), (0, vec![(1, None)]));
}

#[test]
fn a_log_start_that_passes_what_was_found_makes_the_partition_be_read_anew() {
    let asked = question(Placement::AnyPartition, &[(0, &[2, 8])]);
    let mut log = MadeLog::plain(&asked, 10);
    // Offset 2 is found, then the log begins at 5: records 5 to 7 are those that a group with 2 has not consumed.
    log.changes.push_back((4, whole(5, 10)));
    let answer = log.scan(0).unwrap();
    assert_eq!(found(&answer), [(2, Some(5)), (8, Some(8))]);
    assert_eq!((log.seeks, answer.log.start, answer.records), (2, 5, 4));
}

#[test]
fn a_log_start_that_passes_only_what_nobody_goes_on_at_changes_nothing() {
    let asked = question(Placement::AnyPartition, &[(0, &[8])]);
    let mut log = MadeLog::plain(&asked, 10);
    log.changes.push_back((7, whole(5, 10)));
    assert_eq!(found(&log.scan(0).unwrap()), [(8, Some(8))]);
    assert_eq!(log.seeks, 1);
}

#[test]
fn who_had_a_place_among_records_that_were_deleted_meanwhile_goes_on_at_the_end() {
    let asked = question(Placement::AnyPartition, &[(0, &[2, 20])]);
    let mut log = MadeLog::plain(&asked, 10);
    log.changes.push_back((4, whole(10, 10)));
    let mut answer = Answer::default();
    answer.partitions.insert(0, log.scan(0).unwrap());
    let next = next_offset(&answer, 0, &BTreeMap::from([(0, 2)]));
    assert_eq!(next, Some(10));
}

#[test]
fn a_log_that_becomes_shorter_is_read_anew() {
    let asked = question(Placement::AnyPartition, &[(0, &[2, 8])]);
    let mut log = MadeLog::plain(&asked, 10);
    log.changes.push_back((4, whole(0, 6)));
    let answer = log.scan(0).unwrap();
    assert_eq!(found(&answer), [(2, Some(2)), (8, None)]);
    assert_eq!(answer.log.end, 6);
}

#[test]
fn a_log_that_never_keeps_still_is_an_error_that_names_it() {
    let asked = question(Placement::AnyPartition, &[(0, &[0])]);
    let mut log = MadeLog::plain(&asked, 100);
    log.changes
        .extend((1..50).map(|start| (0, whole(start * 2, 100))));
    let error = log.scan(0).unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
    let told = error.to_string();
    assert!(told.contains("topic orders-back partition 0"), "{told}");
    assert_eq!(log.seeks as u32, READINGS);
}

#[test]
fn aborted_records_count_only_behind_the_last_stable_offset() {
    let asked = question(Placement::AnyPartition, &[(0, &[0, 5])]);
    let made = |offset, source_offset, is_hidden| Made {
        offset,
        headers: ours(0, source_offset),
        is_hidden,
    };
    let records = vec![
        made(0, 0, true),
        made(1, 0, false),
        made(3, 5, true),
        made(4, 6, false),
    ];
    let aborted = Log {
        start: 0,
        stable: 5,
        end: 5,
    };
    let mut log = MadeLog::new(&asked, records.clone(), aborted);
    let answer = log.scan(0).unwrap();
    assert_eq!(found(&answer), [(0, Some(1)), (5, Some(4))]);
    let open = Log {
        stable: 2,
        ..aborted
    };
    let mut log = MadeLog::new(&asked, records, open);
    let answer = log.scan(0).unwrap();
    assert_eq!(found(&answer), [(0, Some(1)), (5, Some(3))]);
}

#[test]
fn an_offset_that_was_not_asked_for_is_never_answered_too_late() {
    let asked = question(Placement::AnyPartition, &[(0, &[4, 7, 90])]);
    let mut log = MadeLog::plain(&asked, 10);
    let partitions = BTreeMap::from([(2, log.scan(2).unwrap())]);
    let answer = Answer { partitions };
    for (committed, next) in [(3, 0), (4, 4), (6, 4), (7, 7), (90, 10), (91, 10)] {
        let committed = BTreeMap::from([(0, committed), (1, 0)]);
        assert_eq!(next_offset(&answer, 2, &committed), Some(next));
        assert_eq!(next_offset(&answer, 3, &committed), None, "not searched");
    }
    assert_eq!(next_offset(&answer, 2, &BTreeMap::from([(1, 0)])), None);
}

/// A record that is to lie in a target partition.
#[derive(Clone, Debug)]
enum Lies {
    Ours { source: i32, offset: i64 },
    Foreign(Vec<OwnedHeader>),
}

fn foreign() -> impl Strategy<Value = Lies> {
    let pushed = |more: OwnedHeader| {
        let mut headers = ours(0, 3);
        headers.push(more);
        headers
    };
    let headers = prop_oneof![
        Just(vec![]),
        Just(vec![None]),
        Just(pushed(header(ORIGINAL_TOPIC, "payments"))),
        Just(pushed(header(SOURCE_CLUSTER, "other"))),
        Just(pushed(header(ORIGINAL_OFFSET, "-3"))),
        Just(pushed(Some((ORIGINAL_PARTITION.into(), None)))),
    ];
    headers.prop_map(Lies::Foreign)
}

fn lies() -> impl Strategy<Value = Lies> {
    prop_oneof![
        5 => (0..3i32, 0..12i64).prop_map(|(source, offset)| Lies::Ours { source, offset }),
        1 => foreign(),
    ]
}

#[derive(Clone, Debug)]
struct Case {
    /// By target partition.
    logs: Vec<(Vec<Made>, Log)>,
    groups: Vec<BTreeMap<i32, i64>>,
    placement: Placement,
}

fn case() -> impl Strategy<Value = Case> {
    // The record, its target partition, the offsets without a record before it, and whether a transaction hides it.
    let record = (lies(), 0..3usize, 0..3i64, prop::bool::weighted(0.2));
    let group = prop::collection::btree_map(0..4i32, 0..14i64, 0..4);
    (
        prop::collection::vec(record, 0..60),
        any::<bool>(),
        prop::collection::vec((0..20i64, 0..4i64, prop::option::of(0..40i64)), 3),
        prop::collection::vec(group, 1..5),
        any::<bool>(),
    )
        .prop_map(|(mut records, in_order, logs, groups, same)| {
            if in_order {
                // As a restore writes them.
                records.sort_by_key(|(lies, ..)| match lies {
                    Lies::Ours { offset, .. } => *offset,
                    Lies::Foreign(_) => 6,
                });
            }
            let mut partitions: Vec<(Vec<Made>, i64)> = logs
                .iter()
                .map(|(start, ..)| (Vec::new(), *start))
                .collect();
            for (lies, target, holes, is_hidden) in records {
                let (made, end) = &mut partitions[target];
                let headers = match lies {
                    Lies::Ours { source, offset } => ours(source, offset),
                    Lies::Foreign(headers) => headers,
                };
                let offset = *end + holes;
                made.push(Made {
                    offset,
                    headers,
                    is_hidden,
                });
                *end = offset + 1;
            }
            let logs = logs.into_iter().zip(partitions);
            let logs = logs.map(|((start, holes, stable), (made, end))| {
                let end = end + holes;
                let stable = stable.map_or(end, |stable| end.min(start + stable));
                (made, Log { start, stable, end })
            });
            Case {
                logs: logs.collect(),
                groups,
                placement: match same {
                    true => Placement::SamePartition,
                    false => Placement::AnyPartition,
                },
            }
        })
}

/// The same as [`next_offset`], by looking at all records for one group.
fn reference(case: &Case, target: usize, group: &BTreeMap<i32, i64>) -> Option<i64> {
    let (records, log) = &case.logs[target];
    let asked = question(case.placement, &[]);
    let mut next = None;
    for (source, committed) in group {
        if case.placement == Placement::SamePartition && *source != target as i32 {
            continue;
        }
        let of_source: Vec<(i64, i64)> = records
            .iter()
            .filter(|record| !record.is_hidden || record.offset >= log.stable)
            .filter_map(|record| {
                let origin = read_origin(&record.headers, &asked)?;
                (origin.partition == *source).then_some((record.offset, origin.offset))
            })
            .collect();
        if of_source.is_empty() {
            continue;
        }
        let first = of_source.iter().find(|(_, original)| original >= committed);
        let place = first.map_or(log.end, |(at, _)| *at);
        next = Some(next.map_or(place, |other: i64| other.min(place)));
    }
    next
}

proptest! {
    #[test]
    fn every_group_goes_on_where_a_look_at_all_records_says(case in case()) {
        let mut asked = question(case.placement, &[]);
        for (source, offset) in case.groups.iter().flatten() {
            asked.committed.entry(*source).or_default().insert(*offset);
        }
        let mut answer = Answer::default();
        for (target, (records, log)) in case.logs.iter().enumerate() {
            let mut made = MadeLog::new(&asked, records.clone(), *log);
            let scanned = made.scan(target as i32).unwrap();
            // A partition that was read to its end has counted all that do not count.
            let visible = records
                .iter()
                .filter(|record| !record.is_hidden || record.offset >= log.stable);
            if scanned.records == visible.clone().count() as u64 {
                let all = question(case.placement, &[]);
                let foreign = visible.filter(|r| read_origin(&r.headers, &all).is_none());
                prop_assert_eq!(scanned.foreign, foreign.count() as u64);
            }
            answer.partitions.insert(target as i32, scanned);
        }
        for group in &case.groups {
            for target in 0..case.logs.len() {
                let next = next_offset(&answer, target as i32, group);
                prop_assert_eq!(next, reference(&case, target, group), "partition {} {:?}", target, group);
            }
        }
    }
}
