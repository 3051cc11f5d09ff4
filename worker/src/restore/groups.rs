//! What the saved consumer groups of a backup have committed, as offsets of the topics that a restore wrote.
//!
//! Whoever commits offsets for a restore calls [`translate`] when its records are in, and gives each [`TranslatedGroup`] to the
//! target cluster. Nothing is committed and nothing is written here.
//!
//! # Guarantees
//! - Every offset of a group that is meant is either translated or left out with a reason: [`TranslatedGroup`].
//! - What a translated offset is, and when it is exact, is said by [`kafka_backup_shared::archive::translate`].
//! - Records are chosen by what chose them for the restore: [`Choice`] of its `plan.json`, and [`batches::count`].
//! - A restore that is not complete is told, with the object that is missing: all records of a partition are in its offset map,
//!   or it is not used.
//! - Only segments are read in which an offset lies between records of one batch with holes; what retention has taken of the
//!   others since is not missed.
//! - Memory is two segments, the offset maps of two partitions, the different offsets that are asked for, and one group.
//!
//! # Assumptions
//! - `decision` is the restore's `plan.json`, and `layout` its archive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::batch::Batches;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, uncovered};
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffset, GroupOffsets, read_groups};
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{Manifest, from_json};
use kafka_backup_shared::archive::restore::{
    OffsetPiece, OffsetRun, RestoreDecision, RestoredTopicDecision, SourcePartition,
    TargetPartition,
};
use kafka_backup_shared::archive::translate::{Inexact, OffsetMap, Translated, Translation};
use kafka_backup_shared::plan::{RestorePlan, SpecError};
use kafka_backup_shared::selector::GroupSelector;

use super::batches;
use super::choice::Choice;
use super::error::RestoreError;
use super::find;
use super::units::{self, choice, links};
use crate::store::Store;

/// Partitions that are translated at once: each may hold a segment.
const PARTITIONS: usize = 2;
/// Pieces of an offset map that are read at once for each.
const PIECES: usize = 16;

/// A group and where its members go on in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatedGroup {
    /// The group's id.
    pub group: String,
    /// Its kind.
    pub kind: GroupKind,
    /// What can be committed, ascending by source topic and partition.
    pub offsets: Vec<TranslatedOffset>,
    /// What has no place in the target, ascending by source topic and partition.
    pub left_out: Vec<LeftOut>,
}

/// A committed offset and what it is in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranslatedOffset {
    /// The source topic.
    pub topic: String,
    /// What the group had committed for a partition of it.
    pub committed: GroupOffset,
    /// The target topic.
    pub target_topic: Arc<str>,
    /// The target partition.
    pub target_partition: i32,
    /// The offset to commit there.
    pub offset: i64,
    /// Why it is not the very place; `None`: it is.
    pub inexact: Option<Inexact>,
    /// The leader epoch to commit with it; `None`: none (-1 in the protocol).
    ///
    /// The committed one holds only for the same place in the same log: cluster, topic and offset are the saved ones. Another
    /// log's epoch leaves a Java consumer waiting for ever. In the saved log itself restored records may have a later epoch than
    /// the saved one, and the consumer then takes its position for truncated (KIP-320): a Java consumer of 4.1 was seen to go
    /// back to the first restored record, and without a reset policy to fail.
    pub leader_epoch: Option<i32>,
}

/// A committed offset that has no place in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The source topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Why.
    pub reason: LeftOutReason,
}

/// Why a committed offset has no place in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeftOutReason {
    /// The restore was not asked for the topic.
    NotAsked,
    /// The archive has lost something of the topic, so that nothing of it was restored.
    Failed(Arc<str>),
    /// The backup has no such partition: it is younger, or the topic was deleted and created again meanwhile.
    NoSuchPartition,
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAsked => f.write_str("is not part of the restore"),
            Self::Failed(reason) => write!(f, "was not restored: {reason}"),
            Self::NoSuchPartition => f.write_str("is not in the backup"),
        }
    }
}

/// The groups of a backup, and the places of their offsets.
#[derive(Debug)]
pub struct Translations {
    object: String,
    bytes: Bytes,
    selector: Option<GroupSelector>,
    places: BTreeMap<String, Places>,
    failed: BTreeMap<String, Arc<str>>,
}

/// Where the offsets of a source topic are.
#[derive(Debug)]
struct Places {
    target: Arc<str>,
    log: Log,
    /// By source partition.
    partitions: BTreeMap<i32, PartitionPlaces>,
}

/// Where the offsets of a source partition are.
#[derive(Debug)]
struct PartitionPlaces {
    target: i32,
    /// By committed offset.
    offsets: BTreeMap<i64, Translated>,
}

/// Whether records went to the log that they were captured from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Log {
    Same,
    Other,
}

/// The consumer groups of a backup.
#[derive(Debug)]
pub(crate) struct SavedGroups {
    /// Ascending by id.
    pub(crate) groups: Vec<GroupOffsets>,
    /// Keys of the archive.
    pub(crate) layout: Layout,
    topics: BTreeSet<String>,
}

impl SavedGroups {
    /// Whether a group has committed offsets for a topic that is restored.
    pub(crate) fn has_to_do_with(&self, group: &GroupOffsets) -> bool {
        let mut topics = group.topics.keys();
        topics.any(|topic| self.topics.contains(topic))
    }
}

/// What the consumer groups of the backup had committed that `plan` restores.
///
/// # Errors
/// The backup has no groups, or is not there, or not with these topics.
pub(crate) async fn saved(plan: &RestorePlan, store: &Store) -> Result<SavedGroups, RestoreError> {
    let archives = find::archives(&plan.request, store).await?;
    let earlier = super::earlier(&archives, &plan.run.uid, store).await?;
    let found = match earlier {
        Some(earlier) => {
            let archive = std::slice::from_ref(&earlier.archive);
            find::run(archive, &earlier.decision.backup_id, store).await?
        }
        None => find::run(&archives, &plan.request.backup_id, store).await?,
    };
    let (object, bytes) = object(store, &found.layout, &found.backup_id, &found.manifest).await?;
    let groups = read_groups(&object, &bytes)?;
    let (targets, _) = find::targets(&plan.request, &found)?;
    Ok(SavedGroups {
        groups: groups.collect::<Result<_, _>>()?,
        topics: targets.into_keys().collect(),
        layout: found.layout,
    })
}

/// What the restore with this uid has decided.
///
/// # Errors
/// It has not begun.
pub(crate) async fn decided(
    layout: &Layout,
    uid: &str,
    store: &Store,
) -> Result<RestoreDecision, RestoreError> {
    let decided = super::decision(layout, uid, store).await?;
    decided
        .ok_or_else(|| RestoreError::Bug(format!("restore {uid} is complete and has no plan.json")))
}

/// The object with the groups of a backup.
async fn object(
    store: &Store,
    layout: &Layout,
    backup: &str,
    manifest: &Manifest,
) -> Result<(String, Bytes), RestoreError> {
    let Some(part) = &manifest.groups else {
        let expected = "a backup with consumer groups (spec.consumerGroups of the KafkaBackup)";
        return Err(SpecError::new("spec.backupId", expected, format!("{backup:?}")).into());
    };
    let object = layout.groups(backup, part.crc32c);
    match store.get(&object).await? {
        Some(bytes) => Ok((object, bytes)),
        None => Err(RestoreError::lost(object)),
    }
}

/// Finds the places of what the groups of the backup that `decision` restored had committed, of all groups or those that
/// `selector` means.
///
/// # Errors
/// The backup has no groups, or one of them has offsets on a topic whose records were dealt out by their keys; the restore is
/// not complete; or the archive is damaged. See [`RestoreError::fault`].
pub async fn translate(
    store: &Store,
    layout: &Layout,
    decision: &RestoreDecision,
    selector: Option<&GroupSelector>,
) -> Result<Translations, RestoreError> {
    let backup = &decision.backup_id;
    let Some(found) = find::by_id(layout.clone(), backup, store).await? else {
        return Err(RestoreError::lost(layout.manifest(backup)));
    };
    let (object, bytes) = object(store, layout, backup, &found.manifest).await?;
    let asked = asked(&object, &bytes, decision, selector)?;
    let place = &Place {
        store,
        layout,
        decision,
    };
    let mut places = BTreeMap::new();
    for (name, topic) in &decision.topics {
        let same = decision.target_cluster_id == found.manifest.cluster_id
            && topic.target_topic_id == topic.source_topic_id;
        places.insert(
            name.clone(),
            Places {
                target: Arc::from(topic.target.as_str()),
                log: if same { Log::Same } else { Log::Other },
                partitions: BTreeMap::new(),
            },
        );
    }
    let mut partitions = stream::iter(asked)
        .map(|asked| async move {
            let partition = place.translate(&asked).await?;
            Ok::<_, RestoreError>((asked.topic, asked.source.partition, partition))
        })
        .buffer_unordered(PARTITIONS);
    while let Some((topic, partition, translated)) = partitions.try_next().await? {
        if let Some(places) = places.get_mut(topic) {
            places.partitions.insert(partition, translated);
        }
    }
    drop(partitions);
    let failed = decision.failed.iter();
    Ok(Translations {
        object,
        bytes,
        selector: selector.cloned(),
        places,
        failed: failed
            .map(|(topic, reason)| (topic.clone(), Arc::from(reason.as_str())))
            .collect(),
    })
}

impl Translations {
    /// The groups with what they had committed and where that is, ascending by id.
    ///
    /// # Errors
    /// The object with the groups is damaged; after the first one there is no more.
    pub fn groups(
        &self,
    ) -> Result<impl Iterator<Item = Result<TranslatedGroup, FormatError>> + '_, FormatError> {
        let groups = meant(&self.object, &self.bytes, self.selector.as_ref())?;
        Ok(groups.map(|group| Ok(self.group(group?))))
    }

    fn group(&self, group: GroupOffsets) -> TranslatedGroup {
        let (mut offsets, mut left_out) = (Vec::new(), Vec::new());
        for (topic, all) in group.topics {
            for committed in all {
                match self.place(&topic, &committed) {
                    Ok((places, partition, translated)) => offsets.push(TranslatedOffset {
                        target_topic: places.target.clone(),
                        target_partition: partition.target,
                        offset: translated.offset,
                        inexact: translated.inexact,
                        leader_epoch: kept_epoch(&committed, translated.offset, places.log),
                        topic: topic.clone(),
                        committed,
                    }),
                    Err(reason) => left_out.push(LeftOut {
                        topic: topic.clone(),
                        partition: committed.partition,
                        reason,
                    }),
                }
            }
        }
        TranslatedGroup {
            group: group.group,
            kind: group.kind,
            offsets,
            left_out,
        }
    }

    fn place(
        &self,
        topic: &str,
        committed: &GroupOffset,
    ) -> Result<(&Places, &PartitionPlaces, Translated), LeftOutReason> {
        let Some(places) = self.places.get(topic) else {
            let failed = self.failed.get(topic).cloned();
            return Err(failed.map_or(LeftOutReason::NotAsked, LeftOutReason::Failed));
        };
        let partition = places.partitions.get(&committed.partition);
        let found = partition.and_then(|partition| {
            let translated = partition.offsets.get(&committed.offset)?;
            Some((places, partition, *translated))
        });
        found.ok_or(LeftOutReason::NoSuchPartition)
    }
}

/// The leader epoch that may be committed with an offset.
fn kept_epoch(committed: &GroupOffset, offset: i64, log: Log) -> Option<i32> {
    match log {
        Log::Same => committed
            .leader_epoch
            .filter(|_| committed.offset == offset),
        Log::Other => None,
    }
}

/// The groups of an object that `selector` means.
fn meant<'a>(
    object: &'a str,
    bytes: &'a [u8],
    selector: Option<&'a GroupSelector>,
) -> Result<impl Iterator<Item = Result<GroupOffsets, FormatError>> + 'a, FormatError> {
    let is_meant = move |group: &Result<GroupOffsets, FormatError>| match group {
        Ok(group) => selector.is_none_or(|selector| selector.matches(&group.group)),
        Err(_) => true,
    };
    Ok(read_groups(object, bytes)?.filter(is_meant))
}

/// The different offsets that groups have committed for a partition.
struct Asked<'a> {
    topic: &'a str,
    decision: &'a RestoredTopicDecision,
    source: &'a SourcePartition,
    target: &'a TargetPartition,
    offsets: BTreeSet<i64>,
}

/// What is to be translated, by partition.
fn asked<'a>(
    object: &str,
    bytes: &[u8],
    decision: &'a RestoreDecision,
    selector: Option<&GroupSelector>,
) -> Result<Vec<Asked<'a>>, RestoreError> {
    let mut asked: BTreeMap<(&str, i32), Asked<'a>> = BTreeMap::new();
    for group in meant(object, bytes, selector)? {
        let group = group?;
        for (topic, offsets) in &group.topics {
            let Some((topic, decided)) = decision.topics.get_key_value(topic) else {
                continue;
            };
            if decided.by_key.is_some() {
                return Err(SpecError::new(
                    "spec.repartition",
                    "that the records of a partition stay together, for consumer groups to go on behind them",
                    format!(
                        "ByKey for topic {topic}, on which group {} has committed offsets",
                        group.group
                    ),
                )
                .into());
            }
            for GroupOffset {
                partition, offset, ..
            } in offsets
            {
                let sources = &decided.sources;
                let Some(source) = sources.iter().find(|one| one.partition == *partition) else {
                    continue;
                };
                let mut targets = decided.partitions.iter();
                let Some(target) = targets.find(|one| one.sources == [*partition]) else {
                    return Err(RestoreError::Bug(format!(
                        "topic {topic} partition {partition} has no target partition of its own"
                    )));
                };
                let entry = asked.entry((topic, *partition)).or_insert(Asked {
                    topic,
                    decision: decided,
                    source,
                    target,
                    offsets: BTreeSet::new(),
                });
                entry.offsets.insert(*offset);
            }
        }
    }
    Ok(asked.into_values().collect())
}

/// Where a restore has left its offset map.
struct Place<'a> {
    store: &'a Store,
    layout: &'a Layout,
    decision: &'a RestoreDecision,
}

impl Place<'_> {
    async fn translate(&self, asked: &Asked<'_>) -> Result<PartitionPlaces, RestoreError> {
        let choice = choice(self.decision, asked.topic, asked.decision);
        let links = links(&asked.source.segments, asked.source.range);
        let map = self.offset_map(asked, &links, &choice).await?;
        let mut offsets = BTreeMap::new();
        // The offsets ascend, and so do the segments.
        let mut segment: Option<Segment> = None;
        for committed in &asked.offsets {
            let translated = match map.translate(*committed) {
                Translation::Known(known) => known,
                Translation::Within(run) => {
                    let has_run =
                        |link: &&Link| link.range.start <= run.start && run.end <= link.range.end;
                    let link = links.iter().find(has_run).ok_or_else(|| {
                        let (topic, partition) = (asked.topic, asked.source.partition);
                        RestoreError::damaged(
                            self.layout.restore_plan(&self.decision.run.uid),
                            format!(
                                "no segment of topic {topic} partition {partition} has offsets {} to {}, \
                                 as the offset map has",
                                run.start, run.end
                            ),
                        )
                    })?;
                    let read = match segment.take().filter(|read| read.link == *link) {
                        Some(read) => read,
                        None => self.segment(asked, link).await?,
                    };
                    let before = read.before(*committed, &run, &choice)?;
                    segment = Some(read);
                    map.counted(*committed, &run, before)
                }
            };
            offsets.insert(*committed, translated);
        }
        Ok(PartitionPlaces {
            target: asked.target.partition,
            offsets,
        })
    }

    /// The offset map of a partition.
    ///
    /// # Errors
    /// It does not have all records.
    async fn offset_map(
        &self,
        asked: &Asked<'_>,
        links: &[Link],
        choice: &Choice,
    ) -> Result<OffsetMap, RestoreError> {
        let source = asked.source;
        let gaps = uncovered(links, source.range);
        let mut map = OffsetMap::new(source.range, gaps, asked.target.base_offset);
        let (mut unknown, mut wrong) = (Vec::new(), None);
        let with_records = links
            .iter()
            .filter(|link| units::records(link, choice) != Some(0));
        let mut pieces = stream::iter(with_records)
            .map(|link| async move {
                let piece = self.piece(asked, link).await?;
                // Names do not tell of all of them whether they have records that count.
                if piece.is_none() && units::records(link, choice).is_some() {
                    return Err(self.missing(asked, link).await?);
                }
                Ok((link, piece))
            })
            .buffered(PIECES);
        while let Some((link, piece)) = pieces.try_next().await? {
            let Some(piece) = piece else {
                unknown.push(link);
                continue;
            };
            if let Err(reason) = add(&mut map, &piece, asked.target.partition) {
                wrong = Some(RestoreError::damaged(self.key(asked, link), reason));
                break;
            }
        }
        drop(pieces);
        if wrong.is_none() && map.records() == source.records {
            return Ok(map);
        }
        // One that is missing explains what does not fit behind it.
        for link in unknown {
            let segment = self.segment(asked, link).await?;
            if segment.count(&segment.bytes, link.range, choice)? > 0 {
                return Err(self.missing(asked, link).await?);
            }
        }
        let (expected, found) = (source.records, map.records());
        Err(wrong.unwrap_or_else(|| {
            RestoreError::damaged(
                self.layout.restore_plan(&self.decision.run.uid),
                format!(
                    "expected {expected} records of topic {} partition {} in the offset map, found {found}",
                    asked.topic, source.partition
                ),
            )
        }))
    }

    /// The key of a segment's piece of the offset map.
    fn key(&self, asked: &Asked<'_>, link: &Link) -> String {
        let (uid, name) = (&self.decision.run.uid, &link.name);
        let partition = asked.source.partition;
        self.layout
            .restore_offsets(uid, asked.topic, partition, name.start, name.end)
    }

    async fn piece(
        &self,
        asked: &Asked<'_>,
        link: &Link,
    ) -> Result<Option<OffsetPiece>, RestoreError> {
        let key = self.key(asked, link);
        match self.store.get(&key).await? {
            Some(bytes) => Ok(Some(from_json(&key, &bytes)?)),
            None => Ok(None),
        }
    }

    /// Why there is no piece for a segment with records.
    async fn missing(&self, asked: &Asked<'_>, link: &Link) -> Result<RestoreError, RestoreError> {
        let key = self.key(asked, link);
        let done = self.layout.restore_done(&self.decision.run.uid);
        if self.store.head(&done).await?.is_some() {
            let reason = "the restore is done, and its offset map has lost this piece";
            return Ok(RestoreError::damaged(key, reason));
        }
        Ok(RestoreError::NotMapped {
            key,
            topic: asked.topic.to_owned(),
            partition: asked.source.partition,
            start: link.range.start,
            end: link.range.end,
        })
    }

    async fn segment(&self, asked: &Asked<'_>, link: &Link) -> Result<Segment, RestoreError> {
        let chain = units::chain_key(asked.topic, asked.decision.source_topic_id, asked.source);
        let key = self.layout.segment(&chain, &link.name);
        Ok(Segment {
            bytes: units::read(self.store, &key, &link.name).await?,
            key,
            link: *link,
            partition: asked.source.partition,
        })
    }
}

/// Adds a piece; why it does not fit.
fn add(map: &mut OffsetMap, piece: &OffsetPiece, target_partition: i32) -> Result<(), String> {
    let found = piece.target_partition;
    if found != target_partition {
        return Err(format!(
            "expected target partition {target_partition}, found {found}"
        ));
    }
    let mut runs = piece.runs.iter();
    runs.try_for_each(|run| map.push(*run).map_err(|error| error.to_string()))
}

/// A segment that was read.
struct Segment {
    key: String,
    link: Link,
    partition: i32,
    bytes: Bytes,
}

impl Segment {
    /// Restored records of `run` before a committed offset.
    fn before(
        &self,
        committed: i64,
        run: &OffsetRun,
        choice: &Choice,
    ) -> Result<u64, RestoreError> {
        let batch = self.batch(run.start)?;
        let OffsetRun { start, end, .. } = *run;
        let count = |start, end| self.count(batch, OffsetRange { start, end }, choice);
        let (before, after) = (count(start, committed)?, count(committed, end)?);
        if before + after != run.records {
            let reason = format!(
                "expected {} records at offsets {start} to {end}, as the offset map of the restore says, found {}",
                run.records,
                before + after
            );
            return Err(RestoreError::damaged(&self.key, reason));
        }
        Ok(before)
    }

    /// The batch that covers an offset; nothing where there is none.
    fn batch(&self, offset: i64) -> Result<&[u8], RestoreError> {
        for batch in Batches::new(&self.bytes) {
            let batch = batch.map_err(|error| self.unreadable(error.into()))?;
            if offset < batch.end_offset() {
                return Ok(batch.bytes());
            }
        }
        Ok(&[])
    }

    fn count(
        &self,
        bytes: &[u8],
        range: OffsetRange,
        choice: &Choice,
    ) -> Result<u64, RestoreError> {
        let bytes = Bytes::copy_from_slice(bytes);
        let counts = batches::count(bytes, self.partition, range, choice);
        let counts = counts.map_err(|source| self.unreadable(source))?;
        Ok(counts.iter().sum())
    }

    fn unreadable(&self, source: batches::SegmentError) -> RestoreError {
        RestoreError::Segment {
            key: self.key.clone(),
            source,
        }
    }
}

#[cfg(test)]
#[path = "groups_test.rs"]
mod tests;
