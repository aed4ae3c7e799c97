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

/// The tables in which two states differ; `None` if in none.
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
    (!tables.is_empty() || !removed.is_empty()).then_some(RoutingDown {
        incarnation: after.meta.incarnation,
        revision: after.meta.index,
        snapshot: false,
        tables,
        removed,
        lease_ms: 0,
    })
}
