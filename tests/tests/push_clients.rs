//! Clients as they are published push to the shipped controller with the static token: client_golang, the crate `prometheus`,
//! prometheus_client, and curl as Pushgateway's README shows it. The page says what they counted together, and other programs read it.
//! The same programs push to Debian's Pushgateway, so that it is known to be them that differ if anything does.
//! Needs `cargo lab up prometheus` and the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

mod cluster_support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster_support::{Controller, Place, Stage, admin};
use kafka_backup_tests::lab::gateways::{self, Check};
use kafka_backup_tests::lab::{Lab, LabError, prometheus, push_clients};

const TOKEN: &str = "of-the-nightly-jobs";
const TEXT: &str = "text/plain; version=0.0.4";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// How a client's program is found.
type Program = fn(&Lab) -> Result<Command, LabError>;

/// What two instances of the Go client leave when they have counted 3 and 2, and 4 orders.
const GO: &str = r#"
# TYPE go_order_bytes summary
go_order_bytes_count{client="go",job="nightly",path="/var/orders"} 9
go_order_bytes_sum{client="go",job="nightly",path="/var/orders"} 900
# TYPE go_order_seconds histogram
go_order_seconds_bucket{client="go",job="nightly",le="+Inf",path="/var/orders"} 9
go_order_seconds_bucket{client="go",job="nightly",le="0.1",path="/var/orders"} 0
go_order_seconds_bucket{client="go",job="nightly",le="1.0",path="/var/orders"} 9
go_order_seconds_count{client="go",job="nightly",path="/var/orders"} 9
go_order_seconds_sum{client="go",job="nightly",path="/var/orders"} 4.5
# TYPE go_orders_total counter
go_orders_total{client="go",country="fr",job="nightly",path="/var/orders"} 9
# TYPE go_queue_length gauge
go_queue_length{client="go",job="nightly",path="/var/orders"} 4
"#;

/// The Rust client's values of grouping labels cannot have a slash, and it has no summaries.
const RUST: &str = r#"
# TYPE rust_order_seconds histogram
rust_order_seconds_bucket{client="rust",job="nightly",le="+Inf",path="orders"} 9
rust_order_seconds_bucket{client="rust",job="nightly",le="0.1",path="orders"} 0
rust_order_seconds_bucket{client="rust",job="nightly",le="1.0",path="orders"} 9
rust_order_seconds_count{client="rust",job="nightly",path="orders"} 9
rust_order_seconds_sum{client="rust",job="nightly",path="orders"} 4.5
# TYPE rust_orders_total counter
rust_orders_total{client="rust",country="fr",job="nightly",path="orders"} 9
# TYPE rust_queue_length gauge
rust_queue_length{client="rust",job="nightly",path="orders"} 4
"#;

/// What the scene is made of.
struct Scene {
    place: Place,
    controller: Controller,
    url: String,
    /// Pushes so far.
    pushes: AtomicU64,
}

impl Scene {
    async fn begin(lab: &Lab) -> Self {
        let place = Place::new(lab, &admin().await, "push-clients").await;
        let file = lab.write_private("push-token", TOKEN).unwrap();
        let pod = place.controller_pod("controller").await;
        let token = format!("--push-token-file={}", file.display());
        let controller = Controller::shipped_with(&place, "controller", &pod, &[&token]).await;
        let health = controller.health;
        place
            .until("readiness", async || {
                let (status, _) = Controller::get(health, "/readyz").await?;
                (status == 200).then_some(())
            })
            .await;
        Self {
            place,
            url: format!("http://{}", controller.metrics),
            controller,
            pushes: AtomicU64::new(0),
        }
    }

    fn run(&self, program: Program, instance: &str, steps: &[&str]) {
        self.count(steps.len());
        run(&self.place.lab, program, &self.url, TOKEN, instance, steps);
    }

    fn count(&self, pushes: usize) {
        self.pushes.fetch_add(pushes as u64, Ordering::Relaxed);
    }

    /// What curl prints, as Pushgateway's README calls it, but for URL and token.
    fn curl(&self, line: &str) -> String {
        self.count(1);
        let curl = format!(
            "curl --silent --show-error --fail-with-body --noproxy '*' --header 'Authorization: Bearer {TOKEN}'"
        );
        let line = line
            .replace("curl", &curl)
            .replace("http://pushgateway.example.org:9091", &self.url);
        succeeded(&line, Command::new("sh").args(["-c", &line]))
    }

    /// The page in the format, with all pushes in it: it may be some moments old.
    async fn page(&self, format: &str) -> String {
        let pushes = self.pushes.load(Ordering::Relaxed) as f64;
        let has_all = async || {
            let page = self.controller.page(format).await;
            let counted = page
                .lines()
                .filter(|line| line.starts_with("kafka_backup_operator_pushes_total{"));
            let counted: f64 = counted
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum();
            (counted >= pushes).then_some(page)
        };
        self.place.until("page with all pushes", has_all).await
    }

    /// Types and series whose names begin with `prefix`, the same in both formats, as other programs read them.
    async fn series(&self, prefix: &str) -> BTreeMap<String, String> {
        let lab = &self.place.lab;
        let (text, openmetrics) = (self.page(TEXT).await, self.page(OPENMETRICS).await);
        assert!(openmetrics.ends_with("\n# EOF\n"), "{openmetrics}");
        let seen = of_prefix(&text, prefix);
        assert_eq!(of_prefix(&openmetrics, prefix), seen);
        for (format, page) in [("text", &text), ("openmetrics", &openmetrics)] {
            let read = fed(push_clients::reader(lab).unwrap().arg(format), page);
            let read = of_prefix(&String::from_utf8(read.stdout).unwrap(), prefix);
            let series = |(key, _): &(&String, &String)| !key.starts_with('#');
            assert!(read.iter().eq(seen.iter().filter(series)), "{read:?}");
        }
        seen
    }
}

/// The type of each family, by `# TYPE <name>`, and the value of each series, by its name and its labels in order.
/// Without the times at which clients say they made their series, which nobody knows beforehand.
fn of_prefix(page: &str, prefix: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in page.lines() {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.strip_prefix("# TYPE ").unwrap_or(series);
        if !name.starts_with(prefix) || name.split('{').next().unwrap().ends_with("_created") {
            continue;
        }
        let value = match series.strip_prefix("# TYPE ") {
            // OpenMetrics has its own word.
            Some(_) => value.replace("unknown", "untyped"),
            None => value.parse::<f64>().unwrap().to_string(),
        };
        let is_first = found.insert(in_order(series), value).is_none();
        assert!(is_first, "{series} comes twice in\n{page}");
    }
    found
}

/// A family or series with its labels in order, and with the spelling that numbers and counters have in OpenMetrics.
fn in_order(series: &str) -> String {
    let Some((name, labels)) = series.split_once('{') else {
        // A counter's family has the name without the ending there.
        return series.strip_suffix("_total").unwrap_or(series).to_owned();
    };
    let labels = labels.strip_suffix('}').unwrap();
    let mut labels: Vec<String> = labels.split(',').map(str::to_owned).collect();
    for label in &mut labels {
        let bound = label
            .strip_prefix("le=\"")
            .map(|rest| rest.trim_end_matches('"'));
        if let Some(bound) = bound.filter(|bound| *bound != "+Inf") {
            *label = format!("le=\"{:?}\"", bound.parse::<f64>().unwrap());
        }
    }
    labels.sort();
    format!("{name}{{{}}}", labels.join(","))
}

fn run(lab: &Lab, program: Program, url: &str, token: &str, instance: &str, steps: &[&str]) {
    let mut command = program(lab).unwrap();
    command.args([url, token, instance]).args(steps);
    succeeded(&format!("{instance} {steps:?}"), &mut command);
}

fn succeeded(what: &str, command: &mut Command) -> String {
    let output = command.env("no_proxy", "*").output().unwrap();
    assert!(output.status.success(), "{what}: {}", said(&output));
    said(&output)
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
        .concat()
}

/// How a program ends that gets `page` as its standard input: with success.
fn fed(command: &mut Command, page: &str) -> Output {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{page}", said(&output));
    output
}

#[tokio::test(flavor = "multi_thread")]
async fn published_clients_push_with_the_static_token() {
    let lab = Lab::open().unwrap();
    let _stage = Stage::set(&lab);
    let scene = Scene::begin(&lab).await;
    // The Python client names its own what the Go client does.
    let python = GO.replace("go_", "python_").replace("\"go\"", "\"python\"");
    let clients: [(&str, Program, &str); 3] = [
        ("go_order", push_clients::go, GO),
        ("rust_", push_clients::rust, RUST),
        ("python_", push_clients::python, &python),
    ];
    for (prefix, program, expected) in clients {
        // The second push says the same again.
        scene.run(program, "a", &["push=3", "push=0", "add=2"]);
        scene.run(program, "b", &["push=4"]);
        let seen = scene.series(prefix).await;
        assert_eq!(seen, of_prefix(expected.trim(), prefix));
    }
    let promtool = prometheus::program(&lab, "promtool").unwrap();
    let page = scene.page(TEXT).await;
    let told = fed(Command::new(promtool).args(["check", "metrics"]), &page);
    assert_eq!(said(&told), "", "{page}");

    let orders = async |client: &str| -> f64 {
        let series = scene.series(&format!("{client}_orders")).await;
        let (_, value) = series.iter().find(|(key, _)| key.contains('{')).unwrap();
        value.parse().unwrap()
    };
    // A process that has begun anew, and says so: in protobuf, in text as Python's client does, and in OpenMetrics.
    scene.run(push_clients::go, "a", &["push=2"]);
    assert_eq!(orders("go").await, 11.0);
    scene.run(push_clients::python, "a", &["push=2"]);
    assert_eq!(orders("python").await, 11.0);
    let steps = ["openmetrics=3", "openmetrics=1"];
    scene.run(push_clients::python, "c", &steps);
    scene.run(push_clients::python, "c", &["openmetrics=2"]);
    assert_eq!(orders("python").await, 17.0);
    // What was counted stays when its source goes.
    for (client, program) in [
        ("go", push_clients::go as Program),
        ("python", push_clients::python),
    ] {
        let before = orders(client).await;
        scene.run(program, "a", &["delete"]);
        assert_eq!(orders(client).await, before);
    }
    refused_without_token(&scene);
    curl_as_in_the_readme(&scene).await;
    drop(scene.controller);
    scene.place.leave().await;
}

fn refused_without_token(scene: &Scene) {
    for token in ["", "of-somebody-else"] {
        scene.count(1);
        let mut command = push_clients::go(&scene.place.lab).unwrap();
        let output = command
            .args([&scene.url, token, "a", "push=1"])
            .env("no_proxy", "*")
            .output()
            .unwrap();
        let said = said(&output);
        assert!(
            !output.status.success() && said.contains("unexpected status code 401"),
            "{said}"
        );
    }
}

async fn curl_as_in_the_readme(scene: &Scene) {
    let of = |page: &str| of_prefix(page, "some_metric");
    scene.curl(
        r#"echo "some_metric 3.14" | curl --data-binary @- http://pushgateway.example.org:9091/metrics/job/some_job"#,
    );
    assert_eq!(
        scene.series("some_metric").await,
        of("# TYPE some_metric untyped\nsome_metric{job=\"some_job\"} 3.14\n")
    );
    // Of the README's two pushes the second is refused while the first is there, by Pushgateway as well: a family has one type.
    scene.curl("curl -X DELETE http://pushgateway.example.org:9091/metrics/job/some_job");
    scene.curl(
        r#"cat <<EOF | curl --data-binary @- http://pushgateway.example.org:9091/metrics/job/some_job/instance/some_instance
# TYPE some_metric counter
some_metric{label="val1"} 42
# TYPE another_metric gauge
# HELP another_metric Just an example.
another_metric 2398.283
EOF
"#,
    );
    let text = scene.page(TEXT).await;
    assert_eq!(
        of(&text),
        of("# TYPE some_metric counter\nsome_metric{job=\"some_job\",label=\"val1\"} 42\n")
    );
    assert_eq!(
        scene.series("another_metric").await,
        of_prefix(
            "# TYPE another_metric gauge\nanother_metric{job=\"some_job\"} 2398.283\n",
            "another_metric"
        )
    );
    scene.curl(
        "curl -X DELETE http://pushgateway.example.org:9091/metrics/job/some_job/instance/some_instance",
    );
    assert_eq!(of(&scene.page(TEXT).await), of(&text));
}

#[test]
fn the_same_programs_push_to_pushgateway() {
    let lab = Lab::open().unwrap();
    let file = lab.run.join("push-clients-pushgateway");
    gateways::pushgateway(&lab, Check::Consistency, &file).unwrap();
    let url = format!("http://{}", gateways::ENDPOINT);
    let page = || {
        let address = gateways::ENDPOINT;
        let url = format!("http://{address}/metrics");
        let args = ["--silent", "--fail", "--noproxy", "*", &url];
        succeeded("GET /metrics", Command::new("curl").args(args))
    };
    let clients: [(&str, Program); 3] = [
        ("go", push_clients::go),
        ("rust", push_clients::rust),
        ("python", push_clients::python),
    ];
    for (client, program) in clients {
        run(&lab, program, &url, "", "a", &["push=3", "add=2"]);
        let name = format!("{client}_orders_total");
        let series = of_prefix(&page(), &name);
        assert!(series.values().any(|value| value == "5"), "{series:?}");
        // The Rust client cannot.
        if client != "rust" {
            run(&lab, program, &url, "", "a", &["delete"]);
            assert_eq!(of_prefix(&page(), &name), BTreeMap::new());
        }
    }
    gateways::stop(&lab, Duration::from_secs(5)).unwrap();
}
