//! `run`: wires caches, loops and ports together, and takes them down in order.
//!
//! # Guarantees
//! - Nothing is detached: when [`run`] returns, every task has ended.
//! - No object is looked at before every cache is complete; a half-filled one would show Jobs as missing.
//! - Only the leader looks at objects. It begins when its pod is the only one behind the metrics Service, and the time for
//!   which counters have been exposed counts from then: to Prometheus a new leader's pod has new series.
//! - The lease is given back when everything that writes has ended.

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kafka_backup_shared::report::error_chain;
use kube::Client;
use kube::runtime::reflector::store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::NAME;
use crate::args::RunArguments;
use crate::exporter::{Exporter, Snapshot};
use crate::failpoint::Trial;
use crate::gate::Gate;
use crate::health::Health;
use crate::http::{self, Addresses, HttpError, Ports, Times};
use crate::identity::{Identities, StaticToken, TokenError};
use crate::job::WorkerSettings;
use crate::kind::{Kind, ObjectKind};
use crate::leadership::{self, Candidate, Labels, Leadership};
use crate::objects::{Caches, Objects};
use crate::push::{BODY_TIME, ClusterRuns, Push};
use crate::reconcile::line::Limits;
use crate::reconcile::tidy::LOST_AFTER;
use crate::reconcile::watch::{self, Watch};
use crate::reconcile::{self, Context, Patience, Workers};
use crate::tls::{PushCa, PushCertificate, TlsError};

/// Readiness waits for them.
const CACHES: &str = "the watch caches";
const LABEL: &str = "the leader's label to be off this pod";
/// How soon a label is tried again that could not be set.
const LABEL_RETRY: Duration = Duration::from_secs(2);
const CONNECT_TIME: Duration = Duration::from_secs(10);

/// Why the controller could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    /// Neither a kubeconfig nor a pod's ServiceAccount.
    #[error(
        "failed to find the Kubernetes API server (KUBECONFIG, ~/.kube/config or a pod's ServiceAccount)"
    )]
    Config(#[source] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("failed to make a client of the Kubernetes API server")]
    Client(#[source] kube::Error),
    /// No signal handlers.
    #[error("failed to handle signals")]
    Signals(#[source] std::io::Error),
    /// The file of the static token.
    #[error("failed to use --push-token-file")]
    Token(#[source] TokenError),
    /// The files of --push-tls-cert and --push-tls-key.
    #[error("failed to use --push-tls-cert and --push-tls-key")]
    PushCertificate(#[source] TlsError),
    /// The file of the CA.
    #[error("failed to use --push-ca-file")]
    PushCa(#[source] TlsError),
    /// Workers would speak TLS to a plain port, or the other way round.
    #[error("--push-url {url} does not begin with https://, which {flag} requires")]
    PlainUrl { url: String, flag: &'static str },
    /// The ports.
    #[error("failed to open the ports")]
    Http(#[source] HttpError),
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: RunArguments, trial: Trial) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let holder = arguments.push_token_file.map(StaticToken::open);
    let holder = holder.transpose().map_err(RunError::Token)?;
    let files = arguments.push_tls_cert.zip(arguments.push_tls_key);
    let certificate = files.map(|(certificate, key)| PushCertificate::open(certificate, key));
    let certificate = certificate
        .transpose()
        .map_err(RunError::PushCertificate)?
        .map(Arc::new);
    let push_ca = arguments.worker.push_ca_file.map(PushCa::open);
    let push_ca = push_ca.transpose().map_err(RunError::PushCa)?.map(Arc::new);
    let ports = Ports::bind(arguments.metrics_addr, arguments.health_addr);
    let mut ports = ports.await.map_err(RunError::Http)?;
    let client = client().await?;
    let namespace = arguments.watch_namespace;
    let own_namespace = client.default_namespace().to_owned();
    let default_url = match &certificate {
        Some(_) => format!("https://{NAME}.{own_namespace}.svc:8443"),
        None => format!("http://{NAME}.{own_namespace}.svc:8080"),
    };
    let push_url = arguments.worker.push_url.unwrap_or(default_url);
    check_url(&push_url, certificate.is_some(), push_ca.is_some())?;
    if let Some(certificate) = certificate.clone() {
        let address = arguments.push_addr;
        let with_push = ports.with_push(address, certificate, push_url.clone());
        ports = with_push.await.map_err(RunError::Http)?;
    }
    let Addresses {
        metrics: metrics_addr,
        health: health_addr,
        push: push_addr,
    } = ports.addresses().map_err(RunError::Http)?;
    let worker = WorkerSettings {
        image: arguments.worker.worker_image,
        push_url,
        push_ca: None, // read anew for each Job
    };
    let candidate = Candidate::new(&client, namespace.clone(), |name| std::env::var(name).ok());
    let leadership = Arc::new(Leadership::following());
    let gate = Arc::new(Gate::new(leadership.clone(), trial.dies));
    info!(
        image = worker.image,
        push_url = worker.push_url,
        namespace,
        identity = candidate.identity,
        %metrics_addr,
        %health_addr,
        push_addr = push_addr.map(tracing::field::display),
        "controller started"
    );

    let (backups, backup_writer) = store();
    let (restores, restore_writer) = store();
    let (offset_resets, offset_reset_writer) = store();
    let (offset_rollbacks, offset_rollback_writer) = store();
    let (jobs, job_writer) = store();
    let (pods, pod_writer) = store();
    let objects = Arc::new(Objects::new(Caches {
        backups,
        restores,
        offset_resets,
        offset_rollbacks,
        jobs,
        pods,
    }));
    let snapshot = Box::new({
        let objects = objects.clone();
        move || Snapshot {
            backups: objects.caches.backups.state(),
            restores: objects.caches.restores.state(),
            offset_resets: objects.caches.offset_resets.state(),
            offset_rollbacks: objects.caches.offset_rollbacks.state(),
            queues: ObjectKind::ALL.map(|kind| objects.queue_state(kind)).into(),
        }
    });
    let exporter = Exporter::new(snapshot, arguments.push_max_series);
    let health = Health::awaiting(&[LABEL, CACHES]);
    let context = Arc::new(Context::new(
        client.clone(),
        objects.clone(),
        gate.clone(),
        exporter.clone(),
        Workers {
            settings: worker,
            push_ca: push_ca.clone(),
        },
        Patience {
            hold: arguments.hold,
            lost_after: trial.lost_after.unwrap_or(LOST_AFTER),
        },
        Limits {
            runs: arguments.limit_runs,
            runs_per_namespace: arguments.limit_runs_per_namespace,
        },
    ));
    let push = Arc::new(Push {
        identities: Identities::kubernetes(client.clone(), holder),
        runs: ClusterRuns {
            client: client.clone(),
            gate,
            objects: objects.clone(),
        },
        exporter: exporter.clone(),
        health: health.clone(),
        body_time: BODY_TIME,
    });

    let mut tasks = JoinSet::new();
    let page = (!arguments.no_metrics).then_some(arguments.metrics_path);
    tasks.spawn(http::serve(
        ports,
        push,
        page,
        Times::default(),
        stop.clone(),
    ));
    if let Some(certificate) = certificate {
        tasks.spawn(certificate.follow(exporter.clone(), stop.clone()));
    }
    if let Some(ca) = push_ca {
        tasks.spawn(ca.follow(exporter, stop.clone()));
    }
    let watched = Watch {
        client: client.clone(),
        namespace,
        objects,
        health: health.clone(),
        stop: stop.clone(),
    };
    tasks.spawn(watch::objects::<KafkaBackup>(
        watched.clone(),
        backup_writer,
    ));
    tasks.spawn(watch::objects::<KafkaRestore>(
        watched.clone(),
        restore_writer,
    ));
    tasks.spawn(watch::objects::<KafkaOffsetReset>(
        watched.clone(),
        offset_reset_writer,
    ));
    tasks.spawn(watch::objects::<KafkaOffsetRollback>(
        watched.clone(),
        offset_rollback_writer,
    ));
    tasks.spawn(watch::jobs(watched.clone(), job_writer));
    tasks.spawn(watch::pods(watched, pod_writer));
    let lead = Lead {
        context,
        leadership: leadership.clone(),
        labels: Labels::new(client.clone(), &candidate),
        health: health.clone(),
        elects: !arguments.no_leader_election,
        stop: stop.clone(),
    };
    tasks.spawn(lead.run(client, candidate));

    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        // A task that ends before it is told to has panicked; so does the process then.
        Some(ended) = tasks.join_next() => {
            ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            "a task ended"
        }
    };
    info!(signal, "controller stops");
    stop.cancel();
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    Ok(())
}

/// Workers must speak what the port speaks.
fn check_url(url: &str, has_tls: bool, has_ca: bool) -> Result<(), RunError> {
    let flag = match (has_tls, has_ca) {
        (true, _) => "--push-tls-cert",
        (false, true) => "--push-ca-file",
        (false, false) => return Ok(()),
    };
    if url.starts_with("https://") {
        return Ok(());
    }
    let url = url.to_owned();
    Err(RunError::PlainUrl { url, flag })
}

async fn client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer().await.map_err(RunError::Config)?;
    config.connect_timeout = Some(CONNECT_TIME);
    Client::try_from(config).map_err(RunError::Client)
}

/// Looks at objects while this process leads.
struct Lead {
    context: Arc<Context>,
    leadership: Arc<Leadership>,
    labels: Labels,
    health: Arc<Health>,
    /// By a Lease; else it leads at once.
    elects: bool,
    stop: CancellationToken,
}

impl Lead {
    async fn run(self, client: Client, candidate: Candidate) {
        let (label, caches) = (self.take_label_off(), self.context.objects.synced());
        let ready = async {
            tokio::join!(label, async {
                caches.await;
                info!("caches are synced");
                self.health.arrived(CACHES);
            });
        };
        // A candidate that knows nothing yet would only keep others from leading.
        if self.stop.run_until_cancelled(ready).await.is_none() {
            return;
        }
        let end = CancellationToken::new();
        let (leadership, health) = (self.leadership.clone(), self.health.clone());
        let hold = async {
            if self.elects {
                leadership::hold(client, candidate, leadership, health, end.clone()).await;
            } else {
                leadership.lead_alone();
            }
        };
        tokio::join!(hold, async {
            while let Some(()) = self.stop.run_until_cancelled(self.leadership.won()).await {
                self.lead().await;
            }
            end.cancel();
        });
    }

    async fn take_label_off(&self) {
        while let Err(error) = self.labels.take_off().await {
            let error = error_chain(&error);
            warn!(error, "the leader's label is not off this pod yet");
            tokio::time::sleep(LABEL_RETRY).await;
        }
        self.health.arrived(LABEL);
    }

    /// Until another one leads, or the shutdown.
    async fn lead(&self) {
        let over = self.stop.child_token();
        tokio::join!(
            async {
                over.run_until_cancelled(self.leadership.lost()).await;
                over.cancel();
            },
            async {
                let own = self.context.exporter.own();
                if over.run_until_cancelled(self.take_over()).await.is_none() {
                    return;
                }
                own.show_leading(true);
                tokio::join!(
                    self.work::<KafkaBackup>(&over),
                    self.work::<KafkaRestore>(&over),
                    self.work::<KafkaOffsetReset>(&over),
                    self.work::<KafkaOffsetRollback>(&over),
                );
                own.show_leading(false);
            }
        );
    }

    /// Works on the objects of one kind until it is `over`.
    async fn work<K: Kind>(&self, over: &CancellationToken) {
        let heartbeat = self.health.heartbeat(K::KIND.controller());
        reconcile::run::<K>(self.context.clone(), heartbeat, over.clone()).await;
    }

    async fn take_over(&self) {
        while let Err(error) = self.labels.take_over().await {
            let error = error_chain(&error);
            warn!(error, "this pod has not got the leader's label yet");
            tokio::time::sleep(LABEL_RETRY).await;
        }
        self.context.exporter.restart_exposure();
        self.context.objects.add_all::<KafkaBackup>();
        self.context.objects.add_all::<KafkaRestore>();
        self.context.objects.add_all::<KafkaOffsetReset>();
        self.context.objects.add_all::<KafkaOffsetRollback>();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_not_sent_without_tls_to_a_port_that_has_it() {
        let (plain, tls) = ("http://c:8080", "https://c:8443");
        for (url, has_tls, has_ca, refused) in [
            (plain, false, false, None),
            (tls, false, false, None),
            (tls, false, true, None),
            (tls, true, false, None),
            (plain, true, true, Some("--push-tls-cert")),
            (plain, false, true, Some("--push-ca-file")),
        ] {
            let error = check_url(url, has_tls, has_ca).err();
            let found = error.map(|error| error.to_string());
            let expected = refused.map(|flag| {
                format!("--push-url {url} does not begin with https://, which {flag} requires")
            });
            assert_eq!(found, expected);
        }
    }
}
