//! Reads what belongs to one object.
//!
//! # Guarantees
//! - Whatever follows from absence is asked of the API server: a Job counts as missing only when a GET says so. Caches may lag.
//! - A finished Job's pods are listed from the API server, so that its verdict sees every termination message.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Pod};
use kafka_backup_shared::crd::{KafkaBackup, KafkaRestore};
use kafka_backup_shared::plan::Referenced;
use kafka_backup_shared::status::ActiveRun;
use kube::api::ListParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};

use super::Context;
use super::child::JOB_UID_LABEL;
use super::decide::Observed;
use super::error::ReconcileError;
use super::view::{JobView, PodView, Trouble, newest_warning};
use crate::kind::{Kind, Reference};

/// A Job younger than this has had no time to get into trouble.
const YOUNG: SignedDuration = SignedDuration::from_secs(3);

/// Observes `object` and everything that belongs to it.
pub(crate) async fn observe<K: Kind>(
    context: &Context,
    object: K,
) -> Result<Observed<K>, ReconcileError> {
    let uid = object.uid().unwrap_or_default();
    let namespace = object.namespace().unwrap_or_default();
    let referenced = referenced(context, &object).await?;
    let jobs = context
        .objects
        .caches
        .jobs
        .state_filter(|job| job.is_of(&uid));
    let jobs: Vec<JobView> = jobs.iter().map(|job| job.view.clone()).collect();
    let status = object.status();
    let active = K::life(&status).active_run.as_ref();
    let active_job = match active {
        Some(run) => find_job(context, &namespace, &jobs, run).await?,
        None => None,
    };
    let pods = match &active_job {
        Some(job) => pods(context, &namespace, job).await?,
        None => Vec::new(),
    };
    let refusal = context.refusal(&uid);
    let is_refused = refusal.is_some();
    let trouble = match (&active_job, refusal) {
        (Some(job), _) => trouble(context, &namespace, job, &pods).await?,
        (None, refusal) => refusal,
    };
    let job_uid = active.and_then(|run| run.job_uid.as_deref());
    let cached = context
        .store::<K>()
        .get(&ObjectRef::new(&object.name_any()).within(&namespace));
    let shown = cached.map(|cached| cached.status()).unwrap_or_default();
    Ok(Observed {
        pushed: job_uid.and_then(|uid| context.objects.report_of(uid)),
        exposed: context
            .exporter
            .exposed(&uid, &K::life(&shown).totals, Instant::now()),
        hold: context.patience.hold,
        lost_after: context.patience.lost_after,
        limits: context.limits,
        place: context.place(&object),
        object,
        referenced,
        jobs,
        active_job,
        pods,
        trouble,
        is_refused,
    })
}

/// What the object refers to, in its own namespace.
pub(super) async fn referenced<K: Kind>(
    context: &Context,
    object: &K,
) -> Result<Referenced, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let restore = match object.reference() {
        None => return Ok(Referenced::default()),
        Some(Reference::Backup(name)) => {
            return Ok(Referenced {
                backup: find::<KafkaBackup>(context, &namespace, name).await?,
                restore: None,
            });
        }
        Some(Reference::Restore(name)) => find::<KafkaRestore>(context, &namespace, name).await?,
    };
    let backup = match restore.as_ref().and_then(Kind::reference) {
        Some(Reference::Backup(name)) => find(context, &namespace, name).await?,
        // No restore refers to another one.
        Some(Reference::Restore(_)) | None => None,
    };
    Ok(Referenced { backup, restore })
}

async fn find<K: Kind>(
    context: &Context,
    namespace: &str,
    name: &str,
) -> Result<Option<K>, ReconcileError> {
    let cached = ObjectRef::new(name).within(namespace);
    if let Some(object) = context.store::<K>().get(&cached) {
        return Ok(Some(K::clone(&object)));
    }
    let api = Api::<K>::namespaced(context.client.clone(), namespace);
    let kind = K::KIND.as_str();
    api.get_opt(name)
        .await
        .map_err(|source| ReconcileError::api(format!("read {kind} {name}"), source))
}

async fn find_job(
    context: &Context,
    namespace: &str,
    cached: &[JobView],
    run: &ActiveRun,
) -> Result<Option<JobView>, ReconcileError> {
    if let Some(job) = cached.iter().find(|job| job.name == run.job) {
        return Ok(Some(job.clone()));
    }
    let api = Api::<Job>::namespaced(context.client.clone(), namespace);
    let job = api
        .get_opt(&run.job)
        .await
        .map_err(|source| ReconcileError::api(format!("read Job {}", run.job), source))?;
    Ok(job.as_ref().map(JobView::from))
}

async fn pods(
    context: &Context,
    namespace: &str,
    job: &JobView,
) -> Result<Vec<PodView>, ReconcileError> {
    if !job.is_finished() {
        let pods = context
            .objects
            .caches
            .pods
            .state_filter(|pod| pod.is_of(&job.uid));
        return Ok(pods.iter().map(|pod| pod.view.clone()).collect());
    }
    let api = Api::<Pod>::namespaced(context.client.clone(), namespace);
    let of_job = ListParams::default().labels(&format!("{JOB_UID_LABEL}={}", job.uid));
    let pods = api.list(&of_job).await.map_err(|source| {
        ReconcileError::api(format!("list the pods of Job {}", job.name), source)
    })?;
    Ok(pods.iter().map(PodView::from).collect())
}

/// A missing Secret, a quota and a refused pod show only in Events, which nothing announces.
async fn trouble(
    context: &Context,
    namespace: &str,
    job: &JobView,
    pods: &[PodView],
) -> Result<Option<Trouble>, ReconcileError> {
    let is_young = Timestamp::now().duration_since(job.created) < YOUNG;
    if job.is_finished() || is_young {
        return Ok(None);
    }
    let newest = pods.iter().max_by_key(|pod| pod.created);
    let (uid, name) = match newest {
        Some(pod) if pod.has_started => return Ok(None),
        Some(pod) => (&pod.uid, &pod.name),
        None => (&job.uid, &job.name),
    };
    let api = Api::<Event>::namespaced(context.client.clone(), namespace);
    let about = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    let events = api
        .list(&about)
        .await
        .map_err(|source| ReconcileError::api(format!("list the Events of {name}"), source))?;
    Ok(newest_warning(&events.items))
}
