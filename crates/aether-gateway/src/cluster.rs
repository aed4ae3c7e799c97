//! `/api/status`, `/api/nodes` and `/api/slices`: what is there.

use std::sync::Arc;

use aether_proto::json::to_json;
use aether_proto::v1;
use aether_proto::v1::cluster_server::Cluster;
use aether_proto::v1::slices_server::Slices;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;

use crate::call::{answer, request};
use crate::extract::Params;
use crate::problem::{Kind, Problem};

pub(crate) fn routes<C: Cluster>() -> Router<Arc<C>> {
    Router::new().route("/status", get(status::<C>)).route("/nodes", get(nodes::<C>))
}

pub(crate) fn slice_routes<S: Slices>() -> Router<Arc<S>> {
    Router::new().route("/slices", get(slices::<S>))
}

async fn status<C: Cluster>(State(cluster): State<Arc<C>>) -> Result<Json<Value>, Problem> {
    let call = cluster.status(request(v1::StatusRequest {}));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}

async fn nodes<C: Cluster>(State(cluster): State<Arc<C>>) -> Result<Json<Value>, Problem> {
    let call = cluster.nodes(request(v1::NodesRequest {}));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SliceParams {
    #[serde(default)]
    slice: String,
    #[serde(default)]
    stale: bool,
}

async fn slices<S: Slices>(
    State(slices): State<Arc<S>>,
    Params(params): Params<SliceParams>,
) -> Result<Json<Value>, Problem> {
    let message = v1::ListSlicesRequest { slice: params.slice, stale: params.stale };
    let call = slices.list(request(message));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}
