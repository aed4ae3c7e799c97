//! No step is entered or left past a gate that did not pass, unless a person forces
//! it. (The gates of a strategy: a failed one leads to the action of a failed step,
//! and what nobody knows is no pass.)
//!
//! What counts is what was committed under the update as it was: what was asked
//! before a resume says nothing after it.

use std::collections::BTreeSet;

use aether_core::command::Command;
use aether_core::ids::UpdateId;
use aether_core::records::{Gate, GateVerdict, GateWhen, UpdateRecord, UpdateState};

use super::Step;

/// A gate for a step of an update.
type Key = (UpdateId, String, GateWhen, u32);

/// Gates that were passed, and those that a person went past ahead of the step.
#[derive(Debug, Default)]
pub struct Passed {
    passed: BTreeSet<Key>,
    forced: BTreeSet<Key>,
}

impl Passed {
    pub(super) fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        if let Some(Command::RecordGate { update, gate, when, step: of, verdict, .. }) = step.done()
            && *verdict == GateVerdict::Pass
        {
            self.passed.insert((update.clone(), gate.clone(), *when, *of));
        }
        for (before, after) in step.changed_updates() {
            let Some(before) = before else { continue };
            self.check_update(step, before, after)?;
            let was_pending = before.pending_weights.is_some();
            if matches!(step.done(), Some(Command::Resume { .. })) && !was_pending {
                self.passed.retain(|(of, ..)| *of != after.id);
                // Who went past gates to a switch that waits for sessions still does.
                if !(after.is_promoted() && after.strategy.has_barrier()) {
                    self.forget(&after.id);
                }
            }
        }
        Ok(())
    }

    fn check_update(
        &mut self,
        step: &Step<'_>,
        before: &UpdateRecord,
        after: &UpdateRecord,
    ) -> Result<(), String> {
        let (id, from, to) = (&after.id, before.step(), after.step());
        let completes =
            before.state == UpdateState::Routing && after.state == UpdateState::Completing;
        let is_forced = match step.done() {
            Some(Command::Promote { force, full, .. }) => *force || *full,
            Some(Command::Complete { force, .. }) => *force,
            Some(Command::SetWeights { force, .. }) => *force,
            // It was forced as it was asked for, or had passed.
            Some(Command::Approve { .. }) => true,
            _ => false,
        };
        let asks_for_approval = before.pending_weights.is_none() && after.pending_weights.is_some();
        let pending = after.progress.as_ref().and_then(|progress| progress.pending);
        let end = match (completes, asks_for_approval, pending) {
            (true, ..) => after.way().map_or(to, |way| way.last()) + 1,
            (_, true, Some(pending)) => pending,
            _ => to,
        };
        let follows = after.strategy.is_in_place() || after.has_barrier_at(from + 1);
        if is_forced && follows && end == from {
            // They let the next batch come, or the switch, once sessions hold their calls.
            gates(after, from, from + 1).for_each(|(gate, of)| {
                self.forced.insert((id.clone(), gate.name.clone(), gate.when, of));
            });
        }
        if !is_forced {
            let missing = gates(after, from, end).find(|(gate, of)| {
                let key = (id.clone(), gate.name.clone(), gate.when, *of);
                !self.passed.contains(&key) && !self.forced.contains(&key)
            });
            if let Some((gate, of)) = missing {
                let (name, when) = (&gate.name, gate.when);
                return Err(format!("{id} went on though '{name}' {when} step {of} did not pass"));
            }
        }
        if from != to {
            self.forget(id);
        }
        Ok(())
    }

    fn forget(&mut self, id: &UpdateId) {
        for gates in [&mut self.passed, &mut self.forced] {
            gates.retain(|(of, ..)| of != id);
        }
    }
}

/// Gates between a step and a later one, each with the step that it is for. Of a
/// first deployment all are for its only step.
fn gates(update: &UpdateRecord, from: u32, to: u32) -> impl Iterator<Item = (&Gate, u32)> {
    let last = update.way().map_or(0, |way| way.last());
    let all = update.strategy.analysis().map_or(&[][..], |analysis| &analysis.gates);
    let is_first = update.old.is_none();
    (from..to).flat_map(move |step| {
        all.iter().filter_map(move |gate| {
            let of = if gate.when == GateWhen::After { step } else { step + 1 };
            let is_for = is_first || gate.step.is_none_or(|only| only == of);
            ((1..=last).contains(&of) && is_for).then_some((gate, of))
        })
    })
}
