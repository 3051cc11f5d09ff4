//! Where consumer groups go on in a target topic, by the headers with which its records tell where they come from.
//!
//! ```text
//! origin         the headers of a record             -> Origin: source partition and source offset
//! Scan           origins, in the order of the log    -> PartitionAnswer
//! scan_partition a log that is read, and may move    -> Scan, again where it must be
//! search         the partitions of the target topic  -> Answer
//! next_offset    Answer, one group's offsets         -> the offset to commit
//! ```
//!
//! # Guarantees
//! - No group goes on behind a record that it has not consumed: each committed offset becomes the place of the first record of
//!   its source partition, in the order of the target partition, whose source offset is that one or a later one. This holds in
//!   whatever order records were written, and where some were written twice; a group may then get records again.
//! - The end of a partition is its high watermark, which is asked for and not read: a consumer of either isolation level may
//!   commit it, and nothing that comes later lies before it.
//! - Below the last stable offset only committed records count (`read_committed`): a writer that aborted a transaction and
//!   wrote its records again is found where the records are that consumers get. What lies between the last stable offset
//!   and the high watermark is read too (`read_uncommitted`), aborted or not: a transaction that is open there may yet be
//!   committed, and hides what others have written behind it. Taken for absent, those records would be skipped.
//! - Found places are still in the log when its partition is done. Where the log start has passed one of them, or the log has
//!   become shorter, the partition is read anew; where that happens again and again, the search fails.
//! - Each partition is read once for all groups, and left when all that is asked of it is found. What is found behind that
//!   place could change no answer: it is asked which record is the first, and whether there is any.
//! - Memory: what two readers read ahead, and for each target partition the different committed offsets that are asked of it.
//!
//! # Assumptions
//! - The headers tell the truth. Who writes other records with the same headers into the topic makes consumers get records again.
//! - librdkafka keeps header keys as C strings: one with a NUL behind such a name passes for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::Fault;
use tokio_util::sync::CancellationToken;

use crate::context::Progress;
use crate::kafka::{Client, IsolationLevel, KafkaError, LedPartition, OffsetSpec};
use crate::reader::{Event, Header, Reader, ReaderError, close};
use crate::restore::{ORIGINAL_OFFSET, ORIGINAL_PARTITION, ORIGINAL_TOPIC, SOURCE_CLUSTER};

/// Partitions that are read at the same time.
const LANES: usize = 2;
/// How long nothing may come: a reader passes long stretches of aborted records in silence.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a partition is read whose log does not keep still.
const READINGS: u32 = 5;

/// What is asked of a target topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Only records of this source cluster count; `None`: of any, named or not.
    pub source_cluster: Option<String>,
    /// Only records of this source topic count.
    pub source_topic: Arc<str>,
    /// Where they are looked for.
    pub target_topic: Arc<str>,
    /// In which of its partitions.
    pub placement: Placement,
    /// By source partition, the different offsets that any group has committed for it. A partition without any is only asked
    /// for whether it occurs.
    pub committed: BTreeMap<i32, BTreeSet<i64>>,
}

/// Where the records of a source partition may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In the target partition of the same number: no other record counts, and no other partition is read.
    SamePartition,
    /// In any target partition: all are read.
    AnyPartition,
}

/// What a target topic says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// By target partition, those that were searched.
    pub partitions: BTreeMap<i32, PartitionAnswer>,
}

/// What a target partition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionAnswer {
    /// Its log start and its high watermark, as they were when it was read.
    pub log: OffsetRange,
    /// By source partition, those that were asked of it.
    pub sources: BTreeMap<i32, SourceAnswer>,
    /// Records that were read.
    pub records: u64,
    /// Those of them that do not tell where they come from, or come from another topic or cluster.
    pub foreign: u64,
}

/// What a target partition says about a source partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceAnswer {
    /// Whether there is any record of it.
    pub seen: bool,
    /// By committed offset, the target offset of the first record that has it as its source offset, or a greater one; `None`:
    /// there is none, the group goes on at the end.
    pub found: BTreeMap<i64, Option<i64>>,
}

/// Where a group goes on in a target partition, by what it has committed for source partitions; `None`: the group has no place
/// there, as none of these occurs.
///
/// It is the first record that the group has not consumed of any of them, and the end where it has consumed all.
///
/// An offset that was not in the question is taken for the next lower one that was, or for the log start: never too late.
pub fn next_offset(
    answer: &Answer,
    target_partition: i32,
    committed: &BTreeMap<i32, i64>,
) -> Option<i64> {
    let partition = answer.partitions.get(&target_partition)?;
    let places = committed.iter().filter_map(|(source, offset)| {
        let source = partition.sources.get(source).filter(|source| source.seen)?;
        let asked = source.found.range(..=offset).next_back();
        Some(asked.map_or(partition.log.start, |(_, found)| {
            found.unwrap_or(partition.log.end)
        }))
    });
    places.min()
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The target cluster.
    #[error("failed to {step}")]
    Kafka {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The reader.
    #[error(transparent)]
    Reader(#[from] ReaderError),
    /// A batch of the target cannot be read.
    #[error(
        "expected a batch that is whole in topic {topic} partition {partition} at or after offset {offset}, found: {reason}"
    )]
    Damaged {
        /// The target topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// The offset that was to be read next.
        offset: i64,
        /// What rdkafka says.
        reason: String,
    },
    /// Records were deleted, or cut off, while they were read, each time.
    #[error(
        "topic {topic} partition {partition} was read {READINGS} times, and each time its log start or its end passed records that had been found; its log now has offsets {} to {}", log.start, log.end
    )]
    LogMoves {
        /// The target topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
        /// What the log had in the end.
        log: OffsetRange,
    },
    /// The partition is gone.
    #[error(
        "topic {topic} partition {partition}: expected an answer about its offsets, found none"
    )]
    NoAnswer {
        /// The target topic.
        topic: Arc<str>,
        /// Its partition.
        partition: i32,
    },
    /// Told to stop.
    #[error("interrupted before all records were searched")]
    Interrupted,
    /// A task of ours panicked.
    #[error("a part of the worker failed")]
    Task(#[from] tokio::task::JoinError),
}

impl SearchError {
    fn kafka(step: &'static str) -> impl Fn(KafkaError) -> Self {
        move |source| Self::Kafka { step, source }
    }

    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Kafka { source, .. } => source.fault(),
            Self::Reader(error) => error.fault(),
            Self::Damaged { .. } => Fault::Corrupt,
            Self::LogMoves { .. } => Fault::Unavailable,
            Self::Interrupted => Fault::Interrupted,
            Self::NoAnswer { .. } | Self::Task(_) => Fault::Bug,
        }
    }
}

/// Reads the target topic and answers the question.
///
/// Offsets that are to be read are added to the plan of `progress`, and those that were to what is done; its records and bytes
/// (of keys and values) are what was read, not what is durable.
///
/// # Errors
/// The target topic is missing or cannot be read; it does not keep still; nothing came for five minutes; `cancel`.
pub async fn search(
    client: &Client,
    question: Question,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Answer, SearchError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(SearchError::Interrupted),
        answer = search_all(client, &question, progress) => answer,
    }
}

async fn search_all(
    client: &Client,
    question: &Question,
    progress: &Progress,
) -> Result<Answer, SearchError> {
    let failed = SearchError::kafka("look at the target topic");
    let names = std::slice::from_ref(&question.target_topic);
    let topics = client.topics_with_leaders(names).await.map_err(&failed)?;
    let mut led = Vec::new();
    for topic in &topics {
        led.extend(topic.led_partitions().map_err(&failed)?);
    }
    led.retain(|led| match question.placement {
        Placement::SamePartition => question.committed.contains_key(&led.partition),
        Placement::AnyPartition => true,
    });
    let logs = logs(client, &led).await?;
    let tasks: VecDeque<(LedPartition, Log)> = led.into_iter().zip(logs).collect();
    let planned = tasks.iter().map(|(_, log)| log.offsets()).sum();
    progress.plan_more(planned);
    let work = Work {
        client,
        question,
        progress,
        tasks: Mutex::new(tasks),
    };
    let lanes = try_join_all((0..LANES).map(|_| work.lane())).await?;
    Ok(Answer {
        partitions: lanes.into_iter().flatten().collect(),
    })
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Origin {
    partition: i32,
    offset: i64,
}

/// Where a record of the source topic and cluster comes from, by its headers; `None`: it does not tell, or it is another's.
///
/// Of several headers of one name the last one counts: a restore adds its own behind those that a record has already. They are
/// read from the back, so that no more of them are read than are needed. A header of `None` cannot be read, and is none of
/// them: their names are ASCII.
fn origin<'a>(
    headers: impl DoubleEndedIterator<Item = Option<Header<'a>>>,
    question: &Question,
) -> Option<Origin> {
    const NAMES: [&str; 4] = [
        ORIGINAL_TOPIC,
        ORIGINAL_PARTITION,
        ORIGINAL_OFFSET,
        SOURCE_CLUSTER,
    ];
    let mut last: [Option<Option<&[u8]>>; NAMES.len()] = [None; NAMES.len()];
    for (key, value) in headers.rev().flatten() {
        let name = NAMES.iter().position(|name| name.as_bytes() == key);
        if let Some(name) = name {
            last[name].get_or_insert(value);
        }
        if last.iter().all(Option::is_some) {
            break;
        }
    }
    let [topic, partition, offset, cluster] = last.map(Option::flatten);
    let is_ours = topic == Some(question.source_topic.as_bytes())
        && (question.source_cluster.as_deref())
            .is_none_or(|expected| cluster == Some(expected.as_bytes()));
    if !is_ours {
        return None;
    }
    Some(Origin {
        partition: number(partition?)?,
        offset: number(offset?)?,
    })
}

/// A number in decimal digits and nothing else.
fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    let is_number = digits.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    text.parse().ok()
}

/// What was seen of a target partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scan {
    sources: BTreeMap<i32, SourceScan>,
    /// Source partitions of which more is to be known.
    open: usize,
    records: u64,
    foreign: u64,
}

/// What was seen of a source partition.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceScan {
    seen: bool,
    /// Committed offsets that have no place yet, ascending.
    pending: VecDeque<i64>,
    /// Those that have, ascending.
    found: BTreeMap<i64, i64>,
}

impl SourceScan {
    fn is_open(&self) -> bool {
        !self.seen || !self.pending.is_empty()
    }
}

impl Scan {
    /// What is asked of target partition `partition`.
    fn new(question: &Question, partition: i32) -> Self {
        let asked = question.committed.iter();
        let asked = asked.filter(|(source, _)| match question.placement {
            Placement::SamePartition => **source == partition,
            Placement::AnyPartition => true,
        });
        let sources: BTreeMap<i32, SourceScan> = asked
            .map(|(source, committed)| {
                let scan = SourceScan {
                    seen: false,
                    pending: committed.iter().copied().collect(),
                    found: BTreeMap::new(),
                };
                (*source, scan)
            })
            .collect();
        Self {
            open: sources.len(),
            sources,
            records: 0,
            foreign: 0,
        }
    }

    /// Takes the next record of the target partition.
    fn take(&mut self, offset: i64, origin: Option<Origin>) {
        self.records += 1;
        let Some(origin) = origin else {
            self.foreign += 1;
            return;
        };
        let Some(source) = self.sources.get_mut(&origin.partition) else {
            return;
        };
        if !source.is_open() {
            return;
        }
        source.seen = true;
        let answered = source
            .pending
            .partition_point(|next| *next <= origin.offset);
        for committed in source.pending.drain(..answered) {
            source.found.insert(committed, offset);
        }
        if !source.is_open() {
            self.open -= 1;
        }
    }

    /// Whether further records can change nothing.
    fn is_done(&self) -> bool {
        self.open == 0
    }

    /// Whether what was found still holds, for a log of which `before` was read and that has `after` now.
    fn holds(&self, before: &Log, after: &Log) -> bool {
        let found = self.sources.values().flat_map(|source| &source.found);
        let first = found.map(|(_, target)| *target).min();
        // A log that has become shorter will have other records at its end than those that were seen.
        after.end >= before.end && first.is_none_or(|first| after.start <= first)
    }

    /// Forgets all places, to look for them anew. Whether a source partition occurs is kept: a group that had its place among
    /// records that are gone meanwhile goes on behind them.
    fn restart(&mut self) {
        self.records = 0;
        self.foreign = 0;
        for source in self.sources.values_mut() {
            let found = std::mem::take(&mut source.found);
            // All of them are smaller than those that have no place: a record answers what is pending from the front.
            for committed in found.into_keys().rev() {
                source.pending.push_front(committed);
            }
        }
        self.open = self.sources.values().filter(|s| s.is_open()).count();
    }

    fn finish(self, log: &Log) -> PartitionAnswer {
        let sources = self.sources.into_iter().map(|(partition, source)| {
            let found = source.found.into_iter().map(|(c, at)| (c, Some(at)));
            let missing = source.pending.into_iter().map(|c| (c, None));
            let answer = SourceAnswer {
                seen: source.seen,
                found: found.chain(missing).collect(),
            };
            (partition, answer)
        });
        PartitionAnswer {
            sources: sources.collect(),
            log: OffsetRange {
                start: log.start,
                end: log.end,
            },
            records: self.records,
            foreign: self.foreign,
        }
    }
}

/// What a partition has at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Log {
    /// The log start.
    start: i64,
    /// The last stable offset.
    stable: i64,
    /// The high watermark.
    end: i64,
}

impl Log {
    fn offsets(&self) -> u64 {
        u64::try_from(self.end - self.start).unwrap_or(0)
    }

    /// What is read, and how.
    fn stretches(&self) -> [(IsolationLevel, OffsetRange); 2] {
        // It was asked for at another moment than the others.
        let stable = self.stable.min(self.end).max(self.start);
        let range = |start, end| OffsetRange { start, end };
        [
            (IsolationLevel::ReadCommitted, range(self.start, stable)),
            (IsolationLevel::ReadUncommitted, range(stable, self.end)),
        ]
    }
}

/// A partition that is read.
trait Partition {
    /// What it has now.
    async fn log(&mut self) -> Result<Log, SearchError>;

    /// Reads from `offset` on.
    async fn seek(&mut self, offset: i64, isolation: IsolationLevel) -> Result<(), SearchError>;

    /// Waits for what comes next.
    async fn next(&mut self) -> Result<Step, SearchError>;

    /// The error for a log that does not keep still.
    fn moves(&self, log: &Log) -> SearchError;
}

/// What comes next in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A record.
    Record {
        offset: i64,
        origin: Option<Origin>,
        /// Bytes of key and value.
        bytes: u64,
    },
    /// The end of what can be read.
    End,
    /// The log does not have the offset that is read next.
    OutOfRange,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// All that matters was read.
    Whole,
    /// The log did not have what was to be read.
    Cut,
}

/// Reads a partition, which had `log` a moment ago.
async fn scan_partition(
    partition: &mut impl Partition,
    mut scan: Scan,
    mut log: Log,
    progress: &Progress,
) -> Result<PartitionAnswer, SearchError> {
    let mut left = Left {
        progress,
        offsets: log.offsets(),
    };
    let mut readings = 0;
    loop {
        let reading = read(partition, &mut scan, &log, &mut left).await?;
        // Nothing was read that could be gone.
        let is_untouched = scan.is_done() && scan.records == 0 || log.offsets() == 0;
        if reading == Reading::Whole && is_untouched {
            break;
        }
        let now = partition.log().await?;
        if reading == Reading::Whole && scan.holds(&log, &now) {
            break;
        }
        readings += 1;
        if readings == READINGS {
            return Err(partition.moves(&now));
        }
        scan.restart();
        log = now;
    }
    left.all();
    Ok(scan.finish(&log))
}

async fn read(
    partition: &mut impl Partition,
    scan: &mut Scan,
    log: &Log,
    left: &mut Left<'_>,
) -> Result<Reading, SearchError> {
    for (isolation, range) in log.stretches() {
        let mut next = range.start;
        if range.is_empty() || scan.is_done() {
            continue;
        }
        partition.seek(next, isolation).await?;
        while next < range.end && !scan.is_done() {
            match partition.next().await? {
                Step::Record {
                    offset,
                    origin,
                    bytes,
                } if offset < range.end => {
                    scan.take(offset, origin);
                    left.read(bytes, offset + 1 - next);
                    next = offset + 1;
                }
                Step::Record { .. } | Step::End => break,
                Step::OutOfRange => return Ok(Reading::Cut),
            }
            // A reader that is ahead never makes us wait, which would keep the other lane and a signal to stop from being heard.
            tokio::task::consume_budget().await;
        }
    }
    Ok(Reading::Whole)
}

/// What of a partition's plan is left to do.
struct Left<'a> {
    progress: &'a Progress,
    offsets: u64,
}

impl Left<'_> {
    /// A record was read, and `offsets` with it. What is read again was done before.
    fn read(&mut self, bytes: u64, offsets: i64) {
        let done = u64::try_from(offsets).unwrap_or(0).min(self.offsets);
        self.offsets -= done;
        self.progress.add(1, bytes, done);
    }

    /// The partition is done.
    fn all(self) {
        self.progress.add(0, 0, self.offsets);
    }
}

/// What the lanes share.
struct Work<'a> {
    client: &'a Client,
    question: &'a Question,
    progress: &'a Progress,
    tasks: Mutex<VecDeque<(LedPartition, Log)>>,
}

impl Work<'_> {
    fn next_task(&self) -> Option<(LedPartition, Log)> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.pop_front()
    }

    /// Reads partitions until there is none left.
    async fn lane(&self) -> Result<Vec<(i32, PartitionAnswer)>, SearchError> {
        let mut answers = Vec::new();
        let mut reader = None;
        while let Some((led, log)) = self.next_task() {
            let number = led.partition;
            let scan = Scan::new(self.question, number);
            let mut partition = TargetPartition {
                work: self,
                led,
                reader: &mut reader,
                next: log.start,
            };
            let scanned = scan_partition(&mut partition, scan, log, self.progress).await;
            answers.push((number, scanned?));
        }
        close(reader).await?;
        Ok(answers)
    }
}

/// A partition of the target topic.
struct TargetPartition<'a> {
    work: &'a Work<'a>,
    led: LedPartition,
    /// The lane's.
    reader: &'a mut Option<Reader>,
    /// The offset that is read next.
    next: i64,
}

impl Partition for TargetPartition<'_> {
    async fn log(&mut self) -> Result<Log, SearchError> {
        let led = std::slice::from_ref(&self.led);
        let logs = logs(self.work.client, led).await?;
        logs.first().copied().ok_or_else(|| no_answer(&self.led))
    }

    async fn seek(&mut self, offset: i64, isolation: IsolationLevel) -> Result<(), SearchError> {
        let kept = match self.reader.take() {
            Some(reader) if reader.isolation() == isolation => Some(reader),
            other => {
                close(other).await?;
                None
            }
        };
        let reader = match kept {
            Some(reader) => reader,
            None => {
                let config = self.work.client.config();
                Reader::new(config, &self.led.topic, isolation, PATIENCE).await?
            }
        };
        let reader = self.reader.insert(reader);
        reader.assign(self.led.partition, offset)?;
        self.next = offset;
        Ok(())
    }

    async fn next(&mut self) -> Result<Step, SearchError> {
        let Some(reader) = self.reader else {
            return Ok(Step::End);
        };
        match reader.next().await? {
            Event::Record(record) => {
                self.next = record.offset() + 1;
                let bytes = [record.key(), record.value()];
                Ok(Step::Record {
                    offset: record.offset(),
                    origin: origin(record.headers(), self.work.question),
                    bytes: bytes.iter().flatten().map(|field| field.len() as u64).sum(),
                })
            }
            Event::End => Ok(Step::End),
            Event::OutOfRange => Ok(Step::OutOfRange),
            Event::Damaged(reason) => Err(SearchError::Damaged {
                topic: self.led.topic.clone(),
                partition: self.led.partition,
                offset: self.next,
                reason,
            }),
        }
    }

    fn moves(&self, log: &Log) -> SearchError {
        SearchError::LogMoves {
            topic: self.led.topic.clone(),
            partition: self.led.partition,
            log: OffsetRange {
                start: log.start,
                end: log.end,
            },
        }
    }
}

fn no_answer(led: &LedPartition) -> SearchError {
    SearchError::NoAnswer {
        topic: led.topic.clone(),
        partition: led.partition,
    }
}

/// What partitions have now, in the order given.
async fn logs(client: &Client, led: &[LedPartition]) -> Result<Vec<Log>, SearchError> {
    let failed = SearchError::kafka("ask for log starts and ends of the target topic");
    let latest = |isolation| client.list_offsets(led, OffsetSpec::Latest(isolation));
    let (starts, stables, ends) = tokio::join!(
        client.list_offsets(led, OffsetSpec::Earliest),
        latest(IsolationLevel::ReadCommitted),
        latest(IsolationLevel::ReadUncommitted),
    );
    let logs = starts.into_iter().zip(stables).zip(ends);
    logs.map(|((start, stable), end)| {
        Ok(Log {
            start: start.map_err(&failed)?.offset,
            stable: stable.map_err(&failed)?.offset,
            end: end.map_err(&failed)?.offset,
        })
    })
    .collect()
}

#[cfg(test)]
#[path = "headers_test.rs"]
mod tests;
