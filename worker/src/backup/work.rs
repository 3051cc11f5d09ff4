//! What is left to do for a run: per topic what is there, per partition which ranges to fetch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, chain, uncovered};
use kafka_backup_shared::archive::layout::{ChainKey, SegmentName};
use kafka_backup_shared::archive::manifest::{
    Begin, BeginPartition, BeginTopic, ManifestTopic, PinnedPartition, TopicPart,
};
use kafka_backup_shared::archive::tiles::{Foundation, Sizes};
use kafka_backup_shared::report::Fault;

use super::archive::{Archive, Base, Bases, CONCURRENCY, Listing};
use super::error::{BackupError, TopicFailure};
use super::generation::{
    Before, Now, cut, fetch_before, last_epoch, may_refill, resume_at, tombstone_window,
};
use crate::kafka::{Client, LedPartition, PartitionEpoch, TopicFilter, TopicMetadata};

/// A topic of a run.
#[derive(Debug)]
pub(super) struct TopicState {
    pub(super) name: Arc<str>,
    pub(super) begin: BeginTopic,
    /// The part of the run that the topic goes on from, where it has one of this topic id.
    pub(super) base: Option<Arc<TopicPart>>,
    /// The complete base run's: what a run adds is counted from there. It is the same part, but where a partial run is between.
    pub(super) counted: Option<Arc<TopicPart>>,
    /// Nothing differs from the run that it goes on from: what that says of the topic goes for this one too.
    pub(super) unchanged: Option<ManifestTopic>,
    /// Segments that are durable.
    pub(super) segments: Listing,
    pub(super) failure: Option<TopicFailure>,
    /// What the source lost while this attempt was at work.
    pub(super) lost: Vec<(i32, OffsetRange)>,
}

/// A partition with something to fetch.
#[derive(Clone, Debug)]
pub(super) struct PartitionWork {
    /// Place of the topic in the run.
    pub(super) topic: usize,
    pub(super) chain: ChainKey,
    pub(super) led: LedPartition,
    pub(super) holes: Vec<Hole>,
    /// When the last fetch must be over, and what happens when it is not.
    pub(super) fetch_before: Option<FetchBefore>,
    /// The topic's `max.message.bytes`.
    pub(super) max_message_bytes: usize,
}

/// A range to fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) range: OffsetRange,
    /// Epoch of the last batch before it; -1 where there is none.
    pub(super) last_epoch: i32,
}

/// The time within which a compacted partition must be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FetchBefore {
    pub(super) limit: Timestamp,
    /// Its generation is continued: the run cannot be complete without it.
    pub(super) continued: bool,
}

impl FetchBefore {
    /// Why a partition cannot be completed in this run.
    pub(super) fn too_late(&self, partition: i32) -> TopicFailure {
        TopicFailure::new(
            Fault::Unavailable,
            format!(
                "partition {partition}: the topic is compacted and was not fetched before {}, after which deletions since the run before may be gone (delete.retention.ms); the next run copies it anew",
                self.limit
            ),
        )
    }
}

impl TopicState {
    /// The base's partition, if its generation is the one of this run.
    pub(super) fn base_partition(&self, partition: &BeginPartition) -> Option<&PinnedPartition> {
        let base = self.base.as_ref()?;
        base.pinned(partition.partition, &partition.generation)
    }

    /// Learns which segments are durable.
    pub(super) async fn list(&mut self, archive: &Archive) -> Result<(), BackupError> {
        let id = self.begin.description.topic_id;
        self.segments = archive.segments(&self.name, id).await?;
        Ok(())
    }

    /// The segments of a partition that count for this run, of those that are durable.
    pub(super) fn links(&self, partition: &BeginPartition) -> Vec<Link> {
        let key = (partition.partition, partition.generation.clone());
        let Some(there) = self.segments.get(&key) else {
            return Vec::new();
        };
        match self.base_partition(partition) {
            Some(pinned) => Foundation::new(pinned).links(there),
            None => chain(there.keys().copied().collect()),
        }
    }

    /// What the base pinned of a partition and the archive has lost.
    pub(super) fn lost_from_archive(&self, partition: &BeginPartition) -> Vec<Link> {
        let Some(pinned) = self.base_partition(partition) else {
            return Vec::new();
        };
        let key = (partition.partition, partition.generation.clone());
        let nothing = Sizes::new();
        Foundation::new(pinned).lost(self.segments.get(&key).unwrap_or(&nothing))
    }
}

/// The topics of a run with what is durable of them.
pub(super) async fn look(
    archive: &Archive,
    begin: &Begin,
    bases: &Bases,
) -> Result<Vec<TopicState>, BackupError> {
    let topics = begin.topics.clone();
    let looked =
        futures::stream::iter(topics).map(|(name, topic)| look_at(archive, bases, name, topic));
    looked.buffered(CONCURRENCY).try_collect().await
}

async fn look_at(
    archive: &Archive,
    bases: &Bases,
    name: String,
    topic: BeginTopic,
) -> Result<TopicState, BackupError> {
    let id = topic.description.topic_id;
    // Same id, or it is another topic, whose part is of no use.
    let of_base = |base: Option<&Base>| {
        let (before, entry) = base?.topic(&name)?;
        (before.description.topic_id == id).then(|| (before.clone(), entry.clone()))
    };
    let before = of_base(bases.of(&name));
    let complete = of_base(bases.complete.as_deref()).map(|(_, entry)| entry.part);
    let mut state = TopicState {
        name: Arc::from(&*name),
        begin: topic,
        base: None,
        counted: None,
        unchanged: None,
        segments: Listing::new(),
        failure: None,
        lost: Vec::new(),
    };
    if let Some((before, entry)) = before {
        if before == state.begin {
            state.unchanged = Some(match bases.partial.contains_key(&name) {
                true => entry,
                false => ManifestTopic {
                    added_records: 0,
                    added_bytes: 0,
                    added_gaps: 0,
                    ..entry
                },
            });
            return Ok(state);
        }
        state.base = Some(Arc::new(archive.part(&entry.part, &name).await?));
        state.counted = match complete {
            Some(part) if part == entry.part => state.base.clone(),
            Some(part) => Some(Arc::new(archive.part(&part, &name).await?)),
            None => None,
        };
    }
    state.list(archive).await?;
    Ok(state)
}

/// Counts for the progress of a run: what it adds to its base, and what of that is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Offsets that the run adds.
    pub(super) planned: u64,
    /// Offsets of those that are durable.
    pub(super) done: u64,
    /// Records in what is durable.
    pub(super) records: u64,
    /// Bytes in what is durable.
    pub(super) bytes: u64,
}

/// What earlier attempts, and partial runs, have added beyond the complete base.
pub(super) fn counts(topics: &[TopicState]) -> Counts {
    let mut counts = Counts::default();
    for topic in topics {
        if let Some(unchanged) = &topic.unchanged {
            counts.records += unchanged.added_records;
            counts.bytes += unchanged.added_bytes;
            continue;
        }
        for partition in &topic.begin.partitions {
            let wanted = OffsetRange {
                start: partition.log_start,
                end: partition.end,
            };
            let counted = topic.counted.as_ref();
            let generation = &partition.generation;
            let pinned = counted.and_then(|part| part.pinned(partition.partition, generation));
            let mut before = pinned.map(PinnedPartition::links).unwrap_or_default();
            // What is fetched again takes its time too, though it adds nothing.
            let lost = topic.lost_from_archive(partition);
            before.retain(|link| !lost.contains(link));
            let links = topic.links(partition);
            let planned = total(&uncovered(&before, wanted));
            counts.planned += planned;
            counts.done += planned.saturating_sub(total(&uncovered(&links, wanted)));
            let sizes = topic
                .segments
                .get(&(partition.partition, partition.generation.clone()));
            let base = pinned.map(Foundation::new);
            let held = |name: &SegmentName| base.as_ref().is_some_and(|base| base.holds(name));
            for link in links
                .iter()
                .filter(|link| !held(&link.name) && link.range.start < partition.end)
            {
                counts.records += link.name.records;
                counts.bytes += sizes
                    .and_then(|sizes| sizes.get(&link.name))
                    .copied()
                    .unwrap_or(0);
            }
        }
    }
    counts
}

fn total(ranges: &[OffsetRange]) -> u64 {
    ranges
        .iter()
        .map(|range| u64::try_from(range.end.saturating_sub(range.start)).unwrap_or(0))
        .sum()
}

/// What is left to fetch. A topic that cannot be gone on with gets its failure.
///
/// # Errors
/// The archive lacks what a manifest pins, below the source's log start; or no broker answers.
pub(super) async fn plan(
    archive: &Archive,
    begin: &Begin,
    bases: &Bases,
    client: &Client,
    topics: &mut [TopicState],
    warnings: &mut Vec<String>,
) -> Result<Vec<PartitionWork>, BackupError> {
    let mut open: Vec<(usize, BeginPartition, Vec<Link>)> = Vec::new();
    for (index, topic) in topics
        .iter()
        .enumerate()
        .filter(|(_, topic)| topic.unchanged.is_none() && topic.failure.is_none())
    {
        for partition in &topic.begin.partitions {
            let links = topic.links(partition);
            check_pinned(archive, topic, partition, &links)?;
            let wanted = OffsetRange {
                start: partition.log_start,
                end: partition.end,
            };
            // The leader is asked even if all seems covered: by what may have been truncated.
            if !wanted.is_empty() {
                open.push((index, partition.clone(), links));
            }
        }
    }
    fail_what_cannot_be_refilled(topics);
    warnings.extend(lost_warnings(topics));
    fail_what_is_late(begin, bases, topics, &open, Timestamp::now());
    let leaders = leaders(client, topics, &open).await?;
    let epochs: Vec<(usize, PartitionEpoch)> = open
        .iter()
        .enumerate()
        .filter_map(|(place, (topic, partition, links))| {
            let led = leaders.get(&(*topic, partition.partition))?.clone();
            Some((
                place,
                PartitionEpoch {
                    partition: led,
                    epoch: last_epoch(links)?,
                },
            ))
        })
        .collect();
    let asked: Vec<PartitionEpoch> = epochs.iter().map(|(_, epoch)| epoch.clone()).collect();
    let answers = client.epoch_ends(&asked).await;
    let mut answers: BTreeMap<usize, _> = epochs
        .iter()
        .zip(answers)
        .map(|((place, epoch), answer)| (*place, (epoch.epoch, answer)))
        .collect();

    let mut work = Vec::new();
    for (place, (index, partition, mut links)) in open.into_iter().enumerate() {
        let Some(led) = leaders.get(&(index, partition.partition)).cloned() else {
            continue;
        };
        let topic = &mut topics[index];
        if topic.failure.is_some() {
            continue;
        }
        if let Some((epoch, answer)) = answers.remove(&place) {
            let resumed = match answer {
                Ok(answer) => resume_at(&links, epoch, answer).ok_or_else(|| {
                    TopicFailure::new(Fault::Unavailable, format!(
                        "partition {}: the source's leader knows nothing of what was captured since the run began; the next run copies it anew",
                        partition.partition
                    ))
                }),
                Err(error) => Err(TopicFailure::of_kafka(&error)),
            };
            match resumed {
                Ok(end) => links = cut(links, end),
                Err(failure) => {
                    topic.failure.get_or_insert(failure);
                    continue;
                }
            }
        }
        let wanted = OffsetRange {
            start: partition.log_start,
            end: partition.end,
        };
        let lost = topic.lost_from_archive(&partition);
        let holes: Vec<Hole> = uncovered(&links, wanted)
            .into_iter()
            .flat_map(|range| split(range, &lost))
            .map(|range| hole(&links, range))
            .collect();
        if holes.is_empty() {
            continue;
        }
        work.push(PartitionWork {
            topic: index,
            chain: ChainKey {
                topic: topic.name.to_string(),
                topic_id: topic.begin.description.topic_id,
                partition: partition.partition,
                generation: partition.generation.clone(),
            },
            led,
            holes,
            fetch_before: limit_of(begin, bases, topic, &partition),
            max_message_bytes: config(topic, "max.message.bytes").unwrap_or(1 << 20),
        });
    }
    Ok(work)
}

/// Fails the topics that are compacted and continued, where the time for that is over. Nothing tells when the segments that
/// earlier attempts left were fetched, only that it was before the listing: what was listed in time counts, and else nothing.
fn fail_what_is_late(
    begin: &Begin,
    bases: &Bases,
    topics: &mut [TopicState],
    open: &[(usize, BeginPartition, Vec<Link>)],
    listed: Timestamp,
) {
    for (index, partition, links) in open {
        let topic = &mut topics[*index];
        let late = limit_of(begin, bases, topic, partition)
            .filter(|before| before.continued && listed > before.limit);
        let (Some(late), Some(pinned)) = (late, topic.base_partition(partition)) else {
            continue;
        };
        let base = Foundation::new(pinned);
        let wanted = OffsetRange {
            start: partition.log_start,
            end: partition.end,
        };
        let adds = links.iter().any(|link| !base.holds(&link.name));
        if adds || !uncovered(links, wanted).is_empty() {
            let failure = late.too_late(partition.partition);
            topic.failure.get_or_insert(failure);
        }
    }
}

/// Cuts a range at the ends of lost segments: what stands for one lies within its offsets.
fn split(mut range: OffsetRange, lost: &[Link]) -> Vec<OffsetRange> {
    let mut pieces = Vec::new();
    let ends = lost
        .iter()
        .flat_map(|link| [link.range.start, link.range.end]);
    for end in ends {
        if range.start < end && end < range.end {
            pieces.push(OffsetRange {
                start: range.start,
                end,
            });
            range.start = end;
        }
    }
    pieces.push(range);
    pieces
}

/// Fails the topics of which a segment is lost that the source cannot give again as it was.
fn fail_what_cannot_be_refilled(topics: &mut [TopicState]) {
    for topic in topics.iter_mut().filter(|topic| topic.unchanged.is_none()) {
        let failure = topic.begin.partitions.iter().find_map(|partition| {
            let pinned = topic.base_partition(partition)?;
            let first = *topic.lost_from_archive(partition).first()?;
            let message = format!(
                "partition {}: the archive lacks the segment {}, and the source cannot give it again as it was; the next run copies the partition anew",
                partition.partition, first.name
            );
            let may_refill = may_refill(pinned, &topic.begin.description.configs);
            (!may_refill).then(|| TopicFailure::new(Fault::Corrupt, message))
        });
        if let Some(failure) = failure {
            topic.failure.get_or_insert(failure);
        }
    }
}

/// What a user should know about segments that are fetched again.
fn lost_warnings(topics: &[TopicState]) -> Vec<String> {
    let mut warnings = Vec::new();
    for topic in topics
        .iter()
        .filter(|topic| topic.unchanged.is_none() && topic.failure.is_none())
    {
        for partition in &topic.begin.partitions {
            let lost = topic.lost_from_archive(partition);
            let Some((first, others)) = lost.split_first() else {
                continue;
            };
            let others = match others.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            warnings.push(format!(
                "topic {} partition {}: the archive had lost the segment {}{others}, which was fetched again for this run; earlier runs remain without it",
                topic.name, partition.partition, first.name
            ));
        }
    }
    warnings
}

fn hole(links: &[Link], range: OffsetRange) -> Hole {
    let before: Vec<Link> = links
        .iter()
        .copied()
        .filter(|link| link.range.end <= range.start)
        .collect();
    // Offsets that nobody has stand between: what the leader has before them is not known to us.
    let adjacent = before
        .last()
        .is_some_and(|last| last.range.end == range.start);
    let last_epoch = last_epoch(&before).filter(|_| adjacent).unwrap_or(-1);
    Hole { range, last_epoch }
}

fn config(topic: &TopicState, name: &str) -> Option<usize> {
    topic
        .begin
        .description
        .configs
        .get(name)?
        .value
        .as_ref()?
        .parse()
        .ok()
}

/// What was covered by the base and is below the source's log start cannot be fetched again.
fn check_pinned(
    archive: &Archive,
    topic: &TopicState,
    partition: &BeginPartition,
    links: &[Link],
) -> Result<(), BackupError> {
    let Some(pinned) = topic.base_partition(partition) else {
        return Ok(());
    };
    for link in pinned.links() {
        let gone = OffsetRange {
            start: link.range.start,
            end: link.range.end.min(partition.log_start),
        };
        let missing = uncovered(links, gone);
        if let Some(range) = missing.first().filter(|_| !gone.is_empty()) {
            return Err(BackupError::Damaged {
                archive: archive.layout.root().to_owned(),
                what: format!(
                    "topic {} partition {} lacks the segment {} with offsets {} to {}, which the source no longer has",
                    topic.name, partition.partition, link.name, range.start, range.end
                ),
            });
        }
    }
    Ok(())
}

fn limit_of(
    begin: &Begin,
    bases: &Bases,
    topic: &TopicState,
    partition: &BeginPartition,
) -> Option<FetchBefore> {
    let configs = &topic.begin.description.configs;
    let base = bases.of(&topic.name);
    let before = base.and_then(|base| Some((base, base.topic(&topic.name)?.0)));
    if let Some((base, before)) = before.filter(|_| topic.base_partition(partition).is_some()) {
        let id = topic.begin.description.topic_id;
        let isolation = begin.isolation_level;
        let (end, start_time) = (partition.end, base.begin.start_time);
        let before = Before {
            topic_id: id,
            isolation,
            start_time,
            end,
            configs: &before.description.configs,
        };
        let now = Now {
            topic_id: id,
            isolation,
            time: begin.start_time,
            end,
            configs,
        };
        return fetch_before(&before, &now).map(|limit| FetchBefore {
            limit,
            continued: true,
        });
    }
    let window: Duration = tombstone_window(configs)?;
    let limit = begin
        .start_time
        .saturating_add(window)
        .unwrap_or(Timestamp::MAX);
    Some(FetchBefore {
        limit,
        continued: false,
    })
}

/// Leaders of the partitions with work. A topic that is no longer there, or is another one, fails.
async fn leaders(
    client: &Client,
    topics: &mut [TopicState],
    open: &[(usize, BeginPartition, Vec<Link>)],
) -> Result<BTreeMap<(usize, i32), LedPartition>, BackupError> {
    let indices: BTreeSet<usize> = open.iter().map(|(topic, _, _)| *topic).collect();
    if indices.is_empty() {
        return Ok(BTreeMap::new());
    }
    let names = indices
        .iter()
        .map(|index| topics[*index].name.clone())
        .collect();
    let metadata = client
        .topics(&TopicFilter::Named(names))
        .await
        .map_err(super::error::kafka(
            "describe the topics of the source cluster",
        ))?;
    let mut leaders = BTreeMap::new();
    for index in indices {
        let topic = &mut topics[index];
        let found = metadata.iter().find(|found| found.name == topic.name);
        if let Err(failure) = check_topic(found, topic.begin.description.topic_id.0) {
            topic.failure.get_or_insert(failure);
            continue;
        }
        for partition in found.into_iter().flat_map(|found| &found.partitions) {
            // One without leader is waited for by whoever fetches it; any broker will tell that it is not the leader.
            let led = LedPartition {
                topic: topic.name.clone(),
                partition: partition.partition,
                leader: partition.leader.unwrap_or(-1),
                leader_epoch: partition.leader_epoch,
            };
            leaders.insert((index, partition.partition), led);
        }
    }
    Ok(leaders)
}

/// Whether metadata shows the topic that the run began with.
pub(super) fn check_topic(
    found: Option<&TopicMetadata>,
    topic_id: [u8; 16],
) -> Result<(), TopicFailure> {
    let gone = "the topic was deleted while the run was at work";
    let Some(found) = found else {
        return Err(TopicFailure::new(Fault::Spec, gone));
    };
    if found.error == Some(crate::kafka::ResponseError::UnknownTopicOrPartition) {
        return Err(TopicFailure::new(Fault::Spec, gone));
    }
    if found.error.is_none() && found.id.into_bytes() != topic_id {
        let message = "the topic was deleted and created again while the run was at work";
        return Err(TopicFailure::new(Fault::Spec, message));
    }
    Ok(())
}
