//! Committed offsets of consumer groups: moved, kept, given back, compared.
//!
//! ```text
//! groups     which groups are meant, and what they have     -> Meant, GroupOffsets
//! target     where their offsets are to go                  -> GroupPlan (headers: by what records say of themselves)
//! snapshots  what they had, and the way back to it          -> Snapshot, GroupPlan
//! keeper     where a snapshot is kept                       store, or ConfigMap by way of the controller
//! apply      what is planned, committed and read back       -> OffsetsReport
//! carry      groups that a restore carries over             all of it, around the restore
//! ```
//!
//! # Guarantees
//! - Nothing is changed before the snapshot is durable. A group with live members is refused before that, by name and state.
//! - A second attempt of a run finds the snapshot of the first, and goes on from what that has: what the first one has changed
//!   since is not taken for what there was.
//! - What a dry run tells is what a real run commits.
//!
//! # Assumptions
//! - Nobody else commits for the groups meanwhile. Members are refused by the coordinator; consumers that assign partitions
//!   themselves are found out where what they commit is read back.

mod apply;
mod carry;
mod change;
mod error;
mod groups;
pub mod headers;
mod keeper;
mod list;
mod logs;
mod snapshots;
mod target;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kafka_backup_shared::archive::groups::GroupOffsets;
use kafka_backup_shared::archive::layout::TopicId;
use kafka_backup_shared::archive::restore::RestoreDecision;
use kafka_backup_shared::archive::snapshot::Snapshot;
use kafka_backup_shared::plan::{
    Mapping, OffsetTarget, OffsetsPlan, OffsetsTask, ResetTask, RunRef, SnapshotRef, SpecError,
};
use kafka_backup_shared::report::{Fault, OffsetsDeed, OffsetsReport, Verification};
use kafka_backup_shared::selector::{GroupSelector, is_meant};

use crate::context::{Completed, Context};
use crate::groups::refuse_hidden;
use crate::human;
use crate::kafka::{Client, ClientConfig, ListedGroup, ONLY_VISIBLE, TopicFilter};
use crate::push::SnapshotPush;
use crate::restore::groups::{LeftOutReason, TranslatedGroup, translate};
use crate::store::{Places, Store};
use crate::verify::against::find;
use apply::{apply, planned};
use change::GroupPlan;
use groups::{Meant, among, choose, now, read, refuse_live};
use headers::Placement;
use keeper::Keeper;
use logs::Logs;
use snapshots::{Logbook, Scope, differences, meant, summary, take};
use target::{ByHeaders, by_headers, from_mapping, plain, topics_of, translated};

pub(crate) use carry::CarryOver;
pub use error::OffsetsError;
pub use keeper::KeeperError;
pub use list::{Listed, list, show};

/// What our clients are called in brokers' logs.
const CLIENT_ID: &str = "kafka-backup-offsets";
/// Differences that a report has in words.
const DIFFERENCES: usize = 100;
/// Groups that a rollback changes at the same time.
const PARALLELISM: u16 = 8;
const GROUPS: &str = "spec.consumerGroups";

/// What a run finds on its machine.
#[derive(Debug)]
pub struct Ports {
    /// Secrets and volume.
    pub places: Places,
    /// Where the ConfigMap of a snapshot is mounted.
    pub snapshot_dir: PathBuf,
    /// The offsets of strategy `fromMapping`.
    pub mapping_file: Option<PathBuf>,
    /// The controller, which keeps snapshots in ConfigMaps.
    pub push: Option<SnapshotPush>,
}

/// A run that is not complete, and what it did all the same.
#[derive(Debug)]
pub struct Unfinished {
    /// Why.
    pub error: OffsetsError,
    /// What became of the groups, where it came so far.
    pub report: Option<OffsetsReport>,
}

impl From<OffsetsError> for Unfinished {
    fn from(error: OffsetsError) -> Self {
        Self {
            error,
            report: None,
        }
    }
}

/// Makes a run of an offset kind.
///
/// # Errors
/// [`Unfinished`]. Where the snapshot could not be made durable, or a group is live, nothing was changed.
pub async fn run(
    plan: &OffsetsPlan,
    ports: &Ports,
    context: &Context,
) -> Result<Completed, Unfinished> {
    let config = ClientConfig::new(&plan.cluster, &context.secrets_dir, CLIENT_ID);
    let client = Client::connect(config)
        .await
        .map_err(OffsetsError::kafka("reach the cluster"))?;
    let warnings = unseen(plan, &client).await?;
    let work = Work {
        plan,
        ports,
        context,
        client,
    };
    let report = match &plan.task {
        OffsetsTask::Reset(task) => work.reset(task).await?,
        OffsetsTask::Snapshot { groups, snapshot } => work.snapshot(groups, snapshot).await?,
        OffsetsTask::Rollback {
            groups,
            snapshot,
            force,
        } => work.rollback(groups.as_deref(), snapshot, *force).await?,
        OffsetsTask::Verify {
            groups,
            snapshot,
            strict,
        } => work.verify(groups.as_deref(), snapshot, *strict).await?,
        OffsetsTask::Delete { snapshot } => work.delete(snapshot).await?,
    };
    Ok(Completed {
        offsets: Some(report),
        warnings,
        ..Completed::default()
    })
}

/// What is said of groups and offsets that brokers may have left out.
///
/// # Errors
/// The cluster does not answer.
async fn unseen(plan: &OffsetsPlan, client: &Client) -> Result<Vec<String>, OffsetsError> {
    if listed_groups(&plan.task).is_empty() {
        return Ok(Vec::new());
    }
    let step = "ask the cluster for what this user may not describe";
    let listed = client.topics(&TopicFilter::All).await;
    let listed = listed.map_err(OffsetsError::kafka(step))?;
    let seen = listed.into_iter().map(|topic| topic.name).collect();
    let hidden = client.hidden_topics(&seen).await;
    Ok(match hidden.map_err(OffsetsError::kafka(step))? {
        Some(hidden) if hidden.is_empty() => Vec::new(),
        Some(hidden) => {
            let names: Vec<String> = hidden.iter().map(|name| name.to_string()).collect();
            let names = human::some(&names, 10);
            vec![format!(
                "what groups have committed for topics that this user may not describe is left as it is: {names}"
            )]
        }
        None => vec![ONLY_VISIBLE.into()],
    })
}

async fn listed(client: &Client) -> Result<Vec<ListedGroup>, OffsetsError> {
    let step = "list the consumer groups of the cluster";
    client
        .list_groups()
        .await
        .map_err(OffsetsError::kafka(step))
}

/// The groups of the cluster that `patterns` mean.
async fn chosen(
    client: &Client,
    patterns: &[String],
    listed: &[ListedGroup],
) -> Result<Vec<Meant>, OffsetsError> {
    let selector = GroupSelector::parse(GROUPS, patterns)?;
    let step = "read the committed offsets of a consumer group";
    refuse_hidden(client, &selector, listed)
        .await
        .map_err(OffsetsError::kafka(step))?;
    choose(patterns, listed)
}

/// The patterns that are matched against the groups of the cluster, not against those of a backup or a snapshot.
fn listed_groups(task: &OffsetsTask) -> &[String] {
    match task {
        OffsetsTask::Reset(ResetTask {
            to: OffsetTarget::FromMapping { .. } | OffsetTarget::FromRestore { .. },
            ..
        })
        | OffsetsTask::Rollback { .. }
        | OffsetsTask::Verify { .. }
        | OffsetsTask::Delete { .. } => &[],
        OffsetsTask::Reset(ResetTask { groups, .. }) | OffsetsTask::Snapshot { groups, .. } => {
            groups
        }
    }
}

struct Work<'a> {
    plan: &'a OffsetsPlan,
    ports: &'a Ports,
    context: &'a Context,
    client: Client,
}

/// Where the offsets of a reset come from, as far as it is not from the cluster.
enum Source {
    Cluster,
    Mapping(Mapping),
    Restore(Restored),
}

/// The groups of a backup, in the topics of its restore.
struct Restored {
    groups: Vec<TranslatedGroup>,
    target_ids: BTreeMap<String, TopicId>,
}

impl Work<'_> {
    async fn reset(&self, task: &ResetTask) -> Result<OffsetsReport, Unfinished> {
        let source = self.source(task).await?;
        let meant = self.meant(task, &source).await?;
        refuse_live(&meant)?;
        let topics = task.topics.as_deref();
        let mut has = read(&self.client, &meant, topics).await?;
        let mut empty = Vec::new();
        if matches!(source, Source::Cluster) {
            empty = without_offsets(&mut has, &task.groups)?;
        }
        let (mut plans, logs) = self.planned(task, &source, &has, &has).await?;
        if self.plan.dry_run {
            plans.extend(empty);
            return self.told(planned(&plans, &logs), &plans, None);
        }
        let mut taken = None;
        if let Some(snapshot) = &task.snapshot {
            let keeper = self.keeper(snapshot)?;
            keeper.check().await?;
            let scope = Scope {
                run: &self.plan.run,
                groups: &task.groups,
                topics,
            };
            let is_own = |run: &RunRef| *run == self.plan.run;
            let had = take(&self.client, &keeper, scope, has.clone(), is_own).await?;
            if had.groups != has {
                // An earlier attempt has begun to change them.
                (plans, _) = self.planned(task, &source, &had.groups, &has).await?;
                refuse_unkept(&mut plans, &had);
            }
            taken = Some(had);
        }
        plans.extend(empty);
        self.apply(&plans, &logs, task.parallelism, taken.as_ref())
            .await
    }

    async fn source(&self, task: &ResetTask) -> Result<Source, OffsetsError> {
        match &task.to {
            OffsetTarget::FromMapping { name, key } => {
                let path = self.ports.mapping_file.as_deref().ok_or_else(|| {
                    SpecError::new("spec.mappingConfigMap", "a file with the offsets", "none")
                })?;
                let json = read_file(path).await?;
                let object = format!("{key} of ConfigMap {name}");
                Ok(Source::Mapping(Mapping::from_json(&object, &json)?))
            }
            OffsetTarget::FromRestore {
                restore,
                storage,
                archive,
            } => {
                let store = Store::open(storage, &self.ports.places)?;
                let found = find::restore(&store, archive.as_ref(), restore).await?;
                let decision = &found.decision;
                let cluster = self.client.cluster_id();
                if decision.target_cluster_id != cluster {
                    return Err(SpecError::new(
                        "spec.kafkaCluster",
                        format!(
                            "cluster {}, which restore {restore} has written",
                            decision.target_cluster_id
                        ),
                        format!("cluster {cluster}"),
                    )
                    .into());
                }
                let selector = GroupSelector::parse(GROUPS, &task.groups)?;
                let found = translate(&store, &found.layout, decision, Some(&selector)).await?;
                let mut groups = found.groups()?.collect::<Result<Vec<_>, _>>()?;
                // A glob means those that the restore has to do with.
                let topics = task.topics.as_deref();
                groups.retain(|group| {
                    let mut literals = selector.literals();
                    literals.any(|id| id == group.group) || has_to_do_with(group, topics)
                });
                Ok(Source::Restore(Restored {
                    groups,
                    target_ids: target_ids(decision),
                }))
            }
            OffsetTarget::Earliest
            | OffsetTarget::Latest
            | OffsetTarget::Timestamp { .. }
            | OffsetTarget::Offset { .. }
            | OffsetTarget::HeaderBased { .. } => Ok(Source::Cluster),
        }
    }

    async fn meant(&self, task: &ResetTask, source: &Source) -> Result<Vec<Meant>, OffsetsError> {
        let listed = listed(&self.client).await?;
        match source {
            Source::Cluster => chosen(&self.client, &task.groups, &listed).await,
            Source::Mapping(mapping) => {
                let names = mapping.groups.keys().map(String::as_str);
                among(&task.groups, names, &listed, "the mapping")
            }
            Source::Restore(restored) => {
                let names = restored.groups.iter().map(|group| group.group.as_str());
                among(
                    &task.groups,
                    names,
                    &listed,
                    "the backup with offsets on the topics of the restore",
                )
            }
        }
    }

    /// From what groups had when the run began, and what they have now.
    async fn planned(
        &self,
        task: &ResetTask,
        source: &Source,
        had: &[GroupOffsets],
        has: &[GroupOffsets],
    ) -> Result<(Vec<GroupPlan>, Logs), OffsetsError> {
        let (client, topics) = (&self.client, task.topics.as_deref());
        match (source, &task.to) {
            (Source::Mapping(mapping), _) => from_mapping(client, mapping, topics, has).await,
            (Source::Restore(restored), _) => {
                let Restored { groups, target_ids } = restored;
                translated(client, groups, target_ids, topics, has).await
            }
            (
                Source::Cluster,
                OffsetTarget::HeaderBased {
                    source_cluster,
                    scan_all_partitions,
                },
            ) => {
                let how = ByHeaders {
                    source_cluster: source_cluster.as_deref(),
                    empty: &[],
                    placement: match scan_all_partitions {
                        true => Placement::AnyPartition,
                        false => Placement::SamePartition,
                    },
                };
                let same = |topic: &str| Some(Arc::from(topic));
                by_headers(client, how, had, same, has, self.context).await
            }
            (Source::Cluster, to) => plain(client, to, has, has).await,
        }
    }

    async fn snapshot(
        &self,
        patterns: &[String],
        snapshot: &SnapshotRef,
    ) -> Result<OffsetsReport, Unfinished> {
        let meant = chosen(&self.client, patterns, &listed(&self.client).await?).await?;
        let groups = read(&self.client, &meant, None).await?;
        let mut report = OffsetsReport {
            deed: OffsetsDeed::Kept,
            dry_run: self.plan.dry_run,
            groups_done: groups.len() as u64,
            partitions: groups.iter().map(GroupOffsets::offsets).sum(),
            ..OffsetsReport::default()
        };
        if !self.plan.dry_run {
            let keeper = self.keeper(snapshot)?;
            keeper.check().await?;
            let scope = Scope {
                run: &self.plan.run,
                groups: patterns,
                topics: None,
            };
            let is_own = |run: &RunRef| *run == self.plan.run;
            let taken = take(&self.client, &keeper, scope, groups, is_own).await?;
            report.snapshot = Some(summary(&taken));
        }
        Ok(report)
    }

    async fn rollback(
        &self,
        patterns: Option<&[String]>,
        snapshot: &SnapshotRef,
        force: bool,
    ) -> Result<OffsetsReport, Unfinished> {
        let snapshot = self.keeper(snapshot)?.read().await?;
        let had = meant(&snapshot, patterns)?;
        let listed = listed(&self.client).await?;
        let now = now(&had, &listed);
        refuse_live(&now)?;
        let (has, logs) = self.compared(&snapshot, &had, &now).await?;
        let logbook = Logbook::new(&snapshot.header, self.client.cluster_id(), &logs);
        if !force {
            logbook.check(&had, self.client.cluster_id())?;
        }
        let plans = had
            .iter()
            .zip(&has)
            .map(|(had, has)| logbook.plan(had, has));
        let plans: Vec<GroupPlan> = plans.collect();
        if self.plan.dry_run {
            return self.told(planned(&plans, &logs), &plans, Some(&snapshot));
        }
        let report = self
            .apply(&plans, &logs, PARALLELISM, Some(&snapshot))
            .await?;
        // What was right already is looked at too, and what somebody has changed meanwhile.
        let has = read(&self.client, &now, snapshot.header.topics.as_deref()).await?;
        let differs = had.iter().zip(&has);
        let differs = differs.flat_map(|(had, has)| logbook.plan(had, has).differences(has));
        compared_with(&snapshot, differs.collect(), report)
    }

    async fn verify(
        &self,
        patterns: Option<&[String]>,
        snapshot: &SnapshotRef,
        strict: bool,
    ) -> Result<OffsetsReport, Unfinished> {
        let snapshot = self.keeper(snapshot)?.read().await?;
        let had = meant(&snapshot, patterns)?;
        let now = now(&had, &[]);
        let (has, logs) = self.compared(&snapshot, &had, &now).await?;
        let logbook = Logbook::new(&snapshot.header, self.client.cluster_id(), &logs);
        let differs = had.iter().zip(&has).flat_map(|(had, has)| {
            let plan = logbook.plan(had, has);
            differences(&plan, had, has, strict)
        });
        let report = OffsetsReport {
            deed: OffsetsDeed::Compared,
            groups_done: had.len() as u64,
            snapshot: Some(summary(&snapshot)),
            ..OffsetsReport::default()
        };
        compared_with(&snapshot, differs.collect(), report)
    }

    async fn delete(&self, snapshot: &SnapshotRef) -> Result<OffsetsReport, Unfinished> {
        if !self.plan.dry_run {
            self.keeper(snapshot)?.delete().await?;
        }
        Ok(OffsetsReport {
            deed: OffsetsDeed::Deleted,
            dry_run: self.plan.dry_run,
            ..OffsetsReport::default()
        })
    }

    /// What the groups of a snapshot have now, in its order, and the logs of all topics that they had or have offsets for.
    async fn compared(
        &self,
        snapshot: &Snapshot,
        had: &[&GroupOffsets],
        now: &[Meant],
    ) -> Result<(Vec<GroupOffsets>, Logs), OffsetsError> {
        let has = read(&self.client, now, snapshot.header.topics.as_deref()).await?;
        let topics = topics_of(had.iter().copied().chain(&has));
        let logs = Logs::look(&self.client, topics).await?;
        Ok((has, logs))
    }

    fn keeper(&self, snapshot: &SnapshotRef) -> Result<Keeper, OffsetsError> {
        let (ports, namespace) = (self.ports, &self.plan.run.namespace);
        let (folder, push) = (ports.snapshot_dir.clone(), ports.push.clone());
        Keeper::open(snapshot, namespace, &ports.places, folder, push)
    }

    async fn apply(
        &self,
        plans: &[GroupPlan],
        logs: &Logs,
        parallelism: u16,
        snapshot: Option<&Snapshot>,
    ) -> Result<OffsetsReport, Unfinished> {
        let (mut report, error) = apply(&self.client, plans, logs, parallelism, self.context).await;
        report.snapshot = snapshot.map(summary);
        ended(report, error)
    }

    /// The report of a dry run, which fails where the real one would.
    fn told(
        &self,
        mut report: OffsetsReport,
        plans: &[GroupPlan],
        snapshot: Option<&Snapshot>,
    ) -> Result<OffsetsReport, Unfinished> {
        report.snapshot = snapshot.map(summary);
        let refused = plans.iter().filter_map(|plan| {
            let reason = plan.refused.as_ref()?;
            Some(format!("{}: {reason}", plan.group))
        });
        let failed: Vec<String> = refused.collect();
        let error = (!failed.is_empty()).then(|| OffsetsError::Groups {
            failed,
            fault: Fault::Spec,
            done: report.groups_done,
        });
        ended(report, error)
    }
}

/// Ids of the topics that a restore has written, by their names.
fn target_ids(decision: &RestoreDecision) -> BTreeMap<String, TopicId> {
    let topics = decision.topics.values();
    topics
        .map(|topic| (topic.target.clone(), topic.target_topic_id))
        .collect()
}

/// Takes the groups out of `has` that have no offsets: what was named by its id is refused, what a glob took is left out.
fn without_offsets(
    has: &mut Vec<GroupOffsets>,
    patterns: &[String],
) -> Result<Vec<GroupPlan>, OffsetsError> {
    let selector = GroupSelector::parse(GROUPS, patterns)?;
    let is_literal = |group: &str| selector.literals().any(|literal| literal == group);
    let reason = "it has no committed offsets on the topics that are meant, or this user may not describe them";
    let empty = has
        .iter()
        .filter(|group| group.topics.is_empty() && is_literal(&group.group));
    let refused: Vec<GroupPlan> = empty
        .map(|group| GroupPlan::refused(&group.group, reason.into()))
        .collect();
    has.retain(|group| !group.topics.is_empty());
    if has.is_empty() && refused.is_empty() {
        let expected = "groups with committed offsets on the topics that are meant";
        let found = format!("none among those that match [{}]", patterns.join(", "));
        return Err(SpecError::new(GROUPS, expected, found).into());
    }
    Ok(refused)
}

/// Leaves groups alone that came after the snapshot of an earlier attempt: nothing would bring them back.
fn refuse_unkept(plans: &mut [GroupPlan], had: &Snapshot) {
    for plan in plans {
        if !had.has(&plan.group) {
            let reason = "it is not in the snapshot that the first attempt of this run has taken";
            *plan = GroupPlan::refused(&plan.group, reason.into());
        }
    }
}

/// Whether a restore has written what a group had read, or was asked to and could not.
fn has_to_do_with(group: &TranslatedGroup, topics: Option<&[String]>) -> bool {
    let mut offsets = group.offsets.iter();
    let mut left = group.left_out.iter();
    offsets.any(|one| is_meant(topics, &one.target_topic))
        || left.any(|left| left.reason != LeftOutReason::NotAsked)
}

/// The end of a comparison with `snapshot`: a difference is a failure.
fn compared_with(
    snapshot: &Snapshot,
    mut differences: Vec<String>,
    report: OffsetsReport,
) -> Result<OffsetsReport, Unfinished> {
    let count = differences.len() as u64;
    differences.truncate(DIFFERENCES);
    let mismatch = (count > 0).then(|| OffsetsError::Mismatch {
        id: snapshot.header.snapshot_id.clone(),
        count,
        differences: differences.clone(),
    });
    let verification = Verification {
        matched: count == 0,
        difference_count: count,
        differences,
    };
    let report = OffsetsReport {
        verification: Some(verification),
        ..report
    };
    ended(report, mismatch)
}

/// The end of a run that has come as far as `report`.
fn ended(report: OffsetsReport, error: Option<OffsetsError>) -> Result<OffsetsReport, Unfinished> {
    match error {
        None => Ok(report),
        Some(error) => Err(Unfinished {
            error,
            report: Some(report),
        }),
    }
}

async fn read_file(path: &Path) -> Result<Vec<u8>, OffsetsError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| OffsetsError::Read {
            path: path.display().to_string(),
            source,
        })
}
