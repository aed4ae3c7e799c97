//! Callers: sessions, tables and calls.

use std::sync::Arc;

use aether_core::command::{Command, Outcome, Request};
use aether_core::coordinates::SliceName;
use aether_core::ids::InstanceId;
use aether_core::state::State;

use super::{Event, Origin, World};
use crate::instance::Phase;
use crate::invariants;
use crate::invoker::{ATTEMPTS_MAX, Call, Picked, SessionReport, Tables, Wish};
use crate::log::ReplicaId;
use crate::planted::Planted;

/// Pause before a caller looks for another node.
const RETRY_MS: u64 = 300;
/// A call that is held looks this often whether it may begin.
const HELD_LOOK_MS: u64 = 5;
/// Longest call that is in flight while everything else goes on.
const LONG_CALL_MS_MAX: u64 = 45_000;
/// Errors among a thousand answers of whatever runs on a node that is ill.
const ERRORS_OF_ILL: u64 = 500;

impl World {
    /// A caller looks for a node to follow, and has its session opened where
    /// that is due: as the server's routing service admits it.
    pub(super) fn hello(&mut self, caller: usize, attempt: u64) {
        let who = &self.callers[caller];
        let is_free = who.is_up && !who.is_partitioned && who.attached.is_none();
        if !is_free || who.attempt != attempt {
            return;
        }
        let process = who.process;
        let usable = self.log.connected();
        if usable.is_empty() {
            return self.hello_in(caller, RETRY_MS);
        }
        let replica = *self.rng.pick(&usable);
        let state = &self.log.replicas[replica].state;
        let known = state.sessions.get(&who.session).map(|record| record.opened);
        let holds_tables = who.applied.is_some();
        if who.applied.unwrap_or(0).max(who.life) > state.meta.index {
            // It waits until it has caught up with what the session knows of.
            return self.hello_in(caller, 100);
        }
        let opened = known.filter(|opened| holds_tables || who.life == *opened);
        if let Some(opened) = opened {
            return self.follow(caller, replica, opened);
        }
        let command = Command::OpenSession {
            session: who.session.clone(),
            kind: who.kind,
            name: format!("caller {}", caller + 1),
            fresh: !holds_tables,
            follows: known.unwrap_or(0),
        };
        let request = Request { request_id: None, actor: "session".to_owned(), command };
        self.submit(Origin::Caller(caller, process), Arc::new(request));
        // Should the answer be lost.
        self.hello_in(caller, 2_000);
    }

    /// Has a caller look for a node in a while, and not before.
    pub(super) fn hello_in(&mut self, caller: usize, delay_ms: u64) {
        self.callers[caller].attempt += 1;
        let attempt = self.callers[caller].attempt;
        self.after(delay_ms, Event::Hello { caller, attempt });
    }

    pub(super) fn session_opened(&mut self, caller: usize, process: u64, outcome: &Outcome) {
        let who = &mut self.callers[caller];
        let Ok(answer) = outcome else { return };
        if who.process == process && who.attached.is_none() {
            who.life = answer.index;
            let delay_ms = self.latency_ms();
            self.hello_in(caller, delay_ms);
        }
    }

    fn follow(&mut self, caller: usize, replica: ReplicaId, opened: u64) {
        let who = &mut self.callers[caller];
        (who.attached, who.life) = (Some(replica), opened);
        who.stream += 1;
        who.seq = 0;
        who.stream_due_ms = self.now_ms;
        let tables = Tables::snapshot(&self.log.replicas[replica].state);
        self.send(caller, Arc::new(tables));
    }

    fn send(&mut self, caller: usize, tables: Arc<Tables>) {
        let delay_ms = self.latency_ms() + self.callers[caller].lag_ms;
        let who = &mut self.callers[caller];
        who.stream_due_ms = who.stream_due_ms.max(self.now_ms + delay_ms);
        let (stream, delay_ms) = (who.stream, who.stream_due_ms - self.now_ms);
        self.after(delay_ms, Event::Tables { caller, stream, tables, is_late: false });
    }

    /// Whoever follows a replica gets what changed, or is sent away if its
    /// session is not the committed one.
    pub(super) fn send_tables(&mut self, replica: ReplicaId, before: &State, after: &State) {
        let tables = Tables::change(before, after).map(Arc::new);
        for caller in 0..self.callers.len() {
            let who = &self.callers[caller];
            if who.attached != Some(replica) {
                continue;
            }
            let opened = after.sessions.get(&who.session).map(|record| record.opened);
            if opened != Some(who.life) {
                self.hang_up(caller);
            } else if let Some(tables) = &tables {
                self.send(caller, Arc::clone(tables));
            }
        }
    }

    /// The stream of a caller ends; it looks for another node.
    pub(super) fn hang_up(&mut self, caller: usize) {
        let who = &mut self.callers[caller];
        who.attached = None;
        who.stream += 1;
        self.hello_in(caller, RETRY_MS);
    }

    pub(super) fn tables(
        &mut self,
        caller: usize,
        stream: u64,
        tables: &Arc<Tables>,
        is_late: bool,
    ) {
        let who = &mut self.callers[caller];
        let takes_any = self.planted == Some(Planted::InvokerTakesOlderTable);
        if !who.is_up || who.is_partitioned || (who.stream != stream && !takes_any) {
            return;
        }
        if self.planted == Some(Planted::InvokerAcksEarly) && !is_late {
            if who.applied.is_some() {
                who.ack_early(tables.revision);
                self.report_session(caller, false);
            }
            let tables = Arc::clone(tables);
            return self.after(400, Event::Tables { caller, stream, tables, is_late: true });
        }
        if !who.accepts(tables) {
            if tables.is_snapshot {
                self.hang_up(caller);
            }
            return;
        }
        let found = invariants::forward(who, tables);
        who.apply(tables, self.now_ms);
        let held = &who.held;
        self.checker.split.forget(caller, |slice| held.contains_key(slice));
        if self.planted == Some(Planted::InvokerLosesCalls) {
            let named: Vec<_> =
                who.calls.iter().map(|(id, call)| (*id, who.names(&call.instance))).collect();
            named.iter().filter(|(_, n)| !n).for_each(|(id, _)| drop(who.calls.remove(id)));
        }
        self.trace.count(&[self.now_ms, caller as u64, tables.revision]);
        self.check("tables_forward", found);
        let found = self.checker.tables.held_by(&self.callers[caller]);
        self.check("tables_are_true", found);
        self.check_calls();
        self.report_session(caller, false);
    }

    fn check_calls(&mut self) {
        let in_flight = self.callers.iter().map(|caller| caller.calls.len()).sum();
        let found = self.checker.one_outcome.balance(in_flight);
        self.check("one_outcome", found);
    }

    pub(super) fn report_session(&mut self, caller: usize, goodbye: bool) {
        let who = &mut self.callers[caller];
        if who.attached.is_none() || who.is_partitioned || !who.is_up {
            return;
        }
        let Some(report) = who.report(goodbye) else { return };
        let found = invariants::acks_are_true(who, &report);
        self.check("acks_are_true", found);
        let found = self.checker.first_attempts.told(caller, &self.callers[caller]);
        self.check("first_attempts", found);
        for to in self.listeners() {
            let delay_ms = self.latency_ms();
            self.after(delay_ms, Event::SessionReport { to, report: Box::new(report.clone()) });
        }
    }

    pub(super) fn caller_beat(&mut self, caller: usize, process: u64) {
        let who = &self.callers[caller];
        if who.process != process {
            return;
        }
        let attached = who.attached;
        self.after(self.settings.waits.lease_ms / 3, Event::CallerBeat { caller, process });
        match attached.is_some_and(|to| !self.log.connected().contains(&to)) {
            true => self.hang_up(caller),
            false => self.report_session(caller, false),
        }
    }

    pub(super) fn session_report(&mut self, to: ReplicaId, report: SessionReport) {
        let now_ms = self.now_ms;
        let heard = self.coordinators.get_mut(&to).map(|c| c.hear_session(report, now_ms));
        if heard == Some(true) {
            self.wake(to);
        }
    }

    pub(super) fn call(&mut self, caller: usize, process: u64) {
        if self.callers[caller].process != process || !self.callers[caller].is_up {
            return;
        }
        let every_ms = self.settings.call_every_ms;
        let next_ms = if self.settings.is_quiet {
            every_ms
        } else {
            self.rng.between(every_ms / 2, every_ms * 2)
        };
        self.after(next_ms.max(1), Event::Call { caller, process });
        let slice = self.rng.pick(&self.slices).clone();
        self.wish(caller, process, slice);
    }

    /// A call begins, if it is not held.
    pub(super) fn wish(&mut self, caller: usize, process: u64, slice: SliceName) {
        if self.callers[caller].process != process || !self.callers[caller].is_up {
            return;
        }
        let now_ms = self.now_ms;
        let picked = match self.callers[caller].wish(&slice, now_ms, false) {
            Wish::Nowhere => return,
            Wish::Begins(picked) => picked,
            Wish::Held { until_ms } => {
                // A queue is full now and then.
                let is_full = !self.settings.is_quiet && self.rng.chance(2);
                match self.callers[caller].wish(&slice, now_ms, is_full) {
                    Wish::Begins(picked) => picked,
                    _ => {
                        let delay_ms = (until_ms - now_ms).clamp(1, HELD_LOOK_MS);
                        return self.after(delay_ms, Event::Wish { caller, process, slice });
                    }
                }
            }
        };
        let who = &self.callers[caller];
        let opened = self.log.newest.sessions.get(&who.session).map(|record| record.opened);
        let found = self.checker.barrier.call(&slice, &picked, who, opened);
        self.check("barrier", found);
        let found = self.checker.split.picked(caller, process, &slice, &picked);
        self.check("split", found);
        let found = invariants::picks_by_newest(&self.callers[caller], &slice, &picked);
        self.check("picks_by_newest", found);
        let found = self.checker.fenced.call(&self.callers[caller], &picked.instance);
        self.check("removal_fence", found);

        self.next_call += 1;
        let id = self.next_call;
        self.checker.one_outcome.began(id);
        let Some(call) = self.attempts(caller, slice, picked) else {
            let found = self.checker.one_outcome.ended(id);
            return self.check("one_outcome", found);
        };
        let version = self.runs.get(&call.instance).and_then(|agent| {
            Some(self.agents[*agent].processes.get(&call.instance)?.version.clone())
        });
        let behaves = self.behaviour(&version.unwrap_or_default());
        let takes_ms = match !self.settings.is_quiet && self.rng.chance(2) {
            true => self.rng.between(1_000, LONG_CALL_MS_MAX),
            false => behaves.latency_ms(),
        };
        self.callers[caller].calls.insert(id, call);
        self.after(takes_ms, Event::CallEnd { caller, process, call: id });
    }

    /// Tries one endpoint after the other until one gets the call. Only the first
    /// attempt is evidence, whatever comes of the others.
    fn attempts(&mut self, caller: usize, slice: SliceName, mut picked: Picked) -> Option<Call> {
        let mut tried: Vec<InstanceId> = Vec::new();
        loop {
            let call = Call {
                slice: slice.clone(),
                revision: picked.revision,
                instance: picked.instance.clone(),
                began_ms: self.now_ms,
                is_retry: !tried.is_empty(),
            };
            if self.is_reached(&call.instance) {
                return Some(call);
            }
            if tried.is_empty() {
                self.counted_first(caller, &call, true, 1);
            }
            tried.push(picked.instance);
            let who = &mut self.callers[caller];
            let may_go_on = tried.len() < ATTEMPTS_MAX;
            let other = may_go_on.then(|| who.pick_other(&slice, picked.side, &tried)).flatten();
            let table = who.held.get(&slice).map(|held| Arc::clone(&held.table));
            let found = invariants::retried(table.as_deref(), picked.side, &tried, other.as_ref());
            self.check("retries", found);
            picked = other?;
            let found = self.checker.fenced.call(&self.callers[caller], &picked.instance);
            self.check("removal_fence", found);
        }
    }

    /// Whether something takes connections there.
    fn is_reached(&self, instance: &InstanceId) -> bool {
        self.runs.get(instance).is_some_and(|agent| {
            let agent = &self.agents[*agent];
            let process = agent.processes.get(instance);
            agent.has_power && process.is_some_and(|process| process.listens())
        })
    }

    /// The outcome of a first attempt.
    fn counted_first(&mut self, caller: usize, call: &Call, is_error: bool, latency_ms: u64) {
        let who = &mut self.callers[caller];
        who.count(call, is_error, latency_ms);
        self.checker.first_attempts.ended(caller, who.process);
    }

    pub(super) fn call_end(&mut self, caller: usize, process: u64, id: u64) {
        if self.callers[caller].process != process {
            return;
        }
        let Some(call) = self.callers[caller].calls.remove(&id) else { return };
        let agent = self.runs.get(&call.instance).map(|agent| &self.agents[*agent]);
        let is_ill = agent.is_some_and(|agent| agent.is_ill);
        let serves = agent.and_then(|agent| agent.processes.get(&call.instance));
        let serves = serves.filter(|p| p.listens() || p.phase == Phase::Stopping);
        let behaves = self.behaviour(&serves.map(|p| p.version.clone()).unwrap_or_default());
        let per_mille = behaves.errors_per_mille().max(if is_ill { ERRORS_OF_ILL } else { 0 });
        let errs = self.rng.below(1_000) < per_mille;
        let is_error = serves.is_none() || errs;
        // Long calls are long on purpose, and no evidence of a slow version.
        let latency_ms = (self.now_ms - call.began_ms).min(behaves.latency_ms());
        if !call.is_retry {
            self.counted_first(caller, &call, is_error, latency_ms);
        } else if self.planted == Some(Planted::RetryIsEvidence) {
            self.callers[caller].count(&call, is_error, latency_ms);
        }
        let who = &self.callers[caller];
        let was_last = !who.names(&call.instance) && !who.is_busy_on(&call.instance);
        self.trace.count(&[self.now_ms, id, u64::from(is_error)]);
        let found = self.checker.one_outcome.ended(id);
        self.check("one_outcome", found);
        if was_last {
            self.report_session(caller, false);
        }
    }

    /// A caller's process ends; its calls end with it.
    pub(super) fn caller_ends(&mut self, caller: usize) {
        for (version, served) in &self.callers[caller].counted {
            let all = self.counted.entry(version.clone()).or_default();
            Arc::make_mut(all).add(served);
        }
        for id in self.callers[caller].restart().into_keys() {
            let found = self.checker.one_outcome.ended(id);
            self.check("one_outcome", found);
        }
    }
}
