//! When a five-field cron line is due in a time zone, read as a Kubernetes CronJob reads it.
//!
//! The line is parsed in [`line`], since the `cron` crate speaks another dialect (seconds, Sunday = 1, day of month AND day of
//! week); the crate gets explicit lists and does the calendar, in local time. Zones are the IANA database that is compiled in.
//!
//! # Guarantees
//! - Where the hour field names hours one by one, each local time counts once: one that happens twice when clocks are set
//!   back, at its first instant; one that is skipped when they are set forward, at the instant of the change. Local times that
//!   fall on one instant are one tick.
//! - With a wildcard, a range or a step in the hour field every instant counts at which the local clock shows what the line
//!   says.
//! - A CronJob differs: it leaves out a local time that is skipped, and runs twice at one that happens twice.

pub(crate) mod admission;
mod line;

use chrono::{DateTime, Utc};
use jiff::civil;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use self::line::{Line, error};
use crate::plan::SpecError;

/// A parsed cron line and its zone.
#[derive(Clone, Debug)]
pub struct Schedule {
    either: Vec<cron::Schedule>,
    has_fixed_hours: bool,
    zone: TimeZone,
}

impl Schedule {
    /// Parses a line, and finds the zone of that IANA name; UTC where there is none.
    ///
    /// # Errors
    /// [`SpecError`] at `spec.schedule`: not five fields, a value out of range, or a date that never comes; at
    /// `spec.timeZone`: no zone of that name.
    pub fn parse(line: &str, zone: Option<&str>) -> Result<Self, SpecError> {
        let Line {
            either,
            has_fixed_hours,
        } = line.parse()?;
        let schedule = Self {
            either,
            has_fixed_hours,
            zone: zone.map_or(Ok(TimeZone::UTC), find_zone)?,
        };
        if schedule
            .next_local(civil::date(1970, 1, 1).into())
            .is_none()
        {
            return Err(error(
                "a date that exists",
                format!("{line:?}, which is never due"),
            ));
        }
        Ok(schedule)
    }

    /// The first tick after `at`; `None` when there is none before the calendar ends.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        if self.has_fixed_hours {
            return self.next_local_once(at);
        }
        self.next_instant(at)
    }

    /// The longest time between two neighbours of `at` and the `ticks` ticks after it; `None` where there is none of them.
    pub fn longest_wait_after(&self, at: Timestamp, ticks: usize) -> Option<SignedDuration> {
        let next = std::iter::successors(Some(at), |tick| self.next_after(*tick));
        let next: Vec<Timestamp> = next.take(ticks + 1).collect();
        let waits = next.windows(2).map(|pair| pair[1].duration_since(pair[0]));
        waits.max()
    }

    /// Instants of local times grow with them, so that the first one behind `at` is the tick.
    fn next_local_once(&self, at: Timestamp) -> Option<Timestamp> {
        let mut local = self.zone.to_datetime(at);
        loop {
            local = self.next_local(local)?;
            let tick = self.instant_of(local)?;
            if tick > at {
                return Some(tick);
            }
        }
    }

    /// Within one offset from UTC instants and local times go together; at a change of it the search begins anew.
    fn next_instant(&self, at: Timestamp) -> Option<Timestamp> {
        let mut from = at;
        let mut local = self.zone.to_datetime(at);
        loop {
            let offset = self.zone.to_offset(from);
            let tick = offset.to_timestamp(self.next_local(local)?).ok()?;
            let change = self.zone.following(from).next();
            let Some(change) = change.filter(|change| change.timestamp() <= tick) else {
                return Some(tick);
            };
            from = change.timestamp();
            // The instant of the change counts itself.
            local = self
                .zone
                .to_datetime(from)
                .checked_sub(SignedDuration::from_secs(1))
                .ok()?;
        }
    }

    /// The first local time after `after` that the line means.
    fn next_local(&self, after: civil::DateTime) -> Option<civil::DateTime> {
        let after = TimeZone::UTC.to_timestamp(after).ok()?;
        let after = DateTime::<Utc>::from_timestamp(after.as_second(), 0)?;
        let tick = self
            .either
            .iter()
            .filter_map(|schedule| schedule.after(&after).next())
            .min()?;
        let tick = Timestamp::from_second(tick.timestamp()).ok()?;
        Some(TimeZone::UTC.to_datetime(tick))
    }

    /// The one instant of a local time.
    fn instant_of(&self, local: civil::DateTime) -> Option<Timestamp> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => offset.to_timestamp(local).ok(),
            AmbiguousOffset::Fold { before, .. } => before.to_timestamp(local).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // Read with the later offset, a skipped local time lies before the change.
                let before_it = after.to_timestamp(local).ok()?;
                Some(self.zone.following(before_it).next()?.timestamp())
            }
        }
    }
}

fn find_zone(name: &str) -> Result<TimeZone, SpecError> {
    TimeZone::get(name).map_err(|_| {
        SpecError::new(
            "spec.timeZone",
            "a name of the IANA time zone database, as in Europe/Berlin",
            format!("{name:?}"),
        )
    })
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
