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
    OFFSET_RESETS, RESOURCE_PHASE, RESOURCE_STATUS, RESTORE_DURATION, RESTORE_RECORDS, RESTORES,
    SCHEDULE_INTERVAL, WORKQUEUE_ADDS, WORKQUEUE_DEPTH,
};
use kafka_backup_shared::schedule::Schedule;
use kafka_backup_shared::status::{Life, OutcomeTotals, Phase, RunOutcome};
use kube::ResourceExt;

use super::encode::{Float, write_head, write_sample};
use super::{QueueState, Snapshot};

/// Ticks that are looked at for the interval of a schedule: those of a week for all that are due once a day.
const TICKS: usize = 8;

/// The families of the objects and queues at `now`; what the controller counts about itself is added by the caller.
pub(crate) fn render(out: &mut String, snapshot: &Snapshot, now: Timestamp) {
    let backups = sorted(snapshot.backups.iter().map(|backup| {
        let life = backup.status.as_ref().map(|status| &status.life);
        Object::new(&**backup, Some(backup), life)
    }));
    let restores = sorted(snapshot.restores.iter().map(|restore| {
        let life = restore.status.as_ref().map(|status| &status.life);
        Object::new(&**restore, None, life)
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
    for family in [OFFSET_RESETS, OFFSET_RESET_DURATION, OFFSET_RESET_GROUPS] {
        write_head(out, &family);
    }
    let kinds = [("KafkaBackup", backups), ("KafkaRestore", restores)];
    write_status(out, &kinds);
    write_phase(out, &kinds);
    write_queues(out, &snapshot.queues);
}

/// What one object contributes.
struct Object<'a> {
    /// Where it is one.
    backup: Option<&'a KafkaBackup>,
    life: Option<&'a Life>,
    namespace: String,
    name: String,
}

impl<'a> Object<'a> {
    fn new(
        object: &impl ResourceExt,
        backup: Option<&'a KafkaBackup>,
        life: Option<&'a Life>,
    ) -> Self {
        Self {
            backup,
            life,
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
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

fn write_runs(out: &mut String, runs: &Family, durations: &Family, objects: &Objects<'_>) {
    write_head(out, runs);
    for object in objects.values() {
        for outcome in RunOutcome::ALL {
            let [name, namespace] = names(runs, object);
            let labels = [name, namespace, (runs.labels[2], outcome.as_str())];
            let count = object.outcome(outcome).map_or(0, |totals| totals.runs);
            write_sample(out, runs.name, &labels, count);
        }
    }
    write_head(out, durations);
    for object in objects.values() {
        for outcome in RunOutcome::ALL {
            let [name, namespace] = names(durations, object);
            let labels = [name, namespace, (durations.labels[2], outcome.as_str())];
            write_histogram(out, durations.name, labels, object.outcome(outcome));
        }
    }
}

fn write_histogram(
    out: &mut String,
    name: &str,
    [a, b, c]: [(&str, &str); 3],
    totals: Option<&OutcomeTotals>,
) {
    let none = OutcomeTotals::default();
    let totals = totals.unwrap_or(&none);
    let bucket = format!("{name}_bucket");
    let mut cumulative = 0;
    for (index, bound) in DURATION_BUCKETS.iter().enumerate() {
        cumulative += totals.duration_buckets.get(index).copied().unwrap_or(0);
        let bound = Float(*bound).to_string();
        write_sample(out, &bucket, &[a, b, c, ("le", &bound)], cumulative);
    }
    write_sample(out, &bucket, &[a, b, c, ("le", "+Inf")], totals.runs);
    let seconds = Float(totals.duration_ms_sum as f64 / 1000.0);
    write_sample(out, &format!("{name}_sum"), &[a, b, c], seconds);
    write_sample(out, &format!("{name}_count"), &[a, b, c], totals.runs);
}

/// What only backups have.
fn write_backups(out: &mut String, backups: &Objects<'_>, now: Timestamp) {
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

fn write_records(out: &mut String, family: &Family, objects: &Objects<'_>) {
    write_gauge(out, family, objects, |object| {
        let totals = object.life.map(|life| &life.totals);
        Some(totals.map_or(0, |totals| totals.records + totals.uncommitted))
    });
}

fn write_last_success(out: &mut String, family: &Family, objects: &Objects<'_>) {
    write_gauge(out, family, objects, |object| {
        let time = object.life?.totals.last_success_time.as_ref()?;
        Some(time.0.as_second())
    });
}

/// One sample for each object that has a value.
fn write_gauge<V: Display>(
    out: &mut String,
    family: &Family,
    objects: &Objects<'_>,
    value: impl Fn(&Object<'_>) -> Option<V>,
) {
    write_head(out, family);
    for object in objects.values() {
        if let Some(value) = value(object) {
            write_sample(out, family.name, &names(family, object), value);
        }
    }
}

fn write_status(out: &mut String, kinds: &[(&str, Objects<'_>)]) {
    write_head(out, &RESOURCE_STATUS);
    for (kind, objects) in kinds {
        for object in objects.values() {
            let ready = object.life.is_some_and(|life| {
                let mut conditions = life.conditions.iter();
                conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
            });
            let labels = [kind, object.name.as_str(), object.namespace.as_str()];
            write_labelled(out, &RESOURCE_STATUS, &labels, u8::from(ready));
        }
    }
}

fn write_phase(out: &mut String, kinds: &[(&str, Objects<'_>)]) {
    write_head(out, &RESOURCE_PHASE);
    for (kind, objects) in kinds {
        for object in objects.values() {
            let present = object.life.map_or(Phase::default(), |life| life.phase);
            for phase in Phase::ALL {
                let labels = [
                    kind,
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

fn write_queues(out: &mut String, queues: &[QueueState]) {
    write_head(out, &WORKQUEUE_DEPTH);
    for queue in queues {
        write_labelled(out, &WORKQUEUE_DEPTH, &[queue.controller], queue.depth);
    }
    write_head(out, &WORKQUEUE_ADDS);
    for queue in queues {
        write_labelled(out, &WORKQUEUE_ADDS, &[queue.controller], queue.adds);
    }
}

/// A sample with the family's labels in the order of the table.
fn write_labelled(out: &mut String, family: &Family, values: &[&str], value: impl Display) {
    let labels = family.labels.iter().copied().zip(values.iter().copied());
    write_sample(out, family.name, &labels.collect::<Vec<_>>(), value);
}
