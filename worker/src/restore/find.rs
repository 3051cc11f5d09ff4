//! Which run of which archive is meant, and what of it is restored.

use std::collections::{BTreeMap, BTreeSet};

use kafka_backup_shared::archive::layout::Layout;
use kafka_backup_shared::archive::manifest::{Manifest, TopicPart, from_json, from_json_zst};
use kafka_backup_shared::plan::{ArchiveName, RestoreRequest, SpecError};
use kafka_backup_shared::report::{Fault, error_chain};
use kafka_backup_shared::spec::MissingTopics;

use super::error::RestoreError;
use crate::runs;
use crate::store::Store;

/// Run ids that a message lists.
const LISTED: usize = 10;

/// A run that can be restored from.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Keys of its archive.
    pub(super) layout: Layout,
    /// Its id.
    pub(super) backup_id: String,
    /// What it captured.
    pub(super) manifest: Manifest,
}

/// The archives that `request` may mean: the one it names, or all that the store has.
pub(super) async fn archives(
    request: &RestoreRequest,
    store: &Store,
) -> Result<Vec<ArchiveName>, RestoreError> {
    if let Some(archive) = &request.archive {
        return Ok(vec![archive.clone()]);
    }
    Ok(runs::archives(store).await?)
}

/// Finds the run with an id, or the newest complete one.
///
/// # Errors
/// A message that tells which runs or archives are there.
pub(super) async fn run(
    archives: &[ArchiveName],
    backup_id: &str,
    store: &Store,
) -> Result<Found, RestoreError> {
    let mut candidates = Vec::new();
    for archive in archives {
        let layout = Layout::new(archive);
        let found = match backup_id {
            RestoreRequest::LATEST => latest(layout, store).await?,
            id => by_id(layout, id, store).await?,
        };
        candidates.extend(found.map(|found| (archive, found)));
    }
    if candidates.len() > 1 {
        let names: Vec<String> = candidates
            .iter()
            .map(|(name, _)| name.to_string())
            .collect();
        return Err(SpecError::new(
            "spec.archive",
            format!(
                "the archive of backup {backup_id:?}, as <namespace>/<name>: {} have one",
                names.join(", ")
            ),
            "none",
        )
        .into());
    }
    match candidates.pop() {
        Some((_, found)) => Ok(found),
        None => Err(unknown(archives, backup_id, store).await?.into()),
    }
}

/// The run with an id, if the archive has it.
pub(super) async fn by_id(
    layout: Layout,
    id: &str,
    store: &Store,
) -> Result<Option<Found>, RestoreError> {
    for key in [layout.manifest(id), layout.partial(id)] {
        if let Some(bytes) = store.get(&key).await? {
            let manifest = from_json(&key, &bytes)?;
            let backup_id = id.to_owned();
            return Ok(Some(Found {
                layout,
                backup_id,
                manifest,
            }));
        }
    }
    Ok(None)
}

async fn latest(layout: Layout, store: &Store) -> Result<Option<Found>, RestoreError> {
    let Some(newest) = runs::newest_complete(store, &layout).await? else {
        return Ok(None);
    };
    let manifest = from_json(&newest.key, &newest.manifest)?;
    Ok(Some(Found {
        layout,
        backup_id: newest.run,
        manifest,
    }))
}

/// Tells what is there instead.
async fn unknown(
    archives: &[ArchiveName],
    backup_id: &str,
    store: &Store,
) -> Result<SpecError, RestoreError> {
    let mut there: Vec<String> = Vec::new();
    for archive in archives {
        let layout = Layout::new(archive);
        for id in runs::ids(store, &layout).await? {
            if there.len() == LISTED {
                break;
            }
            // Runs without an end are under way or were given up: nothing can be restored from them.
            if store.head(&layout.manifest(&id)).await?.is_some() {
                there.push(id);
            } else if store.head(&layout.partial(&id)).await?.is_some() {
                there.push(format!("{id} (some topics only)"));
            }
        }
    }
    let place = match archives {
        [one] => format!("archive {one} in {}", store.place()),
        _ => store.place().to_owned(),
    };
    let expected = match there.is_empty() {
        true => format!("a complete backup ({place} has none)"),
        false => format!("a backup of {place}, newest first: {}", there.join(", ")),
    };
    Ok(SpecError::new(
        "spec.backupId",
        expected,
        format!("{backup_id:?}"),
    ))
}

/// The topics to restore, by source name, with the name of their target; and what could not be obeyed but may be ignored.
///
/// # Errors
/// [`SpecError`]: no topic, a missing one, a mapping that maps nothing, two sources for one target.
pub(super) fn targets(
    request: &RestoreRequest,
    found: &Found,
) -> Result<(BTreeMap<String, String>, Vec<String>), SpecError> {
    let manifest = &found.manifest;
    let there = || match manifest.topics.is_empty() {
        true => "none".to_owned(),
        false => {
            let names: Vec<&str> = manifest
                .topics
                .keys()
                .take(20)
                .map(String::as_str)
                .collect();
            let more = manifest.topics.len().saturating_sub(names.len());
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("{}{more}", names.join(", "))
        }
    };
    let backup_id = &found.backup_id;
    let selection = request
        .topics
        .select(manifest.topics.keys().map(String::as_str))?;
    let mut warnings = Vec::new();
    if !selection.missing.is_empty() {
        let missing: Vec<String> = selection
            .missing
            .iter()
            .map(|topic| match manifest.failed.get(topic) {
                Some(reason) => format!("{topic} (its capture failed: {reason})"),
                None => topic.clone(),
            })
            .collect();
        let missing = missing.join(", ");
        match request.topics.missing {
            MissingTopics::Fail => {
                return Err(SpecError::new(
                    "spec.topics",
                    format!("topics of backup {backup_id} ({})", there()),
                    missing,
                ));
            }
            MissingTopics::Ignore => {
                warnings.push(format!(
                    "topics that backup {backup_id} does not have: {missing}"
                ));
            }
        }
    }
    if selection.topics.is_empty() {
        return Err(SpecError::new(
            "spec.topics",
            format!(
                "names or globs that match a topic of backup {backup_id} ({})",
                there()
            ),
            request.topics.include.join(", "),
        ));
    }
    let chosen: BTreeSet<&String> = selection.topics.iter().collect();
    let mapped = request
        .topic_mapping
        .keys()
        .map(|topic| ("topicMapping", topic));
    let moved = request
        .partition_mapping
        .keys()
        .map(|topic| ("partitionMapping", topic));
    for (field, source) in mapped.chain(moved) {
        // A mapping that maps nothing is a misspelt one, and its topic would be restored under the name it has.
        if !chosen.contains(source) && !selection.missing.contains(source) {
            return Err(SpecError::new(
                format!("spec.{field}.{source}"),
                format!("a topic that is restored from backup {backup_id}"),
                format!("{source:?}"),
            ));
        }
    }
    let mut targets = BTreeMap::new();
    let mut sources: BTreeMap<&str, &str> = BTreeMap::new();
    for source in &selection.topics {
        let target = request.target(source);
        if let Some(other) = sources.insert(target, source) {
            return Err(SpecError::new(
                "spec.topicMapping",
                "a target topic of its own for each source topic",
                format!("{target:?} for both {other:?} and {source:?}"),
            ));
        }
        targets.insert(source.clone(), target.to_owned());
    }
    Ok((targets, warnings))
}

/// The pinned segments of the chosen topics, and why those of others cannot be read.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// By topic.
    pub(super) whole: BTreeMap<String, TopicPart>,
    /// Topics of which the archive has lost something, with the reason.
    pub(super) failed: BTreeMap<String, String>,
}

/// Reads the parts of `topics`.
///
/// # Errors
/// The store does not answer; or an object is of a newer format.
pub(super) async fn parts<'a>(
    found: &Found,
    topics: impl IntoIterator<Item = &'a String>,
    store: &Store,
) -> Result<Parts, RestoreError> {
    let mut parts = Parts::default();
    for topic in topics {
        match part(found, topic, store).await {
            Ok(part) => {
                parts.whole.insert(topic.clone(), part);
            }
            Err(error) if error.fault() == Fault::Corrupt => {
                parts.failed.insert(topic.clone(), error_chain(&error));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(parts)
}

async fn part(found: &Found, topic: &str, store: &Store) -> Result<TopicPart, RestoreError> {
    let manifest_key = found.layout.manifest(&found.backup_id);
    let Some(entry) = found.manifest.topics.get(topic) else {
        let reason = format!("topic {topic} is missing");
        return Err(RestoreError::damaged(manifest_key, reason));
    };
    let key = found.layout.topic_part(&entry.part, topic);
    let Some(bytes) = store.get(&key).await? else {
        return Err(RestoreError::lost(key));
    };
    let part: TopicPart = from_json_zst(&key, &bytes)?;
    let same = part.topic == *topic
        && part.description.topic_id == entry.topic_id
        && part.partitions.len() == entry.partitions as usize;
    if !same {
        let reason = format!("it is not the part that {manifest_key} names");
        return Err(RestoreError::damaged(key, reason));
    }
    Ok(part)
}
