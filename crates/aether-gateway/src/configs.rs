//! `/api/slices/{slice}/config…`: what is laid over the artifact of a slice.

use std::collections::BTreeMap;

use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, read, request};
use crate::extract::{Caller, Json as Body_, Params, SliceRef};
use crate::problem::{Kind, Problem};
use crate::schema::{InSlice, WriteHeaders};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new().routes(routes!(config, push)).routes(routes!(configs))
}

/// A whole configuration: what is not in it is not laid over the artifact.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConfigBody {
    /// Text by path, relative to the instance's directory: at most 32 files of at
    /// most 64 KiB each.
    #[serde(default)]
    #[schema(required = false)]
    files: BTreeMap<String, String>,
    /// Environment on top of the manifest's, at most 128 entries. With the files at
    /// most 256 KiB.
    #[serde(default)]
    #[schema(required = false)]
    env: BTreeMap<String, String>,
    /// Refuse unless this is the number of the latest one; 0 is for none there.
    #[schema(maximum = 4294967295u32)]
    if_latest: Option<u32>,
}

/// Keeps a configuration under the next number.
///
/// It changes nothing that runs: start an update with `config`. The same content as
/// that of the latest one makes no new one.
#[utoipa::path(
    post, path = "/slices/{slice}/config", tag = "slices", operation_id = "pushConfig",
    params(InSlice, WriteHeaders), request_body = ConfigBody,
    responses((status = 201, description = "The configuration.", body = v1::SliceConfig))
)]
async fn push(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    caller: Caller,
    Body_(body): Body_<ConfigBody>,
) -> Result<Response, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let ConfigBody { files, env, if_latest } = body;
    let message = v1::PushConfigRequest { slice, files, env, if_latest, request_id, actor };
    let pushed = answer(Kind::Write, services.slices.push_config(request(message))).await?;
    Ok((StatusCode::CREATED, Json(to_json(&pushed))).into_response())
}

/// Which configuration is wanted, and how it is to be read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ConfigParams {
    /// Its number; the latest if absent or 0.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    number: u32,
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// One configuration with its texts.
#[utoipa::path(
    get, path = "/slices/{slice}/config", tag = "slices", operation_id = "getConfig",
    params(InSlice, ConfigParams),
    responses((status = 200, description = "The configuration.", body = v1::SliceConfig))
)]
async fn config(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<ConfigParams>,
) -> Result<Json<Value>, Problem> {
    let message = v1::GetConfigRequest { slice, number: params.number, stale: params.stale };
    read(services.slices.get_config(request(message))).await
}

/// How configurations are to be read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// The configurations that are kept of a slice, without their texts.
#[utoipa::path(
    get, path = "/slices/{slice}/configs", tag = "slices", operation_id = "listConfigs",
    params(InSlice, ListParams),
    responses((
        status = 200, description = "The configurations, by number.", body = v1::ListConfigsResponse
    ))
)]
async fn configs(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, Problem> {
    let message = v1::ListConfigsRequest { slice, stale: params.stale };
    read(services.slices.list_configs(request(message))).await
}
