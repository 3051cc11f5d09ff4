//! One partition: fetches its holes, batch by batch, and hands on whole segments.
//!
//! # Guarantees
//! - The next Fetch is on its way before the batches of the answer before it are checked and filtered.
//! - Every batch that is kept has a right CRC; one that has not is fetched a second time before the topic fails.
//! - An answer without a batch is never the end: only the offset is.
//! - Whoever waits for memory with a segment in hand closes it when nothing is being stored.
//! - No Fetch is sent that the run's [`Rate`] does not permit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_backup_shared::archive::batch::{BatchError, Batches};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::Fault;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::budget::{Budget, Reservation, Storing};
use super::cursor::Cursor;
use super::error::TopicFailure;
use super::recode::Encoding;
use super::segment::ClosedSegment;
use super::work::PartitionWork;
use crate::kafka::{
    AbortedTransaction, Client, Connection, FetchAnswer, FetchOptions, FetchPartition,
    FetchedPartition, InFlight, IsolationLevel, KafkaError,
};
use crate::rate::{Rate, Taken};

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
    /// None: as the source has it.
    pub(super) encoding: Option<Encoding>,
    pub(super) rate: Arc<Rate>,
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
    permit: Permit,
}

/// What a Fetch needs before it is sent.
#[derive(Debug)]
struct Permit {
    bytes: usize,
    buffer: Reservation,
    taken: Taken,
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
                Err(Stop::Interrupted) => return self.flush_last(&mut cursor).await,
                Err(Stop::Failed(failure)) => {
                    // What was fetched before is whole, and the next attempt goes on from there.
                    self.flush_last(&mut cursor).await;
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
            self.tell(Event::Failed {
                topic: work.topic,
                failure: before.too_late(partition),
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
                    let permit = self.permitted(cursor).await?;
                    self.send(cursor, permit).await
                }
            };
            let fetched = match asked {
                Ok(asked) => self.receive(cursor, asked).await?,
                Err(error) => Err(error),
            };
            let (answer, permit) = match fetched {
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
            let Permit { buffer, taken, .. } = permit;
            let Some(records) = self.judge(cursor, answer, buffer).await? else {
                continue;
            };
            let ahead =
                look_ahead(&records.bytes, cursor.range.end).map_err(|error| of_batch(&error))?;
            taken.settle(records.bytes.len(), ahead.records);
            if ahead.whole == 0 {
                // Not a single whole batch: brokers send the first one whole, so this is one that it does not fit into.
                cursor.fetch_bytes = cursor.fetch_bytes.saturating_mul(2).min(LARGEST_ANSWER);
                self.pause(cursor, "no whole batch was received").await?;
                continue;
            }
            if ahead.next < cursor.range.end {
                pending = self.send_ahead(cursor, &ahead).await;
            }
            if !self.take(cursor, &records, ahead.whole).await? {
                // Fetched again from the batch with the wrong CRC; what was sent ahead starts elsewhere.
                pending = None;
            }
        }
        self.drain(cursor).await?;
        // Also where the last stretch held nothing: its offsets are covered by an empty segment.
        if cursor.open.start() < cursor.range.end {
            let last = cursor.open.close_at(cursor.range.end);
            self.store(cursor.work, last);
        }
        Ok(())
    }

    /// Sends the next Fetch before the answer at hand is looked at closely, if there is memory for it.
    async fn send_ahead(&mut self, cursor: &Cursor<'_>, ahead: &Ahead) -> Option<Pending> {
        let bytes = self.shared.rate.portion(cursor.fetch_bytes);
        let taken = self.shared.rate.try_take(bytes).ok()?;
        let buffer = self.shared.budget.try_reserve(bytes)?;
        let permit = Permit {
            bytes,
            buffer,
            taken,
        };
        let connection = self
            .connections
            .get(&cursor.leader)
            .filter(|connection| !connection.is_dead())?
            .clone();
        self.request(cursor, &connection, ahead.next, ahead.epoch, permit)
            .ok()
    }

    async fn send(&mut self, cursor: &Cursor<'_>, permit: Permit) -> Result<Pending, KafkaError> {
        let connection = self.connection(cursor).await?;
        let (offset, epoch) = (cursor.position, cursor.last_epoch);
        self.request(cursor, &connection, offset, epoch, permit)
    }

    fn request(
        &self,
        cursor: &Cursor<'_>,
        connection: &Connection,
        offset: i64,
        last_fetched_epoch: i32,
        permit: Permit,
    ) -> Result<Pending, KafkaError> {
        let max_bytes = i32::try_from(permit.bytes).unwrap_or(i32::MAX);
        let partition = self.wanted(cursor, offset, last_fetched_epoch, max_bytes);
        let isolation = self.shared.isolation;
        let options = FetchOptions {
            max_wait: MAX_WAIT,
            min_bytes: 1,
            max_bytes,
            isolation,
        };
        let answer = connection.fetch(&[partition], &options)?;
        Ok(Pending { answer, permit })
    }

    pub(super) fn wanted(
        &self,
        cursor: &Cursor<'_>,
        offset: i64,
        last_fetched_epoch: i32,
        max_bytes: i32,
    ) -> FetchPartition {
        FetchPartition {
            topic_id: Uuid::from_bytes(cursor.work.chain.topic_id.0),
            partition: cursor.work.chain.partition,
            offset,
            leader_epoch: cursor.leader_epoch,
            last_fetched_epoch,
            max_bytes,
        }
    }

    /// The cursor's partition in an answer.
    pub(super) fn mine(
        &self,
        cursor: &Cursor<'_>,
        answer: FetchAnswer,
    ) -> Option<FetchedPartition> {
        answer.partitions.into_iter().find(|found| {
            found.partition == cursor.work.chain.partition
                && found.topic_id.into_bytes() == cursor.work.chain.topic_id.0
        })
    }

    pub(super) async fn connection(
        &mut self,
        cursor: &Cursor<'_>,
    ) -> Result<Connection, KafkaError> {
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
    ) -> Result<Result<Option<(FetchedPartition, Permit)>, KafkaError>, Stop> {
        let answer = loop {
            let checkpoint = cursor.open.deadline(self.shared.checkpoint_interval);
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                answer = &mut asked.answer => break answer,
                () = until(checkpoint) => self.flush(cursor).await?,
            }
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(error)),
        };
        if answer.partitions.is_empty() && !answer.throttle.is_zero() {
            return Ok(Ok(None));
        }
        let fetched = self.mine(cursor, answer).ok_or_else(|| {
            TopicFailure::new(
                Fault::Bug,
                "the broker's answer does not name the partition",
            )
        })?;
        asked.permit.buffer.resize(fetched.records.len());
        Ok(Ok(Some((fetched, asked.permit))))
    }

    /// Waits until the rate and the memory permit another answer. See [`Budget`] for why nobody waits for ever.
    async fn permitted(&mut self, cursor: &mut Cursor<'_>) -> Result<Permit, Stop> {
        let (bytes, taken) = loop {
            let bytes = self.shared.rate.portion(cursor.fetch_bytes);
            let later = match self.shared.rate.try_take(bytes) {
                Ok(taken) => break (bytes, taken),
                Err(later) => later,
            };
            let since = Instant::now();
            let checkpoint = cursor.open.deadline(self.shared.checkpoint_interval);
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                () = until(checkpoint) => self.flush(cursor).await?,
                () = sleep_until(later) => {}
            }
            cursor.waited(since.elapsed());
        };
        loop {
            let changed = self.shared.budget.changed();
            if let Some(buffer) = self.shared.budget.try_reserve(bytes) {
                return Ok(Permit {
                    bytes,
                    buffer,
                    taken,
                });
            }
            if self.shared.budget.storing() == 0 && cursor.open.len() > 0 {
                self.close(cursor);
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                () = changed => {}
            }
        }
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
    /// Records of whole batches.
    records: u64,
}

fn look_ahead(records: &[u8], end: i64) -> Result<Ahead, BatchError> {
    let mut walk = Batches::new(records);
    let mut ahead = Ahead {
        whole: 0,
        next: i64::MIN,
        epoch: -1,
        records: 0,
    };
    while let Some(batch) = walk.next() {
        let batch = batch?;
        ahead = Ahead {
            whole: walk.position(),
            next: batch.end_offset(),
            epoch: batch.leader_epoch(),
            records: ahead.records + u64::from(batch.record_count().unsigned_abs()),
        };
        if ahead.next >= end {
            break;
        }
    }
    Ok(ahead)
}

pub(super) fn of_batch(error: &BatchError) -> TopicFailure {
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
