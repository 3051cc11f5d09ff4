//! SIGTERM and SIGINT.
//!
//! # Guarantees
//! - The first one asks the run to stop at a point from which a later attempt goes on; the second one ends the process.
//! - Either way the run is [`Fault::Interrupted`] unless its engine had completed.

use std::io;

use jiff::Timestamp;
use kafka_backup_shared::report::Fault;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::outcome::{Attempt, Failure};

/// The signals that end a run; from now on they do not end the process by themselves.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    /// The system refuses.
    pub fn take() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Cancels at the first signal, ends the process at the second.
    pub async fn obey(mut self, cancel: CancellationToken, attempt: Attempt) {
        let name = self.next().await;
        warn!(
            signal = name,
            "stopping: what is whole is stored; a second signal ends at once"
        );
        cancel.cancel();
        let name = self.next().await;
        warn!(signal = name, "ended at once");
        let failure = Failure {
            fault: Fault::Interrupted,
            message: format!("told to stop by {name}, twice"),
            offsets: None,
        };
        let report = attempt.report(Err(failure), Timestamp::now());
        attempt.leave(&report);
        std::process::exit(report.exit_code().into());
    }
}
