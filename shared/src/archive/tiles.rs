//! What a run may build on in a generation that it continues, and which small segments are worth merging.
//!
//! A base run has pinned segments of a partition. Beside them a listing may show what lies beyond (an attempt that did not
//! end), what only repeats pinned offsets (a second worker) and merged tiles: one object with the bytes of many small segments.
//!
//! # Guarantees
//! - What the base pins stays as it is: a segment that repeats pinned offsets, one across their end included, is never used, for
//!   on a compacted topic it may hold fewer records. Only one of a higher epoch says that they were truncated.
//! - A merged tile is used in the place of pinned segments only where it is proven to be their very bytes, one after another: the
//!   CRC-32C and the length of a concatenation follow from those of its pieces, which names and listing tell.
//! - A tile is merged within one leader epoch, so that a divergence can still be resolved at the end of an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::chain::{Link, chain};
use super::crc;
use super::layout::SegmentName;
use super::manifest::PinnedPartition;

/// Segments of one generation of a partition that a listing shows, with their sizes.
pub type Sizes = BTreeMap<SegmentName, u64>;

/// A segment below this size is small.
pub const SMALL: u64 = 1 << 20;
/// So many small segments, one after another, are merged.
pub const MANY: usize = 16;
/// A merged tile is no larger than this.
pub const TILE_MAX: u64 = 16 << 20;

/// What a run pinned of a partition, as later runs of the generation see it.
#[derive(Clone, Debug)]
pub struct Foundation {
    own: BTreeSet<SegmentName>,
    links: Vec<Link>,
    end: i64,
    epoch: i32,
}

impl Foundation {
    /// What `pinned` is to later runs.
    pub fn new(pinned: &PinnedPartition) -> Self {
        Self {
            own: pinned.segments.iter().copied().collect(),
            links: chain(pinned.segments.clone()),
            end: pinned.end,
            epoch: pinned
                .segments
                .iter()
                .map(|name| name.leader_epoch)
                .max()
                .unwrap_or(-1),
        }
    }

    /// Whether a segment adds nothing: it is pinned, or repeats what is.
    pub fn holds(&self, name: &SegmentName) -> bool {
        self.own.contains(name) || (name.start < self.end && name.leader_epoch <= self.epoch)
    }

    /// Of the segments that are there, those that a run may build on, in the order of their names.
    pub fn usable(&self, there: &Sizes) -> Vec<SegmentName> {
        let lost = self.lost_with_epochs(there);
        let usable = |(name, size): &(&SegmentName, &u64)| {
            self.own.contains(name)
                || !self.holds(name)
                || lost
                    .iter()
                    .any(|(link, epochs)| stands_for(name, link, epochs))
                || self.is_merged(name, **size, there)
        };
        there.iter().filter(usable).map(|(name, _)| *name).collect()
    }

    /// The segments that count for a run, each with its offsets. A pinned one does not grow into those of one that is lost: they
    /// may have been truncated there.
    pub fn links(&self, there: &Sizes) -> Vec<Link> {
        let mut links = chain(self.usable(there));
        let mut pinned = self.links.iter().peekable();
        for link in &mut links {
            while pinned
                .next_if(|own| own.range.start < link.range.start)
                .is_some()
            {}
            if let Some(own) = pinned.peek().filter(|own| own.name == link.name) {
                link.range.end = link.range.end.min(own.range.end);
            }
        }
        links
    }

    /// The pinned segments that are not there, with the offsets for which they counted.
    pub fn lost(&self, there: &Sizes) -> Vec<Link> {
        let lost = self
            .links
            .iter()
            .filter(|link| !there.contains_key(&link.name));
        lost.copied().collect()
    }

    /// Whether what is lost can be fetched into the same generation: not where an older epoch's segment reaches into a newer
    /// one's offsets, for then names do not tell what was truncated from what a second worker has stored.
    pub fn may_refill(&self) -> bool {
        self.links.windows(2).all(|pair| {
            let (before, after) = (&pair[0], &pair[1]);
            before.name.end <= after.range.start
                || before.name.leader_epoch >= after.name.leader_epoch
        })
    }

    /// The lost segments with the epochs that batches in their offsets may be of.
    fn lost_with_epochs(&self, there: &Sizes) -> Vec<(Link, RangeInclusive<i32>)> {
        let mut epoch = i32::MIN;
        let mut lost = Vec::new();
        for link in &self.links {
            let before = epoch;
            epoch = epoch.max(link.name.leader_epoch);
            if !there.contains_key(&link.name) {
                lost.push((*link, before..=epoch));
            }
        }
        lost
    }

    /// Whether a segment is the concatenation of pinned ones.
    fn is_merged(&self, name: &SegmentName, size: u64, there: &Sizes) -> bool {
        let first = self
            .links
            .binary_search_by_key(&name.start, |link| link.range.start);
        let Ok(first) = first else { return false };
        let pieces: Option<Vec<(SegmentName, u64)>> = self.links[first..]
            .iter()
            .take_while(|link| link.range.end <= name.end)
            .map(|link| Some((link.name, *there.get(&link.name)?)))
            .collect();
        let Some(pieces) = pieces.filter(|pieces| pieces.len() > 1) else {
            return false;
        };
        // Asked first, because it costs nothing.
        pieces.iter().map(|(_, size)| size).sum::<u64>() == size
            && merged(&pieces) == Some((*name, size))
    }

    /// Pinned segments that are worth a merged tile which is not there yet: each a list of neighbours with their sizes.
    pub fn to_merge(&self, there: &Sizes) -> Vec<Vec<(SegmentName, u64)>> {
        let mut runs: Vec<Vec<(SegmentName, u64)>> = Vec::new();
        // What the last of them has become so far.
        let mut last: Option<(SegmentName, u64)> = None;
        for link in &self.links {
            let whole = (link.range.start, link.range.end) == (link.name.start, link.name.end);
            let size = there.get(&link.name).copied();
            let Some(size) =
                size.filter(|size| whole && *size < SMALL && link.name.end <= self.end)
            else {
                last = None;
                continue;
            };
            let longer = last
                .filter(|(_, so_far)| so_far + size <= TILE_MAX)
                .and_then(|(name, so_far)| Some((followed(name, &link.name)?, so_far + size)));
            match runs.last_mut().filter(|_| longer.is_some()) {
                Some(run) => run.push((link.name, size)),
                None => runs.push(vec![(link.name, size)]),
            }
            last = Some(longer.unwrap_or((link.name, size)));
        }
        runs.retain(|run| {
            run.len() >= MANY && merged(run).is_some_and(|(name, _)| !there.contains_key(&name))
        });
        runs
    }
}

/// Whether a segment lies within the offsets of a lost one. In one without batches nothing was fetched, in whatever epoch.
fn stands_for(name: &SegmentName, lost: &Link, epochs: &RangeInclusive<i32>) -> bool {
    lost.range.start <= name.start
        && name.end <= lost.range.end
        && (name.leader_epoch < 0 || epochs.contains(&name.leader_epoch))
}

/// Name and size of the concatenation of `pieces`; `None` where they are not neighbours in one leader epoch.
pub fn merged(pieces: &[(SegmentName, u64)]) -> Option<(SegmentName, u64)> {
    let ((mut name, mut size), rest) = pieces.split_first().map(|(first, rest)| (*first, rest))?;
    for (next, next_size) in rest {
        let crc32c = crc::combine(name.crc32c, next.crc32c, *next_size);
        name = SegmentName {
            crc32c,
            ..followed(name, next)?
        };
        size += next_size;
    }
    Some((name, size))
}

/// The name of both together, but for the CRC.
fn followed(name: SegmentName, next: &SegmentName) -> Option<SegmentName> {
    // In a range without batches nothing was fetched, in whatever epoch.
    let same_epoch =
        name.leader_epoch == next.leader_epoch || name.leader_epoch.min(next.leader_epoch) < 0;
    (name.end == next.start && same_epoch).then_some(SegmentName {
        start: name.start,
        end: next.end,
        leader_epoch: name.leader_epoch.max(next.leader_epoch),
        records: name.records.checked_add(next.records)?,
        max_timestamp: name.max_timestamp.max(next.max_timestamp),
        crc32c: name.crc32c,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(start: i64, length: usize) -> Vec<u8> {
        (0..length)
            .map(|i| (start as usize * 31 + i) as u8)
            .collect()
    }

    fn named(start: i64, end: i64, leader_epoch: i32, content: &[u8]) -> SegmentName {
        SegmentName {
            start,
            end,
            leader_epoch,
            records: (end - start) as u64,
            max_timestamp: end,
            crc32c: crc32c::crc32c(content),
        }
    }

    /// Segments of 10 offsets and `size` bytes each.
    fn small(count: i64, size: usize) -> Vec<(SegmentName, u64)> {
        (0..count)
            .map(|i| {
                (
                    named(i * 10, i * 10 + 10, 1, &content(i, size)),
                    size as u64,
                )
            })
            .collect()
    }

    fn pinned(segments: &[(SegmentName, u64)]) -> PinnedPartition {
        let segments: Vec<SegmentName> = segments.iter().map(|(name, _)| *name).collect();
        let end = segments.last().unwrap().end;
        PinnedPartition {
            partition: 0,
            log_start: 0,
            end,
            high_watermark: end,
            generation: "g".into(),
            segments,
            gaps: vec![],
        }
    }

    #[test]
    fn a_merged_tile_serves_for_the_segments_that_it_is_made_of() {
        let segments = small(20, 100);
        let (tile, size) = merged(&segments[2..19]).unwrap();
        let bytes: Vec<u8> = (2..19).flat_map(|i| content(i, 100)).collect();
        assert_eq!(
            (tile.crc32c, size),
            (crc32c::crc32c(&bytes), bytes.len() as u64)
        );

        let foundation = Foundation::new(&pinned(&segments));
        let mut there: Sizes = segments.iter().copied().collect();
        there.insert(tile, size);
        let links = chain(foundation.usable(&there));
        let names: Vec<SegmentName> = links.iter().map(|link| link.name).collect();
        assert_eq!(names, [segments[0].0, segments[1].0, tile, segments[19].0]);
        assert!(foundation.holds(&tile), "it adds nothing");

        // one byte differs: the same offsets, records and size, as a second worker might leave them
        for other in [
            SegmentName {
                crc32c: tile.crc32c ^ 1,
                ..tile
            },
            SegmentName {
                records: tile.records - 1,
                ..tile
            },
        ] {
            there = segments.iter().copied().chain([(other, size)]).collect();
            assert!(!foundation.usable(&there).contains(&other));
        }
        there = segments.iter().copied().chain([(tile, size + 1)]).collect();
        assert!(!foundation.usable(&there).contains(&tile));
    }

    #[test]
    fn what_repeats_the_base_is_left_and_what_lies_beyond_is_used() {
        let segments = small(3, 100);
        let foundation = Foundation::new(&pinned(&segments));
        let repeated = named(0, 20, 1, b"x");
        let across = named(25, 40, 1, b"y");
        let beyond = named(30, 40, 1, b"y");
        let elected = named(20, 30, 2, b"z");
        let there = [repeated, across, beyond, elected].map(|name| (name, 1));
        assert_eq!(
            foundation.usable(&there.into_iter().collect()),
            [elected, beyond]
        );
    }

    #[test]
    fn what_lies_within_a_lost_segment_stands_for_it() {
        let mut segments = small(4, 100);
        for (name, _) in &mut segments[2..] {
            name.leader_epoch = 3;
        }
        let foundation = Foundation::new(&pinned(&segments));
        let (lost, _) = segments.remove(2);
        assert!(foundation.may_refill());
        let there: Sizes = segments.iter().copied().collect();
        let gone: Vec<SegmentName> = foundation.lost(&there).iter().map(|l| l.name).collect();
        assert_eq!(gone, [lost]);
        let cases = [
            ("all of it", named(20, 30, 3, b"a"), true),
            ("a piece of the epoch before", named(20, 25, 1, b"b"), true),
            ("a piece without batches", named(25, 30, -1, b""), true),
            ("of an epoch that was over", named(20, 25, 0, b"c"), false),
            ("across its end", named(25, 35, 3, b"d"), false),
            ("across its start", named(15, 30, 3, b"e"), false),
            ("where nothing is lost", named(10, 15, 1, b"f"), false),
        ];
        for (case, name, expected) in cases {
            let mut there = there.clone();
            there.insert(name, 1);
            assert_eq!(
                foundation.usable(&there).contains(&name),
                expected,
                "{case}"
            );
        }
    }

    #[test]
    fn a_segment_does_not_grow_into_a_lost_one() {
        // Truncated at 20; then the newer epoch's first segment is lost.
        let old = (named(0, 40, 1, b"old"), 3);
        let (lost, last) = (
            (named(20, 30, 2, b"new"), 3),
            (named(30, 40, 2, b"last"), 4),
        );
        let foundation = Foundation::new(&pinned(&[old, lost, last]));
        assert!(!foundation.may_refill());
        let there: Sizes = [old, last].into();
        let ranges = |links: Vec<Link>| -> Vec<(i64, i64)> {
            links.iter().map(|l| (l.range.start, l.range.end)).collect()
        };
        assert_eq!(ranges(foundation.links(&there)), [(0, 20), (30, 40)]);
        let whole: Sizes = [old, lost, last].into();
        assert_eq!(
            ranges(foundation.links(&whole)),
            [(0, 20), (20, 30), (30, 40)]
        );
    }

    #[test]
    fn sixteen_small_neighbours_are_merged_once() {
        let cases: [(&str, Vec<(SegmentName, u64)>, &[usize]); 5] = [
            ("too few", small(15, 100), &[]),
            ("enough", small(16, 100), &[16]),
            ("not small", small(40, SMALL as usize), &[]),
            (
                "a tile has a limit",
                small(40, SMALL as usize - 1),
                &[16, 16],
            ),
            (
                "a hole parts them",
                {
                    let mut segments = small(32, 100);
                    segments.remove(10);
                    segments
                },
                &[21],
            ),
        ];
        for (case, segments, expected) in cases {
            let foundation = Foundation::new(&pinned(&segments));
            let mut there: Sizes = segments.iter().copied().collect();
            let runs = foundation.to_merge(&there);
            let lengths: Vec<usize> = runs.iter().map(Vec::len).collect();
            assert_eq!(lengths, expected, "{case}");
            there.extend(runs.iter().map(|run| merged(run).unwrap()));
            assert!(foundation.to_merge(&there).is_empty(), "{case}");
        }
    }

    #[test]
    fn epochs_are_not_merged() {
        let mut segments = small(32, 100);
        for (name, _) in &mut segments[16..] {
            name.leader_epoch = 2;
        }
        // nothing was fetched for it
        segments[20].0.leader_epoch = -1;
        let runs =
            Foundation::new(&pinned(&segments)).to_merge(&segments.iter().copied().collect());
        let ranges: Vec<(i64, i64)> = runs
            .iter()
            .map(|run| merged(run).unwrap().0)
            .map(|name| (name.start, name.end))
            .collect();
        assert_eq!(ranges, [(0, 160), (160, 320)]);
    }

    proptest! {
        #[test]
        fn the_name_of_a_tile_is_that_of_its_bytes(sizes in prop::collection::vec(0usize..50, 1..20)) {
            let mut bytes = Vec::new();
            let mut pieces = Vec::new();
            for (i, size) in (0..).zip(&sizes) {
                let content = content(i, *size);
                pieces.push((named(i * 10, i * 10 + 10, 3, &content), *size as u64));
                bytes.extend(content);
            }
            let whole = named(0, sizes.len() as i64 * 10, 3, &bytes);
            prop_assert_eq!(merged(&pieces), Some((whole, bytes.len() as u64)));
        }
    }
}
