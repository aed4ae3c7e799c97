//! The REST gateway: the guide's `/rolling-update…` paths over HTTP and JSON.
//!
//! It calls the gRPC service implementations of this process directly, through
//! the generated traits, so that REST and gRPC cannot behave differently. It
//! holds no state and takes no decisions: it reads requests strictly, and
//! writes answers and errors. Every error, those of the framework too, is
//! `application/problem+json`.
//!
//! | path | calls |
//! |---|---|
//! | `POST /rolling-update/start` | `Updates.Start` |
//! | `GET /rolling-update/{id}` | `Updates.Get` |
//! | `POST /rolling-update/{id}/routing` | `Updates.SetRouting` |
//! | `POST /rolling-update/{id}/{complete,rollback,approve,resume}` | the same |
//! | `GET /rolling-update/{id}/health` | `Updates.Health` |
//! | `GET /rolling-updates` | `Updates.List` |
//! | `GET /api/{status,nodes,slices}` | `Cluster`, `Slices` |
//! | `GET /events`, `/api/events` | `Cluster.Events`, as Server-Sent Events |
//! | `GET /api/kv?prefix=&pageSize=&pageToken=` | `Cluster.KvList` |
//! | `GET /api/kv/{key…}` | `Cluster.KvGet` |
//! | `GET /health/live`, `/health/ready`, `/metrics` | this process |
//!
//! Lists come in pages: `?pageSize=&pageToken=`, and `nextPageToken` in an answer
//! after which there is more.
//! The update paths exist a second time under `/api`. The members of answers are
//! the fields of the `.proto` files in camelCase; meanings and
//! units stand there.

mod call;
mod cluster;
mod events;
mod extract;
mod kv;
mod ops;
mod problem;
mod serve;
mod updates;

use std::sync::Arc;

use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_server::Slices;
use aether_proto::v1::updates_server::Updates;
use axum::Router;
use axum::extract::DefaultBodyLimit;

pub use ops::{Metrics, Readiness};
pub use problem::Problem;
pub use serve::serve;

/// Largest request body in bytes. The longest sensible request, a start with
/// every option, takes less than 1 KiB.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The service implementations that requests are handed to.
pub struct Services<U, S, C> {
    /// Updates.
    pub updates: Arc<U>,
    /// Slices and their instances.
    pub slices: Arc<S>,
    /// The cluster itself.
    pub cluster: Arc<C>,
}

/// All routes over these services.
///
/// `readiness` is asked at `/health/ready`, `metrics` at `/metrics`.
pub fn router<U, S, C>(
    services: Services<U, S, C>,
    readiness: impl Readiness,
    metrics: impl Metrics,
) -> Router
where
    U: Updates,
    S: Slices,
    C: Cluster,
{
    let updates = updates::routes::<U>().with_state(services.updates);
    let events = events::routes(Arc::clone(&services.cluster));
    let cluster = cluster::routes::<C>().merge(kv::routes::<C>());
    let api = updates
        .clone()
        .merge(events.clone())
        .merge(cluster.with_state(services.cluster))
        .merge(cluster::slice_routes::<S>().with_state(services.slices));
    Router::new()
        .merge(updates)
        .merge(events)
        .nest("/api", api)
        .merge(ops::routes(Arc::new(readiness), Arc::new(metrics)))
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}
