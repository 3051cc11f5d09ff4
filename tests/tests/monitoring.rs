//! The monitoring pack: rules, dashboard and documents say only what the table of families and promtool agree with. Needs no lab.
//!
//! # Guarantees
//! - What was promised (alerts, queries, panels, ServiceMonitor) stands here as it was promised, and is found in the files.
//! - Every alert is seen firing and silent, and every query with an exact value, by promtool.
#![allow(clippy::unwrap_used, reason = "a test")]

mod golden;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use golden::{assert_golden_part, holds, read, root, yaml};
use kafka_backup_shared::metrics::{BACKUP_DURATION, FAMILIES, Family, MetricType, PUSHED_ONLY};
use kafka_backup_tests::lab::{Lab, prometheus};
use serde_json::{Value, json};

const PROMISED_RULES: &str = include_str!("../assets/monitoring/promised/rules.yaml");
const PROMISED_DASHBOARD: &str = include_str!("../assets/monitoring/promised/dashboard.json");
const PROMISED_SERVICE_MONITOR: &str =
    include_str!("../assets/monitoring/promised/servicemonitor.yaml");
const PROMISED_QUERIES: [&str; 6] = [
    "sum(rate(kafka_backup_backups_total{outcome=\"success\"}[24h])) /\nsum(rate(kafka_backup_backups_total[24h]))",
    "histogram_quantile(0.99,\nsum(rate(kafka_backup_backup_duration_seconds_bucket[1h])) by (le, backup_name)\n)",
    "sum(increase(kafka_backup_backups_total{outcome=\"failure\"}[1h])) by (backup_name)",
    "time() - kafka_backup_last_successful_backup_timestamp",
    "sum(rate(kafka_backup_operator_reconciliation_errors_total[5m])) by (controller)",
    "kafka_backup_operator_workqueue_depth",
];
const RUNBOOKS: &str = "docs/runbooks.md";

fn rules() -> Value {
    yaml(&read("manifests/monitoring/prometheusrule.yaml"))["spec"].clone()
}

/// The rules of all groups.
fn each_rule(spec: &Value) -> Vec<Value> {
    let groups = spec["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array());
    rules.flatten().cloned().collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("manifests/monitoring/dashboard.json")).unwrap()
}

/// Expressions of all panels.
fn panel_queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array());
    let exprs = targets.flatten().map(|target| target["expr"].as_str());
    exprs.map(|expr| expr.unwrap().to_owned()).collect()
}

/// The files of promtool's unit tests.
fn unit_files() -> Vec<(String, String)> {
    let folder = root().join("tests/assets/monitoring");
    let files = std::fs::read_dir(folder).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let files = files.filter(|path| path.is_file()).map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    let files: Vec<_> = files.collect();
    assert!(files.len() >= 6, "{files:?}");
    files
}

/// The unit tests of all files, of one kind.
fn unit_tests(kind: &str) -> Vec<Value> {
    let files: Vec<Value> = unit_files().iter().map(|(_, text)| yaml(text)).collect();
    let tests = files.iter().flat_map(|file| file["tests"].as_array());
    let cases = tests.flatten().flat_map(|test| test[kind].as_array());
    cases.flatten().cloned().collect()
}

/// The alert's rule as a line of text, without what is only layout.
fn words(expr: &str) -> String {
    expr.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn promtool(folder: &Path, args: &[&str], input: Stdio) {
    let lab = Lab::open().unwrap();
    let program = prometheus::program(&lab, "promtool").unwrap();
    let output = Command::new(program)
        .current_dir(folder)
        .args(args)
        .stdin(input)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "promtool {args:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A folder with the rules, the rules without those that record, and the unit tests.
fn rule_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let mut spec = rules();
    write("rules.yaml", &spec.to_string());
    for group in spec["groups"].as_array_mut().unwrap() {
        let rules = group["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule.get("record").is_none());
    }
    write("rules-without-recording.yaml", &spec.to_string());
    for (name, text) in unit_files() {
        write(&name, &text);
    }
    folder
}

#[test]
fn promtool_takes_the_rules() {
    let folder = rule_folder();
    promtool(
        folder.path(),
        &["check", "rules", "rules.yaml"],
        Stdio::null(),
    );
}

#[test]
fn alerts_fire_and_are_silent_and_queries_have_their_values() {
    let folder = rule_folder();
    let files = unit_files();
    let mut args = vec!["test", "rules"];
    args.extend(files.iter().map(|(name, _)| name.as_str()));
    promtool(folder.path(), &args, Stdio::null());
}

#[test]
fn promtool_takes_the_page() {
    let page = root().join("controller/src/exporter/golden/page.txt");
    let page = std::fs::File::open(page).unwrap();
    promtool(&root(), &["check", "metrics"], page.into());
}

#[test]
fn every_alert_is_seen_firing_and_silent() {
    let cases = unit_tests("alert_rule_test");
    let seen = |alert: &Value, is_firing: bool| {
        cases.iter().any(|case| {
            let fires = case["exp_alerts"]
                .as_array()
                .is_some_and(|all| !all.is_empty());
            case["alertname"] == *alert && fires == is_firing
        })
    };
    let rules = each_rule(&rules());
    let alerts: Vec<&Value> = rules.iter().filter_map(|rule| rule.get("alert")).collect();
    assert_eq!(alerts.len(), 14);
    for alert in alerts {
        assert!(seen(alert, true) && seen(alert, false), "{alert}");
    }
}

#[test]
fn every_query_is_seen_with_a_value() {
    let cases = unit_tests("promql_expr_test");
    let rules = each_rule(&rules());
    let recorded = rules.iter().filter_map(|rule| rule["record"].as_str());
    let panels = panel_queries();
    let queries = PROMISED_QUERIES.into_iter().chain(recorded);
    for query in queries.chain(panels.iter().map(String::as_str)) {
        let is_seen = cases.iter().any(|case| {
            let has_value = case["exp_samples"]
                .as_array()
                .is_some_and(|all| !all.is_empty());
            has_value && words(case["expr"].as_str().unwrap()) == words(query)
        });
        assert!(is_seen, "{query}");
    }
}

#[test]
fn the_promised_alerts_are_there_as_promised() {
    let ours = yaml(&read("manifests/monitoring/prometheusrule.yaml"));
    let promised = yaml(PROMISED_RULES);
    for field in ["apiVersion", "kind", "metadata"] {
        assert!(holds(&ours[field], &promised[field]), "{field}");
    }
    assert_eq!(
        ours["spec"]["groups"][0]["name"],
        promised["spec"]["groups"][0]["name"]
    );
    let ours = each_rule(&ours["spec"]);
    let promised = each_rule(&promised["spec"]);
    assert_eq!(promised.len(), 5);
    for promised in promised {
        let mut found = ours
            .iter()
            .filter(|rule| rule["alert"] == promised["alert"]);
        let mut rule = found.next().unwrap().clone();
        assert!(found.next().is_none());
        rule["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("runbook_url");
        assert_eq!(rule, promised);
    }
}

#[test]
fn the_promised_panels_come_first_as_promised() {
    let promised: Value = serde_json::from_str(PROMISED_DASHBOARD).unwrap();
    let ours = dashboard();
    assert_eq!(ours["title"], promised["dashboard"]["title"]);
    let promised = promised["dashboard"]["panels"].as_array().unwrap().clone();
    assert_eq!(promised.len(), 6);
    for (place, promised) in promised.iter().enumerate() {
        let found = &ours["panels"][place];
        assert!(holds(found, promised), "{found:#}");
    }
}

/// A file to import is the model itself; each panel has its own place and id, and asks the data source that is chosen.
#[test]
fn the_dashboard_can_be_imported() {
    let dashboard = dashboard();
    assert!(dashboard.get("dashboard").is_none() && dashboard.get("id").is_none());
    let variable = &dashboard["templating"]["list"][0];
    assert_eq!(
        (&variable["type"], &variable["query"]),
        (&json!("datasource"), &json!("prometheus"))
    );
    let source = json!({"type": "prometheus", "uid": format!("${{{}}}", variable["name"].as_str().unwrap())});
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{panel}");
        }
        if panel["type"] == "row" {
            continue;
        }
        assert_eq!(panel["datasource"], source);
        let mut letters = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"], source);
            assert!(letters.insert(target["refId"].as_str().unwrap()), "{panel}");
        }
    }
}

#[test]
fn the_config_map_holds_the_dashboard() {
    let json = read("manifests/monitoring/dashboard.json");
    let map = yaml(&read("manifests/monitoring/dashboard-configmap.yaml"));
    assert_eq!(map["metadata"]["labels"]["grafana_dashboard"], "1");
    assert_eq!(map["data"]["kafka-backup-dashboard.json"], json!(json));
}

#[test]
fn the_service_monitor_is_the_promised_one_and_keeps_series_alike() {
    let ours = yaml(&read("manifests/monitoring/servicemonitor.yaml"));
    assert!(holds(&ours, &yaml(PROMISED_SERVICE_MONITOR)), "{ours:#}");
    let endpoint = &ours["spec"]["endpoints"][0];
    assert_eq!(endpoint["honorLabels"], true);
    assert_eq!(
        endpoint["metricRelabelings"],
        json!([
            {"action": "replace", "sourceLabels": ["exported_namespace"], "regex": "(.+)", "targetLabel": "namespace"},
            {"action": "labeldrop", "regex": "exported_namespace"},
            {"action": "replace", "targetLabel": "instance", "replacement": "kafka-backup-operator"},
            {"action": "labeldrop", "regex": "pod|container|node"},
        ])
    );
    // What it selects is there.
    let install: Vec<Value> = serde_saphyr::from_multiple(&read("manifests/install.yaml")).unwrap();
    let service = install
        .iter()
        .find(|object| object["kind"] == "Service")
        .unwrap();
    let labels = &ours["spec"]["selector"]["matchLabels"];
    assert!(holds(&service["metadata"]["labels"], labels));
    assert_eq!(
        service["metadata"]["namespace"],
        ours["spec"]["namespaceSelector"]["matchNames"][0]
    );
    assert_eq!(service["spec"]["ports"][0]["name"], endpoint["port"]);
}

/// Serves `page` to everyone; gives the address.
fn serve(page: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let request = BufReader::new(&stream);
            let head = request
                .lines()
                .take_while(|line| line.as_ref().is_ok_and(|l| !l.is_empty()));
            assert!(head.count() > 0);
            let length = page.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all((head + &page).as_bytes()).unwrap();
        }
    });
    address
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The answer of Prometheus' HTTP API, `None` while there is none.
fn ask(address: &str, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

/// A Prometheus' own words for what the ServiceMonitor says.
fn scrape_config(job: &str, target: &str, endpoint: &Value) -> Value {
    let relabelings = endpoint["metricRelabelings"]
        .as_array()
        .into_iter()
        .flatten();
    let relabelings = relabelings.map(|rule| {
        let text = rule.to_string();
        let text = text.replace("sourceLabels", "source_labels");
        yaml(&text.replace("targetLabel", "target_label"))
    });
    // What the Prometheus Operator adds to a target.
    let labels =
        json!({"namespace": "kafka-backup", "pod": "p", "container": "controller", "node": "n"});
    json!({
        "job_name": job,
        "honor_labels": endpoint["honorLabels"] == true,
        "metrics_path": "/metrics",
        "static_configs": [{"targets": [target], "labels": labels}],
        "metric_relabel_configs": relabelings.collect::<Vec<_>>(),
    })
}

/// As the ServiceMonitor asks, where the Prometheus does not allow honorLabels, and without either.
#[test]
fn a_prometheus_gives_series_the_same_labels_whoever_leads() {
    let target = serve(read("controller/src/exporter/golden/page.txt"));
    let monitor = yaml(&read("manifests/monitoring/servicemonitor.yaml"));
    let honored = monitor["spec"]["endpoints"][0].clone();
    let mut overridden = honored.clone();
    overridden["honorLabels"] = json!(false);
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [
            scrape_config("honored", &target, &honored),
            scrape_config("overridden", &target, &overridden),
            scrape_config("plain", &target, &json!({})),
        ],
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config.to_string()).unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let program = prometheus::program(&Lab::open().unwrap(), prometheus::NAME).unwrap();
    let command = Command::new(program)
        .current_dir(folder.path())
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--web.listen-address={address}"))
        .args(["--storage.tsdb.path=data", "--log.level=error"])
        .spawn();
    let _running = Running(command.unwrap());

    let query = "kafka_backup_backups_total%7Bbackup_name=%22first%22,outcome=%22failure%22%7D";
    let path = format!("/api/v1/query?query={query}");
    let deadline = Instant::now() + Duration::from_secs(60);
    let found = loop {
        let answer = ask(&address, &path).unwrap_or_default();
        let series = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if series.len() >= 3 {
            break series;
        }
        assert!(Instant::now() < deadline, "{answer}");
        std::thread::sleep(Duration::from_millis(100));
    };
    let mut labels: Vec<Value> = found
        .iter()
        .map(|series| series["metric"].clone())
        .collect();
    labels.sort_by_key(|labels| labels["job"].to_string());
    let name = "kafka_backup_backups_total";
    let ours = |job: &str| json!({"__name__": name, "backup_name": "first", "namespace": "a", "outcome": "failure", "job": job, "instance": "kafka-backup-operator"});
    let plain = json!({
        "__name__": name, "backup_name": "first", "exported_namespace": "a", "outcome": "failure", "job": "plain", "instance": target,
        "namespace": "kafka-backup", "pod": "p", "container": "controller", "node": "n",
    });
    assert_eq!(labels, [ours("honored"), ours("overridden"), plain]);
}

/// Names of our series in an expression.
fn series(expr: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let names = expr.split(|c| !is_name(c));
    names
        .filter(|name| name.starts_with("kafka_backup_"))
        .collect()
}

fn has_series(family: &Family, name: &str) -> bool {
    match family.kind {
        MetricType::Counter | MetricType::Gauge => family.name == name,
        MetricType::Histogram => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| name.strip_suffix(suffix) == Some(family.name)),
    }
}

#[test]
fn expressions_use_only_families_of_the_table() {
    let rules = each_rule(&rules());
    let recorded: Vec<&str> = rules
        .iter()
        .filter_map(|rule| rule["record"].as_str())
        .collect();
    assert_eq!(recorded, [BACKUP_DURATION.name]);
    let exprs = rules
        .iter()
        .map(|rule| rule["expr"].as_str().unwrap().to_owned());
    let mut used = 0;
    for expr in exprs.chain(panel_queries()) {
        for name in series(&expr) {
            let exposed = FAMILIES
                .iter()
                .filter(|family| !PUSHED_ONLY.contains(family));
            let mut exposed = exposed.filter(|family| has_series(family, name));
            assert!(
                exposed.next().is_some() || recorded.contains(&name),
                "{name}"
            );
            used += 1;
        }
    }
    assert!(used > 40, "{used}");
}

#[test]
fn every_alert_leads_to_its_runbook() {
    let runbooks = read(RUNBOOKS);
    let sections: BTreeSet<&str> = runbooks
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .collect();
    let rules = each_rule(&rules());
    let alerts: BTreeSet<&str> = rules
        .iter()
        .filter_map(|rule| rule["alert"].as_str())
        .collect();
    assert_eq!(sections, alerts);
    for rule in rules.iter().filter(|rule| rule.get("alert").is_some()) {
        let alert = rule["alert"].as_str().unwrap();
        let url = format!("{RUNBOOKS}#{}", alert.to_lowercase());
        assert_eq!(rule["annotations"]["runbook_url"], json!(url));
        let section = runbooks
            .split("\n## ")
            .find(|section| section.starts_with(alert))
            .unwrap();
        assert!(section.contains("kubectl"), "{alert}");
    }
}

/// The table of families in docs/metrics.md, a row each.
fn table() -> String {
    let mut text = "| family | type | labels | says |\n|---|---|---|---|\n".to_owned();
    for family in FAMILIES
        .iter()
        .filter(|family| !PUSHED_ONLY.contains(family))
    {
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        text.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind.as_str(),
            labels.join(", "),
            family.help
        ));
    }
    text
}

#[test]
fn the_document_has_the_table_and_every_promised_query() {
    let path = "docs/metrics.md";
    let (begin, end) = ("<!-- families: generated -->\n", "<!-- families: end -->");
    assert_golden_part(path, begin, end, &table());
    let document = read(path);
    for query in PROMISED_QUERIES {
        assert!(document.contains(&format!("{query}\n```")), "{query}");
    }
    assert!(document.contains("Grafana itself was not run"));
}
