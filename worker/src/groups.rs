//! What consumer groups have committed, as values of the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffset, GroupOffsets};
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::selector::GroupSelector;

use crate::kafka::{Client, CommittedOffset, GroupType, KafkaError, ListedGroup};

/// Groups that are asked for together: a group may have thousands of offsets.
const PAGE: usize = 32;
/// Pages that are asked for at the same time.
const IN_FLIGHT: usize = 4;

/// The kind of a group that commits offsets; `None` of others, such as share groups.
pub(crate) fn kind(group_type: &GroupType) -> Option<GroupKind> {
    match group_type {
        GroupType::Classic => Some(GroupKind::Classic),
        GroupType::Consumer => Some(GroupKind::Consumer),
        GroupType::Streams => Some(GroupKind::Streams),
        GroupType::Share | GroupType::Other(_) => None,
    }
}

/// What groups have committed for the topics that `wants` names, a bounded number of groups at a time.
pub(crate) fn committed<'a>(
    client: &'a Client,
    groups: Vec<(Arc<str>, GroupKind)>,
    wants: &'a (impl Fn(&str) -> bool + Sync),
) -> impl Stream<
    Item = (
        Arc<str>,
        GroupKind,
        Result<Vec<CommittedOffset>, KafkaError>,
    ),
> + 'a {
    let pages: Vec<_> = groups.chunks(PAGE).map(<[_]>::to_vec).collect();
    futures::stream::iter(pages)
        .map(move |page| async move {
            let ids: Vec<Arc<str>> = page.iter().map(|(group, _)| group.clone()).collect();
            let found = client.committed_offsets(&ids, wants).await;
            let groups = page.into_iter().zip(found);
            futures::stream::iter(groups.map(|((group, kind), found)| (group, kind, found)))
        })
        .buffered(IN_FLIGHT)
        .flatten()
}

/// Asks for those of the groups that are meant by their ids which are not listed: a listing leaves out what may not be described,
/// but who asks for a group by its id is told.
///
/// # Errors
/// The refusal.
pub(crate) async fn refuse_hidden(
    client: &Client,
    selector: &GroupSelector,
    listed: &[ListedGroup],
) -> Result<(), KafkaError> {
    let is_listed = |id: &str| listed.iter().any(|listed| *listed.group == *id);
    let unlisted = selector.literals().filter(|id| !is_listed(id));
    let unlisted: Vec<Arc<str>> = unlisted.map(Arc::from).collect();
    if unlisted.is_empty() || !client.has_groups().await? {
        return Ok(());
    }
    let answers = client.committed_offsets(&unlisted, |_| false).await;
    let mut errors = answers.into_iter().filter_map(Result::err);
    match errors.find(|error| error.fault() == Fault::Denied) {
        Some(refusal) => Err(refusal),
        None => Ok(()),
    }
}

/// Offsets of a group, by topic.
pub(crate) fn by_topic(
    group: &str,
    kind: GroupKind,
    committed: Vec<CommittedOffset>,
) -> GroupOffsets {
    let mut topics: BTreeMap<String, Vec<GroupOffset>> = BTreeMap::new();
    for committed in committed {
        let topic = topics.entry(committed.topic.to_string());
        topic.or_default().push(GroupOffset {
            partition: committed.partition,
            offset: committed.offset,
            leader_epoch: committed.leader_epoch,
            metadata: committed.metadata,
        });
    }
    GroupOffsets {
        group: group.to_owned(),
        kind,
        topics,
    }
}
