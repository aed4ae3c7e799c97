//! Counts of first attempts: of one side, and of both.

use serde::{Deserialize, Serialize};

use crate::health::Tally;

/// What is compared between the sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A first attempt that failed.
    Error,
    /// A first attempt that took longer than the reference of its epoch.
    Slow,
}

impl Event {
    /// Both, in the order in which they are told.
    pub const ALL: [Self; 2] = [Self::Error, Self::Slow];

    /// The events of this kind, in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "errors",
            Self::Slow => "slow requests",
        }
    }
}

/// First attempts of one side. Part of a command of the log, so that a field
/// which a release doesn't know is refused there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Side {
    /// First attempts.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those in a bucket of [`crate::latency`] above the epoch's reference.
    pub slow: u64,
}

impl Side {
    /// What a tally adds, given the epoch's reference. Without one nothing is
    /// known of slowness yet, and nothing counts as slow on either side.
    pub fn of(tally: &Tally, reference: Option<u32>) -> Self {
        let above = |bucket: usize| reference.is_some_and(|r| bucket as u64 > u64::from(r));
        let slow = tally.buckets.iter().filter(|(bucket, _)| above(**bucket));
        Self {
            requests: tally.requests,
            errors: tally.errors,
            slow: slow.fold(0, |sum, (_, count)| sum.saturating_add(*count)),
        }
    }

    /// Adds another; sums stop at the largest number, so that the order and the
    /// grouping of additions make no difference.
    pub fn fold(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.slow = self.slow.saturating_add(other.slow);
    }

    /// Events of a kind. Who counted may have told more of them than requests;
    /// a judge takes no more than there can be.
    pub fn events(self, event: Event) -> u64 {
        let told = match event {
            Event::Error => self.errors,
            Event::Slow => self.slow,
        };
        told.min(self.requests)
    }

    /// What is left without `part`, of which there may be more than of the
    /// whole: the two come on different ways.
    pub(super) fn without(self, part: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            errors: self.errors.saturating_sub(part.errors),
            slow: self.slow.saturating_sub(part.slow),
        }
    }
}

/// First attempts of both sides under one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tallies {
    /// The new version's.
    pub new: Side,
    /// The old version's.
    pub old: Side,
}

impl Tallies {
    /// Adds others, saturating.
    pub fn fold(&mut self, other: Self) {
        self.new.fold(other.new);
        self.old.fold(other.old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_above_the_reference_is_slow() {
        let tally = Tally {
            requests: 10,
            errors: 1,
            buckets: [(3, 4), (7, 5), (8, 1)].into(),
            ..Tally::default()
        };
        let slow = |reference| Side::of(&tally, reference).slow;
        assert_eq!((slow(Some(2)), slow(Some(7)), slow(Some(8))), (10, 1, 0));
        assert_eq!(Side::of(&tally, None), Side { requests: 10, errors: 1, slow: 0 });
    }

    #[test]
    fn a_command_with_an_unknown_count_is_refused() {
        let known = r#"{"new":{"requests":1,"errors":0,"slow":0},"old":{"requests":2,"errors":0,"slow":1}}"#;
        let read: Tallies = serde_json::from_str(known).unwrap();
        assert_eq!((read.new.requests, read.old.slow), (1, 1));
        let unknown = known.replace("\"slow\":1", "\"slow\":1,\"retried\":1");
        assert!(serde_json::from_str::<Tallies>(&unknown).is_err());
    }
}
