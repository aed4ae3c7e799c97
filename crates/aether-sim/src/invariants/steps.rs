//! An update that goes by steps enters them in their order, each once what the one
//! before it takes to go on is there: its hold is over and the new version was
//! shown to be healthy, or a person said so. (Design, section 5, `canary`: "each
//! gated by health"; section 7: "too little data is insufficient, never healthy".)

use aether_core::command::Command;
use aether_core::records::{Hold, UpdateRecord};
use aether_core::weights::Weights;

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        let Some(before) = before else { continue };
        let (id, was, is) = (&after.id, before.step(), after.step());
        if let Some(Command::SetWeights { weights, .. }) = step.done() {
            by_hand(after, *weights)?;
            continue;
        }
        if is < was {
            return Err(format!("{id} went back to step {is}"));
        }
        let may_skip = match step.done() {
            Some(Command::Promote { full, .. }) => *full,
            // What waited may have been asked for in full.
            Some(Command::Approve { .. }) => true,
            _ => false,
        };
        if is > was + 1 && !may_skip {
            return Err(format!("{id} went from step {was} to {is}"));
        }
        if matches!(step.done(), Some(Command::EnterStep { .. })) {
            by_itself(step, before)?;
        }
    }
    Ok(())
}

/// A ratio by hand is a place among the steps: after all those that give the new
/// version no more.
fn by_hand(update: &UpdateRecord, weights: Weights) -> Result<(), String> {
    let Some(way) = update.way().filter(|_| update.progress.is_some()) else { return Ok(()) };
    let (id, is) = (&update.id, update.step());
    let is_beyond = |step: u32| way.weights(step).is_some_and(|of| weights.is_raised_by(of));
    match (is > 0 && is_beyond(is)) || (is < way.last() && !is_beyond(is + 1)) {
        true => Err(format!("{id} is at step {is} with {weights} by hand")),
        false => Ok(()),
    }
}

/// What nobody promoted has to have been held, and shown to be healthy.
fn by_itself(step: &Step<'_>, before: &UpdateRecord) -> Result<(), String> {
    let (Some(way), Some(progress)) = (before.way(), &before.progress) else {
        return Err(format!("{} has no steps and enters one", before.id));
    };
    if before.is_promoted() {
        // A person said so, and the batch came after that.
        return Ok(());
    }
    let (id, now_ms) = (&before.id, step.entry.at.log_time_ms);
    match way.hold(before.step()) {
        Hold::Promotion {} => return Err(format!("{id} did not wait to be promoted")),
        Hold::For { ms } | Hold::Wait { ms }
            if progress.step > 0 && now_ms < progress.since_ms + ms =>
        {
            return Err(format!("{id} held step {} for too short", progress.step));
        }
        Hold::For { .. } | Hold::Wait { .. } | Hold::Evidence { .. } => {}
    }
    if before.weights.new_side() == 0 {
        // Nothing has reached the new version yet.
        return Ok(());
    }
    let record = step.before.evidence.get(id);
    let counted = record.map(|record| record.present().new).unwrap_or_default();
    let (requests, errors) = (counted.requests, counted.errors);
    let least = before.options.thresholds.requests_min;
    if requests < least {
        // A batch that is only staggered goes on unless its calls speak against it.
        if matches!(way.hold(before.step()), Hold::Wait { .. }) {
            return Ok(());
        }
        return Err(format!("{id} goes on after {requests} requests, {least} are needed"));
    }
    let rate = u128::from(errors) * 1_000_000 / u128::from(requests.max(1));
    match rate > u128::from(before.options.thresholds.error_rate_ppm) {
        true => Err(format!("{id} goes on after {errors} errors in {requests} requests")),
        false => Ok(()),
    }
}
