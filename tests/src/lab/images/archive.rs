//! The docker-archive format: a tar file with a manifest, a configuration, and one layer, itself a tar file.

use crate::lab::{Doing, LabError};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// One path in an image's file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    File { source: PathBuf, mode: u32 },
    Text { text: String, mode: u32 },
    Folder { mode: u32 },
}

/// The file system of an image by absolute path. Folders above an entry are made with mode 755.
pub type RootFs = BTreeMap<String, Entry>;

/// Writes the image `reference` with one layer to `archive`.
pub fn build_archive(
    rootfs: &RootFs,
    reference: &str,
    entrypoint: &[&str],
    user: &str,
    archive: &Path,
) -> Result<(), LabError> {
    let doing = || format!("write image archive {}", archive.display());
    let layer = layer(rootfs)?;
    let digest = hex(&layer);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": { "Entrypoint": entrypoint, "User": user, "WorkingDir": "/", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "kafka-backup lab" }],
    })
    .to_string();
    let config_name = format!("{}.json", hex(config.as_bytes()));
    let layer_name = format!("{digest}.tar");
    let manifest =
        json!([{ "Config": config_name, "RepoTags": [reference], "Layers": [layer_name] }])
            .to_string();

    let mut file = fs::File::create(archive).doing(doing)?;
    let mut tar = tar::Builder::new(&mut file);
    for (name, data) in [
        ("manifest.json", manifest.as_bytes()),
        (&config_name, config.as_bytes()),
        (&layer_name, &layer),
    ] {
        let mut header = header(0o644, tar::EntryType::Regular);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data).doing(doing)?;
    }
    tar.finish().doing(doing)?;
    drop(tar);
    file.flush().doing(doing)
}

/// The tar file of a layer.
pub(super) fn layer(rootfs: &RootFs) -> Result<Vec<u8>, LabError> {
    let mut all: BTreeMap<String, Entry> = rootfs.clone();
    for path in rootfs.keys() {
        for (at, _) in path.match_indices('/').filter(|(at, _)| *at > 0) {
            all.entry(path[..at].to_owned())
                .or_insert(Entry::Folder { mode: 0o755 });
        }
    }
    let mut tar = tar::Builder::new(Vec::new());
    for (path, entry) in &all {
        let doing = || format!("add {path} to an image layer");
        let name = path.trim_start_matches('/');
        let (mode, kind, data) = match entry {
            Entry::Folder { mode } => (*mode, tar::EntryType::Directory, Vec::new()),
            Entry::Text { text, mode } => {
                (*mode, tar::EntryType::Regular, text.clone().into_bytes())
            }
            Entry::File { source, mode } => (
                *mode,
                tar::EntryType::Regular,
                fs::read(source).doing(|| format!("read {}", source.display()))?,
            ),
        };
        let mut header = header(mode, kind);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data.as_slice())
            .doing(doing)?;
    }
    tar.into_inner()
        .doing(|| "finish an image layer".to_owned())
}

fn header(mode: u32, kind: tar::EntryType) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

pub(super) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The architecture's name in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Vec<(String, u32)> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                )
            })
            .collect()
    }

    fn rootfs() -> RootFs {
        RootFs::from([
            (
                "/a/b/c".to_owned(),
                Entry::Text {
                    text: "x".to_owned(),
                    mode: 0o755,
                },
            ),
            ("/tmp".to_owned(), Entry::Folder { mode: 0o1777 }),
        ])
    }

    #[test]
    fn layer_has_the_folders_above_its_entries() {
        let found = names(&layer(&rootfs()).unwrap());
        let wanted = [
            ("a", 0o755),
            ("a/b", 0o755),
            ("a/b/c", 0o755),
            ("tmp", 0o1777),
        ];
        assert_eq!(found, wanted.map(|(name, mode)| (name.to_owned(), mode)));
    }

    #[test]
    fn same_entries_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            build_archive(&rootfs(), "h.local/n:1", &["/a/b/c"], "1:1", &path).unwrap();
            fs::read(path).unwrap()
        };
        assert_eq!(write("1"), write("2"));
    }

    #[test]
    fn archive_names_its_config_by_digest() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i.tar");
        build_archive(&rootfs(), "h.local/n:1", &["/a/b/c"], "1:1", &path).unwrap();
        let mut archive = tar::Archive::new(fs::File::open(&path).unwrap());
        let mut config = Vec::new();
        let mut name = String::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            if path.ends_with(".json") && path != "manifest.json" {
                std::io::copy(&mut entry, &mut config).unwrap();
                name = path;
            }
        }
        assert_eq!(name, format!("{}.json", hex(&config)));
    }
}
