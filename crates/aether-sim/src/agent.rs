//! A node's agent: follows the latest directive that it was given, keeps the
//! highest fence it has seen across restarts, and finds its instances again.
//!
//! What `aether-agent` decides is in two pure functions there, `decide` (desired
//! set against what exists) and `Keeper::offer` (the fence); both are private to
//! that crate and joined to files and processes, so this says the same once
//! more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aether_core::command::Observation;
use aether_core::coordinates::SliceName;
use aether_core::ids::{Fence, InstanceId, NodeName, RevisionNo};
use aether_core::records::Desired;
use aether_core::state::State;

use crate::instance::{Phase, Process};
use crate::log::ReplicaId;
use crate::planted::Planted;

/// What one instance is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Run, drain or stop.
    pub desired: Desired,
    /// Its slice.
    pub slice: SliceName,
    /// Its revision.
    pub revision: RevisionNo,
    /// Its version.
    pub version: String,
    /// By which reload a running process comes to it; 0 for none.
    pub reload: u64,
    /// Its configuration ends the process that reads it.
    pub is_bad: bool,
}

/// The complete desired set of a node at one log index.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directive {
    /// Orders directives.
    pub fence: Fence,
    /// Everything that the node should have.
    pub assignments: BTreeMap<InstanceId, Assignment>,
}

impl Directive {
    /// What a replica would send to a node, as the server's agent service makes
    /// it of its own copy of the state.
    pub fn of(state: &State, node: &NodeName) -> Self {
        let assignment = |i: &aether_core::records::InstanceRecord| {
            let revision = state.revisions.get(&(i.slice.clone(), i.revision))?;
            let version = revision.version.to_string();
            let (desired, slice) = (i.desired, i.slice.clone());
            let reload = i.reload.as_ref().map_or(0, |reload| reload.at);
            let config = state.config_of(revision);
            let is_bad = config.is_some_and(|config| crate::operator::is_bad(&config.content));
            let revision = i.revision;
            let assignment = Assignment { desired, slice, revision, version, reload, is_bad };
            Some((i.id.clone(), assignment))
        };
        let assignments = state.instances_on(node).filter_map(|i| assignment(i)).collect();
        let Fence { incarnation, .. } = Fence::default();
        let incarnation = state.meta.incarnation.max(incarnation);
        Self { fence: Fence { incarnation, term: 0, index: state.meta.index }, assignments }
    }
}

/// What an agent is to do with its processes, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// An assigned instance that does not exist here yet.
    Create(InstanceId, Desired),
    /// An instance is to do something else.
    Tell(InstanceId, Desired),
    /// A stopped instance that nobody asks for.
    Forget(InstanceId),
}

/// What came of a directive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It holds from now on.
    Accepted,
    /// It already held.
    Known,
    /// A later one was accepted before.
    Older,
}

/// What an agent says of itself, complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its node.
    pub node: NodeName,
    /// Which of its lives.
    pub life: u64,
    /// Which report of that life.
    pub seq: u64,
    /// Most instances it takes.
    pub instances_max: u32,
    /// All it has.
    pub observations: Vec<Observation>,
}

/// An agent and its machine.
#[derive(Debug)]
pub struct Agent {
    /// Its node.
    pub node: NodeName,
    /// Its own number, for addresses.
    pub number: u16,
    /// Whether the agent's process runs.
    pub is_up: bool,
    /// Whether the machine has power.
    pub has_power: bool,
    /// Whether nobody hears it, nor it anybody. Calls reach its instances.
    pub is_silenced: bool,
    /// Whether its instances answer many calls with errors, whatever their version.
    pub is_ill: bool,
    /// The replica that it is attached to.
    pub attached: Option<ReplicaId>,
    /// Number of its stream; what was sent on an earlier one is void.
    pub stream: u64,
    /// Which of its lives this is.
    pub life: u64,
    /// Reports of this life.
    pub seq: u64,
    /// Most instances that it takes.
    pub instances_max: u32,
    /// What it was told last, kept across restarts.
    pub accepted: Option<Arc<Directive>>,
    /// Its processes, which outlive it.
    pub processes: BTreeMap<InstanceId, Process>,
    /// Instances it forgot, and ever had: an id stands for one life.
    pub created: BTreeSet<InstanceId>,
    /// When it heard from the control plane last.
    pub heard_ms: u64,
    ports: u16,
}

impl Agent {
    /// An agent with nothing to do yet.
    pub fn new(node: NodeName, number: u16, instances_max: u32) -> Self {
        Self {
            node,
            number,
            is_up: true,
            has_power: true,
            is_silenced: false,
            is_ill: false,
            attached: None,
            stream: 0,
            life: 1,
            seq: 0,
            instances_max,
            accepted: None,
            processes: BTreeMap::new(),
            created: BTreeSet::new(),
            heard_ms: 0,
            ports: 0,
        }
    }

    /// Whether it works and is heard.
    pub fn is_heard(&self) -> bool {
        self.is_up && self.has_power && !self.is_silenced
    }

    /// Accepts a directive unless a later one was seen.
    pub fn offer(&mut self, directive: Arc<Directive>) -> Verdict {
        if let Some(accepted) = &self.accepted {
            if directive.fence.is_older_than(&accepted.fence) {
                return Verdict::Older;
            }
            if directive == *accepted {
                return Verdict::Known;
            }
        }
        self.accepted = Some(directive);
        Verdict::Accepted
    }

    /// The steps from what is to what is wanted. Without a directive there is
    /// nothing to decide: nobody said that what runs here should not.
    pub fn decide(&self) -> Vec<Action> {
        let Some(accepted) = &self.accepted else { return Vec::new() };
        let mut actions = Vec::new();
        for (id, wanted) in &accepted.assignments {
            match self.processes.get(id) {
                None => actions.push(Action::Create(id.clone(), wanted.desired)),
                Some(known) if known.phase == Phase::Stopped || known.told == wanted.desired => {}
                Some(_) => actions.push(Action::Tell(id.clone(), wanted.desired)),
            }
        }
        let unwanted = |id: &InstanceId| !accepted.assignments.contains_key(id);
        for (id, known) in self.processes.iter().filter(|(id, _)| unwanted(id)) {
            if known.phase == Phase::Stopped {
                actions.push(Action::Forget(id.clone()));
            } else if known.told != Desired::Stop {
                actions.push(Action::Tell(id.clone(), Desired::Stop));
            }
        }
        actions
    }

    /// Running processes that are to read another configuration, and have not.
    pub fn to_reload(&self) -> Vec<(InstanceId, u64)> {
        let Some(accepted) = &self.accepted else { return Vec::new() };
        let wanted = accepted
            .assignments
            .iter()
            .filter(|(_, wanted)| wanted.reload != 0 && wanted.desired != Desired::Stop);
        let is_news = |(id, wanted): &(&InstanceId, &Assignment)| {
            self.processes.get(*id).is_some_and(|process| process.reload != wanted.reload)
        };
        wanted.filter(is_news).map(|(id, wanted)| (id.clone(), wanted.reload)).collect()
    }

    /// A process has read the configuration of this reload, unless another one is wanted
    /// by now. Whether it did.
    pub fn reload(&mut self, id: &InstanceId, reload: u64) -> bool {
        let wanted = self.accepted.as_ref().and_then(|accepted| accepted.assignments.get(id));
        let Some(wanted) = wanted.filter(|wanted| wanted.reload == reload) else { return false };
        let Some(process) = self.processes.get_mut(id) else { return false };
        if matches!(process.phase, Phase::Stopping | Phase::Stopped) {
            return false;
        }
        // One that does not run starts with the files that are laid.
        (process.reload, process.revision) = (reload, wanted.revision);
        process.is_bad = wanted.is_bad;
        true
    }

    /// The process of an instance that was assigned.
    pub fn create(&mut self, id: &InstanceId) -> Option<&mut Process> {
        let accepted = self.accepted.clone()?;
        let assigned = accepted.assignments.get(id)?;
        self.ports += 1;
        // A node is a network of its own, so that no port is used twice in a run.
        let ip = [127, 0, self.number as u8, 1 + (self.ports / 50_000) as u8];
        let endpoint = (ip, 10_000 + self.ports % 50_000).into();
        let mut process = Process::assigned(
            assigned.slice.clone(),
            assigned.revision,
            assigned.version.clone(),
            endpoint,
        );
        (process.reload, process.is_bad) = (assigned.reload, assigned.is_bad);
        self.created.insert(id.clone());
        self.processes.insert(id.clone(), process);
        self.processes.get_mut(id)
    }

    /// Its next report.
    pub fn report(&mut self) -> Report {
        self.seq += 1;
        let observations = self.processes.iter().map(|(id, process)| Observation {
            instance: id.clone(),
            observed: process.observed(),
            endpoint: Some(process.endpoint),
            restarts: process.restarts,
            reason: process.reason.clone(),
            reloaded: (process.reload != 0 && process.phase == Phase::Ready)
                .then_some(process.reload),
        });
        Report {
            node: self.node.clone(),
            life: self.life,
            seq: self.seq,
            instances_max: self.instances_max,
            observations: observations.collect(),
        }
    }

    /// Its process ends and begins anew: what was volatile is gone.
    pub fn restart(&mut self, planted: Option<Planted>) {
        self.life += 1;
        self.seq = 0;
        self.attached = None;
        match (planted, self.accepted.take()) {
            (Some(Planted::AgentForgetsFence), Some(accepted)) => {
                let fence = Fence::default();
                self.accepted = Some(Arc::new(Directive { fence, ..(*accepted).clone() }));
            }
            (_, accepted) => self.accepted = accepted,
        }
        if planted == Some(Planted::AgentStartsTwice) {
            // It does not look for what its predecessor left running.
            self.processes.retain(|_, process| process.phase == Phase::Stopped);
        }
    }
}
