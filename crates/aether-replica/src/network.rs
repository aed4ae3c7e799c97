//! How openraft talks to the other voters: votes, replication, heartbeats and
//! snapshots over the peer protocol. Every call has a deadline; a replication
//! stream has one for each unanswered request.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::raft as pb;
use futures::{FutureExt, Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2, Snapshot};
use tokio::time::Instant;
use tonic::{Code, Request, Status, Streaming};

use crate::lease::Lease;
use crate::peers::{Client, Lane, Peers};
use crate::snapshot::SnapshotFile;
use crate::transfer::Outgoing;
use crate::types::{Member, TypeConfig, Vote};
use crate::wire;

type Failure = RPCError<TypeConfig>;

/// A replication request that is not answered for this long ends its stream.
/// Generous, because the follower syncs its disk in between; a dead connection
/// is found sooner by its keep-alive.
const UNANSWERED_MAX: Duration = Duration::from_secs(5);
const UNANSWERED_CHECK: Duration = Duration::from_millis(500);
/// How long a commit waits for entries to travel with. A client that writes one
/// value after the other is back with the next in less, on a disk that syncs in
/// less; the timer of tokio has no finer grain.
const COMMIT_HELD: Duration = Duration::from_millis(2);

/// Makes the connections that openraft asks for.
pub(crate) struct Network {
    pub peers: Arc<Peers>,
    pub my_id: u64,
    pub lease: Arc<Lease>,
}

impl Network {
    fn connect(&self, target: u64, node: &Member, kind: Kind) -> PeerNetwork {
        PeerNetwork {
            peers: self.peers.clone(),
            my_id: self.my_id,
            lease: self.lease.clone(),
            target,
            member: node.clone(),
            kind,
            outgoing: Outgoing::default(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerNetwork;

    async fn new_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.connect(target, node, Kind::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Member) -> PeerNetwork {
        self.connect(target, node, Kind::Heartbeat)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Log,
    /// Sends streams of one request: a plain call is cheaper.
    Heartbeat,
}

/// One peer, as openraft sees it.
pub(crate) struct PeerNetwork {
    peers: Arc<Peers>,
    my_id: u64,
    lease: Arc<Lease>,
    target: u64,
    member: Member,
    kind: Kind,
    outgoing: Outgoing,
}

impl PeerNetwork {
    fn client(&self, lane: Lane) -> Result<Client, Failure> {
        self.peers
            .client(self.target, &self.member, lane)
            .map_err(|e| RPCError::Unreachable(Unreachable::from_string(e)))
    }

    /// Whether a leader may send: see [`crate::deaf`].
    fn speak(&self) -> Result<(), Failure> {
        match self.peers.is_silent() {
            true => Err(RPCError::Unreachable(Unreachable::from_string(
                "no majority answers this leader",
            ))),
            false => Ok(()),
        }
    }

    fn failure(&self, status: &Status, action: RPCTypes, timeout: Duration) -> Failure {
        failure(status, action, timeout, self.my_id, self.target)
    }

    /// See [`wire::foreign_ballot`].
    fn foreign(&self, answered: Vote, sent: u64) -> Vote {
        wire::foreign_ballot(answered, self.my_id, self.target, sent)
    }

    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        timeout: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, Failure> {
        self.speak()?;
        let sent = request.vote.leader_id.term;
        let mut client = self.client(Lane::Control)?;
        let response = client
            .heartbeat(with_deadline(wire::append_out(request), timeout))
            .await
            .and_then(|r| wire::appended_in(r.into_inner()));
        response
            .map(|answer| appended(answer, (self.my_id, self.target), sent))
            .map_err(|s| self.failure(&s, RPCTypes::AppendEntries, timeout))
    }
}

fn with_deadline<T>(message: T, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

fn failure(status: &Status, action: RPCTypes, timeout: Duration, id: u64, target: u64) -> Failure {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => {
            RPCError::Timeout(Timeout { action, id, target, timeout })
        }
        // Nobody there, or somebody else: don't retry at once.
        Code::Unavailable | Code::FailedPrecondition => {
            RPCError::Unreachable(Unreachable::from_string(status.message()))
        }
        _ => RPCError::Network(NetworkError::from_string(status)),
    }
}

impl RaftNetworkV2<TypeConfig> for PeerNetwork {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Failure> {
        Ok(self.heartbeat(request, option.hard_ttl()).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Failure>>, Failure>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let session = async move {
            if self.kind == Kind::Heartbeat {
                let answer = match input.next().await {
                    Some(request) => Some(self.heartbeat(request, option.hard_ttl()).await?),
                    None => None,
                };
                return Ok(futures::stream::iter(answer.map(Ok)).boxed());
            }
            // Where openraft pauses after a failure is here: a stream that was
            // opened first would knock at a node that is away without a pause.
            let Some(first) = input.next().await else {
                return Ok(futures::stream::empty().boxed());
            };
            self.speak()?;
            let sent = first.vote.leader_id.term;
            let unanswered = Arc::new(Unanswered::default());
            let mut client = self.client(Lane::Log)?;
            let requests = {
                let unanswered = unanswered.clone();
                let all = futures::stream::iter([first]).chain(input);
                with_commits_held(all, COMMIT_HELD).map(move |request| {
                    unanswered.sent();
                    wire::append_out(request)
                })
            };
            let fail = |s: &Status| self.failure(s, RPCTypes::AppendEntries, UNANSWERED_MAX);
            let responses = tokio::time::timeout(UNANSWERED_MAX, client.append(requests))
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer to a new stream")))
                .map_err(|s| fail(&s))?
                .into_inner();
            let ids = (self.my_id, self.target);
            let answers = answers(responses, unanswered, ids);
            Ok(answers.map(move |a| a.map(|answer| appended(answer, ids, sent))).boxed())
        };
        session.boxed()
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failure> {
        let timeout = option.hard_ttl();
        let sent = request.vote.leader_id.term;
        let mut client = self.client(Lane::Control)?;
        let response = client
            .vote(with_deadline(wire::vote_request_out(request), timeout))
            .await
            .and_then(|r| wire::vote_response_in(r.into_inner()));
        response
            .map(|answer| VoteResponse { vote: self.foreign(answer.vote, sent), ..answer })
            .map_err(|s| self.failure(&s, RPCTypes::Vote, timeout))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, Failure> {
        let timeout = option.hard_ttl();
        // What is asked for is not cast yet.
        let sent = request.vote.leader_id.term.saturating_sub(1);
        let mut client = self.client(Lane::Control)?;
        let response = client
            .pre_vote(with_deadline(wire::vote_request_out(request), timeout))
            .await
            .and_then(|r| wire::vote_response_in(r.into_inner()));
        response
            .map(|answer| VoteResponse { vote: self.foreign(answer.vote, sent), ..answer })
            .map_err(|s| self.failure(&s, RPCTypes::Vote, timeout))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<
            openraft::alias::CommittedLeaderIdOf<TypeConfig>,
            u64,
            Member,
            SnapshotFile,
        >,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let timeout = option.hard_ttl();
        let mut client = self.client(Lane::Bulk)?;
        let sending = self.outgoing.send(&mut client, &vote, snapshot.snapshot, timeout);
        let answered = tokio::select! {
            biased;
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answered = sending => answered,
        };
        match answered {
            Ok(answered) => Ok(SnapshotResponse::new(self.foreign(answered, vote.leader_id.term))),
            Err(status) => Err(self.failure(&status, RPCTypes::InstallSnapshot, timeout).into()),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Failure> {
        self.lease.hand_over(request.from_leader().leader_id.term);
        let timeout = option.hard_ttl();
        let mut client = self.client(Lane::Control)?;
        let response = client
            .transfer_leader(with_deadline(wire::transfer_out(&request), timeout))
            .await
            .map_err(|s| self.failure(&s, RPCTypes::TransferLeader, timeout))?;
        let refused = response.into_inner().refused;
        if refused.is_empty() {
            return Ok(Ok(()));
        }
        match serde_json::from_str(&refused) {
            Ok(reason) => Ok(Err(reason)),
            Err(_) => Err(RPCError::Network(NetworkError::from_string(refused))),
        }
    }
}

/// What `target` answered to entries or a heartbeat of this leader.
fn appended(
    answer: StreamAppendResult<TypeConfig>,
    (id, target): (u64, u64),
    sent: u64,
) -> StreamAppendResult<TypeConfig> {
    answer.map_err(|refused| match refused {
        StreamAppendError::HigherVote(vote) => {
            StreamAppendError::HigherVote(wire::foreign_ballot(vote, id, target, sent))
        }
        other => other,
    })
}

/// Keeps back, for `held_max` at most, requests that bring no entries while
/// entries come in quick succession.
///
/// Openraft tells every follower of every commit. With the next entries it goes
/// along for nothing; by itself it takes two messages and four threads to wake,
/// in the way of the answer to whoever waits for that commit. A follower applies
/// as much later, and so do its watchers; no write waits for it.
fn with_commits_held<S>(
    input: S,
    held_max: Duration,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin,
{
    let start = (input.fuse(), Pace::default());
    futures::stream::unfold(start, move |(mut input, mut pace)| async move {
        let mut request = input.next().await?;
        if request.entries.is_empty() && pace.gap.is_some_and(|gap| gap <= held_max) {
            let held = tokio::time::sleep(held_max);
            tokio::pin!(held);
            while request.entries.is_empty() {
                tokio::select! {
                    biased;
                    next = input.next() => match next {
                        // It says all that the one before said.
                        Some(next) => request = next,
                        None => break,
                    },
                    () = &mut held => break,
                }
            }
        }
        if !request.entries.is_empty() {
            pace.sent(Instant::now());
        }
        Some((request, (input, pace)))
    })
}

/// How quickly requests with entries follow each other.
#[derive(Default)]
struct Pace {
    last: Option<Instant>,
    gap: Option<Duration>,
}

impl Pace {
    fn sent(&mut self, now: Instant) {
        self.gap = self.last.map(|last| now.duration_since(last));
        self.last = Some(now);
    }
}

/// When the requests of a stream were sent that have no answer yet.
#[derive(Default)]
struct Unanswered(Mutex<VecDeque<Instant>>);

impl Unanswered {
    fn sent(&self) {
        self.0.lock().expect("no panic while held").push_back(Instant::now());
    }

    fn answered(&self) {
        self.0.lock().expect("no panic while held").pop_front();
    }

    fn oldest(&self) -> Duration {
        let sent = self.0.lock().expect("no panic while held");
        sent.front().map_or(Duration::ZERO, |sent| sent.elapsed())
    }
}

/// The answers of a replication stream; ends after the first failure.
fn answers(
    responses: Streaming<pb::AppendResponse>,
    unanswered: Arc<Unanswered>,
    (id, target): (u64, u64),
) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, Failure>> + Send {
    futures::stream::unfold(Some(responses), move |responses| {
        let unanswered = unanswered.clone();
        async move {
            let mut responses = responses?;
            let received = loop {
                match tokio::time::timeout(UNANSWERED_CHECK, responses.message()).await {
                    Ok(received) => break received,
                    Err(_) if unanswered.oldest() < UNANSWERED_MAX => {}
                    Err(_) => break Err(Status::deadline_exceeded("the stream stands still")),
                }
            };
            unanswered.answered();
            match received.and_then(|r| r.map(wire::appended_in).transpose()) {
                Ok(None) => None,
                Ok(Some(answer)) => Some((Ok(answer), Some(responses))),
                Err(status) => {
                    let error =
                        failure(&status, RPCTypes::AppendEntries, UNANSWERED_MAX, id, target);
                    Some((Err(error), None))
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use openraft::EntryPayload;

    use super::*;
    use crate::types::{Command, Entry, log_id, vote};

    const LONG: Duration = Duration::from_secs(600);

    /// A request with the entry at `index`, or with none, that tells of a commit.
    fn request(index: Option<u64>, committed: u64) -> AppendEntriesRequest<TypeConfig> {
        let entry = |index| Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(Command::default()),
        };
        AppendEntriesRequest {
            vote: vote(1, 1, true),
            prev_log_id: None,
            entries: index.map(entry).into_iter().collect(),
            leader_commit: Some(log_id(1, committed)),
        }
    }

    async fn commits(requests: Vec<AppendEntriesRequest<TypeConfig>>) -> Vec<u64> {
        let sent = with_commits_held(futures::stream::iter(requests), LONG);
        sent.map(|r| r.leader_commit.unwrap().index).collect().await
    }

    #[tokio::test]
    async fn a_commit_travels_with_the_entries_that_come_soon() {
        let quick = [(Some(1), 0), (Some(2), 1), (None, 2), (None, 3), (Some(3), 4), (None, 5)];
        let requests = quick.map(|(index, committed)| request(index, committed));
        assert_eq!(commits(requests.to_vec()).await, [0, 1, 4, 5], "and the last is not lost");
    }

    #[tokio::test]
    async fn a_commit_is_told_at_once_where_entries_are_rare() {
        let requests = [request(Some(1), 0), request(None, 1), request(Some(2), 2)];
        assert_eq!(commits(requests.to_vec()).await, [0, 1, 2], "none came soon after another");
    }

    #[tokio::test]
    async fn a_commit_is_not_held_for_ever() {
        let first = [request(Some(1), 0), request(Some(2), 1), request(None, 2)];
        let open = futures::stream::iter(first).chain(futures::stream::pending());
        let sent = with_commits_held(open, Duration::from_millis(50));
        let told: Vec<u64> = sent.take(3).map(|r| r.leader_commit.unwrap().index).collect().await;
        assert_eq!(told, [0, 1, 2]);
    }
}
