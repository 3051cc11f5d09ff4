//! Programs that the machine must have: Debian packages are installed when missing, toolchains are only asked for.

use super::process::run;
use super::{Doing, Lab, LabError, parts};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Held while apt-get is at work: components come up side by side, and `DPkg::Lock::Timeout` has it wait for dpkg only, not for
/// another one that fetches lists.
static APT: Mutex<()> = Mutex::new(());
/// For how long the machine's own apt-get, as that of unattended upgrades, is waited for.
const PATIENCE: Duration = Duration::from_secs(300);

/// Tells maintainer scripts that they must not start services (Debian policy, section 9.3.3); ours if it has this text.
const POLICY: &str =
    "#!/bin/sh\n# made by the lab of kafka-backup for one apt-get install\nexit 101\n";
const POLICY_PATH: &str = "/usr/sbin/policy-rc.d";

/// The path of a program: looked up in PATH and the folders of system programs, or taken as it is when it is absolute.
pub fn find(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|path| path.exists());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Makes sure that each program (a name, or an absolute path) is there, by one `apt-get install` of the packages of those that are missing.
pub fn require(programs: &[(&str, &str)]) -> Result<(), LabError> {
    let mut missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    missing.sort_unstable();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    println!(
        "            installing Debian packages: {}",
        missing.join(" ")
    );
    super::step(&format!("installed {}", missing.join(" ")), || {
        install(&missing)
    })?;
    match programs.iter().find(|(program, _)| find(program).is_none()) {
        Some((program, package)) => Err(LabError::State(format!(
            "the Debian package {package} was installed but has no {program}"
        ))),
        None => Ok(()),
    }
}

/// Installs packages without starting any service they bring.
fn install(packages: &[&str]) -> Result<(), LabError> {
    let _alone = APT.lock().unwrap_or_else(PoisonError::into_inner);
    update()?;
    let policy = Path::new(POLICY_PATH);
    let made = !policy.exists();
    if made {
        fs::write(policy, POLICY).doing(|| format!("write {POLICY_PATH}"))?;
        run(Command::new("chmod").args(["755", POLICY_PATH]))?;
    }
    let installed = run(apt(&["install", "-y", "-qq", "--no-install-recommends"]).args(packages));
    // Also one that a killed lab left.
    if fs::read_to_string(policy).is_ok_and(|text| text == POLICY) {
        fs::remove_file(policy).doing(|| format!("remove {POLICY_PATH}"))?;
    }
    installed.map(drop)
}

/// A program of a Debian package that is not to be installed, because it brings a service: the machine's, or else unpacked into the cache.
pub fn unpacked(lab: &Lab, package: &str, program: &str) -> Result<PathBuf, LabError> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    let folder = parts::part(lab, package, "debian", |folder| {
        let _alone = APT.lock().unwrap_or_else(PoisonError::into_inner);
        update()?;
        run(apt(&["download", "-qq", package]).current_dir(folder))?;
        let entries = fs::read_dir(folder).doing(|| format!("list {}", folder.display()))?;
        let archive = entries
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let archive = archive.ok_or_else(|| {
            LabError::State(format!("apt-get download brought no package of {package}"))
        })?;
        let mut extract = Command::new("dpkg");
        run(extract.arg("--extract").arg(&archive).arg(folder)).map(drop)
    })?;
    Ok(folder.join("usr/bin").join(program))
}

/// Fetches the lists of packages, as soon as nobody else does.
fn update() -> Result<(), LabError> {
    let start = Instant::now();
    loop {
        match run(&mut apt(&["update", "-qq"])) {
            Err(error)
                if error.to_string().contains("Could not get lock")
                    && start.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_secs(2));
            }
            done => return done.map(drop),
        }
    }
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// The path of a toolchain's program; an error that names what is needed when it is missing.
pub fn toolchain(program: &str, needed: &str) -> Result<PathBuf, LabError> {
    find(program).ok_or_else(|| LabError::Toolchain {
        program: program.to_owned(),
        needed: needed.to_owned(),
    })
}
