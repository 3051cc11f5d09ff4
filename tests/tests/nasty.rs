//! Nasty topics through the worker, there and back: what the archive holds and what is restored equals the source, record by record,
//! by Kafka's own consumer and classes. Needs `cargo lab up kafka store`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Reading};
use kafka_backup_tests::lab::{Lab, store};
use kafka_backup_tests::worker::{report as report_of, stored_segments};

const COMMITTED: Reading = Reading {
    committed_only: true,
    append_time_as_create: false,
};

#[test]
fn nasty_topics_come_back_as_they_were() {
    let lab = Lab::open().unwrap();
    let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
    let topics = tools::nasty(&lab, &source, "nasty").unwrap();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let backup = |name: &str, more: &[&str]| {
        let mut args = vec!["backup", "--name", name, "--bootstrap-servers", &source];
        args.extend(["--topics", "nasty.*"].iter().chain(more));
        report_of(&lab, &args).unwrap()
    };

    // The archive holds what a consumer sees, at the same offsets, in segments that Kafka's own tool reads.
    let folder = tempfile::tempdir().unwrap();
    let place = ["--folder", folder.path().to_str().unwrap()];
    let report = backup("nasty", &place);
    let archive = folder.path().join("default/nasty");
    let run = report["run"]["run"].as_str().unwrap();
    let stored =
        tools::compare_with_archive(&lab, &source, &archive, run, &topics, COMMITTED).unwrap();
    stored.assert_equal();
    // The topics are what they are meant to be.
    let counted = |topic: &str| {
        let found = stored.topics.iter().find(|it| it.topic == topic);
        found.unwrap_or_else(|| panic!("no {topic}")).records
    };
    let expected = [
        ("nasty.compacted", 42),
        ("nasty.transactions", 55),
        ("nasty.bytes", 66),
        ("nasty.trimmed", 64),
        ("nasty.empty", 0),
    ];
    for (topic, records) in expected {
        assert_eq!(counted(topic), records, "{topic}");
    }
    let segments = stored_segments(folder.path()).unwrap();
    let segments: Vec<&Path> = segments.iter().map(PathBuf::as_path).collect();
    let dumped = tools::dump_log_segments(&lab, &segments, false).unwrap();
    assert!(
        !dumped.contains("invalid bytes") && !dumped.contains("isvalid: false"),
        "{dumped}"
    );
    // One record at another offset is seen. The base offset, at the start of a batch, is not part of its CRC.
    let segment = segments
        .iter()
        .find(|path| path.display().to_string().contains("/nasty.single/"))
        .unwrap();
    let mut bytes = std::fs::read(segment).unwrap();
    bytes[7] += 1;
    std::fs::write(segment, bytes).unwrap();
    let moved = ["nasty.single"];
    let moved = tools::compare_with_archive(&lab, &source, &archive, run, &moved, COMMITTED);
    let moved = moved.unwrap().topics.remove(0).differences.remove(0);
    assert!(
        moved.starts_with("partition 0, record 0: offset"),
        "{moved}"
    );

    // Who wants all that was written gets that.
    let all = [&place[..], &["--isolation-level", "read_uncommitted"]].concat();
    let report = backup("all", &all);
    let archive = folder.path().join("default/all");
    let run = report["run"]["run"].as_str().unwrap();
    tools::compare_with_archive(&lab, &source, &archive, run, &topics, Reading::default())
        .unwrap()
        .assert_equal();

    // From a real store into another cluster under other names, of which the longest is as long as names may be.
    let renamed: Vec<String> = topics
        .iter()
        .map(|topic| topic.replacen("nasty", "again", 1))
        .collect();
    let pairs: Vec<(&str, &str)> = topics
        .iter()
        .copied()
        .zip(renamed.iter().map(String::as_str))
        .collect();
    let is_one = |name: &str| renamed.iter().any(|it| it == name);
    tools::delete_topics_where(&lab, &target, is_one).unwrap();
    let s3 = s3_args(&fresh_prefix());
    let s3: Vec<&str> = s3.iter().map(String::as_str).collect();
    backup("nasty", &s3);
    let mapping: Vec<String> = pairs
        .iter()
        .map(|(from, to)| format!("{from}={to}"))
        .collect();
    let mut restore = vec!["restore", "--name", "again", "--archive", "default/nasty"];
    restore.extend(["--backup-id", "latest", "--bootstrap-servers", &target]);
    restore.extend(["--topics", "*"].iter().chain(&s3));
    restore.extend(mapping.iter().flat_map(|it| ["--topic-mapping", it]));
    report_of(&lab, &restore).unwrap();
    let reading = Reading {
        append_time_as_create: true,
        ..COMMITTED
    };
    tools::compare(&lab, &source, &target, &pairs, reading)
        .unwrap()
        .assert_equal();
}

/// Where no earlier test has stored anything.
fn fresh_prefix() -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    format!("nasty-{}", now.as_millis())
}

fn s3_args(prefix: &str) -> Vec<String> {
    [
        "--s3-bucket",
        store::BUCKET,
        "--s3-prefix",
        prefix,
        "--s3-endpoint",
        store::ENDPOINT,
        "--s3-path-style",
        "--s3-allow-http",
    ]
    .map(str::to_owned)
    .into()
}
