//! The end of a run: topic parts, then the manifest.
//!
//! # Guarantees
//! - A part pins only segments that are durable and that cover its partition up to the run's end, gaps excepted, each with its
//!   reason.
//! - Where an object of the run is there already it is what counts: another attempt has written it.
//! - `partial.json` says what can be restored although the run has no manifest, which wins over it. It is no end: an attempt
//!   cannot know whether it is the last one. So each that fails adds the topics that it has completed.
//! - A topic that was complete once stays so, whatever keeps a later attempt from looking at it again.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, uncovered};
use kafka_backup_shared::archive::layout::SegmentName;
use kafka_backup_shared::archive::manifest::{
    Begin, BeginPartition, Gap, GapReason, Manifest, ManifestTopic, PinnedPartition, TopicPart,
    from_json, to_json, to_json_zst,
};
use kafka_backup_shared::archive::tiles::Foundation;
use kafka_backup_shared::plan::IsolationLevel;
use kafka_backup_shared::report::{Fault, HeldBack, StuckPartition, TopicReport};

use futures::{StreamExt, TryStreamExt};

use super::archive::{Archive, Base, CONCURRENCY};
use super::error::{BackupError, TopicFailure};
use super::groups;
use super::work::TopicState;
use crate::context::Completed;
use crate::kafka::ONLY_VISIBLE;
use crate::store::{Created, Updated};

/// Writes the parts and the manifest, or `partial.json` when topics failed.
///
/// # Errors
/// The store's; [`BackupError::Topics`] when topics failed.
pub(super) async fn commit(
    archive: &Archive,
    begin: &Begin,
    base: Option<&Base>,
    topics: Vec<TopicState>,
) -> Result<Manifest, BackupError> {
    let written = futures::stream::iter(topics)
        .map(|topic| async move {
            let name = topic.name.to_string();
            Ok::<_, BackupError>((name, commit_topic(archive, begin, topic).await?))
        })
        .buffer_unordered(CONCURRENCY);
    let written: BTreeMap<String, Result<ManifestTopic, TopicFailure>> =
        written.try_collect().await?;
    let mut complete = BTreeMap::new();
    let mut failed = failed_at_begin(begin);
    for (name, topic) in written {
        match topic {
            Ok(topic) => drop(complete.insert(name, topic)),
            Err(failure) => drop(failed.insert(name, failure)),
        }
    }
    let run = begin.run.run.clone();
    let manifest = Manifest {
        format_version: FORMAT_VERSION,
        run: begin.run.clone(),
        start_time: begin.start_time,
        completion_time: Timestamp::now(),
        cluster_id: begin.cluster_id.clone(),
        source_cluster_id: begin.source_cluster_id.clone(),
        isolation_level: begin.isolation_level,
        base: begin.base.clone(),
        records: complete
            .values()
            .map(|topic: &ManifestTopic| topic.added_records)
            .sum(),
        bytes: complete.values().map(|topic| topic.added_bytes).sum(),
        topics: complete,
        failed: failed
            .iter()
            .map(|(topic, failure)| (topic.clone(), failure.message.clone()))
            .collect(),
        missing_topics: begin.missing_topics.clone(),
        only_visible: begin.only_visible,
        groups: begin.groups.clone(),
        held_back: held_back(begin, base),
        include_offset_headers: begin.include_offset_headers,
    };
    if failed.is_empty() {
        let key = archive.layout.manifest(&run);
        return match archive
            .store
            .create(&key, to_json(&manifest).into())
            .await?
        {
            Created::New | Created::Same => Ok(manifest),
            Created::Exists(found) => Ok(from_json(&key, &found)?),
        };
    }
    let complete = manifest.topics.len();
    if complete > 0 {
        write_partial(archive, &run, &manifest).await?;
    }
    Err(BackupError::Topics {
        failed,
        complete,
        run,
    })
}

/// The topics that no attempt of the run can complete.
fn failed_at_begin(begin: &Begin) -> BTreeMap<String, TopicFailure> {
    let failure = |(topic, message): (&String, &String)| {
        let fault = begin.final_faults.get(topic).copied();
        let fault = fault.unwrap_or(Fault::Unavailable);
        (topic.clone(), TopicFailure::new(fault, message))
    };
    begin.failed.iter().map(failure).collect()
}

/// Creates `partial.json`, or adds to that of another attempt: later runs may go on from any topic that it has named.
async fn write_partial(archive: &Archive, run: &str, own: &Manifest) -> Result<(), BackupError> {
    let key = archive.layout.partial(run);
    loop {
        let Some((found, version)) = archive.store.get_versioned(&key).await? else {
            match archive.store.create(&key, to_json(own).into()).await? {
                Created::New | Created::Same => return Ok(()),
                Created::Exists(_) => continue,
            }
        };
        let found: Manifest = from_json(&key, &found)?;
        if own
            .topics
            .keys()
            .all(|topic| found.topics.contains_key(topic))
        {
            return Ok(());
        }
        let content: Bytes = to_json(&with_topics(own.clone(), found.topics)).into();
        let update = archive.store.update(&key, content, &version);
        match update.await? {
            Updated::Done(_) => return Ok(()),
            Updated::Changed => {}
        }
    }
}

/// The manifest with what another attempt has completed too.
fn with_topics(mut own: Manifest, others: BTreeMap<String, ManifestTopic>) -> Manifest {
    for (name, topic) in others {
        own.failed.remove(&name);
        own.topics.entry(name).or_insert(topic);
    }
    own.records = own.topics.values().map(|topic| topic.added_records).sum();
    own.bytes = own.topics.values().map(|topic| topic.added_bytes).sum();
    own
}

/// What open transactions keep from the run. A partition is stuck where the last stable offset is that of the complete run
/// before, and the high watermark is not.
fn held_back(begin: &Begin, base: Option<&Base>) -> HeldBack {
    let mut held = HeldBack::default();
    let committed_only = begin.isolation_level == IsolationLevel::ReadCommitted;
    let base = base.filter(|base| base.begin.isolation_level == begin.isolation_level);
    for (name, topic) in begin.topics.iter().filter(|_| committed_only) {
        let before = base
            .and_then(|base| Some(base.topic(name)?.0))
            .filter(|before| before.description.topic_id == topic.description.topic_id);
        for partition in &topic.partitions {
            let waiting = partition.high_watermark - partition.end;
            held.offsets += u64::try_from(waiting).unwrap_or(0);
            let is_stuck = before
                .and_then(|topic| {
                    let number = partition.partition;
                    topic.partitions.iter().find(|p| p.partition == number)
                })
                .is_some_and(|before| {
                    before.end == partition.end && before.high_watermark < partition.high_watermark
                });
            if waiting > 0 && is_stuck {
                held.add_stuck(StuckPartition {
                    topic: name.clone(),
                    partition: partition.partition,
                    last_stable_offset: partition.end,
                    high_watermark: partition.high_watermark,
                });
            }
        }
    }
    held
}

async fn commit_topic(
    archive: &Archive,
    begin: &Begin,
    mut topic: TopicState,
) -> Result<Result<ManifestTopic, TopicFailure>, BackupError> {
    let run = &begin.run.run;
    if let Some(failure) = topic.failure.take() {
        let Some(part) = archive.find_part(run, &topic.name).await? else {
            return Ok(Err(failure));
        };
        topic.list(archive).await?;
        return Ok(Ok(sum(&topic, &part, run)));
    }
    if let Some(unchanged) = topic.unchanged.take() {
        return Ok(Ok(unchanged));
    }
    let mut partitions = Vec::new();
    for partition in &topic.begin.partitions {
        match pin(&topic, partition) {
            Ok(pinned) => partitions.push(pinned),
            Err(failure) => return Ok(Err(failure)),
        }
    }
    let part = TopicPart {
        format_version: FORMAT_VERSION,
        topic: topic.name.to_string(),
        description: topic.begin.description.clone(),
        partitions,
    };
    let found = archive
        .create_part(run, &topic.name, to_json_zst(&part).into())
        .await?;
    let part = match found {
        None => part,
        Some(found) => {
            // It may pin what another worker stored after our listing.
            topic.list(archive).await?;
            found
        }
    };
    Ok(Ok(sum(&topic, &part, run)))
}

/// The part of one partition.
fn pin(topic: &TopicState, partition: &BeginPartition) -> Result<PinnedPartition, TopicFailure> {
    let links: Vec<Link> = topic
        .links(partition)
        .into_iter()
        .filter(|link| link.range.start < partition.end)
        .collect();
    let lost: Vec<OffsetRange> = topic
        .lost
        .iter()
        .filter(|(number, _)| *number == partition.partition)
        .map(|(_, range)| *range)
        .collect();
    let wanted = OffsetRange {
        start: partition.log_start,
        end: partition.end,
    };
    let missing = uncovered(&links, wanted);
    if let Some(hole) = missing.iter().find(|hole| {
        !lost
            .iter()
            .any(|lost| lost.start <= hole.start && hole.end <= lost.end)
    }) {
        return Err(TopicFailure::new(
            Fault::Bug,
            format!(
                "partition {}: offsets {} to {} were not captured",
                partition.partition, hole.start, hole.end
            ),
        ));
    }
    let gone = topic.lost_from_archive(partition);
    let within = |hole: &OffsetRange, link: &Link| {
        link.range.start < hole.end && hole.start < link.range.end
    };
    if let Some(link) = gone
        .iter()
        .find(|link| missing.iter().any(|hole| within(hole, link)))
    {
        return Err(TopicFailure::new(
            Fault::Corrupt,
            format!(
                "partition {}: the archive lacks the segment {}, which the source no longer has",
                partition.partition, link.name
            ),
        ));
    }
    let older = older_gaps(topic, partition, &links);
    let gaps = older.into_iter().chain(missing).map(|range| Gap {
        range,
        reason: GapReason::LogStartMoved,
    });
    Ok(PinnedPartition {
        partition: partition.partition,
        log_start: partition.log_start,
        end: partition.end,
        high_watermark: partition.high_watermark,
        generation: partition.generation.clone(),
        segments: links.iter().map(|link| link.name).collect(),
        gaps: gaps.collect(),
    })
}

/// Offsets below the source's log start that were never captured.
fn older_gaps(topic: &TopicState, partition: &BeginPartition, links: &[Link]) -> Vec<OffsetRange> {
    if let Some(pinned) = topic.base_partition(partition) {
        let first = pinned
            .links()
            .first()
            .map_or(pinned.end, |link| link.range.start);
        let first = pinned
            .gaps
            .first()
            .map_or(first, |gap| first.min(gap.range.start));
        return uncovered(
            links,
            OffsetRange {
                start: first,
                end: partition.log_start,
            },
        )
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect();
    }
    // A new generation of a partition that was captured before: between its end and the log start nothing is left. What a partial
    // run had of that, and what it found missing, only that one has.
    let before = topic.counted.as_ref().or(topic.base.as_ref());
    let before = before.and_then(|part| {
        part.partitions
            .iter()
            .find(|p| p.partition == partition.partition)
    });
    let between = before.map(|before| OffsetRange {
        start: before.end,
        end: partition.log_start,
    });
    between
        .into_iter()
        .filter(|range| !range.is_empty())
        .collect()
}

fn sum(topic: &TopicState, part: &TopicPart, run: &str) -> ManifestTopic {
    let mut sum = ManifestTopic {
        part: run.to_owned(),
        topic_id: part.description.topic_id,
        partitions: u32::try_from(part.partitions.len()).unwrap_or(u32::MAX),
        records: 0,
        bytes: 0,
        added_records: 0,
        added_bytes: 0,
        gaps: 0,
        added_gaps: 0,
    };
    for partition in &part.partitions {
        let sizes = topic
            .segments
            .get(&(partition.partition, partition.generation.clone()));
        let counted = topic.counted.as_ref();
        let before =
            counted.and_then(|part| part.pinned(partition.partition, &partition.generation));
        // A merged tile of what was pinned before adds nothing.
        let before = before.map(Foundation::new);
        let held = |name: &SegmentName| before.as_ref().is_some_and(|before| before.holds(name));
        sum.gaps += partition.gaps.len() as u64;
        sum.added_gaps += added_gaps(topic, partition);
        for name in &partition.segments {
            let bytes = sizes
                .and_then(|sizes| sizes.get(name))
                .copied()
                .unwrap_or(0);
            sum.records += name.records;
            sum.bytes += bytes;
            if !held(name) {
                sum.added_records += name.records;
                sum.added_bytes += bytes;
            }
        }
    }
    sum
}

/// Gaps of a partition that do not lie within one that the complete base has, of whatever generation.
fn added_gaps(topic: &TopicState, partition: &PinnedPartition) -> u64 {
    let base = topic.counted.iter().flat_map(|part| &part.partitions);
    let known: Vec<OffsetRange> = base
        .filter(|before| before.partition == partition.partition)
        .flat_map(|before| before.gaps.iter().map(|gap| gap.range))
        .collect();
    let is_known = |gap: &&Gap| {
        known
            .iter()
            .any(|known| known.start <= gap.range.start && gap.range.end <= known.end)
    };
    let all = partition.gaps.len();
    (all - partition.gaps.iter().filter(is_known).count()) as u64
}

/// Offsets by which the source is ahead of what the run captured, once each high watermark is known.
pub(super) fn lag(begin: &Begin, high_watermarks: &BTreeMap<(&str, i32), i64>) -> Option<u64> {
    let mut lag = 0;
    for (name, topic) in &begin.topics {
        for partition in &topic.partitions {
            let high = high_watermarks.get(&(name.as_str(), partition.partition))?;
            // Below it where the topic was made anew meanwhile.
            lag += u64::try_from(high - partition.end).unwrap_or(0);
        }
    }
    Some(lag)
}

pub(super) fn missing(topic: &str) -> String {
    format!("topic {topic} does not exist in the source cluster, or this user may not describe it")
}

/// What a complete run tells its user.
pub(super) fn completed(
    manifest: &Manifest,
    base: Option<&Base>,
    mut warnings: Vec<String>,
) -> Completed {
    for topic in &manifest.missing_topics {
        warnings.push(missing(topic));
    }
    if manifest.only_visible {
        warnings.push(ONLY_VISIBLE.into());
    }
    for topic in base
        .into_iter()
        .flat_map(|base| base.manifest.topics.keys())
    {
        if !manifest.topics.contains_key(topic) {
            warnings.push(format!(
                "topic {topic} was in the backup before this one and is not in this one"
            ));
        }
    }
    for (name, topic) in manifest.topics.iter().filter(|(_, topic)| topic.gaps > 0) {
        let gaps = topic.gaps;
        warnings.push(format!(
            "topic {name} has {gaps} gaps: the source deleted records before they were captured"
        ));
    }
    warnings.extend(manifest.groups.iter().flat_map(groups::warnings));
    warnings.extend(manifest.held_back.warning());
    Completed {
        records: manifest.records,
        bytes: manifest.bytes,
        held_back: manifest.held_back.clone(),
        gaps: manifest.topics.values().map(|topic| topic.gaps).sum(),
        new_gaps: manifest.topics.values().map(|topic| topic.added_gaps).sum(),
        warnings,
        topics: manifest
            .topics
            .iter()
            .map(|(name, topic)| TopicReport {
                topic: name.clone(),
                partitions: topic.partitions,
                records: topic.added_records,
                bytes: topic.added_bytes,
            })
            .collect(),
        ..Completed::default()
    }
}

#[cfg(test)]
#[path = "commit_test.rs"]
mod tests;
