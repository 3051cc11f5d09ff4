//! A snapshot of committed offsets: what consumer groups had before somebody changed it.
//!
//! Lines of JSON, compressed, as the groups of a run ([`super::groups`]): a header, then a line per group. A group that had
//! committed nothing has its line too, so that a rollback knows what to remove.
//!
//! # Guarantees
//! - Damage is found: zstd's checksum covers all lines, and the header tells how many there are.
//! - It lies beside the archives, where no archive can be: `_snapshots` is no namespace.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::groups::{GroupOffsets, GroupsWriter, read_groups_with};
use super::layout::TopicId;
use super::{FORMAT_VERSION, FormatError};
use crate::plan::RunRef;
use crate::selector::is_meant;

/// The key of a snapshot that a ConfigMap holds.
pub const CONFIG_MAP_KEY: &str = "snapshot.jsonl.zst";
/// The largest one that a ConfigMap can hold, in bytes (Kubernetes' MaxSecretSize, less some for the keys).
pub const CONFIG_MAP_MAX: usize = (1 << 20) - 1024;

/// The folder of snapshots in an object store.
pub const FOLDER: &str = "_snapshots";

/// The key of snapshot `id` of a namespace in an object store, below the storage's prefix.
pub fn key(namespace: &str, id: &str) -> String {
    format!("{FOLDER}/{namespace}/{id}.jsonl.zst")
}

/// The namespace and the id of which [`key`] is the key.
pub fn parse_key(text: &str) -> Option<(String, String)> {
    let (namespace, file) = text
        .strip_prefix(FOLDER)?
        .strip_prefix('/')?
        .split_once('/')?;
    let id = file.strip_suffix(".jsonl.zst")?;
    (key(namespace, id) == text && !id.contains('/')).then(|| (namespace.into(), id.into()))
}

/// What is said of a snapshot as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SnapshotHeader {
    /// See [`super::FORMAT_VERSION`].
    pub format_version: u32,
    /// Its id.
    pub snapshot_id: String,
    /// The run that has taken it.
    pub run: RunRef,
    /// When.
    pub time: Timestamp,
    /// Id of the cluster.
    pub cluster_id: String,
    /// Ids and globs of the groups that were asked for.
    pub groups: Vec<String>,
    /// Names and globs of the topics whose offsets are in it; `None`: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topics: Option<Vec<String>>,
    /// Ids of the topics that the offsets are of. One that did not exist any more is not there.
    pub topic_ids: BTreeMap<String, TopicId>,
    /// Groups in it.
    pub group_count: u64,
    /// Committed offsets in it.
    pub offset_count: u64,
}

impl SnapshotHeader {
    /// Reads the header of a snapshot; all of it is checked, and its groups are not kept in memory. `object` is its name.
    ///
    /// # Errors
    /// [`FormatError`], naming the object.
    pub fn of(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, groups) = read_groups_with::<Self>(object, bytes)?;
        let mut found = 0;
        for group in groups {
            group?;
            found += 1;
        }
        header.check(object, found)?;
        Ok(header)
    }

    fn check(&self, object: &str, found: u64) -> Result<(), FormatError> {
        if found == self.group_count {
            return Ok(());
        }
        Err(FormatError::Damaged {
            object: object.into(),
            reason: format!(
                "it has {found} groups, and its header says {}",
                self.group_count
            ),
        })
    }

    /// Whether offsets of `topic` are in it.
    pub fn covers(&self, topic: &str) -> bool {
        is_meant(self.topics.as_deref(), topic)
    }
}

/// A whole one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// What is said of it.
    pub header: SnapshotHeader,
    /// The groups, ascending by id.
    pub groups: Vec<GroupOffsets>,
}

impl Snapshot {
    /// Whether a group is in it.
    pub fn has(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one.group == group)
    }

    /// The object; the counts of the header are those of the groups.
    pub fn to_bytes(&self) -> Vec<u8> {
        let header = SnapshotHeader {
            format_version: FORMAT_VERSION,
            group_count: self.groups.len() as u64,
            offset_count: self.groups.iter().map(GroupOffsets::offsets).sum(),
            ..self.header.clone()
        };
        let mut writer = GroupsWriter::new(&header);
        self.groups.iter().for_each(|group| writer.push(group));
        writer.finish().0
    }

    /// Reads one; `object` is its name.
    ///
    /// # Errors
    /// [`FormatError`], naming the object.
    pub fn from_bytes(object: &str, bytes: &[u8]) -> Result<Self, FormatError> {
        let (header, groups) = read_groups_with::<SnapshotHeader>(object, bytes)?;
        let groups: Vec<GroupOffsets> = groups.collect::<Result<_, _>>()?;
        header.check(object, groups.len() as u64)?;
        Ok(Self { header, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::super::groups::{GroupKind, GroupOffset};
    use super::*;

    fn snapshot() -> Snapshot {
        let offsets = |topics: &[(&str, i64)]| {
            let offset = |(topic, offset): &(&str, i64)| {
                let committed = GroupOffset {
                    partition: 0,
                    offset: *offset,
                    leader_epoch: None,
                    metadata: "m".into(),
                };
                ((*topic).to_owned(), vec![committed])
            };
            topics.iter().map(offset).collect()
        };
        let group = |name: &str, topics: &[(&str, i64)]| GroupOffsets {
            group: name.into(),
            kind: GroupKind::Classic,
            topics: offsets(topics),
        };
        Snapshot {
            header: SnapshotHeader {
                format_version: FORMAT_VERSION,
                snapshot_id: "before".into(),
                run: RunRef::example(),
                time: Timestamp::UNIX_EPOCH,
                cluster_id: "c".into(),
                groups: vec!["*".into()],
                topics: Some(vec!["orders*".into()]),
                topic_ids: BTreeMap::from([("orders".into(), TopicId([7; 16]))]),
                group_count: 2,
                offset_count: 1,
            },
            groups: vec![group("nothing yet", &[]), group("shop", &[("orders", 9)])],
        }
    }

    #[test]
    fn a_snapshot_reads_back() {
        let snapshot = snapshot();
        let read = Snapshot::from_bytes("s", &snapshot.to_bytes()).unwrap();
        assert_eq!(read, snapshot);
        let header = SnapshotHeader::of("s", &snapshot.to_bytes());
        assert_eq!(header, Ok(snapshot.header));
        assert!(read.header.covers("orders-2") && !read.header.covers("payments"));
    }

    #[test]
    fn damage_anywhere_is_found() {
        let bytes = snapshot().to_bytes();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let read = Snapshot::from_bytes("s", &damaged);
            // A bit that means nothing to zstd changes nothing either.
            assert!(
                read.is_err() || read.as_ref() == Ok(&snapshot()),
                "byte {at}: {read:?}"
            );
            assert!(
                Snapshot::from_bytes("s", &bytes[..at]).is_err(),
                "cut at {at}"
            );
        }
    }
}
