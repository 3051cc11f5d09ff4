//! The cgroup of the node's pods: `kafka-backup-lab-NAME` in every hierarchy (cgroup v1) or in the one there is (v2).
//!
//! # Assumptions
//! The kubelet demands that its root exists in each hierarchy, and in v1 a new cpuset has neither CPUs nor memory nodes.

use crate::lab::{Doing, Lab, LabError, wait_for};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";

/// The cgroup's name, without a slash.
pub(super) fn name(lab: &Lab) -> String {
    format!("kafka-backup-lab-{}", lab.name)
}

/// The mount points of the hierarchies.
fn hierarchies() -> Result<Vec<PathBuf>, LabError> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).doing(|| format!("list {ROOT}"))? {
        let entry = entry.doing(|| format!("list {ROOT}"))?;
        // `cpu,cpuacct` may be there under several names, all but one of them symbolic links.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

pub(super) fn create(lab: &Lab) -> Result<(), LabError> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(name(lab));
        fs::create_dir_all(&folder).doing(|| format!("create cgroup {}", folder.display()))?;
        if hierarchy
            .file_name()
            .is_some_and(|controller| controller == "cpuset")
        {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(hierarchy.join(file)).doing(|| format!("read {file}"))?;
                fs::write(folder.join(file), value)
                    .doing(|| format!("write {}", folder.join(file).display()))?;
            }
        }
    }
    Ok(())
}

/// Removes the cgroup with all below it; waits for the end of the processes in it, which were killed before.
pub(super) fn remove(lab: &Lab) -> Result<(), LabError> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(name(lab));
        let what = format!("the processes in cgroup {} to end", folder.display());
        wait_for(&what, Duration::from_secs(20), || {
            remove_tree(&folder).is_ok()
        })?;
    }
    Ok(())
}

/// A cgroup's files cannot be removed, only its folders, the innermost first.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
