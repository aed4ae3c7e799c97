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

/// A number of the environment's.
fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Numbers that look random, and the same ones for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn of_environment() -> Self {
        let seed = setting("AETHER_DURABILITY_SEED", 1);
        println!("AETHER_DURABILITY_SEED={seed}");
        Self(seed)
    }

    /// One of a range.
    fn of(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }
}
