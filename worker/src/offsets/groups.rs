//! Which consumer groups are meant, and what they have committed.
//!
//! # Guarantees
//! - A group that is named by its id is there, or the run fails by name before anything is changed; globs take what there is.
//! - Groups with live members are told with their state. What they commit meanwhile is refused by the coordinator: offsets can be
//!   committed from outside only to a group without members.
//!
//! # Assumptions
//! - Consumers that assign partitions themselves and only commit are no members: nobody can see that they live.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffsets};
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::selector::{GroupSelector, is_meant};

use super::GROUPS;
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

impl Meant {
    fn new(group: &str, kind: GroupKind, listed: Option<&ListedGroup>) -> Self {
        let live = listed.filter(|listed| listed.is_live());
        Self {
            live: live.map(|listed| format!("{group} ({})", listed.state)),
            group: Arc::from(group),
            kind,
        }
    }

    fn listed(listed: &ListedGroup) -> Result<Self, SpecError> {
        match kind(&listed.group_type) {
            Some(kind) => Ok(Self::new(&listed.group, kind, Some(listed))),
            None => {
                let found = format!("{}, which is of a kind without them", listed.group);
                Err(SpecError::new(GROUPS, "groups that commit offsets", found))
            }
        }
    }
}

/// The groups of the cluster that `patterns` mean.
pub(crate) fn choose(
    patterns: &[String],
    listed: &[ListedGroup],
) -> Result<Vec<Meant>, OffsetsError> {
    let selector = GroupSelector::parse(GROUPS, patterns)?;
    let is_literal = |group: &str| selector.literals().any(|literal| literal == group);
    let is_there = |id: &str| listed.iter().any(|listed| *listed.group == *id);
    // A glob takes those that commit offsets.
    let chosen = listed
        .iter()
        .filter(|listed| selector.matches(&listed.group));
    let chosen = chosen.filter(|one| kind(&one.group_type).is_some() || is_literal(&one.group));
    let mut meant = chosen.map(Meant::listed).collect::<Result<Vec<_>, _>>()?;
    let absent: Vec<&str> = selector.literals().filter(|id| !is_there(id)).collect();
    if !absent.is_empty() {
        let found = format!("no group {}", absent.join(", "));
        let expected = "groups that the cluster has, or that this user may describe";
        return Err(SpecError::new(GROUPS, expected, found).into());
    }
    if meant.is_empty() {
        return Err(SpecError::new(
            GROUPS,
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

/// The groups that `patterns` mean of those that `names` has, which `what` is.
pub(crate) fn among<'a>(
    patterns: &[String],
    names: impl Iterator<Item = &'a str>,
    listed: &[ListedGroup],
    what: &str,
) -> Result<Vec<Meant>, OffsetsError> {
    let selector = GroupSelector::parse(GROUPS, patterns)?;
    let names: Vec<&str> = names.filter(|name| selector.matches(name)).collect();
    refuse_absent(GROUPS, &selector, what, |id| names.contains(&id))?;
    if names.is_empty() {
        let found = format!("none that matches [{}]", patterns.join(", "));
        return Err(SpecError::new(GROUPS, format!("at least one group of {what}"), found).into());
    }
    exactly(names, listed)
}

/// Refuses ids in `field` that are not in `what`.
pub(crate) fn refuse_absent(
    field: &str,
    selector: &GroupSelector,
    what: &str,
    is_there: impl Fn(&str) -> bool,
) -> Result<(), SpecError> {
    let absent: Vec<&str> = selector.literals().filter(|id| !is_there(id)).collect();
    if absent.is_empty() {
        return Ok(());
    }
    let found = format!("no group {} in it", absent.join(", "));
    Err(SpecError::new(field, format!("groups of {what}"), found))
}

/// Groups by their ids; one that is not there is an empty classic group, which is what a coordinator makes of it.
pub(crate) fn exactly<'a>(
    names: impl IntoIterator<Item = &'a str>,
    listed: &[ListedGroup],
) -> Result<Vec<Meant>, OffsetsError> {
    let by_id: BTreeMap<&str, &ListedGroup> = listed.iter().map(|one| (&*one.group, one)).collect();
    let meant = names.into_iter().map(|name| match by_id.get(name) {
        None => Ok(Meant::new(name, GroupKind::Classic, None)),
        Some(listed) => Ok(Meant::listed(listed)?),
    });
    meant.collect()
}

/// The groups of a snapshot, as they are now.
pub(crate) fn now(had: &[&GroupOffsets], listed: &[ListedGroup]) -> Vec<Meant> {
    let groups = had.iter().map(|had| {
        let listed = listed.iter().find(|one| *one.group == *had.group);
        Meant::new(&had.group, had.kind, listed)
    });
    groups.collect()
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
    let wants = |topic: &str| is_meant(topics, topic);
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

    fn chosen(patterns: &[&str]) -> Result<Vec<Meant>, OffsetsError> {
        let patterns: Vec<String> = patterns.iter().map(|one| (*one).to_owned()).collect();
        choose(&patterns, &there())
    }

    #[test]
    fn globs_take_what_commits_and_ids_must_be_there() {
        let names = |meant: &[Meant]| -> Vec<String> {
            meant.iter().map(|one| one.group.to_string()).collect()
        };
        assert_eq!(names(&chosen(&["*"]).unwrap()), ["a", "b"]);
        assert_eq!(
            names(&exactly(["a", "new"], &there()).unwrap()),
            ["a", "new"]
        );
        for (patterns, named) in [
            (&["a", "new"][..], "no group new"),
            (&["s"], "s, which is of a kind without them"),
            (&["x*"], "none that matches [x*] among 3"),
        ] {
            let error = chosen(patterns).unwrap_err();
            assert_eq!(error.fault(), kafka_backup_shared::report::Fault::Spec);
            assert!(error.to_string().contains(named), "{error}");
        }
    }

    #[test]
    fn live_groups_are_refused_with_their_state() {
        refuse_live(&chosen(&["a"]).unwrap()).unwrap();
        let error = refuse_live(&chosen(&["*"]).unwrap()).unwrap_err();
        assert!(error.to_string().ends_with("first: b (Stable)"), "{error}");
    }
}
