//! Checks the structural invariants of a state. `apply` keeps them; this looks
//! whether it did. Used by tests after every entry.

use crate::records::{Desired, UpdateState};
use crate::state::State;
use crate::weights::Weights;

/// Everything in `state` that must not be.
pub fn lint(state: &State) -> Vec<String> {
    let mut findings = Vec::new();
    updates(state, &mut findings);
    routes(state, &mut findings);
    targets(state, &mut findings);
    configurations(state, &mut findings);
    for instance in state.instances.values() {
        let target = state.targets.get(&(instance.slice.clone(), instance.revision));
        if instance.desired == Desired::Run && target.is_none() {
            findings.push(format!("instance {} runs without a target", instance.id));
        }
        let old = state.live_update(&instance.slice).and_then(|update| update.old.as_ref());
        let serves = old.map(|side| side.revision);
        // Whoever is on the way out is not called at all: where another update took the
        // place of the one that told it to reload, that is all there is to say of it.
        let differs = instance.desired == Desired::Run && instance.called_as() != instance.revision;
        if differs && Some(instance.called_as()) != serves {
            findings.push(format!("instance {} is called as what does not serve", instance.id));
        }
        if !state.revisions.contains_key(&(instance.slice.clone(), instance.revision)) {
            findings.push(format!("instance {} is of a forgotten revision", instance.id));
        }
    }
    findings
}

/// Instances are wanted only of what is deployed, kept warm, or being moved to;
/// a target of 0 goes with the last instance.
fn targets(state: &State, findings: &mut Vec<String>) {
    for target in state.targets.values() {
        let (slice, no) = (&target.slice, target.revision);
        if target.instances == 0 {
            if !state.instances_of(slice).any(|i| i.revision == no) {
                findings.push(format!("{slice} {no} has a target and nothing else"));
            }
            continue;
        }
        let current = state.slices.get(slice).and_then(|record| record.current);
        let retained = state.retained.get(slice).map(|record| record.side.revision);
        let new = state.live_update(slice).map(|update| update.new.revision);
        if ![current, retained, new].contains(&Some(no)) {
            let wanted = target.instances;
            findings.push(format!("{slice} {no} is unused and has a target of {wanted}"));
        }
    }
}

/// What a revision refers to is there, and no number is ahead of the last.
fn configurations(state: &State, findings: &mut Vec<String>) {
    for revision in state.revisions.values() {
        if revision.config.is_some() && state.config_of(revision).is_none() {
            findings.push(format!("{} {} has lost its configuration", revision.slice, revision.no));
        }
    }
    for config in state.config_revisions.values() {
        let Some(record) = state.slices.get(&config.slice) else {
            findings.push(format!("{} of {} is of no slice", config.no, config.slice));
            continue;
        };
        let last = record.last_config.0.max(state.meta.revisions_forgotten.0);
        if config.no.0 > last {
            findings.push(format!("{} of {} is ahead of its slice", config.no, config.slice));
        }
    }
    let bytes: u64 = state.config_revisions.values().map(|r| r.content.weight()).sum();
    if bytes != state.config_revision_bytes() {
        findings.push("the sum of all configurations is wrong".to_owned());
    }
}

fn updates(state: &State, findings: &mut Vec<String>) {
    for update in state.updates.values() {
        let live = state.slices.get(&update.slice).and_then(|s| s.live_update.as_ref());
        let is_live = live == Some(&update.id);
        if is_live == update.state.is_terminal() {
            findings.push(format!("update {} is {} and live: {is_live}", update.id, update.state));
        }
        if update.state.is_terminal() != update.deadline.is_none() {
            findings
                .push(format!("update {} is {} with a wrong deadline", update.id, update.state));
        }
        let last = update.history.last();
        if last.is_none_or(|entry| entry.state != update.state || entry.weights != update.weights) {
            findings.push(format!("update {}: its history ends elsewhere", update.id));
        }
        if update.history.windows(2).any(|pair| pair[0].index > pair[1].index) {
            findings.push(format!("update {}: its history goes backwards", update.id));
        }
        if update.state == UpdateState::RolledBack && update.weights != Weights::ALL_OLD {
            findings.push(format!("update {} was rolled back to {}", update.id, update.weights));
        }
        let route = state.routes.get(&update.slice);
        if is_live
            && let Some(route) = route
            && route.new.is_some()
            && route.weights != update.weights
        {
            findings.push(format!("update {} and its route differ in weights", update.id));
        }
    }
}

fn routes(state: &State, findings: &mut Vec<String>) {
    for route in state.routes.values() {
        let live = state.live_update(&route.slice);
        if route.new.is_some() && live.is_none() {
            findings.push(format!("route of {} has a new side without an update", route.slice));
        }
        for side in route.new.iter().chain(&route.old) {
            if !state.revisions.contains_key(&(route.slice.clone(), side.revision)) {
                findings.push(format!("route of {} names a forgotten revision", route.slice));
            }
        }
        if let Some(hold) = &route.hold {
            let stands = live.is_some_and(|update| {
                let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
                let undisturbed = update.modified == route.route_revision && update.pause.is_none();
                update.id == hold.update && serves && undisturbed
            });
            if !stands {
                findings.push(format!("calls to {} are held for nothing", route.slice));
            }
        }
        if route.table_revision > state.meta.index || route.route_revision > route.table_revision {
            findings.push(format!("route of {} has impossible revisions", route.slice));
        }
    }
}
