//! Writes the text exposition format 0.0.4 and OpenMetrics.
//!
//! # Guarantees
//! - What is written here reads back as the same samples with [`crate::exposition::parse`]: names, label values with any character,
//!   values with every bit.
//!
//! # Assumptions
//! - Names are valid: they come from the table of families.

use std::fmt::{self, Display, Write};

use kafka_backup_shared::metrics::Family;

use crate::aggregate::Format;

/// Content type of the text format.
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// Content type of OpenMetrics.
pub(crate) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A float as the format spells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Float(pub(crate) f64);

impl Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_nan() {
            return f.write_str("NaN");
        }
        if self.0.is_infinite() {
            return f.write_str(if self.0 > 0.0 { "+Inf" } else { "-Inf" });
        }
        Display::fmt(&self.0, f)
    }
}

/// Writes families of the table at the end of a text.
///
/// Only two things of them differ between the formats: counters end in `_total`, which in OpenMetrics is no part of the family's
/// name, and there bounds have a decimal point. No help of the table has a quote or backslash.
pub(crate) struct Encoder<'a> {
    out: &'a mut String,
    format: Format,
}

impl<'a> Encoder<'a> {
    /// An encoder that appends to `out`.
    pub(crate) fn new(out: &'a mut String, format: Format) -> Self {
        Self { out, format }
    }

    /// Begins a family.
    pub(crate) fn head(&mut self, family: &Family) {
        let name = match self.format {
            Format::Text => family.name,
            Format::OpenMetrics => family.name.strip_suffix("_total").unwrap_or(family.name),
        };
        let kind = family.kind.as_str();
        let help = Escaped(family.help, Escape::Help);
        write!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(STRING);
    }

    /// Writes one sample.
    pub(crate) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.out.push_str(name);
        for (position, (label, text)) in labels.iter().enumerate() {
            let separator = if position == 0 { '{' } else { ',' };
            let text = Escaped(text, Escape::LabelValue);
            write!(self.out, "{separator}{label}=\"{text}\"").expect(STRING);
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        writeln!(self.out, " {value}").expect(STRING);
    }

    /// Writes the samples of a histogram. `buckets` are bounds and what lies between each and the one before.
    pub(crate) fn histogram(
        &mut self,
        name: &str,
        labels: &[(&str, &str)],
        buckets: impl Iterator<Item = (f64, u64)>,
        seconds: f64,
        count: u64,
    ) {
        let bucket = format!("{name}_bucket");
        let mut cumulative = 0;
        for (bound, between) in buckets {
            cumulative += between;
            let bound = match self.format {
                Format::OpenMetrics if bound.fract() == 0.0 => format!("{}.0", Float(bound)),
                Format::Text | Format::OpenMetrics => Float(bound).to_string(),
            };
            self.sample(&bucket, &[labels, &[("le", &*bound)]].concat(), cumulative);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), count);
        self.sample(&format!("{name}_sum"), labels, Float(seconds));
        self.sample(&format!("{name}_count"), labels, count);
    }
}

const STRING: &str = "writing to a String cannot fail";

/// Where a text stands.
pub(crate) enum Escape {
    /// Of the text format; OpenMetrics escapes helps as label values.
    Help,
    LabelValue,
}

/// A text as the formats spell it.
pub(crate) struct Escaped<'a>(pub(crate) &'a str, pub(crate) Escape);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.chars() {
            match (letter, &self.1) {
                ('\\', _) => f.write_str("\\\\")?,
                ('\n', _) => f.write_str("\\n")?,
                ('"', Escape::LabelValue) => f.write_str("\\\"")?,
                (other, _) => f.write_char(other)?,
            }
        }
        Ok(())
    }
}
