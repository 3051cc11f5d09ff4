//! The chart as Helm renders it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part, and fails by panicking"
)]

pub mod cases;

use std::sync::OnceLock;

use kafka_backup_tests::lab::{Lab, chain, helm};
use serde_json::{Map, Value, json};

use crate::golden::{read, yaml};

pub const CHART: &str = "charts/kafka-backup-operator";

/// What the page of metrics names.
pub const RELEASE: &str = "kafka-backup-operator";

pub const NAMESPACE: &str = "kafka-backup";

/// The values of the page, as it has them.
pub const PAGE: &str = "
metrics:
  enabled: true
  port: 8080
  path: /metrics

  serviceMonitor:
    enabled: true
    namespace: monitoring
    interval: 30s
    labels:
      release: prometheus
";

pub fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::open().unwrap())
}

/// What the release of the page is with these values.
pub fn rendered(values: &Value) -> String {
    helm::template(lab(), RELEASE, NAMESPACE, values)
        .unwrap_or_else(|error| panic!("{}", chain(&error)))
}

pub fn documents(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let documents = documents.into_iter().filter(|document| !document.is_null());
    documents.map(with_names).collect()
}

/// The object with its lists also by name: flags, variables and alerts.
pub fn with_names(mut object: Value) -> Value {
    let list = |pointer: &str| {
        let list = object.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let by = |name: &str, list: Vec<Value>| {
        let named = list.into_iter().filter(|item| item[name].is_string());
        let named = named.map(|item| (item[name].as_str().unwrap().to_owned(), item));
        Value::Object(named.collect::<Map<_, _>>())
    };
    match object["kind"].as_str() {
        Some("Deployment") => {
            let args = list("/spec/template/spec/containers/0/args");
            let args = args.iter().map(|arg| arg.as_str().unwrap());
            let args = args.map(|arg| match arg.split_once('=') {
                Some((name, value)) => (name.to_owned(), json!(value)),
                None => (arg.to_owned(), json!(true)),
            });
            let args = args.collect::<Map<_, _>>();
            let env = by("name", list("/spec/template/spec/containers/0/env"));
            object["args"] = Value::Object(args);
            object["env"] = env;
        }
        Some("PrometheusRule") => {
            object["alerts"] = by("alert", list("/spec/groups/0/rules"));
        }
        _ => {}
    }
    object
}

/// Paths of all leaves.
pub fn leaves(values: &Value, path: &str) -> Vec<String> {
    let Some(fields) = values.as_object().filter(|fields| !fields.is_empty()) else {
        return vec![path.to_owned()];
    };
    let leaves = fields.iter().flat_map(|(name, value)| {
        let path = format!("{path}.{name}");
        leaves(value, path.trim_start_matches('.'))
    });
    leaves.collect()
}

pub fn default_values() -> Value {
    yaml(&read(&format!("{CHART}/values.yaml")))
}
