//! `doctor` on real brokers and a folder: what a run needs is told to be there, what it lacks is named, and nothing is changed.
//! Needs `cargo lab up kafka kafka-target`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Committed, Produce};
use kafka_backup_tests::worker::{Worker, objects, report};
use serde_json::{Value, json};

const TOPIC: &str = "doctor-orders";
const GROUP: &str = "doctor-group";

struct Place<'a> {
    lab: &'a Lab,
    folder: tempfile::TempDir,
}

impl Place<'_> {
    fn store(&self) -> String {
        self.folder.path().join("store").display().to_string()
    }

    /// An object with the storage of this place.
    fn object(&self, kind: &str, servers: &str, mut spec: Value) -> String {
        let cluster = if kind == "KafkaRestore" {
            "targetCluster"
        } else {
            "kafkaCluster"
        };
        spec[cluster] = json!({"bootstrapServers": servers.split(',').collect::<Vec<_>>()});
        spec["storage"] = json!({"storageType": "pvc", "pvc": {"claimName": "backups"}});
        let object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind,
            "metadata": {"name": "looked-at"}, "spec": spec,
        });
        let path = self.folder.path().join("object.yaml");
        std::fs::write(&path, object.to_string()).unwrap();
        path.display().to_string()
    }

    /// The exit code, and the findings.
    fn doctor(&self, file: &str) -> (Option<i32>, Vec<Value>) {
        let (store, output) = (self.store(), ["--output", "json"]);
        let args = ["doctor", "-f", file, "--volume-dir", &store];
        let args = [&args[..], &output].concat();
        let (status, said) = Worker::start(self.lab, &args).unwrap().end().unwrap();
        (status.code(), said.as_array().cloned().unwrap_or_default())
    }
}

/// What was found about something.
fn of<'a>(found: &'a [Value], about: &str) -> Vec<&'a Value> {
    found.iter().filter(|one| one["about"] == about).collect()
}

fn assert_bad(found: &[Value], about: &str, fault: &str, words: &str) {
    let is_so = of(found, about).iter().any(|one| {
        let message = one["message"].as_str().unwrap_or_default();
        one["state"] == "bad" && one["fault"] == fault && message.contains(words)
    });
    assert!(is_so, "{about} is not {fault}, {words}: {found:#?}");
}

#[test]
fn what_keeps_a_run_from_succeeding_is_found_before_it() {
    let lab = Lab::open().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let place = Place { lab: &lab, folder };
    std::fs::create_dir(place.store()).unwrap();
    let (source, target) = (SOURCE.bootstrap(&lab), TARGET.bootstrap(&lab));
    for servers in [&source, &target] {
        tools::delete_topics_where(&lab, servers, |name| name == TOPIC).unwrap();
    }
    let what = Produce {
        topic: TOPIC,
        partitions: 3,
        records: 100,
        create: Some(&[]),
        ..Produce::default()
    };
    tools::produce(&lab, &source, &what).unwrap();
    let committed = Committed {
        group: GROUP.into(),
        topic: TOPIC.into(),
        partition: 0,
        offset: 3,
        leader_epoch: None,
        metadata: String::new(),
    };
    tools::commit_offsets(&lab, &source, &[committed]).unwrap();

    // All is well, and nothing but the probe is written.
    let spec = json!({"topics": [TOPIC], "consumerGroups": [GROUP]});
    let file = place.object("KafkaBackup", &source, spec.clone());
    let (code, found) = place.doctor(&file);
    assert_eq!(code, Some(0), "{found:#?}");
    assert!(found.iter().all(|one| one["state"] == "good"), "{found:#?}");
    let words = |about: &str| of(&found, about)[0]["message"].to_string();
    assert!(
        words("topics").contains("1 topic with 3 partitions"),
        "{found:#?}"
    );
    assert!(words("groups").contains("1 consumer group "), "{found:#?}");
    assert!(words("archive").contains("is empty"), "{found:#?}");
    assert!(objects(std::path::Path::new(&place.store())).unwrap().len() <= 1);

    // One fault does not hide the others.
    let file = place.object("KafkaBackup", "127.0.0.1:9", spec.clone());
    let (code, found) = place.doctor(&file);
    assert_eq!(code, Some(69), "{found:#?}");
    assert_bad(&found, "cluster", "Unavailable", "127.0.0.1:9");
    assert_eq!(of(&found, "store")[0]["state"], "good");
    let file = place.object("KafkaBackup", &source, json!({"topics": ["doctor-none*"]}));
    let (code, found) = place.doctor(&file);
    assert_eq!(code, Some(64), "{found:#?}");
    assert_bad(&found, "topics", "Spec", "doctor-none*");

    // The archive of another cluster.
    let store = place.store();
    let places = ["--bootstrap-servers", &source, "--folder", &store];
    let backup = ["backup", "--name", "looked-at", "--topics", TOPIC];
    report(&lab, &[&backup[..], &places].concat()).unwrap();
    let file = place.object("KafkaBackup", &source, spec.clone());
    assert_eq!(place.doctor(&file).0, Some(0));
    tools::produce(&lab, &target, &what).unwrap();
    let file = place.object("KafkaBackup", &target, json!({"topics": [TOPIC]}));
    let (code, found) = place.doctor(&file);
    assert_eq!(code, Some(64), "{found:#?}");
    assert_bad(&found, "archive", "Spec", "is a copy of the cluster");

    // A restore: a target with records is none, a missing one is made by the run.
    let back = |topic: &str| {
        json!({
            "backupId": "latest", "archive": "default/looked-at", "topics": [TOPIC],
            "topicMapping": {TOPIC: topic},
        })
    };
    let (code, found) = place.doctor(&place.object("KafkaRestore", &target, back(TOPIC)));
    assert_eq!(code, Some(64), "{found:#?}");
    assert_bad(&found, "target", "Spec", TOPIC);
    let (code, found) = place.doctor(&place.object("KafkaRestore", &target, back("doctor-new")));
    assert_eq!(code, Some(0), "{found:#?}");
    assert!(
        of(&found, "target")[0]["message"]
            .to_string()
            .contains("1 is created"),
        "{found:#?}"
    );
    let there = tools::list_topics(&lab, &target).unwrap();
    assert!(!there.contains(&"doctor-new".to_owned()), "{there:?}");

    // Groups.
    let reset = |group: &str| json!({"consumerGroups": [group], "strategy": "earliest"});
    let (code, found) = place.doctor(&place.object("KafkaOffsetReset", &source, reset(GROUP)));
    assert_eq!(code, Some(0), "{found:#?}");
    let (code, found) = place.doctor(&place.object("KafkaOffsetReset", &source, reset("nobody")));
    assert_eq!(code, Some(64), "{found:#?}");
    assert_bad(&found, "groups", "Spec", "nobody");
}

#[test]
fn shells_complete_the_command_line() {
    let lab = Lab::open().unwrap();
    let program = lab.target().join("release/kafka-backup-worker");
    let said = Command::new(program)
        .args(["completions", "bash"])
        .output()
        .unwrap();
    assert!(said.status.success());
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("completions");
    std::fs::write(&script, &said.stdout).unwrap();
    // As a shell asks for it: the words so far, and which of them is completed.
    let ask = format!(
        "source {}; set -- $(complete -p kafka-backup-worker); while [ \"$1\" != -F ]; do shift; done; \
         COMP_WORDS=(kafka-backup-worker backup --bootstr); COMP_CWORD=2; \
         $2 kafka-backup-worker --bootstr backup; echo \"${{COMPREPLY[@]}}\"",
        script.display()
    );
    let said = Command::new("bash").args(["-c", &ask]).output().unwrap();
    let reply = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(reply.trim(), "--bootstrap-servers", "{said:?}");
}
