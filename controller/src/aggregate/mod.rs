//! Series that are pushed and that no status tells: what workers measure of themselves, and people's own.
//!
//! A source is whoever pushes cumulative values under one grouping key: a pod of a run, or a process of somebody's own job. What
//! is exposed leaves the source's part of the key off and adds up over all sources.
//!
//! # Guarantees
//! - A push is taken whole or not at all: everything is checked before anything is changed.
//! - A repeated push changes nothing, and one that comes late is recognised: a counter that is lower than before, counted from
//!   the same start. With a later start it is a new process, whose counts are added.
//! - Counters never fall while their series is there: what a source has counted stays when the source ends.
//! - Counters, histograms and summaries add up (histograms on the bounds that all sources share, summaries without their
//!   quantiles); of gauges and untyped values the last one counts, of those named `_timestamp` the largest.
//!
//! # Assumptions
//! - It lives in memory: after a restart the next push brings back what its source has counted.

mod render;
mod series;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::exposition::Family;
use store::Store;
pub(crate) use store::{Held, Replace, StoreError, Taken};

/// How long series of people's own stay that nobody pushes any more.
pub(crate) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a source is remembered that has ended, or whose Job has, so that a late repeat of its last push is recognised.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Who pushes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A Job of an object; its series go when the object goes.
    Job { object: ObjectName, uid: String },
    /// Somebody with the static token; the series go when nobody has pushed them for [`KEPT`].
    Holder,
}

/// An object by kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectName {
    pub(crate) kind: &'static str,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// One who pushes cumulative values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Unlike that of any other source.
    pub(crate) id: String,
    /// What every exposed series of it carries; they take the place of pushed ones with the same name.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) owner: Owner,
}

/// All that is pushed.
pub(crate) struct Aggregator {
    store: Mutex<Store>,
}

impl Aggregator {
    /// An empty one, of at most `max_samples` lines of exposition.
    pub(crate) fn new(max_samples: usize) -> Self {
        Self {
            store: Mutex::new(Store::new(max_samples)),
        }
    }

    /// Takes a push.
    pub(crate) fn push(
        &self,
        source: &Source,
        replace: Replace,
        families: &[Family<'_>],
        now: Instant,
    ) -> Result<Taken, StoreError> {
        self.store().push(source, replace, families, now)
    }

    /// Ends a source: its counters stay, what it said last of gauges goes.
    pub(crate) fn end(&self, source: &Source, now: Instant) {
        self.store().end(&source.id, now);
    }

    /// Forgets what is over: series of objects that are not among `objects` (with the UID of the Job that is theirs at present),
    /// sources of Jobs that have ended, and people's own that have not been pushed for [`KEPT`].
    pub(crate) fn sweep(&self, objects: &HashMap<ObjectName, Option<String>>, now: Instant) {
        self.store().sweep(objects, now);
    }

    /// Appends all families in the format.
    pub(crate) fn render(&self, out: &mut String, format: Format) {
        render::render(&self.store(), out, format);
    }

    /// Bytes that [`Aggregator::render`] appends, rather too many than too few: a page that grows while it is written is there twice.
    pub(crate) fn size(&self) -> usize {
        render::size(&self.store())
    }

    /// How much is held.
    pub(crate) fn held(&self) -> Held {
        self.store().held()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // Changes are applied by code that does not panic.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

#[cfg(test)]
mod tests;
