//! The search for an order: Wing and Gong's algorithm as Lowe improved it
//! ("Testing for linearizability", 2017), key by key, because a history is
//! linearizable if that of each key is (Herlihy and Wing).
//!
//! Calls and returns are a linked list in the order of time. An operation whose
//! call stands before the first return that is left may come next; it is tried,
//! lifted out of the list, and put back if nothing fits after it. What was tried
//! is remembered as the set of operations that came so far and the state that
//! they left: the same twice leads nowhere twice.
//!
//! An index that was replaced never comes back. So a write waits for everything
//! that needs what it replaces, which leaves few wrong turns to take.
//!
//! A write of unknown outcome has a call and no return: it may come at any time
//! after its call and need not come at all. So these are tried last, and a place
//! that was reached before without some of them need not be tried with more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use super::{Asked, Index, Operation, Outcome, Value, Violation, puts_by_value, violation};

/// Steps of the search of one key. A history that fits takes little more than
/// one for each pair of concurrent operations.
const STEPS_MAX: u64 = 200_000_000;
/// Bytes of what is remembered for one key.
const MEMORY_BYTES_MAX: usize = 512 * 1024 * 1024;
/// Operations that are shown on each side of the place where it gets stuck.
const SHOWN: usize = 12;

/// Index of a record whose write has an unknown outcome and was never seen.
const UNSEEN: Index = Index::MAX;

/// How a search ended without a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Searched {
    /// Keys that there were.
    pub keys: usize,
    /// Operations that were put in order.
    pub operations: usize,
    /// Writes of unknown outcome among them.
    pub open: usize,
    /// Steps that it took.
    pub steps: u64,
}

/// A register: what is there, and the index of its write. Both are 0 of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Register {
    value: Value,
    modified: Index,
}

/// Looks for an order of the operations on each key.
///
/// # Errors
/// There is none, with the place where the longest one gets stuck; or it was
/// not found within the bounds of time and memory, which is said to be so.
pub fn check(operations: &[Operation]) -> Result<Searched, Violation> {
    let mut keys: BTreeMap<u32, Vec<Operation>> = BTreeMap::new();
    for operation in operations.iter().filter(|operation| operation.counts()) {
        keys.entry(operation.key).or_default().push(*operation);
    }
    let mut all = Searched { keys: keys.len(), ..Searched::default() };
    for (key, operations) in keys {
        let mut search = Search::over(operations)?;
        all.operations += search.operations.len();
        all.open += search.operations.len() - search.closed;
        search.run(key)?;
        all.steps += search.steps;
    }
    Ok(all)
}

/// What is known of indices beside what each answer says.
#[derive(Debug, Default)]
pub(super) struct Indices {
    /// Of each write of unknown outcome that was read, by its value.
    pub seen: HashMap<Value, Index>,
    /// Of all writes that were acknowledged or read.
    known: HashSet<Index>,
}

impl Indices {
    /// Of a history.
    ///
    /// # Errors
    /// Two writes have the same, or an answer has one that its write has not.
    pub(super) fn of(operations: &[Operation]) -> Result<Self, Violation> {
        let seen = seen_indices(operations)?;
        let mut known: HashSet<Index> = HashSet::new();
        for operation in operations {
            let index = match (operation.asked, operation.outcome) {
                (_, Outcome::Written(index)) => Some(index),
                (Asked::Put(value, _), Outcome::Unknown) => seen.get(&value).copied(),
                _ => None,
            };
            if index.is_some_and(|index| !known.insert(index)) {
                let what = format!("another write at the index {}", index.unwrap_or_default());
                return violation(format!("there is {what} of this:\n  {operation}"));
            }
        }
        Ok(Self { seen, known })
    }
}

/// The index that has to be there when an operation comes, if it is a certain one.
fn needed(operation: &Operation) -> Option<Index> {
    let index = match (operation.asked, operation.outcome) {
        (_, Outcome::Seen { record, .. }) => record.map(|(_, modified)| modified),
        (_, Outcome::Refused(actual)) => Some(actual),
        (Asked::Put(_, condition) | Asked::Delete(condition), Outcome::Written(_)) => condition,
        _ => None,
    };
    // That there is none may come back.
    index.filter(|index| *index != 0)
}

/// The register after an operation that comes next, if its answer fits.
pub(super) fn next(now: Register, operation: &Operation, indices: &Indices) -> Option<Register> {
    let is = |index: Index| now.modified == index;
    // An index that belongs to no known write may be that of one of which nothing
    // was known but that it may have happened.
    let may_be =
        |index: Index| is(index) || (is(UNSEEN) && index != 0 && !indices.known.contains(&index));
    let fits = |condition: Option<Index>| condition.is_none_or(may_be);
    match (operation.asked, operation.outcome) {
        (Asked::Get, Outcome::Seen { record, .. }) => {
            let (value, modified) = record.unwrap_or_default();
            (now == Register { value, modified }).then_some(now)
        }
        (Asked::Put(value, condition), Outcome::Written(modified)) => {
            fits(condition).then_some(Register { value, modified })
        }
        (Asked::Put(value, condition), Outcome::Unknown) => {
            let unseen = Register { value: 0, modified: UNSEEN };
            let seen = indices.seen.get(&value);
            let after = seen.map_or(unseen, |index| Register { value, modified: *index });
            fits(condition).then_some(after)
        }
        (Asked::Delete(condition), Outcome::Written(_) | Outcome::Unknown) => {
            (fits(condition) && !is(0)).then_some(Register::default())
        }
        (Asked::Put(_, condition), Outcome::Refused(actual)) => {
            let may_refuse = condition.is_some_and(|condition| condition != actual);
            (may_refuse && may_be(actual)).then_some(Register { modified: actual, ..now })
        }
        (Asked::Delete(condition), Outcome::Refused(actual)) => {
            let may_refuse = actual == 0 || condition.is_some_and(|condition| condition != actual);
            (may_refuse && may_be(actual)).then_some(Register { modified: actual, ..now })
        }
        _ => None,
    }
}

/// The index of every write of unknown outcome that a read saw.
fn seen_indices(operations: &[Operation]) -> Result<HashMap<Value, Index>, Violation> {
    let puts = puts_by_value(operations)?;
    let mut indices = HashMap::new();
    for operation in operations {
        let Outcome::Seen { record: Some((value, index)), .. } = operation.outcome else {
            continue;
        };
        let put = puts.get(&value).map(|at| &operations[*at]);
        let Some(put) = put.filter(|put| put.key == operation.key) else {
            return violation(format!("nobody put what was read:\n  {operation}"));
        };
        let known = match put.outcome {
            Outcome::Written(known) => known,
            Outcome::Unknown => *indices.entry(value).or_insert(index),
            _ => {
                let what = "a put that was not done was read";
                return violation(format!("{what}:\n  {put}\n  {operation}"));
            }
        };
        if known != index || index == 0 || index == UNSEEN {
            return violation(format!("not the index of its write:\n  {put}\n  {operation}"));
        }
    }
    Ok(indices)
}

/// Where the search looks next: at event `2 k` or `2 k + 1` of the list, which
/// are the call and the return of operation `k`, or at an open operation.
#[derive(Debug, Clone, Copy)]
enum Place {
    Event(usize),
    Open(usize),
}

struct Search {
    /// Those that must come, in the order of their calls, then those that may.
    operations: Vec<Operation>,
    /// How many must.
    closed: usize,
    indices: Indices,
    /// When each that may come can: called, and called what needs it, because
    /// nothing else can come until that does.
    earliest: Vec<u64>,
    /// Of each that may, the one before it that differs in nothing but time, and
    /// must come first.
    alike: Vec<Option<usize>>,
    /// The list of the events of those that must come; its head is behind them.
    next: Vec<usize>,
    before: Vec<usize>,
    /// Which have come, as bits; those that must and those that may apart.
    came: Vec<u64>,
    came_open: Vec<u64>,
    /// How many that must have come, and up to where all have.
    came_count: usize,
    base: usize,
    /// By index, how many that must come and have not need it.
    needs: HashMap<Index, u32>,
    /// By what came of those that must, and what is there then: with which of
    /// those that may it was tried.
    tried: HashMap<Box<[u64]>, Vec<Box<[u64]>>>,
    memory: usize,
    steps: u64,
}

impl Search {
    fn over(mut operations: Vec<Operation>) -> Result<Self, Violation> {
        operations.sort_by_key(|o| (o.outcome == Outcome::Unknown, o.called, o.returned));
        let indices = Indices::of(&operations)?;
        let closed = operations.partition_point(|o| o.outcome != Outcome::Unknown);
        let mut needs: HashMap<Index, u32> = HashMap::new();
        let mut first_need: HashMap<Index, u64> = HashMap::new();
        for operation in &operations[..closed] {
            let Some(index) = needed(operation) else { continue };
            *needs.entry(index).or_default() += 1;
            first_need.entry(index).or_insert(operation.called);
        }
        let earliest = |operation: &Operation| {
            let index = match operation.asked {
                Asked::Put(value, _) => indices.seen.get(&value),
                _ => None,
            };
            let need = index.and_then(|index| first_need.get(index)).copied();
            operation.called.max(need.unwrap_or(0))
        };
        operations[closed..].sort_by_key(earliest);
        let earliest = operations[closed..].iter().map(earliest).collect();
        // At the same instant calls come first: whatever is in doubt is
        // concurrent.
        let mut events: Vec<(u64, bool, usize)> = Vec::new();
        for (k, operation) in operations[..closed].iter().enumerate() {
            events.push((operation.called, false, 2 * k));
            events.push((operation.returned, true, 2 * k + 1));
        }
        events.sort_unstable();
        let head = 2 * closed;
        let (mut next, mut before) = (vec![head; head + 1], vec![head; head + 1]);
        let mut last = head;
        for (_, _, event) in events {
            (next[last], before[event]) = (event, last);
            last = event;
        }
        (next[last], before[head]) = (head, last);
        let mut kinds = HashMap::new();
        let alike = (closed..operations.len())
            .map(|k| {
                let kind = match operations[k].asked {
                    Asked::Put(value, condition) if !indices.seen.contains_key(&value) => {
                        Asked::Put(0, condition)
                    }
                    other => other,
                };
                kinds.insert(kind, k)
            })
            .collect();
        let words = |count: usize| vec![0; count.div_ceil(64)];
        Ok(Self {
            came: words(closed),
            came_open: words(operations.len() - closed),
            operations,
            closed,
            indices,
            earliest,
            alike,
            next,
            before,
            came_count: 0,
            base: 0,
            needs,
            tried: HashMap::new(),
            memory: 0,
            steps: 0,
        })
    }

    fn run(&mut self, key: u32) -> Result<(), Violation> {
        let mut register = Register::default();
        // What came, and what was there before.
        let mut order: Vec<(usize, Register)> = Vec::new();
        let mut longest: Vec<usize> = Vec::new();
        let mut place = self.first();
        while self.came_count < self.closed {
            self.steps += 1;
            if self.steps > STEPS_MAX || self.memory > MEMORY_BYTES_MAX {
                return Err(self.undecided(key, &longest));
            }
            if let Some(k) = self.at(place) {
                let after = self.next(register, k);
                if let Some(after) = after
                    && self.comes(k, after)
                {
                    order.push((k, register));
                    register = after;
                    place = self.first();
                } else {
                    place = self.behind(k);
                }
                continue;
            }
            // One has to come before it returns: something before was wrong.
            if order.len() > longest.len() {
                longest = order.iter().map(|(k, _)| *k).collect();
            }
            let Some((k, was)) = order.pop() else { return Err(self.stuck(key, &longest)) };
            register = was;
            self.goes(k);
            place = self.behind(k);
        }
        Ok(())
    }

    /// The register after an operation that comes next, if it may.
    fn next(&self, now: Register, k: usize) -> Option<Register> {
        let after = next(now, &self.operations[k], &self.indices)?;
        let own = u32::from(k < self.closed && needed(&self.operations[k]) == Some(now.modified));
        let needs = self.needs.get(&now.modified).copied().unwrap_or(0);
        (after.modified == now.modified || needs <= own).then_some(after)
    }

    fn first(&self) -> Place {
        Place::Event(self.next[2 * self.closed])
    }

    /// The place after an operation that is in the list.
    fn behind(&self, k: usize) -> Place {
        if k < self.closed { Place::Event(self.next[2 * k]) } else { Place::Open(k + 1) }
    }

    /// The operation that may come next, at a place or after it.
    fn at(&self, place: Place) -> Option<usize> {
        let from = match place {
            Place::Event(event) if event.is_multiple_of(2) => return Some(event / 2),
            Place::Event(_) => self.closed,
            Place::Open(k) => k,
        };
        let mut event = self.next[2 * self.closed];
        while event.is_multiple_of(2) {
            event = self.next[event];
        }
        let due = self.operations[event / 2].returned;
        let is_left = |k: &usize| !bit(&self.came_open, k - self.closed);
        let is_early = |k: &usize| self.earliest[k - self.closed] <= due;
        (from..self.operations.len()).take_while(is_early).find(|k| {
            is_left(k) && self.alike[k - self.closed].is_none_or(|other| !is_left(&other))
        })
    }

    /// An operation comes, unless that was tried. Whether it did.
    fn comes(&mut self, k: usize, after: Register) -> bool {
        self.set(k);
        let configuration = self.configuration(after);
        let bytes = (configuration.len() + self.came_open.len()) * 8 + 80;
        let tried = self.tried.entry(configuration).or_default();
        let with_less = |with: &[u64]| with.iter().zip(&self.came_open).all(|(a, b)| a & !b == 0);
        if tried.iter().any(|with| with_less(with)) {
            self.unset(k);
            return false;
        }
        tried.push(self.came_open.clone().into());
        self.memory += bytes;
        if k < self.closed {
            for event in [2 * k, 2 * k + 1] {
                let (before, next) = (self.before[event], self.next[event]);
                (self.next[before], self.before[next]) = (next, before);
            }
        }
        true
    }

    /// It is put back: the last that came.
    fn goes(&mut self, k: usize) {
        self.unset(k);
        if k < self.closed {
            for event in [2 * k + 1, 2 * k] {
                let (before, next) = (self.before[event], self.next[event]);
                (self.next[before], self.before[next]) = (event, event);
            }
        }
    }

    fn needs_of(&mut self, k: usize) -> Option<&mut u32> {
        self.needs.get_mut(&needed(&self.operations[k])?)
    }

    fn set(&mut self, k: usize) {
        if k >= self.closed {
            flip(&mut self.came_open, k - self.closed);
            return;
        }
        flip(&mut self.came, k);
        if let Some(needs) = self.needs_of(k) {
            *needs -= 1;
        }
        self.came_count += 1;
        while self.base < self.closed && bit(&self.came, self.base) {
            self.base += 1;
        }
    }

    fn unset(&mut self, k: usize) {
        if k >= self.closed {
            flip(&mut self.came_open, k - self.closed);
            return;
        }
        flip(&mut self.came, k);
        if let Some(needs) = self.needs_of(k) {
            *needs += 1;
        }
        self.came_count -= 1;
        self.base = self.base.min(k);
    }

    /// Which came of those that must, and what is there then: all up to a base,
    /// and the words from there as far as anything is set.
    fn configuration(&self, after: Register) -> Box<[u64]> {
        let mut words = vec![after.value, after.modified, self.base as u64];
        let mut left = self.came_count - self.base;
        let first = self.base / 64;
        for (at, word) in self.came.iter().enumerate().skip(first) {
            if left == 0 {
                break;
            }
            let beyond = match at == first {
                true => word & (u64::MAX << (self.base % 64)),
                false => *word,
            };
            left -= beyond.count_ones() as usize;
            words.push(beyond);
        }
        words.into()
    }

    fn undecided(&self, key: u32, longest: &[usize]) -> Violation {
        Violation(format!(
            "key {key} is undecided: no order of its {} operations ({} of unknown outcome) was \
             found in {} steps and {} MiB; fewer operations or clients per key are easier to \
             order. So far:\n{}",
            self.operations.len(),
            self.operations.len() - self.closed,
            self.steps,
            self.memory >> 20,
            self.stuck(key, longest)
        ))
    }

    /// What to say when the longest order of operations cannot be gone on with.
    fn stuck(&self, key: u32, longest: &[usize]) -> Violation {
        let mut register = Register::default();
        for k in longest {
            register = next(register, &self.operations[*k], &self.indices).unwrap_or(register);
        }
        let came: HashSet<usize> = longest.iter().copied().collect();
        let left = |range: std::ops::Range<usize>| range.filter(|k| !came.contains(k));
        let returns = left(0..self.closed).map(|k| self.operations[k].returned);
        let due = returns.min().unwrap_or(u64::MAX);
        let called = |k: &usize| self.operations[*k].called <= due;
        let closed = left(0..self.closed).filter(called);
        // Open ones may be many, and the latest matter most.
        let open = left(self.closed..self.operations.len()).filter(called);
        let mut text = format!("key {key} is not linearizable.\n");
        // Writing to a String cannot fail.
        let _ = writeln!(text, "The last of {} operations that can be ordered:", longest.len());
        for k in &longest[longest.len().saturating_sub(SHOWN)..] {
            let _ = writeln!(text, "  {}", self.operations[*k]);
        }
        let Register { value, modified } = register;
        let _ = match modified {
            0 => writeln!(text, "There is no record then."),
            UNSEEN => writeln!(text, "The record is of a write of unknown outcome then."),
            _ => writeln!(text, "The record is {value} then, modified at {modified}."),
        };
        let _ = writeln!(text, "One of these has to come next, and none leads on:");
        let open = open.collect::<Vec<_>>().into_iter().rev().take(SHOWN);
        for k in closed.take(SHOWN).chain(open) {
            let _ = writeln!(text, "  {}", self.operations[k]);
        }
        let is_needed = |k: &usize| modified != 0 && needed(&self.operations[*k]) == Some(modified);
        let needs: Vec<usize> = left(0..self.closed).filter(is_needed).take(SHOWN).collect();
        if !needs.is_empty() {
            let _ = writeln!(text, "No write before these, which need what is there:");
        }
        for k in needs {
            let _ = writeln!(text, "  {}", self.operations[k]);
        }
        Violation(text)
    }
}

fn bit(words: &[u64], at: usize) -> bool {
    words[at / 64] & (1 << (at % 64)) != 0
}

fn flip(words: &mut [u64], at: usize) {
    words[at / 64] ^= 1 << (at % 64);
}
