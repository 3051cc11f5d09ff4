//! One memory budget for fetch buffers and open segments.
//!
//! # Guarantees
//! - What is reserved stays at or below the limit, but for one reservation at a time that alone is larger (a batch above the
//!   budget), and for what turned out larger than asked for: answers, and batches that were encoded anew.
//! - A [`Reservation`] is given back when its last holder drops it.
//! - Nobody waits for ever as long as whoever waits with a segment in hand closes it when nothing is being stored
//!   ([`Budget::storing`]): then memory comes back only from there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The budget; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    storing: usize,
}

/// Bytes that are in use.
#[derive(Debug)]
pub(super) struct Reservation {
    shared: Arc<Shared>,
    bytes: usize,
}

/// A closed segment on its way to the store.
#[derive(Debug)]
pub(super) struct Storing {
    shared: Arc<Shared>,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        let shared = Shared {
            limit,
            state: Mutex::default(),
            changed: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes `bytes`, if they are free or nothing at all is taken.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let mut state = self.shared.state();
        if state.used > 0 && state.used.saturating_add(bytes) > self.shared.limit {
            return None;
        }
        state.used += bytes;
        Some(Reservation {
            shared: self.shared.clone(),
            bytes,
        })
    }

    /// Takes `bytes` that are in use already, whatever the limit.
    pub(super) fn add(&self, bytes: usize) -> Reservation {
        self.shared.state().used += bytes;
        Reservation {
            shared: self.shared.clone(),
            bytes,
        }
    }

    /// Whether more is in use than there should be.
    pub(super) fn is_exceeded(&self) -> bool {
        self.shared.state().used > self.shared.limit
    }

    /// Completes at the next change after this call: make it, then look, then await it.
    pub(super) fn changed(&self) -> OwnedNotified {
        self.shared.changed.clone().notified_owned()
    }

    /// Marks a segment as being stored until the guard is dropped.
    pub(super) fn start_storing(&self) -> Storing {
        self.shared.state().storing += 1;
        Storing {
            shared: self.shared.clone(),
        }
    }

    /// Segments that are being stored.
    pub(super) fn storing(&self) -> usize {
        self.shared.state().storing
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Corrects the estimate, in either direction.
    pub(super) fn resize(&mut self, bytes: usize) {
        let mut state = self.shared.state();
        state.used = state.used - self.bytes + bytes;
        let freed = bytes < self.bytes;
        self.bytes = bytes;
        drop(state);
        if freed {
            self.shared.changed.notify_waiters();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shared.state().used -= self.bytes;
        self.shared.changed.notify_waiters();
    }
}

impl Drop for Storing {
    fn drop(&mut self) {
        self.shared.state().storing -= 1;
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_but_for_a_single_large_one() {
        let budget = Budget::new(100);
        let first = budget.try_reserve(60).unwrap();
        assert!(budget.try_reserve(41).is_none());
        let second = budget.try_reserve(40).unwrap();
        drop((first, second));
        let large = budget.try_reserve(1000).unwrap();
        assert!(budget.try_reserve(1).is_none());
        drop(large);
        assert!(budget.try_reserve(100).is_some());
    }

    #[tokio::test]
    async fn a_correction_wakes_who_waits() {
        let budget = Budget::new(100);
        let mut answer = budget.try_reserve(100).unwrap();
        let changed = budget.changed();
        assert!(budget.try_reserve(50).is_none());
        answer.resize(50);
        changed.await;
        assert!(budget.try_reserve(50).is_some());
    }
}
