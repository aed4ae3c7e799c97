//! Every non-terminal state and pause has a deadline and an action, and when it
//! passes that action is taken. (Design, invariant 3.)

use aether_core::records::BARRIER_MS;

use super::Step;
use crate::log::Log;

pub(super) fn check(step: &Step<'_>) -> Result<(), String> {
    for (_, after) in step.changed_updates() {
        let (id, state) = (&after.id, after.state);
        match &after.deadline {
            None if !state.is_terminal() => {
                return Err(format!("{id} is {state} and has no deadline"));
            }
            Some(_) if state.is_terminal() => {
                return Err(format!("{id} is {state} and has a deadline"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// How long a leader may take to act on what is due: a few passes, each of which
/// may wait for a quorum that is slow to come.
const SLACK_MS: u64 = 20_000;

/// The same for calls that are held: every one of them waits for it.
const HOLD_SLACK_MS: u64 = 5_000;

/// Looks whether the present leader, in office and with a quorum for `led_ms`, lets
/// calls wait for nothing.
///
/// # Errors
/// The first slice that it has forgotten.
pub fn holds_end(log: &Log, log_time_ms: u64, led_ms: u64) -> Result<(), String> {
    let held = log.newest.routes.values().filter_map(|route| Some((route, route.hold.as_ref()?)));
    let over = |since_ms| log_time_ms.saturating_sub(since_ms) > BARRIER_MS + HOLD_SLACK_MS;
    let forgotten =
        held.into_iter().find(|(_, hold)| led_ms > HOLD_SLACK_MS && over(hold.since_ms));
    match forgotten {
        None => Ok(()),
        Some((route, hold)) => {
            Err(format!("calls to {} are held since {} ms", route.slice, hold.since_ms))
        }
    }
}

/// Looks whether the present leader, in office and with a quorum for `led_ms`, lets a
/// deadline pass.
///
/// # Errors
/// The first that is long over.
pub fn deadlines_are_kept(log: &Log, log_time_ms: u64, led_ms: u64) -> Result<(), String> {
    if led_ms < SLACK_MS {
        return Ok(());
    }
    let live = log.newest.slices.values().filter_map(|s| log.newest.live_update(&s.slice));
    for update in live {
        let at_ms = update.deadline.as_ref().map_or(u64::MAX, |deadline| deadline.at_ms);
        // Whoever changes options may put it into the past: it is due from then on.
        let changed_ms = update.history.last().map_or(0, |entry| entry.log_time_ms);
        let over_ms = log_time_ms.saturating_sub(at_ms.max(changed_ms));
        if over_ms > SLACK_MS {
            let action = update.deadline.as_ref().map(|deadline| deadline.action);
            return Err(format!(
                "the deadline of {} in {} has been due for {over_ms} ms, and nothing did {action:?}",
                update.id, update.state
            ));
        }
    }
    Ok(())
}
