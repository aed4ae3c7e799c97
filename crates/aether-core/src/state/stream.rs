//! All rows of a state, one after the other, and a state from them.
//!
//! Values of users may be a thousand times as many as everything else together,
//! so nothing here holds all of their rows at once.

use std::ops::Bound;
use std::sync::Arc;

use super::{
    CONFIG_PREFIX, Meta, RowError, State, audit_key, base_path, config_key, decode, encode,
    row_hash,
};
use crate::ids::ConfigName;
use crate::records::*;

/// Values that are encoded at a time.
const VALUES_AHEAD: usize = 256;

/// Every row, ordered by key. Making one costs a copy of the state; rows are
/// encoded when they are asked for, values of users shortly before their turn.
pub struct RowStream {
    state: State,
    has_begun: bool,
    /// Rows with keys before those of values, in reverse.
    before: Vec<(String, Vec<u8>)>,
    values: std::vec::IntoIter<(String, Vec<u8>)>,
    /// The last value that was encoded.
    last: Option<ConfigName>,
    /// Rows with keys after those of values, in reverse.
    after: Vec<(String, Vec<u8>)>,
}

impl RowStream {
    /// The rows of this state.
    pub fn new(state: State) -> Self {
        RowStream {
            state,
            has_begun: false,
            before: Vec::new(),
            values: Vec::new().into_iter(),
            last: None,
            after: Vec::new(),
        }
    }

    fn begin(&mut self) {
        self.has_begun = true;
        self.after = self.state.rows_but_values();
        self.after.reverse();
        let first_before = self.after.partition_point(|(key, _)| key.as_str() > CONFIG_PREFIX);
        self.before = self.after.split_off(first_before);
    }

    fn next_value(&mut self) -> Option<(String, Vec<u8>)> {
        if self.values.len() == 0 {
            let first = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let next = self
                .state
                .config
                .range::<_, ConfigName>((first, Bound::Unbounded))
                .take(VALUES_AHEAD);
            let mut rows = Vec::with_capacity(VALUES_AHEAD);
            let mut last = None;
            for (name, record) in next {
                rows.push((config_key(name), encode(&**record)));
                last = Some(name);
            }
            if let Some(last) = last.cloned() {
                self.last = Some(last);
            }
            self.values = rows.into_iter();
        }
        self.values.next()
    }
}

impl Iterator for RowStream {
    type Item = (String, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        if !self.has_begun {
            self.begin();
        }
        self.before.pop().or_else(|| self.next_value()).or_else(|| self.after.pop())
    }
}

/// Hash of the row of a value, as [`row_hash`] makes it. `buffer` is for reuse.
pub fn value_hash(record: &ConfigRecord, buffer: &mut Vec<u8>) -> u128 {
    buffer.clear();
    serde_json::to_writer(&mut *buffer, record).expect("records have text keys only");
    row_hash(&config_key(&record.name), buffer)
}

impl State {
    /// Adds a row; gives back a value of users that it was.
    ///
    /// # Errors
    /// See [`State::from_rows`].
    pub fn add_row(
        &mut self,
        key: &str,
        value: &[u8],
    ) -> Result<Option<Arc<ConfigRecord>>, RowError> {
        if !key.starts_with(CONFIG_PREFIX) {
            let added = self.insert_row(key, value);
            self.settle();
            return added.map(|()| None);
        }
        let record = decode::<ConfigRecord>(key, value)?;
        self.put_config(record.clone());
        self.config.settle();
        Ok(Some(record))
    }

    /// Every row but those of values, ordered by key.
    pub fn rows_but_values(&self) -> Vec<(String, Vec<u8>)> {
        let mut rows = vec![(Meta::KEY.to_owned(), encode(&self.meta))];
        macro_rules! each {
            ($field:ident, $key:expr) => {
                rows.extend(self.$field.values().map(|r| (($key)(r), encode(&**r))));
            };
        }
        small_tables!(each);
        rows.sort_unstable();
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::Position;
    use crate::command::{Command, Request};

    #[test]
    fn the_stream_has_every_row_in_order() {
        let mut state = State::default();
        state.meta.feature_level = crate::level::FEATURE_LEVEL_MAX;
        assert!(RowStream::new(state.clone()).eq(state.rows()));
        let node = Command::RegisterNode {
            node: "n1".parse().unwrap(),
            address: "127.0.0.1:1".parse().unwrap(),
            labels: Default::default(),
            instances_max: 1,
        };
        // More than are encoded at a time, with names that a '/' or '-' parts.
        let names = (0..3 * VALUES_AHEAD)
            .map(|k| ["a-", "a/", "b", "a."][k % 4].to_owned() + &k.to_string());
        let values = names.map(|name| Command::PutConfig {
            name: name.parse().unwrap(),
            value: name.as_str().into(),
            if_modified: None,
        });
        for (index, command) in (1..).zip([node].into_iter().chain(values)) {
            let request = Request { request_id: None, actor: "t".into(), command };
            let at = Position { term: 1, index, log_time_ms: index, wall_ms: 0 };
            state.apply(at, &request).unwrap();
            if index % 100 == 0 {
                assert!(RowStream::new(state.clone()).eq(state.rows()), "at {index}");
            }
        }
        assert!(state.config.len() == 3 * VALUES_AHEAD && !state.nodes.is_empty());
        assert!(RowStream::new(state.clone()).eq(state.rows()));

        let mut copy = State::default();
        let (mut buffer, mut values) = (Vec::new(), 0);
        for (key, value) in RowStream::new(state.clone()) {
            let added = copy.add_row(&key, &value).unwrap();
            assert_eq!(added.is_some(), key.starts_with(CONFIG_PREFIX));
            if let Some(record) = added {
                assert_eq!(value_hash(&record, &mut buffer), row_hash(&key, &value));
                values += 1;
            }
        }
        assert_eq!(values, 3 * VALUES_AHEAD);
        assert_eq!((copy.rows(), copy.config_bytes()), (state.rows(), state.config_bytes()));
    }
}
