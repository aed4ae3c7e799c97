//! `/api/status` and `/api/nodes`: the cluster itself.

use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::extract::State;
use http::StatusCode;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, request};
use crate::extract::NodeRef;
use crate::problem::{Kind, Problem};
use crate::schema::InNode;

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new().routes(routes!(status)).routes(routes!(nodes)).routes(routes!(node))
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
