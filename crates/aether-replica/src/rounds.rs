//! How a leader makes sure that it still is one: it asks the other voters
//! (ReadIndex, section 6.4 of Ongaro's thesis).
//!
//! Openraft has such rounds too, and counts the answers to entries as well. There
//! it takes an answer for one to everything up to the same log index, also to a
//! request without entries that was sent after it: answers that were under way for
//! long, and that a leader hears when there is another one already, seem to be new.
//! So these rounds are apart from the log, and an answer counts for its own request
//! only. What is asked is a heartbeat, which a voter accepts as long as it has not
//! voted in a later term. A voter that asks for its own readers says so unasked, and
//! of three voters these two are enough.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ServerState;
use openraft::raft::AppendEntriesRequest;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use tonic::Request;

use crate::lease::{Lease, Office};
use crate::node::Node;
use crate::peers::{Client, Lane};
use crate::types::{StoredMembership, TypeConfig, Vote};
use crate::wire;

/// Calls to one voter that may be under way at once: those of rounds that others
/// have decided go on until they are answered, for breaking off a call is not free.
const CALLS_MAX: usize = 4;

/// What all rounds of a node share.
#[derive(Default)]
pub(crate) struct Rounds {
    /// Places for calls to each voter.
    places: Mutex<BTreeMap<u64, Arc<Semaphore>>>,
    confirmed: AtomicU64,
    voiced: AtomicU64,
    leased: AtomicU64,
}

impl Rounds {
    fn places(&self, voter: u64) -> Arc<Semaphore> {
        let mut places = self.places.lock().expect("no panic while held");
        places.entry(voter).or_insert_with(|| Arc::new(Semaphore::new(CALLS_MAX))).clone()
    }

    /// Rounds that a majority has answered, since the start.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Questions of others that brought the voice that was lacking, since the start.
    pub fn voiced(&self) -> u64 {
        self.voiced.load(Ordering::Relaxed)
    }

    /// Questions that were answered without a round, by a lease, since the start.
    pub fn leased(&self) -> u64 {
        self.leased.load(Ordering::Relaxed)
    }
}

/// Where this node stands as the leader.
struct Standing {
    vote: Vote,
    /// Everything up to here is committed, and nothing that was shown to anybody
    /// lies beyond it.
    committed: u64,
    membership: Arc<StoredMembership>,
}

impl Standing {
    fn office(&self, me: u64) -> Office {
        Office {
            term: self.vote.leader_id.term,
            membership: *self.membership.log_id(),
            votes: self.membership.voter_ids().any(|id| id == me),
        }
    }
}

/// Asks consensus itself, so that it is neither older nor newer than one moment.
async fn standing(node: &Node) -> Result<Standing, String> {
    let looked = node.raft.with_raft_state(|state| {
        let vote = *state.vote_ref();
        let committed = state.local_committed().max(state.cluster_committed()).copied();
        let leads = state.server_state == ServerState::Leader && vote.committed;
        leads.then(|| (vote, committed, state.membership_state.effective().clone()))
    });
    let looked = looked.await.map_err(|fatal| format!("the replica has stopped: {fatal}"))?;
    let (vote, committed, membership) = looked.ok_or("this node does not lead")?;
    // What earlier leaders have committed is known once an own entry is.
    let own = committed.filter(|at| at.leader_id.term == vote.leader_id.term);
    let own = own.ok_or("this node has only just become the leader")?;
    Ok(Standing { vote, committed: own.index, membership })
}

/// An index up to which everything was committed that anybody had seen before the
/// call. Only a leader has one.
pub(crate) async fn confirm(node: &Node, timeout: Duration) -> Result<u64, String> {
    #[cfg(test)]
    if crate::sim::planted(crate::sim::Bug::RoundsOfOpenraft) {
        return openraft_confirms(node, timeout).await;
    }
    let standing = standing(node).await?;
    let office = standing.office(node.identity.raft_id);
    if node.config.lease_reads && node.lease.holds(office) {
        node.rounds.leased.fetch_add(1, Ordering::Relaxed);
        return Ok(standing.committed);
    }
    // Its heartbeats would keep the others from electing, and openraft, which does not
    // go on with this term, sends none.
    if node.lease.is_handed_over(office.term) {
        return Err("this leader has handed over".to_owned());
    }
    let round = Lease::begin(office);
    ask(node, &standing, Instant::now() + timeout).await?;
    node.lease.confirm(round);
    node.rounds.confirmed.fetch_add(1, Ordering::Relaxed);
    Ok(standing.committed)
}

/// The same without a round, where this node and a voter that asks it are a majority:
/// of three, any two. `vote` is that voter's last, looked at after its readers came;
/// as long as it is the leader's, it has voted in no later term.
pub(crate) async fn confirmed_by(
    node: &Node,
    voter: u64,
    vote: Vote,
) -> Result<Option<u64>, String> {
    let standing = standing(node).await?;
    let accepted = BTreeSet::from([node.identity.raft_id, voter]);
    let is_confirmed =
        vote == standing.vote && is_quorum(standing.membership.get_joint_config(), &accepted);
    if is_confirmed {
        node.rounds.voiced.fetch_add(1, Ordering::Relaxed);
    }
    Ok(is_confirmed.then_some(standing.committed))
}

/// Whether `accepted` holds a majority of each of the configurations.
fn is_quorum(configs: &[BTreeSet<u64>], accepted: &BTreeSet<u64>) -> bool {
    let is_majority =
        |config: &BTreeSet<u64>| config.intersection(accepted).count() > config.len() / 2;
    configs.iter().all(is_majority)
}

/// Asks all voters, until a majority has accepted this leader.
async fn ask(node: &Node, standing: &Standing, deadline: Instant) -> Result<(), String> {
    let configs = standing.membership.get_joint_config();
    let me = node.identity.raft_id;
    let mut accepted = BTreeSet::from([me]);
    if is_quorum(configs, &accepted) {
        return Ok(());
    }
    // See `deaf`: heartbeats would keep the others from electing.
    if node.peers.is_silent() {
        return Err("no majority answers this leader".to_owned());
    }
    let (answers, mut answered) = mpsc::unbounded_channel();
    for voter in standing.membership.voter_ids().filter(|id| *id != me) {
        let Some(member) = standing.membership.get_node(&voter) else { continue };
        // One without an address is one that does not answer.
        let Ok(client) = node.peers.client(voter, member, Lane::Control) else { continue };
        let (places, peers) = (node.rounds.places(voter), node.peers.clone());
        let (answers, vote) = (answers.clone(), standing.vote);
        tokio::spawn(async move {
            let place = tokio::select! {
                biased;
                place = places.acquire_owned() => place,
                // It is decided without this one.
                () = answers.closed() => return,
            };
            if peers.is_silent() {
                return;
            }
            // The deadline of a call counts from when it has a connection.
            let accepts = timeout_at(deadline, accepts(client, vote, deadline)).await;
            drop(place);
            // Nobody listens any more if others were quicker.
            let _ = answers.send((voter, accepts == Ok(true)));
        });
    }
    drop(answers);
    loop {
        match timeout_at(deadline, answered.recv()).await {
            Ok(Some((voter, true))) => {
                accepted.insert(voter);
                if is_quorum(configs, &accepted) {
                    return Ok(());
                }
            }
            Ok(Some((_, false))) => {}
            Ok(None) | Err(_) => return Err("no majority confirms this leader".to_owned()),
        }
    }
}

#[cfg(test)]
async fn openraft_confirms(node: &Node, timeout: Duration) -> Result<u64, String> {
    let option = openraft::LinearizerOption::from(openraft::ReadPolicy::ReadIndex);
    let linearizer = node.raft.get_read_linearizer(option.with_wait_timeout(timeout)).await;
    linearizer.map(|it| it.read_log_id().index()).map_err(|error| error.to_string())
}

/// Whether a voter takes the owner of this ballot for the leader.
async fn accepts(mut client: Client, vote: Vote, deadline: Instant) -> bool {
    let nothing = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let mut request = Request::new(wire::append_out(nothing));
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    let answer = client.heartbeat(request).await;
    let answer = answer.and_then(|answer| wire::appended_in(answer.into_inner()));
    matches!(answer, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_is_a_majority_of_both_sides_of_a_change() {
        let set = |ids: &[u64]| ids.iter().copied().collect::<BTreeSet<u64>>();
        let old = [set(&[1, 2, 3])];
        assert!(!is_quorum(&old, &set(&[1])) && is_quorum(&old, &set(&[1, 3])));
        assert!(!is_quorum(&old, &set(&[1, 4, 5])), "others do not count");
        let both = [set(&[1, 2, 3]), set(&[3, 4, 5, 6])];
        assert!(!is_quorum(&both, &set(&[1, 2, 3, 4])));
        assert!(is_quorum(&both, &set(&[1, 3, 4, 5])));
        assert!(is_quorum(&[set(&[1])], &set(&[1])));
        // A leader that is leaving.
        assert!(!is_quorum(&[set(&[2])], &set(&[1])) && is_quorum(&[set(&[2])], &set(&[1, 2])));
    }
}
