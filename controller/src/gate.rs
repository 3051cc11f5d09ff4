//! The one way by which the life of a run is written.
//!
//! # Guarantees
//! - Nothing is sent by a process that does not lead, or whose lease is over by its own clock. What was sent before and
//!   arrives late is refused by the API server (resourceVersion, UID) or found as a stray.

use std::sync::Arc;

use crate::failpoint::{Failpoint, Side, Write};
use crate::leadership::{Leadership, NotLeading};

/// Lets the leader's writes through.
pub(crate) struct Gate {
    leadership: Arc<Leadership>,
    failpoint: Option<Failpoint>,
}

impl Gate {
    /// A gate that is open while `leadership` lasts. The process ends itself at `failpoint`.
    pub(crate) fn new(leadership: Arc<Leadership>, failpoint: Option<Failpoint>) -> Self {
        Self {
            leadership,
            failpoint,
        }
    }

    /// Whether writes would pass now.
    pub(crate) fn check(&self) -> Result<(), NotLeading> {
        self.leadership.check()
    }

    /// Sends `request`, if this process leads.
    ///
    /// # Errors
    /// The request's; or [`NotLeading`], as the service error that a refusing client would have.
    pub(crate) async fn pass<T>(
        &self,
        write: Write,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, kube::Error> {
        self.check()
            .map_err(|error| kube::Error::Service(Box::new(error)))?;
        self.reach(Side::Before, write);
        let answer = request.await;
        self.reach(Side::After, write);
        answer
    }

    fn reach(&self, side: Side, write: Write) {
        if self.failpoint == Some(Failpoint { side, write }) {
            // As a kill: no destructor, no goodbye to the API server.
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    async fn is_sent(gate: &Gate) -> bool {
        let sent = AtomicBool::new(false);
        let request = async {
            sent.store(true, Ordering::Relaxed);
            Ok::<_, kube::Error>(())
        };
        let passed = gate.pass(Write::Show, request).await.is_ok();
        assert_eq!(passed, sent.load(Ordering::Relaxed));
        passed
    }

    #[tokio::test]
    async fn only_the_leader_sends_and_only_while_its_lease_lasts() {
        let leadership = Arc::new(Leadership::following());
        let gate = Gate::new(leadership.clone(), None);
        assert!(!is_sent(&gate).await);
        leadership.lead_until(Instant::now() + Duration::from_secs(60));
        assert!(is_sent(&gate).await);
        leadership.lead_until(Instant::now());
        assert!(!is_sent(&gate).await);
    }
}
