//! Why offsets are not as they should be.

use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::plan::SpecError;
use kafka_backup_shared::report::Fault;
use kafka_backup_shared::spec::OffsetStrategy;

use super::keeper::KeeperError;
use crate::human::some;
use crate::kafka::KafkaError;
use crate::restore::RestoreError;
use crate::store::StoreError;
use crate::verify::against::AgainstError;

/// Groups that a message names.
const NAMED: usize = 10;

/// A failure of a run over committed offsets, named by the step.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// What the object asks for cannot be.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The store.
    #[error(transparent)]
    Store(Box<StoreError>),
    /// The snapshot is damaged, or too new.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The cluster.
    #[error("failed to {step}")]
    Kafka {
        /// What was done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: KafkaError,
    },
    /// The restore whose offset map is meant.
    #[error(transparent)]
    WhichRestore(#[from] AgainstError),
    /// Its offset map.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The headers of the target's records.
    #[error(transparent)]
    Headers(#[from] super::headers::SearchError),
    /// The controller, who keeps snapshots in ConfigMaps.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// Groups with members: they would go on from what they have in memory, and commit that.
    #[error(
        "nothing was changed: consumer groups with live members cannot be reset, stop their consumers first: {}",
        some(groups, NAMED)
    )]
    Live {
        /// `<group> (<state>)`.
        groups: Vec<String>,
    },
    /// Another run has taken a snapshot of that id.
    #[error(
        "there is a snapshot {id} already in {place}, taken by run {run}: nothing was changed; choose another snapshotId"
    )]
    Exists {
        /// Its id.
        id: String,
        /// Where it is.
        place: String,
        /// Whose it is.
        run: String,
    },
    /// There is none of that id.
    #[error("there is no snapshot {id} in {place}")]
    NoSnapshot {
        /// Its id.
        id: String,
        /// Where it should be.
        place: String,
    },
    /// A file that was mounted or named cannot be read.
    #[error("failed to read {path}")]
    Read {
        /// It.
        path: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// It does not fit into a ConfigMap.
    #[error(
        "the snapshot has {size} bytes, and a ConfigMap holds {max}: nothing was changed; set spec.storage to keep it in an object store or on a volume"
    )]
    TooLarge {
        /// Its size.
        size: usize,
        /// What fits.
        max: usize,
    },
    /// Some groups, or all.
    #[error("{}", failed_line(failed, *done))]
    Groups {
        /// `<group>: <reason>`.
        failed: Vec<String>,
        /// The most severe of them.
        fault: Fault,
        /// How many are as they should be.
        done: u64,
    },
    /// They do not have what the snapshot has.
    #[error(
        "committed offsets differ from snapshot {id} in {count} places: {}",
        some(differences, NAMED)
    )]
    Mismatch {
        /// The snapshot.
        id: String,
        /// In how many places.
        count: u64,
        /// The first ones.
        differences: Vec<String>,
    },
    /// A strategy came where others are.
    #[error("strategy {0:?} needs more than the cluster; please report this")]
    Strategy(OffsetStrategy),
    /// Told to stop.
    #[error("interrupted before all groups were changed")]
    Interrupted,
}

fn failed_line(failed: &[String], done: u64) -> String {
    let verb = if failed.len() == 1 { "group" } else { "groups" };
    format!(
        "{} consumer {verb} failed, {done} did not: {}",
        failed.len(),
        some(failed, NAMED)
    )
}

impl From<StoreError> for OffsetsError {
    fn from(error: StoreError) -> Self {
        Self::Store(Box::new(error))
    }
}

impl OffsetsError {
    /// A failed step at the cluster.
    pub(crate) fn kafka(step: &'static str) -> impl Fn(KafkaError) -> Self {
        move |source| Self::Kafka { step, source }
    }

    /// What it means for the run.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Spec(_)
            | Self::Live { .. }
            | Self::Exists { .. }
            | Self::NoSnapshot { .. }
            | Self::TooLarge { .. }
            | Self::Read { .. } => Fault::Spec,
            Self::Store(error) => error.fault(),
            Self::Format(_) | Self::Mismatch { .. } => Fault::Corrupt,
            Self::Kafka { source, .. } => source.fault(),
            Self::WhichRestore(error) => error.fault(),
            Self::Restore(error) => error.fault(),
            Self::Headers(error) => error.fault(),
            Self::Keeper(error) => error.fault(),
            Self::Groups { fault, .. } => *fault,
            Self::Strategy(_) => Fault::Bug,
            Self::Interrupted => Fault::Interrupted,
        }
    }
}
