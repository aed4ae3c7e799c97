//! Where instances are replaced in the room that they had, READY of both versions
//! never falls below the floor by a command of ours, no more exist than the
//! ceiling allows, calls go to as many new instances as are READY, and what went
//! back is whole. Forward and back alike. (Design, invariants 5, 7 and 9, and
//! `rolling` in section 5.)
//!
//! What people force is their own decision, and what the world kills is missing
//! without our doing.

use aether_core::command::Command;
use aether_core::records::{
    Bounds, Desired, InstanceRecord, Observed, UpdateRecord, UpdateState as S,
};
use aether_core::state::State;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for record in step.before.slices.values() {
        let Some(was) = step.before.live_update(&record.slice) else { continue };
        let Some(update) = step.after.updates.get(&was.id) else { continue };
        let Some(bounds) = bounds(update) else { continue };
        if update.forced || update.old.is_none() {
            continue;
        }
        floor(step, update, bounds)?;
        ceiling(step, update, bounds)?;
        admitted(step, was, update)?;
        whole(step, was, update)?;
    }
    Ok(())
}

/// The bounds of an update that replaces instances where they are.
pub(super) fn bounds(update: &UpdateRecord) -> Option<Bounds> {
    update.way()?.in_place
}

/// Instances of both versions.
fn both<'a>(
    state: &'a State,
    update: &'a UpdateRecord,
) -> impl Iterator<Item = &'a InstanceRecord> {
    let old = update.old.as_ref().map(|side| side.revision);
    let is_one =
        move |i: &&InstanceRecord| i.revision == update.new.revision || Some(i.revision) == old;
    state.instances_of(&update.slice).map(|i| &**i).filter(is_one)
}

/// Whether a command is the coordinator's own.
fn is_ours(step: &Step<'_>) -> bool {
    step.done().is_some()
        && matches!(&step.entry.payload, crate::log::Payload::Request(request)
            if request.actor != crate::operator::ACTOR)
        // What a node reports and that it is lost is the world's doing.
        && !matches!(
            step.done(),
            Some(Command::Observe { .. } | Command::SetNodeLifecycle { .. })
        )
}

fn floor(step: &Step<'_>, update: &UpdateRecord, bounds: Bounds) -> Result<(), String> {
    if !is_ours(step) || update.state.is_terminal() {
        return Ok(());
    }
    let (before, after) = (serving(step.before, update), serving(step.after, update));
    if after >= before || after >= bounds.floor {
        return Ok(());
    }
    Err(format!(
        "{:?} took {} from {before} to {after} READY instances, the floor is {}",
        step.done(),
        update.id,
        bounds.floor
    ))
}

/// READY instances of both versions, of each no more than are wanted: one too many,
/// as one that was lost and comes back, may go at any time.
fn serving(state: &State, update: &UpdateRecord) -> u32 {
    let of = state.targets.values().filter(|target| target.slice == update.slice);
    let ready = |no| state.ready_count(&update.slice, no);
    of.map(|target| ready(target.revision).min(target.instances)).sum()
}

/// More is wanted of a version only as far as there is room, those that are on
/// their way out counted.
fn ceiling(step: &Step<'_>, update: &UpdateRecord, bounds: Bounds) -> Result<(), String> {
    if !matches!(step.done(), Some(Command::MoveInPlace { update: id, .. }) if *id == update.id) {
        return Ok(());
    }
    let wanted = |state: &State| -> u32 {
        let of = state.targets.values().filter(|target| target.slice == update.slice);
        of.map(|target| target.instances).sum()
    };
    let leaves = |i: &&InstanceRecord| {
        let is_gone = matches!(i.observed, Observed::Stopped | Observed::Unknown);
        i.desired != Desired::Run && !is_gone
    };
    let leaving = both(step.after, update).filter(leaves).count() as u32;
    let (before, after) = (wanted(step.before), wanted(step.after));
    match after > before && after + leaving > bounds.ceiling {
        false => Ok(()),
        true => Err(format!(
            "{:?} wants {after} instances beside {leaving} that leave during {}, at most {} may \
             exist",
            step.done(),
            update.id,
            bounds.ceiling
        )),
    }
}

/// Whether calls may find nothing in between: all may be missing.
pub(super) fn may_be_none(update: &UpdateRecord) -> bool {
    bounds(update).is_some_and(|bounds| bounds.floor == 0)
}

/// A batch takes calls once all of it and of those before it is READY, but for as many
/// as may fail while others serve; the last one, which takes all calls, once the floor is.
fn admitted(step: &Step<'_>, was: &UpdateRecord, update: &UpdateRecord) -> Result<(), String> {
    let Some(way) = update.way() else { return Ok(()) };
    if update.step() <= was.step() {
        return Ok(());
    }
    let goal = way.goal(update.step(), update.base_instances);
    let ready = step.after.ready_count(&update.slice, update.new.revision);
    let may_fail = if was.step() > 0 { update.strategy.max_failures() } else { 0 };
    let takes_all = goal >= update.base_instances;
    let floor = bounds(update).filter(|_| takes_all).map_or(1, |bounds| bounds.floor.max(1));
    match ready + may_fail >= goal && ready >= floor.min(goal) {
        true => Ok(()),
        false => Err(format!("{} admits {goal} new instances, {ready} are READY", update.id)),
    }
}

/// The new version goes for good once all of the old one is READY again.
fn whole(step: &Step<'_>, was: &UpdateRecord, update: &UpdateRecord) -> Result<(), String> {
    let Some(old) = &update.old else { return Ok(()) };
    let base = update.base_instances;
    let removes = matches!(step.done(), Some(Command::RemoveLosingSide { update: id, .. }) if *id == update.id);
    if removes && was.state == S::RollingBack {
        let ready = step.after.ready_count(&update.slice, old.revision);
        if ready < base {
            return Err(format!("{} removes the new version with {ready} of {base} back", was.id));
        }
    }
    let ended = was.state == S::RollingBack && update.state.is_terminal();
    if ended && matches!(step.done(), Some(Command::Finish { .. })) {
        let target = step.after.targets.get(&(update.slice.clone(), old.revision));
        let wanted = target.map_or(0, |target| target.instances);
        if wanted != base {
            return Err(format!("{} ends with {wanted} of {base} instances wanted", was.id));
        }
    }
    Ok(())
}
