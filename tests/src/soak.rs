//! Backups whose worker is killed, stopped, paused and replaced at random points, and what is left of them: `cargo lab soak`, and in
//! small a part of the test suite.
//!
//! # Guarantees
//! - A round is one run of new records. It ends when the run is complete and the archive holds, record by record and at the same
//!   offsets, what Kafka's own consumer reads.
//! - A worker that did not complete its run has not said so, by exit code or report; one that said so has written the manifest.
//! - The seed decides all that is decided here. What a worker has done when a signal reaches it is the machine's affair.

pub mod beside;

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::kafka::Cluster;
use crate::lab::kafka_tools::{self as tools, Produce, Reading, Transactions};
use crate::lab::{Doing, Lab, LabError, parts, wait_for};
use crate::worker::{Worker, is_success, objects};

/// Rounds on the same topics and archive; then new ones, so that the last round takes no longer than the first.
const ERA: u64 = 12;

/// What happened.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub rounds: u64,
    pub killed: u64,
    pub terminated: u64,
    pub replaced: u64,
    /// Records compared, all rounds together.
    pub records: u64,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds: {} workers killed, {} told to stop, {} replaced while paused; {} records compared, none lost, none doubled",
            self.rounds, self.killed, self.terminated, self.replaced, self.records
        )
    }
}

/// Plays `rounds` rounds and prints one line for each era.
///
/// # Errors
/// The lab fails, or the worker does not keep what is promised: the message names seed, round and attempt.
pub fn run(lab: &Lab, cluster: &Cluster<'_>, seed: u64, rounds: u64) -> Result<Tally, LabError> {
    println!("seed {seed}, {rounds} rounds on cluster {}", cluster.name);
    let mut random = Random(seed);
    let mut tally = Tally::default();
    let mut era: Option<Era<'_>> = None;
    for round in 0..rounds {
        let mut current = match era.take() {
            Some(era) => era,
            None => Era::begin(lab, cluster, round / ERA)?,
        };
        // Where it fails, archive and topics are left to look at.
        current
            .round(round, &mut random, &mut tally)
            .map_err(|error| LabError::State(format!("seed {seed}, round {round}: {error}")))?;
        if round % ERA == ERA - 1 || round == rounds - 1 {
            println!("  {tally}");
            current.end()?;
        } else {
            era = Some(current);
        }
    }
    Ok(tally)
}

/// SplitMix64: enough to choose with, and the same everywhere.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// One of the numbers below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % limit
    }
}

/// When a worker is interrupted.
#[derive(Debug, Clone, Copy)]
enum Point {
    /// So long after its start.
    Millis(u64),
    /// When it has created so many objects.
    Objects(usize),
    /// When the run's folder has such an object.
    Seen(&'static str),
}

impl Point {
    /// One that a worker with so many objects before it probably comes to.
    fn choose(random: &mut Random, left: usize) -> Self {
        match random.below(10) {
            0..=2 => Self::Millis(random.below(200)),
            3 => Self::Seen("begin.json"),
            4 => Self::Seen(".json.zst"),
            5 => Self::Seen("manifest.json"),
            _ => Self::Objects(1 + random.below(1 + left as u64 / 2) as usize),
        }
    }
}

/// Topics with an archive of their own.
struct Era<'a> {
    lab: &'a Lab,
    bootstrap: String,
    folder: PathBuf,
    topics: [String; 4],
    /// Objects that the newest run made.
    objects: usize,
}

const PLAIN: usize = 0;
const LZ4: usize = 1;
const TRANSACTIONS: usize = 2;
const COMPACTED: usize = 3;

impl<'a> Era<'a> {
    fn begin(lab: &'a Lab, cluster: &Cluster<'_>, number: u64) -> Result<Self, LabError> {
        let folder = lab.state(&format!("soak-{}", cluster.name));
        parts::remove(&folder)?;
        fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        let unique = format!("{}-{number}", std::process::id());
        let era = Self {
            lab,
            bootstrap: cluster.bootstrap(lab),
            folder,
            topics: ["plain", "lz4", "transactions", "compacted"]
                .map(|kind| format!("soak-{unique}-{kind}")),
            objects: 40,
        };
        for topic in &era.topics[..COMPACTED] {
            tools::create_topic(lab, &era.bootstrap, topic, 2, &[])?;
        }
        era.compact()?;
        Ok(era)
    }

    fn end(self) -> Result<(), LabError> {
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        tools::delete_topics(self.lab, &self.bootstrap, &topics)?;
        parts::remove(&self.folder)
    }

    /// A topic that the broker has compacted, and leaves alone from now on.
    fn compact(&self) -> Result<(), LabError> {
        let topic = &self.topics[COMPACTED];
        let config = [
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0.001"),
            ("segment.ms", "100"),
        ];
        tools::create_topic(self.lab, &self.bootstrap, topic, 2, &config)?;
        // The same keys twice, then whatever makes the broker roll its segments.
        let mut written = 0;
        for first in [0, 0] {
            written += self.produce(COMPACTED, first, 500)?;
        }
        let mut tick = 500;
        wait_for("the broker to compact", Duration::from_secs(60), || {
            let ticked = self.produce(COMPACTED, tick, 2).unwrap_or_default();
            written += ticked;
            tick += ticked;
            let pair = [(topic.as_str(), topic.as_str())];
            let own = (&*self.bootstrap, &*self.bootstrap);
            tools::compare(self.lab, own.0, own.1, &pair, Reading::default())
                .is_ok_and(|found| found.topics[0].records < written - 300)
        })?;
        let leave = [("min.compaction.lag.ms", "9223372036854775807")];
        tools::alter_topic(self.lab, &self.bootstrap, topic, &leave)
    }

    /// Writes records and tells how many a consumer gets of them.
    fn produce(&self, topic: usize, first: u64, records: u64) -> Result<u64, LabError> {
        let id = format!("{}-id", self.topics[topic]);
        let transactions = Transactions {
            id: &id,
            records: 40,
            abort_every: 3,
        };
        let what = Produce {
            topic: &self.topics[topic],
            partitions: 2,
            records,
            first,
            compression: if topic == LZ4 { "lz4" } else { "none" },
            null_keys_every: if topic == COMPACTED { 0 } else { 17 },
            transactions: (topic == TRANSACTIONS).then_some(transactions),
            create: None,
            producer_config: &[("batch.size", "16384")],
            ..Produce::default()
        };
        Ok(tools::produce(self.lab, &self.bootstrap, &what)?.records)
    }

    fn round(
        &mut self,
        round: u64,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<(), LabError> {
        let in_era = round % ERA;
        let mut written = 0;
        for (topic, records) in [
            (PLAIN, 800),
            (LZ4, 800),
            (TRANSACTIONS, 600),
            (COMPACTED, 200),
        ] {
            written += self.produce(topic, 1000 + in_era * records, records)?;
        }
        let before = objects(&self.folder)?.len();
        let run = Run {
            era: self,
            id: format!("soak-20260101-{in_era:06}"),
            end: before + self.objects,
        };
        let mut report = None;
        for attempt in 0..random.below(4) + 2 {
            let ended = run.interrupted(random, tally);
            report =
                ended.map_err(|error| LabError::State(format!("attempt {attempt}: {error}")))?;
            if report.is_some() {
                break;
            }
        }
        let report = match report {
            Some(report) => report,
            None => run.succeeds(run.start()?)?,
        };
        // Of the first run also what was there before.
        if in_era > 0 && report["records"] != written {
            return fail(format!(
                "{written} records were written; the report is {report}"
            ));
        }
        let topics: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let committed = Reading {
            committed_only: true,
            ..Reading::default()
        };
        let archive = self.folder.join("default/soak");
        let found = tools::compare_with_archive(
            self.lab,
            &self.bootstrap,
            &archive,
            &run.id,
            &topics,
            committed,
        )?;
        if !found.equal {
            return fail(format!(
                "the archive is not what a consumer reads: {found:?}"
            ));
        }
        tally.rounds += 1;
        tally.records += found.topics.iter().map(|topic| topic.records).sum::<u64>();
        self.objects = objects(&run.era.folder)?.len() - before;
        Ok(())
    }
}

pub(crate) fn fail<T>(message: String) -> Result<T, LabError> {
    Err(LabError::State(message))
}

/// One run, in however many attempts.
struct Run<'a> {
    era: &'a Era<'a>,
    id: String,
    /// Objects that there will be at its end, or so.
    end: usize,
}

impl Run<'_> {
    fn start(&self) -> Result<Worker, LabError> {
        let folder = self.era.folder.display().to_string();
        let topics = self.era.topics.join(",");
        let args = [
            ["backup", "--name", "soak", "--run", &self.id],
            [
                "--folder",
                &folder,
                "--topics",
                &topics,
                "--bootstrap-servers",
            ],
            [
                &self.era.bootstrap,
                "--segment-max-bytes",
                "65536",
                "--output",
                "json",
            ],
        ];
        Worker::start(self.era.lab, args.as_flattened())
    }

    /// The report of a worker that nobody stops.
    fn succeeds(&self, worker: Worker) -> Result<Value, LabError> {
        let (status, said) = worker.end()?;
        let complete = self.is_complete();
        if status.success() && complete && is_success(&said) {
            return Ok(said);
        }
        fail(format!(
            "a worker that nobody stopped said {status}, {said}; manifest: {complete}"
        ))
    }

    /// One attempt that is interrupted, or is done before; its report, where it completed the run.
    fn interrupted(
        &self,
        random: &mut Random,
        tally: &mut Tally,
    ) -> Result<Option<Value>, LabError> {
        let point = self.choose(random)?;
        let mut worker = self.start()?;
        if !self.wait_for(point, &mut worker)? {
            return self.succeeds(worker).map(Some);
        }
        match random.below(6) {
            0 => {
                tally.terminated += 1;
                worker.signal(Signal::SIGTERM)?;
                self.terminated(worker)
            }
            1 => {
                tally.replaced += 1;
                self.replaced(worker, random).map(Some)
            }
            _ => {
                tally.killed += 1;
                worker.signal(Signal::SIGKILL)?;
                let (status, said) = worker.end()?;
                match (status.code(), is_success(&said)) {
                    (None, false) if said.is_null() => Ok(None),
                    // It was done before the signal came.
                    (None | Some(0), true) if self.is_complete() => Ok(Some(said)),
                    _ => fail(format!(
                        "killed at {point:?}, the worker said {status}, {said}"
                    )),
                }
            }
        }
    }

    /// What SIGTERM must lead to: an end in order within the grace period.
    fn terminated(&self, worker: Worker) -> Result<Option<Value>, LabError> {
        let asked = Instant::now();
        let (status, said) = worker.end()?;
        if asked.elapsed() > Duration::from_secs(30) {
            return fail(format!(
                "told to stop, the worker took {:?}",
                asked.elapsed()
            ));
        }
        match (status.code(), is_success(&said)) {
            (Some(0), true) if self.is_complete() => Ok(Some(said)),
            (Some(143), false) if !self.is_complete() => Ok(None),
            // The signal came before the worker had taken it over.
            (None, false) if said.is_null() => Ok(None),
            _ => fail(format!("told to stop, the worker said {status}, {said}")),
        }
    }

    /// The worker hangs, another one is started, and then the first goes on.
    fn replaced(&self, first: Worker, random: &mut Random) -> Result<Value, LabError> {
        first.freeze()?;
        let mut second = self.start()?;
        if random.below(2) == 0 {
            // Both at work at once.
            let point = self.choose(random)?;
            self.wait_for(point, &mut second)?;
            first.signal(Signal::SIGCONT)?;
        }
        let report = self.succeeds(second)?;
        first.signal(Signal::SIGCONT)?;
        let late = self.succeeds(first)?;
        if (&late["records"], &late["bytes"]) != (&report["records"], &report["bytes"]) {
            return fail(format!("two workers report one run as {report} and {late}"));
        }
        Ok(report)
    }

    fn choose(&self, random: &mut Random) -> Result<Point, LabError> {
        let there = objects(&self.era.folder)?.len();
        Ok(Point::choose(random, self.end.saturating_sub(there)))
    }

    /// False where the worker ended before.
    fn wait_for(&self, point: Point, worker: &mut Worker) -> Result<bool, LabError> {
        let start = Instant::now();
        let before = objects(&self.era.folder)?.len();
        worker.until(&format!("{point:?}"), || {
            let there = || objects(&self.era.folder);
            Ok(match point {
                Point::Millis(ms) => start.elapsed() >= Duration::from_millis(ms),
                Point::Objects(count) => there()?.len() >= before + count,
                Point::Seen(name) => there()?
                    .iter()
                    .any(|path| self.is_of_run(path) && path.ends_with(name)),
            })
        })
    }

    fn is_of_run(&self, path: &str) -> bool {
        path.contains(&format!("/runs/{}/", self.id))
    }

    fn is_complete(&self) -> bool {
        let manifest = format!("default/soak/runs/{}/manifest.json", self.id);
        self.era.folder.join(manifest).exists()
    }
}
