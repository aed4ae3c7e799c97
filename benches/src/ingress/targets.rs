//! What is measured: Aether's ingress, its peers, and the base without a proxy. All run the
//! whole time, each as processes of its own; who is not asked idles.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aether_cluster::{Lease, free_address};
use anyhow::{Context, Result};
use tempfile::TempDir;

use super::aether::{Aether, Upstreams};
use super::client::{Connection, speaks_http2};
use super::h2load::Protocol;
use super::process::{Process, children};
use super::{RATIO, envoy, haproxy, nginx};

/// How long a program may take until it serves.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whose ingress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// None: the files from the same server without a proxy.
    Direct,
    /// This project's.
    Aether,
    /// HAProxy.
    HaProxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
}

impl Kind {
    /// In the order of the tables.
    pub const ALL: [Self; 5] =
        [Self::Direct, Self::Aether, Self::HaProxy, Self::Nginx, Self::Envoy];
    /// Those that split.
    pub const PROXIES: [Self; 4] = [Self::Aether, Self::HaProxy, Self::Nginx, Self::Envoy];

    /// How the tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Aether => "Aether",
            Self::HaProxy => "HAProxy",
            Self::Nginx => "nginx",
            Self::Envoy => "Envoy",
        }
    }
}

/// A peer that was configured in a directory of its own.
struct Peer {
    dir: PathBuf,
    /// For HTTP/1.1, and for HTTP/2 where that takes another listener.
    addresses: [SocketAddr; 2],
    process: Option<Process>,
}

/// All of them.
pub struct Targets {
    aether: Aether,
    upstreams: Upstreams,
    /// By [`Kind`], but for Aether.
    peers: Vec<(Kind, Peer)>,
    envoy: String,
    /// Whether Aether's ingress speaks HTTP/2.
    aether_http2: bool,
    dir: TempDir,
    _leases: Vec<Lease>,
}

impl Targets {
    /// Starts all of them at the ratio at which they are measured.
    ///
    /// # Errors
    /// One does not serve in time.
    pub async fn start(binary: &Path, envoy: &str) -> Result<Self> {
        let dir = TempDir::with_prefix("aether-peers-")?;
        let (aether, upstreams) = Aether::start(binary).await?;
        let aether_http2 = speaks_http2(aether.address()).await?;
        let (mut peers, mut leases) = (Vec::new(), Vec::new());
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Aether) {
            let [(http1, first), (http2, second)] = [free_address()?, free_address()?];
            leases.extend([first, second]);
            let dir = dir.path().join(kind.name());
            std::fs::create_dir(&dir)?;
            let addresses = match kind {
                Kind::Direct | Kind::Nginx => [http1, http2],
                _ => [http1, http1],
            };
            peers.push((kind, Peer { dir, addresses, process: None }));
        }
        let envoy = envoy.to_owned();
        let mut targets =
            Self { aether, upstreams, peers, envoy, aether_http2, dir, _leases: leases };
        for kind in Kind::ALL {
            if kind != Kind::Aether {
                targets.restart(kind).await?;
            }
        }
        targets.aether.split(RATIO.0, RATIO.1).await?;
        Ok(targets)
    }

    /// Ends all of them.
    pub async fn end(self) {
        drop(self.peers);
        self.aether.end().await;
    }

    /// A directory for what measuring needs.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Where somebody is to be asked; `None` if that protocol is not spoken there.
    pub fn address(&self, kind: Kind, protocol: Protocol) -> Option<SocketAddr> {
        let is_http2 = protocol != Protocol::Http1;
        match self.peer(kind) {
            Some(peer) => Some(peer.addresses[usize::from(is_http2)]),
            None => (!is_http2 || self.aether_http2).then(|| self.aether.address()),
        }
    }

    /// Its processes as they are now.
    pub fn pids(&self, kind: Kind) -> Vec<u32> {
        let Some(peer) = self.peer(kind) else { return self.aether.pids() };
        let Some(process) = &peer.process else { return Vec::new() };
        let mut pids = vec![process.pid()];
        // Workers are children of nginx's master; the others have threads.
        pids.extend(children(process.pid()));
        pids
    }

    fn peer(&self, kind: Kind) -> Option<&Peer> {
        self.peers.iter().find(|(of, _)| *of == kind).map(|(_, peer)| peer)
    }

    /// Ends it and starts it anew, at the ratio at which all are measured; returns when it
    /// serves.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn restart(&mut self, kind: Kind) -> Result<()> {
        let Some((_, peer)) = self.peers.iter_mut().find(|(of, _)| *of == kind) else {
            return self.aether.restart().await;
        };
        peer.process = None;
        let (dir, upstreams) = (&peer.dir, &self.upstreams);
        let (new, old) = RATIO;
        peer.process = Some(match kind {
            Kind::HaProxy => {
                let config = haproxy::config(peer.addresses[0], upstreams, RATIO);
                std::fs::write(dir.join("haproxy.cfg"), config)?;
                haproxy::start(dir)?
            }
            Kind::Envoy => {
                let config = envoy::config(peer.addresses[0], upstreams, dir);
                std::fs::write(dir.join("envoy.json"), config)?;
                envoy::split(dir, new, old)?;
                envoy::start(&self.envoy, dir)?
            }
            Kind::Nginx => {
                let config = nginx::proxy(peer.addresses, upstreams, new, old);
                std::fs::write(dir.join("nginx.conf"), config)?;
                nginx::start(dir)?
            }
            Kind::Direct | Kind::Aether => {
                nginx::write_files(dir)?;
                std::fs::write(dir.join("nginx.conf"), nginx::base(peer.addresses))?;
                nginx::start(dir)?
            }
        });
        peer.serves().await.with_context(|| format!("{} does not serve", kind.name()))
    }

    /// Changes the ratio, in the way that each has for it.
    ///
    /// # Errors
    /// It is refused, or there is nothing to split.
    pub async fn split(&mut self, kind: Kind, new: u32, old: u32) -> Result<()> {
        let Some((_, peer)) = self.peers.iter().find(|(of, _)| *of == kind) else {
            return self.aether.split(new, old).await;
        };
        let upstreams = &self.upstreams;
        match kind {
            Kind::HaProxy => haproxy::split(&peer.dir, upstreams, new, old).await,
            Kind::Envoy => envoy::split(&peer.dir, new, old),
            Kind::Nginx => {
                let config = nginx::proxy(peer.addresses, upstreams, new, old);
                std::fs::write(peer.dir.join("nginx.conf"), config)?;
                peer.process.as_ref().into_iter().for_each(nginx::reload);
                Ok(())
            }
            Kind::Direct | Kind::Aether => anyhow::bail!("{} splits nothing", kind.name()),
        }
    }
}

impl Peer {
    /// Returns when it answers.
    async fn serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(process) = &mut self.process {
                process.lives()?;
            }
            let asked = async {
                let mut connection = Connection::open(self.addresses[0]).await?;
                connection.get("/1k").await
            };
            match asked.await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}
