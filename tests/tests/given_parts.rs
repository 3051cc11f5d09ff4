//! The demo on parts that are not the lab's own: a lab of another name, which has none, is given those of this one. Needs `cargo lab up`
//! and the installed operator.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::{Lab, kafka_tools, kubernetes, net, process, store};
use kafka_backup_tests::operator;

struct Place {
    lab: Lab,
    /// Where `kubectl` is.
    programs: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let lab = Lab::open().unwrap();
        let programs = tempfile::tempdir().unwrap();
        let kubectl = programs.path().join("kubectl");
        let hyperkube = kubernetes::hyperkube(&lab);
        let script = format!("#!/bin/sh\nexec {} kubectl \"$@\"\n", hyperkube.display());
        fs::write(&kubectl, script).unwrap();
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755)).unwrap();
        Self { lab, programs }
    }

    fn demo(&self) -> Output {
        let path = std::env::var("PATH").unwrap();
        let mut demo: Command = net::command(&self.lab, env!("CARGO_BIN_EXE_lab")).unwrap();
        demo.args(["demo", "--records", "2000", "--kubeconfig"])
            .arg(kubernetes::kubeconfig(&self.lab))
            .args(["--bootstrap-servers", &SOURCE.bootstrap(&self.lab)])
            .args(["--target-bootstrap-servers", &TARGET.bootstrap(&self.lab)])
            .args(["--s3-bucket", store::BUCKET])
            .args(["--s3-endpoint", store::ENDPOINT])
            .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY)
            .env("KAFKA_BACKUP_LAB", "given-parts")
            .env("PATH", format!("{}:{path}", self.programs.path().display()));
        demo.output().unwrap()
    }

    /// Removes what the demo left behind, now or in an earlier run.
    fn clear(&self) {
        let namespace = ["delete", "namespace", "demo", "--ignore-not-found"];
        operator::kubectl(&self.lab, &namespace).unwrap();
        self.clear_topics();
    }

    fn clear_topics(&self) {
        for (bootstrap, prefix) in [
            (SOURCE.bootstrap(&self.lab), "demo."),
            (TARGET.bootstrap(&self.lab), "restored.demo."),
        ] {
            let is_own = |name: &str| name.starts_with(prefix);
            kafka_tools::delete_topics_where(&self.lab, &bootstrap, is_own).unwrap();
        }
    }
}

#[test]
fn demo_uses_given_parts_and_changes_nothing_else_there() {
    let place = Place::new();
    place.clear();
    let deployment = || {
        operator::get(
            &place.lab,
            operator::NAMESPACE,
            "deployment",
            operator::NAME,
        )
        .unwrap()
        .unwrap()
    };
    let before = deployment();

    let shown = place.demo();
    let text = String::from_utf8_lossy(&shown.stdout) + String::from_utf8_lossy(&shown.stderr);
    assert!(shown.status.success(), "{text}");
    assert!(text.contains("2000 records went from cluster"), "{text}");
    assert!(text.contains("it is used as it is"), "{text}");
    let counted =
        "kafka_backup_backups_total{backup_name=\"shop\",namespace=\"demo\",outcome=\"success\"} 1";
    assert!(text.contains(counted), "{text}");
    assert_eq!(
        deployment()["metadata"]["generation"],
        before["metadata"]["generation"]
    );
    // Nothing runs in the lab of the other name, and no key is left in its files.
    let other = Lab::at(place.lab.cache.clone(), "given-parts").unwrap();
    let run = other.run.join("given");
    assert!(run.exists() && !run.join("applied").exists());
    assert_eq!(process::running(&Lab { run, ..other }), []);

    // Its topics are there now, and it cannot know whose they are.
    let again = place.demo();
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(
        !again.status.success() && text.contains("demo.orders"),
        "{text}"
    );
    // Nor whose a namespace is that lacks the label.
    place.clear_topics();
    let unlabelled = ["label", "namespace", "demo", "kafka-backup.dev/lab-"];
    operator::kubectl(&place.lab, &unlabelled).unwrap();
    let again = place.demo();
    let text = String::from_utf8_lossy(&again.stderr);
    assert!(
        !again.status.success() && text.contains("namespace demo exists"),
        "{text}"
    );
    place.clear();
}
