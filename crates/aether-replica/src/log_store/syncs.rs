//! How long syncs of the log take: histograms of bounded size over the last half
//! to whole minute.

use std::mem;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Figures are over the present half minute and the one before it.
const HALF: Duration = Duration::from_secs(30);
/// Whatever takes longer than a minute counts as that.
const LONGEST_US: u64 = 60_000_000;
/// Digits that figures are right to.
const DIGITS: u8 = 2;

/// What came of the latest syncs, right to two digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncFigures {
    /// How many there were.
    pub count: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// None took longer.
    pub max_us: u64,
}

pub(super) struct Syncs {
    now: Histogram<u32>,
    before: Histogram<u32>,
    since: Instant,
}

impl Syncs {
    pub fn new(at: Instant) -> Self {
        let empty = Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("sound bounds");
        Self { now: empty.clone(), before: empty, since: at }
    }

    fn turn(&mut self, at: Instant) {
        let halves = at.saturating_duration_since(self.since).as_nanos() / HALF.as_nanos();
        if halves == 0 {
            return;
        }
        mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
        if halves > 1 {
            self.before.reset();
        }
        self.since = at;
    }

    pub fn note(&mut self, at: Instant, took: Duration) {
        self.turn(at);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.now.saturating_record(us);
    }

    pub fn figures(&mut self, at: Instant) -> SyncFigures {
        self.turn(at);
        let mut both = self.now.clone();
        both.add(&self.before).expect("both have the same bounds");
        SyncFigures {
            count: both.len(),
            p50_us: both.value_at_quantile(0.5),
            p99_us: both.value_at_quantile(0.99),
            max_us: both.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_last_minute_only() {
        let start = Instant::now();
        let mut syncs = Syncs::new(start);
        assert_eq!(syncs.figures(start), SyncFigures::default());
        for ms in 1..=100 {
            syncs.note(start, Duration::from_millis(ms));
        }
        let seen = syncs.figures(start + HALF);
        assert_eq!(seen.count, 100);
        assert!((50_000..=51_000).contains(&seen.p50_us), "{seen:?}");
        assert!((99_000..=100_000).contains(&seen.p99_us), "{seen:?}");
        assert!((100_000..=101_000).contains(&seen.max_us), "{seen:?}");
        syncs.note(start + HALF, Duration::from_millis(1));
        assert_eq!(syncs.figures(start + HALF).count, 101);
        assert_eq!(syncs.figures(start + 2 * HALF).count, 1);
        assert_eq!(syncs.figures(start + 9 * HALF), SyncFigures::default());
    }

    #[test]
    fn what_takes_for_ever_counts_as_the_longest() {
        let start = Instant::now();
        let mut syncs = Syncs::new(start);
        syncs.note(start, Duration::MAX);
        assert!(syncs.figures(start).max_us >= LONGEST_US);
    }
}
