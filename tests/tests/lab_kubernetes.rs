//! The lab's Kubernetes is one: what the operator relies on works as in any other cluster.
//!
//! Needs the lab (`cargo lab test` starts it). Each test has a namespace of its own under Pod Security `restricted`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use kafka_backup_tests::lab::images::{self, Image};
use kafka_backup_tests::lab::{Lab, kubernetes, process};
use serde_json::{Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

/// A namespace that is deleted with the value.
struct Namespace {
    lab: Lab,
    name: String,
    shell: Image,
}

impl Namespace {
    fn new(claim: &str) -> Self {
        let lab = Lab::open().unwrap();
        let shell = images::of_machine(
            &lab,
            "shell",
            &["bash", "cat", "openssl", "sleep"],
            &["/bin/bash", "-c"],
        )
        .unwrap();
        kubernetes::import(&lab, &shell).unwrap_or_else(|error| panic!("{error}"));
        let namespace = Self {
            lab,
            name: format!("{claim}-{}", std::process::id()),
            shell,
        };
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        namespace.create(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace.name, "labels": labels } }));
        // The service account of the namespace is made after it; no pod is admitted before.
        namespace.kubectl(&[
            "wait",
            "--for=create",
            "serviceaccount/default",
            "--timeout=20s",
        ]);
        namespace
    }

    fn command(&self) -> Command {
        let mut command = kubernetes::kubectl(&self.lab).unwrap();
        command.args(["--namespace", &self.name]);
        command
    }

    fn kubectl(&self, args: &[&str]) -> String {
        process::run(self.command().args(args)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Sends an object to the API server; what the server says, or why it refused.
    fn send(&self, args: &[&str], object: &Value) -> Result<String, String> {
        let mut command = self.command();
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(object.to_string().as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        if output.status.success() {
            Ok(text(output.stdout))
        } else {
            Err(text(output.stderr))
        }
    }

    fn create(&self, object: &Value) {
        self.send(&["create", "--filename", "-"], object).unwrap();
    }

    /// A pod spec that `restricted` admits, running a script.
    fn script(&self, script: &str) -> Value {
        json!({
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": { "runAsNonRoot": true, "runAsUser": 10001, "fsGroup": 10001, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{
                "name": "main",
                "image": self.shell.reference,
                "args": [script],
                "securityContext": { "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } },
            }],
        })
    }

    fn job(&self, name: &str, pod: &Value, ttl: Option<u32>) -> Value {
        json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
            "spec": { "backoffLimit": 0, "ttlSecondsAfterFinished": ttl, "template": { "spec": pod } },
        })
    }

    fn pod(&self, name: &str, spec: &Value) -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": name } }, "spec": spec })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A namespace that stays is only untidy: `down` removes it.
        process::run(
            self.command()
                .args(["delete", "namespace", &self.name, "--wait=false"]),
        )
        .ok();
    }
}

#[test]
fn job_under_restricted_sees_its_secret_and_its_token() {
    let namespace = Namespace::new("job");
    namespace.kubectl(&[
        "create",
        "secret",
        "generic",
        "credentials",
        "--from-literal=password=hunter2",
    ]);
    let mut pod = namespace.script("cat /secret/password; echo; cat /token/token; echo; : 2>&- > /x || echo read-only; echo counted > /dev/termination-log");
    pod["volumes"] = json!([
        { "name": "secret", "secret": { "secretName": "credentials", "defaultMode": 0o440 } },
        { "name": "token", "projected": { "sources": [{ "serviceAccountToken": { "audience": "lab", "expirationSeconds": 600, "path": "token" } }] } },
    ]);
    pod["containers"][0]["volumeMounts"] = json!([{ "name": "secret", "mountPath": "/secret" }, { "name": "token", "mountPath": "/token" }]);
    namespace.create(&namespace.job("reader", &pod, None));
    namespace.kubectl(&[
        "wait",
        "--for=condition=Complete",
        "job/reader",
        "--timeout=60s",
    ]);

    let log = namespace.kubectl(&["logs", "job/reader"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.first(), Some(&"hunter2"), "{log}");
    assert_eq!(lines.last(), Some(&"read-only"), "{log}");
    let message = "jsonpath={.items[0].status.containerStatuses[0].state.terminated.message}";
    assert_eq!(
        namespace
            .kubectl(&["get", "pods", "--output", message])
            .trim(),
        "counted"
    );

    let review = |audience: &str| -> Value {
        let spec = json!({ "token": lines[1], "audiences": [audience] });
        let object = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec });
        let answer = namespace
            .send(&["create", "--output=json", "--filename", "-"], &object)
            .unwrap();
        serde_json::from_str::<Value>(&answer).unwrap()["status"].take()
    };
    let right = review("lab");
    assert_eq!(right["authenticated"], true, "{right}");
    assert_eq!(
        right["user"]["username"],
        format!("system:serviceaccount:{}:default", namespace.name)
    );
    let wrong = review("another");
    assert_ne!(wrong["authenticated"], true, "{wrong}");
}

#[test]
fn finished_job_is_deleted_after_its_time() {
    let namespace = Namespace::new("ttl");
    namespace.create(&namespace.job("short", &namespace.script("true"), Some(0)));
    namespace.kubectl(&["wait", "--for=delete", "job/short", "--timeout=60s"]);
}

#[test]
fn pod_that_asks_for_more_than_restricted_is_refused() {
    let namespace = Namespace::new("refused");
    let mut pod = namespace.script("true");
    pod["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
    let refusal = namespace
        .send(
            &["create", "--filename", "-"],
            &namespace.pod("greedy", &pod),
        )
        .unwrap_err();
    assert!(refusal.contains("violates PodSecurity"), "{refusal}");
}

#[test]
fn services_are_reached_by_name_and_nothing_outside_is() {
    let namespace = Namespace::new("service");
    let mut server = namespace.script("exec /bin/openssl s_server -nocert -quiet -port 8443");
    server["containers"][0]["readinessProbe"] =
        json!({ "tcpSocket": { "port": 8443 }, "periodSeconds": 1 });
    namespace.create(&namespace.pod("web", &server));
    let spec =
        json!({ "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": 8443 }] });
    namespace.create(&json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web" }, "spec": spec }));
    namespace.kubectl(&["wait", "--for=condition=Ready", "pod/web", "--timeout=60s"]);

    let script = "for to in web/80 kubernetes.default/443 192.0.2.1/80; do (: < /dev/tcp/$to) && echo $to open || echo $to closed; done";
    let open = |log: &str, to: &str| log.lines().any(|line| line == format!("{to} open"));
    namespace.create(&namespace.pod("client", &namespace.script(script)));
    namespace.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Succeeded",
        "pod/client",
        "--timeout=60s",
    ]);
    let log = namespace.kubectl(&["logs", "client"]);
    assert!(
        open(&log, "web/80") && open(&log, "kubernetes.default/443"),
        "{log}"
    );
    assert!(
        log.contains("Network is unreachable") && !open(&log, "192.0.2.1/80"),
        "{log}"
    );

    let said = namespace.kubectl(&[
        "exec",
        "web",
        "--",
        "/bin/bash",
        "-c",
        "echo from inside as $UID",
    ]);
    assert_eq!(said.trim(), "from inside as 10001");
}
