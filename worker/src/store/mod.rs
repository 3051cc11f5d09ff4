//! Where an archive is kept: a bucket (S3, Azure, Google Cloud) or a folder, by keys relative to the storage's prefix.
//!
//! # Guarantees
//! - Only "not found" is told as absence; any other answer is an error.
//! - [`Store::create`] and [`Store::create_segment`] never overwrite. An ambiguous answer (time-out, broken connection, 5xx)
//!   and a conflict are resolved by looking at what is there; only then is the write repeated.
//! - What passes is repeated with back-off for [`PATIENCE`]; each attempt has a time-out that grows with the object.
//! - In a folder, an object is durable (file and folder entry) before a write is answered.
//!
//! # Assumptions
//! - Keys come from `shared::archive::layout`: escaped, without empty parts.
//! - Every future may be dropped at any moment; a write may then have happened or not.

mod azure;
#[cfg(test)]
#[path = "../../tests/store_conformance/mod.rs"]
mod conformance;
mod error;
#[cfg(test)]
#[path = "../../tests/faulty_store/mod.rs"]
mod faulty_store;
mod folder;
mod gcs;
mod open;
mod part;
mod retry;
mod rotating;
mod s3;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::future::Future;
use std::io::{self, Take};
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use kafka_backup_shared::spec::Storage;
use object_store::path::Path;
use object_store::{
    GetOptions, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion,
};

pub use error::{Answer, Meaning, StoreError};
pub use object_store::PutPayload;
pub use open::Places;

use crate::buffers::Buffers;
use crate::measure::{self, Stage, StoreRequest};
use folder::Folder;
use retry::{Failure, Retry, limited};

/// For how long what passes is repeated.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// For how long the first request is repeated.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);

/// An attempt may take this long, and a second more for each so many bytes.
const TIMEOUT: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 256 * 1024;

/// Object that is created, never changed and never deleted, to learn whether the store honours create-only writes. It stays: two
/// workers may try at once, and a store need not permit to delete.
const PROBE: &str = ".create-only";
const PROBE_TEXT: &[u8] = b"Kafka backups are kept beside this file. It shows that the store does not overwrite what exists.\n";

/// A store; clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// What precedes every key, empty or without slashes at its ends.
    prefix: Arc<str>,
    place: Arc<str>,
    folder: Option<Folder>,
    buffers: Buffers,
    patience: Duration,
    /// What an attempt may take beside the time for its bytes.
    time_limit: Duration,
    /// Where keys may be exchanged under a run: whether they were taken before.
    rotation: Option<Arc<AtomicBool>>,
}

/// What became of a create-only write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Created {
    /// The object is new.
    New,
    /// An object with this content was there already, be it by an earlier attempt of this very write.
    Same,
    /// Another object was there; this is its content.
    Exists(Bytes),
}

/// Which state of an object was seen, for [`Store::update`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    e_tag: Option<String>,
    /// Google's generation; its tag alone does not tell two writes of the same content apart.
    generation: Option<String>,
}

/// What became of a conditional update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Updated {
    /// The object has the new content, and this version.
    Done(Version),
    /// The object is not what the caller had seen.
    Changed,
}

impl Store {
    /// Opens the store that a spec describes. Nothing is asked of it yet: see [`Store::check`].
    ///
    /// # Errors
    /// A Secret or volume is missing, or the storage block cannot be obeyed.
    pub fn open(storage: &Storage, places: &Places) -> Result<Self, StoreError> {
        open::open(storage, places)
    }

    /// Opens a folder, made where it is missing. One that is there is only read, until something is created in it.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open_folder(folder: &FilePath) -> Result<Self, StoreError> {
        open::open_folder(folder)
    }

    /// A store on any implementation; `place` names it in messages.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        place: &str,
        prefix: Option<&str>,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            inner,
            prefix: Arc::from(prefix.unwrap_or_default()),
            place: Arc::from(place),
            folder: None,
            buffers: Buffers::default(),
            patience: PATIENCE,
            time_limit: TIMEOUT,
            rotation: None,
        })
    }

    fn in_folder(mut self, folder: Folder) -> Self {
        self.folder = Some(folder);
        self
    }

    /// Its keys may be exchanged while it is used: once they were taken, a refusal is repeated for [`ROTATION`], until new ones have
    /// arrived.
    fn rotated(mut self) -> Self {
        self.rotation = Some(Arc::default());
        self
    }

    /// Whether the same request may be answered otherwise a moment later.
    fn may_pass(&self, meaning: Meaning) -> bool {
        let taken = |rotation: &Arc<AtomicBool>| rotation.load(Ordering::Relaxed);
        match meaning {
            Meaning::Passing | Meaning::Exists => true,
            Meaning::Denied => self.rotation.as_ref().is_some_and(taken),
            Meaning::Absent
            | Meaning::Changed
            | Meaning::NoBucket
            | Meaning::Full
            | Meaning::Refused => false,
        }
    }

    /// Repeats what passes for another time than [`PATIENCE`].
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The memory of what was read.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// What messages call it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Learns whether the store can be used for writing: it is there, the keys are right, create-only writes are honoured.
    ///
    /// # Errors
    /// [`StoreError`] with the fault of what is wrong: the bucket's absence is `Spec`, refused keys are `Denied`.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.check_readable().await?;
        let path = self.path(PROBE)?;
        // The second write must be refused; where an earlier run left the object, the first one is.
        for _ in 0..2 {
            let content = PutPayload::from_static(PROBE_TEXT);
            match self.attempt_create(PROBE, &path, content).await {
                Ok(()) => {}
                Err(failure) if failure.meaning() == Meaning::Exists => return Ok(()),
                Err(failure) if failure.meaning() == Meaning::Passing => {
                    // Whether it is there is what the next attempt tells.
                    tracing::warn!(error = %failure.line(), "no clear answer to a create-only write");
                }
                Err(failure) => return Err(failure.into_error("create", PROBE, self)),
            }
        }
        // An ambiguous first answer may have hidden the creation: look once more.
        match self
            .attempt_create(PROBE, &path, PutPayload::from_static(PROBE_TEXT))
            .await
        {
            Err(failure) if failure.meaning() == Meaning::Exists => Ok(()),
            Err(failure) => Err(failure.into_error("create", PROBE, self)),
            Ok(()) => Err(StoreError::NotConditional {
                store: self.place.clone(),
            }),
        }
    }

    /// Learns whether the store can be read: it is there and the keys are right.
    ///
    /// # Errors
    /// As [`Store::check`].
    pub async fn check_readable(&self) -> Result<(), StoreError> {
        let path = self.path("")?;
        // One answer is enough; what is in it does not matter. A bucket that is missing answers every list with 404.
        // Whoever waits for this has not begun: a wrong endpoint should be told soon.
        let store = self
            .clone()
            .with_patience(self.patience.min(FIRST_PATIENCE));
        let found = store
            .retried("list", "", || async {
                let mut stream = self.inner.list(Some(&path));
                limited(StoreRequest::Other, self.time_limit, async {
                    stream.try_next().await
                })
                .await
                .map(drop)
            })
            .await;
        match found {
            Err(StoreError::Request {
                step,
                key,
                store,
                meaning: Meaning::Absent,
                source,
            }) => Err(StoreError::Request {
                step,
                key,
                store,
                meaning: Meaning::NoBucket,
                source,
            }),
            Ok(()) => {
                if let Some(rotation) = &self.rotation {
                    rotation.store(true, Ordering::Relaxed);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// An object's content; `None` where there is none.
    ///
    /// # Errors
    /// Any answer but "here it is" and "not found".
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.get_versioned(key).await?.map(|(content, _)| content))
    }

    /// An object's content with its version.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn get_versioned(&self, key: &str) -> Result<Option<(Bytes, Version)>, StoreError> {
        let path = self.path(key)?;
        let found = self.retried("read", key, || async {
            let found = limited(
                StoreRequest::Read,
                self.time_limit,
                self.inner.get_opts(&path, GetOptions::default()),
            )
            .await?;
            let version = Version {
                e_tag: found.meta.e_tag.clone(),
                generation: found.meta.version.clone(),
            };
            let content = limited(
                StoreRequest::Read,
                self.timeout_for(found.meta.size),
                found.bytes(),
            )
            .await?;
            Ok((content, version))
        });
        absent_as_none(found.await)
    }

    /// A part of an object's content, shorter where the object ends before it does; `None` where there is no object.
    ///
    /// # Errors
    /// As [`Store::get`]; in a bucket also a range that begins beyond the object's end, where a folder has no bytes.
    pub async fn get_range(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, StoreError> {
        let length = range.end.saturating_sub(range.start);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let buffers = &self.buffers;
        self.part(
            key,
            range,
            |found| part::content(found, length, buffers),
            || {
                let buffers = buffers.clone();
                move |file| part::file_content(file, length, &buffers)
            },
        )
        .await
        .inspect(|found| measure::count_bytes(Stage::Read, found.as_ref().map_or(0, Bytes::len)))
    }

    /// The CRC-32C of what has the CRC `before` with a part of an object behind it, and the part's length: as
    /// [`Store::get_range`], but nothing is kept.
    ///
    /// # Errors
    /// As [`Store::get_range`].
    pub async fn crc32c(
        &self,
        key: &str,
        range: Range<u64>,
        before: u32,
    ) -> Result<Option<(u32, u64)>, StoreError> {
        self.part(
            key,
            range,
            |found| part::crc32c(found, before),
            || move |file| part::file_crc32c(file, before),
        )
        .await
        .inspect(|found| {
            let bytes = found.map_or(0, |(_, length)| length);
            measure::count_bytes(Stage::Read, usize::try_from(bytes).unwrap_or(usize::MAX));
        })
    }

    /// Reads a part of an object by `read`, and by what `read_file` gives where it is a file of the folder.
    async fn part<T, F, R>(
        &self,
        key: &str,
        range: Range<u64>,
        read: impl Fn(GetResult) -> F,
        read_file: impl Fn() -> R,
    ) -> Result<Option<T>, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = object_store::Result<T>>,
        R: FnOnce(Take<File>) -> io::Result<T> + Send + 'static,
    {
        let path = self.path(key)?;
        let length = range.end.saturating_sub(range.start);
        let found = self.retried("read", key, || {
            limited(StoreRequest::Read, self.timeout_for(length), async {
                let Some(folder) = &self.folder else {
                    let options = GetOptions {
                        range: Some(range.clone().into()),
                        ..GetOptions::default()
                    };
                    return read(self.inner.get_opts(&path, options).await?).await;
                };
                let found = folder.read_part(path.as_ref(), range.clone(), read_file());
                let found = found.await;
                found.map_err(|source| match source.kind() {
                    io::ErrorKind::NotFound => object_store::Error::NotFound {
                        path: key.into(),
                        source: source.into(),
                    },
                    _ => folder_error(key, source),
                })
            })
        });
        absent_as_none(found.await)
    }

    /// An object's size; `None` where there is none.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub async fn head(&self, key: &str) -> Result<Option<u64>, StoreError> {
        let path = self.path(key)?;
        let found = self.retried("look at", key, || {
            limited(StoreRequest::Other, self.time_limit, self.inner.head(&path))
        });
        Ok(absent_as_none(found.await)?.map(|meta| meta.size))
    }

    /// Creates a small object, unless there is one.
    ///
    /// # Errors
    /// The store refused, or gave no clear answer for [`PATIENCE`].
    pub async fn create(&self, key: &str, content: Bytes) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.patience);
        loop {
            let payload = PutPayload::from(content.clone());
            let Err(failure) = self.attempt_create(key, &path, payload).await else {
                return Ok(Created::New);
            };
            if !self.may_pass(failure.meaning()) {
                return Err(failure.into_error("create", key, self));
            }
            match self.get(key).await? {
                Some(found) if found == content => return Ok(Created::Same),
                Some(found) => return Ok(Created::Exists(found)),
                // Not written, or refused while somebody else's write was under way that then failed.
                None => retry.pause_or_fail(failure, "create", key, self).await?,
            }
        }
    }

    /// Creates a segment. Its key names its offsets and its CRC, so that one which is there with the same size is the same.
    ///
    /// # Errors
    /// As [`Store::create`]; [`StoreError::Conflict`] where an object of another size is there.
    pub async fn create_segment(&self, key: &str, content: PutPayload) -> Result<(), StoreError> {
        let path = self.path(key)?;
        let expected = content.content_length() as u64;
        let mut retry = Retry::new(self.patience);
        loop {
            let Err(failure) = self.attempt_create(key, &path, content.clone()).await else {
                return Ok(());
            };
            if !self.may_pass(failure.meaning()) {
                return Err(failure.into_error("create", key, self));
            }
            match self.head(key).await? {
                Some(found) if found == expected => return Ok(()),
                Some(found) => {
                    return Err(StoreError::Conflict {
                        key: key.into(),
                        store: self.place.clone(),
                        expected,
                        found,
                    });
                }
                None => retry.pause_or_fail(failure, "create", key, self).await?,
            }
        }
    }

    async fn attempt_create(
        &self,
        key: &str,
        path: &Path,
        content: PutPayload,
    ) -> Result<(), Failure> {
        let bytes = content.content_length();
        let limit = self.timeout_for(bytes as u64);
        measure::count_bytes(Stage::Stored, bytes);
        let Some(folder) = &self.folder else {
            let put = self
                .inner
                .put_opts(path, content, PutOptions::from(PutMode::Create));
            return limited(StoreRequest::Write, limit, put).await.map(drop);
        };
        let created = async {
            let created = folder.create(path.as_ref(), content).await;
            created.map_err(|source| folder_error(key, source))
        };
        limited(StoreRequest::Write, limit, created).await
    }

    /// Replaces an object if it still has `version`.
    ///
    /// # Errors
    /// The store refused, or gave no clear answer for [`PATIENCE`].
    pub async fn update(
        &self,
        key: &str,
        content: Bytes,
        version: &Version,
    ) -> Result<Updated, StoreError> {
        let path = self.path(key)?;
        let mut retry = Retry::new(self.patience);
        loop {
            let failure = match self.attempt_update(key, &path, &content, version).await {
                Ok(version) => return Ok(Updated::Done(version)),
                Err(failure) => failure,
            };
            match failure.meaning() {
                Meaning::Changed | Meaning::Exists | Meaning::Absent | Meaning::Passing => {}
                Meaning::Denied if self.may_pass(Meaning::Denied) => {}
                Meaning::Denied | Meaning::NoBucket | Meaning::Full | Meaning::Refused => {
                    return Err(failure.into_error("update", key, self));
                }
            }
            // A lost answer to a write that happened looks like somebody else's change.
            match self.get_versioned(key).await? {
                Some((found, now)) if found == content && now != *version => {
                    return Ok(Updated::Done(now));
                }
                Some((_, now)) if now == *version => {
                    retry.pause_or_fail(failure, "update", key, self).await?
                }
                Some(_) | None => return Ok(Updated::Changed),
            }
        }
    }

    async fn attempt_update(
        &self,
        key: &str,
        path: &Path,
        content: &Bytes,
        version: &Version,
    ) -> Result<Version, Failure> {
        let payload = PutPayload::from(content.clone());
        let put = match &self.folder {
            None => {
                let mode = PutMode::Update(UpdateVersion {
                    e_tag: version.e_tag.clone(),
                    version: version.generation.clone(),
                });
                limited(
                    StoreRequest::Write,
                    self.time_limit,
                    self.inner.put_opts(path, payload, PutOptions::from(mode)),
                )
                .await?
            }
            Some(folder) => {
                let failed = |source| Failure::Answered(folder_error(key, source));
                let _lock = folder.lock().await.map_err(failed)?;
                let now =
                    limited(StoreRequest::Other, self.time_limit, self.inner.head(path)).await?;
                if now.e_tag != version.e_tag {
                    return Err(Failure::Answered(object_store::Error::Precondition {
                        path: key.into(),
                        source: "it has changed".into(),
                    }));
                }
                let replaced = folder.replace(path.as_ref(), payload).await;
                replaced.map_err(failed)?;
                let now =
                    limited(StoreRequest::Other, self.time_limit, self.inner.head(path)).await?;
                return Ok(Version {
                    e_tag: now.e_tag,
                    generation: None,
                });
            }
        };
        Ok(Version {
            e_tag: put.e_tag,
            generation: put.version,
        })
    }

    /// Every object below a folder that `read` makes something of, with its key and size; in no particular order.
    ///
    /// # Errors
    /// Any answer but a whole listing.
    pub async fn list<T>(
        &self,
        folder: &str,
        read: impl Fn(&str, u64) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let path = self.path(folder)?;
        self.retried("list", folder, || async {
            let mut found = Vec::new();
            let mut stream = self.inner.list(Some(&path));
            while let Some(meta) =
                limited(StoreRequest::Other, self.time_limit, stream.try_next()).await?
            {
                found.extend(
                    self.key(&meta.location)
                        .and_then(|key| read(key, meta.size)),
                );
            }
            Ok(found)
        })
        .await
    }

    /// Keys of the folders directly below a folder, sorted.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub async fn list_dirs(&self, folder: &str) -> Result<Vec<String>, StoreError> {
        let path = self.path(folder)?;
        let found = self.retried("list", folder, || {
            limited(
                StoreRequest::Other,
                self.patience,
                self.inner.list_with_delimiter(Some(&path)),
            )
        });
        let found = found.await?;
        let mut keys: Vec<String> = found
            .common_prefixes
            .iter()
            .filter_map(|path| self.key(path))
            .map(str::to_owned)
            .collect();
        keys.sort();
        Ok(keys)
    }

    /// Deletes objects; one that is not there is as good as deleted.
    ///
    /// # Errors
    /// The first failure.
    pub async fn delete(&self, keys: &[String]) -> Result<(), StoreError> {
        // Who may write need not be allowed to delete: that refusal is final.
        let store = &Self {
            rotation: None,
            ..self.clone()
        };
        let deletions = futures::stream::iter(keys.to_vec()).map(|key| async move {
            let path = self.path(&key)?;
            let deleted = store.retried("delete", &key, || {
                limited(
                    StoreRequest::Other,
                    self.time_limit,
                    self.inner.delete(&path),
                )
            });
            absent_as_none(deleted.await).map(drop)
        });
        deletions.buffer_unordered(16).try_collect().await
    }

    fn timeout_for(&self, size: u64) -> Duration {
        self.time_limit + Duration::from_secs(size / SLOWEST_BYTES_PER_SECOND)
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let full = match (self.prefix.is_empty(), key.is_empty()) {
            (true, _) => key.to_owned(),
            (false, true) => self.prefix.to_string(),
            (false, false) => format!("{}/{key}", self.prefix),
        };
        Path::parse(&full).map_err(|_| StoreError::Key { key: full })
    }

    fn key<'a>(&self, location: &'a Path) -> Option<&'a str> {
        let location = location.as_ref();
        if self.prefix.is_empty() {
            return Some(location);
        }
        location.strip_prefix(&*self.prefix)?.strip_prefix('/')
    }

    async fn retried<T, F>(
        &self,
        step: &'static str,
        key: &str,
        attempt: impl Fn() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut retry = Retry::new(self.patience);
        loop {
            let failure = match attempt().await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            retry.pause_or_fail(failure, step, key, self).await?;
        }
    }
}

fn folder_error(key: &str, source: std::io::Error) -> object_store::Error {
    let source = Box::new(source);
    if source.kind() == std::io::ErrorKind::AlreadyExists {
        let path = key.into();
        return object_store::Error::AlreadyExists { path, source };
    }
    object_store::Error::Generic {
        store: "LocalFileSystem",
        source,
    }
}

fn absent_as_none<T>(found: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Request {
            meaning: Meaning::Absent,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}
