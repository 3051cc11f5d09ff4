//! The metric families, declared once: the code, the documentation's table and the lint test come from this table.

/// Counter, gauge or histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations per bucket.
    Histogram,
}

impl MetricType {
    /// The word in a `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Name, with unit and `_total` as Prometheus' conventions want it.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricType,
    /// What it says; units named.
    pub help: &'static str,
    /// Label names, in the order in which they are printed.
    pub labels: &'static [&'static str],
}

/// Upper bounds of run durations in seconds, 10 s to 6 h.
pub const DURATION_BUCKETS: [f64; 14] = [
    10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 5400.0, 7200.0, 10800.0, 14400.0,
    21600.0,
];

/// Upper bounds of reconcile durations in seconds: a handful of requests to the API server each.
pub const RECONCILE_BUCKETS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

macro_rules! families {
    ($($id:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $id: Family = Family {
            name: $name, kind: MetricType::$kind, help: $help, labels: &[$($label),*],
        };)*
        /// Every family.
        pub const FAMILIES: &[Family] = &[$($id),*];
    };
}

families! {
    BACKUPS = "kafka_backup_backups_total", Counter, ["backup_name", "namespace", "outcome"],
        "Finished backup runs by outcome.";
    BACKUP_DURATION = "kafka_backup_backup_duration_seconds", Histogram, ["backup_name", "namespace", "outcome"],
        "Duration of finished backup runs in seconds, from the Job's start to its end.";
    BACKUP_SIZE = "kafka_backup_backup_size_bytes", Gauge, ["backup_name", "namespace"],
        "Bytes of record batches that the last successful backup run added to the store.";
    BACKUP_RECORDS = "kafka_backup_backup_records_total", Counter, ["backup_name", "namespace"],
        "Records that are durable in the store, growing while a run goes on.";
    LAST_SUCCESSFUL_BACKUP = "kafka_backup_last_successful_backup_timestamp", Gauge, ["backup_name", "namespace"],
        "When the last successful backup run ended, in seconds since 1970-01-01 UTC.";
    BACKUP_LAST_DURATION = "kafka_backup_backup_last_duration_seconds", Gauge, ["backup_name", "namespace"],
        "Duration of the last finished backup run in seconds, whatever its outcome.";
    BACKUP_RUNNING = "kafka_backup_backup_running_seconds", Gauge, ["backup_name", "namespace"],
        "Seconds since the backup run that is going on was decided; 0 when none is.";
    BACKUP_LAG = "kafka_backup_backup_lag_records", Gauge, ["backup_name", "namespace"],
        "Offsets by which the source was ahead of the archive when the last successful backup run ended, over all partitions.";
    GAPS = "kafka_backup_gaps_total", Counter, ["backup_name", "namespace"],
        "Offset ranges that successful backup runs found to be missing for good: the source deleted them before they were captured.";
    SCHEDULE_INTERVAL = "kafka_backup_schedule_interval_seconds", Gauge, ["backup_name", "namespace"],
        "Seconds between two ticks of the schedule, the longest wait among the next ones; absent without a valid schedule.";
    BACKUP_SUSPENDED = "kafka_backup_backup_suspended", Gauge, ["backup_name", "namespace"],
        "1 when the spec suspends the schedule, else 0.";
    BACKUP_MISSED_RUNS = "kafka_backup_backup_missed_runs_total", Counter, ["backup_name", "namespace"],
        "Ticks of the schedule that never became a run.";
    RESTORES = "kafka_backup_restores_total", Counter, ["restore_name", "namespace", "outcome"],
        "Finished restore runs by outcome.";
    RESTORE_DURATION = "kafka_backup_restore_duration_seconds", Histogram, ["restore_name", "namespace", "outcome"],
        "Duration of finished restore runs in seconds, from the Job's start to its end.";
    RESTORE_RECORDS = "kafka_backup_restore_records_total", Counter, ["restore_name", "namespace"],
        "Records that are in the target topics, growing while a run goes on.";
    LAST_SUCCESSFUL_RESTORE = "kafka_backup_last_successful_restore_timestamp", Gauge, ["restore_name", "namespace"],
        "When the last successful restore run ended, in seconds since 1970-01-01 UTC.";
    OFFSET_RESETS = "kafka_backup_offset_resets_total", Counter, ["reset_name", "namespace", "strategy", "outcome"],
        "Finished offset resets by outcome.";
    OFFSET_RESET_DURATION = "kafka_backup_offset_reset_duration_seconds", Histogram, ["reset_name", "namespace", "strategy", "outcome"],
        "Duration of finished offset resets in seconds, from the Job's start to its end.";
    OFFSET_RESET_GROUPS = "kafka_backup_offset_reset_groups_total", Counter, ["reset_name", "namespace", "strategy", "outcome"],
        "Consumer groups whose offsets were reset, by the outcome for the group.";
    OFFSET_ROLLBACKS = "kafka_backup_offset_rollbacks_total", Counter, ["rollback_name", "namespace", "operation", "outcome"],
        "Finished runs of offset rollbacks by operation and outcome.";
    OFFSET_ROLLBACK_DURATION = "kafka_backup_offset_rollback_duration_seconds", Histogram, ["rollback_name", "namespace", "operation", "outcome"],
        "Duration of finished runs of offset rollbacks in seconds, from the Job's start to its end.";
    RESOURCE_STATUS = "kafka_backup_resource_status", Gauge, ["kind", "name", "namespace"],
        "1 when the object's Ready condition is True, else 0.";
    RESOURCE_PHASE = "kafka_backup_resource_phase", Gauge, ["kind", "name", "namespace", "phase"],
        "1 for the phase that the object is in, 0 for the others.";
    BUILD_INFO = "kafka_backup_operator_build_info", Gauge, ["version"],
        "Always 1; the label names the version of the controller.";
    RECONCILIATIONS = "kafka_backup_operator_reconciliations_total", Counter, ["controller", "namespace", "name"],
        "Reconciliations of an object since the controller started.";
    RECONCILIATION_ERRORS = "kafka_backup_operator_reconciliation_errors_total", Counter, ["controller", "namespace", "name"],
        "Reconciliations that ended with an error.";
    RECONCILIATION_DURATION = "kafka_backup_operator_reconciliation_duration_seconds", Histogram, ["controller", "namespace", "name"],
        "Duration of reconciliations in seconds, the run itself not included.";
    WORKQUEUE_DEPTH = "kafka_backup_operator_workqueue_depth", Gauge, ["controller"],
        "Objects that are due to be looked at and not being worked on.";
    WORKQUEUE_ADDS = "kafka_backup_operator_workqueue_adds_total", Counter, ["controller"],
        "Objects put into the queue, those that were in it already not counted again.";
    WORKQUEUE_RETRIES = "kafka_backup_operator_workqueue_retries_total", Counter, ["controller"],
        "Objects put back into the queue because of an error.";
    PUSHES = "kafka_backup_operator_pushes_total", Counter, ["result"],
        "Pushes of workers by what became of them.";
    PUSH_SERIES = "kafka_backup_operator_push_series", Gauge, [],
        "Series that are held because they were pushed, those that are told by statuses not among them.";
    PUSH_SOURCES = "kafka_backup_operator_push_sources", Gauge, [],
        "Pods and other processes whose pushes those series add up.";
    PUSH_TLS = "kafka_backup_operator_push_tls_current", Gauge, ["files"],
        "1 when the certificate or the CA of pushes with TLS is what its files say, 0 when those cannot be used and what was read before is; absent without TLS.";
    LEADER = "kafka_backup_operator_leader", Gauge, [],
        "1 when this controller leads and acts, 0 when it follows another one.";
    WORKER_REQUEST_DURATION = "kafka_backup_worker_request_duration_seconds", Histogram, ["kind", "name", "namespace", "peer", "request"],
        "Duration of the worker's requests to Kafka and to the store in seconds, failed ones included.";
    WORKER_RETRIES = "kafka_backup_worker_retries_total", Counter, ["kind", "name", "namespace", "peer"],
        "Requests of the worker that it sent again because they had failed.";
    WORKER_BYTES = "kafka_backup_worker_bytes_total", Counter, ["kind", "name", "namespace", "stage"],
        "Bytes that the worker fetched from Kafka, stored, read from the store and produced to Kafka.";
    RUN_BYTES = "kafka_backup_run_bytes", Gauge, ["run"],
        "Bytes of record batches that the run has made durable so far; pushed by the worker, shown in the object's status.";
    RUN_PROGRESS = "kafka_backup_run_progress_ratio", Gauge, ["run"],
        "Part of the planned offsets that is done, 0 to 1; pushed by the worker, shown in the object's status.";
    RUN_CHECKED = "kafka_backup_run_checked_ratio", Gauge, ["run"],
        "Part of the bytes of a restore that are checked before they are written, 0 to 1; pushed and shown like the progress.";
    RUN_RATE = "kafka_backup_run_bytes_per_second", Gauge, ["run"],
        "Bytes of record batches that became durable per second, over the last ten; pushed and shown like the progress.";
    RUN_LEFT = "kafka_backup_run_remaining_seconds", Gauge, ["run"],
        "How long the rest of the plan takes at that rate in seconds; pushed and shown like the progress.";
}

/// The families that workers push and that no status tells: they add up over the pods of all runs of an object, and live in the
/// controller's memory.
pub const AGGREGATED: &[Family] = &[WORKER_REQUEST_DURATION, WORKER_RETRIES, WORKER_BYTES];

/// Upper bounds of the worker's requests in seconds: from a broker nearby to a store that is throttled.
pub const REQUEST_BUCKETS: [f64; 9] = [0.005, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// Families that workers push and that no page shows: they end in the object's status.
pub const PUSHED_ONLY: [Family; 5] = [RUN_BYTES, RUN_PROGRESS, RUN_CHECKED, RUN_RATE, RUN_LEFT];

#[cfg(test)]
mod tests;
