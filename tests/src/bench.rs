//! `cargo lab bench`: what the worker costs, beside a named alternative in the same run.
//!
//! Figures: wall seconds, CPU seconds and peak memory of the whole process, as the kernel counts them. Walls depend on what else the
//! machine does; CPU seconds and ratios are what to compare.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;

use crate::lab::components::{self, Options};
use crate::lab::kafka::{SOURCE, TARGET};
use crate::lab::kafka_tools::{self, Produce};
use crate::lab::{Doing, Lab, LabError, images, net, packages, process};

/// How the data bench runs.
#[derive(Debug, Clone, Copy)]
pub struct Data {
    /// Records of about 1 KB.
    pub records: u64,
    /// One JSON object a line instead of a table.
    pub json: bool,
}

const CODECS: [&str; 3] = ["none", "lz4", "zstd"];
const PARTITIONS: u32 = 4;

/// One measured process.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    case: String,
    subject: &'static str,
    /// Keys and values, uncompressed.
    gb: f64,
    wall_s: f64,
    cpu_s: f64,
    peak_mib: f64,
}

/// Backs up to a folder and restores, for each codec, beside a plain rdkafka consumer that only reads.
///
/// # Errors
/// A part of the lab or a measured process fails.
pub fn data(lab: &Lab, bench: Data) -> Result<(), LabError> {
    packages::require(&[("/usr/bin/time", "time")])?;
    components::up(lab, &["kafka"], Options { brokers: 1 })?;
    images::worker_and_controller(lab)?;
    let worker = lab.target().join("release/kafka-backup-worker");
    let reader = reader(lab)?;
    let (source, target) = (SOURCE.bootstrap(lab), TARGET.bootstrap(lab));
    let mut rows = Vec::new();
    for codec in CODECS {
        let topic = format!("bench-{codec}");
        let gb = prepare(lab, &source, &topic, codec, bench.records)? as f64 / 1e9;
        if kafka_tools::list_topics(lab, &target)?.contains(&topic) {
            kafka_tools::delete_topics(lab, &target, &[&topic])?;
        }
        let folder = lab.run.join("bench").join(codec);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).doing(|| format!("create {}", folder.display()))?;
        let folder_arg = folder.display().to_string();
        let mut add =
            |verb: &str, subject, program: &Path, args: &[&str]| -> Result<(), LabError> {
                let case = format!("{verb} 1KB {codec} folder {PARTITIONS}p");
                let row = measured(lab, case, subject, gb, program, args)?;
                print_row(&row, bench.json);
                rows.push(row);
                Ok(())
            };
        add(
            "backup",
            "rdkafka consumer, only reading",
            &reader,
            &[&source, &topic],
        )?;
        add(
            "backup",
            "ours",
            &worker,
            &[
                "backup",
                "--name",
                "bench",
                "--bootstrap-servers",
                &source,
                "--topics",
                &topic,
                "--folder",
                &folder_arg,
            ],
        )?;
        add(
            "restore",
            "ours",
            &worker,
            &[
                "restore",
                "--name",
                "bench",
                "--backup-id",
                "latest",
                "--bootstrap-servers",
                &target,
                "--topics",
                &topic,
                "--folder",
                &folder_arg,
            ],
        )?;
        std::fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))?;
    }
    if !bench.json {
        print!("{}", ratios(&rows));
    }
    Ok(())
}

/// The topic with the records, produced anew; bytes of keys and values.
fn prepare(
    lab: &Lab,
    source: &str,
    topic: &str,
    codec: &str,
    records: u64,
) -> Result<u64, LabError> {
    if kafka_tools::list_topics(lab, source)?
        .iter()
        .any(|name| name == topic)
    {
        kafka_tools::delete_topics(lab, source, &[topic])?;
    }
    let produced = kafka_tools::produce(
        lab,
        source,
        &Produce {
            topic,
            partitions: PARTITIONS,
            records,
            compression: codec,
            ..Produce::default()
        },
    )?;
    Ok(produced.bytes)
}

/// Compiles the yardstick.
fn reader(lab: &Lab) -> Result<PathBuf, LabError> {
    let cargo = packages::toolchain("cargo", "Rust 1.89 or newer (https://rustup.rs)")?;
    process::run(
        Command::new(cargo)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("CARGO_TARGET_DIR", lab.target())
            .args([
                "build",
                "--release",
                "--quiet",
                "--example",
                "rdkafka_reader",
            ]),
    )?;
    Ok(lab.target().join("release/examples/rdkafka_reader"))
}

fn measured(
    lab: &Lab,
    case: String,
    subject: &'static str,
    gb: f64,
    program: &Path,
    args: &[&str],
) -> Result<Row, LabError> {
    let figures = lab.run.join("bench").join("figures");
    let mut command = net::command(lab, "/usr/bin/time")?;
    command
        .args(["--format", "%e %U %S %M", "--output"])
        .arg(&figures)
        .arg(program)
        .args(args);
    process::run(&mut command)?;
    let text = std::fs::read_to_string(&figures).doing(|| format!("read {}", figures.display()))?;
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
        peak_mib: peak_kib / 1024.0,
    })
}

fn print_row(row: &Row, json: bool) {
    if json {
        println!(
            "{}",
            serde_json::to_string(row).expect("a row has only string keys")
        );
        return;
    }
    println!(
        "{:<32} {:<32} {:>5.2} GB {:>7.2} s wall {:>7.2} s CPU ({:>5.2} s/GB) {:>7.1} MiB",
        row.case,
        row.subject,
        row.gb,
        row.wall_s,
        row.cpu_s,
        row.cpu_s / row.gb,
        row.peak_mib
    );
}

/// The alternative's CPU seconds over ours, case by case.
fn ratios(rows: &[Row]) -> String {
    rows.iter()
        .filter(|row| row.subject == "ours")
        .filter_map(|ours| {
            let other = rows
                .iter()
                .find(|row| row.case == ours.case && row.subject != "ours")?;
            Some(format!(
                "{}: {} takes {:.1} times our CPU\n",
                ours.case,
                other.subject,
                other.cpu_s / ours.cpu_s
            ))
        })
        .collect()
}
