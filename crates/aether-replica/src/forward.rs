//! Proposals of a follower's callers, on their way to the leader.
//!
//! One pipelined stream per leader. Until a proposal is put on the stream it is
//! provably not done; from then on only the leader's answer tells. The two
//! sides agree on that moment through [`Ticket`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::raft as pb;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::leadership::LeaderInfo;
use crate::node::{Applied, Attempt, Node, Submitted};
use crate::peers::{Client, Lane, Peers};
use crate::types::Member;

/// Proposals waiting for their stream. Callers are limited before they come
/// here, so this is never the limit that is met.
const QUEUE_MAX: usize = 8_192;
/// Proposals in one message, and their bytes (the last may go beyond).
const BATCH_MAX: usize = 256;
const BATCH_BYTES: usize = 1024 * 1024;
/// Messages on their way out, and answers on their way back.
const MESSAGES_MAX: usize = 16;
/// Proposals on a leader's side of one stream.
const IN_LINE_MAX: usize = 4_096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A stream without proposals is closed after this long.
const IDLE_MAX: Duration = Duration::from_secs(60);

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Whether a proposal has left this node.
#[derive(Default)]
struct Ticket(AtomicU8);

impl Ticket {
    /// True for whichever side comes first.
    fn settle(&self, state: u8) -> bool {
        self.0.compare_exchange(QUEUED, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

pub(crate) struct Job {
    body: Bytes,
    ticket: Arc<Ticket>,
    reply: oneshot::Sender<Result<Applied, Attempt>>,
}

/// Where proposals line up for the stream to one leader.
pub(crate) type Link = mpsc::Sender<Job>;

/// The streams to the leaders that this node has forwarded to.
#[derive(Default)]
pub(crate) struct Links(Mutex<BTreeMap<LeaderInfo, Link>>);

impl Links {
    /// The stream to this leader. A new one is opened if `reach` knows it.
    pub fn to(
        &self,
        leader: &LeaderInfo,
        reach: impl FnOnce() -> Option<(Arc<Peers>, Member)>,
    ) -> Option<Link> {
        let mut links = self.0.lock().expect("no panic while held");
        if let Some(link) = links.get(leader).filter(|link| !link.is_closed()) {
            return Some(link.clone());
        }
        let (peers, member) = reach()?;
        let (tx, rx) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(run_link(peers, leader.raft_id, member, rx));
        links.insert(leader.clone(), tx.clone());
        Some(tx)
    }

    /// Closes all streams; what is under way becomes unknown.
    pub fn close(&self) {
        self.0.lock().expect("no panic while held").clear();
    }
}

/// Proposes through a leader, and waits for it until `given_up`.
pub(crate) async fn propose(
    link: &Link,
    body: Bytes,
    given_up: impl Future<Output = ()>,
) -> Result<Applied, Attempt> {
    let ticket = Arc::new(Ticket::default());
    let (reply, answer) = oneshot::channel();
    let job = Job { body, ticket: ticket.clone(), reply };
    if link.try_send(job).is_err() {
        return Err(Attempt::NotDone("too many proposals wait for the leader".into()));
    }
    let why = tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(result) => return result,
            Err(_) => "the connection to the leader was lost".to_owned(),
        },
        () = given_up => "the leader did not answer in time".to_owned(),
    };
    Err(if ticket.settle(WITHDRAWN) { Attempt::NotDone(why) } else { Attempt::Unknown(why) })
}

/// Serves one leader: connects when there is something to send.
async fn run_link(peers: Arc<Peers>, id: u64, member: Member, mut jobs: mpsc::Receiver<Job>) {
    while let Some(first) = jobs.recv().await {
        let mut queued = vec![first];
        let client = peers.client(id, &member, Lane::Shared).map_err(Status::internal);
        let refused = match client {
            Ok(client) => run_session(client, &mut queued, &mut jobs).await,
            Err(status) => Err(status),
        };
        let Err(status) = refused else { continue };
        // Nothing of this has left the node: whoever waits may look for
        // another leader.
        while let Ok(job) = jobs.try_recv() {
            queued.push(job);
        }
        for job in queued {
            let text = format!("the leader can't be reached: {}", status.message());
            // The ticket stays open: the caller learns it from this answer.
            let _ = job.reply.send(Err(Attempt::NotDone(text)));
        }
    }
}

type Waiting = BTreeMap<u64, oneshot::Sender<Result<Applied, Attempt>>>;

/// One stream, until it is lost or idle. An error means that it was never
/// there; `queued` holds what was not sent.
async fn run_session(
    mut client: Client,
    queued: &mut Vec<Job>,
    jobs: &mut mpsc::Receiver<Job>,
) -> Result<(), Status> {
    let (outbound, messages) = mpsc::channel(MESSAGES_MAX);
    let stream = client.forward(ReceiverStream::new(messages));
    let mut answers = tokio::time::timeout(CONNECT_TIMEOUT, stream)
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))?
        .into_inner();
    let mut waiting = Waiting::new();
    let mut next_id = 0;
    let lost = loop {
        let idle = tokio::time::sleep(IDLE_MAX);
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(answer)) => deliver(answer, &mut waiting),
                Ok(None) => break "the leader closed the connection".to_owned(),
                Err(status) => break format!("the connection to the leader was lost: {status}"),
            },
            n = jobs.recv_many(queued, BATCH_MAX), if queued.is_empty() => {
                if n == 0 {
                    break "this node is stopping".to_owned();
                }
            }
            permit = outbound.reserve(), if !queued.is_empty() => match permit {
                Ok(permit) => permit.send(batch(queued, &mut waiting, &mut next_id)),
                Err(_) => break "the connection to the leader was lost".to_owned(),
            },
            () = idle, if waiting.is_empty() && queued.is_empty() => break "idle".to_owned(),
        }
    };
    for reply in waiting.into_values() {
        let _ = reply.send(Err(Attempt::Unknown(lost.clone())));
    }
    if queued.is_empty() { Ok(()) } else { Err(Status::unavailable(lost)) }
}

fn batch(queued: &mut Vec<Job>, waiting: &mut Waiting, next_id: &mut u64) -> pb::ForwardRequest {
    let mut proposals = Vec::new();
    let mut bytes = 0;
    let mut taken = 0;
    for job in queued.iter() {
        if bytes >= BATCH_BYTES {
            break;
        }
        bytes += job.body.len();
        taken += 1;
    }
    for job in queued.drain(..taken) {
        if !job.ticket.settle(SENT) {
            continue;
        }
        *next_id += 1;
        waiting.insert(*next_id, job.reply);
        proposals.push(pb::Proposal { id: *next_id, body: job.body });
    }
    pb::ForwardRequest { proposals }
}

fn deliver(answer: pb::ForwardResponse, waiting: &mut Waiting) {
    use pb::outcome::Result as R;
    for outcome in answer.outcomes {
        let Some(reply) = waiting.remove(&outcome.id) else {
            continue;
        };
        let result = match outcome.result {
            Some(R::Applied(a)) => Ok(Applied { index: a.index, response: a.response }),
            Some(R::NotDone(reason)) => Err(Attempt::NotDone(reason)),
            Some(R::Unknown(reason)) => Err(Attempt::Unknown(reason)),
            Some(R::NoSpace(reason)) => Err(Attempt::NoSpace(reason)),
            None => Err(Attempt::Unknown("the leader's answer has no result".into())),
        };
        // A caller that gave up is gone.
        let _ = reply.send(result);
    }
}

/// The leader's side of one stream: proposes in order and answers in order.
pub(crate) fn serve(
    node: Arc<Node>,
    mut requests: Streaming<pb::ForwardRequest>,
) -> impl Stream<Item = Result<pb::ForwardResponse, Status>> + Send {
    let (in_line, line) = mpsc::channel::<(u64, Result<Submitted, Attempt>)>(IN_LINE_MAX);
    tokio::spawn(async move {
        while let Ok(Some(request)) = requests.message().await {
            for proposal in request.proposals {
                let submitted = submit(&node, proposal.body).await;
                if in_line.send((proposal.id, submitted)).await.is_err() {
                    return;
                }
            }
        }
    });
    let outcomes = ReceiverStream::new(line).map(|(id, submitted)| async move {
        let result = match submitted {
            Ok(submitted) => submitted.outcome().await,
            Err(attempt) => Err(attempt),
        };
        outcome(id, result)
    });
    outcomes
        .buffered(IN_LINE_MAX)
        .ready_chunks(BATCH_MAX)
        .map(|outcomes| Ok(pb::ForwardResponse { outcomes }))
}

async fn submit(node: &Node, body: Bytes) -> Result<Submitted, Attempt> {
    let term = {
        let leadership = node.leadership.borrow();
        leadership.ready.then_some(leadership.term)
    };
    match term {
        Some(term) => node.submit_here(term, body).await,
        None => Err(Attempt::NotDone(format!("{} is not the leader", node.identity.node))),
    }
}

fn outcome(id: u64, result: Result<Applied, Attempt>) -> pb::Outcome {
    use pb::outcome::Result as R;
    let result = match result {
        Ok(a) => R::Applied(pb::Applied { index: a.index, response: a.response }),
        Err(Attempt::NotDone(reason) | Attempt::Stopped(reason)) => R::NotDone(reason),
        Err(Attempt::NoSpace(reason)) => R::NoSpace(reason),
        Err(Attempt::Unknown(reason)) => R::Unknown(reason),
    };
    pb::Outcome { id, result: Some(result) }
}
