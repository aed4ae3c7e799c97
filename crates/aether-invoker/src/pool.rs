//! Connections to one instance: opened on demand, reused last-in first-out.
//!
//! A connection carries one call at a time (HTTP/1.1), so the pool never holds
//! more of them than there were calls at a time, and keeps at most a set number
//! when they are idle. A pool of our own because `try_send_request` gives an
//! unsent request back, body and all, so that it can go to another instance.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;

use crate::body::RequestBody;

/// Sends requests on one connection.
pub(crate) type Sender = SendRequest<RequestBody>;

/// Why no connection could be opened. No request has been sent.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to {address}: {source}")]
    Tcp { address: SocketAddr, source: std::io::Error },
    #[error("cannot connect to {address}: no answer within {} ms", after.as_millis())]
    Timeout { address: SocketAddr, after: Duration },
    #[error("cannot speak HTTP with {address}: {source}")]
    Http { address: SocketAddr, source: hyper::Error },
}

#[derive(Debug)]
struct Idle {
    sender: Sender,
    since: Instant,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Idle>,
    closed: bool,
}

/// Idle connections to one instance.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    idle_max: usize,
}

impl Pool {
    pub(crate) fn new(idle_max: usize) -> Self {
        Self { state: Mutex::default(), idle_max }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a pool")
    }

    /// The connection that was used last and is still open.
    pub(crate) fn take(&self) -> Option<Sender> {
        let mut state = self.state();
        while let Some(idle) = state.idle.pop() {
            if idle.sender.is_ready() {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Keeps a connection that is ready for the next request, if there is room.
    pub(crate) fn put(&self, sender: Sender) {
        let mut state = self.state();
        if !state.closed && state.idle.len() < self.idle_max {
            state.idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes all idle connections, and later ones as they become idle.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let idle = std::mem::take(&mut state.idle);
        drop(state);
        drop(idle);
    }

    /// Keeps connections again.
    pub(crate) fn reopen(&self) {
        self.state().closed = false;
    }

    /// Closes connections that were idle for longer than `idle_max`, and
    /// forgets those that the instance closed.
    pub(crate) fn sweep(&self, idle_max: Duration) {
        let keep = |idle: &Idle| idle.since.elapsed() <= idle_max && !idle.sender.is_closed();
        self.state().idle.retain(keep);
    }
}

/// Opens a connection. It is driven by a task of its own and ends with its
/// sender.
pub(crate) async fn connect(
    address: SocketAddr,
    timeout: Duration,
) -> Result<Sender, ConnectError> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout { address, after: timeout })?
        .map_err(|source| ConnectError::Tcp { address, source })?;
    // A failure only costs latency.
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|source| ConnectError::Http { address, source })?;
    tokio::spawn(async move {
        // A call in flight learns of the error itself; an idle connection that
        // the instance closes is nothing unusual.
        if let Err(error) = connection.await {
            tracing::trace!(%address, %error, "connection ended");
        }
    });
    Ok(sender)
}
