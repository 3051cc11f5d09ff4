//! Secrets as files: `<folder>/<secret name>/<key>`, as the kubelet mounts them and a user lays them out at a terminal.
//!
//! # Guarantees
//! - Nothing is remembered: each reading gives what is there now, so that a Secret that is changed counts from the next use on.
//! - Only "not found" means absent.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For so long what was taken before is tried again when it is refused: a Secret that is rotated reaches a pod's files a minute and a
/// half later (a kubelet's period and its cache).
pub(crate) const ROTATION: Duration = Duration::from_secs(180);

/// A key of a Secret that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("failed to read key {key:?} of Secret {secret:?} as the file {}", path.display())]
pub struct SecretError {
    /// Name of the Secret.
    pub secret: String,
    /// Key in it.
    pub key: String,
    /// Where it was looked for.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// The content of one key of a Secret, without the line end that editors and `echo` leave.
///
/// # Errors
/// [`SecretError`]: there is no such file, or it cannot be read as text.
pub fn read(folder: &Path, secret: &str, key: &str) -> Result<String, SecretError> {
    let path = folder.join(secret).join(key);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
        Err(source) => Err(SecretError {
            secret: secret.to_owned(),
            key: key.to_owned(),
            path,
            source,
        }),
    }
}

/// The same; `None` where the Secret is there without that key.
///
/// # Errors
/// [`SecretError`]: there is no such Secret, or the file cannot be read as text.
pub fn read_optional(
    folder: &Path,
    secret: &str,
    key: &str,
) -> Result<Option<String>, SecretError> {
    match read(folder, secret, key) {
        Ok(text) => Ok(Some(text)),
        Err(error)
            if error.source.kind() == io::ErrorKind::NotFound && folder.join(secret).is_dir() =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What `read` gives twice in a row: several keys of one version of a Secret, which a kubelet may exchange between two readings.
///
/// # Errors
/// Those of `read`.
pub fn settled<T: PartialEq, E>(read: impl Fn() -> Result<T, E>) -> Result<T, E> {
    let mut found = read()?;
    loop {
        let again = read()?;
        if again == found {
            return Ok(found);
        }
        found = again;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_between_two_readings_is_read_again() {
        let left = std::cell::RefCell::new(vec![2, 2, 1]);
        let read = || left.borrow_mut().pop().ok_or("read once too often");
        assert_eq!(settled(read), Ok(2));
        let fails = || Err::<(), _>("no");
        assert_eq!(settled(fails), Err("no"));
    }

    #[test]
    fn a_key_may_be_absent_a_secret_may_not() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tls")).unwrap();
        std::fs::write(folder.path().join("tls/ca.crt"), "pem\r\n").unwrap();
        let read = |secret, key| read_optional(folder.path(), secret, key);
        assert_eq!(read("tls", "ca.crt").unwrap().as_deref(), Some("pem"));
        assert_eq!(read("tls", "tls.crt").unwrap(), None);
        let error = read("tsl", "ca.crt").unwrap_err().to_string();
        assert!(
            error.contains("\"tsl\"") && error.contains("ca.crt"),
            "{error}"
        );
    }
}
