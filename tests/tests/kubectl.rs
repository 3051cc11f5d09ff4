//! What kubectl makes of the objects: columns, short names, the category, and waiting for a condition. Needs `cargo lab up` and the
//! installed operator.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod slow_backup;

use kafka_backup_tests::operator;
use serde_json::{Value, json};
use slow_backup::{Place, RECORDS, RUN, place};

/// Header and cells of the only row that `kubectl get` prints for `kind`.
fn row(place: &Place, kind: &str) -> Vec<(String, String)> {
    let table = place.kubectl(&["get", kind, "--output", "wide"]);
    let lines: Vec<&str> = table.lines().collect();
    let [header, row] = lines[..] else {
        panic!("expected a header and a row, found\n{table}");
    };
    // Columns are apart by three spaces, and a header may have one within.
    let names = header.split("   ").map(str::trim);
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let starts: Vec<usize> = names
        .iter()
        .map(|name| header.find(name).unwrap())
        .collect();
    let ends = starts.iter().skip(1).copied().chain([row.len()]);
    let cells = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| row[*start..end].trim());
    let names = names.iter().map(|name| (*name).to_owned());
    names.zip(cells.map(str::to_owned)).collect()
}

fn assert_full(row: &[(String, String)]) {
    let names: Vec<&str> = row.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "NAME",
        "PHASE",
        "SCHEDULE",
        "LAST BACKUP",
        "NEXT",
        "NEW RECORDS",
        "SIZE",
        "AGE",
    ];
    assert_eq!(names, expected);
    for (name, cell) in row {
        assert!(!cell.is_empty() && cell != "<none>", "{name} of {row:?}");
    }
}

fn cell<'a>(row: &'a [(String, String)], name: &str) -> &'a str {
    let (_, cell) = row.iter().find(|(found, _)| found == name).unwrap();
    cell
}

#[test]
fn columns_are_full_at_any_time_and_a_condition_can_be_waited_for() {
    let place = place("t-kubectl");
    place.start_slow_backup_with("  suspend: true\n");
    let seen = |object: &Value| object["status"]["columns"].is_object();
    let (lab, namespace) = (&place.lab, place.namespace);
    operator::wait_object(lab, namespace, "kafkabackup", "slow", "a look", RUN, seen).unwrap();
    let before = row(&place, "kafkabackups");
    assert_full(&before);
    assert_eq!(
        ["PHASE", "SCHEDULE", "LAST BACKUP", "NEXT"].map(|name| cell(&before, name)),
        ["Pending", "once", "never", "suspended"]
    );

    let go = json!({ "spec": { "suspend": false } }).to_string();
    place.kubectl(&["patch", "kb", "slow", "--type=merge", "--patch", &go]);
    place.wait_for_segments(3);
    let during = row(&place, "kb");
    assert_full(&during);
    assert_eq!(cell(&during, "PHASE"), "Running");

    place.kubectl(&[
        "wait",
        "--for=condition=Succeeded",
        "kafkabackup/slow",
        "--timeout=180s",
    ]);
    // At once: what made the condition true has set the columns, too.
    let after = row(&place, "kafkabackup");
    assert_full(&after);
    assert_eq!(
        ["PHASE", "NEW RECORDS"].map(|name| cell(&after, name).to_owned()),
        ["Completed".to_owned(), RECORDS.to_string()]
    );
    assert!(
        cell(&after, "LAST BACKUP")
            .parse::<jiff::Timestamp>()
            .is_ok(),
        "{after:?}"
    );

    place.assert_complete();
    let named = |kind: &str| {
        let text = place.kubectl(&["get", kind, "--output", "name"]);
        let mut names: Vec<String> = text.lines().map(str::to_owned).collect();
        names.sort();
        names
    };
    let (backup, restore) = (
        "kafkabackup.kafka-backup.dev/slow",
        "kafkarestore.kafka-backup.dev/back",
    );
    assert_eq!(named("kr"), [restore]);
    assert_eq!(named("kafka-backup"), [backup, restore], "the category");
}
