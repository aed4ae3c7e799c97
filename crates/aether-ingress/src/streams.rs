//! What the streams of one HTTP/2 connection do together, and what one of them
//! must not: hyper bounds how many there are at a time, but not how many are
//! begun only to be taken back, nor how long one may leave its answer unread.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep};

/// A request that is taken back within this long may have been sent for the work
/// alone that it makes ("rapid reset", CVE-2023-44487).
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(1);

/// How many a connection may take back before it is looked at whether these are
/// more than half of all. A page that is left takes back some dozens.
const TAKEN_BACK_MAX: u64 = 200;

/// The streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    begun: AtomicU64,
    ended: AtomicU64,
    taken_back: AtomicU64,
    abused: Notify,
}

impl Streams {
    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>) -> Stream {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Stream { streams: Arc::clone(self), begun_at: Instant::now(), answered: false }
    }

    /// How many have begun, if none of them is still there.
    pub(crate) fn idle(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        let begun = self.begun.load(Ordering::Acquire);
        (begun == ended).then_some(begun)
    }

    /// Returns when most requests are taken back at once.
    pub(crate) async fn abused(&self) {
        self.abused.notified().await;
    }
}

/// One of them. Dropped before it was [answered](Self::answered), the client took
/// it back.
#[derive(Debug)]
pub(crate) struct Stream {
    streams: Arc<Streams>,
    begun_at: Instant,
    answered: bool,
}

impl Stream {
    /// Whatever becomes of it now is not the client's change of mind.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let streams = &self.streams;
        if !self.answered && self.begun_at.elapsed() < TAKEN_BACK_WITHIN {
            let taken_back = streams.taken_back.fetch_add(1, Ordering::Relaxed) + 1;
            if taken_back > TAKEN_BACK_MAX && taken_back > streams.begun.load(Ordering::Relaxed) / 2
            {
                streams.abused.notify_one();
            }
        }
        streams.ended.fetch_add(1, Ordering::Release);
    }
}

/// What the task of a stream knows of the body of its answer.
#[derive(Debug, Default)]
struct Answer {
    /// A part of it has been given out and no other has been asked for: that is for
    /// want of room at the client, if it lasts.
    is_out: AtomicBool,
    parts: AtomicU64,
}

tokio::task_local! {
    static ANSWER: Arc<Answer>;
}

/// Another part of the answer is asked for.
pub(crate) fn note_asked() {
    let _ = ANSWER.try_with(|answer| answer.is_out.store(false, Ordering::Relaxed));
}

/// A part of the answer is given out.
pub(crate) fn note_given() {
    let _ = ANSWER.try_with(|answer| {
        answer.is_out.store(true, Ordering::Relaxed);
        answer.parts.fetch_add(1, Ordering::Relaxed);
    });
}

/// Runs the streams of a connection as tasks. One whose client takes no part of its
/// answer for too long is reset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamExecutor {
    pub(crate) stall_timeout: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let answer = Arc::<Answer>::default();
        let stream = Box::pin(ANSWER.scope(Arc::clone(&answer), stream));
        let limit = self.stall_timeout;
        tokio::spawn(Watched { stream, answer, limit, timer: None, seen: 0 });
    }
}

struct Watched<F> {
    stream: Pin<Box<F>>,
    answer: Arc<Answer>,
    limit: Duration,
    /// Made at the first wait: most answers fit into the window of their stream.
    timer: Option<Pin<Box<Sleep>>>,
    /// Parts that had been given out when the timer was set.
    seen: u64,
}

impl<F: Future<Output = ()>> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Self { stream, answer, limit, timer, seen } = self.get_mut();
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if !answer.is_out.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        let parts = answer.parts.load(Ordering::Relaxed);
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(*limit)));
        if parts != std::mem::replace(seen, parts) {
            timer.as_mut().reset(Instant::now() + *limit);
        }
        // To drop a stream is to reset it.
        timer.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_most_requests_back_at_once_is_cut_off() {
        let abused = |streams: &Arc<Streams>| {
            let streams = Arc::clone(streams);
            async move { tokio::time::timeout(Duration::ZERO, streams.abused()).await.is_ok() }
        };
        let streams = Arc::<Streams>::default();
        for _ in 0..2 * TAKEN_BACK_MAX {
            streams.begin().answered();
            drop(streams.begin());
        }
        assert!(!abused(&streams).await, "half of them were wanted");
        assert_eq!(streams.idle(), Some(4 * TAKEN_BACK_MAX));
        let stream = streams.begin();
        assert_eq!(streams.idle(), None);
        drop(stream);
        assert!(abused(&streams).await);

        let streams = Arc::<Streams>::default();
        let all: Vec<_> = (0..2 * TAKEN_BACK_MAX).map(|_| streams.begin()).collect();
        tokio::time::advance(TAKEN_BACK_WITHIN).await;
        drop(all);
        assert!(!abused(&streams).await, "they took their time");
    }
}
