//! Log lines on standard error: JSON in a pod, text for people, never through a progress bar.

use std::io::{self, Write};

use indicatif::{MultiProgress, ProgressDrawTarget};
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;

use crate::args::{At, LogArgs, LogFormat};

/// Often enough for the eye.
const DRAWS_PER_SECOND: u8 = 5;

/// What log lines are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `auto` means where the worker runs.
pub fn format(args: &LogArgs, at: At) -> Format {
    match (args.log_format, at) {
        (LogFormat::Text, _) | (LogFormat::Auto, At::Terminal) => Format::Text,
        (LogFormat::Json, _) | (LogFormat::Auto, At::Pod) => Format::Json,
    }
}

/// The level where none was named: a terminal has a bar and a summary, a pod has only its log.
pub fn level(args: &LogArgs, at: At) -> &str {
    match (&args.log_level, at) {
        (Some(level), _) => level,
        (None, At::Pod) => "info",
        (None, At::Terminal) => "warn",
    }
}

/// Sends log lines to standard error from now on; the bars that are added to the answer step aside for them.
///
/// # Errors
/// The level is not one, nor a list of directives.
pub fn install(level: &str, format: Format) -> Result<MultiProgress, ParseError> {
    let filter = EnvFilter::builder().parse(level)?;
    let bars =
        MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Stderr(bars.clone()));
    match format {
        Format::Text => builder
            .with_target(false)
            .with_ansi(console_colors())
            .init(),
        Format::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_ansi(false)
            .init(),
    }
    Ok(bars)
}

fn console_colors() -> bool {
    io::IsTerminal::is_terminal(&io::stderr()) && std::env::var_os("NO_COLOR").is_none()
}

/// Standard error, below which the bars are drawn.
#[derive(Clone)]
struct Stderr(MultiProgress);

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Stderr {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::OutputFormat;

    #[test]
    fn logs_are_json_in_a_pod_and_text_at_a_terminal() {
        let args = |log_format| LogArgs {
            output: OutputFormat::Text,
            log_format,
            log_level: None,
        };
        let cases = [
            (LogFormat::Auto, At::Pod, Format::Json),
            (LogFormat::Auto, At::Terminal, Format::Text),
            (LogFormat::Text, At::Pod, Format::Text),
            (LogFormat::Json, At::Terminal, Format::Json),
        ];
        for (wanted, at, expected) in cases {
            assert_eq!(format(&args(wanted), at), expected);
        }
    }
}
