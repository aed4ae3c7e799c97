//! Nodes: directives down, reports up, and processes that do what they like.

use std::sync::Arc;

use aether_core::ids::InstanceId;
use aether_core::records::Desired;
use aether_core::state::State;

use super::{Event, World};
use crate::agent::{Action, Directive, Report, Verdict};
use crate::instance::{Behaviour, Phase};
use crate::log::ReplicaId;
use crate::planted::Planted;

/// Directives kept for those that come late.
const OLD_DIRECTIVES_MAX: usize = 200;

impl World {
    /// Whoever is attached to a replica hears what changed for it.
    pub(super) fn send_directives(&mut self, replica: ReplicaId, before: &State, after: &State) {
        if before.instances.ptr_eq(&after.instances) {
            return;
        }
        for agent in 0..self.agents.len() {
            let to = &self.agents[agent];
            if to.attached != Some(replica) {
                continue;
            }
            let directive = Directive::of(after, &to.node);
            if directive.assignments != Directive::of(before, &to.node).assignments {
                self.send_directive(agent, directive);
            }
        }
    }

    fn send_directive(&mut self, agent: usize, directive: Directive) {
        let directive = Arc::new(directive);
        if self.old_directives.len() == OLD_DIRECTIVES_MAX {
            self.old_directives.drain(..OLD_DIRECTIVES_MAX / 2);
        }
        self.old_directives.push((agent, Arc::clone(&directive)));
        let stream = Some(self.agents[agent].stream);
        // Now and then it arrives twice, and the second time late.
        let copies = if !self.settings.is_quiet && self.rng.chance(5) { 2 } else { 1 };
        for _ in 0..copies {
            let delay_ms = self.latency_ms();
            let directive = Arc::clone(&directive);
            self.after(delay_ms, Event::Directive { agent, stream, directive });
        }
    }

    /// A directive of long ago arrives, whatever stream it was sent on.
    pub(super) fn late_directive(&mut self, nth: u64) {
        if self.old_directives.is_empty() {
            return;
        }
        let at = (nth % self.old_directives.len() as u64) as usize;
        let (agent, directive) = self.old_directives[at].clone();
        self.after(1, Event::Directive { agent, stream: None, directive });
    }

    pub(super) fn directive(
        &mut self,
        agent: usize,
        stream: Option<u64>,
        directive: Arc<Directive>,
    ) {
        let to = &mut self.agents[agent];
        if !to.is_heard() || stream.is_some_and(|stream| stream != to.stream) {
            return;
        }
        to.heard_ms = self.now_ms;
        let index = directive.fence.index;
        let verdict = to.offer(directive);
        self.trace.note(self.now_ms, format_args!("n{} directive {index}: {verdict:?}", agent + 1));
        if verdict == Verdict::Accepted {
            let found = self.checker.fence.accepted(agent, index);
            self.check("fence", found);
        }
        self.act(agent);
    }

    /// An agent does what its directive asks for.
    fn act(&mut self, agent: usize) {
        let actions = self.agents[agent].decide();
        let is_news = !actions.is_empty();
        for action in actions {
            match action {
                Action::Create(id, desired) => self.create(agent, &id, desired),
                Action::Tell(id, desired) => self.tell(agent, &id, desired),
                Action::Forget(id) => drop(self.agents[agent].processes.remove(&id)),
            }
        }
        if is_news {
            self.agent_says_soon(agent);
        }
        for (instance, reload) in self.agents[agent].to_reload() {
            // Mostly at once; now and then its process is slow to catch the signal.
            let delay_ms = match self.settings.is_quiet {
                true => 20,
                false if self.rng.chance(10) && !self.is_healed => self.rng.between(1_000, 20_000),
                false => self.rng.between(5, 300),
            };
            self.after(delay_ms, Event::Reload { agent, instance, reload });
        }
    }

    /// An agent has laid the files, and signals. One that is not there does when it is
    /// told again.
    pub(super) fn reload(&mut self, agent: usize, instance: &InstanceId, reload: u64) {
        let to = &mut self.agents[agent];
        let works = to.is_up && to.has_power;
        if works && to.reload(instance, reload) {
            self.trace.note(self.now_ms, format_args!("{instance} reloads {reload}"));
            let process = self.agents[agent].processes.get(instance);
            let serves = process.is_some_and(|process| process.listens() && process.is_bad);
            if serves && let Some(process) = process {
                // It ends at once, and not when somebody looks.
                let epoch = process.epoch;
                self.after(1, Event::Process { agent, instance: instance.clone(), epoch });
            }
            self.agent_says_soon(agent);
        }
    }

    fn create(&mut self, agent: usize, id: &InstanceId, desired: Desired) {
        let found = self.checker.started_once.created(id);
        self.check("started_once", found);
        let Some(process) = self.agents[agent].create(id) else { return };
        let epoch = process.epoch;
        self.runs.insert(id.clone(), agent);
        let delay_ms = if self.settings.is_quiet { 50 } else { self.rng.between(10, 400) };
        self.after(delay_ms, Event::Process { agent, instance: id.clone(), epoch });
        if desired != Desired::Run {
            self.tell(agent, id, desired);
        }
    }

    fn tell(&mut self, agent: usize, id: &InstanceId, desired: Desired) {
        let stops_early = self.planted == Some(Planted::AgentStopsDraining);
        let desired = match desired {
            Desired::Drain if stops_early => Desired::Stop,
            other => other,
        };
        if desired == Desired::Stop {
            let found = crate::invariants::ordered_stop(&self.log.newest, id);
            self.check("ordered_stop", found);
        }
        let Some(process) = self.agents[agent].processes.get_mut(id) else { return };
        let behaves = self.behaviours.get(&process.version).copied().unwrap_or(Behaviour::Well);
        let wake_in_ms = process.tell(desired, behaves, &mut self.rng);
        let epoch = process.epoch;
        if let Some(delay_ms) = wake_in_ms {
            self.after(delay_ms, Event::Process { agent, instance: id.clone(), epoch });
        }
    }

    pub(super) fn process(&mut self, agent: usize, instance: &InstanceId, epoch: u32) {
        let Some(process) = self.agents[agent].processes.get(instance) else { return };
        if process.epoch != epoch || !self.agents[agent].has_power {
            return;
        }
        let is_bad = process.is_bad && !self.is_healed;
        let behaves = match is_bad {
            true => Behaviour::CrashesAtOnce,
            false => self.behaviour(&process.version.clone()),
        };
        let to = &mut self.agents[agent];
        let Some(process) = to.processes.get_mut(instance) else { return };
        let before = (process.phase, process.reason.clone());
        let wake_in_ms = process.wake(behaves, &mut self.rng);
        let (epoch, phase) = (process.epoch, process.phase);
        let is_news = before != (phase, process.reason.clone());
        if let Some(delay_ms) = wake_in_ms {
            self.after(delay_ms, Event::Process { agent, instance: instance.clone(), epoch });
        }
        if is_news {
            self.trace.note(self.now_ms, format_args!("{instance} is {phase:?}"));
            self.agent_says_soon(agent);
        }
        if phase == Phase::Stopped {
            // It may be one that nobody asks for any more.
            self.act(agent);
        }
    }

    /// Has processes go on that had no power.
    pub(super) fn processes_again(&mut self, agent: usize) {
        let processes = &self.agents[agent].processes;
        let again: Vec<(InstanceId, u32)> = processes
            .iter()
            .filter(|(_, process)| process.phase != Phase::Stopped)
            .map(|(id, process)| (id.clone(), process.epoch))
            .collect();
        for (instance, epoch) in again {
            self.after(200, Event::Process { agent, instance, epoch });
        }
    }

    fn agent_says_soon(&mut self, agent: usize) {
        if self.report_due.insert(agent) {
            let delay_ms = if self.settings.is_quiet { 5 } else { self.rng.between(2, 40) };
            let life = self.agents[agent].life;
            self.after(delay_ms, Event::AgentSays { agent, life });
        }
    }

    pub(super) fn agent_says(&mut self, agent: usize, life: u64) {
        self.report_due.remove(&agent);
        if self.agents[agent].life == life && self.agents[agent].is_heard() {
            self.send_report(agent);
        }
    }

    fn send_report(&mut self, agent: usize) {
        let report = Arc::new(self.agents[agent].report());
        // Nodes tell whomever they take for the leader.
        for to in self.listeners() {
            let delay_ms = self.latency_ms();
            let report = Arc::clone(&report);
            self.after(delay_ms, Event::AgentReport { to, report });
        }
    }

    pub(super) fn agent_beat(&mut self, agent: usize, life: u64) {
        if self.agents[agent].life != life {
            return;
        }
        self.after(self.settings.waits.lease_ms / 3, Event::AgentBeat { agent, life });
        if !self.agents[agent].is_heard() {
            if self.planted == Some(Planted::AgentStopsWhenAlone) {
                self.stop_all(agent);
            }
            return;
        }
        let usable = self.log.connected();
        if self.agents[agent].attached.is_none_or(|to| !usable.contains(&to)) {
            self.attach(agent, &usable);
        }
        self.send_report(agent);
    }

    fn stop_all(&mut self, agent: usize) {
        let alone_ms = self.now_ms.saturating_sub(self.agents[agent].heard_ms);
        if alone_ms > self.settings.waits.lease_ms {
            let ids: Vec<InstanceId> = self.agents[agent].processes.keys().cloned().collect();
            ids.iter().for_each(|id| self.tell(agent, id, Desired::Stop));
        }
    }

    /// An agent that has lost its node takes another one.
    fn attach(&mut self, agent: usize, usable: &[ReplicaId]) {
        if usable.is_empty() {
            return;
        }
        let replica = *self.rng.pick(usable);
        let to = &mut self.agents[agent];
        to.attached = Some(replica);
        to.stream += 1;
        // A new cluster has to be told of a node before it has anything to say.
        let state = &self.log.replicas[replica].state;
        if state.nodes.contains_key(&to.node) || to.accepted.is_some() {
            let directive = Directive::of(state, &to.node);
            self.send_directive(agent, directive);
        }
    }

    pub(super) fn agent_report(&mut self, to: ReplicaId, report: Arc<Report>) {
        let now_ms = self.now_ms;
        let heard = self.coordinators.get_mut(&to).map(|c| c.hear_agent(report, now_ms));
        if heard == Some(true) {
            self.wake(to);
        }
    }
}
