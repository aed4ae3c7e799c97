//! A node of the control plane that says what a test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_core::table::SliceTable;
use aether_proto::v1;
use aether_proto::v1::routing_server::{Routing, RoutingServer};
use aether_proto::v1::routing_up::Message;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Down = Result<v1::RoutingDown, Status>;

#[derive(Default)]
struct Script {
    incarnation: u64,
    revision: u64,
    tables: Vec<v1::SliceTable>,
    streams: Vec<mpsc::Sender<Down>>,
    heard: Vec<Message>,
}

struct State {
    script: Mutex<Script>,
    lease: Duration,
    muted: AtomicBool,
}

/// One node. Dropping or stopping it closes its connections.
pub struct Control {
    pub address: SocketAddr,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

impl Control {
    /// A node that holds no table, at revision 1 of incarnation 1.
    pub fn start(lease: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script { incarnation: 1, revision: 1, ..Script::default() };
        let state =
            Arc::new(State { script: Mutex::new(script), lease, muted: AtomicBool::new(false) });
        let service = RoutingServer::new(Node(Arc::clone(&state)));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        let heart = Arc::clone(&state);
        runtime.spawn(async move {
            loop {
                tokio::time::sleep(lease / 3).await;
                // As the real one: a sign of life that names no revision.
                let incarnation = heart.script.lock().unwrap().incarnation;
                heart.broadcast(v1::RoutingDown { incarnation, ..Default::default() });
            }
        });
        Self { address, state, runtime: Some(runtime) }
    }

    /// Publishes tables (replacing those of the same slices) as a delta at
    /// `revision`.
    pub fn publish(&self, revision: u64, tables: &[SliceTable]) {
        let tables: Vec<v1::SliceTable> = tables.iter().map(Into::into).collect();
        let mut script = self.state.script.lock().unwrap();
        script.revision = revision;
        script.tables.retain(|old| tables.iter().all(|new| new.slice != old.slice));
        script.tables.extend(tables.iter().cloned());
        let incarnation = script.incarnation;
        drop(script);
        self.state.broadcast(v1::RoutingDown {
            incarnation,
            revision,
            tables,
            ..Default::default()
        });
    }

    /// Publishes that a slice has no table any more.
    pub fn remove(&self, revision: u64, slice: &str) {
        let mut script = self.state.script.lock().unwrap();
        script.revision = revision;
        script.tables.retain(|table| table.slice != slice);
        let incarnation = script.incarnation;
        drop(script);
        let removed = vec![slice.to_owned()];
        self.state.broadcast(v1::RoutingDown {
            incarnation,
            revision,
            removed,
            ..Default::default()
        });
    }

    /// Sends a message as it is.
    pub fn send(&self, message: v1::RoutingDown) {
        self.state.broadcast(message);
    }

    /// Changes what a new stream is told.
    pub fn set_revision(&self, incarnation: u64, revision: u64) {
        let mut script = self.state.script.lock().unwrap();
        (script.incarnation, script.revision) = (incarnation, revision);
    }

    /// Says nothing any more on streams that are open, but leaves them open.
    pub fn mute(&self, muted: bool) {
        self.state.muted.store(muted, Ordering::SeqCst);
    }

    /// Everything that clients said, oldest first.
    pub fn heard(&self) -> Vec<Message> {
        self.state.script.lock().unwrap().heard.clone()
    }

    pub fn hellos(&self) -> Vec<v1::SessionHello> {
        let hello = |message| match message {
            Message::Hello(hello) => Some(hello),
            _ => None,
        };
        self.heard().into_iter().filter_map(hello).collect()
    }

    pub fn reports(&self) -> Vec<v1::SessionReport> {
        let report = |message| match message {
            Message::Report(report) => Some(report),
            _ => None,
        };
        self.heard().into_iter().filter_map(report).collect()
    }

    /// The last revision that a report called applied.
    pub fn acked(&self) -> u64 {
        self.reports().last().map_or(0, |report| report.applied)
    }

    /// What the last report called busy.
    pub fn busy(&self) -> Vec<(String, u64)> {
        let reports = self.reports();
        let busy = reports.last().map(|report| report.busy.clone()).unwrap_or_default();
        busy.into_iter().map(|busy| (busy.instance_id, busy.in_flight)).collect()
    }

    pub fn said_goodbye(&self) -> bool {
        self.heard().iter().any(|message| matches!(message, Message::Goodbye(_)))
    }

    /// Dies.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        self.state.script.lock().unwrap().streams.clear();
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop();
    }
}

impl State {
    fn broadcast(&self, message: v1::RoutingDown) {
        if !self.muted.load(Ordering::SeqCst) {
            let mut script = self.script.lock().unwrap();
            script.streams.retain(|stream| stream.try_send(Ok(message.clone())).is_ok());
        }
    }
}

struct Node(Arc<State>);

#[tonic::async_trait]
impl Routing for Node {
    type WatchStream = Pin<Box<dyn Stream<Item = Down> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<v1::RoutingUp>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut up = request.into_inner();
        let (sender, stream) = mpsc::channel(1_024);
        let state = Arc::clone(&self.0);
        {
            let mut script = state.script.lock().unwrap();
            let first = v1::RoutingDown {
                incarnation: script.incarnation,
                revision: script.revision,
                snapshot: true,
                tables: script.tables.clone(),
                removed: vec![],
                lease_ms: state.lease.as_millis() as u64,
            };
            sender.try_send(Ok(first)).unwrap();
            script.streams.push(sender.clone());
        }
        tokio::spawn(async move {
            while let Some(Ok(message)) = up.next().await {
                state.script.lock().unwrap().heard.extend(message.message);
            }
            // The client has said all it had to say: its stream ends.
            let mut script = state.script.lock().unwrap();
            script.streams.retain(|stream| !stream.same_channel(&sender));
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}
