//! A rollback stays reachable until completion, and what it needs is kept.
//! (Design, invariant 8.) Tried out on a copy of the state after every change of
//! a live update.

use aether_core::apply::Position;
use aether_core::command::{Command, Outcome, Request};
use aether_core::records::{UpdateRecord, UpdateState as S};
use aether_core::state::State;
use aether_core::weights::Weights;

use super::{Step, in_place};

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (_, update) in step.changed_updates().filter(|(_, u)| !u.state.is_terminal()) {
        kept(step, update)?;
        if update.state != S::RollingBack {
            match update.is_one_way() {
                true => refused(step, update)?,
                false => reachable(step, update)?,
            }
        } else if let Some(old) = &update.old {
            // Somebody is on the way back: all of the old version is asked for.
            let target = step.after.targets.get(&(update.slice.clone(), old.revision));
            let wanted = target.map_or(0, |target| target.instances);
            let is_in_place = in_place::bounds(update).is_some();
            // In place they come back as there is room.
            let is_partly = is_in_place && wanted < update.base_instances;
            if wanted != update.base_instances && !is_partly {
                let (id, base) = (&update.id, update.base_instances);
                return Err(format!("{id} rolls back to {wanted} instances instead of {base}"));
            }
        }
    }
    Ok(())
}

/// What the old version needs to run is there.
fn kept(step: &Step<'_>, update: &UpdateRecord) -> Result<(), String> {
    let Some(old) = &update.old else { return Ok(()) };
    let (id, version) = (&update.id, &old.version);
    if !step.after.revisions.contains_key(&(update.slice.clone(), old.revision)) {
        return Err(format!("{id}: revision {} of {version} is forgotten", old.revision));
    }
    match step.after.artifacts.contains_key(&update.slice.base().at(version.clone())) {
        true => Ok(()),
        false => Err(format!("{id}: the artifact of {version} is forgotten")),
    }
}

/// Whoever gave the way back up does not get it.
fn refused(step: &Step<'_>, update: &UpdateRecord) -> Result<(), String> {
    match tried(step, update).1 {
        Err(_) => Ok(()),
        Ok(_) => Err(format!("{} goes back though it is one-way", update.id)),
    }
}

fn tried(step: &Step<'_>, update: &UpdateRecord) -> (State, Outcome) {
    let mut state = step.after.clone();
    let command = Command::Rollback {
        update: update.id.clone(),
        now: false,
        reason: None,
        force: false,
        if_modified: None,
    };
    let request = Request { request_id: None, actor: "trial".to_owned(), command };
    let at = step.entry.at;
    let outcome = state.apply(Position { index: at.index + 1, ..at }, &request);
    (state, outcome)
}

fn reachable(step: &Step<'_>, update: &UpdateRecord) -> Result<(), String> {
    let (state, outcome) = tried(step, update);
    let id = &update.id;
    if let Err(refusal) = outcome {
        return Err(format!("{id} cannot go back from {}: {refusal}", update.state));
    }
    let back = &state.updates[id];
    let Some(old) = &update.old else {
        return match back.weights == Weights::ALL_OLD {
            true => Ok(()),
            false => Err(format!("{id}: going back would keep {}", back.weights)),
        };
    };
    let target = state.targets.get(&(update.slice.clone(), old.revision));
    let wanted = target.map_or(0, |target| target.instances);
    let is_partly = in_place::bounds(update).is_some() && wanted < update.base_instances;
    match wanted == update.base_instances || is_partly {
        true => Ok(()),
        false => Err(format!("{id}: going back would bring {wanted} instances back")),
    }
}
