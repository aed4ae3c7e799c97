//! The body of a response to a client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aether_invoker::ResponseBody;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use crate::access::Access;
use crate::streams::{Stream, note_asked, note_given};

/// Streamed from an instance, or a text of our own.
#[derive(Debug)]
enum Source {
    Instance(ResponseBody),
    Text(Option<Bytes>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct IngressBody {
    source: Source,
    /// Of a client that speaks HTTP/2.
    stream: Option<Stream>,
    access: Option<Access>,
}

impl IngressBody {
    pub(crate) fn instance(body: ResponseBody) -> Self {
        Self { source: Source::Instance(body), stream: None, access: None }
    }

    pub(crate) fn text(text: Bytes) -> Self {
        Self { source: Source::Text(Some(text)), stream: None, access: None }
    }

    pub(crate) fn empty() -> Self {
        Self { source: Source::Text(None), stream: None, access: None }
    }

    /// What is said of the request is said when its answer has ended.
    pub(crate) fn logged(mut self, mut access: Access) -> Self {
        if self.is_end_stream() {
            access.is_whole();
        }
        self.access = Some(access);
        self
    }

    /// The stream lasts as long as its answer. One to HEAD has no text.
    pub(crate) fn on_stream(mut self, mut stream: Stream, is_head: bool) -> Self {
        if let (Source::Text(text), true) = (&mut self.source, is_head) {
            *text = None;
        }
        if self.is_end_stream() {
            stream.answered();
        }
        self.stream = Some(stream);
        self
    }
}

impl Body for IngressBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if this.stream.is_some() {
            note_asked();
        }
        let frame = ready!(match &mut this.source {
            Source::Instance(body) => Pin::new(body).poll_frame(context),
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
        });
        let is_last = !matches!(&frame, Some(Ok(frame)) if frame.is_data()) || this.is_end_stream();
        if let Some(stream) = &mut this.stream {
            note_given();
            if is_last {
                stream.answered();
            }
        }
        if let Some(access) = &mut this.access {
            match &frame {
                Some(Ok(frame)) => access.sends(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(_)) => {}
                None => access.is_whole(),
            }
            if matches!(frame, Some(Ok(_))) && is_last {
                access.is_whole();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Instance(body) => body.is_end_stream(),
            Source::Text(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Instance(body) => body.size_hint(),
            Source::Text(text) => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}
