//! The Report of a run is lost: its pod is gone before any controller has seen it. Needs `cargo lab up` and the installed operator.
//!
//! A file of its own: the operator is away meanwhile.

mod slow_backup;

use kafka_backup_tests::operator;
use serde_json::json;
use slow_backup::{RECORDS, place};

#[test]
fn a_lost_report_is_told_by_a_repetition_that_moves_nothing() {
    let place = place("t-lost-report");
    let scale = |replicas: u32| {
        let replicas = format!("--replicas={replicas}");
        let args = [
            "--namespace",
            operator::NAMESPACE,
            "scale",
            "deployment",
            operator::NAME,
            &replicas,
        ];
        operator::kubectl(&place.lab, &args).unwrap();
    };
    place.start_slow_backup();
    place.wait_for_segments(3);
    let job = place.backup()["status"]["activeRun"]["job"]
        .as_str()
        .unwrap()
        .to_owned();
    scale(0);
    place.kubectl(&[
        "wait",
        "--for=condition=Complete",
        &format!("job/{job}"),
        "--timeout=180s",
    ]);
    place.kubectl(&["delete", "pods", "--all", "--timeout=60s"]);
    let stored = place.segments();
    scale(1);
    operator::rolled_out(&place.lab, operator::NAMESPACE).unwrap();
    let object = place.finished("kafkabackup", "slow");
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["records"]),
        (&json!("success"), &json!(RECORDS))
    );
    assert_eq!(run["job"], format!("{job}-r"), "{object}");
    assert_eq!(place.segments(), stored);
    place.assert_counted_once();
}
