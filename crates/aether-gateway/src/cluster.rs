//! `/api/status` and `/api/nodes`: the cluster itself.

use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, request};
use crate::extract::{Caller, NodeRef, OptionalJson, Params};
use crate::problem::{Kind, Problem};
use crate::schema::{EmptyBody, InNode, WriteHeaders};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(status))
        .routes(routes!(nodes))
        .routes(routes!(node, forget))
        .routes(routes!(cordon))
        .routes(routes!(uncordon))
        .routes(routes!(drain))
}

/// Who leads, how far the log is, and who holds routing tables.
#[utoipa::path(
    get, path = "/status", tag = "cluster", operation_id = "clusterStatus",
    responses((status = 200, description = "The status.", body = v1::ClusterStatus))
)]
async fn status(State(services): State<Services>) -> Result<Json<Value>, Problem> {
    let call = services.cluster.status(request(v1::StatusRequest {}));
    Ok(Json(to_json(&answer(Kind::Read, call).await?)))
}

async fn all(services: &Services) -> Result<v1::NodesResponse, Problem> {
    answer(Kind::Read, services.cluster.nodes(request(v1::NodesRequest {}))).await
}

/// The nodes that run instances.
#[utoipa::path(
    get, path = "/nodes", tag = "cluster", operation_id = "listNodes",
    responses((status = 200, description = "The nodes.", body = v1::NodesResponse))
)]
async fn nodes(State(services): State<Services>) -> Result<Json<Value>, Problem> {
    Ok(Json(to_json(&all(&services).await?)))
}

/// A node that runs instances.
#[utoipa::path(
    get, path = "/nodes/{name}", tag = "cluster", operation_id = "getNode", params(InNode),
    responses((status = 200, description = "The node.", body = v1::Node))
)]
async fn node(
    State(services): State<Services>,
    NodeRef(name): NodeRef,
) -> Result<Json<Value>, Problem> {
    let v1::NodesResponse { nodes, as_of } = all(&services).await?;
    let stale = as_of.as_ref().is_some_and(|as_of| as_of.stale);
    match nodes.into_iter().find(|node| node.name == name) {
        Some(node) => Ok(Json(to_json(&v1::Node { as_of, ..node }))),
        // What an old copy does not have may exist all the same.
        None if stale => Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            format!("the leader could not be asked, and here node {name} is unknown; try again"),
        )),
        None => Err(Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_node",
            format!("node {name} is unknown; /api/nodes lists those that run instances"),
        )),
    }
}

async fn schedule(
    services: Services,
    NodeRef(node): NodeRef,
    caller: Caller,
    schedule: &str,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let schedule = schedule.to_owned();
    let message = v1::SetNodeScheduleRequest { node, schedule, request_id, actor };
    let call = services.cluster.set_node_schedule(request(message));
    Ok(Json(to_json(&answer(Kind::Write, call).await?)))
}

/// A node takes no new instances, and keeps what it has.
#[utoipa::path(
    post, path = "/nodes/{name}/cordon", tag = "cluster", operation_id = "cordonNode",
    params(InNode, WriteHeaders), request_body = Option<EmptyBody>,
    responses((status = 200, description = "The node after it.", body = v1::Node))
)]
async fn cordon(
    State(services): State<Services>,
    node: NodeRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Json<Value>, Problem> {
    schedule(services, node, caller, "CORDONED").await
}

/// A node takes new instances again.
#[utoipa::path(
    post, path = "/nodes/{name}/uncordon", tag = "cluster", operation_id = "uncordonNode",
    params(InNode, WriteHeaders), request_body = Option<EmptyBody>,
    responses((status = 200, description = "The node after it.", body = v1::Node))
)]
async fn uncordon(
    State(services): State<Services>,
    node: NodeRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Json<Value>, Problem> {
    schedule(services, node, caller, "OPEN").await
}

/// What a node has moves to other nodes.
#[utoipa::path(
    post, path = "/nodes/{name}/drain", tag = "cluster", operation_id = "drainNode",
    params(InNode, WriteHeaders), request_body = Option<EmptyBody>,
    responses((status = 200, description = "The node after it.", body = v1::Node))
)]
async fn drain(
    State(services): State<Services>,
    node: NodeRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Json<Value>, Problem> {
    schedule(services, node, caller, "DRAINING").await
}

/// How a node is to be forgotten.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ForgetParams {
    /// Though it is only UNREACHABLE, and not yet LOST.
    #[serde(default)]
    #[param(required = false)]
    force: bool,
}

/// A node that is lost will not come back: it is forgotten with its instances.
#[utoipa::path(
    delete, path = "/nodes/{name}", tag = "cluster", operation_id = "forgetNode",
    params(InNode, ForgetParams, WriteHeaders),
    responses((status = 200, description = "It is forgotten.", body = v1::ForgetNodeResponse))
)]
async fn forget(
    State(services): State<Services>,
    NodeRef(node): NodeRef,
    Params(params): Params<ForgetParams>,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::ForgetNodeRequest { node, force: params.force, request_id, actor };
    let call = services.cluster.forget_node(request(message));
    Ok(Json(to_json(&answer(Kind::Write, call).await?)))
}
