//! What happened in a run, as one number and, the end of it, as text: two runs
//! of a seed have the same.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Write;

/// Lines that are kept to be shown.
const KEPT: usize = 400;

#[derive(Default)]
pub(super) struct Trace {
    hash: u64,
    lines: u64,
    last: VecDeque<String>,
    /// All of it, for whoever looks for the place where two runs part.
    whole: Option<File>,
}

impl Trace {
    /// Of the run of a seed; written into a new file of this folder, if given.
    pub fn new(seed: u64, dir: Option<&str>) -> Self {
        let whole = dir.map(|dir| {
            let free = (0..).map(|run| format!("{dir}/sim-{seed}-{run}"));
            let mut made = free.map(File::create_new);
            made.find_map(Result::ok).expect("a file can be made there")
        });
        Trace { whole, ..Trace::default() }
    }

    fn write(&mut self, line: fmt::Arguments<'_>) {
        if let Some(whole) = &mut self.whole {
            writeln!(whole, "{line}").expect("the trace can be written");
        }
    }

    /// Notes an event.
    pub fn note(&mut self, now_ms: u64, event: fmt::Arguments<'_>) {
        let line = format!("{now_ms:>6} ms  {event}");
        self.mix(line.as_bytes());
        self.write(format_args!("{line}"));
        self.lines += 1;
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// Notes something that is too frequent to be shown.
    pub fn count(&mut self, what: [u64; 4]) {
        self.write(format_args!("{what:?}"));
        self.mix(what.map(u64::to_le_bytes).as_flattened());
    }

    fn mix(&mut self, bytes: &[u8]) {
        // FNV-1a.
        let start = if self.hash == 0 { 0xcbf2_9ce4_8422_2325 } else { self.hash };
        self.hash = bytes
            .iter()
            .fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The last events, for people.
    pub fn tail(&self) -> String {
        let skipped = self.lines - self.last.len() as u64;
        let first = format!("… after {skipped} others");
        std::iter::once(first).chain(self.last.iter().cloned()).collect::<Vec<_>>().join("\n")
    }
}
