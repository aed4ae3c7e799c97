//! What sessions have counted, as commands for the log.
//!
//! Sessions tell sums without an end; the state has the sums that it has taken
//! in. The difference is proposed about once a second, so that what a step
//! showed survives the leader that saw it.

use std::collections::BTreeMap;

use aether_core::command::Command;
use aether_core::evidence::{News, Proposed, QUANTILE_PPM, Tallies, reference_bucket};
use aether_core::ids::InstanceId;
use aether_core::records::{Counts, EvidenceRecord, Measure, Sums, UpdateRecord, UpdateState};
use aether_core::state::State;

use super::Inner;
use crate::telemetry::Told;

/// How often the evidence of an update is committed, at most.
const EVERY_MS: u64 = 1_000;
/// Sessions whose sums one entry a second may hold. With more of them the entries
/// become fewer: each session takes some 200 bytes in the log and in the record.
const SESSIONS_A_SECOND: u64 = 100;

impl Inner {
    pub(super) fn evidence(&mut self, state: &State, now_ms: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        if self.telemetry.has_forgotten() {
            // Sums that lack what was let go of would have it again when it is told
            // again. Without evidence a step waits, and then pauses.
            return commands;
        }
        let mut recorded = BTreeMap::new();
        let mut proposed = std::mem::take(&mut self.proposed);
        let live = state.slices.values().filter_map(|slice| slice.live_update.as_ref());
        for id in live {
            let (Some(update), Some(known)) = (state.updates.get(id), state.evidence.get(id))
            else {
                continue;
            };
            let last_ms = self.recorded.get(id).copied();
            let sessions = known.marks.len() as u64;
            let span_ms = EVERY_MS.max(EVERY_MS * sessions / SESSIONS_A_SECOND);
            let is_due = last_ms.is_none_or(|last_ms| now_ms >= last_ms.saturating_add(span_ms));
            if update.state != UpdateState::Routing || !is_due {
                recorded.extend(last_ms.map(|last_ms| (id.clone(), last_ms)));
                continue;
            }
            // Adding up what all sessions counted is for once in that time, too.
            recorded.insert(id.clone(), now_ms);
            let measure = self.measure(update, known);
            let proposed = proposed.entry(id.clone()).or_default();
            let News { sums, instances } = self.news(update, known, measure, state, proposed);
            if !sums.is_empty() {
                let update = id.clone();
                commands.push(Command::RecordEvidence { update, measure, sums, instances });
            }
        }
        proposed.retain(|id, _| recorded.contains_key(id));
        self.proposed = proposed;
        self.recorded = recorded;
        commands
    }

    /// The measure of the record, and from which latency on requests are slow as
    /// soon as the old version has served enough for that.
    fn measure(&self, update: &UpdateRecord, known: &EvidenceRecord) -> Measure {
        let mut measure = known.measure;
        if measure.reference.is_none()
            && let Some(old) = &update.old
        {
            let served = self.telemetry.total(&(update.slice.clone(), old.revision));
            measure.reference = reference_bucket(&served, QUANTILE_PPM);
        }
        measure
    }

    /// What sessions have counted of an update that the state does not have.
    fn news(
        &self,
        update: &UpdateRecord,
        known: &EvidenceRecord,
        measure: Measure,
        state: &State,
        proposed: &mut Proposed,
    ) -> News {
        let counted =
            |revision| self.telemetry.by_session(&(update.slice.clone(), revision), measure);
        let new = counted(update.new.revision);
        let old = update.old.as_ref().map(|old| counted(old.revision)).unwrap_or_default();
        let told = state.sessions.iter().filter_map(|(id, record)| {
            // Figures of an earlier life are not this one's; and of one that has not
            // told all, the rest would seem to have been counted later.
            let heard = self.sessions.get(id.as_str());
            heard.filter(|heard| heard.life() == record.opened && heard.told_all)?;
            let new = new.get(id.as_str());
            let Counts { side, late } = new.map_or_else(Counts::default, |told| told.all);
            let old = old.get(id.as_str()).map_or_else(Default::default, |told| told.all.side);
            let sums = Sums { life: record.opened, tallies: Tallies { new: side, old }, late };
            Some((id.clone(), sums, move || new.map(ids).unwrap_or_default()))
        });
        proposed.news(state, known, told)
    }
}

fn ids(told: &Told<'_>) -> BTreeMap<InstanceId, Counts> {
    let parsed = told.instances.iter().filter_map(|(id, counts)| Some((id.parse().ok()?, *counts)));
    parsed.collect()
}
