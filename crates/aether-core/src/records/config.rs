//! What people and programs keep in the store beside everything that Aether
//! itself does: settings that services share, a flag, a note.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::ConfigName;

/// Longest value, in bytes. Larger things are artifacts.
pub const CONFIG_VALUE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of all names and values together. Every voter holds them in memory, and
/// a snapshot has all of them: the bound that etcd has for its whole database
/// unless told otherwise (its documentation, "System limits").
pub const CONFIG_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// `config/{name}`: a value that somebody else gives a meaning to.
///
/// Its writes have no audit records: there may be thousands of them a second,
/// and those of updates must not be forgotten for them. The record says who
/// wrote it last, and `kv watch` tells of each write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigRecord {
    /// Its key without `config/`.
    pub name: ConfigName,
    /// The text that was put.
    pub value: Arc<str>,
    /// Who put it.
    pub actor: String,
    /// Wall clock of the leader then, milliseconds, for display.
    pub wall_ms: u64,
    /// Log index since which there has been a value without a break.
    pub created: u64,
    /// Log index that wrote it.
    pub modified: u64,
}

impl ConfigRecord {
    /// What it counts towards [`CONFIG_BYTES_MAX`].
    pub fn bytes(&self) -> u64 {
        (self.name.as_str().len() + self.value.len()) as u64
    }
}
