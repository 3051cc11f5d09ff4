//! A part of an object's content, from a stream of chunks or a file.

use std::io::{self, Read};

use bytes::Bytes;
use futures::TryStreamExt;
use kafka_backup_shared::archive::crc;
use object_store::GetResult;

use crate::buffers::Buffers;

/// Bytes of a file that are read at once where they are not kept: they stay in the processor's cache.
const WINDOW: usize = 256 << 10;

/// The content, of at most `length` bytes.
pub(super) async fn content(
    found: GetResult,
    length: usize,
    buffers: &Buffers,
) -> object_store::Result<Bytes> {
    let mut chunks = found.into_stream();
    let Some(first) = chunks.try_next().await? else {
        return Ok(Bytes::new());
    };
    if first.len() >= length {
        return Ok(first);
    }
    let mut content = buffers.take(length);
    content.extend_from_slice(&first);
    while let Some(chunk) = chunks.try_next().await? {
        content.extend_from_slice(&chunk);
    }
    Ok(buffers.lend(content))
}

/// The same of a file.
pub(super) fn file_content(
    mut file: impl Read,
    length: usize,
    buffers: &Buffers,
) -> io::Result<Bytes> {
    let mut content = buffers.take(length);
    file.read_to_end(&mut content)?;
    Ok(buffers.lend(content))
}

/// The CRC-32C of what has the CRC `before` with the content behind it, and the content's length.
pub(super) async fn crc32c(found: GetResult, before: u32) -> object_store::Result<(u32, u64)> {
    let (mut crc, mut length) = (before, 0);
    let mut chunks = found.into_stream();
    while let Some(chunk) = chunks.try_next().await? {
        crc = crc::append(crc, &chunk);
        length += chunk.len() as u64;
    }
    Ok((crc, length))
}

/// The same of a file.
pub(super) fn file_crc32c(mut file: impl Read, before: u32) -> io::Result<(u32, u64)> {
    let (mut crc, mut length) = (before, 0);
    let mut window = vec![0; WINDOW];
    loop {
        let read = match file.read(&mut window) {
            Ok(0) => return Ok((crc, length)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        crc = crc::append(crc, &window[..read]);
        length += read as u64;
    }
}
