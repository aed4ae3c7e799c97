//! What supervisors, load balancers and Prometheus ask of this process.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{StatusCode, header};
use serde_json::json;

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

pub(crate) fn routes<R: Readiness, M: Metrics>(readiness: Arc<R>, metrics: Arc<M>) -> Router {
    let ready = Router::new().route("/health/ready", get(ready::<R>)).with_state(readiness);
    let metrics = Router::new().route("/metrics", get(text::<M>)).with_state(metrics);
    Router::new().route("/health/live", get(live)).merge(ready).merge(metrics)
}

/// The process runs and its HTTP server answers; nothing else is asked.
async fn live() -> axum::Json<serde_json::Value> {
    axum::Json(json!({"status": "live"}))
}

async fn ready<R: Readiness>(
    State(readiness): State<Arc<R>>,
) -> Result<axum::Json<serde_json::Value>, Problem> {
    match readiness.check() {
        Ok(()) => Ok(axum::Json(json!({"status": "ready"}))),
        Err(why) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)),
    }
}

async fn text<M: Metrics>(State(metrics): State<Arc<M>>) -> Response {
    const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, FORMAT)], metrics.text()).into_response()
}
