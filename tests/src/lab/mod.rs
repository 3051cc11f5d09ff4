//! The lab's state, and the list of its components.
//!
//! # Guarantees
//! - Everything lives in one cache folder, one network namespace, and what a component declares; nothing in the namespace has a way out of the machine.
//! - `up` may be repeated, also after an earlier one was killed; `down` leaves no process of the lab.
//! - Only processes are stopped whose pid *and* start time are those that the lab recorded, or which carry the lab's mark in their environment.
//!
//! # Assumptions
//! Linux, run as root (network namespaces), a Debian userland for what `packages` installs.

pub mod azurite;
pub mod cargo;
pub mod certificates;
pub mod components;
mod error;
pub mod gateways;
pub mod given;
pub mod helm;
pub mod images;
pub mod kafka;
pub mod kafka_tools;
pub mod kubernetes;
pub mod net;
pub mod packages;
pub mod parts;
pub mod process;
pub mod prometheus;
pub mod push_clients;
pub mod secure;
pub mod store;
pub mod versitygw;

pub use error::{Doing, LabError, chain};

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// The address on which all servers of the lab listen; pods and host-side programs both reach it.
pub const NODE_IP: &str = "198.18.0.2";
/// The addresses of pods.
pub const POD_CIDR: &str = "198.18.16.0/20";
/// The addresses of Services.
pub const SERVICE_CIDR: &str = "198.18.32.0/20";
/// Where the controller's metrics Service is found in the lab; the lab's install gives the Service this address.
pub const CONTROLLER_METRICS: &str = "198.18.32.80:8080";

/// One lab, by name: its folders. Nothing is running yet because this exists.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Tells labs on one machine apart; part of cgroup names and the like.
    pub name: String,
    /// What is kept between runs: third-party parts, compiler output.
    pub cache: PathBuf,
    /// All state of this lab; gone after `down`, but for logs.
    pub run: PathBuf,
    /// Parts of the user's that stand in for the lab's own.
    pub given: Option<given::Given>,
}

impl Lab {
    /// Opens the lab that KAFKA_BACKUP_LAB names (`default` without it), and creates its folders.
    pub fn open() -> Result<Self, LabError> {
        let name = std::env::var("KAFKA_BACKUP_LAB").unwrap_or_else(|_| "default".to_owned());
        let home = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .ok_or_else(|| LabError::State("neither XDG_CACHE_HOME nor HOME is set, so there is no place for the lab's cache".to_owned()))?;
        Self::at(home.join("kafka-backup-lab"), &name)
    }

    /// Opens the lab `name` in the given cache folder.
    pub fn at(cache: PathBuf, name: &str) -> Result<Self, LabError> {
        let fits = !name.is_empty()
            && name.len() <= 20
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits {
            return Err(LabError::State(format!(
                "lab name {name:?} (KAFKA_BACKUP_LAB) must be 1 to 20 of a-z, 0-9 and '-'"
            )));
        }
        let run = cache.join("run").join(name);
        Self {
            name: name.to_owned(),
            cache,
            run,
            given: None,
        }
        .prepared()
    }

    /// Creates the folders that every lab needs.
    fn prepared(self) -> Result<Self, LabError> {
        for folder in [
            self.run.join("pids"),
            self.run.join("logs"),
            self.run.join("locks"),
            self.cache.join("third-party"),
        ] {
            fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        }
        Ok(self)
    }

    /// CARGO_TARGET_DIR of everything that the lab builds.
    pub fn target(&self) -> PathBuf {
        self.cache.join("target")
    }

    /// GOCACHE of everything that the lab builds.
    pub fn go_build(&self) -> PathBuf {
        self.cache.join("go-build")
    }

    /// Writes a file below the lab's folder that is nobody else's to read; its path.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_private(&self, name: &str, text: &str) -> Result<PathBuf, LabError> {
        let path = self.run.join(name);
        let mut options = fs::File::options();
        options.create(true).write(true).truncate(true).mode(0o600);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        let written = folder
            .and_then(|()| options.open(&path))
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.doing(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// The log file of the process `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.run.join("logs").join(format!("{name}.log"))
    }

    /// A copy of the program that runs now, made once. The program's own path is of no use once cargo has built it anew meanwhile.
    ///
    /// # Assumptions
    /// No thread starts a process at the first call: until it executes something, that would hold the copy open for writing, which
    /// then cannot be executed. [`components::up`] makes the copy before it starts any.
    pub fn program(&self) -> Result<PathBuf, LabError> {
        static MADE: Mutex<Option<PathBuf>> = Mutex::new(None);
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = self.run.join("program");
        if made.as_ref() == Some(&kept) && kept.exists() {
            return Ok(kept);
        }
        let partial = self.run.join(format!("program.{}", std::process::id()));
        // /proc/self/exe opens the file that runs, also when it is no longer at its path; the rename leaves a copy alone that runs.
        fs::create_dir_all(&self.run)
            .and_then(|()| fs::copy("/proc/self/exe", &partial))
            .and_then(|_| fs::rename(&partial, &kept))
            .doing(|| format!("copy the lab's own program to {}", kept.display()))?;
        *made = Some(kept.clone());
        Ok(kept)
    }

    /// The folder for the state of component `name`, not created.
    pub fn state(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }
}

/// Does all of `work`, each piece on a thread of its own, and gives what went wrong.
pub fn at_once<W>(work: impl IntoIterator<Item = W>) -> Vec<LabError>
where
    W: FnOnce() -> Result<(), LabError> + Send,
{
    let bug = || LabError::State("the lab itself has a bug: a thread panicked".to_owned());
    thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|piece| scope.spawn(piece)).collect();
        let ended = threads.into_iter().map(thread::ScopedJoinHandle::join);
        let errors = ended.filter_map(|ended| ended.unwrap_or_else(|_| Err(bug())).err());
        errors.collect()
    })
}

/// Waits until `ready` says true, looking every 20 ms; an error when that takes longer than `limit`.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<(), LabError> {
    let deadline = Instant::now() + limit;
    while !ready() {
        if Instant::now() >= deadline {
            return Err(LabError::Timeout {
                what: what.to_owned(),
                seconds: limit.as_secs(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Does one step and prints one line with its name and duration, when it succeeds: to standard error, for standard output is for
/// what was asked for (`cargo lab bench data --json`).
pub fn step<T>(what: &str, work: impl FnOnce() -> Result<T, LabError>) -> Result<T, LabError> {
    let start = Instant::now();
    let value = work()?;
    eprintln!("{:>8.1} s  {what}", start.elapsed().as_secs_f64());
    Ok(value)
}
