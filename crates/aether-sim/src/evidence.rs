//! What sessions have counted, as commands for the log: as the server's
//! `leader/evidence.rs` proposes it, sums by session and what is new in them by
//! instance.

use std::collections::BTreeMap;

use aether_core::command::Command;
use aether_core::evidence::{self, QUANTILE_PPM, Tallies, reference_bucket};
use aether_core::health::Tally;
use aether_core::ids::{InstanceId, SessionId, UpdateId};
use aether_core::latency;
use aether_core::level::since;
use aether_core::records::{
    Counts, EvidenceRecord, INSTANCES_TOLD_MAX, Measure, Side, Sums, UpdateRecord, UpdateState,
};
use aether_core::state::State;

use crate::invoker::SessionReport;
use crate::planted::Planted;
use crate::served::Served;

/// Evidence is committed this often, at most.
const EVERY_MS: u64 = 1_000;

/// The last report of a session.
pub type Reports<'a> = BTreeMap<&'a SessionId, &'a SessionReport>;

/// What the sums of a session were made of. Once they are committed as its mark, what is
/// beyond them can be told by instance.
#[derive(Debug)]
struct Baseline {
    sums: Sums,
    instances: BTreeMap<InstanceId, Counts>,
}

/// What a leader knows of the evidence that it has proposed.
#[derive(Debug, Default)]
pub struct Proposals {
    /// When that of an update was, log time.
    recorded: BTreeMap<UpdateId, u64>,
    made_of: BTreeMap<UpdateId, BTreeMap<SessionId, Baseline>>,
}

impl Proposals {
    /// What sessions have counted of updates that go by steps, and the state does not
    /// have yet.
    pub fn due(
        &mut self,
        reports: &Reports<'_>,
        state: &State,
        log_time_ms: u64,
        planted: Option<Planted>,
    ) -> Vec<Command> {
        let mut due = Vec::new();
        for update in state.slices.values().filter_map(|s| state.live_update(&s.slice)) {
            let Some(known) = state.evidence.get(&update.id) else { continue };
            let last_ms = self.recorded.get(&update.id).copied();
            let is_due = last_ms.is_none_or(|last_ms| log_time_ms >= last_ms + EVERY_MS);
            if update.state != UpdateState::Routing || !is_due {
                continue;
            }
            let measure = measure(reports, update, known);
            let (sums, mut instances) = self.sums(reports, update, known, measure, state);
            if sums.is_empty() {
                continue;
            }
            if planted == Some(Planted::MixesUpInstances) {
                let counts: Vec<Counts> = instances.values().rev().copied().collect();
                instances.values_mut().zip(counts).for_each(|(to, from)| *to = from);
            }
            if planted == Some(Planted::ForgetsInstances) {
                instances.clear();
            }
            self.recorded.insert(update.id.clone(), log_time_ms);
            let update = update.id.clone();
            due.push(Command::RecordEvidence { update, measure, sums, instances });
        }
        self.made_of.retain(|id, _| state.evidence.contains_key(id));
        due
    }

    /// The sums of those sessions that have others than the state has, and by instance
    /// what is new in them, as far as it is known.
    fn sums(
        &mut self,
        reports: &Reports<'_>,
        update: &UpdateRecord,
        known: &EvidenceRecord,
        measure: Measure,
        state: &State,
    ) -> (BTreeMap<SessionId, Sums>, BTreeMap<InstanceId, Counts>) {
        let by_instance = state.meta.feature_level >= since::EVIDENCE_BY_INSTANCE;
        let made_of = self.made_of.entry(update.id.clone()).or_default();
        made_of.retain(|id, _| state.sessions.contains_key(id));
        let (mut sums, mut added) = (BTreeMap::new(), BTreeMap::new());
        for (id, record) in &state.sessions {
            let heard = reports.get(id).filter(|report| report.life == record.opened);
            let Some(report) = heard else { continue };
            let new = served(report, update, &update.new);
            let of_new = counts(new.map(|served| &served.all), measure);
            let old = update.old.as_ref().and_then(|old| served(report, update, old));
            let old = counts(old.map(|served| &served.all), measure).side;
            let tallies = Tallies { new: of_new.side, old };
            let now = Sums { life: record.opened, tallies, late: of_new.late };
            if !known.is_news(id, &now) {
                continue;
            }
            let instances = new.into_iter().flat_map(|served| &served.instances);
            let instances = instances.map(|(id, tally)| (id.clone(), counts(Some(tally), measure)));
            let baseline = Baseline { sums: now, instances: instances.collect() };
            let mark = known.marks.get(id).map(|mark| mark.sums);
            let before = made_of.get(id).filter(|before| mark == Some(before.sums));
            for (instance, counts) in before.map(|b| baseline.since(b)).unwrap_or_default() {
                added.entry(instance).or_insert_with(Counts::default).fold(counts);
            }
            sums.insert(id.clone(), now);
            made_of.insert(id.clone(), baseline);
        }
        added.retain(|_, _| by_instance);
        (sums, added.into_iter().take(INSTANCES_TOLD_MAX).collect())
    }
}

impl Baseline {
    /// What each instance served since `before`; nothing where one of them has less of
    /// anything than it had.
    fn since(&self, before: &Self) -> BTreeMap<InstanceId, Counts> {
        let added = self.instances.iter().map(|(id, now)| {
            let before = before.instances.get(id).copied().unwrap_or_default();
            Some((id.clone(), now.since(before)?))
        });
        let mut added = added.collect::<Option<BTreeMap<_, _>>>().unwrap_or_default();
        added.retain(|_, counts| *counts != Counts::default());
        added
    }
}

/// The measure of the record; and what is slow, once the old version has served enough
/// for that.
fn measure(reports: &Reports<'_>, update: &UpdateRecord, known: &EvidenceRecord) -> Measure {
    let mut measure = known.measure;
    if let (None, Some(old)) = (measure.reference, &update.old) {
        let mut all = Tally::default();
        let told = reports.values().filter_map(|report| served(report, update, old));
        told.for_each(|served| all.add(&served.all));
        measure.reference = reference_bucket(&all, QUANTILE_PPM);
    }
    measure
}

fn served<'a>(report: &'a SessionReport, update: &UpdateRecord, of: &Side) -> Option<&'a Served> {
    report.counted.get(&(update.slice.clone(), of.revision)).map(|served| &**served)
}

/// First attempts as evidence has them, and those among them that took longer than the
/// threshold.
fn counts(tally: Option<&Tally>, measure: Measure) -> Counts {
    let Some(tally) = tally else { return Counts::default() };
    let threshold_us = u64::from(measure.p99_ms) * 1_000;
    let buckets = tally.buckets.iter();
    let late = buckets.filter(|(bucket, _)| latency::upper_bound_us(**bucket) > threshold_us);
    let late = late.map(|(_, count)| *count).sum();
    Counts { side: evidence::Side::of(tally, measure.reference), late }
}
