//! Prometheus: Debian's program with a configuration of our own, never Debian's service.
//!
//! # Guarantees
//! The package is not installed: its program is unpacked into the cache when the machine has none.

use super::{CONTROLLER_METRICS, Doing, Lab, LabError, net, packages, parts, process};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The component and its process.
pub const NAME: &str = "prometheus";
/// Where the HTTP API is served in the namespace.
pub const ENDPOINT: &str = "http://198.18.0.2:9090";
/// What asks it; the program itself comes by [`program`].
pub const PACKAGES: &[(&str, &str)] = &[("curl", "curl")];
const LISTEN: &str = "198.18.0.2:9090";
const CONFIG: &str = include_str!("../../assets/prometheus/prometheus.yml");

/// `prometheus` or `promtool`: the machine's, or else from Debian's package, unpacked into the cache.
pub fn program(lab: &Lab, name: &str) -> Result<PathBuf, LabError> {
    packages::unpacked(lab, NAME, name)
}

/// The folder in which `*.yaml` rule files are read; Prometheus must be told to reload (SIGHUP, or POST /-/reload).
pub fn rules(lab: &Lab) -> PathBuf {
    lab.state(NAME).join("rules")
}

/// Starts Prometheus and waits until it is ready.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    let prometheus = program(lab, NAME)?;
    if !process::is_running(lab, NAME) {
        let (folder, rules) = (lab.state(NAME), rules(lab));
        fs::create_dir_all(&rules).doing(|| format!("create {}", rules.display()))?;
        let config = folder.join("prometheus.yml");
        let text = CONFIG
            .replace("@RULES@", &rules.display().to_string())
            .replace("@CONTROLLER_METRICS@", CONTROLLER_METRICS)
            .replace("@LISTEN@", LISTEN);
        fs::write(&config, text).doing(|| format!("write {}", config.display()))?;
        let mut command = net::command(lab, prometheus)?;
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ));
        command
            .arg(format!("--web.listen-address={LISTEN}"))
            .args(["--web.enable-lifecycle", "--log.level=warn"]);
        process::spawn(lab, NAME, command.current_dir(&folder))?;
    }
    process::wait_ready(lab, NAME, Duration::from_secs(60), || {
        get(lab, "/-/ready").is_ok()
    })
}

/// GET of a path of Prometheus' HTTP API, such as `/api/v1/query?query=up`.
pub fn get(lab: &Lab, path: &str) -> Result<String, LabError> {
    let mut curl = net::command(lab, "curl")?;
    process::run(
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"])
            .arg(format!("{ENDPOINT}{path}")),
    )
}

/// Labels and value of each series that Prometheus answers to an expression with.
///
/// # Errors
/// Prometheus does not answer, or not as documented; it cannot evaluate the expression.
pub fn query(lab: &Lab, expression: &str) -> Result<Vec<(Value, f64)>, LabError> {
    let mut curl = net::command(lab, "curl")?;
    let answer = process::run(
        curl.args(["--silent", "--show-error", "--max-time", "10", "--get"])
            .arg(format!("{}/api/v1/query", ENDPOINT))
            .arg("--data-urlencode")
            .arg(format!("query={expression}")),
    )?;
    let wrong = || LabError::State(format!("Prometheus answered {answer} to {expression}"));
    let read: Value = serde_json::from_str(&answer).map_err(|_| wrong())?;
    let series = read["data"]["result"].as_array().ok_or_else(wrong)?.iter();
    series
        .map(|series| {
            let value = series["value"][1]
                .as_str()
                .and_then(|value| value.parse().ok());
            Ok((series["metric"].clone(), value.ok_or_else(wrong)?))
        })
        .collect()
}

/// Stops Prometheus and removes its data.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, NAME)?;
    parts::remove(&lab.state(NAME))
}
