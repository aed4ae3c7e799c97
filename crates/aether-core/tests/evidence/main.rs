//! What the judge of evidence does with traffic: how often it is wrong and how
//! long it takes, over thousands of simulated updates, beside two judges as they
//! are common; and that committed counts are the same in whatever order they come.
//!
//! The traffic is simulated by the second: numbers of requests, and of those that
//! failed or were slow, drawn from their distributions. Every run is seeded by its
//! number, so that a failure repeats.

mod baselines;
mod cells;
mod instances;
mod judge;
mod properties;
mod sampler;
mod steps;
mod traffic;
