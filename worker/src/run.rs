//! One run, whatever its verb: observers around an engine, and one report at the end.
//!
//! # Guarantees
//! - Success is what the engine calls completed, and nothing else; the exit code follows from the report.
//! - Whoever watches (terminal, push, signals) is told to stop and joined before the report is written; nothing is detached.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use indicatif::MultiProgress;
use jiff::Timestamp;
use kafka_backup_shared::plan::{ArchiveName, OffsetsPlan, Plan, Retention, RunRef};
use kafka_backup_shared::pod;
use kafka_backup_shared::report::{Fault, Outcome, Report, error_chain};
use kafka_backup_shared::spec::Storage;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use crate::args::{At, EngineArgs};
use crate::context::{Completed, Context, DEFAULT_LEASE, Progress};
use crate::log::Format;
use crate::offsets::{CarryOver, Unfinished};
use crate::outcome::{Attempt, Failure};
use crate::push::{Limits, Push, PushCa};
use crate::retention::{self, Scope};
use crate::signal::Signals;
use crate::store::{Places, Store};
use crate::{backup, offsets, progress, restore, summary};

/// In a pod, refused credentials are tried again for this long: tokens and permissions take time to arrive everywhere.
const DENIED_PATIENCE: Duration = Duration::from_secs(60);
const DENIED_PAUSE: Duration = Duration::from_secs(5);

/// What a run is made with, besides its plan.
#[derive(Debug)]
pub struct Settings {
    /// Secrets and volume.
    pub places: Places,
    /// The offsets of strategy `fromMapping`; in a pod where the controller mounts them.
    pub mapping_file: Option<PathBuf>,
    /// Pod or terminal.
    pub at: At,
    /// Bytes that fetch buffers and open segments share.
    pub memory_budget: usize,
    /// After so long without a sign of life another worker may take over a restore.
    pub lease: Duration,
    /// URL of the controller.
    pub push_url: Option<String>,
    /// Token of the push.
    pub push_token_file: Option<PathBuf>,
    /// By what the controller is known; the machine's roots of trust where it is left out.
    pub push_ca: Option<PushCa>,
    /// UID of the pod's Job.
    pub job_uid: Option<String>,
    /// Where the short report is left.
    pub termination_log: Option<PathBuf>,
    /// How log lines and progress look.
    pub format: Format,
    /// Where a bar is drawn.
    pub bars: MultiProgress,
}

impl Settings {
    /// What the flags say; what they leave out is a pod's default in a pod, and off at a terminal.
    pub fn new(
        args: &EngineArgs,
        places: Places,
        at: At,
        format: Format,
        bars: MultiProgress,
    ) -> Self {
        let in_pod = |path: &str| (at == At::Pod).then(|| PathBuf::from(path));
        // A token is for the push alone.
        let token = args
            .push_url
            .as_ref()
            .and_then(|_| in_pod(pod::PUSH_TOKEN_FILE));
        Self {
            places,
            mapping_file: None,
            at,
            memory_budget: args.memory_budget.0,
            lease: DEFAULT_LEASE,
            push_url: args.push_url.clone(),
            push_token_file: args.push_token_file.clone().or(token),
            push_ca: args
                .push_ca_file
                .clone()
                .map(PushCa::File)
                .or_else(|| variable(pod::PUSH_CA_ENV).map(PushCa::Pem)),
            job_uid: variable(pod::JOB_UID_ENV),
            termination_log: args
                .termination_log
                .clone()
                .or_else(|| in_pod(pod::TERMINATION_LOG)),
            format,
            bars,
        }
    }
}

/// An environment variable that says something.
fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    (!value.is_empty()).then_some(value)
}

/// Makes one run and tells how it ended.
pub async fn run(plan: &Plan, settings: Settings) -> Report {
    let context = Context {
        progress: Arc::new(Progress::default()),
        cancel: CancellationToken::new(),
        memory_budget: settings.memory_budget,
        lease: settings.lease,
        secrets_dir: settings.places.secrets_dir.clone(),
    };
    let attempt = Attempt {
        run: plan.run().clone(),
        start_time: Timestamp::now(),
        progress: context.progress.clone(),
        termination_log: settings.termination_log.clone(),
    };
    attempt.report_panics();
    let span = info_span!("run", run = plan.run().run);
    conduct(plan, &settings, &context, &attempt)
        .instrument(span)
        .await
}

async fn conduct(plan: &Plan, settings: &Settings, context: &Context, attempt: &Attempt) -> Report {
    let run = plan.run();
    info!(
        kind = run.kind,
        namespace = run.namespace,
        name = run.name,
        memory_budget = context.memory_budget,
        "run starts"
    );
    let stop = CancellationToken::new();
    let mut observers = JoinSet::new();
    match Signals::take() {
        Ok(signals) => {
            let obey = signals.obey(context.cancel.clone(), attempt.clone());
            let stop = stop.clone();
            let obeying = async move {
                stop.run_until_cancelled(obey).await;
            };
            observers.spawn(obeying.in_current_span());
        }
        Err(error) => {
            warn!(%error, "failed to take over signals: the run cannot be stopped in order")
        }
    }
    let showing = progress::show(
        context.progress.clone(),
        settings.format,
        settings.bars.clone(),
        stop.clone(),
    );
    observers.spawn(showing.in_current_span());
    let pushing = async {
        let mut push = push_of(plan.run(), settings)?;
        push.while_running(&context.progress, &stop).await;
        Some(push)
    };
    let working = async {
        let result = engine(plan, settings, context).await;
        stop.cancel();
        result
    };
    let (result, push) = tokio::join!(working, pushing);
    observers.join_all().await;

    let report = attempt.report(result, Timestamp::now());
    attempt.leave(&report);
    if settings.format == Format::Json {
        tell(&report);
    }
    if let Some(mut push) = push {
        push.at_end(&report, &context.progress).await;
    }
    report
}

fn push_of(run: &RunRef, settings: &Settings) -> Option<Push> {
    let url = settings.push_url.clone()?;
    let opened = Push::new(
        url,
        settings.push_token_file.clone(),
        settings.push_ca.as_ref(),
        settings.job_uid.clone(),
        run.clone(),
        Limits::default(),
    );
    match opened {
        Ok(push) => Some(push),
        Err(error) => {
            warn!(
                error = error_chain(&error),
                "nothing is pushed; the report is in the termination log"
            );
            None
        }
    }
}

/// Where there is only a log; at a terminal a summary stands at the end.
fn tell(report: &Report) {
    let Report {
        records,
        bytes,
        gaps,
        ..
    } = *report;
    match &report.outcome {
        Outcome::Success => {
            for warning in &report.warnings {
                warn!("{warning}");
            }
            match &report.offsets {
                Some(offsets) if offsets.dry_run => {
                    // The report goes to the status without them.
                    for line in summary::changes(offsets).lines() {
                        info!("{line}");
                    }
                    info!("run completed: {}", offsets.line());
                }
                Some(offsets) => info!("run completed: {}", offsets.line()),
                None => info!(records, bytes, gaps, "run completed"),
            }
        }
        Outcome::Failure { fault, message } => error!(
            reason = fault.reason(),
            records, bytes, "run failed: {message}"
        ),
    }
}

/// Does the work of a run: [`run`] without signals, panic hook, progress and report, all of which are the process's.
///
/// # Errors
/// [`Failure`], as the report will tell it.
pub async fn engine(
    plan: &Plan,
    settings: &Settings,
    context: &Context,
) -> Result<Completed, Failure> {
    let deadline = Instant::now() + DENIED_PATIENCE;
    loop {
        let failure = match attempt(plan, settings, context).await {
            Ok(completed) => return Ok(completed),
            Err(failure) => failure,
        };
        // Once something is durable the credentials have been good: then a refusal is no delay.
        let early = context.progress.records() == 0 && Instant::now() + DENIED_PAUSE < deadline;
        if settings.at == At::Terminal || failure.fault != Fault::Denied || !early {
            return Err(failure);
        }
        warn!(
            error = failure.message,
            "refused; trying again, for permissions may be on their way"
        );
        if context
            .cancel
            .run_until_cancelled(sleep(DENIED_PAUSE))
            .await
            .is_none()
        {
            return Err(interrupted());
        }
    }
}

async fn attempt(
    plan: &Plan,
    settings: &Settings,
    context: &Context,
) -> Result<Completed, Failure> {
    let open = |storage: &Storage| {
        Store::open(storage, &settings.places).map_err(|e| Failure::new(e.fault(), &e))
    };
    match plan {
        Plan::Backup(plan) => {
            let store = open(&plan.storage)?;
            let mut completed = backup::run(plan, &store, context)
                .await
                .map_err(|e| Failure::new(e.fault(), &e))?;
            if let Some(policy) = &plan.retention {
                retain(&plan.archive, policy, &store, context, &mut completed).await;
            }
            Ok(completed)
        }
        Plan::Restore(plan) => {
            let store = open(&plan.storage)?;
            let carried = match &plan.groups {
                Some(groups) => {
                    let prepared =
                        CarryOver::prepare(plan, groups, &store, &context.secrets_dir).await;
                    Some(prepared.map_err(|e| Failure::new(e.fault(), &e))?)
                }
                None => None,
            };
            let mut completed = restore::run(plan, &store, context)
                .await
                .map_err(|e| Failure::new(e.fault(), &e))?;
            match (carried, &mut completed.dry_run) {
                (Some(carried), Some(dry_run)) => dry_run.groups = carried.count(),
                (Some(carried), None) => {
                    completed.offsets = Some(carried.finish(context).await.map_err(unfinished)?);
                }
                (None, _) => {}
            }
            Ok(completed)
        }
        Plan::Offsets(plan) => offsets::run(plan, &ports(plan, settings), context)
            .await
            .map_err(unfinished),
    }
}

fn unfinished(unfinished: Unfinished) -> Failure {
    Failure {
        offsets: unfinished.report.map(Box::new),
        ..Failure::new(unfinished.error.fault(), &unfinished.error)
    }
}

/// What a run over committed offsets finds on its machine.
fn ports(plan: &OffsetsPlan, settings: &Settings) -> offsets::Ports {
    let mounted = || {
        let (_, key) = plan.task.mapping()?;
        (settings.at == At::Pod).then(|| PathBuf::from(pod::MAPPING_DIR).join(key))
    };
    offsets::Ports {
        places: settings.places.clone(),
        snapshot_dir: pod::SNAPSHOT_DIR.into(),
        mapping_file: settings.mapping_file.clone().or_else(mounted),
        push: push_of(&plan.run, settings).and_then(|push| push.snapshots()),
    }
}

/// The run is complete whatever becomes of this: a failure is a warning, and the next run's retention goes on.
async fn retain(
    archive: &ArchiveName,
    policy: &Retention,
    store: &Store,
    context: &Context,
    completed: &mut Completed,
) {
    let work = retention::run(store, archive, policy, Scope::Touched, Timestamp::now());
    let told = match context.cancel.run_until_cancelled(work).await {
        Some(Ok(done)) => {
            completed.retention = Some(done.report);
            done.warnings
        }
        Some(Err(error)) => vec![format!("retention failed: {}", error_chain(&error))],
        None => vec!["retention was interrupted".into()],
    };
    completed.warnings.extend(told);
}

fn interrupted() -> Failure {
    Failure {
        fault: Fault::Interrupted,
        message: "told to stop before anything was done".into(),
        offsets: None,
    }
}
