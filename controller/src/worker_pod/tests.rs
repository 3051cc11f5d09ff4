//! What each field of `podTemplate` does to the pod, and what none of them can do.

use kafka_backup_shared::plan::Referenced;
use serde_json::{Value, json};

use super::*;
use crate::fixtures;
use crate::job;
use crate::kind::Kind;

/// The pod template of a run of an object with these additions.
fn template(additions: Value) -> Value {
    template_with(additions, None)
}

fn template_with(additions: Value, push_ca: Option<&str>) -> Value {
    let mut object = fixtures::backup();
    object.spec.pod_template = serde_json::from_value(additions).unwrap();
    object.spec.pod_template.check().unwrap();
    let settings = WorkerSettings {
        image: "worker:1".into(),
        push_url: "http://controller:8080".into(),
        push_ca: push_ca.map(str::to_owned),
    };
    let referenced = Referenced::default();
    let run = fixtures::active_run(&object);
    let job = job::build(&object, &run, &referenced, &settings).unwrap();
    assert!(object.plan("run", &referenced).is_ok());
    serde_json::to_value(job.spec.unwrap().template).unwrap()
}

/// Paths at which two values differ, down to what only one of them has.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let names: std::collections::BTreeSet<&String> =
                before.keys().chain(after.keys()).collect();
            for name in names {
                let (before, after) = (before.get(name), after.get(name));
                let null = Value::Null;
                differences(
                    &format!("{path}/{name}"),
                    before.unwrap_or(&null),
                    after.unwrap_or(&null),
                    found,
                );
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            for index in 0..before.len().max(after.len()) {
                let null = Value::Null;
                differences(
                    &format!("{path}/{index}"),
                    before.get(index).unwrap_or(&null),
                    after.get(index).unwrap_or(&null),
                    found,
                );
            }
        }
        _ if before == after => {}
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn each_field_changes_its_own_part_of_the_pod_and_nothing_else() {
    let spread =
        json!([{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]);
    let node = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}});
    let cases = [
        (
            json!({"annotations": {"a": "1"}}),
            "/metadata/annotations/a",
        ),
        (json!({"labels": {"team": "shop"}}), "/metadata/labels/team"),
        (
            json!({"nodeSelector": {"disk": "ssd"}}),
            "/spec/nodeSelector",
        ),
        (
            json!({"tolerations": [{"key": "backup", "operator": "Exists"}]}),
            "/spec/tolerations",
        ),
        (json!({"affinity": node}), "/spec/affinity"),
        (
            json!({"serviceAccountName": "archivist"}),
            "/spec/serviceAccountName",
        ),
        (
            json!({"imagePullSecrets": [{"name": "registry"}]}),
            "/spec/imagePullSecrets",
        ),
        (
            json!({"priorityClassName": "low"}),
            "/spec/priorityClassName",
        ),
        (
            json!({"securityContext": {"fsGroup": 7}}),
            "/spec/securityContext/fsGroup",
        ),
        (
            json!({"securityContext": {"supplementalGroups": [7]}}),
            "/spec/securityContext/supplementalGroups",
        ),
        (
            json!({"env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]}),
            "/spec/containers/0/env/1",
        ),
        (
            json!({"volumes": [{"name": "certs", "configMap": {"name": "ca"}}]}),
            "/spec/volumes/4",
        ),
        (
            json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["kafka"]}]}),
            "/spec/hostAliases",
        ),
        (
            json!({"topologySpreadConstraints": spread}),
            "/spec/topologySpreadConstraints",
        ),
        (
            json!({"terminationGracePeriodSeconds": 7}),
            "/spec/terminationGracePeriodSeconds",
        ),
        (
            json!({"runtimeClassName": "gvisor"}),
            "/spec/runtimeClassName",
        ),
        (
            json!({"dnsConfig": {"searches": ["shop.svc"]}}),
            "/spec/dnsConfig",
        ),
    ];
    let plain = template(json!({}));
    for (additions, path) in cases {
        let mut found = Vec::new();
        differences("", &plain, &template(additions.clone()), &mut found);
        assert_eq!(found, [path], "{additions}");
    }
}

#[test]
fn the_ca_of_the_push_is_a_variable_and_nothing_else() {
    let additions = json!({"env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}]});
    let (plain, with_ca) = (
        template(additions.clone()),
        template_with(additions, Some("PEM\n")),
    );
    let env = |template: &Value| template["spec"]["containers"][0]["env"].clone();
    let ca = json!({"name": "KAFKA_BACKUP_PUSH_CA", "value": "PEM\n"});
    assert_eq!(env(&with_ca)[1], ca);
    let mut found = Vec::new();
    differences("", &plain, &with_ca, &mut found);
    let of_env = |path: &String| path.starts_with("/spec/containers/0/env/");
    assert!(found.iter().all(of_env), "{found:?}");
}

#[test]
fn each_source_of_a_volume_reaches_the_pod_and_its_mount_the_container() {
    let sources = [
        json!({"configMap": {"name": "ca"}}),
        json!({"secret": {"secretName": "keys"}}),
        json!({"projected": {"sources": []}}),
        json!({"emptyDir": {}}),
        json!({"persistentVolumeClaim": {"claimName": "cache"}}),
        json!({"csi": {"driver": "secrets-store"}}),
    ];
    for source in sources {
        let mut volume = source.clone();
        volume["name"] = json!("extra");
        let mount = json!({"name": "extra", "mountPath": "/extra"});
        let pod = template(json!({"volumes": [volume], "volumeMounts": [mount]}));
        assert_eq!(pod["spec"]["volumes"][4], volume);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][4], mount);
    }
}

#[test]
fn a_pod_without_additions_is_restricted_and_never_best_effort() {
    let pod = &template(json!({}))["spec"];
    assert_eq!(
        pod["securityContext"],
        json!({
            "runAsNonRoot": true, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"}
        })
    );
    let worker = &pod["containers"][0];
    assert_eq!(worker["securityContext"]["allowPrivilegeEscalation"], false);
    assert_eq!(
        worker["securityContext"]["capabilities"]["drop"],
        json!(["ALL"])
    );
    assert!(worker["resources"]["requests"]["memory"].is_string());
    assert_eq!(pod["restartPolicy"], "Never");
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["automountServiceAccountToken"], false);
}
