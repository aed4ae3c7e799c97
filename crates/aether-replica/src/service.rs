//! The peer service: what other voters call on this node.

use std::fs::File;
use std::io::{self, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::raft as pb;
use aether_proto::raft::raft_server::Raft as RaftRpc;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::Snapshot;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{StreamAppendError, StreamAppendResult};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::forward;
use crate::node::Node;
use crate::peers::check_route;
use crate::report;
use crate::snapshot::SnapshotFile;
use crate::types::TypeConfig;
use crate::wire;

/// A round to the quorum for a follower's reads.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a sender of a snapshot may be silent: it reads from its own disk.
const CHUNK_MAX: Duration = Duration::from_secs(10);

/// Serves `aether.raft.v1.Raft` for one replica.
#[derive(Clone)]
pub struct PeerService {
    node: Arc<Node>,
    /// One snapshot is received at a time: there is one leader.
    receiving: Arc<Semaphore>,
}

type Outbound<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl PeerService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        PeerService { node, receiving: Arc::new(Semaphore::new(1)) }
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
        let answer = self.node.raft.vote(request).await.map_err(stopped)?;
        Ok(Response::new(wire::vote_response_out(answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotChunk>>,
    ) -> Result<Response<pb::SnapshotResponse>, Status> {
        let mut chunks = self.checked(request)?;
        let Ok(_place) = self.receiving.try_acquire() else {
            return Err(Status::resource_exhausted("another snapshot is being received"));
        };
        let first = next_chunk(&mut chunks).await?.and_then(|chunk| chunk.start);
        let start = first.ok_or_else(|| Status::invalid_argument("the start is missing"))?;
        self.check_ballot(start.ballot.as_ref())?;
        let vote = wire::vote_in(start.ballot)?;
        let snapshot = receive(&self.node, chunks, start.bytes).await?;
        let meta = snapshot.position.meta();
        let snapshot = Snapshot { meta, snapshot };
        let answer = self.node.raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        let ballot = Some(wire::vote_out(&answer.vote));
        Ok(Response::new(pb::SnapshotResponse { ballot }))
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
        self.checked(request)?;
        // Never on to another node: two that take each other for the leader
        // would play ball.
        if !self.node.leader().is_leader {
            let me = &self.node.identity.node;
            return Err(Status::unavailable(format!("{me} is not the leader")));
        }
        let index = self.node.read_index_here(READ_TIMEOUT).await.map_err(Status::unavailable)?;
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
        let members = self.node.members();
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
            members_at: self.node.members_at(),
            restored: self.node.restored().map(|restored| restored.to_wire()),
        }))
    }
}

/// The next piece of a snapshot. Whoever stops sending keeps nobody else out.
async fn next_chunk(
    chunks: &mut Streaming<pb::SnapshotChunk>,
) -> Result<Option<pb::SnapshotChunk>, Status> {
    let stalled = |_| Status::deadline_exceeded(format!("no chunk came for {CHUNK_MAX:?}"));
    tokio::time::timeout(CHUNK_MAX, chunks.message()).await.map_err(stalled)?
}

/// Receives a snapshot file and verifies it. It is not in place yet.
async fn receive(
    node: &Node,
    mut chunks: Streaming<pb::SnapshotChunk>,
    bytes: u64,
) -> Result<SnapshotFile, Status> {
    let disk = |e: io::Error| {
        let text = format!("a snapshot can't be received: {e}");
        match e.kind() {
            // It is what was sent that is wrong.
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => Status::data_loss(text),
            _ => Status::internal(text),
        }
    };
    let (path, mut file) = node.snapshots.create_tmp().map_err(disk)?;
    let mut unfinished = RemoveUnlessKept { path: Some(path.clone()) };
    let mut received = 0;
    while let Some(chunk) = next_chunk(&mut chunks).await? {
        received += chunk.data.len() as u64;
        if received > bytes {
            return Err(Status::invalid_argument("the snapshot is longer than announced"));
        }
        file = write_chunk(file, chunk.data).await.map_err(disk)?;
    }
    if received != bytes {
        let text = format!("the snapshot ended after {received} of {bytes} bytes");
        return Err(Status::data_loss(text));
    }
    let snapshots = node.snapshots.clone();
    let verified = tokio::task::spawn_blocking(move || {
        file.sync_all()?;
        snapshots.open_received(&path)
    });
    let snapshot = verified.await.map_err(|e| Status::internal(e.to_string()))?.map_err(disk)?;
    unfinished.path = None;
    Ok(snapshot)
}

async fn write_chunk(mut file: File, data: Bytes) -> io::Result<File> {
    let written = tokio::task::spawn_blocking(move || {
        file.write_all(&data)?;
        Ok(file)
    });
    written.await.map_err(io::Error::other)?
}

/// Removes a file that was not received completely.
struct RemoveUnlessKept {
    path: Option<std::path::PathBuf>,
}

impl Drop for RemoveUnlessKept {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What stays is removed at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}
