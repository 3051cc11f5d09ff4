//! What a user gets told who asks for something that cannot be: in the status, as an Event, at admission, and by the worker at a
//! terminal. Needs `cargo lab up` and the installed operator.

use std::time::Duration;

use kafka_backup_tests::lab::kafka::{SOURCE, TARGET};
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce};
use kafka_backup_tests::lab::{Lab, LabError, net, store};
use kafka_backup_tests::operator;

const NAMESPACE: &str = "t-bad-input";
const TOPIC: &str = "t-bad-input.in";
/// Client retries included: a worker tries an unreachable broker for a while, and once more in other pods.
const RUN: Duration = Duration::from_secs(150);

/// An object that cannot succeed, and what must be said about it.
struct Case {
    name: &'static str,
    kind: &'static str,
    spec: String,
    reason: &'static str,
    /// Each must occur in the message.
    said: Vec<String>,
}

fn storage() -> String {
    operator::storage_yaml(NAMESPACE)
}

fn backup(broker: &str, topic: &str, storage: &str) -> String {
    format!(
        "  kafkaCluster: {{bootstrapServers: [\"{broker}\"]}}\n  topics: [\"{topic}\"]\n  job: {{backoffLimit: 0, startDeadlineSeconds: 20}}\n{storage}"
    )
}

fn restore(target: &str, backup_id: &str, topic: &str) -> String {
    format!(
        "  backupId: {backup_id}\n  targetCluster: {{bootstrapServers: [\"{target}\"]}}\n  topics: [\"{topic}\"]\n  \
         job: {{backoffLimit: 0, startDeadlineSeconds: 20}}\n{}",
        storage()
    )
}

fn object(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: kafka-backup.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\nspec:\n{spec}"
    )
}

fn cases(lab: &Lab) -> Vec<Case> {
    let (source, target) = (SOURCE.bootstrap(lab), TARGET.bootstrap(lab));
    let dead = "198.18.0.2:9";
    let pvc = "  storage: {storageType: pvc, pvc: {claimName: no-such-claim}}\n";
    let case = |name, kind, spec, reason, said: &[&str]| Case {
        name,
        kind,
        spec,
        reason,
        said: said.iter().map(|text| (*text).to_owned()).collect(),
    };
    vec![
        case(
            "no-broker",
            "KafkaBackup",
            backup(dead, TOPIC, &storage()),
            "Unavailable",
            &[dead],
        ),
        case(
            "no-topic",
            "KafkaBackup",
            backup(&source, "t-bad-input.nothing-*", &storage()),
            "InvalidSpec",
            &["t-bad-input.nothing-*"],
        ),
        case(
            "missing-topic",
            "KafkaBackup",
            backup(&source, "t-bad-input.gone", &storage()),
            "InvalidSpec",
            &["t-bad-input.gone"],
        ),
        case(
            "no-bucket",
            "KafkaBackup",
            backup(
                &source,
                TOPIC,
                &storage().replace(
                    &format!("bucket: {}", store::BUCKET),
                    "bucket: no-such-bucket",
                ),
            ),
            "InvalidSpec",
            &["no-such-bucket"],
        ),
        case(
            "wrong-keys",
            "KafkaBackup",
            backup(
                &source,
                TOPIC,
                &storage().replace("name: store", "name: wrong-keys"),
            ),
            "AccessDenied",
            &[store::BUCKET],
        ),
        case(
            "no-secret",
            "KafkaBackup",
            backup(
                &source,
                TOPIC,
                &storage().replace("name: store", "name: no-such-secret"),
            ),
            "StartDeadlineExceeded",
            &["no-such-secret"],
        ),
        case(
            "no-claim",
            "KafkaBackup",
            backup(&source, TOPIC, pvc),
            "StartDeadlineExceeded",
            &["no-such-claim"],
        ),
        case(
            "unknown-run",
            "KafkaRestore",
            restore(&target, "good-19990101-000000", "*"),
            "InvalidSpec",
            &["good-19990101-000000", "good-20"],
        ),
        case(
            "not-empty",
            "KafkaRestore",
            restore(&source, "latest", TOPIC),
            "InvalidSpec",
            &[TOPIC, "empty"],
        ),
    ]
}

#[test]
fn each_mistake_is_named_in_status_and_event() {
    let lab = Lab::open().unwrap();
    operator::fresh_namespace(&lab, NAMESPACE).unwrap();
    let source = SOURCE.bootstrap(&lab);
    if tools::list_topics(&lab, &source)
        .unwrap()
        .iter()
        .any(|topic| topic == TOPIC)
    {
        tools::delete_topics(&lab, &source, &[TOPIC]).unwrap();
    }
    tools::produce(
        &lab,
        &source,
        &Produce {
            topic: TOPIC,
            records: 100,
            ..Produce::default()
        },
    )
    .unwrap();
    operator::apply(
        &lab,
        "wrong-keys",
        &format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: wrong-keys, namespace: {NAMESPACE}}}\nstringData: {{accessKey: lab, secretKey: wrong}}\n"),
    )
    .unwrap();
    // A good backup first: the restores below need an archive that holds something.
    operator::apply(
        &lab,
        "good",
        &object("KafkaBackup", "good", &backup(&source, TOPIC, &storage())),
    )
    .unwrap();
    let good =
        operator::wait_finished(&lab, NAMESPACE, "kafkabackup", "good", RUN, |_| {}).unwrap();
    assert_eq!(good["status"]["phase"], "Completed", "{}", good["status"]);

    let cases = cases(&lab);
    for case in &cases {
        operator::apply(&lab, case.name, &object(case.kind, case.name, &case.spec)).unwrap();
    }
    let mut wrong = Vec::new();
    for case in &cases {
        let object =
            operator::wait_finished(&lab, NAMESPACE, case.kind, case.name, RUN, |_| {}).unwrap();
        let conditions = object["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let succeeded = conditions
            .iter()
            .find(|condition| condition["type"] == "Succeeded")
            .cloned()
            .unwrap_or_default();
        let message = succeeded["message"].as_str().unwrap_or_default();
        let events = operator::events(&lab, NAMESPACE, case.kind, case.name).unwrap();
        let told = |text: &String| {
            message.contains(text) && events.iter().any(|(_, event)| event.contains(text))
        };
        println!("{}: {} {message}", case.name, succeeded["reason"]);
        if object["status"]["phase"] != "Failed"
            || succeeded["reason"] != case.reason
            || !case.said.iter().all(told)
        {
            wrong.push(format!(
                "{}: expected {} with {:?}\n  status {}\n  events {events:?}",
                case.name, case.reason, case.said, object["status"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_the_schema_knows_to_be_wrong_is_refused_at_admission() {
    let lab = Lab::open().unwrap();
    let namespace = "t-admission";
    operator::create_namespace(&lab, namespace).unwrap();
    let good = backup("kafka:9092", "orders", &storage());
    let refused = [
        (
            "unknown-field",
            good.clone() + "  scheduel: \"0 2 * * *\"\n",
            "scheduel",
        ),
        (
            "unknown-value",
            good.clone() + "  isolationLevel: read_all\n",
            "isolationLevel",
        ),
        ("no-topics", good.replace("[\"orders\"]", "[]"), "topics"),
        (
            "internal-topic",
            good.replace("orders", "__consumer_offsets"),
            "internal",
        ),
        (
            "no-brokers",
            good.replace("[\"kafka:9092\"]", "[]"),
            "bootstrapServers",
        ),
        (
            "two-stores",
            good.replace("storageType: s3", "storageType: pvc"),
            "storage",
        ),
        (
            "no-store",
            "  kafkaCluster: {bootstrapServers: [\"kafka:9092\"]}\n  topics: [orders]\n".to_owned(),
            "storage",
        ),
        (
            "sasl-without-user",
            good.replace(
                "bootstrapServers",
                "securityProtocol: SASL_SSL, bootstrapServers",
            ),
            "saslSecret",
        ),
        (
            "unknown-codec",
            good.clone() + "  compression: lzma\n",
            "compression",
        ),
        (
            "level-without-codec",
            good.clone() + "  compressionLevel: 3\n",
            "compressionLevel",
        ),
        (
            "level-too-high",
            good.clone() + "  compression: gzip\n  compressionLevel: 10\n",
            "compressionLevel",
        ),
        (
            "no-limit",
            good.clone() + "  rateLimit: {}\n",
            "bytesPerSecond",
        ),
        (
            "no-schedule",
            good.clone() + "  schedule: \"* * * *\"\n",
            "five fields",
        ),
        (
            "no-hour",
            good.clone() + "  schedule: \"0 24 * * *\"\n",
            "five fields",
        ),
        (
            "no-date",
            good.clone() + "  schedule: \"0 0 30 2 *\"\n",
            "does not exist",
        ),
        (
            "local-zone",
            good.clone() + "  schedule: \"@daily\"\n  timeZone: Local\n",
            "Local is no time zone",
        ),
        (
            "zone-alone",
            good.clone() + "  timeZone: Europe/Berlin\n",
            "belong to a schedule",
        ),
        (
            "jitter-alone",
            good.clone() + "  jitterSeconds: 5\n",
            "belong to a schedule",
        ),
        (
            "replace-alone",
            good.clone() + "  concurrencyPolicy: Replace\n",
            "belongs to a schedule",
        ),
        (
            "allow",
            good.clone() + "  schedule: \"@daily\"\n  concurrencyPolicy: Allow\n",
            "Forbid",
        ),
        (
            "host-path",
            good.clone() + "  podTemplate: {volumes: [{name: a, hostPath: {path: /}}]}\n",
            "hostPath",
        ),
        (
            "own-volume",
            good.clone() + "  podTemplate: {volumes: [{name: plan, emptyDir: {}}]}\n",
            "the controller's own",
        ),
        (
            "own-label",
            good.clone() + "  podTemplate: {labels: {app.kubernetes.io/name: x}}\n",
            "are set already",
        ),
        (
            "own-annotation",
            good.clone() + "  podTemplate: {annotations: {kafka-backup.dev/plan: x}}\n",
            "the controller's own",
        ),
        (
            "own-variable",
            good.clone() + "  podTemplate: {env: [{name: KAFKA_BACKUP_JOB_UID, value: x}]}\n",
            "the controller's own",
        ),
    ];
    for (name, spec, said) in refused {
        let yaml = object("KafkaBackup", name, &spec).replace(NAMESPACE, namespace);
        match operator::apply(&lab, name, &yaml) {
            Err(LabError::Program { output, .. }) => {
                assert!(output.contains(said), "{name}: {output}")
            }
            other => panic!("{name} was not refused: {other:?}"),
        }
    }
    let restore = object(
        "KafkaRestore",
        "fixed",
        &restore("kafka:9092", "latest", "orders"),
    )
    .replace(NAMESPACE, namespace);
    for (name, more, without) in [
        ("two-ways", "  backupRef: {name: orders}\n", "nothing"),
        ("no-way", "", "  backupId: latest\n"),
    ] {
        let yaml = restore
            .replace("name: fixed", &format!("name: {name}"))
            .replace(without, "")
            + more;
        match operator::apply(&lab, name, &yaml) {
            Err(LabError::Program { output, .. }) => {
                assert!(output.contains("backupRef alone"), "{name}: {output}")
            }
            other => panic!("{name} was not refused: {other:?}"),
        }
    }
    operator::apply(&lab, "fixed", &restore).unwrap();
    let changed = operator::apply(&lab, "fixed", &restore.replace("latest", "another"));
    assert!(
        matches!(&changed, Err(LabError::Program { output, .. }) if output.contains("cannot be changed")),
        "{changed:?}"
    );
    operator::kubectl(&lab, &["delete", "namespace", namespace, "--wait=false"]).unwrap();
}

#[test]
fn the_worker_says_the_same_at_a_terminal() {
    let lab = Lab::open().unwrap();
    let worker = lab.target().join("release/kafka-backup-worker");
    let source = SOURCE.bootstrap(&lab);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().display().to_string();
    let store = ["--folder", folder.as_str()];
    let no_bucket = [
        "--s3-bucket",
        "no-such-bucket",
        "--s3-endpoint",
        store::ENDPOINT,
        "--s3-path-style",
        "--s3-allow-http",
    ];
    let run = |args: &[&str], keys: (&str, &str)| {
        let output = net::command(&lab, &worker)
            .unwrap()
            .args(args)
            .envs([
                ("AWS_ACCESS_KEY_ID", keys.0),
                ("AWS_SECRET_ACCESS_KEY", keys.1),
            ])
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned()
                + &String::from_utf8_lossy(&output.stdout),
        )
    };
    let good = (store::ACCESS_KEY, store::SECRET_KEY);
    let backup = |broker: &'static str| {
        [
            "backup",
            "--name",
            "terminal",
            "--bootstrap-servers",
            broker,
        ]
    };
    let source: &'static str = Box::leak(source.into_boxed_str());
    let cases: Vec<(&str, Vec<&str>, (&str, &str), i32, &str)> = vec![
        (
            "no broker answers",
            [&backup("198.18.0.2:9")[..], &["--topics", "x"], &store].concat(),
            good,
            69,
            "198.18.0.2:9",
        ),
        (
            "no topic matches",
            [&backup(source)[..], &["--topics", "nothing-*"], &store].concat(),
            good,
            64,
            "nothing-*",
        ),
        (
            "bucket missing",
            [&backup(source)[..], &["--topics", "*"], &no_bucket].concat(),
            good,
            64,
            "no-such-bucket",
        ),
        (
            "credentials wrong",
            [&backup(source)[..], &["--topics", "*"], &no_bucket]
                .concat()
                .iter()
                .map(|a| {
                    if *a == "no-such-bucket" {
                        store::BUCKET
                    } else {
                        a
                    }
                })
                .collect(),
            (store::ACCESS_KEY, "wrong"),
            77,
            store::BUCKET,
        ),
        (
            "unknown run",
            [
                &[
                    "restore",
                    "--name",
                    "back",
                    "--backup-id",
                    "gone-20260101-000000",
                    "--bootstrap-servers",
                    source,
                    "--topics",
                    "*",
                ][..],
                &store,
            ]
            .concat(),
            good,
            64,
            "gone-20260101-000000",
        ),
    ];
    for (what, args, keys, code, said) in cases {
        let (exit, text) = run(&args, keys);
        println!("{what}: {text}");
        assert_eq!(exit, Some(code), "{what}: {text}");
        assert!(text.contains(said), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
    }
}
