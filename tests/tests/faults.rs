//! What dies in the middle of a run: the worker's process, the controller, the object. Needs `cargo lab up` and the installed operator.

mod slow_backup;

use std::time::Duration;

use kafka_backup_tests::lab::wait_for;
use kafka_backup_tests::operator;
use slow_backup::{RECORDS, RUN, controller_pids, kill, place, worker_pid};

#[test]
fn a_killed_worker_is_resumed_from_the_listing_and_counted_once() {
    let place = place("t-killed-worker");
    place.start_slow_backup();
    place.wait_for_segments(10);
    let uid = place.job_uid();
    let jobs = operator::list(&place.lab, place.namespace, "jobs").unwrap();
    assert_eq!(jobs.len(), 1, "the run is seen as a Job while it runs");
    assert_eq!(jobs[0]["status"]["active"], 1);

    kill(worker_pid(&uid).expect("the worker runs"));
    let stored = place.segments();

    let object = place.finished("kafkabackup", "slow");
    let run = &object["status"]["backupHistory"][0];
    assert_eq!(run["attempts"], 2, "the Job's next pod went on");
    assert_eq!(
        (&run["records"], &run["outcome"]),
        (&RECORDS.into(), &"success".into())
    );
    assert!(stored >= 10);
    place.assert_counted_once();
    place.assert_complete();
}

#[test]
fn a_killed_controller_counts_the_run_once() {
    let place = place("t-killed-controller");
    place.start_slow_backup();
    place.wait_for_segments(5);
    let uid = place.job_uid();
    let controllers = controller_pids();
    assert_eq!(controllers.len(), 1);
    kill(controllers[0]);
    kill(worker_pid(&uid).expect("the worker runs"));
    wait_for("another controller", RUN, || {
        controller_pids()
            .iter()
            .any(|pid| !controllers.contains(pid))
    })
    .unwrap();

    let object = place.finished("kafkabackup", "slow");
    assert_eq!(
        object["status"]["backupHistory"].as_array().unwrap().len(),
        1
    );
    assert_eq!(object["status"]["backupHistory"][0]["attempts"], 2);
    place.assert_counted_once();
}

#[test]
fn a_deleted_object_takes_its_pod_along_and_leaves_the_archive() {
    let place = place("t-deleted");
    place.start_slow_backup();
    place.wait_for_segments(3);
    operator::kubectl(
        &place.lab,
        &[
            "--namespace",
            place.namespace,
            "delete",
            "kafkabackup",
            "slow",
            "--timeout=60s",
        ],
    )
    .unwrap();
    wait_for("Job and pod to be gone", Duration::from_secs(90), || {
        ["jobs", "pods"].iter().all(|kind| {
            operator::list(&place.lab, place.namespace, kind)
                .unwrap()
                .is_empty()
        })
    })
    .unwrap();
    assert!(place.segments() >= 3, "what was stored stays");
    let page = operator::metrics(&place.lab).unwrap();
    assert!(
        !page.contains("namespace=\"t-deleted\""),
        "the series go with the object"
    );
}
