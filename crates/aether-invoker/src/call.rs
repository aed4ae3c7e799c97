//! One call over HTTP/1.1, and what may be tried again.
//!
//! A request that provably reached no instance goes to another one, at most
//! once to each. A request that may have been carried out is repeated only if
//! the caller said that this does no harm, within a budget; with one exception
//! that every HTTP client makes (RFC 9112, section 9.3.1): a safe request that
//! met a connection which the instance was just closing for idleness is sent
//! again on a fresh connection to the same instance.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aether_core::ids::InstanceId;
use aether_core::schedule::Side;
use bytes::Bytes;
use http::header::{HOST, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use crate::body::{BoxError, RequestBody, ResponseBody, Starved};
use crate::endpoint::Endpoint;
use crate::error::CallError;
use crate::pick::{Outcome, Pick};
use crate::pool::{Sender, connect, keep_for};
use crate::slice::SliceHandle;

/// How many pooled connections one attempt may find closed before it opens a
/// fresh one.
const POOLED_TRIES_MAX: usize = 4;

/// How a call is to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Carrying it out twice does no harm: it may be tried again although an
    /// instance may have seen it. Only requests without a body are.
    pub idempotent: bool,
    /// How long the response head may take, over all attempts.
    pub timeout: Option<Duration>,
    /// Put a [`CallTarget`](crate::CallTarget) that names the instance into the
    /// extensions of the response.
    pub describe: bool,
}

/// Bounds retries of calls that may have been carried out to a fifth of all
/// calls, so that they don't multiply the load on a version that fails.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    /// In fifths of a retry.
    fifths: AtomicI64,
}

impl RetryBudget {
    const RETRY: i64 = 5;
    /// For an invoker that makes few calls.
    const AT_FIRST: i64 = 10 * Self::RETRY;
    const MAX: i64 = 100 * Self::RETRY;

    pub(crate) fn new() -> Self {
        Self { fifths: AtomicI64::new(Self::AT_FIRST) }
    }

    fn deposit(&self) {
        // Usually full: then nothing is written. A race may exceed the maximum
        // by one call per thread.
        if self.fifths.load(Ordering::Relaxed) < Self::MAX {
            self.fifths.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn withdraw(&self) -> bool {
        let enough = |fifths| (fifths >= Self::RETRY).then_some(fifths - Self::RETRY);
        self.fifths.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_ok()
    }
}

/// When a copy of the request may be sent although the first may have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replay {
    Never,
    /// If a reused connection was just being closed.
    OnStaleConnection,
    Always,
}

impl Replay {
    fn of(request: &Request<RequestBody>, options: CallOptions) -> Self {
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
enum Failure {
    /// Nothing has been sent.
    Unsent { request: Request<RequestBody>, refused: bool, error: BoxError },
    /// It may have been carried out. The copy is there if it may be sent again.
    Lost { copy: Option<Request<RequestBody>>, error: BoxError },
    /// The caller's request body failed.
    Body { error: BoxError },
}

impl SliceHandle {
    /// Makes one call over HTTP/1.1 without a time limit; see
    /// [`send_with`](Self::send_with).
    ///
    /// # Errors
    /// If no instance gave a response.
    pub async fn send<B>(&self, request: Request<B>) -> Result<Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        self.send_with(request, CallOptions::default()).await
    }

    /// Makes one call over HTTP/1.1. Scheme and authority of the URI are not
    /// used, save for a `Host` header where there is none. The call counts as
    /// in flight until the body of the response has ended or is dropped.
    ///
    /// A request with an `Upgrade` header goes out on a connection of its own and
    /// is not sent again once it was. If the instance switches (status 101), the
    /// body of the response becomes the connection:
    /// [`ResponseBody::into_tunnel`].
    ///
    /// The first attempt is evidence for or against its version: the time from
    /// the pick to the head of the response, and as an error a 5xx, a failed
    /// attempt (even if a retry succeeds), a timeout, or a body that breaks
    /// off. A call whose future is dropped is no evidence, unless it waited for
    /// a second or more: then it counts as one that took that long.
    ///
    /// # Errors
    /// If no instance gave a response. A response with an error status is a
    /// response.
    pub async fn send_with<B>(
        &self,
        request: Request<B>,
        options: CallOptions,
    ) -> Result<Response<ResponseBody>, CallError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
        let pick = self.pick_until(deadline).await?;
        self.invoker.shared().budget.deposit();
        let request = prepare(request.map(RequestBody::new), &pick);
        self.attempts(pick, request, options, deadline).await
    }

    async fn attempts(
        &self,
        mut pick: Pick,
        mut request: Request<RequestBody>,
        options: CallOptions,
        deadline: Option<Instant>,
    ) -> Result<Response<ResponseBody>, CallError> {
        let config = &self.invoker.shared().config;
        let replay = Replay::of(&request, options);
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut may_have_arrived = false;
        let starved = request.body().starved();
        loop {
            let in_flight = pick.endpoint().in_flight();
            if in_flight > config.in_flight_max {
                return Err(CallError::Overloaded { target: pick.endpoint().target(), in_flight });
            }
            pick.awaits(starved.clone());
            let attempt = attempt(pick.endpoint(), request, replay, config.connect_timeout);
            let result = match deadline {
                None => attempt.await,
                Some(deadline) => match tokio::time::timeout_at(deadline, attempt).await {
                    Ok(result) => result,
                    Err(elapsed) if starved.as_ref().is_some_and(Starved::get) => {
                        pick.answered();
                        let (target, source) = (pick.endpoint().target(), elapsed.into());
                        return Err(CallError::RequestBody { target, source });
                    }
                    Err(_) => {
                        pick.record(Outcome::Error);
                        let after = options.timeout.unwrap_or_default();
                        return Err(CallError::Timeout { target: pick.endpoint().target(), after });
                    }
                },
            };
            pick.answered();
            let failure = match result {
                Ok((response, sender)) => {
                    return Ok(finish(pick, response, sender, options, config.idle_timeout));
                }
                Err(Failure::Body { error: source }) => {
                    let target = pick.endpoint().target();
                    return Err(CallError::RequestBody { target, source });
                }
                Err(failure) => failure,
            };
            pick.record(Outcome::Error);
            tried.push(pick.instance().clone());
            let (error, again) = self.judge(&pick, failure, &mut may_have_arrived);
            let next = match again.filter(|_| tried.len() < config.attempts_max) {
                Some(again) => {
                    self.other_until(deadline, pick.side(), &tried).await.map(|p| (again, p))
                }
                None => None,
            };
            let Some((again, other)) = next else {
                let (target, source) = (pick.endpoint().target(), error);
                return Err(if may_have_arrived {
                    CallError::Broken { target, source }
                } else {
                    CallError::Unreachable { target, attempts: tried.len(), source }
                });
            };
            (request, pick) = (again, other);
        }
    }

    /// Another endpoint for a call, for which it waits while calls are held, but not
    /// beyond its deadline.
    async fn other_until(
        &self,
        deadline: Option<Instant>,
        side: Side,
        tried: &[InstanceId],
    ) -> Option<Pick> {
        let other = self.state.pick_other(side, tried);
        match deadline {
            None => other.await,
            Some(deadline) => tokio::time::timeout_at(deadline, other).await.ok().flatten(),
        }
    }

    /// What a failure means for the endpoint, and the request if it may be
    /// sent to another one.
    fn judge(
        &self,
        pick: &Pick,
        failure: Failure,
        may_have_arrived: &mut bool,
    ) -> (BoxError, Option<Request<RequestBody>>) {
        match failure {
            Failure::Unsent { request, refused, error } => {
                if refused {
                    self.state.eject(pick.endpoint());
                }
                (error, Some(request))
            }
            Failure::Body { error } => (error, None),
            Failure::Lost { copy, error } => {
                *may_have_arrived = true;
                (error, copy.filter(|_| self.invoker.shared().budget.withdraw()))
            }
        }
    }
}

/// Brings a request into the form that goes to an instance.
fn prepare(mut request: Request<RequestBody>, pick: &Pick) -> Request<RequestBody> {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let authority = request
            .uri()
            .authority()
            .map_or_else(|| pick.address().to_string(), |authority| authority.as_str().to_owned());
        if let Ok(host) = HeaderValue::try_from(authority) {
            request.headers_mut().insert(HOST, host);
        }
    }
    if request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    request
}

/// Records the outcome and hands on the response.
fn finish(
    mut pick: Pick,
    mut response: Response<Incoming>,
    sender: Option<Sender>,
    options: CallOptions,
    idle_timeout: Duration,
) -> Response<ResponseBody> {
    if options.describe {
        response.extensions_mut().insert(pick.endpoint().target());
    }
    let is_error = response.status().is_server_error();
    pick.record(if is_error { Outcome::Error } else { Outcome::Success });
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = hyper::upgrade::on(&mut response);
        return response.map(|incoming| ResponseBody::switched(incoming, pick, upgrade));
    }
    let keep_for = keep_for(response.headers(), idle_timeout);
    response.map(|incoming| ResponseBody::new(incoming, pick, sender, keep_for))
}

/// One attempt at one endpoint: on a pooled connection, or on a fresh one.
async fn attempt(
    endpoint: &Arc<Endpoint>,
    mut request: Request<RequestBody>,
    replay: Replay,
    connect_timeout: Duration,
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
    let sender = match connect(endpoint.address, connect_timeout).await {
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
    use http::Method;

    use super::*;

    #[test]
    fn retries_are_a_fifth_of_all_calls() {
        let budget = RetryBudget::new();
        let drain = || std::iter::from_fn(|| budget.withdraw().then_some(())).count();
        assert_eq!(drain(), 10);
        (0..100).for_each(|_| budget.deposit());
        assert_eq!(drain(), 20);
        (0..10_000).for_each(|_| budget.deposit());
        assert_eq!(drain(), 100);
    }

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
