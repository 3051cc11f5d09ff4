//! The Helm chart on the lab's cluster: what it makes is accepted, installed, tested, upgraded and uninstalled. Needs `cargo lab up` and the
//! installed operator.
//!
//! A file of its own: the installed operator is away meanwhile, and the CRDs belong to the releases of this test. Both are given back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_tests::lab::{Lab, chain, helm, net, process, wait_for};
use kafka_backup_tests::operator::{self, NAME};
use serde_json::{Value, json};

/// The release's namespace.
const HOME: &str = "t-chart";
/// Another release's.
const SECOND: &str = "t-chart-second";
/// A field's description in an older version.
const OLDER: &str = "As it was.";
const CRD: &str = "kafkabackups.kafka-backup.dev";
const TOKEN: &str = "sixteen-characters-or-more";
const PATIENCE: Duration = Duration::from_secs(90);
/// What Helm gives up after.
const TIMEOUT: &str = "--timeout=90s";

/// The cluster without the installed operator; what the tests made goes when it is dropped.
struct Stage {
    lab: Lab,
    images: Value,
}

impl Stage {
    fn set() -> Self {
        let lab = Lab::open().unwrap();
        let images = operator::images(&lab, operator::NAMESPACE).unwrap();
        let stage = Self {
            lab,
            images: helm::images(&images),
        };
        stage.scale(operator::NAMESPACE, "0");
        wait_for("the operator to end", PATIENCE, || {
            let pods = operator::list(&stage.lab, operator::NAMESPACE, "pods");
            pods.unwrap().is_empty()
        })
        .unwrap();
        stage.disown_crds();
        for namespace in [HOME, SECOND] {
            // With Pod Security *restricted*.
            operator::fresh_namespace(&stage.lab, namespace).unwrap();
        }
        stage
    }

    fn kubectl(&self, args: &[&str]) -> String {
        operator::kubectl(&self.lab, args).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    fn scale(&self, namespace: &str, replicas: &str) {
        let replicas = format!("--replicas={replicas}");
        self.kubectl(&[
            "--namespace",
            namespace,
            "scale",
            "deployment",
            NAME,
            &replicas,
        ]);
    }

    /// Makes the CRDs nobody's again, as kubectl has applied them.
    fn disown_crds(&self) {
        let listed = self.kubectl(&["get", "crd", "--output", "name"]);
        let ours = listed
            .lines()
            .filter(|name| name.ends_with(".kafka-backup.dev"));
        for name in ours {
            let marks = [
                "meta.helm.sh/release-name-",
                "meta.helm.sh/release-namespace-",
            ];
            self.kubectl(&[&["annotate", name], &marks[..]].concat());
            self.kubectl(&["label", name, "app.kubernetes.io/managed-by-"]);
        }
    }

    /// What Helm says; as an error what it says of its failure.
    fn try_helm(&self, args: &[&str]) -> Result<String, String> {
        let mut command = helm::in_cluster(&self.lab).unwrap();
        process::run(command.args(args)).map_err(|error| chain(&error))
    }

    fn helm(&self, args: &[&str]) -> String {
        self.try_helm(args)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Arguments with the images of this checkout, and these values.
    fn values(&self, mut values: Value) -> String {
        values["image"] = self.images.clone();
        format!("--set-json={}", helm::flat(&values))
    }

    /// Installs or upgrades a release to `chart`, and waits until it is there.
    fn release(&self, namespace: &str, chart: &Path, values: Value, more: &[&str]) -> String {
        let chart = chart.display().to_string();
        let values = self.values(values);
        let args = [
            "upgrade",
            "--install",
            NAME,
            &chart,
            "--namespace",
            namespace,
        ];
        self.helm(&[&args[..], &[&values, "--wait", TIMEOUT], more].concat())
    }

    fn object(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        operator::get(&self.lab, namespace, kind, name).unwrap()
    }

    /// `helm test`, and what it says.
    fn test(&self, namespace: &str) -> String {
        self.helm(&["test", NAME, "--namespace", namespace, "--logs", TIMEOUT])
    }

    /// Pods with the leader's label.
    fn leaders(&self) -> usize {
        let label = "kafka-backup.dev/leader-of=All";
        let pods = self.kubectl(&["-n", HOME, "get", "pods", "-l", label, "-o", "name"]);
        pods.lines().count()
    }

    /// The address of the release's Service.
    fn address(&self, namespace: &str) -> String {
        let service = self.object(namespace, "service", NAME).unwrap();
        service["spec"]["clusterIP"].as_str().unwrap().to_owned()
    }

    /// The description of a field of the CRD of backups, as the cluster has it.
    fn field(&self, field: &str) -> Value {
        let crd = self.object("default", "crd", CRD).unwrap();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        schema["properties"]["spec"]["properties"][field]["description"].clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for namespace in [HOME, SECOND] {
            // Only when a test has failed there is a release left.
            let left = self.try_helm(&[
                "uninstall",
                NAME,
                "--namespace",
                namespace,
                "--ignore-not-found",
                "--wait",
            ]);
            if let Err(error) = left {
                eprintln!("{error}");
            }
            self.kubectl(&[
                "delete",
                "namespace",
                namespace,
                "--ignore-not-found",
                "--timeout=90s",
            ]);
        }
        // As they were, also after an older version of them.
        self.disown_crds();
        operator::apply_crds(&self.lab).unwrap();
        self.scale(operator::NAMESPACE, "1");
        operator::rolled_out(&self.lab, operator::NAMESPACE).unwrap();
    }
}

/// A copy of the chart as an older version may have had it, with another text at the field `topics`.
fn older_chart(folder: &Path) -> PathBuf {
    let copy = folder.join("chart");
    process::run(Command::new("cp").arg("-r").arg(helm::chart()).arg(&copy)).unwrap();
    let crd = copy.join("files/crds/kafkabackups.yaml");
    let text = fs::read_to_string(&crd).unwrap();
    let mut object: Value = serde_saphyr::from_str(&text).unwrap();
    let spec =
        &mut object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["topics"]["description"] = json!(OLDER);
    fs::write(&crd, serde_saphyr::to_string(&object).unwrap()).unwrap();
    copy
}

/// `helm package` under another version; the archive.
fn packaged(lab: &Lab, chart: &Path, version: &str, folder: &Path) -> PathBuf {
    let mut command = helm::command(lab).unwrap();
    command
        .arg("package")
        .arg(chart)
        .args(["--version", version, "--destination"]);
    process::run(command.arg(folder)).unwrap();
    folder.join(format!("{NAME}-{version}.tgz"))
}

/// A `kubectl port-forward` that ends with the test.
struct Forward(Child);

impl Forward {
    /// `line` is what follows kubectl.
    fn start(lab: &Lab, line: &str, port: u16) -> Self {
        let mut kubectl = lab.kubectl().unwrap();
        kubectl.args(line.split(' ')).stdout(Stdio::null());
        let mut forward = Self(kubectl.spawn().unwrap());
        wait_for("the forwarded port", PATIENCE, || {
            let ended = forward.0.try_wait().unwrap();
            assert!(ended.is_none(), "kubectl {line} has ended");
            curl(lab, &format!("http://localhost:{port}/")).is_some()
        })
        .unwrap();
        forward
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The answer to a GET in the lab's network, whatever its status; none where nobody answers.
fn curl(lab: &Lab, url: &str) -> Option<String> {
    let mut curl = net::command(lab, "curl").unwrap();
    process::run(curl.args(["--silent", "--max-time", "10", url])).ok()
}

/// One test at a time: there is one cluster, and one installed operator.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

const OWN_METRIC: &str = "kafka_backup_operator_build_info{";

/// The page's line, as it stands there, at the operator that is installed from what the chart renders.
#[test]
fn the_installed_operator_is_reached_by_the_line_of_the_page() {
    let _turn = turn();
    let lab = Lab::open().unwrap();
    let line = "port-forward -n kafka-backup deployment/kafka-backup-operator 8080:8080";
    let _forward = Forward::start(&lab, line, 8080);
    let page = curl(&lab, "http://localhost:8080/metrics").unwrap();
    assert!(page.contains(OWN_METRIC), "{page}");
}

/// Every object that the chart can make, seen by the real API server: what it would drop or refuse is an error.
#[test]
fn all_that_can_be_made_is_accepted() {
    let _turn = turn();
    let lab = Lab::open().unwrap();
    let kubectl = |args: &[&str]| {
        operator::kubectl(&lab, args).unwrap_or_else(|error| panic!("{}", chain(&error)))
    };
    let foreign = helm::monitoring_crds(&lab).unwrap().display().to_string();
    kubectl(&["apply", "--server-side", "-f", &foreign]);
    kubectl(&[
        "wait",
        "--for=condition=Established",
        "crd",
        "--all",
        "--timeout=30s",
    ]);
    let place =
        json!({"enabled": true, "namespace": "default", "labels": {"release": "prometheus"}});
    let everything = json!({
        "watchNamespace": "default",
        "limits": {"runs": 3, "runsPerNamespace": 2},
        "imagePullSecrets": [{"name": "registry"}],
        "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
            "weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}},
        }]}},
        "serviceAccount": {"annotations": {"a": "b"}},
        "metrics": {"serviceMonitor": place},
        "prometheusRule": {
            "enabled": true, "namespace": "default", "labels": {"a": "b"}, "additionalRuleLabels": {"team": "x"},
            "runbookBaseUrl": "https://wiki.example",
        },
        "dashboard": {"enabled": true},
        "pushToken": {"existingSecret": "push"},
        "podDisruptionBudget": {"enabled": true, "minAvailable": "50%"},
        "networkPolicy": {
            "enabled": true, "from": [{"namespaceSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8"}}],
            "workerNamespaces": ["default"],
        },
    });
    let one =
        json!({"leaderElection": {"enabled": false}, "podDisruptionBudget": {"enabled": true}});
    for (name, values) in [
        ("everything", everything),
        ("default", Value::Null),
        ("one", one),
    ] {
        let text = helm::template(&lab, "other", "default", &values).unwrap();
        let file = lab
            .write_private(&format!("applied/chart-{name}.yaml"), &text)
            .unwrap();
        let file = file.display().to_string();
        let dry = ["--dry-run=server", "--validate=strict", "-f", &file];
        let server =
            kubectl(&[&["apply", "--server-side", "--force-conflicts"], &dry[..]].concat());
        let client = kubectl(&[&["apply"], &dry[..]].concat());
        for said in [server, client] {
            assert!(said.lines().count() >= 12, "{said}");
            assert_eq!(
                said.contains("prometheusrule"),
                name == "everything",
                "{said}"
            );
        }
    }
    kubectl(&["delete", "-f", &foreign]);
}

/// What kubectl has applied is nobody's release, and is not taken silently; nor is anything installed where a kind is missing.
fn install(stage: &Stage, chart: &Path, values: Value) {
    let archive = chart.display().to_string();
    let install = ["install", NAME, &archive, "--namespace", HOME];
    let refused = stage.try_helm(&install).unwrap_err();
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    let monitored = stage.values(json!({"metrics": {"serviceMonitor": {"enabled": true}}}));
    let refused = stage.try_helm(&[&install[..], &[&monitored]].concat());
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("no matches for kind \"ServiceMonitor\""),
        "{refused}"
    );
    assert_eq!(stage.object(HOME, "deployment", NAME), None);

    stage.release(HOME, chart, values, &["--take-ownership"]);
    assert_eq!(stage.field("topics"), OLDER);
    let notes = stage.helm(&["get", "notes", NAME, "--namespace", HOME]);
    assert!(notes.contains(&line_of_notes()), "{notes}");
    // Helm keeps each revision in a Secret, which may have 1 MiB.
    let secret = format!("sh.helm.release.v1.{NAME}.v1");
    let path = "jsonpath={.data.release}";
    let kept = stage.kubectl(&["-n", HOME, "get", "secret", &secret, "-o", path]);
    println!("a revision takes {} bytes", kept.len());
    assert!(kept.len() < 400 * 1024, "{} bytes", kept.len());
}

/// To the leader, which alone is behind the Service.
fn line_of_notes() -> String {
    format!("port-forward -n {HOME} service/{NAME} 8080:8080")
}

/// Both pods are ready, one of them leads, and the release's own test finds it.
fn look_at_two(stage: &Stage) {
    let deployment = format!("deployment/{NAME}");
    let available = ["--for=condition=Available", "--timeout=90s"];
    stage.kubectl(&[&["wait", "-n", HOME, &deployment], &available[..]].concat());
    let found = stage.object(HOME, "deployment", NAME).unwrap();
    assert_eq!(found["status"]["readyReplicas"], 2, "{}", found["status"]);
    let tested = stage.test(HOME);
    let says = "has the controller's metrics";
    assert!(
        tested.contains("Succeeded") && tested.contains(says),
        "{tested}"
    );
    assert_eq!(stage.leaders(), 1);
    let _forward = Forward::start(&stage.lab, &line_of_notes(), 8080);
    let page = curl(&stage.lab, "http://localhost:8080/metrics").unwrap();
    assert!(page.contains(OWN_METRIC), "{page}");
}

/// Other values of the same version, and one more as docs/pushing.md does it.
fn change_values(stage: &Stage, chart: &Path, mut values: Value) -> Value {
    values["logging"] = json!({"level": "debug"});
    values["metrics"] = json!({"port": 9090, "path": "/kafka/metrics"});
    values["limits"] = json!({"runs": 4, "runsPerNamespace": 2});
    stage.release(HOME, chart, values.clone(), &[]);
    assert_eq!(stage.field("topics"), OLDER);
    stage.test(HOME);
    let pods = "app.kubernetes.io/component=controller";
    let log = stage.kubectl(&["-n", HOME, "logs", "-l", pods, "--tail=-1"]);
    assert!(
        log.contains("\"level\":\"DEBUG\"") && log.contains(":9090"),
        "{log}"
    );

    let token = format!("--from-literal=token={TOKEN}");
    stage.kubectl(&["-n", HOME, "create", "secret", "generic", "push", &token]);
    let archive = chart.display().to_string();
    let upgrade = [
        "upgrade",
        NAME,
        &archive,
        "--namespace",
        HOME,
        "--wait",
        TIMEOUT,
    ];
    let set = [
        "--reset-then-reuse-values",
        "--set",
        "pushToken.existingSecret=push",
    ];
    stage.helm(&[&upgrade[..], &set].concat());
    stage.test(HOME);
    let service = stage.address(HOME);
    let mut push = net::command(&stage.lab, "curl").unwrap();
    push.args([
        "--silent",
        "--show-error",
        "--fail-with-body",
        "--data-binary",
        "records_checked_total 42\n",
    ]);
    push.args(["--header", &format!("Authorization: Bearer {TOKEN}")]);
    push.arg(format!("http://{service}:9090/metrics/job/verify-orders"));
    process::run(&mut push).unwrap_or_else(|error| panic!("{}", chain(&error)));
    wait_for("what was pushed", PATIENCE, || {
        let page = curl(&stage.lab, &format!("http://{service}:9090/kafka/metrics"));
        page.is_some_and(|page| page.contains("records_checked_total"))
    })
    .unwrap();
    values["pushToken"] = json!({"existingSecret": "push"});
    values
}

/// One that does not elect, and serves no page.
fn be_alone(stage: &Stage, chart: &Path) {
    let values =
        json!({"leaderElection": {"enabled": false}, "metrics": {"enabled": false}, "hold": "10s"});
    stage.release(HOME, chart, values, &[]);
    stage.test(HOME);
    assert_eq!(stage.leaders(), 1);
    let page = curl(
        &stage.lab,
        &format!("http://{}:8080/metrics", stage.address(HOME)),
    );
    assert_eq!(page.as_deref(), Some("nothing is here\n"));
}

/// A second release leaves the first one's CRDs to it; when that goes, they stay with all objects, and the second can take them.
fn outlive_the_first(stage: &Stage, chart: &Path) {
    let archive = chart.display().to_string();
    let second = [
        "install",
        NAME,
        &archive,
        "--namespace",
        SECOND,
        "--wait",
        TIMEOUT,
    ];
    let refused = stage.try_helm(&second).unwrap_err();
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    let own = stage.values(json!({"crds": {"install": false}, "watchNamespace": SECOND}));
    stage.helm(&[&second[..], &[&own]].concat());
    stage.test(SECOND);

    let is_kept = || stage.object(HOME, "kafkabackup", "kept").is_some();
    stage.helm(&["uninstall", NAME, "--namespace", HOME, "--wait"]);
    assert_eq!(stage.object(HOME, "deployment", NAME), None);
    assert!(is_kept());
    let own = json!({"watchNamespace": SECOND});
    stage.release(SECOND, chart, own, &["--take-ownership"]);
    let crd = stage.object("default", "crd", CRD).unwrap();
    let owner = &crd["metadata"]["annotations"]["meta.helm.sh/release-namespace"];
    assert_eq!(owner, SECOND);
    stage.helm(&["uninstall", NAME, "--namespace", SECOND, "--wait"]);
    assert!(is_kept());
}

#[test]
fn a_release_lives_from_its_installation_to_its_end() {
    let _turn = turn();
    let stage = Stage::set();
    let folder = tempfile::tempdir().unwrap();
    let (lab, folder) = (&stage.lab, folder.path());
    let version = env!("CARGO_PKG_VERSION");
    let old = packaged(lab, &older_chart(folder), "0.0.1", folder);
    let new = packaged(lab, &helm::chart(), version, folder);

    let values = json!({"replicaCount": 2, "hold": "10s"});
    install(&stage, &old, values.clone());
    look_at_two(&stage);
    operator::apply(lab, "chart-object", &suspended()).unwrap();
    let values = change_values(&stage, &old, values);
    // CRDs and pods are those of the new version.
    stage.release(HOME, &new, values, &[]);
    let field = stage.field("topics");
    assert!(field.is_string() && field != OLDER, "{field}");
    let listed = stage.helm(&["list", "--namespace", HOME, "--output", "json"]);
    assert!(listed.contains(&format!("{NAME}-{version}")), "{listed}");
    stage.test(HOME);
    be_alone(&stage, &new);
    outlive_the_first(&stage, &new);
}

fn suspended() -> String {
    format!(
        "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: kept, namespace: {HOME}}}\nspec:\n  \
         schedule: \"0 2 * * *\"\n  suspend: true\n  kafkaCluster: {{bootstrapServers: [\"kafka.invalid:9092\"]}}\n  topics: [orders]\n{}",
        operator::storage_yaml("t-chart")
    )
}
