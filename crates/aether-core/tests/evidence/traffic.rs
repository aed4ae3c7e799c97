//! Traffic of an update, second by second.

use aether_core::evidence::QUANTILE_PPM;
use aether_core::evidence::{Side, Tallies, reference_bucket};
use aether_core::health::Tally;
use aether_core::latency;

use crate::sampler::{Sampler, normal_above};

/// Median latency of the old version, microseconds, and the spread of its
/// logarithm: a p99 of about 102 ms.
const MEDIAN_US: f64 = 20_000.0;
const SPREAD: f64 = 0.7;

/// Old requests of the minutes before, from which the reference is taken.
const BEFORE_SECONDS: f64 = 300.0;
const BEFORE_MAX: u64 = 3_000;

/// The p99 threshold that somebody would set who knows that 102 ms are usual.
pub const P99_THRESHOLD_MS: u32 = 150;

/// An update's traffic and what is true of it.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// Requests of the new side in a second, on average.
    pub canary: f64,
    /// Weights new:old.
    pub weights: (u64, u64),
    /// The old version's error rate.
    pub errors: f64,
    /// The new version's, as a multiple.
    pub worse: f64,
    /// The new version's latencies, as a multiple.
    pub slower: f64,
    /// Whether bursts of errors and slowness hit both versions now and then.
    pub bursts: bool,
}

impl Traffic {
    /// Alike in all, at 1 % errors.
    pub fn alike(canary: f64, weights: (u64, u64), errors: f64) -> Self {
        Self { canary, weights, errors, worse: 1.0, slower: 1.0, bursts: false }
    }

    fn share(&self) -> f64 {
        self.weights.0 as f64 / (self.weights.0 + self.weights.1) as f64
    }
}

/// One run of it.
pub struct Run {
    traffic: Traffic,
    sampler: Sampler,
    /// Requests so far, for the exact split.
    arrived: u64,
    /// Chance of being slow: old, new.
    slow: [f64; 2],
    /// Chance that a slow one is also beyond the threshold: old, new.
    late: [f64; 2],
    burst_left: u64,
}

/// A second of it: what is folded, and how many of the new side's requests were
/// beyond the threshold of latency.
pub struct Second {
    pub tallies: Tallies,
    pub late: u64,
}

impl Run {
    pub fn new(traffic: Traffic, seed: u64) -> Self {
        let mut sampler = Sampler::new(seed);
        let old_per_second = traffic.canary / traffic.share() * (1.0 - traffic.share());
        let before = ((old_per_second * BEFORE_SECONDS) as u64).min(BEFORE_MAX);
        let mut tally = Tally { requests: before, ..Tally::default() };
        for _ in 0..before {
            let us = MEDIAN_US * (SPREAD * sampler.normal()).exp();
            *tally.buckets.entry(latency::bucket_of(us as u64)).or_default() += 1;
        }
        let bucket = reference_bucket(&tally, QUANTILE_PPM).expect("enough requests before");
        let above = |us: f64, slower: f64| normal_above((us / MEDIAN_US / slower).ln() / SPREAD);
        let bound = latency::upper_bound_us(bucket as usize) as f64;
        let threshold = f64::from(P99_THRESHOLD_MS) * 1_000.0;
        let slow = [1.0, traffic.slower].map(|slower| above(bound, slower));
        let late = [1.0, traffic.slower].map(|slower| above(threshold, slower));
        let late = [(late[0] / slow[0]).min(1.0), (late[1] / slow[1]).min(1.0)];
        Self { traffic, sampler, arrived: 0, slow, late, burst_left: 0 }
    }

    /// Both versions fail a fifth of the requests and are ten times as often slow
    /// for 5 to 30 s, every ten minutes or so.
    fn is_burst(&mut self) -> bool {
        if !self.traffic.bursts {
            return false;
        }
        if self.burst_left == 0 && self.sampler.uniform() < 1.0 / 600.0 {
            self.burst_left = 5 + (self.sampler.uniform() * 26.0) as u64;
        }
        let is_burst = self.burst_left > 0;
        self.burst_left = self.burst_left.saturating_sub(1);
        is_burst
    }

    pub fn second(&mut self) -> Second {
        let traffic = self.traffic;
        let requests = self.sampler.poisson(traffic.canary / traffic.share());
        let (weight, total) = (traffic.weights.0, traffic.weights.0 + traffic.weights.1);
        let taken = |arrived: u64| arrived * weight / total;
        let new = taken(self.arrived + requests) - taken(self.arrived);
        self.arrived += requests;
        let burst = self.is_burst();
        let mut side = |requests: u64, worse: f64, slow: f64| {
            let (errors, slow) = match burst {
                true => (0.2, (10.0 * slow).min(0.5)),
                false => (traffic.errors * worse, slow),
            };
            Side {
                requests,
                timed: requests,
                errors: self.sampler.binomial(requests, errors),
                slow: self.sampler.binomial(requests, slow),
            }
        };
        let old = side(requests - new, 1.0, self.slow[0]);
        let new = side(new, traffic.worse, self.slow[1]);
        let late = self.sampler.binomial(new.slow, self.late[1]);
        Second { tallies: Tallies { new, old }, late }
    }
}
