//! The gRPC listeners of a node: what a public one has beside the services, and
//! the bounds that hold for each of its connections.
//!
//! Workers and voters serve the same: health of their own, reflection, and
//! errors that are typed whoever made them.

mod door;
mod health;
mod typed;

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic_reflection::server::Builder;
use tracing::error;

use door::Bounds;
pub use health::Health;

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

/// What a public listener serves: the services, health and reflection, all with
/// typed errors and deadlines.
///
/// # Errors
/// The descriptors of this build cannot be read.
pub fn public(services: Routes, health: &Health) -> Result<Routes> {
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
    let all = own.into_axum_router().reset_fallback().merge(services.into_axum_router());
    Ok(Routes::from(all.layer(axum::middleware::from_fn(typed::typed))))
}

/// What the listener for other voters serves: its services, with typed errors.
pub fn peer(services: Routes) -> Routes {
    Routes::from(services.into_axum_router().layer(axum::middleware::from_fn(typed::explain)))
}

/// Serves until the task is stopped.
pub async fn serve(listener: TcpListener, routes: Routes) {
    serve_within(Bounds::of_process(), listener, routes).await;
}

async fn serve_within(bounds: Bounds, listener: TcpListener, routes: Routes) {
    let served = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADERS_BYTES_MAX))
        .add_routes(routes)
        .serve_with_incoming(door::guests(listener, bounds))
        .await;
    if let Err(problem) = served {
        error!(%problem, "a gRPC listener ended");
    }
}

#[cfg(test)]
mod tests;
