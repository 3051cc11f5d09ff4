//! Consumer groups of a source, translated to what restores wrote, and read on from there by a client that is not ours. Needs
//! `KAFKA_BACKUP_LAB_SOURCE` and `KAFKA_BACKUP_LAB_TARGET` (bootstrap servers), which `cargo lab test` sets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod backup_support;
mod group_support;
mod restore_support;

use std::collections::BTreeMap;

use backup_support::*;
use group_support::*;
use jiff::Timestamp;
use kafka_backup_shared::archive::manifest::from_json;
use kafka_backup_shared::archive::restore::{OffsetPiece, OffsetRun, RestoreDecision};
use kafka_backup_shared::archive::translate::Inexact;
use kafka_backup_shared::plan::{
    BackupPlan, PartitionMove, RestorePlan, RestoreRequest, RunRef, Topics,
};
use kafka_backup_shared::selector::GroupSelector;
use kafka_backup_shared::spec::{IfTopicNotEmpty, MissingTopics, TimeRange};
use kafka_backup_worker::restore;
use kafka_backup_worker::restore::groups::{TranslatedGroup, TranslatedOffset, translate};
use rdkafka::producer::Producer;
use uuid::Uuid;

const FIRST: &str = "20260101-000000";

/// Where the log of partition 0 with transactions begins when it is backed up, and what a group has committed before.
const LOG_START: i64 = 3;
const BELOW: i64 = 1;
/// The last stable offset of partition 1, and what a group has committed behind it.
const STABLE: i64 = 27;
const BEYOND: i64 = 29;

/// Restores `topics`, mapped, as `changed`; tells what was decided.
async fn restored(
    archive: &Archive,
    topics: &BTreeMap<String, String>,
    changed: impl FnOnce(RestoreRequest) -> RestoreRequest,
) -> RestoreDecision {
    let included = Topics {
        include: topics.keys().cloned().collect(),
        exclude: vec![],
        missing: MissingTopics::Fail,
    };
    let plan = RestorePlan {
        run: RunRef {
            kind: "KafkaRestore".into(),
            uid: Uuid::new_v4().to_string(),
            ..RunRef::example()
        },
        storage: plan(FIRST, &[]).storage,
        cluster: restore_support::cluster(),
        request: changed(RestoreRequest {
            topic_mapping: topics.clone(),
            ..RestoreRequest::new(format!("orders-{FIRST}"), included)
        }),
        rate_limit: None,
        dry_run: false,
        groups: None,
    };
    restore::run(&plan, &archive.store, &restore_support::context())
        .await
        .unwrap();
    let key = archive.layout.restore_plan(&plan.run.uid);
    from_json(&key, &archive.store.get(&key).await.unwrap().unwrap()).unwrap()
}

async fn translated(
    archive: &Archive,
    decision: &RestoreDecision,
    groups: &BTreeMap<String, Vec<Position>>,
) -> Vec<TranslatedGroup> {
    let ids: Vec<String> = groups.keys().cloned().collect();
    let selector = GroupSelector::parse("groups", &ids).unwrap();
    let translations = translate(&archive.store, &archive.layout, decision, Some(&selector))
        .await
        .unwrap();
    let found: Vec<TranslatedGroup> = translations.groups().unwrap().map(Result::unwrap).collect();
    let found_ids: Vec<&String> = found.iter().map(|group| &group.group).collect();
    assert_eq!(found_ids, groups.keys().collect::<Vec<_>>());
    for group in &found {
        assert_eq!(group.left_out, []);
        let committed = group.offsets.iter().map(position);
        let mut expected = groups[&group.group].clone();
        expected.sort();
        assert_eq!(committed.collect::<Vec<_>>(), expected);
    }
    found
}

/// What was committed.
fn position(offset: &TranslatedOffset) -> Position {
    let committed = &offset.committed;
    (offset.topic.clone(), committed.partition, committed.offset)
}

/// Runs with holes in the offset map of a partition.
async fn runs_with_holes(
    archive: &Archive,
    decision: &RestoreDecision,
    topic: &str,
) -> Vec<OffsetRun> {
    let mut runs = Vec::new();
    for name in &decision.topics[topic].sources[0].segments {
        let uid = &decision.run.uid;
        let key = archive
            .layout
            .restore_offsets(uid, topic, 0, name.start, name.end);
        if let Some(bytes) = archive.store.get(&key).await.unwrap() {
            let piece: OffsetPiece = from_json(&key, &bytes).unwrap();
            runs.extend(piece.runs);
        }
    }
    runs.retain(|run| run.records < (run.end - run.start) as u64);
    runs
}

/// Asserts that a consumer of the target gets from each translated offset on what one of the source gets from the committed one
/// on, of the records not newer than `newest`; and that those of `inexact`, and no others, are told.
async fn compare(
    archive: &Archive,
    decision: &RestoreDecision,
    groups: &BTreeMap<String, Vec<Position>>,
    newest: Option<i64>,
    inexact: &BTreeMap<Position, Inexact>,
) {
    let translated = translated(archive, decision, groups).await;
    let inexact = inexact.clone();
    blocking(move || {
        let source = consumer(&bootstrap(), "translate-source");
        let target = consumer(&restore_support::bootstrap(), "translate-target");
        for offset in translated.iter().flat_map(|group| &group.offsets) {
            let from = position(offset);
            let topic = offset.target_topic.to_string();
            let to = (topic, offset.target_partition, offset.offset);
            let (given, found) = (next(&source, &from, newest), next(&target, &to, None));
            assert_eq!(found, given, "{to:?}, committed as {from:?}");
            assert_eq!(offset.inexact, inexact.get(&from).copied(), "{from:?}");
            assert_eq!(offset.leader_epoch, None, "{from:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_translated_group_reads_on_where_the_source_would_have_gone_on() {
    let archive = Archive::new();
    let (tx, log) = (name("translate-tx"), name("translate-compacted"));
    let oldest = Timestamp::now().as_millisecond() - 3_600_000;
    create_topic(&tx, 2, &[]).await;
    let open = transactions(&tx, oldest).await;
    let left = compacted(&log, oldest).await;

    // Where only some offsets are gone, the batch is still there.
    let hole = |small: bool| {
        let pairs = left.windows(2).filter(move |pair| {
            let gone = pair[1] - pair[0] - 1;
            gone > 0 && (gone < 5) == small
        });
        pairs.map(|pair| pair[0] + 1).collect::<Vec<i64>>()
    };
    let (small, large) = (hole(true), hole(false));
    assert!(
        small.len() > 100 && !large.is_empty(),
        "{} {}",
        small.len(),
        large.len()
    );
    let end = left.last().unwrap() + 1;
    let third = |holes: &[i64], n: usize| holes[holes.len() * n / 3];
    let mut compacted_at = vec![2, left[left.len() / 2], end - 1, end, large[0]];
    compacted_at.extend((0..3).flat_map(|n| [third(&small, n), third(&small, n) + 1]));
    compacted_at.push(large[large.len() / 2]);
    // Below the start (which moves to 3 in partition 0), at markers (5, 10, 17, 21), among aborted records, at and behind the end.
    let first_at = [BELOW, LOG_START, 4, 5, 8, 10, 13, 17, 19, 24, 27, 22];
    let second_at = [0, 2, 4, 5, 7, 10, 14, 17, 20, 25, STABLE, BEYOND];
    let prefix = name("translate-group");
    let groups: BTreeMap<String, Vec<Position>> = (0..12)
        .map(|n| {
            let positions = vec![
                (tx.clone(), 0, first_at[n]),
                (tx.clone(), 1, second_at[n]),
                (log.clone(), 0, compacted_at[n]),
            ];
            (format!("{prefix}-{n:02}"), positions)
        })
        .collect();
    commit(&groups).await;
    delete_records(&tx, 0, LOG_START).await;
    let backup = BackupPlan {
        consumer_groups: Some(vec![format!("{prefix}-*")]),
        ..plan(FIRST, &[&tx, &log])
    };
    run(&backup, &archive.store).await.unwrap();
    blocking(move || open.abort_transaction(TIMEOUT).unwrap()).await;

    let inexact = BTreeMap::from([
        (
            (tx.clone(), 0, BELOW),
            Inexact::BelowStart { start: LOG_START },
        ),
        ((tx.clone(), 1, BEYOND), Inexact::BeyondEnd { end: STABLE }),
    ]);

    let mapped = |to: &str| -> BTreeMap<String, String> {
        let topics = [&tx, &log];
        topics
            .map(|topic| (topic.clone(), format!("{topic}-{to}")))
            .into()
    };
    // In the middle of batches of both topics.
    let newest = oldest + 12_001;
    let swapped = [(0, 1), (1, 0)].map(|(source, target)| PartitionMove { source, target });
    let moved = [(0, 2)].map(|(source, target)| PartitionMove { source, target });
    let plain = restored(&archive, &mapped("plain"), |request| request).await;
    compare(&archive, &plain, &groups, None, &inexact).await;
    let behind = restored(&archive, &mapped("plain"), |request| RestoreRequest {
        if_topic_not_empty: IfTopicNotEmpty::Append,
        ..request
    })
    .await;
    assert_eq!(behind.topics[&tx].partitions[0].base_offset, 13);
    compare(&archive, &behind, &groups, None, &inexact).await;
    let cut = restored(&archive, &mapped("cut"), |request| RestoreRequest {
        time: TimeRange {
            start_ms: None,
            end_ms: Some(newest),
        },
        ..request
    })
    .await;
    compare(&archive, &cut, &groups, Some(newest), &inexact).await;
    let elsewhere = restored(&archive, &mapped("moved"), |request| RestoreRequest {
        partition_mapping: BTreeMap::from([
            (tx.clone(), swapped.to_vec()),
            (log.clone(), moved.to_vec()),
        ]),
        ..request
    })
    .await;
    compare(&archive, &elsewhere, &groups, None, &inexact).await;

    let holes = runs_with_holes(&archive, &plain, &log).await;
    let inside = |at: &&i64| holes.iter().any(|run| run.start < **at && **at < run.end);
    assert!(
        compacted_at.iter().filter(inside).count() >= 5,
        "{compacted_at:?}"
    );
}
