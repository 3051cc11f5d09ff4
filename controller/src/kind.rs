//! What the generic parts need to know of a kind.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kafka_backup_shared::crd::{
    BackupColumns, CarryOverStatus, GroupResult, GroupStatus, KafkaBackup, KafkaBackupStatus,
    KafkaOffsetReset, KafkaOffsetResetStatus, KafkaOffsetRollback, KafkaOffsetRollbackStatus,
    KafkaRestore, KafkaRestoreStatus, OffsetResetColumns, OffsetRollbackColumns, RestoreColumns,
    RestoredTopic, SnapshotData, VerificationResult,
};
use kafka_backup_shared::plan::{self, Plan, Referenced, SpecError};
use kafka_backup_shared::report::{OffsetsReport, Report};
use kafka_backup_shared::spec::{JobSettings, PodTemplate};
use kafka_backup_shared::status::{FinishedRun, Life, RunOutcome, time};
use kube::ResourceExt;
use kube::runtime::reflector::Store;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::objects::Objects;
use crate::reconcile::due::{self, Dueness, Moment};

/// In a column without a value.
const NOTHING: &str = "-";
/// Entries that a list in a status may have.
const STATUS_LIST_MAX: usize = 100;

/// The kinds by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKind {
    /// KafkaBackup.
    Backup,
    /// KafkaRestore.
    Restore,
    /// KafkaOffsetReset.
    OffsetReset,
    /// KafkaOffsetRollback.
    OffsetRollback,
}

impl ObjectKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [
        Self::Backup,
        Self::Restore,
        Self::OffsetReset,
        Self::OffsetRollback,
    ];

    /// The kind in manifests and in a plan's `RunRef`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "KafkaBackup",
            Self::Restore => "KafkaRestore",
            Self::OffsetReset => "KafkaOffsetReset",
            Self::OffsetRollback => "KafkaOffsetRollback",
        }
    }

    /// The kind of that name.
    pub(crate) fn parse(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == kind)
    }

    /// The value of the `controller` label of reconcile and queue metrics.
    pub(crate) fn controller(self) -> &'static str {
        match self {
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::OffsetReset => "offset_reset",
            Self::OffsetRollback => "offset_rollback",
        }
    }

    /// What stands before `Completed` and `Failed` in reasons.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Restore => "Restore",
            Self::OffsetReset => "OffsetReset",
            Self::OffsetRollback => "OffsetRollback",
        }
    }

    /// Whether another attempt at a run finds what earlier ones did and goes on from there, whatever they may still be doing.
    /// What changes committed offsets must not be done again behind a user's back: groups may have gone on since.
    pub(crate) fn resumes(self) -> bool {
        match self {
            Self::Backup | Self::Restore => true,
            Self::OffsetReset | Self::OffsetRollback => false,
        }
    }

    /// Failed pods after which a run has failed, where the object does not say.
    pub(crate) fn backoff_limit(self) -> i32 {
        if self.resumes() { 3 } else { 0 }
    }
}

/// Another object of the same namespace that a plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reference<'a> {
    /// A KafkaBackup, by name.
    Backup(&'a str),
    /// A KafkaRestore, by name, and what that refers to.
    Restore(&'a str),
}

/// How many finished runs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    /// Of those that succeeded.
    pub(crate) successful: u32,
    /// Of those that failed.
    pub(crate) failed: u32,
}

/// A custom resource whose runs are Jobs.
pub(crate) trait Kind:
    kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// Its status.
    type Status: Clone + Debug + Default + PartialEq + Serialize + Send + Sync;
    /// Its name.
    const KIND: ObjectKind;

    /// The cache of its objects.
    fn store(objects: &Objects) -> &Store<Self>;
    /// Its status; the default before the first write.
    fn status(&self) -> Self::Status;
    /// What its status says of its runs; `None` before the first write.
    fn told(&self) -> Option<&Life>;
    /// The shared part of a status.
    fn life(status: &Self::Status) -> &Life;
    /// The shared part of a status, to change.
    fn life_mut(status: &mut Self::Status) -> &mut Life;
    /// Finished runs, newest last.
    fn history(status: &Self::Status) -> &Vec<FinishedRun>;
    /// Finished runs, to change.
    fn history_mut(status: &mut Self::Status) -> &mut Vec<FinishedRun>;
    /// What run `run` must do; `referenced` is what [`Self::reference`] names, where that exists.
    ///
    /// # Errors
    /// The field that cannot be obeyed.
    fn plan(&self, run: &str, referenced: &Referenced) -> Result<Plan, SpecError>;
    /// The object of the same namespace that the plan needs.
    fn reference(&self) -> Option<Reference<'_>>;
    /// Whether its runs change nothing, and only tell what they would.
    fn is_dry_run(&self) -> bool;
    /// Puts what is known into the columns of `kubectl get`.
    fn show(&self, status: &mut Self::Status);
    /// Settings of its Jobs.
    fn job_settings(&self) -> &JobSettings;
    /// Additions to its Jobs' pods.
    fn pod_template(&self) -> &PodTemplate;
    /// Resources of the worker's container.
    fn resources(&self) -> Option<&ResourceRequirements>;
    /// How many finished Jobs are kept.
    fn history_limits(&self) -> HistoryLimits;
    /// Whether new runs are held back, for a kind that has such a field.
    fn suspended(&self) -> Option<bool> {
        None
    }
    /// Notes the annotations that are there at first sight: they are not obeyed.
    fn first_sight(&self, _status: &mut Self::Status) {}
    /// Notes in `status` what the spec and annotations say about coming runs, and tells the run that is due.
    ///
    /// # Errors
    /// A schedule that cannot be read.
    fn due(&self, status: &mut Self::Status, moment: &Moment) -> Result<Dueness, SpecError>;
    /// Notes in `status` that no run can become due for now.
    fn pause(_status: &mut Self::Status) {}
    /// Shows the start of a run in the kind's own fields.
    fn record_start(_status: &mut Self::Status, _at: Timestamp) {}
    /// Shows the active run's progress in the kind's own fields.
    fn record_progress(_status: &mut Self::Status) {}
    /// Shows a finished run in the kind's own fields.
    fn record_end(&self, status: &mut Self::Status, run: &FinishedRun, report: Option<&Report>);
}

/// What each kind has under the same names: the cache, the status with its life and its history, and what shapes a Job.
macro_rules! parts {
    ($status:ty, $cache:ident, $history:ident) => {
        type Status = $status;

        fn store(objects: &Objects) -> &Store<Self> {
            &objects.caches.$cache
        }

        fn status(&self) -> $status {
            self.status.clone().unwrap_or_default()
        }

        fn told(&self) -> Option<&Life> {
            Some(&self.status.as_ref()?.life)
        }

        fn life(status: &$status) -> &Life {
            &status.life
        }

        fn life_mut(status: &mut $status) -> &mut Life {
            &mut status.life
        }

        fn history(status: &$status) -> &Vec<FinishedRun> {
            &status.$history
        }

        fn history_mut(status: &mut $status) -> &mut Vec<FinishedRun> {
            &mut status.$history
        }

        fn job_settings(&self) -> &JobSettings {
            &self.spec.job
        }

        fn pod_template(&self) -> &PodTemplate {
            &self.spec.pod_template
        }

        fn resources(&self) -> Option<&ResourceRequirements> {
            self.spec.resources.as_ref()
        }
    };
}

impl Kind for KafkaBackup {
    parts!(KafkaBackupStatus, backups, backup_history);
    const KIND: ObjectKind = ObjectKind::Backup;

    fn plan(&self, run: &str, _referenced: &Referenced) -> Result<Plan, SpecError> {
        plan::backup(self, run)
    }

    fn reference(&self) -> Option<Reference<'_>> {
        None
    }

    fn is_dry_run(&self) -> bool {
        false
    }

    fn show(&self, status: &mut KafkaBackupStatus) {
        let schedule = match (&self.spec.schedule, &self.spec.time_zone) {
            (None, _) => "once".into(),
            (Some(line), None) => line.clone(),
            (Some(line), Some(zone)) => format!("{line} {zone}"),
        };
        let next = match &status.next_scheduled_time {
            _ if self.spec.suspend => "suspended".into(),
            Some(next) => next.0.to_string(),
            None => NOTHING.into(),
        };
        let last = status.last_backup_time.as_ref();
        status.columns = Some(BackupColumns {
            schedule,
            last_backup: last.map_or_else(|| "never".into(), |last| last.0.to_string()),
            next,
            records: shown(status.last_backup_records),
            size: shown(status.last_backup_size),
        });
    }

    fn history_limits(&self) -> HistoryLimits {
        HistoryLimits {
            successful: self.spec.successful_runs_history_limit,
            failed: self.spec.failed_runs_history_limit,
        }
    }

    fn suspended(&self) -> Option<bool> {
        Some(self.spec.suspend)
    }

    fn first_sight(&self, status: &mut KafkaBackupStatus) {
        status.last_trigger = self.annotations().get(due::TRIGGER).cloned();
    }

    fn due(&self, status: &mut KafkaBackupStatus, moment: &Moment) -> Result<Dueness, SpecError> {
        due::backup(self, status, moment)
    }

    fn pause(status: &mut KafkaBackupStatus) {
        due::pause(status);
    }

    fn record_end(
        &self,
        status: &mut KafkaBackupStatus,
        run: &FinishedRun,
        report: Option<&Report>,
    ) {
        if run.outcome == RunOutcome::Failure {
            return;
        }
        status.last_backup_id = Some(run.backup_id.clone());
        status.last_backup_time = Some(run.completion_time.clone());
        status.last_backup_size = Some(run.size);
        status.last_backup_records = Some(run.records);
        status.last_backup_held_back = report.map(|report| report.held_back.offsets);
        status.last_backup_lag = report.and_then(|report| report.lag);
    }
}

impl Kind for KafkaRestore {
    parts!(KafkaRestoreStatus, restores, run_history);
    const KIND: ObjectKind = ObjectKind::Restore;

    fn plan(&self, run: &str, referenced: &Referenced) -> Result<Plan, SpecError> {
        plan::restore(self, referenced, run)
    }

    fn reference(&self) -> Option<Reference<'_>> {
        let reference = self.spec.backup_ref.as_ref()?;
        Some(Reference::Backup(&reference.name))
    }

    fn is_dry_run(&self) -> bool {
        self.spec.dry_run
    }

    fn show(&self, status: &mut KafkaRestoreStatus) {
        let backup = match (&self.spec.backup_ref, &self.spec.backup_id) {
            (Some(reference), _) => format!("{} {}", reference.name, reference.backup_id),
            (None, Some(run)) => run.clone(),
            (None, None) => NOTHING.into(),
        };
        status.columns = Some(RestoreColumns {
            backup,
            percent: shown(status.percent),
            records: shown(status.restored_records),
        });
    }

    fn history_limits(&self) -> HistoryLimits {
        HistoryLimits {
            successful: 1,
            failed: 3,
        }
    }

    fn first_sight(&self, status: &mut KafkaRestoreStatus) {
        status.last_retry = self.annotations().get(due::RETRY).cloned();
    }

    fn due(&self, status: &mut KafkaRestoreStatus, moment: &Moment) -> Result<Dueness, SpecError> {
        Ok(due::restore(self, status, moment))
    }

    fn record_start(status: &mut KafkaRestoreStatus, at: Timestamp) {
        status.start_time.get_or_insert_with(|| time(at));
    }

    fn record_progress(status: &mut KafkaRestoreStatus) {
        let Some(active) = &status.life.active_run else {
            return;
        };
        status.restored_records = Some(active.records);
        status.restored_bytes = Some(active.bytes);
        status.percent = active.percent;
    }

    fn record_end(
        &self,
        status: &mut KafkaRestoreStatus,
        run: &FinishedRun,
        report: Option<&Report>,
    ) {
        if let Some(offsets) = report.and_then(|report| report.offsets.as_ref()) {
            status.offset_reset_status = Some(CarryOverStatus {
                groups_reset: offsets.groups_done,
                groups_failed: offsets.groups_failed,
                results: results(offsets),
            });
            note_snapshot(&mut status.rollback_snapshot_id, offsets);
        }
        if run.outcome == RunOutcome::Failure {
            return;
        }
        status.completion_time = Some(run.completion_time.clone());
        status.backup_id = report.and_then(|report| report.backup_id.clone());
        status.restored_records = Some(run.records);
        status.restored_bytes = Some(run.size);
        status.percent = Some(100);
        status.restored_topics = report
            .iter()
            .flat_map(|report| &report.topics)
            .take(STATUS_LIST_MAX)
            .map(|topic| RestoredTopic {
                name: topic.topic.clone(),
                records: topic.records,
            })
            .collect();
    }
}

impl Kind for KafkaOffsetReset {
    parts!(KafkaOffsetResetStatus, offset_resets, run_history);
    const KIND: ObjectKind = ObjectKind::OffsetReset;

    fn plan(&self, run: &str, referenced: &Referenced) -> Result<Plan, SpecError> {
        plan::offset_reset(self, referenced, run)
    }

    fn reference(&self) -> Option<Reference<'_>> {
        let reference = self.spec.restore_ref.as_ref()?;
        Some(Reference::Restore(&reference.name))
    }

    fn is_dry_run(&self) -> bool {
        self.spec.dry_run
    }

    fn show(&self, status: &mut KafkaOffsetResetStatus) {
        status.columns = Some(OffsetResetColumns {
            reset: shown(status.groups_reset),
            failed: shown(status.groups_failed),
            snapshot: shown(status.snapshot_id.as_ref()),
        });
    }

    fn history_limits(&self) -> HistoryLimits {
        ONE_RUN
    }

    fn due(
        &self,
        status: &mut KafkaOffsetResetStatus,
        moment: &Moment,
    ) -> Result<Dueness, SpecError> {
        Ok(due::once(self, &status.life, moment))
    }

    fn record_end(
        &self,
        status: &mut KafkaOffsetResetStatus,
        _run: &FinishedRun,
        report: Option<&Report>,
    ) {
        let Some(offsets) = report.and_then(|report| report.offsets.as_ref()) else {
            return;
        };
        status.groups_reset = Some(offsets.groups_done);
        status.groups_failed = Some(offsets.groups_failed);
        status.results = results(offsets);
        note_snapshot(&mut status.snapshot_id, offsets);
    }
}

impl Kind for KafkaOffsetRollback {
    parts!(KafkaOffsetRollbackStatus, offset_rollbacks, run_history);
    const KIND: ObjectKind = ObjectKind::OffsetRollback;

    fn plan(&self, run: &str, _referenced: &Referenced) -> Result<Plan, SpecError> {
        plan::offset_rollback(self, run)
    }

    fn reference(&self) -> Option<Reference<'_>> {
        None
    }

    fn is_dry_run(&self) -> bool {
        self.spec.dry_run
    }

    fn show(&self, status: &mut KafkaOffsetRollbackStatus) {
        // How many groups there were is told at the end of the run, and stands nowhere else.
        let groups = status.columns.take().map(|columns| columns.groups);
        let verified = status.verification_result.as_ref();
        status.columns = Some(OffsetRollbackColumns {
            groups: groups.unwrap_or_else(|| NOTHING.into()),
            matched: shown(verified.map(|verified| verified.matched)),
        });
    }

    fn history_limits(&self) -> HistoryLimits {
        ONE_RUN
    }

    fn due(
        &self,
        status: &mut KafkaOffsetRollbackStatus,
        moment: &Moment,
    ) -> Result<Dueness, SpecError> {
        Ok(due::once(self, &status.life, moment))
    }

    fn record_end(
        &self,
        status: &mut KafkaOffsetRollbackStatus,
        _run: &FinishedRun,
        report: Option<&Report>,
    ) {
        let Some(offsets) = report.and_then(|report| report.offsets.as_ref()) else {
            return;
        };
        status.operation = Some(self.spec.operation);
        status.results = results(offsets);
        note_snapshot(&mut status.snapshot_id, offsets);
        status.snapshot_data = offsets.snapshot.as_ref().map(|snapshot| SnapshotData {
            groups: snapshot.groups,
            total_partitions: snapshot.partitions,
            timestamp: time(snapshot.time),
        });
        let verified = offsets.verification.as_ref();
        status.verification_result = verified.map(|verified| VerificationResult {
            matched: verified.matched,
            differences: head(&verified.differences),
        });
        status.columns = Some(OffsetRollbackColumns {
            groups: offsets.groups_done.to_string(),
            matched: NOTHING.into(),
        });
    }
}

/// Of kinds that run once.
const ONE_RUN: HistoryLimits = HistoryLimits {
    successful: 1,
    failed: 1,
};

/// Groups as a status lists them: those that failed first.
fn results(offsets: &OffsetsReport) -> Vec<GroupResult> {
    let has_failed = |result: &&GroupResult| result.status == GroupStatus::Failed;
    let (failed, others): (Vec<_>, Vec<_>) = offsets.groups.iter().partition(has_failed);
    let all = failed.into_iter().chain(others);
    all.take(STATUS_LIST_MAX).cloned().collect()
}

/// Names the snapshot once there is one. A later run that took none leaves it: it is still there.
fn note_snapshot(id: &mut Option<String>, offsets: &OffsetsReport) {
    if let Some(snapshot) = &offsets.snapshot {
        *id = Some(snapshot.id.clone());
    }
}

/// As much of a list as a status shows.
fn head<T: Clone>(list: &[T]) -> Vec<T> {
    list.iter().take(STATUS_LIST_MAX).cloned().collect()
}

fn shown(number: Option<impl ToString>) -> String {
    number.map_or_else(|| NOTHING.into(), |number| number.to_string())
}

/// When the API server stored the object first; the epoch for an object that it has never seen.
pub(crate) fn created_at(metadata: &ObjectMeta) -> Timestamp {
    metadata
        .creation_timestamp
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |created| created.0)
}
