//! Committed offsets of consumer groups moved and given back at real brokers, and looked at by a client that is not ours. Needs
//! `KAFKA_BACKUP_LAB_SOURCE` and `KAFKA_BACKUP_LAB_TARGET` (bootstrap servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;
mod offsets_support;
mod restore_support;

use std::collections::BTreeMap;

use backup_support::*;
use jiff::Timestamp;
use kafka_backup_shared::archive::snapshot::Snapshot;
use kafka_backup_shared::crd::GroupStatus;
use kafka_backup_shared::plan::{
    BackupPlan, OffsetTarget, OffsetsTask, PartitionMove, RestorePlan, RestoreRequest, RunRef,
    Topics,
};
use kafka_backup_shared::report::{Fault, OffsetsReport};
use kafka_backup_shared::spec::MissingTopics;
use kafka_backup_worker::offsets::{OffsetsError, Unfinished, list};
use kafka_backup_worker::restore;
use kafka_backup_worker::store::Store;
use offsets_support::{
    Bench, Committed, Member, SlowS3, Writes, commit, committed, delete_groups, new_run, offsets,
    read_and_commit, report, until_committed,
};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use uuid::Uuid;

const RUN: &str = "20260101-000000";

/// What the run that failed says, which must be of that fault, and name all of `words`.
fn failed(result: Result<OffsetsReport, Unfinished>, fault: Fault, words: &[&str]) -> Unfinished {
    let unfinished = result.expect_err("it must fail");
    let said = unfinished.error.to_string();
    assert_eq!(unfinished.error.fault(), fault, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    unfinished
}

/// What a report says of a group.
fn message(report: &OffsetsReport, group: &str) -> (GroupStatus, String) {
    let found = report.groups.iter().find(|one| one.group == group).unwrap();
    (found.status, found.message.clone().unwrap_or_default())
}

fn send_at(producer: &BaseProducer, topic: &str, partition: i32, time: i64) {
    let record = BaseRecord::<str, str>::to(topic)
        .partition(partition)
        .payload("record")
        .timestamp(time);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

/// Twenty records in each of two partitions, a second apart; then, in partition 1, two of a transaction that is open as long as
/// the producer.
async fn timed(topic: &str, oldest: i64) -> BaseProducer {
    let (topic, id) = (topic.to_owned(), name("offsets-producer"));
    blocking(move || {
        let plain = producer(&[]);
        for number in 0..20 {
            send_at(&plain, &topic, 0, oldest + number * 1000);
            send_at(&plain, &topic, 1, oldest + number * 1000);
        }
        plain.flush(TIMEOUT).unwrap();
        let transaction = [
            ("transactional.id", &*id),
            ("transaction.timeout.ms", "600000"),
        ];
        let open = producer(&transaction);
        open.init_transactions(TIMEOUT).unwrap();
        open.begin_transaction().unwrap();
        send_at(&open, &topic, 1, oldest + 20_000);
        send_at(&open, &topic, 1, oldest + 21_000);
        open.flush(TIMEOUT).unwrap();
        open
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_moves_offsets_to_what_it_names_and_a_rollback_moves_them_back() {
    let topic = name("offsets-where");
    let oldest = Timestamp::now().as_millisecond() - 3_600_000;
    create_topic(&topic, 2, &[]).await;
    let open = timed(&topic, oldest).await;
    delete_records(&topic, 0, 3).await;
    let bench = Bench::new(bootstrap());
    let prefix = name("offsets-where");
    let (both, one) = (format!("{prefix}-both"), format!("{prefix}-one"));
    let (groups, topics) = ([&*both, &*one], [&*topic]);
    commit(
        &bench.servers,
        &both,
        &[(&topic, 0, 10, "ten"), (&topic, 1, 12, "")],
    )
    .await;
    commit(&bench.servers, &one, &[(&topic, 0, 5, "five")]).await;
    let before = bench.state(&groups, &topics).await;

    // In partition 0, in partition 1, and which of them are told not to be quite what was asked for.
    let at = |ms| OffsetTarget::Timestamp { ms };
    let offset = |offset| OffsetTarget::Offset { offset };
    let cases = [
        (OffsetTarget::Earliest, 3, 0, [false, false]),
        (OffsetTarget::Latest, 20, 22, [false, false]),
        (at(oldest + 6001), 7, 7, [false, false]),
        (at(oldest), 3, 0, [false, false]),
        (at(oldest + 3_000_000), 20, 22, [false, false]),
        (offset(15), 15, 15, [false, false]),
        (offset(1), 3, 1, [true, false]),
        (offset(21), 20, 21, [true, false]),
        (offset(1000), 20, 22, [true, true]),
    ];
    for (case, (to, first, second, notes)) in cases.into_iter().enumerate() {
        let id = format!("case-{case}");
        let task = bench.reset(&[&format!("{prefix}-*")], to.clone(), &id);
        let done = bench
            .dry_and_real(OffsetsTask::Reset(task), &groups, &topics)
            .await
            .unwrap();
        assert_eq!((done.groups_done, done.groups_failed), (2, 0), "{to:?}");
        assert_eq!(done.partitions, 3, "{to:?}");
        let snapshot = done.snapshot.as_ref().unwrap();
        assert_eq!((snapshot.groups, snapshot.partitions), (2, 3));
        let moved = bench.state(&groups, &topics).await;
        let expected = offsets(&[(&topic, 0, first, "ten"), (&topic, 1, second, "")]);
        assert_eq!(moved[&both], expected, "{to:?}");
        let expected = offsets(&[(&topic, 0, first, "five")]);
        assert_eq!(moved[&one], expected, "{to:?}");
        for change in &done.changes {
            let place = usize::try_from(change.partition).unwrap();
            let (end, new) = ([20, 22][place], change.new.unwrap());
            assert_eq!(change.lag_after, Some(end - new), "{change:?}");
            assert_eq!(
                change.lag_before,
                change.old.map(|old| end - old),
                "{change:?}"
            );
            assert_eq!(change.note.is_some(), notes[place], "{to:?} {change:?}");
        }

        let back = bench.rollback(&id, false);
        let done = bench.dry_and_real(back, &groups, &topics).await.unwrap();
        assert!(done.verification.unwrap().matched, "{to:?}");
        assert_eq!(done.partitions, 3, "{to:?}");
        assert_eq!(bench.state(&groups, &topics).await, before, "{to:?}");
    }
    blocking(move || drop(open)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_is_obeyed_group_by_group_and_what_it_added_goes_with_a_rollback() {
    let topic = name("offsets-mapping");
    create_topic(&topic, 3, &[]).await;
    fill(&topic, 3, 10, 10).await;
    delete_records(&topic, 0, 2).await;
    let prefix = name("offsets-mapping");
    let group = |name: &str| format!("{prefix}-{name}");
    let (moved, wrong, new, other) = (group("moved"), group("wrong"), group("new"), group("other"));
    let (groups, topics) = ([&*moved, &*wrong, &*new, &*other], [&*topic]);
    let mut bench = Bench::new(bootstrap());
    let servers = bench.servers.clone();
    for group in [&moved, &wrong, &other] {
        commit(&servers, group, &[(&topic, 0, 4, "kept")]).await;
    }
    let before = bench.state(&groups, &topics).await;
    let to = bench.mapping(json!({
        // A new place, the very start and the very end.
        &moved: {&topic: {"0": 2, "1": 10}},
        // Below the start, behind the end, and nowhere; the first of them would be right.
        &wrong: {&topic: {"2": 5, "0": 1, "1": 11, "7": 0}, "offsets-no-such-topic": {"0": 0}},
        &new: {&topic: {"2": 5}},
    }));
    let task = OffsetsTask::Reset(bench.reset(&[&format!("{prefix}-*")], to.clone(), "before"));
    let result = bench.dry_and_real(task, &groups, &topics).await;
    let words = [
        "1 consumer group failed, 2 did not",
        &*wrong,
        &format!("topic {topic} partition 0: expected 2 to 10, found offset 1"),
        &format!("topic {topic} partition 1: expected 0 to 10, found offset 11"),
        &format!("topic {topic} partition 7 does not exist"),
        "topic offsets-no-such-topic partition 0 does not exist",
    ];
    let done = failed(result, Fault::Spec, &words).report.unwrap();
    assert_eq!((done.groups_done, done.groups_failed), (2, 1));
    assert_eq!(message(&done, &wrong).0, GroupStatus::Failed);
    assert_eq!(message(&done, &moved).0, GroupStatus::Completed);
    let state = bench.state(&groups, &topics).await;
    let expected = offsets(&[(&topic, 0, 2, "kept"), (&topic, 1, 10, "")]);
    assert_eq!(state[&moved], expected);
    assert_eq!(state[&wrong], before[&wrong]);
    assert_eq!(state[&new], offsets(&[(&topic, 2, 5, "")]));
    assert_eq!(state[&other], before[&other]);

    let back = bench.rollback("before", false);
    let done = bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(done.partitions, 3);
    assert!(done.changes.iter().any(|change| change.new.is_none()));
    assert_eq!(bench.state(&groups, &topics).await, before);

    // What the mapping does not have, and what is not of that shape.
    let task = OffsetsTask::Reset(bench.reset(&[&other], to, "second"));
    let result = bench.dry_and_real(task, &groups, &topics).await;
    failed(
        result,
        Fault::Spec,
        &["the mapping", &format!("no group {other}")],
    );
    let to = bench.mapping(json!({&moved: {&topic: {"0": -1}}}));
    let task = OffsetsTask::Reset(bench.reset(&[&moved], to, "second"));
    let result = bench.dry_and_real(task, &groups, &topics).await;
    failed(
        result,
        Fault::Spec,
        &["offsets.json of ConfigMap mapping", "0: -1"],
    );
    assert_eq!(bench.state(&groups, &topics).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_groups_and_topics_that_are_meant_are_changed() {
    let prefix = name("offsets-meant");
    let topic = |name: &str| format!("{prefix}.{name}");
    let (orders, returns, payments) = (topic("orders"), topic("orders-back"), topic("payments"));
    for topic in [&orders, &returns, &payments] {
        create_topic(topic, 1, &[]).await;
        fill(topic, 1, 10, 10).await;
    }
    let group = |name: &str| format!("{prefix}-{name}");
    let (all, pay, ship) = (group("shop-all"), group("shop-pay"), group("ship"));
    let groups = [&*all, &*pay, &*ship];
    let topics = [&*orders, &*returns, &*payments];
    let bench = Bench::new(bootstrap());
    for (group, of) in [
        (&all, &topics[..]),
        (&pay, &topics[2..]),
        (&ship, &topics[..]),
    ] {
        for topic in of {
            commit(&bench.servers, group, &[(topic, 0, 4, "m")]).await;
        }
    }
    let before = bench.state(&groups, &topics).await;
    let patterns = Some(vec![format!("{prefix}.orders*")]);
    let reset = |groups: &[&str], topics: Option<Vec<String>>, id: &str| {
        let mut task = bench.reset(groups, OffsetTarget::Latest, id);
        task.topics = topics;
        OffsetsTask::Reset(task)
    };

    // A glob leaves out what has no offsets there; an id must have some.
    let shops = group("shop-*");
    let task = reset(&[&shops], patterns.clone(), "glob");
    let done = bench.dry_and_real(task, &groups, &topics).await.unwrap();
    assert_eq!((done.groups_done, done.partitions), (1, 2));
    let mut expected = before.clone();
    let moved = [
        (&*orders, 0, 10, "m"),
        (&returns, 0, 10, "m"),
        (&payments, 0, 4, "m"),
    ];
    expected.insert(all.clone(), offsets(&moved));
    assert_eq!(bench.state(&groups, &topics).await, expected);
    // The snapshot knows nothing of other topics: what was committed there since stays.
    commit(&bench.servers, &all, &[(&payments, 0, 7, "since")]).await;
    let back = bench.rollback("glob", false);
    let done = bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(done.partitions, 2);
    let mut expected = before.clone();
    let since = ((payments.clone(), 0), (7, "since".to_owned()));
    expected.get_mut(&all).unwrap().extend([since]);
    assert_eq!(bench.state(&groups, &topics).await, expected);

    let task = reset(&[&all, &pay], patterns.clone(), "ids");
    let result = bench.dry_and_real(task, &groups, &topics).await;
    let words = ["1 consumer group failed, 1 did not", &pay, "no committed"];
    let done = failed(result, Fault::Spec, &words).report.unwrap();
    assert_eq!((done.groups_done, done.groups_failed), (1, 1));
    let back = bench.rollback("ids", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.state(&groups, &topics).await, expected);

    // What is not there fails before anything is changed.
    let none = group("none");
    let refused = [
        (vec![&*all, &*none], None, format!("no group {none}")),
        (
            vec!["offsets-no-such-*"],
            None,
            "none that matches [offsets-no-such-*]".into(),
        ),
        (
            vec![&*shops],
            Some(vec!["offsets-no-such-*".into()]),
            "none among those that match".into(),
        ),
    ];
    for (patterns, of, word) in refused {
        let task = reset(&patterns, of, "refused");
        let result = bench.dry_and_real(task, &groups, &topics).await;
        failed(result, Fault::Spec, &["spec.consumerGroups", &word]);
    }
    assert!(!bench.snapshot_file("refused").exists());
    assert_eq!(bench.state(&groups, &topics).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_epochs_go_back_only_into_the_log_that_they_are_of() {
    let prefix = name("offsets-epochs");
    let (kept, made) = (format!("{prefix}.kept"), format!("{prefix}.made"));
    create_topic(&kept, 2, &[]).await;
    create_topic(&made, 1, &[]).await;
    fill(&kept, 2, 10, 10).await;
    fill(&made, 1, 10, 10).await;
    let bench = Bench::new(bootstrap());
    let servers = &bench.servers;
    let group = format!("{prefix}-group");
    let (groups, topics) = ([&*group], [&*kept, &*made]);
    commit(servers, &group, &[(&kept, 1, 3, "three")]).await;
    read_and_commit(servers, &group, &kept, 0, 4).await;
    read_and_commit(servers, &group, &made, 0, 3).await;
    let epochs = |kept_0: (i64, Option<i32>), kept_1, made_0: Option<(i64, Option<i32>)>| {
        let mut epochs = BTreeMap::from([
            ((kept.clone(), 0), kept_0),
            ((kept.clone(), 1), (kept_1, None)),
        ]);
        epochs.extend(made_0.map(|made_0| ((made.clone(), 0), made_0)));
        epochs
    };
    let before = epochs((5, Some(0)), 3, Some((4, Some(0))));
    assert_eq!(bench.epochs(&group).await, before);
    let state = bench.state(&groups, &topics).await;

    // An offset that stays keeps its epoch, and is no change.
    let to = OffsetTarget::Offset { offset: 5 };
    let task = OffsetsTask::Reset(bench.reset(&[&group], to, "before"));
    let done = bench.dry_and_real(task, &groups, &topics).await.unwrap();
    assert_eq!(done.partitions, 2, "{:?}", done.changes);
    let moved = epochs((5, Some(0)), 5, Some((5, None)));
    assert_eq!(bench.epochs(&group).await, moved);
    let back = bench.rollback("before", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.epochs(&group).await, before);
    assert_eq!(bench.state(&groups, &topics).await, state);

    // Deleted: its offsets go with it.
    delete_topic(&made).await;
    let left = offsets(&[(&kept, 0, 5, ""), (&kept, 1, 3, "three")]);
    until_committed(servers, &group, &topics, &left).await;
    let to = OffsetTarget::Latest;
    let task = OffsetsTask::Reset(bench.reset(&[&group], to, "without"));
    let done = bench.dry_and_real(task, &groups, &topics).await.unwrap();
    assert_eq!(done.partitions, 2);
    let words = ["spec.force", "deleted or made anew", &made];
    let back = bench.rollback("before", false);
    let result = bench.dry_and_real(back, &groups, &topics).await;
    failed(result, Fault::Spec, &words);
    let back = bench.rollback("before", true);
    let done = bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.epochs(&group).await, epochs((5, Some(0)), 3, None));
    let (status, said) = message(&done, &group);
    assert_eq!(status, GroupStatus::Completed);
    assert!(
        said.contains(&format!("topic {made} partition 0")),
        "{said}"
    );
    let result = bench.run(bench.verify("before", false)).await;
    failed(result, Fault::Corrupt, &[&made, "found nothing"]);

    // Made anew: the offsets mean other records, and the epoch none.
    create_topic(&made, 1, &[]).await;
    fill(&made, 1, 10, 10).await;
    let back = bench.rollback("before", false);
    let result = bench.dry_and_real(back, &groups, &topics).await;
    failed(result, Fault::Spec, &words);
    let back = bench.rollback("before", true);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    let anew = epochs((5, Some(0)), 3, Some((4, None)));
    assert_eq!(bench.epochs(&group).await, anew);
    assert_eq!(bench.state(&groups, &topics).await, state);
    bench.run(bench.verify("before", true)).await.unwrap();
    // A snapshot that was taken when it was not there is not of this log either, and has nothing of it.
    let back = bench.rollback("without", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.epochs(&group).await, epochs((5, Some(0)), 3, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_each_difference() {
    let topic = name("offsets-verify");
    create_topic(&topic, 3, &[]).await;
    fill(&topic, 3, 10, 10).await;
    let bench = Bench::new(bootstrap());
    let servers = &bench.servers;
    let prefix = name("offsets-verify");
    let (group, other) = (format!("{prefix}-group"), format!("{prefix}-other"));
    let was = [(&*topic, 0, 4, "four"), (&topic, 1, 5, "")];
    for group in [&group, &other] {
        commit(servers, group, &was).await;
    }
    let taken = OffsetsTask::Snapshot {
        groups: vec![format!("{prefix}-*")],
        snapshot: bench.snapshot("was"),
    };
    let (groups, topics) = ([&*group, &*other], [&*topic]);
    let before = bench.state(&groups, &topics).await;
    let dry = bench.dry_run(taken.clone()).await.unwrap();
    assert_eq!((dry.groups_done, dry.snapshot), (2, None));
    assert!(bench.snapshots().is_empty());
    let report = bench.run(taken).await.unwrap();
    assert_eq!(report.snapshot.unwrap().partitions, 4);

    let place = |partition| format!("group {group} topic {topic} partition {partition}: expected ");
    // What is committed instead, what is said of it, and whether only strictly.
    let cases: [(&[_], String, bool); 4] = [
        (
            &[(&*topic, 0, 6, "four")],
            place(0) + "offset 4, found offset 6",
            false,
        ),
        (
            &[(&*topic, 0, 4, "4")],
            place(0) + "metadata \"four\", found \"4\"",
            true,
        ),
        (
            &[(&*topic, 1, 5, "five")],
            place(1) + "metadata \"\", found \"five\"",
            true,
        ),
        (
            &[(&*topic, 2, 0, "")],
            place(2) + "nothing, found offset 0",
            true,
        ),
    ];
    for strict in [false, true] {
        let same = bench.run(bench.verify("was", strict)).await.unwrap();
        assert!(same.verification.unwrap().matched);
    }
    for (instead, said, only_strictly) in cases {
        commit(servers, &group, instead).await;
        for strict in [false, true] {
            let result = bench.run(bench.verify("was", strict)).await;
            if only_strictly && !strict {
                assert!(result.unwrap().verification.unwrap().matched, "{said}");
                continue;
            }
            let unfinished = failed(result, Fault::Corrupt, &["in 1 places", &said]);
            let found = unfinished.report.unwrap().verification.unwrap();
            assert_eq!((found.matched, found.difference_count), (false, 1));
            assert_eq!(found.differences, std::slice::from_ref(&said));
        }
        let back = bench.rollback("was", false);
        bench.dry_and_real(back, &groups, &topics).await.unwrap();
        assert_eq!(bench.state(&groups, &topics).await, before);
    }
    // Only of the groups that are meant.
    commit(servers, &group, &[(&topic, 0, 6, "")]).await;
    let only = |groups: &[&str]| OffsetsTask::Verify {
        groups: Some(groups.iter().map(|group| (*group).to_owned()).collect()),
        snapshot: bench.snapshot("was"),
        strict: true,
    };
    bench.run(only(&[&other])).await.unwrap();
    failed(
        bench.run(only(&["*group"])).await,
        Fault::Corrupt,
        &[&group],
    );
    let result = bench.run(only(&[&other, "offsets-no-such"])).await;
    failed(result, Fault::Spec, &["snapshot was", "offsets-no-such"]);

    // All that was there is missing, and the group too.
    delete_groups(servers, &[&group]).await;
    let result = bench.run(bench.verify("was", false)).await;
    let words = [
        "in 2 places",
        &(place(0) + "offset 4, found nothing"),
        &(place(1) + "offset 5, found nothing"),
    ];
    failed(result, Fault::Corrupt, &words);
    let back = bench.rollback("was", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.state(&groups, &topics).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_without_a_snapshot_that_is_this_runs_own() {
    let topic = name("offsets-snapshot");
    create_topic(&topic, 2, &[]).await;
    fill(&topic, 2, 10, 10).await;
    let bench = Bench::new(bootstrap());
    let servers = &bench.servers;
    let prefix = name("offsets-snapshot");
    let (group, late) = (format!("{prefix}-group"), format!("{prefix}-late"));
    let (groups, topics) = ([&*group, &*late], [&*topic]);
    let was = [(&*topic, 0, 4, "four"), (&topic, 1, 5, "")];
    commit(servers, &group, &was).await;
    let before = bench.state(&groups, &topics).await;
    let glob = format!("{prefix}-*");
    let reset = |to, id: &str| OffsetsTask::Reset(bench.reset(&[&glob], to, id));

    // Taken by this run, which was interrupted then.
    let run = new_run();
    let result = bench.interrupted(reset(OffsetTarget::Latest, "cut")).await;
    let unfinished = failed(result, Fault::Interrupted, &["interrupted"]);
    let report = unfinished.report.unwrap();
    assert_eq!((report.groups_done, report.groups_failed), (0, 1));
    assert!(bench.snapshot_file("cut").exists());
    assert_eq!(bench.state(&groups, &topics).await, before);

    // Another run's is left alone; so are the groups.
    let first = bench.run_as(&run, reset(OffsetTarget::Latest, "taken"));
    assert_eq!(first.await.unwrap().partitions, 2);
    let taken = bench.snapshots();
    let moved = bench.state(&groups, &topics).await;
    let result = bench.run(reset(OffsetTarget::Earliest, "taken")).await;
    failed(
        result,
        Fault::Spec,
        &["snapshot taken already", &run.run, "nothing was changed"],
    );
    assert_eq!(bench.state(&groups, &topics).await, moved);
    assert_eq!(bench.snapshots(), taken);

    // This run's own is taken over, and what is committed now is not taken for what there was. A group that came since is
    // not in it, and nothing would bring it back.
    commit(servers, &group, &was[..1]).await;
    commit(servers, &late, &[(&topic, 0, 1, "")]).await;
    let result = bench.run_as(&run, reset(OffsetTarget::Latest, "taken"));
    let words = ["1 consumer group failed, 1 did not", &late, "first attempt"];
    failed(result.await, Fault::Spec, &words);
    assert_eq!(bench.snapshots(), taken);
    let state = bench.state(&groups, &topics).await;
    let expected = offsets(&[(&topic, 0, 10, "four"), (&topic, 1, 10, "")]);
    assert_eq!(state[&group], expected);
    assert_eq!(state[&late], offsets(&[(&topic, 0, 1, "")]));

    // Damaged, anywhere in it, or missing.
    let whole = taken["taken.jsonl.zst"].clone();
    let mut changed = whole.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0x10;
    for damaged in [&whole[..whole.len() - 1], &[], &changed] {
        std::fs::write(bench.snapshot_file("taken"), damaged).unwrap();
        let again = bench.run_as(&run, reset(OffsetTarget::Earliest, "taken"));
        failed(again.await, Fault::Corrupt, &["taken"]);
        let tasks = [
            bench.rollback("taken", false),
            bench.rollback("taken", true),
            bench.verify("taken", false),
            OffsetsTask::Delete {
                snapshot: bench.snapshot("taken"),
            },
        ];
        for task in tasks {
            failed(bench.run(task).await, Fault::Corrupt, &["taken"]);
        }
        assert_eq!(bench.state(&groups, &topics).await, state);
        assert_eq!(bench.snapshots()["taken.jsonl.zst"], damaged);
        let store = Store::open_folder(bench.volume()).unwrap();
        let listed = list(&store, Some("default")).await.unwrap();
        let damage = |id: &str| {
            let found = listed.iter().find(|one| one.id == id);
            found.unwrap().damage.is_some()
        };
        assert!(damage("taken") && !damage("cut"));
    }
    std::fs::write(bench.snapshot_file("taken"), &whole).unwrap();
    for task in [bench.rollback("none", true), bench.verify("none", false)] {
        failed(bench.run(task).await, Fault::Spec, &["no snapshot none"]);
    }
    // Under another's name.
    std::fs::copy(bench.snapshot_file("taken"), bench.snapshot_file("copied")).unwrap();
    let result = bench.run(bench.rollback("copied", true)).await;
    failed(result, Fault::Spec, &["spec.snapshotId", "taken", "copied"]);
    assert_eq!(bench.state(&groups, &topics).await, state);

    bench.run(bench.rollback("taken", false)).await.unwrap();
    let found = bench.state(&groups, &topics).await;
    assert_eq!(found[&group], before[&group]);
    let delete = OffsetsTask::Delete {
        snapshot: bench.snapshot("taken"),
    };
    bench.dry_run(delete.clone()).await.unwrap();
    assert!(bench.snapshot_file("taken").exists());
    bench.run(delete.clone()).await.unwrap();
    assert!(!bench.snapshot_file("taken").exists());
    failed(bench.run(delete).await, Fault::Spec, &["no snapshot taken"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_changed_where_the_snapshot_cannot_be_written() {
    let topic = name("offsets-unwritten");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 10, 10).await;
    let group = name("offsets-unwritten");
    let was = offsets(&[(&topic, 0, 4, "four")]);
    commit(&bootstrap(), &group, &[(&topic, 0, 4, "four")]).await;

    // A file is where the folder of snapshots should be: permissions do not bind who runs as root.
    let bench = Bench::new(bootstrap());
    std::fs::write(bench.volume().join("_snapshots"), "").unwrap();
    let task = bench.reset(&[&group], OffsetTarget::Latest, "before");
    let unfinished = bench.run(OffsetsTask::Reset(task)).await.unwrap_err();
    assert!(
        matches!(unfinished.error, OffsetsError::Store(_)),
        "{:?}",
        unfinished.error
    );
    assert_eq!(committed(&bootstrap(), &group, &[&topic]).await, was);

    let server = SlowS3::serve(Writes::Denied).await;
    let bench = Bench::with_s3(bootstrap(), &server);
    let task = bench.reset(&[&group], OffsetTarget::Latest, "before");
    let unfinished = bench.run(OffsetsTask::Reset(task)).await.unwrap_err();
    assert!(
        matches!(unfinished.error, OffsetsError::Store(_)),
        "{:?}",
        unfinished.error
    );
    assert_eq!(server.snapshots().len(), 0);
    assert_eq!(committed(&bootstrap(), &group, &[&topic]).await, was);

    // An answer that is lost is not one that says no.
    let server = SlowS3::serve(Writes::Lost).await;
    let bench = Bench::with_s3(bootstrap(), &server);
    let task = bench.reset(&[&group], OffsetTarget::Latest, "before");
    bench.run(OffsetsTask::Reset(task)).await.unwrap();
    let [kept] = &server.snapshots()[..] else {
        panic!("one snapshot");
    };
    let kept = Snapshot::from_bytes("before", kept).unwrap();
    assert_eq!(kept.groups[0].topics[&topic][0].offset, 4);
    let moved = offsets(&[(&topic, 0, 10, "four")]);
    assert_eq!(committed(&bootstrap(), &group, &[&topic]).await, moved);
    bench.run(bench.rollback("before", false)).await.unwrap();
    assert_eq!(committed(&bootstrap(), &group, &[&topic]).await, was);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_groups_are_refused_with_their_state_before_any_group_is_changed() {
    let topic = name("offsets-live");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 10, 10).await;
    let bench = Bench::new(bootstrap());
    let servers = &bench.servers;
    for protocol in ["classic", "consumer"] {
        let prefix = name("offsets-live");
        let (live, empty) = (format!("{prefix}-live"), format!("{prefix}-empty"));
        let (groups, topics) = ([&*live, &*empty], [&*topic]);
        for group in groups {
            commit(servers, group, &[(&topic, 0, 4, "four")]).await;
        }
        let before = bench.state(&groups, &topics).await;
        let glob = format!("{prefix}-*");
        let reset = |to, id: &str| OffsetsTask::Reset(bench.reset(&[&glob], to, id));
        let id = format!("{protocol}-before");
        bench.run(reset(OffsetTarget::Earliest, &id)).await.unwrap();
        let moved = bench.state(&groups, &topics).await;

        let member = Member::join(servers, &live, &topic, protocol).await;
        let words = [
            "nothing was changed",
            "live members",
            &format!("{live} (Stable)"),
        ];
        let refused = format!("{protocol}-refused");
        for task in [
            reset(OffsetTarget::Latest, &refused),
            bench.rollback(&id, false),
            bench.rollback(&id, true),
        ] {
            let result = bench.dry_and_real(task, &groups, &topics).await;
            let unfinished = failed(result, Fault::Spec, &words);
            let said = unfinished.error.to_string();
            assert!(!said.contains(&empty), "{said}");
        }
        assert!(!bench.snapshot_file(&refused).exists());
        assert_eq!(bench.state(&groups, &topics).await, moved);
        // To look is allowed.
        let result = bench.run(bench.verify(&id, false)).await;
        failed(result, Fault::Corrupt, &[&live, "in 2 places"]);

        member.leave().await;
        let back = bench.rollback(&id, false);
        let done = bench.dry_and_real(back, &groups, &topics).await.unwrap();
        assert_eq!(done.partitions, 2, "{protocol}");
        assert_eq!(bench.state(&groups, &topics).await, before, "{protocol}");
        // The group is of that protocol by now.
        let done = bench.run(reset(OffsetTarget::Latest, &refused)).await;
        assert_eq!(done.unwrap().partitions, 2, "{protocol}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_joins_before_the_commit_keeps_its_group_as_it_is() {
    let topic = name("offsets-joined");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 10, 10).await;
    let servers = bootstrap();
    for protocol in ["classic", "consumer"] {
        let prefix = name("offsets-joined");
        let (joined, other) = (format!("{prefix}-joined"), format!("{prefix}-other"));
        for group in [&joined, &other] {
            commit(&servers, group, &[(&topic, 0, 4, "four")]).await;
        }
        let server = SlowS3::serve(Writes::Held).await;
        let bench = Bench::with_s3(servers.clone(), &server);
        let task = bench.reset(&[&format!("{prefix}-*")], OffsetTarget::Latest, "before");
        // Groups have been looked at when their snapshot is written, and are changed when it is.
        let join = async {
            server.came().await;
            let member = Member::join(&servers, &joined, &topic, protocol).await;
            server.store();
            member
        };
        let (result, member) = tokio::join!(bench.run(OffsetsTask::Reset(task)), join);
        let words = ["1 consumer group failed, 1 did not", &joined, "members"];
        let report = failed(result, Fault::Spec, &words).report.unwrap();
        assert_eq!(message(&report, &joined).0, GroupStatus::Failed);
        assert_eq!(message(&report, &other).0, GroupStatus::Completed);
        let state = bench.state(&[&joined, &other], &[&topic]).await;
        let was = offsets(&[(&topic, 0, 4, "four")]);
        assert_eq!(state[&joined], was, "{protocol}");
        let moved = offsets(&[(&topic, 0, 10, "four")]);
        assert_eq!(state[&other], moved, "{protocol}");

        member.leave().await;
        bench.run(bench.rollback("before", false)).await.unwrap();
        let state = bench.state(&[&joined, &other], &[&topic]).await;
        assert_eq!((&state[&joined], &state[&other]), (&was, &was));
    }
}

/// Two topics, of which the second one's partitions change places, backed up with the groups and restored with headers.
struct Restored {
    archive: Archive,
    run: RunRef,
    plain: String,
    swapped: String,
}

/// What the first records have in the source; in the target they have 0.
const FIRST: i64 = 5;

impl Restored {
    async fn new(groups: &[&str]) -> Self {
        Self::with(groups, &[]).await
    }

    /// Where there are groups `aside`, which have read only the second topic, that is not restored.
    async fn with(groups: &[&str], aside: &[&str]) -> Self {
        let prefix = name("offsets-restored");
        let (plain, swapped) = (format!("{prefix}.plain"), format!("{prefix}.swapped"));
        for topic in [&plain, &swapped] {
            create_topic(topic, 2, &[]).await;
            fill(topic, 2, 30, 10).await;
            for partition in [0, 1] {
                delete_records(topic, partition, FIRST).await;
            }
        }
        let restored = Self {
            archive: Archive::new(),
            run: RunRef {
                kind: "KafkaRestore".into(),
                name: "orders-back".into(),
                uid: Uuid::new_v4().to_string(),
                ..RunRef::example()
            },
            plain,
            swapped,
        };
        for group in groups {
            commit(&bootstrap(), group, &restored.at_source()).await;
        }
        for group in aside {
            commit(&bootstrap(), group, &restored.at_source()[2..]).await;
        }
        let all = groups.iter().chain(aside);
        let backup = BackupPlan {
            consumer_groups: Some(all.map(|group| (*group).to_owned()).collect()),
            source_cluster_id: Some("shop".into()),
            ..plan(RUN, &[&restored.plain, &restored.swapped])
        };
        run(&backup, &restored.archive.store).await.unwrap();
        let moves = [(0, 1), (1, 0)].map(|(source, target)| PartitionMove { source, target });
        let mut moved = BTreeMap::from([(restored.swapped.clone(), moves.to_vec())]);
        let mut topics = Topics {
            include: vec!["*".into()],
            exclude: vec![],
            missing: MissingTopics::Fail,
        };
        if !aside.is_empty() {
            topics.exclude.extend(moved.into_keys());
            moved = BTreeMap::new();
        }
        let request = RestoreRequest {
            include_original_offset_header: Some(true),
            partition_mapping: moved,
            ..RestoreRequest::new(format!("orders-{RUN}"), topics)
        };
        let plan = RestorePlan {
            run: restored.run.clone(),
            storage: backup.storage,
            cluster: restore_support::cluster(),
            request,
            rate_limit: None,
            dry_run: false,
            groups: None,
        };
        let context = restore_support::context();
        restore::run(&plan, &restored.archive.store, &context)
            .await
            .unwrap();
        restored
    }

    /// What the groups have at the source.
    fn at_source(&self) -> [(&str, i32, i64, &str); 4] {
        [
            (&self.plain, 0, 17, "half way"),
            (&self.plain, 1, 29, ""),
            (&self.swapped, 0, 17, "half way"),
            (&self.swapped, 1, 29, ""),
        ]
    }

    /// A bench at the target, whose volume is the archive's.
    fn bench(&self) -> Bench {
        let mut bench = Bench::new(restore_support::bootstrap());
        bench.places.volume_dir = Some(self.archive.folder().into());
        bench
    }

    fn to(&self, bench: &Bench) -> OffsetTarget {
        OffsetTarget::FromRestore {
            restore: self.run.uid.clone(),
            storage: bench.storage.clone(),
            archive: None,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_a_restore_go_on_where_they_were_at_the_source() {
    let prefix = name("offsets-carried");
    let (there, new) = (format!("{prefix}-there"), format!("{prefix}-new"));
    let restored = Restored::new(&[&there, &new]).await;
    let (plain, swapped) = (&*restored.plain, &*restored.swapped);
    let bench = restored.bench();
    let (groups, topics) = ([&*there, &*new], [plain, swapped]);
    // One is there already, with something of its own.
    commit(&bench.servers, &there, &[(plain, 0, 1, "own")]).await;
    let before = bench.state(&groups, &topics).await;

    let task = bench.reset(&[&format!("{prefix}-*")], restored.to(&bench), "before");
    let done = bench
        .dry_and_real(OffsetsTask::Reset(task.clone()), &groups, &topics)
        .await
        .unwrap();
    assert_eq!((done.groups_done, done.partitions), (2, 8));
    let carried = offsets(&[
        (plain, 0, 17 - FIRST, "half way"),
        (plain, 1, 29 - FIRST, ""),
        (swapped, 1, 17 - FIRST, "half way"),
        (swapped, 0, 29 - FIRST, ""),
    ]);
    let state = bench.state(&groups, &topics).await;
    assert_eq!((&state[&there], &state[&new]), (&carried, &carried));
    let back = bench.rollback("before", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.state(&groups, &topics).await, before);

    // Only some topics.
    let mut only = bench.reset(&[&there], restored.to(&bench), "only");
    only.topics = Some(vec!["*.plain".into()]);
    let only = OffsetsTask::Reset(only);
    let done = bench.dry_and_real(only, &groups, &topics).await.unwrap();
    assert_eq!(done.partitions, 2);
    let state = bench.state(&groups, &topics).await;
    let expected: Committed = carried
        .iter()
        .filter(|((topic, _), _)| topic == plain)
        .map(|(place, committed)| (place.clone(), committed.clone()))
        .collect();
    assert_eq!((&state[&there], &state[&new]), (&expected, &before[&new]));

    // No such group, no such restore, another cluster.
    let none = bench.reset(&["offsets-no-such"], restored.to(&bench), "none");
    let result = bench.run(OffsetsTask::Reset(none)).await;
    failed(result, Fault::Spec, &["the backup", "offsets-no-such"]);
    let to = OffsetTarget::FromRestore {
        restore: "offsets-no-such".into(),
        storage: bench.storage.clone(),
        archive: None,
    };
    let none = bench.reset(&[&there], to, "none");
    let result = bench.run(OffsetsTask::Reset(none)).await;
    failed(result, Fault::Spec, &["offsets-no-such"]);
    let mut elsewhere = Bench::new(bootstrap());
    elsewhere.places.volume_dir = Some(restored.archive.folder().into());
    let result = elsewhere.run(OffsetsTask::Reset(bench.reset(
        &[&there],
        restored.to(&bench),
        "none",
    )));
    failed(result.await, Fault::Spec, &["spec.kafkaCluster"]);
    // A snapshot of another cluster.
    let result = elsewhere.run(bench.rollback("only", false)).await;
    failed(result, Fault::Spec, &["spec.force", "cluster"]);
    let source = committed(&bootstrap(), &there, &topics).await;
    assert_eq!(source, offsets(&restored.at_source()));
    assert_eq!(bench.state(&groups, &topics).await, state);
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_that_a_restore_has_nothing_to_do_with_are_left_to_themselves() {
    let prefix = name("offsets-aside");
    let (there, aside) = (format!("{prefix}-there"), format!("{prefix}-aside"));
    let restored = Restored::with(&[&there], &[&aside]).await;
    let bench = restored.bench();
    let (groups, topics) = ([&*there, &*aside], [&*restored.plain]);
    let reset = |groups: &[&str], id: &str| {
        let reset = bench.reset(groups, restored.to(&bench), id);
        OffsetsTask::Reset(reset)
    };
    let all = reset(&[&format!("{prefix}-*")], "all");
    let done = bench.dry_and_real(all, &groups, &topics).await.unwrap();
    assert_eq!((done.groups_done, done.partitions), (1, 2));
    let state = bench.state(&groups, &topics).await;
    assert!(state[&aside].is_empty(), "{state:?}");
    // Who asks for it by its name is told, and so is who asks for nothing else.
    let result = bench.run(reset(&[&aside], "named")).await;
    failed(result, Fault::Spec, &[&aside, "is not part of the restore"]);
    let result = bench.run(reset(&[&format!("{prefix}-a*")], "none")).await;
    failed(
        result,
        Fault::Spec,
        &["on the topics of the restore", "none that matches"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_tell_where_groups_go_on_and_half_changed_groups_are_not_changed_again() {
    let group = name("offsets-headers");
    let restored = Restored::new(&[&group]).await;
    let (plain, swapped) = (&*restored.plain, &*restored.swapped);
    let bench = restored.bench();
    let (groups, topics) = ([&*group], [plain, swapped]);
    // As tools do that copy offsets as they are.
    commit(&bench.servers, &group, &restored.at_source()).await;
    let before = bench.state(&groups, &topics).await;
    let to = |source_cluster: Option<&str>, scan_all_partitions| OffsetTarget::HeaderBased {
        source_cluster: source_cluster.map(str::to_owned),
        scan_all_partitions,
    };
    let all = offsets(&[
        (plain, 0, 17 - FIRST, "half way"),
        (plain, 1, 29 - FIRST, ""),
        (swapped, 0, 29 - FIRST, ""),
        (swapped, 1, 17 - FIRST, "half way"),
    ]);

    // Where records are in other partitions, only all of them tell.
    let task = OffsetsTask::Reset(bench.reset(&[&group], to(None, false), "same"));
    let done = bench.dry_and_real(task, &groups, &topics).await.unwrap();
    let (_, said) = message(&done, &group);
    assert!(
        said.contains(&format!("topic {swapped} has no record")),
        "{said}"
    );
    let mut expected = before[&group].clone();
    expected.extend(
        all.clone()
            .into_iter()
            .filter(|((topic, _), _)| topic == plain),
    );
    assert_eq!(bench.state(&groups, &topics).await[&group], expected);
    let back = bench.rollback("same", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.state(&groups, &topics).await, before);

    // Another source's records do not count.
    let task = OffsetsTask::Reset(bench.reset(&[&group], to(Some("bank"), true), "bank"));
    let result = bench.dry_and_real(task, &groups, &topics).await;
    failed(result, Fault::Spec, &[&group, "no record", "bank"]);
    assert_eq!(bench.state(&groups, &topics).await, before);

    let run = new_run();
    let task = OffsetsTask::Reset(bench.reset(&[&group], to(Some("shop"), true), "all"));
    bench.dry_run(task.clone()).await.unwrap();
    let done = bench.run_as(&run, task.clone()).await.unwrap();
    assert_eq!(done.partitions, 4);
    assert_eq!(bench.state(&groups, &topics).await[&group], all);

    // As an attempt leaves it that was killed: the places that are changed must not be looked for again.
    let halves = [&[][..], &restored.at_source()[..1], &restored.at_source()];
    for half in halves {
        if !half.is_empty() {
            commit(&bench.servers, &group, half).await;
        }
        let done = bench.run_as(&run, task.clone()).await.unwrap();
        assert_eq!(done.partitions, half.len() as u64);
        assert_eq!(done.snapshot.unwrap().partitions, 4);
        assert_eq!(bench.state(&groups, &topics).await[&group], all);
    }
    let back = bench.rollback("all", false);
    bench.dry_and_real(back, &groups, &topics).await.unwrap();
    assert_eq!(bench.state(&groups, &topics).await, before);
    assert!(report(&bench.run(bench.verify("all", true)).await).is_some());
}
