//! `/metrics`: the page, rendered from the watched objects and handed out as an immutable view.
//!
//! # Guarantees
//! - The objects' families are a pure function of what the watch caches have and of the time ([`render`]): whatever this
//!   process forgets, the next page says the same. Series of a deleted object go with it.
//! - A scrape holds a reference to finished bytes: a reader that does not read blocks neither other readers nor writers,
//!   and any number of readers share one page.

mod encode;
mod exposure;
mod own;
mod parse;
mod render;

use std::collections::{BTreeSet, HashSet};
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use kafka_backup_shared::crd::{KafkaBackup, KafkaRestore};
use kafka_backup_shared::status::Totals;
use kube::ResourceExt;

pub(crate) use encode::CONTENT_TYPE;
pub(crate) use exposure::{Exposed, Exposure};
pub(crate) use own::{OwnMetrics, PushResult, Reconciled};
pub(crate) use parse::{TextFamily, TextType, parse};
pub(crate) use render::render;

/// How old a page may be that is handed to another reader.
const PAGE_AGE: Duration = Duration::from_millis(200);

/// What is watched, as it is at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// All KafkaBackups.
    pub(crate) backups: Vec<Arc<KafkaBackup>>,
    /// All KafkaRestores.
    pub(crate) restores: Vec<Arc<KafkaRestore>>,
    /// The queue of each kind.
    pub(crate) queues: Vec<QueueState>,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueState {
    /// Whose queue.
    pub(crate) controller: &'static str,
    /// Objects that are due and not being worked on.
    pub(crate) depth: u64,
    /// Objects that were put in since the start.
    pub(crate) adds: u64,
}

impl Snapshot {
    /// UIDs of all objects.
    fn uids(&self) -> HashSet<String> {
        let backups = self.backups.iter().filter_map(|backup| backup.uid());
        let restores = self.restores.iter().filter_map(|restore| restore.uid());
        backups.chain(restores).collect()
    }

    /// The labels of all objects' reconcile families.
    fn reconciled(&self) -> BTreeSet<Reconciled> {
        fn labels(controller: &'static str, object: &impl ResourceExt) -> Reconciled {
            let namespace = object.namespace().unwrap_or_default();
            (controller, namespace, object.name_any())
        }
        let backups = self
            .backups
            .iter()
            .map(|backup| labels("backup", &**backup));
        let restores = self
            .restores
            .iter()
            .map(|restore| labels("restore", &**restore));
        backups.chain(restores).collect()
    }
}

/// Where snapshots come from: the watch caches.
pub(crate) type Source = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// One rendered page.
pub(crate) struct Page {
    /// As it is.
    pub(crate) text: Bytes,
    /// The same, gzipped.
    pub(crate) gzip: Bytes,
}

/// Renders and hands out pages.
pub(crate) struct Exporter {
    source: Source,
    own: OwnMetrics,
    exposure: Mutex<Exposure>,
    newest: tokio::sync::Mutex<Option<(Instant, Arc<Page>)>>,
}

impl Exporter {
    /// An exporter of what `source` shows.
    pub(crate) fn new(source: Source) -> Arc<Self> {
        Arc::new(Self {
            source,
            own: OwnMetrics::new(),
            exposure: Mutex::default(),
            newest: tokio::sync::Mutex::default(),
        })
    }

    /// What the controller counts about itself.
    pub(crate) fn own(&self) -> &OwnMetrics {
        &self.own
    }

    /// The present page. Readers that come while one is rendered wait for it and share it.
    pub(crate) async fn page(self: &Arc<Self>) -> Arc<Page> {
        let mut newest = self.newest.lock().await;
        if let Some((_, page)) = newest.as_ref().filter(|(at, _)| at.elapsed() < PAGE_AGE) {
            return page.clone();
        }
        let exporter = self.clone();
        let at = Instant::now();
        let page =
            tokio::task::spawn_blocking(move || Arc::new(exporter.render_page(Timestamp::now())))
                .await
                .expect("rendering does not panic and is not aborted");
        *newest = Some((at, page.clone()));
        page
    }

    /// For how long the page has shown the run counters `totals` of the object `uid`, see [`Exposure`].
    ///
    /// `totals` are those of the object in the watch cache that the page is rendered from. Call it whenever the object is
    /// looked at: the time of a value counts from the first call that sees it.
    pub(crate) fn exposed(&self, uid: &str, totals: &Totals, now: Instant) -> Exposed {
        self.exposure().observe(uid, totals, now)
    }

    /// Has every value count as exposed from now on: what was shown before was not what Prometheus scraped.
    pub(crate) fn restart_exposure(&self) {
        self.exposure().retain(|_| false);
    }

    fn exposure(&self) -> MutexGuard<'_, Exposure> {
        // A panic between two fields of it leaves nothing half done.
        self.exposure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn render_page(&self, now: Timestamp) -> Page {
        let snapshot = (self.source)();
        let live = snapshot.uids();
        self.exposure().retain(|uid| live.contains(uid));
        let controllers: Vec<&str> = snapshot
            .queues
            .iter()
            .map(|queue| queue.controller)
            .collect();
        let mut text = render(&snapshot, now);
        text.push_str(&self.own.render(&controllers, &snapshot.reconciled()));
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(text.as_bytes())
            .expect("writing to memory cannot fail");
        let gzip = gzip.finish().expect("writing to memory cannot fail");
        Page {
            text: text.into(),
            gzip: gzip.into(),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
