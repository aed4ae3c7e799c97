//! The static stride scheduler of gRPC's `weighted_round_robin`: one shared sequence number,
//! and each endpoint is passed over in as many rounds as its weight is below the largest.
//! After `static_stride_scheduler.cc` of gRPC's C++ core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Peer;
use crate::fleet::Fleet;

/// The largest weight is scaled to this.
const WEIGHT_MAX: u64 = u16::MAX as u64;
/// No weight counts as more times the mean than this.
const RATIO_MAX: f64 = 10.0;
/// And none as less.
const RATIO_MIN: f64 = 0.01;

/// What all threads write, away from what they read.
#[repr(align(128))]
struct Sequence(AtomicU32);

struct Stride {
    sequence: Sequence,
    weights: Vec<u16>,
}

impl Stride {
    fn new(weights: &[u32]) -> Self {
        let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / weights.len() as f64;
        let largest = f64::from(weights.iter().copied().max().unwrap_or(1));
        let largest = largest.min(mean * RATIO_MAX);
        let scale = WEIGHT_MAX as f64 / largest;
        let least = ((mean * scale).round() * RATIO_MIN).round().max(1.0);
        let scaled = |weight: &u32| (f64::from(*weight).min(largest) * scale).round().max(least);
        let weights = weights.iter().map(|weight| scaled(weight) as u16).collect();
        Self { sequence: Sequence(AtomicU32::new(0)), weights }
    }

    fn pick(&self) -> usize {
        // The largest weight is never passed over.
        loop {
            let sequence = self.sequence.0.fetch_add(1, Ordering::Relaxed);
            let index = sequence as usize % self.weights.len();
            let generation = u64::from(sequence) / self.weights.len() as u64;
            let weight = u64::from(self.weights[index]);
            let offset = index as u64 * (WEIGHT_MAX / 2);
            let position = (weight * generation + offset) % WEIGHT_MAX;
            if position >= WEIGHT_MAX - weight {
                return index;
            }
        }
    }
}

pub fn peer(fleet: Fleet) -> Peer {
    let stride = Arc::new(Stride::new(&fleet.weights()));
    let endpoints = usize::from(fleet.endpoints);
    Peer::picking("gRPC static stride", true, move || {
        let stride = Arc::clone(&stride);
        Box::new(move || stride.pick() < endpoints)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_the_weights_between_the_bounds() {
        let counts = |weights: &[u32]| {
            let stride = Stride::new(weights);
            let mut counts = vec![0_u32; weights.len()];
            (0..100_000).for_each(|_| counts[stride.pick()] += 1);
            counts
        };
        let of = counts(&[3, 17]);
        assert!(of[0].abs_diff(15_000) < 10, "{of:?}");
        // A hundredth of the mean is the least.
        let of = counts(&[1, 999]);
        assert!(of[0].abs_diff(500) < 20, "{of:?}");
    }
}
