//! Changes of who votes, from when they are asked for until they are done.
//!
//! Who votes is in the membership entries of the log. What is here is what is
//! wanted: the leader brings the membership there, one step after the other,
//! and the next leader goes on with whatever step is due.

use serde::{Deserialize, Serialize};

use crate::ids::NodeName;

/// Raft ids of voters that join are above this: the founding ones have their
/// places in the founding list, from 1.
pub const RAFT_ID_BASE: u64 = 1_000;

/// Changes at a time: more than any sensible cluster has voters.
pub const VOTER_CHANGES_MAX: usize = 16;

/// `voter-change/{node}`: a voter that is to come, or to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VoterChange {
    /// The node.
    pub node: NodeName,
    /// What is wanted of it.
    #[serde(flatten)]
    pub wanted: VoterWanted,
    /// Log time since which it is wanted.
    pub since_ms: u64,
    /// Index of the entry that wrote this.
    pub modified: u64,
}

/// What is wanted of a voter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "wanted", rename_all = "SCREAMING_SNAKE_CASE", rename_all_fields = "camelCase")]
pub enum VoterWanted {
    /// That it comes. It is invited, and asks to be admitted when it starts.
    Join {
        /// Its peer listener, as `host:port`.
        peer_addr: String,
        /// Raft id of the voter that goes when this one votes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<u64>,
        /// Who it is, once it has asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        admitted: Option<Admitted>,
    },
    /// That it goes.
    #[serde(rename_all = "camelCase")]
    Leave {
        /// Its Raft id.
        raft_id: u64,
    },
}

/// A node that asked to vote, and may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Admitted {
    /// Identity of its data directory: the id is for this one, and no other.
    pub dir_id: String,
    /// Its Raft id: [`RAFT_ID_BASE`] plus the index of the entry that admitted
    /// it, so that no id is ever given twice.
    pub raft_id: u64,
    /// The highest feature level that it says it supports.
    #[serde(default = "crate::level::first", skip_serializing_if = "crate::level::is_first")]
    pub feature_level: u32,
}
