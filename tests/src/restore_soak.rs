//! Restores whose worker is killed, stopped, paused and replaced at random points while brokers die and leaders move, and what is then
//! in the target: `cargo lab soak`, and in small a part of the test suite.
//!
//! # Guarantees
//! - The records are years old, so that brokers forget the producer by the batches' timestamps: idempotence protects nothing.
//! - A round is one restore. It ends with each record in the target once and in order, by Kafka's own consumer, or, only where a worker
//!   was paused and went on beside its successor, with a worker that stopped as `DataCorrupt`. No other end is let pass.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::kafka::Cluster;
use crate::lab::kafka_tools::{self as tools, Produce, Reading, Transactions};
use crate::lab::{Doing, Lab, LabError, parts};
use crate::soak::{Random, fail};
use crate::worker::{Worker, is_success, objects, report};

/// What brokers of a target are told beside the lab's own settings: to forget producers at once.
pub const FORGETFUL: &str = "producer.id.expiration.check.interval.ms=1000";

/// Old enough for brokers to forget who wrote it.
const LONG_AGO: i64 = 1_600_000_000_000;

/// The successor of a killed worker waits for so long.
const LEASE_SECS: &str = "2";

const TOPICS: [&str; 3] = ["plain", "lz4", "transactions"];
const RECORDS: u64 = 6000;

/// What happened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub rounds: u64,
    pub killed: u64,
    pub terminated: u64,
    pub replaced: u64,
    /// Brokers killed and started again.
    pub brokers: u64,
    /// Rounds that a worker ended as corrupt, since a paused one had written after its successor.
    pub stopped: u64,
    /// Records compared, all rounds together.
    pub records: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} restores: {} workers killed, {} told to stop, {} replaced while paused, {} brokers killed; {} stopped as corrupt; \
             {} records compared, none lost, none doubled",
            self.rounds,
            self.killed,
            self.terminated,
            self.replaced,
            self.brokers,
            self.stopped,
            self.records
        )
    }
}

/// An archive of topics of a cluster that is restored into the same cluster under other names.
struct Archive<'a> {
    lab: &'a Lab,
    cluster: Cluster<'a>,
    bootstrap: String,
    folder: PathBuf,
    topics: [String; TOPICS.len()],
}

/// Plays `rounds` rounds on `cluster`, which must be up.
///
/// # Errors
/// The lab fails, or the worker does not keep what is promised: the message names seed and round.
pub fn run(lab: &Lab, cluster: &Cluster<'_>, seed: u64, rounds: u64) -> Result<Tally, LabError> {
    println!("seed {seed}, {rounds} restores on cluster {}", cluster.name);
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let archive = Archive::make(lab, *cluster)?;
    for round in 0..rounds {
        let played = archive.round(round, &mut random, &mut tally);
        played.map_err(|error| LabError::State(format!("seed {seed}, round {round}: {error}")))?;
        if round % 12 == 11 || round == rounds - 1 {
            println!("  {tally}");
        }
    }
    let topics: Vec<&str> = archive.topics.iter().map(String::as_str).collect();
    tools::delete_topics(lab, &archive.bootstrap, &topics)?;
    parts::remove(&archive.folder)?;
    Ok(tally)
}

impl<'a> Archive<'a> {
    fn make(lab: &'a Lab, cluster: Cluster<'a>) -> Result<Self, LabError> {
        let folder = lab.state(&format!("restore-soak-{}", cluster.name));
        parts::remove(&folder)?;
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        let unique = std::process::id();
        let archive = Self {
            lab,
            cluster,
            bootstrap: cluster.bootstrap(lab),
            folder,
            topics: TOPICS.map(|kind| format!("soaked-{unique}-{kind}")),
        };
        for (topic, kind) in archive.topics.iter().zip(TOPICS) {
            let id = format!("{topic}-id");
            let transactions = Transactions {
                id: &id,
                records: 100,
                abort_every: 3,
            };
            let what = Produce {
                topic,
                partitions: 3,
                records: RECORDS,
                compression: if kind == "lz4" { "lz4" } else { "none" },
                transactions: (kind == "transactions").then_some(transactions),
                timestamps: Some((LONG_AGO, 10)),
                create: Some(&[("retention.ms", "-1")]),
                producer_config: &[("batch.size", "16384")],
                ..Produce::default()
            };
            tools::produce(lab, &archive.bootstrap, &what)?;
        }
        let (topics, place) = (archive.topics.join(","), archive.place());
        let mut args = vec!["backup", "--name", "soak", "--topics", &topics];
        args.extend([
            "--bootstrap-servers",
            &archive.bootstrap,
            "--folder",
            &place,
        ]);
        args.extend(["--segment-max-bytes", "262144"]);
        report(lab, &args)?;
        Ok(archive)
    }

    fn place(&self) -> String {
        self.folder.display().to_string()
    }

    fn round(&self, round: u64, random: &mut Random, tally: &mut Tally) -> Result<(), LabError> {
        let targets: Vec<String> = self
            .topics
            .iter()
            .map(|it| format!("{it}-{round}"))
            .collect();
        let restore = Restore {
            archive: self,
            name: format!("soak-{round}"),
            targets: &targets,
        };
        let ended = restore.play(random, tally)?;
        if ended == End::Complete {
            let pairs = self.topics.iter().zip(&targets);
            let pairs: Vec<(&str, &str)> = pairs.map(|(a, b)| (a.as_str(), b.as_str())).collect();
            let reading = Reading {
                committed_only: true,
                ..Reading::default()
            };
            let found =
                tools::compare(self.lab, &self.bootstrap, &self.bootstrap, &pairs, reading)?;
            if !found.equal {
                return fail(format!("the target is not what the source is: {found:?}"));
            }
            tally.records += found.topics.iter().map(|topic| topic.records).sum::<u64>();
        } else {
            tally.stopped += 1;
        }
        tally.rounds += 1;
        let there = tools::list_topics(self.lab, &self.bootstrap)?;
        let made = targets.iter().filter(|topic| there.contains(topic));
        let made: Vec<&str> = made.map(String::as_str).collect();
        tools::delete_topics(self.lab, &self.bootstrap, &made)
    }
}

/// How a restore ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Complete,
    /// A worker has said that something else writes to the target.
    Corrupt,
}

/// When something happens to a worker.
#[derive(Debug, Clone, Copy)]
enum Point {
    Millis(u64),
    /// When it has stored so many pieces of the offset map.
    Pieces(usize),
}

struct Restore<'a> {
    archive: &'a Archive<'a>,
    name: String,
    targets: &'a [String],
}

impl Restore<'_> {
    fn play(&self, random: &mut Random, tally: &mut Tally) -> Result<End, LabError> {
        for _ in 0..random.below(3) + 1 {
            let point = match random.below(3) {
                0 => Point::Millis(random.below(400)),
                _ => Point::Pieces(self.pieces()? + 1 + random.below(8) as usize),
            };
            let mut worker = self.start()?;
            if !self.wait_for(point, &mut worker)? {
                return self.succeeds(worker);
            }
            match random.below(8) {
                0 => {
                    tally.terminated += 1;
                    worker.signal(Signal::SIGTERM)?;
                    let (status, said) = worker.end()?;
                    match status.code() {
                        Some(0) if is_success(&said) => return Ok(End::Complete),
                        Some(143) if !is_success(&said) => {}
                        // The signal came before the worker had taken it over.
                        None if said.is_null() => {}
                        _ => {
                            return fail(format!("told to stop, the worker said {status}, {said}"));
                        }
                    }
                }
                1 => {
                    tally.replaced += 1;
                    return self.replaced(worker, random);
                }
                2 | 3 => {
                    tally.brokers += 1;
                    let id =
                        1 + random.below(u64::from(self.archive.cluster.brokers(self.archive.lab)));
                    let id = u16::try_from(id).unwrap_or(1);
                    self.archive.cluster.kill_broker(self.archive.lab, id)?;
                    std::thread::sleep(Duration::from_millis(random.below(1500)));
                    self.archive.cluster.start_broker(self.archive.lab, id)?;
                    return self.succeeds(worker);
                }
                _ => {
                    tally.killed += 1;
                    worker.signal(Signal::SIGKILL)?;
                    let (status, said) = worker.end()?;
                    match (status.code(), is_success(&said)) {
                        (None, false) if said.is_null() => {}
                        // It was done before the signal came.
                        (None | Some(0), true) => return Ok(End::Complete),
                        _ => {
                            return fail(format!(
                                "killed at {point:?}, the worker said {status}, {said}"
                            ));
                        }
                    }
                }
            }
        }
        self.succeeds(self.start()?)
    }

    fn start(&self) -> Result<Worker, LabError> {
        let (archive, place) = (self.archive, self.archive.place());
        let topics = archive.topics.join(",");
        let mapping: Vec<String> = archive
            .topics
            .iter()
            .zip(self.targets)
            .map(|(from, to)| format!("{from}={to}"))
            .collect();
        let mapping = mapping.join(",");
        let mut args = vec!["restore", "--name", &self.name, "--backup-id", "latest"];
        args.extend(["--topics", &topics, "--topic-mapping", &mapping]);
        args.extend([
            "--bootstrap-servers",
            &archive.bootstrap,
            "--folder",
            &place,
        ]);
        args.extend(["--lease-secs", LEASE_SECS, "--output", "json"]);
        Worker::start(archive.lab, &args)
    }

    /// A worker that nobody stops, and that shares the target with nobody.
    fn succeeds(&self, worker: Worker) -> Result<End, LabError> {
        let (status, said) = worker.end()?;
        match status.success() && is_success(&said) {
            true => Ok(End::Complete),
            false => fail(format!(
                "a worker that nobody stopped said {status}, {said}"
            )),
        }
    }

    /// The worker hangs, another one is started, and the first goes on beside it or after it.
    fn replaced(&self, first: Worker, random: &mut Random) -> Result<End, LabError> {
        first.signal(Signal::SIGSTOP)?;
        let mut second = self.start()?;
        let beside = random.below(2) == 0;
        if beside {
            let point = Point::Pieces(self.pieces()? + 1 + random.below(4) as usize);
            self.wait_for(point, &mut second)?;
            first.signal(Signal::SIGCONT)?;
        }
        let (status, said) = second.end()?;
        first.signal(Signal::SIGCONT)?;
        let (late_status, late) = first.end()?;
        let corrupt = |said: &Value| said["fault"] == "Corrupt";
        let second_done = status.success() && is_success(&said);
        let first_done = late_status.success() && is_success(&late);
        // Whoever did not complete it was told to make room, or saw that the other one writes.
        let gave_way = |status: Option<i32>, said: &Value| {
            status == Some(69) || (status == Some(65) && corrupt(said))
        };
        match (first_done, second_done) {
            (true, true) => Ok(End::Complete),
            (false, true) if gave_way(late_status.code(), &late) => Ok(End::Complete),
            (true, false) if gave_way(status.code(), &said) => Ok(End::Complete),
            (false, false) if corrupt(&said) || corrupt(&late) => Ok(End::Corrupt),
            (false, false)
                if gave_way(late_status.code(), &late) && gave_way(status.code(), &said) =>
            {
                self.succeeds(self.start()?)
            }
            _ => fail(format!(
                "the paused worker said {late_status}, {late}; its successor {status}, {said}"
            )),
        }
    }

    /// False where the worker ended before.
    fn wait_for(&self, point: Point, worker: &mut Worker) -> Result<bool, LabError> {
        let start = Instant::now();
        worker.until(&format!("{point:?}"), || {
            Ok(match point {
                Point::Millis(ms) => start.elapsed() >= Duration::from_millis(ms),
                Point::Pieces(count) => self.pieces()? >= count,
            })
        })
    }

    /// Pieces of the offset map that are stored.
    fn pieces(&self) -> Result<usize, LabError> {
        let folder = format!("default/soak/restores/default.{}/topics", self.name);
        let folder = self.archive.folder.join(folder);
        match folder.exists() {
            true => Ok(objects(&folder)?.len()),
            false => Ok(0),
        }
    }
}
