//! Who pushes: from a projected ServiceAccount token to the run that its pod belongs to, or somebody with the static token.
//!
//! # Guarantees
//! - A [`Worker`] is what the API server says, nothing that the request says: the token is checked by a TokenReview for
//!   [`PUSH_AUDIENCE`] (asked for and required in the answer), the pod in it must still exist with that uid, its owner must
//!   be a Job, and the Job's owner one of our objects. The run is the one of the plan that is frozen in the Job.
//! - Tokens are neither logged nor told in an answer, and are compared by their digests.
//!
//! # Assumptions
//! - Whoever takes a push compares [`Worker::job_uid`] with the object's active run: a Job that somebody else made with an
//!   owner reference to our object has an identity, but no run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kafka_backup_shared::crd::GROUP;
use kafka_backup_shared::plan::{Plan, RunRef};
use kafka_backup_shared::pod::{PLAN_ANNOTATION, PUSH_AUDIENCE};
use kafka_backup_shared::report::error_chain;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::digest::sha256;
use crate::grouping::base64;

/// How long an identity is believed without asking again; a pod pushes every 10 s.
const BELIEVED: Duration = Duration::from_secs(60);
/// Identities that are kept: more than the runs that go on at a time.
const KEPT: usize = 4096;
/// Tokens longer than this are refused unseen; those of Kubernetes have about 1 KiB.
const TOKEN_MAX: usize = 16 * 1024;
/// The shortest static token: 16 random bytes as base64 have 22.
const TOKEN_MIN: usize = 16;
/// How long a static token is believed before its file is read again.
const TOKEN_AGE: Duration = Duration::from_secs(10);
/// Requests to the API server that unknown tokens can cause at a time.
const REVIEWS: usize = 8;

/// The run that a pod belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Object and run.
    pub(crate) run: RunRef,
    /// UID of the Job.
    pub(crate) job_uid: String,
    /// Name of the pod.
    pub(crate) pod: String,
}

/// Who pushes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pusher {
    /// A worker's pod.
    Worker(Arc<Worker>),
    /// Somebody with the static token.
    Holder,
}

/// Why nobody was recognised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// 401.
    #[error(
        "a push needs the header `Authorization: Bearer <token>`: a worker that of its pod's ServiceAccount, others the static token if there is one"
    )]
    NoToken,
    /// 401.
    #[error("the token is not valid for the audience {PUSH_AUDIENCE}")]
    BadToken,
    /// 403.
    #[error("the token's bearer is not a worker of a run: {0}")]
    NotWorker(String),
    /// 503.
    #[error("failed to {step}")]
    Api {
        step: &'static str,
        source: kube::Error,
    },
}

/// Recognises those who push.
pub(crate) struct Identities {
    workers: Workers,
    holder: Option<StaticToken>,
}

/// Recognises workers.
enum Workers {
    /// By asking the API server.
    Kubernetes(KubernetesIdentities),
    /// By a list, where a test has no API server.
    #[cfg(test)]
    Listed(HashMap<&'static str, Worker>),
}

/// Asks the API server, and remembers for a minute.
struct KubernetesIdentities {
    client: Client,
    known: Mutex<HashMap<String, (Instant, Arc<Worker>)>>,
    reviews: Semaphore,
}

impl Identities {
    /// Recognises workers by TokenReview, and others by the static token.
    pub(crate) fn kubernetes(client: Client, holder: Option<StaticToken>) -> Self {
        let workers = Workers::Kubernetes(KubernetesIdentities {
            client,
            known: Mutex::default(),
            reviews: Semaphore::new(REVIEWS),
        });
        Self { workers, holder }
    }

    /// Recognises these workers, and others by the static token.
    #[cfg(test)]
    pub(crate) fn listed(
        workers: HashMap<&'static str, Worker>,
        holder: Option<StaticToken>,
    ) -> Self {
        Self {
            workers: Workers::Listed(workers),
            holder,
        }
    }

    /// Who the value of an Authorization header belongs to.
    pub(crate) async fn recognise(
        &self,
        authorization: Option<&str>,
    ) -> Result<Pusher, IdentityError> {
        let token = token(authorization)?;
        if self.holder.as_ref().is_some_and(|holder| holder.is(&token)) {
            return Ok(Pusher::Holder);
        }
        match &self.workers {
            Workers::Kubernetes(identities) => {
                identities.recognise(&token).await.map(Pusher::Worker)
            }
            #[cfg(test)]
            Workers::Listed(workers) => match workers.get(token.as_str()) {
                Some(worker) => Ok(Pusher::Worker(Arc::new(worker.clone()))),
                None if token == "stranger" => Err(IdentityError::NotWorker("a stranger".into())),
                None => Err(IdentityError::BadToken),
            },
        }
    }
}

/// A token in a file, which may change.
pub(crate) struct StaticToken {
    path: PathBuf,
    read: Mutex<(Instant, [u8; 32])>,
}

/// Why there is no static token.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error("failed to read the token in {}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the token in {} has {found} characters; it needs at least {TOKEN_MIN}", path.display())]
    Short { path: PathBuf, found: usize },
}

impl StaticToken {
    /// The token in the file, without white space around it.
    pub(crate) fn open(path: PathBuf) -> Result<Self, TokenError> {
        let digest = digest_in(&path)?;
        Ok(Self {
            path,
            read: Mutex::new((Instant::now(), digest)),
        })
    }

    fn is(&self, token: &str) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0.elapsed() > TOKEN_AGE {
            // Without a readable file the token before stays, as it does where a Secret is gone and its pods run on.
            match digest_in(&self.path) {
                Ok(digest) => read.1 = digest,
                Err(error) => warn!(error = error_chain(&error), "static token not read again"),
            }
            read.0 = Instant::now();
        }
        sha256(token.as_bytes()) == read.1
    }
}

fn digest_in(path: &Path) -> Result<[u8; 32], TokenError> {
    let token = std::fs::read_to_string(path).map_err(|source| TokenError::Read {
        path: path.to_owned(),
        source,
    })?;
    let token = token.trim();
    if token.len() < TOKEN_MIN {
        return Err(TokenError::Short {
            path: path.to_owned(),
            found: token.len(),
        });
    }
    Ok(sha256(token.as_bytes()))
}

impl KubernetesIdentities {
    async fn recognise(&self, token: &str) -> Result<Arc<Worker>, IdentityError> {
        if let Some(worker) = self.remembered(token) {
            return Ok(worker);
        }
        let _permit = self
            .reviews
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let worker = Arc::new(self.ask(token).await?);
        self.remember(token, worker.clone());
        Ok(worker)
    }

    async fn ask(&self, token: &str) -> Result<Worker, IdentityError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![PUSH_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = reviews
            .create(&PostParams::default(), &review)
            .await
            .map_err(|source| IdentityError::Api {
                step: "create a TokenReview",
                source,
            })?;
        let bearer = bearer(&review.status.unwrap_or_default())?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &bearer.namespace);
        let pod = pods
            .get_opt(&bearer.pod)
            .await
            .map_err(|source| IdentityError::Api {
                step: "get the pod of a push",
                source,
            })?
            .ok_or_else(|| not_worker(format!("pod {} is gone", bearer.pod)))?;
        let owner = job_of(&bearer, &pod)?;
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &bearer.namespace);
        let job = jobs
            .get_opt(&owner.name)
            .await
            .map_err(|source| IdentityError::Api {
                step: "get the Job of a push",
                source,
            })?
            .ok_or_else(|| not_worker(format!("Job {} is gone", owner.name)))?;
        worker(&bearer, &owner, &job)
    }

    fn remembered(&self, token: &str) -> Option<Arc<Worker>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, worker) = known.get(token)?;
        (since.elapsed() < BELIEVED).then(|| worker.clone())
    }

    fn remember(&self, token: &str, worker: Arc<Worker>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (since, _)| since.elapsed() < BELIEVED);
        if known.len() < KEPT {
            known.insert(token.to_owned(), (Instant::now(), worker));
        }
    }
}

/// The token in a bearer's header, or the password in a basic one: some client libraries know no other way.
fn token(authorization: Option<&str>) -> Result<String, IdentityError> {
    let (scheme, rest) = authorization
        .and_then(|value| value.split_once(' '))
        .ok_or(IdentityError::NoToken)?;
    let rest = rest.trim();
    if rest.len() > TOKEN_MAX {
        return Err(IdentityError::BadToken);
    }
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        rest.to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = base64(rest).ok_or(IdentityError::BadToken)?;
        let (_, password) = pair.split_once(':').ok_or(IdentityError::BadToken)?;
        password.to_owned()
    } else {
        return Err(IdentityError::NoToken);
    };
    if token.is_empty() {
        return Err(IdentityError::NoToken);
    }
    Ok(token)
}

fn not_worker(reason: impl Into<String>) -> IdentityError {
    IdentityError::NotWorker(reason.into())
}

/// The pod that a valid token was made for.
#[derive(Debug, PartialEq, Eq)]
struct Bearer {
    namespace: String,
    pod: String,
    pod_uid: String,
}

fn bearer(review: &TokenReviewStatus) -> Result<Bearer, IdentityError> {
    let audiences = review.audiences.as_deref().unwrap_or_default();
    let is_for_us = audiences.iter().any(|audience| audience == PUSH_AUDIENCE);
    if review.authenticated != Some(true) || !is_for_us {
        return Err(IdentityError::BadToken);
    }
    let user = review.user.as_ref().ok_or(IdentityError::BadToken)?;
    let username = user.username.as_deref().unwrap_or_default();
    let namespace = username
        .strip_prefix("system:serviceaccount:")
        .and_then(|rest| rest.split_once(':'))
        .map(|(namespace, _)| namespace)
        .ok_or_else(|| not_worker("the token is not one of a ServiceAccount"))?;
    let extra = |key: &str| {
        let values = user.extra.as_ref()?.get(key)?;
        values.first().cloned()
    };
    let pod = extra("authentication.kubernetes.io/pod-name");
    let pod_uid = extra("authentication.kubernetes.io/pod-uid");
    let (Some(pod), Some(pod_uid)) = (pod, pod_uid) else {
        return Err(not_worker("the token is not bound to a pod"));
    };
    Ok(Bearer {
        namespace: namespace.to_owned(),
        pod,
        pod_uid,
    })
}

fn controller_of(
    owners: &[OwnerReference],
    is_meant: impl Fn(&OwnerReference) -> bool,
) -> Option<&OwnerReference> {
    let mut controllers = owners.iter().filter(|owner| owner.controller == Some(true));
    controllers.find(|owner| is_meant(owner))
}

fn job_of(bearer: &Bearer, pod: &Pod) -> Result<OwnerReference, IdentityError> {
    let name = &bearer.pod;
    if pod.uid().as_ref() != Some(&bearer.pod_uid) {
        return Err(not_worker(format!("pod {name} is another one by now")));
    }
    let is_job =
        |owner: &OwnerReference| owner.kind == "Job" && owner.api_version.starts_with("batch/");
    let job = controller_of(pod.owner_references(), is_job)
        .ok_or_else(|| not_worker(format!("pod {name} is not one of a Job")))?;
    let label = pod.labels().get("batch.kubernetes.io/controller-uid");
    if label != Some(&job.uid) {
        return Err(not_worker(format!(
            "pod {name} does not carry its Job's label"
        )));
    }
    Ok(job.clone())
}

fn worker(bearer: &Bearer, owner: &OwnerReference, job: &Job) -> Result<Worker, IdentityError> {
    let name = &owner.name;
    if job.uid().as_ref() != Some(&owner.uid) {
        return Err(not_worker(format!("Job {name} is another one by now")));
    }
    let is_ours = |owner: &OwnerReference| {
        let group = owner.api_version.split_once('/').map(|(group, _)| group);
        group == Some(GROUP)
    };
    let object = controller_of(job.owner_references(), is_ours)
        .ok_or_else(|| not_worker(format!("Job {name} is not one of a {GROUP} object")))?;
    let plan = job
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref()?.annotations.as_ref())
        .and_then(|annotations| annotations.get(PLAN_ANNOTATION))
        .and_then(|plan| serde_json::from_str::<Plan>(plan).ok())
        .ok_or_else(|| not_worker(format!("Job {name} has no readable plan")))?;
    let run = plan.run();
    let is_same = run.kind == object.kind
        && run.namespace == bearer.namespace
        && run.name == object.name
        && run.uid == object.uid;
    if !is_same {
        return Err(not_worker(format!(
            "the plan of Job {name} is not its owner's"
        )));
    }
    Ok(Worker {
        run: run.clone(),
        job_uid: owner.uid.clone(),
        pod: bearer.pod.clone(),
    })
}

#[cfg(test)]
mod tests;
