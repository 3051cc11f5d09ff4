//! What the tree itself promises. Needs no lab.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn cargo(args: &[&str]) -> String {
    let output = Command::new("cargo")
        .current_dir(root())
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn shared_has_no_io_and_no_runtime() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--locked",
        "-p",
        "kafka-backup-shared",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    for name in [
        "tokio",
        "rdkafka",
        "object_store",
        "axum",
        "reqwest",
        "hyper",
    ] {
        let found = tree
            .lines()
            .find(|line| line.split(' ').next() == Some(name));
        assert_eq!(found, None, "shared depends on {name}");
    }
    assert!(tree.contains("kube-derive"), "the tree was read");
}

#[test]
fn there_is_one_tls_provider() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--locked",
        "--workspace",
        "-e",
        "normal",
        "--prefix",
        "none",
    ]);
    assert!(tree.lines().any(|line| line.starts_with("ring ")));
    for name in ["aws-lc-rs ", "openssl ", "native-tls "] {
        assert!(!tree.lines().any(|line| line.starts_with(name)), "{name}");
    }
}

#[test]
fn sources_are_formatted() {
    cargo(&["fmt", "--check"]);
}

#[test]
fn every_command_of_the_readme_exists() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let lab = Command::new(env!("CARGO_BIN_EXE_lab"))
        .arg("--help")
        .output();
    let help = String::from_utf8_lossy(&lab.unwrap().stdout).into_owned();
    let verbs: Vec<&str> = readme
        .split("cargo lab ")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_ascii_lowercase()).next())
        .filter(|verb| !verb.is_empty())
        .collect();
    assert!(
        verbs.contains(&"demo") && verbs.contains(&"test"),
        "{verbs:?}"
    );
    for verb in verbs {
        assert!(
            help.contains(&format!("  {verb} ")),
            "README.md names `cargo lab {verb}`, which --help does not"
        );
    }
}

/// They are not run here: what can be held against something is.
#[test]
fn dockerfiles_make_what_the_labs_images_are() {
    let read = |name: &str| std::fs::read_to_string(root().join(name).join("Dockerfile")).unwrap();
    let worker = read("worker");
    let needed = |line: &&str| !line.starts_with("# ") || line.contains("docker buildx");
    let lines = |text: &str| {
        text.lines()
            .filter(needed)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let controller = read("controller").replace("controller", "worker");
    assert_eq!(
        lines(&controller),
        lines(&worker),
        "they differ by the name alone"
    );
    use kafka_backup_tests::lab::images::{CYCLONEDX, MATERIALS};
    assert!(
        worker.contains(&format!("--version {CYCLONEDX} cargo-cyclonedx"))
            && worker.contains(&format!("/image{MATERIALS} ")),
        "{worker}"
    );
    let last = worker.rsplit("\nFROM ").next().unwrap();
    assert!(last.starts_with("scratch\n"), "{last}");
    let user = kafka_backup_tests::lab::images::USER;
    assert!(last.contains(&format!("USER {user}:{user}\n")), "{last}");
    assert!(
        last.contains("ENTRYPOINT [\"/kafka-backup-worker\"]"),
        "{last}"
    );
    let version = cargo(&[
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ]);
    let rust = version.split("\"rust_version\":\"").nth(1).unwrap();
    let rust = rust.split('"').next().unwrap();
    assert!(
        worker.contains(&format!("FROM rust:{rust}-")),
        "Rust {rust}"
    );
}
