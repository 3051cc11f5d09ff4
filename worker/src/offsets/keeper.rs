//! Where snapshots are kept: in an object store, or in a ConfigMap, which the controller makes for the worker.
//!
//! # Guarantees
//! - [`Keeper::keep`] returns when the snapshot is durable: the store has it, or the API server has, as the controller's 2xx says.
//! - A snapshot is made once. One that the same run has taken before is handed back: what it has is what there was before anything
//!   changed. One of another run is never touched.

use std::path::PathBuf;

use kafka_backup_shared::archive::snapshot::{self, CONFIG_MAP_KEY, CONFIG_MAP_MAX, Snapshot};
use kafka_backup_shared::plan::{RunRef, SnapshotRef, SpecError};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::SnapshotPlace;

use super::error::OffsetsError;
use crate::push::{NotKept, SnapshotPush};
use crate::store::{Created, Places, Store};

/// Why the controller has not kept, or not deleted, a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// There is no controller.
    #[error(
        "spec.storage: expected an object store or a volume where no controller runs the worker, found the ConfigMap {name}"
    )]
    NoController {
        /// Name of the ConfigMap.
        name: String,
    },
    /// It did not do it.
    #[error(transparent)]
    Push(#[from] NotKept),
}

impl KeeperError {
    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::NoController { .. } => Fault::Spec,
            Self::Push(not_kept) => not_kept.fault,
        }
    }
}

/// Keeps, reads and deletes one snapshot.
#[derive(Debug)]
pub(crate) struct Keeper {
    id: String,
    /// Its key in a store, the ConfigMap's name otherwise.
    object: String,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Store(Store),
    ConfigMap {
        /// Where it is mounted.
        folder: PathBuf,
        push: Option<SnapshotPush>,
    },
}

impl Keeper {
    /// The place of `snapshot`, of an object of `namespace`.
    pub(crate) fn open(
        snapshot: &SnapshotRef,
        namespace: &str,
        places: &Places,
        folder: PathBuf,
        push: Option<SnapshotPush>,
    ) -> Result<Self, OffsetsError> {
        Ok(match &snapshot.place {
            SnapshotPlace::Store { storage } => {
                Self::in_store(Store::open(storage, places)?, namespace, &snapshot.id)
            }
            SnapshotPlace::ConfigMap { name } => Self {
                id: snapshot.id.clone(),
                object: name.clone(),
                place: Place::ConfigMap { folder, push },
            },
        })
    }

    /// A snapshot in a store.
    pub(crate) fn in_store(store: Store, namespace: &str, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            object: snapshot::key(namespace, id),
            place: Place::Store(store),
        }
    }

    /// The snapshot's id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// How messages call the place.
    fn place(&self) -> String {
        match &self.place {
            Place::Store(store) => format!("{} ({})", store.place(), self.object),
            Place::ConfigMap { .. } => format!("ConfigMap {}", self.object),
        }
    }

    /// Learns whether the place can be written to, as far as that can be known before.
    pub(crate) async fn check(&self) -> Result<(), OffsetsError> {
        match &self.place {
            Place::Store(store) => Ok(store.check().await?),
            Place::ConfigMap { push: Some(_), .. } => Ok(()),
            Place::ConfigMap { push: None, .. } => Err(KeeperError::NoController {
                name: self.object.clone(),
            }
            .into()),
        }
    }

    /// Makes `snapshot` durable, or tells the one that the same run has made before.
    ///
    /// `is_same_run` says whether one that is there belongs to this run.
    pub(crate) async fn keep(
        &self,
        snapshot: &Snapshot,
        is_same_run: impl Fn(&RunRef) -> bool,
    ) -> Result<Option<Snapshot>, OffsetsError> {
        let bytes = snapshot.to_bytes();
        let earlier = match &self.place {
            Place::Store(store) => match store.create(&self.object, bytes.into()).await? {
                Created::New | Created::Same => None,
                Created::Exists(earlier) => Some(earlier),
            },
            Place::ConfigMap { push, .. } => {
                if bytes.len() > CONFIG_MAP_MAX {
                    return Err(OffsetsError::TooLarge {
                        size: bytes.len(),
                        max: CONFIG_MAP_MAX,
                    });
                }
                let push = push.as_ref().ok_or_else(|| KeeperError::NoController {
                    name: self.object.clone(),
                })?;
                push.keep(bytes).await.map_err(KeeperError::from)?
            }
        };
        let Some(earlier) = earlier else {
            return Ok(None);
        };
        let earlier = Snapshot::from_bytes(&self.object, &earlier)?;
        if is_same_run(&earlier.header.run) {
            return Ok(Some(earlier));
        }
        Err(OffsetsError::Exists {
            id: self.id.clone(),
            place: self.place(),
            run: earlier.header.run.run,
        })
    }

    /// Reads the snapshot.
    pub(crate) async fn read(&self) -> Result<Snapshot, OffsetsError> {
        let missing = || OffsetsError::NoSnapshot {
            id: self.id.clone(),
            place: self.place(),
        };
        let bytes = match &self.place {
            Place::Store(store) => store.get(&self.object).await?.ok_or_else(missing)?,
            Place::ConfigMap { folder, push } => {
                if push.is_none() {
                    return Err(KeeperError::NoController {
                        name: self.object.clone(),
                    }
                    .into());
                }
                let path = folder.join(CONFIG_MAP_KEY);
                match tokio::fs::read(&path).await {
                    Ok(bytes) => bytes.into(),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        return Err(missing());
                    }
                    Err(source) => {
                        return Err(OffsetsError::Read {
                            path: path.display().to_string(),
                            source,
                        });
                    }
                }
            }
        };
        let snapshot = Snapshot::from_bytes(&self.object, &bytes)?;
        if snapshot.header.snapshot_id != self.id {
            return Err(SpecError::new(
                "spec.snapshotId",
                format!(
                    "{}, which {} holds",
                    snapshot.header.snapshot_id,
                    self.place()
                ),
                &self.id,
            )
            .into());
        }
        Ok(snapshot)
    }

    /// Deletes the snapshot.
    pub(crate) async fn delete(&self) -> Result<(), OffsetsError> {
        let is_there = match &self.place {
            Place::Store(store) => {
                // Nothing is deleted but a snapshot.
                self.read().await?;
                store.delete(std::slice::from_ref(&self.object)).await?;
                true
            }
            Place::ConfigMap { push, .. } => {
                let push = push.as_ref().ok_or_else(|| KeeperError::NoController {
                    name: self.object.clone(),
                })?;
                push.delete().await.map_err(KeeperError::from)?
            }
        };
        match is_there {
            true => Ok(()),
            false => Err(OffsetsError::NoSnapshot {
                id: self.id.clone(),
                place: self.place(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use kafka_backup_shared::archive::FORMAT_VERSION;
    use kafka_backup_shared::archive::groups::{GroupKind, GroupOffsets};
    use kafka_backup_shared::archive::snapshot::SnapshotHeader;

    use super::*;

    /// So many groups whose ids do not compress to less than half.
    fn snapshot(groups: u64) -> Snapshot {
        let id = |number: u64| {
            // The finaliser of splitmix64.
            let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            format!("{:016x}", mixed ^ (mixed >> 31))
        };
        let group = |number: u64| GroupOffsets {
            group: id(number),
            kind: GroupKind::Classic,
            topics: BTreeMap::new(),
        };
        Snapshot {
            header: SnapshotHeader {
                format_version: FORMAT_VERSION,
                snapshot_id: "before".into(),
                run: RunRef::example(),
                time: Timestamp::UNIX_EPOCH,
                cluster_id: "c".into(),
                groups: vec!["*".into()],
                topics: None,
                topic_ids: BTreeMap::new(),
                group_count: groups,
                offset_count: 0,
            },
            groups: (0..groups).map(group).collect(),
        }
    }

    #[tokio::test]
    async fn what_a_config_map_cannot_hold_is_refused_before_anybody_is_asked() {
        let keeper = Keeper {
            id: "before".into(),
            object: "before".into(),
            place: Place::ConfigMap {
                folder: PathBuf::new(),
                push: None,
            },
        };
        let large = keeper.keep(&snapshot(200_000), |_| true).await;
        let error = large.unwrap_err();
        assert_eq!(error.fault(), Fault::Spec);
        let said = error.to_string();
        for word in [
            &*CONFIG_MAP_MAX.to_string(),
            "nothing was changed",
            "spec.storage",
        ] {
            assert!(said.contains(word), "{said}");
        }
        // A small one is refused for another reason: nobody is there to keep it.
        let small = keeper.keep(&snapshot(2), |_| true).await.unwrap_err();
        assert!(matches!(
            small,
            OffsetsError::Keeper(KeeperError::NoController { .. })
        ));
    }
}
