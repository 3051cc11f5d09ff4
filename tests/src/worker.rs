//! The worker as a process of the lab, and what it leaves in a folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::{Doing, Lab, LabError, net, process, store, wait_for};

/// What a worker may take to end by itself.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The name of the log that its standard error goes to.
pub const LOG: &str = "worker";

/// A worker that runs in the lab's network and knows the keys of its S3 server; killed when it is dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // One that has ended has no process to kill.
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

impl Worker {
    pub fn start(lab: &Lab, args: &[&str]) -> Result<Self, LabError> {
        let program = lab.target().join("release/kafka-backup-worker");
        let log = lab.log(LOG);
        let errors = File::options().create(true).append(true).open(&log);
        let errors = errors.doing(|| format!("open {}", log.display()))?;
        let child = net::command(lab, &program)?
            .args(args)
            .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .doing(|| format!("start {}", program.display()))?;
        Ok(Self { child })
    }

    pub fn signal(&self, signal: Signal) -> Result<(), LabError> {
        let pid = i32::try_from(self.child.id()).expect("Linux has no larger pids");
        match kill(Pid::from_raw(pid), signal) {
            // It has ended, and was waited for; until then it keeps its pid.
            Err(Errno::ESRCH) => Ok(()),
            sent => sent
                .map_err(std::io::Error::from)
                .doing(|| format!("send {signal} to the worker")),
        }
    }

    /// Freezes it, and returns when each of its threads stands still: a signal that is sent has not come yet.
    ///
    /// # Errors
    /// A thread goes on.
    pub fn freeze(&self) -> Result<(), LabError> {
        self.signal(Signal::SIGSTOP)?;
        let tasks = format!("/proc/{}/task", self.child.id());
        let stands_still = |task: fs::DirEntry| {
            // The state follows the name, which is in brackets and may hold anything.
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            let state = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            matches!(state, None | Some('T' | 'Z' | 'X'))
        };
        wait_for(
            "a frozen worker to stand still",
            Duration::from_secs(10),
            || {
                let mut threads = fs::read_dir(&tasks).into_iter().flatten().flatten();
                threads.all(stands_still)
            },
        )
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until something is so; false where the worker ended before.
    pub fn until(
        &mut self,
        what: &str,
        mut reached: impl FnMut() -> Result<bool, LabError>,
    ) -> Result<bool, LabError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.has_ended() {
                return Ok(false);
            }
            if reached()? {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err(LabError::Timeout {
                    what: format!("the worker to come to {what}"),
                    seconds: PATIENCE.as_secs(),
                });
            }
            // Looking costs the worker its processor; what is waited for lasts some milliseconds.
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How it ended, and the JSON that it printed; null where it printed nothing.
    pub fn end(mut self) -> Result<(ExitStatus, Value), LabError> {
        // Meanwhile: a pipe holds 64 KiB, and a worker that has more to say waits for a reader.
        let stdout = self.child.stdout.take();
        let read = std::thread::spawn(move || {
            let mut text = Vec::new();
            let read = stdout.map_or(Ok(0), |mut stdout| stdout.read_to_end(&mut text));
            read.map(|_| text)
        });
        wait_for("the worker to end", PATIENCE, || self.has_ended())?;
        let reading = || "read the worker's report".to_owned();
        let status = self.child.wait().doing(reading)?;
        let text = read.join();
        let text = text.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let text = text.doing(reading)?;
        let said = match &text[..] {
            [] => Value::Null,
            text => serde_json::from_slice(text)
                .map_err(|error| LabError::State(format!("the report is cut off: {error}")))?,
        };
        Ok((status, said))
    }
}

/// The report of a worker that must succeed; it knows the keys of the lab's S3 server.
///
/// # Errors
/// It did not, with what it said.
pub fn report(lab: &Lab, args: &[&str]) -> Result<Value, LabError> {
    let program = lab.target().join("release/kafka-backup-worker");
    let mut command = net::command(lab, program)?;
    command
        .args(["--output", "json"])
        .args(args)
        .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY);
    let said = process::run(&mut command)?;
    serde_json::from_str(&said)
        .map_err(|error| LabError::State(format!("the worker's report {said:?}: {error}")))
}

/// Whether a report says that the run succeeded.
pub fn is_success(report: &Value) -> bool {
    report["outcome"] == "success"
}

/// The paths of all objects in a folder store, without what is being written.
pub fn objects(folder: &Path) -> Result<Vec<String>, LabError> {
    let mut found = Vec::new();
    list(folder, &mut found)?;
    found.retain(|path| !path.contains("/.staging/"));
    Ok(found)
}

/// The segments among them.
pub fn stored_segments(folder: &Path) -> Result<Vec<PathBuf>, LabError> {
    let objects = objects(folder)?.into_iter().map(PathBuf::from);
    Ok(objects
        .filter(|path| path.extension().is_some_and(|it| it == "log"))
        .collect())
}

fn list(folder: &Path, found: &mut Vec<String>) -> Result<(), LabError> {
    let reading = || format!("list {}", folder.display());
    for entry in fs::read_dir(folder).doing(reading)? {
        let entry = entry.doing(reading)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            list(&entry.path(), found)?;
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(())
}
