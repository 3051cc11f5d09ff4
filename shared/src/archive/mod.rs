//! The archive: a copy of partition logs in an object store.
//!
//! A segment is a concatenation of Kafka's own record batches (magic 2), as a broker keeps them; Kafka's `DumpLogSegments`
//! reads it. Which segments make up a run is said by the run's manifest, the commit point.
//!
//! # Guarantees
//! - Every object is created once and never changed, but for `partial.json`, to which later attempts of a run add, and a
//!   restore's lease.
//! - Keys are the index: what a segment holds is in its name, see [`layout`].
//! - Objects carry a format version; a reader refuses a newer one by name ([`FormatError::TooNew`]).

pub mod batch;
pub mod chain;
pub mod codec;
pub mod crc;
pub mod groups;
pub mod join;
pub mod layout;
pub mod manifest;
pub mod record;
pub mod restore;
pub mod retention;
pub mod snapshot;
pub mod tiles;
pub mod translate;

/// The format that this release writes; it reads this one and older ones.
pub const FORMAT_VERSION: u32 = 1;

/// An object of the archive that cannot be read. Always [`crate::report::Fault::Corrupt`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// A newer release wrote it.
    #[error(
        "{object} has format version {found}, this release reads up to {FORMAT_VERSION}: use a newer release"
    )]
    TooNew {
        /// Key of the object.
        object: String,
        /// Its version.
        found: u32,
    },
    /// It is not what its key says.
    #[error("{object} is damaged: {reason}")]
    Damaged {
        /// Key of the object.
        object: String,
        /// What was expected and found.
        reason: String,
    },
}
