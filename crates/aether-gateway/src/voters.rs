//! `/api/voters` and `/api/leader`: who votes, who leads, and how that changes.

use aether_proto::v1;
use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{read, request, write};
use crate::extract::{Caller, Json as Body, NodeRef, OptionalJson};
use crate::problem::Problem;
use crate::schema::{self, InNode, WriteHeaders};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(remove))
        .routes(routes!(transfer))
}

/// The voters, those that copy the log, and the changes under way.
#[utoipa::path(
    get, path = "/voters", tag = "cluster", operation_id = "listVoters",
    responses((status = 200, description = "The members.", body = v1::ListVotersResponse))
)]
async fn list(State(services): State<Services>) -> Result<Json<Value>, Problem> {
    read(services.voters.list(request(v1::ListVotersRequest {}))).await
}

/// Who is to vote.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AddBody {
    /// The node.
    #[schema(inline, value_type = schema::NodeName)]
    node: String,
    /// Its peer listener, where the other voters reach it.
    #[schema(inline, value_type = schema::PeerAddress)]
    peer_address: String,
    /// A voter that goes when this one votes.
    #[schema(inline, value_type = Option<schema::NodeName>)]
    replaces: Option<String>,
}

/// Invites a node to vote. It does once it has started, asked, and copied the log.
#[utoipa::path(
    post, path = "/voters", tag = "cluster", operation_id = "addVoter",
    params(WriteHeaders), request_body = AddBody,
    responses((status = 200, description = "How far it is.", body = v1::VoterChange))
)]
async fn add(
    State(services): State<Services>,
    caller: Caller,
    Body(body): Body<AddBody>,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let AddBody { node, peer_address, replaces } = body;
    let message = v1::AddVoterRequest { node, peer_address, replaces, request_id, actor };
    write(services.voters.add(request(message))).await
}

/// A voter is to vote no more, or an invitation is taken back.
#[utoipa::path(
    delete, path = "/voters/{name}", tag = "cluster", operation_id = "removeVoter",
    params(InNode, WriteHeaders),
    responses((status = 200, description = "How far it is.", body = v1::VoterChange))
)]
async fn remove(
    State(services): State<Services>,
    NodeRef(node): NodeRef,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::RemoveVoterRequest { node, request_id, actor };
    write(services.voters.remove(request(message))).await
}

/// Who is to lead.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    /// A voter; whoever holds most of the log if absent.
    #[schema(inline, value_type = Option<schema::NodeName>)]
    to: Option<String>,
}

/// Another voter leads from now on.
#[utoipa::path(
    post, path = "/leader/transfer", tag = "cluster", operation_id = "transferLeader",
    params(WriteHeaders), request_body = Option<TransferBody>,
    responses((status = 200, description = "The leader.", body = v1::TransferLeaderResponse))
)]
async fn transfer(
    State(services): State<Services>,
    caller: Caller,
    OptionalJson(body): OptionalJson<TransferBody>,
) -> Result<Json<Value>, Problem> {
    caller.without_precondition()?;
    let message = v1::TransferLeaderRequest { to: body.to };
    write(services.voters.transfer_leader(request(message))).await
}
