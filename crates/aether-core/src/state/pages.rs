//! Rows by their keys, for people: one, or page by page.

use std::collections::BTreeMap;
use std::ops::Bound;

use serde::Serialize;

use super::{CONFIG_PREFIX, Meta, State, audit_key, base_path, config_key, encode};
use crate::records::*;

/// Some rows, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys and values.
    pub rows: Vec<(String, Vec<u8>)>,
    /// Whether there are none after them.
    pub is_last: bool,
}

/// A record that is encoded when it is known to be wanted.
trait Row {
    fn encoded(&self) -> Vec<u8>;
}

impl<T: Serialize> Row for T {
    fn encoded(&self) -> Vec<u8> {
        encode(self)
    }
}

/// Whether the table that has this key can have one with this prefix.
fn is_table_of(key: &str, prefix: &str) -> bool {
    let table = key.split_inclusive('/').next().unwrap_or_default();
    table.starts_with(prefix) || prefix.starts_with(table)
}

impl State {
    /// The first rows of which the key begins with `prefix` and is greater than
    /// `after`, ordered by key: as many as `limit` takes, but none after those
    /// that together reach `bytes_max`. Looks through every table that can have
    /// such keys: keys are made on the way out, not kept.
    pub fn page(&self, prefix: &str, after: &str, limit: usize, bytes_max: usize) -> Page {
        // One more than asked for, to know whether there are more.
        let mut first: BTreeMap<String, &dyn Row> = BTreeMap::new();
        let mut offer = |key: String, row| {
            let is_wanted = key.starts_with(prefix) && key.as_str() > after;
            let is_early =
                first.len() <= limit || first.last_key_value().is_some_and(|l| key < *l.0);
            if is_wanted && is_early {
                first.insert(key, row);
                if first.len() > limit + 1 {
                    first.pop_last();
                }
            }
        };
        offer(Meta::KEY.to_owned(), &self.meta);
        macro_rules! each {
            ($field:ident, $key:expr) => {
                // All keys of a table begin alike.
                let name = self.$field.values().next().map(|r| ($key)(r));
                if name.is_some_and(|name| is_table_of(&name, prefix)) {
                    self.$field.values().for_each(|r| offer(($key)(r), &**r));
                }
            };
        }
        small_tables!(each);
        // There may be a million of these; their names are in the order of keys.
        let start = prefix.max(after);
        if is_table_of(CONFIG_PREFIX, prefix)
            && (start < CONFIG_PREFIX || start.starts_with(CONFIG_PREFIX))
        {
            let first = start.strip_prefix(CONFIG_PREFIX).unwrap_or_default();
            let rows = self.config.range::<_, str>((Bound::Included(first), Bound::Unbounded));
            let rows = rows.map(|(name, r)| (config_key(name), r));
            let rows = rows.skip_while(|(key, _)| key.as_str() <= after);
            rows.take(limit + 1).for_each(|(key, r)| offer(key, &**r));
        }
        let mut page = Page { rows: Vec::new(), is_last: first.len() <= limit };
        let mut bytes = 0;
        for (key, row) in first.into_iter().take(limit) {
            if bytes >= bytes_max {
                page.is_last = false;
                break;
            }
            let value = row.encoded();
            bytes += key.len() + value.len();
            page.rows.push((key, value));
        }
        page
    }

    /// The value of one row as JSON text, for people. Looks through the whole
    /// table: keys are made on the way out, not kept.
    pub fn row(&self, key: &str) -> Option<Vec<u8>> {
        if key == Meta::KEY {
            return Some(encode(&self.meta));
        }
        if let Some(name) = key.strip_prefix(CONFIG_PREFIX) {
            return self.config.get(name).map(|r| encode(&**r));
        }
        macro_rules! each {
            ($field:ident, $key:expr) => {
                if let Some(r) = self.$field.values().find(|r| ($key)(r) == key) {
                    return Some(encode(&**r));
                }
            };
        }
        small_tables!(each);
        None
    }
}
