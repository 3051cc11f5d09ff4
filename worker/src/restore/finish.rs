//! When the data is in: the source's configs, and what the user is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_backup_shared::archive::manifest::TopicPart;
use kafka_backup_shared::archive::restore::RestoreDecision;
use kafka_backup_shared::report::{TopicReport, error_chain};

use super::configs;
use super::decide::wanted_offsets;
use super::error::RestoreError;
use super::units::Unit;
use crate::context::Completed;
use crate::kafka::{Client, ConfigChange, ConfigOperation, KafkaError, ResponseError};

/// Gives created topics their final configs; what the target does not take comes back as warnings.
pub(super) async fn apply_configs(
    decision: &RestoreDecision,
    client: &Client,
) -> Result<Vec<String>, RestoreError> {
    let mut warnings = Vec::new();
    let changes: Vec<(Arc<str>, Vec<ConfigChange>)> = decision
        .topics
        .values()
        .filter(|topic| topic.created)
        .map(|topic| {
            (
                Arc::from(topic.target.as_str()),
                changes(&topic.final_configs),
            )
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

fn changes(final_configs: &BTreeMap<String, String>) -> Vec<ConfigChange> {
    let set = final_configs.iter().map(|(name, value)| ConfigChange {
        name: name.clone(),
        operation: ConfigOperation::Set(value.clone()),
    });
    let resets = configs::resets(final_configs)
        .into_iter()
        .map(|name| ConfigChange {
            name,
            operation: ConfigOperation::Delete,
        });
    set.chain(resets).collect()
}

/// What the restore did, as a function of what was decided.
pub(super) fn completed(
    decision: &RestoreDecision,
    parts: &BTreeMap<String, TopicPart>,
    units: &[Unit],
    bootstrap_servers: &[String],
) -> Completed {
    let mut completed = Completed::default();
    let mut bytes: BTreeMap<&str, u64> = BTreeMap::new();
    for unit in units {
        let sizes = unit.pieces.iter().map(|piece| piece.size);
        *bytes.entry(&unit.source).or_default() += sizes.sum::<u64>();
    }
    for (source, topic) in &decision.topics {
        let report = TopicReport {
            topic: topic.target.clone(),
            partitions: u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX),
            records: topic
                .partitions
                .iter()
                .map(|partition| partition.records)
                .sum(),
            bytes: bytes.get(source.as_str()).copied().unwrap_or_default(),
        };
        completed.records += report.records;
        completed.bytes += report.bytes;
        completed.topics.push(report);
        for (name, value) in &topic.held_configs {
            let warning = configs::held_warning(&topic.target, name, value, bootstrap_servers);
            completed.warnings.push(warning);
        }
        let Some(part) = parts.get(source) else {
            continue;
        };
        completed.warnings.extend(configs::notes(
            &topic.target,
            &part.description,
            &topic.final_configs,
        ));
        let gaps = gaps(part);
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
fn gaps(part: &TopicPart) -> u64 {
    let gaps = part.partitions.iter().flat_map(|pinned| {
        let wanted = wanted_offsets(pinned);
        pinned
            .gaps
            .iter()
            .filter(move |gap| gap.range.start < wanted.end && gap.range.end > wanted.start)
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
