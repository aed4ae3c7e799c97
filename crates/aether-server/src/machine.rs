//! Puts the pure core behind the replicated log: bytes in, bytes out.

use std::sync::Arc;
use std::time::Instant;

use aether_core::apply::Position;
use aether_core::command::{Outcome, Refusal, Request};
use aether_core::level::{self, FEATURE_LEVEL_MAX, RowsError, Unsupported};
use aether_core::state::{CONFIG_PREFIX, Meta, RowDiff, RowStream, State, rows_hash};
use aether_replica::{Changes, EntryChanges, Machine, RowChange, Stamp};
use bytes::Bytes;
use tokio::sync::watch;

use crate::restore;

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
    /// Highest feature level that this node goes on with.
    supports: u32,
    /// What it was given last is above that.
    unsupported: Option<Unsupported>,
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
            hash: rows_hash(&state.rows()),
            hashed_meta: state.meta.clone(),
            state,
            unpublished: Vec::new(),
            changes: Vec::new(),
            watched: Arc::default(),
            published,
            coordinated,
            is_coordinated: false,
            supports: FEATURE_LEVEL_MAX,
            unsupported: None,
        };
        (machine, states)
    }

    /// Held back: it goes on with feature levels up to this one only.
    pub fn supporting(self, supports: u32) -> Self {
        Self { supports: supports.min(FEATURE_LEVEL_MAX), ..self }
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
        for change in self.state.take_changes() {
            self.hash = change.rehashed(self.hash);
            let RowDiff { key, after, .. } = change;
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
        let change = self.state.meta.change_from(&self.hashed_meta);
        self.hash = change.rehashed(self.hash);
        self.changes.push(meta_row(&self.state.meta));
        self.hashed_meta = self.state.meta.clone();
    }
}

fn meta_row(meta: &Meta) -> RowChange {
    RowChange { key: Meta::KEY.into(), value: Some(meta.encoded().into()) }
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
    type Image = RowStream;

    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes {
        let before = self.state.meta.clone();
        let outcome = match serde_json::from_slice::<Request>(payload) {
            Ok(request) => {
                let checked = self.state.check_raise(position(at), &request, self.supports);
                if let Err(unsupported) = checked {
                    self.unsupported = Some(unsupported);
                    return Bytes::new();
                }
                self.state.apply(position(at), &request)
            }
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

    fn image(&self) -> Self::Image {
        RowStream::new(self.state.clone())
    }

    fn restore(
        &mut self,
        at: Stamp,
        rows: &mut dyn Iterator<Item = (String, Vec<u8>)>,
    ) -> Result<(), String> {
        let restored = level::up_to(self.supports, rows, restore::from_rows);
        self.unsupported = match &restored {
            Err(RowsError::Unsupported(why)) => Some(*why),
            _ => None,
        };
        let (restored, hash) = restored.map_err(|e| e.to_string())?;
        (self.hash, self.hashed_meta) = (hash, restored.meta.clone());
        self.state = restored;
        if at.index > self.state.meta.index {
            self.state.skip(position(at));
            self.hash_meta();
        }
        self.changes.clear();
        self.unpublished.clear();
        self.watched.begin_after(self.state.meta.index);
        self.is_coordinated = true;
        Ok(())
    }

    fn unsupported(&self) -> Option<String> {
        self.unsupported.map(|why| why.to_string())
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
        assert_eq!(machine.hash(), rows_hash(&machine.state.rows()));
        assert_eq!(states.newest.borrow().state.meta.index, 21);
        let rows: Vec<_> = machine.image().collect();
        assert_eq!(rows, machine.state.rows());
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

    fn entry(request_id: &str, command: Command) -> Bytes {
        let request_id = Some(request_id.to_owned());
        encode_request(&Request { request_id, actor: "t".into(), command })
    }

    fn put() -> Bytes {
        let (name, value) = ("a".parse().unwrap(), "1".into());
        entry("put", Command::PutConfig { name, value, if_modified: None })
    }

    #[test]
    fn what_is_above_the_level_leaves_what_an_entry_leaves_that_cannot_be_read() {
        let [mut old, mut new] = [(); 2].map(|()| StateMachine::new().0);
        let unknown = String::from_utf8(put().to_vec()).unwrap().replace("PutConfig", "Unheard");
        let refused = decode_outcome(&new.apply(stamp(1), &put()));
        assert!(matches!(refused, Err(Refusal::LevelTooLow { needs: 2, .. })), "{refused:?}");
        let unread = decode_outcome(&old.apply(stamp(1), unknown.as_bytes()));
        assert!(matches!(unread, Err(Refusal::Unreadable { .. })), "{unread:?}");
        old.publish();
        new.publish();
        assert_eq!(old.hash(), new.hash());
        assert!(old.image().eq(new.image()));
        assert_eq!(old.drain_changes(), new.drain_changes());
    }

    #[test]
    fn a_held_back_machine_stops_at_the_raise_and_refuses_what_comes_after_it() {
        let (mut held, _receiver) = StateMachine::new();
        held = held.supporting(1);
        let (mut machine, _receiver) = StateMachine::new();
        let tick = entry("tick", Command::Tick {});
        let raise = entry("raise", Command::RaiseFeatureLevel { to: 2 });
        for machine in [&mut held, &mut machine] {
            machine.apply(stamp(1), &tick);
            machine.publish();
        }
        let before = held.hash();
        assert_eq!(before, machine.hash());
        assert!(machine.apply(stamp(2), &raise).starts_with(b"{\"Ok"));
        assert!(held.apply(stamp(2), &raise).is_empty());
        let why = Machine::unsupported(&held).unwrap();
        assert!(why.contains("feature level 2 is committed"), "{why}");
        held.publish();
        assert_eq!((held.hash(), held.state.meta.index), (before, 1), "nothing of it is applied");

        let (mut late, _receiver) = StateMachine::new();
        late = late.supporting(1);
        late.restore(stamp(2), &mut machine.image()).unwrap_err();
        assert_eq!(Machine::unsupported(&late), Some(why));
        late.restore(stamp(1), &mut held.image()).unwrap();
        assert_eq!(Machine::unsupported(&late), None);
    }
}
