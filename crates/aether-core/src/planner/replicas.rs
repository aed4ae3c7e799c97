//! Brings the number of instances of every revision to its target.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::{Placer, Plan, View, Wait};
use crate::command::Command;
use crate::coordinates::SliceName;
use crate::ids::{InstanceId, NodeName, RevisionNo};
use crate::records::{Desired, InstanceRecord, TargetRecord};

/// Assigns what is missing, drains what is too many.
pub(super) fn match_targets(
    view: &View<'_>,
    slice: &SliceName,
    placer: &mut Placer,
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
        let count = u32::try_from(running.len()).unwrap_or(u32::MAX);
        if count < target.instances {
            // A wait is shown with an update, and is no older than its state.
            let since_ms = view.state.live_update(slice).map_or(view.now_ms, |u| u.state_since_ms);
            assign(slice, target, target.instances - count, since_ms, placer, plan);
        } else if count > target.instances {
            drain(target, running, placer, plan);
        }
    }
}

fn assign(
    slice: &SliceName,
    target: &TargetRecord,
    missing: u32,
    since_ms: u64,
    placer: &mut Placer,
    plan: &mut Plan,
) {
    let room = placer.room();
    let placements = placer.place_up_to(slice, target.revision, missing);
    let placed = u32::try_from(placements.len()).unwrap_or(u32::MAX);
    if !placements.is_empty() {
        plan.commands.push(Command::Assign {
            slice: slice.clone(),
            revision: target.revision,
            placements,
            target_modified: target.modified,
        });
    }
    if placed < missing {
        let wait = Wait {
            code: "no_capacity",
            message: format!(
                "{} instances of {} have no place; the nodes that report have room for {room}",
                missing - placed,
                target.revision
            ),
            since_ms,
            unblock: "add a node or scale something down".to_owned(),
        };
        plan.wait(slice, wait);
    }
}

/// Removes first what does not serve, then from the node with the most of the
/// revision, then from the fullest, newest first.
fn drain(
    target: &TargetRecord,
    mut running: Vec<&InstanceRecord>,
    placer: &Placer,
    plan: &mut Plan,
) {
    // How many that would stay each has beside it on its node.
    running.sort_by_key(|i| (!i.is_routable(), i.fence.index, i.id.clone()));
    let mut on_node: BTreeMap<&NodeName, u32> = BTreeMap::new();
    let mut ranked: Vec<(u32, &InstanceRecord)> = Vec::new();
    for instance in running {
        let beside = on_node.entry(&instance.node).or_default();
        ranked.push((*beside, instance));
        *beside += 1;
    }
    ranked.sort_by_key(|(beside, i)| {
        let fullest_first = Reverse((*beside, placer.total(&i.node)));
        (i.is_routable(), fullest_first, Reverse(i.fence.index), i.id.clone())
    });
    let surplus = ranked.len() - target.instances as usize;
    let instances: Vec<InstanceId> = ranked[..surplus].iter().map(|(_, i)| i.id.clone()).collect();
    plan.commands.push(Command::Drain { instances, target_modified: target.modified });
}
