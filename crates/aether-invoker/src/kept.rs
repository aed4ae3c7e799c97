//! A request body that can be sent again as long as it is short: a call that an
//! instance refused without having looked at it (HTTP/2 can say so) goes to
//! another one, and with gRPC every call has a body.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use crate::body::{BoxError, RequestBody};
use crate::multiplex::Place;

/// How much of a body is kept until the instance answers. Most messages are
/// shorter; one that is longer is not sent again.
const KEPT_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
struct State {
    /// None once it has been taken back.
    rest: Option<RequestBody>,
    /// What was sent, to be sent again.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// All that was sent is in `kept`.
    is_whole: bool,
    failed: bool,
    /// The call is over, whatever is still to be sent.
    is_over: bool,
    /// Who is to hear of that.
    waker: Option<Waker>,
    /// As long as the request or the answer lasts.
    place: Option<Place>,
}

/// The body on its way.
#[derive(Debug)]
struct Sent {
    state: Arc<Mutex<State>>,
    /// Parts kept from an attempt before, which go first.
    again: std::vec::IntoIter<Bytes>,
}

/// What a body is taken back by.
#[derive(Debug)]
pub(crate) struct Kept(Arc<Mutex<State>>);

/// A call that has been answered, for as long as the answer is read. Once it is not
/// any more, the rest of the request is not sent: while a request is open, HTTP/2
/// does not take the end of interest in the answer for an end of the call.
#[derive(Debug)]
pub(crate) struct Answered(Arc<Mutex<State>>);

impl Drop for Answered {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_over = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Splits a body into what is sent and what it is taken back by.
pub(crate) fn keep(body: RequestBody) -> (RequestBody, Kept) {
    send(body, Vec::new())
}

fn send(rest: RequestBody, kept: Vec<Bytes>) -> (RequestBody, Kept) {
    let again = kept.clone().into_iter();
    let kept_bytes = kept.iter().map(Bytes::len).sum();
    let state = State {
        rest: Some(rest),
        kept,
        kept_bytes,
        is_whole: true,
        failed: false,
        is_over: false,
        waker: None,
        place: None,
    };
    let state = Arc::new(Mutex::new(state));
    let kept = Kept(Arc::clone(&state));
    (RequestBody::new(Sent { state, again }), kept)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("no code panics while it holds a body, but for the body's own")
}

impl Kept {
    /// The body as it was before it was sent, if nothing of it is lost. What is
    /// still on its way ends.
    pub(crate) fn take_back(self) -> Option<(RequestBody, Self)> {
        let mut state = lock(&self.0);
        let rest = state.rest.take().filter(|_| state.is_whole)?;
        Some(send(rest, std::mem::take(&mut state.kept)))
    }

    /// The call has been answered: it will not be sent again. It keeps its place until
    /// both request and answer have ended.
    pub(crate) fn answered(self, place: Place) -> Answered {
        let mut state = lock(&self.0);
        state.forget();
        state.place = Some(place);
        drop(state);
        Answered(self.0)
    }

    /// Whether the caller's body itself failed.
    pub(crate) fn failed(&self) -> bool {
        lock(&self.0).failed
    }
}

impl State {
    fn forget(&mut self) {
        self.is_whole = false;
        self.kept = Vec::new();
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        if !self.is_whole {
            return;
        }
        match frame.data_ref() {
            Some(data) if self.kept_bytes + data.len() <= KEPT_BYTES_MAX => {
                self.kept_bytes += data.len();
                self.kept.push(data.clone());
            }
            // Too long, or trailers, which no call of gRPC sends.
            _ => self.forget(),
        }
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(part) = self.again.next() {
            return Poll::Ready(Some(Ok(Frame::data(part))));
        }
        let mut state = lock(&self.state);
        if state.is_over {
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        let Some(rest) = &mut state.rest else {
            return Poll::Ready(Some(Err("the request has been taken back".into())));
        };
        let Poll::Ready(frame) = Pin::new(rest).poll_frame(context) else {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        };
        match &frame {
            Some(Ok(frame)) => state.note(frame),
            Some(Err(_)) => state.failed = true,
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        self.again.len() == 0 && state.rest.as_ref().is_some_and(Body::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    fn body(parts: &[&'static [u8]]) -> RequestBody {
        let frames: Vec<Result<_, BoxError>> =
            parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part)))).collect();
        RequestBody::new(StreamBody::new(tokio_stream::iter(frames)))
    }

    #[tokio::test]
    async fn what_was_sent_is_sent_again_and_then_the_rest() {
        let (mut sent, kept) = keep(body(&[b"one", b"two", b"three"]));
        assert_eq!(sent.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        let (mut again, kept) = kept.take_back().unwrap();
        assert!(sent.frame().await.unwrap().is_err(), "it is taken back");
        assert_eq!(again.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        assert_eq!(again.frame().await.unwrap().unwrap().into_data().unwrap(), "two");
        let (third, kept) = kept.take_back().unwrap();
        assert_eq!(third.collect().await.unwrap().to_bytes(), "onetwothree");
        lock(&kept.0).forget();
        assert!(kept.take_back().is_none());
    }

    #[tokio::test]
    async fn a_long_body_is_not_kept_and_a_failure_is_the_callers() {
        const LONG: &[u8] = &[0; KEPT_BYTES_MAX];
        let (sent, kept) = keep(body(&[LONG, b"x"]));
        assert_eq!(sent.collect().await.unwrap().to_bytes().len(), KEPT_BYTES_MAX + 1);
        assert!(!kept.failed());
        assert!(kept.take_back().is_none());

        let broken = tokio_stream::iter([Err::<Frame<Bytes>, BoxError>("broken".into())]);
        let (sent, kept) = keep(RequestBody::new(StreamBody::new(broken)));
        assert!(sent.collect().await.is_err());
        assert!(kept.failed());
    }
}
