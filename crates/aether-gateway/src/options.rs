//! The options of updates: of a new one, of one to be previewed, of one that is
//! live, and of one that goes back.

use aether_proto::v1;
use axum::Json as JsonBody;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, read, request};
use crate::extract::{Caller, Json, OptionalJson, UpdateRef};
use crate::problem::{Kind, Problem};
use crate::schema::{self, ChangedUpdate, IfMatch, InUpdate, WriteHeaders};
use crate::strategy::StrategyBody;
use crate::updates::{changed, created};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new().routes(routes!(plan)).routes(routes!(set)).routes(routes!(undo))
}

/// A name that may be left out, but not left empty.
pub(crate) fn named<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    match name.as_deref() {
        Some("") => Err(serde::de::Error::invalid_length(0, &"a name, or no member at all")),
        _ => Ok(name),
    }
}

/// Options of a new update.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StartBody {
    /// The slice to update.
    #[schema(inline, value_type = schema::SliceName)]
    artifact_base: String,
    /// The version to move to.
    #[schema(inline, value_type = schema::Version)]
    version: String,
    /// Instances of the new version; as many as the current one is to have if
    /// absent, 1 if nothing is deployed.
    #[schema(minimum = 1, maximum = 10000)]
    instances: Option<u32>,
    /// Figures of their own go before it.
    #[schema(inline, value_type = Option<schema::Preset>)]
    #[serde(default, deserialize_with = "named")]
    preset: Option<String>,
    /// Share of failed requests above which the update pauses; 0.01 if absent.
    #[schema(minimum = 0, maximum = 1)]
    max_error_rate: Option<f64>,
    /// p99 latency in milliseconds above which the update pauses; 500 if absent.
    #[schema(minimum = 1, maximum = 4294967295u32)]
    max_latency_ms: Option<u32>,
    /// Fewest requests in the window for a verdict; 100 if absent.
    #[schema(minimum = 1, maximum = 1000000000u64)]
    min_requests: Option<u64>,
    /// Every routing change waits for approval.
    require_manual_approval: Option<bool>,
    /// IMMEDIATE if absent.
    #[schema(inline, value_type = Option<schema::CleanupPolicy>)]
    #[serde(default, deserialize_with = "named")]
    cleanup_policy: Option<String>,
    /// How long GRACE_PERIOD keeps the old set, milliseconds; 300000 if absent.
    #[schema(maximum = 2592000000u64)]
    grace_ms: Option<u64>,
    /// How long DEPLOYING may last, milliseconds, longer than `healthyMs`; 300000
    /// if absent.
    #[schema(minimum = 1, maximum = 2592000000u64)]
    deploy_timeout_ms: Option<u64>,
    /// ROLLBACK if absent.
    #[schema(inline, value_type = Option<schema::DeployFailure>)]
    #[serde(default, deserialize_with = "named")]
    on_deploy_failure: Option<String>,
    /// How long every new instance must have been ready before DEPLOYED,
    /// milliseconds; 1000 if absent.
    #[schema(maximum = 2592000000u64)]
    healthy_ms: Option<u64>,
    /// People set every ratio if absent.
    strategy: Option<StrategyBody>,
    /// A live update of the slice ends in the same log entry, as ROLLED_BACK.
    supersede: Option<bool>,
    /// The configuration of the new revision; that of the current one if absent.
    #[schema(inline, value_type = Option<schema::ConfigPick>)]
    #[serde(default, deserialize_with = "named")]
    config: Option<String>,
    /// A new revision though nothing differs: every instance is replaced.
    restart: Option<bool>,
}

impl StartBody {
    /// The message of a start, or of a preview of one.
    pub(crate) fn message(self, request_id: String, actor: String) -> v1::StartUpdateRequest {
        v1::StartUpdateRequest {
            artifact_base: self.artifact_base,
            version: self.version,
            instances: self.instances,
            preset: self.preset.unwrap_or_default(),
            max_error_rate: self.max_error_rate,
            max_latency_ms: self.max_latency_ms,
            min_requests: self.min_requests,
            manual_approval: self.require_manual_approval.unwrap_or_default(),
            cleanup_policy: self.cleanup_policy.unwrap_or_default(),
            grace_ms: self.grace_ms,
            deploy_timeout_ms: self.deploy_timeout_ms,
            on_deploy_failure: self.on_deploy_failure.unwrap_or_default(),
            healthy_ms: self.healthy_ms,
            strategy: self.strategy.map(StrategyBody::message),
            supersede: self.supersede.unwrap_or_default(),
            config: self.config.unwrap_or_default(),
            restart: self.restart.unwrap_or_default(),
            request_id,
            actor,
        }
    }
}

/// What a start would do, without doing it.
///
/// Its schedule, the capacity that it takes, and what would be refused.
#[utoipa::path(
    post, path = "/rolling-update/plan", tag = "updates", operation_id = "planUpdate",
    request_body = StartBody,
    responses((status = 200, description = "The plan.", body = v1::UpdatePlan))
)]
async fn plan(
    State(services): State<Services>,
    Json(body): Json<StartBody>,
) -> Result<JsonBody<Value>, Problem> {
    let message = body.message(String::new(), String::new());
    read(services.updates.plan(request(message))).await
}

/// Options that change; what is absent stays as it is. They mean what they mean
/// at the start.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OptionsBody {
    #[schema(inline, value_type = Option<schema::Preset>)]
    #[serde(default, deserialize_with = "named")]
    preset: Option<String>,
    #[schema(minimum = 0, maximum = 1)]
    max_error_rate: Option<f64>,
    #[schema(minimum = 1, maximum = 4294967295u32)]
    max_latency_ms: Option<u32>,
    #[schema(minimum = 1, maximum = 1000000000u64)]
    min_requests: Option<u64>,
    require_manual_approval: Option<bool>,
    #[schema(inline, value_type = Option<schema::CleanupPolicy>)]
    #[serde(default, deserialize_with = "named")]
    cleanup_policy: Option<String>,
    #[schema(maximum = 2592000000u64)]
    grace_ms: Option<u64>,
    #[schema(minimum = 1, maximum = 2592000000u64)]
    deploy_timeout_ms: Option<u64>,
    #[schema(inline, value_type = Option<schema::DeployFailure>)]
    #[serde(default, deserialize_with = "named")]
    on_deploy_failure: Option<String>,
    #[schema(maximum = 2592000000u64)]
    healthy_ms: Option<u64>,
}

/// Changes options of a live update.
#[utoipa::path(
    patch, path = "/rolling-update/{id}", tag = "updates", operation_id = "setUpdateOptions",
    params(InUpdate, WriteHeaders, IfMatch), request_body = OptionsBody,
    responses(ChangedUpdate)
)]
async fn set(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    Json(body): Json<OptionsBody>,
) -> Result<Response, Problem> {
    let if_modified = caller.precondition.of_update(&services, &update_id).await?;
    let message = v1::SetOptionsRequest {
        update_id,
        preset: body.preset.unwrap_or_default(),
        max_error_rate: body.max_error_rate,
        max_latency_ms: body.max_latency_ms,
        min_requests: body.min_requests,
        manual_approval: body.require_manual_approval,
        cleanup_policy: body.cleanup_policy.unwrap_or_default(),
        grace_ms: body.grace_ms,
        deploy_timeout_ms: body.deploy_timeout_ms,
        on_deploy_failure: body.on_deploy_failure.unwrap_or_default(),
        healthy_ms: body.healthy_ms,
        if_modified,
        request_id: caller.request_id,
        actor: caller.actor,
    };
    changed(services.updates.set_options(request(message))).await
}

/// How an update is to be undone.
#[derive(Deserialize, Default, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UndoBody {
    /// The ratio to begin with, where the new side is the set that was kept; 1:0
    /// if absent, which takes every call back.
    #[schema(inline, value_type = Option<schema::Ratio>)]
    routing: Option<String>,
    /// Past the capacity guard.
    force: Option<bool>,
    /// IMMEDIATE if absent.
    #[schema(inline, value_type = Option<schema::CleanupPolicy>)]
    #[serde(default, deserialize_with = "named")]
    cleanup_policy: Option<String>,
    /// How long GRACE_PERIOD keeps the version that is left, milliseconds.
    #[schema(maximum = 2592000000u64)]
    grace_ms: Option<u64>,
}

/// Goes back to the set that a completed update keeps warm.
///
/// This is a new update, which starts in DEPLOYED and routes at once.
#[utoipa::path(
    post, path = "/rolling-update/{id}/undo", tag = "updates", operation_id = "undoUpdate",
    params(InUpdate, WriteHeaders, IfMatch), request_body = Option<UndoBody>,
    responses((
        status = 201, description = "The new update.", body = v1::Update,
        headers(
            ("ETag" = String, description = "For If-Match."),
            ("Location" = String, description = "Path of the new update."),
        )
    ))
)]
async fn undo(
    State(services): State<Services>,
    UpdateRef(update_id): UpdateRef,
    caller: Caller,
    OptionalJson(body): OptionalJson<UndoBody>,
) -> Result<Response, Problem> {
    let Caller { request_id, actor, precondition } = caller;
    let if_modified = precondition.of_update(&services, &update_id).await?;
    let message = v1::UndoRequest {
        update_id,
        routing: body.routing.unwrap_or_default(),
        force: body.force.unwrap_or_default(),
        cleanup_policy: body.cleanup_policy.unwrap_or_default(),
        grace_ms: body.grace_ms,
        if_modified,
        request_id,
        actor,
    };
    Ok(created(&answer(Kind::Write, services.updates.undo(request(message))).await?))
}
