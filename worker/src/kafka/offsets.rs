//! Where partitions start and end: ListOffsets and OffsetForLeaderEpoch, many partitions at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ParseResponseErrorCode;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::{
    ApiKey, BrokerId, DeleteRecordsRequest, ListOffsetsRequest, OffsetForLeaderEpochRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::error::{KafkaError, Subject};
use super::fetch::EpochEnd;
use super::metadata::LedPartition;
use super::wire::{Connection, InFlight};

/// What a reader may see of transactions that are not committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Everything below the high watermark.
    ReadUncommitted,
    /// Everything below the last stable offset.
    ReadCommitted,
}

impl IsolationLevel {
    pub(crate) fn code(self) -> i8 {
        match self {
            Self::ReadUncommitted => 0,
            Self::ReadCommitted => 1,
        }
    }
}

/// Which offset of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log start offset.
    Earliest,
    /// The high watermark (`ReadUncommitted`) or the last stable offset (`ReadCommitted`).
    Latest(IsolationLevel),
    /// The leader's log end, also above the high watermark. Asked with replica id -2, which any replica would answer, so the
    /// leader epoch in the request is what makes it the leader's answer.
    LogEnd,
    /// The first record at or after these milliseconds; offset -1 where there is none.
    Timestamp(i64),
}

/// An offset that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset; -1 only for [`OffsetSpec::Timestamp`] without such a record.
    pub offset: i64,
    /// The epoch of the record at that offset, -1 where the broker does not know.
    pub leader_epoch: i32,
    /// The timestamp found, for [`OffsetSpec::Timestamp`]; else -1.
    pub timestamp: i64,
}

/// A partition and an epoch of its past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionEpoch {
    /// The partition with its current leader.
    pub partition: LedPartition,
    /// The epoch whose end is asked for.
    pub epoch: i32,
}

/// Consumers have no replica id.
const CONSUMER: BrokerId = BrokerId(-1);
/// Kafka's "debugging" replica: sees up to the log end.
const DEBUGGING: BrokerId = BrokerId(-2);

/// The followers may take so long until they have deleted, too, in milliseconds.
const DELETION_TIMEOUT_MS: i32 = 30_000;

const EARLIEST_TIMESTAMP: i64 = -2;
const LATEST_TIMESTAMP: i64 = -1;

/// One result per partition, in the order asked.
pub(crate) type PerPartition<T> = Vec<Result<T, KafkaError>>;

impl Connection {
    /// Asks this broker for an offset of each partition; results stand in the order of `partitions`.
    ///
    /// The leader epoch of each goes with the request, so that a broker which is not (or no longer, or not yet) the leader
    /// that the caller knows answers with an error.
    pub fn list_offsets(
        &self,
        partitions: &[LedPartition],
        spec: OffsetSpec,
    ) -> Result<InFlight<PerPartition<ListedOffset>>, KafkaError> {
        let (timestamp, replica, isolation) = match spec {
            OffsetSpec::Earliest => (
                EARLIEST_TIMESTAMP,
                CONSUMER,
                IsolationLevel::ReadUncommitted,
            ),
            OffsetSpec::Latest(isolation) => (LATEST_TIMESTAMP, CONSUMER, isolation),
            OffsetSpec::LogEnd => (LATEST_TIMESTAMP, DEBUGGING, IsolationLevel::ReadUncommitted),
            OffsetSpec::Timestamp(ms) => (ms.max(0), CONSUMER, IsolationLevel::ReadUncommitted),
        };
        let topics = by_topic(ApiKey::ListOffsets, partitions, |p| (&p.topic, p.partition))?;
        let topics = topics.into_iter().map(|(topic, partitions)| {
            let partitions = partitions.into_iter().map(|p| {
                ListOffsetsPartition::default()
                    .with_partition_index(p.partition)
                    .with_current_leader_epoch(p.leader_epoch)
                    .with_timestamp(timestamp)
            });
            ListOffsetsTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions.collect())
        });
        let request = ListOffsetsRequest::default()
            .with_replica_id(replica)
            .with_isolation_level(isolation.code())
            .with_topics(topics.collect());
        let asked = Asked::new(self, ApiKey::ListOffsets, partitions.to_vec());
        Ok(self.send(&request)?.and_then(move |response| {
            let answers = response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|p| {
                    let listed = ListedOffset {
                        offset: p.offset,
                        leader_epoch: p.leader_epoch,
                        timestamp: p.timestamp,
                    };
                    ((&*topic.name.0, p.partition_index), (p.error_code, listed))
                })
            });
            Ok(asked.align(answers, |listed| {
                let must_exist = !matches!(spec, OffsetSpec::Timestamp(_));
                match listed.offset < 0 && must_exist {
                    true => Err(format!("offset {} for {spec:?}", listed.offset)),
                    false => Ok(listed),
                }
            }))
        }))
    }

    /// Deletes the records before an offset of each partition, given with it; gives the log starts. Results stand in the order of
    /// `before`.
    pub fn delete_records(
        &self,
        before: &[(LedPartition, i64)],
    ) -> Result<InFlight<PerPartition<i64>>, KafkaError> {
        let topics = by_topic(ApiKey::DeleteRecords, before, |(partition, _)| {
            (&partition.topic, partition.partition)
        })?;
        let topics = topics.into_iter().map(|(topic, before)| {
            let partitions = before.into_iter().map(|(partition, offset)| {
                DeleteRecordsPartition::default()
                    .with_partition_index(partition.partition)
                    .with_offset(*offset)
            });
            DeleteRecordsTopic::default()
                .with_name(topic_name(&topic))
                .with_partitions(partitions.collect())
        });
        let request = DeleteRecordsRequest::default()
            .with_topics(topics.collect())
            .with_timeout_ms(DELETION_TIMEOUT_MS);
        let partitions = before.iter().map(|(partition, _)| partition.clone());
        let asked = Asked::new(self, ApiKey::DeleteRecords, partitions.collect());
        let patience = Duration::from_millis(DELETION_TIMEOUT_MS.unsigned_abs().into());
        let sent = self.send_patiently(&request, patience)?;
        Ok(sent.and_then(move |response| {
            let answers = response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|p| {
                    let place = (&*topic.name.0, p.partition_index);
                    (place, (p.error_code, p.low_watermark))
                })
            });
            Ok(asked.align(answers, Ok))
        }))
    }

    /// Asks this broker where the given epochs ended; results stand in the order of `epochs`.
    ///
    /// `None`: the leader knows nothing at or below that epoch (its answer is -1, -1).
    pub fn epoch_ends(
        &self,
        epochs: &[PartitionEpoch],
    ) -> Result<InFlight<PerPartition<Option<EpochEnd>>>, KafkaError> {
        let topics = by_topic(ApiKey::OffsetForLeaderEpoch, epochs, |e| {
            (&e.partition.topic, e.partition.partition)
        })?;
        let topics = topics.into_iter().map(|(topic, epochs)| {
            let partitions = epochs.into_iter().map(|e| {
                OffsetForLeaderPartition::default()
                    .with_partition(e.partition.partition)
                    .with_current_leader_epoch(e.partition.leader_epoch)
                    .with_leader_epoch(e.epoch)
            });
            OffsetForLeaderTopic::default()
                .with_topic(topic_name(&topic))
                .with_partitions(partitions.collect())
        });
        let request = OffsetForLeaderEpochRequest::default()
            .with_replica_id(CONSUMER)
            .with_topics(topics.collect());
        let partitions = epochs.iter().map(|e| e.partition.clone()).collect();
        let asked = Asked::new(self, ApiKey::OffsetForLeaderEpoch, partitions);
        Ok(self.send(&request)?.and_then(move |response| {
            let answers = response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|p| {
                    let end = EpochEnd {
                        epoch: p.leader_epoch,
                        end_offset: p.end_offset,
                    };
                    ((&*topic.topic.0, p.partition), (p.error_code, end))
                })
            });
            Ok(asked.align(answers, |end| {
                let known = end.epoch >= 0 && end.end_offset >= 0;
                Ok(known.then_some(end))
            }))
        }))
    }
}

pub(crate) fn topic_name(topic: &Arc<str>) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_string()))
}

/// Groups what is asked by topic; Kafka answers a partition that stands twice with an error or not at all.
pub(crate) fn by_topic<T>(
    api: ApiKey,
    items: &[T],
    place: impl Fn(&T) -> (&Arc<str>, i32),
) -> Result<BTreeMap<Arc<str>, Vec<&T>>, KafkaError> {
    let mut seen = std::collections::HashSet::new();
    let mut topics: BTreeMap<Arc<str>, Vec<&T>> = BTreeMap::new();
    for item in items {
        let (topic, partition) = place(item);
        if !seen.insert((topic, partition)) {
            return Err(KafkaError::Request {
                api,
                detail: format!("topic {topic} partition {partition} stands twice"),
            });
        }
        topics.entry(topic.clone()).or_default().push(item);
    }
    Ok(topics)
}

/// What was asked of whom, to put the answers into the same order.
struct Asked {
    broker: Arc<str>,
    api: ApiKey,
    partitions: Vec<LedPartition>,
}

impl Asked {
    fn new(connection: &Connection, api: ApiKey, partitions: Vec<LedPartition>) -> Self {
        Self {
            broker: connection.broker().clone(),
            api,
            partitions,
        }
    }

    fn align<'a, A: Copy, T>(
        &self,
        answers: impl Iterator<Item = ((&'a str, i32), (i16, A))>,
        read: impl Fn(A) -> Result<T, String>,
    ) -> PerPartition<T> {
        let answers: HashMap<(&str, i32), (i16, A)> = answers.collect();
        self.partitions
            .iter()
            .map(|p| {
                let malformed = |detail: String| KafkaError::Malformed {
                    broker: self.broker.clone(),
                    api: self.api,
                    detail: format!("topic {} partition {}: {detail}", p.topic, p.partition),
                };
                let answer = answers.get(&(&*p.topic, p.partition));
                let (code, answer) = answer.ok_or_else(|| malformed("no answer".to_owned()))?;
                if let Some(code) = code.err() {
                    let subject = Subject::Partition(p.topic.clone(), p.partition);
                    return Err(KafkaError::answered(self.api, subject, code));
                }
                read(*answer).map_err(malformed)
            })
            .collect()
    }
}
