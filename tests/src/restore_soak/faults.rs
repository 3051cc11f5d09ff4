//! What befalls a restore, and when.

use std::time::Duration;

use crate::soak::Random;

/// What befalls a worker that restores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Terminate,
    /// It is frozen and another one started. The first goes on beside it or after it.
    Replace,
    /// The same, while the brokers do not answer: what it has sent is in flight. It goes on beside the other one.
    ReplaceInFlight,
    KillBroker,
    StopBroker,
    PauseBroker,
    /// All brokers but one are frozen until produce requests have timed out.
    PauseFollowers,
    MoveLeaders,
}

use Fault::*;

/// In which order they come first in a round.
const ON_ONE: [Fault; 7] = [
    Kill,
    ReplaceInFlight,
    KillBroker,
    Terminate,
    StopBroker,
    Replace,
    PauseBroker,
];
const ON_THREE: [Fault; 9] = [
    MoveLeaders,
    PauseFollowers,
    ReplaceInFlight,
    StopBroker,
    PauseBroker,
    Kill,
    KillBroker,
    Terminate,
    Replace,
];

/// When something happens to a worker.
#[derive(Debug, Clone, Copy)]
pub(super) enum Point {
    Millis(u64),
    /// When there are so many pieces of the offset map.
    Pieces(usize),
}

impl Fault {
    /// The first of a round: each in its turn.
    pub(super) fn first(round: u64, brokers: u16) -> Self {
        let all = all(brokers);
        all[(round % all.len() as u64) as usize]
    }

    /// A later one of a round: any, but none that lasts.
    pub(super) fn later(random: &mut Random, brokers: u16) -> Self {
        let all = all(brokers);
        loop {
            let fault = all[random.below(all.len() as u64) as usize];
            if fault != PauseFollowers {
                return fault;
            }
        }
    }

    /// When it comes, where `pieces` are stored.
    pub(super) fn point(self, random: &mut Random, pieces: usize) -> Point {
        let soon = matches!(self, Kill | Terminate) && random.below(3) == 0;
        match soon {
            true => Point::Millis(random.below(400)),
            false => Point::Pieces(pieces + 1 + random.below(8) as usize),
        }
    }

    /// Records per second at which a worker still has work to do when it has come; `None` is as fast as can be.
    pub(super) fn pace(self) -> Option<u64> {
        match self {
            Kill | Terminate => None,
            Replace | ReplaceInFlight | KillBroker | StopBroker | PauseBroker | PauseFollowers => {
                Some(9000)
            }
            MoveLeaders => Some(4000),
        }
    }

    /// How long a broker is away or frozen.
    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    pub(super) fn lasts(self, random: &mut Random) -> Duration {
        Duration::from_millis(match self {
            // Up to more than the session of a broker: it is deposed, and does not know.
            PauseBroker => 200 + random.below(6000),
            // The worker gives brokers 30 s for a produce.
            PauseFollowers => 33_000,
            ReplaceInFlight => 100 + random.below(300),
            _ => random.below(1500),
        })
    }
}

fn all(brokers: u16) -> &'static [Fault] {
    match brokers {
        1 => &ON_ONE,
        _ => &ON_THREE,
    }
}
