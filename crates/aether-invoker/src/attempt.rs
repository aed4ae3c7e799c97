//! One attempt of a call at one instance: over HTTP/1.1 on a pooled connection or
//! a fresh one, or over HTTP/2 on one that carries other calls as well.

use std::error::Error as _;
use std::sync::Arc;

use http::header::UPGRADE;
use http::{Request, Response, Version};
use hyper::body::Incoming;

use crate::body::{Back, BoxError, RequestBody};
use crate::call::CallOptions;
use crate::config::Config;
use crate::endpoint::{Endpoint, Protocol};
use crate::kept::keep;
use crate::pool::{ConnectError, Sender, connect, keep_for};

/// How many connections that are there one attempt may find closed before it opens
/// a fresh one.
const POOLED_TRIES_MAX: usize = 4;

/// When a copy of the request may be sent although the first may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replay {
    Never,
    /// If a reused connection was just being closed.
    OnStaleConnection,
    Always,
}

impl Replay {
    pub(crate) fn of(request: &Request<RequestBody>, options: CallOptions) -> Self {
        // It may have switched, and then everything may have been said.
        if request.headers().contains_key(UPGRADE) {
            return Self::Never;
        }
        let safe = request.method().is_safe();
        match (request.body().is_empty(), options.idempotent, safe) {
            (false, ..) => Self::Never,
            (true, true, _) => Self::Always,
            (true, false, true) => Self::OnStaleConnection,
            (true, false, false) => Self::Never,
        }
    }
}

/// Why one attempt gave no response.
pub(crate) enum Failure {
    /// Nothing has been sent.
    Unsent { request: Request<RequestBody>, refused: bool, error: BoxError },
    /// It may have been carried out. The copy is there if it may be sent again.
    Lost { copy: Option<Request<RequestBody>>, error: BoxError },
    /// The caller's request body failed.
    Body { error: BoxError },
    /// The instance has answered over HTTP/1.1 and never over HTTP/2, also now.
    Foreign { error: BoxError },
}

/// One attempt at one endpoint.
pub(crate) async fn attempt(
    endpoint: &Arc<Endpoint>,
    request: Request<RequestBody>,
    replay: Replay,
    config: &Config,
) -> Result<(Response<Incoming>, Back), Failure> {
    if request.version() == Version::HTTP_2 {
        return attempt_stream(endpoint, request, config).await;
    }
    let (response, sender) = attempt_connection(endpoint, request, replay, config).await?;
    endpoint.spoke(Protocol::Http1);
    let keep_for = keep_for(response.headers(), config.idle_timeout);
    let back = sender.map_or(Back::Nothing, |sender| Back::Connection { sender, keep_for });
    Ok((response, back))
}

/// Over HTTP/1.1: on a pooled connection, or on a fresh one.
async fn attempt_connection(
    endpoint: &Arc<Endpoint>,
    mut request: Request<RequestBody>,
    replay: Replay,
    config: &Config,
) -> Result<(Response<Incoming>, Option<Sender>), Failure> {
    // A connection that switches to another protocol does not come back. One that
    // was idle may just be closing, and then the request could not be sent again.
    let switches = request.headers().contains_key(UPGRADE);
    for _ in 0..if switches { 0 } else { POOLED_TRIES_MAX } {
        let Some(sender) = endpoint.pool.take() else { break };
        let spare = (replay != Replay::Never).then(|| copy(&request));
        let mut error = match sender.send(request).await {
            Ok(answered) => return Ok(answered),
            Err(error) => error,
        };
        match (error.take_message(), spare) {
            (Some(unsent), _) => request = unsent,
            (None, Some(spare)) if is_closing(error.error()) => {
                request = spare;
                // The others were probably closed at the same time.
                break;
            }
            (None, spare) => {
                let copy = spare.filter(|_| replay == Replay::Always);
                return Err(lost(error.into_error(), copy));
            }
        }
    }
    let connect = Box::pin(connect(endpoint.address, config.connect_timeout));
    let sender = match connect.await {
        Ok(sender) => sender,
        Err(error) => {
            return Err(Failure::Unsent { request, refused: true, error: error.into() });
        }
    };
    endpoint.forgive();
    let spare = (replay == Replay::Always).then(|| copy(&request));
    sender.send(request).await.map_err(|mut error| match error.take_message() {
        Some(request) => {
            Failure::Unsent { request, refused: false, error: error.into_error().into() }
        }
        None => lost(error.into_error(), spare),
    })
}

/// Over HTTP/2: on a connection that is there, or on a fresh one.
async fn attempt_stream(
    endpoint: &Arc<Endpoint>,
    request: Request<RequestBody>,
    config: &Config,
) -> Result<(Response<Incoming>, Back), Failure> {
    let connections = &endpoint.pool.http2;
    let (mut head, body) = request.into_parts();
    // Of the caller's own connection.
    head.extensions.clear();
    let (mut body, mut kept) = keep(body);
    let mut tries = 0;
    loop {
        tries += 1;
        let place =
            connections.place(endpoint.address, config.connect_timeout, config.idle_timeout);
        let place = match place.await {
            Ok((place, is_fresh)) => {
                if is_fresh {
                    endpoint.forgive();
                }
                place
            }
            Err(error) => {
                let request = Request::from_parts(head, body);
                // Who made the attempt says that it was refused, once for all.
                let refused = !matches!(error, ConnectError::Another { .. });
                return Err(Failure::Unsent { request, refused, error: error.into() });
            }
        };
        let sent = Request::from_parts(head.clone(), body);
        let mut error = match place.send(sent, connections).await {
            Ok((response, place)) => {
                endpoint.spoke(Protocol::Http2);
                return Ok((response, Back::Stream(kept.answered(place))));
            }
            Err(error) => error,
        };
        let unsent = error.take_message();
        let by_instance = refusal(error.error());
        if by_instance.is_some() {
            // It said so in frames of HTTP/2.
            endpoint.spoke(Protocol::Http2);
        }
        let error = error.into_error();
        if kept.failed() {
            return Err(Failure::Body { error: error.into() });
        }
        if endpoint.speaks_http1_only() {
            return Err(Failure::Foreign { error: error.into() });
        }
        let refusal = unsent.as_ref().map(|_| Refusal::OfConnection).or(by_instance);
        let Some(refusal) = refusal else {
            return Err(Failure::Lost { copy: None, error: error.into() });
        };
        match unsent {
            Some(unsent) => body = unsent.into_body(),
            None => match kept.take_back() {
                Some(again) => (body, kept) = again,
                None => return Err(Failure::Lost { copy: None, error: error.into() }),
            },
        }
        if refusal == Refusal::OfCall || tries == POOLED_TRIES_MAX {
            let request = Request::from_parts(head, body);
            return Err(Failure::Unsent { request, refused: false, error: error.into() });
        }
    }
}

/// How an instance says that it has done nothing about a call (RFC 9113, section
/// 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It takes no more on this connection (GOAWAY): on another it may.
    OfConnection,
    /// It does not take this one (REFUSED_STREAM).
    OfCall,
}

fn refusal(error: &hyper::Error) -> Option<Refusal> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    if !error.is_remote() {
        None
    } else if error.is_go_away() {
        // A call gets this error only if it came after the last that was looked at.
        Some(Refusal::OfConnection)
    } else {
        (error.reason() == Some(h2::Reason::REFUSED_STREAM)).then_some(Refusal::OfCall)
    }
}

/// What a request came to that was at least partly sent.
fn lost(error: hyper::Error, copy: Option<Request<RequestBody>>) -> Failure {
    if error.is_user() {
        Failure::Body { error: error.into() }
    } else {
        Failure::Lost { copy, error: error.into() }
    }
}

/// Whether this is how a connection looks that the other side closed.
fn is_closing(error: &hyper::Error) -> bool {
    use std::io::ErrorKind;
    let by_io = || {
        let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| {
            matches!(
                io.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::BrokenPipe
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::NotConnected
                    | ErrorKind::UnexpectedEof
            )
        })
    };
    error.is_incomplete_message() || error.is_closed() || error.is_canceled() || by_io()
}

/// A copy of a request without a body.
fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Method;
    use http::header::HeaderValue;

    use super::*;

    #[test]
    fn only_requests_that_can_be_sent_again_are() {
        let request = |method: Method, body: RequestBody| {
            Request::builder().method(method).body(body).unwrap()
        };
        let (plain, idempotent) =
            (CallOptions::default(), CallOptions { idempotent: true, ..CallOptions::default() });
        let mut switch = request(Method::GET, RequestBody::empty());
        switch.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        assert_eq!(Replay::of(&switch, idempotent), Replay::Never);
        let full = || RequestBody::new(http_body_util::Full::new(Bytes::from_static(b"x")));
        let of = |method, body, options| Replay::of(&request(method, body), options);
        assert_eq!(of(Method::GET, RequestBody::empty(), plain), Replay::OnStaleConnection);
        assert_eq!(of(Method::POST, RequestBody::empty(), plain), Replay::Never);
        assert_eq!(of(Method::POST, RequestBody::empty(), idempotent), Replay::Always);
        assert_eq!(of(Method::GET, full(), idempotent), Replay::Never);
    }
}
