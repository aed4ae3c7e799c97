//! Assignments down, observations up.

use std::sync::Arc;
use std::time::Duration;

use aether_core::apply::INSTANCES_MAX;
use aether_core::ids::NodeName;
use aether_core::records::{Desired, InstanceRecord};
use aether_core::state::State;
use aether_proto::v1;
use aether_proto::v1::agent_up::Message;
use aether_proto::v1::agents_server::Agents;
use futures::StreamExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::Streamed;
use super::archives::{self, Archives, Lists};
use super::streams::{self, Down, KeepAlive};
use crate::control::Control;
use crate::coordinator::agent_news;
use crate::hub::Hub;
use crate::status;

/// Messages queued towards one agent. Each holds everything, so more would
/// only be older.
const QUEUED_MAX: usize = 2;

/// Most labels of a node.
const LABELS_MAX: usize = 64;
/// Longest key or value of a label in bytes.
const LABEL_BYTES_MAX: usize = 64;

/// The `Agents` service.
#[derive(Clone)]
pub struct AgentsService {
    control: Control,
    hub: Arc<Hub>,
    lease: Duration,
    lists: Arc<Lists>,
}

impl AgentsService {
    /// Over the node's parts; `lease` is what agents are told.
    pub fn new(control: Control, hub: Arc<Hub>, lease: Duration) -> Self {
        Self { control, hub, lease, lists: Arc::default() }
    }

    /// Sends the node's desired set, and up to which report the state holds what
    /// was said; again whenever one of both changes.
    async fn push(
        self,
        node: NodeName,
        hello: v1::AgentHello,
        mut reports: watch::Receiver<Reported>,
        to: Down<v1::AgentDown>,
    ) -> Result<(), Status> {
        let mut states = self.control.watch();
        let mut last: Option<(Vec<v1::Assignment>, u64)> = None;
        let mut taken = 0;
        let mut archives = Archives::default();
        let mut list_at = Instant::now();
        let mut alive = KeepAlive::new(Arc::clone(&self.hub), self.lease);
        loop {
            let state = states.borrow_and_update().state.clone();
            let message = (assignments(&state, &node), {
                let reported = reports.borrow_and_update();
                if reported.asked > taken && reported.is_held_by(&state, &hello) {
                    taken = reported.asked;
                }
                taken
            });
            if list_at <= Instant::now() {
                list_at = Instant::now() + archives::LIST_EVERY;
                let listed = self.lists.known(&state).list(&reports.borrow().report.holds_sha256);
                if listed != archives {
                    archives = listed;
                    last = None;
                }
            }
            if last.as_ref() != Some(&message) {
                last = Some(message.clone());
                let directive = self.directive(&state, message, &archives);
                if to.send(Ok(directive)).await.is_err() {
                    return Ok(());
                }
            }
            tokio::select! {
                changed = states.changed() => if changed.is_err() { return Ok(()) },
                // The other end is gone with its stream, as is this one then.
                Ok(()) = reports.changed() => {}
                () = to.closed() => return Ok(()),
                due = alive.due() => {
                    due?;
                    last = None;
                }
            }
        }
    }

    fn directive(
        &self,
        state: &State,
        (assignments, taken): (Vec<v1::Assignment>, u64),
        archives: &Archives,
    ) -> v1::AgentDown {
        v1::AgentDown {
            incarnation: state.meta.incarnation,
            term: 0,
            index: state.meta.index,
            lease_ms: self.lease.as_millis() as u64,
            assignments,
            taken,
            needed_sha256: archives.needed.clone(),
            unnamed_sha256: archives.unnamed.clone(),
            lists_archives: archives.listed,
        }
    }

    async fn listen(
        self,
        node: String,
        connection: u64,
        mut from: Streaming<v1::AgentUp>,
        reports: watch::Sender<Reported>,
    ) {
        while let Some(Ok(up)) = from.next().await {
            if let Some(Message::Report(report)) = up.message {
                reports.send_modify(|last| last.replace(report.clone()));
                if !self.hub.agent_report(&node, connection, report) {
                    return;
                }
            }
        }
        self.hub.agent_lost(&node, connection);
    }
}

/// What an agent reported last on one stream.
#[derive(Default)]
struct Reported {
    report: v1::AgentReport,
    /// The last receipt that it asked for. A report after that one says at
    /// least as much.
    asked: u64,
}

impl Reported {
    fn replace(&mut self, report: v1::AgentReport) {
        self.asked = self.asked.max(report.receipt);
        self.report = report;
    }

    /// Whether the state knows all of it.
    fn is_held_by(&self, state: &State, hello: &v1::AgentHello) -> bool {
        agent_news(hello, &self.report, state).is_empty()
    }
}

/// Labels are replicated: as many, and as long, as a node's own configuration
/// may have.
fn check_labels(hello: &v1::AgentHello) -> Result<(), Status> {
    let fits = |text: &String| text.len() <= LABEL_BYTES_MAX && !text.chars().any(char::is_control);
    let all_fit = hello.labels.iter().all(|(key, value)| fits(key) && fits(value));
    if hello.labels.len() > LABELS_MAX || !all_fit {
        let most = format!("at most {LABELS_MAX} of at most {LABEL_BYTES_MAX} printable bytes");
        return Err(status::invalid("labels", format!("must be {most}")));
    }
    Ok(())
}

/// Everything that a node should run, ordered by instance.
fn assignments(state: &State, node: &NodeName) -> Vec<v1::Assignment> {
    state.instances_on(node).filter_map(|instance| assignment(state, instance)).collect()
}

fn assignment(state: &State, instance: &InstanceRecord) -> Option<v1::Assignment> {
    let revision = state.revisions.get(&(instance.slice.clone(), instance.revision))?;
    let artifact = instance.slice.base().at(revision.version.clone());
    let known = state.artifacts.get(&artifact);
    let holders = known.iter().flat_map(|known| &known.held_by);
    Some(v1::Assignment {
        instance_id: instance.id.to_string(),
        slice: instance.slice.to_string(),
        revision: instance.revision.0,
        artifact: artifact.to_string(),
        sha256: revision.digest.clone(),
        size_bytes: known.map_or(0, |known| known.size_bytes),
        manifest_json: serde_json::to_string(&*revision.manifest).ok()?,
        desired: match instance.desired {
            Desired::Run => "RUN",
            Desired::Drain => "DRAIN",
            Desired::Stop => "STOP",
        }
        .to_owned(),
        holders: holders
            .filter_map(|holder| state.nodes.get(holder))
            .map(|holder| holder.address.to_string())
            .collect(),
    })
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type AttachStream = Streamed<v1::AgentDown>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AgentUp>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut from = request.into_inner();
        let Some(v1::AgentUp { message: Some(Message::Hello(hello)) }) =
            streams::first(&mut from).await?
        else {
            return Err(streams::no_hello());
        };
        streams::check_protocol(hello.protocol)?;
        let node: NodeName = status::parsed("node", &hello.node)?;
        let address = hello.address.parse::<std::net::SocketAddr>();
        address.map_err(|e| status::invalid("address", e))?;
        if hello.instances_max > INSTANCES_MAX {
            let problem = format!("{} is more than {INSTANCES_MAX}", hello.instances_max);
            return Err(status::invalid("instances_max", problem));
        }
        check_labels(&hello)?;
        let connection = self.hub.agent_hello(hello.clone()).ok_or_else(streams::overtaken)?;
        let (reports, reported) = watch::channel(Reported::default());
        tokio::spawn(self.clone().listen(node.to_string(), connection, from, reports));
        Ok(streams::answer(QUEUED_MAX, |to| self.clone().push(node, hello, reported, to)))
    }
}
