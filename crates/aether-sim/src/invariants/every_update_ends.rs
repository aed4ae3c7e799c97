//! After faults heal, every update ends, and every slice serves by exactly one
//! version with all of its instances READY. (Design, invariant 15.)

use aether_core::coordinates::Version;
use aether_core::state::State;
use aether_core::weights::Weights;

/// Updates that have not ended.
pub fn unfinished(state: &State) -> Vec<String> {
    let live = state.updates.values().filter(|update| !update.state.is_terminal());
    live.map(|update| format!("{} of {} is {}", update.id, update.slice, update.state)).collect()
}

/// Looks whether every slice serves as it should, as far as its version lets it: an
/// update may have come to its end in a moment in which one that `is_bad` was well.
///
/// # Errors
/// What does not.
pub fn serves(state: &State, is_bad: impl Fn(&Version) -> bool) -> Result<(), String> {
    for record in state.slices.values() {
        let name = &record.slice;
        let Some(current) = record.current else { continue };
        let route = state.routes.get(name).ok_or(format!("{name} is deployed without a route"))?;
        let is_single = route.new.is_none() && route.weights == Weights::ALL_OLD;
        if !is_single || route.old.as_ref().map(|side| side.revision) != Some(current) {
            return Err(format!("{name} does not serve by {current} alone: {route:?}"));
        }
        let ready = state.ready_count(name, current);
        let version = state.revisions.get(&(name.clone(), current)).map(|r| &r.version);
        if ready != record.instances && !version.is_some_and(&is_bad) {
            let all = state.instances_of(name).filter(|i| i.revision == current);
            let others = all.filter(|i| !i.is_routable());
            let others: Vec<_> = others
                .map(|i| format!("{} on {} is {:?}, to {:?}", i.id, i.node, i.observed, i.desired))
                .collect();
            let wanted = record.instances;
            return Err(format!("{ready} of {wanted} instances of {name} are READY: {others:?}"));
        }
    }
    let kept = |slice, revision| {
        let record = state.retained.get(slice);
        record.is_some_and(|record| record.side.revision == revision)
    };
    let current = |slice| state.slices.get(slice).and_then(|record| record.current);
    let stray = state
        .instances
        .values()
        .find(|i| current(&i.slice) != Some(i.revision) && !kept(&i.slice, i.revision));
    match stray {
        None => Ok(()),
        Some(instance) => Err(format!("{} is still there: {:?}", instance.id, instance.desired)),
    }
}
