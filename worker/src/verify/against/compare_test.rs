use super::*;
use proptest::prelude::*;

const BASE: i64 = 100;

/// A record with fields of its own, expected or found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    offset: i64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Own {
    fn fields(&self) -> Fields<'_> {
        let headers = self.headers.iter();
        Fields {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: headers
                .map(|(key, value)| (&key[..], value.as_deref()))
                .collect(),
        }
    }
}

impl FoundRecord for Own {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn timestamp(&self) -> i64 {
        self.timestamp
    }

    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn headers(&self) -> Option<Vec<Header<'_>>> {
        let fields = self.fields();
        fields.has_readable_headers().then_some(fields.headers)
    }
}

fn own(offset: i64, key: &str, value: Option<&str>) -> Own {
    Own {
        offset,
        timestamp: offset * 10,
        key: Some(key.into()),
        value: value.map(|value| value.into()),
        headers: vec![(b"trace".to_vec(), Some(b"7".to_vec()))],
    }
}

/// Records `a` to `d`, each key once.
fn four() -> Vec<Own> {
    let keys = ["a", "b", "c", "d"];
    (BASE..)
        .zip(keys)
        .map(|(offset, key)| own(offset, key, Some("v")))
        .collect()
}

fn target(records: usize, cleaning: Cleaning) -> Target {
    Target {
        topic: "t".into(),
        partition: 3,
        base_offset: BASE,
        records: records as u64,
        log: OffsetRange {
            start: 0,
            end: BASE + records as i64,
        },
        cleaning,
    }
}

fn run(target: Target, expected: &[Own], found: &[Own]) -> (Counts, Vec<Difference>) {
    let mut comparison = Comparison::new(target);
    feed(&mut comparison, expected, found);
    comparison.finish()
}

fn feed(comparison: &mut Comparison, expected: &[Own], found: &[Own]) {
    let mut found = found.iter().peekable();
    for record in expected {
        loop {
            let fields = record.fields();
            let there = found.peek().copied();
            match comparison.step(record.offset, record.timestamp, &fields, there) {
                Next::Both => {
                    found.next();
                    break;
                }
                Next::Expected => break,
                Next::Found => {
                    found.next();
                }
            }
        }
    }
}

/// Offset, field, expected, found.
fn brief(differences: &[Difference]) -> Vec<(i64, Field, &str, &str)> {
    let brief = differences.iter().map(|one| {
        let expected = one.expected.as_deref().unwrap_or_default();
        assert_eq!((&*one.topic, one.partition), ("t", Some(3)));
        (one.offset.unwrap(), one.field, expected, &*one.found)
    });
    brief.collect()
}

#[test]
fn equal_records_are_equal() {
    for cleaning in [Cleaning::Keeps, Cleaning::Compacts] {
        let (counts, differences) = run(target(4, cleaning), &four(), &four());
        assert_eq!(brief(&differences), []);
        let expected = Counts {
            compared: 4,
            ..Counts::default()
        };
        assert_eq!(counts, expected);
    }
}

#[test]
fn a_difference_in_any_field_is_told_at_its_place() {
    type Change = fn(&mut Own);
    let long = |last: &str| format!("{}{last}", "x".repeat(100)).into_bytes();
    let cases: [(Change, Field, &str, &str); 11] = [
        (|r| r.timestamp += 1, Field::Timestamp, "1020", "1021"),
        (|r| r.timestamp = -1, Field::Timestamp, "1020", "-1"),
        (|r| r.key = None, Field::Key, "\"c\"", "null"),
        (|r| r.key = Some(vec![]), Field::Key, "\"c\"", "\"\""),
        (|r| r.value = None, Field::Value, "\"v\"", "null"),
        (
            |r| r.value = Some(vec![b'v', 0xff]),
            Field::Value,
            "\"v\"",
            "\"v\\xff\"",
        ),
        (
            |r| r.headers.clear(),
            Field::Headers,
            "\"trace\"=\"7\" as number 1",
            "none as number 1",
        ),
        (
            |r| r.headers[0].1 = None,
            Field::Headers,
            "\"trace\"=\"7\" as number 1",
            "\"trace\"=null as number 1",
        ),
        (
            |r| r.headers[0].0 = b"Trace".to_vec(),
            Field::Headers,
            "\"trace\"=\"7\" as number 1",
            "\"Trace\"=\"7\" as number 1",
        ),
        (
            |r| r.headers.push(r.headers[0].clone()),
            Field::Headers,
            "none as number 2",
            "\"trace\"=\"7\" as number 2",
        ),
        (
            |r| r.headers[0].0 = vec![0xff],
            Field::Headers,
            "\"trace\"=\"7\"",
            "a header key that is not UTF-8",
        ),
    ];
    for (change, field, expected, found) in cases {
        let mut changed = four();
        change(&mut changed[2]);
        for cleaning in [Cleaning::Keeps, Cleaning::Compacts] {
            let (counts, differences) = run(target(4, cleaning), &four(), &changed);
            assert_eq!(
                brief(&differences),
                [(BASE + 2, field, expected, found)],
                "{field:?}"
            );
            assert_eq!((counts.compared, counts.problems), (4, 1));
        }
    }
    let (mut expected, mut found) = (four(), four());
    expected[1].value = Some(long("1"));
    found[1].value = Some(long("2"));
    let (_, differences) = run(target(4, Cleaning::Keeps), &expected, &found);
    let [(_, _, expected, found)] = brief(&differences)[..] else {
        unreachable!("{differences:?}");
    };
    assert_eq!(expected, "...\"xxxxxxxx1\" (byte 92 on, of 101)");
    assert_eq!(found, "...\"xxxxxxxx2\" (byte 92 on, of 101)");
}

#[test]
fn the_order_of_equal_headers_counts() {
    let both = [
        (b"a".to_vec(), Some(b"1".to_vec())),
        (b"a".to_vec(), Some(b"2".to_vec())),
    ];
    let (mut expected, mut found) = (four(), four());
    expected[0].headers = both.to_vec();
    found[0].headers = both.iter().rev().cloned().collect();
    let (_, differences) = run(target(4, Cleaning::Keeps), &expected, &found);
    let first = (
        BASE,
        Field::Headers,
        "\"a\"=\"1\" as number 1",
        "\"a\"=\"2\" as number 1",
    );
    assert_eq!(brief(&differences), [first]);
}

#[test]
fn missing_neighbours_are_told_in_one_line() {
    let (counts, differences) = run(target(4, Cleaning::Keeps), &four(), &four()[3..]);
    let told = "3 records, at offsets 100 to 103";
    assert_eq!(brief(&differences), [(BASE, Field::Record, told, "none")]);
    assert_eq!((counts.compared, counts.problems), (1, 1));
    let holes = [four()[0].clone(), four()[2].clone()];
    let (_, differences) = run(target(4, Cleaning::Keeps), &four(), &holes);
    let one = |offset| (offset, Field::Record, "a record", "none");
    assert_eq!(brief(&differences), [one(BASE + 1), one(BASE + 3)]);
}

#[test]
fn a_record_out_of_order_is_told() {
    let mut found = four();
    found.insert(3, own(BASE + 1, "again", None));
    let (_, differences) = run(target(4, Cleaning::Keeps), &four(), &found);
    let told = (
        BASE + 1,
        Field::Record,
        "none",
        "a record with key \"again\"",
    );
    assert_eq!(brief(&differences), [told]);
}

#[test]
fn the_ends_of_the_log_are_told_and_the_rest_is_compared() {
    let moved = |start: i64, end: i64| Target {
        log: OffsetRange { start, end },
        ..target(4, Cleaning::Keeps)
    };
    let gone = "records at offsets 100 to 102";
    let cases = [
        (
            moved(102, 104),
            2,
            vec![(100, Field::LogStart, gone, "a log that begins at 102")],
        ),
        (moved(0, 105), 4, vec![(104, Field::LogEnd, "104", "105")]),
        (moved(0, 103), 3, vec![(103, Field::LogEnd, "104", "103")]),
        (
            moved(200, 200),
            0,
            vec![
                (
                    100,
                    Field::LogStart,
                    "records at offsets 100 to 104",
                    "a log that begins at 200",
                ),
                (104, Field::LogEnd, "104", "200"),
            ],
        ),
    ];
    for (target, compared, expected) in cases {
        let readable = target.readable();
        let there: Vec<Own> = four()
            .into_iter()
            .filter(|record| (readable.start..readable.end).contains(&record.offset))
            .collect();
        let (counts, differences) = run(target, &four(), &there);
        assert_eq!(brief(&differences), expected);
        assert_eq!(counts.compared, compared);
    }
}

#[test]
fn a_log_start_that_moves_meanwhile_is_told_once() {
    let mut comparison = Comparison::new(target(4, Cleaning::Keeps));
    feed(&mut comparison, &four()[..1], &four()[..1]);
    comparison.log_start_moved(BASE + 1, BASE + 3);
    feed(&mut comparison, &four()[1..], &four()[3..]);
    let (counts, differences) = comparison.finish();
    let gone = "records at offsets 101 to 103";
    let told = (101, Field::LogStart, gone, "a log that begins at 103");
    assert_eq!(brief(&differences), [told]);
    assert_eq!(counts.compared, 2);
}

#[test]
fn compaction_may_take_what_came_again_and_tombstones_and_nothing_else() {
    let expected = [
        own(BASE, "a", Some("1")),
        own(BASE + 1, "b", Some("1")),
        own(BASE + 2, "a", Some("2")),
        own(BASE + 3, "c", Some("1")),
        own(BASE + 4, "c", None),
        own(BASE + 5, "d", Some("1")),
        Own {
            key: None,
            ..own(BASE + 6, "", Some("1"))
        },
        own(BASE + 7, "e", Some("1")),
    ];
    let of = |offsets: &[usize]| -> Vec<Own> {
        offsets.iter().map(|at| expected[*at].clone()).collect()
    };
    let one = |offset| (BASE + offset, Field::Record, "a record", "none");
    let cases = [
        // Superseded, superseded by a tombstone, and the tombstone itself.
        (&[1, 2, 5, 6, 7][..], 3, vec![]),
        // The newest of a key must be there, also the one that excuses another.
        (&[2, 4, 5, 6, 7], 2, vec![one(1)]),
        (&[1, 4, 5, 6, 7], 2, vec![one(2)]),
        (&[1, 2, 4, 5, 6], 2, vec![one(7)]),
        // A record without a key is superseded by nothing.
        (&[1, 2, 4, 5, 7], 2, vec![one(6)]),
    ];
    for (there, compacted, told) in cases {
        let (counts, differences) = run(target(8, Cleaning::Compacts), &expected, &of(there));
        assert_eq!(brief(&differences), told, "{there:?}");
        assert_eq!(counts.compacted, compacted, "{there:?}");
        assert_eq!(counts.compared, there.len() as u64);
        let (counts, _) = run(target(8, Cleaning::Keeps), &expected, &of(there));
        assert!(counts.problems > 0 && counts.compacted == 0, "{there:?}");
    }
    // What is there must be equal, although it might be gone.
    let mut changed = expected.clone();
    changed[0].value = Some(b"x".to_vec());
    let (_, differences) = run(target(8, Cleaning::Compacts), &expected, &changed);
    assert_eq!(
        brief(&differences),
        [(BASE, Field::Value, "\"1\"", "\"x\"")]
    );
}

#[test]
fn what_is_not_known_is_told_once_and_its_records_are_passed_over() {
    let mut comparison = Comparison::new(target(4, Cleaning::Keeps));
    feed(&mut comparison, &four()[..1], &four()[..1]);
    let lost = OffsetRange {
        start: BASE + 1,
        end: BASE + 3,
    };
    comparison.cannot_read("a/segment", "it is missing".into(), lost);
    feed(&mut comparison, &four()[3..], &four()[1..]);
    let (counts, differences) = comparison.finish();
    let found = "it is missing; offsets 101 to 103 of the target were not compared";
    assert_eq!(brief(&differences), [(BASE + 1, Field::Segment, "", found)]);
    assert_eq!(differences[0].object.as_deref(), Some("a/segment"));
    assert_eq!(counts.compared, 2);
}

#[test]
fn behind_a_batch_that_cannot_be_read_nothing_is_called_missing() {
    let mut comparison = Comparison::new(target(4, Cleaning::Keeps));
    feed(&mut comparison, &four()[..2], &four()[..2]);
    comparison.cannot_fetch(BASE + 2, "bad");
    feed(&mut comparison, &four()[2..], &[]);
    let (counts, differences) = comparison.finish();
    let found = "bad; records from here on were not compared";
    let told = (BASE + 2, Field::Batch, "a batch that is whole", found);
    assert_eq!(brief(&differences), [told]);
    assert_eq!(counts.compared, 2);
}

#[test]
fn headers_that_rdkafka_cannot_give_are_counted() {
    let mut unreadable = four();
    unreadable[1].headers[0].0 = vec![0xff];
    let mut found = unreadable.clone();
    // It is not looked at; the other fields are.
    found[1].headers.clear();
    let (counts, differences) = run(target(4, Cleaning::Keeps), &unreadable, &found);
    assert_eq!(brief(&differences), []);
    assert_eq!((counts.compared, counts.headers_not_compared), (4, 1));
    found[1].value = None;
    let (_, differences) = run(target(4, Cleaning::Keeps), &unreadable, &found);
    assert_eq!(differences.len(), 1);
}

#[test]
fn many_differences_are_counted_and_some_are_listed() {
    let expected: Vec<Own> = (0..100).map(|n| own(BASE + n, "k", Some("v"))).collect();
    let found: Vec<Own> = (0..100).map(|n| own(BASE + n, "k", Some("w"))).collect();
    let (counts, differences) = run(target(100, Cleaning::Keeps), &expected, &found);
    assert_eq!((counts.problems, differences.len()), (100, LISTED));
    assert_eq!(differences[0].offset, Some(BASE));
}

fn record() -> impl Strategy<Value = Own> {
    let bytes = || prop::option::of(prop::collection::vec(any::<u8>(), 0..4));
    let name = prop::collection::vec(b'a'..b'd', 0..3);
    let headers = prop::collection::vec((name, bytes()), 0..4);
    (any::<i64>(), bytes(), bytes(), headers).prop_map(|(timestamp, key, value, headers)| Own {
        offset: 0,
        timestamp,
        key,
        value,
        headers,
    })
}

proptest! {
    #[test]
    fn one_seeded_difference_is_found_at_its_place(
        mut records in prop::collection::vec(record(), 1..20),
        at in any::<prop::sample::Index>(),
        other in record(),
        field in 0..5,
    ) {
        for (offset, record) in (BASE..).zip(&mut records) {
            record.offset = offset;
        }
        let at = at.index(records.len());
        let mut found = records.clone();
        let here = &mut found[at];
        let field = match field {
            0 => { here.timestamp = other.timestamp; Field::Timestamp }
            1 => { here.key = other.key; Field::Key }
            2 => { here.value = other.value; Field::Value }
            3 => { here.headers = other.headers; Field::Headers }
            _ => { found.remove(at); Field::Record }
        };
        let (counts, differences) = run(target(records.len(), Cleaning::Keeps), &records, &found);
        if found == records {
            prop_assert_eq!(differences, []);
        } else {
            prop_assert_eq!(differences.len(), 1);
            prop_assert_eq!(differences[0].offset, Some(BASE + at as i64));
            prop_assert_eq!(differences[0].field, field);
        }
        prop_assert_eq!(counts.compared, found.len() as u64);
    }

    /// Against a cleaner that is played: it keeps the newest of each key, some tombstones, and some of what it might take.
    #[test]
    fn any_cleaning_is_equal_and_any_loss_of_a_newest_record_is_not(
        keys in prop::collection::vec((0u8..6, any::<bool>()), 1..40),
        kept in prop::collection::vec(any::<bool>(), 40),
        lost in any::<prop::sample::Index>(),
    ) {
        let expected: Vec<Own> = (BASE..).zip(&keys).map(|(offset, (key, tombstone))| {
            own(offset, &key.to_string(), (!tombstone).then_some("v"))
        }).collect();
        let newest = |at: usize| !keys[at + 1..].iter().any(|(key, _)| *key == keys[at].0);
        let must: Vec<usize> = (0..keys.len()).filter(|at| newest(*at) && !keys[*at].1).collect();
        let found: Vec<Own> = (0..keys.len())
            .filter(|at| must.contains(at) || kept[*at])
            .map(|at| expected[at].clone())
            .collect();
        let compacts = || target(expected.len(), Cleaning::Compacts);
        let (counts, differences) = run(compacts(), &expected, &found);
        prop_assert_eq!(differences, []);
        prop_assert_eq!(counts.compared + counts.compacted, expected.len() as u64);
        if must.is_empty() {
            return Ok(());
        }
        let lost = BASE + must[lost.index(must.len())] as i64;
        let found: Vec<Own> = found.into_iter().filter(|record| record.offset != lost).collect();
        let (_, differences) = run(compacts(), &expected, &found);
        prop_assert_eq!(brief(&differences), [(lost, Field::Record, "a record", "none")]);
    }
}
