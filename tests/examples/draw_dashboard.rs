//! Draws `docs/dashboard.svg`: each panel of the dashboard with what a real Prometheus answers to its queries.
//!
//! # Guarantees
//! - The day that is shown is made up, always the same one; the answers are Prometheus'. The drawing is ours and not Grafana's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use kafka_backup_tests::lab::{Lab, prometheus};
use serde_json::Value;

/// 2026-01-02T00:00:00Z, the end of the day that is shown.
const END: u64 = 1_767_312_000;
const MINUTES: u64 = 24 * 60;
const STEP: u64 = 300;
/// Pixels of a column and of a row of Grafana's grid.
const COLUMN: f64 = 50.0;
const ROW: f64 = 30.0;
const COLORS: [&str; 6] = [
    "#2f7ed8", "#d9534f", "#3c9d4e", "#e0a030", "#8254b0", "#5f9ea0",
];
const ADDRESS: &str = "127.0.0.1:39090";

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn main() {
    let lab = Lab::open().expect("a lab");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("day.om"), day()).expect("write the day");
    fs::write(folder.path().join("prometheus.yml"), "{}").expect("write a configuration");
    let made = Command::new(prometheus::program(&lab, "promtool").expect("promtool"))
        .current_dir(folder.path())
        .args([
            "tsdb",
            "create-blocks-from",
            "openmetrics",
            "day.om",
            "data",
        ])
        .output()
        .expect("run promtool");
    assert!(made.status.success(), "{made:?}");
    let started = Command::new(prometheus::program(&lab, prometheus::NAME).expect("prometheus"))
        .current_dir(folder.path())
        .arg(format!("--web.listen-address={ADDRESS}"))
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
        .args(["--storage.tsdb.retention.time=100y", "--log.level=error"])
        .spawn();
    let _running = Running(started.expect("start Prometheus"));
    let dashboard = fs::read_to_string(root.join("manifests/monitoring/dashboard.json"));
    let dashboard: Value = serde_json::from_str(&dashboard.expect("the dashboard")).expect("JSON");
    fs::write(root.join("docs/dashboard.svg"), draw(&dashboard)).expect("write the drawing");
}

/// A day of an hourly backup of which one run failed and one was slow, and of one in every quarter of an hour.
fn day() -> String {
    let mut series: BTreeMap<String, Vec<(u64, f64)>> = BTreeMap::new();
    let bounds = [60.0, 300.0, 600.0, 3600.0, f64::INFINITY];
    for (name, every, base) in [("orders", 60, 480.0), ("users", 15, 90.0)] {
        let object = format!("backup_name=\"{name}\",namespace=\"shop\"");
        let (mut success, mut failure, mut records, mut gaps, mut missed) =
            (0.0, 0.0, 0.0, 0.0, 0.0);
        let (mut buckets, mut last, mut last_success) = ([0.0; 5], None, None);
        let (mut start, mut end, mut fails) = (0, 0, false);
        for minute in 0..=MINUTES {
            let at = END - (MINUTES - minute) * 60;
            let mut put = |family: &str, more: &str, value: f64| {
                let key = format!("kafka_backup_{family}{{{object}{more}}}");
                series.entry(key).or_default().push((at, value));
            };
            let hour = minute / 60;
            if minute % every == 0 && minute < MINUTES {
                if minute < end {
                    missed += 1.0;
                } else {
                    let slow = if name == "orders" && hour == 17 {
                        9.0
                    } else {
                        1.0
                    };
                    let varies = 1.0 + 0.2 * (minute as f64 / 180.0).sin();
                    (start, end) = (minute, minute + (base * slow * varies / 60.0) as u64 + 1);
                    fails = name == "orders" && hour == 11;
                }
            }
            let running = minute >= start && minute < end;
            if running && !fails {
                records += 9000.0 + 3000.0 * (minute as f64 / 200.0).sin();
            }
            if minute == end && end > start {
                let seconds = ((end - start) * 60) as f64;
                last = Some(seconds);
                if fails {
                    failure += 1.0;
                } else {
                    success += 1.0;
                    last_success = Some(at as f64);
                    gaps += if name == "orders" && hour >= 18 && gaps == 0.0 {
                        1.0
                    } else {
                        0.0
                    };
                }
                for (bucket, bound) in buckets.iter_mut().zip(bounds) {
                    *bucket += if seconds <= bound { 1.0 } else { 0.0 };
                }
            }
            put("backups_total", ",outcome=\"success\"", success);
            put("backups_total", ",outcome=\"failure\"", failure);
            for (bucket, bound) in buckets.iter().zip(["60", "300", "600", "3600", "+Inf"]) {
                let more = format!(",outcome=\"success\",le=\"{bound}\"");
                put("backup_duration_seconds_bucket", &more, *bucket);
            }
            put("backup_records_total", "", records);
            put("gaps_total", "", gaps);
            put("backup_missed_runs_total", "", missed);
            put(
                "backup_running_seconds",
                "",
                if running {
                    ((minute - start) * 60) as f64
                } else {
                    0.0
                },
            );
            put("schedule_interval_seconds", "", (every * 60) as f64);
            if let (Some(last), Some(success)) = (last, last_success) {
                put("backup_last_duration_seconds", "", last);
                put("last_successful_backup_timestamp", "", success);
                put("backup_size_bytes", "", last * 4.0e5);
                put("backup_lag_records", "", last * 40.0);
            }
        }
    }
    for minute in 0..=MINUTES {
        let at = END - (MINUTES - minute) * 60;
        let mut put = |name: &str, value: f64| {
            series
                .entry(format!("kafka_backup_{name}"))
                .or_default()
                .push((at, value));
        };
        let minutes = minute as f64;
        let refused = (minutes - 700.0).clamp(0.0, 20.0);
        put(
            "restores_total{restore_name=\"back\",namespace=\"shop\",outcome=\"success\"}",
            if minute > 1300 { 1.0 } else { 0.0 },
        );
        put(
            "restores_total{restore_name=\"back\",namespace=\"shop\",outcome=\"failure\"}",
            if minute > 1200 { 1.0 } else { 0.0 },
        );
        put(
            "operator_reconciliation_errors_total{controller=\"backup\",namespace=\"shop\",name=\"orders\"}",
            refused,
        );
        put(
            "operator_reconciliation_errors_total{controller=\"restore\",namespace=\"shop\",name=\"back\"}",
            0.0,
        );
        put(
            "operator_workqueue_depth{controller=\"backup\"}",
            if minute % 60 < 2 { 2.0 } else { 0.0 },
        );
        put(
            "operator_workqueue_adds_total{controller=\"backup\"}",
            minutes * 6.0,
        );
        put(
            "operator_workqueue_retries_total{controller=\"backup\"}",
            refused,
        );
        for (bound, part) in [("0.025", 0.6), ("0.1", 0.97), ("0.5", 1.0), ("+Inf", 1.0)] {
            put(
                &format!(
                    "operator_reconciliation_duration_seconds_bucket{{controller=\"backup\",namespace=\"shop\",name=\"orders\",le=\"{bound}\"}}"
                ),
                (minutes * 6.0 * part).floor(),
            );
        }
        put("operator_leader", 1.0);
        put("operator_build_info{version=\"0.1.0\"}", 1.0);
        put("operator_pushes_total{result=\"accepted\"}", minutes * 12.0);
        put(
            "operator_pushes_total{result=\"late\"}",
            (minutes / 60.0).floor(),
        );
        for phase in ["Pending", "Running", "Completed", "Failed"] {
            let running = minute % 60 < 10;
            let is_it = (phase == "Running" && running) || (phase == "Completed" && !running);
            put(
                &format!(
                    "resource_phase{{kind=\"KafkaBackup\",name=\"orders\",namespace=\"shop\",phase=\"{phase}\"}}"
                ),
                f64::from(u8::from(is_it)),
            );
        }
    }
    let mut text = String::new();
    for (name, samples) in series {
        for (at, value) in samples {
            writeln!(text, "{name} {value} {at}").expect("a String");
        }
    }
    text + "# EOF\n"
}

/// The series of a query over the day, each with its labels.
fn ask(query: &str) -> Vec<(BTreeMap<String, String>, Vec<(f64, f64)>)> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let answer: Value = loop {
        let asked = Command::new("curl")
            .args(["--silent", "--get", "--data-urlencode"])
            .arg(format!("query={query}"))
            .arg(format!(
                "http://{ADDRESS}/api/v1/query_range?start={}&end={END}&step={STEP}",
                END - MINUTES * 60
            ))
            .output()
            .expect("run curl");
        match serde_json::from_slice::<Value>(&asked.stdout) {
            Ok(answer) if answer["status"] == "success" => break answer,
            other => assert!(Instant::now() < deadline, "{query}: {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    let series = answer["data"]["result"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let read = |series: Value| {
        let labels = serde_json::from_value(series["metric"].clone()).expect("labels");
        let values = series["values"].as_array().cloned().unwrap_or_default();
        let value = |pair: &Value| Some((pair[0].as_f64()?, pair[1].as_str()?.parse().ok()?));
        let finite = |pair: &(f64, f64)| pair.1.is_finite();
        (
            labels,
            values.iter().filter_map(value).filter(finite).collect(),
        )
    };
    series.into_iter().map(read).collect()
}

fn draw(dashboard: &Value) -> String {
    let panels = dashboard["panels"].as_array().expect("panels");
    let side = |panel: &Value, side: &str| panel["gridPos"][side].as_f64().expect("a place");
    let bottom = panels
        .iter()
        .map(|panel| side(panel, "y") + side(panel, "h"));
    let height = bottom.fold(0.0, f64::max) * ROW;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
        24.0 * COLUMN
    );
    for panel in panels {
        let (x, y) = (side(panel, "x") * COLUMN, side(panel, "y") * ROW);
        let (w, h) = (side(panel, "w") * COLUMN, side(panel, "h") * ROW);
        let title = panel["title"].as_str().expect("a title");
        if panel["type"] == "row" {
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" font-size=\"15\" font-weight=\"bold\">{title}</text>",
                x + 8.0,
                y + 20.0
            )
            .expect("a String");
            continue;
        }
        writeln!(
            svg,
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#cccccc\"/>",
            x + 4.0,
            y + 4.0,
            w - 8.0,
            h - 8.0
        )
        .expect("a String");
        writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" font-size=\"13\" font-weight=\"bold\">{title}</text>",
            x + 12.0,
            y + 22.0
        )
        .expect("a String");
        draw_panel(&mut svg, panel, [x, y, w, h]);
    }
    svg + "</svg>\n"
}

fn draw_panel(svg: &mut String, panel: &Value, [x, y, w, h]: [f64; 4]) {
    let unit = panel["fieldConfig"]["defaults"]["unit"]
        .as_str()
        .unwrap_or("");
    let mut lines = Vec::new();
    for target in panel["targets"].as_array().expect("targets") {
        let legend = target["legendFormat"].as_str().unwrap_or("");
        for (labels, values) in ask(target["expr"].as_str().expect("a query")) {
            let named = labels
                .iter()
                .fold(legend.to_owned(), |text, (label, value)| {
                    text.replace(&format!("{{{{{label}}}}}"), value)
                });
            lines.push((named, values));
        }
    }
    assert!(!lines.is_empty(), "{panel} has no series");
    if panel["type"] != "timeseries" {
        for (row, (name, values)) in lines.iter().enumerate() {
            let last = values.last().map_or(f64::NAN, |(_, value)| *value);
            let line = y + 70.0 + row as f64 * 36.0;
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{line}\" font-size=\"26\">{} {name}</text>",
                x + 24.0,
                shown(last, unit)
            )
            .expect("a String");
        }
        return;
    }
    let most = lines
        .iter()
        .flat_map(|(_, values)| values)
        .map(|(_, value)| *value)
        .fold(0.0, f64::max);
    let most = if most > 0.0 { most * 1.1 } else { 1.0 };
    let (left, top, width, height) = (x + 70.0, y + 34.0, w - 90.0, h - 80.0);
    for part in [0.0, 0.5, 1.0] {
        let line = top + height * (1.0 - part);
        writeln!(svg, "<path d=\"M{left} {line} h{width}\" stroke=\"#eeeeee\"/><text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>", left - 4.0, line + 4.0, shown(most * part, unit)).expect("a String");
    }
    let has_points = panel["fieldConfig"]["defaults"]["custom"]["showPoints"] == "always";
    for (number, (name, values)) in lines.iter().enumerate() {
        let color = COLORS[number % COLORS.len()];
        let begin = (END - MINUTES * 60) as f64;
        let mut path = String::new();
        let mut before = f64::NEG_INFINITY;
        for (at, value) in values {
            // A line ends where Prometheus has no value.
            let letter = if at - before > STEP as f64 * 1.5 {
                'M'
            } else {
                'L'
            };
            before = *at;
            let across = left + (at - begin) / (MINUTES as f64 * 60.0) * width;
            let down = top + height * (1.0 - value / most);
            write!(path, "{letter}{across:.1} {down:.1} ").expect("a String");
            if has_points {
                writeln!(
                    svg,
                    "<circle cx=\"{across:.1}\" cy=\"{down:.1}\" r=\"2\" fill=\"{color}\"/>"
                )
                .expect("a String");
            }
        }
        writeln!(
            svg,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>"
        )
        .expect("a String");
        let (column, row) = (number % 2, number / 2);
        let (across, down) = (
            x + 16.0 + column as f64 * w / 2.0,
            y + h - 28.0 + row as f64 * 13.0,
        );
        writeln!(
            svg,
            "<text x=\"{across}\" y=\"{down}\" fill=\"{color}\">{name}</text>"
        )
        .expect("a String");
    }
}

/// A value as a person reads it.
fn shown(value: f64, unit: &str) -> String {
    match unit {
        "s" if value >= 120.0 => format!("{:.0} min", value / 60.0),
        "s" if value < 1.0 => format!("{:.0} ms", value * 1000.0),
        "s" => format!("{value:.0} s"),
        "percent" => format!("{value:.1} %"),
        "bytes" => format!("{:.1} MiB", value / 1_048_576.0),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.2}"),
    }
}
