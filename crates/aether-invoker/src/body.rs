//! Bodies of requests and responses, streamed in both directions.

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;

use crate::endpoint::Endpoint;
use crate::grpc::Verdict;
use crate::kept::Answered;
use crate::pick::Pick;
use crate::pool::Sender;
use crate::tunnel::{Tunnel, TunnelError};

/// Any error, from a body or from below.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How long a connection may take to become ready for the next request after a
/// response has ended. Normally it is ready at once; it is not while a request
/// body is still being sent that the instance did not wait for.
const READY_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Flags {
    waits: AtomicBool,
    failed: AtomicBool,
}

/// Whether a request waits for more of its body from the caller, or can have no more
/// of it. Tells a slow caller from a slow instance, and one that broke off.
#[derive(Debug, Clone, Default)]
pub(crate) struct Starved(Arc<Flags>);

impl Starved {
    pub(crate) fn get(&self) -> bool {
        self.0.waits.load(Ordering::Relaxed)
    }

    /// Whether the body itself failed.
    pub(crate) fn failed(&self) -> bool {
        self.0.failed.load(Ordering::Relaxed)
    }

    /// Another attempt begins, which has not asked for anything yet.
    pub(crate) fn begin(&self) {
        self.0.waits.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Streamed {
    body: UnsyncBoxBody<Bytes, BoxError>,
    starved: Starved,
}

/// The body of a request on its way to an instance.
#[derive(Debug)]
pub struct RequestBody(Option<Streamed>);

impl RequestBody {
    /// Without any content.
    pub fn empty() -> Self {
        Self(None)
    }

    /// Streams another body. One that is known to be empty costs nothing.
    pub fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self(None);
        }
        let body = UnsyncBoxBody::new(body.map_err(Into::into));
        Self(Some(Streamed { body, starved: Starved::default() }))
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(crate) fn starved(&self) -> Option<Starved> {
        self.0.as_ref().map(|streamed| streamed.starved.clone())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(Streamed { body, starved }) = &mut self.0 else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        starved.0.waits.store(polled.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Some(Err(_))) = polled {
            starved.0.failed.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|streamed| streamed.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let known = |streamed: &Streamed| streamed.body.size_hint();
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), known)
    }
}

/// What is held until the last byte of a response.
#[derive(Debug)]
struct Held {
    pick: Pick,
    back: Back,
    /// Of a call of gRPC it may be still to come.
    verdict: Verdict,
}

/// What is given back after a response.
#[derive(Debug)]
pub(crate) enum Back {
    /// The connection has ended already.
    Nothing,
    /// A connection, which may be kept idle for so long.
    Connection { sender: Sender, keep_for: Duration },
    /// One of several calls on a connection.
    Stream(#[expect(dead_code, reason = "it is only to be dropped")] Answered),
}

/// The body of a response. The call counts as in flight until it has ended or
/// is dropped; dropping it early closes the connection to the instance, or resets
/// the stream of it that the call has.
#[derive(Debug)]
pub struct ResponseBody {
    incoming: Incoming,
    held: Option<Held>,
    /// Of a response that switches to another protocol.
    upgrade: Option<OnUpgrade>,
}

impl ResponseBody {
    pub(crate) fn new(incoming: Incoming, pick: Pick, back: Back, verdict: Verdict) -> Self {
        let held = Some(Held { pick, back, verdict });
        let mut body = Self { incoming, held, upgrade: None };
        body.release_at_end();
        body
    }

    /// That of a response with status 101.
    pub(crate) fn switched(incoming: Incoming, pick: Pick, upgrade: OnUpgrade) -> Self {
        let held = Some(Held { pick, back: Back::Nothing, verdict: Verdict::Fine });
        Self { incoming, held, upgrade: Some(upgrade) }
    }

    /// The connection to an instance that answered with status 101. The call
    /// stays in flight as long as the tunnel lives.
    ///
    /// # Errors
    /// If the instance did not switch, or the connection is gone.
    pub async fn into_tunnel(self) -> Result<Tunnel, TunnelError> {
        let (Some(upgrade), Some(Held { pick, .. })) = (self.upgrade, self.held) else {
            return Err(TunnelError::NotSwitched);
        };
        Ok(Tunnel::new(upgrade.await.map_err(TunnelError::Broken)?, pick))
    }

    /// Gives the connection back and ends the call if all has been read.
    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() && self.upgrade.is_none() {
            self.release();
        }
    }

    fn release(&mut self) {
        let Some(Held { pick, back, verdict }) = self.held.take() else { return };
        if let Back::Connection { sender, keep_for } = back {
            give_back(pick.endpoint(), sender, keep_for);
        }
        if verdict != Verdict::Fine {
            pick.broke_after_head();
        }
    }
}

/// Puts a connection back into its pool once it is ready.
fn give_back(endpoint: &Arc<Endpoint>, mut sender: Sender, keep_for: Duration) {
    if sender.is_ready() {
        endpoint.pool.put(sender, keep_for);
    } else if !sender.is_closed() {
        let endpoint = Arc::clone(endpoint);
        tokio::spawn(async move {
            if let Ok(Ok(())) = tokio::time::timeout(READY_WAIT, sender.ready()).await {
                endpoint.pool.put(sender, keep_for);
            }
        });
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(context)) {
            Some(Ok(frame)) => {
                if let (Some(trailers), Some(held)) = (frame.trailers_ref(), &mut self.held)
                    && held.verdict == Verdict::InTrailers
                {
                    held.verdict = Verdict::of_trailers(trailers);
                }
                self.release_at_end();
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                if let Some(Held { pick, .. }) = self.held.take() {
                    pick.broke_after_head();
                }
                Poll::Ready(Some(Err(error)))
            }
            None => {
                if self.upgrade.is_none() {
                    self.release();
                }
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
