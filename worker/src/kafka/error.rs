//! What can go wrong between this client and a cluster.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::report::Fault;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::VersionRange;

use super::code;
use super::security::SecurityError;
use crate::tls::tls_error;

/// Why a connection ended. Everything that was in flight on it shares the cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// End of stream.
    #[error("the broker closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the connection broke")]
    Io(#[source] Arc<io::Error>),
    /// Neither the request nor any other one on the connection got on.
    #[error("nothing was received for {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// A frame above the connection's limit; usually the peer is no Kafka listener of this security protocol.
    #[error(
        "an answer of {size} bytes exceeds the limit of {limit}: is this a Kafka listener with the given security protocol?"
    )]
    TooLarge {
        /// What the frame says.
        size: i32,
        /// The connection's limit.
        limit: usize,
    },
    /// An answer to a request that was not sent, or not the next one.
    #[error("answer {found} came where {expected:?} was due")]
    OutOfOrder {
        /// Correlation id of the oldest request without an answer.
        expected: Option<i32>,
        /// Correlation id of the frame.
        found: i32,
    },
    /// The client was dropped, or the runtime ends.
    #[error("the connection was given up")]
    Abandoned,
    /// The broker wanted to hear anew who we are (KIP-368), and that failed.
    #[error("the session could not be proven anew")]
    NotProven(#[source] Arc<KafkaError>),
}

/// What an error code was said about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The cluster or the request as a whole.
    Cluster,
    /// A topic.
    Topic(Arc<str>),
    /// A partition.
    Partition(Arc<str>, i32),
    /// A consumer group.
    Group(Arc<str>),
    /// What a consumer group has committed for a partition.
    GroupPartition {
        /// The group.
        group: Arc<str>,
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
    },
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Topic(topic) => write!(f, "topic {topic}"),
            Self::Partition(topic, partition) => write!(f, "topic {topic} partition {partition}"),
            Self::Group(group) => write!(f, "consumer group {group}"),
            Self::GroupPartition {
                group,
                topic,
                partition,
            } => write!(
                f,
                "consumer group {group}, topic {topic} partition {partition}"
            ),
        }
    }
}

/// A failure of the Kafka client, named by the step.
#[derive(Clone, Debug, thiserror::Error)]
pub enum KafkaError {
    /// An entry of bootstrapServers cannot be an address.
    #[error("bootstrapServers has {address:?}, expected host:port")]
    Address {
        /// The entry.
        address: String,
    },
    /// No broker could be reached for as long as was tried.
    #[error("failed to reach any of bootstrapServers [{}]: {}", servers(.attempts), attempts_line(.attempts))]
    Bootstrap {
        /// The last failure at each of them.
        attempts: Vec<(String, KafkaError)>,
    },
    /// Another cluster answers than at the start.
    #[error("cluster {found:?} answers where cluster {expected:?} was")]
    ClusterChanged {
        /// The cluster id at the start.
        expected: String,
        /// The cluster id now.
        found: String,
    },
    /// The stream to a broker could not be made.
    #[error("failed to connect to {address}")]
    Connect {
        /// `host:port`.
        address: String,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
    /// The stream was made, and there is no agreement on TLS.
    #[error("failed to agree on TLS with {address}, trusting {trusted}{}", tls_hint(.source))]
    Tls {
        /// `host:port`.
        address: String,
        /// What the broker's certificate was checked against.
        trusted: String,
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// What the spec says about security cannot be obeyed, or gives no credentials.
    #[error("failed to prepare the connection to Kafka")]
    Security {
        /// Why.
        #[source]
        source: Arc<SecurityError>,
    },
    /// The broker does not take us for who we say we are.
    #[error("failed to authenticate with {mechanism} at {broker}: {reason}")]
    Authentication {
        /// `host:port`.
        broker: Arc<str>,
        /// The mechanism of SASL.
        mechanism: &'static str,
        /// What it means for the run.
        fault: Fault,
        /// The broker's words.
        reason: String,
    },
    /// Refused, after a broker has taken us before: credentials that are being exchanged have not arrived everywhere.
    #[error(transparent)]
    DeniedNow {
        /// The refusal.
        source: Arc<KafkaError>,
    },
    /// The stream was made, the exchange that precedes all requests failed.
    #[error("failed to agree on protocol versions with {address}")]
    Handshake {
        /// `host:port`.
        address: String,
        /// Why.
        #[source]
        cause: Lost,
    },
    /// The request cannot be sent, no byte of it was: the connection is dead.
    #[error("{api:?} was not sent to {broker}")]
    NotSent {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: ApiKey,
        /// Why the connection is dead.
        #[source]
        cause: Lost,
    },
    /// The request was accepted for sending, its answer never came: whether the broker acted on it is unknown.
    #[error("no answer to {api:?} from {broker}")]
    Lost {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: ApiKey,
        /// Why.
        #[source]
        cause: Lost,
    },
    /// The broker is too old (or too new) for a request that is needed.
    #[error("broker {broker} speaks {}, needed is {api:?} {}: Kafka {since} or later is required", theirs_line(*.api, *.theirs), versions(*.ours))]
    Unsupported {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: ApiKey,
        /// Versions that this client speaks.
        ours: VersionRange,
        /// Versions that the broker speaks; `None`: it does not know the request.
        theirs: Option<VersionRange>,
        /// The first release that can.
        since: &'static str,
    },
    /// The broker's answer cannot be read.
    #[error("failed to read the answer of {broker} to {api:?}: {detail}")]
    Malformed {
        /// `host:port`.
        broker: Arc<str>,
        /// The request.
        api: ApiKey,
        /// What is wrong with it.
        detail: String,
    },
    /// A request that we built cannot be sent as it is.
    #[error("failed to build {api:?}: {detail}")]
    Request {
        /// The request.
        api: ApiKey,
        /// What is wrong with it.
        detail: String,
    },
    /// The broker said no.
    #[error("{api:?} failed for {subject}: {} ({}){}{}{}", .code, .code.code(), missing_permission(*.api, *.code, .message.as_deref()), live_members(*.code), message_line(.message))]
    Answered {
        /// The request.
        api: ApiKey,
        /// What the code is about.
        subject: Subject,
        /// Kafka's error code.
        code: ResponseError,
        /// What the broker added in words.
        message: Option<String>,
    },
    /// A partition without a leader.
    #[error("topic {topic} partition {partition} has no leader")]
    NoLeader {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
    },
    /// A broker id that the cluster's metadata does not name.
    #[error("broker {id} is not in the cluster's metadata")]
    UnknownBroker {
        /// The id.
        id: i32,
    },
}

impl KafkaError {
    /// An error code as an error.
    pub(crate) fn answered(api: ApiKey, subject: Subject, code: ResponseError) -> Self {
        Self::Answered {
            api,
            subject,
            code,
            message: None,
        }
    }

    /// What it means for the run when it is final.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Address { .. } | Self::Unsupported { .. } | Self::ClusterChanged { .. } => {
                Fault::Spec
            }
            Self::Bootstrap { attempts } => attempts
                .iter()
                .map(|(_, error)| error.fault())
                .max()
                .unwrap_or(Fault::Spec),
            Self::Connect { .. } | Self::NoLeader { .. } | Self::UnknownBroker { .. } => {
                Fault::Unavailable
            }
            Self::Tls { source, .. } => io_fault(source),
            Self::Security { source } => source.fault(),
            Self::Authentication { fault, .. } => *fault,
            Self::DeniedNow { .. } => Fault::Denied,
            Self::Handshake { cause, .. }
            | Self::NotSent { cause, .. }
            | Self::Lost { cause, .. } => match cause {
                Lost::Closed | Lost::TimedOut(_) | Lost::Abandoned => Fault::Unavailable,
                Lost::Io(source) => io_fault(source),
                Lost::NotProven(source) => source.fault(),
                Lost::TooLarge { .. } => Fault::Spec,
                Lost::OutOfOrder { .. } => Fault::Bug,
            },
            Self::Malformed { .. } | Self::Request { .. } => Fault::Bug,
            Self::Answered { code, .. } => code::fault_of(*code),
        }
    }

    /// Kafka's error code, where the broker gave one.
    pub fn code(&self) -> Option<ResponseError> {
        match self {
            Self::Answered { code, .. } => Some(*code),
            Self::Address { .. }
            | Self::Bootstrap { .. }
            | Self::ClusterChanged { .. }
            | Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Security { .. }
            | Self::Authentication { .. }
            | Self::DeniedNow { .. }
            | Self::Handshake { .. }
            | Self::NotSent { .. }
            | Self::Lost { .. }
            | Self::Unsupported { .. }
            | Self::Malformed { .. }
            | Self::Request { .. }
            | Self::NoLeader { .. }
            | Self::UnknownBroker { .. } => None,
        }
    }

    /// Whether a consumer group was not changed because it has live members: somebody must stop them first.
    pub fn is_group_in_use(&self) -> bool {
        self.code().is_some_and(code::is_group_in_use)
    }

    /// Whether it was refused after a broker had taken us before.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    pub(crate) fn is_denied_now(&self) -> bool {
        match self {
            Self::DeniedNow { .. } => true,
            Self::Bootstrap { attempts } => attempts.iter().any(|(_, error)| error.is_denied_now()),
            Self::NotSent { cause, .. } | Self::Lost { cause, .. } => match cause {
                Lost::NotProven(source) => source.is_denied_now(),
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the same request may succeed a moment later.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Answered { code, .. } => code.is_retriable() || code::is_stale_metadata(*code),
            Self::DeniedNow { .. } => true,
            Self::Bootstrap { attempts } => {
                let passes = |(_, error): &(String, Self)| error.is_retriable();
                !attempts.is_empty() && attempts.iter().all(passes)
            }
            Self::Handshake { cause, .. }
            | Self::NotSent { cause, .. }
            | Self::Lost { cause, .. } => match cause {
                Lost::NotProven(source) => source.is_retriable(),
                _ => self.fault() == Fault::Unavailable,
            },
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::Security { .. }
            | Self::Authentication { .. }
            | Self::NoLeader { .. }
            | Self::UnknownBroker { .. } => self.fault() == Fault::Unavailable,
            Self::Address { .. }
            | Self::ClusterChanged { .. }
            | Self::Unsupported { .. }
            | Self::Malformed { .. }
            | Self::Request { .. } => false,
        }
    }

    /// Whether the metadata should be asked for again before the next attempt: leaders, epochs or addresses may have changed.
    pub fn is_stale_metadata(&self) -> bool {
        match self {
            Self::Answered { code, .. } => code::is_stale_metadata(*code),
            Self::Connect { .. }
            | Self::Tls { .. }
            | Self::DeniedNow { .. }
            | Self::Handshake { .. }
            | Self::NotSent { .. }
            | Self::Lost { .. }
            | Self::NoLeader { .. }
            | Self::UnknownBroker { .. } => true,
            Self::Address { .. }
            | Self::Security { .. }
            | Self::Authentication { .. }
            | Self::Bootstrap { .. }
            | Self::ClusterChanged { .. }
            | Self::Unsupported { .. }
            | Self::Malformed { .. }
            | Self::Request { .. } => false,
        }
    }
}

impl From<SecurityError> for KafkaError {
    fn from(source: SecurityError) -> Self {
        Self::Security {
            source: Arc::new(source),
        }
    }
}

/// What a broken stream means: TLS tells who refused whom.
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
fn io_fault(error: &io::Error) -> Fault {
    use rustls::AlertDescription as Alert;
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            Fault::Denied
        }
        Some(rustls::Error::AlertReceived(alert)) => match alert {
            Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::CertificateRequired
            | Alert::HandshakeFailure => Fault::Denied,
            Alert::ProtocolVersion | Alert::InsufficientSecurity => Fault::Spec,
            _ => Fault::Unavailable,
        },
        // What came was not TLS, or none that both speak.
        Some(rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => Fault::Spec,
        Some(_) | None => Fault::Unavailable,
    }
}

/// Words for what is behind a failure that TLS cannot name.
fn tls_hint(error: &io::Error) -> &'static str {
    let foreign = match tls_error(error) {
        Some(rustls::Error::InvalidMessage(_)) => true,
        Some(_) => false,
        None => error.kind() == io::ErrorKind::UnexpectedEof,
    };
    match foreign {
        true => "; is this a listener with TLS?",
        false => "",
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

fn servers(attempts: &[(String, KafkaError)]) -> String {
    let names: Vec<&str> = attempts.iter().map(|(server, _)| server.as_str()).collect();
    names.join(", ")
}

fn attempts_line(attempts: &[(String, KafkaError)]) -> String {
    let lines: Vec<String> = attempts
        .iter()
        .map(|(server, error)| {
            if let KafkaError::Connect { source, .. } = error {
                // The server's name stands before it already.
                return format!("{server}: {}", io_line(source));
            }
            format!("{server}: {}", chain(error))
        })
        .collect();
    lines.join("; ")
}

/// The system's words without its number: "connection refused".
fn io_line(error: &io::Error) -> String {
    if error.raw_os_error().is_some() {
        return error.kind().to_string();
    }
    chain(error)
}

fn versions(range: VersionRange) -> String {
    format!("versions {} to {}", range.min, range.max)
}

fn theirs_line(api: ApiKey, theirs: Option<VersionRange>) -> String {
    match theirs {
        Some(range) => format!("{api:?} {}", versions(range)),
        None => format!("no {api:?}"),
    }
}

/// Words for the permission that a refusal is about, as Kafka's ACLs name it; empty where it is no refusal.
#[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
pub(crate) fn missing_permission(
    api: ApiKey,
    code: ResponseError,
    message: Option<&str>,
) -> String {
    let refused = matches!(
        code,
        ResponseError::TopicAuthorizationFailed
            | ResponseError::ClusterAuthorizationFailed
            | ResponseError::GroupAuthorizationFailed
    );
    let on_group = code == ResponseError::GroupAuthorizationFailed;
    let operation = match api {
        ApiKey::Produce => "Write",
        ApiKey::Fetch => "Read",
        // Where we ask for what else is permitted, the message says what is not.
        ApiKey::Metadata if message.is_some() => return String::new(),
        ApiKey::Metadata
        | ApiKey::ListOffsets
        | ApiKey::OffsetFetch
        | ApiKey::FindCoordinator
        | ApiKey::DescribeGroups
        | ApiKey::ListGroups => "Describe",
        ApiKey::DescribeConfigs => "DescribeConfigs",
        ApiKey::IncrementalAlterConfigs => "AlterConfigs",
        ApiKey::CreateTopics => "Create (on the topic or on the cluster)",
        ApiKey::DeleteRecords => "Delete",
        ApiKey::OffsetCommit if on_group => "Read on the group",
        ApiKey::OffsetDelete if on_group => "Delete on the group",
        ApiKey::OffsetCommit | ApiKey::OffsetDelete => "Read on the topic",
        ApiKey::InitProducerId => "IdempotentWrite on the cluster, or Write on any topic,",
        _ => return String::new(),
    };
    match refused {
        true => format!("; the permission {operation} is missing"),
        false => String::new(),
    }
}

/// Words for a refusal that is about the members of a group; empty where it is none.
fn live_members(code: ResponseError) -> &'static str {
    match code::is_group_in_use(code) {
        true => "; the group has live members, stop them first",
        false => "",
    }
}

fn message_line(message: &Option<String>) -> String {
    // FindCoordinator's answer has an empty one where there is nothing to say.
    message
        .as_ref()
        .filter(|text| !text.is_empty())
        .map(|text| format!(": {text}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_permission() {
        let told = |api, code, message: Option<&str>| {
            let error = KafkaError::Answered {
                api,
                subject: Subject::Topic("orders".into()),
                code,
                message: message.map(str::to_owned),
            };
            error.to_string()
        };
        let refused = ResponseError::TopicAuthorizationFailed;
        assert_eq!(
            told(ApiKey::Fetch, refused, None),
            "Fetch failed for topic orders: TopicAuthorizationFailed (29); the permission Read is missing"
        );
        let message = "the permission Write is missing";
        let text = told(ApiKey::Metadata, refused, Some(message));
        assert!(text.ends_with(&format!("(29): {message}")), "{text}");
        let text = told(ApiKey::Fetch, ResponseError::NotLeaderOrFollower, None);
        assert!(!text.contains("permission"), "{text}");
    }

    #[test]
    fn refusals_of_a_groups_offsets_name_the_permission_and_what_it_is_on() {
        let told = |api, code| {
            let subject = Subject::GroupPartition {
                group: "billing".into(),
                topic: "orders".into(),
                partition: 3,
            };
            KafkaError::answered(api, subject, code).to_string()
        };
        let (on_group, on_topic) = (
            ResponseError::GroupAuthorizationFailed,
            ResponseError::TopicAuthorizationFailed,
        );
        assert_eq!(
            told(ApiKey::OffsetCommit, on_topic),
            "OffsetCommit failed for consumer group billing, topic orders partition 3: TopicAuthorizationFailed (29); the permission Read on the topic is missing"
        );
        for (api, code, permission) in [
            (ApiKey::OffsetCommit, on_group, "Read on the group"),
            (ApiKey::OffsetDelete, on_group, "Delete on the group"),
            (ApiKey::OffsetDelete, on_topic, "Read on the topic"),
        ] {
            let text = told(api, code);
            let ending = format!("; the permission {permission} is missing");
            assert!(text.ends_with(&ending), "{text}");
        }
    }
}
