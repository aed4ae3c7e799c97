//! The coordinator: on the leader, turns the plan into proposals.
//!
//! It decides nothing. It looks on every change and on a timer, asks the
//! planner, and proposes what the plan says under the term it leads in; what a
//! deposed leader proposes never reaches the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aether_core::command::{Command, Observation, Refusal, Request};
use aether_core::ids::{InstanceId, NodeName};
use aether_core::planner::{self, View};
use aether_core::records::{Observed, Reason};
use aether_core::state::State;
use aether_proto::v1;
use aether_replica::ProposeError;
use futures::future::join_all;
use tracing::{debug, info, warn};

use crate::control::Control;
use crate::gates::Gates;
use crate::leader::LeaderView;
use crate::machine::{decode_outcome, encode_request};

/// Thresholds, leases and deadlines are looked at this often though nothing
/// happens: the guide's health check is once a second.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// While something has a deadline, log time is committed at least this often: a
/// new leader knows time from the last entry on, and counts at most a minute of
/// what it did not see.
const TICK_EVERY_MS: u64 = 20_000;
/// A gap of the loop beyond this means that the process did not run, so that
/// nobody's silence in it may be held against them.
const PAUSED_BEYOND: Duration = Duration::from_millis(2_500);

/// Pause after a decision was refused: the same one may come up in every pass,
/// and must neither fill the log nor keep the rest from being planned.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// How long those that cannot be reached are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Waits {
    /// How long a session is taken to use its table.
    pub table_age_max: Duration,
    /// How long a node is unreachable before it is lost.
    pub node_lost: Duration,
}

/// Runs until the process ends; works while this node leads.
pub async fn run(control: Control, leader: Arc<LeaderView>, waits: Waits, mut gates: Gates) {
    let mut leadership = control.replica().leadership();
    let mut states = control.watch();
    let mut leading_term = None;
    let mut last_look = Instant::now();
    let mut wake_in = LOOK_EVERY;
    loop {
        tokio::select! {
            _ = leadership.changed() => {}
            _ = states.changed() => {}
            () = leader.changed.notified() => {}
            () = tokio::time::sleep(wake_in.min(LOOK_EVERY)) => {}
        }
        if last_look.elapsed() > PAUSED_BEYOND {
            leader.listen_anew();
        }
        last_look = Instant::now();
        let now = leadership.borrow_and_update().clone();
        let term = (now.is_leader && now.ready).then_some(now.term);
        if term != leading_term {
            leading_term = term;
            gates.give_up();
            if let Some(term) = term {
                info!(term, "this node coordinates");
                leader.take_over(term, control.local().state.meta.index);
            }
        }
        let (Some(term), Some(now_ms)) = (term, control.replica().now_ms()) else {
            continue;
        };
        let state = states.borrow_and_update().state.clone();
        wake_in = pass(&control, &leader, term, &state, now_ms, waits, &mut gates).await;
    }
}

/// One look at everything. Returns when to look again at the latest.
async fn pass(
    control: &Control,
    leader: &Arc<LeaderView>,
    term: u64,
    state: &State,
    now_ms: u64,
    waits: Waits,
    gates: &mut Gates,
) -> Duration {
    leader.set_now(now_ms, state.meta.incarnation);
    let mut news = news(leader, state);
    news.extend(leader.evidence(state, now_ms));
    let mut refused = propose_all(control, term, news).await;
    // The plan is made on a state that holds the news.
    let published = control.local();
    let state = &published.state;
    leader.expect_sessions(state);
    let plan = planner::plan(&View {
        state,
        now_ms,
        sessions: &leader.session_views(state, now_ms),
        nodes: &leader.node_views(state, now_ms),
        verdicts: &leader.verdicts(state, now_ms),
        table_age_max_ms: waits.table_age_max.as_millis() as u64,
        node_lost_ms: waits.node_lost.as_millis() as u64,
    });
    gates.look(control, leader, term, plan.measurements);
    leader.set_waits(plan.waits, state.meta.index);
    let wake_in = plan
        .wake_at_ms
        .map_or(LOOK_EVERY, |at_ms| Duration::from_millis(at_ms.saturating_sub(now_ms).max(1)));
    let unmarked_ms = now_ms.saturating_sub(state.meta.log_time_ms);
    let commands = match plan.commands.is_empty() {
        true if plan.wake_at_ms.is_some() && unmarked_ms > TICK_EVERY_MS => vec![Command::Tick {}],
        // What was seen first: one after the other they come into the log.
        _ => plan.inputs.into_iter().chain(plan.commands).collect(),
    };
    refused |= propose_all(control, term, commands).await;
    if refused {
        // Each refusal is an entry that would wake this loop again at once.
        tokio::time::sleep(REFUSED_PAUSE).await;
    }
    wake_in
}

/// What was heard and is not in the state yet.
fn news(leader: &LeaderView, state: &State) -> Vec<Command> {
    let mut news = Vec::new();
    for (session, opened) in leader.ended_sessions() {
        if state.sessions.get(&session).is_some_and(|record| record.opened == opened) {
            let reason = "it ended in order".to_owned();
            news.push(Command::CloseSession { session, opened, reason });
        }
    }
    for agent in leader.agents() {
        news.append(&mut agent_news(&agent.hello, &agent.report, state));
    }
    news
}

/// What an agent said and is not in the state yet.
pub fn agent_news(hello: &v1::AgentHello, report: &v1::AgentReport, state: &State) -> Vec<Command> {
    let mut news = Vec::new();
    let (Ok(node), Ok(address)) = (hello.node.parse::<NodeName>(), hello.address.parse()) else {
        return news;
    };
    let labels = hello.labels.clone().into_iter().collect();
    let instances_max = hello.instances_max;
    let same = state.nodes.get(&node).is_some_and(|known| {
        known.address == address && known.labels == labels && known.instances_max == instances_max
    });
    if !same {
        let node = node.clone();
        news.push(Command::RegisterNode { node, address, labels, instances_max });
    }
    // One of each: two that contradict each other would be news for ever.
    let seen = report.instances.iter().filter_map(observation);
    let seen: BTreeMap<InstanceId, Observation> =
        seen.map(|seen| (seen.instance.clone(), seen)).collect();
    let observations: Vec<Observation> = seen
        .into_values()
        .filter_map(|seen| {
            let known = state.instances.get(&seen.instance);
            known.filter(|known| known.node == node).and_then(|known| seen.news_of(known))
        })
        .collect();
    if !observations.is_empty() {
        news.push(Command::Observe { node: node.clone(), observations });
    }
    for artifact in state.artifacts.values() {
        let held = report.holds_sha256.contains(&artifact.digest);
        if held && !artifact.held_by.contains(&node) {
            news.push(Command::ArtifactHeld {
                artifact: artifact.artifact.clone(),
                digest: artifact.digest.clone(),
                holder: node.clone(),
            });
        }
        let dropped = report.dropped_sha256.contains(&artifact.digest);
        if dropped && !held && artifact.held_by.contains(&node) {
            news.push(Command::ArtifactDropped {
                artifact: artifact.artifact.clone(),
                digest: artifact.digest.clone(),
                holder: node.clone(),
            });
        }
    }
    news
}

/// Longest reason that is kept of an agent's report, in characters.
const REASON_CHARS_MAX: usize = 500;
/// Longest code of it: ours are a few words.
const CODE_CHARS_MAX: usize = 64;

fn observation(wire: &v1::InstanceObservation) -> Option<Observation> {
    let observed = serde_json::Value::String(wire.observed.clone());
    let reason = (!wire.reason_code.is_empty()).then(|| {
        let message: String = wire.reason_message.chars().take(REASON_CHARS_MAX).collect();
        let code: String = wire.reason_code.chars().take(CODE_CHARS_MAX).collect();
        Reason::new(&code, message)
    });
    // That one is ours to say.
    let known = |observed: &Observed| *observed != Observed::Unknown;
    Some(Observation {
        instance: wire.instance_id.parse().ok()?,
        observed: serde_json::from_value::<Observed>(observed).ok().filter(known)?,
        endpoint: wire.endpoint.parse().ok(),
        restarts: wire.restarts,
        reason,
        reloaded: (wire.reloaded != 0).then_some(wire.reloaded),
    })
}

/// Proposes independent commands side by side. Whether one was refused for
/// another reason than a state that had moved on.
async fn propose_all(control: &Control, term: u64, commands: Vec<Command>) -> bool {
    let proposals = commands.into_iter().map(|command| propose(control, term, command));
    join_all(proposals).await.contains(&true)
}

/// Proposes one command. Whether it was refused or not committed.
pub(crate) async fn propose(control: &Control, term: u64, command: Command) -> bool {
    let request = Request { request_id: None, actor: "coordinator".to_owned(), command };
    let applied = control.replica().propose_as_leader(term, encode_request(&request)).await;
    match applied.map(|applied| decode_outcome(&applied.response)) {
        Ok(Ok(answer)) => {
            debug!(command = ?request.command, index = answer.index, "carried out");
            false
        }
        // The state moved on since the plan was made; the next pass looks again.
        Ok(Err(Refusal::Stale { what })) => {
            debug!(what, "a decision was stale");
            false
        }
        Ok(Err(refusal)) => {
            warn!(command = ?request.command, %refusal, "a decision was refused");
            true
        }
        Err(ProposeError::NotLeader { .. }) => false,
        Err(error) => {
            warn!(command = ?request.command, %error, "a decision was not committed");
            true
        }
    }
}
