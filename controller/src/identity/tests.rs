//! From a token's review, a pod and a Job to a run.

use super::*;
use serde_json::{Value, json};

fn review() -> Value {
    json!({
        "authenticated": true,
        "audiences": [PUSH_AUDIENCE],
        "user": {
            "username": "system:serviceaccount:default:default",
            "extra": {
                "authentication.kubernetes.io/pod-name": ["orders-1-x"],
                "authentication.kubernetes.io/pod-uid": ["pod-uid"],
            },
        },
    })
}

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "orders-1-x", "namespace": "default", "uid": "pod-uid",
            "labels": {"batch.kubernetes.io/controller-uid": "job-uid"},
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": "orders-1", "uid": "job-uid", "controller": true,
            }],
        },
    })
}

fn plan() -> Value {
    json!({
        "verb": "backup",
        "run": RunRef::example(),
        "archive": {"namespace": "default", "name": "orders"},
        "cluster": {"bootstrapServers": ["kafka:9092"]},
        "topics": {"include": ["orders"]},
        "storage": {"storageType": "pvc", "pvc": {"claimName": "archive"}},
        "isolationLevel": "read_committed",
        "segments": {"checkpointIntervalSecs": 30, "segmentMaxBytes": 65536},
    })
}

fn job(plan: &Value) -> Value {
    let owner = RunRef::example();
    json!({
        "metadata": {
            "name": "orders-1", "namespace": "default", "uid": "job-uid",
            "ownerReferences": [{
                "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup", "name": owner.name,
                "uid": owner.uid, "controller": true,
            }],
        },
        "spec": {"template": {"metadata": {"annotations": {PLAN_ANNOTATION: plan.to_string()}}}},
    })
}

fn recognise(review: Value, pod: Value, job: Value) -> Result<Worker, IdentityError> {
    let bearer = bearer(&serde_json::from_value(review).expect("a review"))?;
    let owner = job_of(&bearer, &serde_json::from_value(pod).expect("a pod"))?;
    worker(
        &bearer,
        &owner,
        &serde_json::from_value(job).expect("a Job"),
    )
}

#[test]
fn a_workers_pod_leads_to_its_run() {
    let worker = recognise(review(), pod(), job(&plan())).expect("a worker");
    assert_eq!(worker.run, RunRef::example());
    assert_eq!(
        (worker.job_uid.as_str(), worker.pod.as_str()),
        ("job-uid", "orders-1-x")
    );
}

/// Each case changes one thing.
#[test]
fn nobody_else_is_recognised() {
    let plan_of = |field: &str, value: &str| {
        let mut plan = plan();
        plan["run"][field] = value.into();
        job(&plan)
            .pointer("/spec/template/metadata/annotations")
            .cloned()
    };
    let review_cases = [
        ("/authenticated", json!(false), "not valid"),
        (
            "/audiences",
            json!(["https://kubernetes.default.svc"]),
            "not valid",
        ),
        ("/audiences", json!([]), "not valid"),
        (
            "/user/username",
            json!("admin"),
            "not one of a ServiceAccount",
        ),
        ("/user/extra", json!({}), "not bound to a pod"),
    ];
    let pod_cases = [
        ("/metadata/uid", json!("another"), "another one by now"),
        ("/metadata/ownerReferences", json!([]), "not one of a Job"),
        (
            "/metadata/ownerReferences/0/controller",
            json!(false),
            "not one of a Job",
        ),
        (
            "/metadata/ownerReferences/0/kind",
            json!("ReplicaSet"),
            "not one of a Job",
        ),
        (
            "/metadata/ownerReferences/0/apiVersion",
            json!("evil.io/v1"),
            "not one of a Job",
        ),
        ("/metadata/labels", json!({}), "its Job's label"),
    ];
    let job_cases = [
        ("/metadata/uid", json!("another"), "another one by now"),
        (
            "/metadata/ownerReferences",
            json!([]),
            "not one of a kafka-backup.dev object",
        ),
        (
            "/metadata/ownerReferences/0/apiVersion",
            json!("batch/v1"),
            "not one of a kafka-backup.dev object",
        ),
        (
            "/metadata/ownerReferences/0/uid",
            json!("another"),
            "not its owner's",
        ),
        (
            "/metadata/ownerReferences/0/name",
            json!("payments"),
            "not its owner's",
        ),
        (
            "/metadata/ownerReferences/0/kind",
            json!("KafkaRestore"),
            "not its owner's",
        ),
        (
            "/spec/template/metadata/annotations",
            json!({}),
            "no readable plan",
        ),
        (
            "/spec/template/metadata/annotations",
            plan_of("namespace", "kube-system").into(),
            "not its owner's",
        ),
    ];
    let changed = |mut object: Value, (path, value, _): &(&str, Value, &str)| {
        *object.pointer_mut(path).expect(path) = value.clone();
        object
    };
    let refused = |result: Result<Worker, IdentityError>, case: &(&str, Value, &str)| {
        let error = result.expect_err(case.0).to_string();
        assert!(error.contains(case.2), "{case:?}: {error}");
    };
    for case in &review_cases {
        refused(
            recognise(changed(review(), case), pod(), job(&plan())),
            case,
        );
    }
    for case in &pod_cases {
        refused(
            recognise(review(), changed(pod(), case), job(&plan())),
            case,
        );
    }
    for case in &job_cases {
        refused(
            recognise(review(), pod(), changed(job(&plan()), case)),
            case,
        );
    }
}

#[test]
fn only_a_bearer_header_holds_a_token() {
    assert_eq!(token(Some("Bearer a.b.c")).expect("a token"), "a.b.c");
    assert_eq!(token(Some("bearer  a ")).expect("a token"), "a");
    let long = format!("Bearer {}", "x".repeat(TOKEN_MAX + 1));
    for header in [
        None,
        Some("a.b.c"),
        Some("Basic a"),
        Some("Bearer "),
        Some(long.as_str()),
    ] {
        assert!(token(header).is_err(), "{header:?}");
    }
}

#[test]
fn a_static_token_is_read_again_when_it_changes() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = |token: &str| std::fs::write(file.path(), token).expect("written");
    let (old, new) = ("the-old-token-of-20", "the-new-token-of-20");
    let open = || StaticToken::open(file.path().to_owned());
    write("short\n");
    let short = open().err().expect("too short").to_string();
    assert!(short.contains("has 5 characters"), "{short}");
    write(&format!(" {old}\n"));
    let token = open().expect("a token");
    let later = || {
        let long_ago = Instant::now().checked_sub(TOKEN_AGE + Duration::from_secs(1));
        token.read.lock().expect("a lock").0 = long_ago.expect("a time");
    };
    write(new);
    assert!(token.is(old) && !token.is(new));
    later();
    assert!(token.is(new) && !token.is(old));
    // Unreadable: what was believed is believed on.
    std::fs::remove_file(file.path()).expect("removed");
    later();
    assert!(token.is(new));
    assert!(open().is_err());
}
