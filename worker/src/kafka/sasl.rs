//! Proving who we are on a connection: SaslHandshake, then SaslAuthenticate until the broker is content (KIP-43, KIP-152, KIP-368).

use std::time::Duration;

use bytes::Bytes;
use kafka_backup_shared::report::Fault;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{SaslAuthenticateRequest, SaslHandshakeRequest};
use kafka_protocol::protocol::StrBytes;

use super::code;
use super::error::KafkaError;
use super::scram::Scram;
use super::security::Credentials;
use super::wire::Connection;

/// Where an exchange stands.
enum Exchange {
    /// The last word is said.
    Said,
    /// The token is sent; an answer with words is a refusal, which must be acknowledged before the broker says so (RFC 7628, 3.2.3).
    Bearer,
    Scram(Scram),
}

/// Proves `credentials` on a connection that nobody else uses meanwhile; gives how long the broker lets that count.
///
/// # Errors
/// The broker refuses, or does not answer.
pub(super) async fn authenticate(
    connection: &Connection,
    credentials: &Credentials,
) -> Result<Option<Duration>, KafkaError> {
    let mechanism = credentials.mechanism().name();
    let refused = |fault: Fault, reason: String| KafkaError::Authentication {
        broker: connection.broker().clone(),
        mechanism,
        fault,
        reason,
    };
    let name = StrBytes::from_static_str(mechanism);
    let handshake = SaslHandshakeRequest::default().with_mechanism(name);
    let answer = connection.send_past_hold(&handshake)?.await?;
    match ResponseError::try_from_code(answer.error_code) {
        None => {}
        Some(ResponseError::UnsupportedSaslMechanism) => {
            let theirs: Vec<&str> = answer.mechanisms.iter().map(|name| &**name).collect();
            let reason = format!("the listener takes {}", theirs.join(", "));
            return Err(refused(Fault::Spec, reason));
        }
        Some(ResponseError::IllegalSaslState) => {
            let reason =
                "the listener does not use SASL: is its securityProtocol SSL or PLAINTEXT?";
            return Err(refused(Fault::Spec, reason.to_owned()));
        }
        Some(code) => return Err(refused(code::fault_of(code), code.to_string())),
    }
    let begun = begin(credentials);
    let (mut exchange, mut message) = begun.map_err(|reason| refused(Fault::Denied, reason))?;
    loop {
        let request = SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from(message));
        let answer = connection.send_past_hold(&request)?.await?;
        if let Some(code) = ResponseError::try_from_code(answer.error_code) {
            let words = answer.error_message.map(|text| text.to_string());
            let reason = words.filter(|text| !text.is_empty());
            return Err(refused(
                code::fault_of(code),
                reason.unwrap_or_else(|| code.to_string()),
            ));
        }
        let next = match &mut exchange {
            Exchange::Said => None,
            Exchange::Bearer if answer.auth_bytes.is_empty() => None,
            Exchange::Bearer => Some(vec![1]),
            Exchange::Scram(scram) => scram
                .next(&answer.auth_bytes)
                .map_err(|reason| refused(Fault::Denied, reason))?,
        };
        match next {
            Some(next) => message = next,
            None => {
                let lifetime = u64::try_from(answer.session_lifetime_ms).unwrap_or(0);
                return Ok((lifetime > 0).then(|| Duration::from_millis(lifetime)));
            }
        }
    }
}

fn begin(credentials: &Credentials) -> Result<(Exchange, Vec<u8>), String> {
    Ok(match credentials {
        Credentials::Plain { username, password } => {
            // RFC 4616: the zeros are what separates them.
            if username.contains('\0') || password.contains('\0') {
                return Err("a user name or password with a zero byte cannot be sent".to_owned());
            }
            (
                Exchange::Said,
                format!("\0{username}\0{password}").into_bytes(),
            )
        }
        Credentials::Scram {
            mechanism,
            username,
            password,
        } => {
            let (scram, first) = Scram::begin(*mechanism, username, password)?;
            (Exchange::Scram(scram), first)
        }
        Credentials::Bearer { token } => {
            let first = format!("n,,\u{1}auth=Bearer {}\u{1}\u{1}", token.text());
            (Exchange::Bearer, first.into_bytes())
        }
    })
}
