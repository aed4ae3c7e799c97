//! Serves a router on a listener, with bounds that keep a slow or idle client
//! from holding more than one connection's worth of anything, and that only
//! while nobody else wants the place.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tonic::codegen::Service;

use crate::early::{Answering, Spoken};

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

/// Pause after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves until `shutdown` resolves, then lets requests in flight end.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) {
    serve_at_once(CONNECTIONS_MAX, listener, router, shutdown).await;
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

async fn serve_at_once(
    connections_max: usize,
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
) {
    let free = Arc::new(Semaphore::new(connections_max));
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
        connections.spawn(connection(stream, router.clone(), stopped.clone(), places, place));
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
    router: Router,
    mut stopped: watch::Receiver<bool>,
    places: Arc<Places>,
    _place: OwnedSemaphorePermit,
) {
    // Answers are short; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let (busy, is_busy) = watch::channel(false);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = busy.clone();
        busy.send_replace(true);
        // A router is always ready.
        let answer = router.clone().call(request);
        async move {
            let answer = answer.await.unwrap_or_else(|never| match never {});
            // Busy until all of the body is sent, or given up.
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, busy)))
        }
    });
    let stream = Spoken::new(stream, is_busy.clone());
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = places.make_way(is_busy) => return,
        // The block drops the guard that is no part of a task that may move.
        () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection ended early");
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
        tokio::spawn(serve_at_once(2, listener, router, std::future::pending()));
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
}
