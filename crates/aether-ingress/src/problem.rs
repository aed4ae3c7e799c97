//! Answers of our own, as `application/problem+json` (RFC 9457).

use aether_invoker::{CallError, CallTarget};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::body::IngressBody;

/// An answer that says why there is no other.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Response<IngressBody> {
    answer(status, detail, None)
}

/// What a failed call becomes.
pub(crate) fn of_call(error: &CallError) -> Response<IngressBody> {
    let status = match error {
        CallError::Pick(_) | CallError::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
        CallError::Unreachable { .. } | CallError::Broken { .. } => StatusCode::BAD_GATEWAY,
        CallError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
        CallError::RequestBody { .. } => StatusCode::REQUEST_TIMEOUT,
    };
    answer(status, &error.to_string(), error.target())
}

/// The answer, byte by byte, to a head that did not come whole in time. hyper
/// has none.
pub(crate) fn head_too_slow() -> String {
    let detail = "the head of the request did not arrive in time; send it in one piece";
    let body = text(StatusCode::REQUEST_TIMEOUT, detail, None);
    format!(
        "HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
         content-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn text(status: StatusCode, detail: &str, target: Option<&CallTarget>) -> String {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("type", "about:blank".into());
    set("title", status.canonical_reason().unwrap_or("error").into());
    set("status", status.as_u16().into());
    set("detail", detail.into());
    if let Some(target) = target {
        set("slice", target.slice.to_string().into());
        set("version", target.version.to_string().into());
        set("instance", target.instance.to_string().into());
    }
    Value::Object(fields).to_string()
}

fn answer(status: StatusCode, detail: &str, target: Option<&CallTarget>) -> Response<IngressBody> {
    let text = Bytes::from(text(status, detail, target));
    let mut response = Response::new(IngressBody::text(text));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
