//! Every record of a decision into the target, exactly once.
//!
//! # Guarantees
//! - What is in the target is told by its log end alone, asked of the leader and reached by the high watermark, at the start
//!   and after every outcome that is not certain. The brokers' memory of producers is only the second line: they forget by
//!   the timestamps of the records, which here are old.
//! - An answer with another base offset than the planned one, and a log end that is not the planned one at the end, stop the
//!   restore with nothing more written.
//! - Nothing is sent while the lease is not held.
//! - Of a topic in which nothing stands yet, nothing is sent before each of its segments was read and found whole. Where one is
//!   not, the topic is left out, and the others are written.
//!
//! # Assumptions
//! - The target is ours alone: nobody else appends to it.
//! - A request that was in a broker's queue when its connection broke may be carried out a moment later. [`SETTLE`] passes
//!   before the log end is asked for; later than that, the sequence numbers and the base offsets catch it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::RateLimit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::decide::leave_out;
use super::error::RestoreError;
use super::lane::{Lane, done_of};
use super::lease::Lease;
use super::stream::ROOM;
use super::target;
use super::units::{Piece, Unit};
use crate::context::{Context, Progress};
use crate::kafka::{Client, KafkaError, LedPartition, OffsetSpec, ProducerId, TopicMetadata};
use crate::rate::Rate;
use crate::store::Store;

/// Without an acknowledgement for so long the restore gives up, and the next attempt goes on.
const PATIENCE: Duration = Duration::from_secs(300);

/// What passes before a partition whose outcome was not certain is looked at again; it doubles up to [`LONGEST_PAUSE`].
const SETTLE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Connections per leader. A broker takes the next request of a connection only when the one before is answered, by all
/// in-sync replicas: one connection would leave it waiting for its followers.
const LANES: usize = 4;

/// Segments of a topic that are checked at once.
const CHECKERS: usize = 4;

const KIB: usize = 1 << 10;

/// How memory is shared by all lanes.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    /// A permit for each stream that reads a segment.
    pub(super) rooms: Arc<Semaphore>,
    /// A permit for each KiB of batches in flight.
    in_flight: Arc<Semaphore>,
}

impl Budget {
    fn new(bytes: usize) -> Self {
        // What is left is for a batch that each lane may have above this, for offset maps, and for batches larger than a part.
        Self {
            rooms: Arc::new(Semaphore::new((bytes * 2 / 5 / ROOM).max(1))),
            in_flight: Arc::new(Semaphore::new(bytes / 8 / KIB)),
        }
    }

    /// Whether there may be another batch in flight beside `bytes` that are about to be.
    pub(super) fn takes(&self, bytes: usize) -> bool {
        bytes / KIB < self.in_flight.available_permits()
    }

    /// The share of `bytes` in flight, or what is left of all.
    pub(super) fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let share = (bytes / KIB).min(self.in_flight.available_permits());
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        self.in_flight.clone().try_acquire_many_owned(share).ok()
    }
}

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) lease: Arc<Lease>,
    pub(super) producer: ProducerId,
    pub(super) rate: Arc<Rate>,
    pub(super) budget: Budget,
    pub(super) stop: CancellationToken,
    pub(super) progress: Arc<Progress>,
    /// Keys of segments whose offset map was stored by an earlier attempt.
    pub(super) mapped: Arc<HashSet<String>>,
    layout: Layout,
    uid: String,
    append_time: Mutex<BTreeSet<String>>,
}

impl Shared {
    pub(super) fn map_key(&self, unit: &Unit, piece: &Piece) -> String {
        map_key(&self.layout, &self.uid, unit, piece)
    }

    pub(super) fn saw_append_time(&self, source: &str) {
        let mut topics = self
            .append_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !topics.contains(source) {
            topics.insert(source.to_owned());
        }
    }
}

fn map_key(layout: &Layout, uid: &str, unit: &Unit, piece: &Piece) -> String {
    let name = &piece.link.name;
    layout.restore_offsets(uid, &unit.source, piece.partition, name.start, name.end)
}

/// What became of a unit in a lane.
#[derive(Debug)]
pub(super) enum Outcome {
    /// All records are acknowledged and mapped.
    Complete,
    /// It is to be looked at again.
    Again {
        /// Records that were in the target at last; 0 where nobody looked.
        acknowledged: u64,
        /// What went wrong.
        reason: String,
    },
}

impl Outcome {
    pub(super) fn again(acknowledged: u64, error: &KafkaError) -> Self {
        Self::Again {
            acknowledged,
            reason: error_chain(error),
        }
    }
}

/// Where and how records are written.
#[derive(Debug)]
pub(super) struct Place<'a> {
    /// Keys of the archive.
    pub(super) layout: &'a Layout,
    /// UID of the restore.
    pub(super) uid: &'a str,
    /// The archive's store.
    pub(super) store: &'a Store,
    /// The target cluster.
    pub(super) client: &'a Client,
    /// The restore's lease.
    pub(super) lease: Arc<Lease>,
    /// The restore's producer.
    pub(super) producer: ProducerId,
    /// How fast it may go.
    pub(super) rate_limit: Option<RateLimit>,
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Source topics whose append times became create times.
    pub(super) append_time: BTreeSet<String>,
    /// Source topics that were left out, since the archive is damaged there, with the reason.
    pub(super) failed: BTreeMap<String, String>,
}

/// A unit that is not complete.
struct Open {
    unit: Arc<Unit>,
    in_lane: bool,
    acknowledged: u64,
    progressed: Instant,
    pause: Duration,
    due: Instant,
    reason: String,
}

impl Open {
    fn new(unit: &Arc<Unit>) -> Self {
        let now = Instant::now();
        Self {
            unit: unit.clone(),
            in_lane: false,
            acknowledged: 0,
            progressed: now,
            pause: SETTLE,
            due: now,
            reason: String::new(),
        }
    }
}

/// Writes all units. `checked` are keys of segments that were found whole.
///
/// # Errors
/// [`RestoreError::Interrupted`] when the context was cancelled; else what went wrong, the most severe first.
pub(super) async fn write(
    units: Vec<Unit>,
    checked: HashSet<String>,
    place: Place<'_>,
    context: &Context,
) -> Result<Written, RestoreError> {
    let units: Vec<Arc<Unit>> = units.into_iter().map(Arc::new).collect();
    let begun = begin_progress(&units, place.client, context).await?;
    let mapped = mapped_segments(&units, &place).await?;
    let stop = context.cancel.child_token();
    let shared = Arc::new(Shared {
        store: place.store.clone(),
        client: place.client.clone(),
        lease: place.lease.clone(),
        producer: place.producer,
        rate: Arc::new(Rate::new(place.rate_limit)),
        budget: Budget::new(context.memory_budget),
        stop: stop.clone(),
        progress: context.progress.clone(),
        mapped: Arc::new(mapped),
        layout: place.layout.clone(),
        uid: place.uid.to_owned(),
        append_time: Mutex::default(),
    });
    let checks = checks(&units, &begun, &checked);
    let mut tasks = JoinSet::new();
    let outcome = coordinate(&units, checks, &shared, &mut tasks).await;
    // Whatever ended it, nothing is left running: answers that are due are waited for.
    stop.cancel();
    let (failed, mut failure) = match outcome {
        Ok(failed) => (failed, None),
        Err(error) => (BTreeMap::new(), Some(error)),
    };
    while let Some(ended) = tasks.join_next().await {
        let error = flatten(ended).err();
        failure = most_severe(failure, error);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    if context.cancel.is_cancelled() {
        return Err(RestoreError::Interrupted);
    }
    let whole = units
        .iter()
        .filter(|unit| !failed.contains_key(&*unit.source));
    let whole: Vec<Arc<Unit>> = whole.cloned().collect();
    check_ends(&whole, place.client).await?;
    let append_time = shared
        .append_time
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(Written {
        append_time: append_time.clone(),
        failed,
    })
}

/// Segments of a topic that are read before anything of it is written.
struct Check {
    topic: Arc<str>,
    pieces: Vec<Piece>,
}

/// What is to be checked: topics in which nothing stands (`begun`: records by unit), and of them what nobody has read yet.
fn checks(units: &[Arc<Unit>], begun: &[u64], checked: &HashSet<String>) -> Vec<Check> {
    let mut topics: BTreeMap<Arc<str>, (u64, BTreeMap<&str, &Piece>)> = BTreeMap::new();
    for (unit, done) in units.iter().zip(begun) {
        let (begun, pieces) = topics.entry(unit.source.clone()).or_default();
        *begun += done;
        for piece in &unit.pieces {
            let needed = piece.records(&unit.choice) != Some(0) && !checked.contains(&piece.key);
            if needed {
                pieces.insert(&piece.key, piece);
            }
        }
    }
    topics
        .into_iter()
        .filter(|(_, (begun, pieces))| *begun == 0 && !pieces.is_empty())
        .map(|(topic, (_, pieces))| Check {
            topic,
            pieces: pieces.into_values().cloned().collect(),
        })
        .collect()
}

/// Reads every segment, topic by topic, and tells of each topic whether it is whole.
async fn check(
    checks: Vec<Check>,
    shared: Arc<Shared>,
    found: mpsc::UnboundedSender<(Arc<str>, Result<(), RestoreError>)>,
) -> Result<(), RestoreError> {
    for check in checks {
        let result = futures::stream::iter(check.pieces)
            .map(|piece| {
                let shared = shared.clone();
                async move {
                    let told = |bytes| shared.progress.add_checked(bytes);
                    piece.check(&shared.store, told).await
                }
            })
            .buffer_unordered(CHECKERS)
            .try_collect::<()>();
        let result = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(()),
            result = result => result,
        };
        // The receiver is gone only when the whole restore has failed.
        found.send((check.topic, result)).ok();
    }
    Ok(())
}

fn flatten(ended: Result<Result<(), RestoreError>, JoinError>) -> Result<(), RestoreError> {
    ended.unwrap_or_else(|error| Err(RestoreError::Bug(format!("a task ended: {error}"))))
}

fn most_severe(a: Option<RestoreError>, b: Option<RestoreError>) -> Option<RestoreError> {
    match (a, b) {
        (Some(a), Some(b)) if b.fault() > a.fault() => Some(b),
        (Some(a), _) => Some(a),
        (None, b) => b,
    }
}

/// Starts lanes and takes back what they could not finish, until all is complete or something is final. Topics in `checks` wait
/// until they were found whole; those that were not are given back with the reason.
async fn coordinate(
    units: &[Arc<Unit>],
    checks: Vec<Check>,
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<Result<(), RestoreError>>,
) -> Result<BTreeMap<String, String>, RestoreError> {
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let (finder, mut found) = mpsc::unbounded_channel();
    let mut failed = BTreeMap::new();
    let mut waiting: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
    for check in &checks {
        let bytes = check.pieces.iter().map(|piece| piece.size);
        shared.progress.plan_check(bytes.sum());
        waiting.insert(check.topic.clone(), Vec::new());
    }
    let mut open = BTreeMap::new();
    for (number, unit) in units.iter().enumerate() {
        match waiting.get_mut(&unit.source) {
            Some(waiting) => waiting.push(number),
            None => drop(open.insert(number, Open::new(unit))),
        }
    }
    if !checks.is_empty() {
        tasks.spawn(check(checks, shared.clone(), finder));
    }
    while !(open.is_empty() && waiting.is_empty()) {
        start_lanes(&mut open, shared, tasks, &sender).await?;
        let due = open
            .values()
            .filter(|open| !open.in_lane)
            .map(|open| open.due)
            .min();
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Ok(failed),
            () = shared.lease.lost().cancelled() => {
                return Err(RestoreError::TakenOver);
            }
            Some((number, outcome)) = outcomes.recv() => settle(&mut open, number, outcome)?,
            Some((topic, whole)) = found.recv() => {
                let numbers = waiting.remove(&topic).unwrap_or_default();
                match whole {
                    Ok(()) => {
                        tracing::debug!(%topic, "all segments are whole");
                        open.extend(numbers.into_iter().map(|number| (number, Open::new(&units[number]))));
                    }
                    Err(error) => leave_out(&topic, error, &mut failed)?,
                }
            }
            Some(ended) = tasks.join_next() => flatten(ended)?,
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
    Ok(failed)
}

fn settle(
    open: &mut BTreeMap<usize, Open>,
    number: usize,
    outcome: Outcome,
) -> Result<(), RestoreError> {
    let (acknowledged, reason) = match outcome {
        Outcome::Complete => {
            open.remove(&number);
            return Ok(());
        }
        Outcome::Again {
            acknowledged,
            reason,
        } => (acknowledged, reason),
    };
    let Some(open) = open.get_mut(&number) else {
        return Ok(());
    };
    let now = Instant::now();
    open.in_lane = false;
    if acknowledged > open.acknowledged {
        open.acknowledged = acknowledged;
        open.progressed = now;
        open.pause = SETTLE;
    }
    tracing::warn!(topic = %open.unit.target, partition = open.unit.partition, reason, "partition is looked at again");
    open.reason = reason;
    open.due = now + open.pause;
    open.pause = (open.pause * 2).min(LONGEST_PAUSE);
    if now.duration_since(open.progressed) < PATIENCE {
        return Ok(());
    }
    Err(RestoreError::Stalled {
        topic: open.unit.target.to_string(),
        partition: open.unit.partition,
        seconds: now.duration_since(open.progressed).as_secs(),
        reason: open.reason.clone(),
    })
}

/// Starts lanes for what is due.
async fn start_lanes(
    open: &mut BTreeMap<usize, Open>,
    shared: &Arc<Shared>,
    tasks: &mut JoinSet<Result<(), RestoreError>>,
    sender: &mpsc::UnboundedSender<(usize, Outcome)>,
) -> Result<(), RestoreError> {
    let now = Instant::now();
    let due: Vec<usize> = open
        .iter()
        .filter(|(_, open)| !open.in_lane && open.due <= now)
        .map(|(number, _)| *number)
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    let units: Vec<Arc<Unit>> = due
        .iter()
        .filter_map(|n| Some(open.get(n)?.unit.clone()))
        .collect();
    let led = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return Ok(()),
        led = leaders(&units, &shared.client) => led,
    };
    let led = match led {
        Ok(led) => led,
        Err(error) if error.fault() == Fault::Unavailable => {
            let reason = error_chain(&error);
            for number in due {
                settle(
                    open,
                    number,
                    Outcome::Again {
                        acknowledged: 0,
                        reason: reason.clone(),
                    },
                )?;
            }
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let mut by_leader: BTreeMap<i32, Vec<(usize, Arc<Unit>, LedPartition)>> = BTreeMap::new();
    for ((number, unit), led) in due.into_iter().zip(units).zip(led) {
        if let Some(open) = open.get_mut(&number) {
            open.in_lane = true;
        }
        by_leader
            .entry(led.leader)
            .or_default()
            .push((number, unit, led));
    }
    for (leader, units) in by_leader {
        tracing::debug!(leader, partitions = units.len(), "lanes started");
        let mut dealt: Vec<Vec<_>> = vec![Vec::new(); LANES.min(units.len())];
        for (index, unit) in units.into_iter().enumerate() {
            dealt[index % LANES].push(unit);
        }
        for units in dealt {
            tasks.spawn(Lane::run(shared.clone(), leader, units, sender.clone()));
        }
    }
    Ok(())
}

/// Who leads the target partitions.
///
/// # Errors
/// Another topic stands under a target's name; or a partition has no leader for long.
async fn leaders(units: &[Arc<Unit>], client: &Client) -> Result<Vec<LedPartition>, RestoreError> {
    let failed = RestoreError::kafka("find the leaders of the target topics");
    let names: BTreeSet<Arc<str>> = units.iter().map(|unit| unit.target.clone()).collect();
    let names: Vec<Arc<str>> = names.into_iter().collect();
    let topics = client.topics_with_leaders(&names).await.map_err(&failed)?;
    let topics: BTreeMap<&str, &TopicMetadata> =
        topics.iter().map(|topic| (&*topic.name, topic)).collect();
    let mut led = Vec::new();
    for unit in units {
        let topic = topics.get(&*unit.target).copied();
        let partition = topic
            .filter(|topic| topic.id == unit.target_id)
            .and_then(|topic| {
                topic
                    .partitions
                    .iter()
                    .find(|partition| partition.partition == unit.partition)
            });
        let Some(partition) = partition else {
            return Err(SpecError::new(
                format!("target topic {}", unit.target),
                format!(
                    "the topic with id {} that this restore writes to",
                    unit.target_id
                ),
                match topic {
                    Some(topic) => format!(
                        "id {}: deleted and created again? Start a new restore",
                        topic.id
                    ),
                    None => "none".to_owned(),
                },
            )
            .into());
        };
        led.push(partition.led(&unit.target).map_err(&failed)?);
    }
    Ok(led)
}

/// Tells the progress how much there is to do, and what an earlier attempt did; gives the latter by unit.
async fn begin_progress(
    units: &[Arc<Unit>],
    client: &Client,
    context: &Context,
) -> Result<Vec<u64>, RestoreError> {
    let looking = async {
        let led = leaders(units, client).await?;
        target::offsets(&led, OffsetSpec::LogEnd, client).await
    };
    let ends = tokio::select! {
        biased;
        () = context.cancel.cancelled() => return Err(RestoreError::Interrupted),
        ends = looking => ends?,
    };
    let begun: Vec<u64> = units
        .iter()
        .zip(ends)
        .map(|(unit, end)| done_of(unit, end))
        .collect::<Result<_, _>>()?;
    let planned = units.iter().map(|unit| unit.records).sum();
    let done = begun.iter().sum();
    context.progress.plan(planned, done);
    context.progress.add(done, 0, 0);
    tracing::info!(
        records = planned,
        done,
        partitions = units.len(),
        "writing records"
    );
    Ok(begun)
}

/// Keys of segments whose offset map is stored.
async fn mapped_segments(
    units: &[Arc<Unit>],
    place: &Place<'_>,
) -> Result<HashSet<String>, RestoreError> {
    let plan = place.layout.restore_plan(place.uid);
    let folder = plan.rsplit_once('/').map_or("", |(folder, _)| folder);
    let stored = place
        .store
        .list(folder, |key, _| Some(key.to_owned()))
        .await?;
    let stored: HashSet<String> = stored.into_iter().collect();
    let pieces = units
        .iter()
        .flat_map(|unit| unit.pieces.iter().map(move |piece| (unit, piece)));
    let mapped = pieces
        .filter(|(unit, piece)| stored.contains(&map_key(place.layout, place.uid, unit, piece)));
    Ok(mapped.map(|(_, piece)| piece.key.clone()).collect())
}

/// Every log end is the planned one.
async fn check_ends(units: &[Arc<Unit>], client: &Client) -> Result<(), RestoreError> {
    let led = leaders(units, client).await?;
    let ends = target::offsets(&led, OffsetSpec::LogEnd, client).await?;
    for (unit, end) in units.iter().zip(ends) {
        let done = done_of(unit, end)?;
        if done != unit.records {
            return Err(RestoreError::Foreign {
                topic: unit.target.to_string(),
                partition: unit.partition,
                expected: format!(
                    "{} records behind offset {}",
                    unit.records, unit.base_offset
                ),
                found: format!("{done}"),
            });
        }
    }
    Ok(())
}
