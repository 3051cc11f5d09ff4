//! Lists and descriptions for people.

use std::time::Duration;

use jiff::Timestamp;
use kafka_backup_shared::archive::manifest::{GapReason, Manifest};

use super::{Description, PartitionEntry, RunEntry, State};
use crate::human::{self, Align, table};

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Partial => "partial",
            Self::Unfinished => "unfinished",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A table of runs; what is wrong with one stands below it.
pub fn list(entries: &[RunEntry], store: &str) -> String {
    if entries.is_empty() {
        return format!("There are no runs in {store}.\n");
    }
    let columns = [
        ("ARCHIVE", Align::Left),
        ("RUN", Align::Left),
        ("STATE", Align::Left),
        ("STARTED", Align::Left),
        ("TOOK", Align::Right),
        ("TOPICS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("NEW RECORDS", Align::Right),
        ("NEW SIZE", Align::Right),
    ];
    let rows: Vec<[String; 10]> = entries.iter().map(row).collect();
    let mut text = table(columns, &rows);
    for entry in entries {
        if entry.gaps > 0 {
            let gaps = human::counted(entry.gaps, "offset range is", "offset ranges are");
            text.push_str(&format!("{}: {gaps} missing for good\n", entry.run));
        }
        if let Some(problem) = &entry.problem {
            text.push_str(&format!("{}: {problem}\n", entry.run));
        }
    }
    text
}

fn row(entry: &RunEntry) -> [String; 10] {
    // An unfinished run has counted nothing yet: no number is better than a wrong one.
    let counted = matches!(entry.state, State::Complete | State::Partial);
    let number = |text: String| if counted { text } else { "-".into() };
    [
        entry.archive.clone(),
        entry.run.clone(),
        entry.state.as_str().into(),
        entry.start_time.map_or("-".into(), seconds),
        took(entry.start_time, entry.completion_time),
        if entry.state == State::Unreadable {
            "-".into()
        } else {
            human::count(entry.topics)
        },
        number(human::count(entry.records)),
        number(human::bytes(entry.bytes)),
        number(human::count(entry.added_records)),
        number(human::bytes(entry.added_bytes)),
    ]
}

/// RFC 3339 without a fraction.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn took(start: Option<Timestamp>, end: Option<Timestamp>) -> String {
    let duration = start
        .zip(end)
        .and_then(|(start, end)| Duration::try_from(end.duration_since(start)).ok());
    duration.map_or("-".into(), human::duration)
}

/// A run in full.
pub fn description(description: &Description) -> String {
    let entry = &description.entry;
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| text.push_str(&format!("{:<11}{value}\n", format!("{name}:")));
    line("Run", &entry.run);
    line("Archive", &entry.archive);
    line("State", entry.state.as_str());
    line("Started", &entry.start_time.map_or("-".into(), seconds));
    if let Some(end) = entry.completion_time {
        line(
            "Completed",
            &format!(
                "{} (took {})",
                seconds(end),
                took(entry.start_time, entry.completion_time)
            ),
        );
    }
    if let Some(begin) = &description.begin {
        line(
            "Cluster",
            &cluster(&begin.cluster_id, begin.source_cluster_id.as_deref()),
        );
        line("Base run", begin.base.as_deref().unwrap_or("none"));
        line(
            "Missing",
            &missing(&begin.missing_topics, begin.only_visible),
        );
        for (topic, reason) in &begin.failed {
            line("Failed", &format!("{topic}: {reason}"));
        }
        let rows: Vec<[String; 5]> = begin
            .topics
            .iter()
            .flat_map(|(topic, begin)| {
                begin.partitions.iter().map(move |partition| {
                    [
                        topic.clone(),
                        partition.partition.to_string(),
                        human::count(partition.log_start.unsigned_abs()),
                        human::count(partition.end.unsigned_abs()),
                        partition.generation.clone(),
                    ]
                })
            })
            .collect();
        let columns = [
            ("TOPIC", Align::Left),
            ("PARTITION", Align::Right),
            ("LOG START", Align::Right),
            ("END", Align::Right),
            ("GENERATION", Align::Left),
        ];
        text.push_str("\nWhat it set out to capture:\n");
        text.push_str(&table(columns, &rows));
    }
    if let Some(manifest) = &description.manifest {
        text.push_str(&captured(manifest, description));
    }
    text.push_str(&groups(description));
    text
}

fn groups(description: &Description) -> String {
    let rows: Vec<[String; 4]> = description
        .groups
        .iter()
        .map(|group| {
            [
                group.group.clone(),
                group.kind.as_str().into(),
                group.topics.to_string(),
                human::count(group.offsets),
            ]
        })
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    let columns = [
        ("CONSUMER GROUP", Align::Left),
        ("KIND", Align::Left),
        ("TOPICS", Align::Right),
        ("OFFSETS", Align::Right),
    ];
    format!("\n{}", table(columns, &rows))
}

fn cluster(id: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{name} ({id})"),
        None => id.to_owned(),
    }
}

fn missing(topics: &[String], only_visible: bool) -> String {
    let mut text = match topics {
        [] => "none".to_owned(),
        topics => topics.join(", "),
    };
    if only_visible {
        text.push_str(
            " (globs took what this user might describe; whether there was more is not known)",
        );
    }
    text
}

fn captured(manifest: &Manifest, description: &Description) -> String {
    let entry = &description.entry;
    let mut text = String::new();
    let mut line =
        |name: &str, value: &str| text.push_str(&format!("{:<11}{value}\n", format!("{name}:")));
    line(
        "Cluster",
        &cluster(&manifest.cluster_id, manifest.source_cluster_id.as_deref()),
    );
    line("Base run", manifest.base.as_deref().unwrap_or("none"));
    line(
        "Missing",
        &missing(&manifest.missing_topics, manifest.only_visible),
    );
    let size = |records, bytes| {
        format!(
            "{}, {}",
            human::counted(records, "record", "records"),
            human::bytes(bytes)
        )
    };
    line("Total", &size(entry.records, entry.bytes));
    line("New", &size(entry.added_records, entry.added_bytes));
    if let Some(groups) = &manifest.groups {
        let groups = human::counted(groups.groups, "consumer group", "consumer groups");
        line("Groups", &groups);
    }
    if !manifest.held_back.is_nothing() {
        let offsets = human::counted(manifest.held_back.offsets, "offset", "offsets");
        line("Held back", &format!("{offsets} behind open transactions"));
    }
    text.push_str(&format!(
        "\n{}\n{}",
        topics(manifest),
        partitions(description)
    ));
    for (topic, reason) in &manifest.failed {
        text.push_str(&format!("failed: {topic}: {reason}\n"));
    }
    for entry in &description.partitions {
        for gap in &entry.gaps {
            text.push_str(&format!(
                "gap: {}-{}: offsets {} to {} are missing for good: {}\n",
                entry.topic,
                entry.partition,
                gap.range.start,
                gap.range.end - 1,
                because(gap.reason)
            ));
        }
    }
    text
}

fn topics(manifest: &Manifest) -> String {
    let rows: Vec<[String; 7]> = manifest
        .topics
        .iter()
        .map(|(topic, summary)| {
            [
                topic.clone(),
                summary.topic_id.to_string(),
                summary.partitions.to_string(),
                human::count(summary.records),
                human::bytes(summary.bytes),
                human::count(summary.added_records),
                human::bytes(summary.added_bytes),
            ]
        })
        .collect();
    let columns = [
        ("TOPIC", Align::Left),
        ("ID", Align::Left),
        ("PARTITIONS", Align::Right),
        ("RECORDS", Align::Right),
        ("SIZE", Align::Right),
        ("NEW RECORDS", Align::Right),
        ("NEW SIZE", Align::Right),
    ];
    table(columns, &rows)
}

fn because(reason: GapReason) -> &'static str {
    match reason {
        GapReason::LogStartMoved => "the source had deleted them before they were captured",
    }
}

fn partitions(description: &Description) -> String {
    let rows: Vec<[String; 9]> = description.partitions.iter().map(partition_row).collect();
    let columns = [
        ("TOPIC", Align::Left),
        ("PARTITION", Align::Right),
        ("START", Align::Right),
        ("END", Align::Right),
        ("RECORDS", Align::Right),
        ("NEWEST RECORD", Align::Left),
        ("SEGMENTS", Align::Right),
        ("GAPS", Align::Right),
        ("GENERATION", Align::Left),
    ];
    table(columns, &rows)
}

fn partition_row(entry: &PartitionEntry) -> [String; 9] {
    [
        entry.topic.clone(),
        entry.partition.to_string(),
        human::count(entry.start.unsigned_abs()),
        human::count(entry.end.unsigned_abs()),
        human::count(entry.records),
        entry.newest_record.map_or("-".into(), seconds),
        human::count(entry.segments),
        entry.gaps.len().to_string(),
        entry.generation.clone(),
    ]
}
