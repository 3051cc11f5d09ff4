//! Push gateways of other people, which the exporter is measured beside: Debian's Pushgateway and Gravel from crates.io.
//!
//! # Guarantees
//! Nothing is installed: their programs are unpacked or compiled into the cache, once.

use super::{Lab, LabError, cargo, net, packages, parts, process, wait_for};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The process, whichever of them runs.
pub const NAME: &str = "gateway";
/// Where it takes pushes and is scraped in the namespace.
pub const ENDPOINT: &str = "198.18.0.2:9091";
const PORT: u16 = 9091;
const PUSHGATEWAY: &str = "prometheus-pushgateway";
const GRAVEL: &str = "gravel-gateway";
const GRAVEL_VERSION: &str = "1.7.1";

/// What a Pushgateway does before it takes a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Compares it with everything that is stored: its default.
    Consistency,
    /// Nothing (`--push.disable-consistency-check`).
    Nothing,
}

/// Fetches Pushgateway.
pub fn prepare(lab: &Lab) -> Result<(), LabError> {
    packages::unpacked(lab, PUSHGATEWAY, PUSHGATEWAY).map(drop)
}

/// Starts a Pushgateway that keeps its groups in `file`, and waits until it listens. What the file has from an earlier one is there again.
pub fn pushgateway(lab: &Lab, check: Check, file: &Path) -> Result<process::Record, LabError> {
    let program = packages::unpacked(lab, PUSHGATEWAY, PUSHGATEWAY)?;
    let mut command = net::command(lab, program)?;
    command
        .arg(format!("--web.listen-address={ENDPOINT}"))
        .arg(format!("--persistence.file={}", file.display()))
        // Later than anything that is measured.
        .arg("--persistence.interval=24h");
    if check == Check::Nothing {
        command.arg("--push.disable-consistency-check");
    }
    start(lab, &command, || net::listens(lab, PORT))
}

/// Starts Gravel and waits until it listens.
pub fn gravel(lab: &Lab) -> Result<process::Record, LabError> {
    let mut command = net::command(lab, compiled(lab)?)?;
    command.args(["-l", ENDPOINT]);
    start(lab, &command, || net::listens(lab, PORT))
}

/// Gravel's program, compiled once.
fn compiled(lab: &Lab) -> Result<PathBuf, LabError> {
    let folder = parts::part(lab, GRAVEL, GRAVEL_VERSION, |folder| {
        let mut install = Command::new(cargo::program()?);
        install.args(["install", "--quiet", "--locked", "--root"]);
        install.arg(folder);
        install.args([GRAVEL, "--version", GRAVEL_VERSION]);
        process::run(&mut install).map(drop)
    })?;
    Ok(folder.join("bin").join(GRAVEL))
}

/// Starts a gateway, which is to serve at [`ENDPOINT`], and waits until it is `ready`. One that an interrupted bench left is ended.
pub fn start(
    lab: &Lab,
    command: &Command,
    ready: impl FnMut() -> bool,
) -> Result<process::Record, LabError> {
    stop(lab, Duration::ZERO)?;
    let record = process::spawn(lab, NAME, command)?;
    process::wait_ready(lab, NAME, Duration::from_secs(60), ready)?;
    Ok(record)
}

/// Ends the one that runs, and kills it after `patience`. A Pushgateway writes its file first.
pub fn stop(lab: &Lab, patience: Duration) -> Result<(), LabError> {
    process::stop(lab, NAME, patience)?;
    // A process counts as ended when its first thread has; the others keep its sockets for a moment.
    wait_for("the gateway's port", Duration::from_secs(10), || {
        !net::listens(lab, PORT)
    })
}
