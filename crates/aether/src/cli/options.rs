//! Options that several verbs share, and readers of their values.

use aether_core::apply::INSTANCES_MAX;
use aether_core::duration::Millis;
use clap::Args;
use clap::builder::RangedI64ValueParser;

/// `--wait` of a verb whose effect takes a while.
#[derive(Debug, Args)]
pub struct Wait {
    /// Wait until it is done, and say on stderr how it goes
    #[arg(long)]
    pub wait: bool,
    /// How long to wait; what was started goes on all the same
    #[arg(long, requires = "wait", default_value = "10m", value_name = "DURATION")]
    pub wait_timeout: Millis,
}

/// A number of instances that a target may have.
pub fn instances() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(INSTANCES_MAX))
}

/// An error rate: a share between 0 and 1.
pub fn error_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // NaN is in no range.
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("an error rate is a number from 0 to 1, such as 0.01 for 1 %".to_owned()),
    }
}

/// Longest name of an actor. It is replicated with every write.
const ACTOR_CHARS_MAX: usize = 64;

/// Who asks: something printable of a sensible length.
pub fn actor(text: &str) -> Result<String, String> {
    let chars = text.chars().count();
    if (1..=ACTOR_CHARS_MAX).contains(&chars) && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(format!("an actor is 1 to {ACTOR_CHARS_MAX} printable characters"))
}

/// How long a request may take.
pub fn timeout(text: &str) -> Result<Millis, String> {
    match text.parse::<Millis>() {
        Ok(Millis(0)) => Err("a request needs more than no time, such as 10s".to_owned()),
        Ok(time) => Ok(time),
        Err(problem) => Err(problem.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_rates_are_shares() {
        for (text, rate) in [("0", 0.0), ("1", 1.0), ("0.01", 0.01), ("1e-3", 0.001)] {
            assert_eq!(error_rate(text), Ok(rate));
        }
        for text in ["", "NaN", "inf", "-0.1", "1.0001", "1e309", "1%", "0,01"] {
            assert!(error_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn actors_are_printable() {
        assert!(actor("alice").is_ok());
        for text in ["", "a\nb", &"x".repeat(65)] {
            assert!(actor(text).is_err(), "{text:?}");
        }
    }
}
