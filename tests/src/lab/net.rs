//! The lab's network namespace: every server and every client of the lab is in it.
//!
//! # Guarantees
//! - It has no link to the machine and no default route: no packet to an address of the lab can leave the machine, whether or not the lab is up.
//! - Two labs at once use the same addresses without seeing each other.

use super::process::{self, run};
use super::{Doing, Lab, LabError, NODE_IP, wait_for};
use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// The process that keeps the namespace alive.
pub const HOLDER: &str = "net";

/// What the network itself needs; nsenter, unshare and setsid are in util-linux, which Debian always has.
pub const PACKAGES: &[(&str, &str)] = &[("ip", "iproute2")];

/// The path of the namespace, while it is up.
pub fn path(lab: &Lab) -> Result<PathBuf, LabError> {
    let pid = process::pid(lab, HOLDER).ok_or_else(|| {
        LabError::State(format!(
            "lab {:?} is not up; start it with `cargo lab up`",
            lab.name
        ))
    })?;
    Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
}

/// A command for `program` that will run inside the namespace. It executes in place: the pid of the child is the program's.
/// Where parts are given there is no namespace, and it runs where they are found: in the caller's network.
pub fn command(lab: &Lab, program: impl AsRef<OsStr>) -> Result<Command, LabError> {
    if lab.given.is_some() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net={}", path(lab)?.display()))
        .arg("--")
        .arg(program);
    Ok(command)
}

/// Whether something listens on `port` of the node's address (or any address) inside the namespace.
pub fn listens(lab: &Lab, port: u16) -> bool {
    let Some(pid) = process::pid(lab, HOLDER) else {
        return false;
    };
    ["tcp", "tcp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        has_listener(&text, port)
    })
}

/// Looks for a listening socket in the text of /proc/net/tcp; state 0A is TCP_LISTEN.
fn has_listener(table: &str, port: u16) -> bool {
    let suffix = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        fields.nth(1).is_some_and(|local| local.ends_with(&suffix)) && fields.nth(1) == Some("0A")
    })
}

/// Makes the namespace with its bridge, unless it is there.
pub fn up(lab: &Lab) -> Result<(), LabError> {
    if process::is_running(lab, HOLDER)
        && run(command(lab, "ip")?.args(["-4", "-o", "address", "show", "dev", "lab0"]))
            .is_ok_and(|text| text.contains(NODE_IP))
    {
        return Ok(());
    }
    // Whatever still runs belongs to a namespace that is gone or half made.
    down(lab)?;
    let own = fs::read_link("/proc/self/ns/net")
        .doing(|| "read this process's network namespace".to_owned())?;
    let mut holder = Command::new("unshare");
    holder.args(["--net", "--", "sleep", "infinity"]);
    process::spawn(lab, HOLDER, &holder)?;
    // nix's root check would say less than what unshare itself writes into its log.
    let path = path(lab).map_err(|_| process::died(lab, HOLDER))?;
    wait_for("the network namespace", Duration::from_secs(5), || {
        !process::is_running(lab, HOLDER) || fs::read_link(&path).is_ok_and(|made| made != own)
    })?;
    if !process::is_running(lab, HOLDER) {
        return Err(process::died(lab, HOLDER));
    }
    let address = format!("{NODE_IP}/30");
    for line in [
        &["link", "set", "lo", "up"][..],
        // This kernel may lack the type `dummy`; a bridge without ports serves as well.
        &["link", "add", "lab0", "type", "bridge"],
        &["link", "set", "lab0", "up"],
        &["address", "add", &address, "dev", "lab0"],
    ] {
        run(command(lab, "ip")?.args(line))?;
    }
    Ok(())
}

/// Ends the namespace's holder; the kernel removes the namespace with its last process.
pub fn down(lab: &Lab) -> Result<(), LabError> {
    process::stop(lab, HOLDER, Duration::from_secs(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "  sl  local_address rem_address   st tx_queue\n   0: 020012C6:2384 00000000:0000 0A 00000000\n   1: 020012C6:2385 020012C6:D431 01 00000000\n";

    #[test]
    fn only_listening_sockets_count() {
        assert!(has_listener(TABLE, 9092));
        assert!(!has_listener(TABLE, 9093));
        assert!(!has_listener(TABLE, 8333));
    }
}
