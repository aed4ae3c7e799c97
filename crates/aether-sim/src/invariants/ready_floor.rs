//! READY never falls below what the route needs through our own doing, during a
//! rollback too; and there are never more instances than were decided. (Design,
//! invariant 7.) The world may kill instances, and people may force things: then
//! it is shown, and no command of ours.

use std::sync::Arc;

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::ids::RevisionNo;
use aether_core::records::{Desired, InstanceRecord};
use aether_core::state::State;

use super::{Step, in_place};

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    if let Some(Command::Assign { slice, revision, .. }) = step.done() {
        not_too_many(step.after, slice, *revision)?;
    }
    total_is_bounded(step)?;
    let is_ours = matches!(
        step.done(),
        Some(
            Command::Drain { .. }
                | Command::Stop { .. }
                | Command::RemoveLosingSide { .. }
                | Command::Finish { .. }
                | Command::Retire { .. }
                | Command::ShiftBack { .. }
                | Command::BeginDeploy { .. }
                | Command::MarkDeployed { .. }
                | Command::Assign { .. }
                | Command::EnterStep { .. }
                | Command::HoldCalls { .. }
                | Command::ScaleNew { .. }
                | Command::MoveInPlace { .. }
                | Command::Rollback { now: false, .. }
                | Command::Resume { .. }
                | Command::Pause { .. }
        )
    );
    if !is_ours {
        return Ok(());
    }
    for name in step.before.slices.keys() {
        let Some(after) = step.after.slice_table(name) else { continue };
        let Some(before) = step.before.slice_table(name) else { continue };
        let live = step.before.live_update(name);
        let may_be_none = live.is_some_and(|update| in_place::may_be_none(update));
        let had_some = before.effective_weights().is_some() && !may_be_none;
        if had_some && after.effective_weights().is_none() {
            return Err(format!("{:?} left calls of {name} nowhere to go", step.done()));
        }
        floor(step, name)?;
    }
    Ok(())
}

/// Never more is wanted of a slice than the old version had and the new one is to
/// have.
fn total_is_bounded(step: &Step<'_>) -> Result<(), String> {
    if step.before.targets.ptr_eq(&step.after.targets) {
        return Ok(());
    }
    for record in step.after.slices.values() {
        let Some(update) = step.after.live_update(&record.slice) else { continue };
        let of = step.after.targets.values().filter(|target| target.slice == record.slice);
        let wanted: u32 = of.map(|target| target.instances).sum();
        let old = update.old.as_ref().map_or(0, |_| update.base_instances);
        let most = match in_place::bounds(update) {
            Some(bounds) if update.old.is_some() => {
                // A rollback takes back what drains, some of which may have ended.
                let old = update.old.as_ref().map(|side| side.revision);
                let runs = step.after.instances_of(&record.slice);
                let runs = runs.filter(|i| i.desired == Desired::Run && Some(i.revision) == old);
                let key = (record.slice.clone(), update.new.revision);
                let new = step.after.targets.get(&key).map_or(0, |target| target.instances);
                let taken_back = new + runs.count() as u32;
                let of = step.before.targets.values().filter(|t| t.slice == record.slice);
                let before: u32 = of.map(|target| target.instances).sum();
                before.max(bounds.ceiling).max(taken_back)
            }
            _ => old + update.instances,
        };
        if wanted > most {
            let id = &update.id;
            return Err(format!("{wanted} instances are wanted during {id}, at most {most}"));
        }
    }
    Ok(())
}

/// What a side with weight has READY does not fall by a command of ours, unless
/// there is more of it than is wanted, or the side has lost its weight.
fn floor(step: &Step<'_>, name: &SliceName) -> Result<(), String> {
    let (Some(was), Some(is)) = (step.before.routes.get(name), step.after.routes.get(name)) else {
        return Ok(());
    };
    let sides = [(&is.new, is.weights.new_side()), (&is.old, is.weights.old_side())];
    for (side, weight) in sides {
        let Some(side) = side.as_ref().filter(|_| weight > 0) else { continue };
        let before = step.before.ready_count(name, side.revision);
        let after = step.after.ready_count(name, side.revision);
        let key = (name.clone(), side.revision);
        let wanted = step.after.targets.get(&key).map_or(0, |target| target.instances);
        let served =
            [&was.new, &was.old].into_iter().flatten().any(|s| s.revision == side.revision);
        if served && after < before && after < wanted {
            return Err(format!(
                "{:?} took {} of {name} from {before} to {after} READY, {wanted} are wanted",
                step.done(),
                side.version
            ));
        }
    }
    Ok(())
}

fn not_too_many(state: &State, name: &SliceName, revision: RevisionNo) -> Result<(), String> {
    let target = state.targets.get(&(name.clone(), revision));
    let wanted = target.map_or(0, |target| target.instances) as usize;
    let runs = |i: &&Arc<InstanceRecord>| {
        i.revision == revision
            && i.desired == Desired::Run
            // What is on a draining node, or cannot go back, makes way for what was assigned.
            && !state.is_to_leave(i)
    };
    let running = state.instances_of(name).filter(runs).count();
    match running > wanted {
        false => Ok(()),
        true => Err(format!("{running} instances of {name} {revision} run, {wanted} are wanted")),
    }
}
