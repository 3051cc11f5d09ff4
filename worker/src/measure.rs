//! What the worker measures of its own requests, for the page of the controller.
//!
//! # Guarantees
//! - Everything counts from 0 at the start of the process, which does one run: what is pushed is cumulative.
//! - The labels have few values, whatever the run: [`AGGREGATED`](kafka_backup_shared::metrics::AGGREGATED) is added up per object.

use std::sync::LazyLock;
use std::time::Duration;

use kafka_backup_shared::metrics::{
    Family, REQUEST_BUCKETS, WORKER_BYTES, WORKER_REQUEST_DURATION, WORKER_RETRIES,
};
use kafka_protocol::messages::ApiKey;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};

/// Whom a request is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Kafka,
    Store,
}

impl Peer {
    fn as_str(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Store => "store",
        }
    }
}

/// What is asked of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreRequest {
    Read,
    Write,
    /// To look, to list, to delete.
    Other,
}

/// Where bytes pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Record batches from Kafka.
    Fetched,
    /// New objects to the store, each time that one is sent.
    Stored,
    /// Parts of objects from the store, each time that one is read.
    Read,
    /// Record batches to Kafka, each time that one is sent.
    Produced,
}

struct Measured {
    registry: Registry,
    requests: HistogramVec,
    retries: IntCounterVec,
    bytes: IntCounterVec,
}

static MEASURED: LazyLock<Measured> = LazyLock::new(|| {
    const TABLE: &str = "the table of families holds valid names and help, each once";
    let registry = Registry::new();
    let opts = HistogramOpts::new(WORKER_REQUEST_DURATION.name, WORKER_REQUEST_DURATION.help);
    let requests = HistogramVec::new(
        opts.buckets(REQUEST_BUCKETS.to_vec()),
        own_labels(&WORKER_REQUEST_DURATION),
    );
    let requests = requests.expect(TABLE);
    registry.register(Box::new(requests.clone())).expect(TABLE);
    let counter = |family: &'static Family| {
        let opts = Opts::new(family.name, family.help);
        let counter = IntCounterVec::new(opts, own_labels(family)).expect(TABLE);
        registry.register(Box::new(counter.clone())).expect(TABLE);
        counter
    };
    let (retries, bytes) = (counter(&WORKER_RETRIES), counter(&WORKER_BYTES));
    Measured {
        registry,
        requests,
        retries,
        bytes,
    }
});

/// Those that the controller does not give: it knows the object.
fn own_labels(family: &'static Family) -> &'static [&'static str] {
    family
        .labels
        .strip_prefix(&["kind", "name", "namespace"])
        .unwrap_or(family.labels)
}

/// Notes a request to a broker, whatever became of it.
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
pub(crate) fn observe_kafka(api: ApiKey, duration: Duration) {
    let request = match api {
        ApiKey::Fetch => "fetch",
        ApiKey::Produce => "produce",
        _ => "other", // metadata and the like: few
    };
    observe(Peer::Kafka, request, duration);
}

/// Notes an attempt at the store, whatever became of it.
pub(crate) fn observe_store(request: StoreRequest, duration: Duration) {
    let request = match request {
        StoreRequest::Read => "read",
        StoreRequest::Write => "write",
        StoreRequest::Other => "other",
    };
    observe(Peer::Store, request, duration);
}

fn observe(peer: Peer, request: &str, duration: Duration) {
    let labels = [peer.as_str(), request];
    let histogram = MEASURED.requests.with_label_values(&labels);
    histogram.observe(duration.as_secs_f64());
}

/// Notes that something is tried again.
pub(crate) fn count_retry(peer: Peer) {
    MEASURED.retries.with_label_values(&[peer.as_str()]).inc();
}

/// Notes bytes that passed.
pub(crate) fn count_bytes(stage: Stage, bytes: usize) {
    let stage = match stage {
        Stage::Fetched => "fetched",
        Stage::Stored => "stored",
        Stage::Read => "read",
        Stage::Produced => "produced",
    };
    MEASURED
        .bytes
        .with_label_values(&[stage])
        .inc_by(bytes as u64);
}

/// All of it as text 0.0.4.
pub(crate) fn exposition() -> String {
    TextEncoder::new()
        .encode_to_string(&MEASURED.registry.gather())
        .expect("gathered families are consistent")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_is_told_without_the_labels_of_the_object() {
        observe_kafka(ApiKey::Produce, Duration::from_millis(30));
        observe_store(StoreRequest::Write, Duration::from_secs(60));
        count_retry(Peer::Store);
        count_bytes(Stage::Produced, 7);
        let text = exposition();
        for line in [
            "# TYPE kafka_backup_worker_request_duration_seconds histogram",
            "kafka_backup_worker_request_duration_seconds_bucket{peer=\"kafka\",request=\"produce\",le=\"0.05\"} ",
            "kafka_backup_worker_request_duration_seconds_count{peer=\"store\",request=\"write\"} ",
            "kafka_backup_worker_retries_total{peer=\"store\"} ",
            "kafka_backup_worker_bytes_total{stage=\"produced\"} ",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
