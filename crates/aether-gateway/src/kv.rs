//! `/api/kv`: records of the replicated state, and those of users to be written.

use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, request, write};
use crate::extract::{Caller, Json as Body_, Params};
use crate::problem::{Kind, Problem};
use crate::schema::{InKey, WriteHeaders};

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(entry, put, delete))
}

/// One record.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = KvRecord)]
struct Entry {
    key: String,
    /// The record as it is kept.
    value: Value,
    /// Absent in lists, which are of one log index as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<v1::AsOf>)]
    as_of: Option<Value>,
}

/// Some records, ordered by key.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = KvRecords)]
struct Entries {
    entries: Vec<Entry>,
    /// Empty on the last page.
    next_page_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<v1::AsOf>)]
    as_of: Option<Value>,
}

impl Entry {
    fn of(entry: v1::KvEntry) -> Result<Self, Problem> {
        let value = serde_json::from_str(&entry.value_json).map_err(|error| {
            let problem = format!("the record '{}' is not JSON: {error}", entry.key);
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", problem)
        })?;
        Ok(Self { key: entry.key, value, as_of: entry.as_of.as_ref().map(to_json) })
    }
}

/// Which records are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// What their keys begin with.
    #[serde(default)]
    #[param(required = false)]
    prefix: String,
    /// Most records of the answer; 100 if absent or 0, at most 1000.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    page_size: u32,
    /// `nextPageToken` of the page before.
    #[serde(default)]
    #[param(required = false)]
    page_token: String,
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// Records of the replicated state, ordered by key.
#[utoipa::path(
    get, path = "/kv", tag = "cluster", operation_id = "listRecords", params(ListParams),
    responses((status = 200, description = "A page of records.", body = Entries))
)]
async fn list(
    State(services): State<Services>,
    Params(params): Params<ListParams>,
) -> Result<Json<Entries>, Problem> {
    let ListParams { prefix, page_size, page_token, stale } = params;
    let message = v1::KvListRequest { prefix, page_size, page_token, stale };
    let page = answer(Kind::Read, services.cluster.kv_list(request(message))).await?;
    Ok(Json(Entries {
        entries: page.entries.into_iter().map(Entry::of).collect::<Result<_, _>>()?,
        next_page_token: page.next_page_token,
        as_of: page.as_of.as_ref().map(to_json),
    }))
}

/// How a record is read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct GetParams {
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// The rest of a path. Whether there is such a key is the service's matter.
struct Key(String);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(key) = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection| Problem::bad_request("bad_key", rejection.body_text()))?;
        Ok(Self(key))
    }
}

/// One record of the replicated state.
#[utoipa::path(
    get, path = "/kv/{*key}", tag = "cluster", operation_id = "getRecord",
    params(InKey, GetParams),
    responses((status = 200, description = "The record.", body = Entry))
)]
async fn entry(
    State(services): State<Services>,
    Key(key): Key,
    Params(GetParams { stale }): Params<GetParams>,
) -> Result<Json<Entry>, Problem> {
    let call = services.cluster.kv_get(request(v1::KvGetRequest { key, stale }));
    Entry::of(answer(Kind::Read, call).await?).map(Json)
}

/// What is to be put.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = KvPutBody)]
struct PutBody {
    /// Any text of at most 65536 bytes.
    #[schema(max_length = 65536)]
    value: String,
    /// Refuse unless the record was last modified at this log index; 0 is for none
    /// there.
    if_index: Option<u64>,
}

/// Puts a value under `config/`, where everything belongs to users.
#[utoipa::path(
    put, path = "/kv/{*key}", tag = "cluster", operation_id = "putRecord",
    params(InKey, WriteHeaders), request_body = PutBody,
    responses((status = 200, description = "It is put.", body = v1::KvPutResponse))
)]
async fn put(
    State(services): State<Services>,
    Key(key): Key,
    caller: Caller,
    Body_(PutBody { value, if_index }): Body_<PutBody>,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::KvPutRequest { key, value, if_index, request_id, actor };
    write(services.cluster.kv_put(request(message))).await
}

/// Which state of a record is to go.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DeleteParams {
    /// Refuse unless the record was last modified at this log index.
    if_index: Option<u64>,
}

/// Removes a value under `config/`.
#[utoipa::path(
    delete, path = "/kv/{*key}", tag = "cluster", operation_id = "deleteRecord",
    params(InKey, DeleteParams, WriteHeaders),
    responses((status = 200, description = "It is removed.", body = v1::KvDeleteResponse))
)]
async fn delete(
    State(services): State<Services>,
    Key(key): Key,
    Params(DeleteParams { if_index }): Params<DeleteParams>,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::KvDeleteRequest { key, if_index, request_id, actor };
    write(services.cluster.kv_delete(request(message))).await
}
