//! What of an archive may go: which runs, which segments, and when. Everything here is pure.
//!
//! # The rules
//! - A run goes when as many complete runs as the policy keeps are newer, or when it is older than the policy's age. The newest
//!   complete run never goes; where there is none, nothing does.
//! - A run without manifest that is young ([`ABANDONED_AFTER`]), newer than every complete run or goes on from the newest one is
//!   *live*: it stays, the runs that it goes on from stay, and so does every segment that it may build on. An older one was given
//!   up, and goes.
//! - The run that a young restore without an end reads stays, and what the restore's plan pins.
//! - A segment goes when no run that stays pins it, no live run may build on it, and neither may a run that begins now.
//! - First everything that may go is marked, in a list of its own ([`Marked`]). A marked object is deleted when the mark is
//!   [`MARKED_FOR`] old *and* a fresh look at the archive says once more that the object may go.
//!
//! # Why nothing is lost
//! - *A run that begins between a look and the deletions that follow* continues the newest complete run that it sees. What it
//!   may build on beyond that run's ends stays, for every look treats such a run as if it had begun ([`Continuation`]). If it
//!   chose its base before a newer run was complete, that was after the mark: what lies above the base's ends lay above the
//!   ends of the newest run when marks were made, for ends of a generation do not go back, and was not marked.
//!   It may go on from partial runs that are newer than its base: these are live, and what lies beyond their ends they may build
//!   on themselves.
//! - *A run that commits between a look and its deletions* was live at the look. It pins what its base pins and what a live run
//!   may build on, nothing else.
//! - *Two retentions at once* mark the same, and delete what both may; an object that is gone is as good as deleted.
//! - *A crash* at any step: marks that were not written are written by the next retention; a deletion that broke off goes on,
//!   for the list of marks is the last to be deleted. Manifests are deleted before what they pin, so that whoever reads a
//!   manifest finds its segments, and `begin.json` last: a run whose manifest was marked and is gone does not count as live.
//! - *Clocks*: the margins are 24 hours and 7 days. A clock that is behind deletes later. One that runs ahead by days can end
//!   the protection of live runs early and expire runs by age, but not the newest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::layout::{ChainKey, SegmentName, run_order};
use super::manifest::PinnedPartition;
use super::tiles::{Foundation, Sizes};

/// A run without manifest, or a restore without an end, counts as given up after this.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between mark and deletion.
pub const MARKED_FOR: Duration = Duration::from_secs(24 * 3600);

/// Which runs stay: those within both limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// So many complete runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backups: Option<u32>,
    /// Those that began no longer ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age_hours: Option<u32>,
}

/// A run that has begun, as its objects tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRun {
    /// Run id.
    pub id: String,
    /// Whether it has a manifest.
    pub state: RunState,
    /// When it was fixed.
    pub start_time: Timestamp,
    /// The runs that it goes on from, where it has no manifest yet.
    pub bases: BTreeSet<String>,
}

/// Which objects a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    /// `manifest.json`.
    Complete,
    /// `partial.json`, and no manifest.
    Partial,
    /// Only `begin.json`.
    Unfinished,
    /// Only `begin.json`, after retention has deleted the manifest.
    Dying,
}

/// A restore that has a plan and no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRestore {
    /// The run that it reads.
    pub backup_id: String,
    /// When it was decided, or its lease was renewed last.
    pub last_seen: Timestamp,
}

impl OpenRestore {
    /// Whether it counts as under way.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !is_older(self.last_seen, ABANDONED_AFTER, now)
    }
}

/// Which runs stay, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunDecision {
    /// The newest complete run. Without one nothing goes.
    pub newest: Option<String>,
    /// Runs without manifest that may still be at work.
    pub live: BTreeSet<String>,
    /// Runs that go.
    pub expired: BTreeSet<String>,
}

/// Decides which runs go.
pub fn decide_runs(
    runs: &[KnownRun],
    restores: &[OpenRestore],
    policy: &Policy,
    now: Timestamp,
) -> RunDecision {
    let mut complete: Vec<&KnownRun> = runs
        .iter()
        .filter(|run| run.state == RunState::Complete)
        .collect();
    complete.sort_by(|a, b| run_order(&b.id).cmp(&run_order(&a.id)));
    let Some(newest) = complete.first() else {
        return RunDecision::default();
    };
    let is_live = |run: &&KnownRun| match run.state {
        RunState::Complete | RunState::Dying => false,
        RunState::Partial | RunState::Unfinished => {
            !is_older(run.start_time, ABANDONED_AFTER, now)
                || run.start_time > newest.start_time
                || run.bases.contains(&newest.id)
        }
    };
    let live: Vec<&KnownRun> = runs.iter().filter(is_live).collect();
    let held: BTreeSet<&str> = live
        .iter()
        .flat_map(|run| run.bases.iter().map(String::as_str))
        .chain(live.iter().map(|run| &*run.id))
        .chain(
            restores
                .iter()
                .filter(|restore| restore.is_live(now))
                .map(|restore| &*restore.backup_id),
        )
        .chain([&*newest.id])
        .collect();
    let oldest_kept = policy
        .backups
        .and_then(|count| complete.get(usize::try_from(count).ok()?.checked_sub(1)?));
    let goes = |run: &&KnownRun| {
        let beyond = oldest_kept.is_some_and(|oldest| run_order(&run.id) < run_order(&oldest.id));
        let too_old = policy.max_age_hours.is_some_and(|hours| {
            let age = Duration::from_secs(u64::from(hours) * 3600);
            is_older(run.start_time, age, now)
        });
        let of_no_use = match run.state {
            RunState::Unfinished | RunState::Dying => true,
            RunState::Complete | RunState::Partial => false,
        };
        !held.contains(&*run.id) && (beyond || too_old || of_no_use)
    };
    RunDecision {
        newest: Some(newest.id.clone()),
        live: live.iter().map(|run| run.id.clone()).collect(),
        expired: runs.iter().filter(goes).map(|run| run.id.clone()).collect(),
    }
}

fn is_older(then: Timestamp, age: Duration, now: Timestamp) -> bool {
    Duration::try_from(now.duration_since(then)).is_ok_and(|passed| passed > age)
}

/// A generation of a partition that a live run, or one that begins now, continues or has opened.
#[derive(Clone, Debug)]
pub struct Continuation {
    /// Which one.
    pub chain: ChainKey,
    /// What its base has pinned there; `None` where the run opened the generation, or its base is not there: it may use all.
    pub base: Option<PinnedPartition>,
}

/// The segments of one topic that may go, with their sizes.
///
/// `pinned` are the segments of runs that stay and of live restores.
pub fn expired_segments(
    there: &BTreeMap<ChainKey, Sizes>,
    pinned: &BTreeMap<ChainKey, BTreeSet<SegmentName>>,
    continuations: &[Continuation],
) -> Vec<(ChainKey, SegmentName, u64)> {
    let mut expired = Vec::new();
    for (chain, sizes) in there {
        let mut stay = pinned.get(chain).cloned().unwrap_or_default();
        for continuation in continuations.iter().filter(|c| c.chain == *chain) {
            match &continuation.base {
                Some(base) => stay.extend(Foundation::new(base).usable(sizes)),
                None => stay.extend(sizes.keys()),
            }
        }
        let go = sizes.iter().filter(|(name, _)| !stay.contains(name));
        expired.extend(go.map(|(name, size)| (chain.clone(), *name, *size)));
    }
    expired
}

/// `trash/<id>.json`: objects that retention is going to delete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Marked {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// When they were marked.
    pub created: Timestamp,
    /// Their keys, relative to the archive's folder.
    pub keys: Vec<String>,
}

impl Marked {
    /// Whether it is old enough.
    pub fn is_due(&self, now: Timestamp) -> bool {
        is_older(self.created, MARKED_FOR, now)
    }
}

/// What one retention does with the objects that may go now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Keys to mark: they are in no list yet.
    pub mark: Vec<String>,
    /// Keys to delete.
    pub delete: Vec<String>,
    /// Lists that are done with when `delete` is deleted.
    pub done: Vec<String>,
}

/// Compares what may go now with what was marked before.
pub fn step<'a>(
    expired: impl IntoIterator<Item = &'a String>,
    marked: &BTreeMap<String, Marked>,
    now: Timestamp,
) -> Step {
    let keys_of = |due: bool| -> BTreeSet<&String> {
        let lists = marked.values().filter(|list| list.is_due(now) == due);
        lists.flat_map(|list| &list.keys).collect()
    };
    let (due, waiting) = (keys_of(true), keys_of(false));
    let mut step = Step {
        done: marked
            .iter()
            .filter(|(_, list)| list.is_due(now))
            .map(|(id, _)| id.clone())
            .collect(),
        ..Step::default()
    };
    for key in expired {
        if due.contains(key) {
            step.delete.push(key.clone());
        } else if !waiting.contains(key) {
            step.mark.push(key.clone());
        }
    }
    step
}

#[cfg(test)]
mod tests;
