//! What the controller counts about itself: these series live in memory and begin at 0 with the process.

use std::collections::BTreeSet;
use std::time::Duration;

use kafka_backup_shared::metrics::{
    BUILD_INFO, Family, LEADER, PUSH_SERIES, PUSH_SOURCES, PUSHES, RECONCILE_BUCKETS,
    RECONCILIATION_DURATION, RECONCILIATION_ERRORS, RECONCILIATIONS, WORKQUEUE_RETRIES,
};
use prometheus::core::Collector;
use prometheus::{
    HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::aggregate::Held;

/// Controller, namespace and name of an object: the labels of its reconcile families.
pub(crate) type Reconciled = (&'static str, String, String);

/// What became of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushResult {
    /// It was taken, or changed nothing because as much was known already.
    Accepted,
    /// Its identity was refused.
    Denied,
    /// Its content was refused.
    Invalid,
    /// It came when its run was not active, or after a later one of its source.
    Late,
    /// The controller could not take it now.
    Unavailable,
}

impl PushResult {
    const ALL: [Self; 5] = [
        Self::Accepted,
        Self::Denied,
        Self::Invalid,
        Self::Late,
        Self::Unavailable,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Denied => "denied",
            Self::Invalid => "invalid",
            Self::Late => "late",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The controller's own families.
pub(crate) struct OwnMetrics {
    registry: Registry,
    reconciliations: IntCounterVec,
    errors: IntCounterVec,
    durations: HistogramVec,
    retries: IntCounterVec,
    pushes: IntCounterVec,
    leader: IntGauge,
    push_series: IntGauge,
    push_sources: IntGauge,
}

impl OwnMetrics {
    /// Registers the families; those without an object's labels exist from now on.
    pub(crate) fn new() -> Self {
        let registry = Registry::new();
        let build = IntGaugeVec::new(opts(&BUILD_INFO), BUILD_INFO.labels).expect(TABLE);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        register(&registry, build);
        let counter = |family: &Family| {
            let counter = IntCounterVec::new(opts(family), family.labels).expect(TABLE);
            register(&registry, counter.clone());
            counter
        };
        let reconciliations = counter(&RECONCILIATIONS);
        let errors = counter(&RECONCILIATION_ERRORS);
        let retries = counter(&WORKQUEUE_RETRIES);
        let pushes = counter(&PUSHES);
        for result in PushResult::ALL {
            pushes.with_label_values(&[result.as_str()]);
        }
        let gauge = |family: &Family| {
            let gauge = IntGauge::with_opts(opts(family)).expect(TABLE);
            register(&registry, gauge.clone());
            gauge
        };
        let leader = gauge(&LEADER);
        let push_series = gauge(&PUSH_SERIES);
        let push_sources = gauge(&PUSH_SOURCES);
        let opts = HistogramOpts::new(RECONCILIATION_DURATION.name, RECONCILIATION_DURATION.help)
            .buckets(RECONCILE_BUCKETS.to_vec());
        let durations = HistogramVec::new(opts, RECONCILIATION_DURATION.labels).expect(TABLE);
        register(&registry, durations.clone());
        Self {
            registry,
            reconciliations,
            errors,
            durations,
            retries,
            pushes,
            leader,
            push_series,
            push_sources,
        }
    }

    /// Shows whether this process leads.
    pub(crate) fn show_leading(&self, is_leading: bool) {
        self.leader.set(is_leading.into());
    }

    /// Shows how much is held that was pushed.
    pub(crate) fn show_held(&self, held: Held) {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.push_series.set(whole(held.samples));
        self.push_sources.set(whole(held.sources));
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
        let labels = [controller, namespace, name];
        self.reconciliations.with_label_values(&labels).inc();
        let errors = self.errors.with_label_values(&labels);
        if result.is_err() {
            errors.inc();
            self.retries.with_label_values(&[controller]).inc();
        }
        let seconds = duration.as_secs_f64();
        self.durations.with_label_values(&labels).observe(seconds);
    }

    /// Counts a push.
    pub(crate) fn observe_push(&self, result: PushResult) {
        self.pushes.with_label_values(&[result.as_str()]).inc();
    }

    /// The text of all families, with a series of each of `controllers` and with the series of exactly the objects `live`:
    /// new ones at 0, those of deleted objects gone.
    pub(crate) fn render(&self, controllers: &[&str], live: &BTreeSet<Reconciled>) -> String {
        for controller in controllers {
            self.retries.with_label_values(&[controller]);
        }
        for (controller, namespace, name) in live {
            let labels = [*controller, namespace, name];
            self.reconciliations.with_label_values(&labels);
            self.errors.with_label_values(&labels);
            self.durations.with_label_values(&labels);
        }
        for labels in self.gone(live) {
            // Each removal may find nothing: another scrape may have been faster.
            drop(self.reconciliations.remove_label_values(&labels));
            drop(self.errors.remove_label_values(&labels));
            drop(self.durations.remove_label_values(&labels));
        }
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("gathered families are consistent")
    }

    /// Labels of series whose object is not in `live`.
    fn gone(&self, live: &BTreeSet<Reconciled>) -> Vec<[String; 3]> {
        let families = self.reconciliations.collect();
        let series = families.iter().flat_map(|family| family.get_metric());
        series
            .map(|metric| {
                RECONCILIATIONS.labels.iter().map(|wanted| {
                    let pairs = metric.get_label();
                    let pair = pairs.iter().find(|pair| pair.name() == *wanted);
                    pair.map(|pair| pair.value().to_owned()).unwrap_or_default()
                })
            })
            .filter_map(|values| <[String; 3]>::try_from(values.collect::<Vec<_>>()).ok())
            .filter(|[controller, namespace, name]| {
                !live
                    .iter()
                    .any(|live| live.0 == controller && live.1 == *namespace && live.2 == *name)
            })
            .collect()
    }
}

const TABLE: &str = "the table of families holds valid names and help";

fn opts(family: &Family) -> Opts {
    Opts::new(family.name, family.help)
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    registry
        .register(Box::new(collector))
        .expect("each family is registered once");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_exist_at_zero_from_first_sight_and_series_go_with_their_object() {
        let own = OwnMetrics::new();
        let live = BTreeSet::from([("backup", "ns".to_owned(), "orders".to_owned())]);
        let error = "kafka_backup_operator_reconciliation_errors_total";
        let labels = "{controller=\"backup\",name=\"orders\",namespace=\"ns\"}";
        let has = |page: &str, value: u32| page.contains(&format!("{error}{labels} {value}\n"));
        assert!(has(&own.render(&["backup"], &live), 0));

        own.observe_reconcile("backup", "ns", "orders", Duration::from_millis(3), Err(()));
        own.observe_reconcile("backup", "ns", "orders", Duration::from_millis(3), Ok(()));
        let page = own.render(&["backup"], &live);
        assert!(has(&page, 1), "{page}");
        let count = "kafka_backup_operator_reconciliation_duration_seconds_count";
        assert!(page.contains(&format!("{count}{labels} 2\n")), "{page}");
        let retries = "kafka_backup_operator_workqueue_retries_total{controller=\"backup\"} 1\n";
        assert!(page.contains(retries), "{page}");

        assert!(!own.render(&["backup"], &BTreeSet::new()).contains("orders"));
    }
}
