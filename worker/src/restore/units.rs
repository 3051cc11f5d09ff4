//! A partition to be restored: which segments, which offsets of them, and where they go.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, chain};
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId};
use kafka_backup_shared::archive::restore::{RestoreDecision, RestoredPartitionDecision};
use uuid::Uuid;

use super::batches::Limits;
use super::error::RestoreError;
use crate::store::Store;

/// A pinned segment and the offsets of it that are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The segment with the offsets that count.
    pub(super) link: Link,
    /// Its key.
    pub(super) key: String,
    /// Bytes of the object.
    pub(super) size: u64,
}

impl Piece {
    /// Records, where the name alone tells: all of the segment counts.
    pub(super) fn records(&self) -> Option<u64> {
        let name = &self.link.name;
        let whole = OffsetRange {
            start: name.start,
            end: name.end,
        };
        (self.link.range == whole || name.records == 0).then_some(name.records)
    }

    /// Reads the object and checks it against its name.
    ///
    /// # Errors
    /// It is gone, or its CRC is not the name's.
    pub(super) async fn read(&self, store: &Store) -> Result<Bytes, RestoreError> {
        let Some(bytes) = store.get(&self.key).await? else {
            return Err(RestoreError::damaged(
                &self.key,
                "a backup pins it, and it is missing",
            ));
        };
        let found = crc32c::crc32c(&bytes);
        if found != self.link.name.crc32c {
            let expected = self.link.name.crc32c;
            let reason = format!("expected CRC-32C {expected:08x}, found {found:08x}");
            return Err(RestoreError::damaged(&self.key, reason));
        }
        Ok(bytes)
    }
}

/// A partition to be restored.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// The source topic.
    pub(super) source: Arc<str>,
    /// The target topic.
    pub(super) target: Arc<str>,
    /// Id of the target topic.
    pub(super) target_id: Uuid,
    /// The partition, the same on both sides.
    pub(super) partition: i32,
    /// Offset in the target of the first record.
    pub(super) base_offset: i64,
    /// Records that will be there.
    pub(super) records: u64,
    /// How large a batch may become.
    pub(super) limits: Limits,
    /// What it is made of, sorted by start.
    pub(super) pieces: Vec<Piece>,
}

/// Sizes of the segments that an archive has, by key.
pub(super) type Sizes = HashMap<String, u64>;

/// Learns which segments of some topics are there, one listing per topic.
pub(super) async fn sizes<'a>(
    layout: &Layout,
    topics: impl IntoIterator<Item = (&'a String, TopicId)>,
    store: &Store,
) -> Result<Sizes, RestoreError> {
    let mut sizes = Sizes::new();
    for (topic, id) in topics {
        let folder = format!("{}/{id}", layout.topic(topic));
        let listed = store.list(&folder, |key, size| Some((key.to_owned(), size)));
        sizes.extend(listed.await?);
    }
    Ok(sizes)
}

/// The segments of a chain for the offsets of `wanted`.
///
/// # Errors
/// One of them is not in `sizes`: the archive has lost it.
pub(super) fn pieces(
    layout: &Layout,
    chain_key: &ChainKey,
    segments: &[SegmentName],
    wanted: OffsetRange,
    sizes: &Sizes,
) -> Result<Vec<Piece>, RestoreError> {
    let mut pieces = Vec::new();
    for mut link in chain(segments.to_vec()) {
        link.range.start = link.range.start.max(wanted.start);
        link.range.end = link.range.end.min(wanted.end);
        if link.range.is_empty() {
            continue;
        }
        let key = layout.segment(chain_key, &link.name);
        let Some(size) = sizes.get(&key).copied() else {
            return Err(RestoreError::damaged(
                key,
                "a backup pins it, and it is missing",
            ));
        };
        pieces.push(Piece { link, key, size });
    }
    Ok(pieces)
}

/// The partitions of a decision.
pub(super) fn units(
    layout: &Layout,
    decision: &RestoreDecision,
    sizes: &Sizes,
) -> Result<Vec<Unit>, RestoreError> {
    let mut units = Vec::new();
    for (source, topic) in &decision.topics {
        let (name, target): (Arc<str>, Arc<str>) =
            (Arc::from(source.as_str()), Arc::from(topic.target.as_str()));
        for partition in &topic.partitions {
            let chain_key = chain_key(source, topic.source_topic_id, partition);
            units.push(Unit {
                source: name.clone(),
                target: target.clone(),
                target_id: Uuid::from_bytes(topic.target_topic_id.0),
                partition: partition.partition,
                base_offset: partition.base_offset,
                records: partition.records,
                limits: Limits::new(topic.max_message_bytes),
                pieces: pieces(
                    layout,
                    &chain_key,
                    &partition.segments,
                    partition.source,
                    sizes,
                )?,
            });
        }
    }
    Ok(units)
}

fn chain_key(source: &str, id: TopicId, partition: &RestoredPartitionDecision) -> ChainKey {
    ChainKey {
        topic: source.to_owned(),
        topic_id: id,
        partition: partition.partition,
        generation: partition.generation.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::plan::ArchiveName;

    fn name(start: i64, end: i64) -> SegmentName {
        SegmentName {
            start,
            end,
            leader_epoch: 0,
            records: 7,
            max_timestamp: 1,
            crc32c: 0,
        }
    }

    #[test]
    fn only_a_segment_that_counts_whole_is_counted_by_its_name() {
        let layout = Layout::new(&ArchiveName {
            namespace: "n".into(),
            name: "a".into(),
        });
        let chain_key = ChainKey {
            topic: "t".into(),
            topic_id: TopicId([0; 16]),
            partition: 0,
            generation: "g".into(),
        };
        let segments = [name(0, 10), name(10, 20), name(20, 30)];
        let sizes: Sizes = segments
            .iter()
            .map(|s| (layout.segment(&chain_key, s), 5))
            .collect();
        let wanted = OffsetRange { start: 3, end: 20 };
        let found = pieces(&layout, &chain_key, &segments, wanted, &sizes).unwrap();
        assert_eq!(
            found.iter().map(Piece::records).collect::<Vec<_>>(),
            [None, Some(7)]
        );
        let missing = pieces(&layout, &chain_key, &segments, wanted, &Sizes::new()).unwrap_err();
        assert!(
            missing.to_string().contains("00000000000000000000"),
            "{missing}"
        );
    }
}
