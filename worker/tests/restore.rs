//! Restores of an archive made by hand into a real cluster. Needs `KAFKA_BACKUP_LAB_TARGET` (bootstrap addresses), which
//! `cargo lab test` sets.

mod restore_support;

use std::sync::Arc;

use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_worker::kafka::NewTopic;
use restore_support::*;

fn dense(
    log_start: i64,
    segments: i64,
    batches: i64,
    count: i64,
    codec: Codec,
    size: usize,
) -> Partition {
    let mut base = log_start;
    let mut next = || {
        let source = Source::dense(base, count, codec, size);
        base += count;
        source
    };
    let segments = (0..segments)
        .map(|_| (0..batches).map(|_| next()).collect())
        .collect();
    Partition {
        log_start,
        segments,
    }
}

fn cleaned() -> Partition {
    let batch = |base: i64, end: i64, offsets: &[i64], codec| Source {
        base,
        end,
        offsets: offsets.to_vec(),
        codec,
        append_time: false,
        size: 3,
    };
    Partition {
        log_start: 0,
        segments: vec![
            vec![
                batch(0, 10, &[3, 4, 9], Codec::None),
                batch(10, 12, &[], Codec::None),
                batch(15, 20, &[15, 16, 17, 18, 19], Codec::None),
            ],
            vec![],
            vec![
                batch(20, 40, &[39], Codec::Zstd),
                batch(40, 44, &[40, 41, 42, 43], Codec::Lz4),
            ],
        ],
    }
}

#[tokio::test]
async fn every_kind_of_batch_comes_back_record_by_record() {
    let mut archive = Archive::new();
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];
    let partitions: Vec<Partition> = codecs
        .iter()
        .map(|codec| dense(100, 3, 7, 11, *codec, 20))
        .collect();
    archive
        .topic(
            "codecs",
            &[
                ("retention.ms", "604800000"),
                ("max.message.bytes", "2000000"),
            ],
            &partitions,
        )
        .await;
    archive
        .topic(
            "cleaned",
            &[("cleanup.policy", "compact"), ("no.such.config", "1")],
            &[cleaned()],
        )
        .await;
    archive
        .topic(
            "nothing",
            &[],
            &[Partition {
                log_start: 7,
                segments: vec![],
            }],
        )
        .await;
    let mut stamped = dense(0, 2, 3, 5, Codec::Lz4, 4);
    stamped
        .segments
        .iter_mut()
        .flatten()
        .for_each(|source| source.append_time = true);
    archive
        .topic(
            "stamped",
            &[("message.timestamp.type", "LogAppendTime")],
            &[stamped],
        )
        .await;
    // The source's log begins in the middle of a batch.
    let mut cut = dense(0, 3, 4, 10, Codec::Zstd, 4);
    cut.log_start = 25;
    archive.topic("cut", &[], &[cut]).await;
    archive.commit().await;
    let plan = archive.plan();
    let context = context();
    let completed = archive.restore(&plan, &context).await.unwrap();
    archive.assert_restored(&plan).await;

    let records: usize = archive.seen.values().map(Vec::len).sum();
    assert_eq!(completed.records, records as u64);
    assert_eq!(context.progress.records(), records as u64);
    assert_eq!(
        context.progress.done_of_planned(),
        (records as u64, records as u64)
    );
    assert_eq!(
        completed.topics.iter().map(|t| t.records).sum::<u64>(),
        records as u64
    );
    let warned = |text: &str| {
        completed
            .warnings
            .iter()
            .any(|warning| warning.contains(text))
    };
    assert!(
        warned("retention.ms=604800000") && warned("kafka-configs.sh"),
        "{:?}",
        completed.warnings
    );
    assert!(
        warned("no.such.config") && warned("append times"),
        "{:?}",
        completed.warnings
    );

    let client = client().await;
    let config = async |topic: &str, name: &str| {
        let topics = [Arc::from(plan.request.topic_mapping[topic].as_str())];
        let configs = client
            .topic_configs(&topics)
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        configs
            .into_iter()
            .find(|c| c.name == name)
            .unwrap()
            .value
            .unwrap()
    };
    assert_eq!(config("codecs", "retention.ms").await, "-1", "held");
    assert_eq!(config("codecs", "max.message.bytes").await, "2000000");
    assert_eq!(config("cleaned", "cleanup.policy").await, "compact");
    assert_eq!(config("cleaned", "max.message.bytes").await, "1048588");
    assert_eq!(
        config("stamped", "message.timestamp.type").await,
        "LogAppendTime"
    );

    // Done is done: the same again, and nothing is written.
    let again = archive
        .restore(&plan, &restore_support::context())
        .await
        .unwrap();
    assert_eq!(
        (again.records, again.bytes),
        (completed.records, completed.bytes)
    );
    archive.assert_restored(&plan).await;
}

#[tokio::test]
async fn small_plain_batches_are_joined() {
    let mut archive = Archive::new();
    archive
        .topic("small", &[], &[dense(0, 1, 500, 2, Codec::None, 10)])
        .await;
    archive.commit().await;
    let plan = archive.plan();
    archive.restore(&plan, &context()).await.unwrap();
    archive.assert_restored(&plan).await;
    assert_eq!(batches(&plan.request.topic_mapping["small"]).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_at_any_point_and_resumed_each_record_is_there_once() {
    let mut archive = Archive::new();
    let partitions: Vec<Partition> = [Codec::None, Codec::Lz4, Codec::Zstd]
        .iter()
        .map(|codec| dense(5, 12, 40, 6, *codec, 300))
        .collect();
    archive.topic("resumed", &[], &partitions).await;
    archive.commit().await;
    let total: usize = archive.seen.values().map(Vec::len).sum();
    let plan = archive.plan();
    let mut interruptions = 0;
    let mut reached = 0;
    loop {
        let context = context();
        let attempt = archive.restore(&plan, &context);
        let progress = context.progress.clone();
        let cancel = context.cancel.clone();
        // A point that differs from attempt to attempt and is always ahead.
        let stop_at = reached + 1 + (interruptions * 131) % 700;
        let interrupt = async move {
            until("progress", || {
                progress.records() >= stop_at || cancel.is_cancelled()
            })
            .await;
            cancel.cancel();
            std::future::pending::<()>().await;
        };
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = interrupt => unreachable!("it waits for ever"),
        };
        match outcome {
            Ok(completed) => {
                assert_eq!(completed.records, total as u64);
                break;
            }
            Err(error) => assert_eq!(error.fault(), Fault::Interrupted, "{}", error_chain(&error)),
        }
        interruptions += 1;
        reached = context.progress.records().min(total as u64 - 1);
        assert!(interruptions < 200, "it never ends");
    }
    assert!(interruptions >= 3, "only {interruptions} interruptions");
    archive.assert_restored(&plan).await;
}

#[tokio::test]
async fn a_target_that_is_not_empty_is_refused_and_nothing_is_touched() {
    let mut archive = Archive::new();
    archive
        .topic("a-new", &[], &[dense(0, 1, 1, 3, Codec::None, 1)])
        .await;
    archive
        .topic("b-full", &[], &[dense(0, 1, 1, 3, Codec::None, 1)])
        .await;
    archive.commit().await;
    let filled = archive.plan();
    archive.restore(&filled, &context()).await.unwrap();
    let mut plan = archive.plan();
    let full = filled.request.topic_mapping["b-full"].clone();
    plan.request
        .topic_mapping
        .insert("b-full".into(), full.clone());
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    let text = error_chain(&error);
    assert!(
        text.contains(&full) && text.contains("offsets 0 to 3 in partition 0"),
        "{text}"
    );
    let client = client().await;
    assert!(
        metadata(&client, &plan.request.topic_mapping["a-new"])
            .await
            .error
            .is_some(),
        "it was created all the same"
    );
    archive.assert_restored(&filled).await;
}

#[tokio::test]
async fn an_empty_topic_that_fits_is_used_and_keeps_its_configs() {
    let mut archive = Archive::new();
    archive
        .topic(
            "t",
            &[("cleanup.policy", "delete"), ("segment.ms", "77777")],
            &[dense(0, 1, 9, 3, Codec::None, 1)],
        )
        .await;
    archive.commit().await;
    let plan = archive.plan();
    let target: Arc<str> = Arc::from(plan.request.topic_mapping["t"].as_str());
    let client = client().await;
    let create = async |name: &Arc<str>, partitions: i32| {
        let new = NewTopic {
            name: name.clone(),
            partitions,
            replication_factor: 1,
            configs: vec![
                ("retention.ms".into(), "-1".into()),
                ("segment.ms".into(), "55555".into()),
            ],
        };
        client
            .create_topics(&[new])
            .await
            .unwrap()
            .remove(0)
            .unwrap();
        client
            .topics_with_leaders(std::slice::from_ref(name))
            .await
            .unwrap();
    };
    create(&target, 1).await;
    archive.restore(&plan, &context()).await.unwrap();
    archive.assert_restored(&plan).await;
    let configs = client
        .topic_configs(std::slice::from_ref(&target))
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    let segment_ms = configs.iter().find(|c| c.name == "segment.ms").unwrap();
    assert_eq!(segment_ms.value.as_deref(), Some("55555"));

    let other = archive.plan();
    create(&Arc::from(other.request.topic_mapping["t"].as_str()), 2).await;
    let error = archive.restore(&other, &context()).await.unwrap_err();
    let text = error_chain(&error);
    assert!(
        text.contains("expected 1 partitions") && text.contains("found 2"),
        "{text}"
    );
}

#[tokio::test]
async fn an_unknown_backup_is_refused_with_what_is_there() {
    let mut archive = Archive::new();
    archive
        .topic("t", &[], &[dense(0, 1, 1, 3, Codec::None, 1)])
        .await;
    archive.commit().await;
    let mut plan = archive.plan();
    plan.request.backup_id = "orders-20200101-000000".into();
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Spec);
    assert!(error_chain(&error).contains(RUN), "{}", error_chain(&error));
    plan.request.backup_id = "latest".into();
    plan.request.topics.include = vec!["absent".into()];
    plan.request.topic_mapping.clear();
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert!(
        error_chain(&error).contains("found absent"),
        "{}",
        error_chain(&error)
    );
}

#[tokio::test]
async fn a_damaged_segment_is_corrupt_and_named() {
    let mut archive = Archive::new();
    archive
        .topic("t", &[], &[dense(0, 2, 3, 3, Codec::None, 1)])
        .await;
    archive.commit().await;
    let mut keys = archive
        .store
        .list("shop/orders/topics", |key, _| Some(key.to_owned()))
        .await
        .unwrap();
    keys.sort();
    let path = archive.folder.path().join(&keys[1]);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = archive
        .restore(&archive.plan(), &context())
        .await
        .unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    assert!(
        error_chain(&error).contains(&keys[1]),
        "{}",
        error_chain(&error)
    );

    std::fs::remove_file(&path).unwrap();
    let plan = archive.plan();
    let error = archive.restore(&plan, &context()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::Corrupt);
    let client = client().await;
    assert!(
        metadata(&client, &plan.request.topic_mapping["t"])
            .await
            .error
            .is_some(),
        "nothing is created for it"
    );
}
