//! What sessions have counted, as commands for the log: when and of whom follows the
//! server's `leader/evidence.rs`; what is new in it is found by the core for both.

use std::collections::BTreeMap;

use aether_core::command::Command;
use aether_core::evidence::{News, Proposed, QUANTILE_PPM, Tallies, reference_bucket};
use aether_core::health::Tally;
use aether_core::ids::{InstanceId, SessionId, UpdateId};
use aether_core::records::{
    Counts, EvidenceRecord, Measure, Side, Sums, UpdateRecord, UpdateState,
};
use aether_core::state::State;

use crate::invoker::SessionReport;
use crate::planted::Planted;
use crate::served::Served;

/// Evidence is committed this often, at most.
const EVERY_MS: u64 = 1_000;

/// The last report of a session.
pub type Reports<'a> = BTreeMap<&'a SessionId, &'a SessionReport>;

/// What a leader knows of the evidence that it has proposed.
#[derive(Debug, Default)]
pub struct Proposals {
    /// When that of an update was, log time.
    recorded: BTreeMap<UpdateId, u64>,
    proposed: BTreeMap<UpdateId, Proposed>,
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
            let proposed = self.proposed.entry(update.id.clone()).or_default();
            let told = told(reports, update, measure, state);
            let News { sums, mut instances } = proposed.news(state, known, told);
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
        self.proposed.retain(|id, _| state.evidence.contains_key(id));
        self.recorded.retain(|id, _| state.evidence.contains_key(id));
        due
    }
}

/// What committed sessions have counted of an update, and of which instances.
fn told<'a>(
    reports: &'a Reports<'_>,
    update: &'a UpdateRecord,
    measure: Measure,
    state: &'a State,
) -> impl Iterator<Item = (SessionId, Sums, impl FnOnce() -> BTreeMap<InstanceId, Counts>)> {
    state.sessions.iter().filter_map(move |(id, record)| {
        let report = reports.get(id).filter(|report| report.life == record.opened)?;
        let new = served(report, update, &update.new);
        let of = |served: Option<&Served>| {
            served.map_or_else(Counts::default, |served| Counts::of(&served.all, measure))
        };
        let Counts { side, late } = of(new);
        let old = of(update.old.as_ref().and_then(|old| served(report, update, old))).side;
        let sums = Sums { life: record.opened, tallies: Tallies { new: side, old }, late };
        let instances = move || {
            let instances = new.into_iter().flat_map(|served| &served.instances);
            instances.map(|(id, tally)| (id.clone(), Counts::of(tally, measure))).collect()
        };
        Some((id.clone(), sums, instances))
    })
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
