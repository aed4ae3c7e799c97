//! `manual`: people set every ratio, and complete.

use super::{Plan, View, Wait, name_missing, objection, wait_for_approval, wait_for_resume};
use crate::planner::progress::pause;
use crate::records::UpdateRecord;
use crate::weights::Weights;

/// Waits for people, and pauses when a threshold is passed or the new version
/// does not stay up.
pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    if update.pause.is_none()
        && let Some(reason) = objection(view, update)
    {
        plan.commands.push(pause(update, reason));
        return;
    }
    name_missing(view, update, plan);
    wait_for_resume(update, plan);
    // What the pause would have refused is no way on.
    let passes = |to: Weights| update.pending_forced || !update.weights.is_raised_by(to);
    match update.pending_weights {
        Some(pending) if update.pause.is_none() || passes(pending) => {
            wait_for_approval(view, update, pending, plan);
        }
        _ if update.pause.is_some() => {}
        _ => wait_for_operator(update, plan),
    }
}

fn wait_for_operator(update: &UpdateRecord, plan: &mut Plan) {
    let (id, weights) = (&update.id, update.weights);
    plan.wait(
        &update.slice,
        Wait {
            code: "operator",
            message: format!("a person's next step, the ratio is {weights}"),
            since_ms: update.state_since_ms,
            unblock: match weights == Weights::ALL_NEW {
                true => format!("'aether update complete {id}'"),
                false => format!("'aether update routing {id} -r <new:old>'"),
            },
        },
    );
}
