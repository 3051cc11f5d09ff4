//! The custom resources: group `kafka-backup.dev`, version `v1alpha1`.
//!
//! # Guarantees
//! - A field that is accepted is obeyed; what is not supported yet has no field, so that the API server refuses it.
//! - What can be known to be wrong from the object alone is refused at admission by the schema and CEL, and by the pure
//!   functions of [`crate::plan`] for those who run the worker by hand.

mod backup;
mod offset_reset;
mod offset_rollback;
mod restore;

pub use backup::{
    BackupColumns, ConcurrencyPolicy, KafkaBackup, KafkaBackupSpec, KafkaBackupStatus,
};
pub use offset_reset::{
    GroupResult, GroupStatus, KafkaOffsetReset, KafkaOffsetResetSpec, KafkaOffsetResetStatus,
    OffsetResetColumns,
};
pub use offset_rollback::{
    KafkaOffsetRollback, KafkaOffsetRollbackSpec, KafkaOffsetRollbackStatus, OffsetRollbackColumns,
    SnapshotData, VerificationResult,
};
pub use restore::{
    BackupRef, CarryOverStatus, KafkaRestore, KafkaRestoreSpec, KafkaRestoreStatus, RestoreColumns,
    RestoredTopic,
};

/// The API group of every kind.
pub const GROUP: &str = "kafka-backup.dev";
/// The version of every kind.
pub const VERSION: &str = "v1alpha1";
