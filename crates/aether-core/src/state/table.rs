//! One replicated table, which notes what is done to it: the changes of an
//! entry are known without a look for them, and can be taken back.

use std::fmt::{self, Debug, Formatter};
use std::ops::Deref;
use std::sync::Arc;

use imbl::OrdMap;

/// A persistent map of records, and what was in the place of those that were
/// written since its changes were last taken.
#[derive(Clone)]
pub struct Table<K, V> {
    rows: OrdMap<K, Arc<V>>,
    /// The latest last.
    journal: Vec<Write<K, V>>,
}

/// One write of one record.
#[derive(Clone)]
struct Write<K, V> {
    key: K,
    before: Option<Arc<V>>,
    after: Option<Arc<V>>,
}

/// A record before and after some writes. Absent is what was not, or is no more.
pub(super) type Change<V> = (Option<Arc<V>>, Option<Arc<V>>);

impl<K: Ord + Debug, V: Debug> Debug for Table<K, V> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.rows.fmt(f)
    }
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: OrdMap::new(), journal: Vec::new() }
    }
}

/// Reads are those of the map.
impl<K, V> Deref for Table<K, V> {
    type Target = OrdMap<K, Arc<V>>;

    fn deref(&self) -> &Self::Target {
        &self.rows
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a Arc<V>);
    type IntoIter = <&'a OrdMap<K, Arc<V>> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (&self.rows).into_iter()
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Inserts or replaces a record; gives the one that was replaced.
    pub fn insert(&mut self, key: K, record: Arc<V>) -> Option<Arc<V>> {
        let replaced = self.rows.insert(key.clone(), record.clone());
        self.journal.push(Write { key, before: replaced.clone(), after: Some(record) });
        replaced
    }

    /// Removes a record, if it is there.
    pub fn remove(&mut self, key: &K) -> Option<Arc<V>> {
        let removed = self.rows.remove(key)?;
        let before = Some(removed.clone());
        self.journal.push(Write { key: key.clone(), before, after: None });
        Some(removed)
    }

    /// Removes every record.
    pub fn clear(&mut self) {
        let rows = std::mem::take(&mut self.rows).into_iter();
        self.journal.extend(rows.map(|(key, record)| Write {
            key,
            before: Some(record),
            after: None,
        }));
    }

    /// Forgets what was done: it stays.
    pub(super) fn settle(&mut self) {
        self.journal.clear();
    }

    /// Takes back everything that was done since the changes were last taken.
    pub(super) fn undo(&mut self) {
        for Write { key, before, .. } in self.journal.drain(..).rev() {
            match before {
                Some(record) => drop(self.rows.insert(key, record)),
                None => drop(self.rows.remove(&key)),
            }
        }
    }

    /// What changed since this was last asked, in the order of the keys. Not
    /// what was written as it was.
    pub(super) fn take_changes(&mut self) -> impl Iterator<Item = Change<V>> + '_ {
        if self.journal.len() > 1 {
            // Of several writes of one record, the first knows what was there,
            // and the last what is.
            self.journal.sort_by(|a, b| a.key.cmp(&b.key));
            self.journal.dedup_by(|later, first| {
                let same = later.key == first.key;
                if same {
                    first.after = later.after.take();
                }
                same
            });
        }
        let changes = self.journal.drain(..).map(|write| (write.before, write.after));
        changes.filter(|(before, after)| before != after)
    }
}
