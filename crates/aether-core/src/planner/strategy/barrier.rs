//! A switch without any overlap: no call starts at the old version after the first
//! one at the new.
//!
//! Every session holds new calls ([`Command::HoldCalls`]). When all have said so, no
//! call can start anywhere, and the switch is committed; its entry ends the hold. If
//! one has not said so in time, the hold ends with the update paused and the route as
//! it was. The hold stands in the route's record, so that a new leader, which has heard
//! of nobody yet, finds it and ends it when its time is over. A session holds calls for
//! a time of its own, longer than the leader waits; what it lets go on then is counted
//! by it and written down with the switch.

use std::collections::BTreeSet;

use super::{Plan, View, Wait};
use crate::command::Command;
use crate::duration::Millis;
use crate::ids::SessionId;
use crate::planner::SessionView;
use crate::planner::progress::pause;
use crate::planner::removal::{Outstanding, named};
use crate::records::{BARRIER_MS, Reason, UpdateRecord};

/// Code of the wait for sessions that are to hold their calls.
pub(super) const BARRIER: &str = "barrier";

/// Begins to hold calls, if every session can be relied on to say that it does.
pub(super) fn begin(view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
    let awaited = named_if_any(view, &awaited(view), "not heard from yet");
    let Some(obstacle) = hopeless(view).or(awaited) else {
        let (update, if_modified) = (update.id.clone(), update.modified);
        plan.commands.push(Command::HoldCalls { update, if_modified });
        return;
    };
    let id = &update.id;
    plan.wait(
        &update.slice,
        Wait {
            code: BARRIER,
            message: format!("every session to hold its calls for the switch; {obstacle}"),
            since_ms: update.modified_ms(),
            unblock: format!(
                "bring them back, or up to date, or end them; or 'aether update promote {id} \
                 --force' to switch without a barrier"
            ),
        },
    );
}

/// Sessions of which `is_such` holds.
fn such(view: &View<'_>, is_such: fn(Option<&SessionView>) -> bool) -> BTreeSet<SessionId> {
    let ids = view.state.sessions.keys();
    ids.filter(|id| is_such(view.sessions.get(id))).cloned().collect()
}

/// Sessions that may report yet.
fn awaited(view: &View<'_>) -> BTreeSet<SessionId> {
    such(view, |seen| matches!(seen, None | Some(SessionView::Awaited)))
}

/// Which sessions cannot be relied on, and why, if there are any.
fn hopeless(view: &View<'_>) -> Option<String> {
    let unreachable = such(view, |seen| matches!(seen, Some(SessionView::Unreachable { .. })));
    let unable = such(
        view,
        |seen| matches!(seen, Some(SessionView::Connected { holding, .. }) if !holding.is_able),
    );
    named_if_any(view, &unreachable, "cannot be reached")
        .or_else(|| named_if_any(view, &unable, "of a release that cannot hold calls"))
}

fn named_if_any(view: &View<'_>, sessions: &BTreeSet<SessionId>, what: &str) -> Option<String> {
    (!sessions.is_empty()).then(|| format!("{}: {what}", named(view, sessions)))
}

/// A hold that stands.
pub(super) struct Held {
    route_revision: u64,
    since_ms: u64,
}

impl Held {
    /// That of an update, if calls are held for it.
    pub(super) fn of(view: &View<'_>, update: &UpdateRecord) -> Option<Self> {
        let route = view.state.routes.get(&update.slice)?;
        let hold = route.hold.as_ref().filter(|hold| hold.update == update.id)?;
        Some(Self { route_revision: route.route_revision, since_ms: hold.since_ms })
    }

    /// Switches once every session holds its calls, and gives up when it takes too
    /// long or cannot come about.
    pub(super) fn go_on(&self, view: &View<'_>, update: &UpdateRecord, plan: &mut Plan) {
        let until_ms = self.since_ms.saturating_add(BARRIER_MS);
        let mut behind = Outstanding::of(view, self.route_revision).behind;
        // One that came meanwhile holds its calls from the start, if it can at all.
        behind.append(&mut awaited(view));
        let ready = view.state.ready_count(&update.slice, update.new.revision);
        let hopeless = hopeless(view).or_else(|| {
            let (version, wanted) = (&update.new.version, update.base_instances);
            let missing = ready < wanted;
            missing.then(|| format!("{ready} of {wanted} instances of {version} are ready"))
        });
        if let Some(why) = hopeless {
            give_up(update, &why, plan);
        } else if view.now_ms >= until_ms {
            let late = match behind.is_empty() {
                true => "nobody led the cluster until the time was over".to_owned(),
                false => format!("{} did not within {}", named(view, &behind), Millis(BARRIER_MS)),
            };
            give_up(update, &late, plan);
        } else if behind.is_empty() {
            plan.commands.push(Command::EnterStep {
                update: update.id.clone(),
                step: update.step() + 1,
                if_modified: update.modified,
                opened_max: Some(view.state.sessions.values().map(|s| s.opened).max().unwrap_or(0)),
            });
        } else {
            plan.wake_at(until_ms);
            plan.wait(
                &update.slice,
                Wait {
                    code: BARRIER,
                    message: format!("{} to hold new calls for the switch", named(view, &behind)),
                    since_ms: self.since_ms,
                    unblock: format!(
                        "nothing to do: calls go on by the ratio {} after {}",
                        update.weights,
                        Millis(BARRIER_MS)
                    ),
                },
            );
        }
    }
}

/// The pause ends the hold in its own entry.
fn give_up(update: &UpdateRecord, why: &str, plan: &mut Plan) {
    let message = format!(
        "every session was to hold its calls for the switch; {why}; the ratio stays {}",
        update.weights
    );
    plan.commands.push(pause(update, Reason::new(Reason::BARRIER_FAILED, message)));
}

/// Calls that began at the old version though they were to be held for the switch;
/// none where it was made without a barrier.
pub(super) fn late_calls(view: &View<'_>, update: &UpdateRecord) -> Option<u64> {
    let held_revision = update.progress.as_ref()?.held_revision?;
    let late = |session: &SessionView| match session {
        SessionView::Connected { holding, .. } => {
            let late = holding.late.get(&update.slice)?;
            (late.route_revision == held_revision).then_some(late.calls)
        }
        SessionView::Awaited | SessionView::Unreachable { .. } => None,
    };
    let late = view.sessions.values().filter_map(late);
    Some(late.fold(0u64, u64::saturating_add))
}
