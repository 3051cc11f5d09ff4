//! Whether a run may continue the chain of the run before it, and from where.
//!
//! Within a generation all segments tell one history, captured one way. A run opens a new one when it cannot prove that it
//! may continue. Everything here is pure.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use kafka_backup_shared::archive::chain::Link;
use kafka_backup_shared::archive::layout::TopicId;
use kafka_backup_shared::archive::manifest::{ConfigValue, PinnedPartition};
use kafka_backup_shared::archive::tiles::Foundation;
use kafka_backup_shared::plan::IsolationLevel;

use crate::kafka::EpochEnd;

/// Part of `delete.retention.ms` within which two looks at a compacted topic must lie to see every tombstone.
const SAFE_PART: f64 = 0.9;

/// How a partition was captured by the newest complete run.
#[derive(Clone, Debug)]
pub(super) struct Before<'a> {
    pub(super) topic_id: TopicId,
    pub(super) isolation: IsolationLevel,
    /// When that run began.
    pub(super) start_time: Timestamp,
    pub(super) end: i64,
    pub(super) configs: &'a BTreeMap<String, ConfigValue>,
}

/// How it is now.
#[derive(Clone, Debug)]
pub(super) struct Now<'a> {
    pub(super) topic_id: TopicId,
    pub(super) isolation: IsolationLevel,
    pub(super) time: Timestamp,
    pub(super) end: i64,
    pub(super) configs: &'a BTreeMap<String, ConfigValue>,
}

/// Why a new generation is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reopened {
    FirstCapture,
    OtherTopicId,
    OtherIsolation,
    /// A tombstone may have come and gone since the run before.
    Compacted,
    /// The leader knows nothing of the last epoch that was captured.
    Diverged,
    /// A segment is lost from the archive, and the source cannot give it again as it was.
    Lost,
}

/// Whether the partition's generation is continued. Divergence needs the leader's word: see [`resume_at`].
pub(super) fn may_continue(before: Option<&Before<'_>>, now: &Now<'_>) -> Result<(), Reopened> {
    let before = before.ok_or(Reopened::FirstCapture)?;
    if before.topic_id != now.topic_id {
        return Err(Reopened::OtherTopicId);
    }
    if before.isolation != now.isolation {
        return Err(Reopened::OtherIsolation);
    }
    // Without new offsets there was no tombstone either.
    let moved = before.end != now.end;
    if moved && fetch_before(before, now).is_some_and(|limit| now.time > limit) {
        return Err(Reopened::Compacted);
    }
    Ok(())
}

/// For a compacted topic: when the last fetch must be over, if the capture begins where `before` ended.
pub(super) fn fetch_before(before: &Before<'_>, now: &Now<'_>) -> Option<Timestamp> {
    let window = tombstone_window(now.configs)?;
    let window = tombstone_window(before.configs).map_or(window, |earlier| earlier.min(window));
    Some(
        before
            .start_time
            .saturating_add(window)
            .unwrap_or(Timestamp::MAX),
    )
}

/// How far two looks at a compacted topic may lie apart; `None` where nothing is compacted.
pub(super) fn tombstone_window(configs: &BTreeMap<String, ConfigValue>) -> Option<Duration> {
    let value = |name: &str| configs.get(name).and_then(|config| config.value.as_deref());
    let compacted = value("cleanup.policy")
        .is_some_and(|policy| policy.split(',').any(|p| p.trim() == "compact"));
    // Kafka's default where a broker does not tell.
    let retention_ms = value("delete.retention.ms")
        .and_then(|ms| ms.parse::<u64>().ok())
        .unwrap_or(86_400_000);
    compacted.then(|| Duration::from_millis(retention_ms.min(u64::MAX / 2)).mul_f64(SAFE_PART))
}

/// Whether the source can give again what is lost of a partition: on a compacted topic records and tombstones may have gone since.
pub(super) fn may_refill(
    pinned: &PinnedPartition,
    configs: &BTreeMap<String, ConfigValue>,
) -> bool {
    tombstone_window(configs).is_none() && Foundation::new(pinned).may_refill()
}

/// Where to go on after a chain whose last epoch the leader was asked about (OffsetForLeaderEpoch); `None`: nowhere.
///
/// `asked` is the epoch of the last link that has one, `answer` the largest epoch at or below it that the leader has, and
/// where that ends in its log. Two logs that both have an epoch agree up to where it ends in the shorter one.
///
/// What the source has truncated stays in the archive, and of tiles that start together the one with the higher epoch counts
/// (see [`chain`](kafka_backup_shared::archive::chain)). So the generation is gone on with only where all that follows in the
/// leader's log is of a higher epoch than what was truncated: not where a leader of an older epoch has come back with more of
/// it than was captured (a follower, which deletes what it truncates, would go on there: KIP-279).
pub(super) fn resume_at(links: &[Link], asked: i32, answer: Option<EpochEnd>) -> Option<i64> {
    let answer = answer?;
    if answer.epoch == asked {
        return Some(answer.end_offset.min(links.last()?.range.end));
    }
    // A link in which nothing was fetched has the epoch of the one before it.
    let mut epoch = -1;
    let known = links.iter().take_while(|link| {
        epoch = epoch.max(link.name.leader_epoch);
        epoch <= answer.epoch
    });
    let known: Vec<Link> = known.copied().collect();
    let agrees =
        last_epoch(&known) == Some(answer.epoch) && known.last()?.range.end >= answer.end_offset;
    agrees.then_some(answer.end_offset)
}

/// The epoch to ask the leader about: that of the last link in which something was fetched.
pub(super) fn last_epoch(links: &[Link]) -> Option<i32> {
    links
        .iter()
        .rev()
        .map(|link| link.name.leader_epoch)
        .find(|epoch| *epoch >= 0)
}

/// The links up to `end`.
pub(super) fn cut(mut links: Vec<Link>, end: i64) -> Vec<Link> {
    for link in &mut links {
        link.range.end = link.range.end.min(end);
    }
    links.retain(|link| !link.range.is_empty());
    links
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::chain::chain;
    use kafka_backup_shared::archive::layout::SegmentName;

    fn configs(policy: &str, retention_ms: &str) -> BTreeMap<String, ConfigValue> {
        let value = |text: &str| ConfigValue {
            value: Some(text.into()),
            source: 5,
        };
        BTreeMap::from([
            ("cleanup.policy".into(), value(policy)),
            ("delete.retention.ms".into(), value(retention_ms)),
        ])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_generation_is_continued_only_where_that_is_proven() {
        use IsolationLevel::{ReadCommitted, ReadUncommitted};
        let (plain, compacted) = (configs("delete", "1000000"), configs("compact", "1000000"));
        let (both, short) = (
            configs("compact,delete", "1000000"),
            configs("compact", "100000"),
        );
        // 1000 s: 900 are safe
        let cases = [
            (
                "plain, after a year",
                1,
                ReadCommitted,
                &plain,
                &plain,
                31_536_000,
                20,
                Ok(()),
            ),
            (
                "another topic of this name",
                2,
                ReadCommitted,
                &plain,
                &plain,
                1,
                20,
                Err(Reopened::OtherTopicId),
            ),
            (
                "other isolation",
                1,
                ReadUncommitted,
                &plain,
                &plain,
                1,
                20,
                Err(Reopened::OtherIsolation),
            ),
            (
                "compacted, soon",
                1,
                ReadCommitted,
                &compacted,
                &compacted,
                899,
                20,
                Ok(()),
            ),
            (
                "compacted, late",
                1,
                ReadCommitted,
                &compacted,
                &compacted,
                901,
                20,
                Err(Reopened::Compacted),
            ),
            (
                "compacted, late, nothing new",
                1,
                ReadCommitted,
                &compacted,
                &compacted,
                901,
                10,
                Ok(()),
            ),
            (
                "compact,delete",
                1,
                ReadCommitted,
                &both,
                &both,
                901,
                20,
                Err(Reopened::Compacted),
            ),
            (
                "was shorter then",
                1,
                ReadCommitted,
                &short,
                &compacted,
                200,
                20,
                Err(Reopened::Compacted),
            ),
            (
                "is shorter now",
                1,
                ReadCommitted,
                &compacted,
                &short,
                200,
                20,
                Err(Reopened::Compacted),
            ),
            (
                "no longer compacted",
                1,
                ReadCommitted,
                &compacted,
                &plain,
                901,
                20,
                Ok(()),
            ),
        ];
        for (case, id, isolation, then, now, seconds, end, expected) in cases {
            let before = Before {
                topic_id: TopicId([1; 16]),
                isolation: ReadCommitted,
                start_time: at(0),
                end: 10,
                configs: then,
            };
            let now = Now {
                topic_id: TopicId([id; 16]),
                isolation,
                time: at(seconds),
                end,
                configs: now,
            };
            assert_eq!(may_continue(Some(&before), &now), expected, "{case}");
            assert_eq!(may_continue(None, &now), Err(Reopened::FirstCapture));
        }
    }

    #[test]
    fn divergence_is_resolved_as_a_follower_does() {
        let segment = |start, end, leader_epoch| SegmentName {
            start,
            end,
            leader_epoch,
            records: 0,
            max_timestamp: -1,
            crc32c: 0,
        };
        let links = chain(vec![
            segment(0, 10, 1),
            segment(10, 30, 3),
            segment(30, 40, 5),
            segment(40, 50, -1),
        ]);
        assert_eq!(last_epoch(&links), Some(5));
        let end = |epoch, end_offset| Some(EpochEnd { epoch, end_offset });
        let cases = [
            ("the leader has more", end(5, 70), Some(50)),
            ("the leader lost our tail", end(5, 35), Some(35)),
            ("epoch 3 ended inside a segment", end(3, 20), Some(20)),
            (
                "epoch 3 ended where the last link of it does",
                end(3, 30),
                Some(30),
            ),
            // What follows there is of epoch 4, 3 or 1, below the 5 of what was truncated.
            ("it has epoch 4 instead", end(4, 33), None),
            ("epoch 3 went on longer", end(3, 35), None),
            ("epoch 1 went on longer", end(1, 25), None),
            // Epoch 2 began somewhere in what was captured as epoch 1.
            ("it has epoch 2 instead of 3", end(2, 8), None),
            ("nothing that we have", end(0, 25), None),
            ("it knows nothing", None, None),
        ];
        for (case, answer, expected) in cases {
            assert_eq!(resume_at(&links, 5, answer), expected, "{case}");
        }
    }
}
