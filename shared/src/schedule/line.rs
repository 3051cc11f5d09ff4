//! A cron line as text: its five fields, their values, and what the `cron` crate is given for them.
//!
//! Dialect (`robfig/cron` v3, `ParseStandard`): lists, ranges, steps, `N/step` = `N-max/step`, names of months and days, `?` =
//! `*`. Where day of month and day of week are both restricted, either is enough. Beyond it, 7 is Sunday, too.

use std::str::FromStr;

use crate::plan::SpecError;

/// A line that was read.
pub(super) struct Line {
    /// One calendar, or two where day of month and day of week are both restricted.
    pub(super) either: Vec<cron::Schedule>,
    /// The hour field names hours one by one: no `*`, no range, no step.
    pub(super) has_fixed_hours: bool,
}

struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 5] = [
    Field {
        name: "minute",
        min: 0,
        max: 59,
        names: &[],
    },
    Field {
        name: "hour",
        min: 0,
        max: 23,
        names: &[],
    },
    Field {
        name: "day of month",
        min: 1,
        max: 31,
        names: &[],
    },
    Field {
        name: "month",
        min: 1,
        max: 12,
        names: &MONTHS,
    },
    Field {
        name: "day of week",
        min: 0,
        max: 7,
        names: &DAYS,
    },
];

/// The values of one field.
struct Values {
    values: Vec<u32>,
    /// Written as `*`: puts no restriction of its own.
    any: bool,
}

impl FromStr for Line {
    type Err = SpecError;

    fn from_str(line: &str) -> Result<Self, SpecError> {
        let fields = macro_line(line)?;
        let parts: Vec<&str> = fields.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(error(
                "five fields: minute hour day-of-month month day-of-week",
                format!("{} in {line:?}", parts.len()),
            ));
        };
        let has_fixed_hours = !hour.contains(['*', '?', '-', '/']);
        let [minute, hour, day, month, weekday] = [
            values(&FIELDS[0], minute)?,
            values(&FIELDS[1], hour)?,
            values(&FIELDS[2], day)?,
            values(&FIELDS[3], month)?,
            values(&FIELDS[4], weekday)?,
        ];
        let days: Vec<(String, String)> = match (day.any, weekday.any) {
            (_, true) => vec![(list(&day), "*".into())],
            (true, false) => vec![("*".into(), weekdays(&weekday))],
            (false, false) => vec![(list(&day), "*".into()), ("*".into(), weekdays(&weekday))],
        };
        let either = days
            .into_iter()
            .map(|(day, weekday)| {
                let text = format!(
                    "0 {} {} {day} {} {weekday}",
                    list(&minute),
                    list(&hour),
                    list(&month)
                );
                cron::Schedule::from_str(&text)
                    .map_err(|cause| error("a cron line", format!("{line:?}: {cause}")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            either,
            has_fixed_hours,
        })
    }
}

pub(super) fn error(expected: &str, found: String) -> SpecError {
    SpecError::new("spec.schedule", expected, found)
}

fn macro_line(line: &str) -> Result<&str, SpecError> {
    Ok(match line.trim() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        other if other.starts_with('@') => {
            return Err(error(
                "@yearly, @monthly, @weekly, @daily, @hourly or five fields",
                format!("{other:?}"),
            ));
        }
        other => other,
    })
}

fn values(field: &Field, text: &str) -> Result<Values, SpecError> {
    let mut values = Vec::new();
    let mut any = false;
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(field, step, &[])?)),
            None => (item, None),
        };
        let star = matches!(range, "*" | "?");
        // 7 is another name of Sunday, and not one more day to count on to.
        let last = if field.max == 7 { 6 } else { field.max };
        let (low, high) = match range.split_once('-') {
            _ if star => (field.min, last),
            Some((low, high)) => (
                number(field, low, field.names)?,
                number(field, high, field.names)?,
            ),
            None => {
                let low = number(field, range, field.names)?;
                // "N/step" counts on to the end of the field.
                (low, if step.is_some() { last.max(low) } else { low })
            }
        };
        let step = step.unwrap_or(1);
        any |= star && step == 1;
        if low < field.min || high > field.max || low > high || step == 0 {
            return Err(error(
                &format!("{} from {} to {}", field.name, field.min, field.max),
                format!("{item:?}"),
            ));
        }
        values.extend((low..=high).step_by(step as usize));
    }
    values.sort_unstable();
    values.dedup();
    Ok(Values { values, any })
}

fn number(field: &Field, text: &str, names: &[&str]) -> Result<u32, SpecError> {
    let lower = text.to_ascii_lowercase();
    if let Some(index) = names.iter().position(|name| *name == lower) {
        return Ok(index as u32 + field.min);
    }
    text.parse().map_err(|_| {
        error(
            &format!("{} from {} to {}", field.name, field.min, field.max),
            format!("{text:?}"),
        )
    })
}

fn list(values: &Values) -> String {
    if values.any {
        return "*".into();
    }
    let texts: Vec<String> = values.values.iter().map(u32::to_string).collect();
    texts.join(",")
}

/// By name, because the crate counts from Sunday = 1.
fn weekdays(values: &Values) -> String {
    let names: Vec<&str> = values
        .values
        .iter()
        .map(|day| DAYS[(day % 7) as usize])
        .collect();
    names.join(",")
}
