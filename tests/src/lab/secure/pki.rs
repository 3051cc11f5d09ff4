//! The certificates of the secured clusters and of the token server: made anew at each start, by authorities of the lab's own.

use crate::lab::certificates::{Certificate, Usage, create_all, expire, private_folder};
use crate::lab::{Doing, Lab, LabError, NODE_IP, parts};
use std::fs;
use std::path::{Path, PathBuf};

/// A host name that the brokers' certificates have beside their address. Nothing in the lab resolves it.
pub const HOST: &str = "kafka-secure.lab";
/// The only name in the certificate of [`super::Listener::WrongName`].
pub const OTHER_HOST: &str = "elsewhere.lab";

const CA: &str = "ca";
const OTHER_CA: &str = "other-ca";
pub(super) const BROKER: &str = "broker";
pub(super) const WRONG_NAME: &str = "wrong-name";
pub(super) const TOKENS: &str = "tokens";
/// Its key signs tokens.
pub(super) const SIGNER: &str = "signer";
/// Its key signs tokens that no broker takes.
pub(super) const FORGER: &str = "forger";

/// A client certificate with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// The principal is `alice`.
    Alice,
    /// The principal is `nobody`, who may do nothing.
    Nobody,
    /// Alice's, but its time is over.
    Expired,
    /// Says that it is Alice's, but another authority says so.
    OtherAuthority,
}

impl Identity {
    const ALL: [Self; 4] = [
        Self::Alice,
        Self::Nobody,
        Self::Expired,
        Self::OtherAuthority,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Alice => "client-alice",
            Self::Nobody => "client-nobody",
            Self::Expired => "client-expired",
            Self::OtherAuthority => "client-other",
        }
    }

    fn subject(self) -> String {
        let user = if self == Self::Nobody {
            "nobody"
        } else {
            "alice"
        };
        format!("/OU=lab/CN={user}")
    }

    fn issuer(self) -> &'static str {
        if self == Self::OtherAuthority {
            OTHER_CA
        } else {
            CA
        }
    }

    /// The PEM file of the certificate.
    pub fn certificate(self, lab: &Lab) -> PathBuf {
        file(lab, self.name(), "crt")
    }

    /// The PEM file of the key, PKCS#8 without a password.
    pub fn key(self, lab: &Lab) -> PathBuf {
        file(lab, self.name(), "key")
    }

    /// Key and certificate in one PEM file, as Kafka's Java clients want them.
    pub fn key_store(self, lab: &Lab) -> PathBuf {
        file(lab, self.name(), "pem")
    }
}

/// The PEM file of the authority that issued the brokers' certificates and the good clients'.
pub fn ca(lab: &Lab) -> PathBuf {
    file(lab, CA, "crt")
}

/// The PEM file of an authority that issued nothing of the brokers'.
pub fn other_ca(lab: &Lab) -> PathBuf {
    file(lab, OTHER_CA, "crt")
}

/// Certificate and key of a server at the lab's address that is no broker.
pub(in crate::lab) fn server(lab: &Lab) -> (PathBuf, PathBuf) {
    (file(lab, TOKENS, "crt"), file(lab, TOKENS, "key"))
}

pub(super) fn folder(lab: &Lab) -> PathBuf {
    lab.state("secure-pki")
}

pub(super) fn file(lab: &Lab, name: &str, extension: &str) -> PathBuf {
    folder(lab).join(format!("{name}.{extension}"))
}

/// Makes everything unless it is there.
pub(super) fn create(lab: &Lab) -> Result<(), LabError> {
    let folder = folder(lab);
    if folder.exists() {
        return Ok(());
    }
    // Complete or absent, as clusters that run rely on it.
    let partial = lab.state("secure-pki.partial");
    parts::remove(&partial)?;
    private_folder(&partial)?;
    let broker_names = format!("IP:{NODE_IP},DNS:localhost,DNS:{HOST}");
    let other_names = format!("DNS:{OTHER_HOST}");
    let server = |name, names| Certificate {
        name,
        issuer: CA,
        subject: format!("/OU=lab/CN={name}"),
        usage: Usage::Server { names },
    };
    let mut certificates = vec![
        server(BROKER, &broker_names),
        server(WRONG_NAME, &other_names),
        server(TOKENS, &broker_names),
    ];
    certificates.extend(Identity::ALL.map(|identity| Certificate {
        name: identity.name(),
        issuer: identity.issuer(),
        subject: identity.subject(),
        usage: Usage::Client,
    }));
    create_all(&partial, &[CA, OTHER_CA, SIGNER, FORGER], &certificates)?;
    let expired = Identity::Expired;
    expire(
        &partial,
        expired.name(),
        expired.issuer(),
        &expired.subject(),
    )?;
    for certificate in certificates {
        join(&partial, certificate.name)?;
    }
    fs::rename(&partial, &folder).doing(|| format!("rename {}", partial.display()))
}

/// Writes key and certificate into one file.
fn join(folder: &Path, name: &str) -> Result<(), LabError> {
    let read = |extension: &str| fs::read_to_string(folder.join(format!("{name}.{extension}")));
    let both = read("key").and_then(|key| Ok(key + &read("crt")?));
    both.and_then(|both| fs::write(folder.join(format!("{name}.pem")), both))
        .doing(|| format!("write {name}.pem"))
}
