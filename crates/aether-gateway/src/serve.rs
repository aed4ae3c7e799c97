//! Serves a router on a listener, with bounds that keep a slow or idle client
//! from holding more than one connection's worth of anything, and that only
//! while nobody else wants the place.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use http::Request;
use http::request::Parts;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tonic::codegen::Service;

use crate::early::{Spoken, head_too_slow};

/// How long the head of a request may take to arrive, and how long a
/// connection may idle between two requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);

/// A connection without a request for so long makes way for another when all
/// places are taken. A head needs milliseconds.
const IDLE_MIN: Duration = Duration::from_secs(1);

/// Connections served at a time; more wait in the listener's backlog. Half of
/// the usual soft limit of 1024 open files, the rest belongs to the others in
/// this process.
const CONNECTIONS_MAX: usize = 512;

/// How long requests in flight may take to end after `shutdown`. Longer than
/// the deadline of any call.
const SHUTDOWN_TIME_MAX: Duration = Duration::from_secs(12);

/// How long a client may take none of an answer that waits for it. What it is
/// sent meanwhile fills the buffers of both ends, and no more.
const UNREAD_TIME_MAX: Duration = Duration::from_secs(30);

/// Pause after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves, then lets requests in flight end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_within(Bounds::default(), listener, router, shutdown).await;
}

/// What the tests make smaller.
#[derive(Clone, Copy)]
struct Bounds {
    connections: usize,
    head: Duration,
    unread: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { connections: CONNECTIONS_MAX, head: HEAD_TIME_MAX, unread: UNREAD_TIME_MAX }
    }
}

/// With each request, for answers that do not end by themselves: when to end.
#[derive(Clone)]
pub(crate) struct Stopping(Option<watch::Receiver<bool>>);

impl Stopping {
    /// Until the server is asked to end.
    pub(crate) async fn wait(&mut self) {
        match &mut self.0 {
            // An error means that the server is gone.
            Some(stop) => drop(stop.wait_for(|stop| *stop).await),
            None => std::future::pending().await,
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Stopping {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // A router that is not served here is asked for short answers only.
        Ok(parts.extensions.get().cloned().unwrap_or(Self(None)))
    }
}

/// A body while which its connection is busy.
struct Busy {
    body: Body,
    busy: watch::Sender<bool>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.busy.send_replace(false);
    }
}

impl hyper::body::Body for Busy {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The places for connections.
struct Places {
    free: Arc<Semaphore>,
    /// Wakes the connection that has been idle for longest.
    wanted: Notify,
}

impl Places {
    async fn take(&self) -> OwnedSemaphorePermit {
        if self.free.available_permits() == 0 {
            self.wanted.notify_one();
        }
        let place = Arc::clone(&self.free).acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    /// Resolves when a connection is idle and its place is wanted.
    async fn make_way(&self, mut busy: watch::Receiver<bool>) {
        loop {
            if busy.wait_for(|busy| !*busy).await.is_err() {
                // The service is gone, and with it the connection in a moment.
                return std::future::pending().await;
            }
            let wanted = async {
                tokio::time::sleep(IDLE_MIN).await;
                loop {
                    self.wanted.notified().await;
                    if self.free.available_permits() == 0 {
                        break;
                    }
                }
            };
            tokio::select! {
                () = wanted => return,
                _ = busy.changed() => {}
            }
        }
    }
}

async fn serve_within(
    bounds: Bounds,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(bounds.connections));
    let places = Arc::new(Places { free, wanted: Notify::new() });
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let places = Arc::clone(&places);
        let (router, stopped) = (router.clone(), stopped.clone());
        connections.spawn(connection(stream, bounds, router, stopped, places, place));
    }
    drop(listener);
    // Receivers only wait for the change; nobody listening means nobody served.
    let _ = stop.send(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIME_MAX, all_ended).await.is_err() {
        tracing::warn!("HTTP requests were still in flight at shutdown; their connections are cut");
    }
}

/// Accepts first: only for a connection that is there does another make way.
async fn accept(listener: &TcpListener, places: &Places) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, places.take().await),
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    bounds: Bounds,
    router: Router,
    mut stopped: watch::Receiver<bool>,
    places: Arc<Places>,
    _place: OwnedSemaphorePermit,
) {
    // Answers are short; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let (busy, is_busy) = watch::channel(false);
    let stopping = Stopping(Some(stopped.clone()));
    let service = service_fn(move |mut request: Request<Incoming>| {
        let busy = busy.clone();
        busy.send_replace(true);
        request.extensions_mut().insert(stopping.clone());
        // A router is always ready.
        let answer = router.clone().call(request);
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            Ok::<_, Infallible>(answer.map(|body| Busy { body, busy }))
        }
    });
    let mut io = TimeoutStream::new(stream);
    io.set_write_timeout(Some(bounds.unread));
    let io = Spoken::new(Box::pin(io), is_busy.clone());
    let mut serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .serve_connection(TokioIo::new(io), service);
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = places.make_way(is_busy) => return,
        // The block drops the guard that is no part of a task that may move.
        () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
            Pin::new(&mut serving).graceful_shutdown();
            (&mut serving).await
        }
    };
    let Err(error) = ended else { return };
    tracing::debug!(%error, "HTTP connection ended early");
    let parts = serving.into_parts();
    // Who sent nothing has idled, and may be about to send a request: it would
    // take an answer for the one to that.
    if error.is_timeout() && !parts.read_buf.is_empty() {
        head_too_slow(parts.io.into_inner()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// What arrives before the end, or the first bytes of it.
    async fn first_of(stream: &mut TcpStream) -> Vec<u8> {
        let mut some = vec![0; 15];
        let read = tokio::time::timeout(Duration::from_secs(30), stream.read(&mut some));
        let length = read.await.expect("an answer or an end").unwrap_or(0);
        some.truncate(length);
        some
    }

    #[tokio::test]
    async fn who_sends_nothing_makes_way_and_who_is_served_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let release = Arc::new(Notify::new());
        let released = Arc::clone(&release);
        let router = Router::new().route("/", axum::routing::get(|| async { "here" })).route(
            "/slow",
            axum::routing::get(move || async move {
                released.notified().await;
                "there"
            }),
        );
        let bounds = Bounds { connections: 2, ..Bounds::default() };
        tokio::spawn(serve_within(bounds, listener, router, std::future::pending()));
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut half_open = TcpStream::connect(address).await.unwrap();
        half_open.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let began = tokio::time::Instant::now();
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        assert_eq!(first_of(&mut third).await, b"HTTP/1.1 200 OK");
        assert!(began.elapsed() < HEAD_TIME_MAX, "it waited for {:?}", began.elapsed());
        assert_eq!(first_of(&mut half_open).await, b"", "this one made way");
        release.notify_one();
        assert_eq!(first_of(&mut slow).await, b"HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn a_head_that_comes_too_slowly_is_answered_and_an_idle_connection_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", axum::routing::get(|| async { "here" }));
        let bounds = Bounds { head: Duration::from_millis(200), ..Bounds::default() };
        tokio::spawn(serve_within(bounds, listener, router, std::future::pending()));
        let answer = async |sent: &[u8]| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent).await.unwrap();
            let mut text = String::new();
            let reading = stream.read_to_string(&mut text);
            tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap().unwrap();
            text
        };
        for part in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            let text = answer(part.as_bytes()).await;
            assert!(text.starts_with("HTTP/1.1 408 "), "{part}: {text}");
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
            assert!(body.contains("\"code\":\"head_too_slow\""), "{text}");
        }
        assert_eq!(answer(b"").await, "");
        let text = answer(REQUEST).await;
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("here"), "{text}");
        let second = answer(&[REQUEST, b"GET / HTT"].concat()).await;
        assert!(second.contains("hereHTTP/1.1 408 "), "{second}");
    }

    /// As much as any buffer takes, and more.
    const ENDLESS: usize = 64 * 1024 * 1024;

    #[tokio::test]
    async fn a_stream_is_no_idle_connection_and_who_does_not_read_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let written = Arc::new(Notify::new());
        let ended = Arc::clone(&written);
        let silent = || Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
        let router = Router::new()
            .route("/", axum::routing::get(|| async { "here" }))
            .route("/silent", axum::routing::get(move || async move { silent() }))
            .route(
                "/endless",
                axum::routing::get(move || async move {
                    /// Says when it is dropped.
                    struct Told(Arc<Notify>);
                    impl Drop for Told {
                        fn drop(&mut self) {
                            self.0.notify_one();
                        }
                    }
                    let told = Told(ended);
                    let parts = (0..ENDLESS / 65_536).map(move |_| {
                        let _held = &told;
                        Ok::<_, Infallible>(Bytes::from_static(&[b' '; 65_536]))
                    });
                    Body::from_stream(futures::stream::iter(parts))
                }),
            );
        let unread = Duration::from_millis(500);
        let bounds = Bounds { connections: 2, unread, ..Bounds::default() };
        tokio::spawn(serve_within(bounds, listener, router, std::future::pending()));
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"GET /silent HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert_eq!(first_of(&mut silent).await, b"HTTP/1.1 200 OK");
        let mut unread = TcpStream::connect(address).await.unwrap();
        unread.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // Both places are taken by answers that go on, and neither makes way
        // before the one that is not read was cut.
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(REQUEST).await.unwrap();
        let cut = tokio::time::timeout(Duration::from_secs(30), written.notified());
        cut.await.expect("its body is dropped though nobody read it");
        assert_eq!(first_of(&mut third).await, b"HTTP/1.1 200 OK");
        let mut rest = [0; 4096];
        while let Ok(read) =
            tokio::time::timeout(Duration::from_millis(100), silent.read(&mut rest)).await
        {
            assert!(read.unwrap() > 0, "the silent one goes on");
        }
    }
}
