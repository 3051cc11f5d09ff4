//! `cargo lab bench exporter`: what pushes and scrapes cost, with few and with many series in the store, beside other push gateways.
//!
//! # Guarantees
//! Every server gets the same bytes on the same machine, one server at a time, each size in a new process.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::{median, shipped};
use crate::lab::components::{self, Options};
use crate::lab::gateways::{self, Check, ENDPOINT};
use crate::lab::{Doing, Lab, LabError, cargo, net, process, step};

/// Series of a source; `exporter_load` sends them.
const SERIES_OF_A_SOURCE: u64 = 56;
/// No fill and no measurement may take longer.
const LIMIT: Duration = Duration::from_secs(600);
/// How long a server may take to end that has been measured.
const PATIENCE: Duration = Duration::from_secs(5);
const PUSHGATEWAY_FILE: &str = "pushgateway";

/// How the exporter's bench runs.
#[derive(Debug, Clone)]
pub struct Exporter {
    /// Series in the store, rounded up to whole sources.
    pub sizes: Vec<u64>,
    /// Only these; all without any.
    pub only: Vec<Server>,
    /// How often each is measured, in turn; the median by CPU counts, and JSON has all.
    pub repeat: u32,
    /// One JSON object a line instead of a table.
    pub json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Server {
    /// The controller that is shipped, with a static token
    Ours,
    /// Debian's prometheus-pushgateway as it is
    Pushgateway,
    /// The same with --push.disable-consistency-check
    PushgatewayUnchecked,
    /// Gravel, an aggregating gateway
    Gravel,
}

/// What `exporter_load` prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Figures {
    pushes: u64,
    /// None where none was answered within a minute.
    pushes_per_s: Option<f64>,
    cpu_us_per_push: Option<f64>,
    scrapes: u64,
    /// The median; none where none was answered within a minute.
    scrape_ms: Option<f64>,
    scrape_bytes: Option<u64>,
    scrape_lines: Option<u64>,
    resident_mib: u64,
    peak_mib: u64,
}

#[derive(Debug, Clone, Serialize)]
struct Row {
    bench: &'static str,
    server: Server,
    series: u64,
    #[serde(flatten)]
    figures: Figures,
}

/// A server that runs.
struct Running {
    pid: i32,
    token: Option<&'static str>,
}

/// Measures each server with each number of series.
///
/// # Errors
/// A server cannot be made or started, or answers a push with anything but 200 or 202.
pub fn exporter(lab: &Lab, bench: &Exporter) -> Result<(), LabError> {
    components::up(lab, &[net::HOLDER], Options::default())?;
    step("compiled the load", || {
        let mut build = cargo::release(lab, "build")?;
        process::run(build.args(["--bin", "exporter_load"])).map(drop)
    })?;
    let servers = Server::value_variants()
        .iter()
        .filter(|server| bench.only.is_empty() || bench.only.contains(server));
    let is_ours_chosen = servers.clone().any(|server| *server == Server::Ours);
    if is_ours_chosen {
        shipped::prepare(lab)?;
    }
    let cases = bench
        .sizes
        .iter()
        .flat_map(|size| servers.clone().map(move |server| (*server, *size)));
    if !bench.json {
        println!("{HEADING}");
    }
    let (mut rows, mut errors) = (Vec::new(), Vec::new());
    for (server, size) in (0..bench.repeat).flat_map(|_| cases.clone()) {
        let measured = measure(lab, server, size.div_ceil(SERIES_OF_A_SOURCE));
        gateways::stop(lab, PATIENCE)?;
        match measured {
            Ok(row) => {
                print_row(&row, bench.json);
                rows.push(row);
            }
            // The others are worth knowing still.
            Err(error) => errors.push(error),
        }
    }
    if is_ours_chosen {
        shipped::remove(lab)?;
    }
    if !bench.json {
        if bench.repeat > 1 {
            rows = medians(rows);
            println!("\nmedians of {}", bench.repeat);
            rows.iter().for_each(|row| print_row(row, false));
        }
        print!("{}", Goals::of(&rows));
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(LabError::Several(errors)),
    }
}

fn measure(lab: &Lab, server: Server, sources: u64) -> Result<Row, LabError> {
    let filled = start_filled(lab, server, sources)?;
    let (number, pid) = (sources.to_string(), filled.pid.to_string());
    let printed = load(lab, &filled, &["measure", ENDPOINT, &number, &pid])?;
    let figures = serde_json::from_str(&printed)
        .map_err(|error| LabError::State(format!("the load printed {printed:?}: {error}")))?;
    Ok(Row {
        bench: "exporter",
        server,
        series: sources * SERIES_OF_A_SOURCE,
        figures,
    })
}

/// Starts a server and has every source push once.
fn start_filled(lab: &Lab, server: Server, sources: u64) -> Result<Running, LabError> {
    let file = lab.run.join(PUSHGATEWAY_FILE);
    if file.exists() {
        std::fs::remove_file(&file).doing(|| format!("remove {}", file.display()))?;
    }
    let record = match server {
        Server::Ours => shipped::start(lab, sources * SERIES_OF_A_SOURCE)?,
        // It would take hours to fill one that checks; so it begins with what another one kept.
        Server::Pushgateway | Server::PushgatewayUnchecked => {
            gateways::pushgateway(lab, Check::Nothing, &file)?
        }
        Server::Gravel => gateways::gravel(lab)?,
    };
    let started = Running {
        pid: record.pid,
        token: (server == Server::Ours).then_some(shipped::TOKEN),
    };
    load(lab, &started, &["fill", ENDPOINT, &sources.to_string()])?;
    if server != Server::Pushgateway {
        return Ok(started);
    }
    gateways::stop(lab, LIMIT)?;
    let record = gateways::pushgateway(lab, Check::Consistency, &file)?;
    Ok(Running {
        pid: record.pid,
        ..started
    })
}

fn load(lab: &Lab, server: &Running, args: &[&str]) -> Result<String, LabError> {
    let program = lab.target().join("release/exporter_load");
    let mut command = net::command(lab, "timeout")?;
    command.arg(LIMIT.as_secs().to_string());
    command.arg(program).args(args);
    if let Some(token) = server.token {
        command.env("EXPORTER_LOAD_TOKEN", token);
    }
    process::run(&mut command)
}

/// Of each case the one in the middle by CPU; the system's part of it varies by a quarter from one process to the next.
fn medians(rows: Vec<Row>) -> Vec<Row> {
    let mut cases: Vec<Vec<Row>> = Vec::new();
    for row in rows {
        let is_same = |case: &&mut Vec<Row>| {
            let known = &case[0];
            (known.server, known.series) == (row.server, row.series)
        };
        match cases.iter_mut().find(is_same) {
            Some(case) => case.push(row),
            None => cases.push(vec![row]),
        }
    }
    let cpu = |row: &Row| row.figures.cpu_us_per_push.unwrap_or(f64::INFINITY);
    let cases = cases.into_iter();
    cases.map(|case| median(case, cpu)).collect()
}

/// Our figures beside what they should be.
struct Goals(Vec<String>);

impl Goals {
    fn of(rows: &[Row]) -> Self {
        let ours: Vec<&Row> = rows
            .iter()
            .filter(|row| row.server == Server::Ours)
            .collect();
        let mut lines = Vec::new();
        for row in &ours {
            let figures = &row.figures;
            lines.push(format!(
                "{} series: {} push/s (goal 5000), {} us CPU (goal 80)",
                row.series,
                rounded(figures.pushes_per_s, 0),
                rounded(figures.cpu_us_per_push, 0),
            ));
            if row.series == 280_000 {
                lines.push(format!(
                    "{} series: scraped in {} ms (goal 120), {:.0} MB at the peak (goal 90)",
                    row.series,
                    rounded(figures.scrape_ms, 0),
                    figures.peak_mib as f64 * 1.048_576,
                ));
            }
        }
        let cpu = |row: &Row| row.figures.cpu_us_per_push;
        if let [first, .., last] = ours.as_slice()
            && let Some((first, last)) = cpu(first).zip(cpu(last))
        {
            lines.push(format!(
                "CPU per push with most series: {:.2} of that with fewest (goal 1.2)",
                last / first
            ));
        }
        Self(lines)
    }
}

impl fmt::Display for Goals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

const HEADING: &str = "server                  series     push/s  CPU us/push  scrape ms        lines      MB  MiB now / peak";

fn print_row(row: &Row, json: bool) {
    if json {
        let line = serde_json::to_string(row).expect("a row has only string keys");
        println!("{line}");
        return;
    }
    let figures = &row.figures;
    let megabytes = figures.scrape_bytes.map(|bytes| bytes as f64 / 1e6);
    let lines = figures.scrape_lines.map(|lines| lines as f64);
    println!(
        "{:<22} {:>7} {:>10} {:>12} {:>10} {:>12} {:>7} {:>8} / {}",
        name(row.server),
        row.series,
        rounded(figures.pushes_per_s, 0),
        rounded(figures.cpu_us_per_push, 0),
        rounded(figures.scrape_ms, 1),
        rounded(lines, 0),
        rounded(megabytes, 1),
        figures.resident_mib,
        figures.peak_mib,
    );
}

fn rounded(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(
        || "> 60 s".to_owned(),
        |figure| format!("{figure:.digits$}"),
    )
}

fn name(server: Server) -> String {
    let value = server.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
