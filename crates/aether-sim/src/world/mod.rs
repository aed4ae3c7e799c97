//! The world: everything at once, in virtual time, one event after the other.
//!
//! This file has the clock, the queue and who there is. What happens with the
//! log and its leaders stands in `control`, with nodes in `nodes`, with callers
//! in `callers`, and what goes wrong in `incidents`.

mod callers;
mod control;
mod incidents;
mod nodes;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_core::command::{Outcome, Request};
use aether_core::coordinates::SliceName;
use aether_core::health::Tally;
use aether_core::ids::InstanceId;

use crate::agent::{Agent, Directive, Report};
use crate::instance::Behaviour;
use crate::invariants::{Checker, Violation};
use crate::invoker::{CallId, Invoker, SessionReport, Tables};
use crate::leader::Coordinator;
use crate::log::{Log, ProposalId, ReplicaId};
use crate::planted::Planted;
use crate::rng::Rng;
use crate::scenario::{Incident, Settings};
use crate::served::Counted;
use crate::trace::Trace;

/// Who asked for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A leader's coordinator, under its term.
    Coordinator(ReplicaId, u64),
    /// A person, with the number of the request.
    Person(usize),
    /// A caller's process, which wants its session opened.
    Caller(usize, u64),
}

/// Something that happens at a moment.
#[derive(Debug, Clone)]
enum Event {
    /// Something goes wrong, or a person acts.
    Incident(Box<Incident>),
    /// What was in the way is not any more.
    Over(Over),
    /// A new leader is due.
    Elect,
    /// The oldest proposal is on a majority.
    Commit { term: u64 },
    /// A replica applies what it has.
    Apply(ReplicaId),
    /// A deposed leader hears of it.
    FindsOut { replica: ReplicaId, term: u64 },
    /// A coordinator looks at everything.
    Look { replica: ReplicaId, term: u64 },
    /// A request reaches the leader.
    Arrive { origin: Origin, request: Arc<Request> },
    /// A directive reaches an agent.
    Directive { agent: usize, stream: Option<u64>, directive: Arc<Directive> },
    /// An agent speaks because it is time.
    AgentBeat { agent: usize, life: u64 },
    /// An agent speaks because it has something to say.
    AgentSays { agent: usize, life: u64 },
    /// A leader hears an agent.
    AgentReport { to: ReplicaId, report: Arc<Report> },
    /// A process does something by itself.
    Process { agent: usize, instance: InstanceId, epoch: u32 },
    /// A process reads its configuration again.
    Reload { agent: usize, instance: InstanceId, reload: u64 },
    /// A caller looks for a node to follow.
    Hello { caller: usize, attempt: u64 },
    /// Tables reach a caller.
    Tables { caller: usize, stream: u64, tables: Arc<Tables>, is_late: bool },
    /// A caller speaks because it is time.
    CallerBeat { caller: usize, process: u64 },
    /// A leader hears a session.
    SessionReport { to: ReplicaId, report: Box<SessionReport> },
    /// A caller calls.
    Call { caller: usize, process: u64 },
    /// A call that was held looks whether it may begin.
    Wish { caller: usize, process: u64, slice: SliceName },
    /// A call has its outcome.
    CallEnd { caller: usize, process: u64, call: CallId },
    /// Everything that is looked at every second.
    Watch,
}

/// What ends by itself after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    ReplicaDown(ReplicaId),
    ReplicaCutOff(ReplicaId),
    AgentDown(usize),
    PowerCut(usize),
    Silence(usize),
    Ill(usize),
    Partition(usize),
    CallerGone(usize),
    Lag(usize),
}

/// See the module.
pub struct World {
    /// Now, in virtual milliseconds.
    pub now_ms: u64,
    /// How everything is set.
    pub settings: Settings,
    /// The log.
    pub log: Log,
    /// Leaders, present and deposed, that run.
    pub coordinators: BTreeMap<ReplicaId, Coordinator>,
    /// Nodes.
    pub agents: Vec<Agent>,
    /// Callers.
    pub callers: Vec<Invoker>,
    /// How the processes of a version behave; those that are not named, well.
    pub behaviours: BTreeMap<String, Behaviour>,
    /// Slices that are called.
    pub slices: Vec<SliceName>,
    /// Whether faults are over.
    pub is_healed: bool,
    /// Since when the present leader leads.
    pub ready_since_ms: u64,
    /// When there was last no quorum.
    pub no_quorum_ms: u64,
    /// What came of people's requests: none while it is unknown.
    pub answers: BTreeMap<usize, Option<Outcome>>,
    /// Requests of people that found nobody who leads.
    pub not_done: BTreeSet<usize>,
    /// What people asked for.
    pub requests: Vec<Arc<Request>>,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
    /// What happened.
    pub trace: Trace,
    /// Events that happened.
    pub steps: u64,
    /// Updates that were started.
    pub updates: u64,
    /// What callers counted whose process has ended.
    counted: Counted,
    checker: Checker,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    next_call: CallId,
    rng: Rng,
    proposed: BTreeMap<ProposalId, Origin>,
    /// What coordinators had applied when they decided something.
    decided: BTreeMap<ProposalId, u64>,
    commit_due_ms: u64,
    apply_due: BTreeSet<ReplicaId>,
    /// Directives of earlier, for those that come late.
    old_directives: Vec<(usize, Arc<Directive>)>,
    /// Which agent runs an instance.
    runs: BTreeMap<InstanceId, usize>,
    report_due: BTreeSet<usize>,
    /// Somebody who looks after updates once faults are over.
    care: crate::operator::Care,
    planted: Option<Planted>,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(settings: Settings, planted: Option<Planted>, is_traced: bool) -> Self {
        let mut rng = Rng::new(settings.seed, 1);
        let node = |n: u16| format!("n{n}").parse().expect("a node's name");
        let agents = (1..=settings.nodes).map(|n| Agent::new(node(n), n, 100)).collect();
        let kind = |n: u16| match n % 3 {
            0 => aether_core::records::SessionKind::Ingress,
            _ => aether_core::records::SessionKind::Invoker,
        };
        let caller =
            |n: u16, rng: &mut Rng| Invoker::new(&format!("s{n}"), kind(n), rng.draw(), planted);
        let callers = (1..=settings.callers).map(|n| caller(n, &mut rng)).collect();
        let slices = crate::operator::SLICES.iter().map(|name| name.parse().expect("a slice"));
        let mut world = Self {
            now_ms: 0,
            log: Log::new(settings.replicas, planted),
            coordinators: BTreeMap::new(),
            agents,
            callers,
            behaviours: BTreeMap::new(),
            slices: slices.collect(),
            is_healed: false,
            ready_since_ms: 0,
            no_quorum_ms: 0,
            answers: BTreeMap::new(),
            not_done: BTreeSet::new(),
            requests: Vec::new(),
            violation: None,
            trace: Trace::new(is_traced),
            steps: 0,
            updates: 0,
            counted: Counted::new(),
            checker: Checker::default(),
            queue: BTreeMap::new(),
            next_event: 0,
            next_call: 0,
            rng,
            proposed: BTreeMap::new(),
            decided: BTreeMap::new(),
            commit_due_ms: 0,
            apply_due: BTreeSet::new(),
            old_directives: Vec::new(),
            runs: BTreeMap::new(),
            report_due: BTreeSet::new(),
            care: crate::operator::Care::default(),
            planted,
            settings,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        self.after(0, Event::Elect);
        self.after(1_000, Event::Watch);
        for agent in 0..self.agents.len() {
            let life = self.agents[agent].life;
            self.after(10 + agent as u64, Event::AgentBeat { agent, life });
        }
        for caller in 0..self.callers.len() {
            self.hello_in(caller, 500 + caller as u64);
            self.after(600 + caller as u64, Event::CallerBeat { caller, process: 0 });
            self.after(700 + caller as u64, Event::Call { caller, process: 0 });
        }
    }

    /// Has an incident happen at a moment.
    pub fn schedule(&mut self, at_ms: u64, incident: Incident) {
        let delay_ms = at_ms.saturating_sub(self.now_ms);
        self.after(delay_ms, Event::Incident(Box::new(incident)));
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.next_event += 1;
        self.queue.insert((self.now_ms + delay_ms, self.next_event), event);
    }

    /// Runs until a moment, or until an invariant does not hold.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.violation.is_none() {
            match self.queue.first_key_value() {
                Some(((at_ms, _), _)) if *at_ms <= until_ms => {}
                _ => break,
            }
            let ((at_ms, _), event) = self.queue.pop_first().expect("there is one");
            self.now_ms = at_ms;
            self.steps += 1;
            self.happen(event);
        }
        if self.violation.is_none() {
            self.now_ms = until_ms;
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Incident(incident) => self.incident(&incident),
            Event::Over(over) => self.over(over),
            Event::Elect => self.elect(),
            Event::Commit { term } => self.commit(term),
            Event::Apply(replica) => self.apply(replica),
            Event::FindsOut { replica, term } => self.finds_out(replica, term),
            Event::Look { replica, term } => self.look_event(replica, term),
            Event::Arrive { origin, request } => self.arrive(origin, request),
            Event::Directive { agent, stream, directive } => {
                self.directive(agent, stream, directive);
            }
            Event::AgentBeat { agent, life } => self.agent_beat(agent, life),
            Event::AgentSays { agent, life } => self.agent_says(agent, life),
            Event::AgentReport { to, report } => self.agent_report(to, report),
            Event::Process { agent, instance, epoch } => self.process(agent, &instance, epoch),
            Event::Reload { agent, instance, reload } => self.reload(agent, &instance, reload),
            Event::Hello { caller, attempt } => self.hello(caller, attempt),
            Event::Tables { caller, stream, tables, is_late } => {
                self.tables(caller, stream, &tables, is_late);
            }
            Event::CallerBeat { caller, process } => self.caller_beat(caller, process),
            Event::SessionReport { to, report } => self.session_report(to, *report),
            Event::Call { caller, process } => self.call(caller, process),
            Event::Wish { caller, process, slice } => self.wish(caller, process, slice),
            Event::CallEnd { caller, process, call } => self.call_end(caller, process, call),
            Event::Watch => self.watch(),
        }
    }

    /// All calls that were answered, of every process that callers ever were, by
    /// version.
    pub fn answered(&self, slice: &SliceName) -> Vec<(String, Tally)> {
        let now = self.callers.iter().flat_map(|caller| &caller.counted);
        let all = now.chain(&self.counted).filter(|((of, _), _)| of == slice);
        let version = |revision| {
            let record = self.log.newest.revisions.get(&(slice.clone(), revision));
            record.map_or_else(|| revision.to_string(), |record| record.version.to_string())
        };
        all.map(|((_, revision), served)| (version(*revision), served.all.clone())).collect()
    }

    /// Notes that an invariant does not hold; the first one ends the run.
    fn check(&mut self, invariant: &'static str, found: Result<(), String>) {
        if let Err(detail) = found
            && self.violation.is_none()
        {
            let (at_ms, index) = (self.now_ms, self.log.index());
            self.trace.note(at_ms, format_args!("VIOLATION {invariant}: {detail}"));
            self.violation = Some(Violation { invariant, detail, at_ms, index });
        }
    }

    /// How processes of a version behave.
    pub fn behaviour(&self, version: &str) -> Behaviour {
        self.behaviours.get(version).copied().unwrap_or(Behaviour::Well)
    }

    /// Time that a message takes.
    fn latency_ms(&mut self) -> u64 {
        let most = self.settings.latency_ms_max;
        match self.settings.is_quiet {
            true => 1,
            // Mostly fast, and late now and then.
            false if self.rng.chance(3) => self.rng.between(most, most * 20),
            false => self.rng.between(1, most),
        }
    }
}
