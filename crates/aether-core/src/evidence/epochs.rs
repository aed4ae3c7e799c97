//! Evidence by epoch of the route: a new epoch begins when the weights change.
//!
//! Within an epoch the split is fixed, so that load and failures which come and
//! go meet both sides in the same proportion. Counts of different splits must
//! not be thrown together: if the rate of errors changed with the split, both
//! versions' rates would differ though they are alike (Simpson's paradox).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tallies::Tallies;
use crate::weights::Weights;

/// Most epochs that are kept apart. A schedule of steps has about ten; this is
/// for people who set weights by hand. Beyond it the earliest two become one.
pub const EPOCHS_MAX: usize = 32;

/// How long after an epoch's begin requests are no evidence, by default: caches
/// fill, connections open, and invokers still hold the table before.
pub const WARM_UP_MS: u64 = 10_000;

/// Whether an interval that began at `from_ms` is past the warm-up of an epoch
/// that began at `begun_ms` (all in the same time, such as log time). Who folds
/// asks this for the *begin* of the interval in which requests were counted; the
/// high-water marks of what is not evidence move on all the same.
pub fn is_warm(begun_ms: u64, warm_up_ms: u64, from_ms: u64) -> bool {
    from_ms >= begun_ms.saturating_add(warm_up_ms)
}

/// What was counted under one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// The how manieth of the update it is, from 1. Of epochs that became one,
    /// the first's.
    pub number: u32,
    /// The weights; of epochs that became one, those with the least share of new.
    pub weights_least: Weights,
    /// The same with the largest share of new.
    pub weights_most: Weights,
    /// When it began, log time in milliseconds; of epochs that became one, the
    /// latest's.
    pub begun_ms: u64,
    /// Requests in a bucket of [`crate::latency`] above this one are slow. `None`
    /// until the old version has served enough requests to tell.
    #[serde(default)]
    pub reference: Option<u32>,
    /// First attempts since the warm-up.
    pub tallies: Tallies,
}

/// `evidence/{updateId}` but for the high-water marks of sessions: all counts of
/// an update, by the log index that committed the split.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    epochs: BTreeMap<u64, Epoch>,
    /// How many were opened in all.
    opened: u32,
    /// Whether the earliest entry stands for several epochs.
    #[serde(default)]
    gathered: bool,
}

impl Evidence {
    /// Begins an epoch at the log index `route_index` that committed `weights`.
    /// Answers whether it did: an index that is not above all before opens
    /// nothing.
    ///
    /// Beyond [`EPOCHS_MAX`] the earliest two become one that remembers the
    /// range of their splits. Judges take the end of the range that speaks
    /// against a decision, so that this costs power and never validity.
    pub fn open(
        &mut self,
        route_index: u64,
        weights: Weights,
        begun_ms: u64,
        reference: Option<u32>,
    ) -> bool {
        if self.epochs.last_key_value().is_some_and(|(last, _)| route_index <= *last) {
            return false;
        }
        if self.epochs.len() >= EPOCHS_MAX {
            self.gather();
        }
        self.opened = self.opened.saturating_add(1);
        let epoch = Epoch {
            number: self.opened,
            weights_least: weights,
            weights_most: weights,
            begun_ms,
            reference,
            tallies: Tallies::default(),
        };
        self.epochs.insert(route_index, epoch);
        true
    }

    /// Makes the earliest two one, under the index of the later.
    fn gather(&mut self) {
        let Some((_, first)) = self.epochs.pop_first() else { return };
        let Some(mut entry) = self.epochs.first_entry() else { return };
        let second = entry.get_mut();
        second.number = first.number;
        if first.weights_least.is_raised_by(second.weights_least) {
            second.weights_least = first.weights_least;
        }
        if second.weights_most.is_raised_by(first.weights_most) {
            second.weights_most = first.weights_most;
        }
        second.tallies.fold(first.tallies);
        self.gathered = true;
    }

    /// Adds counts to the epoch of a split. Answers whether there is one: what
    /// is counted under a split that is not of this update is no evidence.
    pub fn fold(&mut self, route_index: u64, tallies: Tallies) -> bool {
        match self.at_mut(route_index) {
            Some(epoch) => {
                epoch.tallies.fold(tallies);
                true
            }
            None => false,
        }
    }

    /// Sets from which bucket on requests are slow, for those that are folded
    /// after it. Answers whether there is such an epoch.
    pub fn refer(&mut self, route_index: u64, reference: u32) -> bool {
        match self.at_mut(route_index) {
            Some(epoch) => {
                epoch.reference = Some(reference);
                true
            }
            None => false,
        }
    }

    /// The entry of a split; what is late for one that was gathered finds it in
    /// the earliest.
    fn at_mut(&mut self, route_index: u64) -> Option<&mut Epoch> {
        let first = *self.epochs.first_key_value()?.0;
        let key = if self.gathered { route_index.max(first) } else { route_index };
        self.epochs.get_mut(&key)
    }

    /// All epochs by the log index of their split, the earliest first.
    pub fn epochs(&self) -> &BTreeMap<u64, Epoch> {
        &self.epochs
    }

    /// How many were opened in all.
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// What was counted over all epochs.
    pub fn total(&self) -> Tallies {
        self.epochs.values().fold(Tallies::default(), |mut sum, epoch| {
            sum.fold(epoch.tallies);
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Side;

    fn weights(text: &str) -> Weights {
        text.parse().unwrap()
    }

    fn requests(new: u64) -> Tallies {
        Tallies { new: Side { requests: new, ..Side::default() }, ..Tallies::default() }
    }

    #[test]
    fn an_epoch_begins_above_all_before_it_and_takes_only_its_own_counts() {
        let mut evidence = Evidence::default();
        assert!(!evidence.fold(7, requests(1)), "nothing is open");
        assert!(evidence.open(7, weights("1:9"), 0, None));
        assert!(!evidence.open(7, weights("1:3"), 0, None), "the same again");
        assert!(!evidence.open(6, weights("1:3"), 0, None), "an earlier one");
        assert!(evidence.fold(7, requests(2)));
        assert!(!evidence.fold(8, requests(4)) && !evidence.fold(6, requests(4)));
        assert_eq!(evidence.total(), requests(2));
        assert!(evidence.refer(7, 90) && !evidence.refer(8, 90));
        assert_eq!(evidence.epochs()[&7].reference, Some(90));
    }

    #[test]
    fn beyond_the_bound_the_earliest_become_one_and_lose_no_count() {
        let mut evidence = Evidence::default();
        let splits = ["1:9", "1:3", "1:19", "1:1"];
        for index in 0..40u64 {
            let split = weights(splits[usize::try_from(index % 4).unwrap()]);
            assert!(evidence.open(10 * index, split, index, None));
            assert!(evidence.fold(10 * index, requests(1)));
        }
        assert_eq!((evidence.epochs().len(), evidence.opened()), (EPOCHS_MAX, 40));
        let (key, first) = evidence.epochs().first_key_value().unwrap();
        assert_eq!((*key, first.number, first.tallies), (80, 1, requests(9)));
        assert_eq!((first.weights_least, first.weights_most), (weights("1:19"), weights("1:1")));
        assert!(evidence.fold(30, requests(1)), "late for one that was gathered");
        assert_eq!(evidence.total(), requests(41));
        assert_eq!(evidence.epochs()[&90].number, 10, "the others keep their number");
    }

    #[test]
    fn it_comes_back_from_json_and_survives_fields_of_later_releases() {
        let mut evidence = Evidence::default();
        evidence.open(3, weights("1:19"), 5, Some(77));
        evidence.fold(3, requests(9));
        let json = serde_json::to_string(&evidence).unwrap();
        assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), evidence);
        let later = json.replacen('{', "{\"later\":1,", 1);
        assert_eq!(serde_json::from_str::<Evidence>(&later).unwrap(), evidence);
        assert!(json.contains(r#""weightsLeast":"1:19""#), "{json}");
    }

    #[test]
    fn the_warm_up_ends_at_its_last_millisecond_and_never_overflows() {
        assert!(!is_warm(1_000, WARM_UP_MS, 10_999) && is_warm(1_000, WARM_UP_MS, 11_000));
        assert!(!is_warm(u64::MAX, WARM_UP_MS, u64::MAX - 1));
    }
}
