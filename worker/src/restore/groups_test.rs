use super::*;
use crate::buffers::Buffers;
use crate::restore::stream::{Loaded, Stream};
use crate::restore::units::{Sizes, units};
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::batch;
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::groups::GroupsWriter;
use kafka_backup_shared::archive::layout::{ChainKey, SegmentName, TopicId};
use kafka_backup_shared::archive::manifest::{Manifest, to_json};
use kafka_backup_shared::archive::record;
use kafka_backup_shared::plan::{ArchiveName, IsolationLevel, RestoreRequest, RunRef, Topics};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::{MissingTopics, TimeRange};
use proptest::prelude::*;

const BACKUP: &str = "orders-20260102-030405";
const TOPIC: &str = "t";
const EPOCH: i32 = 3;

/// A source batch: how far it is from the one before it, its records' timestamps (`None`: compacted away), its codec.
#[derive(Clone, Debug)]
struct Source {
    distance: i64,
    timestamps: Vec<Option<i64>>,
    codec: Codec,
}

/// A source partition, cut into segments at these offsets, of which the backup could not capture one.
#[derive(Clone, Debug)]
struct Partition {
    sources: Vec<Source>,
    ends: Vec<i64>,
    lost: Option<usize>,
    log_start: i64,
    base_offset: i64,
}

#[derive(Clone, Debug)]
struct World {
    partitions: Vec<Partition>,
    time: TimeRange,
    provenance: bool,
    max_message_bytes: u32,
}

/// A batch in the archive, and offsets and timestamps of its records.
struct Built {
    bytes: Vec<u8>,
    range: OffsetRange,
    records: Vec<(i64, i64)>,
}

fn build(sources: &[Source]) -> Vec<Built> {
    let mut at = 0;
    let build = |source: &Source| {
        let base = at + source.distance;
        let end = base + source.timestamps.len() as i64;
        at = end;
        let timestamps = (base..).zip(&source.timestamps);
        let records: Vec<(i64, i64)> = timestamps
            .filter_map(|(offset, timestamp)| Some((offset, (*timestamp)?)))
            .collect();
        let mut payload = Vec::new();
        for (offset, timestamp) in &records {
            record::write_record(&mut payload, *timestamp, offset - base, &[1, 2, b'v', 0]);
        }
        let payload = source.codec.compress(&payload).unwrap();
        let newest = records.iter().map(|(_, timestamp)| *timestamp).max();
        let (newest, count) = (newest.unwrap_or(-1), records.len() as i32);
        let mut bytes = batch::build(source.codec.id(), 0, newest, count, &payload);
        let delta = (end - base - 1) as i32;
        bytes[23..27].copy_from_slice(&delta.to_be_bytes());
        batch::set_base_offset(&mut bytes, base);
        batch::seal(&mut bytes);
        let range = OffsetRange { start: base, end };
        Built {
            bytes,
            range,
            records,
        }
    };
    sources.iter().map(build).collect()
}

/// An archive in a folder, with a restore that is done but for its last object.
struct Archive {
    _folder: tempfile::TempDir,
    store: Store,
    layout: Layout,
    decision: RestoreDecision,
    /// Offsets of the records of each partition that were restored.
    restored: Vec<Vec<i64>>,
    /// What the backup could not capture of each.
    gaps: Vec<OffsetRange>,
    pieces: Vec<String>,
    segments: Vec<String>,
}

impl Archive {
    async fn new(world: &World, committed: &[GroupOffsets]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let layout = Layout::new(&ArchiveName {
            namespace: "n".into(),
            name: "orders".into(),
        });
        let decision = decision(world);
        let mut archive = Self {
            _folder: folder,
            store,
            layout,
            decision,
            restored: Vec::new(),
            gaps: Vec::new(),
            pieces: Vec::new(),
            segments: Vec::new(),
        };
        let mut sizes = Sizes::new();
        for (number, partition) in (0..).zip(&world.partitions) {
            archive
                .add_partition(number, partition, world, &mut sizes)
                .await;
        }
        archive.commit(committed).await;
        archive.restore(&sizes).await;
        archive
    }

    async fn add_partition(
        &mut self,
        number: i32,
        partition: &Partition,
        world: &World,
        sizes: &mut Sizes,
    ) {
        let built = build(&partition.sources);
        let end = end_of(partition);
        let mut source = SourcePartition {
            partition: number,
            range: OffsetRange {
                start: partition.log_start,
                end,
            },
            records: 0,
            bytes: 0,
            generation: BACKUP.into(),
            segments: vec![],
        };
        let chain = ChainKey {
            topic: TOPIC.into(),
            topic_id: TopicId([1; 16]),
            partition: number,
            generation: BACKUP.into(),
        };
        let mut start = 0;
        let mut gap = OffsetRange { start: 0, end: 0 };
        let mut ends = partition.ends.clone();
        ends.push(end);
        ends.dedup();
        for (index, cut) in ends.into_iter().enumerate() {
            if partition.lost == Some(index) {
                let from = start.max(partition.log_start);
                gap = OffsetRange {
                    start: from,
                    end: cut,
                };
                start = cut;
                continue;
            }
            if cut <= start {
                continue;
            }
            // A batch across the end is in both segments.
            let inside = |one: &&Built| one.range.start < cut && one.range.end > start;
            let content: Vec<&Built> = built.iter().filter(inside).collect();
            let bytes: Vec<u8> = content.iter().flat_map(|one| one.bytes.clone()).collect();
            let records = content.iter().flat_map(|one| &one.records);
            let records: Vec<_> = records
                .filter(|(at, _)| (start..cut).contains(at))
                .collect();
            let name = SegmentName {
                start,
                end: cut,
                leader_epoch: EPOCH,
                records: records.len() as u64,
                max_timestamp: content
                    .iter()
                    .flat_map(|one| one.records.iter().map(|(_, timestamp)| *timestamp))
                    .max()
                    .unwrap_or(-1),
                crc32c: crc32c::crc32c(&bytes),
            };
            let key = self.layout.segment(&chain, &name);
            sizes.insert(key.clone(), bytes.len() as u64);
            self.store.create(&key, bytes.into()).await.unwrap();
            self.segments.push(key);
            source.segments.push(name);
            start = cut;
        }
        let records = built.iter().flat_map(|one| &one.records);
        let restored = records.filter(|(offset, timestamp)| {
            let captured = *offset >= partition.log_start && !(gap.start..gap.end).contains(offset);
            captured && world.time.contains(*timestamp)
        });
        let restored: Vec<i64> = restored.map(|(offset, _)| *offset).collect();
        source.records = restored.len() as u64;
        let topic = self.decision.topics.get_mut(TOPIC).unwrap();
        topic.sources.push(source);
        // The last partition becomes the first.
        let target = world.partitions.len() as i32 - 1 - number;
        topic.partitions.push(TargetPartition {
            partition: target,
            base_offset: partition.base_offset,
            records: restored.len() as u64,
            sources: vec![number],
        });
        topic
            .partitions
            .sort_by_key(|partition| partition.partition);
        self.restored.push(restored);
        self.gaps.push(gap);
    }

    async fn commit(&self, committed: &[GroupOffsets]) {
        let mut writer = GroupsWriter::default();
        committed.iter().for_each(|group| writer.push(group));
        let (bytes, part) = writer.finish();
        let key = self.layout.groups(BACKUP, part.crc32c);
        self.store.create(&key, bytes.into()).await.unwrap();
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            run: RunRef::example(),
            start_time: Timestamp::UNIX_EPOCH,
            completion_time: Timestamp::UNIX_EPOCH,
            cluster_id: "source".into(),
            source_cluster_id: None,
            isolation_level: IsolationLevel::ReadCommitted,
            base: None,
            records: 0,
            bytes: 0,
            topics: BTreeMap::new(),
            failed: BTreeMap::new(),
            missing_topics: vec![],
            only_visible: false,
            groups: Some(part),
            held_back: Default::default(),
            include_offset_headers: false,
        };
        let key = self.layout.manifest(BACKUP);
        self.store
            .create(&key, to_json(&manifest).into())
            .await
            .unwrap();
    }

    /// Stores the offset map as a restore does.
    async fn restore(&mut self, sizes: &Sizes) {
        let topic = &self.decision.topics[TOPIC];
        for unit in units(&self.layout, &self.decision, TOPIC, topic, sizes).unwrap() {
            let mut stream = Stream::new(Arc::new(unit), 0, Default::default(), Buffers::default());
            loop {
                while let Some(load) = stream.next_load(false) {
                    let bytes = match load.range.is_empty() {
                        true => Bytes::new(),
                        false => load.piece.read_part(load.range, &self.store).await.unwrap(),
                    };
                    stream.loaded(Loaded {
                        index: load.index,
                        bytes,
                        is_last: load.is_last,
                        room: None,
                    });
                }
                if let Some(ready) = stream.next_batch().unwrap() {
                    let place = stream.unit().base_offset + ready.first as i64;
                    stream.answered(&ready, Ok(place)).unwrap();
                }
                while let Some(mapped) = stream.next_mapped() {
                    let piece = &stream.unit().pieces[mapped.index];
                    let name = &piece.link.name;
                    let uid = &self.decision.run.uid;
                    let (start, end) = (name.start, name.end);
                    let key = self
                        .layout
                        .restore_offsets(uid, TOPIC, piece.partition, start, end);
                    let content = to_json(&mapped.piece).into();
                    self.store.create(&key, content).await.unwrap();
                    self.pieces.push(key);
                }
                if stream.is_complete() {
                    break;
                }
            }
        }
    }

    async fn translate(&self) -> Result<Vec<TranslatedGroup>, RestoreError> {
        let translated = translate(&self.store, &self.layout, &self.decision, None).await?;
        let groups: Result<_, FormatError> = translated.groups()?.collect();
        Ok(groups?)
    }
}

fn end_of(partition: &Partition) -> i64 {
    let lengths = partition
        .sources
        .iter()
        .map(|source| source.distance + source.timestamps.len() as i64);
    lengths.sum()
}

fn decision(world: &World) -> RestoreDecision {
    let topics = Topics {
        include: vec!["*".into()],
        exclude: vec![],
        missing: MissingTopics::Fail,
    };
    let topic = RestoredTopicDecision {
        source_topic_id: TopicId([1; 16]),
        target: "t2".into(),
        target_topic_id: TopicId([2; 16]),
        max_message_bytes: world.max_message_bytes,
        final_configs: None,
        held_configs: BTreeMap::new(),
        sources: vec![],
        partitions: vec![],
        by_key: None,
    };
    RestoreDecision {
        format_version: FORMAT_VERSION,
        run: RunRef::example(),
        start_time: Timestamp::UNIX_EPOCH,
        backup_id: BACKUP.into(),
        request: RestoreRequest {
            time: world.time,
            ..RestoreRequest::new(BACKUP, topics)
        },
        provenance: world.provenance.then(|| "lab".into()),
        target_cluster_id: "target".into(),
        producer_id: 1,
        producer_epoch: 0,
        topics: BTreeMap::from([(TOPIC.into(), topic)]),
        failed: BTreeMap::new(),
    }
}

fn group(name: &str, topic: &str, offsets: &[(i32, i64)]) -> GroupOffsets {
    let offset = |(partition, offset): &(i32, i64)| GroupOffset {
        partition: *partition,
        offset: *offset,
        leader_epoch: Some(EPOCH),
        metadata: "m".into(),
    };
    GroupOffsets {
        group: name.into(),
        kind: GroupKind::Classic,
        topics: BTreeMap::from([(topic.into(), offsets.iter().map(offset).collect())]),
    }
}

fn worlds() -> impl Strategy<Value = World> {
    let timestamps = prop::collection::vec(prop::option::weighted(0.8, 0i64..100), 1..9);
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let source = (0i64..3, timestamps, prop::sample::select(codecs.to_vec())).prop_map(
        |(distance, timestamps, codec)| Source {
            distance,
            timestamps,
            codec,
        },
    );
    let sources = prop::collection::vec(source, 0..8);
    let ends = prop::collection::vec(1i64..50, 0..4);
    let start = prop_oneof![Just(0), 0i64..20];
    let lost = prop::option::weighted(0.3, 0usize..4);
    let partition = (sources, ends, lost, start, 0i64..500).prop_map(
        |(sources, mut ends, lost, log_start, base_offset)| {
            let mut partition = Partition {
                sources,
                ends: vec![],
                lost,
                log_start: 0,
                base_offset,
            };
            let end = end_of(&partition);
            ends.retain(|cut| *cut < end);
            ends.sort_unstable();
            partition.ends = ends;
            partition.log_start = log_start.min(end);
            partition
        },
    );
    let bound = || prop::option::weighted(0.4, 0i64..100);
    let partitions = prop::collection::vec(partition, 1..4);
    let limit = prop_oneof![Just(1 << 20), Just(400u32)];
    (partitions, bound(), bound(), any::<bool>(), limit).prop_map(
        |(partitions, start_ms, end_ms, provenance, max_message_bytes)| World {
            partitions,
            time: TimeRange { start_ms, end_ms },
            provenance,
            max_message_bytes,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn every_offset_is_where_a_walk_through_all_records_finds_it(world in worlds()) {
        let last = world.partitions.iter().map(end_of).max().unwrap_or(0);
        let partitions = 0..world.partitions.len() as i32;
        // One group for each offset, on all partitions.
        let committed: Vec<GroupOffsets> = (0..last + 2).map(|offset| {
            let offsets: Vec<_> = partitions.clone().map(|partition| (partition, offset)).collect();
            group(&format!("{offset:09}"), TOPIC, &offsets)
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (archive, groups) = runtime.block_on(async {
            let archive = Archive::new(&world, &committed).await;
            let groups = archive.translate().await.unwrap();
            (archive, groups)
        });
        prop_assert_eq!(groups.len(), committed.len());
        for (group, committed) in groups.iter().zip(0..) {
            prop_assert_eq!(&group.left_out, &[]);
            prop_assert_eq!(group.offsets.len(), world.partitions.len());
            for (number, partition) in world.partitions.iter().enumerate() {
                let found = &group.offsets[number];
                let before = archive.restored[number].iter().filter(|at| **at < committed).count();
                prop_assert_eq!(found.offset, partition.base_offset + before as i64, "{} at {}", number, committed);
                let (start, end) = (partition.log_start, end_of(partition));
                let inexact = match committed {
                    below if below < start => Some(Inexact::BelowStart { start }),
                    beyond if beyond > end => Some(Inexact::BeyondEnd { end }),
                    within => {
                        let next = archive.restored[number].iter().find(|at| **at >= within);
                        let gap = archive.gaps[number];
                        let next = next.copied().unwrap_or(end);
                        (within.max(gap.start) < gap.end.min(next)).then_some(Inexact::Gap(gap))
                    }
                };
                prop_assert_eq!(found.inexact, inexact);
                let target = (&*found.target_topic, found.target_partition as usize);
                prop_assert_eq!(target, ("t2", world.partitions.len() - 1 - number));
                prop_assert_eq!((found.committed.offset, found.leader_epoch), (committed, None));
            }
        }
    }
}

/// Two segments of one partition: a batch with holes, and one without.
fn holes() -> World {
    let source = |timestamps: &[Option<i64>]| Source {
        distance: 0,
        timestamps: timestamps.to_vec(),
        codec: Codec::Lz4,
    };
    let partition = Partition {
        sources: vec![
            source(&[Some(1), None, Some(2), None, Some(3)]),
            source(&[Some(4); 5]),
        ],
        ends: vec![5],
        lost: None,
        log_start: 0,
        base_offset: 10,
    };
    World {
        partitions: vec![partition],
        time: TimeRange::default(),
        provenance: false,
        max_message_bytes: 1 << 20,
    }
}

#[tokio::test]
async fn a_missing_piece_is_named() {
    let groups = [group("g", TOPIC, &[(0, 7)])];
    // With a bound, the names of the segments do not tell whether there have to be pieces.
    let cases = [(None, 0), (None, 1), (Some(2), 0), (Some(2), 1)];
    for (start_ms, lost) in cases {
        let mut world = holes();
        world.time.start_ms = start_ms;
        let archive = Archive::new(&world, &groups).await;
        assert_eq!(archive.pieces.len(), 2);
        let lost = &archive.pieces[lost];
        let store = &archive.store;
        store.delete(std::slice::from_ref(lost)).await.unwrap();
        let error = archive.translate().await.unwrap_err();
        assert_eq!(error.fault(), Fault::Unavailable, "{error}");
        assert!(error.to_string().contains(lost), "{error}");

        let done = archive.layout.restore_done(&archive.decision.run.uid);
        store.create(&done, Bytes::from("{}")).await.unwrap();
        let error = archive.translate().await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{error}");
        assert!(error.to_string().contains(lost), "{error}");
    }
}

#[tokio::test]
async fn a_piece_of_another_restore_is_damage() {
    let archive = Archive::new(&holes(), &[group("g", TOPIC, &[(0, 7)])]).await;
    let mut other = archive.decision.clone();
    let partition = &mut other.topics.get_mut(TOPIC).unwrap().partitions[0];
    partition.base_offset += 1;
    let archive = Archive {
        decision: other,
        ..archive
    };
    let error = archive.translate().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(error.to_string().contains(&archive.pieces[0]), "{error}");
}

#[tokio::test]
async fn only_segments_with_holes_at_an_offset_are_needed() {
    let groups = [
        group("dense", TOPIC, &[(0, 7)]),
        group("hole", TOPIC, &[(0, 3)]),
    ];
    let archive = Archive::new(&holes(), &groups).await;
    let found = archive.translate().await.unwrap();
    let offsets: Vec<i64> = found.iter().map(|group| group.offsets[0].offset).collect();
    assert_eq!(offsets, [15, 12]);
    let delete = async |key: &String| archive.store.delete(std::slice::from_ref(key)).await;
    delete(&archive.segments[1]).await.unwrap();
    assert_eq!(archive.translate().await.unwrap(), found);
    delete(&archive.segments[0]).await.unwrap();
    let error = archive.translate().await.unwrap_err();
    assert!(error.to_string().contains(&archive.segments[0]), "{error}");
    let dense = GroupSelector::parse("groups", &["dense".into()]).unwrap();
    let (store, layout) = (&archive.store, &archive.layout);
    let translated = translate(store, layout, &archive.decision, Some(&dense))
        .await
        .unwrap();
    let groups: Vec<_> = translated.groups().unwrap().map(Result::unwrap).collect();
    assert_eq!(groups, found[..1]);
}

#[tokio::test]
async fn groups_on_a_topic_that_was_dealt_out_by_keys_are_refused_by_name() {
    let groups = [group("g", TOPIC, &[(0, 7)]), group("h", "other", &[(0, 7)])];
    let mut archive = Archive::new(&holes(), &groups).await;
    archive.decision.topics.get_mut(TOPIC).unwrap().by_key = Some(3);
    let error = archive.translate().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let message = error.to_string();
    assert!(message.contains("topic t, on which group g"), "{message}");
    let other = GroupSelector::parse("groups", &["h".into()]).unwrap();
    let (store, layout) = (&archive.store, &archive.layout);
    translate(store, layout, &archive.decision, Some(&other))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_has_no_place_is_left_out_with_its_reason() {
    let mut all = group("g", TOPIC, &[(0, 7), (1, 7)]);
    for topic in ["broken", "other"] {
        all.topics.append(&mut group("g", topic, &[(4, 7)]).topics);
    }
    let mut archive = Archive::new(&holes(), &[all]).await;
    let failed = &mut archive.decision.failed;
    failed.insert("broken".into(), "a segment is missing".into());
    let group = archive.translate().await.unwrap().remove(0);
    assert_eq!(group.offsets.len(), 1);
    let out = |topic: &str, partition, reason| LeftOut {
        topic: topic.into(),
        partition,
        reason,
    };
    assert_eq!(
        group.left_out,
        [
            out(
                "broken",
                4,
                LeftOutReason::Failed("a segment is missing".into())
            ),
            out("other", 4, LeftOutReason::NotAsked),
            out(TOPIC, 1, LeftOutReason::NoSuchPartition),
        ]
    );
}

#[tokio::test]
async fn a_backup_without_groups_is_refused() {
    let archive = Archive::new(&holes(), &[]).await;
    let key = archive.layout.manifest(BACKUP);
    let bytes = archive.store.get(&key).await.unwrap().unwrap();
    let mut manifest: Manifest = from_json(&key, &bytes).unwrap();
    manifest.groups = None;
    archive
        .store
        .delete(std::slice::from_ref(&key))
        .await
        .unwrap();
    archive
        .store
        .create(&key, to_json(&manifest).into())
        .await
        .unwrap();
    let error = archive.translate().await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    assert!(error.to_string().contains(BACKUP), "{error}");
}

#[tokio::test]
async fn a_leader_epoch_is_kept_only_for_the_same_place_of_the_same_log() {
    let mut world = holes();
    world.partitions[0].base_offset = 2;
    // Five of the offsets up to 7 have records: with the base offset it becomes 7 again.
    let groups = [
        group("moved", TOPIC, &[(0, 3)]),
        group("stays", TOPIC, &[(0, 7)]),
    ];
    let mut archive = Archive::new(&world, &groups).await;
    let same_topic = archive.decision.topics[TOPIC].source_topic_id;
    let other_topic = archive.decision.topics[TOPIC].target_topic_id;
    for (cluster, topic, kept) in [
        ("source", same_topic, Some(EPOCH)),
        ("target", same_topic, None),
        ("source", other_topic, None),
    ] {
        archive.decision.target_cluster_id = cluster.into();
        let decided = archive.decision.topics.get_mut(TOPIC).unwrap();
        decided.target_topic_id = topic;
        let found = archive.translate().await.unwrap();
        let epochs = found.iter().map(|group| {
            let offset = &group.offsets[0];
            (offset.offset, offset.leader_epoch)
        });
        assert_eq!(epochs.collect::<Vec<_>>(), [(4, None), (7, kept)]);
    }
}
