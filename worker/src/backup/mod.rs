//! Copies topics into an archive.
//!
//! # Guarantees
//! - A run has succeeded when, and only when, its manifest exists; an attempt that finds it does nothing else.
//! - Record batches are stored as the broker sent them, or with another codec where one is asked for ([`recode`]); see [`fetch`]
//!   for what is checked and [`aborted`] for what is left out.
//! - An attempt goes on where the listing says that earlier ones ended: progress is what is durable, nothing else.
//! - A topic that cannot be captured fails by name and does not take the others with it.
//! - One archive, one source: a cluster with another id is refused, but for one that bears the name the archive was made under.
//! - Memory is bounded by the context's budget, whatever the number of topics, partitions and records.
//!
//! # Assumptions
//! - What differs between two attempts of one run is only what is durable: the plan is the same.

mod aborted;
mod archive;
mod begin;
mod budget;
mod capture;
mod commit;
mod cursor;
mod error;
mod fetch;
mod generation;
mod groups;
mod keep;
mod recode;
mod recover;
mod segment;
mod work;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{Begin, Manifest};
use kafka_backup_shared::plan::{self, BackupPlan};
use kafka_backup_shared::report::Fault;

use crate::context::{Completed, Context};
use crate::kafka::{
    AclOperation, Client, ClientConfig, IsolationLevel, LedPartition, ONLY_VISIBLE, OffsetSpec,
    TopicFilter,
};
use crate::rate::Rate;
use crate::store::Store;

use archive::{Archive, Bases};
use error::kafka;
pub use error::{BackupError, TopicFailure};

/// How brokers see us.
const CLIENT_ID: &str = "kafka-backup-worker";
/// How long an interrupted run may take to commit what is complete already.
const COMMIT_GRACE: Duration = Duration::from_secs(10);
/// How long the source may take to say how far it has got.
const LAG_PATIENCE: Duration = Duration::from_secs(10);

/// Does one attempt of a run.
///
/// # Errors
/// [`BackupError`]; its [`fault`](BackupError::fault) says what it means. What is stored stays, and the next attempt of the
/// same run goes on from there.
pub async fn run(
    plan: &BackupPlan,
    store: &Store,
    context: &Context,
) -> Result<Completed, BackupError> {
    let archive = Archive {
        store: store.clone(),
        layout: Layout::new(&plan.archive),
    };
    let run = &plan.run.run;
    interruptible(context, async { Ok(store.check().await?) }).await?;
    if let Some(manifest) = interruptible(context, archive.manifest(run)).await? {
        tracing::info!(run, "the run is complete already");
        return report(context, &archive, &manifest).await;
    }
    let client = interruptible(context, connect(plan, context)).await?;
    let name = plan.source_cluster_id.as_deref();
    interruptible(context, archive.claim(client.cluster_id(), name)).await?;
    let (begin, bases) = interruptible(context, begin(plan, &archive, &client)).await?;
    if begin.cluster_id != client.cluster_id() {
        return Err(BackupError::OtherClusterInRun {
            run: run.clone(),
            expected: begin.cluster_id,
            found: client.cluster_id().to_owned(),
        });
    }
    let mut topics = interruptible(context, work::look(&archive, &begin, &bases)).await?;
    let mut warnings = Vec::new();
    let work = interruptible(
        context,
        work::plan(
            &archive,
            &begin,
            &bases,
            &client,
            &mut topics,
            &mut warnings,
        ),
    )
    .await?;
    let counts = work::counts(&topics);
    context.progress.plan(counts.planned, counts.done);
    context.progress.add(counts.records, counts.bytes, 0);
    tracing::info!(
        run,
        topics = topics.len(),
        partitions = work.len(),
        offsets = counts.planned,
        done = counts.done,
        memory_budget = context.memory_budget,
        "capturing"
    );
    let isolation = match begin.isolation_level {
        plan::IsolationLevel::ReadCommitted => IsolationLevel::ReadCommitted,
        plan::IsolationLevel::ReadUncommitted => IsolationLevel::ReadUncommitted,
    };
    let mut capture = capture::Capture {
        archive: &archive,
        client: &client,
        context,
        limits: plan.segments,
        isolation,
        encoding: plan.compression.codec().map(|codec| recode::Encoding {
            codec,
            level: plan.compression_level,
        }),
        rate: Arc::new(Rate::new(plan.rate_limit)),
        topics: &mut topics,
        warnings: &mut warnings,
    };
    capture.run(work).await?;
    let base = bases.complete.as_deref();
    let commit = commit::commit(&archive, &begin, base, topics);
    let manifest = within_grace(context, commit).await?;
    tracing::info!(
        run,
        records = manifest.records,
        bytes = manifest.bytes,
        "run complete"
    );
    let mut completed = commit::completed(&manifest, base, warnings);
    completed.lag = observe_lag(context, &begin, &client).await;
    Ok(completed)
}

/// What a run would find at its source.
#[derive(Debug)]
pub struct Survey {
    /// How many topics can be captured.
    pub topics: u64,
    /// How many partitions they have.
    pub partitions: u64,
    /// The others, with the reason.
    pub refused: BTreeMap<String, TopicFailure>,
    /// How many consumer groups would be saved; `None`: none is asked for.
    pub groups: Option<u64>,
    /// What the run would tell besides.
    pub warnings: Vec<String>,
}

/// Looks for what a run would take; nothing is begun.
///
/// # Errors
/// As of [`run`], where it would not begin.
pub async fn survey(plan: &BackupPlan, client: &Client) -> Result<Survey, BackupError> {
    let selected = begin::select(plan, client).await?;
    let mut refused = BTreeMap::new();
    let names = selected.topics.iter().map(|topic| topic.name.clone());
    let filter = TopicFilter::Named(names.collect());
    let described = client.topics(&filter).await;
    let (mut topics, mut partitions) = (0, 0);
    for topic in described.map_err(kafka("describe the topics of the source cluster"))? {
        let needed = [AclOperation::Read, AclOperation::DescribeConfigs];
        let lacks = needed.into_iter().find(|needed| !topic.permits(*needed));
        let failure = match (lacks, topic.led_partitions()) {
            (Some(lacks), _) => {
                let message = format!("the permission {lacks:?} is missing");
                TopicFailure::new(Fault::Denied, message)
            }
            (None, Err(error)) => TopicFailure::of_kafka(&error),
            (None, Ok(led)) => {
                topics += 1;
                partitions += led.len() as u64;
                continue;
            }
        };
        refused.insert(topic.name.to_string(), failure);
    }
    let names = selected.topics.iter().map(|topic| &*topic.name).collect();
    let groups = groups::capture(plan, client, &names).await?;
    let groups = groups.map(|(part, _)| part);
    let missing = selected.missing.iter().map(|topic| commit::missing(topic));
    let unseen = selected.only_visible.then(|| ONLY_VISIBLE.to_owned());
    let told = groups.iter().flat_map(groups::warnings);
    Ok(Survey {
        topics,
        partitions,
        refused,
        warnings: missing.chain(unseen).chain(told).collect(),
        groups: groups.map(|part| part.groups),
    })
}

/// Whether the archive is there; it is that of the cluster, then.
///
/// # Errors
/// It is another cluster's, or cannot be read.
pub async fn belongs(
    plan: &BackupPlan,
    store: &Store,
    cluster_id: &str,
) -> Result<bool, BackupError> {
    let archive = Archive {
        store: store.clone(),
        layout: Layout::new(&plan.archive),
    };
    let name = plan.source_cluster_id.as_deref();
    archive.belongs(cluster_id, name).await
}

/// Asks the source how far it has got meanwhile. The run is complete whatever becomes of this: nobody waits for long.
async fn observe_lag(context: &Context, begin: &Begin, client: &Client) -> Option<u64> {
    let asked = async {
        let names = begin.topics.keys().map(|name| Arc::from(name.as_str()));
        let filter = TopicFilter::Named(names.collect());
        let topics = client.topics(&filter).await.ok()?;
        let led: Vec<LedPartition> = topics
            .iter()
            .flat_map(|topic| topic.led_partitions().unwrap_or_default())
            .collect();
        let spec = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
        let found = client.list_offsets(&led, spec).await;
        let known = led.iter().zip(found).filter_map(|(led, found)| {
            let offset = found.ok()?.offset;
            Some(((&*led.topic, led.partition), offset))
        });
        commit::lag(begin, &known.collect())
    };
    let asked = tokio::time::timeout(LAG_PATIENCE, asked);
    let told = context.cancel.run_until_cancelled(asked).await?;
    told.ok().flatten()
}

async fn connect(plan: &BackupPlan, context: &Context) -> Result<Client, BackupError> {
    let config = ClientConfig::new(&plan.cluster, &context.secrets_dir, CLIENT_ID);
    Client::connect(config)
        .await
        .map_err(kafka("reach the source cluster"))
}

/// What the run set out to do, now or in an earlier attempt, with the runs that it goes on from.
async fn begin(
    plan: &BackupPlan,
    archive: &Archive,
    client: &Client,
) -> Result<(Begin, Bases), BackupError> {
    let run = &plan.run.run;
    let begin = match archive.begin(run).await? {
        Some(begin) => begin,
        None => {
            let mut newest = archive.newest_bases(run).await?;
            let begin = begin::fix(plan, archive, client, &mut newest).await?;
            if newest.are_of(&begin) {
                return Ok((begin, newest));
            }
            begin
        }
    };
    let bases = archive.bases(&begin).await?;
    Ok((begin, bases))
}

/// The outcome of a run that an earlier attempt completed.
async fn report(
    context: &Context,
    archive: &Archive,
    manifest: &Manifest,
) -> Result<Completed, BackupError> {
    let base = match &manifest.base {
        Some(base) => interruptible(context, archive.complete(base)).await?,
        None => None,
    };
    context.progress.add(manifest.records, manifest.bytes, 0);
    Ok(commit::completed(manifest, base.as_ref(), Vec::new()))
}

async fn interruptible<T>(
    context: &Context,
    step: impl Future<Output = Result<T, BackupError>>,
) -> Result<T, BackupError> {
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(BackupError::Interrupted),
        done = step => done,
    }
}

/// All data is durable: telling so is worth a moment even when we are told to stop.
async fn within_grace<T>(
    context: &Context,
    step: impl Future<Output = Result<T, BackupError>>,
) -> Result<T, BackupError> {
    let late = async {
        context.cancel.cancelled().await;
        tokio::time::sleep(COMMIT_GRACE).await;
    };
    tokio::select! {
        biased;
        done = step => done,
        () = late => Err(BackupError::Interrupted),
    }
}
