//! From the voters that there are to those that are wanted, one step at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ids::NodeName;
use crate::records::{VoterChange, VoterWanted};
use crate::state::State;

/// The membership as the leader's consensus has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Raft ids of those that vote; in the middle of a change, of those that
    /// will when it is through.
    pub voters: BTreeSet<u64>,
    /// Raft ids of those that get the log and do not vote.
    pub learners: BTreeSet<u64>,
    /// A change of the voters is half done: both sets have to agree.
    pub is_joint: bool,
    /// Those that hold nearly all of the log.
    pub caught_up: BTreeSet<u64>,
    /// Those that were heard of a moment ago, the leader included.
    pub alive: BTreeSet<u64>,
    /// The leader.
    pub leader: u64,
    /// Node names of all members.
    pub names: BTreeMap<u64, NodeName>,
}

/// What the leader has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterStep {
    /// Gives an admitted node the log.
    AddLearner {
        /// Its Raft id.
        raft_id: u64,
        /// The node.
        node: NodeName,
        /// Its peer listener.
        peer_addr: String,
        /// Identity of its data directory.
        dir_id: String,
    },
    /// Makes these the voters.
    SetVoters {
        /// Their Raft ids.
        voters: BTreeSet<u64>,
    },
    /// Forgets one that gets the log and does not vote.
    RemoveLearner {
        /// Its Raft id.
        raft_id: u64,
    },
    /// Hands the leadership over: whoever leads is to go.
    HandOver,
    /// Notes that what was wanted of a node holds.
    End {
        /// The node.
        node: NodeName,
        /// Modification index of its change.
        modified: u64,
    },
}

/// Why a change waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoterWait {
    /// The node has not asked to be admitted.
    NotCome,
    /// It copies the log.
    CatchingUp,
    /// Too few of those that would vote are alive: they could commit nothing.
    NoMajority {
        /// How many would vote.
        voters: usize,
        /// How many of them are alive.
        alive: usize,
    },
    /// Those that would vote have not copied all archives yet: whoever goes may
    /// be the last that has one.
    Archives {
        /// Artifacts of which no majority of them has the archive.
        missing: usize,
    },
    /// Another change comes first.
    InLine,
}

/// What to do now, if anything, for the oldest change that need not wait.
pub fn next_voter_step(state: &State, now: &Membership) -> Option<VoterStep> {
    if now.is_joint {
        // Its leader went in the middle of it. Those that it names are wanted.
        return Some(VoterStep::SetVoters { voters: now.voters.clone() });
    }
    let due = in_order(state).iter().find_map(|change| step_of(state, change, now).ok());
    due.or_else(|| {
        // One that was sent away while the log was about to be given to it.
        let wanted = |id: &u64| {
            state.voter_changes.values().any(|change| match &change.wanted {
                VoterWanted::Join { admitted, .. } => {
                    admitted.as_ref().is_some_and(|admitted| admitted.raft_id == *id)
                }
                VoterWanted::Leave { .. } => false,
            })
        };
        let stray = now.learners.iter().find(|id| !wanted(id));
        stray.map(|raft_id| VoterStep::RemoveLearner { raft_id: *raft_id })
    })
}

/// Why the change of a node is not done yet, for people.
pub fn voter_wait(state: &State, now: &Membership, node: &NodeName) -> Option<VoterWait> {
    let change = state.voter_changes.get(node)?;
    let first = in_order(state).into_iter().find(|change| step_of(state, change, now).is_ok());
    match step_of(state, change, now) {
        Err(wait) => Some(wait),
        Ok(_) if first.is_some_and(|first| first.node != change.node) => Some(VoterWait::InLine),
        Ok(_) => None,
    }
}

/// Whether the others can go on without this voter: a majority of them lives.
pub fn can_leave(now: &Membership, raft_id: u64) -> Result<(), VoterWait> {
    let mut rest = now.voters.clone();
    rest.remove(&raft_id);
    has_majority(&rest, now)
}

fn in_order(state: &State) -> Vec<&Arc<VoterChange>> {
    let mut changes: Vec<&Arc<VoterChange>> = state.voter_changes.values().collect();
    changes.sort_unstable_by_key(|change| change.modified);
    changes
}

fn step_of(state: &State, change: &VoterChange, now: &Membership) -> Result<VoterStep, VoterWait> {
    let end = VoterStep::End { node: change.node.clone(), modified: change.modified };
    match &change.wanted {
        VoterWanted::Join { admitted: None, .. } => Err(VoterWait::NotCome),
        VoterWanted::Join { peer_addr, replaces, admitted: Some(admitted) } => {
            let id = admitted.raft_id;
            let goes = replaces.filter(|goes| now.voters.contains(goes));
            if now.voters.contains(&id) && goes.is_none() {
                return Ok(end);
            }
            if !now.voters.contains(&id) && !now.learners.contains(&id) {
                return Ok(VoterStep::AddLearner {
                    raft_id: id,
                    node: change.node.clone(),
                    peer_addr: peer_addr.clone(),
                    dir_id: admitted.dir_id.clone(),
                });
            }
            if !now.caught_up.contains(&id) {
                return Err(VoterWait::CatchingUp);
            }
            let mut voters = now.voters.clone();
            voters.insert(id);
            // A leader that is to go needs somebody to hand over to, who may be
            // the one that comes.
            let heir = now.voters.iter().any(|id| *id != now.leader && now.alive.contains(id));
            if let Some(goes) = goes.filter(|goes| *goes != now.leader || heir) {
                voters.remove(&goes);
            }
            has_majority(&voters, now)?;
            have_archives(state, &voters, now)?;
            Ok(if goes == Some(now.leader) && heir {
                VoterStep::HandOver
            } else {
                VoterStep::SetVoters { voters }
            })
        }
        VoterWanted::Leave { raft_id } if now.learners.contains(raft_id) => {
            Ok(VoterStep::RemoveLearner { raft_id: *raft_id })
        }
        VoterWanted::Leave { raft_id } if now.voters.contains(raft_id) => {
            can_leave(now, *raft_id)?;
            let mut voters = now.voters.clone();
            voters.remove(raft_id);
            have_archives(state, &voters, now)?;
            if *raft_id == now.leader {
                return Ok(VoterStep::HandOver);
            }
            Ok(VoterStep::SetVoters { voters })
        }
        VoterWanted::Leave { .. } => Ok(end),
    }
}

/// A set of voters that has no living majority would never commit again.
fn has_majority(voters: &BTreeSet<u64>, now: &Membership) -> Result<(), VoterWait> {
    let alive = voters.intersection(&now.alive).count();
    if alive > voters.len() / 2 {
        return Ok(());
    }
    Err(VoterWait::NoMajority { voters: voters.len(), alive })
}

/// No majority of the voters may be without an archive: as for a push.
fn have_archives(state: &State, voters: &BTreeSet<u64>, now: &Membership) -> Result<(), VoterWait> {
    let names: Vec<&NodeName> = voters.iter().filter_map(|id| now.names.get(id)).collect();
    let lacks = |held_by: &BTreeSet<NodeName>| {
        let held = names.iter().filter(|name| held_by.contains(**name)).count();
        held <= voters.len() / 2
    };
    match state.artifacts.values().filter(|record| lacks(&record.held_by)).count() {
        0 => Ok(()),
        missing => Err(VoterWait::Archives { missing }),
    }
}
