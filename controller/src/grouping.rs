//! The grouping key in a push's path, as Pushgateway's clients build it.
//!
//! `/metrics/job/<job>{/<label>/<value>}`; a label that ends in `@base64` has its value in URL-safe base64, with or without
//! padding, and a single `=` for the empty value. Other values are percent-encoded and not empty.
//!
//! Source: <https://github.com/prometheus/pushgateway#url>.

use std::collections::BTreeMap;

/// Labels with their values; `job` is always there.
pub(crate) type Grouping = BTreeMap<String, String>;

/// Reads the path of a push.
pub(crate) fn parse(path: &str) -> Result<Grouping, String> {
    let rest = path.strip_prefix("/metrics/").unwrap_or(path);
    let segments: Vec<&str> = rest.split('/').collect();
    let mut grouping = Grouping::new();
    for pair in segments.chunks(2) {
        let &[label, value] = pair else {
            return Err(format!("label {} has no value", pair[0]));
        };
        let (label, value) = match label.strip_suffix("@base64") {
            Some(label) => (label, base64(value)),
            None => (label, percent(value).filter(|value| !value.is_empty())),
        };
        let is_first = grouping.is_empty();
        if is_first != (label == "job") {
            return Err("the path begins with /metrics/job/<job>, and has one job".into());
        }
        if !is_label_name(label) {
            return Err(format!("{label:?} is not a label name"));
        }
        let value = value.ok_or_else(|| format!("the value of label {label} cannot be read"))?;
        if grouping.insert(label.to_owned(), value).is_some() {
            return Err(format!("label {label} comes twice"));
        }
    }
    Ok(grouping)
}

fn is_label_name(label: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
    label.starts_with(|c: char| valid(c) && !c.is_ascii_digit())
        && !label.starts_with("__")
        && label.chars().all(valid)
}

fn percent(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let value = digit(digits[0])? * 16 + digit(digits[1])?;
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// Of either alphabet, with or without padding.
pub(crate) fn base64(text: &str) -> Option<String> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len());
    let (mut bits, mut held) = (0u32, 0);
    for letter in text.bytes() {
        let digit = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(digit)) & 0xffff;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    // A lone digit, or bits that belong to no byte, mean that something was cut off.
    if held >= 6 || bits & ((1 << held) - 1) != 0 {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_of_pushgateway_clients_are_read() {
        let cases: [(&str, &[(&str, &str)]); 6] = [
            ("/metrics/job/j", &[("job", "j")]),
            (
                "/metrics/job/j/a/b/c/d",
                &[("a", "b"), ("c", "d"), ("job", "j")],
            ),
            (
                "/metrics/job/j/a/x%2Fy%20%C3%A4",
                &[("a", "x/y ä"), ("job", "j")],
            ),
            (
                "/metrics/job/j/path@base64/L3Zhci90bXA",
                &[("job", "j"), ("path", "/var/tmp")],
            ),
            (
                "/metrics/job@base64/ag==/a@base64/=",
                &[("a", ""), ("job", "j")],
            ),
            (
                "/metrics/job/titan/name@base64/zqDPgc6_zrzOt864zrXPjc-C",
                &[("job", "titan"), ("name", "Προμηθεύς")],
            ),
        ];
        for (path, expected) in cases {
            let grouping = parse(path).expect(path);
            let read: Vec<_> = grouping
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect();
            assert_eq!(read, expected, "{path}");
        }
    }

    #[test]
    fn other_paths_are_refused() {
        for path in [
            "/metrics/",
            "/metrics/job",
            "/metrics/job/",
            "/metrics/a/b",
            "/metrics/job/j/a",
            "/metrics/job/j/a/",
            "/metrics/job/j/a/b/a/c",
            "/metrics/job/j/job/k",
            "/metrics/job/j/a-b/c",
            "/metrics/job/j/__name__/c",
            "/metrics/job/j/a/%2",
            "/metrics/job/j/a/%zz",
            "/metrics/job/j/a/%ff",
            "/metrics/job/j/a@base64/a",
            "/metrics/job/j/a@base64/ab",
            "/metrics/job/j/a@base64/a!==",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn what_is_percent_encoded_reads_back(value in "\\PC{1,20}") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let grouping = parse(&format!("/metrics/job/{encoded}"));
            prop_assert_eq!(grouping, Ok(Grouping::from([("job".to_owned(), value)])));
        }
    }
}
