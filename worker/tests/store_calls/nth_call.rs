//! A store of whose calls one, counted from 1, meets a fault.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Notify;

/// What happens to the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// It has no effect, and a 503 comes back.
    Refused,
    /// It takes effect, and its answer is lost.
    LostAnswer,
    /// It has no effect, and no answer ever comes.
    StalledBefore,
    /// It takes effect, and no answer ever comes.
    StalledAfter,
    /// It takes effect once it is released.
    HeldBefore,
    /// It takes effect, and its answer comes once it is released.
    HeldAfter,
}

/// The store.
#[derive(Clone, Debug)]
pub struct NthCall {
    inner: Arc<dyn ObjectStore>,
    fault: Option<(usize, CallFault)>,
    calls: Arc<AtomicUsize>,
    /// Told when a call stalls or is held.
    pub stalled: Arc<Notify>,
    released: Arc<Notify>,
}

impl NthCall {
    /// A store that only counts.
    pub fn counting(inner: Arc<dyn ObjectStore>) -> Self {
        Self {
            inner,
            fault: None,
            calls: Arc::default(),
            stalled: Arc::default(),
            released: Arc::default(),
        }
    }

    /// The `nth` call meets `fault`.
    pub fn failing(inner: Arc<dyn ObjectStore>, nth: usize, fault: CallFault) -> Self {
        Self {
            fault: Some((nth, fault)),
            ..Self::counting(inner)
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Lets the call go on that is held.
    pub fn release(&self) {
        self.released.notify_one();
    }

    async fn stall<T>(&self) -> T {
        self.stalled.notify_one();
        std::future::pending().await
    }

    async fn hold(&self) {
        self.stalled.notify_one();
        self.released.notified().await;
    }

    async fn meet<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let Some((_, fault)) = self.fault.filter(|(nth, _)| *nth == number) else {
            return call.await;
        };
        let source = match fault {
            CallFault::HeldBefore => {
                self.hold().await;
                return call.await;
            }
            CallFault::HeldAfter => {
                let answer = call.await;
                self.hold().await;
                return answer;
            }
            CallFault::Refused => "Server returned non-2xx status code: 503 Service Unavailable: ",
            CallFault::LostAnswer => {
                // Whatever the answer was, nobody gets it.
                call.await.ok();
                "connection reset by peer"
            }
            CallFault::StalledBefore => self.stall().await,
            CallFault::StalledAfter => {
                call.await.ok();
                self.stall().await
            }
        };
        Err(Error::Generic {
            store: "S3",
            source: source.into(),
        })
    }
}

impl fmt::Display for NthCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NthCall({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for NthCall {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.meet(self.inner.put_opts(path, payload, options)).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.meet(self.inner.get_opts(path, options)).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, whole) = (self.clone(), self.inner.list(prefix));
        let listed = async move { this.meet(whole.try_collect::<Vec<_>>()).await };
        futures::stream::once(listed)
            .map_ok(|found| futures::stream::iter(found).map(Ok))
            .try_flatten()
            .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.meet(self.inner.list_with_delimiter(prefix)).await
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
        let (this, deleted) = (self.clone(), self.inner.delete_stream(paths));
        let deleted = async move { this.meet(deleted.try_collect::<Vec<_>>()).await };
        futures::stream::once(deleted)
            .map_ok(|paths| futures::stream::iter(paths).map(Ok))
            .try_flatten()
            .boxed()
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
