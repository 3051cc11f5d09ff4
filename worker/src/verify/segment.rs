//! Reads one segment in pieces and holds it against its name.
//!
//! # Guarantees
//! - Memory is one piece, whatever the size of the segment; only a batch that lies across an end of the segment, whose records
//!   have to be counted one by one, is held whole.

use kafka_backup_shared::archive::batch::{Batch, BatchError, CRC_COVERED, HEADER_LEN};
use kafka_backup_shared::archive::crc;
use kafka_backup_shared::archive::layout::SegmentName;
use kafka_backup_shared::archive::record;

use crate::store::{Store, StoreError};

/// Bytes that are read at once.
const PIECE: u64 = 4 << 20;

/// What is wrong with a segment; `None`: nothing.
pub(super) async fn check(
    store: &Store,
    key: &str,
    name: &SegmentName,
    size: u64,
) -> Result<Option<String>, StoreError> {
    let mut walk = Walk::new(*name);
    let mut at = 0;
    while at < size {
        let end = size.min(at + PIECE);
        let Some(piece) = store.get_range(key, at..end).await? else {
            return Ok(Some("it is missing".into()));
        };
        if piece.len() as u64 != end - at {
            let problem = format!(
                "the listing says {size} bytes, it ends after {}",
                at + piece.len() as u64
            );
            return Ok(Some(problem));
        }
        walk.pass(&piece);
        at = end;
    }
    Ok(walk.end().err())
}

/// A walk through the batches of a segment that comes in pieces.
struct Walk {
    name: SegmentName,
    crc: u32,
    state: State,
    records: u64,
    max_timestamp: i64,
    /// Where the batch before has ended.
    position: i64,
    leader_epoch: i32,
    /// What the first wrong batch is wrong in. What follows it cannot be walked.
    wrong: Option<String>,
}

enum State {
    Header(Vec<u8>),
    Records(Open),
}

/// A batch that is being read.
struct Open {
    base_offset: i64,
    count: u64,
    expected: u32,
    crc: u32,
    left: usize,
    /// All of it, where its records have to be counted.
    held: Option<Vec<u8>>,
}

impl Walk {
    fn new(name: SegmentName) -> Self {
        Self {
            name,
            crc: 0,
            state: State::Header(Vec::new()),
            records: 0,
            max_timestamp: -1,
            position: i64::MIN,
            leader_epoch: -1,
            wrong: None,
        }
    }

    fn pass(&mut self, mut piece: &[u8]) {
        self.crc = crc::append(self.crc, piece);
        while !piece.is_empty() && self.wrong.is_none() {
            let taken = match self.step(piece) {
                Ok(taken) => taken,
                Err(wrong) => return self.wrong = Some(wrong),
            };
            piece = &piece[taken..];
        }
    }

    /// Takes what belongs to the header or the records that are being read.
    fn step(&mut self, piece: &[u8]) -> Result<usize, String> {
        match &mut self.state {
            State::Header(header) => {
                let taken = piece.len().min(HEADER_LEN - header.len());
                header.extend_from_slice(&piece[..taken]);
                if header.len() == HEADER_LEN {
                    let header = std::mem::take(header);
                    let open = self.open(&header)?;
                    self.state = State::Records(open);
                    self.close_if_whole()?;
                }
                Ok(taken)
            }
            State::Records(open) => {
                let taken = piece.len().min(open.left);
                open.crc = crc::append(open.crc, &piece[..taken]);
                open.left -= taken;
                if let Some(held) = &mut open.held {
                    held.extend_from_slice(&piece[..taken]);
                }
                self.close_if_whole()?;
                Ok(taken)
            }
        }
    }

    fn open(&mut self, header: &[u8]) -> Result<Open, String> {
        let found = Batch::header(header).map_err(|error| error.to_string())?;
        let (batch, length) = found.ok_or("a record batch has no header")?;
        let (base_offset, end_offset) = (batch.base_offset(), batch.end_offset());
        let at = format!("the record batch at offset {base_offset}");
        let SegmentName { start, end, .. } = self.name;
        if end_offset <= start || base_offset >= end {
            return Err(format!("{at} lies outside of offsets {start} to {end}"));
        }
        if base_offset < self.position {
            return Err(format!(
                "{at} begins before the one before it ends, at {}",
                self.position
            ));
        }
        if batch.leader_epoch() > self.name.leader_epoch || batch.leader_epoch() < self.leader_epoch
        {
            return Err(format!(
                "{at} has leader epoch {}, expected {} to {}",
                batch.leader_epoch(),
                self.leader_epoch,
                self.name.leader_epoch
            ));
        }
        if batch.is_control() {
            return Err(format!("{at} is a control batch"));
        }
        self.position = end_offset;
        self.leader_epoch = batch.leader_epoch();
        self.max_timestamp = self.max_timestamp.max(batch.max_timestamp());
        let across = base_offset < start || end_offset > end;
        Ok(Open {
            base_offset,
            count: u64::from(batch.record_count().unsigned_abs()),
            expected: batch.crc(),
            crc: crc::of(&header[CRC_COVERED..]),
            left: length - HEADER_LEN,
            held: across.then(|| header.to_vec()),
        })
    }

    fn close_if_whole(&mut self) -> Result<(), String> {
        let State::Records(open) = &mut self.state else {
            return Ok(());
        };
        if open.left > 0 {
            return Ok(());
        }
        if open.crc != open.expected {
            return Err(BatchError::Crc {
                base_offset: open.base_offset,
                expected: open.expected,
                found: open.crc,
            }
            .to_string());
        }
        let count = match open.held.take() {
            Some(bytes) => within(&bytes, &self.name)?,
            None => open.count,
        };
        self.records += count;
        self.state = State::Header(Vec::new());
        Ok(())
    }

    /// What the whole of it says.
    fn end(mut self) -> Result<(), String> {
        match &self.state {
            State::Header(header) if header.is_empty() => {}
            State::Header(_) => drop(
                self.wrong
                    .get_or_insert("it ends within the header of a record batch".into()),
            ),
            State::Records(open) if open.left > 0 => {
                let wrong = format!(
                    "it ends within the record batch at offset {}",
                    open.base_offset
                );
                self.wrong.get_or_insert(wrong);
            }
            State::Records(_) => {}
        }
        let name = &self.name;
        if self.crc != name.crc32c {
            let first = self
                .wrong
                .map(|wrong| format!("; {wrong}"))
                .unwrap_or_default();
            return Err(format!(
                "its CRC-32C is {:08x}, its name says {:08x}{first}",
                self.crc, name.crc32c
            ));
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if self.records != name.records {
            return Err(format!(
                "it holds {} records, its name says {}",
                self.records, name.records
            ));
        }
        if self.max_timestamp != name.max_timestamp {
            return Err(format!(
                "its largest timestamp is {}, its name says {}",
                self.max_timestamp, name.max_timestamp
            ));
        }
        Ok(())
    }
}

/// Records of a batch between the ends of its segment.
fn within(batch: &[u8], name: &SegmentName) -> Result<u64, String> {
    let batch = Batch::first(batch).map_err(|error| error.to_string())?;
    let batch = batch.ok_or("a record batch is not whole")?;
    let records = record::decode(&batch).map_err(|error| error.to_string())?;
    let inside = records
        .iter()
        .filter(|record| (name.start..name.end).contains(&record.offset));
    Ok(inside.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::batch;
    use kafka_backup_shared::archive::codec::Codec;
    use kafka_backup_shared::archive::record::Record;

    /// Batches of five records each, and the name of the segment that they make.
    fn segment() -> (SegmentName, Vec<u8>) {
        let mut bytes = Vec::new();
        for base in [10, 15, 30] {
            let records: Vec<Record> = (0..5)
                .map(|offset| Record {
                    offset,
                    timestamp: 1000 + base,
                    body: vec![1, 1, 0],
                })
                .collect();
            let mut batch = record::encode(&records, Codec::None).unwrap();
            batch::set_base_offset(&mut batch, base);
            batch[12..16].copy_from_slice(&2i32.to_be_bytes());
            bytes.extend(batch);
        }
        (named(&bytes), bytes)
    }

    fn named(bytes: &[u8]) -> SegmentName {
        SegmentName {
            start: 10,
            end: 40,
            leader_epoch: 2,
            records: 15,
            max_timestamp: 1030,
            crc32c: crc32c::crc32c(bytes),
        }
    }

    fn walk(name: SegmentName, bytes: &[u8], piece: usize) -> Result<(), String> {
        let mut walk = Walk::new(name);
        bytes.chunks(piece).for_each(|piece| walk.pass(piece));
        walk.end()
    }

    #[test]
    fn a_whole_segment_is_found_whole_in_pieces_of_any_size() {
        let (name, bytes) = segment();
        for piece in 1..bytes.len() + 1 {
            assert_eq!(walk(name, &bytes, piece), Ok(()), "{piece}");
        }
        let empty = SegmentName {
            records: 0,
            max_timestamp: -1,
            crc32c: 0,
            ..name
        };
        assert_eq!(walk(empty, &[], 1), Ok(()));
        // batches across both ends: the records outside do not count
        let cut = SegmentName {
            start: 12,
            end: 33,
            records: 3 + 5 + 3,
            ..name
        };
        assert_eq!(walk(cut, &bytes, 7), Ok(()));
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_seen() {
        let (name, bytes) = segment();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            let said = walk(name, &flipped, 50).unwrap_err();
            assert!(
                said.contains(&format!("its name says {:08x}", name.crc32c)),
                "{at}: {said}"
            );
            assert!(walk(name, &bytes[..at], 50).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn what_the_name_does_not_say_is_told_although_the_crc_is_right() {
        let (name, bytes) = segment();
        let flipped = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            (named(&bytes), bytes)
        };
        let swapped = {
            let (front, back) = bytes.split_at(bytes.len() / 3);
            let bytes = [back, front].concat();
            (named(&bytes), bytes)
        };
        let cases = [
            (
                SegmentName {
                    records: 14,
                    ..name
                },
                bytes.clone(),
                "15 records, its name says 14",
            ),
            (
                SegmentName {
                    max_timestamp: 7,
                    ..name
                },
                bytes.clone(),
                "timestamp is 1030, its name says 7",
            ),
            (
                SegmentName { start: 20, ..name },
                bytes.clone(),
                "batch at offset 10 lies outside of offsets 20 to 40",
            ),
            (
                SegmentName {
                    leader_epoch: 1,
                    ..name
                },
                bytes.clone(),
                "has leader epoch 2, expected -1 to 1",
            ),
            (swapped.0, swapped.1, "batch at offset 10 begins before"),
            (flipped(65).0, flipped(65).1, "batch at offset 10 has CRC"),
            (flipped(16).0, flipped(16).1, "message format 3"),
        ];
        for (name, bytes, expected) in cases {
            let said = walk(name, &bytes, 50).unwrap_err();
            assert!(said.contains(expected), "{expected} in {said}");
        }
    }
}
