//! The shipped rules on the lab's Prometheus, and the alerts that take minutes: `cargo lab soak --only alerts`.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::cargo::workspace;
use crate::lab::components::{self, Options};
use crate::lab::kafka::SOURCE;
use crate::lab::{Doing, Lab, LabError, net, process, prometheus};
use crate::operator;

/// Namespace of the soak's objects.
const NAMESPACE: &str = "soak-alerts";
/// The alerts wait for five minutes, and a retry may be two minutes off.
const LIMIT: Duration = Duration::from_secs(8 * 60);

/// The rules of the monitoring pack, loaded as a user of plain Prometheus does; unloaded when this is dropped.
#[derive(Debug)]
pub struct Rules<'a>(&'a Lab);

impl<'a> Rules<'a> {
    /// Loads what is below `spec` of the PrometheusRule.
    ///
    /// # Errors
    /// The file is not as expected, or Prometheus refuses it.
    pub fn load(lab: &'a Lab) -> Result<Self, LabError> {
        let path = workspace().join("manifests/monitoring/prometheusrule.yaml");
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        // Its last block, and without its indentation a whole file.
        let (_, spec) = text
            .split_once("\nspec:\n")
            .ok_or_else(|| LabError::State(format!("{} has no spec", path.display())))?;
        let lines = spec
            .lines()
            .map(|line| line.strip_prefix("  ").unwrap_or(line));
        let lines: Vec<&str> = lines.collect();
        let file = prometheus::rules(lab).join("kafka-backup.yaml");
        fs::write(&file, lines.join("\n") + "\n").doing(|| format!("write {}", file.display()))?;
        let rules = Self(lab);
        rules.reload()?;
        Ok(rules)
    }

    fn reload(&self) -> Result<(), LabError> {
        let mut curl = net::command(self.0, "curl")?;
        let url = format!("{}/-/reload", prometheus::ENDPOINT);
        process::run(curl.args([
            "--silent",
            "--show-error",
            "--fail",
            "--request",
            "POST",
            &url,
        ]))
        .map(drop)
    }
}

impl Drop for Rules<'_> {
    fn drop(&mut self) {
        let removed = fs::remove_file(prometheus::rules(self.0).join("kafka-backup.yaml"));
        if let Err(error) = removed
            .map_err(|error| error.to_string())
            .and_then(|()| self.reload().map_err(|error| error.to_string()))
        {
            println!("            the rules are still loaded: {error}");
        }
    }
}

/// The series of an alert that fires.
pub fn firing(alert: &str, namespace: &str, label: &str, object: &str) -> String {
    format!(
        "ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",namespace=\"{namespace}\",{label}=\"{object}\"}}"
    )
}

/// Alerts with `for: 5m`, side by side: each must be pending before it fires.
///
/// # Errors
/// The lab does not come up, or an alert does not fire in eight minutes.
pub fn soak(lab: &Lab) -> Result<(), LabError> {
    components::up(lab, &components::all(), Options { brokers: 1 })?;
    operator::install(lab)?;
    operator::fresh_namespace(lab, NAMESPACE)?;
    let rules = Rules::load(lab)?;
    create(lab)?;
    let errors = "ALERTS{alertname=\"KafkaBackupOperatorErrors\",alertstate=\"firing\",controller=\"backup\"}";
    let mut expected = vec![
        firing("KafkaBackupMissing", NAMESPACE, "backup_name", "stale"),
        firing("KafkaBackupInvalidSpec", NAMESPACE, "name", "invalid"),
        errors.to_owned(),
    ];
    let mut pending: Vec<String> = expected.clone();
    let began = Instant::now();
    while !expected.is_empty() {
        if began.elapsed() > LIMIT {
            return Err(LabError::State(format!(
                "never fired: {}",
                expected.join(", ")
            )));
        }
        for alert in std::mem::take(&mut pending) {
            let waits = alert.replace("firing", "pending");
            if prometheus::query(lab, &waits)?.is_empty() {
                pending.push(alert);
            }
        }
        for alert in std::mem::take(&mut expected) {
            if prometheus::query(lab, &alert)?.is_empty() {
                expected.push(alert);
                continue;
            }
            let seconds = began.elapsed().as_secs();
            println!("  {seconds:4} s  {alert}");
            if seconds < 4 * 60 || pending.contains(&alert) {
                return Err(LabError::State(format!(
                    "fired without its five minutes: {alert}"
                )));
            }
        }
        std::thread::sleep(Duration::from_secs(2));
    }
    drop(rules);
    operator::kubectl(lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).map(drop)
}

/// A backup that succeeded long ago, one that cannot be obeyed, and one whose Job cannot be created.
fn create(lab: &Lab) -> Result<(), LabError> {
    let storage = operator::storage_yaml(NAMESPACE);
    let cluster = format!(
        "kafkaCluster: {{bootstrapServers: [\"{}\"]}}",
        SOURCE.bootstrap(lab)
    );
    let backup = |name: &str, more: &str| {
        format!(
            "---\napiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n  {cluster}\n  topics: [t]\n{more}{storage}"
        )
    };
    let quota = format!(
        "---\napiVersion: v1\nkind: ResourceQuota\nmetadata: {{name: no-jobs, namespace: {NAMESPACE}}}\nspec: {{hard: {{count/jobs.batch: \"0\"}}}}\n"
    );
    let yaml = [
        quota,
        backup("stale", "  schedule: \"@yearly\"\n  suspend: true\n"),
        backup(
            "invalid",
            "  schedule: \"@hourly\"\n  timeZone: Europe/Nowhere\n",
        ),
        backup("refused", ""),
    ];
    operator::apply(lab, "alerts-soak", &yaml.concat())?;
    operator::wait_object(
        lab,
        NAMESPACE,
        "kafkabackup",
        "stale",
        "a status",
        Duration::from_secs(60),
        |object| object["status"].is_object(),
    )?;
    let patch = json!({ "status": { "totals": { "lastSuccessTime": "2026-01-01T00:00:00Z" } } })
        .to_string();
    operator::kubectl(
        lab,
        &[
            "--namespace",
            NAMESPACE,
            "patch",
            "kafkabackup",
            "stale",
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch,
        ],
    )
    .map(drop)
}
