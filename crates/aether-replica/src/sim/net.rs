//! The network between nodes: streams of bytes, like TCP, with what TCP makes of
//! a bad network.
//!
//! Each direction of a link has its delay and its losses, and may be cut. A loss
//! costs a retransmission; what is sent into a cut waits until it is mended, or
//! for as long as its reader has patience. Connections can be broken, with what
//! was under way. Who is killed says goodbye, who loses its power does not. There
//! are no duplicates of messages, which TCP does not make; those come from callers
//! that ask again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use rand::{Rng, RngExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Uri;
use tonic::transport::server::Connected;

use super::{World, in_world, is_on, world};

/// Time until TCP sends again what was lost; twice that the next time.
const RETRANSMIT_MS: u64 = 200;
/// Who waits for a connection looks so often.
const CONNECT_POLL: Duration = Duration::from_millis(10);
/// What goes through a link in a millisecond.
const BYTES_PER_MS: usize = 64 * 1024;
const PORT: &str = ":7000";

/// One direction between two nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Link {
    pub cut: bool,
    pub delay_ms: (u64, u64),
    pub loss_percent: u32,
}

impl Default for Link {
    fn default() -> Self {
        Link { cut: false, delay_ms: (1, 4), loss_percent: 0 }
    }
}

impl Link {
    fn arrives(&self, leaves_ms: u64, bytes: usize, random: &mut impl Rng) -> u64 {
        let (least, most) = self.delay_ms;
        let mut at = leaves_ms + random.random_range(least..=most) + (bytes / BYTES_PER_MS) as u64;
        let mut again = RETRANSMIT_MS;
        while self.loss_percent > 0 && random.random_ratio(self.loss_percent, 100) {
            at += again;
            again *= 2;
        }
        at
    }
}

/// One direction of a connection.
struct Pipe {
    from: usize,
    to: usize,
    /// What is under way and when it arrives; nothing is the end.
    queue: VecDeque<(u64, Bytes)>,
    /// When the last of it arrives.
    last_ms: u64,
    reader: Option<Waker>,
    broken: bool,
    reader_gone: bool,
    writer_gone: bool,
}

type Arriving = mpsc::UnboundedSender<Stream>;

pub(super) struct Net {
    links: Vec<Vec<Link>>,
    pipes: BTreeMap<u64, Pipe>,
    /// When which pipe is to be looked at.
    due: BTreeSet<(u64, u64)>,
    listeners: BTreeMap<usize, Arriving>,
    /// Those that were switched off, and answer nobody.
    dark: BTreeSet<usize>,
    pipes_made: u64,
}

impl Net {
    pub fn new(nodes: usize) -> Self {
        Net {
            links: vec![vec![Link::default(); nodes]; nodes],
            pipes: BTreeMap::new(),
            due: BTreeSet::new(),
            listeners: BTreeMap::new(),
            dark: BTreeSet::new(),
            pipes_made: 0,
        }
    }

    pub fn link(&mut self, from: usize, to: usize) -> &mut Link {
        &mut self.links[from][to]
    }

    /// Makes all links good, and sends again what waits at them.
    pub fn heal(&mut self, now_ms: u64, random: &mut impl Rng) {
        self.mend(now_ms, random, |_, _| true);
    }

    /// The same of links from and to whom `those` holds for.
    pub fn mend(
        &mut self,
        now_ms: u64,
        random: &mut impl Rng,
        those: impl Fn(usize, usize) -> bool,
    ) {
        for (from, links) in self.links.iter_mut().enumerate() {
            for (to, link) in links.iter_mut().enumerate() {
                if those(from, to) {
                    *link = Link::default();
                }
            }
        }
        for (id, pipe) in self.pipes.iter_mut().filter(|(_, pipe)| those(pipe.from, pipe.to)) {
            let mut least = now_ms;
            for (at, _) in &mut pipe.queue {
                if *at <= now_ms {
                    *at = now_ms + random.random_range(1..=RETRANSMIT_MS);
                }
                *at = (*at).max(least);
                least = *at;
                self.due.insert((*at, *id));
            }
            pipe.last_ms = pipe.last_ms.max(least);
        }
    }

    fn open_pipe(&mut self, from: usize, to: usize) -> u64 {
        self.pipes_made += 1;
        let pipe = Pipe {
            from,
            to,
            queue: VecDeque::new(),
            last_ms: 0,
            reader: None,
            broken: false,
            reader_gone: false,
            writer_gone: false,
        };
        self.pipes.insert(self.pipes_made, pipe);
        self.pipes_made
    }

    /// Breaks the connections that `those` holds for, with what is under way.
    /// Gives whom to wake.
    pub fn break_those(&mut self, those: impl Fn(usize, usize) -> bool) -> Vec<Waker> {
        let broken = self.pipes.values_mut().filter(|pipe| those(pipe.from, pipe.to));
        let wakers = broken.filter_map(|pipe| {
            pipe.broken = true;
            pipe.queue.clear();
            pipe.reader.take()
        });
        wakers.collect()
    }

    /// A node is switched off: it says nothing any more, and hears nothing.
    pub fn switch_off(&mut self, node: usize, now_ms: u64) {
        self.dark.insert(node);
        self.listeners.remove(&node);
        // Nobody sends again what did not arrive.
        let (links, pipes) = (&self.links, self.pipes.values_mut());
        for pipe in pipes.filter(|pipe| pipe.from == node) {
            let is_cut = links[pipe.from][pipe.to].cut;
            pipe.queue.retain(|(at, _)| *at <= now_ms && !is_cut);
        }
    }

    /// A node begins to listen. Connections of its last life break.
    pub fn listen(&mut self, node: usize) -> (UnboundedReceiverStream<Stream>, Vec<Waker>) {
        let (to, arriving) = mpsc::unbounded_channel();
        self.listeners.insert(node, to);
        self.dark.remove(&node);
        let wakers = self.break_those(|from, to| from == node || to == node);
        (UnboundedReceiverStream::new(arriving), wakers)
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.links[from][to].cut
    }
}

impl World {
    /// Whom to wake because something arrives now.
    pub fn arrivals(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::new();
        while let Some(&(at, id)) = self.net.due.first() {
            if at > self.now_ms {
                break;
            }
            self.net.due.pop_first();
            let Some(pipe) = self.net.pipes.get_mut(&id) else { continue };
            if self.net.links[pipe.from][pipe.to].cut {
                continue;
            }
            self.trace.count([self.now_ms, id, pipe.from as u64, pipe.to as u64]);
            wakers.extend(pipe.reader.take());
        }
        wakers
    }

    /// Puts something on its way; an end if it is empty.
    fn send(&mut self, id: u64, data: Bytes) -> io::Result<()> {
        let Some(pipe) = self.net.pipes.get_mut(&id) else { return Err(reset()) };
        if pipe.broken {
            return Err(reset());
        }
        let link = self.net.links[pipe.from][pipe.to];
        let lost = self.net.dark.contains(&pipe.from) || self.net.dark.contains(&pipe.to);
        if lost {
            return Ok(());
        }
        if pipe.reader_gone {
            return if link.cut { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) };
        }
        let leaves = self.now_ms.max(pipe.last_ms.saturating_sub(link.delay_ms.1));
        let at = link.arrives(leaves, data.len(), &mut self.random).max(pipe.last_ms);
        pipe.last_ms = at;
        let (from, to) = (pipe.from as u64, pipe.to as u64);
        self.trace.count([id, from, to, at]);
        pipe.queue.push_back((at, data));
        self.net.due.insert((at, id));
        Ok(())
    }

    fn connect(&mut self, from: usize, to: usize) -> Poll<io::Result<Stream>> {
        let net = &mut self.net;
        if net.is_cut(from, to) || net.is_cut(to, from) || net.dark.contains(&to) {
            return Poll::Pending;
        }
        let refused = || Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionRefused)));
        let Some(listener) = net.listeners.get(&to).cloned() else { return refused() };
        let (there, back) = (net.open_pipe(from, to), net.open_pipe(to, from));
        match listener.send(Stream { read: there, write: back }) {
            Ok(()) => Poll::Ready(Ok(Stream { read: back, write: there })),
            // It is given back, and must not be dropped while the world is held.
            Err(mpsc::error::SendError(unheard)) => {
                std::mem::forget(unheard);
                net.pipes.remove(&there);
                net.pipes.remove(&back);
                refused()
            }
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// One end of a connection.
pub(crate) struct Stream {
    read: u64,
    write: u64,
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        in_world(|world| {
            let Some(pipe) = world.net.pipes.get_mut(&self.read) else {
                return Poll::Ready(Err(reset()));
            };
            if pipe.broken {
                return Poll::Ready(Err(reset()));
            }
            let cut = world.net.links[pipe.from][pipe.to].cut;
            match pipe.queue.front_mut() {
                Some((at, data)) if *at <= world.now_ms && !cut => {
                    if data.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    let part = data.len().min(buffer.remaining());
                    buffer.put_slice(&data[..part]);
                    data.advance(part);
                    if data.is_empty() {
                        pipe.queue.pop_front();
                    }
                    Poll::Ready(Ok(()))
                }
                _ => {
                    pipe.reader = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let sent = in_world(|world| world.send(self.write, Bytes::copy_from_slice(data)));
        Poll::Ready(sent.map(|()| data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        in_world(|world| world.close(self.write));
        Poll::Ready(Ok(()))
    }
}

impl World {
    /// A node ends, and its connections with it; in their order, for in which one its
    /// tasks would drop them no seed decides.
    pub fn close_all(&mut self, node: usize) {
        self.net.listeners.remove(&node);
        let of: Vec<u64> = self.net.pipes.keys().copied().collect();
        for id in of {
            let Some(pipe) = self.net.pipes.get_mut(&id) else { continue };
            if pipe.to == node {
                pipe.reader_gone = true;
                pipe.reader = None;
            } else if pipe.from == node {
                self.close(id);
            }
        }
    }

    /// Says, once, that nothing more comes.
    fn close(&mut self, id: u64) {
        let is_open = |pipe: &mut Pipe| !std::mem::replace(&mut pipe.writer_gone, true);
        if self.net.pipes.get_mut(&id).is_some_and(is_open) {
            // One that is broken ends without a word.
            let _ = self.send(id, Bytes::new());
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The world may have ended before.
        world(|world| {
            world.close(self.write);
            if let Some(pipe) = world.net.pipes.get_mut(&self.read) {
                pipe.reader_gone = true;
                pipe.reader = None;
            }
            for id in [self.read, self.write] {
                let over = world.net.pipes.get(&id).is_some_and(|p| p.reader_gone && p.writer_gone);
                if over {
                    world.net.pipes.remove(&id);
                }
            }
        });
    }
}

impl Connected for Stream {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// The address of a node's peer listener.
pub(super) fn address(node: usize) -> String {
    format!("n{node}{PORT}")
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

/// Connects the node that is being stepped to others.
#[derive(Clone)]
pub(crate) struct Connector {
    from: usize,
}

/// In the place of TCP, on a thread of a simulation.
pub(crate) fn connector() -> Option<Connector> {
    is_on().then(|| Connector { from: in_world(|world| world.node) })
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let to = uri.host().and_then(|host| host.strip_prefix('n')?.parse::<usize>().ok());
        let from = self.from;
        Box::pin(async move {
            let to = to.ok_or(io::ErrorKind::AddrNotAvailable)?;
            // There and back.
            let took = in_world(|world| {
                let there = world.net.links[from][to].arrives(0, 0, &mut world.random);
                there + world.net.links[to][from].arrives(0, 0, &mut world.random)
            });
            tokio::time::sleep(Duration::from_millis(took)).await;
            loop {
                match in_world(|world| world.connect(from, to)) {
                    Poll::Ready(connected) => return connected.map(TokioIo::new),
                    Poll::Pending => tokio::time::sleep(CONNECT_POLL).await,
                }
            }
        })
    }
}

/// What a server takes connections from.
pub(super) fn incoming(
    arriving: UnboundedReceiverStream<Stream>,
) -> impl futures::Stream<Item = io::Result<Stream>> {
    arriving.map(Ok)
}
