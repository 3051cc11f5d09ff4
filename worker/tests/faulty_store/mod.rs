//! A store that fails as real ones do, on demand.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part"
)]

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It takes effect, and its answer is lost.
    LostAnswer,
    /// It has no effect, and no answer ever comes.
    Stalled,
    /// It has no effect, and a 503 comes back.
    Unavailable,
    /// It has no effect, and a 507 comes back: there is no space left.
    Full,
    /// It has no effect, and a 409 comes back, as S3 does while somebody else writes the key.
    Conflict,
    /// 403.
    Denied,
    /// Create-only is ignored: what is there is overwritten.
    Overwrite,
}

/// A store with faults before it.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    puts: Arc<Mutex<VecDeque<Fault>>>,
    gets: Arc<Mutex<VecDeque<Fault>>>,
    done: Arc<AtomicUsize>,
    /// Only requests whose key contains this meet faults.
    only: &'static str,
}

impl FaultyStore {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            puts: Arc::default(),
            gets: Arc::default(),
            done: Arc::default(),
            only: "",
        }
    }

    /// The next writes meet these faults, one each.
    #[must_use]
    pub fn with_puts(self, faults: &[Fault]) -> Self {
        self.puts.lock().unwrap().extend(faults);
        self
    }

    /// The next reads meet these faults, one each.
    #[must_use]
    pub fn with_gets(self, faults: &[Fault]) -> Self {
        self.gets.lock().unwrap().extend(faults);
        self
    }

    /// Only requests whose key contains `part` meet the faults.
    #[must_use]
    pub fn only(self, part: &'static str) -> Self {
        Self { only: part, ..self }
    }

    fn fault(&self, queue: &Mutex<VecDeque<Fault>>, path: &Path) -> Option<Fault> {
        path.as_ref()
            .contains(self.only)
            .then(|| queue.lock().unwrap().pop_front())?
    }

    /// Writes that took effect.
    pub fn writes(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    async fn put(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let result = self.inner.put_opts(path, payload, options).await?;
        self.done.fetch_add(1, Ordering::SeqCst);
        Ok(result)
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultyStore({})", self.inner)
    }
}

fn status(text: &'static str) -> Error {
    Error::Generic {
        store: "S3",
        source: format!("Server returned non-2xx status code: {text}: ").into(),
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let fault = self.fault(&self.puts, path);
        match fault {
            None => self.put(path, payload, options).await,
            Some(Fault::LostAnswer) => {
                self.put(path, payload, options).await?;
                Err(Error::Generic {
                    store: "S3",
                    source: "connection reset by peer".into(),
                })
            }
            Some(Fault::Stalled) => std::future::pending().await,
            Some(Fault::Unavailable) => Err(status("503 Service Unavailable")),
            Some(Fault::Full) => Err(status("507 Insufficient Storage")),
            Some(Fault::Conflict) => Err(Error::AlreadyExists {
                path: path.to_string(),
                source: "409 ConditionalRequestConflict".into(),
            }),
            Some(Fault::Denied) => Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "403".into(),
            }),
            Some(Fault::Overwrite) => self.put(path, payload, PutMode::Overwrite.into()).await,
        }
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = self.fault(&self.gets, path);
        match fault {
            None => self.inner.get_opts(path, options).await,
            Some(Fault::Denied) => Err(Error::PermissionDenied {
                path: path.to_string(),
                source: "403".into(),
            }),
            Some(Fault::Stalled) => std::future::pending().await,
            Some(_) => Err(status("503 Service Unavailable")),
        }
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
