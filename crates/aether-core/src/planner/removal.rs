//! The removal fence: nothing is stopped before every session has acked a
//! table without it and its calls in flight have ended.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Plan, SESSION_UNREACHABLE, SessionView, View, Wait};
use crate::command::Command;
use crate::coordinates::SliceName;
use crate::ids::{InstanceId, SessionId};
use crate::records::{Desired, InstanceRecord, Observed, Reason, UpdateRecord, UpdateState};

/// What stands between a table revision and all sessions having applied it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outstanding {
    /// Connected, or expected back, but not there yet.
    pub behind: BTreeSet<SessionId>,
    /// Silent for more than their lease; they may still use their last table.
    pub unreachable: BTreeSet<SessionId>,
}

impl Outstanding {
    /// Sessions that have not acked `revision`.
    pub(super) fn of(view: &View<'_>, revision: u64) -> Self {
        let mut outstanding = Self::default();
        for (session, record) in &view.state.sessions {
            // Its first table was already without what left before it came.
            if record.fresh && record.opened > revision {
                continue;
            }
            match view.sessions.get(session) {
                Some(SessionView::Connected { applied, .. }) if *applied >= revision => {}
                Some(SessionView::Connected { .. } | SessionView::Awaited) | None => {
                    outstanding.behind.insert(session.clone());
                }
                Some(SessionView::Unreachable { .. }) => {
                    outstanding.unreachable.insert(session.clone());
                }
            }
        }
        outstanding
    }

    /// Whether everything may go on. `--force` waives sessions that cannot be
    /// reached, and those that answer but have not followed since `since_ms`,
    /// the later of the decision and the last change of the update.
    pub(super) fn is_clear(&self, view: &View<'_>, forced: bool, since_ms: u64) -> bool {
        let given_up = forced && view.now_ms.saturating_sub(since_ms) > STUCK_MS;
        (self.behind.is_empty() || given_up) && (forced || self.unreachable.is_empty())
    }

    /// Says what is waited for, and pauses the update over sessions that cannot
    /// be reached.
    pub(super) fn report(
        &self,
        view: &View<'_>,
        slice: &SliceName,
        update: Option<&UpdateRecord>,
        what: &str,
        since_ms: u64,
        plan: &mut Plan,
    ) {
        if !self.behind.is_empty() {
            plan.wait(
                slice,
                Wait {
                    code: "session_ack",
                    message: format!("{} to apply {what}", named(view, &self.behind)),
                    since_ms,
                    unblock: "nothing to do: they answer within their lease".to_owned(),
                },
            );
        }
        // With --force they are not waited for.
        if self.unreachable.is_empty() || update.is_some_and(|update| update.forced) {
            return;
        }
        let message = format!(
            "{} cannot be reached and may still send calls by an old table",
            named(view, &self.unreachable)
        );
        let unblock = match update {
            Some(update) => format!(
                "bring them back, wait {} s, or 'aether update {} {} --force'",
                view.table_age_max_ms / 1000,
                verb(update),
                update.id
            ),
            None => format!("bring them back, or wait {} s", view.table_age_max_ms / 1000),
        };
        if let Some(update) = update.filter(|update| update.pause.is_none()) {
            let reason = Reason::new(SESSION_UNREACHABLE, message.clone());
            plan.commands.push(super::progress::pause(update, reason));
        }
        plan.wait(slice, Wait { code: SESSION_UNREACHABLE, message, since_ms, unblock });
    }
}

/// How long sessions that answer may lag behind before `--force` waives them
/// too: three leases at their usual length. A healthy one needs milliseconds.
const STUCK_MS: u64 = 10_000;

/// The verb whose `--force` ends the waiting of an update.
pub fn verb(update: &UpdateRecord) -> &'static str {
    match update.state {
        UpdateState::RollingBack => "rollback",
        _ => "complete",
    }
}

/// Sessions by id and name, for people.
pub(super) fn named(view: &View<'_>, sessions: &BTreeSet<SessionId>) -> String {
    const NAMED_MAX: usize = 5;
    let mut names: Vec<String> = sessions
        .iter()
        .take(NAMED_MAX)
        .map(|id| match view.state.sessions.get(id) {
            Some(record) => format!("{id} ({})", record.name),
            None => id.to_string(),
        })
        .collect();
    if sessions.len() > NAMED_MAX {
        names.push(format!("{} more", sessions.len() - NAMED_MAX));
    }
    let noun = if sessions.len() == 1 { "session" } else { "sessions" };
    format!("{noun} {}", names.join(", "))
}

/// Sessions that still have calls in flight on an instance.
fn busy(view: &View<'_>, instance: &InstanceId) -> BTreeSet<SessionId> {
    let is_busy = |view: &SessionView| matches!(view, SessionView::Connected { busy, .. } if busy.contains(instance));
    let sessions = view.sessions.iter().filter(|(_, session)| is_busy(session));
    sessions.map(|(id, _)| id.clone()).collect()
}

/// Stops the drained instances of a slice for which the fence holds.
pub(super) fn stop_drained(view: &View<'_>, slice: &SliceName, plan: &mut Plan) {
    // What else drains beside an update (a scale-down, a retired set) is no
    // reason to pause it, nor covered by its --force.
    let removes = |update: &&UpdateRecord| {
        matches!(update.state, UpdateState::Completing | UpdateState::RollingBack)
    };
    let update = view.state.live_update(slice).map(|update| &**update).filter(removes);
    let forced = update.is_some_and(|update| update.forced);
    let changed_ms = update.map_or(0, UpdateRecord::modified_ms);
    let mut clear = Vec::new();
    let mut late: Vec<(InstanceId, String)> = Vec::new();
    let mut held: Option<(Outstanding, u64)> = None;
    let drained = |i: &&Arc<InstanceRecord>| i.desired == Desired::Drain;
    for record in view.state.instances_of(slice).filter(drained) {
        if view.state.is_kept_for_rollback(record) {
            continue;
        }
        // Never in a table, or dead: there is nothing to protect it from.
        if record.left_table == 0 || record.observed == Observed::Stopped {
            clear.push(record.id.clone());
            continue;
        }
        let outstanding = Outstanding::of(view, record.left_table);
        if !outstanding.is_clear(view, forced, record.desired_since_ms.max(changed_ms)) {
            held.get_or_insert((outstanding, record.desired_since_ms));
            continue;
        }
        let busy = busy(view, &record.id);
        if busy.is_empty() {
            clear.push(record.id.clone());
        } else {
            wait_for_calls(view, record, &busy, &mut late, plan);
        }
    }
    if let Some((outstanding, since_ms)) = held {
        outstanding.report(
            view,
            slice,
            update,
            "a table without the draining instances",
            since_ms,
            plan,
        );
    }
    if !clear.is_empty() {
        plan.commands.push(Command::Stop { instances: clear, waived: None });
    }
    for (instance, waived) in late {
        plan.commands.push(Command::Stop { instances: vec![instance], waived: Some(waived) });
    }
}

/// Calls in flight may end by themselves until the drain time is over.
fn wait_for_calls(
    view: &View<'_>,
    record: &InstanceRecord,
    busy: &BTreeSet<SessionId>,
    late: &mut Vec<(InstanceId, String)>,
    plan: &mut Plan,
) {
    let drain_ms = view
        .state
        .revisions
        .get(&(record.slice.clone(), record.revision))
        .map_or(0, |revision| revision.manifest.run.drain.0);
    let until_ms = record.desired_since_ms.saturating_add(drain_ms);
    if view.now_ms >= until_ms {
        let waived =
            format!("{} had calls in flight after {} s", named(view, busy), drain_ms / 1000);
        late.push((record.id.clone(), waived));
        return;
    }
    plan.wake_at(until_ms);
    plan.wait(
        &record.slice,
        Wait {
            code: "drain",
            message: format!("calls in flight on {} from {}", record.id, named(view, busy)),
            since_ms: record.desired_since_ms,
            unblock: format!("they end, or the drain time of {} s is over", drain_ms / 1000),
        },
    );
}
