//! What an instance may use of its node.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::ManifestError;
use crate::coordinates::string_serde;

/// Least memory that can be asked for: below 4 MiB hardly a process starts.
const MEMORY_MIN: u64 = 4 << 20;

/// Most memory that can be asked for: 64 TiB, above any machine. Sums of two
/// stay far from overflow.
const MEMORY_MAX: u64 = 64 << 40;

/// Least share of the processors, in thousandths of one: the kernel's quota
/// has to be at least 1 ms of each 100 ms.
const CPU_MIN: u32 = 10;

/// Largest share: 4,096 processors, above any machine.
const CPU_MAX: u32 = 4_096_000;

/// Most processes and threads that can be asked for: the kernel's own bound.
const PROCESSES_MAX: u32 = 4_194_304;

/// What an instance may use. What is not set is not limited. Enforced where
/// the node has a cgroup hierarchy it may write to; elsewhere the instance runs
/// without, and its node says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory of all its processes together. What takes more is killed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Processors, such as `0.5` or `2`. What wants more is slowed down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Processes and threads together. Starting more fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}

impl Resources {
    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn check(&self) -> Result<(), ManifestError> {
        let bad =
            |field, problem: &str| Err(ManifestError::Value { field, problem: problem.to_owned() });
        if self.memory.is_some_and(|size| !(MEMORY_MIN..=MEMORY_MAX).contains(&size.0)) {
            return bad("resources.memory", "must be 4MiB to 64TiB");
        }
        if self.cpu.is_some_and(|cpu| !(CPU_MIN..=CPU_MAX).contains(&cpu.millis)) {
            return bad("resources.cpu", "must be 0.01 to 4096");
        }
        if self.processes.is_some_and(|count| !(1..=PROCESSES_MAX).contains(&count)) {
            return bad("resources.processes", "must be 1 to 4194304");
        }
        Ok(())
    }
}

/// A size in bytes, as people write it: `256MiB`, `1GiB`, `500MB`. A number
/// without a unit is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// A size that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a size; write a whole number with a unit, such as 256MiB or 1GiB")]
pub struct ByteSizeError {
    text: String,
}

/// Units by name, the largest ones first, as they are chosen for display.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for ByteSize {
    type Err = ByteSizeError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ByteSizeError { text: text.chars().take(40).collect() };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_lowercase();
        let number = digits.trim_end();
        if !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error()); // Also a sign, which `parse` would take.
        }
        let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&unit));
        let (_, factor) = known.ok_or_else(error)?;
        let number: u64 = number.parse().map_err(|_| error())?;
        number.checked_mul(*factor).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole =
            UNITS.iter().find(|(_, factor)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        let (unit, factor) = whole.copied().unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / factor)
    }
}
string_serde!(ByteSize);

/// A share of the processors, in thousandths of one. Written as a number of
/// processors; never computed with as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    /// Thousandths of a processor.
    pub millis: u32,
}

impl Serialize for Cpu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.millis) / 1_000.0)
    }
}

impl<'de> Deserialize<'de> for Cpu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cpu;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of processors, such as 0.5 or 2")
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Cpu, E> {
                // Out of range, and what is no number, ends at a bound that
                // the manifest's check refuses.
                Ok(Cpu { millis: (value * 1_000.0).round() as u32 })
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Cpu, E> {
                self.visit_u64(u64::try_from(value).unwrap_or(0))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Cpu, E> {
                let millis = u32::try_from(value.saturating_mul(1_000)).unwrap_or(u32::MAX);
                Ok(Cpu { millis })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", f64::from(self.millis) / 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_are_shown_in_the_largest_whole_one() {
        for (text, bytes, shown) in [
            ("256MiB", 256 << 20, "256MiB"),
            ("1024 mib", 1 << 30, "1GiB"),
            ("500MB", 500_000_000, "500MB"),
            ("1023B", 1_023, "1023B"),
            ("0B", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.0, size.to_string().as_str()), (bytes, shown), "{text}");
            assert_eq!(size.to_string().parse::<ByteSize>().unwrap(), size);
        }
        for text in ["", "256", "MiB", "-1MiB", "+1MiB", "1.5GiB", "1e3B", "99999999TiB", "1 XiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_of_the_processors_survives_json_and_odd_numbers_end_at_a_bound() {
        for millis in [0, 1, 10, 333, 500, 1_000, 2_500, CPU_MAX, u32::MAX] {
            let text = serde_json::to_string(&Cpu { millis }).unwrap();
            assert_eq!(serde_json::from_str::<Cpu>(&text).unwrap(), Cpu { millis }, "{text}");
        }
        for (text, millis) in [("-1", 0), ("-0.5", 0), ("1e300", u32::MAX), ("2", 2_000)] {
            assert_eq!(serde_json::from_str::<Cpu>(text).unwrap().millis, millis, "{text}");
        }
    }
}
