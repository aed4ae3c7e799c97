//! What is read from a request, strictly: ids, JSON bodies, queries and the
//! headers that belong to writes. Whatever does not fit is a 4xx [`Problem`].

use std::str::FromStr;
use std::time::Duration;

use aether_core::coordinates::{Artifact, SliceName};
use aether_core::ids::{NodeName, UpdateId};
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use http::request::Parts;
use http::{HeaderMap, StatusCode, header};
use serde::de::DeserializeOwned;

use crate::precondition::Precondition;
use crate::problem::Problem;
use crate::wording;

/// How long a body may take to arrive. A body of a few hundred bytes needs
/// one packet; who takes longer only keeps a connection busy.
pub(crate) const BODY_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest `Idempotency-Key` and `Aether-Actor`, in bytes. Both are replicated.
const HEADER_BYTES_MAX: usize = 64;

/// Header that says who asks, for the history.
const ACTOR: &str = "aether-actor";

/// Header that makes a repeated write idempotent.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Reads the one parameter of a path. Whether there is such a thing is the
/// service's matter.
async fn named<T, S>(parts: &mut Parts, state: &S, code: &str) -> Result<T, Problem>
where
    T: FromStr<Err: std::fmt::Display>,
    S: Send + Sync,
{
    let Path(text) = Path::<String>::from_request_parts(parts, state)
        .await
        .map_err(|rejection| Problem::bad_request(code, rejection.body_text()))?;
    text.parse().map_err(|e| Problem::bad_request(code, format!("{e}")))
}

macro_rules! named_in_path {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $code:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name(pub String);
        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;
            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let name: $type = named(parts, state, $code).await?;
                Ok(Self(name.to_string()))
            }
        }
    )*};
}

named_in_path! {
    /// The `{id}` of a path: an id, a unique prefix, or `current`.
    UpdateRef: UpdateId, "bad_id";
    /// The `{slice}` of a path.
    SliceRef: SliceName, "bad_slice";
    /// The `{artifact}` of a path.
    ArtifactRef: Artifact, "bad_artifact";
    /// The `{name}` of a node in a path.
    NodeRef: NodeName, "bad_node";
}

/// The query of a URL; members that `T` does not know are refused.
pub(crate) struct Params<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(params) =
            Query::<T>::from_request_parts(parts, state).await.map_err(|rejection| {
                Problem::bad_request("bad_query", wording::of_query(&rejection.body_text()))
            })?;
        Ok(Self(params))
    }
}

/// A text of a query that is not empty where it is given: an empty one would be
/// taken for all there is.
pub(crate) fn not_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = <String as serde::Deserialize>::deserialize(from)?;
    match text.is_empty() {
        true => Err(serde::de::Error::custom("a name in the query is empty; leave it out")),
        false => Ok(text),
    }
}

/// Headers of a write.
pub(crate) struct Caller {
    /// `Aether-Actor`, or `rest`.
    pub actor: String,
    /// `Idempotency-Key`, or empty.
    pub request_id: String,
    /// `If-Match`.
    pub precondition: Precondition,
}

impl Caller {
    /// Refuses `If-Match` where no precondition can be kept: ignoring it would
    /// carry out what its sender wanted refused.
    pub(crate) fn without_precondition(self) -> Result<Self, Problem> {
        match self.precondition {
            Precondition::None => Ok(self),
            Precondition::Modified(_) => Err(Problem::bad_request(
                "if_match_unsupported",
                "If-Match is understood by writes of an update only; leave it out here",
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let actor = plain_header(&parts.headers, ACTOR)?.unwrap_or_else(|| "rest".to_owned());
        let request_id = plain_header(&parts.headers, IDEMPOTENCY_KEY)?.unwrap_or_default();
        let precondition = Precondition::read(&parts.headers)?;
        Ok(Self { actor, request_id, precondition })
    }
}

/// The text of a header that is there once, short and printable.
fn plain_header(headers: &HeaderMap, name: &str) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let fits = (1..=HEADER_BYTES_MAX).contains(&text.len());
    if values.next().is_some() || !fits || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Problem::bad_request(
            "bad_header",
            format!("{name} must be given once, with 1 to {HEADER_BYTES_MAX} printable characters"),
        ));
    }
    Ok(Some(text.to_owned()))
}

/// A JSON object in the body.
pub(crate) struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = body(request, state).await?;
        parse(is_json, &bytes).map(Self)
    }
}

/// A JSON object in the body, or no body at all, as in the guide's
/// `curl -X POST …/complete`.
pub(crate) struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = body(request, state).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        parse(is_json, &bytes).map(Self)
    }
}

async fn body<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, Problem> {
    match tokio::time::timeout(BODY_TIME_MAX, Bytes::from_request(request, state)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(rejection)) => Err(body_problem(&rejection)),
        Err(_) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_too_slow",
            format!("the body did not arrive within {} s", BODY_TIME_MAX.as_secs()),
        )),
    }
}

fn body_problem(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let most = crate::BODY_BYTES_MAX;
        return Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("the body is longer than {most} bytes"),
        );
    }
    Problem::bad_request("bad_body", rejection.body_text())
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()) else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || essence.strip_prefix("application/").is_some_and(|sub| sub.ends_with("+json"))
}

fn parse<T: DeserializeOwned>(is_json: bool, bytes: &[u8]) -> Result<T, Problem> {
    if !is_json {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "not_json",
            "send the body as JSON, with the header 'Content-Type: application/json'",
        ));
    }
    // serde reads a struct from an array too, member by member. That would make
    // sense of what was never meant as this request.
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first.is_some_and(|byte| *byte != b'{') {
        return Err(Problem::bad_request("not_an_object", "the body must be a JSON object: {…}"));
    }
    let refused = |path: &str, error: &serde_json::Error| {
        let code = if error.is_data() { "bad_member" } else { "bad_json" };
        let said = wording::of_body(path, error);
        Problem::bad_request(code, format!("the body cannot be read: {said}"))
    };
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut from)
        .map_err(|error| refused(&error.path().to_string(), error.inner()))?;
    from.end().map_err(|error| refused(".", &error))?;
    Ok(read)
}
