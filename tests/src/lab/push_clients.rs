//! Programs that push to the exporter, each by a client library as it is published: client_golang, the crate `prometheus`, prometheus_client.
//!
//! # Assumptions
//! Go, cargo with OpenSSL's headers (the crate's own TLS), and Python 3 with pip the first time.

use super::{Doing, Lab, LabError, cargo, kubernetes, packages, parts, process};
use std::path::PathBuf;
use std::process::Command;

const GO: [&str; 3] = [
    include_str!("../../assets/push_clients/go/main.go"),
    include_str!("../../assets/push_clients/go/go.mod"),
    include_str!("../../assets/push_clients/go/go.sum"),
];
const RUST: [&str; 3] = [
    include_str!("../../assets/push_clients/rust/src/main.rs"),
    include_str!("../../assets/push_clients/rust/Cargo.toml"),
    include_str!("../../assets/push_clients/rust/Cargo.lock"),
];
const PROMETHEUS_CLIENT: &str = "prometheus-client";
const PROMETHEUS_CLIENT_VERSION: &str = "0.26.0";
/// Both programs have this name.
const PROGRAM: &str = "push-client";

/// Builds and fetches all of them; everything is kept.
pub fn prepare(lab: &Lab) -> Result<(), LabError> {
    go(lab)?;
    rust(lab)?;
    prometheus_client(lab).map(drop)
}

/// The Go program.
pub fn go(lab: &Lab) -> Result<Command, LabError> {
    let folder = parts::part(lab, "push-client-go", &key(&GO), |folder| {
        let mut build = Command::new(kubernetes::build::go()?);
        build.current_dir(assets("go"));
        build.args(["build", "-trimpath", kubernetes::build::COMPILER, "-o"]);
        build.arg(folder.join(PROGRAM)).arg(".");
        build
            .env("GOCACHE", lab.go_build())
            .env("GOFLAGS", "-buildvcs=false -mod=readonly")
            .env("CGO_ENABLED", "0");
        process::run(&mut build).map(drop)
    })?;
    Ok(Command::new(folder.join(PROGRAM)))
}

/// The Rust program.
pub fn rust(lab: &Lab) -> Result<Command, LabError> {
    let folder = parts::part(lab, "push-client-rust", &key(&RUST), |folder| {
        packages::require(&[
            ("/usr/include/openssl/ssl.h", "libssl-dev"),
            ("pkg-config", "pkg-config"),
        ])?;
        let target = folder.join("target");
        let mut build = Command::new(cargo::program()?);
        build.current_dir(assets("rust"));
        build.args(["build", "--quiet", "--locked", "--target-dir"]);
        process::run(build.arg(&target).env("CARGO_PROFILE_DEV_DEBUG", "0"))?;
        let built = target.join("debug").join(PROGRAM);
        std::fs::rename(&built, folder.join(PROGRAM))
            .doing(|| format!("rename {}", built.display()))?;
        parts::remove(&target)
    })?;
    Ok(Command::new(folder.join(PROGRAM)))
}

/// The Python program.
pub fn python(lab: &Lab) -> Result<Command, LabError> {
    script(lab, "client.py")
}

/// The Python program that reads a page from its standard input: `text` or `openmetrics`.
pub fn reader(lab: &Lab) -> Result<Command, LabError> {
    script(lab, "read.py")
}

fn script(lab: &Lab, name: &str) -> Result<Command, LabError> {
    let mut command = Command::new("python3");
    command
        .arg(assets("python").join(name))
        .env("PYTHONPATH", prometheus_client(lab)?)
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(command)
}

fn prometheus_client(lab: &Lab) -> Result<PathBuf, LabError> {
    let version = PROMETHEUS_CLIENT_VERSION;
    parts::part(lab, PROMETHEUS_CLIENT, version, |folder| {
        packages::require(&[("python3", "python3")])?;
        if process::run(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
            packages::require(&[("/usr/lib/python3/dist-packages/pip", "python3-pip")])?;
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps"]);
        pip.args(["--only-binary=:all:", "--target"]).arg(folder);
        process::run(pip.arg(format!("{PROMETHEUS_CLIENT}=={version}"))).map(drop)
    })
}

fn key(sources: &[&str]) -> String {
    let sources: Vec<&[u8]> = sources.iter().map(|source| source.as_bytes()).collect();
    parts::key(&sources)
}

fn assets(language: &str) -> PathBuf {
    cargo::workspace()
        .join("tests/assets/push_clients")
        .join(language)
}
