//! What the probes on :8081 ask.
//!
//! # Guarantees
//! - Alive: every reconcile loop has made progress within [`STALLED`]. Whether the API server answers does not matter:
//!   a restart would not bring it back.
//! - Ready: the watch caches are synced, so that the totals on the page are whole. Once ready, it stays ready: losing the
//!   API server, a missing CRD and another leader must not take the endpoint of the metrics Service away. They are named.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a loop may be silent before the process counts as stuck.
pub(crate) const STALLED: Duration = Duration::from_secs(120);

/// Heartbeats of the loops, and what readiness still waits for.
#[derive(Default)]
pub(crate) struct Health {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    beats: BTreeMap<&'static str, Instant>,
    awaited: Vec<&'static str>,
    notes: BTreeMap<&'static str, String>,
}

/// The heartbeat of one loop, until it is dropped.
pub(crate) struct Heartbeat {
    health: Arc<Health>,
    name: &'static str,
}

impl Health {
    /// Not ready until each of `awaited` has [arrived](Self::arrived).
    pub(crate) fn awaiting(awaited: &[&'static str]) -> Arc<Self> {
        let health = Self::default();
        health.state().awaited = awaited.to_vec();
        Arc::new(health)
    }

    /// Takes one thing off the list that readiness waits for.
    pub(crate) fn arrived(&self, what: &'static str) {
        self.state().awaited.retain(|awaited| *awaited != what);
    }

    /// Has a trouble of `what` named until it is taken back with `None`; it changes neither life nor readiness.
    pub(crate) fn note(&self, what: &'static str, trouble: Option<String>) {
        let mut state = self.state();
        match trouble {
            Some(trouble) => state.notes.insert(what, trouble),
            None => state.notes.remove(what),
        };
    }

    /// The troubles, one a line.
    pub(crate) fn notes(&self) -> String {
        let state = self.state();
        let lines = state.notes.iter();
        lines
            .map(|(what, trouble)| format!("{what} {trouble}\n"))
            .collect()
    }

    /// Adds a loop that must beat at least every [`STALLED`], also when it has nothing to do.
    pub(crate) fn heartbeat(self: &Arc<Self>, name: &'static str) -> Heartbeat {
        let heartbeat = Heartbeat {
            health: self.clone(),
            name,
        };
        heartbeat.beat();
        heartbeat
    }

    /// Says what is stuck.
    pub(crate) fn check_alive(&self, now: Instant) -> Result<(), String> {
        for (name, beat) in &self.state().beats {
            let silent = now.saturating_duration_since(*beat);
            if silent > STALLED {
                let silent = silent.as_secs();
                return Err(format!(
                    "the {name} loop has made no progress for {silent} s"
                ));
            }
        }
        Ok(())
    }

    /// Says what is not there yet.
    pub(crate) fn check_ready(&self) -> Result<(), String> {
        let state = self.state();
        if state.awaited.is_empty() {
            return Ok(());
        }
        Err(format!("waiting for {}", state.awaited.join(", ")))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is a single assignment, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heartbeat {
    /// The loop has made progress.
    pub(crate) fn beat(&self) {
        self.health.state().beats.insert(self.name, Instant::now());
    }
}

impl Drop for Heartbeat {
    /// A loop that has ended is not a silent one.
    fn drop(&mut self) {
        self.health.state().beats.remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_loop_is_named_and_others_do_not_hide_it() {
        let health = Health::awaiting(&[]);
        let backup = health.heartbeat("backup");
        let start = Instant::now();
        assert_eq!(health.check_alive(start), Ok(()));
        let later = start + STALLED + Duration::from_secs(1);
        let stuck = health.check_alive(later).unwrap_err();
        assert_eq!(stuck, "the backup loop has made no progress for 121 s");
        backup.beat();
        assert_eq!(health.check_alive(Instant::now()), Ok(()));
        drop(backup);
        assert_eq!(health.check_alive(later + STALLED), Ok(()));
    }

    #[test]
    fn troubles_are_named_until_they_are_over() {
        let health = Health::awaiting(&[]);
        health.note("KafkaRestore", Some("has no CRD".into()));
        health.note("KafkaBackup", Some("has no CRD".into()));
        health.note("KafkaBackup", None);
        assert_eq!(health.notes(), "KafkaRestore has no CRD\n");
        assert_eq!(health.check_ready(), Ok(()));
    }

    #[test]
    fn ready_when_everything_awaited_has_arrived() {
        let health = Health::awaiting(&["backups", "restores"]);
        assert_eq!(
            health.check_ready().unwrap_err(),
            "waiting for backups, restores"
        );
        health.arrived("restores");
        health.arrived("restores");
        assert_eq!(health.check_ready().unwrap_err(), "waiting for backups");
        health.arrived("backups");
        assert_eq!(health.check_ready(), Ok(()));
    }
}
