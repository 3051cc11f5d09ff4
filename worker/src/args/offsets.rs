//! The flags of `offsets`.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};

use super::storage::STORES;
use super::{ClusterArgs, EngineArgs, SecretArgs, StorageArgs};

/// What is done with committed offsets.
#[derive(Debug, Subcommand)]
pub enum OffsetsCommand {
    /// Move the committed offsets of consumer groups, after a snapshot that brings them back.
    #[command(after_help = "\
Examples:
  kafka-backup-worker offsets reset --bootstrap-servers localhost:9092 --consumer-groups 'billing*' \\
      --strategy timestamp --timestamp 2026-01-02T03:04:05Z --folder /backups --dry-run
  kafka-backup-worker offsets reset --bootstrap-servers localhost:9092 --consumer-groups '*' \\
      --strategy fromRestore --restore orders-back --folder /backups

A group with live members is refused: stop its consumers first. Consumers that assign partitions themselves are no members,
and cannot be seen.")]
    Reset(Box<ResetArgs>),
    /// Keep what consumer groups have committed.
    #[command(after_help = "\
Example:
  kafka-backup-worker offsets snapshot --bootstrap-servers localhost:9092 --consumer-groups '*' \\
      --snapshot-id before-the-move --folder /backups")]
    Snapshot(Box<TakeArgs>),
    /// List the snapshots in a store.
    List(Box<SnapshotsArgs>),
    /// Show what a rollback would change.
    Diff(Box<SnapshotArgs>),
    /// Give consumer groups back what they had committed at a snapshot, and nothing else.
    #[command(after_help = "\
Example:
  kafka-backup-worker offsets rollback --bootstrap-servers localhost:9092 \\
      --snapshot-id before-the-move --folder /backups

What the groups have committed since for other partitions is removed; then all is read back and compared.")]
    Rollback(Box<RollbackArgs>),
    /// Tell whether consumer groups have what they had at a snapshot; exit code 65 where they do not.
    Verify(Box<VerifySnapshotArgs>),
    /// Delete a snapshot.
    Delete(Box<DeleteArgs>),
}

impl OffsetsCommand {
    /// The snapshot that it is about; `None`: it has flags of its own.
    pub fn snapshot(&self) -> Option<&SnapshotArgs> {
        match self {
            Self::Reset(_) | Self::List(_) => None,
            Self::Snapshot(args) => Some(&args.snapshot),
            Self::Diff(args) => Some(args),
            Self::Rollback(args) => Some(&args.snapshot),
            Self::Verify(args) => Some(&args.snapshot),
            Self::Delete(args) => Some(&args.snapshot),
        }
    }
}

/// Whose run it is.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Name, as of a KafkaOffsetReset or KafkaOffsetRollback.
    #[arg(long, default_value = "offsets")]
    pub name: String,
    /// Namespace, as of such an object; snapshots of different namespaces are kept apart.
    #[arg(long, default_value = "default")]
    pub namespace: String,
}

/// `offsets reset`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).multiple(true).args(STORES).arg("no_snapshot"))]
pub struct ResetArgs {
    #[command(flatten)]
    pub object: NameArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Groups by id or by glob (* and ?), separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "GROUP")]
    pub consumer_groups: Vec<String>,
    /// Topics by name or by glob, separated by commas [default: all that a group has committed offsets for].
    #[arg(long, value_delimiter = ',', value_name = "TOPIC")]
    pub topics: Option<Vec<String>>,
    /// earliest, latest, timestamp, offset, headerBased, fromMapping or fromRestore.
    #[arg(long, value_name = "WHERE")]
    pub strategy: String,
    /// The first record at or after this time, as in 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", conflicts_with = "timestamp_millis")]
    pub timestamp: Option<String>,
    /// The same in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    pub timestamp_millis: Option<i64>,
    /// One offset for every partition, moved into what the partition has.
    #[arg(long, value_name = "OFFSET")]
    pub offset: Option<i64>,
    /// headerBased: only records count whose x-source-cluster is this one.
    #[arg(long, value_name = "NAME")]
    pub source_cluster: Option<String>,
    /// headerBased: read all partitions of a topic, for records may be in another one than at the source.
    #[arg(long)]
    pub scan_all_partitions: bool,
    /// fromMapping: a file with {"groups": {GROUP: {TOPIC: {PARTITION: OFFSET}}}}.
    #[arg(long, value_name = "FILE")]
    pub mapping_file: Option<PathBuf>,
    /// fromRestore: uid, name or <namespace>.<name> of the restore; its archive is in the store.
    #[arg(long, value_name = "NAME-OR-UID")]
    pub restore: Option<String>,
    /// Id of the snapshot that is taken before anything changes [default: the run's].
    #[arg(long, value_name = "ID", conflicts_with = "no_snapshot")]
    pub snapshot_id: Option<String>,
    /// Take none.
    #[arg(long)]
    pub no_snapshot: bool,
    /// Groups that are changed at the same time [default: 8].
    #[arg(long, value_name = "NUMBER")]
    pub parallelism: Option<u16>,
    /// Change nothing, and tell what would be.
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// A snapshot in a store.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(STORES))]
pub struct SnapshotArgs {
    #[command(flatten)]
    pub object: NameArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Id of the snapshot.
    #[arg(long, value_name = "ID")]
    pub snapshot_id: String,
    /// Groups by id or by glob (* and ?), separated by commas [default: all of the snapshot; to take one they must be named].
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub consumer_groups: Option<Vec<String>>,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `offsets snapshot`.
#[derive(Debug, Args)]
pub struct TakeArgs {
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    /// Keep nothing, and tell what would be.
    #[arg(long)]
    pub dry_run: bool,
}

/// `offsets rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    /// Also where a topic was deleted and made anew since, or the cluster is another one.
    #[arg(long)]
    pub force: bool,
    /// Change nothing, and tell what would be.
    #[arg(long)]
    pub dry_run: bool,
}

/// `offsets verify`.
#[derive(Debug, Args)]
pub struct VerifySnapshotArgs {
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    /// Also metadata, and offsets that were not there.
    #[arg(long)]
    pub strict: bool,
}

/// `offsets delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    pub snapshot: SnapshotArgs,
    /// Delete nothing, and tell what would be.
    #[arg(long)]
    pub dry_run: bool,
}

/// `offsets list`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(STORES))]
pub struct SnapshotsArgs {
    /// Only this namespace.
    #[arg(long)]
    pub namespace: Option<String>,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
}
