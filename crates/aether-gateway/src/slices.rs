//! `/api/slices…`: what is deployed, and its logs.

use aether_core::coordinates::{SliceName, SliceReference, Version};
use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, read, request, write};
use crate::extract::{Caller, Json as Body_, Params, SliceRef};
use crate::problem::{Kind, Problem};
use crate::schema::{self, InSlice, WriteHeaders};

/// The type of log lines as JSON.
const LINES: &str = "application/x-ndjson";

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list, deploy))
        .routes(routes!(slice, undeploy))
        .routes(routes!(scale))
        .routes(routes!(set_current))
        .routes(routes!(logs))
        .routes(routes!(diff))
}

/// Which slices are wanted, and how they are to be read.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Only this slice.
    #[serde(default, deserialize_with = "crate::extract::not_empty")]
    #[param(required = false, inline, value_type = schema::SliceName)]
    slice: String,
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

/// The slices and their instances.
#[utoipa::path(
    get, path = "/slices", tag = "slices", operation_id = "listSlices", params(ListParams),
    responses((status = 200, description = "The slices.", body = v1::ListSlicesResponse))
)]
async fn list(
    State(services): State<Services>,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, Problem> {
    let ListParams { slice, stale, page_size, page_token } = params;
    let message = v1::ListSlicesRequest { slice, stale, page_size, page_token };
    read(services.slices.list(request(message))).await
}

/// What is to be deployed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeployBody {
    /// A version of a slice that is not deployed.
    #[schema(inline, value_type = schema::Deployable)]
    artifact: String,
    /// How many instances; 1 if absent.
    #[schema(minimum = 1, maximum = 10000)]
    instances: Option<u32>,
}

/// Deploys the first version of a slice.
#[utoipa::path(
    post, path = "/slices", tag = "slices", operation_id = "deploySlice",
    params(WriteHeaders), request_body = DeployBody,
    responses((
        status = 201, description = "The slice; its instances are being started.",
        body = v1::Slice,
        headers(("Location" = String, description = "Path of the slice."))
    ))
)]
async fn deploy(
    State(services): State<Services>,
    caller: Caller,
    Body_(body): Body_<DeployBody>,
) -> Result<Response, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let (artifact, instances) = (body.artifact, body.instances);
    let message = v1::DeployRequest { artifact, instances, request_id, actor };
    let deployed = answer(Kind::Write, services.slices.deploy(request(message))).await?;
    let place = HeaderValue::try_from(format!("/api/slices/{}", deployed.slice));
    let mut response = (StatusCode::CREATED, Json(to_json(&deployed))).into_response();
    response.headers_mut().extend(place.ok().map(|place| (header::LOCATION, place)));
    Ok(response)
}

/// How a slice is to be read.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ReadParams {
    /// Answer from this node's own copy, without asking the leader.
    #[serde(default)]
    #[param(required = false)]
    stale: bool,
}

/// A slice and its instances.
#[utoipa::path(
    get, path = "/slices/{slice}", tag = "slices", operation_id = "getSlice",
    params(InSlice, ReadParams),
    responses((status = 200, description = "The slice.", body = v1::Slice))
)]
async fn slice(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<ReadParams>,
) -> Result<Json<Value>, Problem> {
    let message = v1::ListSlicesRequest { slice, stale: params.stale, ..Default::default() };
    let found = answer(Kind::Read, services.slices.list(request(message))).await?;
    let v1::ListSlicesResponse { slices, as_of, .. } = found;
    // The service refuses a slice that there is not.
    let slice = slices.into_iter().next().ok_or_else(|| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the list is empty")
    })?;
    Ok(Json(to_json(&v1::Slice { as_of, ..slice })))
}

/// Another size.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    /// How many instances.
    #[schema(minimum = 1, maximum = 10000)]
    instances: u32,
}

/// Another number of instances. Refused while an update of the slice is live.
#[utoipa::path(
    post, path = "/slices/{slice}/scale", tag = "slices", operation_id = "scaleSlice",
    params(InSlice, WriteHeaders), request_body = ScaleBody,
    responses((status = 200, description = "The slice after it.", body = v1::Slice))
)]
async fn scale(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    caller: Caller,
    Body_(body): Body_<ScaleBody>,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::ScaleRequest { slice, instances: body.instances, request_id, actor };
    write(services.slices.scale(request(message))).await
}

/// Which version.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CurrentBody {
    /// The version that the slice is to have. Its artifact has to be there.
    #[schema(inline, value_type = schema::Version)]
    version: String,
}

/// Which version a slice is to have the next time that it is refreshed. Nothing moves
/// before.
#[utoipa::path(
    post, path = "/slices/{slice}/set-current", tag = "slices", operation_id = "setCurrent",
    params(InSlice, WriteHeaders), request_body = CurrentBody,
    responses((status = 200, description = "The slice after it.", body = v1::Slice))
)]
async fn set_current(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    caller: Caller,
    Body_(body): Body_<CurrentBody>,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::SetCurrentRequest { slice, version: body.version, request_id, actor };
    write(services.slices.set_current(request(message))).await
}

/// One version of a slice.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct VersionParams {
    /// Only this version: the retained set, or the new side of a live update
    /// that gets no traffic, which rolls that update back.
    #[param(required = false, inline, value_type = schema::Version)]
    version: Option<String>,
}

/// `group:artifact[:version][@env]`, with a version that can be one.
fn of_version(slice: &str, version: Option<&str>) -> Result<String, Problem> {
    let Some(version) = version else {
        return Ok(slice.to_owned());
    };
    let bad = |what: String| Problem::bad_request("bad_query", format!("version: {what}"));
    let version: Version = version.parse().map_err(|e| bad(format!("{e}")))?;
    let name: SliceName = slice.parse().map_err(|e| bad(format!("{e}")))?;
    let text = format!("{}:{version}@{}", name.base(), name.environment());
    // Together they may be too long.
    text.parse::<SliceReference>().map_err(|e| bad(format!("{e}")))?;
    Ok(text)
}

/// Removes a slice, or one version of it.
#[utoipa::path(
    delete, path = "/slices/{slice}", tag = "slices", operation_id = "undeploySlice",
    params(InSlice, VersionParams, WriteHeaders),
    responses((
        status = 202, description = "It is being removed.", body = v1::UndeployResponse
    ))
)]
async fn undeploy(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<VersionParams>,
    caller: Caller,
) -> Result<Response, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let slice = of_version(&slice, params.version.as_deref())?;
    let message = v1::UndeployRequest { slice, request_id, actor };
    let done = write(services.slices.undeploy(request(message))).await?;
    Ok((StatusCode::ACCEPTED, done).into_response())
}

/// Two revisions of a slice.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DiffParams {
    /// A revision's number; 0, or absent, is what serves now.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    from: u32,
    /// Likewise.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    to: u32,
}

/// How two revisions of a slice differ.
#[utoipa::path(
    get, path = "/slices/{slice}/diff", tag = "slices", operation_id = "sliceDiff",
    params(InSlice, DiffParams),
    responses((status = 200, description = "The differences.", body = v1::RevisionDiff))
)]
async fn diff(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<DiffParams>,
) -> Result<Json<Value>, Problem> {
    let message = v1::DiffRequest {
        update_id: String::new(),
        slice,
        from_revision: params.from,
        to_revision: params.to,
    };
    read(services.updates.diff(request(message))).await
}

/// Which log lines are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogParams {
    /// Only of this version, which may be gone.
    #[param(required = false, inline, value_type = schema::Version)]
    version: Option<String>,
    /// Last lines per instance and stream; 100 if absent.
    #[param(required = false, minimum = 0, maximum = 10000)]
    tail: Option<u32>,
}

/// The last log lines of a slice's instances, from every node that has them.
///
/// One JSON object per line, or with `Accept: text/plain` one line of text each.
#[utoipa::path(
    get, path = "/slices/{slice}/logs", tag = "slices", operation_id = "sliceLogs",
    params(InSlice, LogParams),
    responses((
        status = 200, description = "The lines.",
        content((v1::LogLine = "application/x-ndjson"), (String = "text/plain")),
    ))
)]
async fn logs(
    State(services): State<Services>,
    SliceRef(slice): SliceRef,
    Params(params): Params<LogParams>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let target = of_version(&slice, params.version.as_deref())?;
    let message = v1::LogsRequest { target, follow: false, tail: params.tail };
    let lines = answer(Kind::Read, services.slices.logs(request(message))).await?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let as_text = accepts.is_some_and(|accept| accept.contains("text/plain"));
    // A failure on the way cuts the answer: its reader sees that it is not whole.
    let body = lines.map(move |line| line.map(|line| written(&line, as_text)));
    let kind = if as_text { "text/plain; charset=utf-8" } else { LINES };
    Ok(([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response())
}

fn written(line: &v1::LogLine, as_text: bool) -> Bytes {
    let text = match as_text {
        true => format!("{} {} {}\n", line.instance_id, line.stream, line.line),
        false => format!("{}\n", to_json(line)),
    };
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_goes_before_the_environment() {
        let of = |slice: &str, version: &str| of_version(slice, Some(version)).ok();
        assert_eq!(of("a.b:c", "1.0.0").as_deref(), Some("a.b:c:1.0.0@default"));
        assert_eq!(of("a.b:c@blue", "1.0.0").as_deref(), Some("a.b:c:1.0.0@blue"));
        assert_eq!(of("a.b:c", "one"), None);
        assert_eq!(of("a.b:c", &format!("1.0.0-{}", "x".repeat(198))), None);
        assert_eq!(of_version("a.b:c@blue", None).unwrap(), "a.b:c@blue");
    }
}
