//! The load of `cargo lab bench exporter`: sources of 56 series each, which push over kept connections; and scrapes.
//!
//! Arguments: `fill ADDRESS SOURCES` has each source push once; `measure ADDRESS SOURCES PID` pushes for some seconds to random ones of
//! them, scrapes, and prints one line of JSON with what that took of the server, process `PID`. With a token in `EXPORTER_LOAD_TOKEN`
//! pushes carry it.
//!
//! What it sends and reads is as plain as HTTP/1.1 allows: the server is measured, and this runs beside it.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kafka_backup_tests::lab::process;
use serde_json::json;

const CONNECTIONS: usize = 4;
/// How long pushes are measured.
const PUSHING: Duration = Duration::from_secs(5);
const SCRAPES: usize = 5;
/// Between scrapes: a server may keep its page for a moment, and a copy of it is not what Prometheus gets.
const BETWEEN: Duration = Duration::from_millis(500);
/// No scrape begins later than this after the first.
const SCRAPING: Duration = Duration::from_secs(30);
/// How long a server may take for one request. What takes longer is given up, and has no figure.
const PATIENCE: Duration = Duration::from_secs(60);
/// Processor time counts in these.
const TICK_S: f64 = 0.01;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["fill", address, sources] => {
            let fill = |connection: &mut Connection, own: Vec<usize>| {
                own.iter()
                    .try_for_each(|source| connection.push(*source, 1))
            };
            each_connection(address, sources.parse()?, fill)
        }
        ["measure", address, sources, pid] => measure(address, sources.parse()?, pid.parse()?),
        _ => Err("arguments: fill ADDRESS SOURCES, or measure ADDRESS SOURCES PID".into()),
    }
}

/// Has every connection do `work` with its share of the sources, at the same time. No source is on two: its values would overtake
/// each other.
fn each_connection(
    address: &str,
    sources: usize,
    work: impl Fn(&mut Connection, Vec<usize>) -> io::Result<()> + Sync,
) -> Result<(), Box<dyn Error>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CONNECTIONS.min(sources))
            .map(|number| {
                let own = (number..sources).step_by(CONNECTIONS).collect();
                let work = &work;
                scope.spawn(move || work(&mut Connection::open(address)?, own))
            })
            .collect();
        let ended = threads.into_iter().map(|thread| match thread.join() {
            Ok(result) => result.map_err(Into::into),
            Err(_) => Err("a connection's thread has died".into()),
        });
        ended.collect()
    })
}

fn measure(address: &str, sources: usize, pid: i32) -> Result<(), Box<dyn Error>> {
    let (pushes, value) = (AtomicU64::new(0), AtomicU64::new(2));
    let cpu_before = quiet_cpu_seconds(pid)?;
    let start = Instant::now();
    each_connection(address, sources, |connection, own| {
        let mut random = Random(own[0] as u64 + 1);
        while start.elapsed() < PUSHING {
            let source = own[random.below(own.len())];
            let value = value.fetch_add(1, Ordering::Relaxed);
            if in_time(connection.push(source, value))?.is_none() {
                break;
            }
            pushes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let pushing_s = start.elapsed().as_secs_f64();
    let cpu_s = quiet_cpu_seconds(pid)? - cpu_before;
    let pushes = pushes.into_inner();
    let per_push = (pushes > 0).then_some(pushes as f64);
    let resident_mib = process::memory_mib(pid).ok_or("the server has ended")?;

    let mut scrapes = Vec::new();
    let start = Instant::now();
    while scrapes.len() < SCRAPES && start.elapsed() < SCRAPING {
        let Some(scrape) = in_time(scrape(address))? else {
            break;
        };
        scrapes.push(scrape);
        std::thread::sleep(BETWEEN);
    }
    scrapes.sort_by_key(|scrape| scrape.took);
    let scrape = scrapes.get(scrapes.len() / 2);
    let figures = json!({
        "pushes": pushes,
        "pushes_per_s": per_push.map(|pushes| pushes / pushing_s),
        "cpu_us_per_push": per_push.map(|pushes| cpu_s * 1e6 / pushes),
        "scrapes": scrapes.len(),
        "scrape_ms": scrape.map(|scrape| scrape.took.as_secs_f64() * 1e3),
        "scrape_bytes": scrape.map(|scrape| scrape.bytes),
        "scrape_lines": scrape.map(|scrape| scrape.lines),
        "resident_mib": resident_mib,
        "peak_mib": process::peak_memory_mib(pid).ok_or("the server has ended")?,
    });
    println!("{figures}");
    Ok(())
}

/// `None` for what took too long.
fn in_time<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        // A read that times out is either, by the system.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Processor time of a server that has done what it was asked for: one may answer first and work afterwards.
fn quiet_cpu_seconds(pid: i32) -> Result<f64, Box<dyn Error>> {
    let read = || process::cpu_seconds(pid).ok_or("the server has ended");
    let mut seen = read()?;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        let now = read()?;
        if now - seen < TICK_S / 2.0 {
            return Ok(now);
        }
        seen = now;
    }
    Ok(seen)
}

/// A page as it was read.
struct Scrape {
    took: Duration,
    bytes: usize,
    /// Series, not comments.
    lines: usize,
}

fn scrape(address: &str) -> io::Result<Scrape> {
    let start = Instant::now();
    let mut stream = connect(address)?;
    // By HTTP/1.0 the end of the stream is the end of the body.
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let took = start.elapsed();
    let head = end_of_head(&answer).ok_or(ErrorKind::UnexpectedEof)?;
    check_status(&answer)?;
    let lines = answer[head..].split(|byte| *byte == b'\n');
    let is_series = |line: &&[u8]| !line.is_empty() && line[0] != b'#';
    Ok(Scrape {
        took,
        bytes: answer.len() - head,
        lines: lines.filter(is_series).count(),
    })
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A kept connection, with room for requests and answers.
struct Connection {
    stream: TcpStream,
    /// Headers that all requests have.
    headers: String,
    body: String,
    request: String,
    answer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> io::Result<Self> {
        let mut headers = format!("Host: {address}\r\nContent-Type: text/plain; version=0.0.4\r\n");
        if let Ok(token) = std::env::var("EXPORTER_LOAD_TOKEN") {
            headers += &format!("Authorization: Bearer {token}\r\n");
        }
        Ok(Self {
            stream: connect(address)?,
            headers,
            body: String::new(),
            request: String::new(),
            answer: Vec::new(),
        })
    }

    /// Pushes what a source counts at `value`.
    fn push(&mut self, source: usize, value: u64) -> io::Result<()> {
        self.body.clear();
        write_body(&mut self.body, value).map_err(io::Error::other)?;
        self.request.clear();
        write!(
            self.request,
            "PUT /metrics/job/load/task/t-{source:05} HTTP/1.1\r\n{}Content-Length: {}\r\n\r\n{}",
            self.headers,
            self.body.len(),
            self.body
        )
        .map_err(io::Error::other)?;
        self.stream.write_all(self.request.as_bytes())?;
        self.read_answer()
    }

    fn read_answer(&mut self) -> io::Result<()> {
        self.answer.clear();
        let mut room = [0; 4096];
        loop {
            let read = self.stream.read(&mut room)?;
            if read == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            self.answer.extend_from_slice(&room[..read]);
            let Some(head) = end_of_head(&self.answer) else {
                continue;
            };
            if self.answer.len() >= head + content_length(&self.answer[..head]) {
                return check_status(&self.answer);
            }
        }
    }
}

/// Where the body begins.
fn end_of_head(answer: &[u8]) -> Option<usize> {
    let end = b"\r\n\r\n";
    let at = answer.windows(end.len()).position(|bytes| bytes == end)?;
    Some(at + end.len())
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.unwrap_or_default()
}

fn check_status(answer: &[u8]) -> io::Result<()> {
    match answer.get(9..12) {
        Some(b"200" | b"202") => Ok(()),
        Some(_) | None => Err(io::Error::other(
            String::from_utf8_lossy(answer).into_owned(),
        )),
    }
}

/// What a service's client library sends: 20 counters with three labels, 12 gauges, two histograms of 12 lines each.
fn write_body(body: &mut String, value: u64) -> std::fmt::Result {
    for family in ["shop_http_requests_total", "shop_http_response_bytes_total"] {
        writeln!(body, "# HELP {family} What the service has answered.")?;
        writeln!(body, "# TYPE {family} counter")?;
        for handler in [
            "/orders",
            "/orders/{id}",
            "/customers",
            "/basket",
            "/health",
        ] {
            for (method, code) in [("GET", 200), ("POST", 503)] {
                let labels = format_args!(r#"method="{method}",handler="{handler}",code="{code}""#);
                writeln!(body, "{family}{{{labels}}} {value}")?;
            }
        }
    }
    for gauge in [
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_threads",
        "shop_queue_length",
        "shop_connections_open",
        "shop_connections_idle",
        "shop_cache_entries",
        "shop_cache_bytes",
        "shop_last_order_timestamp_seconds",
        "shop_workers_busy",
    ] {
        writeln!(body, "# HELP {gauge} What the service has now.")?;
        writeln!(body, "# TYPE {gauge} gauge")?;
        writeln!(body, "{gauge} {value}.5")?;
    }
    writeln!(body, "# HELP process_start_time_seconds Unix seconds.")?;
    writeln!(body, "# TYPE process_start_time_seconds gauge")?;
    writeln!(body, "process_start_time_seconds 1767323045.25")?;
    for histogram in [
        "shop_http_request_duration_seconds",
        "shop_query_duration_seconds",
    ] {
        writeln!(body, "# HELP {histogram} How long the service took.")?;
        writeln!(body, "# TYPE {histogram} histogram")?;
        let bounds = [
            "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "+Inf",
        ];
        for (below, bound) in (1..).zip(bounds) {
            writeln!(
                body,
                "{histogram}_bucket{{le=\"{bound}\"}} {}",
                value * below
            )?;
        }
        writeln!(body, "{histogram}_sum {value}.25")?;
        writeln!(body, "{histogram}_count {}", value * 10)?;
    }
    Ok(())
}

/// xorshift64*: the same sources for every server.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        number as usize % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_56_series() {
        let mut body = String::new();
        write_body(&mut body, 7).unwrap();
        let series: std::collections::HashSet<&str> = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| Some(line.rsplit_once(' ')?.0))
            .collect();
        assert_eq!(series.len(), 56, "{body}");
    }
}
