//! Three etcd processes, at its defaults or with other timeouts.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aether_cluster::{Lease, free_address};
use anyhow::{Context, Result, bail};
use tonic::transport::Channel;

/// etcd's generated interface.
#[allow(missing_docs, clippy::all)]
pub mod pb {
    tonic::include_proto!("etcdserverpb");
}

use pb::maintenance_client::MaintenanceClient;

/// etcd's timeouts, where they are not its defaults.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// Milliseconds without one before an election.
    pub election_ms: u64,
}

/// A running cluster. Dropping it kills its processes.
pub struct Etcd {
    members: Vec<Process>,
    _leases: Vec<Lease>,
}

struct Process {
    arguments: Vec<String>,
    client: SocketAddr,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new("etcd")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start etcd; Debian's package is etcd-server")?;
        self.child = Some(child);
        Ok(())
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// Starts three members with their data below `dir`.
    ///
    /// # Errors
    /// When a port or a process cannot be had.
    pub fn start(dir: &Path, timeouts: Option<Timeouts>) -> Result<Self> {
        let mut leases = Vec::new();
        let mut addresses = Vec::new();
        for _ in 0..3 {
            let (client, lease) = free_address()?;
            let (peer, peer_lease) = free_address()?;
            leases.extend([lease, peer_lease]);
            addresses.push((client, peer));
        }
        let all = addresses.iter().enumerate();
        let all: Vec<String> = all.map(|(k, (_, peer))| format!("m{k}=http://{peer}")).collect();
        let mut members = Vec::new();
        for (k, (client, peer)) in addresses.into_iter().enumerate() {
            let mut arguments: Vec<String> = [
                ("name", format!("m{k}")),
                ("data-dir", dir.join(format!("m{k}")).display().to_string()),
                ("listen-client-urls", format!("http://{client}")),
                ("advertise-client-urls", format!("http://{client}")),
                ("listen-peer-urls", format!("http://{peer}")),
                ("initial-advertise-peer-urls", format!("http://{peer}")),
                ("initial-cluster", all.join(",")),
                ("initial-cluster-state", "new".to_owned()),
            ]
            .map(|(name, value)| format!("--{name}={value}"))
            .into();
            if let Some(Timeouts { heartbeat_ms, election_ms }) = timeouts {
                arguments.push(format!("--heartbeat-interval={heartbeat_ms}"));
                arguments.push(format!("--election-timeout={election_ms}"));
            }
            let log = dir.join(format!("m{k}.log"));
            let mut process = Process { arguments, client, log, child: None };
            process.start()?;
            members.push(process);
        }
        Ok(Self { members, _leases: leases })
    }

    /// Client addresses.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The member that leads, as it says itself.
    ///
    /// # Errors
    /// None does within `patience`.
    pub async fn leader(&self, patience: Duration) -> Result<usize> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            for (k, member) in self.members.iter().enumerate().filter(|(_, m)| m.child.is_some()) {
                if leads(member.client).await.unwrap_or(false) {
                    return Ok(k);
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("etcd has no leader within {patience:?}")
    }

    /// `kill -9` of a member.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, member: usize) -> Result<()> {
        self.members[member].start()
    }
}

async fn leads(address: SocketAddr) -> Result<bool> {
    let channel = Channel::from_shared(format!("http://{address}"))?.connect_lazy();
    let asked = MaintenanceClient::new(channel);
    let mut asked = asked;
    let answer = tokio::time::timeout(Duration::from_secs(1), asked.status(pb::StatusRequest {}));
    let answer = answer.await??.into_inner();
    let member = answer.header.map(|header| header.member_id).unwrap_or_default();
    Ok(answer.leader != 0 && answer.leader == member)
}
