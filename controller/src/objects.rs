//! What this process knows of the cluster: caches that watches keep up to date, and what workers have told.
//!
//! # Guarantees
//! - Progress stands in an object's status before anybody can read it elsewhere; a stale writer's progress is refused by the
//!   API server (resourceVersion), never merged.
//! - A report that is kept here is only ever a supplement: losing it changes no outcome, because the pod's termination message
//!   and the Job's conditions stay authoritative.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kafka_backup_shared::report::Report;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Api, Client, ResourceExt};

use crate::exporter::QueueState;
use crate::failpoint::Write;
use crate::gate::Gate;
use crate::kind::{Kind, ObjectKind};
use crate::reconcile::child::Child;
use crate::reconcile::queue::{Key, Queue};
use crate::reconcile::view::{JobView, PodView};
use crate::reconcile::write::{is_conflict, write_status};

/// Least time between two progress writes to one object: below the worker's period of 10 s, or jitter would lose every second push.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(8);
/// How often a progress write that met a newer object is tried again with that object.
const PROGRESS_ATTEMPTS: usize = 3;

/// Caches of the cluster's objects.
pub(crate) struct Caches {
    /// Every readable KafkaBackup; one that cannot be read any more stays as it was last.
    pub(crate) backups: Store<KafkaBackup>,
    /// Every readable KafkaRestore, likewise.
    pub(crate) restores: Store<KafkaRestore>,
    /// Every readable KafkaOffsetReset, likewise.
    pub(crate) offset_resets: Store<KafkaOffsetReset>,
    /// Every readable KafkaOffsetRollback, likewise.
    pub(crate) offset_rollbacks: Store<KafkaOffsetRollback>,
    /// Jobs that this controller made.
    pub(crate) jobs: Store<Child<JobView>>,
    /// Pods of those Jobs.
    pub(crate) pods: Store<Child<PodView>>,
}

#[cfg(test)]
impl Caches {
    /// Caches that hold nothing.
    pub(crate) fn empty() -> Self {
        use kube::runtime::reflector::store;
        Self {
            backups: store().0,
            restores: store().0,
            offset_resets: store().0,
            offset_rollbacks: store().0,
            jobs: store().0,
            pods: store().0,
        }
    }
}

/// Caches of the cluster's objects, who waits for a look, and the reports that workers pushed.
pub(crate) struct Objects {
    pub(crate) caches: Caches,
    /// In the order of [`ObjectKind::ALL`].
    queues: [Queue; ObjectKind::ALL.len()],
    reports: Mutex<HashMap<String, Report>>,
    progressed: Mutex<HashMap<String, Instant>>,
}

/// How far a run is, in values that are cumulative over all its attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Records that are durable beyond the base.
    pub(crate) records: u64,
    /// The same in bytes of record batches.
    pub(crate) bytes: u64,
    /// Percent of the planned offsets that are done.
    pub(crate) percent: Option<u8>,
    /// Percent of the bytes that are checked first.
    pub(crate) checked_percent: Option<u8>,
    /// Of late; these two are not cumulative.
    pub(crate) bytes_per_second: Option<u64>,
    /// At that rate.
    pub(crate) seconds_left: Option<u64>,
}

/// What became of a progress message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// The status says it now, or said it already.
    Yes,
    /// The last write was less than 10 s ago; cumulative values make the next message complete.
    TooEarly,
    /// That run is not going on.
    NotActive,
}

impl Objects {
    /// Objects over the given caches.
    pub(crate) fn new(caches: Caches) -> Self {
        Self {
            caches,
            queues: Default::default(),
            reports: Mutex::default(),
            progressed: Mutex::default(),
        }
    }

    /// The objects of a kind that wait for their next look.
    pub(crate) fn queue(&self, kind: ObjectKind) -> &Queue {
        // Kinds are numbered from 0 in the order of their list.
        &self.queues[kind as usize]
    }

    /// What the queue of a kind holds.
    pub(crate) fn queue_state(&self, kind: ObjectKind) -> QueueState {
        let counts = self.queue(kind).counts();
        QueueState {
            controller: kind.controller(),
            depth: counts.depth,
            adds: counts.adds,
        }
    }

    /// Has every object of kind `K` looked at.
    pub(crate) fn add_all<K: Kind>(&self) {
        let now = tokio::time::Instant::now();
        for object in K::store(self).state() {
            self.queue(K::KIND).add(Key::of(&*object), now);
        }
    }

    /// Waits until every cache holds what the API server had at the start.
    pub(crate) async fn synced(&self) {
        // An error means that the watch ended, which it does at shutdown only.
        let caches = &self.caches;
        let synced = tokio::try_join!(
            caches.backups.wait_until_ready(),
            caches.restores.wait_until_ready(),
            caches.offset_resets.wait_until_ready(),
            caches.offset_rollbacks.wait_until_ready(),
            caches.jobs.wait_until_ready(),
            caches.pods.wait_until_ready(),
        );
        if synced.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Keeps the full report of a Job that is the active one of some object, and has that object looked at.
    /// Reports of other Jobs are dropped; returns whether it was kept.
    pub(crate) fn report(&self, job_uid: &str, report: Report) -> bool {
        let owner = self
            .owner_of_run::<KafkaBackup>(job_uid)
            .or_else(|| self.owner_of_run::<KafkaRestore>(job_uid))
            .or_else(|| self.owner_of_run::<KafkaOffsetReset>(job_uid))
            .or_else(|| self.owner_of_run::<KafkaOffsetRollback>(job_uid));
        let Some((kind, key)) = owner else {
            return false;
        };
        lock(&self.reports).insert(job_uid.into(), report);
        self.queue(kind).add(key, tokio::time::Instant::now());
        true
    }

    /// The pushed report of a Job.
    pub(crate) fn report_of(&self, job_uid: &str) -> Option<Report> {
        lock(&self.reports).get(job_uid).cloned()
    }

    /// Drops what was kept for a Job whose run is accounted.
    pub(crate) fn forget_report(&self, job_uid: &str) {
        lock(&self.reports).remove(job_uid);
    }

    /// Drops what was kept for an object that is gone, the report of a run that nobody will account included.
    pub(crate) fn forget_object<K: Kind>(&self, object: &K) {
        lock(&self.progressed).remove(&object.uid().unwrap_or_default());
        let active = K::life(&object.status()).active_run.clone();
        if let Some(job_uid) = active.and_then(|run| run.job_uid) {
            self.forget_report(&job_uid);
        }
    }

    fn owner_of_run<K: Kind>(&self, job_uid: &str) -> Option<(ObjectKind, Key)> {
        let owner = K::store(self).find(|object| is_active(object, job_uid))?;
        Some((K::KIND, Key::of(&*owner)))
    }

    fn may_progress(&self, uid: &str, now: Instant) -> bool {
        let mut progressed = lock(&self.progressed);
        let early = progressed
            .get(uid)
            .is_some_and(|last| now.duration_since(*last) < PROGRESS_INTERVAL);
        if !early {
            progressed.insert(uid.into(), now);
        }
        !early
    }
}

/// What writing progress needs.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    pub(crate) client: &'a Client,
    pub(crate) gate: &'a Gate,
    pub(crate) objects: &'a Objects,
}

impl Writer<'_> {
    /// Writes how far the run of a Job is into its object's status.
    ///
    /// # Errors
    /// What the API server answered, other than a conflict that another attempt got over.
    pub(crate) async fn progress(
        self,
        kind: ObjectKind,
        object: &Key,
        job_uid: &str,
        told: Progress,
    ) -> Result<Recorded, kube::Error> {
        match kind {
            ObjectKind::Backup => self.record::<KafkaBackup>(object, job_uid, told).await,
            ObjectKind::Restore => self.record::<KafkaRestore>(object, job_uid, told).await,
            ObjectKind::OffsetReset => self.record::<KafkaOffsetReset>(object, job_uid, told).await,
            ObjectKind::OffsetRollback => {
                self.record::<KafkaOffsetRollback>(object, job_uid, told)
                    .await
            }
        }
    }

    async fn record<K: Kind>(
        self,
        key: &Key,
        job_uid: &str,
        progress: Progress,
    ) -> Result<Recorded, kube::Error> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        let Some(cached) = K::store(self.objects).get(&reference) else {
            return Ok(Recorded::NotActive);
        };
        if !is_active(&*cached, job_uid) {
            return Ok(Recorded::NotActive);
        }
        let uid = cached.uid().unwrap_or_default();
        if !self.objects.may_progress(&uid, Instant::now()) {
            return Ok(Recorded::TooEarly);
        }
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let mut object = K::clone(&cached);
        for attempt in 1.. {
            if !is_active(&object, job_uid) {
                return Ok(Recorded::NotActive);
            }
            let before = object.status();
            let mut after = before.clone();
            note_progress::<K>(&mut after, progress);
            if after == before {
                return Ok(Recorded::Yes);
            }
            let write = write_status(self.client, &object, &after);
            match self.gate.pass(Write::Progress, write).await {
                Err(error) if is_conflict(&error) && attempt < PROGRESS_ATTEMPTS => {
                    object = api.get(&key.name).await?
                }
                Err(error) => return Err(error),
                Ok(_) => return Ok(Recorded::Yes),
            }
        }
        Ok(Recorded::NotActive)
    }
}

/// Whether the Job is the one of the active run: another Job that somebody gave the same owner has no say.
fn is_active<K: Kind>(object: &K, job_uid: &str) -> bool {
    let status = object.status();
    let active = K::life(&status).active_run.as_ref();
    active.is_some_and(|run| run.job_uid.as_deref() == Some(job_uid))
}

/// Cumulative values only grow: an older message that arrives late changes nothing.
fn note_progress<K: Kind>(status: &mut K::Status, progress: Progress) {
    let life = K::life_mut(status);
    let Some(active) = life.active_run.as_mut() else {
        return;
    };
    if progress.records >= active.records && progress.bytes >= active.bytes {
        active.bytes_per_second = progress.bytes_per_second;
        active.seconds_left = progress.seconds_left;
    }
    active.records = active.records.max(progress.records);
    active.bytes = active.bytes.max(progress.bytes);
    active.percent = active.percent.max(progress.percent);
    active.checked_percent = active.checked_percent.max(progress.checked_percent);
    life.totals.uncommitted = life.totals.uncommitted.max(progress.records);
    K::record_progress(status);
}

/// A panic while the lock was held cannot leave these maps half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use kube::runtime::reflector::store;
    use kube::runtime::watcher::Event;

    fn told(values: &[(u64, u64, u8)]) -> (u64, u64, Option<u8>, Option<u64>, u64) {
        let object = fixtures::backup();
        let mut status = object.status();
        status.life.active_run = Some(fixtures::active_run(&object));
        for (records, bytes, percent) in values {
            let progress = Progress {
                records: *records,
                bytes: *bytes,
                percent: Some(*percent),
                seconds_left: Some(100 - u64::from(*percent)),
                ..Progress::default()
            };
            note_progress::<KafkaBackup>(&mut status, progress);
        }
        let run = status.life.active_run.unwrap();
        (
            run.records,
            run.bytes,
            run.percent,
            run.seconds_left,
            status.life.totals.uncommitted,
        )
    }

    #[test]
    fn late_and_repeated_progress_changes_nothing() {
        let whole = (5, 50, Some(40), Some(60), 5);
        assert_eq!(told(&[(3, 30, 20), (5, 50, 40)]), whole);
        assert_eq!(told(&[(5, 50, 40), (3, 30, 20), (5, 50, 40)]), whole);
    }

    #[test]
    fn a_restore_shows_its_progress() {
        let object = fixtures::restore();
        let mut status = object.status();
        status.life.active_run = Some(fixtures::active_run(&object));
        note_progress::<KafkaRestore>(
            &mut status,
            Progress {
                records: 7,
                bytes: 70,
                percent: Some(10),
                ..Progress::default()
            },
        );
        assert_eq!(
            (
                status.restored_records,
                status.restored_bytes,
                status.percent
            ),
            (Some(7), Some(70), Some(10))
        );
    }

    #[test]
    fn only_the_job_of_the_active_run_has_a_say() {
        let mut object = fixtures::backup();
        let mut run = fixtures::active_run(&object);
        run.job_uid = Some("job-1".into());
        let mut status = object.status();
        status.life.active_run = Some(run);
        object.status = Some(status);
        assert!(is_active(&object, "job-1"));
        assert!(!is_active(&object, "job-2"));
    }

    #[test]
    fn a_report_that_nobody_will_account_goes_with_its_object() {
        let (backups, mut writer) = store();
        let objects = Objects::new(Caches {
            backups,
            ..Caches::empty()
        });
        let mut object = fixtures::backup();
        let mut run = fixtures::active_run(&object);
        run.job_uid = Some("job-1".into());
        let mut status = object.status();
        status.life.active_run = Some(run);
        object.status = Some(status);
        writer.apply_watcher_event(&Event::Apply(object.clone()));

        assert!(objects.report("job-1", fixtures::success_report(5)));
        assert!(objects.report_of("job-1").is_some());
        objects.forget_object(&object);
        assert!(objects.report_of("job-1").is_none());
    }
}
