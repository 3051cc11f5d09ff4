//! The witnesses that other tests rely on must themselves be able to see a difference. Needs `cargo lab up kafka`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{
    self as tools, Comparison, Offsets, Produce, Reading, Transactions,
};
use kafka_backup_tests::lab::{Lab, LabError, process};

/// A lab whose brokers run, and the bootstrap servers of both clusters.
fn lab() -> (Lab, String, String) {
    let lab = Lab::open().unwrap();
    assert!(
        process::is_running(&lab, &SOURCE.broker(1)),
        "the brokers are not up: run `cargo lab up kafka`"
    );
    let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
    (lab, source, target)
}

/// Topics of one test on both clusters, new and empty.
fn fresh(lab: &Lab, topics: &[(&str, &str)]) {
    for (bootstrap, topic) in topics {
        match tools::delete_topics(lab, bootstrap, &[topic]) {
            Ok(()) => {}
            Err(LabError::Program { output, .. }) if output.contains("UnknownTopicOrPartition") => {
            }
            Err(error) => panic!("{error}"),
        }
    }
}

fn compare(reading: Reading, topic: &str) -> Comparison {
    let (lab, source, target) = lab();
    tools::compare(&lab, &source, &target, &[(topic, topic)], reading).unwrap()
}

#[test]
fn same_seed_is_equal_and_one_other_record_is_seen() {
    let (lab, source, target) = lab();
    fresh(&lab, &[(&source, "tools-seed"), (&target, "tools-seed")]);
    let config: &[(&str, &str)] = &[("retention.ms", "-1")];
    let what = Produce {
        topic: "tools-seed",
        partitions: 3,
        records: 5000,
        timestamps: Some((1_700_000_000_000, 7)),
        create: Some(config),
        ..Produce::default()
    };
    let produced = tools::produce(&lab, &source, &what).unwrap();
    assert_eq!((produced.records, produced.aborted), (5000, 0));
    tools::produce(
        &lab,
        &target,
        &Produce {
            compression: "zstd",
            ..what.clone()
        },
    )
    .unwrap();
    let same = compare(Reading::default(), "tools-seed");
    assert!(same.equal, "{same:?}");
    assert_eq!(
        (same.topics[0].records, same.topics[0].target_records),
        (5000, 5000)
    );
    assert_eq!(
        (same.topics[0].bytes, same.topics[0].partitions),
        (produced.bytes, 3)
    );

    let one_more = Produce {
        records: 1,
        first: 5000,
        create: None,
        ..what
    };
    tools::produce(&lab, &target, &one_more).unwrap();
    let other = compare(Reading::default(), "tools-seed");
    assert!(!other.equal);
    assert_eq!(
        (other.topics[0].records, other.topics[0].target_records),
        (5000, 5001)
    );
    let (seen, place) = (
        &other.topics[0].differences[0],
        "partition 2, record 1666: missing in the source",
    );
    assert!(seen.starts_with(place), "{seen}");
}

#[test]
fn one_wrong_thing_in_a_copy_is_seen() {
    let (lab, source, _) = lab();
    // What is wrong in the copy of that name, and where; what is not listed must be equal.
    let expected = [
        ("key", "record 4: key"),
        ("key-empty-for-null", "record 1: key"),
        ("key-null-for-empty", "record 2: key"),
        ("value", "record 4: value"),
        ("value-empty-for-null", "record 5: value"),
        ("value-null-for-empty", "record 6: value"),
        ("timestamp", "record 4: timestamp"),
        ("header-order", "record 3: headers"),
        ("header-duplicate-dropped", "record 3: headers"),
        ("header-added", "record 3: headers"),
        ("header-value", "record 3: headers"),
        ("header-empty-for-null", "record 3: headers"),
        ("header-key", "record 3: headers"),
        ("pair-swapped", "record 7: key"),
        ("record-missing", "record 7: key"),
        ("last-missing", "record 9: missing in the source"),
        ("record-doubled", "record 8: key"),
    ];
    let copies = tools::seeded(&lab, &source, "seeded").unwrap();
    assert_eq!(copies.len(), expected.len() + 2, "{copies:?}");
    // Many copies of one topic: the copies stand where the source is, which is named once only.
    let pairs: Vec<(&str, &str)> = copies
        .iter()
        .map(|copy| (copy.as_str(), "seeded.original"))
        .collect();
    for committed_only in [false, true] {
        let reading = Reading {
            committed_only,
            ..Reading::default()
        };
        let found = tools::compare(&lab, &source, &source, &pairs, reading).unwrap();
        assert!(!found.equal);
        for topic in &found.topics {
            let seen = topic.differences.first();
            let seen = seen.and_then(|text| text.strip_prefix("partition 0, ")?.split(';').next());
            let name = topic.topic.trim_start_matches("seeded.");
            let wrong = expected.iter().find(|(wrong, _)| *wrong == name);
            assert_eq!(seen, wrong.map(|(_, place)| *place), "{topic:?}");
            assert_eq!(topic.equal, wrong.is_none(), "{topic:?}");
        }
    }
}

#[test]
fn another_number_of_partitions_is_seen() {
    let (lab, source, target) = lab();
    let topic = "tools-partitions";
    fresh(&lab, &[(&source, topic), (&target, topic)]);
    tools::create_topic(&lab, &source, topic, 1, &[]).unwrap();
    tools::create_topic(&lab, &target, topic, 2, &[]).unwrap();
    let found = compare(Reading::default(), topic);
    assert!(!found.equal);
    assert_eq!(
        found.topics[0].differences,
        ["partitions: source has 1, target has 2"]
    );
}

#[test]
fn aborted_transactions_count_only_when_uncommitted_is_read() {
    let (lab, source, target) = lab();
    fresh(&lab, &[(&source, "tools-txn"), (&target, "tools-txn")]);
    let what = Produce {
        topic: "tools-txn",
        records: 100,
        ..Produce::default()
    };
    let transactions = Transactions {
        id: "tools-txn",
        records: 10,
        abort_every: 5,
    };
    let produced = tools::produce(
        &lab,
        &source,
        &Produce {
            transactions: Some(transactions),
            ..what.clone()
        },
    )
    .unwrap();
    assert_eq!((produced.records, produced.aborted), (80, 20));
    tools::produce(&lab, &target, &what).unwrap();
    let committed = Reading {
        committed_only: true,
        ..Reading::default()
    };
    assert_eq!(compare(committed, "tools-txn").topics[0].records, 80);
    assert_eq!(
        compare(Reading::default(), "tools-txn").topics[0].records,
        100
    );
    // 100 records and ten markers.
    assert_eq!(
        tools::offsets(&lab, &source, "tools-txn").unwrap(),
        [Offsets {
            partition: 0,
            start: 0,
            end: 110
        }]
    );
}

#[test]
fn append_time_must_come_back_as_create_time() {
    let (lab, source, target) = lab();
    fresh(
        &lab,
        &[(&source, "tools-append"), (&target, "tools-append")],
    );
    let append: &[(&str, &str)] = &[("message.timestamp.type", "LogAppendTime")];
    let what = Produce {
        topic: "tools-append",
        records: 10,
        create: Some(append),
        ..Produce::default()
    };
    tools::produce(&lab, &source, &what).unwrap();
    // The same topic as its own restore: times are equal, but the type is append time still.
    let own = tools::compare(
        &lab,
        &source,
        &source,
        &[("tools-append", "tools-append")],
        Reading::default(),
    );
    assert!(own.unwrap().equal);
    let asked = Reading {
        append_time_as_create: true,
        ..Reading::default()
    };
    let own = tools::compare(
        &lab,
        &source,
        &source,
        &[("tools-append", "tools-append")],
        asked,
    )
    .unwrap();
    assert!(
        own.topics[0].differences[0].contains("timestamp type"),
        "{own:?}"
    );
}

#[test]
fn topics_are_administered() {
    let (lab, source, _) = lab();
    fresh(&lab, &[(&source, "tools-admin")]);
    tools::create_topic(
        &lab,
        &source,
        "tools-admin",
        2,
        &[("cleanup.policy", "compact,delete")],
    )
    .unwrap();
    tools::alter_topic(&lab, &source, "tools-admin", &[("retention.ms", "-1")]).unwrap();
    let config = tools::topic_config(&lab, &source, "tools-admin").unwrap();
    assert_eq!(
        config.get("cleanup.policy").map(String::as_str),
        Some("compact,delete")
    );
    assert_eq!(config.get("retention.ms").map(String::as_str), Some("-1"));
    tools::grow_topic(&lab, &source, "tools-admin", 4).unwrap();
    let what = Produce {
        topic: "tools-admin",
        partitions: 4,
        records: 40,
        null_keys_every: 0,
        create: None,
        ..Produce::default()
    };
    tools::produce(&lab, &source, &what).unwrap();
    tools::delete_records(&lab, &source, "tools-admin", &[(1, 4), (3, 10)]).unwrap();
    let offsets: Vec<_> = tools::offsets(&lab, &source, "tools-admin")
        .unwrap()
        .iter()
        .map(|o| (o.start, o.end))
        .collect();
    assert_eq!(offsets, [(0, 10), (4, 10), (0, 10), (10, 10)]);
    assert!(
        tools::list_topics(&lab, &source)
            .unwrap()
            .contains(&"tools-admin".to_owned())
    );
}

#[test]
fn dump_reads_a_broker_segment() {
    let (lab, source, _) = lab();
    fresh(&lab, &[(&source, "tools-dump")]);
    tools::produce(
        &lab,
        &source,
        &Produce {
            topic: "tools-dump",
            records: 12,
            ..Produce::default()
        },
    )
    .unwrap();
    let segment = SOURCE
        .data(&lab, 1)
        .join("tools-dump-0/00000000000000000000.log");
    let text = tools::dump_log_segments(&lab, &[&segment], false).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.trim_start().starts_with("| offset:"))
            .count(),
        12,
        "{text}"
    );
}
