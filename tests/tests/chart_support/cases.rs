//! What each value of the chart changes: for every leaf of values.yaml a case, see [`cases`].

use serde_json::{Value, json};

/// A value, what it needs beside it, and what becomes of it.
pub struct Case {
    /// Its path in values.yaml, with dots.
    pub leaf: &'static str,
    /// Other values, without which it has no effect.
    pub with: Vec<(&'static str, Value)>,
    /// Another value than the default.
    pub value: Value,
    /// The place that it changes, each with what stands there then.
    pub becomes: Vec<(Place, Value)>,
}

/// Kind of an object, with the end of its name where there are several, and a JSON pointer in it. A workload has its flags in `/args` and its variables in `/env`, by name.
pub type Place = (&'static str, &'static str);

const DEPLOYMENT: &str = "Deployment";

fn case(
    leaf: &'static str,
    with: &[(&'static str, Value)],
    value: Value,
    becomes: &[(Place, Value)],
) -> Case {
    Case {
        leaf,
        with: with.to_vec(),
        value,
        becomes: becomes.to_vec(),
    }
}

/// A value that becomes this flag of the controller.
fn flag(leaf: &'static str, value: Value, place: &'static str, is: Value) -> Case {
    case(leaf, &[], value, &[((DEPLOYMENT, place), is)])
}

/// All of them.
pub fn cases() -> Vec<Case> {
    [
        images(),
        controller(),
        pod(),
        cluster(),
        metrics(),
        rules(),
        policies(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn images() -> Vec<Case> {
    const CONTROLLER: &str = "/spec/template/spec/containers/0/image";
    const WORKER: &str = "/args/--worker-image";
    let digest = format!("sha256:{}", "a".repeat(64));
    let of = |place: &'static str, image: String| [((DEPLOYMENT, place), json!(image))];
    let version = env!("CARGO_PKG_VERSION");
    let repository = |name: &str| format!("r.example:5000/{name}:{version}");
    let tag = |name: &str| format!("kafka-backup.local/{name}:v9");
    let pinned = |name: &str| format!("kafka-backup.local/{name}@{digest}");
    vec![
        case(
            "image.controller.repository",
            &[],
            json!("r.example:5000/controller"),
            &of(CONTROLLER, repository("controller")),
        ),
        case(
            "image.controller.tag",
            &[],
            json!("v9"),
            &of(CONTROLLER, tag("controller")),
        ),
        case(
            "image.controller.digest",
            &[],
            json!(digest),
            &of(CONTROLLER, pinned("controller")),
        ),
        case(
            "image.controller.pullPolicy",
            &[],
            json!("Always"),
            &[(
                (
                    DEPLOYMENT,
                    "/spec/template/spec/containers/0/imagePullPolicy",
                ),
                json!("Always"),
            )],
        ),
        case(
            "image.worker.repository",
            &[],
            json!("r.example:5000/worker"),
            &of(WORKER, repository("worker")),
        ),
        case(
            "image.worker.tag",
            &[],
            json!("v9"),
            &of(WORKER, tag("worker")),
        ),
        case(
            "image.worker.digest",
            &[],
            json!(digest),
            &of(WORKER, pinned("worker")),
        ),
        case(
            "imagePullSecrets",
            &[],
            json!([{"name": "registry"}]),
            &[(
                (DEPLOYMENT, "/spec/template/spec/imagePullSecrets"),
                json!([{"name": "registry"}]),
            )],
        ),
    ]
}

fn controller() -> Vec<Case> {
    let secret = ("pushToken.existingSecret", json!("s"));
    let key = "/spec/template/spec/volumes/0/secret/items/0/key";
    vec![
        case(
            "replicaCount",
            &[],
            json!(2),
            &[((DEPLOYMENT, "/spec/replicas"), json!(2))],
        ),
        case(
            "watchNamespace",
            &[],
            json!("shop"),
            &[
                ((DEPLOYMENT, "/args/--watch-namespace"), json!("shop")),
                (
                    ("Service", "/spec/selector/kafka-backup.dev~1leader-of"),
                    json!("shop"),
                ),
                (("Role:.kafka-backup", "/metadata/namespace"), json!("shop")),
            ],
        ),
        case(
            "leaderElection.enabled",
            &[],
            json!(false),
            &[
                ((DEPLOYMENT, "/args/--no-leader-election"), json!(true)),
                ((DEPLOYMENT, "/spec/strategy/type"), json!("Recreate")),
                (("Role:-leader", "/rules/0/resources"), json!(["pods"])),
            ],
        ),
        flag("limits.runs", json!(7), "/args/--limit-runs", json!("7")),
        flag(
            "limits.runsPerNamespace",
            json!(3_000_000),
            "/args/--limit-runs-per-namespace",
            json!("3000000"),
        ),
        flag("hold", json!("2m"), "/args/--hold", json!("2m")),
        flag(
            "logging.format",
            json!("text"),
            "/args/--log-format",
            json!("text"),
        ),
        flag(
            "logging.level",
            json!("debug"),
            "/env/RUST_LOG/value",
            json!("debug"),
        ),
        flag(
            "env",
            json!([{"name": "HTTPS_PROXY", "value": "http://p:1"}]),
            "/env/HTTPS_PROXY/value",
            json!("http://p:1"),
        ),
        case(
            "pushToken.existingSecret",
            &[],
            json!("s"),
            &[
                (
                    (DEPLOYMENT, "/args/--push-token-file"),
                    json!("/etc/kafka-backup/push/token"),
                ),
                (
                    (
                        DEPLOYMENT,
                        "/spec/template/spec/volumes/0/secret/secretName",
                    ),
                    json!("s"),
                ),
                (
                    (
                        DEPLOYMENT,
                        "/spec/template/spec/containers/0/volumeMounts/0/mountPath",
                    ),
                    json!("/etc/kafka-backup/push"),
                ),
            ],
        ),
        case(
            "pushToken.key",
            &[secret],
            json!("k"),
            &[((DEPLOYMENT, key), json!("k"))],
        ),
        case(
            "pushTls.existingSecret",
            &[],
            json!("s"),
            &[
                (
                    (DEPLOYMENT, "/args/--push-tls-cert"),
                    json!("/etc/kafka-backup/push-tls/tls.crt"),
                ),
                (
                    (DEPLOYMENT, "/args/--push-ca-file"),
                    json!("/etc/kafka-backup/push-tls/ca.crt"),
                ),
                (
                    (
                        DEPLOYMENT,
                        "/spec/template/spec/volumes/0/secret/secretName",
                    ),
                    json!("s"),
                ),
                (("Service", "/spec/ports/1/name"), json!("push")),
            ],
        ),
        case(
            "pushTls.port",
            &[("pushTls.existingSecret", json!("s"))],
            json!(9443),
            &[
                ((DEPLOYMENT, "/args/--push-addr"), json!("0.0.0.0:9443")),
                (("Service", "/spec/ports/1/port"), json!(9443)),
            ],
        ),
        flag(
            "pushMaxSeries",
            json!(2_000_000),
            "/args/--push-max-series",
            json!("2000000"),
        ),
    ]
}

fn pod() -> Vec<Case> {
    let taint = json!([{"key": "a", "operator": "Exists", "effect": "NoSchedule"}]);
    let affinity = json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{
        "weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}},
    }]}});
    let resources = |place: &'static str, value: &str| [((DEPLOYMENT, place), json!(value))];
    vec![
        case(
            "resources.requests.cpu",
            &[],
            json!("1"),
            &resources(
                "/spec/template/spec/containers/0/resources/requests/cpu",
                "1",
            ),
        ),
        case(
            "resources.requests.memory",
            &[],
            json!("1Gi"),
            &resources(
                "/spec/template/spec/containers/0/resources/requests/memory",
                "1Gi",
            ),
        ),
        case(
            "resources.limits.memory",
            &[],
            json!("2Gi"),
            &resources(
                "/spec/template/spec/containers/0/resources/limits/memory",
                "2Gi",
            ),
        ),
        case(
            "nodeSelector",
            &[],
            json!({"disk": "ssd"}),
            &[(
                (DEPLOYMENT, "/spec/template/spec/nodeSelector"),
                json!({"disk": "ssd"}),
            )],
        ),
        case(
            "tolerations",
            &[],
            taint.clone(),
            &[((DEPLOYMENT, "/spec/template/spec/tolerations"), taint)],
        ),
        case(
            "affinity",
            &[],
            affinity.clone(),
            &[((DEPLOYMENT, "/spec/template/spec/affinity"), affinity)],
        ),
        case(
            "serviceAccount.create",
            &[("serviceAccount.name", json!("own"))],
            json!(false),
            &[(("ServiceAccount", "/kind"), Value::Null)],
        ),
        case(
            "serviceAccount.name",
            &[],
            json!("own"),
            &[
                (("ServiceAccount", "/metadata/name"), json!("own")),
                (
                    (DEPLOYMENT, "/spec/template/spec/serviceAccountName"),
                    json!("own"),
                ),
                (("ClusterRoleBinding", "/subjects/0/name"), json!("own")),
                (("RoleBinding", "/subjects/0/name"), json!("own")),
            ],
        ),
        case(
            "serviceAccount.annotations",
            &[],
            json!({"a": "b"}),
            &[(
                ("ServiceAccount", "/metadata/annotations"),
                json!({"a": "b"}),
            )],
        ),
    ]
}

fn cluster() -> Vec<Case> {
    vec![case(
        "crds.install",
        &[],
        json!(false),
        &[(("CustomResourceDefinition", "/kind"), Value::Null)],
    )]
}

fn metrics() -> Vec<Case> {
    let monitor = ("metrics.serviceMonitor.enabled", json!(true));
    let with = [monitor.clone()];
    const MONITOR: &str = "ServiceMonitor";
    vec![
        case(
            "metrics.enabled",
            &with,
            json!(false),
            &[
                ((DEPLOYMENT, "/args/--no-metrics"), json!(true)),
                ((MONITOR, "/kind"), Value::Null),
            ],
        ),
        case(
            "metrics.port",
            &[],
            json!(9090),
            &[
                ((DEPLOYMENT, "/args/--metrics-addr"), json!("0.0.0.0:9090")),
                (
                    (DEPLOYMENT, "/args/--push-url"),
                    json!("http://kafka-backup-operator.kafka-backup.svc:9090"),
                ),
                (
                    (
                        DEPLOYMENT,
                        "/spec/template/spec/containers/0/ports/0/containerPort",
                    ),
                    json!(9090),
                ),
                (("Service", "/spec/ports/0/port"), json!(9090)),
            ],
        ),
        case(
            "metrics.path",
            &with,
            json!("/kafka/metrics"),
            &[
                (
                    (DEPLOYMENT, "/args/--metrics-path"),
                    json!("/kafka/metrics"),
                ),
                ((MONITOR, "/spec/endpoints/0/path"), json!("/kafka/metrics")),
            ],
        ),
        case(
            "metrics.serviceMonitor.enabled",
            &[],
            json!(true),
            &[((MONITOR, "/kind"), json!(MONITOR))],
        ),
        case(
            "metrics.serviceMonitor.namespace",
            &with,
            json!("monitoring"),
            &[((MONITOR, "/metadata/namespace"), json!("monitoring"))],
        ),
        case(
            "metrics.serviceMonitor.interval",
            &with,
            json!("1m"),
            &[((MONITOR, "/spec/endpoints/0/interval"), json!("1m"))],
        ),
        case(
            "metrics.serviceMonitor.labels",
            &with,
            json!({"release": "prometheus"}),
            &[(
                (MONITOR, "/metadata/labels"),
                json!({"release": "prometheus"}),
            )],
        ),
        case(
            "dashboard.enabled",
            &[],
            json!(true),
            &[(
                ("ConfigMap", "/metadata/name"),
                json!("kafka-backup-dashboard"),
            )],
        ),
        case(
            "dashboard.namespace",
            &[("dashboard.enabled", json!(true))],
            json!("monitoring"),
            &[(("ConfigMap", "/metadata/namespace"), json!("monitoring"))],
        ),
        case(
            "dashboard.labels.grafana_dashboard",
            &[("dashboard.enabled", json!(true))],
            json!("yes"),
            &[(
                ("ConfigMap", "/metadata/labels/grafana_dashboard"),
                json!("yes"),
            )],
        ),
    ]
}

const ALERTS: [(&str, &str); 14] = [
    (
        "prometheusRule.alerts.KafkaBackupFailed.enabled",
        "/alerts/KafkaBackupFailed",
    ),
    (
        "prometheusRule.alerts.KafkaBackupMissing.enabled",
        "/alerts/KafkaBackupMissing",
    ),
    (
        "prometheusRule.alerts.KafkaBackupSlow.enabled",
        "/alerts/KafkaBackupSlow",
    ),
    (
        "prometheusRule.alerts.KafkaBackupOperatorErrors.enabled",
        "/alerts/KafkaBackupOperatorErrors",
    ),
    (
        "prometheusRule.alerts.KafkaRestoreFailed.enabled",
        "/alerts/KafkaRestoreFailed",
    ),
    (
        "prometheusRule.alerts.KafkaBackupInvalidSpec.enabled",
        "/alerts/KafkaBackupInvalidSpec",
    ),
    (
        "prometheusRule.alerts.KafkaBackupOverdue.enabled",
        "/alerts/KafkaBackupOverdue",
    ),
    (
        "prometheusRule.alerts.KafkaBackupNeverSucceeded.enabled",
        "/alerts/KafkaBackupNeverSucceeded",
    ),
    (
        "prometheusRule.alerts.KafkaBackupGaps.enabled",
        "/alerts/KafkaBackupGaps",
    ),
    (
        "prometheusRule.alerts.KafkaBackupSuspendedLong.enabled",
        "/alerts/KafkaBackupSuspendedLong",
    ),
    (
        "prometheusRule.alerts.KafkaOffsetResetFailed.enabled",
        "/alerts/KafkaOffsetResetFailed",
    ),
    (
        "prometheusRule.alerts.KafkaOffsetRollbackFailed.enabled",
        "/alerts/KafkaOffsetRollbackFailed",
    ),
    (
        "prometheusRule.alerts.KafkaBackupPushTlsNotCurrent.enabled",
        "/alerts/KafkaBackupPushTlsNotCurrent",
    ),
    (
        "prometheusRule.alerts.KafkaBackupPushFailures.enabled",
        "/alerts/KafkaBackupPushFailures",
    ),
];

fn rules() -> Vec<Case> {
    const RULE: &str = "PrometheusRule";
    let with = [("prometheusRule.enabled", json!(true))];
    let mut cases = vec![
        case(
            "prometheusRule.enabled",
            &[],
            json!(true),
            &[((RULE, "/metadata/name"), json!("kafka-backup-alerts"))],
        ),
        case(
            "prometheusRule.namespace",
            &with,
            json!("monitoring"),
            &[((RULE, "/metadata/namespace"), json!("monitoring"))],
        ),
        case(
            "prometheusRule.labels",
            &with,
            json!({"release": "prometheus"}),
            &[((RULE, "/metadata/labels"), json!({"release": "prometheus"}))],
        ),
        case(
            "prometheusRule.additionalRuleLabels",
            &with,
            json!({"team": "data"}),
            &[(
                (RULE, "/alerts/KafkaBackupFailed/labels"),
                json!({"severity": "critical", "team": "data"}),
            )],
        ),
        case(
            "prometheusRule.runbookBaseUrl",
            &with,
            json!("https://wiki.example/kafka/"),
            &[(
                (RULE, "/alerts/KafkaBackupGaps/annotations/runbook_url"),
                json!("https://wiki.example/kafka/docs/runbooks.md#kafkabackupgaps"),
            )],
        ),
    ];
    cases.extend(
        ALERTS
            .map(|(leaf, place)| case(leaf, &with, json!(false), &[((RULE, place), Value::Null)])),
    );
    cases
}

fn policies() -> Vec<Case> {
    const BUDGET: &str = "PodDisruptionBudget";
    const NETWORK: &str = "NetworkPolicy";
    let budget = [("podDisruptionBudget.enabled", json!(true))];
    let network = [("networkPolicy.enabled", json!(true))];
    let peers = json!([{"namespaceSelector": {"matchLabels": {"a": "b"}}}]);
    vec![
        case(
            "podDisruptionBudget.enabled",
            &[],
            json!(true),
            &[((BUDGET, "/kind"), json!(BUDGET))],
        ),
        case(
            "podDisruptionBudget.minAvailable",
            &budget,
            json!("50%"),
            &[
                ((BUDGET, "/spec/minAvailable"), json!("50%")),
                ((BUDGET, "/spec/maxUnavailable"), Value::Null),
            ],
        ),
        case(
            "podDisruptionBudget.maxUnavailable",
            &budget,
            json!(2),
            &[((BUDGET, "/spec/maxUnavailable"), json!(2))],
        ),
        case(
            "networkPolicy.enabled",
            &[],
            json!(true),
            &[((NETWORK, "/kind"), json!(NETWORK))],
        ),
        case(
            "networkPolicy.from",
            &network,
            peers.clone(),
            &[((NETWORK, "/spec/ingress/0/from"), peers)],
        ),
        case(
            "networkPolicy.workerNamespaces",
            &network,
            json!(["shop"]),
            &[
                (
                    ("NetworkPolicy:.workers", "/metadata/namespace"),
                    json!("shop"),
                ),
                (("NetworkPolicy:.workers", "/spec/egress"), json!([{}])),
            ],
        ),
    ]
}
