//! The cluster itself: status, nodes, events, and the raw KV view.

use std::sync::Arc;

use aether_core::command::{Command, Refusal};
use aether_core::ids::NodeName;
use aether_core::planner;
use aether_core::records::NodeSchedule;
use aether_proto::v1;
use aether_proto::v1::cluster_server::Cluster;
use aether_replica::Changes;
use tonic::{Request, Response, Status};

use super::Streamed;
use super::events::Events;
use super::following::Places;
use super::kv::Kv;
use super::snapshots::Snapshots;
use super::standing::Standing;
use super::voters::VotersService;
use crate::control::Read;
use crate::deadline::Deadline;
use crate::page::Page;
use crate::views::Views;
use crate::{render, status};

/// The `Cluster` service.
#[derive(Clone)]
pub struct ClusterService {
    views: Views,
    kv: Kv,
    events: Events,
    snapshots: Snapshots,
    voters: VotersService,
}

fn unknown(node: &NodeName) -> Status {
    status::refused(&Refusal::UnknownNode { node: node.clone() })
}

/// What to say if voters do not answer: how many more may go.
fn silent_voters(voters: &[v1::Voter]) -> Option<v1::Reason> {
    let silent = voters.iter().filter(|voter| voter.alive == Some(false));
    let silent: Vec<&str> = silent.map(|voter| voter.name.as_str()).collect();
    if silent.is_empty() {
        return None;
    }
    let alive = voters.len() - silent.len();
    let spare = alive.saturating_sub(voters.len() / 2 + 1);
    let then = match spare {
        0 => "if one more is lost, nothing can be written any more".to_owned(),
        spare => format!("writes survive the loss of {spare} more"),
    };
    Some(v1::Reason {
        code: "voter_silent".to_owned(),
        message: format!(
            "{alive} of {} voters answer, {} not: {then}; start it again, or 'aether node replace' it",
            voters.len(),
            silent.join(", ")
        ),
    })
}

impl ClusterService {
    /// Over the node's views and its latest changes.
    pub(crate) fn new(views: Views, changes: Arc<Changes>) -> Self {
        let (control, places) = (&views.control, Places::default());
        let kv = Kv::new(control.clone(), changes, places.clone());
        let events = Events::new(control.clone(), places);
        let snapshots = Snapshots::new(control.clone());
        let voters = VotersService::new(views.clone());
        Self { views, kv, events, snapshots, voters }
    }

    async fn sessions(
        &self,
        deadline: Deadline,
        state: &aether_core::state::State,
    ) -> Vec<v1::Session> {
        let views = self.views.sessions(deadline).await;
        let seen = |id: &str| views.as_ref()?.iter().find(|s| s.session_id == id).cloned();
        let shown = |record: &std::sync::Arc<aether_core::records::SessionRecord>| {
            let seen = seen(record.id.as_str());
            let shown = match &seen {
                Some(session) if session.connected => "CONNECTED",
                Some(_) => "UNREACHABLE",
                None => "UNKNOWN",
            };
            v1::Session {
                id: record.id.to_string(),
                kind: format!("{:?}", record.kind).to_uppercase(),
                name: record.name.clone(),
                state: shown.to_owned(),
                applied: seen.map_or(0, |session| session.applied),
            }
        };
        state.sessions.values().map(shown).collect()
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    type KvWatchStream = Streamed<v1::KvChange>;
    type EventsStream = Streamed<v1::EventsResponse>;
    type SnapshotSaveStream = Streamed<v1::SnapshotPart>;

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        let (deadline, v1::StatusRequest { verbose }) = Deadline::split(request);
        let read = self.views.control.read(false, deadline).await;
        let state = &read.published.state;
        let replica = self.views.control.replica().status();
        let leader = replica.leader.as_ref();
        // Without a quorum whoever leads is not sure to.
        let members = if read.stale { None } else { self.voters.members(deadline).await };
        let is_alive = |id| members.as_ref().is_some_and(|members| members.is_alive(id));
        let me = replica.raft_id;
        let handle = self.views.control.replica();
        let standing = Standing::ask(handle, verbose, |id| id == me || is_alive(id)).await;
        let voters = replica.members.iter().filter(|member| member.voter).map(|member| v1::Voter {
            name: member.name.clone(),
            raft_id: member.raft_id,
            peer_address: member.peer_addr.clone(),
            leader: leader.is_some_and(|leader| leader.raft_id == member.raft_id),
            alive: members.as_ref().map(|members| members.is_alive(member.raft_id)),
            detail: verbose.then(|| standing.detail(member.raft_id)),
        });
        let voters: Vec<v1::Voter> = voters.collect();
        let mut alerts = render::alerts(state, read.published.now_ms());
        alerts.extend(silent_voters(&voters));
        alerts.extend(standing.alerts());
        let live = state.slices.values().filter(|slice| slice.live_update.is_some()).count();
        Ok(Response::new(v1::ClusterStatus {
            cluster: replica.cluster_name.clone(),
            node: replica.name.clone(),
            leader: leader.map(|leader| leader.name.clone()),
            term: replica.term,
            committed: replica.committed.unwrap_or(0),
            applied: state.meta.index,
            voters,
            quorum: !read.stale,
            state_hash: format!("{:032x}", read.published.hash),
            live_updates: live as u32,
            slices: state.slices.len() as u32,
            sessions: state.sessions.len() as u32,
            session_states: self.sessions(deadline, state).await,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            voter_changes: self.voters.changes(&read.published, deadline).await,
            alerts,
            feature_level: state.meta.feature_level,
            feature_level_held_back_by: match verbose {
                true => standing.hold_back(state),
                false => Vec::new(),
            },
        }))
    }

    async fn nodes(
        &self,
        request: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let page = Page::of("Cluster.Nodes", "", request.page_size, &request.page_token)?;
        let read = self.views.control.read(false, deadline).await;
        let state = &read.published.state;
        let now_ms = self.views.now_ms(&read, deadline).await;
        let rows = state.nodes.values().map(|record| (record.name.clone(), record));
        let rows = rows.filter(|(name, _)| page.wants(name));
        let waits = planner::placement_waits(state, now_ms);
        let (nodes, next_page_token) =
            page.cut(rows, |record| render::node(state, record, &waits, now_ms));
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::NodesResponse { nodes, as_of, next_page_token }))
    }

    async fn set_node_schedule(
        &self,
        request: Request<v1::SetNodeScheduleRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let (deadline, request) = Deadline::split(request);
        let node: NodeName = status::parsed("node", &request.node)?;
        let schedule = match request.schedule.to_ascii_uppercase().as_str() {
            "OPEN" => NodeSchedule::Open,
            "CORDONED" => NodeSchedule::Cordoned,
            "DRAINING" => NodeSchedule::Draining,
            _ => {
                return Err(status::invalid("schedule", "must be OPEN, CORDONED or DRAINING"));
            }
        };
        let command = Command::SetNodeSchedule { node: node.clone(), schedule };
        let control = &self.views.control;
        let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
        let read = Read::after_write(control.local());
        let now_ms = self.views.now_ms(&read, deadline).await;
        let state = &read.published.state;
        let record = state.nodes.get(&node).ok_or_else(|| unknown(&node))?;
        let waits = planner::placement_waits(state, now_ms);
        let shown = render::node(state, record, &waits, now_ms);
        let notes = answer.note.into_iter().chain(shown.waits_for.iter().cloned());
        let note = notes.collect::<Vec<_>>().join("; ");
        Ok(Response::new(v1::Node { note, ..shown }))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let node: NodeName = status::parsed("node", &request.node)?;
        let note = format!("node {node} is forgotten; should it come back, it begins empty");
        let command = Command::ForgetNode { node, force: request.force };
        let control = &self.views.control;
        control.write(deadline, &request.actor, &request.request_id, command).await?;
        Ok(Response::new(v1::ForgetNodeResponse { note }))
    }

    async fn kv_get(
        &self,
        request: Request<v1::KvGetRequest>,
    ) -> Result<Response<v1::KvEntry>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.kv.get(deadline, request).await.map(Response::new)
    }

    async fn kv_put(
        &self,
        request: Request<v1::KvPutRequest>,
    ) -> Result<Response<v1::KvPutResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.kv.put(deadline, request).await.map(Response::new)
    }

    async fn kv_delete(
        &self,
        request: Request<v1::KvDeleteRequest>,
    ) -> Result<Response<v1::KvDeleteResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.kv.delete(deadline, request).await.map(Response::new)
    }

    async fn kv_list(
        &self,
        request: Request<v1::KvListRequest>,
    ) -> Result<Response<v1::KvListResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.kv.list(deadline, request).await.map(Response::new)
    }

    async fn kv_watch(
        &self,
        request: Request<v1::KvWatchRequest>,
    ) -> Result<Response<Self::KvWatchStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.kv.watch(deadline, request).await
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.events.open(deadline, request).await
    }

    async fn snapshot_save(
        &self,
        request: Request<v1::SnapshotSaveRequest>,
    ) -> Result<Response<Self::SnapshotSaveStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        self.snapshots.save(deadline, request).await
    }
}
