//! What the log drives: the [`Machine`] that a user of this crate supplies.
//!
//! The machine sees bytes and positions only. It knows nothing of terms of
//! office, files or peers, and this crate knows nothing of what the bytes mean.

use std::sync::Arc;

use bytes::Bytes;

/// Where and when an entry was committed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Term of the leader that proposed the entry.
    pub term: u64,
    /// Index of the entry in the log.
    pub index: u64,
    /// Monotonic log time in milliseconds: the only time a machine may use.
    pub log_time_ms: u64,
    /// The leader's wall clock in milliseconds since 1970. For display only.
    pub wall_ms: u64,
}

/// One row that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// Key of the row.
    pub key: Arc<str>,
    /// Its new value; `None` if the row is gone.
    pub value: Option<Bytes>,
}

/// One row of the machine's state.
pub type Row = (String, Vec<u8>);

/// A deterministic state machine whose whole state is a set of rows.
///
/// Two machines that applied the same entries have equal rows and equal
/// [`hash`](Machine::hash): no wall clock, random number or map order may reach
/// the state.
pub trait Machine: Send + Sync + 'static {
    /// A consistent copy of all rows, sorted by key. Taking one must be cheap;
    /// reading it happens beside further applies.
    type Image: Iterator<Item = Row> + Send + 'static;

    /// Applies one command and returns the response for whoever proposed it.
    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes;

    /// An entry without a command (a new leader's first, a membership change):
    /// only the position moves. `at` repeats the last log time.
    fn skip(&mut self, at: Stamp);

    /// The rows that changed since the last call, as they changed: of several
    /// changes of one row the last one holds.
    fn drain_changes(&mut self) -> Vec<RowChange>;

    /// A hash over all rows, independent of the way they came about.
    fn hash(&self) -> u128;

    /// A copy of all rows as they are now.
    fn image(&self) -> Self::Image;

    /// Replaces the whole state by `rows`, which stood at position `at`.
    /// Afterwards [`drain_changes`](Machine::drain_changes) starts empty.
    ///
    /// # Errors
    /// Says which row can't be understood. The state is then undefined; the
    /// caller restores something else or stops.
    fn restore(&mut self, at: Stamp, rows: &mut dyn Iterator<Item = Row>) -> Result<(), String>;

    /// Why this machine cannot go on with what [`apply`](Machine::apply) or
    /// [`restore`](Machine::restore) was given last, if it is meant for a newer
    /// release: what was needed, and what to do. An entry then changed nothing.
    /// The replica ends with this reason, and answers nobody.
    fn unsupported(&self) -> Option<String> {
        None
    }

    /// Called after every applied batch and after a restore, so that watchers
    /// see whole batches. A proposer is answered only after this.
    fn publish(&mut self);
}

/// [`Machine`] without its associated type, so that the rest of the crate is
/// not generic.
pub(crate) trait ErasedMachine: Send + Sync + 'static {
    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes;
    fn skip(&mut self, at: Stamp);
    fn drain_changes(&mut self) -> Vec<RowChange>;
    fn hash(&self) -> u128;
    fn image(&self) -> Box<dyn Iterator<Item = Row> + Send>;
    fn restore(&mut self, at: Stamp, rows: &mut dyn Iterator<Item = Row>) -> Result<(), String>;
    fn unsupported(&self) -> Option<String>;
    fn publish(&mut self);
}

impl<M: Machine> ErasedMachine for M {
    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes {
        Machine::apply(self, at, payload)
    }
    fn skip(&mut self, at: Stamp) {
        Machine::skip(self, at);
    }
    fn drain_changes(&mut self) -> Vec<RowChange> {
        Machine::drain_changes(self)
    }
    fn hash(&self) -> u128 {
        Machine::hash(self)
    }
    fn image(&self) -> Box<dyn Iterator<Item = Row> + Send> {
        Box::new(Machine::image(self))
    }
    fn restore(&mut self, at: Stamp, rows: &mut dyn Iterator<Item = Row>) -> Result<(), String> {
        Machine::restore(self, at, rows)
    }
    fn unsupported(&self) -> Option<String> {
        Machine::unsupported(self)
    }
    fn publish(&mut self) {
        Machine::publish(self);
    }
}
