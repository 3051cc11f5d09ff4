//! A segment that comes in parts, as whole record batches.
//!
//! # Guarantees
//! - Memory is what was fed and not taken yet, and one batch that lies across parts: segments may be as large as they like.
//! - Where parts end decides nothing: the same segment gives the same batches.

use std::collections::VecDeque;

use bytes::Bytes;
use kafka_backup_shared::archive::batch::Batch;

use super::batches::SegmentError;

/// Bytes of a segment that are read at once: few enough to stay in a processor's cache until they are sent.
pub(super) const PART: usize = 512 << 10;

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// One whole batch, checked against its own CRC.
    Batch(Bytes),
    /// Another part must be fed first.
    More,
    /// Nothing: it was fed to its end.
    End,
}

/// A segment that comes in parts.
#[derive(Clone, Debug, Default)]
pub(super) struct Parts {
    /// Bytes of whole batches.
    whole: VecDeque<Bytes>,
    /// A batch that is not whole yet.
    partial: Vec<u8>,
    is_last: bool,
}

impl Parts {
    /// Takes the next part. What is wrong with it is told when its batch is due.
    pub(super) fn feed(&mut self, mut part: Bytes, is_last: bool) {
        self.is_last = is_last;
        while !self.partial.is_empty() && !part.is_empty() {
            let missing = match Batch::header(&self.partial) {
                Ok(Some((_, length))) => length - self.partial.len(),
                // Until its length is known it grows by no more than a header has.
                Ok(None) => 1,
                Err(_) => part.len(),
            };
            let taken = part.split_to(missing.min(part.len()));
            self.partial.extend_from_slice(&taken);
            if !matches!(Batch::first(&self.partial), Ok(None)) {
                self.whole
                    .push_back(std::mem::take(&mut self.partial).into());
            }
        }
        let mut end = 0;
        loop {
            match Batch::header(&part[end..]) {
                Ok(Some((_, length))) if part.len() - end >= length => end += length,
                Ok(_) => break,
                Err(_) => end = part.len(),
            }
        }
        let whole = part.split_to(end);
        if !whole.is_empty() {
            self.whole.push_back(whole);
        }
        self.partial.extend_from_slice(&part);
    }

    /// Takes the next batch.
    pub(super) fn next(&mut self) -> Result<Next, SegmentError> {
        let Some(bytes) = self.whole.front_mut() else {
            return match (self.is_last, self.partial.len()) {
                (false, _) => Ok(Next::More),
                (true, 0) => Ok(Next::End),
                (true, bytes) => Err(SegmentError::Trailing { bytes }),
            };
        };
        let length = match Batch::first(bytes)? {
            Some(batch) => {
                batch.verify_crc()?;
                batch.bytes().len()
            }
            None => return Err(SegmentError::Trailing { bytes: bytes.len() }),
        };
        let batch = bytes.split_to(length);
        if bytes.is_empty() {
            self.whole.pop_front();
        }
        Ok(Next::Batch(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_backup_shared::archive::codec::Codec;
    use kafka_backup_shared::archive::record::{Record, encode};
    use proptest::prelude::*;

    fn segment(sizes: &[usize]) -> (Bytes, Vec<Bytes>) {
        let batch = |size: &usize| {
            let record = Record {
                offset: 0,
                timestamp: 1,
                body: vec![1; *size],
            };
            Bytes::from(encode(&[record], Codec::None).unwrap())
        };
        let batches: Vec<Bytes> = sizes.iter().map(batch).collect();
        (batches.concat().into(), batches)
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "the rest is alike")]
    fn take(parts: &mut Parts, found: &mut Vec<Bytes>) -> Next {
        loop {
            match parts.next().unwrap() {
                Next::Batch(batch) => found.push(batch),
                other => return other,
            }
        }
    }

    proptest! {
        #[test]
        fn batches_do_not_depend_on_the_parts(
            sizes in prop::collection::vec(1usize..300, 0..12),
            cuts in prop::collection::vec(1usize..200, 1..60),
        ) {
            let (mut segment, batches) = segment(&sizes);
            let (mut parts, mut found) = (Parts::default(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            loop {
                let cut = cuts.next().unwrap().min(segment.len());
                let part = segment.split_to(cut);
                parts.feed(part, segment.is_empty());
                let next = take(&mut parts, &mut found);
                if segment.is_empty() {
                    prop_assert_eq!(next, Next::End);
                    break;
                }
                prop_assert_eq!(next, Next::More);
            }
            prop_assert_eq!(found, batches);
        }
    }

    #[test]
    fn what_is_no_batch_is_told_after_those_before_it() {
        let (segment, _) = segment(&[10]);
        let garbage = [&segment[..], &[0xff; 100]].concat();
        for cut in [segment.len(), segment.len() + 1, segment.len() + 30] {
            let mut parts = Parts::default();
            parts.feed(Bytes::copy_from_slice(&garbage[..cut]), false);
            parts.feed(Bytes::copy_from_slice(&garbage[cut..]), true);
            assert!(matches!(parts.next(), Ok(Next::Batch(_))), "{cut}");
            assert!(parts.next().is_err(), "{cut}");
        }
    }

    #[test]
    fn a_cut_off_end_is_told_at_the_end() {
        let (segment, _) = segment(&[10, 10]);
        let mut parts = Parts::default();
        parts.feed(segment.slice(..segment.len() - 1), true);
        assert!(matches!(parts.next(), Ok(Next::Batch(_))));
        assert!(matches!(parts.next(), Err(SegmentError::Trailing { .. })));
    }
}
