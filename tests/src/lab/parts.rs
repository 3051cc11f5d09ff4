//! Third-party parts that are fetched or built once and kept: `third-party/NAME/VERSION/`.
//!
//! # Guarantees
//! A part is either complete or absent: it is made under another name and renamed. Two labs that need the same part make it once.

use super::{Doing, Lab, LabError, step};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// The folder of a part, made by `build` (which gets an empty folder to fill) if it is not there yet.
pub fn part(
    lab: &Lab,
    name: &str,
    version: &str,
    build: impl FnOnce(&Path) -> Result<(), LabError>,
) -> Result<PathBuf, LabError> {
    let home = lab.cache.join("third-party").join(name);
    let done = home.join(version);
    if done.exists() {
        return Ok(done);
    }
    fs::create_dir_all(&home).doing(|| format!("create {}", home.display()))?;
    let _lock = lock(&home.join("lock"))?;
    if done.exists() {
        return Ok(done);
    }
    let temporary = home.join(format!("{version}.partial"));
    remove(&temporary)?;
    fs::create_dir_all(&temporary).doing(|| format!("create {}", temporary.display()))?;
    step(
        &format!("made {name} {version} (kept in the cache)"),
        || build(&temporary),
    )?;
    fs::rename(&temporary, &done)
        .doing(|| format!("rename {} to {version}", temporary.display()))?;
    Ok(done)
}

/// Holds a file's lock until it is dropped; waits for other processes that hold it.
pub fn lock(path: &Path) -> Result<File, LabError> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .doing(|| format!("open {}", path.display()))?;
    file.lock().doing(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// Removes a folder and all in it; absent is fine.
pub fn remove(folder: &Path) -> Result<(), LabError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", folder.display())),
    }
}

/// The first ten hexadecimal digits of the SHA-256 of all inputs: the version of what is made from them.
pub fn key(inputs: &[&[u8]]) -> String {
    let mut digest = Sha256::new();
    for input in inputs {
        digest.update((input.len() as u64).to_be_bytes());
        digest.update(input);
    }
    digest
        .finalize()
        .iter()
        .take(5)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> (tempfile::TempDir, Lab) {
        let folder = tempfile::tempdir().unwrap();
        let lab = Lab::at(folder.path().to_owned(), name).unwrap();
        (folder, lab)
    }

    #[test]
    fn failed_build_leaves_no_part() {
        let (_folder, lab) = scratch("a");
        let failed = part(&lab, "x", "1", |_| Err(LabError::State("no".to_owned())));
        assert!(failed.is_err());
        let made = part(&lab, "x", "1", |folder| {
            assert!(fs::read_dir(folder).unwrap().next().is_none());
            fs::write(folder.join("f"), "y").doing(|| "write".to_owned())
        });
        assert_eq!(fs::read_to_string(made.unwrap().join("f")).unwrap(), "y");
    }

    #[test]
    fn complete_part_is_not_built_again() {
        let (_folder, lab) = scratch("a");
        part(&lab, "x", "1", |_| Ok(())).unwrap();
        part(&lab, "x", "1", |_| {
            Err(LabError::State("built again".to_owned()))
        })
        .unwrap();
    }

    #[test]
    fn key_depends_on_the_borders_of_its_inputs() {
        assert_ne!(key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    }
}
