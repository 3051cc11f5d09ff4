//! Which consumer groups are meant, and what they have committed.
//!
//! # Guarantees
//! - A group that is named by its id is there, or the run fails by name before anything is changed; globs take what there is.
//! - Groups with live members are told with their state. What they commit meanwhile is refused by the coordinator: offsets can be
//!   committed from outside only to a group without members.
//!
//! # Assumptions
//! - Consumers that assign partitions themselves and only commit are no members: nobody can see that they live.

use std::sync::Arc;

use futures::StreamExt;
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffsets};
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::selector::{GroupSelector, is_meant_by};

use super::error::OffsetsError;
use crate::groups::{by_topic, committed, kind};
use crate::kafka::{Client, ListedGroup};

/// A group that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Meant {
    pub(crate) group: Arc<str>,
    pub(crate) kind: GroupKind,
    /// `<group> (<state>)` of one with live members.
    pub(crate) live: Option<String>,
}

/// The groups of the cluster that `patterns` of `field` mean. A literal one that is not there is among them as an empty classic
/// group where `absent_is_empty`, which is what the coordinator makes of it, else an error.
pub(crate) fn choose(
    field: &str,
    patterns: &[String],
    listed: &[ListedGroup],
    absent_is_empty: bool,
) -> Result<Vec<Meant>, OffsetsError> {
    let selector = GroupSelector::parse(field, patterns)?;
    let mut meant = Vec::new();
    let mut unfit = None;
    for listed in listed
        .iter()
        .filter(|listed| selector.matches(&listed.group))
    {
        let Some(kind) = kind(&listed.group_type) else {
            // A glob takes those that commit offsets.
            if selector.literals().any(|literal| *literal == *listed.group) {
                unfit.get_or_insert(listed);
            }
            continue;
        };
        meant.push(Meant {
            group: listed.group.clone(),
            kind,
            live: listed
                .is_live()
                .then(|| format!("{} ({})", listed.group, listed.state)),
        });
    }
    if let Some(listed) = unfit {
        let found = format!("{}, which is of a kind without them", listed.group);
        return Err(SpecError::new(field, "groups that commit offsets", found).into());
    }
    let is_there = |literal: &str| listed.iter().any(|listed| *listed.group == *literal);
    let absent: Vec<&str> = selector.literals().filter(|id| !is_there(id)).collect();
    match &absent[..] {
        [] => {}
        absent if absent_is_empty => meant.extend(absent.iter().map(|group| Meant {
            group: Arc::from(*group),
            kind: GroupKind::Classic,
            live: None,
        })),
        absent => {
            let found = format!("no group {}", absent.join(", "));
            let expected = "groups that the cluster has, or that this user may describe";
            return Err(SpecError::new(field, expected, found).into());
        }
    }
    if meant.is_empty() {
        return Err(SpecError::new(
            field,
            "at least one consumer group",
            format!(
                "none that matches [{}] among {} that this user may describe",
                patterns.join(", "),
                listed.len()
            ),
        )
        .into());
    }
    meant.sort_by(|a, b| a.group.cmp(&b.group));
    Ok(meant)
}

/// Refuses groups with live members.
pub(crate) fn refuse_live(meant: &[Meant]) -> Result<(), OffsetsError> {
    let groups: Vec<String> = meant.iter().filter_map(|one| one.live.clone()).collect();
    match groups.is_empty() {
        true => Ok(()),
        false => Err(OffsetsError::Live { groups }),
    }
}

/// What the groups have committed for `topics`, all of them without patterns.
pub(crate) async fn read(
    client: &Client,
    meant: &[Meant],
    topics: Option<&[String]>,
) -> Result<Vec<GroupOffsets>, OffsetsError> {
    let wants = |topic: &str| topics.is_none_or(|patterns| is_meant_by(patterns, topic));
    let groups = meant
        .iter()
        .map(|one| (one.group.clone(), one.kind))
        .collect();
    let mut found = Vec::new();
    let mut all = std::pin::pin!(committed(client, groups, &wants));
    while let Some((group, kind, offsets)) = all.next().await {
        let step = "read the committed offsets of a consumer group";
        found.push(by_topic(
            &group,
            kind,
            offsets.map_err(OffsetsError::kafka(step))?,
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::GroupType;

    fn listed(group: &str, group_type: GroupType, state: &str) -> ListedGroup {
        ListedGroup {
            group: Arc::from(group),
            group_type,
            state: state.into(),
            protocol_type: String::new(),
        }
    }

    fn there() -> Vec<ListedGroup> {
        vec![
            listed("a", GroupType::Classic, "Empty"),
            listed("b", GroupType::Consumer, "Stable"),
            listed("s", GroupType::Share, "Empty"),
        ]
    }

    fn chosen(patterns: &[&str], absent_is_empty: bool) -> Result<Vec<Meant>, OffsetsError> {
        let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
        choose("spec.consumerGroups", &patterns, &there(), absent_is_empty)
    }

    #[test]
    fn globs_take_what_commits_and_ids_must_be_there() {
        let names = |meant: &[Meant]| -> Vec<String> {
            meant.iter().map(|one| one.group.to_string()).collect()
        };
        assert_eq!(names(&chosen(&["*"], false).unwrap()), ["a", "b"]);
        assert_eq!(names(&chosen(&["new", "a"], true).unwrap()), ["a", "new"]);
        for (patterns, named) in [
            (&["a", "new"][..], "no group new"),
            (&["s"], "s, which is of a kind without them"),
            (&["x*"], "none that matches [x*] among 3"),
        ] {
            let error = chosen(patterns, false).unwrap_err();
            assert_eq!(error.fault(), kafka_backup_shared::report::Fault::Spec);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn live_groups_are_refused_with_their_state() {
        refuse_live(&chosen(&["a"], false).unwrap()).unwrap();
        let error = refuse_live(&chosen(&["*"], false).unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("first: b (Stable)"), "{error}");
    }
}
