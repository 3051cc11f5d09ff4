//! A second S3 server, of another make than [`super::store`]: versitygw, compiled from its Go module, on a plain folder.
//!
//! # Assumptions
//! Go the first time.

use super::{Doing, Lab, LabError, kubernetes, net, parts, process};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The component and its process.
pub const NAME: &str = "versitygw";
/// Where S3 is served in the namespace.
pub const ENDPOINT: &str = "http://198.18.0.2:7070";
pub const ACCESS_KEY: &str = "lab";
pub const SECRET_KEY: &str = "lab-secret-key";
/// The bucket that exists from the start: a folder.
pub const BUCKET: &str = "backups";
const LISTEN: &str = "198.18.0.2:7070";
const PORT: u16 = 7070;
const MODULE: &str = "github.com/versity/versitygw/cmd/versitygw";
const VERSION: &str = "v1.8.0";

/// The program, compiled once.
fn versitygw(lab: &Lab) -> Result<PathBuf, LabError> {
    let folder = parts::part(lab, NAME, VERSION, |folder| {
        let mut build = Command::new(kubernetes::build::go()?);
        build
            .args(["install", "-ldflags", "-s -w", kubernetes::build::COMPILER])
            .arg(format!("{MODULE}@{VERSION}"));
        build
            .env("GOBIN", folder)
            .env("GOCACHE", lab.go_build())
            .env("GOFLAGS", "-trimpath")
            .env("CGO_ENABLED", "0");
        process::run(&mut build).map(drop)
    })?;
    Ok(folder.join(NAME))
}

/// Starts the server on a folder with the bucket.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    let program = versitygw(lab)?;
    if process::is_running(lab, NAME) {
        return Ok(());
    }
    let buckets = lab.state(NAME).join("buckets");
    let bucket = buckets.join(BUCKET);
    fs::create_dir_all(&bucket).doing(|| format!("create {}", bucket.display()))?;
    let mut command = net::command(lab, program)?;
    command
        .args(["--port", LISTEN, "posix"])
        .arg(&buckets)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", SECRET_KEY);
    process::spawn(lab, NAME, &command)?;
    process::wait_ready(lab, NAME, Duration::from_secs(60), || {
        net::listens(lab, PORT)
    })
}

/// The process of [`up_with_tls`].
const TLS_NAME: &str = "versitygw-tls";
/// Where it serves S3 over TLS.
pub const TLS_ENDPOINT: &str = "https://198.18.0.2:7071";
const TLS_LISTEN: &str = "198.18.0.2:7071";
const TLS_PORT: u16 = 7071;

/// Starts another server that speaks TLS by a certificate of [`secure::pki::ca`](super::secure::pki::ca), with this secret key;
/// [`down_with_tls`] ends it.
pub fn up_with_tls(lab: &Lab, secret_key: &str) -> Result<(), LabError> {
    let (certificate, key) = super::secure::pki::server(lab);
    let buckets = lab.state(TLS_NAME).join("buckets");
    let bucket = buckets.join(BUCKET);
    fs::create_dir_all(&bucket).doing(|| format!("create {}", bucket.display()))?;
    let mut command = net::command(lab, versitygw(lab)?)?;
    command
        .args(["--port", TLS_LISTEN, "--cert"])
        .arg(certificate)
        .arg("--key")
        .arg(key)
        .arg("posix")
        .arg(&buckets)
        .env("ROOT_ACCESS_KEY", ACCESS_KEY)
        .env("ROOT_SECRET_KEY", secret_key);
    process::spawn(lab, TLS_NAME, &command)?;
    process::wait_ready(lab, TLS_NAME, Duration::from_secs(60), || {
        net::listens(lab, TLS_PORT)
    })
}

/// Has it take another secret key from now on, and no longer the one that it had.
pub fn exchange_tls_key(lab: &Lab, secret_key: &str) -> Result<(), LabError> {
    process::kill_now(lab, TLS_NAME)?;
    up_with_tls(lab, secret_key)
}

/// Kills it and removes its data.
pub fn down_with_tls(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, TLS_NAME)?;
    parts::remove(&lab.state(TLS_NAME))
}

/// Kills the server and removes its data.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, NAME)?;
    parts::remove(&lab.state(NAME))
}
