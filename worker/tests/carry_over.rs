//! Consumer groups that whole restores carry over, and that a client that is not ours reads on with. Needs
//! `KAFKA_BACKUP_LAB_SOURCE` and `KAFKA_BACKUP_LAB_TARGET` (bootstrap servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;
mod carry_over_support;
mod group_support;
mod restore_support;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backup_support::{Archive, TIMEOUT, blocking, create_topic, delete_records, name};
use carry_over_support::history::groups_of_any_history_read_on;
use carry_over_support::*;
use futures::{FutureExt, StreamExt, stream};
use group_support::*;
use kafka_backup_shared::archive::snapshot;
use kafka_backup_shared::crd::{GroupStatus, KafkaRestore};
use kafka_backup_shared::plan::{
    self as plans, BackupPlan, CarriedGroups, CarryOverTarget, OffsetTarget, OffsetsPlan,
    OffsetsTask, PartitionMove, Plan, RestorePlan, RunRef, SnapshotRef,
};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::{
    Compression, RateLimit, Repartition, RestoreFrom, SnapshotPlace, TimeRange,
};
use kafka_backup_worker::kafka::CommittedOffset;
use rdkafka::consumer::Consumer;
use rdkafka::producer::Producer;
use serde_json::json;
use uuid::Uuid;

#[tokio::test(flavor = "multi_thread")]
async fn groups_read_on_where_they_were_through_three_restores_in_a_row() {
    let archive = Archive::new();
    let oldest = an_hour_ago();
    let [tx, log, append, small, gap] =
        ["tx", "compacted", "append", "small", "gap"].map(|of| name(&format!("carry-over-{of}")));
    create_topic(&tx, 2, &[]).await;
    create_topic(&append, 1, &[("message.timestamp.type", "LogAppendTime")]).await;
    create_topic(&small, 1, &[]).await;
    create_topic(&gap, 1, &[]).await;
    let open = transactions(&tx, oldest).await;
    let left = compacted(&log, oldest).await;
    fill(&append, 1, 30, 10, oldest).await;
    fill(&small, 1, 40, 1, oldest).await;
    fill(&gap, 1, 100, 20, oldest).await;
    let prefix = name("carry-over-group");
    let selected = format!("{prefix}-*");

    // What the source deletes between two runs is a gap.
    let all = [&tx, &log, &append, &small, &gap];
    let first = backup(Side::Source, FIRST, [&gap], &selected);
    let mut captured = log_of(Side::Source, &gap, 0).await;
    done(&archive, Plan::Backup(first)).await.unwrap();
    fill(&gap, 1, 50, 10, oldest).await;

    let hole = |n: usize| {
        let holes: Vec<i64> = left
            .windows(2)
            .filter(|pair| pair[1] - pair[0] > 1)
            .map(|pair| pair[0] + 1)
            .collect();
        holes[holes.len() * n / 8]
    };
    let end = left.last().unwrap() + 1;
    let middle = left[left.len() / 2];
    let at: [(&String, i32, [i64; 12]); 6] = [
        (&tx, 0, [1, 3, 4, 5, 8, 10, 13, 17, 19, 24, 27, 22]),
        (&tx, 1, [0, 2, 4, 5, 7, 10, 14, 17, 20, 25, 27, 29]),
        (
            &log,
            0,
            [
                0,
                hole(0),
                hole(1),
                hole(2),
                hole(3) + 1,
                hole(4),
                hole(5),
                hole(6),
                hole(7),
                middle,
                end - 1,
                end,
            ],
        ),
        (&append, 0, [0, 1, 5, 9, 10, 11, 15, 20, 25, 29, 30, 30]),
        (&small, 0, [0, 1, 2, 7, 13, 19, 20, 21, 33, 39, 40, 40]),
        (
            &gap,
            0,
            [0, 20, 50, 99, 100, 110, 129, 130, 131, 149, 150, 150],
        ),
    ];
    let groups: Groups = (0..12)
        .map(|n| {
            let positions = at
                .iter()
                .map(|(topic, partition, offsets)| ((*topic).clone(), *partition, offsets[n]));
            (format!("{prefix}-{n:02}"), positions.collect())
        })
        .collect();
    commit(&groups).await;
    delete_records(&tx, 0, 3).await;
    delete_records(&gap, 0, 130).await;
    let second = BackupPlan {
        compression: Compression::Zstd,
        ..backup(Side::Source, SECOND, all, &selected)
    };
    done(&archive, Plan::Backup(second)).await.unwrap();
    blocking(move || open.abort_transaction(TIMEOUT).unwrap()).await;

    let mut logs = BTreeMap::new();
    for (topic, partition, _) in at {
        let log = log_of(Side::Source, topic, partition).await;
        logs.insert((topic.clone(), partition), log);
    }
    let behind = logs.get_mut(&(gap.clone(), 0)).unwrap();
    captured.append(behind);
    *behind = captured;
    let expected = expected(&groups, &logs, TimeRange::default());
    let at_end = expected.iter().filter(|next| next.record.is_none());
    assert_eq!(
        at_end.count(),
        1 + 2 + 1 + 2 + 2 + 2,
        "groups that have read everything"
    );

    let called = |suffix: &str| -> Names {
        all.map(|topic| (topic.clone(), format!("{topic}-{suffix}")))
            .into()
    };
    let renamed = |from: &Names, to: &Names| -> Names {
        let pairs = from
            .iter()
            .map(|(first, now)| (now.clone(), to[first].clone()));
        pairs.collect()
    };
    let [once, twice, thrice] = ["once", "twice", "thrice"].map(called);

    let mut plan = restore(Side::Target, &once, CarryOverTarget::FromBackup);
    plan.request.from = RestoreFrom::ArchiveStart;
    let report = carried(&archive, plan).await;
    assert_eq!((report.groups_done, report.groups_failed), (12, 0));
    assert_eq!(report.partitions, 12 * 6);
    let in_gap = report
        .changes
        .iter()
        .find(|change| change.topic == once[&gap] && change.group.ends_with("-05"));
    let note = in_gap.unwrap().note.clone().unwrap();
    assert!(note.contains("100 to 130"), "{note}");
    assert_goes_on(Side::Target, &once, |p| p, &expected, "once").await;

    let hops = [
        (
            Side::Target,
            &once,
            Side::Source,
            &twice,
            Compression::Source,
            true,
        ),
        (
            Side::Source,
            &twice,
            Side::Target,
            &thrice,
            Compression::Lz4,
            false,
        ),
    ];
    for (from, before, to, after, compression, headers) in hops {
        let archive = Archive::new();
        let plan = BackupPlan {
            compression,
            ..backup(from, FIRST, before.values(), &selected)
        };
        done(&archive, Plan::Backup(plan)).await.unwrap();
        let mut plan = restore(to, &renamed(before, after), CarryOverTarget::FromBackup);
        plan.request.include_original_offset_header = headers.then_some(true);
        let report = carried(&archive, plan).await;
        assert_eq!(
            (report.groups_done, report.partitions),
            (12, 12 * 6),
            "{to:?}"
        );
        assert_goes_on(to, after, |p| p, &expected, &format!("{to:?}")).await;
    }
    assert_new_records_are_next(Side::Target, &thrice, |p| p, &expected, "at the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_of_any_history_read_on_where_they_were() {
    const CASES: u64 = 14;
    let given = std::env::var("CARRY_OVER_SEED").ok();
    let (first, cases) = match &given {
        Some(seed) => {
            let seed = u64::from_str_radix(seed.trim_start_matches("0x"), 16).unwrap();
            (seed, 1)
        }
        None => (Uuid::new_v4().as_u64_pair().0, CASES),
    };
    let seeds = (0..cases).map(|n| first.wrapping_add(n));
    let results: Vec<(u64, bool)> = stream::iter(seeds)
        .map(|seed| async move {
            let case = AssertUnwindSafe(groups_of_any_history_read_on(seed));
            (seed, case.catch_unwind().await.is_ok())
        })
        .buffer_unordered(5)
        .collect()
        .await;
    let mut failed = results.iter().filter(|(_, is_ok)| !is_ok);
    if let Some((seed, _)) = failed.next() {
        panic!("CARRY_OVER_SEED={seed:#x} shows it again");
    }
}

/// A topic with three partitions of 30 records each and two groups, of which the second has read of the first partition alone.
/// Beside it in the backup stands another topic, and a group that has read of that alone.
struct Three {
    archive: Archive,
    topic: String,
    oldest: i64,
    groups: Groups,
    /// The group of the other topic.
    aside: String,
    backup: BackupPlan,
}

impl Three {
    async fn new() -> Self {
        let archive = Archive::new();
        let (topic, prefix) = (name("carry-over-three"), name("carry-over-three-group"));
        let oldest = an_hour_ago();
        create_topic(&topic, 3, &[]).await;
        fill(&topic, 3, 90, 10, oldest).await;
        let (other, aside) = (name("carry-over-aside"), format!("{prefix}-aside"));
        create_topic(&other, 1, &[]).await;
        let at = |partition, offset| (topic.clone(), partition, offset);
        let groups: Groups = [
            (
                format!("{prefix}-all"),
                vec![at(0, 10), at(1, 1), at(2, 30)],
            ),
            (format!("{prefix}-one"), vec![at(0, 5)]),
        ]
        .into();
        commit(&groups).await;
        commit(&[(aside.clone(), vec![(other.clone(), 0, 0)])].into()).await;
        let backup = BackupPlan {
            source_cluster_id: Some("here".into()),
            ..backup(
                Side::Source,
                FIRST,
                [&topic, &other],
                &format!("{prefix}-*"),
            )
        };
        let plan = Plan::Backup(backup.clone());
        done(&archive, plan).await.unwrap();
        Self {
            archive,
            topic,
            oldest,
            groups,
            aside,
            backup,
        }
    }

    fn group(&self, which: &str) -> &String {
        self.groups
            .keys()
            .find(|group| group.ends_with(which))
            .unwrap()
    }

    fn names(&self, suffix: &str) -> Names {
        [(self.topic.clone(), format!("{}-{suffix}", self.topic))].into()
    }

    fn plan(&self, suffix: &str, to: CarryOverTarget) -> RestorePlan {
        restore(Side::Target, &self.names(suffix), to)
    }

    async fn expected(&self) -> Vec<Next> {
        let mut logs = BTreeMap::new();
        for partition in 0..3 {
            let log = log_of(Side::Source, &self.topic, partition).await;
            logs.insert((self.topic.clone(), partition), log);
        }
        expected(&self.groups, &logs, TimeRange::default())
    }

    /// What the groups have committed on the topic `suffix`: partition and offset, of the first group and of the second.
    async fn found(&self, suffix: &str) -> [Vec<(i32, i64)>; 2] {
        let target = format!("{}-{suffix}", self.topic);
        let committed = all_committed(Side::Target, self.groups.keys()).await;
        ["-all", "-one"].map(|which| {
            let mut all = positions(&committed[self.group(which)]);
            all.retain(|(topic, ..)| *topic == target);
            all.into_iter().map(|(_, p, offset)| (p, offset)).collect()
        })
    }

    /// Keys of snapshots, plans of restores, and so on.
    async fn has_restores(&self) -> bool {
        let keys = self.archive.keys().await;
        let has_snapshot = self.archive.folder().join(snapshot::FOLDER).exists();
        has_snapshot || keys.iter().any(|key| key.contains("/restores/"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_strategy_puts_groups_where_it_says() {
    let three = Three::new().await;
    let expected = three.expected().await;
    let ms = three.oldest + 45_500;
    let late = three.oldest + 100_000;
    let cases = [
        ("earliest", OffsetTarget::Earliest, [0, 0, 0]),
        ("latest", OffsetTarget::Latest, [30, 30, 30]),
        ("timestamp", OffsetTarget::Timestamp { ms }, [16, 15, 15]),
        (
            "too-late",
            OffsetTarget::Timestamp { ms: late },
            [30, 30, 30],
        ),
        ("offset", OffsetTarget::Offset { offset: 25 }, [25, 25, 25]),
        (
            "too-high",
            OffsetTarget::Offset { offset: 31 },
            [30, 30, 30],
        ),
    ];
    for (suffix, to, offsets) in cases {
        let plan = three.plan(suffix, CarryOverTarget::Plain(to));
        let report = carried(&three.archive, plan).await;
        assert_eq!((report.groups_done, report.partitions), (2, 4), "{suffix}");
        let notes = report.changes.iter().filter(|one| one.note.is_some());
        let is_moved = suffix == "too-high";
        assert_eq!(notes.count(), if is_moved { 4 } else { 0 }, "{suffix}");
        let all: Vec<(i32, i64)> = (0..).zip(offsets).collect();
        let one = all[..1].to_vec();
        assert_eq!(three.found(suffix).await, [all, one], "{suffix}");
    }

    let mut plan = three.plan("latest-moved", CarryOverTarget::Plain(OffsetTarget::Latest));
    let moves = [(0, 3), (1, 0)].map(|(source, target)| PartitionMove { source, target });
    plan.request.partition_mapping = [(three.topic.clone(), moves.into())].into();
    carried(&three.archive, plan).await;
    let all = vec![(0, 30), (2, 30), (3, 30)];
    assert_eq!(three.found("latest-moved").await, [all, vec![(3, 30)]]);

    let by_headers = |of: Option<&str>| CarryOverTarget::HeaderBased {
        source_cluster: of.map(str::to_owned),
    };
    for (suffix, shift) in [("headers", 0), ("headers-moved", 1)] {
        let mut plan = three.plan(suffix, by_headers(Some("here")));
        plan.request.include_original_offset_header = Some(true);
        let moved = |partition: i32| (partition + shift) % 3;
        if shift > 0 {
            let moves = (0..3).map(|source| PartitionMove {
                source,
                target: moved(source),
            });
            plan.request.partition_mapping = [(three.topic.clone(), moves.collect())].into();
        }
        let report = carried(&three.archive, plan).await;
        assert_eq!((report.groups_done, report.partitions), (2, 4), "{suffix}");
        let [_, one] = three.found(suffix).await;
        assert_eq!(one, [(moved(0), 5)], "{suffix}");
        let names = three.names(suffix);
        assert_goes_on(Side::Target, &names, moved, &expected, suffix).await;
    }

    // Records of one source only.
    let mut plan = three.plan("elsewhere", by_headers(Some("elsewhere")));
    plan.request.include_original_offset_header = Some(true);
    let failure = done(&three.archive, Plan::Restore(plan)).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Spec, "{failure:?}");
    assert_eq!(three.found("elsewhere").await, [vec![], vec![]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_skipped_where_records_are_dealt_out_by_their_keys() {
    let three = Three::new().await;
    let target = three.names("dealt")[&three.topic].clone();
    create_in_target(&target, 5).await;
    let to = CarryOverTarget::HeaderBased {
        source_cluster: None,
    };
    let mut plan = three.plan("dealt", to);
    plan.request.include_original_offset_header = Some(true);
    plan.request.repartition = Repartition::ByKey;
    let report = carried(&three.archive, plan).await;
    assert_eq!(report.groups_done, 2);
    let number = |read: &Read, name: &str| -> i64 {
        let mut headers = read.headers.iter();
        let (_, value) = headers.find(|(header, _)| header == name).unwrap();
        let text = String::from_utf8(value.clone().unwrap()).unwrap();
        text.parse().unwrap()
    };
    let found = three.found("dealt").await;
    let (mut dealt, mut behind) = (0, 0);
    for partition in 0..5 {
        let log = log_of(Side::Target, &target, partition).await;
        dealt += log.len();
        for (which, found) in ["-all", "-one"].into_iter().zip(&found) {
            let committed = &three.groups[three.group(which)];
            let is_unread = |read: &Read| {
                let source = number(read, "x-original-partition");
                let offset = number(read, "x-original-offset");
                let mut committed = committed.iter();
                committed.any(|(_, p, at)| i64::from(*p) == source && *at <= offset)
            };
            let first = log.iter().find(|(_, read)| is_unread(read));
            let first = first.map_or(log.len() as i64, |(at, _)| *at);
            let mut found = found.iter().filter(|(p, _)| *p == partition);
            let (_, at) = found.next().unwrap();
            assert_eq!(*at, first, "{which} in partition {partition}");
            behind += usize::from(*at > 0);
        }
    }
    assert_eq!(dealt, 90);
    assert!(behind > 0, "some group has read something");
}

/// A consumer that is a member of a group until it is dropped.
struct Member {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Member {
    /// Joins in the target, and waits until the cluster tells that the group lives.
    async fn join(group: &str, topic: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, id, topic) = (stop.clone(), group.to_owned(), topic.to_owned());
        let thread = std::thread::spawn(move || {
            let consumer = consumer(&Side::Target.servers(), &id);
            consumer.subscribe(&[&topic]).unwrap();
            while !until.load(Ordering::Relaxed) {
                consumer.poll(Duration::from_millis(50));
            }
        });
        wait_for_state(group, "Stable").await;
        Self {
            stop,
            thread: Some(thread),
        }
    }

    async fn leave(self, group: &str) {
        drop(self);
        wait_for_state(group, "Empty").await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

async fn wait_for_state(group: &str, state: &str) {
    let client = Side::Target.client().await;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let listed = client.list_groups().await.unwrap();
        let mut listed = listed.iter().filter(|one| &*one.group == group);
        if listed.any(|one| one.state == state) {
            return;
        }
        assert!(Instant::now() < deadline, "{group} does not become {state}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_carried_over_is_refused_before_anything_is_written() {
    let three = Three::new().await;
    let refused = async |plan: RestorePlan, named: &[&str]| {
        let target = plan.request.topic_mapping[&three.topic].clone();
        let failure = done(&three.archive, Plan::Restore(plan)).await.unwrap_err();
        assert_eq!(failure.fault, Fault::Spec, "{failure:?}");
        for text in named {
            assert!(failure.message.contains(text), "{text}: {failure:?}");
        }
        assert!(!topics_of(Side::Target).await.contains(&target), "{target}");
        assert!(!three.has_restores().await, "{named:?}");
    };
    let from_backup = |suffix: &str, groups: Option<&str>| {
        let mut plan = three.plan(suffix, CarryOverTarget::FromBackup);
        plan.groups = Some(CarriedGroups {
            groups: groups.map(|group| vec![group.to_owned()]),
            to: CarryOverTarget::FromBackup,
            snapshot_id: Some(format!("s-{}", Uuid::new_v4().simple())),
        });
        plan
    };

    let busy = name("carry-over-busy");
    create_in_target(&busy, 1).await;
    let [all, one] = ["-all", "-one"].map(|which| three.group(which));
    let member = Member::join(all, &busy).await;
    let stable = format!("{all} (Stable)");
    refused(from_backup("live", None), &[&stable]).await;
    let dry = RestorePlan {
        dry_run: true,
        ..from_backup("live-dry", None)
    };
    refused(dry, &[&stable]).await;
    refused(
        from_backup("absent", Some("nobody")),
        &["no group nobody", "consumerGroups"],
    )
    .await;

    // One that is not meant may live, and one that has nothing to do with what is restored.
    let aside = Member::join(&three.aside, &busy).await;
    let plan = from_backup("other", Some(one));
    let report = carried(&three.archive, plan).await;
    assert_eq!(report.groups_done, 1);
    assert_eq!(three.found("other").await, [vec![], vec![(0, 5)]]);
    member.leave(all).await;
    let report = carried(&three.archive, from_backup("aside", None)).await;
    assert_eq!(report.groups_done, 2);
    drop(aside);

    let bare = Archive::new();
    let backup = BackupPlan {
        consumer_groups: Some(vec![]),
        ..backup(Side::Source, FIRST, [&three.topic], "*")
    };
    done(&bare, Plan::Backup(backup)).await.unwrap();
    let plan = from_backup("bare", None);
    let target = three.names("bare")[&three.topic].clone();
    let failure = done(&bare, Plan::Restore(plan)).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Spec, "{failure:?}");
    assert!(
        failure.message.contains("a backup with consumer groups"),
        "{failure:?}"
    );
    assert!(!topics_of(Side::Target).await.contains(&target), "{target}");
    let keys = bare.keys().await;
    assert!(
        !keys.iter().any(|key| key.contains("/restores/")),
        "{keys:?}"
    );

    let object: KafkaRestore = serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaRestore",
        "metadata": {"name": "back", "namespace": "shop", "uid": "u"},
        "spec": {
            "backupId": "latest", "topics": ["*"], "repartition": "ByKey",
            "targetCluster": {"bootstrapServers": ["kafka:9092"]},
            "storage": {"storageType": "pvc", "pvc": {"claimName": "backups"}},
            "offsetReset": {"enabled": true},
        }
    }))
    .unwrap();
    let error = plans::restore(&object, &plans::Referenced::default(), "back-1").unwrap_err();
    assert_eq!(error.field, "spec.offsetReset.strategy", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_of_a_restore_brings_back_what_groups_had() {
    let three = Three::new().await;
    let (other, [all, one]) = (
        name("carry-over-other"),
        ["-all", "-one"].map(|w| three.group(w)),
    );
    create_in_target(&other, 2).await;
    let had: Groups = [(all.clone(), vec![(other.clone(), 1, 0)])].into();
    commit_at(&Side::Target.servers(), &had).await;
    let before = all_committed(Side::Target, [all, one]).await;
    assert_eq!((before[all].len(), before[one].len()), (1, 0));

    let id = format!("s-{}", Uuid::new_v4().simple());
    let mut plan = three.plan("kept", CarryOverTarget::FromBackup);
    plan.groups.as_mut().unwrap().snapshot_id = Some(id.clone());
    let first = carried(&three.archive, plan.clone())
        .await
        .snapshot
        .unwrap();
    assert_eq!((&first.id, first.groups, first.partitions), (&id, 2, 1));
    let key = snapshot::key(&plan.run.namespace, &id);
    let changed = |key: &str| {
        let file = std::fs::metadata(three.archive.folder().join(key)).unwrap();
        file.modified().unwrap()
    };
    let decided = three.archive.layout.restore_plan(&plan.run.uid);
    assert!(changed(&key) <= changed(&decided), "the snapshot is first");
    let restored = all_committed(Side::Target, [all, one]).await;
    assert_eq!((restored[all].len(), restored[one].len()), (4, 1));

    // A dry run takes none.
    let mut dry = three.plan("dry", CarryOverTarget::FromBackup);
    let dry_id = format!("s-{}", Uuid::new_v4().simple());
    dry.groups.as_mut().unwrap().snapshot_id = Some(dry_id.clone());
    dry.dry_run = true;
    let completed = done(&three.archive, Plan::Restore(dry.clone())).await;
    let completed = completed.unwrap();
    assert_eq!(completed.offsets, None);
    assert_eq!(completed.dry_run.unwrap().groups, 2);
    let dry_key = snapshot::key(&dry.run.namespace, &dry_id);
    assert!(!three.archive.folder().join(dry_key).exists());

    // A later attempt takes the snapshot of the first for what groups had.
    let kept = three.archive.read(&key).await;
    let mut again = plan.clone();
    again.run.run = "orders-20260102-040506".into();
    let second = carried(&three.archive, again).await.snapshot.unwrap();
    assert_eq!(second, first);
    assert_eq!(three.archive.read(&key).await, kept);

    // Another restore may not have it, and writes nothing.
    let mut stranger = three.plan("stranger", CarryOverTarget::FromBackup);
    stranger.groups.as_mut().unwrap().snapshot_id = Some(id.clone());
    let target = three.names("stranger")[&three.topic].clone();
    let failure = done(&three.archive, Plan::Restore(stranger))
        .await
        .unwrap_err();
    assert!(
        failure
            .message
            .contains(&format!("a snapshot {id} already")),
        "{failure:?}"
    );
    assert!(!topics_of(Side::Target).await.contains(&target), "{target}");

    let rollback = OffsetsPlan {
        run: RunRef {
            kind: "KafkaOffsetRollback".into(),
            uid: Uuid::new_v4().to_string(),
            ..RunRef::example()
        },
        cluster: Side::Target.cluster(),
        task: OffsetsTask::Rollback {
            groups: None,
            snapshot: SnapshotRef {
                id,
                place: SnapshotPlace::Store { storage: storage() },
            },
            force: false,
        },
        dry_run: false,
    };
    let completed = done(&three.archive, Plan::Offsets(rollback)).await.unwrap();
    assert!(completed.offsets.unwrap().verification.unwrap().matched);
    assert_eq!(all_committed(Side::Target, [all, one]).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_came_after_the_snapshot_is_not_changed() {
    let three = Three::new().await;
    let mut plan = three.plan("grown", CarryOverTarget::FromBackup);
    let id = format!("s-{}", Uuid::new_v4().simple());
    plan.groups.as_mut().unwrap().snapshot_id = Some(id);
    // The first attempt comes as far as the snapshot.
    let target = three.names("grown")[&three.topic].clone();
    create_in_target(&target, 1).await;
    let failure = done(&three.archive, Plan::Restore(plan.clone())).await;
    let failure = failure.unwrap_err();
    assert!(failure.message.contains("3 partitions"), "{failure:?}");
    let late = three.group("-all").replace("-all", "-late");
    commit(&[(late.clone(), vec![(three.topic.clone(), 0, 7)])].into()).await;
    let mut second = three.backup.clone();
    second.run.run = format!("orders-{SECOND}");
    done(&three.archive, Plan::Backup(second)).await.unwrap();
    let failure = done(&three.archive, Plan::Restore(plan)).await.unwrap_err();
    assert_eq!(failure.fault, Fault::Spec, "{failure:?}");
    assert!(failure.message.contains(&late), "{failure:?}");
    assert!(failure.message.contains("snapshot"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_go_to_the_end_of_partitions_without_records() {
    let archive = Archive::new();
    let [some, gone, none] = ["some", "gone", "none"].map(|of| name(&format!("carry-over-{of}")));
    let prefix = name("carry-over-empty-group");
    create_topic(&some, 2, &[]).await;
    create_topic(&gone, 1, &[]).await;
    create_topic(&none, 1, &[]).await;
    fill(&some, 1, 5, 5, an_hour_ago()).await;
    fill(&gone, 1, 5, 5, an_hour_ago()).await;
    let at = |topic: &String, partition, offset| (topic.clone(), partition, offset);
    let groups: Groups = [
        (
            format!("{prefix}-a"),
            vec![at(&some, 0, 3), at(&some, 1, 0)],
        ),
        (format!("{prefix}-b"), vec![at(&some, 1, 0)]),
        (
            format!("{prefix}-c"),
            vec![at(&gone, 0, 5), at(&none, 0, 0)],
        ),
        (format!("{prefix}-d"), vec![at(&gone, 0, 2)]),
    ]
    .into();
    commit(&groups).await;
    delete_records(&gone, 0, 5).await;
    let topics = [&some, &gone, &none];
    let plan = backup(Side::Source, FIRST, topics, &format!("{prefix}-*"));
    done(&archive, Plan::Backup(plan)).await.unwrap();
    let mut logs = BTreeMap::new();
    for (topic, partition) in [(&some, 0), (&some, 1), (&gone, 0), (&none, 0)] {
        let log = log_of(Side::Source, topic, partition).await;
        logs.insert((topic.clone(), partition), log);
    }
    let expected = expected(&groups, &logs, TimeRange::default());
    let ways = [
        ("from-backup", CarryOverTarget::FromBackup, 0),
        (
            "by-headers",
            CarryOverTarget::HeaderBased {
                source_cluster: None,
            },
            0,
        ),
        (
            "moved",
            CarryOverTarget::HeaderBased {
                source_cluster: None,
            },
            1,
        ),
    ];
    for (suffix, to, shift) in ways {
        let names: Names = topics
            .map(|topic| (topic.clone(), format!("{topic}-{suffix}")))
            .into();
        let moved = |partition: i32| partition + shift;
        let mut plan = restore(Side::Target, &names, to);
        plan.request.include_original_offset_header = Some(true);
        if shift > 0 {
            let moves = |count| {
                let moves = (0..count).map(|source| PartitionMove {
                    source,
                    target: source + shift,
                });
                moves.collect::<Vec<_>>()
            };
            plan.request.partition_mapping = [
                (some.clone(), moves(2)),
                (gone.clone(), moves(1)),
                (none.clone(), moves(1)),
            ]
            .into();
        }
        let report = carried(&archive, plan).await;
        assert_eq!((report.groups_done, report.partitions), (4, 6), "{suffix}");
        assert_goes_on(Side::Target, &names, moved, &expected, suffix).await;
        assert_new_records_are_next(Side::Target, &names, moved, &expected, suffix).await;
    }
}

/// One partition with ten records, and a backup with many groups.
struct Many {
    archive: Archive,
    topic: String,
    groups: Groups,
}

impl Many {
    /// So many that they are not changed all at once.
    const GROUPS: usize = 64;

    async fn new() -> Self {
        let archive = Archive::new();
        let (topic, prefix) = (name("carry-over-many"), name("carry-over-many-group"));
        create_topic(&topic, 1, &[]).await;
        fill(&topic, 1, 10, 5, an_hour_ago()).await;
        let groups: Groups = (0..Self::GROUPS)
            .map(|n| {
                let position = (topic.clone(), 0, (n % 11) as i64);
                (format!("{prefix}-{n:02}"), vec![position])
            })
            .collect();
        let client = Side::Source.client().await;
        for (group, positions) in &groups {
            let (topic, partition, offset) = &positions[0];
            let committed = CommittedOffset {
                topic: Arc::from(topic.as_str()),
                partition: *partition,
                offset: *offset,
                leader_epoch: None,
                metadata: metadata(group, *partition, *offset),
            };
            let group = Arc::from(group.as_str());
            client.commit_offsets(&group, &[committed]).await.unwrap();
        }
        let plan = backup(Side::Source, FIRST, [&topic], &format!("{prefix}-*"));
        done(&archive, Plan::Backup(plan)).await.unwrap();
        Self {
            archive,
            topic,
            groups,
        }
    }

    fn plan(&self, suffix: &str) -> RestorePlan {
        let names = [(self.topic.clone(), format!("{}-{suffix}", self.topic))];
        restore(Side::Target, &names.into(), CarryOverTarget::FromBackup)
    }

    /// How many groups have what they are to have on the topic `suffix`; others have nothing there.
    async fn in_place(&self, suffix: &str) -> usize {
        let target = format!("{}-{suffix}", self.topic);
        let mut in_place = 0;
        for (group, found) in all_committed(Side::Target, self.groups.keys()).await {
            let mut found = found;
            found.retain(|one| *one.topic == *target);
            let (_, partition, offset) = self.groups[&group][0].clone();
            match &found[..] {
                [] => {}
                [one] => {
                    assert_eq!((one.partition, one.offset), (0, offset), "{group}");
                    assert_eq!(one.metadata, metadata(&group, partition, offset));
                    in_place += 1;
                }
                found => panic!("{group}: {found:?}"),
            }
        }
        in_place
    }

    /// Waits until the first attempt of a restore has left `key`.
    async fn wait_for(&self, key: &str) {
        let path = self.archive.folder().join(key);
        let deadline = Instant::now() + TIMEOUT;
        while !path.exists() {
            assert!(Instant::now() < deadline, "{key} does not come");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Repeats a restore to its end, and once more.
    async fn repeat(&self, plan: RestorePlan, suffix: &str, left: usize) {
        let mut plan = plan;
        for (number, changed) in (1..).zip([left, 0]) {
            plan.run.run = format!("orders-20260102-04050{number}");
            let report = carried(&self.archive, plan.clone()).await;
            assert_eq!(
                report.groups_done as usize,
                Self::GROUPS,
                "{suffix} {number}"
            );
            assert_eq!(report.partitions as usize, changed, "{suffix} {number}");
            assert_eq!(
                self.in_place(suffix).await,
                Self::GROUPS,
                "{suffix} {number}"
            );
        }
        // A group whose members have gone on since is left alone.
        let (group, positions) = self.groups.iter().nth(3).unwrap();
        let target = format!("{}-{suffix}", self.topic);
        let offset = positions[0].2 + 2;
        let moved: Groups = [(group.clone(), vec![(target.clone(), 0, offset)])].into();
        commit_at(&Side::Target.servers(), &moved).await;
        plan.run.run = "orders-20260102-040509".into();
        let report = carried(&self.archive, plan).await;
        assert_eq!(
            (report.groups_done as usize, report.partitions),
            (Self::GROUPS, 0)
        );
        let mut found = all_committed(Side::Target, [group]).await;
        let found = found.remove(group).unwrap();
        let found = found.iter().find(|one| *one.topic == *target).unwrap();
        assert_eq!(found.offset, offset, "{suffix}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_in_place_when_an_interrupted_restore_was_repeated() {
    let many = Many::new().await;

    // Killed when its records were in.
    let plan = many.plan("killed");
    let key = many.archive.layout.restore_done(&plan.run.uid);
    tokio::select! {
        biased;
        () = many.wait_for(&key) => {}
        ended = done(&many.archive, Plan::Restore(plan.clone())) => panic!("too late: {ended:?}"),
    }
    let left = Many::GROUPS - many.in_place("killed").await;
    assert!(left > 0);
    many.repeat(plan, "killed", left).await;

    // Told to stop among its groups.
    let plan = many.plan("stopped");
    let context = restore_support::context();
    let stopping = async {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let (done, planned) = context.progress.done_of_planned();
            if planned == Many::GROUPS as u64 && done > 0 {
                return context.cancel.cancel();
            }
            assert!(Instant::now() < deadline, "no group was changed");
            tokio::task::yield_now().await;
        }
    };
    let running = done_with(&many.archive, Plan::Restore(plan.clone()), &context);
    let ((), ended) = tokio::join!(stopping, running);
    let failure = ended.unwrap_err();
    assert_eq!(failure.fault, Fault::Interrupted, "{failure:?}");
    let report = failure.offsets.unwrap();
    let changed = many.in_place("stopped").await;
    assert!(0 < changed && changed < Many::GROUPS, "{changed}");
    assert_eq!(report.groups_done as usize, changed);
    assert_eq!(report.groups_failed as usize, Many::GROUPS - changed);
    many.repeat(plan, "stopped", Many::GROUPS - changed).await;

    // A group comes to life while records are written.
    let busy = name("carry-over-busy");
    create_in_target(&busy, 1).await;
    let mut plan = many.plan("joined");
    plan.rate_limit = Some(RateLimit {
        bytes_per_second: None,
        records_per_second: Some(1),
    });
    let live = many.groups.keys().nth(7).unwrap();
    let key = many.archive.layout.restore_plan(&plan.run.uid);
    let joining = async {
        many.wait_for(&key).await;
        Member::join(live, &busy).await
    };
    let running = done(&many.archive, Plan::Restore(plan.clone()));
    let (member, ended) = tokio::join!(joining, running);
    let failure = ended.unwrap_err();
    assert!(failure.message.contains(live.as_str()), "{failure:?}");
    let report = failure.offsets.unwrap();
    let failed = report
        .groups
        .iter()
        .filter(|one| one.status == GroupStatus::Failed);
    let failed: Vec<&String> = failed.map(|one| &one.group).collect();
    assert_eq!(failed, [live]);
    assert_eq!(many.in_place("joined").await, Many::GROUPS - 1);
    member.leave(live).await;
    many.repeat(plan, "joined", 1).await;
}
