//! The page's queries, panels and alerts on a real Prometheus that scrapes the installed controller through runs that succeed and fail,
//! a restart of the controller and deletions. Needs `cargo lab up` and the installed operator.
//!
//! What takes longer than this is shown by promtool in monitoring.rs; what waits for five minutes also by `cargo lab soak --only alerts`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::LazyLock;
use std::time::Duration;

use kafka_backup_tests::alerts::{self, Rules};
use kafka_backup_tests::lab::cargo::workspace;
use kafka_backup_tests::lab::kafka::SOURCE;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce};
use kafka_backup_tests::lab::{Lab, prometheus, wait_for};
use kafka_backup_tests::operator;
use serde_json::{Value, json};

/// Of this run alone: an object that was there before under the same name, in the range of a query, would look like a reset.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| format!("t-alerts-{}", std::process::id()));
const TOPIC: &str = "t-alerts.in";
/// A run, some scrapes, a rule's evaluation.
const LIMIT: Duration = Duration::from_secs(120);

fn query(lab: &Lab, expression: &str) -> Vec<(Value, f64)> {
    prometheus::query(lab, expression).unwrap()
}

/// Waits until the expression has a series.
fn until(lab: &Lab, expression: &str) -> Vec<(Value, f64)> {
    let mut found = Vec::new();
    wait_for(&format!("a series of {expression}"), LIMIT, || {
        found = query(lab, expression);
        !found.is_empty()
    })
    .unwrap();
    found
}

/// Waits until it has none.
fn until_gone(lab: &Lab, expression: &str) {
    let what = format!("the end of {expression}");
    wait_for(&what, LIMIT, || query(lab, expression).is_empty()).unwrap();
}

fn firing(alert: &str, label: &str, object: &str) -> String {
    alerts::firing(alert, &NAMESPACE, label, object)
}

fn total(object: &str, outcome: &str) -> String {
    let namespace = NAMESPACE.as_str();
    format!(
        "kafka_backup_backups_total{{namespace=\"{namespace}\",backup_name=\"{object}\",outcome=\"{outcome}\"}}"
    )
}

fn apply_objects(lab: &Lab) {
    let namespace = NAMESPACE.as_str();
    let storage = operator::storage_yaml(&NAMESPACE);
    let cluster = format!(
        "kafkaCluster: {{bootstrapServers: [\"{}\"]}}",
        SOURCE.bootstrap(lab)
    );
    let backup = |name: &str, topic: &str, more: &str| {
        format!(
            "---\napiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaBackup\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {cluster}\n  topics: [{topic}]\n{more}{storage}"
        )
    };
    let offsets = |kind: &str, name: &str, more: &str| {
        format!(
            "---\napiVersion: kafka-backup.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  {cluster}\n{more}"
        )
    };
    let yaml = [
        backup("good", TOPIC, ""),
        backup("bad", "t-alerts-no-such-topic", ""),
        // Admission does not know the zones.
        backup(
            "invalid",
            TOPIC,
            "  schedule: \"@hourly\"\n  timeZone: Europe/Nowhere\n",
        ),
        format!(
            "---\napiVersion: kafka-backup.dev/v1alpha1\nkind: KafkaRestore\nmetadata: {{name: lost, namespace: {namespace}}}\nspec:\n  targetCluster: {{bootstrapServers: [\"{}\"]}}\n  archive: {namespace}/nobody\n  backupId: latest\n  topics: [\"*\"]\n{storage}",
            SOURCE.bootstrap(lab)
        ),
        offsets(
            "KafkaOffsetReset",
            "stray",
            "  consumerGroups: [t-alerts-nobody]\n  strategy: earliest\n",
        ),
        offsets(
            "KafkaOffsetRollback",
            "never",
            "  operation: rollback\n  snapshotId: never\n  job: {startDeadlineSeconds: 5}\n",
        ),
    ];
    operator::apply(lab, "alerts", &yaml.concat()).unwrap();
}

#[test]
fn the_promised_queries_panels_and_alerts_work_through_failures_restarts_and_deletions() {
    let namespace = NAMESPACE.as_str();
    let lab = Lab::open().unwrap();
    let source = SOURCE.bootstrap(&lab);
    if !tools::list_topics(&lab, &source)
        .unwrap()
        .contains(&TOPIC.to_owned())
    {
        let what = Produce {
            topic: TOPIC,
            partitions: 2,
            records: 1000,
            ..Produce::default()
        };
        tools::produce(&lab, &source, &what).unwrap();
    }
    operator::fresh_namespace(&lab, &NAMESPACE).unwrap();
    let rules = Rules::load(&lab).unwrap();
    apply_objects(&lab);

    // The first failure of an object ever is seen: it was 0 before it was 1.
    until(&lab, &firing("KafkaBackupFailed", "backup_name", "bad"));
    until(&lab, &firing("KafkaRestoreFailed", "restore_name", "lost"));
    until(
        &lab,
        &firing("KafkaOffsetResetFailed", "reset_name", "stray"),
    );
    until(
        &lab,
        &firing("KafkaOffsetRollbackFailed", "rollback_name", "never"),
    );
    let good = until(&lab, &format!("{} == 1", total("good", "success")));
    assert_eq!(
        good[0].0["namespace"],
        json!(*NAMESPACE),
        "honour the labels: {good:?}"
    );
    until(
        &lab,
        &format!("kafka_backup_resource_status{{namespace=\"{namespace}\",name=\"invalid\"}} == 0"),
    );
    assert!(query(&lab, &firing("KafkaBackupFailed", "backup_name", "good")).is_empty());

    // What the worker measured of itself, with the labels of its object.
    let worker = format!("namespace=\"{namespace}\",kind=\"KafkaBackup\",name=\"good\"");
    until(
        &lab,
        &format!("kafka_backup_worker_bytes_total{{{worker},stage=\"stored\"}} > 0"),
    );
    until(
        &lab,
        &format!(
            "kafka_backup_worker_request_duration_seconds_count{{{worker},peer=\"kafka\",request=\"fetch\"}} > 0"
        ),
    );

    let of_ours = format!("{{namespace=\"{namespace}\"}}");
    let records = query(&lab, &format!("kafka_backup_backup_records_total{of_ours}"));
    let good = records
        .iter()
        .find(|(labels, _)| labels["backup_name"] == "good");
    assert_eq!(good.map(|(_, value)| *value), Some(1000.0), "{records:?}");
    panels_and_queries(&lab);

    operator::kubectl(
        &lab,
        &[
            "--namespace",
            operator::NAMESPACE,
            "rollout",
            "restart",
            &format!("deployment/{}", operator::NAME),
        ],
    )
    .unwrap();
    operator::rolled_out(&lab, operator::NAMESPACE).unwrap();
    // Its own counters begin anew: then it is the new one that was scraped.
    until(
        &lab,
        "resets(kafka_backup_operator_workqueue_adds_total{controller=\"backup\"}[2m]) > 0 and on() kafka_backup_operator_leader == 1",
    );
    for family in [
        "backups_total",
        "restores_total",
        "backup_duration_seconds_count",
        "backup_records_total",
    ] {
        let resets = format!("resets(kafka_backup_{family}{of_ours}[5m]) > 0");
        assert_eq!(query(&lab, &resets).len(), 0, "a restart is no reset");
    }
    assert_eq!(query(&lab, &total("good", "success"))[0].1, 1.0);
    let failures = query(
        &lab,
        &format!("max_over_time({}[10m])", total("bad", "failure")),
    );
    assert_eq!(failures[0].1, 1.0);
    assert!(query(&lab, &firing("KafkaBackupFailed", "backup_name", "good")).is_empty());

    operator::kubectl(
        &lab,
        &[
            "--namespace",
            &NAMESPACE,
            "delete",
            "kafkabackup",
            "good",
            "bad",
        ],
    )
    .unwrap();
    until_gone(
        &lab,
        &format!(
            "{{__name__=~\"kafka_backup_.+\",namespace=\"{namespace}\",backup_name=~\"good|bad\"}}"
        ),
    );
    // KafkaBackupFailed looks back for an hour, also at an object that is gone; what asks for the last success has nothing to ask of.
    until_gone(
        &lab,
        &format!("time() - kafka_backup_last_successful_backup_timestamp{of_ours}"),
    );

    let health = prometheus::get(&lab, "/api/v1/rules").unwrap();
    let health: Value = serde_json::from_str(&health).unwrap();
    let groups = health["data"]["groups"].as_array().unwrap();
    let rules_of = groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap());
    let mut count = 0;
    for rule in rules_of {
        assert_eq!(rule["health"], "ok", "{rule}");
        count += 1;
    }
    assert!(count >= 12, "{count} rules");
    drop(rules);
    operator::kubectl(&lab, &["delete", "namespace", &NAMESPACE, "--wait=false"]).unwrap();
}

/// Each is one that Prometheus can evaluate; those about what there is at this moment have an answer.
fn panels_and_queries(lab: &Lab) {
    let namespace = NAMESPACE.as_str();
    let rate = "sum(rate(kafka_backup_backups_total{outcome=\"success\"}[24h])) /\nsum(rate(kafka_backup_backups_total[24h]))";
    let ratio = until(lab, &format!("({rate}) > 0"))[0].1;
    assert!(ratio <= 1.0, "{ratio}");
    let failed = until(
        lab,
        "sum(increase(kafka_backup_backups_total{outcome=\"failure\"}[1h])) by (backup_name) > 0",
    );
    assert!(
        failed
            .iter()
            .any(|(labels, _)| labels["backup_name"] == "bad"),
        "{failed:?}"
    );
    let slowest = until(
        lab,
        "histogram_quantile(0.99,\nsum(rate(kafka_backup_backup_duration_seconds_bucket[1h])) by (le, backup_name)\n) > 0",
    );
    assert!(
        slowest
            .iter()
            .any(|(labels, _)| labels["backup_name"] == "good"),
        "{slowest:?}"
    );
    let since = query(
        lab,
        "time() - kafka_backup_last_successful_backup_timestamp",
    );
    let ours = since
        .iter()
        .filter(|(labels, _)| labels["namespace"] == *NAMESPACE);
    let ours: Vec<_> = ours
        .map(|(labels, seconds)| (&labels["backup_name"], *seconds))
        .collect();
    assert!(
        matches!(ours.as_slice(), [(name, 0.0..300.0)] if *name == "good"),
        "{since:?}"
    );
    let errors = query(
        lab,
        "sum(rate(kafka_backup_operator_reconciliation_errors_total[5m])) by (controller)",
    );
    // Counted by object: the kinds of which there are objects, which may be more than this test's.
    for controller in ["backup", "restore"] {
        let is = |(labels, _): &(Value, f64)| labels["controller"] == controller;
        assert!(errors.iter().any(is), "{errors:?}");
    }
    assert_eq!(query(lab, "kafka_backup_operator_workqueue_depth").len(), 4);
    until(
        lab,
        &format!(
            "kafka_backup_backup_duration_seconds{{namespace=\"{namespace}\",backup_name=\"good\"}}"
        ),
    );

    let dashboard = workspace().join("manifests/monitoring/dashboard.json");
    let dashboard = std::fs::read_to_string(dashboard).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let mut count = 0;
    for target in targets {
        let expression = target["expr"].as_str().unwrap();
        query(lab, &expression.replace("$__rate_interval", "5m"));
        count += 1;
    }
    assert!(count >= 7, "{count} targets");
}
