//! Bytes that are almost right: valid ones with a few changes, of the kinds that
//! disks, networks and attackers make.

use std::fmt;
use std::ops::{Deref, Range};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Longest piece that is inserted, removed, repeated or moved.
const PIECE_BYTES_MAX: usize = 64;

/// Numbers at the edges of what a field can hold: lengths, indexes, terms.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Bytes that a failure shows as text where they are text.
#[derive(Clone, PartialEq, Eq)]
pub struct Shown(pub Vec<u8>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

impl Deref for Shown {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// One change of some bytes.
#[derive(Debug, Clone)]
pub enum Mutation {
    /// One bit is another.
    Flip(Index, u8),
    /// One byte is another.
    Set(Index, u8),
    /// Bytes that were not there.
    Insert(Index, Vec<u8>),
    /// Bytes are missing.
    Remove(Index, usize),
    /// Bytes stand there twice.
    Repeat(Index, usize),
    /// Bytes stand in place of others.
    Copy(Index, Index, usize),
    /// Zeros, as a file system leaves them.
    Zero(Index, usize),
    /// The end is missing.
    Cut(Index),
    /// A number of 1, 2, 4 or 8 bytes, big-endian or little-endian.
    Number(Index, u8, u64, bool),
}

impl Mutation {
    /// Makes the change. Nothing to change in no bytes, but to insert some.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            if let Self::Insert(_, piece) = self {
                bytes.extend(piece);
            }
            return;
        }
        let at = |index: &Index| index.index(bytes.len());
        let piece = |index: &Index, length: usize| -> Range<usize> {
            let start = at(index);
            start..bytes.len().min(start + length)
        };
        match self {
            Self::Flip(index, bit) => {
                let at = at(index);
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Set(index, byte) => {
                let at = at(index);
                bytes[at] = *byte;
            }
            Self::Insert(index, piece) => {
                // At the end too.
                let at = index.index(bytes.len() + 1);
                bytes.splice(at..at, piece.iter().copied());
            }
            Self::Remove(index, length) => drop(bytes.drain(piece(index, *length))),
            Self::Repeat(index, length) => {
                let range = piece(index, *length);
                let (end, again) = (range.end, bytes[range].to_vec());
                bytes.splice(end..end, again);
            }
            Self::Copy(from, to, length) => {
                let source = piece(from, *length);
                let target = piece(to, source.len());
                let copied = bytes[source][..target.len()].to_vec();
                bytes[target].copy_from_slice(&copied);
            }
            Self::Zero(index, length) => {
                let range = piece(index, *length);
                bytes[range].fill(0);
            }
            Self::Cut(index) => {
                let at = at(index);
                bytes.truncate(at);
            }
            Self::Number(index, width, number, little) => {
                let width = 1usize << (width % 4);
                let mut number = number.to_be_bytes()[8 - width..].to_vec();
                if *little {
                    number.reverse();
                }
                let target = piece(index, width);
                let length = target.len();
                bytes[target].copy_from_slice(&number[..length]);
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let length = || 1..=PIECE_BYTES_MAX;
    prop_oneof![
        4 => (at(), 0u8..8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        3 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        2 => (at(), vec(any::<u8>(), length())).prop_map(|(at, piece)| Mutation::Insert(at, piece)),
        2 => (at(), length()).prop_map(|(at, length)| Mutation::Remove(at, length)),
        2 => (at(), length()).prop_map(|(at, length)| Mutation::Repeat(at, length)),
        2 => (at(), at(), length()).prop_map(|(from, to, n)| Mutation::Copy(from, to, n)),
        1 => (at(), length()).prop_map(|(at, length)| Mutation::Zero(at, length)),
        1 => at().prop_map(Mutation::Cut),
        3 => (at(), any::<u8>(), select(&EDGES[..]), any::<bool>())
            .prop_map(|(at, width, number, little)| Mutation::Number(at, width, number, little)),
    ]
}

/// Up to `most` changes, at least one.
pub fn mutations(most: usize) -> impl Strategy<Value = Vec<Mutation>> {
    vec(mutation(), 1..=most)
}

/// One of some valid inputs with one to a few changes.
///
/// # Panics
/// Without any input.
pub fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Shown> {
    // Mostly one change: more of them hide each other's effect.
    let changes = prop_oneof![3 => mutations(1), 2 => mutations(4), 1 => mutations(16)];
    (select(valid), changes).prop_map(|(mut bytes, changes)| {
        changes.iter().for_each(|change| change.apply(&mut bytes));
        Shown(bytes)
    })
}

/// Any bytes, at most `most` of them.
pub fn bytes(most: usize) -> impl Strategy<Value = Shown> {
    vec(any::<u8>(), 0..=most).prop_map(Shown)
}
