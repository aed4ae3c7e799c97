//! `/rolling-update…` and `/rolling-updates`, as the guide has them.

use std::sync::Arc;

use aether_proto::json::to_json;
use aether_proto::v1;
use aether_proto::v1::updates_server::Updates;
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use tonic::Status;

use crate::call::{answer, request};
use crate::extract::{Caller, Json, OptionalJson, Params, UpdateRef};
use crate::problem::{Kind, Problem};

pub(crate) fn routes<U: Updates>() -> Router<Arc<U>> {
    Router::new()
        .route("/rolling-updates", get(list::<U>))
        .route("/rolling-update/start", post(start::<U>))
        .route("/rolling-update/{id}", get(status::<U>))
        .route("/rolling-update/{id}/routing", post(routing::<U>))
        .route("/rolling-update/{id}/complete", post(complete::<U>))
        .route("/rolling-update/{id}/rollback", post(rollback::<U>))
        .route("/rolling-update/{id}/approve", post(approve::<U>))
        .route("/rolling-update/{id}/resume", post(resume::<U>))
        .route("/rolling-update/{id}/health", get(health::<U>))
}

/// An update as the body, and its `modified` as ETag for `If-Match`.
fn update(status: StatusCode, update: &v1::Update) -> Response {
    let mut response = (status, axum::Json(to_json(update))).into_response();
    if let Ok(tag) = HeaderValue::try_from(format!("\"{}\"", update.modified)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Waits for a change of an update, and answers with what it left.
async fn changed(
    call: impl Future<Output = Result<tonic::Response<v1::Update>, Status>>,
) -> Result<Response, Problem> {
    Ok(update(StatusCode::OK, &answer(Kind::Write, call).await?))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct StartBody {
    artifact_base: String,
    version: String,
    instances: Option<u32>,
    max_error_rate: Option<f64>,
    max_latency_ms: Option<u32>,
    require_manual_approval: Option<bool>,
    cleanup_policy: Option<String>,
    grace_ms: Option<u64>,
    deploy_timeout_ms: Option<u64>,
    on_deploy_failure: Option<String>,
    healthy_ms: Option<u64>,
    preset: Option<String>,
    min_requests: Option<u64>,
}

async fn start<U: Updates>(
    State(updates): State<Arc<U>>,
    caller: Caller,
    Json(body): Json<StartBody>,
) -> Result<Response, Problem> {
    let caller = caller.without_precondition()?;
    let message = v1::StartUpdateRequest {
        artifact_base: body.artifact_base,
        version: body.version,
        instances: body.instances,
        max_error_rate: body.max_error_rate,
        max_latency_ms: body.max_latency_ms,
        manual_approval: body.require_manual_approval.unwrap_or_default(),
        cleanup_policy: body.cleanup_policy.unwrap_or_default(),
        grace_ms: body.grace_ms,
        deploy_timeout_ms: body.deploy_timeout_ms,
        on_deploy_failure: body.on_deploy_failure.unwrap_or_default(),
        healthy_ms: body.healthy_ms,
        preset: body.preset.unwrap_or_default(),
        min_requests: body.min_requests,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    let started = answer(Kind::Write, updates.start(request(message))).await?;
    let mut response = update(StatusCode::CREATED, &started);
    if let Ok(place) = HeaderValue::try_from(format!("/rolling-update/{}", started.update_id)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusParams {
    #[serde(default)]
    stale: bool,
}

async fn status<U: Updates>(
    State(updates): State<Arc<U>>,
    UpdateRef(update_id): UpdateRef,
    Params(params): Params<StatusParams>,
) -> Result<Response, Problem> {
    let message = v1::GetUpdateRequest { update_id, stale: params.stale };
    let found = answer(Kind::Read, updates.get(request(message))).await?;
    Ok(update(StatusCode::OK, &found))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    stale: bool,
    #[serde(default)]
    page_size: u32,
    #[serde(default)]
    page_token: String,
}

async fn list<U: Updates>(
    State(updates): State<Arc<U>>,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let ListParams { all, stale, page_size, page_token } = params;
    let message = v1::ListUpdatesRequest { all, stale, page_size, page_token };
    let found = answer(Kind::Read, updates.list(request(message))).await?;
    Ok(axum::Json(to_json(&found)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoutingBody {
    routing: String,
    force: Option<bool>,
}

async fn routing<U: Updates>(
    State(updates): State<Arc<U>>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    Json(body): Json<RoutingBody>,
) -> Result<Response, Problem> {
    let message = v1::SetRoutingRequest {
        update_id,
        routing: body.routing,
        force: body.force.unwrap_or_default(),
        if_modified: caller.if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(updates.set_routing(request(message))).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct CompleteBody {
    force: Option<bool>,
}

async fn complete<U: Updates>(
    State(updates): State<Arc<U>>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<CompleteBody>,
) -> Result<Response, Problem> {
    let caller = caller.without_precondition()?;
    let message = v1::CompleteRequest {
        update_id,
        force: body.force.unwrap_or_default(),
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(updates.complete(request(message))).await
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    now: Option<bool>,
    force: Option<bool>,
}

async fn rollback<U: Updates>(
    State(updates): State<Arc<U>>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<RollbackBody>,
) -> Result<Response, Problem> {
    let caller = caller.without_precondition()?;
    let message = v1::RollbackRequest {
        update_id,
        now: body.now.unwrap_or_default(),
        force: body.force.unwrap_or_default(),
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(updates.rollback(request(message))).await
}

/// A body without members.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct NoMembers {}

/// The message of a change that takes nothing but the update.
fn reference(UpdateRef(update_id): UpdateRef, caller: Caller) -> Result<v1::UpdateRef, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    Ok(v1::UpdateRef { update_id, request_id, actor })
}

async fn approve<U: Updates>(
    State(updates): State<Arc<U>>,
    update: UpdateRef,
    caller: Caller,
    OptionalJson(NoMembers {}): OptionalJson<NoMembers>,
) -> Result<Response, Problem> {
    changed(updates.approve(request(reference(update, caller)?))).await
}

async fn resume<U: Updates>(
    State(updates): State<Arc<U>>,
    update: UpdateRef,
    caller: Caller,
    OptionalJson(NoMembers {}): OptionalJson<NoMembers>,
) -> Result<Response, Problem> {
    changed(updates.resume(request(reference(update, caller)?))).await
}

async fn health<U: Updates>(
    State(updates): State<Arc<U>>,
    UpdateRef(update_id): UpdateRef,
) -> Result<Response, Problem> {
    let message = v1::UpdateRef { update_id, ..Default::default() };
    let found = answer(Kind::Read, updates.health(request(message))).await?;
    Ok(axum::Json(to_json(&found)).into_response())
}
