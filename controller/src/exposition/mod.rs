//! What a client library sends: families of typed points, read from text, OpenMetrics or protobuf.
//!
//! # Guarantees
//! - All or nothing: one wrong line or message refuses the whole body, and the error names it.
//! - What is accepted has valid names, finite counters, buckets that rise to their `+Inf`, and at most [`MAX_SAMPLES`] samples.
//! - Timestamps are refused, as by every gateway: a sample is as old as the scrape that sees it.
//! - What cannot be added up or kept as the last is dropped and nothing else is: exemplars, and the quantiles of summaries.
//!
//! # Assumptions
//! - Whoever takes the points refuses those that come twice, once their labels are complete.

mod protobuf;
mod text;

use std::borrow::Cow;

pub(crate) use protobuf::parse as parse_protobuf;
pub(crate) use text::{Syntax, parse};

/// Samples that one body may have.
pub(crate) const MAX_SAMPLES: usize = 10_000;
/// Labels that one point may have.
const MAX_LABELS: usize = 32;
/// Bytes of one name or label value.
const MAX_TEXT: usize = 4096;

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

impl Kind {
    /// The word in a `# TYPE` line of the text format.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// What the names of a family's samples add to its own.
    pub(crate) fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter | Self::Gauge | Self::Untyped => &[""],
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["_sum", "_count"],
        }
    }
}

/// A family with the points that came with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Family<'a> {
    /// As in the text format: a counter's with its `_total`, a histogram's without `_bucket`.
    pub(crate) name: Cow<'a, str>,
    pub(crate) kind: Kind,
    /// Empty where none came.
    pub(crate) help: Cow<'a, str>,
    pub(crate) points: Vec<Point<'a>>,
}

/// What one set of labels stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point<'a> {
    /// Sorted by name; names are distinct. Without `le` and `quantile` of the point's own samples.
    pub(crate) labels: Vec<Label<'a>>,
    pub(crate) value: Value,
    /// Since when it counts, in seconds since 1970-01-01 UTC; only where a client says so.
    pub(crate) created: Option<f64>,
}

/// Name and value.
pub(crate) type Label<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A point's value: of the variant that belongs to its family's kind.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Of a counter, a gauge or an untyped family.
    Number(f64),
    Histogram(Buckets),
    Summary {
        sum: f64,
        count: f64,
    },
}

/// A cumulative histogram.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Buckets {
    /// Finite upper bounds, rising.
    pub(crate) bounds: Vec<f64>,
    /// Observations up to each bound.
    pub(crate) counts: Vec<f64>,
    /// All observations.
    pub(crate) count: f64,
    pub(crate) sum: f64,
}

/// A point as its samples come, before it is known whether they make one.
#[derive(Debug, Default)]
struct Gathered<'a> {
    labels: Vec<Label<'a>>,
    number: Option<f64>,
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: Option<f64>,
    created: Option<f64>,
}

impl<'a> Gathered<'a> {
    fn close(self, kind: Kind) -> Result<Point<'a>, String> {
        let value = match kind {
            Kind::Counter => {
                let value = self.number.ok_or("has no value")?;
                if !value.is_finite() || value < 0.0 {
                    return Err(format!("is {value}, which no counter can be"));
                }
                Value::Number(value)
            }
            Kind::Gauge | Kind::Untyped => Value::Number(self.number.ok_or("has no value")?),
            Kind::Summary => Value::Summary {
                sum: finite("sum", self.sum)?,
                count: count("count", self.count)?,
            },
            Kind::Histogram => Value::Histogram(histogram(self.buckets, self.count, self.sum)?),
        };
        if self.created.is_some_and(|created| !created.is_finite()) {
            return Err("was created at no time".into());
        }
        Ok(Point {
            labels: self.labels,
            value,
            created: self.created,
        })
    }
}

fn finite(what: &str, value: Option<f64>) -> Result<f64, String> {
    let value = value.ok_or_else(|| format!("has no {what}"))?;
    if value.is_finite() {
        return Ok(value);
    }
    Err(format!("has the {what} {value}"))
}

fn count(what: &str, value: Option<f64>) -> Result<f64, String> {
    let value = finite(what, value)?;
    if value >= 0.0 {
        return Ok(value);
    }
    Err(format!("has the {what} {value}"))
}

#[allow(
    clippy::neg_cmp_op_on_partial_ord,
    reason = "what is no number must fail, too"
)]
fn histogram(
    mut buckets: Vec<(f64, f64)>,
    all: Option<f64>,
    sum: Option<f64>,
) -> Result<Buckets, String> {
    buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let last = buckets.pop().filter(|(bound, _)| *bound == f64::INFINITY);
    let (_, infinite) = last.ok_or("has no bucket with le=\"+Inf\"")?;
    let all = count("count", all)?;
    if infinite != all {
        return Err(format!("counts {all}, and {infinite} in its last bucket"));
    }
    let mut before = (f64::NEG_INFINITY, 0.0);
    for &(bound, within) in buckets.iter().chain([&(f64::INFINITY, infinite)]) {
        if !(bound > before.0) {
            return Err(format!(
                "has the bucket le=\"{bound}\" twice, or one that is no number"
            ));
        }
        // Also when one of them is no number.
        if !(within >= before.1) || !within.is_finite() {
            return Err(format!(
                "has {within} in its bucket le=\"{bound}\", after {} in the one before",
                before.1
            ));
        }
        before = (bound, within);
    }
    // -0 is 0, also for who compares bits.
    let buckets = buckets
        .into_iter()
        .map(|(bound, count)| (bound + 0.0, count));
    let (bounds, counts) = buckets.unzip();
    Ok(Buckets {
        bounds,
        counts,
        count: all,
        sum: finite("sum", sum)?,
    })
}

fn check_metric_name(name: &str) -> Result<(), String> {
    let valid = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b':';
    check_name(name, "metric", valid)
}

fn check_label_name(name: &str) -> Result<(), String> {
    if name.starts_with("__") {
        return Err(format!("label name {name:?} is reserved"));
    }
    check_name(name, "label", |c| c.is_ascii_alphanumeric() || c == b'_')
}

fn check_name(name: &str, what: &str, valid: impl Fn(u8) -> bool) -> Result<(), String> {
    let first = name.bytes().next();
    let well_begun = first.is_some_and(|c| valid(c) && !c.is_ascii_digit());
    if well_begun && name.bytes().all(valid) && name.len() <= MAX_TEXT {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    Err(format!("{shown:?} is not a {what} name"))
}

/// Puts the label where its name belongs.
fn insert_label<'a>(
    labels: &mut Vec<Label<'a>>,
    name: Cow<'a, str>,
    value: Cow<'a, str>,
) -> Result<(), String> {
    let Err(position) = labels.binary_search_by(|(known, _)| known.as_ref().cmp(&name)) else {
        return Err(format!("label {name} comes twice"));
    };
    if labels.len() == MAX_LABELS {
        return Err(format!("more than {MAX_LABELS} labels"));
    }
    labels.insert(position, (name, value));
    Ok(())
}

#[cfg(test)]
mod tests;
