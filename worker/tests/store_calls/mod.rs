//! A backup whose store fails at one call, whichever it is.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod nth_call;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::backup_support::*;
use futures::StreamExt;
use kafka_backup_shared::plan::BackupPlan;
use kafka_backup_shared::report;
use kafka_backup_worker::store::Store;
use nth_call::{CallFault, NthCall};
use object_store::local::LocalFileSystem;

const RUN: &str = "20260102-000000";
const PARTITIONS: i32 = 2;
/// Records of the run before, in each partition, and of the run.
const BEFORE: usize = 50;
const RECORDS: usize = 300;

/// A topic with records, and an archive with a run before that which is tested, so that there is a base to be read.
struct Case {
    topic: String,
    plan: BackupPlan,
    base: Archive,
    expected: Vec<Vec<Stored>>,
}

async fn case(of: &str) -> Case {
    let topic = name(of);
    create_topic(&topic, PARTITIONS, &[]).await;
    fill(&topic, PARTITIONS, BEFORE, 500).await;
    let base = Archive::new();
    run(&plan("20260101-000000", &[&topic]), &base.store)
        .await
        .unwrap();
    fill(&topic, PARTITIONS, RECORDS, 500).await;
    let mut expected = Vec::new();
    for partition in 0..PARTITIONS {
        let read = consume(&topic, partition, "read_committed", i64::MAX).await;
        assert_eq!(read.len(), BEFORE + RECORDS);
        expected.push(read);
    }
    let mut plan = plan(RUN, &[&topic]);
    plan.segments.segment_max_bytes = 64 << 10;
    Case {
        topic,
        plan,
        base,
        expected,
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            fs::create_dir(&target).unwrap();
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

fn folder(archive: &Archive) -> Arc<LocalFileSystem> {
    Arc::new(LocalFileSystem::new_with_prefix(archive.folder()).unwrap())
}

impl Case {
    fn archive(&self) -> Archive {
        let archive = Archive::new();
        copy(self.base.folder(), archive.folder());
        archive
    }

    /// How many calls a run makes of its store.
    async fn calls(&self) -> usize {
        let archive = self.archive();
        let counting = NthCall::counting(folder(&archive));
        let store = Store::new(Arc::new(counting.clone()), "a folder", None).unwrap();
        run(&self.plan, &store).await.unwrap();
        self.check(&archive).await;
        counting.calls()
    }

    async fn check(&self, archive: &Archive) {
        let manifest = archive.manifest(RUN).await;
        for (partition, expected) in (0..).zip(&self.expected) {
            let stored = archive.records(&manifest, &self.topic, partition).await;
            assert_eq!(&stored, expected, "partition {partition}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_call_may_fail_once() {
    let case = &case("refused").await;
    let calls = case.calls().await;
    assert!(calls > 15, "a run of {calls} calls is none");
    for fault in [CallFault::Refused, CallFault::LostAnswer] {
        futures::stream::iter(1..=calls)
            .for_each_concurrent(8, |nth| async move {
                let archive = case.archive();
                let faulty = NthCall::failing(folder(&archive), nth, fault);
                let store = Store::new(Arc::new(faulty.clone()), "a folder", None).unwrap();
                let completed = run(&case.plan, &store).await;
                assert!(faulty.calls() >= nth);
                let records = completed.map(|completed| completed.records);
                let all = RECORDS as u64 * PARTITIONS as u64;
                assert_eq!(records.unwrap(), all, "call {nth} {fault:?}");
                case.check(&archive).await;
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_may_end_in_any_call() {
    let case = &case("ended").await;
    let calls = case.calls().await;
    for fault in [CallFault::StalledBefore, CallFault::StalledAfter] {
        futures::stream::iter(1..=calls)
            .for_each_concurrent(8, |nth| async move {
                let archive = case.archive();
                let faulty = NthCall::failing(folder(&archive), nth, fault);
                let store = Store::new(Arc::new(faulty.clone()), "a folder", None).unwrap();
                tokio::select! {
                    ended = run(&case.plan, &store) => panic!("call {nth} does not hold the run up: {ended:?}"),
                    () = faulty.stalled.notified() => {}
                }
                let completed = run(&case.plan, &archive.store).await.unwrap();
                let all = RECORDS as u64 * PARTITIONS as u64;
                assert_eq!(completed.records, all, "call {nth} {fault:?}");
                case.check(&archive).await;
            })
            .await;
    }
}

/// Takes as long as a store's time-out, whatever the number of calls.
#[tokio::test(flavor = "multi_thread")]
async fn no_call_holds_a_run_up_for_ever() {
    let case = &case("stalled").await;
    let calls = case.calls().await;
    futures::stream::iter(1..=calls)
        .for_each_concurrent(None, |nth| async move {
            let archive = case.archive();
            let fault = match nth % 2 {
                0 => CallFault::StalledBefore,
                _ => CallFault::StalledAfter,
            };
            let faulty = NthCall::failing(folder(&archive), nth, fault);
            let store = Store::new(Arc::new(faulty), "a folder", None).unwrap();
            // Long enough for a second attempt at what takes no longer than an object's time-out.
            let store = store.with_patience(Duration::from_secs(35));
            if let Err(failed) = run(&case.plan, &store).await {
                assert_eq!(failed.fault(), report::Fault::Unavailable, "{failed}");
                run(&case.plan, &archive.store).await.unwrap();
            }
            case.check(&archive).await;
        })
        .await;
}
