//! What is to become of groups, as values: old and new offset of each partition.
//!
//! # Guarantees
//! - A dry run tells these values, and a real run commits just them: there is no other way from a target to a commit.
//! - Offsets that are as they should be are not committed again.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_backup_shared::archive::groups::{GroupOffset, GroupOffsets};
use kafka_backup_shared::report::OffsetChange;

use super::logs::{Logs, Place};
use crate::kafka::CommittedOffset;

/// What is to be committed for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) offset: i64,
    /// `None`: none (-1 in the protocol).
    pub(crate) leader_epoch: Option<i32>,
    pub(crate) metadata: String,
    /// Why it is not quite what was asked for.
    pub(crate) note: Option<String>,
}

/// What is to become of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupPlan {
    pub(crate) group: Arc<str>,
    pub(crate) changes: Vec<Change>,
    /// Why not, in place of changes.
    pub(crate) refused: Option<String>,
    /// What a user should know.
    pub(crate) notes: Vec<String>,
}

/// A partition whose committed offset is to be another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// `None`: nothing is committed.
    pub(crate) old: Option<i64>,
    /// `None`: nothing is to be committed.
    pub(crate) new: Option<Wanted>,
}

impl GroupPlan {
    /// From what a group has to what it is to have. What `wanted` does not name stays.
    pub(crate) fn new(has: &GroupOffsets, wanted: BTreeMap<Place, Option<Wanted>>) -> Self {
        let now = by_place(has);
        let changes = wanted.into_iter().filter_map(|((topic, partition), new)| {
            let old = now.get(&(&*topic, partition)).copied();
            let is_so = match (old, &new) {
                (Some(old), Some(new)) => {
                    old.offset == new.offset
                        && old.metadata == new.metadata
                        && old.leader_epoch == new.leader_epoch
                }
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            (!is_so).then(|| Change {
                topic,
                partition,
                old: old.map(|old| old.offset),
                new,
            })
        });
        Self {
            group: Arc::from(has.group.as_str()),
            changes: changes.collect(),
            refused: None,
            notes: Vec::new(),
        }
    }

    /// A group that nothing is done with.
    pub(crate) fn refused(group: &str, reason: String) -> Self {
        Self {
            group: Arc::from(group),
            changes: Vec::new(),
            refused: Some(reason),
            notes: Vec::new(),
        }
    }

    /// What is committed, in one request.
    pub(crate) fn commits(&self) -> Vec<CommittedOffset> {
        let commits = self.changes.iter().filter_map(|change| {
            let new = change.new.as_ref()?;
            Some(CommittedOffset {
                topic: change.topic.clone(),
                partition: change.partition,
                offset: new.offset,
                leader_epoch: new.leader_epoch,
                metadata: new.metadata.clone(),
            })
        });
        commits.collect()
    }

    /// What is removed.
    pub(crate) fn removals(&self) -> Vec<Place> {
        let removed = self.changes.iter().filter(|change| change.new.is_none());
        removed
            .map(|change| (change.topic.clone(), change.partition))
            .collect()
    }

    /// Where the group does not have what it is to have, in words.
    pub(crate) fn differences(&self, has: &GroupOffsets) -> Vec<String> {
        let now = by_place(has);
        let differences = self.changes.iter().filter_map(|change| {
            let Change {
                topic,
                partition,
                new,
                ..
            } = change;
            let found = now.get(&(&**topic, *partition)).copied();
            let (expected, committed) = (
                new.as_ref().map(|new| new.offset),
                found.map(|found| found.offset),
            );
            let differs = difference(&self.group, topic, *partition, expected, committed);
            differs.or_else(|| {
                let (new, found) = new.as_ref().zip(found)?;
                (new.metadata != found.metadata).then(|| {
                    format!(
                        "group {} topic {topic} partition {partition}: expected metadata {:?}, found {:?}",
                        self.group, new.metadata, found.metadata
                    )
                })
            })
        });
        differences.collect()
    }

    /// For the report.
    pub(crate) fn told(&self, logs: &Logs) -> impl Iterator<Item = OffsetChange> {
        self.changes.iter().map(|change| {
            let log = logs.get(&change.topic, change.partition);
            let lag = |offset: i64| log.map(|log| (log.end - offset).max(0));
            let new = change.new.as_ref();
            OffsetChange {
                group: self.group.to_string(),
                topic: change.topic.to_string(),
                partition: change.partition,
                old: change.old,
                new: new.map(|new| new.offset),
                lag_before: change.old.and_then(lag),
                lag_after: new.and_then(|new| lag(new.offset)),
                note: new.and_then(|new| new.note.clone()),
            }
        })
    }
}

/// A place where another offset is committed than should be, in words.
pub(crate) fn difference(
    group: &str,
    topic: &str,
    partition: i32,
    expected: Option<i64>,
    found: Option<i64>,
) -> Option<String> {
    let said = |offset: Option<i64>| match offset {
        Some(offset) => format!("offset {offset}"),
        None => "nothing".to_owned(),
    };
    (expected != found).then(|| {
        let place = format!("group {group} topic {topic} partition {partition}");
        format!(
            "{place}: expected {}, found {}",
            said(expected),
            said(found)
        )
    })
}

/// What a group has, by place.
pub(crate) fn by_place(has: &GroupOffsets) -> BTreeMap<(&str, i32), &GroupOffset> {
    let all = has.topics.iter();
    let all = all.flat_map(|(topic, offsets)| offsets.iter().map(move |one| (topic, one)));
    all.map(|(topic, one)| ((topic.as_str(), one.partition), one))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::groups::GroupKind;

    fn has(offsets: &[(i32, i64, &str)]) -> GroupOffsets {
        let offset = |(partition, offset, metadata): &(i32, i64, &str)| GroupOffset {
            partition: *partition,
            offset: *offset,
            leader_epoch: Some(3),
            metadata: (*metadata).into(),
        };
        GroupOffsets {
            group: "g".into(),
            kind: GroupKind::Classic,
            topics: BTreeMap::from([("t".into(), offsets.iter().map(offset).collect())]),
        }
    }

    fn wanted(offsets: &[(i32, Option<i64>)]) -> BTreeMap<Place, Option<Wanted>> {
        let want = |offset: i64| Wanted {
            offset,
            leader_epoch: Some(3),
            metadata: "m".into(),
            note: None,
        };
        let places = offsets.iter();
        places
            .map(|(p, offset)| ((Arc::from("t"), *p), offset.map(want)))
            .collect()
    }

    #[test]
    fn only_what_differs_is_changed() {
        let has = has(&[
            (0, 5, "m"),
            (1, 5, "other"),
            (2, 5, "m"),
            (3, 5, "m"),
            (9, 5, "m"),
        ]);
        let wanted = wanted(&[
            (0, Some(5)),
            (1, Some(5)),
            (2, Some(6)),
            (3, None),
            (4, None),
            (5, Some(1)),
        ]);
        let plan = GroupPlan::new(&has, wanted);
        let committed: Vec<(i32, i64)> = plan
            .commits()
            .iter()
            .map(|one| (one.partition, one.offset))
            .collect();
        assert_eq!(committed, [(1, 5), (2, 6), (5, 1)]);
        assert_eq!(plan.removals(), [(Arc::from("t"), 3)]);
    }

    #[test]
    fn what_is_not_so_afterwards_is_told_by_place() {
        let plan = GroupPlan::new(
            &has(&[(0, 5, "m"), (3, 5, "m")]),
            wanted(&[(0, Some(6)), (3, None), (4, Some(7))]),
        );
        assert_eq!(
            plan.differences(&has(&[(0, 6, "m"), (4, 7, "m")])),
            Vec::<String>::new()
        );
        let found = plan.differences(&has(&[(0, 6, "x"), (3, 5, "m")]));
        assert_eq!(
            found,
            [
                "group g topic t partition 0: expected metadata \"m\", found \"x\"",
                "group g topic t partition 3: expected nothing, found offset 5",
                "group g topic t partition 4: expected offset 7, found nothing",
            ]
        );
    }
}
