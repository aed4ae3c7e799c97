//! Brings the number of instances of every revision to its target, and moves
//! what is on draining nodes to others: first a replacement is ready, then the
//! one that it replaces goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{NO_CAPACITY, Placer, Plan, View, Wait};
use crate::command::Command;
use crate::coordinates::SliceName;
use crate::ids::{InstanceId, NodeName, RevisionNo};
use crate::records::{Desired, InstanceRecord, TargetRecord};
use crate::state::State;
use crate::words::counted;

/// Assigns what is missing, drains what is too many.
pub(super) fn match_targets(
    view: &View<'_>,
    slice: &SliceName,
    placer: &mut Placer<'_>,
    plan: &mut Plan,
) {
    let all = (slice.clone(), RevisionNo(0))..=(slice.clone(), RevisionNo(u32::MAX));
    for (_, target) in view.state.targets.range(all) {
        let running: Vec<&InstanceRecord> = view
            .state
            .instances_of(slice)
            .filter(|i| i.revision == target.revision && i.desired == Desired::Run)
            .map(|i| &**i)
            .collect();
        // An agent never starts again what it has stopped, unless it stopped
        // it because the node itself was to end.
        let ended = running.iter().filter(|i| i.has_ended());
        let ended: Vec<InstanceId> = ended.map(|i| i.id.clone()).collect();
        if !ended.is_empty() {
            let target_modified = target.modified;
            plan.commands.push(Command::Drain { instances: ended, target_modified });
            return;
        }
        let leaves = |i: &&InstanceRecord| view.state.is_to_leave(i);
        let (leaving, staying): (Vec<_>, Vec<_>) = running.into_iter().partition(leaves);
        let count = u32::try_from(staying.len()).unwrap_or(u32::MAX);
        // A wait is shown with an update, and is no older than its state.
        let otherwise_ms = target.unplaced_since_ms.unwrap_or(view.now_ms);
        let since_ms = view.state.live_update(slice).map_or(otherwise_ms, |u| u.state_since_ms);
        if count >= target.instances && target.unplaced_since_ms.is_some() {
            plan.commands.push(unplaced(target, None));
            return;
        }
        if count > target.instances && drain(view, target, &staying, placer, plan) {
            return;
        }
        if count < target.instances {
            let missing = target.instances - count;
            if assign(target, missing, leaving.len(), since_ms, placer, plan) {
                return;
            }
        }
        if !leaving.is_empty() && make_way(view, target, &staying, leaving, since_ms, plan) {
            return;
        }
    }
}

/// Drains instances that are to leave as far as others stand in for them.
/// Whether there were any.
fn make_way(
    view: &View<'_>,
    target: &TargetRecord,
    staying: &[&InstanceRecord],
    leaving: Vec<&InstanceRecord>,
    since_ms: u64,
    plan: &mut Plan,
) -> bool {
    // A stand-in is nobody's for those who are called as of another revision still.
    let (lent, mut leaving): (Vec<_>, Vec<_>) =
        leaving.into_iter().partition(|i| view.state.is_lent(i));
    // Those that take no calls go first: they are nobody's capacity. Then those that take
    // some but are not what they are to be, once all others are there.
    leaving.sort_by_key(|i| (i.is_routable(), i.is_updated(), i.id.clone()));
    let idle = leaving.iter().filter(|i| !i.is_routable()).count();
    let updated = leaving.iter().filter(|i| i.is_updated()).count();
    let ready = staying.iter().filter(|i| i.is_updated()).count() + updated;
    let others = leaving.len() - idle - updated;
    let surplus = ready.checked_sub(target.instances as usize).map_or(0, |more| others + more);
    // One that is not ready yet may be all there is of a side that starts.
    let idle = if staying.len() < target.instances as usize { 0 } else { idle };
    let instances: Vec<InstanceId> =
        leaving.iter().take(idle + surplus).map(|i| i.id.clone()).collect();
    if !instances.is_empty() {
        plan.commands.push(Command::Drain { instances, target_modified: target.modified });
        return true;
    }
    let (deaf, drained): (Vec<_>, Vec<_>) =
        leaving.into_iter().partition(|i| i.reload_failure().is_some());
    let revision = target.revision;
    let whose = |left: &[&InstanceRecord], which: &str| {
        let nodes: BTreeSet<&str> = left.iter().map(|i| i.node.as_str()).collect();
        let nodes: Vec<&str> = nodes.into_iter().collect();
        let count = counted(left.len(), "instance");
        format!("{count} of {revision} {which} ({})", nodes.join(", "))
    };
    for (left, code, message, unblock) in [
        (
            &drained,
            "node_drain",
            format!("replacements of {} to be ready", whose(&drained, "on draining nodes")),
            "they become ready, or 'aether node uncordon'",
        ),
        (
            &lent,
            "node_drain",
            format!("the batch of {} to be entered", whose(&lent, "on draining nodes")),
            "it is entered or taken back, or 'aether node uncordon'",
        ),
        (
            &deaf,
            "reload",
            format!("replacements of {} to be ready", whose(&deaf, "that cannot reload")),
            "they become ready",
        ),
    ] {
        if !left.is_empty() {
            let unblock = unblock.to_owned();
            plan.wait(&target.slice, Wait { code, message, since_ms, unblock });
        }
    }
    false
}

/// Assigns what is missing as far as there is room, and has it written down
/// when there is not. So many that are `leaving` draining nodes still run there.
/// Whether there was anything to do.
fn assign(
    target: &TargetRecord,
    missing: u32,
    leaving: usize,
    since_ms: u64,
    placer: &mut Placer<'_>,
    plan: &mut Plan,
) -> bool {
    let (slice, revision) = (&target.slice, target.revision);
    let before = plan.commands.len();
    let placements = placer.place_up_to(slice, revision, missing);
    let left = missing - u32::try_from(placements.len()).unwrap_or(u32::MAX).min(missing);
    if !placements.is_empty() {
        plan.commands.push(Command::Assign {
            slice: slice.clone(),
            revision,
            placements,
            target_modified: target.modified,
        });
    }
    if left > 0 {
        let (instances, have) = (counted(left, "instance"), if left == 1 { "has" } else { "have" });
        let place = if left as usize <= leaving { "other place" } else { "place" };
        let why = placer.why_no_place(slice, revision);
        let message = format!("{instances} of {revision} {have} no {place}: {why}");
        if target.unplaced_since_ms.is_none() {
            plan.commands.push(unplaced(target, Some(message.clone())));
        }
        let unblock = placer.what_makes_place(slice, revision);
        plan.wait(slice, Wait { code: NO_CAPACITY, message, since_ms, unblock });
    }
    plan.commands.len() > before
}

/// Has it written down that instances have no place, or that all have one again.
fn unplaced(target: &TargetRecord, why: Option<String>) -> Command {
    Command::MarkUnplaced { slice: target.slice.clone(), revision: target.revision, why }
}

/// What instances wait for that have no place, and those that are to leave a
/// node that is drained: by slice, from the replicated state alone, so that any
/// node can tell.
pub fn placement_waits(state: &State, now_ms: u64) -> BTreeMap<SliceName, Vec<Wait>> {
    let view = View {
        state,
        now_ms,
        sessions: &BTreeMap::new(),
        nodes: &BTreeMap::new(),
        verdicts: &BTreeMap::new(),
        table_age_max_ms: u64::MAX,
        node_lost_ms: u64::MAX,
    };
    let mut plan = Plan::default();
    let is_drained = state.nodes.keys().any(|node| state.is_draining(node));
    let is_short = state.targets.values().any(|target| target.unplaced_since_ms.is_some());
    // Looking at everything is for the rare case that there is something to see.
    if is_drained || is_short {
        let mut placer = Placer::new(&view);
        for slice in state.slices.keys() {
            match_targets(&view, slice, &mut placer, &mut plan);
        }
    }
    plan.waits
}

/// Removes first what does not serve as one of the revision, then from the node with the
/// most of the revision, then from the fullest, newest first. Those who are called as of
/// another revision may be all that it has, and are none of this one before their batch is
/// entered: until then they stay, and nobody goes in whose place they would be. Whether
/// anybody goes.
fn drain(
    view: &View<'_>,
    target: &TargetRecord,
    running: &[&InstanceRecord],
    placer: &Placer<'_>,
    plan: &mut Plan,
) -> bool {
    let wanted = target.instances as usize;
    let is_lent = |i: &InstanceRecord| view.state.is_lent(i);
    let lent = running.iter().filter(|i| is_lent(i)).count();
    let updated = running.iter().filter(|i| i.is_updated() && !is_lent(i)).count();
    let spare = (running.len() - lent - updated) + updated.saturating_sub(wanted);
    let surplus = (running.len() - wanted).min(spare);
    if surplus == 0 {
        return false;
    }
    let mut running = running.to_vec();
    // How many that would stay each has beside it on its node.
    running.sort_by_key(|i| (!i.is_updated(), i.fence.index, i.id.clone()));
    let mut on_node: BTreeMap<&NodeName, u32> = BTreeMap::new();
    let mut ranked: Vec<(u32, &InstanceRecord)> = Vec::new();
    for instance in running {
        let beside = on_node.entry(&instance.node).or_default();
        ranked.push((*beside, instance));
        *beside += 1;
    }
    ranked.sort_by_key(|(beside, i)| {
        let fullest_first = Reverse((*beside, placer.total(&i.node)));
        let rank = (is_lent(i), i.is_updated(), i.is_routable());
        (rank, fullest_first, Reverse(i.fence.index), i.id.clone())
    });
    let instances: Vec<InstanceId> = ranked[..surplus].iter().map(|(_, i)| i.id.clone()).collect();
    plan.commands.push(Command::Drain { instances, target_modified: target.modified });
    true
}
