//! Compares what a restore wrote with the archive it wrote from, record by record, as another client than ours reads it.
//!
//! ```text
//! find     which restore: plan.json                     -> RestoreDecision, pinned segments, base offsets, counts
//! expected (of the restore) what it sent, decoded       -> records, in the order of each target partition
//! look     ids, configs, log starts and ends            -> Target, Task
//! reader   (of the crate) rdkafka                       -> the records that are there
//! compare  offset, key, value, headers, timestamp       -> Difference
//! lanes    all of it, partition by partition            -> Compared
//! ```
//!
//! # Guarantees
//! - Nothing is written, in the store or in the cluster.
//! - Whatever differs is told with its place, and does not hide other differences. What was not compared is told too.
//! - A store or cluster that does not answer is no difference: the comparison fails, and says nothing.
//! - Memory, for each of two partitions: one segment, one batch decoded, what rdkafka reads ahead (4 MiB), and for a compacted
//!   target at most one entry of a hash map (some 40 bytes) per key. With segments of 16 MiB the process takes some 110 MiB.
//!
//! # Assumptions
//! - Where records were dealt out by key, each target partition is made of all source partitions, and the archive is read as often
//!   as there are target partitions. What follows a segment that cannot be read and whose name does not tell how many of its records
//!   count is read once more, to know where it stands in the target.

mod compare;
mod fields;
pub(crate) mod find;
mod lanes;
mod look;
pub mod show;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::plan::ArchiveName;
use kafka_backup_shared::report::Fault;
use serde::Serialize;

use crate::context::Progress;
use crate::kafka::{Client, ClientConfig, KafkaError};
use crate::reader::ReaderError;
use crate::restore::{RestoreError, expected};
use crate::store::{Store, StoreError};

pub use compare::{Difference, Field};
use lanes::Work;
use look::{Looked, look, tasks, topic_differs};

/// What our clients are called in brokers' logs.
pub(crate) const CLIENT_ID: &str = "kafka-backup-verify";

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum AgainstError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A plan cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// What the restore sent cannot be told.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// No restore is called so.
    #[error("no restore {restore:?} in {store} has begun to write; there is {there}")]
    NoRestore {
        /// What was asked for.
        restore: String,
        /// Which store.
        store: String,
        /// What is there.
        there: String,
    },
    /// Several are.
    #[error("several restores are called {restore:?}, choose one by its uid: {there}")]
    Ambiguous {
        /// What was asked for.
        restore: String,
        /// Those that are.
        there: String,
    },
    /// Another cluster than the restore's.
    #[error("expected cluster {expected}, which the restore wrote to, found {found}")]
    OtherCluster {
        /// Id of the restore's target.
        expected: String,
        /// Id of the cluster that was named.
        found: String,
    },
    /// The cluster.
    #[error("failed to {step}")]
    Kafka {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The reader.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// A task of ours panicked.
    #[error("a part of the worker failed")]
    Task(#[from] tokio::task::JoinError),
}

impl AgainstError {
    fn kafka(step: &'static str) -> impl Fn(KafkaError) -> Self {
        move |source| Self::Kafka { step, source }
    }

    /// What it means for the exit code.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Format(_) => Fault::Corrupt,
            Self::Restore(error) => error.fault(),
            Self::NoRestore { .. } | Self::Ambiguous { .. } | Self::OtherCluster { .. } => {
                Fault::Spec
            }
            Self::Kafka { source, .. } => source.fault(),
            Self::Reader(error) => error.fault(),
            Self::Task(_) => Fault::Bug,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparisons {
    /// The archive, `<namespace>/<name>`.
    pub archive: String,
    /// Uid of the restore.
    pub restore: String,
    /// Its name.
    pub restore_name: String,
    /// Run id of the backup that it restores.
    pub backup_id: String,
    /// Id of the target cluster.
    pub cluster_id: String,
    /// Whether the restore has said that it is done.
    pub complete: bool,
    /// Its topics.
    pub topics: Vec<ComparedTopic>,
    /// What differs.
    pub problems: Vec<Difference>,
    /// Differences beyond those that are listed of each partition.
    pub problems_not_listed: u64,
}

/// A topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComparedTopic {
    /// Its name in the target.
    pub topic: String,
    /// Its name in the archive.
    pub source: String,
    /// Target partitions that were compared.
    pub partitions: u64,
    /// Records that were compared, field by field.
    pub records: u64,
    /// Records that the target's compaction has taken, as it may.
    pub compacted: u64,
    /// Compared records whose headers were not: librdkafka cannot give their keys.
    pub headers_not_compared: u64,
    /// Differences, also those that are not listed.
    pub problems: u64,
}

/// Compares the target of a restore, which `config` reaches, with the archive. `name` is its uid, its name or `<namespace>.<name>`.
///
/// # Errors
/// [`AgainstError`]; a difference is no error, it is in the result.
pub async fn against(
    store: &Store,
    archive: Option<&ArchiveName>,
    name: &str,
    config: ClientConfig,
    progress: &Arc<Progress>,
) -> Result<Comparisons, AgainstError> {
    store.check_readable().await?;
    let found = find::restore(store, archive, name).await?;
    let decision = &found.decision;
    let uid = &decision.run.uid;
    let done = store.head(&found.layout.restore_done(uid)).await?;
    let client = Client::connect(config)
        .await
        .map_err(AgainstError::kafka("reach the target cluster"))?;
    if client.cluster_id() != decision.target_cluster_id {
        return Err(AgainstError::OtherCluster {
            expected: decision.target_cluster_id.clone(),
            found: client.cluster_id().to_owned(),
        });
    }
    let looked = look(&client, &decision.topics).await?;
    let mut topics = Vec::new();
    let mut problems = Vec::new();
    let mut work = VecDeque::new();
    for ((source, topic), looked) in decision.topics.iter().zip(looked) {
        let mut compared = ComparedTopic {
            topic: topic.target.clone(),
            source: source.clone(),
            ..ComparedTopic::default()
        };
        match looked {
            Looked::Another(difference) => {
                compared.problems = 1;
                problems.push(difference);
            }
            Looked::Same(there) => {
                let expected = expected(&found.layout, decision, source, topic)?;
                work.extend(tasks(topics.len(), topic, &there, expected));
            }
        }
        topics.push(compared);
    }
    for (source, reason) in &decision.failed {
        let target = decision.request.target(source);
        topics.push(ComparedTopic {
            topic: target.to_owned(),
            source: source.clone(),
            problems: 1,
            ..ComparedTopic::default()
        });
        let reason = format!("it was not restored: {reason}");
        problems.push(topic_differs(target, Field::Topic, None, reason));
    }
    let planned = work.iter().map(|task| task.target.records).sum();
    progress.plan(planned, 0);
    let work = Work {
        store: store.clone(),
        client,
        progress: progress.clone(),
        plan: found.layout.restore_plan(uid),
        tasks: Mutex::new(work),
    };
    let compared = work.run().await?;
    let mut problems_not_listed = 0;
    for one in compared {
        let topic = &mut topics[one.topic];
        topic.partitions += 1;
        topic.records += one.counts.compared;
        topic.compacted += one.counts.compacted;
        topic.headers_not_compared += one.counts.headers_not_compared;
        topic.problems += one.counts.problems;
        problems_not_listed += one.counts.problems - one.differences.len() as u64;
        problems.extend(one.differences);
    }
    Ok(Comparisons {
        archive: found.archive.to_string(),
        restore: uid.clone(),
        restore_name: decision.run.name.clone(),
        backup_id: decision.backup_id.clone(),
        cluster_id: decision.target_cluster_id.clone(),
        complete: done.is_some(),
        topics,
        problems,
        problems_not_listed,
    })
}
