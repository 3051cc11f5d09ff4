//! A table of lives: each step says what is observed and what is decided.

use kafka_backup_shared::crd::{
    ConcurrencyPolicy, KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore,
};
use kafka_backup_shared::report::{DryRun, Fault, RetentionHeld, StuckPartition};
use kafka_backup_shared::status::{GroupTotals, Phase, RunReason};
use kube::ResourceExt;

use super::*;
use crate::fixtures::{
    self, at, ended_pod, failed_job, failure_report, finished, job_view, success_report,
};
use crate::reconcile::condition::{
    self, CAPTURE_HELD, PROGRESSING, READY, RETENTION_HELD, SUCCEEDED,
};
use crate::reconcile::due::{RETRY, TRIGGER};
use crate::reconcile::tidy::LOST_AFTER;
use crate::reconcile::view::JobState;

const HOLD: Duration = Duration::from_secs(90);

/// What is observed of an object with nothing around it.
pub(super) fn seen<K: Kind>(object: K) -> Observed<K> {
    Observed {
        object,
        referenced: Referenced::default(),
        jobs: Vec::new(),
        active_job: None,
        pods: Vec::new(),
        trouble: None,
        is_refused: false,
        pushed: None,
        exposed: Exposed {
            success: HOLD,
            failure: HOLD,
        },
        hold: HOLD,
        lost_after: LOST_AFTER,
        limits: Limits::default(),
        place: None,
    }
}

/// Takes the status of a decision over into what is observed.
fn written(
    observed: &mut Observed<KafkaBackup>,
    now: &str,
) -> Decision<<KafkaBackup as Kind>::Status> {
    let decision = decide(observed, at(now));
    if let Some(status) = &decision.status {
        observed.object.status = Some(status.clone());
        let run = status.life.active_run.as_ref();
        let named = |job: &&JobView| run.is_some_and(|run| run.job == job.name);
        observed.active_job = observed.jobs.iter().find(named).cloned();
    }
    decision
}

/// Writes until nothing is left to write; gives what is to be done then.
fn settled(
    observed: &mut Observed<KafkaBackup>,
    now: &str,
) -> Decision<<KafkaBackup as Kind>::Status> {
    for _ in 0..5 {
        let decision = written(observed, now);
        if decision.status.is_none() {
            return decision;
        }
    }
    panic!("the status is written again and again");
}

/// A one-shot whose run is decided and whose Job `job-1` is recorded and running.
fn running() -> Observed<KafkaBackup> {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observe_job(&mut observed, job_view("job-1"));
    observed.pods = vec![PodView {
        terminated: None,
        ..ended_pod(0, "", "")
    }];
    settled(&mut observed, "2026-01-01T00:00:03Z");
    observed
}

fn observe_job(observed: &mut Observed<KafkaBackup>, job: JobView) {
    observed.jobs = vec![job.clone()];
    observed.active_job = Some(job);
}

fn complete(uid: &str) -> JobView {
    JobView {
        state: JobState::Complete {
            at: at("2026-01-01T00:05:03Z"),
        },
        ended_pods: 1,
        ..job_view(uid)
    }
}

fn life(observed: &Observed<KafkaBackup>) -> Life {
    observed.object.status().life
}

fn condition(observed: &Observed<KafkaBackup>, type_: &str) -> (String, String, String) {
    let life = life(observed);
    let condition = condition::find(&life.conditions, type_).unwrap();
    (
        condition.status.clone(),
        condition.reason.clone(),
        condition.message.clone(),
    )
}

fn reasons(decision: &Decision<<KafkaBackup as Kind>::Status>) -> Vec<&str> {
    decision
        .events
        .iter()
        .map(|note| note.reason.as_str())
        .collect()
}

#[test]
fn the_run_is_written_before_its_job_is_created() {
    let mut observed = seen(fixtures::backup());
    let first = written(&mut observed, "2026-01-01T00:00:01Z");
    assert_eq!(
        first.jobs,
        [],
        "no Job follows from a status that does not stand yet"
    );
    let run = life(&observed).active_run.unwrap();
    assert_eq!(
        (run.id.as_str(), run.reason),
        ("orders-20260101-000000", RunReason::OneShot)
    );
    assert_eq!((run.job_uid, run.generation), (None, 1));
    assert_eq!(life(&observed).phase, Phase::Running);

    let second = written(&mut observed, "2026-01-01T00:00:01Z");
    assert_eq!(
        (second.status, second.jobs),
        (None, vec![JobAction::Create])
    );
}

#[test]
fn the_uid_of_the_job_is_recorded_and_the_run_told() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observe_job(&mut observed, job_view("job-1"));
    let decision = written(&mut observed, "2026-01-01T00:00:03Z");
    assert_eq!(
        life(&observed).active_run.unwrap().job_uid.as_deref(),
        Some("job-1")
    );
    assert_eq!(reasons(&decision), ["RunStarted"]);
    assert_eq!(condition(&observed, PROGRESSING).0, "True");
    assert_eq!(condition(&observed, SUCCEEDED).0, "Unknown");
}

#[test]
fn idle_and_running_objects_cause_no_writes() {
    let mut observed = running();
    for second in 4..9 {
        let decision = decide(&observed, at(&format!("2026-01-01T00:00:0{second}Z")));
        assert_eq!((decision.status, decision.jobs), (None, vec![]));
    }
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(5));
    settled(&mut observed, "2026-01-01T00:05:04Z");
    observed.jobs[0].accounted = Some(at("2026-01-01T00:05:04Z"));
    for minute in 10..20 {
        let decision = decide(&observed, at(&format!("2026-01-01T00:{minute}:00Z")));
        assert_eq!(
            (decision.status, decision.jobs),
            (None, vec![]),
            "minute {minute}"
        );
    }
}

#[test]
fn a_success_is_accounted_in_one_write_and_then_marked() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pods = vec![ended_pod(
        0,
        "Completed",
        &success_report(5).to_termination_message(),
    )];
    let decision = written(&mut observed, "2026-01-01T00:05:04Z");
    let status = observed.object.status();
    assert_eq!(reasons(&decision), ["BackupCompleted"]);
    assert_eq!(status.life.active_run, None);
    assert_eq!(status.life.phase, Phase::Completed);
    assert_eq!(
        status.life.totals.held.len(),
        1,
        "the counter waits for the next write"
    );
    assert_eq!(
        (status.life.totals.records, status.life.totals.uncommitted),
        (5, 0)
    );
    assert_eq!(
        status.life.totals.last_success_time,
        Some(time(at("2026-01-01T00:05:03Z")))
    );
    assert_eq!(
        status.last_backup_id.as_deref(),
        Some("orders-20260101-000000")
    );
    assert_eq!(
        (status.last_backup_records, status.last_backup_size),
        (Some(5), Some(500))
    );
    let run = &status.backup_history[0];
    assert_eq!(
        (run.job_uid.as_deref(), run.outcome, run.attempts),
        (Some("job-1"), RunOutcome::Success, 1)
    );
    assert_eq!(condition(&observed, SUCCEEDED).0, "True");

    let next = settled(&mut observed, "2026-01-01T00:05:04Z");
    let totals = life(&observed).totals;
    assert_eq!(
        (totals.success.runs, totals.success.duration_ms_sum),
        (1, 300_000)
    );
    assert_eq!(totals.held, []);
    let mark = JobAction::Mark {
        name: job_view("").name,
        uid: "job-1".into(),
        ttl_seconds: 86_401,
    };
    assert_eq!(next.jobs, [mark]);
}

/// Makes the object run again by its trigger, to a success with this report.
fn run_again(observed: &mut Observed<KafkaBackup>, run: u32, report: Report) {
    let trigger = (TRIGGER.to_owned(), run.to_string());
    observed.object.annotations_mut().extend([trigger]);
    observed.pushed = None;
    settled(observed, &format!("2026-01-01T0{run}:00:00Z"));
    let uid = format!("job-{run}");
    let job = life(observed).active_run.unwrap().job;
    observe_job(
        observed,
        JobView {
            name: job,
            ..complete(&uid)
        },
    );
    observed.pods = vec![];
    observed.pushed = Some(report);
    settled(observed, &format!("2026-01-01T0{run}:06:00Z"));
}

#[test]
fn a_capture_that_a_transaction_holds_is_a_condition_until_it_moves() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(5));
    settled(&mut observed, "2026-01-01T00:05:04Z");
    let conditions = life(&observed).conditions;
    assert!(condition::find(&conditions, CAPTURE_HELD).is_none());

    let mut held = success_report(0);
    held.held_back.offsets = 30;
    held.held_back.add_stuck(StuckPartition {
        topic: "orders".into(),
        partition: 3,
        last_stable_offset: 100,
        high_watermark: 130,
    });
    run_again(&mut observed, 1, held);
    let (status, reason, message) = condition(&observed, CAPTURE_HELD);
    assert_eq!((&*status, &*reason), ("True", "TransactionOpen"));
    assert!(
        message.contains("topic orders partition 3 at offset 100"),
        "{message}"
    );
    assert_eq!(observed.object.status().last_backup_held_back, Some(30));

    run_again(&mut observed, 2, success_report(30));
    let (status, reason, _) = condition(&observed, CAPTURE_HELD);
    assert_eq!((&*status, &*reason), ("False", "CaptureMoves"));
    assert_eq!(observed.object.status().last_backup_held_back, Some(0));
}

#[test]
fn lag_and_gaps_of_a_run_are_shown_and_gaps_wait_with_its_increment() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    let mut report = success_report(5);
    (report.gaps, report.new_gaps, report.lag) = (3, 2, Some(40));
    observed.pushed = Some(report);
    written(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(observed.object.status().last_backup_lag, Some(40));
    assert_eq!(life(&observed).totals.last_duration_ms, Some(300_000));
    assert_eq!(life(&observed).totals.gaps, 0);
    settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(life(&observed).totals.gaps, 2);

    let mut report = success_report(5);
    (report.gaps, report.new_gaps, report.lag) = (4, 1, None);
    run_again(&mut observed, 1, report);
    assert_eq!(observed.object.status().last_backup_lag, None);
    assert_eq!(life(&observed).totals.gaps, 3);
}

#[test]
fn an_increment_is_held_until_the_value_before_it_was_seen() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(5));
    observed.exposed = Exposed {
        success: Duration::from_secs(30),
        failure: HOLD,
    };
    let decision = settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(life(&observed).totals.success.runs, 0);
    assert_eq!(decision.wake, Some(at("2026-01-01T00:06:05Z")));
    observed.exposed.success = HOLD;
    settled(&mut observed, "2026-01-01T00:06:05Z");
    assert_eq!(life(&observed).totals.success.runs, 1);
}

#[test]
fn a_failure_is_told_with_its_reason_and_leaves_what_is_durable_uncommitted() {
    let mut observed = running();
    observed
        .object
        .status
        .as_mut()
        .unwrap()
        .life
        .totals
        .uncommitted = 7;
    observe_job(&mut observed, failed_job("PodFailurePolicy"));
    observed.pods = vec![ended_pod(
        77,
        "Error",
        &failure_report(Fault::Denied).to_termination_message(),
    )];
    let decision = written(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(reasons(&decision), ["BackupFailed"]);
    assert!(
        decision.events[0]
            .message
            .contains("AccessDenied: told by the worker"),
        "{:?}",
        decision.events
    );
    assert_eq!(life(&observed).phase, Phase::Failed);
    assert_eq!(life(&observed).totals.uncommitted, 7);
    let (status, reason, message) = condition(&observed, SUCCEEDED);
    assert_eq!(
        (status.as_str(), reason.as_str(), message.as_str()),
        ("False", "AccessDenied", "told by the worker")
    );
    assert_eq!(
        condition(&observed, READY).0,
        "True",
        "a failed run does not block the next one"
    );
    settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(life(&observed).totals.failure.runs, 1);
}

#[test]
fn progress_that_exceeds_the_report_is_not_taken_back() {
    let mut observed = running();
    observed
        .object
        .status
        .as_mut()
        .unwrap()
        .life
        .totals
        .uncommitted = 9;
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(5));
    settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(life(&observed).totals.records, 9);
}

#[test]
fn a_deleted_job_is_a_failure_unless_its_report_had_arrived() {
    for (pushed, outcome) in [
        (None, RunOutcome::Failure),
        (Some(success_report(5)), RunOutcome::Success),
    ] {
        let mut observed = running();
        observed.jobs.clear();
        observed.active_job = None;
        observed.pushed = pushed;
        settled(&mut observed, "2026-01-01T00:04:00Z");
        let run = observed.object.status().backup_history.pop().unwrap();
        assert_eq!(run.outcome, outcome);
        let expected = (outcome == RunOutcome::Failure).then_some("JobDeleted");
        assert_eq!(run.reason.as_deref(), expected);
    }
}

#[test]
fn a_job_under_the_same_name_with_another_uid_is_not_ours_to_count() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-2"));
    observed.pods = vec![ended_pod(
        0,
        "Completed",
        &success_report(5).to_termination_message(),
    )];
    let decision = settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(
        observed.object.status().backup_history[0].reason.as_deref(),
        Some("JobDeleted")
    );
    let stray = JobAction::DeleteStray {
        name: job_view("").name,
        uid: "job-2".into(),
    };
    assert_eq!(decision.jobs, [stray]);
}

#[test]
fn a_job_of_somebody_else_is_refused_not_adopted() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observe_job(
        &mut observed,
        JobView {
            owner_uid: Some("somebody".into()),
            ..complete("job-9")
        },
    );
    let decision = settled(&mut observed, "2026-01-01T00:05:04Z");
    let status = observed.object.status();
    assert_eq!(
        status.backup_history[0].reason.as_deref(),
        Some("JobNameTaken")
    );
    assert_eq!(status.backup_history[0].job_uid, None);
    assert_eq!(decision.jobs, []);
}

#[test]
fn a_lost_report_is_asked_for_once_more_and_then_given_up() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pods.clear();
    let decision = written(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(reasons(&decision), ["ReportLost"]);
    let run = life(&observed).active_run.unwrap();
    assert_eq!(
        (run.job.as_str(), run.job_uid),
        (format!("{}-r", job_view("").name).as_str(), None)
    );
    assert!(run.job.len() <= 52);
    observed.active_job = None;
    let decision = settled(&mut observed, "2026-01-01T00:05:04Z");
    assert_eq!(
        decision.jobs,
        [JobAction::Create],
        "the first Job is no stray"
    );

    let again = JobView {
        name: run.job.clone(),
        ..complete("job-2")
    };
    observed.jobs.push(again.clone());
    observed.active_job = Some(again);
    let decision = settled(&mut observed, "2026-01-01T00:06:00Z");
    let history = observed.object.status().backup_history;
    assert_eq!(history.len(), 1);
    assert_eq!(history[0].reason.as_deref(), Some("ReportLost"));
    let marked: Vec<&str> = decision
        .jobs
        .iter()
        .filter_map(|action| match action {
            JobAction::Mark { uid, .. } => Some(uid.as_str()),
            JobAction::Create
            | JobAction::Delete { .. }
            | JobAction::DeleteStray { .. }
            | JobAction::GiveUpPod { .. } => None,
        })
        .collect();
    assert_eq!(marked, ["job-1", "job-2"]);
}

fn pending_pod(trouble: Option<Trouble>) -> PodView {
    PodView {
        has_started: false,
        terminated: None,
        trouble,
        ..ended_pod(0, "", "")
    }
}

fn trouble() -> Trouble {
    Trouble {
        reason: "FailedMount".into(),
        message: "secret \"s3-keys\" not found".into(),
    }
}

#[test]
fn what_keeps_a_pod_from_starting_is_told_and_ends_the_run_in_time() {
    let mut observed = running();
    observed.pods = vec![pending_pod(None)];
    observed.trouble = Some(trouble());
    let decision = written(&mut observed, "2026-01-01T00:00:20Z");
    assert_eq!(reasons(&decision), ["RunBlocked"]);
    let (status, reason, message) = condition(&observed, READY);
    assert_eq!(
        (status.as_str(), reason.as_str(), message.as_str()),
        ("False", "FailedMount", "secret \"s3-keys\" not found")
    );
    let decision = settled(&mut observed, "2026-01-01T00:00:20Z");
    // As long again as the pod has waited, at most 50 s, and not past the deadline.
    assert_eq!(decision.wake, Some(at("2026-01-01T00:00:36Z")));
    let decision = settled(&mut observed, "2026-01-01T00:05:00Z");
    assert_eq!(decision.wake, Some(at("2026-01-01T00:05:50Z")));

    let decision = settled(&mut observed, "2026-01-01T00:10:03Z");
    assert_eq!(decision.wake, Some(at("2026-01-01T00:10:04Z")));
    assert!(
        life(&observed).active_run.is_some(),
        "the pod was created at 00:00:04"
    );
    let decision = settled(&mut observed, "2026-01-01T00:10:04Z");
    let run = &observed.object.status().backup_history[0];
    assert_eq!(run.reason.as_deref(), Some("StartDeadlineExceeded"));
    assert!(
        run.message
            .as_ref()
            .unwrap()
            .contains("secret \"s3-keys\" not found")
    );
    assert_eq!(
        decision.jobs,
        [JobAction::Delete {
            name: job_view("").name,
            uid: "job-1".into(),
            version: job_view("").version,
        }]
    );
    assert_eq!(condition(&observed, READY).0, "True");
}

#[test]
fn a_pod_that_started_has_no_start_deadline() {
    let mut observed = running();
    assert_eq!(settled(&mut observed, "2026-01-01T09:00:00Z").jobs, []);
    assert!(life(&observed).active_run.is_some());
}

#[test]
fn a_pod_of_a_lost_node_is_told_after_a_minute_and_given_up_after_five() {
    let mut observed = running();
    // Told to end at 00:09:00, with a minute of grace.
    observed.pods[0].gone_by = Some(at("2026-01-01T00:10:00Z"));
    observed.pods[0].is_unready = true;
    let decision = settled(&mut observed, "2026-01-01T00:10:30Z");
    assert_eq!(
        (decision.jobs, decision.wake),
        (vec![], Some(at("2026-01-01T00:11:00Z")))
    );
    assert_eq!(condition(&observed, READY).0, "True");
    let decision = settled(&mut observed, "2026-01-01T00:11:00Z");
    assert_eq!(
        (decision.jobs, decision.wake),
        (vec![], Some(at("2026-01-01T00:15:00Z")))
    );
    assert_eq!(condition(&observed, READY).1, "NodeLost");
    let decision = settled(&mut observed, "2026-01-01T00:15:00Z");
    let give_up = JobAction::GiveUpPod {
        name: "pod".into(),
        uid: "pod-uid".into(),
    };
    assert_eq!(decision.jobs, [give_up]);
    assert!(
        life(&observed).active_run.is_some(),
        "its Job makes another pod"
    );
}

#[test]
fn a_job_that_is_about_to_fail_says_so_and_is_not_counted_yet() {
    let mut observed = running();
    let failing = JobView {
        failing: Some(Trouble {
            reason: "BackoffLimitExceeded".into(),
            message: "job words".into(),
        }),
        ..job_view("job-1")
    };
    observe_job(&mut observed, failing);
    settled(&mut observed, "2026-01-01T00:05:00Z");
    let (status, reason, message) = condition(&observed, PROGRESSING);
    assert_eq!((&*status, &*reason), ("True", "RunFailing"));
    assert!(
        message.contains("BackoffLimitExceeded: job words"),
        "{message}"
    );
    assert_eq!(observed.object.status().backup_history, []);
}

#[test]
fn a_refused_job_is_told_and_tried_until_the_start_deadline() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observed.is_refused = true;
    observed.trouble = Some(Trouble {
        reason: "JobRefused".into(),
        message: "exceeded quota".into(),
    });
    let decision = settled(&mut observed, "2026-01-01T00:00:02Z");
    assert_eq!(condition(&observed, READY).1, "JobRefused");
    assert_eq!(decision.jobs, [JobAction::Create]);
    settled(&mut observed, "2026-01-01T00:10:01Z");
    assert_eq!(
        observed.object.status().backup_history[0].reason.as_deref(),
        Some("StartDeadlineExceeded")
    );
}

#[test]
fn a_controller_that_was_away_still_creates_the_job_it_decided() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    assert_eq!(
        settled(&mut observed, "2026-01-01T20:00:00Z").jobs,
        [JobAction::Create]
    );
}

#[test]
fn an_invalid_spec_makes_no_job_counts_nothing_and_recovers() {
    let mut object = fixtures::backup();
    object.spec.schedule = Some("0 25 * * *".into());
    let mut observed = seen(object);
    let decision = written(&mut observed, "2026-01-01T00:00:01Z");
    assert_eq!(reasons(&decision), ["InvalidSpec"]);
    assert!(decision.events[0].message.contains("spec.schedule"));
    assert_eq!(life(&observed).phase, Phase::Failed);
    let (status, reason, message) = condition(&observed, READY);
    assert_eq!((status.as_str(), reason.as_str()), ("False", "InvalidSpec"));
    assert!(message.contains("hour"), "{message}");
    let decision = settled(&mut observed, "2026-01-03T00:00:01Z");
    assert_eq!(
        (decision.jobs, life(&observed).totals),
        (vec![], Default::default())
    );

    observed.object.spec.schedule = Some("0 1 * * *".into());
    observed.object.metadata.generation = Some(2);
    settled(&mut observed, "2026-01-03T00:30:00Z");
    assert_eq!(condition(&observed, READY).0, "True");
    assert_eq!(life(&observed).phase, Phase::Pending);
    assert_eq!(observed.object.status().missed_runs, 0);
    let decision = settled(&mut observed, "2026-01-03T01:00:00Z");
    assert_eq!(decision.jobs, [JobAction::Create]);
    assert_eq!(
        life(&observed).active_run.unwrap().id,
        "orders-20260103-010000"
    );
}

#[test]
fn an_annotation_of_an_object_that_begins_invalid_is_not_obeyed_later() {
    let mut observed = seen(fixtures::backup());
    observed.object.spec.topics.clear();
    observed.object.spec.suspend = true;
    observed
        .object
        .annotations_mut()
        .insert(TRIGGER.into(), "from git".into());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observed.object.spec.topics.push("orders".into());
    settled(&mut observed, "2026-01-01T00:01:00Z");
    assert_eq!(life(&observed).active_run, None);
}

#[test]
fn a_spec_that_becomes_invalid_before_its_job_exists_drops_the_run() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observed.object.spec.topics = vec!["a b".into()];
    let decision = settled(&mut observed, "2026-01-01T00:00:02Z");
    assert_eq!(decision.jobs, []);
    assert_eq!(life(&observed).active_run, None);
    assert_eq!(observed.object.status().backup_history, []);
}

#[test]
fn a_spec_that_changes_before_its_job_exists_is_the_one_that_runs() {
    let mut observed = seen(fixtures::backup());
    settled(&mut observed, "2026-01-01T00:00:01Z");
    observed.object.spec.topics = vec!["other".into()];
    observed.object.metadata.generation = Some(2);
    let decision = settled(&mut observed, "2026-01-01T00:00:02Z");
    assert_eq!(decision.jobs, [JobAction::Create]);
    assert_eq!(life(&observed).active_run.unwrap().generation, 2);
    assert_eq!(life(&observed).last_run_generation, Some(2));
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(1));
    settled(&mut observed, "2026-01-01T00:06:00Z");
    assert_eq!(
        life(&observed).active_run,
        None,
        "it is not run again for the change that it was made from"
    );
}

#[test]
fn a_running_job_keeps_its_plan_and_a_changed_one_shot_runs_after_it() {
    let mut observed = running();
    observed.object.spec.topics = vec!["other".into()];
    observed.object.metadata.generation = Some(2);
    let decision = settled(&mut observed, "2026-01-01T00:01:00Z");
    assert_eq!(decision.jobs, []);
    assert_eq!(life(&observed).active_run.unwrap().generation, 1);
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(1));
    settled(&mut observed, "2026-01-01T00:06:00Z");
    let run = life(&observed).active_run.unwrap();
    assert_eq!((run.reason, run.generation), (RunReason::SpecChanged, 2));
}

#[test]
fn an_object_that_is_being_deleted_gets_nothing() {
    let mut object = fixtures::backup();
    object.metadata.deletion_timestamp = Some(time(at("2026-01-01T00:00:01Z")));
    let decision = decide(&seen(object), at("2026-01-01T00:00:02Z"));
    assert_eq!((decision.status, decision.jobs), (None, vec![]));
}

#[test]
fn a_tick_during_a_run_is_told_as_missed() {
    let mut observed = running();
    observed.object.spec.schedule = Some("0 * * * *".into());
    settled(&mut observed, "2026-01-01T00:30:00Z");
    let decision = written(&mut observed, "2026-01-01T01:00:00Z");
    assert_eq!(reasons(&decision), ["MissedSchedule"]);
    assert_eq!(observed.object.status().missed_runs, 1);
}

#[test]
fn a_tick_that_replaces_ends_the_run_counts_it_and_begins_its_own() {
    let mut observed = running();
    observed.object.spec.schedule = Some("0 * * * *".into());
    observed.object.spec.concurrency_policy = ConcurrencyPolicy::Replace;
    settled(&mut observed, "2026-01-01T00:30:00Z");
    let decision = written(&mut observed, "2026-01-01T01:00:00Z");
    assert_eq!(reasons(&decision), ["BackupFailed"]);
    assert!(
        decision.events[0]
            .message
            .contains("Replaced: the tick at 2026-01-01T01:00:00Z"),
        "{:?}",
        decision.events
    );
    let status = observed.object.status();
    let ended = &status.backup_history[0];
    assert_eq!(
        (ended.reason.as_deref(), ended.job_uid.as_deref()),
        (Some("Replaced"), Some("job-1"))
    );
    assert_eq!(ended.start_time, time(at("2026-01-01T00:00:03Z")));
    let run = status.life.active_run.unwrap();
    assert_eq!(
        (run.id.as_str(), run.reason),
        ("orders-20260101-010000", RunReason::Schedule)
    );
    assert_eq!(status.missed_runs, 0);
    let decision = settled(&mut observed, "2026-01-01T01:00:00Z");
    let delete = JobAction::Delete {
        name: job_view("").name,
        uid: "job-1".into(),
        version: job_view("").version,
    };
    assert_eq!(decision.jobs, [delete, JobAction::Create]);
    assert_eq!(life(&observed).totals.failure.runs, 1);
}

#[test]
fn a_waiting_trigger_runs_when_the_run_before_it_ends() {
    let mut observed = running();
    observed
        .object
        .annotations_mut()
        .insert(TRIGGER.into(), "now".into());
    settled(&mut observed, "2026-01-01T00:01:00Z");
    assert_eq!(
        life(&observed).active_run.unwrap().reason,
        RunReason::OneShot
    );
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(1));
    settled(&mut observed, "2026-01-01T00:06:00Z");
    assert_eq!(
        life(&observed).active_run.unwrap().reason,
        RunReason::Trigger
    );
}

#[test]
fn an_id_that_exists_is_moved_by_a_second() {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(1));
    settled(&mut observed, "2026-01-01T00:06:00Z");
    let taken = observed.object.status.as_mut().unwrap();
    taken
        .backup_history
        .push(finished("orders-20260101-000700", RunOutcome::Success));
    observed
        .object
        .annotations_mut()
        .insert(TRIGGER.into(), "now".into());
    settled(&mut observed, "2026-01-01T00:07:00Z");
    assert_eq!(
        life(&observed).active_run.unwrap().id,
        "orders-20260101-000701"
    );
}

#[test]
fn a_stray_job_is_removed_and_an_accounted_one_kept_for_ten_minutes() {
    let mut observed = running();
    let other = JobView {
        name: "other".into(),
        run: Some("orders-x".into()),
        ..job_view("job-7")
    };
    observed.jobs.push(other.clone());
    let decision = decide(&observed, at("2026-01-01T00:00:10Z"));
    assert_eq!(
        decision.jobs,
        [JobAction::DeleteStray {
            name: "other".into(),
            uid: "job-7".into()
        }]
    );

    observed.jobs[1].accounted = Some(at("2026-01-01T00:00:00Z"));
    let decision = decide(&observed, at("2026-01-01T00:09:59Z"));
    assert_eq!(
        (decision.jobs, decision.wake),
        (vec![], Some(at("2026-01-01T00:10:00Z")))
    );
    let decision = decide(&observed, at("2026-01-01T00:10:00Z"));
    assert_eq!(
        decision.jobs,
        [JobAction::Delete {
            name: "other".into(),
            uid: "job-7".into(),
            version: job_view("").version,
        }]
    );
}

#[test]
fn jobs_above_the_history_limit_are_removed_by_limit_not_by_age() {
    let mut observed = running();
    observed.object.spec.successful_runs_history_limit = 1;
    let status = observed.object.status.as_mut().unwrap();
    status.life.active_run = None;
    status.backup_history = ["a", "b"]
        .map(|id| finished(id, RunOutcome::Success))
        .into();
    let job = |id: &str| JobView {
        name: format!("job-name-{id}"),
        accounted: Some(at("2026-01-01T00:06:00Z")),
        ..complete(&format!("job-{id}"))
    };
    observed.jobs = vec![job("a"), job("b")];
    observed.active_job = None;
    let decision = settled(&mut observed, "2026-01-02T00:00:00Z");
    assert_eq!(
        decision.jobs,
        [JobAction::Delete {
            name: "job-name-a".into(),
            uid: "job-a".into(),
            version: job_view("").version,
        }]
    );
}

#[test]
fn a_short_ttl_is_stretched_to_ten_minutes_after_accounting() {
    let mut observed = running();
    observed.object.spec.job.ttl_seconds_after_finished = Some(0);
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(1));
    let decision = settled(&mut observed, "2026-01-01T00:06:03Z");
    let name = job_view("").name;
    assert_eq!(
        decision.jobs,
        [JobAction::Mark {
            name,
            uid: "job-1".into(),
            ttl_seconds: 660
        }]
    );
}

#[test]
fn a_restore_shows_what_it_restored_and_a_failed_one_goes_on_when_asked() {
    let mut observed: Observed<KafkaRestore> = seen(fixtures::restore());
    let step = |observed: &mut Observed<KafkaRestore>, now: &str| {
        while let Some(status) = decide(observed, at(now)).status {
            observed.object.status = Some(status);
        }
        observed.object.status.clone().unwrap()
    };
    let run = step(&mut observed, "2026-01-01T00:00:01Z")
        .life
        .active_run
        .unwrap();
    let job = JobView {
        name: run.job.clone(),
        owner_uid: Some("uid-2".into()),
        ..failed_job("PodFailurePolicy")
    };
    observed.jobs = vec![job.clone()];
    observed.active_job = Some(job);
    observed.pods = vec![ended_pod(
        64,
        "Error",
        &failure_report(Fault::Spec).to_termination_message(),
    )];
    let status = step(&mut observed, "2026-01-01T00:05:01Z");
    assert_eq!(
        (status.life.phase, status.start_time),
        (Phase::Failed, Some(time(at("2026-01-01T00:00:01Z"))))
    );
    assert_eq!(status.run_history[0].reason.as_deref(), Some("InvalidSpec"));

    observed.active_job = None;
    observed
        .object
        .annotations_mut()
        .insert(RETRY.into(), "1".into());
    let run = step(&mut observed, "2026-01-01T00:07:00Z")
        .life
        .active_run
        .unwrap();
    assert_eq!(
        (run.reason, run.id.as_str()),
        (RunReason::Retry, "orders-back-20260101-000700")
    );
    let job = JobView {
        name: run.job,
        owner_uid: Some("uid-2".into()),
        ..complete("job-2")
    };
    observed.jobs.push(job.clone());
    observed.active_job = Some(job);
    observed.pushed = Some(success_report(8));
    let status = step(&mut observed, "2026-01-01T00:09:00Z");
    assert_eq!(
        (status.restored_records, status.percent),
        (Some(8), Some(100))
    );
    assert!(status.completion_time.is_some());
    assert_eq!(
        (
            status.life.totals.success.runs,
            status.life.totals.failure.runs
        ),
        (1, 1)
    );
}

/// Crashes between any two writes: whatever prefix of the decisions was carried out, going on gives the same end.
#[test]
fn a_life_that_is_cut_anywhere_ends_the_same() {
    let end = |cut: usize| {
        let mut observed = seen(fixtures::backup());
        let mut is_job_there = false;
        for step in 0..20 {
            let now = format!("2026-01-01T00:06:{step:02}Z");
            // At the cut the decision is made and lost, with the process.
            let decision = decide(&observed, at(&now));
            if step == cut {
                continue;
            }
            if let Some(status) = decision.status {
                observed.object.status = Some(status);
            }
            for action in decision.jobs {
                match action {
                    JobAction::Create => is_job_there = true,
                    JobAction::Mark { .. } => observed.jobs[0].accounted = Some(at(&now)),
                    JobAction::Delete { .. }
                    | JobAction::DeleteStray { .. }
                    | JobAction::GiveUpPod { .. } => panic!("{action:?}"),
                }
            }
            if is_job_there && observed.jobs.is_empty() {
                observe_job(&mut observed, complete("job-1"));
                observed.pods = vec![ended_pod(
                    0,
                    "Completed",
                    &success_report(5).to_termination_message(),
                )];
            }
            let names_job = life(&observed).active_run.is_some();
            observed.active_job = observed.jobs.first().filter(|_| names_job).cloned();
        }
        let totals = life(&observed).totals;
        let status = observed.object.status();
        assert!(observed.jobs[0].accounted.is_some());
        (
            totals.success,
            totals.records,
            totals.held,
            status.backup_history,
        )
    };
    let whole = end(usize::MAX);
    assert_eq!((whole.0.runs, whole.1), (1, 5));
    for cut in 0..12 {
        assert_eq!(end(cut), whole, "cut at step {cut}");
    }
}

/// A restore whose only run ended with `report`.
fn restored(report: Report) -> Observed<KafkaRestore> {
    let mut object = fixtures::restore();
    object.spec.dry_run = report.dry_run.is_some();
    let mut observed: Observed<KafkaRestore> = seen(object);
    let step = |observed: &mut Observed<KafkaRestore>, now: &str| {
        while let Some(status) = decide(observed, at(now)).status {
            observed.object.status = Some(status);
        }
    };
    step(&mut observed, "2026-01-01T00:00:01Z");
    let run = observed.object.status().life.active_run.unwrap();
    let job = JobView {
        name: run.job,
        owner_uid: Some("uid-2".into()),
        ..complete("job-1")
    };
    observed.jobs = vec![job.clone()];
    observed.active_job = Some(job);
    observed.pushed = Some(report);
    step(&mut observed, "2026-01-01T00:05:04Z");
    observed
}

#[test]
fn held_retention_is_a_condition_with_the_command_that_ends_it() {
    let conditions = |observed: &Observed<KafkaRestore>| observed.object.status().life.conditions;
    let observed = restored(success_report(5));
    assert!(condition::find(&conditions(&observed), RETENTION_HELD).is_none());
    let mut report = success_report(5);
    report.retention_held = RetentionHeld {
        topics: 2,
        example: "topic orders: use kafka-configs.sh".into(),
    };
    let conditions = conditions(&restored(report));
    let held = condition::find(&conditions, RETENTION_HELD).unwrap();
    assert_eq!(
        (&*held.status, &*held.reason),
        ("True", "WouldExpireRecords")
    );
    assert_eq!(
        held.message,
        "topic orders: use kafka-configs.sh (and 1 more topics)"
    );
}

#[test]
fn a_restore_says_which_backup_the_newest_one_was() {
    let mut report = success_report(5);
    report.backup_id = Some("orders-20260101-000000".into());
    let status = restored(report).object.status();
    assert_eq!(status.backup_id.as_deref(), Some("orders-20260101-000000"));
    assert_eq!(status.columns.unwrap().backup, "latest");
}

#[test]
fn a_dry_run_says_what_it_would_write_and_counts_no_record() {
    let mut report = success_report(0);
    report.dry_run = Some(DryRun {
        groups: 0,
        topics: 1,
        records: 70,
        bytes: 7000,
    });
    let status = restored(report).object.status();
    assert_eq!(status.life.phase, Phase::Completed);
    assert_eq!(
        (status.restored_records, status.life.totals.records),
        (Some(0), 0)
    );
    let succeeded = condition::find(&status.life.conditions, SUCCEEDED).unwrap();
    assert_eq!(
        (&*succeeded.status, &*succeeded.reason),
        ("True", "DryRunCompleted")
    );
    assert!(
        succeeded
            .message
            .contains("dry run: 70 records (7000 bytes) would be written to 1 topics"),
        "{}",
        succeeded.message
    );
}

#[test]
fn a_restore_that_carries_groups_over_says_so_beside_its_records() {
    let mut report = success_report(7);
    report.offsets = Some(fixtures::offsets_report());
    let status = restored(report).object.status();
    let succeeded = condition::find(&status.life.conditions, SUCCEEDED).unwrap();
    assert!(
        succeeded
            .message
            .ends_with("7 records, 700 bytes; 3 offsets of 1 group changed, 1 group failed"),
        "{}",
        succeeded.message
    );
    assert_eq!(succeeded.reason, "RestoreCompleted");
    let carried = status.offset_reset_status.unwrap();
    assert_eq!((carried.groups_reset, carried.groups_failed), (1, 1));
    assert_eq!(carried.results[0].group, "shipping");
    assert_eq!(status.rollback_snapshot_id.as_deref(), Some("before"));
    // Its groups have no series of a reset.
    assert_eq!(status.life.totals.groups, GroupTotals::default());
}

#[test]
fn a_restore_by_reference_waits_for_its_backup_and_takes_it_from_its_own_namespace_only() {
    let mut object = fixtures::restore();
    object.spec.backup_id = None;
    object.spec.storage = None;
    object.spec.backup_ref = serde_json::from_value(serde_json::json!({"name": "orders"})).unwrap();
    let mut observed = seen(object);
    let step = |observed: &mut Observed<KafkaRestore>, now: &str| {
        let decision = decide(observed, at(now));
        if let Some(status) = decision.status.clone() {
            observed.object.status = Some(status);
        }
        decision
    };
    let mut elsewhere = fixtures::backup();
    elsewhere.metadata.namespace = Some("other".into());
    for referenced in [None, Some(elsewhere)] {
        observed.referenced.backup = referenced;
        step(&mut observed, "2026-01-01T00:00:01Z");
        let decision = step(&mut observed, "2026-01-01T00:00:01Z");
        assert_eq!((decision.status, decision.jobs), (None, vec![]));
        assert_eq!(decision.wake, Some(at("2026-01-01T00:00:16Z")));
        let conditions = observed.object.status().life.conditions;
        let ready = condition::find(&conditions, READY).unwrap();
        assert_eq!((&*ready.status, &*ready.reason), ("False", "InvalidSpec"));
        assert!(
            ready.message.contains("spec.backupRef.name"),
            "{}",
            ready.message
        );
    }
    observed.referenced.backup = Some(fixtures::backup());
    step(&mut observed, "2026-01-01T00:01:00Z");
    assert_eq!(
        step(&mut observed, "2026-01-01T00:01:00Z").jobs,
        [JobAction::Create]
    );
    let plan = observed.object.plan("r", &observed.referenced).unwrap();
    let kafka_backup_shared::plan::Plan::Restore(plan) = plan else {
        panic!("{plan:?}");
    };
    assert_eq!(plan.storage, fixtures::backup().spec.storage);
    assert_eq!(plan.request.backup_id, "latest");
    assert_eq!(plan.request.archive.unwrap().to_string(), "shop/orders");
}

#[test]
fn no_column_is_ever_empty() {
    fn columns<K: Kind>(status: &K::Status) -> Vec<(String, String)> {
        let status = serde_json::to_value(status).unwrap();
        let columns = status["columns"].as_object().unwrap().clone();
        columns
            .into_iter()
            .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
            .collect()
    }
    let mut scheduled = fixtures::backup();
    scheduled.spec.schedule = Some("@daily".into());
    scheduled.spec.time_zone = Some("Europe/Berlin".into());
    let mut suspended = scheduled.clone();
    suspended.spec.suspend = true;
    let mut invalid = fixtures::backup();
    invalid.spec.topics.clear();
    let mut all = Vec::new();
    for object in [fixtures::backup(), scheduled, suspended, invalid] {
        let status = decide(&seen(object), at("2026-01-01T00:00:01Z"))
            .status
            .unwrap();
        all.extend(columns::<KafkaBackup>(&status));
    }
    let status = decide(&seen(fixtures::restore()), at("2026-01-01T00:00:01Z"))
        .status
        .unwrap();
    all.extend(columns::<KafkaRestore>(&status));
    let status = decide(&seen(fixtures::offset_reset()), at("2026-01-01T00:00:01Z"));
    all.extend(columns::<KafkaOffsetReset>(&status.status.unwrap()));
    let rollback = fixtures::offset_rollback("verify");
    let status = decide(&seen(rollback), at("2026-01-01T00:00:01Z"));
    all.extend(columns::<KafkaOffsetRollback>(&status.status.unwrap()));
    assert!(all.iter().all(|(_, value)| !value.is_empty()), "{all:?}");
    let said = |value: &str| all.iter().any(|(_, found)| found == value);
    for value in [
        "once",
        "@daily Europe/Berlin",
        "never",
        "suspended",
        "2026-01-01T23:00:00Z",
        "latest",
        "-",
    ] {
        assert!(said(value), "{value}: {all:?}");
    }
}

/// An hourly backup that has run, under a limit, at 00:30.
fn limited() -> Observed<KafkaBackup> {
    let mut observed = running();
    observe_job(&mut observed, complete("job-1"));
    observed.pushed = Some(success_report(5));
    settled(&mut observed, "2026-01-01T00:05:04Z");
    observed.pushed = None;
    observed.jobs[0].accounted = Some(at("2026-01-01T00:05:04Z"));
    observed.object.spec.schedule = Some("0 * * * *".into());
    observed.limits.runs = Some(1);
    settled(&mut observed, "2026-01-01T00:30:00Z");
    observed
}

#[test]
fn a_run_without_a_place_waits_in_the_status_and_starts_when_it_has_one() {
    let mut observed = limited();
    let decision = written(&mut observed, "2026-01-01T01:00:00Z");
    assert_eq!(decision.jobs, []);
    let waiting = life(&observed).waiting_run.unwrap();
    assert_eq!(
        (waiting.key.as_str(), waiting.due),
        ("2026-01-01T01:00:00Z", time(at("2026-01-01T01:00:00Z")))
    );
    observed.place = Some(Place::Waits(3));
    let decision = settled(&mut observed, "2026-01-01T01:00:01Z");
    assert_eq!(
        (decision.jobs, decision.wake),
        (vec![], Some(at("2026-01-01T01:00:16Z")))
    );
    assert_eq!(life(&observed).phase, Phase::Pending);
    let (status, reason, message) = condition(&observed, PROGRESSING);
    assert_eq!((&*status, &*reason), ("False", "WaitsForPlace"));
    assert!(message.starts_with("place 3 "), "{message}");
    assert_eq!(
        condition(&observed, SUCCEEDED).0,
        "True",
        "the last run succeeded"
    );

    observed.place = Some(Place::Free);
    let decision = settled(&mut observed, "2026-01-01T01:20:00Z");
    assert_eq!(decision.jobs, [JobAction::Create]);
    let run = life(&observed).active_run.unwrap();
    assert_eq!(
        (run.id.as_str(), run.start_time),
        ("orders-20260101-010000", time(at("2026-01-01T01:20:00Z")))
    );
    assert_eq!(life(&observed).waiting_run, None);
    assert_eq!(observed.object.status().missed_runs, 0);
}

#[test]
fn a_newer_tick_takes_the_place_of_one_that_waits_and_a_trigger_stays_behind_it() {
    let mut observed = limited();
    observed.place = Some(Place::Waits(1));
    settled(&mut observed, "2026-01-01T01:00:00Z");
    observed
        .object
        .annotations_mut()
        .insert(TRIGGER.into(), "now".into());
    settled(&mut observed, "2026-01-01T01:30:00Z");
    assert_eq!(
        observed.object.status().last_trigger,
        None,
        "it is not lost"
    );
    let decision = written(&mut observed, "2026-01-01T02:00:00Z");
    assert_eq!(reasons(&decision), ["MissedSchedule"]);
    assert_eq!(
        life(&observed).waiting_run.unwrap().key,
        "2026-01-01T02:00:00Z"
    );
    assert_eq!(observed.object.status().missed_runs, 1);

    observed.object.spec.starting_deadline_seconds = Some(600);
    settled(&mut observed, "2026-01-01T02:10:00Z");
    assert!(life(&observed).waiting_run.is_some());
    settled(&mut observed, "2026-01-01T02:10:01Z");
    assert_eq!(
        observed.object.status().missed_runs,
        2,
        "it had no place in time"
    );
    let waiting = life(&observed).waiting_run.unwrap();
    assert_eq!(
        (waiting.reason, waiting.key.as_str()),
        (RunReason::Trigger, "now")
    );
}

#[test]
fn a_suspended_schedule_leaves_the_line_and_a_trigger_does_not() {
    let mut observed = limited();
    observed.place = Some(Place::Waits(1));
    settled(&mut observed, "2026-01-01T01:00:00Z");
    observed.object.spec.suspend = true;
    settled(&mut observed, "2026-01-01T01:10:00Z");
    assert_eq!(life(&observed).waiting_run, None);
    assert_eq!(observed.object.status().missed_runs, 0);
    observed
        .object
        .annotations_mut()
        .insert(TRIGGER.into(), "now".into());
    settled(&mut observed, "2026-01-01T01:20:00Z");
    observed.place = Some(Place::Free);
    let decision = settled(&mut observed, "2026-01-01T01:30:00Z");
    assert_eq!(decision.jobs, [JobAction::Create]);
}
