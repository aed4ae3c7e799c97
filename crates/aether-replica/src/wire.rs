//! Between the messages of `raft.proto` and openraft's types.

use aether_proto::raft as pb;
use openraft::EntryPayload;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use tonic::Status;

use crate::types::{
    Command, Entry, INDEX_MAX, LogId, Payload, TypeConfig, Vote, log_id, term_of, vote,
};

/// Largest message on the peer listener: a batch of entries holds at least one
/// entry, however large, and more only up to 2 MiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 40 * 1024 * 1024;

/// No cluster holds so many elections; a higher term in a message would leave
/// no room for the next one.
const TERM_MAX: u64 = 1 << 62;

/// Likewise the log's clocks: spans are added to them.
const CLOCK_MS_MAX: u64 = 1 << 62;

/// How far a term in a call may be ahead of this node's own: as many elections
/// as are held in 13 years at ten a second, all missed by this node. A single
/// call thus cannot lift a cluster's term to [`TERM_MAX`], above which no vote
/// would be taken any more.
const TERM_STEP_MAX: u64 = 1 << 32;

pub(crate) fn log_id_out(id: &LogId) -> pb::LogId {
    pb::LogId { term: term_of(id), index: id.index }
}

/// Refuses positions that leave no room for the next: the sums of openraft and
/// of the machine would overflow, on this node for ever once it is in the log.
fn log_id_in(id: pb::LogId) -> Result<LogId, Status> {
    if id.term > TERM_MAX || id.index > INDEX_MAX {
        let text = format!("log id {}-{} is out of range", id.term, id.index);
        return Err(Status::invalid_argument(text));
    }
    Ok(log_id(id.term, id.index))
}

fn log_id_in_maybe(id: Option<pb::LogId>) -> Result<Option<LogId>, Status> {
    id.map(log_id_in).transpose()
}

pub(crate) fn vote_out(vote: &Vote) -> pb::Ballot {
    pb::Ballot {
        term: vote.leader_id.term,
        node_id: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

pub(crate) fn vote_in(ballot: Option<pb::Ballot>) -> Result<Vote, Status> {
    let ballot = ballot.ok_or_else(|| Status::invalid_argument("the ballot is missing"))?;
    if ballot.term > TERM_MAX {
        return Err(Status::invalid_argument(format!("term {} is out of range", ballot.term)));
    }
    Ok(vote(ballot.term, ballot.node_id, ballot.committed))
}

/// Refuses the ballot of a call to a node in this term when it is too far ahead.
pub(crate) fn check_step(ballot: Option<&pb::Ballot>, term: u64) -> Result<(), Status> {
    match ballot {
        Some(ballot) if ballot.term > term.saturating_add(TERM_STEP_MAX) => {
            Err(Status::invalid_argument(format!(
                "term {} is out of reach from term {term}",
                ballot.term
            )))
        }
        _ => Ok(()),
    }
}

/// Refuses a ballot for this node itself: it calls nobody on its own behalf but
/// the others, so this one is not from a voter of this cluster.
pub(crate) fn check_candidate(ballot: Option<&pb::Ballot>, me: u64) -> Result<(), Status> {
    match ballot {
        Some(ballot) if ballot.node_id == me => Err(Status::invalid_argument(format!(
            "the ballot of term {} names node id {me}, which is this node itself",
            ballot.term
        ))),
        _ => Ok(()),
    }
}

/// The ballot in the answer of `peer` to what this node sent in term `sent`.
///
/// A later one that names this node is none that it cast: whoever asked the
/// peer in its name did. Openraft would take it for its own candidacy, which
/// never ends since no election belongs to it. This node has cast no ballot in
/// that term, so it may cast it for the peer, who does not stand either: the
/// term is over for both, and the next election is in the one after.
pub(crate) fn foreign_ballot(answered: Vote, me: u64, peer: u64, sent: u64) -> Vote {
    let own = answered.leader_id.voted_for == me;
    if own && answered.leader_id.term > sent {
        return vote(answered.leader_id.term, peer, false);
    }
    answered
}

fn entry_out(entry: Entry) -> pb::Entry {
    let payload = match entry.payload {
        EntryPayload::Blank => None,
        EntryPayload::Normal(command) => Some(pb::entry::Payload::Command(pb::Command {
            log_time_ms: command.log_time_ms,
            wall_ms: command.wall_ms,
            body: command.body,
        })),
        EntryPayload::Membership(membership) => {
            let json = serde_json::to_vec(&membership).expect("maps of strings and numbers");
            Some(pb::entry::Payload::Membership(json.into()))
        }
    };
    pb::Entry { log_id: Some(log_id_out(&entry.log_id)), payload }
}

fn entry_in(entry: pb::Entry) -> Result<Entry, Status> {
    let id = entry.log_id.ok_or_else(|| Status::invalid_argument("an entry has no log id"))?;
    let payload: Payload = match entry.payload {
        None => EntryPayload::Blank,
        Some(pb::entry::Payload::Command(c)) if c.log_time_ms.max(c.wall_ms) > CLOCK_MS_MAX => {
            return Err(Status::invalid_argument("the clocks of an entry are out of range"));
        }
        Some(pb::entry::Payload::Command(c)) => EntryPayload::Normal(Command {
            log_time_ms: c.log_time_ms,
            wall_ms: c.wall_ms,
            body: c.body,
        }),
        Some(pb::entry::Payload::Membership(json)) => {
            let membership = serde_json::from_slice(&json)
                .map_err(|e| Status::invalid_argument(format!("membership of an entry: {e}")))?;
            EntryPayload::Membership(membership)
        }
    };
    Ok(Entry { log_id: log_id_in(id)?, payload })
}

pub(crate) fn append_out(request: AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        ballot: Some(vote_out(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_out),
        entries: request.entries.into_iter().map(entry_out).collect(),
        committed: request.leader_commit.as_ref().map(log_id_out),
    }
}

/// Refuses entries that do not follow each other: the log would have a gap.
fn check_indexes(request: &pb::AppendRequest) -> Result<(), Status> {
    let mut next = request.previous.map_or(Some(0), |previous| previous.index.checked_add(1));
    for entry in &request.entries {
        let index = entry.log_id.map(|id| id.index);
        if index.is_none() || index != next {
            return Err(Status::invalid_argument(format!(
                "an entry has index {index:?} where {next:?} follows"
            )));
        }
        next = next.and_then(|next| next.checked_add(1));
    }
    // The next entry has an index too.
    next.map(drop).ok_or_else(|| Status::invalid_argument("the log has no index after its last"))
}

pub(crate) fn append_in(
    request: pb::AppendRequest,
) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
    check_indexes(&request)?;
    Ok(AppendEntriesRequest {
        vote: vote_in(request.ballot)?,
        prev_log_id: log_id_in_maybe(request.previous)?,
        entries: request.entries.into_iter().map(entry_in).collect::<Result<_, _>>()?,
        leader_commit: log_id_in_maybe(request.committed)?,
    })
}

pub(crate) fn appended_out(result: StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as R;
    let result = match result {
        Ok(matched) => R::Matched(pb::Matched { log_id: matched.as_ref().map(log_id_out) }),
        Err(StreamAppendError::Conflict(id)) => R::Conflict(log_id_out(&id)),
        Err(StreamAppendError::HigherVote(vote)) => R::HigherBallot(vote_out(&vote)),
    };
    pb::AppendResponse { result: Some(result) }
}

pub(crate) fn appended_in(
    response: pb::AppendResponse,
) -> Result<StreamAppendResult<TypeConfig>, Status> {
    use pb::append_response::Result as R;
    match response.result {
        Some(R::Matched(matched)) => Ok(Ok(log_id_in_maybe(matched.log_id)?)),
        Some(R::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(log_id_in(id)?))),
        Some(R::HigherBallot(b)) => Ok(Err(StreamAppendError::HigherVote(vote_in(Some(b))?))),
        None => Err(Status::internal("an append response without a result")),
    }
}

pub(crate) fn vote_request_out(request: VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        ballot: Some(vote_out(&request.vote)),
        last: request.last_log_id.as_ref().map(log_id_out),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_in(request: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>, Status> {
    Ok(VoteRequest {
        vote: vote_in(request.ballot)?,
        last_log_id: log_id_in_maybe(request.last)?,
        leadership_transfer: request.leadership_transfer,
    })
}

pub(crate) fn vote_response_out(response: VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        ballot: Some(vote_out(&response.vote)),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_out),
    }
}

pub(crate) fn vote_response_in(
    response: pb::VoteResponse,
) -> Result<VoteResponse<TypeConfig>, Status> {
    Ok(VoteResponse {
        vote: vote_in(response.ballot)?,
        vote_granted: response.granted,
        last_log_id: log_id_in_maybe(response.last)?,
    })
}

pub(crate) fn transfer_out(
    request: &TransferLeaderRequest<TypeConfig>,
) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        from: Some(vote_out(request.from_leader())),
        to: *request.to_node_id(),
        last: request.last_log_id().map(log_id_out),
    }
}

pub(crate) fn transfer_in(
    request: pb::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>, Status> {
    let last = log_id_in_maybe(request.last)?;
    Ok(TransferLeaderRequest::new(vote_in(request.from)?, request.to, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ballot_that_this_node_never_cast_is_not_its_own() {
        let ballot = |node_id| Some(pb::Ballot { term: 7, node_id, committed: false });
        assert!(check_candidate(ballot(1).as_ref(), 1).is_err());
        assert!(check_candidate(ballot(2).as_ref(), 1).is_ok());
        assert!(check_candidate(None, 1).is_ok());

        let (me, peer, sent) = (1, 2, 7);
        let answered =
            |term, node, committed| foreign_ballot(vote(term, node, committed), me, peer, sent);
        assert_eq!(answered(7, 1, false), vote(7, 1, false), "granted");
        assert_eq!(answered(6, 1, true), vote(6, 1, true), "an earlier one of this node");
        assert_eq!(answered(9, 3, true), vote(9, 3, true), "of somebody else");
        assert_eq!(answered(8, 1, false), vote(8, 2, false), "never cast");
        assert_eq!(answered(8, 1, true), vote(8, 2, false), "never won");
    }

    #[test]
    fn a_term_that_leaves_no_room_for_elections_is_refused() {
        let ballot = |term| Some(pb::Ballot { term, node_id: 1, committed: false });
        assert!(vote_in(ballot(u64::MAX)).is_err());
        assert!(vote_in(None).is_err());
        assert_eq!(vote_in(ballot(7)).unwrap(), vote(7, 1, false));
        let step = |term| check_step(ballot(term).as_ref(), 7).is_ok();
        assert!(step(0) && step(7 + TERM_STEP_MAX));
        assert!(!step(8 + TERM_STEP_MAX) && !step(TERM_MAX));
    }

    #[test]
    fn entries_that_leave_a_gap_are_refused() {
        let id = |index| Some(pb::LogId { term: 1, index });
        let refused = |previous: Option<pb::LogId>, indexes: &[u64]| {
            let entries = indexes.iter().map(|k| pb::Entry { log_id: id(*k), payload: None });
            let ballot = Some(pb::Ballot { term: 1, node_id: 1, committed: true });
            let entries = entries.collect();
            append_in(pb::AppendRequest { ballot, previous, entries, committed: None }).is_err()
        };
        assert!(!refused(None, &[]) && !refused(None, &[0, 1]) && !refused(id(4), &[5, 6]));
        assert!(refused(None, &[1]) && refused(id(4), &[4]) && refused(id(4), &[5, 7]));
        assert!(refused(id(u64::MAX), &[]) && refused(id(u64::MAX - 1), &[u64::MAX]));
    }

    #[test]
    fn a_position_or_clock_that_leaves_no_room_for_the_next_is_refused() {
        let entry = |term, index, log_time_ms| pb::Entry {
            log_id: Some(pb::LogId { term, index }),
            payload: Some(pb::entry::Payload::Command(pb::Command {
                log_time_ms,
                ..Default::default()
            })),
        };
        assert!(entry_in(entry(1, 1, 1)).is_ok());
        for bad in [entry(u64::MAX, 1, 1), entry(1, u64::MAX, 1), entry(1, 1, u64::MAX)] {
            assert_eq!(entry_in(bad).unwrap_err().code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn every_kind_of_entry_survives_the_wire() {
        let command = Command { log_time_ms: 3, wall_ms: 4, body: "x".into() };
        for payload in [EntryPayload::Blank, EntryPayload::Normal(command)] {
            let entry = Entry { log_id: log_id(2, 9), payload };
            assert_eq!(entry_in(entry_out(entry.clone())).unwrap(), entry);
        }
    }
}
