//! Backups of a real cluster. Needs `KAFKA_BACKUP_LAB_SOURCE` (bootstrap servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

mod backup_support;
mod faulty_store;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backup_support::*;
use faulty_store::{Fault, FaultyStore};
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::chain::uncovered;
use kafka_backup_shared::archive::manifest::{
    ArchiveInfo, Begin, GapReason, Manifest, from_json, to_json,
};
use kafka_backup_shared::archive::retention::Policy;
use kafka_backup_shared::plan::{BackupPlan, IsolationLevel, Retention};
use kafka_backup_shared::report::{self, error_chain};
use kafka_backup_shared::spec::MissingTopics;
use kafka_backup_worker::backup;
use kafka_backup_worker::context::Completed;
use kafka_backup_worker::kafka::{FetchOptions, FetchPartition, IsolationLevel as Visible};
use kafka_backup_worker::retention::{self, Scope};
use kafka_backup_worker::store::Store;
use object_store::local::LocalFileSystem;
use rdkafka::producer::Producer as _;

/// Everything that a broker has of a partition, in its own bytes.
async fn broker_bytes(topic: &str, partition: i32, end: i64) -> Vec<u8> {
    let client = client().await;
    let topics = client
        .topics_with_leaders(&[Arc::from(topic)])
        .await
        .unwrap();
    let led = topics[0].led_partitions().unwrap();
    let connection = client.open(led[0].leader).await.unwrap();
    let mut bytes = Vec::new();
    let mut offset = 0;
    while offset < end {
        let wanted = FetchPartition {
            topic_id: topics[0].id,
            partition,
            offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: 1 << 20,
        };
        let options = FetchOptions {
            max_wait: Duration::from_secs(1),
            min_bytes: 1,
            max_bytes: 1 << 20,
            isolation: Visible::ReadUncommitted,
        };
        let answer = connection
            .fetch(&[wanted], &options)
            .unwrap()
            .await
            .unwrap();
        let mut walk =
            kafka_backup_shared::archive::batch::Batches::new(&answer.partitions[0].records);
        for batch in walk.by_ref() {
            offset = batch.unwrap().end_offset();
        }
        bytes.extend_from_slice(&answer.partitions[0].records[..walk.position()]);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_bytes_are_the_brokers_own() {
    let archive = Archive::new();
    let topic = name("bytes");
    create_topic(&topic, 2, &[]).await;
    fill(&topic, 2, 2000, 500).await;
    let completed = run(&plan("20260101-000000", &[&topic]), &archive.store)
        .await
        .unwrap();
    assert_eq!(
        (completed.records, completed.gaps, &completed.warnings[..]),
        (4000, 0, &[][..])
    );
    let manifest = archive.manifest("20260101-000000").await;
    let part = archive.part(&manifest, &topic).await;
    for partition in 0..2 {
        assert_eq!(
            archive.bytes(&part, partition).await,
            broker_bytes(&topic, partition, 2000).await
        );
    }
    let sizes: u64 = archive.segments().await.values().sum();
    assert_eq!(
        (completed.bytes, manifest.topics[&topic].bytes),
        (sizes, sizes)
    );
    assert!(
        archive
            .segments()
            .await
            .values()
            .all(|size| *size <= 256 << 10)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_adds_what_is_new_and_an_idle_one_nothing() {
    let archive = Archive::new();
    let (moving, idle) = (name("moving"), name("idle"));
    for topic in [&moving, &idle] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let topics = [&*moving, &*idle];
    run(&plan("20260101-000000", &topics), &archive.store)
        .await
        .unwrap();
    fill(&moving, 1, 50, 100).await;
    let second = run(&plan("20260102-000000", &topics), &archive.store)
        .await
        .unwrap();
    assert_eq!(second.records, 50);
    let manifest = archive.manifest("20260102-000000").await;
    assert_eq!(manifest.topics[&idle].part, "orders-20260101-000000");
    assert_eq!(manifest.topics[&moving].part, "orders-20260102-000000");
    assert_eq!(
        (
            manifest.topics[&moving].records,
            manifest.topics[&moving].added_records
        ),
        (150, 50)
    );
    let part = archive.part(&manifest, &moving).await;
    assert_eq!(part.partitions[0].generation, "orders-20260101-000000");
    assert_eq!(
        archive.records(&manifest, &moving, 0).await,
        consume(&moving, 0, "read_committed", 150).await
    );

    let before = archive.segments().await;
    let third = run(&plan("20260103-000000", &topics), &archive.store)
        .await
        .unwrap();
    assert_eq!((third.records, third.bytes), (0, 0));
    let manifest = archive.manifest("20260103-000000").await;
    assert_eq!(manifest.topics[&moving].part, "orders-20260102-000000");
    assert_eq!(archive.segments().await, before);

    // The run that is complete is not made again, whatever the source has now, which is not asked.
    fill(&moving, 1, 10, 100).await;
    assert_eq!(second.lag, Some(0));
    let lag = None;
    assert_eq!(
        run(&plan("20260102-000000", &topics), &archive.store)
            .await
            .unwrap(),
        Completed { lag, ..second }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_goes_on_from_the_listing() {
    let archive = Archive::new();
    let topic = name("resumed");
    create_topic(&topic, 2, &[]).await;
    fill(&topic, 2, 10_000, 1000).await;
    let plan = plan("20260101-000000", &[&topic]);
    let first = context();
    let attempt = tokio::spawn({
        let (plan, store, context) = (plan.clone(), archive.store.clone(), first.clone());
        async move { backup::run(&plan, &store, &context).await }
    });
    while first.progress.records() < 2000 {
        assert!(!attempt.is_finished(), "too fast to be interrupted");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    first.cancel.cancel();
    let interrupted = attempt.await.unwrap().unwrap_err();
    assert_eq!(interrupted.fault(), report::Fault::Interrupted);
    assert_eq!(
        archive
            .store
            .get(&archive.layout.manifest("orders-20260101-000000"))
            .await
            .unwrap(),
        None
    );
    let left = archive.segments().await;
    assert!(!left.is_empty());

    let second = context();
    let completed = backup::run(&plan, &archive.store, &second).await.unwrap();
    assert_eq!(completed.records, 20_000);
    assert_eq!(
        second.progress.records(),
        20_000,
        "durable records count, whichever attempt stored them"
    );
    assert_eq!(second.progress.ratio(), Some(1.0));
    // Nothing was fetched twice: what was there is there, and all of it counts.
    let all = archive.segments().await;
    assert!(left.iter().all(|(key, size)| all.get(key) == Some(size)));
    assert_eq!(all.values().sum::<u64>(), completed.bytes);
    let manifest = archive.manifest("20260101-000000").await;
    for partition in 0..2 {
        let stored = archive.records(&manifest, &topic, partition).await;
        assert_eq!(
            stored,
            consume(&topic, partition, "read_committed", 10_000).await
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_make_one_run() {
    let archive = Archive::new();
    let topic = name("two");
    create_topic(&topic, 2, &[]).await;
    fill(&topic, 2, 5000, 500).await;
    let plan = plan("20260101-000000", &[&topic]);
    let (one, two) = tokio::join!(run(&plan, &archive.store), run(&plan, &archive.store));
    assert_eq!(one.unwrap(), two.unwrap());
    let manifest = archive.manifest("20260101-000000").await;
    assert_eq!(manifest.records, 10_000);
    for partition in 0..2 {
        let stored = archive.records(&manifest, &topic, partition).await;
        assert_eq!(
            stored,
            consume(&topic, partition, "read_committed", 5000).await
        );
    }
}

/// Commits and aborts, interleaved by two producers, with plain records between; an open transaction at the end.
async fn transactions(topic: &str) -> rdkafka::producer::BaseProducer {
    let topic = topic.to_owned();
    blocking(move || {
        let ids = [name("a"), name("b")];
        let [one, two] = ids
            .each_ref()
            .map(|id| producer(&[("transactional.id", id)]));
        let plain = producer(&[]);
        one.init_transactions(TIMEOUT).unwrap();
        two.init_transactions(TIMEOUT).unwrap();
        for round in 0..6 {
            one.begin_transaction().unwrap();
            two.begin_transaction().unwrap();
            for step in 0..5 {
                send(&one, &topic, 0, "one", format!("{round} {step}").as_bytes());
                one.flush(TIMEOUT).unwrap();
                send(&two, &topic, 0, "two", format!("{round} {step}").as_bytes());
                two.flush(TIMEOUT).unwrap();
                send(
                    &plain,
                    &topic,
                    0,
                    "plain",
                    format!("{round} {step}").as_bytes(),
                );
                plain.flush(TIMEOUT).unwrap();
            }
            if round % 2 == 0 {
                one.abort_transaction(TIMEOUT).unwrap();
            } else {
                one.commit_transaction(TIMEOUT).unwrap();
            }
            if round % 3 == 0 {
                two.abort_transaction(TIMEOUT).unwrap();
            } else {
                two.commit_transaction(TIMEOUT).unwrap();
            }
        }
        one.begin_transaction().unwrap();
        send(&one, &topic, 0, "one", b"open");
        one.flush(TIMEOUT).unwrap();
        send(&plain, &topic, 0, "plain", b"behind the open transaction");
        plain.flush(TIMEOUT).unwrap();
        one
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_are_left_out_as_a_consumer_does() {
    let archive = Archive::new();
    let topic = name("transactions");
    create_topic(&topic, 1, &[]).await;
    let open = transactions(&topic).await;
    let committed = run(&plan("20260101-000000", &[&topic]), &archive.store)
        .await
        .unwrap();
    let manifest = archive.manifest("20260101-000000").await;
    let part = archive.part(&manifest, &topic).await;
    let (end, high_watermark) = (part.partitions[0].end, part.partitions[0].high_watermark);
    assert_eq!(
        high_watermark - end,
        2,
        "the open transaction holds the end back"
    );
    let expected = consume(&topic, 0, "read_committed", end).await;
    // 6 rounds of 5: plain all, one of two of the first producer, two of three of the second
    assert_eq!(expected.len(), 30 + 15 + 20);
    assert_eq!(archive.records(&manifest, &topic, 0).await, expected);
    assert_eq!(committed.records, 65);
    assert_eq!(
        uncovered(
            &part.partitions[0].links(),
            kafka_backup_shared::archive::chain::OffsetRange { start: 0, end }
        ),
        []
    );

    // Everything, where everything is asked for; and that is another way of capturing, so another generation.
    let uncommitted = kafka_backup_shared::plan::BackupPlan {
        isolation_level: IsolationLevel::ReadUncommitted,
        ..plan("20260102-000000", &[&topic])
    };
    run(&uncommitted, &archive.store).await.unwrap();
    let manifest = archive.manifest("20260102-000000").await;
    let part = archive.part(&manifest, &topic).await;
    assert_eq!(part.partitions[0].generation, "orders-20260102-000000");
    let expected = consume(&topic, 0, "read_uncommitted", high_watermark).await;
    assert_eq!(expected.len(), 92);
    assert_eq!(archive.records(&manifest, &topic, 0).await, expected);
    blocking(move || open.abort_transaction(TIMEOUT).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_above_fetch_size_and_budget_is_captured() {
    let archive = Archive::new();
    let topic = name("large");
    create_topic(&topic, 1, &[("max.message.bytes", "8000000")]).await;
    blocking({
        let topic = topic.clone();
        move || {
            let producer = producer(&[("message.max.bytes", "8000000")]);
            for value in [vec![b'x'; 5_000_000], vec![b'y'; 10], vec![b'z'; 3_000_000]] {
                send(&producer, &topic, 0, "key", &value);
                producer.flush(TIMEOUT).unwrap();
            }
        }
    })
    .await;
    let context = kafka_backup_worker::context::Context {
        memory_budget: 1 << 20,
        lease: kafka_backup_worker::context::DEFAULT_LEASE,
        secrets_dir: Default::default(),
        ..context()
    };
    let completed = backup::run(
        &plan("20260101-000000", &[&topic]),
        &archive.store,
        &context,
    )
    .await
    .unwrap();
    assert_eq!(completed.records, 3);
    let manifest = archive.manifest("20260101-000000").await;
    let sizes: Vec<usize> = archive
        .records(&manifest, &topic, 0)
        .await
        .iter()
        .map(|(_, _, value)| value.as_ref().unwrap().len())
        .collect();
    assert_eq!(sizes, [5_000_000, 10, 3_000_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_deleted_before_their_capture_are_a_gap() {
    let archive = Archive::new();
    let topic = name("gaps");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 100, 100).await;
    run(&plan("20260101-000000", &[&topic]), &archive.store)
        .await
        .unwrap();
    // Between two runs.
    fill(&topic, 1, 200, 100).await;
    delete_records(&topic, 0, 210).await;
    let second = run(&plan("20260102-000000", &[&topic]), &archive.store)
        .await
        .unwrap();
    assert_eq!(
        (second.records, second.gaps, second.warnings.len()),
        (90, 1, 1)
    );
    assert_eq!((second.new_gaps, second.lag), (1, Some(0)));
    let gap = |manifest| {
        let archive = &archive;
        let topic = &topic;
        async move {
            let part = archive.part(&manifest, topic).await;
            let gaps = part.partitions[0].gaps.clone();
            assert!(
                gaps.iter()
                    .all(|gap| gap.reason == GapReason::LogStartMoved)
            );
            gaps.iter()
                .map(|gap| (gap.range.start, gap.range.end))
                .collect::<Vec<_>>()
        }
    };
    assert_eq!(
        gap(archive.manifest("20260102-000000").await).await,
        [(100, 210)]
    );

    // In the middle of a run: its begin.json is there, then the records go.
    fill(&topic, 1, 100, 100).await;
    let refusing = FaultyStore::new(Arc::new(
        LocalFileSystem::new_with_prefix(archive.folder()).unwrap(),
    ))
    .only("/topics/")
    .with_puts(&[Fault::Denied; 9]);
    let third = plan("20260103-000000", &[&topic]);
    let store = Store::new(Arc::new(refusing), "a folder", None).unwrap();
    let denied = run(&third, &store).await.unwrap_err();
    assert_eq!(denied.fault(), report::Fault::Denied);
    delete_records(&topic, 0, 350).await;
    let completed = run(&third, &archive.store).await.unwrap();
    assert_eq!((completed.records, completed.gaps), (50, 2));
    assert_eq!((completed.new_gaps, completed.lag), (1, Some(0)));
    let manifest = archive.manifest("20260103-000000").await;
    assert_eq!(gap(manifest.clone()).await, [(100, 210), (300, 350)]);
    assert_eq!(
        archive.records(&manifest, &topic, 0).await.len(),
        100 + 90 + 50
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_anew_fails_by_name_and_alone() {
    let archive = Archive::new();
    let (stays, goes) = (name("stays"), name("goes"));
    for topic in [&stays, &goes] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let plan = plan("20260101-000000", &[&stays, &goes]);
    let refusing = FaultyStore::new(Arc::new(
        LocalFileSystem::new_with_prefix(archive.folder()).unwrap(),
    ))
    .only("/topics/")
    .with_puts(&[Fault::Denied; 9]);
    let store = Store::new(Arc::new(refusing), "a folder", None).unwrap();
    assert_eq!(
        run(&plan, &store).await.unwrap_err().fault(),
        report::Fault::Denied
    );

    delete_topic(&goes).await;
    create_topic(&goes, 1, &[]).await;
    fill(&goes, 1, 10, 100).await;
    let failed = run(&plan, &archive.store).await.unwrap_err();
    assert_eq!(failed.fault(), report::Fault::Spec);
    let message = error_chain(&failed);
    assert!(
        message.contains(&goes) && message.contains("created again"),
        "{message}"
    );
    let partial = archive.partial("20260101-000000").await;
    assert_eq!(partial.topics.keys().collect::<Vec<_>>(), [&stays]);
    assert_eq!(partial.failed.keys().collect::<Vec<_>>(), [&goes]);
    assert_eq!(archive.records(&partial, &stays, 0).await.len(), 100);

    // The next run takes the topic under its new id, in a generation of its own; what no complete run had counts as added.
    let next = backup_support::plan("20260102-000000", &[&stays, &goes]);
    assert_eq!(run(&next, &archive.store).await.unwrap().records, 110);
    assert_eq!(archive.manifest("20260102-000000").await.base, None);
}

/// A run in which one topic fails for good: it is made anew between two attempts.
async fn partial_run(archive: &Archive, plan: &BackupPlan, goes: &str) -> Manifest {
    let objects = LocalFileSystem::new_with_prefix(archive.folder()).unwrap();
    // One more record, so that there is something to store, and to be refused.
    fill(goes, 1, 1, 100).await;
    let refusing = FaultyStore::new(Arc::new(objects))
        .only("/topics/")
        .with_puts(&[Fault::Denied; 9]);
    run(plan, &Archive::through(Arc::new(refusing)))
        .await
        .unwrap_err();
    delete_topic(goes).await;
    create_topic(goes, 1, &[]).await;
    let failed = run(plan, &archive.store).await.unwrap_err();
    assert_eq!(failed.fault(), report::Fault::Spec);
    let partial = archive.partial(&plan.run.run["orders-".len()..]).await;
    assert_eq!(partial.failed.keys().collect::<Vec<_>>(), [goes]);
    partial
}

async fn partial_bases(archive: &Archive, run_id: &str) -> BTreeMap<String, String> {
    let key = archive.layout.begin(&format!("orders-{run_id}"));
    let begin: Begin = from_json(&key, &archive.read(&key).await).unwrap();
    begin.partial_bases
}

/// Generations and first offsets of what is stored of a topic.
async fn stored(archive: &Archive, topic: &str) -> Vec<(String, i64)> {
    let keys = archive.segments().await.into_keys();
    let mine = keys.filter(|key| key.contains(topic));
    mine.map(|key| {
        let mut names = key.rsplit('/');
        let name = names.next().unwrap();
        let generation = names.next().unwrap();
        let start = name.split('.').next().unwrap().parse().unwrap();
        (generation.to_owned(), start)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_runs_are_gone_on_from_topic_by_topic() {
    let archive = Archive::new();
    let (stays, goes) = (name("stays"), name("goes"));
    for topic in [&stays, &goes] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let first = partial_run(&archive, &plan("20260101-000000", &[&stays, &goes]), &goes).await;
    assert_eq!(first.records, 100);

    // What is new is copied, and nothing else, though no run is complete.
    fill(&stays, 1, 50, 100).await;
    let before = stored(&archive, &stays).await;
    let second = partial_run(&archive, &plan("20260102-000000", &[&stays, &goes]), &goes).await;
    let after = stored(&archive, &stays).await;
    let added = after.iter().filter(|segment| !before.contains(segment));
    assert!(added.clone().count() > 0);
    for (generation, start) in added {
        assert_eq!(
            (&**generation, *start >= 100),
            ("orders-20260101-000000", true)
        );
    }
    // Counted from the newest complete run, and there is none.
    assert_eq!((second.base.clone(), second.records), (None, 150));
    let expected = |run: &str| BTreeMap::from([(stays.clone(), format!("orders-{run}"))]);
    let found = partial_bases(&archive, "20260102-000000").await;
    assert_eq!(found, expected("20260101-000000"));

    // Nothing is new.
    let third = partial_run(&archive, &plan("20260103-000000", &[&stays, &goes]), &goes).await;
    assert_eq!(third.topics[&stays].part, "orders-20260102-000000");
    assert_eq!((third.base, third.records), (None, 150));
    assert_eq!(stored(&archive, &stays).await, after);

    // Older than the source's log, which the archive keeps; a worker that dies has the next attempt go on from the same run.
    delete_records(&stays, 0, 120).await;
    fill(&stays, 1, 5, 100).await;
    fill(&goes, 1, 7, 100).await;
    let plan = plan("20260104-000000", &[&stays, &goes]);
    let objects = LocalFileSystem::new_with_prefix(archive.folder()).unwrap();
    let refusing = FaultyStore::new(Arc::new(objects))
        .only("/topics/")
        .with_puts(&[Fault::Denied; 9]);
    run(&plan, &Archive::through(Arc::new(refusing)))
        .await
        .unwrap_err();
    let done = run(&plan, &archive.store).await.unwrap();
    assert_eq!((done.records, done.gaps), (155 + 7, 0));
    let found = partial_bases(&archive, "20260104-000000").await;
    assert_eq!(found, expected("20260103-000000"));
    let complete = archive.manifest("20260104-000000").await;
    let records = archive.records(&complete, &stays, 0).await;
    let offsets: Vec<i64> = records.iter().map(|record| record.0).collect();
    assert_eq!(offsets, (0..155).collect::<Vec<_>>());
    for (offset, key, value) in &records {
        let number = match *offset {
            0..100 => *offset,
            100..150 => offset - 100,
            _ => offset - 150,
        };
        assert_eq!(key.as_deref(), Some(format!("key-{number}").as_bytes()));
        let value = value.as_deref().unwrap();
        assert!(value.starts_with(format!("{number} of 0 .").as_bytes()));
    }

    // A complete run is the base again, and the partial ones before it are of no account.
    fill(&stays, 1, 3, 100).await;
    let plan = backup_support::plan("20260105-000000", &[&stays, &goes]);
    assert_eq!(run(&plan, &archive.store).await.unwrap().records, 3);
    assert_eq!(
        partial_bases(&archive, "20260105-000000").await,
        BTreeMap::new()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_newer_than_the_complete_run_goes_on_from_a_partial_one() {
    let archive = Archive::new();
    let (old, new, goes) = (name("old"), name("new"), name("goes"));
    for topic in [&old, &new, &goes] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let first = plan("20260101-000000", &[&old]);
    assert_eq!(run(&first, &archive.store).await.unwrap().records, 100);
    let partial = partial_run(&archive, &plan("20260102-000000", &[&new, &goes]), &goes).await;
    assert_eq!(partial.base.as_deref(), Some("orders-20260101-000000"));
    assert_eq!(partial.records, 100);

    fill(&old, 1, 10, 100).await;
    fill(&new, 1, 20, 100).await;
    let all = plan("20260103-000000", &[&old, &new]);
    let done = run(&all, &archive.store).await.unwrap();
    assert_eq!((done.records, done.gaps), (10 + 120, 0));
    let manifest = archive.manifest("20260103-000000").await;
    for (topic, count) in [(&old, 110), (&new, 120)] {
        assert_eq!(archive.records(&manifest, topic, 0).await.len(), count);
    }
    let generations: BTreeSet<String> = stored(&archive, &new)
        .await
        .into_iter()
        .map(|(generation, _)| generation)
        .collect();
    assert_eq!(
        generations,
        BTreeSet::from(["orders-20260102-000000".into()])
    );
    // Of the partial run nothing stays but what the complete one needs: its part is its own, the segments are of the partial one.
    let retention = Retention {
        policy: Policy {
            backups: Some(1),
            max_age_hours: None,
        },
        dry_run: false,
    };
    let name = all.archive.clone();
    for days in [8, 10] {
        let now = Timestamp::now() + jiff::SignedDuration::from_hours(24 * days);
        retention::run(&archive.store, &name, &retention, Scope::All, now)
            .await
            .unwrap();
    }
    let runs: BTreeSet<String> = archive
        .keys()
        .await
        .iter()
        .filter_map(|key| Some(key.split_once("/runs/")?.1.split('/').next()?.to_owned()))
        .collect();
    assert_eq!(runs, BTreeSet::from(["orders-20260103-000000".into()]));
    for (topic, count) in [(&old, 110), (&new, 120)] {
        assert_eq!(archive.records(&manifest, topic, 0).await.len(), count);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_partial_run_had_is_a_gap_to_those_that_do_not_go_on_from_it() {
    let archive = Archive::new();
    let (stays, goes) = (name("stays"), name("goes"));
    for topic in [&stays, &goes] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let all = [&*stays, &*goes];
    run(&plan("20260101-000000", &[&stays]), &archive.store)
        .await
        .unwrap();
    // Captured otherwise, so in a generation of its own.
    fill(&stays, 1, 100, 100).await;
    delete_records(&stays, 0, 120).await;
    let uncommitted = BackupPlan {
        isolation_level: IsolationLevel::ReadUncommitted,
        ..plan("20260102-000000", &all)
    };
    let partial = partial_run(&archive, &uncommitted, &goes).await;
    let topic = &partial.topics[&stays];
    assert_eq!((topic.records, topic.gaps, topic.added_gaps), (80, 1, 1));
    // Again as at first: it has neither what the partial run found missing, nor what it has.
    delete_records(&stays, 0, 150).await;
    let next = plan("20260103-000000", &all);
    let done = run(&next, &archive.store).await.unwrap();
    assert_eq!((done.gaps, done.new_gaps), (1, 1));
    let manifest = archive.manifest("20260103-000000").await;
    let part = archive.part(&manifest, &stays).await;
    let gaps: Vec<(i64, i64)> = part.partitions[0]
        .gaps
        .iter()
        .map(|gap| (gap.range.start, gap.range.end))
        .collect();
    assert_eq!(gaps, [(100, 150)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partial_run_is_left() {
    let (stays, goes) = (name("stays"), name("goes"));
    for topic in [&stays, &goes] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 100, 100).await;
    }
    let mut log_start = 0;
    for damage in ["no part", "no JSON", "no manifest", "no segment"] {
        let archive = Archive::new();
        let all = [&*stays, &*goes];
        let partial = plan("20260101-000000", &all);
        partial_run(&archive, &partial, &goes).await;
        let part = archive.layout.topic_part(&partial.run.run, &stays);
        match damage {
            "no part" => archive.remove(&part).await,
            "no JSON" => archive.write(&part, "no zstd").await,
            "no manifest" => {
                let key = archive.layout.partial(&partial.run.run);
                archive.write(&key, "no JSON").await;
            }
            _ => {
                let segments = archive.segments().await;
                let mut mine = segments.keys().filter(|key| key.contains(&stays));
                archive.remove(mine.next().unwrap()).await;
                // The source cannot give it again.
                log_start += 50;
                delete_records(&stays, 0, log_start).await;
            }
        }
        fill(&stays, 1, 10, 100).await;
        let next = plan("20260102-000000", &all);
        run(&next, &archive.store).await.unwrap();
        assert_eq!(
            partial_bases(&archive, "20260102-000000").await,
            BTreeMap::new()
        );
        let manifest = archive.manifest("20260102-000000").await;
        let found = archive.records(&manifest, &stays, 0).await;
        let offsets: Vec<i64> = found.iter().map(|record| record.0).collect();
        let end = offsets.last().unwrap() + 1;
        assert_eq!(offsets, (log_start..end).collect::<Vec<_>>(), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_before_anything_is_written() {
    let archive = Archive::new();
    let topic = name("there");
    create_topic(&topic, 1, &[]).await;
    let message = |plan| {
        let store = archive.store.clone();
        async move {
            let error = run(&plan, &store).await.unwrap_err();
            assert_eq!(error.fault(), report::Fault::Spec);
            error_chain(&error)
        }
    };
    let none = message(plan("20260101-000000", &["no-such-*"])).await;
    assert!(none.contains("no topic matches [no-such-*]"), "{none}");
    let missing = message(plan("20260101-000000", &[&topic, "no-such-topic"])).await;
    assert!(
        missing.contains("no-such-topic") && missing.contains("missingTopics"),
        "{missing}"
    );
    assert_eq!(
        archive
            .store
            .get(&archive.layout.begin("orders-20260101-000000"))
            .await
            .unwrap(),
        None
    );

    let mut ignoring = plan("20260101-000000", &[&topic, "no-such-topic"]);
    ignoring.topics.missing = MissingTopics::Ignore;
    let completed = run(&ignoring, &archive.store).await.unwrap();
    assert!(
        completed
            .warnings
            .iter()
            .any(|warning| warning.contains("no-such-topic")),
        "{:?}",
        completed.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_keeps_to_its_cluster() {
    let archive = Archive::new();
    let other = ArchiveInfo {
        format_version: FORMAT_VERSION,
        cluster_id: "another-cluster".into(),
        source_cluster_id: Some("shop".into()),
    };
    archive
        .store
        .create(&archive.layout.archive(), to_json(&other).into())
        .await
        .unwrap();
    let error = run(&plan("20260101-000000", &["*"]), &archive.store)
        .await
        .unwrap_err();
    assert_eq!(error.fault(), report::Fault::Spec);
    let client = client().await;
    let message = error_chain(&error);
    assert!(
        message.contains("another-cluster") && message.contains(client.cluster_id()),
        "{message}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_topic_is_captured_with_its_holes() {
    let archive = Archive::new();
    let topic = name("compacted");
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.bytes", "1048576"),
        ("max.compaction.lag.ms", "1000"),
    ];
    create_topic(&topic, 1, &configs).await;
    // The same keys again and again, then enough to roll the broker's segment.
    for _ in 0..4 {
        fill(&topic, 1, 1000, 500).await;
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let mut read = consume(&topic, 0, "read_committed", 4000).await;
    while read.len() == 4000 {
        assert!(
            tokio::time::Instant::now() < deadline,
            "the broker did not compact"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        read = consume(&topic, 0, "read_committed", 4000).await;
    }
    run(&plan("20260101-000000", &[&topic]), &archive.store)
        .await
        .unwrap();
    let manifest = archive.manifest("20260101-000000").await;
    let part = archive.part(&manifest, &topic).await;
    assert_eq!(part.partitions[0].end, 4000);
    let stored = archive.records(&manifest, &topic, 0).await;
    // The cleaner may have gone on: the newest record of each key is there in any case.
    let newest = |records: &[Stored]| -> std::collections::BTreeMap<Option<Vec<u8>>, i64> {
        records
            .iter()
            .map(|(offset, key, _)| (key.clone(), *offset))
            .collect()
    };
    assert_eq!(newest(&stored), newest(&read));
    assert!(stored.len() < 4000);
    assert_eq!(manifest.records, stored.len() as u64);
}
