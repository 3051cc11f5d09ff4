//! The ports: `/metrics` and push on one, `/healthz` and `/readyz` on another. With a certificate pushes have a third one for
//! themselves, with TLS, and the first one tells where it is.
//!
//! # Guarantees
//! - Nobody waits for somebody else: a scrape is finished bytes; what a peer may take is limited ([`Times`]), and so is the number
//!   of connections per port.
//! - After the cancellation no connection is accepted, requests under way have some seconds, and when [`serve`] returns
//!   nothing of it runs any more.
//! - Where pushes have TLS none is taken without it.
//! - Until the caches are synced `/metrics` is 503, not a page with half of the totals: a counter that goes back to its
//!   value after a restart must not be seen at 0 in between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::connection::{Service, serve_port};
use crate::aggregate::Format;
use crate::exporter::{self, Exporter};
use crate::health::Health;
use crate::push::{self, Push, Runs};
use crate::tls::PushCertificate;

mod connection;

pub(crate) use self::connection::Times;

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

/// The ports, taken.
pub(crate) struct Ports {
    /// `/metrics`, and push where it has no port of its own.
    metrics: TcpListener,
    /// `/healthz` and `/readyz`.
    health: TcpListener,
    push: Option<PushPort>,
}

/// A port for pushes alone, with TLS.
struct PushPort {
    listener: TcpListener,
    certificate: Arc<PushCertificate>,
    /// As pushers are told it.
    url: String,
}

impl Ports {
    /// Takes both.
    pub(crate) async fn bind(metrics: SocketAddr, health: SocketAddr) -> Result<Self, HttpError> {
        Ok(Self {
            metrics: bind(metrics).await?,
            health: bind(health).await?,
            push: None,
        })
    }

    /// Takes one more for pushes, which are told to come to `url`.
    pub(crate) async fn with_push(
        self,
        address: SocketAddr,
        certificate: Arc<PushCertificate>,
        url: String,
    ) -> Result<Self, HttpError> {
        let push = PushPort {
            listener: bind(address).await?,
            certificate,
            url,
        };
        Ok(Self {
            push: Some(push),
            ..self
        })
    }

    /// Where they are: a port 0 is replaced by one that was free.
    pub(crate) fn addresses(&self) -> Result<Addresses, HttpError> {
        let address = |port: &TcpListener| port.local_addr().map_err(HttpError::Address);
        let push = self.push.as_ref().map(|port| address(&port.listener));
        Ok(Addresses {
            metrics: address(&self.metrics)?,
            health: address(&self.health)?,
            push: push.transpose()?,
        })
    }
}

/// Where [`Ports`] are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) metrics: SocketAddr,
    pub(crate) health: SocketAddr,
    /// Where it has a port of its own.
    pub(crate) push: Option<SocketAddr>,
}

async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| HttpError::Listen { address, source })
}

/// Serves the ports until `cancel` is cancelled: the page with the metrics at the path `page`, or nowhere.
pub(crate) async fn serve<R: Runs>(
    ports: Ports,
    push: Arc<Push<R>>,
    page: Option<String>,
    times: Times,
    cancel: CancellationToken,
) {
    let exporter = push.exporter.clone();
    let plain = |router| Service {
        router,
        certificate: None,
        times,
    };
    let health = plain(health_router(push.health.clone()));
    let metrics = metrics_router(&push, page.as_deref());
    let (pushes, pushes_with_tls) = match ports.push {
        None => (push::router(push), None),
        Some(port) => {
            let elsewhere = push::misdirected_router(exporter.clone(), port.url);
            let service = Service {
                router: with_fallbacks(push::router(push)),
                certificate: Some(port.certificate),
                times,
            };
            (elsewhere, Some((port.listener, service)))
        }
    };
    let metrics = plain(with_fallbacks(metrics.merge(pushes)));
    let serve_tls = async {
        if let Some((listener, service)) = pushes_with_tls {
            serve_port(listener, service, &cancel).await;
        }
    };
    tokio::join!(
        cancel.run_until_cancelled(exporter.drop_old_pages()),
        serve_port(ports.metrics, metrics, &cancel),
        serve_port(ports.health, health, &cancel),
        serve_tls,
    );
}

fn metrics_router<R: Runs>(push: &Push<R>, page: Option<&str>) -> Router {
    let scrape = Arc::new(Scrape {
        exporter: push.exporter.clone(),
        health: push.health.clone(),
    });
    match page {
        Some(page) => Router::new().route(page, get(metrics)).with_state(scrape),
        None => Router::new(),
    }
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

#[cfg(test)]
#[path = "http/limits_test.rs"]
mod limits_test;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "http/tls_test.rs"]
mod tls_test;
