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

use crate::evidence::{Evidence, InstanceTallies, Side, Tallies, is_warm};
use crate::health::Tally;
use crate::ids::{InstanceId, SessionId, UpdateId};
use crate::latency;
use crate::weights::Weights;

/// Most instances of a new side that are told apart. Of more than these one host is
/// less than a hundredth of the version, and the record is written once a second.
pub const INSTANCES_TOLD_MAX: usize = 128;

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
    /// What was added since `earlier`, sums of the same life. A side that has less of
    /// anything than it had adds nothing: one that forgot an instance would seem to
    /// have had fewer requests and as many errors.
    fn since(&self, earlier: &Self) -> Self {
        let counts = |sums: &Self| Counts { side: sums.tallies.new, late: sums.late };
        let Counts { side: new, late } = counts(self).since(counts(earlier)).unwrap_or_default();
        let old = self.tallies.old.since(earlier.tallies.old).unwrap_or_default();
        Self { life: self.life, tallies: Tallies { new, old }, late }
    }
}

/// First attempts at the new version, or at one instance of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counts {
    /// All of them.
    pub side: Side,
    /// Those that took longer than the threshold of the p99 latency.
    pub late: u64,
}

impl Counts {
    /// Those of a tally, slow and late by a measure.
    pub fn of(tally: &Tally, measure: Measure) -> Self {
        let threshold_us = u64::from(measure.p99_ms) * 1_000;
        let buckets = tally.buckets.iter().rev();
        let late = buckets.take_while(|(b, _)| latency::upper_bound_us(**b) > threshold_us);
        let late = late.fold(0u64, |sum, (_, count)| sum.saturating_add(*count));
        Self { side: Side::of(tally, measure.reference), late }
    }

    /// What was added since `earlier`; none where there is less of anything.
    pub fn since(self, earlier: Self) -> Option<Self> {
        let side = self.side.since(earlier.side)?;
        Some(Self { side, late: self.late.checked_sub(earlier.late)? })
    }

    /// Adds others, saturating.
    pub fn fold(&mut self, other: Self) {
        self.side.fold(other.side);
        self.late = self.late.saturating_add(other.late);
    }
}

/// What the calls to one instance of the new side showed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceEvidence {
    /// First attempts, by the log index of the epoch.
    pub epochs: BTreeMap<u64, Side>,
    /// In the present epoch, those that took longer than the threshold.
    pub late: u64,
}

/// The sums of a session that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// The sums.
    pub sums: Sums,
    /// Log time at which they were told: what is told next was counted from then on.
    pub at_ms: u64,
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
    /// How sums are counted.
    pub measure: Measure,
    /// By weights.
    pub evidence: Evidence,
    /// In the present epoch, first attempts at the new version that took longer than
    /// the threshold.
    pub late: u64,
    /// By session, the sums that are counted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub marks: BTreeMap<SessionId, Mark>,
    /// By instance of the new side, those of the same requests of which it is known:
    /// all but the first that a session told to a leader. At most
    /// [`INSTANCES_TOLD_MAX`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub instances: BTreeMap<InstanceId, InstanceEvidence>,
}

impl EvidenceRecord {
    /// Of an update of which nothing was counted.
    pub fn new(update: UpdateId, measure: Measure) -> Self {
        let (marks, instances) = Default::default();
        Self { update, measure, evidence: Evidence::default(), late: 0, marks, instances }
    }

    /// The first attempts at each instance, as a judge takes them.
    pub fn by_instance(&self) -> InstanceTallies {
        let instances = self.instances.iter();
        instances.map(|(id, evidence)| (id.clone(), evidence.epochs.clone())).collect()
    }

    /// Those of the present epoch.
    pub fn present_by_instance(&self) -> BTreeMap<InstanceId, Counts> {
        let Some((last, _)) = self.evidence.epochs().last_key_value() else {
            return BTreeMap::new();
        };
        let counts = |evidence: &InstanceEvidence| {
            let side = evidence.epochs.get(last).copied()?;
            Some(Counts { side, late: evidence.late })
        };
        self.instances.iter().filter_map(|(id, e)| Some((id.clone(), counts(e)?))).collect()
    }

    /// Whether the sums of a session say anything that is not counted.
    pub fn is_news(&self, session: &SessionId, sums: &Sums) -> bool {
        let known = self.marks.get(session).map(|mark| mark.sums);
        known != Some(*sums) && sums.tallies != Tallies::default()
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
        let Some(first) = self.evidence.epochs().keys().next().copied() else { return };
        for evidence in self.instances.values_mut() {
            evidence.late = 0;
            // Of epochs that became one.
            while let Some(entry) = evidence.epochs.first_entry().filter(|e| *e.key() < first) {
                let side = entry.remove();
                evidence.epochs.entry(first).or_default().fold(side);
            }
        }
    }

    /// Nothing that was counted counts any more; marks stay, so that it does not count
    /// again.
    pub(crate) fn forget(&mut self) {
        self.evidence = Evidence::default();
        self.late = 0;
        self.instances.clear();
    }

    /// The old version has served enough: from now on slow requests are counted.
    pub(crate) fn refer(&mut self, measure: Measure) {
        self.measure_anew(measure);
        let last = self.evidence.epochs().last_key_value().map(|(index, _)| *index);
        if let (Some(last), Some(reference)) = (last, measure.reference) {
            self.evidence.refer(last, reference);
        }
    }

    /// Another measure: what was counted stays, and sums begin with a baseline.
    pub(crate) fn measure_anew(&mut self, measure: Measure) {
        self.measure = measure;
        self.marks.clear();
    }

    /// Takes in sums of sessions, told at log time `now_ms`. The first that a life
    /// tells are a baseline: nobody knows when they were counted.
    ///
    /// What was counted of the new side, if that is all that was new since the marks of
    /// these sessions.
    pub(crate) fn take<'a>(
        &mut self,
        sums: impl Iterator<Item = (&'a SessionId, &'a Sums)>,
        warm_up_ms: u64,
        now_ms: u64,
    ) -> Option<Counts> {
        let last = self.evidence.epochs().last_key_value();
        let last = last.map(|(index, epoch)| (*index, epoch.begun_ms));
        let mut counted = Some(Counts::default());
        for (session, sums) in sums {
            let mark = self.marks.get(session).copied();
            if mark.is_some_and(|mark| mark.sums.life > sums.life) {
                counted = None;
                continue;
            }
            self.marks.insert(session.clone(), Mark { sums: *sums, at_ms: now_ms });
            let (Some((index, begun_ms)), Some(mark)) = (last, mark) else { continue };
            if mark.sums.life != sums.life {
                continue;
            }
            if !is_warm(begun_ms, warm_up_ms, mark.at_ms) {
                counted = None;
                continue;
            }
            let more = sums.since(&mark.sums);
            self.evidence.fold(index, more.tallies);
            self.late = self.late.saturating_add(more.late);
            if let Some(counted) = &mut counted {
                counted.fold(Counts { side: more.tallies.new, late: more.late });
            }
        }
        counted
    }

    /// Takes in which instances of the new side the requests reached that were just
    /// counted. Of what does not add up nothing is taken: where it is not known which
    /// instance it was, it was the version.
    pub(crate) fn take_instances(
        &mut self,
        instances: BTreeMap<InstanceId, Counts>,
        counted: Counts,
    ) {
        let Some((index, _)) = self.evidence.epochs().last_key_value() else { return };
        let index = *index;
        let mut sum = Counts::default();
        instances.values().for_each(|counts| sum.fold(*counts));
        if counted.since(sum).is_none() {
            return;
        }
        for (id, counts) in instances {
            let is_told = self.instances.contains_key(&id);
            if is_told || self.instances.len() < INSTANCES_TOLD_MAX {
                let evidence = self.instances.entry(id).or_default();
                evidence.epochs.entry(index).or_default().fold(counts.side);
                evidence.late = evidence.late.saturating_add(counts.late);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> EvidenceRecord {
        let measure = Measure { p99_ms: 500, reference: Some(40) };
        let mut record = EvidenceRecord::new(UpdateId::from_index(5), measure);
        record.begin(5, Weights::ALL_NEW, 1_000);
        record
    }

    fn sums(life: u64, new: u64, old: u64) -> Sums {
        let side = |requests| Side { requests, errors: requests / 10, timed: requests, slow: 0 };
        Sums { life, tallies: Tallies { new: side(new), old: side(old) }, late: new / 50 }
    }

    fn take(record: &mut EvidenceRecord, session: &str, sums: Sums, now_ms: u64) -> Option<Counts> {
        record.take([(&session.parse().unwrap(), &sums)].into_iter(), 0, now_ms)
    }

    fn counted(record: &EvidenceRecord) -> Vec<(u64, u64)> {
        let epochs = record.evidence.epochs().values();
        epochs.map(|e| (e.tallies.new.requests, e.tallies.old.requests)).collect()
    }

    #[test]
    fn sums_count_once_however_often_they_are_told() {
        let mut record = record();
        take(&mut record, "s", sums(3, 100, 900), 2_000);
        assert_eq!(counted(&record), [(0, 0)], "the first are a baseline");
        for _ in 0..3 {
            take(&mut record, "s", sums(3, 200, 1_000), 3_000);
        }
        assert_eq!((counted(&record), record.late), (vec![(100, 100)], 2));
    }

    #[test]
    fn a_side_that_forgot_an_instance_adds_nothing_and_goes_on_from_there() {
        let mut record = record();
        take(&mut record, "s", sums(3, 1_500, 900), 2_000);
        // An instance without errors is gone, and twenty are new on another.
        let mut less = sums(3, 600, 1_000);
        less.tallies.new.errors = 170;
        take(&mut record, "s", less, 3_000);
        assert_eq!(counted(&record), [(0, 100)]);
        assert_eq!(record.present().new.errors, 0);
        less.tallies.new.requests += 10;
        take(&mut record, "s", less, 4_000);
        assert_eq!(counted(&record), [(10, 100)]);
    }

    #[test]
    fn a_new_life_begins_with_a_baseline_and_an_old_one_counts_not_at_all() {
        let mut record = record();
        take(&mut record, "s", sums(3, 100, 900), 2_000);
        take(&mut record, "s", sums(9, 10, 20), 2_000);
        take(&mut record, "s", sums(3, 500, 5_000), 2_000);
        take(&mut record, "s", sums(9, 30, 70), 3_000);
        assert_eq!(counted(&record), [(20, 50)]);
    }

    #[test]
    fn what_was_counted_in_the_warm_up_is_marked_and_is_no_evidence() {
        let mut record = record();
        let mut take = |session: &str, sums: Sums, now_ms| {
            record.take([(&session.parse().unwrap(), &sums)].into_iter(), 10_000, now_ms)
        };
        take("s", sums(3, 100, 900), 10_500);
        take("t", sums(4, 10, 90), 10_500);
        // Counted from 10.5 s on, of which half a second is of the warm-up.
        take("s", sums(3, 130, 960), 11_500);
        take("s", sums(3, 140, 970), 12_500);
        // Nobody knows when: it was silent, whoever else told meanwhile.
        take("t", sums(4, 1_000, 9_000), 13_000);
        assert_eq!(counted(&record), [(10, 10)]);
    }

    #[test]
    fn another_measure_begins_with_a_baseline_and_keeps_what_was_counted() {
        let mut record = record();
        take(&mut record, "s", sums(3, 0, 0), 1_500);
        take(&mut record, "s", sums(3, 100, 900), 2_000);
        record.measure_anew(Measure { p99_ms: 100, reference: Some(40) });
        take(&mut record, "s", sums(3, 200, 1_000), 3_000);
        take(&mut record, "s", sums(3, 210, 1_050), 4_000);
        assert_eq!(counted(&record), [(110, 950)]);
    }

    fn counts(requests: u64, errors: u64) -> Counts {
        Counts { side: Side { requests, errors, timed: requests, slow: 0 }, late: errors }
    }

    fn of(instances: &[(&str, Counts)]) -> BTreeMap<InstanceId, Counts> {
        instances.iter().map(|(id, counts)| (id.parse().unwrap(), *counts)).collect()
    }

    fn told(record: &EvidenceRecord) -> Vec<(String, u64, u64)> {
        let told = record.present_by_instance();
        let told = told.iter();
        told.map(|(id, c)| (id.to_string(), c.side.requests, c.late)).collect()
    }

    #[test]
    fn instances_count_only_with_the_requests_that_count() {
        let mut record = record();
        take(&mut record, "s", sums(3, 100, 0), 2_000);
        let counted = take(&mut record, "s", sums(3, 200, 0), 3_000).unwrap();
        assert_eq!((counted.side.requests, counted.side.errors, counted.late), (100, 10, 2));
        let two = of(&[("a-1-0", counts(60, 2)), ("a-1-1", counts(30, 0))]);
        record.take_instances(two.clone(), counted);
        let expected = [("a-1-0".to_owned(), 60, 2), ("a-1-1".to_owned(), 30, 0)];
        assert_eq!(told(&record), expected);
        // More than there were.
        record.take_instances(of(&[("a-1-0", counts(101, 0))]), counted);
        assert_eq!(told(&record), expected);
        record.begin(9, Weights::ALL_NEW, 4_000);
        assert!(told(&record).is_empty());
        assert_eq!(record.by_instance()[&"a-1-0".parse().unwrap()][&5].requests, 60);
    }

    #[test]
    fn where_a_session_does_not_count_nobody_knows_which_instances_did() {
        let mut record = record();
        take(&mut record, "s", sums(9, 100, 0), 2_000);
        assert_eq!(take(&mut record, "s", sums(3, 200, 0), 3_000), None, "of an earlier life");
        let session = "s".parse().unwrap();
        let cold = record.take([(&session, &sums(9, 200, 0))].into_iter(), 10_000, 3_000);
        assert_eq!(cold, None);
        let first = take(&mut record, "t", sums(4, 200, 0), 3_000);
        assert_eq!(first, Some(Counts::default()), "a baseline adds nothing");
    }

    #[test]
    fn instances_go_with_epochs_that_became_one_and_stay_within_their_bound() {
        let mut record = record();
        let many: Vec<String> =
            (0..INSTANCES_TOLD_MAX + 5).map(|n| format!("a-1-{n:03}")).collect();
        for id in &many {
            record.take_instances(of(&[(id, counts(1, 0))]), counts(1, 0));
        }
        assert_eq!(record.instances.len(), INSTANCES_TOLD_MAX);
        for index in 6..60 {
            record.begin(index, Weights::ALL_NEW, index);
            record.take_instances(of(&[(&many[0], counts(1, 0))]), counts(1, 0));
        }
        let by_epoch = &record.by_instance()[&many[0].parse().unwrap()];
        let epochs: Vec<u64> = record.evidence.epochs().keys().copied().collect();
        assert_eq!(by_epoch.keys().copied().collect::<Vec<_>>(), epochs);
        assert_eq!(by_epoch.values().map(|side| side.requests).sum::<u64>(), 55);
    }
}
