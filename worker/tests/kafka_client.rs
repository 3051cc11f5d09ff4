//! The Kafka client against a real broker. Needs `KAFKA_BACKUP_LAB_SOURCE` (bootstrap address), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use kafka_backup_shared::archive::batch::{self, Batch, Batches};
use kafka_backup_shared::archive::record;
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::KafkaCluster;
use kafka_backup_worker::kafka::*;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

const TIMEOUT: Duration = Duration::from_secs(30);
const BASE_TIMESTAMP: i64 = 1_700_000_000_000;

fn bootstrap() -> String {
    std::env::var("KAFKA_BACKUP_LAB_SOURCE")
        .expect("KAFKA_BACKUP_LAB_SOURCE is not set: run these tests by `cargo lab test`")
}

fn config_for(servers: &[&str]) -> ClientConfig {
    let cluster = KafkaCluster::plaintext(servers.iter().map(|s| s.to_string()).collect());
    ClientConfig::new(&cluster, Path::new(""), "kafka-client-test")
}

fn config() -> ClientConfig {
    config_for(&[&bootstrap()])
}

/// A topic of its own for one test, with one replica.
struct Fixture {
    client: Client,
    topic: TopicMetadata,
}

impl Fixture {
    async fn new(partitions: i32, configs: &[(&str, &str)]) -> Self {
        let client = Client::connect(config()).await.unwrap();
        let name: Arc<str> = Arc::from(format!("kafka-client-{}", Uuid::new_v4()));
        // Records as old as the ones here are deleted within seconds otherwise.
        let keep = [("retention.ms", "-1")];
        let configs = if configs.is_empty() { &keep } else { configs };
        let new = new_topic(&name, partitions, configs);
        for result in client.create_topics(&[new]).await.unwrap() {
            result.unwrap();
        }
        let mut topics = client.topics_with_leaders(&[name]).await.unwrap();
        let topic = topics.pop().unwrap();
        let led = topic.led_partitions().unwrap();
        // A broker is told of a topic before it leads its partitions.
        for start in client.list_offsets(&led, OffsetSpec::Earliest).await {
            start.unwrap();
        }
        Self { client, topic }
    }

    fn led(&self) -> Vec<LedPartition> {
        self.topic.led_partitions().unwrap()
    }

    async fn leader(&self) -> Connection {
        let leader = self.led()[0].leader;
        self.client.open(leader).await.unwrap()
    }

    fn batch(&self, partition: i32, bytes: Vec<u8>) -> ProduceBatch {
        let bytes = Bytes::from(bytes);
        ProduceBatch {
            topic: self.topic.name.clone(),
            topic_id: self.topic.id,
            partition,
            // Cut anywhere, as a header and a slice of a segment are.
            pieces: vec![
                bytes.slice(..batch::HEADER_LEN),
                bytes.slice(batch::HEADER_LEN..),
            ],
        }
    }

    fn from(&self, partition: i32, offset: i64) -> FetchPartition {
        FetchPartition {
            topic_id: self.topic.id,
            partition,
            offset,
            leader_epoch: self.led()[0].leader_epoch,
            last_fetched_epoch: -1,
            max_bytes: 1 << 20,
        }
    }

    async fn offsets(&self, spec: OffsetSpec) -> Vec<i64> {
        let listed = self.client.list_offsets(&self.led(), spec).await;
        listed.into_iter().map(|l| l.unwrap().offset).collect()
    }
}

fn new_topic(name: &Arc<str>, partitions: i32, configs: &[(&str, &str)]) -> NewTopic {
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    NewTopic {
        name: name.clone(),
        partitions,
        replication_factor: 1,
        configs: configs.iter().map(own).collect(),
    }
}

fn fetch_options(isolation: IsolationLevel) -> FetchOptions {
    FetchOptions {
        max_wait: Duration::from_millis(500),
        min_bytes: 1,
        max_bytes: 16 << 20,
        isolation,
    }
}

/// A plain batch of `count` records with values of `size` bytes, a millisecond apart.
fn plain(count: i64, size: usize, first_timestamp: i64) -> Vec<u8> {
    let mut payload = Vec::new();
    for n in 0..count {
        let mut body = Vec::new();
        record::write_varint(&mut body, -1); // no key
        record::write_varint(&mut body, size as i64);
        body.resize(body.len() + size, b'a' + (n % 26) as u8);
        record::write_varint(&mut body, 0); // no headers
        record::write_record(&mut payload, n, n, &body);
    }
    let last_timestamp = first_timestamp + count - 1;
    batch::build(0, first_timestamp, last_timestamp, count as i32, &payload)
}

fn by(producer: ProducerId, sequence: i32, mut batch: Vec<u8>) -> Vec<u8> {
    batch::set_producer(&mut batch, producer.id, producer.epoch, sequence);
    batch::seal(&mut batch);
    batch
}

async fn produce_one(connection: &Connection, batch: ProduceBatch) -> ProducedPartition {
    let in_flight = connection.produce(&[batch], TIMEOUT).unwrap();
    in_flight.await.unwrap().partitions.remove(0)
}

#[tokio::test]
async fn created_topic_has_id_leaders_and_the_configs_it_was_given() {
    let fixture = Fixture::new(3, &[("retention.ms", "123456")]).await;
    assert!(!fixture.client.cluster_id().is_empty());
    assert!(!fixture.topic.id.is_nil() && !fixture.topic.internal);
    let partitions: Vec<i32> = fixture.led().iter().map(|p| p.partition).collect();
    assert_eq!(partitions, [0, 1, 2]);

    let topics = [
        fixture.topic.name.clone(),
        Arc::from("kafka-client-missing"),
    ];
    let mut configs = fixture.client.topic_configs(&topics).await.unwrap();
    let missing = configs.pop().unwrap().unwrap_err();
    assert_eq!(missing.code(), Some(ResponseError::UnknownTopicOrPartition));
    let configs = configs.pop().unwrap().unwrap();
    let config = |name: &str| configs.iter().find(|c| c.name == name).unwrap().clone();
    assert_eq!(config("retention.ms").value.as_deref(), Some("123456"));
    assert_eq!(config("retention.ms").source, ConfigSource::Topic);
    assert_eq!(config("cleanup.policy").value.as_deref(), Some("delete"));
    assert_eq!(config("cleanup.policy").source, ConfigSource::Default);
}

#[tokio::test]
async fn config_change_leaves_other_configs_alone_and_a_bad_value_comes_with_the_brokers_words() {
    let fixture = Fixture::new(1, &[("retention.ms", "123456"), ("segment.ms", "9999")]).await;
    let change = |name: &str, operation| {
        let name = name.to_owned();
        let changes = vec![ConfigChange { name, operation }];
        (fixture.topic.name.clone(), changes)
    };
    let set = ConfigOperation::Set("7".to_owned());
    let results = fixture
        .client
        .alter_topic_configs(&[change("retention.ms", set)])
        .await;
    results.unwrap().pop().unwrap().unwrap();
    let results = fixture
        .client
        .alter_topic_configs(&[change("segment.ms", ConfigOperation::Delete)])
        .await;
    results.unwrap().pop().unwrap().unwrap();

    // Config changes reach brokers a moment later.
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    loop {
        let topics = [fixture.topic.name.clone()];
        let configs = fixture.client.topic_configs(&topics).await.unwrap();
        let configs = configs.into_iter().next().unwrap().unwrap();
        let own: Vec<(String, String)> = configs
            .into_iter()
            .filter(|c| c.source == ConfigSource::Topic)
            .map(|c| (c.name, c.value.unwrap()))
            .collect();
        if own == [("retention.ms".to_owned(), "7".to_owned())] {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{own:?}");
        tokio::task::yield_now().await;
    }

    let bad = ConfigOperation::Set("soon".to_owned());
    let results = fixture
        .client
        .alter_topic_configs(&[change("retention.ms", bad)])
        .await;
    let error = results.unwrap().pop().unwrap().unwrap_err();
    assert_eq!(error.code(), Some(ResponseError::InvalidConfig));
    assert_eq!(error.fault(), Fault::Spec);
    assert!(error.to_string().contains("retention.ms"), "{error}");
}

#[tokio::test]
async fn topic_that_cannot_be_created_says_why() {
    let fixture = Fixture::new(1, &[]).await;
    let fresh: Arc<str> = Arc::from(format!("kafka-client-{}", Uuid::new_v4()));
    let too_many = NewTopic {
        replication_factor: 99,
        ..new_topic(&fresh, 1, &[])
    };
    let topics = [
        new_topic(&fixture.topic.name, 1, &[]),
        too_many,
        new_topic(&Arc::from("not/a/name"), 1, &[]),
    ];
    let results = fixture.client.create_topics(&topics).await.unwrap();
    let errors: Vec<KafkaError> = results.into_iter().map(|r| r.unwrap_err()).collect();
    let codes: Vec<_> = errors.iter().map(|e| e.code().unwrap()).collect();
    assert_eq!(
        codes,
        [
            ResponseError::TopicAlreadyExists,
            ResponseError::InvalidReplicationFactor,
            ResponseError::InvalidTopicException,
        ]
    );
    assert!(errors.iter().all(|e| e.fault() == Fault::Spec));
}

#[tokio::test]
async fn unknown_topic_comes_back_with_its_error_and_is_not_created() {
    let client = Client::connect(config()).await.unwrap();
    let name: Arc<str> = Arc::from(format!("kafka-client-{}", Uuid::new_v4()));
    let filter = TopicFilter::Named(vec![name.clone()]);
    for _ in 0..2 {
        let topics = client.topics(&filter).await.unwrap();
        let error = topics[0].led_partitions().unwrap_err();
        assert_eq!(error.code(), Some(ResponseError::UnknownTopicOrPartition));
        assert_eq!(error.fault(), Fault::Spec);
    }
    let all = client.topics(&TopicFilter::All).await.unwrap();
    assert!(all.iter().all(|topic| topic.name != name));
}

#[tokio::test]
async fn five_batches_in_flight_get_their_offsets_in_order() {
    let fixture = Fixture::new(2, &[]).await;
    let connection = fixture.leader().await;
    let producer = fixture.client.init_producer_id().await.unwrap();
    let mut in_flight = Vec::new();
    for n in 0..5 {
        let batches = [1, 0].map(|partition| {
            let bytes = plain(10, 100, BASE_TIMESTAMP);
            fixture.batch(partition, by(producer, n * 10, bytes))
        });
        if n == 1 {
            // A broker without state for a producer takes any first sequence: one in flight until it has some.
            let first: InFlight<ProduceAnswer> = in_flight.pop().unwrap();
            let answer = first.await.unwrap();
            assert!(answer.partitions.iter().all(|p| p.base_offset == 0));
        }
        in_flight.push(connection.produce(&batches, TIMEOUT).unwrap());
    }
    // Answers can be awaited in any order.
    for (n, request) in (1..).zip(in_flight).collect::<Vec<_>>().into_iter().rev() {
        for result in request.await.unwrap().partitions {
            assert_eq!((result.error, result.base_offset), (None, n * 10));
            assert_eq!(
                (result.log_append_time_ms, result.log_start_offset),
                (None, 0)
            );
        }
    }
    assert_eq!(fixture.offsets(OffsetSpec::LogEnd).await, [50, 50]);
}

#[tokio::test]
async fn resent_batch_is_recognised_and_a_gap_is_refused() {
    let fixture = Fixture::new(1, &[]).await;
    let connection = fixture.leader().await;
    let producer = fixture.client.init_producer_id().await.unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap().as_millis() as i64;
    let send = |sequence| {
        let bytes = by(producer, sequence, plain(3, 10, now));
        produce_one(&connection, fixture.batch(0, bytes))
    };
    assert_eq!(send(0).await.base_offset, 0);
    assert_eq!(send(3).await.base_offset, 3);
    assert_eq!(send(0).await.base_offset, 0);
    let gap = send(99).await;
    assert_eq!(gap.error, Some(ResponseError::OutOfOrderSequenceNumber));
    assert_eq!(fixture.offsets(OffsetSpec::LogEnd).await, [6]);
}

#[tokio::test]
async fn batch_that_is_damaged_on_the_way_is_refused() {
    let fixture = Fixture::new(1, &[]).await;
    let connection = fixture.leader().await;
    let mut bytes = plain(1, 10, BASE_TIMESTAMP);
    *bytes.last_mut().unwrap() ^= 1;
    let batch = fixture.batch(0, bytes);
    let result = produce_one(&connection, batch.clone()).await;
    let error = result.error_of(&batch).unwrap();
    assert_eq!(error.code(), Some(ResponseError::CorruptMessage));
    assert_eq!(error.fault(), Fault::Corrupt);
    assert_eq!(fixture.offsets(OffsetSpec::LogEnd).await, [0]);
}

#[tokio::test]
async fn fetched_records_are_the_bytes_that_were_produced() {
    let fixture = Fixture::new(2, &[]).await;
    let connection = fixture.leader().await;
    let sent: Vec<Vec<u8>> = (0..20)
        .map(|n| plain(n + 1, 1000, BASE_TIMESTAMP))
        .collect();
    for (n, bytes) in sent.iter().enumerate() {
        let partition = (n % 2) as i32;
        let result = produce_one(&connection, fixture.batch(partition, bytes.clone())).await;
        assert_eq!(result.error, None);
    }
    let ends = fixture.offsets(OffsetSpec::LogEnd).await;
    let mut next = [0, 0];
    let mut found: [Vec<Vec<u8>>; 2] = Default::default();
    let options = fetch_options(IsolationLevel::ReadUncommitted);
    let wanted = |next: [i64; 2]| {
        [0, 1].map(|partition| {
            let wanted = fixture.from(partition as i32, next[partition]);
            FetchPartition {
                max_bytes: 30_000,
                ..wanted
            }
        })
    };
    let mut in_flight = connection.fetch(&wanted(next), &options).unwrap();
    loop {
        let answer = in_flight.await.unwrap();
        for fetched in &answer.partitions {
            assert_eq!((fetched.error, fetched.diverging), (None, None));
            let partition = fetched.partition as usize;
            assert_eq!(fetched.high_watermark, ends[partition]);
            assert_eq!(fetched.log_start_offset, 0);
            for batch in Batches::new(&fetched.records) {
                let batch: Batch<'_> = batch.unwrap();
                batch.verify_crc().unwrap();
                next[partition] = batch.end_offset();
                let mut bytes = batch.bytes().to_vec();
                batch::set_base_offset(&mut bytes, 0);
                bytes[12..16].copy_from_slice(&(-1i32).to_be_bytes()); // leader epoch
                found[partition].push(bytes);
            }
        }
        if next[..] == ends[..] {
            break;
        }
        in_flight = connection.fetch(&wanted(next), &options).unwrap();
    }
    for partition in [0, 1] {
        let sent: Vec<_> = sent.iter().skip(partition).step_by(2).cloned().collect();
        assert!(found[partition] == sent, "partition {partition}");
    }
}

#[tokio::test]
async fn fetch_says_what_is_wrong_per_partition() {
    let fixture = Fixture::new(1, &[]).await;
    let connection = fixture.leader().await;
    let bytes = plain(5, 10, BASE_TIMESTAMP);
    produce_one(&connection, fixture.batch(0, bytes)).await;
    let good = fixture.from(0, 0);
    let options = fetch_options(IsolationLevel::ReadCommitted);
    let fetch_one = async |wanted: FetchPartition| {
        let mut answer = connection
            .fetch(&[wanted], &options)
            .unwrap()
            .await
            .unwrap();
        answer.partitions.remove(0)
    };
    let cases = [
        (
            FetchPartition {
                offset: 99,
                ..good.clone()
            },
            ResponseError::OffsetOutOfRange,
        ),
        (
            FetchPartition {
                topic_id: Uuid::from_u128(1),
                ..good.clone()
            },
            ResponseError::UnknownTopicId,
        ),
        (
            FetchPartition {
                leader_epoch: good.leader_epoch + 1,
                ..good.clone()
            },
            ResponseError::UnknownLeaderEpoch,
        ),
    ];
    for (wanted, code) in cases {
        assert_eq!(fetch_one(wanted).await.error, Some(code));
    }
    // A log that claims more of epoch 0 than the leader has: truncated meanwhile (KIP-595).
    let diverged = FetchPartition {
        offset: 99,
        last_fetched_epoch: good.leader_epoch,
        ..good.clone()
    };
    let fetched = fetch_one(diverged).await;
    let end = EpochEnd {
        epoch: good.leader_epoch,
        end_offset: 5,
    };
    assert_eq!((fetched.error, fetched.diverging), (None, Some(end)));
    let right = FetchPartition {
        last_fetched_epoch: good.leader_epoch,
        ..good
    };
    let fetched = fetch_one(right).await;
    assert_eq!((fetched.error, fetched.diverging), (None, None));
    assert!(!fetched.records.is_empty());
}

#[tokio::test]
async fn offsets_are_listed_by_meaning_and_epochs_have_ends() {
    let fixture = Fixture::new(3, &[]).await;
    let connection = fixture.leader().await;
    let bytes = plain(5, 10, BASE_TIMESTAMP);
    produce_one(&connection, fixture.batch(1, bytes)).await;
    let cases = [
        (OffsetSpec::Earliest, [0, 0, 0]),
        (OffsetSpec::Latest(IsolationLevel::ReadCommitted), [0, 5, 0]),
        (
            OffsetSpec::Latest(IsolationLevel::ReadUncommitted),
            [0, 5, 0],
        ),
        (OffsetSpec::LogEnd, [0, 5, 0]),
        (OffsetSpec::Timestamp(BASE_TIMESTAMP + 2), [-1, 2, -1]),
        (OffsetSpec::Timestamp(BASE_TIMESTAMP + 9), [-1, -1, -1]),
    ];
    for (spec, expected) in cases {
        assert_eq!(fixture.offsets(spec).await, expected, "{spec:?}");
    }

    let led = fixture.led()[1].clone();
    let epoch = led.leader_epoch;
    let ask = |epoch| PartitionEpoch {
        partition: led.clone(),
        epoch,
    };
    let ends = fixture.client.epoch_ends(&[ask(epoch)]).await;
    let end = EpochEnd {
        epoch,
        end_offset: 5,
    };
    assert_eq!(ends.into_iter().next().unwrap().unwrap(), Some(end));
    let ends = fixture.client.epoch_ends(&[ask(epoch + 7)]).await;
    assert_eq!(ends.into_iter().next().unwrap().unwrap(), None);
}

#[tokio::test]
async fn stale_leader_epoch_is_refused_by_the_broker_and_followed_by_the_client() {
    let fixture = Fixture::new(1, &[]).await;
    let mut stale = fixture.led();
    stale[0].leader_epoch += 3;
    let connection = fixture.leader().await;
    let in_flight = connection.list_offsets(&stale, OffsetSpec::LogEnd).unwrap();
    let error = in_flight.await.unwrap().remove(0).unwrap_err();
    assert_eq!(error.code(), Some(ResponseError::UnknownLeaderEpoch));
    assert!(error.is_stale_metadata() && error.is_retriable());

    stale[0].leader = 4711;
    let listed = fixture
        .client
        .list_offsets(&stale, OffsetSpec::LogEnd)
        .await;
    assert_eq!(listed.into_iter().next().unwrap().unwrap().offset, 0);
}

#[tokio::test]
async fn transactions_hold_the_last_stable_offset_and_aborted_ones_are_named() {
    let fixture = Fixture::new(1, &[]).await;
    let topic = fixture.topic.name.to_string();
    // rdkafka's calls block.
    let (producer, topic) = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set(
                "transactional.id",
                format!("kafka-client-{}", Uuid::new_v4()),
            )
            .create()
            .unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        let record = BaseRecord::<(), str>::to(&topic).payload("aborted");
        producer.send(record).unwrap();
        producer.flush(TIMEOUT).unwrap();
        (producer, topic)
    })
    .await
    .unwrap();
    let committed = OffsetSpec::Latest(IsolationLevel::ReadCommitted);
    let uncommitted = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
    assert_eq!(fixture.offsets(committed).await, [0]);
    assert_eq!(fixture.offsets(uncommitted).await, [1]);

    tokio::task::spawn_blocking(move || {
        producer.abort_transaction(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        let record = BaseRecord::<(), str>::to(&topic).payload("committed");
        producer.send(record).unwrap();
        producer.commit_transaction(TIMEOUT).unwrap();
    })
    .await
    .unwrap();
    // The coordinator writes the markers after it has answered.
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while fixture.offsets(committed).await != [4] {
        assert!(tokio::time::Instant::now() < deadline, "no commit marker");
    }
    let connection = fixture.leader().await;
    let options = fetch_options(IsolationLevel::ReadCommitted);
    let wanted = [fixture.from(0, 0)];
    let answer = connection.fetch(&wanted, &options).unwrap().await.unwrap();
    let fetched = &answer.partitions[0];
    assert_eq!((fetched.last_stable_offset, fetched.high_watermark), (4, 4));
    let batches: Vec<Batch<'_>> = Batches::new(&fetched.records).map(Result::unwrap).collect();
    let control: Vec<bool> = batches.iter().map(Batch::is_control).collect();
    assert_eq!(control, [false, true, false, true]);
    let aborted = AbortedTransaction {
        producer_id: batches[0].producer_id(),
        first_offset: 0,
    };
    assert_eq!(fetched.aborted, [aborted]);
}

#[tokio::test]
async fn committed_offsets_of_a_group_are_read_with_their_metadata() {
    let fixture = Fixture::new(2, &[]).await;
    let connection = fixture.leader().await;
    let bytes = plain(5, 10, BASE_TIMESTAMP);
    produce_one(&connection, fixture.batch(1, bytes)).await;
    let group: Arc<str> = Arc::from(format!("kafka-client-{}", Uuid::new_v4()));
    let (name, topic) = (group.to_string(), fixture.topic.name.to_string());
    tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("group.id", &name)
            .create()
            .unwrap();
        let mut offsets = rdkafka::TopicPartitionList::new();
        let offset = rdkafka::Offset::Offset(3);
        offsets.add_partition_offset(&topic, 1, offset).unwrap();
        offsets
            .find_partition(&topic, 1)
            .unwrap()
            .set_metadata("half way");
        consumer.commit(&offsets, CommitMode::Sync).unwrap();
    })
    .await
    .unwrap();

    let groups = fixture.client.list_groups().await.unwrap();
    let listed = groups.iter().find(|g| g.group == group).unwrap();
    assert_eq!(
        (&listed.group_type, &*listed.state),
        (&GroupType::Classic, "Empty")
    );

    let asked = [Arc::from("kafka-client-no-such-group"), group];
    let mut committed = fixture.client.committed_offsets(&asked, |_| true).await;
    let expected = CommittedOffset {
        topic: fixture.topic.name.clone(),
        partition: 1,
        offset: 3,
        leader_epoch: None,
        metadata: "half way".to_owned(),
    };
    assert_eq!(committed.pop().unwrap().unwrap(), [expected]);
    assert_eq!(committed.pop().unwrap().unwrap(), []);
}

/// A group of its own for one test.
fn new_group() -> Arc<str> {
    Arc::from(format!("kafka-client-{}", Uuid::new_v4()))
}

fn committed(topic: &Arc<str>, partition: i32, offset: i64) -> CommittedOffset {
    CommittedOffset {
        topic: topic.clone(),
        partition,
        offset,
        leader_epoch: None,
        metadata: String::new(),
    }
}

async fn offsets_of(client: &Client, group: &Arc<str>) -> Vec<CommittedOffset> {
    let asked = [group.clone()];
    let mut committed = client.committed_offsets(&asked, |_| true).await;
    committed.pop().unwrap().unwrap()
}

async fn listed(client: &Client, group: &Arc<str>) -> Option<ListedGroup> {
    let groups = client.list_groups().await.unwrap();
    groups.into_iter().find(|listed| listed.group == *group)
}

#[tokio::test]
async fn offsets_are_committed_for_a_group_without_members_and_removed_again() {
    let fixture = Fixture::new(3, &[]).await;
    let (client, topic) = (&fixture.client, &fixture.topic.name);
    let group = new_group();
    let offsets = [
        committed(topic, 0, 3),
        CommittedOffset {
            leader_epoch: Some(0),
            metadata: "half way".to_owned(),
            ..committed(topic, 1, 5)
        },
        committed(topic, 2, 0),
    ];
    // Nothing is there to be removed, nor is the group.
    let places: Vec<_> = (0..3).map(|partition| (topic.clone(), partition)).collect();
    client.delete_offsets(&group, &places).await.unwrap();
    assert_eq!(listed(client, &group).await, None);

    client.commit_offsets(&group, &offsets).await.unwrap();
    assert_eq!(offsets_of(client, &group).await, offsets);
    let found = listed(client, &group).await.unwrap();
    assert_eq!(
        (&found.group_type, &*found.state, found.is_live()),
        (&GroupType::Classic, "Empty", false)
    );

    // The same again, and back.
    client.commit_offsets(&group, &offsets).await.unwrap();
    let back = [committed(topic, 1, 2)];
    client.commit_offsets(&group, &back).await.unwrap();
    client.delete_offsets(&group, &places[..1]).await.unwrap();
    let left = [back[0].clone(), offsets[2].clone()];
    assert_eq!(offsets_of(client, &group).await, left);
    for _ in 0..2 {
        client.delete_offsets(&group, &places).await.unwrap();
        assert_eq!(offsets_of(client, &group).await, []);
    }
}

#[tokio::test]
async fn refused_offsets_are_named_by_group_topic_and_partition() {
    let fixture = Fixture::new(1, &[]).await;
    let config = ClientConfig {
        retry_timeout: Duration::ZERO,
        ..config()
    };
    let client = Client::connect(config).await.unwrap();
    let group = new_group();
    let missing: Arc<str> = Arc::from("kafka-client-missing");
    let place = |error: KafkaError, code, topic: &str| {
        assert_eq!(error.code(), Some(code), "{error}");
        assert!(!error.is_group_in_use(), "{error}");
        let words = format!("consumer group {group}, topic {topic} partition 0");
        assert!(error.to_string().contains(&words), "{error}");
    };
    let unknown = ResponseError::UnknownTopicOrPartition;
    let offsets = [committed(&missing, 0, 1)];
    let error = client.commit_offsets(&group, &offsets).await.unwrap_err();
    place(error, unknown, &missing);
    // A group that is not there has nothing to be removed, whatever the topic.
    let there = [committed(&fixture.topic.name, 0, 1)];
    client.commit_offsets(&group, &there).await.unwrap();
    let places = [(missing.clone(), 0)];
    let error = client.delete_offsets(&group, &places).await.unwrap_err();
    place(error, unknown, &missing);

    // Above Kafka's default of `offset.metadata.max.bytes`.
    let large = CommittedOffset {
        metadata: "m".repeat(4097),
        ..committed(&fixture.topic.name, 0, 1)
    };
    let error = client.commit_offsets(&group, &[large]).await.unwrap_err();
    let too_large = ResponseError::OffsetMetadataTooLarge;
    place(error, too_large, &fixture.topic.name);
}

#[tokio::test]
async fn group_with_live_members_is_refused_until_they_are_gone() {
    let fixture = Fixture::new(1, &[]).await;
    let connection = fixture.leader().await;
    let bytes = plain(5, 10, BASE_TIMESTAMP);
    produce_one(&connection, fixture.batch(0, bytes)).await;
    let (client, topic) = (&fixture.client, &fixture.topic.name);
    for (protocol, group_type) in [
        ("classic", GroupType::Classic),
        ("consumer", GroupType::Consumer),
    ] {
        let group = new_group();
        let (name, subscribed) = (group.to_string(), topic.to_string());
        // rdkafka's calls block.
        let member = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = rdkafka::ClientConfig::new()
                .set("bootstrap.servers", bootstrap())
                .set("group.id", &name)
                .set("group.protocol", protocol)
                .set("enable.auto.commit", "false")
                .set("auto.offset.reset", "earliest")
                .create()
                .unwrap();
            consumer.subscribe(&[&subscribed]).unwrap();
            let deadline = std::time::Instant::now() + TIMEOUT;
            while consumer.poll(Duration::from_millis(100)).is_none() {
                assert!(std::time::Instant::now() < deadline, "no records");
            }
            consumer
        })
        .await
        .unwrap();

        let found = listed(client, &group).await.unwrap();
        assert!(found.is_live(), "{found:?}");
        assert_eq!(found.group_type, group_type);
        let offsets = [committed(topic, 0, 2)];
        let error = client.commit_offsets(&group, &offsets).await.unwrap_err();
        assert!(error.is_group_in_use(), "{protocol}: {error}");
        assert_eq!(error.fault(), Fault::Spec, "{protocol}: {error}");
        let places = [(topic.clone(), 0)];
        let error = client.delete_offsets(&group, &places).await.unwrap_err();
        assert!(error.is_group_in_use(), "{protocol}: {error}");

        tokio::task::spawn_blocking(move || drop(member))
            .await
            .unwrap();
        let deadline = tokio::time::Instant::now() + TIMEOUT;
        while listed(client, &group).await.is_some_and(|g| g.is_live()) {
            assert!(tokio::time::Instant::now() < deadline, "{protocol}: live");
        }
        client.commit_offsets(&group, &offsets).await.unwrap();
        assert_eq!(offsets_of(client, &group).await, offsets, "{protocol}");
        client.delete_offsets(&group, &places).await.unwrap();
        assert_eq!(offsets_of(client, &group).await, [], "{protocol}");
    }
}

/// An address where nobody listens.
async fn closed_port() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn any_bootstrap_server_is_enough() {
    let (dead, alive) = (closed_port().await, bootstrap());
    let client = Client::connect(config_for(&[&dead, &alive])).await.unwrap();
    assert!(!client.brokers().is_empty());
}

#[tokio::test]
async fn cluster_that_cannot_be_reached_is_named_with_every_reason_within_the_time() {
    let (a, b) = (closed_port().await, closed_port().await);
    let config = ClientConfig {
        retry_timeout: Duration::from_millis(500),
        ..config_for(&[&a, &b])
    };
    let started = std::time::Instant::now();
    let error = Client::connect(config).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "failed to reach any of bootstrapServers [{a}, {b}]: {a}: connection refused; {b}: connection refused"
        )
    );
    assert_eq!(error.fault(), Fault::Unavailable);
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(300),
        "tried once only: {took:?}"
    );
    assert!(took < Duration::from_secs(5), "{took:?}");
}
