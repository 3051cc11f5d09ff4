//! Consumer groups that a client which is not ours makes and reads, and runs over what they have committed.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "support of tests; each test file uses its part"
)]

mod slow_s3;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kafka_backup_shared::plan::{
    OffsetTarget, OffsetsPlan, OffsetsTask, ResetTask, RunRef, SnapshotRef,
};
use kafka_backup_shared::report::OffsetsReport;
use kafka_backup_shared::spec::{KafkaCluster, SnapshotPlace, Storage};
use kafka_backup_worker::context::{Context, DEFAULT_LEASE, Progress};
use kafka_backup_worker::kafka::{Client, ClientConfig, CommittedOffset};
use kafka_backup_worker::offsets::{self, Ports, Unfinished};
use kafka_backup_worker::store::Places;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use slow_s3::{SlowS3, Writes};

const TIMEOUT: Duration = Duration::from_secs(30);
/// More than any topic here has.
const PARTITIONS: i32 = 4;

/// What a group has committed, by topic and partition: offset and metadata.
pub type Committed = BTreeMap<(String, i32), (i64, String)>;
/// The same of several groups.
pub type State = BTreeMap<String, Committed>;

/// From topic, partition, offset and metadata.
pub fn offsets(of: &[(&str, i32, i64, &str)]) -> Committed {
    let own = |(topic, partition, offset, metadata): &(&str, i32, i64, &str)| {
        let place = ((*topic).to_owned(), *partition);
        (place, (*offset, (*metadata).to_owned()))
    };
    of.iter().map(own).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn consumer(servers: &str, group: &str, settings: &[(&str, &str)]) -> BaseConsumer {
    let mut config = rdkafka::ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "earliest");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create().unwrap()
}

/// Commits as one who is no member.
pub async fn commit(servers: &str, group: &str, of: &[(&str, i32, i64, &str)]) {
    let (servers, group, offsets) = (servers.to_owned(), group.to_owned(), offsets(of));
    blocking(move || {
        let mut list = TopicPartitionList::new();
        for ((topic, partition), (offset, metadata)) in offsets {
            let offset = Offset::Offset(offset);
            list.add_partition_offset(&topic, partition, offset)
                .unwrap();
            let mut added = list.find_partition(&topic, partition).unwrap();
            added.set_metadata(metadata);
        }
        let consumer = consumer(&servers, &group, &[]);
        consumer.commit(&list, CommitMode::Sync).unwrap();
    })
    .await;
}

/// Reads one record and commits the next one, with the leader epoch of the one that was read.
pub async fn read_and_commit(servers: &str, group: &str, topic: &str, partition: i32, offset: i64) {
    let (servers, group, topic) = (servers.to_owned(), group.to_owned(), topic.to_owned());
    blocking(move || {
        let consumer = consumer(&servers, &group, &[]);
        let mut assignment = TopicPartitionList::new();
        let first = Offset::Offset(offset);
        assignment
            .add_partition_offset(&topic, partition, first)
            .unwrap();
        consumer.assign(&assignment).unwrap();
        let deadline = Instant::now() + TIMEOUT;
        loop {
            assert!(Instant::now() < deadline, "no record at {topic} {offset}");
            let Some(message) = consumer.poll(Duration::from_millis(100)) else {
                continue;
            };
            let message = message.unwrap();
            assert_eq!(message.offset(), offset);
            drop(message);
            // What is stored when a record is handed out has its epoch; what a caller hands in has none.
            consumer.commit_consumer_state(CommitMode::Sync).unwrap();
            return;
        }
    })
    .await;
}

/// What a group has committed on these topics.
pub async fn committed(servers: &str, group: &str, topics: &[&str]) -> Committed {
    let (servers, group) = (servers.to_owned(), group.to_owned());
    let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    blocking(move || {
        let mut asked = TopicPartitionList::new();
        for topic in &topics {
            for partition in 0..PARTITIONS {
                asked.add_partition(topic, partition);
            }
        }
        let consumer = consumer(&servers, &group, &[]);
        let found = consumer.committed_offsets(asked, TIMEOUT).unwrap();
        let found = found.elements().into_iter().filter_map(|one| {
            let Offset::Offset(offset) = one.offset() else {
                return None;
            };
            let place = (one.topic().to_owned(), one.partition());
            Some((place, (offset, one.metadata().to_owned())))
        });
        found.collect()
    })
    .await
}

/// Removes groups with all that they have committed.
pub async fn delete_groups(servers: &str, groups: &[&str]) {
    let admin: AdminClient<DefaultClientContext> = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", servers)
        .create()
        .unwrap();
    let deleted = admin.delete_groups(groups, &AdminOptions::new()).await;
    for deleted in deleted.unwrap() {
        deleted.unwrap();
    }
}

/// Waits until a group has committed these and nothing else on their topics.
pub async fn until_committed(servers: &str, group: &str, topics: &[&str], expected: &Committed) {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let found = committed(servers, group, topics).await;
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{group} has {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A member of a group; the group is live until it is dropped.
pub struct Member(Option<BaseConsumer>);

impl Member {
    /// Joins by `protocol` (`classic` or `consumer`); afterwards it has got a record of `topic`.
    pub async fn join(servers: &str, group: &str, topic: &str, protocol: &'static str) -> Self {
        let (servers, group, topic) = (servers.to_owned(), group.to_owned(), topic.to_owned());
        let member = blocking(move || {
            let consumer = consumer(&servers, &group, &[("group.protocol", protocol)]);
            consumer.subscribe(&[&topic]).unwrap();
            let deadline = Instant::now() + TIMEOUT;
            while consumer.poll(Duration::from_millis(100)).is_none() {
                assert!(Instant::now() < deadline, "{group} got no record");
            }
            consumer
        });
        Self(Some(member.await))
    }

    pub async fn leave(mut self) {
        let member = self.0.take();
        blocking(move || drop(member)).await;
    }
}

/// A cluster, and a folder for snapshots.
pub struct Bench {
    pub servers: String,
    pub storage: Storage,
    pub places: Places,
    pub mapping_file: Option<PathBuf>,
    folder: tempfile::TempDir,
}

impl Bench {
    pub fn new(servers: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        let pvc = json!({"storageType": "pvc", "pvc": {"claimName": "unused"}});
        Self {
            servers,
            storage: serde_json::from_value(pvc).unwrap(),
            places: Places {
                secrets_dir: folder.path().join("secrets"),
                volume_dir: Some(volume),
            },
            mapping_file: None,
            folder,
        }
    }

    /// Snapshots go to an S3 server.
    pub fn with_s3(servers: String, server: &SlowS3) -> Self {
        // As main does; a second test finds it installed.
        drop(rustls::crypto::ring::default_provider().install_default());
        let bench = Self::new(servers);
        let keys = bench.folder.path().join("secrets/keys");
        std::fs::create_dir_all(&keys).unwrap();
        for key in ["accessKey", "secretKey"] {
            std::fs::write(keys.join(key), "any").unwrap();
        }
        let storage = json!({"storageType": "s3", "s3": {
            "bucket": "snapshots", "endpoint": server.endpoint, "pathStyle": true, "allowHttp": true,
            "credentialsSecret": {"name": "keys"},
        }});
        Self {
            storage: serde_json::from_value(storage).unwrap(),
            ..bench
        }
    }

    /// The folder that snapshots are in.
    pub fn volume(&self) -> &Path {
        self.places.volume_dir.as_deref().unwrap()
    }

    /// The file of a snapshot.
    pub fn snapshot_file(&self, id: &str) -> PathBuf {
        let key = kafka_backup_shared::archive::snapshot::key("default", id);
        self.volume().join(key)
    }

    pub fn snapshot(&self, id: &str) -> SnapshotRef {
        SnapshotRef {
            id: id.into(),
            place: SnapshotPlace::Store {
                storage: self.storage.clone(),
            },
        }
    }

    /// With a snapshot `id`.
    pub fn reset(&self, groups: &[&str], to: OffsetTarget, id: &str) -> ResetTask {
        ResetTask {
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            topics: None,
            to,
            snapshot: Some(self.snapshot(id)),
            parallelism: 4,
        }
    }

    pub fn mapping(&mut self, groups: serde_json::Value) -> OffsetTarget {
        let path = self.folder.path().join("mapping.json");
        std::fs::write(&path, json!({"groups": groups}).to_string()).unwrap();
        self.mapping_file = Some(path);
        OffsetTarget::FromMapping {
            name: "mapping".into(),
            key: "offsets.json".into(),
        }
    }

    pub fn rollback(&self, id: &str, force: bool) -> OffsetsTask {
        OffsetsTask::Rollback {
            groups: None,
            snapshot: self.snapshot(id),
            force,
        }
    }

    pub fn verify(&self, id: &str, strict: bool) -> OffsetsTask {
        OffsetsTask::Verify {
            groups: None,
            snapshot: self.snapshot(id),
            strict,
        }
    }

    fn plan(&self, run: &RunRef, task: OffsetsTask, dry_run: bool) -> OffsetsPlan {
        OffsetsPlan {
            run: run.clone(),
            cluster: cluster(&self.servers),
            task,
            dry_run,
        }
    }

    async fn make(
        &self,
        plan: &OffsetsPlan,
        cancel: CancellationToken,
    ) -> Result<OffsetsReport, Unfinished> {
        let ports = Ports {
            places: self.places.clone(),
            snapshot_dir: self.folder.path().join("none"),
            mapping_file: self.mapping_file.clone(),
            push: None,
        };
        let context = Context {
            progress: Progress::default().into(),
            cancel,
            memory_budget: 8 << 20,
            lease: DEFAULT_LEASE,
            secrets_dir: Default::default(),
        };
        let completed = offsets::run(plan, &ports, &context).await?;
        Ok(completed.offsets.unwrap())
    }

    /// Makes a run of that name.
    pub async fn run_as(
        &self,
        run: &RunRef,
        task: OffsetsTask,
    ) -> Result<OffsetsReport, Unfinished> {
        let plan = self.plan(run, task, false);
        self.make(&plan, CancellationToken::new()).await
    }

    /// Makes a run of its own.
    pub async fn run(&self, task: OffsetsTask) -> Result<OffsetsReport, Unfinished> {
        self.run_as(&new_run(), task).await
    }

    pub async fn dry_run(&self, task: OffsetsTask) -> Result<OffsetsReport, Unfinished> {
        let plan = self.plan(&new_run(), task, true);
        self.make(&plan, CancellationToken::new()).await
    }

    /// Makes a run that is told to stop before it begins.
    pub async fn interrupted(&self, task: OffsetsTask) -> Result<OffsetsReport, Unfinished> {
        let cancel = CancellationToken::new();
        cancel.cancel();
        self.make(&self.plan(&new_run(), task, false), cancel).await
    }

    /// Makes a dry run, which must change nothing, and then the run: it must do just what the dry one has told.
    pub async fn dry_and_real(
        &self,
        task: OffsetsTask,
        groups: &[&str],
        topics: &[&str],
    ) -> Result<OffsetsReport, Unfinished> {
        let before = self.state(groups, topics).await;
        let snapshots = self.snapshots();
        let dry = self.dry_run(task.clone()).await;
        assert_eq!(self.state(groups, topics).await, before, "the dry run");
        assert_eq!(self.snapshots(), snapshots, "the dry run");
        let real = self.run(task).await;
        match (&dry, &real) {
            (Ok(_), Ok(_)) => {}
            // Other tests make groups meanwhile, which a message counts.
            (Err(dry), Err(real)) => assert_eq!(said(dry), said(real)),
            _ => panic!("the dry run {dry:?}, the real one {real:?}"),
        }
        let (Some(told), Some(done)) = (report(&dry), report(&real)) else {
            assert!(report(&dry).is_none() && report(&real).is_none());
            return real;
        };
        assert!(told.dry_run && !done.dry_run);
        assert_eq!(told.changes, done.changes);
        let counts =
            |report: &OffsetsReport| (report.groups_done, report.groups_failed, report.partitions);
        assert_eq!(counts(told), counts(done));
        let results = |report: &OffsetsReport| -> Vec<_> {
            let groups = report.groups.iter();
            groups
                .map(|one| (one.group.clone(), one.partitions_reset, one.message.clone()))
                .collect()
        };
        assert_eq!(results(told), results(done));

        // What the changes say is what there is, and nothing else has changed.
        let mut expected = bare(&before);
        for change in &done.changes {
            let place = (change.group.clone(), change.topic.clone(), change.partition);
            let old = match change.new {
                Some(new) => expected.insert(place, new),
                None => expected.remove(&place),
            };
            assert_eq!(old, change.old, "{change:?}");
        }
        assert_eq!(bare(&self.state(groups, topics).await), expected);
        real
    }

    /// What groups have committed on these topics.
    pub async fn state(&self, groups: &[&str], topics: &[&str]) -> State {
        let mut state = State::new();
        for group in groups {
            let found = committed(&self.servers, group, topics).await;
            state.insert((*group).to_owned(), found);
        }
        state
    }

    /// The same with leader epochs, by our own client: rdkafka does not tell them.
    pub async fn epochs(&self, group: &str) -> BTreeMap<(String, i32), (i64, Option<i32>)> {
        let client = Client::connect(ClientConfig::new(
            &cluster(&self.servers),
            Path::new(""),
            "offsets-test",
        ));
        let client = client.await.unwrap();
        let found = client.committed_offsets(&[group.into()], |_| true).await;
        let found = found.into_iter().next().unwrap().unwrap();
        let own = |one: CommittedOffset| {
            let place = (one.topic.to_string(), one.partition);
            (place, (one.offset, one.leader_epoch))
        };
        found.into_iter().map(own).collect()
    }

    /// Names and contents of all snapshots.
    pub fn snapshots(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = self.snapshot_file("any");
        let Ok(found) = std::fs::read_dir(folder.parent().unwrap()) else {
            return BTreeMap::new();
        };
        let read = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.unwrap();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).unwrap())
        };
        found.map(read).collect()
    }
}

fn cluster(servers: &str) -> KafkaCluster {
    KafkaCluster::plaintext(servers.split(',').map(str::to_owned).collect())
}

/// Without metadata.
fn bare(state: &State) -> BTreeMap<(String, String, i32), i64> {
    let all = state.iter().flat_map(|(group, committed)| {
        let committed = committed.iter();
        committed.map(move |((topic, partition), (offset, _))| {
            ((group.clone(), topic.clone(), *partition), *offset)
        })
    });
    all.collect()
}

/// A run that no other attempt is of.
pub fn new_run() -> RunRef {
    RunRef {
        kind: "KafkaOffsetReset".into(),
        name: "offsets".into(),
        uid: Uuid::new_v4().to_string(),
        run: format!("offsets-{}", Uuid::new_v4().simple()),
        ..RunRef::example()
    }
}

/// What was done, whether it is complete or not.
pub fn report(result: &Result<OffsetsReport, Unfinished>) -> Option<&OffsetsReport> {
    match result {
        Ok(report) => Some(report),
        Err(unfinished) => unfinished.report.as_ref(),
    }
}

/// An error without the numbers in it.
fn said(unfinished: &Unfinished) -> String {
    let text = unfinished.error.to_string();
    text.split(|c: char| c.is_ascii_digit()).collect()
}
