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

/// Requests that could have been an event, and those that were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub requests: u64,
    /// The events; never more than requests.
    pub events: u64,
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
    /// Those whose latency was held against the epoch's reference. Fewer than
    /// the requests where the reference came later: what was not measured must
    /// not pass for fast.
    pub timed: u64,
    /// Those of them in a bucket of [`crate::latency`] above the reference.
    pub slow: u64,
}

impl Side {
    /// What a tally adds, given the epoch's reference. Without one nothing is
    /// known of slowness yet, on either side.
    pub fn of(tally: &Tally, reference: Option<u32>) -> Self {
        let count = |above: Option<u64>| {
            let counted = tally.buckets.iter().filter(|(bucket, _)| Some(**bucket as u64) > above);
            counted.fold(0u64, |sum, (_, count)| sum.saturating_add(*count))
        };
        let (timed, slow) = match reference {
            Some(reference) => (count(None), count(Some(u64::from(reference)))),
            None => (0, 0),
        };
        Self { requests: tally.requests, errors: tally.errors, timed, slow }
    }

    /// Adds another; sums stop at the largest number, so that the order and the
    /// grouping of additions make no difference.
    pub fn fold(&mut self, other: Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.timed = self.timed.saturating_add(other.timed);
        self.slow = self.slow.saturating_add(other.slow);
    }

    /// What was added since `earlier`; none where there is less of anything than there
    /// was.
    pub(crate) fn since(self, earlier: Self) -> Option<Self> {
        Some(Self {
            requests: self.requests.checked_sub(earlier.requests)?,
            errors: self.errors.checked_sub(earlier.errors)?,
            timed: self.timed.checked_sub(earlier.timed)?,
            slow: self.slow.checked_sub(earlier.slow)?,
        })
    }

    /// How many requests could have been an event of a kind, and how many were.
    /// Who counted may have told more of these than of those; a judge takes no
    /// more than there can be.
    pub fn counted(self, event: Event) -> Counted {
        let (requests, events) = match event {
            Event::Error => (self.requests, self.errors),
            Event::Slow => (self.timed, self.slow),
        };
        Counted { requests, events: events.min(requests) }
    }

    /// What is left without `part`, of which there may be more than of the
    /// whole: the two come on different ways.
    pub(crate) fn without(self, part: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            errors: self.errors.saturating_sub(part.errors),
            timed: self.timed.saturating_sub(part.timed),
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
            requests: 11,
            errors: 1,
            buckets: [(0, 1), (7, 8), (8, 1)].into(),
            ..Tally::default()
        };
        let of = |reference| {
            let side = Side::of(&tally, reference);
            (side.timed, side.slow)
        };
        assert_eq!((of(Some(0)), of(Some(7)), of(Some(8))), ((10, 9), (10, 1), (10, 0)));
        let unknown = Side { requests: 11, errors: 1, timed: 0, slow: 0 };
        assert_eq!(Side::of(&tally, None), unknown, "what was not measured is not fast");
    }

    #[test]
    fn there_are_no_more_events_than_requests() {
        let side = Side { requests: 5, errors: 9, timed: 2, slow: 3 };
        assert_eq!(side.counted(Event::Error), Counted { requests: 5, events: 5 });
        assert_eq!(side.counted(Event::Slow), Counted { requests: 2, events: 2 });
    }

    #[test]
    fn a_command_with_an_unknown_count_is_refused() {
        let side = r#"{"requests":2,"errors":1,"timed":2,"slow":0}"#;
        let known = format!(r#"{{"new":{side},"old":{side}}}"#);
        let read: Tallies = serde_json::from_str(&known).unwrap();
        assert_eq!((read.new.requests, read.old.errors), (2, 1));
        let unknown = known.replacen("\"slow\":0", "\"slow\":0,\"retried\":1", 1);
        assert!(serde_json::from_str::<Tallies>(&unknown).is_err());
    }
}
