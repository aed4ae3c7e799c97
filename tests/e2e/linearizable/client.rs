//! One client: random operations, one after the other, and what came of them.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aether_proto::errors::{code_of, is_expired};
use aether_proto::v1::cluster_client::ClusterClient;
use aether_proto::v1::{KvDeleteRequest, KvGetRequest, KvPutRequest};
use aether_tests::linearizability::{Asked, Index, Operation, Outcome};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{KEYS, PREFIX, Scene};

/// Between two operations, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 2..20;
/// How long an answer is waited for: shorter and longer than the pause of a
/// leader, so that some get what it says when it wakes.
const PATIENCE_MS: [u64; 3] = [1_000, 3_000, 8_000];
/// How often a write of unknown outcome is asked for again, as the same.
const REPEATS_MAX: u32 = 2;

/// A client that is mostly at one node.
pub struct Client {
    number: u32,
    nodes: Vec<ClusterClient<Channel>>,
    random: StdRng,
    scene: Arc<Scene>,
    /// By key: the index that it knows of the record; 0 of none.
    known: HashMap<u32, Index>,
}

impl Client {
    /// The client with a number.
    pub fn new(number: u32, channels: Vec<Channel>, scene: Arc<Scene>) -> Self {
        let seed = scene.settings.seed;
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000).wrapping_add(number.into()));
        let nodes = channels.into_iter().map(ClusterClient::new).collect();
        Self { number, nodes, random, scene, known: HashMap::new() }
    }

    /// Goes on until the scene ends; gives everything that it did.
    pub async fn run(mut self) -> Vec<Operation> {
        let mut operations = Vec::new();
        while !self.scene.has_ended() {
            operations.push(self.next().await);
            self.scene.operations.fetch_add(1, Ordering::Relaxed);
            let pause = Duration::from_millis(self.random.random_range(PAUSE_MS));
            tokio::time::sleep(pause).await;
        }
        operations
    }

    async fn next(&mut self) -> Operation {
        let key = self.random.random_range(0..KEYS);
        let known = self.known.get(&key).copied();
        let value = || self.scene.value.fetch_add(1, Ordering::Relaxed) + 1;
        let asked = match self.random.random_range(0..100) {
            0..45 => Asked::Get,
            45..70 => Asked::Put(value(), None),
            70..90 => Asked::Put(value(), known),
            90..95 => Asked::Delete(None),
            _ => Asked::Delete(known.filter(|known| *known > 0)),
        };
        let called = self.scene.now();
        let outcome = match asked {
            Asked::Get => {
                let node = self.node();
                self.get(node, key).await
            }
            _ => self.write(key, asked).await,
        };
        let returned = self.scene.now();
        let learned = match (asked, outcome) {
            (Asked::Put(..), Outcome::Written(index)) => Some(index),
            (Asked::Delete(_), Outcome::Written(_)) => Some(0),
            (_, Outcome::Refused(index)) => Some(index),
            (_, Outcome::Seen { record, .. }) => Some(record.map_or(0, |(_, index)| index)),
            _ => None,
        };
        self.known.extend(learned.map(|index| (key, index)));
        Operation { client: self.number, key, called, returned, asked, outcome }
    }

    /// Which node is asked: mostly its own.
    fn node(&mut self) -> usize {
        match self.random.random_ratio(3, 4) {
            true => self.number as usize % self.nodes.len(),
            false => self.random.random_range(0..self.nodes.len()),
        }
    }

    fn patience(&mut self) -> Duration {
        Duration::from_millis(PATIENCE_MS[self.random.random_range(0..PATIENCE_MS.len())])
    }

    async fn get(&mut self, node: usize, key: u32) -> Outcome {
        let request = request(
            KvGetRequest { key: name(key), stale: self.scene.settings.own_copies },
            self.patience(),
        );
        match self.nodes[node].kv_get(request).await {
            Ok(entry) => {
                let entry = entry.into_inner();
                let as_of = entry.as_of.expect("every answer says as of when it is");
                if as_of.stale && !self.scene.settings.own_copies {
                    return Outcome::NotDone;
                }
                let record: Value = serde_json::from_str(&entry.value_json).expect("JSON");
                let record = Some((value_of(&record), modified_of(&record)));
                Outcome::Seen { record, as_of: Some(as_of.index) }
            }
            Err(status) if is_no_record(&status) => Outcome::Seen { record: None, as_of: None },
            Err(status) => {
                expected(&status);
                Outcome::NotDone
            }
        }
    }

    /// A write, and the same again at another node while its outcome is unknown.
    async fn write(&mut self, key: u32, asked: Asked) -> Outcome {
        let id = format!("{}-{}", self.number, self.random.random::<u64>());
        let repeats = self.random.random_range(0..=REPEATS_MAX);
        let mut outcome = Outcome::NotDone;
        for _ in 0..=repeats {
            let (node, patience) = (self.node(), self.patience());
            let tried = self.try_write(node, key, asked, &id, patience).await;
            match (outcome, tried) {
                // That it is not done this time says nothing of the last time.
                (Outcome::Unknown, Outcome::NotDone) => {}
                _ => outcome = tried,
            }
            if outcome != Outcome::Unknown {
                break;
            }
        }
        outcome
    }

    async fn try_write(
        &mut self,
        node: usize,
        key: u32,
        asked: Asked,
        id: &str,
        patience: Duration,
    ) -> Outcome {
        let (key, request_id) = (name(key), id.to_owned());
        let node = &mut self.nodes[node];
        let answer = match asked {
            Asked::Put(value, if_index) => {
                let value = value.to_string();
                let message =
                    KvPutRequest { key, value, if_index, request_id, ..Default::default() };
                node.kv_put(request(message, patience)).await.map(|a| a.into_inner().index)
            }
            Asked::Delete(if_index) => {
                let message = KvDeleteRequest { key, if_index, request_id, ..Default::default() };
                node.kv_delete(request(message, patience)).await.map(|a| a.into_inner().index)
            }
            Asked::Get => unreachable!("that is no write"),
        };
        answer.map_or_else(|status| failed(&status), Outcome::Written)
    }
}

/// The key with a number.
fn name(key: u32) -> String {
    format!("{PREFIX}{key}")
}

/// The number of a key.
pub fn number_of(key: &str) -> u32 {
    let number = key.strip_prefix(PREFIX).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("'{key}' is none of ours"))
}

/// The value in a record.
pub fn value_of(record: &Value) -> u64 {
    let value = record["value"].as_str().and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no value of ours in {record}"))
}

fn modified_of(record: &Value) -> Index {
    record["modified"].as_u64().unwrap_or_else(|| panic!("no index in {record}"))
}

fn request<M>(message: M, patience: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(patience);
    request
}

fn is_no_record(status: &Status) -> bool {
    status.code() == Code::NotFound && code_of(status).as_deref() == Some("unknown_key")
}

/// What a failed write may have done.
fn failed(status: &Status) -> Outcome {
    if is_no_record(status) {
        return Outcome::Refused(0);
    }
    if code_of(status).as_deref() == Some("key_modified") {
        let info = status.get_details_error_info().expect("a code is one of its details");
        let actual = info.metadata.get("actual").and_then(|actual| actual.parse().ok());
        return Outcome::Refused(actual.expect("it says what there is"));
    }
    expected(status);
    let is_not_done = match (was_sent(status), status.source().is_some(), status.code()) {
        (false, ..) => true,
        // Made here, of a connection that broke.
        (_, true, _) => false,
        (_, _, Code::Unavailable) => true,
        _ => is_expired(status),
    };
    if is_not_done { Outcome::NotDone } else { Outcome::Unknown }
}

/// Whether somebody was there to be asked.
fn was_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        let error_of_system = error.downcast_ref::<std::io::Error>();
        if error_of_system.is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused) {
            return false;
        }
        source = error.source();
    }
    true
}

/// Faults of voters and links may cause these errors and no others.
fn expected(status: &Status) {
    let is_expected = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::DeadlineExceeded | Code::Cancelled
    );
    // A connection that breaks may be reported in many ways.
    assert!(is_expected || status.source().is_some(), "{status:?}");
}
