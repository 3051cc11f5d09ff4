//! A client quota on the source cluster: the backup takes longer, and that is all. Needs `cargo lab up kafka`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use kafka_backup_tests::lab::kafka::SOURCE;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce};
use kafka_backup_tests::lab::{Lab, net, process};

const TOPIC: &str = "throttled";
const CLIENT: &str = "kafka-backup-worker";

/// A fetch quota on our client id, taken back when the test ends.
struct Quota<'a> {
    lab: &'a Lab,
}

impl<'a> Quota<'a> {
    fn set(lab: &'a Lab, bytes_per_second: &str) -> Self {
        alter(
            lab,
            &[
                "--add-config",
                &format!("consumer_byte_rate={bytes_per_second}"),
            ],
        );
        Self { lab }
    }
}

impl Drop for Quota<'_> {
    fn drop(&mut self) {
        alter(self.lab, &["--delete-config", "consumer_byte_rate"]);
    }
}

fn alter(lab: &Lab, change: &[&str]) {
    let bootstrap = SOURCE.bootstrap(lab);
    let entity = [
        "--bootstrap-server",
        &bootstrap,
        "--alter",
        "--entity-type",
        "clients",
        "--entity-name",
        CLIENT,
    ];
    let args = [&entity[..], change].concat();
    process::run(&mut tools::tool(lab, "kafka.admin.ConfigCommand", &args).unwrap()).unwrap();
}

#[test]
fn a_fetch_quota_slows_a_backup_and_fails_nothing() {
    let lab = Lab::open().unwrap();
    let bootstrap = SOURCE.bootstrap(&lab);
    if tools::list_topics(&lab, &bootstrap)
        .unwrap()
        .iter()
        .any(|topic| topic == TOPIC)
    {
        tools::delete_topics(&lab, &bootstrap, &[TOPIC]).unwrap();
    }
    let records = 10_000;
    tools::produce(
        &lab,
        &bootstrap,
        &Produce {
            topic: TOPIC,
            partitions: 2,
            records,
            ..Produce::default()
        },
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let _quota = Quota::set(&lab, "700000");
    let worker = lab.target().join("release/kafka-backup-worker");
    let start = Instant::now();
    let output = net::command(&lab, &worker)
        .unwrap()
        .args([
            "backup",
            "--name",
            "throttled",
            "--bootstrap-servers",
            &bootstrap,
            "--topics",
            TOPIC,
            "--output",
            "json",
        ])
        .arg("--folder")
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    // Else the quota was not in force, and the test shows nothing. Unthrottled it takes a tenth of that.
    assert!(
        start.elapsed() > Duration::from_secs(3),
        "the broker did not throttle"
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["records"], records, "{report}");
}
