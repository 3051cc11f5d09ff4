//! Objects whose pods are *restricted*, brokers with SASL over TLS and ACLs, a store with TLS by a private CA, two controllers of which
//! the leader is killed: there and back, groups reset and given back. A password is exchanged between two runs, and during one,
//! together with the keys of the store. Each run counts once, what failed is alerted, and all that is kept or logged is searched for
//! secrets. Needs the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use kafka_backup_tests::alerts::{self, Rules};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Committed, Produce, Reading};
use kafka_backup_tests::lab::secure::{Listener, Mechanism, Secured, password, pki, tokens};
use kafka_backup_tests::lab::{Lab, prometheus, versitygw, wait_for};
use kafka_backup_tests::operator;
use serde_json::{Value, json};

const NAMESPACE: &str = "t-secured";
const LIMIT: Duration = Duration::from_secs(180);
const USER: &str = "operator-user";
const TOPIC: &str = "vault";
const RECORDS: u64 = 60_000;
/// The backup during which everything is exchanged takes a minute, of many sessions.
const SLOWLY: u64 = RECORDS / 60;
/// The exchanged keys of the store.
const NEW_SECRET_KEY: &str = "exchanged-secret-key";
/// What a backup needs of the brokers, and what a restore needs besides.
const BACKUP: &[&str] = &[
    "topic:vault:READ",
    "topic:vault:DESCRIBE_CONFIGS",
    "group:*:DESCRIBE",
    "cluster:kafka-cluster:DESCRIBE",
];
const RESTORE: &[&str] = &[
    "topic:vault-back:CREATE",
    "topic:vault-back:WRITE",
    "topic:vault-back:DESCRIBE_CONFIGS",
    "topic:vault-back:ALTER_CONFIGS",
];
/// What moving a group's offsets needs.
const OFFSETS: &[&str] = &["topic:vault-back:READ", "group:vault-group:READ"];
const GROUP: &str = "vault-group";

/// As many controllers as are wanted, until this is dropped: then one, as it was.
struct Controllers<'a>(&'a Lab);

impl<'a> Controllers<'a> {
    fn two(lab: &'a Lab) -> Self {
        let controllers = Self(lab);
        controllers.scale("2");
        controllers
    }

    fn kubectl(&self, args: &[&str]) -> String {
        let own = ["--namespace", operator::NAMESPACE];
        operator::kubectl(self.0, &[&own[..], args].concat()).unwrap()
    }

    fn scale(&self, number: &str) {
        let replicas = format!("--replicas={number}");
        self.kubectl(&["scale", "deployment", operator::NAME, &replicas]);
        operator::rolled_out(self.0, operator::NAMESPACE).unwrap();
    }

    /// The pod that leads.
    fn leader(&self) -> String {
        let label = "kafka-backup.dev/leader-of";
        self.kubectl(&["get", "pods", "--selector", label, "--output", "name"])
            .trim()
            .to_owned()
    }

    /// Kills it at once; another one leads then.
    fn kill_leader(&self) {
        let killed = self.leader();
        assert!(
            killed.starts_with("pod/") && killed.lines().count() == 1,
            "{killed}"
        );
        self.kubectl(&["delete", &killed, "--grace-period=0", "--force"]);
        let other = || ![String::new(), killed.clone()].contains(&self.leader());
        wait_for("another leader", LIMIT, other).unwrap();
    }
}

impl Drop for Controllers<'_> {
    fn drop(&mut self) {
        self.scale("1");
    }
}

fn secret(name: &str, fields: Value) -> String {
    let object = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": name, "namespace": NAMESPACE}, "stringData": fields,
    });
    object.to_string()
}

fn apply(lab: &Lab, name: &str, text: &str) {
    operator::apply(lab, name, text).unwrap();
}

fn set_password(lab: &Lab, password: &str) {
    let user = secret(
        "kafka-user",
        json!({"username": USER, "password": password}),
    );
    apply(lab, "secured-user", &user);
}

fn set_keys(lab: &Lab, secret_key: &str) {
    let keys = json!({"accessKey": versitygw::ACCESS_KEY, "secretKey": secret_key});
    apply(lab, "secured-keys", &secret("keys", keys));
}

fn cluster(secured: &Secured) -> Value {
    cluster_at(secured, Listener::SaslTls)
}

fn cluster_at(secured: &Secured, listener: Listener) -> Value {
    json!({
        "bootstrapServers": secured.bootstrap(listener).split(',').collect::<Vec<_>>(),
        "securityProtocol": "SASL_SSL",
        "caSecret": {"name": "private-ca"},
        "saslSecret": {"name": "kafka-user", "mechanism": "SCRAM-SHA-512"},
    })
}

fn storage() -> Value {
    json!({
        "storageType": "s3",
        "s3": {
            "bucket": versitygw::BUCKET, "endpoint": versitygw::TLS_ENDPOINT, "pathStyle": true,
            "prefix": NAMESPACE, "caSecret": {"name": "private-ca"}, "credentialsSecret": {"name": "keys"},
        },
    })
}

fn object(kind: &str, name: &str, spec: &Value) -> String {
    let object = json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec,
    });
    object.to_string()
}

fn finished(lab: &Lab, kind: &str, name: &str) -> Value {
    operator::wait_finished(lab, NAMESPACE, kind, name, LIMIT, |_| {}).unwrap()
}

fn begin_backup(lab: &Lab, name: &str, cluster: Value, more: Value) {
    let mut spec = json!({
        "kafkaCluster": cluster, "topics": [TOPIC], "storage": storage(), "job": {"backoffLimit": 0},
    });
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    let object = object("KafkaBackup", name, &spec);
    apply(lab, &format!("secured-{name}"), &object);
}

fn backup(lab: &Lab, secured: &Secured, name: &str) -> Value {
    begin_backup(lab, name, cluster(secured), json!({}));
    finished(lab, "kafkabackup", name)
}

/// A backup during which the brokers and the store get other secrets, and then the Secrets, which a kubelet brings into the pod.
fn backup_during_an_exchange(lab: &Lab, secured: &Secured, name: &str, password: &str) {
    let cluster = cluster_at(secured, Listener::Reauthenticating);
    let rate = json!({"rateLimit": {"recordsPerSecond": SLOWLY}, "segmentMaxBytes": 1_048_576});
    begin_backup(lab, name, cluster, rate);
    let moves = |object: &Value| object["status"]["activeRun"]["records"].as_u64() > Some(0);
    let kind = "kafkabackup";
    operator::wait_object(lab, NAMESPACE, kind, name, "progress", LIMIT, moves).unwrap();
    secured
        .set_scram(USER, Mechanism::ScramSha512, password)
        .unwrap();
    versitygw::exchange_tls_key(lab, NEW_SECRET_KEY).unwrap();
    let job = job_of(lab, name);
    let pod = format!("batch.kubernetes.io/job-name={job}");
    let says = |what: &str| {
        let args = ["--namespace", NAMESPACE, "logs", "--tail=-1", "--selector"];
        let said = operator::kubectl(lab, &[&args[..], &[&pod]].concat()).unwrap();
        said.lines().any(|line| line.contains(what))
    };
    let refusals = ["failed to authenticate with SCRAM-SHA-512", "403 Forbidden"];
    for refusal in refusals {
        wait_for(refusal, LIMIT, || says(refusal)).unwrap();
    }
    set_password(lab, password);
    set_keys(lab, NEW_SECRET_KEY);
    let done = finished(lab, kind, name);
    assert_eq!(done["status"]["phase"], "Completed", "{:#}", done["status"]);
    assert_eq!(done["status"]["lastBackupRecords"], RECORDS);
    assert!(says("the Secrets of the store have changed"));
    let pods = operator::list(lab, NAMESPACE, "pods").unwrap();
    let of_run = |pod: &&Value| pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == *job;
    assert_eq!(pods.iter().filter(of_run).count(), 1, "it is the same pod");
}

/// The Job of the object's only run.
fn job_of(lab: &Lab, name: &str) -> String {
    let jobs = operator::list(lab, NAMESPACE, "jobs").unwrap();
    let owned = |job: &&Value| job["metadata"]["ownerReferences"][0]["name"] == name;
    let job = jobs.iter().find(owned).unwrap();
    job["metadata"]["name"].as_str().unwrap().to_owned()
}

#[test]
fn restricted_pods_reach_brokers_and_a_store_that_are_locked_down() {
    let lab = Lab::open().unwrap();
    tokens::up(&lab).unwrap();
    let secured = Secured::three(&lab);
    secured.up().unwrap();
    versitygw::down_with_tls(&lab).unwrap();
    versitygw::up_with_tls(&lab, versitygw::SECRET_KEY).unwrap();
    operator::fresh_namespace(&lab, NAMESPACE).unwrap();
    let controllers = Controllers::two(&lab);
    let rules = Rules::load(&lab).unwrap();
    let mechanism = Mechanism::ScramSha512;
    let (first, second) = (password(USER), "exchanged-secret".to_owned());
    let third = "exchanged-again".to_owned();
    secured.set_scram(USER, mechanism, &first).unwrap();
    secured.allow(USER, BACKUP).unwrap();
    let what = Produce {
        topic: TOPIC,
        partitions: 3,
        records: RECORDS,
        create: Some(&[]),
        ..Produce::default()
    };
    let servers = secured.tools();
    // Of an earlier run of this test.
    tools::delete_topics_where(&lab, &servers, |name| name.starts_with(TOPIC)).unwrap();
    tools::produce(&lab, &servers, &what).unwrap();
    let ca = std::fs::read_to_string(pki::ca(&lab)).unwrap();
    apply(
        &lab,
        "secured-ca",
        &secret("private-ca", json!({"ca.crt": ca})),
    );
    set_keys(&lab, versitygw::SECRET_KEY);
    set_password(&lab, &first);

    let done = backup(&lab, &secured, "vault");
    assert_eq!(done["status"]["phase"], "Completed", "{:#}", done["status"]);
    assert_eq!(done["status"]["lastBackupRecords"], RECORDS);

    // The restore lacks every permission of its own: it says which, and is not tried again.
    let begin_restore = |name: &str, backup: &str| {
        let spec = json!({
            "targetCluster": cluster(&secured), "backupRef": {"name": backup}, "topics": [TOPIC],
            "topicMapping": {TOPIC: "vault-back"}, "job": {"backoffLimit": 0},
        });
        apply(
            &lab,
            &format!("secured-{name}"),
            &object("KafkaRestore", name, &spec),
        );
    };
    begin_restore("refused", "vault");
    let refused = finished(&lab, "kafkarestore", "refused");
    let told = refused["status"].to_string();
    assert_eq!(refused["status"]["phase"], "Failed");
    assert!(
        told.contains("AccessDenied") && told.contains("vault-back"),
        "{told}"
    );
    secured.allow(USER, RESTORE).unwrap();
    // Exchanged between two runs; the old one is refused by name.
    secured.set_scram(USER, mechanism, &second).unwrap();
    let stale = backup(&lab, &secured, "stale");
    let told = stale["status"].to_string();
    assert_eq!(stale["status"]["phase"], "Failed");
    assert!(
        told.contains("AccessDenied") && told.contains("SCRAM-SHA-512"),
        "{told}"
    );
    set_password(&lab, &second);
    backup_during_an_exchange(&lab, &secured, "during", &third);
    begin_restore("vault", "during");
    controllers.kill_leader();
    let back = finished(&lab, "kafkarestore", "vault");
    assert_eq!(back["status"]["phase"], "Completed", "{:#}", back["status"]);
    let reading = Reading {
        committed_only: true,
        append_time_as_create: true,
    };
    let compared = tools::compare(&lab, &servers, &servers, &[(TOPIC, "vault-back")], reading);
    compared.unwrap().assert_equal();

    // A group is moved, and given back what it had.
    secured.allow(USER, OFFSETS).unwrap();
    let had = Committed {
        group: GROUP.into(),
        topic: "vault-back".into(),
        partition: 1,
        offset: 5,
        leader_epoch: None,
        metadata: "kept".into(),
    };
    let committed = || tools::committed_offsets(&lab, &servers, &[GROUP.into()]).unwrap();
    tools::commit_offsets(&lab, &servers, std::slice::from_ref(&had)).unwrap();
    let spec = json!({
        "kafkaCluster": cluster(&secured), "consumerGroups": [GROUP], "strategy": "earliest",
    });
    let reset = object("KafkaOffsetReset", "vault", &spec);
    apply(&lab, "secured-reset", &reset);
    let reset = finished(&lab, "kafkaoffsetreset", "vault");
    assert_eq!(
        reset["status"]["phase"], "Completed",
        "{:#}",
        reset["status"]
    );
    assert_eq!(committed()[0].offset, 0);
    let spec = json!({
        "kafkaCluster": cluster(&secured), "operation": "rollback",
        "snapshotId": reset["status"]["snapshotId"],
    });
    let rollback = object("KafkaOffsetRollback", "vault", &spec);
    apply(&lab, "secured-rollback", &rollback);
    let back = finished(&lab, "kafkaoffsetrollback", "vault");
    assert_eq!(back["status"]["phase"], "Completed", "{:#}", back["status"]);
    let now = committed();
    assert_eq!(
        (now[0].offset, &*now[0].metadata),
        (had.offset, &*had.metadata),
        "{now:?}"
    );

    // Each run counts once, whoever leads; what has failed is told.
    let counted = |family: &str, object: &str, outcome: &str| {
        // Nobody may answer for a moment, after the death of the leader.
        let page = operator::metrics(&lab).ok()?;
        let parts = [
            format!("{}_name=\"{object}\"", family.trim_start_matches("offset_")),
            format!("outcome=\"{outcome}\""),
            format!("namespace=\"{NAMESPACE}\""),
        ];
        let is_it = |line: &&str| {
            line.starts_with(&format!("kafka_backup_{family}s_total{{"))
                && parts.iter().all(|part| line.contains(part))
        };
        let value = page.lines().find(is_it)?.rsplit(' ').next()?;
        value.parse::<f64>().ok()
    };
    for (family, object, outcome) in [
        ("backup", "vault", "success"),
        ("backup", "stale", "failure"),
        ("backup", "during", "success"),
        ("restore", "refused", "failure"),
        ("restore", "vault", "success"),
        ("offset_reset", "vault", "success"),
        ("offset_rollback", "vault", "success"),
    ] {
        // A series is 0 for some scrapes before it counts, so that Prometheus sees the step.
        let what = format!("{family} {object} {outcome} to be counted");
        let mut found = None;
        wait_for(&what, LIMIT, || {
            found = counted(family, object, outcome);
            found.is_some_and(|found| found > 0.0)
        })
        .unwrap();
        assert_eq!(found, Some(1.0), "{what}");
    }
    let failed = alerts::firing("KafkaBackupFailed", NAMESPACE, "backup_name", "stale");
    wait_for("the alert of the failed backup", LIMIT, || {
        !prometheus::query(&lab, &failed).unwrap().is_empty()
    })
    .unwrap();
    drop(rules);

    // Nothing that is kept or said holds a secret.
    let mut said = String::new();
    for kind in [
        "kafkabackups,kafkarestores,kafkaoffsetresets,kafkaoffsetrollbacks,jobs,pods,events,configmaps",
        "leases",
    ] {
        let args = ["--namespace", NAMESPACE, "get", kind, "--output", "yaml"];
        said += &operator::kubectl(&lab, &args).unwrap();
    }
    let pods = operator::list(&lab, NAMESPACE, "pods").unwrap();
    assert!(pods.len() >= 4, "{} pods", pods.len());
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        said += &operator::kubectl(&lab, &["--namespace", NAMESPACE, "logs", name]).unwrap();
    }
    let all = ["--namespace", operator::NAMESPACE, "logs", "--selector"];
    let label = format!("app.kubernetes.io/name={}", operator::NAME);
    said += &operator::kubectl(&lab, &[&all[..], &[&label, "--tail=-1"]].concat()).unwrap();
    said += &operator::metrics(&lab).unwrap();
    assert!(said.contains("vault"), "it was searched");
    let keys = [versitygw::SECRET_KEY, NEW_SECRET_KEY];
    for canary in [&*first, &second, &third].into_iter().chain(keys) {
        assert!(!said.contains(canary), "{canary} is shown");
    }
    versitygw::down_with_tls(&lab).unwrap();
    operator::kubectl(&lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).unwrap();
}
