//! Why a look at an object did not come to its end.

use std::time::Duration;

use kafka_backup_shared::report::error_chain;
use kube::Error;

/// A request that the API server did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// The request failed.
    #[error("failed to {step}")]
    Api {
        /// What was tried, with the object's name.
        step: String,
        /// The API server's answer, or why there was none.
        #[source]
        source: Box<Error>,
    },
    /// An answer did not come.
    #[error("the API server did not answer within {} s", limit.as_secs())]
    Late {
        /// How long was waited.
        limit: Duration,
    },
}

impl ReconcileError {
    /// A failed request.
    pub(crate) fn api(step: impl Into<String>, source: Error) -> Self {
        Self::Api {
            step: step.into(),
            source: Box::new(source),
        }
    }

    /// The error with its causes; of the API server's answer its message and code.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    pub(crate) fn chain(&self) -> String {
        match self {
            Self::Api { source, .. } => match &**source {
                Error::Api(status) => format!("{self}: {} ({})", status.message, status.code),
                other => format!("{self}: {}", error_chain(other)),
            },
            Self::Late { .. } => self.to_string(),
        }
    }
}
