//! An answer that breaks off in the middle.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Promises a text and sends its first half. Then the connection breaks.
#[derive(Debug)]
pub(crate) struct Cut {
    length: u64,
    half: Option<Bytes>,
    /// The half is on its way: what is still to be written when a body fails
    /// would never be sent.
    flushed: bool,
}

impl Cut {
    pub fn new(text: &Bytes) -> Self {
        Self { length: text.len() as u64, half: Some(text.slice(..text.len() / 2)), flushed: false }
    }
}

impl Body for Cut {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Some(half) = self.half.take() {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        if !self.flushed {
            self.flushed = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Err("broken off, as --cut-rate asks")))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
