//! `inputs/{updateId}/{n}`: what the planner saw when it decided something about an
//! update, so that anybody can ask later whether it would decide the same again.
//!
//! Of the state there are the rows that a plan for the slice reads, as what changed
//! of them since the input before. Bounded: an update whose inputs become too many
//! has only the first of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::command::Command;
use crate::coordinates::SliceName;
use crate::health::Verdict;
use crate::ids::{InstanceId, NodeName, SessionId, UpdateId};
use crate::planner::{Holding, LateCalls, NodeView, SessionView};

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
    pub sessions: BTreeMap<SessionId, SessionSeen>,
    /// Nodes that did not report.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub nodes: BTreeMap<NodeName, NodeSeen>,
    /// What the thresholds said of the last seconds of calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictSeen>,
    /// Instances of other slices by node, which take room.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub elsewhere: BTreeMap<NodeName, u32>,
    /// How long a session that cannot be reached is taken to hold its table.
    pub table_age_max_ms: u64,
    /// How long a node is unreachable before it counts as lost.
    pub node_lost_ms: u64,
}

impl Seen {
    /// Whether it says of a session how it holds its calls.
    pub(crate) fn tells_of_holding(&self) -> bool {
        let tells =
            |seen: &SessionSeen| matches!(seen, SessionSeen::Connected { holding: Some(_), .. });
        self.sessions.values().any(tells)
    }
}

/// A [`SessionView`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum SessionSeen {
    /// Connected.
    Connected {
        /// Up to where.
        applied: u64,
        /// With what.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        busy: BTreeSet<InstanceId>,
        /// What it says of holding new calls; absent where it can and did, or where
        /// nothing depends on it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        holding: Option<HoldingSeen>,
    },
    /// Awaited. With braces: serde reads past unknown fields of a variant that has none.
    Awaited {},
    /// Unreachable.
    Unreachable {
        /// Since when.
        since_ms: u64,
    },
}

/// A [`Holding`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HoldingSeen {
    /// It can hold calls.
    pub is_able: bool,
    /// Calls that began though they were to be held.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub late: BTreeMap<SliceName, LateSeen>,
}

/// [`LateCalls`] as they are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LateSeen {
    /// By which route they were to be held.
    pub route_revision: u64,
    /// How many.
    pub calls: u64,
}

/// A [`NodeView`] as it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum NodeSeen {
    /// Reporting.
    Reporting {},
    /// Awaited.
    Awaited {},
    /// Silent.
    Silent {
        /// Since when.
        since_ms: u64,
    },
}

/// A [`Verdict`] as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum VerdictSeen {
    /// Insufficient.
    Insufficient {},
    /// Healthy.
    Healthy {},
    /// Exceeded.
    Exceeded {
        /// What.
        detail: String,
    },
    /// Exceeded by one instance alone.
    OneInstance {
        /// Which.
        instance: InstanceId,
        /// What.
        detail: String,
    },
}

impl From<&SessionView> for SessionSeen {
    fn from(view: &SessionView) -> Self {
        match view {
            SessionView::Connected { applied, busy, holding } => {
                let holding = (!holding.is_plain()).then(|| holding.into());
                Self::Connected { applied: *applied, busy: busy.clone(), holding }
            }
            SessionView::Awaited => Self::Awaited {},
            SessionView::Unreachable { since_ms } => Self::Unreachable { since_ms: *since_ms },
        }
    }
}

impl From<&SessionSeen> for SessionView {
    fn from(seen: &SessionSeen) -> Self {
        match seen {
            SessionSeen::Connected { applied, busy, holding } => {
                let holding = holding.as_ref().map_or_else(Holding::able, Holding::from);
                Self::Connected { applied: *applied, busy: busy.clone(), holding }
            }
            SessionSeen::Awaited {} => Self::Awaited,
            SessionSeen::Unreachable { since_ms } => Self::Unreachable { since_ms: *since_ms },
        }
    }
}

impl From<&Holding> for HoldingSeen {
    fn from(holding: &Holding) -> Self {
        let late = holding.late.iter().map(|(slice, late)| {
            let LateCalls { route_revision, calls } = *late;
            (slice.clone(), LateSeen { route_revision, calls })
        });
        Self { is_able: holding.is_able, late: late.collect() }
    }
}

impl From<&HoldingSeen> for Holding {
    fn from(seen: &HoldingSeen) -> Self {
        let late = seen.late.iter().map(|(slice, late)| {
            let LateSeen { route_revision, calls } = *late;
            (slice.clone(), LateCalls { route_revision, calls })
        });
        Self { is_able: seen.is_able, late: late.collect() }
    }
}

impl From<NodeView> for NodeSeen {
    fn from(view: NodeView) -> Self {
        match view {
            NodeView::Reporting => Self::Reporting {},
            NodeView::Awaited => Self::Awaited {},
            NodeView::Silent { since_ms } => Self::Silent { since_ms },
        }
    }
}

impl From<NodeSeen> for NodeView {
    fn from(seen: NodeSeen) -> Self {
        match seen {
            NodeSeen::Reporting {} => Self::Reporting,
            NodeSeen::Awaited {} => Self::Awaited,
            NodeSeen::Silent { since_ms } => Self::Silent { since_ms },
        }
    }
}

impl From<Verdict> for VerdictSeen {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Insufficient => Self::Insufficient {},
            Verdict::Healthy => Self::Healthy {},
            Verdict::Exceeded { detail } => Self::Exceeded { detail },
            Verdict::OneInstance { instance, detail } => Self::OneInstance { instance, detail },
        }
    }
}

impl From<VerdictSeen> for Verdict {
    fn from(seen: VerdictSeen) -> Self {
        match seen {
            VerdictSeen::Insufficient {} => Self::Insufficient,
            VerdictSeen::Healthy {} => Self::Healthy,
            VerdictSeen::Exceeded { detail } => Self::Exceeded { detail },
            VerdictSeen::OneInstance { instance, detail } => Self::OneInstance { instance, detail },
        }
    }
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
