//! The latest changes of the replicated state, row by row, for those who watch
//! rows: one task compares states and makes each change once.
//!
//! A node applies several entries at once when many come, so a change has the
//! index of the state in which it was first seen here, and a row that changed
//! several times in between is listed as it ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use aether_core::state::{RowDiff, State};
use tokio::sync::watch;

use crate::control::Control;

/// Bytes of changes that are kept: some 16,000 rows of the usual size, which is
/// several updates of a large cluster. A reader that goes on after a broken
/// connection asks for the last few seconds of it.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a row costs beside its key and value: two pointers with length and
/// capacity, and what the allocator adds.
const ROW_BYTES: usize = 64;

/// The rows in which a state differs from the one that was seen before it.
#[derive(Debug)]
pub struct Batch {
    /// Log index of the state.
    pub index: u64,
    /// Keys in order, with their values; none for a row that is gone.
    pub rows: Vec<(String, Option<Vec<u8>>)>,
}

impl Batch {
    fn bytes(&self) -> usize {
        let row = |(key, value): &(String, Option<Vec<u8>>)| {
            ROW_BYTES + key.len() + value.as_ref().map_or(0, Vec::len)
        };
        self.rows.iter().map(row).sum()
    }
}

/// Changes that were asked for are not kept any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Only changes after this log index are kept.
    pub kept_after: u64,
}

struct Kept {
    /// The state up to which `batches` go.
    state: State,
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    kept_after: u64,
}

/// The latest changes on this node.
pub struct Changes {
    kept: Mutex<Kept>,
    bytes_max: usize,
    /// The index up to which they go.
    index: watch::Sender<u64>,
}

impl Changes {
    /// Those after `state`.
    pub fn after_state(state: State) -> Self {
        Self::bounded(state, KEPT_BYTES_MAX)
    }

    fn bounded(state: State, bytes_max: usize) -> Self {
        let (index, _) = watch::channel(state.meta.index);
        let kept_after = state.meta.index;
        let kept = Kept { state, batches: VecDeque::new(), bytes: 0, kept_after };
        Self { kept: Mutex::new(kept), bytes_max, index }
    }

    /// Runs until the process ends.
    pub async fn run(self: Arc<Self>, control: Control) {
        let mut states = control.watch();
        loop {
            let state = states.borrow_and_update().state.clone();
            self.advance(&state);
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds this lock")
    }

    /// Goes on to a state, unless it is an older one. Gives the state up to
    /// which the changes go then.
    pub fn advance(&self, state: &State) -> State {
        let mut kept = self.kept();
        if state.meta.index > kept.state.meta.index {
            let diff = State::diff(&kept.state, state).into_iter();
            let mut rows: Vec<_> = diff.map(|RowDiff { key, after, .. }| (key, after)).collect();
            rows.sort_unstable();
            let batch = Batch { index: state.meta.index, rows };
            kept.bytes += batch.bytes();
            kept.batches.push_back(Arc::new(batch));
            // Also a single batch that is too large, as that of a snapshot which
            // came from another node can be: its rows are in the state anyway.
            while kept.bytes > self.bytes_max {
                let Some(oldest) = kept.batches.pop_front() else { break };
                kept.bytes -= oldest.bytes();
                kept.kept_after = oldest.index;
            }
            kept.state = state.clone();
            self.index.send_replace(state.meta.index);
        }
        kept.state.clone()
    }

    /// Tells the index up to which the changes go, whenever it rises.
    pub fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// Every change after a log index.
    ///
    /// # Errors
    /// Some of them are gone.
    pub fn since(&self, index: u64) -> Result<Vec<Arc<Batch>>, Gone> {
        let kept = self.kept();
        if index < kept.kept_after {
            return Err(Gone { kept_after: kept.kept_after });
        }
        let first = kept.batches.partition_point(|batch| batch.index <= index);
        Ok(kept.batches.range(first..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aether_core::apply::Position;
    use aether_core::command::{Command, Request};

    fn next(state: &State, node: &str, instances_max: u32) -> State {
        let mut state = state.clone();
        let index = state.meta.index + 1;
        let command = Command::RegisterNode {
            node: node.parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            labels: Default::default(),
            instances_max,
        };
        let at = Position { term: 1, index, log_time_ms: index, wall_ms: index };
        let request = Request { request_id: None, actor: "t".to_owned(), command };
        state.apply(at, &request).unwrap();
        state
    }

    fn keys(batch: &Batch) -> Vec<&str> {
        batch.rows.iter().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn changes_come_by_state_and_each_row_as_it_ended() {
        let first = next(&State::default(), "n1", 1);
        let changes = Changes::after_state(first.clone());
        let second = next(&first, "n2", 1);
        let fourth = next(&next(&second, "n1", 2), "n1", 3);
        changes.advance(&second);
        assert_eq!(changes.advance(&fourth).meta.index, 4);
        assert_eq!(changes.advance(&second).meta.index, 4, "never back");
        let all = changes.since(1).unwrap();
        assert_eq!(all.iter().map(|batch| batch.index).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(keys(&all[0]), ["meta/cluster", "nodes/n2"]);
        assert_eq!(keys(&all[1]), ["meta/cluster", "nodes/n1"]);
        assert_eq!(all[1].rows[1].1, fourth.row("nodes/n1"), "not as it was at 3");
        assert_eq!(changes.since(3).unwrap().len(), 1, "no state of this node is of index 3");
        assert!(changes.since(4).unwrap().is_empty() && changes.since(9).unwrap().is_empty());
        assert_eq!(changes.since(0).unwrap_err(), Gone { kept_after: 1 });
        assert_eq!(*changes.index().borrow(), 4);
    }

    #[test]
    fn no_more_is_kept_than_the_bound_allows() {
        let mut state = next(&State::default(), "n1", 1);
        let one = {
            let changes = Changes::after_state(state.clone());
            changes.advance(&next(&state, "n1", 2));
            changes.since(1).unwrap()[0].bytes()
        };
        let changes = Changes::bounded(state.clone(), one * 3 + one / 2);
        for instances_max in 2..=9 {
            state = next(&state, "n1", instances_max);
            changes.advance(&state);
        }
        let gone = changes.since(1).unwrap_err();
        assert_eq!(gone, Gone { kept_after: 6 }, "three of eight");
        assert_eq!(changes.since(gone.kept_after).unwrap().len(), 3);
        let none = Changes::bounded(state.clone(), 1);
        none.advance(&next(&state, "n1", 1));
        assert_eq!(none.since(state.meta.index).unwrap_err().kept_after, state.meta.index + 1);
        assert!(none.since(state.meta.index + 1).unwrap().is_empty());
    }
}
