//! Consumer groups through the objects: moved, taken back, carried over by a restore, refused. Offsets are read by Kafka's own
//! `kafka-consumer-groups`. Needs `cargo lab up` and the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Committed, GroupPlace, Produce};
use kafka_backup_tests::lab::{Lab, wait_for};
use kafka_backup_tests::operator;
use serde_json::Value;

const RUN: Duration = Duration::from_secs(120);
const PARTITIONS: u32 = 3;
/// Of each partition.
const RECORDS: i64 = 100;
/// The first record's timestamp; each is a second later than the one before.
const FIRST_MS: i64 = 1_600_000_000_000;

/// By group, topic and partition, what is committed.
type Offsets = BTreeMap<GroupPlace, i64>;

/// What all groups have committed whose id begins with `prefix`.
fn committed(lab: &Lab, bootstrap: &str, prefix: &str) -> Offsets {
    let found = tools::described(lab, bootstrap).unwrap().into_iter();
    let found = found.filter(|((group, ..), _)| group.starts_with(prefix));
    found.map(|(place, (offset, _))| (place, offset)).collect()
}

fn commit(lab: &Lab, bootstrap: &str, group: &str, topic: &str, offset: i64) {
    let offsets = (0..PARTITIONS as i32).map(|partition| Committed {
        group: group.into(),
        topic: topic.into(),
        partition,
        offset,
        leader_epoch: None,
        metadata: String::new(),
    });
    tools::commit_offsets(lab, bootstrap, &offsets.collect::<Vec<_>>()).unwrap();
}

/// A namespace with objects that move offsets of one topic.
struct Ground {
    lab: Lab,
    namespace: &'static str,
    bootstrap: String,
    topic: String,
}

impl Ground {
    fn new(namespace: &'static str) -> Self {
        let lab = Lab::open().unwrap();
        let bootstrap = SOURCE.bootstrap(&lab);
        operator::fresh_namespace(&lab, namespace).unwrap();
        let topic = format!("{namespace}.in");
        remove(&lab, &bootstrap, &topic);
        let what = Produce {
            topic: &topic,
            partitions: PARTITIONS,
            records: PARTITIONS as u64 * RECORDS as u64,
            timestamps: Some((FIRST_MS, 1000)),
            create: Some(&[("retention.ms", "-1")]),
            ..Produce::default()
        };
        tools::produce(&lab, &bootstrap, &what).unwrap();
        Self {
            lab,
            namespace,
            bootstrap,
            topic,
        }
    }

    /// Ids of groups are the ground's own.
    fn group(&self, name: &str) -> String {
        format!("{}-{name}", self.namespace)
    }

    fn commit(&self, group: &str, offset: i64) {
        let (lab, group) = (&self.lab, self.group(group));
        commit(lab, &self.bootstrap, &group, &self.topic, offset);
    }

    fn committed(&self) -> Offsets {
        let prefix = format!("{}-", self.namespace);
        committed(&self.lab, &self.bootstrap, &prefix)
    }

    /// What is committed where each of `groups` has this offset in each partition.
    fn all_at(&self, groups: &[(&str, i64)]) -> Offsets {
        let places = groups.iter().flat_map(|(group, offset)| {
            (0..PARTITIONS as i32).map(|p| ((self.group(group), self.topic.clone(), p), *offset))
        });
        places.collect()
    }

    /// An object of an offset kind; `fields` are further lines of its spec.
    fn object(&self, kind: &str, name: &str, fields: &str) -> String {
        let cluster = format!(
            "  kafkaCluster: {{bootstrapServers: [\"{}\"]}}\n",
            self.bootstrap
        );
        self.plain(kind, name, &(cluster + fields))
    }

    fn plain(&self, kind: &str, name: &str, spec: &str) -> String {
        let namespace = self.namespace;
        format!(
            "apiVersion: kafka-backup.dev/v1alpha1\nkind: {kind}\n\
             metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
        )
    }

    fn apply(&self, name: &str, yaml: &str) -> Result<String, String> {
        let name = format!("{}-{name}", self.namespace);
        operator::apply(&self.lab, &name, yaml).map_err(|error| error.to_string())
    }

    /// Applies an object and waits until its run has ended.
    fn run(&self, kind: &str, name: &str, yaml: &str) -> Value {
        self.apply(name, yaml).unwrap();
        operator::wait_finished(&self.lab, self.namespace, kind, name, RUN, |_| {}).unwrap()
    }

    fn reset(&self, name: &str, fields: &str) -> Value {
        let yaml = self.object("KafkaOffsetReset", name, fields);
        self.run("KafkaOffsetReset", name, &yaml)
    }

    fn rollback(&self, name: &str, fields: &str) -> Value {
        let yaml = self.object("KafkaOffsetRollback", name, fields);
        self.run("KafkaOffsetRollback", name, &yaml)
    }

    fn config_map(&self, name: &str) -> Option<Value> {
        operator::get(&self.lab, self.namespace, "configmap", name).unwrap()
    }
}

fn remove(lab: &Lab, bootstrap: &str, topic: &str) {
    let existing = tools::list_topics(lab, bootstrap).unwrap();
    if existing.iter().any(|name| name == topic) {
        tools::delete_topics(lab, bootstrap, &[topic]).unwrap();
    }
}

fn assert_phase(object: &Value, phase: &str) {
    assert_eq!(object["status"]["phase"], phase, "{}", object["status"]);
}

/// The reason and the message with which it failed.
fn failure(object: &Value) -> (String, String) {
    assert_phase(object, "Failed");
    let conditions = object["status"]["conditions"].as_array().unwrap();
    let succeeded = conditions
        .iter()
        .find(|c| c["type"] == "Succeeded")
        .unwrap();
    let text = |field: &str| succeeded[field].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("message"))
}

/// Ends a consumer when the test ends, however it does.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn offsets_are_moved_by_each_strategy_and_taken_back() {
    let ground = Ground::new("t-offsets");
    for (group, offset) in [("a", 10), ("b", 20)] {
        ground.commit(group, offset);
    }
    let start = ground.all_at(&[("a", 10), ("b", 20)]);
    assert_eq!(ground.committed(), start, "what the test begins with");
    let groups = "  consumerGroups: [\"t-offsets-?\"]\n";

    let dry = ground.reset(
        "dry",
        &format!("{groups}  strategy: earliest\n  dryRun: true\n"),
    );
    assert_phase(&dry, "Completed");
    assert_eq!(dry["status"]["groupsReset"], 2, "{}", dry["status"]);
    assert_eq!(dry["status"]["results"][0]["status"], "Planned");
    let message = dry["status"]["runHistory"][0]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "dry run: 6 offsets of 2 groups would change, and nothing did"
    );
    assert_eq!(ground.committed(), start, "a dry run");
    let logs = operator::kubectl(
        &ground.lab,
        &[
            "--namespace",
            ground.namespace,
            "logs",
            &format!(
                "job/{}",
                dry["status"]["runHistory"][0]["job"].as_str().unwrap()
            ),
        ],
    );
    let logs = logs.unwrap();
    let row = logs
        .lines()
        .find(|line| line.contains("t-offsets-b") && line.contains(" 20 "));
    assert!(row.is_some(), "old and new offsets are in the log: {logs}");

    let strategies = [
        ("earliest", "  strategy: earliest\n".to_owned(), 0),
        ("latest", "  strategy: latest\n".to_owned(), RECORDS),
        // Record i of all is in partition i % 3, at offset i / 3.
        (
            "millis",
            format!(
                "  strategy: timestamp\n  timestampMillis: {}\n",
                FIRST_MS + 90_000
            ),
            30,
        ),
        (
            "time",
            "  strategy: timestamp\n  timestamp: \"2020-09-13T12:26:40Z\"\n".to_owned(),
            0,
        ),
        (
            "late",
            "  strategy: timestamp\n  timestamp: \"2040-01-01T00:00:00Z\"\n".to_owned(),
            RECORDS,
        ),
        (
            "offset",
            "  strategy: offset\n  offset: 42\n".to_owned(),
            42,
        ),
        (
            "clamped",
            "  strategy: offset\n  offset: 4200\n".to_owned(),
            RECORDS,
        ),
    ];
    let mut first = String::new();
    for (name, strategy, offset) in strategies {
        let done = ground.reset(name, &format!("{groups}{strategy}"));
        assert_phase(&done, "Completed");
        let status = &done["status"];
        assert_eq!(
            (&status["groupsReset"], &status["groupsFailed"]),
            (&2.into(), &0.into())
        );
        assert_eq!(
            ground.committed(),
            ground.all_at(&[("a", offset), ("b", offset)]),
            "{name}"
        );
        let snapshot = status["snapshotId"].as_str().unwrap().to_owned();
        let kept = ground.config_map(&snapshot).unwrap();
        assert_eq!(kept["immutable"], true);
        assert_eq!(
            kept["metadata"]["ownerReferences"],
            Value::Null,
            "it outlives the reset"
        );
        if first.is_empty() {
            first = snapshot;
        }
    }
    let delete = [
        "--namespace",
        ground.namespace,
        "delete",
        "kafkaoffsetreset",
        "earliest",
    ];
    operator::kubectl(&ground.lab, &delete).unwrap();

    let verify = format!("  operation: verify\n  snapshotId: {first}\n");
    let differs = ground.rollback("differs", &verify);
    let (reason, message) = failure(&differs);
    assert_eq!(reason, "DataCorrupt");
    assert!(
        message.contains("expected offset 10, found offset 100"),
        "{message}"
    );
    assert_eq!(differs["status"]["verificationResult"]["matched"], false);
    let preview = format!("  operation: rollback\n  snapshotId: {first}\n  dryRun: true\n");
    assert_phase(&ground.rollback("preview", &preview), "Completed");
    assert_eq!(
        ground.committed(),
        ground.all_at(&[("a", RECORDS), ("b", RECORDS)])
    );
    let one =
        format!("  operation: rollback\n  snapshotId: {first}\n  consumerGroups: [t-offsets-a]\n");
    assert_phase(&ground.rollback("one", &one), "Completed");
    assert_eq!(
        ground.committed(),
        ground.all_at(&[("a", 10), ("b", RECORDS)])
    );
    let all = format!("  operation: rollback\n  snapshotId: {first}\n");
    let back = ground.rollback("back", &all);
    assert_phase(&back, "Completed");
    assert_eq!(ground.committed(), start);
    let status = &back["status"];
    assert_eq!(status["verificationResult"]["matched"], true, "{status}");
    assert_eq!(
        (
            &status["snapshotData"]["groups"],
            &status["snapshotData"]["totalPartitions"]
        ),
        (&2.into(), &6.into())
    );
    let strict = format!("{verify}  verify: {{strict: true}}\n");
    assert_phase(&ground.rollback("same", &strict), "Completed");

    let gone = format!("  operation: delete\n  snapshotId: {first}\n");
    assert_phase(&ground.rollback("gone", &gone), "Completed");
    assert_eq!(ground.config_map(&first), None);

    let counted = [
        (
            "kafka_backup_offset_resets_total{reset_name=\"latest\",namespace=\"t-offsets\",strategy=\"latest\",outcome=\"success\"}",
            1.0,
        ),
        (
            "kafka_backup_offset_reset_groups_total{reset_name=\"latest\",namespace=\"t-offsets\",strategy=\"latest\",outcome=\"success\"}",
            2.0,
        ),
        (
            "kafka_backup_offset_reset_duration_seconds_count{reset_name=\"latest\",namespace=\"t-offsets\",strategy=\"latest\",outcome=\"success\"}",
            1.0,
        ),
        (
            "kafka_backup_offset_rollbacks_total{rollback_name=\"back\",namespace=\"t-offsets\",operation=\"rollback\",outcome=\"success\"}",
            1.0,
        ),
    ];
    let mut page = String::new();
    let is_counted = |page: &str| {
        let mut counted = counted.iter();
        counted.all(|(series, value)| operator::sample(page, series) == Some(*value))
    };
    let waited = wait_for("the counters", operator::HOLD * 4, || {
        page = operator::metrics(&ground.lab).unwrap();
        is_counted(&page)
    });
    let found = counted.map(|(series, _)| (series, operator::sample(&page, series)));
    assert!(waited.is_ok(), "{found:?}");
    let columns = operator::kubectl(
        &ground.lab,
        &["--namespace", ground.namespace, "get", "kor,korb"],
    )
    .unwrap();
    let latest = columns
        .lines()
        .find(|line| line.contains("kafkaoffsetreset.kafka-backup.dev/latest"));
    let cells: Vec<&str> = latest.unwrap().split_whitespace().collect();
    assert_eq!(cells[1..5], ["Completed", "latest", "2", "0"], "{columns}");
    let events =
        operator::events(&ground.lab, ground.namespace, "KafkaOffsetReset", "latest").unwrap();
    assert!(
        events.len() >= 2,
        "a run that starts and ends is told by Events, found {events:?}"
    );
}

#[test]
fn groups_follow_a_restore() {
    let ground = Ground::new("t-follow");
    ground.commit("shop", 70);
    let target = TARGET.bootstrap(&ground.lab);
    let restored = format!("{}.back", ground.topic);
    // With what groups of an earlier run have committed for them.
    for topic in [&restored, &ground.topic] {
        remove(&ground.lab, &target, topic);
    }
    let storage = operator::storage_yaml(ground.namespace);
    let topic = &ground.topic;
    let backup = ground.object(
        "KafkaBackup",
        "orders",
        &format!("  topics: [\"{topic}\"]\n{storage}"),
    );
    assert_phase(&ground.run("KafkaBackup", "orders", &backup), "Completed");
    let restore = ground.plain("KafkaRestore", "back", &format!(
        "  backupRef: {{name: orders}}\n  targetCluster: {{bootstrapServers: [\"{target}\"]}}\n  topics: [\"{topic}\"]\n  \
         topicMapping: {{\"{topic}\": \"{restored}\"}}\n  pitr: {{startTimestampMillis: {}}}\n  includeOriginalOffsetHeader: true\n  \
         offsetReset: {{enabled: true}}\n  rollback: {{enabled: true}}\n",
        // The first 20 of each partition are left out.
        FIRST_MS + 60_000
    ));
    let back = ground.run("KafkaRestore", "back", &restore);
    assert_phase(&back, "Completed");
    let status = &back["status"];
    assert_eq!(status["offsetResetStatus"]["groupsReset"], 1, "{status}");
    let at = |offset: i64| -> Offsets {
        let places =
            (0..PARTITIONS as i32).map(|p| ((ground.group("shop"), restored.clone(), p), offset));
        places.collect()
    };
    let committed = || committed(&ground.lab, &target, "t-follow-");
    assert_eq!(committed(), at(50), "70 at the source is 50 in the target");

    // The restore's snapshot is beside its archive: the group had nothing.
    let snapshot = status["rollbackSnapshotId"].as_str().unwrap();
    let of_target =
        |fields: &str| format!("  kafkaCluster: {{bootstrapServers: [\"{target}\"]}}\n{fields}");
    let undo = of_target(&format!(
        "  operation: rollback\n  snapshotId: {snapshot}\n{storage}"
    ));
    let undo = ground.plain("KafkaOffsetRollback", "undo", &undo);
    assert_phase(
        &ground.run("KafkaOffsetRollback", "undo", &undo),
        "Completed",
    );
    assert_eq!(committed(), Offsets::new());

    let again = of_target(
        "  consumerGroups: [\"*\"]\n  strategy: fromRestore\n  restoreRef: {name: back}\n",
    );
    let again = ground.plain("KafkaOffsetReset", "again", &again);
    assert_phase(
        &ground.run("KafkaOffsetReset", "again", &again),
        "Completed",
    );
    assert_eq!(committed(), at(50));

    // A group that has committed the source's offsets in the target.
    let mapping: BTreeMap<String, i64> = (0..PARTITIONS).map(|p| (p.to_string(), 55)).collect();
    let offsets = serde_json::json!({"groups": {ground.group("moved"): {&restored: mapping}}});
    let map = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: offsets, namespace: {}}}\ndata:\n  offsets.json: '{offsets}'\n",
        ground.namespace
    );
    ground.apply("mapping", &map).unwrap();
    let mapped = of_target(
        "  consumerGroups: [t-follow-moved]\n  strategy: fromMapping\n  mappingConfigMap: {name: offsets}\n",
    );
    let mapped = ground.plain("KafkaOffsetReset", "mapped", &mapped);
    assert_phase(
        &ground.run("KafkaOffsetReset", "mapped", &mapped),
        "Completed",
    );
    // The topic has another name than at the source, so that its headers name no topic of the group.
    let strange = of_target("  consumerGroups: [t-follow-moved]\n  strategy: headerBased\n");
    let strange = ground.plain("KafkaOffsetReset", "strange", &strange);
    let (reason, message) = failure(&ground.run("KafkaOffsetReset", "strange", &strange));
    assert_eq!(reason, "InvalidSpec");
    assert!(message.contains("no record whose headers"), "{message}");

    // Restored under its own name, it does.
    let same = ground.plain("KafkaRestore", "same", &format!(
        "  backupRef: {{name: orders}}\n  targetCluster: {{bootstrapServers: [\"{target}\"]}}\n  topics: [\"{topic}\"]\n  \
         pitr: {{startTimestampMillis: {}}}\n  includeOriginalOffsetHeader: true\n",
        FIRST_MS + 60_000
    ));
    assert_phase(&ground.run("KafkaRestore", "same", &same), "Completed");
    commit(&ground.lab, &target, "t-follow-raw", topic, 55);
    let found = of_target(
        "  consumerGroups: [t-follow-raw]\n  strategy: headerBased\n  scanAllPartitions: true\n",
    );
    let found = ground.plain("KafkaOffsetReset", "found", &found);
    assert_phase(
        &ground.run("KafkaOffsetReset", "found", &found),
        "Completed",
    );
    let raw: Offsets = committed()
        .into_iter()
        .filter(|((group, ..), _)| group == "t-follow-raw")
        .collect();
    let expected: Offsets = (0..PARTITIONS as i32)
        .map(|p| (("t-follow-raw".into(), topic.clone(), p), 35))
        .collect();
    assert_eq!(raw, expected);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let ground = Ground::new("t-refused");
    let (lab, bootstrap) = (&ground.lab, &ground.bootstrap);
    for group in ["idle", "live"] {
        ground.commit(group, 10);
    }
    let consume = [
        "--bootstrap-server",
        bootstrap,
        "--topic",
        &ground.topic,
        "--group",
        "t-refused-live",
        "--consumer-property",
        "enable.auto.commit=false",
    ];
    let mut consumer = tools::tool(
        lab,
        "org.apache.kafka.tools.consumer.ConsoleConsumer",
        &consume,
    )
    .unwrap();
    let consumer = consumer
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let consumer = Consumer(consumer.spawn().unwrap());
    let state = [
        "--bootstrap-server",
        bootstrap,
        "--describe",
        "--state",
        "--group",
        "t-refused-live",
    ];
    let command = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
    wait_for("a live group", Duration::from_secs(60), || {
        let described = tools::tool(lab, command, &state).unwrap().output().unwrap();
        String::from_utf8_lossy(&described.stdout).contains("Stable")
    })
    .unwrap();
    let start = ground.all_at(&[("idle", 10), ("live", 10)]);
    let snapshot =
        "  operation: snapshot\n  consumerGroups: [\"t-refused-*\"]\n  snapshotId: kept\n";
    assert_phase(&ground.rollback("kept", snapshot), "Completed");

    let strategy = "  strategy: earliest\n";
    let idle = format!("  consumerGroups: [t-refused-idle]\n{strategy}");
    let resets = [
        ("live", format!("  consumerGroups: [\"t-refused-*\"]\n{strategy}"), "InvalidSpec", "t-refused-live (Stable)"),
        ("no-group", format!("  consumerGroups: [t-refused-nobody]\n{strategy}"), "InvalidSpec", "no group t-refused-nobody"),
        ("no-offsets", format!("{idle}  topics: [\"other*\"]\n"), "InvalidSpec", "no committed offsets on the topics"),
        ("taken", format!("{idle}  snapshotId: kept\n"), "InvalidSpec", "ConfigMap kept exists"),
        ("not-ours", format!("{idle}  storage: {{storageType: configMap, configMap: {{name: kube-root-ca.crt}}}}\n"), "InvalidSpec", "kube-root-ca.crt"),
        ("no-bucket", format!("{idle}{}", operator::storage_yaml("p").replace("bucket: ", "bucket: no-such-")), "InvalidSpec", "no-such-"),
        ("no-restore", "  consumerGroups: [t-refused-idle]\n  strategy: fromRestore\n  restoreRef: {name: nothing}\n".to_owned(), "InvalidSpec", "nothing"),
        ("no-broker", idle.clone(), "Unavailable", "198.18.0.2:9"),
    ];
    for (name, fields, reason, said) in resets {
        let mut yaml = ground.object("KafkaOffsetReset", name, &fields);
        if name == "no-broker" {
            yaml = yaml.replace(bootstrap.as_str(), "198.18.0.2:9");
        }
        let (found, message) = match name {
            // There is no run: the object waits until it is right.
            "no-restore" => {
                ground.apply(name, &yaml).unwrap();
                let object = operator::wait_object(
                    lab,
                    ground.namespace,
                    "KafkaOffsetReset",
                    name,
                    "a refusal",
                    RUN,
                    |object| {
                        object["status"]["conditions"]
                            .to_string()
                            .contains("InvalidSpec")
                    },
                );
                let conditions = object.unwrap()["status"]["conditions"].clone();
                let ready = conditions
                    .as_array()
                    .unwrap()
                    .iter()
                    .find(|c| c["type"] == "Ready")
                    .unwrap()
                    .clone();
                (
                    ready["reason"].as_str().unwrap().to_owned(),
                    ready["message"].as_str().unwrap().to_owned(),
                )
            }
            _ => failure(&ground.run("KafkaOffsetReset", name, &yaml)),
        };
        println!("{name}: {found} {message}");
        assert_eq!(found, reason, "{name}: {message}");
        assert!(message.contains(said), "{name}: {message}");
        assert_eq!(ground.committed(), start, "{name}");
    }
    let rollbacks = [
        (
            "missing-one",
            "  operation: delete\n  snapshotId: nowhere\n",
            "InvalidSpec",
            "no snapshot nowhere",
        ),
        (
            "stranger",
            "  operation: rollback\n  snapshotId: kept\n  consumerGroups: [nobody]\n",
            "InvalidSpec",
            "no group nobody",
        ),
        (
            "alive",
            "  operation: rollback\n  snapshotId: kept\n",
            "InvalidSpec",
            "t-refused-live (Stable)",
        ),
    ];
    for (name, fields, reason, said) in rollbacks {
        let (found, message) = failure(&ground.rollback(name, fields));
        assert_eq!(found, reason, "{name}: {message}");
        assert!(message.contains(said), "{name}: {message}");
    }
    drop(consumer);
    remove(lab, bootstrap, &ground.topic);
    let what = Produce {
        topic: &ground.topic,
        partitions: PARTITIONS,
        records: 30,
        ..Produce::default()
    };
    tools::produce(lab, bootstrap, &what).unwrap();
    let anew = "  operation: rollback\n  snapshotId: kept\n  consumerGroups: [t-refused-idle]\n";
    let (reason, message) = failure(&ground.rollback("anew", anew));
    assert_eq!(reason, "InvalidSpec", "{message}");
    assert!(
        message.contains("spec.force") && message.contains(&ground.topic),
        "{message}"
    );
    assert_phase(
        &ground.rollback("forced", &format!("{anew}  force: true\n")),
        "Completed",
    );
    let idle: Offsets = ground.all_at(&[("idle", 10)]);
    let found = ground
        .committed()
        .into_iter()
        .filter(|((group, ..), _)| group == "t-refused-idle");
    assert_eq!(found.collect::<Offsets>(), idle);
}

#[test]
fn what_the_schema_knows_to_be_wrong_is_refused_at_admission() {
    let lab = Lab::open().unwrap();
    let namespace = "t-offset-schema";
    operator::create_namespace(&lab, namespace).unwrap();
    let ground = Ground {
        bootstrap: "kafka:9092".into(),
        topic: String::new(),
        namespace,
        lab,
    };
    let reset = |fields: &str| {
        (
            "KafkaOffsetReset",
            format!("  consumerGroups: [g]\n{fields}"),
        )
    };
    let rollback = |fields: &str| ("KafkaOffsetRollback", format!("  snapshotId: s\n{fields}"));
    let cases = [
        (reset("  strategy: newest\n"), "strategy"),
        (reset("  strategy: timestamp\n"), "timestamp"),
        (
            reset("  strategy: earliest\n  timestampMillis: 1\n"),
            "timestamp",
        ),
        (
            reset(
                "  strategy: timestamp\n  timestampMillis: 1\n  timestamp: \"2026-01-02T03:04:05Z\"\n",
            ),
            "not both",
        ),
        (reset("  strategy: offset\n"), "offset"),
        (reset("  strategy: offset\n  offset: -1\n"), "offset"),
        (reset("  strategy: fromMapping\n"), "mappingConfigMap"),
        (reset("  strategy: fromRestore\n"), "restoreRef"),
        (
            reset("  strategy: earliest\n  sourceCluster: a\n"),
            "headerBased",
        ),
        (
            reset("  strategy: earliest\n  scanAllPartitions: true\n"),
            "headerBased",
        ),
        (
            reset("  strategy: earliest\n  snapshotId: Not_A_Label\n"),
            "snapshotId",
        ),
        (
            reset("  strategy: earliest\n  createSnapshot: false\n  snapshotId: s\n"),
            "createSnapshot",
        ),
        (
            reset("  strategy: earliest\n  storage: {storageType: configMap}\n"),
            "configMap",
        ),
        (
            reset("  strategy: earliest\n  parallelism: 0\n"),
            "parallelism",
        ),
        (reset("  strategy: earliest\n  topics: []\n"), "topics"),
        (reset("  strategy: earliest\n  groups: [g]\n"), "groups"),
        (rollback("  operation: undo\n"), "operation"),
        (rollback("  operation: snapshot\n"), "consumerGroups"),
        (
            rollback("  operation: delete\n  consumerGroups: [g]\n"),
            "consumerGroups",
        ),
        (
            rollback("  operation: rollback\n  verify: {strict: true}\n"),
            "verify",
        ),
        (rollback("  operation: verify\n  force: true\n"), "force"),
        (rollback("  operation: verify\n  dryRun: true\n"), "dryRun"),
    ];
    for (number, ((kind, fields), said)) in cases.into_iter().enumerate() {
        let name = format!("wrong-{number}");
        let yaml = ground.object(kind, &name, &fields);
        let refused = ground.apply(&name, &yaml).expect_err(&fields);
        assert!(refused.contains(said), "{fields}: {refused}");
    }
    let (kind, fields) =
        reset("  strategy: earliest\n  dryRun: true\n  job: {startDeadlineSeconds: 5}\n");
    let yaml = ground.object(kind, "fixed", &fields);
    ground.apply("fixed", &yaml).unwrap();
    let changed = ground
        .apply("fixed", &yaml.replace("earliest", "latest"))
        .unwrap_err();
    assert!(changed.contains("cannot be changed"), "{changed}");
    let namespace = ["delete", "namespace", ground.namespace, "--wait=false"];
    operator::kubectl(&ground.lab, &namespace).unwrap();
}
