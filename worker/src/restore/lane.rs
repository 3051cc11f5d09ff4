//! Partitions of one leader, on one connection.
//!
//! # Guarantees
//! - Batches of several partitions share a request, at most one of each; at most [`REQUESTS`] requests are in flight.
//! - A partition is handed back, with the reason, once nothing of it is in flight: the next lane asks for its log end anew.
//! - When the lane ends, whatever was in flight has been answered, or its connection is closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kafka_backup_shared::archive::manifest::to_json;
use kafka_backup_shared::report::{Fault, error_chain};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::batches::sequence;
use super::error::RestoreError;
use super::stream::{Loaded, Mapped, Ready, Stream};
use super::tail;
use super::units::Unit;
use super::write::{Outcome, Shared};
use crate::kafka::{
    Connection, InFlight, IsolationLevel, KafkaError, LedPartition, OffsetSpec, ProduceAnswer,
    ProduceBatch, fault_of, is_stale_metadata,
};
use crate::store::Created;

/// Requests in flight on one connection.
const REQUESTS: usize = 5;

/// What a batch is taken for until it is known: the rate limit asks first.
const USUAL_BATCH: usize = 64 << 10;

/// For so long brokers may wait until all in-sync replicas have a batch.
const PRODUCE_TIMEOUT: Duration = Duration::from_secs(30);

/// For so long a high watermark that is behind the log end is watched before the partition is handed back.
const WATERMARK_PATIENCE: Duration = Duration::from_secs(2);

/// For so long answers are waited for after the order to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

type Loading = BoxFuture<'static, Result<(usize, Loaded), RestoreError>>;
type Storing = BoxFuture<'static, Result<usize, RestoreError>>;

/// A batch on its way: the place of its slot, the batch, and what its stream knows of it.
type Sent = (usize, ProduceBatch, Ready);

struct Request {
    answer: InFlight<ProduceAnswer>,
    batches: Vec<Sent>,
    _bytes: Option<OwnedSemaphorePermit>,
}

struct Slot {
    stream: Stream,
    storing: u32,
    /// Handed back, or complete.
    left: bool,
}

/// Partitions of one leader, on one connection.
pub(super) struct Lane {
    shared: Arc<Shared>,
    outcomes: mpsc::UnboundedSender<(usize, Outcome)>,
    connection: Connection,
    /// Number of the unit, and its stream.
    slots: Vec<(usize, Slot)>,
    requests: VecDeque<Request>,
    loading: FuturesUnordered<Loading>,
    storing: FuturesUnordered<Storing>,
    /// Where the next request begins to look for batches, so that all partitions get their turn.
    turn: usize,
    /// When the rate limit permits more.
    held_until: Option<Instant>,
    /// Whether nothing was sent for want of the lease. It may be ours again a moment later.
    lacked_lease: bool,
}

impl Lane {
    /// Restores `units` through their leader; outcomes are told by each unit's number.
    ///
    /// # Errors
    /// What no other lane can make good.
    pub(super) async fn run(
        shared: Arc<Shared>,
        leader: i32,
        units: Vec<(usize, Arc<Unit>, LedPartition)>,
        outcomes: mpsc::UnboundedSender<(usize, Outcome)>,
    ) -> Result<(), RestoreError> {
        let numbers: Vec<usize> = units.iter().map(|(number, ..)| *number).collect();
        let begun = async {
            // The connection first: what its predecessor left in flight has then had longer to come to rest.
            let connection = shared.client.open(leader).await?;
            // A worker that is frozen with a batch in its hands must not send it when it is thawed, and its successor may have written it.
            let lease = Arc::downgrade(&shared.lease);
            connection.write_only_while(move || lease.upgrade().is_some_and(|it| it.is_held()));
            let ends = log_ends(&shared, &units).await;
            let ends = own_ends(&shared, &connection, &units, ends).await;
            Ok((connection, ends))
        };
        let begun = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            begun = begun => begun,
        };
        let (connection, ends) = match begun {
            Ok(begun) => begun,
            Err(error) if passes(&error) => {
                for number in numbers {
                    outcomes.send((number, Outcome::again(0, &error))).ok();
                }
                return Ok(());
            }
            Err(source) => {
                return Err(RestoreError::Kafka {
                    step: "connect to a leader",
                    source,
                });
            }
        };
        let mut lane = Self {
            shared,
            outcomes,
            connection,
            slots: Vec::new(),
            requests: VecDeque::new(),
            loading: FuturesUnordered::new(),
            storing: FuturesUnordered::new(),
            turn: 0,
            held_until: None,
            lacked_lease: false,
        };
        for ((number, unit, _), end) in units.into_iter().zip(ends) {
            match end {
                Ok(end) => {
                    let done = done_of(&unit, end)?;
                    let buffers = lane.shared.store.buffers().clone();
                    let stream = Stream::new(unit, done, lane.shared.mapped.clone(), buffers);
                    lane.slots.push((
                        number,
                        Slot {
                            stream,
                            storing: 0,
                            left: false,
                        },
                    ));
                }
                Err(End::Later(reason)) => {
                    lane.tell(
                        number,
                        Outcome::Again {
                            acknowledged: 0,
                            reason,
                        },
                    );
                }
                Err(End::Never(error)) => return Err(error),
            }
        }
        lane.work().await
    }

    fn tell(&self, number: usize, outcome: Outcome) {
        // The receiver is gone only when the whole restore has failed.
        self.outcomes.send((number, outcome)).ok();
    }

    async fn work(mut self) -> Result<(), RestoreError> {
        let stop = self.shared.stop.clone();
        let mut deadline = None;
        loop {
            let stopping = deadline.is_some();
            if !stopping {
                self.start_loading();
                self.send()?;
                self.start_loading();
            }
            self.hand_over();
            let idle = self.requests.is_empty() && self.storing.is_empty();
            if self.slots.iter().all(|(_, slot)| slot.left) || (stopping && idle) {
                return Ok(());
            }
            let held = !self.lacked_lease;
            let later = self.held_until;
            if idle && self.loading.is_empty() && held && later.is_none() {
                return Err(RestoreError::Bug(
                    "a partition waits for nothing".to_owned(),
                ));
            }
            let wake = deadline.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !stopping => deadline = Some(Instant::now() + LAST_ANSWERS),
                () = sleep_until(wake), if stopping => return Ok(()),
                answer = next_answer(&mut self.requests), if !self.requests.is_empty() => {
                    self.answered(answer)?;
                }
                Some(stored) = self.storing.next() => {
                    let index = stored?;
                    self.slots[index].1.storing -= 1;
                }
                Some(loaded) = self.loading.next(), if !stopping => {
                    let (index, loaded) = loaded?;
                    let slot = &mut self.slots[index].1;
                    if !slot.left {
                        slot.stream.loaded(loaded);
                    }
                }
                () = sleep_until(later.unwrap_or(wake)), if later.is_some() && !stopping => {}
                // Nothing tells when the lease is ours again.
                () = sleep(Duration::from_millis(500)), if !held && !stopping => {}
            }
        }
    }

    /// Asks for the parts of segments that are needed next.
    fn start_loading(&mut self) {
        for (index, (_, slot)) in self.slots.iter_mut().enumerate() {
            if slot.left {
                continue;
            }
            let contended = self.shared.budget.rooms.available_permits() == 0;
            let Some(load) = slot.stream.next_load(contended) else {
                continue;
            };
            let shared = self.shared.clone();
            self.loading.push(Box::pin(async move {
                let room = match load.needs_room {
                    // It is closed by nobody.
                    true => shared.budget.rooms.clone().acquire_owned().await.ok(),
                    false => None,
                };
                let bytes = match load.range.is_empty() {
                    true => Bytes::new(),
                    false => load.piece.read_part(load.range, &shared.store).await?,
                };
                let loaded = Loaded {
                    index: load.index,
                    bytes,
                    is_last: load.is_last,
                    room,
                };
                Ok((index, loaded))
            }));
        }
    }

    /// Sends requests while there is room and something to send.
    fn send(&mut self) -> Result<(), RestoreError> {
        self.held_until = None;
        self.lacked_lease = false;
        while self.requests.len() < REQUESTS {
            if !self.shared.lease.is_held() {
                self.lacked_lease = true;
                return Ok(());
            }
            let (mut batches, mut bytes) = (Vec::new(), 0);
            for step in 0..self.slots.len() {
                let index = (self.turn + step) % self.slots.len();
                // One batch always, so that no lane waits for another one.
                let first = self.requests.is_empty() && batches.is_empty();
                if !first && !self.shared.budget.takes(bytes) {
                    break;
                }
                let slot = &mut self.slots[index].1;
                if slot.left || !slot.stream.may_send() {
                    continue;
                }
                let taken = match self.shared.rate.try_take(USUAL_BATCH) {
                    Ok(taken) => taken,
                    Err(later) => {
                        self.held_until = Some(later);
                        break;
                    }
                };
                let Some(ready) = slot.stream.next_batch()? else {
                    continue;
                };
                taken.settle(ready.outgoing.size(), ready.outgoing.records());
                bytes += ready.outgoing.size();
                let unit = slot.stream.unit();
                let producer = self.shared.producer;
                let batch = ProduceBatch {
                    topic: unit.target.clone(),
                    topic_id: unit.target_id,
                    partition: unit.partition,
                    pieces: ready.outgoing.seal(producer, sequence(ready.first)).into(),
                };
                batches.push((index, batch, ready));
            }
            self.turn += 1;
            if batches.is_empty() {
                return Ok(());
            }
            let wire: Vec<ProduceBatch> =
                batches.iter().map(|(_, batch, _)| batch.clone()).collect();
            match self.connection.produce(&wire, PRODUCE_TIMEOUT) {
                Ok(answer) => {
                    self.requests.push_back(Request {
                        answer,
                        batches,
                        _bytes: self.shared.budget.take(bytes),
                    });
                }
                Err(error) if passes(&error) => return self.lost(&batches, &error),
                Err(source) => {
                    return Err(RestoreError::Kafka {
                        step: "send records",
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    /// The connection is of no use any more, and what became of `batches` is not known: all that it has to do with is asked for
    /// anew.
    fn lost(&mut self, batches: &[Sent], error: &KafkaError) -> Result<(), RestoreError> {
        let reason = error_chain(error);
        for (index, _, ready) in batches {
            let stream = &mut self.slots[*index].1.stream;
            stream.answered(ready, Err(reason.clone()))?;
        }
        for (_, slot) in &mut self.slots {
            slot.stream.stop(&reason);
        }
        Ok(())
    }

    fn answered(&mut self, answer: Result<ProduceAnswer, KafkaError>) -> Result<(), RestoreError> {
        let Some(request) = self.requests.pop_front() else {
            return Ok(());
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if passes(&error) => return self.lost(&request.batches, &error),
            Err(source) => {
                return Err(RestoreError::Kafka {
                    step: "write records",
                    source,
                });
            }
        };
        for ((index, batch, ready), result) in request.batches.iter().zip(&answer.partitions) {
            let stream = &mut self.slots[*index].1.stream;
            let before = stream.acknowledged();
            let outcome = match (result.error, result.error_of(batch)) {
                (None, _) => Ok(result.base_offset),
                (Some(code), Some(error)) if code_passes(code) => Err(error_chain(&error)),
                (Some(code), error) => {
                    let other = RestoreError::Bug(format!("error {code} without a place"));
                    let refused = |source| RestoreError::Kafka {
                        step: "write records",
                        source,
                    };
                    return Err(error.map_or(other, refused));
                }
            };
            stream.answered(ready, outcome)?;
            if stream.acknowledged() > before {
                let records = ready.outgoing.records();
                self.shared
                    .progress
                    .add(records, ready.outgoing.source_bytes, records);
                if ready.outgoing.append_time {
                    self.shared.saw_append_time(&stream.unit().source);
                }
            }
        }
        Ok(())
    }

    /// Stores what is acknowledged, and tells about partitions that are complete or have stopped.
    fn hand_over(&mut self) {
        for index in 0..self.slots.len() {
            let (number, slot) = &mut self.slots[index];
            if slot.left {
                continue;
            }
            while let Some(mapped) = slot.stream.next_mapped() {
                slot.storing += 1;
                self.storing
                    .push(store_map(&self.shared, slot.stream.unit(), mapped, index));
            }
            if slot.storing > 0 || slot.stream.in_flight() > 0 {
                continue;
            }
            let acknowledged = slot.stream.acknowledged();
            let outcome = match slot.stream.trouble() {
                Some(reason) => Outcome::Again {
                    acknowledged,
                    reason: reason.to_owned(),
                },
                None if slot.stream.is_complete() => Outcome::Complete,
                None => continue,
            };
            slot.left = true;
            slot.stream.discard();
            let number = *number;
            self.tell(number, outcome);
        }
    }
}

async fn next_answer(requests: &mut VecDeque<Request>) -> Result<ProduceAnswer, KafkaError> {
    match requests.front_mut() {
        Some(request) => (&mut request.answer).await,
        None => std::future::pending().await,
    }
}

fn store_map(shared: &Arc<Shared>, unit: &Arc<Unit>, mapped: Mapped, index: usize) -> Storing {
    let (shared, unit) = (shared.clone(), unit.clone());
    Box::pin(async move {
        let key = shared.map_key(&unit, &unit.pieces[mapped.index]);
        let content = Bytes::from(to_json(&mapped.piece));
        match shared.store.create(&key, content).await? {
            Created::New | Created::Same => Ok(index),
            // It is a pure function of archive and plan.
            Created::Exists(_) => Err(RestoreError::damaged(key, "it tells of another restore")),
        }
    })
}

/// Why a partition's log end is not known.
enum End {
    Later(String),
    Never(RestoreError),
}

/// Log ends that the high watermarks have reached: what is there now stays.
async fn log_ends(
    shared: &Shared,
    units: &[(usize, Arc<Unit>, LedPartition)],
) -> Vec<Result<i64, End>> {
    let partitions: Vec<LedPartition> = units.iter().map(|(_, _, led)| led.clone()).collect();
    let deadline = Instant::now() + WATERMARK_PATIENCE;
    loop {
        let ends = shared
            .client
            .list_offsets(&partitions, OffsetSpec::LogEnd)
            .await;
        let latest = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
        let watermarks = shared.client.list_offsets(&partitions, latest).await;
        let both: Vec<Result<i64, End>> = ends
            .into_iter()
            .zip(watermarks)
            .map(|(end, watermark)| {
                let end = end.map_err(End::from)?.offset;
                let watermark = watermark.map_err(End::from)?.offset;
                if end == watermark {
                    return Ok(end);
                }
                Err(End::Later(format!(
                    "log end {end}, of which {watermark} is replicated"
                )))
            })
            .collect();
        if both.iter().all(Result::is_ok) || Instant::now() >= deadline {
            return both;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The same log ends, where what stands before them is ours.
async fn own_ends(
    shared: &Shared,
    connection: &Connection,
    units: &[(usize, Arc<Unit>, LedPartition)],
    ends: Vec<Result<i64, End>>,
) -> Vec<Result<i64, End>> {
    let asked = units.iter().zip(ends).map(|((_, unit, _), end)| {
        let end = end?;
        Ok((end, tail::ask(connection, unit, end)?))
    });
    let asked: Vec<Result<(i64, tail::Asked), End>> = asked.collect();
    let mut own = Vec::new();
    for ((_, unit, _), asked) in units.iter().zip(asked) {
        own.push(match asked {
            Ok((end, asked)) => match asked.check(unit, end, shared.producer).await {
                Ok(judged) => judged.map(|()| end).map_err(End::Never),
                Err(error) => Err(error.into()),
            },
            Err(error) => Err(error),
        });
    }
    own
}

impl From<KafkaError> for End {
    fn from(source: KafkaError) -> Self {
        if passes(&source) {
            return Self::Later(error_chain(&source));
        }
        Self::Never(RestoreError::Kafka {
            step: "read a log end",
            source,
        })
    }
}

/// Records in the target.
///
/// # Errors
/// Fewer than none, or more than were to be.
pub(super) fn done_of(unit: &Unit, log_end: i64) -> Result<u64, RestoreError> {
    let done = u64::try_from(log_end - unit.base_offset).ok();
    done.filter(|done| *done <= unit.records)
        .ok_or_else(|| RestoreError::Foreign {
            topic: unit.target.to_string(),
            partition: unit.partition,
            expected: format!(
                "a log end from {} on with at most {} records",
                unit.base_offset, unit.records
            ),
            found: format!("log end {log_end}"),
        })
}

/// Whether the same may work after another look at leaders and log ends.
fn passes(error: &KafkaError) -> bool {
    match error.code() {
        Some(code) => code_passes(code),
        None => error.fault() == Fault::Unavailable,
    }
}

fn code_passes(code: crate::kafka::ResponseError) -> bool {
    fault_of(code) == Fault::Unavailable || is_stale_metadata(code)
}
