//! What is exposed of one set of labels, and what each source said of it.

use std::sync::Arc;
use std::time::Instant;

use super::ObjectName;
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
    /// Adds what the point says beyond `before`, and returns what the source has said by now.
    pub(super) fn add(
        &mut self,
        family: &Family<'_>,
        value: &Value,
        start: Option<f64>,
        before: Option<&Last>,
    ) -> Last {
        match (&mut self.value, value) {
            (Total::Number(total), Value::Number(value)) if family.kind == Kind::Counter => {
                let counted = match before {
                    Some(Last::Number { value, .. }) => *value,
                    _ => 0.0, // nothing before
                };
                *total += value - counted;
                Last::Number {
                    value: *value,
                    start,
                }
            }
            (Total::Number(total), Value::Number(value)) => {
                let is_late = family.name.contains("_timestamp") && *value < *total;
                if !is_late {
                    *total = *value;
                }
                Last::Gauge
            }
            (Total::Histogram(total), Value::Histogram(value)) => {
                let before = match before {
                    Some(Last::Histogram { value, .. }) => Some(&**value),
                    _ => None, // nothing before
                };
                total.add(value, before);
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
                Last::Histogram { value, start }
            }
            (Total::Summary { sum, count }, Value::Summary { sum: a, count: b }) => {
                let (sum_before, count_before) = match before {
                    Some(Last::Summary { sum, count, .. }) => (*sum, *count),
                    _ => (0.0, 0.0), // nothing before
                };
                *sum += a - sum_before;
                *count += b - count_before;
                Last::Summary {
                    sum: *a,
                    count: *b,
                    start,
                }
            }
            (Total::Number(_) | Total::Histogram(_) | Total::Summary { .. }, _) => {
                unreachable!("the kinds were compared before")
            }
        }
    }
}

impl Histogram {
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
    pub(super) fn of_nothing(value: &Value) -> Self {
        match value {
            Value::Number(_) => Self::Number(0.0),
            Value::Histogram(buckets) => Self::Histogram(Box::new(Histogram {
                bounds: buckets.bounds.as_slice().into(),
                counts: vec![0.0; buckets.counts.len()].into(),
                count: 0.0,
                sum: 0.0,
            })),
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
