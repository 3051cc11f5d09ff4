//! The body of a push: how it arrives, and in which of the formats.

use std::io::Read;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use axum::http::{HeaderMap, StatusCode};
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use kafka_backup_shared::report::error_chain;

use super::{BODY_MAX, Refusal};
use crate::exposition::{Family, Syntax, parse, parse_protobuf};

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    format: BodyFormat,
    is_zipped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BodyFormat {
    Text(Syntax),
    /// Delimited `io.prometheus.client.MetricFamily`.
    Protobuf,
}

impl Form {
    /// What the headers say.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let header = |name: HeaderName| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_ascii_lowercase()
        };
        let unread = |what: String| {
            let reason = format!("{what} is not read");
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason))
        };
        let is_zipped = match header(CONTENT_ENCODING).as_str() {
            "" | "identity" => false,
            "gzip" => true,
            other => return unread(format!("content encoding {other}")),
        };
        let content_type = header(CONTENT_TYPE);
        let mut parts = content_type.split(';').map(str::trim);
        let format = match parts.next().unwrap_or_default() {
            "application/openmetrics-text" => BodyFormat::Text(Syntax::OpenMetrics),
            "application/vnd.google.protobuf" => {
                let is_ours = |part: &str| match part.split_once('=') {
                    Some(("proto", proto)) => proto == "io.prometheus.client.metricfamily",
                    Some(("encoding", encoding)) => encoding == "delimited",
                    _ => true, // of no meaning here
                };
                if !parts.all(is_ours) {
                    return unread(content_type);
                }
                BodyFormat::Protobuf
            }
            // curl names a form when it is not told better, so a name alone is no reason to refuse a text.
            _ => BodyFormat::Text(Syntax::Text),
        };
        Ok(Self { format, is_zipped })
    }

    /// The body without its compression.
    pub(super) fn unzip(self, body: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        if !self.is_zipped {
            return Ok(body);
        }
        let mut plain = Vec::new();
        // One byte more tells that there are more.
        let mut unzipped = MultiGzDecoder::new(&*body).take(BODY_MAX as u64 + 1);
        unzipped.read_to_end(&mut plain).map_err(|error| {
            let reason = format!("the body is not the gzip that its header promises: {error}");
            Refusal::invalid(reason)
        })?;
        if plain.len() > BODY_MAX {
            return Err(too_long());
        }
        Ok(plain)
    }

    /// The families of a body.
    pub(super) fn parse(self, body: &[u8]) -> Result<Vec<Family<'_>>, Refusal> {
        match self.format {
            BodyFormat::Text(syntax) => {
                let text = std::str::from_utf8(body)
                    .map_err(|error| Refusal::invalid(format!("the body is not UTF-8: {error}")))?;
                parse(text, syntax).map_err(|error| Refusal::invalid(error.to_string()))
            }
            BodyFormat::Protobuf => {
                parse_protobuf(body).map_err(|error| Refusal::invalid(error_chain(&error)))
            }
        }
    }
}

/// Reads a whole body, which has `limit` to arrive.
pub(super) async fn read(body: Body, limit: Duration) -> Result<Vec<u8>, Refusal> {
    // Known beforehand as a rule, and then nobody has to send it.
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(too_long());
    }
    let read = tokio::time::timeout(limit, read_all(body)).await;
    read.unwrap_or_else(|_| {
        let seconds = limit.as_secs_f64();
        let reason = format!("the body did not arrive within {seconds} s");
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, reason))
    })
}

async fn read_all(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut bytes = Vec::new();
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Refusal::invalid("the body ended early"))?;
        if bytes.len() + chunk.len() > BODY_MAX {
            return Err(too_long());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_long() -> Refusal {
    let reason = format!("the body is longer than {BODY_MAX} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}
