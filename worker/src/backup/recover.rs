//! What a lane does when an answer is not simply batches: errors, leader changes, deleted records.
//!
//! # Guarantees
//! - What passes is tried again with growing pauses; without progress for [`PATIENCE`] the topic fails.
//! - Leaders are learnt anew, and with them that the topic is still the one that the run began with.
//! - An empty answer is never taken for the end of what there is.
//! - Offsets below the source's log start are told as lost, never skipped silently.

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::batch::Batches;
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::Fault;
use kafka_protocol::messages::ApiKey;
use tokio::time::sleep;

use super::budget::Reservation;
use super::cursor::Cursor;
use super::error::TopicFailure;
use super::fetch::{Event, Lane, Records, Stop};
use super::segment::OpenSegment;
use super::work::check_topic;
use crate::kafka::{
    FetchOptions, FetchedPartition, IsolationLevel, KafkaError, OffsetSpec, ResponseError,
    TopicFilter, fault_of, is_stale_metadata, missing_permission,
};

/// Without progress for this long a partition counts as unavailable.
const PATIENCE: Duration = Duration::from_secs(300);

impl Lane {
    /// What the answer means; `None`: nothing to take, go on.
    pub(super) async fn judge(
        &mut self,
        cursor: &mut Cursor<'_>,
        fetched: FetchedPartition,
        buffer: Reservation,
    ) -> Result<Option<Records>, Stop> {
        match fetched.error {
            None => {}
            Some(ResponseError::OffsetOutOfRange) => {
                drop(buffer);
                self.out_of_range(cursor).await?;
                return Ok(None);
            }
            Some(code) => {
                drop(buffer);
                let lacking = missing_permission(ApiKey::Fetch, code, None);
                let message = format!("Fetch failed: {code}{lacking}");
                let failure = TopicFailure::new(fault_of(code), message);
                if !code.is_retriable() && !is_stale_metadata(code) {
                    return Err(failure.into());
                }
                self.pause_for(cursor, failure).await?;
                if is_stale_metadata(code) {
                    self.refresh(cursor).await?;
                }
                return Ok(None);
            }
        }
        if fetched.diverging.is_some() {
            // Where to go on is found by listing and asking anew, as the next attempt does.
            cursor.recoder = None;
            cursor.open = OpenSegment::new(cursor.position);
            let message = "the source elected a leader that lacks records which were captured; the next attempt resolves it";
            return Err(TopicFailure::new(Fault::Unavailable, message).into());
        }
        if fetched.records.is_empty() {
            if self.is_empty_to_end(cursor).await {
                cursor.position = cursor.range.end;
                cursor.progress();
                return Ok(None);
            }
            drop(buffer);
            self.pause(
                cursor,
                "the broker had no records although the end is not reached (brokers before 3.9.2 and 4.0 may have compacted the partition's last records away, KAFKA-17076: one more record in it helps)",
            )
            .await?;
            return Ok(None);
        }
        Ok(Some(Records {
            bytes: fetched.records,
            aborted: fetched.aborted,
            buffer: Arc::new(buffer),
        }))
    }

    /// Whether the log provably has nothing between the position and the end of the hole.
    ///
    /// An empty answer proves nothing. The first batch at or after the position does, if it begins at the end or beyond it;
    /// and `read_committed` does not show that batch while it belongs to an open transaction. So where the cleaner has removed
    /// all that stood before one (deletions, aborted records: followers that were filled later, and brokers before 3.9.2 and
    /// 4.0, lack even the last batch), only `read_uncommitted` tells.
    ///
    /// Where nothing at all follows there is no proof, and the topic fails after [`PATIENCE`]: newer brokers keep the last
    /// batch of what they clean, emptied, and never clean the active segment, so that a log's end can always be fetched.
    async fn is_empty_to_end(&mut self, cursor: &Cursor<'_>) -> bool {
        if self.shared.isolation == IsolationLevel::ReadUncommitted {
            return false;
        }
        // One byte: the first batch comes whole whatever its size.
        let partition = self.wanted(cursor, cursor.position, cursor.last_epoch, 1);
        let options = FetchOptions {
            max_wait: Duration::ZERO,
            min_bytes: 0,
            max_bytes: 1,
            isolation: IsolationLevel::ReadUncommitted,
        };
        let stop = self.shared.stop.clone();
        let answer = async {
            let connection = self.connection(cursor).await?;
            connection.fetch(&[partition], &options)?.await
        };
        let Some(answer) = stop.run_until_cancelled(answer).await else {
            return false;
        };
        // Whatever went wrong goes wrong again, and is judged, with the next Fetch.
        let fetched = answer.ok().and_then(|answer| self.mine(cursor, answer));
        fetched.is_some_and(|fetched| {
            let is_whole = fetched.error.is_none() && fetched.diverging.is_none();
            is_whole && begins_at_or_after(&fetched.records, cursor.range.end)
        })
    }

    /// The log no longer, or not yet, has the position.
    pub(super) async fn out_of_range(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let led = cursor.led();
        let earliest = self
            .shared
            .client
            .list_offsets(&[led], OffsetSpec::Earliest)
            .await;
        let log_start = match earliest.into_iter().next() {
            Some(Ok(earliest)) => earliest.offset,
            Some(Err(error)) => return self.recover(cursor, error).await,
            None => return Err(TopicFailure::new(Fault::Bug, "ListOffsets gave no answer").into()),
        };
        if log_start <= cursor.position {
            let message = format!("offset {} is out of the source's range", cursor.position);
            self.pause_for(cursor, TopicFailure::new(Fault::Unavailable, message))
                .await?;
            return self.refresh(cursor).await;
        }
        self.flush(cursor).await?;
        let range = OffsetRange {
            start: cursor.position,
            end: log_start.min(cursor.range.end),
        };
        tracing::warn!(
            topic = cursor.work.chain.topic,
            partition = cursor.work.chain.partition,
            start = range.start,
            end = range.end,
            "the source deleted records before they were captured"
        );
        self.tell(Event::Lost {
            topic: cursor.work.topic,
            partition: cursor.work.chain.partition,
            range,
        });
        cursor.position = range.end;
        cursor.last_epoch = -1;
        cursor.open = OpenSegment::new(range.end);
        cursor.progress();
        Ok(())
    }

    /// After a failed request: waits, and learns the leader anew.
    pub(super) async fn recover(
        &mut self,
        cursor: &mut Cursor<'_>,
        error: KafkaError,
    ) -> Result<(), Stop> {
        let failure = TopicFailure::of_kafka(&error);
        if !error.is_retriable() {
            return Err(failure.into());
        }
        self.pause_for(cursor, failure).await?;
        self.refresh(cursor).await
    }

    /// Learns the partition's leader anew, and that the topic is still the one the run began with.
    pub(super) async fn refresh(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let filter = TopicFilter::Named(vec![cursor.work.led.topic.clone()]);
        let found = tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
            found = self.shared.client.topics(&filter) => found,
        };
        let topics = match found {
            Ok(topics) => topics,
            Err(error) if error.is_retriable() => return Ok(()),
            Err(error) => return Err(TopicFailure::of_kafka(&error).into()),
        };
        let topic = topics
            .iter()
            .find(|topic| topic.name == cursor.work.led.topic);
        check_topic(topic, cursor.work.chain.topic_id.0)?;
        let partition = topic.and_then(|topic| {
            topic
                .partitions
                .iter()
                .find(|p| p.partition == cursor.work.chain.partition)
        });
        if let Some((partition, leader)) =
            partition.and_then(|partition| Some((partition, partition.leader?)))
        {
            cursor.leader = leader;
            cursor.leader_epoch = partition.leader_epoch;
        }
        Ok(())
    }

    pub(super) async fn pause(&mut self, cursor: &mut Cursor<'_>, why: &str) -> Result<(), Stop> {
        self.pause_for(cursor, TopicFailure::new(Fault::Unavailable, why))
            .await
    }

    /// Waits before the next attempt, or fails when there was no progress for too long.
    pub(super) async fn pause_for(
        &mut self,
        cursor: &mut Cursor<'_>,
        failure: TopicFailure,
    ) -> Result<(), Stop> {
        if cursor.stuck() > PATIENCE {
            let TopicFailure { fault, message } = failure;
            let offset = cursor.position;
            let message = format!(
                "no progress at offset {offset} for {} s: {message}",
                PATIENCE.as_secs()
            );
            return Err(TopicFailure { fault, message }.into());
        }
        tracing::debug!(
            partition = cursor.work.chain.partition,
            why = failure.message,
            "fetch pauses"
        );
        let pause = cursor.next_pause();
        tokio::select! {
            biased;
            () = self.shared.stop.cancelled() => Err(Stop::Interrupted),
            () = sleep(pause) => Ok(()),
        }
    }
}

/// Whether the first of these batches begins at `end` or beyond it.
fn begins_at_or_after(records: &[u8], end: i64) -> bool {
    match Batches::new(records).next() {
        Some(Ok(first)) => first.base_offset() >= end,
        Some(Err(_)) | None => false,
    }
}

#[cfg(test)]
#[path = "recover_test.rs"]
mod tests;
