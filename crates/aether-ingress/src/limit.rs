//! The body of a request, as long as it may be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// Whether a body was too long.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exceeded(Arc<AtomicBool>);

impl Exceeded {
    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Fails at the first part that goes beyond the limit, which an instance never
/// sees.
#[derive(Debug)]
pub(crate) struct Limited {
    body: Incoming,
    left: u64,
    exceeded: Exceeded,
}

impl Limited {
    pub(crate) fn new(body: Incoming, bytes_max: u64) -> (Self, Exceeded) {
        let exceeded = Exceeded::default();
        (Self { body, left: bytes_max, exceeded: exceeded.clone() }, exceeded)
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
            None => return Poll::Ready(None),
        };
        let length = frame.data_ref().map_or(0, Bytes::len) as u64;
        let Some(left) = self.left.checked_sub(length) else {
            self.exceeded.0.store(true, Ordering::Relaxed);
            return Poll::Ready(Some(Err(io::Error::other("the request body is too long"))));
        };
        self.left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
