//! Serves a router on a listener, with bounds that keep a slow or idle client
//! from holding more than one connection's worth of anything.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tonic::codegen::Service;

/// How long the head of a request may take to arrive, and how long a
/// connection may idle between two requests.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);

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
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stop, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let (stream, place) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, router.clone(), stopped.clone(), place));
    }
    drop(listener);
    // Receivers only wait for the change; nobody listening means nobody served.
    let _ = stop.send(true);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(SHUTDOWN_TIME_MAX, all_ended).await.is_err() {
        tracing::warn!("HTTP requests were still in flight at shutdown; their connections are cut");
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> (TcpStream, OwnedSemaphorePermit) {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
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
    _place: OwnedSemaphorePermit,
) {
    // Answers are short; waiting to fill a packet would only delay them.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        // A router is always ready.
        let answer = router.clone().call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
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
