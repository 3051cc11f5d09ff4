//! What tests do to the node: end a component, keep it away, let it come back.

use super::{Component, NAME, running};
use crate::lab::{Doing, Lab, LabError, process, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sends a signal to a component, and returns its pid; the node's init starts it again when it ends, unless it is held.
pub fn restart(lab: &Lab, component: Component, signal: Signal) -> Result<i32, LabError> {
    running(lab)?;
    let away = || LabError::State(format!("{} does not run at the moment", component.name()));
    let pid = pid(lab, component).ok_or_else(away)?;
    kill(Pid::from_raw(pid), signal)
        .map_err(std::io::Error::from)
        .doing(|| format!("send {signal} to {}", component.name()))?;
    Ok(pid)
}

/// Keeps a component from being started (again); it is not ended by this: see [`restart`].
pub fn hold(lab: &Lab, component: Component) -> Result<(), LabError> {
    let file = hold_file(&lab.state(NAME), component);
    fs::write(&file, "").doing(|| format!("write {}", file.display()))
}

/// Lets a held component start.
pub fn release(lab: &Lab, component: Component) -> Result<(), LabError> {
    let file = hold_file(&lab.state(NAME), component);
    match fs::remove_file(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", file.display())),
    }
}

pub(super) fn hold_file(state: &Path, component: Component) -> PathBuf {
    state.join("hold").join(component.name())
}

pub(super) fn pid_file(state: &Path, component: Component) -> PathBuf {
    state.join("pids").join(component.name())
}

/// Waits until another process than `old` is the component's.
pub fn wait_replaced(
    lab: &Lab,
    component: Component,
    old: i32,
    limit: Duration,
) -> Result<(), LabError> {
    wait_for(&format!("{} to run again", component.name()), limit, || {
        pid(lab, component).is_some_and(|pid| pid != old)
    })
}

/// The pid of a component on the machine: the child of the node's init whose pid in the node is the recorded one.
pub fn pid(lab: &Lab, component: Component) -> Option<i32> {
    let inside = fs::read_to_string(pid_file(&lab.state(NAME), component)).ok()?;
    let init = *children(process::pid(lab, NAME)?).first()?;
    children(init).into_iter().find(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        let pids = status
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .unwrap_or_default();
        pids.split_ascii_whitespace().next_back() == Some(inside.trim())
    })
}

fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_ascii_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}
