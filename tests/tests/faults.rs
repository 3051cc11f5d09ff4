//! What dies in the middle of a run: the worker's process, the controller, the object. Needs `cargo lab up` and the installed operator.

use std::fs;
use std::time::Duration;

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::{Lab, store, wait_for};
use kafka_backup_tests::operator;
use serde_json::Value;

const RECORDS: u64 = 200_000;
/// Long enough for a pod that is limited to a fraction of a CPU.
const RUN: Duration = Duration::from_secs(180);

/// A namespace with a topic of its own, emptied of what an earlier run left.
struct Place {
    lab: Lab,
    namespace: &'static str,
    topic: String,
    target: String,
    prefix: String,
}

fn place(namespace: &'static str) -> Place {
    let lab = Lab::open().unwrap();
    let (topic, target) = (format!("{namespace}.in"), format!("{namespace}.out"));
    for (bootstrap, name) in [
        (SOURCE.bootstrap(&lab), &topic),
        (TARGET.bootstrap(&lab), &target),
    ] {
        if tools::list_topics(&lab, &bootstrap).unwrap().contains(name) {
            tools::delete_topics(&lab, &bootstrap, &[name]).unwrap();
        }
    }
    operator::fresh_namespace(&lab, namespace).unwrap();
    tools::produce(
        &lab,
        &SOURCE.bootstrap(&lab),
        &Produce {
            topic: &topic,
            partitions: 4,
            records: RECORDS,
            ..Produce::default()
        },
    )
    .unwrap();
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let prefix = format!("{namespace}-{seconds}");
    Place {
        lab,
        namespace,
        topic,
        target,
        prefix,
    }
}

impl Place {
    /// A KafkaBackup that takes some ten seconds: small segments, and a worker with a fraction of a CPU.
    fn start_slow_backup(&self) {
        let yaml = format!(
            "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: slow, namespace: {}}}\nspec:\n  \
             kafkaCluster: {{bootstrapServers: [\"{}\"]}}\n  topics: [{}]\n  segmentMaxBytes: 1048576\n  \
             resources: {{requests: {{cpu: 50m, memory: 64Mi}}, limits: {{cpu: 50m, memory: 256Mi}}}}\n{}",
            self.namespace,
            SOURCE.bootstrap(&self.lab),
            self.topic,
            operator::storage_yaml(&self.prefix)
        );
        operator::apply(&self.lab, self.namespace, &yaml).unwrap();
    }

    /// Segments of the archive that are in the store.
    fn segments(&self) -> usize {
        let keys = store::keys(&self.lab, &format!("{}/", self.prefix)).unwrap();
        keys.iter().filter(|key| key.ends_with(".log")).count()
    }

    fn wait_for_segments(&self, count: usize) {
        wait_for("the backup to store its first segments", RUN, || {
            self.segments() >= count
        })
        .unwrap();
    }

    fn backup(&self) -> Value {
        operator::get(&self.lab, self.namespace, "kafkabackup", "slow")
            .unwrap()
            .unwrap()
    }

    fn job_uid(&self) -> String {
        self.backup()["status"]["activeRun"]["jobUid"]
            .as_str()
            .expect("the run has a Job")
            .to_owned()
    }

    fn finished(&self, kind: &str, name: &str) -> Value {
        let object =
            operator::wait_finished(&self.lab, self.namespace, kind, name, RUN, |_| {}).unwrap();
        assert_eq!(
            object["status"]["phase"], "Completed",
            "{}",
            object["status"]
        );
        object
    }

    /// Restores the archive and compares it with the source, record by record.
    fn assert_complete(&self) {
        let yaml = format!(
            "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaRestore\nmetadata: {{name: back, namespace: {}}}\nspec:\n  \
             backupId: latest\n  targetCluster: {{bootstrapServers: [\"{}\"]}}\n  topics: [{topic}]\n  \
             topicMapping: {{{topic}: {}}}\n{}",
            self.namespace,
            TARGET.bootstrap(&self.lab),
            self.target,
            operator::storage_yaml(&self.prefix),
            topic = self.topic,
        );
        operator::apply(&self.lab, &format!("{}-restore", self.namespace), &yaml).unwrap();
        self.finished("kafkarestore", "back");
        let comparison = tools::compare(
            &self.lab,
            &SOURCE.bootstrap(&self.lab),
            &TARGET.bootstrap(&self.lab),
            &[(&self.topic, &self.target)],
            Reading::default(),
        )
        .unwrap();
        assert!(comparison.equal, "{comparison:?}");
        assert_eq!(comparison.topics[0].records, RECORDS);
    }

    /// Waits until the run is in the counters, and asserts that it is there once, and stays once.
    fn assert_counted_once(&self) {
        let series = |outcome: &str| {
            format!(
                "kafka_backup_backups_total{{backup_name=\"slow\",namespace=\"{}\",outcome=\"{outcome}\"}}",
                self.namespace
            )
        };
        let value = |outcome: &str| {
            operator::metrics(&self.lab)
                .ok()
                .and_then(|page| operator::sample(&page, &series(outcome)))
        };
        wait_for("the run to be counted", Duration::from_secs(120), || {
            value("success") >= Some(1.0)
        })
        .unwrap();
        let records = format!(
            "kafka_backup_backup_records_total{{backup_name=\"slow\",namespace=\"{}\"}}",
            self.namespace
        );
        let page = operator::metrics(&self.lab).unwrap();
        assert_eq!(operator::sample(&page, &series("success")), Some(1.0));
        assert_eq!(operator::sample(&page, &series("failure")), Some(0.0));
        assert_eq!(operator::sample(&page, &records), Some(RECORDS as f64));
    }
}

/// The worker's process of a Job, seen from outside of its pod.
fn worker_pid(job_uid: &str) -> Option<i32> {
    let mark = format!("KAFKA_BACKUP_JOB_UID={job_uid}");
    processes().find(|pid| {
        fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
            environ
                .split(|b| *b == 0)
                .any(|variable| variable == mark.as_bytes())
        })
    })
}

/// The controller's process, by its command line.
fn controller_pids() -> Vec<i32> {
    processes()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line.starts_with(b"/kafka-backup-controller\0"))
        })
        .collect()
}

fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn kill(pid: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}

#[test]
fn a_killed_worker_is_resumed_from_the_listing_and_counted_once() {
    let place = place("t-killed-worker");
    place.start_slow_backup();
    place.wait_for_segments(10);
    let uid = place.job_uid();
    let jobs = operator::list(&place.lab, place.namespace, "jobs").unwrap();
    assert_eq!(jobs.len(), 1, "the run is seen as a Job while it runs");
    assert_eq!(jobs[0]["status"]["active"], 1);

    kill(worker_pid(&uid).expect("the worker runs"));
    let stored = place.segments();

    let object = place.finished("kafkabackup", "slow");
    let run = &object["status"]["backupHistory"][0];
    assert_eq!(run["attempts"], 2, "the Job's next pod went on");
    assert_eq!(
        (&run["records"], &run["outcome"]),
        (&RECORDS.into(), &"success".into())
    );
    assert!(stored >= 10);
    place.assert_counted_once();
    place.assert_complete();
}

#[test]
fn a_killed_controller_counts_the_run_once() {
    let place = place("t-killed-controller");
    place.start_slow_backup();
    place.wait_for_segments(5);
    let uid = place.job_uid();
    let controllers = controller_pids();
    assert_eq!(controllers.len(), 1);
    kill(controllers[0]);
    kill(worker_pid(&uid).expect("the worker runs"));
    wait_for("another controller", RUN, || {
        controller_pids()
            .iter()
            .any(|pid| !controllers.contains(pid))
    })
    .unwrap();

    let object = place.finished("kafkabackup", "slow");
    assert_eq!(
        object["status"]["backupHistory"].as_array().unwrap().len(),
        1
    );
    assert_eq!(object["status"]["backupHistory"][0]["attempts"], 2);
    place.assert_counted_once();
}

#[test]
fn a_deleted_object_takes_its_pod_along_and_leaves_the_archive() {
    let place = place("t-deleted");
    place.start_slow_backup();
    place.wait_for_segments(3);
    operator::kubectl(
        &place.lab,
        &[
            "--namespace",
            place.namespace,
            "delete",
            "kafkabackup",
            "slow",
            "--timeout=60s",
        ],
    )
    .unwrap();
    wait_for("Job and pod to be gone", Duration::from_secs(90), || {
        ["jobs", "pods"].iter().all(|kind| {
            operator::list(&place.lab, place.namespace, kind)
                .unwrap()
                .is_empty()
        })
    })
    .unwrap();
    assert!(place.segments() >= 3, "what was stored stays");
    let page = operator::metrics(&place.lab).unwrap();
    assert!(
        !page.contains("namespace=\"t-deleted\""),
        "the series go with the object"
    );
}
