//! Frames: a length of four bytes, a header, a body.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::Lost;
use crate::buffers::Buffers;

/// A frame in pieces that is written without joining them.
#[derive(Debug, Default)]
pub(crate) struct Frame {
    pieces: VecDeque<Bytes>,
    remaining: usize,
}

impl Frame {
    /// Puts the length before the pieces.
    ///
    /// # Errors
    /// The total is more than a frame can hold.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Result<Self, FrameTooLarge> {
        let mut frame = Self::default();
        for piece in pieces.into_iter().filter(|piece| !piece.is_empty()) {
            frame.remaining += piece.len();
            frame.pieces.push_back(piece);
        }
        let length = i32::try_from(frame.remaining).map_err(|_| FrameTooLarge(frame.remaining))?;
        frame
            .pieces
            .push_front(Bytes::copy_from_slice(&length.to_be_bytes()));
        frame.remaining += 4;
        Ok(frame)
    }
}

/// More than 2 GiB in one request.
#[derive(Debug, thiserror::Error)]
#[error("a request of {0} bytes does not fit into a frame")]
pub(crate) struct FrameTooLarge(usize);

impl Buf for Frame {
    fn remaining(&self) -> usize {
        self.remaining
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let count = slices.len().min(self.pieces.len());
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "advance beyond the frame's end");
        self.remaining -= count;
        while count > 0 {
            let Some(first) = self.pieces.front_mut() else {
                return;
            };
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }
}

/// The header of a request.
pub(crate) fn encode_header<R: HeaderVersion>(
    buffer: &mut BytesMut,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: &StrBytes,
) -> Result<(), String> {
    RequestHeader::default()
        .with_request_api_key(api as i16)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(client_id.clone()))
        .encode(buffer, R::header_version(version))
        .map_err(|error| error.to_string())
}

/// Header and body of a request in one piece.
pub(crate) fn encode<R: Encodable + HeaderVersion>(
    api: ApiKey,
    request: &R,
    version: i16,
    correlation_id: i32,
    client_id: &StrBytes,
) -> Result<Bytes, String> {
    let mut buffer = BytesMut::new();
    encode_header::<R>(&mut buffer, api, version, correlation_id, client_id)?;
    request
        .encode(&mut buffer, version)
        .map_err(|error| error.to_string())?;
    Ok(buffer.freeze())
}

/// An answer without its length; byte fields are slices of `frame`.
pub(crate) fn decode<R: Decodable>(
    mut frame: Bytes,
    header_version: i16,
    version: i16,
) -> Result<R, String> {
    let read = |frame: &mut Bytes| {
        ResponseHeader::decode(frame, header_version)?;
        R::decode(frame, version)
    };
    let response = read(&mut frame).map_err(|error| format!("version {version}: {error}"))?;
    if frame.has_remaining() {
        return Err(format!("version {version}: {} bytes too many", frame.len()));
    }
    Ok(response)
}

/// Reads one frame into memory of `buffers`, calling `progress` whenever bytes arrived.
pub(crate) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
    buffers: &Buffers,
    mut progress: impl FnMut(),
) -> Result<Bytes, Lost> {
    let size = stream.read_i32().await.map_err(lost)?;
    progress();
    let length = usize::try_from(size)
        .ok()
        .filter(|length| (4..=limit).contains(length))
        .ok_or(Lost::TooLarge { size, limit })?;
    let mut buffer = buffers.take(length);
    while buffer.len() < length {
        let missing = length - buffer.len();
        let count = stream
            .read_buf(&mut (&mut buffer).limit(missing))
            .await
            .map_err(lost)?;
        if count == 0 {
            return Err(Lost::Closed);
        }
        progress();
    }
    Ok(buffers.lend(buffer))
}

/// A socket's error as the reason why its connection ended.
pub(crate) fn lost(error: io::Error) -> Lost {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return Lost::Closed;
    }
    Lost::Io(Arc::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::MetadataRequest;
    use proptest::prelude::*;

    #[test]
    fn request_starts_with_key_version_correlation_and_client() {
        let request = MetadataRequest::default().with_topics(Some(vec![]));
        let bytes = encode(
            ApiKey::Metadata,
            &request,
            12,
            7,
            &StrBytes::from_static_str("me"),
        )
        .unwrap();
        assert_eq!(&bytes[..12], b"\x00\x03\x00\x0c\x00\x00\x00\x07\x00\x02me");
    }

    #[tokio::test]
    async fn frame_above_the_limit_is_refused_before_it_is_read() {
        let mut http: &[u8] = b"HTTP/1.1 400 Bad Request";
        let error = read(&mut http, 100 << 20, &Buffers::default(), || {})
            .await
            .unwrap_err();
        assert!(matches!(
            error,
            Lost::TooLarge {
                size: 0x4854_5450,
                ..
            }
        ));
        let mut negative: &[u8] = &[0xff, 0xff, 0xff, 0xff];
        let error = read(&mut negative, 100, &Buffers::default(), || {})
            .await
            .unwrap_err();
        assert!(matches!(error, Lost::TooLarge { size: -1, .. }));
    }

    #[tokio::test]
    async fn stream_that_ends_inside_a_frame_is_closed() {
        for mut cut in [&b"\0\0"[..], &b"\0\0\0\x08abc"[..]] {
            let error = read(&mut cut, 100, &Buffers::default(), || {})
                .await
                .unwrap_err();
            assert!(matches!(error, Lost::Closed), "{error:?}");
        }
    }

    proptest! {
        /// However a socket takes the bytes, they are the length and the pieces in order.
        #[test]
        fn frame_is_its_pieces_in_order(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..10),
            steps in proptest::collection::vec(1usize..30, 1..40),
        ) {
            let body: Vec<u8> = pieces.concat();
            let mut expected = (body.len() as i32).to_be_bytes().to_vec();
            expected.extend_from_slice(&body);
            let mut frame = Frame::new(pieces.into_iter().map(Bytes::from)).unwrap();
            let mut written = Vec::new();
            for step in steps.into_iter().cycle() {
                if !frame.has_remaining() {
                    break;
                }
                let mut slices = [IoSlice::new(&[]); 3];
                let count = frame.chunks_vectored(&mut slices);
                let visible: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                let taken = step.min(visible.len());
                written.extend_from_slice(&visible[..taken]);
                frame.advance(taken);
            }
            prop_assert_eq!(written, expected);
        }
    }
}
