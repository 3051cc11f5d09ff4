//! The operator in the lab: installed from `manifests/`, and driven as a user drives it, by kubectl.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{CONTROLLER_METRICS, Doing, Lab, LabError, kubernetes, net, process, step, store};

/// Where the operator is installed.
pub const NAMESPACE: &str = "kafka-backup";
/// The Deployment and the metrics Service.
pub const NAME: &str = "kafka-backup-operator";
/// How long a finished run is held back from the counters in the lab: three of its scrapes. Clusters of users have 90 s.
pub const HOLD: Duration = Duration::from_secs(15);

/// Installs `manifests/install.yaml` with the images of this checkout, and waits until the controller is ready.
pub fn install(lab: &Lab) -> Result<(), LabError> {
    let built = kubernetes::import_worker_and_controller(lab)?;
    let manifests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests");
    let read = |name: &str| {
        let path = manifests.join(name);
        fs::read_to_string(&path).doing(|| format!("read {}", path.display()))
    };
    let hold = format!("--hold={}s", HOLD.as_secs());
    let install = replaced(
        &read("install.yaml")?,
        &[
            (
                "kafka-backup.local/controller:dev",
                &built.controller.reference,
            ),
            ("kafka-backup.local/worker:dev", &built.worker.reference),
            ("--hold=90s", &hold),
        ],
    )?;
    step("installed the operator", || {
        // The Service first, with the address that the lab's Prometheus scrapes: a cluster address cannot be changed later.
        let (address, port) = CONTROLLER_METRICS.split_once(':').expect("host:port");
        apply(
            lab,
            "service",
            &format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: {NAME}, namespace: {NAMESPACE}}}, \
             spec: {{clusterIP: {address}, ports: [{{name: metrics, port: {port}}}]}}}}\n"
            ),
        )?;
        apply(lab, "install", &install)?;
        kubectl(
            lab,
            &[
                "--namespace",
                NAMESPACE,
                "rollout",
                "status",
                "deployment",
                NAME,
                "--timeout=90s",
            ],
        )
        .map(drop)
    })
}

/// `text` with each pattern replaced; each must occur, or the manifest and the lab have drifted apart.
fn replaced(text: &str, pairs: &[(&str, &str)]) -> Result<String, LabError> {
    let mut text = text.to_owned();
    for (from, to) in pairs {
        if !text.contains(from) {
            return Err(LabError::State(format!(
                "manifests/install.yaml does not contain {from}"
            )));
        }
        text = text.replace(from, to);
    }
    Ok(text)
}

/// What kubectl prints; an error with what it said when it fails.
pub fn kubectl(lab: &Lab, args: &[&str]) -> Result<String, LabError> {
    process::run(kubernetes::kubectl(lab)?.args(args))
}

/// Applies YAML, kept as `<name>.yaml` in the lab's folder.
pub fn apply(lab: &Lab, name: &str, yaml: &str) -> Result<String, LabError> {
    let folder = lab.run.join("applied");
    fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
    let file = folder.join(format!("{name}.yaml"));
    fs::write(&file, yaml).doing(|| format!("write {}", file.display()))?;
    let file = file.display().to_string();
    kubectl(
        lab,
        &["apply", "--server-side", "--force-conflicts", "-f", &file],
    )
}

/// An object as JSON; `None` when there is none of that name.
pub fn get(lab: &Lab, namespace: &str, kind: &str, name: &str) -> Result<Option<Value>, LabError> {
    let json = kubectl(
        lab,
        &[
            "--namespace",
            namespace,
            "get",
            kind,
            name,
            "--ignore-not-found",
            "--output",
            "json",
        ],
    )?;
    if json.trim().is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&json)
        .map(Some)
        .map_err(|error| LabError::State(format!("kubectl printed no JSON: {error}")))
}

/// The objects of a kind as JSON.
pub fn list(lab: &Lab, namespace: &str, kind: &str) -> Result<Vec<Value>, LabError> {
    let json = kubectl(
        lab,
        &["--namespace", namespace, "get", kind, "--output", "json"],
    )?;
    let list: Value = serde_json::from_str(&json)
        .map_err(|error| LabError::State(format!("kubectl printed no JSON: {error}")))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// A namespace of a user: pods must be *restricted*, and the store's keys are in the Secret `store`.
pub fn create_namespace(lab: &Lab, name: &str) -> Result<(), LabError> {
    apply(lab, &format!("namespace-{name}"), &format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{pod-security.kubernetes.io/enforce: restricted}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: store, namespace: {name}}}\n\
         stringData: {{accessKey: {}, secretKey: {}}}\n",
        store::ACCESS_KEY, store::SECRET_KEY
    ))
    .map(drop)
}

/// A namespace as [`create_namespace`] makes it, without whatever an earlier run left in it.
pub fn fresh_namespace(lab: &Lab, name: &str) -> Result<(), LabError> {
    kubectl(
        lab,
        &[
            "delete",
            "namespace",
            name,
            "--ignore-not-found",
            "--timeout=90s",
        ],
    )?;
    create_namespace(lab, name)
}

/// The `storage` block of a spec for the lab's store, indented by two, keys below `prefix`.
pub fn storage_yaml(prefix: &str) -> String {
    format!(
        "  storage:\n    storageType: s3\n    s3:\n      bucket: {}\n      prefix: {prefix}\n      endpoint: {}\n      \
         pathStyle: true\n      allowHttp: true\n      credentialsSecret: {{name: store}}\n",
        store::BUCKET,
        store::ENDPOINT
    )
}

/// Waits until the run of an object has ended, calling `seen` whenever its status has changed; the object as it is then.
pub fn wait_finished(
    lab: &Lab,
    namespace: &str,
    kind: &str,
    name: &str,
    limit: Duration,
    mut seen: impl FnMut(&Value),
) -> Result<Value, LabError> {
    let mut last = Value::Null;
    wait_object(
        lab,
        namespace,
        kind,
        name,
        "its run to end",
        limit,
        |object| {
            let status = &object["status"];
            if *status != last {
                seen(object);
                last = status.clone();
            }
            status["activeRun"].is_null()
                && matches!(status["phase"].as_str(), Some("Completed" | "Failed"))
        },
    )
}

/// Waits until `ready` says true of an object, looking twice a second.
pub fn wait_object(
    lab: &Lab,
    namespace: &str,
    kind: &str,
    name: &str,
    what: &str,
    limit: Duration,
    mut ready: impl FnMut(&Value) -> bool,
) -> Result<Value, LabError> {
    let deadline = Instant::now() + limit;
    loop {
        let object = get(lab, namespace, kind, name)?
            .ok_or_else(|| LabError::State(format!("{kind} {namespace}/{name} does not exist")))?;
        if ready(&object) {
            return Ok(object);
        }
        if Instant::now() > deadline {
            return Err(LabError::State(format!(
                "gave up after {} s waiting for {what} of {kind} {namespace}/{name}; its status: {}",
                limit.as_secs(),
                object["status"]
            )));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What the controller serves at `/metrics`.
pub fn metrics(lab: &Lab) -> Result<String, LabError> {
    let mut curl = net::command(lab, "curl")?;
    process::run(
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"])
            .arg(format!("http://{CONTROLLER_METRICS}/metrics")),
    )
}

/// The value of a series on a page, by its exact name and labels; `None` when it is not there.
pub fn sample(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
}

/// Reasons and messages of the Events about an object, oldest first.
pub fn events(
    lab: &Lab,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Result<Vec<(String, String)>, LabError> {
    let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
    let json = kubectl(
        lab,
        &[
            "--namespace",
            namespace,
            "get",
            "events",
            "--field-selector",
            &selector,
            "--sort-by",
            ".metadata.creationTimestamp",
            "--output",
            "json",
        ],
    )?;
    let list: Value = serde_json::from_str(&json)
        .map_err(|error| LabError::State(format!("kubectl printed no JSON: {error}")))?;
    let text = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
    Ok(list["items"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| (text(event, "reason"), text(event, "message")))
        .collect())
}
