use std::collections::BTreeMap;

use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::archive::layout::{SegmentName, TopicId};
use kafka_backup_shared::archive::manifest::{
    BeginPartition, BeginTopic, Gap, GapReason, ManifestTopic, PinnedPartition, TopicDescription,
    to_json, to_json_zst,
};
use kafka_backup_shared::plan::{IsolationLevel, RunRef};

use super::*;

const RUN: &str = "orders-20260102-030405";

fn archive(namespace: &str) -> ArchiveName {
    ArchiveName {
        namespace: namespace.into(),
        name: "orders".into(),
    }
}

fn run_ref(run: &str) -> RunRef {
    RunRef {
        run: run.into(),
        ..RunRef::example()
    }
}

fn description() -> TopicDescription {
    TopicDescription {
        topic_id: TopicId([7; 16]),
        replication_factor: 1,
        configs: BTreeMap::new(),
    }
}

fn part() -> TopicPart {
    TopicPart {
        format_version: FORMAT_VERSION,
        topic: "clicks".into(),
        description: description(),
        partitions: vec![PinnedPartition {
            partition: 0,
            log_start: 5,
            end: 1205,
            high_watermark: 1205,
            generation: RUN.into(),
            segments: vec![SegmentName {
                start: 5,
                end: 1205,
                leader_epoch: 0,
                records: 1200,
                max_timestamp: 1,
                crc32c: 9,
            }],
            gaps: vec![Gap {
                range: OffsetRange { start: 3, end: 5 },
                reason: GapReason::LogStartMoved,
            }],
        }],
    }
}

fn manifest(run: &str) -> Manifest {
    Manifest {
        format_version: FORMAT_VERSION,
        run: run_ref(run),
        start_time: "2026-01-02T03:04:05.5Z".parse().unwrap(),
        completion_time: "2026-01-02T03:04:17.8Z".parse().unwrap(),
        cluster_id: "c1".into(),
        isolation_level: IsolationLevel::ReadCommitted,
        base: None,
        records: 1200,
        bytes: 4096,
        topics: BTreeMap::from([(
            "clicks".into(),
            ManifestTopic {
                part: RUN.into(),
                topic_id: TopicId([7; 16]),
                partitions: 1,
                records: 1200,
                bytes: 4096,
                added_records: 1200,
                added_bytes: 4096,
                gaps: 1,
                added_gaps: 0,
            },
        )]),
        failed: BTreeMap::new(),
        missing_topics: vec!["gone".into()],
        only_visible: false,
        source_cluster_id: None,
        groups: None,
        held_back: Default::default(),
        include_offset_headers: false,
    }
}

fn begin(run: &str) -> Begin {
    Begin {
        format_version: FORMAT_VERSION,
        run: run_ref(run),
        start_time: "2026-01-03T03:04:05Z".parse().unwrap(),
        cluster_id: "c1".into(),
        isolation_level: IsolationLevel::ReadCommitted,
        base: Some(RUN.into()),
        partial_bases: BTreeMap::new(),
        topics: BTreeMap::from([(
            "clicks".into(),
            BeginTopic {
                description: description(),
                partitions: vec![BeginPartition {
                    partition: 0,
                    log_start: 5,
                    end: 2000,
                    high_watermark: 2000,
                    leader_epoch: 3,
                    generation: RUN.into(),
                }],
            },
        )]),
        missing_topics: vec![],
        only_visible: false,
        failed: BTreeMap::new(),
        final_faults: BTreeMap::new(),
        source_cluster_id: None,
        groups: None,
        include_offset_headers: false,
    }
}

/// A folder with an archive that has a run of every state.
async fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_folder(folder.path()).unwrap();
    let keys = Layout::new(&archive("default"));
    let partial = Manifest {
        failed: BTreeMap::from([("bad".into(), "offline".into())]),
        ..manifest("orders-b")
    };
    for (key, bytes) in [
        (keys.begin(RUN), to_json(&begin(RUN))),
        (keys.topic_part(RUN, "clicks"), to_json_zst(&part())),
        (keys.manifest(RUN), to_json(&manifest(RUN))),
        (keys.begin("orders-c"), to_json(&begin("orders-c"))),
        (keys.partial("orders-b"), to_json(&partial)),
        (
            keys.manifest("orders-d"),
            b"{\"formatVersion\": 99}".to_vec(),
        ),
        ("somebody/else/file".into(), vec![]),
    ] {
        store.create(&key, bytes.into()).await.unwrap();
    }
    (folder, store)
}

#[tokio::test]
async fn every_run_is_listed_with_its_state() {
    let (_folder, store) = store().await;
    let entries = list(&store, None).await.unwrap();
    let states: Vec<_> = entries
        .iter()
        .map(|entry| (entry.run.as_str(), entry.state))
        .collect();
    assert_eq!(
        states,
        [
            ("orders-d", State::Unreadable),
            ("orders-20260102-030405", State::Complete),
            ("orders-b", State::Partial),
            ("orders-c", State::Unfinished),
        ]
    );
    assert!(entries[0].problem.as_ref().unwrap().contains("version 99"));
    assert_eq!(list(&store, Some(&archive("other"))).await.unwrap(), []);
}

#[tokio::test]
async fn a_list_is_a_table() {
    let (_folder, store) = store().await;
    let text = show::list(&list(&store, None).await.unwrap(), "folder x");
    let expected = "\
ARCHIVE         RUN                     STATE       STARTED                 TOOK  TOPICS  RECORDS     SIZE  NEW RECORDS  NEW SIZE
default/orders  orders-d                unreadable  -                          -       -        -        -            -         -
default/orders  orders-20260102-030405  complete    2026-01-02T03:04:05Z  12.3 s       1    1,200  4.0 KiB        1,200   4.0 KiB
default/orders  orders-b                partial     2026-01-02T03:04:05Z  12.3 s       1    1,200  4.0 KiB        1,200   4.0 KiB
default/orders  orders-c                unfinished  2026-01-03T03:04:05Z       -       1        -        -            -         -
";
    assert!(text.starts_with(expected), "{text}");
    assert!(text.contains("orders-b: bad: offline"), "{text}");
    assert!(
        text.contains("orders-20260102-030405: 1 offset range is missing for good"),
        "{text}"
    );
    assert_eq!(
        show::list(&[], "folder x"),
        "There are no runs in folder x.\n"
    );
}

#[tokio::test]
async fn latest_is_the_newest_run_with_a_manifest() {
    let (_folder, store) = store().await;
    let own = archive("default");
    let described = describe(&store, "latest", Some(&own)).await.unwrap();
    assert_eq!(described, describe(&store, RUN, Some(&own)).await.unwrap());
    // A newer one that has not ended.
    let keys = Layout::new(&own);
    let begin = store.get(&keys.begin("orders-c")).await.unwrap().unwrap();
    let newer = keys.begin("orders-20260105-000000");
    store.create(&newer, begin).await.unwrap();
    let described = describe(&store, "latest", Some(&own)).await.unwrap();
    assert_eq!(described.entry.run, RUN);
    let none = archive("empty");
    let key = Layout::new(&none).partial("orders-b");
    store.create(&key, vec![].into()).await.unwrap();
    let error = describe(&store, "latest", Some(&none)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    assert!(error.to_string().contains("has no complete run"), "{error}");
}

#[tokio::test]
async fn a_run_is_described_by_its_pinned_segments() {
    let (_folder, store) = store().await;
    let described = describe(&store, RUN, None).await.unwrap();
    assert_eq!(described.parts, [part()]);
    let partition = serde_json::to_value(&described).unwrap()["partitions"][0].take();
    assert_eq!(
        partition,
        serde_json::json!({
            "topic": "clicks", "partition": 0, "start": 5, "end": 1205, "records": 1200, "segments": 1,
            "newestRecord": "1970-01-01T00:00:00.001Z", "generation": RUN,
            "gaps": [{"start": 3, "end": 5, "reason": "LogStartMoved"}],
        })
    );
    let text = show::description(&described);
    for line in [
        "State:     complete\n",
        "Completed: 2026-01-02T03:04:17Z (took 12.3 s)\n",
        "Missing:   gone\n",
        "New:       1,200 records, 4.0 KiB\n",
        "clicks          0      5  1,205    1,200  1970-01-01T00:00:00Z         1     1  orders-20260102-030405\n",
        "gap: clicks-0: offsets 3 to 4 are missing for good: the source had deleted them before they were captured\n",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn an_unfinished_run_says_what_it_set_out_to_do() {
    let (_folder, store) = store().await;
    let text = show::description(&describe(&store, "orders-c", None).await.unwrap());
    assert!(text.contains("State:     unfinished\n"), "{text}");
    assert!(
        text.contains("clicks          0          5  2,000  orders-20260102-030405\n"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unknown_run_is_told_what_is_there() {
    let (_folder, store) = store().await;
    let error = describe(&store, "orders-x", None).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let text = error.to_string();
    assert!(
        text.contains("\"orders-x\"") && text.contains("orders-20260102-030405 (default/orders)"),
        "{text}"
    );
}

#[tokio::test]
async fn a_run_id_of_two_archives_needs_a_choice() {
    let (_folder, store) = store().await;
    let other = Layout::new(&archive("other"));
    store
        .create(&other.begin(RUN), to_json(&begin(RUN)).into())
        .await
        .unwrap();
    let error = describe(&store, RUN, None).await.unwrap_err().to_string();
    assert!(
        error.contains("default/orders, other/orders") && error.contains("--archive"),
        "{error}"
    );
    assert_eq!(
        describe(&store, RUN, Some(&archive("other")))
            .await
            .unwrap()
            .entry
            .state,
        State::Unfinished
    );
}

#[tokio::test]
async fn a_part_that_is_missing_is_damage() {
    let (folder, store) = store().await;
    let key = Layout::new(&archive("default")).topic_part(RUN, "clicks");
    std::fs::remove_file(folder.path().join(key)).unwrap();
    assert_eq!(
        describe(&store, RUN, None).await.unwrap_err().fault(),
        Fault::Corrupt
    );
}
