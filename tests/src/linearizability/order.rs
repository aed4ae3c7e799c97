//! The cheap check: the log index of a write is its place among all writes.
//!
//! It asks more than linearizability does of each key. All indices are of one
//! log, so they order the writes of all keys, in the order of real time; and a
//! read that says as of which index it is has exactly the writes up to there.

use std::collections::{BTreeMap, HashMap};

use super::search::Indices;
use super::{Asked, Index, Operation, Outcome, Value, Violation, violation};

/// A write whose index is known: by its answer, or because it was read.
#[derive(Debug, Clone, Copy)]
struct Write {
    at: usize,
    is_put: bool,
}

/// What had been acknowledged, over time.
struct Floors(Vec<(u64, Index, usize)>);

impl Floors {
    fn of(operations: &[Operation]) -> Self {
        let shown = |(at, operation): (usize, &Operation)| {
            let index = match operation.outcome {
                Outcome::Written(index) => index,
                Outcome::Seen { as_of: Some(index), .. } => index,
                Outcome::Seen { record: Some((_, index)), .. } => index,
                Outcome::Refused(index) => index,
                _ => return None,
            };
            Some((operation.returned, index, at))
        };
        let mut floors: Vec<_> = operations.iter().enumerate().filter_map(shown).collect();
        floors.sort_unstable();
        let mut highest = (0, 0);
        for (_, index, at) in &mut floors {
            highest = highest.max((*index, *at));
            (*index, *at) = highest;
        }
        Self(floors)
    }

    /// The highest index that anybody was told before this time, and by which
    /// operation.
    fn at(&self, time: u64) -> Option<(Index, usize)> {
        let count = self.0.partition_point(|(returned, ..)| *returned < time);
        let (_, index, at) = self.0.get(count.checked_sub(1)?)?;
        Some((*index, *at))
    }
}

/// Holds every answer against the order of the log.
///
/// # Errors
/// Some do not agree, and which.
pub fn check(operations: &[Operation]) -> Result<(), Violation> {
    let check = Order::of(operations)?;
    for operation in operations {
        check.real_time(operation)?;
        check.condition(operation)?;
        check.read(operation)?;
    }
    Ok(())
}

struct Order<'a> {
    operations: &'a [Operation],
    floors: Floors,
    /// By key, in the order of the log.
    writes: HashMap<u32, BTreeMap<Index, Write>>,
    /// By key: when the first delete of unknown outcome was called.
    open_deletes: HashMap<u32, u64>,
    /// Index of each write of unknown outcome that was read, by its value.
    seen: HashMap<Value, Index>,
}

impl<'a> Order<'a> {
    fn of(operations: &'a [Operation]) -> Result<Self, Violation> {
        let Indices { seen, .. } = Indices::of(operations)?;
        let mut writes: HashMap<u32, BTreeMap<Index, Write>> = HashMap::new();
        let mut open_deletes: HashMap<u32, u64> = HashMap::new();
        for (at, operation) in operations.iter().enumerate() {
            let index = match (operation.asked, operation.outcome) {
                (_, Outcome::Written(index)) => index,
                (Asked::Put(value, _), Outcome::Unknown) if seen.contains_key(&value) => {
                    seen[&value]
                }
                (Asked::Delete(_), Outcome::Unknown) => {
                    let called = open_deletes.entry(operation.key).or_insert(operation.called);
                    *called = operation.called.min(*called);
                    continue;
                }
                _ => continue,
            };
            let write = Write { at, is_put: matches!(operation.asked, Asked::Put(..)) };
            writes.entry(operation.key).or_default().insert(index, write);
        }
        let floors = Floors::of(operations);
        Ok(Self { operations, floors, writes, open_deletes, seen })
    }

    /// The last write of the key before an index, or at it.
    fn last(&self, key: u32, up_to: Index) -> Option<(Index, Write)> {
        let (index, write) = self.writes.get(&key)?.range(..=up_to).next_back()?;
        Some((*index, *write))
    }

    /// What comes after an answer has a higher index.
    fn real_time(&self, operation: &Operation) -> Result<(), Violation> {
        let (index, may_be_equal) = match (operation.asked, operation.outcome) {
            (_, Outcome::Written(index)) => (index, false),
            (Asked::Put(value, _), Outcome::Unknown) if self.seen.contains_key(&value) => {
                (self.seen[&value], false)
            }
            (_, Outcome::Seen { as_of: Some(index), .. }) => (index, true),
            _ => return Ok(()),
        };
        let Some((floor, before)) = self.floors.at(operation.called) else { return Ok(()) };
        if floor < index || (may_be_equal && floor == index) {
            return Ok(());
        }
        let before = self.operations[before];
        violation(format!(
            "index {floor} was told before this was called, and yet it has {index}:\n  key {}: \
             {before}\n  key {}: {operation}",
            before.key, operation.key
        ))
    }

    /// A write with a condition followed the write that it named.
    fn condition(&self, operation: &Operation) -> Result<(), Violation> {
        let (Asked::Put(_, Some(wanted)) | Asked::Delete(Some(wanted))) = operation.asked else {
            return Ok(());
        };
        let Outcome::Written(index) = operation.outcome else { return Ok(()) };
        let Some((last, write)) = self.last(operation.key, index.saturating_sub(1)) else {
            return Ok(());
        };
        let is_gone = self.open_deletes.contains_key(&operation.key);
        let fits = match wanted {
            0 => !write.is_put || is_gone,
            // One that nobody has seen otherwise.
            wanted if last < wanted => wanted < index,
            wanted => last == wanted && write.is_put,
        };
        if fits {
            return Ok(());
        }
        let between = self.operations[write.at];
        let key = operation.key;
        violation(format!("key {key}: not what its condition names:\n  {between}\n  {operation}"))
    }

    /// Whether a delete with a later index, or of unknown outcome, may have come
    /// before a read returned.
    fn may_be_deleted_after(&self, index: Index, read: &Operation, as_of: Option<Index>) -> bool {
        let open = self.open_deletes.get(&read.key);
        let later = self.writes.get(&read.key).into_iter().flat_map(|w| w.range(index + 1..));
        open.is_some_and(|called| *called <= read.returned)
            || later.into_iter().any(|(index, write)| {
                let called = self.operations[write.at].called;
                !write.is_put && called <= read.returned && as_of.is_none_or(|at| *index <= at)
            })
    }

    /// A read has the last write up to its index, and no older one.
    fn read(&self, operation: &Operation) -> Result<(), Violation> {
        let Outcome::Seen { record, as_of } = operation.outcome else { return Ok(()) };
        let told = self.floors.at(operation.called).map_or(0, |(index, _)| index);
        let up_to = as_of.unwrap_or(told);
        let Some((last, write)) = self.last(operation.key, up_to) else { return Ok(()) };
        let fits = match record {
            Some((_, modified)) => last <= modified && as_of.is_none_or(|at| modified <= at),
            None => !write.is_put || self.may_be_deleted_after(last, operation, as_of),
        };
        if fits {
            return Ok(());
        }
        let key = operation.key;
        let write = self.operations[write.at];
        violation(format!("key {key}: a stale read, told {up_to}:\n  {write}\n  {operation}"))
    }
}
