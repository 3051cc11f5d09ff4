//! What is in a store: the runs of its archives, and what one run captured.
//!
//! # Guarantees
//! - Nothing is written.
//! - What is told comes from manifests alone, so that it is what a restore would read.
//! - An object that cannot be read does not hide the others: its run is listed as unreadable, with the reason.

pub mod show;

use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::groups::{GroupKind, GroupsPart, read_groups};
use kafka_backup_shared::archive::layout::{Layout, unescape};
use kafka_backup_shared::archive::manifest::{
    Begin, Gap, Manifest, PinnedPartition, TopicPart, from_json, from_json_zst,
};
use kafka_backup_shared::plan::ArchiveName;
use kafka_backup_shared::report::Fault;
use serde::Serialize;

use crate::runs;
use crate::store::{Store, StoreError};

/// Objects that are read at the same time.
const CONCURRENCY: usize = 16;
/// Run ids that a message lists.
const LISTED: usize = 10;

/// Why a store could not be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The store did not answer as it should.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object of the archive cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A manifest names an object that is not there.
    #[error("{key} is missing in {store}, though the manifest of {run} names it")]
    Missing {
        /// The object.
        key: String,
        /// Which store.
        store: String,
        /// Whose manifest.
        run: String,
    },
    /// No archive has that run.
    #[error("no run {run:?} in {store}; there is {there}")]
    UnknownRun {
        /// What was asked for.
        run: String,
        /// Which store.
        store: String,
        /// What is there.
        there: String,
    },
    /// There is no newest complete run.
    #[error("archive {archive} in {store} has no complete run")]
    NoCompleteRun {
        /// The archive.
        archive: String,
        /// Which store.
        store: String,
    },
    /// Not exactly one archive is meant.
    #[error("name the archive with --archive: {store} has {there}")]
    Archive {
        /// Which store.
        store: String,
        /// What is there.
        there: String,
    },
    /// Several archives have it.
    #[error("run {run:?} is in several archives: choose one with --archive: {archives}")]
    Ambiguous {
        /// What was asked for.
        run: String,
        /// Who has it.
        archives: String,
    },
}

impl InspectError {
    /// What it means for the exit code.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Format(_) | Self::Missing { .. } => Fault::Corrupt,
            Self::UnknownRun { .. }
            | Self::NoCompleteRun { .. }
            | Self::Archive { .. }
            | Self::Ambiguous { .. } => Fault::Spec,
        }
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It has a manifest.
    Complete,
    /// Some topics could not be captured; the others can be restored by the run's id.
    Partial,
    /// It goes on, or was given up.
    Unfinished,
    /// Its objects cannot be read.
    Unreadable,
}

/// A run in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RunEntry {
    /// `<namespace>/<name>`.
    pub archive: String,
    /// Run id.
    pub run: String,
    /// Where it stands.
    pub state: State,
    /// When it was fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// Topics that it captured; of an unfinished run, topics that it is about.
    pub topics: u64,
    /// Records that a restore of it brings, including those of earlier runs.
    pub records: u64,
    /// Bytes of record batches of the same.
    pub bytes: u64,
    /// Records that it added to the store.
    pub added_records: u64,
    /// Bytes that it added to the store.
    pub added_bytes: u64,
    /// Offset ranges that are missing for good.
    pub gaps: u64,
    /// Why it is unreadable, or which topics failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What a run captured.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// The run as it is listed.
    #[serde(flatten)]
    pub entry: RunEntry,
    /// What it set out to do, while it has no manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub begin: Option<Begin>,
    /// Its manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Manifest>,
    /// What it has of each partition.
    pub partitions: Vec<PartitionEntry>,
    /// The pinned segments, by topic.
    pub parts: Vec<TopicPart>,
    /// Consumer groups whose committed offsets it saved, by id.
    pub groups: Vec<GroupEntry>,
}

/// A consumer group in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupEntry {
    /// The group's id.
    pub group: String,
    /// Its kind.
    pub kind: GroupKind,
    /// Topics on which it has committed offsets.
    pub topics: u64,
    /// The offsets.
    pub offsets: u64,
}

/// What a run has of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionEntry {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: i32,
    /// First offset that a restore brings.
    pub start: i64,
    /// The offset after the last one.
    pub end: i64,
    /// Records in the pinned segments, also in those below the source's log start.
    pub records: u64,
    /// Number of pinned segments.
    pub segments: u64,
    /// Largest timestamp of its records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_record: Option<Timestamp>,
    /// Offsets that are missing for good, each with the reason.
    pub gaps: Vec<Gap>,
    /// Run id that opened the generation in which the segments stand.
    pub generation: String,
}

impl PartitionEntry {
    fn new(topic: &str, pinned: &PinnedPartition) -> Self {
        // Records below the source's log start are in the archive, but a restore leaves them out.
        let first = pinned.links().first().map(|link| link.range.start);
        let newest = pinned.segments.iter().map(|name| name.max_timestamp).max();
        Self {
            topic: topic.to_owned(),
            partition: pinned.partition,
            start: first.map_or(pinned.log_start, |first| first.max(pinned.log_start)),
            end: pinned.end,
            records: pinned.records(),
            segments: pinned.segments.len() as u64,
            // -1 is "none", and what a calendar cannot hold is no time.
            newest_record: newest
                .filter(|millis| *millis >= 0)
                .and_then(|millis| Timestamp::from_millisecond(millis).ok()),
            gaps: pinned.gaps.clone(),
            generation: pinned.generation.clone(),
        }
    }
}

/// The objects of a run that say where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Ledger {
    Complete(Box<Manifest>),
    Partial(Box<Manifest>),
    Unfinished(Box<Begin>),
}

/// A run's place in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct RunPlace {
    archive: ArchiveName,
    run: String,
}

impl RunPlace {
    fn layout(&self) -> Layout {
        Layout::new(&self.archive)
    }
}

/// The runs of one archive, or of all in the store, by archive and time.
///
/// # Errors
/// [`InspectError`] where the store does not answer; a run that cannot be read is an entry.
pub async fn list(
    store: &Store,
    archive: Option<&ArchiveName>,
) -> Result<Vec<RunEntry>, InspectError> {
    store.check_readable().await?;
    let places = places(store, archive).await?;
    let entries = stream::iter(&places).map(|place| async move {
        match ledger(store, &place.layout(), &place.run).await {
            Ok(Some(ledger)) => Ok(Some(entry(place, &ledger))),
            Ok(None) => Ok(None),
            Err(InspectError::Format(error)) => Ok(Some(unreadable(place, &error))),
            Err(error) => Err(error),
        }
    });
    let found: Vec<Option<RunEntry>> = entries.buffered(CONCURRENCY).try_collect().await?;
    let mut entries: Vec<RunEntry> = found.into_iter().flatten().collect();
    entries.sort_by(|a, b| {
        (&a.archive, a.start_time, &a.run).cmp(&(&b.archive, b.start_time, &b.run))
    });
    Ok(entries)
}

/// The word for the newest complete run, which is no run's id.
const LATEST: &str = "latest";

/// What `run` captured; `latest` is the newest complete run of the archive.
///
/// # Errors
/// [`InspectError`] lists what is there where the run is not.
pub async fn describe(
    store: &Store,
    run: &str,
    archive: Option<&ArchiveName>,
) -> Result<Description, InspectError> {
    store.check_readable().await?;
    let newest = match run {
        LATEST => Some(newest_complete(store, archive).await?),
        _ => None,
    };
    let (run, archive) = match &newest {
        Some((archive, run)) => (&**run, Some(archive)),
        None => (run, archive),
    };
    let all = places(store, archive).await?;
    let place = the_one(store, run, &all)?;
    let Some(ledger) = ledger(store, &place.layout(), &place.run).await? else {
        return Err(unknown(run, store, &all));
    };
    let entry = entry(place, &ledger);
    let (begin, manifest) = match ledger {
        Ledger::Unfinished(begin) => (Some(*begin), None),
        Ledger::Complete(manifest) | Ledger::Partial(manifest) => (None, Some(*manifest)),
    };
    let parts = match &manifest {
        Some(manifest) => parts(store, place, manifest).await?,
        None => Vec::new(),
    };
    let pinned = match (&begin, &manifest) {
        (_, Some(manifest)) => manifest.groups.as_ref(),
        (Some(begin), None) => begin.groups.as_ref(),
        (None, None) => None,
    };
    let groups = match pinned {
        Some(pinned) => groups(store, place, pinned).await?,
        None => Vec::new(),
    };
    let of_part = |part: &TopicPart| -> Vec<PartitionEntry> {
        let entry = |pinned| PartitionEntry::new(&part.topic, pinned);
        part.partitions.iter().map(entry).collect()
    };
    Ok(Description {
        entry,
        begin,
        manifest,
        partitions: parts.iter().flat_map(of_part).collect(),
        parts,
        groups,
    })
}

async fn newest_complete(
    store: &Store,
    named: Option<&ArchiveName>,
) -> Result<(ArchiveName, String), InspectError> {
    let archive = only_archive(store, named).await?;
    let newest = runs::newest_complete(store, &Layout::new(&archive)).await?;
    match newest {
        Some(complete) => Ok((archive, complete.run)),
        None => Err(InspectError::NoCompleteRun {
            archive: archive.to_string(),
            store: store.place().into(),
        }),
    }
}

/// The one archive that has `run`.
///
/// # Errors
/// [`InspectError`] lists what is there where none or several have it.
pub async fn archive_of(
    store: &Store,
    run: &str,
    archive: Option<&ArchiveName>,
) -> Result<ArchiveName, InspectError> {
    store.check_readable().await?;
    let all = places(store, archive).await?;
    Ok(the_one(store, run, &all)?.archive.clone())
}

fn the_one<'a>(
    store: &Store,
    run: &str,
    all: &'a [RunPlace],
) -> Result<&'a RunPlace, InspectError> {
    let meant: Vec<&RunPlace> = all.iter().filter(|place| place.run == run).collect();
    match meant[..] {
        [place] => Ok(place),
        [] => Err(unknown(run, store, all)),
        _ => {
            let archives: Vec<String> = meant
                .iter()
                .map(|place| place.archive.to_string())
                .collect();
            Err(InspectError::Ambiguous {
                run: run.into(),
                archives: archives.join(", "),
            })
        }
    }
}

/// The archive that is meant: the one that is named, or the only one in the store.
///
/// # Errors
/// [`InspectError`] lists what is there.
pub async fn only_archive(
    store: &Store,
    named: Option<&ArchiveName>,
) -> Result<ArchiveName, InspectError> {
    store.check_readable().await?;
    let all = runs::archives(store).await?;
    match (named, &all[..]) {
        (None, [only]) => Ok(only.clone()),
        (Some(named), _) if all.contains(named) => Ok(named.clone()),
        (None | Some(_), _) => Err(InspectError::Archive {
            store: store.place().into(),
            there: listed(all.iter().map(ArchiveName::to_string).collect()),
        }),
    }
}

async fn parts(
    store: &Store,
    place: &RunPlace,
    manifest: &Manifest,
) -> Result<Vec<TopicPart>, InspectError> {
    let layout = place.layout();
    let read = stream::iter(&manifest.topics).map(|(topic, summary)| {
        let key = layout.topic_part(&summary.part, topic);
        async move {
            let Some(bytes) = store.get(&key).await? else {
                let store = store.place().to_owned();
                return Err(InspectError::Missing {
                    key,
                    store,
                    run: place.run.clone(),
                });
            };
            Ok(from_json_zst(&key, &bytes)?)
        }
    });
    read.buffered(CONCURRENCY).try_collect().await
}

async fn groups(
    store: &Store,
    place: &RunPlace,
    pinned: &GroupsPart,
) -> Result<Vec<GroupEntry>, InspectError> {
    let key = Layout::new(&place.archive).groups(&place.run, pinned.crc32c);
    let Some(bytes) = store.get(&key).await? else {
        return Err(InspectError::Missing {
            key,
            store: store.place().to_owned(),
            run: place.run.clone(),
        });
    };
    let groups = read_groups(&key, &bytes)?.map(|group| {
        let group = group?;
        Ok(GroupEntry {
            kind: group.kind,
            topics: group.topics.len() as u64,
            offsets: group.offsets(),
            group: group.group,
        })
    });
    groups.collect()
}

/// The run folders of one archive, or of all.
async fn places(
    store: &Store,
    archive: Option<&ArchiveName>,
) -> Result<Vec<RunPlace>, InspectError> {
    let archives = match archive {
        Some(archive) => vec![archive.clone()],
        None => runs::archives(store).await?,
    };
    let folders = stream::iter(&archives).map(|archive| async move {
        let folders = store.list_dirs(&Layout::new(archive).runs()).await?;
        let runs = folders
            .iter()
            .filter_map(|folder| unescape(folder.rsplit('/').next()?));
        let places: Vec<RunPlace> = runs
            .map(|run| RunPlace {
                archive: archive.clone(),
                run,
            })
            .collect();
        Ok::<_, InspectError>(places)
    });
    let places: Vec<Vec<RunPlace>> = folders.buffered(CONCURRENCY).try_collect().await?;
    Ok(places.into_iter().flatten().collect())
}

/// Where a run stands; `None` where the folder holds no object of a run.
pub(crate) async fn ledger(
    store: &Store,
    layout: &Layout,
    run: &str,
) -> Result<Option<Ledger>, InspectError> {
    let key = layout.manifest(run);
    if let Some(bytes) = store.get(&key).await? {
        return Ok(Some(Ledger::Complete(Box::new(from_json(&key, &bytes)?))));
    }
    let key = layout.partial(run);
    if let Some(bytes) = store.get(&key).await? {
        return Ok(Some(Ledger::Partial(Box::new(from_json(&key, &bytes)?))));
    }
    let key = layout.begin(run);
    if let Some(bytes) = store.get(&key).await? {
        return Ok(Some(Ledger::Unfinished(Box::new(from_json(&key, &bytes)?))));
    }
    Ok(None)
}

/// A run of which nothing is known yet.
fn unread(place: &RunPlace, state: State) -> RunEntry {
    RunEntry {
        archive: place.archive.to_string(),
        run: place.run.clone(),
        state,
        start_time: None,
        completion_time: None,
        topics: 0,
        records: 0,
        bytes: 0,
        added_records: 0,
        added_bytes: 0,
        gaps: 0,
        problem: None,
    }
}

fn unreadable(place: &RunPlace, error: &FormatError) -> RunEntry {
    RunEntry {
        problem: Some(error.to_string()),
        ..unread(place, State::Unreadable)
    }
}

fn entry(place: &RunPlace, ledger: &Ledger) -> RunEntry {
    let (state, manifest) = match ledger {
        Ledger::Unfinished(begin) => {
            return RunEntry {
                start_time: Some(begin.start_time),
                topics: begin.topics.len() as u64,
                ..unread(place, State::Unfinished)
            };
        }
        Ledger::Complete(manifest) => (State::Complete, manifest),
        Ledger::Partial(manifest) => (State::Partial, manifest),
    };
    let failed: Vec<String> = manifest
        .failed
        .iter()
        .map(|(topic, reason)| format!("{topic}: {reason}"))
        .collect();
    RunEntry {
        start_time: Some(manifest.start_time),
        completion_time: Some(manifest.completion_time),
        topics: manifest.topics.len() as u64,
        records: manifest.topics.values().map(|topic| topic.records).sum(),
        bytes: manifest.topics.values().map(|topic| topic.bytes).sum(),
        added_records: manifest.records,
        added_bytes: manifest.bytes,
        gaps: manifest.topics.values().map(|topic| topic.gaps).sum(),
        problem: (!failed.is_empty()).then(|| failed.join("; ")),
        ..unread(place, state)
    }
}

fn unknown(run: &str, store: &Store, all: &[RunPlace]) -> InspectError {
    let mut there: Vec<String> = all
        .iter()
        .map(|place| format!("{} ({})", place.run, place.archive))
        .collect();
    // Ids end in their time: the newest are what is looked for.
    there.sort_by(|a, b| b.cmp(a));
    InspectError::UnknownRun {
        run: run.into(),
        store: store.place().into(),
        there: listed(there),
    }
}

fn listed(mut there: Vec<String>) -> String {
    if there.is_empty() {
        return "none".into();
    }
    let more = there.len().saturating_sub(LISTED);
    there.truncate(LISTED);
    let mut text = there.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more, see list"));
    }
    text
}

#[cfg(test)]
mod tests;
