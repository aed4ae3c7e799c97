//! Connections of HTTP/2 to one instance, each of which carries many calls: in
//! cleartext and without asking (RFC 9113, section 3.3), as gRPC does inside of a
//! cluster.
//!
//! One is opened when it is needed and used until it carries as many calls as the
//! instance takes at a time; then there is another. There are as many as the calls
//! in flight need, which are bounded elsewhere. One that the instance wants no more
//! calls on (GOAWAY) is forgotten; the calls on it go on. No pings are sent:
//! servers of gRPC close the connection of who pings them often.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::watch;

use crate::body::RequestBody;
use crate::pool::{ConnectError, open_stream};

/// Most calls at a time on one connection: what servers allow at least (RFC 9113,
/// section 6.5.2). Where one allows fewer, that is obeyed once it is known.
const STREAMS_MAX: usize = 100;

/// How much of one response may wait for its reader here. The connection has room
/// for that of all its streams, so that one who reads slowly holds up nobody else.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;

/// How much of one request may wait for the instance.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// Largest head of a response, and trailers.
const HEADER_BYTES_MAX: u32 = 64 * 1024;

/// How loaded a connection is.
#[derive(Debug)]
struct Load {
    calls: AtomicUsize,
    /// What the instance allows, as far as it is known.
    calls_max: AtomicUsize,
    idle_since: Mutex<Instant>,
    /// How long it is kept when it carries none.
    idle_max: Duration,
}

impl Load {
    fn idle_since(&self) -> MutexGuard<'_, Instant> {
        self.idle_since.lock().expect("no code panics while it holds a time")
    }
}

/// The place of one call on a connection, for as long as the call lasts.
#[derive(Debug)]
pub(crate) struct Place(Arc<Load>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            *self.0.idle_since() = Instant::now();
        }
    }
}

#[derive(Debug, Clone)]
struct Connection {
    requests: SendRequest<RequestBody>,
    load: Arc<Load>,
    /// Changes when no further call can be begun.
    ended: watch::Receiver<Option<Infallible>>,
}

impl Connection {
    async fn open(
        address: SocketAddr,
        timeout: Duration,
        idle_max: Duration,
    ) -> Result<Self, ConnectError> {
        let stream = open_stream(address, timeout).await?;
        let (requests, mut connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| ConnectError::Http { address, source })?;
        let load = Arc::new(Load {
            calls: AtomicUsize::new(0),
            calls_max: AtomicUsize::new(STREAMS_MAX),
            idle_since: Mutex::new(Instant::now()),
            idle_max,
        });
        let (driven, ended) = watch::channel(None);
        let seen = Arc::clone(&load);
        tokio::spawn(async move {
            let drive = std::future::poll_fn(|context| {
                let polled = Pin::new(&mut connection).poll(context);
                let allowed = connection.current_max_send_streams().clamp(1, STREAMS_MAX);
                seen.calls_max.store(allowed, Ordering::Relaxed);
                match polled {
                    Poll::Ready(ended) => Poll::Ready(ended),
                    Poll::Pending => Poll::Pending,
                }
            });
            if let Err(error) = drive.await {
                tracing::trace!(%error, "connection ended");
            }
            // Whoever waits on the other side of its channel is told first.
            drop(connection);
            drop(driven);
        });
        Ok(Self { requests, load, ended })
    }

    /// A place on it, if there is one.
    fn take(&self) -> Option<Taken> {
        let free =
            |calls| (calls < self.load.calls_max.load(Ordering::Relaxed)).then_some(calls + 1);
        self.load.calls.fetch_update(Ordering::AcqRel, Ordering::Relaxed, free).ok()?;
        Some(Taken { place: Place(Arc::clone(&self.load)), connection: self.clone() })
    }
}

/// A place that was taken for one call, with what makes it.
#[derive(Debug)]
pub(crate) struct Taken {
    connection: Connection,
    place: Place,
}

impl Taken {
    /// Sends a request and waits for the head of the response. Dropped before, it
    /// resets the stream.
    ///
    /// A request can stay in the channel to a connection that ends just now for as
    /// long as this side of the channel lives, as with HTTP/1.1 (see `pool.rs`). So
    /// this side does not outlive the connection, and [`Multiplex::take`] drops its
    /// own.
    pub(crate) async fn send(
        self,
        request: Request<RequestBody>,
        connections: &Multiplex,
    ) -> Result<(Response<Incoming>, Place), TrySendError<Request<RequestBody>>> {
        let Self { connection, place } = self;
        let Connection { mut requests, mut ended, .. } = connection;
        let mut answer = pin!(requests.try_send_request(request));
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer.map(|response| (response, place)),
            _ = ended.changed() => {}
        }
        drop(requests);
        connections.forget_ended();
        answer.await.map(|response| (response, place))
    }
}

#[derive(Debug, Default)]
struct State {
    open: Vec<Connection>,
    closed: bool,
    failed_at: Option<Instant>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Multiplex {
    state: Mutex<State>,
    /// Held by the one call that opens a connection, so that a thousand that come
    /// at once open as many as they need.
    opening: tokio::sync::Mutex<()>,
}

impl Multiplex {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the connections")
    }

    /// A place on a connection that is open.
    fn take(&self) -> Option<Taken> {
        let mut state = self.state();
        state.open.retain(|connection| !connection.requests.is_closed());
        state.open.iter().find_map(Connection::take)
    }

    /// A place on a connection, and whether that had to be opened.
    ///
    /// # Errors
    /// If it cannot be opened, or could not since this call began.
    pub(crate) async fn place(
        &self,
        address: SocketAddr,
        timeout: Duration,
        idle_max: Duration,
    ) -> Result<(Taken, bool), ConnectError> {
        if let Some(taken) = self.take() {
            return Ok((taken, false));
        }
        // Rare, and so not a part of each call.
        Box::pin(self.opened(address, timeout, idle_max)).await
    }

    async fn opened(
        &self,
        address: SocketAddr,
        timeout: Duration,
        idle_max: Duration,
    ) -> Result<(Taken, bool), ConnectError> {
        let began = Instant::now();
        let _opening = self.opening.lock().await;
        if let Some(taken) = self.take() {
            return Ok((taken, false));
        }
        if self.state().failed_at.is_some_and(|at| at >= began) {
            return Err(ConnectError::Another { address });
        }
        let opened = Connection::open(address, timeout, idle_max).await;
        let connection = opened.inspect_err(|_| self.state().failed_at = Some(Instant::now()))?;
        let mut state = self.state();
        let taken = connection.take().expect("it has room for one call");
        if !state.closed {
            state.open.push(connection);
        }
        Ok((taken, true))
    }

    fn forget_ended(&self) {
        let mut state = self.state();
        // A sender of which is dropped has changed for ever.
        state.open.retain(|connection| connection.ended.has_changed().is_ok());
    }

    /// Closes all connections once the calls on them have ended.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let open = std::mem::take(&mut state.open);
        drop(state);
        drop(open);
    }

    /// Keeps connections again.
    pub(crate) fn reopen(&self) {
        self.state().closed = false;
    }

    /// Closes those that have been idle for long enough.
    pub(crate) fn sweep(&self) {
        self.state().open.retain(|connection| {
            let load = &connection.load;
            let is_idle = load.calls.load(Ordering::Acquire) == 0;
            let is_old = is_idle && load.idle_since().elapsed() >= load.idle_max;
            !is_old && !connection.requests.is_closed()
        });
    }
}
