//! What a run works with, whichever verb it is, and what it hands back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kafka_backup_shared::report::{
    DryRun, HeldBack, OffsetsReport, RetentionHeld, RetentionReport, TopicReport,
};
use tokio_util::sync::CancellationToken;

/// Default of the memory budget that fetch buffers and open segments share: with what the program takes beside it, the process
/// stays below 64 MiB (`cargo lab bench data`).
pub const DEFAULT_MEMORY_BUDGET: usize = 36 << 20;

/// Default of [`Context::lease`].
pub const DEFAULT_LEASE: Duration = Duration::from_secs(60);

/// What a run works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Counts what is durable, for the terminal, the push and the report of a failed run.
    pub progress: Arc<Progress>,
    /// Cancelled at SIGTERM: stop starting work, make durable what is whole, return [`Fault::Interrupted`](kafka_backup_shared::report::Fault::Interrupted).
    pub cancel: CancellationToken,
    /// Bytes that fetch buffers and open segments may hold together.
    pub memory_budget: usize,
    /// After so long without a sign of life another worker may take over a restore.
    pub lease: Duration,
    /// Secrets, as `<secrets_dir>/<secret name>/<key>`.
    pub secrets_dir: PathBuf,
}

/// What of a run is durable so far, over all its attempts.
#[derive(Debug, Default)]
pub struct Progress {
    records: AtomicU64,
    bytes: AtomicU64,
    done: AtomicU64,
    planned: AtomicU64,
    checked_bytes: AtomicU64,
    to_check_bytes: AtomicU64,
}

impl Progress {
    /// Sets how many offsets (backup) or records (restore) the run is about, and how many an earlier attempt did.
    pub fn plan(&self, planned: u64, done: u64) {
        self.planned.store(planned, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
    }

    /// Adds offsets or records that there is more to do.
    pub fn plan_more(&self, planned: u64) {
        self.planned.fetch_add(planned, Ordering::Relaxed);
    }

    /// Adds what has just become durable: records, bytes of record batches, and offsets (backup) or records (restore) towards the plan.
    pub fn add(&self, records: u64, bytes: u64, done: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.done.fetch_add(done, Ordering::Relaxed);
    }

    /// Says that so many more bytes are read and checked before what they hold is written (restore).
    pub fn plan_check(&self, bytes: u64) {
        self.to_check_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that were checked.
    pub fn add_checked(&self, bytes: u64) {
        self.checked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that are checked first: done and planned; `None` when all is done.
    pub fn checking(&self) -> Option<(u64, u64)> {
        let checked = self.checked_bytes.load(Ordering::Relaxed);
        let planned = self.to_check_bytes.load(Ordering::Relaxed);
        (checked < planned).then_some((checked, planned))
    }

    /// Durable records.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Durable bytes of record batches.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Part of the plan that is done, 0 to 1; `None` before the plan is known.
    pub fn ratio(&self) -> Option<f64> {
        let planned = self.planned.load(Ordering::Relaxed);
        let done = self.done.load(Ordering::Relaxed);
        (planned > 0).then(|| (done as f64 / planned as f64).min(1.0))
    }

    /// Offsets (backup) or records (restore): done and planned.
    pub fn done_of_planned(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.planned.load(Ordering::Relaxed),
        )
    }
}

/// What a successful run did; becomes the [`Report`](kafka_backup_shared::report::Report).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completed {
    /// Records that the run added.
    pub records: u64,
    /// Bytes of record batches that it added.
    pub bytes: u64,
    /// Offset ranges that are missing for good.
    pub gaps: u64,
    /// Those of them that no run before had found.
    pub new_gaps: u64,
    /// Offsets by which the source was ahead of the archive at the end; `None` where that is not known.
    pub lag: Option<u64>,
    /// What retention did when the run was complete.
    pub retention: Option<RetentionReport>,
    /// What open transactions kept from being captured.
    pub held_back: HeldBack,
    /// Topics whose retention is held.
    pub retention_held: RetentionHeld,
    /// Of a restore, the run id of the backup that it read.
    pub backup_id: Option<String>,
    /// What would be written; nothing was.
    pub dry_run: Option<DryRun>,
    /// What became of committed offsets.
    pub offsets: Option<OffsetsReport>,
    /// What a user should know although the run succeeded.
    pub warnings: Vec<String>,
    /// Per topic.
    pub topics: Vec<TopicReport>,
}
