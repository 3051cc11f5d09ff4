//! The page of `/metrics` as a pure function of the objects' specs and statuses, and of the time for what is going on.
//!
//! # Guarantees
//! - Every object has its counters and histograms from first sight, both outcomes at 0, with or without a status.
//! - Gauges without a value are absent, never 0: no size and no timestamp before the first success, no interval without a
//!   schedule.
//! - Families without objects are declared all the same.
//! - The order is that of the table of families, and within a family that of namespace and name.
//! - A counter shows what the status counts: held runs are not in it, and records of a run that goes on are.

use std::collections::BTreeMap;
use std::fmt::Display;

use jiff::Timestamp;
use kafka_backup_shared::crd::KafkaBackup;
use kafka_backup_shared::metrics::{
    BACKUP_DURATION, BACKUP_LAG, BACKUP_LAST_DURATION, BACKUP_MISSED_RUNS, BACKUP_RECORDS,
    BACKUP_RUNNING, BACKUP_SIZE, BACKUP_SUSPENDED, BACKUPS, DURATION_BUCKETS, Family, GAPS,
    LAST_SUCCESSFUL_BACKUP, LAST_SUCCESSFUL_RESTORE, OFFSET_RESET_DURATION, OFFSET_RESET_GROUPS,
    OFFSET_RESETS, OFFSET_ROLLBACK_DURATION, OFFSET_ROLLBACKS, RESOURCE_PHASE, RESOURCE_STATUS,
    RESTORE_DURATION, RESTORE_RECORDS, RESTORES, SCHEDULE_INTERVAL, WORKQUEUE_ADDS,
    WORKQUEUE_DEPTH,
};
use kafka_backup_shared::schedule::Schedule;
use kafka_backup_shared::status::{Life, OutcomeTotals, Phase, RunOutcome};

use super::encode::{Encoder, Float};
use super::{QueueState, Snapshot, place};
use crate::kind::{Kind, ObjectKind};

/// Ticks that are looked at for the interval of a schedule: those of a week for all that are due once a day.
const TICKS: usize = 8;

/// The families of the objects and queues at `now`; what the controller counts about itself is added by the caller.
pub(crate) fn render(out: &mut Encoder<'_>, snapshot: &Snapshot, now: Timestamp) {
    let backups = sorted(snapshot.backups.iter().map(|backup| Object {
        backup: Some(backup),
        ..Object::new(&**backup)
    }));
    let restores = snapshot.restores.iter();
    let restores = sorted(restores.map(|restore| Object::new(&**restore)));
    let resets = sorted(snapshot.offset_resets.iter().map(|reset| Object {
        detail: Some(reset.spec.strategy.label()),
        ..Object::new(&**reset)
    }));
    let rollbacks = snapshot.offset_rollbacks.iter();
    let rollbacks = sorted(rollbacks.map(|rollback| Object {
        detail: Some(rollback.spec.operation.as_str()),
        ..Object::new(&**rollback)
    }));

    write_runs(out, &BACKUPS, &BACKUP_DURATION, &backups);
    write_gauge(out, &BACKUP_SIZE, &backups, |object| {
        object.backup?.status.as_ref()?.last_backup_size
    });
    write_records(out, &BACKUP_RECORDS, &backups);
    write_last_success(out, &LAST_SUCCESSFUL_BACKUP, &backups);
    write_backups(out, &backups, now);
    write_runs(out, &RESTORES, &RESTORE_DURATION, &restores);
    write_records(out, &RESTORE_RECORDS, &restores);
    write_last_success(out, &LAST_SUCCESSFUL_RESTORE, &restores);
    write_runs(out, &OFFSET_RESETS, &OFFSET_RESET_DURATION, &resets);
    write_groups(out, &OFFSET_RESET_GROUPS, &resets);
    write_runs(
        out,
        &OFFSET_ROLLBACKS,
        &OFFSET_ROLLBACK_DURATION,
        &rollbacks,
    );
    let kinds = [
        (ObjectKind::Backup, backups),
        (ObjectKind::Restore, restores),
        (ObjectKind::OffsetReset, resets),
        (ObjectKind::OffsetRollback, rollbacks),
    ];
    write_status(out, &kinds);
    write_phase(out, &kinds);
    write_queues(out, &snapshot.queues);
}

/// What one object contributes.
struct Object<'a> {
    /// Where it is one.
    backup: Option<&'a KafkaBackup>,
    /// What its runs do, where families tell that by a label.
    detail: Option<&'static str>,
    life: Option<&'a Life>,
    namespace: String,
    name: String,
}

impl<'a> Object<'a> {
    fn new(object: &'a impl Kind) -> Self {
        let (namespace, name) = place(object.meta());
        Self {
            backup: None,
            detail: None,
            life: object.told(),
            namespace,
            name,
        }
    }

    fn outcome(&self, outcome: RunOutcome) -> Option<&'a OutcomeTotals> {
        self.life.map(|life| life.totals.of(outcome))
    }
}

type Objects<'a> = BTreeMap<(String, String), Object<'a>>;

fn sorted<'a>(objects: impl Iterator<Item = Object<'a>>) -> Objects<'a> {
    objects
        .map(|object| ((object.namespace.clone(), object.name.clone()), object))
        .collect()
}

/// The labels of `family` that name the object: its name first, as the table has it.
fn names<'a>(family: &Family, object: &'a Object<'_>) -> [(&'static str, &'a str); 2] {
    [
        (family.labels[0], &object.name),
        (family.labels[1], &object.namespace),
    ]
}

/// The labels of a family that has a series per outcome, as the table has them.
fn labels_of<'a>(
    family: &Family,
    object: &'a Object<'_>,
    outcome: RunOutcome,
) -> Vec<(&'static str, &'a str)> {
    let names = [object.name.as_str(), object.namespace.as_str()].into_iter();
    let values = names.chain(object.detail).chain([outcome.as_str()]);
    family.labels.iter().copied().zip(values).collect()
}

fn write_runs(out: &mut Encoder<'_>, runs: &Family, durations: &Family, objects: &Objects<'_>) {
    out.head(runs);
    for object in objects.values() {
        for outcome in RunOutcome::ALL {
            let labels = labels_of(runs, object, outcome);
            let count = object.outcome(outcome).map_or(0, |totals| totals.runs);
            out.sample(runs.name, &labels, count);
        }
    }
    out.head(durations);
    for object in objects.values() {
        for outcome in RunOutcome::ALL {
            let labels = labels_of(durations, object, outcome);
            write_histogram(out, durations.name, &labels, object.outcome(outcome));
        }
    }
}

fn write_groups(out: &mut Encoder<'_>, family: &Family, objects: &Objects<'_>) {
    out.head(family);
    for object in objects.values() {
        for outcome in RunOutcome::ALL {
            let labels = labels_of(family, object, outcome);
            let groups = object.life.map(|life| life.totals.groups.of(outcome));
            out.sample(family.name, &labels, groups.unwrap_or(0));
        }
    }
}

fn write_histogram(
    out: &mut Encoder<'_>,
    name: &str,
    labels: &[(&str, &str)],
    totals: Option<&OutcomeTotals>,
) {
    let none = OutcomeTotals::default();
    let totals = totals.unwrap_or(&none);
    let counts = totals.duration_buckets.iter().copied();
    let buckets = DURATION_BUCKETS
        .into_iter()
        .zip(counts.chain(std::iter::repeat(0)));
    let seconds = totals.duration_ms_sum as f64 / 1000.0;
    out.histogram(name, labels, buckets, seconds, totals.runs);
}

/// What only backups have.
fn write_backups(out: &mut Encoder<'_>, backups: &Objects<'_>, now: Timestamp) {
    write_gauge(out, &BACKUP_LAST_DURATION, backups, |object| {
        let duration = object.life?.totals.last_duration_ms?;
        Some(Float(duration as f64 / 1000.0))
    });
    write_gauge(out, &BACKUP_RUNNING, backups, |object| {
        let active = object.life.and_then(|life| life.active_run.as_ref());
        let running = active.map(|run| now.duration_since(run.start_time.0).as_secs());
        Some(running.unwrap_or(0).max(0))
    });
    write_gauge(out, &BACKUP_LAG, backups, |object| {
        object.backup?.status.as_ref()?.last_backup_lag
    });
    write_gauge(out, &GAPS, backups, |object| {
        Some(object.life.map_or(0, |life| life.totals.gaps))
    });
    write_gauge(out, &SCHEDULE_INTERVAL, backups, |object| {
        schedule_interval(object.backup?, now)
    });
    write_gauge(out, &BACKUP_SUSPENDED, backups, |object| {
        Some(u8::from(object.backup?.spec.suspend))
    });
    write_gauge(out, &BACKUP_MISSED_RUNS, backups, |object| {
        let status = object.backup?.status.as_ref();
        Some(status.map_or(0, |status| status.missed_runs))
    });
}

/// Seconds between two ticks. A schedule of working days or hours has waits of several lengths, and an alert needs the longest:
/// else each Monday would be late. It is looked for from the last tick on, so that the wait that is going on counts.
fn schedule_interval(backup: &KafkaBackup, now: Timestamp) -> Option<i64> {
    let spec = &backup.spec;
    let schedule = Schedule::parse(spec.schedule.as_deref()?, spec.time_zone.as_deref()).ok()?;
    let status = backup.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let from = match last {
        Some(tick) => tick.0,
        None => schedule.next_after(now)?,
    };
    Some(schedule.longest_wait_after(from, TICKS)?.as_secs())
}

fn write_records(out: &mut Encoder<'_>, family: &Family, objects: &Objects<'_>) {
    write_gauge(out, family, objects, |object| {
        let totals = object.life.map(|life| &life.totals);
        Some(totals.map_or(0, |totals| totals.records + totals.uncommitted))
    });
}

fn write_last_success(out: &mut Encoder<'_>, family: &Family, objects: &Objects<'_>) {
    write_gauge(out, family, objects, |object| {
        let time = object.life?.totals.last_success_time.as_ref()?;
        Some(time.0.as_second())
    });
}

/// One sample for each object that has a value.
fn write_gauge<V: Display>(
    out: &mut Encoder<'_>,
    family: &Family,
    objects: &Objects<'_>,
    value: impl Fn(&Object<'_>) -> Option<V>,
) {
    out.head(family);
    for object in objects.values() {
        if let Some(value) = value(object) {
            out.sample(family.name, &names(family, object), value);
        }
    }
}

fn write_status(out: &mut Encoder<'_>, kinds: &[(ObjectKind, Objects<'_>)]) {
    out.head(&RESOURCE_STATUS);
    for (kind, objects) in kinds {
        for object in objects.values() {
            let ready = object.life.is_some_and(|life| {
                let mut conditions = life.conditions.iter();
                conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
            });
            let labels = [
                kind.as_str(),
                object.name.as_str(),
                object.namespace.as_str(),
            ];
            write_labelled(out, &RESOURCE_STATUS, &labels, u8::from(ready));
        }
    }
}

fn write_phase(out: &mut Encoder<'_>, kinds: &[(ObjectKind, Objects<'_>)]) {
    out.head(&RESOURCE_PHASE);
    for (kind, objects) in kinds {
        for object in objects.values() {
            let present = object.life.map_or(Phase::default(), |life| life.phase);
            for phase in Phase::ALL {
                let labels = [
                    kind.as_str(),
                    object.name.as_str(),
                    &object.namespace,
                    phase.as_str(),
                ];
                let is_present = u8::from(phase == present);
                write_labelled(out, &RESOURCE_PHASE, &labels, is_present);
            }
        }
    }
}

fn write_queues(out: &mut Encoder<'_>, queues: &[QueueState]) {
    out.head(&WORKQUEUE_DEPTH);
    for queue in queues {
        write_labelled(out, &WORKQUEUE_DEPTH, &[queue.controller], queue.depth);
    }
    out.head(&WORKQUEUE_ADDS);
    for queue in queues {
        write_labelled(out, &WORKQUEUE_ADDS, &[queue.controller], queue.adds);
    }
}

/// A sample with the family's labels in the order of the table.
fn write_labelled(out: &mut Encoder<'_>, family: &Family, values: &[&str], value: impl Display) {
    let labels = family.labels.iter().copied().zip(values.iter().copied());
    out.sample(family.name, &labels.collect::<Vec<_>>(), value);
}
