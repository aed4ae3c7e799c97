//! Routing tables for this node's watchers: one task compares states and makes
//! each change once; every watcher gets the same message.

use std::sync::{Arc, Mutex};

use aether_core::coordinates::SliceName;
use aether_core::state::State;
use aether_proto::v1::{RoutingDown, SliceTable};
use imbl::ordmap::DiffItem;
use tokio::sync::broadcast;

use crate::control::Control;

/// Changes that a slow watcher may be behind before it gets a whole snapshot
/// instead. A failover or a large update makes a few hundred.
const BEHIND_MAX: usize = 1_024;

/// The source of routing tables on this node.
pub struct Feed {
    /// The state up to which changes were sent. Held while one is sent, so that
    /// a snapshot and the changes after it fit together.
    sent: Mutex<State>,
    changes: broadcast::Sender<Arc<RoutingDown>>,
}

/// What a watcher starts with: everything, and what comes after it.
pub struct Subscription {
    /// All tables there are.
    pub snapshot: RoutingDown,
    /// Every later change.
    pub changes: broadcast::Receiver<Arc<RoutingDown>>,
}

impl Feed {
    /// A feed that has sent nothing.
    pub fn new() -> Self {
        let (changes, _) = broadcast::channel(BEHIND_MAX);
        Self { sent: Mutex::new(State::default()), changes }
    }

    /// Runs until the process ends.
    pub async fn run(self: Arc<Self>, control: Control) {
        let mut states = control.watch();
        loop {
            let state = states.borrow_and_update().state.clone();
            self.advance(state);
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn advance(&self, state: State) {
        let mut sent = self.sent.lock().expect("nothing panics while it holds this lock");
        if state.meta.index <= sent.meta.index {
            return;
        }
        if let Some(change) = change(&sent, &state) {
            // Nobody listening is fine.
            let _ = self.changes.send(Arc::new(change));
        }
        *sent = state;
    }

    /// Everything as of `state` or later, and every change after it.
    pub fn subscribe(&self, state: State) -> Subscription {
        self.advance(state);
        let sent = self.sent.lock().expect("nothing panics while it holds this lock");
        Subscription { snapshot: snapshot(&sent), changes: self.changes.subscribe() }
    }
}

fn wire(state: &State, slice: &SliceName) -> Option<SliceTable> {
    state.slice_table(slice).as_ref().map(SliceTable::from)
}

fn snapshot(state: &State) -> RoutingDown {
    RoutingDown {
        incarnation: state.meta.incarnation,
        revision: state.meta.index,
        snapshot: true,
        tables: state.routes.keys().filter_map(|slice| wire(state, slice)).collect(),
        removed: Vec::new(),
        lease_ms: 0,
    }
}

/// The tables in which two states differ; `None` if nothing is to be said. One that came
/// and went between them is in neither, and watchers are told their revision only.
fn change(before: &State, after: &State) -> Option<RoutingDown> {
    let (mut tables, mut removed) = (Vec::new(), Vec::new());
    for item in before.routes.diff(&after.routes) {
        match item {
            DiffItem::Add(slice, _) => tables.extend(wire(after, slice)),
            DiffItem::Update { old: (_, old), new: (slice, new) } => {
                if old.table_revision != new.table_revision {
                    tables.extend(wire(after, slice));
                }
            }
            DiffItem::Remove(slice, _) => removed.push(slice.to_string()),
        }
    }
    let differs = !tables.is_empty() || !removed.is_empty();
    (differs || after.has_left_since(before)).then_some(RoutingDown {
        incarnation: after.meta.incarnation,
        revision: after.meta.index,
        snapshot: false,
        tables,
        removed,
        lease_ms: 0,
    })
}

#[cfg(test)]
mod tests {
    use aether_core::records::{Desired, InstanceRecord, Observed};

    use super::*;

    /// A state without tables, at an index, with an instance that left one at another.
    fn state(index: u64, left_table: u64) -> State {
        let instance = InstanceRecord {
            id: "a-1-0".parse().unwrap(),
            slice: "org.example:a".parse().unwrap(),
            revision: aether_core::ids::RevisionNo(1),
            node: "n1".parse().unwrap(),
            desired: Desired::Drain,
            fence: Default::default(),
            desired_since_ms: 500,
            observed: Observed::Ready,
            observed_since_ms: 1_000,
            endpoint: Some("127.0.0.1:10000".parse().unwrap()),
            restarts: 0,
            reason: None,
            reload: None,
            left_table,
        };
        let mut state = State::default();
        state.meta.index = index;
        state.instances.insert(instance.id.clone(), Arc::new(instance));
        state
    }

    #[test]
    fn watchers_are_told_that_they_are_past_a_table_that_came_and_went_unseen() {
        let feed = Feed::new();
        let mut watcher = feed.subscribe(state(5, 0));
        assert_eq!(watcher.snapshot.revision, 5);
        feed.advance(state(6, 0));
        assert!(watcher.changes.try_recv().is_err(), "nothing left a table");
        feed.advance(state(9, 8));
        let told = watcher.changes.try_recv().expect("the removal waits for them");
        assert_eq!((told.revision, told.snapshot), (9, false));
        assert!(told.tables.is_empty() && told.removed.is_empty());
        feed.advance(state(10, 8));
        assert!(watcher.changes.try_recv().is_err(), "they know");
    }
}
