//! What consumer groups have committed for the topics of a run.
//!
//! # Guarantees
//! - Groups are captured before the ends: no committed offset lies beyond what the run captures, but for records that
//!   transactions hold back or that were deleted.
//! - All groups that are meant are there, or the run fails.
//! - Memory is bounded by a few requests and the compressed object, whatever the number of groups.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use kafka_backup_shared::archive::groups::{GroupKind, GroupsPart, GroupsWriter};
use kafka_backup_shared::plan::BackupPlan;
use kafka_backup_shared::selector::GroupSelector;

use super::error::{BackupError, kafka};
use crate::groups::{by_topic, committed, kind, refuse_hidden};
use crate::kafka::{Client, ListedGroup};

/// Which of the cluster's groups are meant.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    groups: Vec<(Arc<str>, GroupKind)>,
    /// Those that commit no offsets by their kind.
    skipped: Vec<String>,
}

fn choose(listed: Vec<ListedGroup>, selector: Option<&GroupSelector>) -> Chosen {
    let mut chosen = Chosen::default();
    for listed in listed {
        if selector.is_some_and(|selector| !selector.matches(&listed.group)) {
            continue;
        }
        match kind(&listed.group_type) {
            Some(kind) => chosen.groups.push((listed.group, kind)),
            None => chosen.skipped.push(listed.group.to_string()),
        }
    }
    chosen
}

/// What the groups that are meant have committed for `topics`, as an object and how it is named; `None` where no group is
/// asked for.
///
/// # Errors
/// A group's offsets could not be learnt, or one that is named by its id may not be described.
pub(super) async fn capture(
    plan: &BackupPlan,
    client: &Client,
    topics: &BTreeSet<&str>,
) -> Result<Option<(GroupsPart, Bytes)>, BackupError> {
    let selector = match plan.consumer_groups.as_deref() {
        Some([]) => return Ok(None),
        Some(patterns) => Some(GroupSelector::parse("spec.consumerGroups", patterns)?),
        None => None,
    };
    let listed = client
        .list_groups()
        .await
        .map_err(kafka("list the consumer groups of the source cluster"))?;
    if let Some(selector) = &selector {
        let step = "read the committed offsets of a consumer group";
        refuse_hidden(client, selector, &listed)
            .await
            .map_err(kafka(step))?;
    }
    let chosen = choose(listed, selector.as_ref());
    let mut missing: BTreeSet<&str> = selector
        .iter()
        .flat_map(GroupSelector::literals)
        .filter(|literal| !chosen.skipped.iter().any(|skipped| skipped == literal))
        .collect();
    let wants = |topic: &str| topics.contains(topic);
    let mut all = std::pin::pin!(committed(client, chosen.groups, &wants));
    let mut writer = GroupsWriter::default();
    while let Some((group, kind, offsets)) = all.next().await {
        let offsets = offsets.map_err(kafka("read the committed offsets of a consumer group"))?;
        if offsets.is_empty() {
            continue;
        }
        missing.remove(&*group);
        writer.push(&by_topic(&group, kind, offsets));
    }
    let (bytes, part) = writer.finish();
    tracing::info!(
        groups = part.groups,
        offsets = part.offsets,
        "consumer groups captured"
    );
    let part = GroupsPart {
        skipped: chosen.skipped,
        missing: missing.into_iter().map(str::to_owned).collect(),
        ..part
    };
    Ok(Some((part, bytes.into())))
}

/// What a user should know of the groups of a run.
pub(super) fn warnings(part: &GroupsPart) -> Vec<String> {
    let mut warnings = Vec::new();
    if !part.skipped.is_empty() {
        warnings.push(format!(
            "consumer groups whose kind commits no offsets (share groups) are left out: {}",
            some(&part.skipped)
        ));
    }
    if !part.missing.is_empty() {
        warnings.push(format!(
            "consumer groups have no committed offsets on the topics of the run: {}",
            some(&part.missing)
        ));
    }
    warnings
}

fn some(names: &[String]) -> String {
    const NAMED: usize = 10;
    let mut text = names[..names.len().min(NAMED)].join(", ");
    if names.len() > NAMED {
        text.push_str(&format!(" and {} more", names.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::GroupType;

    fn listed(group: &str, group_type: GroupType) -> ListedGroup {
        ListedGroup {
            group: Arc::from(group),
            group_type,
            state: String::new(),
            protocol_type: String::new(),
        }
    }

    #[test]
    fn kinds_that_commit_are_taken_and_others_are_named() {
        let groups = || {
            vec![
                listed("a", GroupType::Classic),
                listed("b", GroupType::Share),
                listed("c", GroupType::Streams),
                listed("d", GroupType::Consumer),
                listed("e", GroupType::Other("newer".into())),
            ]
        };
        let names = |chosen: &Chosen| -> Vec<String> {
            chosen.groups.iter().map(|(g, _)| g.to_string()).collect()
        };
        let all = choose(groups(), None);
        assert_eq!(names(&all), ["a", "c", "d"]);
        assert_eq!(all.skipped, ["b", "e"]);
        let selector = GroupSelector::parse("f", &["[ab]".into(), "?".into()]).unwrap();
        assert_eq!(choose(groups(), Some(&selector)), all);
        let selector = GroupSelector::parse("f", &["d".into()]).unwrap();
        let one = choose(groups(), Some(&selector));
        assert_eq!((names(&one), one.skipped), (vec!["d".to_owned()], vec![]));
    }

    #[test]
    fn long_lists_are_cut() {
        let names: Vec<String> = (0..12).map(|i| i.to_string()).collect();
        assert_eq!(some(&names), "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more");
        assert_eq!(some(&names[..2]), "0, 1");
    }
}
