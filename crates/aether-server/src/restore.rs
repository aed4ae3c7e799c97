//! A state from its rows, with its hash: the rows are read and put in their places
//! on this thread, and the values of users, which are nearly all of a large state,
//! are hashed on another.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use aether_core::records::ConfigRecord;
use aether_core::state::{RowError, State, rows_hash, value_hash};

/// Values that are handed over at once.
const BATCH: usize = 512;
/// Batches that wait for the other thread at most.
const BATCHES_AHEAD: usize = 8;

/// The state, and the hash over its rows as this release writes them: a row that
/// another wrote may be spelled in another way.
pub fn from_rows(
    rows: &mut dyn Iterator<Item = (String, Vec<u8>)>,
) -> Result<(State, u128), RowError> {
    let (to, batches) = sync_channel::<Vec<Arc<ConfigRecord>>>(BATCHES_AHEAD);
    thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            let mut buffer = Vec::new();
            let mut sum = 0u128;
            let mut count = 0;
            for record in batches.into_iter().flatten() {
                sum = sum.wrapping_add(value_hash(&record, &mut buffer));
                count += 1;
            }
            (sum, count)
        });
        let mut state = State::default();
        let mut batch = Vec::with_capacity(BATCH);
        for (key, value) in rows {
            batch.extend(state.add_row(&key, &value)?);
            if batch.len() == BATCH {
                let full = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
                to.send(full).expect("it is received until the sender is gone");
            }
        }
        to.send(batch).expect("it is received until the sender is gone");
        drop(to);
        let (values, count) = hashing.join().expect("hashing does not panic");
        // A row that came twice was hashed twice.
        let hash = match count == state.config.len() {
            true => values.wrapping_add(rows_hash(&state.rows_but_values())),
            false => rows_hash(&state.rows()),
        };
        Ok((state, hash))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, value: &str) -> (String, Vec<u8>) {
        let record = ConfigRecord {
            name: name.parse().unwrap(),
            value: value.into(),
            actor: "t".into(),
            wall_ms: 1,
            created: 2,
            modified: 3,
        };
        (format!("config/{name}"), serde_json::to_vec(&record).unwrap())
    }

    fn restored(rows: Vec<(String, Vec<u8>)>) -> (State, u128) {
        from_rows(&mut rows.into_iter()).unwrap()
    }

    #[test]
    fn the_hash_is_that_over_all_rows_as_they_are_written_here() {
        let mut rows: Vec<_> = (0..3_000).map(|k| row(&format!("k{k:04}"), "x\n\u{1}")).collect();
        let (state, hash) = restored(rows.clone());
        assert_eq!(state.config.len(), 3_000);
        assert_eq!(hash, rows_hash(&state.rows()));

        // In another order, one of them twice, one spelled in another way.
        rows.reverse();
        rows.push(row("k0007", "later"));
        rows[5].1.splice(1..1, *b" ");
        let (state, hash) = restored(rows);
        assert_eq!(&*state.config["k0007"].value, "later");
        assert_eq!(hash, rows_hash(&state.rows()));
    }

    #[test]
    fn a_row_that_cannot_be_read_is_named() {
        let mut rows = vec![row("a", "1"), row("b", "2")];
        rows[1].0 = "config/c".into();
        let error = from_rows(&mut rows.into_iter()).unwrap_err();
        assert!(error.to_string().contains("'config/c'"), "{error}");
    }
}
