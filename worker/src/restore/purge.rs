//! Deletes the records of target topics before they are restored to.
//!
//! # Guarantees
//! - Brokers refuse to delete records of a topic that is only compacted: such a topic has `cleanup.policy=delete` meanwhile, and
//!   gets back what it had. What that was is stored before it is changed: an attempt that dies in between is made good by the
//!   next one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::manifest::{from_json, to_json};
use kafka_backup_shared::archive::restore::Purge;
use tokio::time::{Instant, sleep};

use super::configs::{CLEANUP_POLICY, own_value, value};
use super::error::RestoreError;
use crate::kafka::{
    Client, ConfigChange, ConfigEntry, ConfigOperation, IsolationLevel, LedPartition, OffsetSpec,
    ResponseError,
};
use crate::store::{Created, Store};

/// Brokers learn of a changed policy a moment later.
const POLICY_PATIENCE: Duration = Duration::from_secs(30);

/// A topic with records.
pub(super) struct Filled {
    pub(super) topic: Arc<str>,
    pub(super) configs: Vec<ConfigEntry>,
    pub(super) partitions: Vec<LedPartition>,
}

/// Deletes all records of `filled`. `key` is where changed policies are noted.
pub(super) async fn purge(
    filled: &[Filled],
    key: &str,
    store: &Store,
    client: &Client,
) -> Result<(), RestoreError> {
    let policies = policies(filled, key, store).await?;
    let deleting = ConfigOperation::Set("delete".into());
    change(
        policies.keys().map(|topic| (topic, deleting.clone())),
        client,
    )
    .await?;
    let deleted = delete(filled, client).await;
    let before = policies.iter().map(|(topic, own)| {
        let operation = match own {
            Some(own) => ConfigOperation::Set(own.clone()),
            None => ConfigOperation::Delete,
        };
        (topic, operation)
    });
    change(before, client).await?;
    deleted
}

/// The policies that are changed meanwhile, by topic: their own ones, or `None` where they have the cluster's.
async fn policies(
    filled: &[Filled],
    key: &str,
    store: &Store,
) -> Result<BTreeMap<String, Option<String>>, RestoreError> {
    if let Some(bytes) = store.get(key).await? {
        let purge: Purge = from_json(key, &bytes)?;
        return Ok(purge.policies);
    }
    let only_compacted = filled.iter().filter(|filled| {
        value(&filled.configs, CLEANUP_POLICY).is_some_and(|policy| !policy.contains("delete"))
    });
    let policies: BTreeMap<String, Option<String>> = only_compacted
        .map(|filled| {
            let own = own_value(&filled.configs, CLEANUP_POLICY);
            (filled.topic.to_string(), own.map(str::to_owned))
        })
        .collect();
    if policies.is_empty() {
        return Ok(policies);
    }
    let purge = Purge {
        format_version: FORMAT_VERSION,
        policies,
    };
    match store.create(key, to_json(&purge).into()).await? {
        Created::New | Created::Same => Ok(purge.policies),
        Created::Exists(other) => Ok(from_json::<Purge>(key, &other)?.policies),
    }
}

async fn change<'a>(
    changes: impl Iterator<Item = (&'a String, ConfigOperation)>,
    client: &Client,
) -> Result<(), RestoreError> {
    let failed = RestoreError::kafka("change cleanup.policy for a purge");
    let changes: Vec<(Arc<str>, Vec<ConfigChange>)> = changes
        .map(|(topic, operation)| {
            let change = ConfigChange {
                name: CLEANUP_POLICY.into(),
                operation,
            };
            (Arc::from(topic.as_str()), vec![change])
        })
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    let results = client
        .alter_topic_configs(&changes)
        .await
        .map_err(&failed)?;
    results
        .into_iter()
        .try_for_each(|result| result.map_err(&failed))
}

async fn delete(filled: &[Filled], client: &Client) -> Result<(), RestoreError> {
    let failed = RestoreError::kafka("delete the records of target topics");
    let partitions: Vec<LedPartition> = filled.iter().flat_map(|f| f.partitions.clone()).collect();
    if partitions.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + POLICY_PATIENCE;
    loop {
        // Nothing above the high watermark can be deleted.
        let latest = OffsetSpec::Latest(IsolationLevel::ReadUncommitted);
        let ends = client.list_offsets(&partitions, latest).await;
        let mut before = Vec::new();
        for (partition, end) in partitions.iter().zip(ends) {
            let end = end.map_err(&failed)?.offset;
            before.push((partition.clone(), end));
        }
        let deleted = client.delete_records(&before).await;
        match deleted.into_iter().collect::<Result<Vec<i64>, _>>() {
            Ok(_) => {
                tracing::info!(partitions = before.len(), "records of the target deleted");
                return Ok(());
            }
            Err(error)
                if error.code() == Some(ResponseError::PolicyViolation)
                    && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}
