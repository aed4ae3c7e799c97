//! Errors as `application/problem+json` (RFC 9457), with the two members of
//! our own: `code`, for machines, and `error`, which repeats the detail for
//! scripts written against the Java system.

use aether_proto::errors::{code_of, invalid_fields, is_expired, is_outcome_unknown};
use axum::http::{Method, Uri};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use tonic::{Code, Status};

/// Longest detail text in characters. Parsers repeat what they were given, and
/// an answer must not be as long as the nonsense it refuses.
const DETAIL_CHARS_MAX: usize = 600;

/// What a service says of what it once had and has no more.
const COMPACTED: &str = "compacted";

/// What a service says of a request id that came with another request.
const REUSED: &str = "request_reused";

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
        let unsure = is_outcome_unknown(status)
            || kind == Kind::Write
                && !is_expired(status)
                && matches!(status.code(), Code::DeadlineExceeded | Code::Unknown);
        if unsure {
            return Self::new(StatusCode::GATEWAY_TIMEOUT, "outcome_unknown", status.message());
        }
        let (mut http, code) = http_of(status.code());
        let code = code_of(status).unwrap_or_else(|| code.to_owned());
        if status.code() == Code::OutOfRange && code == COMPACTED {
            http = StatusCode::GONE;
        }
        let detail = match code.as_str() {
            REUSED => key_named(status.message()),
            _ => members_named(status),
        };
        Self::new(http, &code, detail)
    }
}

/// The message of a status. Where it says of each invalid field what is wrong,
/// `max_error_rate: …`, the fields have the names that they have in JSON.
fn members_named(status: &Status) -> String {
    let message = status.message();
    match invalid_fields(status).as_slice() {
        [] => message.to_owned(),
        [(field, _)] => match message.strip_prefix(&format!("{field}: ")) {
            Some(problem) => format!("{}: {problem}", member(field)),
            None => message.to_owned(),
        },
        several => {
            let named = several.iter().map(|(field, what)| format!("{}: {what}", member(field)));
            named.collect::<Vec<_>>().join("; ")
        }
    }
}

/// A request id is what came in a header of another name.
fn key_named(message: &str) -> String {
    let key = message.strip_prefix("request id ");
    key.map_or_else(|| message.to_owned(), |rest| format!("Idempotency-Key {rest}; send a new one"))
}

/// The name of a field in JSON.
fn member(field: &str) -> String {
    let mut words = field.split('_');
    let mut member = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        member.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        member.push_str(letters.as_str());
    }
    member
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
    use aether_proto::errors;

    #[test]
    fn a_reused_request_id_has_the_name_of_its_header() {
        let said = "request id 'k1' was already used for another command";
        let status = errors::Problem::new(Code::FailedPrecondition, REUSED, said).status();
        let told = "Idempotency-Key 'k1' was already used for another command; send a new one";
        assert_eq!(Problem::from_status(&status, Kind::Write).detail, told);
    }

    #[test]
    fn a_refused_field_has_the_name_that_it_has_in_json() {
        let named = |fields: &[(&str, &str)]| {
            let fields = fields.iter().map(|(f, what)| ((*f).to_owned(), (*what).to_owned()));
            let status = errors::Problem::invalid(fields.collect()).status();
            Problem::from_status(&status, Kind::Read).detail
        };
        let rate = ("max_error_rate", "2 is no share");
        assert_eq!(named(&[rate]), "maxErrorRate: 2 is no share");
        assert_eq!(named(&[("routing", "a_b: no")]), "routing: a_b: no");
        let both = named(&[("version", "is empty"), rate]);
        assert_eq!(both, "version: is empty; maxErrorRate: 2 is no share");
        // A message that does not begin with the field is left as it is.
        let said = errors::Problem::new(Code::InvalidArgument, "bad_option", "a_b: no");
        let status = said.field("grace_ms", "a_b: no").status();
        assert_eq!(Problem::from_status(&status, Kind::Read).detail, "a_b: no");
    }
}
