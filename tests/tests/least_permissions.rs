//! What each verb of the worker needs of a cluster with ACLs: exactly the operations of a table suffice, without any one of them the
//! verb is refused before it changes anything, and says which and on what. The table is that of docs/kafka-security.md;
//! `GOLDEN=write` writes it. And what a glob cannot see is told. Needs `cargo lab up net`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod golden;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use golden::assert_golden_part;
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Committed, Produce, Reading};
use kafka_backup_tests::lab::secure::{Listener, Mechanism, Secured, password, tokens};
use kafka_backup_tests::worker::{Worker, is_success, report};
use serde_json::{Value, json};

const DOCUMENT: &str = "docs/kafka-security.md";
const MARKS: [&str; 2] = [
    "<!-- made by tests/tests/least_permissions.rs -->\n",
    "<!-- end -->",
];

const USER: &str = "least";
const SOURCE: &str = "least-source";
const TARGET: &str = "least-target";
const GROUP: &str = "least-group";
const SNAPSHOT: &str = "before";
const PARTITIONS: i32 = 2;
const RECORDS: i64 = 300;

/// What the exit code of a refused worker is.
const DENIED: i32 = 77;

/// Brokers leave such a topic out of what a group has committed, and do not say so: the group has nothing then.
const UNSEEN: &str = "(unseen)";
/// The same where a group may have nothing.
const WARNED: &str = "(warned)";

/// How the target topic is before a run, and after one that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Not there; a refused run may have made it, without records.
    Absent,
    Empty,
    Full,
}

/// A verb, and what it needs.
struct Case {
    verb: &'static str,
    /// `KIND:NAME:OPERATION`, and how a worker names the operation that it lacks.
    needs: &'static [(&'static str, &'static str)],
    target: Target,
    args: &'static [&'static str],
    note: &'static str,
}

const RESTORE: &[&str] = &[
    "restore",
    "--backup-id",
    "latest",
    "--archive",
    "default/kept",
    "--topics",
    SOURCE,
    "--topic-mapping",
    "least-source=least-target",
];

const CASES: &[Case] = &[
    Case {
        verb: "backup",
        needs: &[
            ("topic:least-source:READ", "Read"),
            ("topic:least-source:DESCRIBE_CONFIGS", "DescribeConfigs"),
            ("group:least-group:DESCRIBE", "Describe"),
        ],
        target: Target::Absent,
        args: &["backup", "--topics", SOURCE, "--consumer-groups", GROUP],
        note: "where globs are used, Describe on the cluster tells whether there is more than they see",
    },
    Case {
        verb: "restore, topics are created",
        needs: &[
            ("topic:least-target:CREATE", "Create"),
            ("topic:least-target:WRITE", "Write"),
            ("topic:least-target:ALTER_CONFIGS", "AlterConfigs"),
        ],
        target: Target::Absent,
        args: RESTORE,
        note: "Create on the cluster does as well as on the topic",
    },
    Case {
        verb: "restore, topics exist",
        needs: &[
            ("topic:least-target:WRITE", "Write"),
            ("topic:least-target:DESCRIBE_CONFIGS", "DescribeConfigs"),
        ],
        target: Target::Empty,
        args: RESTORE,
        note: "",
    },
    Case {
        verb: "restore with `ifTopicNotEmpty: Purge`",
        needs: &[
            ("topic:least-target:WRITE", "Write"),
            ("topic:least-target:DELETE", "Delete"),
            ("topic:least-target:ALTER_CONFIGS", "AlterConfigs"),
        ],
        target: Target::Full,
        args: &["--if-topic-not-empty", "Purge"],
        note: "",
    },
    Case {
        verb: "restore with `topicConfig: target`",
        needs: &[
            ("cluster:kafka-cluster:CREATE", "Create"),
            ("topic:least-target:WRITE", "Write"),
            ("topic:least-target:ALTER_CONFIGS", "AlterConfigs"),
        ],
        target: Target::Absent,
        args: &["--topic-config", "target"],
        note: "Create also on names that begin with the target's, or on the cluster: a topic `<target>-<uuid>` is validated, and never made",
    },
    Case {
        verb: "restore with `offsetReset`, topics exist",
        needs: &[
            ("topic:least-target:WRITE", "Write"),
            ("topic:least-target:DESCRIBE_CONFIGS", "DescribeConfigs"),
            ("topic:least-target:READ", "Read"),
            ("group:least-group:READ", "Read"),
        ],
        target: Target::Empty,
        args: &["--offset-reset", "--rollback-snapshot"],
        note: "with `rollback` no more",
    },
    Case {
        verb: "`verify --against`",
        needs: &[
            ("topic:least-made:READ", "Read"),
            ("topic:least-made:DESCRIBE_CONFIGS", "DescribeConfigs"),
        ],
        target: Target::Absent,
        args: &["verify", "--archive", "default/kept", "--restore", "made"],
        note: "",
    },
    Case {
        verb: "offset reset",
        needs: &[
            ("topic:least-source:READ", UNSEEN),
            ("group:least-group:READ", "Read"),
        ],
        target: Target::Absent,
        args: &[
            "offsets",
            "reset",
            "--consumer-groups",
            GROUP,
            "--strategy",
            "latest",
            "--no-snapshot",
        ],
        note: "without any permission on a topic its offsets are not seen",
    },
    Case {
        verb: "offset rollback that removes none",
        needs: &[
            ("topic:least-source:READ", "Read"),
            ("group:least-group:READ", "Read"),
        ],
        target: Target::Absent,
        args: &["offsets", "rollback", "--snapshot-id", "both"],
        note: "",
    },
    Case {
        verb: "offset rollback that removes offsets",
        needs: &[
            ("topic:least-source:READ", "Read"),
            ("group:least-group:DELETE", "Delete on the group"),
        ],
        target: Target::Absent,
        args: &["offsets", "rollback", "--snapshot-id", SNAPSHOT],
        note: "",
    },
    Case {
        verb: "offset snapshot",
        needs: &[
            ("topic:least-source:DESCRIBE", WARNED),
            ("group:least-group:DESCRIBE", "Describe"),
        ],
        target: Target::Absent,
        args: &["offsets", "snapshot", "--consumer-groups", GROUP],
        note: "without any permission on a topic its offsets are not in it, and a warning says that this may be",
    },
];

/// Users and topics are set up anew by each test: one at a time.
static TURN: Mutex<()> = Mutex::new(());

struct Place<'a> {
    _turn: MutexGuard<'static, ()>,
    lab: &'a Lab,
    secured: Secured<'a>,
    folder: tempfile::TempDir,
}

impl<'a> Place<'a> {
    fn new(lab: &'a Lab) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        tokens::up(lab).unwrap();
        let secured = Secured::one(lab);
        secured.up().unwrap();
        secured
            .set_scram(USER, Mechanism::ScramSha512, &password(USER))
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secrets").join(USER);
        std::fs::create_dir_all(&secret).unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        std::fs::write(secret.join("username"), USER).unwrap();
        std::fs::write(secret.join("password"), password(USER)).unwrap();
        let place = Self {
            _turn: turn,
            lab,
            secured,
            folder,
        };
        place.delete(|name| name.starts_with("least-"));
        place.produce(SOURCE, true);
        place
    }

    fn tools(&self) -> String {
        self.secured.tools()
    }

    fn delete(&self, of: impl Fn(&str) -> bool) {
        tools::delete_topics_where(self.lab, &self.tools(), of).unwrap();
    }

    fn produce(&self, topic: &str, full: bool) {
        let what = Produce {
            topic,
            partitions: PARTITIONS.unsigned_abs(),
            records: if full { RECORDS.unsigned_abs() } else { 0 },
            create: Some(&[]),
            ..Produce::default()
        };
        tools::produce(self.lab, &self.tools(), &what).unwrap();
    }

    fn store(&self) -> String {
        self.folder.path().join("store").display().to_string()
    }

    /// By one who may do everything.
    fn unguarded(&self, args: &[&str]) -> Value {
        let (servers, store) = (self.tools(), self.store());
        let places = ["--bootstrap-servers", &servers, "--folder", &store];
        report(self.lab, &[args, &places].concat()).unwrap()
    }

    /// By [`USER`]: the exit code and the report.
    fn guarded(&self, args: &[&str]) -> (Option<i32>, Value) {
        let servers = self.secured.bootstrap(Listener::Sasl);
        let (store, secrets) = (self.store(), self.folder.path().join("secrets"));
        let against = match args.first() {
            Some(&"verify") => "--against",
            _ => "--bootstrap-servers",
        };
        let own = [against, &servers, "--folder", &store, "--output", "json"];
        let security =
            "--security-protocol SASL_PLAINTEXT --sasl-mechanism SCRAM-SHA-512 --sasl-secret least";
        let security: Vec<&str> = security.split(' ').collect();
        let places = ["--secrets-dir", path(&secrets)];
        let args = [args, &own, &security, &places].concat();
        let (status, said) = Worker::start(self.lab, &args).unwrap().end().unwrap();
        (status.code(), said)
    }

    /// `doctor` of a backup by [`USER`], of all topics of these tests: the exit code, and what it says.
    fn doctor(&self) -> (Option<i32>, String) {
        let object = json!({
            "apiVersion": "kafka-backup.dev/v1alpha1", "kind": "KafkaBackup", "metadata": {"name": "all"},
            "spec": {
                "topics": ["least-*"],
                "kafkaCluster": {
                    "bootstrapServers": [self.secured.bootstrap(Listener::Sasl)],
                    "securityProtocol": "SASL_PLAINTEXT",
                    "saslSecret": {"name": USER, "mechanism": "SCRAM-SHA-512"},
                },
                "storage": {"storageType": "pvc", "pvc": {"claimName": "any"}},
            },
        });
        let (file, store) = (self.folder.path().join("all.yaml"), self.store());
        std::fs::write(&file, object.to_string()).unwrap();
        let secrets = self.folder.path().join("secrets");
        let args = ["doctor", "-f", path(&file), "--output", "json"];
        let places = ["--secrets-dir", path(&secrets), "--volume-dir", &store];
        let (status, said) = Worker::start(self.lab, &[&args[..], &places].concat())
            .unwrap()
            .end()
            .unwrap();
        (status.code(), said.to_string())
    }

    fn allow(&self, acls: &[&str]) {
        self.secured.allow(USER, acls).unwrap();
    }

    fn forbid(&self, acls: &[&str]) {
        self.secured.forbid(USER, acls).unwrap();
    }

    /// Offsets that have records, in all partitions; `None`: there is no topic.
    fn filled(&self, topic: &str) -> Option<i64> {
        let there = tools::list_topics(self.lab, &self.tools()).unwrap();
        there.iter().find(|name| *name == topic)?;
        let offsets = tools::offsets(self.lab, &self.tools(), topic).unwrap();
        Some(offsets.iter().map(|it| it.end - it.start).sum())
    }

    fn prepare(&self, target: Target) {
        self.delete(|name| name == TARGET);
        match target {
            Target::Absent => {}
            Target::Empty => self.produce(TARGET, false),
            Target::Full => self.produce(TARGET, true),
        }
        self.commit(PARTITIONS);
    }

    /// Commits at the first `partitions` of the source.
    fn commit(&self, partitions: i32) {
        let committed = (0..partitions).map(|partition| Committed {
            group: GROUP.into(),
            topic: SOURCE.into(),
            partition,
            offset: 7,
            leader_epoch: None,
            metadata: String::new(),
        });
        let committed: Vec<_> = committed.collect();
        tools::commit_offsets(self.lab, &self.tools(), &committed).unwrap();
    }

    fn committed(&self) -> Vec<i64> {
        let of = tools::committed_offsets(self.lab, &self.tools(), &[GROUP.into()]).unwrap();
        of.iter().map(|one| one.offset).collect()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Case {
    fn args<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        let is_flag = self.args.first().is_some_and(|arg| arg.starts_with("--"));
        let mut args = if is_flag {
            RESTORE.to_vec()
        } else {
            Vec::new()
        };
        args.extend(self.args);
        match args[..2] {
            ["verify", _] => {}
            ["offsets", "snapshot"] => args.extend(["--snapshot-id", name]),
            ["offsets", "rollback"] => {}
            _ => args.extend(["--name", name]),
        }
        args
    }

    /// The row of the document.
    fn row(&self) -> String {
        let on = |kind: &str| {
            let of = |(acl, _): &(&str, &str)| {
                let (its, rest) = acl.split_once(':')?;
                (its == kind).then(|| camel(rest.split_once(':').unwrap().1))
            };
            let operations: Vec<String> = self.needs.iter().filter_map(of).collect();
            operations.join(", ")
        };
        format!(
            "| {} | {} | {} | {} | {} |\n",
            self.verb,
            on("topic"),
            on("group"),
            on("cluster"),
            self.note
        )
    }
}

/// As Kafka's tools write an operation: `DESCRIBE_CONFIGS` is DescribeConfigs.
fn camel(operation: &str) -> String {
    let words = operation.split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        format!("{first}{}", rest.to_lowercase())
    });
    words.collect()
}

/// The worker was refused, and says what it lacks on what: the operation, or the one that Kafka grants with it.
fn told(said: &(Option<i32>, Value), permission: &str, object: &str) -> bool {
    let (code, report) = said;
    let message = report["message"].as_str().unwrap_or_default();
    let granted_with = match permission {
        "Read" | "Write" | "Delete on the group" => "Describe",
        "AlterConfigs" => "DescribeConfigs",
        other => other,
    };
    let is_named = |operation: &str| message.contains(&format!("the permission {operation} "));
    let warnings = report["warnings"].to_string();
    match permission {
        UNSEEN => *code == Some(64) && message.contains("may not describe"),
        WARNED => *code == Some(0) && warnings.contains("Describe on the cluster"),
        _ => {
            let named = is_named(permission) || is_named(granted_with);
            let hidden = message.contains(&format!("may not describe {object}"));
            *code == Some(DENIED) && message.contains(object) && (named || hidden)
        }
    }
}

#[test]
fn exactly_these_suffice_and_each_that_is_missing_is_named() {
    let lab = Lab::open().unwrap();
    let place = Place::new(&lab);
    place.commit(1);
    place.unguarded(&["backup", "--name", "kept", "--topics", SOURCE]);
    let made = [
        &RESTORE[..RESTORE.len() - 1],
        &["least-source=least-made", "--name", "made"],
    ];
    place.unguarded(&made.concat());
    let snapshot = [
        "offsets",
        "snapshot",
        "--consumer-groups",
        GROUP,
        "--snapshot-id",
    ];
    place.unguarded(&[&snapshot[..], &[SNAPSHOT]].concat());
    place.commit(PARTITIONS);
    place.unguarded(&[&snapshot[..], &["both"]].concat());

    let mut wrong = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        let all: Vec<&str> = case.needs.iter().map(|(acl, _)| *acl).collect();
        place.allow(&all);
        place.prepare(case.target);
        for (number, (acl, named)) in case.needs.iter().enumerate() {
            place.forbid(&[acl]);
            // Of another name each: within a second a run of the same name goes on where this one has stopped.
            let name = format!("lacks-{index}-{number}");
            let said = place.guarded(&case.args(&name));
            let object = match acl.split(':').nth(1) {
                Some("kafka-cluster") | None => TARGET,
                Some(object) => object,
            };
            if !told(&said, named, object) {
                wrong.push(format!("{} without {acl}: {said:?}", case.verb));
            }
            let filled = place.filled(TARGET);
            let is_untouched = match case.target {
                Target::Absent => filled.unwrap_or(0) == 0,
                Target::Empty => filled == Some(0),
                Target::Full => filled == Some(RECORDS),
            };
            if !is_untouched || place.committed() != [7, 7] {
                wrong.push(format!(
                    "{} without {acl} left {filled:?} records, committed {:?}",
                    case.verb,
                    place.committed()
                ));
            }
            place.prepare(case.target);
            place.allow(&[acl]);
        }
        let (code, said) = place.guarded(&case.args(&format!("lacks-nothing-{index}")));
        let is_verb = case.args.first() == Some(&"verify");
        if code != Some(0) || (!is_verb && !is_success(&said)) {
            wrong.push(format!("{} with {all:?}: {code:?}, {said}", case.verb));
        }
        if case.args.first() == RESTORE.first()
            || case.args.first().is_some_and(|arg| arg.starts_with("--"))
        {
            let (own, reading) = (&place.tools(), Reading::default());
            let found = tools::compare(&lab, own, own, &[(SOURCE, TARGET)], reading).unwrap();
            if !found.equal {
                wrong.push(format!("{}: {found:?}", case.verb));
            }
        }
        place.forbid(&all);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    let mut table = String::from("\n| verb | topic | group | cluster | |\n|---|---|---|---|---|\n");
    table.extend(CASES.iter().map(Case::row));
    assert_golden_part(DOCUMENT, MARKS[0], MARKS[1], &table);
}

#[test]
fn what_a_glob_cannot_see_is_told() {
    let lab = Lab::open().unwrap();
    let place = Place::new(&lab);
    place.produce("least-hidden", true);
    let see = "cluster:kafka-cluster:DESCRIBE";
    let source = [
        "topic:least-source:READ",
        "topic:least-source:DESCRIBE_CONFIGS",
    ];
    let glob = ["--topics", "least-*", "--no-consumer-groups"];
    let backup = |name: &str, more: &[&str]| {
        place.guarded(&[&["backup", "--name", name][..], &glob, more].concat())
    };
    place.allow(&source);

    // Nobody can know: it is said so.
    let (code, said) = backup("blind", &[]);
    assert_eq!(code, Some(0), "{said}");
    let warnings = said["warnings"].to_string();
    assert!(warnings.contains("Describe on the cluster"), "{said}");
    let of_groups = ["backup", "--name", "groups", "--topics", SOURCE];
    let warnings = place.guarded(&of_groups).1["warnings"].to_string();
    assert!(warnings.contains("Describe on the cluster"), "{warnings}");
    let named = [
        &of_groups[..2],
        &["named", "--topics", SOURCE, "--no-consumer-groups"],
    ]
    .concat();
    let (code, said) = place.guarded(&named);
    assert!(
        code == Some(0) && said["warnings"].as_array().is_none_or(Vec::is_empty),
        "{said}"
    );

    let literal = ["backup", "--name", "literal", "--topics", "least-hidden"];
    let (code, said) = place.guarded(&literal);
    let message = said["message"].as_str().unwrap_or_default();
    assert_eq!(code, Some(DENIED), "{said}");
    assert!(message.contains("least-hidden"), "{message}");

    // Known, and not readable: refused, or told by name where that is asked for.
    place.allow(&[see]);
    let (code, said) = backup("refused", &[]);
    assert_eq!(code, Some(DENIED), "{said}");
    let message = said["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("least-hidden") && message.contains("excludeTopics"),
        "{message}"
    );
    let (code, said) = backup("ignored", &["--missing-topics", "Ignore"]);
    assert_eq!(code, Some(0), "{said}");
    let warnings = said["warnings"].to_string();
    assert!(warnings.contains("least-hidden"), "{said}");

    // `doctor` knows it before there is a run, and which permission it is of a topic that is seen.
    let (code, found) = place.doctor();
    assert_eq!(code, Some(DENIED), "{found}");
    assert!(found.contains("may not describe least-hidden"), "{found}");
    place.forbid(&[source[0], see]);
    place.allow(&["topic:least-source:DESCRIBE"]);
    let (code, found) = place.doctor();
    assert_eq!(code, Some(DENIED), "{found}");
    assert!(
        found.contains("least-source: the permission Read is missing"),
        "{found}"
    );
    place.forbid(&["topic:least-source:DESCRIBE"]);
    place.allow(&[source[0], see]);

    // Meant so.
    let (code, said) = backup("meant", &["--exclude-topics", "least-hidden"]);
    assert!(
        code == Some(0) && said["warnings"].as_array().is_none_or(Vec::is_empty),
        "{said}"
    );
    place.forbid(&[see, source[0], source[1]]);
    place.delete(|name| name.starts_with("least-"));
}
