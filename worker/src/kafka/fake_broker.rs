//! A peer that breaks its word, for what real brokers cannot be brought to do on demand.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::KafkaCluster;
use kafka_protocol::error::ResponseError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::error::chain;
use super::{
    Client, ClientConfig, Connection, FetchOptions, IsolationLevel, KafkaError, Lost, ProduceBatch,
};

const FETCH: i16 = 1;
const METADATA: i16 = 3;
pub(super) const OFFSET_COMMIT: i16 = 8;
const FIND_COORDINATOR: i16 = 10;
const SASL_HANDSHAKE: i16 = 17;
const API_VERSIONS: i16 = 18;
const INIT_PRODUCER_ID: i16 = 22;
const SASL_AUTHENTICATE: i16 = 36;
pub(super) const OFFSET_DELETE: i16 = 47;

/// What the fake says it speaks.
const VERSIONS: [(i16, i16, i16); 10] = [
    (0, 3, 12),
    (FETCH, 4, 12),
    (METADATA, 0, 10),
    (OFFSET_COMMIT, 2, 7),
    (FIND_COORDINATOR, 0, 4),
    (SASL_HANDSHAKE, 0, 1),
    (API_VERSIONS, 0, 3),
    (INIT_PRODUCER_ID, 0, 4),
    (SASL_AUTHENTICATE, 0, 2),
    (OFFSET_DELETE, 0, 0),
];

struct Request {
    api: i16,
    version: i16,
    correlation_id: i32,
    length: usize,
    /// What follows the client id; with the header's tags, where it has some.
    body: Vec<u8>,
}

async fn read_request(stream: &mut TcpStream) -> Request {
    next_request(stream).await.unwrap()
}

/// `None`: the other side has closed the connection.
async fn next_request(stream: &mut TcpStream) -> Option<Request> {
    let length = stream.read_i32().await.ok()? as usize;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let client_id = usize::from(u16::from_be_bytes([body[8], body[9]]));
    Some(Request {
        api: i16::from_be_bytes([body[0], body[1]]),
        version: i16::from_be_bytes([body[2], body[3]]),
        correlation_id: i32::from_be_bytes([body[4], body[5], body[6], body[7]]),
        length,
        body: body.split_off(10 + client_id),
    })
}

fn frame(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_i32(body.len() as i32 + 4);
    frame.put_i32(correlation_id);
    frame.put_slice(body);
    frame
}

fn versions_body(version: i16) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i16(0);
    match version {
        0 => body.put_i32(VERSIONS.len() as i32),
        _ => body.put_u8(VERSIONS.len() as u8 + 1),
    }
    for (api, min, max) in VERSIONS {
        body.put_i16(api);
        body.put_i16(min);
        body.put_i16(max);
        if version >= 3 {
            body.put_u8(0);
        }
    }
    if version >= 3 {
        body.put_i32(0);
        body.put_u8(0);
    }
    body
}

/// InitProducerId's answer, version 4.
fn producer_id(correlation_id: i32, throttle_ms: i32, id: i64) -> Vec<u8> {
    let mut body = vec![0]; // header tags
    body.put_i32(throttle_ms);
    body.put_i16(0);
    body.put_i64(id);
    body.put_i16(0);
    body.put_u8(0);
    frame(correlation_id, &body)
}

async fn shake_hands(stream: &mut TcpStream) {
    let request = read_request(stream).await;
    assert_eq!((request.api, request.version), (API_VERSIONS, 3));
    let answer = frame(request.correlation_id, &versions_body(3));
    stream.write_all(&answer).await.unwrap();
}

/// Starts a listener that does `script` with its first connection; gives its address.
async fn fake<F>(script: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(stream).await;
    });
    address
}

fn config(request_timeout: Duration) -> ClientConfig {
    let cluster = KafkaCluster::plaintext(vec![]);
    ClientConfig {
        request_timeout,
        ..ClientConfig::new(&cluster, Path::new(""), "test")
    }
}

async fn open(address: &str) -> Connection {
    let config = config(Duration::from_secs(10));
    Connection::open(address, &config).await.unwrap()
}

/// Holds a connection open until the other side closes it.
async fn until_closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    drop(stream.read_to_end(&mut rest).await);
}

/// SaslHandshake's answer, version 1: PLAIN is taken.
fn handshake_taken(correlation_id: i32) -> Vec<u8> {
    let mut body = Vec::new();
    body.put_i16(0);
    body.put_i32(1);
    body.put_i16(5);
    body.put_slice(b"PLAIN");
    frame(correlation_id, &body)
}

/// SaslAuthenticate's answer, version 2: `error` 0 takes us for `lifetime_ms`.
fn authenticated(correlation_id: i32, error: i16, lifetime_ms: i64) -> Vec<u8> {
    let mut body = vec![0]; // header tags
    body.put_i16(error);
    body.put_u8(6);
    body.put_slice(b"words");
    body.put_u8(1);
    body.put_i64(lifetime_ms);
    body.put_u8(0);
    frame(correlation_id, &body)
}

/// A connection that has proven itself to `script`'s first two answers.
async fn proven(address: &str) -> (tempfile::TempDir, Result<Connection, KafkaError>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("user")).unwrap();
    for key in ["username", "password"] {
        std::fs::write(folder.path().join("user").join(key), "x").unwrap();
    }
    let cluster = serde_json::json!({
        "bootstrapServers": ["a:1"], "securityProtocol": "SASL_PLAINTEXT",
        "saslSecret": {"name": "user", "mechanism": "PLAIN"},
    });
    let cluster: KafkaCluster = serde_json::from_value(cluster).unwrap();
    let config = ClientConfig::new(&cluster, folder.path(), "test");
    let connection = Connection::open(address, &config).await;
    (folder, connection)
}

async fn take(stream: &mut TcpStream, api: i16) -> i32 {
    let request = read_request(stream).await;
    assert_eq!(request.api, api);
    request.correlation_id
}

async fn prove(stream: &mut TcpStream, error: i16, lifetime_ms: i64) {
    let id = take(stream, SASL_HANDSHAKE).await;
    stream.write_all(&handshake_taken(id)).await.unwrap();
    let id = take(stream, SASL_AUTHENTICATE).await;
    let answer = authenticated(id, error, lifetime_ms);
    stream.write_all(&answer).await.unwrap();
}

async fn refuse(stream: &mut TcpStream) {
    let code = ResponseError::SaslAuthenticationFailed.code();
    prove(stream, code, 0).await;
}

#[tokio::test]
async fn requests_wait_while_a_session_is_proven_anew_and_go_in_their_order() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        prove(&mut stream, 0, 1500).await;
        // In flight when the session is proven anew, and answered in its place.
        let first = take(&mut stream, INIT_PRODUCER_ID).await;
        let handshake = take(&mut stream, SASL_HANDSHAKE).await;
        // Time for others to come between, if they could.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(&producer_id(first, 0, 1)).await.unwrap();
        stream.write_all(&handshake_taken(handshake)).await.unwrap();
        let id = take(&mut stream, SASL_AUTHENTICATE).await;
        stream.write_all(&authenticated(id, 0, 0)).await.unwrap();
        for number in 2..4 {
            let id = take(&mut stream, INIT_PRODUCER_ID).await;
            stream.write_all(&producer_id(id, 0, number)).await.unwrap();
        }
        until_closed(stream).await;
    })
    .await;
    let (_folder, connection) = proven(&address).await;
    let connection = connection.unwrap();
    let first = connection.init_producer_id().unwrap();
    // 85 percent of it, and some of the time in which the broker says nothing.
    tokio::time::sleep(Duration::from_millis(1375)).await;
    let second = connection.init_producer_id().unwrap();
    let third = connection.init_producer_id().unwrap();
    let ids = [first.await, second.await, third.await].map(|id| id.unwrap().id);
    assert_eq!(ids, [1, 2, 3]);
}

#[tokio::test]
async fn a_session_that_is_refused_ends_with_the_reason_and_may_be_another_a_moment_later() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        prove(&mut stream, 0, 400).await;
        refuse(&mut stream).await;
        until_closed(stream).await;
    })
    .await;
    let (_folder, connection) = proven(&address).await;
    let connection = connection.unwrap();
    while !connection.is_dead() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let error = connection.init_producer_id().unwrap_err();
    assert!(chain(&error).contains("words"), "{}", chain(&error));
    assert!(error.is_retriable(), "the password was taken before");
    assert_eq!(error.fault(), Fault::Denied);
}

#[tokio::test]
async fn who_is_refused_at_first_is_not_tried_again() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        refuse(&mut stream).await;
        until_closed(stream).await;
    })
    .await;
    let (_folder, connection) = proven(&address).await;
    let error = connection.unwrap_err();
    assert!(
        chain(&error).contains("PLAIN") && chain(&error).contains("words"),
        "{}",
        chain(&error)
    );
    assert!(!error.is_retriable());
    assert_eq!(error.fault(), Fault::Denied);
}

/// How a coordinator takes a request.
pub(super) enum Take {
    /// It answers with this body.
    Answer(Vec<u8>),
    /// It closes the connection without an answer.
    HangUp,
}

/// A request that a coordinator got.
pub(super) struct Got {
    /// 1 or 2.
    pub(super) broker: i32,
    pub(super) api: i16,
    pub(super) body: Vec<u8>,
}

struct Script {
    ports: [u16; 2],
    /// What FindCoordinator is answered, one after the other; the last one stays.
    coordinators: VecDeque<i32>,
    takes: VecDeque<Take>,
    got: Vec<Got>,
}

/// A cluster of two brokers that knows one group, `g`, and does with requests for it what it was told.
pub(super) struct FakeGroup {
    script: Arc<Mutex<Script>>,
}

impl FakeGroup {
    /// The client gives up after its fewest attempts.
    pub(super) async fn new(coordinators: &[i32], takes: Vec<Take>) -> (Self, Client) {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let ports = [0, 1].map(|n: usize| listeners[n].local_addr().unwrap().port());
        let script = Arc::new(Mutex::new(Script {
            ports,
            coordinators: coordinators.iter().copied().collect(),
            takes: takes.into(),
            got: Vec::new(),
        }));
        for (broker, listener) in (1..).zip(listeners) {
            let script = script.clone();
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(broker, stream, script.clone()));
                }
            });
        }
        let config = ClientConfig {
            bootstrap_servers: vec![format!("127.0.0.1:{}", ports[0])],
            retry_timeout: Duration::ZERO,
            ..config(Duration::from_secs(10))
        };
        (Self { script }, Client::connect(config).await.unwrap())
    }

    /// What coordinators got until now.
    pub(super) fn got(&self) -> Vec<Got> {
        std::mem::take(&mut self.script.lock().unwrap().got)
    }
}

async fn serve(broker: i32, mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    while let Some(request) = next_request(&mut stream).await {
        let take = {
            let mut script = script.lock().unwrap();
            match (request.api, request.version) {
                (API_VERSIONS, 3) => Take::Answer(versions_body(3)),
                (METADATA, 10) => Take::Answer(metadata_body(script.ports)),
                (FIND_COORDINATOR, 4) => {
                    let coordinator = script.coordinators[0];
                    if script.coordinators.len() > 1 {
                        script.coordinators.pop_front();
                    }
                    Take::Answer(coordinator_body(coordinator))
                }
                (api, _) => {
                    let body = request.body;
                    script.got.push(Got { broker, api, body });
                    script.takes.pop_front().expect("nothing is left to do")
                }
            }
        };
        let Take::Answer(body) = take else {
            return;
        };
        let answer = frame(request.correlation_id, &body);
        stream.write_all(&answer).await.unwrap();
    }
}

fn put_compact(body: &mut Vec<u8>, text: &str) {
    body.put_u8(text.len() as u8 + 1);
    body.put_slice(text.as_bytes());
}

/// Version 10: brokers 1 and 2, no topics.
fn metadata_body(ports: [u16; 2]) -> Vec<u8> {
    let mut body = vec![0]; // header tags
    body.put_i32(0); // throttle time
    body.put_u8(3); // two brokers
    for (id, port) in (1..).zip(ports) {
        body.put_i32(id);
        put_compact(&mut body, "127.0.0.1");
        body.put_i32(i32::from(port));
        body.put_u8(0); // no rack
        body.put_u8(0);
    }
    put_compact(&mut body, "fake-cluster");
    body.put_i32(1); // controller
    body.put_u8(1); // no topics
    body.put_i32(i32::MIN); // no authorized operations
    body.put_u8(0);
    body
}

/// Version 4.
fn coordinator_body(broker: i32) -> Vec<u8> {
    let mut body = vec![0]; // header tags
    body.put_i32(0); // throttle time
    body.put_u8(2); // one coordinator
    put_compact(&mut body, "g");
    body.put_i32(broker);
    put_compact(&mut body, "127.0.0.1");
    body.put_i32(1);
    body.put_i16(0);
    body.put_u8(0); // no message
    body.put_u8(0);
    body.put_u8(0);
    body
}

#[tokio::test]
async fn answer_cut_in_the_middle_fails_all_in_flight_and_then_nothing_is_sent() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        let first = read_request(&mut stream).await;
        read_request(&mut stream).await;
        let answer = producer_id(first.correlation_id, 0, 7);
        let half = &answer[..answer.len() / 2];
        stream.write_all(half).await.unwrap();
    })
    .await;
    let connection = open(&address).await;
    let first = connection.init_producer_id().unwrap();
    let second = connection.init_producer_id().unwrap();
    for in_flight in [first, second] {
        let error = in_flight.await.unwrap_err();
        let lost = matches!(
            error,
            KafkaError::Lost {
                cause: Lost::Closed,
                ..
            }
        );
        assert!(lost && error.is_retriable(), "{error:?}");
    }
    assert!(connection.is_dead());
    let error = connection.init_producer_id().unwrap_err();
    assert!(matches!(error, KafkaError::NotSent { .. }), "{error:?}");
}

#[tokio::test]
async fn silent_broker_times_out_and_the_connection_is_dead() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        until_closed(stream).await;
    })
    .await;
    let config = config(Duration::from_millis(50));
    let connection = Connection::open(&address, &config).await.unwrap();
    let error = connection.init_producer_id().unwrap().await.unwrap_err();
    let timed_out = matches!(
        error,
        KafkaError::Lost {
            cause: Lost::TimedOut(_),
            ..
        }
    );
    assert!(timed_out, "{error:?}");
    assert!(connection.is_dead());
}

#[tokio::test]
async fn slow_answer_that_keeps_coming_is_not_cut() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        let request = read_request(&mut stream).await;
        let mut pace = tokio::time::interval(Duration::from_millis(40));
        for byte in producer_id(request.correlation_id, 0, 7) {
            pace.tick().await;
            stream.write_all(&[byte]).await.unwrap();
        }
        until_closed(stream).await;
    })
    .await;
    // 27 bytes of 40 ms each take more than twice the time-out.
    let config = config(Duration::from_millis(400));
    let connection = Connection::open(&address, &config).await.unwrap();
    let producer = connection.init_producer_id().unwrap().await.unwrap();
    assert_eq!(producer.id, 7);
}

#[tokio::test]
async fn answer_to_another_request_ends_the_connection() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        let request = read_request(&mut stream).await;
        let answer = producer_id(request.correlation_id + 1, 0, 7);
        stream.write_all(&answer).await.unwrap();
        until_closed(stream).await;
    })
    .await;
    let connection = open(&address).await;
    let error = connection.init_producer_id().unwrap().await.unwrap_err();
    let out_of_order = matches!(
        error,
        KafkaError::Lost {
            cause: Lost::OutOfOrder { .. },
            ..
        }
    );
    assert!(out_of_order, "{error:?}");
}

#[tokio::test]
async fn dropped_request_is_written_whole_and_the_next_one_is_answered() {
    const LARGE: usize = 32 << 20;
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        let dropped = read_request(&mut stream).await;
        assert!(dropped.length > LARGE);
        let next = read_request(&mut stream).await;
        assert_eq!(next.api, INIT_PRODUCER_ID);
        // Nobody waits for the first answer, but it comes.
        let first = frame(dropped.correlation_id, &[0]);
        let second = producer_id(next.correlation_id, 0, 7);
        stream.write_all(&[first, second].concat()).await.unwrap();
        until_closed(stream).await;
    })
    .await;
    let connection = open(&address).await;
    let batch = ProduceBatch {
        topic: Arc::from("t"),
        topic_id: uuid::Uuid::nil(),
        partition: 0,
        pieces: vec![Bytes::from(vec![0; LARGE])],
    };
    drop(
        connection
            .produce(&[batch], Duration::from_secs(1))
            .unwrap(),
    );
    let producer = connection.init_producer_id().unwrap().await.unwrap();
    assert_eq!(producer.id, 7);
}

#[tokio::test]
async fn a_frame_is_not_written_on_when_its_condition_has_ended() {
    const LARGE: usize = 32 << 20;
    let (go, going) = tokio::sync::oneshot::channel::<()>();
    let (told, read) = tokio::sync::oneshot::channel();
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        going.await.unwrap();
        let mut rest = Vec::new();
        drop(stream.read_to_end(&mut rest).await);
        told.send(rest.len()).unwrap();
    })
    .await;
    let connection = open(&address).await;
    let held = Arc::new(AtomicBool::new(true));
    let condition = held.clone();
    connection.write_only_while(move || condition.load(Ordering::Relaxed));
    let batch = ProduceBatch {
        topic: Arc::from("t"),
        topic_id: uuid::Uuid::nil(),
        partition: 0,
        pieces: vec![Bytes::from(vec![0; LARGE])],
    };
    let answer = connection
        .produce(&[batch], Duration::from_secs(1))
        .unwrap();
    // The socket takes a part of it, and the broker reads the rest only now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    held.store(false, Ordering::Relaxed);
    go.send(()).unwrap();
    let error = answer.await.unwrap_err();
    assert!(matches!(error, KafkaError::Lost { .. }), "{error}");
    let read = read.await.unwrap();
    assert!(read > 0 && read < LARGE, "{read}");
}

#[tokio::test]
async fn throttled_client_stays_quiet_for_as_long_as_it_was_asked() {
    let (told, asked) = tokio::sync::oneshot::channel();
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        let request = read_request(&mut stream).await;
        let answer = producer_id(request.correlation_id, 300, 7);
        stream.write_all(&answer).await.unwrap();
        let answered = Instant::now();
        let request = read_request(&mut stream).await;
        told.send(answered.elapsed()).unwrap();
        let answer = producer_id(request.correlation_id, 0, 8);
        stream.write_all(&answer).await.unwrap();
        until_closed(stream).await;
    })
    .await;
    // Being quiet does not count as waiting for an answer.
    let config = config(Duration::from_millis(150));
    let connection = Connection::open(&address, &config).await.unwrap();
    connection.init_producer_id().unwrap().await.unwrap();
    let producer = connection.init_producer_id().unwrap().await.unwrap();
    assert_eq!(producer.id, 8);
    let quiet = asked.await.unwrap();
    assert!(quiet >= Duration::from_millis(280), "{quiet:?}");
}

#[tokio::test]
async fn broker_without_topic_ids_in_fetch_is_refused_by_name() {
    let address = fake(|mut stream| async move {
        shake_hands(&mut stream).await;
        until_closed(stream).await;
    })
    .await;
    let connection = open(&address).await;
    let options = FetchOptions {
        max_wait: Duration::ZERO,
        min_bytes: 1,
        max_bytes: 1,
        isolation: IsolationLevel::ReadCommitted,
    };
    let error = connection.fetch(&[], &options).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "broker {address} speaks Fetch versions 4 to 12, needed is Fetch versions 13 to 16: Kafka 3.1 or later is required"
        )
    );
    assert_eq!(error.fault(), kafka_backup_shared::report::Fault::Spec);
    assert!(connection.check_fetch().is_err());
}

#[tokio::test]
async fn broker_that_refuses_our_handshake_version_is_asked_in_its_own() {
    let address = fake(|mut stream| async move {
        let request = read_request(&mut stream).await;
        let mut refusal = Vec::new();
        refusal.put_i16(ResponseError::UnsupportedVersion.code());
        refusal.put_i32(0);
        let refusal = frame(request.correlation_id, &refusal);
        stream.write_all(&refusal).await.unwrap();
        let request = read_request(&mut stream).await;
        assert_eq!((request.api, request.version), (API_VERSIONS, 0));
        let answer = frame(request.correlation_id, &versions_body(0));
        stream.write_all(&answer).await.unwrap();
        let request = read_request(&mut stream).await;
        let answer = producer_id(request.correlation_id, 0, 7);
        stream.write_all(&answer).await.unwrap();
        until_closed(stream).await;
    })
    .await;
    let connection = open(&address).await;
    let producer = connection.init_producer_id().unwrap().await.unwrap();
    assert_eq!(producer.id, 7);
}

#[tokio::test]
async fn peer_that_is_no_kafka_is_told_from_a_broken_one() {
    let address = fake(|mut stream| async move {
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        stream.write_all(answer).await.unwrap();
        until_closed(stream).await;
    })
    .await;
    let config = config(Duration::from_secs(10));
    let error = Connection::open(&address, &config).await.unwrap_err();
    let line = chain(&error);
    assert!(line.contains("is this a Kafka listener"), "{line}");
    assert!(!error.is_retriable());
}
