//! What voters say to each other beside Raft. Mounted on the peer listener.

use std::sync::Arc;

use aether_proto::peer;
use aether_proto::peer::peer_server::Peer;
use tonic::{Request, Response, Status};

use super::artifacts::ArtifactsService;
use crate::control::Control;
use crate::leader::LeaderView;
use crate::status;

/// The `Peer` service.
#[derive(Clone)]
pub struct PeerService {
    control: Control,
    leader: Arc<LeaderView>,
    artifacts: ArtifactsService,
}

impl PeerService {
    /// Over the node's parts.
    pub fn new(control: Control, leader: Arc<LeaderView>, artifacts: ArtifactsService) -> Self {
        Self { control, leader, artifacts }
    }

    fn check_leader(&self) -> Result<(), Status> {
        let leadership = self.control.replica().leadership();
        let leads = leadership.borrow().is_leader;
        leads
            .then_some(())
            .ok_or_else(|| Status::failed_precondition("this node is not the leader"))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn report(
        &self,
        request: Request<peer::ReportRequest>,
    ) -> Result<Response<peer::ReportResponse>, Status> {
        self.check_leader()?;
        let term = self.control.replica().leadership().borrow().term;
        match self.leader.absorb(term, request.into_inner()) {
            true => Ok(Response::new(peer::ReportResponse {})),
            false => Err(Status::failed_precondition("this node has not taken over yet")),
        }
    }

    async fn leader_view(
        &self,
        request: Request<peer::LeaderViewRequest>,
    ) -> Result<Response<peer::LeaderViewResponse>, Status> {
        self.check_leader()?;
        let published = self.control.local();
        let now_ms = self.control.replica().now_ms().unwrap_or_else(|| published.now_ms());
        let view = self.leader.answer(&published.state, &request.into_inner(), now_ms);
        Ok(Response::new(view))
    }

    async fn members(
        &self,
        _: Request<peer::MembersRequest>,
    ) -> Result<Response<peer::MembersResponse>, Status> {
        self.check_leader()?;
        let members = self.control.replica().membership();
        let members = members.ok_or_else(|| status::unavailable("this node leads no more"))?;
        Ok(Response::new(peer::MembersResponse {
            voters: members.voters.into_iter().collect(),
            learners: members.learners.into_iter().collect(),
            joint: members.is_joint,
            caught_up: members.caught_up.into_iter().collect(),
            alive: members.alive.into_iter().collect(),
            leader: members.leader,
            lost: members.lost.into_iter().collect(),
        }))
    }

    async fn hand_over(
        &self,
        request: Request<peer::HandOverRequest>,
    ) -> Result<Response<peer::HandOverResponse>, Status> {
        // Not for the caller to see: somebody else leads by now.
        self.check_leader().map_err(|status| status::unavailable(status.message()))?;
        let to = request.into_inner().to;
        let leader = self.control.replica().transfer_leadership(to.as_deref()).await;
        let leader = leader.map_err(super::voters::not_moved)?;
        Ok(Response::new(peer::HandOverResponse { leader: leader.name }))
    }

    async fn hold_archive(
        &self,
        request: Request<peer::HoldArchiveRequest>,
    ) -> Result<Response<peer::HoldArchiveResponse>, Status> {
        let peer::HoldArchiveRequest { sha256, from } = request.into_inner();
        let digest = status::parsed("sha256", &sha256)?;
        let artifacts = self.artifacts.clone();
        // Goes on when the other end has heard enough: the archive is wanted
        // here all the same.
        let held = tokio::spawn(async move { artifacts.hold_archive(digest, &from).await });
        held.await.map_err(|error| Status::internal(error.to_string()))??;
        Ok(Response::new(peer::HoldArchiveResponse {}))
    }
}
