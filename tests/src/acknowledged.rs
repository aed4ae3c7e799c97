//! What a store acknowledged, held against what it has after a fault.
//!
//! Values of a key only grow, and a key has one writer, which gives it up once it
//! does not know what became of a write: whatever is found later is either at
//! least what was acknowledged last, or it was lost. Pure; who writes and reads is
//! the caller's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Writes that take longer are counted as if they took this long.
const LATENCY_US_MAX: u64 = 60_000_000;

/// A log index.
pub type Index = u64;

/// What a writer knows of a write that it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with its log index.
    Done(Index),
    /// The store says that it was not carried out.
    NotDone,
    /// Nobody knows, or it may still be carried out.
    Open,
}

/// A write that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    slot: u32,
    /// The key.
    pub key: String,
    /// More than what was ever asked for of this key.
    pub value: u64,
}

/// What is known of a key.
#[derive(Debug, Clone, Default)]
struct Key {
    /// The last write that was acknowledged.
    done: Option<(u64, Index)>,
    attempted: u64,
    not_done: BTreeSet<u64>,
}

/// A record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its value.
    pub value: u64,
    /// The log index that wrote it.
    pub modified: Index,
}

/// All writes of a test.
#[derive(Debug)]
pub struct Ledger {
    prefix: String,
    keys: BTreeMap<String, Key>,
    /// How many keys each slot gave up.
    given_up: HashMap<u32, u32>,
    /// The write at each index that was acknowledged.
    by_index: HashMap<Index, (String, u64)>,
    found: Vec<String>,
    not_done: u64,
    open: u64,
    latency_us: Histogram<u64>,
}

impl Ledger {
    /// Of keys with this prefix.
    ///
    /// # Panics
    /// Never.
    pub fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            keys: BTreeMap::new(),
            given_up: HashMap::new(),
            by_index: HashMap::new(),
            found: Vec::new(),
            not_done: 0,
            open: 0,
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("three digits are allowed"),
        }
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The next write of a slot: a place for one key at a time, of one writer.
    pub fn next(&mut self, slot: u32) -> Write {
        let given_up = self.given_up.get(&slot).copied().unwrap_or_default();
        let name = format!("{}{slot}-{given_up}", self.prefix);
        let key = self.keys.entry(name.clone()).or_default();
        key.attempted += 1;
        Write { slot, value: key.attempted, key: name }
    }

    /// A write has ended after so long.
    ///
    /// # Panics
    /// When it was never begun.
    pub fn ended(&mut self, write: Write, outcome: Outcome, after: Duration) {
        let key = self.keys.get_mut(&write.key).expect("it was begun");
        match outcome {
            Outcome::Done(index) => {
                if let Some((_, before)) = key.done.filter(|(_, before)| *before >= index) {
                    let Write { key, value, .. } = &write;
                    self.found.push(format!(
                        "{key} = {value} was acknowledged at index {index}, the one before at {before}"
                    ));
                }
                key.done = Some((write.value, index));
                let this = (write.key, write.value);
                if let Some(other) = self.by_index.insert(index, this.clone()) {
                    let what = format!("{other:?} and {this:?} were acknowledged at index {index}");
                    self.found.push(what);
                }
                self.latency_us.saturating_record(after.as_micros() as u64);
            }
            Outcome::NotDone => {
                key.not_done.insert(write.value);
                self.not_done += 1;
            }
            Outcome::Open => {
                *self.given_up.entry(write.slot).or_default() += 1;
                self.open += 1;
            }
        }
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.by_index.len() as u64
    }

    /// Whether this index was acknowledged.
    pub fn has(&self, index: Index) -> bool {
        self.by_index.contains_key(&index)
    }

    /// How long acknowledged writes took at this quantile, since this was last
    /// forgotten.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(quantile))
    }

    /// Forgets how long writes took.
    pub fn forget_latency(&mut self) {
        self.latency_us.reset();
    }

    /// What the records with the prefix contradict: writes that are lost, that
    /// nobody asked for, or that were said to be not done. Empty is well.
    pub fn findings(&self, records: &BTreeMap<String, Record>) -> Vec<String> {
        let mut found = self.found.clone();
        for (name, key) in &self.keys {
            let record = records.get(name).copied();
            match (key.done, record) {
                (Some((value, index)), None) => {
                    found.push(format!("lost: {name} = {value} of index {index}; there is none"));
                }
                (Some((value, index)), Some(record)) if record.value < value => {
                    found.push(format!("lost: {name} = {value} of index {index}; it is {record}"));
                }
                (Some((value, index)), Some(record))
                    if record.value == value && record.modified != index =>
                {
                    found.push(format!("moved: {name} = {value} of index {index}; it is {record}"));
                }
                _ => {}
            }
            if let Some(record) = record {
                if record.value > key.attempted {
                    found.push(format!("nobody's: {name} is {record}"));
                }
                if key.not_done.contains(&record.value) {
                    found.push(format!("said to be not done: {name} is {record}"));
                }
            }
        }
        let unknown = records.iter().filter(|(name, _)| !self.keys.contains_key(*name));
        found.extend(unknown.map(|(name, record)| format!("nobody's: {name} is {record}")));
        found
    }
}

impl fmt::Display for Record {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{} of index {}", self.value, self.modified)
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{} writes acknowledged, {} not done, {} open, over {} keys",
            self.acknowledged(),
            self.not_done,
            self.open,
            self.keys.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger with these outcomes of one slot, one after the other.
    fn ledger(outcomes: &[Outcome]) -> Ledger {
        let mut ledger = Ledger::new("k/");
        for outcome in outcomes {
            let write = ledger.next(0);
            ledger.ended(write, *outcome, Duration::from_millis(1));
        }
        ledger
    }

    fn records(records: &[(&str, u64, Index)]) -> BTreeMap<String, Record> {
        let record = |(key, value, modified): &(&str, u64, Index)| {
            ((*key).to_owned(), Record { value: *value, modified: *modified })
        };
        records.iter().map(record).collect()
    }

    /// What is found in these records begins with these words.
    fn check(ledger: &Ledger, read: &[(&str, u64, Index)], expected: &[&str]) {
        let found = ledger.findings(&records(read));
        let kinds: Vec<&str> = found.iter().filter_map(|f| f.split(':').next()).collect();
        assert_eq!(kinds, expected, "{found:#?}");
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_or_older_is_found() {
        let ledger = ledger(&[Outcome::Done(5), Outcome::Done(7)]);
        check(&ledger, &[("k/0-0", 2, 7)], &[]);
        check(&ledger, &[("k/0-0", 1, 5)], &["lost"]);
        check(&ledger, &[], &["lost"]);
        check(&ledger, &[("k/0-0", 2, 6)], &["moved"]);
    }

    #[test]
    fn an_open_write_may_be_there_or_not_and_its_key_is_given_up() {
        let ledger = ledger(&[Outcome::Done(5), Outcome::Open, Outcome::Done(9)]);
        check(&ledger, &[("k/0-0", 1, 5), ("k/0-1", 1, 9)], &[]);
        check(&ledger, &[("k/0-0", 2, 8), ("k/0-1", 1, 9)], &[]);
        check(&ledger, &[("k/0-1", 1, 9)], &["lost"]);
        assert_eq!(ledger.acknowledged(), 2);
    }

    #[test]
    fn a_write_that_was_said_to_be_not_done_must_not_be_there() {
        let ledger = ledger(&[Outcome::Done(5), Outcome::NotDone]);
        check(&ledger, &[("k/0-0", 1, 5)], &[]);
        check(&ledger, &[("k/0-0", 2, 6)], &["said to be not done"]);
    }

    #[test]
    fn what_nobody_wrote_is_found() {
        let ledger = ledger(&[Outcome::Done(5)]);
        check(&ledger, &[("k/0-0", 9, 6)], &["nobody's"]);
        check(&ledger, &[("k/0-0", 1, 5), ("k/1-0", 1, 6)], &["nobody's"]);
    }

    #[test]
    fn an_index_is_given_to_one_write_only_and_grows() {
        let mut two = ledger(&[Outcome::Done(5)]);
        let other = two.next(1);
        two.ended(other, Outcome::Done(5), Duration::ZERO);
        assert!(two.findings(&records(&[("k/0-0", 1, 5), ("k/1-0", 1, 5)])).len() == 1);
        let back = ledger(&[Outcome::Done(5), Outcome::Done(4)]);
        assert!(back.findings(&records(&[("k/0-0", 2, 4)]))[0].contains("the one before at 5"));
    }
}
