//! An archive made by hand, and a reader of what was restored from it.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "support of tests; each test file uses its part"
)]

pub mod raw;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::batch::{self, Batches};
use kafka_backup_shared::archive::codec::Codec;
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, TopicId};
use kafka_backup_shared::archive::manifest::*;
use kafka_backup_shared::archive::record::{self, Record};
use kafka_backup_shared::archive::restore::OffsetPiece;
use kafka_backup_shared::plan::{
    ArchiveName, IsolationLevel, RestorePlan, RestoreRequest, RunRef, Topics,
};
use kafka_backup_shared::spec::*;
use kafka_backup_worker::context::{Completed, Context, Progress};
use kafka_backup_worker::kafka::{self, *};
use kafka_backup_worker::restore::{self, RestoreError};
use kafka_backup_worker::store::Store;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const RUN: &str = "orders-20260102-030405";
/// Old enough that brokers forget their producers by it.
pub const LONG_AGO: i64 = 1_700_000_000_000;

pub fn bootstrap() -> String {
    std::env::var("KAFKA_BACKUP_LAB_TARGET")
        .expect("KAFKA_BACKUP_LAB_TARGET is not set: run these tests by `cargo lab test`")
}

pub fn cluster() -> KafkaCluster {
    KafkaCluster::plaintext(bootstrap().split(',').map(str::to_owned).collect())
}

pub async fn client() -> Client {
    Client::connect(ClientConfig::new(&cluster(), Path::new(""), "restore-test"))
        .await
        .unwrap()
}

/// A record's bytes after its deltas: key, value, one header.
pub fn body(key: Option<&str>, value: &str) -> Vec<u8> {
    let mut body = Vec::new();
    let bytes = |body: &mut Vec<u8>, text: Option<&str>| match text {
        None => record::write_varint(body, -1),
        Some(text) => {
            record::write_varint(body, text.len() as i64);
            body.extend_from_slice(text.as_bytes());
        }
    };
    bytes(&mut body, key);
    bytes(&mut body, Some(value));
    record::write_varint(&mut body, 1);
    bytes(&mut body, Some("trace"));
    bytes(&mut body, Some("7"));
    body
}

/// A source batch: offsets of its records, all in `[base, end)`.
pub struct Source {
    pub base: i64,
    pub end: i64,
    pub offsets: Vec<i64>,
    pub codec: Codec,
    pub append_time: bool,
    pub size: usize,
}

impl Source {
    pub fn dense(base: i64, count: i64, codec: Codec, size: usize) -> Self {
        let end = base + count;
        Self {
            base,
            end,
            offsets: (base..end).collect(),
            codec,
            append_time: false,
            size,
        }
    }

    fn build(&self) -> (Vec<u8>, Vec<Record>) {
        let base_timestamp = LONG_AGO + self.base;
        let mut payload = Vec::new();
        let mut records = Vec::new();
        for offset in &self.offsets {
            // Timestamps that go back and forth.
            let timestamp = LONG_AGO + offset * 10 - (offset % 3) * 1000;
            let body = body(
                Some(&format!("key-{offset}")),
                &format!("{offset};").repeat(self.size),
            );
            record::write_record(
                &mut payload,
                timestamp - base_timestamp,
                offset - self.base,
                &body,
            );
            records.push(Record {
                offset: *offset,
                timestamp,
                body,
            });
        }
        let max_timestamp = records.iter().map(|r| r.timestamp).max().unwrap_or(-1);
        if self.append_time {
            records.iter_mut().for_each(|r| r.timestamp = max_timestamp);
        }
        let payload = self.codec.compress(&payload).unwrap();
        let count = records.len() as i32;
        let mut bytes = batch::build(
            self.codec.id(),
            base_timestamp,
            max_timestamp,
            count,
            &payload,
        );
        let delta = (self.end - self.base - 1) as i32;
        bytes[23..27].copy_from_slice(&delta.to_be_bytes());
        bytes[12..16].copy_from_slice(&4i32.to_be_bytes());
        let append_time = if self.append_time { 0x08 } else { 0 };
        batch::set_attributes(&mut bytes, i16::from(self.codec.id()) | append_time | 0x10);
        batch::set_base_offset(&mut bytes, self.base);
        batch::set_producer(&mut bytes, 99, 1, 5);
        batch::seal(&mut bytes);
        (bytes, records)
    }
}

/// A source partition: batches in segments.
pub struct Partition {
    pub log_start: i64,
    pub segments: Vec<Vec<Source>>,
}

/// What a consumer of the source would have seen.
pub type Seen = BTreeMap<(String, i32), Vec<Record>>;

pub struct Archive {
    pub folder: tempfile::TempDir,
    pub store: Store,
    pub layout: Layout,
    pub name: ArchiveName,
    pub seen: Seen,
    /// The same with what the source had deleted before the run.
    pub whole: Seen,
    topics: BTreeMap<String, ManifestTopic>,
}

impl Archive {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_folder(folder.path()).unwrap();
        let name = ArchiveName {
            namespace: "shop".into(),
            name: "orders".into(),
        };
        let layout = Layout::new(&name);
        Self {
            folder,
            store,
            layout,
            name,
            seen: Seen::new(),
            whole: Seen::new(),
            topics: BTreeMap::new(),
        }
    }

    pub async fn topic(&mut self, topic: &str, configs: &[(&str, &str)], partitions: &[Partition]) {
        let topic_id = TopicId(Uuid::new_v4().into_bytes());
        let (mut pinned, mut records, mut bytes) = (Vec::new(), 0, 0);
        for (number, partition) in (0i32..).zip(partitions) {
            let chain = ChainKey {
                topic: topic.into(),
                topic_id,
                partition: number,
                generation: RUN.into(),
            };
            let mut names = Vec::new();
            let seen = self.seen.entry((topic.to_owned(), number)).or_default();
            let mut end = partition.log_start;
            for segment in &partition.segments {
                let (mut object, mut held) = (Vec::new(), Vec::new());
                for source in segment {
                    let (bytes, records) = source.build();
                    object.extend_from_slice(&bytes);
                    held.extend(records);
                }
                let start = segment.first().map_or(end, |source| source.base);
                end = segment.last().map_or(end, |source| source.end);
                let name = SegmentName {
                    start,
                    end,
                    leader_epoch: 4,
                    records: held.len() as u64,
                    max_timestamp: held.iter().map(|r| r.timestamp).max().unwrap_or(-1),
                    crc32c: crc32c::crc32c(&object),
                };
                bytes += object.len() as u64;
                let key = self.layout.segment(&chain, &name);
                self.store.create(&key, object.into()).await.unwrap();
                names.push(name);
                let whole = self.whole.entry((topic.to_owned(), number)).or_default();
                whole.extend(held.iter().cloned());
                seen.extend(held.into_iter().filter(|r| r.offset >= partition.log_start));
            }
            records += seen.len() as u64;
            pinned.push(PinnedPartition {
                partition: number,
                log_start: partition.log_start,
                end,
                high_watermark: end,
                generation: RUN.into(),
                segments: names,
                gaps: vec![],
            });
        }
        let own = |(name, value): &(&str, &str)| {
            (
                (*name).to_owned(),
                ConfigValue {
                    value: Some((*value).to_owned()),
                    source: 1,
                },
            )
        };
        let part = TopicPart {
            format_version: FORMAT_VERSION,
            topic: topic.into(),
            description: TopicDescription {
                topic_id,
                replication_factor: 3,
                configs: configs.iter().map(own).collect(),
            },
            partitions: pinned,
        };
        let key = self.layout.topic_part(RUN, topic);
        self.store
            .create(&key, to_json_zst(&part).into())
            .await
            .unwrap();
        let partitions = part.partitions.len() as u32;
        self.topics.insert(
            topic.into(),
            ManifestTopic {
                part: RUN.into(),
                topic_id,
                partitions,
                records,
                bytes,
                added_records: records,
                added_bytes: bytes,
                gaps: 0,
                added_gaps: 0,
            },
        );
    }

    /// Writes the manifest: the run is complete.
    pub async fn commit(&self) {
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            run: RunRef::example(),
            start_time: Timestamp::UNIX_EPOCH,
            completion_time: Timestamp::UNIX_EPOCH,
            cluster_id: "source".into(),
            isolation_level: IsolationLevel::ReadCommitted,
            base: None,
            records: 0,
            bytes: 0,
            topics: self.topics.clone(),
            failed: BTreeMap::new(),
            missing_topics: vec![],
            only_visible: false,
            source_cluster_id: None,
            groups: None,
            held_back: Default::default(),
            include_offset_headers: false,
        };
        let key = self.layout.manifest(RUN);
        self.store
            .create(&key, to_json(&manifest).into())
            .await
            .unwrap();
    }

    /// A plan to restore all topics under names of this test's own.
    pub fn plan(&self) -> RestorePlan {
        let test = Uuid::new_v4();
        RestorePlan {
            run: RunRef {
                kind: "KafkaRestore".into(),
                uid: test.to_string(),
                ..RunRef::example()
            },
            rate_limit: None,
            dry_run: false,
            groups: None,
            storage: Storage {
                storage_type: StorageType::Pvc,
                s3: None,
                azure: None,
                gcs: None,
                pvc: Some(PvcStorage {
                    claim_name: "unused".into(),
                    sub_path: None,
                }),
            },
            cluster: cluster(),
            request: RestoreRequest {
                topic_mapping: self
                    .topics
                    .keys()
                    .map(|t| (t.clone(), format!("restored-{t}-{test}")))
                    .collect(),
                ..RestoreRequest::new(
                    RUN,
                    Topics {
                        include: vec!["*".into()],
                        exclude: vec![],
                        missing: MissingTopics::Fail,
                    },
                )
            },
        }
    }

    pub async fn restore(
        &self,
        plan: &RestorePlan,
        context: &Context,
    ) -> Result<Completed, RestoreError> {
        restore::run(plan, &self.store, context).await
    }

    /// Asserts that the target has exactly what the source had, numbered without holes, and that the offset map tells where.
    pub async fn assert_restored(&self, plan: &RestorePlan) {
        let client = client().await;
        for ((topic, partition), seen) in &self.seen {
            let target = &plan.request.topic_mapping[topic];
            let found = read(&client, target, *partition).await;
            assert_eq!(found.len(), seen.len(), "records of {topic} {partition}");
            for (index, (found, seen)) in found.iter().zip(seen).enumerate() {
                assert_eq!(found.offset, index as i64, "{topic} {partition}");
                assert_eq!(
                    found.timestamp, seen.timestamp,
                    "{topic} {partition} source offset {}",
                    seen.offset
                );
                assert_eq!(
                    found.body, seen.body,
                    "{topic} {partition} source offset {}",
                    seen.offset
                );
            }
            let map = self.offset_map(plan, topic, *partition).await;
            for (index, record) in seen.iter().enumerate() {
                let run = map
                    .iter()
                    .find(|run| (run.start..run.end).contains(&record.offset));
                let run = run.unwrap_or_else(|| {
                    panic!("{topic} {partition}: {} is not mapped", record.offset)
                });
                let target = index as i64;
                if run.records == (run.end - run.start) as u64 {
                    assert_eq!(
                        run.target + record.offset - run.start,
                        target,
                        "{topic} {partition}"
                    );
                }
                assert!((run.target..run.target + run.records as i64).contains(&target));
            }
        }
    }

    async fn offset_map(
        &self,
        plan: &RestorePlan,
        topic: &str,
        partition: i32,
    ) -> Vec<kafka_backup_shared::archive::restore::OffsetRun> {
        let one = self
            .layout
            .restore_offsets(&plan.run.uid, topic, partition, 0, 1);
        let folder = one.rsplit_once('/').unwrap().0.to_owned();
        let mut keys = self
            .store
            .list(&folder, |key, _| Some(key.to_owned()))
            .await
            .unwrap();
        keys.sort();
        let mut runs = Vec::new();
        for key in keys {
            let bytes: Bytes = self.store.get(&key).await.unwrap().unwrap();
            let piece: OffsetPiece = from_json(&key, &bytes).unwrap();
            assert_eq!(piece.target_partition, partition);
            runs.extend(piece.runs);
        }
        runs
    }
}

pub fn context() -> Context {
    Context {
        progress: Arc::new(Progress::default()),
        cancel: CancellationToken::new(),
        memory_budget: 48 << 20,
        lease: kafka_backup_worker::context::DEFAULT_LEASE,
        secrets_dir: Default::default(),
    }
}

/// Waits until `check` is true.
pub async fn until(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

pub async fn metadata(client: &Client, topic: &str) -> TopicMetadata {
    let filter = TopicFilter::Named(vec![Arc::from(topic)]);
    client.topics(&filter).await.unwrap().remove(0)
}

/// Every record of a partition, walked and decoded by this test.
pub async fn read(client: &Client, topic: &str, partition: i32) -> Vec<Record> {
    let metadata = metadata(client, topic).await;
    let led = metadata.led_partitions().unwrap()[partition as usize].clone();
    let listed = async |spec| {
        let listed = client.list_offsets(std::slice::from_ref(&led), spec);
        listed.await.remove(0).unwrap().offset
    };
    let end = listed(OffsetSpec::Latest(kafka::IsolationLevel::ReadUncommitted)).await;
    let start = listed(OffsetSpec::Earliest).await;
    let connection = client.open(led.leader).await.unwrap();
    let options = FetchOptions {
        max_wait: Duration::from_millis(500),
        min_bytes: 1,
        max_bytes: 16 << 20,
        isolation: kafka::IsolationLevel::ReadUncommitted,
    };
    let (mut records, mut offset) = (Vec::new(), start);
    while offset < end {
        let from = FetchPartition {
            topic_id: metadata.id,
            partition,
            offset,
            leader_epoch: -1,
            last_fetched_epoch: -1,
            max_bytes: 8 << 20,
        };
        let answer = connection.fetch(&[from], &options).unwrap().await.unwrap();
        let fetched = &answer.partitions[0];
        assert_eq!(fetched.error, None);
        for batch in Batches::new(&fetched.records) {
            let batch = batch.unwrap();
            batch.verify_crc().unwrap();
            offset = batch.end_offset();
            records.extend(record::decode(&batch).unwrap());
        }
    }
    records
}

/// Batches that a partition's log begins with, as one Fetch returns them.
pub async fn batches(topic: &str) -> usize {
    let client = client().await;
    let metadata = metadata(&client, topic).await;
    let led = metadata.led_partitions().unwrap().remove(0);
    let from = FetchPartition {
        topic_id: metadata.id,
        partition: 0,
        offset: 0,
        leader_epoch: -1,
        last_fetched_epoch: -1,
        max_bytes: 8 << 20,
    };
    let options = FetchOptions {
        max_wait: Duration::from_millis(500),
        min_bytes: 1,
        max_bytes: 16 << 20,
        isolation: kafka::IsolationLevel::ReadUncommitted,
    };
    let connection = client.open(led.leader).await.unwrap();
    let answer = connection.fetch(&[from], &options).unwrap().await.unwrap();
    Batches::new(&answer.partitions[0].records).count()
}
