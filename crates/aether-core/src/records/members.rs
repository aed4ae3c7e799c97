//! Nodes that run instances, and sessions that hold routing tables.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, SessionId};

/// Lifecycle of a node as the control plane sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeLifecycle {
    /// Its agent reports within its lease.
    Ready,
    /// Its agent was silent for a lease.
    Unreachable,
    /// It was unreachable for too long: its instances left the tables, others
    /// take their place, and those that still run there are stopped when it
    /// comes back.
    Lost,
}

impl std::fmt::Display for NodeLifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Ready => "READY",
            Self::Unreachable => "UNREACHABLE",
            Self::Lost => "LOST",
        })
    }
}

/// Whether a node takes new instances, and keeps those it has: decided by
/// people, apart from its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NodeSchedule {
    /// It takes new instances.
    #[default]
    Open,
    /// It keeps what it has and takes no new instances.
    Cordoned,
    /// What it has moves to other nodes.
    Draining,
}

impl NodeSchedule {
    /// Whether this is the default, which records leave out.
    pub fn is_open(&self) -> bool {
        *self == Self::Open
    }
}

/// `nodes/{node}`: a machine that runs instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRecord {
    /// Its name.
    pub name: NodeName,
    /// Address of its client gRPC, from which others fetch artifacts.
    pub address: SocketAddr,
    /// Labels, for people and placement.
    pub labels: BTreeMap<String, String>,
    /// Most instances it takes.
    pub instances_max: u32,
    /// Whether it reports.
    pub lifecycle: NodeLifecycle,
    /// Log time since which that holds.
    pub since_ms: u64,
    /// Whether it takes new instances.
    #[serde(default, skip_serializing_if = "NodeSchedule::is_open")]
    pub schedule: NodeSchedule,
}

/// What kind of client a session belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SessionKind {
    /// A service that embeds the invoker.
    Invoker,
    /// A node's HTTP ingress.
    Ingress,
}

/// `session/{id}`: a holder of routing tables. Removals wait for its acks.
///
/// A session may have several lives, one after the other: an ingress that is
/// started again goes by the same id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// What it is.
    pub kind: SessionKind,
    /// Who it is, for people.
    pub name: String,
    /// Log index at which its present life was opened.
    pub opened: u64,
    /// It held no tables when it was opened: whatever it holds is from later.
    /// Never set for a life that follows another one: the hello may be older
    /// than what it is compared with, and its process hold tables by now.
    #[serde(default)]
    pub fresh: bool,
}
