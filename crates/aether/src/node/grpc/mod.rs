//! The gRPC listeners of a node: what a public one has beside the services, and
//! the bounds that hold for each of its connections.
//!
//! Workers and voters serve the same: health of their own, reflection, and
//! errors that are typed whoever made them.

mod door;
mod gather;
mod health;
mod typed;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aether_proto::v1::cluster_server::{self, ClusterServer};
use aether_server::ClusterService;
use anyhow::{Context, Result};
use axum::{BoxError, Router};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::service::Routes;
use tonic_reflection::server::Builder;
use tower::Service;
use tracing::debug;

use door::Bounds;
use gather::Gather;
pub use health::Health;
use typed::Explained;

/// How often HTTP/2 connections are probed, and how long an answer may take:
/// a client that vanished without a word is noticed within twice that.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Most calls at once on one connection. A worker passes on the streams of all
/// of its clients over one, so it is several times what other servers allow;
/// more wait at the client.
const STREAMS_MAX: u32 = 1_024;

/// Most bytes of a request's headers. Ours have less than 1 KiB; a client may
/// bring tokens and traces.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// What every public listener has beside the node's services.
const OWN_SERVICES: [&str; 3] = [
    tonic_health::pb::health_server::SERVICE_NAME,
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// What a listener serves.
pub struct Front {
    calls: Router,
    /// The service that is called thousands of times a second, past the router.
    cluster: Option<ClusterServer<ClusterService>>,
    to_voters: bool,
}

/// What a public listener serves: the services, health and reflection, all with
/// typed errors and deadlines. A voter's own service of the cluster may be given
/// once more, for calls of it to go there straight.
///
/// # Errors
/// The descriptors of this build cannot be read.
pub fn public(
    services: Routes,
    cluster: Option<ClusterServer<ClusterService>>,
    health: &Health,
) -> Result<Front> {
    let reflection = || {
        let files = Builder::configure()
            .register_encoded_file_descriptor_set(aether_proto::PUBLIC_DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        let names = health.services().iter().chain(&OWN_SERVICES);
        names.fold(files, |files, name| files.with_service_name(*name))
    };
    let damaged = "the descriptors of this build are damaged";
    let own = Routes::new(health.service())
        .add_service(reflection().build_v1().context(damaged)?)
        .add_service(reflection().build_v1alpha().context(damaged)?);
    // The services' router has what answers unknown paths.
    let calls = own.into_axum_router().reset_fallback().merge(services.into_axum_router());
    Ok(Front { calls: calls.with_state(()), cluster, to_voters: false })
}

/// What the listener for other voters serves: its services, with typed errors.
pub fn peer(services: Routes) -> Front {
    let calls = services.into_axum_router().with_state(());
    Front { calls, cluster: None, to_voters: true }
}

impl Front {
    /// Answers one call.
    async fn answer<B>(&self, request: Request<B>) -> Response<Explained>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        match self.to_voters {
            true => typed::explain(request, |request| self.routed(request)).await,
            false => typed::typed(request, |request| self.routed(request)).await,
        }
    }

    async fn routed<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError> + Send,
    {
        let is_cluster = |path: &str| {
            let rest =
                path.strip_prefix('/').and_then(|p| p.strip_prefix(cluster_server::SERVICE_NAME));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let answered: Result<_, Infallible> = match &self.cluster {
            Some(cluster) if is_cluster(request.uri().path()) => {
                cluster.clone().call(request).await
            }
            _ => {
                let response = self.calls.clone().call(request.map(axum::body::Body::new));
                response.await.map(|response| response.map(Body::new))
            }
        };
        answered.unwrap_or_else(|never| match never {})
    }
}

/// Serves until the task is stopped.
pub async fn serve(listener: TcpListener, front: Front) {
    serve_within(Bounds::of_process(), listener, front).await;
}

async fn serve_within(bounds: Bounds, listener: TcpListener, front: Front) {
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let front = Arc::new(front);
    let mut guests = pin!(door::guests(listener, bounds));
    while let Some(guest) = guests.next().await {
        let front = Arc::clone(&front);
        let service = service_fn(move |request| {
            let front = Arc::clone(&front);
            async move { Ok::<_, Infallible>(front.answer(request).await) }
        });
        let connection = http2.serve_connection(TokioIo::new(Gather::new(guest)), service);
        tokio::spawn(async move {
            if let Err(problem) = connection.await {
                debug!(%problem, "a gRPC connection ended");
            }
        });
    }
}

#[cfg(test)]
mod tests;
