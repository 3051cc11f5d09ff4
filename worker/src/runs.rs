//! The archives of a store; the runs of an archive in their order, and which of them is the newest complete one.
//!
//! # Guarantees
//! - Complete is a run with a manifest, and nothing else is.
//! - The newest is told by what run ids end in, never by when an object was written.

use bytes::Bytes;
use kafka_backup_shared::archive::layout::{Layout, run_order, unescape};
use kafka_backup_shared::archive::snapshot;
use kafka_backup_shared::plan::ArchiveName;

use crate::store::{Store, StoreError};

/// A run with its manifest.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    /// Run id.
    pub(crate) run: String,
    /// The manifest's key.
    pub(crate) key: String,
    /// The manifest, not yet read: whoever verifies wants to know that it cannot be.
    pub(crate) manifest: Bytes,
}

/// The archives of a store.
///
/// # Errors
/// The store's.
pub(crate) async fn archives(store: &Store) -> Result<Vec<ArchiveName>, StoreError> {
    let mut archives = Vec::new();
    for namespace in store.list_dirs("").await? {
        // Snapshots of committed offsets lie beside the archives.
        if namespace == snapshot::FOLDER {
            continue;
        }
        for folder in store.list_dirs(&namespace).await? {
            // A folder that no archive's name is written as is somebody else's.
            let name = folder.split_once('/').and_then(|(namespace, name)| {
                Some(ArchiveName {
                    namespace: unescape(namespace)?,
                    name: unescape(name)?,
                })
            });
            archives.extend(name);
        }
    }
    Ok(archives)
}

/// Ids of all runs that have begun, the newest first.
///
/// # Errors
/// The store's.
pub(crate) async fn ids(store: &Store, layout: &Layout) -> Result<Vec<String>, StoreError> {
    let folders = store.list_dirs(&layout.runs()).await?;
    let mut ids: Vec<String> = folders
        .iter()
        .filter_map(|folder| unescape(folder.rsplit('/').next()?))
        .collect();
    ids.sort_by(|a, b| run_order(b).cmp(&run_order(a)));
    Ok(ids)
}

/// The newest complete run, and what is newer.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    /// `None`: no run is complete.
    pub(crate) complete: Option<Complete>,
    /// Ids of the runs without manifest after it, the newest first.
    pub(crate) newer: Vec<String>,
}

/// Looks for the newest complete run, `but` one that is not meant.
///
/// # Errors
/// The store's.
pub(crate) async fn newest(
    store: &Store,
    layout: &Layout,
    but: Option<&str>,
) -> Result<Newest, StoreError> {
    let mut newer = Vec::new();
    for run in ids(store, layout).await? {
        if but == Some(&*run) {
            continue;
        }
        let key = layout.manifest(&run);
        if let Some(manifest) = store.get(&key).await? {
            let complete = Some(Complete { run, key, manifest });
            return Ok(Newest { complete, newer });
        }
        newer.push(run);
    }
    let complete = None;
    Ok(Newest { complete, newer })
}

/// The newest complete run; `None` where there is none.
///
/// # Errors
/// The store's.
pub(crate) async fn newest_complete(
    store: &Store,
    layout: &Layout,
) -> Result<Option<Complete>, StoreError> {
    Ok(newest(store, layout, None).await?.complete)
}
