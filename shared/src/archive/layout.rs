//! Keys of an archive, typed and parsed in both directions.
//!
//! ```text
//! <namespace>/<backup name>/                                    below the storage's prefix
//!   archive.json
//!   topics/<topic>/<topic id>/<partition>/<generation>/<segment>.log
//!   runs/<run id>/begin.json  groups.<crc32c>.jsonl.zst  topics/<topic>/part.json.zst  manifest.json | partial.json
//!   trash/<id>.json
//!   restores/<restore uid>/purge.json  plan.json  lease.json  done.json
//!   restores/<restore uid>/topics/<topic>/<partition>/<start>.<end>.json
//!   restores/<restore uid>/groups/<milliseconds since 1970>.json
//! ```
//! A topic's name always stands alone between slashes, below a folder of nothing but topics: it may be as long as a file name
//! may be, and it may be `plan.json`.
//!
//! A segment's name is `<start>.<end>.<leader epoch>.<records>.<max timestamp>.<crc32c>`: offsets with 20 digits, so that names
//! sort by offset and begin as Kafka's own segment files do; the CRC-32C, 8 hex digits, is of the object.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::plan::ArchiveName;

/// A topic's id: 128 bits, in keys 32 lower-case hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TopicId {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = || KeyError {
            key: text.into(),
            expected: "32 lower-case hex digits",
        };
        if text.len() != 32 || !text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(error());
        }
        u128::from_str_radix(text, 16)
            .map(|id| Self(id.to_be_bytes()))
            .map_err(|_| error())
    }
}

impl Serialize for TopicId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TopicId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A key that is not one of an archive's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key:?} is not {expected}")]
pub struct KeyError {
    /// What was read.
    pub key: String,
    /// What it should be.
    pub expected: &'static str,
}

/// What a segment holds, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentName {
    /// First offset that it covers.
    pub start: i64,
    /// The next offset after it: ranges `[start, end)` tile a partition.
    pub end: i64,
    /// Leader epoch of the last batch that was fetched for it; -1 where nothing was.
    pub leader_epoch: i32,
    /// Records in it; 0 where the range holds only control records, aborted transactions or nothing.
    pub records: u64,
    /// Largest timestamp of its records in ms; -1 without records.
    pub max_timestamp: i64,
    /// CRC-32C of the object.
    pub crc32c: u32,
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:020}.{:020}.{}.{}.{}.{:08x}.log",
            self.start, self.end, self.leader_epoch, self.records, self.max_timestamp, self.crc32c
        )
    }
}

impl FromStr for SegmentName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let parse = || {
            let parts: Vec<&str> = text.strip_suffix(".log")?.split('.').collect();
            let [start, end, epoch, records, timestamp, crc] = parts[..] else {
                return None;
            };
            let name = Self {
                start: start.parse().ok()?,
                end: end.parse().ok()?,
                leader_epoch: epoch.parse().ok()?,
                records: records.parse().ok()?,
                max_timestamp: timestamp.parse().ok()?,
                crc32c: u32::from_str_radix(crc, 16).ok()?,
            };
            // Only the one spelling that we write: what parses must name the same key again.
            (name.start >= 0 && name.start <= name.end && name.to_string() == text).then_some(name)
        };
        parse().ok_or_else(|| KeyError {
            key: text.into(),
            expected: "a segment name <start>.<end>.<leader epoch>.<records>.<max timestamp>.<crc32c>.log",
        })
    }
}

impl Serialize for SegmentName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SegmentName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Where a partition's segments of one generation stand.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChainKey {
    /// Topic.
    pub topic: String,
    /// Its id: a topic that was deleted and created again is another one.
    pub topic_id: TopicId,
    /// Partition.
    pub partition: i32,
    /// Run id that opened the generation.
    pub generation: String,
}

/// Keys of one archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    root: String,
}

impl Layout {
    /// The keys of `archive`, relative to the storage's prefix.
    pub fn new(archive: &ArchiveName) -> Self {
        Self {
            root: format!("{}/{}", escape(&archive.namespace), escape(&archive.name)),
        }
    }

    /// Folder of the archive.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Whose the archive is.
    pub fn archive(&self) -> String {
        format!("{}/archive.json", self.root)
    }

    /// Folder of all runs.
    pub fn runs(&self) -> String {
        format!("{}/runs", self.root)
    }

    /// What a run set out to do.
    pub fn begin(&self, run: &str) -> String {
        format!("{}/runs/{}/begin.json", self.root, escape(run))
    }

    /// The commit point of a run.
    pub fn manifest(&self, run: &str) -> String {
        format!("{}/runs/{}/manifest.json", self.root, escape(run))
    }

    /// The end of a run that some topics failed in.
    pub fn partial(&self, run: &str) -> String {
        format!("{}/runs/{}/partial.json", self.root, escape(run))
    }

    /// The consumer groups of a run; no topic's part has such a name.
    pub fn groups(&self, run: &str, crc32c: u32) -> String {
        format!(
            "{}/runs/{}/groups.{crc32c:08x}.jsonl.zst",
            self.root,
            escape(run)
        )
    }

    /// The pinned segments of one topic in a run.
    pub fn topic_part(&self, run: &str, topic: &str) -> String {
        format!(
            "{}/runs/{}/topics/{}/part.json.zst",
            self.root,
            escape(run),
            escape(topic)
        )
    }

    /// Folder of one run.
    pub fn run(&self, run: &str) -> String {
        format!("{}/runs/{}", self.root, escape(run))
    }

    /// Folder of all topics' segments.
    pub fn topics(&self) -> String {
        format!("{}/topics", self.root)
    }

    /// Folder of one topic's segments, all its ids.
    pub fn topic(&self, topic: &str) -> String {
        format!("{}/topics/{}", self.root, escape(topic))
    }

    /// A segment.
    pub fn segment(&self, chain: &ChainKey, name: &SegmentName) -> String {
        format!(
            "{}/{}/{}/{}/{name}",
            self.topic(&chain.topic),
            chain.topic_id,
            chain.partition,
            escape(&chain.generation)
        )
    }

    /// What a key below `topics/` names.
    ///
    /// # Errors
    /// [`KeyError`] when it is no segment of this archive.
    pub fn parse_segment(&self, key: &str) -> Result<(ChainKey, SegmentName), KeyError> {
        let error = || KeyError {
            key: key.into(),
            expected: "a segment of this archive",
        };
        let rest = key
            .strip_prefix(&self.root)
            .and_then(|rest| rest.strip_prefix("/topics/"))
            .ok_or_else(error)?;
        let parts: Vec<&str> = rest.split('/').collect();
        let [topic, id, partition, generation, name] = parts[..] else {
            return Err(error());
        };
        let chain = ChainKey {
            topic: unescape(topic).ok_or_else(error)?,
            topic_id: id.parse().map_err(|_| error())?,
            partition: partition.parse().map_err(|_| error())?,
            generation: unescape(generation).ok_or_else(error)?,
        };
        let name = name.parse().map_err(|_| error())?;
        if self.segment(&chain, &name) != key {
            return Err(error());
        }
        Ok((chain, name))
    }

    /// The run id that a key below `runs/` belongs to, and the file in it.
    pub fn parse_run<'a>(&self, key: &'a str) -> Option<(String, &'a str)> {
        let rest = key.strip_prefix(&self.root)?.strip_prefix("/runs/")?;
        let (run, file) = rest.split_once('/')?;
        Some((unescape(run)?, file))
    }

    /// Folder of what retention is going to delete.
    pub fn trash(&self) -> String {
        format!("{}/trash", self.root)
    }

    /// One list of what retention is going to delete.
    pub fn trash_list(&self, id: &str) -> String {
        format!("{}/trash/{}.json", self.root, escape(id))
    }

    /// Folder of all restores.
    pub fn restores(&self) -> String {
        format!("{}/restores", self.root)
    }

    /// What was decided for a restore.
    pub fn restore_plan(&self, uid: &str) -> String {
        format!("{}/restores/{}/plan.json", self.root, escape(uid))
    }

    /// What a purge changes for its time.
    pub fn restore_purge(&self, uid: &str) -> String {
        format!("{}/restores/{}/purge.json", self.root, escape(uid))
    }

    /// Who is at work on a restore.
    pub fn restore_lease(&self, uid: &str) -> String {
        format!("{}/restores/{}/lease.json", self.root, escape(uid))
    }

    /// The end of a restore.
    pub fn restore_done(&self, uid: &str) -> String {
        format!("{}/restores/{}/done.json", self.root, escape(uid))
    }

    /// Folder of what became of consumer groups in a restore.
    pub fn restore_groups(&self, uid: &str) -> String {
        format!("{}/restores/{}/groups", self.root, escape(uid))
    }

    /// What became of them in an attempt that ended at `ms`.
    pub fn restore_groups_at(&self, uid: &str, ms: i64) -> String {
        format!("{}/{ms}.json", self.restore_groups(uid))
    }

    /// The offset map of one restored segment.
    pub fn restore_offsets(
        &self,
        uid: &str,
        topic: &str,
        partition: i32,
        start: i64,
        end: i64,
    ) -> String {
        format!(
            "{}/restores/{}/topics/{}/{partition}/{start:020}.{end:020}.json",
            self.root,
            escape(uid),
            escape(topic)
        )
    }
}

/// Orders runs by the time in their id. Ids of another form, which only a person can have given, come before all others.
pub fn run_order(run: &str) -> (&str, &str) {
    const TIME: usize = "YYYYMMDD-HHMMSS".len();
    let is_time = |text: &&str| {
        text.bytes().enumerate().all(|(i, b)| match i {
            8 => b == b'-',
            _ => b.is_ascii_digit(),
        })
    };
    let at = run.len().checked_sub(TIME);
    let time = at.and_then(|at| run.get(at..)).filter(is_time);
    (time.unwrap_or(""), run)
}

/// Percent-escapes what a store or a file system may object to. A name of dots alone is escaped whole.
pub fn escape(name: &str) -> String {
    let only_dots = name.bytes().all(|b| b == b'.');
    name.bytes()
        .map(|b| match b {
            b'.' if only_dots => "%2E".to_owned(),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                char::from(b).to_string()
            }
            _ => format!("%{b:02X}"),
        })
        .collect()
}

/// Undoes [`escape`]; `None` for what it never writes.
pub fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (escape(&name) == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout::new(&ArchiveName {
            namespace: "shop".into(),
            name: "orders.v1".into(),
        })
    }

    #[test]
    fn a_segment_key_begins_as_kafkas_own_file_does() {
        let chain = ChainKey {
            topic: "orders".into(),
            topic_id: TopicId([0xab; 16]),
            partition: 3,
            generation: "orders-20260102-030405".into(),
        };
        let name = SegmentName {
            start: 42,
            end: 50,
            leader_epoch: 2,
            records: 7,
            max_timestamp: -1,
            crc32c: 0xbeef,
        };
        assert_eq!(
            layout().segment(&chain, &name),
            "shop/orders.v1/topics/orders/abababababababababababababababab/3/orders-20260102-030405/\
             00000000000000000042.00000000000000000050.2.7.-1.0000beef.log"
        );
    }

    #[test]
    fn a_foreign_key_is_refused() {
        let good = "shop/orders.v1/topics/t/abababababababababababababababab/3/g/00000000000000000042.00000000000000000050.2.7.-1.0000beef.log";
        assert!(layout().parse_segment(good).is_ok());
        for (from, to) in [
            ("shop/", "shop2/"),
            ("/3/", "/03/"),
            ("/3/", "/x/"),
            ("abab", "ABab"),
            (".2.7.", ".2."),
            ("beef", "BEEF"),
            ("00000000000000000042", "42"),
            (".log", ".log.tmp"),
            ("/g/", "/"),
            ("/t/", "/%74/"),
        ] {
            let key = good.replacen(from, to, 1);
            assert!(layout().parse_segment(&key).is_err(), "{key}");
        }
    }

    #[test]
    fn no_part_of_a_key_is_longer_than_a_file_name_may_be() {
        let topic = "t".repeat(249);
        let chain = ChainKey {
            topic: topic.clone(),
            topic_id: TopicId([0; 16]),
            partition: i32::MAX,
            generation: "r-20260102-020000".into(),
        };
        let name = SegmentName {
            start: i64::MAX,
            end: i64::MAX,
            leader_epoch: i32::MAX,
            records: u64::MAX,
            max_timestamp: i64::MIN,
            crc32c: u32::MAX,
        };
        for key in [
            layout().topic_part("r-20260102-020000", &topic),
            layout().segment(&chain, &name),
            layout().restore_offsets("u", &topic, 0, 0, i64::MAX),
        ] {
            let longest = key.split('/').map(str::len).max();
            // 255 bytes, some of which are left for what a store adds to the name while it writes.
            assert!(longest <= Some(249), "{key}");
        }
    }

    #[test]
    fn runs_are_ordered_by_their_time() {
        let mut runs = [
            "b-20260102-000000",
            "a-20260103-000000",
            "by-hand",
            "a-20260101-235959",
        ];
        runs.sort_by(|a, b| run_order(a).cmp(&run_order(b)));
        assert_eq!(
            runs,
            [
                "by-hand",
                "a-20260101-235959",
                "b-20260102-000000",
                "a-20260103-000000"
            ]
        );
    }

    #[test]
    fn a_run_key_names_its_run() {
        assert_eq!(
            layout().parse_run(&layout().manifest("r.1")),
            Some(("r.1".into(), "manifest.json"))
        );
    }

    proptest! {
        #[test]
        fn segment_keys_round_trip(
            topic in "\\PC{1,40}", id in any::<[u8; 16]>(), partition in 0..i32::MAX, generation in "[a-z0-9.-]{1,30}",
            start in 0..i64::MAX / 2, length in 0..i64::MAX / 2, leader_epoch in -1..i32::MAX, records in any::<u64>(),
            max_timestamp in any::<i64>(), crc32c in any::<u32>(),
        ) {
            let chain = ChainKey { topic, topic_id: TopicId(id), partition, generation };
            let name = SegmentName { start, end: start + length, leader_epoch, records, max_timestamp, crc32c };
            let key = layout().segment(&chain, &name);
            prop_assert_eq!(layout().parse_segment(&key), Ok((chain, name)));
        }

        #[test]
        fn any_name_survives_escaping(name in "\\PC{0,60}") {
            prop_assert_eq!(unescape(&escape(&name)), Some(name));
        }
    }
}
