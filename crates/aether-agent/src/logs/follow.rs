//! Reads one log file from its last lines on, across its rotations.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use aether_proto::v1::LogPosition;

use super::tail::start_of_last;
use crate::shim::{LINE_BYTES_MAX, rotated_path};

/// Rotated files looked for. More than are ever kept by default; a gap ends
/// the search.
const ROTATED_MAX: u32 = 16;

/// Attempts to find the next file while files are being rotated.
const ATTEMPTS_MAX: usize = 5;

/// Takes a line and where it ends, and tells whether more are wanted.
pub(super) type Emit<'a> = dyn FnMut(&[u8], LogPosition) -> bool + 'a;

/// A file being read. Its name changes with rotations, its inode does not.
#[derive(Debug)]
struct Reading {
    file: File,
    inode: u64,
    /// When it was made, in nanoseconds since 1970: a file made later may have
    /// the inode of one that was removed. 0 where the file system doesn't tell.
    made_ns: u64,
    /// How many of its bytes were read.
    offset: u64,
}

impl Reading {
    fn new(mut file: File, offset: u64) -> io::Result<Self> {
        let meta = file.metadata()?;
        let made = meta.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok());
        let made_ns = made.and_then(|made| u64::try_from(made.as_nanos()).ok()).unwrap_or(0);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self { file, inode: meta.ino(), made_ns, offset })
    }

    fn position(&self) -> LogPosition {
        LogPosition { inode: self.inode, made_ns: self.made_ns, offset: self.offset }
    }
}

/// Where a reader is in a log.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    reading: Option<Reading>,
    /// The beginning of a line whose end was not written yet.
    partial: Vec<u8>,
    /// The end of the last line that was emitted.
    position: LogPosition,
}

impl Follower {
    /// A reader of the log at `path`, which need not exist yet. Unless
    /// [`tail`](Self::tail) or [`resume`](Self::resume) come first, it reads
    /// everything.
    pub fn new(path: PathBuf) -> Self {
        Self { path, reading: None, partial: Vec::new(), position: LogPosition::default() }
    }

    /// The log is at another path now. It is the same one.
    pub fn moved_to(&mut self, path: PathBuf) {
        self.path = path;
    }

    /// Whether there was a file to read.
    pub fn has_begun(&self) -> bool {
        self.reading.is_some()
    }

    /// Where another reader would go on after the last line that was emitted.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Goes on at a position that another reader gave. Where that file is gone,
    /// so are the lines in between; whatever is left is new.
    pub fn resume(&mut self, position: LogPosition) {
        // Upwards: a file that is rotated meanwhile is found later.
        for age in 0..=ROTATED_MAX {
            let Ok(file) = File::open(rotated_path(&self.path, age)) else {
                continue;
            };
            let length = file.metadata().map_or(0, |meta| meta.len());
            let Ok(reading) = Reading::new(file, position.offset) else { continue };
            if reading.position() == position && position.offset <= length {
                self.reading = Some(reading);
                self.position = position;
                return;
            }
        }
    }

    /// Emits the last `lines` lines; false when no more are wanted.
    ///
    /// A file that cannot be read is left out: logs are best effort.
    pub fn tail(&mut self, lines: usize, emit: &mut Emit<'_>) -> bool {
        // From the youngest file back, until there are enough lines.
        let mut missing = lines;
        let mut parts = Vec::new();
        for age in 0..=ROTATED_MAX {
            let Ok(file) = File::open(rotated_path(&self.path, age)) else {
                break;
            };
            let Ok(meta) = file.metadata() else { break };
            let start = match missing {
                0 => Ok((meta.len(), 0)),
                missing => start_of_last(&file, meta.len(), missing),
            };
            let Ok((start, found)) = start else { break };
            let Ok(reading) = Reading::new(file, start) else { break };
            parts.push(reading);
            missing = missing.saturating_sub(found);
            if missing == 0 {
                break;
            }
        }
        self.position = parts.last().map(Reading::position).unwrap_or_default();
        while let Some(part) = parts.pop() {
            self.reading = Some(part);
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
                Some(next) => self.reading = Some(next),
                None => break,
            }
        }
        true
    }

    /// Emits the line whose end will never be written; false when no more are
    /// wanted.
    pub fn finish(&mut self, emit: &mut Emit<'_>) -> bool {
        self.partial.is_empty() || self.emit_partial(emit)
    }

    /// The file after the one being read, if that is not the youngest.
    fn next_file(&self) -> Option<Reading> {
        let open = |age| Reading::new(File::open(rotated_path(&self.path, age)).ok()?, 0).ok();
        let oldest = || (0..=ROTATED_MAX).rev().find_map(open);
        // There was no log when this began: all of it is new.
        let Some(reading) = &self.reading else {
            return oldest();
        };
        let is_reading = |age: &u32| {
            let meta = fs::metadata(rotated_path(&self.path, *age));
            meta.is_ok_and(|meta| meta.ino() == reading.inode)
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
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Some(reading) = &mut self.reading else {
                return true;
            };
            let read = match reading.file.read(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => 0,
            };
            if read == 0 {
                return true;
            }
            for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
                self.partial.extend_from_slice(piece);
                if let Some(reading) = &mut self.reading {
                    reading.offset += piece.len() as u64;
                }
                let ends = self.partial.ends_with(b"\n");
                // Lines are written with this bound; a foreign file may break it.
                if (ends || self.partial.len() > LINE_BYTES_MAX) && !self.emit_partial(emit) {
                    return false;
                }
            }
        }
    }

    fn emit_partial(&mut self, emit: &mut Emit<'_>) -> bool {
        if let Some(reading) = &self.reading {
            self.position = reading.position();
        }
        let line = self.partial.strip_suffix(b"\n").unwrap_or(&self.partial);
        let goes_on = emit(line, self.position);
        self.partial.clear();
        goes_on
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
        assert!(read(&mut |line, _| {
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
        assert!(!follower.tail(3, &mut |_, _| false));
    }

    #[test]
    fn another_reader_goes_on_after_any_line_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut first) = log(dir.path());
        numbers(&mut log, 0..3);
        let mut positions = Vec::new();
        assert!(first.tail(0, &mut |_, _| true));
        positions.push((3, first.position()));
        let mut emit = |line: &[u8], position| {
            let number: u32 = String::from_utf8_lossy(line)[5..].parse().unwrap();
            positions.push((number + 1, position));
            true
        };
        for step in 1..4 {
            numbers(&mut log, step * 3..(step + 1) * 3);
            assert!(first.more(&mut emit));
        }
        log.write(b"line ");
        assert!(first.more(&mut emit), "half a line moves nothing");
        assert_eq!(first.position(), positions.last().unwrap().1);
        log.write(b"12\n");
        for (next, position) in positions {
            let mut second = Follower::new(dir.path().join("out.log"));
            second.resume(position);
            assert_eq!(collect(|emit| second.more(emit)), lines(next..13));
        }
    }

    #[test]
    fn where_the_file_of_a_position_is_gone_all_that_is_left_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut first) = log(dir.path());
        assert!(first.tail(9, &mut |_, _| true), "not there yet");
        let nothing = first.position();
        numbers(&mut log, 0..1);
        assert!(first.more(&mut |_, _| true));
        let early = first.position();
        numbers(&mut log, 1..100);
        let mut all = Follower::new(dir.path().join("out.log"));
        let left = collect(|emit| all.more(emit));
        assert!((5..99).contains(&left.len()), "{left:?}");
        // Another file may have the inode of the one that was removed.
        let reused = LogPosition { made_ns: early.made_ns + 1, ..all.position() };
        for position in [nothing, early, reused] {
            let mut second = Follower::new(dir.path().join("out.log"));
            second.resume(position);
            assert_eq!(collect(|emit| second.more(emit)), left, "{position:?}");
        }
    }

    #[test]
    fn a_log_that_is_put_away_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut log, mut follower) = log(dir.path());
        numbers(&mut log, 0..3);
        assert_eq!(collect(|emit| follower.tail(9, emit)), lines(0..3));
        numbers(&mut log, 3..12); // Rotated, and then moved.
        log.write(b"the end");
        let away = dir.path().join("away");
        fs::create_dir(&away).unwrap();
        for age in 0..4 {
            let path = rotated_path(&dir.path().join("out.log"), age);
            let _ = fs::rename(&path, away.join(path.file_name().unwrap()));
        }
        follower.moved_to(away.join("out.log"));
        assert_eq!(collect(|emit| follower.more(emit)), lines(3..12));
        assert_eq!(collect(|emit| follower.finish(emit)), ["the end"]);
        assert!(collect(|emit| follower.finish(emit)).is_empty());
    }
}
