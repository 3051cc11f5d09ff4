//! A backup on the whole lab that takes long enough for something to happen to it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part, and fails by panicking"
)]

use std::fs;
use std::time::Duration;

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::{Lab, store, wait_for};
use kafka_backup_tests::operator;
use serde_json::Value;

pub const RECORDS: u64 = 200_000;
/// Long enough for a pod that is limited to a fraction of a CPU.
pub const RUN: Duration = Duration::from_secs(180);

/// A namespace with a topic of its own, emptied of what an earlier run left.
pub struct Place {
    pub lab: Lab,
    pub namespace: &'static str,
    pub topic: String,
    pub target: String,
    pub prefix: String,
}

pub fn place(namespace: &'static str) -> Place {
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
    pub fn start_slow_backup(&self) {
        self.start_slow_backup_with("");
    }

    /// The same with `more` in its spec, indented by two.
    pub fn start_slow_backup_with(&self, more: &str) {
        let yaml = format!(
            "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: slow, namespace: {}}}\nspec:\n  \
             kafkaCluster: {{bootstrapServers: [\"{}\"]}}\n  topics: [{}]\n  segmentMaxBytes: 1048576\n  \
             resources: {{requests: {{cpu: 50m, memory: 64Mi}}, limits: {{cpu: 50m, memory: 256Mi}}}}\n{more}{}",
            self.namespace,
            SOURCE.bootstrap(&self.lab),
            self.topic,
            operator::storage_yaml(&self.prefix)
        );
        operator::apply(&self.lab, self.namespace, &yaml).unwrap();
    }

    /// Segments of the archive that are in the store.
    pub fn segments(&self) -> usize {
        let keys = store::keys(&self.lab, &format!("{}/", self.prefix)).unwrap();
        keys.iter().filter(|key| key.ends_with(".log")).count()
    }

    pub fn wait_for_segments(&self, count: usize) {
        wait_for("the backup to store its first segments", RUN, || {
            self.segments() >= count
        })
        .unwrap();
    }

    pub fn backup(&self) -> Value {
        operator::get(&self.lab, self.namespace, "kafkabackup", "slow")
            .unwrap()
            .unwrap()
    }

    /// Names of the pods of the namespace.
    pub fn pods(&self) -> Vec<String> {
        let pods = operator::list(&self.lab, self.namespace, "pods").unwrap();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap().to_owned();
        pods.iter().map(name).collect()
    }

    pub fn kubectl(&self, args: &[&str]) -> String {
        operator::kubectl(
            &self.lab,
            &[&["--namespace", self.namespace], args].concat(),
        )
        .unwrap()
    }

    /// The first run in the history, as soon as it is there.
    pub fn first_run(&self) -> Value {
        let what = "its first run to end";
        let ended = |object: &Value| object["status"]["backupHistory"][0].is_object();
        let (lab, namespace) = (&self.lab, self.namespace);
        let object = operator::wait_object(lab, namespace, "kafkabackup", "slow", what, RUN, ended);
        object.unwrap()["status"]["backupHistory"][0].clone()
    }

    pub fn job_uid(&self) -> String {
        self.backup()["status"]["activeRun"]["jobUid"]
            .as_str()
            .expect("the run has a Job")
            .to_owned()
    }

    pub fn finished(&self, kind: &str, name: &str) -> Value {
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
    pub fn assert_complete(&self) {
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
    pub fn assert_counted_once(&self) {
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
pub fn worker_pid(job_uid: &str) -> Option<i32> {
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
pub fn controller_pids() -> Vec<i32> {
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

pub fn kill(pid: i32) {
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
}
