//! A fake of the services behind the gateway: it notes the last request and
//! answers with what the test asked for.

use std::pin::Pin;
use std::sync::{Arc, Mutex};

use aether_gateway::Services;
use aether_proto::v1;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_server::Slices;
use aether_proto::v1::updates_server::Updates;
use aether_proto::v1::voters_server::Voters;
use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio_stream::Stream;
use tonic::codegen::{Service, async_trait};
use tonic::{Response, Status, Streaming};

use crate::contract::Contract;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Default)]
struct Inner {
    refusal: Option<Status>,
    asked: Option<String>,
    deadline: bool,
    archive: Vec<u8>,
    story: Vec<Result<v1::EventsResponse, Status>>,
    goes_on: bool,
}

/// The services; clones share what they noted.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    pub fn refuse(&self, status: Status) {
        self.0.lock().unwrap().refusal = Some(status);
    }
    /// What a reader of events is told.
    pub fn will_tell(&self, story: Vec<Result<v1::EventsResponse, Status>>) {
        self.0.lock().unwrap().story = story;
    }
    /// The story is told over and over again, or has no end: silence follows.
    pub fn goes_on(&self) {
        self.0.lock().unwrap().goes_on = true;
    }
    /// The last request, as its `Debug` shows it.
    pub fn asked(&self) -> Option<String> {
        self.0.lock().unwrap().asked.take()
    }
    /// The bytes of the last archive that was pushed whole.
    pub fn archive(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap().archive)
    }
    pub fn saw_deadline(&self) -> bool {
        self.0.lock().unwrap().deadline
    }

    async fn answer<M: std::fmt::Debug, T>(
        &self,
        request: tonic::Request<M>,
        answer: T,
    ) -> Result<Response<T>, Status> {
        let mut inner = self.0.lock().unwrap();
        inner.deadline = request.metadata().contains_key("grpc-timeout");
        inner.asked = Some(format!("{:?}", request.get_ref()));
        inner.refusal.clone().map_or(Ok(Response::new(answer)), Err)
    }
}

pub fn update() -> v1::Update {
    v1::Update {
        update_id: "u1f".into(),
        artifact_base: "org.example:my-slice".into(),
        state: "DEPLOYED".into(),
        old_version: Some("1.0.0".into()),
        new_version: "2.0.0".into(),
        routing: "0:1".into(),
        modified: 42,
        ..Default::default()
    }
}

fn plan() -> v1::UpdatePlan {
    let step = v1::PlanStep { event: "started".into(), by_person: true, ..Default::default() };
    let ratio = v1::PlanRefusedRatio { routing: "1:0".into(), needed: 3, ready: 1 };
    v1::UpdatePlan {
        new_version: "2.0.0".into(),
        steps: vec![step],
        refused_ratios: vec![ratio],
        nodes: vec![v1::PlanNode::default()],
        ..Default::default()
    }
}

fn history() -> v1::UpdateHistory {
    let entry = v1::HistoryEntry { index: 7, actor: "ci".into(), ..Default::default() };
    v1::UpdateHistory { update_id: "u1f".into(), entries: vec![entry], ..Default::default() }
}

fn diff() -> v1::RevisionDiff {
    let path = "manifest.run.env.MODE".into();
    let change = v1::FieldChange { path, before: None, after: Some("\"fast\"".into()) };
    v1::RevisionDiff {
        slice: "org.example:my-slice".into(),
        to: Some(v1::Revision { number: 2, ..Default::default() }),
        changes: vec![change],
        ..Default::default()
    }
}

pub fn slice() -> v1::Slice {
    let instance = v1::Instance {
        instance_id: "my-slice-1-0".into(),
        state: "READY".into(),
        ..Default::default()
    };
    v1::Slice {
        slice: "org.example:my-slice".into(),
        version: Some("1.0.0".into()),
        instances_state: vec![instance],
        ..Default::default()
    }
}

pub fn artifact() -> v1::Artifact {
    v1::Artifact {
        artifact: "org.example:my-slice:1.0.0".into(),
        sha256: SHA256.into(),
        size_bytes: ARCHIVE.len() as u64,
        held_by: vec!["n1".into()],
        pushed_at: 1_704_067_200_000,
        manifest: "artifact = \"org.example:my-slice:1.0.0\"\n".into(),
        as_of: None,
    }
}

/// What the fake keeps as an archive.
pub const ARCHIVE: &[u8] = b"an archive in three pieces";
/// Its sha256 as it is known; nobody looks.
pub const SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn version(version: &str, request_count: u64, error_rate: f64, ms: f64) -> v1::VersionHealth {
    v1::VersionHealth {
        version: version.into(),
        request_count,
        error_rate,
        avg_latency_ms: ms,
        ..Default::default()
    }
}

#[async_trait]
impl Updates for Fake {
    async fn start(
        &self,
        request: tonic::Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn get(
        &self,
        request: tonic::Request<v1::GetUpdateRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn list(
        &self,
        request: tonic::Request<v1::ListUpdatesRequest>,
    ) -> Result<Response<v1::ListUpdatesResponse>, Status> {
        let answer = v1::ListUpdatesResponse { updates: vec![update()], ..Default::default() };
        self.answer(request, answer).await
    }
    async fn set_routing(
        &self,
        request: tonic::Request<v1::SetRoutingRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn approve(
        &self,
        request: tonic::Request<v1::ApproveRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn complete(
        &self,
        request: tonic::Request<v1::CompleteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn rollback(
        &self,
        request: tonic::Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn resume(
        &self,
        request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn pause(
        &self,
        request: tonic::Request<v1::PauseRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn promote(
        &self,
        request: tonic::Request<v1::PromoteRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn health(
        &self,
        request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHealth>, Status> {
        let answer = v1::UpdateHealth {
            update_id: "u1f".into(),
            old_version: Some(version("1.0.0", 1000, 0.001, 45.0)),
            new_version: Some(version("2.0.0", 250, 0.002, 50.0)),
            collected_at: 1_704_067_200_000,
            verdict: "healthy".into(),
            detail: String::new(),
            as_of: Some(v1::AsOf { index: 42, stale: true, node: "n1".into() }),
            ..Default::default()
        };
        self.answer(request, answer).await
    }
    async fn explain(
        &self,
        request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let wait = v1::Wait { code: "operator".into(), ..Default::default() };
        let answer = v1::Explanation {
            update_id: "u1f".into(),
            state: "DEPLOYED".into(),
            waits: vec![wait],
            deadline: Some(v1::Deadline { in_ms: -5, action: "ALERT".into() }),
            ..Default::default()
        };
        self.answer(request, answer).await
    }
    async fn undo(
        &self,
        request: tonic::Request<v1::UndoRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn cleanup(
        &self,
        request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn set_options(
        &self,
        request: tonic::Request<v1::SetOptionsRequest>,
    ) -> Result<Response<v1::Update>, Status> {
        self.answer(request, update()).await
    }
    async fn plan(
        &self,
        request: tonic::Request<v1::StartUpdateRequest>,
    ) -> Result<Response<v1::UpdatePlan>, Status> {
        self.answer(request, plan()).await
    }
    async fn history(
        &self,
        request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<v1::UpdateHistory>, Status> {
        self.answer(request, history()).await
    }
    async fn diff(
        &self,
        request: tonic::Request<v1::DiffRequest>,
    ) -> Result<Response<v1::RevisionDiff>, Status> {
        self.answer(request, diff()).await
    }
    type WatchStream = Answers<v1::Update>;
    async fn watch(
        &self,
        _request: tonic::Request<v1::UpdateRef>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
}

fn config() -> v1::SliceConfig {
    v1::SliceConfig {
        slice: "org.example:my-slice".into(),
        number: 3,
        files: [("app.conf".to_owned(), "x = 1\n".to_owned())].into(),
        ..Default::default()
    }
}

#[async_trait]
impl Slices for Fake {
    async fn deploy(
        &self,
        request: tonic::Request<v1::DeployRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        self.answer(request, slice()).await
    }
    async fn scale(
        &self,
        request: tonic::Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        self.answer(request, slice()).await
    }
    async fn set_current(
        &self,
        request: tonic::Request<v1::SetCurrentRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        self.answer(request, slice()).await
    }
    async fn undeploy(
        &self,
        request: tonic::Request<v1::UndeployRequest>,
    ) -> Result<Response<v1::UndeployResponse>, Status> {
        self.answer(request, v1::UndeployResponse::default()).await
    }
    async fn list(
        &self,
        request: tonic::Request<v1::ListSlicesRequest>,
    ) -> Result<Response<v1::ListSlicesResponse>, Status> {
        let as_of = Some(v1::AsOf { index: 42, stale: false, node: "n1".into() });
        let answer = v1::ListSlicesResponse { slices: vec![slice()], as_of, ..Default::default() };
        self.answer(request, answer).await
    }
    async fn push_config(
        &self,
        request: tonic::Request<v1::PushConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        self.answer(request, config()).await
    }
    async fn get_config(
        &self,
        request: tonic::Request<v1::GetConfigRequest>,
    ) -> Result<Response<v1::SliceConfig>, Status> {
        self.answer(request, config()).await
    }
    async fn list_configs(
        &self,
        request: tonic::Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        let answer = v1::ListConfigsResponse { configs: vec![config()], as_of: None };
        self.answer(request, answer).await
    }
    type LogsStream = Answers<v1::LogLine>;
    async fn logs(
        &self,
        request: tonic::Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let line = |line: &str| {
            let (instance_id, node) = ("my-slice-1-0".into(), "n1".into());
            Ok(v1::LogLine { instance_id, node, stream: "stdout".into(), line: line.into() })
        };
        let lines = tokio_stream::iter([line("one"), line("two")]);
        self.answer(request, Box::pin(lines) as Answers<_>).await
    }
}

#[async_trait]
impl Artifacts for Fake {
    async fn push(
        &self,
        request: tonic::Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<v1::Artifact>, Status> {
        use v1::push_request::Part;
        let mut messages = request.into_inner();
        let Some(v1::PushRequest { part: Some(Part::Header(header)) }) = messages.message().await?
        else {
            return Err(Status::invalid_argument("part: the first one must be the header"));
        };
        let mut archive = Vec::new();
        while let Some(message) = messages.message().await? {
            match message.part {
                Some(Part::Chunk(chunk)) => archive.extend(chunk),
                other => return Err(Status::invalid_argument(format!("part: {other:?}"))),
            }
        }
        self.0.lock().unwrap().archive = archive;
        self.answer(tonic::Request::new(header), artifact()).await
    }
    async fn list(
        &self,
        request: tonic::Request<v1::ListArtifactsRequest>,
    ) -> Result<Response<v1::ListArtifactsResponse>, Status> {
        let answer =
            v1::ListArtifactsResponse { artifacts: vec![artifact()], ..Default::default() };
        self.answer(request, answer).await
    }
    async fn info(
        &self,
        request: tonic::Request<v1::ArtifactInfoRequest>,
    ) -> Result<Response<v1::Artifact>, Status> {
        if request.get_ref().artifact != artifact().artifact {
            return Err(Status::not_found("push it first"));
        }
        self.answer(request, artifact()).await
    }
    async fn remove(
        &self,
        request: tonic::Request<v1::RemoveArtifactRequest>,
    ) -> Result<Response<v1::RemoveArtifactResponse>, Status> {
        self.answer(request, v1::RemoveArtifactResponse { note: "it goes".into() }).await
    }
    type FetchStream = Answers<v1::FetchResponse>;
    async fn fetch(
        &self,
        request: tonic::Request<v1::FetchRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let pieces =
            ARCHIVE.chunks(10).map(|piece| Ok(v1::FetchResponse { chunk: piece.to_vec() }));
        let pieces = tokio_stream::iter(pieces.collect::<Vec<_>>());
        self.answer(request, Box::pin(pieces) as Answers<_>).await
    }
}

#[async_trait]
impl Voters for Fake {
    async fn list(
        &self,
        request: tonic::Request<v1::ListVotersRequest>,
    ) -> Result<Response<v1::ListVotersResponse>, Status> {
        let member = v1::Member { name: "n1".into(), voter: true, ..Default::default() };
        let answer = v1::ListVotersResponse { members: vec![member], ..Default::default() };
        self.answer(request, answer).await
    }
    async fn add(
        &self,
        request: tonic::Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        let change = v1::VoterChange { stage: "INVITED".into(), ..Default::default() };
        self.answer(request, change).await
    }
    async fn remove(
        &self,
        request: tonic::Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::VoterChange>, Status> {
        let change = v1::VoterChange { stage: "CHANGING".into(), ..Default::default() };
        self.answer(request, change).await
    }
    async fn transfer_leader(
        &self,
        request: tonic::Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        self.answer(request, v1::TransferLeaderResponse { leader: "n2".into() }).await
    }
    async fn join(
        &self,
        request: tonic::Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        self.answer(request, v1::JoinResponse { raft_id: 1_007 }).await
    }
}

#[async_trait]
impl Cluster for Fake {
    async fn status(
        &self,
        request: tonic::Request<v1::StatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        let answer = v1::ClusterStatus {
            node: "n1".into(),
            state_hash: "ff".into(),
            quorum: true,
            ..Default::default()
        };
        self.answer(request, answer).await
    }
    async fn nodes(
        &self,
        request: tonic::Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        let node = v1::Node { name: "n1".into(), instances_max: 7, ..Default::default() };
        let answer = v1::NodesResponse { nodes: vec![node], ..Default::default() };
        self.answer(request, answer).await
    }
    async fn set_node_schedule(
        &self,
        request: tonic::Request<v1::SetNodeScheduleRequest>,
    ) -> Result<Response<v1::Node>, Status> {
        let node =
            v1::Node { name: "n1".into(), schedule: "CORDONED".into(), ..Default::default() };
        self.answer(request, node).await
    }
    async fn forget_node(
        &self,
        request: tonic::Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeResponse>, Status> {
        self.answer(request, v1::ForgetNodeResponse { note: "n1 is forgotten".into() }).await
    }
    async fn kv_get(
        &self,
        request: tonic::Request<v1::KvGetRequest>,
    ) -> Result<Response<v1::KvEntry>, Status> {
        let value_json = r#"{"name":"n1"}"#.to_owned();
        let as_of = Some(v1::AsOf { index: 7, stale: false, node: "n1".into() });
        let key = request.get_ref().key.clone();
        self.answer(request, v1::KvEntry { key, value_json, as_of }).await
    }
    async fn kv_put(
        &self,
        request: tonic::Request<v1::KvPutRequest>,
    ) -> Result<Response<v1::KvPutResponse>, Status> {
        self.answer(request, v1::KvPutResponse { index: 8 }).await
    }
    async fn kv_delete(
        &self,
        request: tonic::Request<v1::KvDeleteRequest>,
    ) -> Result<Response<v1::KvDeleteResponse>, Status> {
        self.answer(request, v1::KvDeleteResponse { index: 9 }).await
    }
    async fn kv_list(
        &self,
        request: tonic::Request<v1::KvListRequest>,
    ) -> Result<Response<v1::KvListResponse>, Status> {
        let entry = v1::KvEntry {
            key: "nodes/n1".into(),
            value_json: r#"{"name":"n1"}"#.into(),
            as_of: None,
        };
        let as_of = Some(v1::AsOf { index: 7, stale: false, node: "n1".into() });
        let next_page_token = "6e6f".into();
        let answer = v1::KvListResponse { entries: vec![entry], next_page_token, as_of };
        self.answer(request, answer).await
    }
    type KvWatchStream = Answers<v1::KvChange>;
    async fn kv_watch(
        &self,
        _request: tonic::Request<v1::KvWatchRequest>,
    ) -> Result<Response<Self::KvWatchStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
    type SnapshotSaveStream = Answers<v1::SnapshotPart>;
    async fn snapshot_save(
        &self,
        _request: tonic::Request<v1::SnapshotSaveRequest>,
    ) -> Result<Response<Self::SnapshotSaveStream>, Status> {
        Ok(Response::new(Box::pin(tokio_stream::empty())))
    }
    type EventsStream = Answers<v1::EventsResponse>;
    async fn events(
        &self,
        request: tonic::Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let (story, goes_on) = {
            let inner = self.0.lock().unwrap();
            (inner.story.clone(), inner.goes_on)
        };
        let told: Answers<v1::EventsResponse> = match (goes_on, story.is_empty()) {
            (false, _) => Box::pin(tokio_stream::iter(story)),
            (true, true) => Box::pin(tokio_stream::pending()),
            (true, false) => Box::pin(tokio_stream::iter(story.into_iter().cycle())),
        };
        self.answer(request, told).await
    }
}

/// One answer of the gateway.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts that this is a well-formed problem, and gives its code.
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let json = self.json();
        assert_eq!(json["status"], status);
        assert_eq!(json["error"], json["detail"]);
        assert!(json["detail"].as_str().unwrap().chars().count() < 700, "{}", self.text);
        assert!(json["title"].is_string());
        let code = json["code"].as_str().unwrap().to_owned();
        assert_eq!(json["type"], format!("urn:aether:problem:{code}"));
        code
    }
}

/// A gateway over a fake.
pub struct Gateway {
    pub fake: Fake,
    pub router: Router,
    contract: OnceCell<Contract>,
}

impl Gateway {
    pub fn new() -> Self {
        Self::with_readiness(Ok(()))
    }

    pub fn with_readiness(ready: Result<(), String>) -> Self {
        let fake = Fake::default();
        let part = || Arc::new(fake.clone());
        let services = Services {
            updates: part(),
            slices: part(),
            artifacts: part(),
            voters: part(),
            cluster: part(),
        };
        let metrics = || "aether_up 1\n".to_owned();
        let router = aether_gateway::router(services, move || ready.clone(), metrics);
        Self { fake, router, contract: OnceCell::new() }
    }

    /// Sends a request, and holds the answer against the document.
    pub async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = self.call(request).await;
        self.contract().await.check(&method, &path, &answer);
        answer
    }

    /// The document that this gateway gives.
    pub async fn contract(&self) -> &Contract {
        let document = async {
            let request = Request::get("/openapi.json").body(Body::empty()).unwrap();
            Contract(self.call(request).await.json())
        };
        self.contract.get_or_init(|| document).await
    }

    async fn call(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// A POST as curl does it: a content type only with a body.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        self.post_with(path, body, &[]).await
    }

    pub async fn post_with(&self, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }
}
