//! The guard of one call.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aether_core::coordinates::{SliceName, Version};
use aether_core::ids::{InstanceId, RevisionNo};
use aether_core::schedule::Side;

use crate::endpoint::Endpoint;

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
    endpoint: Arc<Endpoint>,
    side: Side,
    route_revision: u64,
    started_at: Instant,
    /// Calls by ticket are evidence, retries are not.
    is_evidence: bool,
    recorded: Option<Outcome>,
}

impl Pick {
    /// The caller has announced the call at the endpoint.
    pub(crate) fn announced(
        endpoint: Arc<Endpoint>,
        side: Side,
        route_revision: u64,
        is_evidence: bool,
    ) -> Self {
        let started_at = Instant::now();
        Self { endpoint, side, route_revision, started_at, is_evidence, recorded: None }
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Where the instance listens.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.address
    }
    /// The instance.
    pub fn instance(&self) -> &InstanceId {
        &self.endpoint.instance
    }
    /// The slice.
    pub fn slice(&self) -> &SliceName {
        &self.endpoint.info.slice
    }
    /// The version of the instance.
    pub fn version(&self) -> &Version {
        &self.endpoint.info.version
    }
    /// The revision of the instance.
    pub fn revision(&self) -> RevisionNo {
        self.endpoint.info.revision
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
    pub fn record(&mut self, outcome: Outcome) {
        if self.recorded.is_none() {
            self.recorded = Some(outcome);
            if self.is_evidence {
                self.endpoint.meter.record(self.started_at.elapsed(), outcome == Outcome::Error);
            }
        }
    }

    /// Records the outcome and the time since the pick, and ends the call.
    pub fn finish(mut self, outcome: Outcome) {
        self.record(outcome);
    }

    /// The rest of a response did not come.
    pub(crate) fn broke_after_head(self) {
        if self.is_evidence && self.recorded == Some(Outcome::Success) {
            self.endpoint.meter.turn_into_error();
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint.finish();
    }
}
