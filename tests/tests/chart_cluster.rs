//! The Helm chart on the lab's cluster: what it makes is accepted, installed, tested, upgraded and uninstalled. Needs `cargo lab up` and the
//! installed operator.
//!
//! A file of its own: the installed operator is away meanwhile, and the CRDs belong to the releases of this test. Both are given back.

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

    /// The description of a field of the CRD of backups, as the cluster has it.
    fn field(&self, field: &str) -> Value {
        let crd = self
            .object("default", "crd", "kafkabackups.kafka-backup.dev")
            .unwrap();
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
            self.kubectl(&["delete", "namespace", namespace, "--timeout=90s"]);
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
    spec["properties"]["topics"]["description"] = json!("As it was.");
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

#[test]
fn a_release_lives_from_its_installation_to_its_end() {
    let _turn = turn();
    let stage = Stage::set();
    let folder = tempfile::tempdir().unwrap();
    let lab = &stage.lab;
    let old = packaged(lab, &older_chart(folder.path()), "0.0.1", folder.path());
    let new = packaged(
        lab,
        &helm::chart(),
        env!("CARGO_PKG_VERSION"),
        folder.path(),
    );

    // What kubectl has applied is nobody's release, and is not taken silently.
    let chart = old.display().to_string();
    let install = ["install", NAME, &chart, "--namespace", HOME];
    let refused = stage.try_helm(&install).unwrap_err();
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    let monitored = stage.values(json!({"metrics": {"serviceMonitor": {"enabled": true}}}));
    let refused = stage
        .try_helm(&[&install[..], &[&monitored]].concat())
        .unwrap_err();
    assert!(
        refused.contains("no matches for kind \"ServiceMonitor\""),
        "{refused}"
    );
    assert_eq!(stage.object(HOME, "deployment", NAME), None);
    let two = json!({"replicaCount": 2, "hold": "10s"});
    stage.release(HOME, &old, two.clone(), &["--take-ownership"]);
    assert_eq!(stage.field("topics"), "As it was.");
    let notes = stage.helm(&["get", "notes", NAME, "--namespace", HOME]);
    assert!(
        notes.contains(&format!(
            "port-forward -n {HOME} deployment/{NAME} 8080:8080"
        )),
        "{notes}"
    );

    // Both pods are ready, one of them leads, and the release's own test finds it.
    let wait = [
        "wait",
        "-n",
        HOME,
        &format!("deployment/{NAME}"),
        "--for=condition=Available",
        "--timeout=90s",
    ];
    stage.kubectl(&wait);
    let deployment = stage.object(HOME, "deployment", NAME).unwrap();
    assert_eq!(
        deployment["status"]["readyReplicas"], 2,
        "{}",
        deployment["status"]
    );
    let tested = stage.helm(&["test", NAME, "--namespace", HOME, "--logs", TIMEOUT]);
    assert!(
        tested.contains("Succeeded") && tested.contains("has the controller's metrics"),
        "{tested}"
    );
    let leaders = stage.kubectl(&[
        "-n",
        HOME,
        "get",
        "pods",
        "-l",
        "kafka-backup.dev/leader-of=All",
        "-o",
        "name",
    ]);
    assert_eq!(leaders.lines().count(), 1, "{leaders}");
    {
        let line = format!("port-forward -n {HOME} deployment/kafka-backup-operator 8080:8080");
        let _forward = Forward::start(lab, &line, 8080);
        let page = curl(lab, "http://localhost:8080/metrics").unwrap();
        assert!(page.contains(OWN_METRIC), "{page}");
    }

    // Helm keeps each revision in a Secret, which may have 1 MiB.
    let kept = stage.kubectl(&[
        "-n",
        HOME,
        "get",
        "secret",
        &format!("sh.helm.release.v1.{NAME}.v1"),
        "-o",
        "jsonpath={.data.release}",
    ]);
    assert!(kept.len() < 400 * 1024, "{} bytes", kept.len());
    println!("a revision takes {} bytes", kept.len());

    // An object of a user.
    operator::apply(lab, "chart-object", &suspended()).unwrap();

    // A change of values alone, and then another version: CRDs and pods are those of it.
    let mut values = two;
    values["logging"] = json!({"level": "debug"});
    values["metrics"] = json!({"port": 9090, "path": "/kafka/metrics"});
    values["limits"] = json!({"runs": 4, "runsPerNamespace": 2});
    values["pushToken"] = json!({"existingSecret": "push"});
    stage.kubectl(&[
        "-n",
        HOME,
        "create",
        "secret",
        "generic",
        "push",
        "--from-literal=token=sixteen-characters-or-more",
    ]);
    stage.release(HOME, &old, values.clone(), &[]);
    assert_eq!(stage.field("topics"), "As it was.");
    stage.helm(&["test", NAME, "--namespace", HOME, TIMEOUT]);
    let pods = "app.kubernetes.io/component=controller";
    let log = stage.kubectl(&["-n", HOME, "logs", "-l", pods, "--tail=-1"]);
    assert!(
        log.contains("\"level\":\"DEBUG\"") && log.contains(":9090"),
        "{log}"
    );
    stage.release(HOME, &new, values.clone(), &[]);
    assert_ne!(stage.field("topics"), "As it was.");
    assert!(stage.field("topics").is_string());
    let listed = stage.helm(&["list", "--namespace", HOME, "--output", "json"]);
    assert!(
        listed.contains(&format!("{NAME}-{}", env!("CARGO_PKG_VERSION"))),
        "{listed}"
    );
    stage.helm(&["test", NAME, "--namespace", HOME, TIMEOUT]);

    // One that does not elect, and serves no page.
    let alone =
        json!({"leaderElection": {"enabled": false}, "metrics": {"enabled": false}, "hold": "10s"});
    stage.release(HOME, &new, alone, &[]);
    stage.helm(&["test", NAME, "--namespace", HOME, TIMEOUT]);
    let leaders = stage.kubectl(&[
        "-n",
        HOME,
        "get",
        "pods",
        "-l",
        "kafka-backup.dev/leader-of=All",
        "-o",
        "name",
    ]);
    assert_eq!(leaders.lines().count(), 1, "{leaders}");
    let service = stage.object(HOME, "service", NAME).unwrap();
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let page = curl(lab, &format!("http://{address}:8080/metrics")).unwrap();
    assert!(page.contains("nothing is here"), "{page}");

    // A second release leaves the first one's CRDs to it.
    let chart = new.display().to_string();
    let second = [
        "install",
        NAME,
        &chart,
        "--namespace",
        SECOND,
        "--wait",
        TIMEOUT,
    ];
    let refused = stage.try_helm(&second).unwrap_err();
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    let own = stage.values(json!({"crds": {"install": false}, "watchNamespace": SECOND}));
    stage.helm(&[&second[..], &[&own]].concat());
    stage.helm(&["test", NAME, "--namespace", SECOND, TIMEOUT]);

    // When the first goes, CRDs and objects stay, and the second can take the CRDs.
    stage.helm(&["uninstall", NAME, "--namespace", HOME, "--wait"]);
    assert_eq!(stage.object(HOME, "deployment", NAME), None);
    assert!(stage.object(HOME, "kafkabackup", "kept").is_some());
    let own = json!({"watchNamespace": SECOND});
    stage.release(SECOND, &new, own, &["--take-ownership"]);
    let crd = stage
        .object("default", "crd", "kafkabackups.kafka-backup.dev")
        .unwrap();
    assert_eq!(
        crd["metadata"]["annotations"]["meta.helm.sh/release-namespace"],
        SECOND
    );
    stage.helm(&["uninstall", NAME, "--namespace", SECOND, "--wait"]);
    assert!(stage.object(HOME, "kafkabackup", "kept").is_some());
}

fn suspended() -> String {
    format!(
        "apiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: kept, namespace: {HOME}}}\nspec:\n  \
         schedule: \"0 2 * * *\"\n  suspend: true\n  kafkaCluster: {{bootstrapServers: [\"kafka.invalid:9092\"]}}\n  topics: [orders]\n{}",
        operator::storage_yaml("t-chart")
    )
}
