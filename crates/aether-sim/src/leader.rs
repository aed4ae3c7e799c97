//! A leader's coordinator: what only it knows, and its passes over everything.
//!
//! The passes are those of `aether-server`'s `coordinator.rs`: news first, then
//! the plan of the real planner, each proposal awaited before the next look. What
//! it knows of sessions and nodes follows `leader.rs` there: volatile, empty at
//! first, and judged by leases.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use aether_core::command::{Command, Observation, Outcome, Refusal};
use aether_core::coordinates::SliceName;
use aether_core::health::{self, Verdict};
use aether_core::ids::{NodeName, RevisionNo, SessionId, UpdateId};
use aether_core::planner::{self, Holding, NodeView, PAUSED, Plan, SessionView, View};
use aether_core::records::{SessionRecord, UpdateState};
use aether_core::state::State;

use crate::agent::Report;
use crate::evidence::Proposals;
use crate::gates::Asked;
use crate::invariants;
use crate::invoker::SessionReport;
use crate::log::{ProposalId, ReplicaId};
use crate::planted::{self, Planted};
use crate::served::Served;

/// Window over which the thresholds look, as in the server's telemetry.
const WINDOW_MS: u64 = 10_000;
/// Looks happen this often though nothing happens.
pub const LOOK_EVERY_MS: u64 = 1_000;
/// Log time is committed at least this often while something has a deadline.
const TICK_EVERY_MS: u64 = 20_000;
/// Pause after a decision was refused.
pub const REFUSED_PAUSE_MS: u64 = 250;

/// How long the leader waits for whom.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// Silence after which a session or a node counts as unreachable.
    pub lease_ms: u64,
    /// How long a session is taken to use its table.
    pub table_age_max_ms: u64,
    /// How long a node is unreachable before it is lost.
    pub node_lost_ms: u64,
}

#[derive(Debug)]
struct HeardSession {
    at_ms: u64,
    report: SessionReport,
}

#[derive(Debug)]
struct HeardAgent {
    at_ms: u64,
    report: Arc<Report>,
}

/// What a pass waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle,
    News,
    Plan { wake_in_ms: u64 },
}

/// What a look came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// These are proposed; the pass goes on once all are answered.
    Propose(Vec<Command>),
    /// There is nothing to do for so long.
    Sleep(u64),
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    /// Where it runs.
    pub replica: ReplicaId,
    /// The term that it leads in, or believes it does.
    pub term: u64,
    /// When it took over.
    took_over_ms: u64,
    waits: Waits,
    sessions: BTreeMap<SessionId, HeardSession>,
    agents: BTreeMap<NodeName, HeardAgent>,
    /// Committed sessions: the life, and since when it is expected to report.
    expected: BTreeMap<SessionId, (u64, u64)>,
    /// Calls in the window, by version.
    windows: BTreeMap<(SliceName, RevisionNo), VecDeque<(u64, Served)>>,
    /// Evidence that was proposed.
    evidence: Proposals,
    /// Gates that are asked.
    asked: Asked,
    stage: Stage,
    outstanding: BTreeSet<ProposalId>,
    refused: bool,
    /// Something happened since the last look began.
    pub is_dirty: bool,
    /// When it looks next.
    pub look_at_ms: Option<u64>,
    /// The last plan, for people.
    pub plan: Plan,
    /// What it does not account for.
    pub accounts: Result<(), String>,
    planted: Option<Planted>,
}

impl Coordinator {
    /// One that has just taken over and has heard nobody.
    pub fn new(
        replica: ReplicaId,
        term: u64,
        now_ms: u64,
        waits: Waits,
        planted: Option<Planted>,
    ) -> Self {
        Self {
            replica,
            term,
            took_over_ms: now_ms,
            waits,
            sessions: BTreeMap::new(),
            agents: BTreeMap::new(),
            expected: BTreeMap::new(),
            windows: BTreeMap::new(),
            evidence: Proposals::default(),
            asked: Asked::default(),
            stage: Stage::Idle,
            outstanding: BTreeSet::new(),
            refused: false,
            is_dirty: true,
            look_at_ms: None,
            plan: Plan::default(),
            accounts: Ok(()),
            planted,
        }
    }

    /// Takes in what a session says. A report of an earlier life or place is
    /// void. Whether there was something new in it.
    pub fn hear_session(&mut self, report: SessionReport, now_ms: u64) -> bool {
        let known = self.sessions.get(&report.session);
        let place = |report: &SessionReport| (report.life, report.order);
        if known.is_some_and(|known| place(&known.report) > place(&report)) {
            return false;
        }
        let known = known.map(|known| &known.report);
        let same = |known: &SessionReport| {
            (known.life, known.applied, known.goodbye, &known.busy)
                == (report.life, report.applied, report.goodbye, &report.busy)
        };
        let is_news = known.is_none_or(|known| !same(known));
        // Counters of a process that this leader has not heard before say
        // nothing of when the calls were.
        if let Some(known) = known.filter(|known| known.life == report.life) {
            for (version, served) in &report.counted {
                let earlier = known.counted.get(version);
                if earlier.is_some_and(|earlier| Arc::ptr_eq(earlier, served)) {
                    continue;
                }
                let added =
                    earlier.map_or_else(|| (**served).clone(), |earlier| served.since(earlier));
                if added.all.requests > 0 {
                    self.windows.entry(version.clone()).or_default().push_back((now_ms, added));
                }
            }
        }
        self.sessions.insert(report.session.clone(), HeardSession { at_ms: now_ms, report });
        is_news
    }

    /// Takes in what an agent says, likewise.
    pub fn hear_agent(&mut self, report: Arc<Report>, now_ms: u64) -> bool {
        let known = self.agents.get(&report.node);
        let place = |report: &Report| (report.life, report.seq);
        if known.is_some_and(|known| place(&known.report) > place(&report)) {
            return false;
        }
        let is_news = known.is_none_or(|known| {
            known.report.observations != report.observations
                || now_ms.saturating_sub(known.at_ms) > self.waits.lease_ms
        });
        self.agents.insert(report.node.clone(), HeardAgent { at_ms: now_ms, report });
        is_news
    }

    /// Whether it waits for nothing that it has proposed.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Begins a pass, or goes on with one whose proposals are all answered.
    pub fn look(&mut self, state: &State, log_time_ms: u64, now_ms: u64) -> Next {
        if self.stage == Stage::Idle {
            self.is_dirty = false;
            self.refused = false;
            self.expect_sessions(state, now_ms);
            let mut news = self.news(state, now_ms);
            let reports = self.sessions.iter().map(|(id, heard)| (id, &heard.report)).collect();
            news.extend(self.evidence.due(&reports, state, log_time_ms, self.planted));
            news.extend(self.asked.due(now_ms));
            self.stage = Stage::News;
            if !news.is_empty() {
                return Next::Propose(news);
            }
        }
        if self.stage == Stage::News {
            self.expect_sessions(state, now_ms);
            let (commands, wake_in_ms) = self.decide(state, log_time_ms, now_ms);
            self.stage = Stage::Plan { wake_in_ms };
            if !commands.is_empty() {
                return Next::Propose(commands);
            }
        }
        let Stage::Plan { wake_in_ms } = std::mem::replace(&mut self.stage, Stage::Idle) else {
            unreachable!("a pass has no other stages");
        };
        let pause_ms = if self.refused { REFUSED_PAUSE_MS } else { 0 };
        let wake_in_ms = if self.is_dirty { 0 } else { wake_in_ms.min(LOOK_EVERY_MS) };
        Next::Sleep(wake_in_ms.max(pause_ms))
    }

    /// What was proposed is to be waited for.
    pub fn await_answer(&mut self, proposal: ProposalId) {
        self.outstanding.insert(proposal);
    }

    /// Whether the pass may go on.
    pub fn is_answered(&self) -> bool {
        self.outstanding.is_empty()
    }

    /// A proposal was carried out or refused.
    pub fn answer(&mut self, proposal: ProposalId, outcome: &Outcome) {
        if self.outstanding.remove(&proposal) {
            let stale = matches!(outcome, Err(Refusal::Stale { .. }) | Ok(_));
            self.refused |= !stale;
        }
    }

    fn decide(&mut self, state: &State, log_time_ms: u64, now_ms: u64) -> (Vec<Command>, u64) {
        let mut sessions = self.session_views(state, log_time_ms, now_ms);
        let mut nodes = self.node_views(state, log_time_ms, now_ms);
        let verdicts = self.verdicts(state, log_time_ms, now_ms);
        if let Some(bug) = self.planted {
            planted::on_view(bug, &mut sessions, &mut nodes, &self.waits);
        }
        let mut plan = planner::plan(&View {
            state,
            now_ms: log_time_ms,
            sessions: &sessions,
            nodes: &nodes,
            verdicts: &verdicts,
            table_age_max_ms: self.waits.table_age_max_ms,
            node_lost_ms: self.waits.node_lost_ms,
        });
        let wake_in_ms =
            plan.wake_at_ms.map_or(LOOK_EVERY_MS, |at_ms| at_ms.saturating_sub(log_time_ms).max(1));
        self.asked.look(&plan.measurements, self.term, now_ms);
        let answer_in_ms = self.asked.next_ms().map(|at_ms| at_ms.saturating_sub(now_ms).max(1));
        let wake_in_ms = wake_in_ms.min(answer_in_ms.unwrap_or(LOOK_EVERY_MS));
        let unmarked_ms = log_time_ms.saturating_sub(state.meta.log_time_ms);
        let mut commands = plan.commands.clone();
        let mut inputs = plan.inputs.clone();
        if commands.is_empty() && plan.wake_at_ms.is_some() && unmarked_ms > TICK_EVERY_MS {
            commands.push(Command::Tick {});
        }
        if let Some(bug) = self.planted {
            planted::on_commands(bug, &mut commands, state);
            planted::on_inputs(bug, &mut inputs);
        }
        if self.planted == Some(Planted::SaysNothingOfPauses) {
            plan.waits.values_mut().for_each(|waits| waits.retain(|wait| wait.code != PAUSED));
        }
        self.accounts = invariants::accounts_for_all(state, &plan, log_time_ms);
        self.plan = plan;
        // A log has one order: what was seen stands before what was decided.
        (inputs.into_iter().chain(commands).collect(), wake_in_ms)
    }

    /// What was heard and is not in the state yet.
    fn news(&self, state: &State, now_ms: u64) -> Vec<Command> {
        let mut news = Vec::new();
        for HeardSession { report, .. } in self.sessions.values().filter(|s| s.report.goodbye) {
            if state.sessions.get(&report.session).is_some_and(|r| r.opened == report.life) {
                let (session, opened) = (report.session.clone(), report.life);
                let reason = "it ended in order".to_owned();
                news.push(Command::CloseSession { session, opened, reason });
            }
        }
        let reports = |agent: &&HeardAgent| now_ms - agent.at_ms <= self.waits.lease_ms;
        for HeardAgent { report, .. } in self.agents.values().filter(reports) {
            agent_news(report, state, &mut news);
        }
        news
    }

    fn expect_sessions(&mut self, state: &State, now_ms: u64) {
        let lives = |id: &SessionId| state.sessions.get(id).map(|record| record.opened);
        self.expected.retain(|id, (opened, _)| lives(id) == Some(*opened));
        for (id, record) in &state.sessions {
            self.expected.entry(id.clone()).or_insert((record.opened, now_ms));
        }
        let (waits, expected) = (self.waits, &self.expected);
        self.sessions.retain(|id, heard| {
            expected.contains_key(id)
                || !(heard.report.goodbye || now_ms - heard.at_ms > waits.lease_ms)
        });
    }

    /// How the planner sees every committed session.
    fn session_views(
        &self,
        state: &State,
        log_time_ms: u64,
        now_ms: u64,
    ) -> BTreeMap<SessionId, SessionView> {
        let view = |record: &SessionRecord| self.session_view(record, log_time_ms, now_ms);
        state.sessions.iter().map(|(id, record)| (id.clone(), view(record))).collect()
    }

    fn session_view(&self, record: &SessionRecord, log_time_ms: u64, now_ms: u64) -> SessionView {
        let heard = self.sessions.get(&record.id).filter(|s| s.report.life == record.opened);
        if let Some(HeardSession { at_ms, report }) = heard
            && now_ms - at_ms <= self.waits.lease_ms
        {
            let holding = Holding { is_able: true, late: report.late.clone() };
            let (applied, busy) = (report.applied, report.busy.clone());
            return SessionView::Connected { applied, busy, holding };
        }
        let expected = self.expected.get(&record.id);
        let Some((_, expected_ms)) = expected.filter(|(opened, _)| *opened == record.opened) else {
            return SessionView::Awaited;
        };
        let listening_ms = self.took_over_ms.max(*expected_ms);
        let since_ms = heard.map_or(listening_ms, |heard| heard.at_ms.max(listening_ms));
        let silent_ms = now_ms - since_ms;
        if silent_ms <= self.waits.lease_ms {
            return SessionView::Awaited;
        }
        SessionView::Unreachable { since_ms: log_time_ms.saturating_sub(silent_ms) }
    }

    /// How the planner sees every committed node.
    fn node_views(
        &self,
        state: &State,
        log_time_ms: u64,
        now_ms: u64,
    ) -> BTreeMap<NodeName, NodeView> {
        let waited_ms = now_ms - self.took_over_ms;
        let lease_ms = self.waits.lease_ms;
        let view = |node: &NodeName| {
            let heard_ms = self.agents.get(node).map(|agent| now_ms - agent.at_ms);
            let silent_ms = heard_ms.unwrap_or(waited_ms).min(waited_ms);
            match heard_ms {
                _ if silent_ms > lease_ms => {
                    let over_ms = silent_ms - lease_ms;
                    NodeView::Silent { since_ms: log_time_ms.saturating_sub(over_ms) }
                }
                Some(heard_ms) if heard_ms <= lease_ms => NodeView::Reporting,
                _ => NodeView::Awaited,
            }
        };
        state.nodes.keys().map(|node| (node.clone(), view(node))).collect()
    }

    /// What the thresholds say of the new version of live updates.
    fn verdicts(
        &mut self,
        state: &State,
        log_time_ms: u64,
        now_ms: u64,
    ) -> BTreeMap<UpdateId, Verdict> {
        for window in self.windows.values_mut() {
            while window.front().is_some_and(|(at_ms, _)| now_ms - at_ms > WINDOW_MS) {
                window.pop_front();
            }
        }
        let live = state.slices.values().filter_map(|s| state.live_update(&s.slice));
        let judged = live
            .filter(|update| matches!(update.state, UpdateState::Deployed | UpdateState::Routing));
        let verdict = |update: &aether_core::records::UpdateRecord| {
            let age_ms = log_time_ms.saturating_sub(update.health_from_ms);
            let mut sum = Served::default();
            let version = (update.slice.clone(), update.new.revision);
            let parts = self.windows.get(&version).into_iter().flatten();
            parts.filter(|(at_ms, _)| now_ms - at_ms <= age_ms).for_each(|(_, part)| sum.add(part));
            let Served { all, instances } = sum;
            let (thresholds, waits) = (&update.options.thresholds, update.waits_for_calls());
            (update.id.clone(), health::judge_window(&all, || instances, thresholds, waits))
        };
        judged.map(|update| verdict(update)).collect()
    }
}

/// What an agent said and is not in the state yet.
fn agent_news(report: &Report, state: &State, news: &mut Vec<Command>) {
    let node = &report.node;
    let known = state.nodes.get(node);
    if known.is_none_or(|known| known.instances_max != report.instances_max) {
        news.push(register(node, report.instances_max));
    }
    let of_ours = |seen: &Observation| {
        let known = state.instances.get(&seen.instance).filter(|known| known.node == *node);
        known.and_then(|known| seen.clone().news_of(known))
    };
    let observations: Vec<Observation> = report.observations.iter().filter_map(of_ours).collect();
    if !observations.is_empty() {
        news.push(Command::Observe { node: node.clone(), observations });
    }
}

/// A node introduces itself.
pub fn register(node: &NodeName, instances_max: u32) -> Command {
    Command::RegisterNode {
        node: node.clone(),
        address: ([127, 0, 0, 1], 9_000).into(),
        labels: BTreeMap::new(),
        instances_max,
    }
}
