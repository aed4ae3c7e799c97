//! `/rolling-update…` and `/rolling-updates`, as the guide has them.

use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json as JsonBody;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use tonic::Status;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, read, request};
use crate::extract::{Caller, Json, OptionalJson, Params, UpdateRef};
use crate::options::StartBody;
use crate::precondition::{etag, is_known};
use crate::problem::{Kind, Problem};
use crate::schema::{self, ChangedUpdate, EmptyBody, IfMatch, IfNoneMatch, InUpdate, WriteHeaders};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(start))
        .routes(routes!(status))
        .routes(routes!(routing))
        .routes(routes!(complete))
        .routes(routes!(rollback))
        .routes(routes!(approve))
        .routes(routes!(resume))
        .routes(routes!(health))
        .routes(routes!(explain))
        .routes(routes!(cleanup))
        .routes(routes!(history))
        .routes(routes!(replay))
        .routes(routes!(diff))
}

/// An update as the body, and its `modified` as ETag for `If-Match`.
fn update(status: StatusCode, update: &v1::Update) -> Response {
    let etag = [(header::ETAG, etag(update.modified))];
    (status, etag, JsonBody(to_json(update))).into_response()
}

/// A new update, and where it is.
pub(crate) fn created(started: &v1::Update) -> Response {
    let mut response = update(StatusCode::CREATED, started);
    if let Ok(place) = HeaderValue::try_from(format!("/rolling-update/{}", started.update_id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// Waits for a change of an update, and answers with what it left.
pub(crate) async fn changed(
    call: impl Future<Output = Result<tonic::Response<v1::Update>, Status>>,
) -> Result<Response, Problem> {
    Ok(update(StatusCode::OK, &answer(Kind::Write, call).await?))
}

/// Starts an update; the new version is deployed at 0 % traffic.
#[utoipa::path(
    post, path = "/rolling-update/start", tag = "updates", operation_id = "startUpdate",
    params(WriteHeaders), request_body = StartBody,
    responses((
        status = 201, description = "The update, started.", body = v1::Update,
        headers(
            ("ETag" = String, description = "For If-Match."),
            ("Location" = String, description = "Path of the update."),
        )
    ))
)]
async fn start(
    State(services): State<Services>,
    caller: Caller,
    Json(body): Json<StartBody>,
) -> Result<Response, Problem> {
    let caller = caller.without_precondition()?;
    let message = body.message(caller.request_id, caller.actor);
    let started = answer(Kind::Write, services.updates.start(request(message))).await?;
    Ok(created(&started))
}

/// How an update is to be read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StatusParams {
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// An update.
///
/// Its ETag covers the record (state, ratio, pause, options, history), not what is
/// only observed (instances, actual share, waits): who polls for these leaves
/// `If-None-Match` out.
#[utoipa::path(
    get, path = "/rolling-update/{id}", tag = "updates", operation_id = "getUpdate",
    params(InUpdate, StatusParams, IfNoneMatch),
    responses(
        (
            status = 200, description = "The update.", body = v1::Update,
            headers(("ETag" = String, description = "For If-Match and If-None-Match."))
        ),
        (
            status = 304, description = "The record is the one that If-None-Match names.",
            headers(("ETag" = String, description = "Of the record."))
        ),
    )
)]
async fn status(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    Params(params): Params<StatusParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let message = v1::GetUpdateRequest { update_id, stale: params.stale };
    let found = answer(Kind::Read, services.updates.get(request(message))).await?;
    let tag = etag(found.modified);
    if is_known(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    Ok(update(StatusCode::OK, &found))
}

/// Which updates are wanted, and how they are to be read.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// The ended ones that are still kept, too.
    #[serde(default)]
    #[param(required = false)]
    all: bool,
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
    /// How many an answer may have: 500 if absent or 0, at most 1000.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    page_size: u32,
    /// `nextPageToken` of the page before.
    #[serde(default)]
    #[param(required = false)]
    page_token: String,
}

/// The live updates, by start.
#[utoipa::path(
    get, path = "/rolling-updates", tag = "updates", operation_id = "listUpdates",
    params(ListParams),
    responses((status = 200, description = "The updates.", body = v1::ListUpdatesResponse))
)]
async fn list(
    State(services): State<Services>,
    Params(params): Params<ListParams>,
) -> Result<JsonBody<Value>, Problem> {
    let ListParams { all, stale, page_size, page_token } = params;
    let message = v1::ListUpdatesRequest { all, stale, page_size, page_token };
    read(services.updates.list(request(message))).await
}

/// Another ratio.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RoutingBody {
    /// The ratio new:old.
    #[schema(inline, value_type = schema::Ratio)]
    routing: String,
    /// Past the capacity guard and a pause.
    force: Option<bool>,
}

/// Changes the ratio new:old of calls.
#[utoipa::path(
    post, path = "/rolling-update/{id}/routing", tag = "updates", operation_id = "setRouting",
    params(InUpdate, WriteHeaders, IfMatch), request_body = RoutingBody,
    responses(ChangedUpdate)
)]
async fn routing(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    Json(body): Json<RoutingBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::SetRoutingRequest {
        update_id,
        routing: body.routing,
        force: body.force.unwrap_or_default(),
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.set_routing(request(message))).await
}

/// How an update is to be completed.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    /// Do not wait for sessions that cannot be reached or do not follow, for
    /// instances on silent nodes, or for the new version's instances to be ready.
    force: Option<bool>,
}

/// Ends an update whose committed ratio is 1:0, or gives up waiting in that.
#[utoipa::path(
    post, path = "/rolling-update/{id}/complete", tag = "updates",
    operation_id = "completeUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<CompleteBody>,
    responses(ChangedUpdate)
)]
async fn complete(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<CompleteBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::CompleteRequest {
        update_id,
        force: body.force.unwrap_or_default(),
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.complete(request(message))).await
}

/// How an update is to be rolled back.
#[derive(Deserialize, Default, ToSchema)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    /// Route to the old version at once, whatever its capacity.
    now: Option<bool>,
    /// Do not wait for sessions that cannot be reached or do not follow, or for
    /// instances on silent nodes.
    force: Option<bool>,
}

/// Takes every call back to the old version, or gives up waiting in that.
#[utoipa::path(
    post, path = "/rolling-update/{id}/rollback", tag = "updates",
    operation_id = "rollbackUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<RollbackBody>,
    responses(ChangedUpdate)
)]
async fn rollback(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<RollbackBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::RollbackRequest {
        update_id,
        now: body.now.unwrap_or_default(),
        force: body.force.unwrap_or_default(),
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.rollback(request(message))).await
}

/// The message of a read that takes nothing but the update.
fn named(UpdateRef(update_id): UpdateRef) -> tonic::Request<v1::UpdateRef> {
    request(v1::UpdateRef { update_id, ..Default::default() })
}

/// The message of a change that takes nothing but the update.
async fn reference(
    services: &Services,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
) -> Result<tonic::Request<v1::UpdateRef>, Problem> {
    let Caller { request_id, actor, precondition } = caller;
    let if_modified = precondition.of_update(services, &update_id).await?;
    Ok(request(v1::UpdateRef { update_id, if_modified, request_id, actor }))
}

/// Commits a routing change that waits for approval.
#[utoipa::path(
    post, path = "/rolling-update/{id}/approve", tag = "updates", operation_id = "approveUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<EmptyBody>,
    responses(ChangedUpdate)
)]
async fn approve(
    State(services): State<Services>,
    update: UpdateRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Response, Problem> {
    let message = reference(&services, update, caller).await?;
    // `If-Match` says more than the ratio would.
    let message = message.map(|v1::UpdateRef { update_id, if_modified, request_id, actor }| {
        let routing = String::new();
        v1::ApproveRequest { update_id, routing, if_modified, request_id, actor }
    });
    changed(services.updates.approve(message)).await
}

/// Clears a pause.
#[utoipa::path(
    post, path = "/rolling-update/{id}/resume", tag = "updates", operation_id = "resumeUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<EmptyBody>,
    responses(ChangedUpdate)
)]
async fn resume(
    State(services): State<Services>,
    update: UpdateRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Response, Problem> {
    let message = reference(&services, update, caller).await?;
    changed(services.updates.resume(message)).await
}

/// Request counts, error rates and latencies of both versions.
#[utoipa::path(
    get, path = "/rolling-update/{id}/health", tag = "updates", operation_id = "updateHealth",
    params(InUpdate),
    responses((status = 200, description = "The figures.", body = v1::UpdateHealth))
)]
async fn health(
    State(services): State<Services>,
    update: UpdateRef,
) -> Result<JsonBody<Value>, Problem> {
    read(services.updates.health(named(update))).await
}

/// What an update waits for, since when, until when, and what unblocks it.
#[utoipa::path(
    get, path = "/rolling-update/{id}/explain", tag = "updates", operation_id = "explainUpdate",
    params(InUpdate),
    responses((status = 200, description = "The waits.", body = v1::Explanation))
)]
async fn explain(
    State(services): State<Services>,
    update: UpdateRef,
) -> Result<JsonBody<Value>, Problem> {
    read(services.updates.explain(named(update))).await
}

/// Removes the set that a completed update keeps warm.
#[utoipa::path(
    post, path = "/rolling-update/{id}/cleanup", tag = "updates", operation_id = "cleanUpUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<EmptyBody>,
    responses(ChangedUpdate)
)]
async fn cleanup(
    State(services): State<Services>,
    update: UpdateRef,
    caller: Caller,
    OptionalJson(EmptyBody {}): OptionalJson<EmptyBody>,
) -> Result<Response, Problem> {
    let message = reference(&services, update, caller).await?;
    changed(services.updates.cleanup(message)).await
}

/// What happened to an update, with who, why and where in the log.
#[utoipa::path(
    get, path = "/rolling-update/{id}/history", tag = "updates", operation_id = "updateHistory",
    params(InUpdate),
    responses((status = 200, description = "The entries.", body = v1::UpdateHistory))
)]
async fn history(
    State(services): State<Services>,
    update: UpdateRef,
) -> Result<JsonBody<Value>, Problem> {
    read(services.updates.history(named(update))).await
}

/// What was decided about an update, decided again from what was seen then.
#[utoipa::path(
    get, path = "/rolling-update/{id}/replay", tag = "updates", operation_id = "replayUpdate",
    params(InUpdate),
    responses((status = 200, description = "The decisions.", body = v1::UpdateReplay))
)]
async fn replay(
    State(services): State<Services>,
    update: UpdateRef,
) -> Result<JsonBody<Value>, Problem> {
    read(services.updates.replay(named(update))).await
}

/// How the two revisions of an update differ.
#[utoipa::path(
    get, path = "/rolling-update/{id}/diff", tag = "updates", operation_id = "updateDiff",
    params(InUpdate),
    responses((status = 200, description = "The differences.", body = v1::RevisionDiff))
)]
async fn diff(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
) -> Result<JsonBody<Value>, Problem> {
    let message = v1::DiffRequest { update_id, ..Default::default() };
    read(services.updates.diff(request(message))).await
}
