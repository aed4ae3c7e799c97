//! Brings the number of instances of every revision to its target.

use super::{Placer, Plan, View, Wait};
use crate::command::Command;
use crate::coordinates::SliceName;
use crate::ids::{InstanceId, RevisionNo};
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
            assign(slice, target, target.instances - count, placer, plan);
        } else if count > target.instances {
            drain(target, running, placer, plan);
        }
    }
}

fn assign(
    slice: &SliceName,
    target: &TargetRecord,
    missing: u32,
    placer: &mut Placer,
    plan: &mut Plan,
) {
    let room = placer.room();
    let placements = placer.place_up_to(slice, missing);
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
            since_ms: 0,
            unblock: "add a node or scale something down".to_owned(),
        };
        plan.wait(slice, wait);
    }
}

/// Removes first what does not serve, then from the fullest node, newest first.
fn drain(
    target: &TargetRecord,
    mut running: Vec<&InstanceRecord>,
    placer: &Placer,
    plan: &mut Plan,
) {
    running.sort_by_key(|i| {
        let fullest_first = u32::MAX - placer.total(&i.node);
        (i.is_routable(), fullest_first, u64::MAX - i.fence.index, i.id.clone())
    });
    let surplus = running.len() - target.instances as usize;
    let instances: Vec<InstanceId> = running[..surplus].iter().map(|i| i.id.clone()).collect();
    plan.commands.push(Command::Drain { instances, target_modified: target.modified });
}
