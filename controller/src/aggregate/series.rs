//! What is exposed of one set of labels, and what each source said of it.

use std::sync::Arc;
use std::time::Instant;

use super::ObjectName;
use super::store::Relation;
use crate::exposition::{Buckets, Family, Kind, Value};

/// What is held of one set of labels.
pub(super) struct Series {
    /// As they are written, without braces.
    pub(super) labels: Box<str>,
    pub(super) value: Total,
    /// The last of its sources.
    pub(super) writer: u64,
    pub(super) pushed: Instant,
    pub(super) object: Option<Arc<ObjectName>>,
}

/// What is exposed.
pub(super) enum Total {
    Number(f64),
    Histogram(Box<Histogram>),
    Summary { sum: f64, count: f64 },
}

pub(super) struct Histogram {
    pub(super) bounds: Arc<[f64]>,
    pub(super) counts: Box<[f64]>,
    pub(super) count: f64,
    pub(super) sum: f64,
}

/// What a source said last.
pub(super) enum Last {
    /// Of a gauge or an untyped value, which does not add up.
    Gauge,
    Number {
        value: f64,
        start: Option<f64>,
    },
    Histogram {
        value: Box<Histogram>,
        start: Option<f64>,
    },
    Summary {
        sum: f64,
        count: f64,
        start: Option<f64>,
    },
}

impl Series {
    /// Asks for its memory; the value is of no use.
    pub(super) fn prefetch(&self) -> u64 {
        let labels = self.labels.as_bytes();
        let ends = labels.first().into_iter().chain(labels.last());
        let labels = ends.fold(0, |all, byte| all ^ u64::from(*byte));
        match &self.value {
            Total::Histogram(histogram) => labels ^ histogram.prefetch(),
            Total::Number(_) | Total::Summary { .. } => labels,
        }
    }

    /// Adds what the point says beyond `last`, where its source goes on from there, and leaves there what it has said by now.
    pub(super) fn add(
        &mut self,
        family: &Family<'_>,
        value: &Value,
        start: Option<f64>,
        last: &mut Last,
        relation: Relation,
    ) {
        let goes_on = relation == Relation::Continued;
        match (&mut self.value, value) {
            (Total::Number(total), Value::Number(value)) if family.kind == Kind::Counter => {
                let counted = match last {
                    Last::Number { value, .. } if goes_on => *value,
                    _ => 0.0, // nothing before
                };
                *total += value - counted;
                *last = Last::Number {
                    value: *value,
                    start,
                };
            }
            (Total::Number(total), Value::Number(value)) => {
                let is_late = family.name.contains("_timestamp") && *value < *total;
                if !is_late {
                    *total = *value;
                }
                *last = Last::Gauge;
            }
            (Total::Histogram(total), Value::Histogram(value)) => {
                let before = match last {
                    Last::Histogram { value, .. } if goes_on => Some(&**value),
                    _ => None, // nothing before
                };
                total.add(value, before);
                if let Last::Histogram {
                    value: known,
                    start: known_start,
                } = last
                    && *known.bounds == *value.bounds
                {
                    known.counts.copy_from_slice(&value.counts);
                    (known.count, known.sum) = (value.count, value.sum);
                    *known_start = start;
                    return;
                }
                let bounds = match *total.bounds == *value.bounds {
                    true => total.bounds.clone(),
                    false => value.bounds.as_slice().into(),
                };
                let value = Box::new(Histogram {
                    bounds,
                    counts: value.counts.as_slice().into(),
                    count: value.count,
                    sum: value.sum,
                });
                *last = Last::Histogram { value, start };
            }
            (Total::Summary { sum, count }, Value::Summary { sum: a, count: b }) => {
                let (sum_before, count_before) = match last {
                    Last::Summary { sum, count, .. } if goes_on => (*sum, *count),
                    _ => (0.0, 0.0), // nothing before
                };
                *sum += a - sum_before;
                *count += b - count_before;
                *last = Last::Summary {
                    sum: *a,
                    count: *b,
                    start,
                };
            }
            (Total::Number(_) | Total::Histogram(_) | Total::Summary { .. }, _) => {
                unreachable!("the kinds were compared before")
            }
        }
    }
}

impl Histogram {
    fn prefetch(&self) -> u64 {
        let ends = self.counts.first().into_iter().chain(self.counts.last());
        ends.fold(0, |all, count| all ^ count.to_bits())
    }

    /// Keeps the bounds that both have.
    fn add(&mut self, value: &Buckets, before: Option<&Histogram>) {
        let shares = |bound: &f64| {
            value
                .bounds
                .binary_search_by(|known| known.total_cmp(bound))
                .is_ok()
        };
        if !self.bounds.iter().all(shares) {
            let kept = self.bounds.iter().zip(&self.counts);
            let kept = kept.filter(|(bound, _)| shares(bound));
            let (bounds, counts): (Vec<f64>, Vec<f64>) = kept.unzip();
            (self.bounds, self.counts) = (bounds.into(), counts.into());
        }
        for (bound, total) in self.bounds.iter().zip(&mut self.counts) {
            let of = |bounds: &[f64], counts: &[f64]| {
                let index = bounds.binary_search_by(|known| known.total_cmp(bound));
                index.map_or(0.0, |index| counts[index])
            };
            let counted = before.map_or(0.0, |before| of(&before.bounds, &before.counts));
            *total += of(&value.bounds, &value.counts) - counted;
        }
        self.count += value.count - before.map_or(0.0, |before| before.count);
        self.sum += value.sum - before.map_or(0.0, |before| before.sum);
    }
}

impl Total {
    /// Nothing yet of what `value` is. A histogram shares `bounds` where they are its own, and leaves its own there where not.
    pub(super) fn of_nothing(value: &Value, bounds: &mut Arc<[f64]>) -> Self {
        match value {
            Value::Number(_) => Self::Number(0.0),
            Value::Histogram(buckets) => {
                if **bounds != *buckets.bounds {
                    *bounds = buckets.bounds.as_slice().into();
                }
                Self::Histogram(Box::new(Histogram {
                    bounds: bounds.clone(),
                    counts: vec![0.0; buckets.counts.len()].into(),
                    count: 0.0,
                    sum: 0.0,
                }))
            }
            Value::Summary { .. } => Self::Summary {
                sum: 0.0,
                count: 0.0,
            },
        }
    }

    pub(super) fn lines(&self) -> usize {
        match self {
            Self::Number(_) => 1,
            Self::Histogram(histogram) => lines_of(&histogram.bounds),
            Self::Summary { .. } => LINES_OF_SUMMARY,
        }
    }
}

/// What a source said before of a point that adds up.
pub(super) struct Before {
    pub(super) count: f64,
    pub(super) start: Option<f64>,
    pub(super) is: Change,
}

/// How a point's value differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Higher,
    Lower,
    OtherBuckets,
}

impl Change {
    fn of(before: f64, after: f64) -> Self {
        if after < before {
            return Self::Lower;
        }
        if after > before {
            return Self::Higher;
        }
        Self::None
    }
}

impl Last {
    /// As [`Series::prefetch`].
    pub(super) fn prefetch(&self) -> u64 {
        match self {
            Self::Histogram { value, .. } => value.prefetch(),
            Self::Gauge | Self::Number { .. } | Self::Summary { .. } => 0,
        }
    }

    /// Nothing where the kinds differ.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    pub(super) fn compare(&self, after: &Value) -> Option<Before> {
        let (count, start, is) = match (self, after) {
            (Self::Number { value, start }, Value::Number(after)) => {
                (*value, *start, Change::of(*value, *after))
            }
            (Self::Histogram { value, start }, Value::Histogram(after)) => {
                let is = match *value.bounds == *after.bounds {
                    false => Change::OtherBuckets,
                    true => {
                        let counts = value.counts.iter().zip(&after.counts);
                        let is_lower = counts.into_iter().any(|(before, after)| after < before);
                        match Change::of(value.count, after.count) {
                            Change::Higher | Change::None if is_lower => Change::Lower,
                            change => change,
                        }
                    }
                };
                (value.count, *start, is)
            }
            (Self::Summary { count, start, .. }, Value::Summary { count: after, .. }) => {
                (*count, *start, Change::of(*count, *after))
            }
            (
                Self::Gauge | Self::Number { .. } | Self::Histogram { .. } | Self::Summary { .. },
                Value::Number(_) | Value::Histogram(_) | Value::Summary { .. },
            ) => return None,
        };
        Some(Before { count, start, is })
    }

    pub(super) fn lines(&self) -> usize {
        match self {
            Self::Gauge | Self::Number { .. } => 1,
            Self::Histogram { value, .. } => lines_of(&value.bounds),
            Self::Summary { .. } => LINES_OF_SUMMARY,
        }
    }
}

impl Kind {
    pub(super) fn adds_up(self) -> bool {
        match self {
            Self::Counter | Self::Histogram | Self::Summary => true,
            Self::Gauge | Self::Untyped => false,
        }
    }
}

/// Lines of exposition.
pub(super) fn lines(value: &Value) -> usize {
    match value {
        Value::Number(_) => 1,
        Value::Histogram(buckets) => lines_of(&buckets.bounds),
        Value::Summary { .. } => LINES_OF_SUMMARY,
    }
}

/// A bucket for each bound and for all, sum and count.
fn lines_of(bounds: &[f64]) -> usize {
    bounds.len() + 3
}

/// Sum and count.
const LINES_OF_SUMMARY: usize = 2;
