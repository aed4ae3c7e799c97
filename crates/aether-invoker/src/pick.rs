//! The guard of one call.

use std::net::SocketAddr;
use std::sync::Arc;

use aether_core::coordinates::{SliceName, Version};
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::schedule::Side;

use crate::body::Starved;
use crate::clock::Moment;
use crate::endpoint::{Endpoint, InFlight};

/// What came of a call, as far as the health of a version is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The instance answered.
    Success,
    /// A 5xx, a failing gRPC code, a timeout, or a refused call.
    Error,
}

/// One call on one instance. The instance is not stopped while this is alive,
/// short of its drain timeout. Dropped without an outcome, the call counts as
/// cancelled: over, and no evidence for or against the version.
#[derive(Debug)]
pub struct Pick {
    call: InFlight,
    side: Side,
    route_revision: u64,
    started_at: Moment,
    /// Calls by ticket are evidence, retries are not.
    is_evidence: bool,
    recorded: Option<Outcome>,
    /// The request is with the instance, and the caller waits for an answer.
    waits: bool,
    /// Whether the caller himself is waited for, if the request has a body.
    starved: Option<Starved>,
}

/// A caller that gives up after this long tells of a slow instance; before, of
/// nothing but his own haste. Twice the default threshold of the latency.
const GIVEN_UP_AFTER_US: u64 = 1_000_000;

impl Pick {
    /// A call that begins now.
    #[inline]
    pub(crate) fn of(call: InFlight, side: Side, route_revision: u64, is_evidence: bool) -> Self {
        let started_at = Moment::now();
        Self {
            call,
            side,
            route_revision,
            started_at,
            is_evidence,
            recorded: None,
            waits: false,
            starved: None,
        }
    }

    #[inline]
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.call.endpoint()
    }

    /// Calls in flight at the instance, with this, if they are more than `max`.
    pub(crate) fn above(&self, max: u64) -> Option<u64> {
        self.call.above(max)
    }

    /// Where the instance listens.
    #[inline]
    pub fn address(&self) -> SocketAddr {
        self.endpoint().address
    }
    /// The instance.
    pub fn instance(&self) -> &InstanceId {
        &self.endpoint().instance
    }
    /// The slice.
    pub fn slice(&self) -> &SliceName {
        &self.endpoint().info.slice
    }
    /// The version of the instance.
    pub fn version(&self) -> &Version {
        &self.endpoint().info.version
    }
    /// The revision of the instance.
    pub fn revision(&self) -> RevisionNo {
        self.endpoint().info.revision
    }
    /// The side of the route.
    pub fn side(&self) -> Side {
        self.side
    }
    /// The route by which it was picked.
    pub fn route_revision(&self) -> u64 {
        self.route_revision
    }

    /// Records the outcome and the time since the pick; the call stays in
    /// flight until this is dropped. For calls whose outcome is known before
    /// their last byte. Only the first outcome counts.
    #[inline]
    pub fn record(&mut self, outcome: Outcome) {
        if self.recorded.is_none() {
            self.recorded = Some(outcome);
            if self.is_evidence {
                self.endpoint()
                    .meter
                    .record(self.started_at.elapsed_us(), outcome == Outcome::Error);
            }
        }
    }

    /// Records the outcome and the time since the pick, and ends the call.
    #[inline]
    pub fn finish(mut self, outcome: Outcome) {
        self.record(outcome);
    }

    /// The request is on its way. If this is dropped before
    /// [`answered`](Self::answered), the caller has given up.
    pub(crate) fn awaits(&mut self, starved: Option<Starved>) {
        starved.iter().for_each(Starved::begin);
        (self.waits, self.starved) = (true, starved);
    }

    /// It is no longer waited for.
    pub(crate) fn answered(&mut self) {
        self.waits = false;
    }

    /// A call that was given up says that it would have taken longer than this:
    /// without that, an instance that never answers would never be noticed, if
    /// its callers have less patience than whoever sends their calls. Not an
    /// error: nobody knows what the answer would have been.
    fn note_given_up(&mut self) {
        let by_instance = !self.starved.as_ref().is_some_and(Starved::get);
        if by_instance && self.started_at.elapsed_us() >= GIVEN_UP_AFTER_US {
            self.record(Outcome::Success);
        }
    }

    /// The rest of a response did not come. If the caller's own request broke off, that
    /// is why.
    pub(crate) fn broke_after_head(self) {
        let by_caller = self.starved.as_ref().is_some_and(Starved::failed);
        if !by_caller && self.is_evidence && self.recorded == Some(Outcome::Success) {
            self.endpoint().meter.turn_into_error();
        }
    }
}

impl Drop for Pick {
    #[inline]
    fn drop(&mut self) {
        if self.waits {
            self.note_given_up();
        }
    }
}
