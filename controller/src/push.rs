//! What workers send: cumulative metrics while a run goes on, and the full report at its end.
//!
//! | request | body |
//! |---|---|
//! | `PUT` or `POST /metrics/job/kafka-backup/kind/<kind>/namespace/<namespace>/name/<name>/run/<run>` | text format 0.0.4 of the run's records, bytes and progress |
//! | `PUT /runs/<job uid>/report` | the [`Report`] as JSON |
//!
//! 200: taken, or known already. 202: taken note of; too soon after the last one to be written, and the next one says it all.
//! Else one line of text: 400 what is wrong with the content, 401 and 403 with the identity, 408 a body that does not
//! arrive, 409 a run that is not active, 413 a body above [`BODY_MAX`], 415 a format that is not read, 503 what to wait for:
//! the caches, the status, or another controller that leads.
//!
//! # Guarantees
//! - Identity comes before content: without a valid token no body is read. The labels of a push and the run of a report
//!   must be the token's own, or nothing is taken.
//! - A push is taken whole or not at all. A repeated or late one changes nothing: values are cumulative and only grow.

mod values;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use futures::StreamExt;
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::report::{Report, error_chain};
use kube::Client;
use kube::runtime::reflector::{ObjectRef, Store};
use tracing::warn;

use self::values::{check_grouping, read_progress};
use crate::exporter::{Exporter, PushResult};
use crate::gate::Gate;
use crate::grouping;
use crate::health::Health;
use crate::identity::{Identities, IdentityError, Worker};
use crate::kind::{Kind, ObjectKind};
use crate::leadership::NotLeading;
use crate::objects::{Objects, Progress, Recorded, Writer};
use crate::reconcile::queue::Key;

/// The largest body that is read.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// How long a body may take to arrive.
pub(crate) const BODY_TIME: Duration = Duration::from_secs(30);

/// Whether the run of a worker is the one that its object's status names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is.
    Active,
    /// The run is, but the status does not name its Job yet.
    NotYet,
    /// Another run is, or none.
    NotActive,
}

/// Where accepted pushes go.
pub(crate) trait Runs: Send + Sync + 'static {
    /// Whether this controller takes pushes: only the leader may write what they say.
    fn check(&self) -> Result<(), NotLeading>;

    /// Where the worker's run stands.
    fn standing(&self, worker: &Worker) -> Standing;

    /// Writes the progress of the worker's run into its object's status.
    fn progress(
        &self,
        worker: &Worker,
        progress: Progress,
    ) -> impl Future<Output = Result<Recorded, kube::Error>> + Send;

    /// Keeps the report of the worker's run; tells whether it did.
    fn report(&self, worker: &Worker, report: Report) -> bool;
}

/// The objects of the cluster.
pub(crate) struct ClusterRuns {
    /// Writes statuses.
    pub(crate) client: Client,
    /// Lets the leader's writes through.
    pub(crate) gate: Arc<Gate>,
    /// Knows the active runs.
    pub(crate) objects: Arc<Objects>,
}

impl Runs for ClusterRuns {
    fn check(&self) -> Result<(), NotLeading> {
        self.gate.check()
    }

    fn standing(&self, worker: &Worker) -> Standing {
        match ObjectKind::parse(&worker.run.kind) {
            Some(ObjectKind::Backup) => standing_in(&self.objects.backups, worker),
            Some(ObjectKind::Restore) => standing_in(&self.objects.restores, worker),
            None => Standing::NotActive,
        }
    }

    async fn progress(&self, worker: &Worker, values: Progress) -> Result<Recorded, kube::Error> {
        let RunRef {
            kind,
            namespace,
            name,
            ..
        } = &worker.run;
        let Some(kind) = ObjectKind::parse(kind) else {
            return Ok(Recorded::NotActive);
        };
        let key = Key {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        let writer = Writer {
            client: &self.client,
            gate: &self.gate,
            objects: &self.objects,
        };
        writer.progress(kind, &key, &worker.job_uid, values).await
    }

    fn report(&self, worker: &Worker, report: Report) -> bool {
        self.objects.report(&worker.job_uid, report)
    }
}

fn standing_in<K: Kind>(objects: &Store<K>, worker: &Worker) -> Standing {
    let RunRef {
        namespace, name, ..
    } = &worker.run;
    let object = objects.get(&ObjectRef::new(name).within(namespace));
    object.map_or(Standing::NotActive, |object| standing(&*object, worker))
}

/// The Job must be the one that the status names: any Job may say that it belongs to the object.
fn standing<K: Kind>(object: &K, worker: &Worker) -> Standing {
    let status = object.status();
    let is_same_object = object.meta().uid.as_ref() == Some(&worker.run.uid);
    let active = K::life(&status).active_run.as_ref();
    let active = active.filter(|active| is_same_object && active.id == worker.run.run);
    match active.map(|active| &active.job_uid) {
        Some(Some(uid)) if *uid == worker.job_uid => Standing::Active,
        Some(None) => Standing::NotYet,
        Some(Some(_)) | None => Standing::NotActive,
    }
}

/// What the endpoints share.
pub(crate) struct Push<R> {
    /// Who pushes.
    pub(crate) identities: Identities,
    /// Where it goes.
    pub(crate) runs: R,
    /// Counts pushes.
    pub(crate) exporter: Arc<Exporter>,
    /// Before the caches are synced nothing can be taken.
    pub(crate) health: Arc<Health>,
}

/// The endpoints.
pub(crate) fn router<R: Runs>(push: Arc<Push<R>>) -> Router {
    Router::new()
        .route("/metrics/{*grouping}", put(metrics::<R>).post(metrics::<R>))
        .route("/runs/{job_uid}/report", put(report::<R>))
        .with_state(push)
}

async fn metrics<R: Runs>(State(push): State<Arc<Push<R>>>, request: Request) -> Response {
    let result = push.take_metrics(request).await;
    push.answer(result)
}

async fn report<R: Runs>(
    State(push): State<Arc<Push<R>>>,
    Path(job_uid): Path<String>,
    request: Request,
) -> Response {
    let result = push.take_report(&job_uid, request).await;
    push.answer(result)
}

impl<R: Runs> Push<R> {
    async fn take_metrics(&self, request: Request) -> Result<StatusCode, Refusal> {
        let worker = self.recognise(request.headers()).await?;
        let grouping = grouping::parse(request.uri().path()).map_err(Refusal::invalid)?;
        check_grouping(&grouping, &worker.run)?;
        check_encoding(request.headers())?;
        let body = read(request.into_body()).await?;
        let progress = read_progress(&body, &worker.run)?;
        self.check_standing(&worker)?;
        match self.runs.progress(&worker, progress).await {
            Ok(Recorded::Yes) => Ok(StatusCode::OK),
            Ok(Recorded::TooEarly) => Ok(StatusCode::ACCEPTED),
            Ok(Recorded::NotActive) => Err(Refusal::not_active(&worker)),
            Err(error) => {
                let error = error_chain(&error);
                warn!(run = worker.run.run, error, "progress not recorded");
                Err(Refusal::unavailable("the status could not be written"))
            }
        }
    }

    async fn take_report(&self, job_uid: &str, request: Request) -> Result<StatusCode, Refusal> {
        let worker = self.recognise(request.headers()).await?;
        if job_uid != worker.job_uid {
            return Err(Refusal::other_run());
        }
        let body = read(request.into_body()).await?;
        let report: Report = serde_json::from_slice(&body)
            .map_err(|error| Refusal::invalid(format!("the body is not a report: {error}")))?;
        if report.run != worker.run {
            return Err(Refusal::other_run());
        }
        self.check_standing(&worker)?;
        if !self.runs.report(&worker, report) {
            return Err(Refusal::not_active(&worker));
        }
        Ok(StatusCode::OK)
    }

    fn check_standing(&self, worker: &Worker) -> Result<(), Refusal> {
        match self.runs.standing(worker) {
            Standing::Active => Ok(()),
            Standing::NotYet => Err(Refusal::unavailable("the status does not name the Job yet")),
            Standing::NotActive => Err(Refusal::not_active(worker)),
        }
    }

    async fn recognise(&self, headers: &HeaderMap) -> Result<Arc<Worker>, Refusal> {
        self.health.check_ready().map_err(Refusal::unavailable)?;
        let check = self.runs.check();
        check.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let authorization = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let recognised = self.identities.recognise(authorization).await;
        recognised.map_err(|error| {
            let status = match &error {
                IdentityError::NoToken | IdentityError::BadToken => StatusCode::UNAUTHORIZED,
                IdentityError::NotWorker(_) => StatusCode::FORBIDDEN,
                IdentityError::Api { .. } => {
                    warn!(error = error_chain(&error), "push not checked");
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            Refusal::new(status, error.to_string())
        })
    }

    fn answer(&self, result: Result<StatusCode, Refusal>) -> Response {
        let status = result
            .as_ref()
            .map_or_else(|refusal| refusal.status, |ok| *ok);
        self.exporter.own().observe_push(match status {
            StatusCode::OK | StatusCode::ACCEPTED => PushResult::Accepted,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PushResult::Denied,
            StatusCode::CONFLICT => PushResult::Late,
            StatusCode::SERVICE_UNAVAILABLE => PushResult::Unavailable,
            _ => PushResult::Invalid, // the remaining refusals are all about the content
        });
        match result {
            Ok(status) => status.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }
}

/// Why a push was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    reason: String,
}

impl Refusal {
    fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { status, reason }
    }

    fn invalid(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }

    fn other_run() -> Self {
        let reason = "the push names another run than the one that its token belongs to";
        Self::new(StatusCode::FORBIDDEN, reason)
    }

    fn not_active(worker: &Worker) -> Self {
        let reason = format!("run {} is not active", worker.run.run);
        Self::new(StatusCode::CONFLICT, reason)
    }

    fn unavailable(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.reason.replace('\n', " ") + "\n").into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let seconds = HeaderValue::from_static("5");
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

/// Only the plain text format is read.
fn check_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let header = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let unread = |what: &str| {
        let reason = format!("{what} is not read; send text/plain; version=0.0.4");
        Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
    };
    if let Some(encoding) = header(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return unread(&format!("content encoding {encoding}"));
    }
    // curl names a form when it is not told better, so a wrong name alone is no reason; these two are other formats.
    let content_type = header(CONTENT_TYPE)
        .unwrap_or_default()
        .to_ascii_lowercase();
    for other in [
        "application/vnd.google.protobuf",
        "application/openmetrics-text",
    ] {
        if content_type.starts_with(other) {
            return unread(other);
        }
    }
    Ok(())
}

async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let read = tokio::time::timeout(BODY_TIME, read_all(body)).await;
    read.unwrap_or_else(|_| {
        let reason = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
    })
}

async fn read_all(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::invalid("the body ended early"))?;
        if bytes.len() + chunk.len() > BODY_MAX {
            let reason = format!("the body is longer than {BODY_MAX} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;

    #[test]
    fn only_the_job_that_the_status_names_is_active() {
        let mut object = fixtures::backup();
        let mut active = fixtures::active_run(&object);
        active.job_uid = Some("job-uid".into());
        let worker = Worker {
            run: RunRef {
                kind: "KafkaBackup".into(),
                namespace: "shop".into(),
                name: "orders".into(),
                uid: "uid-1".into(),
                run: active.id.clone(),
            },
            job_uid: "job-uid".into(),
            pod: "pod".into(),
        };
        assert_eq!(standing(&object, &worker), Standing::NotActive);
        object.status.get_or_insert_default().life.active_run = Some(active.clone());
        assert_eq!(standing(&object, &worker), Standing::Active);

        let mut forged = worker.clone();
        forged.job_uid = "another".into();
        assert_eq!(standing(&object, &forged), Standing::NotActive);
        let mut older = worker.clone();
        older.run.run = "orders-20200101-000000".into();
        assert_eq!(standing(&object, &older), Standing::NotActive);
        let mut recreated = worker.clone();
        recreated.run.uid = "uid-0".into();
        assert_eq!(standing(&object, &recreated), Standing::NotActive);

        active.job_uid = None;
        object.status.get_or_insert_default().life.active_run = Some(active);
        assert_eq!(standing(&object, &worker), Standing::NotYet);
    }
}
