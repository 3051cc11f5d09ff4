//! Numbers, sizes, durations and tables as people read them.

use std::time::Duration;

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1,234,567 records`, `1 record`.
pub fn counted(value: u64, singular: &str, plural: &str) -> String {
    format!(
        "{} {}",
        count(value),
        if value == 1 { singular } else { plural }
    )
}

/// `1.5 GiB`.
pub fn bytes(value: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if value < 1024 {
        return format!("{value} B");
    }
    let mut scaled = value as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of the smaller unit.
    while scaled >= 1023.95 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    format!("{scaled:.1} {}", UNITS[unit])
}

/// `0.4 s`, `12.3 s`, `4m 05s`, `3h 07m`.
pub fn duration(value: Duration) -> String {
    let seconds = value.as_secs();
    match seconds {
        0..60 => format!("{:.1} s", value.as_secs_f64()),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// The first of a list, and how many there are besides: `a; b; and 3 more`.
pub fn some(all: &[String], most: usize) -> String {
    let mut text = all[..all.len().min(most)].join("; ");
    if all.len() > most {
        text.push_str(&format!("; and {} more", all.len() - most));
    }
    text
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Columns as wide as their widest cell, two spaces between them, no space at a line's end.
pub fn table<const N: usize>(columns: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let mut widths = columns.map(|(title, _)| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line =
        |cells: [&str; N]| {
            let padded = cells.iter().zip(&columns).zip(widths).map(
                |((cell, (_, align)), width)| match align {
                    Align::Left => format!("{cell:<width$}"),
                    Align::Right => format!("{cell:>width$}"),
                },
            );
            format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
        };
    let mut text = line(columns.map(|(title, _)| title));
    for row in rows {
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(value), text);
        }
        for (value, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 29, "1.5 GiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (millis, text) in [
            (40, "0.0 s"),
            (12_340, "12.3 s"),
            (245_000, "4m 05s"),
            (11_220_000, "3h 07m"),
        ] {
            assert_eq!(duration(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn long_lists_are_cut() {
        let all: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
        assert_eq!(some(&all, 3), "a; b; c");
        assert_eq!(some(&all, 1), "a; and 2 more");
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["a".into(), "5".into()], ["long".into(), "12".into()]];
        assert_eq!(
            table([("NAME", Align::Left), ("N", Align::Right)], &rows),
            "NAME   N\na      5\nlong  12\n"
        );
    }
}
