//! From what an engine returned to the one Report of a run, and where it is left.
//!
//! # Guarantees
//! - Only what an engine calls completed becomes a success.
//! - A panic, anywhere, leaves a report with [`Fault::Bug`] and ends the process with its exit code; but for those of rdkafka that
//!   the reader expects and catches.

use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use kafka_backup_shared::plan::RunRef;
use kafka_backup_shared::report::{
    Fault, HeldBack, OffsetsReport, Outcome, Report, RetentionHeld, error_chain,
};
use tracing::warn;

use crate::context::{Completed, Progress};
use crate::reader;

/// Why a run is not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub fault: Fault,
    /// What failed, expected and found.
    pub message: String,
    /// What became of committed offsets all the same.
    pub offsets: Option<Box<OffsetsReport>>,
}

impl Failure {
    /// A failure as an error tells it, with its sources.
    pub fn new(fault: Fault, error: &dyn std::error::Error) -> Self {
        Self {
            fault,
            message: error_chain(error),
            offsets: None,
        }
    }
}

/// An attempt under way.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Whose run it is.
    pub run: RunRef,
    /// When it began.
    pub start_time: Timestamp,
    /// What is durable.
    pub progress: Arc<Progress>,
    /// Where the short report is left.
    pub termination_log: Option<PathBuf>,
}

impl Attempt {
    /// The report of an attempt that ends at `now`.
    pub fn report(&self, result: Result<Completed, Failure>, now: Timestamp) -> Report {
        match result {
            Ok(completed) => Report {
                run: self.run.clone(),
                outcome: Outcome::Success,
                start_time: self.start_time,
                completion_time: now,
                records: completed.records,
                bytes: completed.bytes,
                gaps: completed.gaps,
                new_gaps: completed.new_gaps,
                lag: completed.lag,
                retention: completed.retention,
                held_back: completed.held_back,
                retention_held: completed.retention_held,
                backup_id: completed.backup_id,
                dry_run: completed.dry_run,
                offsets: completed.offsets,
                warnings: completed.warnings,
                topics: completed.topics,
            },
            Err(Failure {
                fault,
                message,
                offsets,
            }) => Report {
                run: self.run.clone(),
                outcome: Outcome::Failure { fault, message },
                start_time: self.start_time,
                completion_time: now,
                records: self.progress.records(),
                bytes: self.progress.bytes(),
                gaps: 0,
                new_gaps: 0,
                lag: None,
                retention: None,
                held_back: HeldBack::default(),
                retention_held: RetentionHeld::default(),
                backup_id: None,
                dry_run: None,
                offsets: offsets.map(|offsets| *offsets),
                warnings: Vec::new(),
                topics: Vec::new(),
            },
        }
    }

    /// Leaves the short form for the kubelet. That it could not be left is no reason to fail: the exit code says the most of it.
    pub fn leave(&self, report: &Report) {
        leave_text(
            self.termination_log.as_deref(),
            &report.to_termination_message(),
        );
    }

    /// Ends the process on a panic in any thread, with a report, but for one that the reader expects and catches.
    pub fn report_panics(&self) {
        let attempt = self.clone();
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if reader::panic_is_expected() {
                return;
            }
            let place = info
                .location()
                .map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
            let payload = info.payload();
            let text = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("a panic without text");
            let failure = Failure {
                fault: Fault::Bug,
                message: format!("{text}{place}; please report this"),
                offsets: None,
            };
            let report = attempt.report(Err(failure), Timestamp::now());
            attempt.leave(&report);
            default(info);
            std::process::exit(report.exit_code().into());
        }));
    }
}

/// Leaves `text` for the kubelet, which cuts what is too long.
pub fn leave_text(termination_log: Option<&Path>, text: &str) {
    let Some(path) = termination_log else { return };
    if let Err(error) = std::fs::write(path, text) {
        warn!(path = %path.display(), %error, "failed to write the termination log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt() -> Attempt {
        let progress = Arc::new(Progress::default());
        progress.plan(100, 0);
        progress.add(7, 70, 8);
        Attempt {
            run: RunRef::example(),
            start_time: Timestamp::UNIX_EPOCH,
            progress,
            termination_log: None,
        }
    }

    #[test]
    fn completed_work_is_success_with_its_own_counts() {
        let completed = Completed {
            records: 5,
            bytes: 50,
            gaps: 1,
            new_gaps: 1,
            lag: Some(9),
            retention: None,
            warnings: vec!["w".into()],
            ..Completed::default()
        };
        let report = attempt().report(Ok(completed), Timestamp::UNIX_EPOCH);
        assert_eq!(report.exit_code(), 0);
        assert_eq!((report.records, report.bytes, report.gaps), (5, 50, 1));
        assert_eq!((report.new_gaps, report.lag), (1, Some(9)));
    }

    #[test]
    fn interrupted_run_is_not_success() {
        let failure = Failure {
            fault: Fault::Interrupted,
            message: "told to stop".into(),
            offsets: None,
        };
        let report = attempt().report(Err(failure), Timestamp::UNIX_EPOCH);
        assert_eq!(report.exit_code(), 143);
        assert_eq!(
            (report.records, report.bytes),
            (7, 70),
            "what is durable counts"
        );
    }

    #[test]
    fn the_termination_log_holds_the_report() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("termination-log");
        // The kubelet makes the file; an earlier, longer text must not shine through.
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        let attempt = Attempt {
            termination_log: Some(path.clone()),
            ..attempt()
        };
        let report = attempt.report(
            Err(Failure {
                fault: Fault::Denied,
                message: "no".into(),
                offsets: None,
            }),
            Timestamp::UNIX_EPOCH,
        );
        attempt.leave(&report);
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(Report::from_termination_message(&text), Some(report));
    }
}
