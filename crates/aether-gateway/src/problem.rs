//! Errors as `application/problem+json` (RFC 9457), with the two members of
//! our own: `code`, for machines, and `error`, which repeats the detail for
//! scripts written against the Java system.

use aether_proto::metadata::{CODE_KEY, OUTCOME_KEY, OUTCOME_UNKNOWN};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tonic::{Code, Status};

/// Longest detail text in characters. Parsers repeat what they were given, and
/// an answer must not be as long as the nonsense it refuses.
const DETAIL_CHARS_MAX: usize = 600;

/// Whether a call may change something. Decides what a timeout means: a read
/// that took too long simply failed, a write may have been carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Read,
    /// May change something.
    Write,
}

/// One error answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
}

impl Problem {
    /// An error with a machine-readable code and a sentence for people.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if let Some((cut, _)) = detail.char_indices().nth(DETAIL_CHARS_MAX) {
            detail.truncate(cut);
            detail.push('…');
        }
        Self { status, code: code.to_owned(), detail }
    }

    /// The machine-readable code.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The request cannot be understood.
    pub(crate) fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// What a service answered, as HTTP says it.
    pub(crate) fn from_status(status: &Status, kind: Kind) -> Self {
        let said = |key: &str| status.metadata().get(key).and_then(|value| value.to_str().ok());
        let unsure = said(OUTCOME_KEY) == Some(OUTCOME_UNKNOWN)
            || kind == Kind::Write
                && matches!(status.code(), Code::DeadlineExceeded | Code::Unknown);
        if unsure {
            return Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", status.message());
        }
        let (http, code) = http_of(status.code());
        let message = match status.code() {
            Code::InvalidArgument => member_named(status.message()),
            _ => status.message().to_owned(),
        };
        Self::new(http, said(CODE_KEY).unwrap_or(code), message)
    }
}

/// A refusal of a field, `max_error_rate: …`, with the name that the field has
/// in JSON.
fn member_named(message: &str) -> String {
    let is_field = |name: &&str| {
        name.contains('_') && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
    };
    let field = message.split_once(": ").filter(|(name, _)| is_field(name));
    let Some((field, problem)) = field else {
        return message.to_owned();
    };
    let mut words = field.split('_');
    let mut member = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        member.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        member.push_str(letters.as_str());
    }
    format!("{member}: {problem}")
}

/// HTTP status and fallback code of a gRPC code.
fn http_of(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::InvalidArgument => (StatusCode::BAD_REQUEST, "invalid_argument"),
        Code::OutOfRange => (StatusCode::BAD_REQUEST, "out_of_range"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
        Code::PermissionDenied => (StatusCode::FORBIDDEN, "permission_denied"),
        Code::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        Code::FailedPrecondition => (StatusCode::CONFLICT, "failed_precondition"),
        Code::AlreadyExists => (StatusCode::CONFLICT, "already_exists"),
        Code::Aborted => (StatusCode::PRECONDITION_FAILED, "aborted"),
        Code::ResourceExhausted => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
        Code::Unimplemented => (StatusCode::NOT_IMPLEMENTED, "unimplemented"),
        Code::Unavailable | Code::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        Code::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded"),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}

impl Problem {
    /// The body of the answer.
    pub(crate) fn body(&self) -> String {
        let body = json!({
            "type": format!("urn:aether:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "code": self.code,
            "error": self.detail,
        });
        body.to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// The answer to a path that does not exist.
pub(crate) async fn unknown_path(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "unknown_path",
        format!("there is no {method} {}; updates are at /rolling-updates", uri.path()),
    )
}

/// The answer to a method that a path does not have, and to OPTIONS. The
/// framework adds `Allow`.
pub(crate) async fn wrong_method(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "wrong_method",
        format!("{} does not take {method}; the header Allow says what it takes", uri.path()),
    )
    .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_field_has_the_name_that_it_has_in_json() {
        let named = |message: &str| {
            Problem::from_status(&Status::invalid_argument(message), Kind::Read).detail
        };
        assert_eq!(named("max_error_rate: 2 is no share"), "maxErrorRate: 2 is no share");
        assert_eq!(named("routing: a_b: no"), "routing: a_b: no");
        assert_eq!(named("on slice a_b: no"), "on slice a_b: no");
        assert_eq!(named("no field"), "no field");
    }
}
