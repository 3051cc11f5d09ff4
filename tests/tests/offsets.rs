//! Committed offsets of many groups, moved and given back by the worker while coordinators move and brokers restart, and by workers
//! that are killed; what came of it is what Kafka's own client and tool say. The clusters are this program's own; needs
//! `cargo lab up net`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kafka_backup_shared::archive::snapshot::{self, Snapshot};
use kafka_backup_tests::lab::Lab;
use kafka_backup_tests::lab::kafka::Cluster;
use kafka_backup_tests::lab::kafka_tools::{self as tools, Committed, Produce};
use kafka_backup_tests::worker::{Worker, is_success};
use nix::sys::signal::Signal;
use serde_json::Value;

/// Several coordinators, and brokers that are missed soon.
const EXTRA: &str = "offsets.topic.num.partitions=6\nbroker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500";
const ONE: Cluster<'_> = Cluster {
    name: "offsets-one",
    port: 9792,
    extra: EXTRA,
};
const THREE: Cluster<'_> = Cluster {
    name: "offsets-three",
    port: 9892,
    extra: EXTRA,
};

const GROUPS: usize = 200;
const TOPICS: usize = 20;
const PARTITIONS: u32 = 2;
/// Records in each partition.
const RECORDS: i64 = 30;
/// Groups whose run is killed at many points.
const KILLED: usize = 30;

/// One test at a time: the machine is small.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> (Lab, MutexGuard<'static, ()>) {
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    (Lab::open().unwrap(), turn)
}

/// What groups have committed, by group, topic and partition: offset, leader epoch and metadata.
type State = BTreeMap<(String, String, i32), (i64, Option<i32>, String)>;

/// A cluster with topics and groups, and the folder that snapshots are in.
struct Scene<'a> {
    lab: &'a Lab,
    bootstrap: String,
    folder: tempfile::TempDir,
    topics: Vec<String>,
    groups: Vec<String>,
}

impl<'a> Scene<'a> {
    /// A new cluster, in which each group has something on some of the topics.
    fn set(lab: &'a Lab, cluster: &Cluster<'_>, brokers: u16, groups: usize) -> Self {
        cluster.down(lab).unwrap();
        cluster.up(lab, brokers).unwrap();
        let scene = Self {
            lab,
            bootstrap: cluster.bootstrap(lab),
            folder: tempfile::tempdir().unwrap(),
            topics: (0..TOPICS).map(|n| format!("offsets-{n:02}")).collect(),
            groups: (0..groups).map(|n| format!("group-{n:03}")).collect(),
        };
        for topic in &scene.topics {
            let what = Produce {
                topic,
                partitions: PARTITIONS,
                records: u64::from(PARTITIONS) * RECORDS.unsigned_abs(),
                size: 20,
                ..Produce::default()
            };
            tools::produce(lab, &scene.bootstrap, &what).unwrap();
        }
        scene.commit(&scene.first());
        scene
    }

    /// What the groups have before anything is changed: none of it is at an end, and much is not there.
    fn first(&self) -> State {
        let mut state = State::new();
        for (n, group) in self.groups.iter().enumerate() {
            for (step, metadata) in [(0, ""), (7, "read by hand"), (13, "{\"at\":\"\u{e9}\"}")] {
                let topic = &self.topics[(n + step) % TOPICS];
                let partition = i32::from((n + step) % 3 == 0);
                let offset = i64::try_from((n * 5 + step) % 25).unwrap();
                let place = (group.clone(), topic.clone(), partition);
                let epoch = (n % 2 == 0).then_some(0);
                state.insert(place, (offset, epoch, metadata.to_owned()));
            }
        }
        state
    }

    /// The same moved to the ends.
    fn moved(&self) -> State {
        let first = self.first().into_iter();
        first
            .map(|(place, (.., metadata))| (place, (RECORDS, None, metadata)))
            .collect()
    }

    fn commit(&self, state: &State) {
        let committed = state.iter().map(|(place, committed)| {
            let (group, topic, partition) = place.clone();
            let (offset, leader_epoch, metadata) = committed.clone();
            Committed {
                group,
                topic,
                partition,
                offset,
                leader_epoch,
                metadata,
            }
        });
        let committed: Vec<_> = committed.collect();
        tools::commit_offsets(self.lab, &self.bootstrap, &committed).unwrap();
    }

    /// What groups have now, as Kafka's own client reads it.
    fn state_of(&self, groups: &[String]) -> State {
        let found = tools::committed_offsets(self.lab, &self.bootstrap, groups).unwrap();
        let found = found.into_iter().map(|one| {
            let place = (one.group, one.topic, one.partition);
            (place, (one.offset, one.leader_epoch, one.metadata))
        });
        found.collect()
    }

    fn state(&self) -> State {
        self.state_of(&self.groups)
    }

    fn assert_described(&self, state: &State) {
        let expected: BTreeMap<_, _> = state
            .iter()
            .map(|(place, (offset, ..))| (place.clone(), (*offset, RECORDS)))
            .collect();
        let found = tools::described(self.lab, &self.bootstrap).unwrap();
        assert_eq!(found, expected);
    }

    fn worker(&self, verb: &str, id: &str, more: &[&str]) -> Worker {
        let folder = self.folder.path().to_str().unwrap();
        let args = [
            "--output",
            "json",
            "offsets",
            verb,
            "--bootstrap-servers",
            &self.bootstrap,
            "--folder",
            folder,
            "--snapshot-id",
            id,
        ];
        Worker::start(self.lab, &[&args, more].concat()).unwrap()
    }

    /// Moves all offsets to the ends. A run of the same id is another attempt of it.
    fn reset(&self, id: &str) -> Worker {
        let run = format!("run-{id}");
        let groups = ["--consumer-groups", "group-*", "--strategy", "latest"];
        // One group after the other: there is a time when only some are changed.
        let how = ["--parallelism", "1", "--run", &run];
        self.worker("reset", id, &[groups, how].concat())
    }

    fn rollback(&self, id: &str) -> Worker {
        self.worker("rollback", id, &[])
    }

    fn verify(&self, id: &str) {
        let report = ended(self.worker("verify", id, &["--strict"]));
        assert_eq!(report["offsets"]["verification"]["matched"], true);
    }

    fn snapshot_file(&self, id: &str) -> PathBuf {
        self.folder.path().join(snapshot::key("default", id))
    }

    /// What a snapshot has; `None`: there is none. One that is there is whole.
    fn snapshot(&self, id: &str) -> Option<State> {
        let bytes = std::fs::read(self.snapshot_file(id)).ok()?;
        let snapshot = Snapshot::from_bytes(id, &bytes).unwrap();
        let mut state = State::new();
        for group in snapshot.groups {
            for (topic, offsets) in group.topics {
                for one in offsets {
                    let place = (group.group.clone(), topic.clone(), one.partition);
                    state.insert(place, (one.offset, one.leader_epoch, one.metadata));
                }
            }
        }
        Some(state)
    }
}

/// The report of a worker that must succeed.
fn ended(worker: Worker) -> Value {
    let (status, report) = worker.end().unwrap();
    assert!(status.success() && is_success(&report), "{status} {report}");
    report
}

#[track_caller]
fn assert_same(found: &State, expected: &State) {
    let differs = expected
        .iter()
        .filter(|(place, had)| found.get(place) != Some(had));
    let differs = differs.map(|(place, had)| (place, Some(had), found.get(place)));
    let added = found
        .iter()
        .filter(|(place, _)| !expected.contains_key(place));
    let added = added.map(|(place, has)| (place, None, Some(has)));
    let all: Vec<_> = differs.chain(added).collect();
    let some = &all[..all.len().min(3)];
    assert!(all.is_empty(), "{} places differ: {some:?}", all.len());
}

/// What happens in the middle of a run, while its worker is held up, and when it goes on.
struct Disturbance<'a> {
    paused: &'a dyn Fn(),
    resumed: &'a dyn Fn(),
}

/// Lets the worker come to where something is so, and disturbs it there.
fn disturb(
    mut worker: Worker,
    what: &str,
    reached: impl Fn() -> bool,
    disturbance: &Disturbance<'_>,
) -> Value {
    assert!(
        worker.until(what, || Ok(reached())).unwrap(),
        "the worker was too fast"
    );
    worker.signal(Signal::SIGSTOP).unwrap();
    (disturbance.paused)();
    worker.signal(Signal::SIGCONT).unwrap();
    (disturbance.resumed)();
    ended(worker)
}

/// All groups to the ends, some offsets more, and back to the very state.
fn there_and_back(scene: &Scene<'_>, reset: &Disturbance<'_>, rollback: &Disturbance<'_>) {
    let first = scene.first();
    assert_same(&scene.state(), &first);
    let kept = || scene.snapshot_file("before").exists();
    let report = disturb(scene.reset("before"), "the snapshot", kept, reset);
    assert_eq!(report["offsets"]["groupsDone"], scene.groups.len());
    assert_eq!(report["offsets"]["partitions"], first.len());
    assert_same(&scene.snapshot("before").unwrap(), &first);
    assert_same(&scene.state(), &scene.moved());
    scene.assert_described(&scene.moved());

    // What was not there must go.
    let added = |(n, group): (usize, &String)| {
        let topic = scene.topics[(n + 3) % TOPICS].clone();
        ((group.clone(), topic, 1), (1, None, "since".to_owned()))
    };
    let groups = scene.groups.iter().enumerate();
    let added: State = groups.step_by(10).map(added).collect();
    assert!(added.keys().all(|place| !first.contains_key(place)));
    scene.commit(&added);
    let one = &scene.groups[..1];
    let of_one = part(&first, &one[0]);
    let has_begun = || scene.state_of(one) == of_one;
    let report = disturb(scene.rollback("before"), "a group", has_begun, rollback);
    assert_eq!(report["offsets"]["verification"]["matched"], true);
    assert_eq!(report["offsets"]["partitions"], first.len() + added.len());
    assert_same(&scene.state(), &first);
    scene.assert_described(&first);
    scene.verify("before");
}

/// What a group has in `state`.
fn part(state: &State, group: &str) -> State {
    let own = state.iter().filter(|((of, ..), _)| of == group);
    own.map(|(place, had)| (place.clone(), had.clone()))
        .collect()
}

#[test]
fn groups_of_one_broker_go_there_and_back() {
    let (lab, _turn) = turn();
    let scene = Scene::set(&lab, &ONE, 1, GROUPS);
    // The coordinator of all groups is away for a while.
    let restarted = Disturbance {
        paused: &|| ONE.kill_broker(&lab, 1).unwrap(),
        resumed: &|| ONE.start_broker(&lab, 1).unwrap(),
    };
    let nothing = Disturbance {
        paused: &|| {},
        resumed: &|| {},
    };
    there_and_back(&scene, &nothing, &restarted);
    ONE.down(&lab).unwrap();
}

#[test]
fn groups_of_three_brokers_go_there_and_back_while_coordinators_move_and_brokers_restart() {
    let (lab, _turn) = turn();
    let scene = Scene::set(&lab, &THREE, 3, GROUPS);
    let moved = |leaders: [&str; 6]| {
        tools::move_replicas(&lab, &scene.bootstrap, "__consumer_offsets", &leaders).unwrap();
    };
    let (one, two, three) = ("1:2:3", "2:3:1", "3:1:2");
    let died = Disturbance {
        paused: &|| THREE.kill_broker(&lab, 1).unwrap(),
        resumed: &|| THREE.start_broker(&lab, 1).unwrap(),
    };
    let moving = Disturbance {
        paused: &|| moved([two, two, two, three, three, three]),
        resumed: &|| {
            moved([one, one, three, one, two, one]);
            THREE.stop_broker(&lab, 2).unwrap();
            THREE.start_broker(&lab, 2).unwrap();
        },
    };
    there_and_back(&scene, &died, &moving);
    THREE.down(&lab).unwrap();
}

/// When a worker is killed.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// So long after its start.
    Millis(u64),
    /// When the snapshot is there.
    Snapshot,
    /// When the group of that number is as it should be.
    Group(usize),
}

/// Kills the worker there, if it has not ended before.
fn kill_at(scene: &Scene<'_>, point: Point, mut worker: Worker, id: &str, goal: &State) {
    let start = Instant::now();
    let is_there = |number: usize| {
        let group = &scene.groups[number..=number];
        scene.state_of(group) == part(goal, &group[0])
    };
    worker
        .until("its end", || {
            Ok(match point {
                Point::Millis(millis) => start.elapsed() >= Duration::from_millis(millis),
                Point::Snapshot => scene.snapshot_file(id).exists(),
                Point::Group(number) => is_there(number),
            })
        })
        .unwrap();
    // It is killed when it is dropped, if it has not ended.
    drop(worker);
}

#[test]
fn killed_workers_leave_what_the_next_attempt_and_a_rollback_make_right() {
    let (lab, _turn) = turn();
    let scene = Scene::set(&lab, &ONE, 1, KILLED);
    let (first, moved) = (scene.first(), scene.moved());
    // How long a run takes here, without what is before it and after it.
    let start = Instant::now();
    ended(scene.reset("alone"));
    let reset = u64::try_from(start.elapsed().as_millis()).unwrap();
    let start = Instant::now();
    ended(scene.rollback("alone"));
    let rollback = u64::try_from(start.elapsed().as_millis()).unwrap();
    assert_same(&scene.state(), &first);

    let steps = |whole: u64| (1..=7).map(move |step| Point::Millis(whole * step / 8));
    let groups = |some: &'static [usize]| some.iter().map(|number| Point::Group(*number));
    let resets = [Point::Snapshot].into_iter();
    let resets = resets
        .chain(groups(&[0, 5, 12, 20, 28]))
        .chain(steps(reset));
    let rollbacks = groups(&[0, 1, 2, 5, 8, 16]).chain(steps(rollback));
    let (mut torn_resets, mut torn_rollbacks) = (0, 0);
    for (round, (at, back)) in resets.zip(rollbacks).enumerate() {
        let id = format!("killed-{round}");
        kill_at(&scene, at, scene.reset(&id), &id, &moved);
        let found = scene.state();
        let kept = scene.snapshot(&id);
        if let Some(kept) = &kept {
            assert_same(kept, &first);
        }
        if found != first {
            assert!(kept.is_some(), "{at:?}: changed without a snapshot");
            torn_resets += u32::from(found != moved);
        }
        ended(scene.reset(&id));
        assert_same(&scene.state(), &moved);
        assert_same(&scene.snapshot(&id).unwrap(), &first);

        kill_at(&scene, back, scene.rollback(&id), &id, &first);
        let found = scene.state();
        torn_rollbacks += u32::from(found != first && found != moved);
        assert_same(&scene.snapshot(&id).unwrap(), &first);
        // From the middle of a rollback as well as from its end: the reset goes on from the snapshot that it has taken.
        if round % 3 == 0 {
            ended(scene.reset(&id));
            assert_same(&scene.state(), &moved);
        }
        ended(scene.rollback(&id));
        assert_same(&scene.state(), &first);
        scene.verify(&id);
    }
    assert!(
        torn_resets > 0 && torn_rollbacks > 0,
        "{torn_resets} resets and {torn_rollbacks} rollbacks were killed in the middle"
    );
    scene.assert_described(&first);
    ONE.down(&lab).unwrap();
}
