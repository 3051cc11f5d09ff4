//! Fetch, by topic id and without a fetch session.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::{ParseResponseErrorCode, ResponseError};
use kafka_protocol::messages::fetch_request::{FetchPartition as WirePartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, FetchResponse};
use uuid::Uuid;

use super::error::{KafkaError, Subject};
use super::offsets::IsolationLevel;
use super::wire::{Connection, InFlight};
use crate::measure::{self, Stage};

/// What to read of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// The first offset wanted; the answer starts with the whole batch that contains it.
    pub offset: i64,
    /// The epoch of the leader that is asked, so that another one refuses; -1: whoever leads.
    pub leader_epoch: i32,
    /// The epoch of the last batch before `offset`, so that the leader can see a divergence (KIP-595); -1: unknown.
    pub last_fetched_epoch: i32,
    /// Bytes of this partition; a first batch that is larger comes all the same.
    pub max_bytes: i32,
}

/// What holds for a whole Fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchOptions {
    /// How long the broker may wait for `min_bytes`.
    pub max_wait: Duration,
    /// Fewer bytes are answered only after `max_wait`.
    pub min_bytes: i32,
    /// Bytes of all partitions together; the first partition's first batch comes also when it is larger.
    pub max_bytes: i32,
    /// What is seen of transactions.
    pub isolation: IsolationLevel,
}

/// What the broker had.
#[derive(Clone, Debug)]
pub struct FetchAnswer {
    /// How long the broker asks to be left alone; the connection keeps to it by itself.
    pub throttle: Duration,
    /// One for each partition that the broker answered for. An empty answer is no sign of an end.
    pub partitions: Vec<FetchedPartition>,
}

/// What the broker had of one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchedPartition {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition.
    pub partition: i32,
    /// Why there is nothing; offsets and records then mean nothing.
    pub error: Option<ResponseError>,
    /// The end of what is replicated.
    pub high_watermark: i64,
    /// The end of what no open transaction holds; -1 where the broker does not say.
    pub last_stable_offset: i64,
    /// The first offset that exists.
    pub log_start_offset: i64,
    /// The leader's log does not contain `last_fetched_epoch` up to `offset`: the largest epoch at or below that it has, and
    /// where that ends. Records are then empty.
    pub diverging: Option<EpochEnd>,
    /// Transactions within the answer that were aborted, ascending by first offset; only for `ReadCommitted`.
    pub aborted: Vec<AbortedTransaction>,
    /// Record batches, the last one possibly cut. A slice of the answer's buffer, which lives as long as any slice of it.
    pub records: Bytes,
}

/// The end of a leader's epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The epoch: the one asked for, or the largest one below it that the leader has.
    pub epoch: i32,
    /// The offset after its last record.
    pub end_offset: i64,
}

/// An aborted transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// Its first record's offset.
    pub first_offset: i64,
}

impl Connection {
    /// Reads from several partitions that this broker leads.
    ///
    /// # Errors
    /// Nothing was sent; among the reasons is a broker without topic ids in Fetch (before Kafka 3.1).
    pub fn fetch(
        &self,
        partitions: &[FetchPartition],
        options: &FetchOptions,
    ) -> Result<InFlight<FetchAnswer>, KafkaError> {
        let request = request(partitions, options);
        let broker = self.broker().clone();
        let sent = self.send_patiently(&request, options.max_wait)?;
        Ok(sent.and_then(move |response| {
            if let Some(code) = response.error_code.err() {
                return Err(KafkaError::answered(ApiKey::Fetch, Subject::Cluster, code));
            }
            tracing::trace!(%broker, partitions = response.responses.len(), "fetched");
            let answer = answer(response);
            let bytes = answer
                .partitions
                .iter()
                .map(|fetched| fetched.records.len());
            measure::count_bytes(Stage::Fetched, bytes.sum());
            Ok(answer)
        }))
    }

    /// Whether this broker can be fetched from at all.
    ///
    /// # Errors
    /// It has no topic ids in Fetch (before Kafka 3.1).
    pub fn check_fetch(&self) -> Result<(), KafkaError> {
        self.version::<FetchRequest>().map(drop)
    }
}

fn request(partitions: &[FetchPartition], options: &FetchOptions) -> FetchRequest {
    // The broker fills the answer in the order asked, so the caller's order is kept: neighbours of one topic share an entry.
    let mut topics: Vec<FetchTopic> = Vec::new();
    for p in partitions {
        let partition = WirePartition::default()
            .with_partition(p.partition)
            .with_current_leader_epoch(p.leader_epoch)
            .with_fetch_offset(p.offset)
            .with_last_fetched_epoch(p.last_fetched_epoch)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(p.max_bytes);
        match topics.last_mut() {
            Some(topic) if topic.topic_id == p.topic_id => topic.partitions.push(partition),
            _ => topics.push(
                FetchTopic::default()
                    .with_topic_id(p.topic_id)
                    .with_partitions(vec![partition]),
            ),
        }
    }
    let max_wait_ms = i32::try_from(options.max_wait.as_millis()).unwrap_or(i32::MAX);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(options.min_bytes)
        .with_max_bytes(options.max_bytes)
        .with_isolation_level(options.isolation.code())
        // No session: 0 with epoch -1 (KIP-227).
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics)
}

fn answer(response: FetchResponse) -> FetchAnswer {
    let throttle_ms = u64::try_from(response.throttle_time_ms).unwrap_or(0);
    let partitions = response.responses.into_iter().flat_map(|topic| {
        let topic_id = topic.topic_id;
        let partitions = topic.partitions.into_iter();
        partitions.map(move |data| fetched(topic_id, data))
    });
    FetchAnswer {
        throttle: Duration::from_millis(throttle_ms),
        partitions: partitions.collect(),
    }
}

fn fetched(topic_id: Uuid, data: PartitionData) -> FetchedPartition {
    let diverging = (data.diverging_epoch.end_offset >= 0).then_some(EpochEnd {
        epoch: data.diverging_epoch.epoch,
        end_offset: data.diverging_epoch.end_offset,
    });
    let aborted = data.aborted_transactions.unwrap_or_default();
    FetchedPartition {
        topic_id,
        partition: data.partition_index,
        error: data.error_code.err(),
        high_watermark: data.high_watermark,
        last_stable_offset: data.last_stable_offset,
        log_start_offset: data.log_start_offset,
        diverging,
        aborted: aborted
            .iter()
            .map(|transaction| AbortedTransaction {
                producer_id: transaction.producer_id.0,
                first_offset: transaction.first_offset,
            })
            .collect(),
        records: data.records.unwrap_or_default(),
    }
}
