//! Who is let in at a gRPC listener, and who has to go again.
//!
//! A connection that does not begin as HTTP/2 costs a descriptor and nothing
//! else, but the process has only so many. So there is a bound on connections;
//! one that has not sent the preface in time is closed, and when all places are
//! taken, the one that has been silent for longest makes way for the next. Whoever
//! did begin keeps the place: the server sees to those with its own probes.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use nix::sys::resource::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Sleep, sleep};
use tracing::warn;

/// Bytes of the HTTP/2 connection preface (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// How long the preface may take. A client sends it with its first packet.
const PREFACE_TIME_MAX: Duration = Duration::from_secs(5);

/// What a listener has of the files that the process may have open: there are
/// two of them, the REST listener, and files.
const SHARE_OF_FILES: u64 = 4;

/// Places of a listener, however many files there may be: beyond this, memory
/// is what runs out.
const CONNECTIONS_MAX: u64 = 10_000;

/// Places of a listener, however few.
const CONNECTIONS_MIN: u64 = 64;

/// Pause after a failed accept, which is nearly always a lack of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Connections at a time; more wait in the listener's backlog.
    pub connections: usize,
    /// How long the preface may take.
    pub preface: Duration,
}

impl Bounds {
    /// By what this process may have open.
    pub fn of_process() -> Self {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
        let connections = (files / SHARE_OF_FILES).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX);
        let connections = usize::try_from(connections).expect("it was just bounded");
        Self { connections, preface: PREFACE_TIME_MAX }
    }
}

/// The connections of a listener, one after the other.
pub(super) fn guests(listener: TcpListener, bounds: Bounds) -> impl Stream<Item = Guest> {
    let free = Arc::new(Semaphore::new(bounds.connections));
    let door = Arc::new(Door { free, preface: bounds.preface, silent: Mutex::default() });
    futures::stream::unfold((listener, door), |(listener, door)| async move {
        let guest = door.next(&listener).await;
        Some((guest, (listener, door)))
    })
}

struct Door {
    free: Arc<Semaphore>,
    preface: Duration,
    silent: Mutex<Silent>,
}

/// Those that have not begun, in the order in which they came.
#[derive(Default)]
struct Silent {
    came: u64,
    all: BTreeMap<u64, oneshot::Sender<()>>,
}

impl Door {
    async fn next(self: &Arc<Self>, listener: &TcpListener) -> Guest {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Messages are short; waiting to fill a packet would only delay them.
                    let _ = stream.set_nodelay(true);
                    return self.seat(stream).await;
                }
                Err(error) => {
                    warn!(%error, "cannot accept a gRPC connection");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Only for a connection that is there does another make way.
    async fn seat(self: &Arc<Self>, stream: TcpStream) -> Guest {
        if self.free.available_permits() == 0
            && let Some((_, makes_way)) = self.silent().all.pop_first()
        {
            let _ = makes_way.send(());
        }
        let place = Arc::clone(&self.free).acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let (sender, makes_way) = oneshot::channel();
        let number = {
            let mut silent = self.silent();
            silent.came += 1;
            let number = silent.came;
            silent.all.insert(number, sender);
            number
        };
        let silence = Silence {
            number,
            door: Arc::clone(self),
            bytes_left: PREFACE_BYTES,
            until: Box::pin(sleep(self.preface)),
            makes_way,
        };
        Guest { stream, silence: Some(silence), _place: place }
    }

    fn silent(&self) -> MutexGuard<'_, Silent> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that was let in.
pub(super) struct Guest {
    stream: TcpStream,
    /// Until the preface is there.
    silence: Option<Silence>,
    _place: OwnedSemaphorePermit,
}

struct Silence {
    number: u64,
    door: Arc<Door>,
    bytes_left: usize,
    until: Pin<Box<Sleep>>,
    makes_way: oneshot::Receiver<()>,
}

impl Silence {
    /// Why it is over, if it is.
    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        if self.until.as_mut().poll(context).is_ready() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "it did not begin as HTTP/2");
            return Poll::Ready(error);
        }
        Pin::new(&mut self.makes_way).poll(context).map(|_| {
            io::Error::new(io::ErrorKind::ConnectionAborted, "silent, it made way for another one")
        })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        self.door.silent().all.remove(&self.number);
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(silence) = &mut self.silence else { return read };
        if read.is_pending() {
            return silence.poll_over(context).map(Err);
        }
        let bytes = buffer.filled().len() - before;
        silence.bytes_left = silence.bytes_left.saturating_sub(bytes);
        if silence.bytes_left == 0 {
            self.silence = None;
        }
        read
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
