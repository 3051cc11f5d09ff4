//! Retention: deletes what an archive need not keep, and merges small segments.
//!
//! ```text
//! look    marks, runs, restores, per topic parts and segments   -> View        reads only
//! act     marks what may go; deletes what was marked a day ago  -> trash/<id>.json, fewer objects
//! merge   many small neighbours into one tile                   -> one more segment
//! ```
//! What may go is decided by [`kafka_backup_shared::archive::retention`], where it is also argued why nothing is lost.
//!
//! # Guarantees
//! - Unless every read of the look succeeded nothing is written and nothing deleted: only NotFound means absent.
//! - Of a run the manifest goes first and `begin.json` last, what they pin in between; the list of marks goes when all is gone.
//! - Objects that are not an archive's are never touched.
//! - A merged tile holds the very bytes of what it stands for, each piece checked against its name. The pieces go when no run
//!   pins them any more.
//!
//! # Assumptions
//! - Clocks differ by less than hours. Every future may be dropped at any moment: the next retention goes on.

mod act;
mod look;
mod merge;

use jiff::Timestamp;
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::retention::{Step, step};
use kafka_backup_shared::plan::{ArchiveName, Retention};
use kafka_backup_shared::report::{Fault, Removal, RetentionReport};
use serde::Serialize;

use crate::inspect::InspectError;
use crate::store::{Store, StoreError};

/// Requests to the store at the same time.
const CONCURRENCY: usize = 16;

/// Which topics are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Those in which a run has just changed something, expired or left marks: what is idle costs nothing.
    Touched,
    /// All that have segments.
    All,
}

/// Why nothing was deleted, or not all.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object of the archive cannot be read: what it pins is not known.
    #[error("nothing was deleted, for the archive cannot be read in full")]
    Format(#[from] FormatError),
    /// As above.
    #[error("nothing was deleted, for the archive cannot be read in full")]
    Inspect(#[from] InspectError),
}

impl RetentionError {
    /// What it means for the exit code.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Format(_) => Fault::Corrupt,
            Self::Inspect(error) => error.fault(),
        }
    }
}

/// What was done, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Done {
    /// The counts.
    #[serde(flatten)]
    pub report: RetentionReport,
    /// Keys that were marked or would be, relative to the archive's folder.
    pub marked_keys: Vec<String>,
    /// Keys that were deleted or would be.
    pub deleted_keys: Vec<String>,
    /// Damage that was met while segments were merged.
    pub warnings: Vec<String>,
}

/// Does what `retention` says to an archive, as of `now`.
///
/// # Errors
/// [`RetentionError`]. Marks and deletions that were made stay.
pub async fn run(
    store: &Store,
    archive: &ArchiveName,
    retention: &Retention,
    scope: Scope,
    now: Timestamp,
) -> Result<Done, RetentionError> {
    let layout = Layout::new(archive);
    let view = look::look(store, &layout, &retention.policy, scope, now).await?;
    let step = step(view.expired.keys(), &view.marked, now);
    let mut report = RetentionReport {
        dry_run: retention.dry_run,
        marked: removal(&view, &step.mark),
        deleted: removal(&view, &step.delete),
        merged: view.merges.len() as u64,
    };
    let mut warnings = Vec::new();
    if !retention.dry_run {
        act::act(store, &layout, &step, now).await?;
        (report.merged, warnings) = merge::merge(store, &layout, view.merges).await?;
        tracing::info!(
            marked = report.marked.objects,
            deleted = report.deleted.objects,
            bytes = report.deleted.bytes,
            merged = report.merged,
            "retention done"
        );
    }
    let Step { mark, delete, .. } = step;
    Ok(Done {
        report,
        marked_keys: mark,
        deleted_keys: delete,
        warnings,
    })
}

fn removal(view: &look::View, keys: &[String]) -> Removal {
    Removal {
        runs: keys
            .iter()
            .filter_map(|key| view.run_of_begin(key))
            .collect(),
        objects: keys.len() as u64,
        bytes: keys.iter().filter_map(|key| view.expired.get(key)).sum(),
    }
}
