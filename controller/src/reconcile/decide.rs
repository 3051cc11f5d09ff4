//! What is to be done for one object, as a pure function of what was observed.
//!
//! # Guarantees
//! - A decision either changes the status or acts on Jobs, never both: every act on a Job follows from a status that already
//!   stands in the API server, so that a crash between any two requests loses and doubles nothing.
//! - A run is accounted in the one write that removes it from `activeRun`; its increment waits in `totals.held` until the value
//!   before it has been exposed long enough.
//! - The same observation gives the same decision, and after it is carried out, none: idle objects cause no writes.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kafka_backup_shared::plan::{Referenced, SpecError, run_id};
use kafka_backup_shared::report::Report;
use kafka_backup_shared::status::{ActiveRun, HeldRun, Life, RunOutcome, time};

use super::due::{Busy, Due, Moment};
use super::line::{Limits, Place};
use super::tidy::{self, JobAction};
use super::view::{JobView, PodView, Trouble};
use crate::digest::sha256_hex;
use crate::exporter::Exposed;
use crate::job;
use crate::kind::Kind;

/// How soon an object is looked at again whose reference leads nowhere.
const REFERENCE_POLL: SignedDuration = SignedDuration::from_secs(15);

/// How soon a run that waits for its place is looked at again, if nobody says before that there is one.
const LINE_POLL: SignedDuration = SignedDuration::from_secs(15);

/// One object and what belongs to it, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Observed<K> {
    pub(crate) object: K,
    /// What it refers to; something is missing only if the API server says that it does not exist.
    pub(crate) referenced: Referenced,
    /// Its Jobs, as the cache has them.
    pub(crate) jobs: Vec<JobView>,
    /// The Job that `activeRun` names; `None` only if the API server says that there is none.
    pub(crate) active_job: Option<JobView>,
    /// The pods of that Job.
    pub(crate) pods: Vec<PodView>,
    /// What Events, or the refusal of the Job, say against the start of the active run.
    pub(crate) trouble: Option<Trouble>,
    /// The Job of the active run was refused by the API server.
    pub(crate) is_refused: bool,
    /// What the worker of the active run pushed.
    pub(crate) pushed: Option<Report>,
    /// How long the present run counters have been exposed.
    pub(crate) exposed: Exposed,
    /// How long they must be before they change.
    pub(crate) hold: Duration,
    /// How long after its grace period a pod of a silent node is given up.
    pub(crate) lost_after: SignedDuration,
    pub(crate) limits: Limits,
    /// Where the run that waits stands; `None` where none does.
    pub(crate) place: Option<Place>,
}

/// An Event on the object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub(crate) is_warning: bool,
    /// CamelCase, stable.
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Decision<S> {
    /// The status to write; nothing else is to be done then but to look again.
    pub(crate) status: Option<S>,
    /// Events that tell what the status write changes.
    pub(crate) events: Vec<Note>,
    /// What to do with Jobs.
    pub(crate) jobs: Vec<JobAction>,
    /// When to look again, if nothing happens before.
    pub(crate) wake: Option<Timestamp>,
}

/// Where the active run stands after this decision.
pub(super) enum Step {
    Idle,
    Active {
        trouble: Option<Trouble>,
        is_unborn: bool,
    },
    Over {
        at: Timestamp,
    },
}

/// A decision in the making; see also [`super::follow`] and [`super::conclude`].
pub(super) struct Draft<'a, K: Kind> {
    pub(super) observed: &'a Observed<K>,
    pub(super) object: &'a K,
    pub(super) status: K::Status,
    pub(super) now: Timestamp,
    events: Vec<Note>,
    wake: Option<Timestamp>,
}

/// Decides.
pub(crate) fn decide<K: Kind>(observed: &Observed<K>, now: Timestamp) -> Decision<K::Status> {
    let object = &observed.object;
    if object.meta().deletion_timestamp.is_some() {
        return Decision {
            status: None,
            events: Vec::new(),
            jobs: Vec::new(),
            wake: None,
        };
    }
    let before = object.status();
    let mut draft = Draft {
        observed,
        object,
        status: before.clone(),
        events: Vec::new(),
        wake: None,
        now,
    };
    let plan = digest(object, &observed.referenced);
    draft.release_held();
    let mut step = draft.follow_run(plan.as_deref());
    let plan = draft.follow_dueness(&mut step, plan);
    if plan.is_err() && object.reference().is_some() {
        // Nothing announces that what it refers to has come.
        draft.wake_at(Some(now + REFERENCE_POLL));
    }
    draft.conclude(&step, plan.err());
    object.show(&mut draft.status);
    if draft.status != before {
        return Decision {
            status: Some(draft.status),
            events: draft.events,
            jobs: Vec::new(),
            wake: None,
        };
    }
    let (mut jobs, wake) = tidy::jobs::<K>(observed, &before, now);
    draft.wake_at(wake);
    if K::KIND.resumes() && matches!(step, Step::Active { .. }) {
        let (lost, wake) = tidy::lost_pods(&observed.pods, observed.lost_after, now);
        jobs.extend(lost);
        draft.wake_at(wake);
    }
    if matches!(
        step,
        Step::Active {
            is_unborn: true,
            ..
        }
    ) {
        jobs.push(JobAction::Create);
    }
    Decision {
        status: None,
        events: Vec::new(),
        jobs,
        wake: draft.wake,
    }
}

/// Digest of what a run of the object would do now.
fn digest<K: Kind>(object: &K, referenced: &Referenced) -> Result<String, SpecError> {
    let plan = object.plan("", referenced)?.to_json()?;
    Ok(sha256_hex(plan.as_bytes()))
}

impl<K: Kind> Draft<'_, K> {
    pub(super) fn life(&mut self) -> &mut Life {
        K::life_mut(&mut self.status)
    }

    pub(super) fn tell(
        &mut self,
        is_warning: bool,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        self.events.push(Note {
            is_warning,
            reason: reason.into(),
            message: message.into(),
        });
    }

    pub(super) fn wake_at(&mut self, at: Option<Timestamp>) {
        self.wake = self.wake.into_iter().chain(at).min();
    }

    /// Moves held runs into the counters whose present value Prometheus has had the time to see.
    fn release_held(&mut self) {
        let hold = self.observed.hold;
        for outcome in RunOutcome::ALL {
            let exposed = self.observed.exposed.of(outcome);
            let totals = &mut self.life().totals;
            let is_held = |run: &HeldRun| run.outcome == outcome;
            if !totals.held.iter().any(is_held) {
                continue;
            }
            if exposed < hold {
                let left = SignedDuration::from_secs((hold - exposed).as_secs() as i64 + 1);
                self.wake_at(Some(self.now + left));
                continue;
            }
            let released: Vec<HeldRun> = totals.held.extract_if(.., |run| is_held(run)).collect();
            for run in released {
                totals.of_mut(outcome).add(run.duration_ms);
                totals.gaps += run.gaps;
                totals.groups.add(run.groups);
            }
        }
    }

    /// Starts what is due, where the spec is valid; hands the spec's error on.
    fn follow_dueness(
        &mut self,
        step: &mut Step,
        plan: Result<String, SpecError>,
    ) -> Result<(), SpecError> {
        let busy = match step {
            Step::Idle => Busy::No,
            Step::Active { .. } => Busy::Now,
            Step::Over { at } => Busy::Until(*at),
        };
        let is_first_sight = K::life(&self.status).observed_generation.is_none();
        if is_first_sight {
            self.object.first_sight(&mut self.status);
        }
        let newest_scheduled = self
            .observed
            .jobs
            .iter()
            .filter_map(|job| job.scheduled_at)
            .max();
        let dueness = plan.and_then(|plan| {
            let moment = Moment {
                now: self.now,
                is_first_sight,
                newest_scheduled,
                busy,
                plan: &plan,
            };
            let dueness = self.object.due(&mut self.status, &moment)?;
            Ok((plan, dueness))
        });
        let (plan, dueness) = match dueness {
            Ok(found) => found,
            Err(error) => {
                K::pause(&mut self.status);
                self.life().waiting_run = None;
                return Err(error);
            }
        };
        self.wake_at(dueness.wake);
        if dueness.missed > 0 {
            let (missed, why) = (dueness.missed, dueness.missed_because);
            self.tell(
                true,
                "MissedSchedule",
                format!("ticks of the schedule that were missed, because {why}: {missed}"),
            );
        }
        if dueness.is_retry_refused {
            self.tell(
                true,
                "RetryIgnored",
                "the last run did not fail, there is nothing to retry",
            );
        }
        if dueness.is_clock_back {
            self.tell(
                true,
                "ClockMovedBack",
                "the status spoke of ticks in the future; ticks count from now on",
            );
        }
        let limits = self.observed.limits;
        match dueness.run {
            // A run that replaces another takes its place.
            Some(due) if busy == Busy::Now => {
                *step = self.replace(&due.key);
                self.start(due, plan);
            }
            Some(due) if limits.are_set() => self.life().waiting_run = Some(due.waiting()),
            Some(due) => self.start(due, plan),
            None if busy == Busy::No => self.start_waiting(plan),
            None => {}
        }
        Ok(())
    }

    /// Starts the run that waits, once it has its place. It stands in the status already, so that all who wait are in line.
    fn start_waiting(&mut self, plan: String) {
        let Some(waiting) = self.life().waiting_run.clone() else {
            return;
        };
        let stood = K::life(&self.object.status()).waiting_run.as_ref() == Some(&waiting);
        let is_free = !self.observed.limits.are_set() || self.observed.place == Some(Place::Free);
        if stood && is_free {
            self.life().waiting_run = None;
            self.start(Due::of(&waiting), plan);
            return;
        }
        self.wake_at(Some(self.now + LINE_POLL));
    }

    fn start(&mut self, due: Due, plan: String) {
        let object = self.object.meta();
        let name = object.name.as_deref().unwrap_or_default();
        let mut at = due.at;
        let mut id = run_id(name, at);
        while K::history(&self.status)
            .iter()
            .any(|run| run.backup_id == id)
        {
            at += SignedDuration::from_secs(1);
            id = run_id(name, at);
        }
        let generation = object.generation.unwrap_or(0);
        let job = job::name(
            name,
            object.uid.as_deref().unwrap_or_default(),
            &due.key,
            at,
        );
        let now = self.now;
        let life = self.life();
        life.last_run_generation = Some(generation);
        life.last_run_plan = Some(plan);
        life.active_run = Some(ActiveRun {
            id,
            job,
            job_uid: None,
            reason: due.reason,
            key: due.key,
            generation,
            start_time: time(now),
            records: 0,
            bytes: 0,
            percent: None,
            checked_percent: None,
            bytes_per_second: None,
            seconds_left: None,
        });
        K::record_start(&mut self.status, now);
    }
}

#[cfg(test)]
#[path = "decide_test.rs"]
mod tests;

#[cfg(test)]
#[path = "decide_offsets_test.rs"]
mod offsets;

#[cfg(test)]
#[path = "interleaving_test.rs"]
mod interleavings;

#[cfg(test)]
#[path = "decide_table_test.rs"]
mod table;
