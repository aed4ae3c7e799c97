//! Answers of our own: to HTTP as `application/problem+json` (RFC 9457), to gRPC
//! as a status.

use std::fmt::Write;

use aether_invoker::{CallError, CallTarget};
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value};

use crate::body::IngressBody;

/// Most bytes of a `grpc-message`. Clients bound the head of a response, often to
/// 8 KiB.
const GRPC_MESSAGE_BYTES_MAX: usize = 1_024;

/// Why there is no answer of an instance.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) detail: String,
    pub(crate) target: Option<CallTarget>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), target: None }
    }

    /// What a failed call becomes.
    pub(crate) fn of_call(error: &CallError) -> Self {
        let status = match error {
            CallError::Pick(_) | CallError::Overloaded { .. } => StatusCode::SERVICE_UNAVAILABLE,
            CallError::Unreachable { .. } | CallError::Broken { .. } => StatusCode::BAD_GATEWAY,
            CallError::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            CallError::RequestBody { .. } => StatusCode::REQUEST_TIMEOUT,
        };
        Self { status, detail: error.to_string(), target: error.target().cloned() }
    }

    /// As HTTP has it.
    pub(crate) fn into_problem(self) -> Response<IngressBody> {
        let text = Bytes::from(text(self.status, &self.detail, self.target.as_ref()));
        let mut response = Response::new(IngressBody::text(text));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let allowed = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
            response.headers_mut().insert(ALLOW, allowed);
        }
        response
    }

    /// As gRPC has it: a head alone, that says all.
    pub(crate) fn into_grpc(self) -> Response<IngressBody> {
        let mut response = Response::new(IngressBody::empty());
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let code = HeaderValue::from(grpc_code(self.status));
        headers.insert(HeaderName::from_static("grpc-status"), code);
        if let Ok(message) = HeaderValue::try_from(percent_encoded(&self.detail)) {
            headers.insert(HeaderName::from_static("grpc-message"), message);
        }
        response
    }
}

/// What clients of gRPC take a status of HTTP for (http-grpc-status-mapping.md);
/// only a time that is over has a code of its own there.
fn grpc_code(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 13,
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => 12,
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 2,
    }
}

fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if encoded.len() + 3 > GRPC_MESSAGE_BYTES_MAX {
            break;
        }
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02X}").expect("a string takes all"),
        }
    }
    encoded
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_grpc_are_plain_ascii_and_bounded() {
        assert_eq!(percent_encoded("a b: 100 %\n\u{e4}"), "a b: 100 %25%0A%C3%A4");
        let long = percent_encoded(&"\u{e4}".repeat(2_000));
        assert!(long.len() <= GRPC_MESSAGE_BYTES_MAX && long.len().is_multiple_of(3));
        let refusal = Refusal::new(StatusCode::NOT_FOUND, "no rule");
        let response = refusal.into_grpc();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "12");
        assert_eq!(response.headers()["grpc-message"], "no rule");
    }
}
