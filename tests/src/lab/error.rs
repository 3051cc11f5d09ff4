//! What can go wrong in the lab, said so that the person at the terminal can act on it.

use std::io;
use std::path::PathBuf;

/// A failed step of the lab.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A file or process operation of the operating system failed.
    #[error("failed to {what}")]
    Io { what: String, source: io::Error },
    /// A program was started and ended with a failure; `output` is the end of what it said.
    #[error("{program} failed ({status}): {output}")]
    Program {
        program: String,
        status: String,
        output: String,
    },
    /// A process of the lab ended although it should run; `tail` is the end of its log.
    #[error("{name} has ended, the end of {log} says:\n{tail}")]
    Died {
        name: String,
        log: PathBuf,
        tail: String,
    },
    /// Something did not come about in time.
    #[error("gave up after {seconds} s waiting for {what}")]
    Timeout { what: String, seconds: u64 },
    /// A toolchain that the lab does not install by itself.
    #[error(
        "{program} was not found: the lab needs {needed}; install it and run the command again"
    )]
    Toolchain { program: String, needed: String },
    /// The lab is not in the state that the command needs.
    #[error("{0}")]
    State(String),
    /// Several components failed at once.
    #[error("{}", .0.iter().map(chain).collect::<Vec<_>>().join("\n"))]
    Several(Vec<LabError>),
}

/// The error and its causes on one line, joined with `: `.
pub fn chain(error: &LabError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Says which step an operating system error belongs to.
pub trait Doing<T> {
    /// `what` completes the sentence "failed to ...".
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|source| LabError::Io {
            what: what(),
            source,
        })
    }
}
