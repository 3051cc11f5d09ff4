//! What the Helm chart renders: the manifests of the tree, permissions, names, and the document's table. `GOLDEN=write` writes the files.
//! Needs Go the first time, for Helm.
#![allow(clippy::unwrap_used, reason = "a test")]

mod chart_support;
mod golden;

use std::collections::{BTreeMap, BTreeSet};

use chart_support::{
    CHART, NAMESPACE, PAGE, RELEASE, default_values, documents, lab, leaves, rendered,
};
use golden::{assert_golden, assert_golden_part, holds, read, yaml};
use kafka_backup_tests::lab::helm;
use serde_json::{Value, json};

#[test]
fn the_chart_is_of_the_programs_version() {
    let chart = yaml(&read(&format!("{CHART}/Chart.yaml")));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(version), &json!(version))
    );
    assert_eq!(chart["kubeVersion"], ">=1.31.0-0");
}

#[test]
fn the_manifest_for_kubectl_is_rendered() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: kafka-backup\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n";
    let text = format!(
        "# Rendered from {CHART} with its default values; do not edit.\n---\n{namespace}{}",
        rendered(&Value::Null)
    );
    assert_golden("manifests/install.yaml", &text);
    let has_namespace = |document: &Value| document["kind"] == "Namespace";
    let own = documents(&rendered(&Value::Null));
    assert!(!own.iter().any(has_namespace), "a namespace is its owner's");
}

/// The only document of a template, without the line that says where it is from.
fn only(values: &Value, template: &str) -> String {
    let text = rendered(values);
    let source = format!("# Source: kafka-backup-operator/templates/{template}\n");
    let mut found = text
        .split("---\n")
        .filter_map(|part| part.strip_prefix(&source));
    let document = found.next().unwrap().to_owned();
    assert!(found.next().is_none(), "{template}");
    format!("# Rendered from {CHART}; do not edit.\n{document}")
}

#[test]
fn the_monitoring_manifests_are_rendered() {
    let place =
        json!({"enabled": true, "namespace": "monitoring", "labels": {"release": "prometheus"}});
    let values = json!({
        "crds": {"install": false},
        "metrics": yaml(PAGE)["metrics"],
        "prometheusRule": place,
        "dashboard": {"enabled": true, "namespace": "monitoring"},
    });
    for (template, file) in [
        ("servicemonitor.yaml", "servicemonitor.yaml"),
        ("prometheusrule.yaml", "prometheusrule.yaml"),
        ("dashboard.yaml", "dashboard-configmap.yaml"),
    ] {
        assert_golden(
            &format!("manifests/monitoring/{file}"),
            &only(&values, template),
        );
    }
    let dashboard = read(&format!("{CHART}/files/dashboard.json"));
    assert_golden("manifests/monitoring/dashboard.json", &dashboard);
}

#[test]
fn the_values_of_the_page_make_its_service_monitor() {
    let values = yaml(PAGE);
    let objects = documents(&rendered(&values));
    let monitor = objects
        .iter()
        .find(|object| object["kind"] == "ServiceMonitor")
        .unwrap();
    let promised = yaml(&read(
        "tests/assets/monitoring/promised/servicemonitor.yaml",
    ));
    assert!(holds(monitor, &promised), "{monitor:#}");
    assert_eq!(monitor["spec"]["selector"], promised["spec"]["selector"]);
    // The deployment and port of its port-forward line.
    let deployment = objects
        .iter()
        .find(|object| object["kind"] == "Deployment")
        .unwrap();
    assert_eq!(deployment["metadata"]["name"], "kafka-backup-operator");
    assert_eq!(deployment["metadata"]["namespace"], "kafka-backup");
    assert_eq!(
        deployment["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"],
        8080
    );
}

#[test]
fn the_alerts_are_those_of_the_rules() {
    let rules = yaml(&read(&format!("{CHART}/files/rules.yaml")));
    let alerts = rules.as_array().unwrap().iter();
    let alerts: BTreeSet<&str> = alerts.filter_map(|rule| rule["alert"].as_str()).collect();
    let values = default_values();
    let switches = values["prometheusRule"]["alerts"].as_object().unwrap();
    assert_eq!(
        switches.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        alerts
    );
}

/// Role, place and subject of each binding, cluster-wide ones without a place.
fn bindings(objects: &[Value]) -> BTreeSet<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let bindings = objects
        .iter()
        .filter(|object| object["roleRef"].is_object());
    bindings
        .map(|binding| {
            (
                text(&binding["metadata"]["namespace"]),
                text(&binding["roleRef"]["name"]),
            )
        })
        .collect()
}

/// What the life of a run needs: no Secrets, and no more than is used.
const WORK: [(&str, &str); 13] = [
    ("kafkabackups", "get list watch"),
    ("kafkarestores", "get list watch"),
    ("kafkaoffsetresets", "get list watch"),
    ("kafkaoffsetrollbacks", "get list watch"),
    ("kafkabackups/status", "patch"),
    ("kafkarestores/status", "patch"),
    ("kafkaoffsetresets/status", "patch"),
    ("kafkaoffsetrollbacks/status", "patch"),
    ("jobs", "create delete get list patch watch"),
    ("pods", "delete get list watch"),
    ("pods/status", "patch"),
    ("configmaps", "create delete get"),
    ("events", "create list patch"),
];

const REVIEWS: (&str, &str) = ("tokenreviews", "create");

/// The rules of a role, one entry per resource.
fn rules(objects: &[Value], kind: &str, name: &str) -> BTreeMap<String, Vec<String>> {
    let role = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    let strings = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let mut found = BTreeMap::new();
    for rule in role.unwrap()["rules"].as_array().unwrap() {
        for resource in strings(&rule["resources"]) {
            let only = strings(&rule["resourceNames"]).concat();
            let key = format!("{resource}/{only}")
                .trim_end_matches('/')
                .to_owned();
            found.insert(key, strings(&rule["verbs"]));
        }
    }
    found
}

/// Where a role is bound, and which.
fn place(namespace: &str, role: &str) -> (String, String) {
    (namespace.to_owned(), role.to_owned())
}

fn expected(rules: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
    let verbs = |verbs: &str| verbs.split(' ').map(str::to_owned).collect();
    rules
        .iter()
        .map(|(resource, all)| ((*resource).to_owned(), verbs(all)))
        .collect()
}

#[test]
fn the_controller_may_do_what_its_code_does_and_nothing_else() {
    let objects = documents(&rendered(&Value::Null));
    let name = "kafka-backup-operator.kafka-backup";
    assert_eq!(
        bindings(&objects),
        BTreeSet::from([
            place("", name),
            place(NAMESPACE, "kafka-backup-operator-leader")
        ])
    );
    assert_eq!(
        rules(&objects, "ClusterRole", name),
        expected(&[&WORK[..], &[REVIEWS]].concat())
    );
    let leader = [
        ("leases", "create"),
        ("leases/kafka-backup-operator", "get update"),
        ("pods", "list patch"),
    ];
    assert_eq!(
        rules(&objects, "Role", "kafka-backup-operator-leader"),
        expected(&leader)
    );
}

#[test]
fn a_controller_of_one_namespace_may_do_nothing_elsewhere() {
    let objects = documents(&rendered(&json!({"watchNamespace": "shop"})));
    let name = "kafka-backup-operator.kafka-backup";
    assert_eq!(
        bindings(&objects),
        BTreeSet::from([
            place("", name),
            place("shop", name),
            place(NAMESPACE, "kafka-backup-operator-leader"),
        ])
    );
    assert_eq!(rules(&objects, "ClusterRole", name), expected(&[REVIEWS]));
    assert_eq!(rules(&objects, "Role", name), expected(&WORK));
    let leader = rules(&objects, "Role", "kafka-backup-operator-leader");
    assert!(
        leader.contains_key("leases/kafka-backup-operator.shop"),
        "{leader:?}"
    );
}

#[test]
fn users_get_the_kinds_by_edit_and_view() {
    let objects = documents(&rendered(&Value::Null));
    for (name, to, verbs) in [
        (
            "edit",
            &["admin", "edit"][..],
            "create delete deletecollection get list patch update watch",
        ),
        ("view", &["view"], "get list watch"),
    ] {
        let name = format!("kafka-backup-operator.kafka-backup-{name}");
        let kinds: Vec<_> = WORK[..4].iter().map(|(kind, _)| (*kind, verbs)).collect();
        assert_eq!(rules(&objects, "ClusterRole", &name), expected(&kinds));
        let role = objects
            .iter()
            .find(|object| object["metadata"]["name"] == *name)
            .unwrap();
        let labels = role["metadata"]["labels"].as_object().unwrap();
        let prefix = "rbac.authorization.k8s.io/aggregate-to-";
        let aggregated: Vec<&str> = labels
            .keys()
            .filter_map(|label| label.strip_prefix(prefix))
            .collect();
        assert_eq!(aggregated, to);
    }
}

/// Two releases have no object in common but the CRDs: neither of one name in two namespaces, nor of two names in one.
#[test]
fn releases_do_not_clash() {
    let ids = |release: &str, namespace: &str| {
        let values = json!({
            "crds": {"install": false}, "watchNamespace": "shop", "networkPolicy": {"enabled": true},
            "metrics": {"serviceMonitor": {"enabled": true}}, "prometheusRule": {"enabled": true}, "dashboard": {"enabled": true},
        });
        let text = helm::template(lab(), release, namespace, &values).unwrap();
        let id = |object: &Value| {
            ["kind", "namespace", "name"].map(|part| {
                let value = if part == "kind" {
                    &object["kind"]
                } else {
                    &object["metadata"][part]
                };
                value.as_str().unwrap_or_default().to_owned()
            })
        };
        documents(&text).iter().map(id).collect::<BTreeSet<_>>()
    };
    let first = ids(RELEASE, "a");
    assert!(first.len() > 12, "{first:?}");
    for other in [ids(RELEASE, "b"), ids("second", "a")] {
        assert_eq!(
            first.intersection(&other).collect::<Vec<_>>(),
            [&["", "", ""]; 0]
        );
    }
    // Names stay short enough for what is made of them.
    let long = "r".repeat(53);
    for id in ids(&long, "a") {
        assert!(id[2].len() <= 63, "{id:?}");
    }
}

#[test]
fn the_crds_stay_when_the_release_goes() {
    let objects = documents(&rendered(&Value::Null));
    let crds: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == "CustomResourceDefinition")
        .collect();
    assert_eq!(crds.len(), 4);
    for crd in crds {
        assert_eq!(
            crd["metadata"]["annotations"]["helm.sh/resource-policy"],
            "keep"
        );
    }
}

/// One line per value: its path, its default, and the comment above it.
fn table() -> String {
    let text = read(&format!("{CHART}/values.yaml"));
    let values = default_values();
    let mut table = "| value | default | says |\n|---|---|---|\n".to_owned();
    let (mut path, mut comment): (Vec<(usize, &str)>, Vec<&str>) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let rest = line.trim_start();
        if let Some(text) = rest.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        if let Some((key, value)) = rest.split_once(':') {
            let indent = line.len() - rest.len();
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key));
            if !value.trim().is_empty() {
                let path: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
                let pointer = format!("/{}", path.join("/"));
                let (path, default) = (path.join("."), values.pointer(&pointer).unwrap());
                assert!(!comment.is_empty(), "{path} has no comment");
                let says = comment.join(" ").replace('|', "\\|");
                table.push_str(&format!("| `{path}` | `{default}` | {says} |\n"));
            }
        }
        comment.clear();
    }
    table
}

#[test]
fn the_document_has_every_value() {
    let path = "docs/install.md";
    let table = table();
    assert_eq!(
        table.lines().count() - 2,
        leaves(&default_values(), "").len()
    );
    assert_golden_part(
        path,
        "<!-- values: generated -->\n",
        "<!-- values: end -->",
        &table,
    );
}

/// Each block of YAML in it is a file of values.
#[test]
fn the_values_that_the_document_shows_are_taken() {
    let document = read("docs/install.md");
    let blocks: Vec<&str> = document
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split_once("```").unwrap().0)
        .collect();
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        rendered(&yaml(block));
    }
    assert!(document.contains(PAGE.replace("\n\n", "\n").trim_start()));
}
