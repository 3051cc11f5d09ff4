//! Writes all that is held as text or OpenMetrics.

use std::fmt::Write;

use super::Format;
use super::series::{Series, Total};
use super::store::{FamilyState, Store};
use crate::exporter::{Escape, Escaped, Float};
use crate::exposition::Kind;

const STRING: &str = "writing to a String cannot fail";

/// Appends every family.
pub(super) fn render(store: &Store, out: &mut String, format: Format) {
    for family in &store.families {
        let series = family.series.iter().flatten();
        let mut series = series.peekable();
        if series.peek().is_none() {
            continue;
        }
        write_head(out, family, format);
        for series in series {
            write_series(out, &family.name, series, format);
        }
    }
}

/// About how much [`render`] appends.
pub(super) fn size(store: &Store) -> usize {
    // A suffix, punctuation and a value of usual length.
    const REST: usize = 16;
    const BOUND: usize = 12;
    let of_family = |family: &FamilyState| {
        let bound = if family.kind == Kind::Histogram {
            BOUND
        } else {
            0
        };
        let other = family.name.len() + bound + REST;
        let series = family.series.iter().flatten();
        let series = series.map(|series| series.value.lines() * (series.labels.len() + other));
        2 * family.name.len() + family.help.len() + 4 * REST + series.sum::<usize>()
    };
    store.families.iter().map(of_family).sum()
}

fn write_head(out: &mut String, family: &FamilyState, format: Format) {
    let name = &*family.name;
    let (name, kind) = match (format, family.kind) {
        (Format::Text, kind) => (name, kind.as_str()),
        (Format::OpenMetrics, Kind::Counter) => match name.strip_suffix("_total") {
            Some(base) => (base, "counter"),
            // OpenMetrics has no counter without this suffix.
            None => (name, "unknown"),
        },
        (Format::OpenMetrics, Kind::Untyped) => (name, "unknown"),
        (Format::OpenMetrics, kind) => (name, kind.as_str()),
    };
    if !family.help.is_empty() {
        let escape = match format {
            Format::Text => Escape::Help,
            Format::OpenMetrics => Escape::LabelValue,
        };
        let help = Escaped(&family.help, escape);
        writeln!(out, "# HELP {name} {help}").expect(STRING);
    }
    writeln!(out, "# TYPE {name} {kind}").expect(STRING);
}

fn write_series(out: &mut String, name: &str, series: &Series, format: Format) {
    let labels = &*series.labels;
    match &series.value {
        Total::Number(value) => write_sample(out, name, "", labels, *value),
        Total::Histogram(histogram) => {
            let infinite = (&f64::INFINITY, &histogram.count);
            let buckets = histogram.bounds.iter().zip(&histogram.counts);
            for (bound, count) in buckets.chain([infinite]) {
                out.push_str(name);
                out.push_str("_bucket{");
                if !labels.is_empty() {
                    out.push_str(labels);
                    out.push(',');
                }
                out.push_str("le=\"");
                write_bound(out, *bound, format);
                out.push_str("\"} ");
                write_value(out, *count);
            }
            write_sample(out, name, "_sum", labels, histogram.sum);
            write_sample(out, name, "_count", labels, histogram.count);
        }
        Total::Summary { sum, count } => {
            write_sample(out, name, "_sum", labels, *sum);
            write_sample(out, name, "_count", labels, *count);
        }
    }
}

fn write_sample(out: &mut String, name: &str, suffix: &str, labels: &str, value: f64) {
    out.push_str(name);
    out.push_str(suffix);
    if !labels.is_empty() {
        out.push('{');
        out.push_str(labels);
        out.push('}');
    }
    out.push(' ');
    write_value(out, value);
}

fn write_value(out: &mut String, value: f64) {
    // Whole numbers are most of them, and an integer is written in a third of the time.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        writeln!(out, "{}", value as i64).expect(STRING);
        return;
    }
    writeln!(out, "{}", Float(value)).expect(STRING);
}

/// OpenMetrics wants a decimal point in the bounds of buckets.
fn write_bound(out: &mut String, bound: f64, format: Format) {
    let start = out.len();
    write!(out, "{}", Float(bound)).expect(STRING);
    if format == Format::OpenMetrics && bound.is_finite() && !out[start..].contains('.') {
        out.push_str(".0");
    }
}
