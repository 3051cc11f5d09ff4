//! Consumer groups of a run: `groups.<crc32c>.jsonl.zst`.
//!
//! Lines of JSON, compressed: a header with the format version, then a line per group, ascending by id. An object of its own
//! and lines, because there may be millions of offsets: who writes or reads it holds one group and the compressed bytes.
//! `begin.json` names it by its checksum, so an attempt that dies between the two leaves nothing that counts.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{FORMAT_VERSION, FormatError, crc};

/// A line may not be longer: a group with a million offsets has half of it.
const LINE_MAX: u64 = 128 << 20;

/// The kinds of group that commit offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GroupKind {
    /// The original protocol; also groups that only commit.
    Classic,
    /// KIP-848.
    Consumer,
    /// Kafka Streams' own (KIP-1071).
    Streams,
}

impl GroupKind {
    /// The word in the object.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Consumer => "consumer",
            Self::Streams => "streams",
        }
    }
}

/// What a group has committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupOffset {
    /// The partition.
    pub partition: i32,
    /// The next record to read.
    pub offset: i64,
    /// Epoch of the last record that was read, where the committer told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
    /// What the committer wrote beside it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
}

/// A group and what it has committed for the topics of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupOffsets {
    /// The group's id.
    pub group: String,
    /// Its kind.
    pub kind: GroupKind,
    /// By topic, each ascending by partition.
    pub topics: BTreeMap<String, Vec<GroupOffset>>,
}

impl GroupOffsets {
    /// How many offsets these are.
    pub fn offsets(&self) -> u64 {
        self.topics.values().map(|topic| topic.len() as u64).sum()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    format_version: u32,
}

/// Where an object with groups is named: in `begin.json` and in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupsPart {
    /// CRC-32C of the object, which stands in its key.
    pub crc32c: u32,
    /// Groups in it.
    pub groups: u64,
    /// Committed offsets in it.
    pub offsets: u64,
    /// Groups that are meant but commit no offsets by their kind, such as share groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// Ids that were given literally and have no offsets on the topics of the run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// Writes an object with groups.
pub struct GroupsWriter {
    encoder: zstd::stream::write::Encoder<'static, Vec<u8>>,
    groups: u64,
    offsets: u64,
}

impl Default for GroupsWriter {
    fn default() -> Self {
        Self::new(&Header {
            format_version: FORMAT_VERSION,
        })
    }
}

impl GroupsWriter {
    /// Begins with a header, which must have a `formatVersion`.
    pub(super) fn new<H: Serialize>(header: &H) -> Self {
        let encoder =
            zstd::stream::write::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL);
        let mut encoder = encoder.expect("memory does not fail");
        let checked = encoder.include_checksum(true);
        checked.expect("nothing has been written yet");
        let mut writer = Self {
            encoder,
            groups: 0,
            offsets: 0,
        };
        writer.line(header);
        writer
    }

    /// Adds a group.
    pub fn push(&mut self, group: &GroupOffsets) {
        self.groups += 1;
        self.offsets += group.offsets();
        self.line(group);
    }

    fn line<T: Serialize>(&mut self, value: &T) {
        let mut line = serde_json::to_vec(value).expect("formats have only string keys");
        line.push(b'\n');
        let written = self.encoder.write_all(&line);
        written.expect("memory does not fail");
    }

    /// The object, and how it is named.
    pub fn finish(self) -> (Vec<u8>, GroupsPart) {
        let bytes = self.encoder.finish().expect("memory does not fail");
        let part = GroupsPart {
            crc32c: crc::of(&bytes),
            groups: self.groups,
            offsets: self.offsets,
            skipped: Vec::new(),
            missing: Vec::new(),
        };
        (bytes, part)
    }
}

/// Reads an object with groups, one after another.
///
/// # Errors
/// [`FormatError`], naming the object; after the first one there is no more.
pub fn read_groups<'a>(
    object: &'a str,
    bytes: &'a [u8],
) -> Result<impl Iterator<Item = Result<GroupOffsets, FormatError>> + 'a, FormatError> {
    read_groups_with::<Header>(object, bytes).map(|(_, groups)| groups)
}

/// The same with its header.
pub(super) fn read_groups_with<'a, H: DeserializeOwned>(
    object: &'a str,
    bytes: &'a [u8],
) -> Result<
    (
        H,
        impl Iterator<Item = Result<GroupOffsets, FormatError>> + 'a + use<'a, H>,
    ),
    FormatError,
> {
    let damaged = move |reason: String| FormatError::Damaged {
        object: object.into(),
        reason,
    };
    let decoder = zstd::stream::read::Decoder::new(bytes);
    let mut lines = BufReader::new(decoder.map_err(|error| damaged(error.to_string()))?);
    let mut next_line = move || -> Result<Option<Vec<u8>>, FormatError> {
        let mut line = Vec::new();
        let read = (&mut lines).take(LINE_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| damaged(error.to_string()))?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(damaged(
                "a line has no end, or more than 128 MiB".to_owned(),
            )),
        }
    };
    let header = next_line()?.ok_or_else(|| damaged("it is empty".to_owned()))?;
    let header = super::manifest::from_json(object, &header)?;
    let mut failed = false;
    let groups = std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let group = match next_line() {
            Ok(line) => serde_json::from_slice(&line?).map_err(|error| damaged(error.to_string())),
            Err(error) => Err(error),
        };
        failed = group.is_err();
        Some(group)
    });
    Ok((header, groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> GroupOffsets {
        let offset = |partition, metadata: &str| GroupOffset {
            partition,
            offset: 7,
            leader_epoch: (partition > 0).then_some(3),
            metadata: metadata.into(),
        };
        GroupOffsets {
            group: name.into(),
            kind: GroupKind::Consumer,
            topics: BTreeMap::from([(
                "orders".into(),
                vec![offset(0, "a\nb \u{1F980}"), offset(1, "")],
            )]),
        }
    }

    fn object() -> Vec<u8> {
        let mut writer = GroupsWriter::default();
        for name in ["one", "two/with \"any\" letter"] {
            writer.push(&group(name));
        }
        let (bytes, part) = writer.finish();
        assert_eq!((part.groups, part.offsets), (2, 4));
        assert_eq!(part.crc32c, crc32c::crc32c(&bytes));
        bytes
    }

    #[test]
    fn groups_round_trip() {
        let bytes = object();
        let read: Result<Vec<_>, _> = read_groups("g", &bytes).unwrap().collect();
        assert_eq!(
            read.unwrap(),
            [group("one"), group("two/with \"any\" letter")]
        );
    }

    #[test]
    fn no_group_is_an_object_too() {
        let (bytes, part) = GroupsWriter::default().finish();
        assert_eq!((part.groups, part.offsets), (0, 0));
        assert_eq!(read_groups("g", &bytes).unwrap().count(), 0);
    }

    #[test]
    fn damage_is_an_error_that_names_the_object() {
        let bytes = object();
        let lines = |text: &str| zstd::encode_all(text.as_bytes(), 0).unwrap();
        let header = "{\"formatVersion\":1}\n";
        for damaged in [
            bytes[..bytes.len() - 3].to_vec(),
            b"not zstd".to_vec(),
            lines(""),
            lines("{}\n"),
            lines("{\"formatVersion\":2}\n"),
            lines(&format!("{header}{{\"group\":1}}\n")),
            lines(&format!("{header}{{\"group\"")),
        ] {
            let read = read_groups("a/groups", &damaged)
                .and_then(|groups| groups.collect::<Result<Vec<_>, _>>());
            let error = read.unwrap_err().to_string();
            assert!(error.contains("a/groups"), "{error}");
        }
    }
}
