//! The REST gateway: the guide's `/rolling-update…` paths over HTTP and JSON, and
//! every other resource under `/api`.
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
//! | `POST /rolling-update/{id}/{undo,cleanup}` | the same |
//! | `PATCH /rolling-update/{id}` | `Updates.SetOptions` |
//! | `GET /rolling-update/{id}/{health,explain,history,diff}` | the same |
//! | `POST /rolling-update/plan` | `Updates.Plan` |
//! | `GET /rolling-updates` | `Updates.List` |
//! | `GET /api/{status,nodes}`; `GET`, `DELETE /api/nodes/{name}` | `Cluster` |
//! | `POST /api/nodes/{name}/{cordon,uncordon,drain}` | `Cluster.SetNodeSchedule` |
//! | `GET`, `POST /api/voters`; `DELETE /api/voters/{name}`; `POST /api/leader/transfer` | `Voters` |
//! | `GET`, `POST /api/slices`; `GET`, `DELETE /api/slices/{slice}` | `Slices` |
//! | `POST /api/slices/{slice}/scale`, `GET /api/slices/{slice}/logs` | the same |
//! | `GET /api/slices/{slice}/diff` | `Updates.Diff` |
//! | `GET /api/artifacts`; `GET`, `PUT`, `DELETE /api/artifacts/{artifact}` | `Artifacts` |
//! | `GET /api/artifacts/{artifact}/archive` | `Artifacts.Fetch` |
//! | `GET /events`, `/api/events` | `Cluster.Events`, as Server-Sent Events |
//! | `GET /api/kv?prefix=&pageSize=&pageToken=` | `Cluster.KvList` |
//! | `GET /api/kv/{key…}` | `Cluster.KvGet` |
//! | `PUT /api/kv/{key…}` | `Cluster.KvPut` |
//! | `DELETE /api/kv/{key…}` | `Cluster.KvDelete` |
//! | `GET /health/live`, `/health/ready`, `/metrics` | this process |
//! | `GET /openapi.json`, `/docs` | the routes' own description |
//!
//! Lists come in pages: `?pageSize=&pageToken=`, and `nextPageToken` in an answer
//! after which there is more.
//! The update paths exist a second time under `/api`. The members of answers are
//! the fields of the public messages in camelCase; meanings and units stand there.
//! A route is made from its description ([`utoipa::path`]), so that none can be
//! missing in the document.

mod artifacts;
mod call;
mod cluster;
mod configs;
mod digest;
mod early;
mod events;
mod extract;
mod gate;
mod guard;
mod kv;
mod openapi;
mod ops;
mod options;
mod precondition;
mod problem;
mod schema;
mod serve;
mod slices;
mod strategy;
mod updates;
mod upload;
mod voters;
mod wording;

use std::pin::Pin;
use std::sync::Arc;

use aether_proto::v1;
use aether_proto::v1::artifacts_server::Artifacts;
use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_server::Slices;
use aether_proto::v1::updates_server::Updates;
use aether_proto::v1::voters_server::Voters;
use axum::extract::DefaultBodyLimit;
use axum::{Extension, Router, middleware};
use futures::Stream;
use tonic::Status;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;

pub use ops::{Metrics, Readiness};
pub use problem::Problem;
pub use serve::serve;
pub use upload::ARCHIVE_BYTES_MAX;

/// Largest request body in bytes, but for archives. The longest sensible
/// request, a start with every option, takes less than 1 KiB.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// A streamed answer of a service.
pub type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service implementations that requests are handed to.
#[derive(Clone)]
pub struct Services {
    /// Updates.
    pub updates: Arc<dyn Updates<WatchStream = Streamed<v1::Update>>>,
    /// Slices and their instances.
    pub slices: Arc<dyn Slices<LogsStream = Streamed<v1::LogLine>>>,
    /// The artifact repository.
    pub artifacts: Arc<dyn Artifacts<FetchStream = Streamed<v1::FetchResponse>>>,
    /// Who votes.
    pub voters: Arc<dyn Voters>,
    /// The cluster itself.
    pub cluster: Arc<
        dyn Cluster<
                EventsStream = Streamed<v1::EventsResponse>,
                KvWatchStream = Streamed<v1::KvChange>,
                SnapshotSaveStream = Streamed<v1::SnapshotPart>,
            >,
    >,
}

/// All routes over these services.
///
/// `readiness` is asked at `/health/ready`, `metrics` at `/metrics`.
pub fn router(services: Services, readiness: impl Readiness, metrics: impl Metrics) -> Router {
    let process = ops::Process { readiness: Arc::new(readiness), metrics: Arc::new(metrics) };
    let events = events::Source::of(&services);
    let everywhere = || {
        let updates = updates::routes().merge(options::routes()).merge(strategy::routes());
        updates.merge(events.routes())
    };
    let api = everywhere()
        .merge(cluster::routes())
        .merge(kv::routes())
        .merge(voters::routes())
        .merge(slices::routes())
        .merge(configs::routes())
        .merge(artifacts::routes());
    let (router, api) = OpenApiRouter::with_openapi(openapi::base())
        .merge(everywhere())
        .nest("/api", api)
        .with_state(services)
        .merge(ops::routes().with_state(process))
        .split_for_parts();
    let document = openapi::document(&api).to_string();
    router
        .fallback(problem::unknown_path)
        .method_not_allowed_fallback(problem::wrong_method)
        .layer(Extension(ops::Document(document.into())))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn(guard::plain_bodies))
        .layer(CatchPanicLayer::custom(guard::panicked))
}
