//! Topics and groups with random lives, that are backed up and restored.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::backup_support::{
    Archive, TIMEOUT, blocking, bootstrap, create_topic, delete_records, name, producer,
};
use crate::group_support::*;
use kafka_backup_shared::plan::{CarryOverTarget, PartitionMove, Plan};
use kafka_backup_shared::spec::{Compression, TimeRange};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;

/// Numbers that follow from a seed (SplitMix64).
pub struct Dice(u64);

impl Dice {
    pub fn throw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.throw() % (high - low + 1) as u64) as i64
    }

    pub fn one_in(&mut self, of: i64) -> bool {
        self.between(1, of) == 1
    }

    pub fn pick<T: Copy>(&mut self, among: &[T]) -> T {
        among[self.between(0, among.len() as i64 - 1) as usize]
    }
}

/// A record of a history.
#[derive(Clone, Debug)]
pub struct Written {
    pub partition: i32,
    pub number: i64,
    pub key: Option<String>,
    pub value: Option<String>,
    pub time: i64,
}

impl Written {
    pub fn send(&self, producer: &BaseProducer, topic: &str) {
        let number = self.number.to_string();
        let header = Header {
            key: "number",
            value: Some(&number),
        };
        let mut record = BaseRecord::to(topic)
            .partition(self.partition)
            .timestamp(self.time)
            .headers(OwnedHeaders::new().insert(header));
        record.key = self.key.as_deref();
        record.payload = self.value.as_deref();
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
}

/// What happens to a topic.
#[derive(Clone, Debug)]
pub enum Step {
    Batch(&'static str, Vec<Written>),
    Committed(Vec<Written>),
    Aborted(Vec<Written>),
}

/// A topic's life, and how it is backed up and restored.
#[derive(Debug)]
pub struct History {
    pub partitions: i32,
    pub steps: Vec<Step>,
    /// Steps before the first of two runs.
    pub first_run: Option<usize>,
    pub open: Vec<Written>,
    pub compression: Compression,
    pub segment_max_bytes: u32,
    /// Source partition to target partition.
    pub moves: Vec<i32>,
    pub renamed: bool,
    pub time: TimeRange,
    pub headers: bool,
}

impl History {
    pub fn new(dice: &mut Dice, oldest: i64) -> Self {
        let partitions = dice.between(1, 3) as i32;
        let mut number = 0;
        let mut some = |dice: &mut Dice, partition: Option<i32>| -> Vec<Written> {
            let count = dice.pick(&[1, 1, 2, 5, 12, 30]);
            let one = |_| {
                number += 1;
                Written {
                    partition: partition
                        .unwrap_or_else(|| dice.between(0, i64::from(partitions) - 1) as i32),
                    number,
                    key: (!dice.one_in(5)).then(|| format!("key-{}", dice.between(0, 20))),
                    value: (!dice.one_in(10))
                        .then(|| format!("{number};").repeat(dice.pick(&[0, 1, 10, 200]))),
                    time: oldest + dice.between(0, 1_000_000),
                }
            };
            (0..count).map(one).collect()
        };
        let codecs = ["none", "gzip", "snappy", "lz4", "zstd"];
        let steps = (0..dice.between(3, 9)).map(|_| match dice.between(0, 5) {
            0 | 1 => Step::Committed(some(dice, None)),
            2 => Step::Aborted(some(dice, None)),
            _ => {
                let partition = dice.between(0, i64::from(partitions) - 1) as i32;
                Step::Batch(dice.pick(&codecs), some(dice, Some(partition)))
            }
        });
        let steps: Vec<Step> = steps.collect();
        let open = match dice.one_in(3) {
            true => some(dice, None),
            false => vec![],
        };
        let shift = dice.between(0, i64::from(partitions)) as i32;
        let moves = (0..partitions).map(|p| match dice.one_in(2) {
            // One that is not written is left in the target.
            true => p + shift,
            false => (p + shift) % partitions,
        });
        let moves: Vec<i32> = moves.collect();
        let is_clear = moves.iter().collect::<BTreeSet<_>>().len() == moves.len();
        let bound = |dice: &mut Dice| {
            let is_set = dice.one_in(3);
            is_set.then(|| oldest + dice.between(200_000, 800_000))
        };
        let (start_ms, end_ms) = (bound(dice), bound(dice));
        Self {
            partitions,
            first_run: dice
                .one_in(2)
                .then(|| dice.between(0, steps.len() as i64) as usize),
            steps,
            open,
            compression: dice.pick(&[
                Compression::Source,
                Compression::Source,
                Compression::Zstd,
                Compression::None,
            ]),
            segment_max_bytes: dice.pick(&[2 << 10, 16 << 10, 256 << 10]),
            moves: match is_clear {
                true => moves,
                false => (0..partitions).collect(),
            },
            renamed: dice.one_in(2),
            time: TimeRange {
                start_ms,
                end_ms: end_ms.filter(|end| start_ms.is_none_or(|start| start <= *end)),
            },
            headers: dice.one_in(3),
        }
    }
}

pub fn take(steps: &[Step], topic: &str, transactional: &BaseProducer) {
    let mut plain: BTreeMap<&str, BaseProducer> = BTreeMap::new();
    for step in steps {
        let (records, commits) = match step {
            Step::Batch(codec, records) => {
                let settings = [("compression.type", *codec), ("linger.ms", "50")];
                let producer = plain.entry(codec).or_insert_with(|| producer(&settings));
                records.iter().for_each(|one| one.send(producer, topic));
                producer.flush(TIMEOUT).unwrap();
                continue;
            }
            Step::Committed(records) => (records, true),
            Step::Aborted(records) => (records, false),
        };
        transactional.begin_transaction().unwrap();
        records
            .iter()
            .for_each(|one| one.send(transactional, topic));
        transactional.flush(TIMEOUT).unwrap();
        match commits {
            true => transactional.commit_transaction(TIMEOUT).unwrap(),
            false => transactional.abort_transaction(TIMEOUT).unwrap(),
        }
    }
}

/// Log start and high watermark of the source's partitions.
pub async fn ends(topic: &str, partitions: i32) -> Vec<(i64, i64)> {
    let topic = topic.to_owned();
    blocking(move || {
        let consumer: BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .set("isolation.level", "read_uncommitted")
            .create()
            .unwrap();
        let ends = (0..partitions).map(|p| consumer.fetch_watermarks(&topic, p, TIMEOUT).unwrap());
        ends.collect()
    })
    .await
}

pub async fn groups_of_any_history_read_on(seed: u64) {
    let mut dice = Dice(seed);
    let oldest = an_hour_ago();
    let history = History::new(&mut dice, oldest);
    let what = format!("seed {seed:#x}, {history:?}");
    let archive = Archive::new();
    let (topic, prefix) = (name("carry-over-any"), name("carry-over-any-group"));
    let partitions = history.partitions;
    create_topic(&topic, partitions, &[]).await;
    let transactional = {
        let id = name("carry-over-producer");
        let new = blocking(move || {
            let transactional = producer(&[("transactional.id", &id)]);
            transactional.init_transactions(TIMEOUT).unwrap();
            transactional
        });
        Arc::new(new.await)
    };
    let write_steps = async |steps: &[Step]| {
        let (steps, topic) = (steps.to_vec(), topic.clone());
        let transactional = transactional.clone();
        blocking(move || take(&steps, &topic, &transactional)).await;
    };
    let selected = format!("{prefix}-*");
    let captured = async |run: &str| {
        let mut plan = backup(Side::Source, run, [&topic], &selected);
        plan.compression = history.compression;
        plan.segments.segment_max_bytes = history.segment_max_bytes;
        done(&archive, Plan::Backup(plan)).await.unwrap();
    };
    let (before, after) = history.steps.split_at(history.first_run.unwrap_or(0));
    write_steps(before).await;
    if history.first_run.is_some() {
        captured(FIRST).await;
    }
    write_steps(after).await;
    if !history.open.is_empty() {
        let (open, topic) = (history.open.clone(), topic.clone());
        let transactional = transactional.clone();
        blocking(move || {
            transactional.begin_transaction().unwrap();
            open.iter().for_each(|one| one.send(&transactional, &topic));
            transactional.flush(TIMEOUT).unwrap();
        })
        .await;
    }
    let ends = ends(&topic, partitions).await;
    let mut groups = Groups::new();
    for n in 0..4 {
        let mut positions = Vec::new();
        for (partition, (_, end)) in (0..).zip(&ends) {
            match dice.between(0, 7) {
                0 => {}
                1 => positions.push((topic.clone(), partition, *end)),
                2 => positions.push((topic.clone(), partition, 0)),
                _ => positions.push((topic.clone(), partition, dice.between(0, *end))),
            }
        }
        if !positions.is_empty() {
            groups.insert(format!("{prefix}-{n}"), positions);
        }
    }
    commit(&groups).await;
    if dice.one_in(3) {
        let partition = dice.between(0, i64::from(partitions) - 1) as i32;
        let (_, end) = ends[partition as usize];
        // Behind the last stable offset nothing can be deleted.
        let stable = history.open.iter().all(|one| one.partition != partition);
        if stable && end > 0 {
            delete_records(&topic, partition, dice.between(1, end)).await;
        }
    }
    captured(SECOND).await;
    if !history.open.is_empty() {
        let transactional = transactional.clone();
        blocking(move || transactional.abort_transaction(TIMEOUT).unwrap()).await;
    }
    let mut logs = BTreeMap::new();
    for partition in 0..partitions {
        let log = log_of(Side::Source, &topic, partition).await;
        logs.insert((topic.clone(), partition), log);
    }
    let expected = expected(&groups, &logs, history.time);

    let target = match history.renamed {
        true => format!("{topic}-renamed"),
        false => topic.clone(),
    };
    let names: Names = [(topic.clone(), target.clone())].into();
    let mut plan = restore(Side::Target, &names, CarryOverTarget::FromBackup);
    let moves = (0..).zip(&history.moves);
    let moves = moves
        .filter(|(source, target)| source != *target)
        .map(|(source, target)| PartitionMove {
            source,
            target: *target,
        });
    let moves: Vec<PartitionMove> = moves.collect();
    if !moves.is_empty() {
        plan.request.partition_mapping = [(topic.clone(), moves)].into();
    }
    plan.request.time = history.time;
    plan.request.include_original_offset_header = history.headers.then_some(true);
    let report = done(&archive, Plan::Restore(plan)).await;
    let report = report.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
    let offsets = report.offsets.unwrap();
    assert_eq!(offsets.groups_done as usize, groups.len(), "{what}");
    let moved = |partition: i32| history.moves[partition as usize];
    assert_goes_on(Side::Target, &names, moved, &expected, &what).await;
    // Where a group had committed nothing, it has nothing.
    for (group, found) in all_committed(Side::Target, groups.keys()).await {
        let found: BTreeSet<(String, i32)> = found
            .iter()
            .map(|one| (one.topic.to_string(), one.partition))
            .collect();
        let meant = groups[&group].iter();
        let meant: BTreeSet<(String, i32)> = meant
            .map(|(_, partition, _)| (target.clone(), moved(*partition)))
            .collect();
        assert_eq!(found, meant, "{what}: {group}");
    }
    assert_new_records_are_next(Side::Target, &names, moved, &expected, &what).await;
}
