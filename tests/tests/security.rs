//! Every way in which brokers are locked down, by both of the worker's clients: its own (`wire`) and rdkafka. What they are told is
//! kept in docs/security-modes.md; `GOLDEN=write` writes it. Which cases work is compared, the words of refusals are not: of several,
//! the first that comes is told.
#![allow(clippy::unwrap_used, reason = "a test")]

mod golden;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use golden::{read, root};
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::KafkaCluster;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Produce};
use kafka_backup_tests::lab::secure::tokens;
use kafka_backup_tests::lab::secure::{Identity, Listener, Secured, password, pki};
use kafka_backup_tests::lab::{Lab, NODE_IP};
use kafka_backup_worker::kafka::{Client, ClientConfig, IsolationLevel, KafkaError, TopicFilter};
use kafka_backup_worker::reader::{Reader, ReaderError};
use serde_json::{Value, json};

const TOPIC: &str = "security-modes";
const DOCUMENT: &str = "docs/security-modes.md";

/// A way to a broker.
struct Case {
    what: &'static str,
    listener: Listener,
    /// Of `kafkaCluster`, without its servers.
    fields: Value,
    reached: bool,
}

fn case(what: &'static str, listener: Listener, fields: Value, reached: bool) -> Case {
    Case {
        what,
        listener,
        fields,
        reached,
    }
}

fn sasl(mechanism: &str, secret: &str) -> Value {
    json!({"name": secret, "mechanism": mechanism})
}

fn oauth(secret: &str, oauth: Value) -> Value {
    json!({"name": secret, "mechanism": "OAUTHBEARER", "oauth": oauth})
}

/// The Secrets that the cases name, as files.
fn secrets(lab: &Lab, folder: &Path) {
    let write = |secret: &str, key: &str, text: &str| {
        std::fs::create_dir_all(folder.join(secret)).unwrap();
        std::fs::write(folder.join(secret).join(key), text).unwrap();
    };
    let copy = |secret: &str, key: &str, path: &Path| {
        write(secret, key, &std::fs::read_to_string(path).unwrap());
    };
    copy("ca", "ca.crt", &pki::ca(lab));
    copy("other-ca", "ca.crt", &pki::other_ca(lab));
    for (secret, identity) in [
        ("alice-cert", Identity::Alice),
        ("expired-cert", Identity::Expired),
        ("foreign-cert", Identity::OtherAuthority),
    ] {
        copy(secret, "ca.crt", &pki::ca(lab));
        copy(secret, "tls.crt", &identity.certificate(lab));
        copy(secret, "tls.key", &identity.key(lab));
    }
    for (secret, user, password) in [
        ("alice", "alice", password("alice")),
        ("wrong", "alice", "wrong".to_owned()),
        ("unknown", "mallory", password("alice")),
    ] {
        write(secret, "username", user);
        write(secret, "password", &password);
        write(secret, "clientId", user);
        write(secret, "clientSecret", &password);
    }
    write("broken", "clientId", "broken.alice");
    write("broken", "clientSecret", &password("alice"));
    let user = ("alice", &*password("alice"));
    let token = |scope: &str| {
        let (_, answer) = tokens::ask(lab, tokens::ENDPOINT, user, scope).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    };
    write("token", "token", &token("kafka"));
    write("token", "forged", &token("forged"));
    write("token", "foreign", &token("other-audience"));
    write("token", "expired", &token("lifetime-1"));
}

fn cases() -> Vec<Case> {
    let ca = json!({"name": "ca"});
    let mut cases = vec![
        case("no security", Listener::Plaintext, json!({}), true),
        case(
            "TLS",
            Listener::Tls,
            json!({"securityProtocol": "SSL", "caSecret": ca}),
            true,
        ),
        case(
            "TLS with a client certificate",
            Listener::MutualTls,
            json!({"securityProtocol": "SSL", "tlsSecret": {"name": "alice-cert"}}),
            true,
        ),
    ];
    for (protocol, listener, trusted) in [
        ("SASL_PLAINTEXT", Listener::Sasl, json!({})),
        ("SASL_SSL", Listener::SaslTls, json!({"caSecret": ca})),
    ] {
        let with = |sasl: Value| {
            let mut fields = trusted.clone();
            fields["securityProtocol"] = json!(protocol);
            fields["saslSecret"] = sasl;
            fields
        };
        let words = |plain, tls| match protocol {
            "SASL_PLAINTEXT" => plain,
            _ => tls,
        };
        for (mechanism, what) in [
            ("PLAIN", words("PLAIN", "PLAIN over TLS")),
            (
                "SCRAM-SHA-256",
                words("SCRAM-SHA-256", "SCRAM-SHA-256 over TLS"),
            ),
            (
                "SCRAM-SHA-512",
                words("SCRAM-SHA-512", "SCRAM-SHA-512 over TLS"),
            ),
        ] {
            cases.push(case(what, listener, with(sasl(mechanism, "alice")), true));
        }
        let what = words("a token of an endpoint", "a token of an endpoint, over TLS");
        let endpoint =
            json!({"tokenEndpoint": tokens::ENDPOINT, "allowHttp": true, "scope": "kafka"});
        cases.push(case(what, listener, with(oauth("alice", endpoint)), true));
        let what = words("a token of the Secret", "a token of the Secret, over TLS");
        let key = json!({"tokenKey": "token"});
        cases.push(case(what, listener, with(oauth("token", key)), true));
        for (mechanism, what) in [
            (
                "PLAIN",
                words("PLAIN, wrong password", "PLAIN over TLS, wrong password"),
            ),
            (
                "SCRAM-SHA-512",
                words(
                    "SCRAM-SHA-512, wrong password",
                    "SCRAM-SHA-512 over TLS, wrong password",
                ),
            ),
        ] {
            cases.push(case(what, listener, with(sasl(mechanism, "wrong")), false));
        }
    }
    let tls = |fields: Value| {
        let mut fields = fields;
        fields["securityProtocol"] = json!("SSL");
        fields
    };
    let sasl_tls = |sasl: Value| json!({"securityProtocol": "SASL_SSL", "caSecret": {"name": "ca"}, "saslSecret": sasl});
    let endpoint = |url: &str, scope: &str| {
        let http = url.starts_with("http://");
        json!({"tokenEndpoint": url, "allowHttp": http, "scope": scope})
    };
    cases.extend([
        case(
            "a token of an endpoint with TLS",
            Listener::SaslTls,
            sasl_tls(oauth("alice", endpoint(tokens::TLS_ENDPOINT, "kafka"))),
            true,
        ),
        case(
            "TLS, another CA",
            Listener::Tls,
            tls(json!({"caSecret": {"name": "other-ca"}})),
            false,
        ),
        case("TLS, the public CAs", Listener::Tls, tls(json!({})), false),
        case(
            "TLS, certificate of another host",
            Listener::WrongName,
            tls(json!({"caSecret": ca})),
            false,
        ),
        case(
            "TLS, no client certificate",
            Listener::MutualTls,
            tls(json!({"caSecret": ca})),
            false,
        ),
        case(
            "TLS, expired client certificate",
            Listener::MutualTls,
            tls(json!({"tlsSecret": {"name": "expired-cert"}})),
            false,
        ),
        case(
            "TLS, client certificate of another CA",
            Listener::MutualTls,
            tls(json!({"tlsSecret": {"name": "foreign-cert"}})),
            false,
        ),
        case("no TLS at a TLS listener", Listener::Tls, json!({}), false),
        case(
            "TLS at a listener without",
            Listener::Plaintext,
            tls(json!({"caSecret": ca})),
            false,
        ),
        case(
            "no SASL at a SASL listener",
            Listener::Sasl,
            json!({}),
            false,
        ),
        case(
            "SASL at a listener without",
            Listener::Tls,
            sasl_tls(sasl("PLAIN", "alice")),
            false,
        ),
        case(
            "SCRAM-SHA-256, unknown user",
            Listener::SaslTls,
            sasl_tls(sasl("SCRAM-SHA-256", "unknown")),
            false,
        ),
        case(
            "token endpoint, wrong client secret",
            Listener::SaslTls,
            sasl_tls(oauth("wrong", endpoint(tokens::ENDPOINT, "kafka"))),
            false,
        ),
        case(
            "token endpoint, server error",
            Listener::SaslTls,
            sasl_tls(oauth("broken", endpoint(tokens::ENDPOINT, "kafka"))),
            false,
        ),
        case(
            "a forged token",
            Listener::SaslTls,
            sasl_tls(oauth("token", json!({"tokenKey": "forged"}))),
            false,
        ),
        case(
            "a token for somebody else",
            Listener::SaslTls,
            sasl_tls(oauth("token", json!({"tokenKey": "foreign"}))),
            false,
        ),
        case(
            "an expired token",
            Listener::SaslTls,
            sasl_tls(oauth("token", json!({"tokenKey": "expired"}))),
            false,
        ),
    ]);
    cases
}

fn config(case: &Case, secured: &Secured, folder: &Path) -> ClientConfig {
    let mut block = case.fields.clone();
    block["bootstrapServers"] = json!([secured.bootstrap(case.listener)]);
    let cluster: KafkaCluster = serde_json::from_value(block).unwrap();
    cluster.check("spec.kafkaCluster").unwrap();
    ClientConfig {
        // Nobody waits for what a moment later would not be otherwise.
        retry_timeout: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(5),
        ..ClientConfig::new(&cluster, folder, "security-test")
    }
}

async fn by_wire(config: ClientConfig) -> Result<(), KafkaError> {
    let client = Client::connect(config).await?;
    client.topics(&TopicFilter::All).await.map(drop)
}

async fn by_rdkafka(config: ClientConfig) -> Result<(), ReaderError> {
    let patience = Duration::from_secs(15);
    let topic = Arc::from(TOPIC);
    let mut reader = Reader::new(&config, &topic, IsolationLevel::ReadCommitted, patience).await?;
    reader.assign(0, 0)?;
    reader.next().await.map(drop)
}

/// What differs from run to run is left out.
fn words(error: &dyn std::error::Error) -> String {
    let text = error_chain(error);
    let mut kept: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let is_broker = word.contains(NODE_IP) && !word.contains("http");
        let word = if is_broker { "BROKER" } else { word };
        if !is_broker || kept.last().is_none_or(|last| last != word) {
            kept.push(word.to_owned());
        }
    }
    let text = kept.join(" ");
    // librdkafka adds how long it took, and where in OpenSSL.
    let text = text.split(" (after ").next().unwrap_or(&text).to_owned();
    text.replace('|', "/")
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_is_taken_and_each_wrong_one_is_refused_with_the_reason() {
    let lab = Lab::open().unwrap();
    tokens::up(&lab).unwrap();
    let secured = Secured::one(&lab);
    secured.up().unwrap();
    let what = Produce {
        topic: TOPIC,
        partitions: 1,
        records: 10,
        create: Some(&[]),
        ..Produce::default()
    };
    let servers = secured.tools();
    if !tools::list_topics(&lab, &servers)
        .unwrap()
        .contains(&TOPIC.to_owned())
    {
        tools::produce(&lab, &servers, &what).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    secrets(&lab, folder.path());
    // One of the tokens lives for a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let cases = cases();
    let asked = cases.iter().map(|case| {
        let (wire, rdkafka) = (
            config(case, &secured, folder.path()),
            config(case, &secured, folder.path()),
        );
        async move { tokio::join!(by_wire(wire), by_rdkafka(rdkafka)) }
    });
    let answers = futures::future::join_all(asked).await;

    let mut text = String::from(
        "# Security modes, and what is said about each\n\n\
         Made by `tests/tests/security.rs` from the answers of real brokers (Kafka 4.1). The worker reads and writes records by a client of\n\
         its own; rdkafka (librdkafka, OpenSSL) reads what is compared. Both get the same settings and Secrets.\n\n\
         | `securityProtocol` | with | its own client | rdkafka |\n|---|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    for (case, (wire, rdkafka)) in cases.iter().zip(&answers) {
        let protocol = case.fields["securityProtocol"]
            .as_str()
            .unwrap_or("PLAINTEXT");
        let wire = wire.as_ref().map_err(|error| (error.fault(), words(error)));
        let rdkafka = rdkafka
            .as_ref()
            .map_err(|error| (error.fault(), words(error)));
        let told = |answer: &Result<&(), (Fault, String)>| match answer {
            Ok(()) => "works".to_owned(),
            Err((fault, words)) => format!("{fault:?}: {words}"),
        };
        let (what, [wire_told, rdkafka_told]) = (case.what, [told(&wire), told(&rdkafka)]);
        let line = format!("| {protocol} | {what} | {wire_told} | {rdkafka_told} |\n");
        for answer in [&wire, &rdkafka] {
            let is_right = match answer {
                Ok(()) => case.reached,
                Err((fault, _)) => !case.reached && *fault != Fault::Bug,
            };
            if !is_right {
                wrong.push(line.clone());
            }
        }
        text.push_str(&line);
    }
    assert!(wrong.is_empty(), "{}\n{text}", wrong.concat());
    for secret in ["alice-secret", "eyJ"] {
        assert!(!text.contains(secret), "{secret} is shown:\n{text}");
    }
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(root().join(DOCUMENT), &text).unwrap();
    }
    let kept = read(DOCUMENT);
    assert_eq!(
        shape(&kept),
        shape(&text),
        "{DOCUMENT} differs; GOLDEN=write writes it:\n{text}"
    );
}

/// What does not depend on which of several words comes first: which cases there are, and which of them work.
fn shape(text: &str) -> Vec<(String, String, bool, bool)> {
    let row = |line: &str| {
        let columns: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, protocol, what, wire, rdkafka, _] = columns[..] else {
            return None;
        };
        Some((
            protocol.to_owned(),
            what.to_owned(),
            wire == "works",
            rdkafka == "works",
        ))
    };
    text.lines().filter_map(row).collect()
}
