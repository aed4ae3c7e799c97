//! Errors with details, and deadlines, for every call on a public listener;
//! errors with details on the one for other voters.
//!
//! The services type their own errors. What the transport answers by itself, to
//! bytes that are no message or to a method that does not exist, is said here in
//! the same way, and so is an error of another library's service.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use aether_proto::errors::{EXPIRED_DEADLINE, Problem};
use aether_server::parse_timeout;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A caller with less time cannot get an answer over any network; its request
/// is refused before anything is done.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// Answers one call.
pub async fn typed<B, F>(
    request: Request<B>,
    answer: impl FnOnce(Request<B>) -> F,
) -> Response<Explained>
where
    F: Future<Output = Response<Body>>,
{
    let method = request.uri().clone();
    let timeout = match timeout_of(request.headers()) {
        Ok(timeout) => timeout,
        Err(status) => return explained_in(status.into_http(), method),
    };
    let answer = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, answer(request)).await,
        None => Ok(answer(request).await),
    };
    explained_in(answer.unwrap_or_else(|_| too_late().into_http()), method)
}

/// Answers one call of another voter, which keeps its own deadlines.
pub async fn explain<B, F>(
    request: Request<B>,
    answer: impl FnOnce(Request<B>) -> F,
) -> Response<Explained>
where
    F: Future<Output = Response<Body>>,
{
    let method = request.uri().clone();
    explained_in(answer(request).await, method)
}

/// Gives the error with which an answer ends its details.
fn explained_in(response: Response<Body>, method: Uri) -> Response<Explained> {
    let (mut parts, body) = response.into_parts();
    type_error(&mut parts.headers, method.path());
    Response::from_parts(parts, Explained { body, method })
}

/// The body of an answer, whose error, if it ends with one, says what it is.
pub struct Explained {
    body: Body,
    method: Uri,
}

impl http_body::Body for Explained {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map_ok(|frame| match frame.into_trailers() {
            Ok(mut trailers) => {
                type_error(&mut trailers, self.method.path());
                Frame::trailers(trailers)
            }
            Err(data) => data,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long the caller waits, if it says so.
fn timeout_of(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(said) = headers.get("grpc-timeout") else { return Ok(None) };
    let timeout = said.to_str().ok().and_then(parse_timeout).ok_or_else(|| {
        let problem = "is not of the form of gRPC: at most 8 digits and one of H, M, S, m, u, n";
        Problem::invalid(vec![("grpc-timeout".to_owned(), problem.to_owned())]).status()
    })?;
    if timeout < TIMEOUT_MIN {
        let message = "the request came with no time left; nothing was done";
        return Err(Problem::new(Code::DeadlineExceeded, EXPIRED_DEADLINE, message).status());
    }
    Ok(Some(timeout))
}

fn too_late() -> Status {
    let message = "there was no answer within the caller's time; look before you try again";
    Problem::new(Code::DeadlineExceeded, "deadline_exceeded", message).status()
}

/// Gives the error in these headers its details, if there is one without.
fn type_error(headers: &mut HeaderMap, method: &str) {
    let said = headers.get(Status::GRPC_STATUS);
    if said.is_none_or(|code| code == HeaderValue::from_static("0")) {
        return;
    }
    let Some(status) = Status::from_header_map(headers) else { return };
    if status.get_details_error_info().is_none() {
        // Fails only if a text were no header, and then it stays as it was.
        let _ = explained(&status, method).add_header(headers);
    }
}

/// An error of the transport, or of a service that gives no details, as our
/// services would have said it.
fn explained(status: &Status, method: &str) -> Status {
    let message = status.message();
    match status.code() {
        Code::OutOfRange if message.contains("decoded message length too large") => Problem::new(
            Code::ResourceExhausted,
            "message_too_large",
            format!("a message of the request is too large: {message}"),
        ),
        Code::OutOfRange if message.contains("encoded message length too large") => Problem::new(
            Code::ResourceExhausted,
            "answer_too_large",
            format!("the answer is too large; ask for a smaller page: {message}"),
        ),
        Code::Internal if is_malformed(message) => Problem::new(
            Code::InvalidArgument,
            "malformed_message",
            format!("a message of the request cannot be read: {message}"),
        ),
        Code::Unimplemented if message.is_empty() => Problem::new(
            Code::Unimplemented,
            "unimplemented",
            format!("there is no method {method}; server reflection lists those that there are"),
        ),
        code => Problem::new(code, reason_of(code), message),
    }
    .status()
}

/// Whether the transport says that it could not read a request: it calls that
/// an internal error.
fn is_malformed(message: &str) -> bool {
    [
        "failed to decode Protobuf message",
        "protocol error: received message",
        "Unexpected EOF decoding stream",
        "Missing request message",
        "Error decompressing",
    ]
    .iter()
    .any(|known| message.starts_with(known))
}

/// The reason of an error of which nothing but its code is known.
fn reason_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
