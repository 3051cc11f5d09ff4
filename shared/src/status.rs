//! The parts of a status that all kinds share: the life of a run and what has been counted.
//!
//! # Guarantees
//! - Totals and progress stand in the status before they are published: `/metrics` is a pure function of statuses.
//! - A run is counted once: the write that removes [`Life::active_run`] is the write that adds it to [`Totals`].

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::DURATION_BUCKETS;

/// Where an object stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// No run has started yet.
    #[default]
    Pending,
    /// A run is going on.
    Running,
    /// The last run succeeded.
    Completed,
    /// The last run failed, or the spec is invalid.
    Failed,
}

impl Phase {
    /// All phases, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Running, Self::Completed, Self::Failed];

    /// The word in the status and in the `phase` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }
}

/// Why a run was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunReason {
    /// The schedule was due.
    Schedule,
    /// One tick made up for after the controller was away.
    CatchUp,
    /// The object has no schedule and has not run yet.
    OneShot,
    /// The spec of an object without a schedule changed.
    SpecChanged,
    /// The trigger annotation got a new value.
    Trigger,
    /// The retry annotation got a new value.
    Retry,
}

/// The run that is going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActiveRun {
    /// Run id.
    pub id: String,
    /// Name of the Job.
    pub job: String,
    /// UID of the Job, once it exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// Why it was started.
    pub reason: RunReason,
    /// What makes the reason unique: the tick, the annotation's value, the generation.
    pub key: String,
    /// `metadata.generation` that the plan was made from.
    pub generation: i64,
    /// When the run was decided.
    pub start_time: Time,
    /// Records that are durable beyond the base, over all attempts.
    #[serde(default)]
    pub records: u64,
    /// The same in bytes of record batches.
    #[serde(default)]
    pub bytes: u64,
    /// Percent of the planned offsets that are done, where the worker knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<u8>,
    /// Percent of the segments' bytes that are checked, which comes before anything of their topic is written; restores only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_percent: Option<u8>,
    /// Bytes of record batches that became durable per second of late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How many seconds the rest takes at that rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_left: Option<u64>,
}

/// A run that is due and waits for its place, because only so many may be going on at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingRun {
    /// Why it is to be started.
    pub reason: RunReason,
    /// What makes the reason unique.
    pub key: String,
    /// The time in its run id.
    pub at: Time,
    /// Since when it is due; the line is in this order.
    pub due: Time,
}

/// How a run ended, in history and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RunOutcome {
    /// It did what the plan says.
    #[serde(rename = "success")]
    Success,
    /// It did not.
    #[serde(rename = "failure")]
    Failure,
}

impl RunOutcome {
    /// Both outcomes.
    pub const ALL: [Self; 2] = [Self::Success, Self::Failure];

    /// The word in the history and in the `outcome` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
        }
    }
}

/// A finished run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FinishedRun {
    /// Id of this run, of whatever kind.
    pub backup_id: String,
    /// Name of the Job.
    pub job: String,
    /// UID of the Job; absent when none was ever created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_uid: Option<String>,
    /// When the Job started.
    pub start_time: Time,
    /// When it ended.
    pub completion_time: Time,
    /// Bytes that the run added.
    pub size: u64,
    /// Records that the run added.
    pub records: u64,
    /// Success or failure.
    pub outcome: RunOutcome,
    /// CamelCase reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What a user should know about the failure; of a dry run, what would be done; of what changes committed offsets, how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Pods that the run took.
    pub attempts: u32,
}

/// Counted runs of one outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutcomeTotals {
    /// Number of runs.
    pub runs: u64,
    /// Sum of their durations in milliseconds.
    pub duration_ms_sum: u64,
    /// Runs per duration bucket (not cumulative), one more than there are bounds: the last counts what is above them all.
    #[serde(default)]
    pub duration_buckets: Vec<u64>,
}

impl OutcomeTotals {
    /// Adds one run.
    pub fn add(&mut self, duration_ms: u64) {
        self.runs += 1;
        self.duration_ms_sum += duration_ms;
        self.duration_buckets.resize(DURATION_BUCKETS.len() + 1, 0);
        let seconds = duration_ms as f64 / 1000.0;
        let bucket = DURATION_BUCKETS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(DURATION_BUCKETS.len());
        self.duration_buckets[bucket] += 1;
    }
}

/// Counted consumer groups of offset resets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupTotals {
    /// Groups whose offsets were reset.
    #[serde(default)]
    pub success: u64,
    /// Groups for which that failed.
    #[serde(default)]
    pub failure: u64,
}

impl GroupTotals {
    /// The counted groups of `outcome`.
    pub fn of(self, outcome: RunOutcome) -> u64 {
        match outcome {
            RunOutcome::Success => self.success,
            RunOutcome::Failure => self.failure,
        }
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: Self) {
        self.success += other.success;
        self.failure += other.failure;
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

/// A run whose increment is not in the totals yet, because Prometheus may not have seen the value before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldRun {
    /// Run id.
    pub id: String,
    /// Success or failure.
    pub outcome: RunOutcome,
    /// Its duration in milliseconds.
    pub duration_ms: u64,
    /// Gaps that it found.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gaps: u64,
    /// Consumer groups whose offsets it was to reset, by what became of them.
    #[serde(default, skip_serializing_if = "GroupTotals::is_nothing")]
    pub groups: GroupTotals,
    /// When it was accounted.
    pub since: Time,
}

/// What the counters of an object publish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    /// Successful runs.
    #[serde(default)]
    pub success: OutcomeTotals,
    /// Failed runs.
    #[serde(default)]
    pub failure: OutcomeTotals,
    /// Records of runs that succeeded.
    #[serde(default)]
    pub records: u64,
    /// Records that are durable but belong to no successful run yet.
    #[serde(default)]
    pub uncommitted: u64,
    /// Offset ranges that runs found to be missing for good.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gaps: u64,
    /// Consumer groups of offset resets.
    #[serde(default, skip_serializing_if = "GroupTotals::is_nothing")]
    pub groups: GroupTotals,
    /// Runs that are accounted and not yet in the counters above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held: Vec<HeldRun>,
    /// Completion time of the newest successful run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success_time: Option<Time>,
    /// Duration in milliseconds of the newest finished run, whatever its outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_duration_ms: Option<u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    /// The counted runs of `outcome`.
    pub fn of(&self, outcome: RunOutcome) -> &OutcomeTotals {
        match outcome {
            RunOutcome::Success => &self.success,
            RunOutcome::Failure => &self.failure,
        }
    }

    /// The counted runs of `outcome`, to change.
    pub fn of_mut(&mut self, outcome: RunOutcome) -> &mut OutcomeTotals {
        match outcome {
            RunOutcome::Success => &mut self.success,
            RunOutcome::Failure => &mut self.failure,
        }
    }
}

/// What every kind's status has: the life of its runs. Flattened into each status.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Life {
    /// `metadata.generation` that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the object stands.
    #[serde(default)]
    pub phase: Phase,
    /// Ready, Progressing, Succeeded.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The run that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_run: Option<ActiveRun>,
    /// The run that waits for its place; a newer tick takes the place of an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_run: Option<WaitingRun>,
    /// Generation that the newest run was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_generation: Option<i64>,
    /// SHA-256 of what the newest run was asked to do; an object without a schedule runs again when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run_plan: Option<String>,
    /// What the counters publish.
    #[serde(default)]
    pub totals: Totals,
}

/// The API's time type from jiff's.
pub fn time(at: Timestamp) -> Time {
    Time(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        let mut totals = OutcomeTotals::default();
        totals.add(60_000);
        totals.add(60_001);
        totals.add(u64::from(u32::MAX));
        let at_60 = DURATION_BUCKETS.iter().position(|b| *b == 60.0).unwrap();
        assert_eq!(totals.duration_buckets[at_60], 1);
        assert_eq!(totals.duration_buckets[at_60 + 1], 1);
        assert_eq!(totals.duration_buckets.last(), Some(&1));
        assert_eq!(totals.runs, 3);
    }
}
