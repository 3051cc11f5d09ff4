//! Reads the text exposition format 0.0.4 and OpenMetrics 1.0, strictly.
//!
//! # Guarantees
//! - A text that was cut off is refused: the last line must end with a line feed, OpenMetrics with `# EOF`, and a family or a
//!   point must not come twice.
//!
//! Sources: <https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format>,
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>.

use std::borrow::Cow;
use std::collections::HashSet;

use super::{
    Family, Gathered, Kind, Label, MAX_SAMPLES, MAX_TEXT, Value, check_label_name,
    check_metric_name, insert_label,
};

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    Text,
    OpenMetrics,
}

/// Why a text was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(crate) struct TextError {
    line: usize,
    reason: String,
}

/// Reads a text. An empty one of the text format has no families.
pub(crate) fn parse(text: &str, syntax: Syntax) -> Result<Vec<Family<'_>>, TextError> {
    let mut reader = Reader::new(syntax);
    let mut lines = 0;
    for line in text.split_inclusive('\n') {
        lines += 1;
        reader.line(line).map_err(|reason| TextError {
            line: lines,
            reason,
        })?;
    }
    reader.end().map_err(|reason| TextError {
        line: lines,
        reason,
    })
}

/// What a TYPE line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Of(Kind),
    /// OpenMetrics' names for values that never change, and for one of several states: gauges of 0 and 1.
    Info,
    StateSet,
    GaugeHistogram,
}

/// What a sample is to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Value,
    Bucket,
    Sum,
    Count,
    Quantile,
    Created,
}

/// The family that the lines are about.
struct Current<'a> {
    /// As in its TYPE line.
    name: &'a str,
    kind: Type,
    is_typed: bool,
    help: Option<Cow<'a, str>>,
    points: Vec<super::Point<'a>>,
    open: Option<Gathered<'a>>,
}

struct Reader<'a> {
    syntax: Syntax,
    families: Vec<Family<'a>>,
    names: HashSet<&'a str>,
    current: Option<Current<'a>>,
    samples: usize,
    is_ended: bool,
}

impl<'a> Reader<'a> {
    fn new(syntax: Syntax) -> Self {
        Self {
            syntax,
            families: Vec::new(),
            names: HashSet::new(),
            current: None,
            samples: 0,
            is_ended: false,
        }
    }

    fn line(&mut self, line: &'a str) -> Result<(), String> {
        let Some(line) = line.strip_suffix('\n') else {
            return match (self.syntax, line) {
                // The specification allows it without its line feed.
                (Syntax::OpenMetrics, "# EOF") => self.line("# EOF\n"),
                _ => Err("the text ends in the middle of a line".into()),
            };
        };
        if self.is_ended {
            return Err("something comes after # EOF".into());
        }
        let line = line.trim_matches([' ', '\t', '\r']);
        if line.is_empty() {
            return Ok(());
        }
        if let Some(comment) = line.strip_prefix('#') {
            return self.comment(comment.trim_start_matches([' ', '\t']));
        }
        self.sample(line)
    }

    fn end(mut self) -> Result<Vec<Family<'a>>, String> {
        if self.syntax == Syntax::OpenMetrics && !self.is_ended {
            return Err("the text was cut off: its last line is not # EOF".into());
        }
        self.close()?;
        if self.syntax == Syntax::Text {
            take_created(&mut self.families)?;
        }
        Ok(self.families)
    }

    fn comment(&mut self, comment: &'a str) -> Result<(), String> {
        let (keyword, rest) = split_word(comment);
        let is_open_metrics = self.syntax == Syntax::OpenMetrics;
        match keyword {
            "EOF" if is_open_metrics => {
                self.is_ended = true;
                Ok(())
            }
            "HELP" => {
                let (name, help) = split_word(rest);
                let help = unescape_help(help, self.syntax)?;
                let current = self.open(name)?;
                if current.help.replace(help).is_some() {
                    return Err(format!("a second HELP of {name}"));
                }
                Ok(())
            }
            "TYPE" => self.kind(rest),
            // Only that it names a family.
            "UNIT" if is_open_metrics => self.open(split_word(rest).0).map(drop),
            _ => Ok(()),
        }
    }

    fn kind(&mut self, rest: &'a str) -> Result<(), String> {
        let (name, word) = split_word(rest);
        check_metric_name(name)?;
        let kind = match (word.trim(), self.syntax) {
            ("counter", _) => Type::Of(Kind::Counter),
            ("gauge", _) => Type::Of(Kind::Gauge),
            ("histogram", _) => Type::Of(Kind::Histogram),
            ("summary", _) => Type::Of(Kind::Summary),
            ("untyped", Syntax::Text) | ("unknown", Syntax::OpenMetrics) => Type::Of(Kind::Untyped),
            ("info", Syntax::OpenMetrics) => Type::Info,
            ("stateset", Syntax::OpenMetrics) => Type::StateSet,
            ("gaugehistogram", Syntax::OpenMetrics) => Type::GaugeHistogram,
            (other, _) => return Err(format!("unknown type {other:?} of {name}")),
        };
        if kind == Type::GaugeHistogram {
            return Err(format!("{name} is a gauge histogram, which is not taken"));
        }
        let current = self.open(name)?;
        if current.is_typed {
            return Err(format!("a second TYPE of {name}"));
        }
        if current.open.is_some() {
            return Err(format!("the TYPE of {name} comes after its samples"));
        }
        current.kind = kind;
        current.is_typed = true;
        Ok(())
    }

    fn sample(&mut self, line: &'a str) -> Result<(), String> {
        if self.samples == MAX_SAMPLES {
            return Err(format!("more than {MAX_SAMPLES} samples"));
        }
        self.samples += 1;
        let name_end = line
            .find(['{', ' ', '\t'])
            .ok_or_else(|| format!("no value after {line:?}"))?;
        let (name, rest) = line.split_at(name_end);
        let rest = rest.trim_start_matches([' ', '\t']);
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest)?,
            None => (Vec::new(), rest),
        };
        let rest = match self.syntax {
            Syntax::Text => rest,
            // An exemplar.
            Syntax::OpenMetrics => rest.split_once('#').map_or(rest, |(value, _)| value),
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
        let (family, role) = self.role(name);
        let current = self.open(family)?;
        current.add(name, role, labels, value)
    }

    /// The family that a sample belongs to: a suffix belongs to the family that the lines are about.
    fn role(&self, sample: &'a str) -> (&'a str, Role) {
        let Some(current) = &self.current else {
            return (sample, Role::Value);
        };
        let Some(suffix) = sample.strip_prefix(current.name) else {
            return (sample, Role::Value);
        };
        let is_open_metrics = self.syntax == Syntax::OpenMetrics;
        let role = match (current.kind, suffix) {
            (Type::Of(Kind::Histogram), "_bucket") => Role::Bucket,
            (Type::Of(Kind::Histogram | Kind::Summary), "_sum") => Role::Sum,
            (Type::Of(Kind::Histogram | Kind::Summary), "_count") => Role::Count,
            (Type::Of(Kind::Summary), "") => Role::Quantile,
            (Type::Of(Kind::Counter), "_total") if is_open_metrics => Role::Value,
            (Type::Of(Kind::Counter | Kind::Histogram | Kind::Summary), "_created")
                if is_open_metrics =>
            {
                Role::Created
            }
            (Type::Info, "_info") => Role::Value,
            _ => return (sample, Role::Value),
        };
        (current.name, role)
    }

    /// The family `name`, which must be the one that the lines are about, or a new one.
    fn open(&mut self, name: &'a str) -> Result<&mut Current<'a>, String> {
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.name != name)
        {
            check_metric_name(name)?;
            self.close()?;
            if !self.names.insert(name) {
                return Err(format!("the lines of {name} are not together"));
            }
        }
        Ok(self.current.get_or_insert_with(|| Current {
            name,
            kind: Type::Of(Kind::Untyped),
            is_typed: false,
            help: None,
            points: Vec::new(),
            open: None,
        }))
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(mut current) = self.current.take() else {
            return Ok(());
        };
        current.close_point()?;
        let name = current.name;
        let (name, kind) = match (current.kind, self.syntax) {
            (Type::Of(Kind::Counter), Syntax::OpenMetrics) => {
                (format!("{name}_total").into(), Kind::Counter)
            }
            (Type::Info, _) => (format!("{name}_info").into(), Kind::Gauge),
            (Type::StateSet, _) => (name.into(), Kind::Gauge),
            (Type::Of(kind), _) => (name.into(), kind),
            (Type::GaugeHistogram, _) => return Err(format!("{name} is a gauge histogram")),
        };
        self.families.push(Family {
            name,
            kind,
            help: current.help.unwrap_or_default(),
            points: current.points,
        });
        Ok(())
    }
}

impl<'a> Current<'a> {
    fn kind(&self) -> Kind {
        match self.kind {
            Type::Of(kind) => kind,
            Type::Info | Type::StateSet | Type::GaugeHistogram => Kind::Gauge,
        }
    }

    fn add(
        &mut self,
        sample: &str,
        role: Role,
        mut labels: Vec<Label<'a>>,
        value: f64,
    ) -> Result<(), String> {
        let own = match role {
            Role::Bucket => Some(take_label(&mut labels, sample, "le")?),
            Role::Quantile => Some(take_label(&mut labels, sample, "quantile")?),
            Role::Value | Role::Sum | Role::Count | Role::Created => None,
        };
        if self.open.as_ref().is_none_or(|open| open.labels != labels) {
            self.close_point()?;
        }
        let open = self.open.get_or_insert_with(|| Gathered {
            labels,
            ..Gathered::default()
        });
        let place = match role {
            Role::Value => &mut open.number,
            Role::Sum => &mut open.sum,
            Role::Count => &mut open.count,
            Role::Created => &mut open.created,
            Role::Quantile => return Ok(()),
            Role::Bucket => {
                let bound = own.as_deref().unwrap_or_default();
                let bound = bound
                    .parse()
                    .map_err(|_| format!("le of {sample} is {bound:?}, which is not a number"))?;
                open.buckets.push((bound, value));
                return Ok(());
            }
        };
        if place.replace(value).is_some() {
            return Err(format!("a second sample of the same series of {sample}"));
        }
        Ok(())
    }

    fn close_point(&mut self) -> Result<(), String> {
        if let Some(open) = self.open.take() {
            let point = open.close(self.kind());
            let point = point.map_err(|reason| format!("{} {reason}", self.name))?;
            self.points.push(point);
        }
        Ok(())
    }
}

/// Reads as starts what the text format has no samples for: Python's client library sends them as gauges named `<family>_created`,
/// which no family beside that one may be named in OpenMetrics.
fn take_created(families: &mut Vec<Family<'_>>) -> Result<(), String> {
    let (created, mut others): (Vec<_>, Vec<_>) = std::mem::take(families)
        .into_iter()
        .partition(|family| family.kind == Kind::Gauge && family.name.ends_with("_created"));
    for starts in created {
        let base = starts.name.strip_suffix("_created").unwrap_or_default();
        let family = others.iter_mut().find(|family| match family.kind {
            Kind::Counter => family.name.strip_suffix("_total") == Some(base),
            Kind::Histogram | Kind::Summary => family.name == base,
            Kind::Gauge | Kind::Untyped => false,
        });
        let Some(family) = family else {
            others.push(starts);
            continue;
        };
        for point in starts.points {
            let Value::Number(created) = point.value else {
                continue; // a gauge has no other
            };
            if !created.is_finite() {
                return Err(format!("{} was created at no time", family.name));
            }
            let counted = family.points.iter_mut();
            for counted in counted.filter(|counted| counted.labels == point.labels) {
                counted.created = Some(created);
            }
        }
    }
    *families = others;
    Ok(())
}

fn take_label<'a>(
    labels: &mut Vec<Label<'a>>,
    sample: &str,
    name: &str,
) -> Result<Cow<'a, str>, String> {
    let position = labels.binary_search_by(|(known, _)| known.as_ref().cmp(name));
    let position = position.map_err(|_| format!("{sample} has no label {name}"))?;
    Ok(labels.remove(position).1)
}

fn split_word(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t']).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (word, rest.trim_start_matches([' ', '\t']))
}

fn unescape_help(text: &str, syntax: Syntax) -> Result<Cow<'_, str>, String> {
    if !text.contains('\\') {
        return Ok(text.into());
    }
    let mut help = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => help.push(match (letters.next(), syntax) {
                (Some('\\'), _) => '\\',
                (Some('n'), _) => '\n',
                (Some('"'), Syntax::OpenMetrics) => '"',
                _ => return Err("a backslash in a help must be followed by \\ or n".into()),
            }),
            other => help.push(other),
        }
    }
    Ok(help.into())
}

/// Labels with their distinct names, and what follows the closing brace.
type LabelsAndRest<'a> = (Vec<Label<'a>>, &'a str);

fn read_labels(text: &str) -> Result<LabelsAndRest<'_>, String> {
    let mut labels = Vec::new();
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
        let after = after.trim_start_matches([' ', '\t']);
        let Some(after) = after.strip_prefix('"') else {
            return Err(format!("the value of label {name} is not in quotes"));
        };
        let (value, after) = read_quoted(name, after)?;
        insert_label(&mut labels, name.into(), value)?;
        rest = after.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(',') {
            Some(after) => rest = after.trim_start_matches([' ', '\t']),
            None if rest.starts_with('}') => {}
            None => return Err(format!("neither , nor }} after the value of label {name}")),
        }
    }
}

/// A value up to its closing quote, and what follows that.
fn read_quoted<'a>(name: &str, text: &'a str) -> Result<(Cow<'a, str>, &'a str), String> {
    let unclosed = || format!("the value of label {name} has no closing quote");
    let end = text.find(['"', '\\']).ok_or_else(unclosed)?;
    let (value, rest) = text.split_at(end);
    let (value, rest) = match rest.strip_prefix('"') {
        Some(rest) => (Cow::from(value), rest),
        None => {
            let mut value = value.to_owned();
            let mut letters = rest.chars();
            loop {
                match letters.next().ok_or_else(unclosed)? {
                    '"' => break (value.into(), letters.as_str()),
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
            }
        }
    };
    if value.len() > MAX_TEXT {
        return Err(format!(
            "the value of label {name} is longer than {MAX_TEXT} bytes"
        ));
    }
    Ok((value, rest))
}
