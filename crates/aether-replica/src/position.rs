//! How far a state has come: kept beside its rows in snapshots and the image.

use serde::{Deserialize, Serialize};

use crate::machine::Stamp;
use crate::types::{LogId, SnapshotMeta, StoredMembership, term_of};

/// The log position of a state, and what a successor has to know about it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    pub applied: Option<LogId>,
    pub membership: StoredMembership,
    pub log_time_ms: u64,
    pub wall_ms: u64,
}

impl Position {
    /// Index of the last applied entry; 0 before the first (which is the
    /// founding membership and has no command).
    pub fn index(&self) -> u64 {
        self.applied.as_ref().map_or(0, |id| id.index)
    }

    pub fn term(&self) -> u64 {
        self.applied.as_ref().map_or(0, term_of)
    }

    pub fn stamp(&self) -> Stamp {
        Stamp {
            term: self.term(),
            index: self.index(),
            log_time_ms: self.log_time_ms,
            wall_ms: self.wall_ms,
        }
    }

    pub fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() }
    }
}
