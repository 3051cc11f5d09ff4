//! Workers push to the installed controller with TLS: they know it by the CA that their Job gives them, and tell nobody else anything. The
//! files come from a Secret and change under the controller. Needs `cargo lab up` and the installed operator.
//!
//! A file of its own: the operator has other arguments meanwhile.
#![allow(clippy::unwrap_used, reason = "a test")]

mod slow_backup;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kafka_backup_tests::lab::certificates::{Certificate, Usage, create_all};
use kafka_backup_tests::lab::{CONTROLLER_METRICS, Lab, net, process, wait_for};
use kafka_backup_tests::operator::{self, NAME, NAMESPACE};
use serde_json::{Value, json};
use slow_backup::{RECORDS, place};

/// The Secret, its volume, and the Service of the port.
const PUSH: &str = "push-with-tls";
const FILES: &str = "/etc/kafka-backup/push-tls";
/// A kubelet looks at Secrets once a minute or so.
const REACHES_THE_POD: Duration = Duration::from_secs(240);
const LIMIT: Duration = Duration::from_secs(60);

fn url() -> String {
    format!("https://{PUSH}.{NAMESPACE}.svc:8443")
}

/// A CA and a certificate of the port: `ca.crt`, `tls.crt`, `tls.key`.
fn authority(folder: &Path) -> PathBuf {
    fs::create_dir_all(folder).unwrap();
    let names = format!("DNS:{PUSH}.{NAMESPACE}.svc");
    let certificate = Certificate {
        name: "tls",
        issuer: "ca",
        subject: "/CN=push".to_owned(),
        usage: Usage::Server { names: &names },
    };
    create_all(folder, &["ca"], &[certificate]).unwrap();
    folder.to_owned()
}

/// The Secret with one's CA and another one's certificate.
fn give(lab: &Lab, ca: &Path, certificate: &Path) {
    let text = |folder: &Path, file: &str| fs::read_to_string(folder.join(file)).unwrap();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": PUSH, "namespace": NAMESPACE },
        "stringData": {
            "ca.crt": text(ca, "ca.crt"),
            "tls.crt": text(certificate, "tls.crt"),
            "tls.key": text(certificate, "tls.key"),
        },
    });
    operator::apply(lab, PUSH, &secret.to_string()).unwrap();
}

fn in_own(lab: &Lab, args: &[&str]) -> String {
    operator::kubectl(lab, &[&["--namespace", NAMESPACE], args].concat()).unwrap()
}

/// The installed operator with TLS on its push port, until this is dropped.
struct WithTls<'a>(&'a Lab);

impl<'a> WithTls<'a> {
    fn install(lab: &'a Lab) -> Self {
        let service = operator::get(lab, NAMESPACE, "service", NAME);
        let selector = service.unwrap().unwrap()["spec"]["selector"].clone();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": PUSH, "namespace": NAMESPACE },
            "spec": { "selector": selector, "ports": [{ "name": "push", "port": 8443 }] },
        });
        operator::apply(lab, "push-service", &service.to_string()).unwrap();
        let pod = "/spec/template/spec";
        let container = format!("{pod}/containers/0");
        let deployment = operator::get(lab, NAMESPACE, "deployment", NAME)
            .unwrap()
            .unwrap();
        let args = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
        let mut args = args.as_array().unwrap().clone();
        // The one without TLS.
        args.retain(|argument| !argument.as_str().unwrap().starts_with("--push-url="));
        args.extend(
            [
                format!("--push-tls-cert={FILES}/tls.crt"),
                format!("--push-tls-key={FILES}/tls.key"),
                format!("--push-ca-file={FILES}/ca.crt"),
                format!("--push-url={}", url()),
            ]
            .map(Value::from),
        );
        let patch = vec![
            json!({ "op": "replace", "path": format!("{container}/args"), "value": args }),
            json!({ "op": "add", "path": format!("{pod}/volumes"),
                "value": [{ "name": PUSH, "secret": { "secretName": PUSH } }] }),
            json!({ "op": "add", "path": format!("{container}/volumeMounts"),
                "value": [{ "name": PUSH, "mountPath": FILES, "readOnly": true }] }),
        ];
        let with_tls = Self(lab);
        let patch = Value::from(patch).to_string();
        in_own(
            lab,
            &[
                "patch",
                "deployment",
                NAME,
                "--type=json",
                "--patch",
                &patch,
            ],
        );
        with_tls.wait();
        with_tls
    }

    fn wait(&self) {
        operator::rolled_out(self.0, NAMESPACE).unwrap();
        wait_for("the leader behind the Service", LIMIT, || {
            operator::metrics(self.0).is_ok()
        })
        .unwrap();
    }

    fn pushes(&self, result: &str) -> f64 {
        let series = format!("kafka_backup_operator_pushes_total{{result=\"{result}\"}}");
        let page = operator::metrics(self.0).unwrap();
        operator::sample(&page, &series).expect(&page)
    }

    /// What curl says of the certificate that the port shows, when it believes this CA.
    fn believed(&self, ca: &Path) -> bool {
        let service = operator::get(self.0, NAMESPACE, "service", PUSH);
        let address = service.unwrap().unwrap()["spec"]["clusterIP"].clone();
        let resolve = format!("{PUSH}.{NAMESPACE}.svc:8443:{}", address.as_str().unwrap());
        let mut curl = net::command(self.0, "curl").unwrap();
        curl.args(["--silent", "--max-time", "10", "--resolve", &resolve])
            .arg("--cacert")
            .arg(ca.join("ca.crt"))
            .arg(url());
        curl.status().unwrap().success()
    }
}

impl Drop for WithTls<'_> {
    fn drop(&mut self) {
        in_own(self.0, &["rollout", "undo", "deployment", NAME]);
        in_own(self.0, &["delete", "service,secret", PUSH]);
        self.wait();
    }
}

#[test]
fn workers_push_with_tls_to_whom_they_know_and_the_files_may_change() {
    let place = place("t-push-tls");
    let lab = &place.lab;
    let folder = tempfile::tempdir().unwrap();
    let first = authority(&folder.path().join("first"));
    let second = authority(&folder.path().join("second"));
    give(lab, &first, &first);
    let operator = WithTls::install(lab);

    // Without TLS nobody is taken, and is told where to go.
    let mut curl = net::command(lab, "curl").unwrap();
    let plain = format!("http://{CONTROLLER_METRICS}/metrics/job/mine");
    curl.args(["--silent", "--max-time", "10", "--data", "x 1"]);
    let answer = curl.args(["--write-out", "%{http_code}", &plain]);
    let told = format!("pushes are taken at {} only\n421", url());
    assert_eq!(process::run(answer).unwrap(), told);

    place.start_slow_backup();
    let object = place.finished("kafkabackup", "slow");
    let run = place.first_run();
    assert_eq!(run["records"], RECORDS, "{object}");
    let job = |run: &Value| format!("job/{}", run["job"].as_str().unwrap());
    let log = place.kubectl(&["logs", &job(&run)]);
    assert!(!log.contains("\"WARN\""), "{log}");
    // At its end at the latest: metrics and report.
    assert!(operator.pushes("accepted") >= 2.0);
    for other in ["denied", "invalid", "unavailable"] {
        assert_eq!(operator.pushes(other), 0.0, "{other}");
    }
    assert_eq!(operator.pushes("misdirected"), 1.0);

    // Jobs that are made now believe somebody else, and do not push to this one; the run ends as well as ever.
    let accepted = operator.pushes("accepted");
    give(lab, &second, &first);
    let of_controller = ["logs", &format!("deployment/{NAME}")];
    wait_for("the new CA to be read", REACHES_THE_POD, || {
        in_own(lab, &of_controller).contains("other files are in use now")
    })
    .unwrap();
    place.kubectl(&[
        "annotate",
        "kafkabackup",
        "slow",
        "kafka-backup.dev/trigger-backup=again",
    ]);
    let again = |object: &Value| object["status"]["backupHistory"][1].is_object();
    let (namespace, limit) = (place.namespace, slow_backup::RUN);
    let what = "its second run to end";
    let object =
        operator::wait_object(lab, namespace, "kafkabackup", "slow", what, limit, again).unwrap();
    let history = object["status"]["backupHistory"].as_array().unwrap();
    let second_run = history.iter().find(|run| run["job"] != history[0]["job"]);
    let both = [&history[0], second_run.unwrap()];
    assert!(
        both.iter().all(|run| run["outcome"] == "success"),
        "{object}"
    );
    let run = both.into_iter().find(|found| found["job"] != run["job"]);
    let log = place.kubectl(&["logs", &job(run.unwrap())]);
    // The two authorities have one name, and keys of their own.
    let reason = "invalid peer certificate: BadSignature";
    let told = "the last push did not arrive in time";
    assert!(log.contains(told) && log.contains(reason), "{log}");
    assert_eq!(operator.pushes("accepted"), accepted);

    // A certificate of that CA, and the port is known to them.
    assert!(operator.believed(&first) && !operator.believed(&second));
    give(lab, &second, &second);
    wait_for("the new certificate", REACHES_THE_POD, || {
        operator.believed(&second)
    })
    .unwrap();
    assert!(!operator.believed(&first));
    // None of it needed another process.
    let pods = operator::list(lab, NAMESPACE, "pods").unwrap();
    let restarts = &pods[0]["status"]["containerStatuses"][0]["restartCount"];
    assert_eq!((pods.len(), restarts), (1, &json!(0)));
}
