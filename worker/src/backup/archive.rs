//! What the archive already holds: whose copy it is, the runs that a run may go on from, topic parts, segments.
//!
//! # From where a topic goes on
//! From the newest complete run. Where that has been followed by partial runs, a topic that one of them completed goes on from
//! there: otherwise a topic that fails for good would have all the others copied anew by each run that has no complete one
//! before it, and the topics that are newer than the complete one too. What a run adds is counted from the complete run, as
//! no partial one has been counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use futures::{StreamExt, TryStreamExt};
use kafka_backup_shared::archive::layout::{Layout, TopicId};
use kafka_backup_shared::archive::manifest::{
    ArchiveInfo, Begin, BeginPartition, BeginTopic, Manifest, ManifestTopic, TopicPart, from_json,
    from_json_zst, to_json,
};
use kafka_backup_shared::archive::tiles::Sizes;
use kafka_backup_shared::archive::{FORMAT_VERSION, FormatError};

use super::error::BackupError;
use super::generation::tombstone_window;
use crate::runs::{self, Complete};
use crate::store::{Created, Store, StoreError};

/// Requests to the store at the same time.
pub(super) const CONCURRENCY: usize = 16;
/// Partial runs after the newest complete one that are looked at. A topic that failed in all of them goes on from the complete one.
const PARTIAL_RUNS: usize = 8;

/// An archive in a store.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    pub(super) store: Store,
    pub(super) layout: Layout,
}

/// A run that ended with a manifest, or with a `partial.json`.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) run: String,
    pub(super) begin: Begin,
    pub(super) manifest: Manifest,
}

impl Base {
    /// A complete topic of the run, as `begin.json` described it, and what the manifest says of it.
    pub(super) fn topic(&self, name: &str) -> Option<(&BeginTopic, &ManifestTopic)> {
        Some((
            self.begin.topics.get(name)?,
            self.manifest.topics.get(name)?,
        ))
    }

    /// The run with the part of a topic that is still the same one, but not wholly as it was.
    pub(super) fn changed_part(&self, name: &str, now: &BeginTopic) -> Option<String> {
        let (before, entry) = self.topic(name)?;
        let same_id = before.description.topic_id == now.description.topic_id;
        (same_id && before != now).then(|| entry.part.clone())
    }

    /// Whether the run has surely seen every tombstone of a topic of which it opened a generation. A complete run that has not
    /// says so; nobody has heard it of a partial one.
    pub(super) fn was_in_time(&self, topic: &str) -> bool {
        let Some((begun, _)) = self.topic(topic) else {
            return false;
        };
        let window = tombstone_window(&begun.description.configs);
        let opened = |partition: &BeginPartition| partition.generation == self.run;
        let limit = window.filter(|_| begun.partitions.iter().any(opened));
        limit.is_none_or(|window| {
            let limit = self.begin.start_time.saturating_add(window);
            limit.is_ok_and(|limit| self.manifest.completion_time <= limit)
        })
    }
}

/// The runs that a run goes on from.
#[derive(Clone, Debug, Default)]
pub(super) struct Bases {
    /// The newest complete one.
    pub(super) complete: Option<Arc<Base>>,
    /// By topic, the partial ones: see [`Begin::partial_bases`].
    pub(super) partial: BTreeMap<String, Arc<Base>>,
}

impl Bases {
    /// The run that a topic goes on from, if that has it.
    pub(super) fn of(&self, topic: &str) -> Option<&Base> {
        let base = self.partial.get(topic).or(self.complete.as_ref())?;
        base.topic(topic).map(|_| &**base)
    }

    /// Whether `begin` goes on from these.
    pub(super) fn are_of(&self, begin: &Begin) -> bool {
        let complete = self.complete.as_ref().map(|base| &base.run);
        let same = |topic: &String| {
            let partial = self.partial.get(topic).map(|base| &base.run);
            partial == begin.partial_bases.get(topic)
        };
        complete == begin.base.as_ref() && begin.topics.keys().all(same)
    }
}

/// The segments of a topic's id that a listing shows, with their sizes, by partition and generation.
pub(super) type Listing = BTreeMap<(i32, String), Sizes>;

impl Archive {
    /// Makes the archive that of this cluster, or checks that it is: by its id, or by the name that it was made under.
    pub(super) async fn claim(
        &self,
        cluster_id: &str,
        source_cluster_id: Option<&str>,
    ) -> Result<(), BackupError> {
        if self.belongs(cluster_id, source_cluster_id).await? {
            return Ok(());
        }
        let info = ArchiveInfo {
            format_version: FORMAT_VERSION,
            cluster_id: cluster_id.to_owned(),
            source_cluster_id: source_cluster_id.map(str::to_owned),
        };
        let key = self.layout.archive();
        match self.store.create(&key, to_json(&info).into()).await? {
            Created::New | Created::Same => Ok(()),
            Created::Exists(_) => self.belongs(cluster_id, source_cluster_id).await.map(drop),
        }
    }

    /// Whether the archive is there; it is that of this cluster, then.
    ///
    /// # Errors
    /// It is another one's.
    pub(super) async fn belongs(
        &self,
        cluster_id: &str,
        source_cluster_id: Option<&str>,
    ) -> Result<bool, BackupError> {
        let key = self.layout.archive();
        let Some(found) = self.store.get(&key).await? else {
            return Ok(false);
        };
        let found: ArchiveInfo = from_json(&key, &found)?;
        let same_name = found.source_cluster_id.is_some()
            && found.source_cluster_id.as_deref() == source_cluster_id;
        if found.cluster_id == cluster_id || same_name {
            return Ok(true);
        }
        Err(BackupError::OtherCluster {
            archive: self.layout.root().to_owned(),
            expected: found.cluster_id,
            name: found.source_cluster_id,
            found: cluster_id.to_owned(),
        })
    }

    /// The manifest of a run that is complete.
    pub(super) async fn manifest(&self, run: &str) -> Result<Option<Manifest>, BackupError> {
        let key = self.layout.manifest(run);
        let found = self.store.get(&key).await?;
        Ok(found.map(|bytes| from_json(&key, &bytes)).transpose()?)
    }

    /// What a run set out to do.
    pub(super) async fn begin(&self, run: &str) -> Result<Option<Begin>, BackupError> {
        let key = self.layout.begin(run);
        let found = self.store.get(&key).await?;
        Ok(found.map(|bytes| from_json(&key, &bytes)).transpose()?)
    }

    /// A complete run by its id.
    pub(super) async fn complete(&self, run: &str) -> Result<Option<Base>, BackupError> {
        match self.manifest(run).await? {
            Some(manifest) => Ok(Some(self.with_begin(run.to_owned(), manifest).await?)),
            None => Ok(None),
        }
    }

    /// A run by its id, as its `partial.json` has it.
    async fn partial(&self, run: &str) -> Result<Option<Base>, BackupError> {
        let key = self.layout.partial(run);
        let Some(bytes) = self.store.get(&key).await? else {
            return Ok(None);
        };
        let manifest = from_json(&key, &bytes)?;
        Ok(Some(self.with_begin(run.to_owned(), manifest).await?))
    }

    /// The runs that one which begins now goes on from.
    pub(super) async fn newest_bases(&self, own: &str) -> Result<Bases, BackupError> {
        let mut bases = Bases::default();
        let newest = runs::newest(&self.store, &self.layout, Some(own)).await?;
        if let Some(Complete { run, key, manifest }) = newest.complete {
            let manifest = from_json(&key, &manifest)?;
            bases.complete = Some(Arc::new(self.with_begin(run, manifest).await?));
        }
        let complete = bases.complete.as_ref().map(|base| base.run.clone());
        let mut seen = 0;
        for run in newest.newer {
            if seen == PARTIAL_RUNS {
                break;
            }
            let base = match self.partial(&run).await {
                Ok(Some(base)) => base,
                Ok(None) => continue,
                // Nothing needs it: without it more is copied.
                Err(BackupError::Format(error)) => {
                    tracing::warn!(%error, "a partial run cannot be gone on from");
                    continue;
                }
                Err(error) => return Err(error),
            };
            seen += 1;
            // What it added was counted from its own base.
            if base.manifest.base != complete {
                continue;
            }
            let base = Arc::new(base);
            for topic in base.manifest.topics.keys() {
                if base.was_in_time(topic) {
                    let newest = bases.partial.entry(topic.clone());
                    newest.or_insert_with(|| base.clone());
                }
            }
        }
        Ok(bases)
    }

    /// The runs that one which has begun goes on from.
    pub(super) async fn bases(&self, begin: &Begin) -> Result<Bases, BackupError> {
        let gone = |base: &str| BackupError::BaseGone {
            run: begin.run.run.clone(),
            base: base.to_owned(),
        };
        let mut bases = Bases::default();
        if let Some(run) = &begin.base {
            let complete = self.complete(run).await?;
            bases.complete = Some(Arc::new(complete.ok_or_else(|| gone(run))?));
        }
        let mut read: BTreeMap<&str, Arc<Base>> = BTreeMap::new();
        for (topic, run) in &begin.partial_bases {
            let base = match read.get(&**run) {
                Some(base) => base.clone(),
                None => Arc::new(self.partial(run).await?.ok_or_else(|| gone(run))?),
            };
            if base.topic(topic).is_none() {
                return Err(gone(run));
            }
            read.insert(run, base.clone());
            bases.partial.insert(topic.clone(), base);
        }
        Ok(bases)
    }

    async fn with_begin(&self, run: String, manifest: Manifest) -> Result<Base, BackupError> {
        let begin = self.begin(&run).await?;
        let begin = begin.ok_or_else(|| self.damaged(self.layout.begin(&run)))?;
        Ok(Base {
            run,
            begin,
            manifest,
        })
    }

    /// The pinned segments of a topic in the part that a manifest points to.
    pub(super) async fn part(&self, run: &str, topic: &str) -> Result<TopicPart, BackupError> {
        let found = self.find_part(run, topic).await?;
        found.ok_or_else(|| self.damaged(self.layout.topic_part(run, topic)))
    }

    /// The part that a run made of a topic, where it has.
    pub(super) async fn find_part(
        &self,
        run: &str,
        topic: &str,
    ) -> Result<Option<TopicPart>, BackupError> {
        let key = self.layout.topic_part(run, topic);
        let found = self.store.get(&key).await?;
        Ok(found.map(|bytes| from_json_zst(&key, &bytes)).transpose()?)
    }

    /// Creates a topic's part; gives back the one that counts, which may be another attempt's.
    pub(super) async fn create_part(
        &self,
        run: &str,
        topic: &str,
        bytes: Bytes,
    ) -> Result<Option<TopicPart>, BackupError> {
        let key = self.layout.topic_part(run, topic);
        match self.store.create(&key, bytes).await? {
            Created::New | Created::Same => Ok(None),
            Created::Exists(found) => Ok(Some(from_json_zst(&key, &found)?)),
        }
    }

    /// Parts of several topics, each from its run.
    pub(super) async fn parts(
        &self,
        topics: Vec<(String, String)>,
    ) -> Result<BTreeMap<String, TopicPart>, BackupError> {
        let parts = futures::stream::iter(topics).map(|(run, topic)| async move {
            Ok::<_, BackupError>((topic.clone(), self.part(&run, &topic).await?))
        });
        parts.buffer_unordered(CONCURRENCY).try_collect().await
    }

    /// The segments of one topic id that are there.
    pub(super) async fn segments(&self, topic: &str, id: TopicId) -> Result<Listing, StoreError> {
        let folder = format!("{}/{id}", self.layout.topic(topic));
        let found = self
            .store
            .list(&folder, |key, size| match self.layout.parse_segment(key) {
                Ok((chain, name)) => Some((chain, name, size)),
                Err(error) => {
                    tracing::warn!(error = %error, "a foreign object is among the segments");
                    None
                }
            })
            .await?;
        let mut listing = Listing::new();
        for (chain, name, size) in found {
            listing
                .entry((chain.partition, chain.generation))
                .or_default()
                .insert(name, size);
        }
        Ok(listing)
    }

    fn damaged(&self, key: String) -> BackupError {
        let reason = "it is missing, but the run's manifest needs it".to_owned();
        BackupError::Format(FormatError::Damaged {
            object: key,
            reason,
        })
    }
}
