//! Manifests as their users have them.

use super::schedule::schedule;
use super::*;

fn converted(text: &str) -> (Value, Vec<String>) {
    let [one] = <[Converted; 1]>::try_from(convert(text).unwrap().0).unwrap();
    (one.object, one.notes)
}

fn refused(text: &str) -> String {
    kafka_backup_shared::report::error_chain(&convert(text).unwrap_err())
}

/// There is a note about each of the fields.
fn assert_noted(notes: &[String], paths: &[&str]) {
    for path in paths {
        assert!(
            notes.iter().any(|note| note.starts_with(path)),
            "{path}: {notes:?}"
        );
    }
}

const BACKUP: &str = r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaBackup
metadata: {name: orders, namespace: shop, resourceVersion: "7", labels: {team: a}}
spec:
  kafkaCluster:
    bootstrapServers: ["kafka:9093"]
    securityProtocol: SASL_SSL
    saslSecret: {name: kafka-user, mechanism: SCRAM-SHA-512}
    connection: {keepaliveSecs: 60}
  topics: []
  schedule: "0 30 2 * * 2-6 *"
  compression: zstd
  compressionLevel: 3
  segmentMaxIntervalMs: 1500
  consumerGroupSnapshot: false
  rateLimiting: {recordsPerSec: 0, bytesPerSec: 1000000}
  circuitBreaker: {enabled: true}
  retention: {enabled: true, maxAgeDays: 30, keepLast: 5}
  storage:
    storageType: s3
    s3:
      bucket: backups
      region: eu-central-1
      credentialsSecret: {name: keys}
status: {phase: Running}
"#;

#[test]
fn a_backup_keeps_what_it_says_and_tells_what_it_cannot() {
    let (object, notes) = converted(BACKUP);
    assert_eq!(
        object,
        json!({
            "apiVersion": "kafka-backup.dev/v1alpha1",
            "kind": "KafkaBackup",
            "metadata": {"name": "orders", "namespace": "shop", "labels": {"team": "a"}},
            "spec": {
                "kafkaCluster": {
                    "bootstrapServers": ["kafka:9093"],
                    "securityProtocol": "SASL_SSL",
                    "saslSecret": {"name": "kafka-user", "mechanism": "SCRAM-SHA-512"},
                },
                "topics": ["*"],
                "schedule": "30 2 * * 1-5",
                "compression": "zstd",
                "compressionLevel": 3,
                "checkpointIntervalSecs": 2,
                "consumerGroups": [],
                "rateLimit": {"bytesPerSecond": 1000000},
                "retention": {"backups": 5},
                "storage": {
                    "storageType": "s3",
                    "s3": {
                        "bucket": "backups",
                        "region": "eu-central-1",
                        "credentialsSecret": {
                            "name": "keys",
                            "accessKeyKey": "AWS_ACCESS_KEY_ID",
                            "secretKeyKey": "AWS_SECRET_ACCESS_KEY",
                        },
                    },
                },
            },
        })
    );
    assert_noted(
        &notes,
        &[
            "spec.kafkaCluster.connection",
            "spec.schedule",
            "spec.circuitBreaker",
            "spec.retention.maxAgeDays",
            "spec.storage.storageType",
        ],
    );
}

#[test]
fn what_is_shown_is_read_again_with_notes_as_comments() {
    let text = show(&convert(&format!("kind: Pod\n---\n{BACKUP}")).unwrap().0);
    assert!(text.starts_with("---\n# spec."), "{text}");
    let again: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert_eq!(again, [converted(BACKUP).0]);
}

#[test]
fn a_restore_and_offsets_follow_their_tables() {
    let (object, notes) = converted(
        r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaRestore
metadata: {name: back}
spec:
  backupRef: {name: orders, backupId: orders-1}
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  topics: [orders]
  pitr: {endTimestamp: 1700000000000}
  partitionMapping: {"0": 3}
  purgeTopics: true
  offsetReset: {enabled: true, strategy: auto}
  rollback: {snapshotBeforeRestore: true}
"#,
    );
    assert_eq!(
        object["spec"],
        json!({
            "backupRef": {"name": "orders"},
            "targetCluster": {"bootstrapServers": ["kafka:9092"]},
            "topics": ["orders"],
            "pitr": {"timestampMillis": 1_700_000_000_000u64},
            "partitionMapping": {"orders": {"0": 3}},
            "createTopics": false,
            "ifTopicNotEmpty": "Purge",
            "offsetReset": {"enabled": true},
            "rollback": {"enabled": true},
        })
    );
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes.iter().all(|note| note.starts_with("spec.backupRef.")),
        "{notes:?}"
    );
    let (object, _) = converted(
        r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaOffsetReset
metadata: {name: reset}
spec:
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  consumerGroups: [billing]
  resetStrategy: from-mapping
  offsetMappingRef: {restoreName: back}
  parallelism: 100
"#,
    );
    assert_eq!(object["spec"]["strategy"], "fromRestore");
    assert_eq!(object["spec"]["restoreRef"], json!({"name": "back"}));
    assert_eq!(object["spec"]["parallelism"], 64);
    let (object, _) = converted(
        r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaOffsetRollback
metadata: {name: rollback}
spec:
  kafkaCluster: {bootstrapServers: ["kafka:9092"]}
  snapshotRef: {name: before}
  verifyAfterRollback: true
"#,
    );
    assert_eq!(object["spec"]["operation"], "rollback");
    assert_eq!(object["spec"]["snapshotId"], "before");
}

/// As the API server returns one: fields that were left out have their defaults.
#[test]
fn defaults_of_an_api_server_are_no_wishes() {
    let (object, notes) = converted(
        r#"
apiVersion: kafka.oso.sh/v1alpha1
kind: KafkaRestore
metadata: {name: back, namespace: shop}
spec:
  backupRef: {name: orders, namespace: shop}
  kafkaCluster:
    bootstrapServers: ["kafka:9093"]
    securityProtocol: SSL
    caSecret: {name: ca}
    tlsSecret: {name: user, caKey: ca.crt, certKey: user.crt, keyKey: user.key}
  topics: []
  topicMapping: {}
  partitionMapping: {}
  repartitioning: {}
  createTopics: false
  offsetReset: {enabled: true, strategy: dry_run}
  rollback: {snapshotBeforeRestore: true}
"#,
    );
    assert_eq!(
        object["spec"],
        json!({
            "backupRef": {"name": "orders"},
            "targetCluster": {
                "bootstrapServers": ["kafka:9093"],
                "securityProtocol": "SSL",
                "caSecret": {"name": "ca"},
                "tlsSecret": {"name": "user", "certKey": "user.crt", "keyKey": "user.key"},
            },
            "topics": ["*"],
            "createTopics": false,
        })
    );
    assert_noted(
        &notes,
        &[
            "spec.offsetReset.strategy",
            "spec.rollback.snapshotBeforeRestore",
            "spec.kafkaCluster.tlsSecret.caKey",
        ],
    );
    let lz4 = BACKUP
        .replace("compression: zstd", "compression: lz4")
        .replace("enabled: true, maxAgeDays", "maxAgeDays");
    let (object, notes) = converted(&lz4);
    let spec = &object["spec"];
    assert_eq!(
        (
            &spec["compression"],
            &spec["compressionLevel"],
            &spec["retention"]
        ),
        (&json!("lz4"), &Value::Null, &Value::Null)
    );
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("spec.retention: left out")),
        "{notes:?}"
    );
    let level = BACKUP.replace("  compression: zstd\n", "");
    assert_eq!(converted(&level).0["spec"]["compression"], "zstd");
}

#[test]
fn what_cannot_be_taken_over_is_refused_by_path() {
    let unknown = BACKUP.replace("compression: zstd", "comprssion: zstd");
    assert!(
        refused(&unknown)
            .ends_with("KafkaBackup orders: fields that are not known: spec.comprssion"),
        "{}",
        refused(&unknown)
    );
    let line = BACKUP.replace("0 30 2 * * 2-6 *", "10 30 2 * * * *");
    assert!(
        refused(&line).contains("spec.schedule: expected six or seven"),
        "{}",
        refused(&line)
    );
    let both = BACKUP.replace("0 30 2 * * 2-6 *", "0 30 2 1 * 2 *");
    assert!(
        refused(&both).contains("here one is enough"),
        "{}",
        refused(&both)
    );
    let kind = BACKUP.replace("kind: KafkaBackup", "kind: KafkaBackupValidation");
    assert!(refused(&kind).contains("no counterpart of this kind"));
    assert!(refused("kind: Pod").contains("found none"));
    // Valid there, and not here.
    let elsewhere = "apiVersion: kafka.oso.sh/v1alpha1\nkind: KafkaRestore\nmetadata: {name: back, namespace: shop}\nspec:\n  backupRef: {name: orders, namespace: other}\n";
    assert!(
        refused(elsewhere).contains("spec.backupRef.namespace: expected storage"),
        "{}",
        refused(elsewhere)
    );
    let level = BACKUP.replace("compressionLevel: 3", "compressionLevel: 99");
    assert!(
        refused(&level).contains("compressionLevel"),
        "{}",
        refused(&level)
    );
}

#[test]
fn lines_of_seven_fields_become_lines_of_five() {
    for (theirs, ours) in [
        ("0 0 2 * * * *", "0 2 * * *"),
        ("0 */15 * * * *", "*/15 * * * *"),
        ("0 0 2 ? * MON,FRI", "0 2 * * MON,FRI"),
        ("0 0 2 * * 1,7 *", "0 2 * * 0,6"),
        ("0 0 2 * * 2-6/2 *", "0 2 * * 1-5/2"),
        ("0 2 * * 1", "0 2 * * 1"),
    ] {
        assert_eq!(schedule(theirs).unwrap().0, ours, "{theirs}");
    }
    for wrong in ["0 0 2 * * * 2030", "* * * * * *", "0 0 2 * * 8", "2 *"] {
        assert!(schedule(wrong).is_err(), "{wrong}");
    }
}
