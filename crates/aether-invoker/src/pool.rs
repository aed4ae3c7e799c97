//! Connections to one instance: opened on demand, reused last-in first-out.
//!
//! A connection carries one call at a time (HTTP/1.1; for HTTP/2 see
//! `multiplex.rs`), so the pool never holds
//! more of them than there were calls at a time, and keeps at most a set number
//! when they are idle. A pool of our own because `try_send_request` gives an
//! unsent request back, body and all, so that it can go to another instance.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::body::RequestBody;
use crate::multiplex::Multiplex;

/// An instance whose machine is gone without a word is noticed within two minutes,
/// also while nothing is sent to it: a stream or a tunnel may be silent for long.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Sends requests on one connection.
#[derive(Debug)]
pub(crate) struct Sender {
    requests: SendRequest<RequestBody>,
    /// Resolves when the task that drives the connection has let go of it.
    ended: oneshot::Receiver<Infallible>,
}

impl Sender {
    /// Opens the HTTP side of a connection. It is driven by a task of its own
    /// and ends with its sender.
    async fn open<T>(stream: T) -> hyper::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let (driven, ended) = oneshot::channel();
        tokio::spawn(async move {
            // A call in flight learns of the error itself; an idle connection
            // that the instance closes is nothing unusual.
            if let Err(error) = connection.with_upgrades().await {
                tracing::trace!(%error, "connection ended");
            }
            drop(driven);
        });
        Ok(Self { requests, ended })
    }

    /// Sends a request and waits for the head of the response. The sender
    /// comes back with it, unless the connection has ended.
    ///
    /// hyper alone may never answer here: a request that is handed over just
    /// while the connection ends can stay in the channel between the two,
    /// unsent, for as long as this side of the channel lives
    /// (<https://github.com/hyperium/hyper/issues/4122>). So this side does not
    /// outlive the connection; then the request comes back as unsent.
    pub(crate) async fn send(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Option<Self>), TrySendError<Request<RequestBody>>> {
        let mut answer = pin!(self.requests.try_send_request(request));
        tokio::select! {
            biased;
            answer = answer.as_mut() => return answer.map(|response| (response, Some(self))),
            _ = &mut self.ended => {}
        }
        drop(self.requests);
        answer.await.map(|response| (response, None))
    }

    /// Whether the next request may be sent now.
    pub(crate) fn is_ready(&self) -> bool {
        self.requests.is_ready()
    }

    /// Whether the connection has ended, or is about to.
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    /// Waits until the next request may be sent.
    ///
    /// # Errors
    /// If the connection has ended.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        self.requests.ready().await
    }
}

/// Why no connection could be opened. No request has been sent.
#[derive(Debug, Error)]
pub(crate) enum ConnectError {
    #[error("cannot connect to {address}: {source}")]
    Tcp { address: SocketAddr, source: std::io::Error },
    #[error("cannot connect to {address}: no answer within {} ms", after.as_millis())]
    Timeout { address: SocketAddr, after: Duration },
    #[error("cannot speak HTTP with {address}: {source}")]
    Http { address: SocketAddr, source: hyper::Error },
    #[error("cannot connect to {address}: another call has just tried")]
    Another { address: SocketAddr },
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
    /// Those of HTTP/2.
    pub(crate) http2: Multiplex,
}

impl Pool {
    pub(crate) fn new(idle_max: usize) -> Self {
        Self { state: Mutex::default(), idle_max, http2: Multiplex::default() }
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
        self.http2.close();
    }

    /// Keeps connections again.
    pub(crate) fn reopen(&self) {
        self.state().closed = false;
        self.http2.reopen();
    }

    /// Closes connections that were idle for long enough, and forgets those
    /// that the instance closed.
    pub(crate) fn sweep(&self) {
        let now = Instant::now();
        self.state().idle.retain(|idle| now < idle.until && !idle.sender.is_closed());
        self.http2.sweep();
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

/// Opens a connection.
pub(crate) async fn connect(
    address: SocketAddr,
    timeout: Duration,
) -> Result<Sender, ConnectError> {
    let stream = open_stream(address, timeout).await?;
    Sender::open(stream).await.map_err(|source| ConnectError::Http { address, source })
}

pub(crate) async fn open_stream(
    address: SocketAddr,
    timeout: Duration,
) -> Result<TcpStream, ConnectError> {
    let stream = tokio::time::timeout(timeout, TcpStream::connect(address))
        .await
        .map_err(|_| ConnectError::Timeout { address, after: timeout })?
        .map_err(|source| ConnectError::Tcp { address, source })?;
    // A failure of either only costs latency, or time.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE);
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

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

    /// A connection that the other side has closed, which this side notices
    /// when it is told to.
    #[derive(Clone, Default)]
    struct Closed {
        reading: Arc<AtomicBool>,
        notice: Arc<AtomicBool>,
    }

    /// Sees a change soon; where there is one core, lets the other side make it.
    fn spin_until(flag: &AtomicBool) {
        for spun in 0_u32.. {
            if flag.load(Ordering::Acquire) {
                return;
            }
            match spun {
                0..10_000 => std::hint::spin_loop(),
                _ => std::thread::yield_now(),
            }
        }
    }

    /// A nanosecond for each step, or less.
    fn spend(steps: u32) {
        (0..steps).for_each(|step| _ = std::hint::black_box(step));
    }

    impl AsyncRead for Closed {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            self.reading.store(true, Ordering::Release);
            spin_until(&self.notice);
            spend(1_000);
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Closed {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A request that is handed over while its connection ends is answered,
    /// wherever it was caught.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_request_on_a_connection_that_just_ends_is_not_forgotten() {
        const STEP: u32 = 4;
        const ROUNDS: u32 = 100_000;
        let (mut delay, mut round, mut late) = (0_u32, 0, 0);
        let begun = Instant::now();
        while round < ROUNDS && begun.elapsed() < Duration::from_secs(20) {
            round += 1;
            let closed = Closed::default();
            let sender = Sender::open(closed.clone()).await.unwrap();
            let request = Request::get("/").body(RequestBody::empty()).unwrap();
            spin_until(&closed.reading);
            closed.notice.store(true, Ordering::Release);
            spend(delay);
            let answer = tokio::time::timeout(Duration::from_secs(30), sender.send(request));
            let mut error = answer.await.expect("an answer").expect_err("nobody serves");
            assert!(error.take_message().is_some());
            // Comes closer and closer to the instant at which hyper refuses it.
            if format!("{:?}", error.error()).contains("not ready") {
                (delay, late) = (delay.saturating_sub(STEP), late + 1);
            } else {
                delay += STEP;
            }
        }
        // On both sides of that instant, unless the machine was too slow for it.
        assert!(round < ROUNDS || (1..ROUNDS).contains(&late), "{late} of {round} were late");
    }
}
