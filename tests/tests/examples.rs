//! Every file of `manifests/examples`, applied to a real API server: what stands there is taken whole, and the controller finds nothing
//! wrong with it. Needs `cargo lab up` and the installed operator.

use std::path::Path;
use std::time::Duration;

use kafka_backup_tests::lab::{Lab, LabError};
use kafka_backup_tests::operator;
use serde_json::Value;

const NAMESPACE: &str = "t-examples";
const LOOK: Duration = Duration::from_secs(60);

/// Whether everything that `written` says stands in `found`, too, where the API server may have added defaults.
fn holds(found: &Value, written: &Value) -> bool {
    match (found, written) {
        (Value::Object(found), Value::Object(written)) => written
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| holds(found, value))),
        (Value::Array(found), Value::Array(written)) => {
            found.len() == written.len()
                && found
                    .iter()
                    .zip(written)
                    .all(|(found, written)| holds(found, written))
        }
        _ => found == written,
    }
}

#[test]
fn each_example_is_taken_whole_and_found_valid() {
    let lab = Lab::open().unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/examples");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() > 10, "{files:?}");
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text
            .replace("namespace: shop\n", &format!("namespace: {NAMESPACE}\n"))
            .replace("archive: shop/", &format!("archive: {NAMESPACE}/"));
        operator::fresh_namespace(&lab, NAMESPACE).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        match operator::apply(&lab, &name, &text) {
            Ok(_) => {}
            Err(LabError::Program { output, .. }) => {
                wrong.push(format!("{name}: {output}"));
                continue;
            }
            Err(other) => panic!("{name}: {other}"),
        }
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        for written in documents.iter().filter(|document| {
            !["ConfigMap", "Secret"].contains(&document["kind"].as_str().unwrap())
        }) {
            let (kind, object) = (
                written["kind"].as_str().unwrap(),
                written["metadata"]["name"].as_str().unwrap(),
            );
            let is_seen = |object: &Value| object["status"]["conditions"].is_array();
            let found =
                operator::wait_object(&lab, NAMESPACE, kind, object, "a look at it", LOOK, is_seen)
                    .unwrap();
            if !holds(&found["spec"], &written["spec"]) {
                wrong.push(format!("{name}: {} is not what was written", found["spec"]));
            }
            let conditions = found["status"]["conditions"].as_array().unwrap();
            if conditions
                .iter()
                .any(|condition| condition["reason"] == "InvalidSpec")
            {
                wrong.push(format!("{name}: {}", found["status"]));
            }
        }
    }
    operator::kubectl(&lab, &["delete", "namespace", NAMESPACE, "--wait=false"]).unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
