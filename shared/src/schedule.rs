//! When a five-field cron line is due, read as a Kubernetes CronJob reads it, in UTC.
//!
//! The line is parsed here, since the `cron` crate speaks another dialect (seconds, Sunday = 1, day of month AND day of
//! week); the crate gets explicit lists and does the calendar.
//!
//! Dialect (`robfig/cron` v3, `ParseStandard`): lists, ranges, steps, `N/step` = `N-max/step`, names of months and days, `?` =
//! `*`, 0 and 7 are Sunday. Where day of month and day of week are both restricted, either is enough.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use jiff::Timestamp;

use crate::plan::SpecError;

/// A parsed cron line.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// One, or two where day of month and day of week are both restricted.
    either: Vec<cron::Schedule>,
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

impl Schedule {
    /// Parses a line.
    ///
    /// # Errors
    /// [`SpecError`] at `spec.schedule`: not five fields, a value out of range, or a date that never comes.
    pub fn parse(line: &str) -> Result<Self, SpecError> {
        let fields = macro_line(line)?;
        let parts: Vec<&str> = fields.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(error(
                "five fields: minute hour day-of-month month day-of-week",
                format!("{} in {line:?}", parts.len()),
            ));
        };
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
        let schedule = Self { either };
        if schedule.next_after(Timestamp::UNIX_EPOCH).is_none() {
            return Err(error(
                "a date that exists",
                format!("{line:?}, which is never due"),
            ));
        }
        Ok(schedule)
    }

    /// The first tick after `at`; `None` when there is none before the calendar ends.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let after = DateTime::<Utc>::from_timestamp(at.as_second(), 0)?;
        self.either
            .iter()
            .filter_map(|schedule| schedule.after(&after).next())
            .min()
            .and_then(|tick| Timestamp::from_second(tick.timestamp()).ok())
    }
}

fn error(expected: &str, found: String) -> SpecError {
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
        let (low, high) = match range.split_once('-') {
            _ if star => (field.min, if field.max == 7 { 6 } else { field.max }),
            Some((low, high)) => (
                number(field, low, field.names)?,
                number(field, high, field.names)?,
            ),
            None => {
                let low = number(field, range, field.names)?;
                // "N/step" counts on to the end of the field.
                (low, if step.is_some() { field.max } else { low })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn next(line: &str, at: &str) -> String {
        Schedule::parse(line)
            .unwrap()
            .next_after(at.parse().unwrap())
            .unwrap()
            .to_string()
    }

    #[test]
    fn lines_are_due_when_a_cronjob_is() {
        // 2026-01-01 is a Thursday.
        let from = "2026-01-01T00:00:00Z";
        let cases = [
            ("0 2 * * *", "2026-01-01T02:00:00Z"),
            ("*/15 * * * *", "2026-01-01T00:15:00Z"),
            ("5/20 * * * *", "2026-01-01T00:05:00Z"),
            ("0 0 * * 0", "2026-01-04T00:00:00Z"),
            ("0 0 * * 7", "2026-01-04T00:00:00Z"),
            ("0 0 * * SUN", "2026-01-04T00:00:00Z"),
            ("0 0 * * mon-wed", "2026-01-05T00:00:00Z"),
            ("0 0 10 * 0", "2026-01-04T00:00:00Z"),
            ("0 0 2 * 0", "2026-01-02T00:00:00Z"),
            ("0 0 */10 * 0", "2026-01-04T00:00:00Z"),
            ("0 0 29 2 ?", "2028-02-29T00:00:00Z"),
            ("0 0 1 feb *", "2026-02-01T00:00:00Z"),
            ("@hourly", "2026-01-01T01:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
        ];
        for (line, expected) in cases {
            assert_eq!(next(line, from), expected, "{line}");
        }
    }

    #[test]
    fn a_line_that_is_never_due_or_wrong_is_refused() {
        for line in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 30 2 *",
            "0 0 0 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "@every 1h",
            "a * * * *",
        ] {
            let error = Schedule::parse(line).expect_err(line);
            assert_eq!(error.field, "spec.schedule");
        }
    }
}
