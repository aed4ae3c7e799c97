//! `instances/{node}/{instance}`: what runs, what the coordinator decided about it and
//! what its agent reports.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Reason;
use crate::coordinates::SliceName;
use crate::ids::{Fence, InstanceId, NodeName, RevisionNo};

/// What the coordinator decided about an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Desired {
    /// It runs, and is an endpoint while ready.
    Run,
    /// It gets no new calls; calls in flight end. Nothing was signalled yet.
    Drain,
    /// It is to end: stop signal, grace, kill.
    Stop,
}

/// What an agent last reported of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Observed {
    /// Assigned; nothing was reported yet.
    Assigned,
    /// The artifact is being fetched and unpacked.
    Fetching,
    /// The process was started and is not ready yet.
    Starting,
    /// The readiness probe passes.
    Ready,
    /// The process runs, but was ready once and now fails its probe.
    Unready,
    /// The process ended by itself; it is restarted after a backoff.
    Crashed,
    /// The stop signal was sent.
    Stopping,
    /// The process and its group are gone.
    Stopped,
    /// Its node is lost: nobody knows. No agent reports this; what the node
    /// reports on its return takes its place.
    Unknown,
}

/// `instances/{node}/{instance}`: one running copy of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceRecord {
    /// Its id, never reused.
    pub id: InstanceId,
    /// The slice.
    pub slice: SliceName,
    /// The revision it runs.
    pub revision: RevisionNo,
    /// Where it runs.
    pub node: NodeName,
    /// What the coordinator decided.
    pub desired: Desired,
    /// Entry of that decision.
    pub fence: Fence,
    /// Log time of that decision.
    pub desired_since_ms: u64,
    /// Log index at which it left the routing table, 0 while in it or before.
    pub left_table: u64,
    /// What the agent reported last.
    pub observed: Observed,
    /// Log time since which `observed` holds.
    pub observed_since_ms: u64,
    /// Where it listens.
    pub endpoint: Option<SocketAddr>,
    /// How often the process ended by itself and was started again.
    pub restarts: u32,
    /// Why it is not ready, if it is not.
    pub reason: Option<Reason>,
}

/// Crashes of one instance after which it counts as unable to stay up: the first may
/// be an accident of the machine, two more in a row are not.
pub const CRASH_LOOP_RESTARTS: u32 = 3;

impl InstanceRecord {
    /// Why it does not stay up, if it does not.
    pub fn crash_loop(&self) -> Option<&Reason> {
        let reason = self.reason.as_ref()?;
        // An agent that says `crashed` has counted fewer ends in a row; other ends, such
        // as for want of memory, are only counted.
        let often = self.observed == Observed::Crashed && self.restarts >= CRASH_LOOP_RESTARTS;
        let loops = reason.code == Reason::CRASH_LOOP || (often && reason.code != "crashed");
        loops.then_some(reason)
    }

    /// Whether calls may be sent to it.
    pub fn is_routable(&self) -> bool {
        self.desired == Desired::Run && self.observed == Observed::Ready && self.endpoint.is_some()
    }

    /// Whether it may come back into the table when it is wanted again: it was
    /// not told to stop, and its node is not lost.
    pub fn is_revivable(&self) -> bool {
        self.desired == Desired::Drain && self.observed != Observed::Unknown
    }

    /// Whether it has ended and is not started again, not even with its node.
    pub fn has_ended(&self) -> bool {
        let returns = self.reason.as_ref().is_some_and(|r| r.code == Reason::NODE_STOPPED);
        self.observed == Observed::Stopped && !returns
    }
}
