//! Every non-terminal state and pause has a deadline and an action, and when it
//! passes that action is taken. (Design, invariant 3.)

use std::collections::BTreeMap;

use aether_core::ids::UpdateId;
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

/// By update, its deadline and the log time at which it was first seen: whoever changes
/// options may put it into the past, and it is due from then on.
#[derive(Debug, Default)]
pub struct Deadlines(BTreeMap<UpdateId, (u64, u64)>);

impl Deadlines {
    /// Looks whether the present leader, in office and with a quorum for `led_ms`, lets a
    /// deadline pass.
    ///
    /// # Errors
    /// One that is long over.
    pub fn are_kept(&mut self, log: &Log, log_time_ms: u64, led_ms: u64) -> Result<(), String> {
        let live = log.newest.slices.values().filter_map(|s| log.newest.live_update(&s.slice));
        let mut known = std::mem::take(&mut self.0);
        let mut found = Ok(());
        for update in live {
            let Some(deadline) = &update.deadline else { continue };
            let seen = known.remove(&update.id).filter(|(at_ms, _)| *at_ms == deadline.at_ms);
            let (at_ms, seen_ms) = seen.unwrap_or((deadline.at_ms, log_time_ms));
            self.0.insert(update.id.clone(), (at_ms, seen_ms));
            let over_ms = log_time_ms.saturating_sub(at_ms.max(seen_ms));
            if led_ms >= SLACK_MS && over_ms > SLACK_MS {
                found = Err(format!(
                    "the deadline of {} in {} has been due for {over_ms} ms, and nothing did {:?}",
                    update.id, update.state, deadline.action
                ));
            }
        }
        found
    }
}
