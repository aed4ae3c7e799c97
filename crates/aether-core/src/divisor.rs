//! Division by a number that is known long before: one multiplication in the
//! place of a division.

/// A number to divide by.
///
/// Holds `m = floor((2^64 - 1) / d)`. Then `floor(n*m / 2^64)` is the quotient
/// `floor(n / d)` or one less, for every `n` below 2^64: with
/// `m*d = 2^64 - 1 - e` and `0 <= e < d`, the product falls short of `n/d` by
/// `n/2^64 * (1 + e)/d`, which is below one. The remainder tells which it is.
/// (Granlund and Montgomery, "Division by invariant integers using
/// multiplication", 1994, have this with the rounding the other way.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divisor {
    divisor: u64,
    reciprocal: u64,
}

impl Divisor {
    /// Makes ready to divide by `divisor`.
    ///
    /// # Panics
    /// If it is zero.
    pub fn new(divisor: u64) -> Self {
        Self { divisor, reciprocal: u64::MAX / divisor }
    }

    /// The number itself.
    pub fn get(self) -> u64 {
        self.divisor
    }

    /// (quotient, remainder) of `number`.
    #[inline]
    pub fn div_rem(self, number: u64) -> (u64, u64) {
        let quotient = ((u128::from(number) * u128::from(self.reciprocal)) >> 64) as u64;
        let remainder = number - quotient * self.divisor;
        match remainder < self.divisor {
            true => (quotient, remainder),
            false => (quotient + 1, remainder - self.divisor),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn divides_as_the_processor_does(
            number in any::<u64>(), shift in 0u32..64, divisor in 1..=u64::MAX, narrow in 0u32..64,
        ) {
            let (number, divisor) = (number >> shift, (divisor >> narrow).max(1));
            let expected = (number / divisor, number % divisor);
            prop_assert_eq!(Divisor::new(divisor).div_rem(number), expected);
        }

        #[test]
        fn divides_multiples_and_their_neighbours(
            divisor in 1u64..30_000, multiple in any::<u64>(), shift in 0u32..64,
        ) {
            let multiple = (multiple >> shift) / divisor * divisor;
            for number in [multiple.saturating_sub(1), multiple, multiple.saturating_add(1)] {
                let expected = (number / divisor, number % divisor);
                prop_assert_eq!(Divisor::new(divisor).div_rem(number), expected);
            }
        }
    }

    #[test]
    fn divides_at_the_ends() {
        for divisor in [1, 2, 3, u64::MAX - 1, u64::MAX] {
            for number in [0, 1, divisor - 1, divisor, u64::MAX - 1, u64::MAX] {
                let expected = (number / divisor, number % divisor);
                assert_eq!(Divisor::new(divisor).div_rem(number), expected);
            }
        }
    }
}
