//! Carries decisions out.
//!
//! # Guarantees
//! - A refused write (409) is no error: somebody else was faster, the object is observed again.
//! - Jobs are created with POST, and marked only under the UID that was decided upon, and removed only as they were
//!   looked at.
//! - The Events of a change are told before it is written, so that a crash between the two repeats them instead of losing them:
//!   the same news is the same Event. Told without effect is only what a conflict then decides otherwise.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kafka_backup_shared::report::error_chain;
use kafka_backup_shared::status::{ActiveRun, Life};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use serde_json::json;
use tracing::{info, warn};

use super::Context;
use super::decide::{Decision, Note, decide};
use super::error::ReconcileError;
use super::observe::{observe, referenced};
use super::queue::Key;
use super::tidy::{self, JobAction};
use super::view::{JobView, Trouble};
use super::write::{
    FIELD_MANAGER, is_conflict, is_namespace_terminating, is_not_found, write_status,
};
use crate::events;
use crate::failpoint::Write;
use crate::job::{self, ACCOUNTED_AT};
use crate::kind::Kind;

/// Decisions that follow each other in one look; more than any life of a run has writes in a row.
const STEPS: usize = 12;

/// What acting on Jobs asks for.
enum Next {
    LookAgain,
    Wait,
}

/// Looks at one object until nothing is left to do now; tells when to look again.
pub(crate) async fn reconcile<K: Kind>(
    context: &Context,
    key: &Key,
) -> Result<Option<Timestamp>, ReconcileError> {
    let cached = context
        .store::<K>()
        .get(&ObjectRef::new(&key.name).within(&key.namespace));
    let Some(cached) = cached else {
        return Ok(None);
    };
    let mut object = K::clone(&cached);
    drop(cached);
    for _ in 0..STEPS {
        let now = whole_seconds(Timestamp::now());
        let observed = observe(context, object).await?;
        let decision = decide(&observed, now);
        object = observed.object;
        let Decision {
            status,
            events,
            jobs,
            wake,
        } = decision;
        if let Some(status) = status {
            match write(context, &object, &status, &events).await? {
                Some(newer) => object = newer,
                None => return Ok(None),
            }
            continue;
        }
        let mut next = Next::Wait;
        for action in jobs {
            if let Next::LookAgain = act(context, &object, &action).await? {
                next = Next::LookAgain;
            }
        }
        if let Next::Wait = next {
            return Ok(wake);
        }
    }
    // Something else writes as fast as we do; the watch brings the object back.
    Ok(Some(Timestamp::now() + jiff::SignedDuration::from_secs(1)))
}

/// Statuses speak in whole seconds, as Kubernetes does.
fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).expect("a timestamp without its fraction is one")
}

/// Writes a decided status and tells its Events; returns the object as it is then, `None` if it is gone.
async fn write<K: Kind>(
    context: &Context,
    object: &K,
    status: &K::Status,
    notes: &[Note],
) -> Result<Option<K>, ReconcileError> {
    let name = object.name_any();
    let what = change_of(K::life(&object.status()), K::life(status));
    for note in notes {
        tell(context, object, event_of(what), note).await;
    }
    let write = write_status(&context.client, object, status);
    match context.gate.pass(what, write).await {
        Ok(newer) => {
            log_change::<K>(object, status);
            forget_accounted::<K>(context, object, status);
            Ok(Some(newer))
        }
        Err(error) if is_conflict(&error) => read(context, object).await,
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(ReconcileError::api(
            format!("write the status of {name}"),
            error,
        )),
    }
}

/// What the change of a status does to the life of a run.
fn change_of(before: &Life, after: &Life) -> Write {
    match (&before.active_run, &after.active_run) {
        (Some(_), None) => Write::Account,
        (Some(before), Some(after)) if before.id != after.id => Write::Account,
        (Some(before), Some(after)) if before.job != after.job => Write::RepeatJob,
        (Some(before), Some(after)) if before.job_uid != after.job_uid => Write::RecordJob,
        (None, Some(_)) => Write::Decide,
        (Some(_), Some(_)) | (None, None) => {
            if after.totals.held.len() < before.totals.held.len() {
                Write::Release
            } else {
                Write::Show
            }
        }
    }
}

/// The write that tells of `change`.
fn event_of(change: Write) -> Write {
    match change {
        Write::RecordJob => Write::TellStarted,
        Write::Account => Write::TellEnded,
        Write::DeleteStray => Write::TellStray,
        Write::DeletePod => Write::TellLost,
        Write::Decide
        | Write::CreateJob
        | Write::TellStarted
        | Write::Progress
        | Write::KeepSnapshot
        | Write::DeleteSnapshot
        | Write::RepeatJob
        | Write::TellEnded
        | Write::MarkJob
        | Write::Release
        | Write::DeleteJob
        | Write::TellStray
        | Write::MarkPod
        | Write::TellLost
        | Write::Tell
        | Write::Show => Write::Tell,
    }
}

/// Writes an Event on `object`. Events are told, not relied on: a failure is logged, and changes nothing.
async fn tell<K: Kind>(context: &Context, object: &K, write: Write, note: &Note) {
    let reference = object.object_ref(&());
    let publish = events::publish(&context.client, &reference, note);
    if let Err(error) = context.gate.pass(write, publish).await {
        let error = error_chain(&error);
        let (namespace, name) = (object.namespace(), object.name_any());
        warn!(
            namespace,
            name,
            reason = note.reason,
            error,
            "failed to write an Event"
        );
    }
}

async fn read<K: Kind>(context: &Context, object: &K) -> Result<Option<K>, ReconcileError> {
    let name = object.name_any();
    let api = Api::<K>::namespaced(
        context.client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    api.get_opt(&name)
        .await
        .map_err(|source| ReconcileError::api(format!("read {name}"), source))
}

fn log_change<K: Kind>(object: &K, status: &K::Status) {
    let run = |status: &K::Status| K::life(status).active_run.clone().map(|run| run.id);
    let (before, after) = (run(&object.status()), run(status));
    if before == after {
        return;
    }
    let (namespace, name, kind) = (
        object.namespace().unwrap_or_default(),
        object.name_any(),
        K::KIND.as_str(),
    );
    if let Some(run) = after {
        info!(kind, namespace, name, run, "run decided");
    } else if let Some(ended) = K::history(status).last() {
        let outcome = ended.outcome.as_str();
        let reason = ended.reason.as_deref().unwrap_or_default();
        info!(
            kind,
            namespace,
            name,
            run = ended.backup_id,
            outcome,
            reason,
            "run accounted"
        );
    }
}

/// A report is kept until the write that accounts its run has been taken.
fn forget_accounted<K: Kind>(context: &Context, object: &K, status: &K::Status) {
    let before = object.status();
    let ended = K::life(&before)
        .active_run
        .as_ref()
        .filter(|_| K::life(status).active_run.is_none());
    if let Some(uid) = ended.and_then(|run| run.job_uid.as_deref()) {
        context.objects.forget_report(uid);
    }
    if ended.is_some() {
        context.call_next();
    }
    if K::life(status).active_run.is_none() {
        context.note_refusal(&object.uid().unwrap_or_default(), None);
    }
}

async fn act<K: Kind>(
    context: &Context,
    object: &K,
    action: &JobAction,
) -> Result<Next, ReconcileError> {
    let api = Api::<Job>::namespaced(
        context.client.clone(),
        &object.namespace().unwrap_or_default(),
    );
    match action {
        JobAction::Create => {
            let status = object.status();
            let Some(run) = &K::life(&status).active_run else {
                return Ok(Next::Wait);
            };
            create(context, object, &api, run).await
        }
        JobAction::Mark {
            name,
            uid,
            ttl_seconds,
        } => {
            let patch = json!({
                "metadata": { "uid": uid, "annotations": { ACCOUNTED_AT: whole_seconds(Timestamp::now()).to_string() } },
                "spec": { "ttlSecondsAfterFinished": ttl_seconds },
            });
            let params = PatchParams {
                field_manager: Some(FIELD_MANAGER.into()),
                ..PatchParams::default()
            };
            let patch = Patch::Merge(&patch);
            let mark = api.patch(name, &params, &patch);
            let marked = context.gate.pass(Write::MarkJob, mark).await;
            settle(marked.map(drop), || format!("mark Job {name} as accounted"))
        }
        JobAction::Delete { name, uid, version } => {
            let only_this = Preconditions {
                uid: Some(uid.clone()),
                resource_version: version.clone(),
            };
            delete(context, &api, Write::DeleteJob, name, only_this).await
        }
        JobAction::GiveUpPod { name, uid } => give_up_pod(context, object, name, uid).await,
        JobAction::DeleteStray { name, uid } => {
            delete_stray(context, object, &api, name, uid).await
        }
    }
}

async fn create<K: Kind>(
    context: &Context,
    object: &K,
    api: &Api<Job>,
    run: &ActiveRun,
) -> Result<Next, ReconcileError> {
    let uid = object.uid().unwrap_or_default();
    let referenced = referenced(context, object).await?;
    let Ok(job) = job::build(object, run, &referenced, &context.worker()) else {
        // decide has checked the same spec; it will say what is wrong with it when it sees the newer one.
        return Ok(Next::LookAgain);
    };
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    let create = api.create(&params, &job);
    match context.gate.pass(Write::CreateJob, create).await {
        Ok(_) => {
            context.note_refusal(&uid, None);
            Ok(Next::LookAgain)
        }
        Err(error) if is_conflict(&error) => Ok(Next::LookAgain),
        Err(error) if is_namespace_terminating(&error) || is_not_found(&error) => Ok(Next::Wait),
        Err(error) => {
            if let kube::Error::Api(status) = &error {
                let refusal = Trouble {
                    reason: "JobRefused".into(),
                    message: status.message.clone(),
                };
                context.note_refusal(&uid, Some(refusal));
            }
            Err(ReconcileError::api(
                format!("create Job {}", run.job),
                error,
            ))
        }
    }
}

async fn delete(
    context: &Context,
    api: &Api<Job>,
    write: Write,
    name: &str,
    only_this: Preconditions,
) -> Result<Next, ReconcileError> {
    let params = DeleteParams {
        preconditions: Some(only_this),
        ..DeleteParams::background()
    };
    let deleted = context.gate.pass(write, api.delete(name, &params)).await;
    settle(deleted.map(drop), || format!("delete Job {name}"))
}

/// Says Failed for a kubelet that cannot, as the pod garbage collector does for nodes that are gone: the Job controller lets go
/// of no pod before. As a disruption, it does not count against `backoffLimit`.
///
/// That comes last: before it the pod is overdue still, so that whoever comes after a crash does all of this again.
async fn give_up_pod<K: Kind>(
    context: &Context,
    object: &K,
    name: &str,
    uid: &str,
) -> Result<Next, ReconcileError> {
    let namespace = object.namespace().unwrap_or_default();
    let api = Api::<Pod>::namespaced(context.client.clone(), &namespace);
    let seconds = context.patience.lost_after.as_secs();
    let message = format!("its node did not report its end within {seconds} s of its grace period");
    let note = Note {
        is_warning: true,
        reason: "NodeLost".into(),
        message: format!("pod {name} is given up: {message}"),
    };
    tell(context, object, event_of(Write::DeletePod), &note).await;
    let only_this = Preconditions {
        uid: Some(uid.into()),
        resource_version: None,
    };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(only_this),
        ..DeleteParams::default()
    };
    let delete = api.delete(name, &params);
    let deleted = context.gate.pass(Write::DeletePod, delete).await;
    settle(deleted.map(drop), || format!("delete pod {name}"))?;
    let patch = json!({
        "metadata": { "uid": uid },
        "status": {
            "phase": "Failed",
            "reason": "NodeLost",
            "message": message,
            "conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "NodeLost",
                "message": message,
                "lastTransitionTime": whole_seconds(Timestamp::now()).to_string(),
            }],
        },
    });
    let params = PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    };
    let patch = Patch::Strategic(&patch);
    let mark = api.patch_status(name, &params, &patch);
    let marked = context.gate.pass(Write::MarkPod, mark).await;
    settle(marked.map(drop), || format!("mark pod {name} as failed"))
}

/// A Job that looks like a stray may belong to a run that is newer than the cache: the newest status decides.
async fn delete_stray<K: Kind>(
    context: &Context,
    object: &K,
    api: &Api<Job>,
    name: &str,
    uid: &str,
) -> Result<Next, ReconcileError> {
    let Some(newest) = read(context, object).await? else {
        return Ok(Next::Wait);
    };
    let job = api
        .get_opt(name)
        .await
        .map_err(|source| ReconcileError::api(format!("read Job {name}"), source))?;
    let Some(job) = job.filter(|job| job.uid().as_deref() == Some(uid)) else {
        return Ok(Next::Wait);
    };
    let is_same = newest.uid() == object.uid();
    if !is_same || tidy::is_known::<K>(&newest.status(), &JobView::from(&job)) {
        return Ok(Next::Wait);
    }
    warn!(
        namespace = newest.namespace(),
        job = name,
        "deleting a Job that no status knows"
    );
    let note = Note {
        is_warning: true,
        reason: "StrayJobDeleted".into(),
        message: format!(
            "Job {name} belongs to no run that was decided; it is deleted and not counted"
        ),
    };
    tell(context, &newest, event_of(Write::DeleteStray), &note).await;
    let only_this = Preconditions {
        uid: Some(uid.into()),
        resource_version: job.resource_version(),
    };
    delete(context, api, Write::DeleteStray, name, only_this).await
}

/// Gone, another one under the name, or changed since it was looked at: the watch tells of it, and it is looked at again.
fn settle(
    result: Result<(), kube::Error>,
    step: impl FnOnce() -> String,
) -> Result<Next, ReconcileError> {
    match result {
        Ok(()) => Ok(Next::Wait),
        Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Next::Wait),
        Err(error) => Err(ReconcileError::api(step(), error)),
    }
}

#[cfg(test)]
mod tests {
    use kafka_backup_shared::status::{GroupTotals, HeldRun, RunOutcome, time};

    use super::*;
    use crate::fixtures;

    #[test]
    fn each_step_of_a_life_is_told_from_the_others() {
        let idle = Life::default();
        let mut decided = idle.clone();
        decided.active_run = Some(fixtures::active_run(&fixtures::backup()));
        let changed = |change: fn(&mut ActiveRun)| {
            let mut life = decided.clone();
            change(life.active_run.as_mut().unwrap());
            life
        };
        let recorded = changed(|run| run.job_uid = Some("u".into()));
        let repeated = changed(|run| run.job.push_str("-r"));
        let another = changed(|run| run.id.push_str("-2"));
        let moved = changed(|run| run.records = 5);
        let mut accounted = idle.clone();
        accounted.totals.held.push(HeldRun {
            id: "r".into(),
            outcome: RunOutcome::Success,
            duration_ms: 1,
            gaps: 0,
            groups: GroupTotals::default(),
            since: time(Timestamp::UNIX_EPOCH),
        });
        let table = [
            (&idle, &idle, Write::Show),
            (&idle, &decided, Write::Decide),
            (&decided, &recorded, Write::RecordJob),
            (&decided, &moved, Write::Show),
            (&recorded, &repeated, Write::RepeatJob),
            (&recorded, &accounted, Write::Account),
            (&recorded, &another, Write::Account),
            (&accounted, &idle, Write::Release),
        ];
        for (before, after, expected) in table {
            assert_eq!(change_of(before, after), expected);
        }
    }
}
