//! Objects for tests.

use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kube::ResourceExt;

use crate::fixtures;

pub(crate) fn backup(namespace: &str, name: &str) -> KafkaBackup {
    named(fixtures::backup(), namespace, name)
}

pub(crate) fn restore(namespace: &str, name: &str) -> KafkaRestore {
    named(fixtures::restore(), namespace, name)
}

pub(crate) fn offset_reset(namespace: &str, name: &str) -> KafkaOffsetReset {
    named(fixtures::offset_reset(), namespace, name)
}

pub(crate) fn offset_rollback(namespace: &str, name: &str) -> KafkaOffsetRollback {
    named(fixtures::offset_rollback("verify"), namespace, name)
}

fn named<K: ResourceExt>(mut object: K, namespace: &str, name: &str) -> K {
    let meta = object.meta_mut();
    meta.namespace = Some(namespace.into());
    meta.name = Some(name.into());
    meta.uid = Some(format!("uid-{name}"));
    object
}
