//! Whole runs of backups and restores with groups, and what members of groups get next.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "support of tests"
)]

pub mod history;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backup_support::{Archive, TIMEOUT, blocking, bootstrap, cluster, plan, producer};
use crate::group_support::*;
use crate::restore_support;
use futures::{StreamExt, stream};
use indicatif::MultiProgress;
use jiff::Timestamp;
use kafka_backup_shared::plan::{
    BackupPlan, CarriedGroups, CarryOverTarget, Plan, RestorePlan, RestoreRequest, RunRef, Topics,
};
use kafka_backup_shared::report::OffsetsReport;
use kafka_backup_shared::spec::{KafkaCluster, MissingTopics, PvcStorage, Storage, TimeRange};
use kafka_backup_worker::args::At;
use kafka_backup_worker::context::{Completed, Context, DEFAULT_LEASE};
use kafka_backup_worker::kafka::{Client, ClientConfig, CommittedOffset};
use kafka_backup_worker::log::Format;
use kafka_backup_worker::outcome::Failure;
use kafka_backup_worker::run::{Settings, engine};
use kafka_backup_worker::store::Places;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::Producer;
use rdkafka::{Message, Offset, TopicPartitionList};
use uuid::Uuid;

pub const FIRST: &str = "20260101-000000";
pub const SECOND: &str = "20260102-000000";

/// Groups of one test.
pub type Groups = BTreeMap<String, Vec<Position>>;
/// What topics are called by now, by what they were called first.
pub type Names = BTreeMap<String, String>;

/// A cluster of the lab.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    Source,
    Target,
}

impl Side {
    pub fn servers(self) -> String {
        match self {
            Self::Source => bootstrap(),
            Self::Target => restore_support::bootstrap(),
        }
    }

    pub fn cluster(self) -> KafkaCluster {
        cluster(&self.servers())
    }

    pub async fn client(self) -> Client {
        Client::connect(ClientConfig::new(
            &self.cluster(),
            Path::new(""),
            "carry-over-test",
        ))
        .await
        .unwrap()
    }
}

pub fn storage() -> Storage {
    Storage {
        pvc: Some(PvcStorage {
            claim_name: "unused".into(),
            sub_path: None,
        }),
        ..plan(FIRST, &[]).storage
    }
}

/// A whole run.
pub async fn done(archive: &Archive, plan: Plan) -> Result<Completed, Failure> {
    done_with(archive, plan, &restore_support::context()).await
}

pub async fn done_with(
    archive: &Archive,
    plan: Plan,
    context: &Context,
) -> Result<Completed, Failure> {
    let settings = Settings {
        places: Places {
            secrets_dir: PathBuf::new(),
            volume_dir: Some(archive.folder().to_owned()),
        },
        mapping_file: None,
        at: At::Terminal,
        memory_budget: context.memory_budget,
        lease: DEFAULT_LEASE,
        push_url: None,
        push_token_file: None,
        push_ca: None,
        job_uid: None,
        termination_log: None,
        format: Format::Text,
        bars: MultiProgress::new(),
    };
    // As it travels to a pod.
    let plan: Plan = serde_json::from_str(&plan.to_json().unwrap()).unwrap();
    engine(&plan, &settings, context).await
}

/// A backup of `topics` and of the groups that `groups` means.
pub fn backup<'a>(
    side: Side,
    run: &str,
    topics: impl IntoIterator<Item = &'a String>,
    groups: &str,
) -> BackupPlan {
    let topics: Vec<&str> = topics.into_iter().map(String::as_str).collect();
    BackupPlan {
        cluster: side.cluster(),
        storage: storage(),
        consumer_groups: Some(vec![groups.to_owned()]),
        ..plan(run, &topics)
    }
}

/// A restore of the newest run with all of its groups.
pub fn restore(side: Side, names: &Names, to: CarryOverTarget) -> RestorePlan {
    let included = Topics {
        include: names.keys().cloned().collect(),
        exclude: vec![],
        missing: MissingTopics::Fail,
    };
    RestorePlan {
        run: RunRef {
            kind: "KafkaRestore".into(),
            uid: Uuid::new_v4().to_string(),
            ..RunRef::example()
        },
        storage: storage(),
        cluster: side.cluster(),
        request: RestoreRequest {
            topic_mapping: names
                .iter()
                .filter(|(from, to)| from != to)
                .map(|(from, to)| (from.clone(), to.clone()))
                .collect(),
            ..RestoreRequest::new(RestoreRequest::LATEST, included)
        },
        groups: Some(CarriedGroups {
            groups: None,
            to,
            snapshot_id: None,
        }),
        rate_limit: None,
        dry_run: false,
    }
}

pub async fn carried(archive: &Archive, plan: RestorePlan) -> OffsetsReport {
    let completed = done(archive, Plan::Restore(plan)).await.unwrap();
    completed.offsets.unwrap()
}

/// All records of a partition, with their offsets.
pub async fn log_of(side: Side, topic: &str, partition: i32) -> Vec<(i64, Read)> {
    let topic = topic.to_owned();
    blocking(move || {
        let consumer = consumer(&side.servers(), "carry-over-reader");
        records(&consumer, &topic, partition, Offset::Beginning).collect()
    })
    .await
}

/// What a group has committed for a partition, and the record that its members get next; `None`: the next new one.
#[derive(Clone, Debug)]
pub struct Next {
    pub group: String,
    /// At the source.
    pub committed: Position,
    pub record: Option<Read>,
}

/// What groups get next of logs of a source, of records with timestamps in `time`.
pub fn expected(
    groups: &Groups,
    logs: &BTreeMap<(String, i32), Vec<(i64, Read)>>,
    time: TimeRange,
) -> Vec<Next> {
    let mut all = Vec::new();
    for (group, positions) in groups {
        for (topic, partition, offset) in positions {
            let mut log = logs[&(topic.clone(), *partition)].iter();
            let found = log.find(|(at, read)| {
                at >= offset && read.timestamp.is_none_or(|ms| time.contains(ms))
            });
            all.push(Next {
                group: group.clone(),
                committed: (topic.clone(), *partition, *offset),
                record: found.map(|(_, read)| read.clone()),
            });
        }
    }
    all
}

/// What a restore adds is no part of a record.
pub fn plain(mut read: Read) -> Read {
    read.headers.retain(|(name, _)| !name.starts_with("x-"));
    read
}

/// The first record that a consumer gets of each partition, all of which have one.
pub fn firsts(
    consumer: &BaseConsumer,
    assignment: &TopicPartitionList,
) -> BTreeMap<(String, i32), Read> {
    let mut found = BTreeMap::new();
    consumer.assign(assignment).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while found.len() < assignment.count() {
        assert!(
            Instant::now() < deadline,
            "of {assignment:?} only {:?} have records",
            found.keys()
        );
        match consumer.poll(Duration::from_secs(1)) {
            Some(Ok(message)) => {
                let place = (message.topic().to_owned(), message.partition());
                found.entry(place).or_insert_with(|| Read::of(&message));
            }
            Some(Err(KafkaError::PartitionEOF(_))) | None => {}
            Some(Err(error)) => panic!("{assignment:?}: {error}"),
        }
    }
    found
}

/// Asserts that members of each group get from what it has committed in a cluster on what they would have got at the source, and
/// that the metadata is still what was committed there.
pub async fn assert_goes_on(
    side: Side,
    names: &Names,
    moved: impl Fn(i32) -> i32,
    expected: &[Next],
    what: &str,
) {
    let mut groups: BTreeMap<&str, Vec<(Next, String, i32)>> = BTreeMap::new();
    for next in expected {
        let (topic, partition, _) = &next.committed;
        let place = (next.clone(), names[topic].clone(), moved(*partition));
        groups.entry(&next.group).or_default().push(place);
    }
    let checks = groups.into_iter().map(|(group, places)| {
        let (group, what) = (group.to_owned(), what.to_owned());
        blocking(move || {
            let consumer = consumer_with(&side.servers(), &group, "error");
            let mut list = TopicPartitionList::new();
            for (_, topic, partition) in &places {
                list.add_partition(topic, *partition);
            }
            let committed = consumer.committed_offsets(list, TIMEOUT).unwrap();
            let mut stored = TopicPartitionList::new();
            for (next, topic, partition) in &places {
                let (_, first, at) = &next.committed;
                let found = committed.find_partition(topic, *partition).unwrap();
                let place = format!("{what}: {group} in {topic} {partition}, {next:?}, {found:?}");
                assert!(matches!(found.offset(), Offset::Offset(_)), "{place}");
                assert_eq!(found.metadata(), metadata(&group, *first, *at), "{place}");
                if next.record.is_some() {
                    let offset = Offset::Stored;
                    stored
                        .add_partition_offset(topic, *partition, offset)
                        .unwrap();
                } else {
                    let read = records(&consumer, topic, *partition, found.offset()).next();
                    assert_eq!(read, None, "{place}");
                }
            }
            let read = firsts(&consumer, &stored);
            for (next, topic, partition) in places {
                let place = format!("{what}: {group} in {topic} {partition}, {next:?}");
                let read = read.get(&(topic, partition)).cloned().map(plain);
                assert_eq!(read, next.record.map(plain), "{place}");
            }
        })
    });
    // A client waits most of the time: up to a second for a topic that is new to it.
    stream::iter(checks)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
}

/// Writes a record into each partition, and asserts that groups that had read everything get it.
pub async fn assert_new_records_are_next(
    side: Side,
    names: &Names,
    moved: impl Fn(i32) -> i32,
    expected: &[Next],
    what: &str,
) {
    let mut at_end: Vec<Next> = expected.to_vec();
    at_end.retain(|next| next.record.is_none());
    let places = at_end.iter().map(|next| {
        let (topic, partition, _) = &next.committed;
        (names[topic].clone(), moved(*partition))
    });
    let places: BTreeSet<(String, i32)> = places.collect();
    let time = Timestamp::now().as_millisecond();
    let written = places.clone();
    blocking(move || {
        let producer = producer(&[("bootstrap.servers", &side.servers())]);
        for (topic, partition) in &written {
            write(&producer, topic, *partition, 1_000_000, "new", time);
        }
        producer.flush(TIMEOUT).unwrap();
    })
    .await;
    let mut new: BTreeMap<(String, i32), Read> = BTreeMap::new();
    for (topic, partition) in places {
        let (_, last) = log_of(side, &topic, partition).await.pop().unwrap();
        assert_eq!(last.key.as_deref(), Some(&b"new"[..]));
        new.insert((topic, partition), last);
    }
    for next in &mut at_end {
        let (topic, partition, _) = &next.committed;
        let place = (names[topic].clone(), moved(*partition));
        next.record = Some(new[&place].clone());
    }
    assert_goes_on(side, names, moved, &at_end, what).await;
}

/// What groups have committed in a cluster, for all topics.
pub async fn all_committed(
    side: Side,
    groups: impl IntoIterator<Item = &String>,
) -> BTreeMap<String, Vec<CommittedOffset>> {
    let groups: Vec<Arc<str>> = groups
        .into_iter()
        .map(|id| Arc::from(id.as_str()))
        .collect();
    let client = side.client().await;
    let found = client.committed_offsets(&groups, |_| true).await;
    let found = groups.iter().zip(found).map(|(group, found)| {
        let mut found = found.unwrap();
        found.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        (group.to_string(), found)
    });
    found.collect()
}

/// The same in short: topic, partition, offset.
pub fn positions(committed: &[CommittedOffset]) -> Vec<Position> {
    let positions = committed
        .iter()
        .map(|one| (one.topic.to_string(), one.partition, one.offset));
    positions.collect()
}

pub async fn topics_of(side: Side) -> BTreeSet<String> {
    blocking(move || {
        let consumer = consumer(&side.servers(), "carry-over-reader");
        let metadata = consumer.fetch_metadata(None, TIMEOUT).unwrap();
        let topics = metadata.topics().iter();
        topics.map(|topic| topic.name().to_owned()).collect()
    })
    .await
}

pub async fn create_in_target(topic: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", Side::Target.servers())
        .create()
        .unwrap();
    let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let options = AdminOptions::new();
    for created in admin.create_topics([&new], &options).await.unwrap() {
        created.unwrap();
    }
    let client = Side::Target.client().await;
    let names = [Arc::from(topic)];
    client.topics_with_leaders(&names).await.unwrap();
}

/// `count` records in batches of `each`, round the partitions; numbers and times ascend.
pub async fn fill(topic: &str, partitions: i32, count: i64, each: i64, oldest: i64) {
    let topic = topic.to_owned();
    blocking(move || {
        let codecs = ["none", "gzip", "zstd"].map(|codec| producer(&[("compression.type", codec)]));
        for number in 0..count {
            let turn = number / i64::from(partitions);
            let producer = &codecs[(turn / each % 3) as usize];
            let partition = (number % i64::from(partitions)) as i32;
            let key = format!("key-{number}");
            write(
                producer,
                &topic,
                partition,
                number,
                &key,
                oldest + number * 1000,
            );
            if turn % each == each - 1 {
                producer.flush(TIMEOUT).unwrap();
            }
        }
        codecs
            .iter()
            .for_each(|codec| codec.flush(TIMEOUT).unwrap());
    })
    .await;
}

pub fn an_hour_ago() -> i64 {
    Timestamp::now().as_millisecond() - 3_600_000
}
