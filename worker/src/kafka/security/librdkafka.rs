//! The same for rdkafka: settings of librdkafka, and a context that gives tokens and hears refusals.
//!
//! # Assumptions
//! - rdkafka's clients, which read what is compared, keep what they were made with, but for tokens. One that must connect anew after
//!   its password was rotated fails, and the next attempt of the run reads the new one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::{Credentials, Security, SecurityError};

impl Security {
    /// Sets what rdkafka needs, and gives the context that its client must have.
    ///
    /// # Errors
    /// A Secret lacks what it should have, or no token can be had.
    pub(crate) async fn configure(
        &self,
        config: &mut rdkafka::ClientConfig,
    ) -> Result<RdKafkaContext, SecurityError> {
        let protocol = self.protocol().name().to_lowercase();
        config.set("security.protocol", protocol);
        if self.protocol().is_encrypted() {
            let files = self.tls_files()?;
            // librdkafka's vendored OpenSSL knows no CA by itself.
            let ca = files.ca.map_or_else(public_pem, |ca| ca.text);
            config.set("ssl.ca.pem", ca);
            config.set("ssl.endpoint.identification.algorithm", "https");
            config.set("enable.ssl.certificate.verification", "true");
            if let Some((certificate, key)) = files.certificate {
                config.set("ssl.certificate.pem", certificate.text);
                config.set("ssl.key.pem", key.text);
            }
        }
        if let Some(credentials) = self.credentials().await? {
            config.set("sasl.mechanism", credentials.mechanism().name());
            match credentials {
                Credentials::Plain { username, password }
                | Credentials::Scram {
                    username, password, ..
                } => {
                    config.set("sasl.username", username);
                    config.set("sasl.password", password);
                }
                // The context gives it, and those after it.
                Credentials::Bearer { .. } => {}
            }
        }
        Ok(RdKafkaContext {
            security: self.clone(),
            runtime: Handle::current(),
            refusal: watch::Sender::new(None),
        })
    }
}

pub(super) fn public_pem() -> String {
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for line in encoded.as_bytes().chunks(64) {
            text.extend(line.iter().map(|b| char::from(*b)));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

/// Gives rdkafka's clients their tokens, and hears who refuses them.
pub(crate) struct RdKafkaContext {
    security: Security,
    runtime: Handle,
    refusal: watch::Sender<Option<String>>,
}

impl RdKafkaContext {
    /// Waits until a broker has refused us; gives its words. librdkafka itself tries again until the request's time is over.
    pub(crate) async fn refused(&self) -> String {
        let mut refusal = self.refusal.subscribe();
        let words = refusal.wait_for(Option::is_some).await;
        let words = words.ok().and_then(|words| words.clone());
        match words {
            Some(words) => words,
            // The sender is our own, and outlives this.
            None => std::future::pending().await,
        }
    }
}

impl ClientContext for RdKafkaContext {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "rdkafka");
        let code = error.rdkafka_error_code();
        if matches!(
            code,
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL)
        ) {
            self.refusal.send_replace(Some(reason.to_owned()));
        }
    }

    /// librdkafka asks at 80 percent of a token's life, from whichever thread polls: that one may be a worker of the runtime, which
    /// must not wait for itself.
    fn generate_oauth_token(
        &self,
        _: Option<&str>,
    ) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let (security, runtime) = (self.security.clone(), self.runtime.clone());
        let asking = std::thread::spawn(move || runtime.block_on(security.credentials()));
        let asked = asking.join().map_err(|_| "asking for a token panicked")?;
        match asked? {
            Some(Credentials::Bearer { token }) => Ok(OAuthToken {
                lifetime_ms: token.expires_ms(),
                principal_name: token.subject(),
                token: token.text().to_owned(),
            }),
            Some(Credentials::Plain { .. } | Credentials::Scram { .. }) | None => {
                Err("no token is asked for".into())
            }
        }
    }
}

impl ConsumerContext for RdKafkaContext {}
