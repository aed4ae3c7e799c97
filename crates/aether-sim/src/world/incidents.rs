//! What goes wrong, and that it is over after a while.

use super::{Event, Over, World};
use crate::instance::Behaviour;
use crate::invoker::Tables;
use crate::log::ReplicaId;
use crate::operator;
use crate::scenario::Incident;

impl World {
    pub(super) fn incident(&mut self, incident: &Incident) {
        self.trace.note(self.now_ms, format_args!("{incident:?}"));
        match incident {
            Incident::Person(action) => {
                if let Some(command) = operator::command(action, &self.log.newest) {
                    self.ask(command, None);
                }
            }
            Incident::Repeat(nth) => self.repeat(*nth),
            Incident::LeaderCrashes { down_ms, survive } => self.leader_crashes(*down_ms, *survive),
            Incident::LeaderDeposed { knows_after_ms, survive } => {
                self.leader_deposed(*knows_after_ms, *survive);
            }
            Incident::ReplicaCrashes { replica, down_ms } => {
                self.replica_crashes(*replica, *down_ms);
            }
            Incident::ClockJumps { replica, by_ms } => {
                self.log.replicas[*replica].wall_skew_ms += by_ms;
            }
            Incident::AgentCrashes { agent, down_ms } => {
                self.agents[*agent].is_up = false;
                self.after(*down_ms, Event::Over(Over::AgentDown(*agent)));
            }
            Incident::PowerCut { agent, down_ms } => self.power_cut(*agent, *down_ms),
            Incident::Silence { agent, for_ms } => {
                self.agents[*agent].is_silenced = true;
                self.agents[*agent].attached = None;
                self.after(*for_ms, Event::Over(Over::Silence(*agent)));
            }
            Incident::Ill { agent, for_ms } => {
                self.agents[*agent].is_ill = true;
                self.after(*for_ms, Event::Over(Over::Ill(*agent)));
            }
            Incident::LateDirective { nth } => self.late_directive(*nth),
            Incident::Room { agent, instances_max } => {
                self.agents[*agent].instances_max = *instances_max;
            }
            Incident::Behave { version, behaves } => {
                self.behaviours.insert((*version).to_owned(), *behaves);
            }
            Incident::Partition { caller, for_ms } => self.partition(*caller, *for_ms),
            Incident::CallerVanishes { caller, for_ms } => self.caller_vanishes(*caller, *for_ms),
            Incident::CallerLeaves { caller, for_ms } => {
                self.report_session(*caller, true);
                self.caller_vanishes(*caller, *for_ms);
            }
            Incident::Lag { caller, by_ms, for_ms } => {
                self.callers[*caller].lag_ms = *by_ms;
                self.after(*for_ms, Event::Over(Over::Lag(*caller)));
            }
            Incident::LateTables { caller } => self.late_tables(*caller),
            Incident::Heal { keeps_bad } => self.heal(*keeps_bad),
        }
    }

    /// The same request once more: its answer was lost, or a client retries.
    fn repeat(&mut self, nth: u64) {
        if self.requests.is_empty() {
            return;
        }
        let at = (nth % self.requests.len() as u64) as usize;
        let request = self.requests[at].clone();
        self.ask(request.command.clone(), request.request_id.clone());
    }

    fn leader_crashes(&mut self, down_ms: u64, survive: usize) {
        if let Some(leader) = self.log.leader {
            self.coordinators.remove(&leader);
            self.depose(survive);
            self.replica_crashes(leader, down_ms);
        }
    }

    /// The leader is cut off from the others and goes on for a while.
    fn leader_deposed(&mut self, knows_after_ms: u64, survive: usize) {
        let Some(leader) = self.log.leader else { return };
        let term = self.log.term;
        self.log.replicas[leader].is_cut_off = true;
        self.depose(survive);
        self.wake(leader);
        self.after(knows_after_ms, Event::FindsOut { replica: leader, term });
        self.after(knows_after_ms + 1, Event::Over(Over::ReplicaCutOff(leader)));
    }

    fn replica_crashes(&mut self, replica: ReplicaId, down_ms: u64) {
        if self.log.leader == Some(replica) {
            return self.leader_crashes(down_ms, usize::MAX);
        }
        if self.log.replicas[replica].is_up {
            self.coordinators.remove(&replica);
            self.log.replicas[replica].is_up = false;
            self.after(down_ms, Event::Over(Over::ReplicaDown(replica)));
        }
    }

    fn power_cut(&mut self, agent: usize, down_ms: u64) {
        let machine = &mut self.agents[agent];
        machine.has_power = false;
        machine.processes.values_mut().for_each(|process| process.lose_power());
        self.after(down_ms, Event::Over(Over::PowerCut(agent)));
    }

    fn partition(&mut self, caller: usize, for_ms: u64) {
        let who = &mut self.callers[caller];
        who.is_partitioned = true;
        who.attached = None;
        who.stream += 1;
        self.after(for_ms, Event::Over(Over::Partition(caller)));
    }

    fn caller_vanishes(&mut self, caller: usize, for_ms: u64) {
        if self.callers[caller].is_up {
            self.caller_ends(caller);
            self.callers[caller].is_up = false;
            self.after(for_ms, Event::Over(Over::CallerGone(caller)));
        }
    }

    /// A node that is behind offers its tables; none offers any to a session of which it
    /// does not know.
    fn late_tables(&mut self, caller: usize) {
        let life = self.callers[caller].life;
        let replicas = self.log.replicas.iter();
        let knows = replicas.filter(|replica| replica.state.meta.index >= life);
        let behind = knows.min_by_key(|replica| replica.state.meta.index);
        let Some(behind) = behind else { return };
        let tables = Tables::snapshot(&behind.state);
        let stream = self.callers[caller].stream;
        let tables = tables.into();
        self.after(1, Event::Tables { caller, stream, tables, is_late: false });
    }

    pub(super) fn over(&mut self, over: Over) {
        match over {
            Over::ReplicaDown(replica) => {
                if !self.log.replicas[replica].is_up {
                    // A stream ends with its process, also where the caller has not
                    // looked in between: what is new would not fit what it has.
                    for caller in 0..self.callers.len() {
                        if self.callers[caller].attached == Some(replica) {
                            self.hang_up(caller);
                        }
                    }
                    let found = self.log.restart(replica);
                    self.check("same_state", found);
                    self.after(1, Event::Apply(replica));
                }
            }
            Over::ReplicaCutOff(replica) => {
                self.log.replicas[replica].is_cut_off = false;
                self.after(1, Event::Apply(replica));
            }
            Over::AgentDown(agent) => self.agent_returns(agent),
            Over::PowerCut(agent) => {
                if !self.agents[agent].has_power {
                    self.agents[agent].has_power = true;
                    self.processes_again(agent);
                    self.agent_returns(agent);
                }
            }
            Over::Silence(agent) => self.agents[agent].is_silenced = false,
            Over::Ill(agent) => self.agents[agent].is_ill = false,
            Over::Partition(caller) => {
                if self.callers[caller].is_partitioned {
                    self.callers[caller].is_partitioned = false;
                    self.hang_up(caller);
                }
            }
            Over::CallerGone(caller) => {
                let who = &mut self.callers[caller];
                if !who.is_up {
                    who.is_up = true;
                    let process = who.process;
                    self.hello_in(caller, 1);
                    self.after(10, Event::CallerBeat { caller, process });
                    self.after(20, Event::Call { caller, process });
                }
            }
            Over::Lag(caller) => self.callers[caller].lag_ms = 0,
        }
    }

    fn agent_returns(&mut self, agent: usize) {
        let planted = self.planted;
        let to = &mut self.agents[agent];
        to.is_up = true;
        to.restart(planted);
        to.heard_ms = self.now_ms;
        let life = to.life;
        self.after(50, Event::AgentBeat { agent, life });
    }

    /// Everything that is wrong is put right. Versions that are no good may stay
    /// so where nothing but an update depends on them.
    fn heal(&mut self, keeps_bad: bool) {
        for replica in 0..self.log.replicas.len() {
            self.over(Over::ReplicaCutOff(replica));
            self.over(Over::ReplicaDown(replica));
        }
        for agent in 0..self.agents.len() {
            self.over(Over::Silence(agent));
            self.over(Over::Ill(agent));
            self.over(Over::PowerCut(agent));
            if !self.agents[agent].is_up {
                self.over(Over::AgentDown(agent));
            }
            self.agents[agent].instances_max = 100;
        }
        for caller in 0..self.callers.len() {
            self.over(Over::Partition(caller));
            self.over(Over::Lag(caller));
            self.over(Over::CallerGone(caller));
        }
        let state = self.log.newest.clone();
        let needed: Vec<String> = operator::needed_versions(&state);
        let stays = |version: &String, behaves: &mut Behaviour| {
            keeps_bad && !needed.contains(version) && behaves.is_bad_start()
        };
        self.behaviours.retain(stays);
        self.is_healed = true;
    }
}
