//! What the controller counts about itself: these series live in memory and begin at 0 with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_shared::metrics::{
    BUILD_INFO, LEADER, PUSH_SERIES, PUSH_SOURCES, PUSH_TLS, PUSHES, RECONCILE_BUCKETS,
    RECONCILIATION_DURATION, RECONCILIATION_ERRORS, RECONCILIATIONS, WORKQUEUE_RETRIES,
};

use super::encode::Encoder;
use crate::aggregate::Held;

/// Controller, namespace and name of an object: the labels of its reconcile families.
pub(crate) type Reconciled = (&'static str, String, String);

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PushResult {
    /// It was taken, or changed nothing because as much was known already.
    Accepted,
    /// Its identity was refused.
    Denied,
    /// Its content was refused.
    Invalid,
    /// It came when its run was not active, or after a later one of its source.
    Late,
    /// It came to a port where none is taken.
    Misdirected,
    /// The controller could not take it now.
    Unavailable,
}

impl PushResult {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Denied,
        Self::Invalid,
        Self::Late,
        Self::Misdirected,
        Self::Unavailable,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Late => "late",
            Self::Misdirected => "misdirected",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The reconciliations of one object.
#[derive(Clone, Debug, Default)]
struct Reconciliations {
    all: u64,
    errors: u64,
    seconds: f64,
    /// Those that took no longer than the bound, and longer than the one before it.
    buckets: [u64; RECONCILE_BUCKETS.len()],
}

impl Reconciliations {
    fn add(&mut self, duration: Duration, result: Result<(), ()>) {
        let seconds = duration.as_secs_f64();
        self.all += 1;
        self.errors += u64::from(result.is_err());
        self.seconds += seconds;
        let bucket = RECONCILE_BUCKETS.iter().position(|bound| seconds <= *bound);
        if let Some(bucket) = bucket {
            self.buckets[bucket] += 1;
        }
    }
}

#[derive(Debug)]
struct Counted {
    objects: BTreeMap<Reconciled, Reconciliations>,
    retries: BTreeMap<&'static str, u64>,
    pushes: BTreeMap<PushResult, u64>,
    is_leading: bool,
    held: Held,
    /// Whether the files are in use as they are, by their name.
    push_tls: BTreeMap<&'static str, bool>,
}

/// The controller's own families.
#[derive(Debug)]
pub(crate) struct OwnMetrics(Mutex<Counted>);

impl OwnMetrics {
    /// Nothing is counted yet.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Counted {
            objects: BTreeMap::new(),
            retries: BTreeMap::new(),
            pushes: PushResult::ALL.map(|result| (result, 0)).into(),
            is_leading: false,
            held: Held {
                samples: 0,
                sources: 0,
            },
            push_tls: BTreeMap::new(),
        }))
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // A panic between two counts leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows whether this process leads.
    pub(crate) fn show_leading(&self, is_leading: bool) {
        self.counted().is_leading = is_leading;
    }

    /// Shows whether what is used of push TLS is what the files of that name say now.
    pub(crate) fn show_push_tls(&self, files: &'static str, is_current: bool) {
        self.counted().push_tls.insert(files, is_current);
    }

    /// Shows how much is held that was pushed.
    pub(crate) fn show_held(&self, held: Held) {
        self.counted().held = held;
    }

    /// Counts a reconciliation of an object and how long it took; after an error the object is put back into the queue.
    pub(crate) fn observe_reconcile(
        &self,
        controller: &'static str,
        namespace: &str,
        name: &str,
        duration: Duration,
        result: Result<(), ()>,
    ) {
        let object = (controller, namespace.to_owned(), name.to_owned());
        let mut counted = self.counted();
        if result.is_err() {
            *counted.retries.entry(controller).or_default() += 1;
        }
        let known = counted.objects.entry(object).or_default();
        known.add(duration, result);
    }

    /// Counts a push.
    pub(crate) fn observe_push(&self, result: PushResult) {
        *self.counted().pushes.entry(result).or_default() += 1;
    }

    /// Writes all families, with a series of each of `controllers` and with the series of exactly the objects `live`: new ones
    /// at 0, those of deleted objects gone.
    pub(crate) fn render(
        &self,
        out: &mut Encoder<'_>,
        controllers: &[&'static str],
        live: BTreeSet<Reconciled>,
    ) {
        let mut counted = self.counted();
        for controller in controllers {
            counted.retries.entry(controller).or_default();
        }
        counted.objects.retain(|object, _| live.contains(object));
        for object in live {
            counted.objects.entry(object).or_default();
        }
        counted.write(out);
    }
}

impl Counted {
    fn write(&self, out: &mut Encoder<'_>) {
        out.head(&BUILD_INFO);
        let version = (BUILD_INFO.labels[0], env!("CARGO_PKG_VERSION"));
        out.sample(BUILD_INFO.name, &[version], 1);
        for (gauge, value) in [
            (LEADER, usize::from(self.is_leading)),
            (PUSH_SERIES, self.held.samples),
            (PUSH_SOURCES, self.held.sources),
        ] {
            out.head(&gauge);
            out.sample(gauge.name, &[], value);
        }
        out.head(&PUSH_TLS);
        for (files, is_current) in &self.push_tls {
            let label = (PUSH_TLS.labels[0], *files);
            out.sample(PUSH_TLS.name, &[label], usize::from(*is_current));
        }
        out.head(&PUSHES);
        for (result, count) in &self.pushes {
            out.sample(PUSHES.name, &[(PUSHES.labels[0], result.as_str())], count);
        }
        out.head(&RECONCILIATION_DURATION);
        for (object, known) in &self.objects {
            let buckets = RECONCILE_BUCKETS.into_iter().zip(known.buckets);
            let name = RECONCILIATION_DURATION.name;
            out.histogram(name, &labels(object), buckets, known.seconds, known.all);
        }
        out.head(&RECONCILIATION_ERRORS);
        for (object, known) in &self.objects {
            out.sample(RECONCILIATION_ERRORS.name, &labels(object), known.errors);
        }
        out.head(&RECONCILIATIONS);
        for (object, known) in &self.objects {
            out.sample(RECONCILIATIONS.name, &labels(object), known.all);
        }
        out.head(&WORKQUEUE_RETRIES);
        for (controller, count) in &self.retries {
            let labels = [(WORKQUEUE_RETRIES.labels[0], *controller)];
            out.sample(WORKQUEUE_RETRIES.name, &labels, count);
        }
    }
}

/// The labels of an object's families, which are the same for the three of them.
fn labels((controller, namespace, name): &Reconciled) -> [(&'static str, &str); 3] {
    let names = RECONCILIATIONS.labels;
    [
        (names[0], controller),
        (names[2], name),
        (names[1], namespace),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::Format;

    fn told(own: &OwnMetrics, live: &BTreeSet<Reconciled>) -> String {
        let mut text = String::new();
        let mut out = Encoder::new(&mut text, Format::Text);
        own.render(&mut out, &["backup"], live.clone());
        text
    }

    #[test]
    fn errors_exist_at_zero_from_first_sight_and_series_go_with_their_object() {
        let own = OwnMetrics::new();
        let live = BTreeSet::from([("backup", "ns".to_owned(), "orders".to_owned())]);
        let error = "kafka_backup_operator_reconciliation_errors_total";
        let labels = "{controller=\"backup\",name=\"orders\",namespace=\"ns\"}";
        let has = |page: &str, value: u32| page.contains(&format!("{error}{labels} {value}\n"));
        assert!(has(&told(&own, &live), 0));

        own.observe_reconcile("backup", "ns", "orders", Duration::from_millis(3), Err(()));
        own.observe_reconcile("backup", "ns", "orders", Duration::from_millis(3), Ok(()));
        let page = told(&own, &live);
        assert!(has(&page, 1), "{page}");
        let count = "kafka_backup_operator_reconciliation_duration_seconds_count";
        assert!(page.contains(&format!("{count}{labels} 2\n")), "{page}");
        let retries = "kafka_backup_operator_workqueue_retries_total{controller=\"backup\"} 1\n";
        assert!(page.contains(retries), "{page}");

        assert!(!told(&own, &BTreeSet::new()).contains("orders"));
    }
}
