//! The nodes of a run, each with its runtime, its files and its life, and the
//! scheduler that steps them.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use rand::RngExt;
use rand::seq::SliceRandom;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use tonic::transport::Server;

use crate::{Config, Handle, Joined, Joining, Replica, Voter};

use super::machine::{Kv, Shown};
use super::net::{self, address};
use super::{clock, in_world, watch, world};

/// Raft ids of nodes that come later: beyond those of founders, as the core does.
const LATER: u64 = 1_000;

/// A node from one start to its end.
pub(super) struct Life {
    pub number: u64,
    pub handle: Handle,
    pub shown: Arc<Shown>,
    fatal: watch::Receiver<Option<String>>,
    /// In the node's own time: when it was started.
    base: Instant,
    began_ms: u64,
    /// For how long its time stood still.
    behind_ms: u64,
    runtime: Runtime,
}

impl Life {
    /// Runs a task at the node, which ends with it.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.spawn(task));
    }
}

pub(super) struct Node {
    life: Option<Life>,
    joined: Option<Joined>,
    /// Stands still until then.
    pub paused_until_ms: Option<u64>,
    /// Its time stands still too, all but the clock that counts from the boot.
    pub suspended: bool,
    /// It may end by itself, because of what was done to it.
    pub may_fail: bool,
    /// It is to be no member any more, and ends when it hears of that.
    pub leaving: bool,
    /// Nobody starts it again.
    pub gone: bool,
}

impl Node {
    fn new() -> Self {
        Node {
            life: None,
            joined: None,
            paused_until_ms: None,
            suspended: false,
            may_fail: false,
            leaving: false,
            gone: false,
        }
    }
}

pub(super) struct Cluster {
    dir: TempDir,
    pub nodes: Vec<Node>,
    founders: usize,
    snapshot_every: u64,
    /// Its leaders count on leases.
    pub lease_reads: bool,
    lives: u64,
}

/// Where the files are: in memory if there is a place, for real syncs are of no
/// use here and take their time.
fn temporary() -> TempDir {
    let memory = tempfile::tempdir_in("/dev/shm");
    memory.or_else(|_| tempfile::tempdir()).expect("a folder can be made")
}

impl Cluster {
    /// Nothing runs yet.
    pub fn new(founders: usize, snapshot_every: u64) -> Self {
        let nodes = (0..founders).map(|_| Node::new()).collect();
        Cluster { dir: temporary(), nodes, founders, snapshot_every, lease_reads: false, lives: 0 }
    }

    fn data_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("n{node}"))
    }

    fn config(&self, node: usize) -> Config {
        let voter = |at| Voter { name: format!("n{at}"), peer_addr: address(at) };
        Config {
            node_name: format!("n{node}"),
            cluster_name: "sim".to_owned(),
            data_dir: self.data_dir(node),
            voters: (0..self.founders).map(voter).collect(),
            joined: self.nodes[node].joined.clone(),
            snapshot_every_entries: self.snapshot_every,
            lease_reads: self.lease_reads,
            snapshot_ms_max: 20_000,
            ..Config::default()
        }
    }

    pub fn raft_id(&self, node: usize) -> u64 {
        self.nodes[node].joined.as_ref().map_or(node as u64 + 1, |joined| joined.raft_id)
    }

    /// The identity of the directory of a node that came later.
    pub fn dir_id(&self, node: usize) -> String {
        self.nodes[node].joined.as_ref().map(|joined| joined.dir_id.clone()).unwrap_or_default()
    }

    pub fn life(&self, node: usize) -> Option<&Life> {
        self.nodes[node].life.as_ref()
    }

    /// Those that were started and have not ended, also those that stand still.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| self.nodes[*node].life.is_some()).collect()
    }

    /// Those that belong to it.
    pub fn members(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].gone).collect()
    }

    /// Those that may act.
    pub fn awake(&self) -> Vec<usize> {
        let is_awake = |node: &usize| self.nodes[*node].paused_until_ms.is_none();
        self.running().into_iter().filter(is_awake).collect()
    }

    /// Those that belong to it and don't run.
    pub fn down(&self) -> Vec<usize> {
        let is_down = |node: &usize| self.nodes[*node].life.is_none() && !self.nodes[*node].gone;
        (0..self.nodes.len()).filter(is_down).collect()
    }

    /// The one that leads, says itself, and may act.
    pub fn leader(&self) -> Option<usize> {
        let leads = |node: &usize| {
            self.life(*node).is_some_and(|life| life.handle.leadership().borrow().ready)
        };
        self.awake().into_iter().filter(leads).max_by_key(|node| {
            self.life(*node).map_or(0, |life| life.handle.leadership().borrow().term)
        })
    }

    /// A node that was never there; it is not started.
    pub fn add(&mut self) -> usize {
        let node = self.nodes.len();
        self.nodes.push(Node::new());
        in_world(|world| world.node = node);
        let Ok(Joining::Asks { dir_id }) = Joining::prepare(&self.config(node)) else {
            panic!("n{node} is somebody already")
        };
        let joined = Joined { raft_id: LATER + node as u64, dir_id };
        self.nodes[node].joined = Some(joined);
        node
    }

    /// Starts a node, which then runs or is at fault.
    pub fn start(&mut self, node: usize) -> Result<(), String> {
        let config = self.config(node);
        let (arriving, wakers) = in_world(|world| {
            world.node = node;
            world.disks[node].open(config.data_dir.join("wal"));
            world.net.listen(node)
        });
        wakers.into_iter().for_each(|waker| waker.wake());
        let began_ms = in_world(|world| world.now_ms);
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without I/O can be made");
        let shown = Arc::new(Shown::default());
        let machine = Kv::new(node, shown.clone());
        let (base, opened) = runtime.block_on(async {
            let base = Instant::now();
            (base, Replica::open(config, machine).await)
        });
        let replica = match opened {
            Ok(replica) => replica,
            Err(error) => return Err(format!("n{node} does not start: {error}")),
        };
        let handle = replica.handle();
        let server = Server::builder().add_service(replica.peer_service());
        runtime.spawn(async move {
            // It ends with the node.
            let _ = server.serve_with_incoming(net::incoming(arriving)).await;
            drop(replica);
        });
        self.lives += 1;
        let fatal = handle.fatal();
        let number = self.lives;
        let life = Life { number, handle, shown, fatal, base, began_ms, behind_ms: 0, runtime };
        let it = &mut self.nodes[node];
        (it.life, it.paused_until_ms, it.may_fail) = (Some(life), None, false);
        it.suspended = false;
        self.note(format_args!("n{node} starts"));
        Ok(())
    }

    pub fn note(&self, event: std::fmt::Arguments<'_>) {
        in_world(|world| world.trace.note(world.now_ms, event));
    }

    /// Ends all of a node where it is, as a kill would.
    pub fn kill(&mut self, node: usize) {
        self.note(format_args!("n{node} is killed"));
        self.end(node);
    }

    fn end(&mut self, node: usize) {
        in_world(|world| {
            world.node = node;
            world.close_all(node);
        });
        self.nodes[node].paused_until_ms = None;
        if let Some(life) = self.nodes[node].life.take() {
            let Life { runtime, handle, fatal, .. } = life;
            drop((handle, fatal));
            drop(runtime);
        }
    }

    /// Takes its power: nobody is told, and not all is left that was not synced.
    pub fn cut_power(&mut self, node: usize) {
        in_world(|world| world.net.switch_off(node, world.now_ms));
        self.end(node);
        let lost = in_world(|world| world.disks[node].lose_power(&mut world.random));
        let lost = lost.expect("files can be shortened");
        self.note(format_args!("n{node} loses its power, and {lost}"));
    }

    /// A millisecond passes for everybody. Says what does not hold.
    pub fn step(&mut self) -> Result<(), String> {
        let (now_ms, wakers) = in_world(|world| {
            world.now_ms += 1;
            clock::show(world.now_ms);
            (world.now_ms, world.arrivals())
        });
        wakers.into_iter().for_each(|waker| waker.wake());
        let mut order = self.running();
        in_world(|world| order.shuffle(&mut world.random));
        for node in order {
            let it = &mut self.nodes[node];
            let Some(life) = &mut it.life else { continue };
            if it.paused_until_ms.is_some_and(|until| until > now_ms) {
                life.behind_ms += u64::from(it.suspended);
                continue;
            }
            in_world(|world| world.node = node);
            let now = life.base + Duration::from_millis(now_ms - life.began_ms - life.behind_ms);
            it.suspended = false;
            if it.paused_until_ms.take().is_some() {
                // All of its timers are late at once.
                life.runtime.block_on(async {
                    let late = now.saturating_duration_since(Instant::now());
                    tokio::time::advance(late).await;
                });
            } else {
                life.runtime.block_on(async { tokio::time::sleep_until(now).await });
            }
            let reason = life.fatal.borrow().clone();
            if let Some(reason) = reason {
                if !it.may_fail && !it.leaving {
                    return Err(format!("n{node} can't go on: {reason}"));
                }
                // Its name is another in each run.
                let dir = self.dir.path().display().to_string();
                self.note(format_args!("n{node} ends: {}", reason.replace(&dir, "…")));
                self.end(node);
            }
        }
        match in_world(|world| world.ledger.wrong.clone()) {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// Looks at what each node has: one leader of a term, and no log that was
    /// purged beyond what a snapshot holds.
    pub fn look(&self) -> Result<(), String> {
        for node in self.awake() {
            let Some(life) = self.life(node) else { continue };
            let inner = life.handle.node();
            let leads = {
                let server = inner.raft.server_metrics();
                let server = server.borrow_watched();
                (server.state == ServerState::Leader).then_some(server.vote.leader_id.term)
            };
            if let Some(term) = leads {
                in_world(|world| world.leads(term, self.raft_id(node)));
            }
            let purged = {
                let stores = inner.stores.lock().unwrap();
                stores.as_ref().and_then(|stores| stores.log.bounds().0)
            };
            let kept = inner.snapshots.current().and_then(|snapshot| snapshot.position.applied);
            if purged > kept {
                return Err(format!("n{node} has purged up to {purged:?}, and kept {kept:?}"));
            }
        }
        match in_world(|world| world.ledger.wrong.clone()) {
            Some(wrong) => Err(wrong),
            None => Ok(()),
        }
    }

    /// The last index that somebody shows.
    pub fn applied(&self) -> Option<u64> {
        let lives = self.running().into_iter().filter_map(|node| self.life(node));
        lives.map(|life| life.shown.at().0).max()
    }

    /// The last index in the log of a node that runs.
    pub fn last_in_log(&self, node: usize) -> Option<u64> {
        let stores = self.life(node)?.handle.node().stores.lock().unwrap();
        Some(stores.as_ref()?.log.bounds().1?.index)
    }

    /// How often a node was started.
    pub fn starts(&self) -> u64 {
        self.lives
    }

    /// Whether all nodes show the same, and something.
    pub fn agrees(&self) -> bool {
        let shown = self.running().into_iter().filter_map(|node| Some(self.life(node)?.shown.at()));
        let shown: Vec<_> = shown.collect();
        self.down().is_empty() && shown.iter().all(|at| at.0 > 0 && *at == shown[0])
    }

    /// A random node of those that run, by the world's numbers.
    pub fn some(&self, of: &[usize]) -> Option<usize> {
        if of.is_empty() {
            return None;
        }
        world(|world| of[world.random.random_range(0..of.len())])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.running() {
            self.end(node);
        }
    }
}
