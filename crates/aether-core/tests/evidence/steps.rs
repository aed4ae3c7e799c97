//! A canary that goes up in steps while the service as a whole gets worse: the
//! split and the error rate change together, and the versions are alike.

use aether_core::evidence::{Evidence, Judge, Present, Side, Tallies, Verdict};
use aether_core::weights::Weights;

use crate::sampler::Sampler;

const RUNS: u64 = 2_000;
const SECONDS_PER_STEP: u64 = 60;
const REQUESTS_PER_SECOND: u64 = 200;

/// Weights, and the error rate of both versions meanwhile.
const STEPS: [((u64, u64), f64); 4] =
    [((1, 19), 0.005), ((1, 9), 0.01), ((1, 3), 0.02), ((1, 1), 0.05)];

/// Share of runs that are ever rolled back; with all counts under the weights of
/// their own step, or thrown together under those of the last.
fn rolled_back(apart: bool) -> f64 {
    let judge = Judge::default();
    let runs = (0..RUNS).filter(|seed| {
        let (mut sampler, mut evidence) = (Sampler::new(*seed), Evidence::default());
        let (mut taken, mut index) = (0, 0);
        STEPS.iter().any(|((new, old), errors)| {
            if apart || index == 0 {
                index += 1;
                let weights = if apart { (*new, *old) } else { (1, 9) };
                evidence.open(index, Weights::new(weights.0, weights.1).unwrap(), 0, Some(80));
            }
            (0..SECONDS_PER_STEP).any(|_| {
                taken += REQUESTS_PER_SECOND * new;
                let requests = taken / (new + old);
                taken %= new + old;
                let mut side = |requests| Side {
                    requests,
                    errors: sampler.binomial(requests, *errors),
                    timed: requests,
                    slow: sampler.binomial(requests, 0.01),
                };
                let (new, old) = (side(requests), side(REQUESTS_PER_SECOND - requests));
                evidence.fold(index, Tallies { new, old });
                judge.decide(&evidence, &Present::default()).verdict == Verdict::RollBack
            })
        })
    });
    runs.count() as f64 / RUNS as f64
}

#[test]
fn steps_under_which_all_gets_worse_do_not_roll_back() {
    let apart = rolled_back(true);
    assert!(apart <= 0.01, "{apart}");
    // The control: without epochs the same counts are Simpson's paradox.
    let together = rolled_back(false);
    assert!(together >= 0.5, "{together}: what the epochs are for is not tested");
}
