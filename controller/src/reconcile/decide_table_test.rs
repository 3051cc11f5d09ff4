//! One line a case: what is seen around a run, and what is decided until nothing is left to write.
//!
//! The run is that of a one-shot backup, decided at 00:00:00 (2026-01-01); where it has a Job, that is `job-1`, created at 00:00:02.

use kafka_backup_shared::crd::KafkaBackup;
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::status::Phase;

use super::*;
use crate::fixtures::{self, at, ended_pod, failed_job, failure_report, job_view, success_report};
use crate::reconcile::condition::{self, PROGRESSING, READY, SUCCEEDED};
use crate::reconcile::view::JobState;

type Seen = Observed<KafkaBackup>;

fn seen() -> Seen {
    super::tests::seen(fixtures::backup())
}

/// Writes until nothing is left to write.
fn settle(seen: &mut Seen, now: &str) -> Decision<<KafkaBackup as Kind>::Status> {
    for _ in 0..6 {
        let decision = decide(seen, at(&format!("2026-01-01T{now}Z")));
        let Some(status) = decision.status.clone() else {
            return decision;
        };
        let run = status.life.active_run.clone();
        seen.object.status = Some(status);
        let is_its = |job: &&JobView| run.as_ref().is_some_and(|run| run.job == job.name);
        seen.active_job = seen.jobs.iter().find(is_its).cloned();
    }
    panic!("the status is written again and again");
}

/// The run is decided; its Job is not created yet.
fn unborn() -> Seen {
    let mut seen = seen();
    settle(&mut seen, "00:00:00");
    seen
}

/// Its Job runs, and so does its pod.
fn running() -> Seen {
    let mut seen = unborn();
    with_job(&mut seen, job_view("job-1"));
    seen.pods = vec![PodView {
        terminated: None,
        ..ended_pod(0, "", "")
    }];
    settle(&mut seen, "00:00:03");
    seen
}

fn with_job(seen: &mut Seen, job: JobView) {
    seen.jobs = vec![job.clone()];
    seen.active_job = Some(job);
}

fn complete(seen: &mut Seen) {
    let job = JobView {
        state: JobState::Complete {
            at: at("2026-01-01T00:05:00Z"),
        },
        ended_pods: 1,
        ..job_view("job-1")
    };
    with_job(seen, job);
}

fn fail(seen: &mut Seen, reason: &str, pods: Vec<PodView>) {
    with_job(seen, failed_job(reason));
    seen.pods = pods;
}

fn waiting(seen: &mut Seen, reason: &str) {
    seen.pods = vec![PodView {
        has_started: false,
        terminated: None,
        ..ended_pod(0, "", "")
    }];
    seen.trouble = Some(Trouble {
        reason: reason.into(),
        message: "its words".into(),
    });
}

fn gone(seen: &mut Seen) {
    seen.jobs.clear();
    seen.active_job = None;
}

fn reported(records: u64) -> Vec<PodView> {
    vec![ended_pod(
        0,
        "Completed",
        &success_report(records).to_termination_message(),
    )]
}

fn denied() -> Vec<PodView> {
    vec![ended_pod(
        77,
        "Error",
        &failure_report(Fault::Denied).to_termination_message(),
    )]
}

/// What is decided, in words: phase; reason of Ready, Progressing and Succeeded; what is done to Jobs.
fn said(seen: &mut Seen, now: &str) -> [String; 5] {
    let decision = settle(seen, now);
    let life = seen.object.status().life;
    let reason = |type_: &str| {
        condition::find(&life.conditions, type_)
            .unwrap()
            .reason
            .clone()
    };
    let job = |action: &JobAction| match action {
        JobAction::Create => "create".to_owned(),
        JobAction::Mark { uid, .. } => format!("mark {uid}"),
        JobAction::Delete { uid, .. } => format!("delete {uid}"),
        JobAction::DeleteStray { uid, .. } => format!("stray {uid}"),
        JobAction::GiveUpPod { uid, .. } => format!("give up {uid}"),
    };
    let jobs: Vec<String> = decision.jobs.iter().map(job).collect();
    let phase = life.phase.as_str().to_owned();
    [
        phase,
        reason(READY),
        reason(PROGRESSING),
        reason(SUCCEEDED),
        jobs.join(", "),
    ]
}

/// Begins, changes what is seen, looks at a time of day.
type Case = (
    &'static str,
    fn() -> Seen,
    fn(&mut Seen),
    &'static str,
    [&'static str; 5],
);

#[test]
fn what_is_seen_and_what_is_decided() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // Before the Job.
        ("nothing yet", seen, |_| {}, "00:00:01", ["Running", "SpecValid", "RunActive", "RunActive", "create"]),
        ("decided", unborn, |_| {}, "00:00:01", ["Running", "SpecValid", "RunActive", "RunActive", "create"]),
        ("decided, 20 hours later", unborn, |_| {}, "20:00:00", ["Running", "SpecValid", "RunActive", "RunActive", "create"]),
        ("refused by a quota", unborn, |seen| { seen.is_refused = true; seen.trouble = Some(Trouble { reason: "JobRefused".into(), message: "quota".into() }) }, "00:01:00", ["Running", "JobRefused", "RunActive", "RunActive", "create"]),
        ("refused for 10 minutes", unborn, |seen| { seen.is_refused = true; seen.trouble = Some(Trouble { reason: "JobRefused".into(), message: "quota".into() }) }, "00:10:00", ["Failed", "SpecValid", "NoActiveRun", "StartDeadlineExceeded", ""]),
        ("spec turned invalid", unborn, |seen| seen.object.spec.topics.clear(), "00:01:00", ["Failed", "InvalidSpec", "NoActiveRun", "NoRun", ""]),
        ("zone does not exist", seen, |seen| { seen.object.spec.schedule = Some("@daily".into()); seen.object.spec.time_zone = Some("Europe/Bielefeld".into()) }, "00:01:00", ["Failed", "InvalidSpec", "NoActiveRun", "NoRun", ""]),
        ("suspended", seen, |seen| seen.object.spec.suspend = true, "00:01:00", ["Pending", "SpecValid", "NoActiveRun", "NoRun", ""]),
        ("a Job of somebody else", unborn, |seen| with_job(seen, JobView { owner_uid: Some("x".into()), ..job_view("job-9") }), "00:01:00", ["Failed", "SpecValid", "NoActiveRun", "JobNameTaken", ""]),
        // While it runs.
        ("running", running, |_| {}, "05:00:00", ["Running", "SpecValid", "RunActive", "RunActive", ""]),
        ("suspended meanwhile", running, |seen| seen.object.spec.suspend = true, "05:00:00", ["Running", "SpecValid", "RunActive", "RunActive", ""]),
        ("edited meanwhile", running, |seen| { seen.object.spec.topics = vec!["other".into()]; seen.object.metadata.generation = Some(2) }, "00:01:00", ["Running", "SpecValid", "RunActive", "RunActive", ""]),
        ("turned invalid meanwhile", running, |seen| seen.object.spec.topics.clear(), "00:01:00", ["Running", "InvalidSpec", "RunActive", "RunActive", ""]),
        ("a Secret is missing", running, |seen| waiting(seen, "FailedMount"), "00:01:00", ["Running", "FailedMount", "RunActive", "RunActive", ""]),
        ("a Secret is missing for 10 minutes", running, |seen| waiting(seen, "FailedMount"), "00:10:04", ["Failed", "SpecValid", "NoActiveRun", "StartDeadlineExceeded", "delete job-1"]),
        ("about to fail", running, |seen| with_job(seen, JobView { failing: Some(Trouble { reason: "PodFailurePolicy".into(), message: String::new() }), ..job_view("job-1") }), "00:05:00", ["Running", "SpecValid", "RunFailing", "RunActive", ""]),
        // Its end.
        ("complete, its report in the pod", running, |seen| { complete(seen); seen.pods = reported(5) }, "00:05:01", ["Completed", "SpecValid", "NoActiveRun", "BackupCompleted", "mark job-1"]),
        ("complete, its report pushed", running, |seen| { complete(seen); seen.pods.clear(); seen.pushed = Some(success_report(5)) }, "00:05:01", ["Completed", "SpecValid", "NoActiveRun", "BackupCompleted", "mark job-1"]),
        ("complete, no manifest", running, |seen| { complete(seen); seen.pods = vec![ended_pod(0, "Completed", "")] }, "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "NoReport", "mark job-1"]),
        ("complete, nobody left to ask", running, |seen| { complete(seen); seen.pods.clear() }, "00:05:01", ["Running", "SpecValid", "RunActive", "RunActive", "create"]),
        ("access denied", running, |seen| fail(seen, "PodFailurePolicy", denied()), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "AccessDenied", "mark job-1"]),
        ("out of memory", running, |seen| fail(seen, "BackoffLimitExceeded", vec![ended_pod(137, "OOMKilled", "")]), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "OOMKilled", "mark job-1"]),
        ("killed", running, |seen| fail(seen, "BackoffLimitExceeded", vec![ended_pod(137, "Error", "")]), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "WorkerDied", "mark job-1"]),
        ("no pod left", running, |seen| fail(seen, "BackoffLimitExceeded", vec![]), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "BackoffLimitExceeded", "mark job-1"]),
        ("took too long", running, |seen| fail(seen, "DeadlineExceeded", denied()), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "DeadlineExceeded", "mark job-1"]),
        ("Job deleted by hand", running, gone, "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "JobDeleted", ""]),
        ("Job deleted, its report pushed", running, |seen| { gone(seen); seen.pushed = Some(success_report(5)) }, "00:05:01", ["Completed", "SpecValid", "NoActiveRun", "BackupCompleted", ""]),
        ("another Job under its name", running, |seen| with_job(seen, job_view("job-2")), "00:05:01", ["Failed", "SpecValid", "NoActiveRun", "JobDeleted", "stray job-2"]),
    ];
    for (name, begin, change, now, expected) in cases {
        let mut seen = begin();
        change(&mut seen);
        assert_eq!(said(&mut seen, now), *expected, "{name}");
        let counted = seen.object.status().life.totals;
        let is_over = seen.object.status().life.active_run.is_none();
        let has_run = !seen.object.status().backup_history.is_empty();
        let runs = counted.success.runs + counted.failure.runs + counted.held.len() as u64;
        assert_eq!(runs, u64::from(is_over && has_run), "{name} is counted");
        assert_eq!(
            seen.object.status().life.phase == Phase::Completed,
            counted.success.runs == 1,
            "{name}"
        );
    }
}
