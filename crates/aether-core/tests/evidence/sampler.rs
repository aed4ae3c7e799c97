//! Draws from the few distributions that the simulated traffic needs. The tree
//! of dependencies has no crate for them, and they are short.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Largest mean of trials drawn at once: the chance of no success stays far from
/// underflow.
const MEAN_AT_ONCE: f64 = 300.0;

/// A seeded source of draws.
pub struct Sampler(SmallRng);

impl Sampler {
    pub fn new(seed: u64) -> Self {
        Self(SmallRng::seed_from_u64(seed))
    }

    /// From 0 up to, and not including, 1.
    pub fn uniform(&mut self) -> f64 {
        self.0.random()
    }

    /// Standard normal (Box and Muller 1958).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Poisson; by inversion for small means, else the normal that is near it.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 60.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (mut left, mut chance, mut value) = (self.uniform(), (-mean).exp(), 0u64);
        // The bound is for rounding: the chances may sum to a little less than 1.
        while left >= chance && value < 500 {
            left -= chance;
            value += 1;
            chance *= mean / value as f64;
        }
        value
    }

    /// Binomial, exact: by inversion, some trials at a time.
    pub fn binomial(&mut self, trials: u64, rate: f64) -> u64 {
        if rate >= 1.0 {
            return trials;
        }
        let (mut rest, mut sum) = (trials, 0);
        let at_once = (MEAN_AT_ONCE * (1.0 - rate) / rate.max(1e-9)) as u64;
        while rest > 0 {
            let some = rest.min(at_once.max(1));
            sum += self.few(some, rate);
            rest -= some;
        }
        sum
    }

    fn few(&mut self, trials: u64, rate: f64) -> u64 {
        let odds = rate / (1.0 - rate);
        let (mut left, mut value) = (self.uniform(), 0u64);
        let mut chance = (1.0 - rate).powi(trials as i32);
        while left >= chance && value < trials {
            left -= chance;
            chance *= odds * (trials - value) as f64 / (value + 1) as f64;
            value += 1;
        }
        value
    }
}

/// Chance of a standard normal above `z`, to 1e-7 (Abramowitz and Stegun 26.2.17).
pub fn normal_above(z: f64) -> f64 {
    if z < 0.0 {
        return 1.0 - normal_above(-z);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let density = (-z * z / 2.0).exp() / std::f64::consts::TAU.sqrt();
    let series = 0.319_381_530
        + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429)));
    density * t * series
}

#[test]
fn draws_have_the_mean_and_spread_that_they_should() {
    let mut sampler = Sampler::new(1);
    let mut check = |mean: f64, variance: f64, mut draw: Box<dyn FnMut(&mut Sampler) -> u64>| {
        let draws: Vec<f64> = (0..20_000).map(|_| draw(&mut sampler) as f64).collect();
        let seen = draws.iter().sum::<f64>() / draws.len() as f64;
        let spread = draws.iter().map(|d| (d - seen).powi(2)).sum::<f64>() / draws.len() as f64;
        // Five standard errors of the mean.
        assert!((seen - mean).abs() < 5.0 * (variance / 20_000.0).sqrt(), "{seen} for {mean}");
        assert!((spread / variance - 1.0).abs() < 0.06, "{spread} for {variance}");
    };
    for (trials, rate) in [(2u64, 0.05), (180, 0.01), (3_800, 0.05), (3_800, 0.4)] {
        let mean = trials as f64 * rate;
        check(mean, mean * (1.0 - rate), Box::new(move |s| s.binomial(trials, rate)));
    }
    for mean in [0.3, 30.0, 900.0] {
        check(mean, mean, Box::new(move |s| s.poisson(mean)));
    }
    assert!((normal_above(2.326_348) - 0.01).abs() < 1e-6);
    assert!((normal_above(-1.0) - 0.841_345).abs() < 1e-6);
}
