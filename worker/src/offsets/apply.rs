//! Commits what was planned, group by group.
//!
//! # Guarantees
//! - Offsets of a group are committed together, in one request; then what is to go is removed; then it is read back, and what is
//!   not as planned is a failure of the group.
//! - A group that fails does not stop the others. After a SIGTERM no group is begun.
//! - Each step may be done twice: an attempt that was killed is made up for by the next.

use std::sync::Arc;

use futures::{StreamExt, stream};
use kafka_backup_shared::crd::{GroupResult, GroupStatus};
use kafka_backup_shared::report::{Fault, OffsetsReport};

use super::change::GroupPlan;
use super::error::OffsetsError;
use super::logs::Logs;
use crate::context::Context;
use crate::groups::by_topic;
use crate::kafka::{Client, KafkaError};
use kafka_backup_shared::archive::groups::GroupKind;
use kafka_backup_shared::report::error_chain;

/// Why a group is not as it should be.
#[derive(Debug)]
struct GroupFailure {
    fault: Fault,
    message: String,
}

/// What would become of the groups. Nothing is changed.
pub(crate) fn planned(plans: &[GroupPlan], logs: &Logs) -> OffsetsReport {
    let results = plans.iter().map(|plan| match &plan.refused {
        None => result(plan, GroupStatus::Planned, None),
        Some(reason) => result(plan, GroupStatus::Failed, Some(reason.clone())),
    });
    told(plans, results.collect(), logs, true)
}

/// Changes the groups; the second value is the failure of those that are not as they should be.
pub(crate) async fn apply(
    client: &Client,
    plans: &[GroupPlan],
    logs: &Logs,
    parallelism: u16,
    context: &Context,
) -> (OffsetsReport, Option<OffsetsError>) {
    context.progress.plan(plans.len() as u64, 0);
    let work = stream::iter(plans).map(|plan| async move {
        if let Some(reason) = &plan.refused {
            let fault = Fault::Spec;
            let message = reason.clone();
            return (plan, Some(Err(GroupFailure { fault, message })));
        }
        if context.cancel.is_cancelled() {
            return (plan, None);
        }
        let done = change(client, plan).await;
        if let Err(failure) = &done {
            tracing::warn!(group = %plan.group, "{}", failure.message);
        }
        context.progress.add(0, 0, 1);
        (plan, Some(done))
    });
    let done: Vec<_> = work
        .buffer_unordered(usize::from(parallelism.max(1)))
        .collect()
        .await;
    let (mut results, mut failed, mut fault) = (Vec::new(), Vec::new(), Fault::Interrupted);
    let mut is_interrupted = false;
    for (plan, done) in done {
        match done {
            Some(Ok(())) => results.push(result(plan, GroupStatus::Completed, None)),
            Some(Err(failure)) => {
                fault = fault.max(failure.fault);
                failed.push(format!("{}: {}", plan.group, failure.message));
                results.push(result(plan, GroupStatus::Failed, Some(failure.message)));
            }
            None => {
                is_interrupted = true;
                let reason = "the worker was told to stop before it was changed";
                results.push(result(plan, GroupStatus::Failed, Some(reason.into())));
            }
        }
    }
    failed.sort();
    let report = told(plans, results, logs, false);
    let error = match (failed.is_empty(), is_interrupted) {
        (true, false) => None,
        (_, true) => Some(OffsetsError::Interrupted),
        (false, false) => Some(OffsetsError::Groups {
            failed,
            fault,
            done: report.groups_done,
        }),
    };
    (report, error)
}

fn result(plan: &GroupPlan, status: GroupStatus, message: Option<String>) -> GroupResult {
    let is_failed = status == GroupStatus::Failed;
    let notes = (!plan.notes.is_empty()).then(|| plan.notes.join("; "));
    GroupResult {
        group: plan.group.to_string(),
        status,
        partitions_reset: if is_failed {
            0
        } else {
            plan.changes.len() as u64
        },
        message: message.or(notes),
    }
}

fn told(
    plans: &[GroupPlan],
    mut results: Vec<GroupResult>,
    logs: &Logs,
    dry_run: bool,
) -> OffsetsReport {
    results.sort_by(|a, b| {
        let key = |one: &GroupResult| (one.status != GroupStatus::Failed, one.group.clone());
        key(a).cmp(&key(b))
    });
    let failed = results
        .iter()
        .filter(|one| one.status == GroupStatus::Failed)
        .count() as u64;
    OffsetsReport {
        dry_run,
        groups_done: results.len() as u64 - failed,
        groups_failed: failed,
        partitions: results.iter().map(|one| one.partitions_reset).sum(),
        changes: plans.iter().flat_map(|plan| plan.told(logs)).collect(),
        groups: results,
        ..OffsetsReport::default()
    }
}

async fn change(client: &Client, plan: &GroupPlan) -> Result<(), GroupFailure> {
    let failed = |step: &'static str| {
        move |source: KafkaError| {
            let fault = source.fault();
            let error = OffsetsError::Kafka { step, source };
            GroupFailure {
                fault,
                message: error_chain(&error),
            }
        }
    };
    let (commits, removals) = (plan.commits(), plan.removals());
    if commits.is_empty() && removals.is_empty() {
        return Ok(());
    }
    let committed = client.commit_offsets(&plan.group, &commits).await;
    committed.map_err(failed("commit offsets"))?;
    let removed = client.delete_offsets(&plan.group, &removals).await;
    removed.map_err(failed("remove committed offsets"))?;
    let group: Arc<str> = plan.group.clone();
    let mut found = client
        .committed_offsets(std::slice::from_ref(&group), |_| true)
        .await;
    let found = found.pop().unwrap_or(Ok(Vec::new()));
    let found = found.map_err(failed("read committed offsets back"))?;
    let differences = plan.differences(&by_topic(&group, GroupKind::Classic, found));
    match differences.first() {
        None => Ok(()),
        Some(first) => Err(GroupFailure {
            fault: Fault::Unavailable,
            message: format!(
                "something else commits for the group: {} places differ after the commit, the first: {first}",
                differences.len()
            ),
        }),
    }
}
