//! The two ports: `/metrics` and push on one, `/healthz` and `/readyz` on the other.
//!
//! # Guarantees
//! - Nobody waits for somebody else: a scrape is finished bytes; a peer that sends its headers for more than
//!   [`HEADER_TIME`] or stops reading for [`STALL_TIME`] loses its connection; at most [`CONNECTIONS`] are open per port.
//! - After the cancellation no connection is accepted, requests under way have [`SHUTDOWN_TIME`], and when [`serve`]
//!   returns nothing of it runs any more.
//! - Until the caches are synced `/metrics` is 503, not a page with half of the totals: a counter that goes back to its
//!   value after a restart must not be seen at 0 in between.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::aggregate::Format;
use crate::exporter::{self, Exporter};
use crate::health::Health;
use crate::push::{self, Push, Runs};

/// How long request headers may take, idle time of a kept connection included.
const HEADER_TIME: Duration = Duration::from_secs(75);
/// How long a peer may not read what is sent to it.
const STALL_TIME: Duration = Duration::from_secs(30);
/// How long requests may take that are under way at the shutdown.
const SHUTDOWN_TIME: Duration = Duration::from_secs(5);
/// Connections per port.
const CONNECTIONS: usize = 512;

/// Why the ports could not be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// In use, or not ours to take.
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    /// The system does not tell it.
    #[error("failed to find which port was taken")]
    Address(#[source] io::Error),
}

/// The two ports, taken.
pub(crate) struct Ports {
    /// `/metrics` and push.
    pub(crate) metrics: TcpListener,
    /// `/healthz` and `/readyz`.
    pub(crate) health: TcpListener,
}

impl Ports {
    /// Takes both.
    pub(crate) async fn bind(metrics: SocketAddr, health: SocketAddr) -> Result<Self, HttpError> {
        let bind = async |address| {
            TcpListener::bind(address)
                .await
                .map_err(|source| HttpError::Listen { address, source })
        };
        Ok(Self {
            metrics: bind(metrics).await?,
            health: bind(health).await?,
        })
    }

    /// Where they are: a port 0 is replaced by one that was free.
    pub(crate) fn addresses(&self) -> Result<(SocketAddr, SocketAddr), HttpError> {
        let address = |port: &TcpListener| port.local_addr().map_err(HttpError::Address);
        Ok((address(&self.metrics)?, address(&self.health)?))
    }
}

/// Serves both ports until `cancel` is cancelled: the page with the metrics at the path `page`, or nowhere.
pub(crate) async fn serve<R: Runs>(
    ports: Ports,
    push: Arc<Push<R>>,
    page: Option<String>,
    cancel: CancellationToken,
) {
    let health = health_router(push.health.clone());
    let exporter = push.exporter.clone();
    let metrics = metrics_router(push, page.as_deref());
    tokio::join!(
        cancel.run_until_cancelled(exporter.drop_old_pages()),
        serve_port(ports.metrics, metrics, &cancel),
        serve_port(ports.health, health, &cancel),
    );
}

fn metrics_router<R: Runs>(push: Arc<Push<R>>, page: Option<&str>) -> Router {
    let scrape = Arc::new(Scrape {
        exporter: push.exporter.clone(),
        health: push.health.clone(),
    });
    let mut router = push::router(push);
    if let Some(page) = page {
        router = router.merge(Router::new().route(page, get(metrics)).with_state(scrape));
    }
    with_fallbacks(router)
}

fn health_router(health: Arc<Health>) -> Router {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz));
    with_fallbacks(router.with_state(health))
}

fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(async || (StatusCode::NOT_FOUND, "nothing is here\n"))
        .method_not_allowed_fallback(async || {
            let reason = "the method is not one that is obeyed here\n";
            (StatusCode::METHOD_NOT_ALLOWED, reason)
        })
}

struct Scrape {
    exporter: Arc<Exporter>,
    health: Arc<Health>,
}

async fn metrics(State(scrape): State<Arc<Scrape>>, headers: HeaderMap) -> Response {
    if let Err(reason) = scrape.health.check_ready() {
        return (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response();
    }
    let (format, name) = match accepts_open_metrics(&headers) {
        true => (Format::OpenMetrics, exporter::OPEN_METRICS),
        false => (Format::Text, exporter::TEXT),
    };
    let page = scrape.exporter.page(format).await;
    let content_type = (CONTENT_TYPE, name);
    let vary = (VARY, "accept, accept-encoding");
    if !accepts_gzip(&headers) {
        return ([content_type, vary], page.text.clone()).into_response();
    }
    let zipped = tokio::task::spawn_blocking(move || page.gzip()).await;
    let zipped = zipped.expect("compressing does not panic and is not aborted");
    let encoding = (CONTENT_ENCODING, "gzip");
    ([content_type, vary, encoding], zipped).into_response()
}

/// Whether OpenMetrics 1.0 is wanted at least as much as plain text. A version of it that is not ours is not it.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let wanted = |media: &str| {
        let offers = preferences(headers, ACCEPT).filter(|(offer, _)| {
            let mut parts = offer.split(';').map(str::trim);
            let is_it = parts
                .next()
                .is_some_and(|name| name.eq_ignore_ascii_case(media));
            let version = parts.find_map(|part| part.strip_prefix("version="));
            is_it && version.is_none_or(|version| matches!(version, "1.0.0" | "0.0.4"))
        });
        offers.map(|(_, quality)| quality).fold(0.0, f32::max)
    };
    let open_metrics = wanted("application/openmetrics-text");
    open_metrics > 0.0 && open_metrics >= wanted("text/plain")
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    preferences(headers, ACCEPT_ENCODING).any(|(coding, quality)| {
        let name = coding.split(';').next().unwrap_or_default();
        name.trim().eq_ignore_ascii_case("gzip") && quality > 0.0
    })
}

/// What a header of preferences offers, with their parameters, and how much each is wanted, 0 to 1 (RFC 9110, 12.4.2).
fn preferences(headers: &HeaderMap, header: HeaderName) -> impl Iterator<Item = (&str, f32)> {
    let values = headers.get_all(header).into_iter();
    let values = values.filter_map(|value: &HeaderValue| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|offer| {
        let mut parameters = offer.split(';').skip(1).map(str::trim);
        let quality = parameters.find_map(|parameter| parameter.strip_prefix("q="));
        // One that cannot be read is as one that is not there.
        let quality = quality.and_then(|quality| quality.parse().ok());
        (offer, quality.unwrap_or(1.0))
    })
}

async fn healthz(State(health): State<Arc<Health>>) -> Response {
    match health.check_alive(Instant::now()) {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason + "\n").into_response(),
    }
}

async fn readyz(State(health): State<Arc<Health>>) -> Response {
    let notes = health.notes();
    match health.check_ready() {
        Ok(()) => format!("ok\n{notes}").into_response(),
        Err(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{reason}\n{notes}"),
        )
            .into_response(),
    }
}

async fn serve_port(listener: TcpListener, router: Router, cancel: &CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    while let Some(stream) = cancel
        .run_until_cancelled(accept(&listener, &permits))
        .await
    {
        let (stream, permit) = stream;
        while connections.try_join_next().is_some() {}
        let serve = serve_connection(stream, router.clone(), cancel.clone());
        connections.spawn(async move {
            serve.await;
            drop(permit);
        });
    }
    drop(listener);
    let all_done = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIME, all_done).await.is_err() {
        warn!(connections = connections.len(), "requests cut off");
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> (TcpStream, tokio::sync::OwnedSemaphorePermit) {
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

async fn serve_connection(stream: TcpStream, router: Router, cancel: CancellationToken) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME);
    let io = TokioIo::new(Unstalled::new(stream, STALL_TIME));
    let connection = builder.serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancel.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

/// A stream that fails when its peer takes nothing for some time.
struct Unstalled<S> {
    stream: S,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Unstalled<S> {
    fn new(stream: S, patience: Duration) -> Self {
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

#[cfg(test)]
mod tests;
