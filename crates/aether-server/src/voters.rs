//! Brings the members of the log to what is wanted, on the leader.
//!
//! It decides nothing: which step is due is up to the planner, and each is made
//! under the term that it was decided in.

use std::collections::BTreeMap;
use std::time::Duration;

use aether_core::command::{Command, Request};
use aether_core::ids::NodeName;
use aether_core::planner::{self, VoterStep};
use aether_replica::{Membership, MembershipChange};

use crate::control::Control;
use crate::machine::encode_request;

/// A newcomer's progress, and a change that a former leader left half done, are
/// looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The members as the planner sees them.
pub fn view(members: Membership) -> planner::Membership {
    planner::Membership {
        voters: members.voters,
        learners: members.learners,
        is_joint: members.is_joint,
        caught_up: members.caught_up,
        alive: members.alive,
        leader: members.leader,
        names: parsed(members.names),
    }
}

/// Names that are none are of nobody.
pub fn parsed(names: impl IntoIterator<Item = (u64, String)>) -> BTreeMap<u64, NodeName> {
    names.into_iter().filter_map(|(id, name)| Some((id, name.parse().ok()?))).collect()
}

/// Runs until the process ends; works while this node leads.
pub async fn run(control: Control) {
    let mut states = control.watch();
    loop {
        tokio::select! {
            _ = states.changed() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let leadership = control.replica().leadership().borrow().clone();
        if !leadership.is_leader || !leadership.ready {
            continue;
        }
        let Some(members) = control.replica().membership().map(view) else { continue };
        let state = states.borrow_and_update().state.clone();
        let Some(step) = planner::next_voter_step(&state, &members) else { continue };
        tracing::info!(?step, "the voters change");
        if let Err(error) = carry_out(&control, leadership.term, step).await {
            tracing::warn!(%error, "a step of a change of the voters was not made; again soon");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn carry_out(
    control: &Control,
    term: u64,
    step: VoterStep,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let replica = control.replica();
    let change = match step {
        VoterStep::AddLearner { raft_id, node, peer_addr, dir_id } => {
            MembershipChange::AddLearner { raft_id, name: node.to_string(), peer_addr, dir_id }
        }
        VoterStep::SetVoters { voters } => MembershipChange::SetVoters(voters),
        VoterStep::RemoveLearner { raft_id } => MembershipChange::RemoveLearner(raft_id),
        VoterStep::HandOver => {
            replica.transfer_leadership(None).await?;
            return Ok(());
        }
        VoterStep::End { node, modified } => {
            let command = Command::EndVoterChange { node, modified };
            let request = Request { request_id: None, actor: "coordinator".to_owned(), command };
            // Refused only if it was asked for something else meanwhile.
            replica.propose_as_leader(term, encode_request(&request)).await?;
            return Ok(());
        }
    };
    Ok(replica.change_membership(term, change).await?)
}
