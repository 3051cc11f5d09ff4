//! Restore: what a backup run captured, written into topics of a cluster, exactly once.
//!
//! ```text
//! find    which run of which archive, which topics              -> Found, targets, Parts
//! decide  archive whole? targets usable (target, assign)? count, purge, create   -> plan.json (create-only, before the first record)
//! units   the target partitions of a plan with their segments   -> Unit
//! write   check segments (parts); lanes (connections), streams (partitions), batches (choice)  -> records, offset map
//! finish  configs of created topics, warnings                   -> done.json, Completed
//! groups  saved committed offsets, offset map                   -> TranslatedGroup: what may be committed in the target
//! ```
//!
//! # Guarantees
//! - Nothing is created or written in the target unless every target topic is missing or fit. A topic of which the archive has
//!   lost or damaged something is not begun; the others are restored, and the restore fails in the end and names it.
//! - Every attempt after `plan.json` follows it; what was written by earlier ones is told by the target's log ends. A restore
//!   that is done reports the same success again and touches nothing.
//! - Interrupted is never success: the next attempt goes on.
//! - A dry run reads what the real one reads before its first record, writes nothing anywhere, and counts the same.
//!
//! # Assumptions
//! - Nobody else writes to the target topics meanwhile. Where somebody does, the restore stops (`DataCorrupt`).

mod assign;
mod batches;
mod choice;
mod configs;
mod decide;
mod error;
mod expected;
mod find;
mod finish;
pub mod groups;
mod lane;
mod lease;
mod parts;
mod purge;
mod stream;
mod tail;
mod target;
mod units;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{from_json, to_json};
use kafka_backup_shared::archive::restore::{Done, RestoreDecision};
use kafka_backup_shared::plan::{ArchiveName, RestorePlan, SpecError};
use kafka_backup_shared::report::DryRun;
use tokio_util::sync::CancellationToken;

use crate::context::{Completed, Context};
use crate::kafka::{Client, ClientConfig, ProducerId};
use crate::store::{Created, Store};
use decide::Decided;
use find::{Found, Parts};
use lease::{Lease, Times};
use units::{Sizes, Unit, sizes, units};

pub use batches::SegmentError;
#[cfg(test)]
pub(crate) use choice::Provenance;
pub(crate) use choice::{ORIGINAL_OFFSET, ORIGINAL_PARTITION, ORIGINAL_TOPIC, SOURCE_CLUSTER};
pub use error::RestoreError;
pub(crate) use expected::{ExpectedPartition, expected};

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
    let request = &plan.request;
    interruptible(cancel, async {
        match plan.dry_run {
            true => Ok(store.check_readable().await?),
            false => Ok(store.check().await?),
        }
    })
    .await?;
    let archives = interruptible(cancel, find::archives(request, store)).await?;
    let uid = &plan.run.uid;
    // A dry run looks as if nothing had been done.
    let earlier = match plan.dry_run {
        true => None,
        false => interruptible(cancel, earlier(&archives, uid, store)).await?,
    };
    if let Some(earlier) = &earlier {
        let decision = &earlier.decision;
        decision.request.check_same(request, &decision.backup_id)?;
        if let Some(done) = &earlier.done {
            let backup_id = Some(decision.backup_id.clone());
            return Ok(Completed {
                backup_id,
                ..finish::repeated(done)
            });
        }
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
        None => interruptible(cancel, find::run(&archives, &request.backup_id, store)).await?,
    };
    let (targets, mut warnings) = find::targets(request, &found)?;
    let parts = interruptible(cancel, find::parts(&found, targets.keys(), store)).await?;
    let client = interruptible(cancel, async {
        let config = ClientConfig::new(&plan.cluster, &context.secrets_dir, CLIENT_ID);
        Client::connect(config)
            .await
            .map_err(RestoreError::kafka("reach the target cluster"))
    })
    .await?;
    let work = Work {
        plan,
        found: &found,
        store,
        client: &client,
    };
    let worked = match plan.dry_run {
        true => interruptible(cancel, work.dry_run(&parts)).await,
        false => {
            let lease_key = found.layout.restore_lease(uid);
            let acquiring = Lease::acquire(store, &lease_key, Times::of(context.lease));
            let lease = Arc::new(interruptible(cancel, acquiring).await?);
            let worked = work.run(&parts, lease.clone(), context).await;
            if let Some(lease) = Arc::into_inner(lease) {
                lease.release().await;
            }
            worked
        }
    };
    let mut completed = worked?;
    completed.warnings.append(&mut warnings);
    completed.backup_id = Some(found.backup_id.clone());
    Ok(completed)
}

/// What a restore would find.
#[derive(Debug)]
pub struct Survey {
    /// Run id of the backup.
    pub backup_id: String,
    /// How many topics can be restored, as far as the archive's listing tells.
    pub topics: u64,
    /// How many of them the restore would create.
    pub created: u64,
    /// The others, with the reason.
    pub failed: BTreeMap<String, String>,
    /// What the restore would tell besides.
    pub warnings: Vec<String>,
}

/// Looks at archive and target as a restore does before it reads the first segment; nothing is begun.
///
/// # Errors
/// As of [`run`], where it would not begin.
pub async fn survey(
    plan: &RestorePlan,
    store: &Store,
    client: &Client,
) -> Result<Survey, RestoreError> {
    let archives = find::archives(&plan.request, store).await?;
    let found = find::run(&archives, &plan.request.backup_id, store).await?;
    let (targets, warnings) = find::targets(&plan.request, &found)?;
    let parts = find::parts(&found, targets.keys(), store).await?;
    let work = Work {
        plan,
        found: &found,
        store,
        client,
    };
    let sizes = work.sizes(&parts).await?;
    let looked = work.look(&work.target(), &parts, &sizes).await?;
    let created = looked.standings.iter().filter(|standing| standing.created);
    Ok(Survey {
        created: created.count() as u64,
        topics: looked.standings.len() as u64,
        failed: looked.failed,
        backup_id: found.backup_id.clone(),
        warnings,
    })
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

/// What a restore works with once it knows what it is about.
struct Work<'a> {
    plan: &'a RestorePlan,
    found: &'a Found,
    store: &'a Store,
    client: &'a Client,
}

impl Work<'_> {
    async fn run(
        &self,
        parts: &Parts,
        lease: Arc<Lease>,
        context: &Context,
    ) -> Result<Completed, RestoreError> {
        let (layout, uid) = (&self.found.layout, &self.plan.run.uid);
        let begun = interruptible(&context.cancel, async {
            // Whoever held the lease before may have been quicker.
            if let Some(done) = done(layout, uid, self.store).await? {
                return Ok(Begun::Done(done));
            }
            let sizes = self.sizes(parts).await?;
            let decided = self.decide(parts, &sizes).await?;
            let (units, failed) = self.units(&decided.decision, &sizes)?;
            let (decision, checked) = (Box::new(decided.decision), decided.checked);
            Ok(Begun::Units {
                decision,
                units,
                checked,
                failed,
            })
        });
        let (decision, units, checked, mut failed) = match begun.await? {
            Begun::Done(done) => return Ok(finish::repeated(&done)),
            Begun::Units {
                decision,
                units,
                checked,
                failed,
            } => (decision, units, checked, failed),
        };
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
            rate_limit: self.plan.rate_limit,
        };
        let written = write::write(units, checked, place, context).await?;
        failed.extend(written.failed);
        interruptible(&context.cancel, async {
            let servers = &self.plan.cluster.bootstrap_servers;
            let mut completed = finish::completed(&decision, &parts.whole, servers);
            let refused = finish::apply_configs(&decision, &failed, self.client).await?;
            completed.warnings.extend(refused);
            let told = finish::append_time_warning(&decision, &parts.whole, &written.append_time);
            completed.warnings.extend(told);
            if !failed.is_empty() {
                let topics = decision.topics.len() + decision.failed.len();
                return Err(RestoreError::Incomplete { topics, failed });
            }
            let done = finish::done(&completed, Timestamp::now());
            // One that is there already says the same with another time.
            self.store
                .create(&layout.restore_done(uid), to_json(&done).into())
                .await?;
            Ok(completed)
        })
        .await
    }

    async fn dry_run(&self, parts: &Parts) -> Result<Completed, RestoreError> {
        let sizes = self.sizes(parts).await?;
        let decided = self.decide_anew(parts, &sizes).await?;
        let decision = &decided.decision;
        if !decision.failed.is_empty() {
            let topics = decision.topics.len() + decision.failed.len();
            let failed = decision.failed.clone();
            return Err(RestoreError::Incomplete { topics, failed });
        }
        let servers = &self.plan.cluster.bootstrap_servers;
        let mut completed = finish::completed(decision, &parts.whole, servers);
        completed.dry_run = Some(DryRun {
            topics: completed.topics.len() as u64,
            records: std::mem::take(&mut completed.records),
            bytes: std::mem::take(&mut completed.bytes),
            groups: 0,
        });
        let purged = decided.purged.iter().map(|(topic, offsets)| {
            format!("topic {topic}: {offsets} offsets with records would be deleted first")
        });
        completed.warnings.extend(purged);
        Ok(completed)
    }

    async fn sizes(&self, parts: &Parts) -> Result<Sizes, RestoreError> {
        let whole = parts.whole.iter();
        let ids = whole.map(|(topic, part)| (topic, part.description.topic_id));
        sizes(&self.found.layout, ids, self.store).await
    }

    /// The target partitions of a decision, and the topics of which nothing can be written, with the reason.
    fn units(
        &self,
        decision: &RestoreDecision,
        sizes: &Sizes,
    ) -> Result<(Vec<Unit>, BTreeMap<String, String>), RestoreError> {
        let (mut all, mut failed) = (Vec::new(), decision.failed.clone());
        for (source, topic) in &decision.topics {
            match units(&self.found.layout, decision, source, topic, sizes) {
                Ok(mut units) => all.append(&mut units),
                Err(error) => decide::leave_out(source, error, &mut failed)?,
            }
        }
        Ok((all, failed))
    }

    /// The decision of an earlier attempt, or a new one.
    async fn decide(&self, parts: &Parts, sizes: &Sizes) -> Result<Decided, RestoreError> {
        let (layout, uid) = (&self.found.layout, &self.plan.run.uid);
        let followed = |decision| Decided {
            decision,
            checked: HashSet::new(),
            purged: BTreeMap::new(),
        };
        let decided = match decision(layout, uid, self.store).await? {
            Some(earlier) => followed(earlier),
            None => {
                let decided = self.decide_anew(parts, sizes).await?;
                let key = layout.restore_plan(uid);
                let content = to_json(&decided.decision).into();
                match self.store.create(&key, content).await? {
                    Created::New | Created::Same => decided,
                    Created::Exists(other) => followed(from_json(&key, &other)?),
                }
            }
        };
        let decision = &decided.decision;
        decision
            .request
            .check_same(&self.plan.request, &decision.backup_id)?;
        if decision.target_cluster_id != self.client.cluster_id() {
            let expected = format!(
                "cluster {}, which this restore has begun to write to",
                decision.target_cluster_id
            );
            let found = self.client.cluster_id();
            return Err(SpecError::new("spec.targetCluster", expected, found).into());
        }
        Ok(decided)
    }
}

/// What there is to do.
enum Begun {
    Done(Done),
    Units {
        decision: Box<RestoreDecision>,
        units: Vec<Unit>,
        /// Keys of segments that were found whole.
        checked: HashSet<String>,
        /// Topics that cannot be restored, with the reason.
        failed: BTreeMap<String, String>,
    },
}
