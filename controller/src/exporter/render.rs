//! The page of `/metrics` as a pure function of the objects' statuses.
//!
//! # Guarantees
//! - Every object has its counters and histograms from first sight, both outcomes at 0, with or without a status.
//! - Gauges without a value are absent, never 0: no size and no timestamp before the first success.
//! - The order is that of the table of families, and within a family that of namespace and name.
//! - A counter shows what the status counts: held runs are not in it, and records of a run that goes on are.

use std::collections::BTreeMap;
use std::fmt::Display;

use kafka_backup_shared::metrics::{
    BACKUP_DURATION, BACKUP_RECORDS, BACKUP_SIZE, BACKUPS, DURATION_BUCKETS, Family,
    LAST_SUCCESSFUL_BACKUP, LAST_SUCCESSFUL_RESTORE, RESOURCE_PHASE, RESOURCE_STATUS,
    RESTORE_DURATION, RESTORE_RECORDS, RESTORES, WORKQUEUE_ADDS, WORKQUEUE_DEPTH,
};
use kafka_backup_shared::status::{Life, OutcomeTotals, Phase, RunOutcome};
use kube::ResourceExt;

use super::encode::{Float, write_head, write_sample};
use super::{QueueState, Snapshot};

/// The families of the objects and queues; what the controller counts about itself is added by the caller.
pub(crate) fn render(snapshot: &Snapshot) -> String {
    let backups = sorted(snapshot.backups.iter().map(|backup| {
        let status = backup.status.as_ref();
        let size = status.and_then(|status| status.last_backup_size);
        Object::new(&**backup, status.map(|status| &status.life), size)
    }));
    let restores = sorted(snapshot.restores.iter().map(|restore| {
        let life = restore.status.as_ref().map(|status| &status.life);
        Object::new(&**restore, life, None)
    }));

    let mut out = String::new();
    write_runs(&mut out, &BACKUPS, &BACKUP_DURATION, &backups);
    write_gauge(&mut out, &BACKUP_SIZE, &backups, |object| object.size);
    write_records(&mut out, &BACKUP_RECORDS, &backups);
    write_last_success(&mut out, &LAST_SUCCESSFUL_BACKUP, &backups);
    write_runs(&mut out, &RESTORES, &RESTORE_DURATION, &restores);
    write_records(&mut out, &RESTORE_RECORDS, &restores);
    write_last_success(&mut out, &LAST_SUCCESSFUL_RESTORE, &restores);
    let kinds = [("KafkaBackup", backups), ("KafkaRestore", restores)];
    write_status(&mut out, &kinds);
    write_phase(&mut out, &kinds);
    write_queues(&mut out, &snapshot.queues);
    out
}

/// What one object contributes.
struct Object<'a> {
    life: Option<&'a Life>,
    size: Option<u64>,
    namespace: String,
    name: String,
}

impl<'a> Object<'a> {
    fn new(object: &impl ResourceExt, life: Option<&'a Life>, size: Option<u64>) -> Self {
        Self {
            life,
            size,
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
