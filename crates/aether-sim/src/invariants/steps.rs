//! An update that goes by steps enters them in their order, each once what the one
//! before it takes to go on is there: its hold is over and the new version was
//! shown to be healthy, or a person said so. (Design, section 5, `canary`: "each
//! gated by health"; section 7: "too little data is insufficient, never healthy".)

use aether_core::command::Command;
use aether_core::records::{Hold, UpdateRecord};

use super::Step;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (before, after) in step.changed_updates() {
        let Some(before) = before else { continue };
        let (id, was, is) = (&after.id, before.step(), after.step());
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

/// What nobody promoted has to have been held, and shown to be healthy.
fn by_itself(step: &Step<'_>, before: &UpdateRecord) -> Result<(), String> {
    let (Some(way), Some(progress)) = (before.way(), &before.progress) else {
        return Err(format!("{} has no steps and enters one", before.id));
    };
    let (id, now_ms) = (&before.id, step.entry.at.log_time_ms);
    match way.hold(before.step()) {
        Hold::Promotion {} => return Err(format!("{id} did not wait to be promoted")),
        Hold::For { ms } if progress.step > 0 && now_ms < progress.since_ms + ms => {
            return Err(format!("{id} held step {} for too short", progress.step));
        }
        Hold::For { .. } => {}
    }
    if before.weights.new_side() == 0 {
        // Nothing has reached the new version yet.
        return Ok(());
    }
    let record = step.before.evidence.get(id);
    let counted = record.and_then(|record| record.epochs.last()).map(|epoch| epoch.new);
    let (requests, errors) = counted.map_or((0, 0), |counts| (counts.requests, counts.errors));
    let least = before.options.thresholds.requests_min;
    if requests < least {
        return Err(format!("{id} goes on after {requests} requests, {least} are needed"));
    }
    let rate = u128::from(errors) * 1_000_000 / u128::from(requests.max(1));
    match rate > u128::from(before.options.thresholds.error_rate_ppm) {
        true => Err(format!("{id} goes on after {errors} errors in {requests} requests")),
        false => Ok(()),
    }
}
