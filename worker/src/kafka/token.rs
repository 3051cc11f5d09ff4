//! Bearer tokens: from a Secret, or from an endpoint for a client's id and secret (RFC 6749, 4.4).
//!
//! # Guarantees
//! - A token of an endpoint is fresh, and may be used again, until four fifths of its life are over.
//! - Neither a token nor a secret is shown by `Debug` or in an error.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::OAuth;
use rustls::pki_types::CertificateDer;
use serde::Deserialize;

use super::security::https_config;
use crate::secrets::{self, SecretError};

/// For one request to a token endpoint.
const TIMEOUT: Duration = Duration::from_secs(20);
/// The largest answer of a token endpoint, in bytes.
const ANSWER_MAX: usize = 1 << 20;
/// What a token is taken for that says nothing of its life, in seconds.
const UNKNOWN_LIFE: i64 = 60;

/// No token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// A Secret's file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The endpoint does not answer.
    #[error("failed to reach the token endpoint {url}")]
    Unreachable {
        /// The endpoint.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It refuses to give a token.
    #[error("the token endpoint {url} answers {status}{}", .reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default())]
    Refused {
        /// The endpoint.
        url: String,
        /// The status of HTTP.
        status: u16,
        /// Its own words, as RFC 6749 (5.2) has them.
        reason: Option<String>,
    },
    /// It answers something else than a token.
    #[error("the answer of the token endpoint {url} has no access_token")]
    NoToken {
        /// The endpoint.
        url: String,
    },
    /// What a Secret holds is no token.
    #[error(
        "key {key:?} of Secret {secret:?} must hold a bearer token of visible ASCII characters"
    )]
    NotOne {
        /// Name of the Secret.
        secret: String,
        /// Key in it.
        key: String,
    },
}

impl TokenError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Secret(_) | Self::NotOne { .. } => Fault::Spec,
            Self::Unreachable { source, .. } => match source.is_builder() {
                true => Fault::Spec,
                false => Fault::Unavailable,
            },
            Self::Refused { status, .. } => match status {
                400 | 401 | 403 => Fault::Denied,
                408 | 429 | 500.. => Fault::Unavailable,
                _ => Fault::Spec,
            },
            Self::NoToken { .. } => Fault::Spec,
        }
    }
}

/// A bearer token.
#[derive(Clone)]
pub(crate) struct Token {
    text: Arc<str>,
    expires: Timestamp,
    /// From then on another one is asked for.
    stale: Timestamp,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(until {})", self.expires)
    }
}

/// What of a JSON web token (RFC 7519) concerns a client. The signature is the broker's to check.
#[derive(Default, Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

fn claims(token: &str) -> Claims {
    let payload = token.split('.').nth(1).unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(payload).unwrap_or_default();
    serde_json::from_slice(&payload).unwrap_or_default()
}

impl Token {
    /// A token that was gotten at `now` and lives for `seconds`, or as long as it says itself.
    fn new(text: &str, now: Timestamp, seconds: Option<i64>) -> Self {
        let at = |seconds: i64| {
            now.saturating_add(jiff::SignedDuration::from_secs(seconds))
                .unwrap_or(now)
        };
        let own = claims(text).exp.map(|exp| exp as i64 - now.as_second());
        let life = seconds
            .or(own)
            .unwrap_or(UNKNOWN_LIFE)
            .clamp(0, 10 * 365 * 86_400);
        Self {
            text: text.into(),
            expires: at(life),
            stale: at(life * 4 / 5),
        }
    }

    /// Whether it need not be replaced yet.
    pub(super) fn is_fresh(&self) -> bool {
        Timestamp::now() < self.stale
    }

    /// The token itself.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// When it ends, in milliseconds since the epoch.
    pub(crate) fn expires_ms(&self) -> i64 {
        self.expires.as_millisecond()
    }

    /// Whose it is, as far as it says so.
    pub(crate) fn subject(&self) -> String {
        claims(&self.text)
            .sub
            .unwrap_or_else(|| "unknown".to_owned())
    }
}

/// The token in a Secret.
pub(super) fn in_secret(secrets_dir: &Path, secret: &str, key: &str) -> Result<Token, TokenError> {
    let text = secrets::read(secrets_dir, secret, key)?;
    let visible = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    match visible {
        true => Ok(Token::new(&text, Timestamp::now(), None)),
        false => Err(TokenError::NotOne {
            secret: secret.to_owned(),
            key: key.to_owned(),
        }),
    }
}

/// A new token of an endpoint, for the id and secret in a Secret. `trusted` are CAs that the endpoint may have besides the public ones.
pub(super) async fn of_endpoint(
    secrets_dir: &Path,
    secret: &str,
    oauth: &OAuth,
    trusted: Vec<CertificateDer<'static>>,
) -> Result<Token, TokenError> {
    let read = |key| secrets::read(secrets_dir, secret, key);
    let both = || {
        Ok((
            read(oauth.client_id_key())?,
            read(oauth.client_secret_key())?,
        ))
    };
    let (id, secret) = secrets::settled::<_, SecretError>(both)?;
    ask(oauth, &id, &secret, trusted).await
}

/// An answer of a token endpoint (RFC 6749, 5.1 and 5.2).
#[derive(Default, Deserialize)]
struct Answer {
    access_token: Option<String>,
    expires_in: Option<f64>,
    error: Option<String>,
    error_description: Option<String>,
}

async fn ask(
    oauth: &OAuth,
    id: &str,
    secret: &str,
    trusted: Vec<CertificateDer<'static>>,
) -> Result<Token, TokenError> {
    let url = oauth.token_endpoint.as_deref().unwrap_or_default();
    let unreachable = |source| TokenError::Unreachable {
        url: url.to_owned(),
        source,
    };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(https_config(trusted))
        // The client's secret goes where the spec says, and nowhere else.
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .map_err(unreachable)?;
    let mut form = "grant_type=client_credentials".to_owned();
    if let Some(scope) = &oauth.scope {
        form.push_str("&scope=");
        form.push_str(&form_encoded(scope));
    }
    let asked = Timestamp::now();
    let mut response = client
        .post(url)
        .basic_auth(form_encoded(id), Some(form_encoded(secret)))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("accept", "application/json")
        .body(form)
        .send()
        .await
        .map_err(unreachable)?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_MAX {
            break;
        }
    }
    let answer: Answer = serde_json::from_slice(&body).unwrap_or_default();
    if !status.is_success() {
        let words = [answer.error, answer.error_description];
        let words: Vec<String> = words.into_iter().flatten().collect();
        return Err(TokenError::Refused {
            url: url.to_owned(),
            status: status.as_u16(),
            reason: (!words.is_empty()).then(|| words.join(", ")),
        });
    }
    match answer.access_token.filter(|token| !token.is_empty()) {
        Some(token) => {
            let life = answer.expires_in.map(|seconds| seconds as i64);
            Ok(Token::new(&token, asked, life))
        }
        None => Err(TokenError::NoToken {
            url: url.to_owned(),
        }),
    }
}

/// As id and secret stand in the header and parameters in a form (RFC 6749, appendix B).
fn form_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            b'*' | b'-' | b'.' | b'_' => encoded.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!(
            "{}.{}.signature",
            encode("{\"alg\":\"none\"}"),
            encode(claims)
        )
    }

    #[test]
    fn a_tokens_life_is_the_endpoints_word_then_its_own_then_short() {
        let now = Timestamp::from_second(1000).unwrap();
        let own = jwt("{\"sub\":\"alice\",\"exp\":1500.5}");
        let life = |text: &str, seconds| Token::new(text, now, seconds).expires.as_second() - 1000;
        assert_eq!(life(&own, Some(100)), 100);
        assert_eq!(life(&own, None), 500);
        assert_eq!(life("opaque", None), UNKNOWN_LIFE);
        assert_eq!(life(&jwt("{\"exp\":1}"), None), 0, "it is over");
        let token = Token::new(&own, now, Some(100));
        assert_eq!(
            (token.stale.as_second(), token.subject()),
            (1080, "alice".to_owned())
        );
        assert!(!format!("{token:?}").contains(&own));
    }

    #[test]
    fn forms_are_encoded_as_the_rfc_says() {
        // The example of RFC 6749, appendix B.
        let text = " %&+\u{a3}\u{20ac}";
        assert_eq!(form_encoded(text), "+%25%26%2B%C2%A3%E2%82%AC");
    }
}
