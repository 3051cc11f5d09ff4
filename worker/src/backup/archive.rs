//! What the archive already holds: whose copy it is, the newest complete run, topic parts, segments.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kafka_backup_shared::archive::layout::{Layout, TopicId};
use kafka_backup_shared::archive::manifest::{
    ArchiveInfo, Begin, Manifest, TopicPart, from_json, from_json_zst, to_json,
};
use kafka_backup_shared::archive::tiles::Sizes;
use kafka_backup_shared::archive::{FORMAT_VERSION, FormatError};

use super::error::BackupError;
use crate::runs::{self, Complete};
use crate::store::{Created, Store, StoreError};

/// Requests to the store at the same time.
pub(super) const CONCURRENCY: usize = 16;

/// An archive in a store.
#[derive(Clone, Debug)]
pub(super) struct Archive {
    pub(super) store: Store,
    pub(super) layout: Layout,
}

/// The newest complete run.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub(super) run: String,
    pub(super) begin: Begin,
    pub(super) manifest: Manifest,
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
    pub(super) async fn base(&self, run: &str) -> Result<Option<Base>, BackupError> {
        match self.manifest(run).await? {
            Some(manifest) => Ok(Some(self.with_begin(run.to_owned(), manifest).await?)),
            None => Ok(None),
        }
    }

    /// The newest complete run other than `own`.
    pub(super) async fn newest_complete(&self, own: &str) -> Result<Option<Base>, BackupError> {
        let found = runs::newest_complete(&self.store, &self.layout, Some(own)).await?;
        let Some(Complete { run, key, manifest }) = found else {
            return Ok(None);
        };
        let manifest = from_json(&key, &manifest)?;
        Ok(Some(self.with_begin(run, manifest).await?))
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
