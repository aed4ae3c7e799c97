//! Two judges as they are common, for comparison.

use std::collections::{BTreeMap, VecDeque};

use aether_core::evidence::Tallies;
use aether_core::health::{self, Tally};
use aether_core::latency;
use aether_core::records::Thresholds;

use crate::sampler::normal_above;
use crate::traffic::{P99_THRESHOLD_MS, Second};

/// A threshold over the new version's last ten seconds, at a hundred requests
/// at least. Its thresholds are those of somebody who knows the service: twice
/// its usual error rate, and one and a half times its usual p99.
pub struct Threshold {
    thresholds: Thresholds,
    /// Requests, errors, and requests beyond the p99 threshold, by second.
    window: VecDeque<(u64, u64, u64)>,
}

impl Threshold {
    pub fn new(usual_errors: f64) -> Self {
        let thresholds = Thresholds {
            error_rate_ppm: (usual_errors * 2e6) as u32,
            p99_ms: P99_THRESHOLD_MS,
            requests_min: 100,
        };
        Self { thresholds, window: VecDeque::new() }
    }

    /// Whether it would roll back after this second.
    pub fn rolls_back(&mut self, second: &Second) -> bool {
        let new = second.tallies.new;
        self.window.push_back((new.requests, new.errors, second.late));
        if self.window.len() > 10 {
            self.window.pop_front();
        }
        let sum = |of: fn(&(u64, u64, u64)) -> u64| self.window.iter().map(of).sum::<u64>();
        let (requests, late) = (sum(|s| s.0), sum(|s| s.2));
        if requests < self.thresholds.requests_min {
            // What the judge of thresholds calls insufficient.
            return false;
        }
        let beyond = latency::bucket_of(u64::from(P99_THRESHOLD_MS) * 1_500);
        let buckets = [(0, requests - late), (beyond, late)];
        let tally = Tally {
            requests,
            errors: sum(|s| s.1),
            latency_sum_us: 0,
            buckets: buckets.into_iter().filter(|(_, count)| *count > 0).collect(),
        };
        matches!(health::judge(&tally, &self.thresholds), health::Verdict::Exceeded { .. })
    }
}

/// The test by which Kayenta compares a metric: Mann and Whitney's, of all
/// per-second rates since the beginning, at 98 % confidence, once a minute.
/// Worse in errors or in slow requests fails it.
#[derive(Default)]
pub struct MannWhitney {
    seconds: u64,
    errors: Ranks,
    slow: Ranks,
}

impl MannWhitney {
    /// Whether it would roll back after this second.
    pub fn rolls_back(&mut self, tallies: &Tallies) -> bool {
        for (is_new, side) in [(true, tallies.new), (false, tallies.old)] {
            if side.requests > 0 {
                self.errors.add(is_new, side.errors as f64 / side.requests as f64);
                self.slow.add(is_new, side.slow as f64 / side.requests as f64);
            }
        }
        self.seconds += 1;
        self.seconds.is_multiple_of(60) && (self.errors.is_higher() || self.slow.is_higher())
    }
}

/// How often each value was seen: new, old. Values are not negative, so that
/// their bits have their order; most are zero, and those are counted apart.
#[derive(Default)]
struct Ranks {
    zero: (u64, u64),
    above: BTreeMap<u64, (u64, u64)>,
}

impl Ranks {
    fn add(&mut self, is_new: bool, value: f64) {
        let seen = match value > 0.0 {
            true => self.above.entry(value.to_bits()).or_default(),
            false => &mut self.zero,
        };
        if is_new { seen.0 += 1 } else { seen.1 += 1 }
    }

    /// Whether the new side's values are higher, at 2 % two-sided: with mid-ranks,
    /// by the normal approximation with its correction for ties.
    fn is_higher(&self) -> bool {
        let (mut new, mut old, mut wins, mut ties) = (0.0, 0.0, 0.0, 0.0);
        for (of_new, of_old) in std::iter::once(&self.zero).chain(self.above.values()) {
            let (of_new, of_old) = (*of_new as f64, *of_old as f64);
            wins += of_new * (old + of_old / 2.0);
            new += of_new;
            old += of_old;
            ties += (of_new + of_old).powi(3) - (of_new + of_old);
        }
        let all: f64 = new + old;
        if new < 1.0 || old < 1.0 {
            return false;
        }
        let variance = new * old / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
        let excess = wins - new * old / 2.0 - 0.5;
        variance > 0.0 && normal_above(excess / variance.sqrt()) < 0.01
    }
}

#[test]
fn mann_whitney_tells_higher_from_alike() {
    let mut ranks = Ranks::default();
    (0..40).for_each(|k| ranks.add(k % 2 == 0, f64::from(k / 2)));
    assert!(!ranks.is_higher(), "the same values on both sides");
    (0..20).for_each(|k| ranks.add(true, 15.0 + f64::from(k)));
    assert!(ranks.is_higher());
}

#[test]
fn a_threshold_over_ten_seconds_says_nothing_of_two_requests_a_second() {
    let second = |requests, errors| Second {
        tallies: Tallies {
            new: aether_core::evidence::Side { requests, errors, timed: requests, slow: 0 },
            ..Tallies::default()
        },
        late: 0,
    };
    let mut judge = Threshold::new(0.01);
    assert!((0..100).all(|_| !judge.rolls_back(&second(2, 2))));
    assert!(judge.rolls_back(&second(100, 50)));
}
