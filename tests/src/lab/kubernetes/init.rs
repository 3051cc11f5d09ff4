//! The first process of the node: `lab node-init`, in fresh pid, mount, uts and ipc namespaces inside the lab's network namespace.
//!
//! # Guarantees
//! - Every component of the node runs, and runs again 300 ms after it ended, unless the file `hold/NAME` exists.
//! - When this process dies, however it dies, the kernel kills every component, shim and pod, and the node's mounts go with its namespace.
//!
//! # Assumptions
//! Being process 1 it inherits the orphans of all (containerd's shims are), and waits for whatever child ends.

use super::{Component, NAME, hold_file, pid_file};
use crate::lab::process::run;
use crate::lab::{Doing, Lab, LabError, NODE_IP, SERVICE_CIDR, process};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::convert::Infallible;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(50);
const RESTART: Duration = Duration::from_millis(300);

/// Paths that runc, libcni and the kubelet use whatever their configuration says: the node sees folders of the lab there.
const FIXED: [&str; 4] = [
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
];

/// Settings of the whole machine that the kubelet would change, with the values it wants: the node sees them so, the machine keeps its own.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// A component and its process, if it runs now.
struct Supervised {
    component: Component,
    child: Option<Child>,
    not_before: Instant,
}

/// Prepares the namespaces and supervises until killed.
pub fn main(lab: &Lab) -> Result<Infallible, LabError> {
    if std::process::id() != 1 {
        return Err(LabError::State(
            "node-init is started by `cargo lab up kubernetes`, as the first process of the node"
                .to_owned(),
        ));
    }
    let state = lab.state(NAME);
    mounts(&state)?;
    network()?;
    let start = Instant::now();
    let mut all = Component::ALL.map(|component| Supervised {
        component,
        child: None,
        not_before: start,
    });
    loop {
        for supervised in &mut all {
            keep_running(lab, &state, supervised)?;
        }
        reap(&mut all)?;
        std::thread::sleep(LOOK);
    }
}

fn mounts(state: &Path) -> Result<(), LabError> {
    fs::write("/proc/sys/kernel/hostname", super::NODE)
        .doing(|| "set the node's host name".to_owned())?;
    let mount = |args: &[&str]| run(Command::new("mount").args(args)).map(drop);
    // A sysfs of the lab's network namespace, with the machine's cgroups in it as before.
    let cgroups = folder(&state.join("cgroups"))?;
    mount(&["--rbind", "/sys/fs/cgroup", &cgroups])?;
    mount(&["-t", "sysfs", "sysfs", "/sys"])?;
    mount(&["--rbind", &cgroups, "/sys/fs/cgroup"])?;
    run(Command::new("umount").args(["--recursive", &cgroups]))?;
    // Only now: between shared mounts the umount above would empty /sys/fs/cgroup as well. Pods' mounts propagate by this.
    mount(&["--make-rshared", "/"])?;
    for fixed in FIXED {
        let own = folder(&state.join("fixed").join(&fixed[1..]))?;
        mount(&["--bind", &own, &folder(Path::new(fixed))?])?;
    }
    let values = state.join("sysctl");
    folder(&values)?;
    for (name, value) in SYSCTLS {
        let setting = Path::new("/proc/sys").join(name);
        if !setting.exists() {
            continue;
        }
        let file = values.join(name.replace('/', "."));
        fs::write(&file, format!("{value}\n")).doing(|| format!("write {}", file.display()))?;
        mount(&[
            "--bind",
            &file.display().to_string(),
            &setting.display().to_string(),
        ])?;
    }
    Ok(())
}

fn folder(path: &Path) -> Result<String, LabError> {
    fs::create_dir_all(path).doing(|| format!("create {}", path.display()))?;
    Ok(path.display().to_string())
}

fn network() -> Result<(), LabError> {
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")
        .doing(|| "turn on forwarding in the lab's network namespace".to_owned())?;
    let bridged = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
    if bridged.exists() {
        fs::write(bridged, "1").doing(|| format!("write {}", bridged.display()))?;
    }
    // A packet from the node to a Service must have a route before it gets another destination; there is no default route.
    run(Command::new("ip").args([
        "route",
        "replace",
        SERVICE_CIDR,
        "dev",
        "lab0",
        "src",
        NODE_IP,
    ]))
    .map(drop)
}

/// Starts the component unless it runs, is held, or has ended just now.
fn keep_running(lab: &Lab, state: &Path, supervised: &mut Supervised) -> Result<(), LabError> {
    let Supervised {
        component,
        child,
        not_before,
    } = supervised;
    if child.is_some() || Instant::now() < *not_before || hold_file(state, *component).exists() {
        return Ok(());
    }
    let name = component.name();
    let (out, err) = process::log_streams(lab, name)?;
    let mut command = component.command(state);
    let started = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .doing(|| format!("start {name}"))?;
    let file = pid_file(state, *component);
    fs::write(&file, started.id().to_string()).doing(|| format!("write {}", file.display()))?;
    *child = Some(started);
    Ok(())
}

/// Takes notice of every process that has ended.
fn reap(all: &mut [Supervised]) -> Result<(), LabError> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return Ok(()),
            Ok(status) => status,
            Err(errno) => {
                return Err(std::io::Error::from(errno))
                    .doing(|| "wait for the node's processes".to_owned());
            }
        };
        let ended = status
            .pid()
            .and_then(|pid| u32::try_from(pid.as_raw()).ok());
        let of = |supervised: &&mut Supervised| supervised.child.as_ref().map(Child::id) == ended;
        if let Some(supervised) = all.iter_mut().find(of) {
            println!("{} ended: {status:?}", supervised.component.name());
            supervised.child = None;
            supervised.not_before = Instant::now() + RESTART;
        }
    }
}
