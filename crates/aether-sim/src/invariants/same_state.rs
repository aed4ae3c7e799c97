//! Equal applied index means an equal state on every replica, and a snapshot with
//! what follows it equals a replay. (Design, invariant 4.)

use aether_core::state::{State, rows_hash};

use crate::log::ReplicaId;

/// Compares a replica that has caught up with the state that all should have.
///
/// # Errors
/// The first row in which they differ.
pub fn same_state(own: &State, newest: &State, replica: ReplicaId) -> Result<(), String> {
    if own.meta != newest.meta {
        return Err(format!("v{replica} has {:?} instead of {:?}", own.meta, newest.meta));
    }
    match State::diff(newest, own).first() {
        None => Ok(()),
        Some(row) => Err(format!("v{replica} differs in {}", row.key)),
    }
}

/// The same by the hash that replicas really compare.
///
/// # Errors
/// That they differ.
pub fn same_hash(own: &State, newest: &State, replica: ReplicaId) -> Result<(), String> {
    match rows_hash(&own.rows()) == rows_hash(&newest.rows()) {
        true => Ok(()),
        false => Err(format!("v{replica} has another hash at {}", own.meta.index)),
    }
}
