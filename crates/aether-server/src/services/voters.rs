//! Who votes, and how that changes.

use std::collections::BTreeSet;
use std::time::Duration;

use aether_core::command::{Command, Refusal};
use aether_core::ids::NodeName;
use aether_core::level::FEATURE_LEVEL_FIRST;
use aether_core::planner::{self, Membership, VoterWait};
use aether_core::records::{VoterChange, VoterWanted};
use aether_core::state::State;
use aether_proto::peer::peer_client::PeerClient;
use aether_proto::peer::{HandOverRequest, MembersRequest};
use aether_proto::v1;
use aether_proto::v1::voters_server::Voters;
use aether_replica::{MemberStatus, TransferError};
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::control::Control;
use crate::deadline::Deadline;
use crate::machine::Published;
use crate::status;
use crate::views::Views;
use crate::voters::{parsed, view};

/// How long the leader may take to say how it sees the members.
const MEMBERS_MAX: Duration = Duration::from_secs(1);
/// How long voters are given to answer before one may not go, …
const SPARE_MAX: Duration = Duration::from_secs(2);
/// … and how often it is looked.
const SPARE_LOOK: Duration = Duration::from_millis(100);
/// How long it may take to hand over: an election, and a slow disk.
const HAND_OVER_MAX: Duration = Duration::from_secs(5);

/// The `Voters` service.
#[derive(Clone)]
pub struct VotersService {
    views: Views,
}

/// The members as the leader has them.
pub(super) struct Members {
    seen: Membership,
    lost: BTreeSet<u64>,
}

impl Members {
    /// Whether one has answered in the last seconds.
    pub fn is_alive(&self, raft_id: u64) -> bool {
        !self.lost.contains(&raft_id)
    }
}

impl VotersService {
    /// Over the node's views.
    pub(crate) fn new(views: Views) -> Self {
        Self { views }
    }

    fn control(&self) -> &Control {
        &self.views.control
    }

    /// The members as the leader has them; `None` if it cannot be asked now.
    pub(super) async fn members(&self, deadline: Deadline) -> Option<Members> {
        let replica = self.control().replica();
        if let Some(members) = replica.membership() {
            return Some(Members { lost: members.lost.clone(), seen: view(members) });
        }
        let mut request = Request::new(MembersRequest {});
        let wait = deadline.within(MEMBERS_MAX);
        request.set_timeout(wait);
        let mut client = PeerClient::new(replica.leader_channel()?);
        let answer = tokio::time::timeout(wait, client.members(request)).await.ok()?.ok()?;
        let members = answer.into_inner();
        let seen = Membership {
            voters: members.voters.into_iter().collect(),
            learners: members.learners.into_iter().collect(),
            is_joint: members.joint,
            caught_up: members.caught_up.into_iter().collect(),
            alive: members.alive.into_iter().collect(),
            leader: members.leader,
            names: parsed(replica.status().members.into_iter().map(|m| (m.raft_id, m.name))),
        };
        Some(Members { seen, lost: members.lost.into_iter().collect() })
    }

    /// Whether a majority of the others answers. Looked at for a while: a leader
    /// that is new, or a machine that is busy, has not heard of all a moment ago.
    async fn check_spare(
        &self,
        node: &NodeName,
        raft_id: u64,
        deadline: Deadline,
    ) -> Result<(), Status> {
        let until = Instant::now() + deadline.within(SPARE_MAX);
        loop {
            let members = self.members(deadline).await;
            let refusal = match members.map(|members| planner::can_leave(&members.seen, raft_id)) {
                Some(Err(VoterWait::NoMajority { voters, alive })) => {
                    status::refused(&Refusal::VoterNeeded { node: node.clone(), voters, alive })
                }
                Some(_) => return Ok(()),
                None => status::unavailable("the leader could not be asked"),
            };
            if Instant::now() >= until {
                return Err(refusal);
            }
            tokio::time::sleep(SPARE_LOOK).await;
        }
    }

    /// Every change, as it stands.
    pub(super) async fn changes(
        &self,
        published: &Published,
        deadline: Deadline,
    ) -> Vec<v1::VoterChange> {
        let state = &published.state;
        if state.voter_changes.is_empty() {
            return Vec::new();
        }
        let members = self.members(deadline).await;
        let now_ms = published.now_ms();
        let changes = state.voter_changes.values();
        changes.map(|record| change(state, record, members.as_ref(), now_ms)).collect()
    }

    /// The change of a node as it stands after a request.
    async fn change(&self, node: &NodeName, kind: &str, deadline: Deadline) -> v1::VoterChange {
        let published = self.control().local();
        let state = &published.state;
        match state.voter_changes.get(node) {
            Some(record) => {
                let members = self.members(deadline).await;
                change(state, record, members.as_ref(), published.now_ms())
            }
            None => v1::VoterChange {
                node: node.to_string(),
                kind: kind.to_owned(),
                stage: "DONE".to_owned(),
                ..Default::default()
            },
        }
    }

    /// The members of this name, those that vote first.
    fn named(&self, node: &NodeName) -> Option<MemberStatus> {
        let members = self.control().replica().status().members;
        let mut named: Vec<_> = members.into_iter().filter(|m| m.name == node.as_str()).collect();
        named.sort_by_key(|member| !member.voter);
        named.into_iter().next()
    }
}

fn node_of(field: &str, text: &str) -> Result<NodeName, Status> {
    text.parse().map_err(|e| status::invalid(field, e))
}

/// Why the leadership was not handed over.
pub(super) fn not_moved(error: TransferError) -> Status {
    match error {
        TransferError::NoSuccessor { reason } => status::refused(&Refusal::NoSuccessor { reason }),
        TransferError::NotTaken { reason } => status::unavailable(reason),
    }
}

/// What the leader said to it; whatever is not its answer is no answer.
fn from_leader(error: Status) -> Status {
    match error.code() {
        Code::FailedPrecondition => error,
        _ => status::unavailable(error.message()),
    }
}

/// One change as it is shown.
fn change(
    state: &State,
    record: &VoterChange,
    members: Option<&Members>,
    now_ms: u64,
) -> v1::VoterChange {
    let mut shown = v1::VoterChange {
        node: record.node.to_string(),
        since_ms: now_ms.saturating_sub(record.since_ms),
        stage: "CHANGING".to_owned(),
        ..Default::default()
    };
    match &record.wanted {
        VoterWanted::Join { peer_addr, replaces, admitted } => {
            shown.kind = "JOIN".to_owned();
            shown.peer_address = peer_addr.clone();
            shown.replaces = *replaces;
            shown.raft_id = admitted.as_ref().map(|admitted| admitted.raft_id);
            if admitted.is_none() {
                shown.stage = "INVITED".to_owned();
            }
        }
        VoterWanted::Leave { raft_id } => {
            shown.kind = "LEAVE".to_owned();
            shown.raft_id = Some(*raft_id);
        }
    }
    let wait = members.and_then(|members| planner::voter_wait(state, &members.seen, &record.node));
    let (stage, note) = match wait {
        None => return shown,
        Some(VoterWait::NotCome) => (
            "INVITED",
            format!("for node {} to start and ask; see that it is configured to join", record.node),
        ),
        Some(VoterWait::CatchingUp) => ("CATCHING_UP", "for it to copy the log".to_owned()),
        Some(VoterWait::NoMajority { voters, alive }) => {
            ("WAITING", format!("for a majority: {alive} of the {voters} that would vote answer"))
        }
        Some(VoterWait::Archives { missing }) => (
            "WAITING",
            format!("until a majority of those that would vote holds {missing} more archives"),
        ),
        Some(VoterWait::InLine) => ("WAITING", "for another change".to_owned()),
    };
    v1::VoterChange { stage: stage.to_owned(), note, ..shown }
}

#[tonic::async_trait]
impl Voters for VotersService {
    async fn list(
        &self,
        request: Request<v1::ListVotersRequest>,
    ) -> Result<Response<v1::ListVotersResponse>, Status> {
        let (deadline, _) = Deadline::split(request);
        let read = self.control().read(false, deadline).await;
        let replica = self.control().replica().status();
        let members = self.members(deadline).await;
        let leader = replica.leader.map(|leader| leader.raft_id);
        let member = |member: MemberStatus| v1::Member {
            alive: members.as_ref().map(|members| members.is_alive(member.raft_id)),
            name: member.name,
            raft_id: member.raft_id,
            peer_address: member.peer_addr,
            voter: member.voter,
            leader: leader == Some(member.raft_id),
        };
        let state = &read.published.state;
        let now_ms = read.published.now_ms();
        let changes = state.voter_changes.values();
        let changes = changes.map(|record| change(state, record, members.as_ref(), now_ms));
        Ok(Response::new(v1::ListVotersResponse {
            changes: changes.collect(),
            members: replica.members.into_iter().map(member).collect(),
            as_of: Some(self.control().as_of(&read)),
        }))
    }

    async fn add(
        &self,
        request: Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        let (deadline, request) = Deadline::split(request);
        let node = node_of("node", &request.node)?;
        let replaced = request.replaces.as_deref().map(|name| node_of("replaces", name));
        let replaced = replaced.transpose()?;
        let published = self.control().barrier(deadline).await?;
        let replaces = match &replaced {
            None => None,
            Some(name) => {
                let voter = self.named(name).filter(|member| member.voter);
                let unknown = || status::refused(&Refusal::UnknownVoter { node: name.clone() });
                Some(voter.ok_or_else(unknown)?.raft_id)
            }
        };
        // A request that is repeated after it was done is answered as before.
        let is_repeated = published.state.requests.contains_key(&request.request_id);
        let is_new = !is_repeated && replaced.as_ref() != Some(&node);
        if is_new && self.named(&node).is_some_and(|member| member.voter) {
            return Err(status::refused(&Refusal::VotesAlready { node }));
        }
        let command =
            Command::InviteVoter { node: node.clone(), peer_addr: request.peer_address, replaces };
        let answer =
            self.control().write(deadline, &request.actor, &request.request_id, command).await?;
        let mut shown = self.change(&node, "JOIN", deadline).await;
        if let Some(note) = answer.note {
            shown.note = note;
        }
        Ok(Response::new(shown))
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        let (deadline, request) = Deadline::split(request);
        let node = node_of("node", &request.node)?;
        let state = self.control().barrier(deadline).await?;
        let known = self.named(&node);
        let is_invited = state.state.voter_changes.contains_key(&node);
        if known.is_none() && !is_invited {
            return Err(status::refused(&Refusal::UnknownVoter { node }));
        }
        // An invitation can be taken back whoever answers.
        let leaves = known.as_ref().filter(|member| member.voter && !is_invited);
        if let Some(member) = leaves {
            self.check_spare(&node, member.raft_id, deadline).await?;
        }
        let raft_id = known.map_or(0, |member| member.raft_id);
        let command = Command::RemoveVoter { node: node.clone(), raft_id };
        self.control().write(deadline, &request.actor, &request.request_id, command).await?;
        Ok(Response::new(self.change(&node, "LEAVE", deadline).await))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let (deadline, v1::TransferLeaderRequest { to }) = Deadline::split(request);
        if let Some(to) = &to {
            let node = node_of("to", to)?;
            if self.named(&node).is_none_or(|member| !member.voter) {
                return Err(status::refused(&Refusal::UnknownVoter { node }));
            }
        }
        let replica = self.control().replica();
        let leadership = replica.leadership().borrow().clone();
        let leads = leadership.leader.map(|leader| leader.name.clone());
        if let (Some(to), Some(leader)) = (&to, &leads)
            && to == leader
        {
            return Ok(Response::new(v1::TransferLeaderResponse { leader: leader.clone() }));
        }
        if leadership.is_leader {
            let moved = replica.transfer_leadership(to.as_deref()).await;
            let leader = moved.map_err(not_moved)?.name;
            return Ok(Response::new(v1::TransferLeaderResponse { leader }));
        }
        let channel = replica.leader_channel();
        let channel = channel.ok_or_else(|| status::unavailable("there is no leader"))?;
        let mut request = Request::new(HandOverRequest { to });
        request.set_timeout(deadline.within(HAND_OVER_MAX));
        let moved = PeerClient::new(channel).hand_over(request).await;
        let leader = moved.map_err(from_leader)?.into_inner().leader;
        Ok(Response::new(v1::TransferLeaderResponse { leader }))
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let v1::JoinRequest { cluster, node, dir_id, feature_level_max } = request;
        let node = node_of("node", &node)?;
        let own = self.control().replica().status().cluster_name;
        if cluster != own {
            let problem = format!("must be '{own}', the cluster that was asked; it is '{cluster}'");
            return Err(status::invalid("cluster", problem));
        }
        self.control().barrier(deadline).await?;
        let is_asking = |m: &MemberStatus| m.name == node.as_str() && m.dir_id == dir_id;
        let members = self.control().replica().status().members;
        if let Some(member) = members.into_iter().find(is_asking) {
            return Ok(Response::new(v1::JoinResponse { raft_id: member.raft_id }));
        }
        let actor = format!("node {node}");
        // One that does not say is of the first release.
        let feature_level = feature_level_max.max(FEATURE_LEVEL_FIRST);
        let command = Command::AdmitVoter { node: node.clone(), dir_id, feature_level };
        self.control().write(deadline, &actor, "", command).await?;
        let published = self.control().local();
        let record = published.state.voter_changes.get(&node);
        match record.map(|record| &record.wanted) {
            Some(VoterWanted::Join { admitted: Some(admitted), .. }) => {
                Ok(Response::new(v1::JoinResponse { raft_id: admitted.raft_id }))
            }
            _ => Err(Status::new(Code::Unavailable, "it changed meanwhile; ask again")),
        }
    }
}
