//! Every non-terminal state and pause has a deadline and an action, and when it
//! passes that action is taken. (Design, invariant 3.)

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
        let over_ms = log_time_ms.saturating_sub(at_ms);
        if over_ms > SLACK_MS {
            let action = update.deadline.as_ref().map(|deadline| deadline.action);
            return Err(format!(
                "the deadline of {} in {} was over {over_ms} ms ago, and nothing did {action:?}",
                update.id, update.state
            ));
        }
    }
    Ok(())
}
