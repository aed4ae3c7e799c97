//! What supervisors, load balancers and Prometheus ask of this process, and the
//! description of all of it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http::{StatusCode, header};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;

/// Says whether this node can answer requests. A closure will do.
pub trait Readiness: Send + Sync + 'static {
    /// Ready, or the sentence that says why not.
    ///
    /// # Errors
    /// No leader is known, or this node does not serve yet or any more.
    fn check(&self) -> Result<(), String>;
}

impl<F> Readiness for F
where
    F: Fn() -> Result<(), String> + Send + Sync + 'static,
{
    fn check(&self) -> Result<(), String> {
        self()
    }
}

/// Gives the metrics of this process in the Prometheus text format. A closure
/// will do.
pub trait Metrics: Send + Sync + 'static {
    /// The text, gathered now.
    fn text(&self) -> String;
}

impl<F> Metrics for F
where
    F: Fn() -> String + Send + Sync + 'static,
{
    fn text(&self) -> String {
        self()
    }
}

/// What this process says of itself.
#[derive(Clone)]
pub(crate) struct Process {
    pub readiness: Arc<dyn Readiness>,
    pub metrics: Arc<dyn Metrics>,
}

/// The OpenAPI document, once it is put together.
#[derive(Clone)]
pub(crate) struct Document(pub Bytes);

pub(crate) fn routes() -> OpenApiRouter<Process> {
    OpenApiRouter::new()
        .routes(routes!(live))
        .routes(routes!(ready))
        .routes(routes!(text))
        .routes(routes!(document))
        .routes(routes!(docs))
}

/// How the process is.
#[derive(ToSchema)]
#[schema(as = ProcessStatus)]
#[allow(dead_code)] // Only its schema is used.
struct ProcessStatus {
    /// `live` or `ready`.
    status: String,
}

/// The process runs and its HTTP server answers; nothing else is asked.
#[utoipa::path(
    get, path = "/health/live", tag = "process", operation_id = "live",
    responses((status = 200, description = "It does.", body = ProcessStatus))
)]
async fn live() -> Json<Value> {
    Json(json!({"status": "live"}))
}

/// Whether this node can answer requests; 503 says why not.
#[utoipa::path(
    get, path = "/health/ready", tag = "process", operation_id = "ready",
    responses((status = 200, description = "It can.", body = ProcessStatus))
)]
async fn ready(State(process): State<Process>) -> Result<Json<Value>, Problem> {
    match process.readiness.check() {
        Ok(()) => Ok(Json(json!({"status": "ready"}))),
        Err(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)),
    }
}

/// The metrics of this process, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "process", operation_id = "metrics",
    responses((status = 200, description = "The text.", content((String = "text/plain"))))
)]
async fn text(State(process): State<Process>) -> Response {
    const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, FORMAT)], process.metrics.text()).into_response()
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "process", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value))
)]
async fn document(Extension(Document(document)): Extension<Document>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], document).into_response()
}

/// A page for people that shows this document. It needs nothing but this node.
#[utoipa::path(
    get, path = "/docs", tag = "process", operation_id = "docs",
    responses((status = 200, description = "The page.", content((String = "text/html"))))
)]
async fn docs() -> Response {
    // The page's own script and style, and the document of this node.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
                          script-src 'unsafe-inline'; connect-src 'self'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, include_str!("docs.html")).into_response()
}
