//! One partition on its way: which segment is read next, which batch is sent next, what is acknowledged.
//!
//! # Guarantees
//! - No IO: what is to be loaded, sent or stored is asked for and told.
//! - A stream begins where the target's log ends. Batches before that are walked, not sent, and the log end must fall on a
//!   boundary between two of them.
//! - It reads a segment only with room for it, and then needs no more to get to the segment's end: streams that wait for one
//!   another's memory do not exist, however many share it.
//! - One batch is in flight until the first is acknowledged, then up to [`WINDOW`]: a broker without state for a producer
//!   takes any first sequence, so that a refused first batch with others behind it would leave a hole.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use kafka_backup_shared::archive::FORMAT_VERSION;
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::join::JOIN_MAX;
use kafka_backup_shared::archive::restore::{OffsetPiece, OffsetRun};
use tokio::sync::OwnedSemaphorePermit;

use super::batches::{Outgoing, Outgoings, Step};
use super::error::RestoreError;
use super::parts::PART;
use super::units::{Piece, Unit};
use crate::buffers::Buffers;

/// Batches of one partition in flight; brokers remember as many of a producer.
pub(super) const WINDOW: u32 = 5;

/// Parts that are walked and not acknowledged: with so many nothing more is read.
const HELD: usize = 1;

/// Bytes that a stream has at most, beside what is in flight: the part that is walked, the next one, those that are held, and a
/// batch that is being joined.
pub(super) const ROOM: usize = (2 + HELD) * PART + JOIN_MAX;

/// A part of a segment that should be read.
#[derive(Debug)]
pub(super) struct Load {
    /// Which of the unit's pieces.
    pub(super) index: usize,
    /// The piece.
    pub(super) piece: Piece,
    /// Which bytes of its object.
    pub(super) range: Range<u64>,
    /// Whether nothing comes behind it.
    pub(super) is_last: bool,
    /// Whether the stream has no room yet: a share of the memory budget must come with the part.
    pub(super) needs_room: bool,
}

/// A part of a segment that was read.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Which of the unit's pieces.
    pub(super) index: usize,
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Whether nothing comes behind it.
    pub(super) is_last: bool,
    /// The stream's share of the memory budget, where it had none.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// The offset map of a segment whose records are all acknowledged.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Which of the unit's pieces.
    pub(super) index: usize,
    /// Where its records went.
    pub(super) piece: OffsetPiece,
}

/// A batch to be sent, or one that was.
#[derive(Debug)]
pub(super) struct Ready {
    /// The batch.
    pub(super) outgoing: Outgoing,
    /// Records of the partition before it.
    pub(super) first: u64,
}

/// The segment whose batches are being sent.
#[derive(Debug)]
struct Current {
    index: usize,
    outgoings: Outgoings,
    /// Of what was fed.
    crc: u32,
    first: u64,
    map: OffsetPiece,
}

/// A segment whose batches are all sent.
#[derive(Debug)]
struct Sent {
    index: usize,
    end: u64,
    map: OffsetPiece,
}

/// A part that batches in flight may still refer to.
#[derive(Debug)]
struct Held {
    /// Records of the partition up to its end.
    end: u64,
    /// The stream's share of the memory budget, where that is given back with it.
    _room: Option<OwnedSemaphorePermit>,
}

/// One partition on its way.
#[derive(Debug)]
pub(super) struct Stream {
    unit: Arc<Unit>,
    /// Pieces whose offset map is stored already.
    mapped: Arc<HashSet<String>>,
    /// Memory of joined batches.
    buffers: Buffers,
    /// Records that the target had when the stream began.
    begun_at: u64,
    /// Records that were walked: sent, or before `begun_at`.
    walked: u64,
    acknowledged: u64,
    in_flight: u32,
    confirmed: bool,
    /// The piece of which parts are read next, and from where.
    next_piece: usize,
    next_part: u64,
    loading: bool,
    loaded: Option<Loaded>,
    current: Option<Current>,
    /// Its share of the memory budget: [`ROOM`] bytes from the first part of a segment until nothing refers to the last.
    room: Option<OwnedSemaphorePermit>,
    sent: VecDeque<Sent>,
    held: VecDeque<Held>,
    /// Why nothing more is sent until the log end is known again.
    trouble: Option<String>,
}

impl Stream {
    /// A stream of `unit` whose target has `done` records. `mapped` holds the keys of segments whose offset map is stored.
    pub(super) fn new(
        unit: Arc<Unit>,
        done: u64,
        mapped: Arc<HashSet<String>>,
        buffers: Buffers,
    ) -> Self {
        Self {
            unit,
            mapped,
            buffers,
            begun_at: done,
            walked: 0,
            acknowledged: done,
            in_flight: 0,
            confirmed: false,
            next_piece: 0,
            next_part: 0,
            loading: false,
            loaded: None,
            current: None,
            room: None,
            sent: VecDeque::new(),
            held: VecDeque::new(),
            trouble: None,
        }
    }

    /// What is restored.
    pub(super) fn unit(&self) -> &Arc<Unit> {
        &self.unit
    }

    /// Records that are in the target.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Batches whose outcome is not known.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Why it has stopped.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Stops sending; the first reason stays.
    pub(super) fn stop(&mut self, reason: &str) {
        self.trouble.get_or_insert_with(|| reason.to_owned());
    }

    /// Gives the memory of segments back; nothing is sent any more.
    pub(super) fn discard(&mut self) {
        self.stop("discarded");
        self.loaded = None;
        self.current = None;
        self.room = None;
        self.sent.clear();
        self.held.clear();
    }

    /// Whether another batch may be sent now.
    pub(super) fn may_send(&self) -> bool {
        let window = if self.confirmed { WINDOW } else { 1 };
        self.trouble.is_none() && self.in_flight < window
    }

    /// Whether every record is acknowledged and every segment was walked.
    pub(super) fn is_complete(&self) -> bool {
        let walked = self.next_piece == self.unit.pieces.len() && !self.loading;
        let empty = self.current.is_none() && self.loaded.is_none() && self.sent.is_empty();
        walked && empty && self.in_flight == 0
    }

    /// The part that should be read now; [`loaded`](Self::loaded) must follow. While others wait for room (`contended`), nothing of
    /// the next segment is read before this one has ended and given its room back.
    pub(super) fn next_load(&mut self, contended: bool) -> Option<Load> {
        let busy = self.loading || self.loaded.is_some() || self.held.len() >= HELD;
        if busy || self.trouble.is_some() {
            return None;
        }
        if self.next_part == 0 {
            match self.current {
                // Where a segment begins is known for certain only when the one before it was walked.
                Some(_) if self.walked < self.begun_at || contended => return None,
                Some(_) => {}
                None => self.pass_over(),
            }
        }
        let index = self.next_piece;
        let piece = self.unit.pieces.get(index)?.clone();
        let (range, is_last) = piece.part_from(self.next_part);
        self.loading = true;
        (self.next_piece, self.next_part) = match is_last {
            true => (index + 1, 0),
            false => (index, range.end),
        };
        Some(Load {
            index,
            piece,
            range,
            is_last,
            needs_room: self.room.is_none(),
        })
    }

    /// Passes over pieces that need not be read: without records, or in the target and mapped.
    fn pass_over(&mut self) {
        while let Some(piece) = self.unit.pieces.get(self.next_piece) {
            let Some(records) = piece.records(&self.unit.choice) else {
                return;
            };
            let stored = self.mapped.contains(&piece.key);
            let done = self.walked + records <= self.begun_at && stored;
            if records > 0 && !done {
                return;
            }
            self.walked += records;
            self.next_piece += 1;
        }
    }

    /// Takes a part that was asked for.
    pub(super) fn loaded(&mut self, mut loaded: Loaded) {
        self.loading = false;
        if let Some(room) = loaded.room.take() {
            self.room = Some(room);
        }
        self.loaded = Some(loaded);
    }

    /// The next batch to send; `None` while a segment is missing or at the end.
    ///
    /// # Errors
    /// A segment does not hold what its name says, or the log end is on no boundary.
    pub(super) fn next_batch(&mut self) -> Result<Option<Ready>, RestoreError> {
        loop {
            if self.current.is_none() && !self.begin_segment() {
                return Ok(None);
            }
            let Some(current) = &mut self.current else {
                return Ok(None);
            };
            let piece = &self.unit.pieces[current.index];
            let step = current.outgoings.step();
            let step = step.map_err(|source| RestoreError::Segment {
                key: piece.key.clone(),
                source,
            })?;
            let outgoing = match step {
                Step::Send(outgoing) => *outgoing,
                Step::More if self.feed() => continue,
                Step::More => return Ok(None),
                Step::End => {
                    self.end_segment()?;
                    continue;
                }
            };
            let first = self.walked;
            let mut target = self.unit.base_offset + offset(first);
            for run in &outgoing.runs {
                current.map.push(OffsetRun {
                    start: run.range.start,
                    end: run.range.end,
                    records: run.records,
                    target,
                });
                target += offset(run.records);
            }
            self.walked += outgoing.records();
            if self.walked <= self.begun_at {
                continue;
            }
            if first < self.begun_at {
                return Err(self.foreign(
                    format!("a log end at the boundary of a batch, {first} or {} records behind the base offset {}",
                        self.walked, self.unit.base_offset),
                    format!("{} records", self.begun_at),
                ));
            }
            if self.walked > self.unit.records {
                return Err(self.miscounted());
            }
            self.in_flight += 1;
            return Ok(Some(Ready { outgoing, first }));
        }
    }

    /// Begins the segment of which the first part is there.
    fn begin_segment(&mut self) -> bool {
        let Some(loaded) = &self.loaded else {
            return false;
        };
        let piece = &self.unit.pieces[loaded.index];
        self.current = Some(Current {
            index: loaded.index,
            outgoings: self.unit.outgoings(piece, self.buffers.clone()),
            crc: 0,
            first: self.walked,
            map: OffsetPiece {
                format_version: FORMAT_VERSION,
                target_partition: self.unit.partition,
                runs: Vec::new(),
            },
        });
        self.feed()
    }

    /// Gives the segment its next part, where that is there.
    fn feed(&mut self) -> bool {
        let (Some(current), Some(loaded)) = (&mut self.current, self.loaded.take()) else {
            return false;
        };
        current.crc = crc::append(current.crc, &loaded.bytes);
        current.outgoings.feed(loaded.bytes, loaded.is_last);
        // Of the part before.
        self.hold(None);
        true
    }

    fn end_segment(&mut self) -> Result<(), RestoreError> {
        let Some(current) = self.current.take() else {
            return Ok(());
        };
        let piece = &self.unit.pieces[current.index];
        // Of a segment that was checked before anything was written: it has become another since.
        piece.check_crc(current.crc)?;
        let found = self.walked - current.first;
        if let Some(expected) = piece
            .records(&self.unit.choice)
            .filter(|expected| *expected != found)
        {
            let reason = format!("expected {expected} records, as the name says, found {found}");
            return Err(RestoreError::damaged(&piece.key, reason));
        }
        self.sent.push_back(Sent {
            index: current.index,
            end: self.walked,
            map: current.map,
        });
        let goes_on = self.loaded.is_some() || self.loading;
        let room = match goes_on {
            true => None,
            false => self.room.take(),
        };
        self.hold(room);
        if self.loaded.is_none() && !self.loading {
            self.pass_over();
        }
        if self.next_piece == self.unit.pieces.len()
            && self.loaded.is_none()
            && !self.loading
            && self.walked != self.unit.records
        {
            return Err(self.miscounted());
        }
        Ok(())
    }

    /// Takes the answer to the oldest batch in flight, wherever it went wrong.
    ///
    /// # Errors
    /// The batch stands at another offset than the planned one.
    pub(super) fn answered(
        &mut self,
        ready: &Ready,
        outcome: Result<i64, String>,
    ) -> Result<(), RestoreError> {
        self.in_flight -= 1;
        let base_offset = match outcome {
            Ok(base_offset) => base_offset,
            Err(reason) => {
                self.stop(&reason);
                return Ok(());
            }
        };
        let planned = self.unit.base_offset + offset(ready.first);
        if base_offset != planned {
            return Err(self.foreign(
                format!("the next batch at offset {planned}"),
                format!("offset {base_offset}"),
            ));
        }
        // Behind a batch without a good answer nothing is counted: the log end will tell.
        if self.trouble.is_none() {
            self.confirmed = true;
            self.acknowledged = ready.first + ready.outgoing.records();
        }
        self.let_go();
        Ok(())
    }

    /// Holds what has been walked until it is acknowledged.
    fn hold(&mut self, room: Option<OwnedSemaphorePermit>) {
        self.held.push_back(Held {
            end: self.walked,
            _room: room,
        });
        self.let_go();
    }

    /// Gives back memory that no batch in flight refers to.
    fn let_go(&mut self) {
        while self
            .held
            .front()
            .is_some_and(|held| held.end <= self.acknowledged)
        {
            self.held.pop_front();
        }
    }

    /// The offset map of the next segment that is wholly acknowledged and not mapped yet.
    pub(super) fn next_mapped(&mut self) -> Option<Mapped> {
        loop {
            self.sent
                .front()
                .filter(|sent| sent.end <= self.acknowledged)?;
            let sent = self.sent.pop_front()?;
            let piece = &self.unit.pieces[sent.index];
            let stored = self.mapped.contains(&piece.key) || !self.unit.has_offset_map();
            if sent.map.runs.is_empty() || stored {
                continue;
            }
            return Some(Mapped {
                index: sent.index,
                piece: sent.map,
            });
        }
    }

    fn foreign(&self, expected: String, found: String) -> RestoreError {
        RestoreError::Foreign {
            topic: self.unit.target.to_string(),
            partition: self.unit.partition,
            expected,
            found,
        }
    }

    fn miscounted(&self) -> RestoreError {
        RestoreError::damaged(
            format!(
                "plan.json of the restore to topic {} partition {}",
                self.unit.target, self.unit.partition
            ),
            format!(
                "expected {} records, the segments have {}",
                self.unit.records, self.walked
            ),
        )
    }
}

/// A number of records as a distance of offsets.
pub(super) fn offset(records: u64) -> i64 {
    i64::try_from(records).expect("a partition has fewer than 2^63 records")
}

#[cfg(test)]
#[path = "stream_test.rs"]
mod tests;
