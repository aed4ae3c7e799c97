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
    /// Log index of its entry.
    index: u64,
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
        let index = step.entry.at.index;
        let switch = Switch { update: id.clone(), old: old.revision, held_revision, index };
        self.0.insert(slice.clone(), switch);
        Ok(())
    }

    /// Looks at a call of a caller whose session was opened at this log index, if it has
    /// one.
    ///
    /// # Errors
    /// That it goes to the version that was left, and nobody is told.
    pub fn call(
        &self,
        slice: &SliceName,
        picked: &Picked,
        caller: &Invoker,
        opened: Option<u64>,
    ) -> Result<(), String> {
        let Some(switch) = self.0.get(slice) else { return Ok(()) };
        let is_told = picked.late_for == Some(switch.held_revision);
        match switch.binds(caller, opened) && picked.revision == switch.old && !is_told {
            false => Ok(()),
            true => Err(format!(
                "a call to {slice} begins at {} after the switch of {}",
                picked.instance, switch.update
            )),
        }
    }
}

impl Switch {
    /// Whether anything is promised of a caller. It is of all that the switch waited
    /// for. Of one that the control plane had given up nothing is until it is back and
    /// was given tables: it goes on by those that it has, as it did all the time before.
    fn binds(&self, caller: &Invoker, opened: Option<u64>) -> bool {
        let is_known = opened == Some(caller.life);
        is_known && (caller.life < self.index || caller.told_life == caller.life)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aether_core::records::SessionKind;
    use aether_core::schedule::Side;
    use aether_core::table::SliceTable;

    use super::*;

    const SLICE: &str = "org.example:shop";
    const OLD: RevisionNo = RevisionNo(1);

    fn slice() -> SliceName {
        SLICE.parse().unwrap()
    }

    /// A switch at log index 100.
    fn barriers() -> Barriers {
        let update = "u1".parse().unwrap();
        let switch = Switch { update, old: OLD, held_revision: 90, index: 100 };
        Barriers(BTreeMap::from([(slice(), switch)]))
    }

    /// A call at the old version by a table of before.
    fn late(late_for: Option<u64>) -> Picked {
        let table = SliceTable {
            slice: slice(),
            route_revision: 80,
            table_revision: 80,
            weights: Weights::ALL_OLD,
            new: None,
            old: None,
            ingress: Vec::new(),
            hold_ms: 0,
        };
        Picked {
            instance: "shop-1".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            revision: OLD,
            side: Side::Old,
            table: Arc::new(table),
            late_for,
        }
    }

    fn caller(life: u64, told_life: u64) -> Invoker {
        let mut caller = Invoker::new("s1", SessionKind::Invoker, 0, None);
        (caller.life, caller.told_life) = (life, told_life);
        caller
    }

    #[test]
    fn nothing_is_promised_of_a_caller_that_was_given_up_until_it_is_given_tables_again() {
        let barriers = barriers();
        let call = |late_for, life, told_life, opened| {
            let caller = caller(life, told_life);
            barriers.call(&slice(), &late(late_for), &caller, opened).is_ok()
        };
        assert!(call(None, 50, 50, None), "it is given up");
        assert!(call(None, 110, 50, Some(110)), "it is back, with its old table");
        assert!(!call(None, 110, 110, Some(110)), "it was given another one");
    }

    #[test]
    fn whoever_was_there_at_the_switch_calls_the_version_that_was_left_no_more() {
        let barriers = barriers();
        let call = |late_for, told_life| {
            let caller = caller(50, told_life);
            barriers.call(&slice(), &late(late_for), &caller, Some(50)).is_ok()
        };
        assert!(!call(None, 50));
        assert!(!call(None, 40), "the switch had to wait until it was given tables");
        assert!(!call(Some(70), 50), "that was another hold");
        assert!(call(Some(90), 50), "it says so itself");
    }
}
