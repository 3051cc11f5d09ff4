//! What a push may say: the values of its token's own run, and no others.

use std::collections::BTreeMap;

use kafka_backup_shared::metrics::{
    BACKUP_RECORDS, Family, MetricType, RESTORE_RECORDS, RUN_BYTES, RUN_PROGRESS,
};
use kafka_backup_shared::plan::RunRef;

use super::Refusal;
use crate::exporter::{TextFamily, TextType, parse};
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

/// The families that a worker of `run` may push: what the status has a place for.
fn accepted_families(run: &RunRef) -> Option<[&'static Family; 3]> {
    let records = match ObjectKind::parse(&run.kind)? {
        ObjectKind::Backup => &BACKUP_RECORDS,
        ObjectKind::Restore => &RESTORE_RECORDS,
    };
    Some([records, &RUN_BYTES, &RUN_PROGRESS])
}

/// What a text says about `run`; families that it leaves out count as nothing done yet.
pub(super) fn read_progress(body: &[u8], run: &RunRef) -> Result<Progress, Refusal> {
    let text = std::str::from_utf8(body)
        .map_err(|error| Refusal::invalid(format!("the body is not UTF-8: {error}")))?;
    let families = parse(text).map_err(|error| Refusal::invalid(error.to_string()))?;
    let accepted = accepted_families(run)
        .ok_or_else(|| Refusal::invalid(format!("{} has no metrics to push", run.kind)))?;
    let mut progress = Progress::default();
    for family in &families {
        let known = accepted.iter().find(|known| known.name == family.name);
        let known = known.ok_or_else(|| {
            let names = accepted.map(|known| known.name).join(", ");
            Refusal::invalid(format!(
                "family {} is none of those that a {} run pushes: {names}",
                family.name, run.kind
            ))
        })?;
        let Some(value) = read_family(family, known, run)? else {
            continue;
        };
        if known.name == RUN_BYTES.name {
            progress.bytes = whole(&family.name, value)?;
        } else if known.name == RUN_PROGRESS.name {
            progress.percent = Some(percent(value)?);
        } else {
            progress.records = whole(&family.name, value)?;
        }
    }
    Ok(progress)
}

/// The value of the family's only sample.
fn read_family(family: &TextFamily, known: &Family, run: &RunRef) -> Result<Option<f64>, Refusal> {
    let name = known.name;
    let is_same_type = match family.kind {
        TextType::Counter => known.kind == MetricType::Counter,
        TextType::Gauge => known.kind == MetricType::Gauge,
        TextType::Untyped => true,
        TextType::Histogram | TextType::Summary => false,
    };
    if !is_same_type {
        let kind = known.kind.as_str();
        return Err(Refusal::invalid(format!("{name} is a {kind}")));
    }
    let sample = match family.samples.as_slice() {
        [] => return Ok(None),
        [sample] => sample,
        [_, _, ..] => {
            return Err(Refusal::invalid(format!("{name} has more than one sample")));
        }
    };
    for (label, value) in &sample.labels {
        let own = match label.as_str() {
            "namespace" => &run.namespace,
            "run" => &run.run,
            "backup_name" | "restore_name" if known.labels.contains(&label.as_str()) => &run.name,
            _ => {
                return Err(Refusal::invalid(format!("{name} has no label {label}")));
            }
        };
        if own != value {
            return Err(Refusal::other_run());
        }
    }
    Ok(Some(sample.value))
}

/// Whole numbers up to 2^53, which a float holds exactly.
fn whole(name: &str, value: f64) -> Result<u64, Refusal> {
    const MAX: f64 = 9_007_199_254_740_992.0;
    if value.fract() != 0.0 || !(0.0..=MAX).contains(&value) {
        return Err(Refusal::invalid(format!(
            "{name} is {value}, which is not a whole number from 0 to 2^53"
        )));
    }
    Ok(value as u64)
}

fn percent(value: f64) -> Result<u8, Refusal> {
    if !(0.0..=1.0).contains(&value) {
        let name = RUN_PROGRESS.name;
        return Err(Refusal::invalid(format!(
            "{name} is {value}, which is not a ratio from 0 to 1"
        )));
    }
    Ok((value * 100.0) as u8)
}
