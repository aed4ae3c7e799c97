//! A node of the control plane as far as an invoker needs one: it tells the tables that it was
//! given, and that it lives.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_core::table::{Endpoint, SliceTable, VersionSet};
use aether_invoker::{RevisionNo, SliceName, Weights};
use aether_proto::v1;
use aether_proto::v1::routing_server::{Routing, RoutingServer};
use anyhow::Result;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{IntervalStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::fleet::Fleet;

/// How often it says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(500);
const LEASE_MS: u64 = 60_000;

/// See the module.
pub struct Node {
    address: SocketAddr,
    tables: Arc<Mutex<Vec<v1::SliceTable>>>,
    runtime: Runtime,
}

impl Node {
    /// Starts it on a free port.
    pub fn start() -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tables = Arc::default();
        let service = RoutingServer::new(Service(Arc::clone(&tables)));
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(Self { address, tables, runtime })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its tasks and those of invokers run.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// Gives it the table of a fleet, in the place of all others: each fleet is a slice of
    /// its own.
    pub fn publish(&self, fleet: Fleet) -> Result<SliceName> {
        let Fleet { endpoints, new, old } = fleet;
        let slice: SliceName = format!("org.example:of-{new}-{old}-{endpoints}").parse()?;
        let set = |is_new: bool, revision| -> Result<VersionSet> {
            let endpoint = |number| -> Result<Endpoint> {
                let instance = format!("i-{revision}-{number}").parse()?;
                Ok(Endpoint { instance, address: Fleet::address(is_new, number) })
            };
            Ok(VersionSet {
                revision: RevisionNo(revision),
                version: format!("{revision}.0.0").parse()?,
                endpoints: (0..endpoints).map(endpoint).collect::<Result<_>>()?,
            })
        };
        let table = SliceTable {
            slice: slice.clone(),
            table_revision: 1,
            route_revision: 1,
            weights: Weights::new(new.into(), old.into())?,
            new: Some(set(true, 2)?),
            old: Some(set(false, 1)?),
            ingress: Vec::new(),
            hold_ms: 0,
        };
        *self.tables.lock().expect("nobody panics in it") = vec![(&table).into()];
        Ok(slice)
    }
}

type Down = Result<v1::RoutingDown, Status>;

struct Service(Arc<Mutex<Vec<v1::SliceTable>>>);

#[tonic::async_trait]
impl Routing for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Down> + Send>>;

    async fn watch(
        &self,
        _: Request<Streaming<v1::RoutingUp>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let tables = self.0.lock().expect("nobody panics in it").clone();
        let first = v1::RoutingDown {
            incarnation: 1,
            revision: 1,
            snapshot: true,
            tables,
            lease_ms: LEASE_MS,
            ..Default::default()
        };
        let lives = IntervalStream::new(tokio::time::interval(HEARTBEAT))
            .map(|_| Ok(v1::RoutingDown { incarnation: 1, ..Default::default() }));
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(first)).chain(lives))))
    }
}
