//! `/api/artifacts…`: archives come in and go out, streamed.

use aether_core::coordinates::Artifact;
use aether_proto::json::to_json;
use aether_proto::v1;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Services;
use crate::call::{answer, answer_within, read, request, write};
use crate::digest::{self, REPR_DIGEST};
use crate::extract::{ArtifactRef, Caller, Params};
use crate::precondition::is_known;
use crate::problem::{Kind, Problem};
use crate::schema::{self, Digests, IfNoneMatch, InArtifact, WriteHeaders};
use crate::upload::{self, UPLOAD_TIME_MAX, Upload};

/// The type of an archive.
const GZIP: &str = "application/gzip";

pub(crate) fn routes() -> OpenApiRouter<Services> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(info, push, remove))
        .routes(routes!(archive))
}

/// Which artifacts are wanted.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListParams {
    /// Only versions of this one.
    #[serde(default, deserialize_with = "crate::extract::not_empty")]
    #[param(required = false, inline, value_type = schema::ArtifactBase)]
    artifact_base: String,
    /// How many an answer may have: 500 if absent or 0, at most 1000.
    #[serde(default)]
    #[param(required = false, maximum = 4294967295u32)]
    page_size: u32,
    /// `nextPageToken` of the page before.
    #[serde(default)]
    #[param(required = false)]
    page_token: String,
}

/// The artifacts that were pushed.
#[utoipa::path(
    get, path = "/artifacts", tag = "artifacts", operation_id = "listArtifacts",
    params(ListParams),
    responses((status = 200, description = "The artifacts.", body = v1::ListArtifactsResponse))
)]
async fn list(
    State(services): State<Services>,
    Params(params): Params<ListParams>,
) -> Result<Json<Value>, Problem> {
    let ListParams { artifact_base, page_size, page_token } = params;
    let message = v1::ListArtifactsRequest { artifact_base, page_size, page_token };
    read(services.artifacts.list(request(message))).await
}

async fn known(services: &Services, artifact: String) -> Result<v1::Artifact, Problem> {
    let message = v1::ArtifactInfoRequest { artifact };
    answer(Kind::Read, services.artifacts.info(request(message))).await
}

/// An artifact: its digest, its manifest, and who holds it.
#[utoipa::path(
    get, path = "/artifacts/{artifact}", tag = "artifacts", operation_id = "getArtifact",
    params(InArtifact),
    responses((status = 200, description = "The artifact.", body = v1::Artifact))
)]
async fn info(
    State(services): State<Services>,
    ArtifactRef(artifact): ArtifactRef,
) -> Result<Json<Value>, Problem> {
    Ok(Json(to_json(&known(&services, artifact).await?)))
}

/// What the archive must be.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PushParams {
    /// Its sha256; `Repr-Digest` or `Content-Digest` says the same.
    #[param(required = false, inline, value_type = schema::Sha256)]
    sha256: Option<String>,
}

/// Pushes an archive.
///
/// A pushed version is immutable: the same archive again gives the same answer,
/// another one is refused as `artifact_differs`.
#[utoipa::path(
    put, path = "/artifacts/{artifact}", tag = "artifacts", operation_id = "pushArtifact",
    params(InArtifact, PushParams, WriteHeaders, Digests),
    request_body(
        description = "A tar.gz with a slice.toml, at most 1 GiB.",
        content((schema::Archive = "application/gzip"), (schema::Archive = "application/octet-stream")),
    ),
    responses(
        (status = 200, description = "It was there already.", body = v1::Artifact),
        (
            status = 201, description = "The artifact.", body = v1::Artifact,
            headers(("Location" = String, description = "Path of the artifact."))
        ),
    )
)]
async fn push(
    State(services): State<Services>,
    ArtifactRef(artifact): ArtifactRef,
    Params(params): Params<PushParams>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    upload::check_type(&headers)?;
    let sha256 = digest::announced(&headers, params.sha256.as_deref())?.unwrap_or_default();
    let size_bytes = upload::announced_bytes(&headers)?.unwrap_or_default();
    let status = match known(&services, artifact.clone()).await {
        Ok(_) => StatusCode::OK,
        // Whatever else is wrong, the push itself is told too.
        Err(_) => StatusCode::CREATED,
    };
    let place = format!("/api/artifacts/{artifact}");
    let header = v1::PushHeader { artifact, sha256, size_bytes, request_id, actor };
    let (upload, message) = Upload::of(header, body);
    let call = services.artifacts.push(tonic::Request::new(message));
    let pushed = match answer_within(UPLOAD_TIME_MAX, Kind::Write, call).await {
        Ok(pushed) => pushed,
        // Why the body ended says more than that it did.
        Err(problem) => return Err(upload.problem().unwrap_or(problem)),
    };
    let mut response = (status, Json(to_json(&pushed))).into_response();
    if let (StatusCode::CREATED, Ok(place)) = (status, HeaderValue::try_from(place)) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    Ok(response)
}

/// Forgets an artifact.
///
/// Refused while something deployed needs it, or may have to go back to it. Its
/// archive is dropped some minutes later.
#[utoipa::path(
    delete, path = "/artifacts/{artifact}", tag = "artifacts", operation_id = "removeArtifact",
    params(InArtifact, WriteHeaders),
    responses((status = 200, description = "It is forgotten.", body = v1::RemoveArtifactResponse))
)]
async fn remove(
    State(services): State<Services>,
    ArtifactRef(artifact): ArtifactRef,
    caller: Caller,
) -> Result<Json<Value>, Problem> {
    let Caller { request_id, actor, .. } = caller.without_precondition()?;
    let message = v1::RemoveArtifactRequest { artifact, request_id, actor };
    write(services.artifacts.remove(request(message))).await
}

/// The archive of an artifact.
#[utoipa::path(
    get, path = "/artifacts/{artifact}/archive", tag = "artifacts",
    operation_id = "downloadArtifact", params(InArtifact, IfNoneMatch),
    responses(
        (
            status = 200, description = "The archive.",
            content((schema::Archive = "application/gzip")),
            headers(
                ("ETag" = String, description = "Its sha256."),
                ("Repr-Digest" = String, description = "Its sha256, as RFC 9530 has it."),
            )
        ),
        (
            status = 304, description = "The archive is the one that If-None-Match names.",
            headers(("ETag" = String, description = "Its sha256."))
        ),
    )
)]
async fn archive(
    State(services): State<Services>,
    ArtifactRef(artifact): ArtifactRef,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let known = known(&services, artifact).await?;
    let internal = |what: &str| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", what);
    let tag = HeaderValue::try_from(format!("\"{}\"", known.sha256));
    let tag = tag.map_err(|_| internal("the digest is not one"))?;
    if is_known(&headers, &tag)? {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let digest = digest::repr_digest(&known.sha256).ok_or_else(|| internal("no such digest"))?;
    let message = v1::FetchRequest { sha256: known.sha256.clone(), local_only: false };
    let call = services.artifacts.fetch(tonic::Request::new(message));
    // Another node may have to be asked for all of it first.
    let pieces = answer_within(UPLOAD_TIME_MAX, Kind::Read, call).await?;
    let body = Body::from_stream(pieces.map(|piece| piece.map(|piece| piece.chunk)));
    let mut response = body.into_response();
    let all = response.headers_mut();
    all.insert(header::CONTENT_TYPE, HeaderValue::from_static(GZIP));
    all.insert(header::CONTENT_LENGTH, HeaderValue::from(known.size_bytes));
    all.insert(header::ETAG, tag);
    all.insert(REPR_DIGEST, digest);
    all.extend(file_name(&known.artifact).map(|name| (header::CONTENT_DISPOSITION, name)));
    Ok(response)
}

/// `my-slice-1.0.0.tar.gz`.
fn file_name(artifact: &str) -> Option<HeaderValue> {
    let artifact: Artifact = artifact.parse().ok()?;
    let name = format!("{}-{}.tar.gz", artifact.base.artifact(), artifact.version);
    HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).ok()
}
