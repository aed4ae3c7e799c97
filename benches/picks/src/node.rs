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
        let name = format!("org.example:of-{new}-{old}-{endpoints}");
        let addresses = |is_new| (0..endpoints).map(move |number| Fleet::address(is_new, number));
        self.tables.lock().expect("nobody panics in it").clear();
        let sets = (set(2, addresses(true))?, set(1, addresses(false))?);
        self.tell(&name, Weights::new(new.into(), old.into())?, Some(sets.0), sets.1)
    }

    /// Gives it the table of a slice with one version at these addresses.
    pub fn publish_at(&self, name: &str, addresses: &[SocketAddr]) -> Result<SliceName> {
        self.tell(name, Weights::ALL_OLD, None, set(1, addresses.iter().copied())?)
    }

    fn tell(
        &self,
        name: &str,
        weights: Weights,
        new: Option<VersionSet>,
        old: VersionSet,
    ) -> Result<SliceName> {
        let slice: SliceName = name.parse()?;
        let table = SliceTable {
            slice: slice.clone(),
            table_revision: 1,
            route_revision: 1,
            weights,
            new,
            old: Some(old),
            ingress: Vec::new(),
            hold_ms: 0,
        };
        let mut tables = self.tables.lock().expect("nobody panics in it");
        tables.retain(|known| known.slice != name);
        tables.push((&table).into());
        Ok(slice)
    }
}

fn set(revision: u32, addresses: impl Iterator<Item = SocketAddr>) -> Result<VersionSet> {
    let endpoint = |(number, address)| -> Result<Endpoint> {
        Ok(Endpoint { instance: format!("i-{revision}-{number}").parse()?, address })
    };
    Ok(VersionSet {
        revision: RevisionNo(revision),
        version: format!("{revision}.0.0").parse()?,
        endpoints: addresses.enumerate().map(endpoint).collect::<Result<_>>()?,
    })
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
