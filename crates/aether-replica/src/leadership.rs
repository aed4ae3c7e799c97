//! Who leads, whether that leader may act, and the clock it stamps with.

use std::sync::Arc;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;

use crate::clock::{LogClock, Readings};
use crate::node::Node;
use crate::state::Progress;

/// The leader and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaderInfo {
    /// Its Raft id.
    pub raft_id: u64,
    /// Its node name.
    pub name: String,
    /// Its peer listener, as `host:port`.
    pub peer_addr: String,
}

/// Who leads, as this node sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<Arc<LeaderInfo>>,
    /// The present term.
    pub term: u64,
    /// Whether this node is the leader.
    pub is_leader: bool,
    /// Whether this node is the leader and has applied everything that earlier
    /// leaders committed, and an entry of its own. Only then does it propose.
    pub ready: bool,
    /// Index of the first entry of this term that this node applied; 0 before.
    pub since_index: u64,
}

/// Follows openraft's view until openraft stops.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut server = node.raft.server_metrics();
    let mut progress = node.progress.detail.subscribe();
    // Term, and the log's end when this node was first seen to lead it.
    let mut lead: Option<(u64, u64)> = None;
    loop {
        let seen = {
            let server = server.borrow_watched();
            Seen {
                term: server.vote.leader_id.term,
                is_leader: server.state == ServerState::Leader,
                leader: server.current_leader,
            }
        };
        let at = *progress.borrow_and_update();
        if !seen.is_leader {
            lead = None;
        } else if lead.is_none_or(|(term, _)| term != seen.term) {
            lead = Some((seen.term, last_log_index(&node)));
        }
        let ready = lead.is_some_and(|(_, end)| at.at.term == seen.term && at.at.index >= end);
        update(&node, &seen, ready, at);
        let waiting_to_be_ready = seen.is_leader && !ready;
        let term_start_unknown = at.at.term != seen.term;
        tokio::select! {
            biased;
            changed = WatchReceiver::changed(&mut server) => if changed.is_err() { return },
            changed = progress.changed(), if waiting_to_be_ready || term_start_unknown => {
                if changed.is_err() { return }
            }
        }
    }
}

struct Seen {
    term: u64,
    is_leader: bool,
    leader: Option<u64>,
}

fn last_log_index(node: &Node) -> u64 {
    let stores = node.stores.lock().expect("no panic while held");
    let last = stores.as_ref().and_then(|s| s.log.bounds().1);
    last.map_or(0, |id| id.index)
}

fn update(node: &Node, seen: &Seen, ready: bool, progress: Progress) {
    {
        let mut clock = node.clock.lock().expect("no panic while held");
        if !ready {
            *clock = None;
        } else if clock.is_none_or(|(term, _)| term != seen.term) {
            let (log_ms, wall_ms) = (progress.at.log_time_ms, progress.at.wall_ms);
            *clock = Some((seen.term, LogClock::take_over(log_ms, wall_ms, Readings::now())));
        }
    }
    let leader = seen.leader.and_then(|id| {
        let member = node.member(id)?;
        Some(Arc::new(node.leader_info(id, &member)))
    });
    if leader.is_some() {
        node.elections.saw(seen.term);
    }
    let since_index = if progress.at.term == seen.term { progress.term_start_index } else { 0 };
    let now = Leadership { leader, term: seen.term, is_leader: seen.is_leader, ready, since_index };
    node.leadership.send_if_modified(|before| {
        let changed = *before != now;
        if changed && (before.leader != now.leader || before.ready != now.ready) {
            let leader = now.leader.as_ref().map_or("nobody", |l| &l.name);
            tracing::info!(node = node.identity.node, leader, term = now.term, ready, "leadership");
        }
        *before = now;
        changed
    });
}

/// Reports openraft's end, unless this node asked for it.
pub(crate) async fn watch_fatal(node: Arc<Node>) {
    let mut metrics = node.raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        if let Err(fatal) = state {
            if !Node::stopped(&fatal) {
                let dir = node.config.data_dir.display();
                node.fail(match node.progress.unsupported.get() {
                    // Its disk is well.
                    Some(reason) => reason.clone(),
                    None => format!(
                        "consensus has stopped: {fatal}; its files are in {dir}: see to the disk, \
                         then start this node again"
                    ),
                });
            }
            return;
        }
        if WatchReceiver::changed(&mut metrics).await.is_err() {
            return;
        }
    }
}
