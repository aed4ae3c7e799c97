//! A cluster of either store: three members as processes of their own, with
//! their data side by side on the same disk.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use aether_cluster::{Addresses, Cluster, Lease, Topology, free_address};
use anyhow::Result;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::etcd::{Etcd, Timeouts};
use crate::member::Store;

/// How long a cluster may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running cluster. Dropping it kills it and removes its data.
pub struct Running {
    kind: Kind,
    _leases: Vec<Lease>,
    _dir: TempDir,
}

// One exists at a time.
#[allow(clippy::large_enum_variant)]
enum Kind {
    Aether(Cluster),
    Etcd(Etcd),
}

impl Running {
    /// Starts three members below `disk`, and waits for their leader.
    ///
    /// # Errors
    /// When they cannot be started, or elect nobody.
    pub async fn start(
        store: Store,
        binary: &Path,
        disk: &Path,
        tuned: Option<Timeouts>,
    ) -> Result<Self> {
        let dir = TempDir::new_in(disk)?;
        let mut leases = Vec::new();
        let mut next = || {
            let (address, lease) = free_address()?;
            leases.push(lease);
            anyhow::Ok(address)
        };
        let kind = match store {
            Store::Etcd => Kind::Etcd(Etcd::start(dir.path(), tuned)?),
            Store::Aether => {
                let mut addresses = Vec::new();
                for _ in 0..3 {
                    let (grpc, http, peer, ingress) = (next()?, next()?, next()?, next()?);
                    addresses.push(Addresses { grpc, http, peer, ingress });
                }
                let topology = Topology::split(3, 0);
                let mut cluster = Cluster::prepare(binary, &topology, dir.path(), &addresses)?;
                cluster.start_all()?;
                Kind::Aether(cluster)
            }
        };
        let running = Self { kind, _leases: leases, _dir: dir };
        running.leader().await?;
        Ok(running)
    }

    /// Client addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        match &self.kind {
            Kind::Aether(cluster) => cluster.control_plane(),
            Kind::Etcd(etcd) => etcd.addresses(),
        }
    }

    /// Which member leads.
    ///
    /// # Errors
    /// None does in time.
    pub async fn leader(&self) -> Result<usize> {
        match &self.kind {
            Kind::Aether(cluster) => cluster.leader(PATIENCE).await,
            Kind::Etcd(etcd) => etcd.leader(PATIENCE).await,
        }
    }

    /// `kill -9` of a member; returns when it is gone.
    pub fn kill(&mut self, member: usize) {
        match &mut self.kind {
            Kind::Aether(cluster) => {
                cluster.nodes[member].signal(Signal::SIGKILL);
                cluster.nodes[member].kill();
            }
            Kind::Etcd(etcd) => etcd.kill(member),
        }
    }

    /// Starts a member that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        match &mut self.kind {
            Kind::Aether(cluster) => cluster.nodes[member].start(),
            Kind::Etcd(etcd) => etcd.restart(member),
        }
    }
}
