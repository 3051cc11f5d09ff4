//! Files of the tree, and those of them that are made by a test.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part, and fails by panicking"
)]

use std::path::{Path, PathBuf};

use serde_json::Value;

pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap().to_owned()
}

pub fn read(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// Compares with a committed file; `GOLDEN=write` writes it instead.
pub fn assert_golden(path: &str, text: &str) {
    if std::env::var_os("GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(root().join(path), text).expect(path);
    }
    let found = read(path);
    assert!(
        found == text,
        "{path} differs; GOLDEN=write writes it:\n{text}"
    );
}

/// The same for what stands between two marks in a file.
pub fn assert_golden_part(path: &str, begin: &str, end: &str, text: &str) {
    let document = read(path);
    let (before, rest) = document.split_once(begin).expect(begin);
    let (_, after) = rest.split_once(end).expect(end);
    assert_golden(path, &format!("{before}{begin}{text}{end}{after}"));
}

/// Whether `found` has everything of `promised`, and may have more fields.
pub fn holds(found: &Value, promised: &Value) -> bool {
    match (found, promised) {
        (Value::Object(found), Value::Object(promised)) => promised
            .iter()
            .all(|(name, value)| found.get(name).is_some_and(|found| holds(found, value))),
        (Value::Array(found), Value::Array(promised)) => {
            found.len() == promised.len()
                && found
                    .iter()
                    .zip(promised)
                    .all(|(found, promised)| holds(found, promised))
        }
        _ => found == promised,
    }
}
