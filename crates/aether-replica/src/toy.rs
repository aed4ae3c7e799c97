//! A toy machine for tests: a map from names to values. Shared by the unit
//! tests and, by path, by the integration tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::{Machine, Row, RowChange, Stamp};

/// What readers see: whole batches only.
#[derive(Debug, Default)]
pub struct View {
    pub rows: BTreeMap<String, Vec<u8>>,
    /// Position of the last published batch.
    pub at: Stamp,
    /// Log times of all commands applied since the start, in order.
    pub log_times: Vec<u64>,
    /// How many times a state was restored (image or snapshot).
    pub restores: usize,
}

/// The machine, and through clones of `view` its readers' end.
#[derive(Default)]
pub struct Toy {
    rows: BTreeMap<String, Vec<u8>>,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    unpublished: Vec<(String, Option<Vec<u8>>)>,
    at: Stamp,
    hash: u128,
    log_times: Vec<u64>,
    /// The key of rows that are for a newer release.
    newer: Option<&'static str>,
    unsupported: bool,
    pub view: Arc<Mutex<View>>,
}

impl Toy {
    #[allow(dead_code, reason = "used by the integration tests")]
    pub fn with_view(view: Arc<Mutex<View>>) -> Self {
        Toy { view, ..Toy::default() }
    }

    /// One that supports no row of this key.
    #[allow(dead_code, reason = "used by the integration tests")]
    pub fn without(self, key: &'static str) -> Self {
        Toy { newer: Some(key), ..self }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap()
    }
}

/// A command that sets a row.
pub fn set(key: &str, value: &str) -> Bytes {
    format!("{key}={value}").into()
}

fn row_hash(key: &str, value: &[u8]) -> u128 {
    // FNV-1a, 128 bits.
    let mut hash: u128 = 0x6c62272e07bb014262b821756295c58d;
    for byte in key.bytes().chain([0]).chain(value.iter().copied()) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000000001000000000000000000013B);
    }
    hash
}

impl Machine for Toy {
    type Image = std::collections::btree_map::IntoIter<String, Vec<u8>>;

    /// `key=value` sets a row and `-key` removes one; answers with the value
    /// before.
    fn apply(&mut self, at: Stamp, payload: &[u8]) -> Bytes {
        let newer = self.newer.map(|key| format!("{key}="));
        if newer.is_some_and(|newer| payload.starts_with(newer.as_bytes())) {
            self.unsupported = true;
            return Bytes::new();
        }
        self.at = at;
        self.log_times.push(at.log_time_ms);
        let text = String::from_utf8_lossy(payload);
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.as_bytes().to_vec())),
            None => (text.trim_start_matches('-').to_owned(), None),
        };
        let before = match value.clone() {
            Some(value) => {
                self.hash ^= row_hash(&key, &value);
                self.rows.insert(key.clone(), value)
            }
            None => self.rows.remove(&key),
        };
        if let Some(before) = &before {
            self.hash ^= row_hash(&key, before);
        }
        self.changes.insert(key.clone(), value.clone());
        self.unpublished.push((key, value));
        before.unwrap_or_default().into()
    }

    fn skip(&mut self, at: Stamp) {
        self.at = at;
    }

    fn drain_changes(&mut self) -> Vec<RowChange> {
        let changes = std::mem::take(&mut self.changes);
        changes
            .into_iter()
            .map(|(key, value)| RowChange { key: key.into(), value: value.map(Into::into) })
            .collect()
    }

    fn hash(&self) -> u128 {
        // Slow and simple; only small states are hashed often.
        self.rows.iter().fold(0, |sum, (key, value)| sum ^ row_hash(key, value))
    }

    fn image(&self) -> Self::Image {
        self.rows.clone().into_iter()
    }

    fn restore(&mut self, at: Stamp, rows: &mut dyn Iterator<Item = Row>) -> Result<(), String> {
        self.rows = rows.collect();
        self.unsupported = self.newer.is_some_and(|key| self.rows.contains_key(key));
        if self.unsupported {
            return Err("a row cannot be read".to_owned());
        }
        self.hash = self.rows.iter().fold(0, |sum, (key, value)| sum ^ row_hash(key, value));
        self.changes.clear();
        self.unpublished.clear();
        self.at = at;
        let mut view = self.view();
        view.rows = self.rows.clone();
        view.restores += 1;
        Ok(())
    }

    fn unsupported(&self) -> Option<String> {
        self.unsupported.then(|| "a row is for a newer release: install that".to_owned())
    }

    fn publish(&mut self) {
        let unpublished = std::mem::take(&mut self.unpublished);
        let log_times = std::mem::take(&mut self.log_times);
        let at = self.at;
        let mut view = self.view();
        for (key, value) in unpublished {
            match value {
                Some(value) => view.rows.insert(key, value),
                None => view.rows.remove(&key),
            };
        }
        view.log_times.extend(log_times);
        view.at = at;
    }
}
