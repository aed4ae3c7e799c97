//! Puts the pure core behind the replicated log: bytes in, bytes out.

use std::sync::Arc;
use std::time::Instant;

use aether_core::apply::Position;
use aether_core::command::{Outcome, Refusal, Request};
use aether_core::state::{self, CONFIG_PREFIX, Meta, RowDiff, State};
use aether_replica::{Machine, RowChange, Stamp};
use bytes::Bytes;
use tokio::sync::watch;

use crate::changes::{Changes, EntryChanges};

/// A state as watchers see it: whole batches of entries, never half of one.
#[derive(Debug, Clone)]
pub struct Published {
    /// The state.
    pub state: State,
    /// Hash over all its rows.
    pub hash: u128,
    /// When it was published here.
    pub at: Instant,
}

impl Default for Published {
    fn default() -> Self {
        Self::now(State::default(), 0)
    }
}

impl Published {
    fn now(state: State, hash: u128) -> Self {
        Self { state, hash, at: Instant::now() }
    }

    /// Log time by now as far as this node can tell by itself: that of the last
    /// entry, and what has passed since it came. Never ahead of the leader's by
    /// more than clocks drift apart.
    pub fn now_ms(&self) -> u64 {
        self.state.meta.log_time_ms + self.at.elapsed().as_millis() as u64
    }
}

/// The states that a machine publishes.
#[derive(Debug, Clone)]
pub struct States {
    /// Each of them.
    pub newest: watch::Receiver<Arc<Published>>,
    /// Those in which more changed than values under `config/`, which nothing in
    /// the coordinator depends on and which may come thousands of times a second.
    pub coordinated: watch::Receiver<Arc<Published>>,
}

/// The state machine of the log.
pub struct StateMachine {
    state: State,
    /// Hash over the rows of `state`, with `hashed_meta` in the place of its
    /// meta row, which every entry changes.
    hash: u128,
    hashed_meta: Meta,
    /// What the entries of the present batch changed.
    unpublished: Vec<EntryChanges>,
    /// Rows for the image, as they became.
    changes: Vec<RowChange>,
    watched: Arc<Changes>,
    published: watch::Sender<Arc<Published>>,
    coordinated: watch::Sender<Arc<Published>>,
    /// Whether the present batch changed more than values under `config/`.
    is_coordinated: bool,
}

impl StateMachine {
    /// An empty state, and where its successors appear.
    pub fn new() -> (Self, States) {
        let first = Arc::new(Published::default());
        let (published, newest) = watch::channel(Arc::clone(&first));
        let (coordinated, receiver) = watch::channel(first);
        let states = States { newest, coordinated: receiver };
        let state = State::default();
        let machine = Self {
            hash: hash_of(&state),
            hashed_meta: state.meta.clone(),
            state,
            unpublished: Vec::new(),
            changes: Vec::new(),
            watched: Arc::default(),
            published,
            coordinated,
            is_coordinated: false,
        };
        (machine, states)
    }

    /// What the entries change, row by row. They are there by the time that the
    /// state which has them is published.
    pub fn watched(&self) -> Arc<Changes> {
        Arc::clone(&self.watched)
    }

    /// Keeps what was published from ending with the replica.
    #[cfg(test)]
    pub fn publisher(&self) -> [watch::Sender<Arc<Published>>; 2] {
        [self.published.clone(), self.coordinated.clone()]
    }

    /// Notes what the last entry changed.
    fn note_changes(&mut self, before: &Meta) {
        let mut rows = Vec::new();
        for RowDiff { key, before, after } in self.state.take_changes() {
            if let Some(value) = before {
                self.hash = self.hash.wrapping_sub(state::row_hash(&key, &value));
            }
            if let Some(value) = &after {
                self.hash = self.hash.wrapping_add(state::row_hash(&key, value));
            }
            self.is_coordinated |= !key.starts_with(CONFIG_PREFIX);
            let change = RowChange { key: key.into(), value: after.map(Bytes::from) };
            self.changes.push(change.clone());
            rows.push(change);
        }
        // Where the log is by now is news to nobody.
        if !self.state.meta.differs_in_position_only(before) {
            self.is_coordinated = true;
            rows.push(meta_row(&self.state.meta));
        }
        if !rows.is_empty() {
            rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            self.unpublished.push(EntryChanges { index: self.state.meta.index, rows });
        }
    }

    /// Brings the hash, and the image's meta row, up to the last entry.
    fn hash_meta(&mut self) {
        if self.hashed_meta == self.state.meta {
            return;
        }
        let (before, after) = (self.hashed_meta.encoded(), self.state.meta.encoded());
        self.hash = self.hash.wrapping_sub(state::row_hash(Meta::KEY, &before));
        self.hash = self.hash.wrapping_add(state::row_hash(Meta::KEY, &after));
        self.changes.push(meta_row(&self.state.meta));
        self.hashed_meta = self.state.meta.clone();
    }
}

fn meta_row(meta: &Meta) -> RowChange {
    RowChange { key: Meta::KEY.into(), value: Some(meta.encoded().into()) }
}

fn hash_of(state: &State) -> u128 {
    let rows = state.rows();
    let hashes = rows.iter().map(|(key, value)| state::row_hash(key, value));
    hashes.fold(0, u128::wrapping_add)
}

fn position(at: Stamp) -> Position {
    Position { term: at.term, index: at.index, log_time_ms: at.log_time_ms, wall_ms: at.wall_ms }
}

/// The bytes of a request in the log.
pub fn encode_request(request: &Request) -> Bytes {
    serde_json::to_vec(request).expect("requests have text keys only").into()
}

/// Reads the answer of an applied entry.
pub fn decode_outcome(response: &[u8]) -> Outcome {
    serde_json::from_slice(response)
        .unwrap_or_else(|e| Err(Refusal::Unreadable { problem: e.to_string() }))
}

impl Machine for StateMachine {
    type Image = LazyRows;

    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes {
        let before = self.state.meta.clone();
        let outcome = match serde_json::from_slice::<Request>(payload) {
            Ok(request) => self.state.apply(position(at), &request),
            Err(error) => {
                self.state.skip(position(at));
                Err(Refusal::Unreadable { problem: error.to_string() })
            }
        };
        self.note_changes(&before);
        serde_json::to_vec(&outcome).expect("answers have text keys only").into()
    }

    fn skip(&mut self, at: Stamp) {
        self.state.skip(position(at));
        self.is_coordinated = true;
    }

    fn drain_changes(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.changes)
    }

    fn hash(&self) -> u128 {
        self.hash
    }

    fn image(&self) -> LazyRows {
        LazyRows::Waiting(Box::new(self.state.clone()))
    }

    fn restore(
        &mut self,
        at: Stamp,
        rows: &mut dyn Iterator<Item = (String, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut restored = State::from_rows(rows).map_err(|e| e.to_string())?;
        if at.index > restored.meta.index {
            restored.skip(position(at));
        }
        self.hash = hash_of(&restored);
        self.hashed_meta = restored.meta.clone();
        self.state = restored;
        self.changes.clear();
        self.unpublished.clear();
        self.watched.begin_after(self.state.meta.index);
        self.is_coordinated = true;
        Ok(())
    }

    fn publish(&mut self) {
        self.hash_meta();
        self.watched.extend(self.unpublished.drain(..), self.state.meta.index);
        let published = Arc::new(Published::now(self.state.clone(), self.hash));
        self.published.send_replace(Arc::clone(&published));
        if std::mem::take(&mut self.is_coordinated) {
            self.coordinated.send_replace(published);
        }
    }
}

/// Rows of a state that are encoded only when the snapshot is written, away
/// from the apply path.
pub enum LazyRows {
    /// Nothing was read yet.
    Waiting(Box<State>),
    /// Being read.
    Reading(std::vec::IntoIter<(String, Vec<u8>)>),
}

impl Iterator for LazyRows {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        if let Self::Waiting(state) = self {
            *self = Self::Reading(state.rows().into_iter());
        }
        match self {
            Self::Reading(rows) => rows.next(),
            Self::Waiting(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use aether_core::command::Command;

    fn stamp(index: u64) -> Stamp {
        Stamp { term: 1, index, log_time_ms: index * 10, wall_ms: 5 }
    }

    #[test]
    fn the_hash_that_follows_changes_equals_the_hash_over_all_rows() {
        let (mut machine, states) = StateMachine::new();
        for index in 1..=20u64 {
            let command = Command::RegisterNode {
                node: format!("n{}", index % 7).parse().unwrap(),
                address: "127.0.0.1:1".parse().unwrap(),
                labels: Default::default(),
                instances_max: index as u32,
            };
            let request = Request { request_id: None, actor: "t".into(), command };
            let outcome = machine.apply(stamp(index), &encode_request(&request));
            assert!(decode_outcome(&outcome).is_ok());
        }
        assert!(decode_outcome(&machine.apply(stamp(21), b"no")).is_err());
        machine.publish();
        assert_eq!(machine.hash(), hash_of(&machine.state));
        assert_eq!(states.newest.borrow().state.meta.index, 21);
        let rows: Vec<_> = machine.image().collect();
        let changes = machine.drain_changes().into_iter();
        let followed: BTreeMap<_, _> = changes.map(|row| (row.key, row.value.unwrap())).collect();
        let followed: Vec<_> =
            followed.into_iter().map(|(k, v)| (k.to_string(), v.to_vec())).collect();
        assert_eq!(followed, rows);
        assert!(machine.drain_changes().is_empty());

        let (mut copy, _receiver) = StateMachine::new();
        copy.restore(stamp(21), &mut rows.into_iter()).unwrap();
        assert_eq!(copy.hash(), machine.hash());
    }
}
