//! What the rest of Aether uses: propose, read, watch.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Channel;

use crate::blocking;
use crate::clock::Readings;
use crate::error::{ProposeError, ReadError, TransferError};
use crate::forward;
use crate::leadership::{LeaderInfo, Leadership};
use crate::node::{Applied, Attempt, Node};
use crate::peers::Lane;
use crate::status::{self, Status};
use crate::watch;

/// Largest command. Keep in mind that every voter syncs it to disk.
pub const COMMAND_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A proposal that is not done is tried again at every change of leadership,
/// and this often in between.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// A former leader that lives has answered what it was sent within this time;
/// of one that hangs, a caller need not wait for more.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A proposal of the coordinator that stays unanswered for so long is unknown.
const PROPOSE_AS_LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a shutdown waits for another leader: for a few times as long as a
/// follower needs, because when all nodes stop at once there is none any more.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a shutdown waits for files to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const CLOSE_POLL: Duration = Duration::from_millis(5);

/// A cheap reference to a replica, valid as long as the process.
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
}

impl Handle {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Handle { node }
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Proposes a command, from any node, and returns once it is committed,
    /// applied on the leader, and applied here too: the caller reads its own
    /// write. If this node falls behind so far that the last part takes longer
    /// than `timeout`, the result is returned all the same.
    ///
    /// # Errors
    /// [`ProposeError::NotDone`] if it provably has no effect, and
    /// [`ProposeError::Unknown`] if that can't be told.
    pub async fn propose(&self, body: Bytes, timeout: Duration) -> Result<Applied, ProposeError> {
        check_size(&body)?;
        if timeout.is_zero() {
            return Err(not_done("there was no time left to try".to_owned()));
        }
        let deadline = Instant::now() + timeout;
        let Ok(Ok(_place)) = timeout_at(deadline, self.node.proposals.acquire()).await else {
            let in_flight = self.node.config.proposals_in_flight_max;
            return Err(not_done(format!("{in_flight} proposals are under way already")));
        };
        let mut leadership = self.node.leadership.subscribe();
        loop {
            let now = leadership.borrow_and_update().clone();
            match self.attempt(&now, body.clone(), deadline).await {
                Ok(applied) => {
                    self.wait_applied(applied.index, deadline).await;
                    return Ok(applied);
                }
                Err(Attempt::Unknown(reason)) => return Err(ProposeError::Unknown { reason }),
                Err(Attempt::Stopped(reason)) => return Err(not_done(reason)),
                Err(Attempt::NoSpace(reason)) => return Err(ProposeError::NoSpace { reason }),
                Err(Attempt::NotDone(reason)) => {
                    let retry_at = (Instant::now() + RETRY_EVERY).min(deadline);
                    // Either way it is time to look again.
                    let _ = timeout_at(retry_at, leadership.changed()).await;
                    if Instant::now() >= deadline {
                        return Err(not_done(reason));
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        leadership: &Leadership,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Applied, Attempt> {
        let node = &self.node;
        if leadership.is_leader {
            if !leadership.ready {
                return Err(Attempt::NotDone("this node has only just become the leader".into()));
            }
            return node.propose_here(leadership.term, body, deadline).await;
        }
        let Some(leader) = &leadership.leader else {
            return Err(Attempt::NotDone("there is no leader".to_owned()));
        };
        // It could no longer be proved that what is sent to it was not done.
        if !node.hears_leader() {
            return Err(Attempt::NotDone(format!("the leader, {}, is silent", leader.name)));
        }
        let link = node.links.to(leader, || {
            let member = node.member(leader.raft_id);
            Some((Arc::clone(&node.peers), member?))
        });
        let link = link.ok_or_else(|| Attempt::NotDone("the leader is no member".to_owned()))?;
        forward::propose(&link, body, self.given_up(leader.raft_id, deadline)).await
    }

    /// Waits until nothing more is to be expected of `leader`: until the
    /// deadline, or until there has been another leader for a while.
    async fn given_up(&self, leader: u64, deadline: Instant) {
        let mut leadership = self.node.leadership.subscribe();
        let replaced = async {
            let another = leadership
                .wait_for(|now| now.leader.as_ref().is_some_and(|now| now.raft_id != leader));
            // Without a sender the node is gone, and the leader's answers too.
            drop(another.await);
            tokio::time::sleep(LAST_WORDS).await;
        };
        let _ = timeout_at(deadline, replaced).await;
    }

    /// Proposes a command as the leader of `term`, and of no other.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] if this node doesn't lead that term, or no
    /// longer does; otherwise as [`propose`](Self::propose).
    pub async fn propose_as_leader(&self, term: u64, body: Bytes) -> Result<Applied, ProposeError> {
        check_size(&body)?;
        let deadline = Instant::now() + PROPOSE_AS_LEADER_TIMEOUT;
        let Ok(Ok(_place)) = timeout_at(deadline, self.node.proposals.acquire()).await else {
            return Err(not_done("too many proposals are under way".to_owned()));
        };
        let mut leadership = self.node.leadership.subscribe();
        loop {
            match self.node.propose_here(term, body.clone(), deadline).await {
                Ok(applied) => return Ok(applied),
                Err(Attempt::Unknown(reason)) => return Err(ProposeError::Unknown { reason }),
                Err(Attempt::Stopped(reason)) => return Err(not_done(reason)),
                Err(Attempt::NoSpace(reason)) => return Err(ProposeError::NoSpace { reason }),
                Err(Attempt::NotDone(reason)) => {
                    // Right after an election, and when the lease has run out
                    // for a moment, the same leader may go on.
                    let now = leadership.borrow_and_update().clone();
                    if !now.ready || now.term != term {
                        return Err(ProposeError::NotLeader { term });
                    }
                    if Instant::now() >= deadline {
                        return Err(not_done(reason));
                    }
                    let _ = timeout_at(Instant::now() + RETRY_EVERY, leadership.changed()).await;
                }
            }
        }
    }

    /// Waits until this node has applied everything that was acknowledged, on
    /// any node, before this call: a read of the local state is linearizable
    /// then. Returns the index that it waited for.
    ///
    /// # Errors
    /// If no leader confirms its leadership in time, or this node lags.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<u64, ReadError> {
        let deadline = Instant::now() + timeout;
        let failed = |reason: String| ReadError { reason, waited_ms: timeout.as_millis() as u64 };
        let mut leadership = self.node.leadership.subscribe();
        loop {
            leadership.borrow_and_update();
            let reason = match timeout_at(deadline, self.node.read_index()).await {
                Ok(Ok(index)) if self.wait_applied(index, deadline).await => return Ok(index),
                Ok(Ok(index)) => {
                    return Err(failed(format!("this node has not applied {index} yet")));
                }
                Ok(Err(reason)) => reason,
                Err(_) => return Err(failed("the leader did not answer".to_owned())),
            };
            let retry_at = (Instant::now() + RETRY_EVERY).min(deadline);
            let _ = timeout_at(retry_at, leadership.changed()).await;
            if Instant::now() >= deadline {
                return Err(failed(reason));
            }
        }
    }

    /// Whether `index` was applied before the deadline.
    async fn wait_applied(&self, index: u64, deadline: Instant) -> bool {
        if *self.node.progress.index.borrow() >= index {
            return true;
        }
        let mut applied = self.node.progress.index.subscribe();
        let reached = timeout_at(deadline, applied.wait_for(|at| *at >= index)).await;
        matches!(reached, Ok(Ok(_)))
    }

    /// Who leads, now and from now on.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.node.leadership.subscribe()
    }

    /// The last index applied here, now and from now on. By the time that it
    /// shows, the machine has published the state.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.node.progress.index.subscribe()
    }

    /// Present log time in milliseconds, if this node is the leader and ready.
    pub fn now_ms(&self) -> Option<u64> {
        let clock = *self.node.clock.lock().expect("no panic while held");
        clock.map(|(_, clock)| clock.at(Readings::now()))
    }

    /// A connection to the leader's peer listener, for other services that are
    /// mounted there. `None` without a leader. It may be this node itself.
    pub fn leader_channel(&self) -> Option<Channel> {
        let leader = self.node.leader().leader?;
        self.node.peers.channel(&leader.peer_addr, Lane::Shared).ok()
    }

    /// A connection to the peer listener of a member, by its name.
    pub fn peer_channel(&self, name: &str) -> Option<Channel> {
        let members = self.node.members();
        let (_, member) = members.iter().find(|(_, m)| m.name == name)?;
        self.node.peers.channel(self.node.peers.address(member), Lane::Shared).ok()
    }

    /// What this replica says about the cluster and itself.
    pub fn status(&self) -> Status {
        status::of(&self.node)
    }

    /// `Some(reason)` once this replica can't go on: end the process with it.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.node.fatal.subscribe()
    }

    /// Hands over the leadership if this node has it, stops, and closes the
    /// data directory. Everything fails afterwards.
    pub async fn shutdown(&self) {
        // A node that can't go on has nobody who would answer.
        let goes_on = self.node.fatal.borrow().is_none();
        if goes_on && self.node.leader().is_leader {
            // Otherwise the others elect one, or stop as well.
            if let Err(error) = self.transfer_leadership(None).await {
                tracing::info!(%error, "the leadership was not handed over");
            }
        }
        self.stop().await;
    }

    /// Stops and closes the data directory at once, without handing over the
    /// leadership: the others elect a leader when they miss this one.
    pub async fn stop(&self) {
        if let Err(error) = self.node.raft.shutdown().await {
            tracing::warn!(%error, "consensus did not stop cleanly");
        }
        self.node.links.close();
        self.node.proposals.close();
        let image = self.node.image.clone();
        // A panic of sled is in the image's status.
        let _ = blocking::run(move || image.close()).await;
        let stores = self.node.stores.lock().expect("no panic while held").take();
        if let Some(stores) = stores {
            let deadline = Instant::now() + CLOSE_TIMEOUT;
            while stores.log.other_users() > 0 && Instant::now() < deadline {
                tokio::time::sleep(CLOSE_POLL).await;
            }
            // Closing the log waits for its last write.
            let _ = blocking::run(move || {
                drop(stores.log);
                drop(stores.data);
            })
            .await;
        }
    }

    /// Makes another voter the leader, in place of this node: the one of this
    /// name, or else the one that holds most of the log. Gives the new leader.
    ///
    /// # Errors
    /// If this node does not lead, if there is no such voter that was heard of a
    /// moment ago, or if it does not take over in time; then this node may go
    /// on leading, and it can be tried again.
    pub async fn transfer_leadership(&self, to: Option<&str>) -> Result<LeaderInfo, TransferError> {
        let failed = |reason: String| Err(TransferError::NotTaken { reason });
        if !self.node.leader().is_leader {
            return failed("this node does not lead".to_owned());
        }
        let Some(successor) = self.successor(to) else {
            let reason = match to {
                Some(name) => format!("{name} does not answer"),
                None => "no other voter answers".to_owned(),
            };
            return Err(TransferError::NoSuccessor { reason });
        };
        let mut leadership = self.node.leadership.subscribe();
        if let Err(fatal) = self.node.raft.trigger().transfer_leader(successor).await {
            return failed(fatal.to_string());
        }
        let moved = leadership.wait_for(|l| !l.is_leader && l.leader.is_some());
        match timeout(HAND_OVER_TIMEOUT, moved).await {
            Ok(Ok(now)) => Ok((**now.leader.as_ref().expect("it was waited for")).clone()),
            _ => failed("the leadership was not taken over in time".to_owned()),
        }
    }

    /// The voter that holds most of the log, of those that are heard of and
    /// have this name.
    fn successor(&self, name: Option<&str>) -> Option<u64> {
        let metrics = self.node.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.membership().voter_ids().collect();
        let heard = metrics.heartbeat.as_ref()?;
        let lost_after = Duration::from_millis(self.node.config.election_ms_max);
        let alive = |id: &u64| {
            let answered = heard.get(id).copied().flatten();
            answered.is_some_and(|at| at.elapsed() < lost_after)
        };
        let membership = metrics.membership_config.membership();
        let is_named = |id: &u64| {
            name.is_none_or(|name| membership.get_node(id).is_some_and(|m| m.name == name))
        };
        let followers = metrics.replication.as_ref()?.iter();
        followers
            .filter(|(id, _)| **id != metrics.id && voters.contains(*id) && alive(id))
            .filter(|(id, _)| is_named(id))
            .filter(|(_, matched)| matched.is_some())
            .max_by_key(|(_, matched)| **matched)
            .map(|(id, _)| *id)
    }
}

fn check_size(body: &Bytes) -> Result<(), ProposeError> {
    if body.len() > COMMAND_BYTES_MAX {
        return Err(ProposeError::TooLarge { bytes: body.len(), bytes_max: COMMAND_BYTES_MAX });
    }
    Ok(())
}

fn not_done(reason: String) -> ProposeError {
    ProposeError::NotDone { reason }
}
