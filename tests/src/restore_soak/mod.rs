//! Restores whose worker is killed, stopped, frozen and replaced at random points while brokers die, stop and freeze and leaders move,
//! and what is then in the target: `cargo lab soak`, and in small a part of the test suite.
//!
//! # Guarantees
//! - The records are years old, so that brokers forget the producer by the batches' timestamps: idempotence protects nothing.
//! - A round is one restore. It ends with each record in the target once and in order, by Kafka's own consumer, or, only where a worker
//!   was frozen and went on beside its successor, with a worker that stopped as `DataCorrupt`. No other end is let pass.
//! - Each kind of fault begins a round in its turn; what comes behind it is random. What is counted has happened to a worker at work.

mod faults;
mod tally;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::kafka::Cluster;
use crate::lab::kafka_tools::{self as tools, Produce, Reading, Transactions};
use crate::lab::process::Paused;
use crate::lab::{Doing, Lab, LabError, parts};
use crate::soak::{Random, fail};
use crate::worker::{LOG, Worker, is_success, objects, report};
use faults::{Fault, Point};

pub use tally::{Event, Tally};

/// What brokers of a target are told beside the lab's own settings: to forget producers at once, and to notice soon that a broker is dead.
pub const FORGETFUL: &str = "producer.id.expiration.check.interval.ms=1000\nbroker.session.timeout.ms=4000\nbroker.heartbeat.interval.ms=500";

/// Old enough for brokers to forget who wrote it.
const LONG_AGO: i64 = 1_600_000_000_000;

/// The successor of a killed worker waits for so long.
const LEASE_SECS: &str = "2";

const TOPICS: [&str; 3] = ["plain", "lz4", "transactions"];
const RECORDS: u64 = 6000;

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
    run_until(lab, cluster, seed, rounds, &[])
}

/// Plays `rounds` rounds, and goes on while one of `events` has not happened: a fault may come when its restore has ended already.
///
/// # Errors
/// As [`run`]; an event has not happened in three times as many rounds.
pub fn run_until(
    lab: &Lab,
    cluster: &Cluster<'_>,
    seed: u64,
    rounds: u64,
    events: &[Event],
) -> Result<Tally, LabError> {
    println!("seed {seed}, {rounds} restores on cluster {}", cluster.name);
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let archive = Archive::make(lab, *cluster)?;
    for round in 0..3 * rounds {
        let played = archive.round(round, &mut random, &mut tally);
        played.map_err(|error| LabError::State(format!("seed {seed}, round {round}: {error}")))?;
        let is_last = round + 1 >= rounds && events.iter().all(|event| tally.count(*event) > 0);
        if round % 12 == 11 || is_last {
            println!("  {tally}");
        }
        if is_last {
            break;
        }
    }
    let missing: Vec<_> = events
        .iter()
        .filter(|event| tally.count(**event) == 0)
        .collect();
    if !missing.is_empty() {
        return Err(LabError::State(format!(
            "{missing:?} never happened: {tally}"
        )));
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
        let log = self.lab.log(LOG);
        let said_before = fs::metadata(&log).map_or(0, |found| found.len());
        let ended = restore.play(round, random, tally)?;
        let said = fs::read(&log).doing(|| format!("read {}", log.display()))?;
        let said = said.get(said_before as usize..).unwrap_or_default();
        for line in String::from_utf8_lossy(said).lines() {
            let again = line.contains("looked at again");
            let timed_out = again && line.contains("(7)");
            tally.add(Event::LookedAgain, u64::from(again));
            tally.add(Event::ProduceTimedOut, u64::from(timed_out));
        }
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
            tally.add(Event::StoppedAsCorrupt, 1);
            restore.is_not_done()?;
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

struct Restore<'a> {
    archive: &'a Archive<'a>,
    name: String,
    targets: &'a [String],
}

impl Restore<'_> {
    fn play(&self, round: u64, random: &mut Random, tally: &mut Tally) -> Result<End, LabError> {
        let brokers = self.archive.cluster.brokers(self.archive.lab);
        for attempt in 0..=random.below(3) {
            let fault = match attempt {
                0 => Fault::first(round, brokers),
                _ => Fault::later(random, brokers),
            };
            let point = fault.point(random, self.pieces()?);
            let mut worker = self.start(fault.pace())?;
            if !self.wait_for(point, &mut worker)? {
                tally.add(Event::Missed, 1);
                return self.succeeds(worker);
            }
            let ended = match fault {
                Fault::Kill => {
                    tally.add(Event::Killed, 1);
                    self.killed(worker)?
                }
                Fault::Terminate => {
                    tally.add(Event::Terminated, 1);
                    self.terminated(worker)?
                }
                Fault::Replace | Fault::ReplaceInFlight => {
                    Some(self.replaced(fault, worker, random, tally)?)
                }
                Fault::KillBroker
                | Fault::StopBroker
                | Fault::PauseBroker
                | Fault::PauseFollowers => self.without_brokers(fault, worker, random, tally)?,
                Fault::MoveLeaders => {
                    let moved = self.move_leaders()?;
                    match worker.has_ended() {
                        true => tally.add(Event::Missed, 1),
                        false => tally.add(Event::LeaderMoved, moved),
                    }
                    Some(self.succeeds(worker)?)
                }
            };
            if let Some(end) = ended {
                return Ok(end);
            }
        }
        self.succeeds(self.start(None)?)
    }

    /// A worker that writes at most so many records a second.
    fn start(&self, pace: Option<u64>) -> Result<Worker, LabError> {
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
        let pace = pace.map(|pace| pace.to_string());
        args.extend(pace.iter().flat_map(|pace| ["--records-per-second", pace]));
        Worker::start(archive.lab, &args)
    }

    /// Holds a worker up so that another one will be started.
    fn freeze(&self, worker: &Worker, tally: &mut Tally) -> Result<(), LabError> {
        let path = self.archive.folder.join(".lock");
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.doing(|| format!("open {}", path.display()))?;
        loop {
            worker.freeze()?;
            // On a volume nobody can write beside a frozen process that has the lock of the folder. That is not what is tried here.
            if lock.try_lock().is_ok() {
                break;
            }
            println!("  {}: frozen with the lock of the folder", self.name);
            worker.signal(Signal::SIGCONT)?;
            std::thread::sleep(Duration::from_millis(5));
        }
        tally.add(Event::Frozen, 1);
        Ok(())
    }

    /// A restore that was stopped as corrupt must not be told as done by anybody.
    fn is_not_done(&self) -> Result<(), LabError> {
        let done = format!("default/soak/restores/default.{}/done.json", self.name);
        match self.archive.folder.join(&done).exists() {
            true => fail(format!("a worker ended as corrupt, and there is {done}")),
            false => Ok(()),
        }
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

    /// A worker that is killed now; `None`: it was not done before.
    fn killed(&self, worker: Worker) -> Result<Option<End>, LabError> {
        worker.signal(Signal::SIGKILL)?;
        let (status, said) = worker.end()?;
        match (status.code(), is_success(&said)) {
            (None, false) if said.is_null() => Ok(None),
            // It was done before the signal came.
            (None | Some(0), true) => Ok(Some(End::Complete)),
            _ => fail(format!("killed, the worker said {status}, {said}")),
        }
    }

    /// A worker that is told to stop now; `None`: it was not done before.
    fn terminated(&self, worker: Worker) -> Result<Option<End>, LabError> {
        worker.signal(Signal::SIGTERM)?;
        let (status, said) = worker.end()?;
        match status.code() {
            Some(0) if is_success(&said) => Ok(Some(End::Complete)),
            Some(143) if !is_success(&said) => Ok(None),
            // The signal came before the worker had taken it over.
            None if said.is_null() => Ok(None),
            _ => fail(format!("told to stop, the worker said {status}, {said}")),
        }
    }

    /// Brokers go away, or freeze, and come back. Sometimes the worker is killed just before.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    fn without_brokers(
        &self,
        fault: Fault,
        mut worker: Worker,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<Option<End>, LabError> {
        let (lab, cluster) = (self.archive.lab, self.archive.cluster);
        let count = cluster.brokers(lab);
        let id = 1 + u16::try_from(random.below(u64::from(count))).unwrap_or(0);
        let lasts = fault.lasts(random);
        let mut paused = Vec::new();
        let event = match fault {
            Fault::KillBroker => {
                cluster.kill_broker(lab, id)?;
                Event::BrokerKilled
            }
            Fault::StopBroker => {
                cluster.stop_broker(lab, id)?;
                Event::BrokerStopped
            }
            Fault::PauseFollowers => {
                for other in (1..=count).filter(|other| *other != id) {
                    paused.push(cluster.pause_broker(lab, other)?);
                }
                Event::FollowersPaused
            }
            _ => {
                paused.push(cluster.pause_broker(lab, id)?);
                Event::BrokerPaused
            }
        };
        let missed = worker.has_ended();
        tally.add(if missed { Event::Missed } else { event }, 1);
        std::thread::sleep(lasts);
        let killed = random.below(4) == 0;
        if killed && !worker.has_ended() {
            tally.add(Event::KilledMeanwhile, 1);
        }
        let worker = match killed {
            true => Err(self.killed(worker)?),
            false => Ok(worker),
        };
        paused.into_iter().try_for_each(Paused::resume)?;
        if matches!(fault, Fault::KillBroker | Fault::StopBroker) {
            self.start_broker(id)?;
        }
        match worker {
            Ok(worker) => self.succeeds(worker).map(Some),
            Err(ended) => Ok(ended),
        }
    }

    /// Starts a broker again. On a busy machine one sometimes gives up before its own controller has answered it.
    fn start_broker(&self, id: u16) -> Result<(), LabError> {
        let (lab, cluster) = (self.archive.lab, self.archive.cluster);
        for _ in 0..2 {
            if cluster.start_broker(lab, id).is_ok() {
                return Ok(());
            }
            cluster.kill_broker(lab, id)?;
        }
        cluster.start_broker(lab, id)
    }

    /// Gives each partition of the targets another leader, and tells how many have one.
    fn move_leaders(&self) -> Result<u64, LabError> {
        let (lab, bootstrap) = (self.archive.lab, &self.archive.bootstrap);
        let mut moved = 0;
        for topic in self.targets {
            let before = tools::replicas(lab, bootstrap, topic)?;
            let wanted: Vec<String> = before
                .iter()
                .map(|replicas| {
                    let next = |broker: i32| broker.rem_euclid(3) + 1;
                    let (a, b) = (next(replicas.leader), next(next(replicas.leader)));
                    format!("{a}:{b}:{}", next(b))
                })
                .collect();
            let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
            tools::move_replicas(lab, bootstrap, topic, &wanted)?;
            let after = tools::replicas(lab, bootstrap, topic)?;
            let pairs = before.iter().zip(&after);
            moved += pairs.filter(|(a, b)| a.leader != b.leader).count() as u64;
        }
        Ok(moved)
    }

    /// The worker hangs, another one is started, and the first goes on beside it or after it.
    fn replaced(
        &self,
        fault: Fault,
        first: Worker,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<End, LabError> {
        let in_flight = fault == Fault::ReplaceInFlight;
        if in_flight {
            let (lab, cluster) = (self.archive.lab, self.archive.cluster);
            let all = (1..=cluster.brokers(lab)).map(|id| cluster.pause_broker(lab, id));
            let paused = all.collect::<Result<Vec<_>, _>>()?;
            // What it may send unanswered it has then sent.
            std::thread::sleep(fault.lasts(random));
            self.freeze(&first, tally)?;
            tally.add(Event::FrozenInFlight, 1);
            paused.into_iter().try_for_each(Paused::resume)?;
        } else {
            self.freeze(&first, tally)?;
        }
        let mut second = self.start(fault.pace())?;
        if in_flight || random.below(2) == 0 {
            let point = Point::Pieces(self.pieces()? + 1 + random.below(4) as usize);
            let at_work = self.wait_for(point, &mut second)?;
            first.signal(Signal::SIGCONT)?;
            tally.add(Event::ThawedBeside, u64::from(at_work));
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
            (false, false) if corrupt(&said) || corrupt(&late) => {
                println!(
                    "  {}: the frozen worker said {late}, its successor {said}",
                    self.name
                );
                Ok(End::Corrupt)
            }
            (false, false)
                if gave_way(late_status.code(), &late) && gave_way(status.code(), &said) =>
            {
                self.succeeds(self.start(None)?)
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
