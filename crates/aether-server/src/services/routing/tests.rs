//! Sessions at a voter that is alone: its log, its hub, its leader, and a
//! client over the loopback device.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use aether_agent::artifact::ArtifactStore;
use aether_core::records::SessionRecord;
use aether_proto::v1::routing_client::RoutingClient;
use aether_replica::{Replica, Voter};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};

use super::*;
use crate::{Config, Server, StateMachine};

/// No condition takes this long unless something is broken.
const LIMIT: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(3);

struct Node {
    _replica: Replica,
    server: Arc<Server>,
    address: SocketAddr,
}

impl Node {
    async fn start(dir: &Path) -> Self {
        let (machine, published) = StateMachine::new();
        let changes = machine.watched();
        let config = aether_replica::Config {
            node_name: "n1".to_owned(),
            data_dir: dir.join("replica"),
            voters: vec![Voter { name: "n1".to_owned(), peer_addr: "127.0.0.1:1".to_owned() }],
            ..aether_replica::Config::default()
        };
        let replica = Replica::open(config, machine).await.unwrap();
        let store = ArtifactStore::open_dir(&dir.join("artifacts")).unwrap();
        let config = Config {
            node: "n1".parse().unwrap(),
            session_lease: LEASE,
            agent_lease: LEASE,
            table_age_max: Duration::from_secs(600),
            node_lost: Duration::from_secs(30),
            gate_programs: crate::GatePrograms::None,
        };
        let server = Arc::new(Server::start(config, replica.handle(), published, changes, store));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = tonic::transport::Server::builder().add_routes(server.client_routes());
        tokio::spawn(routes.serve_with_incoming(TcpListenerStream::new(listener)));
        let node = Self { _replica: replica, server, address };
        node.until("it leads", || node.server.is_ready()).await;
        node
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let limit = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < limit, "never happened: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn record(&self) -> Option<Arc<SessionRecord>> {
        let id: SessionId = "s1".parse().unwrap();
        self.server.control.local().state.sessions.get(&id).cloned()
    }

    /// The index at which the session was opened.
    fn opened(&self) -> Option<u64> {
        self.record().map(|record| record.opened)
    }

    /// A stream of the session, whose client has applied `revision`.
    async fn attach(&self, attach: u64, revision: u64) -> Result<Stream, Status> {
        let (up, outbound) = mpsc::channel(8);
        let hello = v1::SessionHello {
            session_id: "s1".to_owned(),
            kind: "INGRESS".to_owned(),
            protocol: 1,
            incarnation: 1,
            revision,
            attach,
            ..Default::default()
        };
        up.send(wire(Message::Hello(hello))).await.unwrap();
        let mut client = RoutingClient::connect(format!("http://{}", self.address)).await.unwrap();
        let mut down = client.watch(ReceiverStream::new(outbound)).await?.into_inner();
        let first = down.message().await?.unwrap();
        assert!(first.snapshot, "{first:?}");
        Ok(Stream { up, down })
    }
}

struct Stream {
    up: mpsc::Sender<v1::RoutingUp>,
    down: Streaming<v1::RoutingDown>,
}

impl Stream {
    async fn end(&mut self) -> Status {
        loop {
            match tokio::time::timeout(LIMIT, self.down.message()).await.expect("it ends") {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without a reason"),
                Err(status) => return status,
            }
        }
    }
}

fn wire(message: Message) -> v1::RoutingUp {
    v1::RoutingUp { message: Some(message) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_tables_begins_a_life_that_the_old_one_cannot_end() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let mut old = node.attach(1, 0).await.unwrap();
    let first = node.opened().unwrap();
    let _same = node.attach(2, first).await.unwrap();
    assert_eq!(node.opened(), Some(first), "it holds tables, so it goes on");

    let new = node.attach(1, 0).await.unwrap();
    let second = node.opened().unwrap();
    assert!(second > first);
    assert!(!node.record().unwrap().fresh);
    let told = old.end().await;
    assert!(told.message().contains("say hello again"), "{told}");
    // The stream is void, so nothing that it says is heard.
    let _ = old.up.send(wire(Message::Goodbye(v1::SessionGoodbye {}))).await;
    drop(old);
    let report = v1::SessionReport { incarnation: 1, applied: second, ..Default::default() };
    new.up.send(wire(Message::Report(report))).await.unwrap();
    let acked = || {
        let state = &node.server.control.local().state;
        let views = node.server.leader.session_views(state, 0);
        let applied = |view: &_| match view {
            aether_core::planner::SessionView::Connected { applied, .. } => *applied,
            _ => 0,
        };
        views.values().map(applied).max() == Some(second)
    };
    node.until("the new life's ack counts", acked).await;
    assert_eq!(node.opened(), Some(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ended_is_forgotten_though_nobody_reports_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(dir.path()).await;
    let stream = node.attach(1, 0).await.unwrap();
    stream.up.send(wire(Message::Goodbye(v1::SessionGoodbye {}))).await.unwrap();
    node.until("the session is closed", || node.opened().is_none()).await;
    node.until("the hub forgets it", || node.server.hub.is_empty()).await;
}
