//! What a push may say: the values of its token's own run, and no others.

use std::collections::BTreeMap;

use kafka_backup_shared::metrics::{
    AGGREGATED, BACKUP_RECORDS, Family, MetricType, PUSHED_ONLY, RESTORE_RECORDS, RUN_BYTES,
    RUN_CHECKED, RUN_LEFT, RUN_PROGRESS, RUN_RATE,
};
use kafka_backup_shared::plan::RunRef;

use super::Refusal;
use crate::exposition::{self, Kind, Value};
use crate::grouping::Grouping;
use crate::kind::ObjectKind;
use crate::objects::Progress;

/// The `job` of the grouping key.
const JOB: &str = "kafka-backup";

/// The grouping key must be the run's own.
pub(super) fn check_grouping(grouping: &Grouping, run: &RunRef) -> Result<(), Refusal> {
    let own = BTreeMap::from([
        ("job", JOB),
        ("kind", &run.kind),
        ("namespace", &run.namespace),
        ("name", &run.name),
        ("run", &run.run),
    ]);
    for (label, value) in grouping {
        match own.get(label.as_str()) {
            None => {
                return Err(Refusal::invalid(format!(
                    "label {label} is none of those of a run: job, kind, namespace, name, run"
                )));
            }
            Some(own) if own != value => return Err(Refusal::other_run()),
            Some(_) => {}
        }
    }
    Ok(())
}

/// The families that go into the status of an object. What moves committed offsets has no records.
fn told_by_status(kind: ObjectKind) -> Vec<&'static Family> {
    let records = match kind {
        ObjectKind::Backup => Some(&BACKUP_RECORDS),
        ObjectKind::Restore => Some(&RESTORE_RECORDS),
        ObjectKind::OffsetReset | ObjectKind::OffsetRollback => None,
    };
    records.into_iter().chain(&PUSHED_ONLY).collect()
}

/// Takes families out that are none of the catalogue, and names them; of a worker of this version they are refused.
pub(super) fn take_unknown(
    families: &mut Vec<exposition::Family<'_>>,
    kind: ObjectKind,
    is_own_version: bool,
) -> Result<Option<String>, Refusal> {
    let known = told_by_status(kind).into_iter().chain(AGGREGATED);
    let known: Vec<&str> = known.map(|family| family.name).collect();
    let is_known = |family: &exposition::Family<'_>| known.contains(&family.name.as_ref());
    let unknown = families.iter().filter(|family| !is_known(family));
    let unknown: Vec<String> = unknown.map(|family| family.name.to_string()).collect();
    if unknown.is_empty() {
        return Ok(None);
    }
    let unknown = unknown.join(", ");
    if is_own_version {
        return Err(Refusal::invalid(format!(
            "family {unknown} is none of those that a {} run pushes: {}",
            kind.as_str(),
            known.join(", ")
        )));
    }
    families.retain(is_known);
    Ok(Some(format!(
        "left out, since this controller does not know it: {unknown}"
    )))
}

/// Takes what the status tells out of `families`; what is left out counts as nothing done yet.
pub(super) fn read_progress(
    families: &mut Vec<exposition::Family<'_>>,
    kind: ObjectKind,
    run: &RunRef,
) -> Result<Progress, Refusal> {
    let told = told_by_status(kind);
    let mut progress = Progress::default();
    for known in &told {
        let family = families.iter().find(|family| family.name == known.name);
        let known = *known;
        let value = family
            .map(|family| read_family(family, known, run))
            .transpose()?;
        let Some(value) = value.flatten() else {
            continue;
        };
        let name = known.name;
        if *known == RUN_BYTES {
            progress.bytes = whole(name, value)?;
        } else if *known == RUN_PROGRESS {
            progress.percent = Some(percent(name, value)?);
        } else if *known == RUN_CHECKED {
            progress.checked_percent = Some(percent(name, value)?);
        } else if *known == RUN_RATE {
            progress.bytes_per_second = Some(rounded(name, value)?);
        } else if *known == RUN_LEFT {
            progress.seconds_left = Some(rounded(name, value)?);
        } else {
            progress.records = whole(name, value)?;
        }
    }
    families.retain(|family| told.iter().all(|known| known.name != family.name));
    Ok(progress)
}

/// The value of the family's only sample.
fn read_family(
    family: &exposition::Family<'_>,
    known: &Family,
    run: &RunRef,
) -> Result<Option<f64>, Refusal> {
    let name = known.name;
    check_kind(family, known)?;
    let point = match family.points.as_slice() {
        [] => return Ok(None),
        [point] => point,
        [_, _, ..] => {
            return Err(Refusal::invalid(format!("{name} has more than one sample")));
        }
    };
    for (label, value) in &point.labels {
        let own = match label.as_ref() {
            "namespace" => &run.namespace,
            "run" => &run.run,
            "backup_name" | "restore_name" if known.labels.contains(&label.as_ref()) => &run.name,
            _ => {
                return Err(Refusal::invalid(format!("{name} has no label {label}")));
            }
        };
        if own != value {
            return Err(Refusal::other_run());
        }
    }
    match point.value {
        Value::Number(value) => Ok(Some(value)),
        Value::Histogram(_) | Value::Summary { .. } => Ok(None),
    }
}

fn check_kind(family: &exposition::Family<'_>, known: &Family) -> Result<(), Refusal> {
    let is_same = match family.kind {
        Kind::Counter => known.kind == MetricType::Counter,
        Kind::Gauge => known.kind == MetricType::Gauge,
        Kind::Histogram => known.kind == MetricType::Histogram,
        Kind::Untyped => known.kind != MetricType::Histogram,
        Kind::Summary => false,
    };
    if is_same {
        return Ok(());
    }
    let (name, kind) = (known.name, known.kind.as_str());
    Err(Refusal::invalid(format!("{name} is a {kind}")))
}

/// The rest is of the catalogue, with the labels that it has there; those of the object are given by the controller.
pub(super) fn check_labels(families: &[exposition::Family<'_>]) -> Result<(), Refusal> {
    for family in families {
        let Some(known) = AGGREGATED.iter().find(|known| known.name == family.name) else {
            continue; // none is left
        };
        check_kind(family, known)?;
        if family.kind == Kind::Untyped {
            return Err(Refusal::invalid(format!("{} has no type", known.name)));
        }
        let labels = family.points.iter().flat_map(|point| &point.labels);
        for (label, _) in labels {
            if !known.labels.contains(&label.as_ref()) {
                let name = known.name;
                return Err(Refusal::invalid(format!("{name} has no label {label}")));
            }
        }
    }
    Ok(())
}

/// 2^53: up to it a float holds whole numbers exactly.
const MAX: f64 = 9_007_199_254_740_992.0;

fn whole(name: &str, value: f64) -> Result<u64, Refusal> {
    if value.fract() != 0.0 || !(0.0..=MAX).contains(&value) {
        return Err(Refusal::invalid(format!(
            "{name} is {value}, which is not a whole number from 0 to 2^53"
        )));
    }
    Ok(value as u64)
}

/// A number to show, without its fraction.
fn rounded(name: &str, value: f64) -> Result<u64, Refusal> {
    if !(0.0..=MAX).contains(&value) {
        return Err(Refusal::invalid(format!(
            "{name} is {value}, which is not a number from 0 to 2^53"
        )));
    }
    Ok(value as u64)
}

fn percent(name: &str, value: f64) -> Result<u8, Refusal> {
    if !(0.0..=1.0).contains(&value) {
        return Err(Refusal::invalid(format!(
            "{name} is {value}, which is not a ratio from 0 to 1"
        )));
    }
    Ok((value * 100.0) as u8)
}
