//! The state of a simulated cluster: the core's own, with its request ids and the
//! values under `config/`, and the changes that watchers are told of, as the
//! server keeps them.

use std::sync::{Arc, Mutex};

use aether_core::apply::Position;
use aether_core::command::{Outcome, Request};
use aether_core::ids::ConfigName;
use aether_core::state::{CONFIG_PREFIX, Meta, RowDiff, RowStream, State, rows_hash};
use bytes::Bytes;

use crate::changes::{Changes, EntryChanges};
use crate::machine::{Machine, Row, RowChange, Stamp};

use super::{Bug, in_world, planted};

/// What readers on a node see.
#[derive(Default)]
pub(super) struct Shown {
    state: Mutex<(State, u128)>,
    pub changes: Changes,
}

impl Shown {
    /// The last index applied, and the hash over the state there.
    pub fn at(&self) -> (u64, u128) {
        let shown = self.state.lock().unwrap();
        (shown.0.meta.index, shown.1)
    }

    /// A value and the index of its write, and as of when that is.
    pub fn read(&self, name: &ConfigName) -> (Option<(Arc<str>, u64)>, u64) {
        let shown = self.state.lock().unwrap();
        let record = shown.0.config.get(name);
        (record.map(|record| (record.value.clone(), record.modified)), shown.0.meta.index)
    }

    /// The committed feature level.
    pub fn level(&self) -> u32 {
        self.state.lock().unwrap().0.meta.feature_level
    }
}

pub(super) struct Kv {
    node: usize,
    state: State,
    hash: u128,
    hashed_meta: Meta,
    unpublished: Vec<EntryChanges>,
    changes: Vec<RowChange>,
    shown: Arc<Shown>,
}

fn position(at: Stamp) -> Position {
    Position { term: at.term, index: at.index, log_time_ms: at.log_time_ms, wall_ms: at.wall_ms }
}

impl Kv {
    pub fn new(node: usize, shown: Arc<Shown>) -> Self {
        let state = State::default();
        Kv {
            node,
            hash: rows_hash(&state.rows()),
            hashed_meta: state.meta.clone(),
            state,
            unpublished: Vec::new(),
            changes: Vec::new(),
            shown,
        }
    }

    /// Whether the last entry changed a value.
    fn note_changes(&mut self) -> bool {
        let mut rows = Vec::new();
        for change in self.state.take_changes() {
            self.hash = change.rehashed(self.hash);
            let RowDiff { key, after, .. } = change;
            let change = RowChange { key: key.into(), value: after.map(Bytes::from) };
            self.changes.push(change.clone());
            rows.push(change);
        }
        let is_value = rows.iter().any(|row| row.key.starts_with(CONFIG_PREFIX));
        if !rows.is_empty() {
            rows.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            self.unpublished.push(EntryChanges { index: self.state.meta.index, rows });
        }
        is_value
    }

    fn hash_meta(&mut self) {
        self.hash = self.state.meta.change_from(&self.hashed_meta).rehashed(self.hash);
        self.hashed_meta = self.state.meta.clone();
    }
}

impl Machine for Kv {
    type Image = RowStream;

    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes {
        let request: Request = serde_json::from_slice(payload).expect("clients encode requests");
        let mut carried_out = request.clone();
        if planted(Bug::NoDeduplication) {
            carried_out.request_id = None;
        }
        let outcome: Outcome = self.state.apply(position(at), &carried_out);
        let changed = self.note_changes();
        in_world(|world| world.applied(self.node, at, Some((payload, &request, changed))));
        serde_json::to_vec(&outcome).expect("answers have text keys only").into()
    }

    fn skip(&mut self, at: Stamp) {
        self.state.skip(position(at));
        in_world(|world| world.applied(self.node, at, None));
    }

    fn drain_changes(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.changes)
    }

    fn hash(&self) -> u128 {
        self.hash
    }

    fn image(&self) -> RowStream {
        RowStream::new(self.state.clone())
    }

    fn restore(&mut self, at: Stamp, rows: &mut dyn Iterator<Item = Row>) -> Result<(), String> {
        self.state = State::from_rows(rows).map_err(|e| e.to_string())?;
        (self.hash, self.hashed_meta) = (rows_hash(&self.state.rows()), self.state.meta.clone());
        if at.index > self.state.meta.index {
            self.state.skip(position(at));
            self.hash_meta();
        }
        self.changes.clear();
        self.unpublished.clear();
        self.shown.changes.begin_after(self.state.meta.index);
        if at.index > 0 {
            in_world(|world| world.ledger.restores += 1);
        }
        Ok(())
    }

    fn publish(&mut self) {
        self.hash_meta();
        let index = self.state.meta.index;
        self.shown.changes.extend(self.unpublished.drain(..), index);
        *self.shown.state.lock().unwrap() = (self.state.clone(), self.hash);
        in_world(|world| world.published(self.node, index, self.hash));
    }
}
