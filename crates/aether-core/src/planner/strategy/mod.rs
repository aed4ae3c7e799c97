//! How an update that serves goes on: one file for each strategy.
//!
//! What all of them share stands here: what speaks against the new version, and
//! what an update waits for while it is paused or waits for approval.

mod barrier;
mod blue_green;
mod canary;
mod gates;
mod in_place;
mod manual;
mod recreate;
mod rolling;
mod steps;

use super::progress::{act, crash_looping, name_missing};
use super::{PAUSED, Plan, View, Wait};
use crate::health::Verdict;
use crate::ids::InstanceId;
use crate::records::{Reason, Strategy, UpdateRecord};
use crate::weights::Weights;

pub use gates::Measurement;
pub(super) use gates::{before_first_batch, waited_for};
pub(super) use in_place::{prepare, restore};
pub use steps::comparison;
pub(super) use steps::why_undecided;

/// One step of an update in DEPLOYED or ROUTING, if one can be taken; otherwise
/// what is waited for.
pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    match &update.strategy {
        Strategy::Manual {} => manual::serving(view, update, plan),
        Strategy::Canary(_) => canary::serving(view, update, plan),
        Strategy::BlueGreen(switch) => blue_green::serving(view, update, switch, plan),
        Strategy::Rolling(_) => rolling::serving(view, update, plan),
        Strategy::Recreate(_) => recreate::serving(view, update, plan),
    }
}

/// Whether there is a next step to take now.
pub(super) fn can_go_on(view: &View<'_>, update: &UpdateRecord) -> bool {
    let mut next = Plan::default();
    serving(view, update, &mut next);
    !next.commands.is_empty()
}

/// Code of the pause over one instance that does much worse than its peers. It is no
/// failure of the version, so that it never leads to a rollback by itself.
const INSTANCE_OUTLIER: &str = "instance_outlier";

/// What speaks against the new version, if anything does: a threshold that is
/// exceeded, or instances that do not stay up.
fn objection(view: &View<'_>, update: &UpdateRecord) -> Option<Reason> {
    let judged = view.verdicts.get(&update.id);
    if let Some(reason) = judged.and_then(|verdict| against(view, update, verdict, "")) {
        return Some(reason);
    }
    let looping = crash_looping(view, update);
    match update.strategy.is_in_place() {
        true => in_place::failure(view, update, &looping),
        false => looping.into_iter().next(),
    }
}

/// What a verdict says against the version, or against one instance of it.
fn against(
    view: &View<'_>,
    update: &UpdateRecord,
    verdict: &Verdict,
    when: &str,
) -> Option<Reason> {
    let version = &update.new.version;
    match verdict {
        Verdict::Insufficient | Verdict::Healthy => None,
        Verdict::Exceeded { detail } => {
            let message = format!("version {version}{when}: {detail}");
            Some(Reason::new("threshold_exceeded", message))
        }
        Verdict::OneInstance { instance, detail } => {
            let message = format!("version {version}{when}: {detail}; {}", host(view, instance));
            Some(Reason::new(INSTANCE_OUTLIER, message))
        }
    }
}

/// Where an instance runs, and how to get it away from there.
fn host(view: &View<'_>, instance: &InstanceId) -> String {
    match view.state.instances.get(instance) {
        None => "it is gone already".to_owned(),
        Some(record) => format!(
            "it runs on {node}: 'aether node drain {node}' has another one take its place",
            node = record.node
        ),
    }
}

/// Says what a paused update waits for.
pub(super) fn wait_for_resume(update: &UpdateRecord, plan: &mut Plan) {
    let Some(pause) = &update.pause else { return };
    let (id, weights) = (&update.id, update.weights);
    let Reason { code, message } = &pause.reason;
    plan.wait(
        &update.slice,
        Wait {
            code: PAUSED,
            message: format!("the end of its pause ({code}: {message}), the ratio is {weights}"),
            since_ms: pause.since_ms,
            unblock: format!(
                "'aether update resume {id}' to go on all the same, or 'aether update rollback \
                 {id}' to go back"
            ),
        },
    );
}

/// Says that a routing change waits for approval.
fn wait_for_approval(view: &View<'_>, update: &UpdateRecord, pending: Weights, plan: &mut Plan) {
    let (id, weights) = (&update.id, update.weights);
    // Without its instances an approval is refused.
    let step = update.progress.as_ref().and_then(|progress| progress.pending);
    let way = update.way().filter(|way| way.in_place.is_some());
    let goal = way.zip(step).map(|(way, step)| way.goal(step, update.base_instances));
    let batch = match goal.filter(|goal| !view.state.is_batch_whole(update, *goal)) {
        None => String::new(),
        Some(goal) => {
            let ready = view.state.ready_count(&update.slice, update.new.revision);
            format!("; {ready} of {goal} instances of {} are ready", update.new.version)
        }
    };
    plan.wait(
        &update.slice,
        Wait {
            code: "approval",
            message: format!("approval of the ratio {pending}; until then it is {weights}{batch}"),
            since_ms: update.state_since_ms,
            unblock: format!("'aether update approve {id}'"),
        },
    );
}
