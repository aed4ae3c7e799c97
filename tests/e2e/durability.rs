//! No acknowledged write of the replicated store is lost: not when the power of
//! all voters goes, not when they are killed, and not when their syncs fail, kill
//! them or are slow.
//!
//! `AETHER_POWER_ROUNDS`, `AETHER_KILL_ROUNDS` and `AETHER_SYNC_ROUNDS` say how
//! long these tests go on, and `AETHER_DURABILITY_SEED` chooses what befalls whom.
//! `cargo xtask faults` has the long runs.

mod disk;
mod killed;
mod power_cut;
mod scene;
mod syncs;

use rand::SeedableRng;
use rand::rngs::StdRng;

/// A number of the environment's.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Chance that is the same for the same seed.
fn chance() -> StdRng {
    let seed = setting("AETHER_DURABILITY_SEED", 1);
    println!("AETHER_DURABILITY_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
