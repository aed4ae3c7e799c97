//! The log, its leaders, and requests on their way.

use std::sync::Arc;

use aether_core::command::{Command, Outcome, Request};
use aether_core::state::State;

use super::{Event, Origin, World};
use crate::invariants::{Step, refused_as_stale};
use crate::leader::{Coordinator, Next};
use crate::log::{Payload, ReplicaId};
use crate::planted::Planted;

/// How long those that lost their leader wait before they elect another one.
const ELECTION_MS: (u64, u64) = (200, 1_500);

impl World {
    /// The leader is gone; `survive` of its proposals are committed all the same.
    pub(super) fn depose(&mut self, survive: usize) {
        self.log.depose(survive);
        let (from, to) = ELECTION_MS;
        let gap_ms = if self.settings.is_quiet { 500 } else { self.rng.between(from, to) };
        self.after(gap_ms, Event::Elect);
    }

    pub(super) fn elect(&mut self) {
        if self.log.leader.is_some() {
            return;
        }
        let candidates = self.log.connected();
        if !self.log.has_quorum() {
            return self.after(500, Event::Elect);
        }
        if self.log.term == 0 {
            self.log.term = 1;
        }
        let quiet = self.settings.is_quiet;
        let replica = if quiet { candidates[0] } else { *self.rng.pick(&candidates) };
        let (now_ms, term) = (self.now_ms, self.log.term);
        self.trace.note(now_ms, format_args!("v{replica} is elected in term {term}"));
        if self.planted == Some(Planted::ActsBeforeOwnEntry) && term > 1 {
            // What its predecessor left is in its log and not in its state.
            self.log.elect(replica, now_ms);
            self.log.in_flight.pop_back();
            self.take_over(replica);
        } else {
            // Whoever wins has all that is committed, and applies it first.
            let known = self.log.replicas[replica].state.clone();
            self.log.catch_up(replica, self.log.index());
            self.check_replica(replica);
            self.advanced(replica, &known);
            self.log.elect(replica, now_ms);
        }
        for _ in 0..self.log.in_flight.len() {
            self.commit_later();
        }
    }

    fn commit_later(&mut self) {
        let delay_ms = self.latency_ms();
        // A log has one order.
        self.commit_due_ms = self.commit_due_ms.max(self.now_ms + delay_ms);
        let term = self.log.term;
        self.after(self.commit_due_ms - self.now_ms, Event::Commit { term });
    }

    pub(super) fn commit(&mut self, term: u64) {
        let Some(leader) = self.log.leader.filter(|_| self.log.term == term) else { return };
        if !self.log.has_quorum() {
            return self.after(200, Event::Commit { term });
        }
        let before = self.log.newest.clone();
        let last_term = self.log.entries.last().map_or(0, |entry| entry.at.term);
        let Some((proposal, outcome)) = self.log.commit() else { return };
        let decided_at = self.decided.remove(&proposal);
        self.check_entry(&before, last_term, decided_at, &outcome);
        if let Some(decided_at) = decided_at {
            let found = refused_as_stale(&self.log.entries, decided_at, &outcome);
            self.check("decisions", found);
        }
        let is_own = self.log.entries.last().is_some_and(|entry| {
            matches!(entry.payload, Payload::Blank) && entry.at.term == self.log.term
        });
        let known = self.log.replicas[leader].state.clone();
        self.log.lead_state(leader);
        self.advanced(leader, &known);
        for replica in 0..self.log.replicas.len() {
            if replica != leader && self.apply_due.insert(replica) {
                let lag_ms = self.latency_ms();
                self.after(lag_ms, Event::Apply(replica));
            }
        }
        if is_own {
            self.take_over(leader);
        }
        if let Some(origin) = self.proposed.remove(&proposal) {
            self.answer(origin, proposal, outcome);
        }
    }

    fn take_over(&mut self, leader: ReplicaId) {
        self.log.is_ready = true;
        self.ready_since_ms = self.now_ms;
        let (term, now_ms, waits) = (self.log.term, self.now_ms, self.settings.waits);
        let coordinator = Coordinator::new(leader, term, now_ms, waits, self.planted);
        self.coordinators.insert(leader, coordinator);
        self.wake(leader);
    }

    fn check_entry(
        &mut self,
        before: &State,
        last_term: u64,
        decided_at: Option<u64>,
        outcome: &Outcome,
    ) {
        let entry = self.log.entries.last().expect("one was just committed");
        let said = match outcome {
            Ok(_) => "done".to_owned(),
            Err(refusal) => format!("refused: {refusal}"),
        };
        match &entry.payload {
            Payload::Blank => {
                self.trace.note(self.now_ms, format_args!("{} BLANK", entry.at.index));
            }
            Payload::Request(request) => {
                let (index, command) = (entry.at.index, &request.command);
                self.trace.note(self.now_ms, format_args!("{index} {command:?}: {said}"));
            }
        }
        let step = Step {
            before,
            after: &self.log.newest,
            entry,
            outcome,
            decided_at,
            last_term,
            callers: &self.callers,
            counted: &self.counted,
            waits: &self.settings.waits,
            now_ms: self.now_ms,
            ready_since_ms: self.ready_since_ms,
        };
        self.updates += step.started();
        let reloaded = match before.instances.ptr_eq(&step.after.instances) {
            true => Ok(()),
            false => crate::invariants::reloaded(step.after, &self.agents, &self.runs),
        };
        if let Err((invariant, detail)) = self.checker.entry(&step) {
            self.check(invariant, Err(detail));
        }
        self.check("reloaded", reloaded);
    }

    /// Replicas that are as far as each other are the same.
    pub(super) fn check_replica(&mut self, replica: ReplicaId) {
        let own = &self.log.replicas[replica].state;
        if own.meta.index == self.log.newest.meta.index {
            let found = crate::invariants::same_state(own, &self.log.newest, replica);
            self.check("same_state", found);
        }
    }

    pub(super) fn apply(&mut self, replica: ReplicaId) {
        self.apply_due.remove(&replica);
        let is_leader = self.log.leader == Some(replica);
        let Some(known) = self.log.replicas.get(replica) else { return };
        if is_leader || !known.is_up || known.is_cut_off {
            return;
        }
        let before = known.state.clone();
        self.log.catch_up(replica, self.log.index());
        if self.rng.chance(10) {
            self.check_replica(replica);
        }
        self.advanced(replica, &before);
    }

    /// A replica applied something: those that follow it hear of it.
    fn advanced(&mut self, replica: ReplicaId, before: &State) {
        let after = self.log.replicas[replica].state.clone();
        if after.meta.index == before.meta.index {
            return;
        }
        self.send_directives(replica, before, &after);
        self.send_tables(replica, before, &after);
        self.wake(replica);
    }

    /// A coordinator has something to look at.
    pub(super) fn wake(&mut self, replica: ReplicaId) {
        let now_ms = self.now_ms;
        let Some(coordinator) = self.coordinators.get_mut(&replica) else { return };
        coordinator.is_dirty = true;
        let is_soon = coordinator.look_at_ms.is_some_and(|at_ms| at_ms <= now_ms + 1);
        if coordinator.is_idle() && !is_soon {
            self.look_in(replica, 1);
        }
    }

    fn look_in(&mut self, replica: ReplicaId, delay_ms: u64) {
        let now_ms = self.now_ms;
        let Some(coordinator) = self.coordinators.get_mut(&replica) else { return };
        coordinator.look_at_ms = Some(now_ms + delay_ms);
        let term = coordinator.term;
        self.after(delay_ms, Event::Look { replica, term });
    }

    pub(super) fn look_event(&mut self, replica: ReplicaId, term: u64) {
        let now_ms = self.now_ms;
        let is_due = self.coordinators.get_mut(&replica).is_some_and(|c| {
            let due = c.term == term && c.look_at_ms == Some(now_ms);
            if due {
                c.look_at_ms = None;
            }
            due
        });
        if is_due {
            self.look(replica);
        }
    }

    /// Goes on with the pass of a coordinator as far as it waits for nothing.
    fn look(&mut self, replica: ReplicaId) {
        // News, plan and sleep: a pass has three parts.
        for _ in 0..3 {
            let readings = self.log.readings(replica, self.now_ms);
            let Some(coordinator) = self.coordinators.get_mut(&replica) else { return };
            if !coordinator.is_answered() || !self.log.replicas[replica].is_up {
                return;
            }
            // A deposed leader's clock runs on.
            let state = &self.log.replicas[replica].state;
            let log_time_ms = self.log.clock.at(readings).max(state.meta.log_time_ms);
            let next = coordinator.look(state, log_time_ms, self.now_ms);
            let term = coordinator.term;
            let found = std::mem::replace(&mut coordinator.accounts, Ok(()));
            self.check("accounts", found);
            match next {
                Next::Sleep(delay_ms) => return self.look_in(replica, delay_ms.max(1)),
                Next::Propose(commands) => {
                    let keeps = self.settings.keeps_inputs;
                    let is_kept = |c: &Command| !matches!(c, Command::RecordInput { .. }) || keeps;
                    for command in commands.into_iter().filter(is_kept) {
                        self.propose(replica, term, command);
                    }
                }
            }
        }
    }

    fn propose(&mut self, replica: ReplicaId, term: u64, command: Command) {
        let request = Request { request_id: None, actor: "coordinator".to_owned(), command };
        let payload = Payload::Request(Arc::new(request));
        let Some(proposal) = self.log.propose(replica, term, payload, self.now_ms) else {
            return;
        };
        self.proposed.insert(proposal, Origin::Coordinator(replica, term));
        self.decided.insert(proposal, self.log.replicas[replica].state.meta.index);
        if let Some(coordinator) = self.coordinators.get_mut(&replica) {
            coordinator.await_answer(proposal);
        }
        self.commit_later();
    }

    /// Whom clients tell: those that lead, or believe that they do.
    pub(super) fn listeners(&self) -> Vec<ReplicaId> {
        let leaders = self.coordinators.keys().copied();
        leaders.filter(|replica| self.log.replicas[*replica].is_up).collect()
    }

    /// A deposed leader hears that it is one.
    pub(super) fn finds_out(&mut self, replica: ReplicaId, term: u64) {
        if self.coordinators.get(&replica).is_some_and(|c| c.term == term) {
            self.coordinators.remove(&replica);
        }
    }

    /// Sends a request to the leader, over whatever node.
    pub(super) fn submit(&mut self, origin: Origin, request: Arc<Request>) {
        let delay_ms = self.latency_ms();
        self.after(delay_ms, Event::Arrive { origin, request });
    }

    pub(super) fn arrive(&mut self, origin: Origin, request: Arc<Request>) {
        let Some(leader) = self.log.leader.filter(|_| self.log.is_ready) else {
            // It is said to be unavailable, and that it was not done.
            if let Origin::Person(number) = origin {
                self.not_done.insert(number);
            }
            if let Origin::Caller(caller, process) = origin
                && self.callers[caller].process == process
            {
                self.hello_in(caller, 500);
            }
            return;
        };
        let (term, payload) = (self.log.term, Payload::Request(request));
        if let Some(proposal) = self.log.propose(leader, term, payload, self.now_ms) {
            self.proposed.insert(proposal, origin);
            self.commit_later();
        }
    }

    fn answer(&mut self, origin: Origin, proposal: u64, outcome: Outcome) {
        match origin {
            Origin::Coordinator(replica, term) => {
                let Some(coordinator) = self.coordinators.get_mut(&replica) else { return };
                if coordinator.term == term {
                    coordinator.answer(proposal, &outcome);
                    if coordinator.is_answered() {
                        self.look(replica);
                    }
                }
            }
            Origin::Person(number) => {
                let said = match &outcome {
                    Ok(_) => "done".to_owned(),
                    Err(refusal) => refusal.to_string(),
                };
                self.trace.note(self.now_ms, format_args!("request {number}: {said}"));
                self.care.heard(number, &outcome);
                self.answers.insert(number, Some(outcome));
            }
            Origin::Caller(caller, process) => self.session_opened(caller, process, &outcome),
        }
    }
}
