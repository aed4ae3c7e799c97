//! Reads one log file from its last lines on, across its rotations.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::tail::start_of_last;
use crate::shim::{LINE_BYTES_MAX, rotated_path};

/// Rotated files looked for. More than are ever kept by default; a gap ends
/// the search.
const ROTATED_MAX: u32 = 16;

/// Attempts to find the next file while files are being rotated.
const ATTEMPTS_MAX: usize = 5;

/// Takes a line, and tells whether more are wanted.
pub(super) type Emit<'a> = dyn FnMut(&[u8]) -> bool + 'a;

/// Where a reader is in a log.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    /// The file being read, and its inode: its name changes with rotations.
    file: Option<(File, u64)>,
    /// The beginning of a line whose end was not written yet.
    partial: Vec<u8>,
}

impl Follower {
    /// A reader of the log at `path`, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path, file: None, partial: Vec::new() }
    }

    /// Emits the last `lines` lines; false when no more are wanted.
    ///
    /// A file that cannot be read is left out: logs are best effort.
    pub fn tail(&mut self, lines: usize, emit: &mut Emit<'_>) -> bool {
        // From the youngest file back, until there are enough lines.
        let mut missing = lines;
        let mut parts = Vec::new();
        for age in 0..=ROTATED_MAX {
            let Ok(mut file) = File::open(rotated_path(&self.path, age)) else {
                break;
            };
            let Ok(meta) = file.metadata() else { break };
            let start = match missing {
                0 => Ok((meta.len(), 0)),
                missing => start_of_last(&file, meta.len(), missing),
            };
            let Ok((start, found)) = start else { break };
            if file.seek(SeekFrom::Start(start)).is_err() {
                break;
            }
            parts.push((file, meta.ino()));
            missing = missing.saturating_sub(found);
            if missing == 0 {
                break;
            }
        }
        while let Some(part) = parts.pop() {
            self.file = Some(part);
            if !self.drain(emit) {
                return false;
            }
        }
        self.more(emit)
    }

    /// Emits what was written since; false when no more are wanted.
    pub fn more(&mut self, emit: &mut Emit<'_>) -> bool {
        // Each turn moves to a younger file, of which there are only so many.
        for _ in 0..=ROTATED_MAX {
            // Before the file is read to its end: what is written between the
            // two would be missed otherwise, if it was rotated meanwhile.
            let next = self.next_file();
            if !self.drain(emit) {
                return false;
            }
            match next {
                Some(next) => self.file = Some(next),
                None => break,
            }
        }
        true
    }

    /// The file after the one being read, if that is not the youngest.
    fn next_file(&self) -> Option<(File, u64)> {
        let open = |age| {
            let file = File::open(rotated_path(&self.path, age)).ok()?;
            let inode = file.metadata().ok()?.ino();
            Some((file, inode))
        };
        let oldest = || (0..=ROTATED_MAX).rev().find_map(open);
        // There was no log when this began: all of it is new.
        let Some((_, reading)) = &self.file else {
            return oldest();
        };
        let is_reading = |age: &u32| {
            let meta = fs::metadata(rotated_path(&self.path, *age));
            meta.is_ok_and(|meta| meta.ino() == *reading)
        };
        for _ in 0..ATTEMPTS_MAX {
            let age = match (0..=ROTATED_MAX).find(is_reading) {
                Some(0) => return None,
                Some(age) => age,
                // It was removed: lines are lost, and the oldest left comes next.
                None => return oldest(),
            };
            let next = open(age - 1);
            if is_reading(&age) {
                return next;
            }
            // They were rotated in between, so that was another file.
        }
        None
    }

    /// Emits the rest of the file being read.
    fn drain(&mut self, emit: &mut Emit<'_>) -> bool {
        let Some((file, _)) = &mut self.file else {
            return true;
        };
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = match file.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if read == 0 {
                return true;
            }
            for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                let ends = self.partial.ends_with(b"\n");
                // Lines are written with this bound; a foreign file may break it.
                if ends || self.partial.len() > LINE_BYTES_MAX {
                    let line = self.partial.strip_suffix(b"\n").unwrap_or(&self.partial);
                    if !emit(line) {
                        return false;
                    }
                    self.partial.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::shim::{LogFile, LogLimits};

    fn log(dir: &Path) -> (LogFile, Follower) {
        let path = dir.join("out.log");
        let limits = LogLimits { file_bytes_max: 40, rotated_max: 3 };
        (LogFile::new(path.clone(), limits), Follower::new(path))
    }

    fn numbers(log: &mut LogFile, range: std::ops::Range<u32>) {
        range.for_each(|n| log.write(format!("line {n}\n").as_bytes()));
    }

    fn collect(read: impl FnOnce(&mut Emit<'_>) -> bool) -> Vec<String> {
        let mut lines = Vec::new();
        assert!(read(&mut |line| {
            lines.push(String::from_utf8_lossy(line).into_owned());
            true
        }));
        lines
    }

    fn lines(range: std::ops::Range<u32>) -> Vec<String> {
        range.map(|n| format!("line {n}")).collect()
    }

    #[test]
    fn the_last_lines_reach_back_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, _) = log(dir.path());
        numbers(&mut log, 0..12);
        for (tail, expected) in
            [(0, lines(12..12)), (1, lines(11..12)), (9, lines(3..12)), (99, lines(0..12))]
        {
            let mut follower = Follower::new(dir.path().join("out.log"));
            assert_eq!(collect(|emit| follower.tail(tail, emit)), expected, "{tail}");
        }
    }

    #[test]
    fn following_misses_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut follower) = log(dir.path());
        assert!(collect(|emit| follower.tail(5, emit)).is_empty(), "not there yet");
        let mut seen = Vec::new();
        for step in 0..20 {
            // From none to two rotations between two looks.
            numbers(&mut log, step * 7..(step + 1) * 7);
            seen.extend(collect(|emit| follower.more(emit)));
        }
        assert_eq!(seen, lines(0..140));
    }

    #[test]
    fn half_a_line_waits_for_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut follower) = log(dir.path());
        log.write(b"he");
        assert!(collect(|emit| follower.tail(5, emit)).is_empty());
        log.write(b"llo\n");
        assert_eq!(collect(|emit| follower.more(emit)), ["hello"]);
    }

    #[test]
    fn a_reader_that_has_enough_stops_the_reading() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut follower) = log(dir.path());
        numbers(&mut log, 0..3);
        assert!(!follower.tail(3, &mut |_| false));
    }
}
