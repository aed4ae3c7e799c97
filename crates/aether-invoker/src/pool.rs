//! Connections to one instance: opened on demand, reused last-in first-out.
//!
//! A connection carries one call at a time (HTTP/1.1), so the pool never holds
//! more of them than there were calls at a time, and keeps at most a set number
//! when they are idle. A pool of our own because `try_send_request` gives an
//! unsent request back, body and all, so that it can go to another instance.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::HeaderMap;
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
    until: Instant,
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
        let now = Instant::now();
        let mut state = self.state();
        while let Some(idle) = state.idle.pop() {
            if idle.sender.is_ready() && now < idle.until {
                return Some(idle.sender);
            }
        }
        None
    }

    /// Keeps a connection that is ready for the next request, if there is room,
    /// for as long as `keep_for`.
    pub(crate) fn put(&self, sender: Sender, keep_for: Duration) {
        let until = Instant::now() + keep_for;
        let mut state = self.state();
        if !state.closed && state.idle.len() < self.idle_max {
            state.idle.push(Idle { sender, until });
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

    /// Closes connections that were idle for long enough, and forgets those
    /// that the instance closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.state().idle.retain(|idle| now < idle.until && !idle.sender.is_closed());
    }
}

/// How long a connection may be kept idle after a response: not up to the time
/// that the instance announced, after which it closes it. A request that meets
/// a connection just being closed may be lost, and only a safe one may be sent
/// again.
pub(crate) fn keep_for(headers: &HeaderMap, idle_timeout: Duration) -> Duration {
    let announced = headers
        .get("keep-alive")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(',').find_map(|part| part.trim().strip_prefix("timeout=")))
        .and_then(|seconds| seconds.trim().parse::<u32>().ok());
    // Half of a short time, all but a second of a long one.
    let safe = |seconds: u32| {
        let announced = Duration::from_secs(seconds.into());
        (announced / 2).max(announced.saturating_sub(Duration::from_secs(1)))
    };
    announced.map_or(idle_timeout, |seconds| safe(seconds).min(idle_timeout))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_not_kept_as_long_as_the_instance_would() {
        let keep = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("keep-alive", value.parse().unwrap());
            keep_for(&headers, Duration::from_secs(30)).as_millis()
        };
        assert_eq!(keep("timeout=5, max=1000"), 4_000);
        assert_eq!(keep("max=1, timeout=1"), 500);
        assert_eq!(keep("timeout=0"), 0);
        assert_eq!(keep("timeout=600"), 30_000);
        assert_eq!(keep("max=5"), 30_000);
        assert_eq!(keep_for(&HeaderMap::new(), Duration::from_secs(30)).as_secs(), 30);
    }
}
