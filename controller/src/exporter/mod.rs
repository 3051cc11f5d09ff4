//! `/metrics`: the page, rendered from the watched objects and handed out as an immutable view.
//!
//! # Guarantees
//! - The objects' families are a pure function of what the watch caches have and of the time ([`render`]): whatever this
//!   process forgets, the next page says the same. Series of a deleted object go with it.
//! - A scrape holds a reference to finished bytes: a reader that does not read blocks neither other readers nor writers,
//!   and any number of readers share one page.
//! - A page that is old and that nobody reads is not held.

mod encode;
mod exposure;
mod own;
mod render;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use kafka_backup_shared::crd::{KafkaBackup, KafkaOffsetReset, KafkaOffsetRollback, KafkaRestore};
use kafka_backup_shared::status::{Life, Totals};
use kube::api::ObjectMeta;
use tokio::sync::Notify;

use crate::aggregate::{Aggregator, Format, ObjectName};
use crate::kind::{Kind, ObjectKind};
pub(crate) use encode::{Encoder, Escape, Escaped, Float, OPEN_METRICS, TEXT};
pub(crate) use exposure::{Exposed, Exposure};
pub(crate) use own::{OwnMetrics, PushResult, Reconciled};
pub(crate) use render::render;

/// How old a page may be that is handed to another reader.
pub(crate) const PAGE_AGE: Duration = Duration::from_millis(200);

/// Bytes of a page that an object with names of usual length takes. Room that is not written to costs nothing.
const OBJECT: usize = 10 << 10;

/// What is watched, as it is at one moment.
#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    /// All KafkaBackups.
    pub(crate) backups: Vec<Arc<KafkaBackup>>,
    /// All KafkaRestores.
    pub(crate) restores: Vec<Arc<KafkaRestore>>,
    /// All KafkaOffsetResets.
    pub(crate) offset_resets: Vec<Arc<KafkaOffsetReset>>,
    /// All KafkaOffsetRollbacks.
    pub(crate) offset_rollbacks: Vec<Arc<KafkaOffsetRollback>>,
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
    /// All objects, with the lives that their statuses tell.
    fn objects(&self) -> impl Iterator<Item = (ObjectKind, &ObjectMeta, Option<&Life>)> {
        lives(&self.backups)
            .chain(lives(&self.restores))
            .chain(lives(&self.offset_resets))
            .chain(lives(&self.offset_rollbacks))
    }

    /// UIDs of all objects.
    fn uids(&self) -> HashSet<String> {
        let uids = self.objects().filter_map(|(_, meta, _)| meta.uid.clone());
        uids.collect()
    }

    /// All objects, with the UID of the Job that is theirs at present.
    fn jobs(&self) -> HashMap<ObjectName, Option<String>> {
        let jobs = self.objects().map(|(kind, meta, life)| {
            let (namespace, name) = place(meta);
            let object = ObjectName {
                kind: kind.as_str(),
                namespace,
                name,
            };
            let active = life.and_then(|life| life.active_run.as_ref());
            (object, active.and_then(|run| run.job_uid.clone()))
        });
        jobs.collect()
    }

    /// The labels of all objects' reconcile families.
    fn reconciled(&self) -> BTreeSet<Reconciled> {
        let labels = self.objects().map(|(kind, meta, _)| {
            let (namespace, name) = place(meta);
            (kind.controller(), namespace, name)
        });
        labels.collect()
    }
}

fn lives<K: Kind>(
    objects: &[Arc<K>],
) -> impl Iterator<Item = (ObjectKind, &ObjectMeta, Option<&Life>)> {
    objects
        .iter()
        .map(|object| (K::KIND, object.meta(), object.told()))
}

/// Namespace and name.
fn place(meta: &ObjectMeta) -> (String, String) {
    let of = |part: &Option<String>| part.clone().unwrap_or_default();
    (of(&meta.namespace), of(&meta.name))
}

/// Where snapshots come from: the watch caches.
pub(crate) type Source = Box<dyn Fn() -> Snapshot + Send + Sync>;

/// One rendered page.
pub(crate) struct Page {
    /// As it is.
    pub(crate) text: Bytes,
    gzip: OnceLock<Bytes>,
}

impl Page {
    /// The same, gzipped; the first reader who wants it so waits for it.
    pub(crate) fn gzip(&self) -> Bytes {
        let gzip = || {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
            gzip.write_all(&self.text)
                .expect("writing to memory cannot fail");
            gzip.finish().expect("writing to memory cannot fail").into()
        };
        self.gzip.get_or_init(gzip).clone()
    }
}

/// Renders and hands out pages.
pub(crate) struct Exporter {
    source: Source,
    own: OwnMetrics,
    exposure: Mutex<Exposure>,
    pushed: Aggregator,
    /// Bytes of the last page without what was pushed.
    told: AtomicUsize,
    newest: [tokio::sync::Mutex<Option<(Instant, Arc<Page>)>>; 2],
    /// Told when there is a page to let go of later.
    rendered: Notify,
}

impl Exporter {
    /// An exporter of what `source` shows, and of what is pushed beyond that, at most `max_series`.
    pub(crate) fn new(source: Source, max_series: usize) -> Arc<Self> {
        Arc::new(Self {
            source,
            own: OwnMetrics::new(),
            exposure: Mutex::default(),
            pushed: Aggregator::new(max_series),
            told: AtomicUsize::default(),
            newest: Default::default(),
            rendered: Notify::new(),
        })
    }

    /// What is pushed and told by no status.
    pub(crate) fn pushed(&self) -> &Aggregator {
        &self.pushed
    }

    /// What the controller counts about itself.
    pub(crate) fn own(&self) -> &OwnMetrics {
        &self.own
    }

    /// The present page. Readers that come while one is rendered wait for it and share it.
    pub(crate) async fn page(self: &Arc<Self>, format: Format) -> Arc<Page> {
        let newest = match format {
            Format::Text => &self.newest[0],
            Format::OpenMetrics => &self.newest[1],
        };
        let mut newest = newest.lock().await;
        if let Some((_, page)) = newest.as_ref().filter(|(at, _)| at.elapsed() < PAGE_AGE) {
            return page.clone();
        }
        // What nobody reads any more need not be there beside the new one.
        *newest = None;
        let exporter = self.clone();
        let at = Instant::now();
        let render = move || Arc::new(exporter.render_page(format, Timestamp::now()));
        let page = tokio::task::spawn_blocking(render)
            .await
            .expect("rendering does not panic and is not aborted");
        *newest = Some((at, page.clone()));
        self.rendered.notify_one();
        page
    }

    /// Lets go of each page when it is too old to be handed to another reader: until the next scrape is a long time, and with
    /// many objects a page is much of what is held. Never ends.
    pub(crate) async fn drop_old_pages(&self) {
        loop {
            self.rendered.notified().await;
            tokio::time::sleep(PAGE_AGE).await;
            for newest in &self.newest {
                let mut newest = newest.lock().await;
                newest.take_if(|(at, _)| at.elapsed() >= PAGE_AGE);
            }
        }
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

    fn render_page(&self, format: Format, now: Timestamp) -> Page {
        let snapshot = (self.source)();
        let live = snapshot.uids();
        self.exposure().retain(|uid| live.contains(uid));
        let controllers: Vec<&'static str> = snapshot
            .queues
            .iter()
            .map(|queue| queue.controller)
            .collect();
        self.pushed.sweep(&snapshot.jobs(), Instant::now());
        self.own.show_held(self.pushed.held());
        // A page that grows while it is written is there twice, and with many objects it is much of what is held.
        let objects = snapshot.backups.len() + snapshot.restores.len();
        let told = self.told.load(Ordering::Relaxed).max(objects * OBJECT);
        let foreseen = told + self.pushed.size();
        let mut text = String::with_capacity(foreseen + foreseen / 16);
        let mut out = Encoder::new(&mut text, format);
        render(&mut out, &snapshot, now);
        let live = snapshot.reconciled();
        self.own.render(&mut out, &controllers, live);
        self.told.store(text.len(), Ordering::Relaxed);
        self.pushed.render(&mut text, format);
        if format == Format::OpenMetrics {
            text.push_str("# EOF\n");
        }
        Page {
            text: text.into(),
            gzip: OnceLock::new(),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
