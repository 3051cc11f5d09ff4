//! Who a cluster is and who we are: TLS and credentials, for this client and for rdkafka from one spec.
//!
//! # Guarantees
//! - The broker's certificate and host name are always checked with SSL and SASL_SSL; no setting turns that off.
//! - Secrets are read anew for each connection, so that one that is rotated counts from the next connection or re-authentication on.
//!   Files that belong together (certificate and key) are of one version of the Secret.
//! - Nothing of this module shows a password, a key or a token: not by `Debug`, and not in an error.
//!
//! # Assumptions
//! - rdkafka's clients, which read what is compared, keep what they were made with, but for tokens. One that must connect
//!   anew after its password was rotated fails, and the next attempt of the run reads the new one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::{KafkaCluster, SaslMechanism, SaslSecret, SecurityProtocol};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError as RdKafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::token::{Token, TokenError, Tokens};
use crate::secrets::{self, SecretError};

/// What is wrong with what a spec says about security.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A Secret's file cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file is not what it should be.
    #[error("key {key:?} of Secret {secret:?} must hold {expected}")]
    Pem {
        /// Name of the Secret.
        secret: String,
        /// Key in it.
        key: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A certificate without its key, or the other way round.
    #[error(
        "Secret {secret:?} has {present:?} and no {missing:?}: a client certificate needs both"
    )]
    Half {
        /// Name of the Secret.
        secret: String,
        /// The key that is there.
        present: String,
        /// The key that is not.
        missing: String,
    },
    /// A Secret that has nothing that is asked for.
    #[error("Secret {secret:?} has none of {}", keys.join(", "))]
    Nothing {
        /// Name of the Secret.
        secret: String,
        /// The keys that were looked for.
        keys: Vec<String>,
    },
    /// Certificate and key do not fit, or are of a kind that TLS cannot use.
    #[error("the client certificate of Secret {secret:?} cannot be used")]
    Certificate {
        /// Name of the Secret.
        secret: String,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
    /// A token cannot be had.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl SecurityError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Secret(_)
            | Self::Pem { .. }
            | Self::Half { .. }
            | Self::Nothing { .. }
            | Self::Certificate { .. } => Fault::Spec,
            Self::Token(error) => error.fault(),
        }
    }
}

/// What is proven to a broker by SASL.
#[derive(Clone)]
pub(crate) enum Credentials {
    /// User name and password as they are.
    Plain {
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// Proof of a password.
    Scram {
        /// `SCRAM-SHA-256` or `SCRAM-SHA-512`.
        mechanism: SaslMechanism,
        /// User name.
        username: String,
        /// Password.
        password: String,
    },
    /// A token.
    Bearer {
        /// The token.
        token: Token,
    },
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.mechanism().name())
    }
}

impl Credentials {
    /// How they are proven.
    pub(crate) fn mechanism(&self) -> SaslMechanism {
        match self {
            Self::Plain { .. } => SaslMechanism::Plain,
            Self::Scram { mechanism, .. } => *mechanism,
            Self::Bearer { .. } => SaslMechanism::OAuthBearer,
        }
    }
}

/// The security of a cluster; clones share what is kept.
#[derive(Clone)]
pub struct Security {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: KafkaCluster,
    secrets_dir: PathBuf,
    /// Whether a broker has taken us: what is refused afterwards may be a rotation that has not arrived everywhere.
    proven: AtomicBool,
    /// What the last TLS configuration was made of, which keeps sessions that can be resumed.
    tls: Mutex<Option<(TlsFiles, Arc<rustls::ClientConfig>)>>,
    tokens: Tokens,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Security({:?})", self.inner.cluster.security_protocol)
    }
}

/// PEM texts.
#[derive(Clone, Default, PartialEq, Eq)]
struct TlsFiles {
    ca: Option<Pem>,
    certificate: Option<(Pem, Pem)>,
}

/// A text and where it stands.
#[derive(Clone, PartialEq, Eq)]
struct Pem {
    secret: String,
    key: String,
    text: String,
}

impl Pem {
    fn wrong(&self, expected: &'static str) -> SecurityError {
        SecurityError::Pem {
            secret: self.secret.clone(),
            key: self.key.clone(),
            expected,
        }
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
        let found: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.text.as_bytes()).collect();
        match found {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) | Err(_) => Err(self.wrong("one or more certificates (PEM)")),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, SecurityError> {
        PrivateKeyDer::from_pem_slice(self.text.as_bytes())
            .map_err(|_| self.wrong("a private key (PEM, not encrypted)"))
    }
}

impl Security {
    /// The security of `cluster`, of which Secrets are folders of `secrets_dir`. Nothing is read yet.
    pub fn new(cluster: &KafkaCluster, secrets_dir: &Path) -> Self {
        Self {
            inner: Arc::new(Inner {
                cluster: cluster.clone(),
                secrets_dir: secrets_dir.to_owned(),
                proven: AtomicBool::new(false),
                tls: Mutex::default(),
                tokens: Tokens::default(),
            }),
        }
    }

    fn protocol(&self) -> SecurityProtocol {
        self.inner.cluster.security_protocol
    }

    /// Remembers that a broker has taken us.
    pub(crate) fn prove(&self) {
        self.inner.proven.store(true, Ordering::Relaxed);
    }

    /// Whether a broker has taken us before.
    pub(crate) fn is_proven(&self) -> bool {
        self.inner.proven.load(Ordering::Relaxed)
    }

    /// What a broker's certificate is checked against, in words.
    pub(crate) fn trusted(&self) -> String {
        match self.tls_files() {
            Ok(TlsFiles { ca: Some(ca), .. }) => format!("{:?} of Secret {:?}", ca.key, ca.secret),
            Ok(TlsFiles { ca: None, .. }) | Err(_) => "the public CAs".to_owned(),
        }
    }

    /// How TLS is spoken; `None` where it is not.
    ///
    /// # Errors
    /// A Secret lacks what it should have.
    pub(crate) fn tls(&self) -> Result<Option<Arc<rustls::ClientConfig>>, SecurityError> {
        if !self.protocol().is_encrypted() {
            return Ok(None);
        }
        let files = self.tls_files()?;
        let mut kept = self
            .inner
            .tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((of, config)) = &*kept
            && *of == files
        {
            return Ok(Some(config.clone()));
        }
        let config = Arc::new(tls_config(&files)?);
        *kept = Some((files, config.clone()));
        Ok(Some(config))
    }

    fn tls_files(&self) -> Result<TlsFiles, SecurityError> {
        secrets::settled(|| self.read_tls_files())
    }

    fn read_tls_files(&self) -> Result<TlsFiles, SecurityError> {
        let (cluster, folder) = (&self.inner.cluster, &self.inner.secrets_dir);
        let mut files = TlsFiles::default();
        if let Some(secret) = &cluster.ca_secret {
            let text = secrets::read(folder, &secret.name, &secret.ca_key)?;
            files.ca = Some(Pem {
                secret: secret.name.clone(),
                key: secret.ca_key.clone(),
                text,
            });
        }
        let Some(secret) = &cluster.tls_secret else {
            return Ok(files);
        };
        let read = |named: &Option<String>, usual: &str| -> Result<Option<Pem>, SecurityError> {
            let key = named.as_deref().unwrap_or(usual);
            let text = match named {
                Some(_) => Some(secrets::read(folder, &secret.name, key)?),
                None => secrets::read_optional(folder, &secret.name, key)?,
            };
            Ok(text.map(|text| Pem {
                secret: secret.name.clone(),
                key: key.to_owned(),
                text,
            }))
        };
        if files.ca.is_none() {
            files.ca = read(&secret.ca_key, "ca.crt")?;
        }
        let names = [
            secret.cert_key.as_deref().unwrap_or("tls.crt"),
            secret.key_key.as_deref().unwrap_or("tls.key"),
        ];
        let certificate = read(&secret.cert_key, "tls.crt")?;
        let key = read(&secret.key_key, "tls.key")?;
        let half = |present: usize| SecurityError::Half {
            secret: secret.name.clone(),
            present: names[present].to_owned(),
            missing: names[1 - present].to_owned(),
        };
        files.certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err(half(0)),
            (None, Some(_)) => return Err(half(1)),
        };
        let ca_is_its = files.ca.as_ref().is_some_and(|ca| ca.secret == secret.name);
        if files.certificate.is_none() && !ca_is_its {
            let ca = (cluster.ca_secret.is_none()).then_some("ca.crt");
            let keys = ca.into_iter().chain(names).map(str::to_owned);
            return Err(SecurityError::Nothing {
                secret: secret.name.clone(),
                keys: keys.collect(),
            });
        }
        Ok(files)
    }

    /// What is proven by SASL; `None` where the protocol has none.
    ///
    /// # Errors
    /// A Secret lacks what it should have, or no token can be had.
    pub(crate) async fn credentials(&self) -> Result<Option<Credentials>, SecurityError> {
        let Some(sasl) = &self.inner.cluster.sasl_secret else {
            return Ok(None);
        };
        let credentials = match sasl.mechanism {
            SaslMechanism::OAuthBearer => Credentials::Bearer {
                token: self.token(sasl).await?,
            },
            SaslMechanism::Plain => {
                let (username, password) = self.password(sasl)?;
                Credentials::Plain { username, password }
            }
            mechanism @ (SaslMechanism::ScramSha256 | SaslMechanism::ScramSha512) => {
                let (username, password) = self.password(sasl)?;
                Credentials::Scram {
                    mechanism,
                    username,
                    password,
                }
            }
        };
        Ok(Some(credentials))
    }

    fn password(&self, sasl: &SaslSecret) -> Result<(String, String), SecurityError> {
        let read = |key| secrets::read(&self.inner.secrets_dir, &sasl.name, key);
        let both = || Ok((read(sasl.username_key())?, read(sasl.password_key())?));
        secrets::settled(both)
    }

    async fn token(&self, sasl: &SaslSecret) -> Result<Token, SecurityError> {
        let trusted = match self.protocol().is_encrypted() {
            true => self.tls_files()?.ca,
            false => None,
        };
        let trusted = trusted.map(|ca| ca.certificates()).transpose()?;
        let folder = &self.inner.secrets_dir;
        Ok(self
            .inner
            .tokens
            .get(sasl, folder, trusted.unwrap_or_default())
            .await?)
    }

    /// Sets what rdkafka needs, and gives the context that its client must have.
    ///
    /// # Errors
    /// A Secret lacks what it should have, or no token can be had.
    pub(crate) async fn configure(
        &self,
        config: &mut rdkafka::ClientConfig,
    ) -> Result<RdKafkaContext, SecurityError> {
        let protocol = match self.protocol() {
            SecurityProtocol::Plaintext => "plaintext",
            SecurityProtocol::Ssl => "ssl",
            SecurityProtocol::SaslPlaintext => "sasl_plaintext",
            SecurityProtocol::SaslSsl => "sasl_ssl",
        };
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

/// The public CAs and `trusted` besides, for an HTTPS server that is not the broker.
pub(super) fn https_config(trusted: Vec<CertificateDer<'static>>) -> rustls::ClientConfig {
    let mut roots = public_roots();
    roots.add_parsable_certificates(trusted);
    builder(roots).with_no_client_auth()
}

fn tls_config(files: &TlsFiles) -> Result<rustls::ClientConfig, SecurityError> {
    let roots = match &files.ca {
        None => public_roots(),
        Some(ca) => {
            let mut roots = rustls::RootCertStore::empty();
            let (added, _) = roots.add_parsable_certificates(ca.certificates()?);
            if added == 0 {
                return Err(ca.wrong("one or more certificates (PEM)"));
            }
            roots
        }
    };
    let builder = builder(roots);
    let Some((certificate, key)) = &files.certificate else {
        return Ok(builder.with_no_client_auth());
    };
    builder
        .with_client_auth_cert(certificate.certificates()?, key.private_key()?)
        .map_err(|source| SecurityError::Certificate {
            secret: certificate.secret.clone(),
            source,
        })
}

fn builder(
    roots: rustls::RootCertStore,
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what TLS 1.2 and 1.3 need")
        .with_root_certificates(roots)
}

fn public_roots() -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    roots
}

fn public_pem() -> String {
    use base64::Engine;
    let mut text = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
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

    fn error(&self, error: RdKafkaError, reason: &str) {
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

#[cfg(test)]
#[path = "security_test.rs"]
mod tests;
