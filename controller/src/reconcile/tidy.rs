//! What becomes of Jobs whose run is over, and how much history a status keeps.
//!
//! # Guarantees
//! - A finished Job is marked, and gets its `ttlSecondsAfterFinished`, only after its run stands in the history.
//! - Nothing that is accounted is removed within [`KEEP`] of it.
//! - A Job that was ended by a decision (it is accounted and has not finished) is removed, so that it cannot run on.
//! - A Job of ours that no status knows is a stray: of a controller that was paused between two requests. It is removed,
//!   never counted.

use jiff::{SignedDuration, Timestamp};
use kafka_backup_shared::status::{ActiveRun, FinishedRun, RunOutcome};

use super::decide::Observed;
use super::view::{JobView, PodView};
use crate::job::REPETITION;
use crate::kind::{HistoryLimits, Kind};

/// How long an accounted Job stays at least.
const KEEP: SignedDuration = SignedDuration::from_mins(10);

/// Something to do with a Job. Names come with the UID that was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum JobAction {
    /// POST the Job of the active run.
    Create,
    /// Mark it as accounted and let it expire.
    Mark {
        name: String,
        uid: String,
        ttl_seconds: i32,
    },
    /// Remove it, because it is accounted, unless it has changed: one that was to be stopped may have finished since, and been
    /// marked by another controller, and is to stay for [`KEEP`] then.
    Delete {
        name: String,
        uid: String,
        version: Option<String>,
    },
    /// Remove it, unless the newest status knows it after all.
    DeleteStray { name: String, uid: String },
    /// Give up a pod whose node is lost: the Job would wait for its end for ever.
    GiveUpPod { name: String, uid: String },
}

/// How long after its grace period a pod is waited for whose node does not report. A predecessor that lives after all does no
/// harm to a backup or a restore.
pub(crate) const LOST_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// Pods of the active run to give up after `lost_after`, and when the next one is to be looked at.
pub(crate) fn lost_pods(
    pods: &[PodView],
    lost_after: SignedDuration,
    now: Timestamp,
) -> (Vec<JobAction>, Option<Timestamp>) {
    let overdue = pods
        .iter()
        .filter_map(|pod| Some((pod, pod.overdue_since()? + lost_after)));
    let (lost, waiting): (Vec<_>, Vec<_>) = overdue.partition(|(_, end)| *end <= now);
    let give_up = |(pod, _): (&PodView, Timestamp)| JobAction::GiveUpPod {
        name: pod.name.clone(),
        uid: pod.uid.clone(),
    };
    let wake = waiting.into_iter().map(|(_, end)| end).min();
    (lost.into_iter().map(give_up).collect(), wake)
}

/// What to do with the object's Jobs, and when to look at them again.
pub(crate) fn jobs<K: Kind>(
    observed: &Observed<K>,
    status: &K::Status,
    now: Timestamp,
) -> (Vec<JobAction>, Option<Timestamp>) {
    let active = K::life(status).active_run.as_ref();
    let history = K::history(status);
    let kept = kept(history, observed.object.history_limits());
    let uid = &observed.object.meta().uid;
    let mut actions = Vec::new();
    let mut wake: Option<Timestamp> = None;
    for job in observed
        .jobs
        .iter()
        .filter(|job| job.owner_uid == *uid && !job.is_going)
    {
        let (name, uid) = (job.name.clone(), job.uid.clone());
        let version = job.version.clone();
        if active.is_some_and(|run| belongs_to_active(job, run)) {
            continue;
        }
        let run = history.iter().find(|run| belongs_to(job, run));
        let Some(accounted) = job.accounted else {
            actions.push(match run {
                None => JobAction::DeleteStray { name, uid },
                Some(_) if !job.is_finished() => JobAction::Delete { name, uid, version },
                Some(_) => JobAction::Mark {
                    ttl_seconds: ttl(job, observed, now),
                    name,
                    uid,
                },
            });
            continue;
        };
        if run.is_some_and(|run| kept.contains(&run)) {
            continue;
        }
        let end = accounted + KEEP;
        if end <= now {
            actions.push(JobAction::Delete { name, uid, version });
        } else {
            wake = wake.into_iter().chain([end]).min();
        }
    }
    (actions, wake)
}

/// Whether the newest status knows the Job.
pub(crate) fn is_known<K: Kind>(status: &K::Status, job: &JobView) -> bool {
    let active = K::life(status).active_run.as_ref();
    job.accounted.is_some()
        || active.is_some_and(|run| belongs_to_active(job, run))
        || K::history(status).iter().any(|run| belongs_to(job, run))
}

fn belongs_to_active(job: &JobView, run: &ActiveRun) -> bool {
    let is_it = job.name == run.job && run.job_uid.as_ref().is_none_or(|uid| *uid == job.uid);
    is_it || is_repeated_by(&job.name, &run.job)
}

fn belongs_to(job: &JobView, run: &FinishedRun) -> bool {
    run.job_uid.as_ref() == Some(&job.uid) || is_repeated_by(&job.name, &run.job)
}

fn is_repeated_by(name: &str, repetition: &str) -> bool {
    repetition.strip_suffix(REPETITION) == Some(name)
}

/// The kubelet's clock for the TTL starts when the Job finishes; ours starts when it is accounted.
fn ttl<K: Kind>(job: &JobView, observed: &Observed<K>, now: Timestamp) -> i32 {
    let wanted = i64::from(observed.object.job_settings().ttl_seconds_after_finished());
    let finished = job.finished_at().unwrap_or(now);
    let since = now.duration_since(finished).as_secs().max(0);
    let seconds = since + wanted.max(KEEP.as_secs());
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// Takes off the oldest runs above the limits, but never the newest, nor one whose Job is not marked yet.
pub(crate) fn history(history: &mut Vec<FinishedRun>, limits: HistoryLimits, jobs: &[JobView]) {
    let at_least_one = HistoryLimits {
        successful: limits.successful.max(1),
        failed: limits.failed.max(1),
    };
    let kept: Vec<String> = kept(history, at_least_one)
        .iter()
        .map(|run| run.backup_id.clone())
        .collect();
    let newest = history.len().saturating_sub(1);
    let mut index = 0;
    history.retain(|run| {
        let is_newest = index == newest;
        index += 1;
        let is_unmarked = |job: &JobView| belongs_to(job, run) && job.accounted.is_none();
        is_newest || kept.contains(&run.backup_id) || jobs.iter().any(is_unmarked)
    });
}

/// The newest runs of each outcome, as many as the limits say.
fn kept(history: &[FinishedRun], limits: HistoryLimits) -> Vec<&FinishedRun> {
    let newest = |outcome: RunOutcome, limit: u32| {
        history
            .iter()
            .rev()
            .filter(move |run| run.outcome == outcome)
            .take(limit as usize)
    };
    newest(RunOutcome::Success, limits.successful)
        .chain(newest(RunOutcome::Failure, limits.failed))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::finished;

    const LIMITS: HistoryLimits = HistoryLimits {
        successful: 2,
        failed: 1,
    };

    fn ids(history: &[FinishedRun]) -> Vec<&str> {
        history.iter().map(|run| run.backup_id.as_str()).collect()
    }

    fn runs() -> Vec<FinishedRun> {
        use RunOutcome::{Failure, Success};
        [
            ("a", Success),
            ("b", Failure),
            ("c", Success),
            ("d", Failure),
            ("e", Success),
        ]
        .map(|(id, outcome)| finished(id, outcome))
        .into()
    }

    #[test]
    fn the_history_keeps_the_newest_of_each_outcome() {
        let mut runs = runs();
        history(&mut runs, LIMITS, &[]);
        assert_eq!(ids(&runs), ["c", "d", "e"]);
    }

    #[test]
    fn a_limit_of_zero_keeps_the_newest_in_the_status() {
        let mut runs = runs();
        history(
            &mut runs,
            HistoryLimits {
                successful: 0,
                failed: 0,
            },
            &[],
        );
        assert_eq!(ids(&runs), ["d", "e"]);
    }

    #[test]
    fn a_run_whose_job_is_not_marked_stays() {
        let mut runs = runs();
        let job = crate::fixtures::job_view("job-a");
        history(&mut runs, LIMITS, &[job]);
        assert_eq!(ids(&runs), ["a", "c", "d", "e"]);
    }
}
