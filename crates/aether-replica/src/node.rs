//! One running replica: what its tasks, its peer service and its handles share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::raft as pb;
use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal};
use openraft::impls::ProgressResponder;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tonic::Request;

use crate::clock::{LogClock, Readings};
use crate::config::Config;
use crate::data_dir::{DataDir, Identity};
use crate::forward::Links;
use crate::image::Image;
use crate::leadership::{LeaderInfo, Leadership};
use crate::lease::Lease;
use crate::log_store::LogStore;
use crate::peers::{Lane, Peers};
use crate::reads::ReadHub;
use crate::refound::Restored;
use crate::report::Elections;
use crate::rounds::Rounds;
use crate::snapshot::SnapshotDir;
use crate::space::{DiskStatus, Refusal};
use crate::state::Progresses;
use crate::transfer::Incoming;
use crate::types::{Command, CommittedLeaderId, Member, Raft};
use crate::{watch, wire};

/// A committed and applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Index of its entry.
    pub index: u64,
    /// What the machine answered.
    pub response: Bytes,
}

/// Why one attempt to propose has no result.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Not in the log, and it won't be: may be tried again.
    NotDone(String),
    /// Not in the log, and trying again is useless.
    Stopped(String),
    /// Not in the log, and trying again is useless until there is space.
    NoSpace(String),
    Unknown(String),
}

/// What keeps the data directory in use.
pub(crate) struct Stores {
    pub log: LogStore,
    pub data: DataDir,
}

pub(crate) struct Node {
    pub config: Config,
    pub identity: Identity,
    pub raft: Raft,
    pub peers: Arc<Peers>,
    pub progress: Arc<Progresses>,
    pub snapshots: Arc<SnapshotDir>,
    pub incoming: Arc<Incoming>,
    pub image: Arc<Image>,
    pub leadership: watch::Sender<Leadership>,
    /// The log clock of a leadership of this node, with its term.
    pub clock: Mutex<Option<(u64, LogClock)>>,
    /// When a leader of the present term was last heard of.
    pub leader_heard: Mutex<Option<Instant>>,
    /// Until when it helps nobody into office (see [`crate::lease`]).
    pub bound_until: Option<Instant>,
    /// What it may count on as the leader.
    pub lease: Arc<Lease>,
    pub fatal: watch::Sender<Option<String>>,
    /// Space left to this node's files.
    pub disk: Mutex<DiskStatus>,
    /// Whether it takes proposals as the leader.
    pub refusal: Refusal,
    pub elections: Elections,
    /// From what this node was restored, if it was, and whom it has met.
    pub restored: Mutex<Option<Restored>>,
    /// Places for proposals of this node's callers.
    pub proposals: Semaphore,
    pub links: Links,
    /// Readers here, while somebody else leads.
    pub reads: ReadHub,
    /// Readers here and at the others, while this node leads.
    pub confirmations: ReadHub,
    pub rounds: Rounds,
    /// Gone after the shutdown.
    pub stores: Mutex<Option<Stores>>,
}

impl Node {
    /// Reports why this node can't go on. The first reason stays.
    pub fn fail(&self, reason: String) {
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                tracing::error!(reason, "the replica can't go on");
                *fatal = Some(reason);
            }
            first
        });
    }

    /// Whether this node was shut down.
    pub fn is_closed(&self) -> bool {
        self.stores.lock().expect("no panic while held").is_none()
    }

    pub fn restored(&self) -> Option<Restored> {
        self.restored.lock().expect("no panic while held").clone()
    }

    pub fn leader(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Notes that a message of the present leader was accepted.
    pub fn heard_leader(&self) {
        *self.leader_heard.lock().expect("no panic while held") = Some(Instant::now());
    }

    /// Whether nobody else votes, as far as it knows.
    pub fn is_only_voter(&self) -> bool {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let voters = metrics.membership_config.membership().voter_ids();
        voters.eq([self.identity.raft_id])
    }

    /// Whether it has promised not to help anybody into office.
    pub fn is_bound(&self) -> bool {
        self.bound_until.is_some_and(|until| Instant::now() < until)
    }

    /// Whether the leader, another node, was heard of within the time that a
    /// follower waits for it. Openraft goes on naming one that is gone until
    /// there is another.
    pub fn hears_leader(&self) -> bool {
        let silence_max = Duration::from_millis(2 * self.config.election_ms_max);
        let heard = *self.leader_heard.lock().expect("no panic while held");
        heard.is_some_and(|at| at.elapsed() < silence_max)
    }

    /// A member of the present membership, by id.
    pub fn member(&self, id: u64) -> Option<Member> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.membership().get_node(&id).cloned()
    }

    /// All members: id, and who it is.
    pub fn members(&self) -> Vec<(u64, Member)> {
        self.members_known().0
    }

    /// All members, and the log index of the entry that says so, if that is known
    /// to be committed. Until then another may take its place.
    pub fn members_known(&self) -> (Vec<(u64, Member)>, Option<u64>) {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let (now, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
        let members = now.membership().nodes().map(|(id, member)| (*id, member.clone()));
        let at = now.log_id().filter(|_| now.log_id() == committed.log_id());
        (members.collect(), at.map(|id| id.index))
    }

    /// Log index of the membership entry that [`members`](Self::members) is from.
    pub fn members_at(&self) -> u64 {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.log_id().map_or(0, |id| id.index)
    }

    pub fn clock_of(&self, term: u64) -> Option<LogClock> {
        let clock = self.clock.lock().expect("no panic while held");
        clock.filter(|(of, _)| *of == term).map(|(_, clock)| clock)
    }

    /// Proposes on this node as the leader of `term`; gives up at `deadline`.
    pub async fn propose_here(
        &self,
        term: u64,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Applied, Attempt> {
        // Without a place in line by then, it was dropped on this side of the log.
        let in_line = timeout_at(deadline, self.submit_here(term, body)).await;
        let submitted = in_line.unwrap_or_else(|_| {
            Err(Attempt::NotDone("too many proposals wait for the log".to_owned()))
        })?;
        let outcome = timeout_at(deadline, submitted.outcome()).await;
        outcome.unwrap_or_else(|_| Err(Attempt::Unknown("it was not committed in time".to_owned())))
    }

    /// The first half of [`propose_here`](Self::propose_here): when it returns,
    /// the proposal has its place in line.
    pub async fn submit_here(&self, term: u64, body: Bytes) -> Result<Submitted, Attempt> {
        let Some(clock) = self.clock_of(term) else {
            return Err(Attempt::NotDone(format!("this node doesn't lead term {term}")));
        };
        self.refusal.check()?;
        let now = Readings::now();
        let command = Command { log_time_ms: clock.at(now), wall_ms: now.wall_ms, body };
        let (responder, answer) = ProgressResponder::complete_only();
        self.raft
            .write(command)
            .with_leader(CommittedLeaderId::new(term))
            .responder(responder)
            .await
            .map_err(|fatal| Attempt::Stopped(fatal.to_string()))?;
        Ok(Submitted(answer))
    }

    /// One attempt at the index that a linearizable read has to wait for.
    pub async fn read_index(&self) -> Result<u64, String> {
        #[cfg(test)]
        if crate::sim::planted(crate::sim::Bug::UnconfirmedReads) {
            return Ok(*self.progress.index.borrow());
        }
        let leads = self.leadership.borrow().is_leader;
        if leads { self.confirmations.index().await } else { self.reads.index().await }
    }

    /// The same, from the leader, another node.
    pub async fn index_of_leader(&self, timeout: Duration) -> Result<u64, String> {
        let leader = self.leader().leader.ok_or("there is no leader")?;
        let member = self.member(leader.raft_id).ok_or("the leader is no member")?;
        let mut client = self.peers.client(leader.raft_id, &member, Lane::Shared)?;
        // After the readers have come, for it speaks for them.
        let vote = self.raft.with_raft_state(|state| *state.vote_ref()).await;
        let vote = vote.map_err(|fatal| format!("the replica has stopped: {fatal}"))?;
        let (ballot, voter) = (Some(wire::vote_out(&vote)), self.identity.raft_id);
        let mut request = Request::new(pb::ReadIndexRequest { ballot, voter });
        request.set_timeout(timeout);
        let response = client.read_index(request).await;
        response.map(|r| r.into_inner().index).map_err(|s| format!("leader: {}", s.message()))
    }

    pub fn leader_info(&self, id: u64, member: &Member) -> LeaderInfo {
        LeaderInfo {
            raft_id: id,
            name: member.name.clone(),
            peer_addr: self.peers.address(member).to_owned(),
        }
    }

    pub fn stopped(fatal: &Fatal<crate::types::TypeConfig>) -> bool {
        matches!(fatal, Fatal::Stopped)
    }
}

/// A proposal in line for the log.
pub(crate) struct Submitted(
    openraft::alias::OneshotReceiverOf<
        crate::types::TypeConfig,
        openraft::raft::ClientWriteResult<crate::types::TypeConfig>,
    >,
);

impl Submitted {
    pub async fn outcome(self) -> Result<Applied, Attempt> {
        match self.0.await {
            Ok(Ok(done)) => Ok(Applied { index: done.log_id.index, response: done.data }),
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                Err(Attempt::NotDone(format!("the leadership moved ({:?})", to.reason)))
            }
            Ok(Err(error)) => Err(Attempt::Unknown(error.to_string())),
            Err(_) => Err(Attempt::Unknown("the replica stopped".to_owned())),
        }
    }
}
