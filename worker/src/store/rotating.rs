//! A store that is opened anew when its Secrets have changed: before each request their files are compared with those that it
//! was opened with.
//!
//! # Guarantees
//! - What a store is opened with is one version of the Secrets: what changes meanwhile is looked at again.
//! - Secrets with which nothing can be opened fail the request, as a refusal would: the old ones are not gone on with.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::StoreError;

/// Makes a client with the Secrets as they are.
type Open = Box<dyn Fn() -> std::result::Result<Arc<dyn ObjectStore>, StoreError> + Send + Sync>;
/// The files of Secrets.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// See the module.
pub(super) struct Rotating {
    source: Source,
    opened: Mutex<Opened>,
}

/// Where a store comes from.
struct Source {
    folders: Vec<PathBuf>,
    open: Open,
}

/// A store, and the files that it was opened with.
struct Opened {
    files: Files,
    store: Arc<dyn ObjectStore>,
}

impl Rotating {
    /// Opens a store whose Secrets are the files of these folders.
    ///
    /// # Errors
    /// Those of `open`.
    pub(super) fn new(folders: Vec<PathBuf>, open: Open) -> std::result::Result<Self, StoreError> {
        let source = Source { folders, open };
        let opened = Mutex::new(source.open()?);
        Ok(Self { source, opened })
    }

    /// The store, opened with what the files hold now.
    fn current(&self) -> Result<Arc<dyn ObjectStore>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if opened.files != self.source.files() {
            let refused = |error: StoreError| object_store::Error::Unauthenticated {
                path: "the Secrets of the store".to_owned(),
                source: error.into(),
            };
            *opened = self.source.open().map_err(refused)?;
            tracing::info!("the Secrets of the store have changed: it is used with the new ones");
        }
        Ok(opened.store.clone())
    }
}

impl Source {
    fn open(&self) -> std::result::Result<Opened, StoreError> {
        loop {
            let files = self.files();
            let store = (self.open)()?;
            if files == self.files() {
                return Ok(Opened { files, store });
            }
        }
    }

    /// The files of the folders, as far as they can be read: which of them are needed is known to whoever opens the store, and
    /// told by name then. Those that begin with two dots are the kubelet's, as no key of a Secret does.
    fn files(&self) -> Files {
        let entries = self.folders.iter().flat_map(std::fs::read_dir).flatten();
        let paths = entries.flatten().map(|entry| entry.path());
        let keys = paths.filter(|path| !is_the_kubelets(path));
        keys.filter_map(|path| Some((path.clone(), std::fs::read(path).ok()?)))
            .collect()
    }
}

fn is_the_kubelets(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.as_encoded_bytes());
    name.is_some_and(|name| name.starts_with(b".."))
}

impl fmt::Debug for Rotating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rotating({:?})", self.source.folders)
    }
}

impl fmt::Display for Rotating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A stream of one error.
fn refused<T: Send + 'static>(error: object_store::Error) -> BoxStream<'static, Result<T>> {
    futures::stream::once(std::future::ready(Err(error))).boxed()
}

#[async_trait]
impl ObjectStore for Rotating {
    async fn put_opts(
        &self,
        key: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.current()?.put_opts(key, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.current()?.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<GetResult> {
        self.current()?.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Key>>,
    ) -> BoxStream<'static, Result<Key>> {
        match self.current() {
            Ok(store) => store.delete_stream(keys),
            Err(error) => refused(error),
        }
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.current() {
            Ok(store) => store.list(prefix),
            Err(error) => refused(error),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.current()?.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> Result<()> {
        self.current()?.copy_opts(from, to, options).await
    }
}
