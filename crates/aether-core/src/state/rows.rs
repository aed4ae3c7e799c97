//! One row of the state as bytes: what changed of it, and its hash.

use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

/// A row that cannot be part of a state.
#[derive(Debug, Error)]
#[error("row '{key}' cannot be read: {problem}")]
pub struct RowError {
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}

/// One changed row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDiff {
    /// Its key.
    pub key: String,
    /// Its value, if it is still there.
    pub after: Option<Vec<u8>>,
    /// What it adds to the hash over all rows, wrapping.
    hash_change: u128,
}

impl RowDiff {
    /// Between a record before and after. `buffer` is for reuse.
    pub(super) fn new<T: Serialize>(
        key: String,
        before: Option<&T>,
        after: Option<&T>,
        buffer: &mut Vec<u8>,
    ) -> Self {
        let mut hash_of = |record: &T| {
            buffer.clear();
            encode_into(record, buffer);
            row_hash(&key, buffer)
        };
        let hash_before = before.map_or(0, &mut hash_of);
        let hash_after = after.map_or(0, hash_of);
        let after = after.map(|_| buffer.clone());
        Self { key, after, hash_change: hash_after.wrapping_sub(hash_before) }
    }

    /// The hash over all rows after this change, from the one before it.
    pub fn rehashed(&self, hash: u128) -> u128 {
        hash.wrapping_add(self.hash_change)
    }
}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let mut value = Vec::new();
    encode_into(record, &mut value);
    value
}

pub(super) fn encode_into<T: Serialize>(record: &T, buffer: &mut Vec<u8>) {
    serde_json::to_writer(buffer, record).expect("records have text keys only");
}

/// Hash of one row. The hash of a state is the wrapping sum over its rows, so
/// that it can follow each change without looking at the other rows.
pub fn row_hash(key: &str, value: &[u8]) -> u128 {
    let mut hasher = Sha256::new();
    hasher.update((key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(value);
    let digest = hasher.finalize();
    let mut low = [0u8; 16];
    low.copy_from_slice(&digest[..16]);
    u128::from_le_bytes(low)
}

/// Hash over rows: the sum of theirs.
pub fn rows_hash(rows: &[(String, Vec<u8>)]) -> u128 {
    rows.iter().fold(0, |sum, (key, value)| sum.wrapping_add(row_hash(key, value)))
}
