//! One call over HTTP, and what may be tried again.
//!
//! A request that provably reached no instance goes to another one, at most
//! once to each. A request that may have been carried out is repeated only if
//! the caller said that this does no harm, within a budget; with one exception
//! that every HTTP client makes (RFC 9112, section 9.3.1): a safe request that
//! met a connection which the instance was just closing for idleness is sent
//! again on a fresh connection to the same instance.
//!
//! Calls of gRPC go over HTTP/2 in cleartext, all others over HTTP/1.1.

use std::pin::pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aether_core::ids::InstanceId;
use aether_core::schedule::Side;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, StatusCode, Uri, Version};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::attempt::{Failure, Replay, attempt};
use crate::body::{Back, BoxError, RequestBody, ResponseBody, Starved};
use crate::error::CallError;
use crate::grpc::{Verdict, grpc_timeout, is_grpc};
use crate::pick::{Outcome, Pick};
use crate::slice::SliceHandle;

/// How a call is to be made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// Carrying it out twice does no harm: it may be tried again although an
    /// instance may have seen it. Only requests without a body are.
    pub idempotent: bool,
    /// How long the response head may take, over all attempts. A call of gRPC that
    /// names a time of its own (`grpc-timeout`) has that, and otherwise as long
    /// again whenever it waits for the caller's next message.
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

impl SliceHandle {
    /// Makes one call without a time limit; see
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

    /// Makes one call over HTTP/1.1, or over HTTP/2 if it is one of gRPC
    /// ([`is_grpc`]). Scheme and authority of the URI are not used, save for a
    /// `Host` header where there is none. The call counts as in flight until the body of the response has ended or is dropped.
    ///
    /// A request with an `Upgrade` header goes out on a connection of its own and
    /// is not sent again once it was. If the instance switches (status 101), the
    /// body of the response becomes the connection:
    /// [`ResponseBody::into_tunnel`].
    ///
    /// The first attempt is evidence for or against its version: the time from
    /// the pick to the head of the response, and as an error a 5xx, a failed
    /// attempt (even if a retry succeeds), a timeout, a body that breaks off, or a
    /// status of gRPC that is the fault of the instance: UNKNOWN,
    /// DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE or DATA_LOSS. A call whose future is dropped is no evidence, unless it waited for
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
        let mut deadline = Deadline::of(request.headers(), options);
        let pick = self.pick_until(deadline.at).await?;
        self.invoker.shared().budget.deposit();
        let request = prepare(request.map(RequestBody::new), &pick);
        self.attempts(pick, request, options, &mut deadline).await
    }

    async fn attempts(
        &self,
        mut pick: Pick,
        mut request: Request<RequestBody>,
        options: CallOptions,
        deadline: &mut Deadline,
    ) -> Result<Response<ResponseBody>, CallError> {
        let config = &self.invoker.shared().config;
        let replay = Replay::of(&request, options);
        let mut tried: Vec<InstanceId> = Vec::new();
        let mut may_have_arrived = false;
        let starved = request.body().starved();
        loop {
            if let Some(in_flight) = pick.above(config.in_flight_max) {
                return Err(CallError::Overloaded { target: pick.endpoint().target(), in_flight });
            }
            pick.awaits(starved.clone());
            let attempt = attempt(pick.endpoint(), request, replay, config);
            let result = match deadline.limit(attempt, starved.as_ref()).await {
                Ok(result) => result,
                Err(elapsed) if starved.as_ref().is_some_and(Starved::get) => {
                    pick.answered();
                    let (target, source) = (pick.endpoint().target(), elapsed.into());
                    return Err(CallError::RequestBody { target, source });
                }
                Err(_) => {
                    // Who named his own time has given up, and that is all it says.
                    if !deadline.is_callers {
                        pick.record(Outcome::Error);
                    }
                    let after = deadline.timeout.unwrap_or_default();
                    return Err(CallError::Timeout { target: pick.endpoint().target(), after });
                }
            };
            pick.answered();
            let failure = match result {
                Ok((response, back)) => return Ok(finish(pick, response, back, options)),
                Err(Failure::Body { error: source }) => {
                    let target = pick.endpoint().target();
                    return Err(CallError::RequestBody { target, source });
                }
                // A service without gRPC: whoever calls it so says nothing of it.
                Err(Failure::Foreign { error: source }) => {
                    let target = pick.endpoint().target();
                    return Err(CallError::Broken { target, source });
                }
                Err(failure) => failure,
            };
            pick.record(Outcome::Error);
            tried.push(pick.instance().clone());
            let (error, again) = self.judge(&pick, failure, &mut may_have_arrived);
            let next = match again.filter(|_| tried.len() < config.attempts_max) {
                Some(again) => {
                    self.other_until(deadline.at, pick.side(), &tried).await.map(|p| (again, p))
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
        // Rare, and so not a part of each call.
        let other = Box::pin(self.state.pick_other(side, tried));
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
            Failure::Body { error } | Failure::Foreign { error } => (error, None),
            Failure::Lost { copy, error } => {
                *may_have_arrived = true;
                (error, copy.filter(|_| self.invoker.shared().budget.withdraw()))
            }
        }
    }
}

/// Until when the head of a response has to be there.
#[derive(Debug)]
struct Deadline {
    at: Option<Instant>,
    timeout: Option<Duration>,
    /// It does not count while the caller himself is waited for.
    is_patient: bool,
    /// The caller of a call of gRPC has named it.
    is_callers: bool,
}

impl Deadline {
    fn of(headers: &HeaderMap, options: CallOptions) -> Self {
        let named = grpc_timeout(headers).filter(|_| is_grpc(headers));
        let timeout = named.or(options.timeout);
        let is_patient = is_grpc(headers) && named.is_none();
        let at = timeout.map(|timeout| Instant::now() + timeout);
        Self { at, timeout, is_patient, is_callers: named.is_some() }
    }

    async fn limit<T>(
        &mut self,
        attempt: impl Future<Output = T>,
        starved: Option<&Starved>,
    ) -> Result<T, Elapsed> {
        let mut attempt = pin!(attempt);
        loop {
            let (Some(at), Some(timeout)) = (self.at, self.timeout) else {
                return Ok(attempt.await);
            };
            match tokio::time::timeout_at(at, attempt.as_mut()).await {
                Err(_) if self.is_patient && starved.is_some_and(Starved::get) => {
                    self.at = Some(Instant::now() + timeout);
                }
                result => return result,
            }
        }
    }
}

/// Brings a request into the form that goes to an instance.
fn prepare(mut request: Request<RequestBody>, pick: &Pick) -> Request<RequestBody> {
    if is_grpc(request.headers()) {
        return prepare_stream(request, pick);
    }
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(HOST) {
        let authority = request.uri().authority().unwrap_or(&pick.endpoint().authority);
        if let Ok(host) = HeaderValue::try_from(authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
    }
    if request.uri().scheme().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    let is_framed = |headers: &HeaderMap| {
        headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING)
    };
    let is_of_unknown_length = request.body().size_hint().exact().is_none();
    if is_of_unknown_length && !is_framed(request.headers()) {
        // hyper would send a GET without its body.
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
    request
}

/// The form that it has over HTTP/2: the authority stands for the host.
fn prepare_stream(mut request: Request<RequestBody>, pick: &Pick) -> Request<RequestBody> {
    *request.version_mut() = Version::HTTP_2;
    let named = request.headers_mut().remove(HOST);
    let named = named.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    let authority = named.or(parts.authority.take());
    let authority = authority.unwrap_or_else(|| pick.endpoint().authority.clone());
    let path = parts.path_and_query.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let uri = Uri::builder().scheme(Scheme::HTTP).authority(authority).path_and_query(path);
    *request.uri_mut() = uri.build().expect("it has all of its parts");
    request
}

/// Records the outcome and hands on the response.
fn finish(
    mut pick: Pick,
    mut response: Response<Incoming>,
    back: Back,
    options: CallOptions,
) -> Response<ResponseBody> {
    if options.describe {
        response.extensions_mut().insert(pick.endpoint().target());
    }
    let verdict = match back {
        Back::Stream(_) => Verdict::of_head(&response),
        _ if response.status().is_server_error() => Verdict::Fault,
        _ => Verdict::Fine,
    };
    // What trailers say later turns a success into an error.
    pick.record(if verdict == Verdict::Fault { Outcome::Error } else { Outcome::Success });
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = hyper::upgrade::on(&mut response);
        return response.map(|incoming| ResponseBody::switched(incoming, pick, upgrade));
    }
    response.map(|incoming| ResponseBody::new(incoming, pick, back, verdict))
}

#[cfg(test)]
mod tests {
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
}
