//! Backups with a codec of their own: stored, read by Kafka's tools, restored, compared. Needs `cargo lab up kafka`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading, Transactions};
use kafka_backup_tests::lab::{Lab, net};
use kafka_backup_tests::worker::stored_segments;
use serde_json::Value;

const CODECS: [&str; 5] = ["zstd", "lz4", "gzip", "snappy", "none"];

fn worker(lab: &Lab, args: &[&str], folder: &Path) -> Value {
    let program = lab.target().join("release/kafka-backup-worker");
    let output = net::command(lab, &program)
        .unwrap()
        .args(args)
        .args(["--output", "json", "--folder"])
        .arg(folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{args:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn backup(lab: &Lab, topics: &str, options: &[&str], folder: &Path) -> Value {
    let source = SOURCE.bootstrap(lab);
    let args = [
        "backup",
        "--name",
        "packed",
        "--bootstrap-servers",
        &source,
        "--topics",
        topics,
    ];
    worker(lab, &[&args[..], options].concat(), folder)
}

fn forget(lab: &Lab, bootstrap: &str, of: &str) {
    tools::delete_topics_where(lab, bootstrap, |topic| topic.starts_with(of)).unwrap();
}

/// Topics of every kind that matters to who joins batches; the last one is compacted until it has holes.
fn produce_topics(lab: &Lab, source: &str) -> Vec<&'static str> {
    let single = [("batch.size", "0"), ("linger.ms", "0")];
    let append_time = [("message.timestamp.type", "LogAppendTime")];
    let common = Produce {
        records: 3000,
        size: 300,
        ..Produce::default()
    };
    let topics = [
        Produce {
            topic: "packed-single",
            partitions: 2,
            producer_config: &single,
            ..common.clone()
        },
        Produce {
            topic: "packed-lz4",
            compression: "lz4",
            ..common.clone()
        },
        Produce {
            topic: "packed-zstd",
            compression: "zstd",
            ..common.clone()
        },
        Produce {
            topic: "packed-committed",
            transactions: Some(Transactions {
                id: "packed",
                records: 100,
                abort_every: 3,
            }),
            ..common.clone()
        },
        Produce {
            topic: "packed-stamped",
            create: Some(&append_time),
            ..common.clone()
        },
    ];
    for topic in &topics {
        tools::produce(lab, source, topic).unwrap();
    }
    vec![
        "packed-single",
        "packed-lz4",
        "packed-zstd",
        "packed-committed",
        "packed-stamped",
        "packed-compacted",
    ]
}

/// Keys that were written twice, until the cleaner has left holes.
fn produce_compacted(lab: &Lab, source: &str) {
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("segment.ms", "200"),
    ];
    let mut what = Produce {
        topic: "packed-compacted",
        records: 2000,
        size: 100,
        null_keys_every: 0,
        create: Some(&configs),
        ..Produce::default()
    };
    tools::produce(lab, source, &what).unwrap();
    what.create = None;
    (what.first, what.records) = (500, 700);
    tools::produce(lab, source, &what).unwrap();
    // The cleaner takes what is closed: a record that comes later closes what is older than `segment.ms`.
    let deadline = Instant::now() + Duration::from_secs(60);
    for first in 5000.. {
        (what.first, what.records) = (first, 1);
        tools::produce(lab, source, &what).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let report = backup(lab, what.topic, &[], folder.path());
        if report["records"].as_u64().unwrap() < 2700 {
            return;
        }
        assert!(Instant::now() < deadline, "the cleaner did not come");
    }
}

#[test]
fn every_codec_is_read_by_kafka_and_comes_back_record_by_record() {
    let lab = Lab::open().unwrap();
    let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
    forget(&lab, &source, "packed-");
    forget(&lab, &target, "packed-");
    produce_compacted(&lab, &source);
    let topics = produce_topics(&lab, &source);

    let folder = tempfile::tempdir().unwrap();
    let reading = Reading {
        committed_only: true,
        append_time_as_create: true,
    };
    let (mut segments, mut records) = (Vec::new(), 0);
    for codec in CODECS {
        let folder = folder.path().join(codec);
        std::fs::create_dir(&folder).unwrap();
        let report = backup(&lab, "packed-*", &["--compression", codec], &folder);
        records += report["records"].as_u64().unwrap();
        segments.extend(stored_segments(&folder).unwrap());
        let names: Vec<String> = topics.iter().map(|t| format!("{t}-{codec}")).collect();
        let mapping: Vec<String> = topics
            .iter()
            .zip(&names)
            .map(|(topic, name)| format!("{topic}={name}"))
            .collect();
        let mapping = mapping.join(",");
        let args = [
            "restore",
            "--name",
            codec,
            "--backup-id",
            "latest",
            "--bootstrap-servers",
            &target,
            "--topic-mapping",
            &mapping,
        ];
        worker(&lab, &args, &folder);
        let names = names.iter().map(String::as_str);
        let pairs: Vec<(&str, &str)> = topics.iter().copied().zip(names).collect();
        let compared = tools::compare(&lab, &source, &target, &pairs, reading).unwrap();
        assert_eq!(compared.topics.len(), topics.len());
        assert!(compared.equal, "{codec}: {compared:#?}");
    }

    let paths: Vec<&Path> = segments.iter().map(PathBuf::as_path).collect();
    let text = tools::dump_log_segments(&lab, &paths, false).unwrap();
    assert!(
        !text.contains("invalid bytes") && !text.contains("isvalid: false"),
        "{text}"
    );
    let batches: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("baseOffset: "))
        .collect();
    let number = |line: &str, field: &str| -> u64 {
        let value = line.split(field).nth(1).unwrap();
        value.split(' ').next().unwrap().parse().unwrap()
    };
    let counted: u64 = batches.iter().map(|line| number(line, " count: ")).sum();
    assert_eq!(counted, records);
    for codec in CODECS {
        let own = format!("compresscodec: {codec}");
        assert!(batches.iter().any(|line| line.contains(&own)), "{codec}");
    }
    // 3000 single records in two partitions, and whatever else there is, took a few batches for each codec.
    assert!(batches.len() < 100 * CODECS.len(), "{}", batches.len());
}

#[test]
fn another_codec_continues_the_generation() {
    let lab = Lab::open().unwrap();
    let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
    forget(&lab, &source, "repacked");
    forget(&lab, &target, "repacked");
    let mut what = Produce {
        topic: "repacked",
        size: 300,
        ..Produce::default()
    };
    tools::produce(&lab, &source, &what).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let first = ["--run", "packed-20260101-000000"];
    backup(&lab, "repacked", &first, folder.path());
    what.create = None;
    what.first = what.records;
    tools::produce(&lab, &source, &what).unwrap();
    let second = [
        "--run",
        "packed-20260102-000000",
        "--compression",
        "zstd",
        "--compression-level",
        "12",
        "--bytes-per-second",
        "100000",
    ];
    let begun = Instant::now();
    let report = backup(&lab, "repacked", &second, folder.path());
    assert_eq!(report["records"], what.records, "only what is new");
    // Some 300 KB had to come through at 100 KB/s; without the limit it takes no time.
    assert!(begun.elapsed() > Duration::from_secs(2), "{report}");
    let generations: Vec<PathBuf> = stored_segments(folder.path())
        .unwrap()
        .iter()
        .map(|file| file.parent().unwrap().to_owned())
        .collect();
    assert!(generations.len() > 1 && generations.iter().all(|it| *it == generations[0]));

    let args = [
        "restore",
        "--name",
        "repacked",
        "--backup-id",
        "latest",
        "--bootstrap-servers",
        &target,
    ];
    worker(&lab, &args, folder.path());
    let same = [("repacked", "repacked")];
    let compared = tools::compare(&lab, &source, &target, &same, Reading::default()).unwrap();
    assert!(compared.equal, "{compared:#?}");
}
