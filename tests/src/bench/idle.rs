//! Runs over partitions that have not changed: what they cost must grow with brokers and changes, not with partitions.

use super::{Bench, OURS, Row, clear, print_row};
use crate::lab::kafka_tools::{self, Produce};
use crate::lab::{LabError, net, process};

const PARTITIONS_OF_A_TOPIC: u32 = 100;
const PREFIX: &str = "bench-idle-";

/// Measures an incremental run over 1,000 and over 10,000 idle partitions.
pub(super) fn measure(bench: &Bench<'_>, rows: &mut Vec<Row>) -> Result<(), LabError> {
    forget(bench)?;
    let mut made = 0;
    for partitions in [1000, 10_000] {
        while made < partitions {
            let name = format!("{PREFIX}{:03}", made / PARTITIONS_OF_A_TOPIC);
            kafka_tools::produce(
                bench.lab,
                &bench.source,
                &Produce {
                    topic: &name,
                    partitions: PARTITIONS_OF_A_TOPIC,
                    records: u64::from(PARTITIONS_OF_A_TOPIC),
                    size: 100,
                    ..Produce::default()
                },
            )?;
            made += PARTITIONS_OF_A_TOPIC;
        }
        clear(&bench.folder)?;
        run(bench, partitions, "first run")?;
        let mut row = run(bench, partitions, "incremental run")?;
        (row.kafka_requests, row.store_requests) = requests(bench)?;
        print_row(&row, bench.json);
        rows.push(row);
    }
    forget(bench)
}

fn run(bench: &Bench<'_>, partitions: u32, what: &str) -> Result<Row, LabError> {
    let folder = bench.folder.display().to_string();
    let case = format!("backup {partitions} idle partitions, {what}");
    let run = format!("idle-{}", case.replace([' ', ','], "-"));
    let gb = f64::from(partitions) * 100.0 / 1e9;
    let args = [&args(bench, &folder)[..], &["--run", &run]].concat();
    bench.measured(case, OURS, gb, &bench.worker, &args)
}

fn args<'a>(bench: &'a Bench<'_>, folder: &'a str) -> [&'a str; 9] {
    [
        "backup",
        "--name",
        "idle",
        "--bootstrap-servers",
        &bench.source,
        "--topics",
        "bench-idle-*",
        "--folder",
        folder,
    ]
}

/// Requests of one more incremental run, counted in its log.
fn requests(bench: &Bench<'_>) -> Result<(Option<u64>, Option<u64>), LabError> {
    let folder = bench.folder.display().to_string();
    let levels = "kafka_backup_worker::kafka=trace,kafka_backup_worker::store=trace";
    let mut command = net::command(bench.lab, "sh")?;
    command
        .args(["-c", "exec \"$@\" 2>&1", "sh"])
        .arg(&bench.worker)
        .args(args(bench, &folder))
        .args(["--log-format", "json", "--log-level", levels]);
    let log = process::run(&mut command)?;
    let count = |message: &str| {
        let quoted = format!("\"{message}\"");
        log.lines().filter(|line| line.contains(&quoted)).count() as u64
    };
    Ok((Some(count("request")), Some(count("waiting for the store"))))
}

fn forget(bench: &Bench<'_>) -> Result<(), LabError> {
    let all = kafka_tools::list_topics(bench.lab, &bench.source)?;
    let idle: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    if idle.is_empty() {
        return Ok(());
    }
    kafka_tools::delete_topics(bench.lab, &bench.source, &idle)
}
