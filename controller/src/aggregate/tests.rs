//! Pushes as text, and what is exposed after them.

use proptest::prelude::*;

use super::*;
use crate::exposition::{Syntax, parse};

struct Rig {
    aggregator: Aggregator,
    now: Instant,
}

impl Rig {
    fn new() -> Self {
        Self {
            aggregator: Aggregator::new(1000),
            now: Instant::now(),
        }
    }

    fn push(&self, id: &str, text: &str) -> Result<Taken, StoreError> {
        self.send(&source(id), Replace::Named, text)
    }

    fn send(&self, source: &Source, replace: Replace, text: &str) -> Result<Taken, StoreError> {
        let syntax = match text.ends_with("# EOF\n") {
            true => Syntax::OpenMetrics,
            false => Syntax::Text,
        };
        let families = parse(text, syntax).expect(text);
        self.aggregator.push(source, replace, &families, self.now)
    }

    fn taken(&self, id: &str, text: &str) {
        assert_eq!(self.push(id, text), Ok(Taken::Yes), "{text}");
    }

    fn late(&self, id: &str, text: &str) {
        let before = self.page();
        let taken = self.push(id, text);
        assert!(matches!(taken, Ok(Taken::Late(_))), "{taken:?}");
        assert_eq!(self.page(), before, "{text}");
    }

    fn refused(&self, id: &str, text: &str) -> String {
        let before = self.page();
        let error = self.push(id, text).expect_err(text).to_string();
        assert_eq!(self.page(), before, "{text}");
        error
    }

    fn end(&self, id: &str) {
        self.aggregator.end(&source(id), self.now);
    }

    fn page(&self) -> String {
        self.aggregator.store().check();
        self.rendered(Format::Text)
    }

    fn rendered(&self, format: Format) -> String {
        let mut page = String::new();
        self.aggregator.render(&mut page, format);
        page
    }

    fn samples(&self) -> Vec<String> {
        let page = self.page();
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.aggregator.sweep(&HashMap::new(), self.now);
    }
}

/// Sources of one job.
fn source(id: &str) -> Source {
    Source {
        id: id.into(),
        labels: BTreeMap::from([("job".into(), "j".into())]),
        owner: Owner::Holder,
    }
}

const COUNTER: &str = "# TYPE a_total counter\n";

fn counter(value: u32) -> String {
    format!("{COUNTER}a_total {value}\n")
}

/// A counter of a process that started then.
fn started(value: u32, start: u32) -> String {
    let start =
        format!("# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {start}\n");
    format!("{}{start}", counter(value))
}

fn total(rig: &Rig) -> f64 {
    let samples = rig.samples();
    let line = samples
        .iter()
        .find_map(|line| line.strip_prefix("a_total{job=\"j\"} "));
    line.expect("the counter").parse().expect("a number")
}

#[test]
fn sources_add_up_and_a_repeated_push_changes_nothing() {
    let rig = Rig::new();
    rig.taken("one", &counter(5));
    rig.taken("one", &counter(5));
    rig.taken("two", &counter(3));
    rig.taken("one", &counter(7));
    assert_eq!(rig.samples(), ["a_total{job=\"j\"} 10"]);
}

/// Where a series was last time is a guess, and may be wrong.
#[test]
fn series_are_found_in_another_order_and_when_others_took_their_place() {
    let rig = Rig::new();
    // Without any label: nothing tells it from a place that is empty.
    let bare = |id: &str| Source {
        labels: BTreeMap::new(),
        ..source(id)
    };
    let push = |id: &str, text: &str| {
        let taken = rig.send(&bare(id), Replace::Named, text);
        assert_eq!(taken, Ok(Taken::Yes), "{text}");
    };
    let (a, b) = (
        "# TYPE a gauge\na 1\na{x=\"y\"} 3\n",
        "# TYPE b counter\nb 2\n",
    );
    push("one", &format!("{a}{b}"));
    push("two", a);
    // It was the last to write it, and `one` still remembers it.
    rig.end("two");
    assert_eq!(rig.samples(), ["b 2"]);
    // A family with fewer series is where `a` was.
    push("three", "# TYPE c gauge\nc 5\n");
    push("one", &format!("{b}{a}"));
    push("one", &format!("{a}{b}"));
    let mut samples = rig.samples();
    samples.sort();
    assert_eq!(samples, ["a 1", "a{x=\"y\"} 3", "b 2", "c 5"]);
}

#[test]
fn a_lower_counter_is_late_from_the_same_start_and_a_new_process_from_a_later_one() {
    let rig = Rig::new();
    rig.taken("unknown", &counter(5));
    rig.late("unknown", &counter(4));

    rig.taken("known", &started(10, 1000));
    rig.late("known", &started(9, 1000));
    rig.taken("known", &started(2, 2000));
    assert_eq!(total(&rig), 17.0);
    // The push of the process before, which was under way.
    rig.late("known", &started(11, 1000));
    rig.taken("known", &started(3, 2000));
    assert_eq!(total(&rig), 18.0);
}

#[test]
fn openmetrics_tells_the_start_of_each_counter() {
    let rig = Rig::new();
    let push = |value: u32, created: u32| {
        format!("# TYPE a counter\na_total {value}\na_created {created}\n# EOF\n")
    };
    rig.taken("one", &push(5, 10));
    rig.late("one", &push(4, 10));
    rig.taken("one", &push(1, 20));
    assert_eq!(total(&rig), 6.0);
}

#[test]
fn what_a_source_counted_stays_when_it_ends_and_its_repeat_is_recognised() {
    let mut rig = Rig::new();
    let text = format!("{}# TYPE g gauge\ng 1\n", counter(5));
    rig.taken("one", &text);
    rig.end("one");
    assert_eq!(rig.samples(), ["a_total{job=\"j\"} 5"]);
    rig.late("one", &text);
    // A job that counts anew each night, under the same key.
    rig.taken("one", &counter(3));
    assert_eq!(total(&rig), 8.0);
    rig.end("one");
    rig.taken("one", &counter(4));
    assert_eq!(total(&rig), 12.0);
    rig.end("one");
    rig.pass(REMEMBERED);
    rig.taken("one", &counter(4));
    assert_eq!(total(&rig), 16.0);
    rig.end("unheard of");
}

#[test]
fn a_push_from_the_same_start_after_the_end_goes_on() {
    let rig = Rig::new();
    rig.taken("one", &started(5, 100));
    rig.end("one");
    rig.late("one", &counter(5));
    rig.taken("one", &started(6, 100));
    assert_eq!(total(&rig), 6.0);
}

#[test]
fn the_last_gauge_wins_and_the_largest_timestamp() {
    let rig = Rig::new();
    let push = |value: u32| {
        format!(
            "# TYPE g gauge\ng {value}\n# TYPE done_timestamp_seconds gauge\ndone_timestamp_seconds {value}\nuntyped {value}\n"
        )
    };
    rig.taken("one", &push(7));
    rig.taken("two", &push(5));
    let expected = [
        "g{job=\"j\"} 5",
        "done_timestamp_seconds{job=\"j\"} 7",
        "untyped{job=\"j\"} 5",
    ];
    assert_eq!(rig.samples(), expected);
    // Not its own any more.
    rig.end("one");
    assert_eq!(rig.samples(), expected);
    rig.end("two");
    assert!(rig.samples().is_empty());
}

#[test]
fn put_replaces_all_gauges_of_its_source_and_post_those_that_it_names() {
    let rig = Rig::new();
    let all = "# TYPE g gauge\ng{x=\"1\"} 1\ng{x=\"2\"} 2\n# TYPE h gauge\nh 3\n";
    let some = "# TYPE g gauge\ng{x=\"2\"} 4\n";
    rig.taken("one", all);
    rig.taken("one", some);
    assert_eq!(rig.samples(), ["g{job=\"j\",x=\"2\"} 4", "h{job=\"j\"} 3"]);
    rig.taken("one", all);
    assert_eq!(rig.send(&source("one"), Replace::All, some), Ok(Taken::Yes));
    assert_eq!(rig.samples(), ["g{job=\"j\",x=\"2\"} 4"]);
    // A counter stays, and is not counted again when it comes back.
    rig.taken("one", &counter(5));
    assert_eq!(rig.send(&source("one"), Replace::All, some), Ok(Taken::Yes));
    rig.taken("one", &counter(6));
    assert_eq!(total(&rig), 6.0);
}

fn histogram(buckets: &[(&str, u32)], sum: u32) -> String {
    let mut text = "# TYPE h histogram\n".to_owned();
    for (bound, count) in buckets {
        text += &format!("h_bucket{{le=\"{bound}\"}} {count}\n");
    }
    let count = buckets.last().map_or(0, |(_, count)| *count);
    text + &format!("h_sum {sum}\nh_count {count}\n")
}

#[test]
fn histograms_add_up_on_the_bounds_that_they_share() {
    let rig = Rig::new();
    rig.taken("one", &histogram(&[("1", 1), ("5", 3), ("+Inf", 4)], 20));
    rig.taken("one", &histogram(&[("1", 2), ("5", 4), ("+Inf", 5)], 21));
    rig.taken("two", &histogram(&[("1", 1), ("5", 1), ("+Inf", 1)], 1));
    let line = |text: &str| text.to_owned();
    assert_eq!(
        rig.samples(),
        [
            line("h_bucket{job=\"j\",le=\"1\"} 3"),
            line("h_bucket{job=\"j\",le=\"5\"} 5"),
            line("h_bucket{job=\"j\",le=\"+Inf\"} 6"),
            line("h_sum{job=\"j\"} 22"),
            line("h_count{job=\"j\"} 6"),
        ]
    );
    rig.taken("three", &histogram(&[("5", 2), ("9", 3), ("+Inf", 3)], 10));
    rig.taken("one", &histogram(&[("1", 2), ("5", 5), ("+Inf", 6)], 25));
    assert_eq!(
        rig.samples(),
        [
            line("h_bucket{job=\"j\",le=\"5\"} 8"),
            line("h_bucket{job=\"j\",le=\"+Inf\"} 10"),
            line("h_sum{job=\"j\"} 36"),
            line("h_count{job=\"j\"} 10"),
        ]
    );
    // A bucket that falls, though the count does not.
    rig.late("one", &histogram(&[("1", 1), ("5", 5), ("+Inf", 7)], 30));
    let error = rig.refused("one", &histogram(&[("2", 3), ("+Inf", 7)], 30));
    assert_eq!(
        error,
        "h has other buckets than before, from the same start"
    );
}

#[test]
fn a_bound_below_zero_by_its_sign_alone_is_zero() {
    let rig = Rig::new();
    for (id, bound) in [("one", "-0"), ("two", "0")] {
        rig.taken(id, &histogram(&[(bound, 1), ("+Inf", 2)], 3));
    }
    rig.taken("one", &histogram(&[("0", 2), ("+Inf", 4)], 6));
    assert_eq!(rig.samples()[0], "h_bucket{job=\"j\",le=\"0\"} 3");
}

#[test]
fn summaries_add_up_without_their_quantiles() {
    let rig = Rig::new();
    let push = |sum: u32, count: u32| {
        format!("# TYPE s summary\ns{{quantile=\"0.5\"}} 4\ns_sum {sum}\ns_count {count}\n")
    };
    rig.taken("one", &push(10, 2));
    rig.taken("two", &push(5, 1));
    rig.taken("one", &push(12, 3));
    assert_eq!(
        rig.samples(),
        ["s_sum{job=\"j\"} 17", "s_count{job=\"j\"} 4"]
    );
}

#[test]
fn a_wrong_push_is_named_and_nothing_of_it_is_taken() {
    let rig = Rig::new();
    rig.taken(
        "one",
        &format!("{}{}", counter(1), histogram(&[("1", 1), ("+Inf", 1)], 1)),
    );
    let cases = [
        (
            "b 1\n# TYPE a_total gauge\na_total 1\n",
            "a_total is a gauge in this push, and a counter by earlier ones",
        ),
        (
            "b 1\n# TYPE h_count gauge\nh_count 1\n",
            "h_count has samples named h_count, as h has",
        ),
        (
            "b 1\n# TYPE h_created gauge\nh_created 1\n",
            "h_created has samples named h_created, as h has",
        ),
        (
            "b 1\n# TYPE x counter\nx 1\n# TYPE x_total counter\nx_total 1\n",
            "x_total has samples named x, as x has",
        ),
        (
            "b 1\nc{job=\"x\"} 1\nc{job=\"y\"} 2\n",
            "a second sample of the same series of c, once it has the labels of the path",
        ),
        (
            "b 1\na_total 1\n",
            "a_total is a untyped in this push, and a counter by earlier ones",
        ),
    ];
    for (text, reason) in cases {
        assert_eq!(rig.refused("two", text), reason);
    }
}

#[test]
fn what_there_is_no_room_for_is_refused_whole() {
    let rig = Rig::new();
    let many = |from: usize, to: usize| -> String {
        let lines = (from..to).map(|i| format!("m{{x=\"{i}\"}} 1\n"));
        lines.collect()
    };
    rig.taken("one", &many(0, 999));
    let error = rig.refused("two", &many(998, 1001));
    assert_eq!(
        error,
        "999 samples are held and the push would add 2, of at most 1000"
    );
    rig.taken("two", &many(998, 1000));
    assert_eq!(
        rig.aggregator.held(),
        Held {
            samples: 1000,
            sources: 2
        }
    );
    let (foreseen, size) = (rig.aggregator.size(), rig.page().len());
    assert!((size..2 * size).contains(&foreseen), "{foreseen} {size}");
    // There is room for values, and again for series when some are gone.
    rig.taken("one", &many(0, 999));
    rig.end("one");
    rig.end("two");
    rig.taken("two", &many(0, 1000));
}

#[test]
fn sources_are_bounded_as_series_are() {
    let rig = Rig::new();
    let many: String = (0..500)
        .map(|i| format!("a_total{{x=\"{i}\"}} 1\n"))
        .collect();
    let many = format!("{COUNTER}{many}");
    for id in ["1", "2", "3", "4"] {
        rig.taken(id, &many);
    }
    let error = rig.refused("5", &many);
    assert_eq!(
        error,
        "2000 samples are held and the push would add 500, of at most 2000"
    );
}

#[test]
fn peoples_own_go_after_a_day_and_an_objects_with_it() {
    let mut rig = Rig::new();
    let object = ObjectName {
        kind: "KafkaBackup",
        namespace: "shop".into(),
        name: "orders".into(),
    };
    let pod = |id: &str, job: &str| Source {
        id: id.into(),
        labels: BTreeMap::from([("name".into(), "orders".into())]),
        owner: Owner::Job {
            object: object.clone(),
            uid: job.into(),
        },
    };
    rig.taken("one", &counter(1));
    let worker = "# TYPE w_total counter\nw_total 1\n";
    for pod in [pod("a", "job-1"), pod("b", "job-1"), pod("c", "job-2")] {
        assert_eq!(rig.send(&pod, Replace::All, worker), Ok(Taken::Yes));
    }
    let active = HashMap::from([(object.clone(), Some("job-2".to_owned()))]);
    rig.now += REMEMBERED;
    rig.aggregator.sweep(&active, rig.now);
    let samples = ["a_total{job=\"j\"} 1", "w_total{name=\"orders\"} 3"];
    assert_eq!(rig.samples(), samples);
    // Those of the Job that has ended are forgotten, what they counted is not.
    assert_eq!(
        rig.aggregator.held(),
        Held {
            samples: 2,
            sources: 2
        }
    );
    rig.now += KEPT - REMEMBERED;
    rig.aggregator.sweep(&active, rig.now);
    assert_eq!(rig.samples(), samples[1..]);
    rig.aggregator.sweep(&HashMap::new(), rig.now);
    assert!(rig.samples().is_empty());
    assert_eq!(
        rig.aggregator.held(),
        Held {
            samples: 0,
            sources: 0
        }
    );
    // Names and places are free again, for another type too.
    rig.taken("one", "# TYPE a_total gauge\na_total 1\n");
}

#[test]
fn a_series_is_there_for_as_long_as_a_source_remembers_it() {
    let mut rig = Rig::new();
    rig.taken("one", &counter(5));
    rig.pass(KEPT - Duration::from_secs(60));
    rig.end("one");
    rig.pass(Duration::from_secs(120));
    assert_eq!(total(&rig), 5.0);
    rig.late("one", &counter(5));
}

#[test]
fn both_formats_are_written_as_they_are_specified() {
    let rig = Rig::new();
    let text = concat!(
        "# HELP a_total Says \"a\" and \\\\.\n# TYPE a_total counter\na_total{x=\"q\\\"\\n\"} 1.5\n",
        "# TYPE b counter\nb 1e300\n",
        "c NaN\n",
    );
    rig.taken(
        "one",
        &format!(
            "{text}{}",
            histogram(&[("0.5", 1), ("1", 1), ("+Inf", 1)], 1)
        ),
    );
    let pages = [Format::Text, Format::OpenMetrics].map(|format| rig.rendered(format));
    rig.taken("two", &counter(1));
    assert!(
        rig.aggregator.size() > rig.page().len() - 300,
        "but for the large number"
    );
    let large = format!("1{}", "0".repeat(300));
    assert_eq!(
        pages[0],
        concat!(
            "# HELP a_total Says \"a\" and \\\\.\n# TYPE a_total counter\na_total{job=\"j\",x=\"q\\\"\\n\"} 1.5\n",
            "# TYPE b counter\nb{job=\"j\"} LARGE\n",
            "# TYPE c untyped\nc{job=\"j\"} NaN\n",
            "# TYPE h histogram\nh_bucket{job=\"j\",le=\"0.5\"} 1\nh_bucket{job=\"j\",le=\"1\"} 1\n",
            "h_bucket{job=\"j\",le=\"+Inf\"} 1\nh_sum{job=\"j\"} 1\nh_count{job=\"j\"} 1\n",
        )
        .replace("LARGE", &large)
    );
    assert_eq!(
        pages[1],
        concat!(
            "# HELP a Says \\\"a\\\" and \\\\.\n# TYPE a counter\na_total{job=\"j\",x=\"q\\\"\\n\"} 1.5\n",
            "# TYPE b unknown\nb{job=\"j\"} LARGE\n",
            "# TYPE c unknown\nc{job=\"j\"} NaN\n",
            "# TYPE h histogram\nh_bucket{job=\"j\",le=\"0.5\"} 1\nh_bucket{job=\"j\",le=\"1.0\"} 1\n",
            "h_bucket{job=\"j\",le=\"+Inf\"} 1\nh_sum{job=\"j\"} 1\nh_count{job=\"j\"} 1\n",
        )
        .replace("LARGE", &large)
    );
}

/// One process of a source, and what it has counted so far.
#[derive(Clone, Debug)]
enum Act {
    /// A source counts on.
    Count(usize, u32),
    /// A push arrives: the newest, or an earlier one again.
    Arrives(usize, usize),
    /// The source's process begins anew.
    Restarts(usize),
    Ends(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        4 => (0..3usize, 0..5u32).prop_map(|(source, more)| Act::Count(source, more)),
        4 => (0..3usize, 0..4usize).prop_map(|(source, back)| Act::Arrives(source, back)),
        1 => (0..3usize).prop_map(Act::Restarts),
        1 => (0..3usize).prop_map(Act::Ends),
    ];
    proptest::collection::vec(act, 0..60)
}

proptest! {
    /// Whatever is repeated, reordered or cut off by a restart: the exposed total is the sum of what each process is known to
    /// have counted, and never falls.
    #[test]
    fn the_total_is_the_sum_over_all_processes(acts in acts()) {
        let rig = Rig::new();
        // Of each source: its starts, each with what it counted, pushed by pushed.
        let mut sources = vec![vec![vec![0u32]]; 3];
        let mut arrived = std::collections::HashMap::<(usize, usize), u32>::new();
        let mut newest = [0usize; 3];
        let mut before = 0.0;
        for act in acts {
            match act {
                Act::Count(source, more) => {
                    let process = sources[source].last_mut().expect("one");
                    let value = process.last().expect("one") + more;
                    process.push(value);
                }
                Act::Restarts(source) => sources[source].push(vec![0]),
                Act::Ends(source) => rig.end(&source.to_string()),
                Act::Arrives(source, back) => {
                    let all: Vec<(usize, u32)> = sources[source].iter().enumerate()
                        .flat_map(|(start, values)| values.iter().map(move |value| (start, *value)))
                        .collect();
                    let (start, value) = all[all.len() - 1 - back.min(all.len() - 1)];
                    let push = started(value, 1000 + u32::try_from(start).expect("small"));
                    let taken = rig.push(&source.to_string(), &push);
                    prop_assert!(taken.is_ok());
                    // What a process pushed before its successor was heard of; after that nobody can tell its pushes apart.
                    if start >= newest[source] {
                        newest[source] = start;
                        let known = arrived.entry((source, start)).or_default();
                        *known = value.max(*known);
                    }
                }
            }
            if rig.samples().iter().any(|line| line.starts_with("a_total")) {
                let now = total(&rig);
                prop_assert!(now >= before, "{now} after {before}");
                prop_assert_eq!(now, f64::from(arrived.values().sum::<u32>()));
                before = now;
            }
        }
    }
}
