//! One line for each request, for those who count or search them: an event of
//! `tracing` with the target `aether::access`, when the answer has ended.

use std::net::IpAddr;
use std::time::Instant;

use aether_invoker::CallTarget;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Version};

use crate::headers::{Client, X_REQUEST_ID};

/// Most bytes of a path or host in a line.
const TEXT_BYTES_MAX: usize = 512;

/// What is said of one request. Said when it is dropped, with the answer.
#[derive(Debug)]
pub(crate) struct Access {
    begun_at: Instant,
    client: IpAddr,
    method: String,
    version: Version,
    /// Without the query, in which there may be secrets.
    path: String,
    host: String,
    request_id: String,
    status: StatusCode,
    target: Option<CallTarget>,
    bytes: u64,
    is_whole: bool,
}

/// What a client says, so that it can be a field of a line: no longer than that, and
/// without spaces, after which a client could write fields of its own.
fn shortened(text: &str) -> String {
    let fits = |at: &usize| text.is_char_boundary(*at);
    let end = (0..=text.len().min(TEXT_BYTES_MAX)).rev().find(fits).unwrap_or(0);
    text[..end].replace(|c: char| c.is_whitespace() || c.is_control(), "_")
}

/// Without the name and password that may stand before a host.
fn host_alone(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap_or(authority)
}

fn text_of(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> String {
    let text = headers.get(name).map(HeaderValue::to_str);
    text.map_or_else(String::new, |text| shortened(text.unwrap_or("?")))
}

impl Access {
    /// To be made before the request is passed on. It has its id already.
    pub(crate) fn begin<B>(client: &Client, request: &Request<B>) -> Self {
        let host = match request.uri().authority() {
            Some(authority) => shortened(host_alone(authority.as_str())),
            None => text_of(request.headers(), HOST),
        };
        Self {
            begun_at: Instant::now(),
            client: client.ip(),
            method: shortened(request.method().as_str()),
            version: request.version(),
            path: shortened(request.uri().path()),
            host,
            request_id: text_of(request.headers(), &X_REQUEST_ID),
            // What becomes of a request whose client goes away before the answer.
            status: StatusCode::from_u16(499).expect("a status has three digits"),
            target: None,
            bytes: 0,
            is_whole: false,
        }
    }

    /// The head of the answer is there.
    pub(crate) fn answered<B>(&mut self, response: &Response<B>, target: Option<CallTarget>) {
        (self.status, self.target) = (response.status(), target);
    }

    /// A part of the answer goes to the client.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The answer has been given to its end.
    pub(crate) fn is_whole(&mut self) {
        self.is_whole = true;
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let target = self.target.as_ref();
        let text = |part: Option<String>| part.unwrap_or_default();
        tracing::info!(
            target: "aether::access",
            client = %self.client,
            method = %self.method,
            host = %self.host,
            path = %self.path,
            protocol = ?self.version,
            status = self.status.as_u16(),
            bytes = self.bytes,
            whole = self.is_whole,
            duration_us = self.begun_at.elapsed().as_micros() as u64,
            slice = %text(target.map(|target| target.slice.to_string())),
            version = %text(target.map(|target| target.version.to_string())),
            instance = %text(target.map(|target| target.instance.to_string())),
            request_id = %self.request_id,
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_write_fields_of_its_own() {
        assert_eq!(shortened("x status=200\tslice=a\n"), "x_status=200_slice=a_");
        assert_eq!(shortened(&"ä".repeat(TEXT_BYTES_MAX)).len(), TEXT_BYTES_MAX);
        assert_eq!(
            shortened(&format!("a{}", "ä".repeat(TEXT_BYTES_MAX))).len(),
            TEXT_BYTES_MAX - 1
        );
        assert_eq!(host_alone("user:secret@host:1"), "host:1");
        assert_eq!(host_alone("host"), "host");
    }
}
