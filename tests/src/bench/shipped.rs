//! The exporter that is shipped: a controller without objects, beside the lab's API server.

use crate::lab::components::{self, Options};
use crate::lab::gateways::{self, ENDPOINT};
use crate::lab::{Lab, LabError, NODE_IP, cargo, kubernetes, net, process, step};
use crate::operator;

/// The static token of whoever pushes.
pub(super) const TOKEN: &str = "of-the-exporters-load";
const NAMESPACE: &str = "bench-exporter";
const POD: &str = "controller";
/// What the controller takes for its own pod; it is never placed.
const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: controller, namespace: bench-exporter}
spec:
  schedulingGates: [{name: kafka-backup.dev/bench}]
  securityContext: {runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: controller
    image: none
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
";

/// Compiles the controller, and makes what it needs in the cluster.
pub(super) fn prepare(lab: &Lab) -> Result<(), LabError> {
    components::up(lab, &[kubernetes::NAME], Options::default())?;
    step("compiled the controller", || {
        let mut build = cargo::release(lab, "build")?;
        process::run(build.args(["--bin", "kafka-backup-controller"])).map(drop)
    })?;
    operator::apply_crds(lab)?;
    operator::fresh_namespace(lab, NAMESPACE)?;
    let account = ["wait", "--for=create", "serviceaccount/default"];
    let account = [&["--namespace", NAMESPACE, "--timeout=30s"], &account[..]].concat();
    operator::kubectl(lab, &account)?;
    operator::apply(lab, NAMESPACE, OBJECTS).map(drop)
}

/// Starts it, with room for `series`, and waits until it takes pushes.
pub(super) fn start(lab: &Lab, series: u64) -> Result<process::Record, LabError> {
    let pod = operator::get(lab, NAMESPACE, "pod", POD)?;
    let uid = pod.as_ref().and_then(|pod| pod["metadata"]["uid"].as_str());
    let uid = uid.ok_or_else(|| LabError::State(format!("pod {NAMESPACE}/{POD} is gone")))?;
    let token = lab.write_private("exporter-token", TOKEN)?;
    let program = lab.target().join("release/kafka-backup-controller");
    let mut command = net::command(lab, program)?;
    command
        .args(["run", "--worker-image=none"])
        .arg(format!("--watch-namespace={NAMESPACE}"))
        .arg(format!("--metrics-addr={ENDPOINT}"))
        .arg(format!("--health-addr={NODE_IP}:0"))
        .arg(format!("--push-token-file={}", token.display()))
        .arg(format!("--push-max-series={}", series + 1))
        .env(
            "KUBECONFIG",
            kubernetes::kubeconfig_in(lab, NAMESPACE, None)?,
        )
        .env("POD_NAME", POD)
        .env("POD_UID", uid);
    gateways::start(lab, &command, || takes_pushes(lab))
}

/// Removes what [`prepare`] made in the cluster.
pub(super) fn remove(lab: &Lab) -> Result<(), LabError> {
    operator::kubectl(lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).map(drop)
}

/// Whether it leads: one that does not refuses whatever is pushed.
fn takes_pushes(lab: &Lab) -> bool {
    let authorization = format!("Authorization: Bearer {TOKEN}");
    let url = format!("http://{ENDPOINT}/metrics/job/nobody");
    net::command(lab, "curl").is_ok_and(|mut curl| {
        curl.args(["--silent", "--fail", "--max-time", "3", "--noproxy", "*"]);
        curl.args(["--request", "DELETE", "--header", &authorization, &url]);
        process::run(&mut curl).is_ok()
    })
}
