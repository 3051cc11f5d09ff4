//! What happens to the pod, the Job and the object of a run that goes on. Needs `cargo lab up` and the installed operator.

mod slow_backup;

use std::time::Duration;

use kafka_backup_tests::lab::kubernetes::NODE;
use kafka_backup_tests::lab::wait_for;
use kafka_backup_tests::operator;
use serde_json::{Value, json};
use slow_backup::{Place, RECORDS, RUN, place};

#[test]
fn a_pod_that_is_deleted_by_hand_is_replaced() {
    let place = place("t-deleted-pod");
    place.start_slow_backup();
    place.wait_for_segments(5);
    let pods = place.pods();
    place.kubectl(&["delete", "pod", &pods[0], "--wait=false"]);
    place.finished("kafkabackup", "slow");
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["records"]),
        (&json!("success"), &json!(RECORDS))
    );
    assert_eq!(run["attempts"], 2, "{run}");
    place.assert_counted_once();
}

#[test]
fn an_evicted_pod_costs_no_attempt() {
    let place = place("t-evicted");
    // As when a node is drained. Without retries, only the rule for disruptions lets the run go on.
    place.start_slow_backup_with("  job: {backoffLimit: 0}\n");
    place.wait_for_segments(5);
    let pod = &place.pods()[0];
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod, "namespace": place.namespace },
    });
    let file = place.lab.run.join("eviction.json");
    std::fs::write(&file, eviction.to_string()).unwrap();
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/eviction", place.namespace);
    place.kubectl(&[
        "create",
        "--raw",
        &path,
        "--filename",
        &file.display().to_string(),
    ]);
    place.finished("kafkabackup", "slow");
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["records"]),
        (&json!("success"), &json!(RECORDS))
    );
    place.assert_counted_once();
}

/// Takes pods again when it is dropped.
struct Cordoned<'a>(&'a Place);

impl Drop for Cordoned<'_> {
    fn drop(&mut self) {
        self.0.kubectl(&["uncordon", NODE]);
    }
}

#[test]
fn a_drained_node_costs_no_attempt_and_the_run_waits_for_another() {
    let place = place("t-drained");
    place.start_slow_backup_with("  job: {backoffLimit: 0}\n");
    place.wait_for_segments(3);
    let job = place.backup()["status"]["activeRun"]["job"].clone();
    // Only its pod: it is the lab's only node.
    let of_job = format!(
        "--pod-selector=batch.kubernetes.io/job-name={}",
        job.as_str().unwrap()
    );
    let cordoned = Cordoned(&place);
    // Its scratch space counts as data that a user may miss.
    let scratch = "--delete-emptydir-data";
    place.kubectl(&["drain", NODE, &of_job, scratch, "--timeout=90s"]);
    let is_told = |object: &Value| {
        let conditions = object["status"]["conditions"].as_array().unwrap().iter();
        conditions
            .filter(|condition| condition["type"] == "Ready")
            .any(|ready| ready["reason"] == "Unschedulable")
    };
    let what = "word of the node that takes no pods";
    let (lab, namespace) = (&place.lab, place.namespace);
    operator::wait_object(lab, namespace, "kafkabackup", "slow", what, RUN, is_told).unwrap();
    drop(cordoned);
    place.finished("kafkabackup", "slow");
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["records"]),
        (&json!("success"), &json!(RECORDS))
    );
    place.assert_counted_once();
}

#[test]
fn a_deleted_job_is_a_failure_and_is_not_made_again() {
    let place = place("t-deleted-job");
    place.start_slow_backup();
    place.wait_for_segments(3);
    let job = place.backup()["status"]["activeRun"]["job"].clone();
    place.kubectl(&["delete", "job", job.as_str().unwrap()]);
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["reason"]),
        (&json!("failure"), &json!("JobDeleted"))
    );
    assert_eq!(place.backup()["status"]["activeRun"], Value::Null);
    let jobs = operator::list(&place.lab, place.namespace, "jobs").unwrap();
    assert!(jobs.is_empty(), "{jobs:?}");
}

#[test]
fn a_run_that_is_too_slow_for_its_deadline_fails_by_that_name() {
    let place = place("t-deadline");
    place.start_slow_backup_with("  job: {activeDeadlineSeconds: 4}\n");
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["reason"]),
        (&json!("failure"), &json!("DeadlineExceeded")),
        "{run}"
    );
}

#[test]
fn a_worker_without_memory_is_told_its_limit() {
    let place = place("t-oom");
    place.start_slow_backup_with("  suspend: true\n  job: {backoffLimit: 0}\n");
    let memory = json!({ "memory": "8Mi" });
    let small = json!({ "spec": { "suspend": false, "resources": { "limits": memory, "requests": memory } } });
    let patch = small.to_string();
    place.kubectl(&[
        "patch",
        "kafkabackup",
        "slow",
        "--type=merge",
        "--patch",
        &patch,
    ]);
    let run = place.first_run();
    assert_eq!(
        (&run["outcome"], &run["reason"]),
        (&json!("failure"), &json!("OOMKilled")),
        "{run}"
    );
    assert!(run["message"].as_str().unwrap().contains("8Mi"), "{run}");
}

#[test]
fn an_edited_object_runs_again_and_its_first_run_keeps_its_plan() {
    let place = place("t-edited");
    place.start_slow_backup();
    place.wait_for_segments(3);
    let plan = || {
        let jobs = operator::list(&place.lab, place.namespace, "jobs").unwrap();
        jobs[0]["spec"]["template"]["metadata"]["annotations"]["kafka-backup.dev/plan"].clone()
    };
    let frozen = plan();
    let edit = json!({ "spec": { "excludeTopics": ["nothing-of-ours"] } }).to_string();
    place.kubectl(&[
        "patch",
        "kafkabackup",
        "slow",
        "--type=merge",
        "--patch",
        &edit,
    ]);
    assert_eq!(plan(), frozen);
    let what = "both runs to end";
    let ended = |object: &Value| object["status"]["backupHistory"][1].is_object();
    let object = operator::wait_object(
        &place.lab,
        place.namespace,
        "kafkabackup",
        "slow",
        what,
        RUN,
        ended,
    );
    let object = object.unwrap();
    let history = &object["status"]["backupHistory"];
    assert_eq!(history[0]["records"], RECORDS, "{history}");
    assert_eq!(
        (&history[1]["outcome"], &history[1]["records"]),
        (&json!("success"), &json!(0))
    );
}

#[test]
fn a_deleted_namespace_ends_its_runs_and_fails_nothing() {
    let place = place("t-deleted-namespace");
    place.start_slow_backup();
    place.wait_for_segments(3);
    let series = "namespace=\"t-deleted-namespace\"";
    place.kubectl(&["delete", "namespace", place.namespace, "--timeout=90s"]);
    wait_for("the series to go", Duration::from_secs(30), || {
        operator::metrics(&place.lab).is_ok_and(|page| !page.contains(series))
    })
    .unwrap();
    assert!(place.segments() >= 3, "what was stored stays");
}
