//! The main road: from an object to restored records, through every real part. Needs `cargo lab up` and the installed operator.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use kafka_backup_tests::demo::{self, Demo};
use kafka_backup_tests::lab::kafka::SOURCE;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Transactions};
use kafka_backup_tests::lab::{Lab, net, prometheus, wait_for};
use kafka_backup_tests::operator;
use kafka_backup_tests::worker::stored_segments;

#[test]
fn restored_topics_equal_the_source_record_by_record() {
    let lab = Lab::open().unwrap();
    let demo = Demo {
        namespace: "t-main".into(),
        records: 60_000,
        size: 1024,
    };
    let shown = demo::run(&lab, &demo).unwrap();

    assert_eq!(shown.comparison.topics.len(), 3);
    assert_eq!(shown.backup["status"]["lastBackupRecords"], 60_000);
    assert_eq!(shown.restore["status"]["restoredRecords"], 60_000);
    // Asked for was the newest.
    let backup_id = &shown.backup["status"]["lastBackupId"];
    assert!(backup_id.is_string());
    assert_eq!(&shown.restore["status"]["backupId"], backup_id);
    let history = &shown.backup["status"]["backupHistory"][0];
    assert_eq!(
        (&history["outcome"], &history["records"]),
        (&"success".into(), &60_000.into())
    );
    for (object, kind) in [
        (&shown.backup, "KafkaBackup"),
        (&shown.restore, "KafkaRestore"),
    ] {
        let conditions = object["status"]["conditions"].as_array().unwrap();
        let of = |name: &str| {
            conditions
                .iter()
                .find(|c| c["type"] == name)
                .unwrap_or_else(|| panic!("{kind} has no condition {name}"))
        };
        assert_eq!(of("Ready")["status"], "True", "{kind}");
        assert_eq!(of("Succeeded")["status"], "True", "{kind}");
        let events = operator::events(&lab, "t-main", kind, "shop").unwrap();
        assert!(
            events.len() >= 2,
            "a run that starts and ends is told by Events, found {events:?}"
        );
    }
}

#[test]
fn kafkas_own_dump_tool_reads_every_stored_segment() {
    let lab = Lab::open().unwrap();
    let source = SOURCE.bootstrap(&lab);
    let topics = [
        ("dump-plain", "none"),
        ("dump-lz4", "lz4"),
        ("dump-zstd", "zstd"),
        ("dump-transactional", "gzip"),
    ];
    let existing = tools::list_topics(&lab, &source).unwrap();
    let mut committed = 0;
    for (topic, compression) in topics {
        if existing.iter().any(|name| name == topic) {
            tools::delete_topics(&lab, &source, &[topic]).unwrap();
        }
        let transactions = Transactions {
            id: topic,
            records: 500,
            abort_every: 3,
        };
        let what = Produce {
            topic,
            partitions: 2,
            records: 20_000,
            compression,
            transactions: topic.ends_with("transactional").then_some(transactions),
            ..Produce::default()
        };
        committed += tools::produce(&lab, &source, &what).unwrap().records;
    }
    let folder = tempfile::tempdir().unwrap();
    let worker = lab.target().join("release/kafka-backup-worker");
    let backup = net::command(&lab, &worker)
        .unwrap()
        .args([
            "backup",
            "--name",
            "dump",
            "--bootstrap-servers",
            &source,
            "--topics",
            "dump-*",
            "--folder",
        ])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(
        backup.status.success(),
        "{}",
        String::from_utf8_lossy(&backup.stderr)
    );

    let segments = stored_segments(folder.path()).unwrap();
    assert!(segments.len() >= 8, "{segments:?}");
    let segments: Vec<&Path> = segments.iter().map(PathBuf::as_path).collect();
    let text = tools::dump_log_segments(&lab, &segments, false).unwrap();
    assert!(
        !text.contains("invalid bytes") && !text.contains("isvalid: false"),
        "{text}"
    );
    let counted: u64 = text
        .lines()
        .filter(|line| line.starts_with("baseOffset: "))
        .filter_map(|line| {
            line.split(" count: ")
                .nth(1)?
                .split(' ')
                .next()?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(counted, committed);
}

#[test]
fn the_page_passes_promtool() {
    let lab = Lab::open().unwrap();
    let page = operator::metrics(&lab).unwrap();
    let file = lab.run.join("page.prom");
    std::fs::write(&file, &page).unwrap();
    let promtool = prometheus::program(&lab, "promtool").unwrap();
    let checked = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::from(std::fs::File::open(&file).unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned()
        + &String::from_utf8_lossy(&checked.stdout);
    assert!(
        checked.status.success() && said.trim().is_empty(),
        "{said}\n{page}"
    );
}

#[test]
fn health_is_served_on_8081() {
    let lab = Lab::open().unwrap();
    let pods = operator::list(&lab, operator::NAMESPACE, "pods").unwrap();
    let address = pods[0]["status"]["podIP"].as_str().unwrap();
    for path in ["healthz", "readyz"] {
        let status = net::command(&lab, "curl")
            .unwrap()
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--max-time",
                "5",
                &format!("http://{address}:8081/{path}"),
            ])
            .status()
            .unwrap();
        assert!(status.success(), "{path}");
    }
}

/// As the page says it, but for the local port, which the lab's store has; the families of its sample output come back.
#[test]
fn the_page_is_reached_through_port_forward() {
    let lab = Lab::open().unwrap();
    let mut forward = lab.kubectl().unwrap();
    let words = "port-forward -n kafka-backup deployment/kafka-backup-operator 28080:8080";
    let mut forward = forward
        .args(words.split(' '))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut page = String::new();
    let fetched = wait_for("the forwarded page", Duration::from_secs(30), || {
        let mut curl = net::command(&lab, "curl").unwrap();
        let curl = curl.args([
            "--silent",
            "--fail",
            "--max-time",
            "10",
            "http://localhost:28080/metrics",
        ]);
        let answer = curl.output().unwrap();
        page = String::from_utf8(answer.stdout).unwrap();
        answer.status.success()
    });
    forward.kill().unwrap();
    forward.wait().unwrap();
    fetched.unwrap();
    for line in [
        "# TYPE kafka_backup_backups_total counter",
        "# TYPE kafka_backup_backup_duration_seconds histogram",
        "# TYPE kafka_backup_last_successful_backup_timestamp gauge",
    ] {
        assert!(page.lines().any(|found| found == line), "{line}");
    }
}
