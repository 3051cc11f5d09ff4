//! Since when the present value of an object's run counters has been exposed by this process.
//!
//! A counter that appears as 1 is invisible to `increase()`: Prometheus must have seen the value before it. So an
//! increment is held until the value before it has been on the page for some scrapes' time.
//!
//! # Guarantees
//! - The time counts per outcome, from the moment at which this process first saw the value in what it serves. A new
//!   process, a re-created object (another uid) and every new value start at 0.
//!
//! # Assumptions
//! - Counters of one uid only rise, so that a value seen twice has been there all the time between.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kafka_backup_shared::status::{RunOutcome, Totals};

/// How long the present values of an object's run counters have been exposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exposed {
    /// The success series.
    pub(crate) success: Duration,
    /// The failure series.
    pub(crate) failure: Duration,
}

impl Exposed {
    /// The series of `outcome`.
    pub(crate) fn of(&self, outcome: RunOutcome) -> Duration {
        match outcome {
            RunOutcome::Success => self.success,
            RunOutcome::Failure => self.failure,
        }
    }
}

/// When each object's present values were first seen on the page.
#[derive(Debug, Default)]
pub(crate) struct Exposure {
    objects: HashMap<String, [Seen; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    runs: u64,
    since: Instant,
}

impl Exposure {
    /// Notes that `totals` of the object `uid` are on the page at `now`, and tells for how long they have been.
    pub(crate) fn observe(&mut self, uid: &str, totals: &Totals, now: Instant) -> Exposed {
        let fresh = RunOutcome::ALL.map(|outcome| Seen {
            runs: totals.of(outcome).runs,
            since: now,
        });
        let known = self.objects.entry(uid.to_owned()).or_insert(fresh);
        for (known, fresh) in known.iter_mut().zip(fresh) {
            if known.runs != fresh.runs {
                *known = fresh;
            }
        }
        let [success, failure] = known.map(|seen| now.saturating_duration_since(seen.since));
        Exposed { success, failure }
    }

    /// Forgets objects that are gone.
    pub(crate) fn retain(&mut self, is_live: impl Fn(&str) -> bool) {
        self.objects.retain(|uid, _| is_live(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_per_outcome_from_first_sight_of_the_present_value() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let secs = |exposed: Exposed| (exposed.success.as_secs(), exposed.failure.as_secs());
        let mut exposure = Exposure::default();
        let mut totals = Totals::default();

        assert_eq!(secs(exposure.observe("a", &totals, at(0))), (0, 0));
        assert_eq!(secs(exposure.observe("a", &totals, at(60))), (60, 60));
        totals.success.add(1);
        assert_eq!(secs(exposure.observe("a", &totals, at(100))), (0, 100));
        totals.records = 5;
        assert_eq!(secs(exposure.observe("a", &totals, at(130))), (30, 130));
        assert_eq!(secs(exposure.observe("b", &totals, at(130))), (0, 0));

        exposure.retain(|uid| uid == "b");
        assert_eq!(secs(exposure.observe("a", &totals, at(140))), (0, 0));
        assert_eq!(secs(exposure.observe("b", &totals, at(140))), (10, 10));
    }
}
