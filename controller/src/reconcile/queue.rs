//! A keyed delay queue: which objects are to be looked at, and when.
//!
//! # Guarantees
//! - A key is in it once; adding it again keeps the earlier time.
//! - A key that is being worked on is handed out again only after [`Queue::done`].

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kube::{Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

impl Key {
    /// The key of an object.
    pub(crate) fn of(object: &impl Resource) -> Self {
        Self {
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the queue's metrics show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueCounts {
    /// Objects that are due and not being worked on.
    pub(crate) depth: u64,
    /// Objects that were put in, after de-duplication.
    pub(crate) adds: u64,
}

/// The queue of one kind.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    times: HashMap<Key, Instant>,
    order: BTreeSet<(Instant, Key)>,
    busy: HashSet<Key>,
    adds: u64,
}

impl Queue {
    /// Has `key` looked at when `at` has come.
    pub(crate) fn add(&self, key: Key, at: Instant) {
        self.lock().add(key, at);
        self.changed.notify_one();
    }

    /// Waits for the next key that is due and marks it as being worked on.
    pub(crate) async fn next(&self) -> Key {
        loop {
            let changed = self.changed.notified();
            let next = match self.lock().take(Instant::now()) {
                Ok(key) => return key,
                Err(next) => next,
            };
            match next {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// Ends the work on `key`, and has it looked at again at `again`.
    pub(crate) fn done(&self, key: Key, again: Option<Instant>) {
        let mut inner = self.lock();
        inner.busy.remove(&key);
        if let Some(at) = again {
            inner.add(key, at);
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// What the metrics show now.
    pub(crate) fn counts(&self) -> QueueCounts {
        let inner = self.lock();
        let now = Instant::now();
        let due = inner.order.iter().take_while(|(at, _)| *at <= now);
        let waiting = due.filter(|(_, key)| !inner.busy.contains(key));
        QueueCounts {
            depth: waiting.count() as u64,
            adds: inner.adds,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, key: Key, at: Instant) {
        match self.times.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                self.order.remove(&(*later, key.clone()));
            }
            None => self.adds += 1,
        }
        self.times.insert(key.clone(), at);
        self.order.insert((at, key));
    }

    /// The first key that is due and free, else when to look again.
    fn take(&mut self, now: Instant) -> Result<Key, Option<Instant>> {
        let free = self
            .order
            .iter()
            .find(|(_, key)| !self.busy.contains(key))
            .cloned();
        let Some((at, key)) = free else {
            return Err(None);
        };
        if at > now {
            return Err(Some(at));
        }
        self.order.remove(&(at, key.clone()));
        self.times.remove(&key);
        self.busy.insert(key.clone());
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            namespace: "n".into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_key_is_handed_out_once_and_at_its_earliest_time() {
        let now = Instant::now();
        let mut inner = Inner::default();
        inner.add(key("a"), now + Duration::from_secs(9));
        inner.add(key("a"), now);
        inner.add(key("a"), now + Duration::from_secs(5));
        inner.add(key("b"), now + Duration::from_secs(1));
        assert_eq!(inner.take(now), Ok(key("a")));
        assert_eq!(inner.take(now), Err(Some(now + Duration::from_secs(1))));
    }

    #[test]
    fn what_is_due_and_not_at_work_is_waiting() {
        let now = Instant::now();
        let queue = Queue::default();
        queue.add(key("a"), now);
        queue.add(key("a"), now);
        queue.add(key("b"), now);
        queue.add(key("c"), now + Duration::from_secs(60));
        assert_eq!(queue.counts(), QueueCounts { depth: 2, adds: 3 });
        assert!(queue.lock().take(Instant::now()).is_ok());
        assert_eq!(queue.counts(), QueueCounts { depth: 1, adds: 3 });
    }

    #[test]
    fn a_key_at_work_waits_for_its_end_and_does_not_block_others() {
        let now = Instant::now();
        let mut inner = Inner::default();
        inner.add(key("a"), now);
        assert_eq!(inner.take(now), Ok(key("a")));
        inner.add(key("a"), now);
        assert_eq!(inner.take(now), Err(None));
        inner.add(key("b"), now + Duration::from_secs(1));
        assert_eq!(inner.take(now + Duration::from_secs(1)), Ok(key("b")));
        inner.busy.remove(&key("a"));
        assert_eq!(inner.take(now), Ok(key("a")));
    }
}
