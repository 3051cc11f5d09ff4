//! Objects whose pods are *restricted*, brokers with SASL over TLS and ACLs, a store with TLS by a private CA: there and back, with a
//! password that is exchanged between two runs. All that is kept or logged is searched for secrets. Needs the installed operator.

use std::time::Duration;

use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::secure::{Listener, Mechanism, Secured, password, pki, tokens};
use kafka_backup_tests::lab::{Lab, versitygw};
use kafka_backup_tests::operator;
use serde_json::{Value, json};

const NAMESPACE: &str = "t-secured";
const LIMIT: Duration = Duration::from_secs(180);
const USER: &str = "operator-user";
const TOPIC: &str = "vault";
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

fn cluster(secured: &Secured) -> Value {
    json!({
        "bootstrapServers": secured.bootstrap(Listener::SaslTls).split(',').collect::<Vec<_>>(),
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

fn backup(lab: &Lab, secured: &Secured, name: &str) -> Value {
    let spec = json!({
        "kafkaCluster": cluster(secured), "topics": [TOPIC], "storage": storage(),
        "job": {"backoffLimit": 0},
    });
    apply(
        lab,
        &format!("secured-{name}"),
        &object("KafkaBackup", name, &spec),
    );
    finished(lab, "kafkabackup", name)
}

#[test]
fn restricted_pods_reach_brokers_and_a_store_that_are_locked_down() {
    let lab = Lab::open().unwrap();
    tokens::up(&lab).unwrap();
    let secured = Secured::three(&lab);
    secured.up().unwrap();
    versitygw::down_with_tls(&lab).unwrap();
    versitygw::up_with_tls(&lab).unwrap();
    operator::fresh_namespace(&lab, NAMESPACE).unwrap();
    let mechanism = Mechanism::ScramSha512;
    let (first, second) = (password(USER), "exchanged-secret".to_owned());
    secured.set_scram(USER, mechanism, &first).unwrap();
    secured.allow(USER, BACKUP).unwrap();
    let what = Produce {
        topic: TOPIC,
        partitions: 3,
        records: 3000,
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
    let keys = json!({"accessKey": versitygw::ACCESS_KEY, "secretKey": versitygw::SECRET_KEY});
    apply(&lab, "secured-keys", &secret("keys", keys));
    set_password(&lab, &first);

    let done = backup(&lab, &secured, "vault");
    assert_eq!(done["status"]["phase"], "Completed", "{:#}", done["status"]);
    assert_eq!(done["status"]["lastBackupRecords"], 3000);

    // The restore lacks every permission of its own: it says which, and is not tried again.
    let restore = |name: &str| {
        let spec = json!({
            "targetCluster": cluster(&secured), "backupRef": {"name": "vault"}, "topics": [TOPIC],
            "topicMapping": {TOPIC: "vault-back"}, "job": {"backoffLimit": 0},
        });
        apply(
            &lab,
            &format!("secured-{name}"),
            &object("KafkaRestore", name, &spec),
        );
        finished(&lab, "kafkarestore", name)
    };
    let refused = restore("refused");
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
    let back = restore("vault");
    assert_eq!(back["status"]["phase"], "Completed", "{:#}", back["status"]);
    let reading = Reading {
        committed_only: true,
        append_time_as_create: true,
    };
    let compared = tools::compare(&lab, &servers, &servers, &[(TOPIC, "vault-back")], reading);
    compared.unwrap().assert_equal();

    // Nothing that is kept or said holds a secret.
    let mut said = String::new();
    for kind in [
        "kafkabackups,kafkarestores,jobs,pods,events,configmaps",
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
    for canary in [first.as_str(), &second, versitygw::SECRET_KEY] {
        assert!(!said.contains(canary), "{canary} is shown");
    }
    versitygw::down_with_tls(&lab).unwrap();
    operator::kubectl(&lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).unwrap();
}
