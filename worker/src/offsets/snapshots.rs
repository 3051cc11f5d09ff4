//! Takes snapshots, and tells what it takes to get back to one.
//!
//! # Guarantees
//! - A rollback goes to the very state: offsets, metadata, and the absence of offsets that were not there.
//! - The leader epoch of a commit goes back with it only into the same log, by cluster id and topic id; else none does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::groups::GroupOffsets;
use kafka_backup_shared::archive::snapshot::{Snapshot, SnapshotHeader};
use kafka_backup_shared::plan::{RunRef, SpecError};
use kafka_backup_shared::report::SnapshotSummary;
use kafka_backup_shared::selector::GroupSelector;

use super::GROUPS;
use super::change::{GroupPlan, Wanted, by_place, difference};
use super::error::OffsetsError;
use super::groups::refuse_absent;
use super::keeper::Keeper;
use super::logs::{Logs, Place};
use super::target::topics_of;
use crate::kafka::Client;

/// What a snapshot is of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) run: &'a RunRef,
    /// Ids and globs that were asked for.
    pub(crate) groups: &'a [String],
    /// Names and globs of topics; `None`: all.
    pub(crate) topics: Option<&'a [String]>,
}

/// Keeps what `groups` have; afterwards it is durable. What is told is what they had when the run began: an earlier attempt of it may
/// have changed them since.
pub(crate) async fn take(
    client: &Client,
    keeper: &Keeper,
    scope: Scope<'_>,
    groups: Vec<GroupOffsets>,
    is_same_run: impl Fn(&RunRef) -> bool,
) -> Result<Snapshot, OffsetsError> {
    let logs = Logs::look(client, topics_of(&groups)).await?;
    let header = SnapshotHeader {
        format_version: FORMAT_VERSION,
        snapshot_id: keeper.id().to_owned(),
        run: scope.run.clone(),
        time: Timestamp::now(),
        cluster_id: client.cluster_id().to_owned(),
        groups: scope.groups.to_vec(),
        topics: scope.topics.map(<[String]>::to_vec),
        topic_ids: logs.ids(),
        group_count: groups.len() as u64,
        offset_count: groups.iter().map(GroupOffsets::offsets).sum(),
    };
    let snapshot = Snapshot { header, groups };
    let earlier = keeper.keep(&snapshot, is_same_run).await?;
    let is_new = earlier.is_none();
    let snapshot = earlier.unwrap_or(snapshot);
    tracing::info!(
        id = keeper.id(),
        groups = snapshot.header.group_count,
        offsets = snapshot.header.offset_count,
        "{}",
        if is_new {
            "snapshot kept"
        } else {
            "snapshot of an earlier attempt found"
        }
    );
    Ok(snapshot)
}

/// A snapshot in short.
pub(crate) fn summary(snapshot: &Snapshot) -> SnapshotSummary {
    let header = &snapshot.header;
    SnapshotSummary {
        id: header.snapshot_id.clone(),
        groups: header.group_count,
        partitions: header.offset_count,
        time: header.time,
    }
}

/// The groups of a snapshot that are meant.
pub(crate) fn meant<'a>(
    snapshot: &'a Snapshot,
    patterns: Option<&[String]>,
) -> Result<Vec<&'a GroupOffsets>, OffsetsError> {
    let Some(patterns) = patterns else {
        return Ok(snapshot.groups.iter().collect());
    };
    let selector = GroupSelector::parse(GROUPS, patterns)?;
    let what = format!("snapshot {}", snapshot.header.snapshot_id);
    refuse_absent(GROUPS, &selector, &what, |id| snapshot.has(id))?;
    let groups = snapshot
        .groups
        .iter()
        .filter(|group| selector.matches(&group.group));
    let groups: Vec<&GroupOffsets> = groups.collect();
    match groups.is_empty() {
        true => Err(SpecError::new(
            GROUPS,
            format!("at least one group of {what}"),
            format!("none that matches [{}]", patterns.join(", ")),
        )
        .into()),
        false => Ok(groups),
    }
}

/// Which logs the offsets of a snapshot are of.
#[derive(Debug)]
pub(crate) struct Logbook<'a> {
    header: &'a SnapshotHeader,
    is_same_cluster: bool,
    logs: &'a Logs,
}

impl<'a> Logbook<'a> {
    pub(crate) fn new(header: &'a SnapshotHeader, cluster_id: &str, logs: &'a Logs) -> Self {
        Self {
            is_same_cluster: header.cluster_id == cluster_id,
            header,
            logs,
        }
    }

    /// Refuses another cluster, and topics that were deleted or made anew since, where `groups` have offsets on them.
    pub(crate) fn check(
        &self,
        groups: &[&GroupOffsets],
        cluster_id: &str,
    ) -> Result<(), OffsetsError> {
        const FIELD: &str = "spec.force";
        let expected = "true, to roll back although offsets mean other records there";
        let id = &self.header.snapshot_id;
        if !self.is_same_cluster {
            let found = format!(
                "false, snapshot {id} of cluster {} and cluster {cluster_id}",
                self.header.cluster_id
            );
            return Err(SpecError::new(FIELD, expected, found).into());
        }
        let topics = topics_of(groups.iter().copied());
        let others: Vec<&str> = topics
            .iter()
            .map(|topic| &**topic)
            .filter(|topic| !self.is_same(topic))
            .collect();
        match others.is_empty() {
            true => Ok(()),
            false => Err(SpecError::new(
                FIELD,
                expected,
                format!(
                    "false, and topics that were deleted or made anew since snapshot {id}: {}",
                    others.join(", ")
                ),
            )
            .into()),
        }
    }

    fn is_same(&self, topic: &str) -> bool {
        let then = self.header.topic_ids.get(topic);
        self.is_same_cluster && then.copied() == self.logs.id(topic)
    }

    /// What it takes for a group to have again what it had.
    pub(crate) fn plan(&self, had: &GroupOffsets, has: &GroupOffsets) -> GroupPlan {
        let mut wanted: BTreeMap<Place, Option<Wanted>> = BTreeMap::new();
        let mut gone = Vec::new();
        for (topic, partition) in by_place(has).into_keys() {
            // What is committed for a partition that does not exist cannot be removed (KIP-496 goes by the topics that there are).
            let is_there = self.logs.get(topic, partition).is_some();
            if is_there && self.header.covers(topic) {
                wanted.insert((Arc::from(topic), partition), None);
            } else if !is_there {
                gone.push(format!("topic {topic} partition {partition}"));
            }
        }
        for ((topic, partition), old) in by_place(had) {
            let place: Place = (Arc::from(topic), partition);
            let Some(log) = self.logs.get(topic, partition) else {
                gone.push(format!("topic {topic} partition {partition}"));
                continue;
            };
            let is_outside = !(log.start..=log.end).contains(&old.offset);
            let note = is_outside.then(|| {
                format!(
                    "the partition has {} to {} by now: a consumer will follow its auto.offset.reset",
                    log.start, log.end
                )
            });
            let wish = Wanted {
                offset: old.offset,
                leader_epoch: old.leader_epoch.filter(|_| self.is_same(topic)),
                metadata: old.metadata.clone(),
                note,
            };
            wanted.insert(place, Some(wish));
        }
        let mut plan = GroupPlan::new(has, wanted);
        gone.sort();
        gone.dedup();
        if !gone.is_empty() {
            plan.notes.push(format!(
                "left alone, for they do not exist any more: {}",
                gone.join(", ")
            ));
        }
        plan
    }
}

/// Where groups do not have what the snapshot has. Without `strict` only offsets that are in it count.
pub(crate) fn differences(
    plan: &GroupPlan,
    had: &GroupOffsets,
    has: &GroupOffsets,
    strict: bool,
) -> BTreeSet<String> {
    let now = by_place(has);
    let differs = by_place(had)
        .into_iter()
        .filter_map(|((topic, partition), old)| {
            let found = now.get(&(topic, partition)).map(|found| found.offset);
            difference(&plan.group, topic, partition, Some(old.offset), found)
        });
    let mut differs: BTreeSet<String> = differs.collect();
    if strict {
        differs.extend(plan.differences(has));
    }
    differs
}
