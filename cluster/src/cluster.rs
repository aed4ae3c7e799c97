//! A cluster of node processes.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aether_proto::v1::StatusRequest;
use aether_proto::v1::cluster_client::ClusterClient;
use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::node::{Addresses, Common, Node, Roles};
use crate::ports::Lease;
use crate::processes::kill_all_below;

/// Which nodes a cluster has.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Name of the cluster.
    pub name: String,
    /// Roles of each node, in order; the voters are named `v0…` unless they do
    /// everything, then `n0…`; workers `w0…`.
    pub nodes: Vec<Roles>,
    /// More lines for every configuration file, such as a `[timing]` table.
    pub extra: String,
    /// How the founding voters reach each other, unless directly.
    pub peers: PeerRoutes,
}

/// Where founding voters listen for each other, and by which address each of
/// them reaches another; both by position among the nodes.
#[derive(Debug, Clone, Default)]
pub struct PeerRoutes {
    /// Instead of any free address.
    pub listen: BTreeMap<usize, SocketAddr>,
    /// From the first to the second, instead of the address where it listens.
    pub reach: BTreeMap<(usize, usize), SocketAddr>,
}

impl Topology {
    /// Voters, and workers with agent and ingress.
    pub fn split(voters: usize, workers: usize) -> Self {
        let mut nodes = vec![Roles::VOTER; voters];
        nodes.extend(vec![Roles::WORKER; workers]);
        Self { name: "test".to_owned(), nodes, extra: String::new(), peers: PeerRoutes::default() }
    }

    /// Nodes that do everything.
    pub fn all_in_one(nodes: usize) -> Self {
        Self {
            name: "test".to_owned(),
            nodes: vec![Roles::ALL; nodes],
            extra: String::new(),
            peers: PeerRoutes::default(),
        }
    }
}

/// A cluster of node processes on this machine. Dropping it kills all of them,
/// and, if its directory is a temporary one, every instance they started.
pub struct Cluster {
    /// The nodes, in the order of the topology.
    pub nodes: Vec<Node>,
    dir: PathBuf,
    binary: PathBuf,
    // Held so that they end with the cluster.
    _temp: Option<TempDir>,
    _leases: Vec<Lease>,
}

/// An address on loopback that nothing listens on, and its lease.
///
/// # Errors
/// When no port is free.
pub fn free_address() -> Result<(SocketAddr, Lease)> {
    let lease = Lease::take()?;
    Ok((SocketAddr::from((Ipv4Addr::LOCALHOST, lease.port())), lease))
}

fn name_of(roles: Roles, position: usize, workers_before: usize) -> String {
    match (roles.voter, roles.agent) {
        (true, true) => format!("n{position}"),
        (true, false) => format!("v{position}"),
        (false, _) => format!("w{workers_before}"),
    }
}

impl Cluster {
    /// Prepares a cluster in a temporary directory on free ports, and starts it.
    ///
    /// # Errors
    /// When a file, a port or a process cannot be had.
    pub fn start(binary: &Path, topology: &Topology) -> Result<Self> {
        let temp = TempDir::with_prefix("aether-")?;
        let dir = temp.path().to_owned();
        let mut leases = Vec::new();
        let mut addresses = Vec::new();
        for position in 0..topology.nodes.len() {
            let mut next = || {
                let (address, lease) = free_address()?;
                leases.push(lease);
                anyhow::Ok(address)
            };
            let own = topology.peers.listen.get(&position);
            addresses.push(Addresses {
                grpc: next()?,
                http: next()?,
                peer: own.map_or_else(&mut next, |own| Ok(*own))?,
                ingress: next()?,
            });
        }
        let mut cluster = Self::prepare(binary, topology, &dir, &addresses)?;
        cluster._temp = Some(temp);
        cluster._leases = leases;
        cluster.start_all()?;
        Ok(cluster)
    }

    /// Writes the configuration of a cluster in a directory of the caller's, on
    /// addresses of the caller's; starts nothing.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn prepare(
        binary: &Path,
        topology: &Topology,
        dir: &Path,
        addresses: &[Addresses],
    ) -> Result<Self> {
        let mut names = Vec::new();
        for (position, roles) in topology.nodes.iter().enumerate() {
            let workers = topology.nodes[..position].iter().filter(|r| !r.voter).count();
            names.push(name_of(*roles, position, workers));
        }
        let voters: Vec<usize> =
            (0..topology.nodes.len()).filter(|k| topology.nodes[*k].voter).collect();
        let founding = |from: usize| -> Vec<(String, SocketAddr)> {
            let reach = |to| topology.peers.reach.get(&(from, to)).copied();
            let address = |to: usize| reach(to).unwrap_or(addresses[to].peer);
            voters.iter().map(|to| (names[*to].clone(), address(*to))).collect()
        };
        let join: Vec<SocketAddr> = voters.iter().map(|k| addresses[*k].grpc).collect();
        let mut nodes = Vec::new();
        for (position, roles) in topology.nodes.iter().enumerate() {
            let common = Common {
                cluster: &topology.name,
                voters: &founding(position),
                join: &join,
                extra: &topology.extra,
            };
            let (name, addresses) = (&names[position], addresses[position]);
            let dir = dir.join(name);
            nodes.push(Node::prepare(name, *roles, addresses, &dir, binary, &common)?);
        }
        let (dir, binary) = (dir.to_owned(), binary.to_owned());
        Ok(Self { nodes, dir, binary, _temp: None, _leases: Vec::new() })
    }

    /// Prepares one more voter that joins the cluster; starts nothing, and invites
    /// nobody. Gives its position.
    ///
    /// # Errors
    /// When a file or a port cannot be had.
    pub fn prepare_voter(&mut self, name: &str, topology: &Topology) -> Result<usize> {
        let mut next = || {
            let (address, lease) = free_address()?;
            self._leases.push(lease);
            anyhow::Ok(address)
        };
        let addresses = Addresses { grpc: next()?, http: next()?, peer: next()?, ingress: next()? };
        let (dir, binary, join) = (self.dir.join(name), self.binary.clone(), self.control_plane());
        let common = newcomer(topology, &join);
        self.nodes.push(Node::prepare(name, Roles::VOTER, addresses, &dir, &binary, &common)?);
        Ok(self.nodes.len() - 1)
    }

    /// Takes the data of a voter that does not run away, and has it join the
    /// cluster as a new one when it starts.
    ///
    /// # Errors
    /// When a file cannot be changed.
    pub fn empty_voter(&mut self, position: usize, topology: &Topology) -> Result<()> {
        let old = &self.nodes[position];
        let (name, roles, addresses) = (old.name.clone(), old.roles, old.addresses);
        let others = self.nodes.iter().filter(|node| node.roles.voter && node.name != name);
        let join: Vec<SocketAddr> = others.map(|node| node.addresses.grpc).collect();
        std::fs::remove_dir_all(old.data_dir())?;
        let (dir, binary) = (old.dir.clone(), self.binary.clone());
        let common = newcomer(topology, &join);
        self.nodes[position] = Node::prepare(&name, roles, addresses, &dir, &binary, &common)?;
        Ok(())
    }

    /// Starts every node that does not run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for node in self.nodes.iter_mut().filter(|node| node.pid().is_none()) {
            node.start()?;
        }
        Ok(())
    }

    /// Leaves the directory where it is when the cluster ends.
    pub fn keep_directory(&mut self) {
        if let Some(temp) = &mut self._temp {
            temp.disable_cleanup(true);
        }
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The binary that its nodes run.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Client addresses of the voters.
    pub fn control_plane(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter(|n| n.roles.voter).map(|n| n.addresses.grpc).collect()
    }

    /// Ingress addresses.
    pub fn ingresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter(|n| n.roles.ingress).map(|n| n.addresses.ingress).collect()
    }

    /// A channel to a node's client gRPC; connects when it is used.
    pub fn channel(&self, node: usize) -> Channel {
        channel(self.nodes[node].addresses.grpc)
    }

    /// Position of the node that leads, once a quorum agrees on one.
    ///
    /// # Errors
    /// When none does within `patience`; says where the nodes' output is.
    pub async fn leader(&self, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            for (position, node) in self.nodes.iter().enumerate() {
                if !node.roles.voter || node.pid().is_none() {
                    continue;
                }
                if let Some(name) = leader_according_to(self.channel(position)).await {
                    let leads = |node: &Node| node.name == name && node.pid().is_some();
                    if let Some(leader) = self.nodes.iter().position(leads) {
                        return Ok(leader);
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("no leader within {patience:?}; the nodes' output is in {}", self.dir.display())
    }

    /// Waits until every node says that it serves.
    ///
    /// # Errors
    /// When one does not within `patience`; says which, and why.
    pub async fn ready(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        for position in 0..self.nodes.len() {
            self.ready_of(position, deadline.saturating_duration_since(Instant::now())).await?;
        }
        Ok(())
    }

    /// Waits until one node says that it serves.
    ///
    /// # Errors
    /// When it does not within `patience`; says why.
    pub async fn ready_of(&self, position: usize, patience: Duration) -> Result<()> {
        let (node, deadline) = (&self.nodes[position], Instant::now() + patience);
        while let Err(why) = node.ready().await {
            if Instant::now() >= deadline {
                return Err(why.context(format!("its output is in {}", node.log().display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Position of the node with a name.
    ///
    /// # Errors
    /// When there is none.
    pub fn position(&self, name: &str) -> Result<usize> {
        let position = self.nodes.iter().position(|node| node.name == name);
        position.with_context(|| format!("no node is named {name}"))
    }

    /// Asks every node to end, workers first. Whether all did with success.
    pub async fn stop_all(&mut self, grace: Duration) -> bool {
        let mut clean = true;
        for voters in [false, true] {
            for node in self.nodes.iter().filter(|n| n.roles.voter == voters) {
                node.signal(nix::sys::signal::Signal::SIGTERM);
            }
            for node in self.nodes.iter_mut().filter(|n| n.roles.voter == voters) {
                clean &= node.pid().is_none() || node.stop(grace).await;
            }
        }
        clean
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
        // Only a directory of our own making is in nobody else's command line.
        if self._temp.is_some() {
            kill_all_below(&self.dir);
        }
    }
}

/// What a voter that comes later is told.
fn newcomer<'a>(topology: &'a Topology, join: &'a [SocketAddr]) -> Common<'a> {
    Common { cluster: &topology.name, voters: &[], join, extra: &topology.extra }
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("a socket address makes a URI")
        .connect_timeout(Duration::from_secs(1))
        .connect_lazy()
}

async fn leader_according_to(channel: Channel) -> Option<String> {
    let mut request = tonic::Request::new(StatusRequest::default());
    request.set_timeout(Duration::from_secs(2));
    let mut client = ClusterClient::new(channel);
    let answer = tokio::time::timeout(Duration::from_secs(2), client.status(request));
    let status = answer.await.ok()?.ok()?.into_inner();
    status.leader.filter(|_| status.quorum)
}
