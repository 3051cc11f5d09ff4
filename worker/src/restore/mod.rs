//! Restore: what a backup run captured, written into topics of a cluster, exactly once.
//!
//! ```text
//! find    which run of which archive, which topics            -> Found, targets
//! decide  archive whole? targets usable? create, count, plan  -> plan.json (create-only, before the first record)
//! units   the partitions of a plan with their segments        -> Unit
//! write   lanes (connections), streams (partitions)             -> records, offset map
//! finish  the source's configs, warnings                      -> done.json, Completed
//! ```
//!
//! # Guarantees
//! - Nothing is created or written in the target unless the archive has all that is needed and every target topic is missing
//!   or empty and fit.
//! - Every attempt after `plan.json` follows it; what was written by earlier ones is told by the target's log ends. A restore
//!   that is done reports the same success again and touches nothing.
//! - Interrupted is never success: the next attempt goes on.
//!
//! # Assumptions
//! - Nobody else writes to the target topics meanwhile. Where somebody does, the restore stops (`DataCorrupt`).

mod batches;
mod configs;
mod decide;
mod error;
mod find;
mod finish;
mod lane;
mod lease;
mod stream;
mod target;
mod units;
mod write;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{TopicPart, from_json, to_json};
use kafka_backup_shared::archive::restore::{Done, RestoreDecision};
use kafka_backup_shared::plan::{ArchiveName, RestorePlan, SpecError};
use kafka_backup_shared::report::HeldBack;
use tokio_util::sync::CancellationToken;

use crate::context::{Completed, Context};
use crate::kafka::{Client, ClientConfig, ProducerId};
use crate::store::{Created, Store};
use find::Found;
use lease::{Lease, Times};
use units::{Unit, sizes, units};

pub use batches::SegmentError;
pub use error::RestoreError;

/// What our client is called in brokers' logs.
const CLIENT_ID: &str = "kafka-backup-worker";

/// Restores what `plan` says.
///
/// # Errors
/// [`RestoreError`]; see [`RestoreError::fault`] for what it means for the run.
pub async fn run(
    plan: &RestorePlan,
    store: &Store,
    context: &Context,
) -> Result<Completed, RestoreError> {
    let cancel = &context.cancel;
    interruptible(cancel, async { Ok(store.check().await?) }).await?;
    let archives = interruptible(cancel, find::archives(plan, store)).await?;
    let uid = &plan.run.uid;
    let earlier = interruptible(cancel, earlier(&archives, uid, store)).await?;
    if let Some(Earlier {
        done: Some(done),
        decision,
        ..
    }) = &earlier
    {
        check_followed(plan, decision, None)?;
        return Ok(repeated(done));
    }
    let found = match &earlier {
        Some(earlier) => {
            let archive = std::slice::from_ref(&earlier.archive);
            interruptible(
                cancel,
                find::run(archive, &earlier.decision.backup_id, store),
            )
            .await?
        }
        None => interruptible(cancel, find::run(&archives, &plan.backup_id, store)).await?,
    };
    let (targets, mut warnings) = find::targets(plan, &found)?;
    let parts = interruptible(cancel, find::parts(&found, targets.keys(), store)).await?;
    let client = interruptible(cancel, async {
        let config = ClientConfig::new(&plan.cluster, CLIENT_ID);
        Client::connect(config)
            .await
            .map_err(RestoreError::kafka("reach the target cluster"))
    })
    .await?;
    let lease_key = found.layout.restore_lease(uid);
    let lease = interruptible(cancel, Lease::acquire(store, &lease_key, Times::DEFAULT)).await?;
    let lease = Arc::new(lease);
    let work = Work {
        plan,
        found: &found,
        targets: &targets,
        parts: &parts,
        store,
        client: &client,
    };
    let worked = work.run(lease.clone(), context).await;
    if let Some(lease) = Arc::into_inner(lease) {
        lease.release().await;
    }
    let mut completed = worked?;
    completed.warnings.append(&mut warnings);
    Ok(completed)
}

async fn interruptible<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, RestoreError>>,
) -> Result<T, RestoreError> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(RestoreError::Interrupted),
        worked = work => worked,
    }
}

/// What an earlier attempt left.
struct Earlier {
    archive: ArchiveName,
    decision: RestoreDecision,
    done: Option<Done>,
}

async fn earlier(
    archives: &[ArchiveName],
    uid: &str,
    store: &Store,
) -> Result<Option<Earlier>, RestoreError> {
    for archive in archives {
        let layout = Layout::new(archive);
        let Some(decision) = decision(&layout, uid, store).await? else {
            continue;
        };
        let done = done(&layout, uid, store).await?;
        return Ok(Some(Earlier {
            archive: archive.clone(),
            decision,
            done,
        }));
    }
    Ok(None)
}

async fn decision(
    layout: &Layout,
    uid: &str,
    store: &Store,
) -> Result<Option<RestoreDecision>, RestoreError> {
    let key = layout.restore_plan(uid);
    let Some(bytes) = store.get(&key).await? else {
        return Ok(None);
    };
    Ok(Some(from_json(&key, &bytes)?))
}

async fn done(layout: &Layout, uid: &str, store: &Store) -> Result<Option<Done>, RestoreError> {
    let key = layout.restore_done(uid);
    let Some(bytes) = store.get(&key).await? else {
        return Ok(None);
    };
    Ok(Some(from_json(&key, &bytes)?))
}

/// A restore that was complete before this attempt.
fn repeated(done: &Done) -> Completed {
    let mut warnings = done.warnings.clone();
    warnings.push(format!(
        "nothing was written: this restore was complete at {}; to restore again, use an object of another name",
        done.completion_time
    ));
    Completed {
        records: done.records,
        bytes: done.bytes,
        gaps: done.gaps,
        retention: None,
        held_back: HeldBack::default(),
        warnings,
        topics: done.topics.clone(),
    }
}

/// Checks that the earlier attempt decided what the object still says.
fn check_followed(
    plan: &RestorePlan,
    decision: &RestoreDecision,
    targets: Option<&BTreeMap<String, String>>,
) -> Result<(), SpecError> {
    let changed = |field: &str, decided: String, now: String| {
        let expected =
            format!("{decided}, as this restore has begun with (another one needs another name)");
        Err(SpecError::new(field, expected, now))
    };
    if plan.backup_id != find::LATEST && plan.backup_id != decision.backup_id {
        return changed(
            "spec.backupId",
            decision.backup_id.clone(),
            plan.backup_id.clone(),
        );
    }
    let decided: BTreeMap<String, String> = decision
        .topics
        .iter()
        .map(|(source, topic)| (source.clone(), topic.target.clone()))
        .collect();
    match targets {
        Some(targets) if *targets != decided => changed(
            "spec.topics and spec.topicMapping",
            format!("{decided:?}"),
            format!("{targets:?}"),
        ),
        Some(_) | None => Ok(()),
    }
}

/// What a restore works with once it knows what it is about.
struct Work<'a> {
    plan: &'a RestorePlan,
    found: &'a Found,
    targets: &'a BTreeMap<String, String>,
    parts: &'a BTreeMap<String, TopicPart>,
    store: &'a Store,
    client: &'a Client,
}

impl Work<'_> {
    async fn run(&self, lease: Arc<Lease>, context: &Context) -> Result<Completed, RestoreError> {
        let (layout, uid) = (&self.found.layout, &self.plan.run.uid);
        let decided = interruptible(&context.cancel, async {
            // Whoever held the lease before may have been quicker.
            if let Some(done) = done(layout, uid, self.store).await? {
                return Ok(Decided::Done(done));
            }
            let ids = self
                .parts
                .iter()
                .map(|(topic, part)| (topic, part.description.topic_id));
            let sizes = sizes(layout, ids, self.store).await?;
            let decision = self.decide(&sizes).await?;
            let units = units(layout, &decision, &sizes)?;
            Ok(Decided::Units(decision, units))
        });
        let (decision, units) = match decided.await? {
            Decided::Done(done) => return Ok(repeated(&done)),
            Decided::Units(decision, units) => (decision, units),
        };
        let servers = &self.plan.cluster.bootstrap_servers;
        let mut completed = finish::completed(&decision, self.parts, &units, servers);
        let place = write::Place {
            layout,
            uid,
            store: self.store,
            client: self.client,
            lease,
            producer: ProducerId {
                id: decision.producer_id,
                epoch: decision.producer_epoch,
            },
        };
        let append_time = write::write(units, place, context).await?;
        interruptible(&context.cancel, async {
            let refused = finish::apply_configs(&decision, self.client).await?;
            completed.warnings.extend(refused);
            let told = finish::append_time_warning(&decision, self.parts, &append_time);
            completed.warnings.extend(told);
            let done = Done {
                format_version: FORMAT_VERSION,
                completion_time: Timestamp::now(),
                records: completed.records,
                bytes: completed.bytes,
                gaps: completed.gaps,
                warnings: completed.warnings.clone(),
                topics: completed.topics.clone(),
            };
            // One that is there already says the same with another time.
            self.store
                .create(&layout.restore_done(uid), to_json(&done).into())
                .await?;
            Ok(completed)
        })
        .await
    }

    /// The decision of an earlier attempt, or a new one.
    async fn decide(&self, sizes: &units::Sizes) -> Result<RestoreDecision, RestoreError> {
        let (layout, uid) = (&self.found.layout, &self.plan.run.uid);
        let decision = match decision(layout, uid, self.store).await? {
            Some(decision) => decision,
            None => self.decide_anew(sizes).await?,
        };
        check_followed(self.plan, &decision, Some(self.targets))?;
        if decision.target_cluster_id != self.client.cluster_id() {
            let expected = format!(
                "cluster {}, which this restore has begun to write to",
                decision.target_cluster_id
            );
            let found = self.client.cluster_id();
            return Err(SpecError::new("spec.targetCluster", expected, found).into());
        }
        Ok(decision)
    }

    async fn decide_anew(&self, sizes: &units::Sizes) -> Result<RestoreDecision, RestoreError> {
        let Self {
            plan,
            found,
            targets,
            parts,
            store,
            client,
        } = self;
        let decision = decide::decide(plan, found, targets, parts, sizes, store, client).await?;
        let key = found.layout.restore_plan(&plan.run.uid);
        match store.create(&key, to_json(&decision).into()).await? {
            Created::New | Created::Same => Ok(decision),
            Created::Exists(other) => Ok(from_json(&key, &other)?),
        }
    }
}

/// What there is to do.
enum Decided {
    Done(Done),
    Units(RestoreDecision, Vec<Unit>),
}
