//! What a replica says about itself.

use std::sync::Arc;

use openraft::async_runtime::watch::WatchReceiver;

pub use crate::image::ImageStatus;
use crate::leadership::LeaderInfo;
use crate::node::Node;

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its node name.
    pub name: String,
    /// Its peer listener, as `host:port`.
    pub peer_addr: String,
    /// Identity of its data directory.
    pub dir_id: String,
    /// Whether it votes.
    pub voter: bool,
    /// On the leader: the last index that it is known to hold.
    pub matched: Option<u64>,
}

/// A replica's view of the cluster and of itself. Indices are `None` before
/// there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Name of this node.
    pub name: String,
    /// Its Raft id.
    pub raft_id: u64,
    /// Name of the cluster.
    pub cluster_name: String,
    /// The present term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<Arc<LeaderInfo>>,
    /// Whether this node leads.
    pub is_leader: bool,
    /// Last index that this node applied.
    pub applied: Option<u64>,
    /// Last index that this node knows to be committed.
    pub committed: Option<u64>,
    /// Last index in its log.
    pub last_log: Option<u64>,
    /// Index of its newest durable snapshot.
    pub snapshot: Option<u64>,
    /// Last index that is purged from its log.
    pub purged: Option<u64>,
    /// All members, by id.
    pub members: Vec<MemberStatus>,
    /// Rounds to the voters by which it confirmed reads as the leader, since its
    /// start.
    pub read_rounds: u64,
    /// How often another voter's question spared such a round, since its start.
    pub read_voices: u64,
    /// How often a lease spared it, since its start.
    pub read_leases: u64,
    /// Bytes of its log's files; 0 after the shutdown.
    pub wal_bytes: u64,
    /// Its KV image.
    pub image: ImageStatus,
    /// Why it can't go on, if so.
    pub fatal: Option<String>,
}

pub(crate) fn of(node: &Node) -> Status {
    let leadership = node.leader();
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let members = membership.nodes().map(|(id, member)| MemberStatus {
        raft_id: *id,
        name: member.name.clone(),
        peer_addr: node.peers.address(member).to_owned(),
        dir_id: member.dir_id.clone(),
        voter: membership.voter_ids().any(|voter| voter == *id),
        matched: metrics
            .replication
            .as_ref()
            .and_then(|r| r.get(id).copied().flatten())
            .map(|log_id| log_id.index),
    });
    // Openraft's metrics come a moment after what watchers were shown.
    let published = Some(*node.progress.index.borrow()).filter(|index| *index > 0);
    let stores = node.stores.lock().expect("no panic while held");
    Status {
        name: node.identity.node.clone(),
        raft_id: node.identity.raft_id,
        cluster_name: node.identity.cluster.clone(),
        term: leadership.term,
        leader: leadership.leader,
        is_leader: leadership.is_leader,
        applied: metrics.last_applied.map(|id| id.index).max(published),
        committed: metrics.local_committed.map(|id| id.index).max(published),
        last_log: metrics.last_log_index,
        snapshot: node.snapshots.current().map(|s| s.position.index()),
        purged: metrics.purged.map(|id| id.index),
        members: members.collect(),
        read_rounds: node.rounds.confirmed(),
        read_voices: node.rounds.voiced(),
        read_leases: node.rounds.leased(),
        wal_bytes: stores.as_ref().map_or(0, |s| s.log.bytes()),
        image: node.image.status(),
        fatal: node.fatal.borrow().clone(),
    }
}
