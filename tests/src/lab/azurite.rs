//! Azure Blob Storage: Azurite, Microsoft's own emulator, from npm.
//!
//! # Assumptions
//! Node.js with npm (Debian's are installed if there are none).

use super::{Doing, Lab, LabError, net, parts, process};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The component and its process.
pub const NAME: &str = "azurite";
/// Where blobs are served in the namespace; the account is part of the path.
pub const ENDPOINT: &str = "http://198.18.0.2:10000/kafkabackup";
pub const ACCOUNT: &str = "kafkabackup";
pub const KEY: &str = "bGFiLXNlY3JldC1rZXk=";
/// The container that exists from the start.
pub const CONTAINER: &str = "backups";
pub const PACKAGES: &[(&str, &str)] = &[("node", "nodejs"), ("npm", "npm")];
const PORT: u16 = 10000;
const VERSION: &str = "3.35.0";
const PREPARE: &str = include_str!("../../assets/azurite/prepare.js");

/// The folder with Azurite and what it needs, fetched once.
fn azurite(lab: &Lab) -> Result<PathBuf, LabError> {
    parts::part(lab, NAME, VERSION, |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"])
            .arg(folder);
        process::run(npm.arg(format!("azurite@{VERSION}"))).map(drop)
    })
}

/// Starts Azurite and creates the container.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    let folder = azurite(lab)?;
    let state = lab.state(NAME);
    if !process::is_running(lab, NAME) {
        fs::create_dir_all(&state).doing(|| format!("create {}", state.display()))?;
        let mut command = net::command(lab, "node")?;
        command
            .arg(folder.join("node_modules/azurite/dist/src/blob/main.js"))
            .args(["--blobHost", super::NODE_IP, "--blobPort"])
            .arg(PORT.to_string())
            .args(["--disableTelemetry", "--skipApiVersionCheck", "--silent"])
            .arg("--location")
            .arg(&state)
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{KEY}"));
        process::spawn(lab, NAME, command.current_dir(&state))?;
        process::wait_ready(lab, NAME, Duration::from_secs(60), || {
            net::listens(lab, PORT)
        })?;
    }
    let script = state.join("prepare.js");
    fs::write(&script, PREPARE).doing(|| format!("write {}", script.display()))?;
    let mut node = net::command(lab, "node")?;
    node.arg(&script).args([ENDPOINT, ACCOUNT, KEY, CONTAINER]);
    let sas = process::run(&mut node)?;
    let file = sas_file(lab);
    fs::write(&file, sas.trim()).doing(|| format!("write {}", file.display()))
}

/// A shared access signature for everything in the account.
pub fn sas(lab: &Lab) -> Result<String, LabError> {
    let file = sas_file(lab);
    fs::read_to_string(&file).doing(|| format!("read {}", file.display()))
}

fn sas_file(lab: &Lab) -> PathBuf {
    lab.state(NAME).join("sas")
}

/// Kills Azurite and removes its data.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::kill_now(lab, NAME)?;
    parts::remove(&lab.state(NAME))
}
