//! What is decided before the first record: `plan.json`.
//!
//! # Guarantees
//! - Nothing is created in the target before the archive has everything that the restore needs.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, uncovered};
use kafka_backup_shared::archive::layout::{ChainKey, TopicId};
use kafka_backup_shared::archive::manifest::{PinnedPartition, TopicPart};
use kafka_backup_shared::archive::restore::{
    RestoreDecision, RestoredPartitionDecision, RestoredTopicDecision,
};
use kafka_backup_shared::plan::RestorePlan;

use super::batches::{Limits, Outgoings};
use super::configs::{self, History};
use super::error::RestoreError;
use super::find::Found;
use super::target::{self, Wanted};
use super::units::{Piece, Sizes, pieces};
use crate::kafka::Client;
use crate::store::Store;

/// Segments that are read at once to count records.
const READERS: usize = 2;

/// A topic as the archive has it.
struct Source<'a> {
    part: &'a TopicPart,
    target: &'a str,
    history: History,
    /// Offsets and number of records of each partition.
    partitions: Vec<(OffsetRange, u64)>,
}

/// Looks at archive and target, creates the target topics, and decides.
pub(super) async fn decide(
    plan: &RestorePlan,
    found: &Found,
    targets: &BTreeMap<String, String>,
    parts: &BTreeMap<String, TopicPart>,
    sizes: &Sizes,
    store: &Store,
    client: &Client,
) -> Result<RestoreDecision, RestoreError> {
    let start_time = Timestamp::now();
    let mut sources = Vec::new();
    for (topic, part) in parts {
        let target = targets.get(topic).map_or(topic.as_str(), String::as_str);
        sources.push(read_source(part, target, found, sizes, store).await?);
    }
    let wanted: Vec<Wanted<'_>> = sources
        .iter()
        .map(|source| Wanted {
            target: Arc::from(source.target),
            part: source.part,
            history: source.history,
        })
        .collect();
    let ready = target::prepare(&wanted, client, start_time).await?;
    let producer = client
        .init_producer_id()
        .await
        .map_err(RestoreError::kafka("get a producer id"))?;
    let mut topics = BTreeMap::new();
    for (source, ready) in sources.iter().zip(ready) {
        let description = &source.part.description;
        let finals = match ready.created {
            true => configs::finals(
                description,
                &source.history,
                ready.replication_factor,
                start_time,
            ),
            false => configs::Finals::default(),
        };
        let partitions = source
            .part
            .partitions
            .iter()
            .zip(&source.partitions)
            .zip(ready.base_offsets);
        let decided = RestoredTopicDecision {
            source_topic_id: description.topic_id,
            target: source.target.to_owned(),
            target_topic_id: TopicId(ready.metadata.id.into_bytes()),
            max_message_bytes: ready.max_message_bytes,
            created: ready.created,
            final_configs: finals.set,
            held_configs: finals.held,
            partitions: partitions
                .map(
                    |((pinned, (range, records)), base_offset)| RestoredPartitionDecision {
                        partition: pinned.partition,
                        base_offset,
                        source: *range,
                        records: *records,
                        generation: pinned.generation.clone(),
                        segments: pinned.segments.clone(),
                    },
                )
                .collect(),
        };
        topics.insert(source.part.topic.clone(), decided);
    }
    Ok(RestoreDecision {
        format_version: FORMAT_VERSION,
        run: plan.run.clone(),
        start_time,
        backup_id: found.backup_id.clone(),
        target_cluster_id: client.cluster_id().to_owned(),
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        topics,
    })
}

/// The offsets of a partition that are restored: what the source's log had at the run.
pub(super) fn wanted_offsets(pinned: &PinnedPartition) -> OffsetRange {
    OffsetRange {
        start: pinned.log_start.min(pinned.end),
        end: pinned.end,
    }
}

async fn read_source<'a>(
    part: &'a TopicPart,
    target: &'a str,
    found: &Found,
    sizes: &Sizes,
    store: &Store,
) -> Result<Source<'a>, RestoreError> {
    let mut links: Vec<Link> = Vec::new();
    let mut bytes = 0;
    let mut partitions = Vec::new();
    for (index, pinned) in part.partitions.iter().enumerate() {
        let object = found.layout.topic_part(&found.backup_id, &part.topic);
        if usize::try_from(pinned.partition).ok() != Some(index) {
            let reason = format!("partition {} stands where {index} should", pinned.partition);
            return Err(RestoreError::damaged(object, reason));
        }
        let range = wanted_offsets(pinned);
        check_covered(pinned, range).map_err(|reason| {
            let reason = format!(
                "topic {} partition {}: {reason}",
                part.topic, pinned.partition
            );
            RestoreError::damaged(object, reason)
        })?;
        let key = ChainKey {
            topic: part.topic.clone(),
            topic_id: part.description.topic_id,
            partition: pinned.partition,
            generation: pinned.generation.clone(),
        };
        let pieces = pieces(&found.layout, &key, &pinned.segments, range, sizes)?;
        links.extend(pieces.iter().map(|piece| piece.link));
        bytes += pieces.iter().map(|piece| piece.size).sum::<u64>();
        partitions.push((range, count(&pieces, store).await?));
    }
    Ok(Source {
        part,
        target,
        history: History::new(&links, bytes),
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

/// Number of records that `pieces` restore; what a name does not tell is read.
async fn count(pieces: &[Piece], store: &Store) -> Result<u64, RestoreError> {
    let named: u64 = pieces.iter().filter_map(Piece::records).sum();
    let cut = pieces.iter().filter(|piece| piece.records().is_none());
    let counted = futures::stream::iter(cut)
        .map(|piece| async move {
            let bytes = piece.read(store).await?;
            let limits = Limits::new(u32::MAX);
            Outgoings::new(bytes, piece.link.range, limits)
                .map(|outgoing| outgoing.map(|outgoing| outgoing.records()))
                .sum::<Result<u64, _>>()
                .map_err(|source| RestoreError::Segment {
                    key: piece.key.clone(),
                    source,
                })
        })
        .buffer_unordered(READERS)
        .try_fold(0, |sum, records| async move { Ok(sum + records) });
    Ok(named + counted.await?)
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
        let error = check_covered(&pinned, wanted_offsets(&pinned)).unwrap_err();
        assert!(error.contains("10 to 20"), "{error}");
        pinned.gaps = vec![Gap {
            range: OffsetRange { start: 10, end: 20 },
            reason: GapReason::LogStartMoved,
        }];
        assert_eq!(check_covered(&pinned, wanted_offsets(&pinned)), Ok(()));
    }
}
