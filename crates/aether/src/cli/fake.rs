//! A fake node for tests: the services for updates and events over a real
//! connection, which note what they are asked and answer with what the test gave.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_proto::v1;
use aether_proto::v1::cluster_server::{Cluster, ClusterServer};
use aether_proto::v1::updates_server::{Updates, UpdatesServer};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codegen::async_trait;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::client::Client;

#[derive(Default)]
struct Inner {
    asked: Vec<String>,
    refusal: Option<Status>,
    story: Vec<Result<v1::Update, Status>>,
    events: Vec<Result<v1::EventsResponse, Status>>,
    hangs_up: bool,
}

/// The node; clones are the same.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>, Arc<Notify>);

/// An address that accepts connections, as long as the listener is held, and
/// says nothing.
pub fn frozen() -> (String, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().to_string(), listener)
}

/// An update of which only id and state matter.
pub fn update(id: &str, state: &str) -> v1::Update {
    v1::Update { update_id: id.into(), state: state.into(), ..Default::default() }
}

/// A client over these addresses.
pub fn client(addresses: &[String]) -> Client {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Client::new(addresses, Duration::from_secs(20), "test".into()).unwrap()
}

impl Fake {
    /// What a watch tells, one message after the other, and then nothing more.
    pub fn will_tell(&self, story: Vec<Result<v1::Update, Status>>) {
        self.0.lock().unwrap().story = story;
    }

    /// What a reader of events is told, and then nothing more.
    pub fn will_tell_events(&self, events: Vec<Result<v1::EventsResponse, Status>>) {
        self.0.lock().unwrap().events = events;
    }

    /// What every request is answered with.
    pub fn will_refuse(&self, status: Status) {
        self.0.lock().unwrap().refusal = Some(status);
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// Serves on a port of its own until the runtime ends; gives the address.
    pub async fn serve(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = Server::builder()
            .add_service(UpdatesServer::new(self.clone()))
            .add_service(ClusterServer::new(self.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        address
    }

    /// Likewise, but instead of answering an update's request it hangs up.
    pub async fn serve_until_asked(&self) -> String {
        self.0.lock().unwrap().hangs_up = true;
        let behind = self.serve().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = self.1.clone();
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let (behind, asked) = (behind.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut to = TcpStream::connect(behind).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut from, &mut to) => {}
                        () = asked.notified() => {}
                    }
                });
            }
        });
        address
    }

    async fn note(&self, asked: String) -> Result<(), Status> {
        let (refusal, hangs_up) = {
            let mut inner = self.0.lock().unwrap();
            inner.asked.push(asked);
            (inner.refusal.clone(), inner.hangs_up)
        };
        if hangs_up {
            self.1.notify_waiters();
            std::future::pending::<()>().await;
        }
        refusal.map_or(Ok(()), Err)
    }

    fn not_here<T>() -> Result<Response<T>, Status> {
        Err(Status::unimplemented("not part of this fake"))
    }
}

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Cluster for Fake {
    type EventsStream = Told<v1::EventsResponse>;
    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let after =
            request.after.map_or("nothing".to_owned(), |at| format!("{}.{}", at.index, at.n));
        self.note(format!("events {} after {after}", request.subject)).await?;
        let events = self.0.lock().unwrap().events.clone();
        Ok(Response::new(Box::pin(tokio_stream::iter(events).chain(tokio_stream::pending()))))
    }

    type KvWatchStream = Told<v1::KvChange>;
    async fn kv_watch(
        &self,
        _: Request<v1::KvWatchRequest>,
    ) -> Result<Response<Self::KvWatchStream>, Status> {
        Self::not_here()
    }
    async fn kv_list(
        &self,
        _: Request<v1::KvListRequest>,
    ) -> Result<Response<v1::KvListResponse>, Status> {
        Self::not_here()
    }
    async fn kv_get(&self, _: Request<v1::KvGetRequest>) -> Result<Response<v1::KvEntry>, Status> {
        Self::not_here()
    }
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        Self::not_here()
    }
    async fn nodes(
        &self,
        _: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        Self::not_here()
    }
    async fn set_node_schedule(
        &self,
        _: Request<v1::SetNodeScheduleRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        Self::not_here()
    }
    async fn forget_node(
        &self,
        _: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        Self::not_here()
    }
}

#[async_trait]
impl Updates for Fake {
    async fn complete(
        &self,
        request: Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        let request = request.into_inner();
        self.note(format!("complete {} {}", request.update_id, request.request_id)).await?;
        Ok(Response::new(update(&request.update_id, "COMPLETING")))
    }

    type WatchStream = Told<v1::Update>;
    async fn watch(
        &self,
        request: Request<v1::UpdateRef>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.note(format!("watch {}", request.into_inner().update_id)).await?;
        let story = self.0.lock().unwrap().story.clone();
        Ok(Response::new(Box::pin(tokio_stream::iter(story).chain(tokio_stream::pending()))))
    }

    async fn start(
        &self,
        _: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn get(&self, _: Request<v1::GetUpdateRequest>) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn list(
        &self,
        _: Request<v1::ListUpdatesRequest>,
    ) -> Result<Response<v1::ListUpdatesResponse>, Status> {
        self.note("list".to_owned()).await?;
        Self::not_here()
    }
    async fn set_routing(
        &self,
        _: Request<v1::SetRoutingRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn approve(&self, _: Request<v1::UpdateRef>) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn rollback(
        &self,
        _: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn resume(&self, _: Request<v1::UpdateRef>) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn health(
        &self,
        _: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHealth>, Status> {
        Self::not_here()
    }
    async fn explain(
        &self,
        _: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        Self::not_here()
    }
    async fn undo(&self, _: Request<v1::UndoRequest>) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn cleanup(&self, _: Request<v1::UpdateRef>) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn set_options(
        &self,
        _: Request<v1::SetOptionsRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        Self::not_here()
    }
    async fn plan(
        &self,
        _: Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::UpdatePlan>, Status> {
        Self::not_here()
    }
    async fn history(
        &self,
        _: Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHistory>, Status> {
        Self::not_here()
    }
    async fn diff(
        &self,
        _: Request<v1::DiffRequest>,
    ) -> Result<Response<v1::RevisionDiff>, Status> {
        Self::not_here()
    }
}
