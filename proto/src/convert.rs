//! Conversion between wire messages and the types of `aether-core`.

use aether_core::ids::RevisionNo;
use aether_core::manifest as core_manifest;
use aether_core::table as core;
use aether_core::weights::Weights;
use thiserror::Error;

use crate::v1;

/// A message whose fields do not make a valid value.
#[derive(Debug, Error)]
#[error("{field}: {problem}")]
pub struct ConvertError {
    /// The offending field.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

fn bad<E: std::fmt::Display>(field: &'static str) -> impl FnOnce(E) -> ConvertError {
    move |error| ConvertError { field, problem: error.to_string() }
}

impl From<&core::VersionSet> for v1::VersionSet {
    fn from(set: &core::VersionSet) -> Self {
        Self {
            revision: set.revision.0,
            version: set.version.to_string(),
            endpoints: set
                .endpoints
                .iter()
                .map(|endpoint| v1::Endpoint {
                    instance_id: endpoint.instance.to_string(),
                    address: endpoint.address.to_string(),
                })
                .collect(),
        }
    }
}

impl TryFrom<&v1::VersionSet> for core::VersionSet {
    type Error = ConvertError;
    fn try_from(set: &v1::VersionSet) -> Result<Self, ConvertError> {
        let endpoint = |wire: &v1::Endpoint| {
            Ok(core::Endpoint {
                instance: wire.instance_id.parse().map_err(bad("endpoints.instance_id"))?,
                address: wire.address.parse().map_err(bad("endpoints.address"))?,
            })
        };
        Ok(Self {
            revision: RevisionNo(set.revision),
            version: set.version.parse().map_err(bad("version"))?,
            endpoints: set.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&core::SliceTable> for v1::SliceTable {
    fn from(table: &core::SliceTable) -> Self {
        Self {
            slice: table.slice.to_string(),
            table_revision: table.table_revision,
            route_revision: table.route_revision,
            weight_new: table.weights.new_side(),
            weight_old: table.weights.old_side(),
            new: table.new.as_ref().map(Into::into),
            old: table.old.as_ref().map(Into::into),
            ingress: table
                .ingress
                .iter()
                .map(|claim| v1::IngressRule {
                    host: claim.rule.host.clone().unwrap_or_default(),
                    path: claim.rule.path.clone(),
                    since: claim.since,
                })
                .collect(),
            hold_ms: u32::try_from(table.hold_ms).unwrap_or(u32::MAX),
        }
    }
}

impl TryFrom<&v1::SliceTable> for core::SliceTable {
    type Error = ConvertError;
    fn try_from(table: &v1::SliceTable) -> Result<Self, ConvertError> {
        Ok(Self {
            slice: table.slice.parse().map_err(bad("slice"))?,
            table_revision: table.table_revision,
            route_revision: table.route_revision,
            weights: Weights::new(table.weight_new.into(), table.weight_old.into())
                .map_err(bad("weights"))?,
            new: table.new.as_ref().map(TryInto::try_into).transpose()?,
            old: table.old.as_ref().map(TryInto::try_into).transpose()?,
            ingress: table
                .ingress
                .iter()
                .map(|claim| core::IngressClaim {
                    rule: core_manifest::IngressRule {
                        host: Some(claim.host.clone()).filter(|host| !host.is_empty()),
                        path: claim.path.clone(),
                    },
                    since: claim.since,
                })
                .collect(),
            hold_ms: table.hold_ms.into(),
        })
    }
}
