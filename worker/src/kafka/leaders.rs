//! Bulk questions to the leaders of many partitions.
//!
//! # Guarantees
//! - One request per leader, all leaders at once; results stand in the order of the partitions, each with its own error.
//! - A leader that moved is followed, with fresh metadata, for the client's `retry_timeout`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;

use super::client::Client;
use super::error::{KafkaError, chain};
use super::fetch::EpochEnd;
use super::metadata::{LedPartition, TopicFilter};
use super::offsets::{ListedOffset, OffsetSpec, PartitionEpoch, PerPartition};
use super::retry::Retry;
use super::wire::{Connection, InFlight};

impl Client {
    /// An offset of each partition, in the order given; each partition has its own error.
    ///
    /// Leaders and epochs are followed when they are no longer those of `partitions`.
    pub async fn list_offsets(
        &self,
        partitions: &[LedPartition],
        spec: OffsetSpec,
    ) -> PerPartition<ListedOffset> {
        self.per_leader(partitions, |connection, _, asked| {
            connection.list_offsets(asked, spec)
        })
        .await
    }

    /// Deletes the records before an offset of each partition, given with it; gives the log starts.
    pub async fn delete_records(&self, before: &[(LedPartition, i64)]) -> PerPartition<i64> {
        let partitions: Vec<_> = before.iter().map(|(p, _)| p.clone()).collect();
        self.per_leader(&partitions, |connection, indices, asked| {
            let before = indices.iter().zip(asked).map(|(index, partition)| {
                let offset = before.get(*index).map_or(0, |(_, offset)| *offset);
                (partition.clone(), offset)
            });
            connection.delete_records(&before.collect::<Vec<_>>())
        })
        .await
    }

    /// Where epochs ended, in the order given; `None`: the leader knows nothing at or below that epoch.
    pub async fn epoch_ends(&self, epochs: &[PartitionEpoch]) -> PerPartition<Option<EpochEnd>> {
        let partitions: Vec<_> = epochs.iter().map(|e| e.partition.clone()).collect();
        self.per_leader(&partitions, |connection, indices, asked| {
            let epochs = indices.iter().zip(asked).map(|(index, partition)| {
                let epoch = epochs.get(*index).map_or(-1, |e| e.epoch);
                let partition = partition.clone();
                PartitionEpoch { partition, epoch }
            });
            connection.epoch_ends(&epochs.collect::<Vec<_>>())
        })
        .await
    }

    /// One request per leader, all leaders at once; again with fresh metadata for those that failed in a way that passes.
    ///
    /// `ask` gets the indices into `partitions` and those partitions with the leader and epoch known now.
    async fn per_leader<T>(
        &self,
        partitions: &[LedPartition],
        ask: impl Fn(
            &Connection,
            &[usize],
            &[LedPartition],
        ) -> Result<InFlight<PerPartition<T>>, KafkaError>,
    ) -> PerPartition<T> {
        let mut led = partitions.to_vec();
        let mut results: Vec<Option<Result<T, KafkaError>>> =
            partitions.iter().map(|_| None).collect();
        let mut open: Vec<usize> = (0..partitions.len()).collect();
        let mut retry = Retry::new(self.config().retry_timeout);
        loop {
            let mut leaders: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
            for index in open.drain(..) {
                leaders.entry(led[index].leader).or_default().push(index);
            }
            let asked = leaders.iter().map(|(leader, indices)| {
                let asked: Vec<_> = indices.iter().map(|index| led[*index].clone()).collect();
                let ask = &ask;
                async move {
                    let connection = self.connection(*leader).await?;
                    ask(&connection, indices, &asked)?.await
                }
            });
            let answers = join_all(asked).await;
            for (indices, answer) in leaders.values().zip(answers) {
                match answer {
                    Ok(answers) => {
                        for (index, answer) in indices.iter().zip(answers) {
                            results[*index] = Some(answer);
                        }
                    }
                    Err(error) => {
                        for index in indices {
                            results[*index] = Some(Err(error.clone()));
                        }
                    }
                }
            }
            open = (0..partitions.len())
                .filter(
                    |index| matches!(&results[*index], Some(Err(error)) if error.is_retriable()),
                )
                .collect();
            let first_error = open.iter().find_map(|index| match &results[*index] {
                Some(Err(error)) => Some(error.clone()),
                Some(Ok(_)) | None => None,
            });
            let Some(first_error) = first_error else {
                break;
            };
            if retry.pause_or_fail(first_error).await.is_err() {
                break;
            }
            // When nobody answers, the next round asks the leaders known before.
            if let Err(error) = self.follow_leaders(&mut led, &open).await {
                tracing::debug!(error = %chain(&error), "metadata not refreshed");
            }
        }
        results.into_iter().flatten().collect()
    }

    /// Brings leaders and epochs of the partitions at `indices` up to date, where they are known.
    async fn follow_leaders(
        &self,
        led: &mut [LedPartition],
        indices: &[usize],
    ) -> Result<(), KafkaError> {
        let mut names: Vec<_> = indices.iter().map(|i| led[*i].topic.clone()).collect();
        names.sort();
        names.dedup();
        let topics = self.topics(&TopicFilter::Named(names)).await?;
        let found: HashMap<(Arc<str>, i32), LedPartition> = topics
            .iter()
            .flat_map(|topic| topic.partitions.iter().map(|p| p.led(&topic.name)))
            .filter_map(Result::ok)
            .map(|p| ((p.topic.clone(), p.partition), p))
            .collect();
        for index in indices {
            let place = (led[*index].topic.clone(), led[*index].partition);
            if let Some(partition) = found.get(&place) {
                led[*index] = partition.clone();
            }
        }
        Ok(())
    }
}
