//! A side gets more weight only as far as its READY instances carry it:
//! `w * B <= ready * T`. (Design, invariant 5 and the capacity guard of section
//! 5.) What a person forces is their own decision.

use aether_core::command::Command;
use aether_core::records::UpdateRecord;
use aether_core::state::State;
use aether_core::weights::Weights;

use super::{Step, in_place};

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        let goes_back = after.state == aether_core::records::UpdateState::RollingBack;
        if in_place::bounds(after).is_some() && !goes_back {
            // There is less of both while they are replaced; see `in_place`.
            continue;
        }
        let is_ruled = match step.done() {
            Some(Command::SetWeights { force, .. }) => !force,
            // At 0:1 an undo moves no call yet.
            Some(Command::Undo { force, weights, .. }) => !force && *weights != Weights::ALL_OLD,
            Some(Command::EnterStep { .. }) => true,
            Some(Command::Promote { force, .. }) => !force,
            Some(Command::Approve { .. }) => before.is_some_and(|b| !b.pending_forced),
            Some(Command::Rollback { now, .. }) => !now,
            Some(Command::ShiftBack { .. } | Command::Fail { .. }) => true,
            Some(Command::Complete { force, .. }) => {
                if !force && !step.before.is_new_side_whole(after) {
                    carries(step.before, after)?;
                }
                false
            }
            _ => false,
        };
        if !is_ruled || before.is_some_and(|before| before.weights == after.weights) {
            continue;
        }
        let lowers = before.is_some_and(|before| after.weights.is_raised_by(before.weights));
        match goes_back && lowers {
            // On the way back it is the old side that gets more; the new one keeps
            // what that cannot carry yet, whatever there is of it.
            true => side(step.after, after, false)?,
            false => carries(step.after, after)?,
        }
    }
    Ok(())
}

fn carries(state: &State, update: &UpdateRecord) -> Result<(), String> {
    side(state, update, true)?;
    side(state, update, false)
}

fn side(state: &State, update: &UpdateRecord, is_new: bool) -> Result<(), String> {
    let weights = update.weights;
    let weight = if is_new { weights.new_side() } else { weights.old_side() };
    let side = if is_new { Some(&update.new) } else { update.old.as_ref() };
    let Some(side) = side else { return Ok(()) };
    let ready = state
        .instances_of(&update.slice)
        .filter(|i| i.revision == side.revision && i.is_routable())
        .count() as u64;
    let needed = u64::from(weight) * u64::from(update.base_instances);
    if needed <= ready * u64::from(weights.total()) {
        return Ok(());
    }
    let (id, base) = (&update.id, update.base_instances);
    Err(format!("{id} routes {weights} with {ready} of {base} instances of {}", side.version))
}
