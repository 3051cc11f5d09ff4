//! How fast a run may go: so many bytes and so many records per second, over all its lanes together.
//!
//! # Guarantees
//! - Over any ten seconds no more goes through than the limits allow, but for 5 percent, as long as record batches are no
//!   larger than what a quarter of a second permits: whole batches are the least that can be asked for.
//! - What was taken and not used is given back.
//!
//! # Assumptions
//! - Whoever asks takes an estimate first and tells afterwards what it was, so that several lanes cannot all begin at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_backup_shared::spec::RateLimit;
use tokio::time::Instant;

/// What is asked for at once, in seconds of the limit.
const PORTION_SECONDS: f64 = 0.25;
/// What may be made up for after a pause: timers are late, answers slow.
const CREDIT_SECONDS: f64 = 0.25;
/// The least that is asked for: smaller requests would cost the broker more than they spare it.
const LEAST: usize = 16 << 10;

/// The limits of a run; without any, nothing is ever held up.
#[derive(Debug)]
pub struct Rate {
    started: Instant,
    state: Mutex<State>,
}

/// A permission, until it is [settled](Taken::settle) or given back by dropping it.
#[derive(Debug)]
pub struct Taken {
    rate: Arc<Rate>,
    amount: Amount,
}

impl Rate {
    /// Starts counting now.
    pub fn new(limit: Option<RateLimit>) -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::new(State::new(limit)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes to ask for at once, where `usual` is asked for without a limit.
    pub fn portion(&self, usual: usize) -> usize {
        self.state().portion(usual)
    }

    /// Permission for about `bytes`.
    ///
    /// # Errors
    /// When to ask again.
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Result<Taken, Instant> {
        let now = self.started.elapsed().as_secs_f64();
        let taken = self.state().try_take(bytes, now);
        let amount = taken.map_err(|later| self.started + Duration::from_secs_f64(later))?;
        Ok(Taken {
            rate: self.clone(),
            amount,
        })
    }
}

impl Taken {
    /// Says what came of it.
    pub fn settle(self, bytes: usize, records: u64) {
        // The estimate is given back by dropping `self`.
        self.rate.state().saw(bytes, records);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.rate.state().pay(self.amount, -1.0);
    }
}

#[derive(Clone, Copy, Debug)]
struct Amount {
    bytes: f64,
    records: f64,
}

/// Times are seconds since the start.
#[derive(Debug)]
struct State {
    bytes: Option<Bucket>,
    records: Option<Bucket>,
    seen: Amount,
}

/// A limit, and the time at which all that was taken is paid for.
#[derive(Debug)]
struct Bucket {
    per_second: f64,
    paid_at: f64,
}

impl State {
    fn new(limit: Option<RateLimit>) -> Self {
        let bucket = |per_second: Option<u64>| {
            per_second.map(|per_second| Bucket {
                per_second: per_second as f64,
                paid_at: 0.0,
            })
        };
        Self {
            bytes: bucket(limit.and_then(|limit| limit.bytes_per_second)),
            records: bucket(limit.and_then(|limit| limit.records_per_second)),
            seen: Amount {
                bytes: 0.0,
                records: 0.0,
            },
        }
    }

    fn buckets(&mut self) -> impl Iterator<Item = &mut Bucket> {
        [&mut self.bytes, &mut self.records].into_iter().flatten()
    }

    fn portion(&self, usual: usize) -> usize {
        let by_bytes = self.bytes.as_ref().map(Bucket::portion);
        // 0, and so the least, before the first records were seen.
        let record_bytes = self.seen.bytes / self.seen.records.max(1.0);
        let by_records = self.records.as_ref().map(|b| b.portion() * record_bytes);
        let portions = [by_bytes, by_records].into_iter().flatten();
        portions
            .map(|bytes| (bytes as usize).max(LEAST))
            .fold(usual, usize::min)
    }

    fn try_take(&mut self, bytes: usize, now: f64) -> Result<Amount, f64> {
        let paid_at = self.buckets().map(|b| b.paid_at).fold(0.0, f64::max);
        if paid_at > now {
            return Err(paid_at);
        }
        // What was not used until then is lost: nobody saves up for a burst.
        let since = now - CREDIT_SECONDS;
        self.buckets()
            .for_each(|b| b.paid_at = b.paid_at.max(since));
        let bytes = bytes as f64;
        let records = match self.seen.bytes > 0.0 {
            true => bytes * self.seen.records / self.seen.bytes,
            false => self.records.as_ref().map_or(0.0, Bucket::portion),
        };
        let amount = Amount { bytes, records };
        self.pay(amount, 1.0);
        Ok(amount)
    }

    fn saw(&mut self, bytes: usize, records: u64) {
        let amount = Amount {
            bytes: bytes as f64,
            records: records as f64,
        };
        self.seen.bytes += amount.bytes;
        self.seen.records += amount.records;
        self.pay(amount, 1.0);
    }

    fn pay(&mut self, amount: Amount, sign: f64) {
        for (bucket, amount) in [
            (&mut self.bytes, amount.bytes),
            (&mut self.records, amount.records),
        ] {
            if let Some(bucket) = bucket {
                bucket.paid_at += sign * amount / bucket.per_second;
            }
        }
    }
}

impl Bucket {
    fn portion(&self) -> f64 {
        self.per_second * PORTION_SECONDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANES: usize = 4;

    fn state(bytes: Option<u64>, records: Option<u64>) -> State {
        State::new(Some(RateLimit {
            bytes_per_second: bytes,
            records_per_second: records,
        }))
    }

    /// An answer: when, bytes, records.
    type Answer = (f64, f64, f64);

    /// Four lanes that fetch for a minute whatever they may, answers taking 3 ms each.
    fn fetch(state: &mut State, record: usize) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut lanes: [(f64, Option<(usize, Amount)>); LANES] = [(0.0, None); LANES];
        loop {
            let lane = lanes.iter_mut().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            let now = lane.0;
            if now > 60.0 {
                return answers;
            }
            *lane = match lane.1.take() {
                Some((asked, taken)) => {
                    state.saw(asked, (asked / record) as u64);
                    state.pay(taken, -1.0);
                    answers.push((now, asked as f64, (asked / record) as f64));
                    (now, None)
                }
                None => {
                    let asked = state.portion(2 << 20);
                    match state.try_take(asked, now) {
                        Ok(taken) => (now + 0.003, Some((asked, taken))),
                        Err(later) => (later, None),
                    }
                }
            };
        }
    }

    /// The least and the most that came within any ten seconds, from the very first on.
    fn windows(answers: &[Answer], of: fn(&Answer) -> f64) -> (f64, f64) {
        let sums = (0..50).map(|start| {
            let window = f64::from(start)..f64::from(start + 10);
            let within = answers.iter().filter(|(at, ..)| window.contains(at));
            within.map(of).sum::<f64>()
        });
        sums.fold((f64::MAX, 0.0), |(least, most), sum| {
            (least.min(sum), most.max(sum))
        })
    }

    #[test]
    fn lanes_together_keep_to_the_limit() {
        for limit in [100_000, 1_000_000, 50_000_000] {
            let answers = fetch(&mut state(Some(limit), None), 1000);
            let (least, most) = windows(&answers, |(_, bytes, _)| *bytes);
            let right = limit as f64 * 10.0;
            assert!(most <= 1.05 * right, "{limit} bytes: {most}");
            assert!(least >= 0.95 * right, "{limit} bytes: {least}");
        }
        for limit in [1000, 10_000, 1_000_000] {
            let answers = fetch(&mut state(None, Some(limit)), 100);
            let (least, most) = windows(&answers, |(.., records)| *records);
            let right = limit as f64 * 10.0;
            assert!(most <= 1.05 * right, "{limit} records: {most}");
            assert!(least >= 0.95 * right, "{limit} records: {least}");
        }
    }

    #[test]
    fn the_tighter_of_two_limits_holds() {
        let answers = fetch(&mut state(Some(1_000_000), Some(2000)), 100);
        assert!(windows(&answers, |(.., records)| *records).1 <= 21_000.0);
    }

    #[test]
    fn a_batch_above_the_portion_is_paid_for_afterwards() {
        let mut state = state(Some(1000), None);
        let taken = state.try_take(250, 0.0).unwrap();
        state.saw(10_000, 1);
        state.pay(taken, -1.0);
        assert!((state.try_take(250, 1.0).unwrap_err() - 10.0).abs() < 0.001);
    }

    #[test]
    fn what_was_not_used_is_given_back_and_a_pause_is_not_saved_up() {
        let rate = Arc::new(Rate::new(Some(RateLimit {
            bytes_per_second: Some(1),
            records_per_second: None,
        })));
        drop(rate.try_take(1 << 20).unwrap());
        let taken = rate.try_take(1 << 20).unwrap();
        assert!(rate.try_take(1).is_err());
        taken.settle(1 << 20, 1);
        assert!(rate.try_take(1).is_err());

        let mut state = state(Some(1000), None);
        state.try_take(1000, 3600.0).unwrap();
        assert!(state.try_take(1, 3600.5).is_err());
    }

    #[test]
    fn without_a_limit_nothing_is_held_up() {
        let rate = Arc::new(Rate::new(None));
        for _ in 0..1000 {
            assert_eq!(rate.portion(2 << 20), 2 << 20);
            rate.try_take(2 << 20).unwrap().settle(2 << 20, 1 << 20);
        }
    }
}
