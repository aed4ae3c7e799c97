//! `evidence/{updateId}`: what the calls of an update showed, as it is
//! committed.
//!
//! Sessions count without an end, and tell sums. What is new in them is found
//! by the mark that each session's last sums left; marks and tallies are
//! written by the same entry, so that a leader that takes over counts nothing
//! twice and loses nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{SessionId, UpdateId};
use crate::weights::Weights;

/// First attempts of one version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that took longer than the threshold of the p99 latency.
    pub slow: u64,
}

impl Counts {
    /// Adds others. Whoever counted may have told nonsense: sums stop at the
    /// largest number.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.slow = self.slow.saturating_add(other.slow);
    }

    /// What was added since `earlier`, sums of the same source; nothing where it
    /// has less than it had, as one that forgot an instance does.
    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            slow: self.slow.saturating_sub(earlier.slow),
        }
    }

    /// Whether nothing is counted.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The sums that one life of a session has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sums {
    /// Log index at which that life was opened.
    pub life: u64,
    /// Of the new version.
    pub new: Counts,
    /// Of the old version.
    pub old: Counts,
}

/// What was counted under one pair of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// Log index of the entry that routed by these weights, or that began to
    /// count anew.
    pub from_index: u64,
    /// Log time from which calls count.
    pub from_ms: u64,
    /// The weights new:old.
    pub weights: Weights,
    /// Of the new version.
    pub new: Counts,
    /// Of the old version.
    pub old: Counts,
}

/// All that the calls of an update showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRecord {
    /// The update.
    pub update: UpdateId,
    /// Log index since which sums are compared with marks: what a session that
    /// was opened later has counted, it has counted since.
    pub since_index: u64,
    /// What the p99 latency is compared with, milliseconds.
    pub p99_ms: u32,
    /// By weights, the latest last; at most [`EPOCHS_MAX`].
    pub epochs: Vec<Epoch>,
    /// By session, the sums that are counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<SessionId, Sums>,
}

/// Epochs kept of an update: the steps of the longest canary, and as many
/// changes by hand. Of more, the oldest go: what was shown under weights of long
/// ago says least.
pub const EPOCHS_MAX: usize = 200;

impl EvidenceRecord {
    /// Of an update of which nothing was counted.
    pub fn new(update: UpdateId, since_index: u64, p99_ms: u32) -> Self {
        Self { update, since_index, p99_ms, epochs: Vec::new(), marks: BTreeMap::new() }
    }

    /// Begins an epoch.
    pub(crate) fn begin(&mut self, epoch: Epoch) {
        self.epochs.push(epoch);
        if self.epochs.len() > EPOCHS_MAX {
            self.epochs.remove(0);
        }
    }

    /// Takes in the sums of one session. `from_zero` says of each side, new and
    /// old, whether a life without a mark has counted all of it for this update.
    /// What is new counts for the latest epoch, if that counts by `now_ms`.
    pub(crate) fn take(
        &mut self,
        session: &SessionId,
        sums: Sums,
        from_zero: (bool, bool),
        now_ms: u64,
    ) {
        let mark = self.marks.get(session).copied();
        let (new, old) = match mark {
            Some(mark) if mark.life > sums.life => return,
            Some(mark) if mark.life == sums.life => {
                (sums.new.since(&mark.new), sums.old.since(&mark.old))
            }
            // A life that follows another began after that, and so after the mark.
            Some(_) => (sums.new, sums.old),
            None => {
                let of = |zero, counts| if zero { counts } else { Counts::default() };
                (of(from_zero.0, sums.new), of(from_zero.1, sums.old))
            }
        };
        self.marks.insert(session.clone(), sums);
        if let Some(epoch) = self.epochs.last_mut().filter(|epoch| epoch.from_ms <= now_ms) {
            epoch.new.add(&new);
            epoch.old.add(&old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EvidenceRecord {
        let mut record = EvidenceRecord::new(UpdateId::from_index(5), 5, 500);
        record.begin(epoch(5, 1_000));
        record
    }

    fn epoch(from_index: u64, from_ms: u64) -> Epoch {
        let (new, old) = Default::default();
        Epoch { from_index, from_ms, weights: Weights::ALL_NEW, new, old }
    }

    fn sums(life: u64, new: u64, old: u64) -> Sums {
        let counts = |requests| Counts { requests, errors: requests / 10, slow: 0 };
        Sums { life, new: counts(new), old: counts(old) }
    }

    fn counted(record: &EvidenceRecord) -> Vec<(u64, u64)> {
        record.epochs.iter().map(|epoch| (epoch.new.requests, epoch.old.requests)).collect()
    }

    #[test]
    fn sums_count_once_however_often_they_are_told() {
        let (mut record, s) = (record(), "s".parse().unwrap());
        record.take(&s, sums(3, 100, 900), (true, false), 2_000);
        assert_eq!(counted(&record), [(100, 0)], "the old version's are a baseline");
        for _ in 0..3 {
            record.take(&s, sums(3, 150, 1_000), (true, false), 3_000);
        }
        assert_eq!(counted(&record), [(150, 100)]);
        // It forgot an instance: nothing is taken back, and it goes on from there.
        record.take(&s, sums(3, 120, 1_000), (true, false), 4_000);
        record.take(&s, sums(3, 130, 1_000), (true, false), 4_000);
        assert_eq!(counted(&record), [(160, 100)]);
    }

    #[test]
    fn a_new_life_counts_from_zero_and_an_old_one_not_at_all() {
        let (mut record, s) = (record(), "s".parse().unwrap());
        record.take(&s, sums(3, 100, 900), (true, false), 2_000);
        record.take(&s, sums(9, 10, 20), (false, false), 2_000);
        record.take(&s, sums(3, 500, 5_000), (true, true), 2_000);
        assert_eq!(counted(&record), [(110, 20)]);
    }

    #[test]
    fn what_comes_in_the_warm_up_is_marked_and_not_counted() {
        let (mut record, s) = (record(), "s".parse().unwrap());
        record.begin(epoch(8, 12_000));
        record.take(&s, sums(3, 100, 900), (true, true), 11_999);
        record.take(&s, sums(3, 130, 960), (true, true), 12_000);
        assert_eq!(counted(&record), [(0, 0), (30, 60)]);
    }

    #[test]
    fn the_oldest_epochs_go() {
        let mut record = record();
        (0..EPOCHS_MAX as u64 + 3).for_each(|n| record.begin(epoch(n, n)));
        assert_eq!(record.epochs.len(), EPOCHS_MAX);
        assert_eq!(record.epochs.last().unwrap().from_index, EPOCHS_MAX as u64 + 2);
    }
}
