//! What a restore does with its target and with an archive that is not whole. Needs `KAFKA_BACKUP_LAB_TARGET`, a cluster.
#![allow(clippy::unwrap_used, reason = "a test")]

mod restore_support;

use std::sync::Arc;
use std::time::Instant;

use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::plan::PartitionMove;
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::*;
use kafka_backup_worker::kafka::*;
use restore_support::*;

fn dense(batches: i64, per_batch: i64, size: usize) -> Partition {
    let batch = |n| Source::dense(n * per_batch, per_batch, Codec::None, size);
    Partition {
        log_start: 0,
        segments: (0..batches).map(|n| vec![batch(n)]).collect(),
    }
}

async fn create(client: &Client, name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let name: Arc<str> = Arc::from(name);
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let new = NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: 1,
        configs: configs.iter().map(own).collect(),
    };
    client
        .create_topics(&[new])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    client.topics_with_leaders(&[name]).await.unwrap();
}

async fn config(client: &Client, topic: &str, name: &str) -> (Option<String>, ConfigSource) {
    let configs = client.topic_configs(&[Arc::from(topic)]).await.unwrap();
    let configs = configs.into_iter().next().unwrap().unwrap();
    let entry = configs.into_iter().find(|c| c.name == name).unwrap();
    (entry.value, entry.source)
}

async fn exists(client: &Client, topic: &str) -> bool {
    metadata(client, topic).await.error.is_none()
}

fn keys(archive: &Archive, topic: &str) -> Vec<std::path::PathBuf> {
    let folder = archive.folder.path().join("shop/orders/topics").join(topic);
    let mut found = Vec::new();
    let mut folders = vec![folder];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

fn flip(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn what_the_source_had_deleted_comes_back_on_request() {
    let mut archive = Archive::new();
    let partition = Partition {
        log_start: 7,
        ..dense(4, 5, 1)
    };
    archive.topic("t", &[], &[partition]).await;
    archive.commit().await;
    let plain = archive.plan();
    let restored = archive.restore(&plain, &context()).await.unwrap();
    assert_eq!(restored.records, 13);
    archive.assert_restored(&plain).await;
    let mut whole = archive.plan();
    whole.request.from = RestoreFrom::ArchiveStart;
    let restored = archive.restore(&whole, &context()).await.unwrap();
    assert_eq!(restored.records, 20);
    archive.seen = archive.whole.clone();
    archive.assert_restored(&whole).await;
}

#[tokio::test]
async fn a_damaged_topic_is_not_begun_and_the_others_are_restored() {
    let mut archive = Archive::new();
    for topic in ["bad", "good", "lost"] {
        archive
            .topic(topic, &[], &[dense(4, 5, 1), dense(2, 5, 1)])
            .await;
    }
    archive.commit().await;
    let bad = keys(&archive, "bad")[2].clone();
    flip(&bad);
    let lost = keys(&archive, "lost")[1].clone();
    let kept = std::fs::read(&lost).unwrap();
    std::fs::remove_file(&lost).unwrap();
    let plan = archive.plan();
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    let text = error_chain(&error);
    assert_eq!(error.fault(), Fault::Corrupt, "{text}");
    for path in [&bad, &lost] {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(name), "{name}: {text}");
    }
    let client = client().await;
    let target = |topic: &str| plan.request.topic_mapping[topic].clone();
    assert_eq!(read(&client, &target("bad"), 0).await.len(), 0);
    assert_eq!(read(&client, &target("bad"), 1).await.len(), 0);
    assert!(!exists(&client, &target("lost")).await);
    let seen = archive.seen.clone();
    archive.seen.retain(|(topic, _), _| topic == "good");
    archive.assert_restored(&plan).await;

    // What was whole again is restored by the next attempt; what was never decided about needs another restore.
    flip(&bad);
    std::fs::write(&lost, kept).unwrap();
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert!(error_chain(&error).contains("topic lost"), "{error}");
    archive.seen = seen.clone();
    archive.seen.retain(|(topic, _), _| topic != "lost");
    archive.assert_restored(&plan).await;
    archive.seen = seen;
    let fresh = archive.plan();
    archive.restore(&fresh, &context()).await.unwrap();
    archive.assert_restored(&fresh).await;
}

#[tokio::test]
async fn topics_are_created_only_where_and_as_it_is_permitted() {
    let mut archive = Archive::new();
    archive.topic("t", &[], &[dense(1, 5, 1)]).await;
    archive.commit().await;
    let client = client().await;
    let mut plan = archive.plan();
    let target = plan.request.topic_mapping["t"].clone();
    plan.request.create_topics = false;
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    assert!(error.to_string().contains("spec.createTopics"), "{error}");
    plan.request.create_topics = true;
    plan.request.default_replication_factor = Some(2);
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let text = error.to_string();
    assert!(
        text.contains("spec.defaultReplicationFactor: expected at most 1"),
        "{text}"
    );
    assert!(!exists(&client, &target).await);
    plan.request.default_replication_factor = Some(1);
    archive.restore(&plan, &context()).await.unwrap();
    archive.assert_restored(&plan).await;
}

#[tokio::test]
async fn created_topics_have_the_targets_configs_where_these_are_asked_for() {
    let mut archive = Archive::new();
    let own = [("cleanup.policy", "delete"), ("segment.ms", "77777")];
    archive.topic("t", &own, &[dense(1, 5, 1)]).await;
    archive.commit().await;
    let mut plan = archive.plan();
    plan.request.topic_config = TopicConfig::Target;
    let restored = archive.restore(&plan, &context()).await.unwrap();
    let target = &plan.request.topic_mapping["t"];
    let client = client().await;
    assert_ne!(
        config(&client, target, "segment.ms").await.1,
        ConfigSource::Topic
    );
    assert_ne!(
        config(&client, target, "max.message.bytes").await.1,
        ConfigSource::Topic
    );
    // The records are years old: the default of a week would delete them.
    let held = config(&client, target, "retention.ms").await;
    assert_eq!(held, (Some("-1".into()), ConfigSource::Topic));
    let message = restored.retention_held.message().unwrap();
    assert!(
        message.contains("--delete-config retention.ms"),
        "{message}"
    );
    archive.assert_restored(&plan).await;
}

#[tokio::test]
async fn a_compacted_topic_is_purged_and_keeps_its_policy() {
    let mut archive = Archive::new();
    archive
        .topic("t", &[("cleanup.policy", "compact")], &[dense(3, 5, 1)])
        .await;
    archive.commit().await;
    let first = archive.plan();
    archive.restore(&first, &context()).await.unwrap();
    let client = client().await;
    let target = &first.request.topic_mapping["t"];
    let compact = (Some("compact".to_owned()), ConfigSource::Topic);
    assert_eq!(config(&client, target, "cleanup.policy").await, compact);
    let mut second = archive.plan();
    second.request.topic_mapping = first.request.topic_mapping.clone();
    let refused = archive.restore(&second, &context()).await.unwrap_err();
    assert!(refused.to_string().contains("offsets 0 to 15"), "{refused}");
    second.request.if_topic_not_empty = IfTopicNotEmpty::Purge;
    archive.restore(&second, &context()).await.unwrap();
    assert_eq!(config(&client, target, "cleanup.policy").await, compact);
    let bodies = |records: Vec<kafka_backup_shared::archive::record::Record>| {
        records.into_iter().map(|r| r.body).collect::<Vec<_>>()
    };
    let expected = bodies(archive.seen[&("t".to_owned(), 0)].clone());
    let found = read(&client, target, 0).await;
    assert_eq!(found[0].offset, 15, "what was there is gone");
    assert_eq!(bodies(found), expected);
}

#[tokio::test]
async fn batches_that_the_target_would_not_take_are_divided() {
    let mut archive = Archive::new();
    archive.topic("t", &[], &[dense(3, 50, 30)]).await;
    archive.commit().await;
    let client = client().await;
    let plan = archive.plan();
    let target = &plan.request.topic_mapping["t"];
    let small = [("retention.ms", "-1"), ("max.message.bytes", "1500")];
    create(&client, target, 1, &small).await;
    archive.restore(&plan, &context()).await.unwrap();
    archive.assert_restored(&plan).await;

    let plan = archive.plan();
    let target = &plan.request.topic_mapping["t"];
    let tiny = [("retention.ms", "-1"), ("max.message.bytes", "120")];
    create(&client, target, 1, &tiny).await;
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let text = error_chain(&error);
    assert!(text.contains("at most 120 (max.message.bytes)"), "{text}");
    assert_eq!(read(&client, target, 0).await.len(), 0);
}

#[tokio::test]
async fn a_dry_run_leaves_nothing() {
    let mut archive = Archive::new();
    archive.topic("t", &[], &[dense(3, 5, 1)]).await;
    archive.commit().await;
    let mut plan = archive.plan();
    plan.dry_run = true;
    let told = archive.restore(&plan, &context()).await.unwrap();
    let dry_run = told.dry_run.unwrap();
    assert_eq!((dry_run.topics, dry_run.records, told.records), (1, 15, 0));
    assert_eq!(told.topics[0].records, 15);
    assert!(!exists(&client().await, &plan.request.topic_mapping["t"]).await);
    assert!(!archive.folder.path().join("shop/orders/restores").exists());
    plan.dry_run = false;
    archive.restore(&plan, &context()).await.unwrap();
    archive.assert_restored(&plan).await;
}

#[tokio::test]
async fn a_mapping_that_fits_nothing_is_refused_by_name() {
    let mut archive = Archive::new();
    archive
        .topic("t", &[], &[dense(1, 5, 1), dense(1, 5, 1)])
        .await;
    archive.commit().await;
    for (topic, source, field) in [
        ("t", 2, "spec.partitionMapping.t.2"),
        ("other", 0, "spec.partitionMapping.other"),
    ] {
        let mut plan = archive.plan();
        let moved = PartitionMove { source, target: 3 };
        plan.request
            .partition_mapping
            .insert(topic.into(), vec![moved]);
        let error = archive.restore(&plan, &context()).await.unwrap_err();
        assert!(error.to_string().starts_with(field), "{error}");
        assert!(!exists(&client().await, &plan.request.topic_mapping["t"]).await);
    }
}

#[tokio::test]
async fn a_rate_limit_holds_back() {
    let mut archive = Archive::new();
    archive
        .topic("t", &[], &[dense(40, 50, 1), dense(40, 50, 1)])
        .await;
    archive.commit().await;
    let mut plan = archive.plan();
    plan.rate_limit = Some(RateLimit {
        bytes_per_second: None,
        records_per_second: Some(2000),
    });
    let start = Instant::now();
    archive.restore(&plan, &context()).await.unwrap();
    let took = start.elapsed();
    // 4,000 records, of which those of half a second may go at once.
    assert!(took.as_millis() >= 1400, "{took:?}");
    archive.assert_restored(&plan).await;
}
