//! What only the leader knows: which sessions and agents report, what they
//! said last, and what the planner waits for. All of it is volatile; a new
//! leader starts with nothing and hears everything again within a lease.

mod evidence;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use aether_core::command::Command;
use aether_core::coordinates::SliceName;
use aether_core::evidence::{Present, Proposed, Side, Tallies};
use aether_core::health::{self, Figure, Tally, Verdict};
use aether_core::ids::{NodeName, SessionId, UpdateId};
use aether_core::planner::{self, Holding, LateCalls, NodeView, SessionView, Wait};
use aether_core::records::{SessionRecord, UpdateRecord, UpdateState};
use aether_core::state::State;
use aether_proto::{peer, v1};
use tokio::sync::Notify;

use crate::order::{Heard, Order};
use crate::render;
use crate::telemetry::{self, Telemetry};

/// Updates described in one answer, of which each takes about a kilobyte.
const DESCRIBED_MAX: usize = 1_000;

struct HeardSession {
    heard: Heard,
    goodbye: bool,
    /// All that this life had counted was told to this leader at least once:
    /// counters that appear later began at zero since.
    told_all: bool,
    applied: u64,
    busy: BTreeSet<aether_core::ids::InstanceId>,
    holding: Holding,
}

/// By which a session says that it can hold calls.
const HOLD_FEATURE: &str = "hold";

/// What an agent said last.
#[derive(Clone)]
pub struct HeardAgent {
    heard: Heard,
    /// Who it is.
    pub hello: v1::AgentHello,
    /// What it runs.
    pub report: v1::AgentReport,
}

struct Inner {
    /// The term that this node leads in and listens for; 0 before the first.
    term: u64,
    /// Log index at which it took over.
    took_over: u64,
    /// Since when silence counts: the take-over, or the end of a pause of this
    /// very process.
    listening_since: Instant,
    now_ms: u64,
    incarnation: u64,
    /// Committed sessions: the index at which each was opened, and since when
    /// this leader knows of it.
    expected: BTreeMap<SessionId, (u64, Instant)>,
    sessions: BTreeMap<String, HeardSession>,
    agents: BTreeMap<String, HeardAgent>,
    telemetry: Telemetry,
    /// Since when a figure of a live update has been beyond its threshold.
    exceeded: BTreeMap<(UpdateId, Figure), u64>,
    /// When the evidence of an update was last looked at, log time.
    recorded: BTreeMap<UpdateId, u64>,
    /// What was proposed then.
    proposed: BTreeMap<UpdateId, Proposed>,
    waits: BTreeMap<SliceName, Vec<Wait>>,
    /// Log index of the state that `waits` speak of.
    waits_index: u64,
    session_lease: Duration,
    agent_lease: Duration,
}

/// What only the leader knows.
pub struct LeaderView {
    inner: Mutex<Inner>,
    /// Woken when somebody reported.
    pub changed: Notify,
}

impl LeaderView {
    /// Nothing heard yet.
    pub fn new(session_lease: Duration, agent_lease: Duration) -> Self {
        let inner = Inner {
            term: 0,
            took_over: 0,
            listening_since: Instant::now(),
            now_ms: 0,
            incarnation: 1,
            expected: BTreeMap::new(),
            sessions: BTreeMap::new(),
            agents: BTreeMap::new(),
            telemetry: Telemetry::default(),
            exceeded: BTreeMap::new(),
            recorded: BTreeMap::new(),
            proposed: BTreeMap::new(),
            waits: BTreeMap::new(),
            waits_index: 0,
            session_lease,
            agent_lease,
        };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("nothing panics while it holds this lock")
    }

    /// This node became the leader, with the log up to `index`: what was heard
    /// before is void.
    pub fn take_over(&self, term: u64, index: u64) {
        let mut inner = self.inner();
        inner.term = term;
        inner.took_over = index;
        inner.listening_since = Instant::now();
        inner.expected.clear();
        inner.sessions.clear();
        inner.agents.clear();
        inner.telemetry = Telemetry::default();
        inner.exceeded.clear();
        inner.recorded.clear();
        inner.proposed.clear();
        inner.waits.clear();
        inner.waits_index = 0;
    }

    /// This process did not run for a while: silence counts from now.
    pub fn listen_anew(&self) {
        self.inner().listening_since = Instant::now();
    }

    /// Log time and incarnation by which reports are judged.
    pub fn set_now(&self, now_ms: u64, incarnation: u64) {
        let mut inner = self.inner();
        inner.now_ms = now_ms;
        inner.incarnation = incarnation;
    }

    /// Takes in a node's report of its clients, if this node has taken over in
    /// this term: what came before would be lost. Whether it did.
    pub fn absorb(&self, term: u64, request: peer::ReportRequest) -> bool {
        let mut inner = self.inner();
        if inner.term != term {
            return false;
        }
        for session in request.sessions {
            inner.absorb_session(session);
        }
        for agent in request.agents {
            inner.absorb_agent(agent);
        }
        drop(inner);
        self.changed.notify_one();
        true
    }

    /// How the planner sees every committed session.
    pub fn session_views(&self, state: &State, now_ms: u64) -> BTreeMap<SessionId, SessionView> {
        let inner = self.inner();
        let sessions = state.sessions.iter();
        sessions.map(|(id, record)| (id.clone(), inner.session_view(record, now_ms))).collect()
    }

    /// Sessions that said goodbye, and the index at which the life that did
    /// was opened.
    pub fn ended_sessions(&self) -> Vec<(SessionId, u64)> {
        let inner = self.inner();
        let ended = inner.sessions.iter().filter(|(_, session)| session.goodbye);
        ended.filter_map(|(id, session)| Some((id.parse().ok()?, session.life()))).collect()
    }

    /// Expects the committed sessions to report from now on, and forgets those
    /// that are not committed any more.
    pub fn expect_sessions(&self, state: &State) {
        let mut inner = self.inner();
        let inner = &mut *inner;
        inner.expected.retain(|id, (opened, _)| {
            state.sessions.get(id).is_some_and(|record| record.opened == *opened)
        });
        let now = Instant::now();
        for (id, record) in &state.sessions {
            inner.expected.entry(id.clone()).or_insert((record.opened, now));
        }
        let gone =
            |id: &String| id.parse::<SessionId>().is_ok_and(|id| !state.sessions.contains_key(&id));
        let ended: Vec<String> = inner
            .sessions
            .iter()
            .filter(|(id, session)| {
                let is_silent = session.heard.at.elapsed() > inner.session_lease;
                gone(id) && (session.goodbye || is_silent)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in ended {
            inner.sessions.remove(&id);
            inner.telemetry.settle(&id);
        }
    }

    /// How the planner sees every committed node.
    pub fn node_views(&self, state: &State, now_ms: u64) -> BTreeMap<NodeName, NodeView> {
        let inner = self.inner();
        let waited = inner.listening_since.elapsed();
        let view = |node: &NodeName| {
            let heard = inner.agents.get(node.as_str()).map(|agent| agent.heard.at.elapsed());
            // While nobody listened it may have spoken.
            let silent = heard.unwrap_or(waited).min(waited);
            match (heard, silent.checked_sub(inner.agent_lease)) {
                (_, Some(over)) if !over.is_zero() => {
                    let since_ms = now_ms.saturating_sub(over.as_millis() as u64);
                    NodeView::Silent { since_ms }
                }
                (Some(heard), _) if heard <= inner.agent_lease => NodeView::Reporting,
                _ => NodeView::Awaited,
            }
        };
        state.nodes.keys().map(|node| (node.clone(), view(node))).collect()
    }

    /// Every agent that reports. What one said that has fallen silent since is
    /// no news: its node may have been forgotten.
    pub fn agents(&self) -> Vec<HeardAgent> {
        let inner = self.inner();
        let reports = |agent: &&HeardAgent| agent.heard.at.elapsed() <= inner.agent_lease;
        inner.agents.values().filter(reports).cloned().collect()
    }

    /// All calls to a version that sessions have told of.
    #[cfg(test)]
    pub fn total(&self, version: &crate::telemetry::Version) -> Tally {
        self.inner().telemetry.total(version)
    }

    /// What the thresholds say of live updates that have taken calls.
    pub fn verdicts(&self, state: &State, now_ms: u64) -> BTreeMap<UpdateId, Verdict> {
        let mut inner = self.inner();
        let judged = |update: &&std::sync::Arc<UpdateRecord>| {
            matches!(update.state, UpdateState::Deployed | UpdateState::Routing)
        };
        let live = state.slices.values().filter_map(|s| s.live_update.as_ref());
        let mut verdicts = BTreeMap::new();
        let mut exceeded = BTreeMap::new();
        for update in live.filter_map(|id| state.updates.get(id)).filter(judged) {
            let window = inner.window_of_new(update, now_ms);
            let thresholds = &update.options.thresholds;
            for found in health::exceeded(&window, thresholds) {
                let key = (update.id.clone(), found.figure);
                let since_ms = inner.exceeded.get(&key).copied().unwrap_or(now_ms);
                exceeded.insert(key, since_ms);
            }
            let verdict = inner.judge(update, &window, update.waits_for_calls(), now_ms);
            verdicts.insert(update.id.clone(), verdict);
        }
        inner.exceeded = exceeded;
        verdicts
    }

    /// What sessions have counted of updates that go by steps, and the state does
    /// not have yet.
    pub fn evidence(&self, state: &State, now_ms: u64) -> Vec<Command> {
        self.inner().evidence(state, now_ms)
    }

    /// What the last pass of the planner waits for.
    pub fn set_waits(&self, waits: BTreeMap<SliceName, Vec<Wait>>, index: u64) {
        let mut inner = self.inner();
        inner.waits = waits;
        inner.waits_index = index;
    }

    /// What the leader knows of an update, but for the figures of each instance.
    pub fn update_view(
        &self,
        state: &State,
        update: &UpdateRecord,
        now_ms: u64,
    ) -> peer::UpdateView {
        self.inner().describe(state, update, false, now_ms)
    }

    /// The leader's answer to a question.
    pub fn answer(
        &self,
        state: &State,
        request: &peer::LeaderViewRequest,
        now_ms: u64,
    ) -> peer::LeaderViewResponse {
        let inner = self.inner();
        let mut response =
            peer::LeaderViewResponse { index: state.meta.index, now_ms, ..Default::default() };
        let listed = state.sessions.iter().filter(|_| request.sessions);
        for (id, record) in listed {
            let view = inner.session_view(record, now_ms);
            let (connected, applied) = match view {
                SessionView::Connected { applied, .. } => (true, applied),
                SessionView::Awaited | SessionView::Unreachable { .. } => (false, 0),
            };
            response.sessions.push(peer::SessionView {
                session_id: id.to_string(),
                connected,
                applied,
            });
        }
        let asked = request.update_ids.iter().take(DESCRIBED_MAX);
        let known = asked.filter_map(|id| state.updates.get(&id.parse::<UpdateId>().ok()?));
        // Many updates of many instances would be a large answer, which nobody reads.
        let by_instance = request.update_ids.len() == 1;
        response.updates =
            known.map(|update| inner.describe(state, update, by_instance, now_ms)).collect();
        response
    }
}

impl HeardSession {
    /// Log index at which the life that speaks was opened.
    fn life(&self) -> u64 {
        self.heard.order.life
    }
}

impl Inner {
    fn absorb_session(&mut self, state: peer::SessionState) {
        let Some(hello) = state.hello else { return };
        let report = state.report.unwrap_or_default();
        let order = Order { life: state.life, attach: hello.attach, seq: state.seq };
        let got = Heard { order, at: heard_at(state.silent_ms) };
        let known = self.sessions.get(&hello.session_id);
        let told_all = known.is_some_and(|known| known.told_all && known.life() == state.life);
        let known = known.map(|known| known.heard);
        let heard = match known {
            // Log indexes leave no doubt, whoever has been silent.
            Some(known) if order.life < known.order.life => None,
            Some(known) => known.then(got, self.session_lease),
            None => Some(got),
        };
        let Some(heard) = heard else { return };
        if known.is_some_and(|known| known.order.life < order.life) {
            // Another process counts from zero.
            self.telemetry.settle(&hello.session_id);
        }
        // Figures of before what is known would look as if counted anew.
        if known.is_none_or(|known| known.order <= order) {
            // What a process counted since it began, or since it told all.
            let is_new = hello.revision == 0 && hello.attach == 1 && state.life > self.took_over;
            let began_at_zero = is_new || told_all;
            for telemetry in &report.telemetry {
                self.telemetry.absorb(&hello.session_id, telemetry, began_at_zero, self.now_ms);
            }
        }
        let of_today = report.incarnation == self.incarnation;
        let session = HeardSession {
            heard,
            goodbye: state.goodbye,
            // The first report on a stream holds all; the hello before it, nothing.
            told_all: told_all || (!state.partial && state.seq > 0),
            applied: if of_today { report.applied } else { 0 },
            busy: report.busy.iter().filter_map(|b| b.instance_id.parse().ok()).collect(),
            holding: holding(&hello, &report),
        };
        self.sessions.insert(hello.session_id, session);
    }

    fn absorb_agent(&mut self, state: peer::AgentState) {
        let (Some(hello), Some(report)) = (state.hello, state.report) else {
            return;
        };
        let order = Order { life: hello.life, attach: hello.attach, seq: state.seq };
        let got = Heard { order, at: heard_at(state.silent_ms) };
        let heard = match self.agents.get(&hello.node) {
            Some(known) => known.heard.then(got, self.agent_lease),
            None => Some(got),
        };
        if let Some(heard) = heard {
            self.agents.insert(hello.node.clone(), HeardAgent { heard, hello, report });
        }
    }

    /// How the present life of a session looks. What an earlier one said does
    /// not count for it: neither its acks nor its silence.
    fn session_view(&self, record: &SessionRecord, now_ms: u64) -> SessionView {
        let heard = self.sessions.get(record.id.as_str());
        let heard = heard.filter(|session| session.life() == record.opened);
        if let Some(session) = heard
            && session.heard.at.elapsed() <= self.session_lease
        {
            return SessionView::Connected {
                applied: session.applied,
                busy: session.busy.clone(),
                holding: session.holding.clone(),
            };
        }
        let expected = self.expected.get(&record.id);
        let Some((_, expected)) = expected.filter(|(opened, _)| *opened == record.opened) else {
            return SessionView::Awaited;
        };
        // While nobody listened it may have spoken.
        let listening = self.listening_since.max(*expected);
        let since = heard.map_or(listening, |session| session.heard.at.max(listening));
        let silent = since.elapsed();
        if silent <= self.session_lease {
            SessionView::Awaited
        } else {
            SessionView::Unreachable { since_ms: now_ms.saturating_sub(silent.as_millis() as u64) }
        }
    }

    fn window_of_new(&self, update: &UpdateRecord, now_ms: u64) -> Tally {
        let version = (update.slice.clone(), update.new.revision);
        self.telemetry.window(&version, update.health_from_ms, now_ms)
    }

    fn judge(&self, update: &UpdateRecord, window: &Tally, waits: bool, now_ms: u64) -> Verdict {
        let version = (update.slice.clone(), update.new.revision);
        let from_ms = update.health_from_ms;
        let instances = || self.telemetry.window_by_instance(&version, from_ms, now_ms);
        health::judge_window(window, instances, &update.options.thresholds, waits)
    }

    fn exceeded_figures(
        &self,
        update: &UpdateRecord,
        window: &Tally,
        now_ms: u64,
    ) -> Vec<v1::Exceeded> {
        let found = health::exceeded(window, &update.options.thresholds);
        let shown = found.into_iter().map(|found| {
            let since_ms = self.exceeded.get(&(update.id.clone(), found.figure));
            let (figure, unit) = match found.figure {
                Figure::ErrorRatePpm => ("error_rate", 1_000_000.0),
                Figure::P99Us => ("p99_latency_ms", 1_000.0),
            };
            v1::Exceeded {
                figure: figure.to_owned(),
                value: found.value as f64 / unit,
                threshold: found.threshold as f64 / unit,
                since_ms: since_ms.map_or(0, |since_ms| now_ms.saturating_sub(*since_ms)),
            }
        });
        shown.collect()
    }

    fn describe(
        &self,
        state: &State,
        update: &UpdateRecord,
        by_instance: bool,
        now_ms: u64,
    ) -> peer::UpdateView {
        let window_of = |side: &aether_core::records::Side| {
            let version = (update.slice.clone(), side.revision);
            self.telemetry.window(&version, update.health_from_ms, now_ms)
        };
        let health_of = |side: &aether_core::records::Side| {
            let version = (update.slice.clone(), side.revision);
            let mut health =
                version_health(side, &self.telemetry.total(&version), &window_of(side));
            if by_instance {
                let all = self.telemetry.by_instance(&version);
                health.instances = all.iter().take(INSTANCES_MAX).map(instance_health).collect();
            }
            health
        };
        let new = window_of(&update.new).requests;
        let old = update.old.as_ref().map_or(0, |side| window_of(side).requests);
        let actual_requests = new.saturating_add(old);
        let actual_new_ppm = (actual_requests > 0)
            .then(|| (u128::from(new) * 1_000_000 / u128::from(actual_requests)) as u32);
        let window = self.window_of_new(update, now_ms);
        let (verdict, detail) = match self.judge(update, &window, update.waits_for_calls(), now_ms)
        {
            Verdict::Insufficient => {
                let least = update.options.thresholds.requests_min;
                let seen = window.requests;
                let detail = match self.judge(update, &window, false, now_ms) {
                    Verdict::Exceeded { detail } | Verdict::OneInstance { detail, .. } => {
                        format!("too early to tell one instance from its version: {detail}")
                    }
                    _ => format!("{seen} of at least {least} requests in the window"),
                };
                ("insufficient", detail)
            }
            Verdict::Healthy => ("healthy", String::new()),
            Verdict::Exceeded { detail } => ("exceeded", detail),
            Verdict::OneInstance { detail, .. } => ("instance_outlier", detail),
        };
        let present = Present {
            recent: Tallies {
                new: Side::of(&window, None),
                old: update
                    .old
                    .as_ref()
                    .map(|old| Side::of(&window_of(old), None))
                    .unwrap_or_default(),
            },
            recent_ms: now_ms.saturating_sub(update.health_from_ms).min(telemetry::WINDOW_MS),
            remaining_ms: None,
        };
        let compared = planner::comparison(state, update, &present);
        let health = v1::UpdateHealth {
            comparison: compared.as_ref().map(render::comparison),
            update_id: update.id.to_string(),
            old_version: update.old.as_ref().map(health_of),
            new_version: Some(health_of(&update.new)),
            collected_at: wall_ms(),
            verdict: verdict.to_owned(),
            detail,
            as_of: None,
            exceeded: self.exceeded_figures(update, &window, now_ms),
            max_error_rate: f64::from(update.options.thresholds.error_rate_ppm) / 1_000_000.0,
            max_latency_ms: update.options.thresholds.p99_ms,
            min_requests: update.options.thresholds.requests_min,
            pause: update.pause.as_ref().map(|pause| render::reason(&pause.reason)),
            paused_ms: update.pause.as_ref().map(|pause| now_ms.saturating_sub(pause.since_ms)),
            // They are in the record, which who is asked has.
            gates: Vec::new(),
        };
        // Waits of before the last change would speak of what is over, and those of
        // a slice are of its live update.
        let current = self.waits_index >= update.modified && !update.state.is_terminal();
        let waits = self.waits.get(&update.slice).filter(|_| current);
        let waits = waits.map(Vec::as_slice).unwrap_or_default();
        let waits = waits.iter().map(|wait| v1::Wait {
            code: wait.code.to_owned(),
            message: wait.message.clone(),
            since_ms: now_ms.saturating_sub(wait.since_ms),
            unblock: wait.unblock.clone(),
        });
        peer::UpdateView {
            update_id: update.id.to_string(),
            health: Some(health),
            waits: waits.collect(),
            actual_new_ppm,
            actual_requests,
            counted_ms: now_ms.saturating_sub(update.health_from_ms).min(telemetry::WINDOW_MS),
        }
    }
}

fn holding(hello: &v1::SessionHello, report: &v1::SessionReport) -> Holding {
    let late = report.late.iter().filter_map(|late| {
        let v1::LateCalls { slice, route_revision, calls } = late;
        let late = LateCalls { route_revision: *route_revision, calls: *calls };
        Some((slice.parse().ok()?, late))
    });
    let is_able = hello.features.iter().any(|feature| feature == HOLD_FEATURE);
    Holding { is_able, late: late.collect() }
}

fn heard_at(silent_ms: u64) -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_millis(silent_ms)).unwrap_or(now)
}

/// Wall clock in milliseconds, for display.
fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// Instances of one version in one answer: a hundred times more than a person
/// reads.
const INSTANCES_MAX: usize = 1_000;

fn ms(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn error_rate(tally: &Tally) -> f64 {
    match tally.requests {
        0 => 0.0,
        requests => tally.errors as f64 / requests as f64,
    }
}

fn average_ms(tally: &Tally) -> f64 {
    match tally.requests {
        0 => 0.0,
        requests => ms(tally.latency_sum_us) / requests as f64,
    }
}

fn version_health(
    side: &aether_core::records::Side,
    total: &Tally,
    window: &Tally,
) -> v1::VersionHealth {
    v1::VersionHealth {
        version: side.version.to_string(),
        request_count: total.requests,
        error_count: total.errors,
        error_rate: error_rate(total),
        avg_latency_ms: average_ms(total),
        p99_latency_ms: total.p99_us().map(ms),
        window_requests: window.requests,
        window_error_rate: error_rate(window),
        window_p99_ms: window.p99_us().map(ms),
        instances: Vec::new(),
    }
}

fn instance_health((id, total): (&String, &Tally)) -> v1::InstanceHealth {
    v1::InstanceHealth {
        instance_id: id.clone(),
        node: String::new(),
        request_count: total.requests,
        error_count: total.errors,
        error_rate: error_rate(total),
        avg_latency_ms: average_ms(total),
        p99_latency_ms: total.p99_us().map(ms),
    }
}

#[cfg(test)]
mod tests;
