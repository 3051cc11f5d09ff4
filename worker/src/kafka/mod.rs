//! The worker's own Kafka client: what must stay bytes, and what rdkafka's safe interface lacks. rdkafka reads what is compared.
//!
//! Frames are `kafka-protocol`'s; record batches are never decoded here. A [`Client`] knows a cluster (brokers, topics,
//! leaders), a [`Connection`] is one TCP connection to one broker, and an [`InFlight`] is a request that was sent.
//!
//! ```text
//! let client = Client::connect(ClientConfig::new(&spec.kafka_cluster, secrets_dir, "kafka-backup-worker")).await?;
//! let topics = client.topics(&TopicFilter::All).await?;                       // names, ids, partitions, leaders, epochs
//! let ends   = client.list_offsets(&partitions, OffsetSpec::Latest(IsolationLevel::ReadCommitted)).await; // Vec<Result<..>>
//!
//! // backup: a connection of its own per leader, the next request is sent before the previous answer is stored
//! let connection = client.open(leader).await?;
//! let mut next = connection.fetch(&partitions, &options)?;                   // InFlight<FetchAnswer>
//! loop { let answer = next.await?; next = connection.fetch(&advanced, &options)?; store(answer).await?; }
//!
//! // restore: up to five requests per partition in flight
//! let producer = client.init_producer_id().await?;
//! let in_flight = connection.produce(&batches, Duration::from_secs(30))?;     // Err: certainly not sent
//! let answer = in_flight.await?;                                             // Err: the outcome is unknown
//! for (batch, result) in ... answer.partitions                               // one result per batch, in the order given
//! ```
//!
//! # Guarantees
//! - [`Connection::send`] and its kin never wait: `Err` from them means that no byte of the request will be sent; a
//!   request that was accepted and whose [`InFlight`] fails may or may not have reached the broker.
//! - Answers come in the order of the requests (Kafka's own promise per connection), whatever order they are awaited in.
//! - Dropping an [`InFlight`] is safe: its answer is read and thrown away. A connection whose request failed or timed out is
//!   dead for good ([`Connection::is_dead`]); [`Client::open`] makes another one.
//! - Records are not copied: fetched ones are slices of the one buffer that the answer was read into, produced ones go to
//!   the socket by vectored writes.
//! - An answer larger than the connection's limit is refused before memory is taken for it.
//! - Nothing here creates a topic by asking for it.
//!
//! # Assumptions
//! - The caller bounds what is in flight; nothing here does. The memory of a Fetch is what its `max_bytes` permits (plus one
//!   batch, as Kafka returns a first batch that is larger), from the answer's arrival until its last `records` is dropped.
//! - Functions that name a leader do one attempt and return typed errors; on [`KafkaError::is_stale_metadata`] the caller
//!   asks [`Client::topics`] again and retries. The bulk functions of [`Client`] do that by themselves.
//! - [`transport`] is the one place where a stream is made, [`security`] the one that says how and by whom.

mod api;
mod client;
mod code;
mod commit;
mod configs;
mod creation;
mod error;
mod fetch;
mod frame;
mod groups;
mod handshake;
mod leaders;
mod metadata;
mod offsets;
mod produce;
mod retry;
mod sasl;
mod scram;
mod security;
mod token;
mod transport;
mod visibility;
mod wire;

#[cfg(test)]
mod fake_broker;

pub use client::{Client, ClientConfig};
pub use code::{fault_of, is_stale_metadata};
pub use configs::{ConfigChange, ConfigEntry, ConfigOperation, ConfigSource};
pub use creation::{EffectiveConfigs, NewTopic};
pub(crate) use error::missing_permission;
pub use error::{KafkaError, Lost, Subject};
pub use fetch::{
    AbortedTransaction, EpochEnd, FetchAnswer, FetchOptions, FetchPartition, FetchedPartition,
};
pub use groups::{CommittedOffset, GroupType, ListedGroup};
pub use kafka_protocol::error::ResponseError;
pub use metadata::{
    AclOperation, Broker, LedPartition, PartitionMetadata, TopicFilter, TopicMetadata,
};
pub use offsets::{IsolationLevel, ListedOffset, OffsetSpec, PartitionEpoch};
pub use produce::{ProduceAnswer, ProduceBatch, ProducedPartition, ProducerId};
pub(crate) use security::RdKafkaContext;
pub use security::{Security, SecurityError};
pub use token::TokenError;
pub(crate) use visibility::ONLY_VISIBLE;
pub use wire::{Connection, InFlight};
