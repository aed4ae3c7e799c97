//! Losing a node that hosts no instance of a slice changes nothing for that
//! slice. (Design, invariant 13.) Nor does an entry that is not about anybody:
//! a leader's first one, or the time.

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::state::State;

use super::Step;
use crate::log::Payload;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    let quiet = matches!(step.entry.payload, Payload::Blank)
        || matches!(step.done(), Some(Command::Tick {} | Command::RegisterNode { .. }));
    let node = match step.done() {
        Some(Command::SetNodeLifecycle { node, .. }) => Some(node),
        _ => None,
    };
    if !quiet && node.is_none() {
        return Ok(());
    }
    for name in step.before.slices.keys() {
        let hosts = |state: &State| {
            node.is_some_and(|node| state.instances_on(node).any(|i| i.slice == *name))
        };
        if !hosts(step.before) && !same(step.before, step.after, name) {
            return Err(format!("{name} changed by {:?}", step.done()));
        }
    }
    Ok(())
}

/// Whether everything of a slice is as it was.
fn same(before: &State, after: &State, name: &SliceName) -> bool {
    let targets = |state: &State| {
        let of = state.targets.values().filter(|target| target.slice == *name);
        of.cloned().collect::<Vec<_>>()
    };
    before.slices.get(name) == after.slices.get(name)
        && before.routes.get(name) == after.routes.get(name)
        && before.retained.get(name) == after.retained.get(name)
        && before.live_update(name) == after.live_update(name)
        && targets(before) == targets(after)
        && before.instances_of(name).eq(after.instances_of(name))
}
