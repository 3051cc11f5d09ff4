//! All partitions of a run: lanes that fetch, and writes to the store beside them.
//!
//! # Guarantees
//! - Whatever ends the capture, every task of it has ended when it returns.
//! - Told to stop, lanes hand over what they hold, and it is stored if that takes no longer than [`GRACE`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_backup_shared::archive::layout::{ChainKey, SegmentName};
use kafka_backup_shared::plan::SegmentLimits;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::archive::Archive;
use super::budget::Budget;
use super::error::BackupError;
use super::fetch::{ClosedTile, Event, Lane, Shared};
use super::recode::{Encoding, Recoder};
use super::segment::PACKED_BYTES;
use super::work::{PartitionWork, TopicState};
use crate::context::Context;
use crate::kafka::{Client, IsolationLevel};
use crate::rate::Rate;
use crate::store::{PutPayload, StoreError};

/// Writes to the store at the same time.
const WRITES: usize = 12;
/// Partitions that are fetched at the same time: enough to hide round trips, few enough that segments become large.
const LANES: usize = 4;
/// How long an interrupted run may take to store what it holds: well below a pod's 30 s.
const GRACE: Duration = Duration::from_secs(15);
/// Bounds of a Fetch.
const FETCH_BYTES: std::ops::RangeInclusive<usize> = (256 << 10)..=(2 << 20);

/// The most where batches are encoded anew: an answer takes the memory of a piece of what becomes of it, and so either finds the
/// other's to use again. Of two sizes each would be freed for the other, and stay with the process beside it.
const ENCODED_FETCH_BYTES: usize = PACKED_BYTES - (32 << 10);

/// A segment that is durable.
struct Stored {
    topic: usize,
    chain: ChainKey,
    name: SegmentName,
    bytes: u64,
}

/// A capture at work.
pub(super) struct Capture<'a> {
    pub(super) archive: &'a Archive,
    pub(super) client: &'a Client,
    pub(super) context: &'a Context,
    pub(super) limits: SegmentLimits,
    pub(super) isolation: IsolationLevel,
    pub(super) encoding: Option<Encoding>,
    pub(super) rate: Arc<Rate>,
    pub(super) topics: &'a mut [TopicState],
    pub(super) warnings: &'a mut Vec<String>,
}

impl Capture<'_> {
    /// Fetches all that is left to fetch; what becomes durable, is lost or fails is entered into the topics.
    ///
    /// # Errors
    /// The store failed, or the run was interrupted. A topic's failure is no error of the capture.
    pub(super) async fn run(&mut self, work: Vec<PartitionWork>) -> Result<(), BackupError> {
        let (context, limits) = (self.context, self.limits);
        let (sender, mut events) = mpsc::unbounded_channel();
        let stop = context.cancel.child_token();
        let most = match self.encoding {
            Some(_) => ENCODED_FETCH_BYTES,
            None => *FETCH_BYTES.end(),
        };
        let fetch_bytes = (context.memory_budget / (LANES * 4)).clamp(*FETCH_BYTES.start(), most);
        let encoders = self.encoding.map_or(0, |_| LANES * Recoder::MEMORY);
        let encoders = encoders.min(context.memory_budget / 2);
        let shared = Arc::new(Shared {
            client: self.client.clone(),
            budget: Budget::new(context.memory_budget - encoders),
            stop: stop.clone(),
            isolation: self.isolation,
            encoding: self.encoding,
            rate: self.rate.clone(),
            fetch_bytes,
            segment_bytes: usize::try_from(limits.segment_max_bytes).unwrap_or(usize::MAX),
            checkpoint_interval: Duration::from_secs(limits.checkpoint_interval_secs.into()),
            events: sender,
        });
        let queue = Arc::new(Queue::new(work));
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(run_lane(shared.clone(), queue.clone()));
        }
        // The events end when the last lane has.
        drop(shared);

        let mut writes: JoinSet<Result<Stored, StoreError>> = JoinSet::new();
        let mut waiting: VecDeque<ClosedTile> = VecDeque::new();
        let mut fetching = true;
        let interrupted = async {
            context.cancel.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::pin!(interrupted);
        let outcome = loop {
            while writes.len() < WRITES {
                let Some(tile) = waiting.pop_front() else {
                    break;
                };
                writes.spawn(write(self.archive.clone(), tile));
            }
            if !fetching && writes.is_empty() {
                break Ok(());
            }
            tokio::select! {
                event = events.recv(), if fetching => match event {
                    Some(Event::Segment(tile)) => waiting.push_back(tile),
                    Some(other) => self.note(other, &queue),
                    None => fetching = false,
                },
                Some(written) = writes.join_next() => match written {
                    Ok(Ok(stored)) => self.enter(stored),
                    Ok(Err(error)) => break Err(BackupError::Store(error)),
                    Err(error) => break Err(BackupError::Task(error)),
                },
                () = &mut interrupted => break Err(BackupError::Interrupted),
            }
        };
        // Also after an interruption: nothing of ours may go on when the run has ended.
        stop.cancel();
        writes.shutdown().await;
        let mut outcome = outcome;
        while let Some(ended) = lanes.join_next().await {
            outcome = outcome.and(ended.map_err(BackupError::Task));
        }
        outcome?;
        match context.cancel.is_cancelled() && !queue.is_done() {
            true => Err(BackupError::Interrupted),
            false => Ok(()),
        }
    }

    fn note(&mut self, event: Event, queue: &Queue) {
        match event {
            Event::Segment(_) => {}
            Event::Lost {
                topic,
                partition,
                range,
            } => self.topics[topic].lost.push((partition, range)),
            Event::Failed { topic, failure } => {
                tracing::warn!(topic = %self.topics[topic].name, error = failure.message, "topic cannot be captured");
                queue.forget(topic);
                self.topics[topic].failure.get_or_insert(failure);
            }
            Event::Warning(warning) => self.warnings.push(warning),
        }
    }

    fn enter(&mut self, stored: Stored) {
        let Stored {
            topic,
            chain,
            name,
            bytes,
        } = stored;
        tracing::debug!(
            topic = chain.topic,
            partition = chain.partition,
            start = name.start,
            end = name.end,
            records = name.records,
            bytes,
            "segment stored"
        );
        let offsets = u64::try_from(name.end - name.start).unwrap_or(0);
        self.context.progress.add(name.records, bytes, offsets);
        self.topics[topic]
            .segments
            .entry((chain.partition, chain.generation))
            .or_default()
            .insert(name, bytes);
    }
}

async fn run_lane(shared: Arc<Shared>, queue: Arc<Queue>) {
    let stop = shared.stop.clone();
    let mut lane = Lane::new(shared);
    while !stop.is_cancelled() {
        let Some(work) = queue.next() else { return };
        lane.capture(&work).await;
        if !stop.is_cancelled() {
            queue.done();
        }
    }
}

async fn write(archive: Archive, tile: ClosedTile) -> Result<Stored, StoreError> {
    let ClosedTile {
        topic,
        chain,
        segment,
        storing,
    } = tile;
    let key = archive.layout.segment(&chain, &segment.name);
    let content: PutPayload = segment.slices.into_iter().collect();
    archive.store.create_segment(&key, content).await?;
    drop((segment.buffers, storing));
    Ok(Stored {
        topic,
        chain,
        name: segment.name,
        bytes: segment.bytes as u64,
    })
}

/// Partitions that wait for a lane, those with the most offsets first: what takes longest must not begin last.
#[derive(Debug)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Debug)]
struct QueueState {
    waiting: VecDeque<PartitionWork>,
    open: usize,
}

impl Queue {
    fn new(mut work: Vec<PartitionWork>) -> Self {
        let offsets = |work: &PartitionWork| {
            work.holes
                .iter()
                .map(|hole| hole.range.end - hole.range.start)
                .sum::<i64>()
        };
        work.sort_by_key(|work| std::cmp::Reverse(offsets(work)));
        let open = work.len();
        Self {
            state: Mutex::new(QueueState {
                waiting: work.into(),
                open,
            }),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, QueueState> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<PartitionWork> {
        self.state().waiting.pop_front()
    }

    fn done(&self) {
        self.state().open -= 1;
    }

    /// Leaves out what still waits of a topic.
    fn forget(&self, topic: usize) {
        let mut state = self.state();
        let before = state.waiting.len();
        state.waiting.retain(|work| work.topic != topic);
        state.open -= before - state.waiting.len();
    }

    /// Whether every partition was gone through.
    fn is_done(&self) -> bool {
        self.state().open == 0
    }
}
