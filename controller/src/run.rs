//! `run`: wires caches, loops and ports together, and takes them down in order.
//!
//! # Guarantees
//! - Nothing is detached: when [`run`] returns, every task has ended.
//! - No object is looked at before every cache is complete; a half-filled one would show Jobs as missing.

use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::crd::{KafkaBackup, KafkaRestore};
use kube::Client;
use kube::runtime::reflector::store;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::args::RunArguments;
use crate::exporter::{Exporter, Snapshot};
use crate::health::Health;
use crate::http::{self, HttpError, Ports};
use crate::identity::Identities;
use crate::install::NAME;
use crate::job::WorkerSettings;
use crate::kind::ObjectKind;
use crate::objects::Objects;
use crate::push::{ClusterRuns, Push};
use crate::reconcile::line::Limits;
use crate::reconcile::{self, Context, watch};

/// Readiness waits for it.
const CACHES: &str = "the watch caches";
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
    /// The ports.
    #[error("failed to open the ports")]
    Http(#[source] HttpError),
}

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(arguments: RunArguments) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let ports = Ports::bind(arguments.metrics_addr, arguments.health_addr)
        .await
        .map_err(RunError::Http)?;
    let client = client().await?;
    let namespace = arguments.namespace;
    let own_namespace = client.default_namespace().to_owned();
    let push_url = arguments
        .worker
        .push_url
        .unwrap_or_else(|| format!("http://{NAME}.{own_namespace}.svc:8080"));
    let worker = WorkerSettings {
        image: arguments.worker.worker_image,
        push_url,
    };
    info!(
        image = worker.image,
        push_url = worker.push_url,
        namespace,
        "controller started"
    );

    let (backups, backup_writer) = store();
    let (restores, restore_writer) = store();
    let (jobs, job_writer) = store();
    let (pods, pod_writer) = store();
    let objects = Arc::new(Objects::new(backups, restores, jobs, pods));
    let exporter = Exporter::new(Box::new({
        let objects = objects.clone();
        move || Snapshot {
            backups: objects.backups.state(),
            restores: objects.restores.state(),
            queues: ObjectKind::ALL.map(|kind| objects.queue_state(kind)).into(),
        }
    }));
    let health = Health::awaiting(&[CACHES]);
    let context = Arc::new(Context::new(
        client.clone(),
        objects.clone(),
        exporter.clone(),
        worker,
        arguments.hold,
        Limits {
            runs: arguments.limit_runs,
            runs_per_namespace: arguments.limit_runs_per_namespace,
        },
    ));
    let push = Arc::new(Push {
        identities: Identities::kubernetes(client.clone()),
        runs: ClusterRuns {
            client: client.clone(),
            objects: objects.clone(),
        },
        exporter,
        health: health.clone(),
    });

    let mut tasks = JoinSet::new();
    tasks.spawn(http::serve(ports, push, stop.clone()));
    macro_rules! watch {
        ($what:path, $writer:ident) => {{
            let (client, namespace, objects, stop) = (
                client.clone(),
                namespace.clone(),
                objects.clone(),
                stop.clone(),
            );
            tasks.spawn(async move { $what(client, namespace, $writer, &objects, stop).await });
        }};
    }
    watch!(watch::objects::<KafkaBackup>, backup_writer);
    watch!(watch::objects::<KafkaRestore>, restore_writer);
    watch!(watch::jobs, job_writer);
    watch!(watch::pods, pod_writer);
    tasks.spawn(reconcile_when_synced(context, health, stop.clone()));

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

async fn client() -> Result<Client, RunError> {
    let mut config = kube::Config::infer().await.map_err(RunError::Config)?;
    config.connect_timeout = Some(CONNECT_TIME);
    Client::try_from(config).map_err(RunError::Client)
}

async fn reconcile_when_synced(
    context: Arc<Context>,
    health: Arc<Health>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => return,
        () = context.objects.synced() => {}
    }
    info!("caches are synced");
    health.arrived(CACHES);
    tokio::join!(
        reconcile::run::<KafkaBackup>(context.clone(), health.heartbeat("backup"), stop.clone()),
        reconcile::run::<KafkaRestore>(context.clone(), health.heartbeat("restore"), stop.clone()),
    );
}
