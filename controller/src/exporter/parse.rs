//! Reads the text exposition format 0.0.4, strictly.
//!
//! # Guarantees
//! - All or nothing: one wrong line refuses the whole text, and the error names the line.
//! - A text that was cut off is refused: the last line must end with a line feed, and a family must not come twice.
//! - What is accepted has valid names, distinct series and at most [`MAX_SAMPLES`] samples. Values may be NaN or infinite.
//! - Timestamps are refused, as by every gateway: a sample is as old as the scrape that sees it.
//!
//! Source: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>.

use std::collections::HashSet;
use std::str::Chars;

/// Samples that one text may have.
pub(crate) const MAX_SAMPLES: usize = 10_000;
/// Labels that one sample may have.
const MAX_LABELS: usize = 32;
/// Bytes of one name or label value.
const MAX_TEXT: usize = 4096;

/// Type of a family in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextType {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

/// A family with the samples that came with it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TextFamily {
    /// Its name, without the suffixes of a histogram's samples.
    pub(crate) name: String,
    /// Untyped where no TYPE line came.
    pub(crate) kind: TextType,
    /// Help, where a HELP line came.
    pub(crate) help: Option<String>,
    /// In the order of the text.
    pub(crate) samples: Vec<Sample>,
}

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    /// Name with suffix.
    pub(crate) name: String,
    /// In the order of the text; names are distinct.
    pub(crate) labels: Vec<(String, String)>,
    /// The value.
    pub(crate) value: f64,
}

/// Why a text was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct ParseError {
    line: usize,
    reason: String,
}

/// Reads a text. An empty one has no families.
pub(crate) fn parse(text: &str) -> Result<Vec<TextFamily>, ParseError> {
    let mut reader = Reader::default();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        reader.line(line).map_err(|reason| ParseError {
            line: index + 1,
            reason,
        })?;
    }
    Ok(reader.families)
}

#[derive(Default)]
struct Reader {
    families: Vec<TextFamily>,
    names: HashSet<String>,
    typed: HashSet<String>,
    series: HashSet<(String, Vec<(String, String)>)>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let Some(line) = line.strip_suffix('\n') else {
            return Err("the text ends in the middle of a line".into());
        };
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(comment.trim_start_matches([' ', '\t']));
        }
        self.sample(line)
    }

    fn comment(&mut self, comment: &str) -> Result<(), String> {
        let (keyword, rest) = split_word(comment);
        if keyword != "HELP" && keyword != "TYPE" {
            return Ok(());
        }
        let (name, rest) = split_word(rest);
        check_metric_name(name)?;
        if keyword == "HELP" {
            let help = unescape_help(rest)?;
            let family = self.open(name)?;
            if family.help.replace(help).is_some() {
                return Err(format!("a second HELP of {name}"));
            }
            return Ok(());
        }
        let kind = match rest.trim() {
            "counter" => TextType::Counter,
            "gauge" => TextType::Gauge,
            "histogram" => TextType::Histogram,
            "summary" => TextType::Summary,
            "untyped" => TextType::Untyped,
            other => return Err(format!("unknown type {other:?} of {name}")),
        };
        if !self.typed.insert(name.to_owned()) {
            return Err(format!("a second TYPE of {name}"));
        }
        let family = self.open(name)?;
        if !family.samples.is_empty() {
            return Err(format!("the TYPE of {name} comes after its samples"));
        }
        family.kind = kind;
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        if self.series.len() == MAX_SAMPLES {
            return Err(format!("more than {MAX_SAMPLES} samples"));
        }
        let name_end = line
            .find(['{', ' ', '\t'])
            .ok_or_else(|| format!("no value after {line:?}"))?;
        let (name, rest) = line.split_at(name_end);
        check_metric_name(name)?;
        let rest = rest.trim_start_matches([' ', '\t']);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest)?,
            None => (Vec::new(), rest),
        };
        let mut words = rest.split([' ', '\t']).filter(|word| !word.is_empty());
        let value = words
            .next()
            .ok_or_else(|| format!("no value after {name}"))?;
        let value = value
            .parse()
            .map_err(|_| format!("{value:?} is not a number"))?;
        if words.next().is_some() {
            return Err(format!(
                "{name} has a timestamp, which a push must not have"
            ));
        }
        let mut key = labels.clone();
        key.sort();
        if !self.series.insert((name.to_owned(), key)) {
            return Err(format!("a second sample of the same series of {name}"));
        }
        let family = self.family_of(name).to_owned();
        self.open(&family)?.samples.push(Sample {
            name: name.to_owned(),
            labels,
            value,
        });
        Ok(())
    }

    /// The family that a sample belongs to: a suffix belongs to the histogram or summary that the lines are about.
    fn family_of<'a>(&self, sample: &'a str) -> &'a str {
        let Some(current) = self.families.last() else {
            return sample;
        };
        let suffixes: &[&str] = match current.kind {
            TextType::Histogram => &["_bucket", "_sum", "_count"],
            TextType::Summary => &["_sum", "_count"],
            TextType::Counter | TextType::Gauge | TextType::Untyped => &[],
        };
        suffixes
            .iter()
            .find_map(|suffix| sample.strip_suffix(suffix))
            .filter(|name| *name == current.name)
            .unwrap_or(sample)
    }

    /// The family `name`, which must be the one that the lines are about, or a new one.
    fn open(&mut self, name: &str) -> Result<&mut TextFamily, String> {
        if self
            .families
            .last()
            .is_none_or(|family| family.name != name)
        {
            if !self.names.insert(name.to_owned()) {
                return Err(format!("the lines of {name} are not together"));
            }
            self.families.push(TextFamily {
                name: name.to_owned(),
                kind: TextType::Untyped,
                help: None,
                samples: Vec::new(),
            });
        }
        Ok(self
            .families
            .last_mut()
            .expect("one was pushed if there was none"))
    }
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t']))
}

fn check_metric_name(name: &str) -> Result<(), String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    check_name(name, "metric", valid)
}

fn check_label_name(name: &str) -> Result<(), String> {
    if name.starts_with("__") {
        return Err(format!("label name {name:?} is reserved"));
    }
    check_name(name, "label", |c| c.is_ascii_alphanumeric() || c == '_')
}

fn check_name(name: &str, what: &str, valid: impl Fn(char) -> bool) -> Result<(), String> {
    let well_begun = name.starts_with(|c: char| valid(c) && !c.is_ascii_digit());
    if well_begun && name.chars().all(valid) && name.len() <= MAX_TEXT {
        return Ok(());
    }
    let shown: String = name.chars().take(100).collect();
    Err(format!("{shown:?} is not a {what} name"))
}

fn unescape_help(text: &str) -> Result<String, String> {
    let mut help = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => help.push(match letters.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                _ => return Err("a backslash in a help must be followed by \\ or n".into()),
            }),
            other => help.push(other),
        }
    }
    Ok(help)
}

/// Labels with their distinct names, and what follows the closing brace.
type LabelsAndRest<'a> = (Vec<(String, String)>, &'a str);

fn read_labels(text: &str) -> Result<LabelsAndRest<'_>, String> {
    let mut labels: Vec<(String, String)> = Vec::new();
    let mut rest = text.trim_start_matches([' ', '\t']);
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Ok((labels, after));
        }
        let Some((name, after)) = rest.split_once('=') else {
            return Err("a label has no value, or the labels have no closing brace".into());
        };
        let name = name.trim_end_matches([' ', '\t']);
        check_label_name(name)?;
        if labels.iter().any(|(known, _)| known == name) {
            return Err(format!("label {name} comes twice"));
        }
        if labels.len() == MAX_LABELS {
            return Err(format!("more than {MAX_LABELS} labels"));
        }
        let after = after.trim_start_matches([' ', '\t']);
        let Some(after) = after.strip_prefix('"') else {
            return Err(format!("the value of label {name} is not in quotes"));
        };
        let mut letters = after.chars();
        labels.push((name.to_owned(), read_quoted(name, &mut letters)?));
        rest = letters.as_str().trim_start_matches([' ', '\t']);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches([' ', '\t']),
            None if rest.starts_with('}') => {}
            None => return Err(format!("neither , nor }} after the value of label {name}")),
        }
    }
}

fn read_quoted(name: &str, letters: &mut Chars<'_>) -> Result<String, String> {
    let mut value = String::new();
    loop {
        let letter = letters
            .next()
            .ok_or_else(|| format!("the value of label {name} has no closing quote"))?;
        match letter {
            '"' => return Ok(value),
            '\\' => value.push(match letters.next() {
                Some('\\') => '\\',
                Some('"') => '"',
                Some('n') => '\n',
                _ => {
                    return Err(format!(
                        "a backslash in the value of label {name} must be followed by \\, \" or n"
                    ));
                }
            }),
            other => value.push(other),
        }
        if value.len() > MAX_TEXT {
            return Err(format!(
                "the value of label {name} is longer than {MAX_TEXT} bytes"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
