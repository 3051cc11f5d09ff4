//! Whose the last batch of a target partition is.
//!
//! # Guarantees
//! - A log end says how many records there are, not whose. Where it is not the base offset, the batch before it must be of this
//!   restore's producer and bear the sequence number of its place: else something else has written there, even where the log end is one
//!   that this restore could have left.
//!
//! # Assumptions
//! - What the broker has deleted since, or what we may not read, cannot be looked at, and passes.

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::batch::Batches;
use kafka_protocol::messages::ApiKey;

use super::batches::sequence;
use super::error::RestoreError;
use super::units::Unit;
use crate::kafka::{
    Connection, FetchAnswer, FetchOptions, FetchPartition, InFlight, IsolationLevel, KafkaError,
    ProducerId, ResponseError, Subject,
};

/// The batch that holds an offset, and nothing behind it.
const OPTIONS: FetchOptions = FetchOptions {
    max_wait: Duration::from_millis(500),
    min_bytes: 1,
    max_bytes: 1,
    isolation: IsolationLevel::ReadUncommitted,
};

/// An answer that is due; `None`: nothing was asked.
pub(super) struct Asked(Option<InFlight<FetchAnswer>>);

/// Asks for the last batch before `end`.
pub(super) fn ask(connection: &Connection, unit: &Unit, end: i64) -> Result<Asked, KafkaError> {
    if end <= unit.base_offset {
        return Ok(Asked(None));
    }
    let last = FetchPartition {
        topic_id: unit.target_id,
        partition: unit.partition,
        offset: end - 1,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 1,
    };
    connection
        .fetch(&[last], &OPTIONS)
        .map(|due| Asked(Some(due)))
}

impl Asked {
    /// Waits for the answer and judges it.
    ///
    /// # Errors
    /// The outer one: what Kafka says. The inner one: the batch is somebody else's.
    pub(super) async fn check(
        self,
        unit: &Unit,
        end: i64,
        producer: ProducerId,
    ) -> Result<Result<(), RestoreError>, KafkaError> {
        let Some(due) = self.0 else {
            return Ok(Ok(()));
        };
        let answer = due.await?;
        let Some(fetched) = answer.partitions.first() else {
            return Ok(Ok(()));
        };
        match fetched.error {
            None => Ok(judge(&fetched.records, unit, end, producer)),
            Some(ResponseError::OffsetOutOfRange | ResponseError::TopicAuthorizationFailed) => {
                Ok(Ok(()))
            }
            Some(code) => {
                let subject = Subject::Partition(Arc::clone(&unit.target), unit.partition);
                Err(KafkaError::answered(ApiKey::Fetch, subject, code))
            }
        }
    }
}

fn judge(records: &[u8], unit: &Unit, end: i64, producer: ProducerId) -> Result<(), RestoreError> {
    let Some(Ok(batch)) = Batches::new(records).next() else {
        return Ok(());
    };
    let base = batch.base_offset();
    let ours = u64::try_from(base - unit.base_offset).is_ok_and(|first| {
        let found = (
            batch.producer_id(),
            batch.producer_epoch(),
            batch.base_sequence(),
        );
        found == (producer.id, producer.epoch, sequence(first))
    });
    if ours && batch.end_offset() == end {
        return Ok(());
    }
    Err(RestoreError::Foreign {
        topic: unit.target.to_string(),
        partition: unit.partition,
        expected: format!("a batch of this restore before its log end {end}"),
        found: format!("another one at offset {base}"),
    })
}
