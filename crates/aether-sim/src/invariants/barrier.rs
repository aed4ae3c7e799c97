//! Behind a barrier no call begins at the old version after the first one at the new,
//! unless its session says so; and calls are held for no longer than it takes. (Design,
//! section 5, `blue-green`: "a switch with no overlap".)

use std::collections::BTreeMap;

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::{RevisionNo, UpdateId};
use aether_core::records::UpdateRecord;
use aether_core::weights::Weights;

use super::Step;
use crate::invoker::{Invoker, Picked};

#[derive(Debug)]
struct Switch {
    update: UpdateId,
    old: RevisionNo,
    held_revision: u64,
}

/// Switches that stand.
#[derive(Debug, Default)]
pub struct Barriers(BTreeMap<SliceName, Switch>);

impl Barriers {
    pub(super) fn check(&mut self, step: &Step<'_>) -> Result<(), String> {
        for (before, after) in step.changed_updates() {
            let stands = after.weights == Weights::ALL_NEW && !after.state.is_terminal();
            let known = self.0.get(&after.slice);
            if !stands && known.is_some_and(|switch| switch.update == after.id) {
                self.0.remove(&after.slice);
            }
            let was_at = before.map_or(0, UpdateRecord::step);
            let entered = matches!(step.done(), Some(Command::EnterStep { .. }));
            if entered && after.step() > was_at && after.has_barrier_at(after.step()) {
                self.switched(step, after)?;
            }
            if let Some(Command::MarkSwitched { late_calls, .. }) = step.done() {
                reported(step, after, *late_calls)?;
            }
        }
        Ok(())
    }

    /// Everybody who may call holds his calls, or was to.
    fn switched(&mut self, step: &Step<'_>, update: &UpdateRecord) -> Result<(), String> {
        let (id, slice) = (&update.id, &update.slice);
        let held_revision = update.progress.as_ref().and_then(|progress| progress.held_revision);
        let (Some(held_revision), Some(old)) = (held_revision, &update.old) else {
            return Err(format!("{id} switches without having held any call"));
        };
        for caller in step.callers.iter().filter(|caller| is_known(step, caller)) {
            let table = caller.held.get(slice).map(|held| &held.table);
            if let Some(table) = table.filter(|table| table.route_revision < held_revision) {
                let by = table.route_revision;
                return Err(format!("{id} switches while {} calls by route {by}", caller.session));
            }
        }
        let switch = Switch { update: id.clone(), old: old.revision, held_revision };
        self.0.insert(slice.clone(), switch);
        Ok(())
    }

    /// Looks at a call that begins; of a caller that the control plane has given up,
    /// nothing is promised.
    ///
    /// # Errors
    /// That it goes to the version that was left, and nobody is told.
    pub fn call(&self, slice: &SliceName, picked: &Picked, is_known: bool) -> Result<(), String> {
        let Some(switch) = self.0.get(slice).filter(|_| is_known) else { return Ok(()) };
        let is_told = picked.late_for == Some(switch.held_revision);
        match picked.revision == switch.old && !is_told {
            false => Ok(()),
            true => Err(format!(
                "a call to {slice} begins at {} after the switch of {}",
                picked.instance, switch.update
            )),
        }
    }
}

/// Whether the control plane knows of the present life of a caller that runs.
fn is_known(step: &Step<'_>, caller: &Invoker) -> bool {
    let record = step.before.sessions.get(&caller.session);
    caller.is_up && record.is_some_and(|record| record.opened == caller.life)
}

/// What sessions let go is written down.
fn reported(step: &Step<'_>, update: &UpdateRecord, said: u64) -> Result<(), String> {
    let held_revision = update.progress.as_ref().and_then(|progress| progress.held_revision);
    let late = |caller: &Invoker| {
        let late = caller.late.get(&update.slice)?;
        (Some(late.route_revision) == held_revision).then_some(late.calls)
    };
    let callers = step.callers.iter().filter(|caller| is_known(step, caller));
    let late: u64 = callers.filter_map(late).sum();
    match late > said {
        true => Err(format!("{late} calls were late for {}, and {said} are told", update.id)),
        false => Ok(()),
    }
}
