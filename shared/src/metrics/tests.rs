//! What every family must keep to.

use super::*;
use std::collections::HashSet;

/// The families that were promised, with the labels that belong to each.
const PROMISED: [(&str, &str, &[&str]); 20] = [
    ("operator_reconciliations_total", "counter", RECONCILED),
    (
        "operator_reconciliation_errors_total",
        "counter",
        RECONCILED,
    ),
    (
        "operator_reconciliation_duration_seconds",
        "histogram",
        RECONCILED,
    ),
    ("operator_workqueue_depth", "gauge", &["controller"]),
    ("operator_workqueue_adds_total", "counter", &["controller"]),
    (
        "operator_workqueue_retries_total",
        "counter",
        &["controller"],
    ),
    (
        "backups_total",
        "counter",
        &["backup_name", "namespace", "outcome"],
    ),
    (
        "backup_duration_seconds",
        "histogram",
        &["backup_name", "namespace", "outcome"],
    ),
    ("backup_size_bytes", "gauge", &["backup_name", "namespace"]),
    (
        "backup_records_total",
        "counter",
        &["backup_name", "namespace"],
    ),
    (
        "last_successful_backup_timestamp",
        "gauge",
        &["backup_name", "namespace"],
    ),
    (
        "restores_total",
        "counter",
        &["restore_name", "namespace", "outcome"],
    ),
    (
        "restore_duration_seconds",
        "histogram",
        &["restore_name", "namespace", "outcome"],
    ),
    (
        "restore_records_total",
        "counter",
        &["restore_name", "namespace"],
    ),
    (
        "last_successful_restore_timestamp",
        "gauge",
        &["restore_name", "namespace"],
    ),
    ("offset_resets_total", "counter", RESET),
    ("offset_reset_duration_seconds", "histogram", RESET),
    ("offset_reset_groups_total", "counter", RESET),
    ("resource_status", "gauge", &["kind", "name", "namespace"]),
    (
        "resource_phase",
        "gauge",
        &["kind", "name", "namespace", "phase"],
    ),
];
const RECONCILED: &[&str] = &["controller", "namespace", "name"];
const RESET: &[&str] = &["reset_name", "namespace", "strategy", "outcome"];

/// Labels that name an object: as many values as there are objects.
const OBJECT: [&str; 7] = [
    "backup_name",
    "restore_name",
    "reset_name",
    "rollback_name",
    "kind",
    "name",
    "namespace",
];
/// Labels with a closed set of values, and the size of the set.
const CLOSED: [(&str, usize); 11] = [
    ("controller", 4),
    ("files", 2),
    ("operation", 4),
    ("outcome", 2),
    ("peer", 2),
    ("phase", 4),
    // Fetch, produce and others to Kafka; read, write and others to the store.
    ("request", 3),
    ("result", 8),
    ("stage", 4),
    ("strategy", 8),
    ("version", 1),
];
/// Series of a family for one object, at most; a histogram has as many times its buckets.
const SERIES_PER_OBJECT: usize = 16;
/// What is measured in no unit: states and counts of things.
const UNITLESS: [&str; 10] = [
    "_current",
    "_depth",
    "_info",
    "_leader",
    "_phase",
    "_records",
    "_series",
    "_sources",
    "_status",
    "_suspended",
];

fn unit(family: &Family) -> &'static str {
    let name = family.name.trim_end_matches("_total");
    let units = [
        "_bytes_per_second",
        "_seconds",
        "_bytes",
        "_ratio",
        "_timestamp",
    ];
    units
        .into_iter()
        .find(|unit| name.ends_with(unit))
        .unwrap_or("")
}

#[test]
fn the_promised_families_are_declared_as_promised() {
    for (name, kind, labels) in PROMISED {
        let name = format!("kafka_backup_{name}");
        let family = FAMILIES.iter().find(|family| family.name == name);
        let family = family.unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_eq!(family.kind.as_str(), kind, "{name}");
        assert_eq!(family.labels, labels, "{name}");
    }
}

#[test]
fn names_follow_prometheus_conventions() {
    let mut names = HashSet::new();
    for family in FAMILIES {
        let name = family.name;
        let lower = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(name.starts_with("kafka_backup_") && name.chars().all(lower));
        assert!(names.insert(name), "{name} twice");
        let is_counter = family.kind == MetricType::Counter;
        assert_eq!(is_counter, name.ends_with("_total"), "{name}");
    }
    for family in FAMILIES {
        for suffix in ["_bucket", "_sum", "_count"] {
            let series = format!("{}{suffix}", family.name);
            assert!(!names.contains(&*series), "{series} is a histogram's");
        }
    }
}

#[test]
fn help_is_one_sentence_that_names_the_unit() {
    for Family { name, help, .. } in FAMILIES {
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}");
        let first = help.chars().next();
        assert!(first.is_some_and(|c| !c.is_ascii_lowercase()), "{name}");
    }
    for family in FAMILIES {
        let words = match unit(family) {
            "_seconds" => "seconds",
            "_bytes" => "bytes",
            "_bytes_per_second" => "per second",
            "_ratio" => "0 to 1",
            "_timestamp" => "seconds since 1970-01-01 UTC",
            _ => continue,
        };
        let help = family.help.to_lowercase();
        assert!(help.contains(&words.to_lowercase()), "{}", family.name);
    }
}

#[test]
fn units_are_base_units_at_the_end_of_the_name() {
    for family in FAMILIES {
        let name = family.name;
        for other in [
            "_ms", "_millis", "_minutes", "_hours", "_kb", "_mb", "_percent",
        ] {
            assert!(!name.contains(other), "{name}");
        }
        let is_unitless = UNITLESS.iter().any(|end| name.ends_with(end));
        match family.kind {
            MetricType::Histogram => assert_eq!(unit(family), "_seconds", "{name}"),
            MetricType::Gauge => assert!(!unit(family).is_empty() || is_unitless, "{name}"),
            MetricType::Counter => {}
        }
    }
}

/// One series per topic, partition, pod or run would grow without end; what is pushed and never exposed may name its run.
#[test]
fn series_are_bounded_by_objects_and_closed_sets() {
    for family in FAMILIES {
        let name = family.name;
        let labels: HashSet<_> = family.labels.iter().collect();
        assert_eq!(labels.len(), family.labels.len(), "{name}");
        if PUSHED_ONLY.contains(family) {
            assert_eq!(family.labels, ["run"], "{name}");
            continue;
        }
        let mut series = 1;
        for label in family.labels {
            let values = CLOSED.iter().find(|(closed, _)| closed == label);
            match values {
                Some((_, values)) => series *= values,
                None => assert!(OBJECT.contains(label), "{name} has the label {label}"),
            }
        }
        assert!(series <= SERIES_PER_OBJECT, "{name}: {series}");
        let names_object = family.labels.iter().any(|label| label.ends_with("name"));
        let has_namespace = family.labels.contains(&"namespace");
        assert_eq!(names_object, has_namespace, "{name}");
    }
}

#[test]
fn buckets_rise_and_hold_the_promised_bounds() {
    for buckets in [&DURATION_BUCKETS[..], &RECONCILE_BUCKETS, &REQUEST_BUCKETS] {
        assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            buckets
                .iter()
                .all(|bound| bound.is_finite() && *bound > 0.0)
        );
    }
    for bound in [60.0, 300.0, 600.0, 3600.0, 21600.0] {
        assert!(DURATION_BUCKETS.contains(&bound));
    }
    assert_eq!(DURATION_BUCKETS.last(), Some(&21600.0));
}
