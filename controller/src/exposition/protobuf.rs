//! Reads delimited protobuf messages of type `io.prometheus.client.MetricFamily`.
//!
//! # Guarantees
//! - A stream that was cut off is refused: its last message must be whole.
//!
//! Source: <https://github.com/prometheus/client_model/blob/master/io/prometheus/client/metrics.proto>.

use std::collections::HashSet;

use prost::Message;

use super::{
    Family, Gathered, Kind, MAX_SAMPLES, MAX_TEXT, check_label_name, check_metric_name,
    insert_label,
};

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub(super) enum MetricType {
    Counter = 0,
    Gauge = 1,
    Summary = 2,
    Untyped = 3,
    Histogram = 4,
    GaugeHistogram = 5,
}

/// Of a gauge or an untyped metric; of a counter with [`Timestamp`].
#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
    #[prost(message, optional, tag = "3")]
    pub(super) created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Timestamp {
    #[prost(int64, tag = "1")]
    pub(super) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(super) nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Summary {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sum: Option<f64>,
    #[prost(message, optional, tag = "4")]
    pub(super) created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count: Option<u64>,
    #[prost(double, optional, tag = "4")]
    pub(super) float_count: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) buckets: Vec<Bucket>,
    /// Of a native histogram.
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(message, optional, tag = "15")]
    pub(super) created: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) count: Option<u64>,
    #[prost(double, optional, tag = "4")]
    pub(super) float_count: Option<f64>,
    #[prost(double, optional, tag = "2")]
    pub(super) bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) labels: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Number>,
    #[prost(message, optional, tag = "4")]
    pub(super) summary: Option<Summary>,
    #[prost(message, optional, tag = "5")]
    pub(super) untyped: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
    #[prost(int64, optional, tag = "6")]
    pub(super) timestamp_ms: Option<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) help: Option<String>,
    #[prost(enumeration = "MetricType", optional, tag = "3")]
    pub(super) kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metrics: Vec<Metric>,
}

/// Why a stream was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtobufError {
    #[error("message {position} of the body is cut off, or is no MetricFamily")]
    Message {
        position: usize,
        source: prost::DecodeError,
    },
    #[error("family {name:?}: {reason}")]
    Family { name: String, reason: String },
}

/// Reads a stream; an empty one has no families.
pub(crate) fn parse(mut bytes: &[u8]) -> Result<Vec<Family<'static>>, ProtobufError> {
    let mut families = Vec::new();
    let mut names = HashSet::new();
    let mut samples = 0;
    while !bytes.is_empty() {
        let position = families.len() + 1;
        let message = MetricFamily::decode_length_delimited(&mut bytes);
        let message = message.map_err(|source| ProtobufError::Message { position, source })?;
        let name = message.name.clone().unwrap_or_default();
        let is_new = names.insert(name.clone());
        let read = if is_new {
            read_family(message, &mut samples)
        } else {
            Err("it comes twice".to_owned())
        };
        families.push(read.map_err(|reason| ProtobufError::Family { name, reason })?);
    }
    Ok(families)
}

fn read_family(message: MetricFamily, samples: &mut usize) -> Result<Family<'static>, String> {
    let name = message.name.unwrap_or_default();
    check_metric_name(&name)?;
    let kind = message.kind.unwrap_or_default();
    let kind = match MetricType::try_from(kind) {
        Ok(MetricType::Counter) => Kind::Counter,
        Ok(MetricType::Gauge) => Kind::Gauge,
        Ok(MetricType::Summary) => Kind::Summary,
        Ok(MetricType::Untyped) => Kind::Untyped,
        Ok(MetricType::Histogram) => Kind::Histogram,
        Ok(MetricType::GaugeHistogram) => {
            return Err("it is a gauge histogram, which is not taken".into());
        }
        Err(_) => return Err(format!("its type {kind} is unknown")),
    };
    let points = message.metrics.into_iter().map(|metric| {
        let buckets = metric.histogram.as_ref();
        *samples += buckets.map_or(1, |histogram| histogram.buckets.len() + 3);
        if *samples > MAX_SAMPLES {
            return Err(format!("more than {MAX_SAMPLES} samples"));
        }
        gather(metric, kind)?.close(kind)
    });
    Ok(Family {
        name: name.into(),
        kind,
        help: message.help.unwrap_or_default().into(),
        points: points.collect::<Result<_, _>>()?,
    })
}

fn gather(metric: Metric, kind: Kind) -> Result<Gathered<'static>, String> {
    if metric.timestamp_ms.is_some() {
        return Err("it has a timestamp, which a push must not have".into());
    }
    let mut gathered = Gathered::default();
    for pair in metric.labels {
        let (name, value) = (
            pair.name.unwrap_or_default(),
            pair.value.unwrap_or_default(),
        );
        check_label_name(&name)?;
        if value.len() > MAX_TEXT {
            return Err(format!(
                "the value of label {name} is longer than {MAX_TEXT} bytes"
            ));
        }
        insert_label(&mut gathered.labels, name.into(), value.into())?;
    }
    let number = match kind {
        Kind::Counter => metric.counter,
        Kind::Gauge => metric.gauge,
        Kind::Untyped => metric.untyped,
        Kind::Histogram => {
            if let Some(histogram) = metric.histogram {
                gather_histogram(&mut gathered, histogram)?;
            }
            None
        }
        Kind::Summary => {
            if let Some(summary) = metric.summary {
                gathered.count = Some(summary.count.unwrap_or_default() as f64);
                gathered.sum = Some(summary.sum.unwrap_or_default());
                gathered.created = summary.created.map(seconds);
            }
            None
        }
    };
    if let Some(number) = number {
        gathered.number = Some(number.value.unwrap_or_default());
        gathered.created = number.created.map(seconds);
    }
    Ok(gathered)
}

fn gather_histogram(gathered: &mut Gathered<'_>, histogram: Histogram) -> Result<(), String> {
    if histogram.schema.is_some() && histogram.buckets.is_empty() {
        return Err("it is a native histogram, which is not taken".into());
    }
    let of = |whole: Option<u64>, float: Option<f64>| {
        float.unwrap_or_else(|| whole.unwrap_or_default() as f64)
    };
    let count = of(histogram.count, histogram.float_count);
    gathered.count = Some(count);
    gathered.sum = Some(histogram.sum.unwrap_or_default());
    gathered.created = histogram.created.map(seconds);
    gathered.buckets = histogram
        .buckets
        .into_iter()
        .map(|bucket| {
            let count = of(bucket.count, bucket.float_count);
            (bucket.bound.unwrap_or_default(), count)
        })
        .collect();
    // Client libraries leave out the last one, which says the same as the count.
    if gathered
        .buckets
        .iter()
        .all(|(bound, _)| *bound != f64::INFINITY)
    {
        gathered.buckets.push((f64::INFINITY, count));
    }
    Ok(())
}

fn seconds(timestamp: Timestamp) -> f64 {
    timestamp.seconds as f64 + f64::from(timestamp.nanos) / 1e9
}
