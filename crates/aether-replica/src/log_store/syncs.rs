//! How long syncs of the log take: a histogram of bounded size over the last
//! half to whole minute.

use std::time::{Duration, Instant};

/// Figures are over the present half minute and the one before it.
const HALF: Duration = Duration::from_secs(30);
/// Classes for each doubling: a figure is at most a fifth too high.
const PER_DOUBLING: u32 = 4;
/// From 1 us to 67 s; what takes longer counts as that.
const DOUBLINGS: u32 = 26;
const CLASSES: usize = (DOUBLINGS * PER_DOUBLING) as usize;

/// What came of the latest syncs.
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

struct Generation {
    counts: [u32; CLASSES],
    max_us: u64,
}

impl Generation {
    const EMPTY: Self = Self { counts: [0; CLASSES], max_us: 0 };
}

pub(super) struct Syncs {
    now: Generation,
    before: Generation,
    since: Instant,
}

impl Syncs {
    pub fn new(at: Instant) -> Self {
        Self { now: Generation::EMPTY, before: Generation::EMPTY, since: at }
    }

    fn turn(&mut self, at: Instant) {
        let halves = at.saturating_duration_since(self.since).as_nanos() / HALF.as_nanos();
        if halves == 0 {
            return;
        }
        let last = std::mem::replace(&mut self.now, Generation::EMPTY);
        self.before = if halves == 1 { last } else { Generation::EMPTY };
        self.since = at;
    }

    pub fn note(&mut self, at: Instant, took: Duration) {
        self.turn(at);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.now.max_us = self.now.max_us.max(us);
        let count = &mut self.now.counts[class(us)];
        *count = count.saturating_add(1);
    }

    pub fn figures(&mut self, at: Instant) -> SyncFigures {
        self.turn(at);
        let both = self.now.counts.iter().zip(&self.before.counts);
        let counts: Vec<u64> = both.map(|(a, b)| u64::from(*a) + u64::from(*b)).collect();
        let count: u64 = counts.iter().sum();
        let max_us = self.now.max_us.max(self.before.max_us);
        let quantile = |per_cent: u64| {
            let wanted = (count * per_cent).div_ceil(100);
            let mut seen = 0;
            let at = counts.iter().position(|count| {
                seen += count;
                seen >= wanted
            });
            at.map_or(0, upper_us).min(max_us)
        };
        SyncFigures { count, p50_us: quantile(50), p99_us: quantile(99), max_us }
    }
}

/// The class of a time: which doubling, and which quarter of it.
fn class(us: u64) -> usize {
    let us = us.max(1);
    let doubling = us.ilog2();
    let below = us - (1 << doubling);
    let quarter = (u128::from(below) * u128::from(PER_DOUBLING)) >> doubling;
    ((doubling * PER_DOUBLING) as usize + quarter as usize).min(CLASSES - 1)
}

/// The longest time in a class.
fn upper_us(class: usize) -> u64 {
    let (doubling, quarter) = (class as u32 / PER_DOUBLING, class as u64 % u64::from(PER_DOUBLING));
    (1 << doubling) + (((quarter + 1) << doubling) / u64::from(PER_DOUBLING))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_hold_their_times_and_are_narrow() {
        for us in (0..2_000).chain([1 << 20, 1 << 25]) {
            let upper = upper_us(class(us));
            assert!(upper >= us && upper <= us + us / 4 + 2, "{us}: up to {upper}");
        }
        assert_eq!(class(u64::MAX), CLASSES - 1);
    }

    #[test]
    fn figures_are_of_the_last_minute_only() {
        let start = Instant::now();
        let mut syncs = Syncs::new(start);
        assert_eq!(syncs.figures(start), SyncFigures::default());
        for ms in 1..=100 {
            syncs.note(start, Duration::from_millis(ms));
        }
        let seen = syncs.figures(start + HALF);
        assert_eq!((seen.count, seen.max_us), (100, 100_000));
        assert!((50_000..=62_500).contains(&seen.p50_us), "{seen:?}");
        assert!((99_000..=100_000).contains(&seen.p99_us), "{seen:?}");
        syncs.note(start + HALF, Duration::from_millis(1));
        assert_eq!(syncs.figures(start + HALF).count, 101);
        assert_eq!(syncs.figures(start + 2 * HALF).count, 1);
        assert_eq!(syncs.figures(start + 9 * HALF), SyncFigures::default());
    }
}
