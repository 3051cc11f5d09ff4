//! How far a run is, for people: a bar at a terminal, else a line every ten seconds.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::context::Progress;
use crate::human;
use crate::log::Format;

/// Rates are taken over this long.
const WINDOW: Duration = Duration::from_secs(10);
/// The bar is drawn anew after this long.
const BAR_PERIOD: Duration = Duration::from_millis(200);
/// A line is written after this long.
const LINE_PERIOD: Duration = Duration::from_secs(10);
/// Steps of the bar.
const STEPS: u64 = 1000;

/// Shows `progress` until `stop`.
pub async fn show(
    progress: Arc<Progress>,
    format: Format,
    bars: MultiProgress,
    stop: CancellationToken,
) {
    if format == Format::Text && std::io::stderr().is_terminal() {
        return draw(&progress, &bars, &stop).await;
    }
    write_lines(&progress, format, &stop).await;
}

async fn draw(progress: &Progress, bars: &MultiProgress, stop: &CancellationToken) {
    let bar = bars.add(ProgressBar::new(STEPS));
    let style =
        ProgressStyle::with_template("{bar:12} {msg}").expect("the template has only known keys");
    bar.set_style(style.progress_chars("=> "));
    let mut meter = Meter::default();
    let mut ticks = interval(BAR_PERIOD);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let reading = meter.read(progress, Instant::now());
        bar.set_position((reading.ratio.unwrap_or_default() * STEPS as f64) as u64);
        bar.set_message(reading.to_string());
    }
    bar.finish_and_clear();
}

async fn write_lines(progress: &Progress, format: Format, stop: &CancellationToken) {
    let mut meter = Meter::default();
    let mut ticks = interval(LINE_PERIOD);
    // The first tick is at once: there is nothing to tell yet, but the rate begins here.
    ticks.tick().await;
    meter.read(progress, Instant::now());
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let reading = meter.read(progress, Instant::now());
        match format {
            Format::Text => eprintln!("{reading}"),
            Format::Json => info!(
                records = reading.records,
                bytes = reading.bytes,
                percent = reading.percent(),
                bytes_per_second = reading.bytes_per_second as u64,
                "progress"
            ),
        }
    }
}

/// What can be said of a run at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) ratio: Option<f64>,
    pub(crate) bytes_per_second: f64,
    pub(crate) left: Option<Duration>,
    /// Bytes that are checked before they are written: done and planned.
    pub(crate) checking: Option<(u64, u64)>,
}

impl Reading {
    /// Rounded down: 100 is said when all is done, not before.
    fn percent(&self) -> Option<u64> {
        self.ratio.map(|ratio| (ratio * 100.0) as u64)
    }
}

impl std::fmt::Display for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(percent) = self.percent() {
            write!(f, "{percent:3}%  ")?;
        }
        let records = human::counted(self.records, "record", "records");
        write!(
            f,
            "{records}  {}  {}/s",
            human::bytes(self.bytes),
            human::bytes(self.bytes_per_second as u64)
        )?;
        if let Some((checked, planned)) = self.checking {
            let (checked, planned) = (human::bytes(checked), human::bytes(planned));
            write!(f, "  checked {checked} of {planned}")?;
        }
        match self.left.map(|left| left.as_secs()) {
            None => Ok(()),
            Some(seconds @ 0..60) => write!(f, "  {seconds} s left"),
            Some(seconds) => write!(
                f,
                "  {} left",
                human::duration(Duration::from_secs(seconds))
            ),
        }
    }
}

/// Rates over the last [`WINDOW`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<(Instant, u64, u64)>,
}

impl Meter {
    pub(crate) fn read(&mut self, progress: &Progress, now: Instant) -> Reading {
        let (done, planned) = progress.done_of_planned();
        let bytes = progress.bytes();
        self.samples.push_back((now, bytes, done));
        while self.samples.len() > 2 && now - self.samples[1].0 >= WINDOW {
            self.samples.pop_front();
        }
        let (since, bytes_then, done_then) = self.samples[0];
        let seconds = (now - since).as_secs_f64();
        let rate = |now: u64, then: u64| {
            if seconds > 0.0 {
                now.saturating_sub(then) as f64 / seconds
            } else {
                0.0
            }
        };
        let done_per_second = rate(done, done_then);
        let left = (done_per_second > 0.0 && planned > done)
            .then(|| Duration::try_from_secs_f64((planned - done) as f64 / done_per_second).ok())
            .flatten();
        Reading {
            records: progress.records(),
            bytes,
            ratio: progress.ratio(),
            bytes_per_second: rate(bytes, bytes_then),
            left,
            checking: progress.checking(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_the_rest_come_from_the_last_seconds() {
        let progress = Progress::default();
        progress.plan(1000, 0);
        let mut meter = Meter::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.read(&progress, at(0)).left, None);
        // An hour of nothing, then 100 offsets and 1 MiB in ten seconds.
        meter.read(&progress, at(3600));
        progress.add(90, 1 << 20, 100);
        let reading = meter.read(&progress, at(3610));
        assert_eq!(reading.left, Some(Duration::from_secs(90)));
        assert_eq!(
            reading.to_string(),
            " 10%  90 records  1.0 MiB  102.4 KiB/s  1m 30s left"
        );
    }

    #[test]
    fn before_the_plan_is_known_no_percent_is_told() {
        let reading = Meter::default().read(&Progress::default(), Instant::now());
        assert_eq!(reading.to_string(), "0 records  0 B  0 B/s");
    }

    #[test]
    fn what_is_checked_first_is_told_until_it_is_done() {
        let progress = Progress::default();
        progress.plan_check(4 << 20);
        progress.add_checked(1 << 20);
        let reading = || Meter::default().read(&progress, Instant::now()).to_string();
        assert!(
            reading().ends_with("  checked 1.0 MiB of 4.0 MiB"),
            "{}",
            reading()
        );
        progress.add_checked(3 << 20);
        assert!(!reading().contains("checked"), "{}", reading());
    }

    #[test]
    fn a_hundred_percent_means_all() {
        let progress = Progress::default();
        progress.plan(1000, 999);
        assert_eq!(
            Meter::default().read(&progress, Instant::now()).percent(),
            Some(99)
        );
    }
}
