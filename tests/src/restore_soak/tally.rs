//! What happened in a soak of restores.

use std::collections::BTreeMap;
use std::fmt;

/// Something that befell a worker that was at work on a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// It was killed (SIGKILL).
    Killed,
    /// It was told to stop (SIGTERM).
    Terminated,
    /// It was frozen (SIGSTOP), and another one was started.
    Frozen,
    /// It was frozen while brokers did not answer, so that it had requests in flight.
    FrozenInFlight,
    /// It was thawed while its successor was at work.
    ThawedBeside,
    /// A broker was killed and started again.
    BrokerKilled,
    /// A broker was stopped in good order and started again.
    BrokerStopped,
    /// A broker was frozen, and thawed again.
    BrokerPaused,
    /// All brokers but one were frozen for longer than a produce may take.
    FollowersPaused,
    /// A partition that it wrote to got another leader.
    LeaderMoved,
    /// It was killed while a broker was down or frozen.
    KilledMeanwhile,
    /// It had ended before anything could befall it.
    Missed,
    /// It could not tell what had become of a batch, or where to send it, and looked at the partition again.
    LookedAgain,
    /// A leader told it that the followers did not have a batch in time: it may be in the log, or not.
    ProduceTimedOut,
    /// It ended as corrupt, since a frozen one had written after its successor.
    StoppedAsCorrupt,
}

impl Event {
    /// All of them, in the order in which they are told.
    pub const ALL: [(Self, &str); 15] = [
        (Self::Killed, "workers killed"),
        (Self::Terminated, "told to stop"),
        (Self::Frozen, "frozen and replaced"),
        (Self::FrozenInFlight, "of them with requests in flight"),
        (Self::ThawedBeside, "thawed beside their successor"),
        (Self::KilledMeanwhile, "killed while brokers were away"),
        (Self::BrokerKilled, "brokers killed"),
        (Self::BrokerStopped, "brokers stopped"),
        (Self::BrokerPaused, "brokers frozen"),
        (Self::FollowersPaused, "times all followers frozen"),
        (Self::LeaderMoved, "leaders moved"),
        (Self::Missed, "faults too late"),
        (Self::LookedAgain, "partitions looked at again"),
        (Self::ProduceTimedOut, "of them after a produce timed out"),
        (Self::StoppedAsCorrupt, "stopped as corrupt"),
    ];
}

/// What happened.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub rounds: u64,
    /// Records compared, all rounds together.
    pub records: u64,
    events: BTreeMap<Event, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, event: Event, times: u64) {
        *self.events.entry(event).or_default() += times;
    }

    /// How often something happened.
    pub fn count(&self, event: Event) -> u64 {
        self.events.get(&event).copied().unwrap_or(0)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} restores: ", self.rounds)?;
        for (event, name) in Event::ALL {
            // What never happened is told too.
            write!(f, "{} {name}, ", self.count(event))?;
        }
        write!(
            f,
            "{} records compared, none lost, none doubled",
            self.records
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_told_too() {
        let mut tally = Tally::default();
        tally.add(Event::LeaderMoved, 3);
        tally.add(Event::LeaderMoved, 2);
        let text = tally.to_string();
        assert!(text.contains("5 leaders moved"), "{text}");
        assert!(text.contains("0 workers killed"), "{text}");
        let told: BTreeMap<Event, &str> = Event::ALL.into_iter().collect();
        assert_eq!(told.len(), Event::ALL.len(), "one is told twice");
    }
}
