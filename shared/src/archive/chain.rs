//! Which segments of a generation count, and for which offsets.
//!
//! Two workers on one archive, or one whose predecessor still lives on a lost node, leave overlapping segments; an unclean
//! leader election leaves segments whose end never happened. Both are resolved here, from names alone.
//!
//! # Guarantees
//! - Sorted by start, a segment counts up to where the next one of the chain starts.
//! - Leader epochs along a chain never fall: a segment with a lower epoch than one before it is dead.
//! - Where two segments of one epoch cover the same offsets they hold the same records, so that either may be dropped.

use serde::{Deserialize, Serialize};

use super::layout::SegmentName;

/// Offsets `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset.
    pub start: i64,
    /// The offset after the last one.
    pub end: i64,
}

impl OffsetRange {
    /// Whether it holds no offset.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }
}

/// A segment and the offsets for which it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The segment.
    pub name: SegmentName,
    /// The part of its range that counts.
    pub range: OffsetRange,
}

/// The segments that count, sorted by start, each with its offsets. Holes between them stay holes.
pub fn chain(mut segments: Vec<SegmentName>) -> Vec<Link> {
    segments.retain(|name| name.start < name.end);
    segments.sort_by_key(|name| {
        (
            name.start,
            std::cmp::Reverse((name.leader_epoch, name.end)),
            *name,
        )
    });
    let mut links: Vec<Link> = Vec::new();
    let mut epoch = i32::MIN;
    for name in segments {
        let whole = OffsetRange {
            start: name.start,
            end: name.end,
        };
        // A range in which nothing was fetched has no epoch of its own.
        let own = if name.leader_epoch < 0 {
            epoch
        } else {
            name.leader_epoch
        };
        if own < epoch {
            continue;
        }
        if let Some(last) = links.last_mut() {
            let redundant = own == epoch && name.end <= last.range.end;
            if redundant {
                continue;
            }
            last.range.end = last.range.end.min(name.start);
        }
        epoch = own;
        links.push(Link { name, range: whole });
    }
    links
}

/// What `links` leave out of `wanted`.
pub fn uncovered(links: &[Link], wanted: OffsetRange) -> Vec<OffsetRange> {
    let mut holes = Vec::new();
    let mut at = wanted.start;
    for link in links {
        if link.range.start >= wanted.end {
            break;
        }
        if link.range.start > at {
            holes.push(OffsetRange {
                start: at,
                end: link.range.start,
            });
        }
        at = at.max(link.range.end);
    }
    if at < wanted.end {
        holes.push(OffsetRange {
            start: at,
            end: wanted.end,
        });
    }
    holes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment(start: i64, end: i64, leader_epoch: i32) -> SegmentName {
        SegmentName {
            start,
            end,
            leader_epoch,
            records: 0,
            max_timestamp: -1,
            crc32c: 0,
        }
    }

    fn ranges(segments: &[(i64, i64, i32)]) -> Vec<(i64, i64, i32)> {
        let names = segments
            .iter()
            .map(|(s, e, epoch)| segment(*s, *e, *epoch))
            .collect();
        chain(names)
            .iter()
            .map(|l| (l.range.start, l.range.end, l.name.leader_epoch))
            .collect()
    }

    #[test]
    fn overlaps_and_dead_ends_are_resolved() {
        let cases: [(&[(i64, i64, i32)], &[(i64, i64, i32)]); 9] = [
            (&[(0, 10, 1), (10, 20, 1)], &[(0, 10, 1), (10, 20, 1)]),
            // the same range twice, in whatever sizes
            (
                &[(0, 10, 1), (0, 5, 1), (5, 20, 1)],
                &[(0, 5, 1), (5, 20, 1)],
            ),
            (&[(0, 100, 1), (20, 30, 1)], &[(0, 100, 1)]),
            // truncated by an unclean election at 80: the new leader's records win from there
            (&[(0, 100, 5), (80, 90, 6)], &[(0, 80, 5), (80, 90, 6)]),
            (&[(80, 100, 5), (80, 90, 6)], &[(80, 90, 6)]),
            // a zombie's segment of the old epoch
            (
                &[(80, 90, 6), (85, 100, 5), (90, 130, 6)],
                &[(80, 90, 6), (90, 130, 6)],
            ),
            // a hole stays a hole
            (&[(0, 10, 1), (20, 30, 1)], &[(0, 10, 1), (20, 30, 1)]),
            // nothing fetched: inherits the epoch
            (
                &[(0, 10, 3), (10, 20, -1), (20, 30, 3)],
                &[(0, 10, 3), (10, 20, -1), (20, 30, 3)],
            ),
            (&[(5, 5, 1)], &[]),
        ];
        for (segments, expected) in cases {
            assert_eq!(ranges(segments), expected, "{segments:?}");
        }
    }

    #[test]
    fn uncovered_ranges_are_what_is_left_to_fetch() {
        let links = chain(vec![segment(10, 20, 1), segment(30, 40, 1)]);
        let holes = |start, end| {
            uncovered(&links, OffsetRange { start, end })
                .iter()
                .map(|r| (r.start, r.end))
                .collect::<Vec<_>>()
        };
        assert_eq!(holes(0, 50), [(0, 10), (20, 30), (40, 50)]);
        assert_eq!(holes(12, 35), [(20, 30)]);
        assert_eq!(holes(15, 18), []);
        assert_eq!(holes(20, 20), []);
    }

    proptest! {
        #[test]
        fn links_never_overlap_and_one_epoch_loses_nothing(
            cuts in prop::collection::vec((0i64..60, 1i64..30), 1..20), epochs in any::<bool>()
        ) {
            let names: Vec<_> = cuts.iter().enumerate()
                .map(|(i, (s, n))| segment(*s, s + n, if epochs { (i % 3) as i32 } else { 1 })).collect();
            let links = chain(names.clone());
            for pair in links.windows(2) {
                prop_assert!(pair[0].range.end <= pair[1].range.start);
                prop_assert!(pair[0].name.leader_epoch <= pair[1].name.leader_epoch);
            }
            for link in &links {
                prop_assert!(link.name.start <= link.range.start && link.range.end <= link.name.end && !link.range.is_empty());
            }
            if !epochs {
                for offset in 0..100 {
                    let held = names.iter().any(|n| (n.start..n.end).contains(&offset));
                    let counted = links.iter().any(|l| (l.range.start..l.range.end).contains(&offset));
                    prop_assert_eq!(held, counted, "offset {}", offset);
                }
            }
        }
    }
}
