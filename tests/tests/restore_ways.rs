//! Nasty topics restored in every way that a restore knows: what arrives is what Kafka's own consumer reads in the source, chosen,
//! moved, dealt out and marked by the comparer's own code. Needs `cargo lab up kafka`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Reading, View};
use kafka_backup_tests::worker::report;
use serde_json::Value;

/// The oldest time but for 0 that the nasty topics have.
const PAST: i64 = 1_600_000_000_000;

const READING: Reading = Reading {
    committed_only: true,
    append_time_as_create: true,
};

/// A backup of nasty topics.
struct Backup {
    lab: Lab,
    source: String,
    target: String,
    folder: tempfile::TempDir,
    topics: Vec<String>,
}

impl Backup {
    fn new(lab: Lab) -> Self {
        let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
        let topics = tools::nasty(&lab, &source, "ways").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let backup = Self {
            lab,
            source,
            target,
            folder,
            topics,
        };
        let place = backup.place();
        let mut args = vec!["backup", "--name", "ways", "--topics", "ways.*"];
        args.extend(["--source-cluster-id", "shop"]);
        args.extend(["--bootstrap-servers", &backup.source, "--folder", &place]);
        report(&backup.lab, &args).unwrap();
        backup
    }

    fn place(&self) -> String {
        self.folder.path().display().to_string()
    }

    /// Topics whose name has none of `without`, each with its target's name.
    fn pairs<'a>(&'a self, targets: &'a [String], without: &[&str]) -> Vec<(&'a str, &'a str)> {
        let pairs = self.topics.iter().zip(targets);
        pairs
            .map(|(from, to)| (from.as_str(), to.as_str()))
            .filter(|(from, _)| !without.iter().any(|part| from.contains(part)))
            .collect()
    }

    /// Names of target topics, which do not exist. The longest name leaves room for no longer prefix than the source has.
    fn targets(&self, prefix: &str) -> Vec<String> {
        let named = |topic: &String| topic.replacen("ways", prefix, 1);
        let targets: Vec<String> = self.topics.iter().map(named).collect();
        let is_one = |name: &str| targets.iter().any(|target| target == name);
        tools::delete_topics_where(&self.lab, &self.target, is_one).unwrap();
        targets
    }

    /// Restores after a dry run, which must have told the same counts and left nothing.
    fn restore(&self, name: &str, pairs: &[(&str, &str)], more: &[&str]) -> Value {
        let place = self.place();
        let mapping: Vec<String> = pairs
            .iter()
            .map(|(from, to)| format!("{from}={to}"))
            .collect();
        let mut args = vec!["restore", "--name", name, "--backup-id", "latest"];
        args.extend(["--bootstrap-servers", &self.target, "--folder", &place]);
        let topics: Vec<&str> = pairs.iter().map(|(from, _)| *from).collect();
        let topics = topics.join(",");
        args.extend(["--topics", &topics]);
        args.extend(mapping.iter().flat_map(|it| ["--topic-mapping", it]));
        args.extend(more);
        let restores = self.folder.path().join("default/ways/restores");
        let before = count(&restores);
        let dry = report(&self.lab, &[&args[..], &["--dry-run"]].concat()).unwrap();
        assert_eq!(count(&restores), before, "a dry run has stored something");
        let real = report(&self.lab, &args).unwrap();
        assert_eq!(dry["records"], 0);
        assert_eq!(dry["dryRun"]["records"], real["records"], "{name}");
        assert_eq!(dry["dryRun"]["bytes"], real["bytes"], "{name}");
        assert_eq!(dry["topics"], real["topics"], "{name}");
        real
    }

    fn assert_equal(&self, pairs: &[(&str, &str)], view: &View<'_>) {
        tools::compare_view(&self.lab, &self.source, &self.target, pairs, READING, view)
            .unwrap()
            .assert_equal();
    }
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn every_way_brings_back_what_it_should() {
    let backup = Backup::new(Lab::open().unwrap());
    points_in_time(&backup);
    moved_partitions(&backup);
    by_key(&backup);
    marked(&backup);
    behind_and_instead(&backup);
}

fn points_in_time(backup: &Backup) {
    let ranges = [
        (None, Some(PAST + 2)),
        (Some(PAST + 1), None),
        (Some(0), Some(PAST + 2)),
    ];
    for (index, (from_ms, until_ms)) in ranges.into_iter().enumerate() {
        let targets = backup.targets(&format!("tim{index}"));
        let pairs = backup.pairs(&targets, &[]);
        let (from, until) = (
            from_ms.map(|ms| ms.to_string()),
            until_ms.map(|ms| ms.to_string()),
        );
        let mut more = Vec::new();
        if let Some(from) = &from {
            more.extend(["--pitr-start-timestamp-millis", from]);
        }
        if let Some(until) = &until {
            more.extend(["--pitr-timestamp-millis", until]);
        }
        let real = backup.restore(&format!("time{index}"), &pairs, &more);
        assert!(real["records"].as_u64().unwrap() > 0, "{real}");
        let view = View {
            from_ms,
            until_ms,
            ..View::default()
        };
        backup.assert_equal(&pairs, &view);
    }
}

fn moved_partitions(backup: &Backup) {
    let targets = backup.targets("move");
    // Two have one partition, and one has a seventh, which another one would meet.
    let pairs = backup.pairs(&targets, &["single", "long_", "codecs"]);
    let moves = [(0, 1), (1, 6)];
    let flags: Vec<String> = pairs
        .iter()
        .flat_map(|(from, _)| moves.map(|(a, b)| format!("{from}:{a}={b}")))
        .collect();
    let more: Vec<&str> = flags
        .iter()
        .flat_map(|flag| ["--partition-mapping", flag])
        .collect();
    backup.restore("moved", &pairs, &more);
    let view = View {
        moves: &moves,
        ..View::default()
    };
    backup.assert_equal(&pairs, &view);
}

fn by_key(backup: &Backup) {
    let targets = backup.targets("deal");
    let pairs = backup.pairs(&targets, &[]);
    let config = [
        ("retention.ms", "-1"),
        ("max.message.bytes", "12000000"),
        ("message.timestamp.after.max.ms", "9223372036854775807"),
    ];
    for (_, target) in &pairs {
        tools::create_topic(&backup.lab, &backup.target, target, 6, &config).unwrap();
    }
    backup.restore("dealt", &pairs, &["--repartition", "ByKey"]);
    let view = View {
        by_key: true,
        ..View::default()
    };
    backup.assert_equal(&pairs, &view);
}

fn marked(backup: &Backup) {
    let targets = backup.targets("mark");
    let pairs = backup.pairs(&targets, &[]);
    backup.restore("marked", &pairs, &["--include-original-offset-header"]);
    let view = View {
        provenance: Some("shop"),
        ..View::default()
    };
    backup.assert_equal(&pairs, &view);
}

fn behind_and_instead(backup: &Backup) {
    let targets = backup.targets("more");
    // Compacting what is there twice would leave less; and a topic that has append times by now takes no others.
    let pairs = backup.pairs(&targets, &["compacted", "append-time"]);
    backup.restore("first", &pairs, &[]);
    backup.restore("second", &pairs, &["--if-topic-not-empty", "Append"]);
    let twice = View {
        times: 2,
        ..View::default()
    };
    backup.assert_equal(&pairs, &twice);
    backup.restore("third", &pairs, &["--if-topic-not-empty", "Purge"]);
    backup.assert_equal(&pairs, &View::default());
}
