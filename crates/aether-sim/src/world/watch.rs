//! What is looked at every second: whether deadlines were acted on, and, once
//! everything is healed, whether somebody has to take the next step.

use std::sync::Arc;

use aether_core::command::Request;

use super::{Event, Origin, World};
use crate::invariants::{self, Violation};
use crate::operator;

impl World {
    pub(super) fn watch(&mut self) {
        self.after(1_000, Event::Watch);
        if !self.log.has_quorum() {
            self.no_quorum_ms = self.now_ms;
        }
        if let Some(log_time_ms) = self.log.log_time_ms(self.now_ms) {
            let led_ms = self.now_ms - self.ready_since_ms.max(self.no_quorum_ms);
            let found = self.checker.deadlines.are_kept(&self.log, log_time_ms, led_ms);
            self.check("deadlines", found);
            let found = invariants::holds_end(&self.log, log_time_ms, led_ms);
            self.check("barrier", found);
        }
        let in_flight = self.callers.iter().map(|caller| caller.calls.len()).sum();
        let found = self.checker.one_outcome.balance(in_flight);
        self.check("one_outcome", found);
        if self.is_healed && self.settings.has_caretaker {
            self.take_care();
        }
    }

    /// Somebody looks after live updates: the next sensible step of each.
    fn take_care(&mut self) {
        let state = self.log.newest.clone();
        for command in operator::open_nodes(&state) {
            self.ask(command, None);
        }
        for slice in self.slices.clone() {
            let Some(update) = state.live_update(&slice) else { continue };
            let number = self.requests.len();
            let log_time_ms = state.meta.log_time_ms;
            let step = self.care.next(&state, update, log_time_ms, number, &mut self.rng);
            if let Some(command) = step {
                self.ask(command, None);
            }
        }
    }

    /// A person asks for something. `repeats` is a request id that was used
    /// before. Gives the number of the request.
    pub fn ask(
        &mut self,
        command: aether_core::command::Command,
        repeats: Option<String>,
    ) -> usize {
        let number = self.requests.len();
        let request_id = Some(repeats.unwrap_or_else(|| format!("p{number}")));
        let request = Arc::new(Request { request_id, actor: operator::ACTOR.to_owned(), command });
        self.requests.push(Arc::clone(&request));
        self.answers.insert(number, None);
        self.submit(Origin::Person(number), request);
        number
    }
}

impl World {
    /// At the end: all replicas catch up, and are the same by their hash.
    pub fn compare_replicas(&mut self) -> Option<Violation> {
        let index = self.log.index();
        for replica in 0..self.log.replicas.len() {
            if !self.log.replicas[replica].is_up {
                continue;
            }
            self.log.catch_up(replica, index);
            let own = &self.log.replicas[replica].state;
            if let Err(detail) = invariants::same_hash(own, &self.log.newest, replica) {
                let (invariant, at_ms) = ("same_state", self.now_ms);
                return Some(Violation { invariant, detail, at_ms, index });
            }
        }
        None
    }
}
