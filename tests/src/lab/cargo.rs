//! Cargo, as the lab calls it: for this checkout, into the lab's own target folder.
//!
//! # Guarantees
//! - What has been compiled is of this checkout. The folder outlives checkouts, and cargo tells changed sources by their times
//!   alone: what another checkout left there would pass for fresh. So a folder that was another one's loses our own packages
//!   (not the third parties', which are most of the time).
//! - Everything is compiled with the same features, so that nothing is compiled twice for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::parts::lock;
use super::process::run;
use super::{Doing, Lab, LabError, packages};

/// They only add programs for tests, and never change ours.
const FEATURES: &str = "kafka-backup-worker/lab-tests,kafka-backup-worker/lab-kill-tests,kafka-backup-controller/lab-kill-tests";
const PACKAGES: [&str; 4] = [
    "kafka-backup-shared",
    "kafka-backup-worker",
    "kafka-backup-controller",
    "kafka-backup-tests",
];
/// In the target folder: the checkout whose packages are in it.
const CHECKOUT: &str = "checkout";

/// The root of this checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate is a folder of the workspace")
}

/// Cargo itself.
pub(super) fn program() -> Result<PathBuf, LabError> {
    packages::toolchain("cargo", "Rust 1.89 or newer (https://rustup.rs)")
}

/// `cargo SUBCOMMAND` for the whole workspace, in the release profile.
///
/// # Errors
/// There is no cargo, or what another checkout left cannot be removed.
pub fn release(lab: &Lab, subcommand: &str) -> Result<Command, LabError> {
    let cargo = program()?;
    own_target(lab, &cargo)?;
    let mut command = command(lab, &cargo, subcommand);
    command.args(["--quiet", "--workspace", "--features", FEATURES]);
    Ok(command)
}

fn command(lab: &Lab, cargo: &Path, subcommand: &str) -> Command {
    let mut command = Command::new(cargo);
    // What `cargo run` says of this program: build scripts that look at it would run anew whenever cargo is called otherwise.
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", lab.target())
        .args([subcommand, "--release"]);
    command
}

fn own_target(lab: &Lab, cargo: &Path) -> Result<(), LabError> {
    let target = lab.target();
    fs::create_dir_all(&target).doing(|| format!("create {}", target.display()))?;
    let _lock = lock(&target.join("lock"))?;
    let note = target.join(CHECKOUT);
    let own = workspace().display().to_string();
    if fs::read_to_string(&note).is_ok_and(|noted| noted == own) {
        return Ok(());
    }
    let packages = PACKAGES.iter().flat_map(|name| ["--package", name]);
    run(command(lab, cargo, "clean").arg("--quiet").args(packages))?;
    fs::write(&note, own).doing(|| format!("write {}", note.display()))
}
