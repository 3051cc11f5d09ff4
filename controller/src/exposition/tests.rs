//! The formats by tables, and by round trip.

use super::*;
use crate::aggregate::Format;
use crate::exporter::{Encoder, Float};
use kafka_backup_shared::metrics::{Family as Known, MetricType};
use proptest::prelude::*;
use prost::Message;

fn read(text: &str) -> Vec<Family<'_>> {
    parse(text, Syntax::Text).expect(text)
}

fn refused(text: &str) -> String {
    parse(text, Syntax::Text).expect_err(text).to_string()
}

fn refused_open_metrics(text: &str) -> String {
    parse(text, Syntax::OpenMetrics)
        .expect_err(text)
        .to_string()
}

fn numbers(families: &[Family<'_>]) -> Vec<f64> {
    let points = families.iter().flat_map(|family| &family.points);
    points
        .filter_map(|point| match point.value {
            Value::Number(value) => Some(value),
            Value::Histogram(_) | Value::Summary { .. } => None,
        })
        .collect()
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
    let families = read(text);
    let names: Vec<_> = families.iter().map(|f| f.name.as_ref()).collect();
    assert_eq!(names, ["a_total", "h", "b:c"]);
    assert_eq!(families[0].kind, Kind::Counter);
    assert_eq!(families[0].help, "Line one\nand a \\.");
    let expected = [("x", "1"), ("y", "\"q\" \\ \n")].map(|(k, v)| (k.into(), v.into()));
    assert_eq!(families[0].points[0].labels, expected);
    assert_eq!(families[1].points.len(), 1);
    assert_eq!(families[2].kind, Kind::Untyped);
    assert_eq!(numbers(&families), [1000.0, 2.0, f64::NEG_INFINITY]);
    assert!(numbers(&read("a NaN\n"))[0].is_nan());
    assert!(read("").is_empty());
}

const OPEN_METRICS: &str = concat!(
    "# HELP a Says \\\"a\\\".\n# TYPE a counter\n# UNIT a seconds\n",
    "a_total{x=\"#\"} 3 # {trace_id=\"t\"} 0.5 1.5\na_created{x=\"#\"} 12.5\n",
    "# TYPE h histogram\nh_bucket{le=\"1.0\"} 1 # {trace_id=\"t\"} 0.5\nh_bucket{le=\"+Inf\"} 2\n",
    "h_count 2\nh_sum 5\nh_created 7\n",
    "# TYPE s summary\ns{quantile=\"0.5\"} 1\ns_count 2\ns_sum 3\n",
    "# TYPE build info\nbuild_info{version=\"1\"} 1\n",
    "# TYPE state stateset\nstate{state=\"on\"} 1\nstate{state=\"off\"} 0\n",
    "# TYPE u unknown\nu 1\n",
    "# EOF\n",
);

#[test]
fn openmetrics_is_read_with_its_names_and_starts() {
    let families = parse(OPEN_METRICS, Syntax::OpenMetrics).unwrap();
    let heads = families.iter();
    let heads: Vec<_> = heads
        .map(|f| (f.name.as_ref(), f.kind, f.points.len()))
        .collect();
    assert_eq!(
        heads,
        [
            ("a_total", Kind::Counter, 1),
            ("h", Kind::Histogram, 1),
            ("s", Kind::Summary, 1),
            ("build_info", Kind::Gauge, 1),
            ("state", Kind::Gauge, 2),
            ("u", Kind::Untyped, 1),
        ]
    );
    assert_eq!(families[0].help, "Says \"a\".");
    assert_eq!(families[0].points[0].created, Some(12.5));
    let buckets = Buckets {
        bounds: vec![1.0],
        counts: vec![1.0],
        count: 2.0,
        sum: 5.0,
    };
    assert_eq!(families[1].points[0].value, Value::Histogram(buckets));
    assert_eq!(families[1].points[0].created, Some(7.0));
    for end in 0..OPEN_METRICS.len() {
        let is_whole = end == OPEN_METRICS.len() - 1;
        let cut = &OPEN_METRICS[..end];
        assert_eq!(parse(cut, Syntax::OpenMetrics).is_ok(), is_whole, "{cut:?}");
    }
    let cases = [
        (
            "",
            "line 0: the text was cut off: its last line is not # EOF",
        ),
        ("# EOF\na 1\n", "line 2: something comes after # EOF"),
        (
            "a 1 5\n# EOF\n",
            "line 1: a has a timestamp, which a push must not have",
        ),
        (
            "# TYPE a gaugehistogram\n# EOF\n",
            "line 1: a is a gauge histogram, which is not taken",
        ),
        (
            "# TYPE a untyped\n# EOF\n",
            "line 1: unknown type \"untyped\" of a",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused_open_metrics(text), message, "{text:?}");
    }
}

#[test]
fn gauges_by_which_python_tells_starts_in_the_text_format_are_starts() {
    let families = read(
        "# TYPE a_total counter\na_total{x=\"1\"} 3\na_total{x=\"2\"} 4\n# TYPE a_created gauge\na_created{x=\"2\"} 12.5\n\
         # TYPE s summary\ns_sum 5\ns_count 2\n# TYPE s_created gauge\ns_created 7\n\
         # TYPE others_created gauge\nothers_created 8\n",
    );
    let names: Vec<_> = families.iter().map(|f| f.name.as_ref()).collect();
    assert_eq!(names, ["a_total", "s", "others_created"]);
    let created = |family: &Family<'_>| -> Vec<_> {
        family.points.iter().map(|point| point.created).collect()
    };
    assert_eq!(created(&families[0]), [None, Some(12.5)]);
    assert_eq!(created(&families[1]), [Some(7.0)]);
    let text = "# TYPE a_total counter\na_total 3\n# TYPE a_created gauge\na_created NaN\n";
    assert_eq!(refused(text), "line 4: a_total was created at no time");
}

#[test]
fn what_no_counter_and_no_histogram_can_be_is_refused() {
    let cases = [
        (
            "# TYPE a counter\na -1\n",
            "a is -1, which no counter can be",
        ),
        (
            "# TYPE a counter\na NaN\n",
            "a is NaN, which no counter can be",
        ),
        (
            "# TYPE a counter\na +Inf\n",
            "a is inf, which no counter can be",
        ),
        (
            "# TYPE h histogram\nh_sum 1\nh_count 1\n",
            "h has no bucket with le=\"+Inf\"",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\n",
            "h has no count",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_count 1\n",
            "h has no sum",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n",
            "h counts 2, and 1 in its last bucket",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "h has 1 in its bucket le=\"inf\", after 2 in the one before",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"1\"} NaN\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "h has NaN in its bucket le=\"1\", after 0 in the one before",
        ),
        (
            "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n",
            "h has the bucket le=\"1\" twice, or one that is no number",
        ),
        (
            "# TYPE h histogram\nh_bucket 1\n",
            "h_bucket has no label le",
        ),
        (
            "# TYPE h histogram\nh 1\n",
            "h has no bucket with le=\"+Inf\"",
        ),
        ("# TYPE s summary\ns_sum 1\n", "s has no count"),
        (
            "# TYPE s summary\ns_sum NaN\ns_count 1\n",
            "s has the sum NaN",
        ),
    ];
    for (text, message) in cases {
        let refused = refused(text);
        let (_, reason) = refused.split_once(": ").unwrap();
        assert_eq!(reason, message, "{text:?}");
    }
}

fn delimited(families: &[protobuf::MetricFamily]) -> Vec<u8> {
    let messages = families.iter();
    messages
        .flat_map(Message::encode_length_delimited_to_vec)
        .collect()
}

fn protobuf_family(name: &str, kind: protobuf::MetricType) -> protobuf::MetricFamily {
    protobuf::MetricFamily {
        name: Some(name.into()),
        help: Some("Help.".into()),
        kind: Some(kind.into()),
        metrics: Vec::new(),
    }
}

#[test]
fn protobuf_is_read_as_the_text_is() {
    use protobuf::{Bucket, Histogram, LabelPair, Metric, MetricType, Number, Timestamp};
    let mut counter = protobuf_family("a_total", MetricType::Counter);
    counter.metrics.push(Metric {
        labels: vec![LabelPair {
            name: Some("x".into()),
            value: Some("1".into()),
        }],
        counter: Some(Number {
            value: Some(3.0),
            created: Some(Timestamp {
                seconds: 12,
                nanos: 500_000_000,
            }),
        }),
        ..Metric::default()
    });
    let mut histogram = protobuf_family("h", MetricType::Histogram);
    histogram.metrics.push(Metric {
        histogram: Some(Histogram {
            count: Some(2),
            sum: Some(5.0),
            buckets: vec![Bucket {
                count: Some(1),
                bound: Some(1.0),
                ..Bucket::default()
            }],
            ..Histogram::default()
        }),
        ..Metric::default()
    });
    let bytes = delimited(&[counter.clone(), histogram.clone()]);
    let families = parse_protobuf(&bytes).unwrap();
    let text = concat!(
        "# HELP a Help.\n# TYPE a counter\na_total{x=\"1\"} 3\na_created{x=\"1\"} 12.5\n",
        "# HELP h Help.\n# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 5\nh_count 2\n# EOF\n"
    );
    assert_eq!(families, parse(text, Syntax::OpenMetrics).unwrap());
    // Each cut is one: only between the two messages it is a whole, shorter push.
    let boundary = delimited(&[counter.clone()]).len();
    for end in 1..bytes.len() {
        assert_eq!(
            parse_protobuf(&bytes[..end]).is_ok(),
            end == boundary,
            "{end}"
        );
    }

    let refused = |families: &[protobuf::MetricFamily]| {
        parse_protobuf(&delimited(families))
            .unwrap_err()
            .to_string()
    };
    let twice = refused(&[counter.clone(), counter.clone()]);
    assert_eq!(twice, "family \"a_total\": it comes twice");
    counter.metrics[0].timestamp_ms = Some(1);
    let reason = "it has a timestamp, which a push must not have";
    assert_eq!(refused(&[counter]), format!("family \"a_total\": {reason}"));
    if let Some(histogram) = &mut histogram.metrics[0].histogram {
        histogram.schema = Some(3);
        histogram.buckets.clear();
    }
    let reason = "it is a native histogram, which is not taken";
    assert_eq!(refused(&[histogram]), format!("family \"h\": {reason}"));
    let unknown = protobuf::MetricFamily {
        kind: Some(9),
        ..protobuf_family("b", MetricType::Gauge)
    };
    assert_eq!(refused(&[unknown]), "family \"b\": its type 9 is unknown");
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
            parse(cut, Syntax::Text).is_ok(),
            cut.is_empty() || cut.ends_with('\n'),
            "{cut:?}"
        );
    }
}

const EXAMPLE: Known = Known {
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
        let mut out = Encoder::new(&mut text, Format::Text);
        out.head(&EXAMPLE);
        let mut written = Vec::new();
        for (index, (one, two, value)) in samples.iter().enumerate() {
            let one = format!("{index}{one}");
            let labels = [("one", one.as_str()), ("two", two.as_str())];
            out.sample(EXAMPLE.name, &labels, Float(*value));
            let owned = labels.map(|(name, text)| (name.to_owned(), text.to_owned()));
            written.push((owned.to_vec(), value.to_bits()));
        }
        let families = read(&text);
        prop_assert_eq!(families.len(), 1);
        prop_assert_eq!(&families[0].help, EXAMPLE.help);
        let labels = |point: &Point<'_>| point.labels.iter()
            .map(|(name, text)| (name.to_string(), text.to_string())).collect::<Vec<_>>();
        let values = numbers(&families);
        let read: Vec<_> = families[0].points.iter().zip(values)
            .map(|(point, value)| (labels(point), value.to_bits())).collect();
        prop_assert_eq!(read, written);
    }

    #[test]
    fn no_text_breaks_the_parser(text in "[a-b_{}=\"\\\\,# \\nTYPEHL0-9.+-]{0,60}") {
        // Only that it returns; what it returns is the business of the tables above.
        drop(parse(&text, Syntax::Text));
        drop(parse(&text, Syntax::OpenMetrics));
    }

    #[test]
    fn no_bytes_break_the_protobuf_reader(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        drop(parse_protobuf(&bytes));
    }
}
