//! How long, and how often, something that may pass is tried again.

use std::time::Duration;

use tokio::time::Instant;

use super::error::{KafkaError, chain};
use crate::measure::{self, Peer};
use crate::secrets::ROTATION;

/// Growing pauses up to a deadline.
pub(crate) struct Retry {
    begun: Instant,
    deadline: Instant,
    pause: Duration,
    attempts: u32,
    told: bool,
}

impl Retry {
    const FIRST_PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_secs(2);
    const FEWEST_ATTEMPTS: u32 = 3;
    const SHORT: Duration = Duration::from_secs(1);

    pub(crate) fn new(timeout: Duration) -> Self {
        let begun = Instant::now();
        Self {
            begun,
            deadline: begun + timeout,
            pause: Self::FIRST_PAUSE,
            attempts: 0,
            told: false,
        }
    }

    /// Waits before the next attempt, or gives the error back: it does not pass, or the time is over. One attempt may use up
    /// all the time on a broker that hangs, so a few are made in any case.
    pub(crate) async fn pause_or_fail(&mut self, error: KafkaError) -> Result<(), KafkaError> {
        let next = Instant::now() + self.pause;
        self.attempts += 1;
        if error.is_denied_now() {
            self.deadline = self.deadline.max(self.begun + ROTATION);
        }
        let over = next > self.deadline && self.attempts >= Self::FEWEST_ATTEMPTS;
        if !error.is_retriable() || over {
            return Err(error);
        }
        // What passes within a second is not worth a word: leaders of a new topic, say.
        if !self.told && self.begun.elapsed() > Self::SHORT {
            let more_s = self.deadline.saturating_duration_since(Instant::now());
            tracing::warn!(error = %chain(&error), for_s = more_s.as_secs(), "no answer yet, trying again");
            self.told = true;
        }
        measure::count_retry(Peer::Kafka);
        tokio::time::sleep_until(next).await;
        self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
        Ok(())
    }
}
