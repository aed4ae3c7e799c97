//! One watcher: everything it was told of, over all its connections.

use std::time::{Duration, Instant};

use aether_proto::errors::code_of;
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::{KvChange, KvWatchRequest};
use aether_tests::PATIENCE;
use aether_tests::linearizability::Index;
use aether_tests::linearizability::watch::{Change, Watched};
use tokio::sync::watch::Receiver;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::PREFIX;
use super::client::{number_of, value_of};

/// Before all nodes are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Watches at its own node, and goes on at another while that one is gone.
pub struct Watcher {
    own: usize,
    nodes: Vec<ClusterClient<Channel>>,
    stream: Option<Streaming<KvChange>>,
    watched: Watched,
}

impl Watcher {
    /// Begins to watch before there is anything.
    pub async fn open(own: usize, channels: Vec<Channel>) -> Self {
        let nodes = channels.into_iter().map(ClusterClient::new).collect();
        let mut watcher = Self { own, nodes, stream: None, watched: Watched::default() };
        let deadline = Instant::now() + PATIENCE;
        let index = loop {
            match watcher.anew(own).await {
                Ok(index) => break index,
                Err(status) => assert!(Instant::now() < deadline, "no watch begins: {status}"),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        (watcher.watched.after, watcher.watched.up_to) = (index, index);
        watcher
    }

    /// Goes on until it has everything up to an index, once that is said; gives
    /// its node, and what it was told.
    pub async fn run(mut self, target: Receiver<Option<Index>>) -> (usize, Watched) {
        loop {
            let mut end = target.clone();
            let up_to = self.watched.up_to;
            let reached = end.wait_for(|target| target.is_some_and(|target| target <= up_to));
            tokio::select! {
                _ = reached => return (self.own, self.watched),
                () = self.step() => {}
            }
        }
    }

    /// Takes in one message, or connects.
    async fn step(&mut self) {
        let Some(stream) = &mut self.stream else { return self.reconnect().await };
        match stream.message().await {
            Ok(Some(change)) => self.take(&change),
            Ok(None) | Err(_) => self.stream = None,
        }
    }

    fn take(&mut self, change: &KvChange) {
        let value = match change.kind.as_str() {
            "SYNCED" => {
                let before = self.watched.up_to;
                assert!(change.index >= before, "SYNCED went from {before} to {}", change.index);
                self.watched.up_to = change.index;
                return;
            }
            "PUT" => Some(change.value_json.as_deref().expect("a put has a value")),
            "DELETE" => None,
            other => panic!("{other} is no change"),
        };
        let value = value.map(|json| value_of(&serde_json::from_str(json).expect("JSON")));
        let change = Change { index: change.index, key: number_of(&change.key), value };
        self.watched.changes.push(change);
        self.watched.up_to = change.index;
    }

    /// Goes on where it was, at the first node that can, its own first.
    async fn reconnect(&mut self) {
        let mut forgotten = 0;
        for k in 0..self.nodes.len() {
            let node = (self.own + k) % self.nodes.len();
            match self.watch(node, Some(self.watched.up_to)).await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    return;
                }
                Err(status) if status.code() == Code::OutOfRange => {
                    // It was told of the index, so it cannot be to come.
                    assert_eq!(code_of(&status).as_deref(), Some("compacted"), "{status}");
                    forgotten += 1;
                }
                Err(_) => {}
            }
        }
        if forgotten == self.nodes.len()
            && let Ok(index) = self.anew(self.own).await
        {
            self.watched.gaps.push((self.watched.up_to, index));
            self.watched.up_to = index;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }

    async fn watch(&self, node: usize, from: Option<Index>) -> Result<Streaming<KvChange>, Status> {
        let request = KvWatchRequest { prefix: PREFIX.to_owned(), from_index: from };
        let opened = self.nodes[node].clone().kv_watch(request).await?;
        Ok(opened.into_inner())
    }

    /// Begins with what there is; gives the index of that.
    async fn anew(&mut self, node: usize) -> Result<Index, Status> {
        let mut stream = self.watch(node, None).await?;
        while let Some(change) = stream.message().await? {
            if change.kind == "SYNCED" {
                self.stream = Some(stream);
                return Ok(change.index);
            }
        }
        Err(Status::unavailable("it ended before it was in step"))
    }
}
