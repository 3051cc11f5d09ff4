//! What the generic parts need to know of a kind.

use std::fmt::Debug;

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kafka_backup_shared::crd::{
    BackupColumns, KafkaBackup, KafkaBackupStatus, KafkaRestore, KafkaRestoreStatus,
    RestoreColumns, RestoredTopic,
};
use kafka_backup_shared::plan::{self, Plan, SpecError};
use kafka_backup_shared::report::Report;
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
}

impl ObjectKind {
    /// All kinds.
    pub(crate) const ALL: [Self; 2] = [Self::Backup, Self::Restore];

    /// The kind in manifests and in a plan's `RunRef`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Backup => "KafkaBackup",
            Self::Restore => "KafkaRestore",
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
        }
    }

    /// What stands before `Completed` and `Failed` in reasons.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Backup => "Backup",
            Self::Restore => "Restore",
        }
    }
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
    fn plan(&self, run: &str, referenced: Option<&KafkaBackup>) -> Result<Plan, SpecError>;
    /// Name of the KafkaBackup of the same namespace that the plan needs.
    fn reference(&self) -> Option<&str>;
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
    fn suspended(&self) -> Option<bool>;
    /// Notes the annotations that are there at first sight: they are not obeyed.
    fn first_sight(&self, status: &mut Self::Status);
    /// Notes in `status` what the spec and annotations say about coming runs, and tells the run that is due.
    ///
    /// # Errors
    /// A schedule that cannot be read.
    fn due(&self, status: &mut Self::Status, moment: &Moment) -> Result<Dueness, SpecError>;
    /// Notes in `status` that no run can become due for now.
    fn pause(status: &mut Self::Status);
    /// Shows the start of a run in the kind's own fields.
    fn record_start(status: &mut Self::Status, at: Timestamp);
    /// Shows the active run's progress in the kind's own fields.
    fn record_progress(status: &mut Self::Status);
    /// Shows a finished run in the kind's own fields.
    fn record_end(status: &mut Self::Status, run: &FinishedRun, report: Option<&Report>);
}

impl Kind for KafkaBackup {
    type Status = KafkaBackupStatus;
    const KIND: ObjectKind = ObjectKind::Backup;

    fn store(objects: &Objects) -> &Store<Self> {
        &objects.backups
    }

    fn status(&self) -> KafkaBackupStatus {
        self.status.clone().unwrap_or_default()
    }

    fn life(status: &KafkaBackupStatus) -> &Life {
        &status.life
    }

    fn life_mut(status: &mut KafkaBackupStatus) -> &mut Life {
        &mut status.life
    }

    fn history(status: &KafkaBackupStatus) -> &Vec<FinishedRun> {
        &status.backup_history
    }

    fn history_mut(status: &mut KafkaBackupStatus) -> &mut Vec<FinishedRun> {
        &mut status.backup_history
    }

    fn plan(&self, run: &str, _referenced: Option<&KafkaBackup>) -> Result<Plan, SpecError> {
        plan::backup(self, run)
    }

    fn reference(&self) -> Option<&str> {
        None
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

    fn job_settings(&self) -> &JobSettings {
        &self.spec.job
    }

    fn pod_template(&self) -> &PodTemplate {
        &self.spec.pod_template
    }

    fn resources(&self) -> Option<&ResourceRequirements> {
        self.spec.resources.as_ref()
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

    fn record_start(_status: &mut KafkaBackupStatus, _at: Timestamp) {}

    fn record_progress(_status: &mut KafkaBackupStatus) {}

    fn record_end(status: &mut KafkaBackupStatus, run: &FinishedRun, report: Option<&Report>) {
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
    type Status = KafkaRestoreStatus;
    const KIND: ObjectKind = ObjectKind::Restore;

    fn store(objects: &Objects) -> &Store<Self> {
        &objects.restores
    }

    fn status(&self) -> KafkaRestoreStatus {
        self.status.clone().unwrap_or_default()
    }

    fn life(status: &KafkaRestoreStatus) -> &Life {
        &status.life
    }

    fn life_mut(status: &mut KafkaRestoreStatus) -> &mut Life {
        &mut status.life
    }

    fn history(status: &KafkaRestoreStatus) -> &Vec<FinishedRun> {
        &status.run_history
    }

    fn history_mut(status: &mut KafkaRestoreStatus) -> &mut Vec<FinishedRun> {
        &mut status.run_history
    }

    fn plan(&self, run: &str, referenced: Option<&KafkaBackup>) -> Result<Plan, SpecError> {
        plan::restore(self, referenced, run)
    }

    fn reference(&self) -> Option<&str> {
        Some(&self.spec.backup_ref.as_ref()?.name)
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

    fn job_settings(&self) -> &JobSettings {
        &self.spec.job
    }

    fn pod_template(&self) -> &PodTemplate {
        &self.spec.pod_template
    }

    fn resources(&self) -> Option<&ResourceRequirements> {
        self.spec.resources.as_ref()
    }

    fn history_limits(&self) -> HistoryLimits {
        HistoryLimits {
            successful: 1,
            failed: 3,
        }
    }

    fn suspended(&self) -> Option<bool> {
        None
    }

    fn first_sight(&self, status: &mut KafkaRestoreStatus) {
        status.last_retry = self.annotations().get(due::RETRY).cloned();
    }

    fn due(&self, status: &mut KafkaRestoreStatus, moment: &Moment) -> Result<Dueness, SpecError> {
        Ok(due::restore(self, status, moment))
    }

    fn pause(_status: &mut KafkaRestoreStatus) {}

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

    fn record_end(status: &mut KafkaRestoreStatus, run: &FinishedRun, report: Option<&Report>) {
        if run.outcome == RunOutcome::Failure {
            return;
        }
        status.completion_time = Some(run.completion_time.clone());
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
