//! Which run is due, from the spec, the annotations and the status alone.
//!
//! # Guarantees
//! - Dueness comes from the status, never from memory: any process decides the same, and what it decides it notes in the same
//!   status, so that each tick and each annotation value takes effect once.
//! - A tick during a run is missed and counted (Forbid) or ends that run (Replace); after a time without a controller the
//!   newest tick is made up for, inside `startingDeadlineSeconds`, and the others are missed; a tick while the object is
//!   suspended or its spec invalid is neither.
//! - Jitter moves all ticks of an object by the same time, which follows from its UID.
//! - An annotation that is there at first sight is recorded, not obeyed: Git or a cluster restore re-created the object.

use jiff::{SignedDuration, Timestamp};
use kafka_backup_shared::crd::{
    ConcurrencyPolicy, KafkaBackup, KafkaBackupStatus, KafkaRestore, KafkaRestoreStatus,
};
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::schedule::Schedule;
use kafka_backup_shared::status::{Life, RunOutcome, RunReason, WaitingRun, time};
use kube::ResourceExt;

use crate::digest::sha256_hex;
use crate::kind::created_at;

/// Annotation: one backup now, for each new value.
pub(crate) const TRIGGER: &str = "kafka-backup.dev/trigger-backup";
/// Annotation: a failed restore goes on, for each new value.
pub(crate) const RETRY: &str = "kafka-backup.dev/retry";

/// A run that starts later than this after its tick is told to be a catch-up.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// Ticks that are counted one by one.
const TICKS_MAX: u64 = 10_000;
/// A status from further in the future was written while a clock was wrong; ticks do not wait until it comes true.
const FUTURE_MAX: SignedDuration = SignedDuration::from_hours(24);

/// Whether a run is in the way of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    /// None is.
    No,
    /// One is going on.
    Now,
    /// One was until then; it is accounted by the decision that is being made.
    Until(Timestamp),
}

/// What dueness depends on besides the object.
#[derive(Clone, Debug)]
pub(crate) struct Moment<'a> {
    /// The time.
    pub(crate) now: Timestamp,
    /// The status has never been written.
    pub(crate) is_first_sight: bool,
    /// The newest scheduled-at annotation on the object's Jobs.
    pub(crate) newest_scheduled: Option<Timestamp>,
    pub(crate) busy: Busy,
    /// Digest of what a run would do now.
    pub(crate) plan: &'a str,
}

/// A run that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) reason: RunReason,
    /// What makes the reason unique.
    pub(crate) key: String,
    /// The time in the run id.
    pub(crate) at: Timestamp,
    /// Since when it is due.
    pub(crate) since: Timestamp,
}

impl Due {
    /// As it stands in the status while it waits.
    pub(crate) fn waiting(self) -> WaitingRun {
        WaitingRun {
            reason: self.reason,
            key: self.key,
            at: time(self.at),
            due: time(self.since),
        }
    }

    /// The run that waited.
    pub(crate) fn of(waiting: &WaitingRun) -> Self {
        Self {
            reason: waiting.reason,
            key: waiting.key.clone(),
            at: waiting.at.0,
            since: waiting.due.0,
        }
    }
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dueness {
    pub(crate) run: Option<Due>,
    /// Ticks that will never run.
    pub(crate) missed: u64,
    /// Why, as a part of a sentence.
    pub(crate) missed_because: &'static str,
    /// What the status said of ticks was from the future, and is forgotten.
    pub(crate) is_clock_back: bool,
    /// A retry was asked for where there is nothing to retry.
    pub(crate) is_retry_refused: bool,
    /// When the next tick is.
    pub(crate) wake: Option<Timestamp>,
}

/// Dueness of a KafkaBackup.
///
/// # Errors
/// A schedule that cannot be read.
pub(crate) fn backup(
    object: &KafkaBackup,
    status: &mut KafkaBackupStatus,
    moment: &Moment,
) -> Result<Dueness, SpecError> {
    let trigger = object.annotations().get(TRIGGER);
    let mut dueness = Dueness::default();
    follow_schedule(object, status, moment, &mut dueness)?;
    leave_line(object, status, moment, &mut dueness);
    if moment.busy != Busy::No || dueness.run.is_some() || status.life.waiting_run.is_some() {
        return Ok(dueness);
    }
    if trigger.is_some() && trigger != status.last_trigger.as_ref() {
        status.last_trigger = trigger.cloned();
        dueness.run = trigger.map(|value| Due {
            reason: RunReason::Trigger,
            key: value.clone(),
            at: moment.now,
            since: moment.now,
        });
    } else if object.spec.schedule.is_none() && !object.spec.suspend {
        dueness.run = one_shot(object, &status.life, moment);
    }
    Ok(dueness)
}

/// Dueness of a KafkaRestore: once, and again when a retry is asked for after a failure.
pub(crate) fn restore(
    object: &KafkaRestore,
    status: &mut KafkaRestoreStatus,
    moment: &Moment,
) -> Dueness {
    let retry = object.annotations().get(RETRY);
    let mut dueness = once(object, &status.life, moment);
    let is_idle = moment.busy == Busy::No && status.life.waiting_run.is_none();
    if !is_idle || dueness.run.is_some() {
        return dueness;
    }
    let Some(value) = retry.filter(|value| status.last_retry.as_ref() != Some(value)) else {
        return dueness;
    };
    status.last_retry = Some(value.clone());
    let has_failed = status
        .run_history
        .last()
        .is_some_and(|run| run.outcome == RunOutcome::Failure);
    if has_failed {
        dueness.run = Some(Due {
            reason: RunReason::Retry,
            key: value.clone(),
            at: moment.now,
            since: moment.now,
        });
    } else {
        dueness.is_retry_refused = true;
    }
    dueness
}

/// Dueness of an object that runs once.
pub(crate) fn once(object: &impl ResourceExt, life: &Life, moment: &Moment) -> Dueness {
    let is_idle = moment.busy == Busy::No && life.waiting_run.is_none();
    let is_new = is_idle && life.last_run_generation.is_none();
    Dueness {
        run: is_new.then(|| one_shot(object, life, moment)).flatten(),
        ..Dueness::default()
    }
}

/// Stops counting ticks: of a suspended or invalid object they are neither missed nor made up for.
pub(crate) fn pause(status: &mut KafkaBackupStatus) {
    status.observed_schedule = None;
    status.observed_time_zone = None;
    status.next_scheduled_time = None;
}

fn follow_schedule(
    object: &KafkaBackup,
    status: &mut KafkaBackupStatus,
    moment: &Moment,
    dueness: &mut Dueness,
) -> Result<(), SpecError> {
    let spec = &object.spec;
    let line = spec.schedule.as_deref();
    let schedule = line.map(|line| Schedule::parse(line, spec.time_zone.as_deref()));
    let Some(schedule) = schedule.transpose()?.filter(|_| !spec.suspend) else {
        pause(status);
        return Ok(());
    };
    let is_other =
        status.observed_schedule != spec.schedule || status.observed_time_zone != spec.time_zone;
    dueness.is_clock_back =
        ticks_begin(status).is_some_and(|from| from.duration_since(moment.now) > FUTURE_MAX);
    if is_other || dueness.is_clock_back {
        let from = if moment.is_first_sight {
            moment
                .newest_scheduled
                .max(Some(created_at(&object.metadata)))
        } else {
            Some(moment.now)
        };
        if dueness.is_clock_back {
            status.last_schedule_time = None;
        }
        status.schedule_from = from.map(time);
        status.observed_schedule = spec.schedule.clone();
        status.observed_time_zone = spec.time_zone.clone();
    }
    let jitter = jitter(object);
    let next = schedule.next_after(moment.now - jitter);
    dueness.wake = next.and_then(|tick| tick.checked_add(jitter).ok());
    status.next_scheduled_time = dueness.wake.map(time);
    let is_replacing = spec.concurrency_policy == ConcurrencyPolicy::Replace;
    let until = match moment.busy {
        // What came during a run that would have been replaced is due when it is accounted.
        Busy::Until(_) if is_replacing => return Ok(()),
        Busy::Until(end) => end.min(moment.now),
        Busy::No | Busy::Now => moment.now,
    };
    let from = ticks_begin(status).unwrap_or(moment.now);
    let (count, newest) = ticks(&schedule, from, until - jitter);
    let Some(tick) = newest else {
        return Ok(());
    };
    status.last_schedule_time = Some(time(tick));
    let late = moment.now.duration_since(tick + jitter);
    let deadline = spec.starting_deadline_seconds.map(i64::from);
    let is_too_late = deadline.is_some_and(|deadline| late.as_secs() > deadline);
    let is_blocked = moment.busy != Busy::No && !is_replacing;
    dueness.missed_because = match (is_blocked, is_too_late) {
        (true, _) => "a run was going on",
        (false, true) => "their runs could not start within spec.startingDeadlineSeconds",
        (false, false) => "the controller was away",
    };
    dueness.missed = count;
    if !is_blocked && !is_too_late {
        dueness.missed -= 1;
        dueness.run = Some(Due {
            reason: if late > LATE {
                RunReason::CatchUp
            } else {
                RunReason::Schedule
            },
            key: tick.to_string(),
            at: tick,
            since: tick + jitter,
        });
    }
    status.missed_runs += dueness.missed;
    Ok(())
}

/// Takes a run out of the line that must not start any more: one of a tick for which a newer one has come, which is too late, or
/// whose schedule is suspended.
fn leave_line(
    object: &KafkaBackup,
    status: &mut KafkaBackupStatus,
    moment: &Moment,
    dueness: &mut Dueness,
) {
    let is_of_tick =
        |run: &&WaitingRun| matches!(run.reason, RunReason::Schedule | RunReason::CatchUp);
    let Some(waiting) = status.life.waiting_run.as_ref() else {
        return;
    };
    if object.spec.suspend && waiting.reason != RunReason::Trigger {
        status.life.waiting_run = None;
        return;
    }
    let Some(waiting) = Some(waiting).filter(is_of_tick) else {
        // A trigger or a change that waits does what the newer tick would.
        if dueness.run.take().is_some() {
            miss(status, dueness, "another run was waiting for its place");
        }
        return;
    };
    let late = moment.now.duration_since(waiting.due.0).as_secs();
    let deadline = object.spec.starting_deadline_seconds.map(i64::from);
    if dueness.run.is_some() {
        status.life.waiting_run = None;
        miss(status, dueness, "another run was waiting for its place");
    } else if deadline.is_some_and(|deadline| late > deadline) {
        status.life.waiting_run = None;
        let why = "their runs had no place within spec.startingDeadlineSeconds";
        miss(status, dueness, why);
    }
}

fn miss(status: &mut KafkaBackupStatus, dueness: &mut Dueness, why: &'static str) {
    status.missed_runs += 1;
    dueness.missed += 1;
    dueness.missed_because = why;
}

/// Ticks count after this time.
fn ticks_begin(status: &KafkaBackupStatus) -> Option<Timestamp> {
    status
        .schedule_from
        .iter()
        .chain(&status.last_schedule_time)
        .map(|at| at.0)
        .max()
}

/// By how much this object's runs are later than their ticks: whole seconds up to `jitterSeconds`.
fn jitter(object: &KafkaBackup) -> SignedDuration {
    let most = u64::from(object.spec.jitter_seconds.unwrap_or(0));
    let digest = sha256_hex(object.uid().unwrap_or_default().as_bytes());
    let number = u64::from_str_radix(&digest[..12], 16).unwrap_or(0);
    SignedDuration::from_secs((number % (most + 1)) as i64)
}

/// How many ticks lie in `(from, until]`, and the newest. Above [`TICKS_MAX`] the number is a lower bound: nobody is
/// helped by the exact number of minutes of a lost year.
fn ticks(schedule: &Schedule, from: Timestamp, until: Timestamp) -> (u64, Option<Timestamp>) {
    let count = |from: Timestamp| {
        let mut newest = None;
        let mut count = 0;
        let mut at = from;
        while let Some(tick) = schedule.next_after(at).filter(|tick| *tick <= until) {
            count += 1;
            newest = Some(tick);
            at = tick;
            if count == TICKS_MAX {
                return (count, newest, false);
            }
        }
        (count, newest, true)
    };
    let (all, newest, is_whole) = count(from);
    if is_whole {
        return (all, newest);
    }
    // At most a tick a minute: a window of TICKS_MAX / 2 minutes is whole, and where it is empty the newest known tick stands.
    let window = SignedDuration::from_mins((TICKS_MAX / 2) as i64);
    let (_, recent, _) = count((until - window).max(from));
    (all, recent.or(newest))
}

fn one_shot(object: &impl ResourceExt, life: &Life, moment: &Moment) -> Option<Due> {
    let Some(last) = life.last_run_generation else {
        return Some(Due {
            reason: RunReason::OneShot,
            key: "creation".into(),
            at: created_at(object.meta()),
            since: created_at(object.meta()),
        });
    };
    let generation = object.meta().generation.unwrap_or(0);
    let is_changed = generation > last
        && life
            .last_run_plan
            .as_deref()
            .is_some_and(|plan| plan != moment.plan);
    is_changed.then(|| Due {
        reason: RunReason::SpecChanged,
        key: format!("generation {generation}"),
        at: moment.now,
        since: moment.now,
    })
}

#[cfg(test)]
#[path = "due_test.rs"]
mod tests;
