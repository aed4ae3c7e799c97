//! A switch for which every session holds its calls: what the route's record says of
//! it, and where the update is. The decisions are the planner's.

use serde::{Deserialize, Serialize};

use super::UpdateRecord;
use crate::ids::UpdateId;

/// Why new calls to a slice are held, and since when. It stands while nothing else
/// happens to its update: every entry that changes that one ends it too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallHold {
    /// The update that is about to switch.
    pub update: UpdateId,
    /// Log time since which.
    pub since_ms: u64,
}

/// How long sessions may take to say that they hold new calls, in log time from the
/// entry that asks them; then the switch is given up. A session that is well says it
/// within milliseconds, and every call waits meanwhile.
pub const BARRIER_MS: u64 = 200;

/// How long a session holds new calls at most, by its own clock from when it has
/// applied the table that asks for it. Beyond [`BARRIER_MS`], so that there is time
/// for the switch to reach it.
pub const CALL_HOLD_MS: u64 = 250;

impl UpdateRecord {
    /// Whether the switch that it is promoted to is approved as well, and waits for
    /// sessions that are to hold their calls.
    pub fn is_approved(&self) -> bool {
        self.progress.as_ref().is_some_and(|progress| progress.approved)
    }

    /// Whether this step is a switch that waits until every session holds its calls.
    /// Of a first deployment there is no old version that calls could go to.
    pub fn has_barrier_at(&self, step: u32) -> bool {
        self.strategy.has_barrier() && self.old.is_some() && step == 1
    }
}
