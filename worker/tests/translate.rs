//! Consumer groups of a source, translated to what restores wrote, and read on from there by a client that is not ours. Needs
//! `KAFKA_BACKUP_LAB_SOURCE` and `KAFKA_BACKUP_LAB_TARGET` (bootstrap servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;
mod restore_support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use backup_support::*;
use jiff::Timestamp;
use kafka_backup_shared::archive::manifest::from_json;
use kafka_backup_shared::archive::restore::{OffsetPiece, OffsetRun, RestoreDecision};
use kafka_backup_shared::archive::translate::Inexact;
use kafka_backup_shared::plan::{
    BackupPlan, PartitionMove, RestorePlan, RestoreRequest, RunRef, Topics,
};
use kafka_backup_shared::selector::GroupSelector;
use kafka_backup_shared::spec::{IfTopicNotEmpty, MissingTopics, TimeRange};
use kafka_backup_worker::restore;
use kafka_backup_worker::restore::groups::{TranslatedGroup, TranslatedOffset, translate};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use uuid::Uuid;

const FIRST: &str = "20260101-000000";

/// Where the log of partition 0 with transactions begins when it is backed up, and what a group has committed before.
const LOG_START: i64 = 3;
const BELOW: i64 = 1;
/// The last stable offset of partition 1, and what a group has committed behind it.
const STABLE: i64 = 27;
const BEYOND: i64 = 29;

/// What a group has committed: topic, partition, offset.
type Position = (String, i32, i64);

/// A record as another client sees it, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
    timestamp: Option<i64>,
}

fn consumer(servers: &str, group: &str) -> BaseConsumer {
    rdkafka::ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest")
        // At an end a broker waits so long for more, and the next position waits for the broker.
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap()
}

/// The first record that a consumer gets from an offset on, of those not newer than `newest`; `None` at the end.
fn next(consumer: &BaseConsumer, position: &Position, newest: Option<i64>) -> Option<Read> {
    let (topic, partition, offset) = position;
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, *partition, Offset::Offset(*offset))
        .unwrap();
    consumer.assign(&assignment).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        let message = match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => message,
            Some(Err(KafkaError::PartitionEOF(_))) => return None,
            Some(Err(error)) => panic!("{position:?}: {error}"),
            None => continue,
        };
        assert_eq!(
            (message.topic(), message.partition()),
            (&**topic, *partition)
        );
        let timestamp = message.timestamp().to_millis();
        if newest.is_some_and(|newest| timestamp > Some(newest)) {
            continue;
        }
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        return Some(Read {
            key: own(message.key()),
            value: own(message.payload()),
            headers: headers
                .map(|header| (header.key.to_owned(), own(header.value)))
                .collect(),
            timestamp,
        });
    }
    panic!("neither a record nor the end at {position:?}");
}

fn write(producer: &BaseProducer, topic: &str, partition: i32, number: i64, key: &str, time: i64) {
    let value = format!("record {number} ").repeat(10);
    let number = number.to_string();
    let header = Header {
        key: "number",
        value: Some(&number),
    };
    let record = BaseRecord::to(topic)
        .partition(partition)
        .key(key)
        .payload(&value)
        .timestamp(time)
        .headers(OwnedHeaders::new().insert(header));
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

/// Records in two partitions: five committed (from offset 0 on), four aborted (6), six committed (11), three aborted (18), five
/// without a transaction (22); in partition 1 two of a transaction (27) that is open as long as the producer.
async fn transactions(topic: &str, oldest: i64) -> BaseProducer {
    let (topic, id) = (topic.to_owned(), name("translate-producer"));
    blocking(move || {
        let transactional = producer(&[("transactional.id", &id)]);
        transactional.init_transactions(TIMEOUT).unwrap();
        let plain = producer(&[]);
        let mut number = 0;
        let mut write_some = |producer: &BaseProducer, partitions: &[i32], count: i64| {
            for _ in 0..count {
                // Times that go back and forth.
                let time = oldest + number * 1000 - (number % 3) * 2500;
                for partition in partitions {
                    let key = format!("key-{number}");
                    write(producer, &topic, *partition, number, &key, time);
                }
                number += 1;
            }
        };
        for (count, commits) in [(5, true), (4, false), (6, true), (3, false)] {
            transactional.begin_transaction().unwrap();
            write_some(&transactional, &[0, 1], count);
            transactional.flush(TIMEOUT).unwrap();
            match commits {
                true => transactional.commit_transaction(TIMEOUT).unwrap(),
                false => transactional.abort_transaction(TIMEOUT).unwrap(),
            }
        }
        write_some(&plain, &[0, 1], 5);
        plain.flush(TIMEOUT).unwrap();
        transactional.begin_transaction().unwrap();
        write_some(&transactional, &[1], 2);
        transactional.flush(TIMEOUT).unwrap();
        transactional
    })
    .await
}

/// Batches of which the cleaner has taken some records, and some wholly; the offsets that are left.
async fn compacted(topic: &str, oldest: i64) -> Vec<i64> {
    let configs = [
        ("cleanup.policy", "compact"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("segment.bytes", "1048576"),
        ("max.compaction.lag.ms", "1000"),
    ];
    create_topic(topic, 1, &configs).await;
    let name = topic.to_owned();
    blocking(move || {
        let producer = producer(&[("batch.num.messages", "20")]);
        for number in 0..12_000 {
            // A third of the keys once, the others again and again.
            let key = match number % 3 {
                0 if number % 1000 < 500 => format!("once-{number}"),
                _ => format!("again-{}", number % 1000),
            };
            write(&producer, &name, 0, number, &key, oldest + number * 2);
        }
        producer.flush(TIMEOUT).unwrap();
    })
    .await;
    let read = async || -> Vec<i64> {
        let all = consume(topic, 0, "read_committed", i64::MAX).await;
        all.iter().map(|(offset, ..)| *offset).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut left = read().await;
    while left.len() > 9000 {
        assert!(Instant::now() < deadline, "the broker did not compact");
        tokio::time::sleep(Duration::from_millis(200)).await;
        left = read().await;
    }
    // What is read now must be what the backup finds, and what is compared with afterwards.
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .create()
        .unwrap();
    let kept = AlterConfig::new(ResourceSpecifier::Topic(topic))
        .set("cleanup.policy", "delete")
        .set("retention.ms", "-1");
    for altered in admin
        .alter_configs([&kept], &AdminOptions::new())
        .await
        .unwrap()
    {
        altered.unwrap();
    }
    loop {
        // A pass of the cleaner that had begun may still end.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = read().await;
        if again == left {
            return left;
        }
        left = again;
        assert!(Instant::now() < deadline, "the cleaner does not end");
    }
}

/// Each group's positions are committed as by a group without members.
async fn commit(groups: &BTreeMap<String, Vec<Position>>) {
    let groups = groups.clone();
    blocking(move || {
        for (group, positions) in &groups {
            let mut list = TopicPartitionList::new();
            for (topic, partition, offset) in positions {
                list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
                    .unwrap();
            }
            consumer(&bootstrap(), group)
                .commit(&list, CommitMode::Sync)
                .unwrap();
        }
    })
    .await;
}

/// Restores `topics`, mapped, as `changed`; tells what was decided.
async fn restored(
    archive: &Archive,
    topics: &BTreeMap<String, String>,
    changed: impl FnOnce(RestoreRequest) -> RestoreRequest,
) -> RestoreDecision {
    let included = Topics {
        include: topics.keys().cloned().collect(),
        exclude: vec![],
        missing: MissingTopics::Fail,
    };
    let plan = RestorePlan {
        run: RunRef {
            kind: "KafkaRestore".into(),
            uid: Uuid::new_v4().to_string(),
            ..RunRef::example()
        },
        storage: plan(FIRST, &[]).storage,
        cluster: restore_support::cluster(),
        request: changed(RestoreRequest {
            topic_mapping: topics.clone(),
            ..RestoreRequest::new(format!("orders-{FIRST}"), included)
        }),
        rate_limit: None,
        dry_run: false,
    };
    restore::run(&plan, &archive.store, &restore_support::context())
        .await
        .unwrap();
    let key = archive.layout.restore_plan(&plan.run.uid);
    from_json(&key, &archive.store.get(&key).await.unwrap().unwrap()).unwrap()
}

async fn translated(
    archive: &Archive,
    decision: &RestoreDecision,
    groups: &BTreeMap<String, Vec<Position>>,
) -> Vec<TranslatedGroup> {
    let ids: Vec<String> = groups.keys().cloned().collect();
    let selector = GroupSelector::parse("groups", &ids).unwrap();
    let translations = translate(&archive.store, &archive.layout, decision, Some(&selector))
        .await
        .unwrap();
    let found: Vec<TranslatedGroup> = translations.groups().unwrap().map(Result::unwrap).collect();
    let found_ids: Vec<&String> = found.iter().map(|group| &group.group).collect();
    assert_eq!(found_ids, groups.keys().collect::<Vec<_>>());
    for group in &found {
        assert_eq!(group.left_out, []);
        let committed = group.offsets.iter().map(position);
        let mut expected = groups[&group.group].clone();
        expected.sort();
        assert_eq!(committed.collect::<Vec<_>>(), expected);
    }
    found
}

/// What was committed.
fn position(offset: &TranslatedOffset) -> Position {
    let committed = &offset.committed;
    (offset.topic.clone(), committed.partition, committed.offset)
}

/// Runs with holes in the offset map of a partition.
async fn runs_with_holes(
    archive: &Archive,
    decision: &RestoreDecision,
    topic: &str,
) -> Vec<OffsetRun> {
    let mut runs = Vec::new();
    for name in &decision.topics[topic].sources[0].segments {
        let uid = &decision.run.uid;
        let key = archive
            .layout
            .restore_offsets(uid, topic, 0, name.start, name.end);
        if let Some(bytes) = archive.store.get(&key).await.unwrap() {
            let piece: OffsetPiece = from_json(&key, &bytes).unwrap();
            runs.extend(piece.runs);
        }
    }
    runs.retain(|run| run.records < (run.end - run.start) as u64);
    runs
}

/// Asserts that a consumer of the target gets from each translated offset on what one of the source gets from the committed one
/// on, of the records not newer than `newest`; and that those of `inexact`, and no others, are told.
async fn compare(
    archive: &Archive,
    decision: &RestoreDecision,
    groups: &BTreeMap<String, Vec<Position>>,
    newest: Option<i64>,
    inexact: &BTreeMap<Position, Inexact>,
) {
    let translated = translated(archive, decision, groups).await;
    let inexact = inexact.clone();
    blocking(move || {
        let source = consumer(&bootstrap(), "translate-source");
        let target = consumer(&restore_support::bootstrap(), "translate-target");
        for offset in translated.iter().flat_map(|group| &group.offsets) {
            let from = position(offset);
            let topic = offset.target_topic.to_string();
            let to = (topic, offset.target_partition, offset.offset);
            let (given, found) = (next(&source, &from, newest), next(&target, &to, None));
            assert_eq!(found, given, "{to:?}, committed as {from:?}");
            assert_eq!(offset.inexact, inexact.get(&from).copied(), "{from:?}");
            assert_eq!(offset.leader_epoch, None, "{from:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translated_group_reads_on_where_the_source_would_have_gone_on() {
    let archive = Archive::new();
    let (tx, log) = (name("translate-tx"), name("translate-compacted"));
    let oldest = Timestamp::now().as_millisecond() - 3_600_000;
    create_topic(&tx, 2, &[]).await;
    let open = transactions(&tx, oldest).await;
    let left = compacted(&log, oldest).await;

    // Where only some offsets are gone, the batch is still there.
    let hole = |small: bool| {
        let pairs = left.windows(2).filter(move |pair| {
            let gone = pair[1] - pair[0] - 1;
            gone > 0 && (gone < 5) == small
        });
        pairs.map(|pair| pair[0] + 1).collect::<Vec<i64>>()
    };
    let (small, large) = (hole(true), hole(false));
    assert!(
        small.len() > 100 && !large.is_empty(),
        "{} {}",
        small.len(),
        large.len()
    );
    let end = left.last().unwrap() + 1;
    let third = |holes: &[i64], n: usize| holes[holes.len() * n / 3];
    let mut compacted_at = vec![2, left[left.len() / 2], end - 1, end, large[0]];
    compacted_at.extend((0..3).flat_map(|n| [third(&small, n), third(&small, n) + 1]));
    compacted_at.push(large[large.len() / 2]);
    // Below the start (which moves to 3 in partition 0), at markers (5, 10, 17, 21), among aborted records, at and behind the end.
    let first_at = [BELOW, LOG_START, 4, 5, 8, 10, 13, 17, 19, 24, 27, 22];
    let second_at = [0, 2, 4, 5, 7, 10, 14, 17, 20, 25, STABLE, BEYOND];
    let prefix = name("translate-group");
    let groups: BTreeMap<String, Vec<Position>> = (0..12)
        .map(|n| {
            let positions = vec![
                (tx.clone(), 0, first_at[n]),
                (tx.clone(), 1, second_at[n]),
                (log.clone(), 0, compacted_at[n]),
            ];
            (format!("{prefix}-{n:02}"), positions)
        })
        .collect();
    commit(&groups).await;
    delete_records(&tx, 0, LOG_START).await;
    let backup = BackupPlan {
        consumer_groups: Some(vec![format!("{prefix}-*")]),
        ..plan(FIRST, &[&tx, &log])
    };
    run(&backup, &archive.store).await.unwrap();
    blocking(move || open.abort_transaction(TIMEOUT).unwrap()).await;

    let inexact = BTreeMap::from([
        (
            (tx.clone(), 0, BELOW),
            Inexact::BelowStart { start: LOG_START },
        ),
        ((tx.clone(), 1, BEYOND), Inexact::BeyondEnd { end: STABLE }),
    ]);

    let mapped = |to: &str| -> BTreeMap<String, String> {
        let topics = [&tx, &log];
        topics
            .map(|topic| (topic.clone(), format!("{topic}-{to}")))
            .into()
    };
    // In the middle of batches of both topics.
    let newest = oldest + 12_001;
    let swapped = [(0, 1), (1, 0)].map(|(source, target)| PartitionMove { source, target });
    let moved = [(0, 2)].map(|(source, target)| PartitionMove { source, target });
    let plain = restored(&archive, &mapped("plain"), |request| request).await;
    compare(&archive, &plain, &groups, None, &inexact).await;
    let behind = restored(&archive, &mapped("plain"), |request| RestoreRequest {
        if_topic_not_empty: IfTopicNotEmpty::Append,
        ..request
    })
    .await;
    assert_eq!(behind.topics[&tx].partitions[0].base_offset, 13);
    compare(&archive, &behind, &groups, None, &inexact).await;
    let cut = restored(&archive, &mapped("cut"), |request| RestoreRequest {
        time: TimeRange {
            start_ms: None,
            end_ms: Some(newest),
        },
        ..request
    })
    .await;
    compare(&archive, &cut, &groups, Some(newest), &inexact).await;
    let elsewhere = restored(&archive, &mapped("moved"), |request| RestoreRequest {
        partition_mapping: BTreeMap::from([
            (tx.clone(), swapped.to_vec()),
            (log.clone(), moved.to_vec()),
        ]),
        ..request
    })
    .await;
    compare(&archive, &elsewhere, &groups, None, &inexact).await;

    let holes = runs_with_holes(&archive, &plain, &log).await;
    let inside = |at: &&i64| holes.iter().any(|run| run.start < **at && **at < run.end);
    assert!(
        compacted_at.iter().filter(inside).count() >= 5,
        "{compacted_at:?}"
    );
}
