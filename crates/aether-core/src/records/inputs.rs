//! `inputs/{updateId}/{n}`: what the planner saw when it decided something about an
//! update, so that anybody can ask later whether it would decide the same again.
//!
//! Of the state there are the rows that a plan for the slice reads, as what changed
//! of them since the input before. Bounded: an update whose inputs become too many
//! has only the first of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::health::Verdict;
use crate::ids::{NodeName, SessionId, UpdateId};
use crate::planner::{NodeView, SessionView};

/// Most bytes of the inputs of one update, as they are stored.
pub const INPUTS_BYTES_MAX: usize = 512 * 1024;

/// Updates whose inputs are kept, the latest.
pub const INPUTS_UPDATES_MAX: usize = 32;

/// What a leader knew beside the state. Whoever is not named was connected and had
/// acknowledged everything, or reported.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Seen {
    /// The leader's log time.
    pub now_ms: u64,
    /// Sessions that had not acknowledged everything, or were not connected.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<SessionId, SessionView>,
    /// Nodes that did not report.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<NodeName, NodeView>,
    /// What the thresholds said of the last seconds of calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Instances of other slices by node, which take room.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<NodeName, u32>,
    /// How long a session that cannot be reached is taken to hold its table.
    pub table_age_max_ms: u64,
    /// How long a node is unreachable before it counts as lost.
    pub node_lost_ms: u64,
}

/// One look at an update that led to something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputRecord {
    /// The update.
    pub update: UpdateId,
    /// The how manieth of it this is, from 0.
    pub n: u32,
    /// Log index of the entry that wrote this: what was decided came after it.
    pub index: u64,
    /// What the leader knew beside the state; absent where the bound was reached, and
    /// nothing more of the update is written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
    /// Rows of the state that are other than at the input before; null is gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rows: BTreeMap<String, Option<String>>,
    /// What was decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decided: Vec<Command>,
}

impl InputRecord {
    /// How many bytes of it count towards [`INPUTS_BYTES_MAX`].
    pub(crate) fn bytes(&self) -> usize {
        let rows = self.rows.iter();
        let rows = rows.map(|(key, row)| key.len() + row.as_ref().map_or(0, String::len));
        // What is decided is a few hundred bytes; placements are names.
        rows.sum::<usize>() + 512 * (1 + self.decided.len())
    }
}
