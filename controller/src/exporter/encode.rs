//! Writes the text exposition format 0.0.4.
//!
//! # Guarantees
//! - What is written here reads back as the same samples with [`super::parse`]: names, label values with any character, values with every bit.
//!
//! # Assumptions
//! - Names are valid: they come from the table of families, or were checked by [`super::parse`].

use std::fmt::{self, Display, Write};

use kafka_backup_shared::metrics::Family;

/// Content type of what this module writes.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

const STRING: &str = "writing to a String cannot fail";

enum Escape {
    Help,
    LabelValue,
}

struct Escaped<'a>(&'a str, Escape);

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
