//! What pushes with TLS need: the certificate of their port, and the CA by which workers know it. Both are files, which are read
//! again when they change.
//!
//! # Guarantees
//! - Who asks gets what the files said when they were usable last. Where they cannot be read or used what was read before stays
//!   in use, and that is told: by one line of the log for each reason, and by `kafka_backup_operator_push_tls_current`.
//! - A certificate is taken together with its key or not at all: the moment between the writing of the one and of the other has
//!   no effect.
//! - Of the CA's file nothing but certificates leaves this process, whatever else is in it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_shared::report::error_chain;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::digest::sha256;
use crate::exporter::Exporter;

/// How long what was read is used before the files are looked at again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// The CA goes into an environment variable, and Linux lets none be longer than 128 KiB.
const CA_MAX: usize = 64 << 10;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// Not there, or not ours to read.
    #[error("failed to read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// Something is wrong with a section of it.
    #[error("failed to read {} as PEM", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    /// No section is one.
    #[error("{} holds no certificate in PEM", path.display())]
    NoCertificate { path: PathBuf },
    /// They do not belong together, or are of a kind that is not known.
    #[error("failed to use certificate {} with key {}", certificate.display(), key.display())]
    Pair {
        certificate: PathBuf,
        key: PathBuf,
        source: rustls::Error,
    },
    /// It is none that others can be checked by.
    #[error("failed to use a certificate in {} as that of a CA", path.display())]
    Anchor {
        path: PathBuf,
        source: rustls::Error,
    },
    /// Too much for an environment variable.
    #[error("the certificates in {} have {found} bytes, and workers can be given {CA_MAX}", path.display())]
    TooLong { path: PathBuf, found: usize },
}

/// The certificate of the push port, with its key.
pub(crate) type PushCertificate = Followed<ServerConfig>;
/// The certificates by which workers know the push port, as PEM.
pub(crate) type PushCa = Followed<String>;

/// Makes a value of the contents of the files at these paths.
type Make<T> = fn(&[PathBuf], &[Vec<u8>]) -> Result<T, TlsError>;

/// What is made of files, and made anew when they change.
pub(crate) struct Followed<T> {
    /// As log and metric name it.
    name: &'static str,
    paths: Vec<PathBuf>,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    value: Arc<T>,
    /// Of the files that it was made of.
    digest: [u8; 32],
    /// Why the files as they are cannot be used.
    trouble: Option<String>,
}

impl PushCertificate {
    /// Reads both files.
    pub(crate) fn open(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        Self::of("certificate", vec![certificate, key], server_config)
    }
}

impl PushCa {
    /// Reads the file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, TlsError> {
        Self::of("ca", vec![path], anchors)
    }
}

impl<T> Followed<T> {
    fn of(name: &'static str, paths: Vec<PathBuf>, make: Make<T>) -> Result<Self, TlsError> {
        let contents = read(&paths)?;
        let state = State {
            value: Arc::new(make(&paths, &contents)?),
            digest: digest(&contents),
            trouble: None,
        };
        Ok(Self {
            name,
            paths,
            make,
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the files say, or said when they were usable.
    pub(crate) fn current(&self) -> Arc<T> {
        self.state().value.clone()
    }

    /// Looks at the files, every [`LOOK_AGAIN`] until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, exporter: Arc<Exporter>, stop: CancellationToken) {
        loop {
            let is_current = self.read_again().is_ok();
            exporter.own().show_push_tls(self.name, is_current);
            let pause = tokio::time::sleep(LOOK_AGAIN);
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Reads the files again, and makes the value anew if they are others. The error is what keeps them from being used.
    pub(crate) fn read_again(&self) -> Result<(), String> {
        let made = self.made_anew();
        let mut state = self.state();
        match made {
            Ok(None) => state.trouble = None,
            Ok(Some((value, digest))) => {
                info!(files = self.name, "push TLS: other files are in use now");
                *state = State {
                    value: Arc::new(value),
                    digest,
                    trouble: None,
                };
            }
            Err(error) => {
                let error = error_chain(&error);
                if state.trouble.as_ref() != Some(&error) {
                    warn!(
                        files = self.name,
                        error, "push TLS: the files cannot be used, those before stay in use"
                    );
                    state.trouble = Some(error.clone());
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// `None` where the files are those in use.
    fn made_anew(&self) -> Result<Option<(T, [u8; 32])>, TlsError> {
        let contents = read(&self.paths)?;
        let digest = digest(&contents);
        if digest == self.state().digest {
            return Ok(None);
        }
        let value = (self.make)(&self.paths, &contents)?;
        Ok(Some((value, digest)))
    }
}

fn read(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, TlsError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|source| TlsError::Read {
            path: path.clone(),
            source,
        })
    };
    paths.iter().map(read).collect()
}

fn digest(contents: &[Vec<u8>]) -> [u8; 32] {
    let digests: Vec<_> = contents.iter().map(|content| sha256(content)).collect();
    sha256(&digests.concat())
}

fn server_config(paths: &[PathBuf], contents: &[Vec<u8>]) -> Result<ServerConfig, TlsError> {
    let [certificate, key] = paths else {
        unreachable!("it is made of two files");
    };
    let chain = certificates(certificate, &contents[0])?;
    let private = PrivateKeyDer::from_pem_slice(&contents[1]).map_err(|source| TlsError::Pem {
        path: key.clone(),
        source,
    })?;
    let pair = |source| TlsError::Pair {
        certificate: certificate.clone(),
        key: key.clone(),
        source,
    };
    let mut config = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn anchors(paths: &[PathBuf], contents: &[Vec<u8>]) -> Result<String, TlsError> {
    let path = &paths[0];
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, &contents[0])? {
        store.add(certificate).map_err(|source| TlsError::Anchor {
            path: path.clone(),
            source,
        })?;
    }
    let text = String::from_utf8_lossy(&contents[0]);
    let mut sections = String::new();
    let mut is_inside = false;
    for line in text.lines().map(str::trim) {
        is_inside |= line == BEGIN;
        if is_inside {
            sections += line;
            sections.push('\n');
        }
        is_inside &= line != END;
    }
    if sections.len() > CA_MAX {
        return Err(TlsError::TooLong {
            path: path.clone(),
            found: sections.len(),
        });
    }
    Ok(sections)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|source| TlsError::Pem {
        path: path.to_owned(),
        source,
    })?;
    if certificates.is_empty() {
        let path = path.to_owned();
        return Err(TlsError::NoCertificate { path });
    }
    Ok(certificates)
}

#[cfg(test)]
pub(crate) mod tests;
