//! Tables: a line, a zone, a time, and when the line is due next.

use super::*;

fn next(line: &str, zone: Option<&str>, at: &str) -> String {
    Schedule::parse(line, zone)
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
        ("* * * * *", "2026-01-01T00:01:00Z"),
        ("0 2 * * *", "2026-01-01T02:00:00Z"),
        ("0 2,14 * * *", "2026-01-01T02:00:00Z"),
        ("30 8-10 * * *", "2026-01-01T08:30:00Z"),
        ("*/15 * * * *", "2026-01-01T00:15:00Z"),
        ("5/20 * * * *", "2026-01-01T00:05:00Z"),
        ("10-40/15 * * * *", "2026-01-01T00:10:00Z"),
        ("0 0 1 * *", "2026-02-01T00:00:00Z"),
        ("0 0 1 feb *", "2026-02-01T00:00:00Z"),
        ("0 0 1 FEB-APR *", "2026-02-01T00:00:00Z"),
        ("0 0 31 * *", "2026-01-31T00:00:00Z"),
        ("0 0 31 2,4,5 *", "2026-05-31T00:00:00Z"),
        ("0 0 29 2 ?", "2028-02-29T00:00:00Z"),
        // Sunday by each of its names.
        ("0 0 * * 0", "2026-01-04T00:00:00Z"),
        ("0 0 * * 7", "2026-01-04T00:00:00Z"),
        ("0 0 * * SUN", "2026-01-04T00:00:00Z"),
        ("0 0 * * 6-7", "2026-01-03T00:00:00Z"),
        ("0 0 * * mon-wed", "2026-01-05T00:00:00Z"),
        // 1, 3, 5: Friday is next, and Sunday is none of them.
        ("0 0 * * 1/2", "2026-01-02T00:00:00Z"),
        // Day of month OR day of week, where both are restricted.
        ("0 0 10 * 0", "2026-01-04T00:00:00Z"),
        ("0 0 2 * 0", "2026-01-02T00:00:00Z"),
        ("0 0 */10 * 0", "2026-01-04T00:00:00Z"),
        ("0 0 */1 * 0", "2026-01-04T00:00:00Z"),
        ("0 0 ? * 0", "2026-01-04T00:00:00Z"),
        ("0 0 10 * ?", "2026-01-10T00:00:00Z"),
        ("@hourly", "2026-01-01T01:00:00Z"),
        ("@daily", "2026-01-02T00:00:00Z"),
        ("@midnight", "2026-01-02T00:00:00Z"),
        ("@weekly", "2026-01-04T00:00:00Z"),
        ("@monthly", "2026-02-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z"),
    ];
    for (line, expected) in cases {
        assert_eq!(next(line, None, from), expected, "{line}");
    }
}

#[test]
fn the_longest_wait_is_that_of_the_next_ticks() {
    // 2026-01-01 is a Thursday.
    let cases = [
        ("0 * * * *", "2026-01-01T00:00:00Z", 3600),
        ("0 2 * * *", "2026-01-01T02:00:00Z", 86_400),
        // Over the weekend, whatever the day.
        ("0 2 * * 1-5", "2026-01-01T02:00:00Z", 3 * 86_400),
        ("0 2 * * 1-5", "2026-01-05T02:00:00Z", 3 * 86_400),
        // Over the night, once its first tick is the next one.
        ("*/5 8-17 * * *", "2026-01-01T12:00:00Z", 300),
        ("*/5 8-17 * * *", "2026-01-01T17:55:00Z", 50_700),
        ("0 0 1 * *", "2026-01-01T00:00:00Z", 31 * 86_400),
    ];
    for (line, at, seconds) in cases {
        let schedule = Schedule::parse(line, None).unwrap();
        let wait = schedule.longest_wait_after(at.parse().unwrap(), 8).unwrap();
        assert_eq!(wait.as_secs(), seconds, "{line} {at}");
    }
}

#[test]
fn a_weekday_step_does_not_count_on_to_the_second_sunday() {
    // Friday, then Monday.
    assert_eq!(
        next("0 0 * * 1/2", None, "2026-01-02T00:00:00Z"),
        "2026-01-05T00:00:00Z"
    );
}

#[test]
fn a_zone_moves_the_line_to_its_local_time() {
    let cases = [
        (
            "0 2 * * *",
            "Europe/Berlin",
            "2026-01-01T00:00:00Z",
            "2026-01-01T01:00:00Z",
        ),
        (
            "0 2 * * *",
            "Europe/Berlin",
            "2026-07-01T00:00:00Z",
            "2026-07-02T00:00:00Z",
        ),
        (
            "0 2 * * *",
            "Asia/Kathmandu",
            "2026-01-01T00:00:00Z",
            "2026-01-01T20:15:00Z",
        ),
        (
            "0 0 * * mon",
            "Pacific/Auckland",
            "2026-01-01T00:00:00Z",
            "2026-01-04T11:00:00Z",
        ),
        (
            "0 2 * * *",
            "UTC",
            "2026-01-01T00:00:00Z",
            "2026-01-01T02:00:00Z",
        ),
        (
            "0 2 * * *",
            "Etc/UTC",
            "2026-01-01T00:00:00Z",
            "2026-01-01T02:00:00Z",
        ),
    ];
    for (line, zone, from, expected) in cases {
        assert_eq!(next(line, Some(zone), from), expected, "{line} {zone}");
    }
}

/// All ticks after `from` up to `until`.
fn ticks(line: &str, zone: &str, from: &str, until: &str) -> Vec<String> {
    let schedule = Schedule::parse(line, Some(zone)).unwrap();
    let until = until.parse().unwrap();
    let first = schedule.next_after(from.parse().unwrap());
    std::iter::successors(first, |tick| schedule.next_after(*tick))
        .take_while(|tick| *tick <= until)
        .map(|tick| tick.strftime("%dT%H:%M").to_string())
        .collect()
}

/// Berlin's clocks go from 02:00 to 03:00 at 01:00Z.
#[test]
fn a_skipped_local_time_runs_at_the_change_and_a_wildcard_at_every_instant() {
    let cases: [(&str, &[&str]); 9] = [
        ("30 1 * * *", &["29T00:30"]),
        ("0 2 * * *", &["29T01:00"]),
        ("30 2 * * *", &["29T01:00"]),
        ("0 3 * * *", &["29T01:00"]),
        // Three local times, one instant: one tick.
        ("0,30 2,3 * * *", &["29T01:00", "29T01:30"]),
        ("*/20 2 * * *", &["29T01:00"]),
        ("30 3 * * *", &["29T01:30"]),
        ("30 1-3 * * *", &["29T00:30", "29T01:30"]),
        ("30 */2 * * *", &["28T23:30", "29T02:30"]),
    ];
    for (line, expected) in cases {
        let found = ticks(
            line,
            "Europe/Berlin",
            "2026-03-28T23:00:00Z",
            "2026-03-29T03:00:00Z",
        );
        assert_eq!(found, expected, "{line}");
    }
}

/// Berlin's clocks go back from 03:00 to 02:00 at 01:00Z.
#[test]
fn a_local_time_that_happens_twice_runs_once_and_a_wildcard_at_every_instant() {
    let cases: [(&str, &[&str]); 7] = [
        ("30 1 * * *", &["24T23:30"]),
        ("0 2 * * *", &["25T00:00"]),
        ("30 2 * * *", &["25T00:30"]),
        ("*/20 2 * * *", &["25T00:00", "25T00:20", "25T00:40"]),
        ("0 3 * * *", &["25T02:00"]),
        ("30 2-3 * * *", &["25T00:30", "25T01:30", "25T02:30"]),
        (
            "0 * * * *",
            &["24T23:00", "25T00:00", "25T01:00", "25T02:00", "25T03:00"],
        ),
    ];
    for (line, expected) in cases {
        let found = ticks(
            line,
            "Europe/Berlin",
            "2026-10-24T22:00:00Z",
            "2026-10-25T03:00:00Z",
        );
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn a_midnight_that_does_not_happen_is_the_change() {
    // Beirut's clocks go from 00:00 to 01:00 at 22:00Z; Samoa had no 30 December 2011.
    let beirut = next("@daily", Some("Asia/Beirut"), "2026-03-28T12:00:00Z");
    assert_eq!(beirut, "2026-03-28T22:00:00Z");
    let samoa = ticks(
        "0 12 * * *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        "2012-01-01T00:00:00Z",
    );
    assert_eq!(samoa, ["29T22:00", "30T10:00", "30T22:00", "31T22:00"]);
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
        "0 0 31 4,6,9,11 *",
        "0 0 0 * *",
        "0 0 32 * *",
        "0 0 * 13 *",
        "0 0 * * 8",
        "5-1 * * * *",
        "*/0 * * * *",
        "1,,2 * * * *",
        "-1 * * * *",
        "0 0 * mon *",
        "0 0 L * *",
        "0 0 * * 5#2",
        "@every 1h",
        "@reboot",
        "a * * * *",
        "TZ=UTC 0 2 * * *",
        "CRON_TZ=UTC 0 2 * * *",
    ] {
        let error = Schedule::parse(line, None).expect_err(line);
        assert_eq!(error.field, "spec.schedule");
    }
}

#[test]
fn a_zone_that_does_not_exist_is_refused() {
    for zone in ["", "Local", "Europe/Bielefeld", "+02:00", "UTC+2"] {
        let error = Schedule::parse("@daily", Some(zone)).expect_err(zone);
        assert_eq!(error.field, "spec.timeZone");
        assert!(error.found.contains(zone), "{error}");
    }
}
