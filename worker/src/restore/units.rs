//! A target partition and what it is made of: which segments, which offsets of them, in which order.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kafka_backup_shared::archive::chain::{Link, OffsetRange, chain};
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId};
use kafka_backup_shared::archive::restore::{
    RestoreDecision, RestoredTopicDecision, SourcePartition,
};
use uuid::Uuid;

use super::batches::Outgoings;
use super::choice::{Choice, Limits, Provenance, Section};
use super::error::RestoreError;
use super::parts::PART;
use crate::buffers::Buffers;
use crate::store::Store;

/// Bytes of an object that are read at once where they are only checked.
const CHECKED: u64 = 16 << 20;

/// A pinned segment and the offsets of it that are restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The source partition.
    pub(super) partition: i32,
    /// The segment with the offsets that count.
    pub(super) link: Link,
    /// Its key.
    pub(super) key: String,
    /// Bytes of the object.
    pub(super) size: u64,
}

impl Piece {
    /// Records that `choice` takes of it, where the name alone tells.
    pub(super) fn records(&self, choice: &Choice) -> Option<u64> {
        records(&self.link, choice)
    }

    /// Reads the object and checks it against its name.
    ///
    /// # Errors
    /// It is gone, or its CRC is not the name's.
    pub(super) async fn read(&self, store: &Store) -> Result<Bytes, RestoreError> {
        read(store, &self.key, &self.link.name).await
    }

    /// The part of the object that begins at `at`, and whether it is the last one.
    pub(super) fn part_from(&self, at: u64) -> (Range<u64>, bool) {
        let end = self.size.min(at + PART as u64);
        (at..end, end == self.size)
    }

    /// Reads a part of the object.
    ///
    /// # Errors
    /// The object is gone, or shorter than it was listed.
    pub(super) async fn read_part(
        &self,
        range: Range<u64>,
        store: &Store,
    ) -> Result<Bytes, RestoreError> {
        let expected = range.end - range.start;
        let Some(bytes) = store.get_range(&self.key, range).await? else {
            return Err(RestoreError::lost(&self.key));
        };
        if bytes.len() as u64 != expected {
            return Err(self.too_short());
        }
        Ok(bytes)
    }

    /// Reads the object in large pieces, which are not kept, and checks it against its name. `told` hears of the bytes of each.
    ///
    /// # Errors
    /// It is gone, shorter than it was listed, or its CRC is not the name's.
    pub(super) async fn check(
        &self,
        store: &Store,
        told: impl Fn(u64),
    ) -> Result<(), RestoreError> {
        let (mut at, mut crc) = (0, 0);
        while at < self.size {
            let end = self.size.min(at + CHECKED);
            let Some((passed, bytes)) = store.crc32c(&self.key, at..end, crc).await? else {
                return Err(RestoreError::lost(&self.key));
            };
            if bytes != end - at {
                return Err(self.too_short());
            }
            (at, crc) = (end, passed);
            told(bytes);
        }
        self.check_crc(crc)
    }

    fn too_short(&self) -> RestoreError {
        let reason = format!(
            "expected {} bytes, as it was listed with, found fewer",
            self.size
        );
        RestoreError::damaged(&self.key, reason)
    }

    /// Checks the CRC of all parts together against the name.
    ///
    /// # Errors
    /// They differ.
    pub(super) fn check_crc(&self, found: u32) -> Result<(), RestoreError> {
        check_crc(&self.key, &self.link.name, found)
    }

    /// Reads the whole object in parts, handing each over, and checks it against its name.
    ///
    /// # Errors
    /// As of the parts; the object is not what its name says; or `each` fails.
    pub(super) async fn read_through(
        &self,
        store: &Store,
        mut each: impl FnMut(Bytes, bool) -> Result<(), RestoreError>,
    ) -> Result<(), RestoreError> {
        let (mut at, mut crc) = (0, 0);
        loop {
            let (range, is_last) = self.part_from(at);
            at = range.end;
            let part = match range.is_empty() {
                true => Bytes::new(),
                false => self.read_part(range, store).await?,
            };
            crc = crc::append(crc, &part);
            if is_last {
                self.check_crc(crc)?;
            }
            each(part, is_last)?;
            if is_last {
                return Ok(());
            }
        }
    }
}

/// Records that `choice` takes of a part of a segment, where the name alone tells.
pub(super) fn records(link: &Link, choice: &Choice) -> Option<u64> {
    let name = &link.name;
    let time = &choice.time;
    if name.records == 0
        || time
            .start_ms
            .is_some_and(|start| name.max_timestamp < start)
    {
        return Some(0);
    }
    let whole = OffsetRange {
        start: name.start,
        end: name.end,
    };
    let in_time = time.start_ms.is_none() && time.contains(name.max_timestamp);
    (link.range == whole && in_time && choice.by_key.is_none()).then_some(name.records)
}

/// Reads a segment and checks it against its name.
///
/// # Errors
/// It is gone, or its CRC is not the name's.
pub(super) async fn read(
    store: &Store,
    key: &str,
    name: &SegmentName,
) -> Result<Bytes, RestoreError> {
    let Some(bytes) = store.get(key).await? else {
        return Err(RestoreError::lost(key));
    };
    check_crc(key, name, crc::of(&bytes))?;
    Ok(bytes)
}

fn check_crc(key: &str, name: &SegmentName, found: u32) -> Result<(), RestoreError> {
    let expected = name.crc32c;
    if found == expected {
        return Ok(());
    }
    let reason = format!("expected CRC-32C {expected:08x}, found {found:08x}");
    Err(RestoreError::damaged(key, reason))
}

/// A target partition to be written.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// The source topic.
    pub(super) source: Arc<str>,
    /// The target topic.
    pub(super) target: Arc<str>,
    /// Id of the target topic.
    pub(super) target_id: Uuid,
    /// The target partition.
    pub(super) partition: i32,
    /// Offset in the target of the first record.
    pub(super) base_offset: i64,
    /// Records that will be there.
    pub(super) records: u64,
    /// Which records of the pieces are meant, and how they are sent.
    pub(super) choice: Arc<Choice>,
    /// What it is made of: source partitions one after another, each sorted by start.
    pub(super) pieces: Vec<Piece>,
}

impl Unit {
    /// What is sent for a piece, whose object is fed to it.
    pub(super) fn outgoings(&self, piece: &Piece, buffers: Buffers) -> Outgoings {
        let section = Section {
            source: piece.partition,
            range: piece.link.range,
            target: self.partition,
        };
        Outgoings::new(section, self.choice.clone(), buffers)
    }

    /// Whether source offsets can be told from what is written: not where keys decide about the place.
    pub(super) fn has_offset_map(&self) -> bool {
        self.choice.by_key.is_none()
    }
}

/// How records of `source` are chosen and sent, as `decision` says.
pub(super) fn choice(
    decision: &RestoreDecision,
    source: &str,
    topic: &RestoredTopicDecision,
) -> Choice {
    Choice {
        limits: Limits::new(topic.max_message_bytes),
        time: decision.request.time,
        by_key: topic.by_key,
        provenance: decision.provenance.as_deref().map(|cluster| Provenance {
            cluster: Arc::from(cluster),
            topic: Arc::from(source),
        }),
    }
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

/// The segments of a chain with those of their offsets that `wanted` has, sorted by start.
pub(super) fn links(segments: &[SegmentName], wanted: OffsetRange) -> Vec<Link> {
    let mut links = chain(segments.to_vec());
    for link in &mut links {
        link.range.start = link.range.start.max(wanted.start);
        link.range.end = link.range.end.min(wanted.end);
    }
    links.retain(|link| !link.range.is_empty());
    links
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
    for link in links(segments, wanted) {
        let key = layout.segment(chain_key, &link.name);
        let Some(size) = sizes.get(&key).copied() else {
            return Err(RestoreError::lost(key));
        };
        pieces.push(Piece {
            partition: chain_key.partition,
            link,
            key,
            size,
        });
    }
    Ok(pieces)
}

/// The target partitions of a topic of a decision.
///
/// # Errors
/// The archive has lost a segment since.
pub(super) fn units(
    layout: &Layout,
    decision: &RestoreDecision,
    source: &str,
    topic: &RestoredTopicDecision,
    sizes: &Sizes,
) -> Result<Vec<Unit>, RestoreError> {
    let (name, target): (Arc<str>, Arc<str>) =
        (Arc::from(source), Arc::from(topic.target.as_str()));
    let choice = Arc::new(choice(decision, source, topic));
    let mut of_source = HashMap::new();
    for partition in &topic.sources {
        let chain_key = chain_key(source, topic.source_topic_id, partition);
        let (segments, range) = (&partition.segments, partition.range);
        let pieces = pieces(layout, &chain_key, segments, range, sizes)?;
        of_source.insert(partition.partition, pieces);
    }
    let units = topic.partitions.iter().map(|partition| {
        let pieces = partition
            .sources
            .iter()
            .filter_map(|source| of_source.get(source))
            .flatten();
        Unit {
            source: name.clone(),
            target: target.clone(),
            target_id: Uuid::from_bytes(topic.target_topic_id.0),
            partition: partition.partition,
            base_offset: partition.base_offset,
            records: partition.records,
            choice: choice.clone(),
            pieces: pieces.cloned().collect(),
        }
    });
    Ok(units.collect())
}

/// Where the segments of a source partition are.
pub(super) fn chain_key(source: &str, id: TopicId, partition: &SourcePartition) -> ChainKey {
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
    use kafka_backup_shared::spec::TimeRange;

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
        let all = Choice {
            limits: Limits::new(1 << 20),
            time: TimeRange::default(),
            by_key: None,
            provenance: None,
        };
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
            found.iter().map(|p| p.records(&all)).collect::<Vec<_>>(),
            [None, Some(7)]
        );
        let of = |start_ms, end_ms| Choice {
            time: TimeRange { start_ms, end_ms },
            ..all.clone()
        };
        for (choice, records) in [
            (of(None, Some(1)), Some(7)),
            (of(None, Some(0)), None),
            (of(Some(1), None), None),
            (of(Some(2), None), Some(0)),
            (
                Choice {
                    by_key: Some(2),
                    ..all.clone()
                },
                None,
            ),
        ] {
            assert_eq!(found[1].records(&choice), records, "{choice:?}");
        }
        let missing = pieces(&layout, &chain_key, &segments, wanted, &Sizes::new()).unwrap_err();
        assert!(
            missing.to_string().contains("00000000000000000000"),
            "{missing}"
        );
    }
}
