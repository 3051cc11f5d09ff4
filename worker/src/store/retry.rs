//! Attempts: each with a time-out, repeated while their failure passes.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Store;
use super::error::{self, Answer, Meaning, StoreError};
use crate::measure::{self, Peer, StoreRequest};
use crate::secrets::ROTATION;

/// One attempt.
pub(super) async fn limited<T>(
    what: StoreRequest,
    limit: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, Failure> {
    tracing::trace!("waiting for the store");
    let sent = Instant::now();
    let answer = timeout(limit, request).await;
    measure::observe_store(what, sent.elapsed());
    match answer {
        Ok(answer) => answer.map_err(Failure::Answered),
        Err(_) => Err(Failure::TimedOut(limit)),
    }
}

/// Why one attempt did not get its answer.
pub(super) enum Failure {
    Answered(object_store::Error),
    TimedOut(Duration),
}

impl Failure {
    pub(super) fn meaning(&self) -> Meaning {
        match self {
            Self::Answered(error) => error::meaning(error),
            Self::TimedOut(_) => Meaning::Passing,
        }
    }

    pub(super) fn line(&self) -> String {
        match self {
            Self::Answered(error) => error.to_string(),
            Self::TimedOut(limit) => format!("no answer within {} s", limit.as_secs()),
        }
    }

    pub(super) fn into_error(self, step: &'static str, key: &str, store: &Store) -> StoreError {
        let key = if key.is_empty() {
            "the archives".to_owned()
        } else {
            key.to_owned()
        };
        let meaning = self.meaning();
        let store = store.place.clone();
        match self {
            Self::Answered(error) => StoreError::Request {
                step,
                key,
                store,
                meaning,
                source: Answer(Box::new(error)),
            },
            Self::TimedOut(limit) => StoreError::TimedOut {
                step,
                key,
                store,
                seconds: limit.as_secs(),
            },
        }
    }
}

/// Growing pauses up to a deadline.
pub(super) struct Retry {
    begun: Instant,
    deadline: Instant,
    pause: Duration,
    told: bool,
}

impl Retry {
    pub(super) fn new(patience: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            deadline: begun + patience,
            pause: Duration::from_millis(100),
            told: false,
        }
    }

    /// Waits before the next attempt, or fails: the cause does not pass, or the time is over.
    pub(super) async fn pause_or_fail(
        &mut self,
        failure: Failure,
        step: &'static str,
        key: &str,
        store: &Store,
    ) -> Result<(), StoreError> {
        // A conflict without an object to conflict with: somebody's write was under way.
        let passes = store.may_pass(failure.meaning());
        if failure.meaning() == Meaning::Denied {
            self.deadline = self.deadline.max(self.begun + ROTATION);
        }
        if !passes || Instant::now() + self.pause > self.deadline {
            return Err(failure.into_error(step, key, store));
        }
        if !self.told {
            tracing::warn!(step, key, store = %store.place, error = %failure.line(), "store failed, trying again");
            self.told = true;
        }
        measure::count_retry(Peer::Store);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(Duration::from_secs(5));
        Ok(())
    }
}
