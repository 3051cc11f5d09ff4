//! What an archive guards against, played step by step. Needs `KAFKA_BACKUP_LAB_SOURCE`, which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod backup_support;
mod faulty_store;
mod store_calls;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_support::*;
use faulty_store::{Fault, FaultyStore};
use kafka_backup_shared::archive::manifest::{GapReason, from_json};
use kafka_backup_shared::report::{self, error_chain};
use kafka_backup_worker::store::Store;
use object_store::local::LocalFileSystem;
use rdkafka::producer::{BaseRecord, Producer as _};
use tokio::time::{Instant, sleep};

const FIRST: &str = "20260101-000000";
const SECOND: &str = "20260102-000000";
const THIRD: &str = "20260103-000000";

/// The archive's folder as a store that refuses to write objects whose key contains `part`.
fn refusing(archive: &Archive, part: &'static str) -> Store {
    let folder = LocalFileSystem::new_with_prefix(archive.folder()).unwrap();
    let faulty = FaultyStore::new(Arc::new(folder))
        .only(part)
        .with_puts(&[Fault::Denied; 50]);
    Store::new(Arc::new(faulty), "a folder", None).unwrap()
}

/// Configs of a topic that the broker compacts as soon as it can.
fn compacted(delete_retention_ms: &str) -> [(&str, &str); 4] {
    [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.ms", "50"),
        ("delete.retention.ms", delete_retention_ms),
    ]
}

/// Writes records, `None` for a tombstone, each in a batch of its own.
async fn write(topic: &str, records: &[(&str, Option<&str>)]) {
    let topic = topic.to_owned();
    let own = |(key, value): &(&str, Option<&str>)| (key.to_string(), value.map(str::to_owned));
    let records: Vec<_> = records.iter().map(own).collect();
    blocking(move || {
        let producer = producer(&[]);
        for (key, value) in &records {
            let mut record = BaseRecord::to(&topic).partition(0).key(key);
            if let Some(value) = value {
                record = record.payload(value);
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
            producer.flush(TIMEOUT).unwrap();
        }
    })
    .await;
}

/// Everything in partition 0 of a topic.
async fn all(topic: &str) -> Vec<Stored> {
    consume(topic, 0, "read_committed", i64::MAX).await
}

/// Writes a record now and then, so that the broker rolls its segments and compacts them, until it has removed what is meant.
async fn compact(topic: &str, done: impl Fn(&[Stored]) -> bool) -> Vec<Stored> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        write(topic, &[("tick", Some("tock"))]).await;
        let read = all(topic).await;
        if done(&read) {
            return read;
        }
        assert!(Instant::now() < deadline, "the broker did not compact");
        // segment.ms
        sleep(Duration::from_millis(60)).await;
    }
}

fn has(records: &[Stored], key: &str) -> bool {
    records
        .iter()
        .any(|(_, found, _)| found.as_deref() == Some(key.as_bytes()))
}

/// The newest value of each key, which is what compaction preserves.
fn newest(records: &[Stored]) -> BTreeMap<Vec<u8>, (i64, Option<Vec<u8>>)> {
    records
        .iter()
        .map(|(offset, key, value)| (key.clone().unwrap(), (*offset, value.clone())))
        .collect()
}

/// Every file below a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_deleted_does_not_come_back() {
    let archive = Archive::new();
    let topic = name("tombstone");
    create_topic(&topic, 1, &compacted("1000")).await;
    write(&topic, &[("stays", Some("1")), ("goes", Some("2"))]).await;
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    write(&topic, &[("goes", None)]).await;
    // Neither the record nor its tombstone.
    compact(&topic, |read| !has(read, "goes")).await;

    run(&plan(SECOND, &[&topic]), &archive.store).await.unwrap();
    let manifest = archive.manifest(SECOND).await;
    let part = archive.part(&manifest, &topic).await;
    assert_eq!(part.partitions[0].generation, format!("orders-{SECOND}"));
    let stored = archive.records(&manifest, &topic, 0).await;
    assert!(has(&stored, "stays") && !has(&stored, "goes"), "{stored:?}");
    assert_eq!(newest(&stored), newest(&all(&topic).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_fetched_too_late_is_not_adopted() {
    let archive = Archive::new();
    let topic = name("late");
    let window = Duration::from_millis(3600);
    create_topic(&topic, 1, &compacted("4000")).await;
    write(&topic, &[("goes", Some("1"))]).await;
    let start = Instant::now();
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    write(&topic, &[("goes", None), ("other", Some("2"))]).await;
    // It begins in time, in the generation of the first run, and stores nothing.
    let second = plan(SECOND, &[&topic]);
    run(&second, &refusing(&archive, "/topics/"))
        .await
        .unwrap_err();
    let key = archive.layout.begin(&format!("orders-{SECOND}"));
    let begin = archive.store.get(&key).await.unwrap().unwrap();
    let begin: kafka_backup_shared::archive::manifest::Begin = from_json(&key, &begin).unwrap();
    assert!(
        start.elapsed() < window,
        "too slow a machine to play this sequence"
    );
    assert_eq!(
        begin.topics[&topic].partitions[0].generation,
        format!("orders-{FIRST}")
    );
    // The window ends, and the tombstone goes.
    compact(&topic, |read| !has(read, "goes")).await;
    for attempt in 0..3 {
        let late = run(&second, &archive.store).await.unwrap_err();
        let message = error_chain(&late);
        assert!(
            message.contains("delete.retention.ms"),
            "attempt {attempt}: {message}"
        );
    }
    run(&plan(THIRD, &[&topic]), &archive.store).await.unwrap();
    let manifest = archive.manifest(THIRD).await;
    assert_eq!(manifest.base, Some(format!("orders-{FIRST}")));
    let stored = archive.records(&manifest, &topic, 0).await;
    assert!(has(&stored, "other") && !has(&stored, "goes"), "{stored:?}");
}

/// A worker that was thought dead goes on after the run was completed by another, and stores what is left of the topic then.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_complete_run_pinned_of_a_compacted_topic_stays_pinned() {
    let archive = Archive::new();
    let topic = name("zombie");
    create_topic(&topic, 1, &compacted("86400000")).await;
    for _ in 0..2 {
        fill(&topic, 1, 500, 500).await;
    }
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    let manifest = archive.manifest(FIRST).await;
    let before = archive.part(&manifest, &topic).await.partitions.remove(0);
    let pinned = archive.records(&manifest, &topic, 0).await;

    let left = compact(&topic, |read| read.len() < 600).await;
    assert!(left.len() < pinned.len());
    // Small tiles below the end that the run pinned, and one across it.
    let zombie = Archive::new();
    for (of, size) in [(FIRST, 64 << 10), (FIRST, 16 << 20)] {
        let other = Archive::new();
        let mut late = plan(of, &[&topic]);
        late.segments.segment_max_bytes = size;
        run(&late, &other.store).await.unwrap();
        copy_segments(&other, &zombie);
    }
    let tiles = copy_segments(&zombie, &archive);
    assert!(tiles >= 2, "{tiles}");

    run(&plan(SECOND, &[&topic]), &archive.store).await.unwrap();
    let manifest = archive.manifest(SECOND).await;
    let part = archive.part(&manifest, &topic).await.partitions.remove(0);
    assert_eq!(part.generation, before.generation);
    let kept: BTreeSet<_> = part.segments.iter().collect();
    assert!(before.segments.iter().all(|name| kept.contains(name)));
    let stored = archive.records(&manifest, &topic, 0).await;
    assert_eq!(&stored[..pinned.len()], &pinned[..]);
    assert_eq!(newest(&stored), newest(&all(&topic).await));
}

/// Copies the segments that are not there; how many.
fn copy_segments(from: &Archive, to: &Archive) -> usize {
    let mut copied = 0;
    for (path, content) in files(from.folder()) {
        let target = to.folder().join(path.strip_prefix(from.folder()).unwrap());
        if path.extension().is_some_and(|e| e == "log") && !target.exists() {
            fs::create_dir_all(target.parent().unwrap()).unwrap();
            fs::write(target, content).unwrap();
            copied += 1;
        }
    }
    copied
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_that_the_log_start_has_entered_is_a_gap_and_the_rest_is_fetched() {
    let archive = Archive::new();
    let topic = name("hole");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 1000, 500).await;
    let read = all(&topic).await;
    let mut first = plan(FIRST, &[&topic]);
    first.segments.segment_max_bytes = 64 << 10;
    // All segments are stored and nothing says so; then one in the middle is not there after all.
    run(&first, &refusing(&archive, ".json.zst"))
        .await
        .unwrap_err();
    let mut segments: Vec<_> = archive.segments().await.into_keys().collect();
    segments.sort();
    assert!(segments.len() >= 5);
    let lost = segments[segments.len() / 2].clone();
    fs::remove_file(archive.folder().join(&lost)).unwrap();
    let (_, hole) = archive.layout.parse_segment(&lost).unwrap();
    // Inside a batch of 20.
    let log_start = hole.start + 27;
    assert!(log_start < hole.end);
    delete_records(&topic, 0, log_start).await;

    let completed = run(&first, &archive.store).await.unwrap();
    assert_eq!((completed.records, completed.gaps), (1000 - 27, 1));
    let manifest = archive.manifest(FIRST).await;
    let gaps = archive.part(&manifest, &topic).await.partitions[0]
        .gaps
        .clone();
    assert_eq!(gaps[0].reason, GapReason::LogStartMoved);
    assert_eq!(
        (gaps[0].range.start, gaps[0].range.end),
        (hole.start, log_start)
    );
    let expected: Vec<Stored> = read
        .into_iter()
        .filter(|(offset, ..)| !(hole.start..log_start).contains(offset))
        .collect();
    assert_eq!(archive.records(&manifest, &topic, 0).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_between_two_runs_is_another_one() {
    let archive = Archive::new();
    let topic = name("anew");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 100, 100).await;
    let before = all(&topic).await;
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    delete_topic(&topic).await;
    create_topic(&topic, 1, &[]).await;
    // The same end, so that only the id tells.
    fill(&topic, 1, 100, 50).await;
    let completed = run(&plan(SECOND, &[&topic]), &archive.store).await.unwrap();
    assert_eq!(completed.records, 100);
    let second = archive.manifest(SECOND).await;
    assert_eq!(archive.records(&second, &topic, 0).await, all(&topic).await);
    let first = archive.manifest(FIRST).await;
    assert_ne!(
        first.topics[&topic].topic_id,
        second.topics[&topic].topic_id
    );
    assert_eq!(archive.records(&first, &topic, 0).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_runs_at_once_are_both_complete_and_the_next_goes_on_from_them() {
    let archive = Archive::new();
    let topic = name("both");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 200, 500).await;
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    fill(&topic, 1, 2000, 500).await;
    let mut small = plan(SECOND, &[&topic]);
    small.segments.segment_max_bytes = 64 << 10;
    let third = plan(THIRD, &[&topic]);
    let (one, two) = tokio::join!(run(&small, &archive.store), run(&third, &archive.store));
    assert_eq!((one.unwrap().records, two.unwrap().records), (2000, 2000));
    let read = all(&topic).await;
    for of in [SECOND, THIRD] {
        let manifest = archive.manifest(of).await;
        assert_eq!(manifest.base, Some(format!("orders-{FIRST}")));
        assert_eq!(archive.records(&manifest, &topic, 0).await, read);
    }
    fill(&topic, 1, 100, 500).await;
    let next = "20260104-000000";
    let completed = run(&plan(next, &[&topic]), &archive.store).await.unwrap();
    assert_eq!(completed.records, 100);
    let manifest = archive.manifest(next).await;
    assert_eq!(
        archive.records(&manifest, &topic, 0).await,
        all(&topic).await
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_stops_the_run_and_stays_as_it_is() {
    let archive = Archive::new();
    let topic = name("damaged");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 100, 100).await;
    run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    fill(&topic, 1, 100, 100).await;
    let second = plan(SECOND, &[&topic]);
    run(&second, &refusing(&archive, "/topics/"))
        .await
        .unwrap_err();
    let third = plan(THIRD, &[&topic]);

    let (layout, first_run) = (&archive.layout, format!("orders-{FIRST}"));
    let second_run = format!("orders-{SECOND}");
    let cases = [
        (layout.archive(), &third),
        (layout.manifest(&first_run), &third),
        (layout.begin(&first_run), &third),
        (layout.topic_part(&first_run, &topic), &third),
        (layout.begin(&second_run), &second),
        (layout.manifest(&first_run), &second),
        (layout.begin(&first_run), &second),
        (layout.topic_part(&first_run, &topic), &second),
        // The run would be complete, if that could be read.
        (layout.manifest(&first_run), &plan(FIRST, &[&topic])),
    ];
    for (key, plan) in cases {
        let path = archive.folder().join(&key);
        let good = fs::read(&path).unwrap();
        let newer = |json: &[u8]| {
            let text = std::str::from_utf8(json).unwrap();
            text.replacen("\"formatVersion\": 1", "\"formatVersion\": 2", 1)
                .replacen("\"formatVersion\":1", "\"formatVersion\":2", 1)
        };
        let from_the_future = if key.ends_with(".zst") {
            let json = zstd::stream::decode_all(&good[..]).unwrap();
            zstd::stream::encode_all(newer(&json).as_bytes(), 0).unwrap()
        } else {
            newer(&good).into_bytes()
        };
        assert_ne!(from_the_future, good);
        for (bad, said) in [
            (from_the_future, "format version 2"),
            (good[..good.len() / 2].to_vec(), "damaged"),
            (Vec::new(), "damaged"),
        ] {
            fs::write(&path, bad).unwrap();
            let before = files(archive.folder());
            let error = run(plan, &archive.store).await.unwrap_err();
            assert_eq!(error.fault(), report::Fault::Corrupt, "{key}");
            let message = error_chain(&error);
            assert!(
                message.contains(&key) && message.contains(said),
                "{key}: {message}"
            );
            assert!(
                files(archive.folder()) == before,
                "{key}: something was written"
            );
        }
        fs::write(&path, good).unwrap();
    }
    run(&second, &archive.store).await.unwrap();
    assert_eq!(
        archive
            .records(&archive.manifest(SECOND).await, &topic, 0)
            .await,
        all(&topic).await
    );
}

/// Removes segments, counted in the order of their offsets, and gives back their names.
async fn lose(archive: &Archive, which: impl Fn(usize, usize) -> bool) -> Vec<String> {
    let segments: Vec<String> = archive.segments().await.into_keys().collect();
    let count = segments.len();
    assert!(count >= 5, "{segments:?}");
    let lost = (0..).zip(segments).filter(|(at, _)| which(*at, count));
    let lost: Vec<String> = lost.map(|(_, key)| key).collect();
    for key in &lost {
        fs::remove_file(archive.folder().join(key)).unwrap();
    }
    let names = lost.iter().map(|key| key.rsplit('/').next().unwrap());
    names
        .map(|name| name.strip_suffix(".log").unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_segment_that_is_lost_is_fetched_again_and_adds_nothing() {
    let archive = Archive::new();
    let topic = name("lost");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 1000, 500).await;
    let mut first = plan(FIRST, &[&topic]);
    first.segments.segment_max_bytes = 64 << 10;
    run(&first, &archive.store).await.unwrap();
    // Two neighbours, and the last one.
    let lost = lose(&archive, |at, count| at == 1 || at == 2 || at + 1 == count).await;
    fill(&topic, 1, 100, 500).await;
    let read = all(&topic).await;

    // Of another size, so that what is fetched again has other names.
    let mut second = plan(SECOND, &[&topic]);
    second.segments.segment_max_bytes = 24 << 10;
    // The first attempt stores all and pins nothing.
    run(&second, &refusing(&archive, ".json.zst"))
        .await
        .unwrap_err();
    let completed = run(&second, &archive.store).await.unwrap();
    assert_eq!((completed.records, completed.gaps), (100, 0));
    let [warning] = &completed.warnings[..] else {
        unreachable!("one warning: {:?}", completed.warnings)
    };
    assert!(
        warning.contains(&lost[0]) && warning.contains("and "),
        "{warning}"
    );
    let manifest = archive.manifest(SECOND).await;
    assert_eq!(archive.records(&manifest, &topic, 0).await, read);
    let part = archive.part(&manifest, &topic).await.partitions.remove(0);
    assert_eq!(part.generation, format!("orders-{FIRST}"));

    // And it is whole again.
    fill(&topic, 1, 10, 500).await;
    let completed = run(&plan(THIRD, &[&topic]), &archive.store).await.unwrap();
    assert_eq!((completed.records, completed.warnings), (10, vec![]));
    let manifest = archive.manifest(THIRD).await;
    let records = archive.records(&manifest, &topic, 0).await;
    assert_eq!(records, all(&topic).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_segment_that_the_source_has_deleted_is_damage() {
    let archive = Archive::new();
    let topic = name("damaged");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 1000, 500).await;
    let mut first = plan(FIRST, &[&topic]);
    first.segments.segment_max_bytes = 64 << 10;
    run(&first, &archive.store).await.unwrap();
    let lost = lose(&archive, |at, _| at == 1).await;
    delete_records(&topic, 0, 990).await;
    fill(&topic, 1, 10, 500).await;
    let before = archive.segments().await;
    let error = run(&plan(SECOND, &[&topic]), &archive.store)
        .await
        .unwrap_err();
    assert_eq!(error.fault(), report::Fault::Corrupt);
    let message = error_chain(&error);
    assert!(message.contains(&lost[0]), "{message}");
    assert_eq!(archive.segments().await, before);
}

/// The source compacts what it still has: in the place of what was lost it would put less than was there.
#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_of_which_a_segment_is_lost_is_copied_anew() {
    let archive = Archive::new();
    let topic = name("compacted-lost");
    create_topic(&topic, 1, &compacted("86400000")).await;
    write(&topic, &[("goes", Some("1"))]).await;
    fill(&topic, 1, 1000, 500).await;
    let mut first = plan(FIRST, &[&topic]);
    first.segments.segment_max_bytes = 64 << 10;
    run(&first, &archive.store).await.unwrap();
    write(&topic, &[("goes", None)]).await;
    lose(&archive, |at, _| at == 2).await;
    let completed = run(&plan(SECOND, &[&topic]), &archive.store).await.unwrap();
    assert_eq!(completed.gaps, 0);
    let manifest = archive.manifest(SECOND).await;
    let part = archive.part(&manifest, &topic).await.partitions.remove(0);
    assert_eq!(part.generation, format!("orders-{SECOND}"));
    let stored = archive.records(&manifest, &topic, 0).await;
    assert_eq!(newest(&stored), newest(&all(&topic).await));
}
