//! The exchange that opens a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Buf;
use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse};
use kafka_protocol::protocol::{StrBytes, VersionRange};
use tokio::io::AsyncWriteExt;

use super::client::ClientConfig;
use super::error::Lost;
use super::frame::{self, Frame};
use super::transport;

/// The exchange before all others: who we are, and which versions the broker speaks.
pub(crate) async fn shake_hands(
    stream: &mut Box<dyn transport::Stream>,
    config: &ClientConfig,
) -> Result<BTreeMap<i16, VersionRange>, Lost> {
    // Brokers that do not know version 3 answer with version 0 and this code; all are asked again in their own words.
    let mut answer = ask_versions(stream, config, 3).await?;
    if answer.error_code == ResponseError::UnsupportedVersion.code() {
        answer = ask_versions(stream, config, 0).await?;
    }
    if let Some(code) = ResponseError::try_from_code(answer.error_code) {
        return Err(protocol_error(format!("{code} ({})", code.code())));
    }
    let range = |min, max| VersionRange { min, max };
    let known = answer.api_keys.iter();
    Ok(known
        .map(|api| (api.api_key, range(api.min_version, api.max_version)))
        .collect())
}

async fn ask_versions(
    stream: &mut Box<dyn transport::Stream>,
    config: &ClientConfig,
    version: i16,
) -> Result<ApiVersionsResponse, Lost> {
    const CORRELATION_ID: i32 = 0;
    let client_id = StrBytes::from_string(config.client_id.clone());
    let mut request = ApiVersionsRequest::default();
    if version >= 3 {
        request = request
            .with_client_software_name(StrBytes::from_static_str(env!("CARGO_PKG_NAME")))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
    }
    let body = frame::encode(
        ApiKey::ApiVersions,
        &request,
        version,
        CORRELATION_ID,
        &client_id,
    )
    .map_err(protocol_error)?;
    let mut frame = Frame::new([body]).map_err(|error| protocol_error(error.to_string()))?;
    stream
        .write_all_buf(&mut frame)
        .await
        .map_err(frame::lost)?;
    stream.flush().await.map_err(frame::lost)?;
    let answer = frame::read(stream, config.max_response_bytes, &config.buffers, || {}).await?;
    let code = answer.get(4..6).map(|mut code| code.get_i16());
    // The refusal is written as version 0, whatever was asked.
    let version = match code {
        Some(code) if code == ResponseError::UnsupportedVersion.code() => 0,
        _ => version,
    };
    frame::decode(answer, 0, version).map_err(protocol_error)
}

fn protocol_error(detail: String) -> Lost {
    let error = std::io::Error::new(std::io::ErrorKind::InvalidData, detail);
    Lost::Io(Arc::new(error))
}
