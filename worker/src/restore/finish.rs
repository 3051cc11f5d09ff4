//! When the data is in: the source's configs, and what the user is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::manifest::{Gap, TopicPart};
use kafka_backup_shared::archive::restore::{Done, RestoreDecision, RestoredTopicDecision};
use kafka_backup_shared::report::{TopicReport, error_chain};

use super::configs;
use super::error::RestoreError;
use crate::context::Completed;
use crate::kafka::{Client, ConfigChange, ConfigOperation, KafkaError, ResponseError};

/// Gives created topics their final configs, but for those that were left out; what the target does not take comes back as warnings.
pub(super) async fn apply_configs(
    decision: &RestoreDecision,
    left_out: &BTreeMap<String, String>,
    client: &Client,
) -> Result<Vec<String>, RestoreError> {
    let mut warnings = Vec::new();
    let changes: Vec<(Arc<str>, Vec<ConfigChange>)> = decision
        .topics
        .iter()
        .filter(|(source, _)| !left_out.contains_key(*source))
        .filter_map(|(_, topic)| {
            let finals = topic.final_configs.as_ref()?;
            Some((Arc::from(topic.target.as_str()), changes(finals)))
        })
        .collect();
    if changes.is_empty() {
        return Ok(warnings);
    }
    let results = alter(&changes, client).await?;
    for ((topic, changes), result) in changes.iter().zip(results) {
        match result {
            Ok(()) => {}
            // A topic's changes are made together or not at all: the rest is not to suffer from the one that is refused.
            Err(error) if is_refusal(&error) => {
                warnings.extend(apply_singly(topic, changes, client).await?);
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(warnings)
}

fn failed(source: KafkaError) -> RestoreError {
    RestoreError::Kafka {
        step: "set the configs of the target topics",
        source,
    }
}

async fn alter(
    changes: &[(Arc<str>, Vec<ConfigChange>)],
    client: &Client,
) -> Result<Vec<Result<(), KafkaError>>, RestoreError> {
    client.alter_topic_configs(changes).await.map_err(failed)
}

async fn apply_singly(
    topic: &Arc<str>,
    changes: &[ConfigChange],
    client: &Client,
) -> Result<Vec<String>, RestoreError> {
    let mut warnings = Vec::new();
    for change in changes {
        let one = [(topic.clone(), vec![change.clone()])];
        for result in alter(&one, client).await? {
            match result {
                Ok(()) => {}
                Err(error) if is_refusal(&error) => {
                    let name = &change.name;
                    warnings.push(format!(
                        "topic {topic}: the target does not take the source's {name}: {}",
                        error_chain(&error)
                    ));
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(warnings)
}

fn is_refusal(error: &KafkaError) -> bool {
    matches!(
        error.code(),
        Some(
            ResponseError::InvalidConfig
                | ResponseError::PolicyViolation
                | ResponseError::InvalidRequest
        )
    )
}

fn changes(final_configs: &BTreeMap<String, Option<String>>) -> Vec<ConfigChange> {
    let change = |(name, value): (&String, &Option<String>)| ConfigChange {
        name: name.clone(),
        operation: match value {
            Some(value) => ConfigOperation::Set(value.clone()),
            None => ConfigOperation::Delete,
        },
    };
    final_configs.iter().map(change).collect()
}

/// A restore that was complete before this attempt.
pub(super) fn repeated(done: &Done) -> Completed {
    let mut warnings = done.warnings.clone();
    warnings.push(format!(
        "nothing was written: this restore was complete at {}; to restore again, use an object of another name",
        done.completion_time
    ));
    Completed {
        records: done.records,
        bytes: done.bytes,
        gaps: done.gaps,
        retention_held: done.retention_held.clone(),
        warnings,
        topics: done.topics.clone(),
        ..Completed::default()
    }
}

/// `done.json` of a restore that completed at `now`.
pub(super) fn done(completed: &Completed, now: Timestamp) -> Done {
    Done {
        format_version: FORMAT_VERSION,
        completion_time: now,
        records: completed.records,
        bytes: completed.bytes,
        gaps: completed.gaps,
        warnings: completed.warnings.clone(),
        topics: completed.topics.clone(),
        retention_held: completed.retention_held.clone(),
    }
}

/// What the restore did, as a function of what was decided.
pub(super) fn completed(
    decision: &RestoreDecision,
    parts: &BTreeMap<String, TopicPart>,
    bootstrap_servers: &[String],
) -> Completed {
    let mut completed = Completed::default();
    let whose = decision.request.topic_config;
    for (source, topic) in &decision.topics {
        let report = TopicReport {
            topic: topic.target.clone(),
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
            records: topic.partitions.iter().map(|p| p.records).sum(),
            bytes: topic.sources.iter().map(|s| s.bytes).sum(),
        };
        completed.records += report.records;
        completed.bytes += report.bytes;
        completed.topics.push(report);
        let held = topic.held_configs.iter().map(|(name, value)| {
            configs::held_warning(&topic.target, name, value, whose, bootstrap_servers)
        });
        let held: Vec<String> = held.collect();
        if let Some(first) = held.first() {
            if completed.retention_held.is_nothing() {
                completed.retention_held.example = first.clone();
            }
            completed.retention_held.topics += 1;
        }
        completed.warnings.extend(held);
        let Some(part) = parts.get(source) else {
            continue;
        };
        if let Some(finals) = &topic.final_configs {
            let notes = configs::notes(&topic.target, &part.description, finals);
            completed.warnings.extend(notes);
        }
        if !decision.request.time.is_unbounded() && configs::is_compacted(&part.description) {
            completed.warnings.push(format!(
                "topic {}: its source is compacted; values that newer ones had replaced before the backup are not in it, whatever the time",
                topic.target
            ));
        }
        let gaps = gaps(part, topic);
        completed.gaps += gaps;
        if gaps > 0 {
            completed.warnings.push(format!(
                "topic {}: the backup lacks {gaps} offset ranges, which were gone from the source before they were captured",
                topic.target
            ));
        }
    }
    completed
}

/// Gaps among the offsets that are restored.
fn gaps(part: &TopicPart, topic: &RestoredTopicDecision) -> u64 {
    let gaps = part.partitions.iter().zip(&topic.sources);
    let gaps = gaps.flat_map(|(pinned, source)| {
        let wanted = source.range;
        let within = move |gap: &&Gap| gap.range.start < wanted.end && gap.range.end > wanted.start;
        pinned.gaps.iter().filter(within)
    });
    gaps.count() as u64
}

/// Tells which topics lost the difference between append time and create time.
pub(super) fn append_time_warning(
    decision: &RestoreDecision,
    parts: &BTreeMap<String, TopicPart>,
    seen: &BTreeSet<String>,
) -> Option<String> {
    let concerned = |source: &String| {
        let said = parts
            .get(source)
            .is_some_and(|part| configs::has_append_time(&part.description));
        said || seen.contains(source)
    };
    let topics: Vec<&str> = decision
        .topics
        .iter()
        .filter(|(source, _)| concerned(source))
        .map(|(_, topic)| topic.target.as_str())
        .collect();
    (!topics.is_empty()).then(|| {
        format!(
            "topics {}: append times of the source (LogAppendTime) came back as create times",
            topics.join(", ")
        )
    })
}
