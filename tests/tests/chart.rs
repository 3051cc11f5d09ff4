//! The values of the Helm chart: what each does, and what is refused. Needs Go the first time, for Helm.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod chart_support;
mod golden;

use std::collections::BTreeSet;
use std::thread;

use chart_support::cases::{Case, Place, cases};
use chart_support::{NAMESPACE, RELEASE, default_values, documents, lab, leaves, rendered};
use kafka_backup_tests::lab::{chain, helm, process};
use serde_json::{Value, json};

/// What Helm says of values that it refuses.
fn refused(values: &Value) -> String {
    match helm::template(lab(), RELEASE, NAMESPACE, values) {
        Ok(text) => panic!("{values} is taken:\n{text}"),
        Err(error) => chain(&error),
    }
}

/// What stands at a place, null when there is nothing.
fn at<'a>(documents: &'a [Value], (object, pointer): &Place) -> &'a Value {
    let (kind, end) = object.split_once(':').unwrap_or((object, ""));
    let mut found = documents.iter().filter(|document| {
        let name = document["metadata"]["name"].as_str().unwrap();
        document["kind"] == kind && name.ends_with(end)
    });
    let place = found.next().and_then(|object| object.pointer(pointer));
    place.unwrap_or(&Value::Null)
}

/// Values with one more, at a path with dots.
fn set(values: &mut Value, path: &str, value: &Value) {
    match path.split_once('.') {
        Some((first, rest)) => set(&mut values[first], rest, value),
        None => values[path] = value.clone(),
    }
}

#[test]
fn helm_finds_nothing_to_criticise() {
    let mut command = helm::command(lab()).unwrap();
    command
        .args(["lint", "--strict", "--quiet"])
        .arg(helm::chart());
    let said = process::run(&mut command).unwrap();
    assert!(
        !said.contains("WARNING") && !said.contains("ERROR"),
        "{said}"
    );
}

#[test]
fn every_value_has_a_case_and_every_case_a_value() {
    let values: BTreeSet<String> = leaves(&default_values(), "").into_iter().collect();
    let mut cased = BTreeSet::new();
    for case in cases() {
        assert!(cased.insert(case.leaf.to_owned()), "{} twice", case.leaf);
    }
    let missing: Vec<_> = values.difference(&cased).collect();
    assert!(missing.is_empty(), "no case changes {missing:?}");
    let gone: Vec<_> = cased.difference(&values).collect();
    assert!(gone.is_empty(), "not in values.yaml: {gone:?}");
}

/// What is wrong with a case, nothing if it is as it says.
fn tried(case: &Case) -> Vec<String> {
    let mut values = json!({});
    if case.leaf != "crds.install" {
        set(&mut values, "crds.install", &json!(false));
    }
    for (path, value) in &case.with {
        set(&mut values, path, value);
    }
    let before = documents(&rendered(&values));
    set(&mut values, case.leaf, &case.value);
    let after = documents(&rendered(&values));
    let wrong = case.becomes.iter().filter_map(|(place, is)| {
        let (before, after) = (at(&before, place), at(&after, place));
        let is_so = after == is && before != after;
        (!is_so).then(|| {
            format!(
                "{} at {place:?}: {before} becomes {after}, not {is}",
                case.leaf
            )
        })
    });
    wrong.collect()
}

#[test]
fn every_value_changes_what_it_says() {
    let cases = cases();
    let half = cases.len().div_ceil(2);
    let wrong: Vec<String> = thread::scope(|scope| {
        let parts = cases.chunks(half);
        let parts =
            parts.map(|part| scope.spawn(|| part.iter().flat_map(tried).collect::<Vec<_>>()));
        let parts: Vec<_> = parts.collect();
        parts
            .into_iter()
            .flat_map(|part| part.join().unwrap())
            .collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn values_that_do_not_exist_are_refused_at_every_level() {
    let defaults = default_values();
    let sections: BTreeSet<String> = leaves(&defaults, "")
        .iter()
        .flat_map(|leaf| {
            let ends = leaf
                .match_indices('.')
                .map(|(end, _)| leaf[..end].to_owned());
            ends.collect::<Vec<_>>()
        })
        .collect();
    assert!(sections.contains("metrics.serviceMonitor"), "{sections:?}");
    // Free by their nature: names of resources, and labels.
    let free = ["resources.requests", "resources.limits", "dashboard.labels"];
    for section in sections.iter().map(String::as_str).chain([""]) {
        if free.contains(&section) {
            continue;
        }
        let mut values = json!({});
        let path = format!("{section}.unheardOf");
        set(&mut values, path.trim_start_matches('.'), &json!(true));
        let said = refused(&values);
        let place = format!("'/{}'", section.replace('.', "/")).replace("'/'", "''");
        let expected = format!("at {place}: additional properties 'unheardOf' not allowed");
        assert!(said.contains(&expected), "{said}");
    }
}

#[test]
fn values_of_another_type_are_refused_and_named() {
    let defaults = default_values();
    for leaf in leaves(&defaults, "") {
        let mut values = json!({});
        let pointer = format!("/{}", leaf.replace('.', "/"));
        let is_switch = defaults.pointer(&pointer).unwrap().is_boolean();
        let wrong = if is_switch { json!("yes") } else { json!(true) };
        set(&mut values, &leaf, &wrong);
        let said = refused(&values);
        let place = format!("at '/{}'", leaf.replace('.', "/"));
        assert!(said.contains(&place), "{leaf}: {said}");
    }
}

#[test]
fn values_that_cannot_be_are_refused() {
    for (values, says) in [
        (
            json!({"replicaCount": 2, "leaderElection": {"enabled": false}}),
            "two controllers would do the same work",
        ),
        (json!({"replicaCount": -1}), "at '/replicaCount': minimum"),
        (
            json!({"serviceAccount": {"create": false}}),
            "name the ServiceAccount that there is",
        ),
        (
            json!({"metrics": {"port": 8081}}),
            "the port of health checks",
        ),
        (
            json!({"metrics": {"port": 80}}),
            "at '/metrics/port': minimum",
        ),
        (
            json!({"metrics": {"path": "metrics"}}),
            "at '/metrics/path'",
        ),
        (
            json!({"metrics": {"path": "/metrics/own"}}),
            "pushes are taken below",
        ),
        (json!({"hold": "90"}), "at '/hold'"),
        (json!({"logging": {"level": "loud"}}), "at '/logging/level'"),
        (
            json!({"image": {"controller": {"digest": "sha256:1"}}}),
            "at '/image/controller/digest'",
        ),
        (
            json!({"env": [{"name": "RUST_LOG", "value": "x"}]}),
            "which the chart sets",
        ),
        (
            json!({"env": [{"value": "x"}]}),
            "at '/env/0': missing property 'name'",
        ),
        (
            json!({"tolerations": [{"kee": "a"}]}),
            "additional properties 'kee' not allowed",
        ),
        (
            json!({"affinity": {"podAfinity": {}}}),
            "additional properties 'podAfinity' not allowed",
        ),
        (
            json!({"networkPolicy": {"from": [{"pods": {}}]}}),
            "additional properties 'pods' not allowed",
        ),
        (
            json!({"prometheusRule": {"alerts": {"KafkaBackupSlwo": {"enabled": true}}}}),
            "'KafkaBackupSlwo' not allowed",
        ),
        (
            json!({"prometheusRule": {"additionalRuleLabels": {"severity": "x"}}}),
            "which each alert has of its own",
        ),
        (json!({"watchNamespace": "Shop"}), "at '/watchNamespace'"),
    ] {
        let said = refused(&values);
        assert!(said.contains(says), "{values}: {said}");
    }
}

#[test]
fn clusters_that_are_too_old_are_refused() {
    let mut helm = helm::command(lab()).unwrap();
    helm.args(["template", RELEASE]).arg(helm::chart());
    helm.args(["--kube-version", "1.30.9"]);
    let said = chain(&process::run(&mut helm).unwrap_err());
    assert!(said.contains("requires kubeVersion: >=1.31.0-0"), "{said}");
}
