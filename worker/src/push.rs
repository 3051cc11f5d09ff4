//! Tells the controller how far a run is and how it ended.
//!
//! # Guarantees
//! - What is pushed is the cumulative value of the run: a push that is lost or repeated changes nothing.
//! - A push never fails a run, and delays its end by [`Limits::at_end`] at most. Failures are told once, not each time.
//! - The token is read anew for each push, since the kubelet renews it.
//! - With a [`PushCa`] nobody is told anything, nor gets the token, whose certificate is not one of that CA's.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kafka_backup_shared::metrics::{
    BACKUP_RECORDS, Family, RESTORE_RECORDS, RUN_BYTES, RUN_CHECKED, RUN_LEFT, RUN_PROGRESS,
    RUN_RATE,
};
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::pod;
use kafka_backup_shared::report::{Fault, Report, error_chain};
use reqwest::{Certificate, Client, RequestBuilder, Response, StatusCode, header};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::context::Progress;
use crate::measure;
use crate::progress::{Meter, Reading};

/// The controller takes no larger report.
const REPORT_MAX: usize = 1 << 20;
const TEXT_FORMAT: &str = "text/plain; version=0.0.4";
/// Between two attempts, doubled up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(4);

/// How often and how long is pushed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time between pushes while a run goes on.
    pub period: Duration,
    /// Time for one attempt.
    pub attempt: Duration,
    /// Time for all attempts at the end of a run.
    pub at_end: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(10),
            attempt: Duration::from_secs(5),
            at_end: Duration::from_secs(20),
        }
    }
}

/// The certificates, as PEM, by which the controller at an `https` URL is known.
#[derive(Clone, Debug)]
pub enum PushCa {
    /// As they are.
    Pem(String),
    /// In a file.
    File(PathBuf),
}

/// Why nothing can be pushed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The file is not there, or not ours to read.
    #[error("failed to read the CA of the push in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// It is not PEM, or no certificates are in it.
    #[error("failed to use the CA of the push")]
    Ca(#[source] reqwest::Error),
    /// The same, where the reader says nothing.
    #[error("the CA of the push holds no certificate in PEM")]
    NoCertificate,
    /// Nobody shows a certificate there.
    #[error("the push has a CA, and {0} does not begin with https://")]
    Plain(String),
    /// The machine has no roots of trust, as a rule.
    #[error("failed to make a client for the push")]
    Client(#[source] reqwest::Error),
}

impl PushCa {
    fn certificates(&self) -> Result<Vec<Certificate>, SetupError> {
        let pem = match self {
            Self::Pem(pem) => pem.clone().into_bytes(),
            Self::File(path) => std::fs::read(path).map_err(|source| SetupError::Read {
                path: path.clone(),
                source,
            })?,
        };
        let certificates = Certificate::from_pem_bundle(&pem).map_err(SetupError::Ca)?;
        if certificates.is_empty() {
            return Err(SetupError::NoCertificate);
        }
        Ok(certificates)
    }
}

/// The controller, as a worker reaches it.
#[derive(Clone, Debug)]
struct Line {
    client: Client,
    url: String,
    token_file: Option<PathBuf>,
}

/// Pushes of one run.
#[derive(Debug)]
pub struct Push {
    line: Line,
    /// The pod's Job; without one there is nobody to report to.
    job_uid: Option<String>,
    run: RunRef,
    limits: Limits,
    failing: bool,
}

/// Has snapshots of committed offsets kept in ConfigMaps.
#[derive(Clone, Debug)]
pub struct SnapshotPush {
    line: Line,
    path: String,
}

/// How long the controller is waited for that is to keep a snapshot: another one may have to take over.
const KEEPING: Duration = Duration::from_secs(90);

/// Why a push did not arrive.
#[derive(Debug, thiserror::Error)]
enum PushError {
    #[error("failed to read the token {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to send to {url}")]
    Send {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}: {text}")]
    Refused {
        url: String,
        status: StatusCode,
        text: String,
    },
}

/// The controller has not done what it was asked with a snapshot.
#[derive(Debug, thiserror::Error)]
#[error("failed to have the snapshot {step} by the controller: {reason}")]
pub struct NotKept {
    /// What was asked.
    pub step: &'static str,
    /// What came.
    pub reason: String,
    /// What it means.
    pub fault: Fault,
}

impl PushError {
    /// What it means for a run that cannot do without.
    fn fault(&self) -> Fault {
        match self {
            Self::Token { .. } | Self::Send { .. } => Fault::Unavailable,
            Self::Refused { status, .. } => match *status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Denied,
                status if status.is_server_error() => Fault::Unavailable,
                _ => Fault::Spec, // there is something else in the place of the snapshot, or it is too large for it
            },
        }
    }

    /// Whether the same push may be taken later: a token propagates, a server comes back; a wrong address stays wrong.
    fn may_pass(&self) -> bool {
        match self {
            Self::Token { .. } | Self::Send { .. } => true,
            Self::Refused { status, .. } => {
                let passing = [
                    StatusCode::UNAUTHORIZED,
                    StatusCode::FORBIDDEN,
                    StatusCode::REQUEST_TIMEOUT,
                    StatusCode::TOO_MANY_REQUESTS,
                ];
                status.is_server_error() || passing.contains(status)
            }
        }
    }
}

impl Push {
    /// Pushes of `run` to the controller at `url`.
    ///
    /// # Errors
    /// The CA cannot be used; or there is none, an `https` URL needs the machine's roots of trust, and it has none.
    pub fn new(
        url: String,
        token_file: Option<PathBuf>,
        ca: Option<&PushCa>,
        job_uid: Option<String>,
        run: RunRef,
        limits: Limits,
    ) -> Result<Self, SetupError> {
        Ok(Self {
            line: Line::new(url, token_file, ca, limits.attempt)?,
            job_uid,
            run,
            limits,
            failing: false,
        })
    }

    /// For snapshots of the same run; `None` outside of a Job.
    pub fn snapshots(&self) -> Option<SnapshotPush> {
        Some(SnapshotPush {
            line: self.line.clone(),
            path: pod::snapshot_path(self.job_uid.as_deref()?),
        })
    }

    /// Pushes metrics while the run goes on, until `stop`.
    pub async fn while_running(&mut self, progress: &Progress, stop: &CancellationToken) {
        let mut ticks = interval_at(Instant::now() + self.limits.period, self.limits.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut meter = Meter::default();
        meter.read(progress, Instant::now());
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let values = Values::of(&meter.read(progress, Instant::now()));
            // Stopping in the middle of a push is harmless: the last one has all of it.
            let Some(result) = stop.run_until_cancelled(self.metrics(values)).await else {
                return;
            };
            self.note(result);
        }
    }

    /// Pushes the last metrics and the report, trying again for a bounded time.
    pub async fn at_end(&mut self, report: &Report, progress: &Progress) {
        let values = Values::at_end(report, progress);
        let body = report_body(report, REPORT_MAX);
        let limit = self.limits.at_end;
        let trouble = Mutex::new(None);
        // Side by side: what ails the one push must not use up the time of the other.
        let pushes = async {
            tokio::join!(
                self.repeated(&trouble, || self.metrics(values)),
                self.repeated(&trouble, || self.report(body.clone()))
            )
        };
        let results = match timeout(limit, pushes).await {
            Ok((metrics, report)) => metrics.and(report),
            Err(_) => {
                let trouble = trouble.into_inner().unwrap_or_else(PoisonError::into_inner);
                warn!(
                    url = self.line.url,
                    seconds = limit.as_secs(),
                    error = trouble.unwrap_or_else(|| "no answer".to_owned()),
                    "the last push did not arrive in time; the report is in the termination log"
                );
                return;
            }
        };
        if let Err(error) = results {
            warn!(
                error = error_chain(&error),
                "the last push failed; the report is in the termination log"
            );
        }
    }

    /// Tells that pushes fail, and that they work again, once each.
    fn note(&mut self, result: Result<(), PushError>) {
        match result {
            Ok(()) if self.failing => {
                self.failing = false;
                info!("pushes arrive again");
            }
            Ok(()) => {}
            Err(_) if self.failing => {}
            Err(error) => {
                self.failing = true;
                warn!(
                    error = error_chain(&error),
                    "a push of metrics failed; the run goes on, later ones make up for it"
                );
            }
        }
    }

    /// Pushes until it is taken, or never will be; `trouble` is why it was not taken last.
    async fn repeated<F: Future<Output = Result<(), PushError>>>(
        &self,
        trouble: &Mutex<Option<String>>,
        push: impl Fn() -> F,
    ) -> Result<(), PushError> {
        let mut pause = FIRST_PAUSE;
        loop {
            match push().await {
                Ok(()) => return Ok(()),
                Err(error) if !error.may_pass() => return Err(error),
                Err(error) => {
                    *trouble.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(error_chain(&error));
                    sleep(pause).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    async fn metrics(&self, values: Values) -> Result<(), PushError> {
        let body = exposition(&self.run, values) + &measure::exposition();
        let path = pod::push_path(&self.run);
        self.line.put(&path, TEXT_FORMAT, body.into_bytes()).await
    }

    async fn report(&self, body: Vec<u8>) -> Result<(), PushError> {
        let Some(job_uid) = &self.job_uid else {
            return Ok(());
        };
        self.line
            .put(&pod::report_path(job_uid), "application/json", body)
            .await
    }
}

impl Line {
    fn new(
        url: String,
        token_file: Option<PathBuf>,
        ca: Option<&PushCa>,
        attempt: Duration,
    ) -> Result<Self, SetupError> {
        // The controller is in the cluster: a proxy is for what is outside.
        let agent = format!("{}{}", pod::WORKER_AGENT, env!("CARGO_PKG_VERSION"));
        let builder = Client::builder().no_proxy().user_agent(agent);
        let mut builder = builder.timeout(attempt);
        if url.starts_with("http://") {
            if ca.is_some() {
                return Err(SetupError::Plain(url));
            }
            // Without this the client wants the machine's roots of trust, which an image may not have.
            builder = builder.tls_certs_only([]);
        } else if let Some(ca) = ca {
            builder = builder.tls_certs_only(ca.certificates()?);
        }
        Ok(Self {
            client: builder.build().map_err(SetupError::Client)?,
            url,
            token_file,
        })
    }

    async fn put(&self, path: &str, content_type: &str, body: Vec<u8>) -> Result<(), PushError> {
        let url = format!("{}{path}", self.url);
        let request = self.client.put(&url);
        let request = request
            .header(header::CONTENT_TYPE, content_type)
            .body(body);
        self.send(&url, request).await.map(drop)
    }

    /// The answer to a request that was taken.
    async fn send(&self, url: &str, mut request: RequestBuilder) -> Result<Response, PushError> {
        if let Some(path) = &self.token_file {
            let token = tokio::fs::read_to_string(path).await;
            let token = token.map_err(|source| PushError::Token {
                path: path.clone(),
                source,
            })?;
            request = request.bearer_auth(token.trim());
        }
        let answer = request.send().await.map_err(|error| failed(url, error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.map_err(|error| failed(url, error))?;
        Err(PushError::Refused {
            url: url.to_owned(),
            status,
            text: text.trim().chars().take(300).collect(),
        })
    }
}

fn failed(url: &str, source: reqwest::Error) -> PushError {
    PushError::Send {
        url: url.to_owned(),
        source: source.without_url(),
    }
}

impl SnapshotPush {
    /// Has a snapshot kept; where the same run has had one kept before, that one.
    ///
    /// # Errors
    /// The controller has not said that it is durable.
    pub(crate) async fn keep(&self, snapshot: Vec<u8>) -> Result<Option<Bytes>, NotKept> {
        let snapshot = Bytes::from(snapshot);
        let answer = self.repeated("kept", || async {
            let url = self.url();
            let request = self.line.client.put(&url);
            let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
            let answer = self.line.send(&url, request.body(snapshot.clone())).await?;
            let status = answer.status();
            let body = answer.bytes().await.map_err(|error| failed(&url, error))?;
            Ok((status, body))
        });
        match answer.await? {
            (StatusCode::CREATED, _) => Ok(None),
            (_, earlier) => Ok(Some(earlier)),
        }
    }

    /// Has the snapshot deleted; false: there was none.
    ///
    /// # Errors
    /// The controller has not said that it is gone.
    pub(crate) async fn delete(&self) -> Result<bool, NotKept> {
        // An attempt whose answer was lost may have deleted it.
        let asked = AtomicBool::new(false);
        self.repeated("deleted", || async {
            let url = self.url();
            let before = asked.swap(true, Ordering::Relaxed);
            match self.line.send(&url, self.line.client.delete(&url)).await {
                Ok(_) => Ok(true),
                Err(PushError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => {
                    Ok(before)
                }
                Err(error) => Err(error),
            }
        })
        .await
    }

    fn url(&self) -> String {
        format!("{}{}", self.line.url, self.path)
    }

    /// Tries for [`KEEPING`]: what is asked may be asked twice.
    async fn repeated<T, F: Future<Output = Result<T, PushError>>>(
        &self,
        step: &'static str,
        ask: impl Fn() -> F,
    ) -> Result<T, NotKept> {
        let deadline = Instant::now() + KEEPING;
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.may_pass() || Instant::now() + pause > deadline {
                return Err(NotKept {
                    step,
                    fault: error.fault(),
                    reason: error_chain(&error),
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }
}

/// What is pushed of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Values {
    records: u64,
    bytes: u64,
    ratio: Option<f64>,
    checked: Option<f64>,
    bytes_per_second: Option<f64>,
    left: Option<Duration>,
}

impl Values {
    fn of(reading: &Reading) -> Self {
        Self {
            records: reading.records,
            bytes: reading.bytes,
            ratio: reading.ratio,
            checked: reading
                .checking
                .map(|(checked, planned)| checked as f64 / planned as f64),
            bytes_per_second: Some(reading.bytes_per_second),
            left: reading.left,
        }
    }

    /// The report's counts are those of the manifest, whichever attempt stored them.
    fn at_end(report: &Report, progress: &Progress) -> Self {
        let ratio = if report.fault().is_none() {
            Some(1.0)
        } else {
            progress.ratio()
        };
        Self {
            records: report.records,
            bytes: report.bytes,
            ratio,
            ..Self::default()
        }
    }
}

/// Prometheus' text format 0.0.4.
fn exposition(run: &RunRef, values: Values) -> String {
    let family = if run.kind == "KafkaRestore" {
        RESTORE_RECORDS
    } else {
        BACKUP_RECORDS
    };
    let mut text = sample(&family, &[&run.name, &run.namespace], values.records);
    text.push_str(&sample(&RUN_BYTES, &[&run.run], values.bytes));
    for (family, value) in [
        (&RUN_PROGRESS, values.ratio),
        (&RUN_CHECKED, values.checked),
        (&RUN_RATE, values.bytes_per_second),
        (&RUN_LEFT, values.left.map(|left| left.as_secs_f64())),
    ] {
        if let Some(value) = value {
            text.push_str(&sample(family, &[&run.run], value));
        }
    }
    text
}

fn sample(family: &Family, labels: &[&str], value: impl std::fmt::Display) -> String {
    let labels: Vec<String> = family
        .labels
        .iter()
        .zip(labels)
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    let Family { name, help, .. } = family;
    let kind = family.kind.as_str();
    format!(
        "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{}}} {value}\n",
        labels.join(",")
    )
}

/// The report in at most `max` bytes: topics are left out from the end, and it is told how many.
fn report_body(report: &Report, max: usize) -> Vec<u8> {
    let json = |report: &Report| serde_json::to_vec(report).expect("a report has only string keys");
    let whole = json(report);
    if whole.len() <= max {
        return whole;
    }
    let mut short = report.clone();
    let topics = std::mem::take(&mut short.topics);
    short.warnings.push(format!(
        "{} topics are left out of this report",
        topics.len()
    ));
    // The number in that text has at most as many digits as it has now.
    let mut left = max.saturating_sub(json(&short).len());
    let total = topics.len();
    for topic in topics {
        let size = serde_json::to_vec(&topic)
            .expect("a topic has only string keys")
            .len()
            + 1;
        // The list itself: `,"topics":[]`.
        let list = if short.topics.is_empty() { 12 } else { 0 };
        if size + list > left {
            break;
        }
        left -= size + list;
        short.topics.push(topic);
    }
    let omitted = total - short.topics.len();
    short.warnings.pop();
    short
        .warnings
        .push(format!("{omitted} topics are left out of this report"));
    let body = json(&short);
    if body.len() <= max {
        return body;
    }
    // Warnings or the message alone are too long: the form that always fits.
    report.to_termination_message().into_bytes()
}

#[cfg(test)]
#[path = "push_test.rs"]
mod tests;
