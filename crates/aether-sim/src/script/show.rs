//! What a script's `show` says of the world.

use std::collections::BTreeMap;

use aether_core::coordinates::SliceName;
use aether_core::records::Desired;

use crate::world::World;

/// A slice, its update, its instances, and what its callers got since the last
/// time.
pub fn slice(world: &World, name: &SliceName, shown: &mut BTreeMap<String, (u64, u64)>) -> String {
    let state = &world.log.newest;
    let mut text = String::new();
    match state.routes.get(name) {
        None => text += &format!("  {name} has no route\n"),
        Some(route) => {
            let side = |side: &Option<aether_core::records::Side>| {
                side.as_ref().map_or("nothing".to_owned(), |side| side.version.to_string())
            };
            let sides = match &route.new {
                None => side(&route.old),
                Some(_) => {
                    format!("{} to {}, {}", side(&route.old), side(&route.new), route.weights)
                }
            };
            text += &format!("  {name} routes {sides}\n");
        }
    }
    if let Some(update) = state.live_update(name) {
        text += &format!("  update {} is {}", update.id, update.state);
        if let Some(pause) = &update.pause {
            text += &format!(", paused: {}", pause.reason.code);
        }
        text += "\n";
    }
    text += &instances(world, name);
    text += &waits(world, name);
    text + &calls(world, name, shown)
}

fn instances(world: &World, name: &SliceName) -> String {
    let state = &world.log.newest;
    let mut text = String::new();
    let mut all: BTreeMap<u32, (u32, u32, u32, u32, u32)> = BTreeMap::new();
    for target in state.targets.values().filter(|target| target.slice == *name) {
        all.entry(target.revision.0).or_default().0 = target.instances;
    }
    for instance in state.instances_of(name) {
        let counts = all.entry(instance.revision.0).or_default();
        counts.1 += u32::from(instance.is_updated());
        counts.2 += u32::from(instance.desired == Desired::Drain);
        counts.3 += u32::from(instance.desired == Desired::Stop);
        counts.4 += u32::from(!instance.has_reloaded());
    }
    for (no, (wanted, ready, draining, stopping, reloading)) in all {
        let key = (name.clone(), aether_core::ids::RevisionNo(no));
        let Some(revision) = state.revisions.get(&key) else { continue };
        let config = revision.config.map(|no| format!(" with configuration {no}"));
        let of = format!("{}{}", revision.version, config.unwrap_or_default());
        text += &format!("  {of}: {ready} of {wanted} ready");
        let others =
            [(draining, "draining"), (stopping, "stopping"), (reloading, "told to reload")];
        for (count, what) in others {
            if count > 0 {
                text += &format!(", {count} {what}");
            }
        }
        if state.retained.get(name).is_some_and(|kept| kept.side.revision == revision.no) {
            text += ", kept warm";
        }
        text += "\n";
    }
    text
}

fn waits(world: &World, name: &SliceName) -> String {
    let leader = world.log.leader.and_then(|leader| world.coordinators.get(&leader));
    let waits = leader.and_then(|leader| leader.plan.waits.get(name));
    let waits = waits.into_iter().flatten();
    waits.map(|wait| format!("  waits for {}: {}\n", wait.code, wait.message)).collect()
}

/// Calls and errors by version since they were shown last.
fn calls(world: &World, name: &SliceName, shown: &mut BTreeMap<String, (u64, u64)>) -> String {
    let mut counted: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for (version, tally) in world.answered(name) {
        let sum = counted.entry(version).or_default();
        sum.0 += tally.requests;
        sum.1 += tally.errors;
    }
    let mut parts = Vec::new();
    for (version, (calls, errors)) in &counted {
        let known = shown.get(version).copied().unwrap_or_default();
        let (calls, errors) = (calls - known.0, errors - known.1);
        if calls > 0 {
            parts.push(format!("{calls} to {version} ({errors} failed)"));
        }
    }
    *shown = counted;
    match parts.is_empty() {
        true => String::new(),
        false => format!("  calls since: {}\n", parts.join(", ")),
    }
}

/// All nodes.
pub fn nodes(world: &World) -> String {
    let state = &world.log.newest;
    let line = |node: &aether_core::records::NodeRecord| {
        let count = state.instances_on(&node.name).count();
        format!("  {} is {}, {count} instances\n", node.name, node.lifecycle)
    };
    state.nodes.values().map(|node| line(node)).collect()
}
