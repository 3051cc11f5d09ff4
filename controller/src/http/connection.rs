//! Connections of one port, plain or with TLS: how many there are, and how long each may take for what.
//!
//! # Guarantees
//! - A peer that shakes hands, sends its headers or takes an answer more slowly than [`Times`] say loses its connection, and
//!   keeps nobody else waiting.
//! - A peer that is refused while it still sends can read why: what it sends is taken and dropped for [`Times::linger`], because
//!   a connection that is closed with unread bytes in it is reset, and the answer is lost with it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::tls::PushCertificate;

/// Connections per port.
const CONNECTIONS: usize = 512;
/// How long requests may take that are under way at the shutdown.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);

/// How long a peer may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// For the TLS handshake.
    pub(crate) handshake: Duration,
    /// For the headers of a request, idle time of a kept connection included.
    pub(crate) header: Duration,
    /// Without reading anything of what is sent to it.
    pub(crate) stall: Duration,
    /// To end its side of a connection that has been ended here.
    pub(crate) linger: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header: Duration::from_secs(75),
            stall: Duration::from_secs(30),
            linger: Duration::from_secs(5),
        }
    }
}

/// What is served on a port, and how.
#[derive(Clone)]
pub(super) struct Service {
    pub(super) router: Router,
    /// Without one the port is plain.
    pub(super) certificate: Option<Arc<PushCertificate>>,
    pub(super) times: Times,
}

/// Serves a port until `cancel` is cancelled.
pub(super) async fn serve_port(
    listener: TcpListener,
    service: Service,
    cancel: &CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some((stream, permit)) = cancel
        .run_until_cancelled(accept(&listener, &permits))
        .await
    {
        while connections.try_join_next().is_some() {}
        let (service, cancel) = (service.clone(), cancel.clone());
        connections.spawn(async move {
            serve_connection(stream, service, cancel).await;
            drop(permit);
        });
    }
    drop(listener);
    let all_done = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_TIME, all_done).await.is_err() {
        warn!(connections = connections.len(), "requests cut off");
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let permit = permits.clone().acquire_owned().await;
    let permit = permit.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            // Out of file descriptors, or a peer that is gone already: neither ends the server.
            Err(error) => {
                warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, service: Service, cancel: CancellationToken) {
    let Service {
        router,
        certificate,
        times,
    } = service;
    let stream = Unstalled::new(stream, times.stall);
    let Some(certificate) = certificate else {
        return serve_requests(stream, router, times, cancel).await;
    };
    let handshake = TlsAcceptor::from(certificate.current()).accept(stream);
    let handshake = timeout(times.handshake, handshake);
    match cancel.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) => serve_requests(stream, router, times, cancel).await,
        Some(Ok(Err(error))) => debug!(%error, "no TLS"),
        Some(Err(_)) => debug!("no TLS in time"),
        None => {}
    }
}

async fn serve_requests<S: AsyncRead + AsyncWrite + Unpin + Send>(
    mut stream: S,
    router: Router,
    times: Times,
    cancel: CancellationToken,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(times.header);
    let io = TokioIo::new(&mut stream);
    let connection = builder.serve_connection(io, TowerToHyperService::new(router));
    let mut connection = Box::pin(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    drop(connection);
    match result {
        Ok(()) => {
            let drained = timeout(times.linger, drain(&mut stream));
            cancel.run_until_cancelled(drained).await;
        }
        Err(error) => debug!(%error, "connection ended"),
    }
}

/// Drops what comes, until the peer ends its side too.
async fn drain<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut dropped = vec![0; 16 << 10];
    while stream
        .read(&mut dropped)
        .await
        .is_ok_and(|length| length > 0)
    {}
}

/// A stream that fails when its peer takes nothing for some time.
pub(super) struct Unstalled<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            stalled: None,
        }
    }

    /// Passes `written` on, unless it has been pending for too long.
    fn limit<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unstalled<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unstalled<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.limit(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(context, shut)
    }
}
