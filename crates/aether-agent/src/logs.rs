//! Reads the logs of this node's instances, for `AgentLogs`.
//!
//! Files are read where they are, also those of instances that are gone and
//! whose logs were kept. Nothing here knows whether an instance runs.

mod follow;
mod tail;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aether_core::ids::InstanceId;
use aether_proto::v1::agent_logs_server::{AgentLogs, AgentLogsServer};
use aether_proto::v1::{LogLine, ReadLogsRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use follow::Follower;

/// Most instances of one request: as many as a node usually runs.
const INSTANCES_MAX: usize = 512;

/// Most last lines per stream.
const TAIL_MAX: u32 = 10_000;

/// Time between two looks for new lines.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Lines under way to a client. One that reads slower than lines are written
/// holds its request up, and nothing else.
const LINES_AHEAD: usize = 256;

/// The two streams of a slice.
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// Serves the logs of one node.
#[derive(Debug)]
pub struct LogsService {
    data_dir: PathBuf,
    node: String,
}

impl LogsService {
    /// The gRPC service for the agent's data directory.
    pub(crate) fn server(data_dir: &Path, node: &str) -> AgentLogsServer<Self> {
        AgentLogsServer::new(Self { data_dir: data_dir.to_owned(), node: node.to_owned() })
    }

    /// Where the logs of an instance are, if it is or was here.
    fn find(&self, id: &InstanceId) -> Option<PathBuf> {
        let live = self.data_dir.join("instances").join(id.as_str());
        let kept = self.data_dir.join("logs").join(id.as_str());
        // The directory of an instance is there before its logs are.
        if live.is_dir() { Some(live.join("logs")) } else { kept.is_dir().then_some(kept) }
    }
}

#[tonic::async_trait]
impl AgentLogs for LogsService {
    type ReadStream = ReceiverStream<Result<LogLine, Status>>;

    async fn read(
        &self,
        request: Request<ReadLogsRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let count = request.instance_ids.len();
        if count == 0 || count > INSTANCES_MAX {
            return Err(Status::invalid_argument(format!(
                "logs of 1 to {INSTANCES_MAX} instances can be read at once, not of {count}"
            )));
        }
        if request.tail > TAIL_MAX {
            return Err(Status::invalid_argument(format!(
                "at most {TAIL_MAX} last lines can be read, not {}",
                request.tail
            )));
        }
        let mut followers = Vec::new();
        for text in &request.instance_ids {
            let id: InstanceId =
                text.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
            let Some(dir) = self.find(&id) else { continue };
            followers.extend(STREAMS.map(|stream| {
                let line = LogLine {
                    instance_id: id.to_string(),
                    node: self.node.clone(),
                    stream: stream.to_owned(),
                    line: String::new(),
                };
                (Follower::new(dir.join(format!("{stream}.log"))), line)
            }));
        }
        if followers.is_empty() {
            return Err(Status::not_found(format!(
                "node {} has no logs of {}",
                self.node,
                request.instance_ids.join(", ")
            )));
        }
        let (lines, receiver) = mpsc::channel(LINES_AHEAD);
        tokio::spawn(send(followers, request.tail as usize, request.follow, lines));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Lines = mpsc::Sender<Result<LogLine, Status>>;

/// Sends the last lines, then new ones for as long as someone reads them.
async fn send(mut followers: Vec<(Follower, LogLine)>, tail: usize, follow: bool, lines: Lines) {
    let mut first = true;
    while first || follow {
        let sender = lines.clone();
        // One pass over all files on a thread that may wait for the disk and
        // for the client.
        let pass = tokio::task::spawn_blocking(move || {
            for (follower, line) in &mut followers {
                let mut emit = |text: &[u8]| {
                    let line =
                        LogLine { line: String::from_utf8_lossy(text).into(), ..line.clone() };
                    sender.blocking_send(Ok(line)).is_ok()
                };
                let goes_on =
                    if first { follower.tail(tail, &mut emit) } else { follower.more(&mut emit) };
                if !goes_on {
                    return None;
                }
            }
            Some(followers)
        });
        match pass.await {
            Ok(Some(back)) => followers = back,
            _ => return,
        }
        first = false;
        if follow {
            tokio::select! {
                () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
                () = lines.closed() => return,
            }
        }
    }
}
