//! Attempts of one run that end in failures, and what they leave.

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::layout::{Layout, TopicId};
use kafka_backup_shared::archive::manifest::{BeginTopic, ConfigValue, TopicDescription};
use kafka_backup_shared::plan::{ArchiveName, RunRef};

use super::*;
use crate::backup::archive::{Base, Listing};
use crate::store::Store;

const TOPICS: [&str; 3] = ["a", "b", "c"];

fn partition(end: i64, high_watermark: i64) -> BeginPartition {
    BeginPartition {
        partition: 0,
        log_start: end,
        end,
        high_watermark,
        leader_epoch: 0,
        generation: "g".into(),
    }
}

fn begin(partition: &BeginPartition) -> Begin {
    let topic = BeginTopic {
        description: TopicDescription {
            topic_id: TopicId([1; 16]),
            replication_factor: 1,
            configs: BTreeMap::new(),
        },
        partitions: vec![partition.clone()],
    };
    Begin {
        format_version: FORMAT_VERSION,
        run: RunRef::example(),
        start_time: Timestamp::UNIX_EPOCH,
        cluster_id: "c".into(),
        source_cluster_id: None,
        isolation_level: IsolationLevel::ReadCommitted,
        base: None,
        partial_bases: BTreeMap::new(),
        topics: TOPICS.map(|name| (name.to_owned(), topic.clone())).into(),
        missing_topics: Vec::new(),
        only_visible: false,
        failed: BTreeMap::new(),
        final_faults: BTreeMap::new(),
        groups: None,
        include_offset_headers: false,
    }
}

struct Rig {
    _folder: tempfile::TempDir,
    archive: Archive,
    begin: Begin,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = ArchiveName {
            namespace: "default".into(),
            name: "orders".into(),
        };
        let archive = Archive {
            store: Store::open_folder(folder.path()).unwrap(),
            layout: Layout::new(&name),
        };
        Self {
            _folder: folder,
            archive,
            begin: begin(&partition(0, 0)),
        }
    }

    /// An attempt in which these topics could not be captured.
    async fn attempt(&self, failing: &[&str]) -> Result<Manifest, BackupError> {
        let state = |name: &str| TopicState {
            name: name.into(),
            begin: self.begin.topics[name].clone(),
            base: None,
            counted: None,
            unchanged: None,
            segments: Listing::new(),
            failure: failing
                .contains(&name)
                .then(|| TopicFailure::new(Fault::Unavailable, "no leader")),
            lost: Vec::new(),
        };
        let topics = TOPICS.map(state).into();
        commit(&self.archive, &self.begin, None, topics).await
    }

    async fn read(&self, key: &str) -> Option<Manifest> {
        let found = self.archive.store.get(key).await.unwrap()?;
        Some(from_json(key, &found).unwrap())
    }

    /// Topics that partial.json calls complete, and failed.
    async fn partial(&self) -> Option<(String, String)> {
        let partial = self
            .read(&self.archive.layout.partial(&self.begin.run.run))
            .await?;
        let names = |names: Vec<String>| names.concat();
        Some((
            names(partial.topics.into_keys().collect()),
            names(partial.failed.into_keys().collect()),
        ))
    }

    async fn is_complete(&self) -> bool {
        let key = self.archive.layout.manifest(&self.begin.run.run);
        self.read(&key).await.is_some()
    }
}

fn failed(result: Result<Manifest, BackupError>) -> String {
    let error = result.unwrap_err();
    let BackupError::Topics { failed, .. } = error else {
        panic!("{error}");
    };
    failed.into_keys().collect()
}

#[tokio::test]
async fn attempts_add_up_until_the_run_is_complete() {
    let rig = Rig::new();
    assert_eq!(failed(rig.attempt(&TOPICS).await), "abc");
    assert_eq!(rig.partial().await, None);
    assert_eq!(failed(rig.attempt(&["b", "c"]).await), "bc");
    assert_eq!(rig.partial().await, Some(("a".into(), "bc".into())));
    // What was complete stays so, though this attempt could not look at it.
    assert_eq!(failed(rig.attempt(&["a", "c"]).await), "c");
    assert_eq!(rig.partial().await, Some(("ab".into(), "c".into())));
    assert!(!rig.is_complete().await);
    // No two attempts failed for the same topic, and none succeeded alone: the run has.
    let manifest = rig.attempt(&["a", "b"]).await.unwrap();
    assert_eq!(manifest.topics.len(), 3);
    assert!(rig.is_complete().await);
}

#[tokio::test]
async fn what_failed_for_good_when_the_run_began_is_not_tried_again() {
    let mut rig = Rig::new();
    rig.begin.failed = BTreeMap::from([("d".into(), "topic authorization failed".into())]);
    rig.begin.final_faults = BTreeMap::from([("d".into(), Fault::Denied)]);
    // While others may be completed there is something to try again for.
    let error = rig.attempt(&["a"]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
    let error = rig.attempt(&[]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Denied);
    // As a release wrote it that did not tell.
    rig.begin.final_faults.clear();
    let error = rig.attempt(&[]).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Unavailable);
}

#[tokio::test]
async fn a_worse_attempt_takes_nothing_away() {
    let rig = Rig::new();
    let better = Manifest {
        topics: BTreeMap::new(),
        ..rig.attempt(&[]).await.unwrap()
    };
    let rig = Rig::new();
    failed(rig.attempt(&["c"]).await);
    write_partial(&rig.archive, &rig.begin.run.run, &better)
        .await
        .unwrap();
    assert_eq!(rig.partial().await, Some(("ab".into(), "c".into())));
}

#[tokio::test]
async fn what_attempts_complete_side_by_side_adds_up() {
    let rig = Rig::new();
    let all = rig.attempt(&[]).await.unwrap();
    let with = |names: &[&str]| Manifest {
        topics: all
            .topics
            .iter()
            .filter(|(name, _)| names.contains(&name.as_str()))
            .map(|(name, topic)| {
                let topic = ManifestTopic {
                    added_records: 10,
                    added_bytes: 100,
                    ..topic.clone()
                };
                (name.clone(), topic)
            })
            .collect(),
        failed: TOPICS
            .iter()
            .filter(|name| !names.contains(name))
            .map(|name| (name.to_string(), "no leader".to_owned()))
            .collect(),
        records: 10 * names.len() as u64,
        bytes: 100 * names.len() as u64,
        ..all.clone()
    };
    let rig = Rig::new();
    let run = &rig.begin.run.run;
    // Neither has looked at what the other has done.
    for names in [&["a"][..], &["b", "c"], &["b"]] {
        write_partial(&rig.archive, run, &with(names))
            .await
            .unwrap();
    }
    assert_eq!(rig.partial().await, Some(("abc".into(), String::new())));
    let found = rig.read(&rig.archive.layout.partial(run)).await.unwrap();
    assert_eq!((found.records, found.bytes), (30, 300));
}

#[test]
fn a_partition_is_stuck_when_only_its_high_watermark_has_moved() {
    let held = |isolation, before: Option<BeginPartition>, now| {
        let base = before.map(|before| Base {
            run: "before".into(),
            begin: begin(&before),
            manifest: manifest_of(&begin(&before)),
        });
        let now = Begin {
            isolation_level: isolation,
            ..begin(&now)
        };
        let held = held_back(&now, base.as_ref());
        (held.offsets, held.stuck_partitions)
    };
    use IsolationLevel::{ReadCommitted, ReadUncommitted};
    let at = partition;
    // Three topics with one partition each.
    let cases = [
        (ReadCommitted, None, at(10, 15), (15, 0)),
        (ReadCommitted, Some(at(10, 12)), at(10, 15), (15, 3)),
        (ReadCommitted, Some(at(10, 10)), at(10, 15), (15, 3)),
        (ReadCommitted, Some(at(10, 15)), at(10, 15), (15, 0)),
        (ReadCommitted, Some(at(9, 12)), at(10, 15), (15, 0)),
        (ReadCommitted, Some(at(10, 12)), at(15, 15), (0, 0)),
        (ReadUncommitted, Some(at(10, 12)), at(15, 15), (0, 0)),
    ];
    for (isolation, before, now, expected) in cases {
        let found = held(isolation, before.clone(), now.clone());
        assert_eq!(found, expected, "{isolation:?} {before:?} {now:?}");
    }
}

#[test]
fn gaps_count_once_and_again_where_they_grow() {
    let with_gaps = |generation: &str, gaps: &[(i64, i64)]| PinnedPartition {
        partition: 0,
        log_start: 0,
        end: 100,
        high_watermark: 100,
        generation: generation.into(),
        segments: vec![],
        gaps: gaps
            .iter()
            .map(|(start, end)| Gap {
                range: OffsetRange {
                    start: *start,
                    end: *end,
                },
                reason: GapReason::LogStartMoved,
            })
            .collect(),
    };
    let added = |before: Option<PinnedPartition>, now: &PinnedPartition| {
        let begin = begin(&partition(0, 0)).topics["a"].clone();
        let base = before.map(|before| {
            Arc::new(TopicPart {
                format_version: FORMAT_VERSION,
                topic: "a".into(),
                description: begin.description.clone(),
                partitions: vec![before],
            })
        });
        let topic = TopicState {
            name: "a".into(),
            begin,
            base: base.clone(),
            counted: base,
            unchanged: None,
            segments: Listing::new(),
            failure: None,
            lost: Vec::new(),
        };
        added_gaps(&topic, now)
    };
    let before = with_gaps("g", &[(10, 20), (40, 50)]);
    let cases = [
        (None, with_gaps("g", &[(10, 20)]), 1),
        (Some(&before), with_gaps("g", &[(10, 20), (40, 50)]), 0),
        (
            Some(&before),
            with_gaps("g", &[(10, 20), (40, 50), (60, 70)]),
            1,
        ),
        (Some(&before), with_gaps("g", &[(10, 20), (40, 60)]), 1),
        // Retention has taken the segments before what is left of it.
        (Some(&before), with_gaps("g", &[(45, 50)]), 0),
        (Some(&before), with_gaps("h", &[(100, 130)]), 1),
    ];
    for (before, now, expected) in cases {
        assert_eq!(added(before.cloned(), &now), expected, "{:?}", now.gaps);
    }
}

#[test]
fn lag_is_known_when_every_partition_has_told() {
    let begin = begin(&partition(10, 12));
    let told = |highs: &[(&'static str, i64)]| {
        let highs = highs.iter().map(|(topic, high)| ((*topic, 0), *high));
        lag(&begin, &highs.collect())
    };
    assert_eq!(told(&[("a", 10), ("b", 15), ("c", 30)]), Some(25));
    assert_eq!(told(&[("a", 10), ("b", 15)]), None);
    // The topic c was made anew.
    assert_eq!(told(&[("a", 10), ("b", 10), ("c", 2)]), Some(0));
}

#[test]
fn a_partial_run_is_a_base_while_no_tombstone_can_have_been_missed() {
    let was_in_time = |policy: &str, generation: &str, seconds: u64| {
        let mut begin = begin(&partition(10, 12));
        let topic = begin.topics.get_mut("a").unwrap();
        let configs = [
            ("cleanup.policy", policy),
            ("delete.retention.ms", "100000"),
        ];
        topic.description.configs = configs
            .map(|(name, value)| {
                let value = Some(value.to_owned());
                (name.to_owned(), ConfigValue { value, source: 1 })
            })
            .into();
        topic.partitions[0].generation = generation.to_owned();
        let mut manifest = manifest_of(&begin);
        manifest.completion_time += Duration::from_secs(seconds);
        let base = Base {
            run: "mine".into(),
            begin,
            manifest,
        };
        assert!(!base.was_in_time("unknown"));
        base.was_in_time("a")
    };
    // Nine tenths of the time for which tombstones stay.
    assert!(was_in_time("compact", "mine", 90));
    assert!(!was_in_time("compact", "mine", 91));
    assert!(was_in_time("delete", "mine", 91));
    // Only whoever opens a generation reads it from its start.
    assert!(was_in_time("compact", "before", 91));
}

/// The manifest of a run that captured all.
fn manifest_of(begin: &Begin) -> Manifest {
    let topic = ManifestTopic {
        part: "before".into(),
        topic_id: TopicId([1; 16]),
        partitions: 1,
        records: 0,
        bytes: 0,
        added_records: 0,
        added_bytes: 0,
        gaps: 0,
        added_gaps: 0,
    };
    Manifest {
        format_version: FORMAT_VERSION,
        run: begin.run.clone(),
        start_time: begin.start_time,
        completion_time: begin.start_time,
        cluster_id: begin.cluster_id.clone(),
        source_cluster_id: None,
        isolation_level: begin.isolation_level,
        base: None,
        records: 0,
        bytes: 0,
        topics: TOPICS.map(|name| (name.to_owned(), topic.clone())).into(),
        failed: BTreeMap::new(),
        missing_topics: Vec::new(),
        only_visible: false,
        groups: None,
        held_back: HeldBack::default(),
        include_offset_headers: false,
    }
}
