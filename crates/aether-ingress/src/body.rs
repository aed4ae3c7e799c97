//! The body of a response to a client.

use std::pin::Pin;
use std::task::{Context, Poll};

use aether_invoker::ResponseBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// Streamed from an instance, or a text of our own.
#[derive(Debug)]
pub(crate) enum IngressBody {
    Instance(ResponseBody),
    Text(Option<Bytes>),
}

impl Body for IngressBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Instance(body) => Pin::new(body).poll_frame(context),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Instance(body) => body.is_end_stream(),
            Self::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Instance(body) => body.size_hint(),
            Self::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
