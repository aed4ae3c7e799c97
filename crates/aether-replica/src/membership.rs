//! Who is a member, and how that changes: one step at a time, by the leader of
//! one term. What should come of it all, its user decides.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{ChangeMembers, Precondition};
use tokio::time::timeout;

use crate::clock::Readings;
use crate::error::ChangeError;
use crate::handle::Handle;
use crate::node::Node;
use crate::types::{CommittedLeaderId, Member, TypeConfig};

/// A member that lacks no more than this many entries has caught up: it gets
/// the rest within a round trip or two.
const LAG_MAX: u64 = 1_000;
/// Silence after which a member counts as lost: ten times the longest election
/// timeout, by default.
const LOST_AFTER: Duration = Duration::from_millis(2_500);
/// A change takes two entries, each of them a round and a sync.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The members, as the leader has them. All by Raft id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those that vote; in the middle of a change, those that will.
    pub voters: BTreeSet<u64>,
    /// Those that get the log and do not vote.
    pub learners: BTreeSet<u64>,
    /// A change of the voters is half done.
    pub is_joint: bool,
    /// Those that lack at most a round trip's worth of the log.
    pub caught_up: BTreeSet<u64>,
    /// Those that answered within the longest election timeout, this node
    /// included. Short: a change is made over who lives now.
    pub alive: BTreeSet<u64>,
    /// Those that have not answered for seconds, since this node leads: for
    /// people, who need no word of every hiccup.
    pub lost: BTreeSet<u64>,
    /// This node, which leads.
    pub leader: u64,
    /// Node names of all of them.
    pub names: BTreeMap<u64, String>,
}

/// One step from a membership to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipChange {
    /// Somebody new gets the log.
    AddLearner {
        /// Its Raft id, never used before.
        raft_id: u64,
        /// Its node name.
        name: String,
        /// Its peer listener, as `host:port`.
        peer_addr: String,
        /// Identity of its data directory.
        dir_id: String,
    },
    /// These vote from now on, all of them members; who did and is not named
    /// is a member no more. In the middle of such a change: ends it.
    SetVoters(BTreeSet<u64>),
    /// Somebody who does not vote is a member no more.
    RemoveLearner(u64),
}

impl Handle {
    /// The members as this node has them. `None` unless it leads.
    pub fn membership(&self) -> Option<Membership> {
        of(self.node())
    }

    /// Carries out one step as the leader of `term`, and of no other. When it
    /// returns, the step is committed.
    ///
    /// # Errors
    /// If this node does not lead that term, another change is under way, or
    /// the step makes no sense; also if it is not committed in time, in which
    /// case it may be later: look at [`membership`](Self::membership).
    pub async fn change_membership(
        &self,
        term: u64,
        change: MembershipChange,
    ) -> Result<(), ChangeError> {
        let members: ChangeMembers<u64, Member> = match change {
            MembershipChange::AddLearner { raft_id, name, peer_addr, dir_id } => {
                let member = Member { name, peer_addr, dir_id };
                ChangeMembers::AddNodes(BTreeMap::from([(raft_id, member)]))
            }
            MembershipChange::SetVoters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            MembershipChange::RemoveLearner(id) => ChangeMembers::RemoveNodes([id].into()),
        };
        let of_term = Precondition::<TypeConfig>::CommittedLeaderId {
            committed_leader_id: CommittedLeaderId::new(term),
        };
        let changed = self.node().raft.change_membership_if(members, false, [of_term]);
        match timeout(CHANGE_TIMEOUT, changed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(ChangeError { reason: error.to_string() }),
            Err(_) => Err(ChangeError { reason: "it was not committed in time".to_owned() }),
        }
    }
}

fn of(node: &Node) -> Option<Membership> {
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let replication = metrics.replication.as_ref()?;
    let heard = metrics.heartbeat.as_ref()?;
    let membership = metrics.membership_config.membership();
    let configs = membership.get_joint_config();
    let voters: BTreeSet<u64> = configs.last().cloned().unwrap_or_default();
    let last = metrics.last_log_index.unwrap_or_default();
    let is_caught_up = |id: &u64| {
        let matched = replication.get(id).copied().flatten();
        *id == metrics.id || matched.is_some_and(|at| at.index + LAG_MAX >= last)
    };
    let silence_max = Duration::from_millis(node.config.election_ms_max);
    let is_heard = |id: &u64, within: Duration| {
        let answered = heard.get(id).copied().flatten();
        *id == metrics.id || answered.is_some_and(|at| at.elapsed() < within)
    };
    // A new leader has heard nobody yet.
    let clock = *node.clock.lock().expect("no panic while held");
    let held_ms = clock.map_or(0, |(_, clock)| clock.held_ms(Readings::now()));
    let listened = Duration::from_millis(held_ms) > LOST_AFTER;
    let ids = || membership.nodes().map(|(id, _)| *id);
    Some(Membership {
        learners: membership.learner_ids().collect(),
        is_joint: configs.len() > 1,
        caught_up: ids().filter(is_caught_up).collect(),
        alive: ids().filter(|id| is_heard(id, silence_max)).collect(),
        lost: ids().filter(|id| listened && !is_heard(id, LOST_AFTER)).collect(),
        leader: metrics.id,
        names: membership.nodes().map(|(id, member)| (*id, member.name.clone())).collect(),
        voters,
    })
}
