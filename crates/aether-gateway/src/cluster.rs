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

async fn nodes<C: Cluster>(
    State(cluster): State<Arc<C>>,
    Params(page): Params<PageParams>,
) -> Result<Json<Value>, Problem> {
    let PageParams { page_size, page_token } = page;
    let call = cluster.nodes(request(v1::NodesRequest { page_size, page_token }));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}

/// Which page of a list is asked for, as in the requests of `cluster.proto`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PageParams {
    #[serde(default)]
    page_size: u32,
    #[serde(default)]
    page_token: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SliceParams {
    #[serde(default)]
    slice: String,
    #[serde(default)]
    stale: bool,
    #[serde(default)]
    page_size: u32,
    #[serde(default)]
    page_token: String,
}

async fn slices<S: Slices>(
    State(slices): State<Arc<S>>,
    Params(params): Params<SliceParams>,
) -> Result<Json<Value>, Problem> {
    let SliceParams { slice, stale, page_size, page_token } = params;
    let message = v1::ListSlicesRequest { slice, stale, page_size, page_token };
    let call = slices.list(request(message));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}
