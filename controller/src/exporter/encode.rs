//! Writes the text exposition format 0.0.4, and from it OpenMetrics.
//!
//! # Guarantees
//! - What is written here reads back as the same samples with [`crate::exposition::parse`]: names, label values with any character,
//!   values with every bit.
//!
//! # Assumptions
//! - Names are valid: they come from the table of families.

use std::fmt::{self, Display, Write};

use kafka_backup_shared::metrics::Family;

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

/// Begins a family.
pub(crate) fn write_head(out: &mut String, family: &Family) {
    let name = family.name;
    let kind = family.kind.as_str();
    let help = Escaped(family.help, Escape::Help);
    write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").expect(STRING);
}

/// Writes one sample.
pub(crate) fn write_sample(
    out: &mut String,
    name: &str,
    labels: &[(&str, &str)],
    value: impl Display,
) {
    out.push_str(name);
    for (position, (label, text)) in labels.iter().enumerate() {
        let separator = if position == 0 { '{' } else { ',' };
        let text = Escaped(text, Escape::LabelValue);
        write!(out, "{separator}{label}=\"{text}\"").expect(STRING);
    }
    if !labels.is_empty() {
        out.push('}');
    }
    writeln!(out, " {value}").expect(STRING);
}

/// Appends a text of the families of the table as OpenMetrics, without its end: there a counter's family has no `_total`, and
/// bounds have a decimal point.
///
/// The families of the table are such that nothing else differs: counters end in `_total`, and no help has a quote or backslash.
pub(crate) fn write_open_metrics(out: &mut String, text: &str) {
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            let words = [(); 3].map(|()| words.next().unwrap_or_default());
            let [keyword, name, rest] = words;
            let name = name.strip_suffix("_total").unwrap_or(name);
            writeln!(out, "# {keyword} {name} {rest}").expect(STRING);
            continue;
        }
        let bound = line.split_once("le=\"").and_then(|(before, rest)| {
            let (bound, after) = rest.split_once('"')?;
            Some((before, bound, after))
        });
        match bound {
            Some((before, bound, after)) if line.contains("_bucket{") => {
                let point = match bound.contains(['.', 'I']) {
                    true => "",
                    false => ".0",
                };
                writeln!(out, "{before}le=\"{bound}{point}\"{after}").expect(STRING);
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
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
