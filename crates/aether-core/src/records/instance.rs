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
    /// How it came to its revision, if it was not started as one of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reload: Option<Reload>,
}

/// The last time that an instance was given another revision, whose files its process
/// is to read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reload {
    /// Log index of the entry that said so: its agent names it when that is done, so
    /// that one that was done before is never taken for it.
    pub at: u64,
    /// The revision as one of which it is called. It goes on to serve with those that it
    /// was with until its batch is entered.
    pub called_as: RevisionNo,
    /// Its process was told, and has passed a probe since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// Restarts that it had before.
    #[serde(default, skip_serializing_if = "is_none")]
    pub restarts: u32,
    /// It took calls when it was told: an end of its process then loses some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
}

fn is_none(restarts: &u32) -> bool {
    *restarts == 0
}

/// Crashes of one instance after which it counts as unable to stay up: the first may
/// be an accident of the machine, two more in a row are not.
pub const CRASH_LOOP_RESTARTS: u32 = 3;

impl InstanceRecord {
    /// Why it does not stay up as one of its revision, or does not reload, if that is so:
    /// the code, and what it says.
    pub fn failure(&self) -> Option<(&'static str, String)> {
        let said = |reason: &Reason| format!("{}: {}", reason.code, reason.message);
        if let Some(reason) = self.reload_failure() {
            return Some((Reason::RELOAD_FAILED, reason.message.clone()));
        }
        if self.has_ended_at_reload() {
            let why = self.reason.as_ref().map(|reason| format!(" ({})", said(reason)));
            let message = "its process ended when it was told to reload, and was started again";
            return Some((Reason::RELOAD_ENDED, message.to_owned() + &why.unwrap_or_default()));
        }
        let reason = self.reason.as_ref()?;
        // What it did before it was told is no matter of what it was told.
        if self.reload.is_some() && self.restarts_of_this() < CRASH_LOOP_RESTARTS {
            return None;
        }
        // An agent that says `crashed` has counted fewer ends in a row; other ends, such
        // as for want of memory, are only counted.
        let often =
            self.observed == Observed::Crashed && self.restarts_of_this() >= CRASH_LOOP_RESTARTS;
        let loops = reason.code == Reason::CRASH_LOOP || (often && reason.code != "crashed");
        loops.then(|| (Reason::CRASH_LOOP, said(reason)))
    }

    /// Why its process cannot be told to read its files again, if that is so.
    pub fn reload_failure(&self) -> Option<&Reason> {
        let failed = |reason: &&Reason| reason.code == Reason::RELOAD_FAILED;
        self.reason.as_ref().filter(failed).filter(|_| !self.has_reloaded())
    }

    /// Whether its process took calls and ended when it was told to reload. Once its batch
    /// is entered, an end is one like any other.
    pub fn has_ended_at_reload(&self) -> bool {
        let served = self.reload.as_ref().is_some_and(|reload| reload.served);
        served && self.called_as() != self.revision && self.restarts_of_this() > 0
    }

    /// How often it ended and was started again as one of its present revision.
    pub fn restarts_of_this(&self) -> u32 {
        let before = self.reload.as_ref().map_or(0, |reload| reload.restarts);
        self.restarts.saturating_sub(before)
    }

    /// The revision as one of which it is called.
    pub fn called_as(&self) -> RevisionNo {
        self.reload.as_ref().map_or(self.revision, |reload| reload.called_as)
    }

    /// Whether its process is known to be of its revision.
    pub fn has_reloaded(&self) -> bool {
        self.reload.as_ref().is_none_or(|reload| reload.done)
    }

    /// Whether it serves as one of its revision: calls may be sent to it, and no reload
    /// is under way.
    pub fn is_updated(&self) -> bool {
        self.is_routable() && self.has_reloaded()
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
