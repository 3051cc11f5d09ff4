//! Why a backup did not succeed.

use std::collections::BTreeMap;

use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::{Fault, error_chain};

use crate::human;
use crate::kafka::KafkaError;
use crate::store::StoreError;

/// A failure of a backup, named by the step.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source cluster did not do its part.
    #[error("failed to {step}")]
    Kafka {
        /// What was asked of it.
        step: &'static str,
        /// Its answer.
        #[source]
        source: KafkaError,
    },
    /// The store did not do its part.
    #[error("the archive cannot be used")]
    Store(#[from] StoreError),
    /// An object of the archive cannot be read.
    #[error("the archive is damaged or newer than this release")]
    Format(#[from] FormatError),
    /// The archive lacks what a manifest pins, and the source no longer has it.
    #[error("the archive {archive} is damaged: {what}")]
    Damaged {
        /// Its key.
        archive: String,
        /// What is missing.
        what: String,
    },
    /// The run was given up for so long that retention took what it builds on.
    #[error("{run} continues the backup {base}, which is no longer in the archive: make a new run")]
    BaseGone {
        /// Run id.
        run: String,
        /// The run that it continues.
        base: String,
    },
    /// One archive, one source cluster.
    #[error(
        "the archive {archive} is a copy of the cluster {expected}{}, but the brokers belong to the cluster {found}: one KafkaBackup keeps one cluster, make another one{}",
        name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default(),
        name.as_ref().map(|name| format!(", or set sourceClusterId: {name} if it is the same source")).unwrap_or_default()
    )]
    OtherCluster {
        /// Its key.
        archive: String,
        /// Cluster id in `archive.json`.
        expected: String,
        /// Name of the source in `archive.json`.
        name: Option<String>,
        /// The brokers' cluster id.
        found: String,
    },
    /// A run began on another cluster of the same name.
    #[error(
        "the run {run} began on the cluster {expected}, but the brokers belong to the cluster {found}: make a new run"
    )]
    OtherClusterInRun {
        /// Run id.
        run: String,
        /// Cluster id in `begin.json`.
        expected: String,
        /// The brokers' cluster id.
        found: String,
    },
    /// Patterns without a topic.
    #[error("no topic matches [{}] in a cluster of {existing} topics that this user may see", patterns.join(", "))]
    NoTopicMatches {
        /// What was asked for.
        patterns: Vec<String>,
        /// How many topics there are, internal ones not counted.
        existing: usize,
    },
    /// Names without a topic.
    #[error(
        "there is no topic {} in the cluster, or this user may not describe it; to take the others set missingTopics: Ignore",
        names.join(", ")
    )]
    MissingTopics {
        /// The names.
        names: Vec<String>,
    },
    /// Names that listings leave out.
    #[error(
        "this user may not describe {}, and would back up without it: grant Read, Describe and DescribeConfigs on it, name it in \
         excludeTopics, or set missingTopics: Ignore",
        human::some(names, 10)
    )]
    HiddenTopics {
        /// The names.
        names: Vec<String>,
    },
    /// A pattern is not valid.
    #[error("the plan cannot be obeyed")]
    Plan(#[from] SpecError),
    /// Some topics, or all, could not be captured.
    #[error("{}", failed_line(failed, *complete, run))]
    Topics {
        /// The failed ones.
        failed: BTreeMap<String, TopicFailure>,
        /// How many are complete, and can be restored by the run's id.
        complete: usize,
        /// Run id.
        run: String,
    },
    /// The worker was told to stop.
    #[error("interrupted: what is stored stays, the next attempt goes on from there")]
    Interrupted,
    /// A task of ours panicked.
    #[error("a part of the worker failed")]
    Task(#[from] tokio::task::JoinError),
}

/// Why a topic could not be captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFailure {
    /// What it means.
    pub fault: Fault,
    /// In words, partition included where it is one's.
    pub message: String,
}

impl TopicFailure {
    pub(super) fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self {
            fault,
            message: message.into(),
        }
    }

    pub(super) fn of_kafka(error: &KafkaError) -> Self {
        Self::new(error.fault(), error_chain(error))
    }
}

impl BackupError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Kafka { source, .. } => source.fault(),
            Self::Store(source) => source.fault(),
            Self::Format(_) | Self::Damaged { .. } => Fault::Corrupt,
            Self::BaseGone { .. }
            | Self::OtherCluster { .. }
            | Self::OtherClusterInRun { .. }
            | Self::NoTopicMatches { .. }
            | Self::MissingTopics { .. }
            | Self::Plan(_) => Fault::Spec,
            Self::HiddenTopics { .. } => Fault::Denied,
            Self::Topics { failed, .. } => of_topics(failed),
            Self::Interrupted => Fault::Interrupted,
            Self::Task(_) => Fault::Bug,
        }
    }
}

/// Adds the step to a Kafka error.
pub(super) fn kafka(step: &'static str) -> impl FnOnce(KafkaError) -> BackupError {
    move |source| BackupError::Kafka { step, source }
}

/// Final only where no topic can be completed by another attempt; then the most severe.
fn of_topics(failed: &BTreeMap<String, TopicFailure>) -> Fault {
    let faults = || failed.values().map(|failure| failure.fault);
    let retried = faults().filter(|fault| fault.is_retried()).max();
    retried.or_else(|| faults().max()).unwrap_or(Fault::Bug)
}

fn failed_line(failed: &BTreeMap<String, TopicFailure>, complete: usize, run: &str) -> String {
    const NAMED: usize = 10;
    let mut lines: Vec<String> = failed
        .iter()
        .take(NAMED)
        .map(|(topic, failure)| format!("{topic}: {}", failure.message))
        .collect();
    if failed.len() > NAMED {
        lines.push(format!("and {} more", failed.len() - NAMED));
    }
    let all = failed.len() + complete;
    let rest = match complete {
        0 => String::new(),
        _ => format!("; the other {complete} can be restored from {run}"),
    };
    format!(
        "failed to capture {} of {all} topics: {}{rest}",
        failed.len(),
        lines.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_run_is_final_where_every_failed_topic_is() {
        use Fault::{Corrupt, Denied, Spec, Unavailable};
        let cases = [
            (&[Spec][..], Spec),
            (&[Spec, Corrupt, Denied], Corrupt),
            (&[Unavailable], Unavailable),
            (&[Spec, Unavailable], Unavailable),
        ];
        for (faults, expected) in cases {
            let failure = |(at, fault): (usize, &Fault)| {
                (format!("topic-{at}"), TopicFailure::new(*fault, "reason"))
            };
            let error = BackupError::Topics {
                failed: faults.iter().enumerate().map(failure).collect(),
                complete: 1,
                run: "orders-1".into(),
            };
            assert_eq!(error.fault(), expected, "{faults:?}");
        }
    }
}
