//! Where committed offsets are to go: one function per strategy, from what groups have to what they are to have.
//!
//! # Guarantees
//! - An offset that a partition does not have is moved into it only by strategy `offset`, and the note says so; elsewhere it is a
//!   reason to leave the group alone.
//! - The metadata of a commit stays with it. Its leader epoch stays only with the same offset of the same log: another log's epoch
//!   leaves a Java consumer waiting for ever.
//! - `latest` is the high watermark, whatever a reader may see below it: what open transactions hold back is behind the group then.
//!
//! # Assumptions
//! - What a group has of a topic or partition that does not exist any more is left alone, and told.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_backup_shared::archive::groups::{GroupOffset, GroupOffsets};
use kafka_backup_shared::archive::layout::TopicId;
use kafka_backup_shared::plan::{Mapping, OffsetTarget};
use kafka_backup_shared::selector::is_meant;

use super::change::{GroupPlan, Wanted, by_place};
use super::error::OffsetsError;
use super::headers::{self, Answer, Placement, Question};
use super::logs::{Logs, Place};
use crate::context::Context;
use crate::human::some;
use crate::kafka::Client;
use crate::restore::groups::TranslatedGroup;

/// Places that a note names.
const NAMED: usize = 5;

/// What a group is to have, and what a user should know of it.
#[derive(Debug, Default)]
struct Wish {
    wanted: BTreeMap<Place, Option<Wanted>>,
    /// Places that are left alone, with the reason.
    left: Vec<String>,
}

impl Wish {
    /// `now` is what is committed there, `metadata` what goes with the offset.
    fn want(
        &mut self,
        place: Place,
        now: Option<&GroupOffset>,
        metadata: &str,
        (offset, note): (i64, Option<String>),
    ) {
        let kept = now.filter(|now| now.offset == offset);
        let wanted = Wanted {
            offset,
            leader_epoch: kept.and_then(|now| now.leader_epoch),
            metadata: metadata.to_owned(),
            note,
        };
        self.wanted.insert(place, Some(wanted));
    }

    fn leave(&mut self, topic: &str, partition: i32, reason: &str) {
        self.left
            .push(format!("topic {topic} partition {partition} {reason}"));
    }

    fn plan(self, has: &GroupOffsets) -> GroupPlan {
        if self.wanted.is_empty() && !self.left.is_empty() {
            return GroupPlan::refused(&has.group, some(&self.left, NAMED));
        }
        let mut plan = GroupPlan::new(has, self.wanted);
        if !self.left.is_empty() {
            plan.notes
                .push(format!("left alone: {}", some(&self.left, NAMED)));
        }
        plan
    }
}

/// The topics that groups have committed offsets for.
pub(crate) fn topics_of<'a>(
    groups: impl IntoIterator<Item = &'a GroupOffsets>,
) -> BTreeSet<Arc<str>> {
    let groups = groups.into_iter();
    groups
        .flat_map(|group| group.topics.keys().map(|topic| Arc::from(topic.as_str())))
        .collect()
}

/// Log start, high watermark, a time or one offset, for each partition that `base` has an offset for. `has` is what its groups have
/// in the cluster.
///
/// # Errors
/// The cluster's; a strategy that has a function of its own.
pub(crate) async fn plain(
    client: &Client,
    to: &OffsetTarget,
    base: &[GroupOffsets],
    has: &[GroupOffsets],
) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
    let logs = Logs::look(client, topics_of(base.iter().chain(has))).await?;
    let places = base.iter().flat_map(by_place);
    let places: BTreeSet<Place> = places
        .map(|((topic, partition), _)| (Arc::from(topic), partition))
        .collect();
    let times = match to {
        OffsetTarget::Timestamp { ms } => logs.at_time(client, &places, *ms).await?,
        OffsetTarget::Earliest | OffsetTarget::Latest | OffsetTarget::Offset { .. } => {
            BTreeMap::new()
        }
        OffsetTarget::HeaderBased { .. }
        | OffsetTarget::FromMapping { .. }
        | OffsetTarget::FromRestore { .. } => return Err(OffsetsError::Strategy(to.strategy())),
    };
    let found = Found::new(has);
    let plans = base.iter().map(|group| {
        let has = found.of(group);
        let now = by_place(&has);
        let mut wish = Wish::default();
        for ((topic, partition), had) in by_place(group) {
            let place: Place = (Arc::from(topic), partition);
            let Some(log) = logs.get(topic, partition) else {
                wish.leave(topic, partition, "does not exist any more");
                continue;
            };
            let new = match to {
                OffsetTarget::Earliest => (log.start, None),
                OffsetTarget::Offset { offset } => clamped(*offset, log.start, log.end),
                // The others are refused above; `latest` has no times.
                OffsetTarget::Latest
                | OffsetTarget::Timestamp { .. }
                | OffsetTarget::HeaderBased { .. }
                | OffsetTarget::FromMapping { .. }
                | OffsetTarget::FromRestore { .. } => {
                    (times.get(&place).copied().unwrap_or(log.end), None)
                }
            };
            wish.want(
                place,
                now.get(&(topic, partition)).copied(),
                &had.metadata,
                new,
            );
        }
        wish.plan(&has)
    });
    Ok((plans.collect(), logs))
}

/// What groups have, by their ids.
struct Found<'a>(BTreeMap<&'a str, &'a GroupOffsets>);

impl<'a> Found<'a> {
    fn new(has: &'a [GroupOffsets]) -> Self {
        Self(
            has.iter()
                .map(|group| (group.group.as_str(), group))
                .collect(),
        )
    }

    /// What `group` has; nothing where it is not there.
    fn of(&self, group: &GroupOffsets) -> Cow<'a, GroupOffsets> {
        match self.0.get(group.group.as_str()) {
            Some(has) => Cow::Borrowed(has),
            None => Cow::Owned(GroupOffsets {
                topics: BTreeMap::new(),
                ..group.clone()
            }),
        }
    }
}

fn clamped(offset: i64, start: i64, end: i64) -> (i64, Option<String>) {
    let found = offset.clamp(start, end);
    let note = (found != offset).then(|| {
        format!("offset {offset} is not in the partition, which has {start} to {end}: its nearest one is taken")
    });
    (found, note)
}

/// Offsets that a user has written.
pub(crate) async fn from_mapping(
    client: &Client,
    mapping: &Mapping,
    topics: Option<&[String]>,
    base: &[GroupOffsets],
) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
    let is_meant = |topic: &str| is_meant(topics, topic);
    let mapped = base
        .iter()
        .filter_map(|group| mapping.groups.get(&group.group));
    let names = mapped
        .flat_map(|topics| topics.keys())
        .filter(|topic| is_meant(topic));
    let names = names
        .map(|topic| Arc::from(topic.as_str()))
        .chain(topics_of(base));
    let logs = Logs::look(client, names.collect()).await?;
    let plans = base.iter().map(|group| {
        let now = by_place(group);
        let (mut wish, mut wrong) = (Wish::default(), Vec::new());
        let topics = mapping.groups.get(&group.group).into_iter().flatten();
        for (topic, partitions) in topics.filter(|(topic, _)| is_meant(topic)) {
            for (partition, offset) in partitions {
                match logs.get(topic, *partition) {
                    None => wrong.push(format!("topic {topic} partition {partition} does not exist")),
                    Some(log) if !(log.start..=log.end).contains(offset) => wrong.push(format!(
                        "topic {topic} partition {partition}: expected {} to {}, found offset {offset}",
                        log.start, log.end
                    )),
                    Some(_) => {
                        let now = now.get(&(topic.as_str(), *partition)).copied();
                        let metadata = now.map_or("", |now| &now.metadata);
                        let place = (Arc::from(topic.as_str()), *partition);
                        wish.want(place, now, metadata, (*offset, None));
                    }
                }
            }
        }
        match wrong.is_empty() {
            true => wish.plan(group),
            false => GroupPlan::refused(&group.group, format!("the mapping cannot be obeyed: {}", some(&wrong, NAMED))),
        }
    });
    Ok((plans.collect(), logs))
}

/// What groups had committed at the source, in the topics that a restore has written.
pub(crate) async fn translated(
    client: &Client,
    groups: &[TranslatedGroup],
    target_ids: &BTreeMap<String, TopicId>,
    topics: Option<&[String]>,
    base: &[GroupOffsets],
) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
    let is_meant = |topic: &str| is_meant(topics, topic);
    let offsets = groups.iter().flat_map(|group| &group.offsets);
    let names = offsets
        .map(|offset| offset.target_topic.clone())
        .filter(|topic| is_meant(topic));
    let logs = Logs::look(client, names.chain(topics_of(base)).collect()).await?;
    let found = Found::new(base);
    let plans = groups.iter().map(|group| {
        let has = found.of(&GroupOffsets {
            group: group.group.clone(),
            kind: group.kind,
            topics: BTreeMap::new(),
        });
        let (mut wish, mut wrong) = (Wish::default(), Vec::new());
        for offset in group
            .offsets
            .iter()
            .filter(|one| is_meant(&one.target_topic))
        {
            let (topic, partition) = (&offset.target_topic, offset.target_partition);
            if logs.id(topic) != target_ids.get(&**topic).copied() {
                wrong.push(format!(
                    "topic {topic} is not the one any more that was restored"
                ));
                continue;
            }
            let wanted = Wanted {
                offset: offset.offset,
                leader_epoch: offset.leader_epoch,
                metadata: offset.committed.metadata.clone(),
                note: offset.inexact.map(|inexact| inexact.to_string()),
            };
            wish.wanted.insert((topic.clone(), partition), Some(wanted));
        }
        for left in &group.left_out {
            wish.leave(&left.topic, left.partition, &left.reason.to_string());
        }
        wrong.dedup();
        match wrong.is_empty() {
            true => wish.plan(&has),
            false => GroupPlan::refused(&group.group, some(&wrong, NAMED)),
        }
    });
    Ok((plans.collect(), logs))
}

/// How records are looked for by their headers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByHeaders<'a> {
    /// Only records of this source count.
    pub(crate) source_cluster: Option<&'a str>,
    pub(crate) placement: Placement,
    /// Places of which it is known that there are no records to look for: groups go to the end there.
    pub(crate) empty: &'a [GroupOffsets],
}

/// The record that follows the last one that a group has read at the source, by the headers of the target's records.
///
/// `at_source` is what groups have committed there, `target` the name of a source topic in the cluster, `base` what they have in it.
pub(crate) async fn by_headers(
    client: &Client,
    how: ByHeaders<'_>,
    at_source: &[GroupOffsets],
    target: impl Fn(&str) -> Option<Arc<str>>,
    base: &[GroupOffsets],
    context: &Context,
) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
    let sources = topics_of(at_source);
    let targets: BTreeMap<&Arc<str>, Arc<str>> = sources
        .iter()
        .filter_map(|topic| Some((topic, target(topic)?)))
        .collect();
    let names = targets.values().cloned().chain(topics_of(base));
    let logs = Logs::look(client, names.collect()).await?;
    let mut answers: BTreeMap<&str, Answer> = BTreeMap::new();
    // What is read here is no part of what the run moves.
    let progress = Arc::default();
    for (source, target) in &targets {
        if logs.id(target).is_none() {
            continue;
        }
        let mut committed: BTreeMap<i32, BTreeSet<i64>> = BTreeMap::new();
        for group in at_source {
            for one in group.topics.get(&***source).into_iter().flatten() {
                committed
                    .entry(one.partition)
                    .or_default()
                    .insert(one.offset);
            }
        }
        let question = Question {
            source_cluster: how.source_cluster.map(str::to_owned),
            source_topic: (*source).clone(),
            target_topic: target.clone(),
            placement: how.placement,
            committed,
        };
        let answer = headers::search(client, question, &progress, &context.cancel).await?;
        answers.insert(&***source, answer);
    }
    let (found, empty) = (Found::new(base), Found::new(how.empty));
    let plans = at_source.iter().map(|group| {
        let (has, empty) = (found.of(group), empty.of(group));
        let now = by_place(&has);
        let mut wish = Wish::default();
        for ((topic, partition), had) in by_place(&empty) {
            if let Some(log) = logs.get(topic, partition) {
                let place: Place = (Arc::from(topic), partition);
                let now = now.get(&(topic, partition)).copied();
                wish.want(place, now, &had.metadata, (log.end, None));
            }
        }
        for (topic, offsets) in &group.topics {
            let source: Arc<str> = Arc::from(topic.as_str());
            let Some((answer, target)) = answers.get(topic.as_str()).zip(targets.get(&source))
            else {
                wish.left.push(format!("topic {topic} does not exist"));
                continue;
            };
            let committed = offsets.iter().map(|one| (one.partition, one.offset));
            let committed: BTreeMap<i32, i64> = committed.collect();
            let places = answer.partitions.keys().filter_map(|partition| {
                let offset = headers::next_offset(answer, *partition, &committed)?;
                Some((*partition, offset))
            });
            let places: Vec<(i32, i64)> = places.collect();
            if places.is_empty() && !empty.topics.contains_key(&**target) {
                let of = how.source_cluster.map(|name| format!(" of {name}"));
                wish.left.push(format!(
                    "topic {target} has no record whose headers tell that it comes from {topic}{}",
                    of.unwrap_or_default()
                ));
            }
            for (partition, offset) in places {
                let now = now.get(&(&**target, partition)).copied();
                let from = only_source(answer, partition, &committed).unwrap_or(partition);
                let had = offsets.iter().find(|one| one.partition == from);
                let metadata = had.map_or("", |had| &had.metadata);
                wish.want((target.clone(), partition), now, metadata, (offset, None));
            }
        }
        wish.plan(&has)
    });
    Ok((plans.collect(), logs))
}

/// The source partition of a target partition's records, where a group has committed offsets for just one of theirs.
fn only_source(
    answer: &Answer,
    target_partition: i32,
    committed: &BTreeMap<i32, i64>,
) -> Option<i32> {
    let partition = answer.partitions.get(&target_partition)?;
    let is_source = |source: &i32| partition.sources.get(source).is_some_and(|one| one.seen);
    let mut sources = committed.keys().filter(|source| is_source(source));
    let only = sources.next()?;
    sources.next().is_none().then_some(*only)
}
