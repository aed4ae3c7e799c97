//! The transition table of updates: the only place that says which state may
//! follow which.

use crate::records::{Deadline, DeadlineAction, Hold, UpdateOptions, UpdateRecord, UpdateState};

/// Whether an update may go from one state to another.
pub fn is_allowed(from: UpdateState, to: UpdateState) -> bool {
    use UpdateState::{
        Completed, Completing, Deployed, Deploying, Failed, Pending, RolledBack, RollingBack,
        Routing,
    };
    match (from, to) {
        (Pending, Deploying)
        | (Deploying, Deployed)
        | (Deployed, Routing)
        | (Routing, Completing)
        | (Completing, Completed)
        | (RollingBack, RolledBack) => true,
        (Pending | Deploying | Deployed | Routing | Completing, RollingBack) => true,
        (from, Failed) => !from.is_terminal(),
        _ => false,
    }
}

/// How long PENDING may last: placing instances takes one pass of the planner;
/// a minute covers a change of leader and a node that is just registering.
pub const PENDING_MS: u64 = 60_000;
/// How often DEPLOYED and ROUTING say that they wait for a person.
pub const ATTENTION_MS: u64 = 24 * 3_600_000;
/// How often COMPLETING, ROLLING_BACK and a pause of DEPLOYING say that they
/// are still not done.
pub const STALL_MS: u64 = 10 * 60_000;

/// The deadline of an update that enters `state` at log time `now_ms`. Every
/// non-terminal state has one.
pub fn deadline(state: UpdateState, options: &UpdateOptions, now_ms: u64) -> Option<Deadline> {
    let (span_ms, action) = match state {
        UpdateState::Pending => (PENDING_MS, DeadlineAction::Fail),
        UpdateState::Deploying => (options.deploy_timeout_ms, options.on_deploy_failure),
        UpdateState::Deployed | UpdateState::Routing => (ATTENTION_MS, DeadlineAction::Alert),
        UpdateState::Completing | UpdateState::RollingBack => (STALL_MS, DeadlineAction::Alert),
        UpdateState::Completed | UpdateState::RolledBack | UpdateState::Failed => return None,
    };
    Some(Deadline { at_ms: now_ms.saturating_add(span_ms), span_ms, action })
}

/// The deadline of an update that is paused from log time `now_ms` on.
pub fn deadline_of_pause(now_ms: u64) -> Deadline {
    let at_ms = now_ms.saturating_add(STALL_MS);
    Deadline { at_ms, span_ms: STALL_MS, action: DeadlineAction::Alert }
}

/// The deadline of an update as it is now, counted from log time `now_ms`: that of
/// its state, or of the step that holds.
pub fn deadline_of(update: &UpdateRecord, now_ms: u64) -> Option<Deadline> {
    let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
    let hold = update.way().filter(|_| serves).map(|way| {
        let next = update.step() + 1;
        let hold = match update.is_promoted() && update.has_barrier_at(next) {
            // What it waited for before is past.
            true => Hold::Wait { ms: 0 },
            false => way.hold(update.step()),
        };
        let span_ms = match hold {
            Hold::For { ms } | Hold::Wait { ms } => ms.saturating_add(way.analysis.patience_ms),
            Hold::Evidence { most_ms } => most_ms,
            Hold::Promotion {} => return None,
        };
        let waits_for_approval = update.pending_weights.is_some();
        (!waits_for_approval).then_some(span_ms)
    });
    match hold.flatten() {
        Some(span_ms) => Some(Deadline {
            at_ms: now_ms.saturating_add(span_ms),
            span_ms,
            action: DeadlineAction::Pause,
        }),
        None => deadline(update.state, &update.options, now_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_guide_s_picture() {
        let mut picture = String::new();
        for from in UpdateState::ALL {
            let next: Vec<&str> = UpdateState::ALL
                .into_iter()
                .filter(|to| is_allowed(from, *to))
                .map(UpdateState::as_str)
                .collect();
            picture += &format!("{from} -> {}\n", next.join(" "));
        }
        assert_eq!(
            picture,
            "PENDING -> DEPLOYING ROLLING_BACK FAILED\n\
             DEPLOYING -> DEPLOYED ROLLING_BACK FAILED\n\
             DEPLOYED -> ROUTING ROLLING_BACK FAILED\n\
             ROUTING -> COMPLETING ROLLING_BACK FAILED\n\
             COMPLETING -> COMPLETED ROLLING_BACK FAILED\n\
             COMPLETED -> \n\
             ROLLING_BACK -> ROLLED_BACK FAILED\n\
             ROLLED_BACK -> \n\
             FAILED -> \n"
        );
    }

    #[test]
    fn every_state_that_is_not_terminal_has_a_deadline() {
        for state in UpdateState::ALL {
            let deadline = deadline(state, &UpdateOptions::default(), 5);
            assert_eq!(deadline.is_none(), state.is_terminal(), "{state}");
        }
    }
}
