//! A log file that rotates, and the bound on the length of its lines.
//!
//! Whatever happens to the disk, writing here neither fails nor waits for it
//! to become better: what cannot be written is dropped, and the slice goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Longest line kept whole, in bytes; a longer one is broken. Readers of logs
/// need not hold more than this per line.
pub const LINE_BYTES_MAX: usize = 16 * 1024;

/// Longest part of the last line that is kept for a reason's text, in bytes.
const LAST_LINE_BYTES_MAX: usize = 400;

/// How much log is kept of one stream of one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// A file that would grow beyond this many bytes is rotated.
    pub file_bytes_max: u64,
    /// How many rotated files are kept beside the one being written.
    pub rotated_max: u32,
}

impl Default for LogLimits {
    /// 8 MiB and 3: at most 64 MiB per instance.
    fn default() -> Self {
        Self { file_bytes_max: 8 << 20, rotated_max: 3 }
    }
}

/// The `age`-th rotated file of `path`, 1 being the youngest; 0 is the file
/// itself.
pub(crate) fn rotated_path(path: &Path, age: u32) -> PathBuf {
    if age == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{age}"));
    PathBuf::from(name)
}

/// One stream's log.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    limits: LogLimits,
    file: Option<File>,
    size: u64,
    /// Bytes of the line that is being written.
    line_bytes: usize,
    last_line: Vec<u8>,
}

impl LogFile {
    /// Goes on where the file at `path` ends.
    pub fn new(path: PathBuf, limits: LogLimits) -> Self {
        Self { path, limits, file: None, size: 0, line_bytes: 0, last_line: Vec::new() }
    }

    /// Writes what a slice wrote, breaking lines that are too long.
    pub fn write(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let mut rest = piece;
            while self.line_bytes + rest.len() > LINE_BYTES_MAX {
                let (now, later) = rest.split_at(LINE_BYTES_MAX - self.line_bytes);
                if later == b"\n" {
                    break; // Exactly full: its own end follows.
                }
                self.put(now);
                self.put(b"\n");
                rest = later;
            }
            self.put(rest);
        }
    }

    /// The last line that was not empty, shortened, for people.
    pub fn last_line(&self) -> String {
        String::from_utf8_lossy(&self.last_line).trim().to_owned()
    }

    /// Writes a piece that holds at most one line end, at its end.
    fn put(&mut self, piece: &[u8]) {
        if self.line_bytes == 0 {
            if piece.iter().any(|byte| !byte.is_ascii_whitespace()) {
                self.last_line.clear();
            }
            if self.size > 0 && self.size + piece.len() as u64 > self.limits.file_bytes_max {
                self.rotate();
            }
        }
        let ends = piece.ends_with(b"\n");
        let text = if ends { &piece[..piece.len() - 1] } else { piece };
        let room = LAST_LINE_BYTES_MAX.saturating_sub(self.last_line.len()).min(text.len());
        self.last_line.extend_from_slice(&text[..room]);
        self.line_bytes = if ends { 0 } else { self.line_bytes + piece.len() };
        if self.append(piece).is_err() {
            self.file = None; // Dropped; the next piece tries again.
        }
    }

    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                let file =
                    OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
                self.size = file.metadata()?.len();
                self.file.insert(file)
            }
        };
        file.write_all(piece)?;
        self.size += piece.len() as u64;
        Ok(())
    }

    /// Moves every file one further. What cannot be moved is overwritten later.
    fn rotate(&mut self) {
        self.file = None;
        for age in (0..self.limits.rotated_max).rev() {
            let _ = fs::rename(rotated_path(&self.path, age), rotated_path(&self.path, age + 1));
        }
        if self.limits.rotated_max == 0 {
            let _ = fs::remove_file(&self.path);
        }
        self.size = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(dir: &Path, file_bytes_max: u64) -> LogFile {
        LogFile::new(dir.join("out.log"), LogLimits { file_bytes_max, rotated_max: 2 })
    }

    #[test]
    fn files_rotate_between_lines_and_only_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 10);
        for n in 0..6 {
            log.write(format!("line {n}\n").as_bytes());
        }
        let read = |age| fs::read_to_string(rotated_path(&dir.path().join("out.log"), age));
        assert_eq!(read(0).unwrap(), "line 5\n");
        assert_eq!(read(2).unwrap(), "line 3\n");
        assert!(read(3).is_err());
    }

    #[test]
    fn lines_that_are_too_long_are_broken_wherever_the_reads_end() {
        let dir = tempfile::tempdir().unwrap();
        for chunk in [1_000, LINE_BYTES_MAX, 50_000] {
            let path = dir.path().join(format!("{chunk}.log"));
            let mut log = LogFile::new(path.clone(), LogLimits::default());
            let mut text = vec![b'x'; 2 * LINE_BYTES_MAX + 5];
            text.extend(b"\nshort\n");
            text.chunks(chunk).for_each(|chunk| log.write(chunk));
            let written = fs::read_to_string(path).unwrap();
            let lengths: Vec<_> = written.lines().map(str::len).collect();
            assert_eq!(lengths, [LINE_BYTES_MAX, LINE_BYTES_MAX, 5, 5], "{chunk}");
            assert_eq!(log.last_line(), "short");
        }
        let path = dir.path().join("exact.log");
        let mut log = LogFile::new(path.clone(), LogLimits::default());
        log.write(&[vec![b'x'; LINE_BYTES_MAX], b"\n".to_vec()].concat());
        assert_eq!(fs::read_to_string(path).unwrap().lines().count(), 1);
    }

    #[test]
    fn a_disk_that_refuses_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogFile::new(dir.path().join("gone/out.log"), LogLimits::default());
        log.write(b"lost\n");
        fs::create_dir(dir.path().join("gone")).unwrap();
        log.write(b"kept\n");
        assert_eq!(fs::read_to_string(dir.path().join("gone/out.log")).unwrap(), "kept\n");
        assert_eq!(log.last_line(), "kept");
    }

    #[test]
    fn the_last_line_skips_empty_ones_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = log(dir.path(), 1 << 20);
        log.write(b"first\nerror: no database\n\n  \n");
        assert_eq!(log.last_line(), "error: no database");
        log.write(&[b'y'; 10_000]);
        assert_eq!(log.last_line().len(), LAST_LINE_BYTES_MAX);
    }
}
