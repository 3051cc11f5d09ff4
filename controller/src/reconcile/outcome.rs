//! How a finished Job's run ended.
//!
//! # Guarantees
//! - The Job's conditions decide between success and failure; reports say why and how much.
//! - Exit code 0 without a readable report is no success. Where no pod is left that could have had one, the answer is
//!   [`Verdict::ReportLost`]: another Job finds the finished work and reports.

use jiff::Timestamp;
use kafka_backup_shared::report::{Fault, Outcome, Report};
use kafka_backup_shared::status::RunOutcome;

use super::view::{JobState, JobView, PodView};

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: RunOutcome,
    /// CamelCase; `None` for a success.
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    pub(crate) started: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) attempts: u32,
    pub(crate) report: Option<Report>,
}

/// What a Job says about its run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on.
    Running,
    /// It ended.
    Ended(Box<Ended>),
    /// It succeeded, but what it did is not known.
    ReportLost,
}

/// Judges a Job by its conditions, its pods and what the worker pushed.
pub(crate) fn judge(job: &JobView, pods: &[PodView], pushed: Option<&Report>) -> Verdict {
    match &job.state {
        JobState::Running => Verdict::Running,
        JobState::Complete { at } => completed(job, pods, pushed, *at),
        JobState::Failed {
            at,
            reason,
            message,
        } => Verdict::Ended(Box::new(failed(job, pods, pushed, *at, (reason, message)))),
    }
}

fn completed(job: &JobView, pods: &[PodView], pushed: Option<&Report>, at: Timestamp) -> Verdict {
    let succeeded = newest(pods.iter().filter(|pod| {
        pod.terminated
            .as_ref()
            .is_some_and(|ended| ended.exit_code == 0)
    }));
    let written = succeeded.and_then(report_in);
    let is_success = |report: &&Report| report.outcome == Outcome::Success;
    // The pushed one is the same report with its lists.
    let report = pushed
        .filter(is_success)
        .or(written.as_ref().filter(is_success));
    if report.is_none() && succeeded.is_none() {
        return Verdict::ReportLost;
    }
    let failure = match report {
        Some(_) => None,
        None => Some((
            "NoReport",
            "the worker ended with exit code 0 but left no report of success; see the log of its pod".to_owned(),
        )),
    };
    Verdict::Ended(Box::new(ended(job, at, failure, report.cloned())))
}

fn failed(
    job: &JobView,
    pods: &[PodView],
    pushed: Option<&Report>,
    at: Timestamp,
    condition: (&str, &str),
) -> Ended {
    let (reason, message) = condition;
    let has_ended = |pod: &&PodView| pod.terminated.is_some() || pod.failed.is_some();
    let last = newest(pods.iter().filter(has_ended));
    let written = last.and_then(report_in);
    // What the last attempt pushed is the same report with its lists.
    let is_same = |pushed: &&Report| {
        let written = written.as_ref();
        written.is_none_or(|written| written.start_time == pushed.start_time)
    };
    let whole = pushed.filter(is_same).cloned();
    let report = whole.or(written);
    let told = report.as_ref().and_then(|report| match &report.outcome {
        Outcome::Failure { fault, message } => Some((fault.reason(), message.clone())),
        Outcome::Success => None,
    });
    if reason == "DeadlineExceeded" {
        let message =
            format!("the run took longer than spec.job.activeDeadlineSeconds ({message})");
        return ended(job, at, Some(("DeadlineExceeded", message)), report);
    }
    let failure = told.or_else(|| last.and_then(killed)).unwrap_or_else(|| {
        (
            if reason.is_empty() {
                "JobFailed"
            } else {
                reason
            },
            message.to_owned(),
        )
    });
    ended(job, at, Some(failure), report)
}

/// Why a container ended that left no report.
fn killed(pod: &PodView) -> Option<(&str, String)> {
    let name = &pod.name;
    if let Some(failed) = &pod.failed {
        return Some((&failed.reason, format!("pod {name}: {}", failed.message)));
    }
    let terminated = pod.terminated.as_ref()?;
    if terminated.reason == "OOMKilled" {
        let limit = pod.memory_limit.as_ref();
        let limit = limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        let advice = "raise spec.resources.limits.memory";
        return Some((
            "OOMKilled",
            format!("the worker in pod {name} needed more memory than its limit{limit}; {advice}"),
        ));
    }
    let code = terminated.exit_code;
    let reason = Fault::from_exit_code(code).map_or("WorkerDied", Fault::reason);
    let message = format!(
        "the worker in pod {name} ended with exit code {code} and left no report; see its log"
    );
    Some((reason, message))
}

fn report_in(pod: &PodView) -> Option<Report> {
    Report::from_termination_message(&pod.terminated.as_ref()?.message)
}

fn newest<'a>(pods: impl Iterator<Item = &'a PodView>) -> Option<&'a PodView> {
    pods.max_by_key(|pod| {
        (
            pod.terminated.as_ref().and_then(|ended| ended.at),
            pod.created,
        )
    })
}

fn ended(
    job: &JobView,
    at: Timestamp,
    failure: Option<(&str, String)>,
    report: Option<Report>,
) -> Ended {
    let outcome = match failure {
        Some(_) => RunOutcome::Failure,
        None => RunOutcome::Success,
    };
    let (reason, message) = failure.unzip();
    Ended {
        outcome,
        reason: reason.map(str::to_owned),
        message,
        started: job.started.min(at),
        at,
        attempts: job.ended_pods.max(1),
        report,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{at, ended_pod, failed_job, failure_report, job_view, success_report};
    use crate::reconcile::view::Trouble;

    fn complete() -> JobView {
        JobView {
            state: JobState::Complete {
                at: at("2026-01-01T00:05:00Z"),
            },
            ..job_view("job-1")
        }
    }

    fn end(verdict: Verdict) -> Ended {
        match verdict {
            Verdict::Ended(ended) => *ended,
            other @ (Verdict::Running | Verdict::ReportLost) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_complete_job_succeeds_by_either_report() {
        let message = success_report(5).to_termination_message();
        let written = end(judge(
            &complete(),
            &[ended_pod(0, "Completed", &message)],
            None,
        ));
        let pushed = end(judge(&complete(), &[], Some(&success_report(5))));
        for ended in [written, pushed] {
            assert_eq!(ended.outcome, RunOutcome::Success);
            assert_eq!(ended.report.unwrap().records, 5);
            assert_eq!(ended.reason, None);
        }
    }

    #[test]
    fn exit_code_0_without_a_report_is_no_success() {
        let ended = end(judge(&complete(), &[ended_pod(0, "Completed", "")], None));
        assert_eq!(ended.outcome, RunOutcome::Failure);
        assert_eq!(ended.reason.as_deref(), Some("NoReport"));
    }

    #[test]
    fn a_complete_job_without_pods_has_lost_its_report() {
        assert_eq!(judge(&complete(), &[], None), Verdict::ReportLost);
        assert_eq!(
            judge(&complete(), &[], Some(&failure_report(Fault::Unavailable))),
            Verdict::ReportLost
        );
    }

    #[test]
    fn the_reason_of_a_failed_job_is_the_most_telling_one() {
        let denied = failure_report(Fault::Denied).to_termination_message();
        let oom = PodView {
            memory_limit: Some("256Mi".into()),
            ..ended_pod(137, "OOMKilled", "")
        };
        let evicted = PodView {
            terminated: None,
            failed: Some(Trouble {
                reason: "Evicted".into(),
                message: "The node was low on resource: memory.".into(),
            }),
            ..ended_pod(137, "Error", "")
        };
        let cases = [
            (
                "PodFailurePolicy",
                vec![ended_pod(77, "Error", &denied)],
                "AccessDenied",
                "told by the worker",
            ),
            (
                "BackoffLimitExceeded",
                vec![oom],
                "OOMKilled",
                "more memory than its limit of 256Mi",
            ),
            (
                "BackoffLimitExceeded",
                vec![evicted],
                "Evicted",
                "low on resource: memory",
            ),
            (
                "BackoffLimitExceeded",
                vec![ended_pod(69, "Error", "")],
                "Unavailable",
                "exit code 69",
            ),
            (
                "BackoffLimitExceeded",
                vec![ended_pod(137, "Error", "")],
                "WorkerDied",
                "exit code 137",
            ),
            (
                "BackoffLimitExceeded",
                vec![],
                "BackoffLimitExceeded",
                "job words",
            ),
            (
                "DeadlineExceeded",
                vec![ended_pod(77, "Error", &denied)],
                "DeadlineExceeded",
                "activeDeadlineSeconds",
            ),
        ];
        for (condition, pods, reason, words) in cases {
            let ended = end(judge(&failed_job(condition), &pods, None));
            assert_eq!(ended.outcome, RunOutcome::Failure);
            assert_eq!(ended.reason.as_deref(), Some(reason));
            assert!(
                ended.message.as_ref().unwrap().contains(words),
                "{condition}: {:?}",
                ended.message
            );
        }
    }

    #[test]
    fn the_last_pod_speaks_for_the_job() {
        let first = ended_pod(
            69,
            "Error",
            &failure_report(Fault::Unavailable).to_termination_message(),
        );
        let mut last = ended_pod(
            77,
            "Error",
            &failure_report(Fault::Denied).to_termination_message(),
        );
        last.terminated.as_mut().unwrap().at = Some(at("2026-01-01T09:00:00Z"));
        for pods in [[first.clone(), last.clone()], [last.clone(), first.clone()]] {
            let ended = end(judge(&failed_job("BackoffLimitExceeded"), &pods, None));
            assert_eq!(ended.reason.as_deref(), Some("AccessDenied"));
        }
    }
}
