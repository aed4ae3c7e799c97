//! Accepts connections, and ends them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aether_invoker::Invoker;
use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::config::Config;
use crate::connection::Server;
use crate::proxy::Proxy;
use crate::routes::Routes;
use crate::tls::{Certificates, TlsStatus};

/// Pause after an accept failed, usually for want of file descriptors: they
/// come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// A running ingress. Dropping it stops it at once; see
/// [`shutdown`](Self::shutdown) for an orderly end.
#[derive(Debug)]
pub struct Ingress {
    address: SocketAddr,
    ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    certificates: Option<Arc<Certificates>>,
    accepting: JoinHandle<()>,
    following: JoinHandle<()>,
    reloading: Option<JoinHandle<()>>,
}

impl Ingress {
    /// Serves the ingress rules of the invoker's tables on `listener`. The
    /// invoker stays the caller's to close, after the shutdown.
    ///
    /// # Errors
    /// If the listener has no address, or a [`TlsError`](crate::TlsError) if a
    /// certificate cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(listener: TcpListener, invoker: Invoker, config: Config) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let certificates = config.tls.as_ref().map(Certificates::load).transpose();
        let certificates =
            certificates.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let reloading = certificates.clone().zip(config.tls.as_ref()).map(|(certificates, tls)| {
            tokio::spawn(keep_loaded(certificates, tls.reload_interval))
        });
        // Before the first look, so that no change is missed.
        let mut changes = invoker.changes();
        let routes = ArcSwap::from_pointee(Routes::build(&invoker));
        let (has_routes, ready) = watch::channel(false);
        let proxy = Arc::new(Proxy { invoker, config, routes, ready: ready.clone() });
        let follower = Arc::clone(&proxy);
        let following = tokio::spawn(async move {
            loop {
                // Before the routes are built of them, so that they are in there.
                let has_tables = follower.invoker.status().applied.is_some();
                if let Some(routes) = follower.routes.load().rebuild(&follower.invoker) {
                    follower.routes.store(Arc::new(routes));
                }
                has_routes.send_if_modified(|has| has_tables && !std::mem::replace(has, true));
                if !changes.changed().await {
                    return;
                }
            }
        });
        let (stop, stopping) = watch::channel(false);
        let server = Server::new(Arc::clone(&proxy), certificates.as_ref());
        let accepting = tokio::spawn(accept(listener, proxy, server, stopping));
        Ok(Self { address, ready, stop, certificates, accepting, following, reloading })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Tells whether requests find their slice: the invoker has had tables.
    /// Later it serves by the last ones, however old.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let ready = self.ready.clone();
        move || *ready.borrow()
    }

    /// Reads the files of the certificates again now, and says what came of it;
    /// otherwise they are read every few seconds. `None` without TLS.
    pub async fn reload_certificates(&self) -> Option<TlsStatus> {
        let certificates = Arc::clone(self.certificates.as_ref()?);
        tokio::task::spawn_blocking(move || certificates.reload()).await.ok()
    }

    /// What is known of the certificates; `None` without TLS.
    pub fn tls_status(&self) -> Option<TlsStatus> {
        self.certificates.as_ref().map(|certificates| certificates.status())
    }

    /// Accepts no more connections, closes idle ones, and waits until requests
    /// in flight have been answered, at most [`Config::shutdown_timeout`].
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // An error would be a panic of that task: it has ended either way.
        let _ = (&mut self.accepting).await;
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.accepting.abort();
        self.following.abort();
        if let Some(reloading) = &self.reloading {
            reloading.abort();
        }
    }
}

/// Reads certificates again as often as it is asked for.
async fn keep_loaded(certificates: Arc<Certificates>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let certificates = Arc::clone(&certificates);
        // It ends only with its runtime, and so does this.
        let _ = tokio::task::spawn_blocking(move || certificates.reload()).await;
    }
}

/// Accepts until told to stop, then waits for the connections to end.
async fn accept(
    listener: TcpListener,
    proxy: Arc<Proxy>,
    server: Server,
    stopping: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(proxy.config.connections_max.min(Semaphore::MAX_PERMITS)));
    let server = Arc::new(server);
    // Dropped with this task, and then aborts what is left.
    let mut connections = JoinSet::new();
    let mut stop = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = next(&listener, &places) => accepted,
            () = asked_to_stop(&mut stop) => break,
        };
        match accepted {
            Ok((stream, peer, place)) => {
                let (server, stopping) = (Arc::clone(&server), stopping.clone());
                connections.spawn(async move {
                    server.serve(stream, peer, stopping).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(proxy.config.shutdown_timeout, all).await.is_err() {
        tracing::warn!(left = connections.len(), "requests outlasted the shutdown timeout");
    }
}

/// Returns when the ingress is to stop, or is gone.
pub(crate) async fn asked_to_stop(stopping: &mut watch::Receiver<bool>) {
    // The guard over the value must not outlive this: it binds the thread.
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The next connection, once there is a place for it.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}
