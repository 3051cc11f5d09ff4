//! The format by tables, and by round trip.

use super::*;
use crate::exporter::encode::{Float, write_head, write_sample};
use kafka_backup_shared::metrics::{Family, MetricType};
use proptest::prelude::*;

fn refused(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn values(text: &str) -> Vec<f64> {
    let families = parse(text).expect(text);
    let samples = families.into_iter().flat_map(|family| family.samples);
    samples.map(|sample| sample.value).collect()
}

#[test]
fn what_the_format_allows_is_read() {
    let text = concat!(
        "# a comment\n",
        "\n",
        "# HELP a_total Line one\\nand a \\\\.\n",
        "# TYPE a_total counter\n",
        "a_total{ x = \"1\" , y=\"\\\"q\\\" \\\\ \\n\", } 1e3\n",
        "a_total\t2\r\n",
        "# TYPE h histogram\n",
        "h_bucket{le=\"+Inf\"} 1\n",
        "h_sum 0.5\n",
        "h_count 1\n",
        "b:c{} -Inf\n",
    );
    let families = parse(text).unwrap();
    let names: Vec<_> = families.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["a_total", "h", "b:c"]);
    assert_eq!(families[0].kind, TextType::Counter);
    assert_eq!(families[0].help.as_deref(), Some("Line one\nand a \\."));
    let expected = [("x", "1"), ("y", "\"q\" \\ \n")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(families[0].samples[0].labels, expected);
    assert_eq!(families[1].samples.len(), 3);
    assert_eq!(families[2].kind, TextType::Untyped);
    assert_eq!(
        values(text),
        [1000.0, 2.0, 1.0, 0.5, 1.0, f64::NEG_INFINITY]
    );
    assert!(values("a NaN\n")[0].is_nan());
    assert!(parse("").unwrap().is_empty());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cases = [
        ("a 1\nb 2", "line 2: the text ends in the middle of a line"),
        ("1a 1\n", "line 1: \"1a\" is not a metric name"),
        ("a-b 1\n", "line 1: \"a-b\" is not a metric name"),
        ("ä 1\n", "line 1: \"ä\" is not a metric name"),
        ("a\n", "line 1: no value after \"a\""),
        ("a{} \n", "line 1: no value after a"),
        ("a x\n", "line 1: \"x\" is not a number"),
        (
            "a 1 1700000000000\n",
            "line 1: a has a timestamp, which a push must not have",
        ),
        (
            "a{x=1} 1\n",
            "line 1: the value of label x is not in quotes",
        ),
        (
            "a{x=\"1} 1\n",
            "line 1: the value of label x has no closing quote",
        ),
        (
            "a{x=\"1\" 1\n",
            "line 1: neither , nor } after the value of label x",
        ),
        (
            "a{x} 1\n",
            "line 1: a label has no value, or the labels have no closing brace",
        ),
        (
            "a{x=\"1\"\n",
            "line 1: neither , nor } after the value of label x",
        ),
        ("a{x=\"1\",x=\"2\"} 1\n", "line 1: label x comes twice"),
        (
            "a{__name__=\"b\"} 1\n",
            "line 1: label name \"__name__\" is reserved",
        ),
        (
            "a{x=\"\\t\"} 1\n",
            "line 1: a backslash in the value of label x must be followed by \\, \" or n",
        ),
        (
            "a 1\na 2\n",
            "line 2: a second sample of the same series of a",
        ),
        (
            "a{x=\"1\",y=\"2\"} 1\na{y=\"2\",x=\"1\"} 1\n",
            "line 2: a second sample of the same series of a",
        ),
        (
            "a 1\nb 1\na{x=\"1\"} 1\n",
            "line 3: the lines of a are not together",
        ),
        (
            "# TYPE a counter\n# TYPE a counter\n",
            "line 2: a second TYPE of a",
        ),
        ("# TYPE a count\n", "line 1: unknown type \"count\" of a"),
        ("# TYPE a\n", "line 1: unknown type \"\" of a"),
        ("# HELP a x\n# HELP a x\n", "line 2: a second HELP of a"),
        (
            "# HELP a \\x\n",
            "line 1: a backslash in a help must be followed by \\ or n",
        ),
        (
            "a 1\n# TYPE a counter\n",
            "line 2: the TYPE of a comes after its samples",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text), message, "{text:?}");
    }
}

#[test]
fn too_much_is_refused() {
    let many: String = (0..=MAX_SAMPLES).map(|i| format!("a{i} 1\n")).collect();
    assert!(refused(&many).contains("more than 10000 samples"));
    let labels: String = (0..40).map(|i| format!("l{i}=\"\",")).collect();
    assert!(refused(&format!("a{{{labels}}} 1\n")).contains("more than 32 labels"));
    let long = "x".repeat(MAX_TEXT + 1);
    assert!(refused(&format!("a{{l=\"{long}\"}} 1\n")).contains("longer than"));
    assert!(refused(&format!("{long} 1\n")).contains("is not a metric name"));
}

#[test]
fn every_cut_of_a_text_is_refused_or_ends_at_a_line() {
    let text = "# TYPE a counter\na{x=\"1\"} 123\nb 45\n";
    for end in 0..text.len() {
        let cut = &text[..end];
        assert_eq!(
            parse(cut).is_ok(),
            cut.is_empty() || cut.ends_with('\n'),
            "{cut:?}"
        );
    }
}

const EXAMPLE: Family = Family {
    name: "example",
    kind: MetricType::Gauge,
    help: "Quotes \" and \\ and\nlines.",
    labels: &["one", "two"],
};

proptest! {
    #[test]
    fn what_is_written_reads_back(
        samples in proptest::collection::vec((any::<String>(), any::<String>(), any::<f64>()), 0..20)
    ) {
        let mut text = String::new();
        write_head(&mut text, &EXAMPLE);
        let mut written = Vec::new();
        for (index, (one, two, value)) in samples.iter().enumerate() {
            let one = format!("{index}{one}");
            let labels = [("one", one.as_str()), ("two", two.as_str())];
            write_sample(&mut text, EXAMPLE.name, &labels, Float(*value));
            let owned = labels.map(|(name, text)| (name.to_owned(), text.to_owned()));
            written.push((owned.to_vec(), value.to_bits()));
        }
        let families = parse(&text).unwrap();
        prop_assert_eq!(families.len(), 1);
        prop_assert_eq!(families[0].help.as_deref(), Some(EXAMPLE.help));
        let read: Vec<_> = families[0].samples.iter()
            .map(|sample| (sample.labels.clone(), sample.value.to_bits())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "[a-b_{}=\"\\\\,# \\nTYPEHL0-9.+-]{0,60}") {
        // Only that it returns; what it returns is the business of the tables above.
        drop(parse(&text));
    }
}
