//! Helm, compiled from its Go module, and the Prometheus Operator's CRDs from theirs.
//!
//! # Guarantees
//! Nothing of the user's Helm is read or changed: its folders are the lab's.

use super::kubernetes::{self, build};
use super::{Doing, Lab, LabError, cargo, net, parts, process};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const HELM: &str = "helm";
/// The releases with the client of the lab's Kubernetes.
const VERSION: &str = "v3.18.6";
const MONITORING: &str = "prometheus-operator-crds";
const MONITORING_MODULE: &str = "github.com/prometheus-operator/prometheus-operator";
const MONITORING_VERSION: &str = "v0.85.0";
/// Kinds that the chart makes objects of.
const MONITORING_KINDS: [&str; 2] = ["servicemonitors", "prometheusrules"];

/// Builds and fetches what is not there yet.
///
/// # Errors
/// There is no Go, or it fails.
pub fn prepare(lab: &Lab) -> Result<(), LabError> {
    program(lab)?;
    monitoring_crds(lab).map(drop)
}

/// The chart of this checkout.
pub fn chart() -> PathBuf {
    cargo::workspace().join("charts/kafka-backup-operator")
}

/// Helm for what needs no cluster.
///
/// # Errors
/// It cannot be built.
pub fn command(lab: &Lab) -> Result<Command, LabError> {
    Ok(at_home(lab, Command::new(program(lab)?)))
}

/// Helm as the cluster's administrator, in the lab's network.
///
/// # Errors
/// It cannot be built, or the lab is not up.
pub fn in_cluster(lab: &Lab) -> Result<Command, LabError> {
    let mut command = at_home(lab, net::command(lab, program(lab)?)?);
    command.env("KUBECONFIG", kubernetes::kubeconfig(lab));
    Ok(command)
}

/// What the chart makes for a release, `helm test` left out. `values` may be null.
///
/// # Errors
/// Helm's, as for values that the schema refuses.
pub fn template(
    lab: &Lab,
    release: &str,
    namespace: &str,
    values: &Value,
) -> Result<String, LabError> {
    let mut helm = command(lab)?;
    helm.args(["template", release]).arg(chart());
    helm.args(["--namespace", namespace, "--skip-tests"]);
    if !values.is_null() {
        helm.args(["--set-json", &flat(values)]);
    }
    process::run(&mut helm)
}

/// Top-level values as `--set-json` reads them.
pub fn flat(values: &Value) -> String {
    let fields = values.as_object().into_iter().flatten();
    let fields: Vec<_> = fields
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    fields.join(",")
}

/// The values for the images of references such as `host/name:tag`: the controller's and the worker's.
pub fn images((controller, worker): &(String, String)) -> Value {
    let image = |reference: &str| {
        let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, ""));
        serde_json::json!({ "repository": repository, "tag": tag })
    };
    serde_json::json!({ "controller": image(controller), "worker": image(worker) })
}

/// The folder with the CRDs of ServiceMonitor and PrometheusRule.
///
/// # Errors
/// There is no Go, or the module cannot be had.
pub fn monitoring_crds(lab: &Lab) -> Result<PathBuf, LabError> {
    parts::part(lab, MONITORING, MONITORING_VERSION, |folder| {
        let mut download = Command::new(build::go()?);
        download.args(["mod", "download", "-json"]);
        let told = process::run(download.arg(format!("{MONITORING_MODULE}@{MONITORING_VERSION}")))?;
        let told: Value = serde_json::from_str(&told).map_err(|error| {
            LabError::State(format!("go mod download printed no JSON: {error}"))
        })?;
        let module = Path::new(told["Dir"].as_str().unwrap_or_default());
        for kind in MONITORING_KINDS {
            let name = format!("monitoring.coreos.com_{kind}.yaml");
            let source = module.join("example/prometheus-operator-crd").join(&name);
            fs::copy(&source, folder.join(&name)).doing(|| format!("copy {}", source.display()))?;
        }
        Ok(())
    })
}

fn program(lab: &Lab) -> Result<PathBuf, LabError> {
    let minor = build::VERSION.split('.').nth(1).unwrap_or_default();
    // What Helm takes for the cluster's version where it does not ask one.
    let kubernetes: String = ["pkg/lint/rules", "pkg/chartutil"]
        .map(|package| {
            let package = format!("helm.sh/helm/v3/{package}");
            format!(" -X {package}.k8sVersionMajor=1 -X {package}.k8sVersionMinor={minor}")
        })
        .concat();
    let link = format!("-s -w -X helm.sh/helm/v3/internal/version.version={VERSION}{kubernetes}");
    let version = format!("{VERSION}-{}", parts::key(&[link.as_bytes()]));
    let folder = parts::part(lab, HELM, &version, |folder| {
        let mut install = Command::new(build::go()?);
        install.args(["install", "-trimpath", build::COMPILER, "-ldflags", &link]);
        install.arg(format!("helm.sh/helm/v3/cmd/helm@{VERSION}"));
        install
            .env("GOBIN", folder)
            .env("GOCACHE", lab.go_build())
            .env("GOFLAGS", "-buildvcs=false")
            .env("CGO_ENABLED", "0")
            .env("GOGC", "400");
        process::run(&mut install).map(drop)
    })?;
    Ok(folder.join(HELM))
}

fn at_home(lab: &Lab, mut command: Command) -> Command {
    let home = lab.state(HELM);
    for (variable, folder) in [
        ("HELM_CACHE_HOME", "cache"),
        ("HELM_CONFIG_HOME", "config"),
        ("HELM_DATA_HOME", "data"),
    ] {
        command.env(variable, home.join(folder));
    }
    command
}
