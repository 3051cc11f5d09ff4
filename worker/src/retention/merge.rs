//! Small neighbours become one segment with their very bytes.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use kafka_backup_shared::archive::batch::Batches;
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::layout::{ChainKey, Layout, SegmentName};
use kafka_backup_shared::archive::tiles::{TILE_MAX, merged};
use tokio::sync::Semaphore;

use super::{CONCURRENCY, RetentionError};
use crate::store::Store;

/// KiB of tiles that are in memory together.
const ROOM_KIB: u32 = 2 * (TILE_MAX >> 10) as u32;

/// Segments of a chain that are worth one tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Merge {
    pub(super) chain: ChainKey,
    pub(super) pieces: Vec<(SegmentName, u64)>,
}

/// Writes the tiles; gives back how many, and what could not be merged.
pub(super) async fn merge(
    store: &Store,
    layout: &Layout,
    merges: Vec<Merge>,
) -> Result<(u64, Vec<String>), RetentionError> {
    let room = Arc::new(Semaphore::new(ROOM_KIB as usize));
    let tiles = stream::iter(merges).map(|merge| {
        let room = room.clone();
        async move {
            let kib: u64 = merge.pieces.iter().map(|(_, size)| size / 1024 + 1).sum();
            let kib = u32::try_from(kib).unwrap_or(ROOM_KIB).min(ROOM_KIB);
            let _held = room
                .acquire_many(kib)
                .await
                .expect("the semaphore is never closed");
            tile(store, layout, &merge).await
        }
    });
    let tiles: Vec<Result<bool, String>> =
        tiles.buffer_unordered(CONCURRENCY).try_collect().await?;
    let mut written = 0;
    let mut problems = Vec::new();
    for tile in tiles {
        match tile {
            Ok(true) => written += 1,
            Ok(false) => {}
            Err(problem) => problems.push(problem),
        }
    }
    Ok((written, problems))
}

/// Writes one tile. `Ok(Err)`: a piece is damaged, which is for `verify` to look into; `Ok(Ok(false))`: it cannot be merged.
async fn tile(
    store: &Store,
    layout: &Layout,
    merge: &Merge,
) -> Result<Result<bool, String>, RetentionError> {
    let Some((name, size)) = merged(&merge.pieces) else {
        return Ok(Ok(false));
    };
    let pieces = stream::iter(&merge.pieces).map(|(piece, _)| {
        let key = layout.segment(&merge.chain, piece);
        async move { Ok::<_, RetentionError>((store.get(&key).await?, key)) }
    });
    let contents: Vec<(Option<Bytes>, String)> = pieces.buffered(4).try_collect().await?;
    let mut bytes = Vec::with_capacity(contents.len());
    for ((content, key), (piece, expected)) in contents.into_iter().zip(&merge.pieces) {
        // Another retention may have been quicker.
        let Some(content) = content else {
            return Ok(Ok(false));
        };
        if content.len() as u64 != *expected || crc::of(&content) != piece.crc32c {
            return Ok(Err(format!(
                "{key} is damaged: its CRC-32C is not the one in its name"
            )));
        }
        let last = piece.end == name.end;
        if !lies_within(&content, piece, piece.start == name.start, last) {
            tracing::debug!(
                key,
                "a batch lies across the ends of a segment: it is not merged"
            );
            return Ok(Ok(false));
        }
        bytes.push(content);
    }
    tracing::debug!(
        topic = merge.chain.topic,
        partition = merge.chain.partition,
        start = name.start,
        end = name.end,
        size,
        "segments merged"
    );
    let key = layout.segment(&merge.chain, &name);
    store
        .create_segment(&key, bytes.into_iter().collect())
        .await?;
    Ok(Ok(true))
}

/// Whether no batch of a piece lies across its ends, where another piece follows that may hold the same batch.
fn lies_within(content: &[u8], piece: &SegmentName, first: bool, last: bool) -> bool {
    Batches::new(content).all(|batch| {
        batch.is_ok_and(|batch| {
            (first || batch.base_offset() >= piece.start)
                && (last || batch.end_offset() <= piece.end)
        })
    })
}
