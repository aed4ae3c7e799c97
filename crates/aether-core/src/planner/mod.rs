//! The planner: what to do next, as data.
//!
//! `plan(view)` is a pure function of the replicated state and of what the
//! leader sees right now. It returns commands for the log and, for every slice,
//! an account of what is waited for. Drivers carry the commands out and decide
//! nothing; a crash anywhere means that the next leader computes the same.
//!
//! A plan for one slice stops at its first command: the next pass looks again.

mod nodes;
mod placement;
mod progress;
mod removal;
mod replicas;
mod strategy;
mod voters;

use std::collections::{BTreeMap, BTreeSet};

use crate::command::Command;
use crate::coordinates::SliceName;
use crate::health::Verdict;
use crate::ids::{InstanceId, NodeName, SessionId, UpdateId};
use crate::replay;
use crate::state::State;

pub use crate::records::CRASH_LOOP_RESTARTS;
pub use placement::Placer;
pub use removal::verb as force_verb;
pub use replicas::placement_waits;
pub use strategy::{Measurement, comparison};
pub use voters::{Membership, VoterStep, VoterWait, can_leave, next_voter_step, voter_wait};

/// Code of the wait for sessions that cannot be reached, and of the pause over
/// them. It ends by itself when they are back, and not by a resume.
pub const SESSION_UNREACHABLE: &str = "session_unreachable";

/// Code of the wait of an update that is paused while it serves: for a person.
pub const PAUSED: &str = "paused";

/// Code of the wait for a gate.
pub const GATE: &str = "gate";

/// Code of the wait for a place for instances.
pub const NO_CAPACITY: &str = "no_capacity";

/// What a session says of holding new calls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Holding {
    /// It can: it knows of holds.
    pub is_able: bool,
    /// By slice, calls that began though they were to be held, as far as that ever
    /// happened.
    pub late: BTreeMap<SliceName, LateCalls>,
}

impl Holding {
    /// Of a session that can, and has held every call so far.
    pub fn able() -> Self {
        Self { is_able: true, late: BTreeMap::new() }
    }

    /// Whether it can, and has held every call so far.
    pub fn is_plain(&self) -> bool {
        self.is_able && self.late.is_empty()
    }
}

/// Calls that began though they were to be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LateCalls {
    /// The route that held them; of several, the last.
    pub route_revision: u64,
    /// How many.
    pub calls: u64,
}

/// What the leader knows of one session. A session that it has not heard from
/// since it became leader has acknowledged nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionView {
    /// It reports within its lease.
    Connected {
        /// It has applied the tables up to this log index.
        applied: u64,
        /// Instances that left its tables and still have calls in flight.
        busy: BTreeSet<InstanceId>,
        /// What it says of holding new calls.
        holding: Holding,
    },
    /// Not heard from under this leader, and a lease has not passed yet.
    Awaited,
    /// Silent for more than its lease. It may still hold its last table.
    Unreachable {
        /// Log time since which it is silent.
        since_ms: u64,
    },
}

/// What the leader knows of one node's agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeView {
    /// It reports within its lease.
    Reporting,
    /// Not heard from under this leader, and a lease has not passed yet.
    Awaited,
    /// Silent for more than its lease.
    Silent {
        /// Log time since which it is, under this leader: a lease into its
        /// leadership at the earliest.
        since_ms: u64,
    },
}

/// What a pass of the planner looks at.
pub struct View<'a> {
    /// The replicated state.
    pub state: &'a State,
    /// The leader's log time.
    pub now_ms: u64,
    /// Every committed session. One that is missing counts as awaited.
    pub sessions: &'a BTreeMap<SessionId, SessionView>,
    /// Every committed node. One that is missing counts as awaited.
    pub nodes: &'a BTreeMap<NodeName, NodeView>,
    /// What the thresholds say of the new version of live updates.
    pub verdicts: &'a BTreeMap<UpdateId, Verdict>,
    /// How long a session that cannot be reached is taken to hold its table.
    pub table_age_max_ms: u64,
    /// How long a node is unreachable before it counts as lost.
    pub node_lost_ms: u64,
}

impl View<'_> {
    fn is_silent(&self, node: &NodeName) -> bool {
        matches!(self.nodes.get(node), Some(NodeView::Silent { .. }))
    }
}

/// One thing that is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Machine-readable, such as `instances_ready` or `session_unreachable`.
    pub code: &'static str,
    /// What is waited for.
    pub message: String,
    /// Log time since which.
    pub since_ms: u64,
    /// What would end the wait.
    pub unblock: String,
}

/// What to do next, and what is waited for.
#[derive(Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Plan {
    /// Commands to propose, in this order.
    pub commands: Vec<Command>,
    /// What was seen of each update that something was decided about, to be proposed
    /// ahead of the commands: in the same order, each finds the state that was seen.
    pub inputs: Vec<Command>,
    /// Questions to gates that have no answer yet. The driver asks each of them once,
    /// and proposes what it said.
    pub measurements: Vec<Measurement>,
    /// By slice, what is waited for.
    pub waits: BTreeMap<SliceName, Vec<Wait>>,
    /// Log time at which something falls due though nothing else happens.
    pub wake_at_ms: Option<u64>,
}

/// Commands of one pass: a pass over 10,000 instances must not fill the log
/// before the next look.
const COMMANDS_MAX: usize = 256;

impl Plan {
    fn wait(&mut self, slice: &SliceName, wait: Wait) {
        self.waits.entry(slice.clone()).or_default().push(wait);
    }

    fn wake_at(&mut self, at_ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |known| known.min(at_ms)));
    }
}

/// One pass over everything.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    nodes::lifecycles(view, &mut plan);
    let of_nodes = plan.commands.len();
    let mut decided = Vec::new();
    sessions(view, &mut plan);
    let mut placer = Placer::new(view);
    for record in view.state.slices.values() {
        if plan.commands.len() >= COMMANDS_MAX {
            break;
        }
        let before = plan.commands.len();
        slice(view, &record.slice, &mut placer, &mut plan);
        if let Some(update) = &record.live_update
            && plan.commands.len() > before
        {
            decided.push((update, before..plan.commands.len()));
        }
    }
    if of_nodes > 0 {
        // A node takes its instances with it: what was decided beside that did not
        // know. What is waited for stands all the same.
        plan.commands.truncate(of_nodes);
    } else {
        plan.inputs = replay::inputs(view, &decided, &plan.commands);
    }
    plan
}

/// One pass over one slice, for whoever wants to know what would follow.
pub fn plan_slice(view: &View<'_>, name: &SliceName) -> Plan {
    let mut plan = Plan::default();
    slice(view, name, &mut Placer::new(view), &mut plan);
    plan
}

/// Sessions that are past the age at which they would still use their table.
fn sessions(view: &View<'_>, plan: &mut Plan) {
    for session in view.state.sessions.values() {
        if let Some(SessionView::Unreachable { since_ms }) = view.sessions.get(&session.id) {
            let gone_at_ms = since_ms.saturating_add(view.table_age_max_ms);
            if view.now_ms >= gone_at_ms {
                plan.commands.push(Command::CloseSession {
                    session: session.id.clone(),
                    opened: session.opened,
                    reason: format!("silent for {} s", view.table_age_max_ms / 1000),
                });
            } else {
                plan.wake_at(gone_at_ms);
            }
        }
    }
}

/// One pass over one slice; stops at the first command.
fn slice(view: &View<'_>, slice: &SliceName, placer: &mut Placer<'_>, plan: &mut Plan) {
    let before = plan.commands.len();
    let done = |plan: &Plan| plan.commands.len() > before;
    if let Some(update) = view.state.live_update(slice) {
        progress::deadlines(view, update, plan);
        if done(plan) {
            return;
        }
    }
    removal::stop_drained(view, slice, plan);
    if done(plan) {
        return;
    }
    replicas::match_targets(view, slice, placer, plan);
    if done(plan) {
        return;
    }
    if let Some(update) = view.state.live_update(slice) {
        progress::advance(view, update, placer, plan);
    } else {
        progress::retained(view, slice, plan);
    }
}
