//! Objects for tests.

use jiff::Timestamp;
use kafka_backup_shared::crd::{
    GroupResult, GroupStatus, KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore,
};
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::report::{
    Fault, HeldBack, OffsetsReport, Outcome, Report, RetentionHeld, SnapshotSummary,
};
use kafka_backup_shared::status::{ActiveRun, FinishedRun, RunOutcome, RunReason, time};
use kube::ResourceExt;
use serde_json::json;

use crate::job;
use crate::reconcile::view::{JobState, JobView, PodView, Terminated};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A one-shot backup, created at 2026-01-01T00:00:00Z, never run.
pub(crate) fn backup() -> KafkaBackup {
    serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup",
        "metadata": {
            "name": "orders", "namespace": "shop", "uid": "uid-1", "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"
        },
        "spec": {
            "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
            "topics": ["orders*"],
            "storage": {"storageType": "s3", "s3": {"bucket": "backups", "credentialsSecret": {"name": "s3-keys"}}}
        }
    }))
    .unwrap()
}

/// A restore of the newest run, created at 2026-01-01T00:00:00Z, never run.
pub(crate) fn restore() -> KafkaRestore {
    serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaRestore",
        "metadata": {
            "name": "orders-back", "namespace": "shop", "uid": "uid-2", "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"
        },
        "spec": {
            "backupId": "latest",
            "targetCluster": {"bootstrapServers": ["kafka:9092"]},
            "topics": ["*"],
            "storage": {"storageType": "s3", "s3": {"bucket": "backups"}}
        }
    }))
    .unwrap()
}

/// A reset of two groups to the start, created at 2026-01-01T00:00:00Z, never run.
pub(crate) fn offset_reset() -> KafkaOffsetReset {
    serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaOffsetReset",
        "metadata": {
            "name": "replay", "namespace": "shop", "uid": "uid-3", "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"
        },
        "spec": {
            "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
            "consumerGroups": ["billing", "shipping"],
            "strategy": "earliest"
        }
    }))
    .unwrap()
}

/// What is done with the snapshot `before`, created at 2026-01-01T00:00:00Z, never run.
pub(crate) fn offset_rollback(operation: &str) -> KafkaOffsetRollback {
    serde_json::from_value(json!({
        "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaOffsetRollback",
        "metadata": {
            "name": "undo", "namespace": "shop", "uid": "uid-4", "generation": 1, "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"
        },
        "spec": {
            "kafkaCluster": {"bootstrapServers": ["kafka:9092"]},
            "operation": operation,
            "snapshotId": "before"
        }
    }))
    .unwrap()
}

/// One group was changed and one was not, after a snapshot.
pub(crate) fn offsets_report() -> OffsetsReport {
    let group = |group: &str, status: GroupStatus| GroupResult {
        group: group.into(),
        status,
        partitions_reset: 3,
        message: None,
    };
    OffsetsReport {
        groups_done: 1,
        groups_failed: 1,
        partitions: 3,
        snapshot: Some(SnapshotSummary {
            id: "before".into(),
            groups: 2,
            partitions: 6,
            time: at("2026-01-01T00:00:06Z"),
        }),
        groups: vec![
            group("billing", GroupStatus::Completed),
            group("shipping", GroupStatus::Failed),
        ],
        ..OffsetsReport::default()
    }
}

/// The run of a one-shot object.
pub(crate) fn active_run(object: &impl ResourceExt) -> ActiveRun {
    let start = crate::kind::created_at(object.meta());
    let key = "creation".to_owned();
    ActiveRun {
        id: kafka_backup_shared::plan::run_id(&object.name_any(), start),
        job: job::name(&object.name_any(), &object.uid().unwrap(), &key, start),
        job_uid: None,
        reason: RunReason::OneShot,
        key,
        generation: 1,
        start_time: time(start),
        records: 0,
        bytes: 0,
        percent: None,
        checked_percent: None,
        bytes_per_second: None,
        seconds_left: None,
    }
}

/// A running Job of the object that [`backup`] is.
pub(crate) fn job_view(uid: &str) -> JobView {
    JobView {
        name: active_run(&backup()).job,
        uid: uid.into(),
        version: Some("7".into()),
        owner_uid: Some("uid-1".into()),
        run: Some(active_run(&backup()).id),
        created: at("2026-01-01T00:00:02Z"),
        started: at("2026-01-01T00:00:03Z"),
        state: JobState::Running,
        ended_pods: 0,
        accounted: None,
        scheduled_at: None,
        is_going: false,
        failing: None,
    }
}

/// The Job `job-1`, failed at 00:05:00.
pub(crate) fn failed_job(reason: &str) -> JobView {
    JobView {
        state: JobState::Failed {
            at: at("2026-01-01T00:05:00Z"),
            reason: reason.into(),
            message: "job words".into(),
        },
        ended_pods: 2,
        ..job_view("job-1")
    }
}

/// A pod whose worker ended.
pub(crate) fn ended_pod(exit_code: i32, reason: &str, message: &str) -> PodView {
    PodView {
        name: "pod".into(),
        uid: "pod-uid".into(),
        created: at("2026-01-01T00:00:04Z"),
        has_started: true,
        terminated: Some(Terminated {
            exit_code,
            reason: reason.into(),
            message: message.into(),
            at: Some(at("2026-01-01T00:04:59Z")),
        }),
        trouble: None,
        failed: None,
        memory_limit: None,
        gone_by: None,
        is_unready: false,
    }
}

/// A report of success.
pub(crate) fn success_report(records: u64) -> Report {
    Report {
        run: RunRef::example(),
        outcome: Outcome::Success,
        start_time: at("2026-01-01T00:00:05Z"),
        completion_time: at("2026-01-01T00:04:58Z"),
        records,
        bytes: records * 100,
        gaps: 0,
        new_gaps: 0,
        lag: None,
        retention: None,
        held_back: HeldBack::default(),
        retention_held: RetentionHeld::default(),
        backup_id: None,
        dry_run: None,
        offsets: None,
        warnings: Vec::new(),
        topics: Vec::new(),
    }
}

/// A report of failure.
pub(crate) fn failure_report(fault: Fault) -> Report {
    Report {
        outcome: Outcome::Failure {
            fault,
            message: "told by the worker".into(),
        },
        ..success_report(0)
    }
}

/// A finished run whose Job had the UID `job-<id>`.
pub(crate) fn finished(id: &str, outcome: RunOutcome) -> FinishedRun {
    FinishedRun {
        backup_id: id.into(),
        job: format!("job-name-{id}"),
        job_uid: Some(format!("job-{id}")),
        start_time: time(at("2026-01-01T00:00:03Z")),
        completion_time: time(at("2026-01-01T00:05:00Z")),
        size: 0,
        records: 0,
        outcome,
        reason: None,
        message: None,
        attempts: 1,
    }
}
