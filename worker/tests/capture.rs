//! What a backup captures beside the records, and what it tells of the source. Needs `KAFKA_BACKUP_LAB_SOURCE` (bootstrap
//! servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use backup_support::*;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffset, GroupOffsets, read_groups};
use kafka_backup_shared::archive::manifest::{ArchiveInfo, Manifest, from_json, to_json};
use kafka_backup_shared::plan::BackupPlan;
use kafka_backup_shared::report;
use kafka_backup_shared::report::error_chain;
use kafka_backup_worker::inspect;
use kafka_backup_worker::kafka::{Client, ClientConfig, IsolationLevel, OffsetSpec};
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Message, Offset, TopicPartitionList};

const FIRST: &str = "20260101-000000";
const SECOND: &str = "20260102-000000";
const THIRD: &str = "20260103-000000";

fn consumer(group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = rdkafka::ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap())
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Commits as a group without members does.
async fn commit(group: &str, topic: &str, offsets: &[(i32, i64, &str)]) {
    let mut list = TopicPartitionList::new();
    for (partition, offset, metadata) in offsets {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
            .unwrap();
        let mut added = list.find_partition(topic, *partition).unwrap();
        added.set_metadata(metadata);
    }
    let group = group.to_owned();
    blocking(move || {
        let consumer = consumer(&group, &[]);
        consumer.commit(&list, CommitMode::Sync).unwrap();
    })
    .await;
}

/// Reads `count` records as a member of a KIP-848 group, and commits where it stands.
async fn read_as_member(group: &str, topic: &str, count: usize) {
    let (group, topic) = (group.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = consumer(&group, &[("group.protocol", "consumer")]);
        consumer.subscribe(&[&topic]).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        let mut read = 0;
        while read < count {
            assert!(Instant::now() < deadline, "the member got no records");
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                assert_eq!(message.unwrap().topic(), topic);
                read += 1;
            }
        }
        consumer.commit_consumer_state(CommitMode::Sync).unwrap();
    })
    .await;
}

/// What the brokers tell another client that a group has committed.
async fn committed(group: &str, topic: &str, partitions: i32) -> Vec<(i32, i64, String)> {
    let (group, topic) = (group.to_owned(), topic.to_owned());
    blocking(move || {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&topic, 0, partitions - 1);
        let found = consumer(&group, &[])
            .committed_offsets(asked, TIMEOUT)
            .unwrap();
        let elements = found.elements();
        let known = elements.iter().filter_map(|element| {
            let offset = element.offset().to_raw().filter(|offset| *offset >= 0)?;
            Some((element.partition(), offset, element.metadata().to_owned()))
        });
        known.collect()
    })
    .await
}

impl Archive {
    /// The groups of a run.
    async fn groups(&self, manifest: &Manifest) -> BTreeMap<String, GroupOffsets> {
        let part = manifest.groups.as_ref().expect("no groups in the manifest");
        let key = self.layout.groups(&manifest.run.run, part.crc32c);
        let bytes = self.store.get(&key).await.unwrap().expect("no groups");
        let groups: Result<Vec<_>, _> = read_groups(&key, &bytes).unwrap().collect();
        let groups = groups.unwrap();
        let offsets = groups.iter().map(GroupOffsets::offsets).sum();
        assert_eq!((part.groups, part.offsets), (groups.len() as u64, offsets));
        groups
            .into_iter()
            .map(|group| (group.group.clone(), group))
            .collect()
    }
}

fn plain(offsets: &[GroupOffset]) -> Vec<(i32, i64, String)> {
    let offsets = offsets.iter();
    offsets
        .map(|offset| (offset.partition, offset.offset, offset.metadata.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_saved_as_the_brokers_tell_them_to_others() {
    let archive = Archive::new();
    let (topic, other) = (name("groups"), name("groups-other"));
    for topic in [&topic, &other] {
        create_topic(topic, 2, &[]).await;
        fill(topic, 2, 20, 10).await;
    }
    let [classic, member, elsewhere] =
        ["classic", "member", "elsewhere"].map(|kind| name(&format!("group {kind}/")));
    commit(&classic, &topic, &[(0, 3, "half way"), (1, 20, "")]).await;
    commit(&classic, &other, &[(0, 1, "")]).await;
    commit(&elsewhere, &other, &[(1, 5, "")]).await;
    read_as_member(&member, &topic, 40).await;

    let completed = run(&plan(FIRST, &[&topic]), &archive.store).await.unwrap();
    assert_eq!(completed.warnings, [""; 0]);
    let manifest = archive.manifest(FIRST).await;
    let groups = archive.groups(&manifest).await;
    // Every group with offsets on the topic, and only those offsets.
    assert_eq!(groups.keys().collect::<Vec<_>>(), [&classic, &member]);
    for (group, kind) in [
        (&classic, GroupKind::Classic),
        (&member, GroupKind::Consumer),
    ] {
        let saved = &groups[group];
        assert_eq!(saved.kind, kind);
        assert_eq!(saved.topics.keys().collect::<Vec<_>>(), [&topic]);
        let told = committed(group, &topic, 2).await;
        assert_eq!(told.len(), 2);
        assert_eq!(plain(&saved.topics[&topic]), told, "{group}");
    }
    assert_eq!(groups[&classic].topics[&topic][0].metadata, "half way");
    assert_eq!(groups[&member].topics[&topic][0].leader_epoch, Some(0));

    let shown = inspect::describe(&archive.store, &manifest.run.run, None)
        .await
        .unwrap();
    let shown = inspect::show::description(&shown);
    assert!(
        shown.contains("2 consumer groups") && shown.contains(&classic),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_groups_that_are_asked_for_are_saved() {
    let archive = Archive::new();
    let topic = name("asked");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 5, 10).await;
    let [one, two] = ["one", "two"].map(|kind| name(&format!("asked-{kind}")));
    for group in [&one, &two] {
        commit(group, &topic, &[(0, 2, "")]).await;
    }
    let asking = |run, groups: &[&str]| BackupPlan {
        consumer_groups: Some(groups.iter().map(|group| group.to_string()).collect()),
        ..plan(run, &[&topic])
    };
    let glob = format!("*{}", &two[two.len() - 20..]);
    let completed = run(
        &asking(FIRST, &[&glob, "asked-no-such-group"]),
        &archive.store,
    )
    .await
    .unwrap();
    let groups = archive.groups(&archive.manifest(FIRST).await).await;
    assert_eq!(groups.keys().collect::<Vec<_>>(), [&two]);
    assert_eq!(completed.warnings.len(), 1);
    assert!(
        completed.warnings[0].contains("asked-no-such-group"),
        "{:?}",
        completed.warnings
    );

    run(&asking(SECOND, &[]), &archive.store).await.unwrap();
    assert_eq!(archive.manifest(SECOND).await.groups, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_in_an_open_transaction_is_waited_for() {
    let archive = Archive::new();
    let topic = name("pending");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 50, 10).await;
    let group = name("pending-group");
    commit(&group, &topic, &[(0, 10, "")]).await;
    let id = name("pending-producer");
    let transactional = blocking({
        let (topic, group) = (topic.clone(), group.clone());
        move || {
            let producer = producer(&[("transactional.id", &id)]);
            producer.init_transactions(TIMEOUT).unwrap();
            producer.begin_transaction().unwrap();
            let mut offsets = TopicPartitionList::new();
            offsets
                .add_partition_offset(&topic, 0, Offset::Offset(42))
                .unwrap();
            let group = consumer(&group, &[]).group_metadata().unwrap();
            producer
                .send_offsets_to_transaction(&offsets, &group, TIMEOUT)
                .unwrap();
            producer
        }
    })
    .await;
    let plan = plan(FIRST, &[&topic]);
    let store = archive.store.clone();
    let mut running = tokio::spawn(async move { run(&plan, &store).await });
    let early = tokio::time::timeout(Duration::from_secs(1), &mut running).await;
    assert!(
        early.is_err(),
        "the offset was taken though it is about to change"
    );
    blocking(move || transactional.commit_transaction(TIMEOUT).unwrap()).await;
    running.await.unwrap().unwrap();
    let groups = archive.groups(&archive.manifest(FIRST).await).await;
    assert_eq!(groups[&group].topics[&topic][0].offset, 42);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_transaction_is_named_until_the_capture_moves_again() {
    let archive = Archive::new();
    let topic = name("hung");
    create_topic(&topic, 2, &[]).await;
    fill(&topic, 2, 10, 10).await;
    let id = name("hung-producer");
    let hung = blocking({
        let topic = topic.clone();
        move || {
            let producer = producer(&[("transactional.id", &id)]);
            producer.init_transactions(TIMEOUT).unwrap();
            producer.begin_transaction().unwrap();
            send(&producer, &topic, 1, "key", b"never ends");
            producer.flush(TIMEOUT).unwrap();
            producer
        }
    })
    .await;
    let topics = [&*topic];
    let first = run(&plan(FIRST, &topics), &archive.store).await.unwrap();
    // Held back, as any transaction that is under way does; not stuck yet.
    assert_eq!(
        (first.held_back.offsets, first.held_back.stuck_partitions),
        (1, 0)
    );

    fill(&topic, 2, 5, 10).await;
    let second = run(&plan(SECOND, &topics), &archive.store).await.unwrap();
    assert_eq!((second.records, second.held_back.offsets), (5, 6));
    let stuck = &second.held_back.stuck;
    assert_eq!((stuck.len(), second.held_back.stuck_partitions), (1, 1));
    assert_eq!((&stuck[0].topic, stuck[0].partition), (&topic, 1));
    assert_eq!(
        (stuck[0].last_stable_offset, stuck[0].high_watermark),
        (10, 16)
    );
    assert_eq!(archive.manifest(SECOND).await.held_back, second.held_back);
    assert!(
        second
            .warnings
            .iter()
            .any(|warning| warning.contains(&format!("topic {topic} partition 1"))),
        "{:?}",
        second.warnings
    );

    blocking(move || hung.abort_transaction(TIMEOUT).unwrap()).await;
    wait_stable(&topic, 1, 17).await;
    let third = run(&plan(THIRD, &topics), &archive.store).await.unwrap();
    assert_eq!((third.records, third.held_back), (5, Default::default()));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_taken_only_under_the_name_of_the_archive() {
    let archive = Archive::new();
    let topic = name("named");
    create_topic(&topic, 1, &[]).await;
    fill(&topic, 1, 5, 10).await;
    let made = ArchiveInfo {
        format_version: FORMAT_VERSION,
        cluster_id: "moved-away".into(),
        source_cluster_id: Some("shop".into()),
    };
    let key = archive.layout.archive();
    archive
        .store
        .create(&key, to_json(&made).into())
        .await
        .unwrap();
    let named = |run, name: Option<&str>| BackupPlan {
        source_cluster_id: name.map(str::to_owned),
        ..plan(run, &[&topic])
    };
    for other in [None, Some("office")] {
        let error = run(&named(FIRST, other), &archive.store).await.unwrap_err();
        assert_eq!(error.fault(), report::Fault::Spec);
        let message = error_chain(&error);
        assert!(
            message.contains("moved-away (shop)") && message.contains("sourceClusterId: shop"),
            "{message}"
        );
    }
    run(&named(FIRST, Some("shop")), &archive.store)
        .await
        .unwrap();
    let manifest = archive.manifest(FIRST).await;
    assert_eq!(manifest.source_cluster_id.as_deref(), Some("shop"));
    assert_ne!(manifest.cluster_id, "moved-away");

    // An archive without a name is its cluster's alone, whatever name is given later.
    let unnamed = Archive::new();
    let made = ArchiveInfo {
        source_cluster_id: None,
        ..made
    };
    unnamed
        .store
        .create(&key, to_json(&made).into())
        .await
        .unwrap();
    let error = run(&named(FIRST, Some("shop")), &unnamed.store)
        .await
        .unwrap_err();
    assert_eq!(error.fault(), report::Fault::Spec);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_the_source_is_recorded_when_the_archive_is_made() {
    let archive = Archive::new();
    let topic = name("naming");
    create_topic(&topic, 1, &[]).await;
    let named = BackupPlan {
        source_cluster_id: Some("shop".into()),
        ..plan(FIRST, &[&topic])
    };
    run(&named, &archive.store).await.unwrap();
    let key = archive.layout.archive();
    let made: ArchiveInfo =
        from_json(&key, &archive.store.get(&key).await.unwrap().unwrap()).unwrap();
    assert_eq!(made.source_cluster_id.as_deref(), Some("shop"));
    // The same cluster is itself without its name, too.
    run(&plan(SECOND, &[&topic]), &archive.store).await.unwrap();
}

async fn client() -> Client {
    let config = ClientConfig::new(&cluster(&bootstrap()), Path::new(""), "capture-test");
    Client::connect(config).await.unwrap()
}

/// Waits for the last stable offset: markers are written after a transaction has ended for its producer.
async fn wait_stable(topic: &str, partition: usize, offset: i64) {
    let client = client().await;
    let topics = client.topics_with_leaders(&[topic.into()]).await.unwrap();
    let led = topics[0].led_partitions().unwrap()[partition].clone();
    let stable = OffsetSpec::Latest(IsolationLevel::ReadCommitted);
    let deadline = Instant::now() + TIMEOUT;
    while client
        .list_offsets(std::slice::from_ref(&led), stable)
        .await[0]
        .as_ref()
        .unwrap()
        .offset
        < offset
    {
        assert!(Instant::now() < deadline, "the transaction does not end");
    }
}

async fn add_partitions(topic: &str, to: usize) {
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .create()
        .unwrap();
    let more = [NewPartitions::new(topic, to)];
    for added in admin
        .create_partitions(&more, &AdminOptions::new())
        .await
        .unwrap()
    {
        added.unwrap();
    }
    // A producer that asks too early believes that there are fewer.
    let client = client().await;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let topics = client.topics_with_leaders(&[topic.into()]).await.unwrap();
        if topics[0].partitions.len() == to {
            return;
        }
        assert!(Instant::now() < deadline, "no new partitions");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_and_goes_between_two_runs_is_taken_and_told() {
    let archive = Archive::new();
    let prefix = name("between");
    let [grows, goes, comes, empty] =
        ["grows", "goes", "comes", "empty"].map(|end| format!("{prefix}-{end}"));
    for topic in [&grows, &goes, &empty] {
        create_topic(topic, 2, &[]).await;
    }
    // One partition of each stays empty.
    for topic in [&grows, &goes] {
        fill(topic, 1, 10, 10).await;
    }
    let glob = format!("{prefix}-*");
    let first = run(&plan(FIRST, &[&glob]), &archive.store).await.unwrap();
    assert_eq!((first.records, &first.warnings[..]), (20, &[][..]));
    let manifest = archive.manifest(FIRST).await;
    assert_eq!(
        manifest.topics.keys().collect::<Vec<_>>(),
        [&empty, &goes, &grows]
    );
    for topic in [&empty, &grows] {
        let part = archive.part(&manifest, topic).await;
        assert_eq!(part.partitions.len(), 2);
        let idle = &part.partitions[1];
        assert_eq!((idle.end, idle.segments.len()), (0, 0));
    }

    delete_topic(&goes).await;
    create_topic(&comes, 1, &[]).await;
    fill(&comes, 1, 7, 10).await;
    add_partitions(&grows, 3).await;
    fill(&grows, 3, 4, 10).await;
    let second = run(&plan(SECOND, &[&glob]), &archive.store).await.unwrap();
    assert_eq!(second.records, 7 + 12);
    assert_eq!(second.warnings.len(), 1);
    assert!(
        second.warnings[0].contains(&goes) && second.warnings[0].contains("is not in this one"),
        "{:?}",
        second.warnings
    );
    let manifest = archive.manifest(SECOND).await;
    assert_eq!(
        manifest.topics.keys().collect::<Vec<_>>(),
        [&comes, &empty, &grows]
    );
    assert_eq!(manifest.topics[&empty].part, format!("orders-{FIRST}"));
    let mut expected = vec![(&comes, 0, 7), (&empty, 0, 0), (&empty, 1, 0)];
    expected.extend([(&grows, 0, 14), (&grows, 1, 4), (&grows, 2, 4)]);
    for (topic, partition, count) in expected {
        let stored = archive.records(&manifest, topic, partition).await;
        assert_eq!(stored.len(), count, "{topic}-{partition}");
        assert_eq!(
            stored,
            consume(topic, partition, "read_committed", count as i64).await
        );
    }

    // Back under its name it is another topic, copied from its start.
    create_topic(&goes, 1, &[]).await;
    fill(&goes, 1, 3, 10).await;
    let third = run(&plan(THIRD, &[&glob]), &archive.store).await.unwrap();
    assert_eq!((third.records, &third.warnings[..]), (3, &[][..]));
}
