//! Reads the logs of this node's instances, for `AgentLogs`.
//!
//! Files are read where they are, also those of instances that are gone and
//! whose logs were [kept](mod@kept). Nothing here knows whether an instance
//! runs.

mod follow;
#[cfg(test)]
mod fuzz;
mod kept;
mod tail;

use std::path::{Path, PathBuf};
use std::time::Duration;

use aether_core::ids::InstanceId;
use aether_proto::v1;
use aether_proto::v1::ReadLogsResponse;
use aether_proto::v1::agent_logs_server::{AgentLogs, AgentLogsServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use follow::Follower;
pub(crate) use kept::{About, put_away};
use kept::{Known, Place, find};

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
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl AgentLogs for LogsService {
    type ReadStream = ReceiverStream<Result<ReadLogsResponse, Status>>;

    async fn find(
        &self,
        request: Request<v1::FindLogsRequest>,
    ) -> Result<Response<v1::FindLogsResponse>, Status> {
        let request = request.into_inner();
        let data_dir = self.data_dir.clone();
        let message = |id: InstanceId, known: Known| v1::FoundLogs {
            instance_id: id.to_string(),
            slice: known.about.as_ref().map(|a| a.slice.to_string()).unwrap_or_default(),
            version: known.about.map(|a| a.artifact.version.to_string()).unwrap_or_default(),
            gone_ms: known.gone_ms,
        };
        let found: Box<dyn FnOnce() -> Vec<v1::FoundLogs> + Send> =
            match request.instance_id.as_str() {
                "" => {
                    let slice = request.slice.parse().map_err(invalid)?;
                    let version = request.version.parse().map_err(invalid)?;
                    Box::new(move || {
                        let all = kept::find_all(&data_dir, &slice, &version);
                        all.into_iter().map(|(id, known)| message(id, known)).collect()
                    })
                }
                id => {
                    let id: InstanceId = id.parse().map_err(invalid)?;
                    Box::new(move || {
                        let known = kept::find_one(&data_dir, &id);
                        known.map(|known| message(id, known)).into_iter().collect()
                    })
                }
            };
        let found = tokio::task::spawn_blocking(found).await;
        let found = found.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(v1::FindLogsResponse { found }))
    }

    async fn read(
        &self,
        request: Request<v1::ReadLogsRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let count = request.instance_ids.len();
        if count == 0 || count > INSTANCES_MAX {
            return Err(invalid(format!(
                "logs of 1 to {INSTANCES_MAX} instances can be read at once, not of {count}"
            )));
        }
        if request.tail > TAIL_MAX {
            return Err(invalid(format!(
                "at most {TAIL_MAX} last lines can be read, not {}",
                request.tail
            )));
        }
        let ids: Result<Vec<InstanceId>, _> =
            request.instance_ids.iter().map(|text| text.parse()).collect();
        let sources: Vec<Source> = ids
            .map_err(invalid)?
            .into_iter()
            .filter(|id| request.follow || find(&self.data_dir, id).is_some())
            .map(|id| Source::new(&self.data_dir, id, &request))
            .collect();
        if sources.is_empty() {
            return Err(Status::not_found(format!(
                "node {} has no logs of {}",
                self.node,
                request.instance_ids.join(", ")
            )));
        }
        let (lines, receiver) = mpsc::channel(LINES_AHEAD);
        tokio::spawn(send(sources, request.follow, lines));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

type Lines = mpsc::Sender<Result<ReadLogsResponse, Status>>;

/// Where a reader begins in a stream.
enum Begin {
    Tail(usize),
    After(v1::LogPosition),
}

/// One stream of an instance.
struct Stream {
    name: &'static str,
    begin: Begin,
    follower: Follower,
}

/// The logs of one instance, to be read.
struct Source {
    data_dir: PathBuf,
    id: InstanceId,
    streams: [Stream; 2],
    /// Where they were last seen; nowhere before the node has the instance.
    place: Option<Place>,
    begun: bool,
}

/// Whether there may be more.
#[derive(PartialEq, Eq)]
enum Go {
    On,
    /// Everything of this instance was sent.
    Ended,
    /// Nobody reads any more.
    Unread,
}

impl Source {
    fn new(data_dir: &Path, id: InstanceId, request: &v1::ReadLogsRequest) -> Self {
        let streams = STREAMS.map(|name| {
            let after = request
                .after
                .iter()
                .find(|after| after.instance_id == id.as_str() && after.stream == name);
            let begin = match after {
                Some(after) => Begin::After(after.position.unwrap_or_default()),
                None => Begin::Tail(request.tail as usize),
            };
            Stream { name, begin, follower: Follower::new(PathBuf::new()) }
        });
        Self { data_dir: data_dir.to_owned(), id, streams, place: None, begun: false }
    }

    /// Sends what is there now. Waits for the disk and for the client.
    fn pass(&mut self, lines: &Lines) -> Go {
        // Before they are read: nothing is written to logs that were put away.
        let place = find(&self.data_dir, &self.id);
        let over = match (&self.place, &place) {
            // The node has yet to make it.
            (None, None) => return Go::On,
            (Some(_), None) | (_, Some(Place::Kept(_))) => true,
            (_, Some(Place::Live(_))) => false,
        };
        self.place = place.or(self.place.take());
        let first = !std::mem::replace(&mut self.begun, true);
        if !self.streams.iter_mut().all(|s| s.pass(&self.id, &self.place, first, over, lines)) {
            return Go::Unread;
        }
        if first && !over {
            // What was put away before it was opened was not read yet.
            let place = find(&self.data_dir, &self.id);
            let mut missed = self.streams.iter_mut().filter(|s| !s.follower.has_begun());
            if matches!(place, Some(Place::Kept(_)))
                && !missed.all(|s| s.pass(&self.id, &place, first, over, lines))
            {
                return Go::Unread;
            }
        }
        if over { Go::Ended } else { Go::On }
    }
}

impl Stream {
    /// False when nobody reads any more.
    fn pass(
        &mut self,
        id: &InstanceId,
        place: &Option<Place>,
        first: bool,
        last: bool,
        lines: &Lines,
    ) -> bool {
        let name = self.name;
        if let Some(place) = place {
            self.follower.moved_to(place.dir().join(format!("{name}.log")));
        }
        let message = |line: Option<&[u8]>, position| {
            lines.blocking_send(Ok(ReadLogsResponse {
                instance_id: id.to_string(),
                stream: name.to_owned(),
                line: line.map(|text| String::from_utf8_lossy(text).into_owned()),
                position: Some(position),
                ended: false,
            }))
        };
        let mut emit = |line: &[u8], position| message(Some(line), position).is_ok();
        let follower = &mut self.follower;
        let goes_on = match (first, &self.begin) {
            (true, Begin::Tail(tail)) => follower.tail(*tail, &mut emit),
            (true, Begin::After(position)) => {
                follower.resume(*position);
                follower.more(&mut emit)
            }
            (false, _) => follower.more(&mut emit),
        };
        let goes_on = goes_on && (!last || follower.finish(&mut emit));
        // So that a reader who got no line knows where to go on, too.
        goes_on && (!first || message(None, follower.position()).is_ok())
    }
}

/// Sends the last lines, then new ones for as long as someone reads them and
/// an instance is there.
async fn send(mut sources: Vec<Source>, follow: bool, lines: Lines) {
    loop {
        let sender = lines.clone();
        // One pass over all files on a thread that may wait for the disk and
        // for the client.
        let pass = tokio::task::spawn_blocking(move || {
            let mut left = Vec::new();
            for mut source in sources {
                match source.pass(&sender) {
                    Go::On => left.push(source),
                    Go::Ended => {
                        let instance_id = source.id.to_string();
                        let ended = true;
                        let end = ReadLogsResponse { instance_id, ended, ..Default::default() };
                        if sender.blocking_send(Ok(end)).is_err() {
                            return None;
                        }
                    }
                    Go::Unread => return None,
                }
            }
            Some(left)
        });
        match pass.await {
            Ok(Some(left)) if follow && !left.is_empty() => sources = left,
            _ => return,
        }
        tokio::select! {
            () = tokio::time::sleep(FOLLOW_INTERVAL) => {}
            () = lines.closed() => return,
        }
    }
}
