//! What is pushed: by workers while a run goes on and at its end, and by people's own jobs.
//!
//! | request | body |
//! |---|---|
//! | `PUT`, `POST` or `DELETE /metrics/job/<job>{/<label>/<value>}` | metrics as text 0.0.4, OpenMetrics or delimited protobuf, gzipped or not |
//! | `PUT /runs/<job uid>/report` | the [`Report`] as JSON |
//! | `PUT` or `DELETE /runs/<job uid>/snapshot` | a snapshot of committed offsets; none |
//!
//! A worker's path is `/metrics/job/kafka-backup/kind/<kind>/namespace/<namespace>/name/<name>/run/<run>`. Records, bytes and
//! progress go into its object's status; the other families of the catalogue into the [`Aggregator`], as do people's own.
//!
//! A snapshot is answered as `kafka_backup_shared::pod::snapshot_path` says: 201, 200, 404 and 409 have their own meaning there.
//!
//! 200: taken, known already, or older than what is known, which the answer says then. 202: taken note of; a worker's that came
//! too soon after the last one to be written, and the next one says it all; a `DELETE`. Else one line of text: 400 what is wrong
//! with the content, 401 and 403 with the identity, 408 a body that does not arrive, 409 a run that is not active, 413 a body
//! above [`BODY_MAX`], 415 a format that is not read, 421 the port where pushes are taken, if it is another one, 422 what the API
//! server refuses, 429 what there is no room for, 503 what to wait for: the caches, the status, or another controller that leads.
//!
//! # Guarantees
//! - Identity comes before content: without a valid token no body is read. The labels of a worker's push and the run of a report
//!   must be the token's own, or nothing is taken.
//! - Who has the static token may say nothing that ours or Prometheus' own series say: neither their names nor their labels.
//! - A push is taken whole or not at all. A repeated or late one changes nothing: values are cumulative and only grow.
//! - A worker of another version than the controller's may push families that this one does not know: those are left out, and
//!   named in the answer. Of the same version it is refused.
//!
//! [`Aggregator`]: crate::aggregate::Aggregator

mod body;
mod snapshot;
mod values;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::put;
use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::pod::WORKER_AGENT;
use kafka_backup_shared::report::{Report, error_chain};
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use tracing::warn;

use self::body::{Form, read};
pub(crate) use self::snapshot::{Kept, NewSnapshot, SnapshotError};
use self::values::{check_grouping, check_labels, read_progress, take_unknown};
use crate::aggregate::{ObjectName, Owner, Replace, Source, StoreError, Taken};
use crate::exporter::{Exporter, PushResult};
use crate::exposition::Family;
use crate::gate::Gate;
use crate::grouping::{self, Grouping};
use crate::health::Health;
use crate::identity::{Identities, IdentityError, Pusher, Worker};
use crate::kind::{Kind, ObjectKind};
use crate::leadership::NotLeading;
use crate::objects::{Objects, Progress, Recorded, Writer};
use crate::reconcile::queue::Key;

/// The largest body that is read.
pub(crate) const BODY_MAX: usize = 1 << 20;
/// The content type of a snapshot.
const OCTETS: &str = "application/octet-stream";
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

/// Where accepted pushes of workers go.
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

    /// Keeps the snapshot that the worker's run has taken.
    fn keep_snapshot(
        &self,
        worker: &Worker,
        snapshot: NewSnapshot,
    ) -> impl Future<Output = Result<Kept, SnapshotError>> + Send;

    /// Deletes the snapshot that the worker's run is to delete.
    fn delete_snapshot(
        &self,
        worker: &Worker,
    ) -> impl Future<Output = Result<(), SnapshotError>> + Send;
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
        let objects = &*self.objects;
        match ObjectKind::parse(&worker.run.kind) {
            Some(ObjectKind::Backup) => standing_in::<KafkaBackup>(objects, worker),
            Some(ObjectKind::Restore) => standing_in::<KafkaRestore>(objects, worker),
            Some(ObjectKind::OffsetReset) => standing_in::<KafkaOffsetReset>(objects, worker),
            Some(ObjectKind::OffsetRollback) => standing_in::<KafkaOffsetRollback>(objects, worker),
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

    async fn keep_snapshot(
        &self,
        worker: &Worker,
        snapshot: NewSnapshot,
    ) -> Result<Kept, SnapshotError> {
        let place = snapshot::place_to_keep(&self.objects, worker)?;
        snapshot::keep(&self.client, &self.gate, &place, &worker.run, snapshot).await
    }

    async fn delete_snapshot(&self, worker: &Worker) -> Result<(), SnapshotError> {
        let place = snapshot::place_to_delete(&self.objects, worker)?;
        snapshot::delete(&self.client, &self.gate, &place).await
    }
}

fn standing_in<K: Kind>(objects: &Objects, worker: &Worker) -> Standing {
    let object = object_of::<K>(objects, worker);
    object.map_or(Standing::NotActive, |object| standing(&*object, worker))
}

/// The object of that name; its UID may be another one.
fn object_of<K: Kind>(objects: &Objects, worker: &Worker) -> Option<Arc<K>> {
    let RunRef {
        namespace, name, ..
    } = &worker.run;
    K::store(objects).get(&ObjectRef::new(name).within(namespace))
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
    /// How long a body may take to arrive.
    pub(crate) body_time: Duration,
}

/// The endpoints: of metrics, of reports, of snapshots.
const PATHS: [&str; 3] = [
    "/metrics/{*grouping}",
    "/runs/{job_uid}/report",
    "/runs/{job_uid}/snapshot",
];

/// The endpoints.
pub(crate) fn router<R: Runs>(push: Arc<Push<R>>) -> Router {
    let [of_metrics, of_reports, of_snapshots] = PATHS;
    Router::new()
        .route(
            of_metrics,
            put(metrics::<R>).post(metrics::<R>).delete(end::<R>),
        )
        .route(of_reports, put(report::<R>))
        .route(
            of_snapshots,
            put(keep_snapshot::<R>).delete(delete_snapshot::<R>),
        )
        .with_state(push)
}

/// The same paths where nothing is taken: whoever pushes there is told that it is taken at `url`.
pub(crate) fn misdirected_router(exporter: Arc<Exporter>, url: String) -> Router {
    let reason = format!("pushes are taken at {url} only");
    let refuse = async move || {
        let own = exporter.own();
        own.observe_push(PushResult::Misdirected);
        Refusal::new(StatusCode::MISDIRECTED_REQUEST, reason.clone())
    };
    let refuse = put(refuse.clone()).post(refuse.clone()).delete(refuse);
    let routes = PATHS.into_iter();
    routes.fold(Router::new(), |router, path| {
        router.route(path, refuse.clone())
    })
}

async fn metrics<R: Runs>(State(push): State<Arc<Push<R>>>, request: Request) -> Response {
    let result = push.take_metrics(request).await;
    push.answer(result)
}

async fn end<R: Runs>(State(push): State<Arc<Push<R>>>, request: Request) -> Response {
    let result = push.end_source(request).await;
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

async fn keep_snapshot<R: Runs>(
    State(push): State<Arc<Push<R>>>,
    Path(job_uid): Path<String>,
    request: Request,
) -> Response {
    let result = push.keep_snapshot(&job_uid, request).await;
    push.answer(result)
}

async fn delete_snapshot<R: Runs>(
    State(push): State<Arc<Push<R>>>,
    Path(job_uid): Path<String>,
    request: Request,
) -> Response {
    let result = push.delete_snapshot(&job_uid, request).await;
    push.answer(result)
}

impl<R: Runs> Push<R> {
    async fn take_metrics(&self, request: Request) -> Result<Answer, Refusal> {
        let pusher = self.recognise(request.headers()).await?;
        let replace = match *request.method() {
            Method::POST => Replace::Named,
            _ => Replace::All, // PUT: the router lets no other one through
        };
        let grouping = grouping::parse(request.uri().path()).map_err(Refusal::invalid)?;
        let source = source(&pusher, grouping)?;
        let form = Form::of(request.headers())?;
        let is_own_version = is_own_version(request.headers());
        let body = form.unzip(self.read(request).await?)?;
        let mut families = form.parse(&body)?;
        let Pusher::Worker(worker) = pusher else {
            check_names(&families)?;
            return self.aggregate(&source, replace, &families, Answer::OK);
        };
        let kind = kind(&worker.run)?;
        let unknown = take_unknown(&mut families, kind, is_own_version)?;
        let progress = read_progress(&mut families, kind, &worker.run)?;
        check_labels(&families)?;
        self.check_standing(&worker)?;
        let status = match self.runs.progress(&worker, progress).await {
            Ok(Recorded::Yes) => StatusCode::OK,
            Ok(Recorded::TooEarly) => StatusCode::ACCEPTED,
            Ok(Recorded::NotActive) => return Err(Refusal::not_active(&worker)),
            Err(error) => {
                let error = error_chain(&error);
                warn!(run = worker.run.run, error, "progress not recorded");
                return Err(Refusal::unavailable("the status could not be written"));
            }
        };
        let answer = Answer::Taken {
            status,
            note: unknown,
        };
        match self.aggregate(&source, replace, &families, answer) {
            // What is worth most has been taken, and a run must not wait for what it measured of itself.
            Err(refusal) if refusal.status == StatusCode::TOO_MANY_REQUESTS => Ok(Answer::Taken {
                status,
                note: Some(refusal.reason),
            }),
            answered => answered,
        }
    }

    fn aggregate(
        &self,
        source: &Source,
        replace: Replace,
        families: &[Family<'_>],
        answer: Answer,
    ) -> Result<Answer, Refusal> {
        let pushed = self.exporter.pushed();
        match pushed.push(source, replace, families, Instant::now()) {
            Ok(Taken::Yes) => Ok(answer),
            Ok(Taken::Late(reason)) => Ok(Answer::Late(reason)),
            Err(StoreError::Invalid(reason)) => Err(Refusal::invalid(reason)),
            Err(error @ StoreError::Full { .. }) => {
                let reason = error.to_string();
                Err(Refusal::new(StatusCode::TOO_MANY_REQUESTS, reason))
            }
        }
    }

    async fn end_source(&self, request: Request) -> Result<Answer, Refusal> {
        let pusher = self.recognise(request.headers()).await?;
        let grouping = grouping::parse(request.uri().path()).map_err(Refusal::invalid)?;
        let source = source(&pusher, grouping)?;
        self.exporter.pushed().end(&source, Instant::now());
        Ok(Answer::Ended)
    }

    async fn take_report(&self, job_uid: &str, request: Request) -> Result<Answer, Refusal> {
        let worker = self.worker_of(job_uid, request.headers()).await?;
        let body = self.read(request).await?;
        let report: Report = serde_json::from_slice(&body)
            .map_err(|error| Refusal::invalid(format!("the body is not a report: {error}")))?;
        if report.run != worker.run {
            return Err(Refusal::other_run());
        }
        self.check_standing(&worker)?;
        if !self.runs.report(&worker, report) {
            return Err(Refusal::not_active(&worker));
        }
        Ok(Answer::OK)
    }

    async fn keep_snapshot(&self, job_uid: &str, request: Request) -> Result<Answer, Refusal> {
        let worker = self.worker_of(job_uid, request.headers()).await?;
        let content_type = request.headers().get(CONTENT_TYPE);
        if content_type.is_none_or(|found| found != OCTETS) {
            let reason = format!("a snapshot is {OCTETS}");
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        self.check_standing(&worker)?;
        let body = self.read(request).await?;
        let (bytes, header) = snapshot::header("the body".into(), body).await;
        let header = header.map_err(|error| Refusal::invalid(error_chain(&error)))?;
        if header.run != worker.run {
            return Err(Refusal::other_run());
        }
        // It may have arrived slowly.
        self.check_standing(&worker)?;
        let snapshot = NewSnapshot { header, bytes };
        match self.runs.keep_snapshot(&worker, snapshot).await {
            Ok(Kept::New) => Ok(Answer::Taken {
                status: StatusCode::CREATED,
                note: None,
            }),
            Ok(Kept::Before(bytes)) => Ok(Answer::Before(bytes)),
            Err(error) => Err(error.refusal(&worker)),
        }
    }

    async fn delete_snapshot(&self, job_uid: &str, request: Request) -> Result<Answer, Refusal> {
        let worker = self.worker_of(job_uid, request.headers()).await?;
        self.check_standing(&worker)?;
        let deleted = self.runs.delete_snapshot(&worker).await;
        deleted
            .map(|()| Answer::OK)
            .map_err(|error| error.refusal(&worker))
    }

    /// The worker that asks, which must be one of the Job in the path.
    async fn worker_of(&self, job_uid: &str, headers: &HeaderMap) -> Result<Arc<Worker>, Refusal> {
        match self.recognise(headers).await? {
            Pusher::Worker(worker) if worker.job_uid == job_uid => Ok(worker),
            Pusher::Worker(_) | Pusher::Holder => Err(Refusal::other_run()),
        }
    }

    fn check_standing(&self, worker: &Worker) -> Result<(), Refusal> {
        match self.runs.standing(worker) {
            Standing::Active => Ok(()),
            Standing::NotYet => Err(Refusal::unavailable("the status does not name the Job yet")),
            Standing::NotActive => Err(Refusal::not_active(worker)),
        }
    }

    async fn read(&self, request: Request) -> Result<Vec<u8>, Refusal> {
        read(request.into_body(), self.body_time).await
    }

    async fn recognise(&self, headers: &HeaderMap) -> Result<Pusher, Refusal> {
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

    fn answer(&self, result: Result<Answer, Refusal>) -> Response {
        self.exporter.own().observe_push(match &result {
            Ok(Answer::Taken { .. } | Answer::Before(_) | Answer::Ended) => PushResult::Accepted,
            Ok(Answer::Late(_)) => PushResult::Late,
            Err(refusal) => match refusal.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => PushResult::Denied,
                StatusCode::CONFLICT => PushResult::Late,
                StatusCode::SERVICE_UNAVAILABLE => PushResult::Unavailable,
                _ => PushResult::Invalid, // the remaining refusals are all about the content
            },
        });
        match result {
            Ok(answer) => answer.into_response(),
            Err(refusal) => refusal.into_response(),
        }
    }
}

/// What became of a push that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    Taken {
        status: StatusCode,
        /// What was left out.
        note: Option<String>,
    },
    /// A snapshot that was kept before.
    Before(Vec<u8>),
    /// It is older than what is known.
    Late(String),
    /// Its source has ended.
    Ended,
}

impl Answer {
    const OK: Self = Self::Taken {
        status: StatusCode::OK,
        note: None,
    };
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let line = |text: String| text.replace('\n', " ") + "\n";
        match self {
            Self::Taken { status, note: None } => status.into_response(),
            Self::Taken {
                status,
                note: Some(note),
            } => (status, line(note)).into_response(),
            Self::Before(bytes) => ([(CONTENT_TYPE, OCTETS)], bytes).into_response(),
            Self::Late(reason) => line(reason).into_response(),
            Self::Ended => StatusCode::ACCEPTED.into_response(),
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
        if self.status == StatusCode::UNAUTHORIZED {
            let schemes = HeaderValue::from_static("Bearer, Basic realm=\"push\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, schemes);
        }
        response
    }
}

/// What of a grouping key tells sources of the same series apart.
const OF_SOURCE: [&str; 3] = ["run", "instance", "pod"];
/// Labels that Prometheus gives, or that are ours.
const RESERVED: [&str; 3] = ["instance", "namespace", "pod"];

fn source(pusher: &Pusher, grouping: Grouping) -> Result<Source, Refusal> {
    let Pusher::Worker(worker) = pusher else {
        if grouping.contains_key("namespace") {
            return Err(Refusal::invalid("the label namespace is not one to push"));
        }
        let id = format!("{grouping:?}");
        let mut labels = grouping;
        labels.retain(|name, _| !OF_SOURCE.contains(&name.as_str()));
        return Ok(Source {
            id,
            labels,
            owner: Owner::Holder,
        });
    };
    let run = &worker.run;
    check_grouping(&grouping, run)?;
    let object = ObjectName {
        kind: kind(run)?.as_str(),
        namespace: run.namespace.clone(),
        name: run.name.clone(),
    };
    Ok(Source {
        id: format!("{}/{}", worker.job_uid, worker.pod),
        labels: [
            ("kind", &run.kind),
            ("namespace", &run.namespace),
            ("name", &run.name),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into(),
        owner: Owner::Job {
            object,
            uid: worker.job_uid.clone(),
        },
    })
}

fn kind(run: &RunRef) -> Result<ObjectKind, Refusal> {
    let unknown = || Refusal::invalid(format!("{} has no metrics to push", run.kind));
    ObjectKind::parse(&run.kind).ok_or_else(unknown)
}

/// What people push has neither our names nor those that Prometheus gives itself, and no label of theirs.
fn check_names(families: &[Family<'_>]) -> Result<(), Refusal> {
    for family in families {
        let name = family.name.as_ref();
        let is_reserved = name == "up"
            || ["kafka_backup_", "scrape_"]
                .iter()
                .any(|of| name.starts_with(of));
        if is_reserved {
            return Err(Refusal::invalid(format!(
                "family {name} is not one to push: kafka_backup_* are the operator's, up and scrape_* are Prometheus'"
            )));
        }
        let labels = family.points.iter().flat_map(|point| &point.labels);
        let reserved = labels
            .map(|(name, _)| name.as_ref())
            .find(|name| RESERVED.contains(name));
        if let Some(label) = reserved {
            return Err(Refusal::invalid(format!(
                "{name} has the label {label}, which is not one to push"
            )));
        }
    }
    Ok(())
}

/// False for a worker that says that it is of another version.
fn is_own_version(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT);
    let agent = agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default();
    !agent.starts_with(WORKER_AGENT)
        || agent == format!("{WORKER_AGENT}{}", env!("CARGO_PKG_VERSION"))
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
