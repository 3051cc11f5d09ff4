//! `cargo lab bench`: what worker, controller and exporter cost, beside named alternatives in the same run.
//!
//! Figures: wall seconds, CPU seconds and peak memory of the whole process, as the kernel counts them. Walls depend on what else the
//! machine does; CPU seconds and ratios are what to compare.

mod cases;
mod controller;
mod exporter;
mod idle;
mod shipped;
mod tls;

pub use controller::controller;
pub use exporter::{Exporter, Server, exporter};

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::lab::components::{self, Options};
use crate::lab::kafka::{SOURCE, TARGET};
use crate::lab::kafka_tools::{self, Produce};
use crate::lab::{Doing, Lab, LabError, cargo, images, net, packages, process, secure, store};
use cases::{CODECS, Goals, Kind, Topic, topics};

/// How the data bench runs.
#[derive(Debug, Clone)]
pub struct Data {
    /// Records of about 1 KB in the main cases; the others have a quarter of the bytes.
    pub records: u64,
    /// How often a main case is measured.
    pub repeat: u32,
    /// Only topics whose name contains one of these; all without any.
    pub only: Vec<String>,
    /// One JSON object a line instead of a table.
    pub json: bool,
}

const OURS: &str = "ours";
const READING: &str = "rdkafka reading";
const STORING: &str = "rdkafka reading and storing";
const WRITING: &str = "rdkafka writing";

/// One measured process, or the median of several.
#[derive(Debug, Clone, Serialize)]
struct Row {
    bench: &'static str,
    case: String,
    subject: &'static str,
    /// Keys and values, uncompressed.
    gb: f64,
    wall_s: f64,
    cpu_s: f64,
    /// What the broker took meanwhile.
    #[serde(skip_serializing_if = "Option::is_none")]
    broker_cpu_s: Option<f64>,
    peak_mib: f64,
    /// What stands in the archive afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_gb: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kafka_requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    store_requests: Option<u64>,
}

/// What the measured programs are, and where they find what.
struct Bench<'a> {
    lab: &'a Lab,
    worker: PathBuf,
    reader: PathBuf,
    writer: PathBuf,
    source: String,
    target: String,
    /// In memory: a disk would be measured else.
    folder: PathBuf,
    /// For what memory has no room for.
    disk: PathBuf,
    json: bool,
}

/// Backs up topics of several kinds to a folder and to S3, and restores, beside consumers and producers by rdkafka.
///
/// # Errors
/// A part of the lab or a measured process fails.
pub fn data(lab: &Lab, bench: &Data) -> Result<(), LabError> {
    packages::require(&[("/usr/bin/time", "time")])?;
    components::up(lab, &["kafka", "store"], Options { brokers: 1 })?;
    let (worker, [reader, writer]) = build(lab)?;
    let folder = PathBuf::from(format!("/dev/shm/kafka-backup-bench-{}", lab.name));
    let own = lab.run.join("bench");
    fs::create_dir_all(&own).doing(|| "create the bench's folder".to_owned())?;
    let at = Bench {
        lab,
        worker,
        reader,
        writer,
        source: SOURCE.bootstrap(lab),
        target: TARGET.bootstrap(lab),
        folder,
        disk: own.join("folder"),
        json: bench.json,
    };
    let is_chosen =
        |name: &str| bench.only.is_empty() || bench.only.iter().any(|part| name.contains(&**part));
    let (idle, tls) = (is_chosen("idle"), is_chosen("tls"));
    let mut rows = Vec::new();
    let measured = topics(bench.records)
        .iter()
        .filter(|topic| topic.is_chosen(&bench.only))
        .try_for_each(|topic| at.topic(topic, bench.repeat, &mut rows))
        .and_then(|()| match idle {
            true => idle::measure(&at, &mut rows),
            false => Ok(()),
        })
        .and_then(|()| match tls {
            true => tls::measure(&at, bench.records, bench.repeat, &mut rows),
            false => Ok(()),
        });
    clear(&at.folder)?;
    clear(&at.disk)?;
    if !bench.json {
        print!("{}", Goals::of(&rows));
    }
    measured
}

impl Bench<'_> {
    /// Produces a topic, measures all that is to be measured of it, and deletes it.
    fn topic(&self, topic: &Topic, repeat: u32, rows: &mut Vec<Row>) -> Result<(), LabError> {
        let name = format!("bench-{}", topic.name().replace(' ', "-"));
        for cluster in [&self.source, &self.target] {
            self.forget(cluster, &name)?;
        }
        let single: &[(&str, &str)] = match topic.single {
            true => &[("batch.size", "0"), ("linger.ms", "0")],
            false => &[],
        };
        let produced = kafka_tools::produce(
            self.lab,
            &self.source,
            &Produce {
                topic: &name,
                partitions: topic.partitions,
                records: topic.records,
                size: topic.size,
                compression: topic.codec,
                producer_config: single,
                ..Produce::default()
            },
        )?;
        let gb = produced.bytes as f64 / 1e9;
        for kind in topic.kinds() {
            let repeat = if kind.is_repeated() && topic.main {
                repeat
            } else {
                1
            };
            let mut runs = Vec::new();
            for number in 0..repeat {
                if kind.writes() {
                    self.forget(&self.target, &name)?;
                }
                runs.push(self.run(kind, topic, &name, number, gb)?);
            }
            let row = median(runs, |run| run.cpu_s);
            print_row(&row, self.json);
            rows.push(row);
        }
        self.forget(&self.target, &name)?;
        self.forget(&self.source, &name)
    }

    fn forget(&self, cluster: &str, name: &str) -> Result<(), LabError> {
        if kafka_tools::list_topics(self.lab, cluster)?
            .iter()
            .any(|topic| topic == name)
        {
            kafka_tools::delete_topics(self.lab, cluster, &[name])?;
        }
        Ok(())
    }

    fn run(
        &self,
        kind: Kind,
        topic: &Topic,
        name: &str,
        number: u32,
        gb: f64,
    ) -> Result<Row, LabError> {
        let archive = match topic.long {
            true => &self.disk,
            false => &self.folder,
        };
        let folder = archive.display().to_string();
        let case = |of: &str| format!("backup {} {of}", topic.name());
        let backup = [
            "backup",
            "--name",
            "bench",
            "--bootstrap-servers",
            &self.source,
            "--topics",
            name,
        ];
        let in_folder = ["--folder", &folder];
        if !kind.writes() {
            clear(archive)?;
        }
        let mut row = match kind {
            Kind::Read => {
                let args = [self.source.as_str(), name];
                self.measured(case("folder"), READING, gb, &self.reader, &args)?
            }
            Kind::ReadAndStore => {
                let args = [self.source.as_str(), name, &folder];
                self.measured(case("folder"), STORING, gb, &self.reader, &args)?
            }
            Kind::Backup => {
                let args = [&backup[..], &in_folder].concat();
                self.measured(case("folder"), OURS, gb, &self.worker, &args)?
            }
            Kind::ToZstd => {
                let args = [&backup[..], &in_folder, &["--compression", "zstd"]].concat();
                self.measured(case("to zstd"), OURS, gb, &self.worker, &args)?
            }
            Kind::ToS3 => {
                let s3 = [
                    "--s3-bucket",
                    store::BUCKET,
                    "--s3-prefix",
                    name,
                    "--s3-endpoint",
                    store::ENDPOINT,
                    "--s3-region",
                    store::REGION,
                    "--s3-path-style",
                    "--s3-allow-http",
                ];
                let args = [&backup[..], &s3].concat();
                self.measured(case("S3"), OURS, gb, &self.worker, &args)?
            }
            Kind::Write => {
                kafka_tools::create_topic(self.lab, &self.target, name, topic.partitions, &[])?;
                let case = format!("restore {} folder", topic.name());
                let args = [self.target.as_str(), name, topic.codec, &folder];
                self.measured(case, WRITING, gb, &self.writer, &args)?
            }
            Kind::Restore => {
                let restore = format!("bench-{number}");
                let args = [
                    "restore",
                    "--name",
                    &restore,
                    "--backup-id",
                    "latest",
                    "--bootstrap-servers",
                    &self.target,
                    "--topics",
                    name,
                    "--folder",
                    &folder,
                ];
                let case = format!("restore {} folder", topic.name());
                self.measured(case, OURS, gb, &self.worker, &args)?
            }
        };
        if matches!(kind, Kind::Backup | Kind::ToZstd) {
            row.stored_gb = Some(size(archive)? as f64 / 1e9);
        }
        Ok(row)
    }

    fn measured(
        &self,
        case: String,
        subject: &'static str,
        gb: f64,
        program: &Path,
        args: &[&str],
    ) -> Result<Row, LabError> {
        let figures = self.lab.run.join("bench").join("figures");
        let mut command = net::command(self.lab, "/usr/bin/time")?;
        command
            .args(["--format", "%e %U %S %M", "--output"])
            .arg(&figures)
            .arg(program)
            .args(args)
            .env("AWS_ACCESS_KEY_ID", store::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", store::SECRET_KEY);
        let broker = || {
            let pids = [SOURCE, TARGET, secure::ONE]
                .map(|cluster| process::pid(self.lab, &cluster.broker(1)));
            pids.into_iter()
                .flatten()
                .filter_map(process::cpu_seconds)
                .sum::<f64>()
        };
        let before = broker();
        process::run(&mut command)?;
        let broker_cpu_s = Some(broker() - before);
        let text = fs::read_to_string(&figures).doing(|| format!("read {}", figures.display()))?;
        let numbers: Vec<f64> = text
            .split_whitespace()
            .filter_map(|number| number.parse().ok())
            .collect();
        let [wall_s, user, system, peak_kib] = numbers[..] else {
            return Err(LabError::State(format!("time printed {text:?}")));
        };
        Ok(Row {
            bench: "data",
            case,
            subject,
            gb,
            wall_s,
            cpu_s: user + system,
            broker_cpu_s,
            peak_mib: peak_kib / 1024.0,
            stored_gb: None,
            kafka_requests: None,
            store_requests: None,
        })
    }
}

/// The one in the middle, by CPU. There is one at least.
fn median<R>(mut runs: Vec<R>, cpu: impl Fn(&R) -> f64) -> R {
    runs.sort_by(|a, b| cpu(a).total_cmp(&cpu(b)));
    runs.swap_remove(runs.len() / 2)
}

/// Makes an empty folder.
fn clear(folder: &Path) -> Result<(), LabError> {
    if folder.exists() {
        fs::remove_dir_all(folder).doing(|| format!("remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))
}

/// Compiles the worker and the yardsticks.
fn build(lab: &Lab) -> Result<(PathBuf, [PathBuf; 2]), LabError> {
    images::compile(lab)?;
    process::run(cargo::release(lab, "build")?.arg("--examples"))?;
    let release = lab.target().join("release");
    Ok((
        release.join("kafka-backup-worker"),
        ["rdkafka_reader", "rdkafka_writer"].map(|name| release.join("examples").join(name)),
    ))
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> Result<u64, LabError> {
    let doing = || format!("read {}", folder.display());
    let mut bytes = 0;
    for entry in fs::read_dir(folder).doing(doing)? {
        let entry = entry.doing(doing)?;
        let metadata = entry.metadata().doing(doing)?;
        bytes += match metadata.is_dir() {
            true => size(&entry.path())?,
            false => metadata.len(),
        };
    }
    Ok(bytes)
}

fn print_row(row: &Row, json: bool) {
    if json {
        println!(
            "{}",
            serde_json::to_string(row).expect("a row has only string keys")
        );
        return;
    }
    let stored = row
        .stored_gb
        .map(|stored| format!(" {stored:>6.3} GB stored"));
    let requests = row.kafka_requests.zip(row.store_requests);
    let requests =
        requests.map(|(kafka, store)| format!(" {kafka} requests to Kafka, {store} to the store"));
    println!(
        "{:<36} {:<28} {:>5.2} GB {:>7.2} s wall {:>7.2} s CPU ({:>5.2} s/GB, brokers {:>5.2}) {:>6.1} MiB{}{}",
        row.case,
        row.subject,
        row.gb,
        row.wall_s,
        row.cpu_s,
        row.cpu_s / row.gb,
        row.broker_cpu_s.unwrap_or_default() / row.gb,
        row.peak_mib,
        stored.unwrap_or_default(),
        requests.unwrap_or_default(),
    );
}
