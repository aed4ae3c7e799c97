//! Whether what clients saw of a store could have come about one operation at a
//! time: each key is a register that is put, compared and set, deleted and read.
//!
//! Two checks that know nothing of each other. [`search`] looks for an order of
//! the operations on each key that fits both the answers and real time; what an
//! index is, it does not care, except that a write leaves it and a comparison
//! asks for it. [`order`] takes the store by its word: the log index of every
//! acknowledged write is its place among all writes of all keys, and everything
//! else must agree. [`watch`] holds the changes that a watcher was told against
//! the same operations.
//!
//! Every put has a value of its own, so that a value names its write.

pub mod order;
pub mod search;
#[cfg(test)]
mod tests;
pub mod watch;

use std::collections::BTreeMap;
use std::fmt;

/// A value; every put of a history has another one.
pub type Value = u64;
/// A log index; 0 is that of no record.
pub type Index = u64;

/// What a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    /// Put a value; only if the record was last modified at an index, if given.
    Put(Value, Option<Index>),
    /// Remove the record, likewise.
    Delete(Option<Index>),
    /// Read the record.
    Get,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The write was done, at this index.
    Written(Index),
    /// The write was refused, because the record was last modified at this index.
    Refused(Index),
    /// The read saw a record, or none.
    Seen {
        /// The value, and the index of its write.
        record: Option<(Value, Index)>,
        /// The state that was read holds exactly the writes up to here, if the
        /// answer says so.
        as_of: Option<Index>,
    },
    /// Provably without effect, or a read without an answer.
    NotDone,
    /// A write that may take effect at any time after its call, or never.
    Unknown,
}

/// One operation of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Who.
    pub client: u32,
    /// On which key.
    pub key: u32,
    /// When it was called, in nanoseconds on the clock of the history.
    pub called: u64,
    /// When it was answered or given up.
    pub returned: u64,
    /// What was asked.
    pub asked: Asked,
    /// How it ended.
    pub outcome: Outcome,
}

impl Operation {
    fn is_write(&self) -> bool {
        self.asked != Asked::Get
    }

    /// Whether it may have had an effect or shown something.
    fn counts(&self) -> bool {
        self.outcome != Outcome::NotDone && (self.is_write() || self.outcome != Outcome::Unknown)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        let (called, returned) = (ms(self.called), ms(self.returned));
        write!(to, "[{called:>11.3} – {returned:>11.3} ms] client {:>2} ", self.client)?;
        let only_if = |to: &mut fmt::Formatter<'_>, index: Option<Index>| match index {
            None => Ok(()),
            Some(0) => write!(to, " if there is none"),
            Some(index) => write!(to, " if modified at {index}"),
        };
        match self.asked {
            Asked::Put(value, index) => {
                write!(to, "puts {value}")?;
                only_if(to, index)?;
            }
            Asked::Delete(index) => {
                write!(to, "deletes")?;
                only_if(to, index)?;
            }
            Asked::Get => write!(to, "reads")?,
        }
        match self.outcome {
            Outcome::Written(index) => write!(to, ": done at {index}"),
            Outcome::Refused(0) => write!(to, ": refused, there is none"),
            Outcome::Refused(index) => write!(to, ": refused, modified at {index}"),
            Outcome::Seen { record, as_of } => {
                match record {
                    Some((value, modified)) => write!(to, ": {value}, modified at {modified}")?,
                    None => write!(to, ": none")?,
                }
                as_of.map_or(Ok(()), |index| write!(to, ", as of {index}"))
            }
            Outcome::NotDone => write!(to, ": not done"),
            Outcome::Unknown => write!(to, ": outcome unknown"),
        }
    }
}

/// What is wrong with a history, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

/// By value: the put that has it, as a position in `operations`.
///
/// # Errors
/// Two puts have the same, and nobody could tell which of them a read saw.
fn puts_by_value(operations: &[Operation]) -> Result<BTreeMap<Value, usize>, Violation> {
    let mut puts = BTreeMap::new();
    for (at, operation) in operations.iter().enumerate() {
        if let Asked::Put(value, _) = operation.asked
            && let Some(other) = puts.insert(value, at)
        {
            let other = operations[other];
            return violation(format!("two puts of one value:\n  {other}\n  {operation}"));
        }
    }
    Ok(puts)
}
