//! What happened in a run: a hash over all of it, and the words where somebody
//! reads them.

use std::fmt::{self, Write};

/// FNV-1a: two runs that differ anywhere differ in it, which is all it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash(u64);

impl Write for Hash {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// Lines that are kept where they are asked for: the last ones of a run say why
/// it failed.
const LINES_MAX: usize = 20_000;

/// The trace of a run.
#[derive(Debug, Clone)]
pub struct Trace {
    hash: Hash,
    is_kept: bool,
    lines: Vec<String>,
}

impl Trace {
    /// An empty one, which keeps its lines or hashes them only.
    pub fn new(is_kept: bool) -> Self {
        Self { hash: Hash(0xcbf2_9ce4_8422_2325), is_kept, lines: Vec::new() }
    }

    /// Notes something that happened at `now_ms`.
    pub fn note(&mut self, now_ms: u64, what: fmt::Arguments<'_>) {
        writeln!(self.hash, "{now_ms} {what}").expect("a hash takes everything");
        if self.is_kept {
            if self.lines.len() == LINES_MAX {
                self.lines.drain(..LINES_MAX / 2);
            }
            self.lines.push(format!("{:>9.3} {what}", now_ms as f64 / 1_000.0));
        }
    }

    /// Notes numbers: what happens too often to be put into words.
    pub fn count(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.hash.0 = (self.hash.0 ^ number).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The hash over everything up to now.
    pub fn hash(&self) -> u64 {
        self.hash.0
    }

    /// The latest lines; none unless they are kept.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}
