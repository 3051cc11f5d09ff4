//! Which run is due, from the spec, the annotations and the status alone.
//!
//! # Guarantees
//! - Dueness comes from the status, never from memory: any process decides the same, and what it decides it notes in the same
//!   status, so that each tick and each annotation value takes effect once.
//! - A tick during a run is missed and counted (Forbid); after a time without a controller the newest tick is made up for and
//!   the others are missed; a tick while the object is suspended or its spec invalid is neither.
//! - An annotation that is there at first sight is recorded, not obeyed: Git or a cluster restore re-created the object.

use jiff::{SignedDuration, Timestamp};
use kafka_backup_shared::crd::{KafkaBackup, KafkaBackupStatus, KafkaRestore, KafkaRestoreStatus};
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::schedule::Schedule;
use kafka_backup_shared::status::{Life, RunOutcome, RunReason, time};
use kube::ResourceExt;

use crate::kind::created_at;

/// Annotation: one backup now, for each new value.
pub(crate) const TRIGGER: &str = "kafka-backup.dev/trigger-backup";
/// Annotation: a failed restore goes on, for each new value.
pub(crate) const RETRY: &str = "kafka-backup.dev/retry";

/// A run that starts later than this after its tick is told to be a catch-up.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// Ticks that are counted one by one.
const TICKS_MAX: u64 = 10_000;

/// What dueness depends on besides the object.
#[derive(Clone, Debug)]
pub(crate) struct Moment<'a> {
    /// The time.
    pub(crate) now: Timestamp,
    /// The status has never been written.
    pub(crate) is_first_sight: bool,
    /// The newest scheduled-at annotation on the object's Jobs.
    pub(crate) newest_scheduled: Option<Timestamp>,
    /// A run is or was going on until then.
    pub(crate) busy_until: Option<Timestamp>,
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
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dueness {
    pub(crate) run: Option<Due>,
    /// Ticks that will never run.
    pub(crate) missed: u64,
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
    if moment.busy_until.is_some() || dueness.run.is_some() {
        return Ok(dueness);
    }
    if trigger.is_some() && trigger != status.last_trigger.as_ref() {
        status.last_trigger = trigger.cloned();
        dueness.run = trigger.map(|value| Due {
            reason: RunReason::Trigger,
            key: value.clone(),
            at: moment.now,
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
    let mut dueness = Dueness::default();
    if moment.busy_until.is_some() {
        return dueness;
    }
    if status.life.last_run_generation.is_none() {
        dueness.run = one_shot(object, &status.life, moment);
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
        });
    } else {
        dueness.is_retry_refused = true;
    }
    dueness
}

/// Stops counting ticks: of a suspended or invalid object they are neither missed nor made up for.
pub(crate) fn pause(status: &mut KafkaBackupStatus) {
    status.observed_schedule = None;
    status.next_scheduled_time = None;
}

fn follow_schedule(
    object: &KafkaBackup,
    status: &mut KafkaBackupStatus,
    moment: &Moment,
    dueness: &mut Dueness,
) -> Result<(), SpecError> {
    let line = object.spec.schedule.as_ref();
    let schedule = line.map(|line| Schedule::parse(line)).transpose()?;
    let Some(schedule) = schedule.filter(|_| !object.spec.suspend) else {
        pause(status);
        return Ok(());
    };
    if status.observed_schedule.as_ref() != line {
        let from = if moment.is_first_sight {
            moment
                .newest_scheduled
                .max(Some(created_at(&object.metadata)))
        } else {
            Some(moment.now)
        };
        status.schedule_from = from.map(time);
        status.observed_schedule = line.cloned();
    }
    let from = status
        .schedule_from
        .iter()
        .chain(&status.last_schedule_time)
        .map(|at| at.0)
        .max();
    let from = from.unwrap_or(moment.now);
    let until = moment.busy_until.unwrap_or(moment.now).min(moment.now);
    let (count, newest) = ticks(&schedule, from, until);
    if let Some(tick) = newest {
        status.last_schedule_time = Some(time(tick));
        dueness.missed = count;
        if moment.busy_until.is_none() {
            dueness.missed -= 1;
            let is_late = moment.now.duration_since(tick) > LATE;
            dueness.run = Some(Due {
                reason: if is_late {
                    RunReason::CatchUp
                } else {
                    RunReason::Schedule
                },
                key: tick.to_string(),
                at: tick,
            });
        }
        status.missed_runs += dueness.missed;
    }
    dueness.wake = schedule.next_after(moment.now);
    status.next_scheduled_time = dueness.wake.map(time);
    Ok(())
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{self, at};
    use crate::kind::Kind;

    const NEW: Moment = Moment {
        now: Timestamp::UNIX_EPOCH,
        is_first_sight: false,
        newest_scheduled: None,
        busy_until: None,
        plan: "plan",
    };

    /// A backup at minute 0 of each hour, whose ticks count from 2026-01-01T00:00:00Z.
    fn hourly() -> (KafkaBackup, KafkaBackupStatus) {
        let mut object = fixtures::backup();
        object.spec.schedule = Some("0 * * * *".into());
        let status = KafkaBackupStatus {
            schedule_from: Some(time(at("2026-01-01T00:00:00Z"))),
            observed_schedule: object.spec.schedule.clone(),
            ..KafkaBackupStatus::default()
        };
        (object, status)
    }

    fn look(object: &KafkaBackup, status: &mut KafkaBackupStatus, now: &str) -> Dueness {
        backup(
            object,
            status,
            &Moment {
                now: at(now),
                ..NEW
            },
        )
        .unwrap()
    }

    #[test]
    fn ticks_take_effect_once_and_in_time() {
        let (object, mut status) = hourly();
        // now, run at, reason, missed
        let cases = [
            ("2026-01-01T00:59:59Z", None, 0),
            (
                "2026-01-01T01:00:00Z",
                Some(("2026-01-01T01:00:00Z", RunReason::Schedule)),
                0,
            ),
            ("2026-01-01T01:00:00Z", None, 0),
            ("2026-01-01T01:59:59Z", None, 0),
            (
                "2026-01-01T02:01:00Z",
                Some(("2026-01-01T02:00:00Z", RunReason::Schedule)),
                0,
            ),
            (
                "2026-01-01T03:01:01Z",
                Some(("2026-01-01T03:00:00Z", RunReason::CatchUp)),
                0,
            ),
            (
                "2026-01-01T09:30:00Z",
                Some(("2026-01-01T09:00:00Z", RunReason::CatchUp)),
                5,
            ),
        ];
        for (now, run, missed) in cases {
            let dueness = look(&object, &mut status, now);
            let found = dueness.run.map(|due| (due.at, due.reason));
            assert_eq!(found, run.map(|(tick, reason)| (at(tick), reason)), "{now}");
            assert_eq!(dueness.missed, missed, "{now}");
        }
        assert_eq!(status.missed_runs, 5);
        assert_eq!(
            status.next_scheduled_time,
            Some(time(at("2026-01-01T10:00:00Z")))
        );
    }

    #[test]
    fn a_tick_during_a_run_is_missed_and_one_after_it_is_made_up_for() {
        let (object, mut status) = hourly();
        let mut moment = Moment {
            now: at("2026-01-01T01:30:00Z"),
            busy_until: Some(at("2026-01-01T01:30:00Z")),
            ..NEW
        };
        let dueness = backup(&object, &mut status, &moment).unwrap();
        assert_eq!((dueness.run, dueness.missed), (None, 1));
        // The run ended at 02:10, the controller was away until 04:30.
        moment.now = at("2026-01-01T04:30:00Z");
        moment.busy_until = Some(at("2026-01-01T02:10:00Z"));
        let dueness = backup(&object, &mut status, &moment).unwrap();
        assert_eq!((dueness.run, dueness.missed), (None, 1));
        let dueness = look(&object, &mut status, "2026-01-01T04:30:00Z");
        assert_eq!(dueness.run.unwrap().at, at("2026-01-01T04:00:00Z"));
        assert_eq!(dueness.missed, 1);
        assert_eq!(status.missed_runs, 3);
    }

    #[test]
    fn ticks_while_suspended_are_neither_missed_nor_made_up_for() {
        let (mut object, mut status) = hourly();
        object.spec.suspend = true;
        let dueness = look(&object, &mut status, "2026-01-01T05:30:00Z");
        assert_eq!(dueness, Dueness::default());
        assert_eq!(status.next_scheduled_time, None);
        object.spec.suspend = false;
        let dueness = look(&object, &mut status, "2026-01-01T07:30:00Z");
        assert_eq!((dueness.run, dueness.missed), (None, 0));
        assert_eq!(dueness.wake, Some(at("2026-01-01T08:00:00Z")));
        assert!(
            look(&object, &mut status, "2026-01-01T08:00:00Z")
                .run
                .is_some()
        );
    }

    #[test]
    fn a_changed_schedule_counts_from_now() {
        let (mut object, mut status) = hourly();
        object.spec.schedule = Some("30 * * * *".into());
        let dueness = look(&object, &mut status, "2026-01-01T05:45:00Z");
        assert_eq!(dueness.run, None);
        assert_eq!(dueness.wake, Some(at("2026-01-01T06:30:00Z")));
    }

    #[test]
    fn a_new_object_counts_from_its_creation_or_its_newest_job() {
        let (object, _) = hourly();
        let first = Moment {
            now: at("2026-01-01T03:00:30Z"),
            is_first_sight: true,
            ..NEW
        };
        let mut status = KafkaBackupStatus::default();
        let dueness = backup(&object, &mut status, &first).unwrap();
        assert_eq!(
            (dueness.run.unwrap().at, dueness.missed),
            (at("2026-01-01T03:00:00Z"), 2)
        );
        let lost = Moment {
            newest_scheduled: Some(at("2026-01-01T03:00:00Z")),
            ..first
        };
        let dueness = backup(&object, &mut KafkaBackupStatus::default(), &lost).unwrap();
        assert_eq!((dueness.run, dueness.missed), (None, 0));
    }

    #[test]
    fn a_lost_year_of_minutes_still_runs_its_newest_tick() {
        let schedule = Schedule::parse("* * * * *").unwrap();
        let (count, newest) = ticks(
            &schedule,
            at("2025-01-01T00:00:00Z"),
            at("2026-01-01T00:00:30Z"),
        );
        assert_eq!(
            (count, newest),
            (TICKS_MAX, Some(at("2026-01-01T00:00:00Z")))
        );
    }

    #[test]
    fn each_trigger_value_runs_once_also_when_suspended() {
        let (mut object, mut status) = hourly();
        object.spec.suspend = true;
        object.annotations_mut().insert(TRIGGER.into(), "a".into());
        let due = look(&object, &mut status, "2026-01-01T00:10:00Z")
            .run
            .unwrap();
        assert_eq!((due.reason, due.key.as_str()), (RunReason::Trigger, "a"));
        assert_eq!(look(&object, &mut status, "2026-01-01T00:20:00Z").run, None);
    }

    #[test]
    fn a_trigger_during_a_run_waits_and_only_the_newest_value_counts() {
        let (mut object, mut status) = hourly();
        let busy = Moment {
            now: at("2026-01-01T00:10:00Z"),
            busy_until: Some(at("2026-01-01T00:10:00Z")),
            ..NEW
        };
        for value in ["a", "b"] {
            object
                .annotations_mut()
                .insert(TRIGGER.into(), value.into());
            assert_eq!(backup(&object, &mut status, &busy).unwrap().run, None);
        }
        assert_eq!(
            look(&object, &mut status, "2026-01-01T00:20:00Z")
                .run
                .unwrap()
                .key,
            "b"
        );
        assert_eq!(look(&object, &mut status, "2026-01-01T00:30:00Z").run, None);
    }

    #[test]
    fn an_annotation_at_first_sight_is_recorded_and_not_run() {
        let first = Moment {
            now: at("2026-01-01T00:10:00Z"),
            is_first_sight: true,
            ..NEW
        };
        let (mut object, _) = hourly();
        object
            .annotations_mut()
            .insert(TRIGGER.into(), "from git".into());
        let mut status = KafkaBackupStatus::default();
        object.first_sight(&mut status);
        assert_eq!(backup(&object, &mut status, &first).unwrap().run, None);
        assert_eq!(status.last_trigger.as_deref(), Some("from git"));
    }

    #[test]
    fn a_one_shot_runs_once_and_again_when_what_it_does_changes() {
        let mut object = fixtures::backup();
        let mut status = KafkaBackupStatus::default();
        let due = look(&object, &mut status, "2026-01-01T00:10:00Z")
            .run
            .unwrap();
        assert_eq!(
            (due.reason, due.at),
            (RunReason::OneShot, at("2026-01-01T00:00:00Z"))
        );
        status.life.last_run_generation = Some(1);
        status.life.last_run_plan = Some("plan".into());
        assert_eq!(look(&object, &mut status, "2026-01-01T00:10:00Z").run, None);
        object.metadata.generation = Some(2);
        assert_eq!(
            look(&object, &mut status, "2026-01-01T00:10:00Z").run,
            None,
            "the plan is the same"
        );
        status.life.last_run_plan = Some("another plan".into());
        let due = look(&object, &mut status, "2026-01-01T00:10:00Z")
            .run
            .unwrap();
        assert_eq!(due.reason, RunReason::SpecChanged);
        object.spec.suspend = true;
        assert_eq!(look(&object, &mut status, "2026-01-01T00:10:00Z").run, None);
    }

    #[test]
    fn only_a_failed_restore_is_retried_and_each_value_once() {
        let mut object = fixtures::restore();
        let mut status = KafkaRestoreStatus::default();
        let moment = Moment {
            now: at("2026-01-01T00:10:00Z"),
            ..NEW
        };
        assert_eq!(
            restore(&object, &mut status, &moment).run.unwrap().reason,
            RunReason::OneShot
        );
        status.life.last_run_generation = Some(1);
        assert_eq!(restore(&object, &mut status, &moment), Dueness::default());

        status.run_history = vec![fixtures::finished("r", RunOutcome::Failure)];
        object.annotations_mut().insert(RETRY.into(), "1".into());
        assert_eq!(
            restore(&object, &mut status, &moment).run.unwrap().reason,
            RunReason::Retry
        );
        assert_eq!(restore(&object, &mut status, &moment), Dueness::default());

        status.run_history = vec![fixtures::finished("r", RunOutcome::Success)];
        object.annotations_mut().insert(RETRY.into(), "2".into());
        let refused = restore(&object, &mut status, &moment);
        assert!(refused.is_retry_refused && refused.run.is_none());
    }
}
