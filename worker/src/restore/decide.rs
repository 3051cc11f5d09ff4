//! What is decided before the first record: `plan.json`.
//!
//! # Guarantees
//! - Nothing is created, deleted or written in the target before the archive was found to have what the restore needs, and
//!   every target topic to be usable.
//! - A topic of which the archive has lost something is left out and named; the others do not suffer.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::chain::{OffsetRange, uncovered};
use kafka_backup_shared::archive::layout::{ChainKey, TopicId};
use kafka_backup_shared::archive::manifest::{PinnedPartition, TopicPart};
use kafka_backup_shared::archive::restore::{
    RestoreDecision, RestoredTopicDecision, SourcePartition, TargetPartition,
};
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::RestoreFrom;

use super::Work;
use super::batches::Counter;
use super::choice::{Choice, Limits, Provenance};
use super::configs::{self, History};
use super::error::RestoreError;
use super::find::Parts;
use super::target::{Standing, Target, Wanted, check_permits};
use super::units::{Piece, Sizes, pieces};
use crate::kafka::AclOperation;
use crate::store::Store;

/// Segments that are read at once to count records.
const READERS: usize = 2;

/// What was decided, and what was learned on the way.
pub(super) struct Decided {
    pub(super) decision: RestoreDecision,
    /// Keys of segments that were read in full and found whole.
    pub(super) checked: HashSet<String>,
    /// Offsets with records that a purge deletes, by target topic.
    pub(super) purged: BTreeMap<String, u64>,
}

/// What was found before a segment was read: the topics in one order, thrice.
pub(super) struct Looked<'a> {
    sources: Vec<Source<'a>>,
    wanted: Vec<Wanted<'a>>,
    pub(super) standings: Vec<Standing>,
    /// Topics of which the archive has lost something, with the reason.
    pub(super) failed: BTreeMap<String, String>,
}

/// A topic as the archive has it.
struct Source<'a> {
    name: &'a str,
    part: &'a TopicPart,
    history: History,
    partitions: Vec<(OffsetRange, Vec<Piece>)>,
}

impl Work<'_> {
    pub(super) fn target(&self) -> Target<'_> {
        Target {
            request: &self.plan.request,
            client: self.client,
            now: Timestamp::now(),
            carries_groups: self.plan.groups.is_some(),
        }
    }

    /// Looks whether archive and target can be used, as far as that is known without reading segments.
    pub(super) async fn look<'a>(
        &self,
        target: &Target<'_>,
        parts: &'a Parts,
        sizes: &Sizes,
    ) -> Result<Looked<'a>, RestoreError> {
        let mut failed = parts.failed.clone();
        let mut sources = Vec::new();
        for (topic, part) in &parts.whole {
            match source(self, topic, part, sizes) {
                Ok(source) => sources.push(source),
                Err(error) => leave_out(topic, error, &mut failed)?,
            }
        }
        let wanted = sources.iter().map(|source| Wanted {
            source: source.name,
            target: Arc::from(self.plan.request.target(source.name)),
            part: source.part,
            history: source.history,
        });
        let wanted: Vec<Wanted<'a>> = wanted.collect();
        let standings = target.look(&wanted).await?;
        Ok(Looked {
            sources,
            wanted,
            standings,
            failed,
        })
    }

    /// Looks at archive and target, and decides; a dry run creates nothing, and so knows no ids and offsets of the target.
    pub(super) async fn decide_anew(
        &self,
        parts: &Parts,
        sizes: &Sizes,
    ) -> Result<Decided, RestoreError> {
        let request = &self.plan.request;
        let target = self.target();
        let Looked {
            sources,
            wanted,
            standings,
            mut failed,
        } = self.look(&target, parts, sizes).await?;
        let mut decided = Decided {
            decision: RestoreDecision {
                format_version: FORMAT_VERSION,
                run: self.plan.run.clone(),
                start_time: target.now,
                backup_id: self.found.backup_id.clone(),
                request: request.clone(),
                provenance: self.provenance(),
                target_cluster_id: self.client.cluster_id().to_owned(),
                producer_id: -1,
                producer_epoch: -1,
                topics: BTreeMap::new(),
                failed: BTreeMap::new(),
            },
            checked: HashSet::new(),
            purged: BTreeMap::new(),
        };
        let mut kept = Vec::new();
        for ((source, wanted), standing) in sources.iter().zip(wanted).zip(standings) {
            let drafting = self.draft(source, &standing, &mut decided.checked);
            match drafting.await {
                Ok(draft) => kept.push((wanted, standing, draft)),
                Err(error) => leave_out(source.name, error, &mut failed)?,
            }
        }
        if kept.is_empty() {
            let topics = failed.len();
            return Err(RestoreError::Incomplete { topics, failed });
        }
        decided.decision.failed = failed;
        let defaults = target.default_configs(&kept[0].0.target).await?;
        let (mut wanted, mut standings, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        for (one, standing, draft) in kept {
            if standing.filled() > 0 {
                let name = one.target.to_string();
                decided.purged.insert(name, standing.filled());
            }
            wanted.push(one);
            standings.push(standing);
            drafts.push(draft);
        }
        if self.plan.dry_run {
            for ((wanted, standing), mut draft) in wanted.iter().zip(standings).zip(drafts) {
                settle_configs(&mut draft, wanted, &standing, &target, &defaults);
                decided.decision.topics.insert(wanted.source.into(), draft);
            }
            return Ok(decided);
        }
        let purge_key = self.found.layout.restore_purge(&self.plan.run.uid);
        let ready = target
            .prepare(&wanted, standings, &purge_key, self.store)
            .await?;
        for ((wanted, ready), mut draft) in wanted.iter().zip(ready).zip(drafts) {
            settle_configs(&mut draft, wanted, &ready.standing, &target, &defaults);
            // Of one that was created nobody could tell before.
            target.check_permitted(&ready.metadata)?;
            if draft
                .final_configs
                .as_ref()
                .is_some_and(|set| !set.is_empty())
            {
                // They are set when the records are there, which is too late to be refused.
                check_permits(&ready.metadata, AclOperation::AlterConfigs)?;
            }
            draft.target_topic_id = TopicId(ready.metadata.id.into_bytes());
            for partition in &mut draft.partitions {
                let place = usize::try_from(partition.partition).unwrap_or(usize::MAX);
                partition.base_offset = *ready.base_offsets.get(place).ok_or_else(|| {
                    let (topic, number) = (&draft.target, partition.partition);
                    RestoreError::Bug(format!("topic {topic} has no partition {number}"))
                })?;
            }
            decided.decision.topics.insert(wanted.source.into(), draft);
        }
        let producer = self
            .client
            .init_producer_id()
            .await
            .map_err(RestoreError::kafka("get a producer id"))?;
        decided.decision.producer_id = producer.id;
        decided.decision.producer_epoch = producer.epoch;
        Ok(decided)
    }

    /// Name of the source for the headers of each record, where they get some.
    fn provenance(&self) -> Option<String> {
        let manifest = &self.found.manifest;
        let asked = self.plan.request.include_original_offset_header;
        let name = manifest.source_cluster_id.as_ref();
        asked
            .unwrap_or(manifest.include_offset_headers)
            .then(|| name.unwrap_or(&manifest.cluster_id).clone())
    }

    /// What is restored of a topic, without ids and offsets of the target.
    async fn draft(
        &self,
        source: &Source<'_>,
        standing: &Standing,
        checked: &mut HashSet<String>,
    ) -> Result<RestoredTopicDecision, RestoreError> {
        let (request, description) = (&self.plan.request, &source.part.description);
        let assignment = &standing.assignment;
        let choice = Choice {
            limits: Limits::new(standing.max_message_bytes),
            time: request.time,
            by_key: assignment.by_key,
            provenance: self.provenance().map(|cluster| Provenance {
                cluster: cluster.into(),
                topic: source.name.into(),
            }),
        };
        let may_not_fit = configs::may_be_too_large(description, standing.max_message_bytes)
            || (choice.looks_at_records() && !standing.created);
        let mut sources = Vec::new();
        let mut counts: BTreeMap<i32, u64> = assignment.written.keys().map(|to| (*to, 0)).collect();
        for (pinned, (range, pieces)) in source.part.partitions.iter().zip(&source.partitions) {
            let tally = tally(pieces, &choice, may_not_fit, self.store, checked).await?;
            for (to, of) in &assignment.written {
                let here = match assignment.by_key {
                    Some(_) => tally
                        .records
                        .get(usize::try_from(*to).unwrap_or(usize::MAX)),
                    None if of.contains(&pinned.partition) => tally.records.first(),
                    None => None,
                };
                *counts.entry(*to).or_default() += here.copied().unwrap_or_default();
            }
            sources.push(SourcePartition {
                partition: pinned.partition,
                range: *range,
                records: tally.records.iter().sum(),
                bytes: tally.bytes,
                generation: pinned.generation.clone(),
                segments: pinned.segments.clone(),
            });
        }
        let partitions = counts
            .into_iter()
            .map(|(partition, records)| TargetPartition {
                partition,
                base_offset: 0,
                records,
                sources: assignment.written[&partition].clone(),
            });
        Ok(RestoredTopicDecision {
            source_topic_id: description.topic_id,
            target: request.target(source.name).to_owned(),
            target_topic_id: TopicId([0; 16]),
            max_message_bytes: standing.max_message_bytes,
            final_configs: None,
            held_configs: BTreeMap::new(),
            sources,
            partitions: partitions.collect(),
            by_key: assignment.by_key,
        })
    }
}

/// Notes that a topic cannot be restored.
///
/// # Errors
/// The archive is not to blame.
pub(super) fn leave_out(
    topic: &str,
    error: RestoreError,
    failed: &mut BTreeMap<String, String>,
) -> Result<(), RestoreError> {
    if error.fault() != Fault::Corrupt {
        return Err(error);
    }
    let reason = error_chain(&error);
    tracing::error!(topic, reason, "the topic cannot be restored");
    failed.insert(topic.to_owned(), reason);
    Ok(())
}

fn settle_configs(
    draft: &mut RestoredTopicDecision,
    wanted: &Wanted<'_>,
    standing: &Standing,
    target: &Target<'_>,
    defaults: &crate::kafka::EffectiveConfigs,
) {
    draft.max_message_bytes = standing.max_message_bytes;
    if !standing.created {
        return;
    }
    let finals = target.finals(wanted, defaults, standing.replication_factor);
    draft.final_configs = Some(finals.set);
    draft.held_configs = finals.held;
}

/// The offsets of a partition that are restored: what the source's log had at the run, or all that the archive has up to it.
pub(super) fn wanted_offsets(pinned: &PinnedPartition, from: RestoreFrom) -> OffsetRange {
    let oldest = pinned.segments.iter().map(|name| name.start).min();
    let start = match from {
        RestoreFrom::LogStart => pinned.log_start,
        RestoreFrom::ArchiveStart => oldest.unwrap_or(pinned.log_start).min(pinned.log_start),
    };
    OffsetRange {
        start: start.min(pinned.end),
        end: pinned.end,
    }
}

fn source<'a>(
    work: &Work<'_>,
    name: &'a str,
    part: &'a TopicPart,
    sizes: &Sizes,
) -> Result<Source<'a>, RestoreError> {
    let layout = &work.found.layout;
    let mut partitions = Vec::new();
    for (index, pinned) in part.partitions.iter().enumerate() {
        let object = || layout.topic_part(&work.found.backup_id, name);
        if usize::try_from(pinned.partition).ok() != Some(index) {
            let reason = format!("partition {} stands where {index} should", pinned.partition);
            return Err(RestoreError::damaged(object(), reason));
        }
        let range = wanted_offsets(pinned, work.plan.request.from);
        check_covered(pinned, range).map_err(|reason| {
            let reason = format!("topic {name} partition {}: {reason}", pinned.partition);
            RestoreError::damaged(object(), reason)
        })?;
        let key = ChainKey {
            topic: name.to_owned(),
            topic_id: part.description.topic_id,
            partition: pinned.partition,
            generation: pinned.generation.clone(),
        };
        let pieces = pieces(layout, &key, &pinned.segments, range, sizes)?;
        partitions.push((range, pieces));
    }
    let all = || partitions.iter().flat_map(|(_, pieces)| pieces);
    let bytes = all().map(|piece| piece.size).sum();
    Ok(Source {
        name,
        part,
        history: History::new(all().map(|piece| &piece.link), bytes),
        partitions,
    })
}

/// Every offset is in a segment or in a gap that the backup has told.
fn check_covered(pinned: &PinnedPartition, range: OffsetRange) -> Result<(), String> {
    for hole in uncovered(&pinned.links(), range) {
        let told = pinned
            .gaps
            .iter()
            .any(|gap| gap.range.start <= hole.start && hole.end <= gap.range.end);
        if !told {
            return Err(format!(
                "offsets {} to {} are in no segment",
                hole.start, hole.end
            ));
        }
    }
    Ok(())
}

/// What pieces of a source partition add.
#[derive(Debug, Default)]
struct Tally {
    /// Records for each target partition among which they are dealt out; one number where they are not.
    records: Vec<u64>,
    /// Bytes, in proportion where not all records of a segment count.
    bytes: u64,
}

/// Counts what `pieces` restore; what a name does not tell is read.
async fn tally(
    pieces: &[Piece],
    choice: &Choice,
    may_not_fit: bool,
    store: &Store,
    checked: &mut HashSet<String>,
) -> Result<Tally, RestoreError> {
    let mut tally = Tally {
        records: vec![0; choice.by_key.unwrap_or(1) as usize],
        bytes: 0,
    };
    let mut unknown = Vec::new();
    for piece in pieces {
        // Of records that get headers the size of their segment says nothing.
        let small = piece.size <= choice.limits.encode as u64 && !choice.looks_at_records();
        let fits = !may_not_fit || small;
        match piece.records(choice) {
            Some(0) => {}
            Some(records) if fits => {
                tally.records[0] += records;
                tally.bytes += piece.size;
            }
            Some(_) | None => unknown.push(piece),
        }
    }
    let mut counted = futures::stream::iter(unknown)
        .map(|piece| async move {
            let mut counter = Counter::new(piece.partition, piece.link.range, choice);
            let count = |part, is_last| {
                let counted = counter.feed(part, is_last);
                counted.map_err(|source| RestoreError::Segment {
                    key: piece.key.clone(),
                    source,
                })
            };
            piece.read_through(store, count).await?;
            Ok::<_, RestoreError>((piece, counter.counts()))
        })
        .buffer_unordered(READERS);
    while let Some((piece, counts)) = counted.try_next().await? {
        let here: u64 = counts.iter().sum();
        let share =
            u128::from(piece.size) * u128::from(here) / u128::from(piece.link.name.records.max(1));
        tally.bytes += u64::try_from(share).unwrap_or(piece.size).min(piece.size);
        for (sum, count) in tally.records.iter_mut().zip(counts) {
            *sum += count;
        }
        checked.insert(piece.key.clone());
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::layout::SegmentName;
    use kafka_backup_shared::archive::manifest::{Gap, GapReason};

    #[test]
    fn offsets_in_no_segment_and_no_gap_are_damage() {
        let name = |start, end| SegmentName {
            start,
            end,
            leader_epoch: 0,
            records: 1,
            max_timestamp: 0,
            crc32c: 0,
        };
        let mut pinned = PinnedPartition {
            partition: 0,
            log_start: 5,
            end: 30,
            high_watermark: 30,
            generation: "g".into(),
            segments: vec![name(0, 10), name(20, 30)],
            gaps: vec![],
        };
        let error =
            check_covered(&pinned, wanted_offsets(&pinned, RestoreFrom::LogStart)).unwrap_err();
        assert!(error.contains("10 to 20"), "{error}");
        pinned.gaps = vec![Gap {
            range: OffsetRange { start: 10, end: 20 },
            reason: GapReason::LogStartMoved,
        }];
        assert_eq!(
            check_covered(&pinned, wanted_offsets(&pinned, RestoreFrom::LogStart)),
            Ok(())
        );
        let all = wanted_offsets(&pinned, RestoreFrom::ArchiveStart);
        assert_eq!(all, OffsetRange { start: 0, end: 30 });
    }
}
