//! A restore whose lease is in S3, where no lock of a file system stands behind it: a successor takes it over when its holder has shown no
//! sign of life for `--lease-secs`, and the holder, when it goes on, writes nothing more. Needs `cargo lab up kafka store`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::{Duration, Instant};

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::{Lab, store};
use kafka_backup_tests::worker::{Worker, is_success, report};
use nix::sys::signal::Signal;

const LEASE: Duration = Duration::from_secs(4);
const RECORDS: u64 = 9000;

struct Place {
    lab: Lab,
    source: String,
    target: String,
    topic: String,
}

impl Place {
    fn new(name: &str) -> Self {
        let lab = Lab::open().unwrap();
        let place = Self {
            source: SOURCE.bootstrap(&lab),
            target: TARGET.bootstrap(&lab),
            topic: format!("lease-{name}-{}", std::process::id()),
            lab,
        };
        let what = Produce {
            topic: &place.topic,
            partitions: 3,
            records: RECORDS,
            producer_config: &[("batch.size", "16384")],
            ..Produce::default()
        };
        tools::produce(&place.lab, &place.source, &what).unwrap();
        let args = ["backup", "--name", &place.topic, "--topics", &place.topic];
        let cluster = ["--bootstrap-servers", &place.source, "--segment-max-bytes"];
        let args = [&args[..], &cluster, &["262144"], &place.store()].concat();
        report(&place.lab, &args).unwrap();
        place
    }

    fn store(&self) -> [&str; 10] {
        [
            "--s3-bucket",
            store::BUCKET,
            "--s3-prefix",
            &self.topic,
            "--s3-endpoint",
            store::ENDPOINT,
            "--s3-region",
            store::REGION,
            "--s3-path-style",
            "--s3-allow-http",
        ]
    }

    /// A worker that takes some seconds.
    fn start(&self) -> Worker {
        let args = ["restore", "--name", &self.topic, "--backup-id", "latest"];
        let lease = LEASE.as_secs().to_string();
        let more = ["--bootstrap-servers", &self.target, "--lease-secs", &lease];
        let pace = ["--records-per-second", "1500", "--output", "json"];
        let args = [&args[..], &more, &pace, &self.store()].concat();
        Worker::start(&self.lab, &args).unwrap()
    }

    /// Records in the target.
    fn written(&self) -> i64 {
        let there = tools::list_topics(&self.lab, &self.target).unwrap();
        if !there.contains(&self.topic) {
            return 0;
        }
        let offsets = tools::offsets(&self.lab, &self.target, &self.topic).unwrap();
        offsets.iter().map(|partition| partition.end).sum()
    }

    /// Waits until a worker has written so many records.
    fn until_written(&self, records: i64, worker: &mut Worker) {
        let there = || Ok(self.written() >= records);
        let came = worker.until(&format!("{records} records"), there).unwrap();
        assert!(came, "the worker ended before");
    }

    /// A successor that is started now writes, but not before the lease has run out.
    fn successor(&self) -> Worker {
        // What the predecessor had sent has come.
        std::thread::sleep(Duration::from_millis(500));
        let before = self.written();
        let started = Instant::now();
        let mut successor = self.start();
        self.until_written(before + 1, &mut successor);
        let took = started.elapsed();
        assert!(took >= LEASE, "it wrote after {took:?}");
        successor
    }

    fn assert_complete(&self, worker: Worker) {
        let (status, said) = worker.end().unwrap();
        assert!(status.success() && is_success(&said), "{status} {said}");
        assert_eq!(said["records"], RECORDS, "{said}");
        self.assert_equal();
    }

    fn assert_equal(&self) {
        let topic = [(self.topic.as_str(), self.topic.as_str())];
        let reading = Reading::default();
        let found = tools::compare(&self.lab, &self.source, &self.target, &topic, reading);
        let found = found.unwrap();
        assert!(found.equal, "{found:?}");
        assert_eq!(found.topics[0].records, RECORDS);
    }
}

#[test]
fn a_dead_workers_lease_is_taken_over() {
    let place = Place::new("dead");
    let mut first = place.start();
    place.until_written(500, &mut first);
    first.signal(Signal::SIGKILL).unwrap();
    first.end().unwrap();
    place.assert_complete(place.successor());
}

#[test]
fn a_frozen_workers_lease_is_taken_over_and_it_writes_no_more() {
    let place = Place::new("frozen");
    let mut first = place.start();
    place.until_written(500, &mut first);
    first.signal(Signal::SIGSTOP).unwrap();
    let successor = place.successor();
    // Thawed beside its successor.
    first.signal(Signal::SIGCONT).unwrap();
    let (status, said) = first.end().unwrap();
    assert_eq!(status.code(), Some(69), "{said}");
    let message = said["message"].as_str().unwrap_or_default();
    assert!(message.contains("another worker has taken over"), "{said}");
    place.assert_complete(successor);

    // One that is thawed when all is done.
    let place = Place::new("late");
    let mut first = place.start();
    place.until_written(500, &mut first);
    first.signal(Signal::SIGSTOP).unwrap();
    place.assert_complete(place.successor());
    first.signal(Signal::SIGCONT).unwrap();
    let (status, said) = first.end().unwrap();
    assert_eq!(status.code(), Some(69), "{said}");
    place.assert_equal();
}
