//! What a state becomes when a new cluster begins with it, from a backup.
//!
//! Not a command: no log leads here. Each founding voter makes the same state
//! of the same backup, before there is a cluster.
//!
//! What the cluster knew stays known: slices, updates where they stood,
//! instances, sessions that may still hold tables, and the answers to requests.
//! What only the old voters could make true goes: changes of who votes, and
//! which of them hold archives. Log time goes on from where it stood, so that
//! no deadline passes because the backup lay in a drawer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Position, Tx};
use crate::audit::Subject;
use crate::records::SessionRecord;
use crate::state::State;
use crate::words::{are, counted};

/// How far a restored log begins after the index of its backup.
///
/// The old cluster may have gone on after the backup, and what it named there
/// lives on elsewhere: instances and updates are named after log indices, and
/// clients hold positions, preconditions and table revisions. None of those may
/// ever mean something else. At 10,000 entries a second the old cluster reaches
/// this in three years; 8,000 restores of a restored cluster fit below 2^53, up
/// to which every reader of JSON counts.
pub const RESTORE_INDEX_GAP: u64 = 1 << 40;

impl State {
    /// Makes this the first state of a new cluster, at `at`, which is
    /// [`RESTORE_INDEX_GAP`] after where it stood.
    ///
    /// # Panics
    /// If it is not.
    pub fn begin_anew(&mut self, at: Position) {
        let backup = (self.meta.index, self.meta.wall_ms);
        assert_eq!(at.index, backup.0 + RESTORE_INDEX_GAP, "whoever restores skips this many");
        self.skip(Position { wall_ms: backup.1, ..at });
        // Above every fence that an agent, and every table that an invoker, of
        // the old cluster can have seen.
        self.meta.incarnation += 1;
        // Nobody was heard for as long as there was no cluster: the times after
        // which silence counts begin with the new one.
        self.meta.replacement_frozen_since_ms = None;
        self.meta.replacement_resumed_ms = self.meta.log_time_ms;
        for record in self.artifacts.clone().values() {
            if !record.held_by.is_empty() {
                let mut record = (**record).clone();
                record.held_by = BTreeSet::new();
                self.artifacts.insert(record.artifact.clone(), Arc::new(record));
            }
        }
        // It may have got tables after the backup that hold what left before.
        for record in self.sessions.clone().values().filter(|record| record.fresh) {
            let record = SessionRecord { fresh: false, ..(**record).clone() };
            self.sessions.insert(record.id.clone(), Arc::new(record));
        }
        let void = self.voter_changes.len() as u64;
        self.voter_changes.clear();
        let incarnation = self.meta.incarnation;
        let changes = match void {
            0 => String::new(),
            some => format!("; {} of who votes {} void", counted(some, "change"), are(some)),
        };
        let event = format!(
            "restored from a backup of log index {} as incarnation {incarnation}{changes}",
            backup.0
        );
        let mut tx = Tx { state: self, term: at.term, actor: "restore", touched: BTreeMap::new() };
        tx.audit(Subject::cluster(), event);
        self.settle();
    }
}
