//! Three brokers: leaders that move, brokers that die, elections that truncate, and workers killed meanwhile. The cluster is this
//! program's own; needs `cargo lab up net`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_tests::lab::kafka::Cluster;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::{Lab, wait_for};
use kafka_backup_tests::restore_soak::{self, Event};
use kafka_backup_tests::soak;
use kafka_backup_tests::worker::{Worker, is_success, objects};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const THREE: Cluster<'_> = Cluster {
    name: "three",
    port: 9392,
    extra: restore_soak::FORGETFUL,
};

/// One test at a time, each with all brokers up.
static CLUSTER: Mutex<()> = Mutex::new(());

fn three() -> (Lab, String, MutexGuard<'static, ()>) {
    let guard = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
    let lab = Lab::open().unwrap();
    THREE.up(&lab, 3).unwrap();
    let bootstrap = THREE.bootstrap(&lab);
    (lab, bootstrap, guard)
}

/// An archive in a folder and the topic that is in it.
struct Place<'a> {
    lab: &'a Lab,
    bootstrap: &'a str,
    folder: tempfile::TempDir,
    topic: String,
}

impl<'a> Place<'a> {
    /// `replicas` as [`tools::create_with_replicas`] takes them.
    fn new(
        lab: &'a Lab,
        bootstrap: &'a str,
        topic: &str,
        replicas: &[&str],
        config: &[(&str, &str)],
    ) -> Self {
        let topic = format!("{topic}-{}", std::process::id());
        tools::create_with_replicas(lab, bootstrap, &topic, replicas, config).unwrap();
        Self {
            lab,
            bootstrap,
            folder: tempfile::tempdir().unwrap(),
            topic,
        }
    }

    fn produce(&self, partitions: u32, first: u64, records: u64) {
        let what = Produce {
            topic: &self.topic,
            partitions,
            records,
            first,
            create: None,
            producer_config: &[("batch.size", "16384")],
            ..Produce::default()
        };
        tools::produce(self.lab, self.bootstrap, &what).unwrap();
    }

    fn start(&self, run: &str) -> Worker {
        let folder = self.folder.path().to_str().unwrap();
        let args = [
            ["backup", "--name", "three", "--run", run],
            ["--folder", folder, "--topics", &self.topic, "--output"],
            [
                "json",
                "--bootstrap-servers",
                self.bootstrap,
                "--segment-max-bytes",
                "65536",
            ],
        ];
        // So little memory that a worker which is held up has most of its work before it.
        let args = [args.as_flattened(), &["--memory-budget", "4Mi"]].concat();
        Worker::start(self.lab, &args).unwrap()
    }

    /// A run in one attempt.
    fn back_up(&self, run: &str) -> Value {
        let (status, report) = self.start(run).end().unwrap();
        assert!(status.success() && is_success(&report), "{status} {report}");
        report
    }

    /// Keeps one run: marks what may go, or deletes it where `prune` had marked it before, as if that were days ago.
    fn prune(&self) -> Value {
        let archive = self.folder.path().join("default/three");
        for list in objects(&archive).unwrap() {
            let path = archive.join(&list);
            if path
                .parent()
                .is_some_and(|parent| parent.ends_with("trash"))
            {
                let mut marked: Value =
                    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                marked["created"] = "2026-01-01T00:00:00Z".into();
                std::fs::write(&path, marked.to_string()).unwrap();
            }
        }
        self.look(&["prune", "--backups", "1"])
    }

    /// What a verb that succeeds says of the archive.
    fn look(&self, verb: &[&str]) -> Value {
        let folder = self.folder.path().to_str().unwrap();
        let args = [verb, &["--folder", folder, "--output", "json"]].concat();
        let (status, said) = Worker::start(self.lab, &args).unwrap().end().unwrap();
        assert!(status.success(), "{status} {said}");
        said
    }

    /// Holds the worker up as soon as so many more segments are there.
    fn pause_after(&self, segments: usize, worker: &mut Worker) {
        let before = stored(self.folder.path());
        let there = || Ok(stored(self.folder.path()) >= before + segments);
        assert!(
            worker.until("the next segments", there).unwrap(),
            "the worker was too fast"
        );
        worker.signal(Signal::SIGSTOP).unwrap();
    }

    fn wait_for_leader(&self, broker: i32) {
        let what = format!("broker {broker} to lead {}", self.topic);
        wait_for(&what, Duration::from_secs(60), || {
            tools::replicas(self.lab, self.bootstrap, &self.topic)
                .is_ok_and(|all| all.iter().all(|replicas| replicas.leader == broker))
        })
        .unwrap();
    }

    /// The run holds what Kafka's consumer reads now, record by record, at the same offsets.
    fn assert_equal(&self, run: &str, records: u64) {
        let archive = self.folder.path().join("default/three");
        let reading = Reading {
            committed_only: true,
            ..Reading::default()
        };
        let found = tools::compare_with_archive(
            self.lab,
            self.bootstrap,
            &archive,
            run,
            &[&self.topic],
            reading,
        )
        .unwrap();
        assert!(found.equal, "{found:?}");
        assert_eq!(found.topics[0].records, records);
    }
}

fn stored(folder: &Path) -> usize {
    let objects = objects(folder).unwrap();
    objects.iter().filter(|path| path.ends_with(".log")).count()
}

#[test]
fn a_backup_outlives_moved_leaders_and_dead_brokers() {
    let (lab, bootstrap, _guard) = three();
    let replicas = ["1:2", "2:3", "3:1"];
    let config = [("min.insync.replicas", "1")];
    let place = Place::new(&lab, &bootstrap, "moved", &replicas, &config);
    place.produce(3, 0, 15_000);
    let mut worker = place.start("three-20260101-000000");

    place.pause_after(5, &mut worker);
    tools::move_replicas(&lab, &bootstrap, &place.topic, &["2:3", "3:1", "1:2"]).unwrap();
    worker.signal(Signal::SIGCONT).unwrap();

    place.pause_after(30, &mut worker);
    THREE.kill_broker(&lab, 3).unwrap();
    worker.signal(Signal::SIGCONT).unwrap();
    THREE.start_broker(&lab, 3).unwrap();

    let (status, report) = worker.end().unwrap();
    assert!(status.success() && is_success(&report), "{status} {report}");
    assert_eq!(report["records"], 15_000);
    place.assert_equal("three-20260101-000000", 15_000);
}

#[test]
fn what_an_election_truncated_is_taken_from_the_new_leader() {
    let (lab, bootstrap, _guard) = three();
    let config = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
    ];
    let place = |name| Place::new(&lab, &bootstrap, name, &["1:2"], &config);
    let (between, during) = (place("between"), place("during"));
    let (first, second, third) = (
        "three-20260101-000000",
        "three-20260102-000000",
        "three-20260103-000000",
    );

    // Broker 2 has 300 records, broker 1 has more.
    between.produce(1, 0, 300);
    during.produce(1, 0, 300);
    THREE.stop_broker(&lab, 2).unwrap();
    between.produce(1, 300, 300);
    during.produce(1, 300, 12_000);
    between.back_up(first);
    between.assert_equal(first, 600);
    let mut worker = during.start(first);
    during.pause_after(20, &mut worker);

    // Broker 2 leads with the 300, and gets other records, up to the same ends.
    THREE.kill_broker(&lab, 1).unwrap();
    THREE.start_broker(&lab, 2).unwrap();
    between.wait_for_leader(2);
    during.wait_for_leader(2);
    between.produce(1, 100_000, 300);
    during.produce(1, 100_000, 12_000);

    // Between two runs: the next one goes on where the two histories part.
    let report = between.back_up(second);
    assert_eq!(report["records"], 300, "{report}");
    between.assert_equal(second, 600);

    // During a run: this attempt sees it and says so, the next one goes on as well.
    worker.signal(Signal::SIGCONT).unwrap();
    let (status, report) = worker.end().unwrap();
    assert_eq!(status.code(), Some(69), "{report}");
    let message = report["message"].as_str().unwrap_or_default();
    assert!(message.contains("elected a leader"), "{report}");
    during.back_up(first);
    during.assert_equal(first, 12_300);

    // Broker 1 leads again with what it had, which is of an older epoch than what was captured last, and the archive has it too,
    // as what was truncated.
    THREE.kill_broker(&lab, 2).unwrap();
    THREE.start_broker(&lab, 1).unwrap();
    between.wait_for_leader(1);
    between.produce(1, 200_000, 100);
    between.back_up(third);
    between.assert_equal(third, 700);
    THREE.start_broker(&lab, 2).unwrap();
}

#[test]
fn an_end_that_went_back_keeps_its_new_history_under_retention() {
    let (lab, bootstrap, _guard) = three();
    let config = [
        ("min.insync.replicas", "1"),
        ("unclean.leader.election.enable", "true"),
    ];
    let place = Place::new(&lab, &bootstrap, "back", &["1:2"], &config);
    let (first, second, third) = (
        "three-20260101-000000",
        "three-20260102-000000",
        "three-20260103-000000",
    );
    // Broker 2 has 300 records, broker 1 has more.
    place.produce(1, 0, 300);
    THREE.stop_broker(&lab, 2).unwrap();
    place.produce(1, 300, 3000);
    place.back_up(first);
    place.assert_equal(first, 3300);

    // Broker 2 leads with the 300, which is all that there is when the next run begins.
    THREE.kill_broker(&lab, 1).unwrap();
    THREE.start_broker(&lab, 2).unwrap();
    place.wait_for_leader(2);
    let report = place.back_up(second);
    assert_eq!(report["records"], 0, "{report}");
    place.assert_equal(second, 300);
    place.prune();
    assert_eq!(place.prune()["deleted"]["runs"], json!([first]));
    place.assert_equal(second, 300);

    // Other records take the offsets of the lost ones, and retention is at work while they are captured.
    place.produce(1, 100_000, 12_000);
    let mut worker = place.start(third);
    place.pause_after(20, &mut worker);
    place.prune();
    place.prune();
    worker.signal(Signal::SIGCONT).unwrap();
    let (status, report) = worker.end().unwrap();
    assert!(status.success() && is_success(&report), "{status} {report}");
    assert_eq!(report["records"], 12_000);
    place.assert_equal(third, 12_300);

    // What was truncated goes in the end, and nothing else.
    let before = stored(place.folder.path());
    place.prune();
    place.prune();
    assert!(stored(place.folder.path()) < before);
    place.assert_equal(third, 12_300);
    let verified = place.look(&["verify", "all"]);
    assert_eq!(verified["problems"], json!([]));
    THREE.start_broker(&lab, 1).unwrap();
}

#[test]
fn killed_workers_lose_and_double_nothing_on_three_brokers() {
    let (lab, _, _guard) = three();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let tally = soak::run(&lab, &THREE, seed.unwrap().as_nanos() as u64, 4).unwrap();
    assert_eq!(tally.rounds, 4);
}

#[test]
fn killed_restores_lose_and_double_nothing_on_three_brokers() {
    let (lab, _, _guard) = three();
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    // Each of these begins a round; what else happens is random.
    let events = [
        Event::LeaderMoved,
        Event::FollowersPaused,
        Event::ProduceTimedOut,
        Event::FrozenInFlight,
        Event::ThawedBeside,
        Event::BrokerStopped,
    ];
    let seed = seed.unwrap().as_nanos() as u64;
    let tally = restore_soak::run_until(&lab, &THREE, seed, 4, &events).unwrap();
    assert!(tally.rounds >= 4);
}
