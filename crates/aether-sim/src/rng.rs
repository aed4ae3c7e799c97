//! Random numbers from a seed.
//!
//! Our own dozen lines rather than a crate's generator: a seed that was noted
//! down has to stand for the same run after every upgrade of a dependency. It
//! is splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", OOPSLA 2014), which is no good for secrets and needs not be.

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed. `purpose` gives each use of a seed its own stream,
    /// so that one more number for one of them does not change the others.
    pub fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = Self(seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        rng.draw();
        Self(rng.draw())
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    ///
    /// # Panics
    /// If `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "there is no number below 0");
        // The bias is below n / 2^64: of no matter to a simulation.
        self.draw() % n
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// Whether something happens that happens in `percent` of all cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of several.
    ///
    /// # Panics
    /// If there is none.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_stands_for_the_same_numbers_for_ever() {
        let mut rng = Rng::new(7, 1);
        let drawn: Vec<u64> = (0..4).map(|_| rng.below(1_000)).collect();
        assert_eq!(drawn, DRAWN);
        assert_ne!(Rng::new(7, 2).draw(), Rng::new(7, 1).draw());
    }

    const DRAWN: [u64; 4] = [87, 51, 947, 224];
}
