//! What is decided differently for runs that change committed offsets.

use kafka_backup_shared::crd::{GroupStatus, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kafka_backup_shared::report::{Fault, OffsetsReport, Outcome, Verification};
use kafka_backup_shared::spec::{OffsetStrategy, RestoreRef, SnapshotOperation};
use kafka_backup_shared::status::{GroupTotals, Phase};
use kube::ResourceExt;

use super::tests::seen;
use super::*;
use crate::fixtures::{self, at, ended_pod, failed_job, job_view, success_report};
use crate::reconcile::condition::{self, READY, SUCCEEDED};
use crate::reconcile::due::RETRY;
use crate::reconcile::view::JobState;

/// Writes until nothing is left to write; the last decision, and the reasons of all Events.
fn settle<K: Kind>(observed: &mut Observed<K>, now: &str) -> (Decision<K::Status>, Vec<String>) {
    let mut told = Vec::new();
    for _ in 0..6 {
        let decision = decide(observed, at(&format!("2026-01-01T{now}Z")));
        told.extend(decision.events.iter().map(|note| note.reason.clone()));
        let Some(status) = decision.status.clone() else {
            return (decision, told);
        };
        let run = K::life(&status).active_run.clone();
        observed.object = with_status(&observed.object, &status);
        let is_its = |job: &&JobView| run.as_ref().is_some_and(|run| run.job == job.name);
        observed.active_job = observed.jobs.iter().find(is_its).cloned();
    }
    panic!("the status is written again and again");
}

/// As the API server has it afterwards.
fn with_status<K: Kind>(object: &K, status: &K::Status) -> K {
    let mut value = serde_json::to_value(object).unwrap();
    value["status"] = serde_json::to_value(status).unwrap();
    serde_json::from_value(value).unwrap()
}

/// Its run is decided, its Job `job-1` recorded, and its pod running.
fn running<K: Kind>(object: K) -> Observed<K> {
    let mut observed = seen(object);
    settle(&mut observed, "00:00:01");
    observe_job(&mut observed, job_view("job-1"));
    observed.pods = vec![PodView {
        terminated: None,
        ..ended_pod(0, "", "")
    }];
    settle(&mut observed, "00:00:03");
    observed
}

fn observe_job<K: Kind>(observed: &mut Observed<K>, job: JobView) {
    let run = fixtures::active_run(&observed.object);
    let job = JobView {
        name: run.job,
        owner_uid: observed.object.uid(),
        run: Some(run.id),
        ..job
    };
    observed.jobs = vec![job.clone()];
    observed.active_job = Some(job);
}

fn complete<K: Kind>(observed: &mut Observed<K>) {
    let job = JobView {
        state: JobState::Complete {
            at: at("2026-01-01T00:05:00Z"),
        },
        ended_pods: 1,
        ..job_view("job-1")
    };
    observe_job(observed, job);
}

fn reported(offsets: OffsetsReport, fault: Option<Fault>) -> Report {
    let outcome = fault.map_or(Outcome::Success, |fault| Outcome::Failure {
        fault,
        message: "told by the worker".into(),
    });
    Report {
        outcome,
        offsets: Some(offsets),
        ..success_report(0)
    }
}

fn said<K: Kind>(observed: &Observed<K>, type_: &str) -> (String, String, String) {
    let status = observed.object.status();
    let found = condition::find(&K::life(&status).conditions, type_).unwrap();
    let condition = found.clone();
    (condition.status, condition.reason, condition.message)
}

fn last_reason<K: Kind>(observed: &Observed<K>) -> Option<String> {
    let status = observed.object.status();
    K::history(&status).last().unwrap().reason.clone()
}

#[test]
fn a_reset_runs_once_whatever_is_annotated() {
    let mut observed = running(fixtures::offset_reset());
    complete(&mut observed);
    observed.pushed = Some(reported(fixtures::offsets_report(), None));
    let (_, told) = settle(&mut observed, "00:05:01");
    assert_eq!(told, ["OffsetResetCompleted"]);
    let annotations = observed.object.annotations_mut();
    annotations.insert(RETRY.into(), "1".into());
    observed.object.metadata.generation = Some(2);
    settle(&mut observed, "01:00:00");
    let status = observed.object.status();
    assert_eq!(status.life.active_run, None);
    assert_eq!(status.run_history.len(), 1);
    assert_eq!(status.life.phase, Phase::Completed);
    let line = "run replay-20260101-000000: 3 offsets of 1 group changed, 1 group failed";
    let succeeded = ("True".into(), "OffsetResetCompleted".into(), line.into());
    assert_eq!(said(&observed, SUCCEEDED), succeeded);
}

#[test]
fn what_a_failed_reset_did_is_told_and_counted_once_its_increment_is_released() {
    let mut observed = running(fixtures::offset_reset());
    observe_job(&mut observed, failed_job("PodFailurePolicy"));
    let mut many = fixtures::offsets_report();
    let mut done = many.groups[0].clone();
    done.partitions_reset = 9;
    many.groups.splice(0..0, vec![done; 150]);
    let report = reported(many, Some(Fault::Unavailable));
    // The pod's message has a few groups, the push all.
    let message = report.to_termination_message();
    observed.pods = vec![ended_pod(69, "Error", &message)];
    observed.pushed = Some(report);
    observed.exposed = Exposed::default();
    settle(&mut observed, "00:05:01");
    let status = observed.object.status();
    assert_eq!(status.life.phase, Phase::Failed);
    assert_eq!(last_reason(&observed).as_deref(), Some("Unavailable"));
    assert_eq!(
        (status.groups_reset, status.groups_failed),
        (Some(1), Some(1))
    );
    assert_eq!(status.snapshot_id.as_deref(), Some("before"));
    assert_eq!(status.results.len(), 100);
    assert_eq!(status.results[0].status, GroupStatus::Failed);
    let columns = status.columns.unwrap();
    assert_eq!(
        [&*columns.reset, &*columns.failed, &*columns.snapshot],
        ["1", "1", "before"]
    );
    let held = GroupTotals {
        success: 1,
        failure: 1,
    };
    let totals = observed.object.status().life.totals;
    assert_eq!(totals.groups, GroupTotals::default());
    assert_eq!(totals.held[0].groups, held);

    observed.exposed.failure = observed.hold;
    settle(&mut observed, "00:07:00");
    settle(&mut observed, "00:08:00");
    let totals = observed.object.status().life.totals;
    assert_eq!((totals.groups, totals.failure.runs), (held, 1));
}

#[test]
fn a_dry_run_says_what_would_change_and_counts_no_group() {
    let mut object = fixtures::offset_reset();
    object.spec.dry_run = true;
    let mut observed = running(object);
    complete(&mut observed);
    let offsets = OffsetsReport {
        dry_run: true,
        snapshot: None,
        ..fixtures::offsets_report()
    };
    observed.pushed = Some(reported(offsets, None));
    settle(&mut observed, "00:05:01");
    let (_, reason, message) = said(&observed, SUCCEEDED);
    assert_eq!(reason, "DryRunCompleted");
    assert!(
        message.contains("dry run: 3 offsets of 1 group would change"),
        "{message}"
    );
    let status = observed.object.status();
    assert_eq!(status.life.totals.groups, GroupTotals::default());
    assert_eq!(status.life.totals.success.runs, 1);
    assert_eq!((status.groups_reset, status.snapshot_id), (Some(1), None));
}

#[test]
fn a_lost_report_is_not_asked_for_by_changing_offsets_again() {
    let mut observed = running(fixtures::offset_reset());
    complete(&mut observed);
    observed.pods.clear();
    let (decision, told) = settle(&mut observed, "00:05:01");
    assert_eq!(told, ["OffsetResetFailed"]);
    assert_eq!(last_reason(&observed).as_deref(), Some("ReportLost"));
    assert_eq!(observed.object.status().life.active_run, None);
    assert!(
        !decision.jobs.contains(&JobAction::Create),
        "{:?}",
        decision.jobs
    );
}

#[test]
fn a_lost_node_ends_the_run_as_failed_and_its_pod_is_not_given_up() {
    let mut observed = running(fixtures::offset_reset());
    observed.pods[0].gone_by = Some(at("2026-01-01T00:10:00Z"));
    observed.pods[0].is_unready = true;
    settle(&mut observed, "00:10:30");
    assert_eq!(said(&observed, READY).0, "True");
    let (decision, _) = settle(&mut observed, "00:11:00");
    assert_eq!(
        (decision.jobs, decision.wake),
        (vec![], Some(at("2026-01-01T00:15:00Z")))
    );
    let (_, reason, message) = said(&observed, READY);
    assert_eq!(reason, "NodeLost");
    assert!(
        message.contains("the run has failed 300 s after"),
        "{message}"
    );
    let (decision, told) = settle(&mut observed, "00:15:00");
    assert_eq!(told, ["OffsetResetFailed"]);
    assert_eq!(last_reason(&observed).as_deref(), Some("NodeLost"));
    let delete = JobAction::Delete {
        name: observed.jobs[0].name.clone(),
        uid: "job-1".into(),
        version: job_view("").version,
    };
    assert_eq!(decision.jobs, [delete], "no other pod may follow");
    assert_eq!(said(&observed, READY).0, "True");
    assert!(said(&observed, SUCCEEDED).2.contains("is not known"));
}

#[test]
fn the_last_word_of_a_worker_outlives_its_node() {
    let lost = |fault: Option<Fault>| {
        let mut observed = running(fixtures::offset_reset());
        observed.pods[0].gone_by = Some(at("2026-01-01T00:10:00Z"));
        observed.pods[0].is_unready = true;
        observed.pushed = Some(reported(fixtures::offsets_report(), fault));
        settle(&mut observed, "00:15:00");
        observed
    };
    let told = lost(None);
    assert_eq!(last_reason(&told), None);
    assert_eq!(told.object.status().life.phase, Phase::Completed);
    let failed = lost(Some(Fault::Unavailable));
    assert_eq!(last_reason(&failed).as_deref(), Some("NodeLost"));
    assert_eq!(failed.object.status().groups_reset, Some(1));
}

#[test]
fn a_rollback_shows_its_snapshot_and_what_differs() {
    let mut observed = running(fixtures::offset_rollback("verify"));
    complete(&mut observed);
    let differences: Vec<String> = (0..150).map(|i| format!("place {i}")).collect();
    let offsets = OffsetsReport {
        groups_done: 2,
        groups_failed: 0,
        verification: Some(Verification {
            matched: false,
            difference_count: 150,
            differences,
        }),
        ..fixtures::offsets_report()
    };
    observed.pushed = Some(reported(offsets, None));
    settle(&mut observed, "00:05:01");
    settle(&mut observed, "01:05:01");
    let status = observed.object.status();
    assert_eq!(status.operation, Some(SnapshotOperation::Verify));
    assert_eq!(status.snapshot_id.as_deref(), Some("before"));
    let data = status.snapshot_data.unwrap();
    assert_eq!((data.groups, data.total_partitions), (2, 6));
    let verified = status.verification_result.unwrap();
    assert_eq!((verified.matched, verified.differences.len()), (false, 100));
    let columns = status.columns.unwrap();
    assert_eq!([&*columns.groups, &*columns.matched], ["2", "false"]);
    assert_eq!(status.life.totals.groups, GroupTotals::default());
}

#[test]
fn a_reset_from_a_restore_waits_for_it_and_for_the_backup_of_that() {
    let mut object = fixtures::offset_reset();
    object.spec.strategy = OffsetStrategy::FromRestore;
    object.spec.restore_ref = Some(RestoreRef {
        name: "orders-back".into(),
    });
    let mut restore: KafkaRestore = fixtures::restore();
    restore.spec.backup_id = None;
    restore.spec.storage = None;
    restore.spec.backup_ref =
        serde_json::from_value(serde_json::json!({"name": "orders"})).unwrap();
    let mut observed: Observed<KafkaOffsetReset> = seen(object);
    for step in [None, Some(restore)] {
        observed.referenced.restore = step;
        let (decision, _) = settle(&mut observed, "00:00:01");
        assert_eq!(said(&observed, READY).1, "InvalidSpec");
        assert_eq!(decision.wake, Some(at("2026-01-01T00:00:16Z")));
    }
    observed.referenced.backup = Some(fixtures::backup());
    let (decision, _) = settle(&mut observed, "00:00:16");
    assert_eq!(said(&observed, READY).1, "SpecValid");
    assert_eq!(decision.jobs, [JobAction::Create]);
}

#[test]
fn kinds_know_their_own_cache_and_name() {
    assert_eq!(KafkaOffsetReset::KIND.as_str(), "KafkaOffsetReset");
    assert_eq!(KafkaOffsetRollback::KIND.as_str(), "KafkaOffsetRollback");
    for kind in crate::kind::ObjectKind::ALL {
        assert_eq!(crate::kind::ObjectKind::parse(kind.as_str()), Some(kind));
    }
}
