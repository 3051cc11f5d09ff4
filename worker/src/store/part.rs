//! Reading a part of an object.
//!
//! Files are read here and not by `LocalFileSystem`, which takes new memory for each part and fills it with zeros first: a fifth
//! of a restore's CPU (`cargo lab bench data`).

use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::{GetResult, GetResultPayload};

use super::folder_error;
use crate::buffers::Buffers;

/// Bytes of a file that are read at once where they are not kept: they stay in the processor's cache.
const WINDOW: usize = 256 << 10;

/// The content, of at most `length` bytes.
pub(super) async fn content(
    found: GetResult,
    length: u64,
    buffers: Buffers,
) -> object_store::Result<Bytes> {
    let (start, length) = (
        found.range.start,
        usize::try_from(length).unwrap_or(usize::MAX),
    );
    match found.payload {
        GetResultPayload::File(mut file, path) => {
            let end = found.range.end;
            reading(path, move || {
                file.seek(SeekFrom::Start(start))?;
                let mut content = buffers.take(length);
                file.take(end - start).read_to_end(&mut content)?;
                Ok(buffers.lend(content))
            })
            .await
        }
        GetResultPayload::Stream(mut chunks) => {
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
    }
}

/// The CRC-32C of what has the CRC `before` with the content behind it, and the content's length.
pub(super) async fn crc32c(found: GetResult, before: u32) -> object_store::Result<(u32, u64)> {
    let (mut crc, mut length) = (before, 0);
    match found.payload {
        GetResultPayload::File(mut file, path) => {
            let range = found.range;
            reading(path, move || {
                file.seek(SeekFrom::Start(range.start))?;
                let mut file = file.take(range.end - range.start);
                let mut window = vec![0; WINDOW];
                loop {
                    let read = match file.read(&mut window) {
                        Ok(0) => return Ok((crc, length)),
                        Ok(read) => read,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    crc = crc32c::crc32c_append(crc, &window[..read]);
                    length += read as u64;
                }
            })
            .await
        }
        GetResultPayload::Stream(mut chunks) => {
            while let Some(chunk) = chunks.try_next().await? {
                crc = crc32c::crc32c_append(crc, &chunk);
                length += chunk.len() as u64;
            }
            Ok((crc, length))
        }
    }
}

/// Reads a file where waiting for it holds up nobody.
async fn reading<T: Send + 'static>(
    path: PathBuf,
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let read = tokio::task::spawn_blocking(read).await?;
    read.map_err(|error| folder_error(&path.display().to_string(), error))
}
