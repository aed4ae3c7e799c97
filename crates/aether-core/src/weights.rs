//! Route weights `new:old`, the exact ratio by which calls are split.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::coordinates::string_serde;

/// Largest weight of a side after reduction. Keeps `new + old` small enough
/// that every product in the schedule and the capacity guard fits in 64 bits,
/// and a cycle short enough that a ratio is reached within 20,000 calls.
pub const WEIGHT_MAX: u32 = 10_000;

/// Longest spelling of a side: what fits in 64 bits has no more digits. A ratio
/// may be written unreduced and with leading zeros, but not without end.
pub const DIGITS_MAX: usize = 20;

/// Why a ratio was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RatioError {
    /// Not `new:old` with two non-negative integers.
    #[error("ratio '{0}' is not of the form new:old with two whole numbers, such as 1:3")]
    Form(String),
    /// Both sides are zero.
    #[error("ratio 0:0 sends calls nowhere; at least one side must be above zero")]
    Zero,
    /// A side is too large even after reduction.
    #[error("ratio {0} has a weight above {WEIGHT_MAX} after reduction")]
    TooLarge(String),
}

/// Reduced weights of the new and the old side; at least one is positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    new: u32,
    old: u32,
}

impl Weights {
    /// All traffic to the old side.
    pub const ALL_OLD: Self = Self { new: 0, old: 1 };
    /// All traffic to the new side.
    pub const ALL_NEW: Self = Self { new: 1, old: 0 };

    /// Reduces and checks a ratio.
    ///
    /// # Errors
    /// Refuses `0:0` and anything above [`WEIGHT_MAX`] after reduction.
    pub fn new(new: u64, old: u64) -> Result<Self, RatioError> {
        let divisor = gcd(new, old);
        if divisor == 0 {
            return Err(RatioError::Zero);
        }
        let (new, old) = (new / divisor, old / divisor);
        if new.max(old) > u64::from(WEIGHT_MAX) {
            return Err(RatioError::TooLarge(format!("{new}:{old}")));
        }
        // Both fit: they are at most WEIGHT_MAX.
        Ok(Self { new: new as u32, old: old as u32 })
    }

    /// Weight of the new side.
    pub fn new_side(self) -> u32 {
        self.new
    }
    /// Weight of the old side.
    pub fn old_side(self) -> u32 {
        self.old
    }
    /// Length of one cycle: the sum of both weights, never zero.
    pub fn total(self) -> u32 {
        self.new + self.old
    }
    /// Whether `other` gives the new side a larger share than this does.
    pub fn is_raised_by(self, other: Self) -> bool {
        u64::from(other.new) * u64::from(self.total())
            > u64::from(self.new) * u64::from(other.total())
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

impl FromStr for Weights {
    type Err = RatioError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || RatioError::Form(text.chars().take(40).collect());
        let side = |part: &str| {
            if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
                return Err(form());
            }
            let too_large = || RatioError::TooLarge(text.chars().take(41).collect());
            if part.len() > DIGITS_MAX {
                return Err(too_large());
            }
            part.parse::<u64>().map_err(|_| too_large())
        };
        let (new, old) = text.split_once(':').ok_or_else(form)?;
        Self::new(side(new)?, side(old)?)
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.new, self.old)
    }
}
string_serde!(Weights);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_the_guide_parse_and_reduce() {
        for text in ["0:1", "1:9", "1:3", "1:1", "3:1", "1:0", "9999:10000"] {
            assert_eq!(text.parse::<Weights>().unwrap().to_string(), text);
        }
        assert_eq!("25:75".parse::<Weights>().unwrap().to_string(), "1:3");
        assert_eq!("0:7".parse::<Weights>().unwrap(), Weights::ALL_OLD);
        assert_eq!("20000:20000".parse::<Weights>().unwrap().to_string(), "1:1");
        assert_eq!("01:3".parse::<Weights>().unwrap().to_string(), "1:3");
        let longest = format!("{:020}:{:020}", 1, 3);
        assert_eq!(longest.parse::<Weights>().unwrap().to_string(), "1:3");
    }

    #[test]
    fn bad_ratios_are_refused() {
        assert_eq!("0:0".parse::<Weights>(), Err(RatioError::Zero));
        for text in ["", "101", "-1:2", "1:x", "NaN", "1e309", "1:2:3", " 1:2", "1:", "+1:2"] {
            assert!(matches!(text.parse::<Weights>(), Err(RatioError::Form(_))), "{text}");
        }
        let long = "000000000000000000001:3";
        for text in ["10001:1", "1:99999999999999999999999", "1:99999999999999999999", long] {
            assert!(matches!(text.parse::<Weights>(), Err(RatioError::TooLarge(_))), "{text}");
        }
    }

    #[test]
    fn share_comparison_is_exact() {
        let w = |text: &str| text.parse::<Weights>().unwrap();
        assert!(w("1:3").is_raised_by(w("1:1")));
        assert!(!w("1:1").is_raised_by(w("1:3")));
        assert!(!w("1:1").is_raised_by(w("1:1")));
        assert!(w("9999:10000").is_raised_by(w("1:1")));
    }
}
