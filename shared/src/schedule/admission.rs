//! What the API server can know of a cron line: CEL rules made of regular expressions, for it has no calendar.
//!
//! # Guarantees
//! - They refuse nothing that [`super::Schedule::parse`] takes.

/// Its five fields hold what may stand there, or it is one of the words.
pub(crate) fn line() -> String {
    format!("self.matches(r'{}')", line_pattern())
}

/// It is not one of the dates that everybody knows not to exist.
pub(crate) fn date() -> String {
    format!("!self.matches(r'{}')", never_pattern())
}

const MONTHS: &str = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec";
const DAYS: &str = "sun|mon|tue|wed|thu|fri|sat";

fn line_pattern() -> String {
    let fields = [
        field("0*[0-5]?[0-9]"),
        field("0*(1?[0-9]|2[0-3])"),
        field("0*([1-9]|[12][0-9]|3[01])"),
        field(&format!("0*([1-9]|1[0-2])|{MONTHS}")),
        field(&format!("0*[0-7]|{DAYS}")),
    ];
    let words = "@(yearly|annually|monthly|weekly|daily|midnight|hourly)";
    format!(r"^\s*({words}|(?i:{}))\s*$", fields.join(r"\s+"))
}

fn field(value: &str) -> String {
    let item = format!("(({value})(-({value}))?|[*?])(/0*[1-9][0-9]{{0,8}})?");
    format!("{item}(,{item})*")
}

fn never_pattern() -> String {
    let list = |values: &str| format!("({values})(,({values}))*");
    let never = [
        format!("{} +{}", list("0*3[01]"), list("0*2|feb")),
        format!(
            "{} +{}",
            list("0*31"),
            list("0*([2469]|11)|feb|apr|jun|sep|nov")
        ),
    ];
    let never = never.join("|").replace(" +", r"\s+");
    format!(r"(?i)^\s*\S+\s+\S+\s+({never})\s+[*?]\s*$")
}

#[cfg(test)]
pub(super) mod tests {
    use regex::Regex;

    use super::*;
    use crate::schedule::Schedule;

    pub(in crate::schedule) fn is_admitted(line: &str) -> bool {
        let is = |pattern: String| Regex::new(&pattern).unwrap().is_match(line);
        is(line_pattern()) && !is(never_pattern())
    }

    #[test]
    fn what_cannot_be_read_is_refused_as_far_as_a_pattern_can_tell() {
        for line in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "0 24 * * *",
            "0 0 0 * *",
            "0 0 32 * *",
            "0 0 * 13 *",
            "0 0 * * 8",
            "*/0 * * * *",
            "1,,2 * * * *",
            "a * * * *",
            "0 0 * mon *",
            "@every 1h",
            "@Daily",
            "TZ=UTC 0 2 * * *",
            "0 0 30 2 *",
            "0 0 31 feb ?",
            "0 0 30,31 2 *",
            "0 0 31 4,6,9,11 *",
            "0 0 L * *",
        ] {
            assert!(!is_admitted(line), "{line}");
            assert!(Schedule::parse(line, None).is_err(), "{line}");
        }
    }

    #[test]
    fn what_can_be_read_is_admitted() {
        for line in [
            "* * * * *",
            " 0  2\t* * * ",
            "*/15 8-18/2 1,15 JAN-mar mon,WED",
            "00 007 01 09 07",
            "0 0 31 2,3 *",
            "0 0 31 4 1",
            "0 0 29 2 *",
            "0 0 30 4 *",
            "? ? ? ? ?",
            "5/20 0 * * *",
            "@hourly",
            " @daily ",
        ] {
            Schedule::parse(line, None).unwrap();
            assert!(is_admitted(line), "{line}");
        }
    }
}
