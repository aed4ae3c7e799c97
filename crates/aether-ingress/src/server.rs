//! Accepts connections, and ends them in order.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aether_invoker::Invoker;
use arc_swap::ArcSwap;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::config::{Config, HEADER_BYTES_MIN};
use crate::headers::Client;
use crate::io::StallGuard;
use crate::problem;
use crate::proxy::Proxy;
use crate::routes::Routes;

/// Pause after an accept failed, usually for want of file descriptors: they
/// come back when connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// How long a client has to take the answer to a head that was too slow, and to
/// end its side.
const LINGER: Duration = Duration::from_secs(1);

/// A running ingress. Dropping it stops it at once; see
/// [`shutdown`](Self::shutdown) for an orderly end.
#[derive(Debug)]
pub struct Ingress {
    address: SocketAddr,
    ready: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    following: JoinHandle<()>,
}

impl Ingress {
    /// Serves the ingress rules of the invoker's tables on `listener`. The
    /// invoker stays the caller's to close, after the shutdown.
    ///
    /// # Errors
    /// If the listener has no address.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(listener: TcpListener, invoker: Invoker, config: Config) -> io::Result<Self> {
        let address = listener.local_addr()?;
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
        let accepting = tokio::spawn(accept(listener, proxy, stopping));
        Ok(Self { address, ready, stop, accepting, following })
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
    }
}

/// Accepts until told to stop, then waits for the connections to end.
async fn accept(listener: TcpListener, proxy: Arc<Proxy>, stopping: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(proxy.config.connections_max.min(Semaphore::MAX_PERMITS)));
    let builder = builder(&proxy.config);
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
                let (proxy, stopping) = (Arc::clone(&proxy), stopping.clone());
                connections.spawn(serve(builder.clone(), stream, peer, proxy, stopping, place));
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
async fn asked_to_stop(stopping: &mut watch::Receiver<bool>) {
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

fn builder(config: &Config) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(config.header_bytes_max)
        .max_buf_size(config.header_bytes_max.max(HEADER_BYTES_MIN));
    builder
}

async fn serve(
    builder: http1::Builder,
    stream: TcpStream,
    peer: SocketAddr,
    proxy: Arc<Proxy>,
    mut stopping: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    // A failure only costs latency.
    let _ = stream.set_nodelay(true);
    let client = Client::new(peer.ip(), proxy.config.trust_forwarded);
    let io = StallGuard::new(TokioIo::new(stream), proxy.config.stall_timeout);
    let service =
        service_fn(async |request| Ok::<_, Infallible>(proxy.answer(&client, request).await));
    let mut connection = builder.serve_connection(io, service);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = asked_to_stop(&mut stopping) => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Err(error) = ended else { return };
    tracing::debug!(%peer, %error, "a client's connection broke");
    let parts = connection.into_parts();
    // Who sent nothing has idled, and may be about to send a request: it would
    // take an answer for the one to that.
    if error.is_timeout() && !parts.read_buf.is_empty() {
        head_too_slow(parts.io.into_inner().into_inner()).await;
    }
}

/// Answers a head that did not come whole in time, and ends the connection.
async fn head_too_slow(mut stream: TcpStream) {
    let said = async {
        stream.write_all(problem::head_too_slow().as_bytes()).await?;
        stream.shutdown().await?;
        // What still came to a closed one would take the answer away.
        let mut rest = [0; 1_024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // Who does not take it, or is gone, misses nothing.
    let _ = tokio::time::timeout(LINGER, said).await;
}
