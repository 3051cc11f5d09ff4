//! How a run ended, for people.

use std::time::Duration;

use kafka_backup_shared::plan::{ArchiveName, OffsetsPlan, OffsetsTask, Plan, ResetTask};
use kafka_backup_shared::report::{
    Fault, OffsetsReport, Outcome, Removal, Report, RetentionReport,
};

use crate::human::{self, Align, table};
use crate::retention;

/// Topics that are shown one by one.
const TOPICS: usize = 50;
/// Committed offsets that are shown one by one.
const ROWS: usize = 500;

/// The last words of a run at a terminal.
pub fn of(plan: &Plan, report: &Report) -> String {
    match &report.outcome {
        Outcome::Success => completed(plan, report),
        Outcome::Failure { fault, message } => failed(plan, report, *fault, message),
    }
}

fn completed(plan: &Plan, report: &Report) -> String {
    let run = &report.run.run;
    if let Plan::Offsets(plan) = plan {
        return offsets_done(plan, report);
    }
    if let Some(dry_run) = &report.dry_run {
        let mut text = format!(
            "Dry run of restore {}{}: {} and {} would be written to {}. Nothing was written.\n",
            report.run.name,
            report
                .backup_id
                .as_ref()
                .map_or_else(String::new, |run| format!(" of backup {run}")),
            human::counted(dry_run.records, "record", "records"),
            human::bytes(dry_run.bytes),
            human::counted(dry_run.topics, "topic", "topics"),
        );
        if dry_run.groups > 0 {
            let groups = human::counted(dry_run.groups, "consumer group", "consumer groups");
            text.push_str(&format!("{groups} would be carried over.\n"));
        }
        text.push_str(&told(report));
        return text;
    }
    let (what, verb) = match plan {
        Plan::Backup(plan) => (
            format!("Backup {run} of archive {} is complete", plan.archive),
            "added",
        ),
        Plan::Restore(plan) => (
            format!(
                "Restore {} of backup {} is complete",
                report.run.name,
                // Of `latest`, which one that was.
                report.backup_id.as_ref().unwrap_or(&plan.request.backup_id)
            ),
            "in the target",
        ),
        Plan::Offsets(_) => unreachable!("they have been told"),
    };
    let took = Duration::try_from(report.completion_time.duration_since(report.start_time))
        .unwrap_or_default();
    let rate = |amount: u64| amount as f64 / took.as_secs_f64().max(0.001);
    let mut text = format!(
        "{what}: {} and {} {verb} in {} ({} records/s, {}/s).\n",
        human::counted(report.records, "record", "records"),
        human::bytes(report.bytes),
        human::duration(took),
        human::count(rate(report.records) as u64),
        human::bytes(rate(report.bytes) as u64),
    );
    if report.gaps > 0 {
        let gaps = human::counted(report.gaps, "offset range is", "offset ranges are");
        text.push_str(&format!(
            "{gaps} missing for good, gone from the source before they were captured.\n"
        ));
    }
    if let Some(retention) = &report.retention {
        text.push_str(&retained(retention));
    }
    text.push_str(&told(report));
    if let Some(offsets) = &report.offsets {
        text.push_str(&carried(offsets));
    }
    if let Plan::Backup(_) = plan {
        text.push_str(&format!("\nRestore it with --backup-id {run}.\n"));
    }
    text
}

/// Warnings, and a table of the topics.
fn told(report: &Report) -> String {
    let mut text = String::new();
    for warning in &report.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if !report.topics.is_empty() {
        text.push('\n');
        text.push_str(&topics(report));
    }
    text
}

/// What retention did, or would do.
fn retained(report: &RetentionReport) -> String {
    let (begin, deleted, marked) = match report.dry_run {
        true => ("Retention would", "delete", "mark"),
        false => ("Retention has", "deleted", "marked"),
    };
    let size = |removal: &Removal| {
        let runs = match &removal.runs[..] {
            [] => String::new(),
            runs => format!(": {}", runs.join(", ")),
        };
        format!(
            "{} ({}){runs}",
            human::counted(removal.objects, "object", "objects"),
            human::bytes(removal.bytes)
        )
    };
    let mut text = String::new();
    if report.deleted.objects > 0 {
        text.push_str(&format!("{begin} {deleted} {}.\n", size(&report.deleted)));
    }
    if report.marked.objects > 0 {
        let later = "to be deleted after 24 hours";
        text.push_str(&format!(
            "{begin} {marked} {later} {}.\n",
            size(&report.marked)
        ));
    }
    if report.merged > 0 {
        let tiles = human::counted(report.merged, "larger one", "larger ones");
        let merged = if report.dry_run { "merge" } else { "merged" };
        text.push_str(&format!("{begin} {merged} small segments into {tiles}.\n"));
    }
    text
}

/// The last words of `prune`.
pub fn of_prune(archive: &ArchiveName, done: &retention::Done) -> String {
    let mut text = retained(&done.report);
    if text.is_empty() {
        text = format!("There is nothing to delete or merge in archive {archive}.\n");
    }
    if done.report.dry_run {
        for (what, keys) in [("delete", &done.deleted_keys), ("mark", &done.marked_keys)] {
            for key in keys {
                text.push_str(&format!("would {what} {key}\n"));
            }
        }
    }
    for warning in &done.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn topics(report: &Report) -> String {
    let rows: Vec<[String; 4]> = report
        .topics
        .iter()
        .take(TOPICS)
        .map(|topic| {
            [
                topic.topic.clone(),
                topic.partitions.to_string(),
                human::count(topic.records),
                human::bytes(topic.bytes),
            ]
        })
        .collect();
    let columns = [
        ("TOPIC", Align::Left),
        ("PARTITIONS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
    ];
    let mut text = table(columns, &rows);
    let more = report.topics.len().saturating_sub(TOPICS);
    if more > 0 {
        text.push_str(&format!(
            "and {} more\n",
            human::counted(more as u64, "topic", "topics")
        ));
    }
    text
}

fn failed(plan: &Plan, report: &Report, fault: Fault, message: &str) -> String {
    let run = &report.run.run;
    let verb = match plan {
        Plan::Backup(_) => "Backup",
        Plan::Restore(_) => "Restore",
        Plan::Offsets(plan) => operation(&plan.task),
    };
    let mut text = format!("{verb} {run} failed ({}): {message}\n", fault.reason());
    if let Some(offsets) = report.offsets.as_ref().filter(|one| !one.groups.is_empty()) {
        text.push_str(&carried(offsets));
    }
    if report.records > 0 {
        let records = human::counted(report.records, "record", "records");
        text.push_str(&format!(
            "{records} ({}) had been made durable and stay.\n",
            human::bytes(report.bytes)
        ));
    }
    // What is not repeated by itself in a Job is not worth repeating unchanged at a terminal either.
    if fault.is_retried() && report.records > 0 {
        text.push_str(&match plan {
            Plan::Backup(_) => format!("The same command with --run {run} goes on with it.\n"),
            Plan::Restore(_) | Plan::Offsets(_) => {
                "The same command goes on where it stopped.\n".to_owned()
            }
        });
    }
    text
}

fn operation(task: &OffsetsTask) -> &'static str {
    match task {
        OffsetsTask::Reset(_) => "Offset reset",
        OffsetsTask::Snapshot { .. } => "Offset snapshot",
        OffsetsTask::Rollback { .. } => "Offset rollback",
        OffsetsTask::Verify { .. } => "Offset verification",
        OffsetsTask::Delete { .. } => "Deletion of the offset snapshot",
    }
}

fn offsets_done(plan: &OffsetsPlan, report: &Report) -> String {
    let Some(offsets) = &report.offsets else {
        return String::new();
    };
    let snapshot = plan.task.snapshot().map_or("", |snapshot| &snapshot.id);
    let groups = human::counted(offsets.groups_done, "group", "groups");
    let begin = if offsets.dry_run {
        "Dry run: nothing was done. "
    } else {
        ""
    };
    let mut text = match &plan.task {
        OffsetsTask::Reset(_) | OffsetsTask::Rollback { .. } => String::new(),
        OffsetsTask::Snapshot { .. } => match &offsets.snapshot {
            Some(taken) => format!(
                "Snapshot {snapshot} of {groups} with {} is kept.\n",
                human::counted(taken.partitions, "committed offset", "committed offsets")
            ),
            None => format!("{begin}Snapshot {snapshot} would be of {groups}.\n"),
        },
        OffsetsTask::Verify { .. } => format!("{groups} have what snapshot {snapshot} has.\n"),
        OffsetsTask::Delete { .. } if offsets.dry_run => {
            format!("{begin}Snapshot {snapshot} would be deleted.\n")
        }
        OffsetsTask::Delete { .. } => format!("Snapshot {snapshot} is deleted.\n"),
    };
    if matches!(
        plan.task,
        OffsetsTask::Reset(_) | OffsetsTask::Rollback { .. }
    ) {
        text.push_str(&carried(offsets));
    }
    if let OffsetsTask::Reset(ResetTask {
        snapshot: Some(_), ..
    }) = &plan.task
        && !offsets.dry_run
    {
        text.push_str(&format!(
            "\nTake it back with offsets rollback --snapshot-id {snapshot}.\n"
        ));
    }
    text
}

/// What became of committed offsets: a line, notes of groups, and a table.
fn carried(offsets: &OffsetsReport) -> String {
    let line = offsets.line();
    let mut chars = line.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    let mut text = format!("{}{}.\n", first.unwrap_or_default(), chars.as_str());
    for result in offsets.groups.iter().take(ROWS) {
        if let Some(message) = &result.message {
            text.push_str(&format!("group {}: {message}\n", result.group));
        }
    }
    let table = changes(offsets);
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table);
    }
    text
}

/// A table of what changes; empty where nothing does.
pub fn changes(offsets: &OffsetsReport) -> String {
    if offsets.changes.is_empty() {
        return String::new();
    }
    let offset = |offset: Option<i64>| offset.map_or("-".to_owned(), |offset| offset.to_string());
    let rows: Vec<[String; 7]> = offsets
        .changes
        .iter()
        .take(ROWS)
        .map(|change| {
            [
                change.group.clone(),
                change.topic.clone(),
                change.partition.to_string(),
                offset(change.old),
                offset(change.new),
                offset(change.lag_before),
                match &change.note {
                    None => offset(change.lag_after),
                    Some(note) => format!("{}  ({note})", offset(change.lag_after)),
                },
            ]
        })
        .collect();
    let columns = [
        ("GROUP", Align::Left),
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("OLD", Align::Right),
        ("NEW", Align::Right),
        ("LAG BEFORE", Align::Right),
        ("LAG AFTER", Align::Left),
    ];
    let mut text = table(columns, &rows);
    let more = offsets.changes.len().saturating_sub(ROWS);
    if more > 0 {
        text.push_str(&format!(
            "and {} more; --output json has all\n",
            human::counted(more as u64, "partition", "partitions")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use kafka_backup_shared::plan;
    use kafka_backup_shared::report::{DryRun, HeldBack, RetentionHeld, TopicReport};
    use serde_json::json;

    fn plan() -> Plan {
        let object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup", "metadata": {"name": "orders"},
            "spec": {
                "kafkaCluster": {"bootstrapServers": ["kafka:9092"]}, "topics": ["*"],
                "storage": {"storageType": "s3", "s3": {"bucket": "backups"}},
            }
        });
        plan::backup(&serde_json::from_value(object).unwrap(), "orders-1").unwrap()
    }

    fn report(outcome: Outcome) -> Report {
        Report {
            run: plan().run().clone(),
            outcome,
            start_time: Timestamp::UNIX_EPOCH,
            completion_time: Timestamp::from_second(4).unwrap(),
            records: 2000,
            bytes: 4096,
            gaps: 1,
            new_gaps: 0,
            lag: None,
            retention: None,
            held_back: HeldBack::default(),
            retention_held: RetentionHeld::default(),
            backup_id: None,
            dry_run: None,
            offsets: None,
            warnings: vec!["look".into()],
            topics: vec![TopicReport {
                topic: "t".into(),
                partitions: 2,
                records: 2000,
                bytes: 4096,
            }],
        }
    }

    #[test]
    fn success_says_how_much_how_fast_and_how_to_use_it() {
        assert_eq!(
            of(&plan(), &report(Outcome::Success)),
            "Backup orders-1 of archive default/orders is complete: 2,000 records and 4.0 KiB added in 4.0 s (500 records/s, 1.0 KiB/s).\n\
             1 offset range is missing for good, gone from the source before they were captured.\n\
             warning: look\n\
             \n\
             TOPIC  PARTITIONS  RECORDS     SIZE\n\
             t               2    2,000  4.0 KiB\n\
             \n\
             Restore it with --backup-id orders-1.\n"
        );
    }

    #[test]
    fn what_retention_did_or_would_do_is_told() {
        let mut done = RetentionReport {
            deleted: Removal {
                runs: vec!["orders-1".into(), "orders-2".into()],
                objects: 1200,
                bytes: 4096,
            },
            merged: 1,
            ..RetentionReport::default()
        };
        assert_eq!(
            retained(&done),
            "Retention has deleted 1,200 objects (4.0 KiB): orders-1, orders-2.\n\
             Retention has merged small segments into 1 larger one.\n"
        );
        done = RetentionReport {
            dry_run: true,
            marked: Removal {
                runs: vec![],
                objects: 1,
                bytes: 10,
            },
            ..RetentionReport::default()
        };
        assert_eq!(
            retained(&done),
            "Retention would mark to be deleted after 24 hours 1 object (10 B).\n"
        );
        let done = retention::Done {
            report: done,
            marked_keys: vec!["runs/r/begin.json".into()],
            ..retention::Done::default()
        };
        let archive = ArchiveName {
            namespace: "default".into(),
            name: "orders".into(),
        };
        assert!(of_prune(&archive, &done).ends_with("would mark runs/r/begin.json\n"));
        assert_eq!(
            of_prune(&archive, &retention::Done::default()),
            "There is nothing to delete or merge in archive default/orders.\n"
        );
    }

    #[test]
    fn only_what_may_work_later_is_told_to_be_repeated() {
        for fault in Fault::ALL {
            let text = of(
                &plan(),
                &report(Outcome::Failure {
                    fault,
                    message: "no".into(),
                }),
            );
            assert!(
                text.contains(fault.reason()) && text.contains("2,000 records"),
                "{text}"
            );
            assert_eq!(
                text.contains("--run orders-1"),
                fault.is_retried(),
                "{text}"
            );
        }
    }

    #[test]
    fn a_dry_run_says_that_nothing_was_written() {
        let report = Report {
            dry_run: Some(DryRun {
                groups: 0,
                topics: 1,
                records: 2000,
                bytes: 4096,
            }),
            records: 0,
            ..report(Outcome::Success)
        };
        let text = of(&plan(), &report);
        assert!(
            text.contains(
                "2,000 records and 4.0 KiB would be written to 1 topic. Nothing was written."
            ),
            "{text}"
        );
    }
}
