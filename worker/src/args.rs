//! The command line.
//!
//! # Guarantees
//! - Every verb makes the same objects and plans, see [`crate::input`]; flags are only another way to write them.
//! - The paths of a pod are defaults for `run --plan` alone; at a terminal nothing outside of what was named is touched.

mod offsets;
mod storage;

use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use kafka_backup_shared::pod;
use kafka_backup_shared::spec::parse_age_hours;

use crate::context::DEFAULT_MEMORY_BUDGET;
use crate::store::Places;

use storage::{STORES, details_of_other_stores};

pub use offsets::{NameArgs, OffsetsCommand, ResetArgs, SnapshotArgs, SnapshotsArgs};
pub use storage::StorageArgs;

/// Moves the data of one run between Kafka and an object store.
#[derive(Debug, Parser)]
#[command(name = "kafka-backup-worker", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: LogArgs,
}

const AFTER_HELP: &str = "\
Exit codes: 0 done, 2 wrong usage, 64 the request cannot be obeyed as it stands, 65 data is damaged, 69 something did not \
answer (try again), 70 a bug of ours, 77 credentials or permissions were refused, 143 interrupted.";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make one run of a KafkaBackup, KafkaRestore, KafkaOffsetReset or KafkaOffsetRollback, from a YAML file or from the plan of a Job.
    #[command(after_help = "\
Examples:
  kafka-backup-worker run -f orders.yaml --secrets-dir ./secrets
  kubectl get kafkabackup orders -o yaml |
      kafka-backup-worker run -f - --secrets-dir ./secrets

A schedule in the file is not waited for: one run is made, now.")]
    Run(RunArgs),
    /// Copy topics of a Kafka cluster into an archive.
    #[command(after_help = "\
Examples:
  kafka-backup-worker backup --name orders --bootstrap-servers localhost:9092 \\
      --topics 'orders*' --folder /backups
  kafka-backup-worker backup --name orders --bootstrap-servers localhost:9092 \\
      --topics '*' --exclude-topics 'tmp-*' --s3-bucket backups \\
      --s3-endpoint http://localhost:8333 --s3-path-style --s3-allow-http

The next backup of the same name and namespace copies only what is new.")]
    Backup(BackupArgs),
    /// Write what a backup run captured into topics of a Kafka cluster.
    #[command(after_help = "\
Examples:
  kafka-backup-worker restore --name orders-back --backup-id latest \\
      --bootstrap-servers localhost:9092 --folder /backups
  kafka-backup-worker restore --name copy --backup-id orders-20260102-030405 \\
      --bootstrap-servers localhost:9092 --topics orders --topic-mapping orders=orders-copy \\
      --s3-bucket backups --s3-region eu-central-1

  kafka-backup-worker restore --name before-the-bug --backup-id latest --dry-run \\
      --bootstrap-servers localhost:9092 --pitr-timestamp 2026-01-02T03:04:05Z --folder /backups

An interrupted restore goes on where it stopped when it is called again with the same name and namespace.")]
    Restore(RestoreArgs),
    /// List the runs of the archives in a store.
    #[command(after_help = "\
Examples:
  kafka-backup-worker list --folder /backups
  kafka-backup-worker list -f orders.yaml --secrets-dir ./secrets --output json")]
    List(ListArgs),
    /// Show what a run captured: topics, partitions, offsets, records, gaps.
    #[command(after_help = "\
Example:
  kafka-backup-worker describe orders-20260102-030405 --folder /backups")]
    Describe(DescribeArgs),
    /// Read what runs captured in full, and name every object that is not as it was written; or compare the target of a
    /// restore with the archive.
    #[command(after_help = "\
Examples:
  kafka-backup-worker verify --folder /backups
  kafka-backup-worker verify orders-20260102-030405 -f orders.yaml --secrets-dir ./secrets
  kafka-backup-worker verify all --folder /backups --output json
  kafka-backup-worker verify --against localhost:9092 --restore orders-back --folder /backups

--against reads every record of the restore back through librdkafka, and holds it against what the archive says that the
restore wrote: offset, key, value, headers and timestamp. Records that the target's compaction may have taken need not be
there. Nothing is written.")]
    Verify(VerifyArgs),
    /// Delete backup runs that need not be kept, and merge small segments.
    #[command(after_help = "\
Examples:
  kafka-backup-worker prune --folder /backups --backups 14 --dry-run
  kafka-backup-worker prune -f orders.yaml --secrets-dir ./secrets --max-age 30d

What may go is marked first. It is deleted by a prune, or by a run with retention, that comes more than 24 hours later and
finds that it may still go. The newest complete run is always kept.")]
    Prune(PruneArgs),
    /// Move, keep, give back or compare the committed offsets of consumer groups.
    #[command(subcommand)]
    Offsets(OffsetsCommand),
    /// Tell what would keep a run of an object from succeeding: Secrets, brokers, permissions, store, target.
    #[command(after_help = "\
Examples:
  kafka-backup-worker doctor -f orders.yaml --secrets-dir ./secrets
  kubectl get kafkabackup orders -o yaml |
      kafka-backup-worker doctor -f - --secrets-dir ./secrets

Everything is reached by the object's own settings. Nothing is changed, but for a probe of some bytes that runs leave in the
store, too. The exit code is that of the run that would fail.")]
    Doctor(DoctorArgs),
    /// Print manifests of OSO's kafka-backup operator (kafka.oso.sh) as objects of ours.
    #[command(after_help = "\
Examples:
  kafka-backup-worker convert -f theirs.yaml > ours.yaml
  kubectl get kafkabackups.kafka.oso.sh,kafkarestores.kafka.oso.sh -A -o yaml |
      kafka-backup-worker convert -f -

What has no counterpart stands as a comment above the object, and docs/migration.md says more of it. A field that is not known
is an error. Archives of that operator cannot be read.")]
    Convert(ConvertArgs),
    /// Print a script that completes this command line in a shell.
    #[command(after_help = "\
Example:
  kafka-backup-worker completions bash > /etc/bash_completion.d/kafka-backup-worker")]
    Completions(CompletionsArgs),
}

/// How the worker speaks.
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    /// What stands on standard output at the end: text for people, or JSON (the report of a run;
    /// its `outcome`, `fault` and `message` also where nothing could be begun).
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub output: OutputFormat,
    /// How log lines look on standard error; auto is JSON for `run --plan`, else text.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT",
        help_heading = "Output"
    )]
    pub log_format: LogFormat,
    /// error, warn, info, debug or trace, or directives as in `info,kafka_backup_worker::kafka=debug`
    /// [default: info for `run --plan`, else warn].
    #[arg(long, global = true, value_name = "LEVEL", help_heading = "Output")]
    pub log_level: Option<String>,
}

/// What stands on standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// JSON for `run --plan`, else text.
    #[default]
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `run`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("input").required(true).args(["plan", "file"]))]
pub struct RunArgs {
    /// The plan that the controller made for a Job; the paths of a pod are the defaults of all options.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "run"])]
    pub plan: Option<PathBuf>,
    /// A YAML file with an object of ours; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Which object of the file, where it holds several.
    #[arg(long, value_name = "[KIND/]NAME")]
    pub name: Option<String>,
    /// A file in place of the ConfigMap that a KafkaOffsetReset names as its mapping.
    #[arg(long, value_name = "FILE", help_heading = "Places")]
    pub mapping_file: Option<PathBuf>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Folder in place of the volume of a `pvc` storage.
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub volume_dir: Option<PathBuf>,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A YAML file with an object of ours; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
    /// Which object of the file, where it holds several.
    #[arg(long, value_name = "[KIND/]NAME")]
    pub name: Option<String>,
    /// A file in place of the ConfigMap that a KafkaOffsetReset names as its mapping.
    #[arg(long, value_name = "FILE", help_heading = "Places")]
    pub mapping_file: Option<PathBuf>,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Folder in place of the volume of a `pvc` storage.
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub volume_dir: Option<PathBuf>,
}

/// `convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A YAML file with their objects; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: PathBuf,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// `backup`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(STORES))]
pub struct BackupArgs {
    #[command(flatten)]
    pub object: ObjectArgs,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Topics by name or by glob (* and ?), separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "TOPIC")]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    #[command(flatten)]
    pub groups: GroupArgs,
    /// Name of the source for people [default: its cluster id]; a cluster with another id is taken only under the name that
    /// the archive was made with.
    #[arg(long, value_name = "NAME")]
    pub source_cluster_id: Option<String>,
    /// read_committed or read_uncommitted [default: read_committed].
    #[arg(long, value_name = "LEVEL")]
    pub isolation_level: Option<String>,
    /// source, zstd, lz4, gzip, snappy or none; all but source join small batches [default: source].
    #[arg(long, value_name = "CODEC")]
    pub compression: Option<String>,
    /// Restores that say nothing of it add headers with the original topic, partition, offset and timestamp.
    #[arg(long)]
    pub include_offset_headers: bool,
    /// 1 to 22 with zstd, 1 to 9 with gzip.
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<u32>,
    #[command(flatten)]
    pub rate: RateArgs,
    /// Seconds after which an open segment is stored even if it is small [default: 30].
    #[arg(long, value_name = "SECONDS")]
    pub checkpoint_interval_secs: Option<u32>,
    /// Size at which a segment is stored [default: 16777216].
    #[arg(long, value_name = "BYTES")]
    pub segment_max_bytes: Option<u32>,
    #[command(flatten)]
    pub retention: RetentionArgs,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `restore`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(STORES))]
pub struct RestoreArgs {
    #[command(flatten)]
    pub object: ObjectArgs,
    /// Run id of the backup (see `list`), or `latest` for the newest complete run.
    #[arg(long, value_name = "RUN")]
    pub backup_id: String,
    /// The backup's archive, where several under the prefix hold that run.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub archive: Option<String>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Topics of the backup by name or by glob (* and ?), separated by commas.
    #[arg(long, default_value = "*", value_delimiter = ',', value_name = "TOPIC")]
    pub topics: Vec<String>,
    #[command(flatten)]
    pub selection: SelectionArgs,
    /// Names in the target cluster, separated by commas; others keep their name.
    #[arg(long, value_delimiter = ',', value_name = "SOURCE=TARGET", value_parser = mapping)]
    pub topic_mapping: Vec<(String, String)>,
    #[command(flatten)]
    pub placing: PlacingArgs,
    #[command(flatten)]
    pub choice: ChoiceArgs,
    #[command(flatten)]
    pub target: TargetArgs,
    #[command(flatten)]
    pub carry: CarryArgs,
    #[command(flatten)]
    pub rate: RateArgs,
    /// Read everything, write nothing, and tell what would be written.
    #[arg(long)]
    pub dry_run: bool,
    /// Seconds without a sign of life after which another worker may take this restore over [default: 60].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(2..=3600))]
    pub lease_secs: Option<u64>,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this archive.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = archive_name)]
    pub archive: Option<kafka_backup_shared::plan::ArchiveName>,
    #[command(flatten)]
    pub source: InspectArgs,
}

/// `describe`.
#[derive(Debug, Args)]
pub struct DescribeArgs {
    /// Run id, or `latest` for the newest complete run.
    #[arg(value_name = "RUN")]
    pub run: String,
    /// The archive, where several hold that run.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = archive_name)]
    pub archive: Option<kafka_backup_shared::plan::ArchiveName>,
    #[command(flatten)]
    pub source: InspectArgs,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Run id, `latest` for the newest complete run, or `all` for every run and what no run has pinned.
    #[arg(value_name = "RUN", default_value = "latest")]
    pub run: String,
    /// Compare a cluster with what a restore wrote there instead: host:port of one or more brokers, separated by commas.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "HOST:PORT",
        requires = "restore",
        conflicts_with = "run",
        help_heading = "Comparison"
    )]
    pub against: Vec<String>,
    /// The restore that is meant: its uid, its name, or <namespace>.<name>.
    #[arg(
        long,
        value_name = "NAME-OR-UID",
        requires = "against",
        help_heading = "Comparison"
    )]
    pub restore: Option<String>,
    /// The archive, where the store has several.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = archive_name)]
    pub archive: Option<kafka_backup_shared::plan::ArchiveName>,
    #[command(flatten)]
    pub source: InspectArgs,
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// `prune`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("policy").required(true).multiple(true).args(["backups", "max_age"]))]
pub struct PruneArgs {
    /// Complete runs that stay.
    #[arg(long, value_name = "NUMBER")]
    pub backups: Option<NonZeroU32>,
    /// Runs that began longer ago go: hours, days or weeks, as in 12h, 30d or 8w.
    #[arg(long, value_name = "AGE", value_parser = age_hours)]
    pub max_age: Option<u32>,
    /// Only tell what would go.
    #[arg(long)]
    pub dry_run: bool,
    /// The archive, where the store has several.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = archive_name)]
    pub archive: Option<kafka_backup_shared::plan::ArchiveName>,
    #[command(flatten)]
    pub source: InspectArgs,
}

/// Which store is looked into.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("where").required(true).args(STORES).arg("file"))]
pub struct InspectArgs {
    /// A YAML file with a KafkaBackup or KafkaRestore whose storage is meant; `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = details_of_other_stores("file"))]
    pub file: Option<PathBuf>,
    /// Which object of the file, where it holds several.
    #[arg(long, requires = "file", value_name = "[KIND/]NAME")]
    pub name: Option<String>,
    #[command(flatten)]
    pub storage: StorageArgs,
    #[command(flatten)]
    pub secrets: SecretArgs,
    /// Folder in place of the volume of the file's `pvc` storage.
    #[arg(
        long,
        value_name = "DIR",
        requires = "file",
        conflicts_with = "folder",
        help_heading = "Places"
    )]
    pub volume_dir: Option<PathBuf>,
}

/// Whose run it is.
#[derive(Debug, Args)]
pub struct ObjectArgs {
    /// Name, as of a KafkaBackup or KafkaRestore.
    #[arg(long)]
    pub name: String,
    /// Namespace, as of a KafkaBackup or KafkaRestore.
    #[arg(long, default_value = "default")]
    pub namespace: String,
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// host:port of one or more brokers, separated by commas.
    #[arg(long, required = true, value_delimiter = ',', value_name = "HOST:PORT")]
    pub bootstrap_servers: Vec<String>,
    #[command(flatten)]
    pub security: SecurityArgs,
}

/// How brokers are spoken to, and who we are.
#[derive(Debug, Args)]
#[command(next_help_heading = "Security of Kafka")]
pub struct SecurityArgs {
    /// PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL [default: PLAINTEXT].
    #[arg(long, value_name = "PROTOCOL")]
    pub security_protocol: Option<String>,
    /// Name of a Secret, a folder below --secrets-dir, with the CA of the brokers' certificates as the file ca.crt; with neither
    /// this nor a ca.crt in --tls-secret the public CAs count.
    #[arg(long, value_name = "NAME", requires = "security_protocol")]
    pub ca_secret: Option<String>,
    /// Name of a Secret with a client certificate and its key as the files tls.crt and tls.key, with ca.crt, or both.
    #[arg(long, value_name = "NAME", requires = "security_protocol")]
    pub tls_secret: Option<String>,
    /// Name of a Secret with the files username and password, or what OAUTHBEARER needs.
    #[arg(
        long,
        value_name = "NAME",
        requires = "security_protocol",
        requires = "sasl_mechanism"
    )]
    pub sasl_secret: Option<String>,
    /// PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER.
    #[arg(long, value_name = "MECHANISM", requires = "sasl_secret")]
    pub sasl_mechanism: Option<String>,
    /// OAUTHBEARER: file of the Secret that holds a token; read anew for each connection.
    #[arg(long, value_name = "KEY", requires = "sasl_secret")]
    pub oauth_token_key: Option<String>,
    /// OAUTHBEARER: URL that gives tokens for the client credentials in the Secret's files clientId and clientSecret.
    #[arg(long, value_name = "URL", requires = "sasl_secret")]
    pub oauth_token_endpoint: Option<String>,
    /// OAUTHBEARER: the scope that is asked for at the endpoint.
    #[arg(long, value_name = "SCOPE", requires = "oauth_token_endpoint")]
    pub oauth_scope: Option<String>,
    /// OAUTHBEARER: permit an endpoint without TLS.
    #[arg(long, requires = "oauth_token_endpoint")]
    pub oauth_allow_http: bool,
}

/// Which topics, besides their names.
#[derive(Debug, Args)]
pub struct SelectionArgs {
    /// Names and globs that are left out.
    #[arg(long, value_delimiter = ',', value_name = "TOPIC")]
    pub exclude_topics: Vec<String>,
    /// Fail or Ignore: what happens when a topic that is named literally does not exist [default: Fail].
    #[arg(long, value_name = "WHAT")]
    pub missing_topics: Option<String>,
}

/// Which consumer groups.
#[derive(Debug, Args)]
pub struct GroupArgs {
    /// Consumer groups by id or by glob (* and ?), separated by commas, whose committed offsets are saved
    /// [default: every group with offsets on the topics].
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub consumer_groups: Option<Vec<String>>,
    /// Save no committed offsets.
    #[arg(long, conflicts_with = "consumer_groups")]
    pub no_consumer_groups: bool,
}

impl GroupArgs {
    /// The spec's list; `None` where it is left out.
    pub fn asked(&self) -> Option<Vec<String>> {
        if self.no_consumer_groups {
            return Some(Vec::new());
        }
        self.consumer_groups.clone()
    }
}

/// Which runs stay in the archive when this one is complete.
#[derive(Debug, Args)]
#[command(next_help_heading = "Retention")]
pub struct RetentionArgs {
    /// Complete runs that stay [default: all].
    #[arg(long, value_name = "NUMBER")]
    pub retention_backups: Option<u32>,
    /// Runs that began longer ago go: hours, days or weeks, as in 12h, 30d or 8w [default: none].
    #[arg(long, value_name = "AGE")]
    pub retention_max_age: Option<String>,
    /// Only tell what would go.
    #[arg(long)]
    pub retention_dry_run: bool,
}

/// Which partitions records go to.
#[derive(Debug, Args)]
#[command(next_help_heading = "Partitions")]
pub struct PlacingArgs {
    /// Partitions that get another number, separated by commas; others keep theirs.
    #[arg(long, value_delimiter = ',', value_name = "TOPIC:SOURCE=TARGET", value_parser = partition_move)]
    pub partition_mapping: Vec<(String, String, i32)>,
    /// Refuse or ByKey: what happens when a target topic has another number of partitions [default: Refuse].
    #[arg(long, value_name = "WHAT")]
    pub repartition: Option<String>,
}

/// Which records, and what is added to them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Records")]
pub struct ChoiceArgs {
    /// logStart (what the source had at the backup) or archiveStart (also what it had deleted before) [default: logStart].
    #[arg(long, value_name = "WHERE")]
    pub from: Option<String>,
    /// Only records up to this time, as in 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", conflicts_with = "pitr_timestamp_millis")]
    pub pitr_timestamp: Option<String>,
    /// Only records up to this time, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    pub pitr_timestamp_millis: Option<i64>,
    /// Only records from this time on.
    #[arg(
        long,
        value_name = "TIME",
        conflicts_with = "pitr_start_timestamp_millis"
    )]
    pub pitr_start_timestamp: Option<String>,
    /// Only records from this time on, in milliseconds since 1970.
    #[arg(long, value_name = "MS")]
    pub pitr_start_timestamp_millis: Option<i64>,
    /// Whether each record gets headers with its original topic, partition, offset and timestamp [default: as the backup says].
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub include_original_offset_header: Option<bool>,
}

/// What becomes of target topics.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target topics")]
pub struct TargetArgs {
    /// Refuse target topics that do not exist instead of creating them.
    #[arg(long, conflicts_with = "default_replication_factor")]
    pub no_create_topics: bool,
    /// Replicas of created topics [default: as the source, at most one per broker].
    #[arg(long, value_name = "NUMBER")]
    pub default_replication_factor: Option<i16>,
    /// source or target: whose configs created topics have in the end [default: source].
    #[arg(long, value_name = "WHOSE")]
    pub topic_config: Option<String>,
    /// Refuse, Append or Purge: what happens when a target topic has records [default: Refuse].
    #[arg(long, value_name = "WHAT")]
    pub if_topic_not_empty: Option<String>,
}

/// Which consumer groups go on in the target.
#[derive(Debug, Args)]
#[command(next_help_heading = "Consumer groups")]
pub struct CarryArgs {
    /// Commit offsets for the groups of the backup in the target, once the data is in. A group with live members is refused before.
    #[arg(long)]
    pub offset_reset: bool,
    /// Groups of the backup by id or by glob, separated by commas [default: all].
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "GROUP",
        requires = "offset_reset"
    )]
    pub offset_groups: Option<Vec<String>>,
    /// fromBackup, earliest, latest, timestamp, offset or headerBased: where they go on [default: fromBackup, at the record that
    /// they would have read next at the source].
    #[arg(long, value_name = "WHERE", requires = "offset_reset")]
    pub offset_strategy: Option<String>,
    /// timestamp: the first record at or after this time, as in 2026-01-02T03:04:05Z.
    #[arg(long, value_name = "TIME", requires = "offset_reset")]
    pub offset_timestamp: Option<String>,
    /// offset: one for every partition, moved into what the partition has.
    #[arg(long, value_name = "OFFSET", requires = "offset_reset")]
    pub offset: Option<i64>,
    /// headerBased: only records count whose x-source-cluster is this one.
    #[arg(long, value_name = "NAME", requires = "offset_reset")]
    pub offset_source_cluster: Option<String>,
    /// Keep what these groups have in the target in a snapshot first, for `offsets rollback` [default id: the restore's].
    #[arg(long, value_name = "ID", num_args = 0..=1, require_equals = true, requires = "offset_reset")]
    pub rollback_snapshot: Option<Option<String>>,
}

/// How fast a run may go.
#[derive(Debug, Args)]
pub struct RateArgs {
    /// Bytes per second that go from or to the cluster, over all partitions.
    #[arg(long, value_name = "BYTES")]
    pub bytes_per_second: Option<u64>,
    /// Records per second that go from or to the cluster, over all partitions.
    #[arg(long, value_name = "RECORDS")]
    pub records_per_second: Option<u64>,
}

/// Where the machine keeps Secrets.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// Folder with the Secrets that the object names, as files DIR/<secret name>/<key>.
    #[arg(long, value_name = "DIR", help_heading = "Places")]
    pub secrets_dir: Option<PathBuf>,
}

impl SecretArgs {
    /// What was named; in a pod what the controller mounts.
    pub fn places(&self, volume: Option<&PathBuf>, at: At) -> Places {
        let (pod_secrets, pod_volume) = match at {
            At::Pod => (Some(pod::SECRETS_DIR.into()), Some(pod::VOLUME_DIR.into())),
            At::Terminal => (None, None),
        };
        Places {
            secrets_dir: self.secrets_dir.clone().or(pod_secrets).unwrap_or_default(),
            volume_dir: volume.cloned().or(pod_volume),
        }
    }
}

/// Where the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// In a Job of the controller: `run --plan`.
    Pod,
    /// Anywhere else.
    Terminal,
}

/// How a run is made, and whom it tells.
#[derive(Debug, Args)]
#[command(next_help_heading = "Run")]
pub struct EngineArgs {
    /// Run id [default: <name>-<YYYYMMDD-HHMMSS>, in UTC]; that of a backup which was interrupted goes on with it.
    #[arg(long, value_name = "ID", value_parser = run_id)]
    pub run: Option<String>,
    /// Memory that fetch buffers and open segments share: bytes, or with Ki, Mi, Gi.
    #[arg(long, value_name = "SIZE", default_value_t = MemoryBudget(DEFAULT_MEMORY_BUDGET), value_parser = memory_budget)]
    pub memory_budget: MemoryBudget,
    /// URL of the controller, to which metrics and the report are pushed.
    #[arg(long, value_name = "URL", value_parser = http_url)]
    pub push_url: Option<String>,
    /// File with the bearer token of the push; read anew each time.
    #[arg(long, value_name = "FILE", requires = "push_url")]
    pub push_token_file: Option<PathBuf>,
    /// File with the certificates, as PEM, by which the controller at an https URL is known; they take the place of the machine's
    /// roots of trust [default: the variable KAFKA_BACKUP_PUSH_CA, which holds them as text].
    #[arg(long, value_name = "FILE", requires = "push_url")]
    pub push_ca_file: Option<PathBuf>,
    /// File to which the short report is written.
    #[arg(long, value_name = "FILE")]
    pub termination_log: Option<PathBuf>,
}

/// Bytes, shown with their unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget(pub usize);

impl std::fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (suffix, shift) in [("Gi", 30), ("Mi", 20), ("Ki", 10)] {
            if self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{suffix}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// Below this not even one fetch of the usual size fits.
const MEMORY_BUDGET_MIN: usize = 4 << 20;

fn memory_budget(text: &str) -> Result<MemoryBudget, String> {
    let (digits, shift) = [("Ki", 10), ("Mi", 20), ("Gi", 30)]
        .iter()
        .find_map(|(suffix, shift)| Some((text.strip_suffix(suffix)?, *shift)))
        .unwrap_or((text, 0));
    let bytes = digits
        .parse::<usize>()
        .ok()
        .and_then(|value| value.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if bytes >= MEMORY_BUDGET_MIN => Ok(MemoryBudget(bytes)),
        Some(_) => Err(format!(
            "expected at least {}",
            MemoryBudget(MEMORY_BUDGET_MIN)
        )),
        None => Err("expected a number of bytes, as in 50331648 or 48Mi".into()),
    }
}

fn mapping(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((source, target)) if !source.is_empty() && !target.is_empty() => {
            Ok((source.into(), target.into()))
        }
        Some(_) | None => Err("expected <source topic>=<target topic>".into()),
    }
}

fn partition_move(text: &str) -> Result<(String, String, i32), String> {
    let parsed = text.rsplit_once(':').and_then(|(topic, partitions)| {
        let (source, target) = partitions.split_once('=')?;
        let whole = !topic.is_empty() && !source.is_empty();
        whole.then_some((topic.into(), source.into(), target.parse().ok()?))
    });
    parsed.ok_or_else(|| "expected <source topic>:<source partition>=<target partition>".into())
}

fn archive_name(text: &str) -> Result<kafka_backup_shared::plan::ArchiveName, String> {
    match text.split_once('/') {
        Some((namespace, name))
            if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
        {
            Ok(kafka_backup_shared::plan::ArchiveName {
                namespace: namespace.into(),
                name: name.into(),
            })
        }
        Some(_) | None => Err("expected <namespace>/<name> of a KafkaBackup".into()),
    }
}

fn age_hours(text: &str) -> Result<u32, String> {
    parse_age_hours(text)
        .ok_or_else(|| "expected hours, days or weeks, as in 12h, 30d or 8w".into())
}

fn http_url(text: &str) -> Result<String, String> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.trim_end_matches('/').into());
    }
    Err("expected a URL that begins with http:// or https://".into())
}

/// A run id is part of keys, URLs and label values, as the name that it usually begins with.
fn run_id(text: &str) -> Result<String, String> {
    let plain = text
        .bytes()
        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if plain && !text.is_empty() && text.len() <= 300 && !matches!(text, "latest" | "all") {
        return Ok(text.into());
    }
    Err("expected 1 to 300 of a-z 0-9 - . and neither \"latest\" nor \"all\"".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    const STORE: [&str; 2] = ["--folder", "/backups"];

    fn parse(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::try_parse_from([&["kafka-backup-worker"], args].concat())
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_run_takes_a_plan_or_a_file() {
        assert!(parse(&["run", "--plan", "p"]).is_ok());
        assert!(
            parse(&[
                "run", "-f", "x.yaml", "--run", "orders-1", "--name", "orders"
            ])
            .is_ok()
        );
        for wrong in [
            &["run"][..],
            &["run", "--plan", "p", "-f", "x"],
            &["run", "--plan", "p", "--run", "r"],
            &["run", "--plan", "p", "--name", "n"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn one_store_at_a_time() {
        let describe = ["describe", "orders-1"];
        assert!(parse(&[&describe[..], &STORE].concat()).is_ok());
        for wrong in [
            &["--s3-bucket", "b"][..],
            &["--azure-container", "c", "--azure-account-name", "a"],
            &["--gcs-bucket", "b"],
            &["-f", "x.yaml"],
            &["--volume-dir", "/v"],
            &["--s3-region", "r"],
            &["--azure-prefix", "p"],
            &["--gcs-prefix", "p"],
        ] {
            assert!(
                parse(&[&describe[..], &STORE, wrong].concat()).is_err(),
                "{wrong:?}"
            );
        }
        for wrong in [
            &["-f", "x", "--s3-region", "r"][..],
            &["-f", "x", "--s3-bucket", "b"],
            &["--s3-prefix", "p"],
            &["--azure-account-name", "a"],
            &["--azure-container", "c"],
            &["--gcs-bucket", "b", "--s3-prefix", "p"],
            &["--gcs-bucket", "b", "--s3-bucket", "c"],
            &[],
        ] {
            assert!(
                parse(&[&describe[..], wrong].concat()).is_err(),
                "{wrong:?}"
            );
        }
        assert!(parse(&["list", "--s3-bucket", "b", "--s3-region", "r"]).is_ok());
        assert!(parse(&["list", "-f", "x", "--volume-dir", "v"]).is_ok());
    }

    #[test]
    fn a_comparison_names_cluster_and_restore() {
        let verify = [&["verify"][..], &STORE].concat();
        let with = |more: &[&str]| parse(&[&verify[..], more].concat());
        let cli = with(&["--against", "a:1,b:2", "--restore", "back"]).unwrap();
        let Command::Verify(args) = cli.command else {
            unreachable!("it was called verify");
        };
        assert_eq!(args.against, ["a:1", "b:2"]);
        assert_eq!(args.restore.as_deref(), Some("back"));
        for wrong in [
            &["--against", "a:1"][..],
            &["--restore", "back"],
            &["all", "--against", "a:1", "--restore", "back"],
        ] {
            assert!(with(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_read_as_they_are_shown() {
        for text in ["48Mi", "1Gi", "5000Ki", "4194305"] {
            assert_eq!(memory_budget(text).unwrap().to_string(), text);
        }
        for wrong in ["", "48", "48MB", "-1Mi", "3Mi", "99999999999999Gi"] {
            assert!(memory_budget(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_paths_of_a_pod_are_for_pods() {
        let none = SecretArgs { secrets_dir: None };
        assert_eq!(
            none.places(None, At::Terminal),
            Places {
                secrets_dir: PathBuf::new(),
                volume_dir: None
            }
        );
        let places = none.places(None, At::Pod);
        assert_eq!(places.secrets_dir, PathBuf::from(pod::SECRETS_DIR));
        assert_eq!(places.volume_dir, Some(pod::VOLUME_DIR.into()));
    }
}
