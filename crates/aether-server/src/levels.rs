//! Raises the feature level, on the leader, and has writes that need it wait.
//!
//! It decides nothing: to what the level rises, and who holds it back, are pure
//! functions over what the members say (`aether_core::level`).

use std::time::Duration;

use aether_core::command::{Command, Refusal, Request};
use aether_core::level::{FEATURE_LEVEL_FIRST, Support, held_back_by, level_of, raise_to};
use aether_core::records::VoterWanted;
use aether_core::state::State;
use aether_replica::Handle;
use tokio::time::{Instant, timeout};
use tonic::Status;
use tracing::{info, warn};

use crate::control::{Control, WRITE_MAX};
use crate::deadline::Deadline;
use crate::machine::encode_request;
use crate::status;

/// While the level can rise, the leader asks the members this often. Each answer
/// is a few hundred bytes; at the level of its own build it asks nobody.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a member may take to say what it supports.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a write waits for a level that nobody is known to hold back. At the
/// start of a cluster the raise is among the first entries; after that, a member
/// that does not answer is being restarted, or gone.
const RAISE_MAX: Duration = Duration::from_secs(3);
/// How often such a write looks who holds it back.
const WAIT_LOOK: Duration = Duration::from_millis(50);

/// What the members say that they support: voters, learners, and who is admitted
/// to be one.
pub async fn support(replica: &Handle, state: &State) -> Vec<Support> {
    let reports = replica.reports(PATIENCE, |_| true).await;
    let members = reports.into_iter().map(|(member, report)| Support {
        node: member.name,
        // One that does not say is of the first release.
        supports: report.ok().map(|report| report.feature_level_max.max(FEATURE_LEVEL_FIRST)),
    });
    members.chain(joining(state)).collect()
}

/// What those said that were admitted to vote.
pub fn joining(state: &State) -> impl Iterator<Item = Support> {
    state.voter_changes.values().filter_map(|change| match &change.wanted {
        VoterWanted::Join { admitted: Some(admitted), .. } => {
            Some(Support { node: change.node.to_string(), supports: Some(admitted.feature_level) })
        }
        _ => None,
    })
}

/// Runs until the replica ends; works while this node leads a log that is below
/// the level that this node supports.
pub async fn run(control: Control) {
    let own = control.replica().feature_level_max();
    let mut leadership = control.replica().leadership();
    let mut said = String::new();
    loop {
        let now = leadership.borrow_and_update().clone();
        let committed = control.local().state.meta.feature_level;
        let changed = if now.is_leader && now.ready && committed < own {
            look(&control, now.term, own, &mut said).await;
            timeout(LOOK_EVERY, leadership.changed()).await.unwrap_or(Ok(()))
        } else {
            leadership.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Asks the members, and proposes what all of them support.
async fn look(control: &Control, term: u64, own: u32, said: &mut String) {
    let replica = control.replica();
    let ids = |replica: &Handle| -> Vec<u64> {
        replica.status().members.iter().map(|member| member.raft_id).collect()
    };
    let asked = ids(replica);
    let state = control.local().state.clone();
    let committed = state.meta.feature_level;
    let members = support(replica, &state).await;
    let Some(to) = raise_to(committed, &members) else {
        let who = held_back_by(own, &members).join(", ");
        if who != *said {
            info!(committed, own, "the feature level is held back: {who}");
            *said = who;
        }
        return;
    };
    // Whoever came meanwhile was not asked. The log keeps it down for one who
    // was admitted and is no member yet.
    if ids(replica) != asked {
        return;
    }
    info!(from = committed, to, "all members support a higher feature level: it is raised");
    let command = Command::RaiseFeatureLevel { to };
    let request = Request { request_id: None, actor: "coordinator".to_owned(), command };
    if let Err(error) = replica.propose_as_leader(term, encode_request(&request)).await {
        warn!(%error, "the feature level was not raised; again soon");
    }
}

impl Control {
    /// Waits until the level that a command needs is committed, unless somebody
    /// is known to hold it back. Costs nothing once it is.
    ///
    /// # Errors
    /// The refusal, which names who holds it back; `Unavailable` without a leader.
    pub(crate) async fn until_level_of(
        &self,
        command: &Command,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let needs = level_of(command);
        if self.local().state.meta.feature_level >= needs {
            return Ok(());
        }
        // This node may only be behind.
        let barrier = self.replica().read_barrier(deadline.within(WRITE_MAX)).await;
        barrier.map_err(status::unavailable)?;
        let until = Instant::now() + deadline.within(RAISE_MAX);
        let mut states = self.watch();
        loop {
            let state = self.local().state.clone();
            let committed = state.meta.feature_level;
            if committed >= needs {
                return Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            let asked = timeout(left, support(self.replica(), &state)).await;
            let members = asked.unwrap_or_default();
            let is_held = members.iter().any(|m| m.supports.is_some_and(|level| level < needs));
            if is_held || Instant::now() >= until {
                let held_back_by = held_back_by(needs, &members);
                let refusal = Refusal::LevelTooLow { needs, committed, held_back_by };
                return Err(status::refused(&refusal));
            }
            let raised = states.wait_for(|now| now.state.meta.feature_level >= needs);
            // Either way it is looked at again.
            let _ = timeout(WAIT_LOOK, raised).await;
        }
    }
}
