//! The witnesses that other tests rely on must themselves be able to see a difference. Needs `cargo lab up kafka`.

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
fn each_part_of_a_record_is_compared() {
    let (lab, source, target) = lab();
    let what = Produce {
        records: 1000,
        timestamps: Some((1_700_000_000_000, 0)),
        create: Some(&[("retention.ms", "-1")]),
        ..Produce::default()
    };
    let cases: [(&str, Produce<'_>, &str); 5] = [
        (
            "tools-headers",
            Produce {
                headers: 2,
                ..what.clone()
            },
            "headers",
        ),
        (
            "tools-key",
            Produce {
                null_keys_every: 500,
                ..what.clone()
            },
            "partition 0, record 16: key",
        ),
        (
            "tools-value",
            Produce {
                null_values_every: 0,
                ..what.clone()
            },
            "partition 0, record 100: value",
        ),
        (
            "tools-timestamp",
            Produce {
                timestamps: Some((1_700_000_000_000, 1)),
                ..what.clone()
            },
            "partition 0, record 1: timestamp;",
        ),
        (
            "tools-partitions",
            Produce {
                partitions: 2,
                ..what.clone()
            },
            "partitions: source has 1, target has 2",
        ),
    ];
    for (topic, other, expected) in cases {
        fresh(&lab, &[(&source, topic), (&target, topic)]);
        tools::produce(
            &lab,
            &source,
            &Produce {
                topic,
                ..what.clone()
            },
        )
        .unwrap();
        tools::produce(&lab, &target, &Produce { topic, ..other }).unwrap();
        let found = compare(Reading::default(), topic);
        assert!(!found.equal, "{topic}");
        assert!(
            found.topics[0].differences[0].contains(expected),
            "{topic}: {:?}",
            found.topics[0].differences
        );
    }
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
