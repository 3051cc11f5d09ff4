//! Retention of archives that real backups have made. Needs `KAFKA_BACKUP_LAB_SOURCE`, which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod backup_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path as FilePath, PathBuf};
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
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

const FIRST: &str = "20260101-000000";
const SECOND: &str = "20260102-000000";
const THIRD: &str = "20260103-000000";
const FOURTH: &str = "20260104-000000";

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

/// Every file of the archive, marks and the store's own left out.
fn files(folder: &FilePath) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.join("default")];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_dir() {
                found.insert(path.strip_prefix(folder).unwrap().to_owned());
            } else if path.file_name().unwrap() != "trash" {
                folders.push(path);
            }
        }
    }
    found
}

/// An archive of three runs: one topic has new records in each, the other only in the first.
struct History {
    archive: Archive,
    moving: String,
    idle: String,
}

impl History {
    async fn new() -> Self {
        let archive = Archive::new();
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

    fn folder(&self) -> &FilePath {
        self.archive.folder.path()
    }

    /// A copy of the archive's files.
    fn copy(&self) -> Archive {
        let copy = Archive::new();
        for file in files(self.folder()) {
            let to = copy.folder.path().join(&file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(self.folder().join(&file), to).unwrap();
        }
        copy
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

#[tokio::test(flavor = "multi_thread")]
async fn what_is_expired_goes_a_day_after_it_was_marked_and_what_is_kept_stays_whole() {
    let history = History::new().await;
    let store = &history.archive.store;
    let before = files(history.folder());
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
    assert_eq!(files(history.folder()), before);

    let done = later(store, &keep(1), 25).await.unwrap();
    assert_eq!(
        done.report.deleted.runs,
        ["orders-20260101-000000", "orders-20260102-000000"]
    );
    assert_eq!(restorable(store).await, ["orders-20260103-000000"]);
    let gone: Vec<PathBuf> = before
        .difference(&files(history.folder()))
        .cloned()
        .collect();
    let first = PathBuf::from("default/orders/runs/orders-20260101-000000");
    assert!(
        gone.contains(&first.join("manifest.json")) && gone.contains(&first.join("begin.json"))
    );
    // the third run still points to the idle topic's part of the first
    let part = first.join(format!("topics/{}/part.json.zst", history.idle));
    assert!(!gone.contains(&part) && history.folder().join(&part).exists());
    assert_eq!(
        std::fs::read_dir(history.folder().join("default/orders/trash"))
            .unwrap()
            .count(),
        0
    );

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
    history.run("20260105-000000").await;
    later(store, &keep(1), 50).await.unwrap();
    later(store, &keep(1), 75).await.unwrap();
    assert!(!history.folder().join(&part).exists());
    assert_eq!(
        history.counts(&history.archive, "20260105-000000").await,
        [160, 160, 31]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_frees_the_segments_of_the_old_one() {
    let history = History::new().await;
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
    let before = files(history.folder());
    let told = later(store, &dry, 0).await.unwrap();
    assert_eq!(files(history.folder()), before);
    assert!(!history.folder().join("default/orders/trash").exists());

    let marked = later(store, &keep(1), 0).await.unwrap();
    assert_eq!(
        (&told.marked_keys, &told.report.marked),
        (&marked.marked_keys, &marked.report.marked)
    );
    let told = later(store, &dry, 25).await.unwrap();
    assert_eq!(files(history.folder()), before);
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
    let history = History::new().await;
    let store = &history.archive.store;
    let before = files(history.folder());
    later(store, &keep(1), 0).await.unwrap();
    let done = later(store, &keep(3), 25).await.unwrap();
    assert_eq!(done.deleted_keys, [""; 0]);
    assert_eq!(files(history.folder()), before);
    // the old marks are gone: it takes two looks again
    assert_eq!(
        later(store, &keep(1), 50).await.unwrap().deleted_keys,
        [""; 0]
    );
    assert_eq!(files(history.folder()), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_under_way_keeps_its_base_and_what_it_has_stored() {
    let history = History::new().await;
    let store = &history.archive.store;
    // The fourth run has stored all and not committed, then the fifth overtakes it.
    fill(&history.moving, 2, 50, 100).await;
    history.run(FOURTH).await;
    let folder = history
        .folder()
        .join("default/orders/runs/orders-20260104-000000");
    for file in [
        "manifest.json".to_owned(),
        format!("topics/{}/part.json.zst", history.moving),
    ] {
        std::fs::remove_file(folder.join(file)).unwrap();
    }
    fill(&history.moving, 2, 50, 100).await;
    history.run("20260105-000000").await;
    for hours in [0, 25, 50, 167] {
        later(store, &keep(1), hours).await.unwrap();
    }
    let ids = ["orders-20260103-000000", "orders-20260105-000000"];
    assert_eq!(restorable(store).await, ids);

    let stored = files(history.folder());
    assert_eq!(history.run(FOURTH).await, 100);
    let new: Vec<PathBuf> = files(history.folder())
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
    let history = History::new().await;
    let store = &history.archive.store;
    let folder = history
        .folder()
        .join("default/orders/runs/orders-20260102-000000");
    std::fs::remove_file(folder.join("manifest.json")).unwrap();
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
    assert!(!folder.join("begin.json").exists());
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
    let history = History::new().await;
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
    let history = History::new().await;
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
        let copy = history.copy();
        let trash = history.folder().join("default/orders/trash");
        std::fs::create_dir_all(copy.folder.path().join("default/orders/trash")).unwrap();
        for list in std::fs::read_dir(trash).unwrap() {
            let list = list.unwrap();
            let to = copy
                .folder
                .path()
                .join("default/orders/trash")
                .join(list.file_name());
            std::fs::copy(list.path(), to).unwrap();
        }
        let path = copy.folder.path().join(file.replace("begin.json.new/", ""));
        if file.contains("begin.json.new") {
            std::fs::remove_file(path.with_file_name("manifest.json")).unwrap();
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        let before = files(copy.folder.path());
        let error = later(&copy.store, &keep(1), 25).await.unwrap_err();
        assert_eq!(error.fault(), Fault::Corrupt, "{file}: {error}");
        assert_eq!(files(copy.folder.path()), before, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_retentions_at_once_end_as_one() {
    let history = History::new().await;
    let (one, two) = (history.copy(), history.copy());
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
    assert_eq!(files(one.folder.path()), files(two.folder.path()));
    assert_eq!(history.counts(&two, THIRD).await, [150, 150, 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retention_that_was_killed_at_any_step_is_finished_by_the_next() {
    let history = History::new().await;
    let done = history.copy();
    for hours in [0, 25] {
        later(&done.store, &keep(1), hours).await.unwrap();
    }
    let expected = files(done.folder.path());
    let mut steps = 0;
    loop {
        let copy = history.copy();
        let mut killed = false;
        for hours in [0, 25] {
            let dying = copy.dying(steps);
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
            files(copy.folder.path()),
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

#[tokio::test(flavor = "multi_thread")]
async fn small_segments_become_one_and_every_record_stays() {
    let archive = Archive::new();
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
    std::fs::write(archive.folder.path().join(&forged), vec![0; bytes.len()]).unwrap();

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
    let path = archive.folder.path().join(&key);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[70] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let done = later(&archive.store, &keep(16), 0).await.unwrap();
    assert_eq!(done.report.merged, 0);
    assert!(
        done.warnings.len() == 1 && done.warnings[0].contains(&key),
        "{:?}",
        done.warnings
    );
    assert_eq!(archive.segments().await.len(), 16);
}

impl Archive {
    /// The same folder by a worker that is killed after so many writes and deletions.
    fn dying(&self, writes: isize) -> Store {
        let inner = LocalFileSystem::new_with_prefix(self.folder.path()).unwrap();
        let dying = DyingStore {
            inner: Arc::new(inner),
            left: Arc::new(AtomicIsize::new(writes)),
        };
        Store::new(Arc::new(dying), "a folder", None)
            .unwrap()
            .with_patience(Duration::ZERO)
    }
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
