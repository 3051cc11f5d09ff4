//! What consumer groups have committed, as values of the archive.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use kafka_backup_shared::archive::groups::{GroupKind, GroupOffset, GroupOffsets};

use crate::kafka::{Client, CommittedOffset, GroupType, KafkaError};

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
