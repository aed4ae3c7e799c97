//! The latest changes of the replicated state, row by row, for those who watch
//! rows. A machine adds to them entry by entry, so every node tells the
//! same changes, in the same order and with the same indices.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::watch;

use crate::machine::RowChange;

/// Bytes of changes that are kept: some 16,000 rows of the usual size, which is
/// several updates of a large cluster. A reader that goes on after a broken
/// connection asks for the last few seconds of it.
const KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a row costs beside its key and value: two pointers with length and
/// capacity, and what the allocator adds.
const ROW_BYTES: usize = 64;

/// The rows that one entry of the log changed.
#[derive(Debug, PartialEq, Eq)]
pub struct EntryChanges {
    /// Its log index.
    pub index: u64,
    /// In the order of their keys. At least one.
    pub rows: Vec<RowChange>,
}

impl EntryChanges {
    fn bytes(&self) -> usize {
        let row = |RowChange { key, value }: &RowChange| {
            ROW_BYTES + key.len() + value.as_ref().map_or(0, Bytes::len)
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

#[derive(Default)]
struct Kept {
    entries: VecDeque<Arc<EntryChanges>>,
    bytes: usize,
    kept_after: u64,
    /// The index up to which they go, of an entry that may have changed no row.
    up_to: u64,
}

/// The latest changes on this node.
pub struct Changes {
    kept: Mutex<Kept>,
    bytes_max: usize,
    index: watch::Sender<u64>,
}

impl Default for Changes {
    fn default() -> Self {
        Self::bounded(KEPT_BYTES_MAX)
    }
}

impl Changes {
    fn bounded(bytes_max: usize) -> Self {
        Self { kept: Mutex::default(), bytes_max, index: watch::Sender::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nothing panics while it holds this lock")
    }

    /// Adds what the entries up to an index changed.
    pub fn extend(&self, entries: impl IntoIterator<Item = EntryChanges>, up_to: u64) {
        let mut kept = self.kept();
        for entry in entries {
            kept.bytes += entry.bytes();
            kept.entries.push_back(Arc::new(entry));
            while kept.bytes > self.bytes_max {
                let Some(oldest) = kept.entries.pop_front() else { break };
                kept.bytes -= oldest.bytes();
                kept.kept_after = oldest.index;
            }
        }
        kept.up_to = up_to;
        self.index.send_replace(up_to);
    }

    /// Begins anew after a state that came as a whole: nothing is known of how
    /// it came about.
    pub fn begin_after(&self, index: u64) {
        *self.kept() = Kept { kept_after: index, up_to: index, ..Kept::default() };
        self.index.send_replace(index);
    }

    /// Tells the index up to which the changes go, whenever it rises.
    pub fn index(&self) -> watch::Receiver<u64> {
        self.index.subscribe()
    }

    /// Every change after a log index, and the index up to which that is all.
    ///
    /// # Errors
    /// Some of them are gone.
    pub fn since(&self, index: u64) -> Result<(Vec<Arc<EntryChanges>>, u64), Gone> {
        let kept = self.kept();
        if index < kept.kept_after {
            return Err(Gone { kept_after: kept.kept_after });
        }
        let first = kept.entries.partition_point(|entry| entry.index <= index);
        Ok((kept.entries.range(first..).cloned().collect(), kept.up_to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> EntryChanges {
        let key = format!("nodes/n{index:02}").into();
        let rows = vec![RowChange { key, value: Some("{}".into()) }];
        EntryChanges { index, rows }
    }

    fn indices(changes: &Changes, after: u64) -> Vec<u64> {
        let (entries, _) = changes.since(after).unwrap();
        entries.iter().map(|entry| entry.index).collect()
    }

    #[test]
    fn changes_after_an_index_are_those_of_later_entries() {
        let changes = Changes::default();
        changes.begin_after(4);
        changes.extend([entry(5), entry(7)], 8);
        assert_eq!(indices(&changes, 4), [5, 7]);
        assert_eq!(indices(&changes, 5), [7]);
        assert_eq!(indices(&changes, 6), [7], "entry 6 changed nothing");
        assert_eq!(changes.since(7).unwrap(), (Vec::new(), 8), "and nothing after it");
        assert_eq!(changes.since(3).unwrap_err(), Gone { kept_after: 4 });
        assert_eq!(*changes.index().borrow(), 8);
        changes.begin_after(20);
        assert_eq!(changes.since(8).unwrap_err(), Gone { kept_after: 20 });
    }

    #[test]
    fn no_more_is_kept_than_the_bound_allows() {
        let one = entry(1).bytes();
        let changes = Changes::bounded(one * 3 + one / 2);
        changes.extend((1..=8).map(entry), 8);
        assert_eq!(changes.since(4).unwrap_err(), Gone { kept_after: 5 }, "three of eight");
        assert_eq!(indices(&changes, 5), [6, 7, 8]);
        let none = Changes::bounded(1);
        none.extend([entry(1)], 1);
        assert_eq!(none.since(0).unwrap_err().kept_after, 1);
        assert_eq!(none.since(1).unwrap(), (Vec::new(), 1));
    }
}
