//! Retention of archives that real backups have made. Needs `KAFKA_BACKUP_LAB_SOURCE`, which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod backup_support;
#[path = "store_calls/nth_call.rs"]
mod nth_call;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backup_support::*;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::to_json;
use kafka_backup_shared::archive::restore::{
    Done as RestoreDone, RestoreDecision, RestoredTopicDecision, SourcePartition,
};
use kafka_backup_shared::archive::retention::Policy;
use kafka_backup_shared::plan::{ArchiveName, RestoreRequest, Retention, RunRef, Topics};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::MissingTopics;
use kafka_backup_worker::inspect;
use kafka_backup_worker::retention::{self, Done, RetentionError, Scope};
use kafka_backup_worker::store::Store;
use nth_call::{CallFault, NthCall};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const FIRST: &str = "20260101-000000";
const SECOND: &str = "20260102-000000";
const THIRD: &str = "20260103-000000";
const FOURTH: &str = "20260104-000000";
const FIFTH: &str = "20260105-000000";

const TRASH: &str = "default/orders/trash/";

fn keep(backups: u32) -> Retention {
    Retention {
        policy: Policy {
            backups: Some(backups),
            max_age_hours: None,
        },
        dry_run: false,
    }
}

fn name_of_archive() -> ArchiveName {
    ArchiveName {
        namespace: "default".into(),
        name: "orders".into(),
    }
}

/// Retention as it will be so many hours from now.
async fn later(
    store: &Store,
    retention: &Retention,
    hours: i64,
) -> std::result::Result<Done, RetentionError> {
    let now = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
    retention::run(store, &name_of_archive(), retention, Scope::Touched, now).await
}

/// Runs that a restore could be made from.
async fn restorable(store: &Store) -> Vec<String> {
    let entries = inspect::list(store, None).await.unwrap();
    let complete = entries
        .iter()
        .filter(|entry| entry.completion_time.is_some());
    complete.map(|entry| entry.run.clone()).collect()
}

/// Every object of the archive, marks left out.
async fn objects(archive: &Archive) -> BTreeSet<String> {
    let mut found = archive.keys().await;
    found.retain(|key| !key.starts_with(TRASH));
    found
}

/// The lists of marks.
async fn marks(archive: &Archive) -> BTreeSet<String> {
    let mut found = archive.keys().await;
    found.retain(|key| key.starts_with(TRASH));
    found
}

/// An archive of three runs: one topic has new records in each, the other only in the first.
struct History {
    archive: Archive,
    moving: String,
    idle: String,
}

impl History {
    async fn new(archive: Archive) -> Self {
        let (moving, idle) = (name("moving"), name("idle"));
        create_topic(&moving, 2, &[]).await;
        create_topic(&idle, 1, &[]).await;
        fill(&idle, 1, 30, 100).await;
        let history = Self {
            archive,
            moving,
            idle,
        };
        for id in [FIRST, SECOND, THIRD] {
            fill(&history.moving, 2, 50, 100).await;
            history.run(id).await;
        }
        history
    }

    async fn run(&self, id: &str) -> u64 {
        let plan = plan(id, &[&self.moving, &self.idle]);
        run(&plan, &self.archive.store).await.unwrap().records
    }

    /// What a run has, read record by record.
    async fn counts(&self, archive: &Archive, id: &str) -> [usize; 3] {
        let manifest = archive.manifest(id).await;
        [
            archive.records(&manifest, &self.moving, 0).await.len(),
            archive.records(&manifest, &self.moving, 1).await.len(),
            archive.records(&manifest, &self.idle, 0).await.len(),
        ]
    }
}

/// The claims that hold in every kind of place.
macro_rules! everywhere {
    ($($claim:ident),* $(,)?) => {
        mod in_a_folder {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(super::Archive::new()).await;
            }
        )*}

        mod in_s3 {$(
            #[tokio::test(flavor = "multi_thread")]
            async fn $claim() {
                super::$claim(super::Archive::in_s3()).await;
            }
        )*}
    };
}

everywhere!(
    what_is_expired_goes_a_day_after_it_was_marked_and_what_is_kept_stays_whole,
    a_new_generation_frees_the_segments_of_the_old_one,
    a_run_under_way_keeps_its_base_and_what_it_has_stored,
    two_retentions_at_once_end_as_one,
    small_segments_become_one_and_every_record_stays,
    a_run_and_a_retention_may_meet_at_any_call_of_either,
);

async fn what_is_expired_goes_a_day_after_it_was_marked_and_what_is_kept_stays_whole(
    archive: Archive,
) {
    let history = History::new(archive).await;
    let store = &history.archive.store;
    let before = objects(&history.archive).await;
    let records = history.archive.manifest(THIRD).await;
    let records = history.archive.records(&records, &history.moving, 0).await;

    let done = later(store, &keep(1), 0).await.unwrap();
    assert_eq!(
        done.report.marked.runs,
        ["orders-20260101-000000", "orders-20260102-000000"]
    );
    assert_eq!(done.report.deleted, Default::default());
    for hours in [0, 1, 23] {
        let done = later(store, &keep(1), hours).await.unwrap();
        assert_eq!(
            (done.marked_keys, done.deleted_keys),
            (vec![], vec![]),
            "{hours} hours later"
        );
    }
    assert_eq!(objects(&history.archive).await, before);

    let done = later(store, &keep(1), 25).await.unwrap();
    assert_eq!(
        done.report.deleted.runs,
        ["orders-20260101-000000", "orders-20260102-000000"]
    );
    assert_eq!(restorable(store).await, ["orders-20260103-000000"]);
    let gone: Vec<String> = before
        .difference(&objects(&history.archive).await)
        .cloned()
        .collect();
    let first = "default/orders/runs/orders-20260101-000000";
    for file in ["manifest.json", "begin.json"] {
        assert!(gone.contains(&format!("{first}/{file}")), "{gone:?}");
    }
    // the third run still points to the idle topic's part of the first
    let part = format!("{first}/topics/{}/part.json.zst", history.idle);
    assert!(objects(&history.archive).await.contains(&part));
    assert_eq!(marks(&history.archive).await, BTreeSet::new());

    let kept = history.archive.manifest(THIRD).await;
    assert_eq!(
        history.archive.records(&kept, &history.moving, 0).await,
        records
    );
    assert_eq!(
        history.counts(&history.archive, THIRD).await,
        [150, 150, 30]
    );
    // and the archive goes on
    fill(&history.moving, 2, 10, 100).await;
    assert_eq!(history.run(FOURTH).await, 20);
    assert_eq!(
        history.counts(&history.archive, FOURTH).await,
        [160, 160, 30]
    );

    // when the idle topic moves, nothing needs the first run's part any more
    fill(&history.idle, 1, 1, 100).await;
    history.run(FIFTH).await;
    later(store, &keep(1), 50).await.unwrap();
    later(store, &keep(1), 75).await.unwrap();
    assert!(!objects(&history.archive).await.contains(&part));
    assert_eq!(
        history.counts(&history.archive, FIFTH).await,
        [160, 160, 31]
    );
}

async fn a_new_generation_frees_the_segments_of_the_old_one(archive: Archive) {
    let history = History::new(archive).await;
    let store = &history.archive.store;
    let old = history.archive.segments().await;
    let again = kafka_backup_shared::plan::BackupPlan {
        isolation_level: kafka_backup_shared::plan::IsolationLevel::ReadUncommitted,
        ..plan(FOURTH, &[&history.moving, &history.idle])
    };
    run(&again, store).await.unwrap();

    let dry = Retention {
        dry_run: true,
        ..keep(1)
    };
    let before = objects(&history.archive).await;
    let told = later(store, &dry, 0).await.unwrap();
    assert_eq!(objects(&history.archive).await, before);
    assert_eq!(marks(&history.archive).await, BTreeSet::new());

    let marked = later(store, &keep(1), 0).await.unwrap();
    assert_eq!(
        (&told.marked_keys, &told.report.marked),
        (&marked.marked_keys, &marked.report.marked)
    );
    let told = later(store, &dry, 25).await.unwrap();
    assert_eq!(objects(&history.archive).await, before);
    let deleted = later(store, &keep(1), 25).await.unwrap();
    assert_eq!(
        (&told.deleted_keys, &told.report.deleted),
        (&deleted.deleted_keys, &deleted.report.deleted)
    );
    assert!(deleted.report.deleted.bytes > old.values().sum());

    let left = history.archive.segments().await;
    assert!(
        left.keys().all(|key| !old.contains_key(key)),
        "all segments of the old generation are gone"
    );
    assert_eq!(
        history.counts(&history.archive, FOURTH).await,
        [150, 150, 30]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_what_stays_after_all_come_to_nothing() {
    let history = History::new(Archive::new()).await;
    let store = &history.archive.store;
    let before = objects(&history.archive).await;
    later(store, &keep(1), 0).await.unwrap();
    let done = later(store, &keep(3), 25).await.unwrap();
    assert_eq!(done.deleted_keys, [""; 0]);
    assert_eq!(objects(&history.archive).await, before);
    // the old marks are gone: it takes two looks again
    assert_eq!(
        later(store, &keep(1), 50).await.unwrap().deleted_keys,
        [""; 0]
    );
    assert_eq!(objects(&history.archive).await, before);
}

async fn a_run_under_way_keeps_its_base_and_what_it_has_stored(archive: Archive) {
    let history = History::new(archive).await;
    let store = &history.archive.store;
    // The fourth run has stored all and not committed, then the fifth overtakes it.
    fill(&history.moving, 2, 50, 100).await;
    history.run(FOURTH).await;
    let folder = "default/orders/runs/orders-20260104-000000";
    for file in [
        "manifest.json".to_owned(),
        format!("topics/{}/part.json.zst", history.moving),
    ] {
        history.archive.remove(&format!("{folder}/{file}")).await;
    }
    fill(&history.moving, 2, 50, 100).await;
    history.run(FIFTH).await;
    for hours in [0, 25, 50, 167] {
        later(store, &keep(1), hours).await.unwrap();
    }
    let ids = ["orders-20260103-000000", "orders-20260105-000000"];
    assert_eq!(restorable(store).await, ids);

    let stored = objects(&history.archive).await;
    assert_eq!(history.run(FOURTH).await, 100);
    let new: Vec<String> = objects(&history.archive)
        .await
        .difference(&stored)
        .cloned()
        .collect();
    assert_eq!(new.len(), 2, "a part and the manifest, no segment: {new:?}");
    assert_eq!(
        history.counts(&history.archive, FOURTH).await,
        [200, 200, 30]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_given_up_goes_after_a_week() {
    let history = History::new(Archive::new()).await;
    let store = &history.archive.store;
    let folder = "default/orders/runs/orders-20260102-000000";
    let manifest = format!("{folder}/manifest.json");
    history.archive.remove(&manifest).await;
    for hours in [0, 25, 7 * 24 - 1] {
        assert_eq!(
            later(store, &keep(9), hours)
                .await
                .unwrap()
                .report
                .marked
                .objects,
            0
        );
    }
    let done = later(store, &keep(9), 7 * 24 + 1).await.unwrap();
    assert_eq!(done.report.marked.runs, ["orders-20260102-000000"]);
    later(store, &keep(9), 8 * 24 + 2).await.unwrap();
    let begin = format!("{folder}/begin.json");
    assert!(!objects(&history.archive).await.contains(&begin));
    assert_eq!(
        history.counts(&history.archive, THIRD).await,
        [150, 150, 30]
    );
}

/// A restore of the first run that has begun now.
async fn begin_restore(history: &History) -> (Layout, &'static str) {
    let manifest = history.archive.manifest(FIRST).await;
    let part = history.archive.part(&manifest, &history.moving).await;
    let partitions = part.partitions.iter().map(|pinned| SourcePartition {
        partition: pinned.partition,
        range: kafka_backup_shared::archive::chain::OffsetRange {
            start: 0,
            end: pinned.end,
        },
        records: pinned.records(),
        bytes: 1,
        generation: pinned.generation.clone(),
        segments: pinned.segments.clone(),
    });
    let topic = RestoredTopicDecision {
        source_topic_id: part.description.topic_id,
        target: "copy".into(),
        target_topic_id: part.description.topic_id,
        max_message_bytes: 1 << 20,
        final_configs: None,
        held_configs: BTreeMap::new(),
        sources: partitions.collect(),
        partitions: Vec::new(),
        by_key: None,
    };
    let decision = RestoreDecision {
        format_version: FORMAT_VERSION,
        run: RunRef {
            kind: "KafkaRestore".into(),
            ..RunRef::example()
        },
        start_time: Timestamp::now(),
        backup_id: format!("orders-{FIRST}"),
        target_cluster_id: "c".into(),
        producer_id: 1,
        producer_epoch: 0,
        request: RestoreRequest::new(
            "latest",
            Topics {
                include: vec!["*".into()],
                exclude: vec![],
                missing: MissingTopics::Fail,
            },
        ),
        provenance: None,
        failed: BTreeMap::new(),
        topics: BTreeMap::from([(history.moving.clone(), topic)]),
    };
    let layout = history.archive.layout.clone();
    let key = layout.restore_plan("uid");
    history
        .archive
        .store
        .create(&key, to_json(&decision).into())
        .await
        .unwrap();
    (layout, "uid")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_under_way_keeps_the_run_that_it_reads() {
    let history = History::new(Archive::new()).await;
    let store = &history.archive.store;
    let (layout, uid) = begin_restore(&history).await;
    for hours in [0, 25, 167] {
        later(store, &keep(1), hours).await.unwrap();
    }
    assert_eq!(
        restorable(store).await,
        ["orders-20260101-000000", "orders-20260103-000000"]
    );
    assert_eq!(history.counts(&history.archive, FIRST).await, [50, 50, 30]);

    let done = RestoreDone {
        format_version: FORMAT_VERSION,
        completion_time: Timestamp::now(),
        records: 0,
        bytes: 0,
        gaps: 0,
        warnings: vec![],
        topics: vec![],
        retention_held: Default::default(),
    };
    store
        .create(&layout.restore_done(uid), to_json(&done).into())
        .await
        .unwrap();
    for hours in [0, 25] {
        later(store, &keep(1), hours).await.unwrap();
    }
    assert_eq!(restorable(store).await, ["orders-20260103-000000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_in_full_is_left_alone() {
    let history = History::new(Archive::new()).await;
    later(&history.archive.store, &keep(1), 0).await.unwrap();
    let third = "default/orders/runs/orders-20260103-000000";
    let first = "default/orders/runs/orders-20260101-000000";
    let broken = [
        (format!("{third}/manifest.json"), "{\"formatVersion\": 99}"),
        (
            format!("{third}/topics/{}/part.json.zst", history.moving),
            "no zstd",
        ),
        (format!("{first}/begin.json.new/begin.json"), "no JSON"),
        ("default/orders/trash/x.json".into(), "no JSON"),
        ("default/orders/restores/u/plan.json".into(), "no JSON"),
    ];
    for (file, content) in broken {
        let copy = history.archive.copy().await;
        if file.contains("begin.json.new") {
            copy.remove(&format!("{first}/manifest.json")).await;
        }
        let key = file.replace("begin.json.new/", "");
        copy.write(&key, content).await;
        let before = objects(&copy).await;
        let error = later(&copy.store, &keep(1), 25).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{file}: {error}");
        assert_eq!(objects(&copy).await, before, "{file}");
    }
}

async fn two_retentions_at_once_end_as_one(archive: Archive) {
    let history = History::new(archive).await;
    let (one, two) = (history.archive.copy().await, history.archive.copy().await);
    for hours in [0, 25] {
        later(&one.store, &keep(1), hours).await.unwrap();
        let policy = keep(1);
        let (a, b) = tokio::join!(
            later(&two.store, &policy, hours),
            later(&two.store, &policy, hours)
        );
        // The slower one may meet what the other has just deleted: then it does nothing.
        assert!(a.is_ok() || b.is_ok(), "{a:?} {b:?}");
    }
    later(&two.store, &keep(1), 26).await.unwrap();
    assert_eq!(objects(&one).await, objects(&two).await);
    assert_eq!(history.counts(&two, THIRD).await, [150, 150, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_was_killed_at_any_step_is_finished_by_the_next() {
    let history = History::new(Archive::new()).await;
    let done = history.archive.copy().await;
    for hours in [0, 25] {
        later(&done.store, &keep(1), hours).await.unwrap();
    }
    let expected = objects(&done).await;
    let mut steps = 0;
    loop {
        let copy = history.archive.copy().await;
        let mut killed = false;
        for hours in [0, 25] {
            let dying = dying(&copy, steps);
            killed |= later(&dying, &keep(1), hours).await.is_err();
            for run in restorable(&copy.store).await {
                // whoever has a manifest finds its records
                let id = run.strip_prefix("orders-").unwrap();
                history.counts(&copy, id).await;
            }
        }
        assert_eq!(
            restorable(&copy.store).await.last().unwrap(),
            "orders-20260103-000000"
        );
        for hours in [26, 51, 76] {
            later(&copy.store, &keep(1), hours).await.unwrap();
        }
        assert_eq!(
            objects(&copy).await,
            expected,
            "killed after {steps} writes"
        );
        assert_eq!(history.counts(&copy, THIRD).await, [150, 150, 30]);
        if !killed {
            break;
        }
        steps += 1;
    }
    assert!(steps > 5, "{steps}");
}

async fn small_segments_become_one_and_every_record_stays(archive: Archive) {
    let topic = name("small");
    create_topic(&topic, 1, &[]).await;
    let ids: Vec<String> = (0..17)
        .map(|n| format!("202601{:02}-000000", n + 1))
        .collect();
    for id in &ids[..16] {
        fill(&topic, 1, 7, 50).await;
        run(&plan(id, &[&topic]), &archive.store).await.unwrap();
    }
    let sixteenth = archive.manifest(&ids[15]).await;
    let records = archive.records(&sixteenth, &topic, 0).await;
    let bytes = archive
        .bytes(&archive.part(&sixteenth, &topic).await, 0)
        .await;

    let done = later(&archive.store, &keep(1), 0).await.unwrap();
    assert_eq!((done.report.merged, &done.warnings[..]), (1, &[][..]));
    assert_eq!(archive.segments().await.len(), 17);
    // once
    assert_eq!(
        later(&archive.store, &keep(1), 0)
            .await
            .unwrap()
            .report
            .merged,
        0
    );

    // A tile like it, with other bytes, is not taken for it.
    let tile = archive
        .segments()
        .await
        .into_keys()
        .find(|key| {
            key.contains(".00000000000000000112.") && key.contains("/00000000000000000000.")
        })
        .unwrap();
    let forged = format!(
        "{}00000000.log",
        tile.strip_suffix(".log")
            .unwrap()
            .rsplit_once('.')
            .unwrap()
            .0
            .to_owned()
            + "."
    );
    archive.write(&forged, vec![0; bytes.len()]).await;

    fill(&topic, 1, 7, 50).await;
    let completed = run(&plan(&ids[16], &[&topic]), &archive.store)
        .await
        .unwrap();
    assert_eq!(completed.records, 7, "a tile adds no records");
    let last = archive.manifest(&ids[16]).await;
    let part = archive.part(&last, &topic).await;
    let pinned = &part.partitions[0].segments;
    assert_eq!(pinned.len(), 2);
    assert!(
        tile.ends_with(&pinned[0].to_string()),
        "{tile} in {pinned:?}"
    );
    assert_eq!(archive.bytes(&part, 0).await[..bytes.len()], bytes);
    assert_eq!(archive.records(&last, &topic, 0).await[..112], records);
    assert_eq!(
        consume(&topic, 0, "read_committed", 119).await,
        archive.records(&last, &topic, 0).await
    );

    // When nothing but the last run is kept the pieces go.
    for hours in [0, 25] {
        later(&archive.store, &keep(1), hours).await.unwrap();
    }
    assert_eq!(archive.segments().await.len(), 2);
    assert_eq!(archive.records(&last, &topic, 0).await.len(), 119);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_is_not_merged() {
    let archive = Archive::new();
    let topic = name("damaged");
    create_topic(&topic, 1, &[]).await;
    for n in 0..16 {
        fill(&topic, 1, 1, 50).await;
        run(
            &plan(&format!("202601{:02}-000000", n + 1), &[&topic]),
            &archive.store,
        )
        .await
        .unwrap();
    }
    let key = archive.segments().await.into_keys().nth(5).unwrap();
    let mut bytes = archive.read(&key).await.to_vec();
    bytes[70] ^= 1;
    archive.write(&key, bytes).await;
    let done = later(&archive.store, &keep(16), 0).await.unwrap();
    assert_eq!(done.report.merged, 0);
    assert!(
        done.warnings.len() == 1 && done.warnings[0].contains(&key),
        "{:?}",
        done.warnings
    );
    assert_eq!(archive.segments().await.len(), 16);
}

/// Two at work on one archive: each call of the one is held, before or after it takes effect, while the other goes to its end.
async fn a_run_and_a_retention_may_meet_at_any_call_of_either(archive: Archive) {
    let race = &Race::new(archive).await;
    for fault in [CallFault::HeldBefore, CallFault::HeldAfter] {
        for held in [Held::Run, Held::Marking, Held::Deleting] {
            let calls = race.calls(held).await;
            assert!(calls > 10, "{held:?} makes {calls} calls");
            futures::stream::iter((1..=calls).step_by(race.step))
                .for_each_concurrent(8, |nth| race.play(held, nth, fault))
                .await;
        }
    }
}

/// Who is held up.
#[derive(Clone, Copy, Debug)]
enum Held {
    /// The run, while objects are marked and a day later deleted.
    Run,
    /// The retention that marks, while a run begins and ends.
    Marking,
    /// The one that deletes a day later, likewise.
    Deleting,
}

/// An archive with runs that expire, tiles that repeat what is pinned, and tiles of a run that was given up and may be used by the
/// next.
struct Race {
    history: History,
    /// What the next run is to hold.
    expected: Vec<(String, i32, Vec<Stored>)>,
    /// Which calls are played: a server takes long for all of them.
    step: usize,
}

impl Race {
    async fn new(archive: Archive) -> Self {
        let step = if archive.is_in_s3() { 5 } else { 1 };
        let history = History::new(archive).await;
        // A worker that was thought dead.
        let late = Archive::new();
        let mut again = plan(FIRST, &[&history.moving]);
        again.segments.segment_max_bytes = 4 << 10;
        run(&again, &late.store).await.unwrap();
        let mut repeated = 0;
        for key in late.segments().await.into_keys() {
            if !history.archive.keys().await.contains(&key) {
                history.archive.write(&key, late.read(&key).await).await;
                repeated += 1;
            }
        }
        assert!(repeated > 3, "{repeated}");
        fill(&history.moving, 2, 50, 100).await;
        history.run(FOURTH).await;
        for key in history.archive.keys().await {
            if key.contains(&format!("/runs/orders-{FOURTH}/")) {
                history.archive.remove(&key).await;
            }
        }
        fill(&history.moving, 2, 20, 100).await;
        let mut expected = Vec::new();
        for (topic, partition) in [
            (&history.moving, 0),
            (&history.moving, 1),
            (&history.idle, 0),
        ] {
            let read = consume(topic, partition, "read_committed", i64::MAX).await;
            expected.push((topic.clone(), partition, read));
        }
        Self {
            history,
            expected,
            step,
        }
    }

    /// How many calls of its store the one that is to be held makes.
    async fn calls(&self, held: Held) -> usize {
        let copy = self.history.archive.copy().await;
        let counting = NthCall::counting(copy.objects.clone());
        let store = Archive::through(Arc::new(counting.clone()));
        if let Held::Deleting = held {
            later(&copy.store, &keep(1), 0).await.unwrap();
        }
        self.act(held, &store).await;
        counting.calls()
    }

    /// What the one does that is held.
    async fn act(&self, held: Held, store: &Store) {
        match held {
            Held::Run => self.run(store).await,
            Held::Marking => drop(later(store, &keep(1), 0).await.unwrap()),
            Held::Deleting => drop(later(store, &keep(1), 25).await.unwrap()),
        }
    }

    async fn run(&self, store: &Store) {
        let plan = plan(FIFTH, &[&self.history.moving, &self.history.idle]);
        let completed = run(&plan, store).await.unwrap();
        // 70 in each of two partitions since the third run, whoever has stored them.
        assert_eq!((completed.records, completed.warnings), (140, vec![]));
    }

    async fn play(&self, held: Held, nth: usize, fault: CallFault) {
        let case = format!("{held:?}, call {nth}, {fault:?}");
        let copy = self.history.archive.copy().await;
        if let Held::Deleting = held {
            later(&copy.store, &keep(1), 0).await.unwrap();
        }
        let holding = NthCall::failing(copy.objects.clone(), nth, fault);
        let store = Archive::through(Arc::new(holding.clone()));
        let others = async {
            holding.stalled.notified().await;
            match held {
                Held::Run => {
                    for hours in [0, 25] {
                        later(&copy.store, &keep(1), hours).await.unwrap();
                    }
                }
                Held::Marking | Held::Deleting => self.run(&copy.store).await,
            }
            holding.release();
        };
        let held_up = async {
            self.act(held, &store).await;
            // Where it took fewer calls this time the others come after it.
            holding.stalled.notify_one();
        };
        tokio::join!(held_up, others);
        self.check(&copy, &case).await;
        for hours in [26, 51] {
            later(&copy.store, &keep(1), hours).await.unwrap();
        }
        self.check(&copy, &case).await;
        assert_eq!(
            restorable(&copy.store).await,
            [format!("orders-{FIFTH}")],
            "{case}"
        );
    }

    /// Every pinned object is there, and the records are the source's.
    async fn check(&self, archive: &Archive, case: &str) {
        let manifest = archive.manifest(FIFTH).await;
        for (topic, partition, expected) in &self.expected {
            let stored = archive.records(&manifest, topic, *partition).await;
            assert_eq!(&stored, expected, "{case}: {topic} {partition}");
        }
    }
}

/// The same archive for a worker that is killed after so many writes and deletions.
fn dying(archive: &Archive, writes: isize) -> Store {
    let dying = DyingStore {
        inner: archive.objects.clone(),
        left: Arc::new(AtomicIsize::new(writes)),
    };
    Archive::through(Arc::new(dying)).with_patience(Duration::ZERO)
}

/// Lets so many writes and deletions pass; after that none.
#[derive(Clone, Debug)]
struct DyingStore {
    inner: Arc<dyn ObjectStore>,
    left: Arc<AtomicIsize>,
}

fn pass(left: &AtomicIsize) -> Result<()> {
    match left.fetch_sub(1, Ordering::SeqCst) {
        1.. => Ok(()),
        _ => Err(Error::PermissionDenied {
            path: String::new(),
            source: "killed".into(),
        }),
    }
}

impl fmt::Display for DyingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DyingStore")
    }
}

#[async_trait]
impl ObjectStore for DyingStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        pass(&self.left)?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let left = self.left.clone();
        let passed = paths.map(move |path| pass(&left).and(path));
        self.inner.delete_stream(passed.boxed())
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
