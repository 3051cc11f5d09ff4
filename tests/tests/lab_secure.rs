//! The lab's secured Kafka clusters are what they say: each listener and mechanism lets in whom it should, and nobody else, by clients
//! that are not ours: Kafka's own and librdkafka.
//!
//! Needs `cargo lab up kafka-secure kafka-secure3`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod secure_clients;

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use kafka_backup_tests::lab::kafka_tools::{self as tools, Replicas};
use kafka_backup_tests::lab::secure::{
    Credentials, Identity, Listener, Mechanism, REAUTHENTICATION, Secured, USERS, password, pki,
    tokens,
};
use kafka_backup_tests::lab::{Lab, LabError, NODE_IP, process, wait_for};
use secure_clients::{Librdkafka, api_versions, authenticated_once, exchange};

/// Listeners of SASL, and the mechanisms with passwords.
const SASL: [Listener; 3] = [
    Listener::Sasl,
    Listener::SaslTls,
    Listener::Reauthenticating,
];
const PASSWORDS: [Mechanism; 3] = [
    Mechanism::Plain,
    Mechanism::ScramSha256,
    Mechanism::ScramSha512,
];
const ALICE: &str = "alice-secret";

/// A lab whose secured brokers run.
fn lab() -> Lab {
    let lab = Lab::open().unwrap();
    assert!(
        process::is_running(&lab, tokens::NAME),
        "run `cargo lab up kafka-secure kafka-secure3`"
    );
    lab
}

/// An empty topic of one partition.
fn fresh(lab: &Lab, at: &Secured<'_>, topic: &str) {
    match tools::delete_topics(lab, &at.tools(), &[topic]) {
        Ok(()) => {}
        Err(LabError::Program { output, .. }) if output.contains("UnknownTopicOrPartition") => {}
        Err(error) => panic!("{error}"),
    }
    tools::create_topic(lab, &at.tools(), topic, 1, &[]).unwrap();
}

/// A token of the server's.
fn token(lab: &Lab, user: &str, scope: &str) -> String {
    let client = (user, password(user));
    let (status, body) = tokens::ask(lab, tokens::ENDPOINT, (client.0, &client.1), scope).unwrap();
    assert_eq!(status, 200, "{body}");
    body["access_token"].as_str().unwrap().to_owned()
}

/// What Kafka's own producer says.
fn java(
    lab: &Lab,
    at: &Secured<'_>,
    (listener, credentials): (Listener, Credentials<'_>),
    topic: &str,
) -> Result<i64, String> {
    let config = at.client(listener, credentials);
    tools::write_with(lab, &config, topic, "by Kafka's own").unwrap()
}

/// Asserts that a client was refused in these words.
fn refused<T: std::fmt::Debug>(what: &str, result: Result<T, String>, words: &str) {
    let said = match result {
        Ok(value) => panic!("{what} was let in: {value:?}"),
        Err(said) => said,
    };
    assert!(said.contains(words), "{what}: {said:?} is not {words:?}");
}

#[test]
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
fn right_credentials_write_and_read() {
    let lab = lab();
    let at = Secured::one(&lab);
    let topic = "secure-right";
    fresh(&lab, &at, topic);
    let mut cases = vec![
        (Listener::Plaintext, Credentials::None),
        (Listener::Tls, Credentials::None),
        (
            Listener::MutualTls,
            Credentials::Certificate(Identity::Alice),
        ),
    ];
    let token = token(&lab, "alice", "kafka");
    for listener in SASL {
        let by_password = |mechanism| Credentials::Password(mechanism, "alice", ALICE);
        cases.extend(PASSWORDS.map(|mechanism| (listener, by_password(mechanism))));
        cases.push((listener, Credentials::Token("alice", ALICE, "kafka")));
    }
    for (at_listener, credentials) in cases {
        let what = format!("{at_listener:?} {credentials:?}");
        let config = at.client(at_listener, credentials);
        let offset = tools::write_with(&lab, &config, topic, &what).unwrap();
        let offset = offset.unwrap_or_else(|said| panic!("{what}: {said}"));
        let read = tools::read_with(&lab, &config, topic, offset).unwrap();
        assert_eq!(read.as_ref(), Ok(&what));

        // librdkafka gets the token from the test.
        let credentials = match credentials {
            Credentials::Token(..) => Credentials::Token("", &token, ""),
            other => other,
        };
        let client = Librdkafka::new(&lab, &at, at_listener, credentials);
        let offset = client.write(topic, &what);
        let offset = offset.unwrap_or_else(|said| panic!("librdkafka, {what}: {said}"));
        assert_eq!(client.read(topic, offset).as_ref(), Ok(&what));
    }
}

#[test]
fn wrong_passwords_and_unknown_users_are_refused() {
    let lab = lab();
    let at = Secured::one(&lab);
    for listener in SASL {
        for mechanism in PASSWORDS {
            let words = if mechanism == Mechanism::Plain {
                "Authentication failed: Invalid username or password".to_owned()
            } else {
                format!(
                    "invalid credentials with SASL mechanism {}",
                    mechanism.name()
                )
            };
            for (user, wrong) in [("alice", "wrong"), ("eve", ALICE)] {
                let credentials = Credentials::Password(mechanism, user, wrong);
                let what = format!("{listener:?} {credentials:?}");
                let answer = java(&lab, &at, (listener, credentials), "any");
                refused(&what, answer, &words);
                let client = Librdkafka::new(&lab, &at, listener, credentials);
                refused(&what, client.write("any", "x"), &words);
            }
        }
    }
}

#[test]
fn bad_tokens_are_refused() {
    let lab = lab();
    let at = Secured::one(&lab);
    for listener in SASL {
        for scope in ["forged", "other-audience"] {
            let credentials = Credentials::Token("alice", ALICE, scope);
            let answer = java(&lab, &at, (listener, credentials), "any");
            refused(scope, answer, "{\"status\":\"invalid_token\"}");
        }
    }
    // One that was good: librdkafka sends what it is given.
    let old = token(&lab, "alice", "lifetime-1");
    std::thread::sleep(Duration::from_millis(2100));
    let client = Librdkafka::new(
        &lab,
        &at,
        Listener::SaslTls,
        Credentials::Token("", &old, ""),
    );
    refused("an old token", client.write("any", "x"), "invalid_token");
    let credentials = Credentials::Token("alice", "wrong", "kafka");
    let answer = java(&lab, &at, (Listener::SaslTls, credentials), "any");
    refused("a wrong secret", answer, "The response code 401");
}

#[test]
fn bad_certificates_of_clients_are_refused() {
    let lab = lab();
    let at = Secured::one(&lab);
    let cases = [
        (Credentials::None, "bad_certificate", "bad certificate"),
        (
            Credentials::Certificate(Identity::Expired),
            "certificate_unknown",
            "certificate unknown",
        ),
        (
            Credentials::Certificate(Identity::OtherAuthority),
            "bad_certificate",
            "bad certificate",
        ),
    ];
    for (credentials, by_java, by_librdkafka) in cases {
        let what = format!("{credentials:?}");
        let answer = java(&lab, &at, (Listener::MutualTls, credentials), "any");
        refused(&what, answer, by_java);
        let client = Librdkafka::new(&lab, &at, Listener::MutualTls, credentials);
        refused(&what, client.write("any", "x"), by_librdkafka);
    }
}

#[test]
fn brokers_that_cannot_be_trusted_are_not() {
    let lab = lab();
    let at = Secured::one(&lab);
    let topic = "secure-trust";
    fresh(&lab, &at, topic);

    let answer = java(&lab, &at, (Listener::WrongName, Credentials::None), topic);
    let words = "No subject alternative names matching IP address 198.18.0.2 found";
    refused("another name", answer, words);
    let mut client = Librdkafka::new(&lab, &at, Listener::WrongName, Credentials::None);
    let words = "certificate verify failed";
    refused("another name", client.write(topic, "x"), words);
    // The name is all that is wrong.
    client
        .config
        .set("ssl.endpoint.identification.algorithm", "none");
    client.write(topic, "x").unwrap();

    let other = pki::other_ca(&lab).display().to_string();
    let mut config = at.client(Listener::Tls, Credentials::None);
    config.push(("ssl.truststore.location".to_owned(), other.clone()));
    let answer = tools::write_with(&lab, &config, topic, "x").unwrap();
    let words = "unable to find valid certification path to requested target";
    refused("another authority", answer, words);
    let mut client = Librdkafka::new(&lab, &at, Listener::Tls, Credentials::None);
    client.config.set("ssl.ca.location", other);
    let words = "certificate verify failed";
    refused("another authority", client.write(topic, "x"), words);
}

#[test]
fn tls_and_no_tls_do_not_meet() {
    let lab = lab();
    let at = Secured::one(&lab);
    let mut plain = Librdkafka::new(&lab, &at, Listener::Plaintext, Credentials::None);
    plain
        .config
        .set("bootstrap.servers", at.bootstrap(Listener::Tls));
    // librdkafka only hears that the connection ends, again and again.
    let words = "AllBrokersDown";
    refused("no TLS at a TLS port", plain.write("any", "x"), words);
    let mut secured = Librdkafka::new(&lab, &at, Listener::Tls, Credentials::None);
    secured
        .config
        .set("bootstrap.servers", at.bootstrap(Listener::Plaintext));
    let words = "in state SSL_HANDSHAKE";
    refused("TLS at a port without", secured.write("any", "x"), words);

    // What the broker itself does: at the TLS port it ends the connection, after an alert (RFC 8446, 6: 21) at most.
    let mut stream = TcpStream::connect((NODE_IP, at.port(Listener::Tls, 1))).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    std::io::Write::write_all(&mut stream, &api_versions()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(matches!(answer.first(), None | Some(21)), "{answer:?}");
    // At one without TLS the same bytes are a question.
    let mut stream = TcpStream::connect((NODE_IP, at.port(Listener::Plaintext, 1))).unwrap();
    exchange(&mut stream, &api_versions()).unwrap();
}

#[test]
fn what_no_acl_allows_is_refused() {
    let lab = lab();
    let at = Secured::one(&lab);
    let topic = "secure-acls";
    fresh(&lab, &at, topic);
    let nobody = password("nobody");
    let mut ways = vec![(
        Listener::MutualTls,
        Credentials::Certificate(Identity::Nobody),
    )];
    ways.push((
        Listener::SaslTls,
        Credentials::Token("nobody", &nobody, "kafka"),
    ));
    ways.extend(PASSWORDS.map(|mechanism| {
        let credentials = Credentials::Password(mechanism, "nobody", &nobody);
        (Listener::SaslTls, credentials)
    }));
    let words = "TopicAuthorizationException: Not authorized to access topics: [secure-acls]";
    for way in &ways {
        refused(&format!("{way:?}"), java(&lab, &at, *way, topic), words);
    }
    let way = ways[2];
    let client = Librdkafka::new(&lab, &at, way.0, way.1);
    let words_of_librdkafka = "TopicAuthorizationFailed";
    refused("nobody", client.write(topic, "x"), words_of_librdkafka);

    let acls = ["topic:secure-acls:WRITE", "topic:secure-acls:DESCRIBE"];
    at.allow("nobody", &acls).unwrap();
    let offset = java(&lab, &at, way, topic).unwrap();
    // It may write, and not read; another may read, and not write.
    let config = at.client(way.0, way.1);
    let answer = tools::read_with(&lab, &config, topic, offset).unwrap();
    refused("nobody reads", answer, words);
    let secret = password("reader");
    let credentials = Credentials::Password(Mechanism::ScramSha512, "reader", &secret);
    let reader = (Listener::SaslTls, credentials);
    let config = at.client(reader.0, reader.1);
    let read = tools::read_with(&lab, &config, topic, offset).unwrap();
    assert_eq!(read.unwrap(), "by Kafka's own");
    let words_of_producer = "ClusterAuthorizationException: Cluster authorization failed";
    let answer = java(&lab, &at, reader, topic);
    refused("reader writes", answer, words_of_producer);

    at.forbid("nobody", &acls).unwrap();
    refused("nobody, again", java(&lab, &at, way, topic), words);
}

#[test]
fn authentication_ends_and_is_renewed() {
    let lab = lab();
    let at = Secured::one(&lab);
    let topic = "secure-renewed";
    fresh(&lab, &at, topic);
    let listener = Listener::Reauthenticating;
    let seconds = 2 * REAUTHENTICATION.as_secs() + 2;
    let by_token = Credentials::Token("alice", ALICE, "lifetime-6");
    let cases = [
        (
            listener,
            Credentials::Password(Mechanism::Plain, "alice", ALICE),
        ),
        (
            listener,
            Credentials::Password(Mechanism::ScramSha512, "alice", ALICE),
        ),
        (listener, by_token),
        // The end of a token is the end of a session at every listener.
        (Listener::SaslTls, by_token),
    ];
    let stayed = std::thread::scope(|scope| {
        let stay = |(listener, credentials)| {
            let config = at.client(listener, credentials);
            let lab = &lab;
            scope.spawn(move || tools::stay_with(lab, &config, topic, seconds))
        };
        let threads: Vec<_> = cases.into_iter().map(stay).collect();
        let ends = threads.into_iter().map(|thread| thread.join().unwrap());
        ends.collect::<Vec<_>>()
    });
    for (case, stayed) in cases.iter().zip(stayed) {
        let stayed = stayed.unwrap().unwrap();
        assert!(stayed.reauthentications > 0, "{case:?}: {stayed:?}");
        // To bootstrap, and to the broker by its id: none was lost.
        assert_eq!(stayed.connections, 2, "{case:?}: {stayed:?}");
    }
    // Without SASL_SSL's limit nothing is renewed.
    let credentials = Credentials::Password(Mechanism::Plain, "alice", ALICE);
    let config = at.client(Listener::SaslTls, credentials);
    let stayed = tools::stay_with(&lab, &config, topic, REAUTHENTICATION.as_secs() + 2);
    assert_eq!(stayed.unwrap().unwrap().reauthentications, 0);
}

#[test]
fn whoever_does_not_renew_is_disconnected() {
    let lab = lab();
    let at = Secured::one(&lab);
    let port = at.port(Listener::Reauthenticating, 1);
    let (mut stream, lifetime) = authenticated_once(&lab, port, "alice", ALICE);
    let limit = i64::try_from(REAUTHENTICATION.as_millis()).unwrap();
    assert_eq!(lifetime, limit);
    exchange(&mut stream, &api_versions()).unwrap();
    std::thread::sleep(REAUTHENTICATION + Duration::from_millis(500));
    let error = exchange(&mut stream, &api_versions()).unwrap_err();
    let ends = [
        std::io::ErrorKind::UnexpectedEof,
        std::io::ErrorKind::ConnectionReset,
        std::io::ErrorKind::BrokenPipe,
    ];
    assert!(ends.contains(&error.kind()), "{error:?}");

    // The same connection where nothing ends.
    let port = at.port(Listener::SaslTls, 1);
    let (mut stream, lifetime) = authenticated_once(&lab, port, "alice", ALICE);
    assert_eq!(lifetime, 0);
    std::thread::sleep(REAUTHENTICATION + Duration::from_millis(500));
    exchange(&mut stream, &api_versions()).unwrap();
}

#[test]
fn token_server_answers_as_it_is_asked() {
    let lab = lab();
    let ask = |endpoint, client: (&str, &str), scope| {
        let (status, body) = tokens::ask(&lab, endpoint, client, scope).unwrap();
        (status, body["error"].as_str().map(str::to_owned), body)
    };
    for endpoint in [tokens::ENDPOINT, tokens::TLS_ENDPOINT] {
        let (status, _, body) = ask(endpoint, ("alice", ALICE), "lifetime-5");
        assert_eq!((status, body["expires_in"].as_u64()), (200, Some(5)));
        let (status, error, _) = ask(endpoint, ("alice", "wrong"), "kafka");
        assert_eq!((status, error.as_deref()), (401, Some("invalid_client")));
        let (status, ..) = ask(endpoint, ("broken.alice", ALICE), "kafka");
        assert_eq!(status, 500);
    }
    let statuses = [(); 3].map(|()| ask(tokens::ENDPOINT, ("flaky.alice", ALICE), "kafka").0);
    assert_eq!(statuses, [503, 200, 503]);
    // Back in order for the next run.
    ask(tokens::ENDPOINT, ("flaky.alice", ALICE), "kafka");
}

/// One test: it restarts brokers.
#[test]
fn three_brokers_know_the_same_users() {
    let lab = lab();
    let at = Secured::three(&lab);
    let topic = "secure-three";
    fresh(&lab, &at, topic);
    let replicas = tools::replicas(&lab, &at.tools(), topic).unwrap();
    assert!(
        matches!(&replicas[..], [Replicas { in_sync, .. }] if in_sync.len() == 3),
        "{replicas:?}"
    );
    let scram = |password| Credentials::Password(Mechanism::ScramSha256, "carol", password);
    let write = |credentials| java(&lab, &at, (Listener::SaslTls, credentials), topic);
    let words = "invalid credentials with SASL mechanism SCRAM-SHA-256";

    at.set_scram("carol", Mechanism::ScramSha256, "first")
        .unwrap();
    at.allow("carol", &["topic:secure-three:WRITE"]).unwrap();
    // The ACL reaches the broker that is asked a moment later than the one that told of it.
    wait_for("the ACL", Duration::from_secs(20), || {
        write(scram("first")).is_ok()
    })
    .unwrap();
    at.set_scram("carol", Mechanism::ScramSha256, "second")
        .unwrap();
    for id in 1..=3 {
        let mut client = Librdkafka::new(&lab, &at, Listener::SaslTls, scram("first"));
        let server = format!("{NODE_IP}:{}", at.port(Listener::SaslTls, id));
        client.config.set("bootstrap.servers", server);
        refused("the password of before", client.write(topic, "x"), words);
    }
    write(scram("second")).unwrap();
    at.remove_scram("carol", Mechanism::ScramSha256).unwrap();
    refused("no user any more", write(scram("second")), words);

    let plain = |password| Credentials::Password(Mechanism::Plain, "alice", password);
    write(plain(ALICE)).unwrap();
    at.restart_with_plain(&[("alice", "another")]).unwrap();
    let words = "Authentication failed: Invalid username or password";
    refused("PLAIN's password of before", write(plain(ALICE)), words);
    write(plain("another")).unwrap();
    let users = USERS.map(|user| (user, password(user)));
    let users: Vec<_> = users
        .iter()
        .map(|(user, it)| (*user, it.as_str()))
        .collect();
    at.restart_with_plain(&users).unwrap();
    write(plain(ALICE)).unwrap();
}
