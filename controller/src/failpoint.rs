//! Every write of a run's life, by name, and the places at which tests end the process: right before and right after each.
//! And what else a test changes about a controller.
//!
//! # Guarantees
//! - [`Write`] is complete for what a reconcile or a push writes: no such request is sent but through
//!   [`Gate::pass`](crate::gate::Gate::pass), which wants one.

use std::fmt;
use std::str::FromStr;

use jiff::SignedDuration;

macro_rules! writes {
    ($($(#[doc = $about:literal])+ $name:ident,)*) => {
        /// A write of a run's life.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Write {
            $($(#[doc = $about])+ $name,)*
        }

        impl Write {
            /// All, in the order of a life.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

writes! {
    /// The status gets an `activeRun`.
    Decide,
    /// The Job of the run is created.
    CreateJob,
    /// The Event that the run has a Job.
    TellStarted,
    /// The status gets the Job's UID.
    RecordJob,
    /// The status gets what the worker has told of its progress.
    Progress,
    /// The ConfigMap with the snapshot of committed offsets is created that a run has taken.
    KeepSnapshot,
    /// Such a ConfigMap is deleted, because a run is to do that.
    DeleteSnapshot,
    /// The status names another Job for the same run, because the first one's report was lost.
    RepeatJob,
    /// The Event that the run is over.
    TellEnded,
    /// The `activeRun` leaves the status, for history and held totals.
    Account,
    /// The Job gets the mark that its run is accounted, and its time to live.
    MarkJob,
    /// Held runs enter the counters.
    Release,
    /// A Job that is accounted is deleted.
    DeleteJob,
    /// The Event that a stray was deleted.
    TellStray,
    /// A Job that no status knows is deleted.
    DeleteStray,
    /// The Event that a pod is given up whose node is lost.
    TellLost,
    /// Such a pod is deleted, which its Job's finalizer delays.
    DeletePod,
    /// Such a pod is marked as failed.
    MarkPod,
    /// The Events of a status that changes in another way.
    Tell,
    /// A status that changes in another way.
    Show,
}

/// On which side of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Before the request is sent.
    Before,
    /// After its answer has come.
    After,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Before, Self::After];
}

/// Where a process is to end, the first time that it comes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Failpoint {
    /// On which side.
    pub side: Side,
    /// Of which write.
    pub write: Write,
}

/// What a test changes about a controller; nothing by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trial {
    /// Where the process ends itself.
    pub dies: Option<Failpoint>,
    /// How long a pod of a silent node is waited for, instead of minutes.
    pub lost_after: Option<SignedDuration>,
}

impl Failpoint {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let of = |write: &Write| {
            Side::ALL.map(|side| Self {
                side,
                write: *write,
            })
        };
        Write::ALL.iter().flat_map(of)
    }
}

impl fmt::Display for Failpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{:?}", self.side, self.write)
    }
}

impl FromStr for Failpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::all()
            .find(|known| known.to_string() == text)
            .ok_or_else(|| format!("expected a failpoint such as Before:CreateJob, found {text:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_is_read_as_it_is_written() {
        assert_eq!(Failpoint::all().count(), 2 * Write::ALL.len());
        for failpoint in Failpoint::all() {
            assert_eq!(failpoint.to_string().parse(), Ok(failpoint));
        }
        assert!("before:CreateJob".parse::<Failpoint>().is_err());
    }
}
