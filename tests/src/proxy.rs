//! A TCP proxy on loopback that a test can cut and heal.
//!
//! It is the only way from a client to the cluster, so that cutting it is what
//! a broken network is for that client, while everybody else goes on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aether_cluster::{Lease, free_address};
use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Pause after the system had no connection to give, such as out of files.
pub(crate) const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// A proxy in front of several addresses: each connection goes to the first
/// that accepts it.
pub struct Proxy {
    address: SocketAddr,
    upstreams: Vec<SocketAddr>,
    // Its end closes the listener and every connection; none while cut.
    serving: Option<JoinHandle<()>>,
    // The address stays ours while nothing listens on it.
    _lease: Lease,
}

impl Proxy {
    /// Starts to serve.
    ///
    /// # Errors
    /// When no address is free.
    pub async fn start(upstreams: Vec<SocketAddr>) -> Result<Self> {
        let (address, lease) = free_address()?;
        let mut proxy = Self { address, upstreams, serving: None, _lease: lease };
        proxy.heal().await?;
        Ok(proxy)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops every connection and refuses new ones. When this returns, nothing
    /// comes through any more.
    pub async fn cut(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            // An error says that it was aborted, as it was to be.
            let _ = serving.await;
        }
    }

    /// Serves again on the same address.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn heal(&mut self) -> Result<()> {
        if self.serving.is_none() {
            let listener = TcpListener::bind(self.address)
                .await
                .with_context(|| format!("the proxy cannot listen on {}", self.address))?;
            self.serving = Some(tokio::spawn(serve(listener, self.upstreams.clone())));
        }
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}

/// Bytes that are read at once for a [`Worn`] proxy.
const WORN_CHUNK_BYTES: usize = 16 * 1024;

/// A proxy of which every connection breaks after so many bytes to the other
/// side.
pub struct Worn {
    address: SocketAddr,
    carried: Arc<Carried>,
    serving: JoinHandle<()>,
    _lease: Lease,
}

/// What went to the other side over a [`Worn`] proxy.
#[derive(Debug, Default)]
struct Carried {
    bytes: AtomicU64,
    breaks: AtomicU64,
}

impl Worn {
    /// Starts to serve.
    ///
    /// # Errors
    /// When no address is free.
    pub async fn start(upstream: SocketAddr, bytes_max: u64) -> Result<Self> {
        let (address, lease) = free_address()?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("the proxy cannot listen on {address}"))?;
        let carried = Arc::new(Carried::default());
        let to = carried.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                match listener.accept().await {
                    Ok((client, _)) => {
                        let to = to.clone();
                        connections.spawn(async move {
                            let _ = wear(client, upstream, bytes_max, &to).await;
                        });
                    }
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, carried, serving, _lease: lease })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes that it carried to the other side, of all connections.
    pub fn bytes(&self) -> u64 {
        self.carried.bytes.load(Ordering::Relaxed)
    }

    /// Connections that broke.
    pub fn breaks(&self) -> u64 {
        self.carried.breaks.load(Ordering::Relaxed)
    }
}

impl Drop for Worn {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Carries one connection until it breaks or an end closes it.
async fn wear(
    client: TcpStream,
    upstream: SocketAddr,
    bytes_max: u64,
    carried: &Carried,
) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    client.set_nodelay(true).and_then(|()| server.set_nodelay(true))?;
    let (mut client_reads, mut client_writes) = client.into_split();
    let (mut server_reads, mut server_writes) = server.into_split();
    let back = copy(&mut server_reads, &mut client_writes);
    let forth = async {
        let (mut chunk, mut bytes) = (vec![0; WORN_CHUNK_BYTES], 0);
        loop {
            let length = client_reads.read(&mut chunk).await?;
            if length == 0 {
                return server_writes.shutdown().await;
            }
            bytes += length as u64;
            carried.bytes.fetch_add(length as u64, Ordering::Relaxed);
            if bytes > bytes_max {
                carried.breaks.fetch_add(1, Ordering::Relaxed);
                return Err(std::io::Error::other("worn out"));
            }
            server_writes.write_all(&chunk[..length]).await?;
        }
    };
    // Whatever ends it, both ends see a closed connection.
    tokio::try_join!(async { back.await.map(drop) }, forth).map(drop)
}

async fn serve(listener: TcpListener, upstreams: Vec<SocketAddr>) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(connections.spawn(carry(client, upstreams.clone()))),
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one connection until either end closes it.
async fn carry(mut client: TcpStream, upstreams: Vec<SocketAddr>) {
    for upstream in upstreams {
        if let Ok(mut server) = TcpStream::connect(upstream).await {
            // Whatever ends it, both ends see a closed connection.
            let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
            let _ = copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

/// Sends back what comes, for tests of what is in between.
#[cfg(test)]
pub(crate) fn echo_on(listener: TcpListener) {
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        echo_on(listener);
        address
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok()
    }

    #[tokio::test]
    async fn a_cut_drops_connections_and_refuses_new_ones_until_it_heals() {
        let (dead, _lease) = free_address().unwrap();
        let mut proxy = Proxy::start(vec![dead, echo().await]).await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut stream).await);
        proxy.cut().await;
        assert!(!answers(&mut stream).await);
        assert!(TcpStream::connect(proxy.address()).await.is_err());
        proxy.heal().await.unwrap();
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(answers(&mut stream).await);
    }
}
