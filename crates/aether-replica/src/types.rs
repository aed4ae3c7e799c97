//! The types that openraft is configured with, and short names for them.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use serde::{Deserialize, Serialize};

use crate::state::StateMachine;

/// Largest index that is taken from others: a million entries per second would
/// reach it in 146,000 years, and the next one can still be counted.
pub(crate) const INDEX_MAX: u64 = 1 << 62;

/// What a log entry carries: the machine's bytes and the leader's clocks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub log_time_ms: u64,
    pub wall_ms: u64,
    pub body: Bytes,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {} ms", self.body.len(), self.log_time_ms)
    }
}

/// A voter as the membership remembers it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub name: String,
    pub peer_addr: String,
    /// Identity of the voter's data directory: a node whose directory was
    /// wiped is somebody else, even under the same name and address.
    pub dir_id: String,
}

/// What openraft runs on. Tests may decide its random numbers.
#[cfg(not(test))]
type Runtime = openraft_rt_tokio::TokioRuntime;
#[cfg(test)]
type Runtime = crate::sim::Runtime;

openraft::declare_raft_types!(
    /// Openraft's type parameters. Terms have one leader each (standard Raft).
    pub(crate) TypeConfig:
        D = Command,
        R = Bytes,
        Node = Member,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type Payload = openraft::alias::PayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Member>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

pub(crate) fn term_of(id: &LogId) -> u64 {
    id.leader_id.term
}

pub(crate) fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
    if committed { Vote::new_committed(term, node_id) } else { Vote::new(term, node_id) }
}
