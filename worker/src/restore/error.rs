//! Why a restore did not succeed.

use std::collections::BTreeMap;

use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::Fault;

use super::batches::SegmentError;
use crate::human::some;
use crate::kafka::KafkaError;
use crate::store::StoreError;

/// A failure of a restore, named by the step.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What the object asks for cannot be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The store.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// An object of the archive is damaged, or too new.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The target cluster.
    #[error("failed to {step}")]
    Kafka {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// A segment cannot be read as record batches.
    #[error("failed to read segment {key}")]
    Segment {
        /// Its key.
        key: String,
        /// Why.
        #[source]
        source: SegmentError,
    },
    /// What is left of the archive was restored.
    #[error(
        "{} of {topics} topics could not be restored, since the archive has lost something of them: {}",
        failed.len(), named(failed)
    )]
    Incomplete {
        /// Topics that were asked for.
        topics: usize,
        /// Those that failed, by source name, with the reason.
        failed: BTreeMap<String, String>,
    },
    /// The target is not as this restore left it.
    #[error(
        "target topic {topic} partition {partition}: expected {expected}, found {found}; something else writes there, and nothing more is written"
    )]
    Foreign {
        /// The target topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// No record was acknowledged for long.
    #[error(
        "nothing got on in target topic {topic} partition {partition} for {seconds} s: {reason}"
    )]
    Stalled {
        /// The target topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// For how long.
        seconds: u64,
        /// The last thing that went wrong.
        reason: String,
    },
    /// The offset map has no piece yet for records that are to be restored.
    #[error(
        "the restore is not complete: it has not told in {key} where the records of topic {topic} partition {partition} at \
         source offsets {start} to {end} are"
    )]
    NotMapped {
        /// Key of the piece that is missing.
        key: String,
        /// The source topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// First source offset of the segment that counts.
        start: i64,
        /// The source offset after the last one.
        end: i64,
    },
    /// Another worker writes this restore.
    #[error("another worker has taken over this restore")]
    TakenOver,
    /// Told to stop.
    #[error("interrupted before the restore was complete; the next attempt goes on from here")]
    Interrupted,
    /// A task of ours ended in a way that it cannot.
    #[error("{0}")]
    Bug(String),
}

/// Topics that a message names.
const NAMED: usize = 5;

fn named(failed: &BTreeMap<String, String>) -> String {
    let named = failed.iter();
    let named = named.map(|(topic, reason)| format!("topic {topic}: {reason}"));
    some(&named.collect::<Vec<_>>(), NAMED)
}

impl From<StoreError> for RestoreError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl RestoreError {
    /// A failed step at the target cluster.
    pub(super) fn kafka(step: &'static str) -> impl Fn(KafkaError) -> Self {
        move |source| Self::Kafka { step, source }
    }

    /// A damaged object of the archive.
    pub(super) fn damaged(object: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format(FormatError::Damaged {
            object: object.into(),
            reason: reason.into(),
        })
    }

    /// A segment that the archive no longer has.
    pub(super) fn lost(key: impl Into<String>) -> Self {
        Self::damaged(key, "a backup pins it, and it is missing")
    }

    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Spec(_) => Fault::Spec,
            Self::Store(error) => error.fault(),
            Self::Kafka { source, .. } => source.fault(),
            Self::Segment { source, .. } => match source {
                SegmentError::TooLarge { .. } => Fault::Spec,
                SegmentError::Batch(_)
                | SegmentError::Records { .. }
                | SegmentError::Trailing { .. } => Fault::Corrupt,
            },
            Self::Format(_) | Self::Foreign { .. } | Self::Incomplete { .. } => Fault::Corrupt,
            Self::Stalled { .. } | Self::NotMapped { .. } | Self::TakenOver => Fault::Unavailable,
            Self::Interrupted => Fault::Interrupted,
            Self::Bug(_) => Fault::Bug,
        }
    }
}
