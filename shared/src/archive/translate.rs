//! Committed offsets of a source partition as offsets of the partition that its records were restored to.
//!
//! A committed offset is the next record to read. It becomes the target offset of the first restored record at or after it.
//! Target offsets have no holes, so that this is the base offset plus the number of restored records before it: the run that
//! it lies in tells, and where that run has holes the records of one source batch have to be counted.
//!
//! # Guarantees
//! - The runs of an [`OffsetMap`] ascend in the source and follow one another in the target without a hole; else [`MapError`].
//! - A greater committed offset never becomes a smaller target offset.
//! - A translation without [`Inexact`] is exact: the next record that a consumer gets in the target is the first one at or
//!   after the committed offset that the source would have given it, of those that the restore was asked for. Nothing that was
//!   there to be read lies between. That holds in the holes that Kafka itself makes, where a consumer of the source gets no
//!   record either: compaction, aborted transactions, control records. It holds at bounds of time, too: what lies outside of
//!   them was left out because somebody asked for it, and is nobody's loss. At the end of what was restored it means that the
//!   group has read all of it.
//! - Where records may be missing that the group had still to read, or was given already and cannot find again, the reason is
//!   told.
//!
//! # Assumptions
//! - Runs are those of one source partition, all of whose records went to one target partition.
//! - No gap lies inside of a run: gaps are between segments.

use std::fmt;

use super::chain::OffsetRange;
use super::restore::OffsetRun;

/// Where the records of a source partition are in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetMap {
    range: OffsetRange,
    gaps: Vec<OffsetRange>,
    base_offset: i64,
    runs: Vec<OffsetRun>,
}

/// A run that does not follow those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a run of source offsets within {source_start} to {source_end} from target offset {target} on, \
     found {} records of offsets {} to {} from {} on", found.records, found.start, found.end, found.target
)]
pub struct MapError {
    /// The lowest source offset that it may have.
    pub source_start: i64,
    /// The end of the restored source offsets.
    pub source_end: i64,
    /// The target offset that it must have.
    pub target: i64,
    /// The run.
    pub found: OffsetRun,
}

/// Where a consumer of the target goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// The target offset of the next record to read.
    pub offset: i64,
    /// Why it is not the very place; `None`: it is, see [the module](self).
    pub inexact: Option<Inexact>,
}

/// Why a translation is not exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inexact {
    /// The records from the committed offset up to `start` were gone from the source's log, or were not asked for.
    BelowStart {
        /// First source offset that was restored.
        start: i64,
    },
    /// The group had read further than the backup goes: its next record is the first one that is written after the restore.
    BeyondEnd {
        /// The source offset after the last one that was restored.
        end: i64,
    },
    /// The backup tells that it could not capture these source offsets, at or after the committed one.
    Gap(OffsetRange),
}

impl fmt::Display for Inexact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BelowStart { start } => {
                write!(
                    f,
                    "records before source offset {start} are not in the restore"
                )
            }
            Self::BeyondEnd { end } => write!(
                f,
                "the group had read further than the backup goes, which ends at source offset {end}"
            ),
            Self::Gap(OffsetRange { start, end }) => write!(
                f,
                "source offsets {start} to {end} were gone before the backup could capture them"
            ),
        }
    }
}

/// What the runs tell of a committed offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Translation {
    /// Its place.
    Known(Translated),
    /// It lies inside of a run with holes, which is of one source batch: [`OffsetMap::counted`] takes the number of restored
    /// records of this run before it.
    Within(OffsetRun),
}

impl OffsetMap {
    /// A map for the source offsets of `range`, of which the backup could not capture `gaps`; the first record stands at
    /// `base_offset` in the target. [`push`](Self::push) adds the runs.
    pub fn new(range: OffsetRange, gaps: Vec<OffsetRange>, base_offset: i64) -> Self {
        Self {
            range,
            gaps,
            base_offset,
            runs: Vec::new(),
        }
    }

    /// Adds the next run.
    ///
    /// # Errors
    /// It is not the next one: something is missing, or is not of this partition.
    pub fn push(&mut self, run: OffsetRun) -> Result<(), MapError> {
        let last_end = self.runs.last().map(|last| last.end);
        let source_start = last_end.unwrap_or(self.range.start);
        let target = self.end();
        let in_order = source_start <= run.start && run.start < run.end;
        let fits = run.end <= self.range.end && run.target == target;
        if !in_order || !fits || run.records > offsets(&run) {
            return Err(MapError {
                source_start,
                source_end: self.range.end,
                target,
                found: run,
            });
        }
        self.runs.push(run);
        Ok(())
    }

    /// Records that the runs have.
    pub fn records(&self) -> u64 {
        (self.end() - self.base_offset).unsigned_abs()
    }

    /// The place of a committed offset.
    pub fn translate(&self, committed: i64) -> Translation {
        let OffsetRange { start, end } = self.range;
        let inexact = |offset, inexact| {
            Translation::Known(Translated {
                offset,
                inexact: Some(inexact),
            })
        };
        if committed < start {
            return inexact(self.base_offset, Inexact::BelowStart { start });
        }
        if committed > end {
            return inexact(self.end(), Inexact::BeyondEnd { end });
        }
        match self.last_before(committed) {
            Some(run) if committed < run.end && run.records == offsets(run) => {
                Translation::Known(self.placed(committed, run.target + (committed - run.start)))
            }
            Some(run) if committed < run.end && run.records > 0 => Translation::Within(*run),
            Some(_) | None => {
                Translation::Known(self.placed(committed, self.end_before(committed)))
            }
        }
    }

    /// The place of a committed offset inside of `run`, which has `before` restored records before it.
    pub fn counted(&self, committed: i64, run: &OffsetRun, before: u64) -> Translated {
        self.placed(committed, run.target + distance(before))
    }

    fn placed(&self, committed: i64, offset: i64) -> Translated {
        // A gap counts where no restored record comes before it.
        let next = |gap: &&OffsetRange| {
            gap.end > committed && (gap.start <= committed || self.end_before(gap.start) == offset)
        };
        Translated {
            offset,
            inexact: self.gaps.iter().find(next).copied().map(Inexact::Gap),
        }
    }

    /// The last run that begins before a source offset.
    fn last_before(&self, offset: i64) -> Option<&OffsetRun> {
        let runs = self.runs.partition_point(|run| run.start < offset);
        self.runs[..runs].last()
    }

    /// Where the runs that begin before a source offset end in the target.
    fn end_before(&self, offset: i64) -> i64 {
        let last = self.last_before(offset);
        last.map_or(self.base_offset, |run| run.target + distance(run.records))
    }

    fn end(&self) -> i64 {
        self.end_before(i64::MAX)
    }
}

/// How many offsets a run covers.
fn offsets(run: &OffsetRun) -> u64 {
    (run.end - run.start).unsigned_abs()
}

/// A number of records as a distance of offsets.
fn distance(records: u64) -> i64 {
    i64::try_from(records).expect("a run has no more records than offsets")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::FORMAT_VERSION;
    use crate::archive::restore::OffsetPiece;
    use proptest::prelude::*;

    fn run(start: i64, end: i64, records: u64, target: i64) -> OffsetRun {
        OffsetRun {
            start,
            end,
            records,
            target,
        }
    }

    fn range(start: i64, end: i64) -> OffsetRange {
        OffsetRange { start, end }
    }

    fn map(range: OffsetRange, gaps: &[OffsetRange], base: i64, runs: &[OffsetRun]) -> OffsetMap {
        let mut map = OffsetMap::new(range, gaps.to_vec(), base);
        for run in runs {
            map.push(*run).unwrap();
        }
        map
    }

    fn exact(offset: i64) -> Translation {
        Translation::Known(Translated {
            offset,
            inexact: None,
        })
    }

    fn inexact(offset: i64, inexact: Inexact) -> Translation {
        Translation::Known(Translated {
            offset,
            inexact: Some(inexact),
        })
    }

    #[test]
    fn a_committed_offset_becomes_the_place_of_the_next_record() {
        // 10..20 dense, 20..30 an aborted transaction, 30..40 of which three are left, 40..45 gone, 45..50 without records.
        let runs = [
            run(10, 20, 10, 100),
            run(30, 40, 3, 110),
            run(45, 50, 0, 113),
            run(50, 52, 2, 113),
        ];
        let map = map(range(10, 60), &[], 100, &runs);
        assert_eq!(map.records(), 15);
        let below = Inexact::BelowStart { start: 10 };
        let beyond = Inexact::BeyondEnd { end: 60 };
        for (committed, expected) in [
            (0, inexact(100, below)),
            (9, inexact(100, below)),
            (10, exact(100)),
            (15, exact(105)),
            (20, exact(110)),
            (25, exact(110)),
            (30, exact(110)),
            (31, Translation::Within(runs[1])),
            (39, Translation::Within(runs[1])),
            (40, exact(113)),
            (45, exact(113)),
            (48, exact(113)),
            (51, exact(114)),
            (52, exact(115)),
            (60, exact(115)),
            (61, inexact(115, beyond)),
        ] {
            assert_eq!(map.translate(committed), expected, "{committed}");
        }
        let counted = |before| map.counted(35, &runs[1], before);
        assert_eq!((counted(0).offset, counted(3).offset), (110, 113));
    }

    #[test]
    fn nothing_restored_is_a_place_too() {
        let map = map(range(7, 7), &[], 5, &[]);
        assert_eq!(map.translate(7), exact(5));
        let below = Inexact::BelowStart { start: 7 };
        assert_eq!(map.translate(6), inexact(5, below));
        assert_eq!(map.translate(8), inexact(5, Inexact::BeyondEnd { end: 7 }));
    }

    #[test]
    fn a_gap_is_told_where_its_records_would_have_come_next() {
        let gap = range(20, 30);
        let runs = [run(10, 15, 2, 0), run(30, 35, 5, 2)];
        let map = map(range(10, 40), &[gap, range(37, 40)], 0, &runs);
        let last = Inexact::Gap(range(37, 40));
        for (committed, expected) in [
            (10, exact(0)),
            (12, Translation::Within(runs[0])),
            (15, inexact(2, Inexact::Gap(gap))),
            (20, inexact(2, Inexact::Gap(gap))),
            (29, inexact(2, Inexact::Gap(gap))),
            (30, exact(2)),
            (34, exact(6)),
            (35, inexact(7, last)),
            (40, exact(7)),
        ] {
            assert_eq!(map.translate(committed), expected, "{committed}");
        }
        // One record is still to come before the gap, or none.
        assert_eq!(map.counted(12, &runs[0], 1).inexact, None);
        assert_eq!(
            map.counted(14, &runs[0], 2).inexact,
            Some(Inexact::Gap(gap))
        );
    }

    #[test]
    fn runs_that_do_not_follow_one_another_are_refused() {
        let good = [run(10, 20, 10, 5), run(20, 30, 4, 15)];
        for bad in [
            run(30, 40, 1, 18),
            run(30, 40, 1, 20),
            run(29, 40, 1, 19),
            run(30, 30, 0, 19),
            run(30, 41, 1, 19),
            run(30, 40, 11, 19),
        ] {
            let mut map = map(range(10, 40), &[], 5, &good);
            let error = map.push(bad).unwrap_err();
            let (source_start, source_end, target, found) = (30, 40, 19, bad);
            let expected = MapError {
                source_start,
                source_end,
                target,
                found,
            };
            assert_eq!(error, expected);
        }
        let mut cut = OffsetMap::new(range(10, 40), vec![], 5);
        assert!(cut.push(run(9, 20, 1, 5)).is_err());
        assert!(cut.push(run(10, 20, 1, 6)).is_err());
    }

    #[test]
    fn each_reason_has_words() {
        for (reason, words) in [
            (Inexact::BelowStart { start: 7 }, "before source offset 7"),
            (Inexact::BeyondEnd { end: 8 }, "ends at source offset 8"),
            (Inexact::Gap(range(5, 6)), "source offsets 5 to 6 were gone"),
        ] {
            assert!(reason.to_string().contains(words), "{reason}");
        }
    }

    /// What stands at an offset of the source's log.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum At {
        Record {
            timestamp: i64,
        },
        /// Compacted away, aborted, or a control record.
        Nothing,
        /// It was there, and the backup could not capture it.
        Lost,
    }

    /// A batch: how far it is from the one before it, what it holds, and whether a new segment begins with it.
    #[derive(Clone, Debug)]
    struct Source {
        distance: usize,
        timestamps: Vec<Option<i64>>,
        aborted: bool,
        lost: bool,
        new_segment: bool,
    }

    /// A log, what was restored of it, and where to.
    #[derive(Clone, Debug)]
    struct History {
        log: Vec<At>,
        /// Of batches that the archive has.
        batches: Vec<(OffsetRange, bool)>,
        gaps: Vec<OffsetRange>,
        range: OffsetRange,
        time: (i64, i64),
        base_offset: i64,
    }

    impl History {
        fn survives(&self, offset: i64) -> bool {
            let OffsetRange { start, end } = self.range;
            let (oldest, newest) = self.time;
            (start..end).contains(&offset)
                && matches!(self.log[offset as usize], At::Record { timestamp }
                    if (oldest..=newest).contains(&timestamp))
        }

        fn survivors(&self, start: i64, end: i64) -> impl Iterator<Item = i64> + '_ {
            (start..end.min(self.log.len() as i64)).filter(|offset| self.survives(*offset))
        }

        /// The runs as a restore stores them: a piece per segment, with what is left of each batch.
        fn pieces(&self) -> Vec<OffsetPiece> {
            let mut pieces: Vec<OffsetPiece> = Vec::new();
            let mut target = self.base_offset;
            for (batch, new_segment) in &self.batches {
                if *new_segment || pieces.is_empty() {
                    pieces.push(OffsetPiece {
                        format_version: FORMAT_VERSION,
                        target_partition: 0,
                        runs: vec![],
                    });
                }
                let start = batch.start.max(self.range.start);
                let end = batch.end.min(self.range.end);
                let records = self.survivors(start, end).count() as u64;
                if records > 0 {
                    let piece = pieces.last_mut().unwrap();
                    piece.push(run(start, end, records, target));
                    target += records as i64;
                }
            }
            pieces
        }

        /// The first record to read, or the end, by walking all of them.
        fn walked(&self, committed: i64) -> Translated {
            let OffsetRange { start, end } = self.range;
            let offset = self.base_offset + self.survivors(0, committed).count() as i64;
            let next = self.survivors(committed, end).next().unwrap_or(end);
            let lost = |offset: &i64| self.log[*offset as usize] == At::Lost;
            let inexact = match committed {
                below if below < start => Some(Inexact::BelowStart { start }),
                beyond if beyond > end => Some(Inexact::BeyondEnd { end }),
                within => (within..next).find(lost).map(|lost| {
                    let gap = self.gaps.iter().find(|gap| gap.end > lost);
                    Inexact::Gap(*gap.unwrap())
                }),
            };
            Translated { offset, inexact }
        }

        fn translated(&self, map: &OffsetMap, committed: i64) -> Translated {
            match map.translate(committed) {
                Translation::Known(known) => known,
                Translation::Within(run) => {
                    assert!(run.start < committed && committed < run.end);
                    let before = self.survivors(run.start, committed).count() as u64;
                    map.counted(committed, &run, before)
                }
            }
        }
    }

    fn histories() -> impl Strategy<Value = History> {
        let timestamps = prop::collection::vec(prop::option::weighted(0.7, 0i64..20), 1..6);
        let batch = (0usize..3, timestamps, 0..6, 0..8, any::<bool>()).prop_map(
            |(distance, timestamps, aborted, lost, new_segment)| Source {
                distance,
                timestamps,
                aborted: aborted == 0,
                lost: lost == 0,
                new_segment,
            },
        );
        let batches = prop::collection::vec(batch, 0..12);
        let cut = (0.0..1.0f64, prop::bool::weighted(0.7));
        let time = (0i64..10, 5i64..20, 0..3);
        (batches, cut, time, 0i64..1000).prop_map(|(sources, (cut, wide), time, base_offset)| {
            let (mut log, mut batches, mut gaps) = (vec![], vec![], Vec::<OffsetRange>::new());
            for source in sources {
                log.extend(vec![At::Nothing; source.distance]);
                let start = log.len() as i64;
                let count = source.timestamps.len();
                let batch = range(start, start + count as i64);
                if source.lost {
                    log.extend(vec![At::Lost; count]);
                    match gaps.last_mut() {
                        Some(last) if last.end == start => last.end = batch.end,
                        _ => gaps.push(batch),
                    }
                    continue;
                }
                let at = |timestamp: Option<i64>| match timestamp {
                    Some(timestamp) if !source.aborted => At::Record { timestamp },
                    _ => At::Nothing,
                };
                log.extend(source.timestamps.iter().map(|timestamp| at(*timestamp)));
                batches.push((batch, source.new_segment));
            }
            let end = log.len() as i64;
            let start = if wide { 0 } else { (end as f64 * cut) as i64 };
            for gap in &mut gaps {
                gap.start = gap.start.max(start);
            }
            gaps.retain(|gap| !gap.is_empty());
            History {
                log,
                batches,
                gaps,
                range: range(start, end),
                time: match time {
                    (_, newest, 0) => (i64::MIN, newest),
                    (oldest, newest, 1) => (oldest, newest),
                    _ => (i64::MIN, i64::MAX),
                },
                base_offset,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_committed_offset_is_where_a_walk_through_all_records_finds_it(history in histories()) {
            let mut map = OffsetMap::new(history.range, history.gaps.clone(), history.base_offset);
            for run in history.pieces().iter().flat_map(|piece| &piece.runs) {
                map.push(*run).unwrap();
            }
            prop_assert_eq!(map.records(), history.survivors(0, i64::MAX).count() as u64);
            let mut before = i64::MIN;
            for committed in 0..history.log.len() as i64 + 3 {
                let found = history.translated(&map, committed);
                prop_assert_eq!(found, history.walked(committed), "committed {}", committed);
                prop_assert!(before <= found.offset);
                before = found.offset;
            }
        }
    }
}
