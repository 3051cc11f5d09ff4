//! Groups that go on in the target of a restore.
//!
//! # Guarantees
//! - Before the restore writes anything, its groups are known, none of them has live members, and the snapshot is durable that
//!   was asked for.
//! - A later attempt of the restore finds the snapshot of the first.
//! - Groups of the backup without offsets on what is restored are left out: they may live.
//! - So may groups that an earlier attempt has carried over: they are not touched again.
//!
//! # Assumptions
//! - Nobody starts the members of a group before the restore has ended: an attempt that is killed while it commits does not tell
//!   which groups it has done, and the next one does them all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::groups::{GroupOffset, GroupOffsets};
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{from_json, to_json};
use kafka_backup_shared::archive::restore::{CarriedOver, RestoreDecision, RestoredTopicDecision};
use kafka_backup_shared::archive::snapshot::Snapshot;
use kafka_backup_shared::crd::{GroupResult, GroupStatus};
use kafka_backup_shared::plan::{CarriedGroups, CarryOverTarget, RestorePlan, RunRef, SpecError};
use kafka_backup_shared::report::OffsetsReport;
use kafka_backup_shared::selector::GroupSelector;

use super::apply::apply;
use super::change::GroupPlan;
use super::error::OffsetsError;
use super::groups::{Meant, exactly, read, refuse_absent, refuse_live};
use super::headers::Placement;
use super::keeper::Keeper;
use super::logs::Logs;
use super::snapshots::{Scope, summary, take};
use super::target::{ByHeaders, by_headers, plain, translated};
use super::{CLIENT_ID, PARALLELISM, Unfinished, ended, target_ids};
use crate::context::Context;
use crate::kafka::{Client, ClientConfig};
use crate::restore::RestoreError;
use crate::restore::groups::{decided, saved, translate};
use crate::store::{Created, Store};

const FIELD: &str = "spec.offsetReset.consumerGroups";

/// Groups that a restore carries over.
pub(crate) struct CarryOver<'a> {
    plan: &'a RestorePlan,
    groups: &'a CarriedGroups,
    store: &'a Store,
    client: Client,
    /// What they had committed at the source.
    saved: Vec<GroupOffsets>,
    meant: Vec<Meant>,
    /// What earlier attempts have done.
    done: Vec<GroupResult>,
    /// Keys of the archive.
    layout: Layout,
    snapshot: Option<Snapshot>,
}

impl<'a> CarryOver<'a> {
    /// Prepares for `groups`, before the restore writes anything.
    pub(crate) async fn prepare(
        plan: &'a RestorePlan,
        groups: &'a CarriedGroups,
        store: &'a Store,
        secrets_dir: &Path,
    ) -> Result<Self, OffsetsError> {
        let config = ClientConfig::new(&plan.cluster, secrets_dir, CLIENT_ID);
        let client = Client::connect(config)
            .await
            .map_err(OffsetsError::kafka("reach the target cluster"))?;
        let patterns = groups.groups.clone().unwrap_or_else(|| vec!["*".into()]);
        let selector = GroupSelector::parse(FIELD, &patterns)?;
        let saved = saved(plan, store).await?;
        let is_there = |id: &str| saved.groups.iter().any(|group| group.group == id);
        refuse_absent(FIELD, &selector, "the backup", is_there)?;
        let done = match plan.dry_run {
            true => Vec::new(),
            false => done(&saved.layout, &plan.run.uid, store).await?,
        };
        let is_done = |group: &GroupOffsets| done.iter().any(|one| one.group == group.group);
        // What nothing becomes of may live, and needs no snapshot.
        let meant = saved.groups.iter().filter(|group| {
            selector.matches(&group.group) && saved.has_to_do_with(group) && !is_done(group)
        });
        let all: Vec<GroupOffsets> = meant.cloned().collect();
        let names = || all.iter().map(|group| group.group.as_str());
        let step = "list the consumer groups of the target cluster";
        let listed = client
            .list_groups()
            .await
            .map_err(OffsetsError::kafka(step))?;
        let meant = exactly(names(), &listed)?;
        refuse_live(&meant)?;
        let mut snapshot = None;
        if let Some(id) = groups.snapshot_id.as_ref().filter(|_| !plan.dry_run) {
            let keeper = Keeper::in_store(store.clone(), &plan.run.namespace, id);
            keeper.check().await?;
            let scope = Scope {
                run: &plan.run,
                groups: &patterns,
                topics: None,
            };
            let has = read(&client, &meant, None).await?;
            let is_own = |run: &RunRef| run.uid == plan.run.uid;
            let taken = take(&client, &keeper, scope, has, is_own).await?;
            refuse_unkept(names(), &taken)?;
            snapshot = Some(taken);
        }
        Ok(Self {
            plan,
            groups,
            store,
            client,
            saved: all,
            meant,
            done,
            layout: saved.layout,
            snapshot,
        })
    }

    /// How many groups these are.
    pub(crate) fn count(&self) -> u64 {
        self.meant.len() as u64
    }

    /// Commits, when the restore is complete.
    pub(crate) async fn finish(self, context: &Context) -> Result<OffsetsReport, Unfinished> {
        let decided = decided(&self.layout, &self.plan.run.uid, self.store).await;
        let decision = decided.map_err(OffsetsError::from)?;
        let has = read(&self.client, &self.meant, None).await?;
        let (plans, logs) = self.planned(&decision, &has, context).await?;
        let (mut report, error) = apply(&self.client, &plans, &logs, PARALLELISM, context).await;
        report.snapshot = self.snapshot.as_ref().map(summary);
        self.note(&report).await?;
        report.groups_done += self.done.len() as u64;
        report.groups.extend(self.done);
        ended(report, error)
    }

    /// Keeps which groups are done.
    async fn note(&self, report: &OffsetsReport) -> Result<(), OffsetsError> {
        let is_done = |result: &&GroupResult| result.status == GroupStatus::Completed;
        let groups: Vec<GroupResult> = report.groups.iter().filter(is_done).cloned().collect();
        if groups.is_empty() {
            return Ok(());
        }
        let now = Timestamp::now();
        let uid = &self.plan.run.uid;
        let key = self.layout.restore_groups_at(uid, now.as_millisecond());
        let done = CarriedOver {
            format_version: FORMAT_VERSION,
            completion_time: now,
            groups,
        };
        match self.store.create(&key, to_json(&done).into()).await? {
            Created::New | Created::Same => Ok(()),
            // Two workers at the same restore in the same millisecond: the lease keeps them apart.
            Created::Exists(_) => Err(RestoreError::TakenOver.into()),
        }
    }

    async fn planned(
        &self,
        decision: &RestoreDecision,
        has: &[GroupOffsets],
        context: &Context,
    ) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
        let client = &self.client;
        let saved = self.saved.iter().map(|group| restored(group, decision));
        let saved: Vec<GroupOffsets> = saved.filter(|group| !group.topics.is_empty()).collect();
        match &self.groups.to {
            CarryOverTarget::FromBackup => {
                let is_meant = |name: &str| saved.iter().any(|group| group.group == name);
                let found = translate(self.store, &self.layout, decision, None).await?;
                let mut groups = found.groups()?.collect::<Result<Vec<_>, _>>()?;
                groups.retain(|group| is_meant(&group.group));
                for group in &mut groups {
                    let left = &mut group.left_out;
                    left.retain(|left| decision.topics.contains_key(&left.topic));
                }
                translated(client, &groups, &target_ids(decision), None, has).await
            }
            CarryOverTarget::HeaderBased { source_cluster } => {
                if decision.provenance.is_none() {
                    return Err(SpecError::new(
                        "spec.includeOriginalOffsetHeader",
                        "true, for offsetReset.strategy headerBased goes by these headers",
                        "records without them",
                    )
                    .into());
                }
                let is_moved = decision.topics.values().any(is_moved);
                let empty = saved.iter().map(|group| without_records(group, decision));
                let empty: Vec<GroupOffsets> = empty.collect();
                let how = ByHeaders {
                    source_cluster: source_cluster.as_deref(),
                    empty: &empty,
                    placement: match is_moved {
                        true => Placement::AnyPartition,
                        false => Placement::SamePartition,
                    },
                };
                let target = |topic: &str| {
                    let restored = decision.topics.get(topic)?;
                    Some(Arc::from(restored.target.as_str()))
                };
                by_headers(client, how, &saved, target, has, context).await
            }
            CarryOverTarget::Plain(to) => {
                let base = saved.iter().map(|group| in_target(group, decision));
                plain(client, to, &base.collect::<Vec<_>>(), has).await
            }
        }
    }
}

/// The groups that earlier attempts of a restore have carried over.
async fn done(layout: &Layout, uid: &str, store: &Store) -> Result<Vec<GroupResult>, OffsetsError> {
    let folder = layout.restore_groups(uid);
    let keys = store.list(&folder, |key, _| Some(key.to_owned())).await?;
    let mut done: Vec<GroupResult> = Vec::new();
    for key in keys {
        if let Some(bytes) = store.get(&key).await? {
            done.extend(from_json::<CarriedOver>(&key, &bytes)?.groups);
        }
    }
    Ok(done)
}

/// Refuses groups that the snapshot of an earlier attempt does not have, as the newest backup had not then: nothing would bring
/// them back.
fn refuse_unkept<'b>(
    names: impl Iterator<Item = &'b str>,
    had: &Snapshot,
) -> Result<(), SpecError> {
    let unkept: Vec<&str> = names.filter(|name| !had.has(name)).collect();
    if unkept.is_empty() {
        return Ok(());
    }
    let expected = format!(
        "groups of snapshot {}, which the first attempt of this restore has taken (another restore takes another one)",
        had.header.snapshot_id
    );
    let found = format!("groups that are not in it: {}", unkept.join(", "));
    Err(SpecError::new(FIELD, expected, found))
}

/// What a group had committed for topics that are restored.
fn restored(group: &GroupOffsets, decision: &RestoreDecision) -> GroupOffsets {
    let mut group = group.clone();
    group
        .topics
        .retain(|topic, _| decision.topics.contains_key(topic));
    group
}

/// Whether records may be in another partition than at the source.
fn is_moved(topic: &RestoredTopicDecision) -> bool {
    let mut partitions = topic.partitions.iter();
    topic.by_key.is_some() || partitions.any(|one| one.sources != [one.partition])
}

/// Which partitions of the target a group has to do with, by what it had committed at the source.
fn in_target(group: &GroupOffsets, decision: &RestoreDecision) -> GroupOffsets {
    places(group, decision, |_, _| true)
}

/// Those of them without a record that the group has to do with: no header can tell of them.
fn without_records(group: &GroupOffsets, decision: &RestoreDecision) -> GroupOffsets {
    places(group, decision, |topic, partition| {
        let mut sources = topic.sources.iter();
        !sources.any(|source| source.partition == partition && source.records > 0)
    })
}

/// Target partitions all of whose sources that `group` had committed offsets for are of a kind, with the first of these offsets.
fn places(
    group: &GroupOffsets,
    decision: &RestoreDecision,
    is_meant: impl Fn(&RestoredTopicDecision, i32) -> bool,
) -> GroupOffsets {
    let mut topics: BTreeMap<String, Vec<GroupOffset>> = BTreeMap::new();
    for (topic, offsets) in &group.topics {
        let Some(restored) = decision.topics.get(topic) else {
            continue;
        };
        let places = topics.entry(restored.target.clone()).or_default();
        for target in &restored.partitions {
            let is_source = |one: &&GroupOffset| target.sources.contains(&one.partition);
            let mut from = offsets.iter().filter(is_source);
            if from.clone().all(|one| is_meant(restored, one.partition)) {
                places.extend(from.next().map(|one| GroupOffset {
                    partition: target.partition,
                    ..one.clone()
                }));
            }
        }
    }
    topics.retain(|_, places| !places.is_empty());
    GroupOffsets {
        topics,
        ..group.clone()
    }
}
