//! The operator in the lab: installed from `manifests/`, and driven as a user drives it, by kubectl.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::given::Bucket;
use crate::lab::{
    CONTROLLER_METRICS, Doing, Lab, LabError, cargo, kubernetes, net, process, step, wait_for,
};

/// Where the operator is installed.
pub const NAMESPACE: &str = "kafka-backup";
/// The Deployment and the metrics Service.
pub const NAME: &str = "kafka-backup-operator";
/// The images that `manifests/install.yaml` names.
const CONTROLLER_IMAGE: &str = concat!("kafka-backup.local/controller:", env!("CARGO_PKG_VERSION"));
const WORKER_IMAGE: &str = concat!("kafka-backup.local/worker:", env!("CARGO_PKG_VERSION"));
/// How long a finished run is held back from the counters in the lab: three of its scrapes. Clusters of users have 90 s.
pub const HOLD: Duration = Duration::from_secs(15);

/// Installs `manifests/install.yaml` with the images of this checkout, and waits until the controller is ready.
pub fn install(lab: &Lab) -> Result<(), LabError> {
    let built = kubernetes::import_worker_and_controller(lab)?;
    let hold = format!("--hold={}s", HOLD.as_secs());
    let install = manifest(
        &built.controller.reference,
        &built.worker.reference,
        &[("--hold=90s", &hold)],
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
        rolled_out(lab, NAMESPACE)?;
        // The Service leads to the leader only, and a new one has to be found.
        wait_for(
            "the leader behind the Service",
            Duration::from_secs(60),
            || metrics(lab).is_ok(),
        )
    })
}

/// The CRDs alone, for controllers that run beside the cluster.
pub fn apply_crds(lab: &Lab) -> Result<(), LabError> {
    let path = cargo::workspace().join("manifests/crds.yaml");
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    apply(lab, "crds", &text)?;
    kubectl(
        lab,
        &[
            "wait",
            "--for=condition=Established",
            "crd",
            "--all",
            "--timeout=30s",
        ],
    )
    .map(drop)
}

/// The namespace of the operator in a cluster that is not the lab's: an installed one is used as it is, else it is installed with
/// `images` (controller, worker).
pub fn installed(lab: &Lab, images: Option<&(String, String)>) -> Result<String, LabError> {
    let selector = format!("metadata.name={NAME}");
    let json = kubectl(
        lab,
        &["get", "deployments", "--all-namespaces", "--output", "json"]
            .into_iter()
            .chain(["--field-selector", &selector])
            .collect::<Vec<_>>(),
    )?;
    if let Some(found) = items(&json)?.first() {
        let namespace = found["metadata"]["namespace"].as_str().unwrap_or_default();
        println!(
            "            the operator is installed in namespace {namespace}, with image {}: it is used as it is",
            found["spec"]["template"]["spec"]["containers"][0]["image"]
        );
        return Ok(namespace.to_owned());
    }
    let (controller, worker) = images.ok_or_else(|| {
        LabError::State(format!(
            "the cluster has no Deployment {NAME}: install manifests/install.yaml, or give --controller-image and --worker-image"
        ))
    })?;
    let file = write(lab, "install", &manifest(controller, worker, &[])?)?;
    let existing = kubectl(
        lab,
        &["get", "-f", &file, "--ignore-not-found", "--output", "name"],
    )?;
    if !existing.trim().is_empty() {
        return Err(LabError::State(format!(
            "the cluster has no Deployment {NAME}, but parts of one, which are left alone: {}",
            existing.split_whitespace().collect::<Vec<_>>().join(", ")
        )));
    }
    step("installed the operator", || {
        kubectl(lab, &["create", "-f", &file])?;
        rolled_out(lab, NAMESPACE)
    })?;
    Ok(NAMESPACE.to_owned())
}

/// The images (controller, worker) of the operator in `namespace`.
///
/// # Errors
/// There is none.
pub fn images(lab: &Lab, namespace: &str) -> Result<(String, String), LabError> {
    let none = || LabError::State(format!("no operator is installed in namespace {namespace}"));
    let installed = get(lab, namespace, "deployment", NAME)?.ok_or_else(none)?;
    let container = &installed["spec"]["template"]["spec"]["containers"][0];
    let args = container["args"].as_array().into_iter().flatten();
    let mut args = args.filter_map(Value::as_str);
    let worker = args.find_map(|arg| arg.strip_prefix("--worker-image="));
    let images = container["image"].as_str().zip(worker).ok_or_else(none)?;
    Ok((images.0.to_owned(), images.1.to_owned()))
}

/// Waits until the operator's pods are those of its Deployment, and ready.
pub fn rolled_out(lab: &Lab, namespace: &str) -> Result<(), LabError> {
    kubectl(
        lab,
        &[
            "--namespace",
            namespace,
            "rollout",
            "status",
            "deployment",
            NAME,
            "--timeout=90s",
        ],
    )
    .map(drop)
}

/// `manifests/install.yaml` with these images and other changes.
fn manifest(controller: &str, worker: &str, more: &[(&str, &str)]) -> Result<String, LabError> {
    let path = cargo::workspace().join("manifests/install.yaml");
    let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
    let images = [(CONTROLLER_IMAGE, controller), (WORKER_IMAGE, worker)];
    replaced(&text, &[&images, more].concat())
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
    process::run(lab.kubectl()?.args(args))
}

/// Applies YAML, kept as `<name>.yaml` in the lab's folder.
pub fn apply(lab: &Lab, name: &str, yaml: &str) -> Result<String, LabError> {
    let file = write(lab, name, yaml)?;
    kubectl(
        lab,
        &["apply", "--server-side", "--force-conflicts", "-f", &file],
    )
}

/// Writes YAML, which may be a Secret's, into the lab's folder.
fn write(lab: &Lab, name: &str, yaml: &str) -> Result<String, LabError> {
    let path = lab.write_private(&format!("applied/{name}.yaml"), yaml)?;
    Ok(path.display().to_string())
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
    items(&json)
}

/// The items of a list that kubectl printed.
fn items(json: &str) -> Result<Vec<Value>, LabError> {
    let list: Value = serde_json::from_str(json)
        .map_err(|error| LabError::State(format!("kubectl printed no JSON: {error}")))?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

/// The label of namespaces that were made here, and may be deleted for that.
const OURS: &str = "kafka-backup.dev/lab";

/// A namespace of a user: pods must be *restricted*, and the store's keys are in the Secret `store`.
pub fn create_namespace(lab: &Lab, name: &str) -> Result<(), LabError> {
    let bucket = lab.bucket();
    let quoted = |text: &str| Value::from(text).to_string();
    apply(
        lab,
        &format!("namespace-{name}"),
        &format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  \
         labels: {{pod-security.kubernetes.io/enforce: restricted, {OURS}: ours}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: store, namespace: {name}}}\n\
         stringData: {{accessKey: {}, secretKey: {}}}\n",
            quoted(&bucket.access_key),
            quoted(&bucket.secret_key)
        ),
    )
    .map(drop)
}

/// A namespace as [`create_namespace`] makes it, without whatever an earlier run left in it.
///
/// # Errors
/// There is one of that name that was not made here.
pub fn fresh_namespace(lab: &Lab, name: &str) -> Result<(), LabError> {
    if let Some(found) = get(lab, "default", "namespace", name)? {
        if found["metadata"]["labels"][OURS] != "ours" {
            return Err(LabError::State(format!(
                "namespace {name} exists, and was not made by the lab (it has no label {OURS}): it is left alone"
            )));
        }
        kubectl(lab, &["delete", "namespace", name, "--timeout=90s"])?;
    }
    create_namespace(lab, name)
}

/// The `storage` block of a spec for the lab's store, indented by two, keys below `prefix`.
pub fn storage_yaml(prefix: &str) -> String {
    storage_of(&Bucket::of_lab(), prefix)
}

/// The same for any bucket.
pub fn storage_of(bucket: &Bucket, prefix: &str) -> String {
    let mut yaml = format!(
        "  storage:\n    storageType: s3\n    s3:\n      bucket: {}\n      prefix: {prefix}\n",
        bucket.name
    );
    if let Some(endpoint) = &bucket.endpoint {
        yaml += &format!("      endpoint: {endpoint}\n      pathStyle: true\n");
        if endpoint.starts_with("http://") {
            yaml += "      allowHttp: true\n";
        }
    }
    if let Some(region) = &bucket.region {
        yaml += &format!("      region: {region}\n");
    }
    yaml + "      credentialsSecret: {name: store}\n"
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

/// What the controller of an operator in `namespace` serves at `/metrics`, read through the API server's service proxy.
pub fn metrics_by_proxy(lab: &Lab, namespace: &str) -> Result<String, LabError> {
    let path = format!("/api/v1/namespaces/{namespace}/services/{NAME}:metrics/proxy/metrics");
    kubectl(lab, &["get", "--raw", &path])
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
