//! A controller that watches one namespace, with the permissions that the chart gives it: it can do its work there, and nothing
//! elsewhere. Needs `cargo lab up` and the installed operator.
//!
//! A file of its own: the installed operator, which watches everything, is away meanwhile.
#![allow(clippy::unwrap_used, reason = "a test")]

mod golden;
mod slow_backup;

use kafka_backup_tests::lab::{helm, wait_for};
use kafka_backup_tests::{operator, permissions};
use serde_json::{Value, json};
use slow_backup::{Place, RECORDS, RUN, place};

/// Where the controller is.
const HOME: &str = "t-own-operator";
const WATCHED: &str = "t-watched";
const ELSEWHERE: &str = "t-not-watched";

/// The installed operator, until this is dropped without replicas.
struct Away<'a>(&'a Place);

impl<'a> Away<'a> {
    fn send(place: &'a Place) -> Self {
        let away = Self(place);
        away.scale("0");
        wait_for("the operator to end", RUN, || {
            let pods = operator::list(&place.lab, operator::NAMESPACE, "pods");
            pods.unwrap().is_empty()
        })
        .unwrap();
        away
    }

    fn scale(&self, replicas: &str) {
        let replicas = format!("--replicas={replicas}");
        let args = ["scale", "deployment", operator::NAME, &replicas];
        let args = [&["--namespace", operator::NAMESPACE], &args[..]].concat();
        operator::kubectl(&self.0.lab, &args).unwrap();
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        let kubectl = |args: &[&str]| operator::kubectl(&self.0.lab, args).unwrap();
        kubectl(&["delete", "namespace", HOME, "--timeout=90s"]);
        let granted = format!("{}.{HOME}", operator::NAME);
        let (edit, view) = (format!("{granted}-edit"), format!("{granted}-view"));
        kubectl(&["delete", "clusterrolebinding", &granted]);
        kubectl(&["delete", "clusterrole", &granted, &edit, &view]);
        self.scale("1");
        operator::rolled_out(&self.0.lab, operator::NAMESPACE).unwrap();
    }
}

/// A release of the chart that watches one namespace, with the images of the installed operator, in another namespace than that one's.
fn installation(place: &Place) -> String {
    let images = operator::images(&place.lab, operator::NAMESPACE).unwrap();
    let values = json!({
        "image": helm::images(&images), "watchNamespace": WATCHED, "crds": {"install": false},
    });
    let objects = helm::template(&place.lab, operator::NAME, HOME, &values).unwrap();
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {HOME}\n  \
         labels: {{pod-security.kubernetes.io/enforce: restricted}}\n{objects}"
    )
}

fn is_permitted_what_the_document_says(place: &Place) {
    let granted = |home: &str, namespace: &str| {
        let lines = permissions::granted(&place.lab, home, namespace).unwrap();
        permissions::table(&lines)
    };
    // tests/permissions holds that one against the document.
    let everywhere = granted(operator::NAMESPACE, "default");
    assert_eq!(granted(HOME, WATCHED), everywhere);
    let own = granted(HOME, HOME).replace(WATCHED, "NAMESPACE");
    let marks = ["<!-- watching -->\n", "<!-- end watching -->"];
    golden::assert_golden_part("docs/permissions.md", marks[0], marks[1], &own);
    let others = permissions::granted(&place.lab, HOME, ELSEWHERE).unwrap();
    assert!(
        matches!(&others[..], [review] if review.resource == "tokenreviews.authentication.k8s.io"),
        "{others:?}"
    );
}

#[test]
fn a_controller_of_one_namespace_works_there_and_is_forbidden_nothing() {
    let elsewhere = place(ELSEWHERE);
    let place = place(WATCHED);
    let install = installation(&place);
    let _away = Away::send(&place);
    operator::apply(&place.lab, HOME, &install).unwrap();
    operator::rolled_out(&place.lab, HOME).unwrap();
    is_permitted_what_the_document_says(&place);

    elsewhere.start_slow_backup();
    place.start_slow_backup();
    // By a push: tokens are reviewed.
    let moves = |object: &Value| object["status"]["activeRun"]["records"].as_u64() > Some(0);
    let (lab, kind, what) = (&place.lab, "kafkabackup", "progress");
    operator::wait_object(lab, WATCHED, kind, "slow", what, RUN, moves).unwrap();
    place.finished(kind, "slow");
    let run = place.first_run();
    assert_eq!(run["records"], RECORDS, "{run}");
    let events = operator::events(lab, WATCHED, "KafkaBackup", "slow").unwrap();
    let told = |reason: &str| events.iter().any(|(found, _)| found == reason);
    assert!(told("RunStarted") && told("BackupCompleted"), "{events:?}");
    let page = operator::metrics_by_proxy(lab, HOME).unwrap();
    assert!(page.contains(&format!("namespace=\"{WATCHED}\"")), "{page}");
    assert!(!page.contains(ELSEWHERE), "{page}");

    assert_eq!(elsewhere.backup()["status"], Value::Null);
    let jobs = operator::list(lab, ELSEWHERE, "jobs").unwrap();
    assert!(jobs.is_empty(), "{jobs:?}");

    let deployment = format!("deployment/{}", operator::NAME);
    let log = operator::kubectl(lab, &["--namespace", HOME, "logs", &deployment]).unwrap();
    assert!(log.contains("controller started"), "{log}");
    let refused: Vec<&str> = log
        .lines()
        .filter(|line| line.to_lowercase().contains("forbidden"))
        .collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    // The installed operator would run it.
    elsewhere.kubectl(&["delete", kind, "slow"]);
}
