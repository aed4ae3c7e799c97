//! A cluster of replicas whose members can be stopped and started again.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aether_replica::{
    Applied, Config, Handle, Joined, Joining, OpenError, ProposeError, Replica, Voter,
    peer_incoming,
};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tonic::transport::Server;

use crate::toy::{Toy, View, set};

/// Generous: the machine may be building three crates beside this.
pub const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// One running member.
pub struct Member {
    pub handle: Handle,
    pub view: Arc<Mutex<View>>,
    /// Everything of this member runs here: ending it is as good as a kill.
    runtime: Runtime,
}

pub struct Cluster {
    pub dir: tempfile::TempDir,
    pub names: Vec<&'static str>,
    pub addresses: Vec<SocketAddr>,
    pub members: Vec<Option<Member>>,
    /// Those listed as founding voters: the first so many.
    pub founders: usize,
    /// What members that came later were admitted as.
    pub joined: BTreeMap<usize, Joined>,
    /// Members of an older release: the key of rows that each does not support.
    pub older: BTreeMap<usize, &'static str>,
    /// Applied to every member's settings.
    pub tune: fn(&mut Config),
}

pub fn patient(config: &mut Config) {
    config.heartbeat_ms = 60;
    config.election_ms_min = 400;
    config.election_ms_max = 600;
}

impl Cluster {
    /// Settings and addresses; nothing is running.
    pub async fn prepare(
        names: &[&'static str],
        tune: fn(&mut Config),
    ) -> (Self, Vec<TcpListener>) {
        let mut listeners = Vec::new();
        for _ in names {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let cluster = Cluster {
            dir: tempfile::tempdir().unwrap(),
            names: names.to_vec(),
            addresses,
            members: names.iter().map(|_| None).collect(),
            founders: names.len(),
            joined: BTreeMap::new(),
            older: BTreeMap::new(),
            tune,
        };
        (cluster, listeners)
    }

    /// Starts all members and waits for a leader.
    pub async fn start(names: &[&'static str], tune: fn(&mut Config)) -> Self {
        let (mut cluster, listeners) = Cluster::prepare(names, tune).await;
        for (i, listener) in listeners.into_iter().enumerate() {
            cluster.start_member_on(i, listener).await.unwrap();
        }
        cluster.leader().await;
        cluster
    }

    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(self.names[i])
    }

    pub fn config(&self, i: usize) -> Config {
        let voters = self.names.iter().zip(&self.addresses).take(self.founders);
        let mut config = Config {
            node_name: self.names[i].to_owned(),
            cluster_name: "test".to_owned(),
            data_dir: self.data_dir(i),
            voters: voters
                .map(|(n, a)| Voter { name: n.to_string(), peer_addr: a.to_string() })
                .collect(),
            joined: self.joined.get(&i).cloned(),
            ..Config::default()
        };
        (self.tune)(&mut config);
        config
    }

    pub async fn start_member_on(&mut self, i: usize, on: TcpListener) -> Result<(), OpenError> {
        let on = on.into_std().unwrap();
        let view = Arc::new(Mutex::new(View::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (config, machine) = (self.config(i), Toy::with_view(view.clone()));
        let machine = match self.older.get(&i) {
            Some(key) => machine.without(key),
            None => machine,
        };
        let opened = runtime.spawn(async move {
            let replica = Replica::open(config, machine).await?;
            let handle = replica.handle();
            let incoming = peer_incoming(TcpListener::from_std(on).unwrap());
            let server = Server::builder().add_service(replica.peer_service());
            tokio::spawn(async move {
                server.serve_with_incoming(incoming).await.unwrap();
                drop(replica);
            });
            Ok(handle)
        });
        match opened.await.unwrap() {
            Ok(handle) => {
                self.members[i] = Some(Member { handle, view, runtime });
                Ok(())
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// Starts a node that joins under this Raft id; it is no member yet.
    pub async fn come(&mut self, name: &'static str, raft_id: u64) -> usize {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let i = self.names.len();
        self.names.push(name);
        self.addresses.push(listener.local_addr().unwrap());
        self.members.push(None);
        let Joining::Asks { dir_id } = Joining::prepare(&self.config(i)).unwrap() else {
            panic!("{name} is somebody already");
        };
        self.joined.insert(i, Joined { raft_id, dir_id });
        self.start_member_on(i, listener).await.unwrap();
        i
    }

    /// The address of a member that does not run.
    pub async fn bind(&self, i: usize) -> TcpListener {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // The listener of its last life is still being closed.
            match TcpListener::bind(self.addresses[i]).await {
                Ok(listener) => return listener,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", self.addresses[i]),
            }
            tokio::time::sleep(POLL).await;
        }
    }

    pub async fn start_member(&mut self, i: usize) -> Result<(), OpenError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listener = self.bind(i).await;
            match self.start_member_on(i, listener).await {
                // So are its files.
                Err(OpenError::Locked { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                result => return result,
            }
        }
    }

    /// Stops a member as a supervisor would.
    pub async fn stop_member(&mut self, i: usize) {
        let member = self.members[i].take().expect("it is running");
        member.handle.shutdown().await;
        member.runtime.shutdown_background();
    }

    /// Ends all of a member's tasks and connections where they are.
    pub fn kill_member(&mut self, i: usize) {
        let member = self.members[i].take().expect("it is running");
        member.runtime.shutdown_background();
    }

    pub fn member(&self, i: usize) -> &Member {
        self.members[i].as_ref().expect("it is running")
    }

    pub fn handle(&self, i: usize) -> Handle {
        self.member(i).handle.clone()
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.members.len()).filter(|i| self.members[*i].is_some()).collect()
    }

    /// The member that leads and may act, once there is one.
    pub async fn leader(&self) -> usize {
        eventually("a leader", || async {
            self.running().into_iter().find(|i| self.handle(*i).leadership().borrow().ready)
        })
        .await
    }

    pub async fn follower(&self) -> usize {
        let leader = self.leader().await;
        self.running().into_iter().find(|i| *i != leader).expect("there are several")
    }

    /// Writes a row through a member, whatever it takes.
    pub async fn write(&self, i: usize, key: &str, value: &str) -> Applied {
        propose(&self.handle(i), key, value).await.unwrap_or_else(|e| panic!("{key}: {e}"))
    }

    /// What a member shows for a key, without asking anybody.
    pub fn local(&self, i: usize, key: &str) -> Option<String> {
        let view = self.member(i).view.lock().unwrap();
        view.rows.get(key).map(|v| String::from_utf8(v.clone()).unwrap())
    }

    /// Waits until all running members hold what was written so far.
    pub async fn agree_on(&self, written: &AtomicU64) {
        let Some(last) = written.load(Ordering::Relaxed).checked_sub(1) else { return };
        let key = format!("k{last}");
        eventually("the last write everywhere", || async {
            self.running().into_iter().all(|i| self.local(i, &key).is_some()).then_some(())
        })
        .await
    }

    /// Waits until all running members have applied the same index and agree
    /// on every row.
    pub async fn agree(&self) {
        eventually("equal states", || async {
            let running = self.running();
            let state = |i: &usize| {
                let view = self.member(*i).view.lock().unwrap();
                (view.at.index, view.rows.clone())
            };
            let first = state(&running[0]);
            running[1..].iter().all(|i| state(i) == first).then_some(())
        })
        .await
    }
}

pub async fn propose(handle: &Handle, key: &str, value: &str) -> Result<Applied, ProposeError> {
    handle.propose(set(key, value), PATIENCE).await
}

/// Polls until there is an answer.
pub async fn eventually<T, F, Fut>(what: &str, mut poll: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = poll().await {
            return found;
        }
        assert!(Instant::now() < deadline, "no {what} within {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for i in self.running() {
            self.kill_member(i);
        }
    }
}
