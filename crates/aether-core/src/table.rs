//! The routing table of one slice, as invokers hold it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::coordinates::{SliceName, Version};
use crate::ids::{InstanceId, RevisionNo};
use crate::manifest::IngressRule;
use crate::weights::Weights;

/// One address that takes calls, and the instance behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The instance.
    pub instance: InstanceId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// The ready endpoints of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSet {
    /// The revision.
    pub revision: RevisionNo,
    /// Its version.
    pub version: Version,
    /// Its ready endpoints, ordered by instance id.
    pub endpoints: Vec<Endpoint>,
}

/// A rule by which the ingress finds a slice, and since when it is the slice's.
/// Two slices may ask for the same one: the earlier has it, so that nothing that
/// is deployed later takes requests from what serves them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IngressClaim {
    /// The rule.
    pub rule: IngressRule,
    /// Log index since which the slice has asked for it without a break.
    pub since: u64,
}

/// Where calls to one slice go. Outside of updates there is only an old side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceTable {
    /// The slice.
    pub slice: SliceName,
    /// Highest log index that touched the route or its endpoints.
    pub table_revision: u64,
    /// Log index of the last change of sides or weights.
    pub route_revision: u64,
    /// Committed weights new:old.
    pub weights: Weights,
    /// The side an update moves to.
    pub new: Option<VersionSet>,
    /// The side that serves outside of updates.
    pub old: Option<VersionSet>,
    /// How the ingress finds this slice.
    pub ingress: Vec<IngressClaim>,
    /// New calls are to be held for at most so long after the first table of this
    /// route revision is applied, milliseconds; 0: they are not.
    pub hold_ms: u64,
}

impl SliceTable {
    /// Weights by which calls can really be split: a side without a ready
    /// endpoint gets none. `None` if no side has one.
    pub fn effective_weights(&self) -> Option<Weights> {
        let ready =
            |side: &Option<VersionSet>| side.as_ref().is_some_and(|set| !set.endpoints.is_empty());
        match (ready(&self.new), ready(&self.old)) {
            (true, true) => Some(self.weights),
            (true, false) if self.weights.new_side() > 0 => Some(Weights::ALL_NEW),
            (false, true) if self.weights.old_side() > 0 => Some(Weights::ALL_OLD),
            _ => None,
        }
    }
}
