//! Verification of an archive, whole and with every kind of damage: in a folder, and with the feature `lab-tests` also on the S3
//! server of the lab (`KAFKA_BACKUP_LAB_S3`, which `cargo lab test` sets).
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

#[cfg(feature = "lab-tests")]
mod lab_s3;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::batch;
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffsets, GroupsPart, GroupsWriter};
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId};
use kafka_backup_shared::archive::manifest::{
    ArchiveInfo, Begin, Manifest, ManifestTopic, PinnedPartition, TopicDescription, TopicPart,
    to_json, to_json_zst,
};
use kafka_backup_shared::archive::record::{self, Record};
use kafka_backup_shared::plan::{ArchiveName, IsolationLevel, RunRef};
use kafka_backup_shared::report::HeldBack;
use kafka_backup_worker::context::Progress;
use kafka_backup_worker::store::Store;
use kafka_backup_worker::verify::{Verification, Which, show, verify};

const FIRST: &str = "orders-20260101-000000";
const SECOND: &str = "orders-20260102-000000";

fn name() -> ArchiveName {
    ArchiveName {
        namespace: "default".into(),
        name: "orders".into(),
    }
}

/// An archive of two runs: `moving` has a part and a segment more in the second, `idle` is as the first has left it.
struct Archive {
    folder: tempfile::TempDir,
    store: Store,
    layout: Layout,
}

fn id(topic: &str) -> TopicId {
    TopicId([topic.len() as u8; 16])
}

fn chain(topic: &str) -> ChainKey {
    ChainKey {
        topic: topic.into(),
        topic_id: id(topic),
        partition: 0,
        generation: FIRST.into(),
    }
}

fn segment(start: i64) -> (SegmentName, Vec<u8>) {
    let mut bytes = Vec::new();
    for base in [start, start + 5] {
        let record = |offset| Record {
            offset,
            timestamp: 1000 + base,
            body: vec![1, 1, 0],
        };
        let records: Vec<Record> = (0..5).map(record).collect();
        let mut batch = record::encode(&records, Codec::Lz4).unwrap();
        batch::set_base_offset(&mut batch, base);
        batch[12..16].copy_from_slice(&3i32.to_be_bytes());
        bytes.extend(batch);
    }
    let name = SegmentName {
        start,
        end: start + 10,
        leader_epoch: 3,
        records: 10,
        max_timestamp: 1005 + start,
        crc32c: crc32c::crc32c(&bytes),
    };
    (name, bytes)
}

fn part(topic: &str, segments: i64) -> TopicPart {
    TopicPart {
        format_version: FORMAT_VERSION,
        topic: topic.into(),
        description: TopicDescription {
            topic_id: id(topic),
            replication_factor: 1,
            configs: BTreeMap::new(),
        },
        partitions: vec![PinnedPartition {
            partition: 0,
            log_start: 0,
            end: segments * 10,
            high_watermark: segments * 10,
            generation: FIRST.into(),
            segments: (0..segments).map(|n| segment(n * 10).0).collect(),
            gaps: vec![],
        }],
    }
}

fn run_ref(run: &str) -> RunRef {
    RunRef {
        run: run.into(),
        ..RunRef::example()
    }
}

fn manifest(run: &str, topics: &[(&str, &str, u64)]) -> Manifest {
    let topic = |(topic, part, segments): &(&str, &str, u64)| {
        let summary = ManifestTopic {
            part: part.to_string(),
            topic_id: id(topic),
            partitions: 1,
            records: segments * 10,
            bytes: 0,
            added_records: 0,
            added_bytes: 0,
            gaps: 0,
            added_gaps: 0,
        };
        (topic.to_string(), summary)
    };
    Manifest {
        format_version: FORMAT_VERSION,
        run: run_ref(run),
        start_time: "2026-01-01T00:00:00Z".parse().unwrap(),
        completion_time: "2026-01-01T00:01:00Z".parse().unwrap(),
        cluster_id: "c".into(),
        source_cluster_id: None,
        isolation_level: IsolationLevel::ReadCommitted,
        base: None,
        records: 0,
        bytes: 0,
        topics: topics.iter().map(topic).collect(),
        failed: BTreeMap::new(),
        missing_topics: vec![],
        only_visible: false,
        groups: None,
        held_back: HeldBack::default(),
        include_offset_headers: false,
    }
}

/// Consumer groups, and how a manifest names them.
fn groups() -> (Vec<u8>, GroupsPart) {
    let mut writer = GroupsWriter::default();
    writer.push(&GroupOffsets {
        group: "billing".into(),
        kind: GroupKind::Classic,
        topics: BTreeMap::new(),
    });
    writer.finish()
}

impl Archive {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let archive = Self {
            store: Store::open_folder(folder.path()).unwrap(),
            folder,
            layout: Layout::new(&name()),
        };
        let keys = &archive.layout;
        let info = ArchiveInfo {
            format_version: FORMAT_VERSION,
            cluster_id: "c".into(),
            source_cluster_id: None,
        };
        archive.write(&keys.archive(), &to_json(&info));
        for run in [FIRST, SECOND] {
            let begin = Begin {
                format_version: FORMAT_VERSION,
                run: run_ref(run),
                start_time: "2026-01-01T00:00:00Z".parse().unwrap(),
                cluster_id: "c".into(),
                source_cluster_id: None,
                isolation_level: IsolationLevel::ReadCommitted,
                base: None,
                partial_bases: BTreeMap::new(),
                groups: None,
                topics: BTreeMap::new(),
                missing_topics: vec![],
                only_visible: false,
                failed: BTreeMap::new(),
                include_offset_headers: false,
                final_faults: BTreeMap::new(),
            };
            archive.write(&keys.begin(run), &to_json(&begin));
        }
        for (topic, segments) in [("moving", 3), ("idle", 2)] {
            for n in 0..segments {
                let (name, bytes) = segment(n * 10);
                archive.write(&keys.segment(&chain(topic), &name), &bytes);
            }
        }
        archive.write(
            &keys.topic_part(FIRST, "moving"),
            &to_json_zst(&part("moving", 2)),
        );
        archive.write(
            &keys.topic_part(FIRST, "idle"),
            &to_json_zst(&part("idle", 2)),
        );
        archive.write(
            &keys.topic_part(SECOND, "moving"),
            &to_json_zst(&part("moving", 3)),
        );
        let first = manifest(FIRST, &[("moving", FIRST, 2), ("idle", FIRST, 2)]);
        archive.write(&keys.manifest(FIRST), &to_json(&first));
        let (bytes, groups) = groups();
        archive.write(&keys.groups(SECOND, groups.crc32c), &bytes);
        let second = Manifest {
            groups: Some(groups),
            ..manifest(SECOND, &[("moving", SECOND, 3), ("idle", FIRST, 2)])
        };
        archive.write(&keys.manifest(SECOND), &to_json(&second));
        archive
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join(key)
    }

    fn write(&self, key: &str, bytes: &[u8]) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn segment(&self, topic: &str, start: i64) -> String {
        self.layout.segment(&chain(topic), &segment(start).0)
    }

    /// What is found at a place where its files are.
    async fn verify(&self, place: Place, which: &Which) -> Verification {
        let store = match place {
            Place::Folder => self.store.clone(),
            #[cfg(feature = "lab-tests")]
            Place::S3 => self.uploaded().await,
        };
        verify(&store, &name(), which, &Progress::default())
            .await
            .unwrap()
    }

    #[cfg(feature = "lab-tests")]
    async fn uploaded(&self) -> Store {
        use object_store::{ObjectStoreExt, path::Path};

        let (store, objects) = lab_s3::open();
        let keys = self.store.list("", |key, _| Some(key.to_owned())).await;
        for key in keys.unwrap() {
            let content = std::fs::read(self.path(&key)).unwrap();
            let path = Path::parse(key).unwrap();
            objects.put(&path, content.into()).await.unwrap();
        }
        store
    }
}

#[derive(Clone, Copy)]
enum Place {
    Folder,
    #[cfg(feature = "lab-tests")]
    S3,
}

/// The claims that hold in every kind of place.
macro_rules! everywhere {
    ($($claim:ident),* $(,)?) => {
        mod in_a_folder {$(
            #[tokio::test]
            async fn $claim() {
                super::$claim(super::Place::Folder).await;
            }
        )*}

        #[cfg(feature = "lab-tests")]
        mod in_s3 {$(
            #[tokio::test]
            async fn $claim() {
                super::$claim(super::Place::S3).await;
            }
        )*}
    };
}

everywhere!(
    a_whole_archive_is_found_whole,
    every_kind_of_damage_is_named_and_the_other_topic_stays_whole,
    what_no_run_has_pinned_is_verified_with_all_only,
);

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

async fn a_whole_archive_is_found_whole(place: Place) {
    let archive = Archive::new();
    let latest = archive.verify(place, &Which::Latest).await;
    assert_eq!(
        (&latest.problems[..], &latest.foreign[..]),
        (&[][..], &[][..])
    );
    assert_eq!(
        latest.runs.iter().map(|run| &*run.run).collect::<Vec<_>>(),
        [SECOND]
    );
    let counts: Vec<_> = latest
        .topics
        .iter()
        .map(|topic| (&*topic.topic, topic.segments, topic.records))
        .collect();
    assert_eq!(counts, [("idle", 2, 20), ("moving", 3, 30)]);
    let text = show::verification(&latest, &Which::Latest);
    assert!(
        text.contains("read 5 segments") && text.contains("everything is as it was written"),
        "{text}"
    );

    let first = archive.verify(place, &Which::Run(FIRST.into())).await;
    assert_eq!(
        first.topics.iter().map(|topic| topic.segments).sum::<u64>(),
        4
    );
    let all = archive.verify(place, &Which::All).await;
    assert_eq!((all.runs.len(), all.problems.len()), (2, 0));
}

/// What is done to an archive, the object that must be named, its topic, and what must be said of it.
type Damage = (
    &'static str,
    Box<dyn Fn(&Archive)>,
    fn(&Archive) -> String,
    Option<&'static str>,
    &'static str,
);

async fn every_kind_of_damage_is_named_and_the_other_topic_stays_whole(place: Place) {
    fn target(archive: &Archive) -> String {
        archive.segment("moving", 10)
    }
    fn part_of_second(archive: &Archive) -> String {
        archive.layout.topic_part(SECOND, "moving")
    }
    fn groups_of_second(archive: &Archive) -> String {
        archive.layout.groups(SECOND, groups().1.crc32c)
    }
    let on_segment = |damage: fn(&mut Vec<u8>)| -> Box<dyn Fn(&Archive)> {
        Box::new(move |archive| change(&archive.path(&target(archive)), damage))
    };
    let renamed = |archive: &Archive| SegmentName {
        records: 9,
        ..archive_segment(archive)
    };
    let cases: Vec<Damage> = vec![
        (
            "a flipped byte",
            on_segment(|bytes| bytes[90] ^= 1),
            target,
            Some("moving"),
            "its CRC-32C is ",
        ),
        (
            "a flipped byte in a header",
            on_segment(|bytes| bytes[5] ^= 1),
            target,
            Some("moving"),
            "lies outside of offsets 10 to 20",
        ),
        (
            "truncated",
            on_segment(|bytes| bytes.truncate(100)),
            target,
            Some("moving"),
            "it ends within the record batch at offset",
        ),
        (
            "truncated between batches",
            on_segment(|bytes| bytes.truncate(bytes.len() / 2)),
            target,
            Some("moving"),
            "its CRC-32C is ",
        ),
        (
            "something else in its place",
            on_segment(|bytes| *bytes = b"%PNG and so on and so on and so on".to_vec()),
            target,
            Some("moving"),
            "its name says",
        ),
        (
            "missing segment",
            Box::new(|archive| std::fs::remove_file(archive.path(&target(archive))).unwrap()),
            target,
            Some("moving"),
            "missing, but a run has pinned it",
        ),
        (
            "missing part",
            Box::new(|archive| {
                std::fs::remove_file(archive.path(&part_of_second(archive))).unwrap()
            }),
            part_of_second,
            Some("moving"),
            "missing, but a manifest names it",
        ),
        (
            "damaged part",
            Box::new(|archive| {
                change(&archive.path(&part_of_second(archive)), |bytes| {
                    bytes.truncate(20)
                })
            }),
            part_of_second,
            Some("moving"),
            "",
        ),
        (
            "wrong record count in a name",
            Box::new(move |archive| {
                let mut part = part("moving", 3);
                part.partitions[0].segments[1] = renamed(archive);
                archive.write(&part_of_second(archive), &to_json_zst(&part));
                std::fs::rename(
                    archive.path(&target(archive)),
                    archive.path(&archive.layout.segment(&chain("moving"), &renamed(archive))),
                )
                .unwrap();
                let second = manifest(SECOND, &[("moving", SECOND, 3), ("idle", FIRST, 2)]);
                let mut second = second;
                second.topics.get_mut("moving").unwrap().records = 29;
                archive.write(&archive.layout.manifest(SECOND), &to_json(&second));
            }),
            |archive| {
                archive.layout.segment(
                    &chain("moving"),
                    &SegmentName {
                        records: 9,
                        ..archive_segment(archive)
                    },
                )
            },
            Some("moving"),
            "it holds 10 records, its name says 9",
        ),
        (
            "a part with a hole",
            Box::new(|archive| {
                let mut part = part("moving", 3);
                part.partitions[0].segments.remove(1);
                archive.write(&part_of_second(archive), &to_json_zst(&part));
                let mut second = manifest(SECOND, &[("moving", SECOND, 2), ("idle", FIRST, 2)]);
                second.topics.get_mut("moving").unwrap().partitions = 1;
                archive.write(&archive.layout.manifest(SECOND), &to_json(&second));
            }),
            part_of_second,
            Some("moving"),
            "partition 0: offsets 10 to 20 are in no segment and in no gap",
        ),
        (
            "a part of other counts",
            Box::new(|archive| {
                archive.write(&part_of_second(archive), &to_json_zst(&part("moving", 2)))
            }),
            part_of_second,
            Some("moving"),
            "20 records, the manifest says 1 and 30",
        ),
        (
            "a part of another topic",
            Box::new(|archive| {
                archive.write(&part_of_second(archive), &to_json_zst(&part("idle", 2)))
            }),
            part_of_second,
            Some("moving"),
            "the part of topic idle",
        ),
        (
            "missing groups",
            Box::new(|archive| {
                std::fs::remove_file(archive.path(&groups_of_second(archive))).unwrap()
            }),
            groups_of_second,
            None,
            "missing, but a manifest names it",
        ),
        (
            "a flipped byte in the groups",
            Box::new(|archive| {
                change(&archive.path(&groups_of_second(archive)), |bytes| {
                    bytes[10] ^= 1
                })
            }),
            groups_of_second,
            None,
            "expected CRC-32C",
        ),
        (
            "missing begin.json",
            Box::new(|archive| {
                std::fs::remove_file(archive.path(&archive.layout.begin(SECOND))).unwrap()
            }),
            |archive| archive.layout.begin(SECOND),
            None,
            "missing",
        ),
        (
            "missing archive.json",
            Box::new(|archive| {
                std::fs::remove_file(archive.path(&archive.layout.archive())).unwrap()
            }),
            |archive| archive.layout.archive(),
            None,
            "missing",
        ),
        (
            "a manifest from the future",
            Box::new(|archive| {
                archive.write(
                    &archive.layout.manifest(SECOND),
                    b"{\"formatVersion\": 99, \"x\": 1}",
                )
            }),
            |archive| archive.layout.manifest(SECOND),
            None,
            "format version 99",
        ),
    ];
    for (case, damage, object, topic, said) in cases {
        let archive = Archive::new();
        damage(&archive);
        let found = archive.verify(place, &Which::Run(SECOND.into())).await;
        let [problem] = &found.problems[..] else {
            panic!("{case}: {:?}", found.problems);
        };
        assert_eq!(
            (&problem.object, problem.topic.as_deref()),
            (&object(&archive), topic),
            "{case}"
        );
        assert!(
            problem.problem.contains(said),
            "{case}: {said} in {}",
            problem.problem
        );
        let text = show::verification(&found, &Which::Run(SECOND.into()));
        assert!(
            text.contains(&format!("damaged: {}: ", problem.object)),
            "{case}: {text}"
        );
        let damaged: Vec<_> = found
            .topics
            .iter()
            .filter(|topic| topic.problems > 0)
            .map(|topic| &*topic.topic)
            .collect();
        assert_eq!(damaged, topic.into_iter().collect::<Vec<_>>(), "{case}");
        assert_eq!(
            text.contains("The 1 topic that is whole can be restored"),
            topic.is_some(),
            "{case}: {text}"
        );
        // the first run is as good as before, except where it needs the same object
        let first = archive.verify(place, &Which::Run(FIRST.into())).await;
        let shared = object(&archive) == target(&archive)
            || case.contains("name")
            || case.contains("archive.json");
        assert_eq!(
            first.problems.is_empty(),
            !shared,
            "{case}: {:?}",
            first.problems
        );
    }
}

fn archive_segment(_: &Archive) -> SegmentName {
    segment(10).0
}

async fn what_no_run_has_pinned_is_verified_with_all_only(place: Place) {
    let archive = Archive::new();
    let (name, bytes) = segment(30);
    let key = archive.layout.segment(&chain("moving"), &name);
    archive.write(&key, &bytes[..150]);
    let foreign = format!("{}/notes.txt", archive.layout.topic("moving"));
    archive.write(&foreign, b"mine");
    let latest = archive.verify(place, &Which::Latest).await;
    assert_eq!(
        (latest.problems.len(), &latest.foreign[..]),
        (0, std::slice::from_ref(&foreign))
    );
    let all = archive.verify(place, &Which::All).await;
    assert_eq!(
        all.problems
            .iter()
            .map(|problem| &problem.object)
            .collect::<Vec<_>>(),
        [&key]
    );
}
