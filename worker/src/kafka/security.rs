//! Who a cluster is and who we are: TLS and credentials, for this client and for rdkafka ([`librdkafka`]) from one spec.
//!
//! # Guarantees
//! - The broker's certificate and host name are always checked with SSL and SASL_SSL; no setting turns that off.
//! - Secrets are read anew for each connection, so that one that is rotated counts from the next connection or re-authentication on.
//!   Files that belong together (certificate and key) are of one version of the Secret.
//! - Nothing of this module shows a password, a key or a token: not by `Debug`, and not in an error.

mod librdkafka;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::{KafkaCluster, SaslMechanism, SaslSecret, SecurityProtocol};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::token::{self, Token, TokenError};
use crate::secrets::{self, SecretError};

pub(crate) use librdkafka::RdKafkaContext;

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
    /// The last one of an endpoint.
    token: tokio::sync::Mutex<Option<Token>>,
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
                token: tokio::sync::Mutex::default(),
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
        let Some(oauth) = &sasl.oauth else {
            unreachable!("the spec was checked: OAUTHBEARER has oauth");
        };
        let folder = &self.inner.secrets_dir;
        if let Some(key) = &oauth.token_key {
            return Ok(token::in_secret(folder, &sasl.name, key)?);
        }
        // The lock is held while one is asked for, so that connections that are opened together ask once.
        let mut kept = self.inner.token.lock().await;
        if let Some(token) = kept.as_ref().filter(|token| token.is_fresh()) {
            return Ok(token.clone());
        }
        let ca = match self.protocol().is_encrypted() {
            true => self.tls_files()?.ca,
            false => None,
        };
        let trusted = ca.map(|ca| ca.certificates()).transpose()?;
        let trusted = trusted.unwrap_or_default();
        let token = token::of_endpoint(folder, &sasl.name, oauth, trusted).await?;
        *kept = Some(token.clone());
        Ok(token)
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

#[cfg(test)]
#[path = "security_test.rs"]
mod tests;
