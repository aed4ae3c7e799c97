//! The network between voters: a proxy for each that reaches another, so that a
//! test decides which of them hears which.
//!
//! It is about bytes, not connections: what one voter sends to another does not
//! arrive, on whichever of their connections, while the other direction works.
//! Nobody is told; a connection hangs, as it does when packets get lost. When it
//! heals, what was held back arrives after all, as TCP would send it again, or
//! the connections that lost something end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aether_cluster::{Lease, PeerRoutes, free_address};
use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::proxy::ACCEPT_RETRY;

/// Bytes that are on their way in one direction at most, beside what the system
/// holds.
const CHUNK_BYTES: usize = 64 * 1024;

/// What becomes of what was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It arrives late.
    Arrives,
    /// It is lost, and the connections on which it was.
    IsLost,
}

/// One direction between two voters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Direction {
    blocked: bool,
    /// What is sent arrives this much later, or up to twice that if more follows
    /// at once.
    delay: Duration,
    /// How often what was held back was lost.
    losses: u64,
}

type Directions = BTreeMap<(usize, usize), watch::Sender<Direction>>;

/// The links between all voters, each known by its position.
pub struct Links {
    directions: Arc<Directions>,
    routes: PeerRoutes,
    // Their end closes listeners and connections.
    serving: Vec<JoinHandle<()>>,
    _leases: Vec<Lease>,
}

impl Links {
    /// Between so many voters, all open.
    ///
    /// # Errors
    /// When no address is free.
    pub async fn between(voters: usize) -> Result<Self> {
        let mut routes = PeerRoutes::default();
        let mut leases = Vec::new();
        for voter in 0..voters {
            let (address, lease) = free_address()?;
            routes.listen.insert(voter, address);
            leases.push(lease);
        }
        let pairs = (0..voters).flat_map(|a| (0..voters).map(move |b| (a, b)));
        let pairs: Vec<_> = pairs.filter(|(a, b)| a != b).collect();
        let directions = pairs.iter().map(|pair| (*pair, watch::Sender::default())).collect();
        let directions: Arc<Directions> = Arc::new(directions);
        let mut serving = Vec::new();
        for (from, to) in pairs {
            let (address, lease) = free_address()?;
            leases.push(lease);
            let listener = TcpListener::bind(address)
                .await
                .with_context(|| format!("the link {from} to {to} cannot listen on {address}"))?;
            let link = Link {
                to: routes.listen[&to],
                out: directions[&(from, to)].subscribe(),
                back: directions[&(to, from)].subscribe(),
            };
            routes.reach.insert((from, to), address);
            serving.push(tokio::spawn(serve(listener, link)));
        }
        Ok(Self { directions, routes, serving, _leases: leases })
    }

    /// What a topology needs, so that its voters use them.
    pub fn routes(&self) -> PeerRoutes {
        self.routes.clone()
    }

    /// What the first sends does not reach the second any more.
    ///
    /// # Panics
    /// When there are no such voters.
    pub fn block(&self, from: usize, to: usize) {
        self.directions[&(from, to)].send_modify(|direction| direction.blocked = true);
    }

    /// Two voters do not hear each other.
    pub fn part(&self, one: usize, other: usize) {
        self.block(one, other);
        self.block(other, one);
    }

    /// Nothing passes between a voter and any other.
    pub fn isolate(&self, voter: usize) {
        self.mute(voter);
        self.deafen(voter);
    }

    /// A voter hears the others and is not heard.
    pub fn mute(&self, voter: usize) {
        let pairs = self.directions.keys().filter(|(from, _)| *from == voter);
        pairs.for_each(|(from, to)| self.block(*from, *to));
    }

    /// A voter is heard by the others and hears nothing.
    pub fn deafen(&self, voter: usize) {
        let pairs = self.directions.keys().filter(|(_, to)| *to == voter);
        pairs.for_each(|(from, to)| self.block(*from, *to));
    }

    /// Everything takes this long in each direction.
    pub fn delay(&self, delay: Duration) {
        for direction in self.directions.values() {
            direction.send_modify(|direction| direction.delay = delay);
        }
    }

    /// All directions are open again, and as fast as they can be.
    pub fn heal(&self, held: Held) {
        for direction in self.directions.values() {
            direction.send_modify(|direction| {
                let losses =
                    direction.losses + u64::from(direction.blocked && held == Held::IsLost);
                *direction = Direction { losses, ..Direction::default() };
            });
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.serving.iter().for_each(JoinHandle::abort);
    }
}

/// From one voter to another; the connections are of the first.
#[derive(Clone)]
struct Link {
    to: SocketAddr,
    out: watch::Receiver<Direction>,
    back: watch::Receiver<Direction>,
}

async fn serve(listener: TcpListener, link: Link) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(connections.spawn(link.clone().carry(client))),
            Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

impl Link {
    /// Carries one connection until an end closes it or something is lost.
    async fn carry(mut self, client: TcpStream) {
        let (mut lost_out, mut lost_back) = (self.out.clone(), self.back.clone());
        tokio::select! {
            // What is lost is lost before anything goes on.
            biased;
            () = loses(&mut lost_out) => {}
            () = loses(&mut lost_back) => {}
            () = async {
                // To connect takes a packet each way.
                opens(&mut self.out).await;
                opens(&mut self.back).await;
                let Ok(server) = TcpStream::connect(self.to).await else { return };
                let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
                let (client_reads, client_writes) = client.into_split();
                let (server_reads, server_writes) = server.into_split();
                // One that fails ends both; one that was closed in order does not.
                let _ = tokio::try_join!(
                    pump(client_reads, server_writes, self.out),
                    pump(server_reads, client_writes, self.back),
                );
            } => {}
        }
    }
}

/// Waits until a direction lets bytes through; for ever once its links are gone.
async fn opens(direction: &mut watch::Receiver<Direction>) {
    if direction.wait_for(|direction| !direction.blocked).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits until something that was held back is lost.
async fn loses(direction: &mut watch::Receiver<Direction>) {
    let losses = direction.borrow().losses;
    if direction.wait_for(|direction| direction.losses != losses).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Carries bytes one way until that end of the connection is closed.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut direction: watch::Receiver<Direction>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        let delay = direction.borrow().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        opens(&mut direction).await;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&chunk[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::proxy::echo_on;

    /// What is waited for to see that nothing comes.
    const NOTHING: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Three voters that send back what they hear.
    async fn links() -> Links {
        let links = Links::between(3).await.unwrap();
        for address in links.routes.listen.values() {
            echo_on(TcpListener::bind(address).await.unwrap());
        }
        links
    }

    async fn connect(links: &Links, from: usize, to: usize) -> TcpStream {
        TcpStream::connect(links.routes.reach[&(from, to)]).await.unwrap()
    }

    /// Whether a byte comes, in time; an error if the connection ended.
    async fn comes(stream: &mut TcpStream, patience: Duration) -> std::io::Result<bool> {
        let mut byte = [0];
        let read = tokio::time::timeout(patience, stream.read_exact(&mut byte)).await;
        read.map_or(Ok(false), |read| read.map(|_| true))
    }

    async fn answers(stream: &mut TcpStream) -> bool {
        stream.write_all(b"x").await.is_ok() && comes(stream, PATIENCE).await.is_ok_and(|is| is)
    }

    #[tokio::test]
    async fn what_is_held_back_arrives_when_it_heals() {
        let links = links().await;
        for (from, to) in [(0, 1), (1, 0)] {
            let mut stream = connect(&links, 0, 1).await;
            assert!(answers(&mut stream).await);
            links.block(from, to);
            stream.write_all(b"x").await.unwrap();
            assert!(!comes(&mut stream, NOTHING).await.unwrap(), "{from} to {to} is blocked");
            // New connections hang, and others work.
            let mut late = connect(&links, 0, 1).await;
            late.write_all(b"x").await.unwrap();
            assert!(!comes(&mut late, NOTHING).await.unwrap());
            assert!(answers(&mut connect(&links, 0, 2).await).await);
            assert!(answers(&mut connect(&links, 2, 1).await).await);
            links.heal(Held::Arrives);
            assert!(comes(&mut stream, PATIENCE).await.unwrap());
            assert!(comes(&mut late, PATIENCE).await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_connection_that_lost_something_ends_when_it_heals() {
        let links = links().await;
        let mut other = connect(&links, 0, 2).await;
        let mut stream = connect(&links, 0, 1).await;
        assert!(answers(&mut other).await && answers(&mut stream).await);
        links.block(1, 0);
        stream.write_all(b"x").await.unwrap();
        assert!(!comes(&mut stream, NOTHING).await.unwrap());
        links.heal(Held::IsLost);
        comes(&mut stream, PATIENCE).await.expect_err("it is closed");
        assert!(answers(&mut connect(&links, 0, 1).await).await);
        assert!(answers(&mut other).await, "it lost nothing");
    }

    #[tokio::test]
    async fn each_shape_blocks_what_it_says() {
        let links = links().await;
        let blocked = || -> Vec<(usize, usize)> {
            let blocked = links.directions.iter().filter(|(_, d)| d.borrow().blocked);
            blocked.map(|(pair, _)| *pair).collect()
        };
        links.mute(1);
        assert_eq!(blocked(), [(1, 0), (1, 2)]);
        links.heal(Held::Arrives);
        links.deafen(1);
        assert_eq!(blocked(), [(0, 1), (2, 1)]);
        links.heal(Held::Arrives);
        links.isolate(1);
        assert_eq!(blocked(), [(0, 1), (1, 0), (1, 2), (2, 1)]);
        links.heal(Held::Arrives);
        assert_eq!(blocked(), []);
        links.part(2, 0);
        assert_eq!(blocked(), [(0, 2), (2, 0)]);
    }

    #[tokio::test]
    async fn a_delay_is_for_each_direction() {
        let links = links().await;
        let mut stream = connect(&links, 0, 1).await;
        assert!(answers(&mut stream).await);
        let delay = Duration::from_millis(60);
        links.delay(delay);
        let began = Instant::now();
        assert!(answers(&mut stream).await);
        assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());
    }
}
