//! The peer service: what other voters call on this node.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::raft as pb;
use aether_proto::raft::raft_server::Raft as RaftRpc;
use futures::{Stream, StreamExt};
use openraft::Snapshot;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{StreamAppendError, StreamAppendResult};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use crate::forward;
use crate::node::Node;
use crate::peers::check_route;
use crate::report;
use crate::rounds;
use crate::transfer::{Announced, Name, Received};
use crate::types::{TypeConfig, Vote};
use crate::wire;

/// For the reads of another node, which waits as long for its answer.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a sender of a snapshot may take to say which.
const START_MAX: Duration = Duration::from_secs(10);

/// Serves `aether.raft.v1.Raft` for one replica.
#[derive(Clone)]
pub struct PeerService {
    node: Arc<Node>,
}

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PeerService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        PeerService { node }
    }

    fn checked<T>(&self, request: Request<T>) -> Result<T, Status> {
        check_route(request.metadata(), &self.node.identity)?;
        if self.node.restored().is_some_and(|restored| !restored.has_met()) {
            let me = &self.node.identity.node;
            return Err(Status::unavailable(format!(
                "{me} was restored from a backup, and has yet to meet the other founding voters"
            )));
        }
        Ok(request.into_inner())
    }

    /// Refuses a ballot that no voter of this cluster can have cast.
    fn check_ballot(&self, ballot: Option<&pb::Ballot>) -> Result<(), Status> {
        wire::check_candidate(ballot, self.node.identity.raft_id)?;
        wire::check_step(ballot, self.node.raft.metrics().borrow_watched().current_term)
    }

    /// To a candidate that is not to be helped: see [`crate::lease`].
    fn refusal(&self) -> pb::VoteResponse {
        let own = self.node.raft.metrics().borrow_watched().vote;
        pb::VoteResponse { ballot: Some(wire::vote_out(&own)), granted: false, last: None }
    }
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the replica has stopped: {error}"))
}

/// A leader that is not refused shows that it is there.
fn note_leader(node: &Node, answer: &StreamAppendResult<TypeConfig>) {
    if !matches!(answer, Err(StreamAppendError::HigherVote(_))) {
        node.heard_leader();
    }
}

/// Verifies and installs a snapshot; gives this node's ballot. The turn of its
/// transfer ends with that.
async fn install(node: Arc<Node>, vote: Vote, received: Received) -> Result<Vote, Status> {
    let (snapshot, turn) = received.verify().await?;
    let path = snapshot.path.clone();
    let snapshot = Snapshot { meta: snapshot.position.meta(), snapshot };
    let answer = node.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
    turn.end(&path);
    Ok(answer.vote)
}

#[tonic::async_trait]
impl RaftRpc for PeerService {
    type AppendStream = Outbound<pb::AppendResponse>;
    type ForwardStream = Outbound<pb::ForwardResponse>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let inbound = self.checked(request)?;
        // A message that makes no sense ends the stream; openraft backs off.
        let service = self.clone();
        let near = move |request: pb::AppendRequest| {
            service.check_ballot(request.ballot.as_ref())?;
            wire::append_in(request)
        };
        let requests = inbound.map(move |r| r.and_then(&near)).scan((), |(), request| {
            let usable = request.inspect_err(|status| {
                tracing::debug!(%status, "a replication stream has ended");
            });
            futures::future::ready(usable.ok())
        });
        let answers = self.node.raft.stream_append(requests);
        let node = self.node.clone();
        let answers = answers.map(move |answer| {
            let answer = answer.map_err(stopped)?;
            note_leader(&node, &answer);
            Ok(wire::appended_out(answer))
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<pb::AppendRequest>,
    ) -> Result<Response<pb::AppendResponse>, Status> {
        let request = self.checked(request)?;
        self.check_ballot(request.ballot.as_ref())?;
        let request = wire::append_in(request)?;
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|e| e.log_id).or(previous);
        let answer = self.node.raft.append_entries(request).await.map_err(stopped)?;
        let answer = answer.into_stream_result(previous, last);
        note_leader(&self.node, &answer);
        Ok(Response::new(wire::appended_out(answer)))
    }

    async fn pre_vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.checked(request)?;
        self.check_ballot(request.ballot.as_ref())?;
        let request = wire::vote_request_in(request)?;
        if self.node.is_bound() {
            return Ok(Response::new(self.refusal()));
        }
        let answer = self.node.raft.pre_vote(request).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_out(answer)))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        let request = self.checked(request)?;
        self.check_ballot(request.ballot.as_ref())?;
        let request = wire::vote_request_in(request)?;
        // The leader itself wants this one.
        if !request.leadership_transfer && self.node.is_bound() {
            return Ok(Response::new(self.refusal()));
        }
        let answer = self.node.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_out(answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let mut chunks = self.checked(request)?;
        let first = timeout(START_MAX, chunks.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no start came"))??;
        let start = first.and_then(|chunk| chunk.start);
        let start = start.ok_or_else(|| Status::invalid_argument("the start is missing"))?;
        self.check_ballot(start.ballot.as_ref())?;
        let announced = Announced::from_wire(&start)?;
        let vote = wire::vote_in(start.ballot)?;
        let term = vote.leader_id.term;
        let node = self.node.clone();
        // In a task of its own: a sender that leaves does not break off in the
        // middle of a chunk, and what came whole is installed.
        let answer = tokio::spawn(async move {
            let received = node.incoming.receive(term, announced, chunks).await?;
            install(node, vote, received).await
        });
        let vote = answer.await.map_err(|panic| Status::internal(panic.to_string()))??;
        Ok(Response::new(pb::SnapshotResponse { ballot: Some(wire::vote_out(&vote)) }))
    }

    async fn snapshot_kept(
        &self,
        request: Request<pb::SnapshotOffer>,
    ) -> Result<Response<pb::SnapshotPart>, Status> {
        let offer = self.checked(request)?;
        self.check_ballot(offer.ballot.as_ref())?;
        let asking = wire::vote_in(offer.ballot)?;
        let name = offer.name.as_ref();
        let name = name.ok_or_else(|| Status::invalid_argument("the name is missing"))?;
        let name = Name::from_wire(name)?;
        let own = self.node.raft.metrics().borrow_watched().vote;
        let bytes = match own.leader_id.term > asking.leader_id.term {
            // Nothing is taken from it any more.
            true => 0,
            false => self.node.incoming.kept(asking.leader_id.term, name).await?,
        };
        Ok(Response::new(pb::SnapshotPart { ballot: Some(wire::vote_out(&own)), bytes }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        let request = self.checked(request)?;
        self.check_ballot(request.from.as_ref())?;
        let request = wire::transfer_in(request)?;
        let answer = self.node.raft.handle_transfer_leader(request).await.map_err(stopped)?;
        let refused = match answer {
            Ok(()) => String::new(),
            Err(reason) => {
                serde_json::to_string(&reason).map_err(|e| Status::internal(e.to_string()))?
            }
        };
        Ok(Response::new(pb::TransferLeaderResponse { refused }))
    }

    async fn forward(
        &self,
        request: Request<Streaming<pb::ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let inbound = self.checked(request)?;
        Ok(Response::new(forward::serve(self.node.clone(), inbound).boxed()))
    }

    async fn read_index(
        &self,
        request: Request<pb::ReadIndexRequest>,
    ) -> Result<Response<pb::ReadIndexResponse>, Status> {
        let pb::ReadIndexRequest { ballot, voter } = self.checked(request)?;
        // Never on to another node: two that take each other for the leader
        // would play ball.
        if !self.node.leader().is_leader {
            let me = &self.node.identity.node;
            return Err(Status::unavailable(format!("{me} is not the leader")));
        }
        if let Some(ballot) = ballot {
            let vote = wire::vote_in(Some(ballot))?;
            let index = rounds::confirmed_by(&self.node, voter, vote).await;
            if let Some(index) = index.map_err(Status::unavailable)? {
                return Ok(Response::new(pb::ReadIndexResponse { index }));
            }
        }
        let index = timeout(READ_TIMEOUT, self.node.confirmations.index()).await;
        let index = index.map_err(|_| Status::deadline_exceeded("the voters did not answer"))?;
        let index = index.map_err(Status::unavailable)?;
        Ok(Response::new(pb::ReadIndexResponse { index }))
    }

    async fn report(
        &self,
        request: Request<pb::ReportRequest>,
    ) -> Result<Response<pb::ReportResponse>, Status> {
        self.checked(request)?;
        Ok(Response::new(report::to_wire(report::of(&self.node))))
    }

    async fn identify(
        &self,
        request: Request<pb::IdentifyRequest>,
    ) -> Result<Response<pb::IdentifyResponse>, Status> {
        let request = request.into_inner();
        let me = &self.node.identity;
        if request.cluster != me.cluster {
            return Err(Status::failed_precondition(format!(
                "{} belongs to cluster {:?}, the caller to {:?}",
                me.node, me.cluster, request.cluster
            )));
        }
        let (members, members_at) = self.node.members_known();
        let members: Vec<_> = members
            .into_iter()
            .map(|(raft_id, m)| pb::Member {
                raft_id,
                name: m.name,
                peer_addr: m.peer_addr,
                dir_id: m.dir_id,
            })
            .collect();
        Ok(Response::new(pb::IdentifyResponse {
            node: me.node.clone(),
            raft_id: me.raft_id,
            dir_id: me.dir_id.clone(),
            formed: !members.is_empty(),
            members,
            // Whoever is in no committed membership is removed; what this node
            // only wished, or took from a leader that is gone, removes nobody.
            members_at: members_at.unwrap_or(0),
            restored: self.node.restored().map(|restored| restored.to_wire()),
        }))
    }
}
