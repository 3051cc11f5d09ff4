//! Backups and restores by the worker's program through TLS and SASL: record by record, beyond the life of a session, and while a
//! password is exchanged. What it says is searched for secrets.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce, Reading};
use kafka_backup_tests::lab::secure::tokens;
use kafka_backup_tests::lab::secure::{
    Identity, Listener, Mechanism, REAUTHENTICATION, Secured, password, pki,
};
use kafka_backup_tests::lab::{Lab, net, versitygw, wait_for};

/// In each password, key and token of these tests, or the whole of it.
fn canaries(lab: &Lab) -> Vec<String> {
    let key = std::fs::read_to_string(Identity::Alice.key(lab)).unwrap();
    let line = key.lines().nth(1).unwrap().to_owned();
    // Tokens are signed JSON: all begin with {" in base64.
    vec![
        password("alice"),
        password("rotating"),
        "rotated-secret".to_owned(),
        versitygw::SECRET_KEY.to_owned(),
        line,
        "eyJ".to_owned(),
    ]
}

fn write(folder: &Path, secret: &str, key: &str, text: &str) {
    std::fs::create_dir_all(folder.join(secret)).unwrap();
    let path = folder.join(secret).join(key);
    let new = folder.join(secret).join(".new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(&new, path).unwrap();
}

fn secrets(lab: &Lab, folder: &Path) {
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    write(folder, "ca", "ca.crt", &text(&pki::ca(lab)));
    let alice = Identity::Alice;
    write(folder, "cert", "tls.crt", &text(&alice.certificate(lab)));
    write(folder, "cert", "tls.key", &text(&alice.key(lab)));
    for (key, value) in [
        ("username", "alice"),
        ("password", &*password("alice")),
        ("clientId", "alice"),
        ("clientSecret", &*password("alice")),
    ] {
        write(folder, "alice", key, value);
    }
}

const MUTUAL: &[&str] = &[
    "--security-protocol",
    "SSL",
    "--ca-secret",
    "ca",
    "--tls-secret",
    "cert",
];

fn scram(secret: &'static str) -> Vec<&'static str> {
    let words =
        "--security-protocol SASL_SSL --ca-secret ca --sasl-mechanism SCRAM-SHA-512 --sasl-secret";
    words.split(' ').chain([secret]).collect()
}

fn token() -> Vec<&'static str> {
    let words = "--security-protocol SASL_SSL --ca-secret ca --sasl-mechanism OAUTHBEARER --sasl-secret alice --oauth-scope lifetime-20 --oauth-token-endpoint";
    words.split(' ').chain([tokens::TLS_ENDPOINT]).collect()
}

/// Clusters are set up anew by each test, users and ACLs included: one at a time.
static TURN: Mutex<()> = Mutex::new(());

/// A run in a folder of its own.
struct Runs<'a> {
    _turn: MutexGuard<'static, ()>,
    lab: &'a Lab,
    secured: Secured<'a>,
    folder: tempfile::TempDir,
    canaries: Vec<String>,
}

impl<'a> Runs<'a> {
    fn new(lab: &'a Lab, secured: Secured<'a>) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        tokens::up(lab).unwrap();
        secured.up().unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("store")).unwrap();
        secrets(lab, &folder.path().join("secrets"));
        Self {
            _turn: turn,
            lab,
            secured,
            folder,
            canaries: canaries(lab),
        }
    }

    fn store(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    fn secrets(&self) -> std::path::PathBuf {
        self.folder.path().join("secrets")
    }

    /// The worker with the Secrets.
    fn command(&self, args: &[&str]) -> Command {
        let worker = self.lab.target().join("release/kafka-backup-worker");
        let mut command = net::command(self.lab, worker).unwrap();
        command
            .args(args)
            .arg("--secrets-dir")
            .arg(self.secrets())
            // Everything that it could ever log; of TLS and HTTP, too.
            .args(["--log-level", "trace"]);
        command
    }

    fn said(&self, output: &Output) -> String {
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        self.search(&said);
        said
    }

    fn search(&self, said: &str) {
        for canary in &self.canaries {
            let at = said.find(canary.as_str());
            let around = at.map(|at| {
                said[at.saturating_sub(200)..]
                    .chars()
                    .take(300)
                    .collect::<String>()
            });
            assert_eq!(around, None, "a secret is shown");
        }
    }

    /// Runs the worker; it must succeed.
    fn run(&self, args: &[&str]) -> String {
        let mut command = self.command(args);
        let output = command.arg("--folder").arg(self.store()).output().unwrap();
        let said = self.said(&output);
        assert!(output.status.success(), "{args:?}: {}", end_of(&said));
        said
    }

    fn backup(
        &self,
        name: &str,
        topic: &str,
        listener: Listener,
        security: &[&str],
    ) -> Vec<String> {
        let what = ["backup", "--name", name, "--topics", topic];
        self.with_cluster(&what, listener, security)
    }

    fn restore(
        &self,
        name: &str,
        topic: &str,
        listener: Listener,
        security: &[&str],
    ) -> Vec<String> {
        let mapping = format!("{topic}={topic}-{name}");
        let from = ["--backup-id", "latest", "--archive", "default/a"];
        let to = ["--topics", topic, "--topic-mapping", &mapping];
        let what = [&["restore", "--name", name], &from[..], &to].concat();
        self.with_cluster(&what, listener, security)
    }

    fn with_cluster(&self, what: &[&str], listener: Listener, security: &[&str]) -> Vec<String> {
        let servers = self.secured.bootstrap(listener);
        let all = [what, &["--bootstrap-servers", &servers], security].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn compare(&self, topic: &str, name: &str) {
        let servers = self.secured.tools();
        let target = format!("{topic}-{name}");
        let topics = [(topic, target.as_str())];
        let compared = tools::compare(
            self.lab,
            &servers,
            &servers,
            &topics,
            Reading {
                committed_only: true,
                append_time_as_create: true,
            },
        );
        compared.unwrap().assert_equal();
    }
}

fn strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

fn end_of(text: &str) -> String {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("TRACE") && !line.contains("DEBUG"))
        .collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

fn produce(runs: &Runs, topic: &str, records: u64) {
    let what = Produce {
        topic,
        partitions: 6,
        records,
        create: Some(&[]),
        ..Produce::default()
    };
    let servers = runs.secured.tools();
    // Of an earlier run of this test, with what it restored.
    let theirs = format!("{topic}-");
    let is_ours = |name: &str| name == topic || name.starts_with(&theirs);
    tools::delete_topics_where(runs.lab, &servers, is_ours).unwrap();
    tools::produce(runs.lab, &servers, &what).unwrap();
}

#[test]
fn records_come_back_through_certificates_passwords_and_tokens() {
    let lab = Lab::open().unwrap();
    let runs = Runs::new(&lab, Secured::three(&lab));
    produce(&runs, "locked", 20_000);
    let (scram, token) = (scram("alice"), token());
    for (name, listener, security) in [
        ("mtls", Listener::MutualTls, MUTUAL),
        ("scram", Listener::SaslTls, &scram[..]),
        ("oauth", Listener::SaslTls, &token[..]),
    ] {
        runs.run(&strs(&runs.backup("a", "locked", listener, security)));
        runs.run(&strs(&runs.restore(name, "locked", listener, security)));
        runs.compare("locked", name);
        // By rdkafka, with the same flags.
        let servers = runs.secured.bootstrap(listener);
        let mut verify = vec![
            "verify",
            "--against",
            &servers,
            "--restore",
            name,
            "--archive",
            "default/a",
        ];
        verify.extend(security);
        let said = runs.run(&verify);
        assert!(
            said.contains("20,000") || said.contains("20000"),
            "{}",
            end_of(&said)
        );
    }
}

#[test]
fn runs_outlive_their_sessions() {
    let lab = Lab::open().unwrap();
    let runs = Runs::new(&lab, Secured::one(&lab));
    produce(&runs, "lasting", 60_000);
    // Three sessions at least, of passwords as of tokens.
    let slow = |bytes: u64| {
        let seconds = REAUTHENTICATION.as_secs() * 3;
        (bytes / seconds).to_string()
    };
    let (scram, token) = (scram("alice"), token());
    for (name, security) in [("scram", &scram), ("token", &token)] {
        let full = runs.run(&strs(&runs.backup(
            "size",
            "lasting",
            Listener::Plaintext,
            &[],
        )));
        assert!(!full.is_empty());
        let bytes: u64 = segments(&runs.folder.path().join("store/default/size"));
        let rate = slow(bytes);
        let mut backup = runs.backup("a", "lasting", Listener::Reauthenticating, security);
        backup.extend(["--bytes-per-second".to_owned(), rate.clone()]);
        if name == "token" {
            // Everything anew.
            std::fs::remove_dir_all(runs.folder.path().join("store/default/a")).unwrap();
        }
        let started = std::time::Instant::now();
        runs.run(&strs(&backup));
        assert!(
            started.elapsed() > REAUTHENTICATION * 2,
            "{:?}",
            started.elapsed()
        );
        let mut restore = runs.restore(name, "lasting", Listener::Reauthenticating, security);
        restore.extend(["--bytes-per-second".to_owned(), rate]);
        let started = std::time::Instant::now();
        let said = runs.run(&strs(&restore));
        assert!(
            started.elapsed() > REAUTHENTICATION * 2,
            "{:?}",
            started.elapsed()
        );
        assert!(
            !said.contains("could not be proven anew"),
            "sessions are renewed"
        );
        runs.compare("lasting", name);
    }
}

#[test]
fn an_s3_server_is_trusted_by_the_ca_of_its_secret_only() {
    let lab = Lab::open().unwrap();
    let runs = Runs::new(&lab, Secured::one(&lab));
    produce(&runs, "private", 2000);
    versitygw::down_with_tls(&lab).unwrap();
    versitygw::up_with_tls(&lab, versitygw::SECRET_KEY).unwrap();
    write(&runs.secrets(), "keys", "accessKey", versitygw::ACCESS_KEY);
    write(&runs.secrets(), "keys", "secretKey", versitygw::SECRET_KEY);
    let store = format!(
        "--s3-bucket {} --s3-endpoint {} --s3-path-style --s3-credentials-secret keys",
        versitygw::BUCKET,
        versitygw::TLS_ENDPOINT
    );
    let run = |args: &[String], trusted: &[&str]| {
        let args = [
            &strs(args)[..],
            &store.split(' ').collect::<Vec<_>>(),
            trusted,
        ]
        .concat();
        let output = runs.command(&args).output().unwrap();
        (output.status.code(), runs.said(&output))
    };
    let backup = runs.backup("a", "private", Listener::SaslTls, &scram("alice"));
    let (code, said) = run(&backup, &[]);
    assert_eq!(code, Some(77));
    assert!(said.contains("UnknownIssuer"), "{}", end_of(&said));
    let ca = ["--s3-ca-secret", "ca"];
    let (code, said) = run(&backup, &ca);
    assert_eq!(code, Some(0), "{}", end_of(&said));
    let restore = runs.restore("tls", "private", Listener::SaslTls, &scram("alice"));
    let (code, said) = run(&restore, &ca);
    assert_eq!(code, Some(0), "{}", end_of(&said));
    runs.compare("private", "tls");
    versitygw::down_with_tls(&lab).unwrap();
}

fn segments(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        sum += match entry.file_type().unwrap().is_dir() {
            true => segments(&entry.path()),
            false => entry.metadata().unwrap().len(),
        };
    }
    sum
}

#[test]
fn a_password_is_exchanged_while_a_run_goes_on() {
    let lab = Lab::open().unwrap();
    let runs = Runs::new(&lab, Secured::three(&lab));
    let user = "rotating";
    let (old, new) = (password(user), "rotated-secret".to_owned());
    let mechanism = Mechanism::ScramSha512;
    runs.secured.set_scram(user, mechanism, &old).unwrap();
    let everything = ["topic:*:ALL", "group:*:ALL", "cluster:kafka-cluster:ALL"];
    runs.secured.allow(user, &everything).unwrap();
    write(&runs.secrets(), user, "username", user);
    write(&runs.secrets(), user, "password", &old);
    produce(&runs, "rotated", 60_000);
    let mut args = runs.backup("a", "rotated", Listener::SaslTls, &scram("rotating"));
    args.extend(["--bytes-per-second".to_owned(), "1000000".to_owned()]);
    let log = runs.folder.path().join("log");
    let mut command = runs.command(&strs(&args));
    command.arg("--folder").arg(runs.store());
    command.stderr(std::fs::File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let store = runs.folder.path().join("store/default/a");
    let begun = || store.exists() && segments(&store) > 0;
    wait_for(
        "the first bytes in the store",
        Duration::from_secs(60),
        begun,
    )
    .unwrap();
    // The cluster has the new password, the Secret not yet; then every connection breaks.
    runs.secured.set_scram(user, mechanism, &new).unwrap();
    for id in 1..=3 {
        runs.secured.cluster().kill_broker(&lab, id).unwrap();
        runs.secured.start_broker(id).unwrap();
    }
    let said = || std::fs::read_to_string(&log).unwrap();
    let refused = || said().contains("failed to authenticate");
    wait_for("a refusal", Duration::from_secs(60), refused).unwrap();
    assert!(child.try_wait().unwrap().is_none(), "{}", end_of(&said()));
    write(&runs.secrets(), user, "password", &new);
    wait_for("the worker to end", Duration::from_secs(240), || {
        child.try_wait().is_ok_and(|ended| ended.is_some())
    })
    .unwrap();
    assert!(child.wait().unwrap().success(), "{}", end_of(&said()));
    runs.search(&said());
    // The next run has the new one from the start.
    let restore = runs.restore("rotated", "rotated", Listener::SaslTls, &scram("rotating"));
    runs.run(&strs(&restore));
    runs.compare("rotated", "rotated");

    // With the old one nothing begins, and at once.
    write(&runs.secrets(), user, "password", &old);
    let again = runs.backup("b", "rotated", Listener::SaslTls, &scram("rotating"));
    let mut command = runs.command(&strs(&again));
    let output = command.arg("--folder").arg(runs.store()).output().unwrap();
    let text = runs.said(&output);
    assert_eq!(output.status.code(), Some(77), "{}", end_of(&text));
    let words: BTreeMap<&str, bool> = [
        "SCRAM-SHA-512",
        "failed to authenticate",
        "invalid credentials",
    ]
    .into_iter()
    .map(|word| (word, text.contains(word)))
    .collect();
    assert!(
        words.values().all(|there| *there),
        "{words:?}: {}",
        end_of(&text)
    );
}
