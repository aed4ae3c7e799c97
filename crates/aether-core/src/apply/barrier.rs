//! The barrier of a blue-green switch: sessions hold new calls, and the switch is
//! committed once all of them do.
//!
//! What sessions have said is not in the state, so that the planner judges it. Here
//! stands what the state can show: a hold is of one update and lasts only while
//! nothing else happens to that one, it has a time of its own, and no session came
//! beside it that the decision did not know of.

use super::Tx;
use super::gates::check_open;
use super::strategy::stale;
use crate::command::{Answer, Outcome};
use crate::ids::UpdateId;
use crate::records::{BARRIER_MS, CallHold, RouteRecord, UpdateRecord, UpdateState};
use crate::weights::Weights;

impl Tx<'_> {
    pub(super) fn hold_calls(&mut self, id: &UpdateId, if_modified: u64) -> Outcome {
        let update = self.update(id)?;
        let step = update.step() + 1;
        let serves = matches!(update.state, UpdateState::Deployed | UpdateState::Routing);
        let waits = update.pause.is_some() || update.pending_weights.is_some();
        let asks_first = update.options.manual_approval && !update.is_approved();
        let way = update.way();
        let is_open = way.as_ref().is_some_and(|way| check_open(&update, way, step).is_ok());
        let weights = way.and_then(|way| way.weights(step));
        let route = self.state.routes.get(&update.slice).filter(|route| route.hold.is_none());
        let (Some(weights), Some(route)) = (weights, route) else { return Err(stale(&update)) };
        if !serves
            || waits
            || asks_first
            || !is_open
            || !update.has_barrier_at(step)
            || update.modified != if_modified
        {
            return Err(stale(&update));
        }
        let hold = CallHold { update: id.clone(), since_ms: self.now_ms() };
        let route = RouteRecord { hold: Some(hold), ..(**route).clone() };
        self.check_step(&update, step, weights)?;
        self.write_route(route);
        self.put_update(update, "every session is to hold new calls for the switch".to_owned());
        Ok(Answer::default())
    }

    /// Switches at the end of a hold. The planner has seen that every session up to
    /// the one that was opened at `opened_max` holds its calls.
    pub(super) fn switch_held(
        &mut self,
        update: UpdateRecord,
        step: u32,
        weights: Weights,
        opened_max: Option<u64>,
    ) -> Outcome {
        let route = self.state.routes.get(&update.slice);
        let held = route.and_then(|route| Some((route.route_revision, route.hold.as_ref()?)));
        let now_ms = self.now_ms();
        let in_time = |hold: &CallHold| {
            now_ms < hold.since_ms.saturating_add(BARRIER_MS) && hold.update == update.id
        };
        let came_since = |max| self.state.sessions.values().any(|session| session.opened > max);
        let (Some((revision, hold)), Some(max)) = (held, opened_max) else {
            return Err(stale(&update));
        };
        if !in_time(hold) || came_since(max) {
            return Err(stale(&update));
        }
        self.commit_step_held(
            update,
            step,
            weights,
            "every session holds its calls: step 1 of 1: ",
            Some(revision),
        );
        Ok(Answer::default())
    }

    /// Promotes to a switch that waits for sessions, past the gates that a person went
    /// past.
    pub(super) fn promote_past_gates(
        &mut self,
        mut update: UpdateRecord,
        step: u32,
        past: &str,
    ) -> Outcome {
        if past.is_empty() {
            return self.promote_ahead(update, step);
        }
        self.force_gates(&mut update, step);
        self.follow_ahead(update, step, &format!("promoted{past}"), false)
    }

    /// The same for one that waited for approval, which is given for whatever gates it
    /// was to go past.
    pub(super) fn approve_switch(
        &mut self,
        mut update: UpdateRecord,
        step: u32,
        pending: &str,
    ) -> Outcome {
        self.force_gates(&mut update, step);
        self.follow_ahead(update, step, &format!("approved {pending}"), true)
    }

    /// Has calls go on if they are held for this update, and this entry is not the one
    /// that holds them.
    pub(super) fn end_hold(&mut self, update: &UpdateRecord) {
        let Some(route) = self.state.routes.get(&update.slice) else { return };
        let is_held = route.hold.as_ref().is_some_and(|hold| hold.update == update.id);
        if is_held && route.route_revision != self.index() {
            let route = (**route).clone();
            self.put_route(route);
        }
    }
}
