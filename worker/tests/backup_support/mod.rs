//! Topics to back up, records in them, and a reader of what was stored.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part"
)]

#[path = "../lab_s3/mod.rs"]
mod lab_s3;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use kafka_backup_shared::archive::batch::Batches;
use kafka_backup_shared::archive::layout::{ChainKey, Layout};
use kafka_backup_shared::archive::manifest::{Manifest, TopicPart, from_json, from_json_zst};
use kafka_backup_shared::archive::record;
use kafka_backup_shared::plan::{
    ArchiveName, BackupPlan, IsolationLevel, RunRef, SegmentLimits, Topics,
};
use kafka_backup_shared::spec::{Compression, KafkaCluster, MissingTopics, Storage, StorageType};
use kafka_backup_worker::backup::{self, BackupError};
use kafka_backup_worker::context::{Completed, Context, Progress};
use kafka_backup_worker::kafka::{Client, ClientConfig, NewTopic};
use kafka_backup_worker::store::Store;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const TIMEOUT: Duration = Duration::from_secs(30);

pub fn bootstrap() -> String {
    std::env::var("KAFKA_BACKUP_LAB_SOURCE")
        .expect("KAFKA_BACKUP_LAB_SOURCE is not set: run these tests by `cargo lab test`")
}

pub fn cluster(servers: &str) -> KafkaCluster {
    KafkaCluster::plaintext(servers.split(',').map(str::to_owned).collect())
}

/// A client of the source cluster.
pub async fn client() -> Client {
    let config = ClientConfig::new(&cluster(&bootstrap()), FilePath::new(""), "backup-test");
    Client::connect(config).await.unwrap()
}

/// A topic name that no other test has.
pub fn name(of: &str) -> String {
    format!("backup-{of}-{}", Uuid::new_v4().simple())
}

pub async fn create_topic(name: &str, partitions: i32, configs: &[(&str, &str)]) {
    let client = client().await;
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let topic = NewTopic {
        name: Arc::from(name),
        partitions,
        replication_factor: 1,
        configs: configs.iter().map(own).collect(),
    };
    for created in client.create_topics(&[topic]).await.unwrap() {
        created.unwrap();
    }
    client
        .topics_with_leaders(&[Arc::from(name)])
        .await
        .unwrap();
}

fn admin() -> AdminClient<DefaultClientContext> {
    rdkafka::ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .create()
        .unwrap()
}

pub async fn delete_topic(name: &str) {
    for deleted in admin()
        .delete_topics(&[name], &AdminOptions::new())
        .await
        .unwrap()
    {
        deleted.unwrap();
    }
}

/// Deletes the records of a partition below `offset`.
pub async fn delete_records(topic: &str, partition: i32, offset: i64) {
    let mut offsets = TopicPartitionList::new();
    offsets
        .add_partition_offset(topic, partition, Offset::Offset(offset))
        .unwrap();
    admin()
        .delete_records(&offsets, &AdminOptions::new())
        .await
        .unwrap();
}

pub fn producer(settings: &[(&str, &str)]) -> BaseProducer {
    let mut config = rdkafka::ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap())
        .set("queue.buffering.max.messages", "1000000");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

pub fn send(producer: &BaseProducer, topic: &str, partition: i32, key: &str, value: &[u8]) {
    let record = BaseRecord::to(topic)
        .partition(partition)
        .key(key)
        .payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
}

/// `count` records of `size` bytes in each partition.
pub async fn fill(topic: &str, partitions: i32, count: usize, size: usize) {
    let topic = topic.to_owned();
    blocking(move || {
        let producer = producer(&[("batch.num.messages", "20")]);
        for index in 0..count {
            for partition in 0..partitions {
                let mut value = format!("{index} of {partition} ").into_bytes();
                value.resize(size, b'.');
                send(
                    &producer,
                    &topic,
                    partition,
                    &format!("key-{index}"),
                    &value,
                );
            }
        }
        producer.flush(TIMEOUT).unwrap();
    })
    .await;
}

pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

pub fn plan(run: &str, topics: &[&str]) -> BackupPlan {
    BackupPlan {
        run: RunRef {
            run: format!("orders-{run}"),
            ..RunRef::example()
        },
        archive: ArchiveName {
            namespace: "default".into(),
            name: "orders".into(),
        },
        cluster: cluster(&bootstrap()),
        storage: Storage {
            storage_type: StorageType::Pvc,
            s3: None,
            azure: None,
            gcs: None,
            pvc: None,
        },
        topics: Topics {
            include: topics.iter().map(|topic| topic.to_string()).collect(),
            exclude: vec![],
            missing: MissingTopics::Fail,
        },
        consumer_groups: None,
        source_cluster_id: None,
        isolation_level: IsolationLevel::ReadCommitted,
        segments: SegmentLimits {
            checkpoint_interval_secs: 30,
            segment_max_bytes: 256 << 10,
        },
        retention: None,
        compression: Compression::Source,
        compression_level: None,
        rate_limit: None,
        include_offset_headers: false,
    }
}

pub fn context() -> Context {
    Context {
        progress: Progress::default().into(),
        cancel: CancellationToken::new(),
        memory_budget: 8 << 20,
        lease: kafka_backup_worker::context::DEFAULT_LEASE,
        secrets_dir: Default::default(),
    }
}

pub async fn run(plan: &BackupPlan, store: &Store) -> Result<Completed, BackupError> {
    backup::run(plan, store, &context()).await
}

/// An archive in a place of its own.
pub struct Archive {
    place: Place,
    pub store: Store,
    pub layout: Layout,
    /// What is stored, without our rules.
    pub objects: Arc<dyn ObjectStore>,
}

enum Place {
    Folder(tempfile::TempDir),
    S3,
}

/// A stored record: offset, key and value.
pub type Stored = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

impl Archive {
    /// In a folder.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let objects = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
        Self::at(Place::Folder(folder), store, objects)
    }

    /// On the S3 server of the lab.
    pub fn in_s3() -> Self {
        let (store, objects) = lab_s3::open();
        Self::at(Place::S3, store, objects)
    }

    fn at(place: Place, store: Store, objects: Arc<dyn ObjectStore>) -> Self {
        let layout = Layout::new(&ArchiveName {
            namespace: "default".into(),
            name: "orders".into(),
        });
        Self {
            place,
            store,
            layout,
            objects,
        }
    }

    /// The folder that it is in.
    pub fn folder(&self) -> &FilePath {
        match &self.place {
            Place::Folder(folder) => folder.path(),
            Place::S3 => panic!("this archive is in no folder"),
        }
    }

    pub fn is_in_s3(&self) -> bool {
        matches!(self.place, Place::S3)
    }

    /// Its objects as a worker finds them through a store of ours.
    pub fn through(objects: Arc<dyn ObjectStore>) -> Store {
        Store::new(objects, "the test's store", None).unwrap()
    }

    /// The keys of all its objects.
    pub async fn keys(&self) -> BTreeSet<String> {
        let found = self
            .store
            .list("default", |key, _| Some(key.to_owned()))
            .await;
        found.unwrap().into_iter().collect()
    }

    pub async fn read(&self, key: &str) -> Bytes {
        let found = self.objects.get(&Path::parse(key).unwrap()).await;
        found.unwrap().bytes().await.unwrap()
    }

    /// Writes an object, whatever was there.
    pub async fn write(&self, key: &str, content: impl Into<Bytes>) {
        let content = content.into();
        let path = Path::parse(key).unwrap();
        self.objects.put(&path, content.into()).await.unwrap();
    }

    pub async fn remove(&self, key: &str) {
        let path = Path::parse(key).unwrap();
        self.objects.delete(&path).await.unwrap();
    }

    /// Another one in the same kind of place, with the same objects.
    pub async fn copy(&self) -> Self {
        let copy = match self.place {
            Place::Folder(_) => Self::new(),
            Place::S3 => Self::in_s3(),
        };
        futures::stream::iter(self.keys().await)
            .for_each_concurrent(8, |key| {
                let copy = &copy;
                async move { copy.write(&key, self.read(&key).await).await }
            })
            .await;
        copy
    }

    pub async fn manifest(&self, run: &str) -> Manifest {
        let key = self.layout.manifest(&format!("orders-{run}"));
        from_json(
            &key,
            &self.store.get(&key).await.unwrap().expect("no manifest"),
        )
        .unwrap()
    }

    pub async fn partial(&self, run: &str) -> Manifest {
        let key = self.layout.partial(&format!("orders-{run}"));
        from_json(
            &key,
            &self
                .store
                .get(&key)
                .await
                .unwrap()
                .expect("no partial.json"),
        )
        .unwrap()
    }

    pub async fn part(&self, manifest: &Manifest, topic: &str) -> TopicPart {
        let key = self.layout.topic_part(&manifest.topics[topic].part, topic);
        from_json_zst(&key, &self.store.get(&key).await.unwrap().expect("no part")).unwrap()
    }

    /// Keys and sizes of all segments.
    pub async fn segments(&self) -> BTreeMap<String, u64> {
        let all = self
            .store
            .list("default/orders/topics", |key, size| {
                Some((key.to_owned(), size))
            })
            .await
            .unwrap();
        all.into_iter().collect()
    }

    /// Content of the pinned segments of a partition, in order.
    pub async fn bytes(&self, part: &TopicPart, partition: i32) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (_, content) in self.contents(part, partition).await {
            bytes.extend_from_slice(&content);
        }
        bytes
    }

    async fn contents(&self, part: &TopicPart, partition: i32) -> Vec<((i64, i64), Bytes)> {
        let pinned = part
            .partitions
            .iter()
            .find(|p| p.partition == partition)
            .unwrap();
        let chain = ChainKey {
            topic: part.topic.clone(),
            topic_id: part.description.topic_id,
            partition,
            generation: pinned.generation.clone(),
        };
        let mut contents = Vec::new();
        for link in pinned.links() {
            let key = self.layout.segment(&chain, &link.name);
            let content = self
                .store
                .get(&key)
                .await
                .unwrap()
                .expect("a pinned segment is missing");
            assert_eq!(crc32c::crc32c(&content), link.name.crc32c, "{key}");
            contents.push(((link.range.start, link.range.end), content));
        }
        contents
    }

    /// The records of a partition as a run pinned them.
    pub async fn records(&self, manifest: &Manifest, topic: &str, partition: i32) -> Vec<Stored> {
        let part = self.part(manifest, topic).await;
        let mut stored = Vec::new();
        for ((start, end), content) in self.contents(&part, partition).await {
            for batch in Batches::new(&content) {
                let batch = batch.unwrap();
                batch.verify_crc().unwrap();
                for record in record::decode(&batch).unwrap() {
                    if (start..end).contains(&record.offset) {
                        let mut body = &record.body[..];
                        let key = field(&mut body);
                        stored.push((record.offset, key, field(&mut body)));
                    }
                }
            }
        }
        stored
    }
}

fn field(body: &mut &[u8]) -> Option<Vec<u8>> {
    let length = usize::try_from(record::read_varint(body).unwrap()).ok()?;
    let (field, rest) = body.split_at(length);
    *body = rest;
    Some(field.to_vec())
}

/// What an independent consumer reads of a partition up to `end`, the position after the last record.
pub async fn consume(
    topic: &str,
    partition: i32,
    isolation: &'static str,
    end: i64,
) -> Vec<Stored> {
    let topic = topic.to_owned();
    blocking(move || {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("group.id", "backup-test")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", isolation)
            .create()
            .unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&topic, partition, Offset::Beginning)
            .unwrap();
        consumer.assign(&assignment).unwrap();
        let mut read = Vec::new();
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            match consumer.poll(Duration::from_secs(1)) {
                Some(Ok(message)) if message.offset() < end => {
                    let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
                    read.push((message.offset(), own(message.key()), own(message.payload())));
                }
                Some(Ok(_)) | Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => {
                    return read;
                }
                Some(Err(error)) => panic!("{error}"),
                None => {}
            }
        }
        panic!("the consumer did not reach the end of {topic}");
    })
    .await
}
