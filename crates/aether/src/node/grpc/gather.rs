//! Small writes of one connection, put together.
//!
//! The answers of a connection's calls are made by tasks of their own, and HTTP/2
//! writes to the socket as soon as it has the first of them: a system call for
//! each, which costs more than most answers do. So what is to be sent waits until
//! the tasks that are ready by then have had their turn, and longer while they add
//! to it: a turn has room for some sixty tasks, and a change may be told to
//! hundreds. On an idle machine that is at once.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// From here on a write is large enough for a system call of its own.
const ENOUGH_BYTES: usize = 8 * 1024;
/// Most bytes that are kept: one HTTP/2 frame of the usual size, and as much
/// again in front of it.
const KEPT_BYTES_MAX: usize = 32 * 1024;
/// Most turns of others that are waited for: enough for a thousand watchers of one
/// node to be told.
const TURNS_MAX: u32 = 16;

/// A connection whose writes are gathered until it is flushed.
#[derive(Debug)]
pub(super) struct Gather<T> {
    inner: T,
    kept: BytesMut,
    /// The turn of the others that is waited for, or was.
    turn: Option<Arc<Turn>>,
    /// How much was kept when it began, and how many came before it.
    kept_before: usize,
    turns: u32,
}

impl<T> Gather<T> {
    pub fn new(inner: T) -> Self {
        Self { inner, kept: BytesMut::new(), turn: None, kept_before: 0, turns: 0 }
    }

    /// Waits for the others while they add to what is kept.
    fn poll_turns(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.kept.len() >= ENOUGH_BYTES {
            return Poll::Ready(());
        }
        // A task that adds something wakes this one, too.
        if self.turn.as_ref().is_some_and(|turn| turn.is_on_for(context.waker())) {
            return Poll::Pending;
        }
        if self.kept.len() <= self.kept_before || self.turns == TURNS_MAX {
            return Poll::Ready(());
        }
        self.kept_before = self.kept.len();
        self.turns += 1;
        self.turn = Some(Turn::begin(context.waker().clone()));
        Poll::Pending
    }
}

/// A turn of the tasks that are ready, behind which a task has put itself.
#[derive(Debug)]
struct Turn {
    is_over: AtomicBool,
    task: Waker,
}

impl Turn {
    fn begin(task: Waker) -> Arc<Self> {
        let turn = Arc::new(Self { is_over: AtomicBool::new(false), task });
        // It wakes behind those that are ready; the future has nothing more to do.
        let behind = Waker::from(Arc::clone(&turn));
        let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&behind));
        turn
    }

    fn is_on_for(&self, task: &Waker) -> bool {
        !self.is_over.load(Ordering::Acquire) && self.task.will_wake(task)
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.is_over.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// Writes all that is kept.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(context, &self.kept))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept.advance(sent);
        }
        // An idle connection keeps no memory.
        self.kept = BytesMut::new();
        (self.turn, self.turns, self.kept_before) = (None, 0, 0);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

// Not vectored: that makes HTTP/2 copy small bodies behind their headers instead
// of passing each on by itself.
impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.kept.len() >= KEPT_BYTES_MAX {
            ready!(self.poll_send(context))?;
        }
        if self.kept.is_empty() && bytes.len() >= ENOUGH_BYTES {
            return Pin::new(&mut self.inner).poll_write(context, bytes);
        }
        let taken = bytes.len().min(KEPT_BYTES_MAX - self.kept.len());
        self.kept.extend_from_slice(&bytes[..taken]);
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_turns(context));
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Counts the writes that come through.
    struct Counted<T>(T, usize);

    impl<T: AsyncWrite + Unpin> AsyncWrite for Counted<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    #[tokio::test]
    async fn many_small_writes_go_out_in_one() {
        let (ours, mut theirs) = duplex(64 * 1024);
        let mut connection = Gather::new(Counted(ours, 0));
        for number in 0..100_u8 {
            connection.write_all(&[number; 10]).await.unwrap();
        }
        connection.flush().await.unwrap();
        assert_eq!(connection.inner.1, 1);
        assert_eq!(connection.kept.capacity(), 0, "nothing is kept when all is sent");
        let mut received = vec![0; 1_000];
        theirs.read_exact(&mut received).await.unwrap();
        assert!(received.chunks(10).enumerate().all(|(n, part)| part == [n as u8; 10]));
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_is_bounded_and_comes_later() {
        let (ours, mut theirs) = duplex(1_000);
        let mut connection = Gather::new(ours);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let (write, read) = tokio::join!(
            async {
                for part in sent.chunks(777) {
                    connection.write_all(part).await?;
                    assert!(connection.kept.len() <= KEPT_BYTES_MAX);
                }
                connection.shutdown().await
            },
            async {
                let mut received = Vec::new();
                theirs.read_to_end(&mut received).await.map(|_| received)
            }
        );
        write.unwrap();
        assert!(read.unwrap() == sent, "every byte, in order");
    }

    #[tokio::test]
    async fn others_have_their_turn_before_it_is_sent() {
        let (ours, _theirs) = duplex(1_000);
        let mut connection = Gather::new(Counted(ours, 0));
        connection.write_all(b"one").await.unwrap();
        let flushed = std::future::poll_fn(|context| {
            Poll::Ready(Pin::new(&mut connection).poll_flush(context).is_ready())
        });
        assert!(!flushed.await, "not at once");
        connection.write_all(b"two").await.unwrap();
        connection.flush().await.unwrap();
        assert_eq!(connection.inner.1, 1);
    }

    /// A connection that many tasks of one worker write to, each of which wakes it.
    #[tokio::test]
    async fn what_more_tasks_add_than_have_room_in_a_turn_goes_out_in_one() {
        const TASKS: usize = 500;
        let (ours, mut theirs) = duplex(64 * 1024);
        let (told, mut tasks) = tokio::sync::mpsc::unbounded_channel();
        let sending = tokio::spawn(async move {
            let mut connection = Gather::new(Counted(ours, 0));
            let mut left = TASKS;
            std::future::poll_fn(move |context| {
                while let Poll::Ready(Some(number)) = tasks.poll_recv(context) {
                    let written = Pin::new(&mut connection).poll_write(context, &[number]);
                    assert!(matches!(written, Poll::Ready(Ok(1))));
                    left -= 1;
                }
                let flushed = Pin::new(&mut connection).poll_flush(context);
                match left {
                    0 => flushed.map(|flushed| flushed.map(|()| connection.inner.1)),
                    _ => Poll::Pending,
                }
            })
            .await
        });
        for number in 0..TASKS {
            let told = told.clone();
            tokio::spawn(async move { told.send(number as u8) });
        }
        let mut received = vec![0; TASKS];
        theirs.read_exact(&mut received).await.unwrap();
        let writes = sending.await.unwrap().unwrap();
        assert!(writes <= 2, "{writes}");
    }
}
