//! Moves one update on: what each state waits for, and what follows.

use super::removal::Outstanding;
use super::{
    CRASH_LOOP_RESTARTS, NO_CAPACITY, Placer, Plan, SESSION_UNREACHABLE, SessionView, View, Wait,
    strategy,
};
use crate::apply::back_as_far_as;
use crate::command::Command;
use crate::coordinates::SliceName;
use crate::ids::RevisionNo;
use crate::level::since;
use crate::records::{
    CleanupPolicy, DeadlineAction, Desired, InstanceRecord, Observed, Reason, Side, UpdateRecord,
    UpdateState,
};
use crate::weights::Weights;
use crate::words::counted;

/// Deadlines come first: they must not wait for what is stuck.
pub(super) fn deadlines(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    let Some(deadline) = &update.deadline else {
        return;
    };
    if view.now_ms < deadline.at_ms {
        plan.wake_at(deadline.at_ms);
        return;
    }
    if let Some(reason) = strategy::why_undecided(view, update) {
        // What it waited for may be there, if nobody led when it came.
        if !strategy::can_go_on(view, update) {
            plan.commands.push(act(update, deadline.action, reason));
        }
        return;
    }
    let reason = Reason::new(
        "deadline",
        match update.state {
            UpdateState::Pending => "no place for the new instances was found in time".to_owned(),
            _ => format!(
                "{} lasted longer than {} s: {}",
                update.state,
                deadline.span_ms / 1000,
                strategy::waited_for(view, update)
                    .or_else(|| not_ready(view, update))
                    .or_else(|| not_steady(view, update))
                    .unwrap_or_else(|| "not all instances became ready".to_owned())
            ),
        },
    );
    plan.commands.push(act(update, deadline.action, reason));
}

/// The command that a deadline's or a failed deployment's action asks for.
pub(super) fn act(update: &UpdateRecord, action: DeadlineAction, reason: Reason) -> Command {
    let id = update.id.clone();
    match action {
        DeadlineAction::Alert => Command::Rearm { update: id },
        DeadlineAction::Pause => pause(update, reason),
        DeadlineAction::Fail => Command::Fail { update: id, reason },
        DeadlineAction::Rollback => Command::Rollback {
            update: id,
            now: false,
            reason: Some(reason),
            force: false,
            if_modified: Some(update.modified),
        },
    }
}

pub(super) fn pause(update: &UpdateRecord, reason: Reason) -> Command {
    Command::Pause { update: update.id.clone(), reason, if_modified: Some(update.modified) }
}

/// One step, if one can be taken; otherwise what is waited for.
pub(super) fn advance(
    view: &View<'_>,
    update: &UpdateRecord,
    placer: &mut Placer<'_>,
    plan: &mut Plan,
) {
    if unpause(view, update, plan) {
        return;
    }
    match update.state {
        UpdateState::Pending => pending(update, placer, plan),
        UpdateState::Deploying => deploying(view, update, plan),
        UpdateState::Deployed | UpdateState::Routing => strategy::serving(view, update, plan),
        UpdateState::Completing => completing(view, update, plan),
        UpdateState::RollingBack => rolling_back(view, update, plan),
        UpdateState::Completed | UpdateState::RolledBack | UpdateState::Failed => {}
    }
}

/// A pause over unreachable sessions ends when they are back or gone. One that
/// is awaited is neither: a new leader does not know yet. Whether it ends.
fn unpause(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) -> bool {
    let over_sessions = update.pause.as_ref().is_some_and(|p| p.reason.code == SESSION_UNREACHABLE);
    let connected =
        |session| matches!(view.sessions.get(session), Some(SessionView::Connected { .. }));
    let is_over = over_sessions && view.state.sessions.keys().all(connected);
    if is_over {
        plan.commands.push(Command::Resume { update: update.id.clone(), if_modified: None });
    }
    is_over
}

fn pending(update: &UpdateRecord, placer: &mut Placer<'_>, plan: &mut Plan) {
    match placer.place(&update.slice, update.new.revision, update.first_instances()) {
        Ok(placements) => {
            plan.commands.push(Command::BeginDeploy { update: update.id.clone(), placements });
        }
        Err(_) => {
            let (slice, revision) = (&update.slice, update.new.revision);
            let instances = counted(update.first_instances(), "instance");
            let why = placer.why_no_place(slice, revision);
            let makes_place = placer.what_makes_place(slice, revision);
            plan.wait(
                slice,
                Wait {
                    code: NO_CAPACITY,
                    message: format!("room for {instances}: {why}"),
                    since_ms: update.state_since_ms,
                    unblock: format!("{makes_place}, or roll back"),
                },
            );
        }
    }
}

pub(super) fn new_side<'a>(
    view: &'a View<'_>,
    update: &'a UpdateRecord,
) -> impl Iterator<Item = &'a InstanceRecord> {
    side(view, update, update.new.revision)
}

fn side<'a>(
    view: &'a View<'_>,
    update: &'a UpdateRecord,
    revision: RevisionNo,
) -> impl Iterator<Item = &'a InstanceRecord> {
    let of_revision = move |i: &&InstanceRecord| i.revision == revision;
    view.state.instances_of(&update.slice).map(|i| &**i).filter(of_revision)
}

/// What the first instance of the new side that is not ready says of itself.
pub(super) fn not_ready(view: &View<'_>, update: &UpdateRecord) -> Option<String> {
    first_problem(new_side(view, update))
}

/// What the first of some instances that is not ready says of itself.
fn first_problem<'a>(mut side: impl Iterator<Item = &'a InstanceRecord>) -> Option<String> {
    side.find_map(|i| {
        if i.is_updated() {
            return None;
        }
        match &i.reason {
            Some(Reason { code, message }) => {
                Some(format!("{} on {}: {code}: {message}", i.id, i.node))
            }
            None if !i.has_reloaded() => {
                Some(format!("{} on {}: its agent has not said that it reloaded", i.id, i.node))
            }
            None => None,
        }
    })
}

/// Which instance of a side that is ready has not been so for long enough: at a
/// deadline this is one that comes and goes.
fn not_steady(view: &View<'_>, update: &UpdateRecord) -> Option<String> {
    let latest = new_side(view, update)
        .filter(|i| i.is_updated())
        .max_by_key(|i| (i.observed_since_ms, std::cmp::Reverse(&i.id)))?;
    let ready_ms = view.now_ms.saturating_sub(latest.observed_since_ms);
    let healthy_ms = update.options.healthy_ms;
    (ready_ms < healthy_ms).then(|| {
        format!(
            "{} on {} is ready, but only for {ready_ms} ms without a break, not for {healthy_ms} ms",
            latest.id, latest.node
        )
    })
}

fn deploying(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    let stopped = new_side(view, update).find_map(|i| {
        let crashes =
            i.observed == Observed::Crashed && i.restarts_of_this() >= CRASH_LOOP_RESTARTS;
        let (code, said) = match i.failure() {
            Some((code, said)) if code != Reason::CRASH_LOOP => (code, said),
            _ if crashes => {
                let said = i.reason.as_ref().map_or("no reason given", |r| &r.message);
                (Reason::CRASH_LOOP, said.to_owned())
            }
            _ => return None,
        };
        Some(Reason::new(code, format!("{} on {}: {said}", i.id, i.node)))
    });
    if let Some(reason) = stopped
        && update.pause.is_none()
    {
        plan.commands.push(act(update, update.options.on_deploy_failure, reason));
        return;
    }
    let way = update.way().filter(|way| way.in_place.is_some());
    let in_place = way.as_ref().and_then(|way| way.in_place);
    if in_place.is_some() && update.pause.is_some() {
        // Old instances would go on to leave.
        strategy::wait_for_resume(update, plan);
        return;
    }
    if let Some(way) = &way
        && strategy::before_first_batch(view, update, way, plan)
    {
        return;
    }
    if let Some(bounds) = in_place
        && !strategy::prepare(view, update, bounds, update.deploy_goal(), plan)
    {
        return;
    }
    let ready: Vec<&InstanceRecord> = new_side(view, update).filter(|i| i.is_updated()).collect();
    let wanted = update.deploy_goal();
    if ready.len() < wanted as usize {
        let mut message = format!("{} of {wanted} instances are ready", ready.len());
        if let Some(reason) = not_ready(view, update) {
            message += &format!("; {reason}");
        }
        plan.wait(
            &update.slice,
            Wait {
                code: "instances_ready",
                message,
                since_ms: update.state_since_ms,
                unblock: format!(
                    "look at 'aether logs {}:{}', or roll back",
                    update.slice, update.new.version
                ),
            },
        );
        return;
    }
    let since_ms = ready.iter().map(|i| i.observed_since_ms).max().unwrap_or(view.now_ms);
    let healthy_at_ms = since_ms.saturating_add(update.options.healthy_ms);
    if view.now_ms >= healthy_at_ms {
        plan.commands.push(Command::MarkDeployed { update: update.id.clone() });
        return;
    }
    plan.wake_at(healthy_at_ms);
    plan.wait(
        &update.slice,
        Wait {
            code: "healthy_time",
            message: format!(
                "every instance to have been ready for {} ms",
                update.options.healthy_ms
            ),
            since_ms,
            unblock: "nothing to do".to_owned(),
        },
    );
}

/// A version that ends over and over after it was deployed. Calls that find no
/// instance of it are no evidence, so that no threshold would notice.
pub(super) fn crash_looping(view: &View<'_>, update: &UpdateRecord) -> Vec<Reason> {
    let loops = |i: &InstanceRecord| {
        let (code, said) = i.failure()?;
        Some(Reason::new(code, format!("{} on {}: {said}", i.id, i.node)))
    };
    new_side(view, update).filter_map(loops).collect()
}

/// Says which part of the new side is not there, if one is not.
pub(super) fn name_missing(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    let ready = view.state.ready_count(&update.slice, update.new.revision);
    let target = view.state.targets.get(&(update.slice.clone(), update.new.revision));
    let wanted = target.map_or(update.instances, |target| target.instances);
    let Some(reason) = not_ready(view, update).filter(|_| ready < wanted) else {
        return;
    };
    let (slice, version) = (&update.slice, &update.new.version);
    plan.wait(
        slice,
        Wait {
            code: "new_capacity",
            message: format!("{ready} of {wanted} instances of {version} are ready; {reason}"),
            since_ms: update.state_since_ms,
            unblock: format!("look at 'aether logs {slice}:{version}', or roll back"),
        },
    );
}

/// Whether every session has applied the route as it is now.
fn route_is_acked(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) -> bool {
    let Some(route) = view.state.routes.get(&update.slice) else {
        return true;
    };
    let outstanding = Outstanding::of(view, route.route_revision);
    if outstanding.is_clear(view, update.forced, update.modified_ms()) {
        return true;
    }
    let what = format!("routing {}", update.weights);
    outstanding.report(view, &update.slice, Some(update), &what, update.state_since_ms, plan);
    false
}

/// Waits until the losing side is drained, stopped and gone; starts that first.
fn remove_losing(view: &View<'_>, update: &UpdateRecord, losing: &Side, plan: &mut Plan) {
    let wanted = view
        .state
        .instances_of(&update.slice)
        .any(|i| i.revision == losing.revision && i.desired == Desired::Run);
    if wanted {
        let is_known = view.state.meta.feature_level >= since::GUARDED_REMOVAL;
        plan.commands.push(Command::RemoveLosingSide {
            update: update.id.clone(),
            if_modified: is_known.then_some(update.modified),
        });
    } else if !view.state.has_instances_left(&update.slice, losing.revision, update.forced) {
        plan.commands.push(Command::Finish { update: update.id.clone() });
    } else {
        let stopping = view
            .state
            .instances_of(&update.slice)
            .filter(|i| i.revision == losing.revision)
            .map(|i| format!("{} on {}", i.id, i.node))
            .collect::<Vec<_>>();
        plan.wait(
            &update.slice,
            Wait {
                code: "instances_stopped",
                message: format!("instances of {} to end: {}", losing.version, stopping.join(", ")),
                since_ms: update.state_since_ms,
                unblock: format!(
                    "nothing to do while their nodes report; if one is gone for good, \
                     'aether update {} {} --force'",
                    super::removal::verb(update),
                    update.id
                ),
            },
        );
    }
}

/// Whether all of the new side have read its files. The end of the update does not have
/// those called as of it that have not.
fn have_reloaded(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) -> bool {
    let of_new = view.state.instances_of(&update.slice).filter(|i| {
        i.revision == update.new.revision && i.desired == Desired::Run && !i.has_reloaded()
    });
    let late: Vec<&str> = of_new.map(|i| i.id.as_str()).collect();
    let Some(first) = late.first() else { return true };
    plan.wait(
        &update.slice,
        Wait {
            code: "reload",
            message: format!(
                "{} of {} that were told to reload and have not, such as {first}",
                counted(late.len(), "instance"),
                update.new.revision
            ),
            since_ms: update.state_since_ms,
            unblock: format!(
                "they reload, 'aether update rollback {id}', or 'aether update complete {id} \
                 --force'",
                id = update.id
            ),
        },
    );
    false
}

fn completing(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    if !route_is_acked(view, update, plan) {
        return;
    }
    if view.state.has_way_back(update) && !view.state.is_new_side_whole(update) && !update.forced {
        // Nothing is lost yet: the old set is there, and a rollback one command away.
        let ready = view.state.ready_count(&update.slice, update.new.revision);
        let wanted = update.base_instances.min(update.instances);
        plan.wait(
            &update.slice,
            Wait {
                code: "new_capacity",
                message: format!(
                    "{ready} of {wanted} instances of {} are ready{}",
                    update.new.version,
                    not_ready(view, update).map(|why| format!("; {why}")).unwrap_or_default()
                ),
                since_ms: update.state_since_ms,
                unblock: format!("they become ready, or 'aether update rollback {}'", update.id),
            },
        );
        return;
    }
    if !update.forced && !have_reloaded(view, update, plan) {
        return;
    }
    match &update.old {
        Some(old) if update.options.cleanup == CleanupPolicy::Immediate => {
            remove_losing(view, update, old, plan);
        }
        _ => plan.commands.push(Command::Finish { update: update.id.clone() }),
    }
}

fn rolling_back(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    let in_place = update.way().and_then(|way| way.in_place).filter(|_| update.old.is_some());
    if let Some(bounds) = in_place
        && (shift_back(view, update, plan) || strategy::restore(view, update, bounds, plan))
    {
        return;
    }
    // In place the new instances make room for the old ones, which end it.
    let is_whole = in_place.is_none() || view.state.is_old_side_whole(update);
    if update.weights == Weights::ALL_OLD && is_whole {
        if route_is_acked(view, update, plan) {
            remove_losing(view, update, &update.new, plan);
        }
        return;
    }
    let Some(old) = &update.old else { return };
    let ready = view.state.ready_count(&update.slice, old.revision);
    if shift_back(view, update, plan) {
        return;
    }
    let why = first_problem(side(view, update, old.revision));
    plan.wait(
        &update.slice,
        Wait {
            code: "old_capacity",
            message: format!(
                "{ready} of {} instances of {} are ready again; the ratio is {}{}",
                update.base_instances,
                old.version,
                update.weights,
                why.map(|why| format!("; {why}")).unwrap_or_default()
            ),
            since_ms: update.state_since_ms,
            unblock: format!(
                "they become ready ('aether slices' shows them), or 'aether update rollback {} \
                 --now' to route to {} whatever its capacity",
                update.id, old.version
            ),
        },
    );
}

/// Gives the old side what its ready instances carry by now. Whether that is more.
fn shift_back(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) -> bool {
    let Some(old) = &update.old else { return false };
    let ready = view.state.ready_count(&update.slice, old.revision);
    let weights = back_as_far_as(ready, update.base_instances);
    let is_more = weights.is_raised_by(update.weights);
    if is_more {
        plan.commands.push(Command::ShiftBack { update: update.id.clone(), weights });
    }
    is_more
}

/// Retires a retained set whose grace time is over.
pub(super) fn retained(view: &View<'_>, slice: &SliceName, plan: &mut Plan) {
    let Some(record) = view.state.retained.get(slice) else {
        return;
    };
    match record.expires_at_ms {
        Some(at_ms) if view.now_ms >= at_ms => {
            plan.commands.push(Command::Retire { slice: slice.clone() });
        }
        Some(at_ms) => plan.wake_at(at_ms),
        None => {}
    }
}
