//! Gets lines from one node and passes them on. While lines are followed, a
//! node that goes away is waited for, and goes on after the last line that it
//! sent: none comes twice, none is left out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use aether_core::ids::{InstanceId, NodeName};
use aether_proto::v1;
use aether_proto::v1::agent_logs_client::AgentLogsClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use super::{Lines, note};
use crate::control::Control;

/// How long connecting to a node may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How long a node may take for its answer, and between lines that exist.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often a connection on which nothing is said is probed, and how long for
/// an answer.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Time between two attempts to go on.
const RETRY: Duration = Duration::from_millis(500);
/// How long the last lines of instances that are gone are waited for. The node
/// has them by then, unless it is away.
const LAST_LINES_MAX: Duration = Duration::from_secs(10);

/// A client of the agent at an address, connected when it is used.
pub(super) fn client(address: SocketAddr) -> Result<AgentLogsClient<Channel>, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
    let channel = endpoint
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(AgentLogsClient::new(channel))
}

/// What a node or the way to it said, in a few words.
pub(super) fn problem(status: &Status) -> String {
    match (status.code(), status.message()) {
        (code, "") => format!("{code:?}"),
        (Code::Unavailable, "tcp connect error") => "no connection".to_owned(),
        (_, text) => text.to_owned(),
    }
}

/// Where reading begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin {
    /// With so many last lines per stream.
    Tail(u32),
    /// With the first line that there is.
    First,
}

/// Gets the lines of some instances of one node.
pub(super) struct Relay {
    control: Control,
    node: NodeName,
    /// Whose last line was not sent yet.
    ids: Vec<InstanceId>,
    follow: bool,
    tail: u32,
    /// Where each stream goes on.
    after: BTreeMap<(String, String), v1::LogPosition>,
    to: Lines,
    /// Whether the reader knows that the node is away.
    said: bool,
    /// Since when none of the instances exists any more.
    gone_since: Option<Instant>,
}

/// Why no more lines came.
enum End {
    /// There are no more, or nobody wants them.
    Over,
    Broken(String),
}

impl Relay {
    pub fn new(
        control: Control,
        node: NodeName,
        ids: Vec<InstanceId>,
        follow: bool,
        begin: Begin,
        to: Lines,
    ) -> Self {
        let mut after = BTreeMap::new();
        let tail = match begin {
            Begin::Tail(tail) => tail,
            Begin::First => {
                for id in &ids {
                    for stream in ["stdout", "stderr"] {
                        after.insert((id.to_string(), stream.to_owned()), Default::default());
                    }
                }
                0
            }
        };
        Self { control, node, ids, follow, tail, after, to, said: false, gone_since: None }
    }

    /// Until the last line. The error says what could not be read.
    pub async fn run(mut self) -> Result<(), String> {
        loop {
            match self.read().await {
                End::Over => return Ok(()),
                End::Broken(problem) if !self.follow || self.is_forgotten() => {
                    return Err(self.unread(&problem));
                }
                End::Broken(problem) => self.say_once(&problem).await,
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.to.closed() => return Ok(()),
            }
        }
    }

    /// Whether none of the instances has existed for as long as their last lines
    /// may take.
    fn is_forgotten(&mut self) -> bool {
        let state = &self.control.local().state;
        if self.ids.iter().any(|id| state.instances.contains_key(id)) {
            self.gone_since = None;
            return false;
        }
        self.gone_since.get_or_insert_with(Instant::now).elapsed() >= LAST_LINES_MAX
    }

    fn unread(&self, problem: &str) -> String {
        let ids: Vec<&str> = self.ids.iter().map(InstanceId::as_str).collect();
        format!("the logs of {} on node {} cannot be read: {problem}", ids.join(", "), self.node)
    }

    async fn say_once(&mut self, problem: &str) {
        if !std::mem::replace(&mut self.said, true) {
            let text = format!("{}; they go on when it answers", self.unread(problem));
            // Whether anybody reads is looked at in any case.
            let _ = self.to.send(Ok(note(self.node.as_str(), text))).await;
        }
    }

    async fn open(&self) -> Result<Streaming<v1::ReadLogsResponse>, String> {
        let node = self.control.local().state.nodes.get(&self.node).cloned();
        let node = node.ok_or_else(|| format!("node {} is unknown", self.node))?;
        let after = self.after.iter().map(|((instance_id, stream), position)| v1::ReadAfter {
            instance_id: instance_id.clone(),
            stream: stream.clone(),
            position: Some(*position),
        });
        let request = v1::ReadLogsRequest {
            instance_ids: self.ids.iter().map(ToString::to_string).collect(),
            follow: self.follow,
            tail: self.tail,
            after: after.collect(),
        };
        let mut client = client(node.address)?;
        match timeout(SILENCE_MAX, client.read(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(problem(&status)),
            Err(_) => Err(format!("no answer within {SILENCE_MAX:?}")),
        }
    }

    async fn read(&mut self) -> End {
        let mut lines = match self.open().await {
            Ok(lines) => lines,
            Err(problem) => return End::Broken(problem),
        };
        loop {
            let next = tokio::select! {
                next = next(&mut lines, self.follow) => next,
                () = self.to.closed() => return End::Over,
                // The node may never have had them, and waits for them in vain.
                () = sleep(LAST_LINES_MAX), if self.follow => match self.is_forgotten() {
                    true => return End::Over,
                    false => continue,
                },
            };
            match next {
                Ok(Some(message)) => {
                    if !self.pass_on(message).await || self.ids.is_empty() {
                        return End::Over;
                    }
                }
                // Only an end that was announced is one.
                Ok(None) if self.follow => return End::Broken("the node ended its answer".into()),
                Ok(None) => return End::Over,
                Err(problem) => return End::Broken(problem),
            }
        }
    }

    /// False when nobody reads any more.
    async fn pass_on(&mut self, message: v1::ReadLogsResponse) -> bool {
        self.said = false;
        let v1::ReadLogsResponse { instance_id, stream, line, position, ended } = message;
        if ended {
            self.ids.retain(|id| id.as_str() != instance_id);
            self.after.retain(|(id, _), _| *id != instance_id);
            return true;
        }
        if let Some(line) = line {
            let (instance_id, stream) = (instance_id.clone(), stream.clone());
            let line = v1::LogLine { instance_id, node: self.node.to_string(), stream, line };
            if self.to.send(Ok(line)).await.is_err() {
                return false;
            }
        }
        if let Some(position) = position {
            self.after.insert((instance_id, stream), position);
        }
        true
    }
}

async fn next(
    lines: &mut Streaming<v1::ReadLogsResponse>,
    follow: bool,
) -> Result<Option<v1::ReadLogsResponse>, String> {
    let next = lines.message();
    let next = match follow {
        // It comes when something is written.
        true => next.await,
        false => match timeout(SILENCE_MAX, next).await {
            Ok(next) => next,
            Err(_) => return Err(format!("silent for {SILENCE_MAX:?}")),
        },
    };
    next.map_err(|status| problem(&status))
}
