//! Three voters, writers at full speed, and the check of what they were told.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use aether_cluster::{Addresses, Lease, free_address};
use aether_proto::errors::is_expired;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::{KvListRequest, KvPutRequest};
use aether_tests::acknowledged::{Ledger, Outcome, Record};
use aether_tests::evidence::{equal_hashes_of, eventually};
use aether_tests::{Cluster, PATIENCE, Topology, binary};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

pub const VOTERS: usize = 3;
/// Enough that several writes share a sync.
const WRITERS: u32 = 16;
/// So that the last writes of each writer are looked at one by one.
const KEYS_PER_WRITER: u32 = 8;
const PREFIX: &str = "config/durability/";
/// Digits of a value: so that a write is not tiny.
const VALUE_BYTES: usize = 200;
/// How long a writer waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How long a writer is quiet after a failure.
const CALM: Duration = Duration::from_millis(10);
/// How many findings are shown.
const SHOWN: usize = 10;

/// A cluster and all that was written to it.
pub struct Scene {
    pub cluster: Cluster,
    ledger: Arc<Mutex<Ledger>>,
    began: Instant,
    pub temp: TempDir,
    _leases: Vec<Lease>,
}

impl Scene {
    /// With nothing started.
    pub fn prepare() -> Self {
        let temp = TempDir::with_prefix("aether-").unwrap();
        let mut leases = Vec::new();
        let mut next = || {
            let (address, lease) = free_address().unwrap();
            leases.push(lease);
            address
        };
        let addresses: Vec<_> = (0..VOTERS)
            .map(|_| Addresses { grpc: next(), http: next(), peer: next(), ingress: next() })
            .collect();
        let topology = Topology::split(VOTERS, 0);
        let cluster = Cluster::prepare(&binary(), &topology, temp.path(), &addresses).unwrap();
        let ledger = Arc::new(Mutex::new(Ledger::new(PREFIX)));
        Self { cluster, ledger, began: Instant::now(), temp, _leases: leases }
    }

    /// With all voters started, and a leader.
    pub async fn start() -> Self {
        let mut scene = Self::prepare();
        scene.cluster.start_all().unwrap();
        scene.cluster.leader(PATIENCE).await.unwrap();
        scene
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    /// Begins to write.
    pub fn write(&self) -> Writers {
        let (ended, unheard) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for number in 0..WRITERS {
            let nodes = (0..VOTERS).map(|node| ClusterClient::new(self.cluster.channel(node)));
            let nodes = nodes.collect();
            let (ledger, ended, unheard) = (self.ledger.clone(), ended.clone(), unheard.clone());
            tasks.spawn(Writer { number, nodes, ledger, ended, unheard }.run());
        }
        Writers { ledger: self.ledger.clone(), ended, unheard, tasks }
    }

    /// What the cluster has, and what of it contradicts what it said. The writers
    /// have ended.
    pub async fn findings(&self) -> Vec<String> {
        self.cluster.leader(PATIENCE).await.unwrap();
        let mut records = BTreeMap::new();
        eventually("all records to be read", async || match self.records().await {
            Ok(read) => {
                records = read;
                true
            }
            Err(_) => false,
        })
        .await;
        self.ledger().findings(&records)
    }

    /// Nothing that was acknowledged is lost, and the voters, all of which run,
    /// are equal. What was there is kept for a look at it otherwise.
    pub async fn check(&mut self, what: &str) {
        let found = self.findings().await;
        if !found.is_empty() {
            self.temp.disable_cleanup(true);
            let shown = &found[..found.len().min(SHOWN)];
            panic!(
                "{what}: {} findings, such as {shown:#?}; {}; see {}",
                found.len(),
                self.ledger(),
                self.temp.path().display()
            );
        }
        // Kept until the voters are seen to be equal.
        self.temp.disable_cleanup(true);
        equal_hashes_of(&self.cluster).await;
        self.temp.disable_cleanup(false);
    }

    /// Prints the sum, and ends the voters.
    pub async fn end(mut self, what: &str) {
        println!("{what}: {}; lost 0; {:.1?}", self.ledger(), self.began.elapsed());
        assert!(self.cluster.stop_all(PATIENCE).await, "all end with success");
    }

    async fn records(&self) -> Result<BTreeMap<String, Record>, Status> {
        let mut client = ClusterClient::new(self.cluster.channel(self.serving().await));
        let (mut records, mut page_token) = (BTreeMap::new(), String::new());
        loop {
            let message = KvListRequest {
                prefix: PREFIX.to_owned(),
                page_size: 1_000,
                page_token,
                stale: false,
            };
            let mut request = Request::new(message);
            request.set_timeout(ANSWER_MAX);
            let page = client.kv_list(request).await?.into_inner();
            if page.as_of.is_none_or(|as_of| as_of.stale) {
                return Err(Status::unavailable("not of the leader's"));
            }
            records.extend(page.entries.into_iter().map(|e| (e.key, record(&e.value_json))));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(records);
            }
        }
    }

    async fn serving(&self) -> usize {
        self.cluster.leader(PATIENCE).await.unwrap()
    }
}

fn record(json: &str) -> Record {
    let record: Value = serde_json::from_str(json).unwrap();
    let value = record["value"].as_str().and_then(|value| value.parse().ok());
    let (Some(value), Some(modified)) = (value, record["modified"].as_u64()) else {
        panic!("no record of ours: {record}");
    };
    Record { value, modified }
}

/// Tasks that write until they are stopped.
pub struct Writers {
    ledger: Arc<Mutex<Ledger>>,
    ended: Arc<AtomicBool>,
    unheard: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Writers {
    /// Waits until so many more writes are acknowledged.
    pub async fn more(&self, count: u64) {
        let acknowledged = || self.ledger.lock().unwrap().acknowledged();
        let wanted = acknowledged() + count;
        eventually("writes to be acknowledged", async || acknowledged() >= wanted).await;
    }

    /// From now on nothing counts as acknowledged.
    pub fn hear_no_more(&self) {
        let _whole = self.ledger.lock().unwrap();
        self.unheard.store(true, Ordering::Relaxed);
    }

    /// Waits until what is under way has ended.
    pub async fn stop(mut self) {
        self.ended.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

/// One of them: a write after the other, of its own keys.
struct Writer {
    number: u32,
    nodes: Vec<ClusterClient<Channel>>,
    ledger: Arc<Mutex<Ledger>>,
    ended: Arc<AtomicBool>,
    unheard: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self) {
        let mut node = self.number as usize % self.nodes.len();
        let mut key = 0;
        while !self.ended.load(Ordering::Relaxed) {
            let slot = self.number * KEYS_PER_WRITER + key;
            key = (key + 1) % KEYS_PER_WRITER;
            let write = self.ledger.lock().unwrap().next(slot);
            let message = KvPutRequest {
                key: write.key.clone(),
                value: format!("{:0>VALUE_BYTES$}", write.value),
                ..Default::default()
            };
            let mut request = Request::new(message);
            request.set_timeout(ANSWER_MAX);
            let asked = Instant::now();
            let answer = self.nodes[node].kv_put(request).await;
            let mut outcome = outcome(answer.map(|answer| answer.into_inner().index));
            {
                let mut ledger = self.ledger.lock().unwrap();
                if self.unheard.load(Ordering::Relaxed) && matches!(outcome, Outcome::Done(_)) {
                    outcome = Outcome::Open;
                }
                ledger.ended(write, outcome, asked.elapsed());
            }
            if !matches!(outcome, Outcome::Done(_)) {
                node = (node + 1) % self.nodes.len();
                tokio::time::sleep(CALM).await;
            }
        }
    }
}

/// What came of a write. Only a node can know that it is not done; an error made
/// here, of a connection that broke, has a source.
fn outcome(answer: Result<u64, Status>) -> Outcome {
    match answer {
        Ok(index) => Outcome::Done(index),
        Err(status) if status.source().is_some() => Outcome::Open,
        Err(status) if status.code() == Code::Unavailable || is_expired(&status) => {
            Outcome::NotDone
        }
        Err(status) => {
            let is_open = [Code::Unknown, Code::DeadlineExceeded, Code::Cancelled];
            assert!(is_open.contains(&status.code()), "no fault explains {status:?}");
            Outcome::Open
        }
    }
}
