//! Keys and certificates of the lab, made by openssl.
//!
//! # Guarantees
//! Keys are P-256, in PKCS#8. Each name in a folder gives `NAME.key` and `NAME.crt`.

use super::process::run;
use super::{Doing, LabError};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread;

/// A lab lives for hours; whoever forgets one for a month starts it anew.
const DAYS: &str = "30";

/// What a certificate is for.
pub enum Usage<'a> {
    /// Of a server, whose names are as in OpenSSL's subjectAltName.
    Server { names: &'a str },
    /// Of a client.
    Client,
}

/// A certificate that is to be made, with its key.
pub struct Certificate<'a> {
    pub name: &'a str,
    pub issuer: &'a str,
    pub subject: String,
    pub usage: Usage<'a>,
}

/// Creates a folder that is nobody else's to read.
pub(super) fn private_folder(folder: &Path) -> Result<(), LabError> {
    fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .doing(|| format!("protect {}", folder.display()))
}

/// Makes the authorities, then all certificates at once.
pub fn create_all(
    pki: &Path,
    authorities: &[&str],
    certificates: &[Certificate],
) -> Result<(), LabError> {
    for name in authorities {
        authority(pki, name)?;
    }
    thread::scope(|scope| {
        let issued: Vec<_> = certificates
            .iter()
            .map(|certificate| scope.spawn(move || issue(pki, certificate)))
            .collect();
        issued.into_iter().try_for_each(|thread| {
            thread
                .join()
                .map_err(|_| LabError::State("a thread that makes keys panicked".to_owned()))?
        })
    })
}

/// Gives the key of `name` a certificate whose time was over before it began.
pub(super) fn expire(pki: &Path, name: &str, issuer: &str, subject: &str) -> Result<(), LabError> {
    let file = |name: &str, extension: &str| format!("{name}.{extension}");
    let (key, request) = (file(name, "key"), file(name, "csr"));
    let config = file(name, "cnf");
    // `req -x509` takes no days before today; `x509 -req` does.
    openssl(
        pki,
        &[
            "req", "-new", "-config", &config, "-key", &key, "-subj", subject, "-out", &request,
        ],
    )?;
    openssl(
        pki,
        &[
            "x509",
            "-req",
            "-days",
            "-1",
            "-in",
            &request,
            "-extfile",
            &config,
            "-extensions",
            "extensions",
            "-CA",
            &file(issuer, "crt"),
            "-CAkey",
            &file(issuer, "key"),
            "-out",
            &file(name, "crt"),
        ],
    )
}

/// Runs openssl in the folder.
pub(super) fn openssl(pki: &Path, args: &[&str]) -> Result<(), LabError> {
    run(Command::new("openssl").current_dir(pki).args(args)).map(drop)
}

/// Makes a key and a certificate. The extensions come from a file of our own: those of the machine's openssl.cnf would be added to ours.
fn request(
    pki: &Path,
    name: &str,
    subject: &str,
    extensions: &str,
    issuer: &[&str],
) -> Result<(), LabError> {
    let config = format!("{name}.cnf");
    let text =
        format!("[req]\ndistinguished_name=subject\n[subject]\n[extensions]\n{extensions}\n");
    fs::write(pki.join(&config), text).doing(|| format!("write {config}"))?;
    let (key, certificate) = (format!("{name}.key"), format!("{name}.crt"));
    let fixed = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        DAYS,
        "-extensions",
        "extensions",
    ];
    let own = [
        "-config",
        &config,
        "-subj",
        subject,
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    openssl(pki, &[&fixed[..], &own, issuer].concat())
}

fn authority(pki: &Path, name: &str) -> Result<(), LabError> {
    let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash";
    request(pki, name, &format!("/CN=lab-{name}"), extensions, &[])
}

fn issue(pki: &Path, certificate: &Certificate) -> Result<(), LabError> {
    let usage = match certificate.usage {
        Usage::Client => "extendedKeyUsage=clientAuth".to_owned(),
        Usage::Server { names } => format!("extendedKeyUsage=serverAuth\nsubjectAltName={names}"),
    };
    let extensions = format!(
        "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nauthorityKeyIdentifier=keyid\n{usage}"
    );
    let (by, with) = (
        format!("{}.crt", certificate.issuer),
        format!("{}.key", certificate.issuer),
    );
    request(
        pki,
        certificate.name,
        &certificate.subject,
        &extensions,
        &["-CA", &by, "-CAkey", &with],
    )
}
