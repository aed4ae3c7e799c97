//! Replacing instances where they are: how many of each version there are to be
//! next.
//!
//! Ready instances of both versions never fall below the floor by anything done
//! here, and no more exist than the ceiling allows, both on the way forward and
//! back. Each pass takes one of three moves: start new ones in what room there is,
//! make room by taking old ones out of the table, or wait.

use super::{Plan, View, Wait};
use crate::command::Command;
use crate::ids::RevisionNo;
use crate::planner::progress::not_ready;
use crate::records::{Bounds, Desired, InstanceRecord, Observed, Reason, UpdateRecord};

/// What there is of both versions.
struct Fleet {
    /// Targets.
    new: u32,
    old: u32,
    /// Ready, and not more than the target.
    new_ready: u32,
    old_ready: u32,
    /// On their way out, and still there.
    leaving: u32,
}

impl Fleet {
    fn of(view: &View<'_>, update: &UpdateRecord) -> Self {
        let target = |no: RevisionNo| {
            let target = view.state.targets.get(&(update.slice.clone(), no));
            target.map_or(0, |target| target.instances)
        };
        let ready = |no: RevisionNo, most: u32| view.state.ready_count(&update.slice, no).min(most);
        let is_leaving = |i: &InstanceRecord| {
            let is_gone = matches!(i.observed, Observed::Stopped | Observed::Unknown);
            i.desired != Desired::Run && !is_gone
        };
        let leaving = view.state.instances_of(&update.slice).filter(|i| is_leaving(i)).count();
        let old = update.old.as_ref().map(|side| (side.revision, target(side.revision)));
        let new = target(update.new.revision);
        Self {
            new,
            old: old.map_or(0, |(_, target)| target),
            new_ready: ready(update.new.revision, new),
            old_ready: old.map_or(0, |(no, target)| ready(no, target)),
            leaving: u32::try_from(leaving).unwrap_or(u32::MAX),
        }
    }

    /// How many more may exist.
    fn room(&self, bounds: Bounds) -> u32 {
        let there = self.new.saturating_add(self.old).saturating_add(self.leaving);
        bounds.ceiling.saturating_sub(there)
    }

    /// How many may be told to reload: those that do not serve, and as many of the
    /// others as may fail at it.
    fn reloadable(&self, bounds: Bounds) -> u32 {
        (self.old - self.old_ready) + self.spare(bounds)
    }

    /// How many ready ones may be missed.
    fn spare(&self, bounds: Bounds) -> u32 {
        (self.new_ready + self.old_ready).saturating_sub(bounds.floor)
    }
}

/// Works towards `goal` new instances. Whether they are ready; otherwise the next
/// move, or what is waited for.
pub(in crate::planner) fn prepare(
    view: &View<'_>,
    update: &UpdateRecord,
    bounds: Bounds,
    goal: u32,
    plan: &mut Plan,
) -> bool {
    let fleet = Fleet::of(view, update);
    if fleet.new < goal && update.strategy.is_reload() {
        let more = fleet.reloadable(bounds).min(goal - fleet.new).min(fleet.old);
        if more > 0 {
            plan.commands.push(move_to(update, fleet.new + more, fleet.old - more));
            return false;
        }
    } else if fleet.new < goal {
        let missing = goal - fleet.new;
        let room = fleet.room(bounds).min(missing);
        if room > 0 {
            plan.commands.push(move_to(update, fleet.new + room, fleet.old));
            return false;
        }
        // Those that leave make room already.
        let needed = missing.saturating_sub(fleet.leaving);
        let most = fleet.old.saturating_sub(update.base_instances.saturating_sub(goal));
        let free = (fleet.old - fleet.old_ready) + fleet.spare(bounds);
        let fewer = needed.min(most).min(free);
        if fewer > 0 {
            plan.commands.push(move_to(update, fleet.new, fleet.old - fewer));
            return false;
        }
    } else if view.state.is_batch_whole(update, goal) {
        return true;
    }
    let why = not_ready(view, update).map(|why| format!("; {why}")).unwrap_or_default();
    plan.wait(
        &update.slice,
        Wait {
            code: "batch",
            message: format!(
                "{} of {goal} instances of {} are ready, {} of the old version, {} on their way \
                 out{why}",
                fleet.new_ready, update.new.version, fleet.old_ready, fleet.leaving
            ),
            since_ms: update.progress.as_ref().map_or(update.state_since_ms, |p| p.since_ms),
            unblock: format!(
                "nothing to do while they start and end; 'aether update rollback {}' to go back",
                update.id
            ),
        },
    );
    false
}

/// In a rollback: works towards all of the old instances. Whether there is a move;
/// a pass in which there is none waits for them to be ready.
pub(in crate::planner) fn restore(
    view: &View<'_>,
    update: &UpdateRecord,
    bounds: Bounds,
    plan: &mut Plan,
) -> bool {
    let fleet = Fleet::of(view, update);
    let missing = update.base_instances.saturating_sub(fleet.old);
    if missing == 0 {
        return false;
    }
    let room = fleet.room(bounds).min(missing);
    if room > 0 {
        plan.commands.push(move_to(update, fleet.new, fleet.old + room));
        return true;
    }
    let free = (fleet.new - fleet.new_ready) + fleet.spare(bounds);
    if update.strategy.is_reload() {
        let back = missing.min(fleet.new).min(free);
        if back > 0 {
            plan.commands.push(move_to(update, fleet.new - back, fleet.old + back));
        }
        return back > 0;
    }
    let needed = missing.saturating_sub(fleet.leaving);
    let fewer = needed.min(fleet.new).min(free);
    if fewer > 0 {
        plan.commands.push(move_to(update, fleet.new - fewer, fleet.old));
    }
    fewer > 0
}

fn move_to(update: &UpdateRecord, new: u32, old: u32) -> Command {
    let (update, if_modified) = (update.id.clone(), update.modified);
    Command::MoveInPlace { update, new, old, if_modified }
}

/// A new instance does not stay up: which, and what became of the others.
pub(super) fn failure(
    view: &View<'_>,
    update: &UpdateRecord,
    looping: &[Reason],
) -> Option<Reason> {
    let first = looping.get(update.strategy.max_failures() as usize)?;
    let fleet = Fleet::of(view, update);
    let (updated, failed, left) = (fleet.new_ready, looping.len(), fleet.old);
    let message = format!(
        "stopped at {}; {updated} updated, {failed} failed, {left} not reached",
        first.message
    );
    Some(Reason::new(&first.code, message))
}
