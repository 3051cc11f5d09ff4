//! What a decision puts into a target partition, told again from the archive: the records that were sent, without sending them.
//!
//! # Guarantees
//! - The records come from the same [`Unit`]s and [`Outgoings`] as those of the restore, decoded from the batches as they are sent.
//! - One segment is in memory at a time, and of its records one batch.

use kafka_backup_shared::archive::batch::Batch;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::record::{self, Record};
use kafka_backup_shared::archive::restore::{RestoreDecision, RestoredTopicDecision};

use super::batches::{Outgoing, Outgoings, SegmentError};
use super::error::RestoreError;
use super::units::{Sizes, Unit, chain_key, units};
use crate::buffers::Buffers;
use crate::kafka::ProducerId;
use crate::store::Store;

/// A target partition and the segments that its records come from.
#[derive(Clone, Debug)]
pub(crate) struct ExpectedPartition {
    unit: Unit,
}

/// The target partitions of a topic of a decision.
///
/// Nothing is looked up: a segment that the archive has lost is told when it is read.
///
/// # Errors
/// None that a decision which was read can cause.
pub(crate) fn expected(
    layout: &Layout,
    decision: &RestoreDecision,
    source: &str,
    topic: &RestoredTopicDecision,
) -> Result<Vec<ExpectedPartition>, RestoreError> {
    let mut sizes = Sizes::new();
    for partition in &topic.sources {
        let chain_key = chain_key(source, topic.source_topic_id, partition);
        let keys = partition
            .segments
            .iter()
            .map(|name| (layout.segment(&chain_key, name), 0));
        sizes.extend(keys);
    }
    let units = units(layout, decision, source, topic, &sizes)?;
    Ok(units
        .into_iter()
        .map(|unit| ExpectedPartition { unit })
        .collect())
}

impl ExpectedPartition {
    /// Its number.
    pub(crate) fn partition(&self) -> i32 {
        self.unit.partition
    }

    /// Offset of the first record.
    pub(crate) fn base_offset(&self) -> i64 {
        self.unit.base_offset
    }

    /// Number of records, as `plan.json` has it.
    pub(crate) fn records(&self) -> u64 {
        self.unit.records
    }

    /// Number of segments.
    pub(crate) fn segments(&self) -> usize {
        self.unit.pieces.len()
    }

    /// Key of a segment.
    pub(crate) fn key(&self, segment: usize) -> &str {
        &self.unit.pieces[segment].key
    }

    /// Records that a segment adds, where its name alone tells.
    pub(crate) fn records_of(&self, segment: usize) -> Option<u64> {
        self.unit.pieces[segment].records(&self.unit.choice)
    }

    /// Reads a segment.
    ///
    /// # Errors
    /// It is missing, or is not what its name says; or the store does not answer.
    pub(crate) async fn read(
        &self,
        segment: usize,
        store: &Store,
    ) -> Result<ExpectedBatches, RestoreError> {
        let piece = &self.unit.pieces[segment];
        let mut outgoings = self.unit.outgoings(piece, Buffers::default());
        outgoings.feed(piece.read(store).await?, true);
        Ok(ExpectedBatches { outgoings })
    }
}

/// Walks the batches that are sent for a segment.
#[derive(Debug)]
pub(crate) struct ExpectedBatches {
    outgoings: Outgoings,
}

/// A batch as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ExpectedBatch {
    /// Its records, with offsets from 0 on.
    pub(crate) records: Vec<Record>,
    /// Its bytes.
    pub(crate) size: usize,
}

impl Iterator for ExpectedBatches {
    type Item = Result<ExpectedBatch, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let outgoing = self.outgoings.next()?;
        Some(outgoing.and_then(|outgoing| decode(&outgoing)))
    }
}

fn decode(outgoing: &Outgoing) -> Result<ExpectedBatch, SegmentError> {
    let nobody = ProducerId { id: -1, epoch: -1 };
    let bytes = outgoing.seal(nobody, 0).concat();
    let size = bytes.len();
    let batch = Batch::first(&bytes)?.ok_or(SegmentError::Trailing { bytes: size })?;
    batch.verify_crc()?;
    let records = record::decode(&batch).map_err(|source| SegmentError::Records {
        base_offset: outgoing.runs.first().map_or(0, |run| run.range.start),
        source,
    })?;
    Ok(ExpectedBatch { records, size })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use jiff::Timestamp;
    use kafka_backup_shared::archive::FORMAT_VERSION;
    use kafka_backup_shared::archive::batch;
    use kafka_backup_shared::archive::chain::OffsetRange;
    use kafka_backup_shared::archive::codec::Codec;
    use kafka_backup_shared::archive::layout::{SegmentName, TopicId};
    use kafka_backup_shared::archive::restore::{SourcePartition, TargetPartition};
    use kafka_backup_shared::plan::{ArchiveName, RestoreRequest, RunRef, Topics};
    use kafka_backup_shared::report::Fault;
    use kafka_backup_shared::spec::{MissingTopics, TimeRange};

    fn decision() -> (RestoreDecision, Vec<u8>) {
        let records: Vec<Record> = (0..4)
            .map(|offset| Record {
                offset,
                timestamp: offset * 10,
                body: vec![1, 1, 0],
            })
            .collect();
        let mut bytes = record::encode(&records, Codec::Lz4).unwrap();
        batch::set_base_offset(&mut bytes, 20);
        let name = SegmentName {
            start: 20,
            end: 24,
            leader_epoch: -1,
            records: 4,
            max_timestamp: 30,
            crc32c: crc32c::crc32c(&bytes),
        };
        let topics = Topics {
            include: vec!["*".into()],
            exclude: vec![],
            missing: MissingTopics::Fail,
        };
        let topic = RestoredTopicDecision {
            source_topic_id: TopicId([1; 16]),
            target: "t2".into(),
            target_topic_id: TopicId([2; 16]),
            max_message_bytes: 1 << 20,
            final_configs: None,
            held_configs: BTreeMap::new(),
            sources: vec![SourcePartition {
                partition: 0,
                range: OffsetRange { start: 21, end: 24 },
                records: 2,
                bytes: 0,
                generation: "g".into(),
                segments: vec![name],
            }],
            partitions: vec![TargetPartition {
                partition: 5,
                base_offset: 100,
                records: 2,
                sources: vec![0],
            }],
            by_key: None,
        };
        let decision = RestoreDecision {
            format_version: FORMAT_VERSION,
            run: RunRef::example(),
            start_time: Timestamp::UNIX_EPOCH,
            backup_id: "b".into(),
            request: RestoreRequest {
                time: TimeRange {
                    start_ms: None,
                    end_ms: Some(20),
                },
                ..RestoreRequest::new("b", topics)
            },
            provenance: None,
            target_cluster_id: "c".into(),
            producer_id: 1,
            producer_epoch: 0,
            topics: BTreeMap::from([("t".into(), topic)]),
            failed: BTreeMap::new(),
        };
        (decision, bytes)
    }

    #[tokio::test]
    async fn records_come_as_they_are_sent_and_a_lost_segment_is_told_when_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let layout = Layout::new(&ArchiveName {
            namespace: "n".into(),
            name: "a".into(),
        });
        let (decision, bytes) = decision();
        let all = expected(&layout, &decision, "t", &decision.topics["t"]).unwrap();
        let [partition] = &all[..] else {
            unreachable!("{all:?}");
        };
        assert_eq!((partition.partition(), partition.base_offset()), (5, 100));
        assert_eq!((partition.segments(), partition.records_of(0)), (1, None));
        let error = partition.read(0, &store).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt);
        assert!(error.to_string().contains(partition.key(0)), "{error}");

        store.create(partition.key(0), bytes.into()).await.unwrap();
        let batches: Result<Vec<_>, _> = partition.read(0, &store).await.unwrap().collect();
        let records: Vec<(i64, i64)> = batches
            .unwrap()
            .iter()
            .flat_map(|batch| &batch.records)
            .map(|record| (record.offset, record.timestamp))
            .collect();
        assert_eq!(records, [(0, 10), (1, 20)], "cut by offset and by time");
    }
}
