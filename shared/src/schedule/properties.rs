//! Two other readings of the same lines: croner's, in UTC, and a walk minute by minute that looks at a clock on the wall, in zones
//! whose clocks are set.

use std::collections::BTreeSet;

use chrono::DateTime;
use croner::parser::CronParser;
use proptest::prelude::*;

use super::admission::tests::is_admitted;
use super::*;

/// A field as text, and what it means.
#[derive(Clone, Debug)]
struct Written {
    text: String,
    values: BTreeSet<u32>,
    is_star: bool,
}

fn item(min: u32, max: u32) -> impl Strategy<Value = Written> {
    let one = (min..=max).prop_map(|value| Written {
        text: value.to_string(),
        values: [value].into(),
        is_star: false,
    });
    let range = (min..=max, min..=max, 1..=7u32).prop_map(|(a, b, step)| {
        let (low, high) = (a.min(b), a.max(b));
        let step_text = if step == 1 {
            String::new()
        } else {
            format!("/{step}")
        };
        Written {
            text: format!("{low}-{high}{step_text}"),
            values: (low..=high).step_by(step as usize).collect(),
            is_star: false,
        }
    });
    let steps = (2..=20u32).prop_map(move |step| Written {
        text: format!("*/{step}"),
        values: (min..=max).step_by(step as usize).collect(),
        is_star: false,
    });
    prop_oneof![3 => one, 2 => range, 1 => steps]
}

fn field(min: u32, max: u32) -> impl Strategy<Value = Written> {
    let star = Just(Written {
        text: "*".into(),
        values: (min..=max).collect(),
        is_star: true,
    });
    let items = prop::collection::vec(item(min, max), 1..=3).prop_map(|items| {
        let texts: Vec<String> = items.iter().map(|item| item.text.clone()).collect();
        Written {
            text: texts.join(","),
            values: items.into_iter().flat_map(|item| item.values).collect(),
            is_star: false,
        }
    });
    prop_oneof![1 => star, 2 => items]
}

#[derive(Clone, Debug)]
struct WrittenLine {
    fields: [Written; 5],
}

impl WrittenLine {
    fn text(&self) -> String {
        self.fields.each_ref().map(|field| &*field.text).join(" ")
    }

    /// Whether a clock on the wall that shows `local` is at a time that the line says.
    fn shows(&self, local: civil::DateTime) -> bool {
        let [minute, hour, day, month, weekday] = &self.fields;
        let has = |field: &Written, value: i8| field.values.contains(&(value as u32));
        let is_day = has(day, local.day());
        let is_weekday = has(weekday, local.weekday().to_sunday_zero_offset());
        let is_date = match (day.is_star, weekday.is_star) {
            (false, false) => is_day || is_weekday,
            (true, _) | (_, true) => is_day && is_weekday,
        };
        has(minute, local.minute())
            && has(hour, local.hour())
            && has(month, local.month())
            && is_date
    }

    fn has_fixed_hours(&self) -> bool {
        !self.fields[1].text.contains(['*', '-', '/'])
    }
}

fn line() -> impl Strategy<Value = WrittenLine> {
    let fields = (
        field(0, 59),
        field(0, 23),
        field(1, 31),
        field(1, 12),
        field(0, 6),
    );
    fields.prop_map(|(minute, hour, day, month, weekday)| WrittenLine {
        fields: [minute, hour, day, month, weekday],
    })
}

/// A line that is due on most days, so that a walk over some days meets it.
fn daily_line() -> impl Strategy<Value = WrittenLine> {
    let star = |max| Written {
        text: "*".into(),
        values: (0..=max).collect(),
        is_star: true,
    };
    (field(0, 59), field(0, 23), field(0, 6)).prop_map(move |(minute, hour, weekday)| WrittenLine {
        fields: [minute, hour, star(31), star(12), weekday],
    })
}

fn instant(year_from: i16, years: i64) -> impl Strategy<Value = Timestamp> {
    let from = civil::date(year_from, 1, 1)
        .to_zoned(TimeZone::UTC)
        .unwrap();
    let from = from.timestamp().as_second();
    (0..years * 365 * 86_400).prop_map(move |second| Timestamp::from_second(from + second).unwrap())
}

const MINUTE: SignedDuration = SignedDuration::from_mins(1);

/// Ticks in `(from, from + minutes]` of someone who watches a clock on the wall, minute by minute.
fn watched(line: &WrittenLine, zone: &TimeZone, from: Timestamp, minutes: usize) -> Vec<Timestamp> {
    let mut ticks = Vec::new();
    let mut at = from;
    // The latest that the clock has shown: what it shows again has been seen.
    let mut latest = (0..=180)
        .map(|minute| zone.to_datetime(from - MINUTE * minute))
        .max()
        .unwrap();
    for _ in 0..minutes {
        at += MINUTE;
        let shown = zone.to_datetime(at);
        let is_due = if line.has_fixed_hours() {
            // Every local minute up to the one that is shown has passed now.
            let mut passed = false;
            while latest < shown {
                latest = latest.checked_add(MINUTE).unwrap();
                passed |= line.shows(latest);
            }
            passed
        } else {
            line.shows(shown)
        };
        if is_due {
            ticks.push(at);
        }
    }
    ticks
}

const ZONES: [&str; 8] = [
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    // Half an hour of summer time.
    "Australia/Lord_Howe",
    // Changes at midnight.
    "Asia/Beirut",
    // Summer time ends for Ramadan.
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "UTC",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn croner_reads_a_line_in_the_same_way(line in line(), from in instant(2000, 60)) {
        // What both say of a restriction by step alone is another matter: here a step is one, as in Kubernetes.
        let [_, _, day, _, weekday] = &line.fields;
        prop_assume!(!(day.text.starts_with('*') ^ weekday.text.starts_with('*')) || day.is_star || weekday.is_star);
        let text = line.text();
        let Ok(schedule) = Schedule::parse(&text, None) else {
            // Never due, such as 30 February.
            return Ok(());
        };
        prop_assert!(is_admitted(&text), "{}", text);
        let other = CronParser::builder().build().parse(&text).unwrap();
        let (mut ours, mut theirs) = (from, DateTime::from_timestamp(from.as_second(), 0).unwrap());
        for _ in 0..5 {
            ours = schedule.next_after(ours).unwrap();
            theirs = other.find_next_occurrence(&theirs, false).unwrap();
            prop_assert_eq!(ours.as_second(), theirs.timestamp(), "{}", text);
        }
    }

    #[test]
    fn a_clock_on_the_wall_says_the_same(
        line in daily_line(), zone in prop::sample::select(&ZONES[..]), around in instant(2015, 20), days in 0..5i64
    ) {
        let zone_found = TimeZone::get(zone).unwrap();
        // Near a change of the clock, where there is one.
        let change = zone_found.following(around).next().map_or(around, |change| change.timestamp());
        let from = change - SignedDuration::from_hours(days * 12);
        let from = Timestamp::from_second(from.as_second() / 60 * 60).unwrap();
        let minutes = 3 * 24 * 60;
        let schedule = Schedule::parse(&line.text(), Some(zone)).unwrap();
        let until = from + MINUTE * minutes;
        let ours: Vec<Timestamp> = std::iter::successors(schedule.next_after(from), |tick| schedule.next_after(*tick))
            .take_while(|tick| *tick <= until)
            .collect();
        prop_assert_eq!(ours, watched(&line, &zone_found, from, minutes as usize), "{} {}", line.text(), zone);
    }
}
