//! What strategies that go by steps have in common: a step is entered when what
//! the one before it takes to go on is there, and the last one is followed by
//! the completion.

use super::{
    INSTANCE_OUTLIER, Plan, View, Wait, act, against, barrier::BARRIER, gates, host, name_missing,
    objection, wait_for_approval, wait_for_resume,
};
use crate::apply::instances_needed;
use crate::command::Command;
use crate::duration::Millis;
use crate::evidence::{self, Decision, Judge, Present};
use crate::health::{self, Verdict};
use crate::level::since;
use crate::planner::progress::{new_side, not_ready};
use crate::records::{Counts, DeadlineAction, Hold, Reason, UpdateRecord, UpdateState, Way};
use crate::state::State;
use crate::weights::Weights;
use crate::words::counted;

pub(super) fn serving(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    serving_behind(view, update, |_| false, plan);
}

/// The same with a gate of the strategy's own before the hold of each step, which
/// says whether the update has to stay where it is, and what for.
pub(super) fn serving_behind(
    view: &View<'_>,
    update: &UpdateRecord,
    stays: impl FnOnce(&mut Plan) -> bool,
    plan: &mut Plan,
) {
    let Some(way) = update.way() else { return };
    if update.pause.is_none()
        && let Some(reason) = objection(view, update).or_else(|| objection_of_step(view, update))
    {
        // One instance is no failure of the version.
        let action = match reason.code == INSTANCE_OUTLIER {
            true => DeadlineAction::Pause,
            false => failure_action(update, &way),
        };
        plan.commands.push(act(update, action, reason));
        return;
    }
    // A change that waits for approval has passed its gates, or somebody went past them:
    // what they said before that is no reason to pause again once somebody has resumed.
    if update.pause.is_none()
        && update.pending_weights.is_none()
        && let Some((action, reason)) = gates::objection(update, &way, failure_action(update, &way))
    {
        plan.commands.push(act(update, action, reason));
        return;
    }
    name_missing(view, update, plan);
    wait_for_resume(update, plan);
    match update.pending_weights {
        // What the pause would have refused is no way on.
        Some(pending) if update.pause.is_none() || update.pending_forced => {
            // Whoever promoted it may have come before its instances, and without them
            // nobody can approve it. A pause takes nothing more away.
            let next = update.step() + 1;
            let is_open =
                update.pause.is_none() && update.closed_gates(&way, update.step(), next).is_empty();
            if let Some(bounds) = way.in_place.filter(|_| is_open) {
                let step = update.progress.as_ref().and_then(|progress| progress.pending);
                let goal = way.goal(step.unwrap_or(next), update.base_instances);
                super::prepare(view, update, bounds, goal, plan);
            }
            return wait_for_approval(view, update, pending, plan);
        }
        _ if update.pause.is_some() => return,
        _ => {}
    }
    let next = update.step() + 1;
    // Whoever forced a step may have come before its instances.
    if grow(view, update, &way, update.step(), plan) {
        return;
    }
    if way.hold(update.step()) == (Hold::Promotion {}) && grow(view, update, &way, next, plan) {
        // Whoever promotes finds the instances ready.
        return;
    }
    // Whoever promotes finds the gates passed; otherwise they come last.
    let by_person = way.hold(update.step()) == (Hold::Promotion {});
    if (!update.is_promoted() && stays(plan))
        || (by_person && gates::hold(view, update, &way, plan))
        || is_held(view, update, &way, plan)
        || gates::hold(view, update, &way, plan)
    {
        return;
    }
    match way.weights(next) {
        Some(weights) => enter(view, update, &way, next, weights, plan),
        None => complete(view, update, plan),
    }
}

/// What a failed step leads to. Where there is no way back, a pause.
fn failure_action(update: &UpdateRecord, way: &Way<'_>) -> DeadlineAction {
    if update.is_one_way() { DeadlineAction::Pause } else { way.analysis.on_failure }
}

/// What the thresholds say of the new version over all of the step.
fn verdict(view: &View<'_>, update: &UpdateRecord) -> Verdict {
    verdict_if(view, update, update.waits_for_calls())
}

fn verdict_if(view: &View<'_>, update: &UpdateRecord, waits: bool) -> Verdict {
    match view.state.evidence.get(&update.id) {
        Some(record) => {
            let counts = Counts { side: record.present().new, late: record.late };
            let instances = || record.present_by_instance();
            let thresholds = &update.options.thresholds;
            health::judge_counts_by_instance(counts, instances, thresholds, waits)
        }
        None => Verdict::Insufficient,
    }
}

fn objection_of_step(view: &View<'_>, update: &UpdateRecord) -> Option<Reason> {
    let when = format!(" in step {}", update.step());
    if let Some(reason) = against(view, update, &verdict(view, update), &when) {
        return Some(reason);
    }
    let decision = comparison(view.state, update, &Present::default())?;
    match &decision.verdict {
        evidence::Verdict::RollBack => Some(Reason::new("worse_than_old", decision.reason())),
        evidence::Verdict::InstanceOutlier { instance } => {
            let message = format!("{}; {}", decision.reason(), host(view, instance));
            Some(Reason::new(INSTANCE_OUTLIER, message))
        }
        _ => None,
    }
}

/// How the new version compares with the old one by all that is committed; none
/// where there is no old one, or nothing was counted yet.
pub fn comparison(state: &State, update: &UpdateRecord, present: &Present) -> Option<Decision> {
    let record = state.evidence.get(&update.id)?;
    update.old.as_ref()?;
    let judge = Judge::new(&update.options.thresholds);
    Some(judge.decide_by_instance(&record.evidence, &record.by_instance(), present))
}

/// Why a step was not decided when its time was over.
pub(in crate::planner) fn why_undecided(view: &View<'_>, update: &UpdateRecord) -> Option<Reason> {
    let way = update.way()?;
    if !matches!(update.state, UpdateState::Deployed | UpdateState::Routing) {
        return None;
    }
    let (step, last) = (update.step(), way.last());
    let at = match step {
        0 => "the first step was not entered in time".to_owned(),
        _ => format!("step {step} of {last} was not decided in time"),
    };
    if let Some(gate) = gates::waited_for(view, update) {
        return Some(Reason::new(Reason::GATE_INCONCLUSIVE, format!("{at}: {gate}")));
    }
    if let Some(sessions) = gates::waited_for_by(view, update, BARRIER) {
        return Some(Reason::new("inconclusive", format!("{at}: it waited for {sessions}")));
    }
    let hold = way.hold(step);
    if let Hold::Evidence { .. } = hold
        && let Some(compared) = comparison(view.state, update, &Present::default())
    {
        return Some(Reason::new("inconclusive", format!("{at}: {}", compared.reason())));
    }
    // Where calls decide, and only there, it may be they that are missing.
    let is_judged =
        matches!(hold, Hold::For { .. }) && update.weights.new_side() > 0 && !update.is_promoted();
    let why = match verdict(view, update) {
        Verdict::Insufficient if is_judged => too_few(view, update),
        _ => {
            let problem = not_ready(view, update).map(|why| format!("; {why}"));
            let what = if step < last { "the next step" } else { "the end" };
            format!("what {what} needs is not there{}", problem.unwrap_or_default())
        }
    };
    Some(Reason::new("inconclusive", format!("{at}: {why}")))
}

fn too_few(view: &View<'_>, update: &UpdateRecord) -> String {
    let record = view.state.evidence.get(&update.id);
    let requests = record.map_or(0, |record| record.present().new.requests);
    let least = update.options.thresholds.requests_min;
    match verdict_if(view, update, false) {
        Verdict::Exceeded { detail } => {
            format!("{detail}, all by one instance: more calls will tell it from its version")
        }
        Verdict::OneInstance { instance, detail } => {
            format!("{detail}: more calls will tell it from its version; {}", host(view, &instance))
        }
        _ => format!(
            "{requests} of at least {least} requests reached the new version, too few for a \
             verdict"
        ),
    }
}

/// The command by which a person has an update leave its step. Gates after the last one
/// are asked once its calls have shown enough: below the level that brought a promotion
/// ahead of them, who will not wait for that goes past them.
fn promotion(view: &View<'_>, update: &UpdateRecord, way: &Way<'_>) -> String {
    let (id, last) = (&update.id, way.last());
    let end = last.saturating_add(1);
    let is_closed = view.state.meta.feature_level < since::PROMOTION_TO_END
        && update.step() >= last
        && !update.closed_gates(way, last, end).is_empty();
    format!("'aether update promote {id}{}'", if is_closed { " --force" } else { "" })
}

/// Whether the update has to stay where it is; says what for.
fn is_held(view: &View<'_>, update: &UpdateRecord, way: &Way<'_>, plan: &mut Plan) -> bool {
    let step = update.step();
    let since_ms = update.progress.as_ref().map_or(update.state_since_ms, |p| p.since_ms);
    let (id, weights) = (&update.id, update.weights);
    let at = match step {
        0 => format!("at {weights}, before the first step"),
        _ => format!("step {step} of {}, the ratio is {weights}", way.last()),
    };
    if update.is_promoted() {
        return false;
    }
    let wait = match way.hold(step) {
        Hold::Promotion {} => Wait {
            code: "promotion",
            message: format!("a person's promotion, {at}"),
            since_ms,
            unblock: promotion(view, update, way),
        },
        Hold::For { ms } | Hold::Wait { ms } if view.now_ms < since_ms.saturating_add(ms) => {
            plan.wake_at(since_ms.saturating_add(ms));
            Wait {
                code: "hold",
                message: format!("{} to be over: {at}", Millis(ms)),
                since_ms,
                unblock: format!("nothing to do, or {}", promotion(view, update, way)),
            }
        }
        Hold::Wait { .. } => return false,
        Hold::Evidence { .. } => {
            let decision = comparison(view.state, update, &Present::default());
            // Without an old version there are the thresholds only.
            let is_clear = match &decision {
                Some(decision) => decision.version == evidence::Verdict::Promote,
                None => update.old.is_none() && verdict(view, update) == Verdict::Healthy,
            };
            if is_clear {
                return false;
            }
            let reason = decision.map_or_else(|| too_few(view, update), |d| d.reason());
            Wait {
                code: "evidence",
                message: format!("{reason}; {at}"),
                since_ms,
                unblock: format!("requests, or {}", promotion(view, update, way)),
            }
        }
        // Nothing reaches the new version before the first step.
        Hold::For { .. } if weights.new_side() == 0 => return false,
        Hold::For { .. } => {
            if verdict(view, update) == Verdict::Healthy {
                return false;
            }
            Wait {
                code: "evidence",
                message: format!("{}; {at}", too_few(view, update)),
                since_ms,
                unblock: format!(
                    "requests, or 'aether update set {id} --min-requests', or {}",
                    promotion(view, update, way)
                ),
            }
        }
    };
    plan.wait(&update.slice, wait);
    true
}

/// Has the new side grow to what a step needs, where its instances follow the
/// weight. Whether it has to.
fn grow(view: &View<'_>, update: &UpdateRecord, way: &Way<'_>, step: u32, plan: &mut Plan) -> bool {
    let Some(weights) = way.weights(step).filter(|_| way.scale_with_weight) else { return false };
    let wanted = update.instances_for(weights);
    let target = view.state.targets.get(&(update.slice.clone(), update.new.revision));
    let is_small = target.is_some_and(|target| target.instances < wanted);
    if is_small {
        let (update, if_modified) = (update.id.clone(), update.modified);
        plan.commands.push(Command::ScaleNew { update, instances: wanted, if_modified });
    }
    is_small
}

/// Enters the next step, once the new side has the instances for it.
fn enter(
    view: &View<'_>,
    update: &UpdateRecord,
    way: &Way<'_>,
    step: u32,
    weights: Weights,
    plan: &mut Plan,
) {
    let (id, slice) = (update.id.clone(), &update.slice);
    if let Some(bounds) = way.in_place {
        let goal = way.goal(step, update.base_instances);
        if super::prepare(view, update, bounds, goal, plan) && is_steady(view, update, plan) {
            plan.commands.push(Command::EnterStep {
                update: id,
                step,
                if_modified: update.modified,
                opened_max: None,
            });
        }
        return;
    }
    if grow(view, update, way, step, plan) {
        return;
    }
    let wanted = if way.scale_with_weight { update.instances_for(weights) } else { 0 };
    let carries = instances_needed(weights.new_side(), weights, update.base_instances);
    let needed = carries.max(wanted);
    let ready = view.state.ready_count(slice, update.new.revision);
    if needed <= ready && old_side_carries(view, update, weights) {
        let if_modified = update.modified;
        let enter = Command::EnterStep { update: id, step, if_modified, opened_max: None };
        plan.commands.push(enter);
        return;
    }
    plan.wait(
        slice,
        Wait {
            code: "capacity",
            message: format!(
                "{} of {} for step {step} ({weights}), {ready} of them are ready",
                counted(needed, "instance"),
                update.new.version
            ),
            since_ms: update.progress.as_ref().map_or(update.state_since_ms, |p| p.since_ms),
            unblock: format!("they become ready, or 'aether update promote {id} --force'"),
        },
    );
}

/// Whether every new instance has been ready for long enough.
fn is_steady(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) -> bool {
    let ready = new_side(view, update).filter(|i| i.is_updated()).map(|i| i.observed_since_ms);
    let since_ms = ready.max().unwrap_or(view.now_ms);
    let healthy_ms = update.options.healthy_ms;
    let until_ms = since_ms.saturating_add(healthy_ms);
    if view.now_ms >= until_ms {
        return true;
    }
    plan.wake_at(until_ms);
    plan.wait(
        &update.slice,
        Wait {
            code: "healthy_time",
            message: format!("every new instance to have been ready for {healthy_ms} ms"),
            since_ms,
            unblock: "nothing to do".to_owned(),
        },
    );
    false
}

fn old_side_carries(view: &View<'_>, update: &UpdateRecord, weights: Weights) -> bool {
    let needed = instances_needed(weights.old_side(), weights, update.base_instances);
    let ready = |old: &crate::records::Side| view.state.ready_count(&update.slice, old.revision);
    needed <= update.old.as_ref().map_or(0, ready)
}

/// The last step is shown to be healthy.
fn complete(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    if view.state.is_new_side_whole(update) {
        let (update, if_modified) = (update.id.clone(), Some(update.modified));
        plan.commands.push(Command::Complete { update, force: false, if_modified });
        return;
    }
    let ready = view.state.ready_count(&update.slice, update.new.revision);
    plan.wait(
        &update.slice,
        Wait {
            code: "capacity",
            message: format!(
                "all of {} of {}, {ready} of them are ready",
                counted(update.instances, "instance"),
                update.new.version
            ),
            since_ms: update.state_since_ms,
            unblock: format!("they become ready, or 'aether update rollback {}'", update.id),
        },
    );
}
