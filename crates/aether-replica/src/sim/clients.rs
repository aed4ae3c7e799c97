//! Clients at the nodes: random operations, one after the other, and what came
//! of them. What is unknown is asked for again, as the same request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aether_core::command::{Answer, Command, Outcome as Answered, Refusal, Request};
use aether_core::ids::ConfigName;
use aether_core::state::CONFIG_PREFIX;
use aether_tests::linearizability::{Asked, Index, Operation, Outcome, Value};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::{Handle, ProposeError};

use super::cluster::Cluster;
use super::machine::Shown;
use super::{Bug, in_world, planted};

/// Between two operations.
const PAUSE_MS: std::ops::Range<u64> = 1..60;
/// How long an answer is waited for.
const PATIENCE_MS: [u64; 4] = [150, 600, 1_500, 4_000];
const REPEATS_MAX: u32 = 4;
const KEYS: u32 = 4;
/// Bytes that are added to a large value.
const PADDING: usize = 60 * 1024;

/// The name of a key's record.
fn name(key: u32) -> ConfigName {
    format!("k{key}").parse().expect("a letter and a number")
}

/// The key of a row, if it is a client's.
pub(super) fn key_of(row: &str) -> Option<u32> {
    row.strip_prefix(CONFIG_PREFIX)?.strip_prefix('k')?.parse().ok()
}

/// The value in a row.
pub(super) fn value_of(row: &[u8]) -> Value {
    let row: serde_json::Value = serde_json::from_slice(row).expect("rows are JSON");
    number(row["value"].as_str().expect("a text"))
}

fn number(text: &str) -> Value {
    text.trim_end().parse().expect("a number, and blanks")
}

/// Orders calls and answers of a run.
#[derive(Default)]
pub(super) struct Clock(u64);

impl Clock {
    /// Later than all before; in nanoseconds.
    fn tick(&mut self, now_ms: u64) -> u64 {
        self.0 = (self.0 + 1).max(now_ms * 1_000_000);
        self.0
    }
}

type Slot = Arc<Mutex<Option<Outcome>>>;

struct Attempt {
    node: usize,
    life: u64,
    slot: Slot,
}

struct Asking {
    key: u32,
    asked: Asked,
    called: u64,
    request: String,
    padded: bool,
    repeats: u32,
    /// An attempt before this one has an unknown outcome.
    unknown: bool,
    attempt: Attempt,
}

/// One client.
struct Client {
    number: u32,
    random: StdRng,
    asking: Option<Asking>,
    next_ms: u64,
    /// By key: the index that it knows of the record; 0 of none.
    known: BTreeMap<u32, Index>,
    requests: u32,
}

/// All of them.
pub(super) struct Clients {
    clients: Vec<Client>,
    clock: Clock,
    values: Value,
    /// Keys whose values are large.
    large_keys: u32,
    pub operations: Vec<Operation>,
}

impl Clients {
    pub fn new(seed: u64, count: u32, large_keys: u32) -> Self {
        let client = |number: u32| Client {
            number,
            random: StdRng::seed_from_u64(seed.wrapping_mul(1_000) + u64::from(number)),
            asking: None,
            next_ms: 0,
            known: BTreeMap::new(),
            requests: 0,
        };
        Clients {
            clients: (0..count).map(client).collect(),
            clock: Clock::default(),
            values: 0,
            large_keys,
            operations: Vec::new(),
        }
    }

    pub fn are_idle(&self) -> bool {
        self.clients.iter().all(|client| client.asking.is_none())
    }

    /// Takes answers, and lets those who may ask again or anew.
    pub fn step(&mut self, cluster: &Cluster, may_begin: bool) {
        let now_ms = in_world(|world| world.now_ms);
        for at in 0..self.clients.len() {
            let client = &mut self.clients[at];
            if let Some(asking) = client.asking.take() {
                match answer(&asking.attempt, asking.asked, cluster) {
                    None => client.asking = Some(asking),
                    Some(outcome) => self.answered(at, asking, outcome, cluster),
                }
            } else if may_begin && now_ms >= client.next_ms {
                self.begin(at, cluster);
            }
        }
    }

    fn begin(&mut self, at: usize, cluster: &Cluster) {
        let now_ms = in_world(|world| world.now_ms);
        let client = &mut self.clients[at];
        let padded = self.large_keys > 0 && client.random.random_ratio(1, 12);
        let key = match padded {
            true => KEYS + client.random.random_range(0..self.large_keys),
            false => client.random.random_range(0..KEYS),
        };
        let known = client.known.get(&key).copied();
        let if_known = known.filter(|_| client.random.random_ratio(1, 3));
        let asked = match client.random.random_range(0..100u32) {
            _ if padded => Asked::Put(self.values + 1, None),
            0..40 => Asked::Get,
            40..88 => Asked::Put(self.values + 1, if_known),
            _ => Asked::Delete(if_known),
        };
        if matches!(asked, Asked::Put(..)) {
            self.values += 1;
        }
        client.requests += 1;
        let request = format!("{}-{}", client.number, client.requests);
        let Some(attempt) = client.attempt(key, asked, &request, padded, cluster) else { return };
        client.asking = Some(Asking {
            key,
            asked,
            called: self.clock.tick(now_ms),
            request,
            padded,
            repeats: client.random.random_range(0..=REPEATS_MAX),
            unknown: false,
            attempt,
        });
    }

    fn answered(&mut self, at: usize, mut asking: Asking, outcome: Outcome, cluster: &Cluster) {
        let client = &mut self.clients[at];
        let is_write = asking.asked != Asked::Get;
        if is_write {
            in_world(|world| {
                world.ledger.told(&asking.request, |told| match outcome {
                    Outcome::Written(index) => told.acknowledged = Some(index),
                    // What is refused is in the log, without effect.
                    Outcome::Unknown | Outcome::Refused(_) => told.unknown = true,
                    _ => {}
                });
            });
        }
        if outcome == Outcome::Unknown && is_write {
            asking.unknown = true;
            if asking.repeats > 0 {
                asking.repeats -= 1;
                let Asking { key, asked, padded, .. } = asking;
                let again = client.attempt(key, asked, &asking.request, padded, cluster);
                if let Some(attempt) = again {
                    asking.attempt = attempt;
                    client.asking = Some(asking);
                    return;
                }
            }
        }
        // An earlier attempt may come after one that was refused or not done.
        let outcome = match outcome {
            Outcome::NotDone | Outcome::Refused(_) if asking.unknown => Outcome::Unknown,
            other => other,
        };
        let learned = match (asking.asked, outcome) {
            (Asked::Put(..), Outcome::Written(index)) => Some(index),
            (Asked::Delete(_), Outcome::Written(_)) => Some(0),
            (_, Outcome::Refused(index)) => Some(index),
            (_, Outcome::Seen { record, .. }) => Some(record.map_or(0, |(_, index)| index)),
            _ => None,
        };
        client.known.extend(learned.map(|index| (asking.key, index)));
        let now_ms = in_world(|world| world.now_ms);
        client.next_ms = now_ms + client.random.random_range(PAUSE_MS);
        let operation = Operation {
            client: client.number,
            key: asking.key,
            called: asking.called,
            returned: self.clock.tick(now_ms),
            asked: asking.asked,
            outcome,
        };
        in_world(|world| {
            let node = asking.attempt.node;
            world.trace.note(now_ms, format_args!("key {} at n{node}: {operation}", asking.key));
        });
        self.operations.push(operation);
    }
}

/// What came of an attempt, if something did.
fn answer(attempt: &Attempt, asked: Asked, cluster: &Cluster) -> Option<Outcome> {
    let outcome = attempt.slot.lock().unwrap().take();
    let is_there = cluster.life(attempt.node).is_some_and(|life| life.number == attempt.life);
    match (outcome, asked) {
        (None, _) if is_there => None,
        (Some(outcome), _) => Some(outcome),
        // The node went, and the answer with it.
        (None, Asked::Get) => Some(Outcome::NotDone),
        (None, _) => Some(Outcome::Unknown),
    }
}

impl Client {
    /// Asks some node.
    fn attempt(
        &mut self,
        key: u32,
        asked: Asked,
        request: &str,
        padded: bool,
        cluster: &Cluster,
    ) -> Option<Attempt> {
        let running = cluster.running();
        let node = *running.get(self.random.random_range(0..running.len().max(1)))?;
        let life = cluster.life(node)?;
        let patience = PATIENCE_MS[self.random.random_range(0..PATIENCE_MS.len())];
        let patience = Duration::from_millis(patience);
        let slot = Slot::default();
        let (filled, handle) = (slot.clone(), life.handle.clone());
        let command = match asked {
            Asked::Get => None,
            Asked::Put(value, if_modified) => {
                let padding = if padded { PADDING } else { 0 };
                let value = format!("{value}{:padding$}", "").into();
                Some(Command::PutConfig { name: name(key), value, if_modified })
            }
            Asked::Delete(if_modified) => {
                Some(Command::RemoveConfig { name: name(key), if_modified })
            }
        };
        let number = life.number;
        match command {
            None => {
                let shown = life.shown.clone();
                life.spawn(async move {
                    let outcome = read(&handle, &shown, key, patience).await;
                    *filled.lock().unwrap() = Some(outcome);
                });
            }
            Some(command) => {
                in_world(|world| world.ledger.told(request, |_| {}));
                let body = encode(request, command);
                life.spawn(async move {
                    let outcome = write(&handle, body, patience).await;
                    *filled.lock().unwrap() = Some(outcome);
                });
            }
        }
        Some(Attempt { node, life: number, slot })
    }
}

/// A request as it stands in the log.
pub(super) fn encode(id: &str, command: Command) -> Bytes {
    let request = Request { request_id: Some(id.to_owned()), actor: "sim".to_owned(), command };
    serde_json::to_vec(&request).expect("requests have text keys only").into()
}

async fn read(handle: &Handle, shown: &Shown, key: u32, patience: Duration) -> Outcome {
    if handle.read_barrier(patience).await.is_err() {
        return Outcome::NotDone;
    }
    let (record, as_of) = shown.read(&name(key));
    let record = record.map(|(value, modified)| (number(&value), modified));
    Outcome::Seen { record, as_of: Some(as_of) }
}

pub(super) async fn write(handle: &Handle, body: Bytes, patience: Duration) -> Outcome {
    match handle.propose(body, patience).await {
        Ok(applied) => match serde_json::from_slice::<Answered>(&applied.response) {
            Ok(Ok(Answer { index, .. })) => Outcome::Written(index),
            Ok(Err(Refusal::KeyModified { actual, .. })) => Outcome::Refused(actual),
            Ok(Err(Refusal::UnknownKey { .. })) => Outcome::Refused(0),
            other => {
                in_world(|world| world.ledger.blame(format!("a write is answered by {other:?}")));
                Outcome::Unknown
            }
        },
        Err(ProposeError::Unknown { .. }) if planted(Bug::UnknownIsNotDone) => Outcome::NotDone,
        Err(ProposeError::Unknown { .. }) => Outcome::Unknown,
        Err(_) => Outcome::NotDone,
    }
}
