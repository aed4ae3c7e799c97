//! `/api/kv`: records of the replicated state, to be read.

use std::sync::Arc;

use aether_proto::json::to_json;
use aether_proto::v1;
use aether_proto::v1::cluster_server::Cluster;
use axum::extract::{FromRequestParts, Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::call::{answer, request};
use crate::extract::Params;
use crate::problem::{Kind, Problem};

pub(crate) fn routes<C: Cluster>() -> Router<Arc<C>> {
    Router::new().route("/kv", get(list::<C>)).route("/kv/{*key}", get(entry::<C>))
}

/// One record.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    key: String,
    value: Value,
    /// Absent in lists, which are of one log index as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<Value>,
}

/// Some records, ordered by key.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entries {
    entries: Vec<Entry>,
    /// Empty on the last page.
    next_page_token: String,
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

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    page_size: u32,
    #[serde(default)]
    page_token: String,
    #[serde(default)]
    stale: bool,
}

async fn list<C: Cluster>(
    State(cluster): State<Arc<C>>,
    Params(params): Params<ListParams>,
) -> Result<Json<Entries>, Problem> {
    let ListParams { prefix, page_size, page_token, stale } = params;
    let message = v1::KvListRequest { prefix, page_size, page_token, stale };
    let page = answer(Kind::Read, cluster.kv_list(request(message))).await?;
    Ok(Json(Entries {
        entries: page.entries.into_iter().map(Entry::of).collect::<Result<_, _>>()?,
        next_page_token: page.next_page_token,
        as_of: page.as_of.as_ref().map(to_json),
    }))
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

async fn entry<C: Cluster>(
    State(cluster): State<Arc<C>>,
    Key(key): Key,
) -> Result<Json<Entry>, Problem> {
    let call = cluster.kv_get(request(v1::KvGetRequest { key }));
    Entry::of(answer(Kind::Read, call).await?).map(Json)
}
