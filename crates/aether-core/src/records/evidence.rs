//! `evidence/{updateId}`: what the calls of an update showed, as it is
//! committed.
//!
//! Sessions count without an end, and tell sums. What is new in them is found
//! by the mark that each session's last sums left; marks and tallies are
//! written by the same entry, so that a leader that takes over counts nothing
//! twice and loses nothing. What follows from the tallies is judged elsewhere
//! (`crate::evidence`, `crate::health`), and never committed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, Side, Tallies, is_warm};
use crate::ids::{SessionId, UpdateId};
use crate::weights::Weights;

/// What one life of a session has counted, both sides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Sums {
    /// Log index at which that life was opened.
    pub life: u64,
    /// First attempts at both versions. All latencies were held against the
    /// reference of the record, or none.
    pub tallies: Tallies,
    /// First attempts at the new version that took longer than the threshold of the
    /// p99 latency.
    pub late: u64,
}

impl Sums {
    /// What was added since `earlier`, sums of the same source; nothing where it
    /// has less than it had, as one that forgot an instance does.
    fn since(&self, earlier: &Self) -> Self {
        let side = |now: Side, then: Side| Side {
            requests: now.requests.saturating_sub(then.requests),
            errors: now.errors.saturating_sub(then.errors),
            timed: now.timed.saturating_sub(then.timed),
            slow: now.slow.saturating_sub(then.slow),
        };
        Self {
            life: self.life,
            tallies: Tallies {
                new: side(self.tallies.new, earlier.tallies.new),
                old: side(self.tallies.old, earlier.tallies.old),
            },
            late: self.late.saturating_sub(earlier.late),
        }
    }

    /// Without what a side has counted, where that was not for this update.
    fn of_sides(mut self, new: bool, old: bool) -> Self {
        if !new {
            (self.tallies.new, self.late) = Default::default();
        }
        if !old {
            self.tallies.old = Side::default();
        }
        self
    }
}

/// With what sums are counted: another measure makes them another count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Measure {
    /// What the p99 latency of the new version is compared with, milliseconds.
    pub p99_ms: u32,
    /// Requests in a bucket of [`crate::latency`] above this one are slow; absent
    /// until the old version has served enough for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<u32>,
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
    /// How sums are counted.
    pub measure: Measure,
    /// By weights.
    pub evidence: Evidence,
    /// In the present epoch, first attempts at the new version that took longer than
    /// the threshold.
    pub late: u64,
    /// Log time of the last sums; what is counted next was counted from then on.
    pub counted_ms: u64,
    /// By session, the sums that are counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<SessionId, Sums>,
}

impl EvidenceRecord {
    /// Of an update of which nothing was counted.
    pub fn new(update: UpdateId, since_index: u64, measure: Measure) -> Self {
        Self {
            update,
            since_index,
            measure,
            evidence: Evidence::default(),
            late: 0,
            counted_ms: 0,
            marks: BTreeMap::new(),
        }
    }

    /// The first attempts of the present epoch.
    pub fn present(&self) -> Tallies {
        let last = self.evidence.epochs().last_key_value();
        last.map(|(_, epoch)| epoch.tallies).unwrap_or_default()
    }

    /// Begins an epoch at a log index and time.
    pub(crate) fn begin(&mut self, index: u64, weights: Weights, now_ms: u64) {
        self.evidence.open(index, weights, now_ms, self.measure.reference);
        self.late = 0;
    }

    /// The old version has served enough: from now on slow requests are counted.
    pub(crate) fn refer(&mut self, index: u64, measure: Measure) {
        self.measure_anew(index, measure);
        let last = self.evidence.epochs().last_key_value().map(|(index, _)| *index);
        if let (Some(last), Some(reference)) = (last, measure.reference) {
            self.evidence.refer(last, reference);
        }
    }

    /// Another measure: what was counted stays, and sums begin with a baseline.
    pub(crate) fn measure_anew(&mut self, index: u64, measure: Measure) {
        self.measure = measure;
        self.since_index = index;
        self.marks.clear();
    }

    /// Takes in sums of sessions, told at log time `now_ms`. `from_zero` says of a
    /// life without a mark whether all of each side, new and old, was counted for
    /// this update.
    pub(crate) fn take<'a>(
        &mut self,
        sums: impl Iterator<Item = (&'a SessionId, Sums, (bool, bool))>,
        warm_up_ms: u64,
        now_ms: u64,
    ) {
        let mut added = (Tallies::default(), 0u64);
        for (session, sums, (new, old)) in sums {
            let more = match self.marks.get(session) {
                Some(mark) if mark.life > sums.life => continue,
                Some(mark) if mark.life == sums.life => sums.since(mark),
                // A life that follows another began after that, and so after the mark.
                Some(_) => sums,
                None => sums.of_sides(new, old),
            };
            added.0.fold(more.tallies);
            added.1 = added.1.saturating_add(more.late);
            self.marks.insert(session.clone(), sums);
        }
        let last = self.evidence.epochs().last_key_value();
        let last = last.map(|(index, epoch)| (*index, epoch.begun_ms));
        if let Some((index, begun_ms)) = last
            && is_warm(begun_ms, warm_up_ms, self.counted_ms)
        {
            self.evidence.fold(index, added.0);
            self.late = self.late.saturating_add(added.1);
        }
        self.counted_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EvidenceRecord {
        let measure = Measure { p99_ms: 500, reference: Some(40) };
        let mut record = EvidenceRecord::new(UpdateId::from_index(5), 5, measure);
        record.begin(5, Weights::ALL_NEW, 1_000);
        record.counted_ms = 1_000;
        record
    }

    fn sums(life: u64, new: u64, old: u64) -> Sums {
        let side = |requests| Side { requests, errors: requests / 10, timed: requests, slow: 0 };
        Sums { life, tallies: Tallies { new: side(new), old: side(old) }, late: new / 50 }
    }

    fn take(record: &mut EvidenceRecord, sums: Sums, from_zero: (bool, bool), now_ms: u64) {
        record.take([(&"s".parse().unwrap(), sums, from_zero)].into_iter(), 0, now_ms);
    }

    fn counted(record: &EvidenceRecord) -> Vec<(u64, u64)> {
        let epochs = record.evidence.epochs().values();
        epochs.map(|e| (e.tallies.new.requests, e.tallies.old.requests)).collect()
    }

    #[test]
    fn sums_count_once_however_often_they_are_told() {
        let mut record = record();
        take(&mut record, sums(3, 100, 900), (true, false), 2_000);
        assert_eq!(counted(&record), [(100, 0)], "the old version's are a baseline");
        for _ in 0..3 {
            take(&mut record, sums(3, 150, 1_000), (true, false), 3_000);
        }
        assert_eq!((counted(&record), record.late), (vec![(150, 100)], 3));
        // It forgot an instance: nothing is taken back, and it goes on from there.
        take(&mut record, sums(3, 120, 1_000), (true, false), 4_000);
        take(&mut record, sums(3, 130, 1_000), (true, false), 4_000);
        assert_eq!(counted(&record), [(160, 100)]);
    }

    #[test]
    fn a_new_life_counts_from_zero_and_an_old_one_not_at_all() {
        let mut record = record();
        take(&mut record, sums(3, 100, 900), (true, false), 2_000);
        take(&mut record, sums(9, 10, 20), (false, false), 2_000);
        take(&mut record, sums(3, 500, 5_000), (true, true), 2_000);
        assert_eq!(counted(&record), [(110, 20)]);
    }

    #[test]
    fn what_was_counted_in_the_warm_up_is_marked_and_is_no_evidence() {
        let (mut record, s) = (record(), "s".parse().unwrap());
        record.begin(8, Weights::ALL_NEW, 2_000);
        let mut take = |sums, now_ms| {
            record.take([(&s, sums, (true, true))].into_iter(), 10_000, now_ms);
        };
        take(sums(3, 100, 900), 11_500);
        // Counted from 11.5 s on, of which half a second is of the warm-up.
        take(sums(3, 130, 960), 12_500);
        take(sums(3, 140, 970), 13_500);
        assert_eq!(counted(&record), [(0, 0), (10, 10)]);
    }

    #[test]
    fn another_measure_begins_with_a_baseline_and_keeps_what_was_counted() {
        let mut record = record();
        take(&mut record, sums(3, 100, 900), (true, true), 2_000);
        record.measure_anew(9, Measure { p99_ms: 100, reference: Some(40) });
        take(&mut record, sums(3, 200, 1_000), (false, false), 3_000);
        take(&mut record, sums(3, 210, 1_050), (false, false), 4_000);
        assert_eq!(counted(&record), [(110, 950)]);
    }
}
