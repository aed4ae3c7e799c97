//! Makes the measurements of gates that a plan lists, on the leader, and proposes
//! what they showed.
//!
//! It decides nothing: which gate is asked, and what follows from an answer, is
//! the planner's. All that it remembers is which questions are under way, so that
//! each is asked once at a time. A leader that goes gives its questions up, and
//! the next one asks them again: whoever is asked may be asked twice, under the
//! same key.

mod http;
mod program;
mod prometheus;
#[cfg(test)]
mod tests;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_core::planner::Measurement;
use aether_core::records::{GATE_MESSAGE_BYTES_MAX, GateSource, GateVerdict};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::control::Control;
use crate::coordinator::propose;
use crate::leader::LeaderView;

/// Questions under way at a time. More wait for the next look, so that a hundred
/// updates at once open no thousand connections.
const AT_ONCE_MAX: usize = 8;

/// Of those, of one update: somebody whose gates never answer keeps the others from
/// nothing.
const OF_ONE_MAX: usize = 2;

/// Pause after an answer was not taken in: it may come up again at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// Which programs gates may run on a node. Whoever may start an update could run
/// anything otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum GatePrograms {
    /// None.
    #[default]
    None,
    /// Those of these absolute paths, with any arguments.
    Listed(BTreeSet<String>),
    /// Any.
    All,
}

impl GatePrograms {
    /// Whether a program may be run.
    pub fn allow(&self, program: &str) -> bool {
        match self {
            Self::None => false,
            Self::Listed(listed) => listed.contains(program),
            Self::All => true,
        }
    }

    /// The first program of some gates that may not be run, with what to do.
    pub fn refused<'a>(
        &self,
        node: &str,
        gates: impl IntoIterator<Item = &'a aether_core::records::Gate>,
    ) -> Option<String> {
        gates.into_iter().find_map(|gate| match &gate.source {
            GateSource::Command { program, .. } if !self.allow(program) => Some(format!(
                "gate '{}' would run {program}, which node {node} does not: list it in \
                 gates.commands of the configuration of every voter",
                gate.name
            )),
            _ => None,
        })
    }
}

/// What is known of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    UnderWay,
    /// It is committed; a plan that was made on an older state lists it still.
    Answered,
}

/// The questions that a leader has under way. Dropping it gives them up.
pub struct Gates {
    node: Arc<str>,
    programs: Arc<GatePrograms>,
    asked: Arc<Mutex<BTreeMap<String, Asked>>>,
    permits: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

impl Gates {
    /// For a node, and the programs that it may run.
    pub fn new(node: &str, programs: GatePrograms) -> Self {
        Self {
            node: node.into(),
            programs: Arc::new(programs),
            asked: Arc::default(),
            permits: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            tasks: JoinSet::new(),
        }
    }

    /// This node leads no more, or in another term: what is under way is given up.
    pub fn give_up(&mut self) {
        self.tasks = JoinSet::new();
        self.asked = Arc::default();
        self.permits = Arc::new(Semaphore::new(AT_ONCE_MAX));
    }

    /// Begins what a plan lists and is not under way, as far as there is room.
    pub fn look(
        &mut self,
        control: &Control,
        leader: &Arc<LeaderView>,
        term: u64,
        measurements: Vec<Measurement>,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let mut asked = self.asked.lock().expect("nothing panics while it holds this lock");
        let listed: BTreeSet<String> = measurements.iter().map(Measurement::key).collect();
        asked.retain(|key, state| *state == Asked::UnderWay || listed.contains(key));
        for measurement in measurements {
            let key = measurement.key();
            let of_update = |(key, state): &(&String, &Asked)| {
                **state == Asked::UnderWay && measurement.is_of_update(key)
            };
            if asked.contains_key(&key) || asked.iter().filter(of_update).count() >= OF_ONE_MAX {
                continue;
            }
            // The end of one of those under way has the coordinator look again.
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { break };
            asked.insert(key.clone(), Asked::UnderWay);
            let (control, leader) = (control.clone(), Arc::clone(leader));
            let (node, programs) = (Arc::clone(&self.node), Arc::clone(&self.programs));
            let all = Arc::clone(&self.asked);
            self.tasks.spawn(async move {
                let (verdict, message) = measure(&measurement, &node, &programs).await;
                debug!(key, %verdict, message, "a gate answered");
                let refused = propose(&control, term, measurement.answered(verdict, message)).await;
                if refused {
                    warn!(key, "the answer of a gate was not taken in; it is asked again");
                    tokio::time::sleep(REFUSED_PAUSE).await;
                }
                let mut all = all.lock().expect("nothing panics while it holds this lock");
                match refused {
                    true => drop(all.remove(&key)),
                    false => drop(all.insert(key, Asked::Answered)),
                }
                drop(all);
                drop(permit);
                leader.changed.notify_one();
            });
        }
    }
}

/// Makes one measurement. Never longer than its timeout, and whatever goes wrong is
/// inconclusive.
async fn measure(
    measurement: &Measurement,
    node: &str,
    programs: &GatePrograms,
) -> (GateVerdict, String) {
    let timeout = Duration::from_millis(measurement.gate.timeout_ms);
    let asking = async {
        match &measurement.gate.source {
            GateSource::Prometheus { url, query, condition } => {
                prometheus::ask(url, query, condition).await
            }
            GateSource::Webhook { url } => webhook::ask(url, measurement).await,
            GateSource::Command { program, arguments } => {
                match programs.refused(node, [&measurement.gate]) {
                    Some(why) => inconclusive(why),
                    None => program::run(program, arguments, measurement).await,
                }
            }
        }
    };
    let (verdict, message) = match tokio::time::timeout(timeout, asking).await {
        Ok(answered) => answered,
        Err(_) => inconclusive(format!("no answer within {} ms", timeout.as_millis())),
    };
    (verdict, clean(&message))
}

fn inconclusive(why: impl Into<String>) -> (GateVerdict, String) {
    (GateVerdict::Inconclusive, why.into())
}

/// A message as it is kept: one line, and no longer than the record has room for.
fn clean(message: &str) -> String {
    let mut kept = String::new();
    for c in message.trim().chars() {
        let c = if c.is_control() { ' ' } else { c };
        if kept.len() + c.len_utf8() > GATE_MESSAGE_BYTES_MAX {
            break;
        }
        kept.push(c);
    }
    kept
}
