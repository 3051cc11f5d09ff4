//! Consumer groups of a source, histories that make their offsets hard to carry over, and a client that is not ours.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "support of tests; each test file uses its part"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedHeaders, Header, Headers, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::backup_support::*;

/// What a group has committed: topic, partition, offset.
pub type Position = (String, i32, i64);

/// A record as another client sees it, wherever it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    pub timestamp: Option<i64>,
}

impl Read {
    pub fn of(message: &impl Message<Headers = BorrowedHeaders>) -> Self {
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers = message.headers().into_iter().flat_map(Headers::iter);
        Self {
            key: own(message.key()),
            value: own(message.payload()),
            headers: headers
                .map(|header| (header.key.to_owned(), own(header.value)))
                .collect(),
            timestamp: message.timestamp().to_millis(),
        }
    }
}

pub fn consumer(servers: &str, group: &str) -> BaseConsumer {
    consumer_with(servers, group, "earliest")
}

/// `reset` is what it does where an offset is not in the log.
pub fn consumer_with(servers: &str, group: &str, reset: &str) -> BaseConsumer {
    rdkafka::ClientConfig::new()
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", reset)
        // At an end a broker waits so long for more, and the next position waits for the broker.
        .set("fetch.wait.max.ms", "10")
        .create()
        .unwrap()
}

/// The first record that a consumer gets from an offset on, of those not newer than `newest`; `None` at the end.
pub fn next(consumer: &BaseConsumer, position: &Position, newest: Option<i64>) -> Option<Read> {
    let (topic, partition, offset) = position;
    let mut all = records(consumer, topic, *partition, Offset::Offset(*offset));
    let found = all.find(|(_, read)| newest.is_none_or(|newest| read.timestamp <= Some(newest)));
    found.map(|(_, read)| read)
}

/// The records that a consumer gets from `offset` on, up to the end.
pub fn records<'a>(
    consumer: &'a BaseConsumer,
    topic: &'a str,
    partition: i32,
    offset: Offset,
) -> impl Iterator<Item = (i64, Read)> + 'a {
    let mut assignment = TopicPartitionList::new();
    assignment
        .add_partition_offset(topic, partition, offset)
        .unwrap();
    consumer.assign(&assignment).unwrap();
    let deadline = Instant::now() + 2 * TIMEOUT;
    std::iter::from_fn(move || {
        while Instant::now() < deadline {
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(message)) => {
                    assert_eq!((message.topic(), message.partition()), (topic, partition));
                    return Some((message.offset(), Read::of(&message)));
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return None,
                Some(Err(error)) => panic!("{topic} {partition} from {offset:?} on: {error}"),
                None => {}
            }
        }
        panic!("neither a record nor the end of {topic} {partition} from {offset:?} on");
    })
}

pub fn write(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    number: i64,
    key: &str,
    time: i64,
) {
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
pub async fn transactions(topic: &str, oldest: i64) -> BaseProducer {
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
pub async fn compacted(topic: &str, oldest: i64) -> Vec<i64> {
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
        assert!(Instant::now() < deadline, "the broker goes on compacting");
        tokio::time::sleep(Duration::from_secs(1)).await;
        let again = read().await;
        if again == left {
            return left;
        }
        left = again;
        assert!(Instant::now() < deadline, "the cleaner does not end");
    }
}

/// Each group's positions are committed as by a group without members, with [`metadata`].
pub async fn commit(groups: &BTreeMap<String, Vec<Position>>) {
    commit_at(&bootstrap(), groups).await;
}

/// The same in a cluster.
pub async fn commit_at(servers: &str, groups: &BTreeMap<String, Vec<Position>>) {
    let (servers, groups) = (servers.to_owned(), groups.clone());
    blocking(move || {
        for (group, positions) in &groups {
            let mut list = TopicPartitionList::new();
            for (topic, partition, offset) in positions {
                let mut one = list.add_partition(topic, *partition);
                one.set_offset(Offset::Offset(*offset)).unwrap();
                one.set_metadata(metadata(group, *partition, *offset));
            }
            consumer(&servers, group)
                .commit(&list, CommitMode::Sync)
                .unwrap();
        }
    })
    .await;
}

/// What goes with a commit: wherever the group goes on, it tells what was committed first.
pub fn metadata(group: &str, partition: i32, offset: i64) -> String {
    format!("{group} was at {partition}:{offset}")
}
