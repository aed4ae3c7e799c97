//! What a watcher was told, held against what was acknowledged: every write
//! that was done is one change at its own index, in order, and nothing else is.

use std::collections::{BTreeMap, HashMap};

use super::{Asked, Index, Operation, Outcome, Value, Violation, puts_by_value, violation};

/// A change that a watcher was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Log index of the write.
    pub index: Index,
    /// Its key.
    pub key: u32,
    /// What was put; none of a delete.
    pub value: Option<Value>,
}

/// All that one watcher was told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watched {
    /// In the order in which they came.
    pub changes: Vec<Change>,
    /// After the first index and up to the second it had to begin anew, because
    /// nobody kept the changes: some may be missing.
    pub gaps: Vec<(Index, Index)>,
    /// It began after this index.
    pub after: Index,
    /// It knows that nothing else is up to here.
    pub up_to: Index,
}

impl Watched {
    fn must_have(&self, index: Index) -> bool {
        let in_gap = self.gaps.iter().any(|(after, up_to)| (after + 1..=*up_to).contains(&index));
        (self.after + 1..=self.up_to).contains(&index) && !in_gap
    }
}

/// Holds the changes against the operations.
///
/// # Errors
/// The first change that is out of order, twice or of no write; or a write that
/// was acknowledged and is missing.
pub fn check(operations: &[Operation], watched: &Watched) -> Result<(), Violation> {
    let mut last = watched.after;
    for change in &watched.changes {
        if change.index <= last {
            return violation(format!("after index {last} came {change:?}"));
        }
        last = change.index;
    }
    let puts = puts_by_value(operations)?;
    let mut open_deletes: HashMap<u32, usize> = HashMap::new();
    let mut written: BTreeMap<Index, &Operation> = BTreeMap::new();
    for operation in operations {
        match (operation.asked, operation.outcome) {
            (_, Outcome::Written(index)) => drop(written.insert(index, operation)),
            (Asked::Delete(_), Outcome::Unknown) => {
                *open_deletes.entry(operation.key).or_default() += 1;
            }
            _ => {}
        }
    }
    let mut told: HashMap<Value, Index> = HashMap::new();
    let mut by_index: HashMap<Index, &Change> = HashMap::new();
    for change in &watched.changes {
        by_index.insert(change.index, change);
        if let Some(operation) = written.get(&change.index) {
            is_of(operation, change)?;
            continue;
        }
        let Some(value) = change.value else {
            let left = open_deletes.entry(change.key).or_default();
            if *left == 0 {
                return violation(format!("nobody deleted that: {change:?}"));
            }
            *left -= 1;
            continue;
        };
        let put = puts.get(&value).map(|at| &operations[*at]);
        match put.filter(|put| put.key == change.key && put.outcome == Outcome::Unknown) {
            None => return violation(format!("no put was done there: {change:?}; {put:?}")),
            Some(put) => {
                if let Some(before) = told.insert(value, change.index) {
                    return violation(format!("done at {before} and again: {change:?}\n  {put}"));
                }
            }
        }
    }
    let missing = written
        .iter()
        .find(|(index, _)| watched.must_have(**index) && !by_index.contains_key(index));
    match missing {
        Some((_, operation)) => {
            violation(format!("key {}: no change tells of it:\n  {operation}", operation.key))
        }
        None => Ok(()),
    }
}

fn is_of(operation: &Operation, change: &Change) -> Result<(), Violation> {
    let value = match operation.asked {
        Asked::Put(value, _) => Some(value),
        _ => None,
    };
    if (operation.key, value) == (change.key, change.value) {
        return Ok(());
    }
    violation(format!(
        "not what was written there: {change:?}\n  key {}: {operation}",
        operation.key
    ))
}

/// Two watchers of different nodes were told the same, as far as both know.
///
/// # Errors
/// The first change that only one of them has.
pub fn check_equal(one: &Watched, other: &Watched) -> Result<(), Violation> {
    let both = |change: &&Change| one.must_have(change.index) && other.must_have(change.index);
    let mut of_one = one.changes.iter().filter(both);
    let mut of_other = other.changes.iter().filter(both);
    loop {
        match (of_one.next(), of_other.next()) {
            (None, None) => return Ok(()),
            (one, other) if one == other => {}
            (one, other) => return violation(format!("told {one:?} here and {other:?} there")),
        }
    }
}
