//! What a lane does with the batches of an answer: checks, filters, keeps them, and closes segments.
//!
//! # Guarantees
//! - A segment is closed at an offset below which all that is to be kept is in it, also after an error: what waits in the
//!   recoder counts only once it is in the segment.
//! - Encoding anew takes place beside the runtime's threads, one batch at a time, and what comes of it counts in the budget.

use std::ops::Range;
use std::sync::Arc;

use kafka_backup_shared::archive::batch::{Batch, Batches};
use kafka_backup_shared::archive::chain::OffsetRange;
use kafka_backup_shared::report::{Fault, error_chain};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::aborted::AbortedFilter;
use super::cursor::Cursor;
use super::error::TopicFailure;
use super::fetch::{ClosedTile, Event, Lane, Records, Stop, of_batch};
use super::recode::{Encoding, RecodeError, Recoded, Recoder};
use super::segment::{ClosedSegment, Kept};
use super::work::PartitionWork;
use crate::kafka::IsolationLevel;

impl Lane {
    /// Takes the batches of an answer; false where it has to be fetched again from the cursor on.
    pub(super) async fn take(
        &mut self,
        cursor: &mut Cursor<'_>,
        records: &Records,
        whole: usize,
    ) -> Result<bool, Stop> {
        let encoding = self.shared.encoding;
        let mut filter = AbortedFilter::new(match self.shared.isolation {
            IsolationLevel::ReadCommitted => records.aborted.clone(),
            IsolationLevel::ReadUncommitted => Vec::new(),
        });
        let mut walk = Batches::new(&records.bytes[..whole]);
        let mut to_encode: Vec<Range<usize>> = Vec::new();
        let (mut position, mut epoch) = (cursor.position, cursor.last_epoch);
        let is_whole = loop {
            let at = walk.position();
            let Some(batch) = walk.next() else { break true };
            let batch = batch.map_err(|error| of_batch(&error))?;
            if batch.base_offset() >= cursor.range.end {
                // Nothing is left between the position and the end: compaction.
                position = cursor.range.end;
                break true;
            }
            if !is_right(&batch, cursor)? {
                break false;
            }
            // An emptied batch, which compaction leaves for the producer's sequence, holds nothing to restore.
            let keeps = filter.keeps(&batch) && batch.record_count() > 0;
            match encoding {
                None => self.pass(cursor, &batch, keeps.then_some(at), records)?,
                Some(_) if keeps => to_encode.push(at..walk.position()),
                Some(_) => {}
            }
            position = batch.end_offset().min(cursor.range.end);
            epoch = batch.leader_epoch();
        };
        if let Some(encoding) = encoding {
            self.encode(cursor, encoding, records, to_encode).await?;
        }
        cursor.passed(position, epoch);
        if encoding.is_some() {
            cover(cursor);
        }
        let due = cursor
            .open
            .deadline(self.shared.checkpoint_interval)
            .is_some_and(|due| Instant::now() >= due);
        if due {
            self.flush(cursor).await?;
        } else if cursor.open.len() >= self.shared.segment_bytes {
            self.close(cursor);
        }
        Ok(is_whole)
    }

    /// Keeps a batch that stands at `kept` in the answer, or passes over it.
    fn pass(
        &mut self,
        cursor: &mut Cursor<'_>,
        batch: &Batch<'_>,
        kept: Option<usize>,
        records: &Records,
    ) -> Result<(), Stop> {
        let size = batch.bytes().len();
        let segment_bytes = self.shared.segment_bytes;
        if kept.is_some() && cursor.open.is_full_for(size, segment_bytes) {
            self.close(cursor);
        }
        let kept = kept.map(|at| Kept {
            answer: &records.bytes,
            at,
            buffer: &records.buffer,
        });
        let passed = cursor.open.pass(batch, kept, cursor.range.end);
        passed.map_err(|error| {
            let error = error_chain(&error);
            let offset = batch.base_offset();
            let message = format!("record batch at offset {offset}: {error}");
            TopicFailure::new(Fault::Corrupt, message).into()
        })
    }

    /// Encodes batches of an answer anew. The last ones may wait for more.
    async fn encode(
        &mut self,
        cursor: &mut Cursor<'_>,
        encoding: Encoding,
        records: &Records,
        batches: Vec<Range<usize>>,
    ) -> Result<(), Stop> {
        let batches: Arc<[Range<usize>]> = batches.into();
        let range = OffsetRange {
            start: cursor.open.start(),
            end: cursor.range.end,
        };
        let mut next = 0;
        while next < batches.len() {
            let mut recoder = match cursor.recoder.take() {
                Some(recoder) => recoder,
                None => recoder(encoding, cursor.work.max_message_bytes)?,
            };
            let (answer, batches) = (records.bytes.clone(), batches.clone());
            let (recoder, taken) = compute(move || {
                let taken = recoder.take(&answer, &batches[next..], range);
                (recoder, taken)
            })
            .await;
            // After an error the recoder is gone, and with it what was not whole.
            let (count, ready) = taken.map_err(not_encoded)?;
            cursor.recoder = Some(recoder);
            next += count;
            if let Some(ready) = ready {
                self.append(cursor, ready).await?;
            }
        }
        Ok(())
    }

    /// Puts what waits in the recoder into the open segment.
    pub(super) async fn drain(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let Some(mut recoder) = cursor.recoder.take() else {
            return Ok(());
        };
        if recoder.is_pending() {
            let (back, finished) = compute(move || {
                let finished = recoder.finish();
                (recoder, finished)
            })
            .await;
            recoder = back;
            let finished = finished.map_err(not_encoded)?;
            cursor.recoder = Some(recoder);
            if let Some(ready) = finished {
                self.append(cursor, ready).await?;
            }
        } else {
            cursor.recoder = Some(recoder);
        }
        cover(cursor);
        Ok(())
    }

    async fn append(&mut self, cursor: &mut Cursor<'_>, ready: Recoded) -> Result<(), Stop> {
        let size = ready.bytes.len();
        if cursor.open.is_full_for(size, self.shared.segment_bytes) {
            self.close(cursor);
        }
        let buffers = &self.shared.client.config().buffers;
        let end = cursor.range.end;
        cursor
            .open
            .append(&ready, end, buffers, &self.shared.budget);
        if let Some(recoder) = &mut cursor.recoder {
            recoder.reuse(ready);
        }
        // What is encoded anew may be larger than what was fetched: nobody goes on while there is too much of it.
        loop {
            let changed = self.shared.budget.changed();
            if !self.shared.budget.is_exceeded() {
                return Ok(());
            }
            if self.shared.budget.storing() == 0 {
                if cursor.open.len() == 0 {
                    return Ok(());
                }
                self.close(cursor);
            }
            tokio::select! {
                biased;
                () = self.shared.stop.cancelled() => return Err(Stop::Interrupted),
                () = changed => {}
            }
        }
    }

    /// Ends the open segment where the cursor stands.
    pub(super) async fn flush(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Stop> {
        let drained = self.drain(cursor).await;
        self.close(cursor);
        drained
    }

    /// The same at the end of all; why it ended is known already.
    pub(super) async fn flush_last(&mut self, cursor: &mut Cursor<'_>) {
        if let Err(Stop::Failed(failure)) = self.flush(cursor).await {
            tracing::warn!(error = failure.message, "the last batches were not kept");
        }
    }

    /// Ends the open segment where all before is in it.
    pub(super) fn close(&mut self, cursor: &mut Cursor<'_>) {
        if cursor.open.has_progress() {
            let closed = cursor.open.close();
            self.store(cursor.work, closed);
        }
    }

    pub(super) fn store(&self, work: &PartitionWork, segment: ClosedSegment) {
        let storing = self.shared.budget.start_storing();
        self.tell(Event::Segment(ClosedTile {
            topic: work.topic,
            chain: work.chain.clone(),
            segment,
            storing,
        }));
    }
}

/// Where nothing waits in the recoder, the segment covers all that was passed.
fn cover(cursor: &mut Cursor<'_>) {
    match cursor.recoder.as_ref().is_some_and(Recoder::is_pending) {
        true => cursor.open.begin(),
        false => cursor.open.pass_to(cursor.position, cursor.last_epoch),
    }
}

/// Whether a batch has the right CRC; it fails where the same one has a wrong one again.
fn is_right(batch: &Batch<'_>, cursor: &mut Cursor<'_>) -> Result<bool, Stop> {
    let Err(error) = batch.verify_crc() else {
        return Ok(true);
    };
    if cursor.corrupt_at == Some(batch.base_offset()) {
        let message = format!("{error} (fetched twice from the source)");
        return Err(TopicFailure::new(Fault::Corrupt, message).into());
    }
    tracing::warn!(error = %error, "fetching a batch with a wrong CRC again");
    cursor.corrupt_at = Some(batch.base_offset());
    Ok(false)
}

fn recoder(encoding: Encoding, max_message_bytes: usize) -> Result<Recoder, Stop> {
    let recoder = Recoder::new(encoding, max_message_bytes);
    recoder.map_err(|error| {
        let message = format!("the codec does not start: {error}");
        TopicFailure::new(Fault::Bug, message).into()
    })
}

fn not_encoded(error: RecodeError) -> Stop {
    TopicFailure::new(Fault::Corrupt, error_chain(&error)).into()
}

/// Computes beside the threads that wait for sockets.
async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the runtime shuts down, and then nobody waits.
            Err(_) => std::future::pending().await,
        },
    }
}
