//! Reads an archive in full and tells what of it is not as it was written.
//!
//! # Guarantees
//! - Nothing is written.
//! - Everything that a run needs to be restored is read: its manifest, its consumer groups, the parts that it points to, and of
//!   every pinned segment each byte: CRC-32C, size, the batches' own CRCs, their offsets, epochs, records and timestamps against the name.
//! - Damage is told object by object, and does not hide other damage: what is not named is whole.
//! - A store that does not answer is no damage: the verification fails, and says nothing about the archive.
//! - Memory is bounded by the pieces in flight, and by what the parts of one topic take.

pub mod against;
mod segment;
pub mod show;

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use kafka_backup_shared::archive::FormatError;
use kafka_backup_shared::archive::chain::{OffsetRange, chain, uncovered};
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::groups::{GroupsPart, read_groups};
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName, unescape};
use kafka_backup_shared::archive::manifest::{
    ArchiveInfo, Begin, Manifest, ManifestTopic, PinnedPartition, TopicPart, from_json,
    from_json_zst,
};
use kafka_backup_shared::archive::tiles::Sizes;
use kafka_backup_shared::plan::ArchiveName;
use kafka_backup_shared::report::Fault;
use serde::Serialize;

use crate::context::Progress;
use crate::inspect::{InspectError, Ledger, State, ledger};
use crate::runs;
use crate::store::{Store, StoreError};

/// Segments that are read at the same time.
const LANES: usize = 8;
/// Small objects that are read at the same time.
const CONCURRENCY: usize = 16;

/// What is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// The newest complete run of the archive.
    Latest,
    /// One run.
    Run(String),
    /// Every run of the archive, and the segments that none of them has pinned.
    All,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The store did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was asked for is not there.
    #[error(transparent)]
    Inspect(#[from] InspectError),
    /// There is nothing to verify.
    #[error("archive {archive} has no {run}")]
    NoRun {
        /// The archive.
        archive: String,
        /// Which run.
        run: String,
    },
    /// Retention was at work.
    #[error("run {run} was deleted while it was verified: verify again")]
    Deleted {
        /// The run.
        run: String,
    },
    /// A task of ours panicked.
    #[error("a part of the worker failed")]
    Task(#[from] tokio::task::JoinError),
}

impl VerifyError {
    /// What it means for the exit code.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Store(error) => error.fault(),
            Self::Inspect(error) => error.fault(),
            Self::NoRun { .. } => Fault::Spec,
            Self::Deleted { .. } => Fault::Unavailable,
            Self::Task(_) => Fault::Bug,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// `<namespace>/<name>`.
    pub archive: String,
    /// The runs that were verified, the oldest first.
    pub runs: Vec<VerifiedRun>,
    /// Their topics.
    pub topics: Vec<VerifiedTopic>,
    /// What is damaged.
    pub problems: Vec<Problem>,
    /// Objects that are not an archive's, among its segments.
    pub foreign: Vec<String>,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedRun {
    /// Run id.
    pub run: String,
    /// Where it stands.
    pub state: State,
}

/// A topic, over all runs that were verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedTopic {
    /// Its name.
    pub topic: String,
    /// Segments that were read.
    pub segments: u64,
    /// Records that they hold, by their names.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many objects are damaged or missing.
    pub problems: u64,
}

/// An object that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// The topic that it belongs to; `None` where it concerns whole runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its key.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Verifies runs of an archive.
///
/// # Errors
/// [`VerifyError`]; damage is no error, it is in the result.
pub async fn verify(
    store: &Store,
    archive: &ArchiveName,
    which: &Which,
    progress: &Progress,
) -> Result<Verification, VerifyError> {
    let layout = Layout::new(archive);
    let mut work = Work {
        store,
        layout: &layout,
        archive,
        problems: Vec::new(),
        foreign: Vec::new(),
    };
    work.check_object::<ArchiveInfo>(&layout.archive()).await?;
    let runs = work.runs(which).await?;
    let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (run, manifest) in runs
        .iter()
        .filter_map(|(run, found)| Some((run, found.manifest.as_ref()?)))
    {
        for (topic, summary) in &manifest.topics {
            parts
                .entry(topic.clone())
                .or_default()
                .insert(summary.part.clone());
        }
        work.check_object::<Begin>(&layout.begin(&run.run)).await?;
        if let Some(groups) = &manifest.groups {
            work.check_groups(&run.run, groups).await?;
        }
    }
    let topics: BTreeSet<String> = match which {
        Which::All => parts
            .keys()
            .cloned()
            .chain(work.stored_topics().await?)
            .collect(),
        Which::Latest | Which::Run(_) => parts.keys().cloned().collect(),
    };
    let mut reading = Vec::new();
    for topic in &topics {
        let found = work.topic(topic, parts.get(topic), &runs, which).await?;
        let bytes: u64 = found.iter().map(|segment| segment.size).sum();
        progress.plan(
            progress.done_of_planned().1 + bytes,
            progress.done_of_planned().0,
        );
        reading.push(found);
    }
    let mut verified = Vec::new();
    for (topic, segments) in topics.into_iter().zip(reading) {
        verified.push(work.read(topic, segments, progress).await?);
    }
    if !work.problems.is_empty() {
        work.still_there(&runs).await?;
    }
    Ok(Verification {
        archive: archive.to_string(),
        runs: runs.into_iter().map(|(run, _)| run).collect(),
        topics: verified,
        problems: work.problems,
        foreign: work.foreign,
    })
}

/// What a run's ledger says.
struct Found {
    manifest: Option<Manifest>,
}

/// A segment to read.
struct Segment {
    key: String,
    name: SegmentName,
    size: u64,
}

struct Work<'a> {
    store: &'a Store,
    layout: &'a Layout,
    archive: &'a ArchiveName,
    problems: Vec<Problem>,
    foreign: Vec<String>,
}

impl Work<'_> {
    fn wrong(&mut self, topic: Option<&str>, object: &str, problem: impl Into<String>) {
        self.problems.push(Problem {
            topic: topic.map(str::to_owned),
            object: object.into(),
            problem: problem.into(),
        });
    }

    fn unreadable(&mut self, topic: Option<&str>, error: FormatError) {
        let (object, problem) = match error {
            FormatError::Damaged { object, reason } => (object, reason),
            FormatError::TooNew { ref object, .. } => (object.clone(), error.to_string()),
        };
        self.wrong(topic, &object, problem);
    }

    /// A JSON object that must be there and readable.
    async fn check_object<T: serde::de::DeserializeOwned>(
        &mut self,
        key: &str,
    ) -> Result<(), StoreError> {
        match self.store.get(key).await? {
            None => self.wrong(None, key, "it is missing"),
            Some(bytes) => {
                if let Err(error) = from_json::<T>(key, &bytes) {
                    self.unreadable(None, error);
                }
            }
        }
        Ok(())
    }

    /// The consumer groups of a run.
    async fn check_groups(&mut self, run: &str, expected: &GroupsPart) -> Result<(), StoreError> {
        let key = self.layout.groups(run, expected.crc32c);
        let Some(bytes) = self.store.get(&key).await? else {
            self.wrong(None, &key, "it is missing, but a manifest names it");
            return Ok(());
        };
        let crc = crc::of(&bytes);
        if crc != expected.crc32c {
            let problem = format!("expected CRC-32C {:08x}, found {crc:08x}", expected.crc32c);
            self.wrong(None, &key, problem);
            return Ok(());
        }
        let counted = read_groups(&key, &bytes).and_then(|mut groups| {
            groups.try_fold((0, 0), |(count, offsets), group| {
                Ok((count + 1, offsets + group?.offsets()))
            })
        });
        match counted {
            Err(error) => self.unreadable(None, error),
            Ok(found) if found == (expected.groups, expected.offsets) => {}
            Ok((groups, offsets)) => {
                let problem = format!(
                    "expected {} groups with {} offsets, found {groups} with {offsets}",
                    expected.groups, expected.offsets
                );
                self.wrong(None, &key, problem);
            }
        }
        Ok(())
    }

    fn no_run(&self, run: &str) -> VerifyError {
        VerifyError::NoRun {
            archive: self.archive.to_string(),
            run: run.into(),
        }
    }

    /// The runs that are meant, the oldest first.
    async fn runs(&mut self, which: &Which) -> Result<Vec<(VerifiedRun, Found)>, VerifyError> {
        let mut found = Vec::new();
        match which {
            Which::Run(id) => {
                let run = self.run(id).await?;
                found.push(run.ok_or_else(|| self.no_run(&format!("run {id}")))?);
            }
            Which::All => {
                for id in runs::ids(self.store, self.layout).await?.into_iter().rev() {
                    found.extend(self.run(&id).await?);
                }
            }
            Which::Latest => {
                let newest = runs::newest_complete(self.store, self.layout).await?;
                let run = newest.ok_or_else(|| self.no_run("complete run"))?.run;
                let newest = self.run(&run).await?;
                found.push(newest.ok_or(VerifyError::Deleted { run })?);
            }
        }
        Ok(found)
    }

    async fn run(&mut self, id: &str) -> Result<Option<(VerifiedRun, Found)>, VerifyError> {
        let (state, manifest) = match ledger(self.store, self.layout, id).await {
            Ok(None) => return Ok(None),
            Ok(Some(Ledger::Complete(manifest))) => (State::Complete, Some(*manifest)),
            Ok(Some(Ledger::Partial(manifest))) => (State::Partial, Some(*manifest)),
            Ok(Some(Ledger::Unfinished(_))) => (State::Unfinished, None),
            Err(InspectError::Format(error)) => {
                self.unreadable(None, error);
                (State::Unreadable, None)
            }
            Err(error) => return Err(error.into()),
        };
        let run = VerifiedRun {
            run: id.to_owned(),
            state,
        };
        Ok(Some((run, Found { manifest })))
    }

    async fn stored_topics(&self) -> Result<Vec<String>, StoreError> {
        let folders = self.store.list_dirs(&self.layout.topics()).await?;
        let names = folders
            .iter()
            .filter_map(|folder| unescape(folder.rsplit('/').next()?));
        Ok(names.collect())
    }

    /// Checks the parts of a topic; gives back the segments to read.
    async fn topic(
        &mut self,
        topic: &str,
        parts: Option<&BTreeSet<String>>,
        runs: &[(VerifiedRun, Found)],
        which: &Which,
    ) -> Result<Vec<Segment>, VerifyError> {
        let store = self.store;
        let read = stream::iter(parts.into_iter().flatten()).map(|run| {
            let key = self.layout.topic_part(run, topic);
            async move {
                let found = store.get(&key).await?;
                Ok::<_, StoreError>((run, key, found))
            }
        });
        let read: Vec<_> = read.buffered(CONCURRENCY).try_collect().await?;
        let mut pinned: BTreeMap<ChainKey, BTreeSet<SegmentName>> = BTreeMap::new();
        for (run, key, found) in read {
            let Some(bytes) = found else {
                self.wrong(Some(topic), &key, "it is missing, but a manifest names it");
                continue;
            };
            let part: TopicPart = match from_json_zst(&key, &bytes) {
                Ok(part) => part,
                Err(error) => {
                    self.unreadable(Some(topic), error);
                    continue;
                }
            };
            let said: Vec<&ManifestTopic> = runs
                .iter()
                .filter_map(|(_, found)| found.manifest.as_ref()?.topics.get(topic))
                .filter(|summary| summary.part == *run)
                .collect();
            if let Some(other) = said.iter().find_map(|said| is_another(topic, &part, said)) {
                self.wrong(Some(topic), &key, other);
                continue;
            }
            if let Some(differs) = said.iter().find_map(|said| differs(&part, said)) {
                self.wrong(Some(topic), &key, differs);
            }
            for partition in &part.partitions {
                for problem in discontinuities(partition) {
                    self.wrong(
                        Some(topic),
                        &key,
                        format!("partition {}: {problem}", partition.partition),
                    );
                }
                let chain = ChainKey {
                    topic: topic.to_owned(),
                    topic_id: part.description.topic_id,
                    partition: partition.partition,
                    generation: partition.generation.clone(),
                };
                pinned.entry(chain).or_default().extend(&partition.segments);
            }
        }
        let mut there = self.listing(topic).await?;
        let mut segments = Vec::new();
        for (chain, names) in pinned {
            let sizes = there.entry(chain.clone()).or_default();
            for name in names {
                let key = self.layout.segment(&chain, &name);
                match sizes.remove(&name) {
                    Some(size) => segments.push(Segment { key, name, size }),
                    None => self.wrong(Some(topic), &key, "it is missing, but a run has pinned it"),
                }
            }
        }
        if *which == Which::All {
            // A run that goes on may still use them.
            for (chain, sizes) in there {
                let rest = sizes.into_iter().map(|(name, size)| Segment {
                    key: self.layout.segment(&chain, &name),
                    name,
                    size,
                });
                segments.extend(rest);
            }
        }
        Ok(segments)
    }

    async fn listing(&mut self, topic: &str) -> Result<BTreeMap<ChainKey, Sizes>, StoreError> {
        let found = self
            .store
            .list(&self.layout.topic(topic), |key, size| {
                Some(
                    self.layout
                        .parse_segment(key)
                        .map(|found| (found, size))
                        .map_err(|_| key.to_owned()),
                )
            })
            .await?;
        let mut there: BTreeMap<ChainKey, Sizes> = BTreeMap::new();
        for segment in found {
            match segment {
                Ok(((chain, name), size)) => {
                    there.entry(chain).or_default().insert(name, size);
                }
                Err(key) => self.foreign.push(key),
            }
        }
        Ok(there)
    }

    async fn read(
        &mut self,
        topic: String,
        segments: Vec<Segment>,
        progress: &Progress,
    ) -> Result<VerifiedTopic, VerifyError> {
        let mut verified = VerifiedTopic {
            topic,
            ..VerifiedTopic::default()
        };
        let reads = stream::iter(segments).map(|segment| {
            let store = self.store.clone();
            // A task of its own, so that all processors take part.
            tokio::spawn(async move {
                let wrong = segment::check(&store, &segment.key, &segment.name, segment.size).await;
                (segment, wrong)
            })
        });
        let mut reads = reads.buffer_unordered(LANES);
        let mut wrong = Vec::new();
        while let Some((segment, checked)) = reads.try_next().await? {
            if let Some(problem) = checked? {
                wrong.push((segment.key, problem));
            }
            verified.segments += 1;
            verified.records += segment.name.records;
            verified.bytes += segment.size;
            progress.add(segment.name.records, segment.size, segment.size);
        }
        drop(reads);
        wrong.sort();
        for (key, problem) in wrong {
            self.wrong(Some(&verified.topic), &key, problem);
        }
        let own = |problem: &&Problem| problem.topic.as_ref() == Some(&verified.topic);
        verified.problems = self.problems.iter().filter(own).count() as u64;
        Ok(verified)
    }

    /// What is missing because its run was deleted meanwhile is no damage: manifests go first.
    async fn still_there(&self, runs: &[(VerifiedRun, Found)]) -> Result<(), VerifyError> {
        for (run, _) in runs.iter().filter(|(_, found)| found.manifest.is_some()) {
            let key = match run.state {
                State::Partial => self.layout.partial(&run.run),
                State::Complete | State::Unfinished | State::Unreadable => {
                    self.layout.manifest(&run.run)
                }
            };
            if self.store.head(&key).await?.is_none() {
                return Err(VerifyError::Deleted {
                    run: run.run.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Whose part it is, where it is not the topic's: then its segments are of no interest.
fn is_another(topic: &str, part: &TopicPart, said: &ManifestTopic) -> Option<String> {
    if part.topic != topic {
        return Some(format!("it is the part of topic {}", part.topic));
    }
    let found = part.description.topic_id;
    (found != said.topic_id).then(|| {
        format!(
            "it is of the topic with id {found}, the manifest names {}",
            said.topic_id
        )
    })
}

/// In what a part does not hold what a manifest says.
fn differs(part: &TopicPart, said: &ManifestTopic) -> Option<String> {
    let records: u64 = part.partitions.iter().map(PinnedPartition::records).sum();
    if (part.partitions.len(), records) != (said.partitions as usize, said.records) {
        return Some(format!(
            "it has {} partitions and {records} records, the manifest says {} and {}",
            part.partitions.len(),
            said.partitions,
            said.records
        ));
    }
    None
}

/// Offsets that a partition should have and does not, and segments that cannot be told in one line with the others.
fn discontinuities(partition: &PinnedPartition) -> Vec<String> {
    let links = chain(partition.segments.clone());
    let counted: BTreeSet<SegmentName> = links.iter().map(|link| link.name).collect();
    let dead = partition
        .segments
        .iter()
        .filter(|name| !counted.contains(name));
    let mut problems: Vec<String> = dead
        .map(|name| {
            format!("segment {name} repeats others or has a lower leader epoch than one before it")
        })
        .collect();
    let first = links
        .first()
        .map_or(partition.log_start, |link| link.range.start);
    let wanted = OffsetRange {
        start: first.min(partition.log_start),
        end: partition.end,
    };
    for hole in uncovered(&links, wanted) {
        let mut at = hole.start;
        for gap in partition
            .gaps
            .iter()
            .filter(|gap| gap.range.end > hole.start)
        {
            if gap.range.start > at {
                break;
            }
            at = at.max(gap.range.end);
        }
        if at < hole.end {
            problems.push(format!(
                "offsets {at} to {} are in no segment and in no gap",
                hole.end
            ));
        }
    }
    problems
}
