use serde_json::{Value, json};

use super::*;
use crate::crd::{KafkaBackup, KafkaRestore};
use crate::object::{self, Object};

fn object(kind: &str, fields: Value) -> Value {
    let mut object = json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": kind,
        "metadata": {"name": "back", "namespace": "shop"},
        "spec": {"kafkaCluster": {"bootstrapServers": ["kafka:9092"]}},
    });
    let spec = object["spec"].as_object_mut().unwrap();
    spec.extend(fields.as_object().unwrap().clone());
    object
}

fn reset(fields: Value) -> Result<OffsetsPlan, SpecError> {
    let mut all = json!({"consumerGroups": ["g*"], "strategy": "earliest"});
    all.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    plan(object("KafkaOffsetReset", all))
}

fn rollback(fields: Value) -> Result<OffsetsPlan, SpecError> {
    let mut all = json!({"operation": "rollback", "snapshotId": "before"});
    all.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    plan(object("KafkaOffsetRollback", all))
}

fn plan(object: Value) -> Result<OffsetsPlan, SpecError> {
    let object = object::read(&object).map_err(|mut errors| errors.remove(0))?;
    let plan = object.plan("back-20260102-030405", &[])?;
    let read: Plan = serde_json::from_str(&plan.to_json()?).unwrap();
    assert_eq!(read, plan, "it survives the way to the worker");
    match plan {
        Plan::Offsets(plan) => Ok(plan),
        Plan::Backup(_) | Plan::Restore(_) => unreachable!("it is an offset kind"),
    }
}

#[test]
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
fn each_strategy_has_its_target() {
    let target = |fields: Value| match reset(fields).unwrap().task {
        OffsetsTask::Reset(task) => task.to,
        other => panic!("{other:?}"),
    };
    let cases = [
        (json!({"strategy": "earliest"}), OffsetTarget::Earliest),
        (json!({"strategy": "latest"}), OffsetTarget::Latest),
        (
            json!({"strategy": "timestamp", "timestamp": "1970-01-01T00:00:01.0001Z"}),
            OffsetTarget::Timestamp { ms: 1001 },
        ),
        (
            json!({"strategy": "timestamp", "timestampMillis": 5}),
            OffsetTarget::Timestamp { ms: 5 },
        ),
        (
            json!({"strategy": "offset", "offset": 7}),
            OffsetTarget::Offset { offset: 7 },
        ),
        (
            json!({"strategy": "headerBased", "sourceCluster": "a", "scanAllPartitions": true}),
            OffsetTarget::HeaderBased {
                source_cluster: Some("a".into()),
                scan_all_partitions: true,
            },
        ),
        (
            json!({"strategy": "fromMapping", "mappingConfigMap": {"name": "m"}}),
            OffsetTarget::FromMapping {
                name: "m".into(),
                key: "offsets.json".into(),
            },
        ),
    ];
    for (fields, expected) in cases {
        assert_eq!(target(fields.clone()), expected, "{fields}");
    }
}

#[test]
fn what_cannot_be_obeyed_is_named() {
    let pvc = json!({"storageType": "pvc", "pvc": {"claimName": "c"}});
    let resets = [
        (json!({"consumerGroups": []}), "spec.consumerGroups"),
        (json!({"consumerGroups": [""]}), "spec.consumerGroups"),
        (json!({"topics": []}), "spec.topics"),
        (json!({"topics": ["a b"]}), "spec.topics"),
        (json!({"strategy": "newest"}), "spec.strategy"),
        (json!({"strategy": "timestamp"}), "spec.timestamp"),
        (
            json!({"strategy": "timestamp", "timestamp": "yesterday"}),
            "spec.timestamp",
        ),
        (
            json!({"strategy": "timestamp", "timestamp": "2026-01-02T03:04:05Z", "timestampMillis": 1}),
            "spec.timestamp",
        ),
        (json!({"timestampMillis": 1}), "spec.timestamp"),
        (json!({"strategy": "offset"}), "spec.offset"),
        (json!({"strategy": "offset", "offset": -1}), "spec.offset"),
        (json!({"offset": 1}), "spec.offset"),
        (json!({"sourceCluster": "a"}), "spec.sourceCluster"),
        (json!({"scanAllPartitions": true}), "spec.scanAllPartitions"),
        (json!({"strategy": "fromMapping"}), "spec.mappingConfigMap"),
        (
            json!({"mappingConfigMap": {"name": "m"}}),
            "spec.mappingConfigMap",
        ),
        (json!({"strategy": "fromRestore"}), "spec.restoreRef"),
        (
            json!({"strategy": "fromRestore", "restoreRef": {"name": "r"}}),
            "spec.restoreRef.name",
        ),
        (json!({"restoreRef": {"name": "r"}}), "spec.restoreRef"),
        (json!({"snapshotId": "Before"}), "spec.snapshotId"),
        (
            json!({"createSnapshot": false, "snapshotId": "a"}),
            "spec.createSnapshot",
        ),
        (
            json!({"createSnapshot": false, "storage": pvc}),
            "spec.createSnapshot",
        ),
        (
            json!({"storage": {"storageType": "configMap"}}),
            "spec.storage",
        ),
        (
            json!({"storage": {"storageType": "configMap", "configMap": {"name": "A"}}}),
            "spec.storage.configMap.name",
        ),
        (
            json!({"storage": {"storageType": "pvc", "pvc": {"claimName": "c"}, "configMap": {"name": "a"}}}),
            "spec.storage",
        ),
        (json!({"storage": {"storageType": "s3"}}), "spec.storage"),
        (json!({"parallelism": 0}), "spec.parallelism"),
    ];
    for (fields, field) in resets {
        let error = reset(fields.clone()).expect_err(&fields.to_string());
        assert_eq!(error.field, field, "{fields}: {error}");
    }
    let rollbacks = [
        (json!({"snapshotId": "a.b"}), "spec.snapshotId"),
        (json!({"operation": "snapshot"}), "spec.consumerGroups"),
        (
            json!({"operation": "delete", "consumerGroups": ["g"]}),
            "spec.consumerGroups",
        ),
        (json!({"verify": {"strict": true}}), "spec.verify"),
        (json!({"operation": "verify", "force": true}), "spec.force"),
        (
            json!({"operation": "verify", "dryRun": true}),
            "spec.dryRun",
        ),
        (json!({"operation": "undo"}), "spec.operation"),
    ];
    for (fields, field) in rollbacks {
        let error = rollback(fields.clone()).expect_err(&fields.to_string());
        assert_eq!(error.field, field, "{fields}: {error}");
    }
}

#[test]
fn a_snapshot_has_an_id_and_a_place() {
    let snapshot = |fields: Value| reset(fields).unwrap().task.snapshot().cloned();
    let config_map = |name: &str| SnapshotPlace::ConfigMap { name: name.into() };
    let own = snapshot(json!({})).unwrap();
    assert_eq!(own.id, "back-20260102-030405");
    assert_eq!(own.place, config_map("back-20260102-030405"));
    let storage = json!({"storageType": "configMap", "configMap": {"name": "kept.here"}});
    let named = snapshot(json!({"snapshotId": "before", "storage": storage})).unwrap();
    assert_eq!(
        (&*named.id, named.place),
        ("before", config_map("kept.here"))
    );
    assert_eq!(snapshot(json!({"createSnapshot": false})), None);
    let long = default_snapshot_id(&format!("{}.b-20260102-030405", "a".repeat(200)));
    assert!(is_dns_label(&long), "{long}");
    assert_ne!(
        long,
        default_snapshot_id(&format!("{}.c-20260102-030405", "a".repeat(200)))
    );
}

#[test]
fn offsets_of_a_restore_are_where_its_archive_is() {
    let restore = |fields: Value| -> KafkaRestore {
        let mut spec =
            json!({"topics": ["*"], "targetCluster": {"bootstrapServers": ["kafka:9092"]}});
        spec.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        serde_json::from_value(json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaRestore",
            "metadata": {"name": "r", "namespace": "shop", "uid": "restore-uid"}, "spec": spec,
        }))
        .unwrap()
    };
    let backup: KafkaBackup = serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"topics": ["*"], "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
            "storage": {"storageType": "pvc", "pvc": {"claimName": "archive"}}},
    }))
    .unwrap();
    let with = |restore: &KafkaRestore, fields: Value| {
        let mut all = json!({"consumerGroups": ["g"], "strategy": "fromRestore", "restoreRef": {"name": "r"}});
        all.as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let Ok(Object::OffsetReset(reset)) = object::read(&object("KafkaOffsetReset", all)) else {
            panic!("it is one");
        };
        let referenced = Referenced {
            restore: Some(restore.clone()),
            backup: Some(backup.clone()),
        };
        offset_reset(&reset, &referenced, "back-1")
    };
    let by_reference = restore(json!({"backupRef": {"name": "orders"}}));
    let Plan::Offsets(plan) = with(&by_reference, json!({})).unwrap() else {
        panic!("it is one");
    };
    let OffsetsTask::Reset(ResetTask {
        to:
            OffsetTarget::FromRestore {
                restore: uid,
                storage,
                archive,
            },
        ..
    }) = plan.task
    else {
        panic!("it is one");
    };
    assert_eq!(
        (&*uid, storage),
        ("restore-uid", backup.spec.storage.clone())
    );
    assert_eq!(archive.unwrap().to_string(), "shop/orders");
    let other = json!({"storage": {"storageType": "pvc", "pvc": {"claimName": "snapshots"}}});
    assert_eq!(
        with(&by_reference, other).unwrap_err().field,
        "spec.storage.pvc"
    );
    let mut elsewhere = by_reference.clone();
    elsewhere.metadata.namespace = Some("other".into());
    assert_eq!(
        with(&elsewhere, json!({})).unwrap_err().field,
        "spec.restoreRef.name"
    );
}

#[test]
fn a_mapping_is_read_or_refused_by_place() {
    let read = |json: &str| Mapping::from_json("the mapping", json.as_bytes());
    let mapping = read(r#"{"groups": {"g": {"t": {"0": 5, "10": 6}}}}"#).unwrap();
    assert_eq!(mapping.groups["g"]["t"], BTreeMap::from([(0, 5), (10, 6)]));
    for (wrong, named) in [
        ("{}", "the mapping"),
        (r#"{"groups": {"g": {"t": {"0": -5}}}}"#, "groups.g.t"),
        (r#"{"groups": {"g": {"t": {"-1": 5}}}}"#, "groups.g.t"),
        (r#"{"groups": {"g": {"t": {"x": 5}}}}"#, "the mapping"),
        (r#"{"groups": {}, "more": 1}"#, "more"),
    ] {
        let error = read(wrong).unwrap_err().to_string();
        assert!(error.contains(named), "{wrong}: {error}");
    }
}

#[test]
fn a_snapshot_has_a_valid_id_whatever_the_run_is_called() {
    for run in [
        "",
        "---",
        "orders-20260102-030405",
        "Shop.Orders",
        &"x".repeat(260),
    ] {
        let id = default_snapshot_id(run);
        assert!(is_dns_label(&id), "{run}: {id}");
    }
}
