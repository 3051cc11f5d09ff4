//! One partition: fetches its holes, batch by batch, and hands on whole segments.
//!
//! # Guarantees
//! - The next Fetch is on its way before the batches of the answer before it are checked and filtered.
//! - Every batch that is kept has a right CRC; one that has not is fetched a second time before the topic fails.
//! - An answer without a batch is never the end: only the offset is.
//! - Whoever waits for memory with a segment in hand closes it when nothing is being stored.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_backup_shared::archive::batch::{BatchError, Batches};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::{Fault, error_chain};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::aborted::AbortedFilter;
use super::budget::{Budget, Reservation, Storing};
use super::cursor::Cursor;
use super::error::TopicFailure;
use super::segment::{ClosedSegment, Kept};
use super::work::PartitionWork;
use crate::kafka::{
    AbortedTransaction, Client, Connection, FetchAnswer, FetchOptions, FetchPartition,
    FetchedPartition, InFlight, IsolationLevel, KafkaError,
};

/// How long a broker may wait for data that should be there already.
const MAX_WAIT: Duration = Duration::from_secs(1);
/// What a connection takes in one answer, at least: brokers send a first batch whatever its size.
const LARGEST_ANSWER: usize = 100 << 20;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) budget: Budget,
    pub(super) stop: CancellationToken,
    pub(super) isolation: IsolationLevel,
    pub(super) fetch_bytes: usize,
    pub(super) segment_bytes: usize,
    pub(super) checkpoint_interval: Duration,
    pub(super) events: UnboundedSender<Event>,
}

/// What a lane tells the run.
#[derive(Debug)]
pub(super) enum Event {
    Segment(ClosedTile),
    /// The source's log start has passed these offsets.
    Lost {
        topic: usize,
        partition: i32,
        range: OffsetRange,
    },
    Failed {
        topic: usize,
        failure: TopicFailure,
    },
    Warning(String),
}

/// A whole segment on its way to the store.
#[derive(Debug)]
pub(super) struct ClosedTile {
    pub(super) topic: usize,
    pub(super) chain: kafka_backup_shared::archive::layout::ChainKey,
    pub(super) segment: ClosedSegment,
    pub(super) storing: Storing,
}

/// Why a hole was not filled.
pub(super) enum Stop {
    Interrupted,
    Failed(TopicFailure),
}

impl From<TopicFailure> for Stop {
    fn from(failure: TopicFailure) -> Self {
        Self::Failed(failure)
    }
}

/// Works on one partition at a time, on connections of its own: a broker answers one request of a connection at a time.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    connections: HashMap<i32, Connection>,
}

struct Pending {
    answer: InFlight<FetchAnswer>,
    buffer: Reservation,
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            connections: HashMap::new(),
        }
    }

    /// Fills the holes of a partition. Whole segments, losses and failures go to the events.
    pub(super) async fn capture(&mut self, work: &PartitionWork) {
        let mut leader = (work.led.leader, work.led.leader_epoch);
        for hole in &work.holes {
            let mut cursor = Cursor::new(work, *hole, leader, self.shared.fetch_bytes);
            let filled = self.fill(&mut cursor).await;
            leader = (cursor.leader, cursor.leader_epoch);
            match filled {
                Ok(()) => {}
                Err(Stop::Interrupted) => return self.flush(&mut cursor),
                Err(Stop::Failed(failure)) => {
                    // What was fetched before is whole, and the next attempt goes on from there.
                    self.flush(&mut cursor);
                    let message =
                        format!("partition {}: {}", work.chain.partition, failure.message);
                    self.tell(Event::Failed {
                        topic: work.topic,
                        failure: TopicFailure { message, ..failure },
                    });
                    return;
                }
            }
        }
        self.check_time(work);
    }

    /// A compacted partition must have been fetched before a tombstone can have come and gone.
    fn check_time(&self, work: &PartitionWork) {
        let Some(before) = work
            .fetch_before
            .filter(|before| Timestamp::now() > before.limit)
        else {
            return;
        };
        let partition = work.chain.partition;
        if before.continued {
            let message = format!(
                "partition {partition}: the topic is compacted and was fetched after {}, when deletions since the run before may be gone (delete.retention.ms); the next run copies it anew",
                before.limit
            );
            self.tell(Event::Failed {
                topic: work.topic,
                failure: TopicFailure::new(Fault::Unavailable, message),
            });
            return;
        }
        self.tell(Event::Warning(format!(
            "topic {} partition {partition}: copying took longer than 0.9 x delete.retention.ms, a key that was deleted meanwhile may be back after a restore",
            work.chain.topic
        )));
    }

    async fn fill(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let mut pending: Option<Pending> = None;
        while cursor.position < cursor.range.end {
            let asked = match pending.take() {
                Some(pending) => Ok(pending),
                None => {
                    let buffer = self.reserve(cursor).await?;
                    self.send(cursor, buffer).await
                }
            };
            let fetched = match asked {
                Ok(asked) => self.receive(cursor, asked).await?,
                Err(error) => Err(error),
            };
            let (answer, buffer) = match fetched {
                Ok(Some(fetched)) => fetched,
                Ok(None) => {
                    self.pause(cursor, "the broker throttles the client (quota)")
                        .await?;
                    continue;
                }
                Err(error) => {
                    self.recover(cursor, error).await?;
                    continue;
                }
            };
            let Some(records) = self.judge(cursor, answer, buffer).await? else {
                continue;
            };
            let ahead =
                look_ahead(&records.bytes, cursor.range.end).map_err(|error| of_batch(&error))?;
            if ahead.whole == 0 {
                // Not a single whole batch: brokers send the first one whole, so this is one that it does not fit into.
                cursor.fetch_bytes = cursor.fetch_bytes.saturating_mul(2).min(LARGEST_ANSWER);
                self.pause(cursor, "no whole batch was received").await?;
                continue;
            }
            if ahead.next < cursor.range.end {
                pending = self.send_ahead(cursor, &ahead).await;
            }
            if !self.take(cursor, &records, ahead.whole)? {
                // Fetched again from the batch with the wrong CRC; what was sent ahead starts elsewhere.
                pending = None;
            }
        }
        // Also where the last stretch held nothing: its offsets are covered by an empty segment.
        if cursor.open.start() < cursor.range.end {
            let last = cursor.open.close_at(cursor.range.end);
            self.store(cursor.work, last);
        }
        Ok(())
    }

    /// Sends the next Fetch before the answer at hand is looked at closely, if there is memory for it.
    async fn send_ahead(&mut self, cursor: &Cursor<'_>, ahead: &Ahead) -> Option<Pending> {
        let buffer = self.shared.budget.try_reserve(cursor.fetch_bytes)?;
        let connection = self
            .connections
            .get(&cursor.leader)
            .filter(|connection| !connection.is_dead())?
            .clone();
        self.request(cursor, &connection, ahead.next, ahead.epoch, buffer)
            .ok()
    }

    async fn send(
        &mut self,
        cursor: &Cursor<'_>,
        buffer: Reservation,
    ) -> Result<Pending, KafkaError> {
        let connection = self.connection(cursor).await?;
        self.request(
            cursor,
            &connection,
            cursor.position,
            cursor.last_epoch,
            buffer,
        )
    }

    fn request(
        &self,
        cursor: &Cursor<'_>,
        connection: &Connection,
        offset: i64,
        last_fetched_epoch: i32,
        buffer: Reservation,
    ) -> Result<Pending, KafkaError> {
        let max_bytes = i32::try_from(cursor.fetch_bytes).unwrap_or(i32::MAX);
        let partition = FetchPartition {
            topic_id: Uuid::from_bytes(cursor.work.chain.topic_id.0),
            partition: cursor.work.chain.partition,
            offset,
            leader_epoch: cursor.leader_epoch,
            last_fetched_epoch,
            max_bytes,
        };
        let isolation = self.shared.isolation;
        let options = FetchOptions {
            max_wait: MAX_WAIT,
            min_bytes: 1,
            max_bytes,
            isolation,
        };
        let answer = connection.fetch(&[partition], &options)?;
        Ok(Pending { answer, buffer })
    }

    async fn connection(&mut self, cursor: &Cursor<'_>) -> Result<Connection, KafkaError> {
        if let Some(connection) = self
            .connections
            .get(&cursor.leader)
            .filter(|connection| !connection.is_dead())
        {
            return Ok(connection.clone());
        }
        let limit = LARGEST_ANSWER.max(cursor.work.max_message_bytes.saturating_mul(2));
        let connection = self
            .shared
            .client
            .open_with_limit(cursor.leader, limit)
            .await?;
        self.connections.insert(cursor.leader, connection.clone());
        Ok(connection)
    }

    /// Waits for an answer, closing the open segment when its time has come. None where the broker only throttles: an answer
    /// above the client's quota names no partition at all (`KafkaApis.handleFetchRequest`).
    async fn receive(
        &mut self,
        cursor: &mut Cursor<'_>,
        mut asked: Pending,
    ) -> Result<Result<Option<(FetchedPartition, Reservation)>, KafkaError>, Stop> {
        let answer = loop {
            let checkpoint = cursor.open.deadline(self.shared.checkpoint_interval);
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                answer = &mut asked.answer => break answer,
                () = until(checkpoint) => self.flush(cursor),
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        if answer.partitions.is_empty() && !answer.throttle.is_zero() {
            return Ok(Ok(None));
        }
        let mine = answer.partitions.into_iter().find(|found| {
            found.partition == cursor.work.chain.partition
                && found.topic_id.into_bytes() == cursor.work.chain.topic_id.0
        });
        let fetched = mine.ok_or_else(|| {
            TopicFailure::new(
                Fault::Bug,
                "the broker's answer does not name the partition",
            )
        })?;
        asked.buffer.resize(fetched.records.len());
        Ok(Ok(Some((fetched, asked.buffer))))
    }

    /// Checks, filters and keeps the batches of an answer; false where it has to be fetched again from the cursor on.
    fn take(
        &mut self,
        cursor: &mut Cursor<'_>,
        records: &Records,
        whole: usize,
    ) -> Result<bool, Stop> {
        let mut filter = AbortedFilter::new(match self.shared.isolation {
            IsolationLevel::ReadCommitted => records.aborted.clone(),
            IsolationLevel::ReadUncommitted => Vec::new(),
        });
        let mut walk = Batches::new(&records.bytes[..whole]);
        loop {
            let at = walk.position();
            let Some(batch) = walk.next() else { break };
            let batch = batch.map_err(|error| of_batch(&error))?;
            if batch.base_offset() >= cursor.range.end {
                // Nothing is left between the position and the end: compaction.
                cursor.position = cursor.range.end;
                break;
            }
            if let Err(error) = batch.verify_crc() {
                if cursor.corrupt_at == Some(batch.base_offset()) {
                    return Err(TopicFailure::new(
                        Fault::Corrupt,
                        format!("{error} (fetched twice from the source)"),
                    )
                    .into());
                }
                tracing::warn!(error = %error, "fetching a batch with a wrong CRC again");
                cursor.corrupt_at = Some(batch.base_offset());
                return Ok(false);
            }
            // An emptied batch, which compaction leaves for the producer's sequence, holds nothing to restore.
            let keeps = filter.keeps(&batch) && batch.record_count() > 0;
            if keeps
                && cursor
                    .open
                    .is_full_for(batch.bytes().len(), self.shared.segment_bytes)
            {
                self.flush(cursor);
            }
            let kept = keeps.then_some(Kept {
                answer: &records.bytes,
                at,
                buffer: &records.buffer,
            });
            cursor
                .open
                .pass(&batch, kept, cursor.range.end)
                .map_err(|error| {
                    let error = error_chain(&error);
                    TopicFailure::new(
                        Fault::Corrupt,
                        format!("record batch at offset {}: {error}", batch.base_offset()),
                    )
                })?;
            cursor.passed(&batch);
        }
        let due = cursor
            .open
            .deadline(self.shared.checkpoint_interval)
            .is_some_and(|due| Instant::now() >= due);
        if due || cursor.open.len() >= self.shared.segment_bytes {
            self.flush(cursor);
        }
        Ok(true)
    }

    /// Takes memory for the next answer. See [`Budget`] for why nobody waits for ever.
    async fn reserve(&mut self, cursor: &mut Cursor<'_>) -> Result<Reservation, Stop> {
        loop {
            let changed = self.shared.budget.changed();
            if let Some(buffer) = self.shared.budget.try_reserve(cursor.fetch_bytes) {
                return Ok(buffer);
            }
            if self.shared.budget.storing() == 0 && cursor.open.len() > 0 {
                self.flush(cursor);
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                () = changed => {}
            }
        }
    }

    /// Ends the open segment where it is.
    pub(super) fn flush(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.open.has_progress() {
            let closed = cursor.open.close();
            self.store(cursor.work, closed);
        }
    }

    fn store(&self, work: &PartitionWork, segment: ClosedSegment) {
        let storing = self.shared.budget.start_storing();
        self.tell(Event::Segment(ClosedTile {
            topic: work.topic,
            chain: work.chain.clone(),
            segment,
            storing,
        }));
    }

    pub(super) fn tell(&self, event: Event) {
        // The run stops listening only when it has failed; what is not stored then is fetched by the next attempt.
        drop(self.shared.events.send(event));
    }
}

/// Batches of an answer with the budget of its buffer.
pub(super) struct Records {
    pub(super) bytes: Bytes,
    pub(super) aborted: Vec<AbortedTransaction>,
    pub(super) buffer: Arc<Reservation>,
}

/// What the headers of an answer tell.
struct Ahead {
    /// Bytes of whole batches.
    whole: usize,
    /// The offset to fetch next.
    next: i64,
    /// Epoch of the last whole batch.
    epoch: i32,
}

fn look_ahead(records: &[u8], end: i64) -> Result<Ahead, BatchError> {
    let mut walk = Batches::new(records);
    let mut ahead = Ahead {
        whole: 0,
        next: i64::MIN,
        epoch: -1,
    };
    while let Some(batch) = walk.next() {
        let batch = batch?;
        ahead = Ahead {
            whole: walk.position(),
            next: batch.end_offset(),
            epoch: batch.leader_epoch(),
        };
        if ahead.next >= end {
            break;
        }
    }
    Ok(ahead)
}

fn of_batch(error: &BatchError) -> TopicFailure {
    let fault = match error {
        // Kafka 4 knows no older format; before, such topics have to be rewritten first.
        BatchError::OldFormat { .. } => Fault::Spec,
        BatchError::Malformed { .. } | BatchError::Crc { .. } => Fault::Corrupt,
    };
    TopicFailure::new(fault, error.to_string())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
