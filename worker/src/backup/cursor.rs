//! Where the fetch of a hole stands.

use std::time::Duration;

use kafka_backup_shared::archive::chain::OffsetRange;
use tokio::time::Instant;

use super::recode::Recoder;
use super::segment::OpenSegment;
use super::work::{Hole, PartitionWork};
use crate::kafka::LedPartition;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Where a partition's fetch stands.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) work: &'a PartitionWork,
    pub(super) range: OffsetRange,
    pub(super) position: i64,
    pub(super) last_epoch: i32,
    pub(super) leader: i32,
    pub(super) leader_epoch: i32,
    pub(super) fetch_bytes: usize,
    pub(super) open: OpenSegment,
    /// Where batches are encoded anew; away while it is at work.
    pub(super) recoder: Option<Recoder>,
    progressed: Instant,
    pause: Duration,
    /// Where a CRC was wrong, to fail when it is wrong again.
    pub(super) corrupt_at: Option<i64>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(
        work: &'a PartitionWork,
        hole: Hole,
        (leader, leader_epoch): (i32, i32),
        fetch_bytes: usize,
    ) -> Self {
        Self {
            work,
            range: hole.range,
            position: hole.range.start,
            last_epoch: hole.last_epoch,
            leader,
            leader_epoch,
            fetch_bytes,
            open: OpenSegment::new(hole.range.start),
            recoder: None,
            progressed: Instant::now(),
            pause: FIRST_PAUSE,
            corrupt_at: None,
        }
    }

    pub(super) fn passed(&mut self, position: i64, epoch: i32) {
        if position > self.position {
            self.position = position;
            self.last_epoch = epoch;
            self.progress();
        }
    }

    /// Time that went by on purpose is no time without progress.
    pub(super) fn waited(&mut self, time: Duration) {
        self.progressed += time;
    }

    pub(super) fn progress(&mut self) {
        self.progressed = Instant::now();
        self.pause = FIRST_PAUSE;
    }

    pub(super) fn led(&self) -> LedPartition {
        LedPartition {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            ..self.work.led.clone()
        }
    }

    /// For how long there was no progress.
    pub(super) fn stuck(&self) -> Duration {
        self.progressed.elapsed()
    }

    /// How long to wait before the next attempt; longer each time without progress.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        pause
    }
}
