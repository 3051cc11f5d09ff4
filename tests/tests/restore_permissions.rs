//! Brokers with an authorizer: what a restore lacks is told before its first write, by the permission's name and the object's, and what
//! a backup lacks as well. The cluster is this program's own; needs `cargo lab up net`.
#![allow(clippy::unwrap_used, reason = "a test")]

use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka::Cluster;
use kafka_backup_tests::lab::kafka_tools::{self as tools, AUTHORIZER, Produce, Reading};
use kafka_backup_tests::worker::{Worker, is_success};
use serde_json::Value;

const GUARDED: Cluster<'_> = Cluster {
    name: "guarded",
    port: 9792,
    extra: AUTHORIZER,
};

const SOURCE: &str = "guarded-source";
const RECORDS: u64 = 300;

/// What the exit code of a refused worker is.
const DENIED: i32 = 77;

/// All that the brokers themselves need, but for what is denied.
const CLUSTER: &str = "cluster:kafka-cluster:ALL";

struct Place {
    lab: Lab,
    bootstrap: String,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let lab = Lab::open().unwrap();
        // What an earlier run that failed has left.
        GUARDED.down(&lab).unwrap();
        GUARDED.up(&lab, 1).unwrap();
        let bootstrap = GUARDED.bootstrap(&lab);
        let place = Self {
            lab,
            bootstrap,
            folder: tempfile::tempdir().unwrap(),
        };
        place.produce(SOURCE);
        place
    }

    fn produce(&self, topic: &str) {
        let what = Produce {
            topic,
            partitions: 2,
            records: RECORDS,
            create: Some(&[("segment.ms", "3600000")]),
            ..Produce::default()
        };
        tools::produce(&self.lab, &self.bootstrap, &what).unwrap();
    }

    fn permit(&self, allow: &[&str], deny: &[&str]) {
        tools::set_acls(&self.lab, &self.bootstrap, allow, deny).unwrap();
    }

    /// A worker's exit code and report.
    fn work(&self, verb: &[&str]) -> (Option<i32>, Value) {
        let folder = self.folder.path().to_str().unwrap();
        let own = ["--bootstrap-servers", &self.bootstrap, "--folder", folder];
        let args = [verb, &own, &["--output", "json"]].concat();
        let (status, said) = Worker::start(&self.lab, &args).unwrap().end().unwrap();
        (status.code(), said)
    }

    fn restore(&self, name: &str, target: &str, more: &[&str]) -> (Option<i32>, Value) {
        let mapping = format!("{SOURCE}={target}");
        let verb = ["restore", "--name", name, "--backup-id", "latest"];
        let topics = ["--topics", SOURCE, "--topic-mapping", &mapping];
        self.work(&[&verb[..], &topics, more].concat())
    }

    /// Offsets that have records, in all partitions; `None`: there is no topic.
    fn filled(&self, topic: &str) -> Option<i64> {
        let there = tools::list_topics(&self.lab, &self.bootstrap).unwrap();
        there.iter().find(|name| *name == topic)?;
        let offsets = tools::offsets(&self.lab, &self.bootstrap, topic).unwrap();
        Some(offsets.iter().map(|it| it.end - it.start).sum())
    }
}

/// The worker was refused, and says what it lacks on what.
fn assert_names(said: &(Option<i32>, Value), permission: &str, object: &str) {
    let (code, report) = said;
    let message = report["message"].as_str().unwrap_or_default();
    assert_eq!(*code, Some(DENIED), "without {permission}: {report}");
    assert_eq!(report["fault"], "Denied", "{report}");
    assert!(
        message.contains(&format!("the permission {permission}")),
        "{permission} is not named: {message}"
    );
    assert!(message.contains(object), "{object} is not named: {message}");
}

#[test]
fn what_is_not_permitted_is_named_before_the_first_write() {
    let place = Place::new();

    // Backups.
    let backup = |name: &str| place.work(&["backup", "--name", name, "--topics", SOURCE]);
    for (operation, named) in [("READ", "Read"), ("DESCRIBE_CONFIGS", "DescribeConfigs")] {
        let deny = format!("topic:{SOURCE}:{operation}");
        place.permit(&[&format!("topic:{SOURCE}:ALL")], &[&deny]);
        // Of another name: within a second a run of the same name goes on where this one has stopped.
        assert_names(
            &backup(&format!("lacks-{named}").to_lowercase()),
            named,
            SOURCE,
        );
    }
    place.permit(&[], &[]);
    let (code, said) = backup("guarded");
    assert!(code == Some(0) && is_success(&said), "{said}");

    // Restores into a topic that is to be created.
    let topic = "guarded-created";
    let needed = [
        "WRITE",
        "DESCRIBE",
        "DESCRIBE_CONFIGS",
        "ALTER_CONFIGS",
        "CREATE",
    ];
    let allowed: Vec<String> = needed
        .iter()
        .map(|it| format!("topic:{topic}:{it}"))
        .collect();
    let mut allow: Vec<&str> = allowed.iter().map(String::as_str).collect();
    allow.push(CLUSTER);
    for (operation, named) in [
        ("WRITE", "Write"),
        ("DESCRIBE", "Describe"),
        ("DESCRIBE_CONFIGS", "DescribeConfigs"),
        ("ALTER_CONFIGS", "AlterConfigs"),
        ("CREATE", "Create"),
    ] {
        let mut deny = vec![format!("topic:{topic}:{operation}")];
        if operation == "CREATE" {
            // Either of the two is enough.
            deny.push("cluster:kafka-cluster:CREATE".to_owned());
        }
        let deny: Vec<&str> = deny.iter().map(String::as_str).collect();
        place.permit(&allow, &deny);
        let name = format!("lacks-{named}").to_lowercase();
        let said = place.restore(&name, topic, &[]);
        assert_names(&said, named, topic);
        place.permit(&[], &[]);
        match place.filled(topic) {
            Some(filled) => {
                assert_eq!(filled, 0, "without {operation} records were written");
                tools::delete_topics(&place.lab, &place.bootstrap, &[topic]).unwrap();
            }
            None => assert_ne!(
                operation, "WRITE",
                "nobody can tell before there is a topic"
            ),
        }
    }

    // No more is needed, and IdempotentWrite not, where Write is there.
    place.permit(&allow, &["cluster:kafka-cluster:IDEMPOTENT_WRITE"]);
    let (code, said) = place.restore("lacks-nothing", topic, &[]);
    assert!(code == Some(0) && is_success(&said), "{said}");
    place.permit(&[], &[]);
    let (own, reading) = (&place.bootstrap, Reading::default());
    let found = tools::compare(&place.lab, own, own, &[(SOURCE, topic)], reading).unwrap();
    assert!(found.equal, "{found:?}");

    // Restores into a topic with records, which are deleted first.
    let topic = "guarded-purged";
    place.produce(topic);
    for (operation, named) in [
        ("WRITE", "Write"),
        ("DELETE", "Delete"),
        ("ALTER_CONFIGS", "AlterConfigs"),
        ("DESCRIBE_CONFIGS", "DescribeConfigs"),
    ] {
        let deny = format!("topic:{topic}:{operation}");
        place.permit(&[&format!("topic:{topic}:ALL")], &[&deny]);
        let name = format!("purge-lacks-{named}").to_lowercase();
        let said = place.restore(&name, topic, &["--if-topic-not-empty", "Purge"]);
        assert_names(&said, named, topic);
        place.permit(&[], &[]);
        assert_eq!(
            place.filled(topic),
            Some(RECORDS as i64),
            "without {operation}"
        );
    }
    GUARDED.down(&place.lab).unwrap();
}
