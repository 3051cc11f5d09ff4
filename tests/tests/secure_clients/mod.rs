//! Clients that are not ours for the secured clusters: librdkafka, and a few bytes by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kafka_backup_tests::lab::secure::{Credentials, Listener, Mechanism, Secured, pki};
use kafka_backup_tests::lab::{Lab, NODE_IP};
use rdkafka::client::OAuthToken;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message, Offset, TopicPartitionList};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, RootCertStore, StreamOwned};

const LIMIT: Duration = Duration::from_secs(30);

/// What librdkafka said of the connection, or of the record.
#[derive(Default)]
struct Heard {
    token: String,
    errors: Mutex<Vec<String>>,
    delivered: Mutex<Option<Result<i64, String>>>,
}

impl Heard {
    /// The first error of a broker; "all brokers are down" only repeats it.
    fn error(&self) -> Option<String> {
        self.errors.lock().unwrap().first().cloned()
    }
}

impl ClientContext for Heard {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        self.errors
            .lock()
            .unwrap()
            .push(format!("{error}: {reason}"));
    }

    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        // The client must not know better than the broker whether the token is good.
        let in_an_hour = jiff::Timestamp::now() + Duration::from_secs(3600);
        Ok(OAuthToken {
            token: self.token.clone(),
            principal_name: "somebody".to_owned(),
            lifetime_ms: in_an_hour.as_millisecond(),
        })
    }
}

impl ProducerContext for Heard {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let result = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        *self.delivered.lock().unwrap() = Some(result);
    }
}

impl ConsumerContext for Heard {}

/// A client of librdkafka. A token stands in place of a secret in [`Credentials::Token`].
pub(crate) struct Librdkafka {
    pub(crate) config: ClientConfig,
    token: String,
}

impl Librdkafka {
    pub(crate) fn new(
        lab: &Lab,
        at: &Secured<'_>,
        listener: Listener,
        credentials: Credentials<'_>,
    ) -> Self {
        let mut config = ClientConfig::new();
        let mut token = String::new();
        config
            .set("bootstrap.servers", at.bootstrap(listener))
            .set("security.protocol", listener.protocol())
            .set("message.timeout.ms", "20000");
        if listener.protocol().ends_with("SSL") {
            config.set("ssl.ca.location", pki::ca(lab).display().to_string());
        }
        match credentials {
            Credentials::None => {}
            Credentials::Certificate(identity) => {
                let file = identity.certificate(lab).display().to_string();
                config.set("ssl.certificate.location", file);
                config.set("ssl.key.location", identity.key(lab).display().to_string());
            }
            Credentials::Password(mechanism, user, password) => {
                config
                    .set("sasl.mechanism", mechanism.name())
                    .set("sasl.username", user)
                    .set("sasl.password", password);
            }
            Credentials::Token(_, given, _) => {
                config.set("sasl.mechanism", Mechanism::OAuthBearer.name());
                given.clone_into(&mut token);
            }
        }
        Self { config, token }
    }

    fn heard(&self) -> Heard {
        Heard {
            token: self.token.clone(),
            ..Heard::default()
        }
    }

    /// Writes a record into partition 0: its offset, or what librdkafka heard.
    pub(crate) fn write(&self, topic: &str, value: &str) -> Result<i64, String> {
        let producer: BaseProducer<Heard> = self.config.create_with_context(self.heard()).unwrap();
        let record: BaseRecord<'_, (), str> = BaseRecord::to(topic).partition(0).payload(value);
        producer
            .send(record)
            .map_err(|(error, _)| error.to_string())?;
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            producer.poll(Duration::from_millis(50));
            let heard = producer.context();
            if let Some(result) = heard.delivered.lock().unwrap().take() {
                return result;
            }
            if let Some(error) = heard.error() {
                return Err(error);
            }
        }
        Err("nothing was heard".to_owned())
    }

    /// Reads the record of partition 0 at this offset.
    pub(crate) fn read(&self, topic: &str, offset: i64) -> Result<String, String> {
        let mut config = self.config.clone();
        // It does not join the group; librdkafka wants a name.
        config
            .set("group.id", "lab-secure")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer<Heard> = config.create_with_context(self.heard()).unwrap();
        let mut place = TopicPartitionList::new();
        place
            .add_partition_offset(topic, 0, Offset::Offset(offset))
            .unwrap();
        consumer.assign(&place).unwrap();
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            match consumer.poll(Duration::from_millis(50)) {
                Some(Ok(message)) => {
                    return Ok(String::from_utf8_lossy(message.payload().unwrap()).into_owned());
                }
                Some(Err(error)) => {
                    return Err(consumer.context().error().unwrap_or(error.to_string()));
                }
                None => {}
            }
        }
        Err("nothing was heard".to_owned())
    }
}

/// The header of requests without flexible fields: key, version, correlation id and no client id.
fn request(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend(7_i32.to_be_bytes());
    frame.extend((-1_i16).to_be_bytes());
    frame.extend(body);
    let mut bytes = i32::try_from(frame.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

/// ApiVersions, version 0: what every client may ask first.
pub(crate) fn api_versions() -> Vec<u8> {
    request(18, 0, &[])
}

/// Sends a request; the answer behind its length and correlation id, or the error that there is none.
pub(crate) fn exchange(
    stream: &mut (impl Read + Write),
    request: &[u8],
) -> std::io::Result<Vec<u8>> {
    stream.write_all(request)?;
    stream.flush()?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap_or(0)];
    stream.read_exact(&mut answer)?;
    Ok(answer.split_off(4))
}

/// A connection over TLS whose client never proves a second time who it is; and for how many milliseconds the first proof is good.
pub(crate) fn authenticated_once(
    lab: &Lab,
    port: u16,
    user: &str,
    password: &str,
) -> (StreamOwned<ClientConnection, TcpStream>, i64) {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(pki::ca(lab)).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(NODE_IP).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let socket = TcpStream::connect((NODE_IP, port)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let mut stream = StreamOwned::new(connection, socket);

    let mut handshake = 5_i16.to_be_bytes().to_vec();
    handshake.extend(b"PLAIN");
    let answer = exchange(&mut stream, &request(17, 1, &handshake)).unwrap();
    assert_eq!(answer[..2], [0, 0], "SaslHandshake: {answer:?}");
    let proof = format!("\0{user}\0{password}");
    let mut body = i32::try_from(proof.len()).unwrap().to_be_bytes().to_vec();
    body.extend(proof.bytes());
    let answer = exchange(&mut stream, &request(36, 1, &body)).unwrap();
    assert_eq!(answer[..2], [0, 0], "SaslAuthenticate: {answer:?}");
    // The last field is the session's lifetime (KIP-368).
    let lifetime = answer[answer.len() - 8..].try_into().unwrap();
    (stream, i64::from_be_bytes(lifetime))
}
