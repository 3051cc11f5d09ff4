//! The active run: from its decision over its Job to the write that accounts it.

use jiff::{SignedDuration, Timestamp};
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::{OffsetsReport, Outcome, Report};
use kafka_backup_shared::status::{ActiveRun, FinishedRun, GroupTotals, HeldRun, RunOutcome, time};

use super::decide::{Draft, Step};
use super::outcome::{Ended, Verdict, judge};
use super::tidy;
use super::view::{JobView, PodView, Trouble};
use crate::job::REPETITION;
use crate::kind::{Kind, ObjectKind};

/// How soon a run that has not started is looked at again: Events say why, and nothing announces them. An API server reads all of
/// a namespace for the Events of one pod, so that many that are stuck are asked about less and less often.
const START_POLL: SignedDuration = SignedDuration::from_secs(10);
/// The longest between two such looks: what is wrong is told within 60 s.
const START_POLL_MAX: SignedDuration = SignedDuration::from_secs(50);
/// A pod whose node is late with the report of its end is told of after this part of the time after which it is given up.
const SILENT_PART: i32 = 5;

impl<K: Kind> Draft<'_, K> {
    /// Follows the active run as far as what was observed carries it.
    pub(super) fn follow_run(&mut self, plan: Result<&str, &SpecError>) -> Step {
        let Some(run) = self.life().active_run.clone() else {
            return Step::Idle;
        };
        let observed = self.observed;
        match (&observed.active_job, &run.job_uid) {
            (None, None) => self.follow_unborn(run, plan),
            (None, Some(_)) => self.account(&run, self.deleted(&run)),
            (Some(job), _) if job.owner_uid != self.object.meta().uid => {
                let message = format!("a Job {} that is not ours is in the way", job.name);
                self.account(&run, unstarted(&run, "JobNameTaken", message, self.now))
            }
            (Some(job), None) => {
                self.change_run(|run| run.job_uid = Some(job.uid.clone()));
                self.tell(
                    false,
                    "RunStarted",
                    format!("run {} in Job {}", run.id, job.name),
                );
                Step::Active {
                    trouble: None,
                    is_unborn: false,
                }
            }
            (Some(job), Some(uid)) if job.uid != *uid => self.account(&run, self.deleted(&run)),
            (Some(job), Some(_)) => match judge(job, &observed.pods, observed.pushed.as_ref()) {
                Verdict::Running => self.follow_start(&run, job),
                Verdict::Ended(ended) => self.account(&run, *ended),
                Verdict::ReportLost => self.repeat(&run, job),
            },
        }
    }

    /// A Job that went away before it was accounted.
    fn deleted(&self, run: &ActiveRun) -> Ended {
        let message = format!("Job {} was deleted before its run was accounted", run.job);
        let pushed = self.observed.pushed.as_ref();
        last_word(run, "JobDeleted", message, pushed, self.now)
    }

    fn change_run(&mut self, change: impl FnOnce(&mut ActiveRun)) {
        if let Some(run) = self.life().active_run.as_mut() {
            change(run);
        }
    }

    /// A run whose Job does not exist yet.
    fn follow_unborn(&mut self, run: ActiveRun, plan: Result<&str, &SpecError>) -> Step {
        let Ok(plan) = plan else {
            // The spec became invalid between decision and Job: nothing has run, nothing is counted.
            self.life().active_run = None;
            return Step::Over { at: self.now };
        };
        let generation = self.object.meta().generation.unwrap_or(0);
        if run.generation != generation {
            self.change_run(|run| run.generation = generation);
            self.life().last_run_generation = Some(generation);
            self.life().last_run_plan = Some(plan.to_owned());
        }
        let trouble = self
            .observed
            .trouble
            .clone()
            .filter(|_| self.observed.is_refused);
        if let Some(trouble) = &trouble
            && self.is_start_overdue(run.start_time.0)
        {
            return self.fail_start(&run, Some(trouble));
        }
        Step::Active {
            trouble,
            is_unborn: true,
        }
    }

    /// A run whose Job exists: has its pod started?
    fn follow_start(&mut self, run: &ActiveRun, job: &JobView) -> Step {
        if let Some(lost) = self.lost_pod() {
            return self.account(run, lost);
        }
        if let Some(trouble) = self.overdue_pod() {
            return Step::Active {
                trouble: Some(trouble),
                is_unborn: false,
            };
        }
        let newest = self.observed.pods.iter().max_by_key(|pod| pod.created);
        let waiting_since = match newest {
            Some(pod) if pod.has_started => None,
            Some(pod) => Some(pod.created),
            // Between two pods the Job controller waits by itself.
            None => (job.ended_pods == 0).then_some(job.created),
        };
        let Some(since) = waiting_since.filter(|_| !job.is_going) else {
            return Step::Active {
                trouble: None,
                is_unborn: false,
            };
        };
        let trouble = newest
            .and_then(|pod| pod.trouble.clone())
            .or_else(|| self.observed.trouble.clone());
        if self.is_start_overdue(since) {
            return self.fail_start(run, trouble.as_ref());
        }
        let waited = self.now.duration_since(since);
        let deadline = since + SignedDuration::from_secs(self.start_deadline());
        let poll = waited.clamp(START_POLL, START_POLL_MAX);
        self.wake_at(Some(deadline.min(self.now + poll)));
        Step::Active {
            trouble,
            is_unborn: false,
        }
    }

    /// The end of a run on a node that does not report, where no other pod may go on in its place.
    fn lost_pod(&mut self) -> Option<Ended> {
        if K::KIND.resumes() {
            return None;
        }
        let observed = self.observed;
        let run = self.life().active_run.clone()?;
        let overdue = |pod: &PodView| Some((pod.name.clone(), pod.overdue_since()?));
        let (name, since) = observed.pods.iter().find_map(overdue)?;
        let end = since + observed.lost_after;
        if end > self.now {
            self.wake_at(Some(end));
            return None;
        }
        let seconds = observed.lost_after.as_secs();
        let message = format!(
            "the node of pod {name} did not report its end within {seconds} s of its grace period; what the run changed is not known, \
             and where the node lives it may still change something"
        );
        let mut lost = last_word(
            &run,
            "NodeLost",
            message,
            observed.pushed.as_ref(),
            self.now,
        );
        if let Some(job) = &observed.active_job {
            lost.started = job.started.min(lost.at);
            lost.attempts = job.ended_pods + 1;
        }
        Some(lost)
    }

    /// A pod that its node should have ended by now.
    fn overdue_pod(&mut self) -> Option<Trouble> {
        let overdue = |pod: &PodView| Some((pod.name.clone(), pod.overdue_since()?));
        let (name, since) = self.observed.pods.iter().find_map(overdue)?;
        let lost_after = self.observed.lost_after;
        let told = since + lost_after / SILENT_PART;
        if told > self.now {
            self.wake_at(Some(told));
            return None;
        }
        let seconds = lost_after.as_secs();
        let what = if K::KIND.resumes() {
            "it is given up"
        } else {
            "the run has failed"
        };
        // Without the time, which moves when the pod is deleted for good.
        Some(Trouble {
            reason: "NodeLost".into(),
            message: format!(
                "pod {name} is overdue, and its node does not report; {what} {seconds} s after its grace period"
            ),
        })
    }

    fn start_deadline(&self) -> i64 {
        self.object.job_settings().start_deadline_seconds()
    }

    fn is_start_overdue(&self, since: Timestamp) -> bool {
        self.now.duration_since(since) >= SignedDuration::from_secs(self.start_deadline())
    }

    fn fail_start(&mut self, run: &ActiveRun, trouble: Option<&Trouble>) -> Step {
        let seconds = self.start_deadline();
        let why = trouble.map_or_else(
            || "no reason is known".into(),
            |t| format!("{}: {}", t.reason, t.message),
        );
        let message = format!("the run's pod did not start within {seconds} s: {why}");
        self.account(
            run,
            unstarted(run, "StartDeadlineExceeded", message, self.now),
        )
    }

    /// Ends the run for a tick that came while it was going on. Its Job is deleted once this stands in the status.
    pub(super) fn replace(&mut self, tick: &str) -> Step {
        let Some(run) = self.life().active_run.clone() else {
            return Step::Idle;
        };
        let message = format!("the tick at {tick} came before its end (concurrencyPolicy Replace)");
        let mut ended = unstarted(&run, "Replaced", message, self.now);
        if let Some(job) = &self.observed.active_job {
            ended.started = job.started.min(self.now);
            ended.attempts = job.ended_pods.max(1);
        }
        self.account(&run, ended)
    }

    /// One more Job: the worker finds its own manifest or the end of the restore, and reports without moving data. Committed offsets
    /// tell nobody who has committed them, and groups may have gone on since.
    fn repeat(&mut self, run: &ActiveRun, job: &JobView) -> Step {
        let name = &run.job;
        let why = if !K::KIND.resumes() {
            Some(format!(
                "Job {name} completed, but its report was not received: what it did is not known"
            ))
        } else if name.ends_with(REPETITION) {
            Some(format!(
                "Jobs {name} and its predecessor completed, but the report of neither was received"
            ))
        } else {
            None
        };
        if let Some(message) = why {
            let at = job.finished_at().unwrap_or(self.now);
            return self.account(run, unstarted(run, "ReportLost", message, at));
        }
        self.tell(
            true,
            "ReportLost",
            format!(
                "Job {} completed without a report; it is repeated to learn what it did",
                run.job
            ),
        );
        self.change_run(|run| {
            run.job.push_str(REPETITION);
            run.job_uid = None;
        });
        Step::Active {
            trouble: None,
            is_unborn: false,
        }
    }

    /// Ends the run: history, totals, held increment, all in this one write.
    fn account(&mut self, run: &ActiveRun, ended: Ended) -> Step {
        let now = self.now;
        let report = ended.report.as_ref();
        let (records, bytes) = report.map_or((run.records, run.bytes), |report| {
            (report.records, report.bytes)
        });
        let finished = FinishedRun {
            backup_id: run.id.clone(),
            job: run.job.clone(),
            job_uid: run.job_uid.clone(),
            start_time: time(ended.started),
            completion_time: time(ended.at),
            size: bytes,
            records,
            outcome: ended.outcome,
            reason: ended.reason.clone(),
            message: ended.message.clone().or_else(|| told(report)),
            attempts: ended.attempts,
        };
        let duration = ended.at.duration_since(ended.started).as_millis();
        let duration_ms = u64::try_from(duration).unwrap_or(0);
        // What a failed run found is found again by the run that succeeds.
        let gaps = match ended.outcome {
            RunOutcome::Success => report.map_or(0, |report| report.new_gaps),
            RunOutcome::Failure => 0,
        };
        let life = self.life();
        life.active_run = None;
        let totals = &mut life.totals;
        totals.uncommitted = totals.uncommitted.max(records);
        if ended.outcome == RunOutcome::Success {
            totals.records += totals.uncommitted;
            totals.uncommitted = 0;
            totals.last_success_time = Some(finished.completion_time.clone());
        }
        totals.last_duration_ms = Some(duration_ms);
        totals.held.push(HeldRun {
            id: run.id.clone(),
            outcome: ended.outcome,
            duration_ms,
            gaps,
            groups: groups::<K>(report),
            since: time(now),
        });
        self.object.record_end(&mut self.status, &finished, report);
        if let Some(report) = report.filter(|_| ended.outcome == RunOutcome::Success) {
            self.note_held_back(run, report);
            self.note_retention_held(run, report);
        }
        K::history_mut(&mut self.status).push(finished);
        let limits = self.object.history_limits();
        tidy::history(
            K::history_mut(&mut self.status),
            limits,
            &self.observed.jobs,
        );
        self.tell_end(run, &ended, records);
        Step::Over { at: ended.at }
    }

    fn tell_end(&mut self, run: &ActiveRun, ended: &Ended, records: u64) {
        let noun = K::KIND.noun();
        match ended.outcome {
            RunOutcome::Success => {
                let warnings = ended
                    .report
                    .iter()
                    .flat_map(|report| report.warnings.clone());
                let warnings: Vec<String> = warnings.collect();
                self.tell(
                    false,
                    format!("{noun}Completed"),
                    format!(
                        "run {}: {}",
                        run.id,
                        end_in_words(
                            self.object,
                            told(ended.report.as_ref()).as_deref(),
                            &format!("{records} records"),
                        )
                    ),
                );
                for warning in warnings {
                    self.tell(true, format!("{noun}Warning"), warning);
                }
            }
            RunOutcome::Failure => {
                let reason = ended.reason.as_deref().unwrap_or_default();
                let message = ended.message.as_deref().unwrap_or_default();
                self.tell(
                    true,
                    format!("{noun}Failed"),
                    format!("run {}: {reason}: {message}", run.id),
                );
            }
        }
    }
}

/// What a report tells of a success beyond its counts: what a dry run would write, and what became of committed offsets.
fn told(report: Option<&Report>) -> Option<String> {
    let report = report?;
    let dry_run = report.dry_run.map(|dry_run| dry_run.to_string());
    let offsets = report.offsets.as_ref().map(OffsetsReport::line);
    let told: Vec<String> = dry_run.into_iter().chain(offsets).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// How a run succeeded: its counts, of a run that moves records for real, and what its report `told` beside them.
pub(super) fn end_in_words<K: Kind>(object: &K, told: Option<&str>, counts: &str) -> String {
    let moves_records = match K::KIND {
        ObjectKind::Backup | ObjectKind::Restore => !object.is_dry_run(),
        ObjectKind::OffsetReset | ObjectKind::OffsetRollback => false,
    };
    match told {
        Some(told) if moves_records => format!("{counts}; {told}"),
        Some(told) => told.to_owned(),
        None => counts.to_owned(),
    }
}

/// Groups that the counter of offset resets counts: those of a reset that changed something.
fn groups<K: Kind>(report: Option<&Report>) -> GroupTotals {
    let offsets = report.and_then(|report| report.offsets.as_ref());
    match (K::KIND, offsets) {
        (ObjectKind::OffsetReset, Some(offsets)) if !offsets.dry_run => GroupTotals {
            success: offsets.groups_done,
            failure: offsets.groups_failed,
        },
        (ObjectKind::OffsetReset, Some(_) | None)
        | (ObjectKind::Backup | ObjectKind::Restore | ObjectKind::OffsetRollback, _) => {
            GroupTotals::default()
        }
    }
}

/// The end of a run that will not be told any more: a failure, unless its last word had arrived. What a failed run did to
/// committed offsets is told all the same.
fn last_word(
    run: &ActiveRun,
    reason: &str,
    message: String,
    pushed: Option<&Report>,
    now: Timestamp,
) -> Ended {
    let failure = unstarted(run, reason, message, now);
    let Some(report) = pushed else {
        return failure;
    };
    match report.outcome {
        Outcome::Success => Ended {
            outcome: RunOutcome::Success,
            reason: None,
            message: None,
            at: report.completion_time.min(now),
            attempts: 1,
            report: Some(report.clone()),
            ..failure
        },
        Outcome::Failure { .. } => Ended {
            report: Some(report.clone()),
            ..failure
        },
    }
}

/// A failure that no worker has told.
fn unstarted(run: &ActiveRun, reason: &str, message: String, at: Timestamp) -> Ended {
    Ended {
        outcome: RunOutcome::Failure,
        reason: Some(reason.into()),
        message: Some(message),
        started: run.start_time.0.min(at),
        at,
        attempts: 0,
        report: None,
    }
}
