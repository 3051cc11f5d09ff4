//! Compares partitions, several at the same time: expected records from the store, the others from the reader.
//!
//! # Guarantees
//! - A segment that cannot be read costs the comparison of its own records only, where its name or the segments behind it tell
//!   how many they are.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::error_chain;
use tokio::task::JoinSet;

use super::AgainstError;
use super::compare::{Comparison, Counts, Difference, Next, Target};
use super::fields::Fields;
use super::look::Task;
use crate::context::Progress;
use crate::kafka::{Client, IsolationLevel, OffsetSpec, TopicFilter};
use crate::reader::{Event, Read, Reader, ReaderError, close};
use crate::restore::{ExpectedPartition, RestoreError, SegmentError};
use crate::store::Store;

/// Partitions that are compared at the same time.
const LANES: usize = 2;
/// How long nothing may come from the reader.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it gives: also records of open and aborted transactions. A restore writes none, so that those in its place are a
/// difference, and one that is open before it does not hold the reader up.
const ISOLATION: IsolationLevel = IsolationLevel::ReadUncommitted;

/// What was found in a partition.
pub(super) struct Compared {
    /// Which of the topics.
    pub(super) topic: usize,
    /// Its number.
    pub(super) partition: i32,
    /// What was counted.
    pub(super) counts: Counts,
    /// What differs.
    pub(super) differences: Vec<Difference>,
}

/// What the lanes share.
pub(super) struct Work {
    /// Where the archive is.
    pub(super) store: Store,
    /// The target cluster.
    pub(super) client: Client,
    /// Records are added to it.
    pub(super) progress: Arc<Progress>,
    /// Key of `plan.json`.
    pub(super) plan: String,
    /// What there is to do.
    pub(super) tasks: Mutex<VecDeque<Task>>,
}

/// A segment whose records cannot be told, and why.
struct Lost {
    segment: usize,
    reason: String,
}

impl Work {
    /// Compares all partitions; what was found stands in the order of topics and partitions.
    pub(super) async fn run(self) -> Result<Vec<Compared>, AgainstError> {
        let work = Arc::new(self);
        let mut lanes = JoinSet::new();
        for _ in 0..LANES {
            lanes.spawn(work.clone().lane());
        }
        let mut compared = Vec::new();
        while let Some(lane) = lanes.join_next().await {
            compared.extend(lane??);
        }
        compared.sort_by_key(|one: &Compared| (one.topic, one.partition));
        Ok(compared)
    }

    fn next_task(&self) -> Option<Task> {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.pop_front()
    }

    /// Compares partitions until there is none left.
    async fn lane(self: Arc<Self>) -> Result<Vec<Compared>, AgainstError> {
        let mut compared = Vec::new();
        let mut reader = None;
        while let Some(task) = self.next_task() {
            let (topic, partition) = (task.topic, task.target.partition);
            let comparison = self.compare(task, &mut reader).await?;
            let (counts, differences) = comparison.finish();
            compared.push(Compared {
                topic,
                partition,
                counts,
                differences,
            });
        }
        close(reader).await?;
        Ok(compared)
    }

    async fn compare(
        &self,
        task: Task,
        reader: &mut Option<Reader>,
    ) -> Result<Comparison, AgainstError> {
        let readable = task.target.readable();
        let mut comparison = Comparison::new(task.target);
        let Some(expected) = task.expected else {
            return Ok(comparison);
        };
        let target = comparison.target().clone();
        let reader = match readable.is_empty() {
            true => None,
            false => {
                let reader = self.reader(&target.topic, reader).await?;
                reader.assign(target.partition, readable.start)?;
                Some(&*reader)
            }
        };
        let mut found = Cursor {
            work: self,
            reader,
            end: readable.end,
            next: readable.start,
            current: None,
        };
        let mut walked: u64 = 0;
        let mut segment = 0;
        while segment < expected.segments() {
            let first = walked;
            let known = expected.records_of(segment);
            if known.is_some_and(|known| at(&target, first + known) <= target.log.start) {
                walked += known.unwrap_or_default();
                self.progress.add(0, 0, walked - first);
                segment += 1;
                continue;
            }
            let walking = self.walk(&expected, segment, &mut walked, &mut comparison, &mut found);
            match walking.await? {
                None => {
                    if let Some(known) = known.filter(|known| *known != walked - first) {
                        comparison.miscounted(expected.key(segment), known, walked - first);
                    }
                    segment += 1;
                }
                Some(reason) => {
                    let mut lost = vec![Lost { segment, reason }];
                    let next = match known {
                        Some(known) => (segment + 1, first + known),
                        None => self.resume(&expected, &mut lost).await?,
                    };
                    let mut from = at(&target, walked);
                    let passed = next.1.saturating_sub(walked);
                    walked += passed;
                    self.progress.add(0, 0, passed);
                    for one in lost {
                        let offsets = OffsetRange {
                            start: from,
                            end: at(&target, walked),
                        };
                        from = offsets.end;
                        comparison.cannot_read(expected.key(one.segment), one.reason, offsets);
                    }
                    segment = next.0;
                }
            }
        }
        if walked != expected.records() {
            comparison.miscounted(&self.plan, expected.records(), walked);
        }
        Ok(comparison)
    }

    /// Compares the records of a segment; why that ended before its end.
    async fn walk(
        &self,
        expected: &ExpectedPartition,
        segment: usize,
        walked: &mut u64,
        comparison: &mut Comparison,
        found: &mut Cursor<'_>,
    ) -> Result<Option<String>, AgainstError> {
        let batches = match expected.read(segment, &self.store).await {
            Ok(batches) => batches,
            Err(error) => return lost(error).map(Some),
        };
        for batch in batches {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => return Ok(Some(error_chain(&error))),
            };
            let first = at(comparison.target(), *walked);
            for record in &batch.records {
                let Some(fields) = Fields::of(&record.body) else {
                    return Ok(Some(format!(
                        "the record that belongs at offset {} is malformed",
                        first + record.offset
                    )));
                };
                let offset = first + record.offset;
                loop {
                    found.fill(comparison).await?;
                    let there = found.current.as_ref();
                    match comparison.step(offset, record.timestamp, &fields, there) {
                        Next::Both => {
                            found.current = None;
                            break;
                        }
                        Next::Expected => break,
                        Next::Found => found.current = None,
                    }
                }
            }
            let records = batch.records.len() as u64;
            *walked += records;
            self.progress.add(records, batch.size as u64, records);
        }
        Ok(None)
    }

    /// Where to go on after a segment of which nobody knows how many records count: the records behind the last such one are
    /// counted from the end. Gives the next segment and the records before it; adds further segments that are lost.
    async fn resume(
        &self,
        expected: &ExpectedPartition,
        lost_before: &mut Vec<Lost>,
    ) -> Result<(usize, u64), AgainstError> {
        let behind_first = lost_before.last().map_or(0, |lost| lost.segment) + 1;
        let (mut next, mut behind) = (behind_first, 0);
        for segment in behind_first..expected.segments() {
            match self.count(expected, segment).await? {
                Ok(records) => behind += records,
                Err(reason) => {
                    lost_before.push(Lost { segment, reason });
                    (next, behind) = (segment + 1, 0);
                }
            }
        }
        Ok((next, expected.records().saturating_sub(behind)))
    }

    async fn count(
        &self,
        expected: &ExpectedPartition,
        segment: usize,
    ) -> Result<Result<u64, String>, AgainstError> {
        if let Some(known) = expected.records_of(segment) {
            return Ok(Ok(known));
        }
        let batches = match expected.read(segment, &self.store).await {
            Ok(batches) => batches,
            Err(error) => return lost(error).map(Err),
        };
        let counted = batches.map(|batch| batch.map(|batch| batch.records.len() as u64));
        let counted: Result<u64, SegmentError> = counted.sum();
        Ok(counted.map_err(|error| error_chain(&error)))
    }

    /// A reader for `topic`, the lane's own where it has it already.
    async fn reader<'a>(
        &self,
        topic: &Arc<str>,
        lanes: &'a mut Option<Reader>,
    ) -> Result<&'a mut Reader, AgainstError> {
        let kept = match lanes.take() {
            Some(reader) if reader.topic() == topic => Some(reader),
            other => {
                close(other).await?;
                None
            }
        };
        let reader = match kept {
            Some(reader) => reader,
            None => {
                let config = self.client.config();
                Reader::new(config, topic, ISOLATION, PATIENCE).await?
            }
        };
        Ok(lanes.insert(reader))
    }

    /// Where a partition's log begins now.
    async fn log_start(&self, target: &Target) -> Result<i64, AgainstError> {
        let failed = AgainstError::kafka("ask for a log start");
        let name = TopicFilter::Named(vec![target.topic.clone()]);
        let found = self.client.topics(&name).await.map_err(&failed)?;
        let mut led = Vec::new();
        for topic in found {
            led.extend(topic.led_partitions().map_err(&failed)?);
        }
        led.retain(|led| led.partition == target.partition);
        let listed = self.client.list_offsets(&led, OffsetSpec::Earliest).await;
        match listed.into_iter().next() {
            Some(start) => Ok(start.map_err(&failed)?.offset),
            None => Err(ReaderError::Stalled {
                topic: target.topic.to_string(),
                partition: target.partition,
                seconds: 0,
                reason: "the partition is gone".into(),
            }
            .into()),
        }
    }
}

/// Why a segment is of no use, where it is the archive's fault.
fn lost(error: RestoreError) -> Result<String, AgainstError> {
    if let RestoreError::Format(FormatError::Damaged { reason, .. }) = error {
        return Ok(reason);
    }
    Err(error.into())
}

/// Offset of a record, by the records before it.
fn at(target: &Target, records: u64) -> i64 {
    let records = i64::try_from(records).unwrap_or(i64::MAX);
    target.base_offset.saturating_add(records)
}

/// The records that are there, one after another.
struct Cursor<'a> {
    work: &'a Work,
    /// `None` at the end.
    reader: Option<&'a Reader>,
    /// The offset before which records are of interest.
    end: i64,
    /// The offset that is read next.
    next: i64,
    current: Option<Read<'a>>,
}

impl Cursor<'_> {
    /// Makes the next record the current one, if there is one.
    async fn fill(&mut self, comparison: &mut Comparison) -> Result<(), AgainstError> {
        while self.current.is_none() {
            let Some(reader) = self.reader.filter(|_| self.next < self.end) else {
                return Ok(());
            };
            match reader.next().await? {
                Event::Record(record) if record.offset() < self.end => {
                    self.next = record.offset() + 1;
                    self.current = Some(record);
                }
                Event::Record(_) | Event::End => self.reader = None,
                Event::Damaged(reason) => {
                    comparison.cannot_fetch(self.next, &reason);
                    self.reader = None;
                }
                Event::OutOfRange => {
                    let start = self.work.log_start(comparison.target()).await?;
                    let from = self.next;
                    if start <= from {
                        // The log has become shorter while it was read.
                        comparison.cannot_fetch(from, "an offset that the log does not have");
                        self.reader = None;
                        continue;
                    }
                    comparison.log_start_moved(from, start);
                    self.next = start;
                    if start < self.end {
                        reader.seek(start)?;
                    }
                }
            }
        }
        Ok(())
    }
}
