//! Tables of what is due.

use super::*;
use crate::fixtures::{self, at};
use crate::kind::Kind;

const NEW: Moment = Moment {
    now: Timestamp::UNIX_EPOCH,
    is_first_sight: false,
    newest_scheduled: None,
    busy: Busy::No,
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
        busy: Busy::Now,
        ..NEW
    };
    let dueness = backup(&object, &mut status, &moment).unwrap();
    assert_eq!((dueness.run, dueness.missed), (None, 1));
    // The run ended at 02:10, the controller was away until 04:30.
    moment.now = at("2026-01-01T04:30:00Z");
    moment.busy = Busy::Until(at("2026-01-01T02:10:00Z"));
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
    let schedule = Schedule::parse("* * * * *", None).unwrap();
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
        busy: Busy::Now,
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

/// What a spec says beyond an hourly schedule.
fn hourly_with(spec: &str) -> (KafkaBackup, KafkaBackupStatus) {
    let (mut object, mut status) = hourly();
    let mut value = serde_json::to_value(&object.spec).unwrap();
    let more: serde_json::Value = serde_json::from_str(spec).unwrap();
    for (field, found) in more.as_object().unwrap() {
        value[field] = found.clone();
    }
    object.spec = serde_json::from_value(value).unwrap();
    status.observed_time_zone = object.spec.time_zone.clone();
    (object, status)
}

/// One look, an hour or more after the last tick that had its effect: 2026-01-01T00:00:00Z.
#[test]
fn what_a_tick_does_by_the_fields_of_the_schedule() {
    use RunReason::{CatchUp, Schedule as InTime};
    let (no, now) = (Busy::No, Busy::Now);
    let ended = Busy::Until(at("2026-01-01T02:10:00Z"));
    let replace = r#"{"concurrencyPolicy": "Replace"}"#;
    let deadline = r#"{"startingDeadlineSeconds": 600}"#;
    let both = r#"{"concurrencyPolicy": "Replace", "startingDeadlineSeconds": 600}"#;
    let zone = r#"{"schedule": "0 2 * * *", "timeZone": "Asia/Kathmandu"}"#;
    // spec, what is in the way, time of the look; tick that runs, why, ticks missed
    let cases = [
        ("{}", no, "01:00:00", Some(("01:00:00", InTime)), 0),
        ("{}", no, "01:01:01", Some(("01:00:00", CatchUp)), 0),
        ("{}", no, "03:30:00", Some(("03:00:00", CatchUp)), 2),
        ("{}", now, "03:30:00", None, 3),
        ("{}", ended, "03:30:00", None, 2),
        (replace, no, "03:30:00", Some(("03:00:00", CatchUp)), 2),
        (replace, now, "01:00:00", Some(("01:00:00", InTime)), 0),
        (replace, now, "03:30:00", Some(("03:00:00", CatchUp)), 2),
        // Nothing is missed: the next look, with no run in the way, makes up for them.
        (replace, ended, "03:30:00", None, 0),
        (deadline, no, "03:10:00", Some(("03:00:00", CatchUp)), 2),
        (deadline, no, "03:10:01", None, 3),
        (deadline, now, "03:10:00", None, 3),
        (both, now, "03:10:00", Some(("03:00:00", CatchUp)), 2),
        (both, now, "03:10:01", None, 3),
        (zone, no, "20:14:59", None, 0),
        (zone, no, "20:15:00", Some(("20:15:00", InTime)), 0),
    ];
    for (spec, busy, time_of_day, run, missed) in cases {
        let (object, mut status) = hourly_with(spec);
        if spec == zone {
            status.observed_schedule = object.spec.schedule.clone();
        }
        let day = |time_of_day: &str| at(&format!("2026-01-01T{time_of_day}Z"));
        let moment = Moment {
            now: day(time_of_day),
            busy,
            ..NEW
        };
        let dueness = backup(&object, &mut status, &moment).unwrap();
        let found = dueness.run.map(|due| (due.at, due.reason));
        let case = format!("{spec} {busy:?} at {time_of_day}");
        assert_eq!(found, run.map(|(tick, why)| (day(tick), why)), "{case}");
        assert_eq!(
            (dueness.missed, status.missed_runs),
            (missed, missed),
            "{case}"
        );
        // Whatever was due has had its effect.
        let again = backup(&object, &mut status, &moment).unwrap();
        assert_eq!((again.run, again.missed), (None, 0), "{case}");
    }
}

#[test]
fn jitter_moves_the_runs_of_an_object_and_not_their_names() {
    let (mut object, fresh) = hourly_with(r#"{"jitterSeconds": 1800}"#);
    let mut delays = std::collections::BTreeSet::new();
    for uid in 0..20 {
        object.metadata.uid = Some(format!("uid-{uid}"));
        let jitter = jitter(&object);
        assert_eq!(jitter, super::jitter(&object), "it is stable");
        assert!(jitter.as_secs() <= 1800);
        delays.insert(jitter);
        let tick = at("2026-01-01T01:00:00Z");
        let mut status = fresh.clone();
        let mut moment = Moment {
            now: tick + jitter - SignedDuration::from_secs(1),
            ..NEW
        };
        let early = backup(&object, &mut status, &moment).unwrap();
        assert_eq!((early.run, early.wake), (None, Some(tick + jitter)));
        assert_eq!(status.next_scheduled_time, Some(time(tick + jitter)));
        moment.now = tick + jitter;
        let due = backup(&object, &mut status, &moment).unwrap().run.unwrap();
        assert_eq!((due.at, due.reason), (tick, RunReason::Schedule));
        assert_eq!(status.last_schedule_time, Some(time(tick)));
    }
    assert!(
        delays.len() > 15,
        "objects begin at different times: {delays:?}"
    );
}

#[test]
fn another_zone_counts_from_now() {
    let (mut object, mut status) = hourly();
    object.spec.time_zone = Some("Asia/Kathmandu".into());
    let dueness = look(&object, &mut status, "2026-01-01T05:45:00Z");
    assert_eq!((dueness.run, dueness.missed), (None, 0));
    assert_eq!(dueness.wake, Some(at("2026-01-01T06:15:00Z")));
    assert_eq!(status.schedule_from, Some(time(at("2026-01-01T05:45:00Z"))));
}

#[test]
fn an_unknown_zone_is_an_error_that_names_it() {
    let (object, mut status) = hourly_with(r#"{"timeZone": "Europe/Bielefeld"}"#);
    let error = backup(&object, &mut status, &NEW).unwrap_err();
    assert_eq!(error.field, "spec.timeZone");
}

#[test]
fn a_clock_that_was_a_year_ahead_does_not_stop_the_schedule_for_a_year() {
    let (object, mut status) = hourly();
    look(&object, &mut status, "2027-01-01T00:30:00Z");
    let missed = status.missed_runs;
    let dueness = look(&object, &mut status, "2026-01-01T05:30:00Z");
    assert!(dueness.is_clock_back);
    assert_eq!((dueness.run, dueness.missed), (None, 0));
    let dueness = look(&object, &mut status, "2026-01-01T06:00:00Z");
    assert_eq!(dueness.run.unwrap().at, at("2026-01-01T06:00:00Z"));
    assert_eq!((dueness.is_clock_back, status.missed_runs), (false, missed));
}

#[test]
fn a_clock_that_goes_back_for_an_hour_runs_no_tick_twice() {
    let (object, mut status) = hourly();
    assert!(
        look(&object, &mut status, "2026-01-01T03:00:00Z")
            .run
            .is_some()
    );
    for now in [
        "2026-01-01T01:59:00Z",
        "2026-01-01T02:00:00Z",
        "2026-01-01T03:00:00Z",
    ] {
        let dueness = look(&object, &mut status, now);
        assert_eq!((dueness.run, dueness.is_clock_back), (None, false), "{now}");
    }
    assert!(
        look(&object, &mut status, "2026-01-01T04:00:00Z")
            .run
            .is_some()
    );
}
