//! Slices, their instances and their logs.

use std::collections::BTreeMap;
use std::time::Duration;

use aether_core::command::Command;
use aether_core::coordinates::{SliceName, SliceReference};
use aether_core::ids::{InstanceId, NodeName};
use aether_core::records::SliceRecord;
use aether_core::state::State;
use aether_proto::v1;
use aether_proto::v1::agent_logs_client::AgentLogsClient;
use aether_proto::v1::slices_server::Slices;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use super::Streamed;
use crate::control::Read;
use crate::deadline::Deadline;
use crate::views::Views;
use crate::{render, status};

/// Log lines shown per instance unless asked otherwise.
const TAIL: u32 = 100;
/// Most log lines per instance that can be asked for at once.
const TAIL_MAX: u32 = 10_000;
/// Lines queued towards one reader.
const QUEUED_MAX: usize = 256;
/// How long connecting to a node may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// The `Slices` service.
#[derive(Clone)]
pub struct SlicesService {
    views: Views,
}

fn parse(field: &'static str, text: &str) -> Result<SliceReference, Status> {
    text.parse().map_err(|e| status::invalid(field, e))
}

fn unknown(slice: &SliceName) -> Status {
    status::refused(&aether_core::command::Refusal::UnknownSlice { slice: slice.clone() })
}

impl SlicesService {
    /// Over the node's views.
    pub fn new(views: Views) -> Self {
        Self { views }
    }

    /// The slice as a write left it; an empty one if nothing is left of it.
    async fn show(&self, deadline: Deadline, slice: &SliceName) -> Response<v1::Slice> {
        let read = Read { published: self.views.control.local(), stale: false };
        let now_ms = self.views.now_ms(&read, deadline).await;
        let state = &read.published.state;
        let record = state.slices.get(slice).map(|record| (**record).clone());
        let record = record.unwrap_or_else(|| SliceRecord::empty(slice.clone()));
        Response::new(render::slice(state, &record, now_ms))
    }

    /// Reads one node's instances and passes the lines on.
    async fn relay(
        address: std::net::SocketAddr,
        request: v1::ReadLogsRequest,
        to: mpsc::Sender<Result<v1::LogLine, Status>>,
    ) {
        let failed = |problem: String| v1::LogLine {
            stream: "aether".to_owned(),
            line: format!("the logs at {address} cannot be read: {problem}"),
            ..Default::default()
        };
        let endpoint = match Endpoint::from_shared(format!("http://{address}")) {
            Ok(endpoint) => endpoint.connect_timeout(CONNECT_MAX),
            Err(error) => {
                let _ = to.send(Ok(failed(error.to_string()))).await;
                return;
            }
        };
        let mut client = AgentLogsClient::new(endpoint.connect_lazy());
        let mut lines = match client.read(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => {
                let _ = to.send(Ok(failed(status.message().to_owned()))).await;
                return;
            }
        };
        loop {
            tokio::select! {
                line = lines.next() => match line {
                    Some(Ok(line)) => if to.send(Ok(line)).await.is_err() { return },
                    Some(Err(status)) => {
                        let _ = to.send(Ok(failed(status.message().to_owned()))).await;
                        return;
                    }
                    None => return,
                },
                () = to.closed() => return,
            }
        }
    }
}

/// Instances by node that a logs request means.
fn log_targets(state: &State, target: &str) -> Result<BTreeMap<NodeName, Vec<InstanceId>>, Status> {
    let mut targets: BTreeMap<NodeName, Vec<InstanceId>> = BTreeMap::new();
    if !target.contains(':') {
        let id = target.parse::<InstanceId>().map_err(|e| status::invalid("target", e))?;
        let record = state.instances.get(&id).ok_or_else(|| {
            status::not_found(
                "unknown_instance",
                format!("instance {id} does not exist; 'aether slices' lists them"),
            )
        })?;
        targets.insert(record.node.clone(), vec![id]);
        return Ok(targets);
    }
    let reference = parse("target", target)?;
    if !state.slices.contains_key(&reference.slice) {
        return Err(unknown(&reference.slice));
    }
    for record in state.instances_of(&reference.slice) {
        let revision = state.revisions.get(&(record.slice.clone(), record.revision));
        let version = revision.map(|r| &r.version);
        if reference.version.is_none() || reference.version.as_ref() == version {
            targets.entry(record.node.clone()).or_default().push(record.id.clone());
        }
    }
    if targets.is_empty() {
        return Err(status::not_found(
            "no_instances",
            format!("{target} has no instances; 'aether slices' lists them"),
        ));
    }
    Ok(targets)
}

#[tonic::async_trait]
impl Slices for SlicesService {
    type LogsStream = Streamed<v1::LogLine>;

    async fn deploy(
        &self,
        request: Request<v1::DeployRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let (deadline, request) = Deadline::split(request);
        let reference = parse("artifact", &request.artifact)?;
        let version = reference.version.ok_or_else(|| {
            status::invalid("artifact", "names no version; write group:artifact:version[@env]")
        })?;
        let slice = reference.slice;
        let instances = request.instances.unwrap_or(1);
        let command = Command::Deploy { slice: slice.clone(), version, instances };
        let control = &self.views.control;
        let answer = control.write(deadline, &request.actor, &request.request_id, command).await?;
        let mut shown = self.show(deadline, &slice).await;
        shown.get_mut().note = answer.note.unwrap_or_default();
        Ok(shown)
    }

    async fn scale(
        &self,
        request: Request<v1::ScaleRequest>,
    ) -> Result<Response<v1::Slice>, Status> {
        let (deadline, request) = Deadline::split(request);
        let slice: SliceName = request.slice.parse().map_err(|e| status::invalid("slice", e))?;
        let command = Command::Scale { slice: slice.clone(), instances: request.instances };
        self.views.control.write(deadline, &request.actor, &request.request_id, command).await?;
        Ok(self.show(deadline, &slice).await)
    }

    async fn undeploy(
        &self,
        request: Request<v1::UndeployRequest>,
    ) -> Result<Response<v1::UndeployResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let SliceReference { slice, version } = parse("slice", &request.slice)?;
        let command = Command::Undeploy { slice, version };
        let answer = self
            .views
            .control
            .write(deadline, &request.actor, &request.request_id, command)
            .await?;
        let note = answer.note.unwrap_or_else(|| {
            format!("{} is being removed; 'aether slices' shows what is left", request.slice)
        });
        Ok(Response::new(v1::UndeployResponse { note }))
    }

    async fn list(
        &self,
        request: Request<v1::ListSlicesRequest>,
    ) -> Result<Response<v1::ListSlicesResponse>, Status> {
        let (deadline, request) = Deadline::split(request);
        let only: Option<SliceName> = match request.slice.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e| status::invalid("slice", e))?),
        };
        let read: Read = self.views.control.read(request.stale, deadline).await;
        let state = &read.published.state;
        if let Some(slice) = only.as_ref().filter(|slice| !state.slices.contains_key(*slice)) {
            return Err(read.missing(unknown(slice)));
        }
        let now_ms = self.views.now_ms(&read, deadline).await;
        let wanted = state.slices.values().filter(|r| only.as_ref().is_none_or(|s| r.slice == *s));
        let slices = wanted.map(|record| render::slice(state, record, now_ms)).collect();
        let as_of = Some(self.views.control.as_of(&read));
        Ok(Response::new(v1::ListSlicesResponse { slices, as_of }))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let (deadline, request) = Deadline::split(request);
        let tail = request.tail.unwrap_or(TAIL);
        if tail > TAIL_MAX {
            return Err(status::invalid("tail", format!("{tail} is more than {TAIL_MAX}")));
        }
        let read = self.views.control.read(false, deadline).await;
        let state = &read.published.state;
        let (to, stream) = mpsc::channel(QUEUED_MAX);
        for (node, instances) in log_targets(state, &request.target)? {
            let Some(record) = state.nodes.get(&node) else {
                continue;
            };
            let ask = v1::ReadLogsRequest {
                instance_ids: instances.iter().map(ToString::to_string).collect(),
                follow: request.follow,
                tail,
            };
            tokio::spawn(Self::relay(record.address, ask, to.clone()));
        }
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
