//! A voter's services as a worker's REST gateway calls them.

use std::pin::Pin;
use std::sync::Arc;

use aether_proto::v1;
use aether_proto::v1::artifacts_client::ArtifactsClient;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_client::SlicesClient;
use aether_proto::v1::slices_server::Slices;
use aether_proto::v1::updates_client::UpdatesClient;
use aether_proto::v1::updates_server::Updates;
use aether_proto::v1::voters_client::VotersClient;
use futures::{Stream, StreamExt, stream};
use tokio::sync::oneshot;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::forward::{Voters, unreachable};

type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The services of whichever voter can be reached.
pub struct Remote {
    voters: Arc<Voters>,
}

impl Remote {
    /// Connects when something is asked.
    pub fn new(voters: Arc<Voters>) -> Self {
        Self { voters }
    }

    async fn channel(&self) -> Result<Channel, Status> {
        self.voters.reachable().await.ok_or_else(unreachable)
    }
}

#[tonic::async_trait]
impl Updates for Remote {
    type WatchStream = Streamed<v1::Update>;

    async fn start(
        &self,
        request: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).start(request).await
    }

    async fn get(
        &self,
        request: Request<v1::GetUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).get(request).await
    }

    async fn list(
        &self,
        request: Request<v1::ListUpdatesRequest>,
    ) -> Result<Response<v1::ListUpdatesResponse>, Status> {
        UpdatesClient::new(self.channel().await?).list(request).await
    }

    async fn set_routing(
        &self,
        request: Request<v1::SetRoutingRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).set_routing(request).await
    }

    async fn approve(
        &self,
        request: Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).approve(request).await
    }

    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).complete(request).await
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).rollback(request).await
    }

    async fn resume(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).resume(request).await
    }

    async fn pause(
        &self,
        request: Request<v1::PauseRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).pause(request).await
    }

    async fn promote(
        &self,
        request: Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).promote(request).await
    }

    async fn health(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHealth>, Status> {
        UpdatesClient::new(self.channel().await?).health(request).await
    }

    async fn explain(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        UpdatesClient::new(self.channel().await?).explain(request).await
    }

    async fn undo(
        &self,
        request: Request<v1::UndoRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).undo(request).await
    }

    async fn cleanup(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).cleanup(request).await
    }

    async fn set_options(
        &self,
        request: Request<v1::SetOptionsRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        UpdatesClient::new(self.channel().await?).set_options(request).await
    }

    async fn plan(
        &self,
        request: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::UpdatePlan>, Status> {
        UpdatesClient::new(self.channel().await?).plan(request).await
    }

    async fn history(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHistory>, Status> {
        UpdatesClient::new(self.channel().await?).history(request).await
    }

    async fn diff(
        &self,
        request: Request<v1::DiffRequest>,
    ) -> Result<Response<v1::RevisionDiff>, Status> {
        UpdatesClient::new(self.channel().await?).diff(request).await
    }

    async fn watch(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let answer = UpdatesClient::new(self.channel().await?).watch(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }
}

#[tonic::async_trait]
impl Slices for Remote {
    type LogsStream = Streamed<v1::LogLine>;

    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        SlicesClient::new(self.channel().await?).deploy(request).await
    }

    async fn scale(
        &self,
        request: Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        SlicesClient::new(self.channel().await?).scale(request).await
    }

    async fn set_current(
        &self,
        request: Request<v1::SetCurrentRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        SlicesClient::new(self.channel().await?).set_current(request).await
    }

    async fn undeploy(
        &self,
        request: Request<v1::UndeployRequest>,
    ) -> Result<Response<v1::UndeployResponse>, Status> {
        SlicesClient::new(self.channel().await?).undeploy(request).await
    }

    async fn push_config(
        &self,
        request: Request<v1::PushConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        SlicesClient::new(self.channel().await?).push_config(request).await
    }

    async fn get_config(
        &self,
        request: Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        SlicesClient::new(self.channel().await?).get_config(request).await
    }

    async fn list_configs(
        &self,
        request: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        SlicesClient::new(self.channel().await?).list_configs(request).await
    }

    async fn list(
        &self,
        request: Request<v1::ListSlicesRequest>,
    ) -> Result<Response<v1::ListSlicesResponse>, Status> {
        SlicesClient::new(self.channel().await?).list(request).await
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let answer = SlicesClient::new(self.channel().await?).logs(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }
}

/// Messages to be handed on, and why they ended early, if they did: then they
/// stop, but do not end, as an end would say that all of them came.
fn handed_on<M: Send + 'static>(
    messages: Streaming<M>,
) -> (impl Stream<Item = M> + Send + 'static, oneshot::Receiver<Status>) {
    let (failed, failure) = oneshot::channel();
    let handed = stream::unfold((messages, Some(failed)), |(mut messages, mut failed)| async {
        match messages.next().await? {
            Ok(message) => Some((message, (messages, failed))),
            Err(status) => {
                // Nobody listens any more when the call has ended already.
                let _ = failed.take()?.send(status);
                std::future::pending().await
            }
        }
    });
    (handed, failure)
}

#[tonic::async_trait]
impl Artifacts for Remote {
    type FetchStream = Streamed<v1::FetchResponse>;

    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        let mut client = ArtifactsClient::new(self.channel().await?);
        let (messages, failure) = handed_on(request.into_inner());
        tokio::select! {
            answer = client.push(messages) => answer,
            // Giving the call up tells the voter that the rest will not come.
            Ok(status) = failure => Err(status),
        }
    }

    async fn list(
        &self,
        request: Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        ArtifactsClient::new(self.channel().await?).list(request).await
    }

    async fn info(
        &self,
        request: Request<v1::ArtifactInfoRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        ArtifactsClient::new(self.channel().await?).info(request).await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveArtifactRequest>,
    ) -> Result<Response<v1::RemoveArtifactResponse>, Status> {
        ArtifactsClient::new(self.channel().await?).remove(request).await
    }

    async fn fetch(
        &self,
        request: Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let answer = ArtifactsClient::new(self.channel().await?).fetch(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }
}

#[tonic::async_trait]
impl v1::voters_server::Voters for Remote {
    async fn list(
        &self,
        request: Request<v1::ListVotersRequest>,
    ) -> Result<Response<v1::ListVotersResponse>, Status> {
        VotersClient::new(self.channel().await?).list(request).await
    }

    async fn add(
        &self,
        request: Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        VotersClient::new(self.channel().await?).add(request).await
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        VotersClient::new(self.channel().await?).remove(request).await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        VotersClient::new(self.channel().await?).transfer_leader(request).await
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        VotersClient::new(self.channel().await?).join(request).await
    }
}

#[tonic::async_trait]
impl Cluster for Remote {
    type KvWatchStream = Streamed<v1::KvChange>;
    type EventsStream = Streamed<v1::EventsResponse>;
    type SnapshotSaveStream = Streamed<v1::SnapshotPart>;

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        ClusterClient::new(self.channel().await?).status(request).await
    }

    async fn nodes(
        &self,
        request: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        ClusterClient::new(self.channel().await?).nodes(request).await
    }

    async fn set_node_schedule(
        &self,
        request: Request<v1::SetNodeScheduleRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        ClusterClient::new(self.channel().await?).set_node_schedule(request).await
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        ClusterClient::new(self.channel().await?).forget_node(request).await
    }

    async fn kv_get(
        &self,
        request: Request<v1::KvGetRequest>,
    ) -> Result<Response<v1::KvEntry>, Status> {
        ClusterClient::new(self.channel().await?).kv_get(request).await
    }

    async fn kv_put(
        &self,
        request: Request<v1::KvPutRequest>,
    ) -> Result<Response<v1::KvPutResponse>, Status> {
        ClusterClient::new(self.channel().await?).kv_put(request).await
    }

    async fn kv_delete(
        &self,
        request: Request<v1::KvDeleteRequest>,
    ) -> Result<Response<v1::KvDeleteResponse>, Status> {
        ClusterClient::new(self.channel().await?).kv_delete(request).await
    }

    async fn kv_list(
        &self,
        request: Request<v1::KvListRequest>,
    ) -> Result<Response<v1::KvListResponse>, Status> {
        ClusterClient::new(self.channel().await?).kv_list(request).await
    }

    async fn kv_watch(
        &self,
        request: Request<v1::KvWatchRequest>,
    ) -> Result<Response<Self::KvWatchStream>, Status> {
        let answer = ClusterClient::new(self.channel().await?).kv_watch(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let answer = ClusterClient::new(self.channel().await?).events(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }

    async fn snapshot_save(
        &self,
        request: Request<v1::SnapshotSaveRequest>,
    ) -> Result<Response<Self::SnapshotSaveStream>, Status> {
        let answer = ClusterClient::new(self.channel().await?).snapshot_save(request).await?;
        Ok(answer.map(|stream| Box::pin(stream) as Streamed<_>))
    }
}
