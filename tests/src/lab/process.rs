//! Processes that outlive the command which started them.
//!
//! # Guarantees
//! - A process is recorded as pid and start time; only when both match is it taken for ours, so a reused pid is never signalled.
//! - Processes started here carry a mark in their environment, so that [`sweep`] finds those whose record was lost when the lab itself was killed.
//!
//! # Assumptions
//! `setsid` (util-linux) executes in place, so the pid of the child stays that of the program.

use super::{Doing, Lab, LabError, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The environment variable that marks processes of a lab; its value is the lab's run folder.
pub const MARK: &str = "KAFKA_BACKUP_LAB_RUN";

/// How a process is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub pid: i32,
    /// Clock ticks between boot and start: field 22 of /proc/PID/stat.
    pub start_time: u64,
}

/// The fields of /proc/PID/stat that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    state: char,
    /// In user and system mode, all threads together.
    cpu_ticks: u64,
    start_time: u64,
}

/// Parses /proc/PID/stat; the program's name may itself contain spaces and parentheses (proc(5)).
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = &text[text.rfind(')')? + 1..];
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `state` is field 3, so field 14 is the 11th after it, and field 22 the seventh after field 15.
    let user: u64 = fields.nth(10)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let start_time = fields.nth(6)?.parse().ok()?;
    Some(Stat {
        state,
        cpu_ticks: user + system,
        start_time,
    })
}

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn record_path(lab: &Lab, name: &str) -> PathBuf {
    lab.run.join("pids").join(format!("{name}.json"))
}

/// The record of process `name`, whether or not it still runs.
fn record(lab: &Lab, name: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(record_path(lab, name)).ok()?).ok()
}

/// Whether the recorded process still runs. A zombie does not, and is reaped if it is a child.
fn alive(record: Record) -> bool {
    match stat(record.pid) {
        Some(stat) if stat.start_time == record.start_time => {
            if stat.state != 'Z' && stat.state != 'X' {
                return true;
            }
            // Not our child: its own parent reaps it.
            waitpid(Pid::from_raw(record.pid), Some(WaitPidFlag::WNOHANG)).ok();
            false
        }
        Some(_) | None => false,
    }
}

/// The pid of process `name` if it runs.
pub fn pid(lab: &Lab, name: &str) -> Option<i32> {
    record(lab, name)
        .filter(|record| alive(*record))
        .map(|record| record.pid)
}

/// Whether process `name` runs.
pub fn is_running(lab: &Lab, name: &str) -> bool {
    pid(lab, name).is_some()
}

/// A process' log, opened to be added to, as its standard output and its standard error.
pub fn log_streams(lab: &Lab, name: &str) -> Result<(File, File), LabError> {
    let log = lab.log(name);
    let opening = || format!("open {}", log.display());
    let out = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .doing(opening)?;
    let err = out.try_clone().doing(opening)?;
    Ok((out, err))
}

/// Starts `command` as process `name` in a session of its own, its output going to the log file of that name, and records it.
pub fn spawn(lab: &Lab, name: &str, command: &Command) -> Result<Record, LabError> {
    if let Some(pid) = pid(lab, name) {
        return Err(LabError::State(format!(
            "{name} runs already as process {pid}"
        )));
    }
    let (out, err) = log_streams(lab, name)?;
    let mut detached = Command::new("setsid");
    detached.arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => detached.env(key, value),
            None => detached.env_remove(key),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        detached.current_dir(folder);
    }
    detached
        .env(MARK, &lab.run)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    let child = detached
        .spawn()
        .doing(|| format!("start {name} ({:?})", command.get_program()))?;
    let pid = i32::try_from(child.id())
        .map_err(|_| LabError::State(format!("pid {} of {name} is not an i32", child.id())))?;
    let Some(stat) = stat(pid) else {
        return Err(died(lab, name));
    };
    let record = Record {
        pid,
        start_time: stat.start_time,
    };
    let path = record_path(lab, name);
    let text = serde_json::to_vec(&record).expect("two numbers are always JSON");
    fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
    Ok(record)
}

/// Waits until process `name` is `ready`; an error with the end of its log as soon as it has ended.
pub fn wait_ready(
    lab: &Lab,
    name: &str,
    limit: Duration,
    mut ready: impl FnMut() -> bool,
) -> Result<(), LabError> {
    let mut ended = false;
    wait_for(
        &format!("{name} to be ready (log: {})", lab.log(name).display()),
        limit,
        || {
            if ready() {
                return true;
            }
            ended = !is_running(lab, name);
            ended
        },
    )?;
    if ended { Err(died(lab, name)) } else { Ok(()) }
}

/// The error that `name` has ended, with the end of its log.
pub fn died(lab: &Lab, name: &str) -> LabError {
    let log = lab.log(name);
    LabError::Died {
        name: name.to_owned(),
        tail: tail(&log, 20),
        log,
    }
}

/// The last `lines` lines of a log.
fn tail(log: &std::path::Path, lines: usize) -> String {
    let Ok(bytes) = fs::read(log) else {
        return "(no log)".to_owned();
    };
    last_lines(&String::from_utf8_lossy(&bytes), lines).to_owned()
}

/// The last `lines` lines of `text`.
pub fn last_lines(text: &str, lines: usize) -> &str {
    let text = text.trim_end();
    let start = text
        .rmatch_indices('\n')
        .nth(lines.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    &text[start..]
}

/// Stops process `name`: SIGTERM, and SIGKILL when it has not ended after `patience`. Nothing to do if it does not run.
pub fn stop(lab: &Lab, name: &str, patience: Duration) -> Result<(), LabError> {
    if let Some(record) = record(lab, name) {
        end(name, record, patience)?;
    }
    forget(lab, name)
}

/// Kills process `name` at once (SIGKILL), as a power failure would.
pub fn kill_now(lab: &Lab, name: &str) -> Result<(), LabError> {
    stop(lab, name, Duration::ZERO)
}

/// A process that stands still; it goes on when this is dropped, at the latest.
#[derive(Debug)]
pub struct Paused {
    name: String,
    record: Record,
}

impl Paused {
    /// Lets it go on.
    pub fn resume(self) -> Result<(), LabError> {
        let what = || format!("resume {} (process {})", self.name, self.record.pid);
        signal(self.record, Signal::SIGCONT).doing(what)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // For whom `resume` was not called, an error is already on its way.
        signal(self.record, Signal::SIGCONT).ok();
    }
}

/// Makes process `name` stand still (SIGSTOP): it keeps its connections and answers nothing.
pub fn pause(lab: &Lab, name: &str) -> Result<Paused, LabError> {
    let record = record(lab, name).filter(|record| alive(*record));
    let record = record.ok_or_else(|| LabError::State(format!("{name} does not run")))?;
    signal(record, Signal::SIGSTOP).doing(|| format!("pause {name} (process {})", record.pid))?;
    Ok(Paused {
        name: name.to_owned(),
        record,
    })
}

/// Sends a signal to a process if it still runs.
fn signal(record: Record, signal: Signal) -> std::io::Result<()> {
    if !alive(record) {
        return Ok(());
    }
    match kill(Pid::from_raw(record.pid), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn forget(lab: &Lab, name: &str) -> Result<(), LabError> {
    let path = record_path(lab, name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

fn end(name: &str, record: Record, patience: Duration) -> Result<(), LabError> {
    let send =
        |sent| signal(record, sent).doing(|| format!("stop {name} (process {})", record.pid));
    if !patience.is_zero() {
        send(Signal::SIGTERM)?;
        if wait_for(name, patience, || !alive(record)).is_ok() {
            return Ok(());
        }
    }
    send(Signal::SIGKILL)?;
    wait_for(
        &format!("{name} (process {}) to die", record.pid),
        Duration::from_secs(10),
        || !alive(record),
    )
}

/// Names and pids of all recorded processes that run.
pub fn running(lab: &Lab) -> Vec<(String, i32)> {
    let Ok(entries) = fs::read_dir(lab.run.join("pids")) else {
        return Vec::new();
    };
    let mut found: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_suffix(".json")
                .map(str::to_owned)
        })
        .filter_map(|name| pid(lab, &name).map(|pid| (name, pid)))
        .collect();
    found.sort();
    found
}

/// Kills every process that carries this lab's mark and is not recorded: what a lab that was itself killed left behind.
pub fn sweep(lab: &Lab) -> Result<usize, LabError> {
    let recorded: Vec<i32> = running(lab).into_iter().map(|(_, pid)| pid).collect();
    let mark = format!("{MARK}={}", lab.run.display());
    let mut killed = 0;
    for entry in fs::read_dir("/proc")
        .doing(|| "list /proc".to_owned())?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        let Some(stat) = stat(pid) else { continue };
        let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else {
            continue;
        };
        let marked = environ
            .split(|byte| *byte == 0)
            .any(|variable| variable == mark.as_bytes());
        if marked && !recorded.contains(&pid) && u32::try_from(pid) != Ok(std::process::id()) {
            end(
                "a leftover of an earlier lab",
                Record {
                    pid,
                    start_time: stat.start_time,
                },
                Duration::from_secs(2),
            )?;
            killed += 1;
        }
    }
    Ok(killed)
}

/// CPU seconds that a process has taken so far.
pub fn cpu_seconds(pid: i32) -> Option<f64> {
    // proc(5) counts in hundredths of a second: USER_HZ is 100 wherever Linux runs Kafka.
    Some(stat(pid)?.cpu_ticks as f64 / 100.0)
}

/// Resident memory of a process in MiB.
pub fn memory_mib(pid: i32) -> Option<u64> {
    Some(status_kib(pid, "VmRSS:")? / 1024)
}

/// Resident memory of a process at its peak so far, in MiB.
pub fn peak_memory_mib(pid: i32) -> Option<u64> {
    Some(status_kib(pid, "VmHWM:")? / 1024)
}

fn status_kib(pid: i32, key: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Runs `command` to its end and returns what it printed; an error with the end of its output when it fails.
pub fn run(command: &mut Command) -> Result<String, LabError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .doing(|| format!("run {program}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let said = format!("{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let line: Vec<_> = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    Err(LabError::Program {
        program: format!("{program} {}", line.join(" ")),
        status: output.status.to_string(),
        output: last_lines(&said, 20).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_a_hostile_name() {
        let fields: Vec<String> = (4..=52).map(|field| field.to_string()).collect();
        let text = format!("123 (a) S (b c) R {}", fields.join(" "));
        assert_eq!(
            parse_stat(&text),
            Some(Stat {
                state: 'R',
                cpu_ticks: 14 + 15,
                start_time: 22
            })
        );
    }

    #[test]
    fn own_start_time_is_found() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let stat = stat(pid).unwrap();
        assert!(alive(Record {
            pid,
            start_time: stat.start_time
        }));
        assert!(!alive(Record {
            pid,
            start_time: stat.start_time + 1
        }));
    }

    #[test]
    fn what_stands_still_goes_on_when_its_guard_goes() {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::at(folder.path().to_owned(), "a").unwrap();
        let record = spawn(&lab, "sleeper", Command::new("sleep").arg("60")).unwrap();
        let state = || stat(record.pid).unwrap().state;
        let becomes = |wanted: char| {
            let stopped = || (state() == 'T') == (wanted == 'T');
            wait_for("the state", Duration::from_secs(10), stopped).unwrap();
        };
        let paused = pause(&lab, "sleeper").unwrap();
        becomes('T');
        drop(paused);
        becomes('S');
        pause(&lab, "sleeper").unwrap().resume().unwrap();
        becomes('S');
        kill_now(&lab, "sleeper").unwrap();
        assert!(pause(&lab, "sleeper").is_err());
    }

    #[test]
    fn last_lines_cuts_at_line_starts() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a\nb", 5), "a\nb");
        assert_eq!(last_lines("", 5), "");
    }
}
