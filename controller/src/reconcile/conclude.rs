//! Phase and conditions: what an object's status says about everything that was decided.

use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::Report;
use kafka_backup_shared::status::{ActiveRun, FinishedRun, Phase, RunOutcome};

use super::condition::{
    self, CAPTURE_HELD, PROGRESSING, READY, RETENTION_HELD, SUCCEEDED, SUSPENDED, Saying, Truth,
};
use super::decide::{Draft, Step};
use super::follow::end_in_words;
use super::line::{self, Place};
use super::view::Trouble;
use crate::kind::Kind;

impl<K: Kind> Draft<'_, K> {
    /// Phase and conditions, from everything above.
    pub(super) fn conclude(&mut self, step: &Step, invalid: Option<SpecError>) {
        let trouble = match step {
            Step::Active { trouble, .. } => trouble.clone(),
            Step::Idle | Step::Over { .. } => None,
        };
        let generation = self.object.meta().generation;
        let last = K::history(&self.status).last().cloned();
        let active = self.life().active_run.clone();
        let waiting = self.life().waiting_run.is_some();
        self.life().phase = match (&active, &invalid, &last) {
            (Some(_), _, _) => Phase::Running,
            (None, None, _) if waiting => Phase::Pending,
            (None, Some(_), _) => Phase::Failed,
            (None, None, Some(last)) if last.outcome == RunOutcome::Success => Phase::Completed,
            (None, None, Some(_)) => Phase::Failed,
            (None, None, None) => Phase::Pending,
        };
        self.life().observed_generation = generation;
        let ready = self.readiness(invalid, trouble);
        let now = self.now;
        let conditions = &mut self.life().conditions;
        condition::set(conditions, READY, ready, generation, now);
        if let Some(suspended) = self.object.suspended() {
            let saying = if suspended {
                Saying::new(
                    true,
                    "SuspendedBySpec",
                    "spec.suspend holds back runs; a trigger still starts one",
                )
            } else {
                Saying::new(false, "NotSuspended", "")
            };
            condition::set(
                &mut self.life().conditions,
                SUSPENDED,
                saying,
                generation,
                now,
            );
        }
        let failing = self.observed.active_job.as_ref().and_then(|job| {
            let is_it = active.as_ref().is_some_and(|run| run.job == job.name);
            job.failing.as_ref().filter(|_| is_it)
        });
        let idle = match self.observed.place {
            Some(Place::Waits(place)) if waiting => Saying::new(
                false,
                "WaitsForPlace",
                line::words(place, self.observed.limits),
            ),
            Some(Place::Waits(_) | Place::Free) | None if waiting => Saying::new(
                false,
                "WaitsForPlace",
                "the run is due and waits for its place",
            ),
            Some(Place::Waits(_) | Place::Free) | None => Saying::new(false, "NoActiveRun", ""),
        };
        let object = self.object;
        let conditions = &mut self.life().conditions;
        condition::set(
            conditions,
            PROGRESSING,
            progressing(active.as_ref(), failing).unwrap_or(idle),
            generation,
            now,
        );
        condition::set(
            conditions,
            SUCCEEDED,
            succeeded(object, active.as_ref(), last.as_ref()),
            generation,
            now,
        );
    }

    /// Notes what a complete run tells of transactions that hold it back; an object that never had any has no such condition.
    pub(super) fn note_held_back(&mut self, run: &ActiveRun, report: &Report) {
        let now = self.now;
        let conditions = &mut self.life().conditions;
        let saying = match report.held_back.warning() {
            Some(warning) => Saying::new(true, "TransactionOpen", warning),
            None if condition::find(conditions, CAPTURE_HELD).is_some() => {
                Saying::new(false, "CaptureMoves", "")
            }
            None => return,
        };
        condition::set(conditions, CAPTURE_HELD, saying, Some(run.generation), now);
    }

    /// Notes what a complete restore tells of topics whose retention it holds. That stays: when a user ends it, nobody tells.
    pub(super) fn note_retention_held(&mut self, run: &ActiveRun, report: &Report) {
        let Some(message) = report.retention_held.message() else {
            return;
        };
        let now = self.now;
        let saying = Saying::new(true, "WouldExpireRecords", message);
        let conditions = &mut self.life().conditions;
        condition::set(
            conditions,
            RETENTION_HELD,
            saying,
            Some(run.generation),
            now,
        );
    }

    fn readiness(&mut self, invalid: Option<SpecError>, trouble: Option<Trouble>) -> Saying {
        let (event, saying) = match (invalid, trouble) {
            (Some(error), _) => (
                "InvalidSpec",
                Saying::new(false, "InvalidSpec", error.to_string()),
            ),
            (None, Some(trouble)) => (
                "RunBlocked",
                Saying::new(false, trouble.reason, trouble.message),
            ),
            (None, None) => {
                return Saying::new(
                    true,
                    "SpecValid",
                    "the spec is valid and nothing blocks a run",
                );
            }
        };
        let said = condition::find(&self.life().conditions, READY);
        let is_told = said.is_some_and(|said| {
            said.status == "False" && said.reason == saying.reason && said.message == saying.message
        });
        if !is_told {
            let message = if event == saying.reason {
                saying.message.clone()
            } else {
                format!("{}: {}", saying.reason, saying.message)
            };
            self.tell(true, event, message);
        }
        saying
    }
}

fn progressing(active: Option<&ActiveRun>, failing: Option<&Trouble>) -> Option<Saying> {
    let run = active?;
    let (id, job) = (&run.id, &run.job);
    Some(match failing {
        None => Saying::new(true, "RunActive", format!("run {id} in Job {job}")),
        Some(Trouble { reason, message }) => Saying::new(
            true,
            "RunFailing",
            format!("run {id} in Job {job} is failing: {reason}: {message}"),
        ),
    })
}

fn succeeded<K: Kind>(
    object: &K,
    active: Option<&ActiveRun>,
    last: Option<&FinishedRun>,
) -> Saying {
    match (active, last) {
        (Some(run), _) => Saying::new(
            Truth::Unknown,
            "RunActive",
            format!("run {} is going on", run.id),
        ),
        (None, None) => Saying::new(Truth::Unknown, "NoRun", "no run has ended yet"),
        (None, Some(run)) if run.outcome == RunOutcome::Success => {
            let reason = if object.is_dry_run() {
                "DryRunCompleted".to_owned()
            } else {
                format!("{}Completed", K::KIND.noun())
            };
            let counts = format!("{} records, {} bytes", run.records, run.size);
            let told = end_in_words(object, run.message.as_deref(), &counts);
            Saying::new(true, reason, format!("run {}: {told}", run.backup_id))
        }
        (None, Some(run)) => {
            let reason = run
                .reason
                .clone()
                .unwrap_or_else(|| format!("{}Failed", K::KIND.noun()));
            Saying::new(false, reason, run.message.clone().unwrap_or_default())
        }
    }
}
