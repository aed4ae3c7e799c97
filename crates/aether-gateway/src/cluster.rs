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
use crate::call::{answer, read, request, write};
use crate::extract::{Caller, NodeRef, OptionalJson, Params};
use crate::problem::{Kind, Problem};
use crate::schema::{EmptyBody, InNode, WriteHeaders};

/// Nodes of one answer when one of them is looked for: as many as there may be.
const PAGE: u32 = 1000;

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
    get, path = "/status", tag = "cluster", operation_id = "clusterStatus", params(StatusParams),
    responses((status = 200, description = "The status.", body = v1::ClusterStatus))
)]
async fn status(
    State(services): State<Services>,
    Params(StatusParams { verbose }): Params<StatusParams>,
) -> Result<Json<Value>, Problem> {
    read(services.cluster.status(request(v1::StatusRequest { verbose }))).await
}

/// How much is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StatusParams {
    /// With what each voter says about itself: its log, disk and syncs.
    #[serde(default)]
    #[param(required = false)]
    verbose: bool,
}

/// Which page of the nodes is asked for.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageParams {
    /// How many an answer may have: 500 if absent or 0, at most 1000.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    page_size: u32,
    /// `nextPageToken` of the page before.
    #[serde(default)]
    #[param(required = false)]
    page_token: String,
}

async fn page(
    services: &Services,
    page_size: u32,
    page_token: String,
) -> Result<v1::NodesResponse, Problem> {
    let message = v1::NodesRequest { page_size, page_token };
    answer(Kind::Read, services.cluster.nodes(request(message))).await
}

/// The nodes that run instances.
#[utoipa::path(
    get, path = "/nodes", tag = "cluster", operation_id = "listNodes", params(PageParams),
    responses((status = 200, description = "The nodes.", body = v1::NodesResponse))
)]
async fn nodes(
    State(services): State<Services>,
    Params(params): Params<PageParams>,
) -> Result<Json<Value>, Problem> {
    Ok(Json(to_json(&page(&services, params.page_size, params.page_token).await?)))
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
    let mut token = String::new();
    let stale = loop {
        let found = page(&services, PAGE, token).await?;
        let v1::NodesResponse { nodes, as_of, next_page_token } = found;
        if let Some(node) = nodes.into_iter().find(|node| node.name == name) {
            return Ok(Json(to_json(&v1::Node { as_of, ..node })));
        }
        if next_page_token.is_empty() {
            break as_of.is_some_and(|as_of| as_of.stale);
        }
        token = next_page_token;
    };
    Err(match stale {
        // What an old copy does not have may exist all the same.
        true => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            format!("the leader could not be asked, and here node {name} is unknown; try again"),
        ),
        false => Problem::new(
            StatusCode::NOT_FOUND,
            "unknown_node",
            format!("node {name} is unknown; /api/nodes lists those that run instances"),
        ),
    })
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
    write(services.cluster.set_node_schedule(request(message))).await
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
    write(services.cluster.forget_node(request(message))).await
}
