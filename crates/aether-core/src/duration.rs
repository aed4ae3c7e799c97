//! Durations as people write them (`500ms`, `10s`, `5m`), kept in whole
//! milliseconds. A number without a unit is refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use crate::coordinates::string_serde;

/// A span of time in whole milliseconds, at most 365 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

/// A duration that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("'{text}' is not a duration: {reason}; write it with a unit, such as 500ms, 10s or 5m")]
pub struct DurationError {
    text: String,
    reason: String,
}

/// Longest accepted span. Sums of two log times and spans stay far from overflow.
const MILLIS_MAX: u64 = 365 * 24 * 3_600_000;

impl Millis {
    /// As a [`Duration`].
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl FromStr for Millis {
    type Err = DurationError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error =
            |reason: String| DurationError { text: text.chars().take(40).collect(), reason };
        if text == "0" {
            // humantime takes this one number without a unit.
            return Err(error("time unit needed".to_owned()));
        }
        let span = humantime::parse_duration(text).map_err(|e| error(e.to_string()))?;
        match u64::try_from(span.as_millis()) {
            Ok(ms) if ms <= MILLIS_MAX => Ok(Self(ms)),
            _ => Err(error("longer than 365 days".to_owned())),
        }
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.duration()))
    }
}
string_serde!(Millis);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_required_and_spans_bounded() {
        assert_eq!("1m 30s".parse::<Millis>().unwrap(), Millis(90_000));
        assert_eq!(Millis(90_000).to_string(), "1m 30s");
        for text in ["", "0", "10", "-1s", "1e9s", "9999999999999d", "ten"] {
            assert!(text.parse::<Millis>().is_err(), "{text}");
        }
    }
}
