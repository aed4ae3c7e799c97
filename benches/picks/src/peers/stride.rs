//! The static stride scheduler of gRPC's `weighted_round_robin`: one shared sequence number,
//! and each endpoint is passed over in as many rounds as its weight is below the largest.
//! After `static_stride_scheduler.cc` of gRPC's C++ core.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Peer;
use crate::fleet::Fleet;

/// Weights are scaled so that the largest is this.
const WEIGHT_MAX: u64 = u16::MAX as u64;

struct Stride {
    sequence: AtomicU32,
    weights: Vec<u16>,
}

impl Stride {
    fn pick(&self) -> usize {
        loop {
            let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
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
    let weights = fleet.weights();
    let largest = u64::from(weights.iter().copied().max().unwrap_or(1));
    let scaled = |weight: &u32| (u64::from(*weight) * WEIGHT_MAX / largest) as u16;
    let weights = weights.iter().map(scaled).collect();
    let stride = Arc::new(Stride { sequence: AtomicU32::new(0), weights });
    let endpoints = usize::from(fleet.endpoints);
    Peer::named("gRPC static stride", true, move || {
        let stride = Arc::clone(&stride);
        Box::new(move || stride.pick() < endpoints)
    })
}
