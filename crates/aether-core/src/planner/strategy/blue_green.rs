//! `blue-green`: the whole new set is verified at 0 %, and one switch takes
//! every call.
//!
//! Verified is a set that stays whole for a while. The switch is one entry, which
//! every session applies on its own; how long calls to both versions could begin is
//! the time until the last of them has acked it, and is written down. With a barrier
//! there is no such time: see `barrier.rs`.

use super::{Plan, View, Wait, barrier, steps};
use crate::command::Command;
use crate::duration::Millis;
use crate::planner::progress::{new_side, not_ready};
use crate::planner::removal::Outstanding;
use crate::records::{BlueGreen, UpdateRecord, UpdateState};
use crate::weights::Weights;

pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, switch: &BlueGreen, plan: &mut Plan) {
    if has_switched(view, update) {
        let switched_ms = update.progress.as_ref().map_or(0, |progress| progress.since_ms);
        let late_calls = barrier::late_calls(view, update);
        plan.commands.push(Command::MarkSwitched {
            update: update.id.clone(),
            mixed_ms: match late_calls {
                Some(0) => 0,
                _ => view.now_ms.saturating_sub(switched_ms),
            },
            if_modified: update.modified,
            late_calls: late_calls.unwrap_or(0),
        });
        return;
    }
    if let Some(held) = barrier::Held::of(view, update) {
        held.go_on(view, update, plan);
        return;
    }
    let unverified = |plan: &mut Plan| {
        update.state == UpdateState::Deployed && !is_verified(view, update, switch.verify_ms, plan)
    };
    let before = plan.commands.len();
    steps::serving_behind(view, update, unverified, plan);
    let entered = plan.commands.get(before).filter(|c| matches!(c, Command::EnterStep { .. }));
    let asks_first = update.options.manual_approval && !update.is_approved();
    if entered.is_some() && update.has_barrier_at(update.step() + 1) && !asks_first {
        plan.commands.truncate(before);
        barrier::begin(view, update, plan);
    }
}

/// Whether the new set has been whole for as long as it is verified. An instance
/// that was not ready in between begins that time anew.
fn is_verified(view: &View<'_>, update: &UpdateRecord, verify_ms: u64, plan: &mut Plan) -> bool {
    let ready: Vec<u64> =
        new_side(view, update).filter(|i| i.is_routable()).map(|i| i.observed_since_ms).collect();
    let is_whole = ready.len() >= update.instances as usize;
    let resumed_ms = update.progress.as_ref().map_or(0, |progress| progress.since_ms);
    let since_ms = ready.iter().copied().chain([resumed_ms]).max().unwrap_or(view.now_ms);
    let until_ms = since_ms.saturating_add(verify_ms);
    if is_whole && view.now_ms >= until_ms {
        return true;
    }
    if is_whole {
        plan.wake_at(until_ms);
    }
    let (count, wanted) = (ready.len(), update.instances);
    let why = not_ready(view, update).map(|why| format!("; {why}")).unwrap_or_default();
    plan.wait(
        &update.slice,
        Wait {
            code: "verification",
            message: match is_whole {
                true => format!("the new set to stay whole at 0 % for {}", Millis(verify_ms)),
                false => format!("{count} of {wanted} instances of the new set are ready{why}"),
            },
            since_ms,
            unblock: format!("they stay ready, or 'aether update promote {}'", update.id),
        },
    );
    false
}

/// Whether the switch is applied everywhere, and nobody has written that down.
fn has_switched(view: &View<'_>, update: &UpdateRecord) -> bool {
    let unmarked = update.progress.as_ref().is_some_and(|progress| progress.mixed_ms.is_none());
    if update.weights != Weights::ALL_NEW || update.state != UpdateState::Routing || !unmarked {
        return false;
    }
    let Some(route) = view.state.routes.get(&update.slice) else { return false };
    let outstanding = Outstanding::of(view, route.route_revision);
    outstanding.behind.is_empty() && outstanding.unreachable.is_empty()
}
